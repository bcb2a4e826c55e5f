/* replica_push.c - make the local changes the next version, and settle pushes in doubt.
 *
 * Order of a push: stage the image under a read lock; write checksums and intent to the state file
 * and sync; only then PUT. Whatever happens after that, the next operation finds the intent and
 * looks into the remote before it does anything else (DESIGN section 3, "Push"). */
#include "replica_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "log_int.h"
#include "ltx.h"
#include "os.h"

/* The base by its metadata, under an ETag that is neither the base's nor tells two contents apart
 * (uploaded in parts): its bytes decide. */
static enum r2_code look_at_bytes(struct r2_op *op, struct r2_remote *remote)
{
    struct r2_replica *r = op->r;
    const struct r2_version *base = &r->record.base;
    struct r2_image image;
    if (!remote->exists || remote->by_segments || !base->version || !base->etag[0] ||
        strcmp(base->etag, remote->v.etag) == 0 || !r2_plan_says_same(base, remote))
        return R2_OK;
    r2_image_init(&image);
    enum r2_code rc = r2_image_create(&image, r->path, "-r2-new", false, op->call.err);
    r2_op_time(op);
    if (!rc) rc = r2_layout_object.fetch(r->store, &op->call, r->config.key, remote, &image);
    r2_image_free(&image);
    if (rc != R2_CORRUPT && rc != R2_PRECONDITION) return rc;
    remote->altered = true; /* or replaced just now: the next probe sees by what */
    r2_err_clear(op->call.err);
    return R2_OK;
}

static bool on_any(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    (void)key, (void)size, (void)modified_ms;
    *(bool *)ctx = true;
    return false;
}

/* Nothing stands at KEY: was there a database? Asked once, before a new one begins. */
static enum r2_code look_for_log(struct r2_op *op, bool *found)
{
    struct r2_replica *r = op->r;
    char prefix[R2_LOG_KEY];
    if (r->record.pending.kind == R2_PENDING_PUSH) return R2_OK; /* we have begun one */
    snprintf(prefix, sizeof prefix, "%s-log/", r->config.key);
    return r->store->ops->list(r->store, &op->call, prefix, NULL, on_any, found);
}

enum r2_code r2_probe(struct r2_op *op, struct r2_remote *out)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    struct r2_log l;
    enum r2_code rc;
    atomic_store(&r->probed_boot_ms, r2_boot_ms());
    if (r2_in_log(k)) {
        r2_log_of(op, &l);
        rc = r2_log_probe(&l, &k->base, out);
        r2_log_done(op, &l);
    } else {
        rc = r2_layout_object.probe(r->store, &op->call, r->config.key, out);
        if (!rc) k->verified_ms = op->call.signed_ms;
        if (!rc && !out->exists && !k->base.version && r->config.layout == R2_LAYOUT_LOG)
            rc = look_for_log(op, &out->headless);
    }
    if (rc) {
        atomic_store(&r->probed_boot_ms, 0);
        return r2_wrap(op->call.err, "cannot ask %s for its version", r->config.url);
    }
    atomic_store(&r->remote_version, out->exists ? out->v.version : 0);
    bool ours = out->exists && out->has_lineage && memcmp(out->v.lineage, k->base.lineage, 16) == 0;
    if (ours && out->v.version > k->highest_seen) k->highest_seen = out->v.version;
    return look_at_bytes(op, out);
}

enum r2_code r2_conflict(struct r2_op *op, enum r2_relation relation,
                         const struct r2_remote *remote)
{
    char text[R2_ERR_TEXT];
    struct r2_record *k = &op->r->record;
    uint64_t before = k->conflict_version, now = remote->exists ? remote->v.version : UINT64_MAX;
    r2_plan_explain(relation, k, remote, text, sizeof text);
    atomic_store(&op->r->in_conflict, true);
    if (before != now) {
        atomic_fetch_add(&op->r->conflicts, 1);
        k->conflict_version = now;
        (void)r2_op_save(op);
    }
    return r2_fail(op->call.err, R2_CONFLICT, "%s", text);
}

/* The pending push is there, and the local file holds it or continues it: it is the base now. */
static void pending_landed(struct r2_op *op, const struct r2_remote *seen)
{
    struct r2_record *k = &op->r->record;
    const struct r2_pending *p = &k->pending;
    k->base = p->v;
    bool newest = seen->exists && seen->v.version == p->v.version;
    (void)r2_strcpy(k->base.etag, sizeof k->base.etag, newest ? seen->v.etag : "");
    k->area ^= 1;
    k->layout = p->layout;
    if (k->layout == R2_LAYOUT_LOG && k->base.etag[0]) k->snapshot = p->v.version, k->log_bytes = 0;
    k->clean_seq = p->seq; /* the identity is left as it was: the next look compares */
    if (k->highest_seen < p->v.version) k->highest_seen = p->v.version;
    atomic_fetch_add(&op->r->pushes, 1);
}

/* An earlier content of ours became the version: it is the base, what came after it is dirty. Its
 * page checksums were not kept, so fetch it. */
static enum r2_code earlier_landed(struct r2_op *op, struct r2_remote *seen)
{
    struct r2_record *k = &op->r->record;
    struct r2_image image;
    r2_image_init(&image);
    enum r2_code rc = r2_image_create(&image, op->r->path, "-r2-new", false, op->call.err);
    if (!rc) rc = r2_fetch(op, seen, true, &image);
    if (rc == R2_PRECONDITION) { /* somebody built on it meanwhile: not ours to go on from */
        r2_image_free(&image);
        r2_err_clear(op->call.err);
        return R2_OK;
    }
    if (!rc && image.pages)
        rc = r2_state_write_sums(op->r->state, k->area ^ 1, 1, image.pages, image.sums,
                                 op->call.err);
    if (!rc) {
        k->base = seen->v;
        k->layout = seen->layout;
        k->base.local_cookie = ~r2_image_cookie(&image); /* unknown: the next version bumps it */
        k->area ^= 1;
        k->clean_seq = UINT64_MAX; /* never equal: dirty */
    }
    r2_image_free(&image);
    return rc;
}

/* The content that was tried last is there. A process killed while it wrote its intent may have
 * left another's checksums: then it is fetched as an earlier one is. */
static enum r2_code latest_landed(struct r2_op *op, struct r2_remote *seen)
{
    bool there;
    enum r2_code rc = r2_pending_sums_there(op, &there);
    if (rc) return rc;
    if (there)
        pending_landed(op, seen);
    else if (seen->v.version == op->r->record.pending.v.version)
        rc = earlier_landed(op, seen);
    return rc;
}

bool r2_pending_unjudged(const struct r2_pending *p)
{
    return p->kind == R2_PENDING_PUSH && p->exact && p->tries && !p->try[p->tries - 1].gone;
}

/* Whether the file holds what a COMMIT sent is asked once, before anybody writes on top of it. */
static enum r2_code judge(struct r2_op *op)
{
    struct r2_pending *p = &op->r->record.pending;
    bool holds;
    if (!r2_pending_unjudged(p)) return R2_OK;
    enum r2_code rc = r2_holds_pending(op, &holds);
    if (rc) return rc;
    p->exact = false;
    p->try[p->tries - 1].gone = !holds;
    op->continues = op->continues || holds;
    return r2_op_save(op);
}

/* Who made the pending version, by what a probe saw? */
static enum r2_code find_maker(struct r2_op *op, struct r2_remote *seen, enum r2_maker *maker,
                               uint32_t *which)
{
    const struct r2_pending *p = &op->r->record.pending;
    struct r2_log l;
    *maker = r2_layout_maker(seen, p, which);
    if (p->layout != R2_LAYOUT_LOG || p->v.version == 1 || p->over_etag[0]) return R2_OK;
    bool segment = seen->by_segments;
    r2_log_of(op, &l);
    enum r2_code rc = r2_log_maker(&l, p, true, seen, maker, which);
    r2_log_done(op, &l);
    if (segment && !seen->by_segments) op->r->record.verified_ms = 0; /* it had been collected */
    return rc ? r2_wrap(op->call.err, "look what became of version %" PRIu64, p->v.version) : R2_OK;
}

enum r2_code r2_settle(struct r2_op *op, struct r2_remote *seen, bool *moved)
{
    struct r2_record *k = &op->r->record;
    uint32_t which = 0;
    uint64_t before = k->base.version;
    enum r2_code rc = R2_OK;
    *moved = false;
    if (k->pending.kind != R2_PENDING_PUSH) return R2_OK;
    rc = judge(op);
    enum r2_maker maker;
    if (!rc) rc = find_maker(op, seen, &maker, &which);
    if (rc) return rc;
    bool ours = maker == R2_MAKER_LATEST || maker == R2_MAKER_EARLIER;
    if (ours && k->pending.try[which].gone) {
        maker = R2_MAKER_OTHER; /* nothing here holds it, but it may surface: see act() */
        k->surplus = k->pending.try[which].nonce;
        k->surplus_seq = atomic_load(&r2_state_live(op->r->state)->write_seq);
    }
    switch (maker) {
    case R2_MAKER_NOBODY:
        return R2_OK; /* it may still land: the doubt stays */
    case R2_MAKER_LATEST:
        if (op->continues) rc = latest_landed(op, seen);
        break;
    case R2_MAKER_EARLIER:
        if (op->continues && seen->v.version == k->pending.v.version) rc = earlier_landed(op, seen);
        break;
    case R2_MAKER_HIDDEN:
        r2_note(op->r,
                "%s: version %" PRIu64 " in the remote hides whether our version %" PRIu64
                " was ever there; the local content is kept as a fork",
                k->url, seen->v.version, k->pending.v.version);
        break;
    case R2_MAKER_OTHER:
        break;
    }
    if (rc) return rc;
    k->pending.kind = R2_PENDING_NONE;
    *moved = true;
    rc = r2_op_save(op);
    /* what was seen is our own segment, and perhaps not the last one */
    return rc || k->base.version == before || !r2_in_log(k) ? rc : r2_probe(op, seen);
}

static bool has_lineage(const struct r2_version *v)
{
    static const uint8_t none[16];
    return v && memcmp(v->lineage, none, 16) != 0;
}

enum r2_code r2_next_try(struct r2_op *op, struct r2_version *v, const struct r2_version *base,
                         const char *over_etag, enum r2_layout_kind layout)
{
    struct r2_record *k = &op->r->record;
    struct r2_pending *p = &k->pending;
    bool again = p->kind == R2_PENDING_PUSH && p->v.version == v->version &&
                 strcmp(p->over_etag, over_etag) == 0;
    if (!again) memset(p, 0, sizeof *p);
    struct r2_try *t = p->tries ? &p->try[p->tries - 1] : NULL;
    /* another content, or in another layout: a nonce of its own */
    if (!t || t->checksum != v->checksum || p->layout != layout) {
        if (p->tries == R2_TRIES_MAX)
            return r2_fail(op->call.err, R2_UNKNOWN,
                           "version %" PRIu64
                           " of %s was tried %d times without an answer; nothing "
                           "more is sent until the remote says which of them it took",
                           v->version, k->url, R2_TRIES_MAX);
        t = &p->try[p->tries++];
        op->new_try = true;
        t->nonce = r2_random64();
        t->checksum = v->checksum;
        if (has_lineage(base))
            memcpy(t->lineage, base->lineage, 16);
        else
            r2_random(t->lineage, 16);
    }
    op->intended = true;
    t->gone = false;
    memcpy(v->lineage, t->lineage, 16);
    r2_recent_prepend(base ? base->recent : "", v->version, t->nonce, v->recent);
    p->kind = R2_PENDING_PUSH;
    p->v = *v;
    p->layout = layout;
    p->doubt = again; /* only what was sent before can be in doubt for the layout */
    (void)r2_strcpy(p->over_etag, sizeof p->over_etag, over_etag);
    return R2_OK;
}

/* Fill the pending push and make it durable, before anything is sent. */
static enum r2_code intend(struct r2_op *op, struct r2_staged *s, const struct r2_push_over *over,
                           bool exact)
{
    struct r2_record *k = &op->r->record;
    struct r2_version v = {.version = over->version,
                           .page_size = s->image.page_size,
                           .pages = s->image.pages,
                           .local_cookie = r2_image_cookie(&s->image)};
    r2_image_next_header(&s->image, over->base, v.version, v.header);
    enum r2_code rc = r2_image_set_fields(&s->image, v.header, op->call.err);
    if (rc) return rc;
    v.checksum = r2_image_checksum(&s->image);
    enum r2_layout_kind layout = has_lineage(over->base) ? k->layout : op->r->config.layout;
    rc = r2_next_try(op, &v, over->base, over->etag, over->layout ? *over->layout : layout);
    if (rc) return rc;
    k->pending.seq = s->seq;
    k->pending.exact = exact;
    if (!k->base.version) { /* so that a crash can tell that it is still this file */
        memset(&k->identity, 0, sizeof k->identity);
        k->identity.dev = s->identity.dev;
        k->identity.ino = s->identity.ino;
        k->identity.counter = s->identity.counter;
    }
    rc = r2_state_write_sums(op->r->state, k->area ^ 1, 1, v.pages, s->image.sums, op->call.err);
    return rc ? rc : r2_op_save(op);
}

static enum r2_code unknown_outcome(struct r2_op *op)
{
    struct r2_record *k = &op->r->record;
    r2_wrap(op->call.err, "version %" PRIu64 " of %s may or may not have been stored",
            k->pending.v.version, k->url);
    r2_advise(op->call.err, "; r2vfs will find out before it pushes anything else: call sync() "
                            "again when the network is back");
    return op->call.err->code = R2_UNKNOWN;
}

/* The layout said no. What is left of the intent? */
enum r2_code r2_push_failed(struct r2_op *op, enum r2_code rc, struct r2_remote *seen,
                            enum r2_maker maker, uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    struct r2_pending *p = &k->pending;
    if (rc == R2_UNKNOWN) return unknown_outcome(op);
    uint32_t which;
    if (rc == R2_CONFLICT && maker == R2_MAKER_EARLIER &&
        r2_layout_maker(seen, p, &which) == R2_MAKER_EARLIER && p->try[which].gone)
        maker = R2_MAKER_OTHER; /* it was rolled back here */
    if (rc == R2_CONFLICT && maker == R2_MAKER_EARLIER) {
        bool moved;
        op->continues = true;
        rc = r2_settle(op, seen, &moved);
        if (rc) return rc;
        if (k->base.version == seen->v.version) return r2_push_if_dirty(op, version);
        return r2_conflict(op, R2_REL_NEWER, seen);
    }
    if (rc == R2_CONFLICT) {
        p->kind = R2_PENDING_NONE;
        struct r2_err why = *op->call.err;
        (void)r2_op_save(op);
        *op->call.err = why;
        return r2_conflict(op, r2_plan_relation(k, seen), seen);
    }
    /* it certainly did not happen; contents tried before it may still be in doubt */
    struct r2_err why = *op->call.err;
    if (!op->intended) {
        /* nor was it begun: what is pending is an earlier operation's */
    } else if (!p->doubt) {
        p->kind = R2_PENDING_NONE;
    } else if (op->new_try && p->tries > 1 &&
               p->try[p->tries - 2].checksum != p->try[p->tries - 1].checksum) {
        /* only this operation sent it (of two layouts for one content both are kept) */
        p->tries--;
        p->v.checksum = p->try[p->tries - 1].checksum; /* whose page checksums are not kept */
    }
    (void)r2_op_save(op);
    *op->call.err = why;
    return r2_wrap(op->call.err, "cannot push version %" PRIu64 " of %s", p->v.version, k->url);
}

enum r2_code r2_not_damaged(struct r2_op *op)
{
    if (!op->r->record.damaged) return R2_OK;
    return r2_fail(op->call.err, R2_CORRUPT,
                   "%s failed PRAGMA quick_check after an unclean end and is not pushed; repair "
                   "it, or take the remote's content with SELECT r2_resolve('remote')",
                   op->r->path);
}

enum r2_code r2_send_image(struct r2_op *op, struct r2_staged *s, const struct r2_push_over *over,
                           bool exact, struct r2_remote *seen, enum r2_maker *maker)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    *maker = R2_MAKER_NOBODY;
    enum r2_code rc = intend(op, s, over, exact);
    if (rc) return rc;
    struct r2_push push = {.pending = &k->pending,
                           .image = &s->image,
                           .size = (uint64_t)s->image.pages * s->image.page_size,
                           .layout = k->pending.layout};
    r2_op_time(op);
    atomic_store(&r2_state_live(r->state)->uploading, 1);
    rc = r2_layout_object.push(r->store, &op->call, r->config.key, &push, seen, maker);
    atomic_store(&r2_state_live(r->state)->uploading, 0);
    if (!rc) k->verified_ms = k->headed_ms = op->call.signed_ms;
    return rc;
}

enum r2_code r2_push_staged(struct r2_op *op, struct r2_staged *s, const struct r2_push_over *over,
                            uint64_t *version)
{
    struct r2_remote seen;
    enum r2_maker maker;
    enum r2_code rc = r2_not_damaged(op);
    if (rc) return rc;
    rc = r2_send_image(op, s, over, false, &seen, &maker);
    if (rc) return r2_push_failed(op, rc, &seen, maker, version);
    return r2_push_landed(op, s, &seen, version);
}

enum r2_code r2_push_landed(struct r2_op *op, struct r2_staged *s, const struct r2_remote *seen,
                            uint64_t *version)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    pending_landed(op, seen);
    k->pending.kind = R2_PENDING_NONE;
    k->conflict_version = 0;
    atomic_store(&r->in_conflict, false);
    r2_staged_is_base(op, s);
    r2_err_clear(op->call.err);
    atomic_store(&r->remote_version, seen->v.version);
    *version = k->base.version;
    r2_checkpoint_soon(op);
    /* it is in the remote; an unsaved record is settled by its intent, which was saved */
    if (r2_op_save(op)) {
        r2_log_err(r, op->call.err);
        r2_err_clear(op->call.err);
    }
    return R2_OK;
}

enum r2_code r2_look_and_settle(struct r2_op *op, struct r2_remote *seen)
{
    bool moved;
    enum r2_code rc = r2_finish_pull(op);
    op->continues = true;
    if (!rc) rc = r2_probe(op, seen);
    return rc ? rc : r2_settle(op, seen, &moved);
}

/* Look first when something is in doubt, or when the base's ETag was hidden from us. */
static enum r2_code look_first(struct r2_op *op)
{
    struct r2_record *k = &op->r->record;
    struct r2_remote seen;
    bool moved;
    enum r2_code rc = r2_finish_pull(op);
    bool hidden = k->base.version && !k->base.etag[0] && !r2_in_log(k);
    /* with a conflict known, the small question comes before the large body */
    bool lost = !op->known; /* the state file was deleted while the database was open */
    if (rc || (k->pending.kind != R2_PENDING_PUSH && !hidden && !k->conflict_version && !lost))
        return rc;
    rc = r2_probe(op, &seen);
    if (rc && k->pending.kind == R2_PENDING_PUSH) return unknown_outcome(op);
    if (!rc) rc = r2_settle(op, &seen, &moved);
    if (rc) return rc;
    enum r2_relation relation = r2_plan_relation(k, &seen);
    if (relation == R2_REL_SAME) {
        (void)r2_strcpy(k->base.etag, sizeof k->base.etag, seen.v.etag);
        return R2_OK;
    }
    if (relation == R2_REL_ABSENT) return R2_OK;
    bool equal = false;
    if (relation == R2_REL_FIRST) rc = r2_take_if_equal(op, &seen, &equal);
    if (rc || equal) return rc;
    struct r2_staged s;
    rc = r2_stage_changes(op, &s); /* nothing of ours above the base: then it is no conflict */
    equal = s.equal;
    r2_staged_free(&s);
    if (rc || (equal && relation == R2_REL_NEWER)) return rc;
    return r2_conflict(op, relation, &seen);
}

/* What is about to be pushed was not written by r2vfs: later work of plain SQLite, or an older file
 * put back, which nothing can tell apart. So the version that it replaces is kept first. */
static enum r2_code keep_base(struct r2_op *op)
{
    struct r2_record *k = &op->r->record;
    struct r2_remote seen;
    if (!k->unvouched || !k->base.version) return R2_OK;
    enum r2_code rc = r2_probe(op, &seen);
    if (rc || r2_plan_relation(k, &seen) != R2_REL_SAME) return rc; /* the push meets it */
    rc = r2_keep_base(op, &seen);
    if (rc == R2_PRECONDITION) rc = R2_OK; /* so will the push */
    return rc;
}

/* Make what was staged the next version. */
static enum r2_code push_next(struct r2_op *op, struct r2_staged *s, uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    struct r2_push_over over = {.base = k->base.version ? &k->base : NULL,
                                .etag = k->base.version ? k->base.etag : "",
                                .version = k->base.version + 1};
    if (!s->image.pages && !k->base.version) return R2_OK; /* a database without a page yet */
    if (!s->image.pages)
        return r2_fail(op->call.err, R2_REFUSED,
                       "%s is empty now, although it held version %" PRIu64
                       "; an empty file is not "
                       "pushed: close it, delete it and open it again to get the remote's content",
                       op->r->path, k->base.version);
    /* in the log what it replaces stays reachable as long as any version */
    if (s->by_changes) return r2_push_changes(op, s, version);
    enum r2_code rc = keep_base(op);
    return rc ? rc : r2_push_staged(op, s, &over, version);
}

enum r2_code r2_push_if_dirty(struct r2_op *op, uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    struct r2_staged s;
    enum r2_code rc = look_first(op);
    if (rc) return rc;
    *version = k->base.version;
    if (r2_in_log(k)) {
        rc = r2_stage_changes(op, &s);
    } else {
        /* nobody of ours wrote: most likely it is base's, and needs no copy beside it */
        bool wrote = atomic_load(&r2_state_live(op->r->state)->write_seq) != k->clean_seq;
        rc = r2_stage(op, wrote || !k->base.version || k->pending.kind == R2_PENDING_PUSH, &s);
        if (!rc && !s.equal && s.image.fd < 0) {
            r2_staged_free(&s);
            rc = r2_stage(op, true, &s);
        }
    }
    if (rc == R2_MISSING) { /* no file: nothing to push */
        r2_err_clear(op->call.err);
        rc = R2_OK;
    } else if (!rc && s.equal && k->pending.kind != R2_PENDING_PUSH) {
        bool news = k->clean_seq != s.seq || !r2_identity_same(&k->identity, &s.identity);
        r2_staged_is_base(op, &s);
        if (news) rc = r2_op_save(op);
    } else if (!rc) {
        /* equal too, while another content is in doubt: base's must be pushed after that one */
        rc = push_next(op, &s, version);
    }
    r2_staged_free(&s);
    return rc;
}

/* Push what was committed before write_seq was `target`, if nobody has. */
static enum r2_code sync_to(struct r2_op *op, uint64_t target, uint64_t *version)
{
    struct r2_identity now;
    struct r2_record *k = &op->r->record;
    *version = k->base.version;
    bool carried = op->known && k->base.version && k->pending.kind == R2_PENDING_NONE &&
                   k->clean_seq != UINT64_MAX && k->clean_seq >= target;
    enum r2_code rc = r2_identity_of(op->r->path, &now, op->call.err);
    if (rc == R2_MISSING) return R2_OK;
    if (rc) return rc;
    if (carried && k->clean_seq > target) return R2_OK; /* somebody's push took it along */
    if (carried && !r2_maybe_dirty(op, &now)) return R2_OK;
    op->continues = true;
    return r2_push_if_dirty(op, version);
}

enum r2_code r2_replica_sync(struct r2_replica *r, uint64_t *version, struct r2_err *e)
{
    struct r2_op op;
    enum r2_code rc;
    if (r2_replica_barred(r, e)) return e->code;
    /* what was committed before this call is in any push that is staged after it */
    uint64_t target = atomic_load(&r2_state_live(r->state)->write_seq);
    int64_t until = r2_boot_ms() + atomic_load(&r->timeout_ms);
    do {
        rc = r2_op_start(&op, r, e);
        if (rc) return rc;
        rc = sync_to(&op, target, version);
        r2_op_end(&op);
    } while (r2_op_again(&op, rc, until));
    if (rc) r2_log_err(r, e);
    return rc;
}
