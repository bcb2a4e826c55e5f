#!/usr/bin/env python3
"""Five writers on three replicas of one database in the modes where COMMIT is local, under kills, cut
connections, lost answers and PUTs that land late: what sync() acknowledged stays in the remote, what
was committed is there or in a fork, and of every fork somebody was told.

R2VFS_SEED repeats the plan of a run; R2VFS_HISTORY_OPS: steps of each writer."""

import collections
import os
import random
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, ".."))
import acks  # noqa: E402
import faults  # noqa: E402
import support  # noqa: E402
from support import one  # noqa: E402

SEED = int(os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
OPS = int(os.environ.get("R2VFS_HISTORY_OPS", "8"))
REPLICAS = ("a", "a", "b", "b", "c")    # of the five writers
LAST = 10                               # number of the last writer on each replica: LAST + its place
TIMEOUT = 1000


def rows_of(data):
    """The rows in a database's bytes, as a stock SQLite sees them."""
    with support.plain_bytes(data) as db:
        return [row for row, in db.execute("SELECT id FROM row")]


class Acks(support.Case):
    def setUp(self):
        super().setUp()
        print(f"\nseed: R2VFS_SEED={SEED}", flush=True)
        self.errors = subprocess.DEVNULL        # writers keep their own stderr

    def born(self, mode, layout):
        for name in sorted(set(REPLICAS)):
            db = self.connect(f"{name}/app.db", layout=layout)
            self.assertEqual(one(db, f"PRAGMA journal_mode={mode}"), mode)
            if name == "a":
                db.execute("CREATE TABLE row(id INTEGER PRIMARY KEY, pad)")
            db.close()

    def command(self, who, replica, *more, **params):
        target = support.uri(self.path(f"{replica}/app.db"), self.remote, layout=self.layout, **params)
        return (os.path.join(HERE, "writer.py"), target, self.path(f"record.{who}"), who, *more)

    def player(self, who, sync, conflict, ops):
        dice = random.Random(f"{SEED}:{self._testMethodName}:{who}")

        def command(turn, first):
            return self.command(who, REPLICAS[who], turn, first, ops, f"{SEED}:{self._testMethodName}",
                                endpoint=player.proxy.endpoint, sync=sync, conflict=conflict,
                                timeout=TIMEOUT)
        player = faults.Player(self, who, command, faults.draw(dice, ops, 0.3), dice)
        self.addCleanup(player.stop)
        return player

    def play(self, mode, sync, layout="log", conflict="fork", ops=OPS):
        self.layout = layout
        self.born(mode, layout)
        players = [self.player(who, sync, conflict, ops) for who in range(len(REPLICAS))]
        for player in players:
            player.others = [other for other in players
                             if REPLICAS[other.who] != REPLICAS[player.who]]
        faults.play_all(players)
        replica_of = dict(enumerate(REPLICAS))
        for place, name in enumerate(sorted(set(REPLICAS))):    # what is still local goes out
            replica_of[LAST + place] = name
            done = subprocess.run(
                [support.PYTHON, *map(str, self.command(LAST + place, name, sync="manual"))],
                env=support.child_env(), stdin=subprocess.DEVNULL, timeout=support.DEADLINE)
            self.assertEqual(done.returncode, 0)
            self.assertEqual(support.integrity(self.path(f"{name}/app.db")), "ok")
        self.verify(players, replica_of)

    def verify(self, players, replica_of):
        clients = {}
        for who in replica_of:
            with open(self.path(f"record.{who}")) as file:
                clients[who] = acks.parse(file.readlines())
        head = self.remote_image()
        forks = {key: rows_of(self.bucket.get(key, raw=True).body)
                 for key in self.bucket.all_keys(self.key + "-forks/")}
        fresh = self.connect("fresh/app.db", sync="manual")
        remote = [row for row, in fresh.execute("SELECT id FROM row")]
        self.assertEqual((one(fresh, "SELECT r2_version()"), sorted(rows_of(head.data))),
                         (head.version, sorted(remote)))
        found = acks.check(clients, replica_of, remote, forks, head.version)
        did = collections.Counter(fault for player in players for fault in player.did)
        errors = collections.Counter(event["why"][0] for events in clients.values() for event in events
                                     if event["e"] == "error")
        print(f"   {dict(found.counts)}; version {head.version}; errors {dict(errors)}",
              f"faults {dict(did)}; {sum(player.turn - 1 for player in players)} kills", sep="\n   ",
              flush=True)
        if found.wrong:
            self.fail(f"{len(found.wrong)} times:\n" + "\n".join(found.wrong[:12]))
        self.assertGreater(found.counts["syncs"], 0)
        self.assertGreater(found.counts["conflicts"], 0)

    def test_manual_wal(self):
        self.play("wal", "manual")

    def test_manual_rollback(self):
        self.play("delete", "manual", conflict="error")

    def test_close_wal(self):
        self.play("wal", "close", conflict="error")

    def test_close_rollback(self):
        self.play("delete", "close")

    def test_timer_wal(self):
        self.play("wal", "50")

    def test_object(self):
        self.play("wal", "close", "object", ops=max(10, OPS // 2))


if __name__ == "__main__":
    support.main()
