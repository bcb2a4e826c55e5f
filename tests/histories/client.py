#!/usr/bin/env python3
"""client.py - one client of the histories: transactions on lists, registers and a bank, in sync=commit with
refresh=0. Each is recorded line by line (checker.py says how): the invocation before anything is
done, the completion after it.

On stdout, for whoever plays the faults: "begin N", and "ok N", "fail N" or "unknown N"; "inside N": it
waits before its COMMIT for a line on stdin.

usage: client.py TARGET RECORD WHO TURN FIRST COUNT SEED"""

import json
import os
import random
import sqlite3
import sys
import time

import support

UNKNOWN = 7690          # SQLITE_IOERR_COMMIT_ATOMIC: it may still happen
EPOCH = 12              # so many transactions of each client on the same keys
LISTS, REGISTERS, ACCOUNTS, MONEY = 3, 2, 4, 100
DAWDLE = 0.06           # share of transactions that wait before their COMMIT
PATIENCE = 400          # opens in a row that may fail
SCHEMA = """
    CREATE TABLE list(key TEXT, place INTEGER, value INTEGER, pad TEXT, PRIMARY KEY(key, place));
    CREATE INDEX by_value ON list(value);
    CREATE TABLE register(key TEXT PRIMARY KEY, value INTEGER);
    CREATE TABLE account(bank TEXT, account INTEGER, balance INTEGER, PRIMARY KEY(bank, account));
    CREATE TABLE transfer(bank TEXT, place INTEGER, name INTEGER, PRIMARY KEY(bank, place));
"""


def banks(count):
    """The banks that so many transactions of each client use."""
    return [f"bank{n}" for n in range((count - 1) // (2 * EPOCH) + 1)]


def birth(db, count):
    """The schema and the banks, in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    for bank in banks(count):
        db.executemany("INSERT INTO account VALUES(?, ?, ?)",
                       [(bank, account, MONEY) for account in range(ACCOUNTS)])
    db.execute("COMMIT")


def plan(dice, n, fresh, curious):
    """What transaction n does. fresh() gives values that were never written before; curious: how often it
    only looks, at everything."""
    epoch = n // EPOCH
    if dice.random() < curious:
        return ([["b", f"bank{epoch // 2}", None, None]] +
                [["r", f"list{epoch * LISTS + n}", None] for n in range(LISTS)] +
                [["g", f"reg{epoch * REGISTERS + n}", None] for n in range(REGISTERS)])
    if dice.random() < 0.3:
        bank = f"bank{epoch // 2}"
        if dice.random() < 0.4:
            return [["b", bank, None, None]]
        source, target = dice.sample(range(ACCOUNTS), 2)
        return [["t", bank, fresh(), source, target, dice.randint(1, 9), None]]
    ops = []
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4))):
        if dice.random() < 0.6:
            key = f"list{epoch * LISTS + dice.randrange(LISTS)}"
            ops.append(["a", key, fresh()] if dice.random() < 0.5 else ["r", key, None])
        else:
            key = f"reg{epoch * REGISTERS + dice.randrange(REGISTERS)}"
            ops.append(["w", key, fresh()] if dice.random() < 0.5 else ["g", key, None])
    return ops


def perform(db, op):
    """One op; what it read is put into it."""
    kind, key = op[0], op[1]
    if kind == "a":
        db.execute("INSERT INTO list SELECT ?1, 1 + coalesce(max(place), 0), ?2, ?3 FROM list"
                   " WHERE key = ?1", (key, op[2], f"{op[2]:x}" * 20))
    elif kind == "r":
        op[2] = [v for v, in db.execute("SELECT value FROM list WHERE key = ? ORDER BY place", (key,))]
    elif kind == "w":
        db.execute("INSERT OR REPLACE INTO register VALUES(?, ?)", (key, op[2]))
    elif kind == "g":
        op[2] = support.one(db, "SELECT value FROM register WHERE key = ?", key)
    elif kind == "t":
        transfer(db, op)
    else:
        op[2] = [name for name, in db.execute("SELECT name FROM transfer WHERE bank = ?"
                                              " ORDER BY place", (key,))]
        op[3] = dict(db.execute("SELECT account, balance FROM account WHERE bank = ?", (key,)))


def transfer(db, op):
    """Balances are read, and what they should become is written: a lost update would show."""
    _, bank, name, source, target, amount, _ = op
    balance = dict(db.execute("SELECT account, balance FROM account WHERE bank = ?"
                              " AND account IN (?, ?)", (bank, source, target)))
    op[6] = [balance[source], balance[target]]
    for account, now in ((source, balance[source] - amount), (target, balance[target] + amount)):
        db.execute("UPDATE account SET balance = ? WHERE bank = ? AND account = ?",
                   (now, bank, account))
    db.execute("INSERT INTO transfer SELECT ?1, 1 + coalesce(max(place), 0), ?2 FROM transfer"
               " WHERE bank = ?1", (bank, name))


def connect(target):
    """As often as it takes: the network may be away, the file locked."""
    for _ in range(PATIENCE):
        try:
            db = sqlite3.connect(target, uri=True, timeout=10, isolation_level=None)
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            return db
        except sqlite3.Error as error:
            last = error
    raise SystemExit(f"no open succeeded: {last}")


class Client:
    def __init__(self, target, record, who, turn):
        self.target, self.who, self.turn = target, who, turn
        self.record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.value = 0
        self.db = connect(target)

    def fresh(self):
        """Never the same twice, in no run of any client."""
        self.value += 1
        return (self.who * 1000 + self.turn) * 100000 + self.value

    def write(self, **event):
        os.write(self.record, (json.dumps(event) + "\n").encode())

    def tell(self, word, n):
        os.write(1, f"{word} {n}\n".encode())

    def transaction(self, n, ops, begin, dawdle):
        """begin: BEGIN's word, or None: one statement that commits by itself."""
        name = f"{self.who}.{self.turn}.{n}"
        self.tell("begin", n)
        self.write(e="invoke", n=name, c=self.who, t=time.monotonic_ns(), ops=ops)
        kind, why, last = "ok", None, begin is None
        try:
            if begin is not None:
                self.db.execute("BEGIN " + begin)
            for op in ops:
                perform(self.db, op)
            if begin is not None:
                if dawdle:              # until somebody says so
                    self.tell("inside", n)
                    sys.stdin.readline()
                last = True
                self.db.execute("COMMIT")
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            kind = "unknown" if code == UNKNOWN and last else "fail"
            why = [code, str(error)]
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        self.write(e=kind, n=name, t=time.monotonic_ns(), ops=ops if kind != "fail" else None, why=why)
        self.tell(kind, n)

    def run(self, first, count, dice):
        curious = 0.7 if self.who % 2 else 0.1      # beside a writer on the same file
        for n in range(first, count):
            ops = plan(dice, n, self.fresh, curious)
            writes = any(op[0] in "awt" for op in ops)
            begin = dice.choice(("IMMEDIATE", "IMMEDIATE", "DEFERRED")) if writes else "DEFERRED"
            if len(ops) == 1 and ops[0][0] in "argw" and dice.random() < 0.5:
                begin = None
            self.transaction(n, ops, begin, dice.random() < DAWDLE)
            if dice.random() < 0.03:
                self.db.close()
                self.db = connect(self.target)
            elif dice.random() < 0.01:
                self.aside("SELECT r2_checkpoint()")
        self.db.close()

    def aside(self, sql):
        """Something that must not matter; nor does its failure."""
        try:
            self.db.execute(sql).fetchall()
        except sqlite3.Error:
            pass


def main():
    target, record = sys.argv[1:3]
    who, turn, first, count = map(int, sys.argv[3:7])
    support.load()
    Client(target, record, who, turn).run(first, count, random.Random(f"{sys.argv[7]}:{who}:{turn}"))


if __name__ == "__main__":
    main()
