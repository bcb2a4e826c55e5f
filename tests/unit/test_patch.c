/* test_patch.c - a set of changed pages against the plainest thing that can do the same: an array.
 */
#include "unit.h"

#include "../../vfs/buf.h"
#include "../../vfs/ltx.h"
#include "../../vfs/os.h"
#include "../../vfs/patch.h"

enum { MOST = 3000 };

static char db[256];
static struct r2_err err;
static uint64_t seed = 1;

static uint32_t below(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(db, sizeof db, "%s/r2patch-%ld.db", tmp && *tmp ? tmp : "/tmp", (long)getpid());
}

/* ---- the array ---- */

static struct {
    uint32_t page_size, pages;
    uint32_t tag[MOST + 1]; /* what the page holds; 0: not in the set */
} model;

static void fill(uint8_t *page, uint32_t page_size, uint32_t tag)
{
    memset(page, (int)(tag & 0xff), page_size);
    r2_put32(page, tag);
    r2_put32(page + page_size - 4, tag);
}

static void put(struct r2_patch *p, uint32_t pgno)
{
    static uint32_t next;
    uint8_t page[65536];
    fill(page, p->page_size, ++next);
    CU_ASSERT_EQUAL(r2_patch_put(p, pgno, page, &err), R2_OK);
    model.tag[pgno] = next;
}

static void same(const struct r2_patch *p)
{
    uint8_t page[65536], want[65536];
    uint32_t there = 0, wrong = 0;
    for (uint32_t pgno = 1; pgno <= MOST; pgno++) {
        int64_t at = r2_patch_find(p, pgno);
        there += model.tag[pgno] != 0;
        if ((at >= 0) != (model.tag[pgno] != 0)) wrong++;
        if (at < 0 || !model.tag[pgno]) continue;
        fill(want, p->page_size, model.tag[pgno]);
        if (r2_patch_read(p, (uint32_t)at, page, &err)) wrong++;
        if (memcmp(page, want, p->page_size) != 0) wrong++;
        if (p->page[at].pgno != pgno) wrong++;
        if (p->page[at].sum != r2_ltx_page_checksum(pgno, want, p->page_size)) wrong++;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(p->count, there);
    CU_ASSERT_EQUAL(p->pages, model.pages);
}

/* ---- segments ---- */

struct file {
    uint8_t *at;
    size_t n, room;
};

static bool out(void *ctx, const void *bytes, size_t n)
{
    struct file *f = ctx;
    if (f->n + n > f->room) {
        f->room = 2 * (f->n + n);
        f->at = realloc(f->at, f->room);
        if (!f->at) abort();
    }
    memcpy(f->at + f->n, bytes, n);
    f->n += n;
    return true;
}

static enum r2_code in(void *ctx, uint64_t off, void *to, size_t n, struct r2_err *e)
{
    const struct file *f = ctx;
    if (off > f->n || n > f->n - off) return r2_fail(e, R2_IO, "past the end");
    memcpy(to, f->at + off, n);
    return R2_OK;
}

static struct r2_ltx_header header(uint64_t version)
{
    return (struct r2_ltx_header){
        .min_txid = version, .max_txid = version, .pre = R2_LTX_FLAG | version, .node_id = 7};
}

/* Versions that grow, shrink and change their page size, each a segment of its own; one patch takes
 * them all over. */
static void a_chain_of_segments(void)
{
    begin();
    struct r2_patch all;
    r2_patch_init(&all, db);
    memset(&model, 0, sizeof model);
    model.page_size = 512;
    r2_patch_shape(&all, 512, 40);
    for (uint64_t version = 2; version < 400; version++) {
        struct r2_patch one;
        struct file f = {0};
        struct r2_ltx_header h = header(version), got;
        uint64_t size, post;
        if (version % 97 == 0) { /* another page size: every page is in it */
            model.page_size = model.page_size == 512 ? 4096 : 512;
            memset(model.tag, 0, sizeof model.tag);
        }
        uint32_t pages = 1 + below(version % 50 ? 900 : MOST);
        for (uint32_t n = pages + 1; n <= MOST; n++)
            model.tag[n] = 0;
        model.pages = pages;
        r2_patch_init(&one, db);
        r2_patch_shape(&one, model.page_size, pages);
        for (uint32_t n = 1; n <= pages; n++)
            if (n == 1 || below(20) == 0) put(&one, n);
        CU_ASSERT_EQUAL(r2_patch_encode(&one, &h, R2_LTX_FLAG | 5, out, &f, &size, &err), R2_OK);
        CU_ASSERT_EQUAL(size, f.n);
        CU_ASSERT_EQUAL(r2_patch_decode(&all, in, &f, f.n, &got, &post, &err), R2_OK);
        CU_ASSERT(got.commit == pages && got.page_size == model.page_size && got.node_id == 7);
        CU_ASSERT_EQUAL(post, R2_LTX_FLAG | 5);
        same(&all);
        r2_patch_free(&one);
        free(f.at);
    }
    r2_patch_free(&all);
}

/* More than fits in memory: the rest is in a file without a name. */
static void many_pages(void)
{
    begin();
    struct r2_patch p;
    r2_patch_init(&p, db);
    memset(&model, 0, sizeof model);
    model.page_size = 4096;
    model.pages = MOST;
    r2_patch_shape(&p, 4096, MOST);
    CU_ASSERT_EQUAL(p.fd, -1);
    for (uint32_t n = 0; n < 9000; n++)
        put(&p, 1 + below(MOST));
    CU_ASSERT(p.fd >= 0);
    same(&p);
    struct r2_ltx_header h = header(9), got;
    struct file f = {0};
    uint64_t size, post;
    CU_ASSERT_EQUAL(r2_patch_encode(&p, &h, R2_LTX_FLAG, out, &f, &size, &err), R2_OK);
    struct r2_patch q;
    r2_patch_init(&q, db);
    CU_ASSERT_EQUAL(r2_patch_decode(&q, in, &f, f.n, &got, &post, &err), R2_OK);
    same(&q);
    r2_patch_free(&q);
    r2_patch_free(&p);
    free(f.at);
    CU_ASSERT_EQUAL(p.fd, -1);
}

static void reading_runs(void)
{
    begin();
    struct r2_patch p;
    uint8_t three[3 * 512], want[512];
    r2_patch_init(&p, db);
    memset(&model, 0, sizeof model);
    r2_patch_shape(&p, 512, 10);
    put(&p, 6);
    put(&p, 4);
    put(&p, 5);
    CU_ASSERT_EQUAL(r2_patch_read_pages(&p, 4, 3, three, &err), R2_OK);
    for (uint32_t k = 0; k < 3; k++) {
        fill(want, 512, model.tag[4 + k]);
        CU_ASSERT_EQUAL(memcmp(three + 512 * (size_t)k, want, 512), 0);
    }
    CU_ASSERT_EQUAL(r2_patch_read_pages(&p, 5, 3, three, &err), R2_CORRUPT); /* 7 is not there */
    CU_ASSERT_EQUAL(r2_patch_find(&p, 7), -1);
    r2_patch_free(&p);
    CU_ASSERT_EQUAL(r2_patch_find(&p, 4), -1);
}

/* Each byte of a segment flipped, each length cut: an error, or the very same pages. */
static void damage(void)
{
    begin();
    struct r2_patch p;
    struct r2_ltx_header h = header(3), got;
    struct file f = {0};
    uint64_t size, post;
    r2_patch_init(&p, db);
    r2_patch_shape(&p, 512, 9);
    memset(&model, 0, sizeof model);
    model.pages = 9;
    put(&p, 1);
    put(&p, 8);
    CU_ASSERT_EQUAL(r2_patch_encode(&p, &h, R2_LTX_FLAG | 1, out, &f, &size, &err), R2_OK);
    unsigned taken = 0;
    for (size_t at = 0; at < f.n; at++) {
        struct r2_patch q;
        f.at[at] ^= 0x10;
        r2_patch_init(&q, db);
        taken += r2_patch_decode(&q, in, &f, f.n, &got, &post, &err) == R2_OK;
        r2_patch_free(&q);
        f.at[at] ^= 0x10;
        r2_patch_init(&q, db);
        taken += r2_patch_decode(&q, in, &f, at, &got, &post, &err) == R2_OK;
        r2_patch_free(&q);
    }
    CU_ASSERT_EQUAL(taken, 0);
    r2_patch_free(&p);
    free(f.at);
}

/* No room on the disk for the file: an error, and nothing is lost that was there. */
static int no_open(const char *path, int flags, mode_t mode)
{
    (void)path, (void)flags, (void)mode;
    return -1;
}

static void no_room(void)
{
    begin();
    struct r2_patch p;
    struct r2_os before = r2_os;
    uint8_t page[4096] = {0};
    enum r2_code rc = R2_OK;
    r2_patch_init(&p, db);
    r2_patch_shape(&p, 4096, MOST);
    r2_os.open = no_open;
    uint32_t n = 0;
    while (!rc && n < MOST)
        rc = r2_patch_put(&p, ++n, page, &err);
    r2_os = before;
    CU_ASSERT(rc != R2_OK && n > 1);
    CU_ASSERT_EQUAL(p.count, n - 1);
    CU_ASSERT_EQUAL(r2_patch_find(&p, n), -1);
    CU_ASSERT_EQUAL(r2_patch_put(&p, n, page, &err), R2_OK);
    CU_ASSERT_EQUAL(r2_patch_find(&p, n), (int64_t)n - 1);
    r2_patch_free(&p);
}

UNIT_MAIN("patch", UNIT(a_chain_of_segments), UNIT(many_pages), UNIT(reading_runs), UNIT(damage),
          UNIT(no_room))
