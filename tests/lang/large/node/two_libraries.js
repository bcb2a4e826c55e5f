// r2vfs is loaded by the first driver, and then by the second one, which has another copy of SQLite:
// `two_libraries.js FIRST SECOND`. The first one must still work afterwards.
"use strict";
const drivers = require("./drivers");

const [first, second] = process.argv.slice(2);
drivers[first].load();
try {
  drivers[second].load();
  console.log("loaded twice");
} catch (error) {
  console.log("refused", error.message);
}
const db = drivers[first].open();
db.exec("CREATE TABLE t(x)");
console.log("version", Object.values(db.prepare("SELECT sync()").get())[0]);
db.close();
