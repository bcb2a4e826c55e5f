/* patch.c - see patch.h. */
#include "patch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"

enum { MEM_BYTES = 1 << 20, FIRST_ROOM = 16 };

void r2_patch_init(struct r2_patch *p, const char *db_path)
{
    memset(p, 0, sizeof *p);
    p->fd = -1;
    p->db_path = db_path;
}

void r2_patch_free(struct r2_patch *p)
{
    if (p->fd >= 0) r2_os.close(p->fd);
    free(p->page);
    free(p->slot);
    free(p->mem);
    r2_patch_init(p, p->db_path);
}

/* ---- which page is where ---- */

static uint32_t hash_of(uint32_t pgno)
{
    return pgno * UINT32_C(2654435761);
}

static uint32_t *slot_of(const struct r2_patch *p, uint32_t pgno)
{
    uint32_t at = hash_of(pgno) & (p->slots - 1);
    while (p->slot[at] && p->page[p->slot[at] - 1].pgno != pgno)
        at = (at + 1) & (p->slots - 1);
    return &p->slot[at];
}

int64_t r2_patch_find(const struct r2_patch *p, uint32_t pgno)
{
    return p->slots ? (int64_t)*slot_of(p, pgno) - 1 : -1;
}

static void rehash(struct r2_patch *p)
{
    memset(p->slot, 0, p->slots * sizeof *p->slot);
    for (uint32_t k = 0; k < p->count; k++)
        *slot_of(p, p->page[k].pgno) = k + 1;
}

static enum r2_code no_memory(struct r2_err *e)
{
    return r2_fail(e, R2_NOMEM, "no memory for the changed pages");
}

static enum r2_code make_room(struct r2_patch *p, struct r2_err *e)
{
    if (p->count < p->room) return R2_OK;
    uint32_t room = p->room ? p->room * 2 : FIRST_ROOM;
    if (room < p->room) return no_memory(e);
    struct r2_patch_page *page = realloc(p->page, room * sizeof *page);
    if (!page) return no_memory(e);
    p->page = page;
    uint32_t *slot = realloc(p->slot, 2 * (size_t)room * sizeof *slot);
    if (!slot) return no_memory(e);
    p->slot = slot;
    p->room = room;
    p->slots = 2 * room;
    rehash(p);
    return R2_OK;
}

/* ---- the bytes ---- */

static enum r2_code make_file(struct r2_patch *p, struct r2_err *e)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s-r2-pages-%016llx", p->db_path,
                     (unsigned long long)r2_random64());
    if (n < 0 || (size_t)n >= sizeof path)
        return r2_fail(e, R2_IO, "the path is too long: %s", p->db_path);
    p->fd = r2_os.open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (p->fd < 0) return r2_fail_errno(e, errno, "create %s", path);
    r2_os.unlink(path);
    return R2_OK;
}

static enum r2_code write_slot(struct r2_patch *p, uint32_t k, const uint8_t *page,
                               struct r2_err *e)
{
    if (!p->mem) {
        p->mem_slots = MEM_BYTES / p->page_size;
        if (!(p->mem = malloc(MEM_BYTES))) return no_memory(e);
    }
    if (k < p->mem_slots) {
        memcpy(p->mem + (size_t)k * p->page_size, page, p->page_size);
        return R2_OK;
    }
    enum r2_code rc = p->fd < 0 ? make_file(p, e) : R2_OK;
    uint64_t at = (uint64_t)(k - p->mem_slots) * p->page_size;
    return rc ? rc : r2_write_at(p->fd, page, p->page_size, at, e);
}

enum r2_code r2_patch_read(const struct r2_patch *p, uint32_t k, uint8_t *to, struct r2_err *e)
{
    if (k >= p->mem_slots)
        return r2_read_at(p->fd, to, p->page_size, (uint64_t)(k - p->mem_slots) * p->page_size, e);
    memcpy(to, p->mem + (size_t)k * p->page_size, p->page_size);
    return R2_OK;
}

enum r2_code r2_patch_put(struct r2_patch *p, uint32_t pgno, const uint8_t *page, struct r2_err *e)
{
    int64_t at = r2_patch_find(p, pgno);
    uint32_t k = at < 0 ? p->count : (uint32_t)at;
    enum r2_code rc = make_room(p, e);
    if (!rc) rc = write_slot(p, k, page, e);
    if (rc) return r2_wrap(e, "keep page %u", pgno);
    p->page[k].sum = r2_ltx_page_checksum(pgno, page, p->page_size);
    if (at >= 0) return R2_OK;
    p->page[k].pgno = pgno;
    p->count++;
    *slot_of(p, pgno) = k + 1;
    return R2_OK;
}

/* Pages beyond the end go: their slots are given to the last ones. */
static enum r2_code cut(struct r2_patch *p, uint32_t pages, struct r2_err *e)
{
    uint8_t *page = malloc(p->page_size);
    enum r2_code rc = page ? R2_OK : no_memory(e);
    for (uint32_t k = 0; !rc && k < p->count;) {
        if (p->page[k].pgno <= pages) {
            k++;
            continue;
        }
        uint32_t last = --p->count;
        if (k == last) break;
        rc = r2_patch_read(p, last, page, e);
        if (!rc) rc = write_slot(p, k, page, e);
        p->page[k] = p->page[last];
    }
    if (!rc && p->slots) rehash(p);
    free(page);
    return rc;
}

void r2_patch_shape(struct r2_patch *p, uint32_t page_size, uint32_t pages)
{
    if (page_size != p->page_size) {
        const char *db_path = p->db_path;
        r2_patch_free(p);
        r2_patch_init(p, db_path);
    }
    p->page_size = page_size;
    p->pages = pages;
}

enum r2_code r2_patch_read_pages(void *patch, uint32_t first, uint32_t count, uint8_t *to,
                                 struct r2_err *e)
{
    struct r2_patch *p = patch;
    for (uint32_t k = 0; k < count; k++) {
        int64_t at = r2_patch_find(p, first + k);
        if (at < 0) return r2_fail(e, R2_CORRUPT, "page %u is in no segment", first + k);
        enum r2_code rc = r2_patch_read(p, (uint32_t)at, to + (size_t)k * p->page_size, e);
        if (rc) return rc;
    }
    return R2_OK;
}

/* ---- segments ---- */

struct place {
    uint32_t pgno, index;
};

static int by_number(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->pgno < y->pgno ? -1 : x->pgno > y->pgno;
}

enum r2_code r2_patch_encode(struct r2_patch *p, struct r2_ltx_header *h, uint64_t post,
                             r2_ltx_out_fn out, void *ctx, uint64_t *size, struct r2_err *e)
{
    struct r2_ltx_writer *w = NULL;
    uint64_t file_checksum;
    uint8_t *page = malloc(p->page_size ? p->page_size : 1);
    struct place *order = malloc((p->count ? p->count : 1) * sizeof *order);
    enum r2_code rc = page && order ? R2_OK : no_memory(e);
    for (uint32_t k = 0; !rc && k < p->count; k++)
        order[k] = (struct place){.pgno = p->page[k].pgno, .index = k};
    if (!rc) qsort(order, p->count, sizeof *order, by_number);
    h->page_size = p->page_size;
    h->commit = p->pages;
    if (!rc) rc = r2_ltx_begin(&w, h, out, ctx, e);
    for (uint32_t k = 0; !rc && k < p->count; k++) {
        rc = r2_patch_read(p, order[k].index, page, e);
        if (!rc) rc = r2_ltx_page(w, order[k].pgno, page);
    }
    if (!rc) rc = r2_ltx_end(w, post, &file_checksum, size);
    r2_ltx_free(w);
    free(order);
    free(page);
    return rc;
}

enum r2_code r2_patch_decode(struct r2_patch *p, r2_ltx_read_fn read, void *ctx, uint64_t size,
                             struct r2_ltx_header *h, uint64_t *post, struct r2_err *e)
{
    struct r2_ltx_reader *d = NULL;
    uint8_t *page = NULL;
    uint32_t pgno;
    bool end = false;
    enum r2_code rc = r2_ltx_open(&d, read, ctx, size, h, e);
    if (!rc) {
        bool shrinks = h->page_size == p->page_size && h->commit < p->pages;
        r2_patch_shape(p, h->page_size, h->commit);
        if (shrinks) rc = cut(p, h->commit, e);
    }
    if (!rc && !(page = malloc(h->page_size))) rc = no_memory(e);
    while (!rc && !end) {
        rc = r2_ltx_next(d, &pgno, page, &end);
        if (!rc && !end) rc = r2_patch_put(p, pgno, page, e);
    }
    if (!rc) rc = r2_ltx_finish(d, post);
    r2_ltx_close(d);
    free(page);
    return rc;
}
