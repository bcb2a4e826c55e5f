"""writer.py - one writer of the soak: a process that inserts rows, one commit after the other, until
its stdin ends. argv[1]: what it is, as JSON (soak.py).

It says, a line each:
    t N      row N is about to be committed
    c N      committed: COMMIT returned, in a mode where that is a promise about the local file only
    a N...   acknowledged: these rows are in the remote. sync=commit: COMMIT returned. Elsewhere: sync()
             returned after their COMMIT, and they were still there (no neighbour had resolved a
             conflict with them on the losing side)
    p N      acknowledged rows up to N were deleted, and counted in `done`
    s        a sync() or a COMMIT in sync=commit succeeded
    e CODE   an error that a program has to live with; then it goes on
    ! TEXT   something that must never happen
"""

import hashlib
import json
import os
import random
import select
import sqlite3
import sys
import time

import support

CORRUPT, NOTADB = 11, 26
KEPT = 30       # acknowledged rows that stay as rows


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def payload(writer, n):
    """Its length makes overflow pages now and then."""
    digest = hashlib.sha256(f"{writer}:{n}".encode()).digest()
    return digest * (1 + digest[0] % 12 + (150 if digest[1] % 16 == 0 else 0))


class Writer:
    def __init__(self, path, remote, me, sync, layout, n, acknowledged, seed):
        self.path, self.remote, self.me, self.sync, self.layout = path, remote, me, sync, layout
        self.n = n
        self.acknowledged = acknowledged    # not summed up yet
        self.restarted = bool(acknowledged)
        self.pending = []                   # committed, not acknowledged
        self.random = random.Random(seed)
        self.db = None

    def connect(self):
        self.db = support.connect(self.path, self.remote, timeout=20, sync=self.sync,
                                  layout=self.layout, refresh="open")
        self.db.execute("PRAGMA cache_size=-128")
        if self.restarted:      # its predecessor may have been killed after summing up
            upto = support.one(self.db, "SELECT upto FROM done WHERE w = ?", self.me)
            self.acknowledged = [n for n in self.acknowledged if n > upto]
            self.restarted = False

    def close(self):
        db, self.db = self.db, None
        if db:
            db.close()

    def insert(self):
        self.n += 1
        say("t", self.n)
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("INSERT INTO t VALUES(?, ?, ?)",
                        (self.me, self.n, payload(self.me, self.n)))
        self.db.execute("UPDATE total SET c = c + 1")
        summed = self.sum_up() if len(self.acknowledged) >= 2 * KEPT else None
        self.db.execute("COMMIT")
        if self.sync == "commit":
            say("a", self.n)
            say("s")
            self.acknowledged.append(self.n)
        else:
            say("c", self.n)
            self.pending.append(self.n)
        if summed:
            say("p", summed)
            self.acknowledged = [n for n in self.acknowledged if n > summed]

    def sum_up(self):
        """Old acknowledged rows become a number, after a look that they are all there."""
        upto = sorted(self.acknowledged)[-KEPT]
        there = {n: pad for n, pad in self.db.execute(
            "SELECT n, pad FROM t WHERE w = ? AND n <= ?", (self.me, upto))}
        for n in self.acknowledged:
            if n <= upto and there.get(n) != payload(self.me, n):
                say(f"! row {self.me}:{n} was acknowledged, and its own replica {self.path} "
                    f"does not have it")
        old = [(self.me, n) for n in self.acknowledged if n <= upto]
        self.db.executemany("DELETE FROM t WHERE w = ? AND n = ?", old)
        self.db.execute("UPDATE done SET upto = ?, rows = rows + ? WHERE w = ?",
                        (upto, len(old), self.me))
        return upto

    def push(self):
        asked = list(self.pending)
        self.db.execute("SELECT sync()").fetchone()
        say("s")
        there = {n for n, in self.db.execute("SELECT n FROM t WHERE w = ?", (self.me,))}
        kept = [n for n in asked if n in there]
        if kept:
            say("a", *kept)
        self.acknowledged += kept
        self.pending = [n for n in self.pending if n not in asked]

    def settle(self, error):
        """What a program does after an error: roll back, resolve a conflict, go on."""
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in (CORRUPT, NOTADB):
            say(f"! {self.path}: {code} {error}")
        say("e", code, str(error).replace("\n", " ")[:160])
        if not self.db:
            return
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        sentence = support.one(self.db, "PRAGMA r2_last_error") or ""
        if "r2_resolve" in str(error) + sentence:
            self.db.execute("SELECT r2_resolve('fork')").fetchone()

    def turn(self):
        """Some commits, as the mode has it."""
        if not self.db:
            self.connect()
        self.insert()
        if self.sync == "commit":
            if self.random.random() < 0.03:
                self.close()
        elif self.sync == "close":
            for _ in range(self.random.randrange(3)):
                self.insert()
            if self.random.random() < 0.5:
                self.push()
            self.close()
        elif self.random.random() < 0.3:
            self.push()

    def run(self):
        poll = select.poll()
        poll.register(0, select.POLLIN | select.POLLHUP)
        while not poll.poll(0):
            try:
                self.turn()
            except sqlite3.Error as error:
                try:
                    self.settle(error)
                except sqlite3.Error as second:
                    say("e", getattr(second, "sqlite_errorcode", 0), str(second)[:160])
            time.sleep(self.random.uniform(0, self.pause))     # the load, nothing waits for it
        try:
            self.close()
        except sqlite3.Error as error:
            say("e", error.sqlite_errorcode, str(error)[:160])

    pause = 0.2


def main():
    told = json.loads(sys.argv[1])
    Writer.pause = told.pop("pause")
    support.load()
    writer = Writer(**told)
    say("ready")
    writer.run()


if __name__ == "__main__":
    main()
