#!/usr/bin/env python3
"""The web application that r2vfs was made for: ext/python/examples/fastapi_app.py under uvicorn with
several workers, many users at once, machines that go down and lose their disk. What a 2xx answer said
is compared, note by note, with what is there afterwards.

R2VFS_SEED repeats a run's choices (not its timing)."""

import collections
import contextlib
import http.client
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402

EXAMPLES = os.path.join(support.ROOT, "ext", "python", "examples")
WORKERS = 4
USERS = 6
CLIENTS = 6
# The application as it is, and a header that says which worker answered. All end when the test's own
# process is gone: then stdin ends.
NAMED = """
import os, signal, threading
import fastapi_app

threading.Thread(target=lambda: (os.read(0, 1), os.killpg(0, signal.SIGKILL)), daemon=True).start()

async def app(scope, receive, send):
    async def named(message):
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-worker", str(os.getpid()).encode())]
        await send(message)
    await fastapi_app.app(scope, receive, named)
"""

MIX = {"create": 4, "put": 2, "replace": 4, "delete": 2, "list": 4, "count": 3}

Answer = collections.namedtuple("Answer", "status value worker")


class NotSent(OSError):
    """Nobody listened: it certainly changed nothing."""


class Machine:
    """A machine that runs the application: a disk of its own, and a group of processes."""

    def __init__(self, case, name):
        self.case, self.name = case, name
        self.root = os.path.join(case.folder, name, "data")
        self.log = os.path.join(case.folder, name + ".log")
        self.starts, self.process = 0, None
        self.workers = set()            # those that have answered since the start
        os.makedirs(self.root)
        with open(os.path.join(case.folder, name, "named.py"), "w") as file:
            file.write(NAMED)
        case.addCleanup(self.kill)

    def start(self, workers=WORKERS, **env):
        """Run it until it answers. env: over the environment that the test has."""
        self.starts += 1
        self.workers.clear()
        self.socket = os.path.join(self.case.folder, f"{self.name}{self.starts}.sock")
        env = support.child_env({
            "R2VFS_SO": support.SO, "R2VFS_ROOT": self.root, "R2VFS_SYNC": self.case.sync,
            "R2VFS_REMOTE": self.case.remote_of(self.case.prefix), "R2VFS_TIMEOUT": "20000",
            "PYTHONDONTWRITEBYTECODE": "1", **env})
        env["PYTHONPATH"] = EXAMPLES + os.pathsep + env["PYTHONPATH"]
        with open(self.log, "ab") as log:
            # stdout says nothing; its end says that the last process of the group is gone
            self.process = subprocess.Popen(
                [support.PYTHON, "-m", "uvicorn", "named:app", "--uds", self.socket, "--workers",
                 str(workers), "--log-level", "warning", "--no-access-log"],
                env=env, cwd=os.path.dirname(self.root), start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        support.until(self.answers)
        return self

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the application ended with {self.process.returncode}:\n"
                                 + self.tail())
        try:
            return self.ask("GET", "/health").status == 200
        except NotSent:
            return False

    def tail(self):
        with open(self.log, errors="replace") as log:
            return log.read()[-3000:]

    def ask(self, method, path, body=None):
        """One request; NotSent, or another OSError or HTTPException when nobody answered it."""
        connection = http.client.HTTPConnection("localhost", timeout=support.DEADLINE)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.settimeout(support.DEADLINE)
            try:
                connection.sock.connect(self.socket)
            except OSError as error:
                raise NotSent(str(error)) from error
            with contextlib.suppress(BrokenPipeError):  # it need not read a body to say 404
                connection.request(method, path, None if body is None else json.dumps(body),
                                   {"Content-Type": "application/json", "Connection": "close"})
            answer = connection.getresponse()
            value = json.loads(answer.read())
        worker = int(answer.headers.get("x-worker", 0))
        self.workers.add(worker)
        return Answer(answer.status, value, worker)

    def end(self, number):
        """SIGKILL: all processes at once, as when the power goes. SIGTERM: an orderly stop."""
        if self.process is None:
            return
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.send_signal(number)
        self.process.stdout.read()
        self.process.wait(support.DEADLINE)
        support.close(self.process)
        self.process = None

    def kill(self):
        self.end(signal.SIGKILL)

    def lose_disk(self):
        shutil.rmtree(self.root)
        os.makedirs(self.root)


class Client(threading.Thread):
    """Works on notes of its own, in databases that it shares with the other clients. For each note it
    knows every value that may be there, oldest first; None: no note. One value left: exactly that."""

    def __init__(self, case, n, round_, route, weights):
        super().__init__(name=f"client {n}")
        self.case, self.n, self.route, self.weights = case, n, route, weights
        self.pick = random.Random(f"{case.seed}:{case._testMethodName}:{round_}:{n}")
        self.round, self.k = round_, 0
        self.may_be = {}                # (user, id): values
        self.unnamed = {}               # user: texts of POSTs without an answer
        self.refused = []               # (user, text): 409
        self.counts = []                # (user, began, ended, value)
        self.count_doubts = collections.Counter()
        self.statuses = collections.Counter()
        self.wrong = []

    def run(self):
        try:
            while not self.case.stop.is_set():
                with contextlib.suppress(NotSent):
                    self.step(self.pick.choice(self.case.users))
        except Exception as error:      # noqa: B902
            self.wrong.append(f"{self.name}: {error!r}")
        finally:
            if self.wrong:
                self.case.enough.release(1000)      # nobody need wait any longer

    def ask(self, user, method, path, body=None):
        try:
            answer = self.route(user).ask(method, f"/users/{user}{path}", body)
        except NotSent:
            self.case.stop.wait(0.02)   # as a client does
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer = Answer(None, repr(error), None)
        self.statuses[answer.status] += 1
        if answer.status in (200, 201):
            self.case.enough.release()
        elif answer.status not in (404, 409, 503, None):
            raise AssertionError(f"{method} {path} of {user}: {answer}")
        return answer

    def text(self):
        self.k += 1
        return f"{self.round}-{self.n}-{self.k} {self.pick.randbytes(self.pick.randrange(300)).hex()}"

    def step(self, user):
        mine = [id for u, id in self.may_be if u == user]
        todo = self.pick.choices(list(self.weights), self.weights.values())[0]
        if todo == "create":
            self.create(user)
        elif todo == "count":
            self.count(user)
        elif todo == "list":
            self.look(user)
        elif todo == "put" or not mine:
            id = str(uuid.UUID(int=self.pick.getrandbits(128)))
            self.may_be[user, id] = [None]
            self.put(user, id)
        elif todo == "replace":
            self.put(user, self.pick.choice(mine))
        else:
            self.delete(user, self.pick.choice(mine))

    def create(self, user):
        text = self.text()
        answer = self.ask(user, "POST", "/notes", {"text": text})
        if answer.status == 201:
            self.may_be[user, answer.value["id"]] = [text]
        else:
            self.unnamed.setdefault(user, []).append(text)
        if answer.status == 409:
            self.refused.append((user, text))

    def put(self, user, id):
        text = self.text()
        answer = self.ask(user, "PUT", f"/notes/{id}", {"text": text})
        if answer.status == 200:
            self.may_be[user, id] = [text]
        else:
            self.may_be[user, id].append(text)
        if answer.status == 409:
            self.refused.append((user, text))

    def delete(self, user, id):
        answer = self.ask(user, "DELETE", f"/notes/{id}")
        if answer.status == 200:
            self.may_be[user, id] = [None]
        elif answer.status == 404:
            self.saw(user, id, None)
        else:
            self.may_be[user, id].append(None)

    def look(self, user):
        answer = self.ask(user, "GET", "/notes")
        if answer.status == 200:
            self.compare(user, {note["id"]: note["text"] for note in answer.value})

    def count(self, user):
        began = self.case.tick()
        answer = self.ask(user, "POST", "/counter")
        if answer.status == 200:
            self.counts.append((user, began, self.case.tick(), answer.value["value"]))
        else:
            self.count_doubts[user] += 1

    def saw(self, user, id, value):
        """What was seen once is in R2: nothing older comes back."""
        values = self.may_be[user, id]
        if value not in values:
            raise AssertionError(f"{user}: note {id} is {value!r} but should be one of {values!r}")
        self.may_be[user, id] = values[values.index(value):]

    def compare(self, user, there):
        """there: the user's notes, {id: text}."""
        for u, id in list(self.may_be):
            if u == user:
                self.saw(user, id, there.get(id))


class Application:
    """What has to hold whenever a push happens: a class below sets `sync`, the mode."""

    sync = None

    def setUp(self):
        super().setUp()
        for module in ("fastapi", "uvicorn"):
            support.need(f"python3-{module}", importlib.util.find_spec(module))
        self.seed = int(os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
        self.pick = random.Random(f"{self.seed}:{self._testMethodName}")
        print(f"seed: R2VFS_SEED={self.seed}", flush=True)
        self.users = [f"u{n}" for n in range(USERS)]
        self.clients, self.round = [], 0
        self.clock, self.clock_lock = 0, threading.Lock()

    def tick(self):
        with self.clock_lock:
            self.clock += 1
            return self.clock

    @contextlib.contextmanager
    def traffic(self, route, clients=CLIENTS, weights=MIX):
        """All clients at work; the block gets on(n), which waits for n more 2xx answers. They end
        with the block."""
        self.round += 1
        self.stop, self.enough = threading.Event(), threading.Semaphore(0)
        now = [Client(self, n, self.round, route, weights) for n in range(clients)]
        self.clients += now
        for client in now:
            client.start()

        def on(answers):
            for _ in range(answers):
                self.assertTrue(self.enough.acquire(timeout=support.DEADLINE), "all stands still")
        try:
            yield on
        finally:
            self.stop.set()
            for client in now:
                client.join()
        self.assertEqual([line for client in now for line in client.wrong], [])

    def statuses(self):
        return sum((client.statuses for client in self.clients), collections.Counter())

    def compare_user(self, user, there, count):
        """Every note is explained by exactly one request, every promised one is there, and the counter
        has lost and doubled nothing. there: {id: text}."""
        named = {}
        for client in self.clients:
            client.compare(user, there)
            named.update({id: client for u, id in client.may_be if u == user})
        unnamed = {text for client in self.clients for text in client.unnamed.get(user, [])}
        for id, text in there.items():
            if id not in named:
                self.assertIn(text, unnamed, f"{user}: nobody wrote this")
        counts = [entry for client in self.clients for entry in client.counts if entry[0] == user]
        values = [value for *_, value in counts]
        self.assertEqual(len(set(values)), len(values), f"{user}: a count was given out twice")
        for _, _, ended, value in counts:
            later = [v for _, began, _, v in counts if began > ended]
            self.assertGreater(min(later, default=value + 1), value, f"{user}: it counted backwards")
        doubts = sum(client.count_doubts[user] for client in self.clients)
        self.assertLessEqual(max([len(values), *values]), count)
        self.assertLessEqual(count, len(values) + doubts)

    def compare(self, machine):
        """Through the application."""
        for user in self.users:
            notes = machine.ask("GET", f"/users/{user}/notes")
            count = machine.ask("GET", f"/users/{user}/counter")
            self.assertEqual((notes.status, count.status), (200, 200), (notes, count))
            self.compare_user(user, {note["id"]: note["text"] for note in notes.value},
                              count.value["value"])

    def read_object(self, key):
        """What a stock SQLite finds in an object: ({id: text}, count)."""
        body = self.bucket.get(key).body
        self.assertEqual(support.integrity_of_bytes(body), "ok")
        path = self.path(f"look/{uuid.uuid4().hex}.db")
        with open(path, "wb") as file:
            file.write(body)
        with contextlib.closing(support.plain(path)) as db:
            return (dict(db.execute("SELECT id, text FROM notes")),
                    support.one(db, "SELECT value FROM counter") or 0)

    def compare_bucket(self):
        """Past the application and r2vfs."""
        for user in self.users:
            key = f"{self.prefix}/users/{user}/app.db"
            self.compare_user(user, *(self.read_object(key) if self.bucket.exists(key) else ({}, 0)))

    def promised(self):
        return sum(values != [None] and None not in values
                   for client in self.clients for values in client.may_be.values())

    # ---- one machine that goes down

    def goes_down(self, journal, rounds=5):
        machine = Machine(self, "a").start(JOURNAL_MODE=journal)
        for round_ in range(rounds):
            with self.traffic(lambda user: machine) as on:
                on(100 + self.pick.randrange(100))
                if round_ == 1:         # one worker of four dies; the others go on beside its leavings
                    os.kill(self.pick.choice(sorted(machine.workers)), signal.SIGKILL)
                    on(40)
                machine.end(signal.SIGTERM if round_ == 2 else signal.SIGKILL)
            self.assertGreater(len(machine.workers), 1, "one worker did it all")
            if round_ != 3:             # once the disk survives
                machine.lose_disk()
                self.compare_bucket()
            machine.start(JOURNAL_MODE=journal)
            self.compare(machine)
        self.assertGreater(self.promised(), 60)
        machine.end(signal.SIGTERM)
        self.compare_bucket()
        print(f"{journal}: {dict(self.statuses())}, {self.promised()} notes compared", flush=True)

    def test_goes_down_wal(self):
        self.goes_down("wal")

    def test_goes_down_rollback(self):
        self.goes_down("delete")

    # ---- a network that fails

    def network_fails(self, journal):
        """Every rule strikes, wherever it strikes, under full load; then the machine is gone, too."""
        through = self.proxy()
        machine = Machine(self, "a").start(JOURNAL_MODE=journal, R2_ENDPOINT=through.endpoint)
        rules, late = [], []
        object_ = r"app\.db$" if support.LAYOUT == "object" else r"\.ltx$"
        for method, key in (("PUT", object_), (support.LOOK, object_)):
            for nth in sorted(self.pick.sample(range(5, 150), 14)):
                act = self.pick.choice((
                    lambda **m: through.lose(**m), lambda **m: through.cut(after_body=False, **m),
                    lambda **m: through.cut(**m), lambda **m: through.status(503, **m),
                    lambda **m: through.status(500, **m), lambda **m: through.late(**m)))
                rules.append(act(method=method, key=key, nth=nth))
                if rules[-1].action == "late":
                    late.append(rules[-1])
        with self.traffic(lambda user: machine) as on:
            support.until(lambda: all(rule.hits for rule in rules)
                          or any(client.wrong for client in self.clients))
            on(20)
            machine.kill()
        machine.lose_disk()
        machine.start(JOURNAL_MODE=journal)
        self.compare(machine)
        for rule in late:               # requests from before, that were under way all the time
            rule.release()
        self.compare_bucket()
        with self.traffic(lambda user: machine) as on:
            on(40)
        self.compare(machine)
        print(f"{journal}: {dict(self.statuses())}, {self.promised()} notes compared, "
              f"{collections.Counter(rule.action for rule in rules)}", flush=True)

    def test_network_fails_wal(self):
        self.network_fails("wal")

    def test_network_fails_rollback(self):
        self.network_fails("delete")

    def test_r2_is_away(self):
        """No 2xx for a write that only this machine has; and it is not lost either."""
        through = self.proxy()
        machine = Machine(self, "a").start(workers=2, R2_ENDPOINT=through.endpoint,
                                           R2VFS_TIMEOUT="1000")
        before = machine.ask("POST", "/users/u/notes", {"text": "before"}).value
        etag = self.bucket.head(f"{self.prefix}/users/u/app.db").etag
        no_push = through.status(503, method="PUT", count=None)
        self.assertEqual(machine.ask("POST", "/users/u/notes", {"text": "during"}).status, 503)
        self.assertGreater(no_push.hits, 0)
        self.assertEqual(machine.ask("GET", "/users/u/notes").status, 503,
                         "it told what R2 does not have")
        nothing = through.status(503, count=None)
        self.assertEqual(machine.ask("GET", "/users/u/notes").status, 503)
        self.assertEqual(machine.ask("POST", "/users/v/notes", {"text": "new"}).status, 503)
        self.assertEqual(self.bucket.head(f"{self.prefix}/users/u/app.db").etag, etag)
        no_push.count = nothing.count = 0
        notes = machine.ask("GET", "/users/u/notes")
        self.assertEqual((notes.status, [note["text"] for note in notes.value]),
                         (200, ["before", "during"]))
        machine.kill()
        machine.lose_disk()
        self.assertEqual(machine.start(workers=1).ask("GET", "/users/u/notes").value, notes.value)
        self.assertEqual(notes.value[0], before)

    def test_a_push_lands_after_its_machine_is_gone(self):
        """A write without an answer reaches R2 while another machine is writing for that user already:
        the other is told, and counts on from there."""
        through, slow = self.proxy(), self.proxy()
        a = Machine(self, "a").start(workers=1, R2_ENDPOINT=through.endpoint)
        b = Machine(self, "b").start(workers=1, R2_ENDPOINT=slow.endpoint)
        self.assertEqual(a.ask("POST", "/users/u/counter").value, {"value": 1})
        late = through.late(method="PUT")
        through.status(503, method="PUT", count=None)
        answers = {}

        def write(machine):
            try:
                answers[machine] = machine.ask("POST", "/users/u/counter").status
            except (OSError, http.client.HTTPException):
                answers[machine] = None
        threads = [threading.Thread(target=write, args=(machine,)) for machine in (a, b)]
        threads[0].start()
        late.wait_hit()
        a.kill()
        self.assertEqual(b.ask("GET", "/users/u/counter").value, {"value": 1})
        held = slow.hold(method="PUT")
        threads[1].start()
        held.wait_hit()
        self.assertEqual(late.release(), 200)
        held.release()
        for thread in threads:
            thread.join()
        self.assertEqual(answers, {a: None, b: 409})
        self.assertEqual(b.ask("GET", "/users/u/counter").value, {"value": 2})
        self.assertEqual(b.ask("POST", "/users/u/counter").value, {"value": 3})
        self.assertEqual(self.read_object(f"{self.prefix}/users/u/app.db")[1], 3)

    # ---- two machines

    def moved_between(self, journal):
        """Users stick to one of two machines and are moved now and then, without waiting for what is
        under way; one machine dies with its disk, and the other takes its users."""
        a, b = (Machine(self, name).start(workers=2, JOURNAL_MODE=journal) for name in "ab")
        home = {user: self.pick.choice((a, b)) for user in self.users}
        with self.traffic(home.get) as on:
            for _ in range(60):
                on(self.pick.randrange(1, 9))
                user = self.pick.choice(self.users)
                home[user] = b if home[user] is a else a
            a.kill()
            for user in self.users:
                home[user] = b
            on(40)
            a.lose_disk()
            a.start(workers=2, JOURNAL_MODE=journal)
            for user in self.users[::2]:
                home[user] = a
            on(40)
        for machine in (a, b):          # and each of them has it all
            self.compare(machine)
        self.compare_bucket()
        print(f"{journal}: {dict(self.statuses())}, {self.promised()} notes compared", flush=True)

    def test_moved_between_two_machines_wal(self):
        self.moved_between("wal")

    def test_moved_between_two_machines_rollback(self):
        self.moved_between("delete")

    def two_machines_at_once(self):
        """Returns the key, and the texts that were refused."""
        a, b = (Machine(self, name).start(workers=2) for name in "ab")
        self.users = ["u0"]
        choose = random.Random(self.seed)
        with self.traffic(lambda user: choose.choice((a, b)), clients=4,
                          weights={"create": 3, "put": 1, "list": 1, "count": 2}) as on:
            on(120)
        for machine in (a, b):
            self.compare(machine)
        refused = {text for client in self.clients for _, text in client.refused}
        self.assertTrue(refused, "they never met")
        return f"{self.prefix}/users/u0/app.db", refused

    def test_one_user_on_two_machines_at_once(self):
        """What one should not do: a 2xx is kept all the same, and a text that was refused is in a fork,
        or in the database when a request beside it took it along."""
        key, refused = self.two_machines_at_once()
        forks = self.bucket.list(key + "-forks/")
        kept = {text for fork in forks for text in self.read_object(fork)[0].values()}
        there = set(self.read_object(key)[0].values())
        self.assertLessEqual(refused, kept | there)
        print(f"{dict(self.statuses())}, {len(refused)} texts refused, {len(refused & there)} of them "
              f"taken along, {len(forks)} forks", flush=True)

    # ---- what it asks of R2, and of its users

    def test_requests(self):
        """README's figures: reading is one look, writing a look and a PUT; in the log the close of a
        small file brings the snapshot up to date besides."""
        look = support.LOOK
        write = [look, "PUT"] + (["HEAD", "PUT"] if support.LAYOUT == "log" else [])
        through = self.proxy()
        machine = Machine(self, "a").start(workers=1, R2_ENDPOINT=through.endpoint)
        for text in ("first", "the first one after it"):    # keeps a base, once in a retention
            machine.ask("POST", "/users/u/notes", {"text": text})
        for method, path, body, asked in (
                ("GET", "notes", None, [look]), ("GET", "counter", None, [look]),
                ("POST", "notes", {"text": "x"}, write), ("POST", "counter", None, write),
                ("DELETE", f"notes/{uuid.UUID(int=1)}", None, [look])):
            through.settle()
            through.clear()
            machine.ask(method, f"/users/u/{path}", body)
            through.settle()
            self.assertEqual([request.method for request in through.requests], asked, (method, path))

    def test_no_path_tricks(self):
        machine = Machine(self, "a").start(workers=1)
        for user in ("..", "%2e%2e", "..%2f..%2fx", "a%2fb", "%2fetc", "a%0a", "a%00", "A", "-a", "a" * 65,
                     "%3fvfs=unix", "a%3fremote=s3:%2f%2fb%2fk", "%c3%a9", "%20", "a."):
            for method, path in (("GET", "notes"), ("POST", "notes"), ("POST", "counter")):
                status = machine.ask(method, f"/users/{user}/{path}",
                                     {"text": "x"} if path == "notes" else None).status
                self.assertIn(status, (404, 405), user)
        self.assertEqual(os.listdir(machine.root), [])
        self.assertEqual(self.bucket.list(self.prefix), [])
        self.assertEqual(machine.ask("POST", f"/users/{'a' * 64}/counter").value, {"value": 1})
        self.assertEqual(self.bucket.list(self.prefix), [f"{self.prefix}/users/{'a' * 64}/app.db"])


class PushAtClose(Application, support.Case):
    sync = "close"


class PushInCommit(Application, support.Case):
    """The COMMIT itself is what fails: 409 is rolled back for certain, so there are no forks."""

    sync = "commit"

    def goes_down(self, journal, rounds=4):
        super().goes_down(journal, rounds)

    def test_r2_is_away(self):
        """A write that R2 does not confirm is rolled back: nobody is told of it, now or later."""
        through = self.proxy()
        machine = Machine(self, "a").start(workers=2, R2_ENDPOINT=through.endpoint,
                                           R2VFS_TIMEOUT="1000")
        before = machine.ask("POST", "/users/u/notes", {"text": "before"}).value
        no_push = through.status(503, method="PUT", count=None)
        self.assertEqual(machine.ask("POST", "/users/u/notes", {"text": "during"}).status, 503)
        self.assertGreater(no_push.hits, 0)
        self.assertEqual(machine.ask("GET", "/users/u/notes").value, [before])
        nothing = through.status(503, count=None)
        self.assertEqual(machine.ask("GET", "/users/u/notes").status, 503)
        no_push.count = nothing.count = 0
        self.assertEqual(machine.ask("GET", "/users/u/notes").value, [before])
        machine.kill()
        machine.lose_disk()
        self.assertEqual(machine.start(workers=1).ask("GET", "/users/u/notes").value, [before])

    def test_one_user_on_two_machines_at_once(self):
        key, refused = self.two_machines_at_once()
        self.compare_bucket()
        self.assertEqual(refused & set(self.read_object(key)[0].values()), set(), "409, and there")
        self.assertEqual(self.bucket.list(key + "-forks/"), [])
        print(f"{dict(self.statuses())}, {len(refused)} texts refused", flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
