// The story with the installed npm package and node:sqlite; import.
import tell from "./tell.cjs";
// r2vfs: begin
import { DatabaseSync } from "node:sqlite";
import * as r2vfs from "r2vfs";
// r2vfs: end

const { PACKAGE_PATH: file, PACKAGE_REMOTE: remote, STORY_WAY } = process.env;

function openRemote() {
  // r2vfs: begin uri
  const db = r2vfs.open(DatabaseSync, file, { remote });
  // r2vfs: end
  return db;
}

function openByEnvironment() {
  // r2vfs: begin default
  const db = r2vfs.open(DatabaseSync, file);
  // r2vfs: end
  return db;
}

const db = STORY_WAY === "uri" ? openRemote() : openByEnvironment();
if (!(db instanceof DatabaseSync)) throw new Error("not the driver's own object");
tell(db, r2vfs.isConflict, `r2vfs for Node ${process.versions.node}`);
