/* entry.c - the entry points that sqlite3_load_extension() and static linking call. */
#include <stdlib.h>
#include <string.h>

#include "../vfs/local.h"
#include "../vfs/shim.h"
#include "ext.h"

SQLITE_EXTENSION_INIT1

#define EXPORT __attribute__((visibility("default")))

enum { OLDEST = 3037000 }; /* oldest SQLite whose interface we use */

/* A loaded library must stay: its VFS does. Linked statically there is nothing to unload, and to an
 * automatic extension any code but OK is a failure. */
#ifdef SQLITE_CORE
enum { LOADED = SQLITE_OK };
#else
enum { LOADED = SQLITE_OK_LOAD_PERMANENTLY };
#endif

static int on_connection(sqlite3 *db, char **message, const struct sqlite3_api_routines *api)
{
    (void)message;
    (void)api;
    if (r2_local_opening()) return SQLITE_OK; /* one of our own sessions: it runs no SQL of users */
    int rc = r2_ext_functions(db);
    return rc == SQLITE_OK ? r2_ext_tables(db) : rc;
}

/* Take the host's interface. When linked statically (SQLITE_CORE) there is only one anyway. */
static bool take_interface(char **message, const sqlite3_api_routines *api)
{
#ifndef SQLITE_CORE
    if (sqlite3_api && sqlite3_api != api) {
        *message = api->mprintf("r2vfs: already loaded by another SQLite library in this process; "
                                "one process can use it with one SQLite only");
        return false;
    }
    if (api->libversion_number() < OLDEST) {
        *message =
            api->mprintf("r2vfs: this program runs SQLite %s, and 3.37.0 or newer is needed; "
                         "upgrade it, or use a program or driver that brings a newer one",
                         api->libversion());
        return false;
    }
    if (!api->create_module_v2 || !api->declare_vtab || !api->wal_checkpoint_v2) {
        *message = api->mprintf("r2vfs: this program's SQLite %s was built without virtual tables "
                                "or WAL; use one that has them",
                                api->libversion());
        return false;
    }
    SQLITE_EXTENSION_INIT2(api);
#else
    (void)message, (void)api;
#endif
    return true;
}

static int load(sqlite3 *db, char **message, const sqlite3_api_routines *api, bool make_default)
{
    char *ignored = NULL;
    if (!take_interface(message, api)) return SQLITE_ERROR;
    const char *wish = getenv("R2VFS_DEFAULT");
    int rc = SQLITE_OK;
#ifdef SQLITE_CORE
    rc = sqlite3_initialize(); /* nothing may have been opened yet */
#endif
    if (rc == SQLITE_OK)
        rc = r2_shim_register(make_default || (wish && strcmp(wish, "1") == 0),
                              message ? message : &ignored);
    if (rc == SQLITE_OK && db) rc = on_connection(db, message, api);
    if (rc == SQLITE_OK) rc = sqlite3_auto_extension((void (*)(void))on_connection);
    sqlite3_free(ignored);
    return rc == SQLITE_OK ? LOADED : rc;
}

EXPORT int sqlite3_rvfs_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);
EXPORT int sqlite3_r2vfs_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);
EXPORT int sqlite3_r2vfsdefault_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);

/* what SQLite derives from the file name r2vfs.so: letters only */
int sqlite3_rvfs_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    return load(db, message, api, false);
}

int sqlite3_r2vfs_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    return load(db, message, api, false);
}

int sqlite3_r2vfsdefault_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    return load(db, message, api, true);
}
