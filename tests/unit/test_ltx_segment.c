/* test_ltx_segment.c - LTX segments: encoder against decoder, both against segments of another
 * implementation and a decoder in Python; failures of the caller's side. Damage: test_ltx_damage.c.
 */
#include "ltxkit.h"

#include <lz4.h>
#include <sqlite3.h>

#include "../../vfs/wal.h"

/* --- memory that runs out ----------------------------------------------------------------------
 */

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&       \
    !defined(SANITIZED)
#define CAN_STARVE 1
static long allocations_left = -1; /* the one after these fails; -1: none */
static bool starved;
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t a, size_t b);
void *__libc_realloc(void *p, size_t n);
static bool starve(void)
{
    if (allocations_left < 0) return false;
    if (allocations_left-- > 0) return false;
    return starved = true;
}
#define EXPORTED __attribute__((visibility("default"))) /* liblz4's too */
EXPORTED void *malloc(size_t n)
{
    return starve() ? NULL : __libc_malloc(n);
}
EXPORTED void *calloc(size_t a, size_t b)
{
    return starve() ? NULL : __libc_calloc(a, b);
}
EXPORTED void *realloc(void *p, size_t n)
{
    return starve() ? NULL : __libc_realloc(p, n);
}
#endif

/* --- tests: the ordinary ------------------------------------------------------------------------
 */

/* One page of 512 bytes AA, as the drawing in ltx.h says, byte by byte. */
static void bytes_as_drawn(void)
{
    static const uint8_t head[100] = {
        'L',  'T',  'X',  '1',  0,    0,    0,    0,    0,    0, 2, 0, 0, 0, 0, 3,
        0,    0,    0,    0,    0,    0,    0,    2,    0,    0, 0, 0, 0, 0, 0, 4,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0x11,
        0,    0,    0,    0,    0,    0,    0,    32,   0,    0, 0, 0, 0, 0, 0, 64,
        1,    2,    3,    4,    5,    6,    7,    8,    1,    2, 3, 4, 5, 6, 7, 8};
    struct image i = image_new(512, 1);
    i.h = (struct r2_ltx_header){.page_size = 512,
                                 .commit = 3,
                                 .min_txid = 2,
                                 .max_txid = 4,
                                 .timestamp_ms = -1,
                                 .pre = R2_LTX_FLAG | 0x11,
                                 .wal_offset = 32,
                                 .wal_size = 64,
                                 .salt1 = 0x01020304,
                                 .salt2 = 0x05060708,
                                 .node_id = UINT64_C(0x0102030405060708)};
    i.pgno[0] = 2;
    i.post = UINT64_C(0xa367089fecd99000);
    memset(i.pages, 0xAA, 512);
    struct bytes b = encode(&i);
    CU_ASSERT(b.n > 130 && memcmp(b.at, head, 100) == 0);
    static const uint8_t frame[6] = {0, 0, 0, 2, 0, 1};
    CU_ASSERT(memcmp(b.at + 100, frame, 6) == 0);
    uint32_t n = r2_get32(b.at + 106);
    CU_ASSERT_FATAL(n < 100 && b.n == 110 + n + 6 + 4 + 24);
    CU_ASSERT(LZ4_decompress_safe((char *)b.at + 110, (char *)page_room, (int)n, 600) == 512);
    CU_ASSERT(memcmp(page_room, i.pages, 512) == 0);
    uint8_t rest[34] = {0, 0, 0, 0, 0, 0, 2, 100, (uint8_t)(10 + n), 0, [17] = 4};
    r2_put64(rest + 18, i.post);
    CU_ASSERT(memcmp(b.at + 110 + n, rest, 26) == 0);
    uint64_t crc = r2_crc64(r2_crc64(0, b.at, 110), i.pages, 512);
    CU_ASSERT_EQUAL(r2_get64(b.at + b.n - 8), R2_LTX_FLAG | r2_crc64(crc, rest, 26));
    CU_ASSERT(round_trip(&i));
    free(b.at);
    image_free(&i);
}

static void round_trips(void)
{
    for (uint32_t size = 512; size <= 65536; size *= 2)
        for (int kind = -1; kind <= NOISE; kind++)
            for (int snapshot = 0; snapshot < 2; snapshot++)
                for (uint32_t n = 0; n < 200; n = n < 2 ? n + 1 : n * 5 + 3) {
                    if (n > 20 && size > 8192) break;
                    struct image i = image_random(size, n, kind, snapshot);
                    CU_ASSERT(round_trip(&i));
                    image_free(&i);
                }
}

static void empty_database(void)
{
    struct image i = image_new(4096, 0);
    struct out o = {0};
    struct r2_err e;
    i.post = R2_LTX_FLAG;
    CU_ASSERT(round_trip(&i));
    image_snapshot(&i);
    CU_ASSERT(round_trip(&i));
    i.post |= 1;
    CU_ASSERT_EQUAL(encode_to(&i, &o, &e), R2_REFUSED);
    r2_buf_free(&o.buf);
    image_free(&i);
}

static void exchange(void)
{
    enum { N = 40 };
    uint64_t sums[N], now;
    for (size_t i = 0; i < N; i++)
        sums[i] = rng() | R2_LTX_FLAG;
    now = r2_ltx_rolling(sums, N - 2, 4096);
    now = r2_ltx_exchange(r2_ltx_exchange(now, 0, sums[N - 2]), 0, sums[N - 1]); /* two new pages */
    CU_ASSERT_EQUAL(now, r2_ltx_rolling(sums, N, 4096));
    uint64_t old = sums[5];
    now = r2_ltx_exchange(now, old, sums[5] = rng() | R2_LTX_FLAG);
    CU_ASSERT_EQUAL(now, r2_ltx_rolling(sums, N, 4096));
    for (size_t i = N; i-- > 0;)
        now = r2_ltx_exchange(now, sums[i], 0);
    CU_ASSERT_EQUAL(now, R2_LTX_FLAG);
}

/* The pages around the lock page, alone; and a database of 1 GiB as a snapshot, every page zero. */
static void lock_page(void)
{
    for (uint32_t size = 512; size <= 65536; size *= 2) {
        uint32_t lock = r2_ltx_lock_page(size);
        struct image i = image_random(size, 3, TEXT, false);
        struct out o = {0};
        struct r2_err e;
        i.h.commit = lock + 1;
        i.pgno[0] = 1, i.pgno[1] = lock - 1, i.pgno[2] = lock + 1;
        CU_ASSERT(round_trip(&i));
        i.pgno[2] = lock;
        CU_ASSERT_EQUAL(encode_to(&i, &o, &e), R2_REFUSED);
        CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "the lock page"));
        r2_buf_free(&o.buf);
        image_free(&i);
    }
    for (uint32_t commit = 16384; commit <= 16386; commit++) {
        struct image i = image_new(65536, 0);
        struct out o = {0};
        struct r2_err e = {0};
        struct r2_ltx_writer *w;
        uint64_t sum, size, post = R2_LTX_FLAG;
        memset(page_room, 0, 65536);
        i.h.min_txid = 1, i.h.pre = 0, i.h.commit = commit;
        need(r2_ltx_begin(&w, &i.h, out_add, &o, &e) == R2_OK, e.text);
        for (uint32_t p = 1; p <= commit; p++) {
            if (p == 16385) continue;
            post = r2_ltx_exchange(post, 0, r2_ltx_page_checksum(p, page_room, 65536));
            need(r2_ltx_page(w, p, page_room) == R2_OK, e.text);
        }
        CU_ASSERT_EQUAL(r2_ltx_end(w, post, &sum, &size), R2_OK);
        r2_ltx_free(w);
        struct bytes b = buf_take(&o.buf);
        struct r2_ltx_bytes in = {b.at, b.n};
        struct r2_ltx_header h;
        uint64_t got;
        CU_ASSERT_EQUAL(r2_ltx_verify(r2_ltx_read_bytes, &in, b.n, &h, &got, &e), R2_OK);
        CU_ASSERT(got == post && h.commit == commit);
        free(b.at);
        image_free(&i);
    }
}

/* --- tests: real databases ----------------------------------------------------------------------
 */

static void run(sqlite3 *db, const char *sql)
{
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) need(false, why ? why : sql);
}
static bool intact(const char *file)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    need(sqlite3_open(file, &db) == SQLITE_OK, file);
    bool ok = sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &st, NULL) == SQLITE_OK &&
              sqlite3_step(st) == SQLITE_ROW &&
              strcmp((const char *)sqlite3_column_text(st, 0), "ok") == 0;
    sqlite3_finalize(st);
    sqlite3_close(db);
    return ok;
}
static struct image image_of_file(const struct bytes *file, uint32_t page_size)
{
    struct image i = image_new(page_size, (uint32_t)(file->n / page_size));
    memcpy(i.pages, file->at, file->n);
    image_snapshot(&i);
    return i;
}

struct log { /* pages of a -wal, the newest of each */
    struct bytes file;
    uint64_t at[1000]; /* by page number; 0: not in it */
};
static int64_t log_read(void *ctx, void *to, uint64_t n, uint64_t at)
{
    const struct bytes *b = &((struct log *)ctx)->file;
    if (at >= b->n) return 0;
    if (n > b->n - at) n = b->n - at;
    memcpy(to, b->at + at, n);
    return (int64_t)n;
}
static enum r2_code log_frame(void *ctx, uint32_t frame, uint32_t pgno, uint64_t at, uint32_t pages)
{
    (void)frame, (void)pages;
    need(pgno < 1000, "few pages");
    ((struct log *)ctx)->at[pgno] = at;
    return R2_OK;
}

/* What a -wal holds, as a segment on top of the main file. */
static struct image image_of_log(struct log *log, const struct image *base)
{
    struct r2_wal_end end;
    struct r2_err e = {0};
    uint32_t size = base->h.page_size, n = 0;
    need(r2_wal_scan(log_read, log, log_frame, log, &end, &e) == R2_OK && end.frames, "-wal");
    struct image i = image_new(size, end.pages);
    i.h.min_txid = i.h.max_txid = 2;
    i.h.pre = i.post = base->post;
    for (uint32_t p = 1; p <= end.pages || p <= base->n; p++) {
        uint64_t old = 0, fresh = 0;
        if (p <= base->n) old = r2_ltx_page_checksum(p, image_page(base, p - 1), size);
        if (p <= end.pages && log->at[p]) {
            memcpy(image_page(&i, n), log->file.at + log->at[p], size);
            fresh = r2_ltx_page_checksum(p, image_page(&i, n), size);
            i.pgno[n++] = p;
        } else if (p <= end.pages) {
            continue;
        }
        i.post = r2_ltx_exchange(i.post, old, fresh);
    }
    i.n = n;
    return i;
}
/* The base with a segment over it, written to `name`; is its checksum the segment's? */
static bool apply(const struct image *base, const struct image *seg, const char *name)
{
    struct image whole = image_new(base->h.page_size, seg->h.commit);
    uint32_t both = base->n < whole.n ? base->n : whole.n;
    memcpy(whole.pages, base->pages, (size_t)both * base->h.page_size);
    for (uint32_t k = 0; k < seg->n; k++)
        memcpy(image_page(&whole, seg->pgno[k] - 1), image_page(seg, k), base->h.page_size);
    image_snapshot(&whole);
    file_write(path(name), whole.pages, (size_t)whole.n * base->h.page_size);
    bool same = whole.post == seg->post && base->post == seg->h.pre;
    image_free(&whole);
    return same;
}

static void real_databases_and_logs(void)
{
    static const uint32_t sizes[] = {512, 1024, 4096, 65536};
    for (size_t s = 0; s < 4; s++) {
        sqlite3 *db;
        char sql[300];
        snprintf(sql, sizeof sql,
                 "PRAGMA page_size=%u; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;"
                 "CREATE TABLE t(a INTEGER PRIMARY KEY, b, c)",
                 sizes[s]);
        need(sqlite3_open(path("real.db"), &db) == SQLITE_OK, "open");
        run(db, sql);
        run(db, "WITH k(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM k WHERE i<300) INSERT INTO t "
                "SELECT i, 'row number '||i, randomblob(i%90) FROM k; "
                "PRAGMA wal_checkpoint(TRUNCATE)");
        struct bytes main_file = file_read(path("real.db"));
        struct image base = image_of_file(&main_file, sizes[s]);
        run(db, s % 2 ? "DELETE FROM t WHERE a>100; VACUUM"
                      : "INSERT INTO t SELECT a+1000,b,c FROM t WHERE a<200");
        run(db, "UPDATE t SET b='changed' WHERE a%37=0");
        struct log log = {.file = file_read(path("real.db-wal"))};
        struct image seg = image_of_log(&log, &base), back;
        struct r2_err e;
        CU_ASSERT(base.n > 1 && seg.n > 1 && round_trip(&base));
        struct bytes b = encode(&seg);
        CU_ASSERT_EQUAL_FATAL(decode(b.at, b.n, &back, &e), R2_OK);
        CU_ASSERT(image_same(&seg, &back) && apply(&base, &back, "applied.db"));
        run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        sqlite3_close(db);
        struct bytes ours = file_read(path("applied.db")), theirs = file_read(path("real.db"));
        CU_ASSERT(ours.n == theirs.n && memcmp(ours.at, theirs.at, ours.n) == 0);
        CU_ASSERT(intact(path("applied.db")));
        unlink(path("real.db")), unlink(path("applied.db"));
        free(ours.at), free(theirs.at), free(b.at), free(main_file.at), free(log.file.at);
        image_free(&base), image_free(&seg), image_free(&back);
    }
}

/* By another implementation (two of its versions), and by the first r2vfs that wrote segments. */
static void segments_of_others(void)
{
    struct bytes a = fixture("a.db"), b = fixture("b.db");
    struct image base = image_of_file(&a, 512), big = {0}, back;
    struct r2_err e;
    for (size_t f = 0; f < 12; f++) {
        struct bytes seg = fixture(fixtures[f]);
        CU_ASSERT_EQUAL_FATAL(decode(seg.at, seg.n, &back, &e), R2_OK);
        if (f < 3) {
            CU_ASSERT(back.n == a.n / 512 && memcmp(back.pages, a.at, a.n) == 0);
            CU_ASSERT(back.post == base.post && back.h.timestamp_ms == 1700000000123 &&
                      back.h.node_id == UINT64_C(0x1122334455667788));
        } else if (f < 6) {
            CU_ASSERT(apply(&base, &back, "applied.db"));
            struct bytes made = file_read(path("applied.db"));
            CU_ASSERT(made.n == b.n && memcmp(made.at, b.at, b.n) == 0 && back.n < b.n / 512);
            CU_ASSERT(intact(path("applied.db")));
            CU_ASSERT(back.h.min_txid == 2 && back.h.max_txid == 3 && back.h.wal_offset == 32 &&
                      back.h.wal_size == 4152 && back.h.salt1 == 0xdeadbeef &&
                      back.h.salt2 == 0x01020304 && back.h.node_id == 9);
            free(made.at);
        } else if (f < 9) {
            CU_ASSERT(back.n == 0 && back.h.commit == 0 && back.post == R2_LTX_FLAG);
        } else if (f == 9) {
            big = back;
            CU_ASSERT(big.n == 2 && big.h.page_size == 65536);
        } else {
            CU_ASSERT(image_same(&big, &back));
        }
        CU_ASSERT(round_trip(&back));
        if (f != 9) image_free(&back);
        free(seg.at);
    }
    free(a.at), free(b.at);
    image_free(&base), image_free(&big);
}

/* --- tests: failures of others
 * -------------------------------------------------------------------- */

static void out_fails_at_each_call(void)
{
    struct image i = image_random(512, 5, TEXT, false);
    struct out o = {0};
    struct r2_err e = {0};
    CU_ASSERT_EQUAL(encode_to(&i, &o, &e), R2_OK);
    int calls = o.calls;
    CU_ASSERT(calls > 6);
    r2_buf_free(&o.buf);
    for (int at = 1; at <= calls; at++)
        for (int say = 0; say < 2; say++) {
            struct out bad = {.fail_at = at, .say = say ? &e : NULL};
            r2_fail(&e, R2_BUSY, "from something before");
            CU_ASSERT_EQUAL(encode_to(&i, &bad, &e), say ? R2_FULL : R2_IO);
            CU_ASSERT(e.code == (say ? R2_FULL : R2_IO) && bad.calls == at);
            CU_ASSERT_PTR_NOT_NULL(strstr(e.text, say ? "the disk is full" : "at offset"));
            r2_buf_free(&bad.buf);
        }
    struct out bad = {.fail_at = 3};
    struct r2_ltx_writer *w;
    uint64_t sum, size;
    need(r2_ltx_begin(&w, &i.h, out_add, &bad, NULL) == R2_OK, "no error wanted");
    CU_ASSERT_EQUAL(r2_ltx_page(w, 1, i.pages), R2_OK);
    CU_ASSERT_EQUAL(r2_ltx_page(w, 2, i.pages), R2_IO); /* and it stays */
    CU_ASSERT_EQUAL(r2_ltx_page(w, 3, i.pages), R2_IO);
    CU_ASSERT_EQUAL(r2_ltx_end(w, R2_LTX_FLAG, &sum, &size), R2_IO);
    CU_ASSERT_EQUAL(bad.calls, 3);
    r2_ltx_free(w);
    r2_buf_free(&bad.buf);
    image_free(&i);
}

static void reader_fails_at_each_call(void)
{
    struct image i = image_random(65536, 9, NOISE, false), back;
    struct bytes seg[3] = {encode(&i), fixture("frames-2-3.ltx"), fixture("frames-65536-1.ltx")};
    for (int s = 0; s < 3; s++) {
        struct in in = {.b = {seg[s].at, seg[s].n}};
        struct r2_err e = {0};
        CU_ASSERT_EQUAL(decode_from(&in, &back, &e), R2_OK);
        image_free(&back);
        int calls = in.calls;
        CU_ASSERT(calls >= 5);
        for (int at = 1; at <= calls; at++) {
            struct in bad = {.b = in.b, .fail_at = at};
            e = (struct r2_err){0};
            CU_ASSERT_EQUAL(decode_from(&bad, &back, &e), R2_UNREACHABLE);
            CU_ASSERT(bad.calls == at && strcmp(e.text, "the line is down") == 0);
            image_free(&back);
        }
        free(seg[s].at);
    }
    image_free(&i);
}

static void memory_runs_out(void)
{
#ifdef CAN_STARVE
    struct image i = image_random(512, 200, TEXT, false), back;
    struct bytes frames = fixture("frames-1.ltx");
    for (int what = 0; what < 2; what++)
        for (long at = 0;; at++) {
            struct out o = {0};
            struct r2_err e = {0};
            struct r2_ltx_bytes in = {frames.at, frames.n};
            struct r2_ltx_header h;
            uint64_t post;
            need(at < 100, "it never ends");
            if (what == 0) {
                r2_buf_init(&o.buf, SIZE_MAX / 4);
                o.buf.at = malloc(o.buf.room = 1 << 20); /* not this one */
            }
            starved = false;
            allocations_left = at;
            enum r2_code rc = what ? r2_ltx_verify(r2_ltx_read_bytes, &in, in.size, &h, &post, &e)
                                   : encode_to(&i, &o, &e);
            allocations_left = -1;
            r2_buf_free(&o.buf);
            if (!starved) {
                CU_ASSERT(rc == R2_OK && at >= 3);
                break;
            }
            CU_ASSERT(rc == R2_NOMEM && e.code == R2_NOMEM && strstr(e.text, "memory"));
        }
    CU_ASSERT_EQUAL(decode(frames.at, frames.n, &back, &(struct r2_err){0}), R2_OK);
    image_free(&back), image_free(&i);
    free(frames.at);
#else
    printf(" [memory cannot be made to run out in this build] ");
#endif
}

/* --- tests: misuse -------------------------------------------------------------------------------
 */

static void encoder_refuses(void)
{
    static const struct r2_ltx_header good = {
        .page_size = 512, .commit = 5, .min_txid = 2, .max_txid = 2, .pre = R2_LTX_FLAG};
    struct r2_ltx_header bad[16];
    size_t n = 0;
    for (size_t i = 0; i < 16; i++)
        bad[i] = good;
    bad[n++].flags = R2_LTX_NO_CHECKSUM;
    bad[n++].flags = 1;
    bad[n++].page_size = 0;
    bad[n++].page_size = 131072;
    bad[n++].page_size = 1000;
    bad[n++].commit = UINT32_MAX;
    bad[n++].min_txid = 0;
    bad[n++].max_txid = 1;
    bad[n++].pre = 1;
    bad[n++].min_txid = 1; /* a snapshot with pre */
    bad[n++].wal_offset = -1;
    bad[n++].wal_size = -1;
    bad[n++].wal_size = 1;
    bad[n++].salt1 = 1;
    bad[n++].salt2 = 1;
    for (size_t i = 0; i < n; i++) {
        struct r2_ltx_writer *w = (void *)&bad;
        struct out o = {0};
        struct r2_err e = {0};
        CU_ASSERT_EQUAL(r2_ltx_begin(&w, &bad[i], out_add, &o, &e), R2_REFUSED);
        CU_ASSERT(!w && o.calls == 0 && e.text[0]);
    }
    static const struct {
        uint64_t min_txid, post;
        uint32_t pgno[5]; /* up to 0; the last is wrong, with post 0 */
    } pages[] = {{2, 0, {6}},
                 {2, 0, {UINT32_MAX}},
                 {2, 0, {3, 3}},
                 {2, 0, {3, 2}},
                 {1, 0, {2}},
                 {1, 0, {1, 3}},
                 {2, 1, {1}},
                 {1, R2_LTX_FLAG, {1, 2}},
                 {1, R2_LTX_FLAG, {1, 2, 3, 4, 5}}};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        struct r2_ltx_header h = good;
        struct r2_ltx_writer *w;
        struct out o = {0};
        struct r2_err e = {0};
        enum r2_code rc = R2_OK;
        uint64_t sum, size;
        h.min_txid = pages[i].min_txid;
        if (h.min_txid == 1) h.pre = 0;
        need(r2_ltx_begin(&w, &h, out_add, &o, &e) == R2_OK, e.text);
        for (int k = 0; k < 5 && pages[i].pgno[k]; k++) {
            CU_ASSERT_EQUAL(rc, R2_OK);
            rc = r2_ltx_page(w, pages[i].pgno[k], page_room);
        }
        CU_ASSERT_EQUAL(rc, pages[i].post ? R2_OK : R2_REFUSED);
        CU_ASSERT_EQUAL(r2_ltx_end(w, pages[i].post, &sum, &size), R2_REFUSED);
        CU_ASSERT_EQUAL(r2_ltx_page(w, 5, page_room), R2_REFUSED); /* it stays */
        r2_ltx_free(w);
        r2_buf_free(&o.buf);
    }
}

static void calls_out_of_order(void)
{
    struct image i = image_random(512, 2, TEXT, false);
    struct out o = {0};
    struct r2_err e = {0};
    struct r2_ltx_writer *w;
    struct r2_ltx_reader *d;
    struct r2_ltx_header h;
    uint64_t sum, size, post;
    need(r2_ltx_begin(&w, &i.h, out_add, &o, &e) == R2_OK, e.text);
    CU_ASSERT_EQUAL(r2_ltx_page(w, 0, i.pages), R2_REFUSED);
    r2_ltx_free(w); /* in the middle */
    r2_buf_free(&o.buf);
    need(r2_ltx_begin(&w, &i.h, out_add, &o, &e) == R2_OK, e.text);
    CU_ASSERT_EQUAL(r2_ltx_end(w, i.post, &sum, &size), R2_OK);
    CU_ASSERT_EQUAL(r2_ltx_end(w, i.post, &sum, &size), R2_REFUSED);
    CU_ASSERT_EQUAL(r2_ltx_page(w, 1, i.pages), R2_REFUSED);
    r2_ltx_free(w);
    r2_ltx_free(NULL);
    r2_ltx_close(NULL);
    r2_buf_free(&o.buf);

    struct bytes b = encode(&i);
    struct in in = {.b = {b.at, b.n}};
    need(r2_ltx_open(&d, in_read, &in, b.n, &h, &e) == R2_OK, e.text);
    CU_ASSERT_EQUAL(r2_ltx_finish(d, &post), R2_REFUSED); /* with the pages unread */
    r2_ltx_close(d);
    need(r2_ltx_open(&d, in_read, &in, b.n, &h, &e) == R2_OK, e.text);
    uint32_t pgno;
    bool end = false;
    while (!end)
        need(r2_ltx_next(d, &pgno, page_room, &end) == R2_OK, e.text);
    CU_ASSERT(r2_ltx_next(d, &pgno, page_room, &end) == R2_OK && end && pgno == 0);
    CU_ASSERT(r2_ltx_finish(d, &post) == R2_OK && post == i.post);
    CU_ASSERT(r2_ltx_finish(d, &post) == R2_OK && post == i.post);
    r2_ltx_close(d);
    CU_ASSERT_EQUAL(r2_ltx_open(&d, in_read, &in, UINT64_MAX, &h, &e), R2_CORRUPT);
    CU_ASSERT_PTR_NULL(d);
    uint8_t two[2];
    CU_ASSERT_EQUAL(r2_ltx_read_bytes(&in.b, b.n - 1, two, 2, &e), R2_IO);
    CU_ASSERT_EQUAL(r2_ltx_read_bytes(&in.b, UINT64_MAX, two, 2, &e), R2_IO);
    free(b.at);
    image_free(&i);
}

/* --- the decoder in Python
 * ------------------------------------------------------------------------ */

/* What tests/ltx.py must say of a segment. */
static void expect(FILE *to, const char *name, const struct image *i, const struct bytes *b)
{
    fprintf(to,
            "%s: TXID %llu..%llu commit %u page_size %u pages %u content %016llx pre %016llx "
            "post %016llx file %016llx\n",
            name, (unsigned long long)i->h.min_txid, (unsigned long long)i->h.max_txid, i->h.commit,
            i->h.page_size, i->n,
            (unsigned long long)r2_crc64(0, i->pages, (size_t)i->n * i->h.page_size),
            (unsigned long long)i->h.pre, (unsigned long long)i->post,
            (unsigned long long)r2_get64(b->at + b->n - 8));
}

static void python_agrees(void)
{
    char name[20];
    FILE *want = fopen(path("want"), "w");
    need(want != NULL, "want");
    unsigned n = 0;
    for (uint32_t size = 512; size <= 65536; size *= 2)
        for (int v = 0; v < 4; v++) { /* at last an empty database */
            struct image i = image_random(size, v == 3 ? 0 : size > 8192 ? 3 : 12, -1, v % 2);
            struct bytes b = encode(&i);
            snprintf(name, sizeof name, "good-%02u", n++);
            file_write(path(name), b.at, b.n);
            expect(want, name, &i, &b);
            free(b.at);
            image_free(&i);
        }
    fclose(want);
    int status = python("good-*");
    if (status < 0) return;
    CU_ASSERT_EQUAL(status, 0);
    struct bytes got = file_read(path("got")), wanted = file_read(path("want"));
    CU_ASSERT(got.n == wanted.n && memcmp(got.at, wanted.at, got.n) == 0);
    free(got.at), free(wanted.at);
}

UNIT_MAIN("ltx segment", UNIT(begin), UNIT(bytes_as_drawn), UNIT(round_trips), UNIT(empty_database),
          UNIT(exchange), UNIT(lock_page), UNIT(real_databases_and_logs), UNIT(segments_of_others),
          UNIT(out_fails_at_each_call), UNIT(reader_fails_at_each_call), UNIT(memory_runs_out),
          UNIT(encoder_refuses), UNIT(calls_out_of_order), UNIT(python_agrees), UNIT(end))
