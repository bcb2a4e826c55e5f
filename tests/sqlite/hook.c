/* hook.c - makes SQLite's test program run on the r2vfs that users get.
 *
 * Linked into testfixture, with SQLITE_EXTRA_INIT=r2_suite_hook: SQLite calls it at the end of
 * sqlite3_initialize(), also after a sqlite3_shutdown(). It loads the extension that
 * R2VFS_SUITE_EXTENSION names, through the entry point that makes r2vfs the default VFS. Without
 * that variable it does nothing: the same program is then the plain SQLite to compare with. */
#include <stdio.h>
#include <stdlib.h>

#include "sqlite3.h"

int r2_suite_hook(const char *unused);

int r2_suite_hook(const char *unused)
{
    const char *path = getenv("R2VFS_SUITE_EXTENSION");
    char *message = NULL;
    sqlite3 *db = NULL;
    (void)unused;
    if (!path) return SQLITE_OK;
    int rc = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_enable_load_extension(db, 1);
    if (rc == SQLITE_OK)
        rc = sqlite3_load_extension(db, path, "sqlite3_r2vfsdefault_init", &message);
    sqlite3_close(db);
    if (rc == SQLITE_OK) return SQLITE_OK;
    fprintf(stderr, "cannot load %s: %s\n", path, message ? message : sqlite3_errstr(rc));
    sqlite3_free(message);
    /* A suite that went on without r2vfs would prove nothing: leave SQLite as it was before
     * sqlite3_initialize(). Tests that simulate a lack of memory try that again. */
    sqlite3_shutdown();
    return SQLITE_NOMEM; /* loading says SQLITE_ERROR whatever it was */
}
