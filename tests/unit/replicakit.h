/* replicakit.h - what the tests of replica_*.c share: machines with a local file each, one bucket
 * folder, and a store between them that loses answers, or the whole process, on demand.
 *
 * Local files are written by stock SQLite; commit() tells the replica what the shim would. */
#ifndef REPLICAKIT_H
#define REPLICAKIT_H

#include "localkit.h"

#include <dirent.h>

#include "../../vfs/ltx.h"
#include "../../vfs/os.h"
#include "../../vfs/replica_int.h"

static struct r2_err err;

/* ---- the store between replica and directory store ---- */

enum how {
    SERVE,
    LOST,         /* nothing happens yet (see deliver()), no answer; nor to the next HEAD */
    LANDED,       /* it happens, no answer; the next HEAD is answered */
    LANDED_BLIND, /* nor to the next HEAD */
    DOWN,
    KILL_BEFORE, /* the process ends instead of the put */
    KILL_AFTER,
};

static struct {
    enum how put;      /* what happens to the next puts of KEY; LOST and LANDED once */
    enum how fork;     /* and to those of forks and bases */
    bool offline;      /* no call is answered */
    bool blind;        /* the next HEAD is not answered */
    _Atomic int flips; /* so many GETs have one byte wrong, at: */
    off_t flip_at;
    void (*_Atomic before_get)(void); /* once */
    void (*_Atomic before_head)(void);
    _Atomic unsigned puts, heads, gets, others; /* segments are fetched side by side */
    /* the put that was lost */
    struct {
        bool there;
        char *bytes;
        size_t n;
        struct r2_meta meta;
        enum r2_put_if when;
        char key[R2_KEY_BYTES], etag[R2_ETAG_BYTES];
    } late;
} script;

struct between {
    struct r2_store base;
    struct r2_store *inner;
};

static struct r2_store *inner_of(struct r2_store *s)
{
    return ((struct between *)(void *)s)->inner;
}

static enum r2_code no_answer(struct r2_call *call)
{
    return r2_fail(call->err, R2_UNREACHABLE, "no connection");
}

static enum r2_code b_head(struct r2_store *s, struct r2_call *call, const char *key,
                           struct r2_object *out)
{
    script.heads++;
    void (*before)(void) = atomic_exchange(&script.before_head, NULL);
    if (before) before();
    bool blind = script.blind;
    script.blind = false;
    if (script.offline || blind) return no_answer(call);
    return inner_of(s)->ops->head(inner_of(s), call, key, out);
}

static enum r2_code b_get(struct r2_store *s, struct r2_call *call, const char *key,
                          const char *if_match, uint64_t size, struct r2_sink *sink,
                          struct r2_object *out)
{
    script.gets++;
    void (*before)(void) = atomic_exchange(&script.before_get, NULL);
    if (before) before();
    if (script.offline) return no_answer(call);
    enum r2_code rc = inner_of(s)->ops->get(inner_of(s), call, key, if_match, size, sink, out);
    uint8_t byte;
    if (!rc && script.flips > 0 && script.flips-- &&
        pread(sink->fd, &byte, 1, script.flip_at) == 1) {
        byte ^= 1;
        if (pwrite(sink->fd, &byte, 1, script.flip_at) != 1) abort();
    }
    return rc;
}

static void keep_for_later(const struct r2_put *what)
{
    free(script.late.bytes);
    script.late.there = true;
    script.late.n = what->body.size;
    script.late.bytes = malloc(what->body.size + 1);
    if (what->body.mem)
        memcpy(script.late.bytes, what->body.mem, script.late.n);
    else if (pread(what->body.fd, script.late.bytes, script.late.n, (off_t)what->body.off) !=
             (ssize_t)script.late.n)
        abort();
    if (what->meta) script.late.meta = *what->meta;
    script.late.when = what->when;
    snprintf(script.late.key, sizeof script.late.key, "%s", what->key);
    snprintf(script.late.etag, sizeof script.late.etag, "%s", what->etag ? what->etag : "");
}

static enum r2_code b_put(struct r2_store *s, struct r2_call *call, const struct r2_put *what,
                          struct r2_object *out)
{
    struct r2_store *inner = inner_of(s);
    bool fork_put = !strstr(what->key, "/bucket/app.db") ||
                    strcmp(strstr(what->key, "/bucket/app.db"), "/bucket/app.db") != 0;
    enum how *next = fork_put ? &script.fork : &script.put, how = *next;
    script.puts += !fork_put;
    script.others += fork_put;
    if (script.offline || how == DOWN) return no_answer(call);
    if (how == KILL_BEFORE) _exit(9);
    if (how == LOST) keep_for_later(what);
    enum r2_code rc = how == LOST ? R2_OK : inner->ops->put(inner, call, what, out);
    if (how == KILL_AFTER) _exit(9);
    if (how == SERVE) return rc;
    *next = SERVE;
    script.blind = how != LANDED;
    return r2_fail(call->err, R2_UNKNOWN, "the answer was lost");
}

static enum r2_code b_del(struct r2_store *s, struct r2_call *call, const char *key)
{
    return inner_of(s)->ops->del(inner_of(s), call, key);
}

static enum r2_code b_copy(struct r2_store *s, struct r2_call *call, const char *from,
                           const char *if_match, const char *to)
{
    script.others++;
    if (script.offline) return no_answer(call);
    return inner_of(s)->ops->copy(inner_of(s), call, from, if_match, to);
}

static enum r2_code b_list(struct r2_store *s, struct r2_call *call, const char *prefix,
                           const char *after, r2_list_fn fn, void *ctx)
{
    if (script.offline) return no_answer(call);
    return inner_of(s)->ops->list(inner_of(s), call, prefix, after, fn, ctx);
}

static enum r2_code b_presign(struct r2_store *s, struct r2_call *call, const char *key,
                              int64_t seconds, struct r2_buf *url)
{
    return inner_of(s)->ops->presign(inner_of(s), call, key, seconds, url);
}

static void b_close(struct r2_store *s)
{
    inner_of(s)->ops->close(inner_of(s));
    free(s);
}

static const struct r2_store_ops between_ops = {.head = b_head,
                                                .get = b_get,
                                                .put = b_put,
                                                .list = b_list,
                                                .copy = b_copy,
                                                .del = b_del,
                                                .presign = b_presign,
                                                .close = b_close};

/* ---- machines ---- */

struct machine {
    const char *path;
    struct r2_config config;
    struct r2_replica *r;
};
static struct machine a, b;
static struct r2_store *bucket; /* the directory store, for a look from outside */

static KIT_UNUSED void shell(const char *fmt, ...)
{
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (system(line) != 0) abort();
}

static void machine(struct machine *m, const char *name)
{
    char path[64];
    memset(m, 0, sizeof *m);
    snprintf(path, sizeof path, "%s", name);
    if (mkdir(kit_path(path), 0755) != 0) abort();
    snprintf(path, sizeof path, "%s/app.db", name);
    m->path = kit_path(path);
    struct r2_config *c = &m->config;
    c->scheme = R2_SCHEME_FILE;
    snprintf(c->url, sizeof c->url, "file://%s", kit_path("bucket/app.db"));
    snprintf(c->key, sizeof c->key, "%s", kit_path("bucket/app.db") + 1);
    c->refresh_open = true;
    c->timeout_ms = 60000;
    c->retention_s = 86400;
}

/* Machines and bucket, in a folder that is there. */
static void set_up(void)
{
    memset(&script, 0, sizeof script);
    if (mkdir(kit_path("bucket"), 0755) != 0) abort();
    machine(&a, "a");
    machine(&b, "b");
    if (r2_store_open(&a.config, &bucket, &err) != R2_OK) abort();
}

static void tear_down(void)
{
    bucket->ops->close(bucket);
    free(script.late.bytes);
    script.late.bytes = NULL;
}

static KIT_UNUSED void start(void)
{
    kit_start();
    set_up();
}

static KIT_UNUSED void stop(void)
{
    tear_down();
    kit_stop();
}

static enum r2_code open_it(struct machine *m)
{
    r2_err_clear(&err);
    if (r2_replica_attach(m->path, &m->config, &m->r, &err) != R2_OK) {
        fprintf(stderr, "attach: %s\n", err.text);
        abort();
    }
    if (m->r->store->ops != &between_ops) {
        struct between *s = calloc(1, sizeof *s);
        s->base.ops = &between_ops;
        s->inner = m->r->store;
        m->r->store = &s->base;
    }
    return r2_replica_open(m->r, &m->config, &err);
}

static enum r2_code close_it(struct machine *m, bool wrote)
{
    r2_err_clear(&err);
    enum r2_code rc = r2_replica_close(m->r, &m->config, wrote, &err);
    r2_replica_detach(m->r);
    m->r = NULL;
    return rc;
}

static uint32_t counter_of(const char *path)
{
    uint8_t head[100] = {0};
    int fd = open(path, O_RDONLY);
    if (fd < 0 || pread(fd, head, sizeof head, 0) < 0) abort();
    close(fd);
    return r2_get32(head + 24);
}

/* Plain SQLite, without r2vfs. */
static KIT_UNUSED void stock(const char *path, const char *sql)
{
    sqlite3 *db = kit_open(path);
    kit_must(db, sql);
    sqlite3_close(db);
}

/* As a connection through r2vfs in a rollback mode, or in WAL mode with the log folded in. */
static KIT_UNUSED void commit(struct machine *m, const char *sql)
{
    struct r2_mark mark = {0};
    struct r2_marks marks = {0};
    if (r2_replica_touch(m->r, &marks, &err) != R2_OK) abort();
    r2_replica_unseen(m->r); /* nobody says which pages */
    stock(m->path, sql);
    mark.counter = counter_of(m->path);
    r2_replica_committed(m->r, &mark);
    r2_replica_ended(m->r, &marks);
    r2_marks_free(&marks);
}

/* Open, commit, close. */
static KIT_UNUSED enum r2_code session(struct machine *m, const char *sql)
{
    enum r2_code rc = open_it(m);
    if (rc) {
        r2_replica_detach(m->r);
        return rc;
    }
    if (sql) commit(m, sql);
    return close_it(m, sql != NULL);
}

/* The same in a process of its own, killed in its put. */
static KIT_UNUSED void killed_session(struct machine *m, const char *sql, enum how how)
{
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        script.put = how;
        session(m, sql);
        _exit(1);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) abort();
    CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 9);
}

/* ---- looking ---- */

/* SELECT x FROM t of any database file, without touching it; -1: none. */
static int64_t value_in(const char *path)
{
    shell("rm -f '%s'*; cp '%s' '%s' 2>/dev/null; cp '%s-wal' '%s-wal' 2>/dev/null; true",
          kit_path("look.db"), path, kit_path("look.db"), path, kit_path("look.db"));
    sqlite3 *db = kit_open(kit_path("look.db"));
    int64_t v =
        kit_text_is(db, "PRAGMA integrity_check", "ok") ? kit_int(db, "SELECT x FROM t") : -2;
    sqlite3_close(db);
    return v;
}

static KIT_UNUSED int64_t value(const struct machine *m)
{
    return value_in(m->path);
}

static KIT_UNUSED int64_t remote_value(void)
{
    return value_in(kit_path("bucket/app.db"));
}

static struct r2_remote remote(void)
{
    struct r2_remote seen;
    struct r2_call call = {.deadline_ms = r2_boot_ms() + 60000, .err = &err};
    if (r2_layout_object.probe(bucket, &call, a.config.key, &seen) != R2_OK) {
        fprintf(stderr, "probe: %s\n", err.text);
        abort();
    }
    return seen;
}

static KIT_UNUSED uint64_t remote_version(void)
{
    struct r2_remote seen = remote();
    return seen.exists ? seen.v.version : 0;
}

/* Let the put that was lost arrive after all. */
static KIT_UNUSED enum r2_code deliver(void)
{
    struct r2_call call = {.deadline_ms = r2_boot_ms() + 60000, .err = &err};
    struct r2_put put = {.key = script.late.key,
                         .body = {.mem = script.late.bytes, .fd = -1, .size = script.late.n},
                         .when = script.late.when,
                         .etag = script.late.etag,
                         .meta = &script.late.meta};
    CU_ASSERT_TRUE_FATAL(script.late.there);
    script.late.there = false;
    return bucket->ops->put(bucket, &call, &put, NULL);
}

/* Somebody's program puts a file at KEY; meta: lines. */
static KIT_UNUSED void put_object(const char *file, const char *meta)
{
    size_t n;
    uint8_t *bytes = kit_read_file(file, &n);
    struct r2_meta m = {.len = strlen(meta)};
    struct r2_call call = {.deadline_ms = r2_boot_ms() + 60000, .err = &err};
    memcpy(m.text, meta, m.len + 1);
    struct r2_put put = {.key = a.config.key,
                         .body = {.mem = bytes, .fd = -1, .size = n},
                         .when = R2_PUT_ANY,
                         .meta = &m};
    if (!bytes || bucket->ops->put(bucket, &call, &put, NULL) != R2_OK) abort();
    free(bytes);
}

/* The forks; the last one's path in *path. */
static KIT_UNUSED unsigned forks(char *path, size_t room)
{
    unsigned n = 0;
    DIR *d = opendir(kit_path("bucket/app.db-forks"));
    struct dirent *e;
    while (d && (e = readdir(d)) != NULL) {
        if (e->d_name[0] == '.') continue;
        n++;
        if (path) snprintf(path, room, "%s/%.200s", kit_path("bucket/app.db-forks"), e->d_name);
    }
    if (d) closedir(d);
    return n;
}

static KIT_UNUSED unsigned fork_count(void)
{
    return forks(NULL, 0);
}

/* The only fork's value; -1: not exactly one. */
static KIT_UNUSED int64_t fork_value(void)
{
    char path[700];
    return forks(path, sizeof path) == 1 ? value_in(path) : -1;
}

static KIT_UNUSED uint64_t version(struct machine *m)
{
    uint64_t v = 0;
    CU_ASSERT_EQUAL(r2_replica_version(m->r, &v, &err), R2_OK);
    return v;
}

static KIT_UNUSED enum r2_code sync_it(struct machine *m, uint64_t *v)
{
    *v = 0;
    r2_err_clear(&err);
    return r2_replica_sync(m->r, v, &err);
}

static KIT_UNUSED enum r2_code pull_it(struct machine *m, uint64_t *v)
{
    *v = 0;
    r2_err_clear(&err);
    return r2_replica_pull(m->r, v, &err);
}

static KIT_UNUSED enum r2_code resolve_it(struct machine *m, const char *how, uint64_t *v)
{
    *v = 0;
    r2_err_clear(&err);
    return r2_replica_resolve(m->r, how, v, &err);
}

/* Nothing is left to do: a clean file, at this version, on both sides. */
#define IS_AT(m, v, x)                                                                             \
    do {                                                                                           \
        CU_ASSERT_EQUAL(open_it(m), R2_OK);                                                        \
        CU_ASSERT_FALSE(r2_replica_barred((m)->r, &err));                                          \
        unsigned puts_before = script.puts;                                                        \
        CU_ASSERT_EQUAL(version(m), (v));                                                          \
        CU_ASSERT_EQUAL(close_it(m, false), R2_OK);                                                \
        CU_ASSERT_EQUAL(script.puts, puts_before);                                                 \
        CU_ASSERT_EQUAL(value(m), (x));                                                            \
        CU_ASSERT_EQUAL(remote_version(), (v));                                                    \
        CU_ASSERT_EQUAL(remote_value(), (x));                                                      \
    } while (0)

/* Both machines at version 1 with x = 10. */
static KIT_UNUSED void both_at_1(void)
{
    CU_ASSERT_EQUAL(session(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, zeroblob(5000))"),
                    R2_OK);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    CU_ASSERT_EQUAL(value(&b), 10);
}

#define SET(n) "UPDATE t SET x=" #n

#endif
