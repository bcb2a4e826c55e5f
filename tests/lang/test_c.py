#!/usr/bin/env python3
"""The story in C: the extension loaded at run time, and libr2vfs.a linked in."""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import story  # noqa: E402
import support  # noqa: E402

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror",
         "-O2"]


def build(cls, folder, *libraries):
    program = os.path.join(folder, "story")
    cls.compile(support.need("cc", shutil.which("cc")), *FLAGS, "-o", program,
                cls.path_of("c/story.c"), cls.path_of(cls.source), *libraries)
    return [program]


def packages(*names):
    return subprocess.run(["pkg-config", "--libs", *names], stdout=subprocess.PIPE, text=True,
                          check=True).stdout.split()


class Load(story.Story):
    client = "C, extension loaded"
    source = "c/load.c"
    mind = ("reset or finalize statements before `sync()`. `sqlite3_extended_errcode()` has 517 for a "
            "conflict. A process that ends without `sqlite3_close()` pushes nothing; the next open does")
    minds = 1
    loading = 'sqlite3_load_extension(db, "./r2vfs", NULL, NULL)'

    @classmethod
    def build(cls, folder):
        return build(cls, folder, "-lsqlite3")


class Link(story.Story):
    client = "C, libr2vfs.a linked"
    source = "c/link.c"
    mind = ("call the entry point before the first open that is to go through r2vfs; "
            "`r2vfs_sync()` and its like give result code and sentence at once")
    minds = 1
    loading = "sqlite3_r2vfs_init(NULL, NULL, NULL)"

    @classmethod
    def build(cls, folder):
        return build(cls, folder, "-I" + os.path.join(support.ROOT, "vfs"),
                     os.path.join(support.BUILD, "libr2vfs.a"), "-lsqlite3", "-lpthread",
                     *packages("libcurl", "libcrypto", "liblz4"))


if __name__ == "__main__":
    story.main()
