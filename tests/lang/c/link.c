/* link.c - C with libr2vfs.a linked in: nothing is loaded at run time, and r2vfs.h has the
 * functions. */
#include <stdio.h>

#include "story.h"

/* r2vfs: begin */
#include "r2vfs.h"
/* r2vfs: end */

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
    (void)extension;
    /* r2vfs: begin uri */
    sqlite3_r2vfs_init(NULL, NULL, NULL); /* once, before the first open that names vfs=r2vfs */
    int rc = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                             NULL);
    /* r2vfs: end */
    return opened(db, rc);
}

sqlite3 *story_open_path(const char *extension, const char *path)
{
    sqlite3 *db = NULL;
    (void)extension;
    /* r2vfs: begin default */
    sqlite3_r2vfsdefault_init(NULL, NULL, NULL);
    /* r2vfs: end */
    return opened(db, sqlite3_open(path, &db));
}

int story_sync(sqlite3 *db, sqlite3_int64 *version, char **message)
{
    return r2vfs_sync(db, NULL, version, message);
}

int story_resolve(sqlite3 *db, sqlite3_int64 *version, char **message)
{
    return r2vfs_resolve(db, NULL, "fork", version, message);
}
