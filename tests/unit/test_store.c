/* test_store.c - metadata, the table of stores, the gate, many at once, the log of requests. */
#include "unit.h"

#include "../../vfs/os.h"
#include "../../vfs/store.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static struct r2_meta m;
static char out[R2_META_BYTES + 1];

static void metadata_comes_back(void)
{
    r2_meta_clear(&m);
    CU_ASSERT_FALSE(r2_meta_get(&m, "db-version", out, sizeof out));
    CU_ASSERT_TRUE(r2_meta_add(&m, "db-version", "1742"));
    CU_ASSERT_TRUE(r2_meta_add(&m, "db", "short: name"));
    CU_ASSERT_TRUE(r2_meta_add(&m, "empty", ""));
    CU_ASSERT_STRING_EQUAL(m.text, "db-version: 1742\ndb: short: name\nempty: \n");
    CU_ASSERT_EQUAL(m.len, strlen(m.text));
    CU_ASSERT_TRUE(r2_meta_get(&m, "db-version", out, sizeof out));
    CU_ASSERT_STRING_EQUAL(out, "1742");
    CU_ASSERT_TRUE(r2_meta_get(&m, "db", out, sizeof out));
    CU_ASSERT_STRING_EQUAL(out, "short: name");
    CU_ASSERT_TRUE(r2_meta_get(&m, "empty", out, sizeof out));
    CU_ASSERT_STRING_EQUAL(out, "");
    CU_ASSERT_FALSE(r2_meta_get(&m, "db-", out, sizeof out));
    CU_ASSERT_FALSE(r2_meta_get(&m, "version", out, sizeof out));
    r2_meta_clear(&m);
    CU_ASSERT_FALSE(r2_meta_get(&m, "db", out, sizeof out));
}

static void a_value_that_does_not_fit_is_not_cut(void)
{
    char *room = (char *)unit_guarded("xxxxx", 5);
    r2_meta_clear(&m);
    CU_ASSERT_TRUE(r2_meta_add(&m, "n", "1234"));
    CU_ASSERT_TRUE(r2_meta_get(&m, "n", room, 5));
    CU_ASSERT_STRING_EQUAL(room, "1234");
    CU_ASSERT_FALSE(r2_meta_get(&m, "n", room, 4));
    CU_ASSERT_STRING_EQUAL(room, "");
}

static void nothing_can_be_smuggled_in(void)
{
    static const char *const names[] = {"", "A", "a b", "a:b", "a\n", "\xc3\xa9", "a\r"};
    static const char *const values[] = {"a\nb: c", "a\r", "\x01", "\x7f"};
    r2_meta_clear(&m);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CU_ASSERT_FALSE(r2_meta_add(&m, names[i], "v"));
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        CU_ASSERT_FALSE(r2_meta_add(&m, "n", values[i]));
    CU_ASSERT_EQUAL(m.len, 0);
    CU_ASSERT_STRING_EQUAL(m.text, "");
    CU_ASSERT_TRUE(r2_meta_add(&m, "n", "tab\tand \xc3\xa9"));
}

static void metadata_ends_at_its_limit(void)
{
    static char value[R2_META_BYTES + 10];
    memset(value, 'v', sizeof value - 1);
    for (size_t over = 0; over < 2; over++) {
        r2_meta_clear(&m);
        value[R2_META_BYTES - 4 + over] = 0; /* with "n: " and the line's end */
        CU_ASSERT_EQUAL(r2_meta_add(&m, "n", value), over == 0);
        CU_ASSERT_EQUAL(m.len, over ? 0 : R2_META_BYTES);
        value[R2_META_BYTES - 4 + over] = 'v';
    }
    r2_meta_clear(&m);
    int added = 0;
    while (r2_meta_add(&m, "name", "0123456789"))
        added++;
    CU_ASSERT_EQUAL(added, R2_META_BYTES / 17);
    CU_ASSERT_TRUE(m.len <= R2_META_BYTES);
    CU_ASSERT_EQUAL(m.text[m.len], 0);
}

static void the_scheme_picks_the_store(void)
{
    static struct r2_config c;
    struct r2_err e;
    struct r2_store *s;
    c.scheme = R2_SCHEME_NONE;
    CU_ASSERT_EQUAL(r2_store_open(&c, &s, &e), R2_CONFIG);
    CU_ASSERT_PTR_NULL(s);
    CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "remote"));
    c.scheme = R2_SCHEME_FILE;
    CU_ASSERT_EQUAL_FATAL(r2_store_open(&c, &s, &e), R2_OK);
    s->ops->close(s);
    c.scheme = R2_SCHEME_S3;
    CU_ASSERT_EQUAL(r2_store_open_dir(&c, &s, &e), R2_CONFIG);
}

static void report(struct r2_traffic *t, const char *method, const char *key, uint64_t n)
{
    struct r2_request r = {.status = 200, .bytes = n};
    r2_strcpy(r.method, sizeof r.method, method);
    r2_strcpy(r.key, sizeof r.key, key);
    r2_reqlog_count(t, &r, n, 2 * n);
}

static struct r2_request rows[R2_REQLOG_ROWS + 10];

static void requests_are_counted_by_class(void)
{
    struct r2_traffic t = {0};
    static const char *const methods[] = {"PUT", "POST", "LIST", "COPY", "GET", "HEAD", "DELETE"};
    for (size_t i = 0; i < 7; i++)
        report(&t, methods[i], "k", 1);
    CU_ASSERT_EQUAL(t.class_a, 4);
    CU_ASSERT_EQUAL(t.class_b, 2);
    CU_ASSERT_EQUAL(t.bytes_up, 7);
    CU_ASSERT_EQUAL(t.bytes_down, 14);
    report(NULL, "GET", "uncounted", 1);
    CU_ASSERT_EQUAL(r2_reqlog_copy(rows, 3), 3);
    CU_ASSERT_STRING_EQUAL(rows[0].key, "uncounted");
    CU_ASSERT_STRING_EQUAL(rows[1].method, "DELETE");
    CU_ASSERT_STRING_EQUAL(rows[2].method, "HEAD");
}

static void the_log_keeps_the_newest(void)
{
    for (uint64_t i = 0; i < 3 * R2_REQLOG_ROWS + 5; i++)
        report(NULL, "GET", "k", i);
    memset(rows, 0xee, sizeof rows);
    size_t n = r2_reqlog_copy(rows, R2_REQLOG_ROWS + 10);
    CU_ASSERT_EQUAL(n, R2_REQLOG_ROWS);
    for (size_t i = 0; i < n; i++)
        CU_ASSERT_EQUAL(rows[i].bytes, 3 * R2_REQLOG_ROWS + 4 - i);
    CU_ASSERT_EQUAL((unsigned char)rows[n].method[0], 0xee); /* and not one more */
    CU_ASSERT_EQUAL(r2_reqlog_copy(rows, 0), 0);
}

enum { THREADS = 8, EACH = 500 };

/* Each row says the same thing three times; a torn one would not. */
static void *add_many(void *arg)
{
    struct r2_traffic *t = arg;
    for (int i = 0; i < EACH; i++) {
        struct r2_request r = {.time_ms = i, .status = i, .ms = i};
        r2_strcpy(r.method, sizeof r.method, "PUT");
        r2_reqlog_count(t, &r, 1, 0);
    }
    return NULL;
}

static void threads_do_not_tear_rows(void)
{
    struct r2_traffic t = {0};
    pthread_t th[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&th[i], NULL, add_many, &t) != 0) abort();
    int torn = 0;
    for (int look = 0; look < 50; look++) {
        size_t n = r2_reqlog_copy(rows, R2_REQLOG_ROWS);
        for (size_t i = 0; i < n; i++)
            if (strcmp(rows[i].method, "PUT") == 0)
                torn += rows[i].time_ms != rows[i].status || rows[i].ms != rows[i].status;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(th[i], NULL);
    CU_ASSERT_EQUAL(torn, 0);
    CU_ASSERT_EQUAL(t.class_a, THREADS * EACH);
    CU_ASSERT_EQUAL(t.bytes_up, THREADS * EACH);
}

/* A child forked while other threads hold the log's lock can still log. */
static void a_forked_child_can_log(void)
{
    pthread_t th[2];
    struct r2_traffic t = {0};
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 2; i++)
            if (pthread_create(&th[i], NULL, add_many, &t) != 0) abort();
        pid_t pid = fork();
        if (pid == 0) {
            alarm(30); /* a deadlock ends in a signal, which the parent sees */
            report(NULL, "GET", "child", 1);
            _exit(r2_reqlog_copy(rows, 1) == 1 && strcmp(rows[0].key, "child") == 0 ? 0 : 1);
        }
        int status = -1;
        CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
        CU_ASSERT_EQUAL(status, 0);
        for (int i = 0; i < 2; i++)
            pthread_join(th[i], NULL);
    }
}

/* ---- the gate ---- */

static void fresh_is_from_an_hour_before_to_just_before(void)
{
    static const int64_t until = 1700000000000, hour = 3600 * 1000;
    struct r2_err e = {0};
    struct r2_call call = {.err = &e, .fresh_until_ms = until};
    CU_ASSERT_FALSE(r2_store_stale(&call, until - 1));
    CU_ASSERT_FALSE(r2_store_stale(&call, until - hour));
    CU_ASSERT_EQUAL(e.code, R2_OK);
    CU_ASSERT_TRUE(r2_store_stale(&call, until));
    CU_ASSERT_EQUAL(e.code, R2_STALE);
    CU_ASSERT_TRUE(r2_store_stale(&call, until - hour - 1));
    CU_ASSERT_TRUE(r2_store_stale(&call, INT64_MAX));
    call.err = NULL;
    CU_ASSERT_TRUE(r2_store_stale(&call, 0));
    call.fresh_until_ms = 0;
    CU_ASSERT_FALSE(r2_store_stale(&call, until));
}

/* ---- many at once ---- */

struct crowd {
    pthread_barrier_t meet; /* so many really are at it at once */
    bool meets;
    pthread_t caller;
    struct r2_err *err;
    int64_t deadline_ms;
    uint64_t fail_at;
    _Atomic int at_once, most, calls, wrong, here, threads_blocking;
    _Atomic uint64_t sum;
};

static enum r2_code visit(void *ctx, struct r2_call *call, uint64_t index)
{
    struct crowd *c = ctx;
    int now = atomic_fetch_add(&c->at_once, 1) + 1, most = atomic_load(&c->most);
    while (now > most && !atomic_compare_exchange_weak(&c->most, &most, now)) {
    }
    bool own = call->err && call->err != c->err && call->err->code == R2_OK;
    if (!own || call->deadline_ms < c->deadline_ms || call->fresh_until_ms != 42)
        atomic_fetch_add(&c->wrong, 1);
    if (pthread_equal(pthread_self(), c->caller)) {
        atomic_fetch_add(&c->here, 1);
    } else {
        sigset_t mask;
        pthread_sigmask(SIG_SETMASK, NULL, &mask);
        if (sigismember(&mask, SIGUSR1) == 1 && sigismember(&mask, SIGTERM) == 1)
            atomic_fetch_add(&c->threads_blocking, 1);
    }
    atomic_fetch_add(&c->sum, index);
    atomic_fetch_add(&c->calls, 1);
    if (c->meets) pthread_barrier_wait(&c->meet);
    atomic_fetch_sub(&c->at_once, 1);
    call->signed_ms = 7; /* of the copy */
    if (index < c->fail_at) return R2_OK;
    return r2_fail(call->err, R2_DENIED, "at %llu", (unsigned long long)index);
}

/* `meet`: how many must be at it at once (0: no matter). */
static enum r2_code gather(struct crowd *c, unsigned at_once, uint64_t count, unsigned meet,
                           uint64_t fail_at, struct r2_err *e)
{
    struct r2_call call = {.deadline_ms = r2_boot_ms() + 1000, .err = e, .fresh_until_ms = 42};
    memset(c, 0, sizeof *c);
    c->caller = pthread_self(), c->err = e, c->deadline_ms = call.deadline_ms;
    c->fail_at = fail_at, c->meets = meet > 0;
    if (meet) pthread_barrier_init(&c->meet, NULL, meet);
    alarm(60); /* who waits in vain ends in a signal */
    enum r2_code code = r2_store_parallel(&call, at_once, count, visit, c, e);
    alarm(0);
    if (meet) pthread_barrier_destroy(&c->meet);
    CU_ASSERT_EQUAL(atomic_load(&c->wrong), 0);
    CU_ASSERT_EQUAL(call.signed_ms, 0);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    CU_ASSERT_EQUAL(sigismember(&mask, SIGUSR1), 0); /* as it was */
    return code;
}

static void so_many_at_once_and_no_more(void)
{
    static const struct {
        unsigned asked;
        int meet;
    } cases[] = {{1, 1}, {3, 3}, {64, 64}, {1000, 64}};
    struct crowd c;
    struct r2_err e = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int n = 2 * cases[i].meet;
        CU_ASSERT_EQUAL(
            gather(&c, cases[i].asked, (uint64_t)n, (unsigned)cases[i].meet, UINT64_MAX, &e),
            R2_OK);
        CU_ASSERT_EQUAL(atomic_load(&c.calls), n); /* each once */
        CU_ASSERT_EQUAL(atomic_load(&c.sum), (uint64_t)(n * (n - 1) / 2));
        CU_ASSERT_EQUAL(atomic_load(&c.most), cases[i].meet);
        CU_ASSERT_EQUAL(atomic_load(&c.threads_blocking), n - atomic_load(&c.here));
    }
    CU_ASSERT_EQUAL(gather(&c, 8, 0, 0, UINT64_MAX, &e), R2_OK);
    CU_ASSERT_EQUAL(atomic_load(&c.calls), 0);
    CU_ASSERT_EQUAL(gather(&c, 0, 5, 0, UINT64_MAX, NULL), R2_OK);
    CU_ASSERT_EQUAL(atomic_load(&c.here), 5);
}

static void the_first_failure_ends_it(void)
{
    struct crowd c;
    struct r2_err e = {0};
    CU_ASSERT_EQUAL(gather(&c, 1, 100, 0, 5, &e), R2_DENIED);
    CU_ASSERT_STRING_EQUAL(e.text, "at 5");
    CU_ASSERT_EQUAL(atomic_load(&c.calls), 6);
    /* more than could ever be done */
    CU_ASSERT_EQUAL(gather(&c, 8, (uint64_t)1 << 60, 0, 1000, &e), R2_DENIED);
    CU_ASSERT(atomic_load(&c.calls) < 2000);
    CU_ASSERT_EQUAL(gather(&c, 4, 4, 0, 0, NULL), R2_DENIED);
}

#ifdef __GLIBC__
static void *no_thread(void *ctx)
{
    return ctx;
}

static void it_works_without_threads(void)
{
    pthread_attr_t was, huge;
    pthread_t thread;
    struct crowd c;
    struct r2_err e = {0};
    CU_ASSERT_EQUAL_FATAL(pthread_getattr_default_np(&was), 0);
    CU_ASSERT_EQUAL_FATAL(pthread_getattr_default_np(&huge), 0);
    CU_ASSERT_EQUAL_FATAL(pthread_attr_setstacksize(&huge, (size_t)1 << 50), 0);
    CU_ASSERT_EQUAL_FATAL(pthread_setattr_default_np(&huge), 0);
    CU_ASSERT_NOT_EQUAL_FATAL(pthread_create(&thread, NULL, no_thread, NULL), 0);
    CU_ASSERT_EQUAL(gather(&c, 64, 100, 0, UINT64_MAX, &e), R2_OK);
    CU_ASSERT_EQUAL(pthread_setattr_default_np(&was), 0);
    pthread_attr_destroy(&was);
    pthread_attr_destroy(&huge);
    CU_ASSERT_EQUAL(atomic_load(&c.here), 100);
    CU_ASSERT_EQUAL(atomic_load(&c.calls), 100);
}
#else
static void it_works_without_threads(void)
{
    CU_PASS("this C library has no default for the size of stacks that a test could set");
}
#endif

UNIT_MAIN("store", UNIT(metadata_comes_back), UNIT(a_value_that_does_not_fit_is_not_cut),
          UNIT(nothing_can_be_smuggled_in), UNIT(metadata_ends_at_its_limit),
          UNIT(the_scheme_picks_the_store), UNIT(requests_are_counted_by_class),
          UNIT(the_log_keeps_the_newest), UNIT(threads_do_not_tear_rows),
          UNIT(a_forked_child_can_log), UNIT(fresh_is_from_an_hour_before_to_just_before),
          UNIT(so_many_at_once_and_no_more), UNIT(the_first_failure_ends_it),
          UNIT(it_works_without_threads))
