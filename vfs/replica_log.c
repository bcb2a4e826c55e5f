/* replica_log.c - a replica in the log layout: push and pull by segments.
 *
 * Both move the base's checksums page by page: the state's two areas are level before, the pages
 * that change are written to the other one with the intent, and to the first one when it is done.
 */
#include "replica_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "apply.h"
#include "buf.h"
#include "ltx.h"
#include "os.h"

enum { BODY_MEM = 16 << 20 }; /* larger segments are encoded into a file */

void r2_log_of(struct r2_op *op, struct r2_log *l)
{
    struct r2_replica *r = op->r;
    *l = (struct r2_log){.store = r->store,
                         .call = &op->call,
                         .key = r->config.key,
                         .db_path = r->path,
                         .snapshot = r->record.snapshot,
                         .ahead = &op->ahead};
    /* the lineage is looked at, too: at least every 30 minutes a 404 alone does not do */
    int64_t headed = r2_signing_now(r) - r->record.headed_ms;
    if (headed >= 0 && headed < R2_FRESH_MS) l->verified_ms = r->record.verified_ms;
}

void r2_log_done(struct r2_op *op, const struct r2_log *l)
{
    struct r2_record *k = &op->r->record;
    if (l->verified_ms) k->verified_ms = l->verified_ms;
    bool newer = l->snapshot != k->snapshot || l->from_snapshot;
    k->log_bytes = (newer ? 0 : k->log_bytes) + l->bytes;
    k->snapshot = l->snapshot;
    if (l->headed_ms) k->headed_ms = l->headed_ms;
}

/* ---- checksums of what changes ---- */

static enum r2_code write_sums(struct r2_op *op, uint8_t area, const struct r2_patch *p)
{
    enum { RUN = 512 };
    uint64_t run[RUN];
    enum r2_code rc = R2_OK;
    for (uint32_t k = 0, n; !rc && k < p->count; k += n) {
        for (n = 0; n < RUN && k + n < p->count && p->page[k + n].pgno == p->page[k].pgno + n; n++)
            run[n] = p->page[k + n].sum;
        rc = r2_state_write_sums(op->r->state, area, p->page[k].pgno, n, run, op->call.err);
    }
    return rc;
}

/* The other area: the base's checksums with the patch's over them. */
static enum r2_code prepare_area(struct r2_op *op, const struct r2_patch *p)
{
    struct r2_record *k = &op->r->record;
    enum r2_code rc =
        r2_state_level(op->r->state, k->area, k->base.version, k->base.pages, op->call.err);
    return rc ? rc : write_sums(op, k->area ^ 1, p);
}

/* The areas were exchanged: bring the one that is the other now up to it. Not while the record on
 * the disk names that one as the base's. */
void r2_level_areas(struct r2_op *op, const struct r2_patch *p)
{
    if (op->unsaved) return;
    struct r2_err why = *op->call.err;
    const struct r2_record *k = &op->r->record;
    if (write_sums(op, k->area ^ 1, p) == R2_OK)
        r2_state_is_level(op->r->state, k->area, k->base.version);
    *op->call.err = why;
}

/* ---- push ---- */

struct body {
    struct r2_buf mem;
    int fd;
    uint64_t size;
    struct r2_err *e;
};

static bool to_body(void *ctx, const void *bytes, size_t n)
{
    struct body *b = ctx;
    bool ok = b->fd < 0 ? r2_buf_add(&b->mem, bytes, n)
                        : r2_write_at(b->fd, bytes, n, b->size, b->e) == R2_OK;
    b->size += n;
    return ok;
}

static enum r2_code encode(struct r2_op *op, struct r2_staged *s, struct body *b)
{
    struct r2_record *k = &op->r->record;
    const struct r2_pending *p = &k->pending;
    struct r2_patch *patch = &s->changes.patch;
    struct r2_image file;
    struct r2_ltx_header h = {.min_txid = p->v.version,
                              .max_txid = p->v.version,
                              .timestamp_ms = r2_now_ms(),
                              .pre = k->base.checksum,
                              .node_id = p->try[p->tries - 1].nonce};
    enum r2_code rc = R2_OK;
    r2_buf_init(&b->mem, 2 * BODY_MEM);
    b->fd = -1;
    b->size = 0;
    b->e = op->call.err;
    r2_image_init(&file);
    if ((uint64_t)patch->count * patch->page_size > BODY_MEM) {
        rc = r2_image_create(&file, op->r->path, "-r2-stage", false, op->call.err);
        b->fd = file.fd; /* it has no name: the descriptor is all of it */
    }
    uint64_t size;
    return rc ? rc : r2_patch_encode(patch, &h, p->v.checksum, to_body, b, &size, op->call.err);
}

/* What the changes become, durable, before anything is sent. */
static enum r2_code intend(struct r2_op *op, struct r2_staged *s, bool exact)
{
    struct r2_record *k = &op->r->record;
    struct r2_version v = {.version = k->base.version + 1,
                           .page_size = s->image.page_size,
                           .pages = s->image.pages,
                           .local_cookie = r2_image_cookie(&s->image)};
    r2_image_next_header(&s->image, &k->base, v.version, v.header);
    enum r2_code rc = r2_changes_become(&s->changes, v.header, &v.checksum, op->call.err);
    if (!rc) rc = r2_next_try(op, &v, &k->base, "", R2_LAYOUT_LOG);
    if (rc) return rc;
    k->pending.seq = s->seq;
    k->pending.exact = exact;
    rc = prepare_area(op, &s->changes.patch);
    return rc ? rc : r2_op_save(op);
}

/* Who is not sure to be up to date asks before it pushes. *behind: there is a newer version. */
static enum r2_code be_fresh(struct r2_op *op, struct r2_remote *seen, bool *behind)
{
    struct r2_record *k = &op->r->record;
    int64_t now = r2_signing_now(op->r), age = now - k->verified_ms, seen_ms = now - k->headed_ms;
    *behind = false;
    if (k->verified_ms && age >= 0 && age < R2_FRESH_MS && seen_ms >= 0 && seen_ms < R2_FRESH_MS)
        return R2_OK;
    k->verified_ms = 0; /* also the lineage is looked at: with the snapshot */
    enum r2_code rc = r2_probe(op, seen);
    if (!rc) *behind = r2_plan_relation(k, seen) != R2_REL_SAME;
    return rc;
}

static enum r2_code send(struct r2_op *op, struct body *b, struct r2_remote *seen,
                         enum r2_maker *maker)
{
    struct r2_replica *r = op->r;
    struct r2_log l;
    struct r2_body body = {.mem = b->fd < 0 ? b->mem.at : NULL, .fd = b->fd, .size = b->size};
    bool behind;
    r2_op_time(op);
    atomic_store(&r2_state_live(r->state)->uploading, 1);
    enum r2_code rc;
    for (int turn = 0;; turn++) {
        r2_log_of(op, &l);
        rc = r2_log_push(&l, &r->record.pending, &body, seen, maker);
        r2_log_done(op, &l);
        if (rc != R2_STALE || turn == 3) break;
        r2_err_clear(op->call.err);
        r->record.verified_ms = 0;
        rc = be_fresh(op, seen, &behind);
        if (rc) break;
        if (!behind) continue;
        *maker = R2_MAKER_OTHER;
        rc = r2_fail(op->call.err, R2_CONFLICT, "the remote moved on");
        break;
    }
    atomic_store(&r2_state_live(r->state)->uploading, 0);
    return rc;
}

/* The remote has a version that is not the base. It may be what was in doubt that moved it. */
static enum r2_code moved_on(struct r2_op *op, struct r2_remote *seen)
{
    struct r2_record *k = &op->r->record;
    uint64_t before = k->base.version;
    bool moved;
    enum r2_code rc = r2_settle(op, seen, &moved);
    if (rc) return rc;
    if (k->base.version != before)
        return r2_fail(op->call.err, R2_BUSY,
                       "a push that was in doubt was settled just now; call it again");
    return r2_fail(op->call.err, R2_CONFLICT, "the remote moved on");
}

enum r2_code r2_send_changes(struct r2_op *op, struct r2_staged *s, bool exact,
                             struct r2_remote *seen, enum r2_maker *maker)
{
    struct body b = {.fd = -1};
    bool behind;
    *maker = R2_MAKER_OTHER;
    enum r2_code rc = be_fresh(op, seen, &behind);
    if (!rc && behind) rc = moved_on(op, seen);
    r2_buf_init(&b.mem, 0);
    if (!rc) rc = intend(op, s, exact);
    if (!rc) rc = encode(op, s, &b);
    if (!rc) rc = send(op, &b, seen, maker);
    if (!rc) op->r->record.log_bytes += b.size;
    r2_buf_free(&b.mem);
    if (b.fd >= 0) r2_os.close(b.fd);
    return rc;
}

enum r2_code r2_push_changes(struct r2_op *op, struct r2_staged *s, uint64_t *version)
{
    struct r2_remote seen;
    enum r2_maker maker;
    enum r2_code rc = r2_not_damaged(op);
    if (rc) return rc;
    rc = r2_send_changes(op, s, false, &seen, &maker);
    if (rc) return r2_push_failed(op, rc, &seen, maker, version);
    rc = r2_push_landed(op, s, &seen, version);
    r2_level_areas(op, &s->changes.patch);
    return rc;
}

/* ---- pull ---- */

/* Under the write lock: are the marked pages the base's? Loose ones that the patch does not bring
 * need their content from further back: R2_PRECONDITION. */
static enum r2_code still_base(struct r2_op *op, struct r2_local *l, struct r2_dirty *d,
                               const struct r2_patch *patch)
{
    struct r2_record *k = &op->r->record;
    struct r2_err *e = op->call.err;
    struct r2_source from = r2_source_of(l);
    struct r2_changes c;
    struct r2_diff loose = {0};
    struct r2_stamp now;
    struct r2_identity id;
    bool equal = false;
    enum r2_code rc = r2_local_stamp(l, &now, e);
    if (!rc) rc = r2_identity_of(op->r->path, &id, e);
    if (!rc && !r2_continues(op->r, &now, &id)) d->complete = false;
    if (rc) return rc;
    rc = r2_changes_find(&c, &from, &k->base, op->r->state, k->area, d, op->r->path, e);
    if (!rc) rc = r2_changes_only_loose(&c, &from, &loose, &equal, e);
    if (!rc && !equal) {
        r2_look_again(op);
        rc = r2_changed_meanwhile(op);
    }
    for (uint32_t n = 0; !rc && loose.pages && n < c.patch.count; n++) {
        uint32_t pgno = c.patch.page[n].pgno;
        if (pgno > 1 && pgno <= patch->pages && r2_patch_find(patch, pgno) < 0)
            rc = r2_fail(e, R2_PRECONDITION, "pages of the free list differ");
    }
    r2_diff_free(&loose);
    r2_changes_free(&c);
    return rc;
}

static uint8_t *map_of(const struct r2_patch *p)
{
    uint8_t *map = calloc(p->pages / 8 + 1, 1);
    for (uint32_t k = 0; map && k < p->count; k++) {
        uint32_t bit = p->page[k].pgno - 1;
        map[bit / 8] |= (uint8_t)(1u << bit % 8);
    }
    return map;
}

struct applied {
    struct r2_identity identity;
    uint64_t seq;
    uint32_t cookie;
};

static enum r2_code local_page1(struct r2_local *l, uint32_t *counter, uint32_t *cookie,
                                struct r2_err *e)
{
    uint32_t page_size, pages;
    enum r2_code rc = r2_local_shape(l, &page_size, &pages, e);
    if (rc || !pages) return rc ? rc : r2_fail(e, R2_PRECONDITION, "the local file is empty");
    uint8_t *page = malloc(page_size);
    if (!page) return r2_fail(e, R2_NOMEM, "out of memory");
    rc = r2_local_read_pages(l, 1, 1, page, e);
    if (!rc) {
        *counter = r2_get32(page + 24);
        *cookie = r2_get32(page + 40);
    }
    free(page);
    return rc;
}

/* May statements prepared on the base be used on this version? Its writers keep the cookie's rule.
 */
static bool new_schema(const struct r2_version *base, const struct r2_version *head)
{
    return memcmp(base->header + 40, head->header + 40, 4) != 0;
}

static enum r2_code apply_patch(struct r2_op *op, struct r2_local *l, struct r2_patch *patch,
                                const struct r2_version *head, struct applied *out)
{
    struct r2_err *e = op->call.err, end_err;
    struct r2_record *k = &op->r->record;
    struct r2_dirty d = {0};
    struct r2_stamp stamp;
    uint8_t *map = NULL;
    uint32_t counter = 0;
    bool applied = false;
    enum r2_code rc = r2_local_begin_write(l, e);
    if (rc) return rc;
    out->seq = atomic_load(&r2_state_live(op->r->state)->write_seq);
    rc = r2_state_take_dirty(op->r->state, true, &d, e);
    if (!rc) rc = local_page1(l, &counter, &out->cookie, e);
    if (!rc) rc = still_base(op, l, &d, patch);
    if (!rc && !(map = map_of(patch))) rc = r2_fail(e, R2_NOMEM, "out of memory");
    if (!rc) {
        struct r2_apply a = {.page_size = patch->page_size,
                             .pages = patch->pages,
                             .write_map = map,
                             .read = r2_patch_read_pages,
                             .ctx = patch,
                             .new_schema = new_schema(&k->base, head)};
        rc = r2_apply(l, &a, e);
        applied = !rc;
        out->cookie += a.new_schema;
    }
    if (!rc) rc = r2_local_stamp(l, &stamp, e);
    if (!rc) r2_state_set_stamp(op->r->state, &stamp);
    if (d.map) r2_state_dirty_done(op->r->state, &d, applied);
    if (!rc) rc = r2_identity_of(op->r->path, &out->identity, e);
    out->identity.counter = counter + 1;
    free(map);
    enum r2_code end = r2_local_end(l, &end_err);
    if (!rc && end) rc = r2_fail(e, end, "%s", end_err.text);
    if (rc && applied) rc = e->code = R2_UNKNOWN; /* the next look at the file settles it */
    return rc;
}

static void pulled(struct r2_op *op, const struct r2_version *head, const struct applied *in)
{
    struct r2_record *k = &op->r->record;
    k->pending.kind = R2_PENDING_NONE;
    k->base = *head;
    k->base.local_cookie = in->cookie;
    k->area ^= 1;
    if (k->highest_seen < head->version) k->highest_seen = head->version;
    k->conflict_version = 0;
    k->unclean = k->damaged = false;
    k->left_seq = 0;
    atomic_store(&op->r->in_conflict, false);
    r2_mark_clean(op, in->seq, &in->identity, 0);
    atomic_fetch_add(&op->r->pulls, 1);
    atomic_store(&op->r->behind, false);
    atomic_store(&op->r->remote_version, head->version);
}

static enum r2_code install(struct r2_op *op, struct r2_patch *patch, const struct r2_version *head,
                            int64_t busy_ms)
{
    struct r2_record *k = &op->r->record;
    struct r2_err *e = op->call.err;
    struct r2_local *l = NULL;
    struct applied in = {.cookie = 0};
    /* the intent first: after a crash the file holds this version or what it held before */
    memset(&k->pending, 0, sizeof k->pending);
    k->pending.kind = R2_PENDING_PULL;
    k->pending.layout = k->layout;
    k->pending.v = *head;
    enum r2_code rc = prepare_area(op, patch);
    if (!rc) rc = r2_op_save(op);
    if (!rc) rc = r2_op_local(op, busy_ms, &l);
    if (!rc) rc = apply_patch(op, l, patch, head, &in);
    if (!rc) r2_local_tidy_wal(l);
    r2_local_close(l);
    if (!rc) {
        pulled(op, head, &in);
        rc = r2_op_save(op);
        if (!rc) r2_level_areas(op, patch); /* the record on the disk names that area until then */
        return rc;
    }
    struct r2_err why = *e;
    if (rc != R2_UNKNOWN) { /* the old content is there, or nobody can tell */
        k->pending.kind = R2_PENDING_NONE;
        (void)r2_op_save(op);
    }
    *e = why;
    return r2_wrap(e, "cannot bring %s to version %" PRIu64, op->r->path, head->version);
}

/* Is the sum of what the patch says, over the base's checksums, what the last segment says? */
static enum r2_code check_sum(struct r2_op *op, const struct r2_patch *p,
                              const struct r2_version *head)
{
    struct r2_record *k = &op->r->record;
    uint64_t sum = k->base.checksum, was;
    uint32_t lock = r2_ltx_lock_page(k->base.page_size);
    enum r2_code rc = R2_OK;
    for (uint32_t n = 0; !rc && n < p->count; n++) {
        was = 0;
        if (p->page[n].pgno <= k->base.pages)
            rc = r2_state_read_sums(op->r->state, k->area, p->page[n].pgno, 1, &was, op->call.err);
        sum = r2_ltx_exchange(sum, was, p->page[n].sum);
    }
    for (uint32_t pgno = p->pages + 1; !rc && pgno <= k->base.pages; pgno++) {
        if (pgno == lock) continue;
        rc = r2_state_read_sums(op->r->state, k->area, pgno, 1, &was, op->call.err);
        sum = r2_ltx_exchange(sum, was, 0);
    }
    if (rc || sum == head->checksum) return rc;
    return r2_fail(op->call.err, R2_CORRUPT,
                   "the pages of version %" PRIu64 " of %s do not have its checksum; nothing local "
                   "was changed",
                   head->version, k->url);
}

enum r2_code r2_pull_segments(struct r2_op *op, int64_t busy_ms, struct r2_remote *shortcut,
                              bool *shorter)
{
    struct r2_replica *r = op->r;
    struct r2_patch patch;
    struct r2_log l;
    struct r2_version *head = malloc(sizeof *head);
    *shorter = false;
    if (!head) return r2_fail(op->call.err, R2_NOMEM, "out of memory");
    r2_patch_init(&patch, r->path);
    r2_op_time(op);
    r2_log_of(op, &l);
    /* in doubt each segment counts: one of them may be ours */
    if (r->record.pending.kind != R2_PENDING_PUSH) l.shortcut = shortcut;
    int64_t verified_ms = r->record.verified_ms; /* the base's: its next key may be gone by now */
    enum r2_code rc = r2_log_follow(&l, &r->record.base, 0, &patch, head);
    r2_log_done(op, &l);
    r->record.verified_ms = verified_ms;
    op->ended = l.ended;
    *shorter = l.shorter;
    bool reshaped = head->page_size != r->record.base.page_size || !head->pages;
    if (!rc && reshaped) rc = r2_fail(op->call.err, R2_PRECONDITION, "the page size changed");
    if (!rc && head->version > r->record.base.version) {
        rc = check_sum(op, &patch, head);
        if (!rc) rc = install(op, &patch, head, busy_ms);
    }
    if (!rc && l.verified_ms) r->record.verified_ms = l.verified_ms;
    r2_patch_free(&patch);
    free(head);
    return rc;
}
