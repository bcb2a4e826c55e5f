"use strict";
// The story with the installed npm package and better-sqlite3; require().
const tell = require("./tell.cjs");

const { PACKAGE_PATH: file, PACKAGE_REMOTE: remote, STORY_WAY } = process.env;

// r2vfs: begin
const Database = require("better-sqlite3");
const r2vfs = require("r2vfs");
// r2vfs: end

function openRemote() {
  // r2vfs: begin uri
  const db = r2vfs.open(Database, file, { remote });
  // r2vfs: end
  return db;
}

function openByEnvironment() {
  // r2vfs: begin default
  const db = r2vfs.open(Database, file);
  // r2vfs: end
  return db;
}

const before = JSON.stringify(process.env);
const db = STORY_WAY === "uri" ? openRemote() : openByEnvironment();
if (!(db instanceof Database)) throw new Error("not the driver's own object");
if (JSON.stringify(process.env) !== before) throw new Error("the environment is another one");
const version = require("r2vfs/package.json").version;
tell(db, r2vfs.isConflict, `r2vfs ${version} for Node ${process.versions.node}`);
