// The story in Node with its own module, node:sqlite.
"use strict";
const fs = require("node:fs");

const SQLITE_BUSY = 5; // node:sqlite has the code, but no name for it

function openUri(extension, uri) {
  // r2vfs: begin uri
  const { DatabaseSync } = require("node:sqlite");
  const loader = new DatabaseSync(":memory:", { allowExtension: true });
  loader.loadExtension(extension);
  const db = new DatabaseSync(uri);
  // r2vfs: end
  return db;
}

function openPath(extension, file) {
  // r2vfs: begin default
  const { DatabaseSync } = require("node:sqlite");
  const loader = new DatabaseSync(":memory:", { allowExtension: true });
  loader.loadExtension(extension, "sqlite3_r2vfsdefault_init");
  const db = new DatabaseSync(file);
  // r2vfs: end
  return db;
}

function say(...words) {
  fs.writeSync(1, words.join(" ") + "\n");
}

const { R2VFS_SO, STORY_WAY, STORY_URI, STORY_PATH, STORY_WHO } = process.env;
const db = STORY_WAY === "uri" ? openUri(R2VFS_SO, STORY_URI) : openPath(R2VFS_SO, STORY_PATH);

function one(sql) {
  return Object.values(db.prepare(sql).get())[0];
}

function rows() {
  for (const row of db.prepare("SELECT id, who FROM story ORDER BY id").iterate())
    say("row", row.id, row.who);
}

function insert() {
  db.exec("BEGIN");
  db.prepare("INSERT INTO story(who) VALUES(?)").run(STORY_WHO);
  db.exec("COMMIT");
}

const steps = {
  write() {
    db.exec("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)");
    insert();
    say("version", one("SELECT sync()"));
    say("status", ...Object.values(db.prepare(
      "SELECT version, remote_version, dirty_pages, pushes FROM r2_status").get()));
  },

  read() {
    rows();
    say("sqlite", one("SELECT sqlite_version()"));
    say("client", `Node ${process.versions.node}`);
  },

  conflict() {
    insert();
    say("ready");
    fs.readSync(0, Buffer.alloc(64));
    try {
      say("other", one("SELECT sync()"));
    } catch (error) {
      const busy = error.code === "ERR_SQLITE_ERROR" && (error.errcode & 0xff) === SQLITE_BUSY;
      say(busy ? "busy" : "other", error.errcode, error.message);
    }
    say("version", one("SELECT r2_resolve('fork')"));
    rows();
  },

  mind() {
    insert();
    const found = db.prepare("SELECT id FROM story").iterate();
    found.next();
    try {
      say("synced", one("SELECT sync()"));
    } catch (error) {
      say("refused", error.message);
    }
    found.return();
    say("version", one("SELECT sync()"));
  },
};

steps[process.argv[2]]();
db.close();
say("closed");
