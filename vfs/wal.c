/* wal.c - see wal.h.
 *
 * One pass. Another process may append, or start the log anew, while we read: what the chain of
 * checksums vouches for was one writer's work, and the first thing that does not fit ends the walk.
 * The rules for what counts are those of SQLite's own recovery (walIndexRecover, walDecodeFrame).
 */
#include "wal.h"

#include <stdlib.h>
#include <string.h>

#include "buf.h"

enum {
    MAGIC = 0x377f0682, /* the lowest bit: checksums over big-endian words */
    VERSION = 3007000,
    PAGE_MIN = 512,
    PAGE_MAX = 65536,
    CHUNK = 512 * 1024, /* bytes per read, rounded down to whole frames */
};

struct walk {
    r2_wal_read_fn read;
    void *ctx;
    bool big_endian;
    uint32_t frame_size;  /* header and page */
    uint32_t page_size;   /* 0: no valid header */
    uint32_t salt[2];     /* of the header; every frame repeats them */
    uint32_t sum[2];      /* cumulative checksum so far */
    uint32_t frame;       /* the frame that next() just took, from 1; 0: none yet */
    uint32_t pgno;        /* its page */
    uint32_t commit;      /* its size field */
    uint8_t *chunk;       /* whole frames, as read */
    uint64_t chunk_bytes; /* its room: a multiple of frame_size */
    uint64_t have;        /* bytes in it */
    uint64_t used;        /* bytes of it taken */
    bool at_end;          /* the file ends with this chunk */
};

static inline uint32_t word(bool big_endian, const uint8_t *p)
{
    return big_endian
               ? r2_get32(p)
               : (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void sum_words(bool big_endian, const uint8_t *p, uint64_t n, uint32_t sum[2])
{
    uint32_t a = sum[0], b = sum[1];
    for (; n >= 8; p += 8, n -= 8) {
        a += word(big_endian, p) + b;
        b += word(big_endian, p + 4) + a;
    }
    sum[0] = a, sum[1] = b;
}

void r2_wal_checksum(bool big_endian, const uint8_t *bytes, uint64_t n, uint32_t sum[2])
{
    /* Two calls, so that each loop is compiled for its byte order. */
    if (big_endian)
        sum_words(true, bytes, n, sum);
    else
        sum_words(false, bytes, n, sum);
}

/* `n` bytes at `at`, or as many as there are before the end of the file. */
static enum r2_code read_some(const struct walk *w, void *to, uint64_t n, uint64_t at,
                              uint64_t *got, struct r2_err *e)
{
    int64_t r = w->read(w->ctx, to, n, at);
    if (r < 0 || (uint64_t)r > n)
        return r2_fail(e, R2_IO, "the -wal file could not be read at offset %llu",
                       (unsigned long long)at);
    *got = (uint64_t)r;
    return R2_OK;
}

/* Read and judge the header. w->page_size stays 0 when there is none that SQLite would take. */
static enum r2_code walk_begin(struct walk *w, r2_wal_read_fn read, void *ctx, struct r2_err *e)
{
    uint8_t head[R2_WAL_HEADER];
    uint64_t got = 0;
    *w = (struct walk){.read = read, .ctx = ctx};
    enum r2_code rc = read_some(w, head, sizeof head, 0, &got, e);
    if (rc || got < sizeof head) return rc;

    uint32_t magic = r2_get32(head), page_size = r2_get32(head + 8);
    if ((magic & ~UINT32_C(1)) != MAGIC || r2_get32(head + 4) != VERSION) return R2_OK;
    if (page_size < PAGE_MIN || page_size > PAGE_MAX || (page_size & (page_size - 1)) != 0)
        return R2_OK;
    w->big_endian = (magic & 1) != 0;
    r2_wal_checksum(w->big_endian, head, 24, w->sum);
    if (w->sum[0] != r2_get32(head + 24) || w->sum[1] != r2_get32(head + 28)) return R2_OK;

    w->frame_size = R2_WAL_FRAME_HEADER + page_size;
    w->chunk_bytes = CHUNK / w->frame_size * w->frame_size;
    w->chunk = malloc(w->chunk_bytes);
    if (!w->chunk)
        return r2_fail(e, R2_NOMEM, "no memory for %llu bytes to read the -wal file",
                       (unsigned long long)w->chunk_bytes);
    w->salt[0] = r2_get32(head + 16);
    w->salt[1] = r2_get32(head + 20);
    w->page_size = page_size;
    return R2_OK;
}

static void walk_end(struct walk *w)
{
    free(w->chunk);
    w->chunk = NULL;
}

static uint64_t frame_at(const struct walk *w, uint32_t frame)
{
    return R2_WAL_HEADER + (uint64_t)(frame - 1) * w->frame_size;
}

/* Take the next valid frame. *more is false at the first that is missing, cut short or not valid.
 */
static enum r2_code walk_next(struct walk *w, bool *more, struct r2_err *e)
{
    *more = false;
    if (!w->page_size || w->frame == UINT32_MAX) return R2_OK;
    if (w->have - w->used < w->frame_size) {
        if (w->at_end) return R2_OK;
        enum r2_code rc =
            read_some(w, w->chunk, w->chunk_bytes, frame_at(w, w->frame + 1), &w->have, e);
        if (rc) return rc;
        w->used = 0;
        w->at_end = w->have < w->chunk_bytes;
        if (w->have < w->frame_size) return R2_OK;
    }
    const uint8_t *f = w->chunk + w->used;
    uint32_t sum[2] = {w->sum[0], w->sum[1]};
    if (r2_get32(f) == 0) return R2_OK;
    if (r2_get32(f + 8) != w->salt[0] || r2_get32(f + 12) != w->salt[1]) return R2_OK;
    r2_wal_checksum(w->big_endian, f, 8, sum);
    r2_wal_checksum(w->big_endian, f + R2_WAL_FRAME_HEADER, w->page_size, sum);
    if (sum[0] != r2_get32(f + 16) || sum[1] != r2_get32(f + 20)) return R2_OK;

    w->used += w->frame_size;
    w->sum[0] = sum[0], w->sum[1] = sum[1];
    w->frame++;
    w->pgno = r2_get32(f);
    w->commit = r2_get32(f + 4);
    *more = true;
    return R2_OK;
}

/* The pages of the transaction that is not yet known to be committed. */
struct open_txn {
    uint32_t *pgno; /* one per frame */
    size_t count, room;
};

static enum r2_code txn_add(struct open_txn *t, uint32_t pgno, struct r2_err *e)
{
    if (t->count == t->room) {
        size_t room = t->room ? t->room * 2 : 256;
        uint32_t *p = room <= SIZE_MAX / sizeof *p ? realloc(t->pgno, room * sizeof *p) : NULL;
        if (!p) return r2_fail(e, R2_NOMEM, "no memory for a -wal transaction of %zu frames", room);
        t->pgno = p;
        t->room = room;
    }
    t->pgno[t->count++] = pgno;
    return R2_OK;
}

/* The commit frame w->frame was valid: tell of all frames of its transaction. */
static enum r2_code txn_tell(struct open_txn *t, const struct walk *w, r2_wal_frame_fn fn,
                             void *fn_ctx)
{
    enum r2_code rc = R2_OK;
    uint32_t first = w->frame - (uint32_t)t->count + 1;
    for (size_t i = 0; i < t->count && !rc; i++) {
        uint32_t frame = first + (uint32_t)i;
        rc = fn(fn_ctx, frame, t->pgno[i], frame_at(w, frame) + R2_WAL_FRAME_HEADER, w->commit);
    }
    t->count = 0;
    return rc;
}

enum r2_code r2_wal_scan(r2_wal_read_fn read, void *ctx, r2_wal_frame_fn fn, void *fn_ctx,
                         struct r2_wal_end *end, struct r2_err *e)
{
    struct walk w;
    struct open_txn txn = {0};
    struct r2_wal_end found = {0};
    bool more = false;
    *end = found;
    enum r2_code rc = walk_begin(&w, read, ctx, e);
    if (rc) goto cleanup;
    found.page_size = w.page_size;
    memcpy(found.salt, w.salt, sizeof found.salt);
    if (w.page_size) memcpy(found.cksum, w.sum, sizeof found.cksum);
    while (!(rc = walk_next(&w, &more, e)) && more) {
        if (fn && (rc = txn_add(&txn, w.pgno, e))) goto cleanup;
        if (!w.commit) continue;
        found.frames = w.frame;
        found.pages = w.commit;
        memcpy(found.cksum, w.sum, sizeof found.cksum);
        if (fn && (rc = txn_tell(&txn, &w, fn, fn_ctx))) goto cleanup;
    }
    if (!rc) *end = found;
cleanup:
    walk_end(&w);
    free(txn.pgno);
    return rc;
}

enum r2_code r2_wal_continues(r2_wal_read_fn read, void *ctx, const struct r2_wal_end *mark,
                              bool *yes, struct r2_err *e)
{
    struct walk w;
    bool more = true;
    *yes = false;
    enum r2_code rc = walk_begin(&w, read, ctx, e);
    if (rc || w.page_size != mark->page_size || memcmp(w.salt, mark->salt, sizeof w.salt) != 0)
        goto cleanup;
    while (w.frame < mark->frames && more)
        if ((rc = walk_next(&w, &more, e))) goto cleanup;
    /* the checksum covers the size, too, for who does not know it */
    *yes = w.page_size && w.frame == mark->frames && (!mark->pages || w.commit == mark->pages) &&
           (mark->frames == 0 || w.commit != 0) && memcmp(w.sum, mark->cksum, sizeof w.sum) == 0;
cleanup:
    walk_end(&w);
    return rc;
}

enum r2_code r2_wal_goes_on(r2_wal_read_fn read, void *ctx, const struct r2_wal_end *end, bool *yes,
                            struct r2_err *e)
{
    enum { FEW = 8 }; /* mostly there is nothing to be read */
    struct walk w;
    bool more = true;
    *yes = false;
    enum r2_code rc = walk_begin(&w, read, ctx, e);
    if (rc || !w.page_size) goto cleanup;
    if (memcmp(w.salt, end->salt, sizeof w.salt) != 0) {
        /* an older log was left where a new one shall begin; a newer one has begun meanwhile */
        bool newer = w.salt[0] - end->salt[0] - 1 < UINT32_MAX / 2;
        if ((end->salt[0] || end->salt[1]) && !newer) goto cleanup;
    } else if (end->frames) {
        w.frame = end->frames;
        memcpy(w.sum, end->cksum, sizeof w.sum);
    }
    if (w.chunk_bytes > FEW * (uint64_t)w.frame_size) w.chunk_bytes = FEW * (uint64_t)w.frame_size;
    while (!*yes && more && !(rc = walk_next(&w, &more, e)))
        *yes = more && w.commit;
cleanup:
    walk_end(&w);
    return rc;
}
