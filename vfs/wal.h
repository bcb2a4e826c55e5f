/* wal.h - read the committed frames of a -wal file. Pure: reads through a callback.
 *
 *   header, 32 bytes, big-endian u32 each:
 *     0 magic 0x377f0682 (checksums over little-endian words) or 0x377f0683 (big-endian)
 *     4 version 3007000   8 page size   12 checkpoint sequence   16,20 salt-1, salt-2
 *     24,28 checksum of bytes 0..23
 *   then frames of 24 + page size bytes:
 *     0 page number   4 size of the database in pages if this frame commits, else 0
 *     8,12 the salts again   16,20 cumulative checksum: header checksum, then bytes 0..7 of each
 *     frame header and its page
 *
 * A frame counts when its salts and cumulative checksum are right and so are all before it; a
 * transaction counts up to its last committing frame. (SQLite: "WAL Format" in fileformat2.) */
#ifndef R2_WAL_H
#define R2_WAL_H

#include <stdbool.h>
#include <stdint.h>

#include "err.h"

enum { R2_WAL_HEADER = 32, R2_WAL_FRAME_HEADER = 24 };

/* Read exactly n bytes at `at`; returns how many there were (fewer at the end of the file), or a
 * negative number after a failure. */
typedef int64_t (*r2_wal_read_fn)(void *ctx, void *to, uint64_t n, uint64_t at);

struct r2_wal_end {
    uint32_t page_size; /* 0: no valid header, that is, no frames */
    uint32_t salt[2];
    uint32_t frames;   /* index (from 1) of the last committing frame; 0: none */
    uint32_t pages;    /* database size it gives */
    uint32_t cksum[2]; /* its cumulative checksum; frames 0: the header's */
};

/* Called once for every frame of the committed part, in order, after its whole transaction was seen
 * to be valid. `page_at` is the page's offset in the -wal file, `frame` its index from 1. */
typedef enum r2_code (*r2_wal_frame_fn)(void *ctx, uint32_t frame, uint32_t pgno, uint64_t page_at,
                                        uint32_t commit_pages);

/* Walk the file once and say where its committed part ends. fn may be NULL. A missing, empty, short
 * or foreign file is not an error: end->frames is 0. R2_IO when reading fails, R2_NOMEM, or what fn
 * returned, which ends the walk; *end is all zeros then. */
enum r2_code r2_wal_scan(r2_wal_read_fn read, void *ctx, r2_wal_frame_fn fn, void *fn_ctx,
                         struct r2_wal_end *end, struct r2_err *e);

/* Does the -wal hold, as a commit, frame `mark->frames` with mark's salts and checksum? Then what
 * it holds now continues what it held when the mark was taken. A mark with a header and no frames
 * is continued by the same header; a mark without a header by nothing (the caller has to compare).
 */
enum r2_code r2_wal_continues(r2_wal_read_fn read, void *ctx, const struct r2_wal_end *mark,
                              bool *yes, struct r2_err *e);

/* Is a commit in the -wal that follows `end`, the last one that the wal-index knows (all zeros: it
 * knows of none, nor of the salts)? Its writer has not said so yet, or died before. */
enum r2_code r2_wal_goes_on(r2_wal_read_fn read, void *ctx, const struct r2_wal_end *end, bool *yes,
                            struct r2_err *e);

/* SQLite's WAL checksum over n bytes (a multiple of 8), continued in sum[2]. */
void r2_wal_checksum(bool big_endian, const uint8_t *bytes, uint64_t n, uint32_t sum[2]);

#endif
