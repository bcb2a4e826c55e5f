/* replica_stage.c - read the local file under a short read lock, and say what it is compared with
 * what is known: base, a pending version, an older version, or something else. */
#include "replica_int.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "os.h"

enum { SEALED_MS = 60000 }; /* no clock of a file system is that coarse */

void r2_staged_free(struct r2_staged *s)
{
    if (s->dirty.map) r2_state_dirty_done(s->state, &s->dirty, false);
    r2_diff_free(&s->loose);
    if (s->by_changes) r2_changes_free(&s->changes);
    r2_image_free(&s->image);
}

void r2_staged_is_base(struct r2_op *op, struct r2_staged *s)
{
    r2_mark_clean(op, s->seq, &s->identity, s->content);
    for (uint32_t n = 1; s->equal && s->loose.pages && n <= s->image.pages; n++)
        if (s->loose.map[(n - 1) / 8] >> (n - 1) % 8 & 1) r2_state_mark_loose(s->state, n);
    r2_state_dirty_done(s->state, &s->dirty, true);
    /* every page was compared: from here on strangers show again */
    if (s->strange) r2_state_set_stamp(s->state, &s->stamp);
}

/* Is the content base's? A rollback may have left free-list leaves that are not: loose pages. */
static enum r2_code compare_with_base(struct r2_op *op, struct r2_local *l, struct r2_staged *s)
{
    struct r2_record *k = &op->r->record;
    struct r2_diff d;
    if (!k->base.version) return R2_OK;
    enum r2_code rc =
        r2_image_compare(&s->image, &k->base, op->r->state, k->area, &d, op->call.err);
    if (!rc && !d.shape) rc = r2_image_only_loose(&s->image, &d, l, &s->equal, op->call.err);
    if (s->equal)
        s->loose = d;
    else
        r2_diff_free(&d);
    return rc;
}

enum r2_code r2_pending_sums_there(struct r2_op *op, bool *yes)
{
    const struct r2_record *k = &op->r->record;
    const struct r2_version *v = &k->pending.v;
    uint8_t area = k->area ^ 1;
    *yes = false;
    if (!r2_state_has_sums(op->r->state, v, area)) return R2_OK; /* it was cut short */
    uint64_t *sums = calloc(v->pages ? v->pages : 1, sizeof *sums);
    if (!sums) return r2_fail(op->call.err, R2_NOMEM, "out of memory");
    enum r2_code rc = r2_state_read_sums(op->r->state, area, 1, v->pages, sums, op->call.err);
    *yes = !rc && r2_ltx_rolling(sums, v->pages, v->page_size) == v->checksum;
    free(sums);
    return rc;
}

/* Does the file hold the pending version? Checksums that are not there (a state file cut short), or
 * are those of another try, say nothing. A rollback since may have left loose pages. */
static enum r2_code compare_with_pending(struct r2_op *op, struct r2_local *l, struct r2_staged *s)
{
    struct r2_record *k = &op->r->record;
    uint8_t area = k->area ^ 1;
    struct r2_diff d;
    bool push = k->pending.kind == R2_PENDING_PUSH, alike = false, there = true;
    if (k->pending.kind == R2_PENDING_NONE || !r2_state_has_sums(op->r->state, &k->pending.v, area))
        return R2_OK;
    enum r2_code rc =
        r2_image_compare(&s->image, &k->pending.v, op->r->state, area, &d, op->call.err);
    if (!rc && !d.shape) rc = r2_image_only_loose(&s->image, &d, l, &alike, op->call.err);
    if (!rc && alike && push) rc = r2_pending_sums_there(op, &there);
    s->holds_pending = !rc && alike && there;
    if (s->holds_pending && !s->equal)
        s->loose = d; /* for the base that it may become */
    else
        r2_diff_free(&d);
    return rc;
}

bool r2_in_log(const struct r2_record *k)
{
    return k->base.version && k->layout == R2_LAYOUT_LOG;
}

/* Read what may differ. */
static enum r2_code find_changes(struct r2_op *op, struct r2_local *l, struct r2_staged *s)
{
    struct r2_record *k = &op->r->record;
    struct r2_source from = r2_source_of(l);
    struct r2_changes *c = &s->changes;
    struct r2_err *e = op->call.err;
    if (s->strange) s->dirty.complete = false;
    enum r2_code rc =
        r2_changes_find(c, &from, &k->base, s->state, k->area, &s->dirty, op->r->path, e);
    s->image.page_size = c->patch.page_size;
    s->image.pages = c->patch.pages;
    if (!rc && c->page1) {
        if (!(s->image.page1 = malloc(c->patch.page_size)))
            return r2_fail(e, R2_NOMEM, "out of memory");
        memcpy(s->image.page1, c->page1, c->patch.page_size);
        s->identity.counter = r2_image_counter(&s->image);
    }
    return rc ? rc : r2_changes_only_loose(c, &from, &s->loose, &s->equal, e);
}

/* Another file, or, in the rollback modes, one that was copied over it: its change counter may be
 * the one that we know all the same. */
static bool changed_by_others(struct r2_op *op, const struct r2_staged *s)
{
    const struct r2_identity *then = &op->r->record.identity, *now = &s->identity;
    if (then->dev != now->dev || then->ino != now->ino) return true;
    return s->stamp.kind == 1 && s->seq == op->r->record.clean_seq &&
           (then->size != now->size || then->mtime_ns != now->mtime_ns ||
            then->ctime_ns != now->ctime_ns);
}

/* The next open shall know the file again, however shortly before it was written. */
static void settle_identity(struct r2_op *op, struct r2_local *l, struct r2_staged *s)
{
    struct r2_identity id;
    if (r2_state_sealed(s->state, &s->identity))
        s->identity.taken_ms += SEALED_MS;
    else if (op->closing && !r2_local_is_wal(l) && !r2_identity_same(&s->identity, &s->identity) &&
             r2_identity_seal(op->r->path, &id))
        s->identity = id;
}

static enum r2_code stage(struct r2_op *op, struct r2_local *l, struct r2_staged *out)
{
    struct r2_err *e = op->call.err;
    struct r2_record *k = &op->r->record;
    enum r2_code rc = r2_local_begin_read(l, e);
    if (!rc) rc = r2_identity_of(op->r->path, &out->identity, e);
    /* Our SHARED lock keeps writers of the rollback modes out: one that is not over is dead. */
    struct r2_live *live = r2_state_live(op->r->state);
    if (!rc && !r2_local_is_wal(l) && atomic_exchange(&live->writing, 0)) k->unclean = true;
    if (!rc && (k->damaged || (k->unclean && !r2_local_is_wal(l)))) {
        /* journal_mode OFF or MEMORY may have been in force: nothing was replayed then */
        rc = r2_local_quick_check(l, e);
        if (rc == R2_CORRUPT) {
            r2_wrap(e, "%s is damaged after an unclean end and will not be pushed", op->r->path);
            r2_log_err(op->r, e);
            rc = R2_OK;
            k->damaged = true;
        } else if (!rc) {
            k->damaged = false;
        }
    }
    if (!rc) k->unclean = false;
    if (!rc) rc = r2_local_stamp(l, &out->stamp, e);
    out->strange =
        !rc && (!r2_continues(op->r, &out->stamp, &out->identity) || changed_by_others(op, out));
    if (!rc) settle_identity(op, l, out);
    bool goes_on;
    if (!rc && !(rc = r2_local_goes_on(l, &goes_on, e)) && goes_on)
        out->identity.wal_mtime_ns = INT64_MAX; /* no file's: the next look is not spared */
    if (!rc && out->by_changes) rc = r2_state_see_dirty(out->state, &out->dirty, e);
    if (!rc && out->by_changes) {
        rc = find_changes(op, l, out);
    } else if (!rc && !(rc = r2_image_scan(&out->image, l, e))) {
        out->identity.counter = r2_image_counter(&out->image);
        out->content = r2_image_content(&out->image);
        rc = compare_with_base(op, l, out);
        if (!rc) rc = compare_with_pending(op, l, out);
    }
    /* what a push makes of it becomes the base: a power loss must not take it back */
    if (!rc && !out->equal) rc = r2_local_sync(l, e);
    enum r2_code end = r2_local_end(l, e);
    return rc ? rc : end;
}

static enum r2_code stage_it(struct r2_op *op, bool keep_bytes, bool by_changes,
                             struct r2_staged *out)
{
    struct r2_local *l = NULL;
    struct r2_record *k = &op->r->record;
    enum r2_code rc = R2_OK;
    memset(out, 0, sizeof *out);
    r2_image_init(&out->image);
    out->changes.patch.fd = -1;
    out->by_changes = by_changes;
    out->state = op->r->state;
    out->seq = atomic_load(&r2_state_live(op->r->state)->write_seq);
    rc = r2_state_take_dirty(out->state, false, &out->dirty, op->call.err);
    if (!rc && keep_bytes)
        rc = r2_image_create(&out->image, op->r->path, "-r2-stage", false, op->call.err);
    if (!rc) rc = r2_op_local(op, op->busy_ms, &l);
    bool was_unclean = k->unclean, was_damaged = k->damaged;
    if (!rc) rc = stage(op, l, out);
    r2_local_close(l);
    /* whoever looks next must know what was found */
    if (!rc && (k->unclean != was_unclean || k->damaged != was_damaged)) rc = r2_op_save(op);
    op->unreadable = rc == R2_CORRUPT;
    return rc ? r2_wrap(op->call.err, "cannot read %s", op->r->path) : R2_OK;
}

enum r2_code r2_stage(struct r2_op *op, bool keep_bytes, struct r2_staged *out)
{
    return stage_it(op, keep_bytes, false, out);
}

enum r2_code r2_stage_changes(struct r2_op *op, struct r2_staged *out)
{
    return stage_it(op, false, r2_in_log(&op->r->record), out);
}

/* ---- what a file is when nobody vouches for it ---- */

struct wal_file {
    int fd;
};

static int64_t read_wal(void *ctx, void *to, uint64_t n, uint64_t at)
{
    const struct wal_file *w = ctx;
    char *p = to;
    uint64_t done = 0;
    while (done < n) {
        ssize_t got = r2_os.pread(w->fd, p + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (uint64_t)got;
    }
    return (int64_t)done;
}

static bool open_wal(struct r2_op *op, struct wal_file *w)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s-wal", op->r->path);
    w->fd = n < 0 || (size_t)n >= sizeof path ? -1 : r2_os.open(path, O_RDONLY, 0);
    return w->fd >= 0;
}

/* Does the -wal still hold the commit that our last mark named? To be asked before SQLite touches
 * the file: closing the recovering connection folds the log in. */
static bool wal_continues(struct r2_op *op, const struct r2_mark *mark)
{
    struct wal_file w;
    struct r2_wal_end end = {.page_size = mark->wal_page,
                             .salt = {mark->wal_salt[0], mark->wal_salt[1]},
                             .frames = mark->wal_frames,
                             .cksum = {mark->wal_cksum[0], mark->wal_cksum[1]}};
    bool yes = false;
    struct r2_err e;
    if (!open_wal(op, &w)) return false;
    if (r2_wal_continues(read_wal, &w, &end, &yes, &e)) yes = false;
    r2_os.close(w.fd);
    return yes;
}

/* A commit may be in the -wal and not in its index: its writer was killed, or its last sync failed.
 * While the index lives nobody sees it; whoever makes the index anew, does. Does the -wal end with
 * the commit that the last look knew? */
static bool wal_ends_as_known(struct r2_op *op)
{
    struct wal_file w;
    struct r2_wal_end end;
    struct r2_stamp then = r2_state_stamp(op->r->state);
    struct r2_err e;
    if (then.kind != 2 || !open_wal(op, &w)) return false;
    bool read = r2_wal_scan(read_wal, &w, NULL, NULL, &end, &e) == R2_OK;
    r2_os.close(w.fd);
    return read && end.frames == then.frames && end.cksum[0] == then.cksum[0] &&
           end.cksum[1] == then.cksum[1] && end.salt[0] == r2_get32((uint8_t *)&then.salt[0]) &&
           end.salt[1] == r2_get32((uint8_t *)&then.salt[1]);
}

/* Not every system tells: then it is `unknown`. */
static bool same_boot(const struct r2_live *live, bool unknown)
{
    static const uint8_t none[16];
    uint8_t now[16];
    r2_boot_id(now);
    return memcmp(now, none, 16) == 0 ? unknown : memcmp(now, live->boot_id, 16) == 0;
}

bool r2_local_absent(struct r2_op *op)
{
    struct r2_identity id;
    struct r2_err e;
    enum r2_code rc = r2_identity_of(op->r->path, &id, &e);
    return rc == R2_MISSING || (!rc && id.size == 0 && id.wal_size == 0);
}

enum r2_code r2_holds_pending(struct r2_op *op, bool *yes)
{
    struct r2_staged s;
    enum r2_code rc = r2_stage(op, false, &s);
    *yes = !rc && s.holds_pending;
    r2_staged_free(&s);
    if (rc != R2_MISSING) return rc;
    r2_err_clear(op->call.err);
    return R2_OK;
}

/* A pull that was cut short: the file holds the new version, the old one, or was written since. */
static void finish_pull(struct r2_op *op, struct r2_staged *s)
{
    struct r2_record *k = &op->r->record;
    if (s->holds_pending) {
        k->base = k->pending.v;
        k->layout = k->pending.layout;
        k->base.local_cookie = r2_image_cookie(&s->image);
        k->area ^= 1;
        s->equal = true;
    }
    k->pending.kind = R2_PENDING_NONE;
}

enum r2_code r2_finish_pull(struct r2_op *op)
{
    struct r2_staged s;
    if (op->r->record.pending.kind != R2_PENDING_PULL) return R2_OK;
    enum r2_code rc = r2_stage(op, false, &s);
    if (rc == R2_MISSING)
        rc = R2_OK;
    else if (!rc)
        finish_pull(op, &s);
    if (!rc && s.equal) r2_staged_is_base(op, &s);
    op->r->record.pending.kind = rc ? R2_PENDING_PULL : R2_PENDING_NONE;
    r2_staged_free(&s);
    return rc ? rc : r2_op_save(op);
}

static bool held(const struct r2_record *k, uint64_t content)
{
    for (uint32_t n = 0; n < k->held; n++)
        if (k->held_content[n] == content) return true;
    return false;
}

bool r2_held_before(const struct r2_record *k, const struct r2_staged *s)
{
    return s->identity.counter < k->identity.counter && held(k, s->content);
}

/* Content that is not the base's: commits on top of it, an old version put back, or a stranger? A
 * writer moves the change counter forward; what was put back by hand has a lower one. WAL commits
 * leave it alone, so an equal one counts on the same inode. */
static enum r2_local_kind kind_of(const struct r2_op *op, const struct r2_staged *s, bool vouched)
{
    const struct r2_record *k = &op->r->record;
    bool same_file = s->identity.dev == k->identity.dev && s->identity.ino == k->identity.ino;
    if (k->damaged) return R2_LOCAL_STRANGE;
    if (op->unseen && !same_file && s->identity.counter >= k->identity.counter)
        return R2_LOCAL_STRANGE; /* another file was moved here */

    if (vouched || s->identity.counter > k->identity.counter) return R2_LOCAL_DIRTY;
    if (r2_held_before(k, s)) return R2_LOCAL_OLD;
    /* in WAL mode a commit may have led back to an earlier content, or somebody put it back */
    if (held(k, s->content)) return R2_LOCAL_STRANGE;
    return same_file && s->identity.counter == k->identity.counter ? R2_LOCAL_DIRTY
                                                                   : R2_LOCAL_STRANGE;
}

/* A COMMIT that failed after it was sent was rolled back (`gone`), and here it is all the same: its
 * frames were in the -wal, and surfaced when the index was made anew. */
static enum r2_code pending_is_back(struct r2_op *op)
{
    struct r2_pending *p = &op->r->record.pending;
    struct r2_try *last = p->tries ? &p->try[p->tries - 1] : NULL;
    if (p->kind != R2_PENDING_PUSH || !last || !last->gone) return R2_OK;
    last->gone = false;
    return r2_op_save(op);
}

/* Read it all and find out. `mark`: our last commit's, if it can vouch for this file, else NULL. */
static enum r2_code examine(struct r2_op *op, bool first, const struct r2_mark *mark,
                            enum r2_local_kind *kind)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    struct r2_staged s;
    enum r2_code rc = r2_stage(op, false, &s);
    /* killed between SQLite's commit and our mark: one further */
    if (!rc && mark && !mark->wal_page) op->continues = s.identity.counter - mark->counter <= 1;
    if (!rc && k->pending.kind == R2_PENDING_PULL) finish_pull(op, &s);
    if (!rc && first && k->pending.kind == R2_PENDING_PUSH && (k->pending.exact || !op->continues))
        op->continues = s.holds_pending;
    if (!rc && first && s.holds_pending) rc = pending_is_back(op);
    if (!rc && s.equal && !(op->continues && k->pending.kind == R2_PENDING_PUSH)) {
        r2_staged_is_base(op, &s);
        rc = r2_op_save(op);
        *kind = R2_LOCAL_CLEAN;
    } else if (!rc) {
        *kind = s.equal ? R2_LOCAL_DIRTY : kind_of(op, &s, first && op->continues);
        if (first && op->unseen && *kind == R2_LOCAL_DIRTY && !k->unvouched) {
            k->unvouched = true;
            rc = r2_op_save(op);
        }
    }
    r2_staged_free(&s);
    return rc;
}

enum r2_code r2_look_closer(struct r2_op *op, enum r2_local_kind *kind)
{
    return examine(op, false, NULL, kind);
}

/* Do the maps tell what was written since the file was last looked at? Not what nobody marked. */
static void trust_maps(struct r2_op *op, bool first, bool wrote, bool surfaced,
                       const struct r2_identity *now)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    struct r2_live *live = r2_state_live(r->state);
    bool left = k->left_seq && k->left_seq == atomic_load(&live->write_seq) &&
                r2_identity_same(&k->left, now);
    if (wrote ? first && !(left && same_boot(live, false))
              : !r2_identity_same(&k->identity, now) && !r2_state_sealed(r->state, now))
        r2_state_unseen(r->state);
    /* a log that nobody had open starts to count anew: `looked` takes the stamp's place */
    if (first && r2_state_stamp(r->state).kind == 2) {
        /* not sealed when it was folded in: others may have written it before the last close */
        if (wrote) r2_state_unseen(r->state);
        r2_state_set_stamp(r->state, NULL);
    }
    if (!first && wrote) return; /* nobody has compared what there is now: it is not `looked` at */
    pthread_mutex_lock(&r->note);
    r->looked_whole = !now->wal_size || (first && !surfaced) ||
                      (r->looked_whole && r2_identity_equal(&r->looked, now));
    r->looked = *now;
    pthread_mutex_unlock(&r->note);
}

/* The machine was started anew: after a power loss the file may hold what a stranger committed just
 * before, and have its old times all the same (fdatasync() need not write them). Its change counter
 * tells, but for commits to a log, which is folded in by now. */
static bool counter_stands(struct r2_op *op)
{
    struct r2_local *l = NULL;
    struct r2_stamp now = {.kind = 0};
    struct r2_err ignored;
    uint32_t known = op->r->record.identity.counter;
    bool read = r2_op_local(op, op->busy_ms, &l) == R2_OK &&
                r2_local_begin_read(l, &ignored) == R2_OK &&
                r2_local_stamp(l, &now, &ignored) == R2_OK;
    r2_local_close(l);
    r2_err_clear(op->call.err);
    return read && now.kind == 1 && known && now.counter == known;
}

enum r2_code r2_look_at_local(struct r2_op *op, bool first, enum r2_local_kind *kind)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    struct r2_live *live = r2_state_live(r->state);
    struct r2_identity now;
    struct r2_mark mark = {0};
    op->continues = !first;
    *kind = R2_LOCAL_ABSENT;
    if (r2_local_absent(op)) return R2_OK;
    *kind = R2_LOCAL_STRANGE;
    if (!op->known || (!k->base.version && k->pending.kind == R2_PENDING_NONE)) {
        if (!first) return R2_OK;
        k->unclean = op->known && atomic_load(&live->write_seq) != k->clean_seq;
        return R2_OK;
    }
    enum r2_code rc = r2_identity_of(r->path, &now, op->call.err);
    if (rc) return rc;
    bool wrote = atomic_load(&live->write_seq) != k->clean_seq;
    bool surfaced = first && now.wal_size && !wal_ends_as_known(op);
    bool anew = first && !wrote && !same_boot(live, true);
    if (anew && !counter_stands(op)) r2_state_unseen(r->state);
    if (surfaced) r2_look_again(op); /* it may turn out to be base's */
    trust_maps(op, first, wrote, surfaced, &now);
    if (anew) r2_boot_id(live->boot_id); /* until a look has compared all pages they stay unseen */
    if (k->pending.kind == R2_PENDING_NONE && !r2_maybe_dirty(op, &now)) {
        *kind = R2_LOCAL_CLEAN;
        return R2_OK;
    }
    if (!first) { /* writers are alive, or were until just now */
        if (!wrote || k->damaged) return examine(op, first, NULL, kind);
        *kind = R2_LOCAL_DIRTY;
        return R2_OK;
    }
    k->unclean = k->unclean || wrote || anew;
    op->unseen = !wrote;
    /* closed in order, with something unpushed, and not touched since? */
    if (wrote && !surfaced && k->left_seq == atomic_load(&live->write_seq) &&
        r2_identity_same(&k->left, &now)) {
        op->continues = true;
        return examine(op, first, NULL, kind);
    }
    bool marked = wrote && r2_state_mark(r->state, &mark) && same_boot(live, false) &&
                  now.dev == k->identity.dev && now.ino == k->identity.ino;
    if (marked && mark.wal_page)
        op->continues = wal_continues(op, &mark) || r2_state_sealed(r->state, &now);
    return examine(op, first, marked ? &mark : NULL, kind);
}
