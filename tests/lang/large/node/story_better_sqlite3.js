// The story in Node with better-sqlite3. It knows no URI file names (SQLITE_USE_URI=0), so r2vfs
// is made the default VFS, and the environment says where the databases live.
"use strict";
const fs = require("node:fs");
const path = require("node:path");

const file = process.env.STORY_PATH;
const extension = process.env.R2VFS_SO;

// r2vfs: begin default
const Database = require("better-sqlite3");
const loader = new Database(":memory:");
loader.loadExtension(extension, "sqlite3_r2vfsdefault_init");
const db = new Database(file);
// r2vfs: end

function say(...words) {
  fs.writeSync(1, words.join(" ") + "\n");
}

function one(sql) {
  return db.prepare(sql).pluck().get();
}

function rows() {
  for (const row of db.prepare("SELECT id, who FROM story ORDER BY id").iterate())
    say("row", row.id, row.who);
}

const insert = () => db.transaction(() =>
  db.prepare("INSERT INTO story(who) VALUES(?)").run(process.env.STORY_WHO))();

const steps = {
  write() {
    db.exec("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)");
    insert();
    say("version", one("SELECT sync()"));
    say("status", ...db.prepare(
      "SELECT version, remote_version, dirty_pages, pushes FROM r2_status").raw().get());
  },

  read() {
    rows();
    say("sqlite", one("SELECT sqlite_version()"));
    const home = path.dirname(require.resolve("better-sqlite3/package.json"));
    const version = JSON.parse(fs.readFileSync(path.join(home, "package.json"))).version;
    say("client", `better-sqlite3 ${version}, Node ${process.versions.node}`);
  },

  conflict() {
    insert();
    say("ready");
    fs.readSync(0, Buffer.alloc(64));
    try {
      say("other", one("SELECT sync()"));
    } catch (error) {
      const busy = error instanceof Database.SqliteError && error.code.startsWith("SQLITE_BUSY");
      say(busy ? "busy" : "other", error.code, error.message);
    }
    say("version", one("SELECT r2_resolve('fork')"));
    rows();
  },

  mind() {
    db.transaction(() => {
      insert();
      try {
        say("synced", one("SELECT sync()"));
      } catch (error) {
        say("refused", error.message);
      }
    })();
    say("version", one("SELECT sync()"));
  },
};

steps[process.argv[2]]();
db.close();
say("closed");
