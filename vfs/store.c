/* store.c - what both kinds of store share: metadata, the table of kinds, the gate for writers that
 * are not fresh, several requests at once, the log of requests. */
#include "store.h"
#include "os.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* ---- metadata ---- */

void r2_meta_clear(struct r2_meta *m)
{
    m->len = 0;
    m->text[0] = 0;
}

/* Names travel as HTTP header names, values as header values: no byte may end a line early. */
static bool name_ok(const char *name)
{
    if (!*name) return false;
    for (; *name; name++) {
        bool ok = (*name >= 'a' && *name <= 'z') || (*name >= '0' && *name <= '9') ||
                  *name == '-' || *name == '_' || *name == '.';
        if (!ok) return false;
    }
    return true;
}

static bool value_ok(const char *value)
{
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;
        if ((c < 32 && c != '\t') || c == 127) return false;
    }
    return true;
}

bool r2_meta_add(struct r2_meta *m, const char *name, const char *value)
{
    if (!name_ok(name) || !value_ok(value)) return false;
    size_t n = strlen(name), v = strlen(value), need = n + 2 + v + 1;
    if (m->len > R2_META_BYTES || need > R2_META_BYTES - m->len) return false;
    char *p = m->text + m->len;
    memcpy(p, name, n);
    memcpy(p + n, ": ", 2);
    memcpy(p + n + 2, value, v);
    p[need - 1] = '\n';
    p[need] = 0;
    m->len += need;
    return true;
}

bool r2_meta_get(const struct r2_meta *m, const char *name, char *out, size_t room)
{
    size_t n = strlen(name);
    const char *p = m->text, *end = m->text + m->len;
    if (room) out[0] = 0;
    while (p < end) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        if (!eol) eol = end;
        size_t line = (size_t)(eol - p);
        if (line >= n + 2 && memcmp(p, name, n) == 0 && p[n] == ':' && p[n + 1] == ' ') {
            size_t v = line - n - 2;
            if (v >= room) return false;
            memcpy(out, p + n + 2, v);
            out[v] = 0;
            return true;
        }
        p = eol + 1;
    }
    return false;
}

/* ---- the kinds of store ---- */

static const struct {
    enum r2_scheme scheme;
    enum r2_code (*open)(const struct r2_config *, struct r2_store **, struct r2_err *);
} kinds[] = {
    {R2_SCHEME_S3, r2_store_open_s3},
    {R2_SCHEME_FILE, r2_store_open_dir},
};

enum r2_code r2_store_open(const struct r2_config *config, struct r2_store **out, struct r2_err *e)
{
    *out = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].scheme == config->scheme) return kinds[i].open(config, out, e);
    return r2_fail(e, R2_CONFIG,
                   "no remote is configured: set the URI parameter remote, "
                   "for example remote=s3://BUCKET/KEY or remote=file:///DIR/KEY");
}

/* ---- what both check ---- */

enum r2_code r2_store_check_copy(const char *from, const char *if_match, const char *to,
                                 struct r2_err *e)
{
    if (if_match && !if_match[0])
        return r2_fail(e, R2_REFUSED, "a copy with If-Match needs an ETag");
    if (strcmp(from, to) == 0)
        return r2_fail(e, R2_REFUSED, "%s cannot be copied onto itself", from);
    return R2_OK;
}

bool r2_store_stale(const struct r2_call *call, int64_t signed_ms)
{
    enum { STALE_MS = 3600 * 1000 };
    int64_t until = call->fresh_until_ms;
    if (!until || (signed_ms < until && signed_ms >= until - STALE_MS)) return false;
    r2_fail(call->err, R2_STALE,
            "the remote was looked at too long ago, or this machine's clock was changed since, so "
            "that it was not sent (again); try again");
    return true;
}

/* ---- several at once ---- */

struct crew {
    const struct r2_call *call;
    uint64_t count;
    r2_store_part_fn fn;
    void *ctx;
    int64_t budget_ms;
    _Atomic uint64_t next;
    pthread_mutex_t lock;
    enum r2_code code; /* the first failure */
    struct r2_err *e;
};

static void *worker(void *ctx)
{
    struct crew *c = ctx;
    for (;;) {
        struct r2_err err;
        struct r2_call call = *c->call;
        uint64_t i = atomic_fetch_add(&c->next, 1);
        if (i >= c->count) return NULL;
        r2_err_clear(&err);
        call.err = &err;
        /* each part has the whole time: a large transfer may take longer than one time-out */
        int64_t until = r2_boot_ms() + c->budget_ms;
        if (until > call.deadline_ms) call.deadline_ms = until;
        enum r2_code code = c->fn(c->ctx, &call, i);
        if (!code) continue;
        pthread_mutex_lock(&c->lock);
        if (!c->code) {
            c->code = code;
            if (c->e) *c->e = err;
        }
        pthread_mutex_unlock(&c->lock);
        atomic_store(&c->next, c->count);
        return NULL;
    }
}

enum r2_code r2_store_parallel(const struct r2_call *call, unsigned at_once, uint64_t count,
                               r2_store_part_fn fn, void *ctx, struct r2_err *e)
{
    struct crew c = {.call = call, .count = count, .fn = fn, .ctx = ctx, .e = e};
    pthread_t threads[R2_STORE_AT_ONCE];
    unsigned n = 0;
    sigset_t all, old;
    if (at_once > R2_STORE_AT_ONCE) at_once = R2_STORE_AT_ONCE;
    c.budget_ms = call->deadline_ms - r2_boot_ms();
    pthread_mutex_init(&c.lock, NULL);
    /* the host's signals are for its own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (n + 1 < at_once && n + 1 < count && pthread_create(&threads[n], NULL, worker, &c) == 0)
        n++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    worker(&c); /* this thread works too, alone if no other could be had */
    while (n)
        pthread_join(threads[--n], NULL);
    pthread_mutex_destroy(&c.lock);
    return c.code;
}

/* ---- the last requests of this process ---- */

static struct {
    pthread_mutex_t lock;
    struct r2_request *rows; /* R2_REQLOG_ROWS; allocated by the first request */
    uint64_t added;          /* ever; row i is rows[i % R2_REQLOG_ROWS] */
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* A child forked while another thread was in here would wait for ever. */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void ring_hold(void)
{
    pthread_mutex_lock(&ring.lock);
}

static void ring_release(void)
{
    pthread_mutex_unlock(&ring.lock);
}

static void watch_fork(void)
{
    pthread_atfork(ring_hold, ring_release, ring_release);
}

void r2_reqlog_add(const struct r2_request *r)
{
    pthread_once(&fork_once, watch_fork);
    pthread_mutex_lock(&ring.lock);
    if (!ring.rows) ring.rows = calloc(R2_REQLOG_ROWS, sizeof *ring.rows);
    if (ring.rows) ring.rows[ring.added++ % R2_REQLOG_ROWS] = *r; /* no memory: no log */
    pthread_mutex_unlock(&ring.lock);
}

size_t r2_reqlog_copy(struct r2_request *to, size_t room)
{
    pthread_once(&fork_once, watch_fork);
    pthread_mutex_lock(&ring.lock);
    uint64_t have = ring.added < R2_REQLOG_ROWS ? ring.added : R2_REQLOG_ROWS;
    size_t n = have < room ? (size_t)have : room;
    for (size_t i = 0; i < n; i++)
        to[i] = ring.rows[(ring.added - 1 - i) % R2_REQLOG_ROWS];
    pthread_mutex_unlock(&ring.lock);
    return n;
}

void r2_reqlog_count(struct r2_traffic *t, const struct r2_request *r, uint64_t up, uint64_t down)
{
    static const char *const class_a[] = {"PUT", "POST", "LIST", "COPY"};
    static const char *const class_b[] = {"GET", "HEAD"};
    if (t) {
        for (size_t i = 0; i < sizeof class_a / sizeof *class_a; i++)
            if (strcmp(r->method, class_a[i]) == 0) atomic_fetch_add(&t->class_a, 1);
        for (size_t i = 0; i < sizeof class_b / sizeof *class_b; i++)
            if (strcmp(r->method, class_b[i]) == 0) atomic_fetch_add(&t->class_b, 1);
        atomic_fetch_add(&t->bytes_up, up);
        atomic_fetch_add(&t->bytes_down, down);
    }
    r2_reqlog_add(r);
}
