/* ltx_decode.c - pages out of LTX segments; the format is drawn in ltx.h.
 *
 * The segment is read from two places at once: the page frames, and the page index, whose place the
 * last 24 bytes tell. Each frame is held against its index entry before it is inflated; so the
 * frame's size is known, nothing has to be remembered, and frames and index cannot disagree. */
#include "ltx.h"

#include <lz4.h>
#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

enum {
    FRAME_HEADER = 6,
    VARINT_MAX = 10,
    ENTRY_MAX = 3 * VARINT_MAX,
    FRAMES_ROOM = 32 * 1024, /* at least one whole frame with a block, and this much */
    INDEX_ROOM = 2 * 1024,
};

/* A part of the segment, read forward through a buffer. */
struct window {
    uint64_t at, end; /* offsets of the next byte and behind the last */
    uint8_t *buf;
    size_t room;       /* its bytes */
    size_t used, have; /* buf[used..have-1] are the bytes from `at` on */
};

struct entry { /* of the page index; pgno 0: its end */
    uint64_t pgno, off, size;
    uint64_t at; /* where in the segment it stands itself */
};

struct r2_ltx_reader {
    struct r2_ltx_header h;
    r2_ltx_read_fn read;
    void *ctx;
    struct r2_err *err;
    enum r2_code code;  /* the first failure */
    bool ended;         /* all pages were read */
    uint32_t last;      /* page read last, 0: none */
    uint64_t pages_end; /* where the six zero bytes are */
    uint64_t index_at;  /* where the page index begins */
    uint64_t size;      /* of the segment */
    uint64_t crc;       /* of the file up to the next frame */
    uint64_t rolling;   /* of a snapshot's pages so far */
    struct window frames, index;
    LZ4F_dctx *lz4f; /* for LZ4 frames, made when the first comes */
    uint8_t tail[R2_LTX_TAIL];
};

static enum r2_code damaged(struct r2_err *e, uint64_t at, const char *why)
{
    return r2_fail(e, R2_CORRUPT, "the LTX segment is damaged at offset %llu: %s",
                   (unsigned long long)at, why);
}

static enum r2_code damaged_page(struct r2_ltx_reader *d, uint64_t at, uint32_t pgno,
                                 const char *why)
{
    return r2_fail(d->err, R2_CORRUPT, "the LTX segment is damaged at offset %llu, page %u: %s",
                   (unsigned long long)at, pgno, why);
}

/* --- reading --- */

static size_t window_rest(const struct window *w)
{
    return w->have - w->used;
}

/* Have at least n bytes in the buffer; n is neither above its room nor above what is left. */
static enum r2_code window_fill(struct r2_ltx_reader *d, struct window *w, size_t n)
{
    size_t rest = window_rest(w);
    if (rest >= n) return R2_OK;
    if (rest) memmove(w->buf, w->buf + w->used, rest);
    w->used = 0, w->have = rest;
    uint64_t ahead = w->end - w->at - rest;
    size_t want = w->room - rest;
    if (want > ahead) want = (size_t)ahead;
    enum r2_code rc = d->read(d->ctx, w->at + rest, w->buf + rest, want, d->err);
    if (!rc) w->have += want;
    return rc;
}

static const uint8_t *window_at(const struct window *w)
{
    return w->buf + w->used;
}

static void window_skip(struct window *w, size_t n)
{
    w->used += n;
    w->at += n;
}

/* A varint of at most n bytes in its shortest form; returns its length, 0: there is none. */
static size_t get_varint(const uint8_t *p, size_t n, uint64_t *v)
{
    *v = 0;
    for (size_t i = 0; i < n && i < VARINT_MAX; i++) {
        if (i == VARINT_MAX - 1 && p[i] > 1) return 0; /* over 64 bits */
        *v |= (uint64_t)(p[i] & 0x7f) << (7 * i);
        if (!(p[i] & 0x80)) return i && !p[i] ? 0 : i + 1;
    }
    return 0;
}

static enum r2_code next_entry(struct r2_ltx_reader *d, struct entry *en)
{
    struct window *w = &d->index;
    uint64_t left = w->end - w->at;
    size_t most = left < ENTRY_MAX ? (size_t)left : ENTRY_MAX, n = 0, got;
    *en = (struct entry){.at = w->at};
    if (!most) return damaged(d->err, w->at, "the page index has no end mark");
    enum r2_code rc = window_fill(d, w, most);
    if (rc) return rc;
    uint64_t *fields[] = {&en->pgno, &en->off, &en->size};
    for (int i = 0; i < 3; i++) {
        got = get_varint(window_at(w) + n, most - n, fields[i]);
        if (!got) return damaged(d->err, w->at + n, "the page index has a broken number");
        n += got;
        if (!en->pgno) break;
    }
    window_skip(w, n);
    return R2_OK;
}

/* --- open --- */

enum r2_code r2_ltx_get_header(const uint8_t *p, struct r2_ltx_header *h, struct r2_err *e)
{
    unsigned at;
    *h = (struct r2_ltx_header){.flags = r2_get32(p + 4),
                                .page_size = r2_get32(p + 8),
                                .commit = r2_get32(p + 12),
                                .min_txid = r2_get64(p + 16),
                                .max_txid = r2_get64(p + 24),
                                .timestamp_ms = (int64_t)r2_get64(p + 32),
                                .pre = r2_get64(p + 40),
                                .wal_offset = (int64_t)r2_get64(p + 48),
                                .wal_size = (int64_t)r2_get64(p + 56),
                                .salt1 = r2_get32(p + 64),
                                .salt2 = r2_get32(p + 68),
                                .node_id = r2_get64(p + 72)};
    if (memcmp(p, "LTX1", 4) != 0) return damaged(e, 0, "it does not begin with LTX1");
    if (h->flags == R2_LTX_NO_CHECKSUM)
        return r2_fail(e, R2_REFUSED,
                       "the LTX segment was written without checksums (flag 2 at offset 4); "
                       "r2vfs takes only segments with them");
    const char *fault = r2_ltx_header_fault(h, &at);
    if (fault) return damaged(e, at, fault);
    for (unsigned i = 80; i < R2_LTX_HEADER; i++)
        if (p[i]) return damaged(e, i, "a reserved byte of the header is not zero");
    return R2_OK;
}

/* Read both ends of the segment: they say where all parts are. */
static enum r2_code read_ends(r2_ltx_read_fn read, void *ctx, uint64_t size, uint8_t *head,
                              uint8_t *tail, struct r2_ltx_header *h, struct r2_err *e)
{
    const uint64_t least = R2_LTX_HEADER + R2_LTX_END + 1 + R2_LTX_TAIL;
    if (size < least || size > INT64_MAX)
        return r2_fail(e, R2_CORRUPT,
                       "the LTX segment is damaged: it has %llu bytes, and the least is %llu",
                       (unsigned long long)size, (unsigned long long)least);
    enum r2_code rc = read(ctx, 0, head, R2_LTX_HEADER, e);
    if (rc || (rc = r2_ltx_get_header(head, h, e))) return rc;
    if ((rc = read(ctx, size - R2_LTX_TAIL, tail, R2_LTX_TAIL, e))) return rc;
    uint64_t index = r2_get64(tail);
    if (!index || index > size - least + 1)
        return r2_fail(e, R2_CORRUPT,
                       "the LTX segment is damaged at offset %llu: a page index of %llu bytes "
                       "cannot be in a segment of %llu",
                       (unsigned long long)(size - R2_LTX_TAIL), (unsigned long long)index,
                       (unsigned long long)size);
    return R2_OK;
}

static void index_rewind(struct r2_ltx_reader *d)
{
    struct window *w = &d->index;
    w->at = d->index_at;
    w->end = d->size - R2_LTX_TAIL;
    w->used = w->have = 0;
}

enum r2_code r2_ltx_open(struct r2_ltx_reader **made, r2_ltx_read_fn read, void *ctx, uint64_t size,
                         struct r2_ltx_header *h, struct r2_err *e)
{
    uint8_t head[R2_LTX_HEADER], tail[R2_LTX_TAIL];
    *made = NULL;
    enum r2_code rc = read_ends(read, ctx, size, head, tail, h, e);
    if (rc) return rc;
    size_t frames = R2_LTX_FRAME + (size_t)LZ4_compressBound((int)h->page_size);
    if (frames < FRAMES_ROOM) frames = FRAMES_ROOM;
    struct r2_ltx_reader *d = malloc(sizeof *d + frames + INDEX_ROOM);
    if (!d) return r2_fail(e, R2_NOMEM, "no memory to read an LTX segment");
    *d = (struct r2_ltx_reader){.h = *h, .read = read, .ctx = ctx, .err = e, .size = size};
    memcpy(d->tail, tail, sizeof tail);
    d->index_at = size - R2_LTX_TAIL - r2_get64(tail);
    d->pages_end = d->index_at - R2_LTX_END;
    d->crc = r2_crc64(0, head, sizeof head);
    d->rolling = R2_LTX_FLAG;
    d->frames = (struct window){
        .at = R2_LTX_HEADER, .end = d->index_at, .buf = (uint8_t *)(d + 1), .room = frames};
    d->index = (struct window){.buf = (uint8_t *)(d + 1) + frames, .room = INDEX_ROOM};
    index_rewind(d);
    *made = d;
    return R2_OK;
}

void r2_ltx_close(struct r2_ltx_reader *d)
{
    if (!d) return;
    LZ4F_freeDecompressionContext(d->lz4f);
    free(d);
}

/* --- pages --- */

/* The block of a frame whose first 6 bytes were taken. */
static enum r2_code inflate_block(struct r2_ltx_reader *d, const struct entry *en, uint32_t pgno,
                                  void *page)
{
    struct window *w = &d->frames;
    if (en->size < R2_LTX_FRAME) return damaged_page(d, w->at, pgno, "its frame is cut short");
    enum r2_code rc = window_fill(d, w, 4);
    if (rc) return rc;
    uint32_t n = r2_get32(window_at(w));
    if (n != en->size - R2_LTX_FRAME)
        return damaged_page(d, w->at, pgno, "its size is not the one in the page index");
    if (n > (uint32_t)LZ4_compressBound((int)d->h.page_size))
        return damaged_page(d, w->at, pgno, "its LZ4 block is larger than any for this page size");
    d->crc = r2_crc64(d->crc, window_at(w), 4);
    window_skip(w, 4);
    if ((rc = window_fill(d, w, n))) return rc;
    /* It takes a match of distance 0, which repeats what was in `page`: the checksum judges it. */
    int got = LZ4_decompress_safe((const char *)window_at(w), page, (int)n, (int)d->h.page_size);
    if (got < 0 || (uint32_t)got != d->h.page_size)
        return damaged_page(d, w->at, pgno, "its LZ4 block does not inflate to a page");
    window_skip(w, n);
    return R2_OK;
}

static enum r2_code frame_failed(struct r2_ltx_reader *d, uint32_t pgno, LZ4F_errorCode_t why)
{
    if (strcmp(LZ4F_getErrorName(why), "ERROR_allocation_failed") == 0)
        return r2_fail(d->err, R2_NOMEM, "no memory to inflate an LZ4 frame");
    return damaged_page(d, d->frames.at, pgno, "its LZ4 frame cannot be inflated");
}

/* An LZ4 frame (older writers), likewise. It may have several blocks, and be longer than our
 * buffer. */
static enum r2_code inflate_frame(struct r2_ltx_reader *d, const struct entry *en, uint32_t pgno,
                                  uint8_t *page)
{
    struct window *w = &d->frames;
    uint64_t left = en->size - FRAME_HEADER;
    size_t got = 0, more = 1;
    uint8_t spare; /* room for a byte too much */
    /* After a whole frame it is ready for the next; after a failure nothing is read any more. */
    if (!d->lz4f && LZ4F_isError(LZ4F_createDecompressionContext(&d->lz4f, LZ4F_VERSION)))
        return r2_fail(d->err, R2_NOMEM, "no memory to inflate an LZ4 frame");
    while (more) {
        if (!left) return damaged_page(d, w->at, pgno, "its LZ4 frame is cut short");
        enum r2_code rc = window_fill(d, w, 1);
        if (rc) return rc;
        size_t in = window_rest(w) < left ? window_rest(w) : (size_t)left;
        size_t out = got < d->h.page_size ? d->h.page_size - got : 1;
        more = LZ4F_decompress(d->lz4f, got < d->h.page_size ? page + got : &spare, &out,
                               window_at(w), &in, NULL);
        if (LZ4F_isError(more)) return frame_failed(d, pgno, more);
        if (more && !in && !out) return damaged_page(d, w->at, pgno, "its LZ4 frame goes nowhere");
        window_skip(w, in);
        left -= in;
        got += out;
        if (got > d->h.page_size)
            return damaged_page(d, w->at, pgno, "its LZ4 frame inflates to more than a page");
    }
    if (got != d->h.page_size)
        return damaged_page(d, w->at, pgno, "its LZ4 frame inflates to less than a page");
    if (left) return damaged_page(d, w->at, pgno, "its size is not the one in the page index");
    return R2_OK;
}

/* All frames were taken: so must be the index, and six zero bytes follow. */
static enum r2_code pages_end(struct r2_ltx_reader *d)
{
    struct window *w = &d->frames;
    struct entry en;
    enum r2_code rc = next_entry(d, &en);
    if (rc) return rc;
    if (en.pgno) return damaged(d->err, en.at, "the page index names a page that is not there");
    if (d->index.at != d->index.end)
        return damaged(d->err, d->index.at, "bytes follow the end mark of the page index");
    if ((rc = window_fill(d, w, R2_LTX_END))) return rc;
    for (size_t i = 0; i < R2_LTX_END; i++)
        if (window_at(w)[i])
            return damaged(d->err, w->at + i, "the pages do not end with six zero bytes");
    d->crc = r2_crc64(d->crc, window_at(w), R2_LTX_END);
    d->ended = true;
    return R2_OK;
}

static enum r2_code next_page(struct r2_ltx_reader *d, uint32_t *pgno, void *page)
{
    struct window *w = &d->frames;
    struct entry en;
    uint64_t at = w->at;
    if (at == d->pages_end) return pages_end(d);
    if (d->pages_end - at < FRAME_HEADER) return damaged(d->err, at, "a page frame is cut short");
    enum r2_code rc = next_entry(d, &en);
    if (rc || (rc = window_fill(d, w, FRAME_HEADER))) return rc;
    uint32_t p = r2_get32(window_at(w)), flags = r2_get16(window_at(w) + 4);
    const char *fault = r2_ltx_page_fault(&d->h, d->last, p);
    if (fault) return damaged_page(d, at, p, fault);
    if (flags > 1) return damaged_page(d, at + 4, p, "its frame has unknown flags");
    if (!en.pgno) return damaged_page(d, en.at, p, "the page index ends before it");
    if (en.pgno != p || en.off != at || en.size <= FRAME_HEADER || en.size > d->pages_end - at)
        return r2_fail(d->err, R2_CORRUPT,
                       "the LTX segment is damaged at offset %llu: the page index says page %llu "
                       "at offset %llu with %llu bytes, but page %u stands at offset %llu",
                       (unsigned long long)en.at, (unsigned long long)en.pgno,
                       (unsigned long long)en.off, (unsigned long long)en.size, p,
                       (unsigned long long)at);
    d->crc = r2_crc64(d->crc, window_at(w), FRAME_HEADER);
    window_skip(w, FRAME_HEADER);
    rc = flags ? inflate_block(d, &en, p, page) : inflate_frame(d, &en, p, page);
    if (rc) return rc;
    d->crc = r2_crc64(d->crc, page, d->h.page_size);
    if (d->h.min_txid == 1)
        d->rolling = r2_ltx_exchange(d->rolling, 0, r2_ltx_page_checksum(p, page, d->h.page_size));
    d->last = *pgno = p;
    return R2_OK;
}

enum r2_code r2_ltx_next(struct r2_ltx_reader *d, uint32_t *pgno, void *page, bool *end)
{
    *pgno = 0;
    *end = false;
    if (!d->code && !d->ended) d->code = next_page(d, pgno, page);
    *end = !d->code && d->ended;
    return d->code;
}

/* --- the end --- */

static enum r2_code check_end(struct r2_ltx_reader *d)
{
    struct window *w = &d->index;
    uint64_t crc = d->crc, post = r2_get64(d->tail + 8), sum = r2_get64(d->tail + 16);
    index_rewind(d);
    while (w->at < w->end) {
        enum r2_code rc = window_fill(d, w, 1);
        if (rc) return rc;
        crc = r2_crc64(crc, window_at(w), window_rest(w));
        window_skip(w, window_rest(w));
    }
    crc = R2_LTX_FLAG | r2_crc64(crc, d->tail, 16);
    if (crc != sum)
        return r2_fail(d->err, R2_CORRUPT,
                       "the LTX segment is damaged: the checksum of the file is %016llx, and "
                       "%016llx stands at offset %llu",
                       (unsigned long long)crc, (unsigned long long)sum,
                       (unsigned long long)(d->size - 8));
    const char *fault = r2_ltx_end_fault(&d->h, d->last, d->rolling, post);
    return fault ? damaged(d->err, d->size - 16, fault) : R2_OK;
}

enum r2_code r2_ltx_finish(struct r2_ltx_reader *d, uint64_t *post)
{
    if (!d->code && !d->ended)
        d->code = r2_fail(d->err, R2_REFUSED, "not all pages of the LTX segment were read");
    if (!d->code) d->code = check_end(d);
    *post = d->code ? 0 : r2_get64(d->tail + 8);
    return d->code;
}

enum r2_code r2_ltx_verify(r2_ltx_read_fn read, void *ctx, uint64_t size, struct r2_ltx_header *h,
                           uint64_t *post, struct r2_err *e)
{
    struct r2_ltx_reader *d;
    uint32_t pgno;
    bool end = false;
    *post = 0;
    enum r2_code rc = r2_ltx_open(&d, read, ctx, size, h, e);
    if (rc) return rc;
    void *page = calloc(1, h->page_size);
    if (!page) rc = r2_fail(e, R2_NOMEM, "no memory for a page of %u bytes", h->page_size);
    while (!rc && !end)
        rc = r2_ltx_next(d, &pgno, page, &end);
    if (!rc) rc = r2_ltx_finish(d, post);
    free(page);
    r2_ltx_close(d);
    return rc;
}

enum r2_code r2_ltx_read_bytes(void *bytes, uint64_t off, void *to, size_t n, struct r2_err *e)
{
    const struct r2_ltx_bytes *b = bytes;
    if (off > b->size || n > b->size - off)
        return r2_fail(e, R2_IO, "%zu bytes at offset %llu of %llu are not there", n,
                       (unsigned long long)off, (unsigned long long)b->size);
    memcpy(to, (const uint8_t *)b->at + off, n);
    return R2_OK;
}
