#!/usr/bin/env python3
"""log.py - what a small change costs in the log layout, by the size of the database.

    tests/bench/log.py [MIB...]        default: 1 and 300; a directory as the remote: no network in it
"""

import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402


def timed(run, *args):
    begin = time.perf_counter()
    value = run(*args)
    return (time.perf_counter() - begin) * 1000, value


def median(values):
    return sorted(values)[len(values) // 2]


def measure(mib, mode):
    with tempfile.TemporaryDirectory() as folder:
        remote = f"file://{folder}/remote/app.db"

        def open_db(name):
            os.makedirs(f"{folder}/{name}", exist_ok=True)
            return support.connect(f"{folder}/{name}/app.db", remote, layout="log")
        db = open_db("a")
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        db.execute("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?) "
                   "INSERT INTO t SELECT i, randomblob(4000) FROM c", (mib * 256,))
        took = {"birth": timed(one, db, "SELECT sync()")[0]}
        other = open_db("b")
        took["cold open"] = timed(one, other, "SELECT count(*) FROM t")[0]
        plain, push, pull = [], [], []
        for n in range(20):
            plain.append(timed(db.execute, "UPDATE t SET y = ? WHERE x = ?", (n, n * 11 % 200 + 1))[0])
            push.append(timed(one, db, "SELECT sync()")[0])
            pull.append(timed(one, other, "SELECT r2_pull()")[0])
        took["commit"], took["push"], took["pull"] = median(plain), median(push), median(pull)
        took["nothing"] = timed(one, db, "SELECT sync()")[0]
        other.close()
        db.execute("UPDATE t SET y = 0 WHERE x = 5")
        one(db, "SELECT sync()")
        took["close"] = timed(db.close)[0]
        took["open"], db = timed(open_db, "a")
        db.execute("UPDATE t SET y = 1 WHERE x = 5")
        took["first push"] = timed(one, db, "SELECT sync()")[0]
        db.close()
        print(f"{mib:5} MiB {mode:7}" + "".join(f" {name} {ms:.1f}" for name, ms in took.items()),
              flush=True)


if __name__ == "__main__":
    print("milliseconds; push, pull and commit: median of 20, one row changed")
    for size in [int(a) for a in sys.argv[1:]] or [1, 300]:
        for journal in ("delete", "wal"):
            measure(size, journal)
