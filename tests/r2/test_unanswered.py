#!/usr/bin/env python3
"""A PUT without an answer: it happened, it did not, or it happens later. Our own success is never
taken for a conflict, a conflict never for a success."""

import os
import shutil
import sqlite3
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

DOUBT = "may or may not have been stored"


class Unanswered(support.Case):
    def setUp(self):
        super().setUp()
        self.through = self.proxy()
        self.down_rule = None
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE t(x)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()
        self.db = self.open()

    def open(self, name="a/app.db", **params):
        return self.connect(name, endpoint=self.through.endpoint, **params)

    def down(self):
        """From now on no request is answered, nor forwarded."""
        self.down_rule = self.through.cut(count=None)

    def up(self):
        self.down_rule.count = 0

    def insert(self, *values, db=None):
        for value in values:
            (db or self.db).execute("INSERT INTO t VALUES(?)", (value,))

    def in_remote(self):
        """(version, the rows) of what stands in the bucket."""
        found = self.bucket.get(self.key)
        with open(self.path("seen.db"), "wb") as file:
            file.write(found.body)
        db = support.plain(self.path("seen.db"))
        rows = [row[0] for row in db.execute("SELECT x FROM t ORDER BY x")]
        db.close()
        self.assertEqual(found.meta["db-checksum"], support.ltx_checksum(found.body))
        return int(found.meta["db-version"]), rows

    def never_a_conflict(self, path="a/app.db"):
        self.assertEqual(support.status(self.db, self.path(path))["conflicts"], 0)
        self.assertEqual(self.bucket.list(self.prefix), [self.key])


class Answered(Unanswered):
    """The doubt ends before the deadline."""

    def test_lost_answer(self):
        self.insert(1)
        lost = self.through.lose(method="PUT")
        self.assertEqual(one(self.db, "SELECT sync()"), 2)
        self.assertEqual((lost.hits, self.through.count("PUT")), (1, 1))
        self.assertEqual(self.in_remote(), (2, [1]))
        self.insert(2)                                  # and the next one goes on from there
        self.assertEqual(one(self.db, "SELECT sync()"), 3)
        self.assertEqual(self.in_remote(), (3, [1, 2]))
        self.never_a_conflict()

    def test_lost_answer_at_birth(self):
        self.key += ".new"
        self.remote = self.remote_of(self.key)
        self.db = self.open("new/app.db")
        self.db.execute("CREATE TABLE t(x)")
        self.through.lose(method="PUT")
        self.assertEqual(one(self.db, "SELECT sync()"), 1)
        self.assertEqual(self.in_remote(), (1, []))
        self.insert(5)
        self.assertEqual(one(self.db, "SELECT sync()"), 2)

    def test_cut_before_forwarding(self):
        for after_body in (False, True):
            with self.subTest(after_body=after_body):
                self.insert(1)
                version = self.in_remote()[0] + 1
                cut = self.through.cut(after_body=after_body, method="PUT")
                self.assertEqual(one(self.db, "SELECT sync()"), version)
                self.assertEqual(cut.hits, 1)
                self.assertEqual(self.in_remote()[0], version)
        self.never_a_conflict()

    def test_500_that_happened(self):
        for status in (500, 502, 504):
            with self.subTest(status):
                self.insert(status)
                version = self.in_remote()[0] + 1
                # a first request lands and gets no answer, its repetition 5xx, and so on
                self.through.lose(method="PUT")
                failed = self.through.status(status, method=support.LOOK)
                self.assertEqual(one(self.db, "SELECT sync()"), version)
                self.assertEqual(failed.hits, 1)
                self.assertEqual(self.in_remote()[0], version)
        self.never_a_conflict()

    def test_lost_at_close(self):
        self.insert(1)
        self.through.lose(method="PUT")
        self.db.close()
        self.assertEqual(self.in_remote(), (2, [1]))
        self.db = self.open()
        self.assertEqual(one(self.db, "SELECT r2_version()"), 2)
        self.never_a_conflict()

    def test_a_real_conflict_with_a_lost_answer(self):
        other = self.connect("b/app.db")
        self.insert(100, db=other)
        self.assertEqual(one(other, "SELECT sync()"), 2)
        self.insert(1)
        self.through.lose(method="PUT")                 # what is lost is a 412
        self.fails(self.db.execute, "SELECT sync()", code=517, says=["version 1", "version 2"])
        self.assertEqual(self.in_remote(), (2, [100]))


class Unknown(Unanswered):
    """The deadline comes first."""

    def setUp(self):
        super().setUp()
        self.db.close()
        self.db = self.short("a/app.db")

    def short(self, name):
        target = support.uri(self.path(name), self.remote, endpoint=self.through.endpoint,
                             timeout=1500)
        db = sqlite3.connect(target, uri=True, timeout=60, isolation_level=None,
                             check_same_thread=False)
        self.addCleanup(db.close)
        return db

    def doubt(self, action, *values):
        """A sync() that ends in doubt; the network is down afterwards. Returns the PUT's rule."""
        self.insert(*values)
        rule = action(method="PUT")
        self.down()
        self.fails(self.db.execute, "SELECT sync()", code=10, says=DOUBT)
        self.assertEqual(rule.hits, 1)
        self.assertIn(DOUBT, one(self.db, "PRAGMA r2_last_error"))
        return rule

    def test_landed(self):
        self.doubt(self.through.lose, 1)
        self.assertEqual(self.in_remote(), (2, [1]))
        self.fails(self.db.execute, "SELECT sync()", code=10, says=DOUBT)
        self.up()
        self.through.clear()
        self.assertEqual(one(self.db, "SELECT sync()"), 2)
        self.assertEqual(self.through.count("PUT"), 0)
        self.never_a_conflict()

    def test_not_landed(self):
        self.doubt(self.through.cut, 1)
        self.assertEqual(self.in_remote(), (1, []))
        self.up()
        self.assertEqual(one(self.db, "SELECT sync()"), 2)
        self.assertEqual(self.in_remote(), (2, [1]))
        self.never_a_conflict()

    def test_landed_and_more_commits(self):
        self.doubt(self.through.lose, 1)
        self.insert(2)
        self.up()
        self.assertEqual(one(self.db, "SELECT sync()"), 3)
        self.assertEqual(self.in_remote(), (3, [1, 2]))
        self.never_a_conflict()

    def test_not_landed_and_more_commits(self):
        self.doubt(self.through.cut, 1)
        self.insert(2)
        self.fails(self.db.execute, "SELECT sync()", code=10, says=DOUBT)
        self.insert(3)
        self.up()
        self.assertEqual(one(self.db, "SELECT sync()"), 2)
        self.assertEqual(self.in_remote(), (2, [1, 2, 3]))
        self.never_a_conflict()

    def test_late_before_the_next_sync(self):
        rule = self.doubt(self.through.late, 1)
        self.assertEqual(rule.release(), 200)
        self.insert(2)
        self.up()
        self.assertEqual(one(self.db, "SELECT sync()"), 3)
        self.assertEqual(self.in_remote(), (3, [1, 2]))
        self.never_a_conflict()

    def test_late_after_a_look(self):
        """The next sync() sees nothing of it, sends more, and only then the first one lands."""
        rule = self.doubt(self.through.late, 1)
        self.insert(2)
        self.up()
        held = self.through.hold(method="PUT")
        versions = []
        thread = threading.Thread(
            target=lambda: versions.append(one(self.db, "SELECT sync()")))
        thread.start()
        held.wait_hit()
        self.assertEqual(rule.release(), 200)
        held.release()
        thread.join()
        self.assertEqual(versions, [3])
        self.assertEqual(self.in_remote(), (3, [1, 2]))
        self.never_a_conflict()

    def test_late_after_another_of_ours_won(self):
        rule = self.doubt(self.through.late, 1)
        self.insert(2)
        self.up()
        self.assertEqual(one(self.db, "SELECT sync()"), 2)
        self.assertEqual(rule.release(), 412)
        self.insert(3)
        self.assertEqual(one(self.db, "SELECT sync()"), 3)
        self.assertEqual(self.in_remote(), (3, [1, 2, 3]))
        self.never_a_conflict()

    def going_back(self, db, end):
        """Local commits undo what is in doubt, to the very bytes of the base, and sync() says that
        they are in the remote. What lands afterwards must not take their place."""
        db("DELETE FROM t")
        db("INSERT INTO t VALUES(5)")
        db("SELECT sync()")
        db("UPDATE t SET x = 6")
        late = self.through.late(method="PUT")
        self.down()
        self.fails(db, "SELECT sync()", code=10, says=DOUBT)
        db("UPDATE t SET x = 5")
        self.up()
        db("SELECT sync()")
        end()
        late.release()
        db = self.peer("a/app.db")
        self.assertEqual(db.one("SELECT x FROM t"), 5)
        db("SELECT sync()")
        self.assertEqual(self.in_remote()[1], [5])

    def test_late_after_going_back(self):
        self.going_back(lambda sql: self.db.execute(sql).fetchall(), lambda: None)

    def test_late_after_going_back_and_a_kill(self):
        self.db.close()
        peer = self.peer("a/app.db", endpoint=self.through.endpoint, **{"timeout": 1500})
        self.going_back(peer, peer.kill)

    def test_late_birth(self):
        self.db.close()
        self.key += ".new"
        self.remote = self.remote_of(self.key)
        self.db = self.short("new/app.db")
        self.db.execute("CREATE TABLE t(x)")
        rule = self.doubt(self.through.late, 1)
        self.insert(2)
        self.up()
        held = self.through.hold(method="PUT")
        versions = []
        thread = threading.Thread(
            target=lambda: versions.append(one(self.db, "SELECT sync()")))
        thread.start()
        held.wait_hit()
        self.assertEqual(rule.release(), 200)
        held.release()
        thread.join()
        self.assertEqual(versions, [2])
        self.assertEqual(self.in_remote(), (2, [1, 2]))

    def killed(self, action, release_before=None, more=(), expect=None):
        """The same in a process that is killed in doubt; another one goes on."""
        self.db.close()
        target = support.uri(self.path("a/app.db"), self.remote, timeout=1500,
                             endpoint=self.through.endpoint)
        peer = support.Peer(self, target)
        peer("INSERT INTO t VALUES(1)")
        rule = action(method="PUT")
        self.down()
        self.fails(peer, "SELECT sync()", code=10, says=DOUBT)
        for value in more:
            peer("INSERT INTO t VALUES(?)", value)
        peer.kill()
        if release_before:
            self.assertEqual(rule.release(), 200)
        self.up()
        peer = support.Peer(self, target)
        self.assertEqual(peer.one("SELECT sync()"), expect[0])
        if release_before is False:
            self.assertEqual(rule.release(), 412)
        self.assertEqual(self.in_remote(), expect)
        peer("INSERT INTO t VALUES(50)")
        self.assertEqual(peer.one("SELECT sync()"), expect[0] + 1)
        self.assertEqual(peer.one("SELECT conflicts FROM r2_status"), 0)
        self.assertEqual(self.bucket.list(self.prefix), [self.key])

    def test_killed_landed(self):
        self.killed(self.through.lose, expect=(2, [1]))

    def test_killed_not_landed(self):
        self.killed(self.through.cut, expect=(2, [1]))

    def test_killed_landed_more(self):
        self.killed(self.through.lose, more=[2, 3], expect=(3, [1, 2, 3]))

    def test_killed_not_landed_more(self):
        self.killed(self.through.cut, more=[2, 3], expect=(2, [1, 2, 3]))

    def test_killed_late_before(self):
        self.killed(self.through.late, True, more=[2], expect=(3, [1, 2]))

    def test_killed_late_after(self):
        self.killed(self.through.late, False, more=[2], expect=(2, [1, 2]))

    def test_killed_landed_and_moved(self):
        """The file is moved to another disk with the journal of a transaction that did not end. Taken back,
        it holds what was sent, but for what stood on pages of the free list, which no journal keeps."""
        self.db.execute("WITH n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 60) "
                        "INSERT INTO t SELECT randomblob(3000) FROM n")
        self.db.execute("DELETE FROM t")
        self.assertEqual(one(self.db, "SELECT sync()"), 2)
        self.db.close()
        peer = support.Peer(self, support.uri(self.path("a/app.db"), self.remote, timeout=1500,
                                              endpoint=self.through.endpoint))
        peer("INSERT INTO t VALUES(1)")
        self.through.lose(method="PUT")
        self.down()
        self.fails(peer, "SELECT sync()", code=10, says=DOUBT)
        peer.kill()
        self.up()
        before = support.file_sha256(self.path("a/app.db"))
        stock = support.plain(self.path("a/app.db"))
        stock.execute("PRAGMA cache_size=1")
        stock.execute("BEGIN")
        stock.execute("WITH n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 40) "
                      "INSERT INTO t SELECT randomblob(3000) FROM n")
        for suffix in ("", "-journal", "-r2"):
            shutil.copyfile(self.path("a/app.db" + suffix), self.path("b/app.db" + suffix))
        stock.close()
        db = support.plain(self.path("b/app.db"))
        self.assertEqual(db.execute("SELECT x FROM t").fetchall(), [(1,)])
        db.close()
        self.assertNotEqual(support.file_sha256(self.path("b/app.db")), before)
        self.db = self.open("b/app.db")
        self.assertEqual(one(self.db, "SELECT sync()"), 3)
        self.insert(2)
        self.assertEqual(one(self.db, "SELECT sync()"), 4)
        self.assertEqual(self.in_remote(), (4, [1, 2]))
        self.never_a_conflict("b/app.db")

    def test_another_replica_on_top(self):
        self.doubt(self.through.lose, 1)
        other = self.connect("b/app.db")
        self.insert(100, db=other)
        self.assertEqual(one(other, "SELECT sync()"), 3)
        self.up()
        self.assertIn(one(self.db, "SELECT sync()"), (2, 3))
        self.assertEqual(one(self.db, "SELECT r2_pull()"), 3)
        self.assertEqual(one(self.db, "SELECT count(*) FROM t"), 2)
        self.never_a_conflict()

    def test_another_replica_on_top_and_more_commits(self):
        self.doubt(self.through.lose, 1)
        self.insert(2)
        other = self.connect("b/app.db")
        self.insert(100, db=other)
        self.assertEqual(one(other, "SELECT sync()"), 3)
        self.up()
        self.fails(self.db.execute, "SELECT sync()", code=517, says=["version 2", "version 3"])
        self.assertEqual(one(self.db, "SELECT r2_resolve('fork')"), 3)
        self.assertEqual(self.db.execute("SELECT x FROM t ORDER BY 1").fetchall(), [(1,), (100,)])
        self.assertEqual(len(self.bucket.list(self.key + "-forks/")), 1)

    def test_another_replica_won(self):
        rule = self.doubt(self.through.late, 1)
        other = self.connect("b/app.db")
        self.insert(100, db=other)
        self.assertEqual(one(other, "SELECT sync()"), 2)
        self.assertEqual(rule.release(), 412)
        self.up()
        self.fails(self.db.execute, "SELECT sync()", code=517, says=["version 1", "version 2"])
        self.assertEqual(self.in_remote(), (2, [100]))

    @support.object_layout("foreign writers")
    def test_hidden_by_a_foreign_writer(self):
        """Ours landed, and a program that knows nothing of db-recent wrote over it."""
        self.doubt(self.through.lose, 1)
        found = self.bucket.get(self.key)
        self.bucket.put(self.key, found.body, {"db-version": "7"})
        self.up()
        with self.assertRaises(sqlite3.Error):          # not knowing is no success
            self.db.execute("SELECT sync()").fetchone()
        self.assertEqual(one(self.db, "SELECT r2_resolve('fork')"), 7)
        self.assertEqual(self.bucket.head(self.key).meta, {"db-version": "7"})


del Unanswered

if __name__ == "__main__":
    support.main()
