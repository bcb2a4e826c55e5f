// Worker threads that write to one database, each through a connection of its own, and call sync()
// beside each other: `pool.js DRIVER`. What it prints is in pool.py.
"use strict";
const fs = require("node:fs");
const { Worker, isMainThread, parentPort, workerData } = require("node:worker_threads");

const drivers = require("./drivers");

const { POOL_THREADS, POOL_ROUNDS, POOL_ROWS } = process.env;

function say(...words) {
  fs.writeSync(1, words.join(" ") + "\n");
}

function first(db, sql) {
  return Object.values(db.prepare(sql).get());
}

function work({ driver, number }) {
  const db = drivers[driver].open();
  const insert = db.prepare("INSERT INTO story(who) VALUES(?)");
  for (let round = 0, row = 0; round < POOL_ROUNDS; round++) {
    for (let n = 0; n < POOL_ROWS; n++) insert.run(`${number}.${row++}`);
    say("synced", first(db, "SELECT sync()")[0]);
  }
  // Closed only when all is looked at: what is in the bucket then, sync() brought there.
  parentPort.once("message", () => {
    db.close();
    parentPort.close();
  });
  parentPort.postMessage("done");
}

async function main(driver) {
  drivers[driver].load(); // once per process: workers share it
  const db = drivers[driver].open();
  db.exec("CREATE TABLE story(id INTEGER PRIMARY KEY, who TEXT)");
  const workers = [];
  for (let number = 0; number < POOL_THREADS; number++)
    workers.push(new Worker(__filename, { workerData: { driver, number } }));
  await Promise.all(workers.map((worker) => new Promise((done, fail) => {
    worker.once("message", done);
    worker.once("error", fail);
  })));
  say("replicas", first(db, "SELECT count(*) FROM r2_status")[0]);
  say("status", ...first(db, "SELECT version, remote_version, dirty_pages, pushes FROM r2_status"));
  fs.readSync(0, Buffer.alloc(64));
  await Promise.all(workers.map((worker) => new Promise((done) => {
    worker.once("exit", done);
    worker.postMessage("close");
  })));
  db.close();
  say("closed");
}

if (isMainThread) main(process.argv[2]);
else work(workerData);
