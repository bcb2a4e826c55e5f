/* tables.c - r2_status and r2_requests: eponymous, read-only virtual tables.
 *
 * A table is a row of `tables`: its columns, how to fetch row n, how to give column c of it. Rows
 * are taken when a scan begins (r2_requests) or one by one (r2_status). */
#include <stdlib.h>
#include <string.h>

#include "../vfs/store.h"
#include "../vfs/when.h"
#include "ext.h"

SQLITE_EXTENSION_INIT3

struct cursor;

struct table {
    const char *name, *declaration;
    bool (*row)(struct cursor *c, size_t n); /* load row n; false past the last */
    void (*column)(struct cursor *c, sqlite3_context *ctx, int column);
};

struct vtab {
    sqlite3_vtab base;
    const struct table *table;
};

struct cursor {
    sqlite3_vtab_cursor base;
    const struct table *table;
    size_t n;
    bool at_end;
    struct r2_status status;     /* r2_status: the row */
    struct r2_request *requests; /* r2_requests: all rows */
    size_t count;
};

static void time_text(sqlite3_context *ctx, int64_t ms)
{
    char text[R2_WHEN_BYTES];
    r2_when_text(ms, text);
    if (ms && text[0]) sqlite3_result_text(ctx, text, -1, SQLITE_TRANSIENT);
}

/* ---- r2_status ---- */

static bool status_row(struct cursor *c, size_t n)
{
    return r2_replica_status(n, &c->status);
}

static void status_column(struct cursor *c, sqlite3_context *ctx, int column)
{
    const struct r2_status *s = &c->status;
    const char *texts[] = {s->file, s->remote, s->layout, s->sync};
    const uint64_t numbers[] = {s->version, s->remote_version, s->dirty_pages, s->writes,
                                s->syncs,   s->pushes,         s->pulls,       s->conflicts,
                                s->class_a, s->class_b,        s->bytes_up,    s->bytes_down};
    if (column < 4)
        sqlite3_result_text(ctx, texts[column], -1, SQLITE_TRANSIENT);
    else if (column < 16)
        sqlite3_result_int64(ctx, (sqlite3_int64)numbers[column - 4]);
    else if (column == 17)
        time_text(ctx, s->verified_ms);
    else if (s->last_error[0])
        sqlite3_result_text(ctx, s->last_error, -1, SQLITE_TRANSIENT);
    else
        sqlite3_result_null(ctx);
}

/* ---- r2_requests ---- */

static bool request_row(struct cursor *c, size_t n)
{
    if (n == 0) {
        free(c->requests);
        c->requests = calloc(R2_REQLOG_ROWS, sizeof *c->requests);
        c->count = c->requests ? r2_reqlog_copy(c->requests, R2_REQLOG_ROWS) : 0;
    }
    return n < c->count;
}

static void request_column(struct cursor *c, sqlite3_context *ctx, int column)
{
    const struct r2_request *r = &c->requests[c->n];
    const int64_t numbers[] = {r->status, (int64_t)r->bytes, r->ms, r->retries};
    if (column == 0)
        time_text(ctx, r->time_ms);
    else if (column == 1)
        sqlite3_result_text(ctx, r->method, -1, SQLITE_TRANSIENT);
    else if (column == 2)
        sqlite3_result_text(ctx, r->key, -1, SQLITE_TRANSIENT);
    else
        sqlite3_result_int64(ctx, numbers[column - 3]);
}

static const struct table tables[] = {
    {"r2_status",
     "CREATE TABLE x(file TEXT, remote TEXT, layout TEXT, sync TEXT, version INTEGER, "
     "remote_version INTEGER, dirty_pages INTEGER, writes INTEGER, syncs INTEGER, pushes INTEGER, "
     "pulls INTEGER, conflicts INTEGER, requests_a INTEGER, requests_b INTEGER, bytes_up INTEGER, "
     "bytes_down INTEGER, last_error TEXT, last_verified TEXT)",
     status_row, status_column},
    {"r2_requests",
     "CREATE TABLE x(time TEXT, method TEXT, key TEXT, status INTEGER, bytes INTEGER, ms INTEGER, "
     "retries INTEGER)",
     request_row, request_column},
};

/* ---- the virtual table machinery, the same for all ---- */

static int connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                   char **message)
{
    (void)argc, (void)argv, (void)message;
    const struct table *t = aux;
    int rc = sqlite3_declare_vtab(db, t->declaration);
    if (rc != SQLITE_OK) return rc;
    struct vtab *v = calloc(1, sizeof *v);
    if (!v) return SQLITE_NOMEM;
    (void)sqlite3_vtab_config(db, SQLITE_VTAB_DIRECTONLY);
    v->table = t;
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
    info->estimatedCost = 100;
    return SQLITE_OK;
}

static int open_cursor(sqlite3_vtab *v, sqlite3_vtab_cursor **out)
{
    struct cursor *c = calloc(1, sizeof *c);
    if (!c) return SQLITE_NOMEM;
    c->table = ((struct vtab *)v)->table;
    *out = &c->base;
    return SQLITE_OK;
}

static int close_cursor(sqlite3_vtab_cursor *cursor)
{
    struct cursor *c = (struct cursor *)cursor;
    free(c->requests);
    free(c);
    return SQLITE_OK;
}

static int filter(sqlite3_vtab_cursor *cursor, int number, const char *text, int argc,
                  sqlite3_value **argv)
{
    (void)number, (void)text, (void)argc, (void)argv;
    struct cursor *c = (struct cursor *)cursor;
    c->n = 0;
    c->at_end = !c->table->row(c, 0);
    return SQLITE_OK;
}

static int next(sqlite3_vtab_cursor *cursor)
{
    struct cursor *c = (struct cursor *)cursor;
    c->at_end = !c->table->row(c, ++c->n);
    return SQLITE_OK;
}

static int at_end(sqlite3_vtab_cursor *cursor)
{
    return ((struct cursor *)cursor)->at_end;
}

static int column(sqlite3_vtab_cursor *cursor, sqlite3_context *ctx, int n)
{
    struct cursor *c = (struct cursor *)cursor;
    c->table->column(c, ctx, n);
    return SQLITE_OK;
}

static int row_id(sqlite3_vtab_cursor *cursor, sqlite3_int64 *out)
{
    *out = (sqlite3_int64)((struct cursor *)cursor)->n + 1;
    return SQLITE_OK;
}

static const sqlite3_module module = {
    .xConnect = connect, /* no xCreate: the tables exist on every connection by themselves */
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

int r2_ext_tables(sqlite3 *db)
{
    int rc = SQLITE_OK;
    for (size_t k = 0; rc == SQLITE_OK && k < sizeof tables / sizeof *tables; k++)
        rc = sqlite3_create_module_v2(db, tables[k].name, &module, (void *)(uintptr_t)&tables[k],
                                      NULL);
    return rc == SQLITE_OK ? r2_ext_history(db) : rc;
}
