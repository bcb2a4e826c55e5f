/* log_changed.c - which pages of a snapshot have changed since: what a later snapshot need not send
 * again. See layout.h.
 *
 * The log tells: its segments lead from the snapshot's checksum to the later version's, link by
 * link, and a page that is in none of them is the same in both. Where a segment changes the page
 * size, it has every page (readers refuse another), so that all pages are marked then, whatever
 * size they had in the snapshot. The lock page is in no segment, because SQLite never uses it, and
 * in no checksum: nobody knows what its bytes are. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "log_int.h"
#include "os.h"

enum { SLICE = 512 /* segments for which there is the whole timeout */ };
#define SEGMENT_WORTH ((uint64_t)64 << 10) /* bytes not sent for which one is fetched */

static void mark(uint8_t *map, uint32_t pgno)
{
    map[(pgno - 1) / 8] = (uint8_t)(map[(pgno - 1) / 8] | 1 << (pgno - 1) % 8);
}

void r2_patch_mark(const struct r2_patch *p, uint32_t pages, uint8_t *map)
{
    for (uint32_t k = 0; k < p->count; k++)
        if (p->page[k].pgno <= pages) mark(map, p->page[k].pgno);
}

uint8_t *r2_changed_new(uint32_t page_size, uint32_t pages)
{
    uint8_t *map = calloc(pages / 8 + 1, 1);
    uint32_t lock_page = r2_ltx_lock_page(page_size);
    if (map && lock_page <= pages) mark(map, lock_page);
    return map;
}

/* The segments up to `to`, a slice at a time; *now follows. */
static enum r2_code read_slices(struct r2_log *l, const struct r2_version *to, int64_t timeout_ms,
                                struct r2_version *now, uint8_t *map)
{
    struct r2_patch patch;
    enum r2_code rc = R2_OK;
    struct r2_version *base = malloc(sizeof *base);
    if (!base) return r2_fail(l->call->err, R2_NOMEM, "out of memory");
    while (!rc && now->version < to->version) {
        uint64_t left = to->version - now->version;
        *base = *now;
        l->call->deadline_ms = r2_boot_ms() + timeout_ms;
        r2_patch_init(&patch, l->db_path); /* one for each: begun anew, it forgets what it had */
        rc = r2_log_follow(l, base, base->version + (left < SLICE ? left : SLICE), &patch, now);
        if (!rc) r2_patch_mark(&patch, to->pages, map);
        r2_patch_free(&patch);
    }
    free(base);
    return rc;
}

uint8_t *r2_log_changed(struct r2_log *l, const struct r2_remote *snapshot,
                        const struct r2_version *to, int64_t timeout_ms)
{
    uint64_t size = (uint64_t)to->pages * to->page_size, from = snapshot->v.version;
    if (!to->pages || !r2_log_same_lineage(snapshot, to->lineage) || from >= to->version ||
        to->version - from > size / SEGMENT_WORTH || snapshot->size % to->page_size ||
        snapshot->size / to->page_size > UINT32_MAX)
        return NULL;
    uint8_t *map = r2_changed_new(to->page_size, to->pages);
    struct r2_version *now = malloc(sizeof *now);
    bool known = false;
    if (map && now) {
        *now = snapshot->v;
        now->page_size = to->page_size;
        now->pages = (uint32_t)(snapshot->size / to->page_size);
        known = read_slices(l, to, timeout_ms, now, map) == R2_OK &&
                now->checksum == to->checksum && now->pages == to->pages &&
                now->page_size == to->page_size;
        r2_ahead_free(l->ahead);
        r2_err_clear(l->call->err);
    }
    free(now);
    if (known) return map;
    free(map);
    return NULL;
}
