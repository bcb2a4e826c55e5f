#!/usr/bin/env python3
"""Pulls under open connections: of this process, of others, of stock SQLite; every reader sees the
old version or the new one, and no cache survives."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

ROLLBACK = ("delete", "truncate", "persist", "memory", "off")
MODES = ROLLBACK + ("wal",)


class Pull(support.Case):
    place = ""

    def path(self, name="app.db"):
        return super().path(os.path.join(self.place, name))

    def fresh(self, name):
        """Another key and other folders, for a loop within one test."""
        self.key = f"{self.prefix}/{name}.db"
        self.remote = self.remote_of(self.key)
        self.place = name

    def begin(self, mode="delete", rows=300):
        """Version 1 with consistent content in both places: a/ in `mode`, b/ open."""
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v, pad)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t VALUES(?, 1, zeroblob(200))", [(n,) for n in range(rows)])
        db.execute("COMMIT")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        self.assertEqual(one(db, f"PRAGMA journal_mode={mode}"), mode)
        return db, self.connect("b/app.db")

    def new_version(self, other, v):
        """Every row says v: a mixture would show."""
        other.execute("UPDATE t SET v = ?", (v,))
        return one(other, "SELECT sync()")

    SEEN = "SELECT min(v), max(v), count(*) FROM t"

    def seen(self, db):
        execute = db if isinstance(db, support.Peer) else db.execute
        low, high, count = list(execute(self.SEEN))[0]
        self.assertEqual(low, high, "a mixture of two versions")
        self.assertEqual(count, 300)
        return low

    def test_open_newer_in_every_mode(self):
        for mode in MODES:
            for synchronous in ("full", "off"):
                with self.subTest(mode=mode, synchronous=synchronous):
                    self.fresh(mode + synchronous)
                    db, other = self.begin(mode)
                    db.execute(f"PRAGMA synchronous={synchronous}")
                    for v in range(2, 5):
                        db.execute("UPDATE t SET v = v + 10")
                        self.assertEqual(one(db, "SELECT sync()"), 2 * v - 2)
                        self.assertEqual(one(other, "SELECT r2_pull()"), 2 * v - 2)
                        self.new_version(other, v)
                        self.assertEqual(one(db, "SELECT r2_pull()"), 2 * v - 1)
                        self.assertEqual(self.seen(db), v)
                    db.close()
                    self.new_version(other, 9)
                    db = self.connect("a/app.db")
                    self.assertEqual(self.seen(db), 9)
                    self.assertEqual(one(db, "PRAGMA journal_mode"),
                                     "wal" if mode == "wal" else "delete")
                    self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
                    db.close()
                    other.close()

    def test_refresh(self):
        through = self.proxy()
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.fresh(mode)
                db, other = self.begin(mode)
                db.close()
                db = self.connect("a/app.db", refresh=0, endpoint=through.endpoint)
                self.seen(db)                   # the schema is read in a transaction of its own
                through.clear()
                for v in range(2, 6):
                    self.new_version(other, v)
                    self.assertEqual(self.seen(db), v)
                    spent = [r.method for r in through.requests]
                    # SQLite begins anew when the log grew, and once more for a schema that moved
                    self.assertIn(spent[2:], ([], [support.LOOK], [support.LOOK] * 2))
                    self.assertEqual(spent[:2], [support.LOOK, "GET"])
                    through.clear()
                self.assertEqual(self.seen(db), 5)
                self.assertEqual([r.method for r in through.requests], [support.LOOK])
                through.clear()
                db.execute("BEGIN")             # one look per transaction; then a stable view
                self.assertEqual(self.seen(db), 5)
                self.new_version(other, 6)
                self.assertEqual(self.seen(db), 5)
                db.execute("COMMIT")
                self.assertEqual(len(through.requests), 1)
                self.assertEqual(self.seen(db), 6)
                through.clear()
                db.execute("BEGIN IMMEDIATE")   # writes go on top of what is newest
                db.execute("UPDATE t SET v = v + 1")
                db.execute("COMMIT")
                self.assertEqual(one(db, "SELECT sync()"), 7)
                db.close()
                db = self.connect("a/app.db", refresh=3600000, endpoint=through.endpoint)
                self.seen(db)
                through.clear()
                other.execute("SELECT r2_pull()").fetchall()
                self.new_version(other, 8)
                self.assertEqual(self.seen(db), 7)
                self.assertEqual(through.requests, [])
                db.close()

    def test_readers_in_all_kinds_of_processes(self):
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.fresh(mode)
                db, other = self.begin(mode)
                inside = self.connect("a/app.db"), support.plain(self.path("a/app.db"))
                outside = self.peer("a/app.db"), self.peer("a/app.db", stock=True)
                readers = inside + outside
                run = [db.execute for db in inside] + list(outside)

                def look():
                    return [self.seen(reader) for reader in readers]
                self.assertEqual(look(), [1] * 4)               # now it is in all their caches
                self.new_version(other, 2)
                self.assertEqual(one(db, "SELECT r2_pull()"), 2)
                self.assertEqual(look(), [2] * 4)
                # each inside a transaction: WAL keeps its view, rollback modes keep the file
                for n, reader in enumerate(readers):
                    run[n]("BEGIN")
                    self.seen(reader)
                    self.new_version(other, 3 + n)
                    if mode == "wal":
                        self.assertEqual(one(db, "SELECT r2_pull()"), 3 + n)
                    elif n in (0, 3):           # the others are in the way as well
                        self.fails(db.execute, "SELECT r2_pull()", code=5)
                    self.assertEqual(self.seen(reader), 2 + n)
                    run[n]("COMMIT")
                    self.assertEqual(one(db, "SELECT r2_pull()"), 3 + n)
                    self.assertEqual(look(), [3 + n] * 4)
                for execute in run:             # and each of them may write on top of it
                    execute("UPDATE t SET v = v + 1")
                self.assertEqual(look(), [10] * 4)
                version = one(db, "SELECT sync()")
                self.assertEqual(one(other, "SELECT r2_pull()"), version)
                self.assertEqual(self.seen(other), 10)
                for peer in outside:
                    peer.end()
                for connection in inside + (db, ):
                    connection.close()

    def test_an_open_with_a_reader_in_the_way(self):
        """Rollback modes: the newcomer gets the old version, the new one comes when it can."""
        db, other = self.begin()
        db.close()
        stock = self.peer("a/app.db", stock=True)
        stock("BEGIN")
        self.assertEqual(self.seen(stock), 1)
        self.new_version(other, 2)
        db = self.connect("a/app.db")
        self.assertEqual(self.seen(db), 1)
        self.assertEqual(self.seen(stock), 1)
        stock("COMMIT")
        self.assertEqual(self.seen(db), 2)
        self.assertEqual(self.seen(stock), 2)

    def test_hot_journal(self):
        """What a crash left is rolled back before anything is pulled over it."""
        db, other = self.begin()
        db.close()
        stock = self.peer("a/app.db", stock=True)
        stock("PRAGMA cache_size=3")
        stock("PRAGMA cache_spill=1")
        stock("BEGIN IMMEDIATE")
        stock("UPDATE t SET v = 77, pad = randomblob(210)")
        self.assertTrue(os.path.getsize(self.path("a/app.db-journal")) > 512)
        stock.kill()
        self.new_version(other, 2)
        db = self.connect("a/app.db")
        self.assertEqual(self.seen(db), 2)
        self.assertFalse(os.path.exists(self.path("a/app.db-journal")))
        self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
        self.assertEqual(support.status(db, self.path("a/app.db"))["conflicts"], 0)
        self.assertEqual(len(self.bucket.list(self.prefix)), 1)

    def test_leftover_wal(self):
        """Commits in a -wal whose process was killed are local changes, never pulled over."""
        db, other = self.begin("wal")
        db.close()
        stock = self.peer("a/app.db", stock=True)
        stock("PRAGMA wal_autocheckpoint=0")
        stock("UPDATE t SET v = 77")
        stock.kill()
        self.assertGreater(os.path.getsize(self.path("a/app.db-wal")), 32)
        db = self.connect("a/app.db")
        self.assertEqual(self.seen(db), 77)
        self.assertEqual(one(db, "SELECT sync()"), 2)
        db.close()
        # the same, and the remote has moved on: a conflict, and the loser is kept
        stock = self.peer("a/app.db", stock=True)
        stock("PRAGMA wal_autocheckpoint=0")
        stock("UPDATE t SET v = 88")
        stock.kill()
        self.assertEqual(one(other, "SELECT r2_pull()"), 2)
        self.new_version(other, 3)
        db = self.connect("a/app.db")
        self.assertEqual(self.seen(db), 3)
        fork, = self.bucket.list(self.key + "-forks/")
        with open(self.path("fork.db"), "wb") as file:
            file.write(self.bucket.get(fork).body)
        found = support.plain(self.path("fork.db"))
        self.assertEqual(self.seen(found), 88)
        found.close()

    def test_stale_cache_cannot_revert(self):
        """A stock process that sat idle since before the pull: its next write is on top of it."""
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.fresh(mode)
                db, other = self.begin(mode)
                stock = self.peer("a/app.db", stock=True)
                stock("UPDATE t SET v = 1")
                self.assertEqual(one(db, "SELECT sync()"), 1)
                self.assertEqual(self.seen(stock), 1)
                for turn in range(5):           # also when both moved the counter by the same
                    version = self.new_version(other, 10 + turn)
                    self.assertEqual(one(db, "SELECT r2_pull()"), version)
                    stock("UPDATE t SET v = v + 100 WHERE id = 7")
                    self.assertEqual(stock.one("SELECT group_concat(DISTINCT v) FROM t "
                                               "WHERE id <> 7"), str(10 + turn))
                    self.assertEqual(stock.one("SELECT v FROM t WHERE id = 7"), 110 + turn)
                    version = one(db, "SELECT sync()")
                    self.assertEqual(one(other, "SELECT r2_pull()"), version)
                    self.assertEqual(one(other, "SELECT v FROM t WHERE id = 7"), 110 + turn)
                stock.end()

    def test_dirty_pages_are_never_overwritten(self):
        for mode in ("delete", "wal"):
            for writer in ("r2vfs", "stock"):
                with self.subTest(mode=mode, writer=writer):
                    self.fresh(mode + writer)
                    db, other = self.begin(mode)
                    if writer == "stock":
                        stock = self.peer("a/app.db", stock=True)
                        stock("UPDATE t SET v = 5")
                        stock.end()
                    else:
                        db.execute("UPDATE t SET v = 5")
                    self.new_version(other, 2)
                    self.fails(db.execute, "SELECT r2_pull()", code=517)
                    self.assertEqual(self.seen(db), 5)
                    self.assertEqual(self.new_version(other, 3), 3)
                    db.close()                  # nor by a close
                    self.assertEqual(self.seen(support.plain(self.path("a/app.db"))), 5)

    def test_refresh_leaves_dirty_pages(self):
        db, other = self.begin()
        db.close()
        db = self.connect("a/app.db", refresh=0)
        db.execute("UPDATE t SET v = 5")
        self.new_version(other, 2)
        self.assertEqual(self.seen(db), 5)
        db.execute("UPDATE t SET v = 6")
        self.assertEqual(self.seen(db), 6)
        self.fails(db.execute, "SELECT sync()", code=517)
        self.assertEqual(self.seen(db), 6)


if __name__ == "__main__":
    support.main()
