"use strict";
// r2vfs for Node: where the extension is, and how better-sqlite3 and node:sqlite open through it.
// No dependency on either: the driver's class is passed in.

const fs = require("node:fs");
const path = require("node:path");
const { fileURLToPath } = require("node:url");
const { isMainThread } = require("node:worker_threads");

const SUFFIX = process.platform === "darwin" ? ".dylib" : ".so";
const DEFAULT_ENTRY = "sqlite3_r2vfsdefault_init";
const BUSY_SNAPSHOT = 517;

// option: [URI parameter, environment variable]
const OPTIONS = {
  remote: ["remote", "R2VFS_REMOTE"],
  sync: ["sync", "R2VFS_SYNC"],
  refresh: ["refresh", "R2VFS_REFRESH"],
  layout: ["layout", "R2VFS_LAYOUT"],
  conflict: ["conflict", "R2VFS_CONFLICT"],
  offline: ["offline", "R2VFS_OFFLINE"],
  remoteTimeout: ["timeout", "R2VFS_TIMEOUT"],
  retention: ["retention", "R2VFS_RETENTION"],
  endpoint: ["endpoint", "R2_ENDPOINT"],
};

function fileOf(name) {
  const found = path.join(__dirname, name + SUFFIX);
  if (!fs.existsSync(found)) {
    throw new Error(
      `r2vfs: ${found} is not there; this package was built for another platform than ` +
        `${process.platform}-${process.arch}, or this is its source: run make packages`,
    );
  }
  return found;
}

const getLoadablePath = () => fileOf("r2vfs");
const getPreloadPath = () => fileOf("r2vfs-preload");

// node:sqlite reads file: URIs; better-sqlite3's SQLite is built not to.
const readsUris = (Driver) => typeof Driver.prototype?.enableLoadExtension === "function";

// The extension reads the environment while SQLite loads it or opens a file: these variables are set
// for the time of one synchronous call. A worker's process.env is a copy that C code does not see.
function withEnvironment(variables, call) {
  const names = Object.keys(variables);
  if (names.length === 0) return call();
  if (!isMainThread) {
    throw new Error(
      "r2vfs: in a worker thread this driver can be configured by the environment only; set " +
        "R2VFS_REMOTE and the others before the process starts, and leave the options out",
    );
  }
  const before = names.map((name) => [name, process.env[name]]);
  const put = ([name, value]) => {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  };
  try {
    Object.entries(variables).forEach(put);
    return call();
  } finally {
    before.forEach(put);
  }
}

function load(db, options = {}) {
  const file = getLoadablePath();
  if (typeof db?.loadExtension !== "function") {
    throw new TypeError("r2vfs: this is no connection that can load an extension");
  }
  if (!options.default) db.loadExtension(file);
  else if (typeof db.enableLoadExtension !== "function") db.loadExtension(file, DEFAULT_ENTRY);
  else withEnvironment({ R2VFS_DEFAULT: "1" }, () => db.loadExtension(file)); // names no entry point
  return db;
}

const loaded = new Set(); // classes of drivers

function loadOnce(Driver, byUri) {
  if (loaded.has(Driver)) return;
  const db = new Driver(":memory:", byUri ? { allowExtension: true } : {});
  try {
    load(db, { default: !byUri });
  } finally {
    db.close();
  }
  loaded.add(Driver);
}

// The options that are given, as [name, text].
function given(options) {
  return Object.entries(options).flatMap(([name, value]) => {
    if (!Object.hasOwn(OPTIONS, name)) {
      throw new TypeError(
        `r2vfs: there is no option ${name}; there are: ${Object.keys(OPTIONS).join(", ")}`,
      );
    }
    if (value === undefined || value === null) return [];
    if (typeof value !== "string" && !Number.isSafeInteger(value)) {
      throw new TypeError(`r2vfs: ${name} must be a string or a whole number, not ${value}`);
    }
    const text = String(value);
    if (text.includes("\0")) throw new TypeError(`r2vfs: ${name} has a NUL character in it`);
    return [[name, text]];
  });
}

function absolute(file) {
  const text = file instanceof URL ? fileURLToPath(file) : file;
  if (typeof text !== "string") throw new TypeError("r2vfs: the path must be a string or a file: URL");
  if (text.includes("\0")) throw new TypeError("r2vfs: the path has a NUL character in it");
  if (text === "" || text === ":memory:") {
    throw new TypeError(
      `r2vfs: "${text}" is a database in memory or a temporary one, and has no file that could ` +
        `have a remote; open it with the driver itself`,
    );
  }
  if (text.startsWith("file:")) {
    throw new TypeError("r2vfs: give the path itself, or a URL object; the URI is made from it");
  }
  return path.isAbsolute(text) ? text : `${process.cwd()}/${text}`; // a/../b may be another file
}

const quoted = (text, keep) =>
  encodeURIComponent(text).replaceAll("%2F", "/").replaceAll("%3A", keep);

function uri(file, options = {}) {
  const query = given(options).map(([name, text]) => `&${OPTIONS[name][0]}=${quoted(text, ":")}`);
  return `file://${quoted(absolute(file), "%3A")}?vfs=r2vfs${query.join("")}`;
}

// The same for a driver without URIs. There the environment names a prefix, to which r2vfs adds the
// file's name: so the object must have the file's name.
function environment(file, options) {
  const variables = Object.fromEntries(
    given(options).map(([name, text]) => [OPTIONS[name][1], text]),
  );
  const remote = variables.R2VFS_REMOTE;
  if (remote !== undefined) {
    const name = path.basename(file);
    if (!remote.endsWith(`/${name}`)) {
      throw new Error(
        `r2vfs: this driver reads no file: URIs, so the object must have the name of the file: ` +
          `${remote} does not end with /${name}. Rename one of them, or use node:sqlite`,
      );
    }
    variables.R2VFS_REMOTE = remote.slice(0, -name.length - 1);
    variables.R2VFS_ROOT = undefined;
  }
  return variables;
}

function open(Driver, file, options = {}, driverOptions = undefined) {
  if (typeof Driver !== "function") {
    throw new TypeError("r2vfs: open() needs the driver's class: better-sqlite3, or DatabaseSync");
  }
  const byUri = readsUris(Driver);
  const target = byUri ? uri(file, options) : absolute(file);
  const variables = byUri ? {} : environment(target, options);
  const more = driverOptions === undefined ? [] : [driverOptions];
  loadOnce(Driver, byUri);
  return withEnvironment(variables, () => new Driver(target, ...more));
}

function isConflict(error) {
  return error?.code === "SQLITE_BUSY_SNAPSHOT" || error?.errcode === BUSY_SNAPSHOT;
}

module.exports = { getLoadablePath, getPreloadPath, isConflict, load, open, uri };
