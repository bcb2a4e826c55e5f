#!/usr/bin/env python3
"""Two replicas race for every version while answers get lost: each version is won once, each winner
knows it, each loser is kept as a fork."""

import os
import sqlite3
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402


class Race(support.Case):
    def test_forty_rounds(self):
        """Both count up the same number."""
        through = self.proxy()
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE c(n)")
        db.execute("INSERT INTO c VALUES(0)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        db.close()
        for n in range(60):
            fault = through.lose if n % 2 else through.cut
            fault(method="PUT" if n % 3 else "HEAD", nth=n + 2)
        won, lost, failures = [], [], []

        def run(name):
            try:
                db = self.connect(name, endpoint=through.endpoint)
                for _ in range(20):
                    while True:
                        db.execute("UPDATE c SET n = n + 1")
                        try:
                            won.append(one(db, "SELECT sync()"))
                            break
                        except sqlite3.OperationalError as error:
                            if error.sqlite_errorcode != 517:
                                raise
                            lost.append(one(db, "SELECT r2_resolve('remote')"))
                db.close()
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(name,)) for name in ("b/app.db", "c/app.db")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(sorted(won), list(range(2, 42)))
        self.assertGreater(sum(request.fault is not None for request in through.requests), 20)
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "41")
        self.assertEqual(one(self.connect("d/app.db"), "SELECT n FROM c"), 40)
        self.assertEqual(len(self.bucket.list(self.key + "-forks/")), len(lost))


if __name__ == "__main__":
    support.main()
