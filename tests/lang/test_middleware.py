#!/usr/bin/env python3
"""r2vfs beside a program that knows only the object (middleware.py, boto3): each sees the other's
changes, and r2vfs never overwrites a version that it has not seen. R2VFS_SEED repeats a run."""

import collections
import contextlib
import importlib.util
import os
import random
import shutil
import sqlite3
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

STEPS = 200


class Shared(support.Case):
    """A bucket in the object layout, middlewares and replicas on it. The database is one table."""

    def setUp(self):
        super().setUp()
        support.need("python3-boto3", importlib.util.find_spec("boto3"))

    def client(self, endpoint=None):
        import boto3
        import botocore.config
        client = boto3.client(
            "s3", endpoint_url=endpoint or self.emulator.endpoint, region_name="auto",
            aws_access_key_id=self.emulator.env["R2_ACCESS_KEY_ID"],
            aws_secret_access_key=self.emulator.env["R2_SECRET_ACCESS_KEY"],
            config=botocore.config.Config(s3={"addressing_style": "path"}))
        self.addCleanup(client.close)
        return client

    def middleware(self, name="m", endpoint=None):
        import middleware
        return middleware.Middleware(self.client(endpoint), self.emulator.bucket_name, self.key,
                                     self.path(f"{name}/cache.db"))

    def edit(self, m, *statements):
        """What the program behind the middleware does with its file: plain SQLite, then close."""
        with contextlib.closing(support.plain(m.path)) as db:
            for sql in statements:
                db.execute(sql)

    def add(self, m, *texts):
        self.edit(m, *(f"INSERT INTO t VALUES('{text}')" for text in texts))

    def rows_of(self, path):
        with contextlib.closing(support.plain(path)) as db:
            self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
            return self.rows(db)

    def rows(self, db):
        return tuple(row[0] for row in db.execute("SELECT x FROM t ORDER BY rowid"))

    def rows_in(self, body):
        path = self.path("look/x.db")
        with open(path, "wb") as file:
            file.write(body)
        try:
            return self.rows_of(path)
        finally:
            shutil.rmtree(os.path.dirname(path))

    def replica(self, name="a", **params):
        return self.connect(f"{name}/app.db", layout="object", **params)


class Turns(Shared):
    def test_born_by_the_middleware(self):
        """Its first upload is version 1; r2vfs goes on from there, and so do both."""
        m = self.middleware()
        self.edit(m, "CREATE TABLE t(x)")
        self.add(m, "theirs 1")
        self.assertEqual(m.publish(), 1)
        db = self.replica()
        self.assertEqual((self.rows(db), one(db, "SELECT r2_version()")), (("theirs 1",), 1))
        db.execute("INSERT INTO t VALUES('ours 2')")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        self.assertTrue(m.refresh())
        self.assertEqual((m.version, self.rows_of(m.path)), (2, ("theirs 1", "ours 2")))
        self.assertFalse(m.refresh())
        self.assertEqual(m.publish(), 2)        # nothing changed: no version 3
        self.add(m, "theirs 3")
        self.assertEqual(m.publish(), 3)
        self.assertEqual(one(db, "SELECT r2_pull()"), 3)
        self.assertEqual(self.rows(db), ("theirs 1", "ours 2", "theirs 3"))

    def test_each_way_to_see_an_upload(self):
        """At the next open, by r2_pull(), at the next transaction with refresh=0; each journal mode."""
        for journal in ("delete", "wal"):
            with self.subTest(journal=journal):
                self.key = f"{self.prefix}/{journal}.db"
                self.remote = self.remote_of(self.key)
                m = self.middleware(journal)
                opened = {name: self.replica(journal + name, refresh=refresh)
                          for name, refresh in (("pull", None), ("at once", 0))}
                opened["pull"].execute(f"PRAGMA journal_mode={journal}")
                opened["pull"].execute("CREATE TABLE t(x)")
                self.assertEqual(one(opened["pull"], "SELECT sync()"), 1)
                opened["at once"].execute(f"PRAGMA journal_mode={journal}")
                expected = ()
                for version in range(2, 8):
                    m.refresh()
                    self.add(m, f"theirs {version}")
                    # a file in WAL mode is as good
                    self.edit(m, f"PRAGMA journal_mode={'wal' if version % 2 else 'delete'}")
                    self.assertEqual(m.publish(), version)
                    before, expected = expected, (*expected, f"theirs {version}")
                    self.assertEqual(self.rows(opened["at once"]), expected)
                    self.assertEqual(self.rows(opened["pull"]), before)
                    self.assertEqual(one(opened["pull"], "SELECT r2_pull()"), version)
                    self.assertEqual(self.rows(opened["pull"]), expected)
                    with contextlib.closing(self.replica(journal + "open")) as db:
                        self.assertEqual(self.rows(db), expected)
                self.assertEqual(one(opened["pull"], "PRAGMA journal_mode"), journal)
                self.assertEqual(self.bucket.list(self.key + "-"), [])

    def test_it_writes_at_once(self):
        """A replica and a middleware start from the same version: whoever is first wins, the other is
        told, and its rows are kept."""
        import middleware
        m = self.middleware()
        db = self.replica(sync="manual")
        db.execute("CREATE TABLE t(x)")
        one(db, "SELECT sync()")
        m.refresh()
        self.add(m, "theirs too late")
        db.execute("INSERT INTO t VALUES('ours')")
        self.assertEqual(one(db, "SELECT sync()"), 2)
        with self.assertRaises(middleware.Changed):
            m.publish()
        self.assertEqual(self.rows_of(m.path), ("theirs too late",))    # still in its own file
        self.assertTrue(m.refresh())
        self.add(m, "theirs")
        db.execute("INSERT INTO t VALUES('ours too late')")
        self.assertEqual(m.publish(), 3)
        self.fails(db.execute, "SELECT sync()", code=517, says=["version 2", "version 3"])
        self.assertEqual(one(db, "SELECT r2_resolve('fork')"), 3)
        self.assertEqual(self.rows(db), ("ours", "theirs"))
        fork, = self.bucket.list(self.key + "-forks/")
        self.assertEqual(self.rows_in(self.bucket.get(fork).body), ("ours", "ours too late"))
        self.assertFalse(m.refresh())

    def race(self, keep, faults):
        """Two replicas and two middlewares as fast as they can. Each version is won by one, who is told;
        every row that was promised is there, once. Returns what else is there."""
        import middleware
        through = self.proxy()
        with contextlib.closing(self.replica("first")) as db:
            db.execute("CREATE TABLE t(x)")
            self.assertEqual(one(db, "SELECT sync()"), 1)
        for n in range(faults):
            (through.cut if n % 2 else through.lose)(method="PUT", key=r"app\.db$", nth=3 * n + 2)
        won, lost, wrong = [], collections.Counter(), []

        def take_theirs(db):
            while True:
                try:
                    return one(db, "SELECT r2_resolve('fork')")
                except sqlite3.OperationalError as error:   # by another kind of writer: once more
                    if "was replaced while it was being fetched" not in str(error):
                        raise

        def run_replica(name):
            db = self.replica(name, endpoint=through.endpoint, sync="manual")
            n = 0
            while n < 12:
                text = f"{name} {n} {lost[name]}"
                db.execute("INSERT INTO t VALUES(?)", (text,))
                try:
                    won.append((one(db, "SELECT sync()"), text))
                    n += 1
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode != 517:
                        raise
                    lost[name] += 1
                    take_theirs(db)
            db.close()

        def run_middleware(name):
            m = self.middleware(name)
            n = 0
            while n < 12:
                m.refresh()
                if not keep:
                    m.metadata = {}
                text = f"{name} {n} {lost[name]}"
                self.add(m, text)
                try:
                    won.append((m.publish(), text))
                    n += 1
                except middleware.Changed:
                    lost[name] += 1

        def run(work, name):
            try:
                work(name)
            except Exception as error:      # noqa: B902
                wrong.append(f"{name}: {error!r}")
        threads = [threading.Thread(target=run, args=args) for args in (
            (run_replica, "a"), (run_replica, "b"), (run_middleware, "m"), (run_middleware, "n"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertEqual(len({version for version, _ in won}), 48)
        there = self.rows_in(self.bucket.get(self.key).body)
        promised = [text for _, text in sorted(won)]
        self.assertEqual([text for text in there if text in set(promised)], promised)
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], str(1 + len(there)))
        self.assertTrue(lost, "they never met")
        self.assertEqual(len(self.bucket.list(self.key + "-forks/")), lost["a"] + lost["b"])
        more = set(there) - set(promised)
        print(f"48 versions won, lost: {dict(lost)}, in doubt and there: {len(more)}", flush=True)
        return more

    def test_race(self):
        self.assertEqual(self.race(keep=True, faults=0), set())

    def test_race_without_our_metadata(self):
        """A middleware that uploads db-version alone."""
        self.assertEqual(self.race(keep=False, faults=0), set())

    def test_race_with_lost_answers(self):
        """When a middleware's upload hides whether our own arrived, r2vfs keeps a fork and says conflict:
        such a row may be there all the same. No promise is broken."""
        more = self.race(keep=True, faults=16)
        self.assertLessEqual(len(more), 8)      # no more than answers were lost
        self.assertFalse([text for text in more if text[0] not in "ab"])


Version = collections.namedtuple("Version", "etag number lineage ours rows recent")


class Machine:
    """A replica, and what this test knows of it."""

    def __init__(self, name, journal):
        self.name, self.journal = name, journal
        self.forget()

    def forget(self):
        self.db = self.base = self.lineage = None
        self.number = self.highest = 0
        self.rows, self.dirty, self.in_conflict, self.at_once = (), False, False, False


class Walk(Shared):
    """Long random interleavings of three replicas, two middlewares and a program that overwrites
    blindly. After each step the object, every file and every fork is what the model says. The model
    follows the contract (README, DESIGN 3): it knows what each replica has seen."""

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
        print(f"seed: R2VFS_SEED={self.seed}", flush=True)
        self.pick = random.Random(f"{self.seed}:{self._testMethodName}")
        self.texts, self.steps = 0, collections.Counter()
        self.now, self.kept = None, {}

    def text(self, who):
        self.texts += 1
        return f"{who} {self.texts} " + "x" * self.pick.randrange(300)

    # ---- the model

    def look(self, rows):
        """The object as it is, which holds these rows: what the model takes it for from now on."""
        found = self.bucket.head(self.key)
        number = int(found.meta.get("db-version", 1))
        recent = tuple(found.meta.get("db-recent", "").split(","))
        ours = recent[0].split(":")[0] == str(number)
        return Version(found.etag, number, found.meta.get("db-lineage"), ours, tuple(rows),
                       recent if ours else ())

    def relation(self, r):
        now = self.now
        if now.lineage and r.lineage and now.lineage != r.lineage:
            # a new lineage that says it goes on from this replica's base is its continuation
            goes_on = now.number > r.number and set(r.base.recent[:1]) & set(now.recent)
            return "newer" if goes_on else "lineage"
        if now.etag == r.base.etag and now.number <= r.number:
            return "same"
        if not now.ours:
            return "newer" if now.number > r.number else "altered"
        if now.number == r.number:
            return "altered"
        return "older" if now.number < max(r.number, r.highest) else "newer"

    def probed(self, r):
        if self.now.lineage and self.now.lineage == r.lineage:
            r.highest = max(r.highest, self.now.number)

    def adopted(self, r):
        now = self.now
        r.lineage = now.lineage or (r.lineage if now.number > r.number else None)
        r.base, r.rows, r.number, r.highest = now, now.rows, now.number, now.number
        r.dirty = r.in_conflict = False

    def pushed(self, r, number, over):
        """r2vfs made a version: of what it had seen, as the next one, in its lineage."""
        new = self.look(r.rows)
        self.assertEqual(new.number, number)
        self.assertNotEqual(new.etag, over.etag)
        self.assertTrue(new.ours)
        if r.lineage:
            self.assertEqual(new.lineage, r.lineage)
        self.now = r.base = new
        r.lineage, r.number, r.highest = new.lineage, number, max(r.highest, number)
        r.dirty = r.in_conflict = False

    def fork_holds(self, rows, why):
        """Some fork holds exactly these rows."""
        for key in self.bucket.list(self.key + "-forks/"):
            if key not in self.kept:
                self.kept[key] = self.rows_in(self.bucket.get(key).body)
        self.assertIn(tuple(rows), self.kept.values(), why)

    # ---- replicas

    def touch(self, r):
        """What a transaction does first with refresh=0."""
        if not r.at_once:
            return
        self.probed(r)
        relation = self.relation(r)
        if relation == "newer" and not r.dirty:
            self.adopted(r)
        elif relation != "same":
            r.in_conflict = True

    def open(self, r):
        policy = self.pick.choice(("fork", "fork", "error"))
        sync = self.pick.choice(("manual", "close"))
        r.at_once = self.pick.random() < 0.3
        r.sync = sync
        db = r.db = self.replica(r.name, conflict=policy, sync=sync,
                                 refresh=0 if r.at_once else None)
        if r.base is None:
            self.adopted(r)
        else:
            self.probed(r)
            relation = self.relation(r)
            if relation == "same":
                if r.dirty and sync == "close":
                    self.pushed(r, r.number + 1, r.base)
            elif relation == "newer" and not r.dirty:
                self.adopted(r)
            elif policy == "fork" and relation != "older":
                self.fork_holds(r.rows, "the loser at open")
                self.adopted(r)
            else:
                self.fails(db.execute, "SELECT * FROM t", code=14)
                r.in_conflict = True
                self.resolve(r)
        self.assertEqual(one(db, f"PRAGMA journal_mode={r.journal}"), r.journal)

    def close(self, r):
        r.db.close()
        r.db = None
        if r.dirty and r.sync == "close":
            self.push(r, None)

    def push(self, r, answer):
        """What sync() (answer: how to ask it) or a close has to do with a dirty file."""
        if r.in_conflict:
            self.probed(r)
        if self.relation(r) == "same":
            over = r.base
            if answer:
                self.assertEqual(answer(), r.number + 1)
            self.pushed(r, r.number + 1, over)
            return
        r.in_conflict = True
        if answer:
            self.fails(answer, code=517)

    def sync(self, r):
        if r.dirty:
            self.push(r, lambda: one(r.db, "SELECT sync()"))
        else:
            self.assertEqual(one(r.db, "SELECT sync()"), r.number)

    def pull(self, r):
        self.probed(r)
        relation = self.relation(r)
        if relation == "same" or (relation == "newer" and not r.dirty):
            if relation == "newer":
                self.adopted(r)
            self.assertEqual(one(r.db, "SELECT r2_pull()"), r.number)
        else:
            r.in_conflict = True
            self.fails(r.db.execute, "SELECT r2_pull()", code=517)

    def resolve(self, r):
        how = self.pick.choice(("fork", "remote", "local"))
        self.probed(r)
        relation, over = self.relation(r), self.now
        number = one(r.db, "SELECT r2_resolve(?)", how)
        if relation == "same" and how == "local":
            if r.dirty:
                self.pushed(r, r.number + 1, over)
        elif relation == "same" and not r.dirty:
            pass
        elif how == "local":
            self.fork_holds(over.rows, "what r2_resolve('local') replaced")
            self.pushed(r, max(r.number, r.highest, over.number) + 1, over)
        else:
            if r.dirty or relation != "newer":
                self.fork_holds(r.rows, f"the loser of r2_resolve({how!r})")
            self.adopted(r)
        r.in_conflict = False
        self.assertEqual(number, r.number)

    def write(self, r):
        self.touch(r)
        text = self.text(r.name)
        r.db.execute("INSERT INTO t VALUES(?)", (text,))
        r.rows += (text,)
        r.dirty = True
        # an old row now and then, so that pages are freed and used again
        if len(r.base.rows) > 20 and r.rows[:20] == r.base.rows[:20]:
            self.touch(r)
            victim = r.rows[self.pick.randrange(20)]
            r.db.execute("DELETE FROM t WHERE x = ?", (victim,))
            r.rows = tuple(row for row in r.rows if row != victim)

    def step_replica(self):
        r = self.pick.choice(self.machines)
        if r.db is None:
            return self.open(r) or "open"
        step = self.pick.choices((self.write, self.sync, self.pull, self.resolve, self.close, self.again),
                                 (6, 6, 3, 1, 3, 0.4))[0]
        step(r)
        return step.__name__

    def again(self, r):
        """The machine is replaced by a new one: nothing local is left."""
        r.db.close()
        if r.dirty and r.sync == "close":
            self.push(r, None)
        shutil.rmtree(os.path.join(self.folder, r.name))
        r.forget()

    # ---- middlewares

    def step_middleware(self):
        import middleware
        m = self.pick.choice(self.middlewares)
        todo = self.pick.choice(("refresh", "change", "publish" if m.changed else "change"))
        if todo == "refresh":
            newer = self.now.number > m.version
            self.assertEqual(m.refresh(), newer)
            if newer:
                m.rows, m.changed = self.now.rows, False
                self.assertEqual((m.version, m.etag), (self.now.number, self.now.etag))
        elif todo == "change":
            self.change(m)
        elif m.changed and m.etag == self.now.etag:
            if self.pick.random() < 0.5:
                m.metadata = {}
            self.assertEqual(m.publish(), m.version)
            self.now, m.changed = self.look(m.rows), False
        elif m.changed:
            with self.assertRaises(middleware.Changed):
                m.publish()
            todo = "too late"
        return todo

    def change(self, m):
        if m.version == 0:
            return
        text = self.text("middleware")
        self.edit(m, f"INSERT INTO t VALUES('{text}')")
        m.rows, m.changed = (*m.rows, text), True
        if self.pick.random() < 0.3:
            self.edit(m, self.pick.choice((
                "PRAGMA journal_mode=wal", "PRAGMA journal_mode=delete", "VACUUM",
                f"CREATE TABLE u{self.texts}(y)", "PRAGMA user_version=7")))

    def step_blind(self):
        """A program that asks nobody. How it counts: one higher than HEAD says, one higher than what it
        has, the number that it has, or no number."""
        m = self.blind
        if m.version == 0 or self.pick.random() < 0.5:
            m.version = 0
            m.refresh()
            m.rows = self.now.rows
            if self.pick.random() < 0.5:
                return "blind reads"
        self.change(m)
        how = self.pick.choice(("head", "head", "own", "equal", "none"))
        number = {"head": self.now.number + 1, "own": m.version + 1, "equal": m.version}.get(how)
        metadata = {}
        if how in ("head", "own") and self.pick.random() < 0.5:
            metadata = {name: value for name, value in m.metadata.items() if name != "db-version"}
            if int(metadata.get("db-recent", "0").split(":")[0]) >= number:
                metadata = {}           # it would lie about its bytes: tests/r2/test_foreign.py
        if number:
            metadata["db-version"] = str(number)
        with open(m.path, "rb") as file:
            m.client.put_object(**m.where, Body=file.read(), Metadata=metadata)
        self.now = self.look(m.rows)
        m.version, m.metadata, m.etag = self.now.number, metadata, self.now.etag
        return f"blind {how}"

    def step_copy(self):
        """A copy in the dashboard: the same bytes, and no metadata any more."""
        found = self.bucket.get(self.key)
        self.bucket.put(self.key, found.body)
        self.now = self.look(self.now.rows)
        return "copy"

    # ---- the walk

    def check(self):
        """The object is the one that the model knows; so is what every program sees."""
        self.assertEqual(self.look(self.now.rows), self.now, "somebody changed the object")
        self.assertEqual(self.rows_in(self.bucket.get(self.key).body), self.now.rows)
        for r in self.machines:
            if r.db:
                self.touch(r)
                self.assertEqual(self.rows(r.db), r.rows, r.name)
        for m in (*self.middlewares, self.blind):
            if m.version:
                self.assertEqual(self.rows_of(m.path), m.rows)

    def walk(self, born, blind):
        self.machines = [Machine(name, journal) for name, journal in
                         (("a", "delete"), ("b", "wal"), ("c", self.pick.choice(("delete", "wal"))))]
        self.middlewares = [self.middleware(f"m{n}") for n in range(2)]
        self.blind = self.middleware("blind")
        for m in (*self.middlewares, self.blind):
            m.rows, m.changed = (), False
        if born == "middleware":
            self.edit(self.middlewares[0], "CREATE TABLE t(x)")
            self.assertEqual(self.middlewares[0].publish(), 1)
        else:
            with contextlib.closing(self.replica("first")) as db:
                db.execute("CREATE TABLE t(x)")
        self.now = self.look(())
        kinds, weights = (self.step_replica, self.step_middleware), [6, 3]
        if blind:
            kinds, weights = (*kinds, self.step_blind, self.step_copy), [*weights, 1, 0.4]
        done = []
        try:
            for _ in range(STEPS):
                done.append(self.pick.choices(kinds, weights)[0]())
                self.steps[done[-1]] += 1
                self.check()
        except BaseException:
            print(f"step {len(done)}, after {' / '.join(map(str, done[-12:]))}", flush=True)
            raise
        print(f"{dict(self.steps)}; version {self.now.number}, {len(self.kept)} forks", flush=True)

    def test_careful_programs(self):
        self.walk("r2vfs", blind=False)

    def test_careful_programs_and_a_middleware_first(self):
        self.walk("middleware", blind=False)

    def test_blind_programs(self):
        self.walk("r2vfs", blind=True)

    def test_blind_programs_and_a_middleware_first(self):
        self.walk("middleware", blind=True)


if __name__ == "__main__":
    support.main()
