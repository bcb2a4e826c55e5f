#!/usr/bin/env python3
"""sync=commit under contention: processes on two replicas of one remote count together, each with the
ordinary busy-retry. Nothing acknowledged is lost, nothing is applied twice: plainly, with answers
lost, with PUTs that land after their repetition, and with processes killed.

Everything random comes from a seed that is printed; R2VFS_SEED=... repeats a run."""
# One layout: each test names its own.
# Not under TSan: its writers are processes.

import os
import random
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

SEED = int(os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
COUNT = int(os.environ.get("R2VFS_INCREMENTS", "200"))  # of each process

# Each step is named, so that after an unknown outcome (7690), or a restart, the program can look
# whether it happened before it repeats it: what README tells applications to do.
CHILD = """
import random
target, who, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
dice = random.Random(seed)
db = sqlite3.connect(target, uri=True, timeout=30, isolation_level=None)
unknown = conflicts = 0
for n in range(count):
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("SELECT 1 FROM done WHERE who=? AND n=?", (who, n)).fetchone():
                db.execute("ROLLBACK")
                break
            value, = db.execute("SELECT value FROM counter").fetchone()
            db.execute("UPDATE counter SET value=?", (value + 1,))
            db.execute("INSERT INTO done VALUES(?, ?)", (who, n))
            db.execute("COMMIT")
            break
        except sqlite3.OperationalError as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            code = error.sqlite_errorcode
            unknown += code == 7690
            conflicts += code == 517
            if code & 0xff != 5 and code != 7690:
                raise
            time.sleep(dice.random() * 0.02)    # of an ordinary busy-retry
    print("ack", n, flush=True)
print("end", unknown, conflicts, flush=True)
db.close()
"""


class Counter:
    """One of the processes; `acked` is what it was told."""

    def __init__(self, case, name, who, endpoint):
        self.case, self.who, self.acked, self.turn = case, who, set(), 0
        self.target = support.uri(case.path(name), case.remote, sync="commit", layout=case.layout,
                                  endpoint=endpoint)
        self.child = None
        self.codes = [0, 0]

    def start(self):
        self.turn += 1
        self.child = self.case.spawn(CHILD, self.target, self.who, COUNT,
                                     f"{SEED}:{self.who}:{self.turn}")

    def read(self, until=None):
        """Until its end, or until it has acknowledged so many; True at its end."""
        for line in self.child.stdout:
            word, *numbers = line.split()
            if word == "end":
                self.codes = [a + int(b) for a, b in zip(self.codes, numbers)]
                support.finish(self.child)
                return True
            self.acked.add(int(numbers[0]))
            if until is not None and len(self.acked) >= until:
                return False
        raise AssertionError(f"process {self.who} ended with {self.child.wait()}")


class Increments(support.Case):
    layout = "log"

    def setUp(self):
        super().setUp()
        print(f"seed: R2VFS_SEED={SEED}", flush=True)
        self.dice = random.Random(f"{SEED}:{self._testMethodName}")

    def start_world(self, mode, endpoint=None):
        db = self.connect("a/app.db", sync="commit", layout=self.layout)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE counter(value)")
        db.execute("CREATE TABLE done(who, n, PRIMARY KEY(who, n))")
        db.execute("INSERT INTO counter VALUES(0)")
        db.close()
        db = self.connect("b/app.db", sync="commit")
        db.execute(f"PRAGMA journal_mode={mode}")
        db.close()
        return [Counter(self, f"{'ab'[who % 2]}/app.db", who, endpoint) for who in range(4)]

    def run_all(self, counters, kills=0):
        """kills: how often each process is killed on its way."""
        failed = []

        def follow(c, stops):
            try:
                c.start()
                for stop in stops:
                    if c.read(stop):
                        return
                    support.kill(c.child)
                    c.start()
                c.read()
            except BaseException as error:  # noqa: B902 (it is raised by the test)
                failed.append(error)

        threads = []
        for c in counters:
            stops = sorted(self.dice.randrange(1, COUNT) for _ in range(kills))
            threads.append(threading.Thread(target=follow, args=(c, stops)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        print(f"   {sum(c.codes[1] for c in counters)} conflicts,"
              f" {sum(c.codes[0] for c in counters)} unknown", flush=True)

    def check(self, counters):
        found = {}
        for name in ("a", "b", "fresh"):
            db = self.connect(name + "/app.db", sync="manual")
            db.execute("SELECT r2_pull()")
            found[name] = (one(db, "SELECT r2_version()"), one(db, "SELECT value FROM counter"),
                           db.execute("SELECT who, n FROM done ORDER BY 1, 2").fetchall())
            db.close()
            self.assertEqual(support.integrity(self.path(name + "/app.db")), "ok")
        version, value, done = found["fresh"]
        self.assertEqual(found["a"], found["fresh"])
        self.assertEqual(found["b"], found["fresh"])
        # every one of them was told, or looked: all happened, and just once
        self.assertEqual(value, len(counters) * COUNT)
        self.assertEqual(done, [(c.who, n) for c in counters for n in range(COUNT)])
        for c in counters:
            self.assertEqual(c.acked, set(range(COUNT)))
        self.assertFalse([k for k in self.bucket.list(self.prefix) if "-forks/" in k])
        pages = {name: self.pages(name) for name in found}
        self.assertEqual(pages["a"], pages["fresh"])
        self.assertEqual(pages["b"], pages["fresh"])

    def pages(self, name):
        """The file's checksum, but for the fields of page 1 that are each machine's own."""
        with open(self.path(name + "/app.db"), "rb") as file:
            data = file.read()
        return support.ltx_checksum(support.without_local_fields(data))

    # Every fault comes a few times, spread over the run.
    def lost_answers(self, proxy):
        for _ in range(12):
            proxy.lose(method="PUT", key=r"\.ltx$", nth=self.dice.randrange(5, 60))

    def late_puts(self, proxy):
        """Cut off now, and forwarded when the repetition has been sent, or later."""
        rules = [proxy.late(method="PUT", key=r"\.ltx$", nth=self.dice.randrange(5, 80))
                 for _ in range(8)]
        ended = threading.Event()

        def release(rule):
            while not ended.is_set() and not rule.hits:
                ended.wait(0.01)
            if rule.hits:
                seen = proxy.count("PUT")
                while not ended.is_set() and proxy.count("PUT") <= seen:
                    ended.wait(0.005)
            rule.release()

        threads = [threading.Thread(target=release, args=(rule,)) for rule in rules]
        for thread in threads:
            thread.start()

        def end():
            ended.set()
            for thread in threads:
                thread.join()
        self.addCleanup(end)
        return rules

    def play(self, mode, faults=(), kills=0):
        if not faults:
            counters = self.start_world(mode)
            self.run_all(counters, kills)
            return self.check(counters)
        proxy = self.proxy()
        counters = self.start_world(mode, proxy.endpoint)
        for fault in faults:
            fault(proxy)
        self.run_all(counters, kills)
        self.check(counters)
        self.assertTrue([r for r in proxy.requests if r.fault], "no fault ever came")

    def test_rollback(self):
        self.play("delete")

    def test_wal(self):
        self.play("wal")

    def test_rollback_faults(self):
        self.play("delete", [self.lost_answers, self.late_puts])

    def test_wal_faults(self):
        self.play("wal", [self.lost_answers, self.late_puts])

    def test_rollback_kills(self):
        self.play("delete", [self.lost_answers], kills=3)

    def test_wal_kills(self):
        self.play("wal", [self.lost_answers], kills=3)


if __name__ == "__main__":
    support.main()
