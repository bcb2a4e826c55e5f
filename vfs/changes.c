/* changes.c - see changes.h. */
#include "changes.h"

#include <stdlib.h>
#include <string.h>

#include "ltx.h"

enum { RUN = 64, SUMS = 512 }; /* pages read at once, checksums read at once */

static enum r2_code local_shape(void *ctx, uint32_t *page_size, uint32_t *pages, struct r2_err *e)
{
    return r2_local_shape(ctx, page_size, pages, e);
}

static enum r2_code local_read(void *ctx, uint32_t first, uint32_t count, uint8_t *to,
                               struct r2_err *e)
{
    return r2_local_read_pages(ctx, first, count, to, e);
}

struct r2_source r2_source_of(struct r2_local *l)
{
    return (struct r2_source){.shape = local_shape, .read = local_read, .ctx = l};
}

enum r2_code r2_image_read_source(struct r2_image *i, const struct r2_source *from,
                                  struct r2_err *e)
{
    uint32_t page_size, pages;
    enum r2_code rc = from->shape(from->ctx, &page_size, &pages, e);
    return rc ? rc : r2_image_scan_with(i, page_size, pages, from->read, from->ctx, e);
}

void r2_changes_free(struct r2_changes *c)
{
    r2_patch_free(&c->patch);
    free(c->page1);
    memset(c, 0, sizeof *c);
    c->patch.fd = -1;
}

/* ---- looking ---- */

struct look {
    struct r2_changes *c;
    const struct r2_source *from;
    const struct r2_version *base;
    struct r2_state *s;
    uint8_t area;
    const struct r2_dirty *d;
    struct r2_err *e;
    uint32_t lock_page;
    uint32_t same;       /* pages from here on may differ whatever the marks say */
    uint32_t sums_first; /* the page of sums[0]; 0: none read yet */
    uint64_t sums[SUMS]; /* base's */
    uint8_t *run;        /* RUN pages */
};

/* The base's checksum of a page; 0: it has none. */
static enum r2_code sum_in_base(struct look *k, uint32_t pgno, uint64_t *out)
{
    *out = 0;
    if (pgno > k->base->pages || k->c->patch.page_size != k->base->page_size) return R2_OK;
    uint32_t first = (pgno - 1) / SUMS * SUMS + 1, left = k->base->pages - first + 1;
    if (k->sums_first != first) {
        enum r2_code rc =
            r2_state_read_sums(k->s, k->area, first, left < SUMS ? left : SUMS, k->sums, k->e);
        if (rc) return rc;
        k->sums_first = first;
    }
    *out = k->sums[pgno - first];
    return R2_OK;
}

static bool may_differ(const struct look *k, uint32_t pgno)
{
    if (pgno == k->lock_page) return false;
    if (pgno == 1 || pgno > k->same || !k->d->complete) return true;
    return pgno <= k->d->pages && k->d->map[(pgno - 1) / 64] >> (pgno - 1) % 64 & 1;
}

/* The next page from `pgno` on that may differ; 0: none. Steps over empty words. */
static uint32_t next_page(const struct look *k, uint32_t pgno, uint32_t pages)
{
    while (pgno <= pages) {
        if (may_differ(k, pgno)) return pgno;
        bool empty = pgno % 64 == 1 && k->d->complete && pgno + 63 <= k->same &&
                     (pgno > k->d->pages || !k->d->map[(pgno - 1) / 64]);
        if (empty && pgno > 1 && pages - pgno >= 64)
            pgno += 64;
        else if (pgno++ == UINT32_MAX)
            break;
    }
    return 0;
}

static enum r2_code compare(struct look *k, uint32_t pgno, const uint8_t *page)
{
    struct r2_changes *c = k->c;
    uint64_t was, is = r2_ltx_page_checksum(pgno, page, c->patch.page_size), as = is;
    enum r2_code rc = sum_in_base(k, pgno, &was);
    if (rc) return rc;
    if (pgno == 1) {
        memcpy(c->page1, page, c->patch.page_size);
        struct r2_image one = {.page_size = c->patch.page_size, .pages = 1, .page1 = c->page1};
        as = r2_image_page1_as(&one, k->base->header);
        c->rest ^= was; /* the new one is counted when its fields are known */
        c->changed += as != was;
        return r2_patch_put(&c->patch, 1, page, k->e);
    }
    if (is == was) return R2_OK;
    c->rest ^= was ^ is;
    c->changed++;
    return r2_patch_put(&c->patch, pgno, page, k->e);
}

static enum r2_code compare_pages(struct look *k, uint32_t pages)
{
    uint32_t page_size = k->c->patch.page_size;
    for (uint32_t pgno = next_page(k, 1, pages); pgno; pgno = next_page(k, pgno, pages)) {
        uint32_t count = 1;
        while (count < RUN && pgno + count <= pages && may_differ(k, pgno + count))
            count++;
        enum r2_code rc = k->from->read(k->from->ctx, pgno, count, k->run, k->e);
        for (uint32_t n = 0; !rc && n < count; n++)
            rc = compare(k, pgno + n, k->run + (size_t)n * page_size);
        if (rc) return rc;
        if (pgno > UINT32_MAX - count) break;
        pgno += count;
    }
    return R2_OK;
}

/* Pages that the base has and the file has no more. */
static enum r2_code drop_pages(struct look *k, uint32_t pages)
{
    uint64_t was;
    for (uint32_t pgno = pages + 1; pgno > pages && pgno <= k->base->pages; pgno++) {
        if (pgno == k->lock_page) continue;
        enum r2_code rc = sum_in_base(k, pgno, &was);
        if (rc) return rc;
        k->c->rest ^= was;
        k->c->changed++;
    }
    return R2_OK;
}

enum r2_code r2_changes_find(struct r2_changes *c, const struct r2_source *from,
                             const struct r2_version *base, struct r2_state *s, uint8_t area,
                             const struct r2_dirty *d, const char *db_path, struct r2_err *e)
{
    uint32_t page_size, pages;
    memset(c, 0, sizeof *c);
    r2_patch_init(&c->patch, db_path);
    enum r2_code rc = from->shape(from->ctx, &page_size, &pages, e);
    if (rc) return rc;
    struct look *k = calloc(1, sizeof *k);
    if (!k) return r2_fail(e, R2_NOMEM, "out of memory");
    *k = (struct look){.c = c, .from = from, .base = base, .s = s, .area = area, .d = d, .e = e};
    r2_patch_shape(&c->patch, page_size, pages);
    k->lock_page = pages ? r2_ltx_lock_page(page_size) : 0;
    bool other_size = pages && base->pages && page_size != base->page_size;
    c->reshaped = pages != base->pages || other_size;
    k->same = other_size ? 0 : base->pages < d->lowest ? base->pages : d->lowest;
    c->rest = other_size ? 0 : base->checksum & ~R2_LTX_FLAG;
    if (!pages) { /* nothing is left */
        c->rest = 0;
        c->changed = base->pages;
    } else {
        k->run = malloc((size_t)RUN * page_size);
        c->page1 = malloc(page_size);
        rc = k->run && c->page1 ? compare_pages(k, pages) : r2_fail(e, R2_NOMEM, "out of memory");
        if (!rc && !other_size) rc = drop_pages(k, pages);
    }
    free(k->run);
    free(k);
    return rc;
}

enum r2_code r2_changes_only_loose(const struct r2_changes *c, const struct r2_source *from,
                                   struct r2_diff *loose, bool *yes, struct r2_err *e)
{
    uint32_t pages = c->patch.pages;
    memset(loose, 0, sizeof *loose);
    *yes = c->changed == 0 && !c->reshaped;
    if (*yes || c->reshaped || !pages) return R2_OK;
    loose->map = calloc(pages / 8 + 1, 1);
    if (!loose->map) return r2_fail(e, R2_NOMEM, "out of memory");
    for (uint32_t k = 0; k < c->patch.count; k++) {
        uint32_t pgno = c->patch.page[k].pgno;
        if (pgno > 1) loose->map[(pgno - 1) / 8] |= (uint8_t)(1u << (pgno - 1) % 8);
    }
    loose->pages = c->changed;
    if (c->patch.count - 1 != c->changed) return R2_OK; /* page 1 differs, too */
    return r2_loose_pages(c->page1, c->patch.page_size, pages, loose, from->read, from->ctx, yes,
                          e);
}

enum r2_code r2_changes_become(struct r2_changes *c, const uint8_t header[R2_HEADER],
                               uint64_t *checksum, struct r2_err *e)
{
    *checksum = R2_LTX_FLAG | c->rest;
    if (!c->page1) return R2_OK;
    struct r2_image one = {.fd = -1,
                           .page_size = c->patch.page_size,
                           .pages = 1,
                           .page1 = c->page1,
                           .sums = &(uint64_t){0}};
    uint8_t *local = malloc(one.page_size);
    if (!local) return r2_fail(e, R2_NOMEM, "out of memory");
    memcpy(local, c->page1, one.page_size);
    enum r2_code rc = r2_image_set_fields(&one, header, e);
    if (!rc) rc = r2_patch_put(&c->patch, 1, c->page1, e);
    *checksum ^= one.sums[0] & ~R2_LTX_FLAG;
    memcpy(c->page1, local, one.page_size);
    free(local);
    return rc;
}
