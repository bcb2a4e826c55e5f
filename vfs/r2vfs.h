/* r2vfs.h - the public header: r2vfs for C programs that link it statically.
 *
 *     sqlite3_r2vfs_init(NULL, NULL, NULL);
 *     sqlite3_open_v2("file:app.db?vfs=r2vfs&remote=s3://bucket/app.db", &db,
 *                     SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, NULL);
 *
 * Configuration is by URI parameters and environment (README, "Configuration"). The functions below
 * are what the SQL functions of the same name do; `schema` may be NULL for "main". They return a
 * SQLite result code; the sentence behind a failure is in *message (sqlite3_free it; may be NULL).
 * SQLITE_BUSY_SNAPSHOT: a conflict. None may be called within a transaction. */
#ifndef R2VFS_H
#define R2VFS_H

#include <sqlite3.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef R2VFS_API
#define R2VFS_API __attribute__((visibility("default")))
#endif

#define R2VFS_VERSION "0.1.0" /* of packages, too: they read it here */

struct sqlite3_api_routines;

/* Entry points: register the VFS "r2vfs", and the SQL functions on every connection from now on
 * (and on db, which may be NULL when linked statically). Call one before the first open that needs
 * it: sqlite3_auto_extension() would be too late, SQLite looks for the VFS first. `api` is not used
 * when linked statically; *message (may be NULL then) is the sentence behind a failure. */
R2VFS_API int sqlite3_rvfs_init(sqlite3 *db, char **message,
                                const struct sqlite3_api_routines *api);
R2VFS_API int sqlite3_r2vfs_init(sqlite3 *db, char **message,
                                 const struct sqlite3_api_routines *api);
/* The same, and r2vfs becomes the default VFS. */
R2VFS_API int sqlite3_r2vfsdefault_init(sqlite3 *db, char **message,
                                        const struct sqlite3_api_routines *api);

/* Push what was committed; *version is what the remote holds then. */
R2VFS_API int r2vfs_sync(sqlite3 *db, const char *schema, sqlite3_int64 *version, char **message);
/* Take the remote's version if it is newer. */
R2VFS_API int r2vfs_pull(sqlite3 *db, const char *schema, sqlite3_int64 *version, char **message);
/* Settle a conflict: how is "fork", "remote" or "local". */
R2VFS_API int r2vfs_resolve(sqlite3 *db, const char *schema, const char *how,
                            sqlite3_int64 *version, char **message);
/* Write the snapshot now; *version is what it holds. how: NULL, or "log" or "object": also change
 * the database's layout. */
R2VFS_API int r2vfs_checkpoint(sqlite3 *db, const char *schema, const char *how,
                               sqlite3_int64 *version, char **message);
/* Make the content of version `old` the newest version; *version is its number. */
R2VFS_API int r2vfs_restore(sqlite3 *db, const char *schema, sqlite3_int64 old,
                            sqlite3_int64 *version, char **message);

#ifdef __cplusplus
}
#endif
#endif
