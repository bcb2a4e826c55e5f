"""test_kill.py - kill -9 at a chosen system call, at a chosen request, and at random instants.

After each kill:
 (a) a stock SQLite finds the copied files whole, with every commit that was acknowledged locally;
 (b) r2vfs, opened again, still has them and brings them into the remote;
 (c) a machine without a local file gets every row whose sync() was acknowledged, and after (b) all;
 and no fork is made, because there was no conflict (but where the test makes one)."""

import os
import signal
import tempfile
import time
import unittest

import crashkit
from crashkit import CrashCase, acks, create, mark, plain_look, rng, rows, run_traced, say, step
import support

POINTS = int(os.environ.get("R2VFS_KILL_POINTS", "4"))  # of each phase; 0: every system call
QUICK = ("off", "memory")  # journal modes in which a crash may damage the file


class KillCase(CrashCase):
    kills = 0

    def world(self, kind):
        self.use(kind)
        return self.path(f"{self.count}/a/app.db")

    def seed_rows(self, path, first, last, mode=None, **params):
        """Committed and pushed (unless sync=manual), by this process, with a proper close."""
        db = support.connect(path, self.remote, **params)
        create(db, mode)
        for n in range(first, last + 1):
            step(db, n)
        db.close()
        return set(range(first, last + 1))

    def check(self, path, committed, synced, mode="", forks=0):
        type(self).kills += 1
        damaged = None
        if os.path.exists(path) or committed:
            copy = crashkit.copy_of(path, tempfile.mkdtemp(dir=self.folder))
            try:
                here, digest = plain_look(copy, "quick_check" if mode in QUICK else "integrity_check")
                if mode not in QUICK:
                    self.assertLessEqual(committed, here, "(a) acknowledged commits are gone")
            except (AssertionError, support.sqlite3.DatabaseError) as error:
                if mode not in QUICK:
                    raise
                damaged = error
        before, _, _ = self.fresh()
        self.assertLessEqual(synced, before, "(c) acknowledged by sync(), not in the remote")
        if damaged:
            return self.check_damaged(path, synced)
        db = support.connect(path, self.remote)
        try:
            after = rows(db)
            if mode not in QUICK:
                self.assertLessEqual(committed, after, "(b) acknowledged commits are gone")
            elif after == set():
                create(db)              # its birth was not committed
        finally:
            db.close()
        self.assertLessEqual(synced, after)
        there, digest = self.head()
        self.assertEqual(there, after, "(b) not pushed")
        again, same, _ = self.fresh()
        self.assertEqual((again, same), (there, digest))
        self.assertEqual(len(self.forks()), forks)
        return after

    def check_damaged(self, path, synced):
        """journal_mode OFF or MEMORY: what is damaged never reaches the head, and says so."""
        type(self).damaged += 1
        db = support.connect(path, self.remote)
        try:
            rows(db)
            db.close()
        except support.sqlite3.Error:
            # SQLite cannot even begin to read it; what the remote has is still to be had
            db.close()
            os.unlink(path)
            support.connect(path, self.remote).close()
        there, _ = self.head()
        self.assertLessEqual(synced, there)
        self.assertEqual(plain_look(path)[0], there)
        return there

    damaged = 0


# ---------------------------------------------------------------- at a system call

class SystemCalls(KillCase):
    def setUp(self):
        super().setUp()
        if not crashkit.can_trace():
            self.skipTest("ptrace is not permitted here")

    def points(self, calls, n, random):
        """The system calls at which to die: spread over the phase, others in each run."""
        if n == 0 or calls <= n:
            return range(1, calls + 1)
        width = calls / n
        return sorted({1 + int((k + random.random()) * width) for k in range(n)})

    def kill_all(self, name, make, check, modes=("delete", "wal"), kinds=("file", "s3"), density=1):
        """make(path, mode) prepares a world and returns the work of the child."""
        for kind in kinds:
            for mode in modes:
                random = rng(name, kind, mode)
                path = self.world(kind)
                whole = run_traced(make(path, mode), None)
                self.assertEqual(whole.status, 0, whole.said)
                self.assertGreater(whole.calls, 0, "the phase does nothing")
                check(path, mode, *acks(whole.said))
                for at in self.points(whole.calls, POINTS * density, random):
                    path = self.world(kind)
                    with self.subTest(phase=name, kind=kind, mode=mode, at=at):
                        result = run_traced(make(path, mode), at)
                        check(path, mode, *acks(result.said))

    def started(self, path, mode):
        """A pushed database, and how a child says what it knows to be there."""
        there = self.seed_rows(path, 1, 6, mode)

        def tell():
            for n in sorted(there):
                say("c", n)
            say("s")
        return tell

    def plain_check(self, path, mode, committed, synced):
        self.check(path, committed, synced, mode)

    def test_commit(self):
        for sync in ("close", "manual", "50"):
            def make(path, mode, sync=sync):
                tell = self.started(path, mode)

                def work():
                    tell()
                    db = support.connect(path, self.remote, sync=sync)
                    mark()
                    for n in (11, 12):
                        step(db, n)
                        say("c", n)
                return work
            self.kill_all(f"commit, sync={sync}", make, self.plain_check,
                          ("delete", "truncate", "persist", "wal"),
                          ("file",) if sync != "50" else ("s3",))

    def test_sync(self):
        def make(path, mode):
            tell = self.started(path, mode)

            def work():
                tell()
                db = support.connect(path, self.remote, sync="manual")
                step(db, 11)
                say("c", 11)
                mark()
                db.execute("SELECT sync()")
                say("s")
                step(db, 12)
                say("c", 12)
                db.execute("SELECT sync()")
                say("s")
            return work
        self.kill_all("sync()", make, self.plain_check)

    def test_birth(self):
        def make(path, mode):
            def work():
                mark()
                db = support.connect(path, self.remote, sync="manual")
                create(db, mode)
                step(db, 1)
                say("c", 1)
                db.execute("SELECT sync()")
                say("s")
            return work

        def check(path, mode, committed, synced):
            type(self).kills += 1
            if not committed and not os.path.exists(path):
                self.assertIsNone(self.head_bytes())
                return
            copy = crashkit.copy_of(path, tempfile.mkdtemp(dir=self.folder))
            self.assertLessEqual(committed, plain_look(copy)[0])
            db = support.connect(path, self.remote)
            create(db, mode)
            after = rows(db)
            self.assertLessEqual(committed, after)
            db.close()
            self.assertEqual(self.head()[0], after)
            self.assertEqual(self.fresh()[0], after)
            self.assertEqual(self.forks(), {})
        self.kill_all("birth", make, check)

    def test_close(self):
        def make(path, mode):
            tell = self.started(path, mode)

            def work():
                tell()
                db = support.connect(path, self.remote)
                step(db, 11)
                say("c", 11)
                mark()
                db.close()
                say("s")
            return work
        self.kill_all("close", make, self.plain_check)

    def test_checkpoint(self):
        def make(path, mode):
            tell = self.started(path, mode)

            def work():
                tell()
                db = support.connect(path, self.remote)
                for n in (11, 12, 13):
                    step(db, n)
                    say("c", n)
                mark()
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return work
        self.kill_all("checkpoint", make, self.plain_check, ("wal",), ("file",))

    def test_open_with_leftovers(self):
        """The open that pushes what a crash left is itself killed."""
        def make(path, mode):
            tell = self.started(path, mode)

            def dirty():
                db = support.connect(path, self.remote)
                for n in (11, 12):
                    step(db, n)
                    say("c", n)
            self.assertEqual(run_traced(dirty, None).said, ["c 11", "c 12"])

            def work():
                tell()
                say("c", 11)
                say("c", 12)
                mark()
                db = support.connect(path, self.remote)
                rows(db)
                say("s")
            return work
        self.kill_all("open with leftovers", make, self.plain_check)

    def test_pull(self):
        """A replica that is killed in a pull holds the old version or the new one, no mixture."""
        known = {}

        def make(path, mode):
            there = path.replace("/a/", "/b/")
            os.makedirs(os.path.dirname(there))
            self.seed_rows(path, 1, 6, mode)
            db = support.connect(path, self.remote)
            db.execute("BEGIN")
            for _ in range(60):
                db.execute("INSERT INTO junk VALUES(randomblob(3000))")
            db.execute("COMMIT")
            db.close()
            known["old"] = self.head()
            db = support.connect(there, self.remote)
            db.execute(f"PRAGMA journal_mode={mode}")   # the replica's own choice
            db.close()
            db = support.connect(path, self.remote)
            # pages here and there, so that they are written one by one; and some more at the end
            db.execute("UPDATE junk SET x = randomblob(3000) WHERE rowid % 3 = 1")
            db.execute("INSERT INTO junk VALUES(randomblob(30000))")
            db.close()
            known["new"] = self.head()

            def work():
                mark()
                db = support.connect(there, self.remote)
                for n in rows(db):
                    say("c", n)
            return work

        def check(path, mode, committed, synced):
            there = path.replace("/a/", "/b/")
            copy = crashkit.copy_of(there, tempfile.mkdtemp(dir=self.folder))
            self.assertIn(plain_look(copy), known.values(), "neither the old version nor the new")
            self.check(there, committed, known["new"][0])
            self.assertEqual(plain_look(there), known["new"])
        self.kill_all("pull", make, check, kinds=("file",), density=3)

    def test_first_pull(self):
        """A machine that is killed while it gets its first copy."""
        def make(path, mode):
            there = path.replace("/a/", "/b/")
            os.makedirs(os.path.dirname(there))
            self.seed_rows(path, 1, 6, mode)

            def work():
                mark()
                db = support.connect(there, self.remote)
                for n in rows(db):
                    say("c", n)
                say("s")
            return work

        def check(path, mode, committed, synced):
            there = path.replace("/a/", "/b/")
            self.assertEqual(self.check(there, committed, synced), set(range(1, 7)))
        self.kill_all("first pull", make, check, ("delete",))

    def diverged(self, path, mode):
        """Replica a is at version 3; b has commits of its own on top of version 1."""
        there = path.replace("/a/", "/b/")
        os.makedirs(os.path.dirname(there))
        self.seed_rows(path, 1, 3, mode)
        support.connect(there, self.remote).close()
        self.seed_rows(there, 101, 103, mode, sync="manual")
        self.seed_rows(path, 4, 6)
        return there

    BOTH = set(range(1, 7)) | {101, 102, 103}

    def test_conflict_at_open(self):
        """Killed while the loser is kept and the remote adopted: all rows are still somewhere."""
        def make(path, mode):
            there = self.diverged(path, mode)

            def work():
                mark()
                rows(support.connect(there, self.remote))
            return work

        def check(path, mode, committed, synced):
            type(self).kills += 1
            there = path.replace("/a/", "/b/")
            self.assertLessEqual(self.BOTH, self.all_rows(there))
            db = support.connect(there, self.remote)
            self.assertEqual(rows(db), set(range(1, 7)))
            db.close()
            self.assertEqual(self.head()[0], set(range(1, 7)))
            self.assertLessEqual(self.BOTH, self.all_rows())
            self.assertEqual(len(self.forks()), 1)
        self.kill_all("conflict", make, check)

    def test_resolve_local(self):
        """Killed while the local side wins: the remote's content is kept first."""
        def make(path, mode):
            there = self.diverged(path, mode)

            def work():
                db = support.connect(there, self.remote, conflict="error", sync="manual")
                mark()
                db.execute("SELECT r2_resolve('local')")
                say("s")
            return work

        def check(path, mode, committed, synced):
            type(self).kills += 1
            there = path.replace("/a/", "/b/")
            self.assertLessEqual(self.BOTH, self.all_rows(there))
            support.connect(there, self.remote).close()
            self.assertEqual(self.head()[0], plain_look(there)[0])
            self.assertLessEqual(self.BOTH, self.all_rows(there))
        self.kill_all("resolve local", make, check)

    def with_free_pages(self, path):
        """Room for a commit that does not grow the file: page counts will not give the damage
        away."""
        there = self.seed_rows(path, 1, 6, "delete")
        db = support.connect(path, self.remote)
        for _ in range(20):
            db.execute("INSERT INTO junk VALUES(randomblob(9000))")
        db.execute("DELETE FROM junk")
        db.close()
        return there

    def test_no_journal(self):
        """journal_mode OFF and MEMORY: a file that the kill damaged is never pushed."""
        def make(path, mode):
            there = self.with_free_pages(path)

            def work():
                for n in there:
                    say("c", n)
                say("s")
                db = support.connect(path, self.remote)
                db.execute(f"PRAGMA journal_mode={mode}")
                mark()
                step(db, 11)
                step(db, 12)
                db.execute("SELECT sync()")
            return work
        self.kill_all("no journal", make, self.plain_check, QUICK)
        self.assertGreater(type(self).damaged, 0, "no kill damaged a file: nothing was tested")

    def test_damage_beside_a_live_process(self):
        """The same while another process has the replica open: its sync() and close push nothing
        that is damaged either."""
        seen = 0
        for at in range(1, 7):
            path = self.world("file")
            there = self.with_free_pages(path)
            other = self.spawn(
                "sys.path.insert(0, sys.argv[3]); import crashkit\n"
                "db = connect(sys.argv[1], sys.argv[2]); one(db, 'SELECT count(*) FROM t')\n"
                "print('ready'); input()\n"
                "try: db.execute('SELECT sync()')\n"
                "except sqlite3.Error as error: print(error, file=sys.stderr)\n"
                "db.close()\n", path, self.remote, os.path.dirname(crashkit.__file__),
                stderr=support.subprocess.PIPE)
            support.expect(other, "ready")

            def work():
                db = support.connect(path, self.remote, sync="manual")
                db.execute("PRAGMA journal_mode=off")
                mark()
                step(db, 11)
            result = run_traced(work, at)
            acks(result.said)
            copy = crashkit.copy_of(path, tempfile.mkdtemp(dir=self.folder))
            try:
                plain_look(copy, "quick_check")
                damaged = False
            except (AssertionError, support.sqlite3.DatabaseError):
                damaged = True
            support.tell(other)
            support.finish(other, check=False)
            type(self).kills += 1
            with self.subTest(at=at):
                if damaged:
                    seen += 1
                    self.assertEqual(self.look(self.head_bytes(), "quick_check")[0], there)
        self.assertGreater(seen, 0, "no kill damaged a file: nothing was tested")


# ---------------------------------------------------------------- at a request

WRITER = """
sys.path.insert(0, sys.argv[5])
import crashkit
path, remote, mode, start = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
db = connect(path, remote)
crashkit.create(db, mode)
crashkit.step(db, start); print("c", start)
db.execute("SELECT sync()"); print("s")
crashkit.step(db, start + 1); print("c", start + 1)
db.execute("SELECT sync()"); print("s")
crashkit.step(db, start + 2); print("c", start + 2)
db.close(); print("s")
"""

SYNCER = """
db = connect(sys.argv[1], sys.argv[2])
print("ready")
for line in sys.stdin:
    print("done", one(db, "SELECT sync()"))
db.close()
"""


class Requests(KillCase):
    """Through the fault proxy, which holds a request or its answer while the client is killed."""

    def setUp(self):
        super().setUp()
        self.use("s3")
        self.faults = self.proxy()

    def writer(self, path, mode, start):
        return self.spawn(WRITER, path, self.remote, mode, start,
                          os.path.dirname(crashkit.__file__),
                          env={"R2_ENDPOINT": self.faults.endpoint})

    def finished(self, child):
        """Kill it; what it said."""
        child.send_signal(signal.SIGKILL)
        out, _ = child.communicate(timeout=support.DEADLINE)
        return acks(out.splitlines())

    def test_every_request(self):
        for mode in ("delete", "wal"):
            self.faults.clear()
            self.at_request(mode, None, 0)
            n = len(self.faults.requests)
            self.assertGreater(n, 4)
            for action in ("hold", "hold_answer"):
                for nth in range(1, n + 1):
                    with self.subTest(mode=mode, action=action, nth=nth):
                        self.at_request(mode, action, nth)

    def at_request(self, mode, action, nth):
        path = self.world("s3")
        other = path.replace("/a/", "/b/")
        os.makedirs(os.path.dirname(other))
        first = self.seed_rows(path, 1, 3, mode)
        support.connect(other, self.remote).close()
        first |= self.seed_rows(path, 4, 5)
        rule = getattr(self.faults, action)(nth=nth) if nth else None
        child = self.writer(other, mode, 21)
        if not nth:
            committed, synced = acks(support.finish(child).splitlines())
        else:
            rule.wait_hit()
            committed, synced = self.finished(child)
            rule.release()
            self.faults.settle()        # what was held has landed by now
            self.faults.clear_rules()
        if committed:
            committed |= first
        self.check(other, committed, synced | first)

    def test_late_put(self):
        """The dead process's PUT lands before, between or after the next push's steps; that push is
        made by the process that opens the file again, or by one that had it open all the time."""
        for mode in ("delete", "wal"):
            for alive in (False, True):
                for more in (False, True):
                    for when in ("before", "between", "after"):
                        with self.subTest(mode=mode, alive=alive, more=more, when=when):
                            self.late_put(mode, alive, more, when)

    def late_put(self, mode, alive, more, when):
        path = self.world("s3")
        there = self.seed_rows(path, 1, 3, mode) | {21}
        base = int(self.bucket.head(self.key).meta["db-version"])
        env = {"R2_ENDPOINT": self.faults.endpoint}
        if alive:
            neighbour = self.spawn(SYNCER, path, self.remote, env=env)
            support.expect(neighbour, "ready")
        stuck = self.faults.hold(method="PUT", key="app")
        child = self.writer(path, mode, 21)
        stuck.wait_hit()
        self.assertEqual(self.finished(child), ({21}, set()))
        if more:                        # so that the next push has other bytes
            db = support.plain(path)
            step(db, 22)
            db.close()
            there |= {22}

        def land():
            stuck.release()
            self.landed(base + 1)
        if when == "before":
            land()
        # without `more` and after `before`, nothing is left to push
        second = self.faults.hold(method="PUT", key="app", nth=1) if when == "between" else None
        if not alive:
            neighbour = self.spawn(SYNCER, path, self.remote, env=env)
        if alive:
            support.tell(neighbour)
        if second:
            second.wait_hit()
            land()
            second.release()
        if not alive:
            support.expect(neighbour, "ready")
            support.tell(neighbour)
        support.expect(neighbour, "done")
        stuck.release()
        neighbour.stdin.close()
        self.assertEqual(neighbour.wait(support.DEADLINE), 0)
        self.faults.settle()
        self.faults.clear_rules()
        if mode == "wal" and more and not alive and self.forks():
            # stock SQLite folded the log in, and with it the proof that row 22 continues what was
            # pushed: kept as a fork, as DESIGN has it for an unclean end over a landed intent
            self.assertEqual(when, "before")
            self.assertLessEqual(there, self.all_rows())
            return
        self.check(path, there, there)

    def landed(self, version):
        while int(self.bucket.head(self.key).meta["db-version"]) < version:
            pass


# ---------------------------------------------------------------- at random instants

class Instants(KillCase):
    """A writer that says each commit; it is killed some time after a random one of them, and the
    same database goes on with the next writer."""

    ROUNDS = 3

    def write(self, path, mode, sync, start):
        db = support.connect(path, self.remote, sync=sync)
        create(db, mode)
        n = start
        while True:
            for _ in range(4):
                step(db, n)
                say("c", n)
                n += 1
            if sync == "manual" or n % 3 == 0:
                db.execute("SELECT sync()")
                say("s")
            if n % 4 == 0:
                db.close()
                if sync != "manual":
                    say("s")
                db = support.connect(path, self.remote, sync=sync)

    def one_kill(self, path, mode, sync, start, random):
        stop = random.randrange(0, 14)
        return crashkit.killed(lambda: self.write(path, mode, sync, start),
                               lambda lines: sum(line.startswith("c ") for line in lines) >= stop,
                               lambda: time.sleep(random.random() * 0.01))     # an instant

    def run_world(self, kind, mode, sync):
        random = rng("instants", kind, mode, sync)
        path = self.world(kind)
        there, start = set(), 1
        first = support.connect(path, self.remote)
        create(first)
        first.close()
        for _ in range(self.ROUNDS):
            forks = len(self.forks())   # in these modes a damaged image may have been kept before
            committed, synced = self.one_kill(path, mode, sync, start, random)
            if synced:
                synced |= there
            after = self.check(path, committed | there if mode not in QUICK else set(),
                               synced | there, mode, forks)
            self.assertLessEqual(there, after)
            there, start = after, max(after | {start}) + 1

    def test_instants(self):
        for kind in ("file", "s3"):
            for mode in ("delete", "wal", "truncate", "persist", "memory", "off"):
                for sync in ("close", "50", "manual"):
                    with self.subTest(kind=kind, mode=mode, sync=sync):
                        self.run_world(kind, mode, sync)


def tearDownModule():
    kills = sum(c.kills for c in (SystemCalls, Requests, Instants))
    print(f"{kills} kills, {SystemCalls.damaged + Instants.damaged} of them damaged a file without "
          f"a journal")


if __name__ == "__main__":
    unittest.main(verbosity=2)
