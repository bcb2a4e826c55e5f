/* Tests for log_ahead.c: segments side by side are taken over in their order, few are asked for in
 * vain, and no file stays open, whatever fails. */
#include "unit.h"

#include <dirent.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../vfs/log_int.h"
#include "../../vfs/os.h"

static struct r2_err err;
static struct r2_call call;
static struct r2_ahead ahead;
static struct r2_gap gap;
static const uint8_t lineage[16] = {7};

/* A store that has the segments up to `top`, each with its own number in it. */
static struct {
    uint64_t top, bad; /* bad: not answered */
    _Atomic uint64_t asked, vain;
    _Atomic bool too_far;
} bucket;

static struct {
    struct r2_log *l;
    _Atomic uint64_t next; /* the version that must come now */
    uint64_t fail, end;    /* versions at which to stop */
} taker;

static enum r2_code get(struct r2_store *s, struct r2_call *c, const char *key, const char *etag,
                        uint64_t size, struct r2_sink *sink, struct r2_object *out)
{
    (void)s, (void)etag, (void)size;
    uint64_t version = strtoull(strrchr(key, '/') + 1, NULL, 16);
    atomic_fetch_add(&bucket.asked, 1);
    if (version >= atomic_load(&taker.next) + R2_AHEAD) atomic_store(&bucket.too_far, true);
    if (version % 3 == 0) usleep(200); /* so that they overtake each other */
    c->signed_ms = (int64_t)version;
    memset(out, 0, sizeof *out);
    if (version == bucket.bad) return r2_fail(c->err, R2_UNREACHABLE, "no connection");
    if (version > bucket.top) {
        atomic_fetch_add(&bucket.vain, 1);
        return R2_MISSING;
    }
    out->size = sizeof version;
    return pwrite(sink->fd, &version, sizeof version, 0) == sizeof version ? R2_OK : R2_IO;
}

static enum r2_code head(struct r2_store *s, struct r2_call *c, const char *key,
                         struct r2_object *out)
{
    (void)s, (void)key, (void)out;
    return r2_fail(c->err, R2_UNREACHABLE, "no connection");
}

static const struct r2_store_ops ops = {.get = get, .head = head};
static struct r2_store store = {.ops = &ops};

static enum r2_code take(void *ctx)
{
    uint64_t version = 0;
    (void)ctx;
    CU_ASSERT_EQUAL(taker.l->ahead->count, 1);
    CU_ASSERT_EQUAL(taker.l->ahead->first, taker.next);
    CU_ASSERT_EQUAL(taker.l->ahead->at[0].signed_ms, (int64_t)taker.next);
    CU_ASSERT_EQUAL(pread(taker.l->ahead->at[0].fd, &version, sizeof version, 0), sizeof version);
    CU_ASSERT_EQUAL(version, taker.next);
    taker.next++;
    taker.l->ended = version == taker.end;
    if (version != taker.fail) return R2_OK;
    return r2_fail(taker.l->call->err, R2_CORRUPT, "segment %d is bad", (int)version);
}

static unsigned open_files(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d) closedir(d);
    return n;
}

static struct r2_log begin(uint64_t first, uint64_t top)
{
    struct r2_log l = {.store = &store, .call = &call, .key = "k", .ahead = &ahead};
    memset(&bucket, 0, sizeof bucket);
    memset(&taker, 0, sizeof taker);
    memset(&gap, 0, sizeof gap);
    r2_err_clear(&err);
    call = (struct r2_call){.deadline_ms = r2_boot_ms() + 60000, .err = &err};
    bucket.top = top;
    taker.next = first;
    l.db_path = "/tmp/r2vfs-test-ahead";
    return l;
}

static enum r2_code stream(struct r2_log *l, uint64_t first, uint64_t count, uint64_t sure)
{
    unsigned before = open_files();
    taker.l = l;
    enum r2_code rc = r2_ahead_stream(l, lineage, first, count, sure, take, NULL, &gap);
    CU_ASSERT_FALSE(bucket.too_far);
    CU_ASSERT_EQUAL(open_files(), before);
    CU_ASSERT_EQUAL(ahead.count, 0);
    CU_ASSERT_PTR_EQUAL(l->call, &call);
    return rc;
}

static void in_their_order(void)
{
    for (uint64_t top = 11; top < 600; top += 49) {
        struct r2_log l = begin(12, top);
        CU_ASSERT_EQUAL(stream(&l, 12, UINT64_MAX / 2, 0), R2_OK);
        CU_ASSERT_EQUAL(taker.next, top + 1);
        CU_ASSERT_TRUE(gap.found);
        CU_ASSERT_EQUAL(gap.asked_ms, (int64_t)top + 1);
        CU_ASSERT_TRUE(bucket.vain <= R2_AHEAD);
        CU_ASSERT_TRUE(bucket.vain <= 2 * (R2_AHEAD_FEW + top - 11));
    }
}

static void as_many_as_wanted(void)
{
    struct r2_log l = begin(5, 1000);
    CU_ASSERT_EQUAL(stream(&l, 5, 300, 304), R2_OK);
    CU_ASSERT_EQUAL(taker.next, 305);
    CU_ASSERT_EQUAL(bucket.asked, 300);
    CU_ASSERT_FALSE(gap.found);
}

/* Who has seen the list asks for one more, to see that it is still the end. */
static void listed(void)
{
    struct r2_log l = begin(5, 200);
    l.sure = 200;
    CU_ASSERT_EQUAL(stream(&l, 5, UINT64_MAX / 2, 200), R2_OK);
    CU_ASSERT_EQUAL(taker.next, 201);
    CU_ASSERT_EQUAL(bucket.vain, 1);
    l = begin(5, 230); /* more came since */
    l.sure = 200;
    CU_ASSERT_EQUAL(stream(&l, 5, UINT64_MAX / 2, 200), R2_OK);
    CU_ASSERT_EQUAL(taker.next, 231);
    CU_ASSERT_TRUE(bucket.vain <= R2_AHEAD);
    l = begin(5, 90); /* fewer, after all */
    l.sure = 200;
    CU_ASSERT_EQUAL(stream(&l, 5, UINT64_MAX / 2, 200), R2_OK);
    CU_ASSERT_EQUAL(taker.next, 91);
    CU_ASSERT_TRUE(gap.found);
}

static void failures(void)
{
    struct r2_log l = begin(5, 1000);
    bucket.bad = 77;
    CU_ASSERT_EQUAL(stream(&l, 5, UINT64_MAX / 2, 0), R2_UNREACHABLE);
    CU_ASSERT_STRING_EQUAL(err.text, "no connection");
    CU_ASSERT_TRUE(taker.next <= 77);
    CU_ASSERT_FALSE(gap.found);
    l = begin(5, 1000);
    taker.fail = 140;
    CU_ASSERT_EQUAL(stream(&l, 5, UINT64_MAX / 2, 0), R2_CORRUPT);
    CU_ASSERT_STRING_EQUAL(err.text, "segment 140 is bad");
    CU_ASSERT_EQUAL(taker.next, 141);
    l = begin(5, 1000);
    taker.end = 33;
    CU_ASSERT_EQUAL(stream(&l, 5, UINT64_MAX / 2, 0), R2_OK);
    CU_ASSERT_EQUAL(taker.next, 34);
    CU_ASSERT_FALSE(gap.found);
    l = begin(5, 1000);
    l.db_path = "/nonexistent/folder/db";
    CU_ASSERT_EQUAL(stream(&l, 5, UINT64_MAX / 2, 0), R2_IO);
    CU_ASSERT_TRUE(strstr(err.text, "/nonexistent/folder/db") != NULL);
    CU_ASSERT_EQUAL(taker.next, 5);
}

static void a_few(void)
{
    struct r2_remote at_key;
    unsigned before = open_files();
    for (uint32_t top = 4; top < 14; top++) {
        struct r2_log l = begin(5, top);
        l.shortcut = &at_key;
        at_key.exists = true;
        taker.next = 5;
        CU_ASSERT_EQUAL(r2_ahead_fetch(&l, lineage, 5, 8, true, &gap), R2_OK);
        CU_ASSERT_EQUAL(ahead.first, 5);
        CU_ASSERT_EQUAL(ahead.count, top < 12 ? top - 4 : 8);
        CU_ASSERT_EQUAL(gap.found, top < 12);
        CU_ASSERT_FALSE(at_key.exists); /* a hint that fails is none */
        CU_ASSERT_EQUAL(err.text[0], 0);
        if (gap.found) CU_ASSERT_EQUAL(gap.asked_ms, (int64_t)top + 1);
        r2_ahead_free(&ahead);
        CU_ASSERT_EQUAL(open_files(), before);
    }
}

UNIT_MAIN("log_ahead", UNIT(in_their_order), UNIT(as_many_as_wanted), UNIT(listed), UNIT(failures),
          UNIT(a_few))
