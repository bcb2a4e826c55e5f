/* image.c - see image.h. */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "ltx.h"
#include "os.h"
#include "patch.h"

enum {
    CHUNK = 1 << 20, /* bytes read at once */
    AT_JOURNAL_MODE = 18,
    AT_COUNTER = 24,
    AT_PAGES = 28,
    AT_TRUNK = 32,
    AT_FREE = 36,
    AT_COOKIE = 40,
    AT_VALID_FOR = 92
};

enum { SUMS = 512 }; /* base checksums read at once */

void r2_image_init(struct r2_image *i)
{
    memset(i, 0, sizeof *i);
    i->fd = -1;
}

void r2_image_free(struct r2_image *i)
{
    if (i->fd >= 0) r2_os.close(i->fd);
    if (i->path[0]) r2_os.unlink(i->path);
    free(i->sums);
    free(i->page1);
    r2_image_init(i);
}

enum r2_code r2_image_create(struct r2_image *i, const char *db_path, const char *suffix,
                             bool named, struct r2_err *e)
{
    int n = snprintf(i->path, sizeof i->path, "%s%s", db_path, suffix);
    if (n < 0 || (size_t)n >= sizeof i->path) {
        i->path[0] = 0;
        return r2_fail(e, R2_IO, "the path is too long: %s", db_path);
    }
    /* a name left over by a killed process may still be linked to the database: never reuse it */
    r2_os.unlink(i->path);
    /* nobody may read it who may not read the database */
    struct stat st;
    mode_t mode = !named ? 0600 : stat(db_path, &st) == 0 ? st.st_mode & 0666 : 0644;
    i->fd = r2_os.open(i->path, O_RDWR | O_CREAT | O_EXCL, mode);
    if (i->fd < 0) {
        r2_fail_errno(e, errno, "create %s", i->path);
        i->path[0] = 0;
        return e->code;
    }
    if (!named) {
        r2_os.unlink(i->path);
        i->path[0] = 0;
    }
    return R2_OK;
}

/* Room for checksums and page 1; 2^32 pages of checksums would be 32 GiB: SQLite's own limit on
 * pages (4294967294) stands above what memory gives, and malloc says no in time. */
static enum r2_code make_room(struct r2_image *i, struct r2_err *e)
{
    free(i->sums);
    free(i->page1);
    i->page1 = NULL;
    i->sums = NULL;
    if (!i->pages) return R2_OK;
    i->sums = calloc(i->pages, sizeof *i->sums);
    i->page1 = malloc(i->page_size);
    if (i->sums && i->page1) return R2_OK;
    return r2_fail(e, R2_NOMEM, "no memory for the checksums of %u pages", i->pages);
}

static void sum_pages(struct r2_image *i, uint32_t first, uint32_t count, const uint8_t *bytes)
{
    for (uint32_t k = 0; k < count; k++)
        i->sums[first - 1 + k] =
            r2_ltx_page_checksum(first + k, bytes + (size_t)k * i->page_size, i->page_size);
    if (first == 1) memcpy(i->page1, bytes, i->page_size);
}

enum r2_code r2_image_scan_with(struct r2_image *i, uint32_t page_size, uint32_t pages,
                                enum r2_code (*read)(void *ctx, uint32_t first, uint32_t count,
                                                     uint8_t *to, struct r2_err *e),
                                void *ctx, struct r2_err *e)
{
    uint8_t *chunk = NULL;
    i->page_size = page_size;
    i->pages = pages;
    enum r2_code rc = make_room(i, e);
    if (rc || !i->pages) return rc;
    if (!(chunk = malloc(CHUNK))) return r2_fail(e, R2_NOMEM, "out of memory");
    uint32_t step = CHUNK / i->page_size;
    for (uint32_t first = 1; !rc && first <= i->pages; first += step) {
        uint32_t count = i->pages - first + 1 < step ? i->pages - first + 1 : step;
        rc = read(ctx, first, count, chunk, e);
        if (rc) break;
        sum_pages(i, first, count, chunk);
        if (i->fd >= 0)
            rc = r2_write_at(i->fd, chunk, (size_t)count * i->page_size,
                             (uint64_t)(first - 1) * i->page_size, e);
        if (first > UINT32_MAX - step) break;
    }
    free(chunk);
    return rc ? r2_wrap(e, "read the local database") : R2_OK;
}

static enum r2_code read_local(void *ctx, uint32_t first, uint32_t count, uint8_t *to,
                               struct r2_err *e)
{
    return r2_local_read_pages(ctx, first, count, to, e);
}

enum r2_code r2_image_scan(struct r2_image *i, struct r2_local *l, struct r2_err *e)
{
    uint32_t page_size, pages;
    enum r2_code rc = r2_local_shape(l, &page_size, &pages, e);
    return rc ? rc : r2_image_scan_with(i, page_size, pages, read_local, l, e);
}

/* Show how an object that is no database begins, printable characters only. */
static enum r2_code no_database(const uint8_t *at, size_t n, struct r2_err *e)
{
    char begins[33] = "";
    for (size_t k = 0; k < n && k < sizeof begins - 1; k++)
        begins[k] = at[k] >= 32 && at[k] < 127 ? (char)at[k] : '.';
    return r2_fail(e, R2_CORRUPT, "it is not a SQLite database (it begins with \"%s\")", begins);
}

static enum r2_code check_shape(struct r2_image *i, uint64_t size, struct r2_err *e)
{
    uint8_t head[R2_HEADER] = {0};
    if (size < 512) {
        if (size) (void)r2_read_at(i->fd, head, size < 32 ? size : 32, 0, e);
        return no_database(head, (size_t)(size < 32 ? size : 32), e);
    }
    enum r2_code rc = r2_read_at(i->fd, head, sizeof head, 0, e);
    if (rc) return rc;
    if (memcmp(head, "SQLite format 3", 16) != 0) return no_database(head, 32, e);
    uint32_t page_size = r2_header_page_size(head);
    if (page_size < 512 || page_size & (page_size - 1))
        return r2_fail(e, R2_CORRUPT, "its header gives a page size of %u", page_size);
    if (size % page_size)
        return r2_fail(e, R2_CORRUPT, "its %llu bytes are not whole pages of %u",
                       (unsigned long long)size, page_size);
    if (size / page_size > UINT32_MAX - 1)
        return r2_fail(e, R2_CORRUPT, "it has more pages than SQLite can have");
    /* the header's own count, where SQLite would believe it: cut off at the end of a page? */
    uint32_t told = r2_get32(head + AT_PAGES);
    if (told > size / page_size && memcmp(head + AT_COUNTER, head + AT_VALID_FOR, 4) == 0)
        return r2_fail(e, R2_CORRUPT, "it ends after %llu of %u pages",
                       (unsigned long long)(size / page_size), told);
    i->page_size = page_size;
    i->pages = (uint32_t)(size / page_size);
    return R2_OK;
}

enum r2_code r2_image_adopt(struct r2_image *i, uint64_t size, struct r2_err *e)
{
    i->page_size = i->pages = 0;
    if (size == 0) return r2_fail(e, R2_CORRUPT, "it is empty, which no version ever is");
    enum r2_code rc = check_shape(i, size, e);
    if (!rc) rc = make_room(i, e);
    uint8_t *chunk = rc ? NULL : malloc(CHUNK);
    if (!rc && !chunk) rc = r2_fail(e, R2_NOMEM, "out of memory");
    uint32_t step = rc ? 1 : CHUNK / i->page_size;
    for (uint64_t first = 1; !rc && first <= i->pages; first += step) {
        uint32_t count = i->pages - first + 1 < step ? (uint32_t)(i->pages - first + 1) : step;
        rc = r2_image_read(i, (uint32_t)first, count, chunk, e);
        if (!rc) sum_pages(i, (uint32_t)first, count, chunk);
    }
    free(chunk);
    return rc;
}

enum r2_code r2_image_read(void *image, uint32_t first, uint32_t count, uint8_t *to,
                           struct r2_err *e)
{
    struct r2_image *i = image;
    return r2_read_at(i->fd, to, (size_t)count * i->page_size, (uint64_t)(first - 1) * i->page_size,
                      e);
}

enum r2_code r2_image_patch(struct r2_image *i, struct r2_patch *p, struct r2_err *e)
{
    uint32_t kept = p->page_size == i->page_size ? i->pages : 0;
    uint8_t *page = malloc(p->page_size ? p->page_size : 1), *page1 = NULL;
    uint64_t *sums = calloc(p->pages ? p->pages : 1, sizeof *sums);
    enum r2_code rc = page && sums ? R2_OK : r2_fail(e, R2_NOMEM, "out of memory");
    if (!rc && r2_os.ftruncate(i->fd, (off_t)p->pages * p->page_size) != 0)
        rc = r2_fail_errno(e, errno, "cut the download file");
    if (!rc && kept) memcpy(sums, i->sums, (kept < p->pages ? kept : p->pages) * sizeof *sums);
    for (uint32_t k = 0; !rc && k < p->count; k++) {
        uint32_t pgno = p->page[k].pgno;
        rc = r2_patch_read(p, k, page, e);
        if (!rc)
            rc = r2_write_at(i->fd, page, p->page_size, (uint64_t)(pgno - 1) * p->page_size, e);
        sums[pgno - 1] = p->page[k].sum;
    }
    if (!rc && p->pages) {
        rc = (page1 = malloc(p->page_size)) ? r2_read_at(i->fd, page1, p->page_size, 0, e)
                                            : r2_fail(e, R2_NOMEM, "out of memory");
    }
    free(page);
    if (rc) {
        free(sums);
        free(page1);
        return rc;
    }
    free(i->sums);
    free(i->page1);
    i->sums = sums;
    i->page1 = page1;
    i->page_size = p->page_size;
    i->pages = p->pages;
    return R2_OK;
}

/* The one place that knows which bytes of page 1 are local. */
static void take_fields(uint8_t *page1, const uint8_t header[R2_HEADER])
{
    memcpy(page1 + AT_JOURNAL_MODE, header + AT_JOURNAL_MODE, 2);
    memcpy(page1 + AT_COUNTER, header + AT_COUNTER, 8); /* change counter, size in pages */
    memcpy(page1 + AT_COOKIE, header + AT_COOKIE, 4);
    memcpy(page1 + AT_VALID_FOR, header + AT_VALID_FOR, 4);
}

enum r2_code r2_image_set_fields(struct r2_image *i, const uint8_t header[R2_HEADER],
                                 struct r2_err *e)
{
    if (!i->pages) return R2_OK;
    take_fields(i->page1, header);
    i->sums[0] = r2_ltx_page_checksum(1, i->page1, i->page_size);
    return i->fd < 0 ? R2_OK : r2_write_at(i->fd, i->page1, i->page_size, 0, e);
}

uint64_t r2_image_page1_as(const struct r2_image *i, const uint8_t header[R2_HEADER])
{
    uint8_t was[R2_HEADER];
    memcpy(was, i->page1, sizeof was);
    take_fields(i->page1, header);
    uint64_t sum = r2_ltx_page_checksum(1, i->page1, i->page_size);
    memcpy(i->page1, was, sizeof was);
    return sum;
}

uint64_t r2_image_checksum(const struct r2_image *i)
{
    return i->pages ? r2_ltx_rolling(i->sums, i->pages, i->page_size) : R2_LTX_FLAG;
}

uint64_t r2_image_content(const struct r2_image *i)
{
    static const uint8_t zeros[R2_HEADER];
    if (!i->pages) return R2_LTX_FLAG;
    /* over the sums in their order, not their xor: pages that repeat would cancel out */
    uint64_t first = r2_image_page1_as(i, zeros), lock = r2_ltx_lock_page(i->page_size);
    uint64_t crc = r2_crc64(0, &i->pages, sizeof i->pages);
    crc = r2_crc64(crc, &first, sizeof first);
    uint64_t before = i->pages < lock ? i->pages : lock - 1;
    crc = r2_crc64(crc, i->sums + 1, (before - 1) * sizeof *i->sums);
    if (i->pages > lock) crc = r2_crc64(crc, i->sums + lock, (i->pages - lock) * sizeof *i->sums);
    return R2_LTX_FLAG | crc;
}

enum r2_code r2_image_compare(const struct r2_image *i, const struct r2_version *v,
                              struct r2_state *s, uint8_t area, struct r2_diff *out,
                              struct r2_err *e)
{
    uint64_t was[SUMS];
    memset(out, 0, sizeof *out);
    out->shape = i->pages != v->pages || (i->pages && i->page_size != v->page_size);
    out->map = calloc(i->pages / 8 + 1, 1);
    if (!out->map) return r2_fail(e, R2_NOMEM, "out of memory");
    bool comparable = !i->pages || i->page_size == v->page_size;
    uint32_t lock_page = i->pages ? r2_ltx_lock_page(i->page_size) : 0;
    if (v->pages > i->pages) out->pages = v->pages - i->pages;
    for (uint32_t at = 0; at < i->pages; at++) {
        uint32_t in = at % SUMS, left = at < v->pages ? v->pages - at : 0;
        if (in == 0 && left && comparable) {
            uint32_t n = left < SUMS ? left : SUMS;
            enum r2_code rc = r2_state_read_sums(s, area, at + 1, n, was, e);
            if (rc) return rc;
        }
        if (at + 1 == lock_page) continue;
        uint64_t now = at == 0 ? r2_image_page1_as(i, v->header) : i->sums[at];
        if (left && comparable && now == was[in]) continue;
        out->map[at / 8] = (uint8_t)(out->map[at / 8] | 1u << at % 8);
        out->pages++;
    }
    return R2_OK;
}

void r2_diff_free(struct r2_diff *d)
{
    free(d->map);
    d->map = NULL;
}

static bool bit(const uint8_t *map, uint32_t pgno)
{
    return map[(pgno - 1) / 8] >> (pgno - 1) % 8 & 1;
}

enum r2_code r2_loose_pages(const uint8_t *page1, uint32_t page_size, uint32_t pages,
                            const struct r2_diff *d,
                            enum r2_code (*read)(void *ctx, uint32_t first, uint32_t count,
                                                 uint8_t *to, struct r2_err *e),
                            void *ctx, bool *yes, struct r2_err *e)
{
    *yes = d->pages == 0;
    if (*yes || d->shape || bit(d->map, 1)) return R2_OK;
    uint8_t *page = malloc(page_size), *left_over = malloc(pages / 8 + 1);
    uint32_t trunk = r2_get32(page1 + AT_TRUNK), loose = 0;
    enum r2_code rc = page && left_over ? R2_OK : r2_fail(e, R2_NOMEM, "out of memory");
    if (!rc) memcpy(left_over, d->map, pages / 8 + 1);
    /* each trunk accounts for itself and its leaves: the count in the header bounds the walk, and
     * the size bounds that: a hostile list may run in a circle */
    int64_t left = r2_get32(page1 + AT_FREE);
    if (left > pages) left = pages;
    while (!rc && trunk && left > 0) {
        if (trunk > pages || bit(d->map, trunk)) break;
        rc = read(ctx, trunk, 1, page, e);
        if (rc) break;
        uint32_t leaves = r2_get32(page + 4);
        if (leaves > page_size / 4 - 2) break;
        for (uint32_t k = 0; k < leaves; k++) {
            uint32_t leaf = r2_get32(page + 8 + 4 * (size_t)k);
            if (leaf < 1 || leaf > pages || !bit(left_over, leaf)) continue;
            left_over[(leaf - 1) / 8] &= (uint8_t) ~(1u << (leaf - 1) % 8); /* counts once */
            loose++;
        }
        trunk = r2_get32(page);
        left -= (int64_t)leaves + 1;
    }
    free(page);
    free(left_over);
    *yes = !rc && loose == d->pages;
    return rc;
}

enum r2_code r2_image_only_loose(const struct r2_image *i, const struct r2_diff *d,
                                 struct r2_local *l, bool *yes, struct r2_err *e)
{
    return r2_loose_pages(i->page1, i->page_size, i->pages, d, read_local, l, yes, e);
}

void r2_image_next_header(const struct r2_image *i, const struct r2_version *base, uint64_t version,
                          uint8_t header[R2_HEADER])
{
    memset(header, 0, R2_HEADER);
    if (!i->pages) return;
    memcpy(header, i->page1, R2_HEADER);
    if (base && base->version && base->pages) {
        uint32_t cookie = r2_get32(base->header + AT_COOKIE);
        if (r2_image_cookie(i) != base->local_cookie) cookie++;
        memcpy(header + AT_JOURNAL_MODE, base->header + AT_JOURNAL_MODE, 2);
        r2_put32(header + AT_COOKIE, cookie);
    }
    r2_put32(header + AT_COUNTER, (uint32_t)version);
    r2_put32(header + AT_PAGES, i->pages);
    r2_put32(header + AT_VALID_FOR, (uint32_t)version);
}

uint32_t r2_image_cookie(const struct r2_image *i)
{
    return i->pages ? r2_get32(i->page1 + AT_COOKIE) : 0;
}

uint32_t r2_image_counter(const struct r2_image *i)
{
    return i->pages ? r2_get32(i->page1 + AT_COUNTER) : 0;
}
