/* functions.c - the SQL functions, one row of a table each; and the same for C (r2vfs.h).
 *
 * All of them act on the outside world: SQLITE_DIRECTONLY, and refused inside a transaction or
 * beside an unfinished statement that reads, because pushes and pulls take locks of their own. */
#include <stdio.h>
#include <string.h>

#include "../vfs/buf.h"
#include "../vfs/r2vfs.h"
#include "../vfs/shim_past.h"
#include "../vfs/travel.h"
#include "ext.h"

SQLITE_EXTENSION_INIT3

void r2_ext_error(sqlite3_context *ctx, const struct r2_err *e)
{
    sqlite3_result_error(ctx, e->text[0] ? e->text : r2_code_text(e->code), -1);
    sqlite3_result_error_code(ctx, r2_shim_code(e->code));
}

typedef enum r2_code (*act_fn)(struct r2_replica *r, sqlite3_value *arg, uint64_t *version,
                               char *text, size_t room, struct r2_err *e);

static enum r2_code do_sync(struct r2_replica *r, sqlite3_value *arg, uint64_t *version, char *text,
                            size_t room, struct r2_err *e)
{
    (void)arg, (void)text, (void)room;
    return r2_replica_sync(r, version, e);
}

static enum r2_code do_pull(struct r2_replica *r, sqlite3_value *arg, uint64_t *version, char *text,
                            size_t room, struct r2_err *e)
{
    (void)arg, (void)text, (void)room;
    return r2_replica_pull(r, version, e);
}

static enum r2_code do_version(struct r2_replica *r, sqlite3_value *arg, uint64_t *version,
                               char *text, size_t room, struct r2_err *e)
{
    (void)arg, (void)text, (void)room;
    return r2_replica_version(r, version, e);
}

static enum r2_code do_remote_version(struct r2_replica *r, sqlite3_value *arg, uint64_t *version,
                                      char *text, size_t room, struct r2_err *e)
{
    (void)arg, (void)text, (void)room;
    return r2_replica_remote_version(r, version, e);
}

static enum r2_code do_resolve(struct r2_replica *r, sqlite3_value *arg, uint64_t *version,
                               char *text, size_t room, struct r2_err *e)
{
    (void)text, (void)room;
    const char *how = (const char *)sqlite3_value_text(arg);
    return r2_replica_resolve(r, how ? how : "", version, e);
}

static enum r2_code do_restore(struct r2_replica *r, sqlite3_value *arg, uint64_t *version,
                               char *text, size_t room, struct r2_err *e)
{
    (void)text, (void)room;
    sqlite3_int64 wanted = sqlite3_value_int64(arg);
    return r2_replica_restore(r, wanted > 0 ? (uint64_t)wanted : 0, version, e);
}

static enum r2_code do_presign(struct r2_replica *r, sqlite3_value *arg, uint64_t *version,
                               char *text, size_t room, struct r2_err *e)
{
    (void)version;
    return r2_replica_presign(r, sqlite3_value_int64(arg), text, room, e);
}

/* r2_checkpoint([how][, schema]): an only argument that is no layout names the schema. */
static bool is_layout(sqlite3_value *arg)
{
    const char *text = (const char *)sqlite3_value_text(arg);
    return !text || strcmp(text, "log") == 0 || strcmp(text, "object") == 0;
}

static enum r2_code do_checkpoint(struct r2_replica *r, sqlite3_value *arg, uint64_t *version,
                                  char *text, size_t room, struct r2_err *e)
{
    (void)text, (void)room;
    const char *how = arg ? (const char *)sqlite3_value_text(arg) : NULL;
    return r2_replica_checkpoint(r, how ? how : "", version, e);
}

struct function {
    const char *name;
    int args;     /* of its own; one more may name the schema */
    bool acts;    /* needs the connection to be idle */
    bool is_text; /* result: text, else the version */
    act_fn fn;
};

static const struct function functions[] = {
    {"sync", 0, true, false, do_sync},
    {"r2_sync", 0, true, false, do_sync},
    {"r2_pull", 0, true, false, do_pull},
    {"r2_version", 0, false, false, do_version},
    {"r2_remote_version", 0, false, false, do_remote_version},
    {"r2_resolve", 1, true, false, do_resolve},
    {"r2_restore", 1, true, false, do_restore},
    {"r2_checkpoint", 0, true, false, do_checkpoint},
    {"r2_checkpoint", 1, true, false, do_checkpoint},
    {"r2_presign", 1, false, true, do_presign},
};

struct r2_replica *r2_ext_find(sqlite3 *db, const char *name, const char *schema, struct r2_err *e)
{
    uint64_t version;
    const char *url;
    struct r2_replica *r = r2_shim_replica(db, schema);
    if (r) return r;
    if (!sqlite3_db_filename(db, schema))
        r2_fail(e, R2_CONFIG, "%s: there is no schema '%.60s' on this connection", name, schema);
    else if (r2_shim_shows_past(db, schema, &version, &url))
        r2_fail(e, R2_REFUSED,
                "%s: schema '%.60s' shows version %llu of %s, read-only; open the database without "
                "version= and at= for this",
                name, schema, (unsigned long long)version, url);
    else
        r2_fail(e, R2_CONFIG,
                "%s: schema '%.60s' has no remote: open it with "
                "'file:app.db?vfs=r2vfs&remote=s3://BUCKET/app.db', or set R2VFS_REMOTE and make "
                "r2vfs the default VFS (a file outside R2VFS_ROOT is left alone)",
                name, schema);
    return NULL;
}

static bool idle(sqlite3 *db, const char *name, struct r2_err *e)
{
    if (sqlite3_get_autocommit(db) && sqlite3_txn_state(db, NULL) == SQLITE_TXN_NONE) return true;
    r2_fail(e, R2_REFUSED,
            "%s cannot run inside a transaction or beside an unfinished statement of the same "
            "connection: COMMIT, or finish reading, first",
            name);
    return false;
}

/* r2_version() of an earlier version is its number. */
static bool shows_past(sqlite3_context *ctx, const char *schema)
{
    uint64_t version;
    const char *url;
    if (!r2_shim_shows_past(sqlite3_context_db_handle(ctx), schema, &version, &url)) return false;
    sqlite3_result_int64(ctx, (sqlite3_int64)version);
    return true;
}

/* What this connection is to hear of what became of its commits. */
static enum r2_code after(sqlite3 *db, const char *schema, act_fn fn, struct r2_err *e)
{
    if (fn == do_sync) return r2_shim_synced(db, schema, false, e);
    if (fn == do_resolve || fn == do_restore) return r2_shim_synced(db, schema, true, e);
    return R2_OK;
}

static void call(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    const struct function *f = sqlite3_user_data(ctx);
    sqlite3 *db = sqlite3_context_db_handle(ctx);
    struct r2_err e = {.code = R2_OK};
    char text[4096] = "";
    uint64_t version = 0;
    int args = f->args;
    if (f->fn == do_checkpoint && argc == 1 && !is_layout(argv[0])) args = 0;
    const char *schema = argc > args ? (const char *)sqlite3_value_text(argv[args]) : "main";
    if (!schema) schema = "main";
    if (f->fn == do_version && shows_past(ctx, schema)) return;
    struct r2_replica *r = r2_ext_find(db, f->name, schema, &e);
    if (r && f->acts && !idle(db, f->name, &e)) r = NULL;
    if (r && !f->fn(r, args ? argv[0] : NULL, &version, text, sizeof text, &e) &&
        !after(db, schema, f->fn, &e)) {
        if (f->is_text)
            sqlite3_result_text(ctx, text, -1, SQLITE_TRANSIENT);
        else
            sqlite3_result_int64(ctx, (sqlite3_int64)version);
        return;
    }
    if (e.code == R2_BUSY && r)
        r2_advise(&e, "; a connection with PRAGMA locking_mode=EXCLUSIVE keeps everybody out");
    r2_ext_error(ctx, &e);
}

/* r2_last_error([schema]): also on a connection that r2vfs has no part in, because an open that
 * failed leaves none that has. */
static void last_error(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    char text[R2_ERR_TEXT];
    const char *schema = argc ? (const char *)sqlite3_value_text(argv[0]) : "main";
    r2_replica_last_error(r2_shim_replica(sqlite3_context_db_handle(ctx), schema ? schema : "main"),
                          text, sizeof text);
    sqlite3_result_text(ctx, text, -1, SQLITE_TRANSIENT);
}

static int define(sqlite3 *db, const char *name, int args, const struct function *f,
                  void (*fn)(sqlite3_context *, int, sqlite3_value **))
{
    int rc = SQLITE_OK;
    for (int more = 0; rc == SQLITE_OK && more < 2; more++) {
        rc = sqlite3_create_function_v2(db, name, args + more, SQLITE_UTF8 | SQLITE_DIRECTONLY,
                                        (void *)(uintptr_t)f, fn, NULL, NULL, NULL);
        /* SELECT load_extension() on a connection that has them: they cannot be replaced while a
         * statement runs, and need not be */
        if (rc == SQLITE_BUSY) rc = SQLITE_OK;
    }
    return rc;
}

int r2_ext_functions(sqlite3 *db)
{
    int rc = define(db, "r2_last_error", 0, NULL, last_error);
    for (size_t k = 0; rc == SQLITE_OK && k < sizeof functions / sizeof *functions; k++)
        rc = define(db, functions[k].name, functions[k].args, &functions[k], call);
    return rc;
}

/* ---- for C ---- */

static int finish(enum r2_code rc, const struct r2_err *e, uint64_t version, sqlite3_int64 *out,
                  char **message)
{
    if (message) *message = rc ? sqlite3_mprintf("%s", e->text) : NULL;
    if (!rc && out) *out = (sqlite3_int64)version;
    return r2_shim_code(rc);
}

int r2vfs_sync(sqlite3 *db, const char *schema, sqlite3_int64 *version, char **message)
{
    struct r2_err e = {.code = R2_OK};
    uint64_t v = 0;
    if (!schema) schema = "main";
    struct r2_replica *r = r2_ext_find(db, "r2vfs_sync", schema, &e);
    enum r2_code rc = r && idle(db, "r2vfs_sync", &e) ? r2_replica_sync(r, &v, &e) : e.code;
    if (!rc) rc = after(db, schema, do_sync, &e);
    return finish(rc, &e, v, version, message);
}

int r2vfs_pull(sqlite3 *db, const char *schema, sqlite3_int64 *version, char **message)
{
    struct r2_err e = {.code = R2_OK};
    uint64_t v = 0;
    struct r2_replica *r = r2_ext_find(db, "r2vfs_pull", schema ? schema : "main", &e);
    enum r2_code rc = r && idle(db, "r2vfs_pull", &e) ? r2_replica_pull(r, &v, &e) : e.code;
    return finish(rc, &e, v, version, message);
}

int r2vfs_checkpoint(sqlite3 *db, const char *schema, const char *how, sqlite3_int64 *version,
                     char **message)
{
    struct r2_err e = {.code = R2_OK};
    uint64_t v = 0;
    struct r2_replica *r = r2_ext_find(db, "r2vfs_checkpoint", schema ? schema : "main", &e);
    enum r2_code rc = r && idle(db, "r2vfs_checkpoint", &e)
                          ? r2_replica_checkpoint(r, how ? how : "", &v, &e)
                          : e.code;
    return finish(rc, &e, v, version, message);
}

int r2vfs_resolve(sqlite3 *db, const char *schema, const char *how, sqlite3_int64 *version,
                  char **message)
{
    struct r2_err e = {.code = R2_OK};
    uint64_t v = 0;
    struct r2_replica *r = r2_ext_find(db, "r2vfs_resolve", schema ? schema : "main", &e);
    enum r2_code rc =
        r && idle(db, "r2vfs_resolve", &e) ? r2_replica_resolve(r, how, &v, &e) : e.code;
    if (!rc) rc = after(db, schema ? schema : "main", do_resolve, &e);
    return finish(rc, &e, v, version, message);
}

int r2vfs_restore(sqlite3 *db, const char *schema, sqlite3_int64 old, sqlite3_int64 *version,
                  char **message)
{
    struct r2_err e = {.code = R2_OK};
    uint64_t v = 0;
    struct r2_replica *r = r2_ext_find(db, "r2vfs_restore", schema ? schema : "main", &e);
    enum r2_code rc = r && idle(db, "r2vfs_restore", &e)
                          ? r2_replica_restore(r, old > 0 ? (uint64_t)old : 0, &v, &e)
                          : e.code;
    if (!rc) rc = after(db, schema ? schema : "main", do_restore, &e);
    return finish(rc, &e, v, version, message);
}
