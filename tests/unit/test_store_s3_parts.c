/* Tests for store_s3_parts.c: how a body is cut, which parts are the old object's, what ETags say;
 * and a put in parts against a server whose ETags are MD5s, as R2's are. */
#include "s3_server.h"

#include "../../vfs/store_s3.h"

#define MIB ((uint64_t)1 << 20)

/* ---- the cut ---- */

static uint8_t map[8192]; /* 256 MiB in blocks of 4 KiB */
static struct r2_reuse old;

static void nothing_changed(uint64_t size)
{
    memset(map, 0, sizeof map);
    old = (struct r2_reuse){.changed = map, .block = 4096, .size = size};
}

static void change(uint64_t at)
{
    map[at / 4096 / 8] = (uint8_t)(map[at / 4096 / 8] | 1 << at / 4096 % 8);
}

static void without_an_old_one(void)
{
    struct r2_s3_cut cut = r2_s3_cut(100 * MIB + 1, NULL);
    CU_ASSERT_EQUAL(cut.part_size, R2_PART_BYTES);
    CU_ASSERT_EQUAL(cut.parts, 7);
    CU_ASSERT_EQUAL(cut.copies, 0);
    CU_ASSERT_EQUAL(cut.sent, 100 * MIB + 1);
    CU_ASSERT_FALSE(r2_s3_part_is_there(&cut, 100 * MIB + 1, NULL, 0));
    cut = r2_s3_cut(200000 * MIB, NULL); /* R2 takes 10,000 parts */
    CU_ASSERT_EQUAL(cut.part_size, 20 * MIB);
    CU_ASSERT_EQUAL(cut.parts, 10000);
}

/* Every cut is checked against the map, block by block. */
static void check(uint64_t size)
{
    struct r2_s3_cut cut = r2_s3_cut(size, &old);
    uint64_t copies = 0, sent = 0;
    for (uint64_t i = 0; i < cut.parts; i++) {
        bool same = true;
        uint64_t from = i * cut.part_size,
                 to = from + cut.part_size < size ? from + cut.part_size : size;
        for (uint64_t at = from; at < to; at += 4096)
            same = same && !(map[at / 4096 / 8] >> at / 4096 % 8 & 1);
        bool there = r2_s3_part_is_there(&cut, size, &old, i);
        if (cut.copies) CU_ASSERT_EQUAL(there, same && to <= old.size);
        copies += there;
        sent += there ? 0 : to - from;
    }
    CU_ASSERT_EQUAL(cut.copies, copies);
    CU_ASSERT_EQUAL(cut.sent, sent);
    CU_ASSERT(cut.parts * cut.part_size >= size && (cut.parts - 1) * cut.part_size < size);
    CU_ASSERT(cut.part_size >= 5 * MIB);
}

static void one_block_costs_one_part(void)
{
    const uint64_t size = 256 * MIB;
    nothing_changed(size);
    change(0);
    struct r2_s3_cut cut = r2_s3_cut(size, &old);
    CU_ASSERT_EQUAL(cut.copies, cut.parts - 1);
    CU_ASSERT_EQUAL(cut.sent, cut.part_size);
    CU_ASSERT(cut.part_size <= 16 * MIB);
    check(size);
    for (uint64_t at = 4096; at < size;
         at += 37 * MIB + 4096) { /* first and last blocks of parts */
        nothing_changed(size);
        change(at);
        check(size);
        nothing_changed(size);
        change(at / (5 * MIB) * 5 * MIB);
        check(size);
        nothing_changed(size);
        change((at / (5 * MIB) + 1) * 5 * MIB - 4096);
        check(size);
    }
}

static void everywhere_is_the_usual_upload(void)
{
    nothing_changed(256 * MIB);
    for (uint64_t at = 0; at < 256 * MIB; at += 4 * MIB)
        change(at);
    struct r2_s3_cut cut = r2_s3_cut(256 * MIB, &old);
    CU_ASSERT_EQUAL(cut.copies, 0);
    CU_ASSERT_EQUAL(cut.part_size, R2_PART_BYTES);
    CU_ASSERT_EQUAL(cut.sent, 256 * MIB);
}

static void nothing_beyond_the_old_end(void)
{
    for (uint64_t had = 0; had < 100 * MIB; had += 9 * MIB + 4096) {
        nothing_changed(had);
        check(100 * MIB);
        change(had + 4096);
        check(100 * MIB);
    }
    nothing_changed(256 * MIB); /* a longer one */
    change(0);
    check(100 * MIB + 4096);
    CU_ASSERT(r2_s3_cut(100 * MIB + 4096, &old).copies > 0);
}

/* ---- ETags ---- */

static void what_a_parts_etag_says(void)
{
    uint8_t md5[R2_MD5_BYTES];
    CU_ASSERT_EQUAL(EVP_Digest("hello", 5, md5, NULL, EVP_md5(), NULL), 1);
    CU_ASSERT_FALSE(r2_s3_part_differs("\"5d41402abc4b2a76b9719d911017c592\"", md5));
    CU_ASSERT_FALSE(r2_s3_part_differs("5D41402ABC4B2A76B9719D911017C592", md5));
    CU_ASSERT_TRUE(r2_s3_part_differs("\"5d41402abc4b2a76b9719d911017c593\"", md5));
    CU_ASSERT_TRUE(r2_s3_part_differs("6d41402abc4b2a76b9719d911017c592", md5));
    static const char *const opaque[] = {"",
                                         "\"",
                                         "\"AIGYMVTB6PpMaM7OVp7HtMIxaBqrVqEQCNDkDSAsVtrx\"",
                                         "\"6d41402abc4b2a76b9719d911017c59\"",
                                         "\"6d41402abc4b2a76b9719d911017c592a\"",
                                         "\"6d41402abc4b2a76b9719d911017c592-2\""};
    for (size_t k = 0; k < sizeof opaque / sizeof *opaque; k++)
        CU_ASSERT_FALSE(r2_s3_part_differs(opaque[k], md5));
}

/* The example of R2's documentation. */
static void what_the_wholes_etag_says(void)
{
    static const uint8_t md5[2][R2_MD5_BYTES] = {{0xbc, 0xe6, 0xbf, 0x66, 0xae, 0xb7, 0x6c, 0x70,
                                                  0x40, 0xfd, 0xd5, 0xf4, 0xec, 0xcb, 0x78, 0xe6},
                                                 {0x81, 0x65, 0x44, 0x9f, 0xc1, 0x5b, 0xbf, 0x43,
                                                  0xd3, 0xb6, 0x74, 0x59, 0x5c, 0xbc, 0xc4, 0x06}};
    CU_ASSERT_FALSE(r2_s3_whole_differs("\"f77dc0eecdebcd774a2a22cb393ad2ff-2\"", md5, 2));
    CU_ASSERT_TRUE(r2_s3_whole_differs("\"f77dc0eecdebcd774a2a22cb393ad2fe-2\"", md5, 2));
    CU_ASSERT_FALSE(r2_s3_whole_differs("\"f77dc0eecdebcd774a2a22cb393ad2fe-3\"", md5, 2));
    CU_ASSERT_FALSE(r2_s3_whole_differs("\"f77dc0eecdebcd774a2a22cb393ad2fe\"", md5, 2));
    CU_ASSERT_FALSE(r2_s3_whole_differs("\"opaque-2\"", md5, 2));
}

/* ---- a store whose ETags are MD5s ---- */

#define COPY_MD5(md5)                                                                              \
    STATUS("200 OK", "", "?") "<CopyPartResult><ETag>&quot;" md5 "&quot;</ETag></CopyPartResult>"
#define ZEROS_8M "96995b58d4cbf6aaa9041b4f00c7f6ae" /* of 8 MiB of zeros */
#define ZERO     "93b885adfe0da089cdf634904fd59f71" /* of one */
#define OTHER    "00000000000000000000000000000000"
#define STANDS                                                                                     \
    {                                                                                              \
        .match = "HEAD ", .answer = STATUS("200 OK", "ETag: \"o\"\r\n", "5"), .times = 2           \
    }

/* Zeros over zeros, of which the first block has changed: nine parts, one of them sent. */
static enum r2_code put_over(void)
{
    char path[] = "/tmp/r2vfs-http-XXXXXX";
    int fd = mkstemp(path);
    uint64_t size = R2_MULTIPART_BYTES + 1;
    unlink(path);
    if (fd < 0 || ftruncate(fd, (off_t)size)) abort();
    nothing_changed(size);
    change(0);
    struct r2_put p = {.key = "k",
                       .body = {.fd = fd, .size = size},
                       .when = R2_PUT_IF_MATCH,
                       .etag = "\"o\"",
                       .reuse = &old};
    memset(&object, 0, sizeof object);
    again(60000);
    enum r2_code code = store->ops->put(store, &call, &p, &object);
    close(fd);
    return code;
}

#define BEGUN                                                                                      \
    {                                                                                              \
        .match = "POST /pre%20fix/bkt/k?uploads=", .answer = CREATED, .times = 2                   \
    }
#define LAST                                                                                       \
    {                                                                                              \
        .match = "partNumber=9&", .answer = COPY_MD5(ZERO)                                         \
    }
#define COPIES                                                                                     \
    {                                                                                              \
        .match = "x-amz-copy-source: ", .answer = COPY_MD5(ZEROS_8M), .times = 7                   \
    }
#define SENT                                                                                       \
    {                                                                                              \
        .match = "PUT ", .answer = OK_PUT, .times = 20                                             \
    }
#define ENDED                                                                                      \
    {                                                                                              \
        .match = FINISH, .answer = COMPLETED                                                       \
    }

static void right_md5s(void)
{
    start(RULES(BEGUN, LAST, COPIES, SENT, STANDS, ENDED));
    want(put_over(), R2_OK);
    CU_ASSERT_STRING_EQUAL(object.etag, "\"m-5\"");
    CU_ASSERT_EQUAL(seen("\r\nx-amz-copy-source: /bkt/k\r\n"), 8);
    CU_ASSERT_EQUAL(seen("\r\nx-amz-copy-source-range: bytes=8388608-16777215\r\n"), 1);
    CU_ASSERT_EQUAL(seen("\r\nx-amz-copy-source-range: bytes=67108864-67108864\r\n"), 1);
    CU_ASSERT_EQUAL(seen("x-amz-copy-source-if"), 0);
    CU_ASSERT_EQUAL(seen("PUT "), 9);
    CU_ASSERT_EQUAL(seen("\r\nif-match: \"o\"\r\n"), 1); /* Complete's */
    CU_ASSERT_EQUAL(seen("DELETE "), 0);
    stop();
}

/* Never completed; and the store is not asked again. */
static void a_wrong_md5(void)
{
    start(RULES({.match = "partNumber=5&", .answer = COPY_MD5(OTHER)}, BEGUN, LAST, COPIES, SENT,
                {.match = "DELETE ", .answer = GONE}, STANDS, ENDED));
    want(put_over(), R2_OK);
    CU_ASSERT_EQUAL(seen("DELETE "), 1);
    CU_ASSERT_EQUAL(seen(FINISH), 1);
    CU_ASSERT(seen("PUT ") - seen("x-amz-copy-source: ") >=
              6); /* 5 parts of 16 MiB, and the first */
    int copies = seen("x-amz-copy-source: ");
    CU_ASSERT(copies >= 4 && copies <= 8);
    set_rules(RULES(BEGUN, SENT, STANDS, ENDED));
    want(put_over(), R2_OK);
    CU_ASSERT_EQUAL(seen("x-amz-copy-source: "), 0);
    CU_ASSERT_EQUAL(seen("PUT "), 5);
    stop();
}

/* The whole's ETag tells, after Complete: what stands there then is replaced, and nothing else. */
static void a_wrong_whole(void)
{
#define WRONG_WHOLE                                                                                \
    STATUS("200 OK", "", "?")                                                                      \
    "<CompleteMultipartUploadResult><ETag>&quot;" OTHER "-9&quot;</ETag>"                          \
    "</CompleteMultipartUploadResult>"
#define WRONG_HEAD {.match = "HEAD ", .answer = STATUS("200 OK", "ETag: \"" OTHER "-9\"\r\n", "5")}
#define STANDS_ONCE                                                                                \
    {                                                                                              \
        .match = "HEAD ", .answer = STATUS("200 OK", "ETag: \"o\"\r\n", "5")                       \
    }
    start(RULES(BEGUN, LAST, COPIES, SENT, STANDS_ONCE, WRONG_HEAD,
                {.match = FINISH, .answer = WRONG_WHOLE}, ENDED));
    want(put_over(), R2_OK);
    CU_ASSERT_STRING_EQUAL(object.etag, "\"m-5\"");
    CU_ASSERT_EQUAL(seen("\r\nif-match: \"" OTHER "-9\"\r\n"), 1);
    CU_ASSERT_EQUAL(seen(FINISH), 2);
    stop();
    /* and when that fails it is said */
    start(RULES({.match = FINISH, .answer = WRONG_WHOLE}, STANDS_ONCE, LAST, COPIES,
                {.match = "PUT ", .answer = OK_PUT},
                {.match = "POST /pre%20fix/bkt/k?uploads=", .answer = CREATED},
                {.answer = ERROR("403 No", "AccessDenied"), .times = 99}));
    want(put_over(), R2_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "s3://bkt/k was put together of other bytes"));
    stop();
}

/* Somebody else's object in the meantime: Complete's condition, and ours is dropped. */
static void replaced_meanwhile(void)
{
    start(RULES(BEGUN, LAST, COPIES, SENT, STANDS, {.match = "DELETE ", .answer = GONE},
                {.match = FINISH, .answer = ERROR("412 No", "PreconditionFailed")}));
    want(put_over(), R2_PRECONDITION);
    CU_ASSERT_EQUAL(seen("DELETE "), 1);
    CU_ASSERT_EQUAL(seen("POST "), 2);
    stop();
}

UNIT_MAIN("store_s3_parts", UNIT(without_an_old_one), UNIT(one_block_costs_one_part),
          UNIT(everywhere_is_the_usual_upload), UNIT(nothing_beyond_the_old_end),
          UNIT(what_a_parts_etag_says), UNIT(what_the_wholes_etag_says), UNIT(right_md5s),
          UNIT(a_wrong_md5), UNIT(a_wrong_whole), UNIT(replaced_meanwhile))
