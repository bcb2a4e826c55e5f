"""checker.py - is a recorded history strictly serialisable? Pure: it knows nothing of databases.

A history is a list of transactions (Txn), each with the moments of its invocation and its completion
on one clock, and what it did, value by value:

    ("a", key, value)       appended a value to the list `key`; no two appends have the same value
    ("r", key, [values])    read the list
    ("w", key, value)       wrote the register `key`; no two writes have the same value
    ("g", key, value)       read the register; None: never written
    ("t", bank, name, source, target, amount, (balance, balance))
                            moved money between two accounts after reading both, and appended its
                            name to the bank's list of transfers
    ("b", bank, [names], {account: balance})
                            read the whole bank; the last read has to come after all transfers

and how it ended: "ok"; "fail": it did not happen; "unknown": it did, or did not, or does later.

What happened is found from what was read. Lists tell their own order (as in Elle); for registers it is
inferred as far as it can be, and tried where it cannot. The transactions then stand in a graph: ww (who
wrote next), wr (who read it), rw (who overwrote what was read), rt (ended before the other began). A
cycle: there is no order in which they can have run one after the other. Without a cycle such an order
is made and executed, and every read compared: `good` is never believed without that.

check(history) returns a Verdict: `anomalies` (sentences; empty: strictly serialisable) and `order`."""

import collections
import heapq
import json

NEVER = float("inf")
TRIES = 2000        # orders of register writes tried before giving up (which is a failure)


class Txn:
    def __init__(self, name, client, kind, start, end, ops):
        self.name, self.client, self.kind = name, client, kind
        self.start, self.end = start, end if kind == "ok" else NEVER
        self.ops = [tuple(op) for op in ops]

    def __repr__(self):
        text = " ".join(map(shown, self.ops[:8])) + (" ..." if len(self.ops) > 8 else "")
        return f"{self.name}[{self.kind} {text}]"


def shown(op):
    text = f"{op[0]}({', '.join(str(part) for part in op[1:])})"
    return text if len(text) < 90 else text[:50] + " ... " + text[-36:]


Verdict = collections.namedtuple("Verdict", "anomalies order happened")


class Bad(Exception):
    """An anomaly; says which."""


def parse(lines):
    """Recorded lines -> transactions. A line is JSON: {"e": "invoke"|"ok"|"fail"|"unknown", "n": name,
    "c": client, "t": ns, "ops": [...]}. No completion: unknown. A torn last line (a killed client's)
    is not there."""
    begun, done = {}, {}
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            if line.endswith("\n"):
                raise
            continue
        (begun if event["e"] == "invoke" else done)[event["n"]] = event
    found = []
    for name, event in begun.items():
        end = done.pop(name, {"e": "unknown", "t": None, "ops": None})
        ops = end["ops"] if end.get("ops") is not None else [
            op for op in event["ops"] if op[0] not in "rgb"]     # what it read is not known
        found.append(Txn(name, event["c"], end["e"], event["t"], end["t"], ops))
    if done:
        raise ValueError(f"completions without an invocation: {sorted(done)[:5]}")
    return sorted(found, key=lambda txn: txn.start)


# ---------------------------------------------------------------- one transaction, seen from outside

class Seen:
    """What a transaction read from others and leaves to others."""

    def __init__(self, txn):
        self.reads, self.appends, self.gets, self.writes = {}, {}, {}, {}
        self.passing = []               # register values that it overwrote itself
        for op in txn.ops:
            getattr(self, "op_" + op[0])(txn, *op[1:])

    def op_a(self, _txn, key, value):
        self.appends.setdefault(key, []).append(value)

    def op_r(self, txn, key, values):
        own = self.appends.get(key, [])
        values = tuple(values)
        before = values[:len(values) - len(own)]
        if list(values[len(before):]) != own or self.reads.setdefault(key, before) != before:
            raise Bad(f"not itself: within one transaction the reads of {key} do not fit: {txn}")

    def op_w(self, _txn, key, value):
        if key in self.writes:
            self.passing.append((key, self.writes[key]))
        self.writes[key] = value

    def op_g(self, txn, key, value):
        expected = self.writes.get(key, value)
        if expected == value and key not in self.writes:
            expected = self.gets.setdefault(key, value)
        if expected != value:
            raise Bad(f"not itself: within one transaction the reads of {key} do not fit: {txn}")

    def op_t(self, txn, bank, name, *_):
        self.op_a(txn, bank, name)

    def op_b(self, txn, bank, names, _balances):
        self.op_r(txn, bank, names)


# ---------------------------------------------------------------- the graph

class Graph:
    def __init__(self, count):
        self.next = [{} for _ in range(count)]      # node -> {node: why}

    def add(self, a, b, why):
        """Earlier reasons stay: rt is added last."""
        if a != b and b not in self.next[a]:
            self.next[a][b] = why
            return True
        return False

    def sorted(self, rank):
        """A topological order, lowest rank first; shorter than the graph if there is a cycle."""
        waiting = [0] * len(self.next)
        for targets in self.next:
            for b in targets:
                waiting[b] += 1
        ready = [(rank(n), n) for n, w in enumerate(waiting) if w == 0]
        heapq.heapify(ready)
        order = []
        while ready:
            n = heapq.heappop(ready)[1]
            order.append(n)
            for b in self.next[n]:
                waiting[b] -= 1
                if waiting[b] == 0:
                    heapq.heappush(ready, (rank(b), b))
        return order

    def reach(self, order):
        """For every node the set of those after it, as bits."""
        found = [0] * len(self.next)
        for n in reversed(order):
            bits = 0
            for b in self.next[n]:
                bits |= found[b] | 1 << b
            found[n] = bits
        return found

    def cycle(self, order):
        """A shortest cycle among the nodes that have no place in the order."""
        left = set(range(len(self.next))) - set(order)
        best = None
        for start in sorted(left)[:200]:
            back, queue = {start: None}, collections.deque([start])
            while queue and not (best and len(back) > 200000):
                n = queue.popleft()
                if start in self.next[n]:
                    path = [start]
                    while n != start:
                        path.insert(1, n)
                        n = back[n]
                    if best is None or len(path) < len(best):
                        best = path
                    break
                for b in self.next[n]:
                    if b in left and b not in back:
                        back[b] = n
                        queue.append(b)
        return best


def name_of(whys):
    """Adya's names for the cycle."""
    rw = whys.count("rw")
    if rw == 0:
        name = "G1c (circular information)" if "wr" in whys else "G0 (write cycle)"
    else:
        name = "G-single (lost update, stale or torn read)" if rw == 1 else "G2 (write skew)"
    return name + (" in real time" if "rt" in whys else "")


# ---------------------------------------------------------------- the check

class Check:
    def __init__(self, history, initial):
        self.initial = initial          # a bank's balances at birth
        self.history = history
        self.anomalies = []
        self.order = []

    def run(self):
        self.look()
        if self.anomalies:
            return
        self.lists()
        self.banks()
        if self.anomalies:
            return
        self.build()
        self.registers()

    # Who wrote what, and who happened.
    def look(self):
        self.seen = {}
        for txn in self.history:
            try:
                self.seen[txn] = Seen(txn)
            except Bad as error:
                if txn.kind == "ok":
                    self.anomalies.append(str(error))
                self.seen[txn] = Seen(Txn(txn.name, txn.client, txn.kind, 0, 0,
                                          [op for op in txn.ops if op[0] in "awt"]))
        self.writer = {}                # (key, value) -> the transaction
        for txn, seen in self.seen.items():
            pairs = [(key, value) for key, values in seen.appends.items() for value in values]
            for pair in pairs + list(seen.writes.items()) + seen.passing:
                if pair in self.writer:
                    raise ValueError(f"the history writes {pair} twice")
                self.writer[pair] = txn
        happened = [txn for txn in self.history if txn.kind == "ok"]
        known = set(happened)
        for txn in happened:            # grows: an unknown one that was seen has read as well
            seen = self.seen[txn]
            pairs = [(key, value) for key, values in seen.reads.items() for value in values]
            for pair in pairs + [p for p in seen.gets.items() if p[1] is not None]:
                self.look_at(pair, txn, known, happened)
        self.txns = sorted(happened, key=lambda txn: txn.start)
        self.number = {txn: n for n, txn in enumerate(self.txns)}

    def look_at(self, pair, reader, known, happened):
        writer = self.writer.get(pair)
        if writer is None:
            self.anomalies.append(f"from nowhere: {pair} was never written; {reader} read it")
        elif writer.kind == "fail":
            self.anomalies.append(f"G1a (aborted read): {reader} read {pair} of {writer}")
        elif pair in self.seen[writer].passing and writer is not reader:
            self.anomalies.append(f"G1b (dirty read): {reader} read {pair}, which {writer} "
                                  "overwrote itself")
        elif writer not in known:
            known.add(writer)
            happened.append(writer)

    # Lists: the longest read is the order, all others are its beginnings.
    def lists(self):
        self.readers = collections.defaultdict(list)        # key -> [(values, txn)]
        for txn in self.txns:
            for key, values in self.seen[txn].reads.items():
                self.readers[key].append((values, txn))
        self.version_order = {}
        keys = set(self.readers) | {key for txn in self.txns for key in self.seen[txn].appends}
        for key in sorted(keys, key=str):
            reads = self.readers[key]
            longest, by = max(reads, key=lambda read: len(read[0]), default=((), None))
            self.version_order[key] = longest
            if len(set(longest)) != len(longest):
                twice = [v for v, n in collections.Counter(longest).items() if n > 1]
                self.anomalies.append(f"applied twice: {key} holds {twice[:5]} twice in {by}")
                continue
            for values, txn in reads:
                if values != longest[:len(values)]:
                    self.anomalies.append(f"two orders of {key}: {txn} and {by}")
                elif values:
                    self.torn(key, values, txn)

    def torn(self, key, values, reader):
        """A read that ends in the middle of what one transaction appended."""
        writer = self.writer[key, values[-1]]
        own = self.seen[writer].appends[key]
        if own[-1] != values[-1] and writer is not reader:
            self.anomalies.append(f"G1b (dirty read): {reader} read {key} up to {values[-1]}, in the "
                                  f"middle of {writer}")

    # The bank: what a balance must be follows from the transfers before it.
    def banks(self):
        transfers = {op[2]: (op, txn) for txn in self.txns for op in txn.ops if op[0] == "t"}
        for bank in {op[1] for op, _ in transfers.values()} | {
                op[1] for txn in self.txns for op in txn.ops if op[0] == "b"}:
            order = self.version_order.get(bank, ())
            states, now = [], dict(self.initial[bank])
            for name in order:
                states.append(dict(now))
                (_, _, _, source, target, amount, balances), txn = transfers[name]
                if balances is not None and tuple(balances) != (now[source], now[target]):
                    self.anomalies.append(
                        f"lost update: transfer {name} began with {tuple(balances)} where "
                        f"{now[source], now[target]} stood: {txn}")
                now[source] -= amount
                now[target] += amount
            states.append(dict(now))
            for txn in self.txns:
                for op in txn.ops:
                    if op[0] == "b" and op[1] == bank:
                        self.balances(op, states[min(len(op[2]), len(order))], txn)

    def balances(self, op, expected, txn):
        found = {str(account): balance for account, balance in op[3].items()}
        wanted = {str(account): balance for account, balance in expected.items()}
        if sum(found.values()) != sum(wanted.values()):
            self.anomalies.append(f"the total of {op[1]} is {sum(found.values())}, not "
                                  f"{sum(wanted.values())}: {txn}")
        elif found != wanted and len(op[2]) <= len(self.version_order.get(op[1], ())):
            self.anomalies.append(f"the transfers of {op[1]} give {wanted}, not what {txn} read")

    # The graph of what is certain.
    def build(self):
        self.graph = Graph(len(self.txns))
        number = self.number
        appended = collections.defaultdict(set)
        for n, txn in enumerate(self.txns):
            for key in self.seen[txn].appends:
                appended[key].add(n)
        for key, order in self.version_order.items():
            writers = [number[self.writer[key, value]] for value in order]
            unseen = sorted(appended[key] - set(writers))
            for a, b in zip(writers, writers[1:]):
                self.graph.add(a, b, "ww")
            for b in unseen if writers else []:
                self.graph.add(writers[-1], b, "ww")
            for values, txn in self.readers[key]:
                n = number[txn]
                if values:
                    self.graph.add(writers[len(values) - 1], n, "wr")
                for b in writers[len(values):len(values) + 1] or unseen:
                    self.graph.add(n, b, "rw")
        self.clusters = {}              # register -> {value: (writer, [readers])}
        for n, txn in enumerate(self.txns):
            for key, value in self.seen[txn].writes.items():
                self.clusters.setdefault(key, {}).setdefault(value, [None, []])[0] = n
            for key, value in self.seen[txn].gets.items():
                self.clusters.setdefault(key, {}).setdefault(value, [None, []])[1].append(n)
        for values in self.clusters.values():
            for value, (writer, readers) in values.items():
                for n in readers:
                    if writer is not None:
                        self.graph.add(writer, n, "wr")
                    else:
                        for other, _ in values.values():
                            if other is not None:
                                self.graph.add(n, other, "rw")
        self.real_time()

    def real_time(self):
        """From each client's last transaction that ended before this one began; the ones before it
        follow. One of unknown outcome ends never."""
        by_client = collections.defaultdict(list)
        for n, txn in enumerate(self.txns):
            if txn.kind == "ok":
                by_client[txn.client].append((txn.end, n))
        ends = sorted((end, client, n) for client, list_ in by_client.items() for end, n in list_)
        last, at = {}, 0
        for b, txn in enumerate(self.txns):         # in the order of their beginnings
            while at < len(ends) and ends[at][0] < txn.start:
                last[ends[at][1]] = ends[at][2]
                at += 1
            for a in last.values():
                self.graph.add(a, b, "rt")

    # Registers: which write came first, as far as it follows; then tried.
    def registers(self):
        self.tries = 0
        order = self.settle()
        if order is None:
            path = self.graph.cycle(self.graph.sorted(self.rank))
            whys = [self.graph.next[a][b] for a, b in zip(path, path[1:] + path[:1])]
            steps = [f"{self.txns[n]}\n    --{why}-->" for n, why in zip(path, whys)]
            self.anomalies.append("cycle, " + name_of(whys) + ":\n    " + " ".join(steps) +
                                  " the first")
            return
        found = self.decide(order)
        if found is None:
            why = ("no order of the register writes explains the reads" if self.tries <= TRIES else
                   f"undecided: {TRIES} orders of the register writes were tried")
            self.anomalies.append(why)
            return
        self.order = [self.txns[n] for n in found]
        self.anomalies += replay(self.order, self.initial)

    def rank(self, n):
        return (min(self.txns[n].end, self.txns[n].start + 1e18), n)

    def settle(self):
        """Add what follows until nothing more does; a topological order, or None: a cycle."""
        while True:
            order = self.graph.sorted(self.rank)
            if len(order) < len(self.txns):
                return None
            reach = self.graph.reach(order)
            if not any([self.follows(values, reach) for values in self.clusters.values()]):
                return order

    def follows(self, values, reach):
        """If anybody who knew value a precedes anybody who knew b, then a was there before b."""
        sums = {}
        for value, (writer, readers) in values.items():
            members = set(readers) | ({writer} - {None})
            after = 0
            for n in members:
                after |= reach[n]
            sums[value] = after, sum(1 << n for n in members)
        added = False
        for a, (_, readers) in values.items():
            for b, (writer, _) in values.items():
                if a != b and (sums[a][0] & sums[b][1] or writer in readers):
                    added |= self.put(values, a, b)
        return added

    def put(self, values, a, b):
        """a was there before b."""
        first, second = values[a], values[b]
        if second[0] is None:
            return False                # the register as it was born: the graph has that already
        added = first[0] is not None and self.graph.add(first[0], second[0], "ww")
        for n in first[1]:
            added |= self.graph.add(n, second[0], "rw")
        return added

    def undecided(self, order):
        """Pairs of values whose order is open, in an order's order."""
        place = {n: i for i, n in enumerate(order)}
        reach = self.graph.reach(order)
        for values in self.clusters.values():
            written = sorted((v for v in values if values[v][0] is not None),
                             key=lambda v: place[values[v][0]])
            for i, a in enumerate(written):
                for b in written[i + 1:]:
                    if not reach[values[a][0]] >> values[b][0] & 1:
                        yield values, a, b

    def decide(self, order):
        """Choose for every open pair; an order of all, or None: there is none."""
        self.tries += 1
        if self.tries > TRIES:
            return None
        pairs = list(self.undecided(order))
        if not pairs:
            return order
        kept = [dict(targets) for targets in self.graph.next]
        for values, a, b in pairs:      # most often any will do
            self.put(values, a, b)
        found = self.settle()
        if found is not None and not any(self.undecided(found)):
            return found
        for values, a, b in (pairs[0], (pairs[0][0], pairs[0][2], pairs[0][1])):
            self.graph.next = [dict(targets) for targets in kept]
            self.put(values, a, b)
            found = self.settle()
            found = None if found is None else self.decide(found)
            if found is not None:
                return found
        self.graph.next = kept
        return None


# ---------------------------------------------------------------- the proof

def replay(order, initial):
    """Run them one after the other, as a database of one user would: every read must be what was read,
    and who ended first must not come after who had not begun."""
    lists, registers = collections.defaultdict(list), {}
    money = {bank: {str(a): m for a, m in accounts.items()} for bank, accounts in initial.items()}
    wrong, latest = [], -NEVER
    for txn in order:
        if txn.end < latest:
            wrong.append(f"no proof: {txn} stands after one that began when it had ended")
        latest = max(latest, txn.start)
        for op in txn.ops:
            kind, key = op[0], op[1]
            same = True
            if kind == "a":
                lists[key].append(op[2])
            elif kind == "r":
                same = lists[key] == list(op[2])
            elif kind == "w":
                registers[key] = op[2]
            elif kind == "g":
                same = registers.get(key) == op[2]
            elif kind == "t":
                _, _, name, source, target, amount, balances = op
                now = money[key]
                same = balances is None or tuple(balances) == (now[str(source)], now[str(target)])
                now[str(source)] -= amount
                now[str(target)] += amount
                lists[key].append(name)
            elif kind == "b":
                same = lists[key] == list(op[2]) and money[key] == {
                    str(account): balance for account, balance in op[3].items()}
            if not same:
                wrong.append(f"no proof: in the order that was found {txn} reads something else at "
                             f"{shown(op)}")
    return wrong[:5]


def check(history, initial=None):
    """history: [Txn]; initial: {bank: {account: balance}}."""
    run = Check(history, initial or {})
    run.run()
    return Verdict(run.anomalies, run.order, getattr(run, "txns", []))
