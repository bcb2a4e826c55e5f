#!/usr/bin/env python3
"""sync=commit when it does not succeed: an outcome that is unknown, a refusal by the remote, what r2vfs
refuses itself, and databases that are committed together; then other connections of all kinds beside
it. What was called acknowledged is in the remote, and what was not is rolled back, in every journal
mode and both layouts."""

# One layout: each test names its own.

import os
import sqlite3
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from commitkit import CONFLICT, DOUBT, ROLLBACK, UNKNOWN, CommitCase, Network, each  # noqa: E402
from support import one  # noqa: E402


# ---------------------------------------------------------------- no answer

class Doubt(Network):
    """An outcome that is unknown at the deadline is 7690, rolled back here, and settled by the next
    transaction before anything else is pushed."""

    SOME = ("delete", "memory", "wal")

    def in_doubt(self, action, while_down=False):
        """A COMMIT of row 10 that ends in doubt. Returns (connection, version before, the PUT's rule)."""
        self.start().close()
        version = self.remote_image().version
        db = self.open(timeout=1500)
        rule = action(method="PUT")
        down = self.down()
        db.execute("BEGIN")
        db.execute("INSERT INTO t VALUES(10, 'doubt')")
        self.refused(db, "COMMIT", UNKNOWN, [DOUBT, f"version {version + 1} ", "look before you repeat"])
        self.assertEqual(rule.hits, 1)
        if while_down:                              # nothing begins before it is known
            self.through.clear()
            with self.assertRaises(sqlite3.Error):
                db.execute("INSERT INTO t VALUES(11, 1)")
            self.assertEqual(self.through.count("PUT"), 0)
        down.count = 0
        return db, version, rule

    def goes_on(self, db, version, expected):
        """The next COMMIT is the next version, and no conflict."""
        self.assertEqual(self.xs(db), expected)
        db.execute("INSERT INTO t VALUES(99, 'next')")
        self.assertEqual(self.remote_xs(), [*expected, 99])
        self.same(version + 1)
        self.assertEqual(support.status(db, self.file())["conflicts"], 0)
        self.no_forks()

    @each()
    def test_it_had_happened(self):
        """Its answer was lost: the next transaction starts from it."""
        db, version, _ = self.in_doubt(self.through.lose)
        self.assertEqual(self.remote_xs(), [0, 1, 2, 10])
        self.goes_on(db, version + 1, [0, 1, 2, 10])

    @each()
    def test_it_had_not(self):
        db, version, _ = self.in_doubt(self.through.cut, while_down=self.layout == "log" and self.mode in self.SOME)
        self.assertEqual(self.remote_xs(), [0, 1, 2])
        self.goes_on(db, version, [0, 1, 2])

    @each(modes=SOME, layouts=("log",))
    def test_it_happens_before_the_next_look(self):
        db, version, late = self.in_doubt(self.through.late)
        self.assertEqual(late.release(), 200)
        self.goes_on(db, version + 1, [0, 1, 2, 10])

    @each(modes=SOME, layouts=("log",))
    def test_it_happens_between_the_next_look_and_the_next_commit(self):
        """A conflict with our own earlier try: 517, and the next one starts from it."""
        db, version, late = self.in_doubt(self.through.late)
        db.execute("BEGIN IMMEDIATE")
        self.assertEqual(self.xs(db), [0, 1, 2])
        db.execute("INSERT INTO t VALUES(10, 'again')")
        self.assertEqual(late.release(), 200)
        self.refused(db, "COMMIT", CONFLICT)
        self.assertEqual(one(db, "SELECT y FROM t WHERE x = 10"), "doubt")
        db.execute("INSERT INTO t VALUES(20, 'more')")
        self.same(version + 2)
        self.no_forks()

    @each(modes=SOME, layouts=("log",))
    def test_it_comes_too_late(self):
        """The next COMMIT took the number: what was rolled back never comes back."""
        db, version, late = self.in_doubt(self.through.late)
        self.goes_on(db, version, [0, 1, 2])
        self.assertEqual(late.release(), 412)
        self.assertEqual(one(db, "SELECT r2_pull()"), version + 1)
        self.assertEqual(self.xs(db), [0, 1, 2, 99])
        self.same(version + 1)

    @each(modes=SOME, layouts=("log",))
    def test_another_machine_took_the_number(self):
        db, version, late = self.in_doubt(self.through.late)
        other = self.open("b", endpoint=self.emulator.endpoint)
        other.execute("INSERT INTO t VALUES(50, 'b')")
        self.assertEqual(late.release(), 412)
        self.goes_on(db, version + 1, [0, 1, 2, 50])

    @each(modes=SOME, layouts=("log",))
    def test_another_machine_went_on_from_it(self):
        db, version, _ = self.in_doubt(self.through.lose)
        other = self.open("b", endpoint=self.emulator.endpoint)
        other.execute("INSERT INTO t VALUES(50, 'b')")
        self.goes_on(db, version + 2, [0, 1, 2, 10, 50])


class Answers(Network):
    @each()
    def test_a_refusal_is_certain(self):
        """403: rolled back, an error with a sentence, and nothing of it comes later."""
        db = self.start()
        version = self.same()
        self.through.status(403, method="PUT")
        db.execute("BEGIN")
        db.execute("INSERT INTO t VALUES(10, 'no')")
        with self.assertRaises(sqlite3.Error) as caught:
            db.execute("COMMIT")
        self.assertNotIn(caught.exception.sqlite_errorcode, (CONFLICT, UNKNOWN))
        self.assertIn("403", one(db, "PRAGMA r2_last_error"))
        self.assertFalse(db.in_transaction)
        self.assertEqual(self.xs(db), [0, 1, 2])
        db.execute("INSERT INTO t VALUES(11, 'yes')")
        self.assertEqual(self.remote_xs(), [0, 1, 2, 11])
        self.same(version + 1)

    @each(modes=("delete", "wal"))
    def test_what_is_repeated_within_the_commit(self):
        """429, 503, a lost answer, a cut connection: COMMIT succeeds, once."""
        db = self.start()
        version = self.same()
        for n, fault in enumerate((lambda: self.through.status(429, method="PUT"),
                                   lambda: self.through.status(503, method="PUT", count=2),
                                   lambda: self.through.status(500, method="PUT"),
                                   lambda: self.through.lose(method="PUT"),
                                   lambda: self.through.cut(method="PUT"))):
            rule = fault()
            db.execute("INSERT INTO t VALUES(?, 'y')", (10 + n,))
            self.assertGreater(rule.hits, 0)
            self.same(version + n + 1)
        self.assertEqual(support.status(db, self.file())["conflicts"], 0)


# ---------------------------------------------------------------- what is refused

class Refused(CommitCase):
    def plain_with(self, *before):
        """A plain main database, our file attached as r."""
        support.load()
        db = sqlite3.connect(self.path(f"{self.count}/plain.db"), uri=True, isolation_level=None)
        self.addCleanup(db.close)
        self.opened.append(db)
        for sql in before:
            db.execute(sql)
        os.makedirs(os.path.dirname(self.file()), exist_ok=True)
        db.execute("ATTACH ? AS r", (self.target(),))
        return db

    def all_or_refused(self, db):
        """Commits on r are refused with a sentence, or in the remote: never only called so."""
        before, done = self.remote_xs(), 0
        for n in range(3):
            try:
                db.execute("INSERT INTO r.t VALUES(?, 'y')", (100 + n,))
                done += 1
            except sqlite3.Error as error:
                self.assertNotEqual(error.sqlite_errorcode, CONFLICT)
                self.assertIn("use another", one(db, "PRAGMA r.r2_last_error").replace(
                    "use locking_mode=NORMAL", "use another"))
        self.assertEqual(len(self.remote_xs()), len(before) + done)
        return done

    @each()
    def test_journal_mode_off(self):
        db = self.start()
        for word in ("off", "OFF", "'off'", '"Off"', "o", "of", "'oF'"):
            self.fails(db.execute, f"PRAGMA journal_mode={word}", says=["journal_mode=OFF", "sync=commit"])
        self.assertEqual(one(db, "PRAGMA journal_mode"), self.mode)
        db.execute("INSERT INTO t VALUES(10, 1)")
        self.same()

    @each()
    def test_locking_mode_exclusive(self):
        db = self.start()
        for word in ("exclusive", "EXCLUSIVE", "'Exclusive'"):
            self.fails(db.execute, f"PRAGMA locking_mode={word}", says=["locking_mode", "sync=commit"])
        self.assertEqual(one(db, "PRAGMA locking_mode"), "normal")
        self.assertEqual(one(db, "PRAGMA locking_mode=NORMAL"), "normal")
        db.execute("INSERT INTO t VALUES(10, 1)")
        self.same()

    @each(modes=("delete", "wal"))
    def test_other_modes_may(self):
        for pragma, said in (("journal_mode=OFF", "off"), ("locking_mode=EXCLUSIVE", "exclusive")):
            db = self.open("other", mode=False, sync="manual")
            self.assertEqual(one(db, f"PRAGMA {pragma}"), said)
            db.close()

    @each()
    def test_exclusive_around_the_pragma(self):
        """The default of a connection, or said without a schema: no PRAGMA of our file's. SQLite keeps
        the lock over COMMIT then, and nothing shows the next one."""
        self.start().close()
        db = self.plain_with("PRAGMA locking_mode=EXCLUSIVE")
        self.all_or_refused(db)
        db.close()
        self.same()
        self.world(self.mode, self.layout)
        self.start().close()
        db = self.plain_with()
        db.execute("INSERT INTO r.t VALUES(50, 1)")
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self.all_or_refused(db)
        db.close()
        self.same()

    @each(modes=ROLLBACK)
    def test_off_around_the_pragma(self):
        if sqlite3.sqlite_version_info < (3, 39):
            self.skipTest("SQLite tells the VFS no journal before 3.39")
        self.start().close()
        db = self.plain_with()
        db.execute("PRAGMA journal_mode=OFF")
        self.assertEqual(self.all_or_refused(db), 0)
        db.execute("PRAGMA journal_mode=DELETE")
        self.assertEqual(self.all_or_refused(db), 3)
        self.same()

    @each(modes=("delete", "wal"))
    def test_a_forked_child(self):
        """It has its parent's connection, but no right to push: refused, not called acknowledged."""
        self.start().close()
        said = support.run_python("""
db = sqlite3.connect(sys.argv[1], uri=True, isolation_level=None)
db.execute("PRAGMA journal_mode=" + sys.argv[2])
print("parent", db.execute("SELECT count(*) FROM t").fetchone()[0], flush=True)
pid = os.fork()
if pid == 0:
    try:
        db.execute("INSERT INTO t VALUES(77, 'child')")
        print("acknowledged", flush=True)
    except sqlite3.Error as error:
        print("refused", error, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
db.execute("INSERT INTO t VALUES(78, 'parent')")
db.close()
""", self.target(), self.mode).stdout
        self.assertIn("parent 3", said)
        self.assertIn("refused", said)
        self.assertEqual(self.remote_xs(), [0, 1, 2, 78])
        self.same()


# ---------------------------------------------------------------- several databases

class Attached(CommitCase):
    """README's limits: each database is pushed by itself, in the order of ATTACH."""

    def three(self):
        """main and b with remotes, p without; one row in each."""
        db = self.open()
        self.keys = {"main": self.key, "b": self.key.replace("app.db", "b.db")}
        self.remotes = {name: self.remote_of(key) for name, key in self.keys.items()}
        file = self.file().replace("app.db", "b.db")
        db.execute("ATTACH ? AS b", (support.uri(file, self.remotes["b"], sync="commit", layout=self.layout,
                                                 endpoint=self.through and self.through.endpoint),))
        db.execute("ATTACH ? AS p", (file + "-plain",))
        for name in ("main", "b", "p"):
            one(db, f"PRAGMA {name}.journal_mode={self.mode}")
            db.execute(f"CREATE TABLE {name}.t(x)")
            db.execute(f"INSERT INTO {name}.t VALUES(?)", (100 if name == "main" else 0,))
        return db

    def move(self, db, *names):
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"UPDATE {names[0]}.t SET x = x - 10")
        for name in names[1:]:
            db.execute(f"UPDATE {name}.t SET x = x + 10")
        db.execute("COMMIT")

    def there(self, name):
        """The number that the remote has."""
        with open(self.path("newest.db"), "wb") as file:
            file.write(self.remote_image(self.keys[name]).data)
        db = support.plain(self.path("newest.db"))
        try:
            return one(db, "SELECT x FROM t")
        finally:
            db.close()

    def balance(self, db, here, remote=None):
        self.assertEqual([one(db, f"SELECT x FROM {name}.t") for name in ("main", "b", "p")], here)
        self.assertEqual([self.there(name) for name in ("main", "b")], remote or here[:2])

    def other_writes(self, name):
        db = support.connect(self.path(f"{self.count}/other/{name}.db"), self.remotes[name], sync="commit")
        db.execute("CREATE TABLE other(x)")
        db.close()

    def failed_move(self, db, *names):
        with self.assertRaises(sqlite3.Error) as caught:
            self.move(db, *names)
        if db.in_transaction:
            db.execute("ROLLBACK")
        return caught.exception.sqlite_errorcode

    @each()
    def test_the_first_loses(self):
        """Nothing was stored: 517, and the ordinary busy-retry."""
        db = self.three()
        self.other_writes("main")
        self.assertEqual(self.failed_move(db, "main", "b"), CONFLICT)
        self.balance(db, [100, 0, 0])
        self.move(db, "main", "b")
        self.balance(db, [90, 10, 0])

    @each()
    def test_the_second_loses(self):
        """The first is stored: 7690 and not 517, since a retry would do its half twice."""
        db = self.three()
        self.other_writes("b")
        self.assertEqual(self.failed_move(db, "main", "b"), UNKNOWN)
        self.assertIn("another database of the same transaction is stored already",
                      one(db, "PRAGMA b.r2_last_error"))
        self.balance(db, [90, 0, 0])
        db.execute("UPDATE b.t SET x = x + 10")
        self.balance(db, [90, 10, 0])

    @each(modes=ROLLBACK)
    def test_with_a_plain_database(self):
        """Rollback modes: SQLite undoes the plain file's half when ours is refused."""
        db = self.three()
        self.other_writes("b")
        self.assertEqual(self.failed_move(db, "p", "b"), CONFLICT)
        self.balance(db, [100, 0, 0])
        self.move(db, "p", "b")
        self.balance(db, [100, 10, -10])


class AttachedNetwork(Network):
    keys = remotes = None
    three, move, there, balance, failed_move = (
        Attached.three, Attached.move, Attached.there, Attached.balance, Attached.failed_move)

    @each(modes=("delete", "memory", "wal"))
    def test_all_is_well(self):
        db = self.three()
        self.through.clear()
        self.move(db, "main", "b", "p")
        self.spent("PUT", "PUT")
        self.balance(db, [90, 10, 10])

    @each(modes=("delete", "memory", "wal"))
    def test_the_second_is_refused(self):
        db = self.three()
        self.through.status(403, method="PUT", key=r"b\.db")
        self.assertEqual(self.failed_move(db, "main", "b"), UNKNOWN)
        self.balance(db, [90, 0, 0])


# ---------------------------------------------------------------- beside others

class Beside(CommitCase):
    @each()
    def test_threads_count(self):
        db = self.open()
        db.execute("CREATE TABLE c(n)")
        db.execute("INSERT INTO c VALUES(0)")
        wrong = []

        def work(own):
            done = 0
            while done < 10:
                try:
                    own.execute("BEGIN IMMEDIATE")
                    own.execute("UPDATE c SET n = n + 1")
                    own.execute("COMMIT")
                    done += 1
                except sqlite3.Error as error:
                    if own.in_transaction:
                        own.execute("ROLLBACK")
                    if error.sqlite_errorcode & 0xff != sqlite3.SQLITE_BUSY:
                        wrong.append(error)
                        return
        threads = [threading.Thread(target=work, args=(self.open(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertEqual(one(db, "SELECT n FROM c"), 40)
        self.same()

    @each(modes=("delete", "wal"))
    def test_plain_sqlite_writes_too(self):
        """In another process, with checkpoints of its own; rolled back spills of ours in between."""
        a = self.start()
        a.execute("PRAGMA cache_size=1")
        stock = support.Peer(self, support.uri(self.file(), vfs=None), stock=True)
        for n in range(12):
            if n % 3:
                stock("INSERT INTO t VALUES(?, hex(randomblob(?)))", 1000 + n, n * 200)
            if n % 4 == 0:
                stock("PRAGMA wal_checkpoint(TRUNCATE)")
            if n % 5 == 0:
                a.execute("BEGIN")
                a.execute("UPDATE t SET y = zeroblob(3000)")
                a.execute("ROLLBACK")
            a.execute("INSERT INTO t VALUES(?, hex(randomblob(500)))", (10 + n,))
            self.same()

    @each(modes=("delete", "wal"))
    def test_interrupted(self):
        """sqlite3_interrupt() at any moment: acknowledged is there, refused is not."""
        db = self.start(0)
        done, stop = 0, threading.Event()

        def interrupt():
            while not stop.wait(0.0007):
                db.interrupt()
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            for n in range(60):
                try:
                    db.execute("INSERT INTO t VALUES(?, zeroblob(9000))", (n,))
                    done += 1
                except sqlite3.Error as error:
                    self.assertEqual(error.sqlite_errorcode, sqlite3.SQLITE_INTERRUPT)
        finally:
            stop.set()
            thread.join()
        self.assertEqual(one(db, "SELECT count(*) FROM t"), done)
        self.same()


if __name__ == "__main__":
    support.main()
