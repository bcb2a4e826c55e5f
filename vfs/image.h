/* image.h - a whole database as an image: scanned from the local file or fetched from the remote,
 * with the checksum of each page; and page 1, whose four local fields are exchanged here and
 * nowhere else (DESIGN section 2, "the version's bytes and the local file's bytes"). */
#ifndef R2_IMAGE_H
#define R2_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "err.h"
#include "local.h"
#include "state.h"

/* An image and what is known of it. */
struct r2_image {
    int fd;                    /* its bytes; -1: only scanned, not kept */
    char path[4096];           /* of the file behind fd while it has a name, else "" */
    uint32_t page_size, pages; /* 0, 0: an empty database */
    uint64_t *sums;            /* page checksums [pages]; sums[0] belongs to page 1 as it is in
                                  page1, that is, with the fields that it has now */
    uint8_t *page1;            /* a copy of page 1; NULL when there are no pages */
};

void r2_image_init(struct r2_image *i);
void r2_image_free(struct r2_image *i); /* closes fd and removes a file that still has a name */

/* Create the file "<db_path><suffix>" for the image's bytes. Unless `named`, its name is removed at
 * once, so that a killed process leaves nothing behind. */
enum r2_code r2_image_create(struct r2_image *i, const char *db_path, const char *suffix,
                             bool named, struct r2_err *e);

/* Read the whole local database within l's transaction: shape, checksums, page 1; and its bytes
 * into i->fd unless that is -1. */
enum r2_code r2_image_scan(struct r2_image *i, struct r2_local *l, struct r2_err *e);

/* The same from whatever `read` reads; shape as given. */
enum r2_code r2_image_scan_with(struct r2_image *i, uint32_t page_size, uint32_t pages,
                                enum r2_code (*read)(void *ctx, uint32_t first, uint32_t count,
                                                     uint8_t *to, struct r2_err *e),
                                void *ctx, struct r2_err *e);

/* Take over `size` bytes that were fetched into i->fd. R2_CORRUPT when they are no SQLite database
 * of whole pages; the sentence shows how they begin. Fills shape, checksums, page 1. */
enum r2_code r2_image_adopt(struct r2_image *i, uint64_t size, struct r2_err *e);

/* Pages first .. first+count-1 into `to` (the shape of r2_apply's reader). */
enum r2_code r2_image_read(void *image, uint32_t first, uint32_t count, uint8_t *to,
                           struct r2_err *e);

/* Exchange the local fields of page 1 for those of a version's header (bytes 18,
 * 19, 24..31, 40..43, 92..95), in page1, sums[0] and the file. */
enum r2_code r2_image_set_fields(struct r2_image *i, const uint8_t header[R2_HEADER],
                                 struct r2_err *e);

/* Put a patch's pages over the image, and give it the patch's shape. */
struct r2_patch;
enum r2_code r2_image_patch(struct r2_image *i, struct r2_patch *p, struct r2_err *e);

/* The checksum of page 1 as if it had the fields of that header. */
uint64_t r2_image_page1_as(const struct r2_image *i, const uint8_t header[R2_HEADER]);

/* Rolling checksum of the image with the fields that it has now. */
uint64_t r2_image_checksum(const struct r2_image *i);
/* The same with the local fields zeroed: equal for equal content, whatever its version number. */
uint64_t r2_image_content(const struct r2_image *i);

/* The pages that differ from version v, whose checksums are in `area` of the state file. */
struct r2_diff {
    uint8_t *map;   /* bit (pgno-1) for each page of the image that differs or is new; malloc'ed */
    uint32_t pages; /* how many; pages that v had beyond the image's end count too */
    bool shape;     /* page size or size in pages differs */
};
enum r2_code r2_image_compare(const struct r2_image *i, const struct r2_version *v,
                              struct r2_state *s, uint8_t area, struct r2_diff *out,
                              struct r2_err *e);
void r2_diff_free(struct r2_diff *d);

/* Are all differing pages loose: leaves of a free list that is itself unchanged? Then the content
 * is logically v's. Reads trunk pages through l. */
enum r2_code r2_image_only_loose(const struct r2_image *i, const struct r2_diff *d,
                                 struct r2_local *l, bool *yes, struct r2_err *e);
/* The same for a database of which only page 1 is at hand. `read` gives pages of it. */
enum r2_code r2_loose_pages(const uint8_t *page1, uint32_t page_size, uint32_t pages,
                            const struct r2_diff *d,
                            enum r2_code (*read)(void *ctx, uint32_t first, uint32_t count,
                                                 uint8_t *to, struct r2_err *e),
                            void *ctx, bool *yes, struct r2_err *e);

/* The header that the next version gets: `base` (may be NULL: birth) gives journal mode bytes and
 * schema cookie, the image its size; the counter is the version number. */
void r2_image_next_header(const struct r2_image *i, const struct r2_version *base, uint64_t version,
                          uint8_t header[R2_HEADER]);

/* Local schema cookie and change counter of the image's page 1 (0 without pages). */
uint32_t r2_image_cookie(const struct r2_image *i);
uint32_t r2_image_counter(const struct r2_image *i);

#endif
