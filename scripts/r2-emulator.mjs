// r2-emulator.mjs - runs Cloudflare's R2 emulator for scripts/r2-emulator, which is the one to call.
//
//   node r2-emulator.mjs serve PACKAGES DIR PORT WATCH [BUCKET...]
//   node r2-emulator.mjs run   PACKAGES DIR PORT WATCH BUCKET... -- COMMAND...
//
// PACKAGES holds node_modules; DIR gets data/, tmp/, workerd (a process id) and, once requests are
// answered, env. PORT 0: any free one. WATCH: end when the process of that id has ended (0: never).
import { execFileSync, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";

const [mode, packages, dir, port, watch, ...rest] = process.argv.slice(2);
const cut = mode === "run" ? rest.indexOf("--") : rest.length;
const buckets = rest.slice(0, cut);
const command = rest.slice(cut + 1);

const credentials = { accessKeyId: "r2vfs-local", secretAccessKey: "r2vfs-local-secret" };
const { Miniflare, Log, LogLevel } = createRequire(join(packages, "package.json"))("miniflare");

const environment = { ...process.env }; // the command's
process.env.TMPDIR = join(dir, "tmp"); // what a killed miniflare leaves goes with the folder
mkdirSync(process.env.TMPDIR, { recursive: true });

const emulator = new Miniflare({
  host: "127.0.0.1",
  port: Number(port),
  cf: false, // otherwise a description of "this data centre" is downloaded
  log: new Log(LogLevel.WARN),
  modules: true,
  script: "export default { fetch() { return new Response() } }",
  r2Persist: join(dir, "data"),
  r2Buckets: Object.fromEntries(
    buckets.map((id, i) => ["BUCKET" + i, { id, s3Credentials: credentials }]),
  ),
});

let child = null; // run: the command
let ending = false;
let abandoned = false; // nobody is left who would remove the folder
async function end(status) {
  if (ending) return;
  ending = true;
  try {
    await emulator.dispose(); // ends workerd and waits for it
  } catch (error) {
    console.error(String(error));
  }
  if (abandoned && existsSync(join(dir, "temporary"))) rmSync(dir, { recursive: true });
  process.exit(status);
}

// A signal goes to the command first; its end ends the emulator. miniflare's own handlers would end
// this process at once.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.removeAllListeners(signal);
  process.on(signal, () => (child ? child.kill(signal) : end(128 + constants.signals[signal])));
}

if (Number(watch) > 0)
  setInterval(() => {
    try {
      process.kill(Number(watch), 0);
    } catch {
      abandoned = true;
      if (child) child.kill("SIGTERM");
      else end(0);
    }
  }, 1000).unref();

const exports = {};
try {
  const base = await emulator.ready;
  exports.R2_ENDPOINT = `http://127.0.0.1:${base.port}/cdn-cgi/local/r2/s3`;
  // The port is open before the bucket's own worker is; an unsigned request is refused by the latter.
  const answer = await fetch(`${exports.R2_ENDPOINT}/${buckets[0]}/ready`);
  if (answer.status !== 400 && answer.status !== 403)
    throw new Error(`an unsigned request was answered ${answer.status}`);
} catch (error) {
  console.error(`the emulator did not start: ${error}`);
  await end(1);
}
exports.R2VFS_TEST_BUCKET = buckets[0];
exports.R2_ACCESS_KEY_ID = credentials.accessKeyId;
exports.R2_SECRET_ACCESS_KEY = credentials.secretAccessKey;
exports.R2_EMULATOR_DIR = dir;

// workerd outlives a killed parent: whoever cleans up after that needs its number.
const workerd = execFileSync("ps", ["-e", "-o", "pid=,ppid=,args="], { encoding: "utf8" })
  .split("\n")
  .map((line) => line.trim().split(/\s+/))
  .filter(([, parent, program]) => Number(parent) === process.pid && /workerd/.test(program))
  .map(([pid]) => pid);
writeFileSync(join(dir, "workerd"), workerd.join("\n") + "\n");

const lines = Object.entries(exports).map(([name, value]) => `export ${name}='${value}'\n`);
writeFileSync(join(dir, "env.new"), lines.join(""));
renameSync(join(dir, "env.new"), join(dir, "env")); // whoever sees it sees all of it

if (mode === "run" && !ending) {
  child = spawn(command[0], command.slice(1), {
    stdio: "inherit",
    env: { ...environment, ...exports },
  });
  child.on("error", (error) => {
    console.error(`r2-emulator: ${command[0]}: ${error.message}`);
    end(127);
  });
  child.on("exit", (status, signal) => end(signal ? 128 + constants.signals[signal] : status));
}
