#!/usr/bin/env python3
"""Connections to one file hear what the others did to their commits: a neighbour that settles a
conflict sets aside what they had committed, too, and their next sync() must not call it stored."""

# One layout: each test names its own.

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

CONFLICT = 517


class Neighbours(support.Case):
    layout = "log"

    def world(self):
        """Ours and a neighbour's connection to one file, each with a commit; another machine won."""
        ours = self.connect("a/app.db", sync="manual", layout=self.layout)
        ours.execute("CREATE TABLE t(x)")
        self.assertEqual(one(ours, "SELECT sync()"), 1)
        neighbour = self.peer("a/app.db", sync="manual")
        neighbour("SELECT x FROM t")
        self.other_pushes()
        ours.execute("INSERT INTO t VALUES('ours')")
        neighbour("INSERT INTO t VALUES('neighbour')")
        return ours, neighbour

    def other_pushes(self):
        db = self.connect("b/app.db", sync="manual")
        db.execute("INSERT INTO t VALUES('other')")
        one(db, "SELECT sync()")
        db.close()

    def settled_by(self, how):
        ours, neighbour = self.world()
        self.fails(ours.execute, "SELECT sync()", code=CONFLICT)
        one(ours, f"SELECT r2_resolve('{how}')")
        one(ours, "SELECT sync()")       # it knows what it did
        self.fails(neighbour, "SELECT sync()", code=CONFLICT, says=("fork", "not in the remote"))
        neighbour("SELECT sync()")       # once
        neighbour("INSERT INTO t VALUES('again')")
        self.assertEqual(neighbour.one("SELECT sync()"), 3)
        self.assertEqual(ours.execute("SELECT x FROM t ORDER BY x").fetchall(),
                         [("again",), ("other",)])
        fork, = self.bucket.list(self.key + "-forks/")
        self.assertIn(b"neighbour", self.bucket.get(fork).body)

    def test_fork(self):
        self.settled_by("fork")

    def test_remote(self):
        self.settled_by("remote")

    def test_local(self):
        """Then nothing was set aside."""
        ours, neighbour = self.world()
        self.fails(ours.execute, "SELECT sync()", code=CONFLICT)
        one(ours, "SELECT r2_resolve('local')")
        neighbour("SELECT sync()")
        self.assertEqual(neighbour("SELECT x FROM t ORDER BY x"), [["neighbour"], ["ours"]])

    def test_nothing_committed(self):
        """Who has committed nothing is told nothing."""
        ours, _ = self.world()
        reader = self.peer("a/app.db", sync="manual")
        reader("SELECT x FROM t")           # its open settles nothing beside other connections
        self.fails(ours.execute, "SELECT sync()", code=CONFLICT)
        one(ours, "SELECT r2_resolve('fork')")
        self.assertEqual(reader.one("SELECT sync()"), 2)

    def test_synced_before(self):
        """What was in the remote before the conflict is not missing."""
        ours = self.connect("a/app.db", sync="manual", layout=self.layout)
        ours.execute("CREATE TABLE t(x)")
        neighbour = self.peer("a/app.db", sync="manual")
        neighbour("INSERT INTO t VALUES('neighbour')")
        neighbour("SELECT sync()")
        self.other_pushes()
        ours.execute("INSERT INTO t VALUES('ours')")
        self.fails(ours.execute, "SELECT sync()", code=CONFLICT)
        one(ours, "SELECT r2_resolve('fork')")
        self.assertEqual(neighbour.one("SELECT sync()"), 2)

    def stranger(self, mode, ends):
        """A neighbour wrote, and took it back or was killed; plain SQLite commits; an open beside them,
        which has not compared that, must not take it for base."""
        db = self.connect("a/app.db", sync="manual", layout=self.layout)
        one(db, f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t(x)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()
        os.utime(self.path("a/app.db"))     # who comes first compares it, and finds no log to know again
        neighbour = self.peer("a/app.db", sync="manual")
        neighbour("PRAGMA cache_size=4")
        neighbour("BEGIN")
        neighbour("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 99) "
                  "INSERT INTO t SELECT randomblob(3000) FROM c")
        if ends == "rollback":
            neighbour("ROLLBACK")
        else:
            neighbour.kill()
            neighbour = self.peer("a/app.db", sync="manual")
        stock = support.plain(self.path("a/app.db"))
        stock.execute("INSERT INTO t VALUES('stranger')")
        stock.close()
        self.other_pushes()
        for n in range(2):      # what the first found out, the second must not forget
            db = self.connect("a/app.db", sync="manual", refresh=0)
            with self.subTest(n=n):
                self.assertEqual(db.execute("SELECT x FROM t").fetchall(), [("stranger",)])
                self.fails(one, db, "SELECT sync()", code=CONFLICT)
            db.close()
        one(self.connect("a/app.db", sync="manual"), "SELECT r2_resolve('fork')")
        fork, = self.bucket.list(self.key + "-forks/")
        self.assertIn(b"stranger", self.bucket.get(fork).body)

    def test_stranger_after_a_rollback(self):
        self.stranger("wal", "rollback")

    def test_stranger_after_a_rollback_delete(self):
        self.stranger("delete", "rollback")

    def test_stranger_after_a_kill(self):
        self.stranger("wal", "kill")

    def test_stranger_after_a_kill_delete(self):
        self.stranger("delete", "kill")


class NeighboursInObject(Neighbours):
    layout = "object"


if __name__ == "__main__":
    support.main()
