/* ltx_encode.c - LTX segments out of pages; the format is drawn in ltx.h.
 *
 * LZ4_compress_fast_extState makes the same blocks as LZ4_compress_default without 16 KiB of the
 * caller's stack. A stream that is reset for each page (LZ4_resetStream_fast) was slower and its
 * blocks larger: its table is made for much longer inputs. */
#include "ltx.h"

#include <lz4.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

enum { VARINT_MAX = 10, ENTRY_MAX = 3 * VARINT_MAX };

struct r2_ltx_writer {
    struct r2_ltx_header h;
    r2_ltx_out_fn out;
    void *ctx;
    struct r2_err *err;
    enum r2_code code;   /* the first failure */
    bool ended;          /* r2_ltx_end was called */
    uint32_t last;       /* page written last, 0: none */
    uint64_t crc;        /* of the file so far */
    uint64_t rolling;    /* of a snapshot's pages so far */
    uint64_t size;       /* bytes given to `out` */
    struct r2_buf index; /* the page index, as it will stand in the file */
    void *lz4;           /* compression state */
    uint8_t *frame;      /* one page frame */
    int block_room;      /* bytes in it for the LZ4 block */
};

void r2_ltx_put_header(uint8_t *p, const struct r2_ltx_header *h)
{
    memset(p, 0, R2_LTX_HEADER);
    memcpy(p, "LTX1", 4);
    r2_put32(p + 4, h->flags);
    r2_put32(p + 8, h->page_size);
    r2_put32(p + 12, h->commit);
    r2_put64(p + 16, h->min_txid);
    r2_put64(p + 24, h->max_txid);
    r2_put64(p + 32, (uint64_t)h->timestamp_ms);
    r2_put64(p + 40, h->pre);
    r2_put64(p + 48, (uint64_t)h->wal_offset);
    r2_put64(p + 56, (uint64_t)h->wal_size);
    r2_put32(p + 64, h->salt1);
    r2_put32(p + 68, h->salt2);
    r2_put64(p + 72, h->node_id);
}

static size_t put_varint(uint8_t *p, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    return n;
}

/* Hand n bytes on; the CRC is the caller's. */
static enum r2_code give(struct r2_ltx_writer *w, const void *bytes, size_t n)
{
    if (!w->out(w->ctx, bytes, n)) {
        if (w->err && w->err->code) return w->code = w->err->code; /* out's own sentence */
        return w->code =
                   r2_fail(w->err, R2_IO, "an LTX segment could not be written at offset %llu",
                           (unsigned long long)w->size);
    }
    w->size += n;
    return R2_OK;
}

static enum r2_code give_summed(struct r2_ltx_writer *w, const void *bytes, size_t n)
{
    w->crc = r2_crc64(w->crc, bytes, n);
    return give(w, bytes, n);
}

static struct r2_ltx_writer *writer_new(uint32_t page_size)
{
    /* One piece: the writer, LZ4's state (aligned like it), a frame. */
    size_t head = (sizeof(struct r2_ltx_writer) + 15) & ~(size_t)15;
    size_t state = ((size_t)LZ4_sizeofState() + 15) & ~(size_t)15;
    int block = LZ4_compressBound((int)page_size);
    uint8_t *at = malloc(head + state + R2_LTX_FRAME + (size_t)block);
    if (!at) return NULL;
    struct r2_ltx_writer *w = (void *)at;
    *w = (struct r2_ltx_writer){
        .lz4 = at + head, .frame = at + head + state, .block_room = block, .rolling = R2_LTX_FLAG};
    return w;
}

enum r2_code r2_ltx_begin(struct r2_ltx_writer **made, const struct r2_ltx_header *h,
                          r2_ltx_out_fn out, void *ctx, struct r2_err *e)
{
    unsigned at;
    const char *fault = r2_ltx_header_fault(h, &at);
    *made = NULL;
    if (e) r2_err_clear(e);
    if (fault) return r2_fail(e, R2_REFUSED, "no LTX segment can be written like this: %s", fault);
    struct r2_ltx_writer *w = writer_new(h->page_size);
    if (!w) return r2_fail(e, R2_NOMEM, "no memory to write an LTX segment");
    w->h = *h;
    w->out = out;
    w->ctx = ctx;
    w->err = e;
    uint64_t most = (uint64_t)h->commit * ENTRY_MAX + 1;
    r2_buf_init(&w->index, most < SIZE_MAX / 4 ? (size_t)most : SIZE_MAX / 4);

    uint8_t header[R2_LTX_HEADER];
    r2_ltx_put_header(header, h);
    enum r2_code rc = give_summed(w, header, sizeof header);
    if (rc)
        r2_ltx_free(w);
    else
        *made = w;
    return rc;
}

static enum r2_code index_add(struct r2_ltx_writer *w, uint32_t pgno, uint64_t off, uint64_t size)
{
    uint8_t entry[ENTRY_MAX];
    size_t n = put_varint(entry, pgno);
    n += put_varint(entry + n, off);
    n += put_varint(entry + n, size);
    if (r2_buf_add(&w->index, entry, n)) return R2_OK;
    return w->code = r2_fail(w->err, R2_NOMEM, "no memory for the page index of an LTX segment");
}

enum r2_code r2_ltx_page(struct r2_ltx_writer *w, uint32_t pgno, const void *page)
{
    const char *fault;
    if (w->code) return w->code;
    if (w->ended)
        return w->code = r2_fail(w->err, R2_REFUSED, "page %u after an LTX segment's end", pgno);
    if ((fault = r2_ltx_page_fault(&w->h, w->last, pgno)))
        return w->code = r2_fail(w->err, R2_REFUSED, "page %u cannot go into an LTX segment: %s",
                                 pgno, fault);
    uint8_t *f = w->frame;
    int n = LZ4_compress_fast_extState(w->lz4, page, (char *)f + R2_LTX_FRAME, (int)w->h.page_size,
                                       w->block_room, 1);
    if (n <= 0) /* there is room for the worst */
        return w->code = r2_fail(w->err, R2_REFUSED, "page %u could not be compressed", pgno);
    r2_put32(f, pgno);
    f[4] = 0, f[5] = 1;
    r2_put32(f + 6, (uint32_t)n);
    w->crc = r2_crc64(w->crc, f, R2_LTX_FRAME);
    w->crc = r2_crc64(w->crc, page, w->h.page_size);
    if (w->h.min_txid == 1)
        w->rolling =
            r2_ltx_exchange(w->rolling, 0, r2_ltx_page_checksum(pgno, page, w->h.page_size));
    w->last = pgno;
    uint64_t at = w->size;
    size_t size = R2_LTX_FRAME + (size_t)n;
    enum r2_code rc = give(w, f, size);
    return rc ? rc : index_add(w, pgno, at, size);
}

enum r2_code r2_ltx_end(struct r2_ltx_writer *w, uint64_t post, uint64_t *file_checksum,
                        uint64_t *size)
{
    static const uint8_t zeros[R2_LTX_END];
    uint8_t tail[R2_LTX_TAIL];
    const char *fault;
    enum r2_code rc;
    if (w->code) return w->code;
    if (w->ended)
        return w->code = r2_fail(w->err, R2_REFUSED, "an LTX segment was ended a second time");
    if ((fault = r2_ltx_end_fault(&w->h, w->last, w->rolling, post)))
        return w->code = r2_fail(w->err, R2_REFUSED, "no LTX segment can end like this: %s", fault);
    w->ended = true;
    if (!r2_buf_add(&w->index, zeros, 1))
        return w->code = r2_fail(w->err, R2_NOMEM, "no memory for an LTX segment's page index");
    if ((rc = give_summed(w, zeros, sizeof zeros))) return rc;
    if ((rc = give_summed(w, w->index.at, w->index.len))) return rc;
    r2_put64(tail, w->index.len);
    r2_put64(tail + 8, post);
    uint64_t sum = R2_LTX_FLAG | r2_crc64(w->crc, tail, 16);
    r2_put64(tail + 16, sum);
    if ((rc = give(w, tail, sizeof tail))) return rc;
    *file_checksum = sum;
    *size = w->size;
    return R2_OK;
}

void r2_ltx_free(struct r2_ltx_writer *w)
{
    if (!w) return;
    r2_buf_free(&w->index);
    free(w);
}
