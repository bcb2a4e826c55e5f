#!/usr/bin/env python3
"""soak.py - load: 32 writers on 8 databases, each on 2 replicas, while requests fail and writers are
killed. See scripts/soak.

Every acknowledged row is looked for at intervals and at the end, in what the remote holds, read past
r2vfs (ledger.py). Of the processes that live from beginning to end, memory, descriptors and threads
are sampled: after a warm-up, the second half may not be above the first. The last line is "N passed,
N failed"; a check is a database, or one of the measures."""

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
import support  # noqa: E402
import ledger  # noqa: E402

# (layout, journal mode of replica 0, of replica 1, sync of the writers: two on each replica)
DATABASES = (
    ("log", "wal", "wal", ("commit", "commit", "commit", "commit")),
    ("log", "delete", "wal", ("commit", "commit", "commit", "commit")),
    ("log", "wal", "truncate", ("200", "200", "200", "200")),
    ("log", "wal", "delete", ("close", "close", "close", "close")),
    ("log", "wal", "wal", ("commit", "200", "commit", "close")),
    ("log", "persist", "wal", ("commit", "close", "200", "200")),
    ("log", "delete", "truncate", ("200", "close", "close", "200")),
    ("object", "wal", "delete", ("commit", "commit", "close", "200")),
)
# What is sampled: how much the floor of a process may grow from one half to the other, on average over
# all of them; and up to where it may grow in any case. A replica that is far behind fetches 64 segments
# at once, and keeps up to 16 idle HTTP handles of 3 sockets each after that: some processes do that
# early, some late.
MEASURES = {
    "memory (KiB)": (1000, 0),
    "files": (0.7, 0),
    "sockets": (0.7, 3 * 16),
    "threads": (0.3, 0),
}
WARM_UP = 0.2


class Writer:
    """One writer, in one process after the other if it is killed."""

    def __init__(self, soak, me, database, path, sync):
        self.soak, self.me, self.database, self.sync = soak, me, database, sync
        self.book = soak.books[database]
        self.path = path
        self.tried = self.starts = 0
        self.summed = 0
        self.child = None
        self.samples = []           # (when, memory, descriptors, threads)

    def start(self):
        self.starts += 1
        pending = sorted(n for n in self.book.promised().get(self.me, ()) if n > self.summed)
        told = {"path": self.path, "remote": self.soak.remote(self.database), "me": self.me,
                "sync": self.sync, "layout": self.book.layout, "n": self.tried,
                "acknowledged": pending, "seed": f"{self.soak.seed}:{self.me}:{self.starts}",
                "pause": self.soak.pause}
        self.child = subprocess.Popen(
            [support.PYTHON, os.path.join(HERE, "writer.py"), json.dumps(told)],
            env=support.child_env({"R2_ENDPOINT": self.soak.endpoint, "R2VFS_TIMEOUT": "10000",
                                   "MALLOC_ARENA_MAX": "1"}),     # one per thread would be noise
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.soak.noise, text=True)
        self.reader = threading.Thread(target=self.listen, args=(self.child,))
        self.reader.start()

    def listen(self, child):
        for line in child.stdout:
            if self.soak.args.keep:
                self.soak.lines.write(f"{time.time():.3f} {self.me} {child.pid} {line}")
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "t":
                self.tried = int(rest)
            elif word == "a":
                self.book.acknowledge(self.me, map(int, rest.split()))
            elif word == "c":
                self.book.commit(self.me, int(rest))
            elif word == "p":
                self.summed = int(rest)
            elif word == "s":
                self.soak.counts["syncs"] += 1
            elif word == "e":
                code, _, sentence = rest.partition(" ")
                self.soak.errors[code] += 1
                self.soak.sentences[code, sentence[:60]] += 1
            elif word == "!":
                self.soak.wrong(self.book, rest)
        child.wait()
        if child.returncode not in (0, -9):
            self.soak.wrong(self.book, f"writer {self.me} ended with {child.returncode}")

    def kill(self):
        self.child.kill()
        self.reader.join()
        self.child.stdin.close()

    def stop(self):
        self.child.stdin.close()

    def sample(self, when):
        try:
            with open(f"/proc/{self.child.pid}/status") as file:
                said = dict(line.split(":", 1) for line in file)
            folder = f"/proc/{self.child.pid}/fd"
            kinds = collections.Counter()
            for name in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):    # closed meanwhile
                    kinds[os.readlink(f"{folder}/{name}").startswith("socket:")] += 1
        except OSError:
            return
        if "RssAnon" in said:        # what is mapped grows with the database
            self.samples.append((when, int(said["RssAnon"].split()[0]), kinds[False], kinds[True],
                                 int(said["Threads"])))


class Soak:
    def __init__(self, args):
        self.args, self.seed, self.pause = args, args.seed, args.pause
        self.random = random.Random(args.seed)
        self.folder = tempfile.mkdtemp(prefix="r2vfs-soak.")
        self.noise = open(os.path.join(self.folder, "stderr"), "w")
        self.lines = open(os.path.join(self.folder, "lines"), "w")  # what writers said (--keep)
        self.emulator = support.emulator()
        self.bucket = self.emulator.own_bucket()
        self.counts, self.errors = collections.Counter(), collections.Counter()
        self.sentences = collections.Counter()
        self.failed = collections.defaultdict(list)     # check: what is wrong
        self.chaos = subprocess.Popen(
            [support.PYTHON, os.path.join(HERE, "chaos.py"), self.emulator.endpoint, str(args.seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.noise, text=True)
        self.endpoint = self.chaos.stdout.readline().strip()
        self.books = [ledger.Ledger(self.bucket, f"soak/{args.seed}/{n}.db", plan[0])
                      for n, plan in enumerate(DATABASES)]
        for book in self.books:
            book.keep = os.path.join(self.folder, "forks") if args.keep else None
        self.chosen = [n for n in range(len(DATABASES)) if args.only in (None, n)]
        self.writers = []
        self.over = threading.Event()

    def remote(self, database):
        return f"s3://{self.emulator.bucket_name}/{self.books[database].key}"

    def path(self, database, replica):
        return os.path.join(self.folder, f"machine{replica}", f"{database}.db")

    def wrong(self, book, what):
        self.failed[book.key].append(what)
        print(f"FAILED {what}", flush=True)

    def tell_chaos(self, word):
        support.tell(self.chaos, word)
        return json.loads(self.chaos.stdout.readline())

    def prepare(self):
        """The databases, each on both machines, in its journal modes; the writers."""
        for n, (layout, *journals, syncs) in enumerate(DATABASES):
            if self.args.only is not None and n != self.args.only:
                continue
            for replica, journal in enumerate(journals):
                os.makedirs(os.path.dirname(self.path(n, replica)), exist_ok=True)
                db = support.connect(self.path(n, replica), self.remote(n), layout=layout)
                db.execute(f"PRAGMA journal_mode={journal}")
                if replica == 0:
                    db.executescript(ledger.SCHEMA)
                    db.executemany("INSERT INTO done VALUES(?, 0, 0)",
                                   [(4 * n + k,) for k in range(4)])
                db.close()
            for k, sync in enumerate(syncs):
                self.writers.append(Writer(self, 4 * n + k, n, self.path(n, k // 2), sync))

    def run(self):
        """The load: sample, kill, look, until the time is over. The last of a database's four writers
        (--victims) are killed now and then; the others live as long as the soak."""
        self.prepare()
        for writer in self.writers:
            writer.start()
        support.until(lambda: self.failed or all(w.tried >= 3 for w in self.writers), 900)
        began = time.monotonic()
        end = began + 60 * self.args.minutes
        victims = [writer for writer in self.writers if writer.me % 4 >= 4 - self.args.victims]
        looker = threading.Thread(target=self.look_on, args=(began,))
        looker.start()
        kill = began + 5
        while time.monotonic() < end and not self.failed:
            now = time.monotonic()
            for writer in self.writers:
                if writer not in victims:
                    writer.sample(now - began)
            if now > kill:
                writer = self.random.choice(victims)
                writer.kill()
                writer.start()
                self.counts["kills"] += 1
                kill = now + self.random.uniform(self.args.kill / 8, self.args.kill)
            time.sleep(min(1, self.args.kill / 4))
        self.over.set()
        looker.join()

    def look_on(self, began):
        """One database after the other, until the load is over."""
        while not self.over.is_set():
            for n in self.chosen:
                self.look(self.books[n], "look")
                if self.over.wait(self.args.look):
                    return
            self.progress(time.monotonic() - began)

    def look(self, book, how):
        try:
            getattr(book, how)()
        except (AssertionError, *check_errors) as error:
            self.wrong(book, str(error) or type(error).__name__)

    def progress(self, seconds):
        print(f"{seconds:6.0f} s: acknowledged {sum(book.total() for book in self.books)}, versions "
              f"{sum(book.versions for book in self.books)}, forks "
              f"{sum(book.forks for book in self.books)}, kills {self.counts['kills']}, errors "
              f"{sum(self.errors.values())}, descriptors "
              f"{sum(sum(w.samples[-1][2:4]) for w in self.writers if w.samples)}, memory "
              f"{sum(w.samples[-1][1] for w in self.writers if w.samples) >> 10} MiB", flush=True)

    def finish(self):
        """The writers close; then, without faults, every local file is opened once more."""
        for writer in self.writers:
            writer.stop()
        for writer in self.writers:
            writer.reader.join()
        self.faults = self.tell_chaos("quiet")
        for n in self.chosen:
            book = self.books[n]
            for replica in (0, 1, 0, 1):
                self.bring(n, replica, book)
            self.look(book, "final")
            self.agree(n, book)

    def bring(self, n, replica, book):
        """What a person does with a machine that comes back: open, and settle a conflict."""
        db = support.connect(self.path(n, replica), self.remote(n))
        try:
            try:
                db.execute("SELECT sync()").fetchone()
            except support.sqlite3.Error as error:
                if "r2_resolve" not in str(error):
                    raise
                db.execute("SELECT r2_resolve('fork')").fetchone()
        except support.sqlite3.Error as error:
            self.wrong(book, f"{self.path(n, replica)}: {error}")
        finally:
            db.close()

    def agree(self, n, book):
        """Both replicas and a machine without a local file hold what the remote holds."""
        fresh = os.path.join(self.folder, f"fresh{n}.db")
        support.connect(fresh, self.remote(n), sync="manual").close()
        for path in (fresh, self.path(n, 0), self.path(n, 1)):
            db = support.plain(path)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
            with open(path, "rb") as file:
                pages = ledger.check.differing(book.image, file.read())
            if pages:
                self.wrong(book, f"{path} is not version {book.version}: pages {pages[:10]}")

    def end(self):
        self.over.set()
        for writer in self.writers:
            if writer.child and writer.child.poll() is None:
                writer.child.kill()
                writer.child.wait()
        self.chaos.kill()
        self.chaos.wait()
        self.noise.close()
        self.lines.close()
        if self.args.keep:
            self.save()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def save(self):
        """The remote's objects beside the local files: the emulator does not outlive us."""
        for key in self.bucket.list(f"soak/{self.seed}/", raw=True):
            found = self.bucket.get(key, raw=True)
            path = os.path.join(self.folder, "remote", key)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(found.body)
            with open(path + ".meta", "w") as file:
                json.dump(found.meta, file)
        print(f"kept: {self.folder}")

    def growth(self):
        """{measure: (floor in the first half, in the second, growth)}, means over the processes that were
        never killed. A floor is what three quarters of the samples are above: work in progress comes
        and goes."""
        series = [writer.samples for writer in self.writers if writer.samples]
        last = max((samples[-1][0] for samples in series), default=0)
        first, middle = last * WARM_UP, last * (1 + WARM_UP) / 2
        found = {}
        for column, (name, (_, any_case)) in enumerate(MEASURES.items(), 1):
            floors = []
            for samples in series:
                early = sorted(s[column] for s in samples if first <= s[0] < middle)
                late = sorted(s[column] for s in samples if s[0] >= middle)
                if early and late:
                    a, b = early[len(early) // 4], late[len(late) // 4]
                    floors.append((a, b, max(0, b - max(a, any_case)) if any_case else b - a))
            if floors:
                found[name] = tuple(sum(each) / len(floors) for each in zip(*floors))
        return found

    def report(self):
        """What was done and found; returns the number of checks that failed."""
        minimum = 4 * self.args.minutes     # far below what any machine does: it did run
        for book in (self.books[n] for n in self.chosen):
            if book.total() < minimum:
                self.failed[book.key].append(f"only {book.total()} acknowledged rows")
        grown = self.growth()
        for name, (limit, _) in MEASURES.items():
            early, late, more = grown.get(name, (0, 0, float("inf")))
            print(f"{name} of a process: {early:.1f} in the first half, {late:.1f} in the second")
            if more > limit:
                self.failed[name].append(f"grew by {more:.1f}; {limit} are allowed")
        checks = [self.books[n].key for n in self.chosen] + list(MEASURES)
        if self.args.samples:
            with open(self.args.samples, "w") as file:
                json.dump({writer.me: writer.samples for writer in self.writers}, file)
        print(f"faults: {json.dumps(self.faults)}")
        print(f"errors that writers lived with: {json.dumps(self.errors)}")
        for (code, sentence), count in self.sentences.most_common(self.args.sentences):
            print(f"    {count} x {code} {sentence}")
        print(f"{len(self.writers)} writers, {len(self.books)} databases, {self.counts['syncs']} syncs "
              f"and COMMITs in the remote, {self.counts['kills']} writers killed, "
              f"{sum(book.forks for book in self.books)} forks, "
              f"{sum(book.versions for book in self.books)} versions followed, "
              f"{sum(book.looks for book in self.books)} looks at a database, "
              f"{sum(book.total() for book in self.books)} acknowledged rows")
        for name in self.failed:
            for what in self.failed[name][:5]:
                print(f"FAILED {name}: {what}")
        bad = len([name for name in checks if name in self.failed])
        print(f"{len(checks) - bad} passed, {bad} failed")
        return bad


check_errors = (ledger.check.Wrong, ledger.check.ltx.Violation, support.Missing, OSError, KeyError)
check_errors = check_errors + (support.sqlite3.Error,)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int,
                        default=os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--look", type=float, default=2, help="seconds from one database to the next")
    parser.add_argument("--pause", type=float, default=0.3, help="a writer's longest pause")
    parser.add_argument("--sentences", type=int, default=12)
    parser.add_argument("--samples", help="a file for all samples, as JSON")
    parser.add_argument("--kill", type=float, default=4, help="the longest time between two kills")
    parser.add_argument("--victims", type=int, default=1, help="of a database's four writers")
    parser.add_argument("--only", type=int, help="this database, 0 to 7, and its four writers")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    print(f"seed: {args.seed}", flush=True)
    soak = Soak(args)
    try:
        soak.run()
        soak.finish()
        return 1 if soak.report() else 0
    finally:
        soak.end()


if __name__ == "__main__":
    sys.exit(main())
