#!/usr/bin/env python3
"""A database that grows past 1 GiB, where SQLite's locks have a page of their own, and shrinks below it
again: pushed and pulled as segments, pulled by a machine that has nothing, written as a snapshot, read as
it was. A minute for each journal mode, and 5 GiB in TMPDIR: `make soak` runs it."""

import contextlib
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

MIB = 1 << 20
LOCK_PAGE = (1 << 30) // 4096 + 1


class LockPage(support.Case):
    remote_kind = "file"

    def open(self, name, **params):
        return self.connect(f"{name}/app.db", layout="log", sync="manual", **params)

    def same(self, *dbs):
        """They hold the same, and no page is damaged."""
        for db in dbs:
            self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
        seen = [[one(db, "PRAGMA page_count"), *db.execute("SELECT x, length(y), substr(y, 1, 20) FROM t")]
                for db in dbs]
        for other in seen[1:]:
            self.assertEqual(seen[0], other)
        return seen[0][0]

    def push(self, db, version):
        self.assertEqual(one(db, "SELECT sync()"), version)

    def there_and_back(self, mode):
        a = self.open("a")
        a.execute("PRAGMA page_size=4096")
        a.execute("PRAGMA auto_vacuum=2")
        a.execute(f"PRAGMA journal_mode={mode}")
        a.execute("PRAGMA synchronous=off")
        a.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        a.execute("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 1020) "
                  f"INSERT INTO t SELECT i, zeroblob({MIB}) FROM c")
        self.push(a, 1)
        b = self.open("b")
        self.assertLess(self.same(a, b), LOCK_PAGE)
        for x in range(1021, 1030):
            a.execute("INSERT INTO t VALUES(?, randomblob(?))", (x, MIB))
            self.push(a, x - 1019)
        self.assertEqual(one(b, "SELECT r2_pull()"), 10)
        with contextlib.closing(self.open("cold")) as cold:
            self.assertGreater(self.same(a, b, cold), LOCK_PAGE)
        self.assertEqual(one(a, "SELECT r2_checkpoint()"), 10)

        a.execute("DELETE FROM t WHERE x > 1010")
        a.executescript("PRAGMA incremental_vacuum")
        self.push(a, 11)
        self.assertEqual(one(b, "SELECT r2_pull()"), 11)
        self.assertLess(self.same(a, b), LOCK_PAGE)
        a.execute(f"INSERT INTO t SELECT x + 2000, zeroblob({MIB}) FROM t WHERE x < 30")
        self.push(a, 12)
        self.assertEqual(one(b, "SELECT r2_pull()"), 12)
        with contextlib.closing(self.open("colder")) as cold:
            self.assertGreater(self.same(a, b, cold), LOCK_PAGE)
        then = self.open("then", version=10)
        self.assertEqual(one(then, "SELECT count(*) FROM t"), 1029)
        self.assertEqual(one(then, "PRAGMA integrity_check"), "ok")

    def test_rollback(self):
        self.there_and_back("delete")

    def test_wal(self):
        self.there_and_back("wal")


if __name__ == "__main__":
    support.main()
