#!/usr/bin/env python3
"""The story in Node: better-sqlite3 and node:sqlite, each with a SQLite of its own; in worker threads;
both at once; and over TLS, because node brings an OpenSSL of its own, which r2vfs then uses."""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import nodes  # noqa: E402
import pool  # noqa: E402
import story  # noqa: E402
import support  # noqa: E402
import tlsfront  # noqa: E402


class InNode(pool.Pool):
    driver = None

    @classmethod
    def build(cls, folder):
        cls.env = {"NODE_PATH": nodes.modules()}
        return [nodes.node(), cls.path_of(cls.source)]

    def program(self, name):
        return [nodes.node(), self.path_of(f"large/node/{name}.js"), self.driver]

    def pool_command(self):
        return self.program("pool")

    def test_barred(self):
        """conflict=error, with a newer SQLite than the system's."""
        rows = self.writes("default", 1)
        local = self.connect("a/app.db", sync="manual")
        local.execute("INSERT INTO story(who) VALUES('loser')")
        local.close()
        other = self.connect("b/app.db")
        other.execute("INSERT INTO story(who) VALUES('winner')")
        other.close()
        self.env = {**self.env, "R2VFS_CONFLICT": "error"}
        said, errors = self.finish(self.start_program(self.program("barred"), "barred"))
        self.assertEqual([word for word, _ in said], ["error", "row", "error", "row", "row", "closed"])
        self.assertIn("unable to open", said[0][1])
        for text in said[1][1], said[2][1]:
            for words in "conflict", "version 1", "version 2", "r2_resolve('fork')":
                self.assertIn(words, text)
        self.assertEqual(said[3:5], [("row", "2"), ("row", f"{rows[0][1]},winner")])
        fork, = self.bucket.list(self.key + "-forks/")
        self.assertEqual(self.in_bucket(fork)[1], rows + [(2, "loser")])
        self.assertIn(fork, "".join(errors))

    def test_tls(self):
        with tlsfront.TlsFront(self.emulator.endpoint, self.path("tls")) as front:
            self.env = {**self.env, "R2_ENDPOINT": front.endpoint, "CURL_CA_BUNDLE": front.authority}
            rows = self.writes("default", 1)
            self.reads_again("default", 1, rows)
            self.loses("default", 1, rows)
            self.assertGreaterEqual(front.connections, 3)       # one per process at least
            # And somebody who shows another certificate is not spoken to.
            with tlsfront.TlsFront(self.emulator.endpoint, self.path("other")) as other:
                self.env["R2_ENDPOINT"] = other.endpoint
                child = self.start("default", "read")
                out, _ = child.communicate(timeout=support.DEADLINE)
                self.assertEqual((child.returncode != 0, out), (True, ""))
                with open(self.path("stderr")) as file:
                    self.assertIn("certificate is not trusted", file.read())
                self.assertEqual(other.connections, 0)


class BetterSqlite3(InNode, story.Story):
    client = "Node better-sqlite3"
    source = "large/node/story_better_sqlite3.js"
    loading = 'loader.loadExtension("./r2vfs", "sqlite3_r2vfsdefault_init")'
    mind = ("it opens no `file:` URI: r2vfs as the default VFS, and the environment names the remote. "
            "No `sync()` inside `transaction()`. Node waits while `sync()` and `close()` upload: use a "
            "worker thread where that matters. `process.exit()` closes nothing: `db.close()` first")
    minds = 1
    ways = ("default",)         # its SQLite knows no URI file names
    driver = "better-sqlite3"


class NodeSqlite(InNode, story.Story):
    client = "Node node:sqlite"
    source = "large/node/story_node_sqlite.js"
    loading = 'loader.loadExtension("./r2vfs")'
    mind = ("open with `{ timeout: 5000 }`: its busy timeout is 0, and a write beside a push or another "
            "process fails at once. An `iterate()` not read to its end: `return()` it before `sync()`. "
            "Uploads and `process.exit()`: as with better-sqlite3")
    minds = 1
    driver = "node:sqlite"


class TwoLibraries(support.Case):
    """One process, two copies of SQLite: the first one has r2vfs, the other is told."""

    def told(self, first, second):
        done = subprocess.run(
            [nodes.node(), os.path.join(nodes.HERE, "node", "two_libraries.js"), first, second],
            env=support.child_env({"NODE_PATH": nodes.modules(), "R2VFS_SO": support.SO,
                                   "STORY_PATH": self.path("app.db"),
                                   "R2VFS_ROOT": self.folder,
                                   "R2VFS_REMOTE": self.remote_of(self.prefix)}),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=support.DEADLINE)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        refusal, version = done.stdout.splitlines()
        self.assertRegex(refusal, "^refused .*r2vfs: already loaded by another SQLite library in "
                                  "this process; one process can use it with one SQLite only$")
        self.assertEqual(version, "version 1")
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")

    def test_better_sqlite3_first(self):
        self.told("better-sqlite3", "node:sqlite")

    def test_node_sqlite_first(self):
        self.told("node:sqlite", "better-sqlite3")


if __name__ == "__main__":
    story.main()
