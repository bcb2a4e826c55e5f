// What differs between the drivers, for the programs beside this one. load(): r2vfs as the default
// VFS, once per process (worker threads share it); open(): the database, with a busy timeout.
"use strict";

const { R2VFS_SO, STORY_PATH } = process.env;
const ENTRY = "sqlite3_r2vfsdefault_init";

module.exports = {
  "better-sqlite3": {
    load() {
      const Database = require("better-sqlite3");
      new Database(":memory:").loadExtension(R2VFS_SO, ENTRY);
    },
    open() {
      const Database = require("better-sqlite3");
      return new Database(STORY_PATH, { timeout: 60000 });
    },
  },
  "node:sqlite": {
    load() {
      const { DatabaseSync } = require("node:sqlite");
      new DatabaseSync(":memory:", { allowExtension: true }).loadExtension(R2VFS_SO, ENTRY);
    },
    open() {
      const { DatabaseSync } = require("node:sqlite");
      return new DatabaseSync(STORY_PATH, { timeout: 60000 });
    },
  },
};
