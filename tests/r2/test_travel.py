#!/usr/bin/env python3
"""Time travel: every version that is kept can be opened by its number and by its time, beside the
live database and without touching it; r2_history lists them; r2_restore makes one the newest."""
# One layout: its tests say theirs.
# Not under TSan: its threads are those of other tests.

import datetime
import os
import sqlite3
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import connect, one, uri  # noqa: E402

CONFLICT = 517              # SQLITE_BUSY_SNAPSHOT
READONLY = 8
HISTORY = "version", "time", "writer", "pages", "bytes"


def dump(db, schema="main"):
    """All of a database: schema, rows, and what the header says of itself."""
    tables = [row[0] for row in db.execute(
        f"SELECT name FROM {schema}.sqlite_schema WHERE type='table' ORDER BY name")]
    return ([tuple(db.execute(f"PRAGMA {schema}.{name}").fetchone())
             for name in ("page_size", "user_version", "application_id")],
            list(db.execute(f"SELECT type, name, tbl_name, sql FROM {schema}.sqlite_schema "
                            "ORDER BY name")),
            {table: list(db.execute(f"SELECT rowid, * FROM {schema}.{table} ORDER BY 1"))
             for table in tables})


class Travel(support.Case):
    layout = "log"

    def setUp(self):
        super().setUp()
        self.live = self.connect(layout=self.layout)
        self.seen = {}              # version: dump

    def step(self, *statements):
        """Statements, then a push; remembers what the version holds."""
        for sql in statements:
            self.live.execute(sql)
        version = one(self.live, "SELECT sync()")
        self.assertNotIn(version, self.seen)
        self.seen[version] = dump(self.live)
        return version

    def rows(self, count):
        """`count` versions of a small table: version n holds 1 .. n-1."""
        self.step("CREATE TABLE t(x)")
        for n in range(1, count):
            self.assertEqual(self.step(f"INSERT INTO t VALUES({n})"), n + 1)

    def past(self, version=None, name="app.db", **params):
        return self.connect(name, version=version, **params)

    def x(self, db, schema="main"):
        return [row[0] for row in db.execute(f"SELECT x FROM {schema}.t ORDER BY rowid")]

    def history(self, db=None, what="*"):
        return [dict(zip(HISTORY, row))
                for row in (db or self.live).execute(f"SELECT {what} FROM r2_history")]

    def refused(self, says, name="app.db", **params):
        """The open fails, and the sentence has these words."""
        with self.assertRaises(sqlite3.Error):
            connect(self.path(name), self.remote, **params)
        text = one(sqlite3.connect(":memory:"), "SELECT r2_last_error()")
        for word in [says] if isinstance(says, str) else says:
            self.assertIn(word, text)
        return text

    def segment(self, version, suffix=".ltx"):
        keys = [key for key in self.bucket.all_keys(self.key + "-log/")
                if key.endswith(f"/{version:016x}{suffix}")]
        self.assertEqual(len(keys), 1)
        return keys[0]

    def folder_of(self, lineage):
        return f"{self.key}-log/{lineage[:8]}/"

    def checkpoint(self, version, keep_base=True):
        """What a checkpoint does, by other means: the snapshot becomes this version, the one before
        it is kept as a base."""
        before = self.bucket.get(self.key, raw=True)
        nonces = {row["version"]: row["writer"] for row in self.history()}
        db = self.past(version)
        data = db.serialize()
        db.close()
        folder = self.folder_of(before.meta["db-lineage"])
        if keep_base:
            base = f"{folder}{int(before.meta['db-version']):016x}.db"
            self.bucket.client.copy_object(Bucket=self.bucket.name, Key=base,
                                           CopySource={"Bucket": self.bucket.name,
                                                       "Key": self.key})
        recent = ",".join(f"{v}:{nonces[v]}" for v in range(version, max(version - 64, 0), -1))
        self.bucket.put(self.key, data, {**before.meta, "db-version": str(version),
                                         "db-checksum": support.ltx_checksum(data),
                                         "db-recent": recent})


class Versions(Travel):
    def change_a_lot(self):
        """More than 30 versions with all that changes a database's shape."""
        step, live = self.step, self.live
        step("CREATE TABLE t(x)", "CREATE TABLE b(id INTEGER PRIMARY KEY, data BLOB)")
        for n in range(8):
            step(f"INSERT INTO t VALUES({n})", f"INSERT INTO b(data) VALUES(randomblob({n * 900}))")
        step("DELETE FROM b WHERE id % 2")
        step("CREATE INDEX i ON t(x DESC)", "PRAGMA user_version=7")
        step("UPDATE t SET x = x * 10")
        step("INSERT INTO b(data) WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM c "
             "LIMIT 60) SELECT randomblob(3000) FROM c")
        before = one(live, "PRAGMA page_count")
        step("DELETE FROM b WHERE id > 5", "VACUUM")
        self.assertLess(one(live, "PRAGMA page_count"), before)
        step("PRAGMA page_size=1024", "VACUUM")
        self.assertEqual(one(live, "PRAGMA page_size"), 1024)
        step("INSERT INTO t VALUES('small pages')")
        step("PRAGMA page_size=8192", "VACUUM", "PRAGMA application_id=99")
        for n in range(3):
            step(f"INSERT INTO t VALUES('large pages {n}')")
        self.assertEqual(one(live, "PRAGMA journal_mode=WAL"), "wal")
        for n in range(8):
            step("BEGIN", f"INSERT INTO t VALUES('in the log {n}')",
                 "UPDATE b SET data = randomblob(2000)", "COMMIT")
        step("DROP TABLE b", "CREATE TABLE c AS SELECT x FROM t")
        step("DELETE FROM c", "VACUUM")
        self.assertEqual(one(live, "PRAGMA journal_mode=DELETE"), "delete")
        for n in range(3):
            step(f"INSERT INTO c VALUES('rollback {n}')")
        self.assertGreater(len(self.seen), 30)

    def all_are_there(self):
        files = sorted(os.listdir(self.folder))
        live = support.file_sha256(self.path())
        state = support.status(self.live)
        times = {row["version"]: row["time"] for row in self.history()}
        self.assertEqual(sorted(times), sorted(self.seen))
        for version in self.seen:
            # of two that came in the same millisecond it is the newer one
            newest = max(v for v, time in times.items() if time == times[version])
            for params, found in (({"version": version}, version),
                                  ({"at": times[version]}, newest)):
                with self.subTest(**params):
                    db = self.past(**params)
                    self.assertEqual(dump(db), self.seen[found])
                    self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
                    self.assertEqual(one(db, "SELECT r2_version()"), found)
                    self.assertEqual(sorted(os.listdir(self.folder)), files)
                    db.close()
        self.assertEqual(support.file_sha256(self.path()), live)
        after = support.status(self.live)
        for name in ("version", "dirty_pages", "pushes", "pulls"):
            self.assertEqual(state[name], after[name])

    def test_each(self):
        self.change_a_lot()
        self.all_are_there()

    def test_each_after_a_checkpoint(self):
        self.change_a_lot()
        self.checkpoint(13)
        self.all_are_there()
        self.checkpoint(25)
        for version in range(2, 14):        # what a collection takes: up to the oldest base, ...
            self.bucket.delete(self.segment(version))
        self.bucket.delete(self.segment(1, ".db"))
        oldest, self.seen = self.seen, {v: d for v, d in self.seen.items() if v >= 13}
        self.all_are_there()
        for version in range(1, 13):
            text = self.refused([f"version {version} of ", "is not kept any more: the oldest is 13",
                                 "retention 86400 s", "R2VFS_RETENTION"], version=version)
            self.assertIn(self.remote, text)
        self.assertEqual(len(oldest), len(self.seen) + 12)

    def test_each_after_r2_checkpoint(self):
        """The same with checkpoints of our own."""
        self.rows(5)
        self.assertEqual(one(self.live, "SELECT r2_checkpoint()"), 5)
        self.step("CREATE TABLE u AS SELECT randomblob(20000) AS y")
        self.step("DROP TABLE u", "VACUUM")
        self.assertEqual(one(self.live, "SELECT r2_checkpoint()"), 7)
        self.step("INSERT INTO t VALUES('last')")
        self.assertEqual(self.bucket.head(self.key, raw=True).meta["db-version"], "7")
        self.segment(1, ".db")
        self.all_are_there()
        self.assertEqual(one(self.live, "SELECT r2_restore(6)"), 9)
        self.assertEqual(dump(self.live), self.seen[6])
        self.assertEqual(one(self.live, "SELECT r2_checkpoint()"), 9)
        self.seen[9] = self.seen[6]
        self.all_are_there()

    def test_time(self):
        """Between two versions it is the earlier one; other ways to write a time."""
        self.rows(4)
        times = {row["version"]: datetime.datetime.fromisoformat(row["time"].replace("Z", "+00:00"))
                 for row in self.history()}
        ms = datetime.timedelta(milliseconds=1)
        for version in (2, 3, 4):
            late = times[version] - ms
            east = late.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=45)))
            for at in (late.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), late.isoformat().lower(),
                       east.isoformat(sep=" ")):
                with self.subTest(at=at):
                    db = self.past(at=at)
                    self.assertEqual(dump(db), self.seen[version - 1])
                    db.close()
        self.assertEqual(dump(self.past(at="2999-01-01T00:00:00Z")), self.seen[4])
        before = (times[1] - ms).isoformat()
        self.refused(["nothing of ", "as old as", "the oldest version, 1, is of"], at=before)

    def test_wrong(self):
        self.rows(3)
        self.refused("there is no version 4 of", version=4)
        self.refused(["there is no version 9223372036854775807", "the newest is 3"],
                     version=2**63 - 1)
        for value in ("0", "-1", "1.5", "x", "1 ", str(2**63), "0x1"):
            self.refused(["the URI parameter version", "number, from 1"], version=value)
        for value in ("yesterday", "2026-11-23", "2026-11-23T10:00:00", "2026-02-29T10:00:00Z",
                      "2026-11-23T24:00:00Z", "2026-11-23T10:00:00Z ", "2026-11-23T10:00:00.Z",
                      "1700000000"):
            self.refused(["the URI parameter at", "it must be a time as in"], at=value)
        self.refused("both say which version", version=1, at="2026-11-23T10:00:00Z")
        self.refused("cache=shared", version=1, cache="shared")
        for params in ({"version": 1}, {"at": "2026-11-23T10:00:00Z"}):
            with self.assertRaises(sqlite3.Error):
                connect(self.path(), None, **params)
            self.assertIn("has no remote", one(self.live, "SELECT r2_last_error()"))
        other = self.remote_of(self.prefix + "/nothing.db")
        with self.assertRaises(sqlite3.Error):
            connect(self.path(), other, version=1)
        self.assertEqual(self.x(self.live), [1, 2])

    def test_on_a_machine_that_has_nothing(self):
        self.rows(3)
        db = self.past(2, "new/folder/app.db")
        self.assertEqual(self.x(db), [1])
        db.close()
        self.assertEqual(os.listdir(self.path("new/folder")), [])


class Damage(Travel):
    def test_a_segment_is_missing(self):
        self.rows(9)
        self.bucket.delete(self.segment(5))
        for version in (5, 6, 9):
            self.refused("the segment of version 5 is missing", version=version)
        self.refused("the segment of version 5 is missing", at="2999-01-01T00:00:00Z")
        self.assertEqual(self.x(self.past(4)), [1, 2, 3])
        self.assertEqual([row["version"] for row in self.history()], [4, 3, 2, 1])
        self.fails(one, self.live, "SELECT r2_restore(6)", says="segment of version 5 is missing")
        self.assertEqual(one(self.live, "SELECT r2_restore(3)"), 10)
        self.assertEqual(self.x(self.live), [1, 2])

    def test_a_segment_is_damaged(self):
        self.rows(6)
        key = self.segment(4)
        good = self.bucket.get(key, raw=True)
        for at in (0, 40, 110, len(good.body) - 1):
            bad = bytearray(good.body)
            bad[at] ^= 1
            self.bucket.put(key, bytes(bad))
            self.refused(["segment", key], version=5)
            self.assertEqual(self.x(self.past(3)), [1, 2])
        self.bucket.put(key, self.bucket.get(self.segment(3), raw=True).body)
        self.refused([key, "it holds versions 3 to 3"], version=4)
        self.bucket.put(key, good.body)
        self.assertEqual(self.x(self.past(5)), [1, 2, 3, 4])

    def test_damaged_on_the_way_in_a_long_log(self):
        """Asked for once more; what came before it is not lost over that."""
        proxy = self.proxy()
        db = self.connect("b/app.db", sync="manual", layout="log", endpoint=proxy.endpoint)
        db.execute("CREATE TABLE t(x)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        proxy.status(403, method="PUT", key=r"app\.db$", count=None)     # no checkpoint
        for n in range(1, 520):
            db.execute(f"INSERT INTO t VALUES({n})")
            one(db, "SELECT sync()")
        flipped = proxy.flip(300, method="GET", key=f"{516:016x}\\.ltx$")
        past = self.past(518, endpoint=proxy.endpoint)
        self.assertEqual(self.x(past), list(range(1, 518)))
        self.assertEqual(one(past, "PRAGMA integrity_check"), "ok")
        self.assertEqual(flipped.hits, 1)

    def test_a_kept_version_is_damaged(self):
        """Object layout: on the way it is asked for once more; one that is damaged there is refused."""
        proxy = self.proxy()
        params = {"sync": "manual", "layout": "object", "endpoint": proxy.endpoint}
        db = self.connect("b/app.db", **params)
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES('first')")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()
        stock = support.plain(self.path("b/app.db"))
        stock.execute("UPDATE t SET x = 'stock'")
        stock.close()
        db = self.connect("b/app.db", **params)
        self.assertEqual(one(db, "SELECT sync()"), 2)
        kept = self.segment(1, ".db")
        at = self.bucket.get(kept, raw=True).body.index(b"first")
        flipped = proxy.flip(at, method="GET", key=r"0001\.db$")
        past = self.past(1, endpoint=proxy.endpoint)
        self.assertEqual(self.x(past), ["first"])
        past.close()
        self.assertEqual(flipped.hits, 1)
        flipped = proxy.flip(at, method="GET", key=r"0001\.db$", count=None)
        self.fails(one, db, "SELECT r2_restore(1)", says=[kept, "checksum"])
        self.assertEqual(self.x(db), ["stock"])
        self.assertEqual(one(db, "SELECT r2_remote_version()"), 2)
        proxy.clear_rules()
        self.assertEqual(one(db, "SELECT r2_restore(1)"), 3)
        self.assertEqual(self.x(db), ["first"])

    def test_the_end_of_a_log(self):
        """A change of layout that was cut short: the log's last name has no content of its own."""
        self.rows(3)
        before = self.bucket.get(self.key, raw=True)
        self.assertEqual(one(self.live, "SELECT r2_checkpoint('object')"), 5)
        self.bucket.put(self.key, before.body, before.meta)
        self.refused(["version 4", "only ends the log: its content is version 3's"], version=4)
        self.assertEqual(self.x(self.past(3)), [1, 2])

    def test_a_base_is_not_what_it_says(self):
        self.rows(8)
        self.checkpoint(6)
        base = self.segment(1, ".db")
        good = self.bucket.get(base, raw=True)
        self.assertEqual(self.x(self.past(3)), [1, 2])
        self.bucket.put(base, good.body, {**good.meta, "db-version": "2"})
        self.refused([base, "do not fit together"], version=3)
        recent = good.meta["db-recent"].replace("1:", "2:", 1)
        self.bucket.put(base, good.body, {**good.meta, "db-version": "2", "db-recent": recent})
        self.refused([base, "not what its name says"], version=3)
        self.bucket.put(base, good.body, {**good.meta, "db-lineage": "0" * 32})
        self.refused([base, "another lineage"], version=3)
        self.bucket.put(base, good.body[:5000], good.meta)
        self.refused(base, version=3)
        bad = bytearray(good.body)
        bad[-1] ^= 1
        self.bucket.put(base, bytes(bad), good.meta)
        self.refused([base, "checksum"], version=3)
        self.bucket.put(base, bytes(bad), {"db-version": "1"})    # nobody vouches: the chain does
        self.refused("it continues a database with the checksum", version=3)
        self.bucket.put(base, good.body, {"db-version": "1"})
        self.assertEqual(self.x(self.past(3)), [1, 2])
        self.assertEqual(self.x(self.past(7)), [1, 2, 3, 4, 5, 6])


class Beside(Travel):
    """The earlier version has the same path as the live database."""

    def test_attach(self):
        """What the whole thing is for: compare then and now in SQL."""
        self.rows(6)
        for version in (2, 4):
            self.live.execute(f"ATTACH ? AS v{version}",
                              (uri(self.path(), self.remote, version=version),))
        self.assertEqual(self.x(self.live, "v2"), [1])
        self.live.execute("UPDATE main.t SET x = x + 100 WHERE x > 3")
        self.assertEqual(list(self.live.execute(
            "SELECT x FROM main.t EXCEPT SELECT x FROM v4.t")), [(104,), (105,)])
        self.live.execute("BEGIN")
        self.live.execute("INSERT INTO main.t SELECT x FROM v2.t")
        self.live.execute("COMMIT")
        self.assertEqual(one(self.live, "SELECT sync()"), 7)
        self.assertEqual(self.x(self.live, "v4"), [1, 2, 3])
        self.fails(self.live.execute, "INSERT INTO v4.t VALUES(1)", code=READONLY)
        self.fails(one, self.live, "SELECT sync('v4')", says="shows version 4 of " + self.remote)
        self.fails(one, self.live, "SELECT r2_restore(1, 'v4')", says="shows version 4")
        self.fails(self.live.execute, "SELECT * FROM r2_history('v4')", says="shows version 4")
        self.assertEqual(one(self.live, "SELECT r2_version('v4')"), 4)
        self.live.execute("DETACH v2")
        self.live.execute("DETACH v4")
        self.assertEqual(self.x(self.live), [1, 2, 3, 104, 105, 1])
        self.assertEqual(len(list(self.live.execute("SELECT * FROM r2_status"))), 1)

    def test_the_live_one_attached_to_the_past(self):
        self.rows(4)
        db = self.past(2)
        db.execute("ATTACH ? AS now", (uri(self.path(), self.remote),))
        self.assertEqual((self.x(db), self.x(db, "now")), ([1], [1, 2, 3]))
        db.execute("INSERT INTO now.t VALUES(4)")
        self.fails(db.execute, "INSERT INTO main.t VALUES(4)", code=READONLY)
        self.assertEqual(one(db, "SELECT sync('now')"), 5)
        self.assertEqual(self.x(self.live), [1, 2, 3, 4])

    def test_the_live_ones_journals(self):
        """A hot journal, and a -wal, of the live database: not the traveller's."""
        self.rows(4)
        crash = ("db = connect(sys.argv[1], sys.argv[2])\n"
                 "db.execute('PRAGMA cache_size=1')\n"
                 "db.execute('BEGIN')\n"
                 "db.execute('UPDATE t SET x = 77')\n"
                 "db.execute('CREATE TABLE big AS WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL '\n"
                 "           'SELECT n+1 FROM c LIMIT 50) SELECT randomblob(5000) FROM c')\n"
                 "print('ready', flush=True)\ninput()\n")
        child = self.spawn(crash, self.path(), self.remote)
        support.expect(child, "ready")
        support.kill(child)
        journal = self.path("app.db-journal")
        with open(journal, "rb") as file:
            hot = file.read()
        self.assertTrue(hot.startswith(bytes.fromhex("d9d505f920a163d7")))
        for version in (1, 2, 3, 4):
            db = self.past(version)
            self.assertEqual(dump(db), self.seen[version])
            for mode in ("PERSIST", "DELETE", "TRUNCATE", "WAL", "OFF", "DELETE"):
                db.execute(f"PRAGMA journal_mode={mode}")
                self.fails(db.execute, "DELETE FROM t", code=READONLY)
            db.execute("PRAGMA locking_mode=NORMAL")
            db.execute("BEGIN EXCLUSIVE")
            self.assertEqual(dump(db), self.seen[version])
            db.execute("COMMIT")
            db.close()
            with open(journal, "rb") as file:
                self.assertEqual(file.read(), hot)
        self.assertEqual(self.x(self.live), [1, 2, 3])        # rolled back by its own SQLite
        self.assertFalse(os.path.exists(journal))
        self.live.execute("PRAGMA journal_mode=WAL")
        self.live.execute("INSERT INTO t VALUES('not pushed')")
        self.assertTrue(os.path.getsize(self.path("app.db-wal")))
        for version in (1, 3):
            db = self.past(version)
            self.assertEqual(dump(db), self.seen[version])
            self.assertEqual(one(db, "PRAGMA journal_mode"), "delete")
            db.close()
        self.assertTrue(os.path.getsize(self.path("app.db-wal")))
        self.assertEqual(self.x(self.live), [1, 2, 3, "not pushed"])

    def test_born_in_wal_mode(self):
        """Its versions say WAL in their header; a traveller has none."""
        self.live.execute("PRAGMA journal_mode=WAL")
        self.rows(4)
        self.assertEqual(self.bucket.get(self.key, raw=True).body[18:20], b"\2\2")
        self.live.execute("INSERT INTO t VALUES('not pushed')")
        for version in (1, 3, 4):
            db = self.past(version)
            self.assertEqual(dump(db), self.seen[version])
            self.fails(db.execute, "DELETE FROM t", code=READONLY)
            db.close()
        self.assertEqual(self.x(self.live), [1, 2, 3, "not pushed"])
        self.assertEqual(one(self.live, "SELECT sync()"), 5)
        self.assertEqual(one(self.live, "SELECT r2_restore(2)"), 6)
        self.assertEqual(one(self.live, "PRAGMA journal_mode"), "wal")
        self.assertEqual(self.x(self.live), [1])

    def test_a_locked_live_one(self):
        self.rows(3)
        self.live.execute("BEGIN EXCLUSIVE")
        self.assertEqual(self.x(self.past(2)), [1])
        self.live.execute("COMMIT")

    def test_shared_cache(self):
        """Without the word in the traveller's URI nothing is shared."""
        self.rows(3)
        shared = self.connect(cache="shared")
        self.assertEqual(self.x(self.past(2)), [1])
        shared.execute("ATTACH ? AS old", (uri(self.path(), self.remote, version=2),))
        self.assertEqual((self.x(shared), self.x(shared, "old")), ([1, 2], [1]))
        self.refused("cache=shared", version=2, cache="shared")     # SQLite never asks xOpen here
        with self.assertRaises(sqlite3.Error):
            shared.execute("ATTACH ? AS o", (uri(self.path(), self.remote, version=2,
                                                 cache="shared"),))
        self.assertEqual(self.x(self.connect(cache="shared")), [1, 2])

    def test_read_only_in_every_way(self):
        self.rows(4)
        for mode in (None, "ro", "rw", "rwc"):
            with self.subTest(mode=mode):
                db = self.past(2, mode=mode)
                self.assertEqual(self.x(db), [1])
                for sql in ("INSERT INTO t VALUES(2)", "DROP TABLE t", "CREATE TABLE u(x)",
                            "PRAGMA user_version=3", "REINDEX", "ANALYZE"):
                    if sql != "REINDEX":
                        self.fails(db.execute, sql, code=READONLY)
                db.execute("CREATE TEMP TABLE u AS SELECT * FROM t")
                self.assertEqual(db.execute("SELECT count(*) FROM u").fetchone(), (1,))
                db.execute("VACUUM INTO ?", (self.path(f"copy-{mode}.db"),))
                self.assertEqual(support.integrity(self.path(f"copy-{mode}.db")), "ok")
                copy = sqlite3.connect(":memory:")
                db.backup(copy)
                self.assertEqual(self.x(copy), [1])
                self.fails(one, db, "SELECT sync()", says="read-only")
                self.fails(db.execute, "SELECT * FROM r2_history", says="read-only")
                self.fails(one, db, "SELECT r2_resolve('local')", says="read-only")
                self.assertIsInstance(one(db, "PRAGMA r2_last_error"), str)
                self.assertEqual(list(db.execute("SELECT version FROM r2_status")), [(4,)])
                db.close()
        self.assertEqual(one(self.live, "SELECT r2_remote_version()"), 4)

    def test_many_at_once(self):
        self.rows(12)
        problems, start = [], threading.Barrier(12)

        def travel(version):
            try:
                start.wait()
                for _ in range(3):
                    db = connect(self.path(), self.remote, version=version)
                    if dump(db) != self.seen[version]:
                        problems.append(version)
                    db.close()
            except Exception as error:      # noqa: BLE001
                problems.append((version, error))
        threads = [threading.Thread(target=travel, args=(v,)) for v in range(1, 13)]
        for thread in threads:
            thread.start()
        for n in range(20):                 # the live one goes on meanwhile
            self.live.execute("INSERT INTO t VALUES(?)", (100 + n,))
            one(self.live, "SELECT sync()")
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        self.assertEqual(one(self.live, "SELECT r2_version()"), 32)


class History(Travel):
    def test_rows(self):
        self.rows(5)
        self.live.execute("CREATE TABLE wide AS SELECT randomblob(30000) AS y")
        self.assertEqual(one(self.live, "SELECT sync()"), 6)
        rows = self.history()
        self.assertEqual([row["version"] for row in rows], [6, 5, 4, 3, 2, 1])
        self.assertEqual([row["time"] for row in rows],
                         sorted((row["time"] for row in rows), reverse=True))
        for row in rows[:-1]:
            body = self.bucket.get(self.segment(row["version"]), raw=True).body
            self.assertEqual(row["bytes"], len(body))
            self.assertEqual(row["writer"], body[72:80].hex())
            self.assertEqual(row["pages"], int.from_bytes(body[12:16], "big"))
        snapshot = self.bucket.head(self.key, raw=True)
        self.assertEqual(rows[-1]["bytes"], snapshot.size)
        self.assertEqual(f"1:{rows[-1]['writer']}", snapshot.meta["db-recent"])
        for query in ("SELECT version FROM r2_history('main')",
                      "SELECT version FROM r2_history ORDER BY version DESC",
                      "SELECT version FROM r2_history WHERE schema = 'main'"):
            self.assertEqual([v for v, in self.live.execute(query)], [6, 5, 4, 3, 2, 1])
        self.assertEqual([v for v, in self.live.execute(
            "SELECT version FROM r2_history ORDER BY version")], [1, 2, 3, 4, 5, 6])
        self.assertEqual(list(self.live.execute(
            "SELECT version, pages FROM r2_history WHERE version = 3")), [(3, 2)])

    def requests(self):
        status = support.status(self.live, self.path())
        return status["requests_a"], status["requests_b"]

    def test_headers_only_when_asked_for(self):
        self.rows(40)
        a, b = self.requests()
        self.assertEqual(len(self.live.execute("SELECT version, time, bytes FROM r2_history")
                             .fetchall()), 40)
        a2, b2 = self.requests()
        self.assertEqual((a2 - a, b2 - b), (2, 1))      # two listings, one HEAD
        self.live.execute("SELECT pages FROM r2_history LIMIT 3").fetchall()
        a3, b3 = self.requests()
        self.assertEqual((a3 - a2, b3 - b2), (2, 1 + 8))
        self.live.execute("SELECT pages, writer FROM r2_history").fetchall()
        self.assertEqual(self.requests()[1] - b3, 1 + 39)

    def test_other_schemas(self):
        self.rows(3)
        key = self.prefix + "/other.db"
        self.live.execute("ATTACH ? AS o", (uri(self.path("other.db"), self.remote_of(key),
                                                layout="log"),))
        self.live.execute("CREATE TABLE o.t(x)")
        self.assertEqual(one(self.live, "SELECT sync('o')"), 1)
        self.assertEqual([v for v, in self.live.execute("SELECT version FROM r2_history('o')")], [1])
        self.assertEqual(len(self.history()), 3)
        self.assertEqual(list(self.live.execute(
            "SELECT s.name, count(*) FROM pragma_database_list s, r2_history(s.name) "
            "GROUP BY 1 ORDER BY 1")), [("main", 3), ("o", 1)])
        self.fails(self.live.execute, "SELECT * FROM r2_history('nix')", says="no schema 'nix'")
        self.fails(sqlite3.connect(":memory:").execute, "SELECT * FROM r2_history",
                   says="has no remote")


class Restore(Travel):
    def restored(self, old, new):
        """Version `new` is `old`'s content, for everybody, and nothing is gone."""
        expected = self.seen[old]
        self.assertEqual(one(self.live, "SELECT r2_version()"), new)
        self.assertEqual(dump(self.live), expected)
        other = self.connect(f"{new}/app.db")
        self.assertEqual(dump(other), expected)
        other.close()
        self.assertEqual(dump(self.past(new)), expected)
        for version, content in self.seen.items():
            db = self.past(version)
            self.assertEqual(dump(db), content)
            db.close()
        self.assertEqual(support.integrity(self.path()), "ok")
        self.assertEqual(support.status(self.live, self.path())["dirty_pages"], 0)
        self.seen[new] = expected

    def test_and_on(self):
        self.rows(6)
        follower = self.connect("b/app.db")
        self.assertEqual(one(self.live, "SELECT r2_restore(3)"), 7)
        self.restored(3, 7)
        self.assertEqual(one(follower, "SELECT r2_pull()"), 7)
        self.assertEqual(self.x(follower), [1, 2])
        self.assertEqual(self.step("INSERT INTO t VALUES('after')"), 8)
        self.assertEqual(one(follower, "SELECT r2_pull()"), 8)
        self.assertEqual(self.x(follower), [1, 2, "after"])
        self.assertEqual(one(self.live, "SELECT r2_restore(6)"), 9)      # and back
        self.restored(6, 9)
        follower.execute("INSERT INTO t VALUES(1)")
        self.fails(one, follower, "SELECT r2_restore(1)", code=CONFLICT)
        self.assertEqual(one(follower, "SELECT r2_resolve('remote')"), 9)
        self.assertEqual(one(self.live, "SELECT r2_restore(9)"), 9)      # is the newest: nothing to do
        self.assertEqual(one(self.live, "SELECT r2_remote_version()"), 9)

    def test_shapes(self):
        """Back over VACUUM, other page sizes, WAL."""
        self.step("CREATE TABLE t(x)", "CREATE TABLE b AS SELECT randomblob(50000) AS y")
        self.step("INSERT INTO t VALUES(1)")
        self.step("DROP TABLE b", "VACUUM")
        self.step("PRAGMA page_size=1024", "VACUUM")
        self.step("INSERT INTO t VALUES(2)")
        for mode in ("delete", "wal"):
            self.live.execute(f"PRAGMA journal_mode={mode}")
            for old in (2, 3, 1) if mode == "wal" else (2, 3, 5, 1, 4, 3):
                with self.subTest(mode=mode, old=old):
                    new = max(self.seen) + 1
                    self.assertEqual(one(self.live, "SELECT r2_restore(?)", old), new)
                    self.assertEqual(one(self.live, "PRAGMA journal_mode"), mode)
                    self.restored(old, new)

    def test_statements_see_another_schema(self):
        """Prepared statements, here and in other processes, meet the old schema."""
        self.step("CREATE TABLE t(x)", "INSERT INTO t VALUES('one column')")
        self.step("DROP TABLE t", "CREATE TABLE t(y, x)", "INSERT INTO t VALUES(1, 'two columns')")
        follower, peer = self.connect("b/app.db"), self.peer()
        query = "SELECT * FROM t"
        for db in (self.live, follower):
            self.assertEqual(db.execute(query).fetchall(), [(1, "two columns")])
        self.assertEqual(peer(query), [[1, "two columns"]])
        self.assertEqual(one(self.live, "SELECT r2_restore(1)"), 3)
        self.assertEqual(self.live.execute(query).fetchall(), [("one column",)])
        self.assertEqual(peer(query), [["one column"]])
        self.assertEqual(one(follower, "SELECT r2_pull()"), 3)
        self.assertEqual(follower.execute(query).fetchall(), [("one column",)])
        self.assertEqual(one(self.live, "SELECT r2_restore(2)"), 4)
        self.assertEqual(self.live.execute(query).fetchall(), [(1, "two columns")])
        self.assertEqual(peer(query), [[1, "two columns"]])

    def test_refused(self):
        self.rows(4)
        nothing = self.bucket.snapshot(self.prefix)
        self.live.execute("INSERT INTO t VALUES('dirty')")
        self.fails(one, self.live, "SELECT r2_restore(2)", says=["not in the remote", "sync()"])
        self.assertEqual(self.bucket.snapshot(self.prefix), nothing)
        self.assertEqual(one(self.live, "SELECT sync()"), 5)
        nothing = self.bucket.snapshot(self.prefix)
        self.fails(one, self.live, "SELECT r2_restore(6)", says="there is no version 6")
        for wrong in (0, -1, "x", None):
            self.fails(one, self.live, "SELECT r2_restore(?)", wrong, says="a version's number")
        self.live.execute("BEGIN")
        self.fails(one, self.live, "SELECT r2_restore(2)", says="inside a transaction")
        self.live.execute("ROLLBACK")
        self.assertEqual(self.bucket.snapshot(self.prefix), nothing)
        self.assertEqual(self.x(self.live), [1, 2, 3, "dirty"])

    def test_page_size_in_wal_mode(self):
        """SQLite cannot change it there: refused before anything is pushed."""
        self.step("CREATE TABLE t(x)")
        self.step("PRAGMA page_size=1024", "VACUUM")
        self.live.execute("PRAGMA journal_mode=WAL")
        self.fails(one, self.live, "SELECT r2_restore(1)", says=["4096", "1024", "DELETE"])
        self.assertEqual(one(self.live, "SELECT r2_remote_version()"), 2)
        self.live.execute("PRAGMA journal_mode=DELETE")
        self.assertEqual(one(self.live, "SELECT r2_restore(1)"), 3)
        self.restored(1, 3)

    def test_another_was_first(self):
        """The restored version loses the race for its number; nothing local has changed."""
        self.rows(4)
        proxy = self.proxy()
        db = self.connect("b/app.db", endpoint=proxy.endpoint)
        held = proxy.hold(method="PUT", key=r"\.ltx$")
        failed = []

        def restore():
            try:
                one(db, "SELECT r2_restore(2)")
            except sqlite3.Error as error:
                failed.append((error.sqlite_errorcode, str(error)))
        thread = threading.Thread(target=restore)
        thread.start()
        held.wait_hit()
        self.step("INSERT INTO t VALUES('first')")
        held.release()
        thread.join()
        (code, text), = failed
        self.assertEqual(code, CONFLICT)
        self.assertIn("another replica pushed version 5", text)
        self.assertEqual(self.x(db), [1, 2, 3, "first"])      # its next transaction has it
        self.assertEqual(one(db, "SELECT r2_restore(2)"), 6)
        self.assertEqual(one(self.live, "SELECT r2_pull()"), 6)
        self.restored(2, 6)
        self.assertEqual(support.status(db, self.path("b/app.db"))["conflicts"], 0)

    def test_it_was_first(self):
        self.rows(4)
        other = self.connect("b/app.db")
        other.execute("INSERT INTO t VALUES('late')")
        self.assertEqual(one(self.live, "SELECT r2_restore(2)"), 5)
        self.fails(one, other, "SELECT sync()", code=CONFLICT)
        self.assertEqual(one(other, "SELECT r2_resolve('fork')"), 5)
        self.assertEqual(self.x(other), [1])

    def test_a_lost_answer(self):
        """It landed: the restore knows, after it has looked."""
        self.rows(4)
        proxy = self.proxy()
        db = self.connect("b/app.db", endpoint=proxy.endpoint)
        lost = proxy.lose(method="PUT", key=r"\.ltx$")
        self.assertEqual(one(db, "SELECT r2_restore(2)"), 5)
        self.assertEqual(lost.hits, 1)
        self.assertEqual(self.x(db), [1])
        self.assertEqual(one(self.live, "SELECT r2_pull()"), 5)
        self.restored(2, 5)

    def test_nobody_answers(self):
        """Landed or not, the next look finds out; nothing is pushed twice or lost."""
        for landed in (True, False):
            with self.subTest(landed=landed):
                self.doCleanups()
                self.setUp()
                self.rows(4)
                proxy = self.proxy()
                os.environ["R2VFS_TIMEOUT"] = "2000"
                self.addCleanup(os.environ.pop, "R2VFS_TIMEOUT")
                db = self.connect("b/app.db", endpoint=proxy.endpoint)
                rule = (proxy.lose if landed else proxy.cut)(method="PUT", key=r"\.ltx$", count=None)
                # two probes come before the push, then nobody answers the question
                down = proxy.cut(method="GET", key=r"0005\.ltx$", nth=3, count=None)
                text = self.fails(one, db, "SELECT r2_restore(2)", says="may or may not")
                self.assertIn("version 5", text)
                rule.count = down.count = 0
                self.assertEqual(one(db, "SELECT r2_pull()"), 5 if landed else 4)
                self.assertEqual(self.x(db), [1] if landed else [1, 2, 3])
                db.execute("INSERT INTO t VALUES('on')")
                self.assertEqual(one(db, "SELECT sync()"), 6 if landed else 5)
                self.assertEqual(one(self.live, "SELECT r2_pull()"), 6 if landed else 5)
                self.assertEqual(self.x(self.live), ([1] if landed else [1, 2, 3]) + ["on"])

    def test_killed_after_it_landed(self):
        """Here the old content is still there: it is no local change."""
        self.rows(4)
        proxy = self.proxy()
        landed = proxy.hold_answer(method="PUT", key=r"\.ltx$")
        child = self.spawn("db = connect(sys.argv[1], sys.argv[2], endpoint=sys.argv[3])\n"
                           "db.execute('SELECT r2_restore(2)')\n",
                           self.path("b/app.db"), self.remote, proxy.endpoint)
        landed.wait_hit()
        support.kill(child)
        landed.release()
        db = self.connect("b/app.db")
        self.assertEqual(one(db, "SELECT r2_version()"), 5)
        self.assertEqual(self.x(db), [1])
        self.assertEqual(support.status(db, self.path("b/app.db"))["conflicts"], 0)
        self.assertEqual([k for k in self.bucket.list(self.prefix) if "-forks/" in k], [])

    def test_writers_wait(self):
        """What somebody would write between the push and the new content is about the old one."""
        for mode in ("delete", "wal"):
            with self.subTest(mode=mode):
                self.doCleanups()
                self.setUp()
                self.rows(4)
                proxy = self.proxy()
                db = self.connect("b/app.db", endpoint=proxy.endpoint)
                one(db, f"PRAGMA journal_mode={mode}")
                writer = self.connect("b/app.db", endpoint=proxy.endpoint, timeout=0)
                held = proxy.hold_answer(method="PUT", key=r"\.ltx$")
                thread = threading.Thread(target=one, args=(db, "SELECT r2_restore(2)"))
                thread.start()
                held.wait_hit()
                self.fails(writer.execute, "INSERT INTO t VALUES('early')", code=5)
                held.release()
                thread.join()
                writer.execute("INSERT INTO t VALUES('after')")
                self.assertEqual(one(writer, "SELECT sync()"), 6)
                self.assertEqual(one(self.live, "SELECT r2_pull()"), 6)
                self.assertEqual(self.x(self.live), [1, "after"])

    def test_readers_in_the_way(self):
        """It is in the remote; the local file follows when they are gone."""
        self.rows(4)
        reader = self.connect()
        rows = reader.execute("SELECT x FROM t")
        rows.fetchone()
        self.fails(one, self.live, "SELECT r2_restore(2)")
        self.assertEqual(one(self.live, "SELECT r2_remote_version()"), 4)
        rows.close()
        self.assertEqual(one(self.live, "SELECT r2_restore(2)"), 5)
        self.assertEqual(self.x(reader), [1])


class Object(Travel):
    """The object layout has the newest version, and what was kept by the way."""

    layout = "object"

    def test_versions(self):
        self.rows(4)
        self.assertEqual(dump(self.past(4)), self.seen[4])
        self.assertEqual(dump(self.past(at="2999-01-01T00:00:00Z")), self.seen[4])
        self.refused(["version 3 of", "object layout", "the newest is 4"], version=3)
        self.refused("there is no version 5", version=5)
        self.refused(["object layout", "version 4 is of"], at="2001-01-01T00:00:00Z")
        row, = self.history()
        self.assertEqual((row["version"], row["bytes"]), (4, self.bucket.head(self.key, raw=True).size))
        self.assertEqual(dump(self.past(at=row["time"])), self.seen[4])
        self.fails(one, self.live, "SELECT r2_restore(3)", says="object layout")
        self.assertEqual(one(self.live, "SELECT r2_restore(4)"), 4)

    def test_kept(self):
        self.rows(3)
        lineage = self.bucket.head(self.key, raw=True).meta["db-lineage"]
        self.bucket.client.copy_object(
            Bucket=self.bucket.name, Key=f"{self.folder_of(lineage)}{3:016x}.db",
            CopySource={"Bucket": self.bucket.name, "Key": self.key})
        self.step("INSERT INTO t VALUES(3)")
        self.step("INSERT INTO t VALUES(4)")
        self.assertEqual(dump(self.past(3)), self.seen[3])
        self.refused("object layout", version=4)
        self.assertEqual([row["version"] for row in self.history()], [5, 3])
        self.assertEqual(one(self.live, "SELECT r2_restore(3)"), 6)
        self.assertEqual(dump(self.live), self.seen[3])
        self.assertEqual(dump(self.connect("b/app.db")), self.seen[3])
        self.assertEqual(dump(self.past(5)), self.seen[5])      # kept: it was replaced
        self.assertEqual(one(self.live, "SELECT r2_restore(5)"), 7)
        self.assertEqual(dump(self.live), self.seen[5])


class Folder(Travel):
    """The same from a directory as the remote."""

    remote_kind = "file"

    def test_all(self):
        self.rows(6)
        times = {row["version"]: row["time"] for row in self.history()}
        for version in self.seen:
            newest = max(v for v, time in times.items() if time == times[version])
            self.assertEqual(dump(self.past(version)), self.seen[version])
            self.assertEqual(dump(self.past(at=times[version])), self.seen[newest])
        self.assertEqual(one(self.live, "SELECT r2_restore(2)"), 7)
        self.assertEqual(dump(self.live), self.seen[2])
        self.refused("there is no version 8", version=8)


if __name__ == "__main__":
    support.main()
