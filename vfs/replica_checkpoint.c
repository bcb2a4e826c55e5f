/* replica_checkpoint.c - bring the snapshot up to date, and collect what nobody needs any more.
 *
 * The image is that of exactly one version, checked against its checksum before anything is sent:
 * read from the local file if that holds the base and nothing else, else rebuilt from the remote.
 * It is staged within an operation and sent after it, so that no commit and no open waits for the
 * transfer. KEY is replaced with If-Match only if it holds an older version of the same lineage;
 * whoever loses that race is content with what is there. One at a time tends a replica. */
#include "replica_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log_int.h"
#include "ltx.h"
#include "os.h"

enum {
    SEGMENTS = 256,             /* more than this a reader should not have to fetch, */
    WORTH = 256 << 10,          /* unless they are less than the database's size in these units */
    LEAST = 1 << 20,            /* bytes of a log that are never too many */
    SMALL = 4 << 20,            /* a database that is checkpointed at each close */
    COLLECT_EVERY_MS = 3600000, /* per replica */
    REST_MS = 60000,            /* after a failure */
    CLOSE_WAIT_MS = 1000,
    BUSY_MS = 50,  /* a COMMIT may wait for the operation, with the file locked */
    LOG_WORTH = 2, /* a log is read for what need not be sent if it is not more than a half of it */
    TURNS = 3
};

bool r2_checkpoint_due(const struct r2_record *k)
{
    uint64_t size = (uint64_t)k->base.pages * k->base.page_size;
    if (!r2_in_log(k) || k->base.version <= k->snapshot) return false;
    uint64_t segments = k->base.version - k->snapshot;
    if (segments >= SEGMENTS && segments >= size / WORTH) return true;
    return k->log_bytes > (size / 4 > LEAST ? size / 4 : LEAST);
}

static bool small_and_behind(const struct r2_record *k)
{
    return r2_in_log(k) && k->base.version > k->snapshot &&
           (uint64_t)k->base.pages * k->base.page_size <= SMALL;
}

static uint64_t lineage_word(const struct r2_version *v)
{
    uint64_t word;
    memcpy(&word, v->lineage, sizeof word);
    return word;
}

static bool collect_due(struct r2_replica *r)
{
    const struct r2_record *k = &r->record;
    int64_t age = r2_signing_now(r) - k->collected_ms;
    return r2_in_log(k) && k->base.version > 1 &&
           (k->tended != lineage_word(&k->base) || age < 0 || age > COLLECT_EVERY_MS);
}

/* ---- one checkpoint ---- */

struct job {
    struct r2_replica *r;
    struct r2_call call; /* its own: it goes on after the operation */
    struct r2_image image;
    struct r2_version v;     /* what the image is; version 0: there is none */
    struct r2_remote at_key; /* what it is to replace */
    uint64_t base_of_op;     /* the replica's base, and the bytes in its log, when it was staged */
    uint64_t log_bytes;
    int64_t based_ms, collected_ms;
    bool needless;    /* the snapshot is as new, or it cannot be done now */
    bool from_remote; /* the log's head is wanted; the image is for want of that */
    struct r2_ahead ahead;
    uint8_t *changed; /* pages that differ from what it is to replace; NULL: not known */
};

static void job_log(struct job *j, struct r2_log *l)
{
    *l = (struct r2_log){.store = j->r->store,
                         .call = &j->call,
                         .key = j->r->config.key,
                         .db_path = j->r->path,
                         .ahead = &j->ahead};
    j->call.deadline_ms = r2_boot_ms() + atomic_load(&j->r->timeout_ms);
}

/* What stands at KEY must be an earlier snapshot of the same lineage. `asked`: if it is none, say
 * so; else whoever pushes or pulls next finds out. */
static enum r2_code look_at_key(struct r2_op *op, struct job *j, bool newer, bool asked)
{
    struct r2_record *k = &op->r->record;
    struct r2_log l;
    r2_log_of(op, &l);
    enum r2_code rc = r2_log_look(&l, &j->at_key);
    if (rc) return r2_wrap(op->call.err, "cannot ask %s for its version", k->url);
    j->call.signed_ms = op->call.signed_ms;
    bool same = r2_log_same_lineage(&j->at_key, k->base.lineage);
    bool older = same && j->at_key.v.version < k->snapshot;
    if (!same || older) {
        j->needless = true;
        if (!asked) return R2_OK;
        enum r2_relation relation = older ? R2_REL_OLDER : r2_plan_relation(k, &j->at_key);
        if (relation != R2_REL_NEWER && !(newer && relation == R2_REL_LINEAGE))
            return r2_conflict(op, relation, &j->at_key);
        return r2_fail(op->call.err, R2_REFUSED,
                       "the layout of %s was changed, with version %" PRIu64
                       ", and this replica is at version %" PRIu64 ": SELECT r2_pull() first",
                       k->url, j->at_key.v.version, k->base.version);
    }
    l.snapshot = j->at_key.v.version;
    l.verified_ms = k->verified_ms;
    r2_log_done(op, &l);
    return R2_OK;
}

/* The local file, if it is the base and nothing else. */
static enum r2_code local_image(struct r2_op *op, struct job *j)
{
    struct r2_record *k = &op->r->record;
    struct r2_staged s;
    enum r2_code rc = r2_stage(op, true, &s);
    if (!rc && s.equal && !s.loose.pages && s.image.pages) {
        rc = r2_image_set_fields(&s.image, k->base.header, op->call.err);
        if (!rc && r2_image_checksum(&s.image) != k->base.checksum)
            rc = r2_fail(
                op->call.err, R2_CORRUPT,
                "%s holds version %" PRIu64
                " by its pages, but not its checksum: what is known of it in %s-r2 is "
                "damaged. No snapshot was written; close the database and remove that file, "
                "and the next open compares it with %s",
                op->r->path, k->base.version, op->r->path, k->url);
        if (!rc) {
            j->image = s.image;
            j->v = k->base;
            r2_image_init(&s.image);
        }
    } else if (rc) { /* somebody writes, or it cannot be read: the remote has it, too */
        r2_err_clear(op->call.err);
        rc = R2_OK;
    }
    r2_staged_free(&s);
    return rc;
}

/* `newer`: the remote is past the base. */
static enum r2_code stage(struct r2_op *op, struct job *j, bool newer, bool asked)
{
    enum r2_code rc = look_at_key(op, j, newer, asked);
    if (rc || j->needless) return rc;
    bool behind = j->at_key.v.version < op->r->record.base.version;
    if (behind) rc = local_image(op, j);
    j->from_remote = newer || (behind && !j->v.version);
    j->needless = !behind && !newer;
    return rc;
}

static void forget_changed(struct job *j)
{
    free(j->changed);
    j->changed = NULL;
}

/* The log's head, from the remote; without the operation. */
static enum r2_code fetch_head(struct job *j, struct r2_image *image, struct r2_remote *head)
{
    struct r2_log l;
    char suffix[48];
    enum r2_code rc = R2_OK;
    snprintf(suffix, sizeof suffix, "-r2-checkpoint-%016" PRIx64, r2_random64());
    for (int turn = 0; !rc; turn++) {
        *head = j->at_key;
        job_log(j, &l);
        l.changed = &j->changed;
        rc = r2_image_create(image, j->r->path, suffix, false, j->call.err);
        if (!rc) rc = r2_log_fetch(&l, head, 0, image);
        r2_ahead_free(&j->ahead);
        if (rc != R2_PRECONDITION || turn == TURNS) break;
        r2_image_free(image); /* another checkpoint came in between */
        forget_changed(j);
        r2_err_clear(j->call.err);
        rc = r2_log_look(&l, &j->at_key);
        if (!rc && !r2_log_same_lineage(&j->at_key, head->v.lineage))
            rc = r2_fail(j->call.err, R2_BUSY, "%s was replaced just now; try again", l.key);
    }
    return rc;
}

/* A segment that is lost or damaged keeps nobody from writing what this replica has. */
static enum r2_code take_head(struct job *j)
{
    struct r2_image image;
    struct r2_remote *head = malloc(sizeof *head);
    if (!head) return r2_fail(j->call.err, R2_NOMEM, "out of memory");
    r2_image_init(&image);
    enum r2_code rc = fetch_head(j, &image, head);
    if (!rc) {
        r2_image_free(&j->image);
        j->image = image;
        j->v = head->v;
        j->needless = j->at_key.v.version >= j->v.version;
    } else {
        r2_image_free(&image);
        forget_changed(j);
        if (rc == R2_CORRUPT && j->image.pages) {
            r2_err_clear(j->call.err);
            rc = R2_OK;
        }
    }
    free(head);
    return rc;
}

/* What the image has in common with what stands at KEY. A loser of a race looks no more: what has
 * not changed since the earlier snapshot has not changed since the later one, either. */
static void find_changed(struct job *j)
{
    struct r2_log l;
    uint64_t size = (uint64_t)j->image.pages * j->image.page_size;
    if (j->changed || size <= R2_MULTIPART_BYTES || !j->r->store->ops->reuses ||
        j->log_bytes > size / LOG_WORTH)
        return;
    job_log(j, &l);
    j->changed = r2_log_changed(&l, &j->at_key, &j->v, atomic_load(&j->r->timeout_ms));
}

/* Replace KEY. What it holds afterwards is at_key. */
static enum r2_code replace(struct job *j)
{
    struct r2_replica *r = j->r;
    struct r2_pending *p = calloc(1, sizeof *p);
    struct r2_remote *seen = malloc(sizeof *seen);
    enum r2_maker maker;
    struct r2_reuse reuse = {
        .changed = j->changed, .block = j->image.page_size, .size = j->at_key.size};
    struct r2_push push = {.pending = p,
                           .image = &j->image,
                           .layout = R2_LAYOUT_LOG,
                           .size = (uint64_t)j->image.pages * j->image.page_size,
                           .reuse = j->changed ? &reuse : NULL};
    enum r2_code rc = p && seen ? R2_OK : r2_fail(j->call.err, R2_NOMEM, "out of memory");
    if (!rc) {
        /* a snapshot with this version's nonce in its db-recent is this one, or goes on from it */
        p->kind = R2_PENDING_PUSH;
        p->v = j->v;
        p->tries = 1;
        (void)r2_recent_find(j->v.recent, j->v.version, &p->try[0].nonce);
        memcpy(p->over_etag, j->at_key.v.etag, sizeof p->over_etag);
        p->layout = R2_LAYOUT_LOG;
        rc = r2_layout_object.push(r->store, &j->call, r->config.key, &push, seen, &maker);
    }
    if (!rc) j->at_key = *seen;
    free(p);
    free(seen);
    return rc;
}

static enum r2_code lost_race(struct job *j, bool *again)
{
    struct r2_log l;
    struct r2_err why = *j->call.err;
    job_log(j, &l);
    r2_err_clear(j->call.err);
    enum r2_code rc = r2_log_look(&l, &j->at_key);
    if (rc) return rc;
    if (!r2_log_same_lineage(&j->at_key, j->v.lineage)) {
        *j->call.err = why;
        return r2_wrap(j->call.err, "cannot write a snapshot of version %" PRIu64, j->v.version);
    }
    *again = j->at_key.v.version < j->v.version;
    return R2_OK;
}

static enum r2_code send(struct job *j)
{
    struct r2_log l;
    bool again = true;
    enum r2_code rc = j->from_remote ? take_head(j) : R2_OK;
    for (int turn = 0; !rc && !j->needless && again && turn < TURNS; turn++) {
        again = false;
        job_log(j, &l);
        rc = r2_log_keep_base(&l, &j->at_key, j->r->config.retention_s, &j->based_ms);
        if (!rc) find_changed(j);
        job_log(j, &l);
        if (!rc) rc = replace(j);
        /* somebody replaced it first: that may be older than ours all the same */
        if (rc == R2_CONFLICT || rc == R2_PRECONDITION || rc == R2_MISSING)
            rc = lost_race(j, &again);
    }
    return rc ? r2_wrap(j->call.err, "checkpoint") : R2_OK;
}

static enum r2_code collect(struct job *j)
{
    struct r2_log l;
    uint32_t deleted;
    job_log(j, &l);
    enum r2_code rc = r2_log_look(&l, &j->at_key);
    if (rc || !r2_log_same_lineage(&j->at_key, j->v.lineage)) return rc;
    rc = r2_log_collect(&l, &j->at_key, j->r->config.retention_s, &deleted);
    if (!rc && deleted < R2_COLLECT_MAX) j->collected_ms = j->call.signed_ms;
    return rc;
}

/* ---- around it ---- */

static bool begin_tending(struct r2_replica *r)
{
    if (atomic_exchange(&r->tending, true)) return false;
    if (r2_state_tend(r->state)) return true;
    atomic_store(&r->tending, false);
    return false;
}

static void end_tending(struct r2_replica *r)
{
    r2_state_tended(r->state);
    atomic_store(&r->tending, false);
}

/* At the end of the first operation: what the work without it needs to know. */
static void take_along(struct r2_op *op, struct job *j)
{
    struct r2_record *k = &op->r->record;
    int64_t signed_ms = j->call.signed_ms;
    if (!j->v.version) j->v = k->base, r2_image_free(&j->image);
    j->call = op->call;
    j->call.signed_ms = signed_ms;
    j->call.fresh_until_ms = 0;
    j->base_of_op = k->base.version;
    j->log_bytes = k->log_bytes;
    if (k->tended == lineage_word(&k->base))
        j->based_ms = k->based_ms, j->collected_ms = k->collected_ms;
}

static void note(struct r2_op *op, const struct job *j)
{
    struct r2_record *k = &op->r->record;
    if (!op->known || memcmp(k->base.lineage, j->v.lineage, 16) != 0) return;
    if (j->at_key.v.version > k->snapshot && r2_log_same_lineage(&j->at_key, k->base.lineage)) {
        k->snapshot = j->at_key.v.version;
        atomic_store(&j->r->unchecked, k->base.version > k->snapshot);
        /* those up to the base then; pushed or pulled since then: what is left */
        bool all = j->at_key.v.version >= j->base_of_op && k->log_bytes >= j->log_bytes;
        k->log_bytes = all ? k->log_bytes - j->log_bytes : 0;
    }
    k->tended = lineage_word(&k->base);
    k->based_ms = j->based_ms;
    k->collected_ms = j->collected_ms;
    (void)r2_op_save(op);
}

static enum r2_code work(struct job *j, bool checkpoint, bool collecting, struct r2_err *e)
{
    struct r2_op op;
    struct r2_err later;
    enum r2_code rc = checkpoint ? send(j) : R2_OK;
    r2_image_free(&j->image);
    forget_changed(j);
    if (!rc && collecting && collect(j)) { /* the next one goes on */
        if (e->code != R2_STALE) r2_log_err(j->r, e);
        r2_err_clear(e);
    }
    if (r2_op_wait(&op, j->r, true, NULL, &later) == R2_OK) {
        note(&op, j);
        r2_op_end(&op);
    }
    return rc ? e->code : R2_OK;
}

/* Without being asked: what is due. */
static void tend(struct r2_replica *r, bool closing)
{
    struct r2_op op;
    struct r2_err e;
    struct job *j = calloc(1, sizeof *j);
    bool checkpoint = false, collecting = false;
    if (!j) return;
    r2_image_init(&j->image);
    j->r = r;
    /* the background thread is asked within an operation: it waits for its end */
    enum r2_code rc =
        closing ? r2_op_begin(&op, r, CLOSE_WAIT_MS, &e) : r2_op_wait(&op, r, true, NULL, &e);
    if (rc == R2_BUSY) {
        free(j);
        return;
    }
    if (!rc) {
        struct r2_record *k = &r->record;
        bool healthy =
            op.known && !k->damaged && !k->conflict_version && k->pending.kind == R2_PENDING_NONE;
        checkpoint = healthy && (r2_checkpoint_due(k) || (closing && small_and_behind(k)));
        op.busy_ms = closing ? CLOSE_WAIT_MS : BUSY_MS;
        if (checkpoint) rc = stage(&op, j, false, false);
        checkpoint = checkpoint && !rc && !j->needless;
        collecting = !rc && healthy && collect_due(r);
        take_along(&op, j);
        r2_op_end(&op);
        if (checkpoint || collecting) rc = work(j, checkpoint, collecting, &e);
    }
    if (rc) {
        atomic_store(&r->rest_until_ms, r2_boot_ms() + REST_MS);
        r2_advise(&e, "; every version is safe in the log, and this is tried again later");
        r2_log_err(r, &e);
    }
    r2_image_free(&j->image);
    free(j);
}

static void tend_alone(struct r2_replica *r, bool closing)
{
    if (r2_replica_foreign(r) || atomic_load(&r->barred) || atomic_load(&r->in_conflict) ||
        r2_boot_ms() < atomic_load(&r->rest_until_ms) || !begin_tending(r))
        return;
    tend(r, closing);
    end_tending(r);
}

void r2_checkpoint_soon(struct r2_op *op)
{
    atomic_store(&op->r->unchecked, true);
    if (!r2_checkpoint_due(&op->r->record) || atomic_load(&op->r->tending) ||
        r2_boot_ms() < atomic_load(&op->r->rest_until_ms))
        return;
    atomic_store(&op->r->checkpoint_wanted, true);
    r2_timer_want();
}

void r2_checkpoint_if_due(struct r2_replica *r)
{
    if (atomic_exchange(&r->checkpoint_wanted, false)) tend_alone(r, false);
}

void r2_checkpoint_at_close(struct r2_replica *r)
{
    if (atomic_load(&r->layout) != R2_LAYOUT_LOG || !atomic_load(&r->unchecked) ||
        r2_replica_shared(r))
        return;
    atomic_store(&r->checkpoint_wanted, false);
    tend_alone(r, true);
}

/* ---- SQL ---- */

static enum r2_code checkpoint_now(struct r2_op *op, struct job *j, uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    struct r2_remote *seen = malloc(sizeof *seen);
    enum r2_code rc = seen ? r2_finish_pull(op) : r2_fail(op->call.err, R2_NOMEM, "out of memory");
    if (!rc) rc = r2_probe(op, seen);
    if (!rc && !r2_in_log(k)) {
        *version = seen->exists ? seen->v.version : 0;
        j->needless = true;
        free(seen);
        return R2_OK;
    }
    enum r2_relation relation = rc ? R2_REL_SAME : r2_plan_relation(k, seen);
    if (!rc && relation != R2_REL_SAME && relation != R2_REL_NEWER)
        rc = r2_conflict(op, relation, seen);
    if (op->busy_ms > CLOSE_WAIT_MS) op->busy_ms = CLOSE_WAIT_MS;
    if (!rc) rc = stage(op, j, relation == R2_REL_NEWER, true);
    *version = j->at_key.v.version;
    free(seen);
    return rc;
}

static enum r2_code as_asked(struct r2_replica *r, struct job *j, const char *how,
                             uint64_t *version, struct r2_err *e)
{
    struct r2_op op;
    struct r2_record *k = &r->record;
    enum r2_layout_kind to = strcmp(how, "log") == 0 ? R2_LAYOUT_LOG : R2_LAYOUT_OBJECT;
    enum r2_code rc;
    bool change;
    int64_t until = r2_boot_ms() + atomic_load(&r->timeout_ms);
    do {
        rc = r2_op_start(&op, r, e);
        if (rc) return rc;
        r2_image_free(&j->image); /* of a turn that gave way */
        change = *how && k->base.version && k->layout != to;
        if (*how && !k->base.version)
            rc = r2_fail(
                e, R2_REFUSED,
                "%s has no version yet; its first push takes the layout of the parameter layout "
                "(R2VFS_LAYOUT)",
                k->url);
        else
            rc = change ? r2_change_layout(&op, to, version) : checkpoint_now(&op, j, version);
        take_along(&op, j);
        j->based_ms = 0; /* as it is, not as it was when last looked at */
        r2_op_end(&op);
    } while (r2_op_again(&op, rc, until));
    if (!rc && !change && !j->needless) {
        rc = work(j, true, true, e);
        *version = j->at_key.v.version;
    }
    return rc;
}

enum r2_code r2_replica_checkpoint(struct r2_replica *r, const char *how, uint64_t *version,
                                   struct r2_err *e)
{
    if (*how && strcmp(how, "log") != 0 && strcmp(how, "object") != 0)
        return r2_fail(e, R2_CONFIG,
                       "r2_checkpoint() takes nothing, 'log' or 'object', not '%.40s'", how);
    if (r2_replica_barred(r, e)) return e->code;
    if (r2_replica_foreign(r))
        return r2_fail(e, R2_REFUSED, "this connection was opened before a fork(); open a new one");
    int64_t until = r2_boot_ms() + atomic_load(&r->timeout_ms);
    while (!begin_tending(r)) {
        if (r2_boot_ms() >= until)
            return r2_fail(e, R2_BUSY, "another checkpoint of %s is being written", r->config.url);
        r2_sleep_ms(20);
    }
    struct job *j = calloc(1, sizeof *j);
    enum r2_code rc = j ? R2_OK : r2_fail(e, R2_NOMEM, "out of memory");
    if (!rc) {
        r2_image_init(&j->image);
        j->r = r;
        rc = as_asked(r, j, how, version, e);
        r2_image_free(&j->image);
    }
    free(j);
    end_tending(r);
    if (rc) r2_log_err(r, e);
    return rc;
}
