#!/usr/bin/env python3
"""The story in Python: sqlite3 and apsw."""

import importlib.util
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import story  # noqa: E402
import support  # noqa: E402


class PythonSqlite3(story.Story):
    client = "Python sqlite3"
    source = "python/story_sqlite3.py"
    loading = 'db.load_extension("./r2vfs")'
    mind = ("`commit()` before `sync()`: an INSERT begins a transaction by itself, unless "
            "`isolation_level=None`. A cursor not read to its end: `close()` it")
    minds = 2

    @classmethod
    def build(cls, folder):
        return [support.PYTHON, cls.path_of(cls.source)]


class PythonApsw(story.Story):
    client = "Python apsw"
    source = "python/story_apsw.py"
    loading = 'db.loadextension("./r2vfs")'
    mind = "a cursor not read to its end: `close()` it before `sync()`"
    minds = 1

    @classmethod
    def build(cls, folder):
        support.need("python3-apsw", importlib.util.find_spec("apsw"))
        return [support.PYTHON, cls.path_of(cls.source)]


if __name__ == "__main__":
    story.main()
