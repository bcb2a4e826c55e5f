#!/usr/bin/env python3
"""The story in the sqlite3 shell."""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import story  # noqa: E402
import support  # noqa: E402


class Shell(story.Story):
    client = "sqlite3 shell"
    source = "shell/story.sh"
    loading = ".load ./r2vfs"
    mind = ("a script goes on after an error, unless `-bail`: then its status is 1. Errors end in the code, "
            "`(5)` for a conflict")
    minds = 1

    @classmethod
    def build(cls, folder):
        support.need("sqlite3", shutil.which("sqlite3"))
        return ["sh", cls.path_of(cls.source)]


if __name__ == "__main__":
    story.main()
