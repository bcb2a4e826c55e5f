#!/usr/bin/env python3
"""Five clients on three replicas of one database, under kills, cut connections, lost answers and PUTs that
land late: what they saw is strictly serialisable, and what they were told was kept.

R2VFS_SEED repeats the plan of a run; R2VFS_HISTORY_OPS: transactions of each client;
R2VFS_HISTORY_KEEP: a folder for the records of a run that failed."""

import collections
import json
import os
import random
import shutil
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, ".."))
import checker  # noqa: E402
import client  # noqa: E402
import faults  # noqa: E402
import support  # noqa: E402
from support import one  # noqa: E402

SEED = int(os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
OPS = int(os.environ.get("R2VFS_HISTORY_OPS", "25"))
KEEP = os.environ.get("R2VFS_HISTORY_KEEP")
REPLICAS = ("a", "a", "b", "b", "c")    # of the five clients
TIMEOUT = 1000          # ms after which a request without an answer is an unknown outcome
LOOKER = 900            # the "client" that reads everything at the end


class Histories(support.Case):
    def setUp(self):
        super().setUp()
        print(f"\nseed: R2VFS_SEED={SEED}", flush=True)
        self.dice = random.Random(f"{SEED}:{self._testMethodName}")
        self.errors = open(self.path("stderr"), "w+")
        self.addCleanup(self.errors.close)
        self.right = False
        if KEEP:
            self.addCleanup(self.keep)

    def keep(self):
        """Files, records and objects of a run that failed."""
        if self.right:
            return
        to = os.path.join(KEEP, self._testMethodName)
        shutil.copytree(self.folder, to, dirs_exist_ok=True)
        for key in self.bucket.all_keys(self.prefix):
            with open(os.path.join(to, "object." + key.replace("/", "_")), "wb") as file:
                file.write(self.bucket.get(key, raw=True).body)

    def target(self, name, endpoint=None, **params):
        return support.uri(self.path(f"{name}/app.db"), self.remote, layout=self.layout,
                           endpoint=endpoint, **params)

    def born(self, mode, layout, ops):
        """The database, and a replica of it for each machine, in the journal mode."""
        self.layout, self.ops = layout, ops
        for name in sorted(set(REPLICAS)):
            db = self.connect(f"{name}/app.db", sync="commit", layout=layout)
            self.assertEqual(one(db, f"PRAGMA journal_mode={mode}"), mode)
            if name == "a":
                client.birth(db, ops)
            db.close()
        self.first_version = self.remote_version()

    def player(self, who, share, kinds):
        dice = random.Random(f"{SEED}:{self._testMethodName}:{who}")
        plan = faults.draw(dice, self.ops, share, kinds)

        def command(turn, first):
            target = self.target(REPLICAS[who], player.proxy.endpoint, sync="commit", refresh=0,
                                 timeout=TIMEOUT)
            return (os.path.join(HERE, "client.py"), target, self.record(who), who, turn, first,
                    self.ops, f"{SEED}:{self._testMethodName}")
        player = faults.Player(self, who, command, plan, dice)
        self.addCleanup(player.stop)
        return player

    def record(self, who):
        return self.path(f"record.{who}")

    def look(self, name):
        """Everything that a replica gives, as one more transaction of the history."""
        db = self.connect(f"{name}/app.db", sync="commit", refresh=0)
        now = time.monotonic_ns()
        ops = [["b", bank, None, None] for bank in client.banks(self.ops)]
        lists, registers = set(), set()
        for txn in self.history:
            lists |= {op[1] for op in txn.ops if op[0] in "ar"}
            registers |= {op[1] for op in txn.ops if op[0] in "gw"}
        ops += [["r", key, None] for key in sorted(lists)]
        ops += [["g", key, None] for key in sorted(registers)]
        db.execute("BEGIN")
        for op in ops:
            client.perform(db, op)
        db.execute("COMMIT")
        version = one(db, "SELECT r2_version()")
        db.close()
        self.assertEqual(support.integrity(self.path(f"{name}/app.db")), "ok")
        self.history.append(checker.Txn(f"look at {name}", LOOKER, "ok", now, time.monotonic_ns(), ops))
        return version

    def works_on(self, name):
        """After all faults a replica writes as if nothing had been."""
        db = self.connect(f"{name}/app.db", sync="commit", refresh=0)
        now = time.monotonic_ns()
        ops = [["a", "list0", 10 ** 12 + ord(name)]]
        client.perform(db, ops[0])
        db.close()
        self.history.append(checker.Txn(f"work of {name}", LOOKER, "ok", now, time.monotonic_ns(), ops))

    def play(self, mode, layout="log", share=0.3, ops=OPS, kinds=faults.KINDS + ("pause",)):
        self.born(mode, layout, ops)
        players = [self.player(who, share, kinds) for who in range(len(REPLICAS))]
        for player in players:
            player.others = [other for other in players
                             if REPLICAS[other.who] != REPLICAS[player.who]]
        start = time.monotonic()
        faults.play_all(players)
        seconds = time.monotonic() - start
        lines = []
        for who in range(len(REPLICAS)):
            with open(self.record(who)) as file:
                lines += file.readlines()
        self.history = checker.parse(lines)
        for name in sorted(set(REPLICAS)):
            self.works_on(name)
        versions = {name: self.look(name) for name in ("a", "b", "c", "fresh")}
        self.report(lines, players, seconds)
        self.verify(versions)

    def report(self, lines, players, seconds):
        kinds = collections.Counter(txn.kind for txn in self.history)
        did = collections.Counter(fault for player in players for fault in player.did)
        codes = collections.Counter()
        for line in lines:
            if '"why": [' in line:
                codes[json.loads(line)["why"][0]] += 1
        hits = collections.Counter(r.fault for player in players for r in player.proxy.requests if r.fault)
        print(f"   {len(self.history)} transactions in {seconds:.0f} s: {dict(kinds)}; codes {dict(codes)}",
              f"faults {dict(did)}; requests hit {dict(hits)};"
              f" {sum(player.turn - 1 for player in players)} kills", sep="\n   ", flush=True)

    def verify(self, versions):
        initial = {bank: {account: client.MONEY for account in range(client.ACCOUNTS)}
                   for bank in client.banks(self.ops)}
        verdict = checker.check(self.history, initial)
        if verdict.anomalies:
            self.fail(f"{len(verdict.anomalies)} anomalies:\n" + "\n".join(verdict.anomalies[:12]))
        self.assertEqual(len(set(versions.values())), 1, versions)
        self.assertFalse([key for key in self.bucket.all_keys(self.prefix) if "-forks/" in key])
        self.assertEqual(self.remote_image().version, versions["fresh"])
        # A version for each COMMIT that happened. Of those in doubt: a register may have been written again
        # before anybody looked; and a replica that ends in doubt takes the number with what it has.
        wrote = [txn for txn in verdict.happened if any(op[0] in "awt" for op in txn.ops)]
        doubtful = [txn for txn in self.history if txn.kind == "unknown" and txn not in verdict.happened
                    and any(op[0] in "awt" for op in txn.ops)]
        made = versions["fresh"] - self.first_version
        print(f"   {made} versions for {len(wrote)} transactions that wrote and happened,"
              f" {len(wrote) - sum(txn.kind == 'ok' for txn in wrote)} of them unknown to their clients;"
              f" strictly serialisable", flush=True)
        self.assertGreaterEqual(made, len(wrote))
        self.assertLessEqual(made, len(wrote) + len(doubtful))
        self.right = True

    def test_rollback(self):
        self.play("delete")

    def test_wal(self):
        self.play("wal")

    def test_object_rollback(self):
        self.play("delete", "object", ops=max(10, OPS // 3))

    def test_object_wal(self):
        self.play("wal", "object", ops=max(10, OPS // 3))


if __name__ == "__main__":
    support.main()
