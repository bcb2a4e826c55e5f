/* log_list.h - what stands in a log, and which versions can be rebuilt from it.
 *
 * A version can be rebuilt when it stands there whole (the snapshot, or a base: an earlier snapshot
 * that was kept), or when its segment follows one that can. */
#ifndef R2_LOG_LIST_H
#define R2_LOG_LIST_H

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

enum r2_log_kind { R2_LOG_BASE, R2_LOG_SEGMENT };

struct r2_log_entry {
    enum r2_log_kind kind;
    uint64_t version, bytes;
    int64_t modified_ms;
};

/* Called with ascending versions, a base before the segment; false ends the listing. */
typedef bool (*r2_log_entry_fn)(void *ctx, const struct r2_log_entry *entry);
/* All that the log of a lineage has above version `after` (0: all), as it comes from the remote.
 * Names that are none of ours are passed over. */
enum r2_code r2_log_list(struct r2_log *l, const uint8_t lineage[16], uint64_t after,
                         r2_log_entry_fn fn, void *ctx);

/* ---- pure: version by version ---- */

struct r2_past_row {
    uint64_t version;
    uint64_t bytes;      /* of its segment; without one, of the whole version */
    int64_t modified_ms; /* of the same object: the version is not younger */
    bool base, snapshot, segment;
    bool reachable;
};
typedef void (*r2_past_row_fn)(void *ctx, const struct r2_past_row *row);

struct r2_past {
    struct r2_past_row row;      /* being put together; version 0: none */
    struct r2_past_row snapshot; /* not told yet; version 0: it was */
    uint64_t reach;              /* the last version that can be rebuilt; 0: none so far */
    r2_past_row_fn fn;
    void *ctx;
};
/* The snapshot's version, size and age; then the log's entries; then fn has had all rows. */
void r2_past_begin(struct r2_past *p, uint64_t version, uint64_t bytes, int64_t modified_ms,
                   r2_past_row_fn fn, void *ctx);
bool r2_past_add(void *past, const struct r2_log_entry *entry);
void r2_past_end(struct r2_past *p);

/* Which version, and what to start from. */
struct r2_want {
    uint64_t version; /* 0: the newest one that is not younger than at_ms */
    int64_t at_ms;
};
struct r2_choice {
    struct r2_want want;
    uint64_t version;        /* 0: there is none */
    uint64_t base;           /* the newest whole one at or below it */
    bool from_snapshot;      /* that is the snapshot */
    uint64_t lost;           /* the segment for want of which it cannot be rebuilt; 0: none */
    uint64_t oldest, newest; /* oldest that can be rebuilt, newest that is there */
    int64_t oldest_ms;
    uint64_t reach, whole; /* on the way: see r2_choice_row */
    bool whole_is_snapshot;
};
void r2_choice_begin(struct r2_choice *c, const struct r2_want *want);
void r2_choice_row(void *choice, const struct r2_past_row *row);

/* ---- the image of a version ---- */

struct r2_past_in {
    struct r2_log *log;
    const char *url;
    int64_t timeout_ms;  /* of each transfer */
    int64_t retention_s; /* for sentences */
};

/* Find and rebuild it into image->fd. *out: that version, as after r2_log_fetch(). R2_REFUSED: it
 * is not kept any more, or not there yet; R2_CORRUPT: what it needs is missing or damaged. */
enum r2_code r2_past_image(const struct r2_past_in *in, const struct r2_want *want,
                           struct r2_image *image, struct r2_remote *out);

/* What stands at KEY, and all rows, oldest first. */
enum r2_code r2_past_rows(const struct r2_past_in *in, struct r2_remote *snapshot,
                          r2_past_row_fn fn, void *ctx);

/* The header of a segment. */
enum r2_code r2_past_header(const struct r2_past_in *in, struct r2_call *call,
                            const uint8_t lineage[16], uint64_t version, struct r2_ltx_header *out);

#endif
