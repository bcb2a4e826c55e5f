/* test_store.c - metadata, the table of stores, the log of requests. */
#include "unit.h"

#include "../../vfs/store.h"

#include <pthread.h>
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

UNIT_MAIN("store", UNIT(metadata_comes_back), UNIT(a_value_that_does_not_fit_is_not_cut),
          UNIT(nothing_can_be_smuggled_in), UNIT(metadata_ends_at_its_limit),
          UNIT(the_scheme_picks_the_store), UNIT(requests_are_counted_by_class),
          UNIT(the_log_keeps_the_newest), UNIT(threads_do_not_tear_rows),
          UNIT(a_forked_child_can_log))
