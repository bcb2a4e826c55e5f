"""ledger.py - what the soak's writers were promised, and whether a database's remote keeps it.

A Ledger belongs to one database. look() reads the remote past r2vfs: it follows the log from version
to version, segment by segment with the decoder in tests/ltx.py, so that every version of a run is
checked once, and then asks stock SQLite for the rows of the newest."""

import collections
import concurrent.futures
import os
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "sqlite")]
import support  # noqa: E402
import check  # noqa: E402
from writer import payload  # noqa: E402

SCHEMA = """
    CREATE TABLE t(w INTEGER, n INTEGER, pad BLOB, PRIMARY KEY(w, n));
    CREATE TABLE done(w INTEGER PRIMARY KEY, upto INTEGER, rows INTEGER);
    CREATE TABLE total(c INTEGER);
    INSERT INTO total VALUES(0);
"""


class Lost(AssertionError):
    """A promise that was not kept."""


class Ledger:
    def __init__(self, bucket, key, layout):
        self.bucket, self.key, self.layout = bucket, key, layout
        self.lock = threading.Lock()
        self.acknowledged = collections.defaultdict(set)    # {writer: rows}
        self.committed = collections.defaultdict(set)       # ... in the local file
        self.forked = collections.defaultdict(set)          # ... that a fork holds
        self.image = self.lineage = None
        self.keep = None            # a folder for the forks that were read
        self.version = self.versions = self.forks = self.looks = 0

    # The writers' lines.
    def acknowledge(self, writer, rows):
        with self.lock:
            self.acknowledged[writer].update(rows)

    def commit(self, writer, row):
        with self.lock:
            self.committed[writer].add(row)

    def promised(self):
        with self.lock:
            return {w: set(rows) for w, rows in self.acknowledged.items()}

    def total(self):
        with self.lock:
            return sum(map(len, self.acknowledged.values()))

    # The remote.
    def follow(self):
        """self.image becomes the newest version."""
        if self.image is None or self.layout == "object":
            found = self.bucket.get(self.key, raw=True)
            version = int(found.meta["db-version"])
            if found.meta["db-layout"] != self.layout:
                raise Lost(f"{self.key}: the layout is {found.meta['db-layout']}")
            if self.lineage not in (None, found.meta["db-lineage"]) or version < self.version:
                raise Lost(f"{self.key}: version {version} of {found.meta['db-lineage']} after "
                           f"version {self.version} of {self.lineage}")
            self.versions += version - self.version
            self.version, self.lineage = version, found.meta["db-lineage"]
            self.image = check.Image(found.body)
            if int(found.meta["db-checksum"], 16) != self.image.checksum():
                raise Lost(f"{self.key}: version {version}'s checksum is not its bytes'")
        if self.layout != "log":
            return
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for name, body in pool.map(self.fetch, self.segments()):
                if not name.endswith(f"/{self.version + 1:016x}.ltx"):
                    raise Lost(f"{name} comes after version {self.version}: a hole in the log")
                check.step(self.image, self.version, body)
                self.version += 1
                self.versions += 1

    def fetch(self, name):
        return name, self.bucket.get(name, raw=True).body

    def segments(self):
        """What the log has after our version now; not what comes meanwhile, or it would have no end."""
        folder = f"{self.key}-log/{self.lineage[:8]}/"
        names, after = [], f"{folder}{self.version:016x}.ltx"
        while True:
            answer = self.bucket._call("list_objects_v2", Prefix=folder, StartAfter=after)
            names += [entry["Key"] for entry in answer.get("Contents", [])]
            if not answer.get("IsTruncated"):
                return [name for name in names if name.endswith(".ltx")]
            after = names[-1]

    def snapshot(self):
        """The object at KEY, which checkpoints bring up to date, is the version it says it is."""
        found = self.bucket.get(self.key, raw=True)
        self.follow()
        version = int(found.meta["db-version"])
        if found.meta["db-lineage"] != self.lineage or version > self.version:
            raise Lost(f"{self.key}: a snapshot of version {version}, lineage "
                       f"{found.meta['db-lineage']}; the log is at {self.version}")
        image = check.Image(found.body)
        if int(found.meta["db-checksum"], 16) != image.checksum():
            raise Lost(f"{self.key}: the snapshot of version {version} has another checksum")
        if version == self.version and image.pages != self.image.pages:
            raise Lost(f"{self.key}: the snapshot of version {version} differs from the log's")
        return version

    def rows_of(self, data, what):
        """({writer: rows}, {writer: counted up to}) of a database's bytes, which must be whole."""
        with support.plain_bytes(data) as db:
            said = support.integrity_of(db)
            found = db.execute("SELECT w, n, pad FROM t").fetchall()
            done = db.execute("SELECT w, upto, rows FROM done").fetchall()
            total = support.one(db, "SELECT c FROM total")
        rows = collections.defaultdict(set)
        for w, n, pad in found:
            rows[w].add(n)
            if pad != payload(w, n):
                raise Lost(f"{what}: row {w}:{n} has another content")
        if said != "ok":
            raise Lost(f"{what}: integrity_check: {said[:200]}")
        if len(found) + sum(row[2] for row in done) != total:
            raise Lost(f"{what}: a mixture of commits: {len(found)} rows, {done}, total {total}")
        return rows, {w: upto for w, upto, _ in done}

    def take_forks(self):
        """What conflicts' losers had is read and noted; then the forks are deleted."""
        for key in self.bucket.list(self.key + "-forks/", raw=True):
            body = self.bucket.get(key, raw=True).body
            if self.keep:
                os.makedirs(self.keep, exist_ok=True)
                with open(os.path.join(self.keep, key.replace("/", "_")), "wb") as file:
                    file.write(body)
            rows, _ = self.rows_of(body, key)
            for w, found in rows.items():
                self.forked[w] |= found
            self.bucket.delete(key)
            self.forks += 1

    def look(self):
        """Every row acknowledged until now is in the newest version; returns that version's rows."""
        promised = self.promised()
        self.follow()
        data = b"".join(self.image.pages)
        rows, done = self.rows_of(data, f"{self.key} version {self.version}")
        for w, wanted in promised.items():
            lost = sorted(n for n in wanted - rows[w] if n > done.get(w, 0))
            if lost:
                raise Lost(f"{self.key} version {self.version}: acknowledged rows of writer {w} are "
                           f"not in the remote: {lost[:10]} ({len(lost)} of {len(wanted)})")
        self.take_forks()
        self.looks += 1
        return rows

    def final(self):
        """Nothing was thrown away either: what was committed locally is in the remote or a fork."""
        rows = self.look()
        for w, committed in self.committed.items():
            lost = sorted(committed - self.acknowledged[w] - rows[w] - self.forked[w])
            if lost:
                raise Lost(f"{self.key}: rows of writer {w} that were committed locally are neither "
                           f"in the remote nor in a fork: {lost[:10]} ({len(lost)})")
        self.snapshot() if self.layout == "log" else None
        return rows
