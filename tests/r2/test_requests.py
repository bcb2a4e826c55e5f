#!/usr/bin/env python3
"""What each operation costs: every request is counted at the proxy."""

import os
import sys
import threading
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one, until  # noqa: E402


class Requests(support.Case):
    def setUp(self):
        super().setUp()
        self.through = self.proxy()

    def open(self, name="app.db", **params):
        return self.connect(name, endpoint=self.through.endpoint, **params)

    def seed(self, rows=10):
        """Version 1, made past the proxy; local file in place at a/app.db."""
        db = self.connect("a/app.db")
        db.execute("BEGIN")
        db.execute("CREATE TABLE t(x)")
        db.executemany("INSERT INTO t VALUES(?)", [(n,) for n in range(rows)])
        db.execute("COMMIT")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()

    def other_writes(self, sql="INSERT INTO t VALUES(100)"):
        db = self.connect("other/app.db")
        db.execute(sql)
        db.close()

    def spent(self, *methods):
        """Exactly these requests, in this order, since the last look."""
        self.through.settle()
        seen = [request.method for request in self.through.requests]
        self.assertEqual(seen, list(methods), self.through.requests)
        requests = list(self.through.requests)
        self.through.clear()
        return requests

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_open_up_to_date(self):
        self.seed()
        db = self.open("a/app.db")
        head, = self.spent("HEAD")
        self.assertEqual(head.response_bytes, 0)
        self.assertEqual(one(db, "SELECT count(*) FROM t"), 10)
        db.execute("BEGIN")
        db.execute("COMMIT")
        self.assertEqual(one(db, "SELECT r2_version()"), 1)
        row = support.status(db, self.path("a/app.db"))
        self.assertEqual((row["requests_a"], row["requests_b"]), (0, 1))
        self.assertEqual((row["bytes_up"], row["bytes_down"], row["pulls"]), (0, 0, 0))
        db.close()                                          # without writes
        self.spent()

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_open_newer(self):
        self.seed()
        self.other_writes()
        db = self.open("a/app.db")
        self.spent("HEAD", "GET")
        self.assertEqual(one(db, "SELECT count(*) FROM t"), 11)
        row = support.status(db, self.path("a/app.db"))
        self.assertEqual((row["requests_a"], row["requests_b"], row["pulls"]), (0, 2, 1))
        self.assertEqual(row["bytes_down"], self.bucket.head(self.key).size)
        db.close()
        self.spent()

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_cold_open(self):
        self.seed()
        db = self.open("cold/app.db")
        self.spent("HEAD", "GET")
        self.assertEqual(one(db, "SELECT count(*) FROM t"), 10)
        db.close()
        self.spent()

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_open_of_nothing(self):
        db = self.open()
        self.spent("HEAD")
        db.close()
        self.spent()
        self.assertFalse(self.bucket.exists(self.key))

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_close_with_writes(self):
        db = self.open()
        self.spent("HEAD")
        db.execute("CREATE TABLE t(x)")
        self.spent()
        db.close()
        put, = self.spent("PUT")
        self.assertEqual(put.header("If-None-Match"), "*")
        etag = self.bucket.head(self.key).etag
        db = self.open()
        db.execute("INSERT INTO t VALUES(1)")
        db.close()
        _, put = self.spent("HEAD", "PUT")
        self.assertEqual(put.header("If-Match"), etag)
        self.assertIsNone(put.header("Expect"))

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_the_last_but_one_connection(self):
        """Each connection that wrote pushes when it closes; one that did not pushes nothing new."""
        db, other = self.open(), self.open()
        self.spent("HEAD", "HEAD")
        db.execute("CREATE TABLE t(x)")
        db.close()
        self.spent("PUT")
        other.close()
        self.spent()

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_sync(self):
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.key = f"{self.prefix}/{mode}.db"
                self.remote = self.remote_of(self.key)
                db = self.open(mode + ".db")
                db.execute(f"PRAGMA journal_mode={mode}")
                db.execute("CREATE TABLE t(x)")
                self.spent("HEAD")
                self.assertEqual(one(db, "SELECT sync()"), 1)
                self.spent("PUT")
                self.assertEqual(one(db, "SELECT sync()"), 1)       # clean
                self.spent()
                for n in range(5):
                    db.execute("INSERT INTO t VALUES(?)", (n,))
                row = support.status(db, self.path(mode + ".db"))
                self.assertGreater(row["dirty_pages"], 0)
                self.assertEqual(one(db, "SELECT r2_sync()"), 2)
                self.spent("PUT")
                row = support.status(db, self.path(mode + ".db"))
                self.assertEqual((row["requests_a"], row["requests_b"]), (2, 1))
                self.assertEqual((row["pushes"], row["dirty_pages"], row["conflicts"]), (2, 0, 0))
                self.assertEqual(row["bytes_up"], 2 * self.bucket.head(self.key).size)
                db.close()
                self.spent()

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_manual(self):
        db = self.open(sync="manual")
        db.execute("CREATE TABLE t(x)")
        db.close()
        self.spent("HEAD")
        db = self.open(sync="manual")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        self.spent("HEAD", "PUT")

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_small_questions(self):
        self.seed()
        db = self.open("a/app.db")
        self.spent("HEAD")
        self.assertEqual(one(db, "SELECT r2_version()"), 1)
        self.spent()
        self.other_writes()
        self.assertEqual(one(db, "SELECT r2_remote_version()"), 2)
        self.spent("HEAD")
        self.assertEqual(one(db, "SELECT r2_version()"), 1)
        self.assertEqual(one(db, "SELECT r2_pull()"), 2)
        self.spent("HEAD", "GET")
        self.assertEqual(one(db, "SELECT r2_pull()"), 2)
        self.spent("HEAD")
        url = one(db, "SELECT r2_presign(60)")
        self.spent()
        with urllib.request.urlopen(url) as answer:
            self.assertEqual(answer.read(), self.bucket.get(self.key).body)
        self.fails(db.execute, "SELECT r2_presign(0)", says="604800")
        self.fails(db.execute, "SELECT r2_presign(604801)", says="604800")

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_the_log_of_requests(self):
        self.seed()
        db = self.open("a/app.db")
        db.execute("INSERT INTO t VALUES(1)")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        rows = db.execute("SELECT method, key, status, retries, time, ms >= 0 FROM r2_requests"
                          " WHERE key = ? LIMIT 2", (self.key,)).fetchall()
        self.assertEqual([row[:4] for row in rows],
                         [("PUT", self.key, 200, 0), ("HEAD", self.key, 200, 0)])
        for row in rows:
            self.assertRegex(row[4], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ$")
            self.assertEqual(row[5], 1)

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_nothing_committed(self):
        self.seed(3000)
        db = self.open("a/app.db")
        self.spent("HEAD")
        db.execute("BEGIN")
        db.execute("INSERT INTO t VALUES(1)")
        db.execute("ROLLBACK")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.execute("PRAGMA cache_size=3")               # spills: the file is written, and restored
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE t SET x = x + 1")
        db.execute("INSERT INTO t SELECT x FROM t")
        db.execute("ROLLBACK")
        db.execute("UPDATE t SET x = x")                # a commit that changes no byte of content
        db.close()
        self.spent()
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_loose_pages(self):
        """A rollback does not restore the leaves of the free list."""
        self.seed(3000)
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE u AS SELECT randomblob(3000) AS b FROM t LIMIT 100")
        db.execute("DROP TABLE u")
        db.close()
        with open(self.path("a/app.db"), "rb") as file:
            before = file.read()
        db = self.open("a/app.db")
        self.spent("HEAD")
        db.execute("PRAGMA cache_size=3")
        db.execute("BEGIN")
        db.execute("CREATE TABLE u AS SELECT randomblob(3000) AS b FROM t LIMIT 90")
        db.execute("ROLLBACK")
        with open(self.path("a/app.db"), "rb") as file:
            after = file.read()
        self.assertNotEqual(support.without_local_fields(before),
                            support.without_local_fields(after), "the trap is not set")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        db.close()
        self.spent()
        self.other_writes()                             # and they make no conflict
        db = self.open("a/app.db")
        self.assertEqual(one(db, "SELECT count(*) FROM t"), 3001)
        row = support.status(db, self.path("a/app.db"))
        self.assertEqual((row["conflicts"], row["version"]), (0, 3))
        db.execute("INSERT INTO t VALUES(5)")
        self.assertEqual(one(db, "SELECT sync()"), 4)
        self.assertEqual(self.bucket.list(self.prefix), [self.key])

    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_idle_with_a_timer(self):
        """A second database with the same timer shows that its periods pass."""
        self.seed()
        db = self.open("a/app.db", sync=100)
        self.spent("HEAD")
        tick = self.connect("tick.db", "file://" + self.path("remote/tick.db"), sync=100)
        tick.execute("CREATE TABLE t(x)")
        for version in range(1, 6):
            tick.execute("INSERT INTO t VALUES(1)")
            until(lambda: one(tick, "SELECT r2_version()") >= version)
        self.spent()
        db.execute("INSERT INTO t VALUES(1)")           # the timer does work for this one
        until(lambda: one(db, "SELECT r2_version()") == 2)
        self.spent("PUT")
        for version in range(6, 9):
            tick.execute("INSERT INTO t VALUES(1)")
            until(lambda: one(tick, "SELECT r2_version()") >= version)
        db.close()
        self.spent()

    def test_sixteen_threads_share_uploads(self):
        self.seed()
        dbs = [self.open("a/app.db") for _ in range(16)]
        self.through.clear()
        first = self.through.hold(method="PUT")
        committed, versions = threading.Semaphore(0), []

        def work(n, db):
            db.execute("INSERT INTO t VALUES(?)", (1000 + n,))
            committed.release()
            versions.append(one(db, "SELECT sync()"))

        threads = [threading.Thread(target=work, args=pair) for pair in enumerate(dbs)]
        for thread in threads:
            thread.start()
        for _ in threads:
            self.assertTrue(committed.acquire(timeout=support.DEADLINE))
        first.wait_hit()
        first.release()
        for thread in threads:
            thread.join()
        self.assertLessEqual(self.through.count("PUT"), 2)
        self.assertEqual(self.through.count(), self.through.count("PUT"))
        self.assertEqual(len(versions), 16)
        self.assertEqual(one(self.connect("b/app.db"), "SELECT count(*) FROM t WHERE x >= 1000"),
                         16)
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], str(max(versions)))

    def many_opens(self, name):
        """64 threads that open while the first one's probe is held."""
        first = self.through.hold(method="HEAD")
        dbs, threads = [], [threading.Thread(target=lambda: dbs.append(self.open(name)))
                            for _ in range(64)]

        def asleep(thread):
            with open(f"/proc/self/task/{thread.native_id}/stat") as file:
                return file.read().rsplit(")", 1)[1].split()[0] == "S"

        threads[0].start()
        first.wait_hit()
        for thread in threads[1:]:
            thread.start()
        for _ in range(5):          # each wait lets those go on that only wait for the interpreter
            until(lambda: all(map(asleep, threads)))
        first.release()
        for thread in threads:
            thread.join()
        self.assertEqual(len(dbs), 64)
        self.assertEqual({one(db, "SELECT count(*) FROM t") for db in dbs}, {10})
        for db in dbs:
            db.close()

    @unittest.skipUnless(os.path.isdir("/proc/self/task"), "needs Linux")
    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_sixty_four_opens(self):
        self.seed()
        self.many_opens("a/app.db")
        self.spent("HEAD", "HEAD")  # the second one began after all of the others had come

    @unittest.skipUnless(os.path.isdir("/proc/self/task"), "needs Linux")
    @support.object_layout("it counts the requests of one object; test_log.py has its own")
    def test_sixty_four_cold_opens(self):
        self.seed()
        self.many_opens("cold/app.db")
        self.spent("HEAD", "GET", "HEAD")


if __name__ == "__main__":
    support.main()
