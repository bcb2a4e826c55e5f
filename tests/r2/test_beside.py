#!/usr/bin/env python3
"""COMMITs in sync=commit beside everything else that uses the same file: an operation that looks at the
file gives way to a COMMIT, a COMMIT lets those pass who have waited, and a newer version that
cannot be applied now is an ordinary BUSY, in WAL mode, too."""

# One layout: each test names its own.

import os
import sqlite3
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

COMMITS = 60


class Beside(support.Case):
    def writer(self, mode, **more):
        db = self.connect("a/app.db", sync="commit", layout="log", **more)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE c(x)")
        db.execute("INSERT INTO c VALUES(0)")
        return db

    def beside(self, mode, step):
        """COMMITs while another thread does `step` over and over; neither may fail."""
        db = self.writer(mode)
        done, failed, turns = threading.Event(), [], [0]

        def go_on():
            while not done.is_set() or not turns[0]:
                try:
                    step()
                    turns[0] += 1
                except Exception as error:  # noqa: B902 (it is raised by the test)
                    failed.append(error)
                    return

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            for _ in range(COMMITS):
                db.execute("UPDATE c SET x = x + 1")
        finally:
            done.set()
            thread.join()
        if failed:
            raise failed[0]
        self.assertEqual(one(db, "SELECT x FROM c"), COMMITS)
        db.close()
        fresh = self.connect("fresh/app.db", sync="manual")
        self.assertEqual(one(fresh, "SELECT x FROM c"), COMMITS)
        fresh.close()

    def other(self, **more):
        return self.connect("a/app.db", sync="commit", **more)

    def open_and_close(self):
        db = self.other()
        db.execute("SELECT x FROM c").fetchone()
        db.close()

    # Before there was an order, each of these COMMITs waited for seconds, and some failed.
    def test_opens(self):
        self.beside("delete", self.open_and_close)

    def test_opens_wal(self):
        self.beside("wal", self.open_and_close)

    def test_sync(self):
        self.beside("delete", lambda: self.step("SELECT sync()"))

    def test_sync_wal(self):
        self.beside("wal", lambda: self.step("SELECT sync()"))

    def test_pull(self):
        self.beside("delete", lambda: self.step("SELECT r2_pull()"))

    def step(self, sql):
        if not hasattr(self, "thread_db"):
            self.thread_db, self.process_db = self.other(), self.peer("a/app.db", sync="commit")
        self.thread_db.execute(sql).fetchall()
        self.process_db(sql)

    def reader_gets_its_turn(self, mode):
        """COMMITs without a pause, until another process has begun ten transactions with refresh=0:
        each must see what was committed before it began."""
        db = self.writer(mode)
        reader = self.peer("a/app.db", sync="manual", refresh=0)
        seen, failed = [], []

        def read():
            try:
                for _ in range(10):
                    seen.append(reader.one("SELECT x FROM c"))
            except Exception as error:  # noqa: B902 (it is raised by the test)
                failed.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        count = 0
        while thread.is_alive():
            db.execute("UPDATE c SET x = x + 1")
            count += 1
        thread.join()
        if failed:
            raise failed[0]
        self.assertEqual(seen, sorted(seen))
        self.assertLessEqual(seen[-1], count)

    def test_reader(self):
        self.reader_gets_its_turn("delete")

    def test_reader_wal(self):
        self.reader_gets_its_turn("wal")

    def test_busy_in_wal(self):
        """A newer version cannot be applied while a neighbour writes: the application's busy handler
        decides how long that is waited for, and the file is free afterwards."""
        ours = self.writer("wal")
        reader = self.connect("a/app.db", refresh=0, timeout=0.3)
        self.assertEqual(one(reader, "SELECT x FROM c"), 0)
        theirs = self.connect("b/app.db", sync="commit")
        ours.execute("BEGIN IMMEDIATE")
        theirs.execute("UPDATE c SET x = 7")
        before = len(ours.execute("SELECT * FROM r2_requests").fetchall())
        # 773: up to SQLite 3.46; 6: later ones
        with self.assertRaises(sqlite3.OperationalError) as caught:
            one(reader, "SELECT x FROM c")
        self.assertIn(caught.exception.sqlite_errorcode, (773, 6))
        asked = len(ours.execute("SELECT * FROM r2_requests").fetchall()) - before
        self.assertLess(asked, 40, "SQLite's own 100 turns, and not the busy handler")
        ours.execute("ROLLBACK")
        self.assertEqual(one(reader, "SELECT x FROM c"), 7)

    def test_busy_without_handler(self):
        ours = self.writer("wal")
        reader = self.connect("a/app.db", refresh=0, timeout=0)
        self.assertEqual(one(reader, "SELECT x FROM c"), 0)
        theirs = self.connect("b/app.db", sync="commit")
        ours.execute("BEGIN IMMEDIATE")
        theirs.execute("UPDATE c SET x = 7")
        before = len(ours.execute("SELECT * FROM r2_requests").fetchall())
        with self.assertRaises(sqlite3.OperationalError):
            one(reader, "SELECT x FROM c")
        asked = len(ours.execute("SELECT * FROM r2_requests").fetchall()) - before
        self.assertLessEqual(asked, 2)


if __name__ == "__main__":
    support.main()
