/* shim.c - the VFS "r2vfs": a shim around the platform's default VFS.
 *
 * Loading:  .load build/r2vfs            (or sqlite3_r2vfs_init(NULL, NULL, NULL) when linked)
 * Using:    file:app.db?vfs=r2vfs&remote=s3://bucket/app.db     or R2VFS_REMOTE and friends
 *
 * A main database that has a remote gets a struct r2_file and the methods of shim_io.c, and so does
 * its -wal. Everything else is opened by the parent in our place: it never sees us again.
 * SQLite's types end here, in shim_io.c and in local_sqlite.c. */
#include "shim.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "local.h"
#include "os.h"
#include "shim_past.h"

SQLITE_EXTENSION_INIT3

static sqlite3_vfs shim;
static sqlite3_vfs *parent;

int r2_shim_code(enum r2_code code)
{
    switch (code) {
    case R2_OK:
        return SQLITE_OK;
    case R2_NOMEM:
        return SQLITE_NOMEM;
    case R2_FULL:
        return SQLITE_FULL;
    case R2_BUSY:
        return SQLITE_BUSY;
    case R2_CONFLICT:
        return SQLITE_BUSY_SNAPSHOT;
    case R2_CORRUPT:
        return SQLITE_CORRUPT;
    case R2_READONLY:
        return SQLITE_READONLY;
    case R2_DENIED:
        return SQLITE_AUTH;
    case R2_MISSING:
        return SQLITE_NOTFOUND;
    case R2_CONFIG:
    case R2_REFUSED:
        return SQLITE_ERROR;
    default:
        return SQLITE_IOERR;
    }
}

static void say_on_stderr(const char *when, const char *sentence)
{
    struct r2_quiet quiet; /* a daemon's log pipe may be gone */
    r2_quiet_begin(&quiet);
    fprintf(stderr, "r2vfs: %s%s%s\n", when, when[0] ? ": " : "", sentence);
    r2_quiet_end(&quiet);
}

void r2_shim_report(struct r2_replica *r, const struct r2_err *e, const char *when)
{
    r2_log_err(r, e);
    /* neither a failed open nor a close hands the host a sentence: stderr is where people look */
    say_on_stderr(when, e->text);
}

/* sqlite3_log cuts at 210 bytes, and what to do comes last: a long sentence goes in pieces. */
static void log_to_sqlite(enum r2_code code, const char *sentence)
{
    enum { PIECE = 190 };
    int rc = code ? r2_shim_code(code) : SQLITE_NOTICE;
    const char *lead = "";
    while (strlen(sentence) > PIECE) {
        int n = PIECE;
        while (n > PIECE / 2 && sentence[n] != ' ')
            n--;
        if (sentence[n] != ' ')
            for (n = PIECE; n > 1 && ((unsigned char)sentence[n] & 0xc0) == 0x80; n--) {
            }
        sqlite3_log(rc, "r2vfs: %s%.*s", lead, n, sentence);
        sentence += n;
        lead = sentence[0] == ' ' ? "..." : "... ";
    }
    sqlite3_log(rc, "r2vfs: %s%s", lead, sentence);
}

static void tell_on_stderr(const char *sentence)
{
    say_on_stderr("", sentence);
}

/* ---- which -wal belongs to which main database ---- */

/* sqlite3_database_file_object() would tell, but only for a name that SQLite's pager made, below no
 * other shim: with the name that a multiplexor makes up it follows a wild pointer, and with another
 * shim on top it finds that one's file. Both hand a main database's name down as it is. */
static pthread_mutex_t main_lock = PTHREAD_MUTEX_INITIALIZER;
static struct r2_file *mains;

__attribute__((constructor)) static void fork_safely(void)
{
    r2_fork_reset(&main_lock);
}

void r2_shim_remember(struct r2_file *p)
{
    pthread_mutex_lock(&main_lock);
    p->next = mains;
    mains = p;
    pthread_mutex_unlock(&main_lock);
}

void r2_shim_forget(struct r2_file *p)
{
    pthread_mutex_lock(&main_lock);
    struct r2_file **at = &mains;
    while (*at && *at != p)
        at = &(*at)->next;
    if (*at) *at = p->next;
    pthread_mutex_unlock(&main_lock);
}

static struct r2_file *main_of(const char *wal)
{
    const char *name = sqlite3_filename_database(wal);
    pthread_mutex_lock(&main_lock);
    struct r2_file *p = mains;
    while (p && p->name != name)
        p = p->next;
    pthread_mutex_unlock(&main_lock);
    return p;
}

/* ---- xOpen ---- */

static const char *uri_value(void *name, const char *key)
{
    return sqlite3_uri_parameter(name, key);
}

/* Ours was done, but SQLite's own VFS could not open the file. */
static void report_refusal(const char *name, const struct r2_config *config, int flags)
{
    struct r2_err e = {.code = R2_OK};
    if (!(flags & SQLITE_OPEN_CREATE) && access(name, F_OK) != 0)
        r2_fail(&e, R2_MISSING,
                "cannot open %s: there is no such database, neither here nor at %s; correct the "
                "name, or open it without mode=ro or mode=rw to create it",
                name, config->url);
    else
        r2_fail(&e, R2_READONLY,
                "cannot open %s: the file or its folder cannot be used; give this user the right "
                "to read and write there",
                name);
    r2_shim_report(NULL, &e, "at open");
}

static int open_main(const char *name, struct r2_file *p, int flags, int *out_flags)
{
    struct r2_err e = {.code = R2_OK};
    struct r2_config_source source = {
        .uri = uri_value, .env = r2_config_getenv, .ctx = (void *)(uintptr_t)name};
    struct r2_config *config = sqlite3_malloc64(sizeof *config);
    int rc = SQLITE_CANTOPEN;
    if (!config) return SQLITE_NOMEM;
    enum r2_code why = r2_config_load(&source, name, config, &e);
    if (!why && config->scheme == R2_SCHEME_NONE) { /* not ours: the parent takes our place */
        sqlite3_free(config);
        return parent->xOpen(parent, name, &p->base, flags, out_flags);
    }
    if (!why && (config->version || config->at_given)) {
        why = r2_shim_open_past(name, config, &p->base, flags, out_flags, &e);
        if (!why) {
            sqlite3_free(config);
            return SQLITE_OK;
        }
        memset(p, 0, sizeof *p);
    }
    if (!why && config->sync == R2_SYNC_TIMER && !sqlite3_threadsafe())
        why = r2_fail(&e, R2_CONFIG, "sync=N needs a SQLite that is built thread-safe");
    if (!why) why = r2_replica_attach(name, config, &p->replica, &e);
    if (!why && (why = r2_replica_open(p->replica, config, &e))) r2_log_err(p->replica, &e);
    if (!why) {
        rc = parent->xOpen(parent, name, p->real, flags, out_flags);
        if (rc != SQLITE_OK) report_refusal(name, config, flags);
        if (rc != SQLITE_OK && p->real->pMethods) p->real->pMethods->xClose(p->real);
    }
    if (!why && rc == SQLITE_OK) {
        p->config = config;
        p->name = name;
        r2_shim_remember(p);
        p->base.pMethods = r2_shim_main_methods(p->real->pMethods->iVersion);
        return SQLITE_OK;
    }
    if (why) {
        r2_wrap(&e, "cannot open %s", name);
        r2_shim_report(NULL, &e, "at open");
    }
    if (p->replica) r2_replica_detach(p->replica);
    sqlite3_free(config);
    return why == R2_BUSY || why == R2_NOMEM ? r2_shim_code(why) : rc;
}

static int open_wal(const char *name, struct r2_file *p, struct r2_file *main, int flags,
                    int *out_flags)
{
    int rc = parent->xOpen(parent, name, p->real, flags, out_flags);
    if (p->real->pMethods) {
        p->main = main;
        p->base.pMethods = r2_shim_wal_methods();
    }
    return rc;
}

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
    struct r2_file *p = (struct r2_file *)(void *)f;
    struct r2_file *main = name && flags & SQLITE_OPEN_WAL ? main_of(name) : NULL;
    bool is_main = name && flags & SQLITE_OPEN_MAIN_DB;
    (void)vfs;
    f->pMethods = NULL;
    if (!is_main && !main) return parent->xOpen(parent, name, f, flags, out_flags);
    memset(p, 0, sizeof *p);
    p->real = (sqlite3_file *)(void *)(p + 1);
    p->real->pMethods = NULL;
    return is_main ? open_main(name, p, flags, out_flags)
                   : open_wal(name, p, main, flags, out_flags);
}

/* Is the database at `path` open with cache=shared? */
static bool is_shared(const char *path)
{
    pthread_mutex_lock(&main_lock);
    struct r2_file *p = mains;
    for (; p; p = p->next) {
        const char *cache = sqlite3_uri_parameter(p->name, "cache");
        if (cache && strcmp(cache, "shared") == 0 && strcmp(p->name, path) == 0) break;
    }
    pthread_mutex_unlock(&main_lock);
    return p != NULL;
}

/* Does SQLite's open of this name ask for an earlier version with cache=shared? It hands
 * xFullPathname the name with the URI's parameters behind it, as it does xOpen. Others might not:
 * so this is looked at only when it matters (is_shared), and forward only, unlike
 * sqlite3_uri_parameter(). */
static bool names_past(const char *name)
{
    bool past = false, shared = false;
    for (const char *p = name + strlen(name) + 1; *p;) {
        const char *value = p + strlen(p) + 1;
        past = past || ((strcmp(p, "version") == 0 || strcmp(p, "at") == 0) && *value);
        shared = shared || (strcmp(p, "cache") == 0 && strcmp(value, "shared") == 0);
        p = value + strlen(value) + 1;
    }
    return past && shared;
}

/* ---- the rest is the parent's ---- */

static int shim_delete(sqlite3_vfs *vfs, const char *name, int sync_folder)
{
    (void)vfs;
    return parent->xDelete(parent, name, sync_folder);
}

static int shim_access(sqlite3_vfs *vfs, const char *name, int flags, int *out)
{
    (void)vfs;
    return parent->xAccess(parent, name, flags, out);
}

static int shim_full_path(sqlite3_vfs *vfs, const char *name, int room, char *out)
{
    (void)vfs;
    int rc = parent->xFullPathname(parent, name, room, out);
    /* cache=shared finds what has the same path, without an xOpen: not for an earlier version */
    if ((rc == SQLITE_OK || rc == SQLITE_OK_SYMLINK) && is_shared(out) && names_past(name)) {
        struct r2_err e;
        r2_fail(&e, R2_CONFIG, R2_PAST_SHARED);
        r2_wrap(&e, "cannot open %s", out);
        r2_shim_report(NULL, &e, "at open");
        rc = SQLITE_CANTOPEN;
    }
    return rc;
}

static void *shim_dl_open(sqlite3_vfs *vfs, const char *name)
{
    (void)vfs;
    return parent->xDlOpen(parent, name);
}

static void shim_dl_error(sqlite3_vfs *vfs, int room, char *out)
{
    (void)vfs;
    parent->xDlError(parent, room, out);
}

static void (*shim_dl_sym(sqlite3_vfs *vfs, void *library, const char *name))(void)
{
    (void)vfs;
    return parent->xDlSym(parent, library, name);
}

static void shim_dl_close(sqlite3_vfs *vfs, void *library)
{
    (void)vfs;
    parent->xDlClose(parent, library);
}

static int shim_randomness(sqlite3_vfs *vfs, int n, char *out)
{
    (void)vfs;
    return parent->xRandomness(parent, n, out);
}

static int shim_sleep(sqlite3_vfs *vfs, int us)
{
    (void)vfs;
    r2_shim_slept(us);
    return parent->xSleep(parent, us);
}

static int shim_time(sqlite3_vfs *vfs, double *out)
{
    (void)vfs;
    return parent->xCurrentTime(parent, out);
}

static int shim_last_error(sqlite3_vfs *vfs, int room, char *out)
{
    (void)vfs;
    return parent->xGetLastError(parent, room, out);
}

static int shim_time64(sqlite3_vfs *vfs, sqlite3_int64 *out)
{
    (void)vfs;
    return parent->xCurrentTimeInt64(parent, out);
}

static int shim_set_call(sqlite3_vfs *vfs, const char *name, sqlite3_syscall_ptr call)
{
    (void)vfs;
    return parent->xSetSystemCall(parent, name, call);
}

static sqlite3_syscall_ptr shim_get_call(sqlite3_vfs *vfs, const char *name)
{
    (void)vfs;
    return parent->xGetSystemCall(parent, name);
}

static const char *shim_next_call(sqlite3_vfs *vfs, const char *name)
{
    (void)vfs;
    return parent->xNextSystemCall(parent, name);
}

static sqlite3_vfs shim = {
    .zName = "r2vfs",
    .xOpen = shim_open,
    .xDelete = shim_delete,
    .xAccess = shim_access,
    .xFullPathname = shim_full_path,
    .xDlOpen = shim_dl_open,
    .xDlError = shim_dl_error,
    .xDlSym = shim_dl_sym,
    .xDlClose = shim_dl_close,
    .xRandomness = shim_randomness,
    .xSleep = shim_sleep,
    .xCurrentTime = shim_time,
    .xGetLastError = shim_last_error,
    .xCurrentTimeInt64 = shim_time64,
    .xSetSystemCall = shim_set_call,
    .xGetSystemCall = shim_get_call,
    .xNextSystemCall = shim_next_call,
};

/* ---- registration ---- */

int r2_shim_register(bool make_default, char **message)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int rc = SQLITE_OK;
    pthread_mutex_lock(&lock);
    if (!parent) { /* once per process: a second time we would find ourselves */
        sqlite3_vfs *found = sqlite3_vfs_find(NULL);
        if (!found || strcmp(found->zName, "r2vfs") == 0) {
            *message = sqlite3_mprintf("r2vfs: this SQLite has no default VFS to build on");
            rc = SQLITE_ERROR;
        } else {
            parent = found;
            shim.iVersion = parent->iVersion < 3 ? parent->iVersion : 3;
            shim.szOsFile = (int)sizeof(struct r2_file) + parent->szOsFile;
            shim.mxPathname = parent->mxPathname;
            r2_local_set_vfs(parent->zName);
            r2_log = log_to_sqlite;
            r2_tell = tell_on_stderr;
        }
    }
    if (rc == SQLITE_OK && (make_default || !sqlite3_vfs_find("r2vfs")))
        rc = sqlite3_vfs_register(&shim, make_default);
    pthread_mutex_unlock(&lock);
    return rc;
}

static struct r2_file *file_behind(sqlite3 *db, const char *schema)
{
    sqlite3_file *f = NULL;
    if (sqlite3_file_control(db, schema, SQLITE_FCNTL_FILE_POINTER, &f) != SQLITE_OK) return NULL;
    return r2_shim_file(f);
}

struct r2_replica *r2_shim_replica(sqlite3 *db, const char *schema)
{
    struct r2_file *p = file_behind(db, schema);
    return p ? p->replica : NULL;
}

enum r2_code r2_shim_synced(sqlite3 *db, const char *schema, bool told, struct r2_err *e)
{
    struct r2_file *p = file_behind(db, schema);
    if (!p || !p->unsynced) return R2_OK;
    p->unsynced = false;
    if (told || p->aside == r2_replica_aside(p->replica)) return R2_OK;
    return r2_fail(e, R2_CONFLICT,
                   "what this connection had committed to %s since its last sync() is not in the "
                   "remote: another connection settled a conflict, and the local version was kept "
                   "as a fork (the log of errors says where); look what is missing before you go "
                   "on",
                   p->name);
}
