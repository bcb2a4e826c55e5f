#!/usr/bin/env python3
"""sync=commit, random walks: two machines with two connections each, transactions with spills, savepoints
and rollbacks, all journal modes switched under way, VACUUM, checkpoints, closes, padded logs, shared
caches, page sizes, every `synchronous`, both layouts. A model says what was acknowledged; a fresh replica,
the remote decoded past r2vfs, and each connection are compared with it.

R2VFS_SEED=n begins with that seed, R2VFS_WALKS walks so many from there on, of R2VFS_STEPS steps."""

# One layout: each test names its own.

import os
import random
import shutil
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from commitkit import MODES, CommitCase  # noqa: E402
from support import one  # noqa: E402

# Fixed: of 1337884173 plain SQLite 3.40, without r2vfs, says that its own file is malformed.
SEED = int(os.environ.get("R2VFS_SEED") or 1)
WALKS = int(os.environ.get("R2VFS_WALKS", "10"))
STEPS = int(os.environ.get("R2VFS_STEPS", "50"))
BUSY = (5, 6, 261, 262, 517)        # BUSY, LOCKED, and their kinds


class Walk:
    """One seed: its dice, its connections, and what the database must hold."""

    def __init__(self, case, seed):
        self.case, self.seed, self.dice = case, seed, random.Random(seed)
        self.machines = ["a", "b"] if self.dice.random() < 0.7 else ["a"]
        self.connections, self.failures, self.trace = {}, {}, []
        self.model = {"t": {}, "u": {}}

    def say(self, *what):
        self.trace.append(what)

    def open(self, machine, number):
        dice, params = self.dice, {}
        if dice.random() < 0.3:
            params["psow"] = 0
        if dice.random() < 0.15:
            params["cache"] = "shared"
        if dice.random() < 0.5:
            params["refresh"] = 0
        db = self.case.open(machine, mode=False, **params)
        db.execute("PRAGMA busy_timeout=2000")
        db.execute(f"PRAGMA cache_size={dice.choice([1, 5, 5, 100, 2000])}")
        db.execute(f"PRAGMA synchronous={dice.choice(['OFF', 'NORMAL', 'FULL', 'EXTRA'])}")
        if dice.random() < 0.3:
            db.execute(f"PRAGMA wal_autocheckpoint={dice.choice([0, 1, 7, 50])}")
        self.say("open", machine, number, params)
        self.connections[machine, number] = db
        return db

    def birth(self):
        db = self.open("a", 0)
        db.execute(f"PRAGMA page_size={self.dice.choice([512, 1024, 4096, 4096, 8192, 65536])}")
        db.execute(f"PRAGMA auto_vacuum={self.dice.choice([0, 0, 1, 2])}")
        for table in "tu":
            db.execute(f"CREATE TABLE {table}(x INTEGER PRIMARY KEY, y)")
        db.execute("CREATE INDEX iu ON u(y)")

    # ---- one transaction

    def change(self, db, there):
        """A few statements; returns what `there` is afterwards."""
        dice = self.dice
        for _ in range(dice.choice([1, 1, 2, 5])):
            table, what = dice.choice("tu"), dice.random()
            if what < 0.35:
                n, size = dice.choice([(1, 50), (3, 700), (30, 900), (60, 3000), (2, 20000)])
                for _ in range(n):
                    x, y = dice.randrange(200), dice.randbytes(dice.randrange(size))
                    db.execute(f"INSERT OR REPLACE INTO {table} VALUES(?, ?)", (x, y))
                    there[table][x] = y
            elif what < 0.5:
                low = dice.randrange(200)
                high = low + dice.choice([1, 20, 200])
                db.execute(f"DELETE FROM {table} WHERE x BETWEEN ? AND ?", (low, high))
                there[table] = {x: y for x, y in there[table].items() if not low <= x <= high}
            elif what < 0.6:
                y = dice.randbytes(dice.randrange(900))
                db.execute(f"UPDATE {table} SET y = ?", (y,))
                there[table] = dict.fromkeys(there[table], y)
            elif what < 0.65:
                db.execute(f"UPDATE {table} SET y = y")
            elif what < 0.8:
                there = self.savepoint(db, there)
            elif what < 0.9:
                db.execute(dice.choice(["CREATE TABLE IF NOT EXISTS extra(a)",
                                        "DROP TABLE IF EXISTS extra"]))
            else:
                db.execute("CREATE TEMP TABLE IF NOT EXISTS mine(a)")
                db.execute("INSERT INTO mine VALUES(1)")
        return there

    def savepoint(self, db, there):
        db.execute("SAVEPOINT s")
        inner = self.change(db, {name: dict(rows) for name, rows in there.items()})
        if self.dice.random() < 0.6:
            db.execute("ROLLBACK TO s")
            inner = there
        db.execute("RELEASE s")
        return inner

    @staticmethod
    def view(db):
        return {name: dict(db.execute(f"SELECT x, y FROM {name}")) for name in "tu"}

    def transaction(self, db):
        db.execute(self.dice.choice(["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "SAVEPOINT top"]))
        seen = self.view(db)
        after = self.change(db, {name: dict(rows) for name, rows in seen.items()})
        if self.dice.random() < 0.2:
            db.execute("ROLLBACK")
            return
        db.execute("COMMIT")
        if seen != self.model:          # it was behind: then it may have changed nothing
            self.case.assertEqual(after, seen, "a stale transaction was acknowledged")
        else:
            self.model = after

    # ---- one step

    def act(self, machine, number, db):
        dice, what = self.dice, self.dice.random()
        self.say(machine, number, round(what, 2))
        if what < 0.6:
            self.transaction(db)
        elif what < 0.66:
            db.execute(f"PRAGMA journal_mode={dice.choice([*MODES, 'wal'])}").fetchall()
        elif what < 0.72:
            how = dice.choice(["passive", "full", "restart", "truncate"])
            db.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
        elif what < 0.77:
            if len(self.machines) == 1 and dice.random() < 0.5:
                db.execute(f"PRAGMA page_size={dice.choice([512, 1024, 4096, 8192, 65536])}")
            db.execute("VACUUM")
        elif what < 0.8:
            db.execute("REINDEX")
            db.execute("PRAGMA incremental_vacuum(5)").fetchall()
        elif what < 0.84:
            self.connections.pop((machine, number)).close()
        elif what < 0.9:
            one(db, "SELECT sync()")
        elif what < 0.95:
            cursor = db.execute("SELECT * FROM t")
            cursor.fetchone()
            cursor.close()
        else:
            db.execute("BEGIN IMMEDIATE")
            db.execute("COMMIT")

    def step(self):
        machine, number = self.dice.choice(self.machines), self.dice.choice([0, 0, 1])
        db = self.connections.get((machine, number)) or self.open(machine, number)
        try:
            self.act(machine, number, db)
            self.failures[machine, number] = 0
        except sqlite3.Error as error:
            self.say("error", error.sqlite_errorcode, str(error), one(db, "PRAGMA r2_last_error")[:200])
            if db.in_transaction:
                db.execute("ROLLBACK")
            if error.sqlite_errorcode not in BUSY:
                raise
            self.failures[machine, number] = self.failures.get((machine, number), 0) + 1
            self.case.assertLess(self.failures[machine, number], 12, "it never gets through")
        if self.dice.random() < 0.3:
            self.look_at_fresh()
        if self.dice.random() < 0.2:
            self.look(db)

    # ---- comparisons

    def same(self, db):
        found = self.view(db)
        self.case.assertEqual({t: set(found[t]) for t in found}, {t: set(self.model[t]) for t in found})
        self.case.assertTrue(found == self.model, "other contents")

    def look(self, db):
        try:
            one(db, "SELECT r2_pull()")
            self.same(db)
        except sqlite3.ProgrammingError:
            pass                        # it was closed in this step
        except sqlite3.Error as error:
            if error.sqlite_errorcode not in BUSY:
                raise

    def look_at_fresh(self):
        db = self.case.open("fresh", mode=False, sync="manual")
        try:
            self.same(db)
            self.case.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
        finally:
            db.close()
            shutil.rmtree(os.path.dirname(self.case.file("fresh")))

    def end(self):
        for db in self.connections.values():
            db.close()
        self.connections.clear()
        for machine in self.machines:
            if os.path.exists(self.case.file(machine)):
                db = self.case.open(machine, mode=False, sync="manual")
                self.same(db)
                db.close()
                self.case.assertEqual(support.integrity(self.case.file(machine)), "ok")
        newest = self.case.remote_image()
        self.case.assertEqual(support.integrity_of_bytes(newest.data), "ok")
        self.case.no_forks()
        return newest.version


class Walks(CommitCase):
    def test_walks(self):
        versions = 0
        for seed in range(SEED, SEED + WALKS):
            with self.subTest(seed=seed):
                self.world("delete", random.Random(seed).choice(["log", "log", "log", "object"]))
                walk = Walk(self, seed)
                try:
                    walk.birth()
                    for _ in range(STEPS):
                        walk.step()
                    versions += walk.end()
                except BaseException:
                    print(f"R2VFS_SEED={seed} R2VFS_WALKS=1", *walk.trace[-40:], sep="\n   ", flush=True)
                    raise
        print(f"R2VFS_SEED={SEED}: {WALKS} walks, {versions} versions", flush=True)


if __name__ == "__main__":
    print(f"seed: R2VFS_SEED={SEED}", flush=True)
    support.main()
