"""commitkit.py - what the tests of sync=commit share: a world for each journal mode and layout, the
remote read past r2vfs (support.read_remote), the local file by plain SQLite."""

import functools
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import ltx  # noqa: E402
import support  # noqa: E402
from support import one  # noqa: E402

ROLLBACK = ("delete", "truncate", "persist", "memory")
MODES = (*ROLLBACK, "wal")
LAYOUTS = ("log", "object")
CONFLICT, UNKNOWN = 517, 7690       # SQLITE_BUSY_SNAPSHOT, SQLITE_IOERR_COMMIT_ATOMIC
DOUBT = "may or may not have been stored"

# The remote is decoded after every commit: what was decoded before is remembered.
ltx.decode = functools.lru_cache(2000)(ltx.decode)


@functools.lru_cache(50000)
def page_checksum(number, page):
    return 1 << 63 | support.crc64(number.to_bytes(4, "big") + page)


def ltx_checksum(data):
    size, checksum = support.page_size_of(data), 1 << 63
    for number in range(1, len(data) // size + 1):
        if number != 0x40000000 // size + 1:
            page = bytes(data[(number - 1) * size:number * size])
            checksum = 1 << 63 | (checksum ^ page_checksum(number, page))
    return f"{checksum:016x}"


support.ltx_checksum = ltx_checksum


def each(modes=MODES, layouts=LAYOUTS):
    """The test once in a world of its own for each journal mode and layout."""
    def wrap(test):
        @functools.wraps(test)
        def run(self):
            for layout in layouts:
                for mode in modes:
                    with self.subTest(mode=mode, layout=layout):
                        self.world(mode, layout)
                        test(self)
        return run
    return wrap


class CommitCase(support.Case):
    remote_kind = "file"
    through = None                  # a FaultProxy, where a class has one

    def world(self, mode, layout="log"):
        """A key and a folder of its own; what the world before left is closed."""
        for db in getattr(self, "opened", []):
            db.close()
        if self.through:
            self.through.clear_rules()
            self.through.settle()
            self.through.clear()
        self.opened, self.mode, self.layout = [], mode, layout
        self.count = getattr(self, "count", 0) + 1
        self.key = f"{self.prefix}/{self.count}/app.db"
        self.remote = self.remote_of(self.key)

    def file(self, machine="a"):
        return self.path(f"{self.count}/{machine}/app.db")

    def target(self, machine="a", **params):
        params = {"sync": "commit", "layout": self.layout, **params}
        if self.through and "endpoint" not in params:
            params["endpoint"] = self.through.endpoint
        return support.uri(self.file(machine), self.remote, **params)

    def open(self, machine="a", mode=True, cached=False, **params):
        """`machine`: a folder of its own. mode=False: the journal mode is left as it is."""
        support.load()
        db = sqlite3.connect(self.target(machine, **params), uri=True, timeout=60,
                             isolation_level=None, check_same_thread=False)
        self.addCleanup(db.close)
        self.opened.append(db)
        if mode:
            self.assertEqual(one(db, f"PRAGMA journal_mode={self.mode}"), self.mode)
        return db

    def start(self, rows=3, **params):
        """A database with t(x, y), and a connection to it on machine a."""
        db = self.open(**params)
        db.execute("BEGIN")
        db.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        db.executemany("INSERT INTO t VALUES(?, ?)", [(n, "s" * 500) for n in range(rows)])
        db.execute("COMMIT")
        return db

    @staticmethod
    def xs(db):
        return [x for x, in db.execute("SELECT x FROM t ORDER BY x")]

    def dump(self, path):
        db = support.plain(path)
        try:
            self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            return "\n".join(db.iterdump())
        finally:
            db.close()

    def remote_dump(self):
        """(version, content) of what is in the remote."""
        newest = self.remote_image()
        with open(self.path("newest.db"), "wb") as file:
            file.write(newest.data)
        return newest.version, self.dump(self.path("newest.db"))

    def same(self, version=None, machine="a"):
        """The remote has what the local file has; returns the version."""
        found, there = self.remote_dump()
        self.assertEqual(there, self.dump(self.file(machine)))
        if version is not None:
            self.assertEqual(found, version)
        return found

    def remote_xs(self):
        newest = self.remote_image()
        with open(self.path("newest.db"), "wb") as file:
            file.write(newest.data)
        db = support.plain(self.path("newest.db"))
        try:
            return self.xs(db)
        finally:
            db.close()

    def refused(self, db, sql, code, says=(), args=()):
        """The statement fails with this code and rolls back; returns the sentence."""
        with self.assertRaises(sqlite3.Error) as caught:
            db.execute(sql, args).fetchall()
        sentence = one(db, "PRAGMA r2_last_error")
        self.assertEqual(caught.exception.sqlite_errorcode, code, f"{caught.exception}: {sentence}")
        self.assertFalse(db.in_transaction, "the transaction is still open")
        for word in [says] if isinstance(says, str) else says:
            self.assertIn(word, sentence)
        return sentence

    def no_forks(self):
        if self.remote_kind == "s3":
            self.assertFalse([k for k in self.bucket.all_keys(self.key) if "-forks/" in k])
        else:
            self.assertFalse(os.path.exists(self.remote[len("file://"):] + "-forks"))


class Network(CommitCase):
    """Through the emulator, each request seen and at the test's mercy."""

    remote_kind = "s3"

    def setUp(self):
        super().setUp()
        self.through = self.proxy()

    def spent(self, *methods):
        """Exactly these requests since the last look."""
        self.through.settle()
        seen = list(self.through.requests)
        self.through.clear()
        self.assertEqual([request.method for request in seen], list(methods), seen)
        return seen

    def down(self):
        return self.through.cut(count=None)
