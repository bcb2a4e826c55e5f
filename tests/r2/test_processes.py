"""test_processes.py - many processes, threads and connections on the same files and remotes.

What is counted is exact: what was acknowledged is there, once."""

import json
import os
import resource
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402

SAY = """
import threading
def say(*words):                        # print() of two threads would get mixed up
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

COUNTERS = SAY + """
path, remote, mode, me, per_thread = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
failed = []

def work(thread):
    try:
        db = connect(path, remote, sync="manual")
        for k in range(per_thread):
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO t(who, k, pad) VALUES(?, ?, randomblob(300))", (f"{me}.{thread}", k))
            db.execute("UPDATE total SET c = c + 1")
            db.execute("COMMIT")
            version = one(db, "SELECT sync()")
            # what sync() acknowledged is in the remote: its version is at least the one it named
            assert version >= 1
            say("ack", me, thread, k, version)
        db.close()
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
print("ready"); input()
for thread in threads: thread.start()
for thread in threads: thread.join()
for error in failed: print("failed", error)
"""

STOCK = """
path, me, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = plain(path)
print("ready"); input()
for k in range(n):
    total, = db.execute("SELECT c FROM total").fetchone()
    there, = db.execute("SELECT count(*) FROM t").fetchone()
    db.execute("BEGIN IMMEDIATE")
    a, = db.execute("SELECT c FROM total").fetchone()
    b, = db.execute("SELECT count(*) FROM t").fetchone()
    if a != b: print("failed", "mixture", a, b)
    if a < total: print("failed", "went back", total, a)
    db.execute("INSERT INTO t(who, k) VALUES(?, ?)", (me, k))
    db.execute("UPDATE total SET c = c + 1")
    db.execute("COMMIT")
    print("ack", me, "-", k, 0)
db.close()
"""

SCHEMA = """
    CREATE TABLE t(id INTEGER PRIMARY KEY, who, k, pad, UNIQUE(who, k));
    CREATE TABLE total(c);
    INSERT INTO total VALUES(0);
"""


class Shared(support.Case):
    """One local file, one replica, several processes."""

    def make(self, mode, remote=None):
        path = self.path(f"{mode}/app.db")
        db = support.connect(path, remote or self.remote)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.executescript(SCHEMA)
        db.close()
        return path

    def run_children(self, children):
        for child in children:
            support.expect(child, "ready")
        for child in children:
            support.tell(child)
        acks = []
        for child in children:
            out = support.finish(child)
            acks += [line for line in out.splitlines() if line.startswith("ack")]
            self.assertEqual([line for line in out.splitlines() if line.startswith("failed")], [])
        return acks

    def agree(self, path, n):
        """Local file, remote and a fresh machine hold n rows."""
        self.assertEqual(support.integrity(path), "ok")
        fresh = support.connect(self.path("fresh/app.db"), self.remote)
        for db in (support.plain(path), fresh):
            self.assertEqual(support.one(db, "SELECT count(*) FROM t"), n)
            self.assertEqual(support.one(db, "SELECT c FROM total"), n)
            self.assertEqual(support.one(db, "PRAGMA integrity_check"), "ok")
        for name in ("t", "total"):
            here = support.plain(path).execute(f"SELECT rowid, * FROM {name}").fetchall()
            self.assertEqual(fresh.execute(f"SELECT rowid, * FROM {name}").fetchall(), here)
        fresh.close()
        os.unlink(self.path("fresh/app.db"))
        os.unlink(self.path("fresh/app.db-r2"))
        self.assertEqual(self.bucket.list(self.key + "-forks/"), [])

    def counters(self, mode, stock):
        path = self.make(mode)
        children = [self.spawn(COUNTERS, path, self.remote, mode, n, 12) for n in range(4)]
        children += [self.spawn(STOCK, path, f"stock{n}", 12) for n in range(stock)]
        acks = self.run_children(children)
        self.assertEqual(len(acks), len(set(acks)))
        self.assertEqual(len(acks), 4 * 2 * 12 + stock * 12)
        if stock:                       # what stock SQLite wrote last nobody has pushed yet
            support.connect(path, self.remote).close()
        self.agree(path, len(acks))

    def test_rollback(self):
        self.counters("delete", 0)

    def test_wal(self):
        self.counters("wal", 0)

    def test_rollback_beside_stock(self):
        """Stock SQLite processes read and write the same file meanwhile."""
        self.counters("delete", 2)

    def test_wal_beside_stock(self):
        self.counters("wal", 2)

    def test_background(self):
        """The same with sync=50 and no sync(): at the end close has pushed everything."""
        for mode in ("delete", "wal"):
            with self.subTest(mode=mode):
                self.key = f"{self.prefix}/{mode}"
                self.remote = self.remote_of(self.key)
                path = self.make(mode)
                code = COUNTERS.replace('sync="manual"', 'sync="50"')
                code = code.replace('one(db, "SELECT sync()")', '1')
                acks = self.run_children([self.spawn(code, path, self.remote, mode, n, 20)
                                          for n in range(4)])
                self.assertEqual(len(acks), 4 * 2 * 20)
                self.agree(path, len(acks))

    OPENER = SAY + """
path, remote = sys.argv[1], sys.argv[2]
failed = []
def work(n):
    try:
        for k in range(15):
            db = connect(path, remote)
            total, = db.execute("SELECT c FROM total").fetchone()
            if k % 5 == n:
                db.execute("BEGIN IMMEDIATE")
                db.execute("INSERT INTO t(who, k) VALUES(?, ?)", (f"{sys.argv[3]}.{n}", k))
                db.execute("UPDATE total SET c = c + 1")
                db.execute("COMMIT")
                say("ack", sys.argv[3], n, k)
            db.close()
    except BaseException as error:
        failed.append(repr(error))
threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
print("ready"); input()
for thread in threads: thread.start()
for thread in threads: thread.join()
for error in failed: print("failed", error)
"""

    def test_opens_and_closes(self):
        """Connections that come and go at once, some of them having written."""
        for mode in ("delete", "wal"):
            with self.subTest(mode=mode):
                self.key = f"{self.prefix}/{mode}"
                self.remote = self.remote_of(self.key)
                path = self.make(mode)
                acks = self.run_children([self.spawn(self.OPENER, path, self.remote, n)
                                          for n in range(4)])
                self.assertEqual(len(acks), 4 * 3 * 3)
                self.agree(path, len(acks))


INCREMENTS = """
path, remote, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = connect(path, remote, sync="manual")
print("ready"); input()
done = conflicts = 0
while done < n:
    db.execute("BEGIN IMMEDIATE")
    value, = db.execute("SELECT v FROM counter").fetchone()
    db.execute("UPDATE counter SET v = ?", (value + 1,))
    db.execute("COMMIT")
    try:
        db.execute("SELECT sync()")
        done += 1
        print("ack", value + 1)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != 517: raise
        assert "r2_resolve" in str(error), error
        conflicts += 1
        while True:
            try:
                db.execute("SELECT r2_resolve('fork')")
                break
            except sqlite3.OperationalError as error:
                if "changes faster" not in str(error): raise
print("conflicts", conflicts)
db.close()
"""


class TwoReplicas(support.Case):
    """Two machines, one remote: a conflict loses nobody's acknowledged increment."""

    def increments(self, mode):
        first = self.connect("0/app.db")
        first.execute("CREATE TABLE counter(v)")
        first.execute("INSERT INTO counter VALUES(0)")
        first.close()
        children = []
        for n in range(2):
            path = self.path(f"{n}/app.db")
            db = support.connect(path, self.remote)
            db.execute(f"PRAGMA journal_mode={mode}")
            db.close()
            children.append(self.spawn(INCREMENTS, path, self.remote, 15))
        for child in children:
            support.expect(child, "ready")
        for child in children:
            support.tell(child)
        acks, conflicts = [], 0
        for child in children:
            for line in support.finish(child).splitlines():
                word, value = line.split()
                if word == "ack":
                    acks.append(int(value))
                else:
                    conflicts += int(value)
        self.assertEqual(sorted(acks), list(range(1, 31)), "an increment was lost or doubled")
        self.assertGreater(conflicts, 0, "the two never met: nothing was tested")
        fresh = self.connect("fresh/app.db")
        self.assertEqual(support.one(fresh, "SELECT v FROM counter"), 30)
        self.assertEqual(len(self.bucket.list(self.key + "-forks/")), conflicts)
        for n in range(2):
            self.assertEqual(support.integrity(self.path(f"{n}/app.db")), "ok")

    def test_rollback(self):
        self.increments("delete")

    def test_wal(self):
        self.increments("wal")


    def test_changes_while_it_downloads(self):
        """Another machine pushes during each of four downloads: the pull goes on until it has one."""
        proxy = self.proxy()
        other = self.connect("0/app.db")
        other.execute("CREATE TABLE counter(v)")
        other.execute("INSERT INTO counter VALUES(0)")
        other.execute("SELECT sync()")
        mine = self.connect("1/app.db", endpoint=proxy.endpoint)
        other.execute("UPDATE counter SET v = v + 1")
        other.execute("SELECT sync()")
        downloads = [proxy.hold(method="GET") for _ in range(4)]

        def push_in_between():
            for download in downloads:
                download.wait_hit()
                other.execute("UPDATE counter SET v = v + 1")
                other.execute("SELECT sync()")
                download.release()
        pusher = threading.Thread(target=push_in_between, daemon=True)
        pusher.start()
        try:
            mine.execute("SELECT r2_pull()")
        finally:
            proxy.clear_rules()
        pusher.join()
        # a log is asked for several versions at once: the last one may come after that question
        self.assertGreaterEqual(support.one(mine, "SELECT v FROM counter"),
                                4 if support.LAYOUT == "log" else 5)


class Fork(support.Case):
    """fork() in a process that has used r2vfs."""

    def child(self, work):
        """work() in a forked child; its exception is ours."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(reader)
                work()
                status = 0
            except BaseException as error:  # noqa: B902
                os.write(writer, repr(error).encode())
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader, "rb") as said:
            text = said.read().decode()
        _, status = os.waitpid(pid, 0)
        self.assertEqual((os.waitstatus_to_exitcode(status), text), (0, ""))

    def insert(self, path, remote, n, **params):
        db = support.connect(path, remote, **params)
        db.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY)")
        db.execute("INSERT INTO t VALUES(?)", (n,))
        db.execute("SELECT sync()")
        db.close()

    def everything(self, remote=None):
        db = self.connect(os.urandom(4).hex() + "/app.db", remote)
        return [n for n, in db.execute("SELECT n FROM t ORDER BY n")]

    def test_between_uses(self):
        """As pre-forking servers do: sockets and threads of the parent are not the child's."""
        path = self.path()
        self.insert(path, self.remote, 1, sync="50")
        for n in range(2, 6):
            self.child(lambda: self.insert(path, self.remote, n, sync="50"))
        self.insert(path, self.remote, 6)
        self.assertEqual(self.everything(), [1, 2, 3, 4, 5, 6])

    def test_open_connection_stays_the_parents(self):
        """The parent holds a connection with a background thread; the child works on another file,
        and ends without closing what it inherited."""
        mine = self.connect(sync="50")
        mine.execute("CREATE TABLE t(n INTEGER PRIMARY KEY)")
        mine.execute("INSERT INTO t VALUES(1)")
        mine.execute("SELECT sync()")
        other = self.remote_of(self.prefix + "/other.db")
        self.child(lambda: self.insert(self.path("other.db"), other, 7, sync="50"))
        mine.execute("INSERT INTO t VALUES(2)")
        mine.execute("SELECT sync()")
        self.assertEqual(self.everything(), [1, 2])
        self.assertEqual(self.everything(other), [7])

    def test_inherited_connection_does_not_act(self):
        """It belongs to the parent: sync() in the child refuses with a sentence."""
        db = self.connect()
        db.execute("CREATE TABLE t(n INTEGER PRIMARY KEY)")
        db.execute("SELECT sync()")

        def use():
            try:
                db.execute("SELECT sync()")
            except support.sqlite3.Error as error:
                assert "fork()" in str(error), error
                return
            raise AssertionError("sync() of an inherited connection went through")
        self.child(use)
        db.execute("INSERT INTO t VALUES(1)")
        db.execute("SELECT sync()")
        self.assertEqual(self.everything(), [1])

    def test_background_in_the_child(self):
        """A forked child gets a background thread of its own: its commit arrives without sync()."""
        proxy = self.proxy()
        child = self.spawn(             # in a process without the proxy's threads
            "db = connect(sys.argv[1], sys.argv[2], sync='50')\n"
            "db.execute('CREATE TABLE t(n INTEGER PRIMARY KEY)')\n"
            "db.execute('SELECT sync()'); db.close()\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    db = connect(sys.argv[1], sys.argv[2], sync='50')\n"
            "    print('ready'); input()\n"
            "    db.execute('INSERT INTO t VALUES(3)')\n"
            "    input(); os._exit(0)\n"
            "os.waitpid(pid, 0)\n", self.path(), self.remote, env={"R2_ENDPOINT": proxy.endpoint})
        support.expect(child, "ready")
        pushed = proxy.hold_answer(method="PUT")
        support.tell(child)
        pushed.wait_hit()
        pushed.release()
        support.tell(child)
        support.finish(child)
        self.assertEqual(self.everything(), [3])


MANY = """
import resource, threading
count, folder, remote = int(sys.argv[1]), sys.argv[2], sys.argv[3]

def status(name):
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1])

def sockets():
    n = 0
    for fd in os.listdir("/proc/self/fd"):
        try: n += os.readlink("/proc/self/fd/" + fd).startswith("socket:")
        except OSError: pass
    return n

def look():
    return dict(rss=status("VmRSS"), threads=status("Threads"), fds=len(os.listdir("/proc/self/fd")),
                sockets=sockets())

def open_all(open_one):
    out, failed = [None] * count, []
    def work(first):
        try:
            for n in range(first, count, 8):
                db = open_one(n)
                db.execute("CREATE TABLE t(x)").close()
                db.execute("INSERT INTO t VALUES(1)").close()
                out[n] = db
        except BaseException as error:
            failed.append(repr(error))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    if failed: raise SystemExit(failed[0])
    return out

def plain_one(n):
    return plain(f"{folder}/plain{n}.db")

def ours_one(n):
    db = connect(f"{folder}/{n}.db", f"{remote}/{n}.db", sync=sys.argv[4])
    return db

steps = [("start", look())]
them = open_all(plain_one); steps.append(("plain", look()))
for db in them: db.close()
them = open_all(ours_one); steps.append(("open", look()))
for n in range(0, count, 20):
    assert one(them[n], "SELECT sync()") == 1
steps.append(("synced", look()))
for n, db in enumerate(them): db.close()
steps.append(("closed", look()))
for n in range(0, count, 50):
    fresh = connect(f"{folder}/fresh{n}.db", f"{remote}/{n}.db")
    assert one(fresh, "SELECT x FROM t") == 1, n
    fresh.close()
print("steps", json.dumps(steps))
"""


@unittest.skipUnless(os.path.isdir("/proc/self/fd"), "/proc tells what is open")
class Many(support.Case):
    """1,000 databases open at once in one process: no socket and no thread for each of them."""

    COUNT = 1000
    remote_kind = "s3"

    def run_many(self, sync, kind):
        self.remote_kind = kind
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 8192:
            self.skipTest(f"only {hard} descriptors are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (8192, hard))
        try:
            child = self.spawn(MANY, self.COUNT, self.folder, self.remote_of(self.prefix), sync)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        steps = dict(json.loads(support.expect(child, "steps")[len("steps "):]))
        support.finish(child)
        print({name: tuple(step.values()) for name, step in steps.items()}, "rss, threads, fds, "
              "sockets", flush=True)
        start, plain, opened = steps["start"], steps["plain"], steps["open"]
        for step in ("open", "synced", "closed"):
            # at most 16 requests at once, each with a connection and a pair of sockets of curl's;
            # one background thread for all; a sanitizer may start one of its own when it likes
            self.assertLessEqual(steps[step]["sockets"], start["sockets"] + 3 * 16)
            self.assertLessEqual(steps[step]["threads"],
                                 start["threads"] + (3 if support.PRELOAD else 2))
        self.assertLessEqual(opened["fds"], start["fds"] + 3 * self.COUNT + 32)
        self.assertLessEqual(steps["closed"]["fds"], start["fds"] + 32)
        if not support.PRELOAD:         # a sanitizer's memory is its own
            mine = opened["rss"] - start["rss"]
            theirs = plain["rss"] - start["rss"]
            self.assertLessEqual(mine - theirs, 64 * self.COUNT, "kB per replica beyond SQLite's")

    def test_on_close(self):
        self.run_many("close", "s3")

    def test_in_the_background(self):
        self.run_many("3600000", "file")


IN_TURN = """
count, folder, remote = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def look():
    rss = [line for line in open("/proc/self/status") if line.startswith("VmRSS")][0].split()[1]
    return int(rss), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
seen = []
for n in range(count):
    db = connect(f"{folder}/{n}.db", f"{remote}/{n}.db")
    db.execute("CREATE TABLE t(x)")
    db.close()
    if n in (count // 10, count - 1):
        seen.append(look())
print("seen", json.dumps(seen))
"""


@unittest.skipUnless(os.path.isdir("/proc/self/fd"), "/proc tells what is open")
class InTurn(support.Case):
    """10,000 databases opened one after the other leave nothing behind."""

    remote_kind = "file"

    def test_ten_thousand(self):
        count = 1000 if support.PRELOAD else 10000
        child = self.spawn(IN_TURN, count, self.folder, self.remote_of(self.prefix))
        early, late = json.loads(support.expect(child, "seen")[len("seen "):])
        support.finish(child)
        print(early, late, "rss, descriptors, threads", flush=True)
        self.assertEqual(late[1:], early[1:])
        if not support.PRELOAD:         # a sanitizer keeps what was freed for a while
            self.assertLess(late[0], early[0] + 1024, "kB more after ten times as many")


if __name__ == "__main__":
    support.main()
