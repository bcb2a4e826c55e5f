// The way out of a database that refuses its transactions: `barred.js DRIVER`. SQLite 3.45 and newer
// read the schema before any SELECT, so this is another matter there than with the system's SQLite.
"use strict";
const drivers = require("./drivers");

const driver = drivers[process.argv[2]];
driver.load();
const db = driver.open();

for (const sql of ["SELECT who FROM story", "PRAGMA r2_last_error", "SELECT sync()",
                   "SELECT r2_resolve('fork')", "SELECT group_concat(who) FROM story"]) {
  try {
    console.log("row", Object.values(db.prepare(sql).get())[0]);
  } catch (error) {
    console.log("error", error.message);
  }
}
db.close();
console.log("closed");
