/* test_store_dir_copy.c - the directory store: copies, times, and the gate for who is not fresh. */
#include "dir_bucket.h"

#include <fcntl.h>
#include <sys/stat.h>

/* ---- copy ---- */

static void copies_have_bytes_and_metadata(void)
{
    struct r2_object o, c;
    static struct r2_request rows[2];
    begin();
    CU_ASSERT_EQUAL(put("a", "one", "1"), R2_OK);
    CU_ASSERT_EQUAL(head("a", &o), R2_OK);
    CU_ASSERT_EQUAL(copy("a", NULL, "d/\xc3\xa9 +%b"), R2_OK);
    CU_ASSERT_TRUE(is("d/\xc3\xa9 +%b", "one", "1"));
    CU_ASSERT_EQUAL_FATAL(r2_reqlog_copy(rows, 2), 2);
    (void)put("b", "in the way", "0");
    CU_ASSERT_EQUAL(copy("a", "\"00000000000000000000000000000000\"", "b"), R2_PRECONDITION);
    HAS(o.etag);
    CU_ASSERT_TRUE(is("b", "in the way", "0"));
    CU_ASSERT_EQUAL(copy("a", o.etag, "b"), R2_OK);
    CU_ASSERT_TRUE(is("b", "one", "1"));
    CU_ASSERT_EQUAL(head("b", &c), R2_OK);
    CU_ASSERT_STRING_EQUAL(c.etag, o.etag);
    CU_ASSERT_EQUAL(put("a", "two", "2"), R2_OK); /* a copy is a copy */
    CU_ASSERT_TRUE(is("b", "one", "1"));
    CU_ASSERT_EQUAL(copy("a", o.etag, "b"), R2_PRECONDITION);
    write_file("plain", "by hand");
    CU_ASSERT_EQUAL(copy("plain", NULL, "b"), R2_OK);
    CU_ASSERT_TRUE(is("b", "by hand", NULL));
    CU_ASSERT_EQUAL(copy("nothing", NULL, "b"), R2_MISSING);
    HAS("nothing");
    CU_ASSERT_EQUAL(copy("a", NULL, "a"), R2_REFUSED);
    CU_ASSERT_EQUAL(copy("a", "", "b"), R2_REFUSED);
    CU_ASSERT_EQUAL(copy("a/../b", NULL, "b"), R2_REFUSED);
    CU_ASSERT_EQUAL(copy("a", NULL, "a/../b"), R2_REFUSED);
    CU_ASSERT_TRUE(is("b", "by hand", NULL));
    end();
}

static void copies_are_reported(void)
{
    static struct r2_request rows[3];
    struct r2_traffic t = {0};
    begin();
    CU_ASSERT_EQUAL(put("a", "one", "1"), R2_OK);
    struct r2_call call = call_with(&err);
    call.traffic = &t;
    CU_ASSERT_EQUAL(store->ops->copy(store, &call, key_of("a"), NULL, key_of("b")), R2_OK);
    CU_ASSERT_EQUAL(store->ops->copy(store, &call, key_of("x"), NULL, key_of("b")), R2_MISSING);
    CU_ASSERT_EQUAL_FATAL(r2_reqlog_copy(rows, 3), 3);
    CU_ASSERT_STRING_EQUAL(rows[0].method, "COPY");
    CU_ASSERT_EQUAL(rows[0].status, 404);
    CU_ASSERT_STRING_EQUAL(rows[1].method, "COPY"); /* one row for each, */
    CU_ASSERT_EQUAL(rows[1].status, 200);
    CU_ASSERT_STRING_EQUAL(rows[1].key, key_of("b"));
    CU_ASSERT_EQUAL(rows[1].bytes, 0); /* and no bytes over the wire */
    CU_ASSERT_STRING_EQUAL(rows[2].method, "PUT");
    CU_ASSERT_EQUAL(t.class_a, 2);
    CU_ASSERT_EQUAL(t.class_b, 0);
    CU_ASSERT_EQUAL(t.bytes_up + t.bytes_down, 0);
    end();
}

static int puts_left;

static ssize_t put_in_between(int fd, void *to, size_t n, off_t at)
{
    ssize_t had = real.pread(fd, to, n, at);
    if (had == 256 * 1024 && puts_left-- == 1 && put("k", "short", "2") != R2_OK) abort();
    return had;
}

/* Bit rot under unchanged stat fields. */
static ssize_t rotten_pread(int fd, void *to, size_t n, off_t at)
{
    ssize_t had = real.pread(fd, to, n, at);
    if (had == 4 && memcmp(to, "good", 4) == 0) memcpy(to, "goon", 4);
    return had;
}

/* What is copied is what has the ETag, or nothing. */
static void a_source_that_changes_is_not_mixed(void)
{
    enum { SIZE = 1 << 20 };
    static char big[SIZE + 1], back[SIZE + 1];
    struct r2_object o;
    begin();
    memset(big, 'B', SIZE);
    CU_ASSERT_EQUAL(put("k", big, "1"), R2_OK);
    CU_ASSERT_EQUAL(head("k", &o), R2_OK);
    puts_left = 1; /* replaced while it is copied */
    r2_os.pread = put_in_between;
    CU_ASSERT_EQUAL(copy("k", o.etag, "c"), R2_OK);
    r2_os = real;
    CU_ASSERT_TRUE(puts_left < 1);
    CU_ASSERT_TRUE(is("k", "short", "2"));
    CU_ASSERT_EQUAL(get_e("c", o.etag, back, sizeof back, &o, &err), R2_OK);
    CU_ASSERT_STRING_EQUAL(o.meta.text, "v: 1\n");
    CU_ASSERT_EQUAL(memcmp(back, big, SIZE), 0);
    CU_ASSERT_EQUAL(put("k", "good", "3"), R2_OK);
    r2_os.pread = rotten_pread;
    CU_ASSERT_EQUAL(copy("k", NULL, "d"), R2_CORRUPT);
    HAS("damaged");
    r2_os = real;
    CU_ASSERT_EQUAL(head("d", &o), R2_MISSING);
    end();
}

/* ---- clocks and the gate ---- */

struct times {
    int64_t modified_ms;
    int n;
};

static bool take_time(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    struct times *t = ctx;
    (void)key, (void)size;
    t->modified_ms = modified_ms, t->n++;
    return true;
}

static int64_t listed_time(const char *name)
{
    struct times t = {0};
    struct r2_call call = call_with(&err);
    CU_ASSERT_EQUAL(store->ops->list(store, &call, key_of(name), NULL, take_time, &t), R2_OK);
    CU_ASSERT_EQUAL(t.n, 1);
    return t.modified_ms;
}

static int old_sync(int fd)
{
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    if (futimens(fd, old) != 0) abort();
    return real.fdatasync(fd);
}

/* Last-Modified is the time of the commit, on the clock of signed_ms, and whoever sets it back is
 * believed. */
static void times_can_be_compared(void)
{
    struct r2_object o, put_o;
    begin();
    struct r2_call call = call_with(&err);
    struct r2_put what = {.key = key_of("k"), .body = {.mem = "x", .size = 1}};
    struct r2_meta m;
    meta_v(&m, "1");
    what.meta = &m;
    r2_os.fdatasync = old_sync; /* the body was written long ago: it waited for the lock */
    int64_t before = r2_now_ms();
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, &put_o), R2_OK);
    int64_t after = r2_now_ms();
    r2_os = real;
    CU_ASSERT_TRUE(call.signed_ms >= before && call.signed_ms <= after);
    CU_ASSERT_TRUE(call.took_ms >= 0);
    CU_ASSERT_TRUE(put_o.modified_ms >= before - 1000 && put_o.modified_ms <= after);
    call.signed_ms = 0;
    CU_ASSERT_EQUAL(store->ops->head(store, &call, what.key, &o), R2_OK);
    CU_ASSERT_EQUAL(o.modified_ms, put_o.modified_ms);
    CU_ASSERT_EQUAL(listed_time("k"), o.modified_ms);
    CU_ASSERT_TRUE(call.signed_ms >= after && call.signed_ms <= r2_now_ms());
    CU_ASSERT_TRUE(call.signed_ms >= o.modified_ms); /* never from the future */
    int64_t old_ms = before - 25 * 3600 * 1000;
    struct timespec old[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = old_ms / 1000}};
    CU_ASSERT_EQUAL(utimensat(AT_FDCWD, path_of("k"), old, 0), 0);
    CU_ASSERT_EQUAL(listed_time("k"), old_ms / 1000 * 1000);
    CU_ASSERT_TRUE(is("k", "x", "1"));
    CU_ASSERT_EQUAL(head("k", &o), R2_OK);
    CU_ASSERT_EQUAL(o.modified_ms, old_ms / 1000 * 1000);
    end();
}

static enum r2_code change(int how, struct r2_call *call)
{
    struct r2_put what = {.key = key_of("k"), .body = {.mem = "new", .size = 3}};
    if (how == 0) return store->ops->put(store, call, &what, NULL);
    if (how == 1) return store->ops->copy(store, call, key_of("src"), NULL, what.key);
    return store->ops->del(store, call, what.key);
}

static struct r2_call *slow_call;

static int stale_open(const char *path, int flags, mode_t mode)
{
    size_t n = strlen(path); /* the lock is taken: time passes */
    if (n > 5 && strcmp(path + n - 5, "/lock") == 0) slow_call->fresh_until_ms = r2_now_ms();
    return real.open(path, flags, mode);
}

static void who_is_not_fresh_changes_nothing(void)
{
    static struct r2_request row, last;
    static const int64_t hours = 3600 * 1000;
    begin();
    CU_ASSERT_EQUAL(put("src", "source", "2"), R2_OK);
    CU_ASSERT_EQUAL(put("k", "old", "1"), R2_OK);
    (void)r2_reqlog_copy(&last, 1);
    for (int i = 0; i < 9; i++) {
        struct r2_traffic t = {0};
        struct r2_call call = call_with(&err);
        call.traffic = &t, call.signed_ms = call.took_ms = 7;
        call.fresh_until_ms = r2_now_ms() + (i / 3 == 0 ? 0 : i / 3 == 1 ? 2 * hours : hours / 2);
        slow_call = &call;
        if (i / 3 == 2) r2_os.open = stale_open;
        CU_ASSERT_EQUAL(change(i % 3, &call), R2_STALE);
        r2_os = real;
        CU_ASSERT_EQUAL(err.code, R2_STALE);
        HAS(key_of("k"));
        CU_ASSERT_EQUAL(call.signed_ms, 0);
        CU_ASSERT_EQUAL(call.took_ms, 0);
        CU_ASSERT_EQUAL(t.class_a + t.bytes_up, 0);
        CU_ASSERT_EQUAL(r2_reqlog_copy(&row, 1), 1);
        CU_ASSERT_EQUAL(memcmp(&row, &last, sizeof row), 0);
    }
    struct r2_object o;
    char text[64];
    struct r2_call call = call_with(&err);
    call.fresh_until_ms = 1; /* who only reads need not be fresh */
    struct r2_put taken = {.key = key_of("k"), .body = {.mem = "new"}, .when = R2_PUT_IF_ABSENT};
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &taken, NULL), R2_STALE); /* not 412 */
    CU_ASSERT_EQUAL(store->ops->head(store, &call, key_of("k"), &o), R2_OK);
    CU_ASSERT_TRUE(is("k", "old", "1"));
    CU_ASSERT_EQUAL(get_e("k", o.etag, text, sizeof text, &o, &err), R2_OK);
    for (int how = 0; how < 3; how++) {
        call.fresh_until_ms = r2_now_ms() + hours / 2;
        CU_ASSERT_EQUAL(change(how, &call), R2_OK);
    }
    end();
}

UNIT_MAIN("store_dir_copy", UNIT(copies_have_bytes_and_metadata), UNIT(copies_are_reported),
          UNIT(a_source_that_changes_is_not_mixed), UNIT(times_can_be_compared),
          UNIT(who_is_not_fresh_changes_nothing))
