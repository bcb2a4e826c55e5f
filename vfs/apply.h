/* apply.h - write a pulled version into the local file, under SQLite's own locks, crash-safe.
 *
 * At every moment any SQLite that opens the file, also after kill -9 or a power loss, finds the old
 * content or the new, never a mixture:
 *  - rollback modes: under EXCLUSIVE, the old pages go into app.db-journal in SQLite's own format,
 *    synced with its folder; then the new pages, truncate, sync; unlinking the journal commits;
 *  - WAL mode: under the write lock, frames are appended to app.db-wal, the last one committing;
 *    synced; then the wal-index's hash and header are published. Readers in progress keep theirs.
 * A change of page size, or a shrink to 0 pages, is possible in the rollback modes only.
 *
 * Page 1 keeps the local file's journal mode bytes (18, 19); bytes 24..27 and 92..95 become the
 * local change counter + 1 (so every SQLite drops its cache), 28..31 the size, and 40..43 (schema
 * cookie) stay as they are locally, or + 1 when `new_schema`. An empty local file takes page 1 as
 * it is. */
#ifndef R2_APPLY_H
#define R2_APPLY_H

#include <stdbool.h>
#include <stdint.h>

#include "err.h"
#include "local.h"

/* The new content. */
struct r2_apply {
    uint32_t page_size;
    uint32_t pages;           /* size after applying */
    const uint8_t *write_map; /* bit (pgno-1): this page differs and is to be written; page 1 always
                                 is. All pages beyond the local file's size must be set, and after a
                                 change of page size all pages. The lock page's bit is ignored. */
    /* Pages first .. first+count-1 of the new version into `to`; page 1 is asked for twice. */
    enum r2_code (*read)(void *ctx, uint32_t first, uint32_t count, uint8_t *to, struct r2_err *e);
    void *ctx;
    bool new_schema; /* the schema differs, or the content does not continue the local one */
};

/* Apply within the write transaction that r2_local_begin_write began on `l`. On R2_OK the content
 * is committed and durable. R2_UNKNOWN: the disk refused the very last step, and which of the two
 * contents a power loss would leave is open (rollback modes: every process now finds the new one;
 * WAL: the old one). On any other failure the file holds the old content: in the rollback modes,
 * once pages were written, the complete journal stays in place and r2_local_end has SQLite play it
 * back. The caller ends the transaction with r2_local_end in all cases, and applies nothing more
 * within it. */
enum r2_code r2_apply(struct r2_local *l, const struct r2_apply *a, struct r2_err *e);

#endif
