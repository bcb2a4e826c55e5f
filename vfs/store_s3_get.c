/* store_s3_get.c - read an object; see store_s3.h.
 *
 * One GET; of a large object into a file, ranges, several at once, all pinned by If-Match to one
 * ETag (the caller's, or that of the first range). A body that was cut is resumed where it ended,
 * pinned to the ETag of what is already there. Nothing reaches the sink before the answer's headers
 * were found to fit. */
#include "store_s3.h"
#include "os.h"

#include <stdio.h>
#include <string.h>

/* One contiguous piece: all of the object, or bytes first .. first+size-1 of it. */
struct piece {
    const struct r2_sink *to; /* where byte `first` goes */
    struct r2_sink sink;      /* where the next byte goes */
    uint64_t first;
    uint64_t size;   /* UINT64_MAX: all there is from `first` on */
    uint64_t done;   /* bytes in the sink */
    size_t buf_len;  /* of a buffer sink, before */
    const char *pin; /* the caller's If-Match; NULL: none */
    char range[64];
    char etag[R2_ETAG_BYTES]; /* of the object that the bytes in the sink are from */
    struct r2_s3_result res;
};

static bool ranged(const struct piece *p)
{
    return p->size != UINT64_MAX || p->first + p->done > 0;
}

/* Before each attempt: go on behind what the last one brought. */
static void piece_before(void *ctx, struct r2_s3_req *q, const struct r2_answer *last)
{
    struct piece *p = ctx;
    p->done += last->sunk;
    q->header_count = 0;
    const char *pin = p->pin ? p->pin : p->done ? p->etag : NULL;
    if (pin) r2_s3_add_header(q, "if-match", pin);
    if (ranged(p)) {
        uint64_t from = p->first + p->done;
        if (p->size == UINT64_MAX)
            snprintf(p->range, sizeof p->range, "bytes=%llu-", (unsigned long long)from);
        else
            snprintf(p->range, sizeof p->range, "bytes=%llu-%llu", (unsigned long long)from,
                     (unsigned long long)(p->first + p->size - 1));
        r2_s3_add_header(q, "range", p->range);
    }
    p->sink = *p->to;
    if (p->sink.buf) { /* a buffer holds just the bytes that count */
        p->sink.buf->len = p->buf_len + p->done;
        if (p->sink.buf->at) p->sink.buf->at[p->sink.buf->len] = 0;
    }
    p->sink.off += p->done;
    q->sink_max = p->size == UINT64_MAX ? UINT64_MAX - p->done : p->size - p->done;
}

/* Do the headers promise the bytes that were asked for? Also takes note of the ETag. */
static bool piece_accept(void *ctx, const struct r2_answer *a)
{
    struct piece *p = ctx;
    bool fits = r2_s3_has_etag(a) && (a->has_length || a->chunked);
    const char *pin = p->pin ? p->pin : p->done ? p->etag : NULL;
    if (pin && strcmp(pin, a->etag) != 0) fits = false;
    if (ranged(p)) {
        uint64_t last = p->size == UINT64_MAX ? a->range_total - 1 : p->first + p->size - 1;
        fits = fits && a->status == 206 && a->has_range && a->range_first == p->first + p->done &&
               (a->range_last == last || a->range_last == a->range_total - 1) &&
               a->range_last <= last &&
               (!a->has_length || a->length == a->range_last - a->range_first + 1);
    } else {
        fits = fits && a->status == 200;
    }
    if (fits) r2_strcpy(p->etag, sizeof p->etag, a->etag);
    return fits;
}

static enum r2_code fetch(struct r2_s3 *s, struct r2_call *call, const char *key, struct piece *p,
                          struct r2_meta *meta, struct r2_progress *progress)
{
    struct r2_s3_req q = {.method = "GET",
                          .verb = "read",
                          .key = key,
                          .sink = &p->sink,
                          .accept = piece_accept,
                          .before = piece_before,
                          .ctx = p,
                          .resumes = true,
                          .meta = meta,
                          .progress = progress};
    p->buf_len = p->to->buf ? p->to->buf->len : 0;
    enum r2_code code = r2_s3_perform(s, call, &q, &p->res);
    if (!code) p->done += p->res.a.sunk;
    return code;
}

static enum r2_code misfit(const struct r2_s3 *s, struct r2_call *call, const char *key,
                           const char *what)
{
    return r2_fail(call->err, R2_CORRUPT, "cannot read " R2_S3_NAME ": %s", s->bucket, key, what);
}

static enum r2_code get_whole(struct r2_s3 *s, struct r2_call *call, const char *key,
                              const char *if_match, struct r2_sink *sink, struct r2_object *out,
                              struct r2_progress *progress)
{
    struct piece p = {.to = sink, .size = UINT64_MAX, .pin = if_match};
    enum r2_code code = fetch(s, call, key, &p, &out->meta, progress);
    const struct r2_answer *a = &p.res.a;
    if (!code) {
        r2_s3_object_of(a, out);
        if (!a->has_length && !a->has_range) out->size = p.done;
        if (p.done != out->size)
            code = misfit(s, call, key, "its size is not its Content-Length");
        else if (a->meta_too_long)
            code = misfit(s, call, key, "too much metadata");
    }
    r2_answer_free(&p.res.a);
    return code;
}

/* ---- ranges ---- */

struct ranges {
    struct r2_s3 *s;
    const char *key, *etag;
    const struct r2_sink *sink;
    uint64_t size;
    struct r2_progress *progress;
};

static enum r2_code one_range(struct r2_s3 *s, struct r2_call *call, const char *key,
                              const char *pin, const struct r2_sink *to, uint64_t first,
                              uint64_t size, struct r2_meta *meta, struct r2_progress *progress,
                              struct r2_object *out)
{
    struct r2_sink at = *to;
    struct piece p = {.to = &at, .first = first, .size = size, .pin = pin};
    at.off += first;
    enum r2_code code = fetch(s, call, key, &p, meta, progress);
    if (!code) {
        uint64_t total = p.res.a.range_total, want = first + size > total ? total - first : size;
        r2_s3_object_of(&p.res.a, out);
        if (p.done != want)
            code = misfit(s, call, key, "a range of it is not of the size asked");
        else if (p.res.a.meta_too_long)
            code = misfit(s, call, key, "too much metadata");
    }
    r2_answer_free(&p.res.a);
    return code;
}

static enum r2_code nth_range(void *ctx, struct r2_call *call, uint64_t index)
{
    struct ranges *r = ctx;
    struct r2_object got;
    uint64_t first = (index + 1) * R2_S3_RANGE_BYTES, size = r->size - first;
    if (size > R2_S3_RANGE_BYTES) size = R2_S3_RANGE_BYTES;
    enum r2_code code =
        one_range(r->s, call, r->key, r->etag, r->sink, first, size, NULL, r->progress, &got);
    if (!code && got.size != r->size)
        code = misfit(r->s, call, r->key, "its size changed while it was read");
    return code;
}

static enum r2_code get_ranges(struct r2_s3 *s, struct r2_call *call, const char *key,
                               const char *if_match, struct r2_sink *sink, struct r2_object *out,
                               struct r2_progress *progress)
{
    int64_t began = r2_boot_ms(), budget = call->deadline_ms - began;
    enum r2_code code =
        one_range(s, call, key, if_match, sink, 0, R2_S3_RANGE_BYTES, &out->meta, progress, out);
    if (code || out->size <= R2_S3_RANGE_BYTES) return code;
    struct ranges r = {.s = s,
                       .key = key,
                       .etag = out->etag,
                       .sink = sink,
                       .size = out->size,
                       .progress = progress};
    struct r2_call rest = *call;
    rest.deadline_ms = r2_boot_ms() + budget;
    code = r2_store_parallel(&rest, R2_S3_AT_ONCE, (out->size - 1) / R2_S3_RANGE_BYTES, nth_range,
                             &r, call->err);
    call->took_ms = r2_boot_ms() - began; /* the first range's signing, to the end of all */
    return code;
}

enum r2_code r2_s3_get(struct r2_store *store, struct r2_call *call, const char *key,
                       const char *if_match, uint64_t expect_size, struct r2_sink *sink,
                       struct r2_object *out)
{
    struct r2_s3 *s = (struct r2_s3 *)store;
    struct r2_progress progress;
    enum r2_code code = r2_s3_check_key(key, false, call->err);
    if (code) return code;
    bool known = expect_size != UINT64_MAX;
    bool large = known && expect_size > R2_S3_RANGE_BYTES && !sink->buf;
    size_t buf_len = sink->buf ? sink->buf->len : 0;
    for (int tries = 0; tries < R2_S3_SHORT_TRIES; tries++) {
        if (tries && sink->buf) sink->buf->len = buf_len;
        r2_progress_begin(&progress, call->progress, "downloading", key, known ? expect_size : 0);
        code = large ? get_ranges(s, call, key, if_match, sink, out, &progress)
                     : get_whole(s, call, key, if_match, sink, out, &progress);
        r2_progress_end(&progress);
        /* replaced while it was read, and nobody asked for just that one: from the start */
        if (code != R2_PRECONDITION || if_match) break;
    }
    return code;
}
