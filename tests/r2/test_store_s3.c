/* store_s3.c - the S3 store against Cloudflare's R2 emulator (scripts/r2-emulator).
 *
 * Reads R2_ENDPOINT, R2VFS_TEST_BUCKET, R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY; fails when they
 * are not set or the emulator cannot be reached. Works below a random prefix and removes what it
 * made. */
#include "../unit/unit.h"

#include "../../vfs/http.h"
#include "../../vfs/os.h"
#include "../../vfs/store.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>

static struct r2_config config;
static struct r2_store *store;
static char prefix[40];

struct one {
    struct r2_err err;
    struct r2_traffic traffic;
    struct r2_call call;
};

static struct r2_call *call_for(struct one *c, int64_t ms)
{
    memset(c, 0, sizeof *c);
    c->call.deadline_ms = r2_boot_ms() + ms;
    c->call.traffic = &c->traffic;
    c->call.err = &c->err;
    return &c->call;
}
#define CALL (call_for(&(struct one){0}, 60000))

static const char *key_of(const char *name)
{
    static _Thread_local char keys[8][1100];
    static _Thread_local unsigned n;
    char *key = keys[n++ % 8];
    snprintf(key, sizeof keys[0], "%s%s", prefix, name);
    return key;
}

static struct r2_put put_of(const char *key, const char *text)
{
    return (struct r2_put){.key = key, .body = {.mem = text, .size = strlen(text)}};
}

static void want(enum r2_code got, enum r2_code code, const struct r2_call *call)
{
    if (got != code) fprintf(stderr, "\n  %d, not %d: %s\n", got, code, call->err->text);
    CU_ASSERT_EQUAL(got, code);
}

static void put_get_head_delete(void)
{
    struct one c;
    struct r2_object o, put;
    struct r2_meta meta;
    struct r2_buf b;
    struct r2_sink sink = {.buf = &b};
    char value[64];
    const char *key = key_of("plain");
    r2_buf_init(&b, 1000);
    r2_meta_clear(&meta);
    CU_ASSERT_TRUE(r2_meta_add(&meta, "db-version", "1742"));
    CU_ASSERT_TRUE(r2_meta_add(&meta, "db-recent", "1742:abc 1741:def"));
    CU_ASSERT_TRUE(r2_meta_add(&meta, "db-a", "x"));
    struct r2_put p = put_of(key, "hello");
    p.meta = &meta;
    struct r2_call *call = call_for(&c, 60000);
    want(store->ops->head(store, call, key, &o), R2_MISSING, call);
    CU_ASSERT_PTR_NOT_NULL(strstr(c.err.text, key));
    want(store->ops->get(store, call, key, NULL, UINT64_MAX, &sink, &o), R2_MISSING, call);
    want(store->ops->put(store, call, &p, &put), R2_OK, call);
    CU_ASSERT_EQUAL(put.size, 5);
    CU_ASSERT_STRING_EQUAL(put.etag, "\"5d41402abc4b2a76b9719d911017c592\"");
    want(store->ops->head(store, call, key, &o), R2_OK, call);
    CU_ASSERT_EQUAL(o.size, 5);
    CU_ASSERT_STRING_EQUAL(o.etag, put.etag);
    CU_ASSERT(o.modified_ms > 1600000000000);
    CU_ASSERT_TRUE(r2_meta_get(&o.meta, "db-version", value, sizeof value));
    CU_ASSERT_STRING_EQUAL(value, "1742");
    CU_ASSERT_TRUE(r2_meta_get(&o.meta, "db-recent", value, sizeof value));
    CU_ASSERT_STRING_EQUAL(value, "1742:abc 1741:def");
    want(store->ops->get(store, call, key, NULL, UINT64_MAX, &sink, &o), R2_OK, call);
    CU_ASSERT_EQUAL(b.len, 5);
    CU_ASSERT_STRING_EQUAL(b.at, "hello");
    CU_ASSERT_TRUE(r2_meta_get(&o.meta, "db-a", value, sizeof value));
    want(store->ops->get(store, call, key, "\"other\"", 5, &sink, &o), R2_PRECONDITION, call);
    CU_ASSERT_EQUAL(b.len, 5);
    b.max = 7; /* 2 bytes of room for 5 */
    want(store->ops->get(store, call, key, NULL, 5, &sink, &o), R2_REFUSED, call);
    want(store->ops->del(store, call, key), R2_OK, call);
    want(store->ops->head(store, call, key, &o), R2_MISSING, call);
    want(store->ops->del(store, call, key), R2_OK, call);
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.class_a), 1);
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.class_b), 7);
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.bytes_up), 5);
    r2_buf_free(&b);
}

static void conditions(void)
{
    struct one c;
    struct r2_call *call = call_for(&c, 60000);
    struct r2_object first, second;
    const char *key = key_of("conditions");
    struct r2_put p = put_of(key, "one");
    p.when = R2_PUT_IF_MATCH, p.etag = "\"00000000000000000000000000000000\"";
    want(store->ops->put(store, call, &p, NULL), R2_PRECONDITION, call); /* there is none yet */
    p.when = R2_PUT_IF_ABSENT;
    want(store->ops->put(store, call, &p, &first), R2_OK, call);
    want(store->ops->put(store, call, &p, NULL), R2_PRECONDITION, call);
    p = put_of(key, "two");
    p.when = R2_PUT_IF_MATCH, p.etag = first.etag;
    want(store->ops->put(store, call, &p, &second), R2_OK, call);
    want(store->ops->put(store, call, &p, NULL), R2_PRECONDITION, call);
    want(store->ops->del(store, call, key), R2_OK, call);
}

struct racer {
    pthread_t thread;
    pthread_barrier_t *start;
    char text[32];
    enum r2_code code;
};

static void *race(void *ctx)
{
    struct racer *r = ctx;
    struct r2_put p = put_of(key_of("race"), r->text);
    p.when = R2_PUT_IF_ABSENT;
    pthread_barrier_wait(r->start);
    r->code = store->ops->put(store, CALL, &p, NULL);
    return NULL;
}

static void one_of_sixteen_wins(void)
{
    struct racer racers[16];
    pthread_barrier_t start;
    struct r2_object o;
    struct r2_buf b;
    struct r2_sink sink = {.buf = &b};
    int won = 0, lost = 0, winner = 0;
    pthread_barrier_init(&start, NULL, 16);
    for (int i = 0; i < 16; i++) {
        racers[i].start = &start;
        snprintf(racers[i].text, sizeof racers[i].text, "racer %d", i);
        CU_ASSERT_EQUAL_FATAL(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < 16; i++) {
        pthread_join(racers[i].thread, NULL);
        if (racers[i].code == R2_OK) won++, winner = i;
        if (racers[i].code == R2_PRECONDITION) lost++;
    }
    pthread_barrier_destroy(&start);
    CU_ASSERT_EQUAL(won, 1);
    CU_ASSERT_EQUAL(lost, 15);
    r2_buf_init(&b, 100);
    CU_ASSERT_EQUAL(store->ops->get(store, CALL, key_of("race"), NULL, 8, &sink, &o), R2_OK);
    CU_ASSERT_STRING_EQUAL(b.at, racers[winner].text);
    r2_buf_free(&b);
    CU_ASSERT_EQUAL(store->ops->del(store, CALL, key_of("race")), R2_OK);
}

static enum r2_code head_with(const struct r2_config *with, struct r2_err *e)
{
    struct one c;
    struct r2_store *other = NULL;
    struct r2_object o;
    struct r2_call *call = call_for(&c, 60000);
    CU_ASSERT_EQUAL_FATAL(r2_store_open_s3(with, &other, e), R2_OK);
    struct r2_buf b;
    r2_buf_init(&b, 10);
    enum r2_code code = other->ops->get(other, call, key_of("x"), NULL, UINT64_MAX,
                                        &(struct r2_sink){.buf = &b}, &o);
    r2_buf_free(&b);
    *e = c.err;
    other->ops->close(other);
    return code;
}

static void wrong_credentials_and_bucket(void)
{
    struct r2_config wrong = config;
    struct r2_err e = {0};
    r2_strcpy(wrong.cred.secret_key, sizeof wrong.cred.secret_key, "not-the-secret");
    CU_ASSERT_EQUAL(head_with(&wrong, &e), R2_DENIED);
    CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "R2_SECRET_ACCESS_KEY"));
    CU_ASSERT_PTR_NULL(strstr(e.text, "not-the-secret"));
    wrong = config;
    r2_strcpy(wrong.cred.access_key, sizeof wrong.cred.access_key, "NOBODY");
    CU_ASSERT_EQUAL(head_with(&wrong, &e), R2_DENIED);
    CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "R2_ACCESS_KEY_ID"));
    wrong = config;
    r2_strcpy(wrong.bucket, sizeof wrong.bucket, "no-such-bucket");
    enum r2_code code = head_with(&wrong, &e);
    CU_ASSERT(code == R2_MISSING || code == R2_DENIED);
    CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "bucket"));
}

static const char *const ODD[] = {"a b",        "a+b",       "a%20b",
                                  "\xc3\xa9",   "q?x=1&y#z", "semi;colon:at@",
                                  "(paren)'!*", "~tilde",    "deep/er/path.db-log/x.ltx"};
enum { ODD_COUNT = sizeof ODD / sizeof *ODD };

struct listed {
    int count, stop_at;
    char last[1100];
    bool sorted, odd[ODD_COUNT];
};

static bool on_key(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    struct listed *l = ctx;
    const char *odd = strstr(key, "/odd/");
    l->count++;
    if (strcmp(key, l->last) <= 0) l->sorted = false;
    r2_strcpy(l->last, sizeof l->last, key);
    for (size_t i = 0; odd && i < ODD_COUNT; i++)
        if (strcmp(odd + 5, ODD[i]) == 0)
            l->odd[i] = size == strlen(ODD[i]) && modified_ms > 1600000000000;
    return l->count != l->stop_at;
}

static void odd_keys(void)
{
    struct one c;
    struct r2_call *call = call_for(&c, 60000);
    struct listed l = {.sorted = true};
    char name[100];
    for (size_t i = 0; i < ODD_COUNT; i++) {
        struct r2_object o;
        struct r2_buf b;
        snprintf(name, sizeof name, "odd/%s", ODD[i]);
        struct r2_put p = put_of(key_of(name), ODD[i]);
        want(store->ops->put(store, call, &p, NULL), R2_OK, call);
        r2_buf_init(&b, 100);
        want(
            store->ops->get(store, call, p.key, NULL, UINT64_MAX, &(struct r2_sink){.buf = &b}, &o),
            R2_OK, call);
        CU_ASSERT_STRING_EQUAL(b.at, ODD[i]);
        r2_buf_free(&b);
    }
    want(store->ops->list(store, call, key_of("odd/"), NULL, on_key, &l), R2_OK, call);
    CU_ASSERT_EQUAL(l.count, ODD_COUNT);
    CU_ASSERT_TRUE(l.sorted);
    for (size_t i = 0; i < ODD_COUNT; i++) {
        CU_ASSERT_TRUE(l.odd[i]);
        snprintf(name, sizeof name, "odd/%s", ODD[i]);
        want(store->ops->del(store, call, key_of(name)), R2_OK, call);
    }
    CU_ASSERT_EQUAL(store->ops->head(store, call, "", &(struct r2_object){0}), R2_REFUSED);
    CU_ASSERT_EQUAL(store->ops->head(store, call, "a\nb", &(struct r2_object){0}), R2_REFUSED);
    char longest[1100];
    memset(longest, 'k', sizeof longest);
    longest[1025] = 0;
    CU_ASSERT_EQUAL(store->ops->head(store, call, longest, &(struct r2_object){0}), R2_REFUSED);
}

struct filler {
    pthread_t thread;
    int from;
    bool del;
};

static void *fill(void *ctx)
{
    struct filler *f = ctx;
    for (int i = f->from; i < 1030; i += 4) {
        char name[40];
        snprintf(name, sizeof name, "many/%08d", i);
        struct r2_put p = put_of(key_of(name), "x");
        if (f->del)
            store->ops->del(store, CALL, p.key);
        else if (store->ops->put(store, CALL, &p, NULL) != R2_OK)
            return f;
    }
    return NULL;
}

static void fill_all(bool del)
{
    struct filler f[4];
    for (int i = 0; i < 4; i++) {
        f[i] = (struct filler){.from = i, .del = del};
        CU_ASSERT_EQUAL_FATAL(pthread_create(&f[i].thread, NULL, fill, &f[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(f[i].thread, &bad);
        CU_ASSERT_PTR_NULL(bad);
    }
}

/* More than the 1,000 of one page. */
static void long_listing(void)
{
    struct one c;
    struct r2_call *call = call_for(&c, 60000);
    struct listed l = {.sorted = true};
    fill_all(false);
    want(store->ops->list(store, call, key_of("many/"), NULL, on_key, &l), R2_OK, call);
    CU_ASSERT_EQUAL(l.count, 1030);
    CU_ASSERT_TRUE(l.sorted);
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.class_a), 2);
    l = (struct listed){.sorted = true};
    want(store->ops->list(store, call, key_of("many/"), key_of("many/00001024"), on_key, &l), R2_OK,
         call);
    CU_ASSERT_EQUAL(l.count, 5);
    l = (struct listed){.stop_at = 3};
    want(store->ops->list(store, call, key_of("many/"), NULL, on_key, &l), R2_OK, call);
    CU_ASSERT_EQUAL(l.count, 3);
    l = (struct listed){0};
    want(store->ops->list(store, call, key_of("none/"), NULL, on_key, &l), R2_OK, call);
    CU_ASSERT_EQUAL(l.count, 0);
    fill_all(true);
}

static void presigned(void)
{
    struct one c;
    struct r2_call *call = call_for(&c, 60000);
    struct r2_buf url, body;
    struct r2_answer a;
    struct r2_sink sink = {.buf = &body};
    const char *key = key_of("pre signed+");
    struct r2_put p = put_of(key, "for everyone");
    r2_buf_init(&url, 4000);
    r2_buf_init(&body, 100);
    want(store->ops->put(store, call, &p, NULL), R2_OK, call);
    want(store->ops->presign(store, call, key, 60, &url), R2_OK, call);
    struct r2_http q = {.method = "GET",
                        .url = url.at,
                        .sink = &sink,
                        .sink_max = 100,
                        .deadline_ms = call->deadline_ms};
    r2_answer_init(&a, NULL);
    CU_ASSERT_EQUAL(r2_http_do(&q, &a, &c.err), R2_OK);
    CU_ASSERT_EQUAL(a.status, 200);
    CU_ASSERT_STRING_EQUAL(body.at ? body.at : "", "for everyone");
    r2_answer_free(&a);
    want(store->ops->presign(store, call, key, 0, &url), R2_REFUSED, call);
    want(store->ops->presign(store, call, key, 604801, &url), R2_REFUSED, call);
    want(store->ops->del(store, call, key), R2_OK, call);
    r2_buf_free(&url);
    r2_buf_free(&body);
}

/* A file of n bytes that are all different enough: 8-byte words, each its own place. */
static int big_file(uint64_t n)
{
    char path[] = "/tmp/r2vfs-store-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) abort();
    unlink(path);
    uint64_t *words = malloc(1 << 20);
    for (uint64_t at = 0; at < n; at += 1 << 20) {
        for (uint64_t i = 0; i < (1 << 20) / 8; i++)
            words[i] = (at + i * 8) * 0x9e3779b97f4a7c15u;
        size_t some = n - at < 1 << 20 ? (size_t)(n - at) : 1 << 20;
        if (r2_write_at(fd, words, some, at, NULL)) abort();
    }
    free(words);
    return fd;
}

static bool same_bytes(int a, uint64_t a_off, int b, uint64_t b_off, uint64_t n)
{
    static char x[1 << 20], y[1 << 20];
    for (uint64_t at = 0; at < n; at += sizeof x) {
        size_t some = n - at < sizeof x ? (size_t)(n - at) : sizeof x;
        if (r2_read_at(a, x, some, a_off + at, NULL) || r2_read_at(b, y, some, b_off + at, NULL) ||
            memcmp(x, y, some) != 0)
            return false;
    }
    return true;
}

static void large_round_trip(void)
{
    struct one c;
    struct r2_call *call = call_for(&c, 120000);
    const uint64_t n = ((uint64_t)70 << 20) + 12345;
    const char *key = key_of("large");
    int from = big_file(n + 100), to = big_file(0);
    struct r2_object put, o;
    struct r2_meta meta;
    char value[20];
    r2_meta_clear(&meta);
    CU_ASSERT_TRUE(r2_meta_add(&meta, "db-version", "7"));
    struct r2_put p = {.key = key,
                       .body = {.fd = from, .off = 100, .size = n},
                       .when = R2_PUT_IF_ABSENT,
                       .meta = &meta};
    want(store->ops->put(store, call, &p, &put), R2_OK, call);
    CU_ASSERT_EQUAL(put.size, n);
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.class_a), 7); /* create, 5 parts, complete */
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.class_b), 1); /* the look */
    want(store->ops->head(store, call, key, &o), R2_OK, call);
    CU_ASSERT_STRING_EQUAL(o.etag, put.etag);
    CU_ASSERT_TRUE(r2_meta_get(&o.meta, "db-version", value, sizeof value));
    struct r2_sink sink = {.fd = to, .off = 10};
    call = call_for(&c, 120000);
    want(store->ops->get(store, call, key, put.etag, n, &sink, &o), R2_OK, call);
    CU_ASSERT_EQUAL(o.size, n);
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.class_b), 5); /* ranges of 16 MiB */
    CU_ASSERT_TRUE(same_bytes(from, 100, to, 10, n));
    CU_ASSERT_TRUE(r2_meta_get(&o.meta, "db-version", value, sizeof value));
    CU_ASSERT_EQUAL(lseek(to, 0, SEEK_END), (off_t)(n + 10));
    /* in one piece, when the size is not known */
    CU_ASSERT_EQUAL(ftruncate(to, 0), 0);
    want(store->ops->get(store, call, key, NULL, UINT64_MAX, &sink, &o), R2_OK, call);
    CU_ASSERT_TRUE(same_bytes(from, 100, to, 10, n));
    /* conditions that fail, though the store does not look at Complete's */
    want(store->ops->put(store, call, &p, NULL), R2_PRECONDITION, call);
    p.when = R2_PUT_IF_MATCH, p.etag = "\"other\"";
    want(store->ops->put(store, call, &p, NULL), R2_PRECONDITION, call);
    /* replaced: the ranges must not be a mixture */
    struct r2_put small = put_of(key, "small now");
    small.when = R2_PUT_IF_MATCH, small.etag = put.etag;
    want(store->ops->put(store, call, &small, NULL), R2_OK, call);
    want(store->ops->get(store, call, key, put.etag, n, &sink, &o), R2_PRECONDITION, call);
    want(store->ops->del(store, call, key), R2_OK, call);
    close(from);
    close(to);
}

static void copies(void)
{
    struct one c;
    struct r2_call *call = call_for(&c, 60000);
    struct r2_object from, to;
    struct r2_meta meta;
    struct r2_buf b;
    char name[100], value[64];
    const char *other = "\"00000000000000000000000000000000\"";
    r2_meta_clear(&meta);
    CU_ASSERT_TRUE(r2_meta_add(&meta, "db-version", "1742"));
    CU_ASSERT_TRUE(r2_meta_add(&meta, "db-recent", "1742:abc 1741:def"));
    for (size_t i = 0; i < ODD_COUNT; i++) {
        const char *copy = key_of("copy/to"), *gone = key_of("copy/gone");
        snprintf(name, sizeof name, "copy/%s", ODD[i]);
        struct r2_put p = put_of(key_of(name), ODD[i]);
        p.meta = &meta;
        want(store->ops->put(store, call, &p, &from), R2_OK, call);
        want(store->ops->copy(store, call, p.key, other, copy), R2_PRECONDITION, call);
        want(store->ops->head(store, call, copy, &to), R2_MISSING, call);
        want(store->ops->copy(store, call, p.key, i % 2 ? from.etag : NULL, copy), R2_OK, call);
        r2_buf_init(&b, 100);
        struct r2_sink sink = {.buf = &b};
        want(store->ops->get(store, call, copy, from.etag, UINT64_MAX, &sink, &to), R2_OK, call);
        CU_ASSERT_STRING_EQUAL(b.at, ODD[i]);
        CU_ASSERT_STRING_EQUAL(to.etag, from.etag);
        CU_ASSERT_TRUE(r2_meta_get(&to.meta, "db-version", value, sizeof value));
        CU_ASSERT_STRING_EQUAL(value, "1742");
        CU_ASSERT_TRUE(r2_meta_get(&to.meta, "db-recent", value, sizeof value));
        CU_ASSERT_STRING_EQUAL(value, "1742:abc 1741:def");
        r2_buf_free(&b);
        /* the other way: an odd key as the place to go, which is replaced */
        struct r2_put plain = put_of(copy, "plain");
        want(store->ops->put(store, call, &plain, &to), R2_OK, call);
        want(store->ops->copy(store, call, copy, to.etag, p.key), R2_OK, call);
        want(store->ops->head(store, call, p.key, &from), R2_OK, call);
        CU_ASSERT_STRING_EQUAL(from.etag, to.etag);
        CU_ASSERT_EQUAL(from.meta.len, 0);
        want(store->ops->copy(store, call, gone, NULL, copy), R2_MISSING, call);
        CU_ASSERT_PTR_NOT_NULL(strstr(c.err.text, gone));
        want(store->ops->head(store, call, copy, &to), R2_OK, call);
        want(store->ops->del(store, call, copy), R2_OK, call);
        want(store->ops->del(store, call, p.key), R2_OK, call);
    }
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.class_a), ODD_COUNT * 6);
}

static bool take_time(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    (void)key, (void)size;
    *(int64_t *)ctx = modified_ms;
    return true;
}

/* A put's Last-Modified lies between its signing and its answer: they can be compared. And who is
 * not fresh puts nothing there. */
static void times_and_the_gate(void)
{
    struct one c;
    struct r2_call *call = call_for(&c, 60000);
    struct r2_object o;
    int64_t listed = 0;
    struct r2_put p = put_of(key_of("times"), "x");
    call->fresh_until_ms = r2_now_ms() - 1000;
    want(store->ops->put(store, call, &p, NULL), R2_STALE, call);
    CU_ASSERT_EQUAL(call->signed_ms, 0);
    CU_ASSERT_EQUAL(atomic_load(&c.traffic.class_a), 0);
    want(store->ops->head(store, call, p.key, &o), R2_MISSING, call);
    call->fresh_until_ms = r2_now_ms() + 60000;
    want(store->ops->put(store, call, &p, NULL), R2_OK, call);
    int64_t from = call->signed_ms, to = from + 1000 + call->took_ms; /* stamps are whole seconds */
    want(store->ops->head(store, call, p.key, &o), R2_OK, call);
    CU_ASSERT(o.modified_ms >= from && o.modified_ms <= to);
    CU_ASSERT(call->signed_ms >= from && call->signed_ms <= r2_now_ms());
    want(store->ops->list(store, call, p.key, NULL, take_time, &listed), R2_OK, call);
    CU_ASSERT(listed >= from && listed <= to);
    want(store->ops->del(store, call, p.key), R2_OK, call);
}

static enum r2_code put_nth(void *ctx, struct r2_call *call, uint64_t index)
{
    char name[40];
    (void)ctx;
    snprintf(name, sizeof name, "at-once/%08llu", (unsigned long long)index);
    struct r2_put p = put_of(key_of(name), name + 8);
    return store->ops->put(store, call, &p, NULL);
}

static enum r2_code get_nth(void *ctx, struct r2_call *call, uint64_t index)
{
    char name[40];
    struct r2_object o;
    struct r2_buf b;
    _Atomic int *right = ctx;
    r2_buf_init(&b, 100);
    snprintf(name, sizeof name, "at-once/%08llu", (unsigned long long)index);
    enum r2_code code = store->ops->get(store, call, key_of(name), NULL, UINT64_MAX,
                                        &(struct r2_sink){.buf = &b}, &o);
    if (!code && strcmp(b.at, name + 8) == 0) atomic_fetch_add(right, 1);
    r2_buf_free(&b);
    return code;
}

static enum r2_code del_nth(void *ctx, struct r2_call *call, uint64_t index)
{
    char name[40];
    (void)ctx;
    snprintf(name, sizeof name, "at-once/%08llu", (unsigned long long)index);
    return store->ops->del(store, call, key_of(name));
}

static void many_at_once(void)
{
    struct one c;
    struct r2_call *call = call_for(&c, 60000);
    unsigned idle;
    uint64_t before, after;
    _Atomic int right = 0;
    r2_http_stats(&idle, &before);
    want(r2_store_parallel(call, 64, 300, put_nth, NULL, &c.err), R2_OK, call);
    want(r2_store_parallel(call, 64, 300, get_nth, &right, &c.err), R2_OK, call);
    CU_ASSERT_EQUAL(atomic_load(&right), 300);
    r2_http_stats(&idle, &after);
    CU_ASSERT(idle <= R2_HTTP_IDLE);
    CU_ASSERT(after - before < 300); /* connections are used again */
    want(r2_store_parallel(call, 64, 301, get_nth, &right, &c.err), R2_MISSING, call);
    CU_ASSERT_PTR_NOT_NULL(strstr(c.err.text, "at-once/00000300"));
    want(r2_store_parallel(call, 64, 300, del_nth, NULL, &c.err), R2_OK, call);
}

/* Parent and child both go on after a fork, each on connections of its own. */
static void fork_in_the_middle(void)
{
    unsigned idle;
    uint64_t before, after;
    struct r2_put p = put_of(key_of("fork"), "parent");
    CU_ASSERT_EQUAL(store->ops->put(store, CALL, &p, NULL), R2_OK);
    r2_http_stats(&idle, &before);
    CU_ASSERT(idle > 0);
    pid_t child = fork();
    if (child == 0) {
        struct r2_put mine = put_of(key_of("fork-child"), "child");
        r2_http_stats(&idle, &before);
        bool ok = idle == 0;
        for (int i = 0; i < 5; i++)
            ok = store->ops->put(store, CALL, &mine, NULL) == R2_OK && ok;
        r2_http_stats(&idle, &after);
        _exit(ok && after == before + 1 ? 0 : 1);
    }
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(store->ops->put(store, CALL, &p, NULL), R2_OK);
    int status = -1;
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_EQUAL(status, 0);
    CU_ASSERT_EQUAL(store->ops->put(store, CALL, &p, NULL), R2_OK);
    r2_http_stats(&idle, &after);
    CU_ASSERT_EQUAL(after, before); /* the parent's connection outlived the child */
    CU_ASSERT_EQUAL(store->ops->del(store, CALL, key_of("fork")), R2_OK);
    CU_ASSERT_EQUAL(store->ops->del(store, CALL, key_of("fork-child")), R2_OK);
}

static void a_thousand_stores(void)
{
    static struct r2_store *many[1000];
    unsigned idle;
    uint64_t connections;
    struct r2_put p = put_of(key_of("thousand"), "x");
    for (int i = 0; i < 1000; i++) {
        CU_ASSERT_EQUAL_FATAL(r2_store_open(&config, &many[i], NULL), R2_OK);
        if (i % 20 == 0) CU_ASSERT_EQUAL(many[i]->ops->put(many[i], CALL, &p, NULL), R2_OK);
    }
    r2_http_stats(&idle, &connections);
    CU_ASSERT(idle <= R2_HTTP_IDLE);
    for (int i = 0; i < 1000; i++)
        many[i]->ops->close(many[i]);
    CU_ASSERT_EQUAL(store->ops->del(store, CALL, p.key), R2_OK);
}

static bool from_env(const char *name, char *to, size_t room)
{
    const char *v = getenv(name);
    if (v && *v && r2_strcpy(to, room, v)) return true;
    fprintf(stderr, "store_s3: %s is not set; start scripts/r2-emulator\n", name);
    return false;
}

int main(void)
{
    static const struct unit_test tests[] = {UNIT(put_get_head_delete),
                                             UNIT(conditions),
                                             UNIT(one_of_sixteen_wins),
                                             UNIT(wrong_credentials_and_bucket),
                                             UNIT(odd_keys),
                                             UNIT(long_listing),
                                             UNIT(presigned),
                                             UNIT(large_round_trip),
                                             UNIT(copies),
                                             UNIT(times_and_the_gate),
                                             UNIT(many_at_once),
                                             UNIT(fork_in_the_middle),
                                             UNIT(a_thousand_stores)};
    struct one c;
    struct r2_object o;
    struct r2_err e = {0};
    config.scheme = R2_SCHEME_S3;
    r2_strcpy(config.region, sizeof config.region, "auto");
    if (!from_env("R2_ENDPOINT", config.endpoint, sizeof config.endpoint) ||
        !from_env("R2VFS_TEST_BUCKET", config.bucket, sizeof config.bucket) ||
        !from_env("R2_ACCESS_KEY_ID", config.cred.access_key, sizeof config.cred.access_key) ||
        !from_env("R2_SECRET_ACCESS_KEY", config.cred.secret_key, sizeof config.cred.secret_key))
        return 1;
    snprintf(prefix, sizeof prefix, "store-%016llx/", (unsigned long long)r2_random64());
    if (r2_store_open_s3(&config, &store, &e)) return fprintf(stderr, "%s\n", e.text), 1;
    struct r2_call *call = call_for(&c, 10000);
    if (store->ops->head(store, call, key_of("reach"), &o) != R2_MISSING)
        return fprintf(stderr, "store_s3: %s\n", c.err.text), 1;
    int failed = unit_run("store_s3", tests, sizeof tests / sizeof *tests);
    store->ops->close(store);
    return failed;
}
