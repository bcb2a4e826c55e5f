/* history.c - r2_history: the versions that can be opened, newest first.
 *
 *   SELECT * FROM r2_history                       of schema main
 *   SELECT version, time FROM r2_history('aux')    of another one
 *
 * Versions, times and bytes come from a listing. Writer and pages stand in each segment's header:
 * those are fetched when a row is asked for them, more and more rows at a time. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../vfs/travel.h"
#include "../vfs/when.h"
#include "ext.h"

SQLITE_EXTENSION_INIT3

enum { VERSION, TIME, WRITER, PAGES, BYTES, SCHEMA };
enum { FIRST_LOOK = 8, LARGEST_LOOK = 64 };

struct vtab {
    sqlite3_vtab base;
    sqlite3 *db;
};

struct cursor {
    sqlite3_vtab_cursor base;
    char *schema;
    struct r2_history h;
    size_t n;
    size_t look; /* rows to look at next */
};

static struct cursor *cursor_of(sqlite3_vtab_cursor *c)
{
    return (struct cursor *)(void *)c;
}

static struct vtab *vtab_of(sqlite3_vtab_cursor *c)
{
    return (struct vtab *)(void *)c->pVtab;
}

static int connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                   char **message)
{
    (void)aux, (void)argc, (void)argv, (void)message;
    int rc = sqlite3_declare_vtab(db, "CREATE TABLE x(version INTEGER, time TEXT, writer TEXT, "
                                      "pages INTEGER, bytes INTEGER, schema TEXT HIDDEN)");
    if (rc != SQLITE_OK) return rc;
    struct vtab *v = calloc(1, sizeof *v);
    if (!v) return SQLITE_NOMEM;
    (void)sqlite3_vtab_config(db, SQLITE_VTAB_DIRECTONLY);
    v->db = db;
    *out = &v->base;
    return SQLITE_OK;
}

static int disconnect(sqlite3_vtab *v)
{
    free(v);
    return SQLITE_OK;
}

static int best_index(sqlite3_vtab *v, sqlite3_index_info *info)
{
    (void)v;
    info->estimatedCost = 1000;
    for (int k = 0; k < info->nConstraint; k++) {
        if (info->aConstraint[k].iColumn != SCHEMA ||
            info->aConstraint[k].op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        if (!info->aConstraint[k].usable) return SQLITE_CONSTRAINT;
        info->aConstraintUsage[k].argvIndex = 1;
        info->aConstraintUsage[k].omit = 1;
        info->idxNum = 1;
        break;
    }
    if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn == VERSION && info->aOrderBy[0].desc)
        info->orderByConsumed = 1;
    return SQLITE_OK;
}

static int open_cursor(sqlite3_vtab *v, sqlite3_vtab_cursor **out)
{
    (void)v;
    struct cursor *c = calloc(1, sizeof *c);
    if (!c) return SQLITE_NOMEM;
    *out = &c->base;
    return SQLITE_OK;
}

static void clear(struct cursor *c)
{
    r2_history_free(&c->h);
    sqlite3_free(c->schema);
    c->schema = NULL;
    c->n = 0;
    c->look = FIRST_LOOK;
}

static int close_cursor(sqlite3_vtab_cursor *cursor)
{
    clear(cursor_of(cursor));
    free(cursor);
    return SQLITE_OK;
}

static int failed(sqlite3_vtab_cursor *cursor, const struct r2_err *e)
{
    sqlite3_free(cursor->pVtab->zErrMsg);
    cursor->pVtab->zErrMsg = sqlite3_mprintf("%s", e->text);
    return r2_shim_code(e->code);
}

static int filter(sqlite3_vtab_cursor *cursor, int number, const char *text, int argc,
                  sqlite3_value **argv)
{
    (void)text;
    struct cursor *c = cursor_of(cursor);
    struct r2_err e = {.code = R2_OK};
    const char *schema = number && argc ? (const char *)sqlite3_value_text(argv[0]) : "main";
    clear(c);
    c->schema = sqlite3_mprintf("%s", schema ? schema : "main");
    if (!c->schema) return SQLITE_NOMEM;
    struct r2_replica *r = r2_ext_find(vtab_of(cursor)->db, "r2_history", c->schema, &e);
    if (r) (void)r2_replica_history(r, &c->h, &e);
    return e.code ? failed(cursor, &e) : SQLITE_OK;
}

static int next(sqlite3_vtab_cursor *cursor)
{
    cursor_of(cursor)->n++;
    return SQLITE_OK;
}

static int at_end(sqlite3_vtab_cursor *cursor)
{
    struct cursor *c = cursor_of(cursor);
    return c->n >= c->h.count;
}

/* See that the row in hand, and some after it, were looked at. */
static int look(sqlite3_vtab_cursor *cursor)
{
    struct cursor *c = cursor_of(cursor);
    struct r2_err e = {.code = R2_OK};
    if (c->h.row[c->n].looked) return SQLITE_OK;
    struct r2_replica *r = r2_ext_find(vtab_of(cursor)->db, "r2_history", c->schema, &e);
    if (r) (void)r2_history_look(r, &c->h, c->n, c->look, &e);
    if (e.code) return failed(cursor, &e);
    if (c->look < LARGEST_LOOK) c->look *= 2;
    return SQLITE_OK;
}

static int column(sqlite3_vtab_cursor *cursor, sqlite3_context *ctx, int n)
{
    struct cursor *c = cursor_of(cursor);
    const struct r2_history_row *row = &c->h.row[c->n];
    char text[R2_WHEN_BYTES];
    int rc = (n == WRITER && !row->has_writer) || n == PAGES ? look(cursor) : SQLITE_OK;
    if (rc != SQLITE_OK) return rc;
    switch (n) {
    case VERSION:
        sqlite3_result_int64(ctx, (sqlite3_int64)row->version);
        break;
    case TIME:
        r2_when_text(row->time_ms, text);
        if (row->time_ms) sqlite3_result_text(ctx, text, -1, SQLITE_TRANSIENT);
        break;
    case WRITER:
        snprintf(text, sizeof text, "%016" PRIx64, row->writer);
        if (row->has_writer) sqlite3_result_text(ctx, text, -1, SQLITE_TRANSIENT);
        break;
    case PAGES:
        if (row->pages) sqlite3_result_int64(ctx, row->pages);
        break;
    case BYTES:
        sqlite3_result_int64(ctx, (sqlite3_int64)row->bytes);
        break;
    case SCHEMA:
        sqlite3_result_text(ctx, c->schema, -1, SQLITE_TRANSIENT);
        break;
    }
    return SQLITE_OK;
}

static int row_id(sqlite3_vtab_cursor *cursor, sqlite3_int64 *out)
{
    struct cursor *c = cursor_of(cursor);
    *out = (sqlite3_int64)c->h.row[c->n].version;
    return SQLITE_OK;
}

static const sqlite3_module module = {
    .xConnect = connect, /* no xCreate: the table exists on every connection by itself */
    .xBestIndex = best_index,
    .xDisconnect = disconnect,
    .xOpen = open_cursor,
    .xClose = close_cursor,
    .xFilter = filter,
    .xNext = next,
    .xEof = at_end,
    .xColumn = column,
    .xRowid = row_id,
};

int r2_ext_history(sqlite3 *db)
{
    return sqlite3_create_module_v2(db, "r2_history", &module, NULL, NULL);
}
