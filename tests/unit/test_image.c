/* test_image.c - whole databases as images: real files of stock SQLite, real rollbacks. */
#include "localkit.h"

#include "../../vfs/image.h"
#include "../../vfs/ltx.h"
#include "../../vfs/os.h"

static struct r2_err err;

/* ---- CRC-64/GO-ISO once more, bit by bit ---- */

static uint64_t crc_bits(uint64_t crc, const uint8_t *p, size_t n)
{
    for (crc = ~crc; n; n--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ 0xD800000000000000u : crc >> 1;
    }
    return ~crc;
}

static uint64_t page_sum(uint32_t pgno, const uint8_t *page, uint32_t size)
{
    uint8_t number[4];
    r2_put32(number, pgno);
    return (uint64_t)1 << 63 | crc_bits(crc_bits(0, number, 4), page, size);
}

/* ---- helpers ---- */

/* Scan the file at path; keep its bytes when asked. */
static enum r2_code scan(const char *path, bool keep, struct r2_image *i)
{
    struct r2_local *l = NULL;
    r2_image_init(i);
    if (keep && r2_image_create(i, path, "-image", false, &err) != R2_OK) abort();
    enum r2_code rc = r2_local_open(path, 0, &l, &err);
    if (!rc) rc = r2_local_begin_read(l, &err);
    if (!rc) rc = r2_image_scan(i, l, &err);
    r2_local_close(l);
    return rc;
}

static void must_scan(const char *path, bool keep, struct r2_image *i)
{
    if (scan(path, keep, i) != R2_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
}

/* A fetched file with these bytes. */
static enum r2_code adopt(const void *bytes, size_t n, struct r2_image *i)
{
    r2_image_init(i);
    r2_err_clear(&err);
    if (r2_image_create(i, kit_path("fetched"), "-new", false, &err) != R2_OK) abort();
    if (n && pwrite(i->fd, bytes, n, 0) != (ssize_t)n) abort();
    return r2_image_adopt(i, n, &err);
}

static unsigned wrong_sums(const struct r2_image *i, const uint8_t *bytes)
{
    unsigned wrong = memcmp(i->page1, bytes, i->page_size) != 0;
    for (uint32_t p = 0; p < i->pages; p++)
        wrong += i->sums[p] != page_sum(p + 1, bytes + (size_t)p * i->page_size, i->page_size);
    return wrong;
}

/* ---- scanning and adopting ---- */

static void scan_every_page_size(void)
{
    static const uint32_t sizes[] = {512, 1024, 4096, 65536};
    kit_start();
    for (unsigned k = 0; k < 4; k++) {
        struct r2_image a, b;
        uint64_t rolling = 0;
        struct kit_version v = kit_make(1, 300, sizes[k], 0);
        kit_write_file(kit_path("s.db"), v.bytes, (size_t)v.pages * v.page_size);
        must_scan(kit_path("s.db"), true, &a);
        CU_ASSERT_TRUE(a.page_size == sizes[k] && a.pages == v.pages);
        CU_ASSERT_EQUAL(wrong_sums(&a, v.bytes), 0);
        for (uint32_t p = 0; p < a.pages; p++)
            rolling ^= a.sums[p];
        CU_ASSERT_EQUAL(r2_image_checksum(&a), rolling | (uint64_t)1 << 63);
        CU_ASSERT_EQUAL(r2_image_counter(&a), r2_get32(v.bytes + 24));
        CU_ASSERT_EQUAL(r2_image_cookie(&a), r2_get32(v.bytes + 40));
        uint8_t *back = malloc((size_t)v.pages * v.page_size);
        CU_ASSERT_EQUAL(r2_image_read(&a, 1, a.pages, back, &err), R2_OK);
        CU_ASSERT_EQUAL(memcmp(back, v.bytes, (size_t)v.pages * v.page_size), 0);
        CU_ASSERT_EQUAL(r2_image_read(&a, a.pages, 2, back, &err), R2_IO);
        CU_ASSERT_EQUAL(adopt(v.bytes, (size_t)v.pages * v.page_size, &b), R2_OK);
        CU_ASSERT_EQUAL(wrong_sums(&b, v.bytes), 0);
        CU_ASSERT_EQUAL(r2_image_checksum(&a), r2_image_checksum(&b));
        free(back);
        r2_image_free(&a);
        r2_image_free(&b);
        free(v.bytes);
    }
    kit_stop();
}

/* More than one chunk, and frames that only the -wal has. */
static void scan_a_log_that_is_not_folded_in(void)
{
    struct r2_image before, after, folded;
    kit_start();
    sqlite3 *db = kit_open(kit_path("w.db"));
    kit_fill(db, 1, 9000, 1024, 0);
    kit_must(db, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0");
    must_scan(kit_path("w.db"), true, &before);
    CU_ASSERT_TRUE((uint64_t)before.pages * 1024 > 2 << 20);
    kit_must(db, "UPDATE t SET ver=2; INSERT INTO t SELECT id+9000, 2, pad FROM t");
    must_scan(kit_path("w.db"), true, &after);
    CU_ASSERT_TRUE(after.pages > before.pages);
    CU_ASSERT_NOT_EQUAL(r2_image_checksum(&after), r2_image_checksum(&before));
    kit_must(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    sqlite3_close(db);
    size_t n;
    uint8_t *bytes = kit_read_file(kit_path("w.db"), &n);
    CU_ASSERT_EQUAL_FATAL(n, (size_t)after.pages * 1024);
    CU_ASSERT_EQUAL(wrong_sums(&after, bytes), 0);
    must_scan(kit_path("w.db"), false, &folded);
    CU_ASSERT_EQUAL(r2_image_checksum(&after), r2_image_checksum(&folded));
    /* its kept bytes are a database of their own */
    uint8_t *kept = malloc(n);
    CU_ASSERT_EQUAL(r2_image_read(&before, 1, before.pages, kept, &err), R2_OK);
    kit_write_file(kit_path("kept.db"), kept, (size_t)before.pages * 1024);
    CU_ASSERT_EQUAL(kit_which_file(kit_path("kept.db")), 1);
    free(kept);
    free(bytes);
    r2_image_free(&before);
    r2_image_free(&after);
    r2_image_free(&folded);
    kit_stop();
}

static void empty_database(void)
{
    struct r2_image i;
    uint8_t header[R2_HEADER];
    kit_start();
    kit_write_file(kit_path("e.db"), "", 0);
    must_scan(kit_path("e.db"), false, &i);
    CU_ASSERT_TRUE(i.pages == 0 && i.page1 == NULL);
    CU_ASSERT_EQUAL(r2_image_checksum(&i), R2_LTX_FLAG);
    CU_ASSERT_EQUAL(r2_image_content(&i), R2_LTX_FLAG);
    CU_ASSERT_EQUAL(r2_image_set_fields(&i, header, &err), R2_OK);
    CU_ASSERT_TRUE(r2_image_cookie(&i) == 0 && r2_image_counter(&i) == 0);
    r2_image_free(&i);
    CU_ASSERT_EQUAL(adopt("", 0, &i), R2_CORRUPT); /* but no version is empty */
    r2_image_free(&i);
    kit_stop();
}

static bool refused(const void *bytes, size_t n, const char *says)
{
    struct r2_image i;
    bool yes = adopt(bytes, n, &i) == R2_CORRUPT && strstr(err.text, says);
    if (!yes)
        fprintf(stderr, "%zu bytes: code %d, \"%s\" does not say \"%s\"\n", n, err.code, err.text,
                says);
    r2_image_free(&i);
    return yes;
}

static void what_is_no_database(void)
{
    static const char page[600] = "<!DOCTYPE html>\n<html>404\x01 \xff";
    kit_start();
    CU_ASSERT_TRUE(refused(page, sizeof page, "<!DOCTYPE html>.<html>404. .")); /* printable */
    CU_ASSERT_TRUE(refused("<?xml version", 13, "\"<?xml version\""));
    CU_ASSERT_TRUE(refused("x", 1, "\"x\""));
    struct kit_version v = kit_make(1, 100, 4096, 0);
    size_t n = (size_t)v.pages * 4096;
    uint8_t *b = malloc(n + 1);
    memcpy(b, v.bytes, n);
    b[n] = 0;
    CU_ASSERT_TRUE(refused(b, n - 1, "whole pages of 4096"));
    CU_ASSERT_TRUE(refused(b, n + 1, "whole pages of 4096"));
    CU_ASSERT_TRUE(refused(b, 511, "not a SQLite database"));
    CU_ASSERT_TRUE(refused(b, 4095, "whole pages"));
    static const uint16_t sizes[] = {0, 2, 256, 511, 513, 1536, 4097, 65535};
    for (unsigned k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        b[16] = (uint8_t)(sizes[k] >> 8), b[17] = (uint8_t)sizes[k];
        CU_ASSERT_TRUE(refused(b, n, "page size"));
    }
    b[16] = 0, b[17] = 1; /* 65,536: this file has no whole one */
    CU_ASSERT_TRUE(refused(b, n / 65536 * 65536 + 4096, "whole pages of 65536"));
    memcpy(b, v.bytes, n);
    b[15] = 'x';
    CU_ASSERT_TRUE(refused(b, n, "not a SQLite database"));
    memset(b, 0, n);
    CU_ASSERT_TRUE(refused(b, n, "not a SQLite database"));
    free(b);
    free(v.bytes);
    kit_stop();
}

/* Cut at a page boundary: the header, when it is valid, knows better. */
static void whole_pages_missing(void)
{
    struct r2_image i;
    kit_start();
    struct kit_version v = kit_make(1, 300, 4096, 0);
    size_t n = (size_t)v.pages * 4096;
    CU_ASSERT_TRUE(refused(v.bytes, n - 4096, "pages"));
    CU_ASSERT_TRUE(refused(v.bytes, 4096, "pages"));
    /* written by a SQLite that did not keep that field: nothing is known */
    r2_put32(v.bytes + 92, r2_get32(v.bytes + 24) - 1);
    CU_ASSERT_EQUAL(adopt(v.bytes, n - 4096, &i), R2_OK);
    r2_image_free(&i);
    free(v.bytes);
    kit_stop();
}

/* ---- the four local fields ---- */

static bool local_byte(size_t at)
{
    return at == 18 || at == 19 || (at >= 24 && at < 32) || (at >= 40 && at < 44) ||
           (at >= 92 && at < 96);
}

static void exactly_the_local_fields(void)
{
    struct r2_image i;
    uint8_t header[R2_HEADER];
    kit_start();
    struct kit_version v = kit_make(1, 200, 1024, 0);
    size_t n = (size_t)v.pages * 1024;
    for (int with = 0; with < 2; with++) { /* every bit both ways */
        CU_ASSERT_EQUAL(adopt(v.bytes, n, &i), R2_OK);
        for (size_t k = 0; k < R2_HEADER; k++)
            header[k] = (uint8_t)~v.bytes[k];
        uint64_t whole = r2_image_checksum(&i), as = r2_image_page1_as(&i, header);
        CU_ASSERT_EQUAL(wrong_sums(&i, v.bytes), 0); /* asking changes nothing */
        CU_ASSERT_EQUAL(r2_image_set_fields(&i, header, &err), R2_OK);
        uint8_t *now = malloc(n);
        CU_ASSERT_EQUAL(r2_image_read(&i, 1, i.pages, now, &err), R2_OK);
        unsigned wrong = 0;
        for (size_t k = 0; k < n; k++)
            wrong += now[k] != (local_byte(k) ? (uint8_t)~v.bytes[k] : v.bytes[k]);
        CU_ASSERT_EQUAL(wrong, 0);
        CU_ASSERT_EQUAL(wrong_sums(&i, now), 0);
        CU_ASSERT_EQUAL(i.sums[0], as);
        CU_ASSERT_NOT_EQUAL(r2_image_checksum(&i), whole);
        CU_ASSERT_EQUAL(r2_image_set_fields(&i, v.bytes, &err), R2_OK); /* and back */
        CU_ASSERT_EQUAL(r2_image_checksum(&i), whole);
        memcpy(v.bytes, now, R2_HEADER);
        v.bytes[95] ^= 1; /* or its size field would count */
        free(now);
        r2_image_free(&i);
    }
    free(v.bytes);
    kit_stop();
}

/* A header's local fields do not count for the content, every other byte does. */
static void content_whatever_the_version(void)
{
    struct r2_image i;
    kit_start();
    struct kit_version v = kit_make(1, 100, 512, 0);
    size_t n = (size_t)v.pages * 512;
    CU_ASSERT_EQUAL(adopt(v.bytes, n, &i), R2_OK);
    uint64_t content = r2_image_content(&i), whole = r2_image_checksum(&i);
    CU_ASSERT_NOT_EQUAL(content, whole);
    r2_image_free(&i);
    unsigned wrong = 0;
    for (size_t at = 0; at < n; at += at < 512 ? 1 : 97) {
        if (at < 18 || at == 28 || at == 29 || at == 30 || at == 31)
            continue; /* size: also below */
        v.bytes[at] ^= 0x10;
        if (adopt(v.bytes, n, &i) != R2_OK) abort();
        wrong += (r2_image_content(&i) == content) != local_byte(at);
        wrong += r2_image_checksum(&i) == whole;
        r2_image_free(&i);
        v.bytes[at] ^= 0x10;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    free(v.bytes);
    kit_stop();
}

static void next_header(void)
{
    struct r2_image i;
    struct r2_version base = {.version = 7, .pages = 3, .page_size = 4096, .local_cookie = 0};
    uint8_t h[R2_HEADER];
    kit_start();
    struct kit_version v = kit_make(1, 100, 4096, 0);
    CU_ASSERT_EQUAL(adopt(v.bytes, (size_t)v.pages * 4096, &i), R2_OK);
    for (int birth = 0; birth < 2; birth++) { /* nothing to continue: as it is, but the number */
        struct r2_version none = {.version = 0};
        r2_image_next_header(&i, birth ? NULL : &none, 0x100000002, h);
        CU_ASSERT_TRUE(r2_get32(h + 24) == 2 && r2_get32(h + 92) == 2);
        CU_ASSERT_EQUAL(r2_get32(h + 28), v.pages);
        CU_ASSERT_EQUAL(memcmp(h + 40, v.bytes + 40, 4), 0);
        CU_ASSERT_EQUAL(memcmp(h, v.bytes, 24), 0);
        CU_ASSERT_EQUAL(memcmp(h + 32, v.bytes + 32, 60), 0);
    }
    base.header[18] = base.header[19] = 2; /* born in WAL mode */
    r2_put32(base.header + 40, 1000);
    base.local_cookie = r2_image_cookie(&i);
    r2_image_next_header(&i, &base, 8, h);
    CU_ASSERT_TRUE(h[18] == 2 && h[19] == 2);
    CU_ASSERT_EQUAL(r2_get32(h + 40), 1000); /* the schema is base's */
    base.local_cookie--;
    r2_image_next_header(&i, &base, 8, h);
    CU_ASSERT_EQUAL(r2_get32(h + 40), 1001); /* one more, whatever the local one */
    base.pages = 0;                          /* an empty version has no header to continue */
    r2_image_next_header(&i, &base, 8, h);
    CU_ASSERT_EQUAL(h[18], v.bytes[18]);
    r2_image_free(&i);
    free(v.bytes);
    kit_stop();
}

/* ---- comparing with a version ---- */

static struct r2_state *state;

static struct r2_version remember(const struct r2_image *i, uint8_t area)
{
    struct r2_version v = {.version = 3, .page_size = i->page_size, .pages = i->pages};
    if (!state && r2_state_open(kit_path("c.db"), &state, &err) != R2_OK) abort();
    if (i->pages) memcpy(v.header, i->page1, R2_HEADER);
    if (r2_state_write_sums(state, area, 1, i->pages, i->sums, &err) != R2_OK) abort();
    return v;
}

static void forget(void)
{
    r2_state_close(state);
    state = NULL;
}

static void compare_pages(void)
{
    struct r2_image a, b;
    struct r2_diff d;
    kit_start();
    struct kit_version v = kit_make(1, 3000, 512, 0);
    size_t n = (size_t)v.pages * 512;
    CU_ASSERT_TRUE(v.pages > 1024);
    CU_ASSERT_EQUAL(adopt(v.bytes, n, &a), R2_OK);
    for (uint8_t area = 0; area < 2; area++) {
        static const uint32_t changed[] = {1, 2, 512, 513, 514, 1024, 1025, 1100};
        struct r2_version base = remember(&a, area);
        CU_ASSERT_EQUAL(r2_image_compare(&a, &base, state, area, &d, &err), R2_OK);
        CU_ASSERT_TRUE(d.pages == 0 && !d.shape);
        r2_diff_free(&d);
        for (size_t k = 0; k < sizeof changed / sizeof *changed; k++) {
            uint32_t p = changed[k] < v.pages ? changed[k] : v.pages;
            v.bytes[(size_t)p * 512 - 1] ^= 1;
            CU_ASSERT_EQUAL(adopt(v.bytes, n, &b), R2_OK);
            CU_ASSERT_EQUAL(r2_image_compare(&b, &base, state, area, &d, &err), R2_OK);
            unsigned wrong = 0;
            for (uint32_t q = 1; q <= v.pages; q++)
                wrong += r2_map_has(d.map, q) != (q == p);
            CU_ASSERT_TRUE(d.pages == 1 && wrong == 0 && !d.shape);
            r2_diff_free(&d);
            r2_image_free(&b);
            v.bytes[(size_t)p * 512 - 1] ^= 1;
        }
        /* local fields are no difference */
        CU_ASSERT_EQUAL(adopt(v.bytes, n, &b), R2_OK);
        uint8_t other[R2_HEADER];
        memset(other, 0x77, sizeof other);
        CU_ASSERT_EQUAL(r2_image_set_fields(&b, other, &err), R2_OK);
        CU_ASSERT_EQUAL(r2_image_compare(&b, &base, state, area, &d, &err), R2_OK);
        CU_ASSERT_EQUAL(d.pages, 0);
        r2_diff_free(&d);
        r2_image_free(&b);
        memset(base.header, 0, sizeof base.header); /* each area is asked by itself */
        base.header[16] = 2;
        forget();
    }
    r2_image_free(&a);
    free(v.bytes);
    kit_stop();
}

static void compare_shapes(void)
{
    struct r2_image a, b;
    struct r2_diff d;
    kit_start();
    struct kit_version v = kit_make(1, 3000, 512, 0);
    size_t n = (size_t)v.pages * 512;
    r2_put32(v.bytes + 92, r2_get32(v.bytes + 24) - 1); /* its size field does not count */
    CU_ASSERT_EQUAL(adopt(v.bytes, n, &a), R2_OK);
    struct r2_version base = remember(&a, 0);
    CU_ASSERT_EQUAL(adopt(v.bytes, n - 700 * 512, &b), R2_OK); /* shorter */
    CU_ASSERT_EQUAL(r2_image_compare(&b, &base, state, 0, &d, &err), R2_OK);
    CU_ASSERT_TRUE(d.shape && d.pages == 700);
    r2_diff_free(&d);
    struct r2_version little = remember(&b, 1); /* longer */
    CU_ASSERT_EQUAL(r2_image_compare(&a, &little, state, 1, &d, &err), R2_OK);
    CU_ASSERT_TRUE(d.shape && d.pages == 700);
    CU_ASSERT_TRUE(r2_map_has(d.map, v.pages) && r2_map_has(d.map, v.pages - 699));
    CU_ASSERT_FALSE(r2_map_has(d.map, v.pages - 700));
    r2_diff_free(&d);
    r2_image_free(&b);
    base.page_size = 1024; /* another page size: all of it */
    CU_ASSERT_EQUAL(r2_image_compare(&a, &base, state, 0, &d, &err), R2_OK);
    CU_ASSERT_TRUE(d.shape && d.pages == v.pages);
    r2_diff_free(&d);
    kit_write_file(kit_path("e.db"), "", 0);
    must_scan(kit_path("e.db"), false, &b); /* nothing against something, and the reverse */
    CU_ASSERT_EQUAL(r2_image_compare(&b, &base, state, 0, &d, &err), R2_OK);
    CU_ASSERT_TRUE(d.shape && d.pages == v.pages);
    r2_diff_free(&d);
    struct r2_version none = {.version = 1};
    CU_ASSERT_EQUAL(r2_image_compare(&a, &none, state, 0, &d, &err), R2_OK);
    CU_ASSERT_TRUE(d.shape && d.pages == v.pages);
    r2_diff_free(&d);
    CU_ASSERT_EQUAL(r2_image_compare(&b, &none, state, 0, &d, &err), R2_OK);
    CU_ASSERT_TRUE(!d.shape && d.pages == 0);
    r2_diff_free(&d);
    r2_image_free(&b);
    r2_image_free(&a);
    forget();
    free(v.bytes);
    kit_stop();
}

/* ---- loose pages ---- */

/* Compare the file with what was remembered: how many pages differ, and are they all loose? */
static uint32_t differing(const char *path, const struct r2_version *base, bool *loose)
{
    struct r2_local *l = NULL;
    struct r2_image i;
    struct r2_diff d;
    r2_image_init(&i);
    enum r2_code rc = r2_local_open(path, 0, &l, &err);
    if (!rc) rc = r2_local_begin_read(l, &err);
    if (!rc) rc = r2_image_scan(&i, l, &err);
    if (!rc) rc = r2_image_compare(&i, base, state, 0, &d, &err);
    if (!rc) rc = r2_image_only_loose(&i, &d, l, loose, &err);
    if (rc) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    uint32_t pages = d.pages;
    r2_diff_free(&d);
    r2_image_free(&i);
    r2_local_close(l);
    return pages;
}

/* A database with some hundred free pages, remembered as the base. */
static sqlite3 *with_free_pages(const char *path, struct r2_version *base)
{
    struct r2_image i;
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 3000, 1024, 0);
    kit_must(db, "CREATE TABLE u(x); INSERT INTO u VALUES (1); PRAGMA secure_delete=0;"
                 "DELETE FROM t WHERE id > 1500");
    CU_ASSERT_TRUE(kit_int(db, "PRAGMA freelist_count") > 300);
    must_scan(path, false, &i);
    *base = remember(&i, 0);
    r2_image_free(&i);
    return db;
}

static void a_rollback_leaves_loose_pages(void)
{
    struct r2_version base;
    bool loose = false;
    kit_start();
    const char *path = kit_path("l.db");
    sqlite3 *db = with_free_pages(path, &base);
    CU_ASSERT_EQUAL(differing(path, &base, &loose), 0);
    CU_ASSERT_TRUE(loose);
    /* the cache spills into free pages, which no journal restores */
    kit_must(db, "PRAGMA cache_size=10; BEGIN");
    kit_must(db, "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<150)"
                 "INSERT INTO u SELECT randomblob(900) FROM c");
    kit_must(db, "ROLLBACK");
    CU_ASSERT_TRUE(kit_text_is(db, "PRAGMA integrity_check", "ok"));
    uint32_t n = differing(path, &base, &loose);
    CU_ASSERT_TRUE(n > 20);
    CU_ASSERT_TRUE(loose);
    /* a commit on top, however small, is one */
    kit_must(db, "UPDATE u SET x=2");
    CU_ASSERT_EQUAL(differing(path, &base, &loose), n + 1);
    CU_ASSERT_FALSE(loose);
    kit_must(db, "UPDATE u SET x=1"); /* the content again */
    CU_ASSERT_EQUAL(differing(path, &base, &loose), n);
    CU_ASSERT_TRUE(loose);
    kit_must(db, "INSERT INTO u VALUES(zeroblob(3000))"); /* takes pages off the list */
    differing(path, &base, &loose);
    CU_ASSERT_FALSE(loose);
    sqlite3_close(db);
    forget();
    kit_stop();
}

static void growing_is_not_loose(void)
{
    struct r2_version base;
    bool loose = true;
    kit_start();
    sqlite3 *db = with_free_pages(kit_path("g.db"), &base);
    kit_must(db, "INSERT INTO u VALUES(zeroblob(900000))");
    CU_ASSERT_TRUE(differing(kit_path("g.db"), &base, &loose) > 300);
    CU_ASSERT_FALSE(loose);
    sqlite3_close(db);
    forget();
    kit_stop();
}

/* Free lists that lie, in base and file alike: an answer comes, and no page outside is touched. */
static void hostile_free_lists(void)
{
    struct r2_version base;
    bool loose;
    kit_start();
    const char *path = kit_path("h.db");
    sqlite3 *db = with_free_pages(path, &base);
    sqlite3_close(db);
    size_t n;
    uint8_t *good = kit_read_file(path, &n), *bytes = malloc(n);
    uint32_t trunk = r2_get32(good + 32), pages = (uint32_t)(n / 1024);
    uint32_t leaf = r2_get32(good + (size_t)(trunk - 1) * 1024 + 8);
    for (int kind = 0; kind < 8; kind++) {
        memcpy(bytes, good, n);
        uint8_t *t = bytes + (size_t)(trunk - 1) * 1024;
        if (kind == 1) r2_put32(bytes + 36, UINT32_MAX), r2_put32(t, trunk), r2_put32(t + 4, 0);
        if (kind == 2) r2_put32(bytes + 32, pages + 1);
        if (kind == 3) r2_put32(bytes + 32, UINT32_MAX);
        if (kind == 4) r2_put32(t + 4, UINT32_MAX);
        if (kind == 5) r2_put32(t + 4, 1024 / 4 - 1); /* one more than fits */
        if (kind == 6) r2_put32(t + 4, 2), r2_put32(t + 8, 0), r2_put32(t + 12, UINT32_MAX);
        if (kind == 7) r2_put32(bytes + 36, UINT32_MAX), r2_put32(t, UINT32_MAX);
        struct r2_image i;
        if (adopt(bytes, n, &i) != R2_OK) abort();
        base = remember(&i, 0);
        r2_image_free(&i);
        bytes[(size_t)(leaf - 1) * 1024 + 700] ^= 1;
        if (kind >= 6) bytes[(size_t)pages * 1024 - 1] ^= 1; /* and a page that is no leaf */
        kit_write_file(path, bytes, n);
        loose = kind != 0;
        CU_ASSERT_EQUAL(differing(path, &base, &loose), kind >= 6 ? 2 : 1);
        CU_ASSERT_EQUAL(loose, kind == 0);
    }
    free(good);
    free(bytes);
    forget();
    kit_stop();
}

/* ---- files of an image ---- */

static void files_beside_the_database(void)
{
    struct r2_image i;
    kit_start();
    r2_image_init(&i);
    CU_ASSERT_EQUAL(r2_image_create(&i, kit_path("f.db"), "-r2-new", true, &err), R2_OK);
    CU_ASSERT_EQUAL(access(kit_path("f.db-r2-new"), F_OK), 0);
    r2_image_free(&i);
    CU_ASSERT_NOT_EQUAL(access(kit_path("f.db-r2-new"), F_OK), 0);
    CU_ASSERT_EQUAL(r2_image_create(&i, kit_path("f.db"), "-r2-new", false, &err), R2_OK);
    CU_ASSERT_NOT_EQUAL(access(kit_path("f.db-r2-new"), F_OK), 0);
    CU_ASSERT_EQUAL(i.path[0], 0);
    r2_image_free(&i);
    /* a name that a killed process left linked to the database is never written through */
    kit_write_file(kit_path("f.db"), "precious", 8);
    if (link(kit_path("f.db"), kit_path("f.db-r2-new")) != 0) abort();
    CU_ASSERT_EQUAL(r2_image_create(&i, kit_path("f.db"), "-r2-new", true, &err), R2_OK);
    CU_ASSERT_EQUAL(pwrite(i.fd, "XXXXXXXX", 8, 0), 8);
    r2_image_free(&i);
    size_t n;
    uint8_t *b = kit_read_file(kit_path("f.db"), &n);
    CU_ASSERT_TRUE(n == 8 && memcmp(b, "precious", 8) == 0);
    free(b);
    /* a folder that is not there */
    CU_ASSERT_NOT_EQUAL(r2_image_create(&i, kit_path("no/f.db"), "-r2-new", true, &err), R2_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "no/f.db-r2-new"));
    r2_image_free(&i);
    kit_stop();
}

/* CRCs are linear: the checksums of pages 4 to 7 with equal bytes cancel out in a xor. */
static void pages_that_repeat(void)
{
    static uint8_t page[512], page1[512];
    uint64_t sums[7];
    for (uint32_t k = 0; k < 7; k++)
        sums[k] = r2_ltx_page_checksum(k + 1, page, sizeof page);
    struct r2_image three = {.fd = -1, .page_size = 512, .pages = 3, .sums = sums, .page1 = page1};
    struct r2_image seven = three;
    seven.pages = 7;
    CU_ASSERT_EQUAL(r2_image_checksum(&three), r2_image_checksum(&seven)); /* the trap */
    CU_ASSERT_NOT_EQUAL(r2_image_content(&three), r2_image_content(&seven));
}

UNIT_MAIN("image", UNIT(pages_that_repeat), UNIT(scan_every_page_size),
          UNIT(scan_a_log_that_is_not_folded_in), UNIT(empty_database), UNIT(what_is_no_database),
          UNIT(whole_pages_missing), UNIT(exactly_the_local_fields),
          UNIT(content_whatever_the_version), UNIT(next_header), UNIT(compare_pages),
          UNIT(compare_shapes), UNIT(a_rollback_leaves_loose_pages), UNIT(growing_is_not_loose),
          UNIT(hostile_free_lists), UNIT(files_beside_the_database))
