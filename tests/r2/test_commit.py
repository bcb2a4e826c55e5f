#!/usr/bin/env python3
"""sync=commit, one program at a time: what COMMIT acknowledged is in the remote, and costs one request;
what lost against another machine is rolled back and begins again. In every journal mode and both
layouts.

Other failures are in test_commit_fails.py, contention in test_increments.py, kills and power losses in
tests/crash/test_commit_kill.py, random walks in test_commit_walk.py."""

# One layout: each test names its own.

import os
import resource
import select
import sqlite3
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from commitkit import CONFLICT, MODES, ROLLBACK, UNKNOWN, CommitCase, Network, each  # noqa: E402
from support import one  # noqa: E402


# ---------------------------------------------------------------- what it costs

class Requests(Network):
    @each()
    def test_one_row_is_one_put(self):
        db = self.start()
        version = one(db, "SELECT r2_version()")
        self.through.clear()
        for n in range(10, 14):
            db.execute("INSERT INTO t VALUES(?, 'y')", (n,))
            put, = self.spent("PUT")
            version += 1
            if self.layout == "log":
                self.assertEqual(put.key.rsplit("/", 1)[1], f"{version:016x}.ltx")
                self.assertEqual(put.header("If-None-Match"), "*")
            else:
                self.assertEqual(put.key, self.key)
                self.assertIsNotNone(put.header("If-Match"))
            self.assertEqual(self.same(), version)
        row = support.status(db, self.file())
        self.assertEqual((row["version"], row["dirty_pages"], row["conflicts"]), (version, 0, 0))

    @each()
    def test_a_transaction_is_one_put(self):
        db = self.start()
        version = self.same()
        db.execute("PRAGMA cache_size=5")           # pages spill before the commit
        self.through.clear()
        db.execute("BEGIN")
        db.executemany("INSERT INTO t VALUES(?, ?)", [(n, "b" * 900) for n in range(100, 400)])
        db.execute("CREATE INDEX i ON t(y)")
        self.spent()
        db.execute("COMMIT")
        self.spent("PUT")
        self.same(version + 1)

    @each()
    def test_nothing_is_pushed(self):
        db = self.start(100)
        version = self.same()
        db.execute("PRAGMA cache_size=5")
        self.through.clear()
        for script in (["BEGIN", "SELECT * FROM t", "COMMIT"],
                       ["BEGIN IMMEDIATE", "COMMIT"],
                       ["BEGIN EXCLUSIVE", "SELECT * FROM t", "END"],
                       ["BEGIN", "INSERT INTO t VALUES(1000, 1)", "ROLLBACK"],
                       ["BEGIN", "UPDATE t SET y = zeroblob(3000)", "ROLLBACK"],
                       ["SAVEPOINT s", "DELETE FROM t", "ROLLBACK TO s", "SELECT * FROM t"],
                       ["ROLLBACK"],
                       ["CREATE TEMP TABLE mine(x)", "INSERT INTO mine VALUES(1)"],
                       ["PRAGMA user_version", "PRAGMA integrity_check"]):
            for sql in script:
                db.execute(sql).fetchall()
        self.fails(db.execute, "INSERT INTO t VALUES(1, 'twice')", code=1555)
        self.spent()
        self.same(version)

    @each(layouts=("log",))
    def test_equal_pages_are_no_version(self):
        """A commit that changes no byte."""
        db = self.start()
        version = self.same()
        self.through.clear()
        db.execute("UPDATE t SET y = y")
        self.spent()
        db.execute("INSERT INTO t VALUES(10, 'y')")
        self.spent("PUT")
        self.same(version + 1)

    @each(modes=ROLLBACK)
    def test_birth(self):
        """The first COMMIT of all makes version 1, and nothing is there before it."""
        db = self.open()
        db.execute("BEGIN")
        db.execute("CREATE TABLE t(x)")
        self.assertEqual(self.bucket.all_keys(self.key), [])
        self.through.clear()
        db.execute("COMMIT")
        put, = self.spent("PUT")
        self.assertEqual((put.key, put.header("If-None-Match")), (self.key, "*"))
        self.same(1)

    @each()
    def test_a_second_connection_costs_nothing_more(self):
        db = self.start()
        other = self.open()
        self.xs(other)
        self.through.clear()
        db.execute("INSERT INTO t VALUES(10, 1)")
        other.execute("INSERT INTO t VALUES(11, 1)")
        db.execute("INSERT INTO t VALUES(12, 1)")
        self.spent("PUT", "PUT", "PUT")
        self.assertEqual(self.remote_xs(), [0, 1, 2, 10, 11, 12])


# ---------------------------------------------------------------- what is in the remote

class Contents(CommitCase):
    STEPS = """
        CREATE TABLE a(x INTEGER PRIMARY KEY, y, z)
        CREATE TABLE b(k TEXT PRIMARY KEY, v) WITHOUT ROWID
        CREATE INDEX az ON a(z)
        CREATE TRIGGER tr AFTER INSERT ON a BEGIN INSERT INTO b VALUES('a' || new.x, new.z); END
        BEGIN; INSERT INTO a SELECT value, hex(randomblob(700)), value % 7 FROM generate(1, 120); COMMIT
        UPDATE a SET y = 'one' WHERE x = 77
        PRAGMA user_version = 7
        PRAGMA application_id = 99
        SAVEPOINT s; DELETE FROM a WHERE x > 50; ROLLBACK TO s; UPDATE a SET z = 0 WHERE x < 9; RELEASE s
        BEGIN; SAVEPOINT p; UPDATE a SET y = zeroblob(2000); ROLLBACK TO p; INSERT INTO b VALUES('p', 1); COMMIT
        BEGIN; SAVEPOINT p; UPDATE a SET y = hex(randomblob(900)); SAVEPOINT q; DELETE FROM b; ROLLBACK TO q; COMMIT
        ALTER TABLE a ADD COLUMN w DEFAULT 5
        ALTER TABLE b RENAME TO c
        DELETE FROM a WHERE x % 2
        REINDEX
        VACUUM
        PRAGMA incremental_vacuum(4)
        INSERT INTO a(x, y) VALUES(1000, zeroblob(60000))
        BEGIN; DROP TABLE c; CREATE TABLE c(only); INSERT INTO c VALUES(1); DROP TRIGGER tr; COMMIT
        DELETE FROM a
        VACUUM
        INSERT INTO a(x, y) VALUES(1, 'end')
        ANALYZE
    """

    def steps(self, db):
        db.create_function("nothing", 0, lambda: None)
        for line in self.STEPS.strip().splitlines():
            yield line.strip()

    def run_steps(self, db):
        """After each line the remote has exactly that, under the next number."""
        done = 0
        for line in self.steps(db):
            if "generate" in line:
                line = line.replace("generate(1, 120)", "(WITH RECURSIVE g(value) AS (SELECT 1 UNION ALL"
                                    " SELECT value + 1 FROM g WHERE value < 120) SELECT * FROM g)")
            before = one(db, "SELECT r2_version()")
            if "TRIGGER tr AFTER" in line:
                db.execute(line)
            else:
                for sql in line.split("; "):
                    db.execute(sql).fetchall()
            now = one(db, "SELECT r2_version()")
            self.assertLessEqual(now, before + 1, line)
            self.same(now)
            done += now > before
        self.assertGreaterEqual(done, 19)

    @each()
    def test_all_kinds_of_transactions(self):
        self.run_steps(self.open())

    @each()
    def test_with_a_tiny_cache(self):
        """Pages reach the file or the -wal long before the commit, some of them several times."""
        db = self.open()
        db.execute("PRAGMA cache_size=1")
        db.execute("PRAGMA synchronous=OFF")
        self.run_steps(db)

    @each()
    def test_with_padding_and_small_pages(self):
        """psow=0: SQLite pads the -wal's sectors with repeated frames."""
        db = self.open(mode=False, psow=0)
        db.execute("PRAGMA page_size=512")
        db.execute("PRAGMA auto_vacuum=2")
        one(db, f"PRAGMA journal_mode={self.mode}")
        db.execute("PRAGMA synchronous=EXTRA")
        db.execute("PRAGMA cache_size=5")
        db.execute("PRAGMA wal_autocheckpoint=7")
        self.run_steps(db)

    @each(modes=ROLLBACK)
    def test_another_page_size(self):
        for was, now in ((4096, 512), (512, 4096), (4096, 65536), (65536, 1024)):
            self.world(self.mode, self.layout)
            db = self.open(mode=False)
            db.execute(f"PRAGMA page_size={was}")
            one(db, f"PRAGMA journal_mode={self.mode}")
            db.execute("CREATE TABLE t(x, y)")
            db.execute("BEGIN")
            db.executemany("INSERT INTO t VALUES(?, ?)", [(n, "x" * 300) for n in range(300)])
            db.execute("COMMIT")
            db.execute("DELETE FROM t WHERE x % 2")
            version = self.same()
            db.execute(f"PRAGMA page_size={now}")
            db.execute("VACUUM")
            self.assertEqual(one(db, "PRAGMA page_size"), now)
            self.same(version + 1)
            db.execute("INSERT INTO t VALUES(-1, 2)")
            self.same(version + 2)
            db.close()
            self.same(version + 2)

    @each(modes=("delete", "wal"))
    def test_backup_into_it(self):
        """sqlite3_backup writes pages past SQL; a source of another page size cannot go into a WAL."""
        for size in (4096, 512):
            self.world(self.mode, self.layout)
            db = self.start()
            source = sqlite3.connect(":memory:")
            self.addCleanup(source.close)
            source.execute(f"PRAGMA page_size={size}")
            source.execute("CREATE TABLE z(x, y)")
            source.executemany("INSERT INTO z VALUES(?, ?)", [(n, "x" * 300) for n in range(300)])
            source.commit()
            for _ in range(2):
                if size != 4096 and self.mode == "wal":
                    with self.assertRaises(sqlite3.Error):
                        source.backup(db)
                else:
                    source.backup(db, pages=3)
                    self.assertEqual(one(db, "SELECT count(*) FROM z"),
                                     one(source, "SELECT count(*) FROM z"))
                self.same()
                source.execute("DELETE FROM z WHERE x > 10")
                source.commit()
            db.execute("CREATE TABLE after(x)")
            self.same()

    @each(modes=("wal",))
    def test_frames_of_a_rolled_back_transaction(self):
        """Rolled back with pages in the -wal already; a neighbour commits at the same places, unpushed."""
        a = self.open()
        a.execute("PRAGMA cache_size=5")
        a.execute("PRAGMA wal_autocheckpoint=0")
        for table in "tu":
            a.execute(f"CREATE TABLE {table}(x INTEGER PRIMARY KEY, y)")
            a.execute("BEGIN")
            a.executemany(f"INSERT INTO {table} VALUES(?, ?)", [(n, "q" * 900) for n in range(200)])
            a.execute("COMMIT")
        a.execute("BEGIN")
        a.execute("UPDATE t SET y = zeroblob(900)")
        a.execute("ROLLBACK")
        b = support.Peer(self, self.target(sync="manual"))
        b("UPDATE u SET y = randomblob(900)")
        a.execute("UPDATE t SET y = 'end' WHERE x = 1")
        self.same()

    @each(modes=("delete",))
    def test_changing_the_journal_mode(self):
        """From each mode to each, with commits in between. MEMORY to WAL goes by way of OFF."""
        db = self.start()
        n = 100
        for was in MODES:
            for now in MODES:
                for mode in (was, now):
                    self.assertEqual(one(db, f"PRAGMA journal_mode={mode}"), mode)
                    n += 1
                    db.execute("INSERT INTO t VALUES(?, 'y')", (n,))
                    self.same()

    @each()
    def test_a_checkpoint_of_the_wal_in_between(self):
        db = self.start()
        for n in range(100, 112):
            db.execute("INSERT INTO t VALUES(?, ?)", (n, "w" * 3000))
            how = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")[n % 4]
            db.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
            version = self.same()
        db.close()
        self.same(version)
        db = self.open(mode=False)
        db.execute("DELETE FROM t WHERE x > 105")
        self.same(version + 1)

    @each(modes=("wal",))
    def test_the_disk_is_full_at_each_write(self):
        """A file-size limit lets each write of the commit fail in turn. Before the push: an error, and
        nothing happened. After it: 7690, and a sentence that says that the version is stored."""
        seen = set()
        for allowed in range(0, 13000, 500):
            self.world(self.mode, self.layout)
            db = self.start()
            db.execute("PRAGMA wal_autocheckpoint=0")
            db.execute("INSERT INTO t VALUES(10, zeroblob(700000))")    # beyond what r2vfs writes
            version = self.same()
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE,
                               (os.path.getsize(self.file() + "-wal") + allowed, limit[1]))
            try:
                db.execute("INSERT INTO t VALUES(20, zeroblob(5000))")
                code = 0
            except sqlite3.Error as error:
                code = error.sqlite_errorcode
                self.assertFalse(db.in_transaction)
                sentence = one(db, "PRAGMA r2_last_error")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            there = 20 in self.remote_xs()
            self.assertEqual(there, code in (0, UNKNOWN), (allowed, code))
            if code == UNKNOWN:
                self.assertIn("was stored", sentence)
            seen.add(code)
            self.assertEqual(20 in self.xs(db), there, (allowed, code))
            db.execute("INSERT INTO t VALUES(30, 1)")
            self.same(version + there + 1)
            self.no_forks()
        self.assertEqual(seen, {0, UNKNOWN, sqlite3.SQLITE_IOERR_WRITE})


# ---------------------------------------------------------------- another was first

class Conflicts(CommitCase):
    def two(self):
        a = self.start()
        b = self.open("b")
        self.assertEqual(self.xs(b), [0, 1, 2])
        return a, b

    @each()
    def test_rolled_back_and_begun_again(self):
        a, b = self.two()
        b.execute("INSERT INTO t VALUES(50, 'b')")
        version = self.same(machine="b")
        a.execute("BEGIN")
        a.execute("INSERT INTO t VALUES(60, 'a')")
        a.execute("UPDATE t SET y = 'a' WHERE x = 1")
        sentence = self.refused(a, "COMMIT", CONFLICT, ["rolled back", "begin it again", self.remote])
        self.assertIn(f"version {version} ", sentence)
        a.execute("BEGIN")                          # nothing but that: it starts from the newer one
        self.assertEqual(self.xs(a), [0, 1, 2, 50])
        self.assertEqual(one(a, "SELECT y FROM t WHERE x = 1"), "s" * 500)
        a.execute("INSERT INTO t VALUES(60, 'a')")
        a.execute("COMMIT")
        self.same(version + 1)
        self.assertEqual(support.status(a, self.file())["conflicts"], 1)
        self.no_forks()

    @each()
    def test_a_single_statement(self):
        a, b = self.two()
        b.execute("INSERT INTO t VALUES(50, 'b')")
        self.refused(a, "INSERT INTO t VALUES(60, 'a')", CONFLICT)
        a.execute("INSERT INTO t VALUES(60, 'a')")
        self.assertEqual(self.remote_xs(), [0, 1, 2, 50, 60])
        self.same()

    @each()
    def test_what_was_read_is_not_stale(self):
        """A transaction that read before the other's commit, and writes after it."""
        a, b = self.two()
        a.execute("BEGIN")
        last = one(a, "SELECT max(x) FROM t")
        b.execute("INSERT INTO t VALUES(3, 'b')")
        a.execute("INSERT INTO t VALUES(?, 'a')", (last + 1,))
        self.refused(a, "COMMIT", CONFLICT)
        self.assertEqual(self.xs(a), [0, 1, 2, 3])
        self.assertEqual(one(a, "SELECT y FROM t WHERE x = 3"), "b")

    @each()
    def test_a_spilled_transaction(self):
        a, b = self.two()
        a.execute("PRAGMA cache_size=1")
        b.execute("DELETE FROM t WHERE x = 0")
        a.execute("BEGIN")
        a.executemany("INSERT INTO t VALUES(?, zeroblob(2000))", [(n,) for n in range(100, 200)])
        a.execute("CREATE TABLE more(x)")
        self.refused(a, "COMMIT", CONFLICT)
        self.assertEqual(self.xs(a), [1, 2])
        self.fails(a.execute, "SELECT * FROM more", says="no such table")
        a.execute("INSERT INTO t VALUES(9, 9)")
        self.same()

    @each()
    def test_the_ordinary_busy_retry(self):
        """Two machines by turns: each of them loses once, begins again, and wins."""
        a, b = self.two()
        a.execute("CREATE TABLE c(n)")
        a.execute("INSERT INTO c VALUES(0)")
        self.refused(b, "CREATE TABLE c(n)", CONFLICT)
        lost = 0
        for turn in range(12):
            db = (a, b)[turn % 2]
            while True:
                db.execute("BEGIN IMMEDIATE")
                n = one(db, "SELECT n FROM c")
                db.execute("UPDATE c SET n = ?", (n + 1,))
                try:
                    db.execute("COMMIT")
                    break
                except sqlite3.OperationalError as error:
                    self.assertEqual(error.sqlite_errorcode, CONFLICT)
                    self.assertFalse(db.in_transaction)
                    lost += 1
        self.assertEqual(lost, 10)                  # b had begun anew before its first turn
        self.assertEqual(one(b, "SELECT n FROM c"), 12)
        self.same(machine="b")
        self.no_forks()

    @each()
    def test_a_neighbour_on_the_same_file_is_none(self):
        """Two connections, two processes: one file, no conflict."""
        a = self.start()
        neighbours = [self.open(), support.Peer(self, self.target())]
        for n in range(10, 40):
            db = (a.execute, neighbours[0].execute, neighbours[1])[n % 3]
            db("INSERT INTO t VALUES(?, 'y')" if n % 3 < 2 else f"INSERT INTO t VALUES({n}, 'y')",
               *[(n,)] * (n % 3 < 2))
        self.assertEqual(self.remote_xs(), [0, 1, 2, *range(10, 40)])
        self.same()
        self.assertEqual(support.status(a, self.file())["conflicts"], 0)

    @each(modes=("wal",))
    def test_a_reader_keeps_its_snapshot(self):
        a, b = self.two()
        reader = self.open()
        reader.execute("BEGIN")
        self.assertEqual(self.xs(reader), [0, 1, 2])
        b.execute("INSERT INTO t VALUES(50, 'b')")
        self.refused(a, "INSERT INTO t VALUES(60, 'a')", CONFLICT)
        a.execute("INSERT INTO t VALUES(60, 'a')")
        self.assertEqual(self.xs(reader), [0, 1, 2])
        reader.execute("COMMIT")
        self.assertEqual(self.xs(reader), [0, 1, 2, 50, 60])

    @each()
    def test_the_state_file_is_deleted(self):
        """At once, and with the transaction rolled back: whoever begins again gets through."""
        a = self.start()
        os.unlink(self.file() + "-r2")
        a.execute("BEGIN IMMEDIATE")
        a.execute("INSERT INTO t VALUES(10, 1)")
        self.refused(a, "COMMIT", CONFLICT)
        a.execute("INSERT INTO t VALUES(11, 1)")
        self.assertEqual(self.remote_xs(), [0, 1, 2, 11])
        self.same()
        self.no_forks()

    @each()
    def test_what_other_modes_left_goes_along(self):
        """Unpushed commits of a neighbour in sync=manual are part of the next COMMIT's version."""
        a = self.start()
        other = self.open(sync="manual")
        other.execute("INSERT INTO t VALUES(30, 'manual')")
        a.execute("INSERT INTO t VALUES(31, 'a')")
        self.assertEqual(self.remote_xs(), [0, 1, 2, 30, 31])
        other.execute("INSERT INTO t VALUES(32, 'manual')")
        other.close()
        self.assertEqual(self.remote_xs(), [0, 1, 2, 30, 31])
        a.execute("DELETE FROM t WHERE x = 0")
        self.assertEqual(self.remote_xs(), [1, 2, 30, 31, 32])
        self.same()


class Beginning(Network):
    """A neighbour's COMMIT is on its way, and going to lose against a version that was acknowledged
    before: what begins or opens now must see that version, so it cannot take the upload for the newest
    thing there is."""

    def beside_an_upload(self, read):
        """read(send a SELECT that counts row 50): the peer that sent it."""
        a = self.start()
        self.open("b", endpoint=self.emulator.endpoint).close()
        held = self.through.hold(method="PUT")
        codes = []

        def insert():
            try:
                a.execute("INSERT INTO t VALUES(60, 'a')")
                codes.append(0)
            except sqlite3.Error as error:
                codes.append(error.sqlite_errorcode)
        thread = threading.Thread(target=insert)
        try:
            reader = read()
            thread.start()
            held.wait_hit()
            other = self.open("b", endpoint=self.emulator.endpoint)
            other.execute("INSERT INTO t VALUES(50, 'acknowledged')")
            ask = reader()
            # one that does not wait for the upload answers now; the right one cannot
            select.select([ask.stdout], [], [], 1)
        finally:
            held.release()
            thread.join()
        self.assertEqual(codes, [CONFLICT])
        return ask.stdout.readline()

    @each(modes=("wal",))
    def test_refresh_0_beside_an_upload(self):
        def read():
            peer = support.Peer(self, self.target(refresh=0))
            peer("SELECT * FROM t")

            def ask():
                peer.send("SELECT count(*) FROM t WHERE x = 50")
                return peer.child
            return ask
        self.assertEqual(self.beside_an_upload(read), '{"rows": [[1]]}\n')

    @each(modes=("wal",))
    def test_open_beside_an_upload(self):
        def read():
            child = self.spawn("""
input()
db = sqlite3.connect(sys.argv[1], uri=True)
print(db.execute("SELECT count(*) FROM t WHERE x = 50").fetchone()[0])
db.close()
""", self.target())

            def ask():
                support.tell(child)
                return child
            return ask
        self.assertEqual(self.beside_an_upload(read), "1\n")


if __name__ == "__main__":
    support.main()
