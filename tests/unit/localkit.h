/* localkit.h - what the tests of local.h and apply.h share: real databases made by stock SQLite,
 * and stock SQLite as their judge.
 *
 * The code under test calls SQLite through sqlite3_api. With ext/entry.c in the link it is defined
 * there (compile with -DR2_HAVE_ENTRY), else here; kit_start() fills it in both cases. */
#ifndef LOCALKIT_H
#define LOCALKIT_H

#include "unit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SQLITE_CORE 1 /* the tests call the library itself, not through sqlite3_api */
#include "apply_int.h"
#include "buf.h"

#ifndef R2_HAVE_ENTRY
const struct sqlite3_api_routines *sqlite3_api;
#else
extern const struct sqlite3_api_routines *sqlite3_api;
#endif

#define KIT_UNUSED __attribute__((unused))

static char kit_dir[256];

static int kit_catch_api(sqlite3 *db, char **text, const struct sqlite3_api_routines *api)
{
    (void)db, (void)text;
    sqlite3_api = api;
    return SQLITE_OK;
}

/* Every test begins with an empty folder of its own. */
static KIT_UNUSED void kit_start(void)
{
    sqlite3 *db;
    const char *tmp = getenv("TMPDIR");
    sqlite3_auto_extension((void (*)(void))kit_catch_api);
    if (sqlite3_open(":memory:", &db) != SQLITE_OK) abort();
    sqlite3_close(db);
    sqlite3_reset_auto_extension();
    snprintf(kit_dir, sizeof kit_dir, "%s/r2localXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(kit_dir)) abort();
}

static KIT_UNUSED void kit_stop(void)
{
    char cmd[300];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", kit_dir);
    if (system(cmd) != 0) abort();
}

/* A path in the test's folder; valid until the program ends. */
static KIT_UNUSED const char *kit_path(const char *name)
{
    static char *paths[4096];
    static size_t n;
    char path[400];
    snprintf(path, sizeof path, "%s/%s", kit_dir, name);
    for (size_t i = 0; i < n; i++)
        if (strcmp(paths[i], path) == 0) return paths[i];
    if (n == sizeof paths / sizeof *paths || !(paths[n] = strdup(path))) abort();
    return paths[n++];
}

/* ---- stock SQLite ---- */

static KIT_UNUSED sqlite3 *kit_open(const char *path)
{
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        abort();
    return db;
}

static KIT_UNUSED int kit_exec(sqlite3 *db, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *sql = sqlite3_vmprintf(fmt, ap);
    va_end(ap);
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    sqlite3_free(sql);
    return rc;
}

static KIT_UNUSED void kit_must(sqlite3 *db, const char *sql)
{
    char *text = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", sql, text);
        abort();
    }
}

/* The first column of the first row; -1 on failure. */
static KIT_UNUSED int64_t kit_int(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s = NULL;
    int64_t v = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        v = sqlite3_column_int64(s, 0);
    return sqlite3_finalize(s) == SQLITE_OK ? v : -1;
}

static KIT_UNUSED bool kit_text_is(sqlite3 *db, const char *sql, const char *want)
{
    sqlite3_stmt *s = NULL;
    bool yes = false;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        yes = strcmp((const char *)sqlite3_column_text(s, 0), want) == 0;
    sqlite3_finalize(s);
    return yes;
}

/* ---- versions: every row of t carries the version's number ---- */

struct kit_version {
    uint8_t *bytes;
    uint32_t page_size, pages;
    int number;
};

static KIT_UNUSED uint8_t *kit_read_file(const char *path, size_t *n)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0) close(fd);
        *n = 0;
        return NULL;
    }
    uint8_t *b = malloc((size_t)st.st_size + 1);
    *n = (size_t)st.st_size;
    if (!b || pread(fd, b, *n, 0) != (ssize_t)*n) abort();
    close(fd);
    return b;
}

static KIT_UNUSED void kit_write_file(const char *path, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || pwrite(fd, bytes, n, 0) != (ssize_t)n) abort();
    close(fd);
}

/* Fill an empty database (without waiting for the disk) with version `number` of `rows` rows. */
static KIT_UNUSED void kit_fill(sqlite3 *db, int number, int rows, uint32_t page_size, int vacuum)
{
    char sql[400];
    snprintf(sql, sizeof sql,
             "PRAGMA page_size=%u; PRAGMA auto_vacuum=%d; PRAGMA synchronous=OFF; BEGIN;"
             "CREATE TABLE t(id INTEGER PRIMARY KEY, ver INT, pad BLOB);"
             "CREATE INDEX ti ON t(ver, id);"
             "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<%d)"
             " INSERT INTO t SELECT i, %d, randomblob(100 + i%%400) FROM c; COMMIT;",
             page_size, vacuum, rows, number);
    kit_must(db, sql);
}

static KIT_UNUSED struct kit_version kit_make(int number, int rows, uint32_t page_size, int vacuum)
{
    struct kit_version v = {.number = number, .page_size = page_size};
    char name[64];
    size_t n;
    snprintf(name, sizeof name, "version-%d", number);
    unlink(kit_path(name));
    sqlite3 *db = kit_open(kit_path(name));
    kit_fill(db, number, rows, page_size, vacuum);
    sqlite3_close(db);
    v.bytes = kit_read_file(kit_path(name), &n);
    v.pages = (uint32_t)(n / page_size);
    unlink(kit_path(name));
    return v;
}

/* Which version this database holds, wholly; -1: none, or damaged. */
static KIT_UNUSED int kit_which(sqlite3 *db)
{
    if (!kit_text_is(db, "PRAGMA integrity_check", "ok")) return -1;
    if (kit_int(db, "SELECT count(*) FROM sqlite_schema") == 0) return 0;
    if (kit_int(db, "SELECT min(ver)=max(ver) AND count(*)=max(id) FROM t") != 1) return -1;
    return (int)kit_int(db, "SELECT max(ver) FROM t");
}

static KIT_UNUSED int kit_which_file(const char *path)
{
    sqlite3 *db = kit_open(path);
    int v = kit_which(db);
    sqlite3_close(db);
    return v;
}

/* Equal but for what is local in page 1. */
static KIT_UNUSED bool kit_same(const struct kit_version *v, const uint8_t *b, size_t n)
{
    if (n != (size_t)v->pages * v->page_size) return false;
    for (size_t i = 0; i < n; i++) {
        bool local =
            i == 18 || i == 19 || (i >= 24 && i < 32) || (i >= 40 && i < 44) || (i >= 92 && i < 96);
        if (!local && b[i] != v->bytes[i]) return false;
    }
    return r2_get32(b + 28) == v->pages;
}

static KIT_UNUSED bool kit_file_same(const struct kit_version *v, const char *path)
{
    size_t n;
    uint8_t *b = kit_read_file(path, &n);
    bool yes = b && kit_same(v, b, n);
    free(b);
    return yes;
}

/* ---- applying ---- */

static KIT_UNUSED enum r2_code kit_version_read(void *ctx, uint32_t first, uint32_t count,
                                                uint8_t *to, struct r2_err *e)
{
    const struct kit_version *v = ctx;
    (void)e;
    memcpy(to, v->bytes + (size_t)(first - 1) * v->page_size, (size_t)count * v->page_size);
    return R2_OK;
}

/* The pages that differ, as the replica finds them; the caller frees it. */
static KIT_UNUSED uint8_t *kit_diff(struct r2_local *l, const struct kit_version *v)
{
    uint32_t ps = 0, pages = 0;
    struct r2_err e = {0};
    uint8_t *map = calloc(1, v->pages / 8 + 1), *page = malloc(65536);
    if (!map || !page || r2_local_shape(l, &ps, &pages, &e) != R2_OK) abort();
    for (uint32_t p = 1; p <= v->pages; p++) {
        bool same = false;
        if (p != 1 && ps == v->page_size && p <= pages) {
            if (r2_local_read_pages(l, p, 1, page, &e) != R2_OK) abort();
            same = memcmp(page, v->bytes + (size_t)(p - 1) * ps, ps) == 0;
        }
        if (!same) map[(p - 1) / 8] |= (uint8_t)(1 << ((p - 1) % 8));
    }
    free(page);
    return map;
}

static KIT_UNUSED enum r2_code kit_apply_on(struct r2_local *l, const struct kit_version *v,
                                            struct r2_err *e)
{
    enum r2_code code = r2_local_begin_write(l, e);
    if (code != R2_OK) return code;
    uint8_t *map = kit_diff(l, v);
    struct r2_apply a = {.page_size = v->page_size,
                         .pages = v->pages,
                         .write_map = map,
                         .read = kit_version_read,
                         .ctx = (void *)(uintptr_t)v,
                         .new_schema = true};
    code = r2_apply(l, &a, e);
    enum r2_code end = r2_local_end(l, code == R2_OK ? e : NULL);
    free(map);
    return code != R2_OK ? code : end;
}

static KIT_UNUSED enum r2_code kit_apply(const char *path, const struct kit_version *v,
                                         int64_t busy_ms, struct r2_err *e)
{
    struct r2_local *l = NULL;
    enum r2_code code = r2_local_open(path, busy_ms, &l, e);
    if (code == R2_OK) code = kit_apply_on(l, v, e);
    r2_local_close(l);
    return code;
}

/* Whole image through a session; NULL on failure. */
static KIT_UNUSED uint8_t *kit_image(struct r2_local *l, uint32_t *ps, uint32_t *pages)
{
    struct r2_err e = {0};
    if (r2_local_shape(l, ps, pages, &e) != R2_OK) return NULL;
    uint8_t *b = malloc((size_t)*ps * *pages + 1);
    if (b && *pages && r2_local_read_pages(l, 1, *pages, b, &e) != R2_OK) {
        free(b);
        return NULL;
    }
    return b;
}

#endif
