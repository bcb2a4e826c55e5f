/* test_layout.c - the object layout over a scripted store: pushes whose answers are lost, objects
 * that are damaged, changed or hidden. */
#include "localkit.h"

#include "../../vfs/image.h"
#include "../../vfs/layout.h"
#include "../../vfs/os.h"

#define KEY "users/42/app.db"

/* ---- a store with one object and a script ---- */

enum how {
    SERVE,  /* as S3 */
    LOST,   /* nothing happens, no answer */
    LANDED, /* it happens, no answer */
    DOWN,   /* nothing happens, and that is certain */
    DENIED,
};

static struct {
    struct r2_store base;
    bool exists;
    char *bytes;
    struct r2_object o;
    unsigned etags; /* given so far */
    /* the script: what happens to each put; the last entry stays in force */
    enum how put[8];
    unsigned puts, heads, gets;
    void (*before_put)(unsigned n);
    void (*before_head)(unsigned n);
    enum r2_code head_fails;
    unsigned damaged_gets; /* so many gets flip a bit on the way */
    void (*before_get)(unsigned n);
    /* of the last put */
    struct r2_meta meta;
    enum r2_put_if when;
    char etag[R2_ETAG_BYTES];
    uint64_t sent[8]; /* a checksum of each body */
} fake;

static struct r2_err err;

static void replace(const void *bytes, size_t n, const char *meta)
{
    fake.exists = true;
    free(fake.bytes);
    fake.bytes = malloc(n + 1);
    memcpy(fake.bytes, bytes, n);
    memset(&fake.o, 0, sizeof fake.o);
    fake.o.size = n;
    snprintf(fake.o.etag, sizeof fake.o.etag, "\"etag-%u\"", ++fake.etags);
    fake.o.meta.len = strlen(meta);
    memcpy(fake.o.meta.text, meta, fake.o.meta.len + 1);
}

static enum r2_code fake_head(struct r2_store *s, struct r2_call *call, const char *key,
                              struct r2_object *out)
{
    (void)s;
    CU_ASSERT_STRING_EQUAL(key, KEY);
    fake.heads++;
    if (fake.before_head) fake.before_head(fake.heads);
    if (fake.head_fails) return r2_fail(call->err, fake.head_fails, "no answer to HEAD");
    if (!fake.exists) return r2_fail(call->err, R2_MISSING, "no object");
    *out = fake.o;
    return R2_OK;
}

static enum r2_code fake_get(struct r2_store *s, struct r2_call *call, const char *key,
                             const char *if_match, uint64_t expect, struct r2_sink *sink,
                             struct r2_object *out)
{
    (void)s, (void)key;
    fake.gets++;
    if (fake.before_get) fake.before_get(fake.gets);
    if (!fake.exists) return r2_fail(call->err, R2_MISSING, "no object");
    if (if_match && strcmp(if_match, fake.o.etag) != 0)
        return r2_fail(call->err, R2_PRECONDITION, "another object");
    CU_ASSERT_EQUAL(expect, fake.o.size);
    if (pwrite(sink->fd, fake.bytes, fake.o.size, 0) != (ssize_t)fake.o.size) abort();
    if (fake.damaged_gets && fake.damaged_gets--) {
        char c = (char)(fake.bytes[fake.o.size - 1] ^ 1);
        if (pwrite(sink->fd, &c, 1, (off_t)fake.o.size - 1) != 1) abort();
    }
    *out = fake.o;
    return R2_OK;
}

static uint64_t hash(const char *bytes, size_t n)
{
    uint64_t h = 1469598103934665603u;
    while (n--)
        h = (h ^ (unsigned char)*bytes++) * 1099511628211u;
    return h;
}

static enum r2_code fake_put(struct r2_store *s, struct r2_call *call, const struct r2_put *what,
                             struct r2_object *out)
{
    (void)s;
    CU_ASSERT_STRING_EQUAL(what->key, KEY);
    unsigned n = fake.puts++;
    if (fake.before_put) fake.before_put(fake.puts);
    enum how how = fake.put[n < 7 ? n : 7];
    char *bytes = malloc(what->body.size + 1);
    if (pread(what->body.fd, bytes, what->body.size, (off_t)what->body.off) !=
        (ssize_t)what->body.size)
        abort();
    if (n < 8) fake.sent[n] = hash(bytes, what->body.size);
    fake.meta = *what->meta;
    fake.when = what->when;
    snprintf(fake.etag, sizeof fake.etag, "%s", what->etag ? what->etag : "");
    bool may = what->when == R2_PUT_IF_ABSENT ? !fake.exists
                                              : fake.exists && strcmp(what->etag, fake.o.etag) == 0;
    if (may && (how == SERVE || how == LANDED)) replace(bytes, what->body.size, what->meta->text);
    free(bytes);
    if (how == DOWN) return r2_fail(call->err, R2_UNREACHABLE, "no connection");
    if (how == DENIED) return r2_fail(call->err, R2_DENIED, "403");
    if (how != SERVE) return r2_fail(call->err, R2_UNKNOWN, "the answer was lost");
    if (!may) return r2_fail(call->err, R2_PRECONDITION, "412");
    if (out) *out = fake.o;
    return R2_OK;
}

static const struct r2_store_ops fake_ops = {.head = fake_head, .get = fake_get, .put = fake_put};

/* ---- what is pushed ---- */

static struct kit_version content[3];
static struct r2_image image;
static struct r2_pending pending;
static struct r2_remote seen;
static enum r2_maker maker;

static void start(void)
{
    kit_start();
    memset(&fake, 0, sizeof fake);
    memset(&seen, 0, sizeof seen);
    memset(&pending, 0, sizeof pending);
    fake.base.ops = &fake_ops;
    for (int k = 0; k < 3; k++)
        content[k] = kit_make(k + 1, 50 + 20 * k, 1024, 0);
    r2_image_init(&image);
}

static void stop(void)
{
    free(fake.bytes);
    for (int k = 0; k < 3; k++)
        free(content[k].bytes);
    r2_image_free(&image);
    kit_stop();
}

static struct r2_call call_for(int64_t ms)
{
    r2_err_clear(&err);
    return (struct r2_call){.deadline_ms = r2_boot_ms() + ms, .err = &err};
}

static uint64_t nonce_of(unsigned try)
{
    return 0xa0 + try;
}

/* Make content k the (next) content tried for this version. */
static void intend(int k, uint64_t version, const char *over_etag, const char *recent)
{
    struct r2_version v = {.version = version};
    r2_image_free(&image);
    if (r2_image_create(&image, kit_path("push"), "-stage", false, &err) != R2_OK) abort();
    size_t n = (size_t)content[k].pages * content[k].page_size;
    if (pwrite(image.fd, content[k].bytes, n, 0) != (ssize_t)n) abort();
    if (r2_image_adopt(&image, n, &err) != R2_OK) abort();
    r2_image_next_header(&image, NULL, version, v.header);
    if (r2_image_set_fields(&image, v.header, &err) != R2_OK) abort();
    v.checksum = r2_image_checksum(&image);
    v.page_size = image.page_size;
    v.pages = image.pages;
    memset(v.lineage, 0xab, 16);
    r2_recent_prepend(recent, version, nonce_of(pending.tries), v.recent);
    pending.kind = R2_PENDING_PUSH;
    pending.v = v;
    pending.try[pending.tries].nonce = nonce_of(pending.tries);
    pending.try[pending.tries++].checksum = v.checksum;
    snprintf(pending.over_etag, sizeof pending.over_etag, "%s", over_etag);
}

static enum r2_code push(int64_t ms)
{
    struct r2_call call = call_for(ms);
    struct r2_push p = {
        .pending = &pending, .image = &image, .size = (uint64_t)image.pages * image.page_size};
    maker = (enum r2_maker)99;
    memset(&seen, 0x55, sizeof seen);
    return r2_layout_object.push(&fake.base, &call, KEY, &p, &seen, &maker);
}

/* The object is what was intended, byte for byte, with all its metadata. */
static bool landed(void)
{
    char want[R2_META_BYTES], lineage[33];
    r2_lineage_text(pending.v.lineage, lineage);
    snprintf(want, sizeof want,
             "db-version: %llu\ndb-lineage: %s\ndb-layout: object\ndb-checksum: %016llx\n"
             "db-recent: %s\n",
             (unsigned long long)pending.v.version, lineage, (unsigned long long)pending.v.checksum,
             pending.v.recent);
    size_t n = (size_t)image.pages * image.page_size;
    char *bytes = malloc(n);
    bool same = fake.exists && fake.o.size == n &&
                r2_image_read(&image, 1, image.pages, (uint8_t *)bytes, &err) == R2_OK &&
                memcmp(bytes, fake.bytes, n) == 0 && strcmp(fake.o.meta.text, want) == 0;
    free(bytes);
    return same;
}

/* Another r2vfs's version. `recent` without its own entry. */
static void somebody(uint64_t version, const char *recent)
{
    char meta[R2_META_BYTES], all[R2_RECENT_BYTES];
    struct r2_image i;
    uint8_t h[R2_HEADER];
    size_t n = (size_t)content[2].pages * content[2].page_size;
    r2_image_init(&i);
    if (r2_image_create(&i, kit_path("other"), "-x", false, &err) != R2_OK) abort();
    if (pwrite(i.fd, content[2].bytes, n, 0) != (ssize_t)n) abort();
    if (r2_image_adopt(&i, n, &err) != R2_OK) abort();
    r2_image_next_header(&i, NULL, version, h);
    if (r2_image_set_fields(&i, h, &err) != R2_OK) abort();
    char *bytes = malloc(n);
    if (r2_image_read(&i, 1, i.pages, (uint8_t *)bytes, &err) != R2_OK) abort();
    r2_recent_prepend(recent, version, 0xbb, all);
    snprintf(meta, sizeof meta,
             "db-version: %llu\ndb-lineage: abababababababababababababababab\ndb-layout: object\n"
             "db-checksum: %016llx\ndb-recent: %s\n",
             (unsigned long long)version, (unsigned long long)r2_image_checksum(&i), all);
    replace(bytes, n, meta);
    free(bytes);
    r2_image_free(&i);
}

/* ---- pushes ---- */

static void births_and_replacements(void)
{
    start();
    intend(0, 1, "", "");
    CU_ASSERT_EQUAL(push(5000), R2_OK);
    CU_ASSERT_TRUE(landed());
    CU_ASSERT_EQUAL(fake.when, R2_PUT_IF_ABSENT);
    CU_ASSERT_TRUE(maker == R2_MAKER_LATEST && seen.v.version == 1 && fake.puts == 1);
    CU_ASSERT_STRING_EQUAL(seen.v.etag, fake.o.etag);
    CU_ASSERT_EQUAL(fake.heads, 0); /* one round trip */
    char recent[R2_RECENT_BYTES];
    memcpy(recent, pending.v.recent, sizeof recent);
    memset(&pending, 0, sizeof pending);
    intend(1, 2, fake.o.etag, recent);
    CU_ASSERT_EQUAL(push(5000), R2_OK);
    CU_ASSERT_TRUE(landed());
    CU_ASSERT_EQUAL(fake.when, R2_PUT_IF_MATCH);
    CU_ASSERT_STRING_EQUAL(fake.etag, "\"etag-1\"");
    CU_ASSERT_TRUE(fake.puts == 2 && fake.heads == 0);
    stop();
}

static void lost_to_another_writer(void)
{
    for (int birth = 0; birth < 2; birth++) {
        start();
        somebody(1, "");
        intend(0, birth ? 1 : 2, birth ? "" : "\"etag-1\"", "");
        if (!birth) somebody(2, "1:00000000000000bb");
        CU_ASSERT_EQUAL(push(5000), R2_CONFLICT);
        CU_ASSERT_EQUAL(maker, R2_MAKER_OTHER);
        CU_ASSERT_EQUAL(seen.v.version, birth ? 1 : 2);
        CU_ASSERT_TRUE(fake.puts == 1 && !landed());
        stop();
    }
    /* it was deleted meanwhile: nothing to replace */
    start();
    intend(0, 2, "\"etag-1\"", "");
    CU_ASSERT_EQUAL(push(5000), R2_CONFLICT);
    CU_ASSERT_EQUAL(maker, R2_MAKER_OTHER);
    CU_ASSERT_FALSE(seen.exists);
    CU_ASSERT_FALSE(fake.exists);
    stop();
}

/* No answer, but it landed: found by looking, not by sending again. */
static void unknown_then_landed(void)
{
    for (int birth = 0; birth < 2; birth++) {
        start();
        if (!birth) somebody(1, "");
        intend(0, birth ? 1 : 2, birth ? "" : "\"etag-1\"", "");
        fake.put[0] = LANDED;
        CU_ASSERT_EQUAL(push(5000), R2_OK);
        CU_ASSERT_TRUE(landed() && fake.puts == 1 && maker == R2_MAKER_LATEST);
        CU_ASSERT_STRING_EQUAL(seen.v.etag, fake.o.etag);
        stop();
    }
}

/* No answer and nothing there: the same bytes again. */
static void unknown_then_retried(void)
{
    start();
    somebody(1, "");
    intend(0, 2, "\"etag-1\"", "");
    fake.put[0] = LOST, fake.put[1] = LOST;
    CU_ASSERT_EQUAL(push(60000), R2_OK);
    CU_ASSERT_TRUE(landed() && fake.puts == 3);
    CU_ASSERT_TRUE(fake.sent[0] == fake.sent[1] && fake.sent[1] == fake.sent[2]);
    stop();
}

static char late[1 << 20];
static size_t late_size;
static struct r2_meta late_meta;

static void land_late(unsigned n)
{
    if (n == 2) replace(late, late_size, late_meta.text); /* the first one, at last */
}

/* No answer, nothing there, sent again: 412, because the first one had landed in between. */
static void a_412_of_our_own(void)
{
    start();
    somebody(1, "");
    intend(0, 2, "\"etag-1\"", "");
    fake.put[0] = LANDED;
    CU_ASSERT_EQUAL(push(5000), R2_OK); /* only to have its bytes and metadata */
    memcpy(late, fake.bytes, late_size = fake.o.size);
    late_meta = fake.o.meta;
    unsigned nonce = pending.tries;
    somebody(1, "");
    snprintf(pending.over_etag, sizeof pending.over_etag, "%s", fake.o.etag);
    fake.puts = fake.heads = 0;
    fake.put[0] = LOST;
    fake.before_put = land_late;
    CU_ASSERT_EQUAL(push(60000), R2_OK);
    CU_ASSERT_TRUE(landed() && fake.puts == 2 && maker == R2_MAKER_LATEST);
    CU_ASSERT_EQUAL(nonce, pending.tries);
    stop();
}

static void unknown_until_the_deadline(void)
{
    static const enum how hows[] = {LOST, DOWN, DENIED};
    for (int k = 0; k < 3; k++) {
        start();
        somebody(1, "");
        intend(0, 2, "\"etag-1\"", "");
        fake.put[0] = LOST;
        for (int n = 1; n < 8; n++)
            fake.put[n] = hows[k]; /* what comes after the loss proves nothing about it */
        CU_ASSERT_EQUAL(push(250), R2_UNKNOWN);
        CU_ASSERT_EQUAL(err.code, R2_UNKNOWN);
        CU_ASSERT_TRUE(err.text[0] != 0);
        CU_ASSERT_TRUE(fake.puts >= 2 || k == 0);
        stop();
    }
    /* not even an answer to the question */
    start();
    intend(0, 1, "", "");
    fake.put[0] = LOST;
    fake.head_fails = R2_UNREACHABLE;
    CU_ASSERT_EQUAL(push(60000), R2_UNKNOWN);
    CU_ASSERT_EQUAL(fake.puts, 1);
    stop();
}

static void certain_failures(void)
{
    static const enum how hows[] = {DOWN, DENIED};
    static const enum r2_code codes[] = {R2_UNREACHABLE, R2_DENIED};
    for (int k = 0; k < 2; k++) {
        start();
        intend(0, 1, "", "");
        fake.put[0] = hows[k];
        CU_ASSERT_EQUAL(push(5000), codes[k]);
        CU_ASSERT_TRUE(fake.puts == 1 && fake.heads == 0);
        pending.doubt = true; /* unless an attempt before it got no answer */
        fake.puts = 0;
        CU_ASSERT_EQUAL(push(250), R2_UNKNOWN);
        stop();
    }
}

static char next_recent[R2_RECENT_BYTES];

static void go_on(unsigned n)
{
    if (n == 1) somebody(3, next_recent);
}

/* It landed, and before we looked others had gone on from it. */
static void landed_but_hidden(void)
{
    start();
    somebody(1, "");
    intend(0, 2, "\"etag-1\"", "1:00000000000000bb");
    memcpy(next_recent, pending.v.recent, sizeof next_recent);
    fake.put[0] = LANDED;
    fake.before_head = go_on;
    CU_ASSERT_EQUAL(push(5000), R2_OK);
    CU_ASSERT_EQUAL(maker, R2_MAKER_LATEST);
    CU_ASSERT_EQUAL(seen.v.version, 3);
    CU_ASSERT_STRING_EQUAL(seen.v.etag, ""); /* that of ours is not known */
    stop();
    /* the same, but what stands there does not say */
    start();
    somebody(1, "");
    intend(0, 2, "\"etag-1\"", "1:00000000000000bb");
    next_recent[0] = 0;
    fake.put[0] = LANDED;
    fake.before_head = go_on;
    CU_ASSERT_EQUAL(push(5000), R2_CONFLICT);
    CU_ASSERT_EQUAL(maker, R2_MAKER_HIDDEN);
    stop();
}

/* What landed is a content that was tried before this one. */
static void an_earlier_try_landed(void)
{
    start();
    somebody(1, "");
    intend(0, 2, "\"etag-1\"", "");
    fake.put[0] = LANDED;
    fake.head_fails = R2_UNREACHABLE;
    CU_ASSERT_EQUAL(push(5000), R2_UNKNOWN);
    fake.head_fails = R2_OK;
    fake.put[0] = SERVE;
    fake.puts = 0;
    intend(1, 2, "\"etag-1\"", "");
    pending.doubt = true;
    CU_ASSERT_EQUAL(push(5000), R2_CONFLICT);
    CU_ASSERT_EQUAL(maker, R2_MAKER_EARLIER);
    CU_ASSERT_TRUE(seen.v.version == 2 && fake.puts == 1);
    stop();
}

/* ---- probes ---- */

static enum r2_code probe(void)
{
    struct r2_call call = call_for(5000);
    memset(&seen, 0x55, sizeof seen);
    return r2_layout_object.probe(&fake.base, &call, KEY, &seen);
}

static enum r2_code probe_meta(const char *meta)
{
    replace("x", 1, meta);
    return probe();
}

#define L "db-lineage: 000102030405060708090a0b0c0d0e0f\n"

static void probes(void)
{
    start();
    CU_ASSERT_EQUAL(probe(), R2_OK);
    CU_ASSERT_FALSE(seen.exists);
    CU_ASSERT_EQUAL(err.code, R2_OK);
    CU_ASSERT_EQUAL(probe_meta(""), R2_OK); /* a plain file */
    CU_ASSERT_TRUE(seen.exists && !seen.numbered && seen.v.version == 1 && seen.size == 1);
    CU_ASSERT_TRUE(!seen.has_checksum && !seen.has_lineage && !seen.v.recent[0]);
    CU_ASSERT_STRING_EQUAL(seen.v.etag, fake.o.etag);
    CU_ASSERT_EQUAL(probe_meta("db-version: 1742\nother: thing\n"), R2_OK);
    CU_ASSERT_TRUE(seen.numbered && seen.v.version == 1742);
    CU_ASSERT_EQUAL(probe_meta("db-version: 7\n" L "db-layout: object\n"
                               "db-checksum: 80000000000000aa\n"
                               "db-recent: 7:00000000000000a7,6:00000000000000a6\n"),
                    R2_OK);
    CU_ASSERT_TRUE(seen.has_lineage && seen.v.lineage[15] == 15);
    CU_ASSERT_TRUE(seen.has_checksum && seen.v.checksum == 0x80000000000000aa);
    CU_ASSERT_STRING_EQUAL(seen.v.recent, "7:00000000000000a7,6:00000000000000a6");
    /* copied with other bytes and a higher number: neither checksum nor recent are the writer's */
    CU_ASSERT_EQUAL(probe_meta("db-version: 8\n" L "db-layout: object\n"
                               "db-checksum: 80000000000000aa\n"
                               "db-recent: 7:00000000000000a7,6:00000000000000a6\n"),
                    R2_OK);
    CU_ASSERT_TRUE(!seen.has_checksum && !seen.v.recent[0] && seen.has_lineage);
    fake.head_fails = R2_DENIED;
    CU_ASSERT_EQUAL(probe(), R2_DENIED);
    CU_ASSERT_FALSE(seen.exists);
    stop();
}

static void damaged_metadata(void)
{
    static const char *const bad[] = {
        "db-version: 0\n",
        "db-version: -1\n",
        "db-version: 7x\n",
        "db-version: \n",
        "db-version:  7\n",
        "db-version: 0x7\n",
        "db-version: 99999999999999999999\n",
        "db-version: 9223372036854775808\n",
        "db-version: 7\ndb-lineage: 12\n",
        "db-version: 7\ndb-layout: pages\n",
        "db-version: 7\ndb-checksum: 12\ndb-recent: 7:00000000000000a7\n"};
    start();
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        CU_ASSERT_EQUAL(probe_meta(bad[k]), R2_CORRUPT);
        CU_ASSERT_TRUE(strstr(err.text, KEY) && strstr(err.text, "db-"));
    }
    /* far too long is not "none" */
    char meta[4000] = "db-version: ";
    memset(meta + 12, '7', 3000);
    memcpy(meta + 3012, "\n", 2);
    CU_ASSERT_EQUAL(probe_meta(meta), R2_CORRUPT);
    /* only r2vfs writes snapshots of a log, and writes all of it; no lineage without its layout */
#define LINEAGE "db-lineage: 00112233445566778899aabbccddeeff\n"
#define REST    "db-checksum: 8000000000000001\ndb-recent: 7:00000000000000a7\n"
    CU_ASSERT_EQUAL(probe_meta("db-version: 7\ndb-layout: log\n" LINEAGE REST), R2_OK);
    CU_ASSERT_EQUAL(probe_meta("db-version: 7\ndb-layout: log\n"), R2_CORRUPT);
    CU_ASSERT_EQUAL(probe_meta("db-version: 7\ndb-layout: log\n" REST), R2_CORRUPT);
    CU_ASSERT_EQUAL(probe_meta("db-version: 8\ndb-layout: log\n" LINEAGE REST), R2_CORRUPT);
    CU_ASSERT_TRUE(probe_meta("db-version: 7\n" LINEAGE REST) == R2_OK && seen.no_layout);
    CU_ASSERT_TRUE(probe_meta("db-version: 7\ndb-layout: object\n" LINEAGE REST) == R2_OK &&
                   !seen.no_layout);
    CU_ASSERT_EQUAL(probe_meta("db-version: 7\ndb-layout: tree\n"), R2_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, KEY));
    stop();
}

/* ---- fetches ---- */

static enum r2_code fetch(void)
{
    struct r2_call call = call_for(5000);
    r2_image_free(&image);
    if (r2_image_create(&image, kit_path("fetch"), "-new", false, &err) != R2_OK) abort();
    r2_err_clear(&err);
    return r2_layout_object.fetch(&fake.base, &call, KEY, &seen, &image);
}

static void move_on(unsigned n)
{
    if (n == 1) somebody(9, "");
}

static void fetches(void)
{
    start();
    somebody(7, "");
    CU_ASSERT_EQUAL(probe(), R2_OK);
    uint64_t told = seen.v.checksum;
    CU_ASSERT_EQUAL(fetch(), R2_OK);
    CU_ASSERT_TRUE(fake.gets == 1 && seen.v.checksum == told);
    CU_ASSERT_TRUE(seen.v.pages == content[2].pages && seen.v.page_size == 1024);
    CU_ASSERT_EQUAL(memcmp(seen.v.header, fake.bytes, R2_HEADER), 0);
    /* damaged on the way: once more */
    fake.gets = 0, fake.damaged_gets = 1;
    CU_ASSERT_EQUAL(fetch(), R2_OK);
    CU_ASSERT_EQUAL(fake.gets, 2);
    /* and for good: an error that names it, and no third try */
    fake.gets = 0, fake.damaged_gets = 2;
    CU_ASSERT_EQUAL(fetch(), R2_CORRUPT);
    CU_ASSERT_EQUAL(fake.gets, 2);
    CU_ASSERT_TRUE(strstr(err.text, KEY) && strstr(err.text, "version 7") &&
                   strstr(err.text, "checksum"));
    /* the ETag moved */
    fake.damaged_gets = 0, fake.gets = 0;
    fake.before_get = move_on;
    CU_ASSERT_EQUAL(fetch(), R2_PRECONDITION);
    fake.before_get = NULL;
    fake.exists = false;
    CU_ASSERT_EQUAL(fetch(), R2_MISSING);
    stop();
}

static void fetches_of_strangers(void)
{
    start();
    replace("<html>Not Found</html>", 22, "");
    CU_ASSERT_EQUAL(probe(), R2_OK);
    CU_ASSERT_EQUAL(fetch(), R2_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "<html>Not Found"));
    replace(content[0].bytes, (size_t)content[0].pages * 1024, "db-version: 3\n");
    CU_ASSERT_EQUAL(probe(), R2_OK);
    CU_ASSERT_EQUAL(fetch(), R2_OK); /* nobody gave a checksum: there is one now */
    CU_ASSERT_EQUAL(seen.v.checksum, r2_image_checksum(&image));
    replace("", 0, "");
    CU_ASSERT_EQUAL(probe(), R2_OK);
    CU_ASSERT_EQUAL(fetch(), R2_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "empty"));
    stop();
}

static void table_of_layouts(void)
{
    CU_ASSERT_STRING_EQUAL(r2_layout_name(R2_LAYOUT_OBJECT), "object");
    CU_ASSERT_STRING_EQUAL(r2_layout_name(R2_LAYOUT_LOG), "log");
    CU_ASSERT_STRING_EQUAL(r2_layout_object.name, "object");
}

UNIT_MAIN("layout", UNIT(births_and_replacements), UNIT(lost_to_another_writer),
          UNIT(unknown_then_landed), UNIT(unknown_then_retried), UNIT(a_412_of_our_own),
          UNIT(unknown_until_the_deadline), UNIT(certain_failures), UNIT(landed_but_hidden),
          UNIT(an_earlier_try_landed), UNIT(probes), UNIT(damaged_metadata), UNIT(fetches),
          UNIT(fetches_of_strangers), UNIT(table_of_layouts))
