/* test_changes.c - what differs from the base is found by marks and checksums, whatever the shapes:
 * the patch holds each page that differs, and the checksum told is that of the whole database. */
#include "unit.h"

#include "../../vfs/buf.h"
#include "../../vfs/changes.h"
#include "../../vfs/ltx.h"
#include "../../vfs/os.h"

enum { MOST = 70000 };

static char dir[256], path[300];
static struct r2_err err;
static struct r2_state *state;
static uint64_t seed = 1;

static uint32_t below(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/r2changesXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) abort();
    snprintf(path, sizeof path, "%s/app.db", dir);
    if (r2_state_open(path, &state, &err) != R2_OK) abort();
}

static void end(void)
{
    char cmd[300];
    r2_state_close(state);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    if (system(cmd) != 0) abort();
}

/* ---- a database without bytes: each page's content follows from its tag ---- */

struct world {
    uint32_t page_size, pages, reads;
    uint32_t tag[MOST + 1];
};
static struct world was, is;

static void fill(const struct world *w, uint32_t pgno, uint8_t *page)
{
    memset(page, 0, w->page_size);
    r2_put32(page + w->page_size - 4, w->tag[pgno]);
    if (pgno > 1) return;
    memcpy(page, "SQLite format 3", 16);
    page[16] = (uint8_t)(w->page_size >> 8);
    page[17] = (uint8_t)(w->page_size >> 16);
    r2_put32(page + 28, w->pages);
}

static enum r2_code shape(void *ctx, uint32_t *page_size, uint32_t *pages, struct r2_err *e)
{
    const struct world *w = ctx;
    (void)e;
    *page_size = w->page_size;
    *pages = w->pages;
    return R2_OK;
}

static enum r2_code read_pages(void *ctx, uint32_t first, uint32_t count, uint8_t *to,
                               struct r2_err *e)
{
    struct world *w = ctx;
    if (first < 1 || first + count - 1 > w->pages) return r2_fail(e, R2_IO, "not there");
    for (uint32_t k = 0; k < count; k++)
        fill(w, first + k, to + (size_t)k * w->page_size);
    w->reads += count;
    return R2_OK;
}

/* The version that the world is, and its checksums in area 0. */
static struct r2_version version_of(struct world *w, uint64_t number)
{
    struct r2_version v = {.version = number, .page_size = w->page_size, .pages = w->pages};
    uint64_t *sums = calloc(w->pages, sizeof *sums);
    uint8_t *page = malloc(w->page_size);
    if (!sums || !page) abort();
    for (uint32_t n = 1; n <= w->pages; n++) {
        if (n == r2_ltx_lock_page(w->page_size)) continue;
        fill(w, n, page);
        if (n == 1) {
            r2_put32(page + 24, (uint32_t)number);
            r2_put32(page + 92, (uint32_t)number);
            memcpy(v.header, page, R2_HEADER);
        }
        sums[n - 1] = r2_ltx_page_checksum(n, page, w->page_size);
    }
    v.checksum = r2_ltx_rolling(sums, w->pages, w->page_size);
    if (r2_state_write_sums(state, 0, 1, w->pages, sums, &err)) abort();
    free(sums);
    free(page);
    return v;
}

static uint64_t checksum_of(struct world *w, const uint8_t header[R2_HEADER])
{
    uint64_t sum = R2_LTX_FLAG;
    uint8_t *page = malloc(w->page_size);
    if (!page) abort();
    for (uint32_t n = 1; n <= w->pages; n++) {
        if (n == r2_ltx_lock_page(w->page_size)) continue;
        fill(w, n, page);
        if (n == 1) memcpy(page, header, R2_HEADER);
        sum = R2_LTX_FLAG | (sum ^ r2_ltx_page_checksum(n, page, w->page_size));
    }
    free(page);
    return sum;
}

struct marks {
    struct r2_dirty d;
    uint32_t room;
};

static struct marks no_marks(bool complete)
{
    struct marks m = {
        .d = {.complete = complete, .pages = (MOST / 64 + 1) * 64, .lowest = UINT32_MAX}};
    m.d.map = calloc(m.d.pages / 64, 8);
    if (!m.d.map) abort();
    return m;
}

static void mark(struct marks *m, uint32_t pgno)
{
    m->d.map[(pgno - 1) / 64] |= (uint64_t)1 << (pgno - 1) % 64;
}

/* Find them, and look at everything that is told. Returns what differs. */
static uint32_t find(const struct r2_version *base, const struct marks *m)
{
    struct r2_changes c;
    struct r2_source from = {.shape = shape, .read = read_pages, .ctx = &is};
    uint32_t differ = 0, missing = 0, too_many = 0;
    uint64_t checksum;
    bool same_size = was.page_size == is.page_size;
    is.reads = 0;
    CU_ASSERT_EQUAL(r2_changes_find(&c, &from, base, state, 0, &m->d, path, &err), R2_OK);
    for (uint32_t n = 1; n <= is.pages; n++) {
        bool differs = n != r2_ltx_lock_page(is.page_size) &&
                       (!same_size || n > was.pages || was.tag[n] != is.tag[n]);
        bool there = r2_patch_find(&c.patch, n) >= 0;
        differ += differs;
        missing += (differs || n == 1) && !there;
        too_many += there && !differs && n != 1;
    }
    CU_ASSERT(missing == 0 && too_many == 0);
    CU_ASSERT_EQUAL(c.reshaped, was.pages != is.pages || !same_size);
    CU_ASSERT_EQUAL(c.changed == 0 && !c.reshaped, differ == 0 && was.pages == is.pages);
    uint8_t header[R2_HEADER];
    memcpy(header, c.page1, R2_HEADER);
    r2_put32(header + 24, (uint32_t)base->version + 1);
    r2_put32(header + 92, (uint32_t)base->version + 1);
    CU_ASSERT_EQUAL(r2_changes_become(&c, header, &checksum, &err), R2_OK);
    CU_ASSERT_EQUAL(checksum, checksum_of(&is, header));
    r2_changes_free(&c);
    return differ;
}

static void born(uint32_t page_size, uint32_t pages)
{
    memset(&was, 0, sizeof was);
    was.page_size = page_size;
    was.pages = pages;
    for (uint32_t n = 1; n <= pages; n++)
        was.tag[n] = 1 + below(1000000);
    is = was;
}

static void nothing_changed(void)
{
    begin();
    born(4096, 60000);
    struct r2_version base = version_of(&was, 7);
    struct marks m = no_marks(true);
    CU_ASSERT_EQUAL(find(&base, &m), 0);
    CU_ASSERT_EQUAL(is.reads, 1); /* page 1, and nothing else */
    mark(&m, 59999);
    CU_ASSERT_EQUAL(find(&base, &m), 0);
    CU_ASSERT_EQUAL(is.reads, 2);
    m.d.complete = false;
    CU_ASSERT_EQUAL(find(&base, &m), 0);
    CU_ASSERT_EQUAL(is.reads, 60000);
    free(m.d.map);
    end();
}

/* Any change, marked among marks that mean nothing. */
static void any_change(void)
{
    begin();
    for (unsigned round = 0; round < 300; round++) {
        static const uint32_t shapes[] = {1, 2, 63, 64, 65, 127, 128, 129, 511, 513, 4097, 16385};
        born(512, shapes[below(12)] + below(2));
        struct r2_version base = version_of(&was, round + 1);
        struct marks m = no_marks(below(8) != 0);
        uint32_t before = is.pages;
        if (below(3) == 0) { /* it shrank, and may have grown again */
            is.pages = 1 + below(before);
            m.d.lowest = is.pages;
            if (below(2)) is.pages += below(700);
            for (uint32_t n = m.d.lowest + 1; n <= is.pages; n++)
                is.tag[n] = below(2) ? was.tag[n] : 1 + below(1000000);
        } else if (below(2)) {
            is.pages += below(300);
            for (uint32_t n = before + 1; n <= is.pages; n++)
                is.tag[n] = 1 + below(1000000);
        }
        for (uint32_t k = below(20); k-- > 0;) {
            uint32_t n = 1 + below(is.pages);
            is.tag[n]++;
            if (n <= before) mark(&m, n);
        }
        for (uint32_t k = below(20); k-- > 0;)
            mark(&m, 1 + below(MOST));
        find(&base, &m);
        free(m.d.map);
    }
    end();
}

static void another_page_size(void)
{
    begin();
    static const uint32_t sizes[][2] = {{512, 4096}, {4096, 512}, {65536, 1024}, {1024, 65536}};
    for (unsigned k = 0; k < 4; k++) {
        born(sizes[k][0], 200);
        struct r2_version base = version_of(&was, 3);
        struct marks m = no_marks(true);
        is.page_size = sizes[k][1];
        is.pages = k % 2 ? 17 : 900;
        CU_ASSERT_EQUAL(find(&base, &m), is.pages);
        free(m.d.map);
    }
    end();
}

/* The page at 1 GiB belongs to the locks: it is in no version and no checksum. */
static void around_the_lock_page(void)
{
    begin();
    uint32_t lock = r2_ltx_lock_page(65536);
    for (int d = -2; d <= 2; d++) {
        for (int to = -2; to <= 2; to++) {
            born(65536, (uint32_t)((int)lock + d));
            struct r2_version base = version_of(&was, 5);
            struct marks m = no_marks(true);
            is.pages = (uint32_t)((int)lock + to);
            m.d.lowest = is.pages;
            for (uint32_t n = lock - 1; n <= is.pages; n++) {
                is.tag[n] = 77;
                mark(&m, n);
            }
            find(&base, &m);
            free(m.d.map);
        }
    }
    end();
}

/* Leaves of the free list that differ are no change; anything else is. */
static void loose_pages(void)
{
    begin();
    born(512, 300);
    struct r2_version base = version_of(&was, 5);
    struct marks m = no_marks(true);
    struct r2_source from = {.shape = shape, .read = read_pages, .ctx = &is};
    struct r2_changes c;
    struct r2_diff loose;
    bool yes;
    is.tag[200]++;
    mark(&m, 200);
    CU_ASSERT_EQUAL(r2_changes_find(&c, &from, &base, state, 0, &m.d, path, &err), R2_OK);
    CU_ASSERT_EQUAL(r2_changes_only_loose(&c, &from, &loose, &yes, &err), R2_OK);
    CU_ASSERT_FALSE(yes); /* there is no free list */
    CU_ASSERT_EQUAL(c.changed, 1);
    r2_diff_free(&loose);
    r2_changes_free(&c);
    is.tag[200]--;
    CU_ASSERT_EQUAL(r2_changes_find(&c, &from, &base, state, 0, &m.d, path, &err), R2_OK);
    CU_ASSERT_EQUAL(r2_changes_only_loose(&c, &from, &loose, &yes, &err), R2_OK);
    CU_ASSERT_TRUE(yes);
    r2_diff_free(&loose);
    r2_changes_free(&c);
    free(m.d.map);
    end();
}

UNIT_MAIN("changes", UNIT(nothing_changed), UNIT(any_change), UNIT(another_page_size),
          UNIT(around_the_lock_page), UNIT(loose_pages))
