"""transfer.py - upload and download of a large database, beside curl's of the same bytes, in one run.

    scripts/r2-emulator run -- /usr/bin/python3 tests/bench/transfer.py path/to/r2vfs.so [MiB]
"""
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 2


def curl(*args, out="/dev/null"):
    key, secret = os.environ["R2_ACCESS_KEY_ID"], os.environ["R2_SECRET_ACCESS_KEY"]
    start = time.monotonic()
    subprocess.run(["curl", "-sf", "-o", out, "--aws-sigv4", "aws:amz:auto:s3", "--user",
                    f"{key}:{secret}", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-H",
                    "Expect:", *args], check=True)
    return time.monotonic() - start


def timed(fn):
    start = time.monotonic()
    fn()
    return time.monotonic() - start


def main():
    so, mib = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    bucket, endpoint = os.environ["R2VFS_TEST_BUCKET"], os.environ["R2_ENDPOINT"]
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(so)
    up, down, curl_up, curl_down = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        seed = f"{folder}/seed.db"
        c = sqlite3.connect(seed, isolation_level=None)
        c.execute("PRAGMA synchronous=OFF")
        c.execute("CREATE TABLE t(b BLOB)")
        c.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?) "
                  "INSERT INTO t SELECT randomblob(1000000) FROM n", (mib * 1048576 // 1001000,))
        c.close()
        size = os.path.getsize(seed)
        for n in range(ROUNDS):
            path = f"{folder}/app{n}.db"
            shutil.copy(seed, path)
            uri = f"file:{path}?vfs=r2vfs&remote=s3://{bucket}/big{n}.db&sync=manual&timeout=600000"
            c = sqlite3.connect(uri, uri=True, isolation_level=None)
            up.append(timed(lambda: c.execute("SELECT sync()").fetchone()))
            c.close()
            curl_up.append(curl("-T", seed, f"{endpoint}/{bucket}/curl{n}.db"))
            os.remove(path)
            os.remove(path + "-r2")

            def reopen():
                d = sqlite3.connect(uri, uri=True)
                d.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                d.close()
            down.append(timed(reopen))
            # the same object: the emulator reads one that came in parts much more slowly
            curl_down.append(curl(f"{endpoint}/{bucket}/big{n}.db", out=f"{folder}/curl"))
            os.remove(path)
    m = statistics.median
    print(f"{size / 1048576:.0f} MiB, median of {ROUNDS}: "
          f"upload r2vfs {m(up):.2f} s, curl {m(curl_up):.2f} s (x{m(up) / m(curl_up):.2f}); "
          f"download r2vfs {m(down):.2f} s, curl {m(curl_down):.2f} s "
          f"(x{m(down) / m(curl_down):.2f})")


main()
