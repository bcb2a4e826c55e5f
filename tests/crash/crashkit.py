"""crashkit.py - what the crash tests share: a database in which a lost, doubled or mixed commit
shows, both kinds of remote seen past r2vfs, SQLite's log, and processes that die at a chosen system
call.

The seed of everything random is printed; R2VFS_SEED=... repeats a run."""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import random
import shutil
import signal
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402

SEED = int(os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
print(f"seed: R2VFS_SEED={SEED}", flush=True)


def rng(*names):
    """A generator of its own for each test: one test's draws do not move another's."""
    return random.Random(":".join(map(str, (SEED,) + names)))


# ---------------------------------------------------------------- the database

def create(db, mode=None):
    if mode:
        db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, pad BLOB)")
    db.execute("CREATE TABLE IF NOT EXISTS total(c)")
    db.execute("CREATE TABLE IF NOT EXISTS junk(x)")
    db.execute("INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total)")
    db.execute("COMMIT")


def payload(n):
    """Its length makes overflow pages now and then."""
    return hashlib.sha256(str(n).encode()).digest() * (1 + n * 37 % 190)


def step(db, n):
    """One commit: row n, a count that must always be the number of rows, pages freed and used."""
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO t VALUES(?, ?)", (n, payload(n)))
    db.execute("UPDATE total SET c = c + 1")
    db.execute("DELETE FROM junk WHERE rowid % 3 = ?", (n % 3,))
    db.execute("INSERT INTO junk VALUES(randomblob(?))", (n * 911 % 20000,))
    db.execute("COMMIT")


class Mixture(AssertionError):
    pass


def rows(db):
    """The rows' numbers; raises Mixture when no sequence of commits leads to this content."""
    db.execute("BEGIN")
    try:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'junk'").fetchone():
            return set()
        found = {}
        for n, pad in db.execute("SELECT n, pad FROM t"):
            found[n] = pad
        total, = db.execute("SELECT c FROM total").fetchone()
    finally:
        db.execute("ROLLBACK")
    wrong = [n for n, pad in found.items() if pad != payload(n)]
    if wrong or total != len(found):
        raise Mixture(f"{len(found)} rows, total {total}, wrong rows {wrong[:5]}")
    return set(found)


def content(db):
    """A digest of all that the database says."""
    digest = hashlib.sha256()
    db.execute("BEGIN")
    for name, in db.execute("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY 1").fetchall():
        digest.update(repr((name, db.execute(f'SELECT rowid, * FROM "{name}" ORDER BY 1')
                            .fetchall())).encode())
    db.execute("ROLLBACK")
    return digest.hexdigest()


def plain_look(path, check="integrity_check"):
    """(rows, digest) of a file as a stock SQLite sees it; AssertionError when it is damaged."""
    db = support.plain(path)
    try:
        said = [row[0] for row in db.execute(f"PRAGMA {check}")]
        if said != ["ok"]:
            raise AssertionError(f"{path}: {check}: {said[:3]}")
        return rows(db), content(db)
    finally:
        db.close()


def copy_of(path, folder):
    """A crashed database's files elsewhere, for a look that does not touch the original."""
    os.makedirs(folder, exist_ok=True)
    to = os.path.join(folder, os.path.basename(path))
    for suffix in ("", "-wal", "-journal"):
        if os.path.exists(to + suffix):
            os.unlink(to + suffix)
        if os.path.exists(path + suffix):
            shutil.copyfile(path + suffix, to + suffix)
    return to


# ---------------------------------------------------------------- both kinds of remote

@functools.lru_cache(None)
def _bucket(emulator):
    bucket = emulator.bucket()          # a client takes longer to make than a database
    atexit.register(bucket.client.close)
    return bucket


class CrashCase(support.Case):
    """A case whose remote is looked at past r2vfs, be it a folder or R2."""

    remote_kind = "file"                # until use()

    def use(self, kind, key=None):
        """From now on a new key on this kind of remote."""
        self.remote_kind = kind
        if kind == "s3":
            self.emulator = support.emulator()
            self.bucket = _bucket(self.emulator)
        self.count = getattr(self, "count", 0) + 1
        self.key = key or f"{self.prefix}/{self.count}/app.db"
        self.remote = self.remote_of(self.key)
        return self.remote

    def head_bytes(self):
        """None: there is no object."""
        try:
            return self.remote_image().data
        except (FileNotFoundError, support.Missing):
            return None

    def forks(self):
        """{key: bytes} of the kept losers."""
        return self.beside("-forks")

    def past(self):
        """{(lineage, version): bytes} that can still be had: kept copies in the object layout; in the log
        every version, until the retention collects it."""
        return self.remote_past()

    def beside(self, suffix):
        if self.remote_kind == "s3":
            keys = self.bucket.list(self.key + suffix + "/")
            return {key: self.bucket.get(key).body for key in keys}
        top, found = self.remote[len("file://"):] + suffix, {}
        for folder, _, names in os.walk(top):
            for name in sorted(names):
                if ".r2vfs" not in folder:
                    with open(os.path.join(folder, name), "rb") as file:
                        found[name] = file.read()
        return found

    def look(self, data, check="integrity_check"):
        """(rows, digest) of an object's bytes."""
        if not data:
            return set(), None
        path = os.path.join(tempfile.mkdtemp(dir=self.folder), "x.db")
        with open(path, "wb") as file:
            file.write(data)
        return plain_look(path, check)

    def head(self):
        return self.look(self.head_bytes())

    def fresh(self, **params):
        """(rows, digest, version) that a machine without a local file gets."""
        path = os.path.join(tempfile.mkdtemp(dir=self.folder), "app.db")
        db = support.connect(path, self.remote, **params)
        try:
            return rows(db), content(db), support.one(db, "SELECT r2_version()")
        finally:
            db.close()

    def all_rows(self, *paths):
        """The rows in the head, the forks, kept versions and these local files together."""
        found = self.head()[0]
        for data in [*self.forks().values(), *self.past().values()]:
            found |= self.look(data)[0]
        for path in paths:
            if os.path.exists(path):
                found |= plain_look(copy_of(path, tempfile.mkdtemp(dir=self.folder)))[0]
        return found


# ---------------------------------------------------------------- SQLite's log

class Log:
    """What this process's SQLite logs; SQLite takes a logger only before it is initialised."""

    def __init__(self):
        self.lines = []
        name = "libsqlite3.dylib" if sys.platform == "darwin" else "libsqlite3.so.0"
        library = ctypes.CDLL(name)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
        self._keep = kind(lambda _, code, text: self.lines.append(text.decode()))
        library.sqlite3_shutdown()
        if library.sqlite3_config(16, self._keep, None) != 0:
            raise RuntimeError("SQLite takes no logger")
        library.sqlite3_initialize()

    def ours(self, word=""):
        """Whole sentences: SQLite cuts a line at 210 bytes, so a long one comes in pieces."""
        said = []
        for line in self.lines:
            if line.startswith("r2vfs: ...") and said:
                said[-1] += line.removeprefix("r2vfs: ...")
            elif line.startswith("r2vfs:"):
                said.append(line)
        return [sentence for sentence in said if word in sentence]

    def clear(self):
        self.lines.clear()


# ---------------------------------------------------------------- dying at a system call

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
TRACEME, CONT, SYSCALL, SETOPTIONS, SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
OPTIONS = 1 | 8 | 0x100000          # SYSGOOD, TRACECLONE, EXITKILL
WALL = 0x40000000
MARK = 0x7E570000
O_CREAT = os.O_CREAT
# Calls that change what others can see; elsewhere all calls are counted.
CHANGES = {
    "x86_64": {1, 18, 20, 26, 44, 46, 74, 75, 77, 82, 83, 86, 87, 257, 263, 264, 265, 285, 316},
    "aarch64": {64, 66, 68, 206, 211, 227, 82, 83, 46, 34, 37, 38, 35, 47, 56, 276},
}.get(platform.machine())
OPENAT = {"x86_64": 257, "aarch64": 56}.get(platform.machine())


def mark(n=0):
    """In the child: from here on system calls are counted (again from zero)."""
    try:
        os.sched_get_priority_max(MARK + n)
    except OSError:
        pass


def _ptrace(request, pid, addr=0, data=0):
    if _libc.ptrace(request, pid, addr, data) == -1:
        raise OSError(ctypes.get_errno(), f"ptrace {request}")


def can_trace():
    try:
        return run_traced(mark, None).status == 0
    except OSError:
        return False


class Traced:
    """How a traced child ended: status (None: killed by us), calls counted since the mark, and the
    lines that it said()."""

    def __init__(self):
        self.status, self.calls, self.said, self.marked = None, 0, [], False


_say = None


def say(*words):
    """In the child: a line for the parent, who reads it after the child's end."""
    os.write(_say, (" ".join(map(str, words)) + "\n").encode())


def _counts(info):
    if CHANGES is None:
        return True
    nr, = struct.unpack_from("=Q", info, 24)
    flags, = struct.unpack_from("=Q", info, 24 + 8 + 16)
    return nr in CHANGES and (nr != OPENAT or bool(flags & O_CREAT))


def _child(work):
    """Fork and run work() there; returns (pid, what it says as a descriptor)."""
    global _say
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            _say = writer
            work()
            status = 0
        except BaseException as error:  # noqa: B902  (the child must not go on as the test)
            say("failed", repr(error))
        finally:
            os._exit(status)
    os.close(writer)
    return pid, reader


def run_traced(work, kill_at):
    """Fork, run work() there, and kill it at the entry of its kill_at-th counted system call (which
    is not executed) after mark(). None: never."""
    def traced():
        _ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        work()
    pid, reader = _child(traced)
    result = Traced()
    try:
        _trace(pid, kill_at, result)
    finally:
        with os.fdopen(reader, "rb") as said:
            result.said = said.read().decode().splitlines()
    return result


def killed(work, enough, wait):
    """Fork, run work() there until enough(the lines it said), wait(), kill -9; (committed, synced)."""
    pid, reader = _child(work)
    lines = []
    with os.fdopen(reader) as said:
        while not enough(lines):
            line = said.readline()
            if not line:
                break
            lines.append(line.strip())
        wait()
        os.kill(pid, signal.SIGKILL)
        lines += said.read().splitlines()
    os.waitpid(pid, 0)
    return acks(lines)


def acks(lines):
    """What a child said: (committed, synced) rows."""
    committed, synced = set(), set()
    for line in lines:
        word, _, n = line.partition(" ")
        if word == "c":
            committed.add(int(n))
        elif word == "s":
            synced = set(committed)
        elif word == "failed":
            raise AssertionError(line)
    return committed, synced


def _trace(pid, kill_at, result):
    info = ctypes.create_string_buffer(96)
    _, status = os.waitpid(pid, WALL)
    _ptrace(SETOPTIONS, pid, 0, OPTIONS)
    _ptrace(SYSCALL, pid)
    dead = False
    while True:
        tid, status = os.waitpid(-1, WALL)
        if not os.WIFSTOPPED(status):
            if tid == pid:
                result.status = None if dead else os.waitstatus_to_exitcode(status)
                return
            continue
        number = os.WSTOPSIG(status)
        deliver = 0
        if number == signal.SIGTRAP | 0x80:
            if _libc.ptrace(SYSCALL_INFO, tid, 96, ctypes.addressof(info)) > 0 and info.raw[0] == 1:
                first, = struct.unpack_from("=Q", info.raw, 32)
                if first & ~0xFFFF == MARK:
                    result.marked, result.calls = True, 0
                elif result.marked and _counts(info.raw):
                    result.calls += 1
                    if result.calls == kill_at and not dead:
                        dead = True
                        os.kill(pid, signal.SIGKILL)
                        continue
        elif number not in (signal.SIGSTOP, signal.SIGTRAP):
            deliver = number
        _libc.ptrace(SYSCALL, tid, 0, deliver)      # it may be dead by now: the next wait says so
