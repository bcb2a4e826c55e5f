#!/usr/bin/env python3
"""Who is far behind takes the snapshot where that is less than the segments up to it, and loses nothing
by it: every request is counted at the proxy, and the bucket changes while it is under way."""
# One layout: its tests say theirs.

import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

FAR, NEAR = 150, 40             # versions: as segments dearer, and cheaper, than a small snapshot


class FarBehind(support.Case):
    def setUp(self):
        super().setUp()
        self.through = self.proxy()

    def start(self, rows=20, mode="delete"):
        """Version 1 with `rows` KiB here, and at another machine, whose requests are counted."""
        self.key = f"{self.prefix}/{mode}{rows}.db"
        self.remote = self.remote_of(self.key)
        self.place = f"{mode}{rows}"
        self.writer = self.open("a.db")
        self.writer.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        self.writer.execute("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?) "
                            "INSERT INTO t SELECT i, randomblob(1000) FROM c", (rows,))
        self.assertEqual(one(self.writer, "SELECT sync()"), 1)
        self.db = self.open("b.db", endpoint=self.through.endpoint)
        self.assertEqual(one(self.db, f"PRAGMA journal_mode={mode}"), mode)
        self.assertEqual(one(self.db, "SELECT r2_pull()"), 1)
        self.through.clear()

    def open(self, name, **params):
        return self.connect(f"{self.place}/{name}", layout="log", sync="manual", **params)

    def write(self, versions, checkpoint=True):
        """Returns the version it is at now."""
        for _ in range(versions):
            self.writer.execute("UPDATE t SET y = randomblob(900) WHERE x = 7")
            version = one(self.writer, "SELECT sync()")
        if checkpoint:
            one(self.writer, "SELECT r2_checkpoint()")
        return version

    def asked(self):
        """How many requests: (segments that were there, that were not, HEADs of KEY, GETs of KEY)."""
        self.through.settle()
        found = self.through.requests
        def count(method, status, end):
            return sum(r.method == method and r.status in status and r.key.endswith(end) for r in found)
        return (count("GET", (200,), ".ltx"), count("GET", (404,), ".ltx"),
                count("HEAD", (200,), ".db"), count("GET", (200, 206), ".db"))

    def same(self, version, db=None):
        db = db or self.db
        self.assertEqual(one(db, "SELECT r2_version()"), version)
        rows = "SELECT * FROM t ORDER BY x"
        self.assertEqual(db.execute(rows).fetchall(), self.writer.execute(rows).fetchall())
        self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
        self.assertEqual(self.remote_version(), version)
        self.assertFalse([k for k in self.bucket.list(self.prefix) if "-forks/" in k])

    def held(self, meanwhile, **match):
        """Pull, and do that while a request of it waits; returns the version or the error."""
        rule = self.through.hold(**match)
        answer = []

        def pull():
            try:
                answer.append(one(self.db, "SELECT r2_pull()"))
            except support.sqlite3.Error as error:
                answer.append(str(error))
        thread = threading.Thread(target=pull)
        thread.start()
        try:
            rule.wait_hit()
            meanwhile()
        finally:
            rule.release()
            thread.join()
        return answer[0]

    # ---- what it costs

    def test_small(self):
        for mode in ("delete", "wal"):
            with self.subTest(mode=mode):
                self.start(mode=mode)
                self.write(FAR)
                version = self.write(20, checkpoint=False)
                self.assertEqual(one(self.db, "SELECT r2_pull()"), version)
                there, gone, heads, gets = self.asked()
                self.assertEqual((there, gets), (1 + 2 + 8 + 20, 1))
                self.assertLessEqual(gone, 1)
                self.assertLessEqual(heads, 2)
                self.same(version)
                self.write(1, checkpoint=False)             # and goes on from there as ever
                self.through.clear()
                self.assertEqual(one(self.db, "SELECT r2_pull()"), version + 1)
                self.assertEqual(self.asked()[0], 1)
                self.assertEqual(self.asked()[2:], (0, 0))
                self.same(version + 1)

    def test_at_open(self):
        self.start()
        self.db.close()
        version = self.write(FAR)
        self.through.clear()
        self.db = self.open("b.db", endpoint=self.through.endpoint)
        self.assertEqual(self.asked()[3], 1)
        self.assertLess(len(self.through.requests), 20)
        self.same(version)

    def test_large(self):
        self.start(rows=12000)
        version = self.write(FAR)
        self.assertEqual(one(self.db, "SELECT r2_pull()"), version)
        there, gone, _, gets = self.asked()
        self.assertEqual((there, gets), (FAR, 0))
        self.assertLessEqual(gone, 64)
        self.same(version)

    def test_near(self):
        self.start()
        version = self.write(NEAR)
        self.assertEqual(one(self.db, "SELECT r2_pull()"), version)
        self.assertEqual(self.asked()[0::3], (NEAR, 0))
        self.same(version)

    def test_no_newer_snapshot(self):
        self.start()
        version = self.write(FAR, checkpoint=False)
        self.assertEqual(one(self.db, "SELECT r2_pull()"), version)
        self.assertEqual(self.asked()[0::3], (FAR, 0))
        self.same(version)

    # ---- what becomes of the snapshot meanwhile

    def test_replaced(self):
        self.start()
        self.write(FAR)
        self.held(lambda: self.write(3), method="GET", key=r"\.db$")
        self.assertEqual(self.asked()[3], 1)
        self.same(FAR + 4)

    def test_replaced_each_time(self):
        self.start()
        version = self.write(FAR)
        rule = self.through.status(412, method="GET", key=r"\.db$", count=None)
        self.assertEqual(one(self.db, "SELECT r2_pull()"), version)
        self.assertEqual(rule.hits, 2)
        self.same(version)

    def test_collected(self):
        for replaced in (False, True):
            with self.subTest(replaced=replaced):
                self.start(rows=20 + replaced)
                version = self.write(FAR)

                def collect():
                    for key in self.bucket.all_keys(self.key + "-log/"):
                        self.bucket.delete(key)
                    if replaced:
                        self.write(2)
                self.assertEqual(self.held(collect, method="GET", key=r"\.db$"),
                                 version + 2 * replaced)
                self.same(version + 2 * replaced)

    def test_another_lineage(self):
        self.start()
        self.write(FAR)
        before = one(self.db, "SELECT y FROM t WHERE x = 7")

        def born_again():
            for key in self.bucket.all_keys(self.key):
                self.bucket.delete(key)
            other = self.open("other.db")
            other.execute("CREATE TABLE other(x)")
            self.assertEqual(one(other, "SELECT sync()"), 1)
            other.close()
        self.assertIn("another database", self.held(born_again, method="GET", key=r"\.db$"))
        self.assertEqual(one(self.db, "SELECT y FROM t WHERE x = 7"), before)
        self.fails(one, self.db, "SELECT r2_pull()", says="another database")
        self.assertEqual(one(self.db, "SELECT y FROM t WHERE x = 7"), before)

    def test_damaged(self):
        for what in ("bytes", "metadata", "size"):
            with self.subTest(what=what):
                self.start(rows=20 + len(what))
                version = self.write(FAR)
                found = self.bucket.get(self.key)
                body, meta = bytearray(found.body), dict(found.meta)
                if what == "bytes":
                    body[5000] ^= 1
                elif what == "size":
                    del body[-4096:]
                else:
                    del meta["db-checksum"]
                self.bucket.put(self.key, bytes(body), meta=meta)
                self.assertEqual(one(self.db, "SELECT r2_pull()"), version)
                self.assertEqual(self.asked()[0], FAR + (0 if what == "metadata" else 11))
                self.bucket.put(self.key, found.body, meta=found.meta)
                self.same(version)

    # ---- what stands here

    def test_reader_in_wal(self):
        self.start(mode="wal")
        reader = self.open("b.db", endpoint=self.through.endpoint)
        reader.execute("BEGIN")
        before = one(reader, "SELECT y FROM t WHERE x = 7")
        version = self.write(FAR)
        self.assertEqual(one(self.db, "SELECT r2_pull()"), version)
        self.assertEqual(self.asked()[3], 1)
        self.assertEqual(one(reader, "SELECT y FROM t WHERE x = 7"), before)
        reader.execute("COMMIT")
        self.same(version, reader)
        self.same(version)

    def test_dirty(self):
        for mode in ("delete", "wal"):
            with self.subTest(mode=mode):
                self.start(mode=mode)
                self.db.execute("UPDATE t SET y = 'here' WHERE x = 3")
                version = self.write(FAR)
                self.through.clear()
                self.fails(one, self.db, "SELECT r2_pull()", says="conflict")
                self.assertEqual(self.asked(), (1, 0, 0, 0))
                self.assertEqual(one(self.db, "SELECT y FROM t WHERE x = 3"), "here")
                self.assertEqual(one(self.db, "SELECT r2_version()"), 1)
                self.assertEqual(self.remote_version(), version)

    def test_in_doubt(self):
        """Our push landed without an answer, or never did; many versions later it is still known."""
        for landed in (True, False):
            with self.subTest(landed=landed):
                self.start(rows=20 + landed)
                self.db.close()
                peer = self.peer(f"{self.place}/b.db", layout="log", sync="manual",
                                 endpoint=self.through.endpoint)
                peer("UPDATE t SET y = 'ours' WHERE x = 3")
                lost = (self.through.lose if landed else self.through.cut)(method="PUT")
                down = self.through.cut(count=None)
                peer.send("SELECT sync()")
                lost.wait_hit()
                peer.kill()
                down.count = 0
                if landed:
                    self.assertEqual(one(self.writer, "SELECT r2_pull()"), 2)
                version = self.write(FAR)
                self.through.clear()
                self.db = self.open("b.db", endpoint=self.through.endpoint)
                there, _, _, gets = self.asked()
                self.assertEqual(gets, 1)
                self.assertLess(there, 20)
                self.assertEqual(one(self.db, "SELECT r2_version()"), version)
                forks = [k for k in self.bucket.list(self.prefix) if "-forks/" in k]
                if landed:
                    self.assertEqual(one(self.db, "SELECT y FROM t WHERE x = 3"), "ours")
                    self.same(version)
                else:
                    self.assertEqual(len(forks), 1)         # as ever: it was overtaken


if __name__ == "__main__":
    support.main()
