/* replica_open.c - what happens when a connection opens and closes: look, probe, decide, act. */
#include "replica_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "ltx.h"
#include "os.h"

enum {
    OPEN_BUSY_MS = 2000, /* how long open readers are waited for before a pull is put off */
    OFFLINE_MS = 3000,   /* how long offline=allow waits for an answer */
    LEFT_MS = 25,        /* longer than a tick of the file system's clock */
    CLOSE_BUSY_MS = 500  /* how long a close waits for a writer that will close as well */
};

/* ---- acting on a plan ---- */

/* Keep the local image as a fork and take the remote, or bar the replica: the `conflict` policy. */
static enum r2_code by_policy(struct r2_op *op, const struct r2_config *config,
                              enum r2_relation relation, struct r2_remote *remote)
{
    struct r2_replica *r = op->r;
    enum r2_code rc = r2_conflict(op, relation, remote);
    struct r2_err why = *op->call.err;
    r2_log_err(r, &why);
    if (config->conflict == R2_ON_CONFLICT_ERROR) {
        r2_bar(r, why.text);
        op->barred = true;
        r2_err_clear(op->call.err);
        return R2_OK;
    }
    r2_err_clear(op->call.err);
    rc = r2_adopt_remote(op, remote);
    if (rc) r2_advise(op->call.err, " (to settle this with conflict=fork: %.300s)", why.text);
    if (rc != R2_CORRUPT) return rc;
    /* an open that failed could not be told r2_resolve('local') */
    r2_log_err(r, op->call.err);
    r2_bar(r, op->call.err->text);
    op->barred = true;
    r2_err_clear(op->call.err);
    return R2_OK;
}

/* What was staged is this version, whose page checksums are `sums`: it is the base now. */
static enum r2_code take_as_base(struct r2_op *op, const struct r2_version *v,
                                 enum r2_layout_kind layout, const uint64_t *sums,
                                 struct r2_staged *s)
{
    struct r2_record *k = &op->r->record;
    enum r2_code rc =
        r2_state_write_sums(op->r->state, k->area ^ 1, 1, s->image.pages, sums, op->call.err);
    if (rc) return rc;
    bool seen_more = k->highest_seen > v->version && memcmp(k->base.lineage, v->lineage, 16) == 0;
    if (!seen_more) k->highest_seen = v->version;
    k->area ^= 1;
    k->layout = layout;
    k->base = *v;
    k->base.local_cookie = r2_image_cookie(&s->image);
    k->conflict_version = 0;
    k->pending.kind = R2_PENDING_NONE;
    r2_staged_is_base(op, s);
    return r2_op_save(op);
}

/* Is the staged content the fetched version's? Then that is the base. */
static enum r2_code recognise(struct r2_op *op, struct r2_remote *remote,
                              const struct r2_image *image, struct r2_staged *s, bool *equal)
{
    *equal = s->content == r2_image_content(image) && s->image.pages == image->pages &&
             s->image.page_size == image->page_size;
    if (*equal && image->pages)
        *equal = memcmp(s->image.sums + 1, image->sums + 1, (image->pages - 1) * 8u) == 0;
    if (!*equal) return R2_OK;
    r2_keep_lineage(&op->r->record, remote);
    return take_as_base(op, &remote->v, remote->layout, image->sums, s);
}

/* Which version of the log has just the local file's checksum? The last one that has. */
struct match {
    const struct r2_image *local;
    uint64_t rest; /* the rolling checksum of all pages but page 1 */
    uint64_t version;
};

static struct match match_of(const struct r2_image *local)
{
    struct match m = {.local = local, .rest = r2_image_checksum(local)};
    if (local->pages) m.rest ^= local->sums[0];
    return m;
}

static void on_version(void *ctx, const struct r2_version *v)
{
    struct match *m = ctx;
    if (v->pages != m->local->pages || v->page_size != m->local->page_size || !v->pages) return;
    uint64_t sum = R2_LTX_FLAG | (m->rest ^ r2_image_page1_as(m->local, v->header));
    if (sum == v->checksum) m->version = v->version;
}

/* The local file is not the head. If it is an earlier version that the log still has, then that is
 * the base, and the head is simply newer. */
static enum r2_code recognise_earlier(struct r2_op *op, struct r2_remote *remote,
                                      struct r2_staged *s, bool *found)
{
    struct r2_log l;
    struct r2_image image;
    struct match m = match_of(&s->image);
    struct r2_remote *there = malloc(sizeof *there);
    *found = false;
    if (!there) return r2_fail(op->call.err, R2_NOMEM, "out of memory");
    r2_image_init(&image);
    r2_log_of(op, &l);
    l.on_version = on_version;
    l.ctx = &m;
    enum r2_code rc = r2_image_create(&image, op->r->path, "-r2-new", false, op->call.err);
    if (!rc) rc = r2_layout_object.probe(l.store, &op->call, l.key, there);
    if (!rc && there->exists) rc = r2_log_fetch(&l, there, remote->v.version, &image);
    if (!rc && m.version) {
        rc = r2_layout_object.probe(l.store, &op->call, l.key, there);
        l.on_version = NULL;
        if (!rc && there->exists) rc = r2_log_fetch(&l, there, m.version, &image);
        if (!rc) rc = recognise(op, there, &image, s, found);
    }
    r2_image_free(&image);
    free(there);
    return rc;
}

/* A COMMIT that failed here, after it had been sent, can surface in the -wal when it was already
 * taken for another's. Nobody has committed since, and the next version has its nonce: equal bytes
 * alone would be another's work (DESIGN 3). */
static bool may_have_surfaced(const struct r2_op *op)
{
    const struct r2_record *k = &op->r->record;
    return k->surplus && k->surplus_seq == atomic_load(&r2_state_live(op->r->state)->write_seq);
}

static bool is_surplus(const struct r2_record *k, const struct r2_version *v)
{
    uint64_t nonce;
    return v->version == k->base.version + 1 && r2_recent_find(v->recent, v->version, &nonce) &&
           nonce == k->surplus;
}

/* In the log layout: is it that one, just so? */
static enum r2_code recognise_next(struct r2_op *op, bool *found)
{
    struct r2_record *k = &op->r->record;
    struct r2_staged s;
    struct r2_patch patch;
    struct r2_log l;
    struct r2_version *next = malloc(sizeof *next);
    *found = false;
    if (!next) return r2_fail(op->call.err, R2_NOMEM, "out of memory");
    r2_patch_init(&patch, op->r->path);
    enum r2_code rc = r2_stage(op, false, &s);
    struct match m = match_of(&s.image);
    r2_log_of(op, &l);
    l.on_version = on_version;
    l.ctx = &m;
    if (!rc) rc = r2_log_follow(&l, &k->base, k->base.version + 1, &patch, next);
    if (rc == R2_PRECONDITION || rc == R2_CORRUPT) { /* it cannot be told */
        r2_err_clear(op->call.err);
        rc = R2_OK;
    } else if (!rc && m.version == next->version && s.image.pages && is_surplus(k, next)) {
        *found = true;
        s.image.sums[0] = r2_image_page1_as(&s.image, next->header);
        rc = take_as_base(op, next, k->layout, s.image.sums, &s);
    }
    r2_patch_free(&patch);
    r2_staged_free(&s);
    free(next);
    return rc;
}

/* The local file may be the remote's version although nothing says so: its bytes decide. `config`:
 * what to do if not; NULL: nothing. */
static enum r2_code compare_with_remote(struct r2_op *op, const struct r2_config *config,
                                        enum r2_relation relation, struct r2_remote *remote,
                                        bool *equal)
{
    struct r2_record *k = &op->r->record;
    struct r2_staged s;
    struct r2_image image;
    bool backup = false;
    *equal = false;
    memset(&s, 0, sizeof s);
    r2_image_init(&s.image);
    r2_image_init(&image);
    enum r2_code rc = r2_image_create(&image, op->r->path, "-r2-new", true, op->call.err);
    if (!rc) rc = r2_fetch(op, remote, false, &image);
    bool unsound = rc == R2_CORRUPT && relation == R2_REL_NEWER; /* then it is none of ours */
    if (!rc) rc = r2_stage(op, false, &s);
    if (!rc) rc = recognise(op, remote, &image, &s, equal);
    if (!rc && *equal && op->fetched_ms) k->verified_ms = op->fetched_ms;
    bool earlier = false;
    if (!rc && !*equal && remote->layout == R2_LAYOUT_LOG && s.image.pages)
        rc = recognise_earlier(op, remote, &s, &earlier);
    if (!rc && earlier) {
        struct r2_expect base = {.image = NULL};
        r2_staged_free(&s);
        memset(&s, 0, sizeof s);
        r2_image_init(&s.image);
        s.changes.patch.fd = -1;
        rc = r2_install(op, remote, &image, &base, OPEN_BUSY_MS);
        *equal = !rc;
        backup = true;
    }
    if (!rc && !*equal && config && r2_held_before(k, &s)) { /* nothing is lost */
        struct r2_expect expect = {.image = &s.image};
        backup = true;
        rc = r2_install(op, remote, &image, &expect, OPEN_BUSY_MS);
    }
    r2_staged_free(&s);
    r2_image_free(&image);
    if (unsound) {
        r2_log_err(op->r, op->call.err);
        r2_err_clear(op->call.err);
        rc = R2_OK;
    }
    if (!rc && !*equal && !backup && config) rc = by_policy(op, config, relation, remote);
    return rc;
}

enum r2_code r2_take_if_equal(struct r2_op *op, struct r2_remote *remote, bool *equal)
{
    return compare_with_remote(op, NULL, R2_REL_FIRST, remote, equal);
}

/* Local commits that a crash or a failed close left behind. A failure is not the opener's: the
 * commits stay where they are, and the next close tries again. */
static void push_leftovers(struct r2_op *op, const struct r2_config *config)
{
    uint64_t version;
    if (config->sync == R2_SYNC_MANUAL) return;
    if (r2_push_if_dirty(op, &version)) r2_log_err(op->r, op->call.err);
    r2_err_clear(op->call.err);
}

static enum r2_code take_remote(struct r2_op *op, struct r2_remote *remote, enum r2_local_kind kind)
{
    struct r2_staged s;
    struct r2_expect expect = {.image = NULL};
    enum r2_code rc;
    memset(&s, 0, sizeof s);
    r2_image_init(&s.image);
    if (kind == R2_LOCAL_OLD) {
        rc = r2_stage(op, false, &s);
        if (rc) return rc;
        expect.image = &s.image;
        r2_note(op->r, "%s holds an older version again; taking version %" PRIu64 " from %s",
                op->r->path, remote->v.version, op->r->config.url);
    }
    if (kind == R2_LOCAL_OLD && !r2_held_before(&op->r->record, &s)) /* somebody has committed */
        rc = r2_fail(op->call.err, R2_BUSY, "%s was changed while it was looked at", op->r->path);
    else
        rc = r2_pull_remote(op, remote, &expect, OPEN_BUSY_MS);
    r2_staged_free(&s);
    if (rc != R2_BUSY || kind == R2_LOCAL_ABSENT) return rc;
    /* readers are in the way: they, and this connection, go on with the old version for now */
    atomic_store(&op->r->behind, true);
    r2_log_err(op->r, op->call.err);
    r2_err_clear(op->call.err);
    return R2_OK;
}

static enum r2_code forget_everything(struct r2_op *op)
{
    struct r2_record *k = &op->r->record;
    memset(&k->base, 0, sizeof k->base);
    memset(&k->pending, 0, sizeof k->pending);
    memset(&k->identity, 0, sizeof k->identity);
    k->clean_seq = 0;
    k->highest_seen = k->conflict_version = 0;
    k->held = 0;
    return r2_op_save(op);
}

static enum r2_code act(struct r2_op *op, const struct r2_config *config, bool first,
                        enum r2_local_kind kind, struct r2_remote *remote)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    enum r2_relation relation = r2_plan_relation(k, remote);
    enum r2_action action = r2_plan(kind, relation);
    bool equal;
    bool newer = action == R2_DO_CONFLICT && relation == R2_REL_NEWER && first;
    if (newer && may_have_surfaced(op)) {
        bool next = false;
        enum r2_code rc = remote->by_segments ? recognise_next(op, &next) : R2_OK;
        if (!rc && next) rc = r2_probe(op, remote);
        if (rc) return rc;
        if (next) return act(op, config, first, R2_LOCAL_CLEAN, remote);
        if (is_surplus(k, &remote->v)) action = R2_DO_COMPARE;
    }
    /* an older state file put back: the file may be the remote's version all the same */
    if (newer && op->unseen) action = R2_DO_COMPARE;
    if (action == R2_DO_CONFLICT && !first && kind == R2_LOCAL_DIRTY) {
        enum r2_code rc = r2_look_closer(op, &kind);
        if (rc) return rc;
        /* its writers are alive: their sync() or close must be told, so nothing is settled here */
        if (kind == R2_LOCAL_DIRTY) return R2_OK;
        action = r2_plan(kind, relation);
    }
    switch (action) {
    case R2_DO_NOTHING:
        equal = strcmp(k->base.etag, remote->v.etag) == 0;
        (void)r2_strcpy(k->base.etag, sizeof k->base.etag, remote->v.etag);
        return op->known && equal ? R2_OK : r2_op_save(op);
    case R2_DO_PUSH:
        if (first || !op->known) push_leftovers(op, config);
        return R2_OK;
    case R2_DO_PULL:
        return take_remote(op, remote, kind);
    case R2_DO_COMPARE:
        /* beside other connections nothing is settled: their commits might be set aside unseen */
        return first ? compare_with_remote(op, config, relation, remote, &equal)
                     : r2_take_if_equal(op, remote, &equal);
    case R2_DO_CONFLICT:
        return first ? by_policy(op, config, relation, remote) : R2_OK;
    case R2_DO_REFUSE:
        r2_conflict(op, relation, remote);
        r2_log_err(r, op->call.err);
        r2_bar(r, op->call.err->text);
        op->barred = true;
        r2_err_clear(op->call.err);
        return R2_OK;
    case R2_DO_RESET:
        return forget_everything(op);
    }
    return R2_OK;
}

/* ---- open ---- */

static enum r2_code open_locked(struct r2_op *op, const struct r2_config *config)
{
    struct r2_replica *r = op->r;
    enum r2_local_kind kind;
    struct r2_remote remote;
    bool first = false, moved = false;
    if (!r->joined) r2_state_join(r->state, &first);
    first = first && !r2_replica_shared(r);
    r->joined = true;
    enum r2_code rc = r2_look_at_local(op, first, &kind);
    if (rc == R2_BUSY || rc == R2_READONLY) {
        /* somebody keeps it locked, or it may only be read: plain SQLite opens such a file, too */
        r2_log_err(r, op->call.err);
        r2_err_clear(op->call.err);
        r->joined = false; /* the next open looks again, and so does a refresh */
        atomic_store(&r->behind, true);
        return R2_OK;
    }
    if (rc) return rc;
    if (config->offline_allow && kind != R2_LOCAL_ABSENT && config->timeout_ms > OFFLINE_MS)
        op->call.deadline_ms = r2_boot_ms() + OFFLINE_MS;   /* there is something to go on with */
    if (kind == R2_LOCAL_ABSENT) r->record.verified_ms = 0; /* what is at KEY is needed anyway */
    rc = r2_probe(op, &remote);
    r2_op_time(op);
    if (rc == R2_UNREACHABLE && config->offline_allow && kind != R2_LOCAL_ABSENT) {
        r2_log_err(r, op->call.err);
        r2_note(r, "%s: working offline with the local copy (version %" PRIu64 ")", r->path,
                r->record.base.version);
        r2_err_clear(op->call.err);
        return R2_OK;
    }
    if (rc == R2_UNREACHABLE)
        return kind == R2_LOCAL_ABSENT
                   ? r2_advise(op->call.err, "; there is no local copy of %s yet", r->path)
                   : r2_advise(op->call.err, "; to work with the local copy meanwhile, open with "
                                             "offline=allow (or set R2VFS_OFFLINE=allow)");
    if (rc) return rc;
    if (kind == R2_LOCAL_ABSENT && !remote.exists && r->record.base.version) {
        /* gone on both sides; but perhaps not its log: look as one who knows nothing */
        rc = forget_everything(op);
        if (!rc) rc = r2_probe(op, &remote);
        if (rc) return rc;
    }
    rc = r2_settle(op, &remote, &moved);
    if (!rc && moved) rc = r2_look_at_local(op, first, &kind);
    if (rc) return rc;
    rc = act(op, config, first, kind, &remote);
    if (!rc && !op->barred) r2_bar(r, NULL);
    return rc;
}

enum r2_code r2_replica_open(struct r2_replica *r, const struct r2_config *config, struct r2_err *e)
{
    struct r2_op op;
    enum r2_code rc;
    int64_t came = r2_boot_ms();
    /* what is being sent is newer than anything a probe could find; but in sync=commit it may lose
     * against a version that this open must see */
    bool skip = false, wait = access(r->path, F_OK) != 0 || config->sync == R2_SYNC_COMMIT;
    atomic_store(&r->timeout_ms, config->timeout_ms);
    atomic_store(&r->sync_mode, (int)config->sync);
    atomic_store(&r->sync_ms, config->sync_ms);
    if (config->sync == R2_SYNC_TIMER) {
        int64_t shortest = atomic_load(&r->timer_ms);
        if (!shortest || config->sync_ms < shortest) atomic_store(&r->timer_ms, config->sync_ms);
        r2_timer_want();
    }
    do {
        rc = r2_op_wait(&op, r, wait, wait ? NULL : &skip, e);
        if (!rc && skip) {
            if (!atomic_load(&r->joined)) r2_state_join_others(r->state);
            atomic_store(&r->joined, true);
            return R2_OK;
        }
        if (rc) return rc;
        /* threads that opened at once share the probe that began after they came */
        bool shared = r->joined && op.known && atomic_load(&r->probed_boot_ms) > came &&
                      !atomic_load(&r->behind) && !r2_local_absent(&op);
        if (op.busy_ms > OPEN_BUSY_MS) op.busy_ms = OPEN_BUSY_MS;
        if (!shared) rc = open_locked(&op, config);
        if (rc && op.unreadable) { /* SQLite will say so at the first read; this is the cure */
            r2_advise(e, "; it is left as it is: move it away to get what %s holds", r->config.url);
            r2_log_err(r, e);
            r2_err_clear(e);
            rc = R2_OK;
        }
        r2_op_end(&op);
    } while (r2_op_again(&op, rc, came + config->timeout_ms));
    return rc;
}

/* ---- close ---- */

/* Something stays unpushed: remember what the file looks like, so that the next open can tell that
 * nobody touched it since. */
static void remember_left(struct r2_op *op)
{
    struct r2_record *k = &op->r->record;
    uint64_t seq = atomic_load(&r2_state_live(op->r->state)->write_seq);
    struct r2_identity now;
    struct r2_err why = *op->call.err;
    if (seq == k->clean_seq || !op->known) return;
    if (r2_identity_of(op->r->path, &now, op->call.err) == R2_OK && !r2_identity_same(&now, &now)) {
        r2_sleep_ms(LEFT_MS); /* let the clock of the file system move on */
        (void)r2_identity_of(op->r->path, &now, op->call.err);
    }
    k->left = now;
    k->left_seq = seq;
    (void)r2_op_save(op);
    *op->call.err = why;
}

static enum r2_code push_at_close(struct r2_op *op, bool push)
{
    struct r2_identity now;
    uint64_t version;
    enum r2_code rc = r2_identity_of(op->r->path, &now, op->call.err);
    if (!rc && push && (r2_maybe_dirty(op, &now) || !op->r->record.base.version)) {
        op->continues = op->closing = true;
        rc = r2_push_if_dirty(op, &version);
    }
    if (rc == R2_BUSY && op->gave_way) return rc;
    if (rc || !push) remember_left(op);
    return rc;
}

enum r2_code r2_replica_close(struct r2_replica *r, const struct r2_config *config, bool wrote,
                              struct r2_err *e)
{
    struct r2_op op;
    enum r2_code rc;
    bool others;
    int64_t until = r2_boot_ms() + atomic_load(&r->timeout_ms);
    if (r2_replica_foreign(r) || atomic_load(&r->barred)) return R2_OK;
    do {
        /* a reader's close need not wait for somebody else's upload */
        rc = wrote ? r2_op_wait(&op, r, true, NULL, e) : r2_op_begin(&op, r, 0, e);
        if (rc == R2_BUSY && !wrote) return R2_OK;
        if (rc) return rc;
        others = r2_replica_shared(r);
        if (others) op.busy_ms = CLOSE_BUSY_MS;
        if (!r2_local_absent(&op)) rc = push_at_close(&op, config->sync != R2_SYNC_MANUAL);
        r2_op_end(&op);
    } while (wrote && r2_op_again(&op, rc, until));
    if (rc == R2_BUSY && !wrote && op.gave_way) return R2_OK; /* that COMMIT is going to push */
    if (!rc) r2_checkpoint_at_close(r);
    if (!rc) return R2_OK;
    r2_log_err(r, e);
    /* a transaction of another connection is in the way: its own close pushes both */
    return rc == R2_BUSY && others ? R2_OK : rc;
}
