#!/usr/bin/env python3
"""A commit that is in the -wal, and not in its index: its writer was killed, or its last sync failed. For
those who have the file open it never happened, and they may push, and die. Whoever opens the file after
that makes the index anew, and finds the commit: it was acknowledged by nobody, but it is there, and what
is there is pushed, or a conflict; never the half of a version."""

import json
import os
import tempfile
import unittest

import crashkit
from crashkit import create, mark, rows, run_traced, step
import support
from support import one

NEIGHBOUR = """
db = connect(sys.argv[1], sys.argv[2], sync="manual")
rows = lambda: json.dumps([n for n, in db.execute("SELECT n FROM t ORDER BY n")])
print("ready", rows(), flush=True)
input()
db.execute("SELECT sync()").fetchone()
print("synced", rows(), flush=True)
input()
"""


IDLE = """
db = connect(sys.argv[1], sys.argv[2], sync="manual")
print("ready", flush=True)
input()
"""


class LogSurfaces(crashkit.CrashCase):
    points = None       # at which a commit surfaces: it is the same system call for all

    def setUp(self):
        super().setUp()
        if not crashkit.can_trace():
            self.skipTest("ptrace is not permitted here")

    def open(self, path, **params):
        return support.connect(path, self.remote, sync="manual", **params)

    def crash(self, at):
        """One dies at its at-th system call of a commit of row 7, a neighbour pushes and dies, too. Returns
        the path, what the neighbour saw at last, and how many system calls there were."""
        self.use("file")
        path = self.path(f"{self.count}/a/app.db")
        db = self.open(path, layout=self.layout)
        create(db, "wal")
        step(db, 1)
        one(db, "SELECT sync()")
        db.close()
        neighbour = self.spawn("import json\n" + NEIGHBOUR, path, self.remote)
        support.expect(neighbour, "ready")
        if self.idle:
            support.expect(self.spawn(IDLE, path, self.remote), "ready")

        def work():
            db = self.open(path)
            mark()
            step(db, 7)
        calls = run_traced(work, at).calls
        for name in (path, path + "-wal"):      # it was a while ago: their times tell
            os.utime(name, (1600000000, 1600000000))
        support.tell(neighbour)
        seen = set(json.loads(support.expect(neighbour, "synced")[len("synced"):]))
        self.assertEqual(self.head()[0], seen)
        support.kill(neighbour)
        return path, seen, calls

    def each(self, look):
        found = []
        for at in type(self).points or range(1, self.crash(None)[2] + 1):
            path, seen, _ = self.crash(at)
            self.surfaced = 0
            with self.subTest(layout=self.layout, at=at):
                look(path, seen)
            found += [at] if self.surfaced else []
        self.assertNotEqual(found, [], "this never happened")
        type(self).points = found

    def same(self, path, db):
        """What is here is what is in the remote, whole."""
        here = rows(db)
        self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
        db.close()
        self.assertEqual(self.head()[0], here)
        self.assertEqual(self.fresh()[0], here)
        copy = crashkit.copy_of(path, tempfile.mkdtemp(dir=self.folder))
        self.assertEqual(crashkit.plain_look(copy), self.head())

    def pushed(self, path, seen):
        """sync() speaks for all that is there."""
        db = self.open(path)
        here = rows(db)
        self.surfaced += here != seen
        one(db, "SELECT sync()")
        self.assertEqual(self.head()[0], here)
        step(db, 9)
        one(db, "SELECT sync()")
        self.same(path, db)

    def pushed_beside(self, path, seen):
        """The same where one has it open all the time, who has never read: the opener is not the first."""
        self.pushed(path, seen)

    def written_on(self, path, seen):
        """A later commit touches other pages."""
        db = self.open(path)
        self.surfaced += rows(db) != seen
        db.execute("CREATE TABLE IF NOT EXISTS other(x)")
        one(db, "SELECT sync()")
        self.same(path, db)

    def overtaken(self, path, seen):
        """The remote has moved on: nobody is stuck."""
        other = self.open(os.path.join(tempfile.mkdtemp(dir=self.folder), "app.db"))
        step(other, 8)
        one(other, "SELECT sync()")
        other.close()
        before = len(self.forks())
        db = self.open(path, refresh=0)
        self.surfaced += len(self.forks()) > before
        self.assertEqual(rows(db), seen | {8})
        step(db, 9)
        one(db, "SELECT sync()")
        self.same(path, db)

    def overtaken_later(self, path, seen):
        """The same while it is open."""
        db = self.open(path, refresh=0, conflict="error")
        here = rows(db)
        self.surfaced += here != seen
        other = self.open(os.path.join(tempfile.mkdtemp(dir=self.folder), "app.db"))
        step(other, 8)
        one(other, "SELECT sync()")
        other.close()
        if here != seen:
            self.fails(one, db, "SELECT sync()", code=517)
            one(db, "SELECT r2_resolve('fork')")
        self.assertEqual(rows(db), seen | {8})
        step(db, 9)
        one(db, "SELECT sync()")
        self.same(path, db)


def add(layout, what):
    def test(self):
        self.layout = layout
        self.idle = what == "pushed_beside"
        self.each(getattr(self, what))
    test.__doc__ = getattr(LogSurfaces, what).__doc__
    setattr(LogSurfaces, f"test_{what}_{layout}", test)


LAYOUTS = (support.LAYOUT,) if os.environ.get("R2VFS_TEST_LAYOUT") else ("log", "object")
for each_layout in LAYOUTS:
    for each_look in ("pushed", "pushed_beside", "written_on", "overtaken", "overtaken_later"):
        add(each_layout, each_look)


if __name__ == "__main__":
    unittest.main(verbosity=2)
