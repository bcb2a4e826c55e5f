/* replica_commit.c - sync=commit: a push inside COMMIT.
 *
 * The pages come from the transaction itself, before it is visible to anybody. The version becomes
 * the base only when SQLite has committed it locally: between the two the operation stays open, so
 * that nobody else looks at the replica, and the state says that the file holds the version only if
 * its content is just that (pending.exact). A crash in between leaves the old content; the version
 * is then simply a newer one.
 *
 * A commit that failed is rolled back by SQLite. If its outcome is unknown, what was tried is
 * marked as gone: should it land, it is a newer version as well. */
#include "replica_int.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "os.h"

struct r2_commit {
    struct r2_op op;
    struct r2_staged s;
    struct r2_remote seen;
    struct r2_err e;
    bool staged;
    bool again; /* the conflict is with what this file holds itself, or is not known to hold */
};

/* What the transaction makes of the file. */
static enum r2_code stage(struct r2_commit *c, const struct r2_source *from, struct r2_marks *m)
{
    struct r2_op *op = &c->op;
    struct r2_record *k = &op->r->record;
    struct r2_staged *s = &c->s;
    struct r2_err *e = op->call.err;
    memset(s, 0, sizeof *s);
    r2_image_init(&s->image);
    s->changes.patch.fd = -1;
    s->state = op->r->state;
    s->by_changes = r2_in_log(k);
    s->seq = atomic_load(&r2_state_live(s->state)->write_seq);
    enum r2_code rc = r2_state_take_own(s->state, m, &s->dirty, e);
    if (!rc && !s->by_changes) {
        rc = r2_image_create(&s->image, op->r->path, "-r2-stage", false, e);
        return rc ? rc : r2_image_read_source(&s->image, from, e);
    }
    struct r2_changes *ch = &s->changes;
    if (!rc) rc = r2_changes_find(ch, from, &k->base, s->state, k->area, &s->dirty, op->r->path, e);
    s->image.page_size = ch->patch.page_size;
    s->image.pages = ch->patch.pages;
    if (rc || !ch->page1) return rc;
    if (!(s->image.page1 = malloc(ch->patch.page_size)))
        return r2_fail(e, R2_NOMEM, "out of memory");
    memcpy(s->image.page1, ch->page1, ch->patch.page_size);
    return R2_OK;
}

/* An earlier push in doubt, or a pull that was cut short, comes first. What needs a look at the
 * file is left to the begin of the next transaction: within this one it cannot be read. */
static enum r2_code settle_before(struct r2_commit *c, bool locked)
{
    struct r2_op *op = &c->op;
    struct r2_record *k = &op->r->record;
    struct r2_remote seen;
    bool moved;
    if (k->pending.kind == R2_PENDING_NONE && op->known) return R2_OK;
    c->again = k->pending.kind == R2_PENDING_PULL || !op->known ||
               (locked && r2_pending_unjudged(&k->pending));
    if (c->again)
        return r2_fail(op->call.err, R2_CONFLICT,
                       "%s has to be compared with %s first, after an unclean end; the transaction "
                       "was rolled back: begin it again",
                       op->r->path, k->url);
    op->continues = true;
    enum r2_code rc = r2_probe(op, &seen);
    if (!rc) rc = r2_settle(op, &seen, &moved);
    if (rc || r2_plan_relation(k, &seen) == R2_REL_SAME ||
        r2_plan_relation(k, &seen) == R2_REL_ABSENT)
        return rc;
    return r2_fail(op->call.err, R2_CONFLICT, "the remote moved on");
}

static enum r2_code send(struct r2_commit *c, enum r2_maker *maker)
{
    struct r2_record *k = &c->op.r->record;
    struct r2_push_over over = {.base = k->base.version ? &k->base : NULL,
                                .etag = k->base.version ? k->base.etag : "",
                                .version = k->base.version + 1};
    if (c->s.by_changes) return r2_send_changes(&c->op, &c->s, true, &c->seen, maker);
    return r2_send_image(&c->op, &c->s, &over, true, &c->seen, maker);
}

/* It is not in the remote, as far as is known; SQLite rolls it back. */
static enum r2_code failed(struct r2_commit *c, enum r2_code rc)
{
    struct r2_op *op = &c->op;
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    struct r2_pending *p = &k->pending;
    struct r2_err why = *op->call.err;
    /* not one that another process left behind */
    bool ours = c->staged && p->kind == R2_PENDING_PUSH && p->exact && p->seq == c->s.seq;
    if (rc == R2_CONFLICT) {
        /* the begin of the next transaction looks who has the number */
        if (ours) p->try[p->tries - 1].gone = true;
        if (!c->again) {
            atomic_fetch_add(&r->conflicts, 1);
            r2_fail(&why, R2_CONFLICT,
                    "conflict: another writer pushed version %" PRIu64 " of %s before this "
                    "transaction, which was rolled back; begin it again: it starts from the newer "
                    "version then",
                    k->base.version + 1, k->url);
        }
    } else if (ours && rc == R2_UNKNOWN) {
        p->try[p->tries - 1].gone = true;
        r2_wrap(&why,
                "version %" PRIu64 " of %s may or may not have been stored; the transaction was "
                "rolled back here",
                p->v.version, k->url);
        r2_advise(&why,
                  "; the next transaction finds out, and starts from it if it was: look before "
                  "you repeat what must happen only once");
    } else if (ours && !p->doubt) {
        p->kind = R2_PENDING_NONE;
    } else if (ours) {
        p->try[p->tries - 1].gone = true;
    }
    if (rc == R2_CONFLICT || rc == R2_UNKNOWN) atomic_store(&r->behind, true);
    (void)r2_op_save(op);
    *op->call.err = why;
    return why.code = rc;
}

static void finish(struct r2_commit *c)
{
    if (c->staged) r2_staged_free(&c->s);
    r2_op_end(&c->op);
    free(c);
}

enum r2_code r2_replica_commit(struct r2_replica *r, const struct r2_source *from,
                               struct r2_marks *m, bool locked, struct r2_commit **out,
                               struct r2_err *e)
{
    enum r2_maker maker;
    struct r2_commit *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return r2_fail(e, R2_NOMEM, "out of memory");
    enum r2_code rc = r2_op_start_commit(&c->op, r, e);
    if (rc) {
        free(c);
        return rc;
    }
    rc = r2_not_damaged(&c->op);
    if (!rc) rc = settle_before(c, locked);
    if (!rc) {
        c->staged = true;
        rc = stage(c, from, m);
    }
    bool nothing = !rc && c->s.by_changes && !c->s.changes.changed && !c->s.changes.reshaped;
    if (!rc && !nothing) rc = send(c, &maker);
    if (!rc && !nothing) {
        c->e = *e;
        c->op.call.err = &c->e; /* the caller's is gone when it ends */
        *out = c;
        return R2_OK;
    }
    if (rc) rc = failed(c, rc);
    finish(c);
    return rc;
}

void r2_replica_commit_end(struct r2_commit *c, bool committed, bool synced)
{
    struct r2_op *op = &c->op;
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    struct r2_err ignored;
    uint64_t version;
    if (!committed) { /* it is in the remote, and the next transaction starts from it */
        struct r2_err why;
        r2_fail(&why, R2_UNKNOWN,
                "version %" PRIu64
                " of %s was stored, but the COMMIT did not end in order here and was "
                "rolled back in %s: the next transaction starts from that version; look before you "
                "repeat what must happen only once",
                k->pending.v.version, k->url, r->path);
        /* SQLite may have failed after the commit was done (the sync of a journal that it had
         * emptied): the intent stays as it was saved, and the next look settles what the file holds
         */
        atomic_store(&r->behind, true);
        r2_log_err(r, &why);
        finish(c);
        return;
    }
    c->s.seq = atomic_load(&r2_state_live(r->state)->write_seq); /* the write lock is still held */
    k->pending.seq = c->s.seq;
    if (!synced || r2_sync_journal_of(r->path, &ignored)) {
        /* a power loss may take it back here: the next look settles what the file holds */
        atomic_store(&r->behind, true);
        finish(c);
        return;
    }
    if (r2_identity_of(r->path, &c->s.identity, &ignored) == R2_OK)
        c->s.identity.counter = r2_image_counter(&c->s.image);
    (void)r2_push_landed(op, &c->s, &c->seen, &version);
    if (c->s.by_changes) {
        r2_level_areas(op, &c->s.changes.patch);
    }
    finish(c);
}
