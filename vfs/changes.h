/* changes.h - what a local file has that its base does not: the pages that differ, found by the
 * marks in the state file and the base's checksums, without reading the rest.
 *
 * Page 1 is compared as it would be in the base (its local fields exchanged), and is always among
 * the changes when there are any. */
#ifndef R2_CHANGES_H
#define R2_CHANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "image.h"
#include "patch.h"
#include "state.h"

/* Where pages come from: a session's read transaction, or a transaction that is about to commit. */
struct r2_source {
    enum r2_code (*shape)(void *ctx, uint32_t *page_size, uint32_t *pages, struct r2_err *e);
    enum r2_code (*read)(void *ctx, uint32_t first, uint32_t count, uint8_t *to, struct r2_err *e);
    void *ctx;
};
struct r2_source r2_source_of(struct r2_local *l);

/* Read a whole database from a source, as r2_image_scan does from a session. */
enum r2_code r2_image_read_source(struct r2_image *i, const struct r2_source *from,
                                  struct r2_err *e);

struct r2_changes {
    struct r2_patch patch;
    uint8_t *page1; /* the local one; NULL without pages */
    uint64_t rest;  /* the rolling checksum of all pages but page 1, afterwards, without its flag */
    uint32_t changed; /* pages that differ, page 1 only if its content does; or that are gone */
    bool reshaped;    /* another size, or another page size */
};

/* `d`: what may differ (not complete: all). `area`: base's checksums. Only pages that differ are
 * kept, and page 1. */
enum r2_code r2_changes_find(struct r2_changes *c, const struct r2_source *from,
                             const struct r2_version *base, struct r2_state *s, uint8_t area,
                             const struct r2_dirty *d, const char *db_path, struct r2_err *e);
void r2_changes_free(struct r2_changes *c);

/* Do they consist of loose pages only? *loose: which; free it. */
enum r2_code r2_changes_only_loose(const struct r2_changes *c, const struct r2_source *from,
                                   struct r2_diff *loose, bool *yes, struct r2_err *e);

/* Give page 1 the fields of the version that they become; *checksum: that version's. */
enum r2_code r2_changes_become(struct r2_changes *c, const uint8_t header[R2_HEADER],
                               uint64_t *checksum, struct r2_err *e);

#endif
