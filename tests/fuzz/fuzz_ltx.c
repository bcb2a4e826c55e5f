/* fuzz_ltx.c - the segment decoder; what it takes can be written again and is the same. */
#include "ltx_repair.h"

struct out {
    struct r2_buf buf;
};

static bool on_bytes(void *ctx, const void *bytes, size_t n)
{
    return r2_buf_add(&((struct out *)ctx)->buf, bytes, n);
}

/* Only bytes of the segment are ever asked for. */
static enum r2_code read_checked(void *ctx, uint64_t off, void *to, size_t n, struct r2_err *e)
{
    const struct r2_ltx_bytes *b = ctx;
    RULE(off <= b->size && n <= b->size - off);
    return r2_ltx_read_bytes(ctx, off, to, n, e);
}

/* Decode and encode side by side; the result in `out`. false: it is no segment. */
static bool copy(uint8_t *p, size_t n, struct out *out, struct r2_ltx_header *h, uint64_t *post)
{
    struct r2_ltx_bytes b = {p, n};
    struct r2_ltx_reader *d;
    struct r2_ltx_writer *w = NULL;
    struct r2_err e, own;
    uint32_t pgno, last = 0;
    uint64_t sum, size;
    bool end = false;
    r2_buf_init(&out->buf, SIZE_MAX / 4);
    r2_err_clear(&e), r2_err_clear(&own);
    enum r2_code rc = r2_ltx_open(&d, read_checked, &b, n, h, &e);
    uint8_t *page = rc ? NULL : malloc(h->page_size);
    if (!rc) RULE(r2_ltx_begin(&w, h, on_bytes, out, &own) == R2_OK);
    while (!rc && !end) {
        rc = r2_ltx_next(d, &pgno, page, &end);
        if (rc || end) break;
        RULE(pgno > last && pgno <= h->commit && pgno != r2_ltx_lock_page(h->page_size));
        last = pgno;
        RULE(r2_ltx_page(w, pgno, page) == R2_OK);
    }
    if (!rc) rc = r2_ltx_finish(d, post);
    if (!rc) RULE(r2_ltx_end(w, *post, &sum, &size) == R2_OK && size == out->buf.len);
    sentence(rc, &e);
    r2_ltx_free(w);
    r2_ltx_close(d);
    free(page);
    return rc == R2_OK;
}

static bool same_header(const struct r2_ltx_header *a, const struct r2_ltx_header *b)
{
    uint8_t x[R2_LTX_HEADER], y[R2_LTX_HEADER];
    r2_ltx_put_header(x, a);
    r2_ltx_put_header(y, b);
    return memcmp(x, y, sizeof x) == 0;
}

static void look(uint8_t *p, size_t n)
{
    struct r2_ltx_bytes b = {p, n};
    struct r2_ltx_header h, h2, h3;
    struct out first, second;
    uint64_t post = 0, post2 = 0, post3;
    struct r2_err e;
    bool is = copy(p, n, &first, &h, &post);
    RULE((r2_ltx_verify(read_checked, &b, n, &h3, &post3, &e) == R2_OK) == is);
    if (is) {
        RULE(copy((uint8_t *)first.buf.at, first.buf.len, &second, &h2, &post2));
        RULE(same_header(&h, &h2) && post == post2 && post == post3);
        RULE(first.buf.len == second.buf.len &&
             memcmp(first.buf.at, second.buf.at, first.buf.len) == 0);
        /* one bit of what was written, and it is none any more */
        size_t at = (size_t)(post % first.buf.len);
        first.buf.at[at] ^= 1;
        b = (struct r2_ltx_bytes){first.buf.at, first.buf.len};
        struct r2_ltx_header h4;
        if (r2_ltx_verify(read_checked, &b, b.size, &h4, &post3, &e) == R2_OK)
            RULE(post3 == post && same_header(&h4, &h)); /* other LZ4, the same page */
        r2_buf_free(&second.buf);
    }
    r2_buf_free(&first.buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct input in = {bytes, n};
    uint8_t *p = take_bytes(&in, n);
    look(p, n);
    if (ltx_repair(p, n)) look(p, n);
    free(p);
    return 0;
}
