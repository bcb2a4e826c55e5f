/* replica_pull.c - bring the local file up to the remote's version, never over a dirty page.
 *
 * The download goes into a file beside the database. A database that is not there yet is that file,
 * linked into place; an existing one is changed page by page by apply.c, under SQLite's locks,
 * after a look under those locks that it still holds what was expected. */
#include "replica_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply.h"
#include "buf.h"
#include "log_int.h"
#include "ltx.h"
#include "os.h"

enum { PULL_BUSY_MS = 5000, REFRESH_BUSY_MS = 200 };

/* What stands at KEY, and in the log layout what follows it (`upto`: to this version). */
static enum r2_code fetch_version(struct r2_op *op, struct r2_remote *remote, uint64_t upto,
                                  struct r2_image *image)
{
    struct r2_replica *r = op->r;
    struct r2_log l;
    enum r2_code rc = R2_OK;
    if (remote->no_layout)
        return r2_fail(op->call.err, R2_CORRUPT,
                       "%s has a db-lineage and no db-layout: put back the metadata that it was "
                       "written with",
                       r->config.url);
    if (remote->by_segments || (remote->layout == R2_LAYOUT_LOG && !remote->v.etag[0])) {
        /* it says which version there is, not where the log begins */
        rc = r2_layout_object.probe(r->store, &op->call, r->config.key, remote);
        if (!rc && !remote->exists)
            rc = r2_fail(op->call.err, R2_CORRUPT,
                         "%s is not there, but its log is: its snapshot was lost; put it back, or "
                         "go on from a replica that has the database",
                         r->config.url);
        else if (!rc && upto && remote->v.version > upto)
            rc = r2_fail(op->call.err, R2_PRECONDITION, "%s moved on", r->config.url);
        if (rc) return rc;
    }
    if (remote->layout != R2_LAYOUT_LOG) {
        rc = r2_layout_object.fetch(r->store, &op->call, r->config.key, remote, image);
        if (!rc) r->record.verified_ms = op->call.signed_ms;
        return rc;
    }
    r2_log_of(op, &l);
    l.verified_ms = 0;                           /* that of another base says nothing here */
    int64_t verified_ms = r->record.verified_ms; /* the base's: its next key may be gone by now */
    rc = r2_log_fetch(&l, remote, upto, image);
    r2_log_done(op, &l);
    op->fetched_ms = l.verified_ms;
    r->record.verified_ms = verified_ms;
    return rc;
}

enum r2_code r2_fetch(struct r2_op *op, struct r2_remote *remote, bool just_this,
                      struct r2_image *image)
{
    struct r2_replica *r = op->r;
    uint64_t upto = just_this ? remote->v.version : 0;
    r2_op_time(op);
    while (r2_boot_ms() < op->call.deadline_ms) {
        enum r2_code rc = fetch_version(op, remote, upto, image);
        if (rc == R2_PRECONDITION && just_this) return rc;
        if (rc != R2_PRECONDITION)
            return rc ? r2_wrap(op->call.err, "cannot pull %s", r->config.url) : rc;
        r2_err_clear(op->call.err); /* a newer one came in between: take that */
        rc = r2_probe(op, remote);
        if (rc) return rc;
        if (!remote->exists) break;
    }
    return r2_fail(op->call.err, R2_UNREACHABLE, "cannot pull: %s changes faster than it downloads",
                   r->config.url);
}

/* A -wal or -journal that outlived its database belongs to nothing any more: SQLite would replay it
 * into the new file. The log may hold commits that were never pushed: it is renamed, not deleted.
 */
static enum r2_code set_aside_strays(struct r2_op *op)
{
    char from[PATH_MAX], to[PATH_MAX];
    const char *path = op->r->path;
    struct stat st;
    int n = snprintf(to, sizeof to, "%s-r2-stray-wal", path);
    if (n > 0 && (size_t)n < sizeof to && access(to, F_OK) == 0) /* an earlier one stays */
        n = snprintf(to, sizeof to, "%s-r2-stray-wal-%" PRId64, path, r2_now_ms());
    if (snprintf(from, sizeof from, "%s-wal", path) >= (int)sizeof from || n >= (int)sizeof to)
        return r2_fail(op->call.err, R2_IO, "the path is too long: %s", path);
    if (stat(from, &st) == 0) {
        if (st.st_size == 0 ? r2_os.unlink(from) : r2_os.rename(from, to))
            return r2_fail_errno(op->call.err, errno, "set aside %s", from);
        if (st.st_size)
            r2_note(op->r, "%s was deleted but its -wal was left: it is kept as %s", path, to);
    }
    static const char *const gone[] = {"-shm", "-journal"};
    for (size_t k = 0; k < 2; k++) {
        snprintf(from, sizeof from, "%s%s", path, gone[k]);
        if (r2_os.unlink(from) != 0 && errno != ENOENT)
            return r2_fail_errno(op->call.err, errno, "remove %s", from);
    }
    return R2_OK;
}

/* There is no local file: the download becomes it. *done is false when somebody else made one. */
static enum r2_code link_into_place(struct r2_op *op, struct r2_image *image, bool *done)
{
    *done = false;
    enum r2_code rc = set_aside_strays(op);
    if (!rc) rc = r2_sync_fd(image->fd, image->path, op->call.err);
    if (rc) return rc;
    if (r2_os.link(image->path, op->r->path) != 0) {
        if (errno == EEXIST) return R2_OK;
        /* no hard links here: an empty file, filled like any other */
        int fd = r2_os.open(op->r->path, O_RDWR | O_CREAT, 0644);
        if (fd < 0) return r2_fail_errno(op->call.err, errno, "create %s", op->r->path);
        r2_os.close(fd);
        return R2_OK;
    }
    r2_os.unlink(image->path);
    image->path[0] = 0;
    *done = true;
    return r2_sync_folder_of(op->r->path, op->call.err);
}

enum r2_code r2_changed_meanwhile(struct r2_op *op)
{
    return r2_fail(op->call.err, R2_BUSY,
                   "%s was changed while a newer version was being fetched; it was left as it is",
                   op->r->path);
}

/* Under the lock: does the file hold what the decision was made on? */
static enum r2_code still_expected(struct r2_op *op, struct r2_local *l, struct r2_image *now,
                                   const struct r2_expect *expect)
{
    struct r2_record *k = &op->r->record;
    struct r2_diff d = {0};
    bool same = now->pages == 0;
    enum r2_code rc = R2_OK;
    if (!same && expect->image) {
        const struct r2_image *was = expect->image;
        same = was->pages == now->pages && was->page_size == now->page_size &&
               r2_image_page1_as(now, was->page1) == was->sums[0] &&
               memcmp(was->sums + 1, now->sums + 1, (now->pages - 1) * sizeof *now->sums) == 0;
    } else if (!same && k->base.version) {
        rc = r2_image_compare(now, &k->base, op->r->state, k->area, &d, op->call.err);
        same = !rc && !d.shape && d.pages == 0;
        if (!rc && !same && !d.shape) rc = r2_image_only_loose(now, &d, l, &same, op->call.err);
        r2_diff_free(&d);
    }
    if (rc || same) return rc;
    if (!expect->image) r2_look_again(op);
    return r2_changed_meanwhile(op);
}

/* The pages of the new version that the file does not have yet. */
static uint8_t *pages_to_write(const struct r2_image *now, const struct r2_image *image)
{
    uint8_t *map = calloc(image->pages / 8 + 1, 1);
    bool comparable = now->page_size == image->page_size;
    for (uint32_t at = 0; map && at < image->pages; at++)
        if (at == 0 || !comparable || at >= now->pages || now->sums[at] != image->sums[at])
            map[at / 8] = (uint8_t)(map[at / 8] | 1u << at % 8);
    return map;
}

struct installed {
    struct r2_identity identity;
    struct r2_stamp stamp;
    uint64_t seq;
    uint32_t cookie;
};

/* May statements that were prepared on the old content be used on the new? Only when the new
 * version was made from just this base, by a writer that keeps the rule of the schema cookie, and
 * says that the schema is the same. Foreign writers, and versions in between, can repeat a cookie.
 */
static bool schema_differs(struct r2_op *op, const struct r2_remote *remote,
                           const struct r2_image *image, const struct r2_expect *expect)
{
    const struct r2_version *base = &op->r->record.base;
    uint64_t here, there;
    if (expect->image || !base->pages || !image->pages) return true;
    if (remote->v.version != base->version + 1 ||
        !r2_recent_find(base->recent, base->version, &here) ||
        !r2_recent_find(remote->v.recent, base->version, &there) || here != there)
        return true;
    return memcmp(base->header + 40, image->page1 + 40, 4) != 0;
}

/* A new local file starts its change counter at the time in seconds: then a backup made elsewhere,
 * or before, has a lower one, and is not taken for later work when it is copied over this file. */
static uint32_t start_counter(struct r2_image *image)
{
    uint8_t at[4];
    struct r2_err ignored;
    uint32_t counter = (uint32_t)(r2_now_ms() / 1000);
    if (!image->pages) return 0;
    r2_put32(at, counter);
    if (r2_write_at(image->fd, at, 4, 24, &ignored) || r2_write_at(image->fd, at, 4, 92, &ignored))
        return r2_image_counter(image);
    return counter;
}

static enum r2_code change_file(struct r2_op *op, struct r2_local *l, struct r2_remote *remote,
                                struct r2_image *image, const struct r2_expect *expect,
                                struct installed *out)
{
    struct r2_err *e = op->call.err;
    struct r2_image now;
    struct r2_dirty dirty = {0};
    uint8_t *map = NULL;
    uint32_t first = 0;
    bool applied = false;
    r2_image_init(&now);
    enum r2_code rc = r2_local_begin_write(l, e);
    if (rc) return rc;
    out->seq = atomic_load(&r2_state_live(op->r->state)->write_seq);
    rc = r2_state_take_dirty(op->r->state, true, &dirty, e);
    if (!rc) rc = r2_image_scan(&now, l, e);
    if (!rc) rc = still_expected(op, l, &now, expect);
    if (!rc && now.pages && r2_local_is_wal(l) && now.page_size != image->page_size)
        rc = r2_fail(e, R2_REFUSED, "the page size changes"); /* the caller leaves WAL mode first */
    if (!rc && !(map = pages_to_write(&now, image))) rc = r2_fail(e, R2_NOMEM, "out of memory");
    if (!rc) {
        struct r2_apply a = {.page_size = image->page_size,
                             .pages = image->pages,
                             .write_map = map,
                             .read = r2_image_read,
                             .ctx = image,
                             .new_schema = now.pages && schema_differs(op, remote, image, expect)};
        /* a first transaction that was rolled back left a counter of 1 in SQLite's memory */
        if (!now.pages) first = start_counter(image);
        rc = r2_apply(l, &a, e);
        applied = !rc;
        out->cookie = now.pages ? r2_image_cookie(&now) + a.new_schema : r2_image_cookie(image);
    }
    if (!rc) rc = r2_local_stamp(l, &out->stamp, e);
    if (!rc) r2_state_set_stamp(op->r->state, &out->stamp);
    if (dirty.map) r2_state_dirty_done(op->r->state, &dirty, applied);
    if (!rc) rc = r2_identity_of(op->r->path, &out->identity, e);
    if (!rc) out->identity.counter = now.pages ? r2_image_counter(&now) + 1 : first;
    free(map);
    r2_image_free(&now);
    struct r2_err end_err;
    enum r2_code end = r2_local_end(l, &end_err);
    if (!rc && end) rc = r2_fail(e, end, "%s", end_err.text);
    if (rc && applied) rc = e->code = R2_UNKNOWN; /* the next look at the file settles it */
    return rc;
}

static enum r2_code into_file(struct r2_op *op, struct r2_remote *remote, struct r2_image *image,
                              const struct r2_expect *expect, int64_t busy_ms,
                              struct installed *out)
{
    struct r2_local *l = NULL;
    struct r2_err *e = op->call.err, ignored;
    enum r2_code rc = r2_op_local(op, busy_ms, &l);
    if (!rc) rc = change_file(op, l, remote, image, expect, out);
    if (rc == R2_REFUSED) { /* another page size cannot go through a WAL */
        r2_err_clear(e);
        rc = r2_local_set_wal(l, false, e);
        if (rc) {
            r2_wrap(e, "the page size changed, and %s is in WAL mode", op->r->path);
            r2_advise(e, "; close the other connections to it");
        } else {
            rc = change_file(op, l, remote, image, expect, out);
            (void)r2_local_set_wal(l, true, &ignored);
        }
    } else if (!rc) {
        r2_local_tidy_wal(l);
    }
    r2_local_close(l);
    return rc;
}

/* A foreign writer's version that continues ours has our lineage, though it does not say so. */
void r2_keep_lineage(const struct r2_record *k, struct r2_remote *remote)
{
    if (!remote->has_lineage && k->base.version && remote->v.version > k->base.version)
        memcpy(remote->v.lineage, k->base.lineage, sizeof remote->v.lineage);
}

enum r2_code r2_install(struct r2_op *op, struct r2_remote *remote, struct r2_image *image,
                        const struct r2_expect *expect, int64_t busy_ms)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    struct installed in = {.cookie = r2_image_cookie(image)};
    struct r2_dirty dirty = {0};
    bool done = false;
    /* the intent first: after a crash the file holds this version or what it held before */
    memset(&k->pending, 0, sizeof k->pending);
    k->pending.kind = R2_PENDING_PULL;
    k->pending.layout = remote->layout;
    r2_keep_lineage(k, remote);
    k->pending.v = remote->v;
    enum r2_code rc =
        r2_state_write_sums(r->state, k->area ^ 1, 1, image->pages, image->sums, op->call.err);
    if (!rc) rc = r2_op_save(op);
    /* an empty file is none that is missing: its journal may be a first transaction in progress */
    if (!rc && image->path[0] && access(r->path, F_OK) != 0 && errno == ENOENT) {
        in.identity.counter = start_counter(image);
        in.stamp = (struct r2_stamp){.kind = 1, .counter = in.identity.counter};
        in.seq = atomic_load(&r2_state_live(r->state)->write_seq);
        rc = r2_state_take_dirty(r->state, true, &dirty, op->call.err);
        r2_state_set_stamp(r->state, &in.stamp); /* whoever opens it writes after that */
        if (!rc) rc = link_into_place(op, image, &done);
        if (dirty.map) r2_state_dirty_done(r->state, &dirty, done);
        if (!rc && done) rc = r2_identity_of(r->path, &in.identity, op->call.err);
        /* it is there all the same: the next look at the file settles it */
        if (rc && done) rc = op->call.err->code = R2_UNKNOWN;
    }
    if (!rc && !done) rc = into_file(op, remote, image, expect, busy_ms, &in);
    if (rc) {
        struct r2_err why = *op->call.err;
        /* r2_apply leaves the old content behind, or says that it cannot tell */
        if (rc != R2_UNKNOWN) {
            k->pending.kind = R2_PENDING_NONE;
            (void)r2_op_save(op);
        }
        *op->call.err = why;
        return r2_wrap(op->call.err, "cannot bring %s to version %" PRIu64, r->path,
                       remote->v.version);
    }
    k->pending.kind = R2_PENDING_NONE;
    k->base = remote->v;
    if (op->fetched_ms) k->verified_ms = op->fetched_ms;
    k->base.local_cookie = in.cookie;
    k->area ^= 1;
    k->layout = remote->layout;
    k->highest_seen = remote->v.version;
    k->conflict_version = 0;
    k->unclean = k->damaged = false;
    k->left_seq = 0;
    atomic_store(&r->in_conflict, false);
    r2_mark_clean(op, in.seq, &in.identity, r2_image_content(image));
    atomic_fetch_add(&r->pulls, 1);
    atomic_store(&r->behind, false);
    return r2_op_save(op);
}

/* From the snapshot, or what else stands at KEY; after it must be in the relation to the base that
 * was decided on. `shortcut`: only one try at what was seen there; *fetched: what fails after that
 * is no fault of the download. */
static enum r2_code pull_whole(struct r2_op *op, struct r2_remote *remote,
                               const struct r2_expect *expect, enum r2_relation decided,
                               int64_t busy_ms, bool shortcut, bool *fetched)
{
    struct r2_image image;
    static const struct r2_expect base_content;
    r2_image_init(&image);
    *fetched = false;
    enum r2_code rc = r2_image_create(&image, op->r->path, "-r2-new", true, op->call.err);
    if (!rc && shortcut && r2_plan_relation(&op->r->record, remote) != decided)
        rc = r2_fail(op->call.err, R2_PRECONDITION, "the snapshot is older than what was seen");
    else if (!rc && shortcut)
        rc = fetch_version(op, remote, 0, &image);
    else if (!rc)
        rc = r2_fetch(op, remote, false, &image);
    *fetched = !rc;
    if (op->ended) remote->successor = true;
    enum r2_relation now = rc ? decided : r2_plan_relation(&op->r->record, remote);
    /* whose local image was kept gets what there is now: his log may have ended since */
    bool ended = decided == R2_REL_NEWER && now == R2_REL_LINEAGE && expect && expect->image;
    if (!rc && now != decided && !ended)
        rc =
            r2_fail(op->call.err, R2_UNREACHABLE,
                    "%s was replaced while it was being fetched; call it again", op->r->config.url);
    if (!rc) rc = r2_install(op, remote, &image, expect ? expect : &base_content, busy_ms);
    r2_image_free(&image);
    return rc;
}

/* By segments; or by a snapshot that is less than those up to it. The segments are there all the
 * same, should it be replaced or turn out to be damaged. */
static enum r2_code pull_log(struct r2_op *op, struct r2_remote *seen, int64_t busy_ms)
{
    enum { SHORTCUTS = 2 };
    for (int turn = 0;; turn++) {
        bool shorter, fetched;
        enum r2_code rc = r2_pull_segments(op, busy_ms, turn < SHORTCUTS ? seen : NULL, &shorter);
        if (!shorter) return rc;
        r2_err_clear(op->call.err);
        r2_op_time(op);
        rc = pull_whole(op, seen, NULL, R2_REL_NEWER, busy_ms, true, &fetched);
        if (fetched || rc == R2_UNREACHABLE || rc == R2_DENIED) return rc;
        if (rc != R2_PRECONDITION) { /* replaced meanwhile: then by another one */
            r2_log_err(op->r, op->call.err);
            turn = SHORTCUTS;
        }
        r2_err_clear(op->call.err);
        op->r->record.verified_ms = 0; /* whoever replaced it may have collected, too */
    }
}

enum r2_code r2_pull_remote(struct r2_op *op, struct r2_remote *remote,
                            const struct r2_expect *expect, int64_t busy_ms)
{
    bool fetched;
    enum r2_relation decided = r2_plan_relation(&op->r->record, remote);
    if (remote->by_segments && !(expect && expect->image) && !r2_local_absent(op)) {
        struct r2_log l;
        enum r2_code rc = pull_log(op, remote, busy_ms);
        r2_log_of(op, &l);
        bool beyond = rc == R2_CORRUPT && r2_log_beyond_damage(&l, &op->r->record.base, remote);
        if (rc != R2_PRECONDITION && !beyond) return rc;
        r2_err_clear(op->call.err);
        op->r->record.verified_ms = 0;
        rc = beyond ? R2_OK : r2_probe(op, remote);
        if (rc) return rc;
        enum r2_relation now = r2_plan_relation(&op->r->record, remote);
        if (now != decided && now != R2_REL_SAME && !beyond) return r2_conflict(op, now, remote);
    }
    return pull_whole(op, remote, expect, decided, busy_ms, false, &fetched);
}

/* Is there nothing local that a pull would hide? Reads the file if somebody wrote. */
static enum r2_code is_clean(struct r2_op *op, bool *clean)
{
    struct r2_identity now;
    struct r2_staged s;
    *clean = true;
    if (r2_local_absent(op)) return R2_OK;
    enum r2_code rc = r2_identity_of(op->r->path, &now, op->call.err);
    if (rc || !r2_maybe_dirty(op, &now)) return rc;
    rc = r2_stage_changes(op, &s);
    *clean = !rc && s.equal;
    if (*clean) r2_staged_is_base(op, &s);
    r2_staged_free(&s);
    return rc;
}

/* Could a pull have the file's write lock? */
static enum r2_code can_write(struct r2_op *op, int64_t busy_ms)
{
    struct r2_local *l = NULL;
    if (r2_local_absent(op)) return R2_OK;
    enum r2_code rc = r2_op_local(op, busy_ms, &l);
    if (!rc) rc = r2_local_begin_write(l, op->call.err);
    r2_local_close(l);
    return rc;
}

/* Probe, settle, and pull what is newer. R2_CONFLICT when that cannot be done without a loss. */
static enum r2_code follow(struct r2_op *op, int64_t busy_ms)
{
    struct r2_record *k = &op->r->record;
    struct r2_remote seen;
    bool clean;
    enum r2_code rc = r2_look_and_settle(op, &seen);
    if (rc) return rc;
    enum r2_relation relation = r2_plan_relation(k, &seen);
    if (relation == R2_REL_SAME || relation == R2_REL_ABSENT) {
        (void)r2_strcpy(k->base.etag, sizeof k->base.etag, seen.v.etag);
        atomic_store(&op->r->behind, false);
        return R2_OK;
    }
    rc = is_clean(op, &clean);
    if (rc) return rc;
    if (relation != R2_REL_NEWER || !clean) {
        if (relation == R2_REL_FIRST && r2_local_absent(op))
            return r2_pull_remote(op, &seen, NULL, busy_ms);
        if (relation == R2_REL_FIRST) rc = r2_take_if_equal(op, &seen, &clean);
        if (rc || (relation == R2_REL_FIRST && clean)) return rc;
        return r2_conflict(op, relation, &seen);
    }
    atomic_store(&r2_state_live(op->r->state)->pulling, 1);
    rc = can_write(op, busy_ms); /* before the download, not after it */
    if (!rc) rc = r2_pull_remote(op, &seen, NULL, busy_ms);
    if (rc == R2_BUSY) atomic_store(&op->r->behind, true);
    return rc;
}

enum r2_code r2_replica_pull(struct r2_replica *r, uint64_t *version, struct r2_err *e)
{
    struct r2_op op;
    int64_t timeout = atomic_load(&r->timeout_ms), until = r2_boot_ms() + timeout;
    enum r2_code rc;
    if (r2_replica_barred(r, e)) return e->code;
    do {
        rc = r2_op_start(&op, r, e);
        if (rc) return rc;
        rc = follow(&op, timeout < PULL_BUSY_MS ? timeout : PULL_BUSY_MS);
        *version = r->record.base.version;
        r2_op_end(&op);
    } while (r2_op_again(&op, rc, until));
    if (rc) r2_log_err(r, e);
    return rc;
}

/* Would a COMMIT of a transaction that begins now be a conflict for certain? And it would keep the
 * pull that it needs from its lock. */
static bool doomed(const struct r2_replica *r, const struct r2_config *config)
{
    return config->sync == R2_SYNC_COMMIT &&
           (atomic_load(&r->behind) || atomic_load(&r2_state_live(r->state)->pulling));
}

bool r2_replica_refresh_due(const struct r2_replica *r, const struct r2_config *config)
{
    int64_t probed = atomic_load(&r->probed_boot_ms);
    if (atomic_load(&r->behind) || doomed(r, config)) return true;
    if (config->refresh_open) return false;
    return config->refresh_ms == 0 || probed == 0 || r2_boot_ms() - probed >= config->refresh_ms;
}

enum r2_code r2_replica_refresh(struct r2_replica *r, const struct r2_config *config,
                                struct r2_err *e)
{
    struct r2_op op;
    bool strict = (!config->refresh_open && config->refresh_ms == 0) || doomed(r, config);
    int64_t came = r2_boot_ms();
    /* while an upload is under way, too: it may lose against a version that this one must see */
    enum r2_code rc = strict ? r2_op_wait(&op, r, true, NULL, e) : r2_op_begin(&op, r, 0, e);
    if (rc == R2_BUSY && !strict) return R2_OK;
    if (rc) return rc;
    /* a probe that began after this transaction asked is as good as one of its own */
    if (atomic_load(&r->probed_boot_ms) <= came || atomic_load(&r->behind)) {
        uint64_t known_conflict = r->record.conflict_version;
        rc = follow(&op, strict ? REFRESH_BUSY_MS : 0);
        if (rc == R2_CONFLICT) { /* the local content goes on; sync() will say it again */
            if (known_conflict != r->record.conflict_version) r2_log_err(r, e);
            rc = R2_OK;
        }
        if (rc == R2_BUSY && !strict) rc = R2_OK;
        if (rc == R2_UNREACHABLE && config->offline_allow) {
            r2_log_err(r, e);
            atomic_store(&r->probed_boot_ms, r2_boot_ms()); /* not again at every transaction */
            rc = R2_OK;
        }
    }
    r2_op_end(&op);
    if (rc && rc != R2_BUSY) r2_log_err(r, e);
    return rc;
}
