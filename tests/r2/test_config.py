#!/usr/bin/env python3
"""Every parameter and variable through the real extension, each in a process of its own."""

import json
import os
import pty
import re
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import one, until  # noqa: E402

CLEAN = {name: None for name in list(os.environ) + list(support.NAMES)
         if name.startswith(("R2", "AWS_")) and name not in ("R2VFS_SO", "R2VFS_BUILD",
                                                             "R2VFS_PRELOAD")}

PROBE = """
try:
    db = sqlite3.connect(sys.argv[1], uri=True, isolation_level=None)
    db.execute("CREATE TABLE IF NOT EXISTS t(x)")
    db.execute("INSERT INTO t VALUES(1)")
    cursor = db.execute("SELECT * FROM r2_status")
    rows = [dict(zip([c[0] for c in cursor.description], row)) for row in cursor]
    print(json.dumps(rows))
    db.close()
except sqlite3.Error as error:
    print("error", error.sqlite_errorcode, error)
"""

OPEN_ALL = """
for target in json.loads(sys.argv[1]):
    print("== ", file=sys.stderr, end="", flush=True)
    try:
        sqlite3.connect(target, uri=True).close()
        print("it opened", file=sys.stderr)
    except sqlite3.Error as error:
        print("error", error.sqlite_errorcode, error, file=sys.stderr)
"""


class Config(support.Case):
    def probe(self, target, env=None, emulator=True):
        """(rows of r2_status, all that was printed) of a process that opens and writes."""
        merged = {**CLEAN, **(self.emulator.env if emulator else {}), **(env or {})}
        done = support.run_python(PROBE, target, env=merged)
        said = done.stdout + done.stderr
        self.assertNotIn(self.emulator.env["R2_SECRET_ACCESS_KEY"], said)
        rows = json.loads(done.stdout) if done.stdout.startswith("[") else None
        return rows, said

    def opened(self, *args, **more):
        rows, said = self.probe(*args, **more)
        self.assertTrue(rows, said)
        return rows[0]

    def wrong(self, words, target, env=None, **more):
        rows, said = self.probe(target, env, **more)
        self.assertIsNone(rows, said)
        self.assertIn("error 14", said)
        for word in words:
            self.assertIn(word, said)
        self.assertFalse(os.path.exists(self.path("app.db")))
        return said

    def all_wrong(self, cases):
        """[(words, target)], in one process."""
        said = support.run_python(OPEN_ALL, json.dumps([target for _, target in cases]),
                                  env={**CLEAN, **self.emulator.env}).stderr.split("== ")[1:]
        self.assertEqual(len(said), len(cases))
        for (words, target), text in zip(cases, said):
            with self.subTest(target):
                for word in ("error 14", *words):
                    self.assertIn(word, text)
        self.assertEqual(os.listdir(self.folder), [])
        return "".join(said)

    def uri(self, remote=..., name="app.db", **params):
        return support.uri(self.path(name), self.remote if remote is ... else remote, **params)

    # Values.

    def test_uri_beats_the_environment(self):
        env = {"R2VFS_REMOTE": self.remote_of(self.prefix + "/env"), "R2VFS_SYNC": "manual",
               "R2VFS_TIMEOUT": "200", "R2_ENDPOINT": "http://127.0.0.1:9/nobody"}
        row = self.opened(self.uri(sync="close", timeout=20000,
                                   endpoint=self.emulator.endpoint), env)
        self.assertEqual((row["remote"], row["sync"]), (self.remote, "close"))
        self.assertEqual(self.bucket.list(self.prefix), [self.key])
        # and what is wrong in the environment does no harm where the URI says better
        row = self.opened(self.uri(sync="manual", name="b.db"), {"R2VFS_SYNC": "often"})
        self.assertEqual(row["sync"], "manual")

    def test_sync_values(self):
        for value, shown in (("close", "close"), ("manual", "manual"), ("250", "250"),
                             ("86400000", "86400000"), (None, "close")):
            for how in ("uri", "env"):
                with self.subTest(value=value, how=how):
                    name = f"{value}{how}.db"
                    self.remote = self.remote_of(f"{self.prefix}/{name}")
                    row = self.opened(
                        self.uri(name=name, sync=value if how == "uri" else None),
                        {"R2VFS_SYNC": value} if how == "env" else None)
                    self.assertEqual((row["sync"], row["layout"]), (shown, "object"))
                    self.assertEqual(self.bucket.exists(f"{self.prefix}/{name}"),
                                     value != "manual")

    def test_wrong_values(self):
        cases = []
        for name, values in (
                ("sync", ("often", "0", "-5", "1.5", "86400001", "CLOSE")),
                ("refresh", ("never", "-1", "86400001")), ("layout", ("files",)),
                ("conflict", ("ask",)), ("offline", ("yes",)),
                ("timeout", ("99", "3600001", "fast")), ("retention", ("60", "3599")),
                ("endpoint", ("ftp://x", "http://", "http://user:hunter22@host", "http://h:99999",
                              "http://h/?x=1"))):
            cases += [([f"the URI parameter {name} "], self.uri(**{name: value}))
                      for value in values]
        self.assertNotIn("hunter22", self.all_wrong(cases))
        for name, value in (("R2VFS_SYNC", "often"), ("R2VFS_REFRESH", "x"),
                            ("R2VFS_LAYOUT", "x"), ("R2VFS_CONFLICT", "x"),
                            ("R2VFS_OFFLINE", "x"), ("R2VFS_TIMEOUT", "1"),
                            ("R2VFS_RETENTION", "1"), ("R2VFS_PROGRESS", "maybe"),
                            ("R2_ENDPOINT", "nonsense")):
            with self.subTest(name):
                self.wrong([f"the environment variable {name} ", value], self.uri(), {name: value})

    def test_wrong_remotes(self):
        self.all_wrong([(["remote"], self.uri(remote)) for remote in (
            "s3://", "s3://bucket", "s3://bucket/", "s3://bucket/a/", "s3:///key",
            "http://bucket/key", "s3://bucket/../key", "s3://bucket/a//b", "bucket/key",
            "file://relative/x", "file:///", "s3://bucket/" + "k" * 901, "s3://bucket/a\\b",
            "s3://key:secret@bucket/x")])
        self.wrong(["the database file itself"], self.uri("file://" + self.path("app.db")))

    def test_needs(self):
        names = ("R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY")
        for name in names:
            with self.subTest(name):
                self.wrong([name], self.uri(), {name: None})
        env = {name: None for name in names}
        self.wrong(["endpoint"], self.uri(), env)
        aws = {"AWS_ENDPOINT_URL_S3": self.emulator.endpoint,
               "AWS_ACCESS_KEY_ID": self.emulator.env["R2_ACCESS_KEY_ID"],
               "AWS_SECRET_ACCESS_KEY": self.emulator.env["R2_SECRET_ACCESS_KEY"]}
        self.assertEqual(self.opened(self.uri(), {**env, **aws})["remote"], self.remote)
        self.assertTrue(self.bucket.exists(self.key))

    def test_last_error(self):
        """The sentence is also where a program finds it."""
        done = support.run_python(
            "try: sqlite3.connect(sys.argv[1], uri=True)\n"
            "except sqlite3.Error: pass\n"
            "db = sqlite3.connect(sys.argv[2], uri=True)\n"
            "print(db.execute('PRAGMA r2_last_error').fetchone()[0])",
            self.uri(version="last"), self.uri(name="other.db"), env=self.emulator.env)
        self.assertIn("the URI parameter version", done.stdout)

    def test_credentials_in_a_uri(self):
        self.assertNotIn("hunter22", self.all_wrong([
            ([name, "credential"], self.uri(**{name: "hunter22"})) for name in (
                "secret_access_key", "R2_SECRET_ACCESS_KEY", "aws_access_key_id", "token",
                "accessKeyId", "password")]))

    # Where.

    def test_prefix_and_root(self):
        os.makedirs(self.path("root/sub/x"))
        os.symlink(self.path("root"), self.path("link"))
        prefix = f"s3://{self.bucket.name}/{self.prefix}"
        cases = (  # root, slash after the prefix, file, key
            (None, "", "root/sub/a.db", "a.db"), (None, "/", "root/sub/b.db", "b.db"),
            ("root", "", "root/c.db", "c.db"), ("root/", "/", "root/sub/x/d.db", "sub/x/d.db"),
            ("link", "", "root/sub/e.db", "sub/e.db"), ("root", "", "link/sub/f.db", "sub/f.db"),
            ("root", "", "rooted.db", None), ("root/sub", "", "root/g.db", None))
        for root, slash, name, key in cases:
            with self.subTest(root=root, name=name):
                env = {"R2VFS_REMOTE": prefix + slash}
                if root:
                    env["R2VFS_ROOT"] = os.path.join(self.folder, root)
                rows, said = self.probe(self.uri(None, name), env)
                if key is None:
                    self.assertEqual(rows, [], said)
                    self.assertFalse(os.path.exists(self.path(name) + "-r2"))
                else:
                    self.assertTrue(rows, said)
                    self.assertEqual(rows[0]["remote"], f"{prefix}/{key}")
                    self.assertTrue(self.bucket.exists(f"{self.prefix}/{key}"))
        self.wrong(["R2VFS_ROOT", "absolute"], self.uri(None),
                   {"R2VFS_REMOTE": prefix, "R2VFS_ROOT": "relative"})

    def test_default_vfs(self):
        env = {**self.emulator.env, "R2VFS_REMOTE": self.remote_of(self.prefix)}
        for how in ("variable", "entry", "neither"):
            with self.subTest(how):
                name = how + ".db"
                lines = {"entry": [f".load {support.SO} sqlite3_r2vfsdefault_init"]}.get(
                    how, [f".load {support.SO}"])
                more = {"R2VFS_DEFAULT": "1"} if how == "variable" else {}
                done = support.shell(lines + [f".open {self.path(name)}", ".vfsname",
                                              "CREATE TABLE t(x);",
                                              "SELECT count(*) FROM r2_status;"],
                                     env={**CLEAN, **env, **more}, loaded=False)
                ours = how != "neither"
                self.assertEqual(done.stdout.split(),
                                 ["r2vfs/unix", "1"] if ours else ["unix", "0"])
                self.assertEqual(self.bucket.exists(f"{self.prefix}/{name}"), ours)

    def test_two_remotes_for_one_file(self):
        db = self.connect()
        db.execute("CREATE TABLE t(x)")
        self.fails(self.connect, "app.db", self.remote_of(self.prefix + "/else.db"), code=14)
        self.assertIn("close it before", one(db, "PRAGMA r2_last_error"))
        self.assertEqual(one(db, "SELECT sync()"), 1)

    # Behaviour that a value asks for.

    @support.object_layout("it counts requests")
    def test_timer(self):
        peer = self.peer(sync=50)
        peer("CREATE TABLE t(x)")
        until(lambda: peer.one("SELECT r2_version()") == 1)
        peer("INSERT INTO t VALUES(5)")
        until(lambda: peer.one("SELECT r2_version()") == 2)
        self.assertEqual(peer.one("SELECT requests_a FROM r2_status"), 2)
        peer.kill()
        self.assertEqual(one(self.connect("b/app.db"), "SELECT x FROM t"), 5)

    def test_fork(self):
        """A child of fork() neither pushes nor disturbs; what it opens itself is its own."""
        code = """
db = connect(sys.argv[1], sys.argv[2], sync="manual")
db.execute("CREATE TABLE t(x)")
db.execute("INSERT INTO t VALUES('parent')")
pid = os.fork()
if pid == 0:
    status = 1
    try:
        try:
            db.execute("SELECT sync()").fetchone()
            print("the child synced")
        except sqlite3.Error as error:
            print("child:", error)
        for row in db.execute("SELECT * FROM r2_status"):
            print("a row in the child")
        own = connect(sys.argv[3], sys.argv[4])
        own.execute("CREATE TABLE own AS SELECT 1 AS x")
        print("own", own.execute("SELECT sync()").fetchone()[0])
        own.close()
        del db                      # closes it, as an exit in order would
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)
print("status", os.waitpid(pid, 0)[1])
print("parent", db.execute("SELECT r2_version()").fetchone()[0])
db.execute("INSERT INTO t VALUES('later')")
print("synced", db.execute("SELECT sync()").fetchone()[0])
db.close()
"""
        second = self.prefix + "/second.db"
        done = support.run_python(code, self.path(), self.remote, self.path("second.db"),
                                  self.remote_of(second), env=self.emulator.env)
        lines = done.stdout.splitlines()
        self.assertIn("fork()", lines[0])
        self.assertEqual(lines[1:], ["own 1", "status 0", "parent 0", "synced 1"])
        self.assertEqual(self.bucket.head(second).meta["db-version"], "1")
        self.assertEqual(one(self.connect("b/app.db"), "SELECT count(*) FROM t"), 2)

    def test_fork_with_the_same_file(self):
        code = """
db = connect(sys.argv[1], sys.argv[2])
db.execute("CREATE TABLE t(x)")
db.execute("SELECT sync()").fetchone()
pids = []
for n in range(4):
    pid = os.fork()
    if pid == 0:
        own = connect(sys.argv[1], sys.argv[2])
        own.execute("INSERT INTO t VALUES(?)", (n,))
        own.execute("SELECT sync()").fetchone()
        own.close()
        os._exit(0)
    pids.append(pid)
print([os.waitpid(pid, 0)[1] for pid in pids])
print(one(db, "SELECT count(*) FROM t"), one(db, "SELECT sync()") > 1)
db.close()
"""
        done = support.run_python(code, self.path(), self.remote, env=self.emulator.env)
        self.assertEqual(done.stdout.splitlines(), ["[0, 0, 0, 0]", "4 True"])
        self.assertEqual(one(self.connect("b/app.db"), "SELECT count(*) FROM t"), 4)

    def progress(self, value):
        """What a terminal shows during a pull of 12 MB that halts in its middle for a while."""
        proxy = self.proxy()
        if not self.bucket.exists(self.key):
            db = self.connect("seed/app.db")
            db.execute("CREATE TABLE t AS SELECT randomblob(12000000) AS x")
            db.close()
        ours, theirs = pty.openpty()
        env = {**self.emulator.env, "R2_ENDPOINT": proxy.endpoint, "R2VFS_PROGRESS": value}
        proxy.delay(1500, method="GET", key=r"app\.db$")    # not a listing beside it
        shown = bytearray()

        def read():
            try:
                while piece := os.read(ours, 4096):
                    shown.extend(piece)
            except OSError:
                pass                        # the terminal's end
        thread = threading.Thread(target=read)
        thread.start()
        child = self.spawn("connect(sys.argv[1], sys.argv[2]).close(); print('done')",
                           self.path(f"{value}/app.db"), self.remote, env=env, stderr=theirs)
        os.close(theirs)
        support.expect(child, "done")
        support.finish(child)
        thread.join()
        os.close(ours)
        return shown.decode()

    def test_progress(self):
        shown = self.progress("1")
        self.assertRegex(shown, r"r2vfs: .*app\.db +\d+ of 12 MiB")
        self.assertTrue(shown.endswith("\r\x1b[K"), repr(shown))     # it leaves the line empty
        self.assertEqual(self.progress("0"), "")

    def test_no_credential_anywhere(self):
        """All that a busy and a failing process say, and its log of requests."""
        code = """
db = connect(sys.argv[1], sys.argv[2], timeout=60)
db.execute("CREATE TABLE t(x)")
print(db.execute("SELECT sync()").fetchall())
print(db.execute("SELECT * FROM r2_requests").fetchall())
print(db.execute("SELECT * FROM r2_status").fetchall())
url = db.execute("SELECT r2_presign(60)").fetchone()[0]
print("presigned", url)
os.environ.update(R2_ENDPOINT="http://127.0.0.1:9/nobody", R2VFS_TIMEOUT="500")
try: connect(sys.argv[1] + "2", sys.argv[2])
except sqlite3.Error as error: print(error)
print(db.execute("PRAGMA r2_last_error").fetchall())
"""
        done = support.run_python(code, self.path(), self.remote, env=self.emulator.env)
        said = done.stdout + done.stderr
        self.assertNotIn(self.emulator.env["R2_SECRET_ACCESS_KEY"], said)
        url = re.search("presigned (.*)\n", said).group(1)
        self.assertNotIn(self.emulator.env["R2_ACCESS_KEY_ID"] + "%2F", said.replace(url, ""))
        self.assertNotIn("Signature", said.replace(url, ""))
        with open(self.path("app.db-r2"), "rb") as file:
            state = file.read()
        for name in ("R2_SECRET_ACCESS_KEY", "R2_ACCESS_KEY_ID"):
            self.assertNotIn(self.emulator.env[name].encode(), state)


if __name__ == "__main__":
    support.main()
