/* replica_layout.c - change a database's layout: the newest version becomes the first of a new
 * lineage.
 *
 *   object -> log   KEY is replaced with If-Match by version N+1 with a new lineage and db-layout:
 * log log -> object   first the segment of N+1 is created, which says that the lineage ends here
 *                   (R2_LOG_END): from then on nobody's push to the old one can be acknowledged.
 * Then KEY is replaced by version N+2.
 *
 * db-recent goes on over the change: a replica whose base it still has simply follows. A crash
 * between the two steps leaves a log that can be read, but not pushed to, until somebody calls
 * r2_checkpoint('object') again. */
#include "replica_int.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "log_int.h"
#include "ltx.h"
#include "os.h"

static enum r2_code no_memory(struct r2_err *e)
{
    return r2_fail(e, R2_NOMEM, "out of memory");
}

/* ---- the end of a log ---- */

static bool to_buf(void *ctx, const void *bytes, size_t n)
{
    return r2_buf_add(ctx, bytes, n);
}

/* Page 1 of the base, with the number of the version that is to end the lineage. */
static enum r2_code encode_end(struct r2_op *op, const struct r2_image *image,
                               const struct r2_pending *p, struct r2_buf *out)
{
    struct r2_record *k = &op->r->record;
    struct r2_err *e = op->call.err;
    struct r2_patch patch;
    uint64_t was, size;
    struct r2_ltx_header h = {.min_txid = p->v.version,
                              .max_txid = p->v.version,
                              .timestamp_ms = op->call.signed_ms,
                              .pre = k->base.checksum,
                              .wal_offset = 32,
                              .salt1 = R2_LOG_END,
                              .node_id = p->try[0].nonce};
    uint8_t *page = malloc(image->page_size);
    if (!page) return no_memory(e);
    r2_patch_init(&patch, op->r->path);
    r2_patch_shape(&patch, image->page_size, k->base.pages);
    memcpy(page, image->page1, image->page_size);
    enum r2_code rc = r2_state_read_sums(op->r->state, k->area, 1, 1, &was, e);
    if (!rc) rc = r2_patch_put(&patch, 1, page, e);
    if (!rc) {
        uint64_t now = r2_ltx_page_checksum(1, page, image->page_size);
        rc = r2_patch_encode(&patch, &h, r2_ltx_exchange(k->base.checksum, was, now), to_buf, out,
                             &size, e);
    }
    r2_patch_free(&patch);
    free(page);
    return rc;
}

/* The base's page 1 as it is in the remote, whatever the local file holds by now. */
static enum r2_code base_page1(struct r2_op *op, struct r2_staged *s, struct r2_image *out)
{
    struct r2_record *k = &op->r->record;
    struct r2_err *e = op->call.err;
    uint8_t header[R2_HEADER];
    uint64_t was = 0;
    out->page_size = s->image.page_size;
    out->pages = s->image.pages;
    out->sums = calloc(1, sizeof *out->sums);
    out->page1 = malloc(out->page_size);
    if (!out->sums || !out->page1) return no_memory(e);
    memcpy(out->page1, s->image.page1, out->page_size);
    enum r2_code rc = r2_state_read_sums(op->r->state, k->area, 1, 1, &was, e);
    if (!rc && (!s->equal || r2_image_page1_as(out, k->base.header) != was))
        rc = r2_fail(e, R2_BUSY, "%s is being written to; try again", op->r->path);
    memcpy(header, k->base.header, sizeof header);
    r2_put32(header + 24, (uint32_t)(k->base.version + 1));
    r2_put32(header + 92, (uint32_t)(k->base.version + 1));
    return rc ? rc : r2_image_set_fields(out, header, e);
}

/* Nobody shall push to this lineage any more. *nonce: of what stands there now. */
static enum r2_code end_log(struct r2_op *op, struct r2_staged *s, uint64_t *nonce)
{
    struct r2_record *k = &op->r->record;
    struct r2_log l;
    struct r2_buf bytes;
    struct r2_image page;
    enum r2_maker maker;
    struct r2_pending *p = calloc(1, sizeof *p);
    struct r2_remote *seen = calloc(1, sizeof *seen);
    r2_buf_init(&bytes, 1 << 20);
    r2_image_init(&page);
    enum r2_code rc = p && seen ? base_page1(op, s, &page) : no_memory(op->call.err);
    if (!rc) {
        p->kind = R2_PENDING_PUSH;
        p->v = k->base;
        p->v.version++;
        p->layout = R2_LAYOUT_LOG;
        p->tries = 1;
        *nonce = p->try[0].nonce = r2_random64();
        rc = encode_end(op, &page, p, &bytes);
    }
    if (!rc) {
        struct r2_body body = {.mem = bytes.at, .size = bytes.len};
        r2_op_time(op);
        r2_log_of(op, &l);
        rc = r2_log_push(&l, p, &body, seen, &maker);
        if (rc && seen->ended) { /* somebody else's, or an earlier one of ours */
            *nonce = seen->end_nonce;
            r2_err_clear(op->call.err);
            rc = R2_OK;
        }
    }
    if (rc) r2_wrap(op->call.err, "cannot end the log of %s", k->url);
    r2_image_free(&page);
    r2_buf_free(&bytes);
    free(p);
    free(seen);
    return rc;
}

/* ---- the new lineage ---- */

/* The last snapshot of a log stays beside its segments. */
static enum r2_code keep_snapshot(struct r2_op *op, const struct r2_remote *at_key)
{
    struct r2_log l;
    int64_t based_ms = 0;
    r2_log_of(op, &l);
    return r2_log_keep_base(&l, at_key, op->r->config.retention_s, &based_ms);
}

static enum r2_code begin_lineage(struct r2_op *op, struct r2_staged *s, enum r2_layout_kind to,
                                  const char *etag, uint64_t end_nonce, uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    struct r2_version *base = malloc(sizeof *base);
    if (!base) return no_memory(op->call.err);
    *base = k->base;
    memset(base->lineage, 0, sizeof base->lineage); /* a new one is drawn */
    if (to == R2_LAYOUT_OBJECT)
        r2_recent_prepend(k->base.recent, k->base.version + 1, end_nonce, base->recent);
    struct r2_push_over over = {.base = base,
                                .etag = etag,
                                .version = k->base.version + (to == R2_LAYOUT_OBJECT ? 2 : 1),
                                .layout = &to};
    enum r2_code rc = r2_push_staged(op, s, &over, version);
    free(base);
    return rc;
}

static enum r2_code change(struct r2_op *op, enum r2_layout_kind to, const struct r2_remote *seen,
                           uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    struct r2_staged s;
    struct r2_remote *at_key = malloc(sizeof *at_key);
    uint64_t end_nonce = seen->end_nonce;
    if (!at_key) return no_memory(op->call.err);
    enum r2_code rc = r2_layout_object.probe(op->r->store, &op->call, op->r->config.key, at_key);
    if (!rc && (!at_key->exists || memcmp(at_key->v.lineage, k->base.lineage, 16) != 0 ||
                (to == R2_LAYOUT_LOG && at_key->v.version != k->base.version)))
        rc = r2_fail(op->call.err, R2_BUSY, "%s was replaced just now; try again", k->url);
    if (rc) {
        free(at_key);
        return rc;
    }
    rc = r2_stage(op, true, &s);
    if (!rc && !s.image.pages) rc = r2_fail(op->call.err, R2_REFUSED, "%s is empty", op->r->path);
    if (!rc && to == R2_LAYOUT_OBJECT) {
        if (!seen->ended) rc = end_log(op, &s, &end_nonce);
        if (!rc) rc = keep_snapshot(op, at_key);
    }
    if (!rc) rc = begin_lineage(op, &s, to, at_key->v.etag, end_nonce, version);
    r2_staged_free(&s);
    free(at_key);
    return rc;
}

enum r2_code r2_change_layout(struct r2_op *op, enum r2_layout_kind to, uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    struct r2_remote *seen = malloc(sizeof *seen);
    if (!seen) return no_memory(op->call.err);
    k->verified_ms = 0; /* the newest, as of now */
    enum r2_code rc = r2_look_and_settle(op, seen);
    if (!rc && !seen->ended && k->layout != to) { /* first what sync() does */
        rc = r2_push_if_dirty(op, version);
        if (!rc) rc = r2_probe(op, seen);
    }
    enum r2_relation relation = rc ? R2_REL_SAME : r2_plan_relation(k, seen);
    if (!rc && relation == R2_REL_NEWER)
        rc = r2_fail(op->call.err, R2_REFUSED,
                     "%s is at version %" PRIu64 " or later, and this replica at version %" PRIu64
                     ": SELECT r2_pull() first",
                     k->url, seen->v.version, k->base.version);
    else if (!rc && relation != R2_REL_SAME)
        rc = r2_conflict(op, relation, seen);
    *version = k->base.version;
    if (!rc && k->layout != to) rc = change(op, to, seen, version);
    free(seen);
    return rc;
}
