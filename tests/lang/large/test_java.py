#!/usr/bin/env python3
"""The story in Java: Xerial's JDBC driver, as Debian has it (with the system's SQLite)."""

import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pool  # noqa: E402
import story  # noqa: E402
import support  # noqa: E402

DRIVER = "/usr/share/java/xerial-sqlite-jdbc.jar"


class JavaXerial(pool.Pool, story.Story):
    client = "Java Xerial sqlite-jdbc"
    source = "large/java/Story.java"
    loading = "SELECT load_extension('./r2vfs')"
    mind = ("`SQLiteConfig.enableLoadExtension(true)` for the connection that loads. With "
            "`setAutoCommit(false)` even a SELECT begins a transaction: `setAutoCommit(true)` around "
            "`sync()`. A `ResultSet` not read to its end: `close()` it before. `System.exit` closes nothing")
    minds = 2

    @classmethod
    def build(cls, folder):
        java = support.need("java", shutil.which("java"))
        compiler = support.need("javac", shutil.which("javac"))
        support.need("libxerial-sqlite-jdbc-java", os.path.exists(DRIVER))
        # Sources are UTF-8 everywhere; the story's texts reach the program as UTF-8 too.
        cls.compile(compiler, "-encoding", "UTF-8", "-cp", DRIVER, "-d", folder,
                    *(cls.path_of(f"large/java/{name}.java") for name in ("Story", "Pool")))
        cls.env = {"LC_ALL": "C.UTF-8"}
        return [java, "-XX:-UsePerfData", "-cp", f"{DRIVER}:{folder}", "Story"]

    def pool_command(self):
        return self._argv


if __name__ == "__main__":
    story.main()
