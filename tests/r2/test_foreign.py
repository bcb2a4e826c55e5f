#!/usr/bin/env python3
"""Other programs at the same object: what follows db-version takes part, all else is a conflict."""

import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402


@support.object_layout("a log has no foreign writers")
class Foreign(support.Case):
    def edit(self, body, sql):
        """A database's bytes after plain SQLite ran this on them."""
        path = self.path("edit/x.db")
        with open(path, "wb") as file:
            file.write(body)
        db = support.plain(path)
        db.execute("PRAGMA journal_mode=delete")
        db.execute(sql)
        db.close()
        with open(path, "rb") as file:
            return file.read()

    def middleware(self, value, version=None, meta=None):
        """What a program with an S3 library and SQLite does: get, change, put if unchanged."""
        found = self.bucket.get(self.key)
        version = version or int(found.meta["db-version"]) + 1
        body = self.edit(found.body, f"INSERT INTO t VALUES('{value}')")
        self.bucket.put(self.key, body, {**(meta or {}), "db-version": str(version)},
                        if_match=found.etag)
        return version

    def seed(self, versions=1):
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE t(x)")
        for version in range(1, versions + 1):
            db.execute("INSERT INTO t VALUES(?)", (f"base {version}",))
            self.assertEqual(one(db, "SELECT sync()"), version)
        db.close()

    def rows(self, db):
        return [row[0] for row in db.execute("SELECT x FROM t ORDER BY rowid")]

    def forks(self):
        return self.bucket.list(self.key + "-forks/")

    def test_a_plain_object(self):
        """A file that somebody uploaded: version 1, or the db-version that it carries."""
        for meta, version in (({}, 1), ({"db-version": "7"}, 7), ({"owner": "me"}, 1)):
            with self.subTest(meta):
                self.key = f"{self.prefix}/{len(meta)}{version}.db"
                self.remote = self.remote_of(self.key)
                body = self.edit(b"", "CREATE TABLE t AS SELECT 'theirs' AS x")
                etag = self.bucket.put(self.key, body, meta)
                db = self.connect(f"{version}{len(meta)}/app.db")
                self.assertEqual(self.rows(db), ["theirs"])
                self.assertEqual(one(db, "SELECT r2_version()"), version)
                self.assertEqual(self.bucket.head(self.key).etag, etag)     # reading is no push
                db.execute("INSERT INTO t VALUES('ours')")
                self.assertEqual(one(db, "SELECT sync()"), version + 1)
                found = self.bucket.get(self.key)
                self.assertEqual(found.meta["db-version"], str(version + 1))
                self.assertRegex(found.meta["db-lineage"], "[1-9a-f]")
                self.assertEqual(found.meta["db-checksum"], support.ltx_checksum(found.body))

    def test_taking_turns(self):
        self.seed()
        lineage = self.bucket.head(self.key).meta["db-lineage"]
        expected = ["base 1"]
        db = self.connect("a/app.db")
        for turn in range(8):
            version = self.middleware(f"theirs {turn}")
            self.assertEqual(version, 2 * turn + 2)
            self.assertEqual(one(db, "SELECT r2_pull()"), version)
            db.execute("INSERT INTO t VALUES(?)", (f"ours {turn}",))
            self.assertEqual(one(db, "SELECT sync()"), version + 1)
            expected += [f"theirs {turn}", f"ours {turn}"]
            found = self.bucket.get(self.key)
            self.assertEqual(found.meta["db-lineage"], lineage)     # carried on
            self.assertEqual(found.meta["db-checksum"], support.ltx_checksum(found.body))
        self.assertEqual(self.rows(db), expected)
        self.assertEqual(self.rows(self.connect("b/app.db")), expected)
        self.assertEqual((support.status(db, self.path("a/app.db"))["conflicts"], self.forks()),
                         (0, []))

    def test_a_third_machine_follows(self):
        """It slept through the foreign version: no other lineage, no conflict."""
        self.seed()
        self.connect("b/app.db").close()
        self.middleware("theirs")
        db = self.connect("a/app.db")
        db.execute("INSERT INTO t VALUES('ours')")
        self.assertEqual(one(db, "SELECT sync()"), 3)
        other = self.connect("b/app.db", conflict="error")
        self.assertEqual(self.rows(other), ["base 1", "theirs", "ours"])
        self.assertEqual(self.forks(), [])

    def test_higher_with_our_metadata(self):
        """It copies all metadata, and puts a higher db-version and other bytes there."""
        self.seed()
        meta = self.bucket.head(self.key).meta
        self.middleware("theirs", 3, meta)
        db = self.connect("a/app.db")
        self.assertEqual((self.rows(db), one(db, "SELECT r2_version()")),
                         (["base 1", "theirs"], 3))
        db.execute("INSERT INTO t VALUES('ours')")
        self.assertEqual(one(db, "SELECT sync()"), 4)

    def test_higher_while_we_are_dirty(self):
        self.seed()
        db = self.connect("a/app.db")
        db.execute("INSERT INTO t VALUES('ours')")
        self.middleware("theirs")
        self.fails(db.execute, "SELECT sync()", code=517, says=["version 1", "version 2"])
        self.assertEqual(one(db, "SELECT r2_resolve('fork')"), 2)
        self.assertEqual(self.rows(db), ["base 1", "theirs"])
        self.assertEqual(len(self.forks()), 1)

    def test_equal_lower_or_missing(self):
        """A program that does not count up has written over a version: that is a conflict."""
        for version in ("2", "1", None):
            for dirty in (False, True):
                with self.subTest(version=version, dirty=dirty):
                    self.key = f"{self.prefix}/{version}{dirty}.db"
                    self.remote = self.remote_of(self.key)
                    name = f"{version}{dirty}/app.db"
                    db = self.connect(name, sync="manual")
                    db.execute("CREATE TABLE t AS SELECT 'base' AS x")
                    one(db, "SELECT sync()")
                    db.execute("INSERT INTO t VALUES('two')")
                    self.assertEqual(one(db, "SELECT sync()"), 2)
                    if dirty:
                        db.execute("INSERT INTO t VALUES('ours')")
                    body = self.edit(self.bucket.get(self.key).body,
                                     "INSERT INTO t VALUES('theirs')")
                    self.bucket.put(self.key, body, {"db-version": version} if version else {})
                    theirs = self.bucket.head(self.key).etag
                    self.fails(db.execute, "SELECT r2_pull()", code=517, says="version 2")
                    if dirty:
                        self.fails(db.execute, "SELECT sync()", code=517, says="version 2")
                    self.assertEqual(self.bucket.head(self.key).etag, theirs)
                    db.close()
                    mine = support.file_sha256(self.path(name))
                    db = self.connect(name, conflict="error")
                    self.fails(db.execute, "SELECT * FROM t", code=14)
                    db.close()
                    self.assertEqual(support.file_sha256(self.path(name)), mine)
                    db = self.connect(name)         # conflict=fork
                    self.assertEqual(self.rows(db), ["base", "two", "theirs"])
                    self.assertEqual(len(self.forks()), 1)
                    db.execute("INSERT INTO t VALUES('on')")
                    self.assertEqual(one(db, "SELECT sync()"), one(db, "SELECT r2_version()"))
                    self.assertEqual(self.rows(self.connect(f"{version}{dirty}b/app.db")),
                                     ["base", "two", "theirs", "on"])

    def test_theirs_lands_in_our_sync(self):
        self.seed()
        through = self.proxy()
        db = self.connect("a/app.db", endpoint=through.endpoint)
        db.execute("INSERT INTO t VALUES('ours')")
        held, said = through.hold(method="PUT"), []
        thread = threading.Thread(target=lambda: said.append(
            self.fails(db.execute, "SELECT sync()", code=517)))
        thread.start()
        held.wait_hit()
        self.middleware("theirs")
        held.release()
        thread.join()
        self.assertIn("version 2", said[0])
        self.assertEqual(self.bucket.head(self.key).meta, {"db-version": "2"})

    def test_their_if_match_sees_ours(self):
        """The other way round: a middleware that read before our push must not win."""
        self.seed()
        found = self.bucket.get(self.key)
        db = self.connect("a/app.db")
        db.execute("INSERT INTO t VALUES('ours')")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        with self.assertRaises(support.Precondition):
            self.bucket.put(self.key, found.body, {"db-version": "2"}, if_match=found.etag)
        # also when the content went back to what it was: the counter made other bytes of it
        db.execute("DELETE FROM t WHERE x = 'ours'")
        one(db, "SELECT sync()")
        with self.assertRaises(support.Precondition):
            self.bucket.put(self.key, found.body, {"db-version": "2"}, if_match=found.etag)

    def test_another_page_size_and_schema(self):
        self.seed()
        db = self.connect("a/app.db")
        found = self.bucket.get(self.key)
        body = self.edit(found.body, "CREATE TABLE u AS SELECT 5 AS y")
        path = self.path("edit/x.db")
        plain = support.plain(path)
        plain.execute("PRAGMA page_size=512")
        plain.execute("VACUUM")
        plain.close()
        with open(path, "rb") as file:
            body = file.read()
        self.assertEqual(support.page_size_of(body), 512)
        self.bucket.put(self.key, body, {"db-version": "2"})
        self.assertEqual(one(db, "SELECT r2_pull()"), 2)
        self.assertEqual(one(db, "SELECT y FROM u"), 5)
        self.assertEqual(one(db, "PRAGMA page_size"), 512)
        db.execute("INSERT INTO u VALUES(6)")
        self.assertEqual(one(db, "SELECT sync()"), 3)
        self.assertEqual(one(self.connect("b/app.db"), "SELECT sum(y) FROM u"), 11)

    def test_a_copy_of_the_same_version(self):
        """Metadata and bytes copied onto themselves: nothing happened."""
        self.seed()
        found = self.bucket.get(self.key)
        self.bucket.delete(self.key)
        self.bucket.put(self.key, found.body, found.meta)
        db = self.connect("a/app.db")
        self.assertEqual(self.rows(db), ["base 1"])
        db.execute("INSERT INTO t VALUES('ours')")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        self.assertEqual(self.forks(), [])

    def in_parts(self, body, meta):
        """Uploaded as another program does it, in parts: an ETag that is no MD5."""
        client, where = self.bucket.client, {"Bucket": self.bucket.name, "Key": self.key}
        upload = client.create_multipart_upload(Metadata=meta, **where)["UploadId"]
        etag = client.upload_part(UploadId=upload, PartNumber=1, Body=body, **where)["ETag"]
        client.complete_multipart_upload(UploadId=upload, MultipartUpload={
            "Parts": [{"PartNumber": 1, "ETag": etag}]}, **where)
        self.assertNotEqual(len(self.bucket.head(self.key).etag), 34)

    def test_a_copy_in_parts(self):
        """The same bytes under an ETag that is no MD5 are the same version: they are looked at."""
        self.seed()
        found = self.bucket.get(self.key)
        self.in_parts(found.body, found.meta)
        db = self.connect("a/app.db")
        db.execute("INSERT INTO t VALUES('ours')")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        self.assertEqual(self.rows(self.connect("b/app.db")), ["base 1", "ours"])
        self.assertEqual(self.forks(), [])

    def theirs_under_our_metadata(self, put):
        found = self.bucket.get(self.key)
        put(self.edit(found.body, "INSERT INTO t VALUES('theirs')"), found.meta)

    def put_whole(self, body, meta):
        self.bucket.put(self.key, body, meta)

    def test_other_bytes_with_all_our_metadata(self):
        """Whoever changes the bytes and copies every name and value of ours is not overwritten."""
        for put in (self.put_whole, self.in_parts):
            for when in ("open", "closed", "dirty"):
                with self.subTest(put=put.__name__, when=when):
                    self.key = f"{self.prefix}/{put.__name__}-{when}.db"
                    self.remote = self.remote_of(self.key)
                    here = f"{put.__name__}-{when}/a.db"
                    db = self.connect(here)
                    db.execute("CREATE TABLE t(x)")
                    self.assertEqual(one(db, "SELECT sync()"), 1)
                    if when == "open":
                        self.theirs_under_our_metadata(put)
                        db.execute("INSERT INTO t VALUES('ours')")
                        for _ in range(2):      # also the second time
                            self.fails(db.execute, "SELECT sync()", code=517)
                    else:
                        db.close()
                        if when == "dirty":
                            db = self.connect(here, sync="manual")
                            db.execute("INSERT INTO t VALUES('ours')")
                            db.close()
                        self.theirs_under_our_metadata(put)
                        db = self.connect(here)
                        self.fails(db.execute, "SELECT * FROM t", code=14)
                        self.assertIn("checksum", one(db, "SELECT r2_last_error()"))
                    self.assertIn(b"theirs", self.bucket.get(self.key).body)
                    # theirs cannot be told from a damaged object: the user decides, nothing is lost
                    self.assertEqual(one(db, "SELECT r2_resolve('local')"), 2)
                    self.assertEqual(self.rows(db), [] if when == "closed" else ["ours"])
                    kept = [self.bucket.get(fork).body for fork in self.forks()]
                    self.assertTrue(any(b"theirs" in body for body in kept))
                    db.close()


if __name__ == "__main__":
    support.main()
