/* old_sqlite.c - an extension that loads r2vfs into a SQLite that it makes look older, or poorer.
 *
 * R2VFS_SO: the extension; OLD_SQLITE: "3.36.0", or "no virtual tables". What r2vfs says to its
 * host is handed on, so that the host's own words for it are seen. */
#include <dlfcn.h>
#include <sqlite3ext.h>
#include <stdlib.h>
#include <string.h>

typedef int (*init_fn)(sqlite3 *, char **, const sqlite3_api_routines *);

static int old_number(void)
{
    return 3036000;
}

static const char *old_text(void)
{
    return "3.36.0";
}

__attribute__((visibility("default"))) int sqlite3_oldsqlite_init(sqlite3 *db, char **message,
                                                                  const sqlite3_api_routines *api);

int sqlite3_oldsqlite_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    static sqlite3_api_routines changed;
    const char *so = getenv("R2VFS_SO"), *what = getenv("OLD_SQLITE");
    void *library = so ? dlopen(so, RTLD_NOW) : NULL;
    void *found = library ? dlsym(library, "sqlite3_r2vfs_init") : NULL;
    init_fn init;
    if (!found || !what) {
        *message = api->mprintf("old_sqlite: set R2VFS_SO and OLD_SQLITE");
        return SQLITE_ERROR;
    }
    memcpy(&init, &found, sizeof init);
    changed = *api;
    if (strcmp(what, "3.36.0") == 0) {
        changed.libversion_number = old_number;
        changed.libversion = old_text;
    } else {
        changed.create_module_v2 = NULL;
        changed.declare_vtab = NULL;
    }
    return init(db, message, &changed);
}
