#!/usr/bin/env python3
"""kill -9 at a chosen system call of a checkpoint, of a collection, of a change of layout. After each:
the snapshot is a whole SQLite file that fits its metadata, the log continues it without a gap, a machine
without anything has every row, and so has the replica that was killed, which goes on and does what was
begun. No fork is made, and nobody has a conflict."""
# One layout: its tests say theirs.

import os
import time

import crashkit
from crashkit import CrashCase, create, mark, rng, rows, run_traced, step
import support
from support import one

POINTS = int(os.environ.get("R2VFS_KILL_POINTS", "4"))  # of each phase; 0: every system call
HERE = set(range(1, 7))


never_closed = []


class KillCheckpoint(CrashCase):
    def setUp(self):
        super().setUp()
        if not crashkit.can_trace():
            self.skipTest("ptrace is not permitted here")

    def world(self, kind, mode, layout="log", before=None):
        """A pushed database with a log; its snapshot is version 1, because nobody closes it."""
        self.use(kind)
        path = self.path(f"{self.count}/a/app.db")

        def work():
            db = support.connect(path, self.remote, layout=layout, sync="manual")
            never_closed.append(db)
            create(db, mode)
            one(db, "SELECT sync()")
            for n in sorted(HERE):
                step(db, n)
                one(db, "SELECT sync()")
            if before:
                before(db)
        done = run_traced(work, None)
        self.assertEqual(done.status, 0, done.said)
        return path

    def points(self, calls, random):
        if POINTS == 0 or calls <= POINTS:
            return range(1, calls + 1)
        width = calls / POINTS
        return sorted({1 + int((k + random.random()) * width) for k in range(POINTS)})

    def kill_all(self, name, work, check, layout="log", kinds=("file", "s3"), modes=("delete", "wal"),
                 before=None):
        """work(path) in a child, which ends at each of the points; then check(path)."""
        killed = 0
        for kind in kinds:
            for mode in modes:
                random = rng(name, kind, mode)

                def once(at):
                    path = self.world(kind, mode, layout, before)
                    result = run_traced(lambda: work(path), at)
                    self.assertFalse([s for s in result.said if s.startswith("failed")], result.said)
                    return path, result
                path, whole = once(None)
                self.assertEqual(whole.status, 0, whole.said)
                self.assertGreater(whole.calls, 0)
                check(path, True)
                for at in self.points(whole.calls, random):
                    with self.subTest(phase=name, kind=kind, mode=mode, at=at):
                        path, result = once(at)
                        killed += 1
                        self.look_at_snapshot()
                        self.assertEqual(self.fresh()[0], HERE)
                        check(path, False)
        self.assertGreater(killed, 0)
        print(f"{name}: {killed} kills", flush=True)

    def snapshot(self):
        if self.remote_kind == "s3":
            found = self.bucket.get(self.key, raw=True)
            return found.body, found.meta
        path = self.remote[len("file://"):]
        with open(path, "rb") as file:
            return file.read(), support.sidecar(path)

    def look_at_snapshot(self):
        body, meta = self.snapshot()
        self.assertEqual(support.integrity_of_bytes(body), "ok")
        self.assertEqual(support.number_at(body, 24), int(meta["db-version"]))
        self.assertEqual(support.ltx_checksum(body), meta["db-checksum"])
        self.remote_image()             # and what follows it, link by link
        return int(meta["db-version"]), meta["db-layout"]

    def go_on(self, path, sql, layout):
        """The killed replica has all rows, does what was begun, and pushes."""
        db = support.connect(path, self.remote, sync="manual")
        self.assertEqual(rows(db), HERE)
        version = one(db, sql)
        self.assertEqual(self.look_at_snapshot(), (version, layout))
        step(db, 7)
        self.assertEqual(one(db, "SELECT sync()"), version + 1)
        self.assertEqual(support.status(db, path)["conflicts"], 0)
        db.close()
        self.assertEqual(self.fresh()[0], HERE | {7})
        self.assertEqual(len(self.forks()), 0)

    def run_sql(self, sql):
        def work(path):
            db = support.connect(path, self.remote, sync="manual")
            mark()
            one(db, sql)
        return work

    def checked(self, sql, layout):
        return lambda path, whole: self.go_on(path, sql, layout)

    def test_checkpoint(self):
        self.kill_all("checkpoint", self.run_sql("SELECT r2_checkpoint()"),
                      self.checked("SELECT r2_checkpoint()", "log"))

    def test_close(self):
        def work(path):
            db = support.connect(path, self.remote, sync="manual")
            step(db, 50)
            db.execute("DELETE FROM t WHERE n = 50")
            db.execute("UPDATE total SET c = c - 1")
            one(db, "SELECT sync()")
            mark()
            db.close()

        def check(path, whole):
            version, _ = self.look_at_snapshot()
            newest = self.remote_image().version
            self.assertTrue(version == newest if whole else version <= newest)
            self.go_on(path, "SELECT r2_checkpoint()", "log")
        self.kill_all("close", work, check)

    def test_collection(self):
        """A base goes, and the segments before the next one."""
        def before(db):
            folder = self.remote[len("file://"):] + "-log/"
            lineage = os.path.join(folder, os.listdir(folder)[0])
            one(db, "SELECT r2_checkpoint()")           # base 1
            self.set_back(lineage)
            for n in (60, 61):
                db.execute("INSERT INTO junk VALUES(1)")
                one(db, "SELECT sync()")
            one(db, "SELECT r2_checkpoint()")           # base 7
            self.set_back(lineage)
            db.execute("INSERT INTO junk VALUES(2)")
            one(db, "SELECT sync()")

        def check(path, whole):
            folder = self.remote[len("file://"):] + "-log/"
            names = os.listdir(os.path.join(folder, os.listdir(folder)[0]))
            bases = sorted(int(n[:16], 16) for n in names if n.endswith(".db"))
            found = {int(n[:16], 16) for n in names if n.endswith(".ltx")}
            newest = self.remote_image().version
            if whole:
                self.assertEqual(bases[0], 7)
                self.assertEqual(min(found), 8)
            self.assertEqual(set(range(bases[0] + 1, newest + 1)) - found, set())
            for version in range(bases[0], newest + 1):
                past = support.connect(path, self.remote, version=version)
                self.assertEqual(rows(past), set(range(1, min(version, 7))))
                past.close()
            self.go_on(path, "SELECT r2_checkpoint()", "log")
        self.kill_all("collection", self.run_sql("SELECT r2_checkpoint()"), check, kinds=("file",),
                      modes=("delete",), before=before)

    def set_back(self, folder):
        for name in os.listdir(folder):
            if not name.startswith("."):
                at = time.time() - 3 * 86400
                os.utime(os.path.join(folder, name), (at, at))

    def test_to_object(self):
        self.kill_all("log to object", self.run_sql("SELECT r2_checkpoint('object')"),
                      self.checked("SELECT r2_checkpoint('object')", "object"))

    def test_to_log(self):
        self.kill_all("object to log", self.run_sql("SELECT r2_checkpoint('log')"),
                      self.checked("SELECT r2_checkpoint('log')", "log"), layout="object")


if __name__ == "__main__":
    support.main()
