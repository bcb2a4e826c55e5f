#!/usr/bin/env python3
"""Pulls and pushes of another shape: schema, page size, vacuum, shrinking; and exclusive locking."""
# Not under TSan: one connection after the other.

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402


class Reshape(support.Case):
    place = ""

    def path(self, name="app.db"):
        return super().path(os.path.join(self.place, name))

    def fresh(self, name):
        """Another key and other folders, for a loop within one test."""
        self.key = f"{self.prefix}/{name}.db"
        self.remote = self.remote_of(self.key)
        self.place = name

    def begin(self, mode="delete", before=""):
        db = self.connect("a/app.db")
        db.executescript(before)
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, b)")
        db.execute("BEGIN")
        for n in range(200):
            db.execute("INSERT INTO t VALUES(?, randomblob(1000))", (n,))
        db.execute("COMMIT")
        one(db, "SELECT sync()")
        self.assertEqual(one(db, f"PRAGMA journal_mode={mode}"), mode)
        other = self.connect("b/app.db")
        self.same(db, other)
        return db, other

    SUM = "SELECT group_concat(id || ':' || length(b) || hex(substr(b, 1, 4))) FROM t"

    def same(self, *dbs):
        """All say the same, and the object is sound."""
        sums = [list((db if isinstance(db, support.Peer) else db.execute)(self.SUM))[0][0]
                for db in dbs]
        self.assertEqual(len(set(sums)), 1)
        found = self.bucket.get(self.key)
        self.assertEqual(support.integrity_of_bytes(found.body), "ok")
        self.assertEqual(found.meta["db-checksum"], support.ltx_checksum(found.body))
        self.assertEqual(support.number_at(found.body, 28) * support.page_size_of(found.body),
                         len(found.body))
        return found

    def test_schema_of_the_winner(self):
        """Both sides made a table on the same page with the same cookie. After adoption no cached
        statement may write into the other's table, in whatever process."""
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.fresh(mode)
                db, other = self.begin(mode)
                db.execute("CREATE TABLE a1(x)")
                other.execute("CREATE TABLE b1(x)")
                self.assertEqual(one(other, "SELECT sync()"), 2)
                self.assertEqual(one(db, "SELECT rootpage FROM sqlite_master WHERE name='a1'"),
                                 one(other, "SELECT rootpage FROM sqlite_master WHERE name='b1'"))
                self.assertEqual(one(db, "PRAGMA schema_version"),
                                 one(other, "PRAGMA schema_version"))
                second = support.plain(self.path("a/app.db"))
                stock = self.peer("a/app.db", stock=True)
                for run in (db.execute, second.execute, stock):
                    run("INSERT INTO a1 VALUES('local')")
                self.fails(db.execute, "SELECT sync()", code=517)
                self.assertEqual(one(db, "SELECT r2_resolve('fork')"), 2)
                for run in (db.execute, second.execute, stock):
                    self.fails(run, "INSERT INTO a1 VALUES('astray')", says="no such table: a1")
                    self.assertEqual(list(run("SELECT * FROM b1")), [])
                db.execute("INSERT INTO b1 VALUES('home')")
                self.assertEqual(one(db, "SELECT sync()"), 3)
                self.assertEqual(one(other, "SELECT r2_pull()"), 3)
                self.assertEqual(one(other, "SELECT x FROM b1"), "home")
                self.same(db, other, second, stock)
                stock.end()
                second.close()

    def test_schema_of_the_loser(self):
        """The same, and r2_resolve('local'): now the other machine's caches must go."""
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.fresh(mode)
                db, other = self.begin(mode)
                db.execute("CREATE TABLE a1(x)")
                other.execute("CREATE TABLE b1(x)")
                self.assertEqual(one(other, "SELECT sync()"), 2)
                stock = self.peer("b/app.db", stock=True)
                for run in (other.execute, stock):
                    self.assertEqual(list(run("SELECT * FROM b1")), [])
                self.fails(db.execute, "SELECT sync()", code=517)
                self.assertEqual(one(db, "SELECT r2_resolve('local')"), 3)
                self.assertEqual(one(other, "SELECT r2_pull()"), 3)
                for run in (other.execute, stock):
                    self.fails(run, "INSERT INTO b1 VALUES('astray')", says="no such table: b1")
                    self.assertEqual(list(run("SELECT * FROM a1")), [])
                self.same(db, other, stock)
                stock.end()

    def test_schema_of_a_foreign_writer(self):
        """It makes the file anew each time: another schema, and by chance the same cookie."""
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.fresh(mode)
                bodies = []
                for name in ("a1", "b1"):
                    made = support.plain(self.path(name + ".db"))
                    made.execute(f"CREATE TABLE {name}(x)")
                    made.close()
                    with open(self.path(name + ".db"), "rb") as file:
                        bodies.append(file.read())
                self.assertEqual(support.number_at(bodies[0], 40),
                                 support.number_at(bodies[1], 40))
                self.bucket.put(self.key, bodies[0], {"db-version": "1"})
                db = self.connect("a/app.db")
                self.assertEqual(one(db, f"PRAGMA journal_mode={mode}"), mode)
                stock = self.peer("a/app.db", stock=True)
                for run in (db.execute, stock):
                    self.assertEqual(list(run("SELECT * FROM a1")), [])
                    list(run("EXPLAIN INSERT INTO a1 VALUES('astray')"))
                self.bucket.put(self.key, bodies[1], {"db-version": "2"})
                self.assertEqual(one(db, "SELECT r2_pull()"), 2)
                for run in (stock, db.execute):
                    self.fails(run, "INSERT INTO a1 VALUES('astray')", says="no such table: a1")
                    self.assertEqual(list(run("SELECT * FROM b1")), [])
                stock.end()

    @support.object_layout("foreign writers")
    def test_schema_of_a_restored_object(self):
        """An older object with a higher number; its cookie was met before with another schema."""
        db, other = self.begin()
        old = self.bucket.get(self.key)
        other.execute("CREATE TABLE b1(x)")
        self.assertEqual(one(other, "SELECT sync()"), 2)
        self.assertEqual(one(db, "SELECT r2_pull()"), 2)
        self.assertEqual(one(db, "SELECT count(*) FROM b1"), 0)
        stock = self.peer("a/app.db", stock=True)
        stock("SELECT * FROM b1")
        self.bucket.put(self.key, old.body, {"db-version": "3"})
        self.assertEqual(one(db, "SELECT r2_pull()"), 3)
        for run in (db.execute, stock):
            self.fails(run, "INSERT INTO b1 VALUES(1)", says="no such table: b1")
        db.execute("CREATE TABLE c1(x)")
        self.assertEqual(one(db, "SELECT sync()"), 4)
        self.assertEqual(one(other, "SELECT r2_pull()"), 4)
        self.assertEqual(one(other, "SELECT count(*) FROM c1"), 0)
        self.fails(other.execute, "INSERT INTO b1 VALUES(1)", says="no such table: b1")

    def test_page_size(self):
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.fresh(mode)
                db, other = self.begin(mode)
                self.assertEqual(one(other, "PRAGMA journal_mode"), "delete")
                for version, size in enumerate((512, 65536, 1024, 4096), 2):
                    other.execute(f"PRAGMA page_size={size}")
                    other.execute("VACUUM")
                    other.execute("UPDATE t SET b = randomblob(900) WHERE id = ?", (version,))
                    self.assertEqual(one(other, "PRAGMA page_size"), size)
                    self.assertEqual(one(other, "SELECT sync()"), version)
                    db.close()                      # nobody is in the way of a WAL file then
                    db = self.connect("a/app.db")
                    self.assertEqual(one(db, "SELECT r2_version()"), version)
                    self.assertEqual(one(db, "PRAGMA page_size"), size)
                    self.assertEqual(one(db, "PRAGMA journal_mode"), mode)
                    self.same(db, other)
                db.execute("DELETE FROM t WHERE id > 100")
                self.assertEqual(one(db, "SELECT sync()"), 6)
                self.assertEqual(one(other, "SELECT r2_pull()"), 6)
                self.same(db, other)
                db.close()
                other.close()

    def test_page_size_under_open_connections(self):
        db, other = self.begin()
        stock = self.peer("a/app.db", stock=True)
        self.same(db, stock)
        other.execute("PRAGMA page_size=8192")
        other.execute("VACUUM")
        self.assertEqual(one(other, "SELECT sync()"), 2)
        self.assertEqual(one(db, "SELECT r2_pull()"), 2)
        self.same(db, stock, other)
        stock("UPDATE t SET b = zeroblob(5) WHERE id = 3")
        self.assertEqual(one(db, "SELECT sync()"), 3)
        self.assertEqual(one(other, "SELECT r2_pull()"), 3)
        self.same(db, stock, other)

    def test_page_size_under_open_wal_connections(self):
        """Cannot go through a WAL: refused with a cure until they are closed."""
        db, other = self.begin("wal")
        stock = self.peer("a/app.db", stock=True)
        self.same(db, stock)
        other.execute("PRAGMA page_size=8192")
        other.execute("VACUUM")
        self.assertEqual(one(other, "SELECT sync()"), 2)
        self.fails(db.execute, "SELECT r2_pull()", says=["page size", "close"])
        self.assertEqual(one(db, "PRAGMA journal_mode"), "wal")
        self.assertEqual(stock.one("SELECT count(*) FROM t"), 200)
        stock.end()
        db.close()
        db = self.connect("a/app.db")
        self.assertEqual(one(db, "PRAGMA page_size"), 8192)
        self.same(db, other)

    def test_vacuum_and_auto_vacuum(self):
        for mode in ("delete", "wal"):
            for auto in ("none", "full", "incremental"):
                with self.subTest(mode=mode, auto=auto):
                    self.fresh(mode + auto)
                    db, other = self.begin(mode, f"PRAGMA auto_vacuum={auto};")
                    stock = self.peer("a/app.db", stock=True)
                    size = self.bucket.head(self.key).size
                    other.execute("DELETE FROM t WHERE id % 3 > 0")
                    other.executescript("VACUUM" if auto == "none" else
                                        "PRAGMA incremental_vacuum")
                    self.assertEqual(one(other, "SELECT sync()"), 2)
                    found = self.same(other)
                    self.assertLess(found.size, 0.6 * size)         # shrunk
                    self.assertEqual(one(db, "SELECT r2_pull()"), 2)
                    self.same(db, other, stock)
                    self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
                    if mode == "delete":
                        self.assertEqual(os.path.getsize(self.path("a/app.db")), found.size)
                    db.execute("INSERT INTO t SELECT id + 1000, randomblob(3000) FROM t")
                    self.assertEqual(one(db, "SELECT sync()"), 3)   # grown again
                    self.assertEqual(one(other, "SELECT r2_pull()"), 3)
                    self.same(db, other, stock)
                    db.execute("VACUUM")
                    one(db, "SELECT sync()")
                    other.execute("SELECT r2_pull()").fetchall()
                    self.same(db, other, stock)
                    stock.end()
                    db.close()
                    other.close()

    def test_exclusive_rollback(self):
        self.exclusive("delete")

    def test_exclusive_wal(self):
        self.exclusive("wal")

    def exclusive(self, mode):
        db, other = self.begin(mode)
        db.execute("PRAGMA locking_mode=exclusive")
        db.execute("UPDATE t SET b = 2")
        db.execute("UPDATE t SET b = 3")    # in rollback modes the counter stands still from here
        self.fails(db.execute, "SELECT sync()", says="locking_mode=EXCLUSIVE")
        other.execute("UPDATE t SET b = 9")
        self.assertEqual(one(other, "SELECT sync()"), 2)
        self.assertEqual(one(db, "SELECT min(b) FROM t"), 3)
        db.execute("PRAGMA locking_mode=normal")
        self.assertEqual(one(db, "SELECT min(b) FROM t"), 3)
        self.fails(db.execute, "SELECT sync()", code=517)
        self.assertEqual(one(db, "SELECT r2_resolve('fork')"), 2)
        self.assertEqual(one(db, "SELECT min(b) FROM t"), 9)
        self.assertEqual(len(self.bucket.list(self.key + "-forks/")), 1)
        db.execute("PRAGMA locking_mode=exclusive")
        db.execute("UPDATE t SET b = 10")
        db.execute("UPDATE t SET b = 11")
        db.close()                          # a close pushes it
        self.assertEqual(one(other, "SELECT r2_pull()"), 3)
        self.assertEqual(one(other, "SELECT min(b) FROM t"), 11)


if __name__ == "__main__":
    support.main()
