"""test_server.py - the original test: create data, stop the server, delete the local files, start it
again, and find the data.

An HTTP server of 4 pre-forked worker processes on one listening socket opens the user's database
through r2vfs for each request and closes it afterwards. Clients insert rows and read them back, all
at once. Then all workers are killed, the local folder is deleted, new workers are started, and every
acknowledged write is compared."""

import http.client
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402

WORKERS = 4
USERS = 8
CLIENTS = 6
WRITES = 20                             # of each client

SERVER = r"""
import http.server, signal, socket, urllib.parse
DATA, REMOTE, MODE, ACK, WORKERS = sys.argv[1:5] + [int(sys.argv[5])]

def get_db_connection(user):
    # what a person writes who follows the README
    folder = os.path.join(DATA, user)
    os.makedirs(folder, exist_ok=True)
    db = sqlite3.connect(f"file:{folder}/app.db?vfs=r2vfs&remote={REMOTE}/users/{user}/app.db",
                         uri=True, isolation_level=None, timeout=60)
    db.execute(f"PRAGMA journal_mode={MODE}")
    db.execute("CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, name TEXT UNIQUE, body TEXT)")
    return db

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        note = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            db = get_db_connection(self.path.strip("/"))
            try:
                db.execute("INSERT INTO notes(name, body) VALUES(?, ?)", (note["name"], note["body"]))
                version = None
                if ACK == "sync":       # in R2 before the client hears of it
                    version, = db.execute("SELECT sync()").fetchone()
            finally:
                db.close()
            self.answer(200, {"version": version, "worker": os.getpid()})
        except sqlite3.Error as error:
            self.answer(500, {"error": str(error)})

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path)
        try:
            db = get_db_connection(path.path.strip("/"))
            try:
                rows = db.execute("SELECT name, body FROM notes ORDER BY id").fetchall()
            finally:
                db.close()
            self.answer(200, rows)
        except sqlite3.Error as error:
            self.answer(500, {"error": str(error)})

server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.request_queue_size = 128
server.server_bind(); server.server_activate()
workers = []
for _ in range(WORKERS):
    pid = os.fork()
    if pid == 0:
        server.serve_forever()          # accept() of all workers on one socket
    workers.append(pid)
print("listening", server.server_port, *workers)
for pid in workers:
    os.waitpid(pid, 0)
"""


class Server(support.Case):
    def setUp(self):
        super().setUp()
        self.data = os.path.join(self.folder, "data")
        self.root = self.remote_of(self.prefix)
        self.seed = int(os.environ.get("R2VFS_SEED") or random.SystemRandom().randrange(1 << 32))
        print(f"seed: R2VFS_SEED={self.seed}", flush=True)

    def start(self, mode, ack):
        self.server = self.spawn(SERVER, self.data, self.root, mode, ack, WORKERS)
        words = support.expect(self.server, "listening").split()
        self.port, self.workers = int(words[1]), [int(pid) for pid in words[2:]]
        self.addCleanup(self.kill_workers)

    def kill_workers(self):
        """kill -9, all of them; the parent then ends by itself."""
        for pid in self.workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.workers = []
        self.server.wait(support.DEADLINE)

    def request(self, method, user, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=support.DEADLINE)
        try:
            connection.request(method, "/" + user, json.dumps(body) if body else None)
            answer = connection.getresponse()
            value = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise AssertionError(f"{method} {user}: {answer.status} {value}")
        return value

    def client(self, n, round_, acknowledged, workers, failed):
        """Writes, each read back at once, by whichever worker takes the request."""
        pick = random.Random(f"{self.seed}:{round_}:{n}")
        try:
            for k in range(WRITES):
                user = f"u{pick.randrange(USERS)}"
                note = {"name": f"{round_}-{n}-{k}", "body": pick.randbytes(pick.randrange(1, 3000)).hex()}
                answer = self.request("POST", user, note)
                acknowledged.append((user, note["name"], note["body"]))
                workers.add(answer["worker"])
                there = {name: body for name, body in self.request("GET", user)}
                if there.get(note["name"]) != note["body"]:
                    raise AssertionError(f"{user}: {note['name']} was acknowledged and is not there")
        except Exception as error:      # noqa: B902
            failed.append(f"client {n}: {error!r}")

    def traffic(self, round_):
        acknowledged, workers, failed = [], set(), []
        clients = [threading.Thread(target=self.client, args=(n, round_, acknowledged, workers, failed))
                   for n in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        self.assertEqual(failed, [])
        self.assertEqual(len(acknowledged), CLIENTS * WRITES)
        self.assertGreater(len(workers), 1, "one worker did it all: nothing was tested")
        return acknowledged

    def compare(self, acknowledged):
        """Every acknowledged write, once, and nothing else."""
        expected = {}
        for user, name, body in acknowledged:
            expected.setdefault(user, {})[name] = body
        for user in sorted(expected):
            rows = self.request("GET", user)
            self.assertEqual(len(rows), len(expected[user]), user)
            self.assertEqual({name: body for name, body in rows}, expected[user], user)

    def in_the_bucket(self, acknowledged):
        """The same, past r2vfs: what an S3 client and a stock SQLite find."""
        for user in sorted({user for user, _, _ in acknowledged}):
            data = self.bucket.get(f"{self.prefix}/users/{user}/app.db").body
            self.assertEqual(support.integrity_of_bytes(data), "ok")
            path = self.path("look.db")
            with open(path, "wb") as file:
                file.write(data)
            db = sqlite3.connect(path)
            found = dict(db.execute("SELECT name, body FROM notes"))
            db.close()
            os.unlink(path)
            for suffix in ("-wal", "-shm"):
                if os.path.exists(path + suffix):
                    os.unlink(path + suffix)
            self.assertEqual(found, {name: body for u, name, body in acknowledged if u == user})
        self.assertEqual([key for key in self.bucket.list(self.prefix) if "-forks/" in key], [])

    def data_survives(self, mode, ack):
        self.start(mode, ack)
        acknowledged = self.traffic(1)
        for _ in range(2):
            self.kill_workers()
            shutil.rmtree(self.data)
            self.in_the_bucket(acknowledged)
            self.start(mode, ack)
            self.compare(acknowledged)
        # and it goes on, over what was restored
        acknowledged += self.traffic(2)
        self.kill_workers()
        shutil.rmtree(self.data)
        self.start(mode, ack)
        self.compare(acknowledged)
        self.kill_workers()
        self.in_the_bucket(acknowledged)

    def test_sync_rollback(self):
        self.data_survives("delete", "sync")

    def test_sync_wal(self):
        self.data_survives("wal", "sync")

    def test_close_rollback(self):
        """The route relies on close() alone, which pushes (sync=close)."""
        self.data_survives("delete", "close")

    def test_close_wal(self):
        self.data_survives("wal", "close")

    def killed_in_traffic(self, mode):
        """kill -9 under full load: what was acknowledged is there, what was not may be."""
        self.start(mode, "sync")
        sent, acknowledged, stop = [], [], threading.Event()
        enough = threading.Semaphore(0)

        def client(n):
            pick = random.Random(f"{self.seed}:kill:{n}")
            k = 0
            while not stop.is_set():
                k += 1
                user = f"u{pick.randrange(USERS)}"
                note = {"name": f"{n}-{k}", "body": pick.randbytes(500).hex()}
                sent.append((user, note["name"], note["body"]))
                try:
                    self.request("POST", user, note)
                except (OSError, http.client.HTTPException, ValueError):
                    return              # the worker is dead
                acknowledged.append((user, note["name"], note["body"]))
                enough.release()
        clients = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
        for thread in clients:
            thread.start()
        for _ in range(40):
            self.assertTrue(enough.acquire(timeout=support.DEADLINE), "the server stands still")
        for pid in self.workers:
            os.kill(pid, signal.SIGKILL)
        stop.set()
        self.server.wait(support.DEADLINE)
        for thread in clients:
            thread.join()
        shutil.rmtree(self.data)
        self.start(mode, "sync")
        for user in sorted({user for user, _, _ in sent}):
            found = {(user, name, body) for name, body in self.request("GET", user)}
            self.assertLessEqual({row for row in acknowledged if row[0] == user}, found)
            self.assertLessEqual(found, set(sent))
        self.kill_workers()

    def test_killed_in_traffic_rollback(self):
        self.killed_in_traffic("delete")

    def test_killed_in_traffic_wal(self):
        self.killed_in_traffic("wal")

    def test_restart_without_loss_of_the_folder(self):
        """The same folder after kill -9: the replicas go on where they were."""
        for mode in ("delete", "wal"):
            with self.subTest(mode=mode):
                self.root = self.remote_of(f"{self.prefix}/{mode}")
                self.data = os.path.join(self.folder, mode)
                self.start(mode, "close")
                acknowledged = self.traffic(1)
                self.kill_workers()
                self.start(mode, "close")
                self.compare(acknowledged)
                self.kill_workers()


if __name__ == "__main__":
    unittest.main(verbosity=2)
