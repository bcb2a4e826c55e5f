"""The log layout: what is pushed is what changed, nothing more, and never less, whoever wrote it.

After every step the remote is put together by tests/ltx.py (not a line of r2vfs) and compared with the
local file, and with what another machine gets."""
# One layout: its tests say theirs.

import ctypes
import ctypes.util
import os
import shutil
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

MODES = ("delete", "wal")


def rows_of(db):
    """Everything that SQL can see."""
    found = {}
    for name, kind, sql in db.execute("SELECT name, type, sql FROM sqlite_master ORDER BY name"):
        found[name] = sql
        if kind == "table":
            found[name] = (sql, db.execute(f"SELECT rowid, * FROM {name} ORDER BY rowid").fetchall())
    return found


def rows_of_bytes(case, data):
    path = case.path("decoded.db")
    with open(path, "wb") as file:
        file.write(data)
    try:
        case.assertEqual(support.integrity(path), "ok")
        db = support.plain(path)
        try:
            return rows_of(db)
        finally:
            db.close()
    finally:
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.unlink(path + suffix)


class LogCase(support.Case):
    remote_kind = "file"
    count = 0

    def setUp(self):
        if "tsan" in support.PRELOAD and not isinstance(self, Many):
            self.skipTest("one thread at a time: no work for TSan")
        super().setUp()

    def fresh(self, name="app"):
        """From now on another database."""
        LogCase.count += 1
        self.key = f"{self.prefix}/{LogCase.count}/{name}.db"
        self.remote = self.remote_of(self.key)
        self.place = str(LogCase.count)
        self.follower = None
        self.file = self.path(f"{self.place}/app.db")

    def open(self, name="app.db", **params):
        return self.connect(f"{self.place}/{name}", layout="log", **params)

    def stock(self, **more):
        return self.peer(f"{self.place}/app.db", stock=True, **more)

    def born(self, mode, page_size=4096, vacuum=0):
        self.fresh()
        db = self.open()
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute(f"PRAGMA auto_vacuum={vacuum}")
        self.assertEqual(one(db, f"PRAGMA journal_mode={mode}"), mode)
        for table in "tu":
            db.execute(f"CREATE TABLE {table}(x INTEGER PRIMARY KEY, y)")
            db.execute(f"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 60) "
                       f"INSERT INTO {table} SELECT i, hex(randomblob(300)) FROM c")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        return db

    def same(self, db, version=None):
        """After sync(): the remote, a machine that follows, and a new one have what is here."""
        here = rows_of(db)
        remote = self.remote_image()
        if version is not None:
            self.assertEqual(remote.version, version)
        self.assertEqual(rows_of_bytes(self, remote.data), here)
        if self.follower is None:
            self.follower = self.open("follower.db")
        self.assertEqual(one(self.follower, "SELECT r2_pull()"), remote.version)
        self.assertEqual(rows_of(self.follower), here)
        cold = self.open("cold.db")
        self.assertEqual(rows_of(cold), here)
        self.assertEqual(one(cold, "PRAGMA integrity_check"), "ok")
        cold.close()
        for suffix in ("", "-r2", "-wal", "-shm"):
            if os.path.exists(self.path(f"{self.place}/cold.db") + suffix):
                os.unlink(self.path(f"{self.place}/cold.db") + suffix)
        return remote


# ---------------------------------------------------------------- budgets

def lz4(page):
    library = ctypes.CDLL(ctypes.util.find_library("lz4") or "liblz4.so.1")
    room = library.LZ4_compressBound(len(page))
    to = ctypes.create_string_buffer(room)
    return library.LZ4_compress_default(page, to, len(page), room)


class Budget(LogCase):
    remote_kind = "s3"

    def test_bytes(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                db = self.born(mode)
                before = self.remote_image().data
                for sql in ("UPDATE t SET y = 'one' WHERE x = 7",
                            "UPDATE t SET y = hex(randomblob(300)) WHERE x % 9 = 1",
                            "INSERT INTO u SELECT x + 100, y FROM t"):
                    db.execute(sql)
                    version = one(db, "SELECT sync()")
                    after = self.remote_image()
                    size = support.page_size_of(after.data)
                    pages = [after.data[at:at + size] for at in range(0, len(after.data), size)
                             if at == 0 or after.data[at:at + size] != before[at:at + size]]
                    budget = sum(map(lz4, pages)) * 1.01 + 400
                    self.assertEqual(after.segments[-1][0], version)
                    self.assertLessEqual(len(after.segments[-1][1]), budget, sql)
                    before = after.data

    def test_requests(self):
        for mode in MODES:
            with self.subTest(mode=mode), self.proxy() as through:
                self.born(mode).close()
                db = self.open(endpoint=through.endpoint)
                other = self.open("b.db")
                seen = len(through.requests)
                for x in range(5):
                    db.execute("UPDATE t SET y = ? WHERE x = 3", (x,))
                    one(db, "SELECT sync()")
                asked = [(r.method, r.status) for r in through.requests[seen:]]
                self.assertEqual(asked, [("PUT", 200)] * 5)
                for _ in range(3):          # up to date: a question without a body
                    one(db, "SELECT r2_pull()")
                asked = [(r.method, r.status) for r in through.requests[seen + 5:]]
                self.assertEqual(asked, [("GET", 404)] * 3)
                for _ in range(3):          # nothing to push, only read
                    one(db, "SELECT count(*) FROM t")
                    one(db, "SELECT sync()")
                self.assertEqual(len(through.requests), seen + 8)
                one(other, "SELECT r2_pull()")
                other.execute("UPDATE u SET y = 1")
                one(other, "SELECT sync()")
                one(db, "SELECT r2_pull()")
                asked = [(r.method, r.status) for r in through.requests[seen + 8:]]
                self.assertEqual(asked[0], ("GET", 200))    # the question is the start of the pull
                self.assertEqual({status for _, status in asked[1:]}, {404})
                db.close()
                other.close()


# ---------------------------------------------------------------- every shape

class Shapes(LogCase):
    def steps(self, mode, page_size, vacuum, steps):
        db = self.born(mode, page_size, vacuum)
        self.same(db, 1)
        for version, step in enumerate(steps, 2):
            for sql in [step] if isinstance(step, str) else step:
                db.execute(sql).fetchall()
            self.assertEqual(one(db, "SELECT sync()"), version, step)
            self.same(db, version)
        self.follower.close()
        db.close()

    def test_growth_and_shrink(self):
        for mode in MODES:
            for page_size in (512, 4096, 65536):
                for vacuum in (0, 1, 2):
                    with self.subTest(mode=mode, page_size=page_size, vacuum=vacuum):
                        self.steps(mode, page_size, vacuum, [
                            "INSERT INTO t SELECT x + 100, hex(randomblob(3000)) FROM u",
                            "DELETE FROM t WHERE x > 90",
                            ["PRAGMA incremental_vacuum(5)", "UPDATE t SET y = 5 WHERE x = 1"],
                            "INSERT INTO u SELECT x + 100, hex(randomblob(700)) FROM u",
                            "VACUUM",
                            ["DELETE FROM t", "DELETE FROM u", "VACUUM"],
                            ["BEGIN", "INSERT INTO t VALUES(1, zeroblob(200000))",
                             "DELETE FROM t", "INSERT INTO t VALUES(2, zeroblob(90000))", "COMMIT"],
                            ["DROP TABLE t", "DROP TABLE u", "VACUUM"],
                            ["CREATE TABLE z(a UNIQUE, b)", "INSERT INTO z VALUES(1, 2)"]])

    def test_page_size(self):
        """The follower leaves WAL mode for it, so it is not in it."""
        for sizes in ((512, 4096), (4096, 512), (1024, 65536), (65536, 1024)):
            with self.subTest(sizes=sizes):
                self.steps("delete", sizes[0], 0, [
                    [f"PRAGMA page_size={sizes[1]}", "VACUUM"],
                    "UPDATE t SET y = 1 WHERE x = 5",
                    [f"PRAGMA page_size={sizes[0]}", "VACUUM"],
                    "UPDATE t SET y = 2 WHERE x = 5"])

    def test_a_chain_through_page_sizes(self):
        """Someone who is several versions behind goes over a change of page size."""
        db = self.born("delete", 1024)
        self.same(db)
        for size in (4096, 512):
            db.execute("UPDATE t SET y = 'a' WHERE x = 1")
            one(db, "SELECT sync()")
            db.execute(f"PRAGMA page_size={size}")
            db.execute("VACUUM")
            one(db, "SELECT sync()")
        db.execute("DELETE FROM t WHERE x > 3")
        db.execute("VACUUM")
        self.same(db, one(db, "SELECT sync()"))

    def test_journal_modes_switched(self):
        db = self.born("delete")
        for n, mode in enumerate(("wal", "delete", "truncate", "wal", "persist", "memory", "wal")):
            self.assertEqual(one(db, f"PRAGMA journal_mode={mode}"), mode)
            db.execute("UPDATE t SET y = ? WHERE x = 9", (n,))
            self.same(db, one(db, "SELECT sync()"))


# ---------------------------------------------------------------- rolled back

class RolledBack(LogCase):
    def test_spilled(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                db = self.born(mode, 512)
                db.execute("PRAGMA cache_size=3")
                db.execute("DELETE FROM u WHERE x > 20")    # leaves for the free list
                version = one(db, "SELECT sync()")
                for n in range(4):
                    db.execute("BEGIN")
                    db.execute("INSERT INTO t SELECT x + 100, hex(randomblob(900)) FROM t")
                    db.execute("UPDATE t SET y = hex(randomblob(300))")
                    db.execute("ROLLBACK")
                    self.assertEqual(one(db, "SELECT sync()"), version)     # nothing happened
                    self.assertEqual(one(db, "SELECT r2_pull()"), version)
                    db.execute("BEGIN")
                    db.execute("UPDATE t SET y = hex(randomblob(300)) WHERE x < 30")
                    db.execute("SAVEPOINT s")
                    db.execute("INSERT INTO t SELECT x + 100, hex(randomblob(900)) FROM t")
                    db.execute("DELETE FROM u WHERE x < 15")
                    db.execute("ROLLBACK TO s")
                    db.execute("UPDATE u SET y = ? WHERE x = 3", (n,))
                    db.execute("COMMIT")
                    version += 1
                    self.assertEqual(one(db, "SELECT sync()"), version)
                    self.same(db, version)
                    self.follower.execute("UPDATE u SET y = ? WHERE x = 4", (f"theirs {n}",))
                    version += 1
                    self.assertEqual(one(self.follower, "SELECT sync()"), version)
                    self.assertEqual(one(db, "SELECT r2_pull()"), version)
                    self.same(db, version)

    def test_killed_in_a_transaction(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                self.born(mode, 1024).close()
                db = self.open()
                version = one(db, "SELECT r2_version()")
                for n in range(4):
                    victim = self.peer(f"{self.place}/app.db", layout="log", sync="manual")
                    victim("PRAGMA cache_size=2")
                    victim("UPDATE t SET y = ? WHERE x = 2", f"committed {n}")
                    victim("BEGIN")
                    victim("UPDATE t SET y = hex(randomblob(300))")
                    victim("DELETE FROM u WHERE x % 3 = 1")
                    victim.kill()
                    version += 1
                    self.assertEqual(one(db, "SELECT y FROM t WHERE x = 2"), f"committed {n}")
                    db.execute("UPDATE u SET y = ? WHERE x = 9", (n,))
                    self.assertEqual(one(db, "SELECT sync()"), version)
                    self.same(db, version)


# ---------------------------------------------------------------- stock SQLite

class Stock(LogCase):
    """Commits of a SQLite that knows nothing of r2vfs reach the remote, whenever they come."""

    def test_beside_an_idle_connection(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                self.born(mode).close()
                idle = self.open()
                one(idle, "SELECT 1")                       # has read nothing yet
                for n in range(3):
                    with self.subTest(n=n):
                        ours = self.open()
                        ours.execute("UPDATE t SET y = ? WHERE x = 1", (n,))
                        ours.close()
                        other = self.stock()
                        other("UPDATE u SET y = ? WHERE x = 50", f"stock {n}")
                        other.close()                       # a -wal goes with it
                        version = one(idle, "SELECT sync()")
                        self.same(idle, version)
                        self.assertEqual(one(self.follower, "SELECT y FROM u WHERE x = 50"),
                                         f"stock {n}")

    def test_as_many_commits_and_a_new_log(self):
        """The wal-index of the new log has counted as far as the old one's."""
        for times in (1, 2, 3):
            for how in ("TRUNCATE", "RESTART", "PASSIVE"):
                with self.subTest(times=times, how=how):
                    self.born("wal").close()
                    idle = self.open(sync="manual")
                    one(idle, "SELECT 1")
                    ours = self.open(sync="manual")
                    for _ in range(times):
                        ours.execute("UPDATE t SET y = 'ours' WHERE x = 1")
                    ours.close()
                    other = self.stock()
                    for _ in range(times):
                        other("UPDATE u SET y = 'stock' WHERE x = 50")
                    other(f"PRAGMA wal_checkpoint({how})")
                    self.same(idle, one(idle, "SELECT sync()"))
                    self.assertEqual(one(self.follower, "SELECT y FROM u WHERE x = 50"), "stock")
                    other.close()

    def test_in_turn(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                db = self.born(mode)
                other = self.stock()
                for n in range(12):
                    writers = [db.execute, other]
                    for k in range(4):
                        table = "tu"[(n + k) % 2]
                        writers[(n * k + k) % 2](f"UPDATE {table} SET y = hex(randomblob(300)) "
                                                 f"WHERE x % 13 = {(n + 5 * k) % 13}")
                    if n % 3 == 0:
                        other("PRAGMA wal_checkpoint(TRUNCATE)" if mode == "wal" else "VACUUM")
                    if n % 4 == 1:
                        db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                    self.same(db, one(db, "SELECT sync()"))

    def test_stock_alone(self):
        """It commits and nobody of ours ever writes."""
        for mode in MODES:
            with self.subTest(mode=mode):
                db = self.born(mode)
                for n in range(4):
                    other = self.stock()
                    other("UPDATE u SET y = ? WHERE x = 33", n)
                    if n % 2:
                        other.close()
                    self.same(db, one(db, "SELECT sync()"))
                    self.assertEqual(one(self.follower, "SELECT y FROM u WHERE x = 33"), n)
                    other.end()

    def test_copied_over(self):
        """Another file with the same change counter takes the place of the one that is open."""
        for copy in (shutil.copyfile, os.replace):
            with self.subTest(copy=copy.__name__):
                db = self.born("delete")
                twin = self.path(f"{self.place}/twin.db")
                shutil.copyfile(self.file, twin)
                other = support.plain(twin)
                other.execute("UPDATE u SET y = 'twin' WHERE x = 50")
                other.close()
                db.execute("UPDATE t SET y = 'ours' WHERE x = 1")
                self.assertEqual(one(db, "SELECT sync()"), 2)
                self.same(db, 2)
                copy(twin, self.file)
                again = self.open()
                try:
                    version = one(again, "SELECT sync()")
                except support.sqlite3.Error:
                    continue                                # refused is as good
                self.same(again, version)


# ---------------------------------------------------------------- SQLite's settings

class Settings(LogCase):
    def rounds(self, db, n=4):
        for k in range(n):
            db.execute("UPDATE t SET y = hex(randomblob(300)) WHERE x % 7 = ?", (k,))
            db.execute("INSERT INTO u(y) VALUES(hex(randomblob(5000)))")
            self.same(db, one(db, "SELECT sync()"))

    def test_mmap(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                db = self.born(mode)
                self.assertEqual(one(db, "PRAGMA mmap_size=100000000"), 100000000)
                self.rounds(db)

    def test_psow(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                self.born(mode, 512).close()
                self.rounds(self.open(psow=0))

    def test_exclusive(self):
        """sync() cannot read what is locked; the close pushes it all."""
        for mode in MODES:
            for before in (False, True):
                with self.subTest(mode=mode, before=before):
                    self.born(mode).close()
                    db = self.open()
                    if not before:
                        one(db, "SELECT count(*) FROM t")
                    db.execute("PRAGMA locking_mode=EXCLUSIVE")
                    for n in range(5):
                        db.execute("UPDATE t SET y = hex(randomblob(300)) WHERE x % 5 = ?", (n,))
                        db.execute("INSERT INTO u(y) VALUES('exclusive')")
                    db.close()
                    db = self.open()
                    self.assertEqual(one(db, "SELECT count(*) FROM u WHERE y = 'exclusive'"), 5)
                    self.same(db)

    def test_checkpoints(self):
        db = self.born("wal")
        for n, how in enumerate(("PASSIVE", "FULL", "RESTART", "TRUNCATE") * 2):
            db.execute("UPDATE t SET y = hex(randomblob(300)) WHERE x % 5 = ?", (n % 5,))
            if n % 2:
                self.assertEqual(one(db, f"PRAGMA wal_checkpoint({how})"), 0)
                self.same(db, one(db, "SELECT sync()"))
            else:
                self.same(db, one(db, "SELECT sync()"))
                self.assertEqual(one(db, f"PRAGMA wal_checkpoint({how})"), 0)


# ---------------------------------------------------------------- many at once

class Many(LogCase):
    WRITER = """
db = connect(sys.argv[1], sys.argv[2], layout="log", sync=sys.argv[4])
for n in range(int(sys.argv[5])):
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO t(y) VALUES(?)", (f"{sys.argv[3]}:{n}",))
    db.execute("UPDATE u SET y = hex(randomblob(200)) WHERE x = ?", (n % 60,))
    db.execute("COMMIT")
    if n % 50 == 17:
        print("version", db.execute("SELECT sync()").fetchone()[0], flush=True)
db.close()
"""

    def test_four_processes(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                self.born(mode).close()
                children = [self.spawn(self.WRITER, self.file, self.remote, k, 10, 200)
                            for k in range(4)]
                for child in children:
                    support.finish(child)
                db = self.open()
                one(db, "SELECT sync()")
                for k in range(4):
                    self.assertEqual(one(db, "SELECT count(*) FROM t WHERE y LIKE ?", f"{k}:%"), 200)
                self.same(db)

    def test_group(self):
        """64 connections commit, then all call sync(): at most two uploads carry everything."""
        self.remote_kind = "s3"
        self.emulator = support.emulator()
        self.bucket = self.emulator.own_bucket()
        for mode in MODES:
            with self.subTest(mode=mode), self.proxy() as through:
                self.born(mode).close()
                dbs = [self.open(endpoint=through.endpoint, sync="manual") for _ in range(64)]
                committed, missing = threading.Barrier(64), []
                seen = through.count("PUT")

                def work(db, n):
                    db.execute("INSERT INTO t(y) VALUES(?)", (f"row {n}",))
                    committed.wait()
                    version = one(db, "SELECT sync()")
                    rows = rows_of_bytes_once(self, version)
                    if f"row {n}" not in rows:
                        missing.append((n, version))

                images, lock = {}, threading.Lock()

                def rows_of_bytes_once(case, version):
                    with lock:
                        if version not in images:
                            data = case.remote_image(upto=version).data
                            found = rows_of_bytes(case, data)["t"][1]
                            images[version] = {row[-1] for row in found}
                        return images[version]

                threads = [threading.Thread(target=work, args=(db, n)) for n, db in enumerate(dbs)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                self.assertEqual(missing, [])
                self.assertLessEqual(through.count("PUT") - seen, 2)
                for db in dbs:
                    db.close()


# ---------------------------------------------------------------- bytes that are not what they should be

class Damaged(LogCase):
    remote_kind = "s3"

    def behind(self, endpoint=None):
        """A machine at version 1, whose remote has version 4; `self.db` pushed it."""
        self.db = self.born("delete")
        behind = self.open("b.db")
        one(behind, "SELECT count(*) FROM t")
        behind.close()
        for n in range(3):
            self.db.execute("UPDATE t SET y = hex(randomblob(300)) WHERE x % 3 = ?", (n,))
            one(self.db, "SELECT sync()")
        folder = f"{self.key}-log/"
        self.segments = self.bucket.list(folder, raw=True)
        self.assertEqual(len(self.segments), 3)
        return lambda name="b.db": self.open(name, endpoint=endpoint)

    def test_once(self):
        """On the way: another try brings the right ones."""
        for name in ("b.db", "cold.db"):
            for action, args in (("flip", [30]), ("flip", [150]), ("flip", [2000]), ("truncate", [400]),
                                 ("status", [503]), ("cut", [])):
                with self.subTest(name=name, action=action, args=args), self.proxy() as through:
                    opened = self.behind(through.endpoint)
                    rule = getattr(through, action)(*args, method="GET", key=r"03\.ltx$")
                    db = opened(name)
                    self.assertEqual(rule.hits, 1)
                    self.assertEqual(rows_of(db), rows_of(self.db))
                    db.close()

    def test_in_the_bucket(self):
        """Nothing local is touched, the sentence names the segment, and who is past it goes on."""
        def flip(body, at):
            return body[:at] + bytes([body[at] ^ 4]) + body[at + 1:]

        def other(body):
            return self.bucket.get(self.segments[0], raw=True).body
        kinds = {"empty": lambda b: b"", "short": lambda b: b[:80], "cut": lambda b: b[:-30],
                 "header": lambda b: flip(b, 30), "page": lambda b: flip(b, 140),
                 "trailer": lambda b: flip(b, len(b) - 3), "long": lambda b: b + b"x",
                 "other": other, "html": lambda b: b"<html></html>" * 40}
        for what, damage in kinds.items():
            with self.subTest(what):
                opened = self.behind()
                good = self.bucket.get(self.segments[1], raw=True)
                self.bucket.put(self.segments[1], damage(good.body), good.meta)
                file = self.path(f"{self.place}/b.db")
                with open(file, "rb") as before:
                    before = before.read()
                for name in ("b.db", "cold.db"):
                    self.fails(opened, name, code=14)
                    self.assertIn(self.segments[1], one(support.plain(":memory:"),
                                                        "SELECT r2_last_error()"))
                with open(file, "rb") as after:
                    self.assertEqual(after.read(), before)
                self.db.execute("UPDATE u SET y = 'on' WHERE x = 3")
                self.assertEqual(one(self.db, "SELECT sync()"), 5)
                self.bucket.put(self.segments[1], good.body, good.meta)
                for name in ("b.db", "cold.db"):
                    db = opened(name)
                    self.assertEqual(rows_of(db), rows_of(self.db))
                    db.close()

    def test_lost(self):
        """A hole: who is before it and fresh cannot know; a new machine looks, and refuses."""
        opened = self.behind()
        good = self.bucket.get(self.segments[1], raw=True)
        self.bucket.delete(self.segments[1])
        self.fails(opened, "cold.db", code=14)
        self.bucket.put(self.segments[1], good.body, good.meta)
        db = opened("cold.db")
        self.assertEqual(rows_of(db), rows_of(self.db))

    def test_a_liar(self):
        """A sound segment whose pages do not have the checksum that it tells: nobody takes it."""
        opened = self.behind()
        import ltx
        good = self.bucket.get(self.segments[2], raw=True)
        body = bytearray(good.body)
        post = int.from_bytes(body[-16:-8], "big") ^ 8
        body[-16:-8] = post.to_bytes(8, "big")
        index = int.from_bytes(body[-24:-16], "big")
        header, pages, _, _ = ltx.decode(bytes(good.body))
        crc = ltx.crc64(bytes(body[:100]))
        at = 100
        for number, page in pages:                      # as ltx.py does, over the decoded pages
            size = int.from_bytes(body[at + 6:at + 10], "big")
            crc = ltx.crc64(page, ltx.crc64(bytes(body[at:at + 10]), crc))
            at += 10 + size
        crc = ltx.crc64(bytes(body[at:-8]), crc)
        body[-8:] = (1 << 63 | crc).to_bytes(8, "big")
        self.assertEqual(ltx.decode(bytes(body))[0], header)
        self.assertGreater(index, 0)
        self.bucket.put(self.segments[2], bytes(body), good.meta)
        for name in ("b.db", "cold.db"):
            self.fails(opened, name, code=14)
        self.bucket.put(self.segments[2], good.body, good.meta)
        db = opened()
        self.assertEqual(rows_of(db), rows_of(self.db))


# ---------------------------------------------------------------- after half an hour

class Clock(LogCase):
    """faketime moves the clock of one process; the remote is a directory."""

    def machine(self, name):
        if support.PRELOAD:
            self.skipTest("libfaketime and a sanitizer's runtime both want to come first")
        library = support.need("faketime", next((p for p in (
            "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
            "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1") if os.path.exists(p)), None))
        self.clock = self.path(f"{self.place}/clock")
        self.moved(0)
        return self.peer(f"{self.place}/{name}", layout="log", env={
            "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": self.clock, "FAKETIME_NO_CACHE": "1",
            "NO_FAKE_STAT": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"})

    def moved(self, minutes):
        with open(self.clock, "w") as file:
            file.write(f"+{minutes}m")

    @staticmethod
    def requests(db):
        """What it asked since the last call, oldest first: (method, segment or KEY, status)."""
        found = [(method, "segment" if key.endswith(".ltx") else "KEY", status)
                 for method, key, status in db("SELECT method, key, status FROM r2_requests")][::-1]
        new = found[getattr(db, "seen", 0):]
        db.seen = len(found)
        return new

    def test_who_is_not_fresh_asks_first(self):
        self.born("delete").close()
        db = self.machine("b.db")
        db("UPDATE t SET y = 1 WHERE x = 1")
        self.assertEqual(db.one("SELECT sync()"), 2)
        self.requests(db)
        for minutes, extra in ((29, []), (31 + 29, [("GET", "segment", 404), ("HEAD", "KEY", 200)]),
                               (31 + 29 + 29, []), (-40, [("GET", "segment", 404), ("HEAD", "KEY", 200)])):
            with self.subTest(minutes=minutes):
                self.moved(minutes)
                db("UPDATE t SET y = ? WHERE x = 1", minutes)
                db("SELECT sync()")
                self.assertEqual(self.requests(db), extra + [("PUT", "segment", 200)])

    def test_a_reader_notices(self):
        """Another database at KEY, or none: not later than half an hour."""
        for gone in (True, False):
            with self.subTest(gone=gone):
                self.born("delete").close()
                db = self.machine("b.db")
                self.assertEqual(db.one("SELECT r2_pull()"), 1)
                remote = os.path.join(self.folder, "remote", self.key)
                shutil.rmtree(remote + "-log", ignore_errors=True)
                os.unlink(remote)
                if not gone:
                    other = self.open("other.db")
                    other.execute("CREATE TABLE other(x)")
                    other.close()
                for minutes in range(10, 81, 10):
                    self.moved(minutes)
                    try:
                        db("SELECT r2_pull()")
                    except support.sqlite3.Error as error:
                        self.assertLessEqual(minutes, 40)
                        self.assertIn("gone" if gone else "lineage", str(error))
                        break
                else:
                    self.fail("it never looked")

    def test_a_writer_notices(self):
        self.born("delete").close()
        db = self.machine("b.db")
        remote = os.path.join(self.folder, "remote", self.key)
        os.unlink(remote)
        for minutes in range(10, 81, 10):
            self.moved(minutes)
            db("UPDATE t SET y = ? WHERE x = 1", minutes)
            try:
                db("SELECT sync()")
            except support.sqlite3.Error as error:
                self.assertLessEqual(minutes, 40)
                self.assertIn("gone", str(error))
                break
        else:
            self.fail("it never looked")


# ---------------------------------------------------------------- what was pushed in between

class InBetween(LogCase):
    remote_kind = "s3"

    def test_ours_landed_and_another_followed(self):
        """Our answer was lost, another machine went on from ours: the next look brings that, too."""
        for how in ("pull", "open"):
            with self.subTest(how=how), self.proxy() as through:
                self.born("delete").close()
                peer = self.peer(f"{self.place}/app.db", layout="log", endpoint=through.endpoint)
                lost = through.lose(method="PUT")
                down = through.cut(count=None)
                peer("UPDATE t SET y = 'ours' WHERE x = 1")
                peer.send("SELECT sync()")
                lost.wait_hit()
                peer.kill()
                down.count = 0
                other = self.open("b.db")
                other.execute("UPDATE u SET y = 'theirs' WHERE x = 2")
                self.assertEqual(one(other, "SELECT sync()"), 3)
                db = self.open(endpoint=through.endpoint)
                if how == "pull":
                    self.assertEqual(one(db, "SELECT r2_pull()"), 3)
                self.assertEqual(one(db, "SELECT y FROM u WHERE x = 2"), "theirs")
                self.same(db, 3)
                db.close()


if __name__ == "__main__":
    support.main()
