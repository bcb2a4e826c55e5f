#!/usr/bin/env python3
"""The n-th request fails, once and from then on, for every n until the operation passes: refused
(403, 500, 503), cut before it arrived, done and its answer lost, or a hotel's login page in its place;
in each thing that a user does, in both layouts.

After each fault: it went through, or there is an error with a sentence; nothing that was acknowledged
is lost, nothing is done half, no conflict is made up; a plain SQLite can write at once; the same thing
tried again works; a machine that has nothing gets it all.

R2VFS_FAULT_POINTS: how many of the kinds each request fails with, drawn anew in each run; 0: all."""

# One layout: each test names its own.

import os
import unittest

from crashkit import CrashCase, create, rng, rows, step
import support
from support import one

LAYOUTS = (support.LAYOUT,) if os.environ.get("R2VFS_TEST_LAYOUT") else ("log", "object")
POINTS = int(os.environ.get("R2VFS_FAULT_POINTS", "1"))
SHORT = 1000    # ms, of a connection whose requests all fail: it gives up soon
FIRST = {1, 2, 3}


class Operation:
    """before(case): on the way to it, without faults. act(case): it. new: rows afterwards; old: rows
    of the replica when it failed. pushes: it may be left in doubt."""

    def __init__(self, before, act, old, new, forks=0, log=False, **params):
        self.before, self.act, self.old, self.new = before, act, old, new
        self.forks, self.log, self.params = forks, log, params


def act(sql):
    return lambda case: one(case.db, sql)


def commit(case):
    step(case.db, 9)


def reopen(case):
    case.open_it()
    rows(case.db)


def close(case):
    case.db.close()


def past(case):
    db = case.through_proxy(version=1)
    try:
        case.assertEqual(rows(db), set())
    finally:
        db.close()


OPERATIONS = {
    "open": Operation("closed", reopen, FIRST, FIRST),
    "open behind": Operation("behind", reopen, FIRST, FIRST | {7, 8}),
    "open cold": Operation("cold", reopen, set(), FIRST | {7, 8}),
    "commit": Operation("opened", commit, FIRST, FIRST | {9}, sync="commit"),
    "sync": Operation("dirty", act("SELECT sync()"), FIRST | {9}, FIRST | {9}),
    "pull": Operation("opened behind", act("SELECT r2_pull()"), FIRST, FIRST | {7, 8}),
    "read behind": Operation("opened behind", act("SELECT count(*) FROM t"), FIRST, FIRST | {7, 8},
                             refresh=0),
    "checkpoint": Operation("opened", act("SELECT r2_checkpoint()"), FIRST, FIRST),
    "close": Operation("dirty", close, FIRST | {9}, FIRST | {9}, sync="close"),
    "restore": Operation("opened", act("SELECT r2_restore(2)"), FIRST, {1}, log=True),
    "past": Operation("opened", past, FIRST, FIRST, log=True),
    "resolve fork": Operation("diverged", act("SELECT r2_resolve('fork')"), FIRST | {5},
                              FIRST | {7, 8}, forks=1),
    "resolve local": Operation("diverged", act("SELECT r2_resolve('local')"), FIRST | {5},
                               FIRST | {5}, forks=1),
}
FAULTS = {
    "500": lambda faults, n, count: faults.status(500, nth=n, count=count),
    "503": lambda faults, n, count: faults.status(503, nth=n, count=count),
    "403": lambda faults, n, count: faults.status(403, nth=n, count=count),
    "cut": lambda faults, n, count: faults.cut(nth=n, count=count),
    "lost answer": lambda faults, n, count: faults.lose(nth=n, count=count),
    "login page": lambda faults, n, count: faults.html(nth=n, count=count),
}


class Requests(CrashCase):
    tried = refused = 0

    def setUp(self):
        super().setUp()
        self.use("s3")
        self.faults = self.proxy()

    # The world before the fault: machine a's connection goes through the proxy.

    def through_proxy(self, **params):
        """A connection that meets the faults."""
        target = support.uri(self.path_a, self.remote, endpoint=self.faults.endpoint,
                             timeout=self.timeout, **params)
        return support.sqlite3.connect(target, uri=True, isolation_level=None)

    def open_it(self):
        if self.db:
            self.db.close()
        self.db = None
        self.db = self.through_proxy(**self.params)

    def born(self, layout, mode):
        db = support.connect(self.path_a, self.remote, sync="manual", layout=layout)
        create(db, mode)
        one(db, "SELECT sync()")
        for n in sorted(FIRST):
            step(db, n)
            one(db, "SELECT sync()")
        db.close()
        support.connect(self.path_b, self.remote).close()

    def newer(self):
        db = support.connect(self.path_b, self.remote, sync="manual")
        for n in (7, 8):
            step(db, n)
            one(db, "SELECT sync()")
        db.close()

    def world(self, operation, layout, mode, timeout):
        self.use("s3")
        self.path_a, self.path_b = (self.path(f"{self.count}/{name}/app.db") for name in "ab")
        self.params, self.timeout, self.db = {"sync": "manual", **operation.params}, None, None
        self.faults.clear_rules()
        self.born(layout, mode)
        before = operation.before
        self.timeout = timeout
        if before in ("opened", "dirty", "opened behind", "diverged"):
            self.open_it()
            rows(self.db)
        if "behind" in before or before in ("cold", "diverged"):
            self.newer()
        if before == "dirty":
            step(self.db, 9)
        if before == "diverged":
            step(self.db, 5)
        if before == "cold":
            for name in os.listdir(os.path.dirname(self.path_a)):
                os.unlink(os.path.join(os.path.dirname(self.path_a), name))
        self.faults.clear()

    # The judgement.

    def attempt(self, operation):
        """None, or the error's text."""
        try:
            operation.act(self)
        except support.sqlite3.IntegrityError:
            self.db.execute("ROLLBACK")
            return None     # the row is there: what may or may not have happened did happen
        except support.sqlite3.Error as error:
            return str(error) or "an error without a sentence"
        return None

    def again(self, operation):
        """As a program does it that is told to; the remote answers now. (A machine under load may not
        do it in SHORT: then with the usual time.)"""
        for turn in range(8):
            said = self.attempt(operation)
            if said is None:
                return
            if turn == 3 and self.timeout:
                self.timeout = None
                self.params["conflict"] = "error"
                self.open_it()
            if "call sync() first" in said:
                one(self.db, "SELECT sync()")
        self.fail(f"it never works again: {said}")

    def judge(self, name, operation, said):
        if said is not None:
            type(self).refused += 1
            self.assertNotIn("without a sentence", said)
            if name != "commit" and "resolve" not in name:
                self.assertNotIn("conflict", said)
        if os.path.exists(self.path_a):
            plain = support.plain(self.path_a, timeout=0)
            plain.execute("BEGIN IMMEDIATE")
            plain.execute("ROLLBACK")
            here = rows(plain)
            plain.close()
            self.assertIn(here, (operation.old, operation.new) if said else (operation.new,))
        if said is not None and name != "close":
            self.again(operation)
        if name != "close":
            self.assertEqual(rows(self.db), operation.new)
            self.db.close()
        db = support.connect(self.path_a, self.remote)
        self.assertEqual(rows(db), operation.new)
        one(db, "SELECT sync()")
        db.close()
        self.assertEqual(self.fresh()[0], operation.new)
        self.assertEqual(self.head()[0], operation.new)
        self.assertEqual(len(self.forks()), operation.forks)

    def one_fault(self, name, layout, mode, kind=None, n=1, onward=False):
        """Returns how many requests the operation made."""
        operation = OPERATIONS[name]
        self.world(operation, layout, mode, SHORT if onward else None)
        rule = FAULTS[kind](self.faults, n, None if onward else 1) if kind else None
        said = self.attempt(operation)
        requests = len(self.faults.requests)
        self.faults.clear_rules()
        self.faults.settle()
        if rule and rule.hits:
            type(self).tried += 1
        else:
            if rule:                    # the first time it had to begin again, on a busy machine
                self.assertLess(requests, n, "the fault never came")
            self.assertIsNone(said)
        self.judge(name, operation, said)
        return requests

    def all_faults(self, onward):
        for layout in LAYOUTS:
            mode = {"log": "wal", "object": "delete"}[layout]
            for name, operation in OPERATIONS.items():
                if operation.log and layout != "log":
                    continue
                random = rng(name, layout, onward)
                for n in range(1, self.one_fault(name, layout, mode) + 1):
                    for kind in random.sample(sorted(FAULTS), POINTS or len(FAULTS)):
                        with self.subTest(name=name, layout=layout, kind=kind, n=n, onward=onward):
                            self.one_fault(name, layout, mode, kind, n, onward)

    def test_once(self):
        self.all_faults(False)

    def test_from_then_on(self):
        self.all_faults(True)


def tearDownModule():
    print(f"{Requests.tried} requests failed, {Requests.refused} operations refused", flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
