/* patch.h - a set of changed pages: by which one version differs from an earlier one.
 *
 * A push builds one from the local file and sends it as a segment; a pull builds one from segments
 * (of several versions: the newest page counts) and has it applied. The first pages are kept in
 * memory, more in an unnamed file beside the database. */
#ifndef R2_PATCH_H
#define R2_PATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "err.h"
#include "ltx.h"

struct r2_patch_page {
    uint32_t pgno;
    uint64_t sum; /* its LTX page checksum */
};

struct r2_patch {
    uint32_t page_size, pages; /* of the database afterwards; 0, 0: empty */
    uint32_t count, room;
    struct r2_patch_page *page; /* [count]; page k's bytes are in slot k */
    uint32_t *slot;             /* hash: 1 + index into page; 0: free */
    uint32_t slots;             /* a power of two, or 0 */
    uint8_t *mem;               /* the first slots */
    uint32_t mem_slots;
    int fd; /* the others; -1: none yet */
    const char *db_path;
};

/* `db_path` is borrowed: where the file goes. */
void r2_patch_init(struct r2_patch *p, const char *db_path);
void r2_patch_free(struct r2_patch *p);

/* The shape of the database afterwards; another page size than before drops all pages. */
void r2_patch_shape(struct r2_patch *p, uint32_t page_size, uint32_t pages);
/* Add a page, or replace it. */
enum r2_code r2_patch_put(struct r2_patch *p, uint32_t pgno, const uint8_t *page, struct r2_err *e);
/* The page's index, or -1. */
int64_t r2_patch_find(const struct r2_patch *p, uint32_t pgno);
enum r2_code r2_patch_read(const struct r2_patch *p, uint32_t index, uint8_t *to, struct r2_err *e);
/* Pages first .. first+count-1, all of which it must have (the shape of r2_apply's reader). */
enum r2_code r2_patch_read_pages(void *patch, uint32_t first, uint32_t count, uint8_t *to,
                                 struct r2_err *e);
/* As a segment, through the encoder's callback. `h`: commit and page size are filled in. */
enum r2_code r2_patch_encode(struct r2_patch *p, struct r2_ltx_header *h, uint64_t post,
                             r2_ltx_out_fn out, void *ctx, uint64_t *size, struct r2_err *e);
/* Take a segment's pages over those that are there. After a failure the patch is worth nothing. */
enum r2_code r2_patch_decode(struct r2_patch *p, r2_ltx_read_fn read, void *ctx, uint64_t size,
                             struct r2_ltx_header *h, uint64_t *post, struct r2_err *e);

#endif
