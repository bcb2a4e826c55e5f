#!/usr/bin/env python3
"""writer.py - one client of the histories in the modes where COMMIT is local: rows, sync(), conflicts and
how they were settled. acks.py says what is recorded.

usage: writer.py TARGET RECORD WHO TURN FIRST COUNT SEED
       writer.py TARGET RECORD WHO          leave nothing behind: sync() until it succeeds"""

import json
import os
import random
import re
import sqlite3
import sys
import time

import client
import support

CONFLICT = 517


class Writer:
    def __init__(self, target, record, who, turn):
        self.target, self.who, self.turn, self.count = target, who, turn, 0
        self.record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        # r2vfs says on stderr where it keeps the loser of a conflict.
        self.said = os.open(f"{record}.stderr.{turn}", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(self.said, 2)
        self.heard = 0
        self.open()

    def write(self, **event):
        os.write(self.record, (json.dumps(event) + "\n").encode())

    def tell(self, word, n):
        os.write(1, f"{word} {n}\n".encode())

    def listen(self, began):
        """What was said since the last time."""
        text = os.pread(self.said, 1 << 20, self.heard)
        self.heard += len(text)
        forks = re.findall(r"s3://[^/ ]+/(\S+-forks/\S+\.db)", text.decode())
        if forks:
            self.write(e="told", forks=forks, t=time.monotonic_ns(), **{"from": began})

    def act(self, run, *args):
        """(what it gave, None) or (None, the error)."""
        began = time.monotonic_ns()
        try:
            return run(*args), None
        except sqlite3.Error as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            code = getattr(error, "sqlite_errorcode", None)
            if code == CONFLICT:
                self.write(e="conflict", t=time.monotonic_ns(), why=str(error))
            else:
                self.write(e="error", t=time.monotonic_ns(), why=[code, str(error)])
            return None, error
        finally:
            self.listen(began)

    def open(self):
        began = time.monotonic_ns()
        self.db = client.connect(self.target)
        self.listen(began)

    def close(self):
        began = time.monotonic_ns()
        self.db.close()
        self.listen(began)

    def insert(self):
        self.count += 1
        row = (self.who * 1000 + self.turn) * 100000 + self.count
        self.write(e="try", row=row)
        _, error = self.act(self.db.execute, "INSERT INTO row VALUES(?, ?)", (row, f"{row:x}" * 30))
        if not error:
            self.write(e="row", row=row, t=time.monotonic_ns())
        return error

    def sync(self):
        began = time.monotonic_ns()
        version, error = self.act(support.one, self.db, "SELECT sync()")
        if not error:
            self.write(e="sync", t=time.monotonic_ns(), version=version, **{"from": began})
        return error

    def resolve(self, how):
        return self.act(support.one, self.db, "SELECT r2_resolve(?)", how)[1]

    @staticmethod
    def is_conflict(error):
        return getattr(error, "sqlite_errorcode", None) == CONFLICT

    def step(self, dice):
        error = None
        for _ in range(dice.randint(1, 3)):
            error = self.insert()
            if error:
                break
        if not self.is_conflict(error) and dice.random() < 0.6:
            error = self.sync()
        if self.is_conflict(error):
            error = self.resolve(dice.choice(("fork", "fork", "remote")))
        elif dice.random() < 0.1:
            self.act(support.one, self.db, "SELECT r2_pull()")
        return "fail" if error else "ok"

    def run(self, first, count, dice):
        for n in range(first, count):
            self.tell("begin", n)
            how, again = self.step(dice), dice.random() < 0.1
            if again:
                self.close()            # under this step's fault
            self.tell(how, n)
            if again:
                self.open()
        self.close()

    def finish(self):
        for _ in range(client.PATIENCE):
            error = self.sync()
            if not error:
                return self.close()
            if self.is_conflict(error):
                self.resolve("fork")
        raise SystemExit(f"sync() never succeeded: {error}")


def main():
    target, record, who = sys.argv[1:4]
    support.load()
    if len(sys.argv) == 4:
        return Writer(target, record, int(who), 999).finish()
    turn, first, count = map(int, sys.argv[4:7])
    Writer(target, record, int(who), turn).run(first, count,
                                               random.Random(f"{sys.argv[7]}:{who}:{turn}"))


if __name__ == "__main__":
    main()
