#!/usr/bin/env python3
"""The checker of histories: it finds every planted error, calls nothing wrong that is right, and says the
same as trying every order does."""

import collections
import itertools
import json
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import acks  # noqa: E402
import checker  # noqa: E402
from checker import Txn  # noqa: E402

SEED = int(os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
print(f"seed: R2VFS_SEED={SEED}", flush=True)
START = {"bank": {1: 100, 2: 100}}


def history(*rows):
    """(client, kind, start, end, op, ...)"""
    return [Txn(f"T{n}", client, kind, start, end, ops)
            for n, (client, kind, start, end, *ops) in enumerate(rows)]


class Planted(unittest.TestCase):
    """Small histories, each wrong in one way; and beside it what makes it right."""

    def bad(self, word, *rows, initial=None):
        found = checker.check(history(*rows), initial or START).anomalies
        self.assertTrue(found, "nothing was found")
        self.assertIn(word, " ".join(found))

    def good(self, *rows, initial=None):
        found = checker.check(history(*rows), initial or START)
        self.assertEqual(found.anomalies, [])
        return found

    def test_stale_read(self):
        self.bad("in real time", (1, "ok", 0, 1, ("a", "x", 1)), (2, "ok", 2, 3, ("r", "x", [])),
                 (1, "ok", 4, 5, ("r", "x", [1])))
        self.good((1, "ok", 0, 3, ("a", "x", 1)), (2, "ok", 2, 4, ("r", "x", [])),
                  (1, "ok", 4, 5, ("r", "x", [1])))
        self.bad("in real time", (1, "ok", 0, 1, ("w", "x", 1)), (2, "ok", 2, 3, ("g", "x", None)))
        self.bad("in real time", (1, "ok", 0, 1, ("w", "x", 1)), (1, "ok", 2, 3, ("w", "x", 2)),
                 (2, "ok", 4, 5, ("g", "x", 1)))
        self.good((1, "ok", 0, 1, ("w", "x", 1)), (1, "ok", 2, 5, ("w", "x", 2)),
                  (2, "ok", 4, 6, ("g", "x", 1)))

    def test_going_back(self):
        """New, then old: of a write that nobody has been told of yet."""
        for kind in ("ok", "unknown"):
            self.bad("in real time", (1, kind, 0, 9, ("w", "x", 1)), (2, "ok", 2, 3, ("g", "x", 1)),
                     (3, "ok", 4, 5, ("g", "x", None)))
            self.good((1, kind, 0, 9, ("w", "x", 1)), (2, "ok", 2, 3, ("g", "x", None)),
                      (3, "ok", 4, 5, ("g", "x", 1)))

    def test_lost_update(self):
        self.bad("cycle", (1, "ok", 0, 5, ("g", "x", None), ("w", "x", 1)),
                 (2, "ok", 0, 5, ("g", "x", None), ("w", "x", 2)))
        self.bad("G-single", (0, "ok", 0, 1, ("a", "x", 0)),
                 (1, "ok", 2, 9, ("r", "x", [0]), ("a", "x", 1)),
                 (2, "ok", 2, 9, ("r", "x", [0]), ("a", "x", 2)),
                 (3, "ok", 2, 12, ("r", "x", [0, 1, 2])))
        self.good((0, "ok", 0, 1, ("a", "x", 0)), (1, "ok", 2, 9, ("r", "x", [0]), ("a", "x", 1)),
                  (2, "ok", 2, 9, ("r", "x", [0, 1]), ("a", "x", 2)),
                  (3, "ok", 2, 12, ("r", "x", [0, 1, 2])))

    def test_lost_append(self):
        self.bad("in real time", (1, "ok", 0, 1, ("a", "x", 1)), (2, "ok", 2, 3, ("a", "x", 2)),
                 (3, "ok", 4, 5, ("r", "x", [2])))
        for kind in ("unknown", "fail"):
            self.good((1, kind, 0, 1, ("a", "x", 1)), (2, "ok", 2, 3, ("a", "x", 2)),
                      (3, "ok", 4, 5, ("r", "x", [2])))

    def test_unknown(self):
        """It may happen late, but once, and for everybody."""
        late = ((1, "unknown", 0, 1, ("a", "x", 1)), (2, "ok", 2, 3, ("r", "x", [])),
                (2, "ok", 4, 5, ("r", "x", [1])))
        self.good(*late)
        self.bad("in real time", *late, (3, "ok", 6, 7, ("r", "x", [])))
        self.bad("in real time", (1, "unknown", 4, 5, ("a", "x", 1)), (2, "ok", 2, 3, ("r", "x", [1])))
        both = (1, "unknown", 0, 1, ("a", "x", 1), ("a", "y", 2))
        self.good(both, (2, "ok", 2, 3, ("r", "x", [1]), ("r", "y", [2])))
        self.bad("G-single", both, (2, "ok", 2, 3, ("r", "x", [1]), ("r", "y", [])))

    def test_aborted_read(self):
        self.bad("aborted", (1, "fail", 0, 1, ("a", "x", 1)), (2, "ok", 2, 3, ("r", "x", [1])))
        self.bad("aborted", (1, "fail", 0, 1, ("w", "x", 1)), (2, "ok", 2, 3, ("g", "x", 1)))

    def test_dirty_read(self):
        self.bad("dirty", (1, "ok", 0, 9, ("a", "x", 1), ("a", "x", 2)), (2, "ok", 2, 3, ("r", "x", [1])),
                 (3, "ok", 10, 11, ("r", "x", [1, 2])))
        self.bad("dirty", (1, "ok", 0, 9, ("w", "x", 1), ("w", "x", 2)), (2, "ok", 2, 3, ("g", "x", 1)))
        self.good((1, "ok", 0, 9, ("w", "x", 1), ("w", "x", 2)), (2, "ok", 2, 3, ("g", "x", 2)))

    def test_circular(self):
        self.bad("G1c", (1, "ok", 0, 9, ("a", "x", 1), ("r", "y", [2])),
                 (2, "ok", 0, 9, ("a", "y", 2), ("r", "x", [1])))

    def test_write_skew(self):
        self.bad("write skew", (1, "ok", 0, 9, ("r", "x", []), ("a", "y", 1)),
                 (2, "ok", 0, 9, ("r", "y", []), ("a", "x", 2)),
                 (3, "ok", 10, 11, ("r", "x", [2]), ("r", "y", [1])))
        self.bad("write skew", (1, "ok", 0, 9, ("g", "x", None), ("w", "y", 1)),
                 (2, "ok", 0, 9, ("g", "y", None), ("w", "x", 2)))

    def test_torn_read(self):
        self.bad("G-single", (1, "ok", 0, 9, ("w", "x", 1), ("w", "y", 2)),
                 (2, "ok", 0, 9, ("g", "x", 1), ("g", "y", None)))
        self.bad("cycle", (1, "ok", 0, 9, ("w", "x", 1), ("w", "y", 2)),
                 (2, "ok", 0, 9, ("w", "x", 3), ("w", "y", 4)),
                 (3, "ok", 10, 11, ("g", "x", 1), ("g", "y", 4)))

    def test_long_fork(self):
        self.bad("cycle", (1, "ok", 0, 9, ("w", "x", 1)), (2, "ok", 0, 9, ("w", "y", 2)),
                 (3, "ok", 0, 9, ("g", "x", 1), ("g", "y", None)),
                 (4, "ok", 0, 9, ("g", "x", None), ("g", "y", 2)))

    def test_applied_twice(self):
        self.bad("twice", (1, "unknown", 0, 1, ("a", "x", 1)), (2, "ok", 2, 3, ("r", "x", [1, 1])))

    def test_from_nowhere(self):
        self.bad("nowhere", (2, "ok", 2, 3, ("r", "x", [1])))
        self.bad("nowhere", (2, "ok", 2, 3, ("g", "x", 1)))

    def test_two_orders(self):
        self.bad("two orders", (1, "ok", 0, 9, ("a", "x", 1)), (2, "ok", 0, 9, ("a", "x", 2)),
                 (3, "ok", 0, 9, ("r", "x", [1, 2])), (4, "ok", 0, 9, ("r", "x", [2, 1])))

    def test_not_itself(self):
        self.bad("not itself", (1, "ok", 0, 9, ("a", "x", 1), ("r", "x", [])))
        self.bad("not itself", (1, "ok", 0, 9, ("w", "x", 1), ("g", "x", None)))
        self.bad("not itself", (2, "ok", 0, 9, ("a", "x", 1)),
                 (1, "ok", 0, 9, ("r", "x", []), ("r", "x", [1])))

    def test_blind_writes(self):
        """Nobody says which came first, until somebody looks twice."""
        writes = (1, "ok", 0, 9, ("w", "x", 1)), (2, "ok", 0, 9, ("w", "x", 2))
        self.good(*writes, (3, "ok", 5, 6, ("g", "x", 1)), (3, "ok", 7, 8, ("g", "x", 2)))
        self.bad("cycle", *writes, (3, "ok", 5, 6, ("g", "x", 1)), (3, "ok", 7, 8, ("g", "x", 2)),
                 (3, "ok", 10, 11, ("g", "x", 1)))

    def test_bank(self):
        def move(name, amount, balances):
            return ("t", "bank", name, 1, 2, amount, balances)
        end = (9, "ok", 90, 91, ("b", "bank", ["p", "q"], {1: 70, 2: 130}))
        self.good((1, "ok", 0, 1, move("p", 10, [100, 100])), (2, "ok", 2, 3, move("q", 20, [90, 110])),
                  end)
        self.good((1, "unknown", 0, 1, move("p", 10, None)), (2, "ok", 2, 3, move("q", 20, [90, 110])),
                  end)
        self.bad("lost update", (1, "ok", 0, 1, move("p", 10, [100, 100])),
                 (2, "ok", 2, 3, move("q", 20, [100, 100])), end)
        self.bad("total", (1, "ok", 0, 1, move("p", 10, [100, 100])),
                 (2, "ok", 2, 3, ("b", "bank", ["p"], {1: 90, 2: 100})))
        self.bad("transfers of bank give", (1, "ok", 0, 1, move("p", 10, [100, 100])),
                 (2, "ok", 2, 3, ("b", "bank", ["p"], {1: 80, 2: 120})))
        self.bad("aborted", (1, "fail", 0, 1, move("p", 10, [100, 100])),
                 (2, "ok", 2, 3, ("b", "bank", ["p"], {1: 90, 2: 110})))
        self.bad("transfers of bank give", (1, "unknown", 0, 1, move("p", 10, None)),
                 (2, "ok", 2, 3, ("b", "bank", [], {1: 90, 2: 110})))
        self.bad("cycle", (1, "ok", 0, 1, move("p", 10, [100, 100])),
                 (2, "ok", 2, 3, ("b", "bank", [], {1: 100, 2: 100})),
                 (2, "ok", 4, 5, ("b", "bank", ["p"], {1: 90, 2: 110})))

    def test_recording(self):
        """Lines as clients write them; the last one torn by a kill."""
        def line(**event):
            return json.dumps(event) + "\n"
        lines = [line(e="invoke", n="a", c=1, t=1, ops=[["r", "x", None], ["a", "x", 1]]),
                 line(e="ok", n="a", t=2, ops=[["r", "x", []], ["a", "x", 1]]),
                 line(e="invoke", n="b", c=1, t=3, ops=[["r", "x", None], ["a", "x", 2]]),
                 line(e="invoke", n="c", c=2, t=3, ops=[["a", "x", 3]]),
                 line(e="fail", n="c", t=4), '{"e": "ok", "n": "b", "t"']
        found = {txn.name: (txn.kind, txn.start, txn.ops) for txn in checker.parse(lines)}
        self.assertEqual(found, {"a": ("ok", 1, [("r", "x", []), ("a", "x", 1)]),
                                 "b": ("unknown", 3, [("a", "x", 2)]),
                                 "c": ("fail", 3, [("a", "x", 3)])})


class Acknowledged(unittest.TestCase):
    """acks.py: 1 and 2 write on replica a, 3 on b."""

    FILES = {1: "a", 2: "a", 3: "b"}

    def events(self, rows, *more):
        for row in rows:
            yield {"e": "try", "row": row}
            yield {"e": "row", "row": row, "t": row}
        yield from more

    def wrong(self, clients, remote, forks=None, newest=9):
        clients = {who: list(events) for who, events in clients.items()}
        return " ".join(acks.check(clients, self.FILES, remote, forks or {}, newest).wrong)

    def sync(self, began, ended, version=9):
        return {"e": "sync", "from": began, "t": ended, "version": version}

    def told(self, began, ended, *forks):
        return {"e": "told", "from": began, "t": ended, "forks": list(forks)}

    def test_kept(self):
        self.assertEqual(self.wrong({1: self.events([1, 2], self.sync(5, 6))}, [1, 2]), "")

    def test_lost(self):
        self.assertIn("nowhere", self.wrong({1: self.events([1, 2])}, [1]))
        self.assertIn("LOST: row 2", self.wrong({1: self.events([1, 2], self.sync(5, 6))}, [1]))

    def test_forked(self):
        """In a fork that was reported before sync() returned; reported later is too late."""
        for client, file in ((1, "his"), (2, "his neighbour's")):
            tells = self.told(3, 4, "f")
            clients = {1: self.events([1], self.sync(5, 6)), 2: []}
            clients[client] = [*clients[client], tells]
            with self.subTest(of=file):
                self.assertEqual(self.wrong(clients, [], {"f": [1]}), "")
        self.assertIn("LOST", self.wrong(
            {1: self.events([1], self.sync(5, 6), self.told(7, 8, "f"))}, [], {"f": [1]}))
        self.assertIn("LOST", self.wrong(
            {1: self.events([1], self.sync(5, 6)), 3: [self.told(3, 4, "f")]}, [], {"f": [1]}))

    def test_not_reported(self):
        self.assertIn("nobody was told", self.wrong({1: self.events([1])}, [], {"f": [1]}))
        # its teller was killed, and the same rows went into the next one
        self.assertEqual(self.wrong({1: self.events([1], self.told(3, 4, "g"))}, [],
                                    {"f": [1], "g": [1]}), "")
        self.assertIn("does not exist", self.wrong({1: self.events([], self.told(3, 4, "g"))}, []))

    def test_from_nowhere(self):
        self.assertIn("nobody wrote", self.wrong({1: self.events([1])}, [1, 2]))
        self.assertIn("the newest", self.wrong({1: self.events([1], self.sync(5, 6, 10))}, [1]))


# ---------------------------------------------------------------- random histories

class Machine:
    """A database of the simulation, right unless told otherwise: transactions take effect one after the
    other at a moment within them."""

    def __init__(self, rng, keys=2, clients=4):
        self.rng, self.clients, self.count = rng, clients, 0
        self.lists = collections.defaultdict(list)
        self.registers, self.money = {}, {"bank": {"1": 100, "2": 100, "3": 100}}
        self.names = [f"x{n}" for n in range(keys)] + [f"y{n}" for n in range(keys)] + ["bank"]
        self.now = {client: rng.random() for client in range(clients)}

    def intended(self, size):
        ops = []
        for key in self.rng.choices(self.names, k=self.rng.randint(1, size)):
            self.count += 1
            if key == "bank":
                if any(op[1] == "bank" for op in ops):
                    continue
                source, target = self.rng.sample(sorted(self.money[key]), 2)
                ops.append(self.rng.choice([("b", key), ("t", key, f"t{self.count}", source, target, 1)]))
            elif key[0] == "x":
                ops.append(self.rng.choice([("r", key), ("a", key, self.count)]))
            else:
                ops.append(self.rng.choice([("g", key), ("w", key, self.count)]))
        return ops

    def run(self, ops):
        """Execute; the ops with what they read."""
        done = []
        for op in ops:
            key = op[1]
            if op[0] == "r":
                op += (list(self.lists[key]),)
            elif op[0] == "g":
                op += (self.registers.get(key),)
            elif op[0] == "b":
                op += (list(self.lists[key]), dict(self.money[key]))
            elif op[0] == "a":
                self.lists[key].append(op[2])
            elif op[0] == "w":
                self.registers[key] = op[2]
            else:
                source, target, amount = op[3:]
                op += ((self.money[key][source], self.money[key][target]),)
                self.money[key][source] -= amount
                self.money[key][target] += amount
                self.lists[key].append(op[2])
            done.append(op)
        return done

    def history(self, size, ops=4, doubt=0.15):
        """At moments of their own, transactions of clients that each do one thing at a time."""
        rows, plans = [], []
        for _ in range(size):
            client = min(self.now, key=lambda c: (self.now[c], c))
            start = self.now[client]
            moment = start + self.rng.random()
            end = moment + self.rng.random()
            kind = "ok" if self.rng.random() > doubt else self.rng.choice(("fail", "unknown"))
            happens = kind != "fail"
            if kind == "unknown":
                happens = self.rng.random() < 0.5
                moment += self.rng.choice((0, 3))           # also after its answer
            self.now[client] = end + self.rng.random() / 2
            plans.append((moment, client, kind, start, end, happens, self.intended(ops)))
        for moment, client, kind, start, end, happens, plan in sorted(plans, key=lambda p: p[0]):
            done = self.run(plan) if happens else plan
            if kind != "ok":
                done = [op if len(op) < 6 else op[:6] + (None,) for op in done if op[0] in "awt"]
            rows.append((client, kind, start, end, *done))
        last = max(max(self.now.values()), max(plan[0] for plan in plans)) + 9
        rows.append((99, "ok", last, last + 1, *self.run(
            [("b" if name == "bank" else "r" if name[0] == "x" else "g", name) for name in self.names])))
        return history(*rows)


def brute(txns, initial):
    """Is there an order, and a choice of the unknown ones, that explains all reads? Every one is tried."""
    sure = [txn for txn in txns if txn.kind == "ok"]
    doubtful = [txn for txn in txns if txn.kind == "unknown"]
    for count in range(len(doubtful) + 1):
        for some in itertools.combinations(doubtful, count):
            if extend([], sure + list(some), initial):
                return True
    return False


def extend(order, left, initial):
    if not left:
        return not checker.replay(order, initial)
    for txn in left:
        rest = [other for other in left if other is not txn]
        if any(other.end < txn.start for other in rest):
            continue
        if not checker.replay(order + [txn], initial) and extend(order + [txn], rest, initial):
            return True
    return False


class Random(unittest.TestCase):
    def test_good(self):
        for n in range(150):
            rng = random.Random(f"{SEED}:good:{n}")
            machine = Machine(rng, rng.randint(1, 4), rng.randint(2, 8))
            initial = {"bank": dict(machine.money["bank"])}
            found = checker.check(machine.history(rng.randint(1, 120)), initial)
            self.assertEqual(found.anomalies, [], f"history {n}")

    def test_long(self):
        rng = random.Random(f"{SEED}:long")
        machine = Machine(rng, 3, 5)
        initial = {"bank": dict(machine.money["bank"])}
        self.assertEqual(checker.check(machine.history(1500, 2), initial).anomalies, [])

    def test_against_every_order(self):
        """Small ones, most of them spoilt in one place."""
        said = collections.Counter()
        for n in range(2500):
            rng = random.Random(f"{SEED}:small:{n}")
            machine = Machine(rng, 1, 3)
            initial = {"bank": dict(machine.money["bank"])}
            txns = machine.history(rng.randint(2, 5), 3, 0.3)
            for _ in range(rng.randrange(4)):
                spoil(rng, txns)
            truth = brute(txns, initial)
            found = checker.check(txns, initial).anomalies
            said[truth] += 1
            self.assertEqual(not found, truth, f"history {n}: {found}\n" + "\n".join(
                f"{txn.client} {txn.start:.2f} {txn.end:.2f} {txn}" for txn in txns))
        self.assertGreater(min(said[True], said[False]), 200, said)

    def test_planted_in_large_ones(self):
        """Each kind of damage that a database could do, within 80 right transactions."""
        for name in sorted(DAMAGES):
            found = planted = 0
            for n in range(40):
                rng = random.Random(f"{SEED}:{name}:{n}")
                machine = Machine(rng, 2, 5)
                initial = {"bank": dict(machine.money["bank"])}
                txns = machine.history(80, 3)
                if DAMAGES[name](rng, txns):
                    planted += 1
                    found += bool(checker.check(txns, initial).anomalies)
            with self.subTest(damage=name):
                self.assertGreater(planted, 20)
                self.assertEqual(found, planted)


def spoil(rng, txns):
    """Change one thing; it may stay right."""
    txn = rng.choice(txns)
    what = rng.randrange(4)
    if what == 0 and txn.ops:           # another result
        n = rng.randrange(len(txn.ops))
        op = list(txn.ops[n])
        if op[0] == "r" and op[2]:
            op[2] = rng.choice([op[2][:-1], op[2][1:], op[2][::-1]])
        elif op[0] == "g":
            op[2] = rng.choice([None] + [o[2] for t in txns for o in t.ops if o[0] == "w"])
        elif op[0] == "b" and op[2]:
            op[2] = op[2][:-1]
        txn.ops[n] = tuple(op)
    elif what == 1 and txn is not txns[-1]:     # another end; the bank's last read is needed
        txn.kind = rng.choice(("ok", "unknown", "fail"))
        if txn.kind != "ok":
            txn.end = checker.NEVER
        elif txn.end == checker.NEVER:
            txn.end = txn.start + 1
    else:                               # another time
        move = rng.uniform(-4, 4)
        others = [other for other in txns if other is not txn and other.client == txn.client]
        if all(other.end < txn.start + move or txn.end + move < other.start for other in others):
            txn.start += move
            txn.end += move


def reads_of(txns, kinds):
    """(transaction, place, op) of reads that found something."""
    return [(txn, n, op) for txn in txns[:-1] if txn.kind == "ok" for n, op in enumerate(txn.ops)
            if op[0] in kinds and op[2]]


def own(txn, key):
    return [op for op in txn.ops if op[0] in "awt" and op[1] == key]


def lost_append(_rng, txns):
    """From one moment on, an acknowledged append is not there."""
    ok = [op for txn in txns if txn.kind == "ok" for op in txn.ops if op[0] == "a"]
    for _, key, value in ok[-1:]:
        for txn in txns:
            txn.ops = [("r", key, [v for v in op[2] if v != value]) if op[:2] == ("r", key) else op
                       for op in txn.ops]
        return not any(len(own(txn, key)) and any(op[:2] == ("r", key) for op in txn.ops)
                       for txn in txns if ("a", key, value) in txn.ops)
    return False


def stale_read(rng, txns):
    """A reader gets what stood there before an append that had ended when it began."""
    for txn, n, op in rng.sample(reads_of(txns, "r"), len(reads_of(txns, "r"))):
        value = op[2][-1]
        if any(other.end < txn.start and ("a", op[1], value) in other.ops for other in txns
               if other.kind == "ok") and not own(txn, op[1]):
            for i, same in enumerate(txn.ops):
                if same[:2] == op[:2]:
                    txn.ops[i] = ("r", op[1], op[2][:-1])
            return True
    return False


def applied_twice(rng, txns):
    last = txns[-1]
    for n, op in enumerate(last.ops):
        if op[0] == "r" and op[2]:
            last.ops[n] = ("r", op[1], op[2] + [rng.choice(op[2])])
            return True
    return False


def aborted_read(_rng, txns):
    """What was seen is called failed."""
    seen = {(op[1], value) for txn in txns if txn.kind == "ok" for op in txn.ops if op[0] == "r"
            for value in op[2]}
    for txn in txns:
        if txn.kind == "ok" and any((op[1], op[2]) in seen for op in txn.ops if op[0] == "a"):
            txn.kind = "fail"
            return True
    return False


def wrong_money(rng, txns):
    for txn, n, op in reads_of(txns, "b"):
        account = rng.choice(sorted(op[3]))
        txn.ops[n] = op[:3] + ({**op[3], account: op[3][account] + 1},)
        return True
    return False


def lost_transfer(_rng, txns):
    """A transfer that began with what an earlier one had read, too."""
    by_name = [(txn, n, op) for txn in txns for n, op in enumerate(txn.ops)
               if op[0] == "t" and txn.kind == "ok"]
    order = next(op[2] for op in txns[-1].ops if op[0] == "b")
    place = {name: i for i, name in enumerate(order)}
    by_name.sort(key=lambda found: place[found[2][2]])
    for (_, _, a), (txn, n, b) in zip(by_name, by_name[1:]):
        if place[b[2]] == place[a[2]] + 1 and (a[3], a[4]) == (b[3], b[4]):
            txn.ops[n] = b[:6] + (a[6],)
            return True
    return False


def old_register(rng, txns):
    """A register goes back to what a later write had replaced, acknowledged in time."""
    last = txns[-1]
    for n, op in enumerate(last.ops):
        if op[0] == "g" and op[2] is not None:
            last.ops[n] = ("g", op[1], None)
            return any(txn.kind == "ok" and ("w", op[1]) in [o[:2] for o in txn.ops] for txn in txns)
    return False


DAMAGES = {"lost append": lost_append, "stale read": stale_read, "applied twice": applied_twice,
           "aborted read": aborted_read, "wrong money": wrong_money, "lost transfer": lost_transfer,
           "old register": old_register}


if __name__ == "__main__":
    unittest.main(verbosity=2)
