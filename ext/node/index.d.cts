/** What r2vfs is told about one database; README's table says what each means. */
export interface R2Options {
  /** `s3://BUCKET/KEY` or `file:///DIR/KEY`: the object itself. Left out: `R2VFS_REMOTE` in the environment decides. */
  remote?: string;
  /** When to push: milliseconds, or a word. Default: `close`. */
  sync?: "close" | "commit" | "manual" | number;
  /** When to look for a newer version. Default: `open`. */
  refresh?: "open" | number;
  layout?: "object" | "log";
  /** What an open does with a conflict. Default: `fork`. */
  conflict?: "fork" | "error";
  /** `allow`: open the local copy when the remote cannot be reached. Default: `error`. */
  offline?: "error" | "allow";
  /** Milliseconds for one operation on the remote (the URI parameter `timeout`). */
  remoteTimeout?: number;
  /** Seconds that old versions stay reachable. */
  retention?: number;
  endpoint?: string;
}

/** What load() needs of a connection: better-sqlite3's Database, or node:sqlite's DatabaseSync that was
 * opened with `allowExtension: true`. */
export interface Loadable {
  loadExtension(path: string, entryPoint?: string): unknown;
}

/** The extension's file, for any driver's loadExtension(). */
export function getLoadablePath(): string;

/** A library for LD_PRELOAD, for programs that load no extensions. */
export function getPreloadPath(): string;

/** Load r2vfs into the process through this connection. From then on every connection can use the VFS
 * `r2vfs` and has its SQL functions. `default`: r2vfs becomes the process's default VFS. */
export function load<T extends Loadable>(db: T, options?: { default?: boolean }): T;

/** The `file:` URI that opens `path` through r2vfs, everything in it quoted: for node:sqlite. */
export function uri(path: string | URL, options?: R2Options): string;

/** Open a database through r2vfs with the driver's own class, and return the driver's own object.
 *
 *     open(Database, "app.db", { remote: "s3://BUCKET/app.db" })       // better-sqlite3
 *     open(DatabaseSync, "app.db", { remote: "s3://BUCKET/app.db" })   // node:sqlite
 *
 * `driverOptions` go to the driver as they are. */
export function open<T extends Loadable, O extends object>(
  Driver: new (path: string, driverOptions?: O) => T,
  path: string | URL,
  options?: R2Options,
  driverOptions?: O,
): T;

/** Whether this error says that another replica was faster (SQLITE_BUSY_SNAPSHOT). */
export function isConflict(error: unknown): boolean;
