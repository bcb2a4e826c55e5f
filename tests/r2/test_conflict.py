#!/usr/bin/env python3
"""Conflicts: each policy and each way to settle one, and the loser is always found byte for byte."""

import os
import re
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402


class Conflict(support.Case):
    def setUp(self):
        super().setUp()
        self.through = self.proxy()
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES('base')")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()

    def open(self, name="a/app.db", **params):
        return self.connect(name, endpoint=self.through.endpoint, **params)

    def rows(self, db):
        return [row[0] for row in db.execute("SELECT x FROM t ORDER BY x")]

    def bytes_of(self, name="a/app.db"):
        with open(self.path(name), "rb") as file:
            return file.read()

    def in_remote(self):
        found = self.bucket.get(self.key)
        with open(self.path("seen.db"), "wb") as file:
            file.write(found.body)
        db = support.plain(self.path("seen.db"))
        self.addCleanup(db.close)
        return int(found.meta.get("db-version", 1)), self.rows(db)

    def other_pushes(self, value="other", name="b/app.db"):
        db = self.connect(name)
        db.execute("INSERT INTO t VALUES(?)", (value,))
        version = one(db, "SELECT sync()")
        db.close()
        return version

    def local_change(self, value="local", close=False, **params):
        """A commit that is not in the remote; the connection, or its closed file."""
        db = self.open(**{"sync": "manual", **params})
        db.execute("INSERT INTO t VALUES(?)", (value,))
        if close:
            db.close()
        return db

    def forks(self):
        return self.bucket.list(self.key + "-forks/")

    def fork_is(self, image, version, key=None):
        """The one fork (or `key`) is this local file, with the fields of `version`."""
        if key is None:
            key, = self.forks()
        found = self.bucket.get(key)
        named = re.fullmatch(re.escape(self.key) + "-forks/([0-9]+)-[0-9a-f]{16}-([0-9a-f]{16}).db",
                             key)
        self.assertTrue(named, key)
        self.assertEqual(int(named.group(1)), version)
        self.assertEqual(named.group(2), support.ltx_checksum(found.body))
        self.assertEqual(support.number_at(found.body, 24), version)
        self.assertEqual(support.without_local_fields(found.body),
                         support.without_local_fields(image))
        self.assertEqual(support.integrity_of_bytes(found.body), "ok")
        return found


class Equal(Conflict):
    """Two machines count the same, both from the same version: the bytes are equal, the work is not."""

    def counted_twice(self, layout, mode, how):
        self.key = f"{self.prefix}/{layout}-{mode}-{how}.db"
        self.remote = self.remote_of(self.key)
        mine, theirs = (f"{side}/{layout}-{mode}-{how}.db" for side in "ab")
        db = self.connect(mine, layout=layout)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE n(x)")
        db.execute("INSERT INTO n VALUES(0)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()
        peer = support.Peer(self, support.uri(self.path(mine), self.remote, sync="manual"))
        peer("UPDATE n SET x=x+1")
        self.assertEqual(peer("SELECT x FROM n"), [[1]])
        if how == "closed":
            peer("close")
        peer.kill()
        db = self.connect(theirs)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("UPDATE n SET x=x+1")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        db.close()
        db = self.connect(mine)
        self.assertEqual(one(db, "SELECT x FROM n"), 1)
        key, = self.forks()
        with open(self.path("fork.db"), "wb") as file:
            file.write(self.bucket.get(key).body)
        fork = support.plain(self.path("fork.db"))
        self.assertEqual(one(fork, "SELECT x FROM n"), 1)
        fork.close()
        db.close()

    def test_never_merge(self):
        for layout in ("log", "object"):
            for mode in ("delete", "wal"):
                for how in ("closed", "killed"):
                    with self.subTest(layout=layout, mode=mode, how=how):
                        self.counted_twice(layout, mode, how)


class AtSync(Conflict):
    def test_the_error(self):
        db = self.local_change()
        self.other_pushes()
        before = self.bytes_of()
        text = self.fails(db.execute, "SELECT sync()", code=517, says=[
            "conflict", "version 1", "version 2", self.remote, "r2_resolve('fork')",
            "r2_resolve('local')"])
        self.assertEqual(one(db, "PRAGMA r2_last_error"), text)
        self.assertEqual(self.bytes_of(), before)
        self.assertEqual(self.forks(), [])
        self.fails(db.execute, "SELECT sync()", code=517)       # it stays one
        self.fails(db.execute, "SELECT r2_pull()", code=517)
        self.assertEqual(self.rows(db), ["base", "local"])      # and work goes on
        db.execute("INSERT INTO t VALUES('more')")
        row = support.status(db, self.path("a/app.db"))
        self.assertEqual((row["conflicts"], row["version"], row["remote_version"]), (1, 1, 2))
        self.assertIn("conflict", row["last_error"])
        self.assertEqual(self.in_remote(), (2, ["base", "other"]))

    def takes_the_remote(self, how):
        db = self.local_change()
        self.other_pushes()
        self.fails(db.execute, "SELECT sync()", code=517)
        image = self.bytes_of()
        self.assertEqual(one(db, "SELECT r2_resolve(?)", how), 2)
        self.assertEqual(self.rows(db), ["base", "other"])
        self.fork_is(image, 2)
        db.execute("INSERT INTO t VALUES('again')")
        self.assertEqual(one(db, "SELECT sync()"), 3)
        self.assertEqual(self.in_remote(), (3, ["again", "base", "other"]))

    def test_resolve_fork(self):
        self.takes_the_remote("fork")

    def test_resolve_remote(self):
        self.takes_the_remote("remote")

    def test_resolve_local(self):
        db = self.local_change()
        self.other_pushes()
        other = self.bytes_of("b/app.db")
        self.fails(db.execute, "SELECT sync()", code=517)
        self.assertEqual(one(db, "SELECT r2_resolve('local')"), 3)
        self.assertEqual(self.in_remote(), (3, ["base", "local"]))
        self.fork_is(other, 2)
        self.assertEqual(one(db, "SELECT sync()"), 3)
        # The other machine follows: what it had is no local change.
        other = self.connect("b/app.db")
        self.assertEqual(self.rows(other), ["base", "local"])
        self.assertEqual(len(self.forks()), 1)

    def test_resolve_nothing(self):
        db = self.open()
        etag = self.bucket.head(self.key).etag
        for how in ("fork", "remote", "local"):
            self.assertEqual(one(db, "SELECT r2_resolve(?)", how), 1)
        self.fails(db.execute, "SELECT r2_resolve('both')", says=["'fork'", "'both'"])
        self.fails(db.execute, "SELECT r2_resolve(NULL)", says="'fork'")
        self.assertEqual((self.forks(), self.bucket.head(self.key).etag), ([], etag))
        db.execute("BEGIN")
        for sql in ("r2_resolve('fork')", "sync()", "r2_pull()"):
            self.fails(db.execute, "SELECT " + sql, says="inside a transaction")
        db.execute("COMMIT")
        reader = db.execute("SELECT 1 FROM t UNION ALL SELECT 2")
        reader.fetchone()
        self.fails(db.execute, "SELECT r2_resolve('remote')", says="unfinished statement")

    def test_resolve_local_of_nothing(self):
        """A file without a page wins over nothing: what follows stands on the remote's content."""
        self.key += ".new"
        self.remote = self.remote_of(self.key)
        db = self.open("empty/app.db", sync="manual")
        self.assertEqual(os.path.getsize(self.path("empty/app.db")), 0)
        first = self.connect("first/app.db")
        first.execute("CREATE TABLE t(x)")
        first.execute("INSERT INTO t VALUES('first')")
        self.assertEqual(one(first, "SELECT sync()"), 1)
        self.fails(db.execute, "SELECT r2_resolve('local')", says="no local content")
        self.assertEqual(self.forks(), [])
        self.assertEqual(one(db, "SELECT r2_pull()"), 1)
        db.execute("INSERT INTO t VALUES('second')")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        self.assertEqual(self.in_remote(), (2, ["first", "second"]))

    def test_both_in_wal(self):
        db = self.open(sync="manual")
        db.execute("PRAGMA journal_mode=wal")
        db.execute("INSERT INTO t VALUES('local')")
        reader = self.open(sync="manual")
        self.other_pushes()
        self.fails(db.execute, "SELECT sync()", code=517)
        reader.execute("BEGIN")
        self.assertEqual(self.rows(reader), ["base", "local"])
        copy = support.plain(self.path("a/app.db"))
        copy.execute("VACUUM INTO ?", (self.path("copy.db"),))
        copy.close()
        self.assertEqual(one(db, "SELECT r2_resolve('fork')"), 2)
        self.assertEqual(self.rows(db), ["base", "other"])
        self.assertEqual(self.rows(reader), ["base", "local"])  # its snapshot
        reader.execute("COMMIT")
        self.assertEqual(self.rows(reader), ["base", "other"])
        fork, = self.forks()
        with open(self.path("fork.db"), "wb") as file:
            file.write(self.bucket.get(fork).body)
        found = support.plain(self.path("fork.db"))
        self.addCleanup(found.close)
        self.assertEqual(self.rows(found), ["base", "local"])

    def test_fork_upload_fails(self):
        db = self.local_change()
        self.other_pushes()
        self.fails(db.execute, "SELECT sync()", code=517)
        before, remote = self.bytes_of(), self.bucket.head(self.key).etag
        for how in ("fork", "remote"):
            rule = self.through.status(403, method="PUT", key="-forks/", count=None)
            self.fails(db.execute, f"SELECT r2_resolve('{how}')",
                       says=["403", "-forks/", "nothing was changed"])
            rule.count = 0
        self.assertEqual(self.bytes_of(), before)
        self.assertEqual((self.forks(), self.bucket.head(self.key).etag), ([], remote))
        self.assertEqual(self.rows(db), ["base", "local"])
        rule = self.through.status(403, method="PUT", key="-forks/", count=None)
        self.fails(db.execute, "SELECT r2_resolve('local')", says="-forks/")
        rule.count = 0
        self.assertEqual(self.in_remote(), (2, ["base", "other"]))
        # An answer that was lost, and a fork that is there already, are successes.
        lost = self.through.lose(method="PUT", key="-forks/")
        self.assertEqual(one(db, "SELECT r2_resolve('fork')"), 2)
        self.assertEqual(lost.hits, 1)
        self.fork_is(before, 2)

    def test_adoption_looks_again(self):
        """A commit of another process while the fork is uploaded is not overwritten."""
        db = self.local_change()
        self.other_pushes()
        self.fails(db.execute, "SELECT sync()", code=517)
        rule = self.through.hold_answer(method="PUT", key="-forks/")
        errors = []

        def run():
            try:
                one(db, "SELECT r2_resolve('fork')")
            except Exception as error:
                errors.append(error)
        thread = threading.Thread(target=run)
        thread.start()
        rule.wait_hit()
        writer = support.plain(self.path("a/app.db"))
        writer.execute("INSERT INTO t VALUES('in between')")
        writer.close()
        rule.release()
        thread.join()
        self.assertEqual(len(errors), 1)
        self.assertEqual(self.rows(db), ["base", "in between", "local"])
        image = self.bytes_of()
        self.assertEqual(one(db, "SELECT r2_resolve('fork')"), 2)
        self.assertEqual(self.rows(db), ["base", "other"])
        self.assertEqual(len(self.forks()), 2)
        self.assertTrue(any(support.without_local_fields(self.bucket.get(key).body)
                            == support.without_local_fields(image) for key in self.forks()))

    @support.object_layout("it holds the object")
    def test_remote_moves_while_resolving(self):
        db = self.local_change()
        self.other_pushes()
        self.fails(db.execute, "SELECT sync()", code=517)
        held = self.through.hold(method="PUT", key="app.db$")
        versions = []
        thread = threading.Thread(target=lambda: versions.append(
            self.fails(db.execute, "SELECT r2_resolve('local')", code=517)))
        thread.start()
        held.wait_hit()
        self.assertEqual(self.other_pushes("faster"), 3)
        held.release()
        thread.join()
        self.assertEqual(len(versions), 1)
        self.assertEqual(self.in_remote(), (3, ["base", "faster", "other"]))
        self.assertEqual(one(db, "SELECT r2_resolve('local')"), 4)
        self.assertEqual(self.in_remote(), (4, ["base", "local"]))


class AtOpen(Conflict):
    def test_policy_fork(self):
        self.local_change(close=True)
        image = self.bytes_of()
        self.other_pushes()
        db = self.open()                                # conflict=fork is the default
        self.assertEqual(self.rows(db), ["base", "other"])
        self.fork_is(image, 2)
        row = support.status(db, self.path("a/app.db"))
        self.assertEqual((row["conflicts"], row["version"], row["dirty_pages"]), (1, 2, 0))
        db.execute("INSERT INTO t VALUES('on')")
        self.assertEqual(one(db, "SELECT sync()"), 3)

    def test_policy_fork_whose_upload_fails(self):
        self.local_change(close=True)
        image = self.bytes_of()
        self.other_pushes()
        self.through.status(403, method="PUT", count=None)
        self.fails(self.open, code=14)
        self.assertEqual(self.bytes_of(), image)
        self.assertEqual(self.forks(), [])
        self.through.clear_rules()
        self.assertEqual(self.rows(self.open()), ["base", "other"])
        self.fork_is(image, 2)

    def barred(self):
        self.local_change(close=True)
        image = self.bytes_of()
        self.other_pushes()
        db = self.open(conflict="error")
        for sql in ("SELECT * FROM t", "INSERT INTO t VALUES(1)"):
            self.fails(db.execute, sql, code=14)
        self.assertIn("version 1", one(db, "PRAGMA r2_last_error"))
        self.assertIn("r2_resolve", one(db, "PRAGMA r2_last_error"))
        self.fails(db.execute, "SELECT sync()", code=517, says=["version 1", "version 2"])
        self.assertEqual((self.bytes_of(), self.forks()), (image, []))
        return db, image

    def test_policy_error_fork(self):
        db, image = self.barred()
        self.assertEqual(one(db, "SELECT r2_resolve('fork')"), 2)
        self.assertEqual(self.rows(db), ["base", "other"])
        self.fork_is(image, 2)

    def test_policy_error_local(self):
        db, _ = self.barred()
        self.assertEqual(one(db, "SELECT r2_resolve('local')"), 3)
        self.assertEqual(self.rows(db), ["base", "local"])
        self.assertEqual(self.in_remote(), (3, ["base", "local"]))
        self.fork_is(self.bytes_of("b/app.db"), 2)

    def test_policy_error_and_close(self):
        db, image = self.barred()
        db.close()
        self.assertEqual((self.bytes_of(), self.forks()), (image, []))
        self.assertEqual(self.in_remote(), (2, ["base", "other"]))
        db = self.open()                                # the other policy, later
        self.assertEqual(self.rows(db), ["base", "other"])
        self.fork_is(image, 2)

    def settle_odd(self, words, rows_in_remote, version):
        """What is no plain conflict bars too; 'local' re-creates."""
        image = self.bytes_of()
        db = self.open()
        self.fails(db.execute, "SELECT * FROM t", code=14)
        text = one(db, "PRAGMA r2_last_error")
        for word in words:
            self.assertIn(word, text)
        self.fails(db.execute, "SELECT sync()", code=517, says=words)
        self.assertEqual(self.bytes_of(), image)
        self.assertEqual(one(db, "SELECT r2_resolve('local')"), version)
        self.assertEqual(self.in_remote(), (version, rows_in_remote))
        db.execute("INSERT INTO t VALUES('on')")
        self.assertEqual(one(db, "SELECT sync()"), version + 1)
        return db

    def test_an_open_beside_the_writer(self):
        """While others have the file open they must be told first: an open settles nothing."""
        db = self.local_change()
        self.other_pushes()
        self.fails(db.execute, "SELECT sync()", code=517)
        image = self.bytes_of()
        second = self.open()
        self.assertEqual(self.rows(second), ["base", "local"])
        peer = self.peer("a/app.db")
        self.assertEqual(peer.one("SELECT count(*) FROM t"), 2)
        self.assertEqual(self.forks(), [])
        self.fails(db.execute, "SELECT sync()", code=517)
        peer.end()
        second.close()
        db.close()
        self.assertEqual(self.rows(self.open()), ["base", "other"])
        self.fork_is(image, 2)

    @support.object_layout("a fresh replica of a log does not look at the snapshot; test_log.py has its own")
    def test_gone(self):
        self.bucket.delete(self.key)
        self.settle_odd(["gone", "version 1", "r2_resolve('local')"], ["base"], 2)

    @support.object_layout("a fresh replica of a log does not look at the snapshot; test_log.py has its own")
    def test_gone_under_an_open_connection(self):
        db = self.open()
        db.execute("INSERT INTO t VALUES('local')")
        self.bucket.delete(self.key)
        self.fails(db.execute, "SELECT sync()", code=517, says=["gone"])
        self.fails(db.execute, "SELECT r2_resolve('remote')", says="does not exist")
        self.assertEqual(self.rows(db), ["base", "local"])
        self.assertEqual(one(db, "SELECT r2_resolve('local')"), 2)
        self.assertEqual(self.in_remote(), (2, ["base", "local"]))

    @support.object_layout("a fresh replica of a log does not look at the snapshot; test_log.py has its own")
    def test_older(self):
        old = self.bucket.get(self.key)
        self.assertEqual(self.other_pushes("two", "a/app.db"), 2)
        self.bucket.put(self.key, old.body, old.meta)
        self.settle_odd(["older", "version 1", "version 2"], ["base", "two"], 3)
        self.fork_is(old.body, 1)

    @support.object_layout("a fresh replica of a log does not look at the snapshot; test_log.py has its own")
    def test_older_remote_taken(self):
        old = self.bucket.get(self.key)
        self.assertEqual(self.other_pushes("two", "a/app.db"), 2)
        image = self.bytes_of()
        self.bucket.put(self.key, old.body, old.meta)
        db = self.open()
        self.fails(db.execute, "SELECT * FROM t", code=14)
        self.assertEqual(one(db, "SELECT r2_resolve('remote')"), 1)
        self.assertEqual(self.rows(db), ["base"])
        self.fork_is(image, 3)

    @support.object_layout("a log is not begun anew beside what is left of another")
    def test_another_lineage(self):
        for dirty in (False, True):
            with self.subTest(dirty=dirty):
                db = self.local_change("mine")
                if not dirty:
                    one(db, "SELECT sync()")
                db.close()
                image, forks = self.bytes_of(), set(self.forks())
                self.bucket.delete(self.key)
                db = self.connect(f"new{dirty}/app.db")
                db.execute("CREATE TABLE t(x)")
                db.execute("INSERT INTO t VALUES(?)", (f"another {dirty}",))
                db.close()
                db = self.open(conflict="error")
                self.fails(db.execute, "SELECT * FROM t", code=14)
                self.assertIn("lineage", one(db, "PRAGMA r2_last_error"))
                db.close()
                db = self.open()
                self.assertEqual(self.rows(db), [f"another {dirty}"])
                new, = set(self.forks()) - forks
                self.assertEqual(support.without_local_fields(self.bucket.get(new).body),
                                 support.without_local_fields(image))
                db.close()


if __name__ == "__main__":
    support.main()
