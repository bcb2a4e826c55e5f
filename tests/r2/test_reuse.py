#!/usr/bin/env python3
"""A snapshot over 64 MiB is written anew with what has changed since the one before: parts that are the
same are copied on the server's side. What stands there afterwards is the version, byte by byte, whatever
the copies answer, and whoever else writes meanwhile."""
# One layout: a push in the object layout is not told what the object has already.
# Not under TSan: its threads are test_multipart's.

import os
import re
import shutil
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

MIB = 1 << 20
ROWS = 66                       # of 1 MiB
COPY = r"x-amz-copy-source-range: "


UNDER_ASAN = ("test_one_row", "test_other_bytes", "test_everything_fails")     # 66 MiB take their time


class Reuse(support.Case):
    @classmethod
    def setUpClass(cls):
        cls.shelf = tempfile.mkdtemp(prefix="r2vfs-test.")
        cls.addClassCleanup(shutil.rmtree, cls.shelf)
        db = support.plain(os.path.join(cls.shelf, "big.db"))
        db.execute("PRAGMA page_size=8192")
        db.execute("PRAGMA synchronous=off")
        db.execute("CREATE TABLE t(x)")
        db.execute("CREATE TABLE big(n INTEGER PRIMARY KEY, b)")
        db.execute("BEGIN")
        for n in range(ROWS):
            db.execute("INSERT INTO big VALUES(?, randomblob(?))", (n, MIB))
        db.execute("COMMIT")
        db.close()

    def setUp(self):
        super().setUp()
        if support.PRELOAD and self._testMethodName not in UNDER_ASAN:
            self.skipTest("one of each kind is enough under a sanitizer")
        self.through = self.proxy()
        self.addCleanup(lambda: list(map(self.bucket.delete, self.bucket.all_keys(self.prefix))))
        shutil.copy(os.path.join(self.shelf, "big.db"), self.path("a/app.db"))
        db = self.connect("a/app.db", layout="log", sync="manual", timeout=300000)
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()
        self.db = self.open()

    def open(self, name="a/app.db", **params):
        params = {"layout": "log", "sync": "manual", "timeout": 300000, **params}
        return self.connect(name, endpoint=self.through.endpoint, **params)

    def change(self, n=1, db=None):
        """Version n + 1: a row at the front of the file."""
        db = db or self.db
        db.execute("INSERT INTO t VALUES(?)", (n,))
        self.assertEqual(one(db, "SELECT sync()"), n + 1)

    def far(self, *rows):
        """A byte in the middle of each of these rows of 1 MiB, wherever they are."""
        for n in rows:
            self.db.execute("UPDATE big SET b = substr(b, 1, 524288) || x'00' || substr(b, 524290) "
                            "WHERE n = ?", (n,))

    def checkpoint(self, version, db=None):
        self.through.clear()
        self.assertEqual(one(db or self.db, "SELECT r2_checkpoint()"), version)
        self.through.settle()

    def copies(self):
        return [request for request in self.through.select("PUT", query="partNumber=")
                if request.header("x-amz-copy-source-range")]

    def sent(self):
        return [request for request in self.through.select("PUT", query="partNumber=")
                if not request.header("x-amz-copy-source-range")]

    def up(self):
        """MiB that a checkpoint sent, all in all."""
        return sum(request.request_bytes for request in self.through.requests) / MIB

    def aborted(self):
        return self.through.count("DELETE", query="^uploadId=")

    def completed(self):
        return self.through.count("POST", query="^uploadId=")

    def check(self, version, name="a/app.db"):
        """KEY is this version: a machine that has nothing reads it, comparing every page with the
        checksum, and has byte by byte what is in the local file, but for what is local."""
        self.assertEqual(self.bucket.head(self.key, raw=True).meta["db-version"], str(version))
        header = self.bucket.client.get_object(Bucket=self.bucket.name, Key=self.key,
                                               Range="bytes=0-99")["Body"].read()
        self.assertEqual(support.number_at(header, 24), version)
        for key in self.bucket.all_keys(self.key + "-log/"):
            if key.endswith(".ltx"):
                self.bucket.delete(key)         # by the snapshot alone
        cold = self.connect("cold/app.db", layout="log", sync="manual", timeout=300000)
        self.assertEqual(one(cold, "SELECT r2_version()"), version)
        for sql in ("SELECT count(*), sum(x) FROM t", "SELECT count(*), sum(length(b)) FROM big"):
            self.assertEqual(cold.execute(sql).fetchall(), self.db.execute(sql).fetchall())
        cold.close()
        content = []
        for path in ("cold/app.db", name):
            with open(self.path(path), "rb") as file:
                content.append(support.without_local_fields(file.read()))
        there, here = content
        self.assertEqual(len(there), len(here))
        self.assertTrue(there == here)          # assertEqual would print both

    # ---- what is sent

    def test_one_row(self):
        """One row in 66 MiB: one part, and requests that can be counted."""
        self.change()
        self.checkpoint(2)
        self.assertEqual((len(self.sent()), len(self.copies())), (1, 8))
        self.assertLess(self.up(), 8.1)
        self.assertEqual(self.through.count("GET", key=r"\.ltx$"), 2)   # is it the newest; what is in it
        # what is at KEY: at first, before Complete, before old segments are looked for
        self.assertEqual(self.through.count("HEAD", key=r"app\.db$"), 3)
        self.assertEqual(self.through.count("GET", key=r"app\.db$"), 0)
        self.assertEqual((self.completed(), self.aborted()), (1, 0))
        complete, = self.through.select("POST", query="^uploadId=")
        self.assertRegex(complete.header("If-Match"), "^\"")
        for request in self.copies():
            self.assertRegex(request.header("x-amz-copy-source"), "/" + re.escape(self.key) + "$")
            # R2 answers these with 501
            self.assertIsNone(request.header("x-amz-copy-source-if-match"))
        self.check(2)

    def test_one_far_row_and_again(self):
        """Two parts; then the same on top of a snapshot that was put together itself."""
        self.far(60)
        self.change()
        self.checkpoint(2)
        self.assertEqual(len(self.sent()), 2)
        self.assertLess(self.up(), 16.1)
        self.far(20)
        self.change(2)
        self.far(21)
        self.change(3)
        self.checkpoint(4)
        self.assertLess(self.up(), 24.1)
        self.assertGreater(len(self.copies()), 6)
        self.check(4)

    def test_growth(self):
        for n in range(ROWS, ROWS + 7):
            self.db.execute("INSERT INTO big VALUES(?, randomblob(?))", (n, MIB))
        self.change()
        self.checkpoint(2)
        self.assertLess(self.up(), 20)
        self.assertGreater(len(self.copies()), 6)
        self.check(2)

    def test_shrunk(self):
        """VACUUM moves nearly everything; the part of the old object behind the new end is no source."""
        self.db.execute("DELETE FROM big WHERE n > 64")
        self.db.execute("VACUUM")
        self.change()
        self.checkpoint(2)
        self.check(2)

    def test_shrunk_and_grown(self):
        """Pages that went and came back have other bytes than those at the same place."""
        self.db.execute("DELETE FROM big WHERE n > 60")
        self.db.execute("VACUUM")
        self.change()
        for n in range(61, ROWS):
            self.db.execute("INSERT INTO big VALUES(?, randomblob(?))", (n, MIB))
        self.change(2)
        self.checkpoint(3)
        self.assertGreater(len(self.copies()), 0)
        self.check(3)

    def test_page_size(self):
        self.db.execute("PRAGMA journal_mode=DELETE")
        self.db.execute("PRAGMA page_size=4096")
        self.db.execute("VACUUM")
        self.change()
        self.checkpoint(2)
        self.assertEqual(self.copies(), [])
        self.change(2)                              # on top of it
        self.checkpoint(3)
        self.assertEqual(len(self.sent()), 1)
        self.check(3)

    def test_page_size_there_and_back(self):
        for n, size in enumerate((4096, 8192), 1):
            self.db.execute(f"PRAGMA page_size={size}")
            self.db.execute("VACUUM")
            self.change(n)
        self.checkpoint(3)
        self.check(3)

    def test_much_has_changed(self):
        """Then it is the usual upload."""
        self.far(*range(0, ROWS, 4))
        self.change()
        self.checkpoint(2)
        self.assertEqual(self.copies(), [])
        self.check(2)

    def test_from_another_machine(self):
        """Whoever checkpoints need not have made the versions; nor have them."""
        self.change()
        other = self.open("b/app.db")
        self.far(33)
        self.change(2)
        self.checkpoint(3, other)                   # behind: it takes the log's head from the remote
        self.assertEqual(len(self.sent()), 2)
        self.assertEqual(self.through.count("GET", key=r"0002\.ltx$"), 1)   # not once more for this
        self.check(3)

    def test_a_segment_is_lost(self):
        """It cannot be told what has changed: all of it."""
        self.change()
        self.change(2)
        second, _ = self.bucket.all_keys(self.key + "-log/")
        self.bucket.delete(second)
        self.checkpoint(3)
        self.assertEqual(self.copies(), [])
        self.check(3)

    # ---- what the copies answer

    def in_spite_of(self, *rules, sent, aborted=0):
        """The checkpoint succeeds, and its snapshot is right."""
        self.change()
        self.checkpoint(2)
        for rule in rules:
            self.assertGreater(rule.hits, 0)
        self.assertIn(len(self.sent()), sent)
        self.assertEqual((self.completed(), self.aborted()), (1, aborted))
        self.check(2)

    def answer(self, text):
        return {"Content-Type": "application/xml"}, b"<?xml version='1.0'?>" + text.encode()

    def test_error_in_a_200(self):
        for_all = self.through.status(
            200, *self.answer("<Error><Code>InternalError</Code><Message>no</Message></Error>"),
            header=COPY, count=2)
        self.in_spite_of(for_all, sent=[1])         # tried again

    def test_error_in_every_200(self):
        for_all = self.through.status(
            200, *self.answer("<Error><Code>InvalidRequest</Code><Message>no</Message></Error>"),
            header=COPY, count=None)
        self.in_spite_of(for_all, sent=[9])
        self.assertLessEqual(for_all.hits, 5)       # not one by one: three fail, two are under way

    def test_not_implemented(self):
        self.in_spite_of(self.through.status(501, header=COPY, count=None), sent=[9])

    def test_missing(self):
        self.in_spite_of(self.through.status(404, *self.answer("<Error><Code>NoSuchKey</Code></Error>"),
                                             header=COPY, nth=3), sent=[2])

    def test_unavailable(self):
        self.in_spite_of(self.through.status(503, header=COPY, count=None), sent=[9])

    def test_no_answer(self):
        self.in_spite_of(self.through.lose(header=COPY, nth=2),
                         self.through.cut(header=COPY, nth=5), sent=[1])

    def test_html(self):
        self.in_spite_of(self.through.html(header=COPY, nth=2), sent=[2])

    def test_other_bytes(self):
        """The store says by the part's ETag, as R2 does, that it copied other bytes: dropped, and all is
        sent; nothing is copied again."""
        wrong = self.through.status(
            200, *self.answer("<CopyPartResult><ETag>&quot;" + "ab" * 16 + "&quot;</ETag>"
                              "</CopyPartResult>"), header=COPY, nth=4)
        self.change()
        self.checkpoint(2)
        self.assertEqual(wrong.hits, 1)
        self.assertEqual((self.completed(), self.aborted()), (1, 1))
        self.assertGreater(self.up(), ROWS)
        self.check(2)

    def test_other_etag(self):
        """It is refused when the parts are put together: all is sent."""
        flipped = self.through.flip(130, header=COPY, nth=4)
        self.change()
        self.checkpoint(2)
        self.assertEqual((flipped.hits, self.completed(), self.aborted()), (1, 2, 1))
        self.check(2)

    def test_everything_fails(self):
        """Nothing is left behind, nothing was changed; the next time it is done."""
        before = self.bucket.head(self.key, raw=True).etag
        rule = self.through.status(403, method="PUT", query="partNumber=", count=None)
        self.change()
        self.through.clear()
        self.fails(self.db.execute, "SELECT r2_checkpoint()", says=["checkpoint", "part", "403"])
        self.assertEqual((self.completed(), self.aborted()), (0, 1))
        self.assertEqual(self.bucket.head(self.key, raw=True).etag, before)
        rule.count = 0
        self.checkpoint(2)
        self.check(2)

    def test_lost_answer_to_complete(self):
        lost = self.through.lose(method="POST", query="^uploadId=")
        self.in_spite_of(lost, sent=[1])

    # ---- whoever else writes

    def beside(self, held, meanwhile):
        """r2_checkpoint(), and `meanwhile` while these are held."""
        failures = []

        def run():
            try:
                one(self.db, "SELECT r2_checkpoint()")
            except BaseException as error:
                failures.append(error)
        self.through.clear()
        thread = threading.Thread(target=run)
        thread.start()
        try:
            meanwhile()
        finally:
            for rule in held:
                rule.release()
            thread.join()
        self.through.settle()
        self.assertEqual(failures, [])

    def test_lost_race(self):
        """Another machine's checkpoint, of a later version, comes between the copies."""
        self.change()
        other = self.connect("b/app.db", sync="manual", timeout=300000)
        held = self.through.hold(header=COPY, nth=5)

        def meanwhile():
            held.wait_hit()
            other.execute("UPDATE big SET b = randomblob(1048576) WHERE n IN (9, 50)")
            other.execute("INSERT INTO t VALUES(2)")
            self.assertEqual(one(other, "SELECT sync()"), 3)
            self.assertEqual(one(other, "SELECT r2_checkpoint()"), 3)
        self.beside([held], meanwhile)
        self.assertEqual((self.completed(), self.aborted()), (0, 1))
        one(self.db, "SELECT r2_pull()")
        self.check(3)

    def test_lost_race_to_an_older_one(self):
        """A snapshot that is older than ours, and newer than what was looked at, comes in between: ours
        replaces that one, with what is the same in both."""
        first = self.bucket.get(self.key, raw=True)
        self.far(9)
        self.change()
        self.checkpoint(2)
        second = self.bucket.get(self.key, raw=True)
        self.bucket.put(self.key, first.body, first.meta)
        self.db = self.open("c/app.db")             # has seen no other snapshot
        self.far(40)
        self.change(2)
        held = self.through.hold(header=COPY, nth=5)

        def meanwhile():
            held.wait_hit()
            self.bucket.put(self.key, second.body, second.meta)
        self.beside([held], meanwhile)
        self.assertEqual((self.completed(), self.aborted()), (1, 1))
        self.assertEqual(self.through.count("GET", key=r"\.ltx$"), 3)   # not read twice
        self.check(3, "c/app.db")

    def test_put_back_by_hand(self):
        """KEY is replaced while a part is copied, and put back with the very same bytes: every ETag is
        what it was, and the copy is not. The ETag of the whole tells, and all is sent."""
        found = self.bucket.get(self.key, raw=True)
        self.bucket.put(self.key, found.body, found.meta)       # in one: its ETag is that of its bytes
        etag = self.bucket.head(self.key, raw=True).etag
        self.change()
        held = [self.through.hold(header=COPY, nth=4), self.through.hold(header=COPY, nth=7)]

        def meanwhile():
            held[0].wait_hit()
            self.bucket.put(self.key, os.urandom(MIB) * (len(found.body) // MIB + 1), found.meta)
            held[0].release()
            held[1].wait_hit()
            support.until(lambda: any(r.fault == "hold" and r.ms is not None for r in self.copies()))
            self.bucket.put(self.key, found.body, found.meta)
            self.assertEqual(self.bucket.head(self.key, raw=True).etag, etag)
        self.beside(held, meanwhile)
        self.assertEqual(self.completed(), 2)
        self.check(2)


if __name__ == "__main__":
    support.main()
