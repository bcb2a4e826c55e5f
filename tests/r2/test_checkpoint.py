#!/usr/bin/env python3
"""Checkpoints, bases, collection and the change of layout: the snapshot is at any time a whole, plain
SQLite file with its version, whoever writes it and whatever goes wrong on the way; nobody who follows
is left behind; what is old goes, and only that."""
# One layout: its tests say theirs.

import os
import sqlite3
import sys
import time
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

CONFLICT = 517              # SQLITE_BUSY_SNAPSHOT
CORRUPT = 11
DAY = 86400


class Log(support.Case):
    """A database in the log layout, its objects seen past r2vfs."""

    def open(self, name="app.db", **params):
        return self.connect(name, **{"layout": "log", **params})

    def seed(self, count=3, name="app.db", **params):
        """Versions 1 .. count; version n holds the rows 1 .. n-1."""
        db = self.open(name, **params)
        db.execute("CREATE TABLE t(x)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        for n in range(1, count):
            self.add(db, n)
        return db

    def add(self, db, n):
        db.execute("INSERT INTO t VALUES(?)", (n,))
        return one(db, "SELECT sync()")

    def rows(self, db):
        return [x for x, in db.execute("SELECT x FROM t ORDER BY x")]

    # ---- the remote

    def object(self, key=None):
        """(bytes, metadata) of an object, whatever it is."""
        key = key or self.key
        if self.remote_kind == "s3":
            found = self.bucket.get(key, raw=True)
            return found.body, found.meta
        path = self.file_of(key)
        with open(path, "rb") as file:
            return file.read(), support.sidecar(path)

    def file_of(self, key):
        return os.path.join(self.folder, "remote", key)

    def names(self):
        """The names in the log's folder(s), lineage and all, without those of other kinds."""
        top = self.key + "-log/"
        if self.remote_kind == "s3":
            return [key[len(top):] for key in self.bucket.all_keys(top)]
        found = []
        for folder, _, names in os.walk(self.file_of(top)):
            found += [os.path.relpath(os.path.join(folder, name), self.file_of(top))
                      for name in names if ".r2vfs" not in folder]
        return sorted(found)

    def versions(self, suffix):
        """Of segments (".ltx") or bases (".db") of the snapshot's lineage."""
        folder = self.object()[1]["db-lineage"][:8] + "/"
        return [int(name[9:25], 16) for name in self.names()
                if name.startswith(folder) and name.endswith(suffix)]

    def snapshot(self, version=None):
        """The object KEY is a whole SQLite file, and what its metadata say; returns (rows, metadata)."""
        body, meta = self.object()
        self.assertEqual(support.integrity_of_bytes(body), "ok")
        self.assertEqual(support.ltx_checksum(body), meta["db-checksum"])
        self.assertEqual(support.number_at(body, 24), int(meta["db-version"]))
        self.assertEqual(len(body), support.number_at(body, 28) * support.page_size_of(body))
        self.assertEqual(meta["db-recent"].split(":")[0], meta["db-version"])
        if version is not None:
            self.assertEqual(int(meta["db-version"]), version)
        path = self.path("look/snapshot.db")
        with open(path, "wb") as file:
            file.write(body)
        db = support.plain(path)
        try:
            return self.rows(db), meta
        finally:
            db.close()

    def cold(self, rows, version, name=None, **params):
        """A machine without anything local gets this."""
        self.colds = getattr(self, "colds", 0) + 1
        db = self.connect(name or f"cold{self.colds}/app.db", **params)
        self.assertEqual(self.rows(db), rows)
        self.assertEqual(one(db, "SELECT r2_version()"), version)
        return db


# ---------------------------------------------------------------- when, and what

class Checkpoint(Log):
    def test_at_close(self):
        """A small database's snapshot is the newest version after each close."""
        db = self.seed(4)
        self.snapshot(1)
        self.assertEqual(self.versions(".ltx"), [2, 3, 4])
        db.close()
        self.assertEqual(self.snapshot(4)[0], [1, 2, 3])
        self.assertEqual(self.versions(".db"), [1])
        db = self.open()
        db.execute("INSERT INTO t VALUES(4)")
        db.close()                                  # pushes, then writes the snapshot
        self.assertEqual(self.snapshot(5)[0], [1, 2, 3, 4])
        self.assertEqual(self.versions(".ltx"), [2, 3, 4, 5])
        self.assertEqual(self.versions(".db"), [1])  # one base within the retention is enough
        before = self.object()
        self.open().close()                         # a reader writes nothing
        self.assertEqual(self.object(), before)
        self.cold([1, 2, 3, 4], 5)

    def test_last_one_out(self):
        """Not while other connections of the process are open; then whoever closes last."""
        db = self.seed(3)
        reader = self.open()
        db.close()
        self.snapshot(1)
        reader.close()
        self.snapshot(3)

    def test_asked_for(self):
        db = self.seed(4)
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 4)
        self.assertEqual(self.snapshot(4)[0], [1, 2, 3])
        before = self.object()
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 4)       # nothing to do
        self.assertEqual(self.object(), before)
        self.assertEqual(one(db, "SELECT r2_checkpoint('log')"), 4)
        self.assertEqual(one(db, "SELECT r2_checkpoint('main')"), 4)
        self.assertEqual(one(db, "SELECT r2_checkpoint('log', 'main')"), 4)
        self.fails(db.execute, "SELECT r2_checkpoint('nowhere')", says="no schema 'nowhere'")
        self.fails(db.execute, "SELECT r2_checkpoint('x', 'main')", says="'log' or 'object'")
        db.execute("BEGIN")
        db.execute("SELECT * FROM t").fetchall()
        self.fails(db.execute, "SELECT r2_checkpoint()", says="inside a transaction")
        db.execute("COMMIT")

    def test_dirty(self):
        """What was not pushed stays so: the snapshot is the newest version without it."""
        db = self.seed(3, sync="manual")
        db.execute("INSERT INTO t VALUES(99)")
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 3)
        self.assertEqual(self.snapshot(3)[0], [1, 2])
        self.assertEqual(self.rows(db), [1, 2, 99])
        self.assertEqual(support.status(db)["version"], 3)
        self.assertGreater(support.status(db)["dirty_pages"], 0)
        self.assertEqual(one(db, "SELECT sync()"), 4)
        self.cold([1, 2, 99], 4)

    def test_behind(self):
        """A replica that is behind writes the newest version all the same, and stays where it is."""
        db = self.seed(3)
        other = self.open("b/app.db")
        for n in (3, 4, 5):
            self.add(db, n)
        self.assertEqual(one(other, "SELECT r2_checkpoint()"), 6)
        self.assertEqual(self.snapshot(6)[0], [1, 2, 3, 4, 5])
        self.assertEqual(one(other, "SELECT r2_version()"), 3)
        self.assertEqual(self.rows(other), [1, 2])
        self.assertEqual(one(other, "SELECT r2_pull()"), 6)
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 6)       # the other one knows
        self.assertEqual(self.add(db, 6), 7)
        self.assertEqual(self.add(other, 7) if one(other, "SELECT r2_pull()") else None, 8)

    def test_modes(self):
        """Page sizes, WAL, other fields of the header: the snapshot has the version's bytes."""
        for n, (mode, size) in enumerate((("wal", 512), ("delete", 65536), ("wal", 4096))):
            with self.subTest(mode=mode, size=size):
                self.key = f"{self.prefix}/{n}/app.db"
                self.remote = self.remote_of(self.key)
                db = self.open(f"{n}/app.db")
                db.execute(f"PRAGMA page_size={size}")
                db.execute(f"PRAGMA journal_mode={mode}")
                db.execute("CREATE TABLE t(x)")
                one(db, "SELECT sync()")
                for k in range(5):
                    db.execute(f"CREATE TABLE u{k}(a)")
                    self.add(db, k)
                self.assertEqual(one(db, "SELECT r2_checkpoint()"), 6)
                self.assertEqual(self.snapshot(6)[0], list(range(5)))
                self.assertEqual(self.remote_image().version, 6)
                self.add(db, 5)
                self.assertEqual(self.remote_image().version, 7)
                db.close()
                self.snapshot(7)

    def test_loose_pages(self):
        """Free-list leaves that a rollback left behind are not in any version: neither in this."""
        db = self.open(sync="manual")
        db.execute("PRAGMA cache_size=10")
        db.execute("CREATE TABLE t(x)")
        db.execute("CREATE TABLE junk(a)")
        db.execute("INSERT INTO junk WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c "
                   "WHERE i<200) SELECT randomblob(3000) FROM c")
        one(db, "SELECT sync()")
        db.execute("DELETE FROM junk")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        db.execute("BEGIN")
        db.execute("INSERT INTO junk WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c "
                   "WHERE i<150) SELECT randomblob(3000) FROM c")
        db.execute("ROLLBACK")
        with open(self.path(), "rb") as file:
            local = file.read()
        self.assertNotEqual(support.without_local_fields(local),
                            support.without_local_fields(self.remote_image().data), "no loose pages")
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 2)
        self.snapshot(2)

    def test_many_segments(self):
        """Without any close: 256 segments are enough for the background thread."""
        db = self.seed(1, sync="commit")
        for n in range(1, 300):
            db.execute("INSERT INTO t VALUES(?)", (n,))
        support.until(lambda: int(self.object()[1]["db-version"]) >= 257)
        rows, meta = self.snapshot()
        self.assertEqual(rows, list(range(1, int(meta["db-version"]))))
        self.assertEqual(one(db, "SELECT sync()"), 300)
        self.cold(list(range(1, 300)), 300)

    def test_large_log(self):
        """Without any close: a log larger than a quarter of the database."""
        db = self.open()
        db.execute("CREATE TABLE t(x)")
        db.execute("CREATE TABLE blobs(b)")
        db.execute("INSERT INTO blobs VALUES(randomblob(6000000))")
        one(db, "SELECT sync()")
        db.execute("UPDATE blobs SET b = randomblob(1000000)")      # under a quarter
        db.execute("INSERT INTO blobs VALUES(randomblob(100000))")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        self.snapshot(1)
        db.execute("UPDATE blobs SET b = randomblob(3000000)")
        self.assertEqual(one(db, "SELECT sync()"), 3)
        support.until(lambda: int(self.object()[1]["db-version"]) == 3)
        self.snapshot(3)

    def test_not_yet(self):
        """A large database with a short log: no close writes 5 MB for one row."""
        db = self.open()
        db.execute("CREATE TABLE t(x)")
        db.execute("CREATE TABLE blobs(b)")
        db.execute("INSERT INTO blobs VALUES(randomblob(5000000))")
        one(db, "SELECT sync()")
        self.add(db, 1)
        db.close()
        self.snapshot(1)
        db = self.open()
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 2)
        self.snapshot(2)

    def test_nothing_there(self):
        db = self.open()
        db.execute("CREATE TABLE t(x)")
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 0)
        self.fails(db.execute, "SELECT r2_checkpoint('object')", says="no version yet")

    def test_object_layout(self):
        db = self.open(layout="object")
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        db.execute("INSERT INTO t VALUES(1)")
        before = self.object()
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 1)
        self.assertEqual(one(db, "SELECT r2_checkpoint('object')"), 1)
        self.assertEqual(self.object(), before)
        self.assertEqual(one(db, "SELECT sync()"), 2)


# ---------------------------------------------------------------- when it goes wrong

class Wrong(Log):
    def through(self, name="app.db", timeout_ms=None, **params):
        self.proxy_ = getattr(self, "proxy_", None) or self.proxy()
        with mock.patch.dict(os.environ, {"R2VFS_TIMEOUT": str(timeout_ms)} if timeout_ms else {}):
            return self.open(name, endpoint=self.proxy_.endpoint, **params)

    def test_lost_answer(self):
        """The snapshot is there, though nobody said so."""
        db = self.through()
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        self.add(db, 1)
        lost = self.proxy_.lose(method="PUT", key=r"app\.db$")
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 2)
        self.assertEqual(lost.hits, 1)
        self.snapshot(2)

    def test_late(self):
        """A snapshot that arrives long after a newer one was written changes nothing."""
        db = self.through()
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        self.add(db, 1)
        late = self.proxy_.late(method="PUT", key=r"app\.db$", count=None)
        hasty = self.through(timeout_ms=2000)       # opened now: only the checkpoint has so little
        self.fails(hasty.execute, "SELECT r2_checkpoint()", says="checkpoint")
        self.through().close()                      # what was opened last counts
        self.snapshot(1)
        other = self.open("b/app.db")
        self.add(other, 2)
        self.assertEqual(one(other, "SELECT r2_checkpoint()"), 3)
        self.assertEqual(late.release(), 412)
        self.assertEqual(self.snapshot(3)[0], [1, 2])
        self.proxy_.clear_rules()
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 3)

    def test_overtaken(self):
        """Between the look and the PUT somebody else wrote a newer snapshot: that one stays, also when
        its db-recent does not reach back to ours."""
        for more in (1, 70):
            with self.subTest(more=more):
                self.key = f"{self.prefix}/{more}/app.db"
                self.remote = self.remote_of(self.key)
                self.overtaken(more)

    def overtaken(self, more):
        db = self.through(f"{more}/a.db")
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        self.add(db, 1)
        held = self.proxy_.rule("hold", method="PUT", key=r"app\.db$")
        peer = self.peer(f"{more}/a.db", layout="log", endpoint=self.proxy_.endpoint)
        peer.send("SELECT r2_checkpoint()")
        held.wait_hit()
        other = self.open(f"{more}/b.db")
        for n in range(more):
            self.add(other, 2 + n)
        self.assertEqual(one(other, "SELECT r2_checkpoint()"), 2 + more)
        held.release()
        self.assertEqual(peer.answer(), [[2 + more]])
        self.assertEqual(self.snapshot(2 + more)[0], list(range(1, 2 + more)))

    def test_overtaken_by_an_older_one(self):
        """... or an older one: then ours is still newer."""
        first = self.seed(2, "b/app.db")
        db = self.through()
        self.add(db, 2)
        self.add(db, 3)
        held = self.proxy_.rule("hold", method="PUT", key=r"app\.db$")
        peer = self.peer(layout="log", endpoint=self.proxy_.endpoint)
        peer.send("SELECT r2_checkpoint()")
        held.wait_hit()
        body, meta = self.object()
        older = self.remote_image(upto=2)
        self.bucket.put(self.key, older.data, {
            **meta, "db-version": "2", "db-checksum": older.checksum,
            "db-recent": self.recent_of(2)})
        self.snapshot(2)
        held.release()
        self.assertEqual(peer.answer(), [[4]])
        self.assertEqual(self.snapshot(4)[0], [1, 2, 3])
        first.close()

    def recent_of(self, upto):
        recent = [self.object()[1]["db-recent"]]
        for version, body in self.remote_image(upto=upto).segments:
            recent.insert(0, f"{version}:{int.from_bytes(body[72:80], 'big'):016x}")
        return ",".join(recent)

    def test_while_others_work(self):
        """The transfer of a snapshot is in nobody's way: commits, opens, pushes, pulls go on."""
        db = self.through(sync="commit")
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES(1)")
        held = self.proxy_.rule("hold", method="PUT", key=r"app\.db$")
        peer = self.peer(layout="log", endpoint=self.proxy_.endpoint)
        peer.send("SELECT r2_checkpoint()")
        held.wait_hit()
        db.execute("INSERT INTO t VALUES(2)")               # pushed, by another process and this
        third = self.open(sync="commit")
        third.execute("INSERT INTO t VALUES(3)")
        self.assertEqual(one(third, "SELECT r2_pull()"), 4)
        self.assertEqual(self.rows(db), [1, 2, 3])
        self.snapshot(1)
        held.release()
        self.assertEqual(peer.answer(), [[2]])
        self.assertEqual(self.snapshot(2)[0], [1])
        self.cold([1, 2, 3], 4)

    def test_one_at_a_time(self):
        """A second one on the same replica waits, and says so when it has waited enough."""
        db = self.through()
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        self.add(db, 1)
        held = self.proxy_.rule("hold", method="PUT", key=r"app\.db$")
        peer = self.peer(layout="log", endpoint=self.proxy_.endpoint)
        peer.send("SELECT r2_checkpoint()")
        held.wait_hit()
        hasty = self.through(timeout_ms=1000)       # opened now: everything before had time
        self.fails(hasty.execute, "SELECT r2_checkpoint()", says="another checkpoint")
        self.assertEqual(self.proxy_.count(method="PUT", key=r"app\.db$"), 2)    # birth, this
        held.release()
        self.assertEqual(peer.answer(), [[2]])

    def test_refused(self):
        """A close whose checkpoint fails is a close all the same; the next one makes up for it."""
        db = self.through()
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        self.add(db, 1)
        denied = self.proxy_.status(403, method="PUT", key=r"app\.db$")
        db.close()
        self.assertEqual(denied.hits, 1)
        self.snapshot(1)
        self.cold([1], 2).close()
        db = self.through()
        self.add(db, 2)
        db.close()
        self.assertEqual(self.snapshot(3)[0], [1, 2])

    def test_no_copy(self):
        """Without a base of what is replaced, nothing is replaced."""
        db = self.through()
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        self.add(db, 1)
        denied = self.proxy_.status(403, method="PUT", key=r"\.db-log/", count=None)
        self.fails(db.execute, "SELECT r2_checkpoint()", says=["checkpoint", "403"])
        self.assertEqual(denied.hits, 1)
        self.snapshot(1)

    def test_gone(self):
        db = self.seed(3)
        self.bucket.delete(self.key)
        self.fails(db.execute, "SELECT r2_checkpoint()", code=CONFLICT, says="is gone")
        self.assertFalse(self.bucket.exists(self.key))

    def test_another_database(self):
        db = self.seed(3)
        self.bucket.delete(self.key)
        for name in self.names():
            self.bucket.delete(f"{self.key}-log/{name}")
        other = self.open("b/app.db")
        other.execute("CREATE TABLE t(x)")
        self.assertEqual(one(other, "SELECT sync()"), 1)
        before = self.object()
        self.fails(db.execute, "SELECT r2_checkpoint()", code=CONFLICT)
        db.close()
        self.assertEqual(self.object(), before)

    def test_an_older_one_put_back(self):
        db = self.seed(3)
        body, meta = self.object()
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 3)
        self.bucket.put(self.key, body, meta)
        self.add(db, 3)
        self.fails(db.execute, "SELECT r2_checkpoint()", code=CONFLICT, says="older object")
        self.assertEqual(self.object(), (body, meta))

    def test_damaged_segment(self):
        """A segment is damaged in the bucket. Whoever is past it writes a snapshot, and those before
        it, and new ones, go on from there."""
        db = self.seed(3)
        behind = self.open("b/app.db")              # at version 3
        for n in (3, 4, 5):
            self.add(db, n)
        key = f"{self.key}-log/" + [name for name in self.names() if name.endswith("04.ltx")][0]
        for damage in ("cut", "flipped"):
            with self.subTest(damage):
                body = self.bucket.get(key, raw=True).body
                self.bucket.put(key, body[:40] if damage == "cut"
                                else body[:-1] + bytes([body[-1] ^ 1]))
                self.fails(behind.execute, "SELECT r2_pull()", code=CORRUPT, says="0004.ltx")
                self.fails(self.open, "new/app.db")
                self.bucket.put(key, body)
        self.bucket.put(key, body[:40])
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 6)
        self.snapshot(6)
        self.assertEqual(one(behind, "SELECT r2_pull()"), 6)
        self.assertEqual(self.rows(behind), [1, 2, 3, 4, 5])
        self.cold([1, 2, 3, 4, 5], 6)
        self.assertEqual(self.add(behind, 6), 7)

    def test_two_at_once(self):
        """Two machines write checkpoints and push, round after round."""
        self.seed(1).close()
        peers = [self.peer(f"{n}/app.db", layout="log") for n in (0, 1)]
        for n in range(1, 11):
            writer = peers[n % 2]
            writer("SELECT r2_pull()")
            writer("INSERT INTO t VALUES(?)", n)
            self.assertEqual(writer.one("SELECT sync()"), n + 1)
            for peer in peers:
                peer.send("SELECT r2_checkpoint()")
            for peer in peers:
                self.assertEqual(peer.answer(), [[n + 1]])
            self.assertEqual(self.snapshot(n + 1)[0], list(range(1, n + 1)))


# ---------------------------------------------------------------- what is old goes

class Collection(Log):
    remote_kind = "file"

    def age(self, seconds, *versions, suffix=".ltx"):
        """Set back the time of these segments, or bases; without versions: of all objects."""
        folder = self.object()[1]["db-lineage"][:8]
        names = ([f"{folder}/{v:016x}{suffix}" for v in versions] if versions
                 else self.names())
        paths = [self.file_of(f"{self.key}-log/{name}") for name in names]
        for path in paths if versions else [*paths, self.file_of(self.key)]:
            at = time.time() - seconds
            os.utime(path, (at, at))

    def test_collected(self):
        db = self.seed(6)
        self.age(DAY + 1801)
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 6)
        # the base is of now, so of the past only what comes before it could go: nothing does
        self.assertEqual(self.versions(".db"), [1])
        self.assertEqual(self.versions(".ltx"), [2, 3, 4, 5, 6])
        self.add(db, 6)
        self.age(DAY + 1, 1, suffix=".db")
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 7)       # a day later: another base
        self.assertEqual(self.versions(".db"), [1, 6])
        self.add(db, 7)
        self.age(DAY + 1, 6, suffix=".db")
        self.assertEqual(one(db, "SELECT r2_checkpoint()"), 8)       # and another day later
        self.assertEqual(self.versions(".db"), [6, 7])
        self.assertEqual(self.versions(".ltx"), [7, 8])
        self.cold(list(range(1, 8)), 8)
        db.close()

    def test_versions_of_a_day(self):
        """After a collection every version from the oldest base on can still be opened."""
        self.test_collected()
        for version in (6, 7, 8):
            past = self.open(version=version)
            self.assertEqual(self.rows(past), list(range(1, version)))
            past.close()
        self.fails(lambda: self.open(version=5))

    def test_by_themselves(self):
        """Closes do it, at most once an hour."""
        db = self.seed(3)
        db.close()
        self.age(3 * DAY)                       # base 1 and snapshot 3, all old
        db = self.open(retention=3600)
        self.add(db, 3)
        db.close()                              # base 3 is kept; the first look was an hour ago? no
        self.assertEqual(self.versions(".db"), [1])
        os.unlink(self.path() + "-r2")          # another machine, which has not looked yet
        db = self.open(retention=3600)
        self.add(db, 4)
        db.close()
        self.assertEqual(self.versions(".db"), [1, 4])
        self.assertEqual(self.versions(".ltx"), [2, 3, 4, 5])        # base 1 stays: 4 is young
        self.age(3600 + 1801, 4, suffix=".db")
        self.age(3600 + 1801, 4)
        os.unlink(self.path() + "-r2")
        db = self.open(retention=3600)
        self.add(db, 5)
        db.close()
        self.assertEqual(self.versions(".db"), [4, 5])
        self.assertEqual(self.versions(".ltx"), [5, 6])

    def test_follower(self):
        """A replica that was away while its segments went: it starts from the snapshot."""
        db = self.seed(3)
        away = self.open("b/app.db")
        for n in range(3, 9):
            self.add(db, n)
        one(db, "SELECT r2_checkpoint()")
        self.age(3 * DAY)
        self.add(db, 9)
        one(db, "SELECT r2_checkpoint()")       # base 9
        self.age(2 * DAY)
        self.add(db, 10)
        one(db, "SELECT r2_checkpoint()")
        self.assertEqual(self.versions(".ltx")[0], 10)
        self.assertEqual(self.rows(away), [1, 2])
        # it was fresh a moment ago, so that its 404 would be conclusive: in truth these were days
        self.forget_freshness("b/app.db")
        away.close()
        away = self.open("b/app.db")
        self.assertEqual(self.rows(away), list(range(1, 11)))
        self.assertEqual(self.add(away, 11), 12)
        self.cold(list(range(1, 12)), 12)

    def forget_freshness(self, name):
        """As if this replica had last asked days ago: the whole state is gone."""
        os.unlink(self.path(name) + "-r2")

    def test_another_lineage(self):
        """Nothing of another database's log is touched, nor what is not named like a segment."""
        db = self.seed(4)
        folder = self.file_of(self.key + "-log/")
        strange = ["0badcafe/0000000000000002.ltx", "0badcafe/0000000000000001.db", "notes.txt",
                   self.object()[1]["db-lineage"][:8] + "/0000000000000002.ltx.bak"]
        for name in strange:
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write("mine")
        one(db, "SELECT r2_checkpoint()")
        self.age(3 * DAY)
        self.add(db, 4)
        one(db, "SELECT r2_checkpoint()")
        self.age(3 * DAY)
        self.add(db, 5)
        one(db, "SELECT r2_checkpoint()")
        self.assertEqual(self.versions(".ltx")[0], 5)
        for name in strange:
            self.assertTrue(os.path.exists(os.path.join(folder, name)), name)


# ---------------------------------------------------------------- the other layout

class Layout(Log):
    def objects(self):
        return {name: self.object(f"{self.key}-log/{name}")[0] for name in self.names()}

    def test_there_and_back(self):
        db = self.seed(4)
        _, before = self.object()
        log = self.objects()
        self.assertEqual(one(db, "SELECT r2_checkpoint('object')"), 6)
        rows, meta = self.snapshot(6)
        self.assertEqual((rows, meta["db-layout"]), ([1, 2, 3], "object"))
        self.assertNotEqual(meta["db-lineage"], before["db-lineage"])
        self.assertEqual(support.status(db)["layout"], "object")
        self.assertEqual({**self.objects(), **log}, self.objects())  # nothing was taken away
        self.assertEqual(self.add(db, 4), 7)
        self.assertEqual(self.snapshot(7)[0], [1, 2, 3, 4])
        self.cold([1, 2, 3, 4], 7)
        self.assertEqual(one(db, "SELECT r2_checkpoint('log')"), 8)
        rows, after = self.snapshot(8)
        self.assertEqual((rows, after["db-layout"]), ([1, 2, 3, 4], "log"))
        self.assertNotIn(after["db-lineage"], (meta["db-lineage"], before["db-lineage"]))
        self.assertEqual(self.add(db, 5), 9)
        self.snapshot(8)                                             # by a segment
        self.cold([1, 2, 3, 4, 5], 9)
        db.close()
        self.snapshot(9)

    def test_what_is_dirty_goes_first(self):
        db = self.seed(2)
        db.execute("INSERT INTO t VALUES(2)")
        self.assertEqual(one(db, "SELECT r2_checkpoint('object')"), 5)  # 3: the row, 4: the end
        self.assertEqual(self.snapshot(5)[0], [1, 2])
        db.execute("INSERT INTO t VALUES(3)")
        self.assertEqual(one(db, "SELECT r2_checkpoint('log')"), 7)
        self.assertEqual(self.snapshot(7)[0], [1, 2, 3])

    def test_who_is_behind(self):
        db = self.seed(2)
        behind = self.open("b/app.db")
        self.add(db, 2)
        before = self.object()
        for to in ("object", "log"):
            if to == "log":
                one(behind, "SELECT r2_pull()")
                one(db, "SELECT r2_checkpoint('object')")
                self.add(db, 3)
                before = self.object()
            self.fails(behind.execute, f"SELECT r2_checkpoint('{to}')", says="r2_pull")
            self.assertEqual(self.object(), before)

    def test_followers(self):
        """Clean replicas follow, from whatever version; nothing is a conflict, nothing a fork."""
        db = self.seed(2)
        others = [self.open("b0/app.db")]
        for n in range(2, 90):
            self.add(db, n)
            if n in (3, 40, 88, 89):
                others.append(self.open(f"b{n}/app.db"))
        self.assertEqual(one(db, "SELECT r2_checkpoint('object')"), 92)
        self.add(db, 90)
        for other in others:
            self.assertEqual(one(other, "SELECT r2_pull()"), 93)
            self.assertEqual(self.rows(other), list(range(1, 91)))
        self.assertEqual(self.add(others[0], 91), 94)
        one(others[-1], "SELECT r2_pull()")
        self.assertEqual(one(others[-1], "SELECT r2_checkpoint('log')"), 95)
        for n, other in enumerate([*others[:-1], db]):
            self.assertEqual(one(other, "SELECT r2_pull()"), 95 + n)
            self.assertEqual(self.add(other, 92 + n), 96 + n)
        for other in others:
            self.assertEqual(support.status(other, self.file(other))["conflicts"], 0)
        self.assertEqual(self.bucket.list(self.key + "-forks"), [])

    def file(self, db):
        return one(db, "SELECT file FROM pragma_database_list")

    def test_followers_across_both(self):
        """Nobody looked while the layout changed twice, and each went on for long."""
        db = self.seed(3)
        behind = self.open("b/app.db")
        one(db, "SELECT r2_checkpoint('object')")
        for n in range(3, 8):
            self.add(db, n)
        one(db, "SELECT r2_checkpoint('log')")
        for n in range(8, 90):
            self.add(db, n)
        behind.close()
        behind = self.open("b/app.db")
        self.assertEqual(self.rows(behind), list(range(1, 90)))
        self.assertEqual(self.bucket.list(self.key + "-forks"), [])

    def test_dirty_ones_conflict(self):
        """What was committed on the old lineage and not pushed in time is a conflict, never lost."""
        for n, to in enumerate(("object", "log")):
            with self.subTest(to):
                self.key = f"{self.prefix}/{n}/app.db"
                self.remote = self.remote_of(self.key)
                db = self.open(f"{n}/a.db", layout="log" if to == "object" else "object")
                db.execute("CREATE TABLE t(x)")
                one(db, "SELECT sync()")
                other = self.open(f"{n}/b.db", sync="manual")
                other.execute("INSERT INTO t VALUES(77)")
                changed = one(db, f"SELECT r2_checkpoint('{to}')")
                self.fails(other.execute, "SELECT sync()", code=CONFLICT, says=f"version {changed}")
                self.assertEqual(one(other, "SELECT r2_resolve('fork')"), changed)
                self.assertEqual(self.rows(other), [])
                self.assertEqual(len(self.bucket.list(self.key + "-forks")), 1)
                self.assertEqual(self.add(other, 78), changed + 1)

    def test_dirty_ones_far_behind(self):
        """The same where the log went on before it ended, and then somebody put another database there: what
        they meet first is a version of the log, and what they get is what there is now."""
        for how in ("resolve", "open"):
            with self.subTest(how):
                self.key = f"{self.prefix}/{how}/app.db"
                self.remote = self.remote_of(self.key)
                db = self.open(f"{how}/a.db", layout="log")
                db.execute("CREATE TABLE t(x)")
                one(db, "SELECT sync()")
                other = self.open(f"{how}/b.db", sync="manual")
                other.execute("INSERT INTO t VALUES(77)")
                self.add(db, 1)
                self.assertEqual(one(db, "SELECT r2_checkpoint('object')"), 4)
                db.close()
                path = self.path(f"{how}/c.db")
                stock = support.plain(path)
                stock.executescript("CREATE TABLE t(x); INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)")
                stock.close()
                third = self.open(f"{how}/c.db", conflict="error")
                self.assertEqual(one(third, "SELECT r2_resolve('local')"), 5)
                third.close()
                if how == "resolve":
                    self.fails(other.execute, "SELECT sync()", code=CONFLICT)
                    self.assertEqual(one(other, "SELECT r2_resolve('fork')"), 5)
                else:
                    other.close()
                    other = self.open(f"{how}/b.db", sync="manual")
                self.assertEqual(self.rows(other), [1, 2])
                self.assertEqual(len(self.bucket.list(self.key + "-forks")), 2)
                self.assertEqual(self.add(other, 3), 6)
                other.close()

    def test_commits_in_between(self):
        """sync=commit on the old lineage: refused and rolled back, then repeated on the new one."""
        db = self.seed(2, sync="commit")
        other = self.open("b/app.db", sync="commit", refresh=0)
        self.assertEqual(self.rows(other), [1])
        self.assertEqual(one(db, "SELECT r2_checkpoint('object')"), 4)
        other.execute("BEGIN")
        try:
            other.execute("INSERT INTO t VALUES(2)")
            other.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self.assertEqual(error.sqlite_errorcode, CONFLICT)
            if other.in_transaction:
                other.execute("ROLLBACK")
            other.execute("INSERT INTO t VALUES(2)")
        self.assertEqual(self.snapshot(5)[0], [1, 2])

    def unfinished(self):
        """The end of the log is written, and whoever did it died before KEY was replaced. Returns the
        version before the end, and a replica that is there."""
        db = self.seed(3)
        other = self.open("b/app.db")
        body, meta = self.object()
        self.assertEqual(one(db, "SELECT r2_checkpoint('object')"), 5)
        self.bucket.put(self.key, body, meta)
        db.close()
        return 3, other

    def test_unfinished(self):
        version, other = self.unfinished()
        self.assertEqual(one(other, "SELECT r2_pull()"), version)    # it can be read
        self.assertEqual(one(other, "SELECT r2_remote_version()"), version)
        self.cold([1, 2], version).close()
        other.execute("INSERT INTO t VALUES(3)")
        says = self.fails(other.execute, "SELECT sync()", says="r2_checkpoint('object') finishes it")
        self.assertNotIn("conflict", says)
        self.assertEqual(one(other, "SELECT r2_checkpoint()"), version)  # of the log as it is
        self.assertEqual(self.snapshot(version)[0], [1, 2])
        self.assertEqual(one(other, "SELECT r2_checkpoint('object')"), 5)
        self.assertEqual(self.snapshot(5)[0], [1, 2, 3])             # what waited went along
        self.assertEqual(self.add(other, 4), 6)
        self.cold([1, 2, 3, 4], 6)

    def test_unfinished_commit(self):
        _, other = self.unfinished()
        other.close()
        other = self.open("b/app.db", sync="commit")
        self.fails(other.execute, "INSERT INTO t VALUES(3)")
        self.assertEqual(self.rows(other), [1, 2])
        self.assertEqual(one(other, "SELECT r2_checkpoint('object')"), 5)
        other.execute("INSERT INTO t VALUES(3)")
        self.assertEqual(self.snapshot(6)[0], [1, 2, 3])

    def test_unfinished_finished_by_another(self):
        """Two replicas find it so; the first one finishes it, the second one follows."""
        _, other = self.unfinished()
        third = self.open("c/app.db")
        self.assertEqual(one(other, "SELECT r2_checkpoint('object')"), 5)
        self.fails(third.execute, "SELECT r2_checkpoint('object')", says="r2_pull")
        self.assertEqual(one(third, "SELECT r2_pull()"), 5)
        self.assertEqual(one(third, "SELECT r2_checkpoint('object')"), 5)
        self.assertEqual(self.add(third, 3), 6)

    def test_lost_answers(self):
        """At either step the answer is lost, though it happened."""
        for n, key in enumerate((r"\.ltx$", r"app\.db$")):
            with self.subTest(key):
                self.key = f"{self.prefix}/{n}/app.db"
                self.remote = self.remote_of(self.key)
                proxy = self.proxy()
                db = self.open(f"{n}/app.db", endpoint=proxy.endpoint)
                db.execute("CREATE TABLE t(x)")
                one(db, "SELECT sync()")
                self.add(db, 1)
                lost = proxy.lose(method="PUT", key=key)
                self.assertEqual(one(db, "SELECT r2_checkpoint('object')"), 4)
                self.assertEqual(lost.hits, 1)
                self.assertEqual(self.snapshot(4)[0], [1])
                self.assertEqual(self.add(db, 2), 5)

    def test_somebody_pushed_first(self):
        """The end comes too late: another replica's version stands there. Nothing has changed."""
        proxy = self.proxy()
        db = self.open(endpoint=proxy.endpoint)
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        other = self.open("b/app.db")
        held = proxy.rule("hold", method="PUT", key=r"\.ltx$")
        peer = self.peer(layout="log", endpoint=proxy.endpoint)
        peer.send("SELECT r2_checkpoint('object')")
        held.wait_hit()
        self.assertEqual(self.add(other, 1), 2)
        before = self.object()
        held.release()
        self.fails(peer.answer, says="version 2")
        self.assertEqual(self.object(), before)
        self.assertEqual(one(db, "SELECT r2_pull()"), 2)
        self.assertEqual(self.add(db, 2), 3)


if __name__ == "__main__":
    support.main()
