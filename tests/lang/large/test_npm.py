#!/usr/bin/env python3
"""The npm package, installed into an empty folder without a network: the story through open() with
better-sqlite3 (require) and node:sqlite (import), and what a caller may get wrong."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import nodes  # noqa: E402
import packages  # noqa: E402
import story  # noqa: E402
import support  # noqa: E402

README = os.path.join(support.ROOT, "ext", "node", "README.md")
_project = None


def project():
    """A folder that has nothing but this package; the drivers are beside it."""
    global _project
    if _project is None:
        npm = support.need("npm", shutil.which("npm"))
        _project = tempfile.mkdtemp(prefix="r2vfs-npm.")
        packages.atexit.register(shutil.rmtree, _project, ignore_errors=True)
        packages.run(npm, "install", "--offline", "--no-audit", "--no-fund", packages.make("node"),
                     cwd=_project, env={"npm_config_cache": os.path.join(_project, ".npm")})
        shutil.rmtree(os.path.join(_project, ".npm"), ignore_errors=True)
        for name in os.listdir(os.path.join(_project, "node_modules")):
            if not name.startswith("."):
                assert name == "r2vfs", name
        # import knows no NODE_PATH
        os.symlink(os.path.join(nodes.modules(), "better-sqlite3"),
                   os.path.join(_project, "node_modules", "better-sqlite3"))
    return _project


class Program(packages.Story):
    @classmethod
    def build(cls, folder):
        for name in ("tell.cjs", os.path.basename(cls.source)):
            shutil.copy(os.path.join(packages.SOURCES, name), project())
        return [nodes.node(), os.path.join(project(), os.path.basename(cls.source))]


class BetterSqlite3(Program):
    client = "Node better-sqlite3, package r2vfs"
    source = "large/packages/story_open.cjs"
    loading = "r2vfs.open(Database, path, { remote })"


class NodeSqlite(Program):
    client = "Node node:sqlite, package r2vfs"
    source = "large/packages/story_open.mjs"
    loading = "r2vfs.open(DatabaseSync, path, { remote })"


class Package(support.Case):
    HEAD = """
import assert from "node:assert";
import fs from "node:fs";
import Database from "better-sqlite3";
import { DatabaseSync } from "node:sqlite";
import * as r2vfs from "r2vfs";
const [REMOTE] = process.argv.slice(2);
"""

    def node(self, code, env=None, head=HEAD):
        """Run it as a module in the test's folder; REMOTE, r2vfs and the drivers are there."""
        file = os.path.join(project(), f"test-{os.path.basename(self.folder)}.mjs")
        with open(file, "w") as out:
            out.write(head + code)
        self.addCleanup(pathlib.Path(file).unlink, missing_ok=True)
        none = {name: None for name in ("R2VFS_REMOTE", "R2VFS_ROOT", "R2VFS_DEFAULT", "R2VFS_SYNC")}
        done = subprocess.run([nodes.node(), "--no-warnings", file, self.remote],
                              env=support.child_env({**none, **(env or {})}), cwd=self.folder,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=support.DEADLINE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def test_what_is_in_it(self):
        folder = os.path.join(project(), "node_modules", "r2vfs")
        with open(os.path.join(folder, "package.json")) as file:
            package = json.load(file)
        version = packages.run(support.PYTHON, f"{support.ROOT}/scripts/man", "version").strip()
        self.assertEqual(package["version"], version)
        self.assertEqual(package["os"], [sys.platform])
        self.assertNotIn("dependencies", package)
        self.assertNotIn("scripts", package)        # nothing runs at installation
        for name in ("LICENSE", "README.md", "index.d.cts", "index.d.mts"):
            self.assertTrue(os.path.exists(os.path.join(folder, name)), name)
        said = self.node("console.log(r2vfs.getLoadablePath())\n").stdout.strip()
        self.assertEqual(said, os.path.join(folder, "r2vfs" + support.SUFFIX))

    def test_types_name_what_there_is(self):
        """Every function in both module forms, and every option, is in the types and the reverse."""
        folder = os.path.join(project(), "node_modules", "r2vfs")
        with open(os.path.join(folder, "index.d.cts")) as file:
            types = file.read()
        with open(os.path.join(folder, "index.cjs")) as file:
            source = file.read()
        declared = sorted(re.findall(r"^export function (\w+)", types, re.M))
        found = self.node("import { createRequire } from 'node:module';\n"
                          "const cjs = createRequire(import.meta.url)('r2vfs');\n"
                          "console.log(JSON.stringify([Object.keys(r2vfs).filter((k) => k !== "
                          "'default' && k !== 'module.exports').sort(), Object.keys(cjs).sort()]))\n")
        self.assertEqual(json.loads(found.stdout), [declared, declared])
        options = re.search(r"interface R2Options {(.*?)^}", types, re.M | re.S)[1]
        known = re.search(r"const OPTIONS = {(.*?)^}", source, re.M | re.S)[1]
        self.assertEqual(re.findall(r"^  (\w+)\??:", options, re.M),
                         re.findall(r"^  (\w+):", known, re.M))

    def test_quoting(self):
        name = "a b?c#d%41&e=f+g;é:'\"h.db"
        for driver in ("Database", "DatabaseSync"):
            with self.subTest(driver):
                key = f"{self.prefix}/{driver} é%41#x&vfs=none+;'z/"
                # better-sqlite3: the object has the file's name, and a key no ?.
                file = name.replace("?", "") if driver == "Database" else name
                key += file if driver == "Database" else "k.db"
                self.node(f"const db = r2vfs.open({driver}, {json.dumps(file)}, "
                          f"{{ remote: {json.dumps(self.remote_of(key))} }});\n"
                          "db.exec('CREATE TABLE t(x)'); db.close();\n")
                self.assertEqual(self.bucket.head(key).meta["db-version"], "1")
                self.assertTrue(os.path.exists(self.path(file)))

    def test_refused(self):
        self.node("""
const no = (message, ...args) => assert.throws(() => r2vfs.open(...args), { message });
for (const Driver of [Database, DatabaseSync]) {
  no(/":memory:" is a database in memory/, Driver, ":memory:", { remote: REMOTE });
  no(/in memory or a temporary/, Driver, "", { remote: REMOTE });
  no(/give the path itself/, Driver, "file:app.db", { remote: REMOTE });
  no(/NUL/, Driver, "a\\0b", { remote: REMOTE });
  no(/no option timeout; there are: remote, sync/, Driver, "app.db", { timeout: 5 });
  no(/sync must be/, Driver, "app.db", { remote: REMOTE, sync: 1.5 });
  no(/sync must be/, Driver, "app.db", { remote: REMOTE, sync: true });
}
no(/needs the driver's class/, undefined, "app.db");
no(/must have the name of the file: .* does not end with \\/other.db/, Database, "other.db",
   { remote: REMOTE });
assert.throws(() => r2vfs.load({}), /no connection that can load/);
assert.deepEqual(fs.readdirSync("."), []);
""")
        self.assertEqual(self.bucket.list(self.prefix), [])

    def test_settings_arrive(self):
        """Each one, under its own name: r2_status has one, refusals name the others."""
        for driver in ("Database", "DatabaseSync"):
            with self.subTest(driver):
                said = self.node(f"const Driver = {driver};\n" + """
const all = { remote: REMOTE, sync: 60000, refresh: 0, conflict: "error", offline: "allow",
              remoteTimeout: 9000, retention: 7200, endpoint: process.env.R2_ENDPOINT };
const db = r2vfs.open(Driver, "app.db", all);
console.log(Object.values(db.prepare("SELECT sync FROM r2_status").get())[0]);
db.close();
const before = JSON.stringify(process.env);
for (const name of Object.keys(all).slice(1))
  assert.throws(() => r2vfs.open(Driver, "app.db", { remote: REMOTE, [name]: "wrong" }));
assert.equal(JSON.stringify(process.env), before);
""")
                self.assertEqual(said.stdout, "60000\n")
                names = (("R2VFS_SYNC", "R2VFS_REFRESH", "R2VFS_CONFLICT", "R2VFS_OFFLINE",
                          "R2VFS_TIMEOUT", "R2VFS_RETENTION", "R2_ENDPOINT")
                         if driver == "Database" else
                         ("sync", "refresh", "conflict", "offline", "timeout", "retention",
                          "endpoint"))
                for name in names:
                    self.assertRegex(said.stderr, rf"(URI parameter|environment variable) {name} ")

    def test_driver_options(self):
        self.node("""
let db = r2vfs.open(Database, "app.db", { remote: REMOTE });
db.exec("CREATE TABLE t(x)"); db.close();
db = r2vfs.open(Database, "app.db", { remote: REMOTE }, { readonly: true });
assert.equal(db.readonly, true);
assert.throws(() => db.exec("DROP TABLE t"), { code: "SQLITE_READONLY" });
""")
        self.node("""
const db = r2vfs.open(DatabaseSync, new URL("file://" + process.cwd() + "/app.db"),
                      { remote: REMOTE }, { readOnly: true });
assert.throws(() => db.exec("DROP TABLE t"), { errcode: 8 });
""")

    def test_better_sqlite3_many_at_once(self):
        """Each database takes its own remote, whatever the environment said before."""
        self.node("""
process.env.R2VFS_REMOTE = "s3://nowhere/at-all";
process.env.R2VFS_ROOT = "/nowhere";
const open = [];
for (const n of [1, 2, 3]) {
  fs.mkdirSync(`${n}`);
  open.push(r2vfs.open(Database, `${n}/app.db`, { remote: REMOTE.replace("app.db", `${n}/app.db`) }));
}
open.forEach((db, n) => db.exec(`CREATE TABLE t${n + 1}(x)`));
open.forEach((db) => db.close());
assert.equal(process.env.R2VFS_REMOTE, "s3://nowhere/at-all");
assert.equal(process.env.R2VFS_ROOT, "/nowhere");
""")
        self.assertEqual(self.bucket.list(self.prefix),
                         [f"{self.prefix}/{n}/app.db" for n in (1, 2, 3)])
        for n in (1, 2, 3):
            self.assertIn(f"CREATE TABLE t{n}".encode(),
                          self.bucket.get(f"{self.prefix}/{n}/app.db").body)

    def test_worker(self):
        """node:sqlite takes options there; better-sqlite3 the environment's, or says so."""
        code = """
import { isMainThread, Worker } from "node:worker_threads";
import { fileURLToPath } from "node:url";
if (isMainThread) {
  const worker = new Worker(fileURLToPath(import.meta.url), { argv: process.argv.slice(2) });
  const [status] = await (await import("node:events")).once(worker, "exit");
  process.exitCode = status;
} else {
"""
        self.node(code + """
  const db = r2vfs.open(DatabaseSync, "app.db", { remote: REMOTE });
  db.exec("CREATE TABLE t(x)"); db.close();
}""")
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")
        self.node(code + """
  assert.throws(() => r2vfs.open(Database, "app.db", { remote: REMOTE }), /in a worker thread/);
  const db = r2vfs.open(Database, "app.db");
  db.exec("CREATE TABLE u(x)"); db.close();
}""", env={"R2VFS_REMOTE": self.remote_of(self.prefix)})
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "2")

    def test_load(self):
        self.node("""
const db = new DatabaseSync(":memory:", { allowExtension: true });
assert.equal(r2vfs.load(db), db);
assert.equal(Object.values(db.prepare("SELECT count(*) FROM r2_status").get())[0], 0);
r2vfs.load(db, { default: true });
assert.equal(process.env.R2VFS_DEFAULT, undefined);
const plain = new DatabaseSync("app.db");
plain.exec("CREATE TABLE t(x)"); plain.close();
""", env={"R2VFS_REMOTE": self.remote_of(self.prefix)})
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")

    def test_first_pages(self):
        """The two pieces of code that the package's page begins with."""
        with open(README) as file:
            first, second = re.findall(r"^```js\n(.*?)^```", file.read(), re.M | re.S)[:2]
        self.node(first.replace("s3://BUCKET/app.db", self.remote), head="")
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")
        second = second.replace("s3://BUCKET/app.db", self.remote).replace("sync: 1000", "sync: 9e6")
        self.node("import * as r2vfs from 'r2vfs';\n" + second +
                  "db.exec('DROP TABLE notes'); db.close();\n", head="")
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "2")


if __name__ == "__main__":
    story.main()
