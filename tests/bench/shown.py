"""shown.py - what the log layout promises, measured at the fault proxy with 30 ms a request.

    scripts/r2-emulator run -- /usr/bin/python3 tests/bench/shown.py [MiB of the large database]

Each line is a figure beside its yardstick of the same run: curl's bare PUT or GET of the same bytes
through the same proxy, liblz4 on the same pages, a small database.
"""
import ctypes
import ctypes.util
import os
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import ltx  # noqa: E402
import support  # noqa: E402
from support import one  # noqa: E402

LATENCY_MS = 30
LINE = 25e6     # bytes/s: 200 Mbit/s, where the line counts and not this machine


def median(values):
    return sorted(values)[len(values) // 2]


def timed(run, *args):
    begin = time.perf_counter()
    value = run(*args)
    return (time.perf_counter() - begin) * 1000, value


def lz4_size(pages):
    lib = ctypes.CDLL(ctypes.util.find_library("lz4") or "liblz4.so.1")
    total = 0
    for page in pages:
        room = ctypes.create_string_buffer(lib.LZ4_compressBound(len(page)))
        total += lib.LZ4_compress_default(page, room, len(page), len(room))
    return total


class Bench(support.Case):
    def runTest(self):
        pass

    def start(self):
        self._testMethodName = "bench"
        self.setUp()
        self.through = support.FaultProxy(self.emulator.endpoint, latency_ms=LATENCY_MS)
        return self

    def open(self, name, **params):
        params.setdefault("layout", "log")
        return self.connect(name, endpoint=self.through.endpoint, **params)

    def reset(self, key):
        self.key = f"{self.prefix}/{key}"
        self.remote = self.remote_of(self.key)

    def curl(self, *args):
        env = self.emulator.env
        out = subprocess.run(
            ["curl", "-sf", "-o", "/dev/null", "-w", "%{time_total}", "--aws-sigv4",
             "aws:amz:auto:s3", "--user", f"{env['R2_ACCESS_KEY_ID']}:{env['R2_SECRET_ACCESS_KEY']}", "-H",
             "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-H", "Expect:", *args],
            check=True, stdout=subprocess.PIPE, text=True).stdout
        return float(out) * 1000

    def url(self, key):
        return f"{self.through.endpoint}/{self.bucket.name}/{key}"

    def segments(self):
        return [k for k in self.bucket.list(self.key + "-log/") if k.endswith(".ltx")]

    # ---- the lines of the table

    def commits(self, mode):
        self.reset(f"commit-{mode}.db")
        db = self.open(f"commit-{mode}/a.db", sync="commit")
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        db.execute("INSERT INTO t VALUES(0, randomblob(100))")
        ours, bare, requests = [], [], []
        for n in range(1, 31):
            before = len(self.through.requests)
            ms, _ = timed(db.execute, "INSERT INTO t VALUES(?, randomblob(100))", (n,))
            ours.append(ms)
            requests.append(len(self.through.requests) - before)
            body = self.bucket.get(self.segments()[-1]).body
            path = self.path("body")
            with open(path, "wb") as file:
                file.write(body)
            bare.append(self.curl("-T", path, self.url(f"{self.prefix}/bare{n}")))
        _, pages, *_ = ltx.decode(body)
        raw = lz4_size([page for _, page in pages])
        print(f"COMMIT of one row, {mode}: {median(requests)} request, {median(ours):.1f} ms; curl's "
              f"bare PUT of the same bytes {median(bare):.1f} ms: {median(ours) / median(bare):.3f}")
        print(f"  bytes: {len(body)} for {len(pages)} pages, LZ4 of those {raw}: + "
              f"{(len(body) - raw) / raw * 100:.1f} % ({len(body) - raw} bytes; allowed "
              f"{raw // 100 + 400})")
        db.close()

    def group(self):
        self.reset("group.db")
        first = self.open("group/a.db", sync="manual")
        first.execute("PRAGMA journal_mode=wal")
        first.execute("CREATE TABLE t(x)")
        one(first, "SELECT sync()")
        every = [self.open("group/a.db", sync="manual") for _ in range(64)]
        before = len(self.through.requests)
        together = threading.Barrier(64)

        def run(db, n):
            db.execute("INSERT INTO t VALUES(?)", (n,))
            together.wait()
            one(db, "SELECT sync()")
        threads = [threading.Thread(target=run, args=pair) for pair in zip(every, range(64))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        puts = [r for r in self.through.requests[before:] if r.method == "PUT"]
        print(f"64 threads, one row each, then sync(): {len(puts)} PUTs, "
              f"{len(self.through.requests) - before} requests in all")
        for db in [first, *every]:
            db.close()

    def probe(self):
        self.reset("probe.db")
        a = self.open("probe/a.db")
        a.execute("CREATE TABLE t(x)")
        one(a, "SELECT sync()")
        b = self.open("probe/b.db")
        one(b, "SELECT r2_pull()")
        before = len(self.through.requests)
        one(b, "SELECT r2_pull()")
        asked = self.through.requests[before:]
        print("follower's probe when up to date:", [(r.method, r.status) for r in asked])
        a.close()
        b.close()

    def behind(self, versions, rows, total):
        """`rows` rows of `total`, of 1 KiB each, are changed by each version."""
        place = f"behind{rows}-{total}"
        self.reset(place + ".db")
        a = self.connect(place + "/a.db", layout="log", sync="manual")
        a.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        a.execute("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<?) "
                  "INSERT INTO t SELECT i, randomblob(1000) FROM c", (total,))
        one(a, "SELECT sync()")
        followers = [self.open(f"{place}/{name}.db") for name in "bc"]
        for db in followers:
            one(db, "SELECT count(*) FROM t")
        for n in range(versions):
            a.execute("UPDATE t SET y=randomblob(1000) WHERE x BETWEEN ? AND ?",
                      (n * rows % (total - rows) + 1, n * rows % (total - rows) + rows))
            one(a, "SELECT sync()")
        log = sum(len(self.bucket.get(k).body) for k in self.segments())
        key = f"{self.prefix}/{place}.log"
        self.bucket.put(key, os.urandom(log))
        said = f"follower of {total / 1024:.0f} MiB, {versions} versions, {log / 1048576:.1f} MiB, behind:"
        for db, rate in zip(followers, (None, LINE)):
            self.through.rate = rate
            before = len(self.through.requests)
            ours, version = timed(one, db, "SELECT r2_pull()")
            self.through.settle()
            asked = self.through.requests[before:]
            bare = median([self.curl(self.url(key)) for _ in range(3)])
            print(f"{said} {f'{LINE / 1e6:.0f} MB/s' if rate else 'loopback'}: {ours:.0f} ms, "
                  f"{len(asked)} requests, {sum(r.response_bytes for r in asked) / 1048576:.1f} MiB, now at "
                  f"{version}; those in one object {bare:.0f} ms: {ours / bare:.2f}")
            db.close()
        self.through.rate = None
        a.close()

    def large(self, mib, mode):
        self.reset(f"large{mib}{mode}.db")
        a = self.open(f"large{mib}{mode}/a.db", sync="manual", timeout=600000)
        a.execute(f"PRAGMA journal_mode={mode}")
        a.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        a.execute("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<?) "
                  "INSERT INTO t SELECT i, randomblob(4000) FROM c", (mib * 256,))
        one(a, "SELECT sync()")
        b = self.open(f"large{mib}{mode}/b.db", sync="manual", timeout=600000)
        b.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        push, pull = [], []
        for n in range(9):
            a.execute("UPDATE t SET y=zeroblob(3999) WHERE x=?", (n * 7 + 1,))
            push.append(timed(one, a, "SELECT sync()")[0])
            pull.append(timed(one, b, "SELECT r2_pull()")[0])
        a.close()
        b.close()
        return median(push), median(pull)


    def snapshot(self, mib):
        """A checkpoint after one changed row, beside an upload of all of it."""
        self.reset(f"snapshot{mib}.db")
        a = self.open(f"snapshot{mib}/a.db", sync="manual", timeout=600000)
        a.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        a.execute("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<?) "
                  "INSERT INTO t SELECT i, randomblob(4000) FROM c", (mib * 256,))
        whole, _ = timed(one, a, "SELECT sync()")
        times, up = [], []
        for n in range(3):
            a.execute("UPDATE t SET y=zeroblob(3999) WHERE x=?", (n * mib * 80 + 1,))
            one(a, "SELECT sync()")
            self.through.clear()
            times.append(timed(one, a, "SELECT r2_checkpoint()")[0])
            self.through.settle()
            up.append(sum(request.request_bytes for request in self.through.requests))
        a.close()
        print(f"checkpoint after one changed row, {mib} MiB: {median(up) / 2**20:.1f} MiB sent, "
              f"{median(times):.0f} ms; all of it: {mib} MiB, {whole:.0f} ms")


def main():
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    bench = Bench().start()
    try:
        for mode in ("delete", "wal"):
            bench.commits(mode)
        bench.group()
        bench.probe()
        bench.snapshot(min(mib, 256))
        for rows, total in ((1, 2000), (1, 40000), (100, 40000), (1, 80000)):
            bench.behind(1000, rows, total)
        for mode in ("delete", "wal"):
            small, large = bench.large(1, mode), bench.large(mib, mode)
            print(f"one changed row, {mode}: push 1 MiB {small[0]:.1f} ms, {mib} MiB {large[0]:.1f} ms: "
                  f"{large[0] / small[0]:.2f}; pull {small[1]:.1f} ms, {large[1]:.1f} ms: "
                  f"{large[1] / small[1]:.2f}")
    finally:
        bench.doCleanups()
        bench.through.stop()


if __name__ == "__main__":
    main()
