#!/usr/bin/env python3
"""What a network does wrong for a while: noticed and repeated, and nobody else notices."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

OPEN_ONE = """
try:
    db = sqlite3.connect(sys.argv[1], uri=True, isolation_level=None)
    print("opened", db.execute("SELECT count(*) FROM t").fetchone()[0])
    if len(sys.argv) > 2:
        db.execute("INSERT INTO t VALUES(1)")
        print("synced", db.execute("SELECT sync()").fetchone()[0])
except sqlite3.Error as error:
    print("error", error.sqlite_errorcode, error)
    try:
        print("behind it:", db.execute("PRAGMA r2_last_error").fetchone()[0])
    except NameError:
        db = sqlite3.connect(":memory:")
for row in db.execute("SELECT * FROM r2_requests"):
    print(row)
"""


class Faults(support.Case):
    def setUp(self):
        super().setUp()
        self.through = self.proxy()
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t SELECT randomblob(100) FROM (WITH RECURSIVE n(i) AS (SELECT 1 "
                   "UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()

    def open(self, name="a/app.db", **params):
        return self.connect(name, endpoint=self.through.endpoint, **params)

    def child(self, name="a/app.db", write=False, env=None, **params):
        """All that a program and its stderr print when it opens the database."""
        params.setdefault("timeout", 1000)
        target = support.uri(self.path(name), params.pop("remote", self.remote),
                             **{"endpoint": self.through.endpoint, **params})
        done = support.run_python(OPEN_ONE, target, *["write"] * write, env=env)
        return done.stdout + done.stderr

    def files(self, name):
        return {entry: support.file_sha256(os.path.join(os.path.dirname(self.path(name)), entry))
                for entry in os.listdir(os.path.dirname(self.path(name)))
                if not entry.endswith("-r2")}

    def newer(self, values=1):
        """Another machine makes the next version."""
        db = self.connect("other/app.db")
        for _ in range(values):
            db.execute("INSERT INTO t VALUES('newer')")
        version = one(db, "SELECT sync()")
        db.close()
        return version


class Passing(Faults):
    def test_statuses_of_each_method(self):
        for status in (429, 500, 502, 503, 504, 408):
            with self.subTest(status):
                version = self.newer()
                rules = [self.through.status(status, method=method)
                         for method in (support.LOOK, "GET")]
                db = self.open()
                self.assertEqual(one(db, "SELECT r2_version()"), version)
                rules.append(self.through.status(status, {"Retry-After": "1"}, method="PUT"))
                db.execute("INSERT INTO t VALUES(1)")
                self.assertEqual(one(db, "SELECT sync()"), version + 1)
                db.close()
                self.assertEqual([rule.hits for rule in rules], [1, 1, 1])
                self.assertEqual(self.bucket.head(self.key).meta["db-version"], str(version + 1))

    def test_delay(self):
        self.newer()
        rule = self.through.delay(300, count=3)
        db = self.open()
        db.execute("INSERT INTO t VALUES(1)")
        self.assertEqual(one(db, "SELECT sync()"), 3)
        self.assertEqual(rule.hits, 3)

    def test_cut(self):
        self.newer()
        rules = [self.through.cut(method=support.LOOK), self.through.cut(method="GET")]
        db = self.open()
        self.assertEqual(one(db, "SELECT r2_version()"), 2)
        self.assertEqual([rule.hits for rule in rules], [1, 1])

    @support.object_layout("its places are those of a whole file; test_log.py has its own")
    def test_truncated_body(self):
        self.newer()
        rule = self.through.truncate(5000, method="GET")
        db = self.open()
        self.assertEqual(one(db, "SELECT count(*) FROM t"), 1001)
        self.assertEqual(rule.hits, 1)
        resumed = self.through.select("GET")[-1]
        self.assertEqual(resumed.header("Range"), "bytes=5000-")
        self.assertIsNotNone(resumed.header("If-Match"))

    @support.object_layout("its places are those of a whole file; test_log.py has its own")
    def test_flipped_byte(self):
        size = self.bucket.head(self.key).size
        for name, at in (("a/app.db", 60000), ("a/app.db", 30), ("cold/app.db", size - 1)):
            with self.subTest(at):
                version = self.newer()
                rule = self.through.flip(at, method="GET")
                db = self.open(name)
                self.assertEqual((rule.hits, one(db, "SELECT r2_version()")), (1, version))
                db.close()
                with open(self.path(name), "rb") as file:
                    self.assertEqual(support.without_local_fields(file.read()),
                                     support.without_local_fields(self.bucket.get(self.key).body))

    def test_html_once(self):
        """A captive portal in front of the network, until somebody has logged in."""
        for method in (support.LOOK, "GET"):
            with self.subTest(method):
                version = self.newer()
                before = self.files("a/app.db")
                rule = self.through.html(method=method, count=None)
                said = self.child()
                self.assertGreater(rule.hits, 0)
                self.assertIn("error 14", said)
                self.assertIn("answer in its place", said)
                self.assertEqual(self.files("a/app.db"), before)
                rule.count = 0
                db = self.open()
                self.assertEqual(one(db, "SELECT r2_version()"), version)
                db.close()


if __name__ == "__main__":
    support.main()
