/* load.c - C with libsqlite3, the extension loaded at run time. */
#include <stdio.h>
#include <string.h>

#include "story.h"

const char story_client[] = "libsqlite3 " SQLITE_VERSION;

static sqlite3 *opened(sqlite3 *db, int rc)
{
    if (rc == SQLITE_OK) return db;
    fprintf(stderr, "story: %s\n", sqlite3_errmsg(db));
    sqlite3_close(db);
    return NULL;
}

sqlite3 *story_open_uri(const char *extension, const char *uri)
{
    sqlite3 *db = NULL;
    /* r2vfs: begin uri */
    sqlite3_open(":memory:", &db);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    int rc = sqlite3_load_extension(db, extension, NULL, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_close(db);
        rc = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                             NULL);
    }
    /* r2vfs: end */
    return opened(db, rc);
}

sqlite3 *story_open_path(const char *extension, const char *path)
{
    sqlite3 *db = NULL;
    /* r2vfs: begin default */
    sqlite3_open(":memory:", &db);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    int rc = sqlite3_load_extension(db, extension, "sqlite3_r2vfsdefault_init", NULL);
    /* r2vfs: end */
    if (rc == SQLITE_OK) {
        sqlite3_close(db);
        rc = sqlite3_open(path, &db);
    }
    return opened(db, rc);
}

static int ask(sqlite3 *db, const char *sql, sqlite3_int64 *version, char **message)
{
    sqlite3_stmt *s;
    *message = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    if (rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW) *version = sqlite3_column_int64(s, 0);
    if (sqlite3_finalize(s)) {
        rc = sqlite3_extended_errcode(db);
        *message = sqlite3_mprintf("%s", sqlite3_errmsg(db));
    }
    return rc;
}

int story_sync(sqlite3 *db, sqlite3_int64 *version, char **message)
{
    return ask(db, "SELECT sync()", version, message);
}

int story_resolve(sqlite3 *db, sqlite3_int64 *version, char **message)
{
    return ask(db, "SELECT r2_resolve('fork')", version, message);
}
