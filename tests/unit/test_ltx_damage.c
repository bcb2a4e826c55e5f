/* test_ltx_damage.c - LTX segments that are cut short, flipped, too long, or put together by hand
 * with one thing wrong: each is noticed, and so by the decoder in Python. */
#include "ltxkit.h"

#include <lz4.h>
#include <lz4frame.h>

/* --- by hand: right but for what a knob changes --------------------------------------------------
 */

enum lz4 { GOOD, TOO_SHORT, TOO_LONG, EMPTY, HUGE_SIZE, GARBAGE, OVERSIZE, FRAME };
struct knobs {
    uint32_t commit;
    uint64_t min_txid, post;
    unsigned head_at; /* this byte of the header, 0: none */
    uint8_t head_xor;
    uint32_t pgno[4]; /* {0}: 1, 2, 4 */
    bool no_pages, empty;
    uint16_t flags; /* xored in */
    enum lz4 lz4;   /* of the second page */
    uint8_t end_byte;
    int entry; /* this index entry, from 1, differs so: */
    int pgno_by, off_by, size_by;
    uint64_t size_is;      /* 0: as it should be */
    size_t stray;          /* zero bytes after the pages */
    bool no_entry;         /* or is missing */
    const char *index_end; /* "": nothing, NULL: as it should be */
    size_t index_end_n;
    int64_t index_by; /* index size */
    uint8_t sum_xor;
    size_t behind; /* bytes after the end */
};
static void hand_varint(struct r2_buf *b, uint64_t v)
{
    do {
        uint8_t byte = (uint8_t)((v & 127) | (v > 127 ? 128 : 0));
        r2_buf_add(b, &byte, 1);
    } while (v >>= 7);
}
/* A frame's LZ4 data. */
static size_t hand_lz4(enum lz4 how, const uint8_t *page, uint32_t n, uint8_t *to, size_t room)
{
    if (how == FRAME) return LZ4F_compressFrame(to, room, page, n, NULL);
    if (how == EMPTY) return 0;
    memset(to, 0, room);
    if (how == OVERSIZE) return 531; /* LZ4_compressBound(512) is 530 */
    if (how == TOO_SHORT) n -= 1;
    if (how == TOO_LONG) n += 1; /* page[n] is there, too */
    size_t size = (size_t)LZ4_compress_default((const char *)page, (char *)to, (int)n, (int)room);
    if (how == GARBAGE) to[0] ^= 0xf0;
    return size;
}
static struct bytes hand(const struct knobs *k)
{
    static const uint8_t zeros[20];
    struct r2_buf all, index;
    uint8_t head[100], page[600], data[2000], b[10];
    uint64_t crc;
    r2_buf_init(&all, SIZE_MAX / 4);
    r2_buf_init(&index, SIZE_MAX / 4);
    struct r2_ltx_header h = {.page_size = 512,
                              .commit = k->commit ? k->commit : 5,
                              .min_txid = k->min_txid ? k->min_txid : 7,
                              .max_txid = 9,
                              .pre = k->min_txid == 1 ? 0 : R2_LTX_FLAG | 5};
    if (k->empty) h.commit = 0;
    r2_ltx_put_header(head, &h);
    if (k->head_at || k->head_xor) head[k->head_at] ^= k->head_xor;
    r2_buf_add(&all, head, 100);
    crc = r2_crc64(0, head, 100);
    for (int i = 0; i < 4 && !k->no_pages; i++) {
        static const uint32_t usual[4] = {1, 2, 4, 0};
        uint32_t pgno = k->pgno[0] ? k->pgno[i] : usual[i];
        if (!pgno) break;
        enum lz4 how = i == 1 || k->lz4 == FRAME ? k->lz4 : GOOD;
        uint16_t flags = (uint16_t)((how == FRAME ? 0 : 1) ^ (i == 1 ? k->flags : 0));
        memset(page, 'a' + i, sizeof page);
        fill(page, 100, NOISE);
        size_t n = hand_lz4(how, page, 512, data, sizeof data), at = all.len;
        r2_put32(b, pgno);
        b[4] = (uint8_t)(flags >> 8), b[5] = (uint8_t)flags;
        r2_put32(b + 6, how == HUGE_SIZE ? UINT32_MAX : (uint32_t)n);
        size_t head_n = how == FRAME ? 6 : 10;
        crc = r2_crc64(r2_crc64(crc, b, head_n), page, 512);
        r2_buf_add(&all, b, head_n);
        r2_buf_add(&all, data, n);
        bool odd = k->entry == i + 1;
        if (odd && k->no_entry) continue;
        hand_varint(&index, (uint64_t)((int64_t)pgno + (odd ? k->pgno_by : 0)));
        hand_varint(&index, (uint64_t)((int64_t)at + (odd ? k->off_by : 0)));
        uint64_t size = (uint64_t)((int64_t)(all.len - at) + (odd ? k->size_by : 0));
        hand_varint(&index, odd && k->size_is ? k->size_is : size);
    }
    r2_buf_add(&index, k->index_end ? k->index_end : "", k->index_end ? k->index_end_n : 1);
    need(k->stray <= sizeof zeros, "few bytes");
    r2_buf_add(&all, zeros, k->stray);
    crc = r2_crc64(crc, zeros, k->stray);
    memcpy(b, zeros, 6);
    b[3] = k->end_byte;
    crc = r2_crc64(r2_crc64(crc, b, 6), index.at, index.len);
    r2_buf_add(&all, b, 6);
    r2_buf_add(&all, index.at, index.len);
    r2_put64(b, index.len + (uint64_t)k->index_by);
    crc = r2_crc64(crc, b, 8);
    r2_buf_add(&all, b, 8);
    r2_put64(b, k->post ? k->post : R2_LTX_FLAG | 6);
    crc = r2_crc64(crc, b, 8) | R2_LTX_FLAG;
    r2_buf_add(&all, b, 8);
    r2_put64(b, crc ^ k->sum_xor);
    r2_buf_add(&all, b, 8);
    if (k->behind) r2_buf_add(&all, data, k->behind);
    r2_buf_free(&index);
    return buf_take(&all);
}

/* --- tests: damage ------------------------------------------------------------------------------
 */

static void every_truncation(void)
{
    for (size_t f = 0; f < 12; f++) {
        struct bytes seg = fixture(fixtures[f]);
        unsigned long missed = 0;
        for (size_t n = 0; n < seg.n; n++)
            missed += verdict(seg.at, n) != R2_CORRUPT;
        CU_ASSERT_EQUAL(missed, 0);
        free(seg.at);
    }
}

static void bytes_too_many(void)
{
    for (size_t f = 0; f < 12; f++) {
        struct bytes seg = fixture(fixtures[f]);
        struct bytes more = bytes_new(seg.n * 2);
        unsigned long missed = 0;
        memset(more.at, 0, more.n);
        memcpy(more.at, seg.at, seg.n);
        for (size_t n = seg.n + 1; n < seg.n + 200 && n <= more.n; n++)
            missed += verdict(more.at, n) != R2_CORRUPT;
        memcpy(more.at + seg.n, seg.at, seg.n); /* a whole segment behind a segment */
        missed += verdict(more.at, more.n) != R2_CORRUPT;
        CU_ASSERT_EQUAL(missed, 0);
        free(seg.at), free(more.at);
    }
}

/* LZ4 data that inflates to the same page is as good as what was there: many an offset of a match
 * has another that fits. All else must be noticed. */
static void every_flipped_bit(void)
{
    for (size_t f = 0; f < 12; f++) {
        struct bytes seg = fixture(fixtures[f]);
        struct image good, bad;
        struct r2_err e;
        unsigned long missed = 0, wrong_code = 0, harmless = 0;
        need(decode(seg.at, seg.n, &good, &e) == R2_OK, e.text);
        size_t index_at = seg.n - 24 - r2_get64(seg.at + seg.n - 24);
        for (size_t bit = 0; bit < seg.n * 8; bit++) {
            seg.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
            enum r2_code rc = decode(seg.at, seg.n, &bad, &e);
            bool same = rc == R2_OK && image_same(&good, &bad);
            bool in_lz4 = bit / 8 >= 106 && bit / 8 < index_at - 6;
            missed += rc == R2_OK && !(same && in_lz4);
            harmless += same;
            wrong_code += rc && rc != R2_CORRUPT && bit != 4 * 8 + 3 * 8 + 1; /* flag 2: refused */
            image_free(&bad);
            seg.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        CU_ASSERT_EQUAL(missed, 0);
        CU_ASSERT_EQUAL(wrong_code, 0);
        CU_ASSERT(harmless < seg.n); /* an eighth of the bits */
        image_free(&good);
        free(seg.at);
    }
}

static const struct {
    const char *say; /* part of the sentence */
    struct knobs k;
} hostile[] = {
    {"offset 0: it does not begin with LTX1", {.head_at = 0, .head_xor = 1}},
    {"offset 4: unknown flags", {.head_at = 7, .head_xor = 1}},
    {"offset 4: unknown flags", {.head_at = 4, .head_xor = 0x80}},
    {"offset 8: the page size", {.head_at = 10, .head_xor = 3}}, /* 256 */
    {"offset 8: the page size", {.head_at = 11, .head_xor = 1}}, /* 513 */
    {"offset 8: the page size", {.head_at = 9, .head_xor = 2}},  /* 131072 + 512 */
    {"offset 8: the page size", {.head_at = 10, .head_xor = 2}}, /* 0 */
    {"offset 12: more pages", {.commit = UINT32_MAX}},
    {"offset 16: min TXID is 0", {.head_at = 23, .head_xor = 7}},
    {"offset 24: max TXID is below", {.head_at = 31, .head_xor = 8}},
    {"offset 40: the checksum of what was before is missing", {.head_at = 40, .head_xor = 0x80}},
    {"offset 40: a snapshot", {.min_txid = 1, .head_at = 40, .head_xor = 0x80}},
    {"offset 48: WAL offset or size is negative", {.head_at = 48, .head_xor = 0x80}},
    {"offset 48: WAL offset or size is negative", {.head_at = 56, .head_xor = 0x80}},
    {"offset 48: WAL size or salts", {.head_at = 63, .head_xor = 1}},
    {"offset 48: WAL size or salts", {.head_at = 67, .head_xor = 1}},
    {"offset 48: WAL size or salts", {.head_at = 71, .head_xor = 1}},
    {"offset 80: a reserved byte", {.head_at = 80, .head_xor = 1}},
    {"offset 99: a reserved byte", {.head_at = 99, .head_xor = 1}},
    {"behind the database's end", {.pgno = {1, 2, 6}}},
    {"behind the database's end", {.pgno = {1, 2, 0xffffffff}}},
    {"behind the database's end", {.empty = true, .post = R2_LTX_FLAG}},
    {"do not ascend", {.pgno = {2, 1, 4}}},
    {"do not ascend", {.pgno = {2, 2, 4}}},
    {"the lock page", {.commit = 3000000, .pgno = {1, 2097153}}},
    {"a page left out", {.min_txid = 1, .pgno = {2, 3, 4, 5}}},
    {"a page left out", {.min_txid = 1, .pgno = {1, 2, 4}}},
    {"without the database's last pages", {.min_txid = 1, .pgno = {1, 2, 3, 4}}},
    {"without the database's last pages", {.min_txid = 1, .no_pages = true}},
    {"is not that of the snapshot's pages", {.min_txid = 1, .commit = 4, .pgno = {1, 2, 3, 4}}},
    {"an empty database with a checksum", {.empty = true, .no_pages = true}},
    {"the checksum of the database is missing", {.post = 6}},
    {"the checksum of the file", {.sum_xor = 1}},
    {"unknown flags", {.flags = 2}},
    {"unknown flags", {.flags = 0x100}},
    {"page 2: its LZ4 frame cannot be inflated", {.flags = 1}},
    {"page 2: its LZ4 block does not inflate", {.lz4 = TOO_SHORT}},
    {"page 2: its LZ4 block does not inflate", {.lz4 = TOO_LONG}},
    {"page 2: its LZ4 block does not inflate", {.lz4 = EMPTY}},
    {"page 2: its LZ4 block does not inflate", {.lz4 = GARBAGE}},
    {"page 2: its size is not the one in the page index", {.lz4 = HUGE_SIZE}},
    {"do not end with six zero bytes", {.end_byte = 1}},
    {"the page index says page 3", {.entry = 2, .pgno_by = 1}},
    {"the page index says page 2 at offset", {.entry = 2, .off_by = 1}},
    {"its size is not the one", {.entry = 2, .size_by = 1}},
    {"its size is not the one", {.entry = 2, .size_by = -1}},
    {"the page index says page 4", {.entry = 3, .size_by = 1000}},
    {"the page index says page 4", {.entry = 2, .no_entry = true}},
    {"page 4: the page index ends before it", {.entry = 3, .no_entry = true}},
    {"names a page that is not there", {.index_end = "\x05\x64\x20", .index_end_n = 4}},
    {"no end mark", {.index_end = "", .index_end_n = 0}},
    {"bytes follow the end mark", {.index_end = "\0", .index_end_n = 2}},
    {"a broken number", {.index_end = "\x80", .index_end_n = 2}}, /* 0 in two bytes */
    {"a broken number", {.index_end = "\x80", .index_end_n = 1}},
    {"a broken number", {.index_end = "\x05\x64", .index_end_n = 2}},
    {"a broken number",
     {.index_end = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", .index_end_n = 11}},
    {"a broken number",
     {.index_end = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", .index_end_n = 13}},
    {"a broken number",
     {.index_end = "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", .index_end_n = 10}},
    {"page 2: its LZ4 block is larger than any", {.lz4 = OVERSIZE}},
    {"page 2: its frame is cut short", {.entry = 2, .size_is = 9}},
    {"the page index says page 2", {.entry = 2, .size_is = 6}},
    {"the page index says page 2", {.lz4 = FRAME, .entry = 2, .size_is = 5}},
    {"a page frame is cut short", {.stray = 1}},
    {"a page frame is cut short", {.stray = 5}},
    {"page 0: page number 0", {.stray = 6}},
    {"a page index of", {.no_pages = true, .index_by = 1}},
    {"a page index of", {.index_by = INT64_MIN}},
    {"a page index of", {.index_by = 10000}},
    {"a page index of", {.index_by = -12}}, /* 0: it is 12 (hostile_segments) */
    {"", {.index_by = 1}},
    {"", {.index_by = -1}},
    {"", {.behind = 1}},
    {"", {.behind = 600}},
};
enum { HOSTILE = sizeof hostile / sizeof *hostile };

static void hostile_segments(void)
{
    static const struct knobs fine[] = {{0}, {.lz4 = FRAME}, {.no_pages = true}};
    for (int i = 0; i < 3; i++) { /* the builder is right */
        struct bytes b = hand(&fine[i]);
        CU_ASSERT_EQUAL(verdict(b.at, b.n), R2_OK);
        if (i == 0) CU_ASSERT_EQUAL(r2_get64(b.at + b.n - 24), 12);
        free(b.at);
    }
    for (size_t i = 0; i < HOSTILE; i++) {
        struct bytes b = hand(&hostile[i].k);
        struct image got;
        struct r2_err e;
        enum r2_code rc = decode(b.at, b.n, &got, &e);
        bool ok = rc == R2_CORRUPT && strstr(e.text, hostile[i].say) && strstr(e.text, "offset");
        if (!ok) fprintf(stderr, "\nhostile %zu (%s): %d %s\n", i, hostile[i].say, (int)rc, e.text);
        CU_ASSERT(ok);
        image_free(&got);
        free(b.at);
    }
    struct bytes b = hand(&(struct knobs){.head_at = 7, .head_xor = 2});
    CU_ASSERT_EQUAL(verdict(b.at, b.n), R2_REFUSED);
    free(b.at);
}

/* --- tests: LZ4 frames
 * ---------------------------------------------------------------------------- */

/* A snapshot of one page of 65536 bytes, its LZ4 frame as it comes. */
static struct bytes one_frame(const uint8_t *page, const uint8_t *lz4, size_t n)
{
    uint8_t b[200] = {0};
    struct r2_buf all;
    struct r2_ltx_header h = {.page_size = 65536, .commit = 1, .min_txid = 1, .max_txid = 1};
    uint64_t sum = r2_ltx_page_checksum(1, page, 65536);
    r2_buf_init(&all, SIZE_MAX / 4);
    r2_ltx_put_header(b, &h);
    b[103] = 1;
    r2_buf_add(&all, b, 106);
    r2_buf_add(&all, lz4, n);
    uint64_t crc = r2_crc64(r2_crc64(0, b, 106), page, 65536);
    struct r2_buf index;
    r2_buf_init(&index, 100);
    hand_varint(&index, 1), hand_varint(&index, 100), hand_varint(&index, n + 6);
    r2_buf_add(&index, "", 1);
    memset(b, 0, 6);
    memcpy(b + 6, index.at, index.len);
    r2_put64(b + 6 + index.len, index.len);
    r2_put64(b + 14 + index.len, sum);
    crc = r2_crc64(crc, b, 22 + index.len) | R2_LTX_FLAG;
    r2_put64(b + 22 + index.len, crc);
    r2_buf_add(&all, b, 30 + index.len);
    r2_buf_free(&index);
    return buf_take(&all);
}

/* In pieces of `piece` bytes, each a block or more. */
static size_t frame_in_pieces(const LZ4F_preferences_t *prefs, const uint8_t *from, size_t n,
                              size_t piece, uint8_t *to, size_t room)
{
    LZ4F_cctx *c;
    need(!LZ4F_isError(LZ4F_createCompressionContext(&c, LZ4F_VERSION)), "lz4");
    size_t at = LZ4F_compressBegin(c, to, room, prefs);
    for (size_t i = 0; i < n; i += piece) {
        size_t now = n - i < piece ? n - i : piece;
        at += LZ4F_compressUpdate(c, to + at, room - at, from + i, now, NULL);
        at += LZ4F_flush(c, to + at, room - at, NULL);
    }
    size_t r = LZ4F_compressEnd(c, to + at, room - at, NULL);
    need(!LZ4F_isError(r) && at + r < room, "lz4 frame");
    LZ4F_freeCompressionContext(c);
    return at + r;
}

/* Everything that an LZ4 frame may be: also such as need several reads. */
static void lz4_frames_of_every_shape(void)
{
    enum { ROOM = 1 << 20 };
    uint8_t *page = malloc(65536 + 8), *lz4 = malloc(ROOM);
    need(page && lz4, "malloc");
    for (unsigned shape = 0; shape < 128; shape++) {
        LZ4F_preferences_t p = {
            .frameInfo = {.blockSizeID = shape & 1 ? LZ4F_max4MB : LZ4F_max64KB,
                          .blockMode = shape & 2 ? LZ4F_blockIndependent : LZ4F_blockLinked,
                          .contentChecksumFlag = shape & 4 ? 1 : 0,
                          .blockChecksumFlag = shape & 8 ? 1 : 0,
                          .contentSize = shape & 16 ? 65536 : 0}};
        fill(page, 65536, shape & 32 ? NOISE : TEXT);
        size_t n = frame_in_pieces(&p, page, 65536, shape & 64 ? 999 : 65536, lz4, ROOM);
        struct bytes b = one_frame(page, lz4, n);
        struct image i;
        struct r2_err e;
        CU_ASSERT_EQUAL(decode(b.at, b.n, &i, &e), R2_OK);
        CU_ASSERT(i.n == 1 && memcmp(i.pages, page, 65536) == 0);
        image_free(&i);
        free(b.at);
        /* A byte too much, a byte too few, bytes behind it, cut short, no data at all. */
        p.frameInfo.contentSize = 0;
        static const struct {
            size_t inflated;
            int size_by;
            const char *say;
        } wrong[] = {{65537, 0, "more than a page"},
                     {65535, 0, "less than a page"},
                     {65536, 1, "not the one in the page index"},
                     {65536, -1, "cut short"},
                     {0, 0, "less than a page"}};
        for (size_t k = 0; k < 5; k++) {
            n = frame_in_pieces(&p, page, wrong[k].inflated, shape & 64 ? 999 : 65537, lz4, ROOM);
            b = one_frame(page, lz4, (size_t)((int)n + wrong[k].size_by));
            CU_ASSERT_EQUAL(decode(b.at, b.n, &i, &e), R2_CORRUPT);
            CU_ASSERT(strstr(e.text, wrong[k].say) && strstr(e.text, "page 1"));
            image_free(&i);
            free(b.at);
        }
    }
    static const uint8_t skippable[12] = {0x50, 0x2a, 0x4d, 0x18, 4};
    struct bytes b = one_frame(page, skippable, 12);
    CU_ASSERT_EQUAL(verdict(b.at, b.n), R2_CORRUPT);
    free(b.at), free(page), free(lz4);
}

/* --- the decoder in Python -----------------------------------------------------------------------
 */

static void python_agrees(void)
{
    char name[20];
    for (unsigned k = 0; k < HOSTILE; k++) {
        struct bytes b = hand(&hostile[k].k);
        snprintf(name, sizeof name, "bad-%02u", k);
        file_write(path(name), b.at, b.n);
        free(b.at);
    }
    int status = python("bad-*");
    if (status < 0) return;
    CU_ASSERT_EQUAL(status, 1);
    /* One line for each: "NAME: offset N: what". */
    struct bytes got = file_read(path("got"));
    unsigned lines = 0, refused = 0;
    for (size_t i = 0; i < got.n; i++) {
        lines += got.at[i] == '\n';
        refused += got.n - i > 9 && memcmp(got.at + i, ": offset ", 9) == 0;
    }
    CU_ASSERT(lines == HOSTILE && refused == HOSTILE);
    free(got.at);
}

UNIT_MAIN("ltx damage", UNIT(begin), UNIT(every_truncation), UNIT(bytes_too_many),
          UNIT(every_flipped_bit), UNIT(hostile_segments), UNIT(lz4_frames_of_every_shape),
          UNIT(python_agrees), UNIT(end))
