"use strict";
// What both drivers' programs do once their database is open.
const fs = require("node:fs");

function say(...words) {
  fs.writeSync(1, words.join(" ") + "\n");
}

module.exports = function tell(db, isConflict, client) {
  const one = (sql) => Object.values(db.prepare(sql).get())[0];
  const rows = () => {
    for (const row of db.prepare("SELECT id, who FROM story ORDER BY id").all())
      say("row", row.id, row.who);
  };
  const insert = () => {
    db.exec("BEGIN");
    db.prepare("INSERT INTO story(who) VALUES(?)").run(process.env.STORY_WHO);
    db.exec("COMMIT");
  };
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
      say("client", client);
    },
    conflict() {
      insert();
      say("ready");
      fs.readSync(0, Buffer.alloc(64));
      try {
        say("other", one("SELECT sync()"));
      } catch (error) {
        say(isConflict(error) ? "busy" : "other", error.errcode ?? error.code, error.message);
      }
      say("version", one("SELECT r2_resolve('fork')"));
      rows();
    },
  };
  steps[process.argv[2]]();
  db.close();
  say("closed");
};
