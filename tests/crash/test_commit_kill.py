#!/usr/bin/env python3
"""sync=commit and death: kill -9 at a chosen system call of a COMMIT, inside it while another process has
the file open, and with its PUT still under way; then a power loss, of which only survives what was synced.

After each: every acknowledged row is in the remote, nothing is there that nobody committed, the replica
goes on (at most after the ordinary busy-retry) and has what the remote has; no fork is made."""

# One layout: each test names its own.

import contextlib
import ctypes
import os
import platform
import select
import signal
import sqlite3
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import crashkit  # noqa: E402
from crashkit import CrashCase, create, mark, plain_look, rng, rows, run_traced, say, step  # noqa: E402
import support  # noqa: E402
from support import one  # noqa: E402

POINTS = int(os.environ.get("R2VFS_KILL_POINTS", "4"))  # of each world; 0: every system call
MODES = ("delete", "truncate", "persist", "memory", "wal")
LAYOUTS = ("log", "object")


class CommitKill(CrashCase):
    def setUp(self):
        super().setUp()
        if not crashkit.can_trace():
            self.skipTest("ptrace is not permitted here")

    def world(self, kind, mode, layout):
        """Rows 1 to 4 in the remote, the file closed in order. Returns its path."""
        self.use(kind)
        self.mode, self.layout = mode, layout
        path = self.path(f"{self.count}/a/app.db")
        db = self.open(path)
        create(db)
        for n in range(1, 5):
            step(db, n)
        db.close()
        return path

    def open(self, path, **params):
        db = support.connect(path, self.remote, sync="commit", layout=self.layout, **params)
        self.addCleanup(db.close)
        one(db, f"PRAGMA journal_mode={self.mode}")
        return db

    def go_on(self, db, n, tries=6):
        """Commit row n with the ordinary busy-retry."""
        for _ in range(tries):
            try:
                step(db, n)
                return
            except sqlite3.OperationalError as error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                self.assertEqual(error.sqlite_errorcode & 0xff, sqlite3.SQLITE_BUSY,    # 517, too
                                 f"{error}: {one(db, 'PRAGMA r2_last_error')}")
        self.fail(f"it never gets through: {one(db, 'PRAGMA r2_last_error')}")

    def check(self, path, acked, begun, torn=False):
        """acked: rows that a COMMIT acknowledged; begun: those and what was under way. torn: the crash
        may have torn the local file, as in plain SQLite: then it is fetched anew."""
        self.assertLessEqual(acked, self.fresh()[0], "acknowledged, and not in the remote")
        try:
            plain_look(crashkit.copy_of(path, tempfile.mkdtemp(dir=self.folder)))
            db = self.open(path)
            self.go_on(db, 50)
        except (AssertionError, sqlite3.DatabaseError):
            if not torn:
                raise
            type(self).torn += 1
            for suffix in ("", "-r2", "-journal", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path + suffix)
            db = self.open(path)
            self.go_on(db, 50)
        here = rows(db)
        db.close()
        self.assertLessEqual(acked | {50}, here, "acknowledged, and gone")
        self.assertLessEqual(here, begun | {50}, "nobody committed that")
        there, digest = self.head()
        self.assertEqual((plain_look(path)[0], there), (here, here))
        self.assertEqual(self.fresh()[:2], (there, digest))
        self.assertEqual(len(self.forks()), 0)

    torn = 0

    @staticmethod
    def acks(lines):
        for line in lines:
            if line.startswith("failed"):
                raise AssertionError(line)
        return {int(line.split()[1]) for line in lines if line.startswith("c ")} | {1, 2, 3, 4}

    def commits(self, path, numbers, synchronous="FULL", end=None):
        """What the child does: mark, commit the rows, say so after each."""
        def work():
            db = self.open(path)
            db.execute(f"PRAGMA synchronous={synchronous}")
            db.execute("PRAGMA cache_size=3")
            db.execute("SELECT * FROM t").fetchall()
            mark()
            for n in numbers:
                step(db, n)
                say("c", n)
            if end:
                end()
        return work


# ---------------------------------------------------------------- at a system call

class AtEachCall(CommitKill):
    def kill_all(self, kind, mode, layout):
        random, killed = rng("commit", kind, mode, layout), 0
        path = self.world(kind, mode, layout)
        whole = run_traced(self.commits(path, (11, 12)), None)
        self.assertEqual(whole.status, 0, whole.said)
        self.assertGreater(whole.calls, 3)
        self.check(path, self.acks(whole.said), {1, 2, 3, 4, 11, 12})
        count, points = whole.calls, range(1, whole.calls + 1)
        if POINTS and count > POINTS:
            points = sorted({1 + int((k + random.random()) * count / POINTS) for k in range(POINTS)})
        for at in points:
            with self.subTest(kind=kind, mode=mode, layout=layout, at=at):
                path = self.world(kind, mode, layout)
                acked = self.acks(run_traced(self.commits(path, (11, 12)), at).said)
                begun = acked | {11} if 11 not in acked else acked | {12}
                self.check(path, acked, begun, torn=mode == "memory")
                killed += 1
        print(f"{kind} {layout} {mode}: {killed} kills in {count} calls", flush=True)

    def test_folder(self):
        for layout in LAYOUTS:
            for mode in MODES:
                self.kill_all("file", mode, layout)
        print(f"{self.torn} torn by journal_mode=MEMORY", flush=True)

    def test_r2(self):
        for layout in LAYOUTS:
            for mode in ("delete", "wal"):
                self.kill_all("s3", mode, layout)


# ---------------------------------------------------------------- beside another process

class Beside(CommitKill):
    """One process dies inside COMMIT while another has the file open, and wants to go on."""

    def die_beside(self, mode, layout, landed, second):
        path = self.world("s3", mode, layout)
        through = self.proxy()
        two = support.Peer(self, self.target(path))
        two(f"PRAGMA journal_mode={mode}")
        two("SELECT * FROM t")
        one_ = support.Peer(self, self.target(path, endpoint=through.endpoint))
        one_(f"PRAGMA journal_mode={mode}")
        one_("SELECT * FROM t")
        rule = (through.hold_answer if landed else through.hold)(method="PUT")
        one_.send("INSERT INTO t VALUES(10, 'one')")
        rule.wait_hit()
        two.send(second)
        # until it waits for the other; were it not there yet, the test would say less, not wrong
        select.select([two.child.stdout], [], [], 0.2)
        one_.kill()
        done = self.answered(two) and second.startswith("INSERT")
        for _ in range(6):
            if done:
                break
            two.send("INSERT INTO t VALUES(20, 'two')")
            if self.answered(two):
                break
        else:
            self.fail(f"it never gets through: {two('PRAGMA r2_last_error')}")
        rule.release()                  # whatever was held comes too late now
        through.settle()
        two("INSERT INTO t VALUES(21, 'two')")
        expected = {1, 2, 3, 4, 20, 21} | ({10} if landed else set())
        found = {n for n, in two("SELECT n FROM t")}
        if mode == "memory" and 10 in found:    # its pages were in the file, and nothing undid them
            expected.add(10)
        self.assertEqual(found, expected)
        two.close()
        db = support.plain(path)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        self.assertEqual({n for n, in db.execute("SELECT n FROM t")}, expected)
        db.close()
        fresh = self.open(self.path(f"{self.count}/fresh/app.db"))
        self.assertEqual({n for n, in fresh.execute("SELECT n FROM t")}, expected)
        fresh.close()
        self.assertEqual(len(self.forks()), 0)

    def target(self, path, **params):
        return support.uri(path, self.remote, sync="commit", layout=self.layout, **params)

    def answered(self, peer):
        """False: it has to begin again."""
        try:
            peer.answer()
            return True
        except sqlite3.OperationalError as error:
            self.assertEqual(error.sqlite_errorcode & 0xff, sqlite3.SQLITE_BUSY, str(error))
            return False

    def each(self, layout, modes=MODES):
        for mode in modes:
            for landed in (False, True):
                for second in ("SELECT * FROM t", "INSERT INTO t VALUES(20, 'two')"):
                    with self.subTest(mode=mode, landed=landed, second=second[:6]):
                        self.die_beside(mode, layout, landed, second)

    def test_log(self):
        self.each("log")

    def test_object(self):
        self.each("object", ("delete", "wal"))


class Refused(CommitKill):
    """What a COMMIT that failed has left on the disk does not come back when its process is killed."""

    def refused(self, mode, layout):
        path = self.world("s3", mode, layout)
        through = self.proxy()
        peer = support.Peer(self, support.uri(path, self.remote, sync="commit", endpoint=through.endpoint))
        peer(f"PRAGMA journal_mode={mode}")
        peer("PRAGMA cache_size=1")
        through.status(403, method="PUT")
        with self.assertRaises(sqlite3.OperationalError):
            peer("INSERT INTO t SELECT 100 + n, pad FROM t")
        peer.kill()
        copy = crashkit.copy_of(path, tempfile.mkdtemp(dir=self.folder))
        self.assertEqual(plain_look(copy)[0], {1, 2, 3, 4})
        self.check(path, {1, 2, 3, 4}, {1, 2, 3, 4})

    def test_refused(self):
        for layout in LAYOUTS:
            for mode in MODES:
                with self.subTest(mode=mode, layout=layout):
                    self.refused(mode, layout)


class Late(CommitKill):
    """The killed COMMIT's PUT lands after the file was opened again and worked on."""

    def late(self, mode, sync):
        path = self.world("s3", mode, "log")
        through = self.proxy()
        target = support.uri(path, self.remote, sync="commit", endpoint=through.endpoint)
        dead = support.Peer(self, target)
        dead(f"PRAGMA journal_mode={mode}")
        late = through.late(method="PUT")
        dead.send("UPDATE t SET pad = 'dead' WHERE n = 1")
        late.wait_hit()
        dead.kill()
        db = support.Peer(self, support.uri(path, self.remote, sync=sync, timeout=1500,
                                            endpoint=through.endpoint))
        cut = through.cut(method="PUT", count=None)
        with self.assertRaises(sqlite3.Error):
            db("UPDATE t SET pad = 'here' WHERE n = 2")
            db("SELECT sync()")
        cut.count = 0
        self.assertEqual(late.release(), 200)
        for _ in range(4):
            try:
                db("UPDATE t SET pad = 'here' WHERE n = 2")
                db("SELECT sync()")
                break
            except sqlite3.Error as error:
                if sync != "commit" and error.sqlite_errorcode == 517:
                    db("SELECT r2_resolve('fork')")     # a conflict that was said
        else:
            self.fail(db("PRAGMA r2_last_error"))
        db.close()
        fresh = support.connect(self.path(f"{self.count}/fresh/app.db"), self.remote)
        pads = dict(fresh.execute("SELECT n, pad FROM t WHERE n < 3"))
        fresh.close()
        self.assertEqual(pads, {1: "dead", 2: "here"}, "the version that landed was reverted")

    def test_late(self):
        for mode in ("delete", "wal"):
            for sync in ("commit", "manual"):
                with self.subTest(mode=mode, sync=sync):
                    self.late(mode, sync)


# ---------------------------------------------------------------- power loss

FSYNC = {"x86_64": (74, 75), "aarch64": (82, 83)}.get(platform.machine())


class Disk:
    """What a disk has that keeps only what was synced: of each file the bytes of its last fsync, of each
    folder the names of its last fsync (and a synced file's own name, as on ext4)."""

    def __init__(self, folder):
        self.folder = folder
        self.files = {}
        for name in os.listdir(folder):
            self.files[name] = self.read(os.path.join(folder, name))

    @staticmethod
    def read(path):
        with open(path, "rb") as file:
            return file.read()

    def synced(self, link):
        """link: /proc/PID/fd/N."""
        path = os.readlink(link)
        if path == self.folder:
            now = os.listdir(path)
            self.files = {name: data for name, data in self.files.items() if name in now}
            for name in now:
                self.files.setdefault(name, b"")
        elif os.path.dirname(path) == self.folder:
            self.files[os.path.basename(path)] = self.read(link)

    def run(self, work, kill_at=None):
        """crashkit's run_traced(), with an eye on what is synced."""
        before = crashkit._trace
        crashkit._trace = self.trace
        try:
            return run_traced(work, kill_at)
        finally:
            crashkit._trace = before

    def trace(self, pid, kill_at, result):
        info, calls = ctypes.create_string_buffer(96), {}
        os.waitpid(pid, crashkit.WALL)
        crashkit._ptrace(crashkit.SETOPTIONS, pid, 0, crashkit.OPTIONS)
        crashkit._ptrace(crashkit.SYSCALL, pid)
        while True:
            tid, status = os.waitpid(-1, crashkit.WALL)
            if not os.WIFSTOPPED(status):
                if tid == pid:
                    return
                continue
            number, deliver = os.WSTOPSIG(status), 0
            if number == signal.SIGTRAP | 0x80:
                crashkit._libc.ptrace(crashkit.SYSCALL_INFO, tid, 96, ctypes.addressof(info))
                call, first = struct.unpack_from("=QQ", info.raw, 24)
                if info.raw[0] == 1:
                    calls[tid] = (call, first)
                    result.calls += call in FSYNC
                    if call in FSYNC and result.calls == kill_at:
                        os.kill(pid, signal.SIGKILL)
                        continue
                elif info.raw[0] == 2 and calls.get(tid, (0,))[0] in FSYNC:
                    self.synced(f"/proc/{tid}/fd/{calls[tid][1]}")
            elif number not in (signal.SIGSTOP, signal.SIGTRAP):
                deliver = number
            crashkit._libc.ptrace(crashkit.SYSCALL, tid, 0, deliver)

    def after_the_power_is_back(self, keep=()):
        """keep: files of which the system had written all by itself."""
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if name.endswith("-shm") or name not in self.files:
                if not name.endswith(keep):
                    os.unlink(path)
        for name, data in self.files.items():
            if not name.endswith((*keep, "-shm")):
                with open(os.path.join(self.folder, name), "wb") as file:
                    file.write(data)


class PowerLoss(CommitKill):
    def lose_power(self, mode, layout, synchronous, keep, at):
        """at: the sync that is not made any more; None: right after the last COMMIT was acknowledged."""
        path = self.world("file", mode, layout)
        disk = Disk(os.path.dirname(path))
        said = disk.run(self.commits(path, (11, 12, 13), synchronous,
                                     lambda: os.kill(os.getpid(), signal.SIGKILL)), at)
        acked = self.acks(said.said)
        disk.after_the_power_is_back(keep)
        if at is None:
            self.assertEqual(acked, {1, 2, 3, 4, 11, 12, 13})
            copy = crashkit.copy_of(path, tempfile.mkdtemp(dir=self.folder))
            self.assertEqual(plain_look(copy)[0], acked, "acknowledged, and not on this disk")
        begun = acked | {n for n in (11, 12, 13) if n - 1 in acked or n == 11}
        self.check(path, acked, begun, torn=mode == "memory" or synchronous == "OFF")
        return said.calls

    def each(self, mode):
        for layout in LAYOUTS:
            for synchronous in ("OFF", "NORMAL", "FULL"):
                # the state may be on disk as it was at the end, whatever the rest is, and the other way
                for keep in ((), ("-r2",)):
                    with self.subTest(mode=mode, layout=layout, synchronous=synchronous, keep=keep):
                        calls = self.lose_power(mode, layout, synchronous, keep, None)
                    random = rng("power", mode, layout, synchronous, keep)
                    for at in sorted(random.sample(range(1, calls + 1), min(2, calls))):
                        with self.subTest(mode=mode, layout=layout, synchronous=synchronous, keep=keep,
                                          at=at):
                            self.lose_power(mode, layout, synchronous, keep, at)

    def test_delete(self):
        self.each("delete")

    def test_truncate(self):
        self.each("truncate")

    def test_persist(self):
        self.each("persist")

    def test_memory(self):
        self.each("memory")

    def test_wal(self):
        self.each("wal")


if __name__ == "__main__":
    support.main()
