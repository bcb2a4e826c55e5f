#!/usr/bin/env python3
"""kill -9 at a chosen system call of what test_kill.py does not have: COMMIT with sync=commit, pushes
and pulls of several segments, the checkpoint of a close, restores, a look at the past, the settling of
a conflict in the log, the timer's pushes; and at random instants in every sync mode. In both layouts.

After each kill a machine without anything gets every row that was acknowledged as pushed, and the
replica that was killed, opened again, has every row that was acknowledged at all; it goes on, and the
remote follows link by link (read past r2vfs). No conflict is made up.

R2VFS_KILL_POINTS: system calls of each phase at which to die; 0: every one."""

import os
import tempfile
import unittest

import crashkit
from crashkit import acks, create, mark, plain_look, rng, rows, run_traced, say, step
import support
from support import one
from test_kill import KillCase

POINTS = int(os.environ.get("R2VFS_KILL_POINTS", "4"))
LAYOUTS = (support.LAYOUT,) if os.environ.get("R2VFS_TEST_LAYOUT") else ("log", "object")
FIRST = set(range(1, 7))


class Everywhere(KillCase):
    def setUp(self):
        super().setUp()
        if not crashkit.can_trace():
            self.skipTest("ptrace is not permitted here")

    def points(self, calls, random):
        if POINTS == 0 or calls <= POINTS:
            return range(1, calls + 1)
        width = calls / POINTS
        return sorted({1 + int((k + random.random()) * width) for k in range(POINTS)})

    def kill_all(self, name, make, check=None, modes=("delete", "wal"), kinds=("file", "s3"),
                 layouts=LAYOUTS):
        """make(path, mode, layout) prepares a world and returns the child's work."""
        for layout in layouts:
            for kind in kinds:
                for mode in modes:
                    self.phase(name, make, check or self.plain_check, kind, mode, layout)

    def phase(self, name, make, check, kind, mode, layout):
        random = rng(name, kind, mode, layout)

        def once(at):
            path = self.world(kind)
            result = run_traced(make(path, mode, layout), at)
            with self.subTest(phase=name, kind=kind, mode=mode, layout=layout, at=at):
                check(path, mode, *acks(result.said))
            return result
        whole = once(None)
        self.assertEqual(whole.status, 0, whole.said)
        self.assertGreater(whole.calls, 0, "the phase does nothing")
        for at in self.points(whole.calls, random):
            once(at)

    def plain_check(self, path, mode, committed, synced):
        self.goes_on(path, self.check(path, committed, synced, mode))

    def goes_on(self, path, there):
        """The replica that was killed makes the next version."""
        db = support.connect(path, self.remote, sync="manual")
        step(db, 99)
        one(db, "SELECT sync()")
        db.close()
        self.assertEqual(self.fresh()[0], there | {99})
        self.assertEqual(self.head()[0], there | {99})

    def born(self, path, mode, layout):
        """Rows 1 to 6 are pushed, in a version each: with a log there are segments."""
        db = support.connect(path, self.remote, sync="manual", layout=layout)
        create(db, mode)
        for n in sorted(FIRST):
            step(db, n)
            one(db, "SELECT sync()")
        db.close()

    def known(self):
        for n in sorted(FIRST):
            say("c", n)
        say("s")

    # The operations.

    def test_commit_in_the_remote(self):
        """sync=commit: what COMMIT acknowledged is in the remote."""
        def make(path, mode, layout):
            self.born(path, mode, layout)

            def work():
                self.known()
                db = support.connect(path, self.remote, sync="commit")
                mark()
                for n in (11, 12, 13):
                    step(db, n)
                    say("c", n)
                    say("s")
            return work
        self.kill_all("commit", make, modes=("delete", "truncate", "persist", "wal"))

    def test_push(self):
        def make(path, mode, layout):
            self.born(path, mode, layout)

            def work():
                self.known()
                db = support.connect(path, self.remote, sync="manual")
                mark()
                for n in (11, 12, 13):
                    step(db, n)
                    say("c", n)
                    one(db, "SELECT sync()")
                    say("s")
            return work
        self.kill_all("push", make)

    def test_timer(self):
        """The background thread pushes; nobody says when."""
        def make(path, mode, layout):
            self.born(path, mode, layout)

            def work():
                self.known()
                db = support.connect(path, self.remote, sync=1)
                mark()
                for n in range(11, 31):
                    step(db, n)
                    say("c", n)
                one(db, "SELECT sync()")
                say("s")
            return work
        self.kill_all("timer", make, kinds=("s3",))

    def behind(self, path, mode, layout):
        """Machine b is six versions behind; its path."""
        there = path.replace("/a/", "/b/")
        os.makedirs(os.path.dirname(there))
        db = support.connect(path, self.remote, sync="manual", layout=layout)
        create(db, mode)
        one(db, "SELECT sync()")
        other = support.connect(there, self.remote)
        other.execute(f"PRAGMA journal_mode={mode}")
        other.close()
        for n in sorted(FIRST):
            step(db, n)
            one(db, "SELECT sync()")
        db.close()
        return there

    def check_follower(self, path, mode, committed, synced):
        there = path.replace("/a/", "/b/")
        copy = crashkit.copy_of(there, tempfile.mkdtemp(dir=self.folder))
        self.assertIn(plain_look(copy)[0], (set(), FIRST), "neither the old version nor the new")
        self.assertEqual(self.check(there, committed, FIRST), FIRST)
        self.goes_on(there, FIRST)

    def test_pull(self):
        """A replica that is killed in a pull holds the old version or the new one, no mixture."""
        def at_open(path, mode, layout):
            there = self.behind(path, mode, layout)

            def work():
                mark()
                db = support.connect(there, self.remote)
                for n in rows(db):
                    say("c", n)
            return work

        def by_sql(path, mode, layout):
            there = path.replace("/a/", "/b/")
            os.makedirs(os.path.dirname(there))
            self.born(path, mode, layout)

            def work():
                db = support.connect(there, self.remote, sync="manual")
                db.execute(f"PRAGMA journal_mode={mode}")
                other = support.connect(path, self.remote, sync="manual")
                for n in (7, 8, 9):
                    step(other, n)
                    one(other, "SELECT sync()")
                mark()
                one(db, "SELECT r2_pull()")
                for n in rows(db):
                    say("c", n)
                say("s")
            return work

        def check(path, mode, committed, synced):
            there, newest = path.replace("/a/", "/b/"), FIRST | {7, 8, 9}
            copy = crashkit.copy_of(there, tempfile.mkdtemp(dir=self.folder))
            self.assertIn(plain_look(copy)[0], (FIRST, newest), "neither the old nor the new")
            self.assertEqual(self.check(there, committed, newest), newest)
            self.goes_on(there, newest)
        self.kill_all("pull at open", at_open, self.check_follower)
        self.kill_all("r2_pull()", by_sql, check)

    def test_close(self):
        """A close pushes, and in the log it writes a checkpoint of a small database."""
        def make(path, mode, layout):
            self.born(path, mode, layout)

            def work():
                self.known()
                db = support.connect(path, self.remote)
                for n in (11, 12):
                    step(db, n)
                    say("c", n)
                mark()
                db.close()
                say("s")
            return work
        self.kill_all("close", make)

    def test_in_doubt(self):
        """What was sent is there, but no answer came; then more is committed, and the log folded in. The
        replica that was killed knows its own version for its own, and goes on from it."""
        ways = {"close": lambda db: db.close(),
                "truncate": lambda db: one(db, "PRAGMA wal_checkpoint(TRUNCATE)"),
                "restart": lambda db: (one(db, "PRAGMA wal_checkpoint(RESTART)"), step(db, 13)),
                "delete": lambda db: one(db, "PRAGMA journal_mode=DELETE")}
        for way, fold in ways.items():
            def make(path, mode, layout, fold=fold):
                self.born(path, mode, layout)
                through = self.proxy()
                through.lose(method="PUT")
                through.cut(method="PUT", count=None)
                through.cut(method="GET", count=None)

                def work():
                    self.known()
                    support.load()
                    db = support.sqlite3.connect(
                        support.uri(path, self.remote, sync="manual", offline="allow", timeout=300,
                                    endpoint=through.endpoint), uri=True, isolation_level=None)
                    step(db, 11)
                    say("c", 11)
                    try:
                        one(db, "SELECT sync()")
                    except support.sqlite3.Error:
                        pass
                    step(db, 12)
                    say("c", 12)
                    mark()
                    fold(db)
                return work
            self.kill_all(f"in doubt, {way}", make, modes=("delete", "wal") if way == "close" else ("wal",),
                          kinds=("s3",))

    def test_restore(self):
        """An earlier version becomes the newest: the old content or the new one, everywhere."""
        def make(path, mode, layout):
            self.born(path, mode, layout)

            def work():
                db = support.connect(path, self.remote, sync="manual")
                mark()
                one(db, "SELECT r2_restore(4)")
                say("restored")
            return work

        def check(path, mode, committed, synced):
            type(self).kills += 1
            old, new = FIRST, {1, 2, 3, 4}
            copy = crashkit.copy_of(path, tempfile.mkdtemp(dir=self.folder))
            self.assertIn(plain_look(copy)[0], (old, new))
            before = self.fresh()[0]
            self.assertIn(before, (old, new))
            db = support.connect(path, self.remote)
            after = rows(db)
            db.close()
            self.assertEqual(after, before if before == new else self.head()[0])
            self.assertEqual(self.fresh()[0], after)
            # killed between the intent and the PUT, the old content may take the number in doubt
            self.assertIn(self.remote_image().version, (6, 7) if after == old else (7,))
            self.assertEqual(self.forks(), {})
            past = support.connect(path, self.remote, version=6)    # what was replaced
            self.assertEqual(rows(past), old)
            past.close()
            self.goes_on(path, after)
        self.kill_all("restore", make, check, layouts=[n for n in LAYOUTS if n == "log"])

    def test_past(self):
        """Killed while it shows version 3: nothing has changed."""
        def make(path, mode, layout):
            self.born(path, mode, layout)

            def work():
                self.known()
                mark()
                db = support.connect(path, self.remote, version=3)
                say("past", *sorted(rows(db)))
            return work
        self.kill_all("past", make, layouts=[n for n in LAYOUTS if n == "log"],
                      modes=("delete",))

    def test_settled(self):
        """Killed while a conflict is settled: both sides' rows are somewhere, at every instant."""
        for how, left in (("fork", FIRST | {7}), ("remote", FIRST | {7}), ("local", FIRST | {50})):
            def make(path, mode, layout, how=how):
                there = path.replace("/a/", "/b/")
                os.makedirs(os.path.dirname(there))
                self.born(path, mode, layout)

                def work():
                    db = support.connect(there, self.remote, sync="manual", conflict="error")
                    db.execute(f"PRAGMA journal_mode={mode}")
                    step(db, 50)
                    other = support.connect(path, self.remote, sync="manual")
                    step(other, 7)
                    one(other, "SELECT sync()")
                    mark()
                    one(db, f"SELECT r2_resolve('{how}')")
                return work

            def check(path, mode, committed, synced, how=how, left=left):
                type(self).kills += 1
                there, both = path.replace("/a/", "/b/"), FIRST | {7, 50}
                lost = {50} if how == "remote" else set()       # that is what was asked for
                self.assertLessEqual(both - lost, self.all_rows(there))
                db = support.connect(there, self.remote, sync="manual", conflict="error")
                try:
                    one(db, f"SELECT r2_resolve('{how}')")
                except support.sqlite3.Error as error:
                    self.assertIn("nothing to settle", str(error))
                self.assertEqual(rows(db), left)
                one(db, "SELECT sync()")
                db.close()
                self.assertEqual(self.fresh()[0], left)
                self.assertEqual(self.head()[0], left)
                self.assertLessEqual(both - lost, self.all_rows(there))
                self.goes_on(there, left)
            self.kill_all(f"resolve {how}", make, check)


# ---------------------------------------------------------------- at random instants

class Instants(KillCase):
    """Two machines write in turn, one of them is killed at an instant that nobody chose: after it
    said its k-th commit, while it is in the middle of the next. Then a machine without anything, the
    other one, and the killed one again."""

    ROUNDS = int(os.environ.get("R2VFS_KILL_ROUNDS", "3"))

    def write(self, path, mode, sync, start, random):
        db = support.connect(path, self.remote, sync=sync)
        db.execute(f"PRAGMA journal_mode={mode}")
        for n in range(start, start + 40):
            step(db, n)
            say("c", n)
            if sync == "commit":
                say("s")
            elif random.random() < 0.3:
                one(db, "SELECT sync()")
                say("s")
            if random.random() < 0.15:
                db.close()
                if sync != "manual":
                    say("s")
                db = support.connect(path, self.remote, sync=sync)

    def one_kill(self, path, mode, sync, start, random):
        """Let it run until it has said some lines, and kill it without another look."""
        want = random.randrange(0, 25)

        def somewhere_in_what_comes_next():
            for _ in range(random.randrange(0, 20000)):
                pass
        return crashkit.killed(lambda: self.write(path, mode, sync, start, random),
                               lambda lines: len(lines) >= want, somewhere_in_what_comes_next)

    def round(self, paths, k, mode, sync, start, there, random):
        """One machine writes and dies; returns the rows that are in the remote afterwards."""
        path, other = paths[k % 2], paths[(k + 1) % 2]
        committed, synced = self.one_kill(path, mode, sync, start, random)
        self.assertLessEqual(synced | there, self.fresh()[0], "acknowledged, and not in the remote")
        after = self.check(path, committed, synced | there)
        self.assertLessEqual(there, after)
        db = support.connect(other, self.remote)
        self.assertEqual(rows(db), after)
        db.close()
        return after

    def test_instants(self):
        for layout in LAYOUTS:
            for kind in ("file", "s3"):
                for mode in ("delete", "wal"):
                    for sync in ("commit", "close", "manual", "20"):
                        with self.subTest(layout=layout, kind=kind, mode=mode, sync=sync):
                            self.world_of(layout, kind, mode, sync)

    def world_of(self, layout, kind, mode, sync):
        random = rng("instants", layout, kind, mode, sync)
        path = self.world(kind)
        paths = [path, path.replace("/a/", "/b/")]
        os.makedirs(os.path.dirname(paths[1]))
        first = support.connect(path, self.remote, layout=layout)
        create(first, mode)
        first.close()
        support.connect(paths[1], self.remote).close()
        there = set()
        for k in range(self.ROUNDS):
            there = self.round(paths, k, mode, sync, 100 * (k + 1), there, random)


def tearDownModule():
    print(f"{Everywhere.kills + Instants.kills} kills and whole runs", flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
