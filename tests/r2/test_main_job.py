#!/usr/bin/env python3
"""The main job: data made in one place is found in another, by the shell, Python and C, in rollback
and WAL mode; what stands in the bucket is a plain SQLite file with the metadata that DESIGN names."""

import http.client
import os
import re
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one  # noqa: E402

NAMES = {"db-version", "db-lineage", "db-layout", "db-checksum", "db-recent"}

CLIENT = r"""
#include <sqlite3.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    sqlite3 *db;
    char *message = NULL;
    if (argc != 4 || sqlite3_open(":memory:", &db)) return 1;
    sqlite3_enable_load_extension(db, 1);
    if (sqlite3_load_extension(db, argv[1], NULL, &message))
        return fprintf(stderr, "%s\n", message), 2;
    sqlite3_close(db);
    if (sqlite3_open_v2(argv[2], &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                        NULL)) return 3;
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(db, argv[3], -1, &s, NULL))
        return fprintf(stderr, "%s\n", sqlite3_errmsg(db)), 4;
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) printf("%s\n", sqlite3_column_text(s, 0));
    if (rc != SQLITE_DONE) return fprintf(stderr, "%s\n", sqlite3_errmsg(db)), 5;
    return sqlite3_finalize(s) || sqlite3_close(db);
}
"""

SERVER = """
import http.server, signal, socket
listener = socket.socket(fileno=int(sys.argv[2]))

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.db.execute("INSERT INTO hits VALUES(?, ?)", (self.path, os.getpid()))
        body = str(self.db.execute("SELECT count(*) FROM hits").fetchone()[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

def work():
    db = sqlite3.connect(sys.argv[1], uri=True, timeout=60, isolation_level=None)
    db.execute("CREATE TABLE IF NOT EXISTS hits(path, pid)")
    Answer.db = db
    def stop(*_):
        raise SystemExit
    signal.signal(signal.SIGTERM, stop)
    sys.stdout.write(f"ready {os.getpid()}\\n")     # in one piece: four write to this pipe
    try:
        while True:
            connection, address = listener.accept()
            Answer(connection, address, None)
            connection.close()
    finally:
        db.close()

workers = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    workers.append(pid)
sys.stdin.read()
for pid in workers:
    os.kill(pid, signal.SIGTERM)
for pid in workers:
    os.waitpid(pid, 0)
"""


class MainJob(support.Case):
    def forget_local(self, name):
        """The database and all that lies beside it."""
        folder = os.path.dirname(self.path(name))
        for entry in os.listdir(folder):
            if entry.startswith(os.path.basename(name)):
                os.remove(os.path.join(folder, entry))

    def check(self, version, local=None, modes=None):
        """What stands in the bucket is this version, as DESIGN section 2 draws it."""
        found = self.bucket.get(self.key)
        data, size = found.body, support.page_size_of(found.body)
        self.assertEqual(set(found.meta), NAMES)
        self.assertEqual(found.meta["db-version"], str(version))
        self.assertRegex(found.meta["db-lineage"], "^[0-9a-f]{32}$")
        self.assertNotEqual(found.meta["db-lineage"], "0" * 32)
        self.assertEqual(found.meta["db-layout"], support.LAYOUT)
        self.assertEqual(found.meta["db-checksum"], support.ltx_checksum(data))
        recent = [re.fullmatch("([0-9]+):[0-9a-f]{16}", entry)
                  for entry in found.meta["db-recent"].split(",")]
        self.assertEqual([int(entry.group(1)) for entry in recent],
                         list(range(version, max(0, version - 64), -1)))
        self.assertEqual(len({entry.group(0)[-16:] for entry in recent}), len(recent))
        self.assertEqual(support.number_at(data, 24), version)
        self.assertEqual(support.number_at(data, 92), version)
        self.assertEqual(len(data) % size, 0)
        self.assertEqual(support.number_at(data, 28), len(data) // size)
        self.assertEqual(support.integrity_of_bytes(data), "ok")
        if modes:
            self.assertEqual((data[18], data[19]), modes)
        if local:
            with open(self.path(local), "rb") as file:
                self.assertEqual(support.without_local_fields(file.read()),
                                 support.without_local_fields(data))
        return found

    def story(self, mode, run, a="a/app.db", b="b/app.db"):
        """run(name, sql) opens, runs, closes, and gives the lines that came."""
        self.assertIn(mode, run(a, f"PRAGMA journal_mode={mode}"))
        run(a, "CREATE TABLE t(id INTEGER PRIMARY KEY, name)")
        run(a, "INSERT INTO t(name) VALUES('Ada'), ('Grace'), ('Edsger')")
        run(a, "DELETE FROM t WHERE name = 'Edsger'")
        version = int(self.bucket.head(self.key).meta["db-version"])
        self.check(version, a, (2, 2) if mode == "wal" else (1, 1))
        self.forget_local(a)
        self.assertEqual(os.listdir(os.path.dirname(self.path(a))), [])
        self.assertEqual(run(a, "SELECT name FROM t ORDER BY 1"), ["Ada", "Grace"])
        # another machine, which never saw the file
        self.assertEqual(run(b, "SELECT name FROM t ORDER BY 1"), ["Ada", "Grace"])
        self.assertEqual(run(b, "PRAGMA journal_mode"), [mode])
        run(b, "INSERT INTO t(name) VALUES('Barbara')")
        self.assertEqual(run(a, "SELECT count(*) FROM t"), ["3"])
        self.check(version + 1, b)

    def in_shell(self, name, sql):
        target = support.uri(self.path(name), self.remote)
        return support.shell(sql + ";", target).stdout.split()

    def in_python(self, name, sql):
        return support.run_python(
            "db = connect(*sys.argv[1:3])\n"
            "for row in db.execute(sys.argv[3]): print(row[0])\n"
            "db.close()", self.path(name), self.remote, sql).stdout.split()

    def test_shell_rollback(self):
        self.story("delete", self.in_shell)

    def test_shell_wal(self):
        self.story("wal", self.in_shell)

    def test_python_rollback(self):
        self.story("delete", self.in_python)

    def test_python_wal(self):
        self.story("wal", self.in_python)

    def test_c_both_modes(self):
        program = self.path("client")
        with open(program + ".c", "w") as file:
            file.write(CLIENT)
        subprocess.run(["cc", "-o", program, program + ".c", "-lsqlite3"], check=True)
        for mode in ("delete", "wal"):
            self.key = f"{self.prefix}/{mode}.db"
            self.remote = self.remote_of(self.key)

            def run(name, sql):
                return subprocess.run(
                    [program, support.SO, support.uri(self.path(name), self.remote), sql],
                    env=support.child_env(), check=True, text=True,
                    stdout=subprocess.PIPE).stdout.split()
            self.story(mode, run, f"{mode}/a/app.db", f"{mode}/b/app.db")

    def test_shell_with_the_environment_only(self):
        env = {"R2VFS_DEFAULT": "1", "R2VFS_REMOTE": f"s3://{self.bucket.name}/{self.prefix}"}
        support.shell("CREATE TABLE t(x); INSERT INTO t VALUES(42);", self.path("app.db"), env)
        self.check(1, "app.db")
        self.forget_local("app.db")
        self.assertEqual(support.shell("SELECT x FROM t;", self.path("app.db"), env).stdout, "42\n")

    def test_four_workers(self):
        """A web server with four processes; stopped, its file deleted, started again."""
        answers = []
        for turn in range(2):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                child = self.spawn(SERVER, support.uri(self.path(), self.remote),
                                   listener.fileno(), pass_fds=[listener.fileno()])
                for _ in range(4):
                    support.expect(child, "ready")
            for n in range(40):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("GET", f"/{turn}/{n}")
                answers.append(int(connection.getresponse().read()))
                connection.close()
            support.finish(child)
            self.forget_local("app.db")
        self.assertEqual(answers, list(range(1, 81)))
        db = self.connect("b/app.db")
        self.assertEqual(one(db, "SELECT count(DISTINCT path) FROM hits"), 80)
        self.assertGreater(one(db, "SELECT count(DISTINCT pid) FROM hits"), 2)
        self.check(int(self.bucket.head(self.key).meta["db-version"]))

    # The object.

    def test_versions_and_cookie(self):
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE t(x)")
        db.execute("CREATE TABLE u(x)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        born = self.check(1, "a/app.db", (1, 1))
        cookie = support.number_at(born.body, 40)
        for version in range(2, 5):                     # many commits, one version
            for n in range(3):
                db.execute("INSERT INTO t VALUES(?)", (n,))
            self.assertEqual(one(db, "SELECT sync()"), version)
            found = self.check(version, "a/app.db", (1, 1))
            self.assertEqual(support.number_at(found.body, 40), cookie)
            self.assertEqual(found.meta["db-lineage"], born.meta["db-lineage"])
        db.execute("CREATE TABLE v(x)")
        db.execute("DROP TABLE u")
        db.execute("CREATE INDEX i ON t(x)")
        self.assertEqual(one(db, "SELECT sync()"), 5)
        self.assertEqual(support.number_at(self.check(5).body, 40), cookie + 1)
        self.assertEqual(one(db, "PRAGMA journal_mode=wal"), "wal")
        db.execute("INSERT INTO t VALUES(99)")
        self.assertEqual(one(db, "SELECT sync()"), 6)
        self.assertEqual(support.number_at(self.check(6, modes=(1, 1)).body, 40), cookie + 1)
        db.close()
        # The journal mode is each machine's own.
        other = self.connect("b/app.db")
        self.assertEqual(one(other, "PRAGMA journal_mode"), "delete")
        self.assertEqual(one(self.connect("a/app.db"), "PRAGMA journal_mode"), "wal")

    def test_born_in_wal(self):
        db = self.connect("a/app.db")
        db.execute("PRAGMA journal_mode=wal")
        db.execute("CREATE TABLE t(x)")
        self.assertEqual(one(db, "SELECT sync()"), 1)
        self.check(1, modes=(2, 2))
        self.assertEqual(one(db, "PRAGMA journal_mode=delete"), "delete")
        db.execute("INSERT INTO t VALUES(1)")
        db.close()
        self.check(2, "a/app.db", (2, 2))
        other = self.connect("b/app.db")
        self.assertEqual(one(other, "PRAGMA journal_mode"), "wal")
        other.execute("INSERT INTO t VALUES(2)")
        other.close()
        self.check(3, "b/app.db", (2, 2))
        db = self.connect("a/app.db")
        self.assertEqual(one(db, "PRAGMA journal_mode"), "delete")
        self.assertEqual(one(db, "SELECT sum(x) FROM t"), 3)

    def test_recent_is_cut_at_64(self):
        db = self.connect()
        db.execute("CREATE TABLE t(x)")
        for version in range(1, 71):
            db.execute("INSERT INTO t VALUES(1)")
            self.assertEqual(one(db, "SELECT sync()"), version)
        self.check(70, "app.db")

    # Which files are ours.

    def test_attach(self):
        keys = [f"{self.prefix}/{n}.db" for n in range(3)]
        remotes = [self.remote_of(key) for key in keys]
        db = self.connect("main.db", remotes[0])
        db.execute("ATTACH ? AS second", (support.uri(self.path("second.db"), remotes[1]),))
        db.execute("ATTACH ? AS third", (support.uri(self.path("third.db")),))
        db.execute("BEGIN")
        for n, schema in enumerate(("main", "second", "third")):
            db.execute(f"CREATE TABLE {schema}.t AS SELECT {n} AS x")
        db.execute("COMMIT")
        self.assertEqual(one(db, "SELECT sync('second')"), 1)
        self.assertEqual(self.bucket.list(self.prefix), keys[1:2])
        self.fails(db.execute, "SELECT sync('third')", says=["third", "no remote"])
        self.fails(db.execute, "SELECT sync('fourth')", says="fourth")
        self.assertEqual(one(db, "SELECT r2_version('second')"), 1)
        self.assertEqual(one(db, "SELECT r2_version()"), 0)
        self.assertEqual(db.execute("SELECT file, remote, version FROM r2_status ORDER BY 1"
                                    ).fetchall(),
                         [(self.path("main.db"), remotes[0], 0),
                          (self.path("second.db"), remotes[1], 1)])
        db.execute("UPDATE second.t SET x = 11")
        db.execute("DETACH second")                     # a close like any other
        self.assertEqual(self.bucket.head(keys[1]).meta["db-version"], "2")
        db.close()
        self.assertEqual(self.bucket.list(self.prefix), keys[:2])
        self.assertEqual(sorted(os.listdir(self.folder)), [
            "main.db", "main.db-r2", "second.db", "second.db-r2", "third.db"])
        db = self.connect("b/main.db", remotes[0])
        db.execute("ATTACH ? AS second", (support.uri(self.path("b/second.db"), remotes[1]),))
        self.assertEqual(db.execute("SELECT main.t.x, second.t.x FROM main.t, second.t").fetchall(),
                         [(0, 11)])
        self.fails(db.execute, "ATTACH ? AS again",
                   support.uri(self.path("b/main.db"), remotes[1]))

    def test_pass_through(self):
        proxy = self.proxy()
        env = {"R2_ENDPOINT": proxy.endpoint, "R2VFS_DEFAULT": "1"}
        lines = ["CREATE TABLE t(x);", "INSERT INTO t VALUES(1);", ".vfsname",
                 "PRAGMA journal_mode=wal;", "INSERT INTO t VALUES(2);", "SELECT sum(x) FROM t;"]
        done = support.shell(lines, self.path("plain.db"), env)
        self.assertEqual(done.stdout.split(), ["unix", "wal", "3"])
        # With a remote for the files below one folder: others, temporary and memory ones are not.
        env |= {"R2VFS_REMOTE": self.remote_of(self.prefix), "R2VFS_ROOT": self.path("root")}
        os.mkdir(self.path("root"))
        done = support.shell(lines + [
            "CREATE TEMP TABLE big AS SELECT zeroblob(100000) AS b;", "PRAGMA cache_size=2;",
            "INSERT INTO big SELECT b FROM big;", "SELECT count(*) FROM big;",
            "ATTACH ':memory:' AS m;", "CREATE TABLE m.t(x);",
            "ATTACH '' AS e;", "CREATE TABLE e.t(x);", "INSERT INTO e.t VALUES(7);"],
            self.path("outside.db"), env)
        self.assertEqual(done.stdout.split(), ["unix", "wal", "3", "2"])
        for name in ("", ":memory:", "file::memory:?vfs=r2vfs", "file:?vfs=r2vfs"):
            done = support.shell(["CREATE TABLE t(x);", "INSERT INTO t VALUES(5);",
                                  "SELECT x FROM t;", "SELECT sync();"], name, env, check=False)
            self.assertEqual(done.stdout.strip(), "5", name)
            self.assertIn("no remote", done.stderr)
        self.assertEqual(proxy.requests, [])
        self.assertEqual(sorted(os.listdir(self.folder)), ["outside.db", "plain.db", "root"])
        done = support.shell(lines, self.path("root/in/side.db"), env, check=False)
        self.assertEqual(done.stdout.split(), ["r2vfs/unix", "wal", "3"])
        self.assertEqual(self.bucket.list(self.prefix), [self.prefix + "/in/side.db"])

    def test_it_is_a_plain_file_for_everybody(self):
        db = self.connect("a/app.db")
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES('plain')")
        db.close()
        with open(self.path("copy.db"), "wb") as file:
            file.write(self.bucket.get(self.key).body)
        done = subprocess.run(["sqlite3", self.path("copy.db"), "SELECT x FROM t; "
                               "INSERT INTO t VALUES(2); PRAGMA integrity_check"], check=True,
                              text=True, stdout=subprocess.PIPE)
        self.assertEqual(done.stdout, "plain\nok\n")


if __name__ == "__main__":
    support.main()
