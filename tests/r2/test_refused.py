#!/usr/bin/env python3
"""What stays wrong is an error with a sentence that names the key and the cure and no credential,
and the local file is as it was."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402
from test_faults import Faults  # noqa: E402


class Refused(Faults):
    def refused(self, *words, name="a/app.db", **more):
        before = self.files(name)
        said = self.child(name, **more)
        self.assertIn("error 14", said)
        for word in words:
            self.assertIn(word, said)
        self.assertEqual(self.files(name), before)
        self.no_credential(said)
        return said

    def no_credential(self, said):
        self.assertNotIn(self.emulator.env["R2_SECRET_ACCESS_KEY"], said)
        self.assertNotIn("Authorization", said)
        self.assertNotIn("Signature=", said)

    @support.object_layout("it damages the object; test_log.py damages segments")
    def test_flipped_byte_each_time(self):
        self.newer()
        self.through.flip(60000, method="GET", count=None)
        self.refused("checksum", self.key, "version 2", "nothing local was changed")
        self.path("cold/app.db")
        self.refused("checksum", name="cold/app.db")
        self.assertFalse(os.path.exists(self.path("cold/app.db")))

    @support.object_layout("it damages the object; test_log.py damages segments")
    def test_truncated_each_time(self):
        self.newer()
        self.through.truncate(5000, method="GET", count=None)
        self.refused(self.key)

    @support.object_layout("it damages the object; test_log.py damages segments")
    def test_wrong_etag(self):
        self.newer()
        self.through.etag('"00000000000000000000000000000000"', method="GET", count=None)
        self.refused(self.key)

    @support.object_layout("it damages the object; test_log.py damages segments")
    def test_no_etag(self):
        self.newer()
        self.through.drop_header("ETag", method="HEAD", count=None)
        self.refused("no ETag")

    @support.object_layout("it damages the object; test_log.py damages segments")
    def test_damaged_metadata(self):
        for name, value in (("db-version", "two"), ("db-version", "0"), ("db-version", "-1"),
                            ("db-version", "99999999999999999999"), ("db-lineage", "xyz"),
                            ("db-layout", "shelf"), ("db-checksum", "12")):
            with self.subTest(name=name, value=value):
                rule = self.through.set_header("x-amz-meta-" + name, value, method="HEAD",
                                               count=None)
                self.refused(name, value, self.key)
                rule.count = 0

    def test_no_metadata(self):
        """Lost on the way: the same object, by its ETag."""
        for name in ("version", "lineage", "layout", "checksum", "recent"):
            self.through.drop_header("x-amz-meta-db-" + name, method="HEAD")
            with self.subTest(name):
                self.assertIn("opened 1000", self.child())

    @support.object_layout("it says it in other words")
    def test_wrong_credentials(self):
        secret = "0123456789abcdef-not-it"
        said = self.refused("denied", "R2_SECRET_ACCESS_KEY", env={"R2_SECRET_ACCESS_KEY": secret})
        self.assertNotIn(secret, said)
        self.refused("R2_ACCESS_KEY_ID", env={"R2_ACCESS_KEY_ID": "nobody"})
        self.refused("needs credentials", "R2_SECRET_ACCESS_KEY",
                     env={"R2_SECRET_ACCESS_KEY": None})

    @support.object_layout("it says it in other words")
    def test_wrong_bucket(self):
        """A HEAD cannot tell it from a database that does not exist yet; the first push can."""
        db = self.connect("new/app.db", "s3://no-such-bucket/app.db")
        db.execute("CREATE TABLE t(x)")
        text = self.fails(db.execute, "SELECT sync()", says=["no such bucket", "no-such-bucket"])
        self.no_credential(text)
        db.close()
        self.assertEqual(support.integrity(self.path("new/app.db")), "ok")

    def test_unreachable(self):
        db = self.connect("a/app.db", sync="manual")
        db.execute("INSERT INTO t VALUES('local')")
        db.close()
        self.path("cold/app.db")
        self.through.stop()
        self.refused("no connection", "offline=allow", "a/app.db")
        said = self.child(offline="allow", write=True)
        self.assertIn("opened 1001", said)
        self.assertIn("error 10", said)                 # sync() cannot
        self.refused("no local copy", name="cold/app.db", offline="allow")
        self.assertFalse(os.path.exists(self.path("cold/app.db")))
        # What was written offline is not lost.
        db = self.connect("a/app.db")
        self.assertEqual(one(db, "SELECT count(*) FROM t"), 1002)
        self.assertEqual(one(db, "SELECT sync()"), 2)
        self.assertEqual(one(self.connect("b/app.db"), "SELECT count(*) FROM t"), 1002)

    def test_busy_until_the_deadline(self):
        for status in (429, 503):
            with self.subTest(status):
                rule = self.through.status(status, count=None)
                self.refused(str(status), "busy")
                rule.count = 0

    def test_read_only_bucket(self):
        self.through.status(403, method="PUT", count=None)
        db = self.open()
        db.execute("INSERT INTO t VALUES('kept')")
        self.fails(db.execute, "SELECT sync()", code=23, says=["403", "version 2"])
        self.assertEqual(one(db, "SELECT count(*) FROM t"), 1001)
        said = support.run_python(
            "db = sqlite3.connect(sys.argv[1], uri=True, isolation_level=None)\n"
            "db.execute(\"INSERT INTO t VALUES('also kept')\")\ndb.close()",
            support.uri(self.path("b/app.db"), self.remote, endpoint=self.through.endpoint)).stderr
        self.assertIn("at close", said)
        self.assertIn("403", said)
        self.no_credential(said)
        db.close()
        self.through.clear_rules()
        db = self.open("b/app.db")                      # the next open pushes it
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "2")
        self.assertEqual(one(db, "SELECT count(*) FROM t"), 1001)

    def test_put_that_is_refused(self):
        """400, 413: certainly did not happen, and says so; the next one goes through."""
        db = self.open()
        for status in (400, 413):
            with self.subTest(status):
                db.execute("INSERT INTO t VALUES(1)")
                rule = self.through.status(status, method="PUT")
                text = self.fails(db.execute, "SELECT sync()", says="version 2")
                self.assertNotIn("may or may not", text)
                self.assertEqual(rule.hits, 1)
        self.assertEqual(one(db, "SELECT sync()"), 2)

    def test_html_for_a_put(self):
        """200, but no ETag and a page of HTML: that is not R2's word for it."""
        db = self.open(**{"timeout": 60})
        db.execute("INSERT INTO t VALUES(1)")
        rule = self.through.html(method="PUT")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        self.assertEqual(rule.hits, 1)
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "2")
        self.assertEqual(one(self.connect("b/app.db"), "SELECT count(*) FROM t"), 1001)

    @support.object_layout("it damages the object; test_log.py damages segments")
    def test_wrong_content(self):
        """Somebody put something else there."""
        good = self.bucket.get(self.key)
        for body in (b"hello", b"<html>" * 1000, good.body[:-100], good.body + b"x",
                     good.body[:1000], b"SQLite format 3\0" + b"\xff" * 84,
                     good.body[:16] + bytes(2) + good.body[18:]):
            with self.subTest(body[:20]):
                self.bucket.put(self.key, body, {"db-version": "9"})
                self.refused(self.key)
                self.refused(self.key, name="cold/app.db")
        self.bucket.put(self.key, good.body, good.meta)
        self.assertIn("opened 1000", self.child())

    @support.object_layout("it damages the object; test_log.py damages segments")
    def test_empty_object(self):
        """Empty is a database to SQLite, but no version of this one."""
        good = self.bucket.get(self.key)
        bucket = self.emulator.bucket()     # its own: the next answer on the connection is odd
        bucket.put(self.key, b"", {"db-version": "9"})
        said = self.child()
        self.no_credential(said)
        self.assertTrue("error 14" in said and self.key in said or "no such table" in said, said)
        self.bucket.put(self.key, good.body, {"db-version": "10"})
        self.assertIn("opened 1000", self.child())

    def test_empty_object_cold(self):
        bucket = self.emulator.bucket()
        bucket.put(self.key, b"", {"db-version": "9"})
        said = self.child("cold/app.db")
        self.assertTrue("error 14" in said and self.key in said or "no such table" in said, said)


if __name__ == "__main__":
    support.main()
