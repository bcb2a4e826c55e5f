/* replica_resolve.c - conflicts: keep the loser as a fork, then let one side win.
 *
 * Nothing is thrown away (DESIGN section 3): before the remote's content replaces the local file,
 * the local image stands confirmed under KEY-forks/; before the local image replaces the remote's,
 * the remote's does. */
#include "replica_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "buf.h"
#include "log_list.h"
#include "ltx.h"
#include "os.h"

enum { RESOLVE_BUSY_MS = 5000 };

static bool fork_meta(const struct r2_replica *r, uint64_t checksum, uint64_t version,
                      struct r2_meta *m)
{
    char text[64];
    r2_meta_clear(m);
    snprintf(text, sizeof text, "%" PRIu64, version);
    bool ok = r2_meta_add(m, "db-version", text);
    r2_lineage_text(r->record.base.lineage, text);
    ok = ok && r2_meta_add(m, "db-lineage", text);
    snprintf(text, sizeof text, "%016" PRIx64, checksum);
    return ok && r2_meta_add(m, "db-checksum", text);
}

/* A 412 or a lost answer: is what stands there this image? */
static bool is_there(struct r2_op *op, const char *key, const struct r2_meta *meta, uint64_t size)
{
    struct r2_object o;
    char mine[32], theirs[32];
    struct r2_store *store = op->r->store;
    if (store->ops->head(store, &op->call, key, &o) != R2_OK || o.size != size) return false;
    return r2_meta_get(meta, "db-checksum", mine, sizeof mine) &&
           r2_meta_get(&o.meta, "db-checksum", theirs, sizeof theirs) && strcmp(mine, theirs) == 0;
}

/* Store bytes under a key of their own, once: what is there already with the same checksum is it.
 */
static enum r2_code keep_bytes(struct r2_op *op, const char *key, int fd, uint64_t size,
                               uint64_t checksum, uint64_t version)
{
    struct r2_replica *r = op->r;
    struct r2_meta meta;
    struct r2_object o;
    if (strlen(key) >= R2_KEY_BYTES || !fork_meta(r, checksum, version, &meta))
        return r2_fail(op->call.err, R2_REFUSED, "the key would be too long: %s", key);
    struct r2_put put = {.key = key,
                         .body = {.fd = fd, .size = size},
                         .when = R2_PUT_IF_ABSENT,
                         .meta = &meta,
                         .content_type = "application/vnd.sqlite3"};
    enum r2_code rc;
    r2_op_time(op);
    for (int64_t pause = 100;; pause *= 2) {
        rc = r->store->ops->put(r->store, &op->call, &put, &o);
        if (rc != R2_UNKNOWN && rc != R2_PRECONDITION) break;
        struct r2_err why = *op->call.err;
        if (is_there(op, key, &meta, put.body.size)) {
            rc = R2_OK;
            break;
        }
        *op->call.err = why;
        if (rc == R2_PRECONDITION || r2_boot_ms() + pause >= op->call.deadline_ms) break;
        r2_sleep_ms(pause);
    }
    if (rc) {
        r2_wrap(op->call.err, "cannot keep %s", key);
        r2_advise(op->call.err, "; nothing was changed");
        return rc;
    }
    r2_err_clear(op->call.err);
    return R2_OK;
}

static enum r2_code fork_bytes(struct r2_op *op, int fd, uint64_t size, uint64_t checksum,
                               uint64_t version)
{
    struct r2_replica *r = op->r;
    char key[R2_KEY_BYTES + 128], text[R2_ERR_TEXT];
    snprintf(key, sizeof key, "%s-forks/%" PRIu64 "-%016" PRIx64 "-%016" PRIx64 ".db",
             r->config.key, version, r->record.writer, checksum);
    enum r2_code rc = keep_bytes(op, key, fd, size, checksum, version);
    if (rc) return r2_wrap(op->call.err, "the losing image of a conflict");
    snprintf(text, sizeof text, "the losing image of a conflict was kept as %.700s%.200s",
             r->config.url, key + strlen(r->config.key));
    r2_note(r, "%s", text);
    if (r2_tell) r2_tell(text);
    return R2_OK;
}

enum r2_code r2_fork_image(struct r2_op *op, const struct r2_image *image, uint64_t version)
{
    return fork_bytes(op, image->fd, (uint64_t)image->pages * image->page_size,
                      r2_image_checksum(image), version);
}

/* What was downloaded is no sound version; its bytes are kept all the same. */
static enum r2_code fork_damaged(struct r2_op *op, const struct r2_image *image,
                                 const struct r2_remote *remote)
{
    uint8_t chunk[65536];
    uint64_t crc = 0;
    enum r2_code rc = R2_OK;
    r2_err_clear(op->call.err);
    for (uint64_t at = 0, n; !rc && at < remote->size; at += n) {
        n = remote->size - at < sizeof chunk ? remote->size - at : sizeof chunk;
        rc = r2_read_at(image->fd, chunk, n, at, op->call.err);
        if (!rc) crc = r2_crc64(crc, chunk, n);
    }
    return rc ? rc : fork_bytes(op, image->fd, remote->size, crc, remote->v.version);
}

/* The staged image with the fields that it would have had as the next version. */
static enum r2_code as_next_version(struct r2_op *op, struct r2_staged *s)
{
    const struct r2_version *base = &op->r->record.base;
    uint8_t header[R2_HEADER];
    r2_image_next_header(&s->image, base->version ? base : NULL, base->version + 1, header);
    return r2_image_set_fields(&s->image, header, op->call.err);
}

enum r2_code r2_adopt_remote(struct r2_op *op, struct r2_remote *remote)
{
    struct r2_record *k = &op->r->record;
    struct r2_staged s;
    memset(&s, 0, sizeof s);
    r2_image_init(&s.image);
    enum r2_code rc = R2_OK;
    if (!r2_local_absent(op)) rc = r2_stage(op, true, &s);
    /* A version of this lineage that the remote went past is no loser. Nothing but the look that is
     * replaced can say so: since an earlier one a neighbour may have committed. */
    bool newer = r2_plan_relation(k, remote) == R2_REL_NEWER;
    bool keep = !rc && s.image.pages && !(s.equal && newer);
    if (!rc) rc = as_next_version(op, &s);
    if (!rc && keep) rc = r2_fork_image(op, &s.image, k->base.version + 1);
    if (!rc) {
        struct r2_expect expect = {.image = s.image.pages ? &s.image : NULL};
        k->pending.kind = R2_PENDING_NONE;
        rc = r2_pull_remote(op, remote, &expect, RESOLVE_BUSY_MS);
        if (!rc && keep) atomic_fetch_add(&r2_state_live(op->r->state)->aside, 1);
    }
    r2_staged_free(&s);
    return rc;
}

uint32_t r2_replica_aside(struct r2_replica *r)
{
    return atomic_load(&r2_state_live(r->state)->aside);
}

/* The local content becomes a change on top of the remote's: as if somebody had committed it there.
 */
static enum r2_code rebase_on(struct r2_op *op, const struct r2_remote *remote,
                              const struct r2_image *image)
{
    struct r2_record *k = &op->r->record;
    enum r2_code rc =
        r2_state_write_sums(op->r->state, k->area ^ 1, 1, image->pages, image->sums, op->call.err);
    if (rc) return rc;
    k->base = remote->v;
    k->base.local_cookie = UINT32_MAX; /* the next version's cookie is one that nobody has met */
    k->layout = remote->layout;
    k->area ^= 1;
    k->pending.kind = R2_PENDING_NONE;
    k->conflict_version = 0;
    if (k->highest_seen < remote->v.version) k->highest_seen = remote->v.version;
    r2_look_again(op);
    return r2_op_save(op);
}

/* The remote's content, kept as a fork before something else takes its place. `rebase`: the local
 * file goes on from it. */
static enum r2_code keep_remote(struct r2_op *op, struct r2_remote *remote, bool rebase)
{
    struct r2_image image;
    r2_image_init(&image);
    enum r2_code rc = r2_image_create(&image, op->r->path, "-r2-new", false, op->call.err);
    if (!rc) rc = r2_fetch(op, remote, false, &image);
    if (!rc && image.pages)
        rc = r2_fork_image(op, &image, remote->v.version);
    else if (rc == R2_CORRUPT && !rebase)
        rc = fork_damaged(op, &image, remote);
    if (!rc && rebase) rc = rebase_on(op, remote, &image);
    r2_image_free(&image);
    return rc;
}

enum r2_code r2_keep_base(struct r2_op *op, struct r2_remote *remote)
{
    char key[R2_KEY_BYTES + 128];
    struct r2_image image;
    bool in_log = remote->layout == R2_LAYOUT_LOG;
    r2_image_init(&image);
    enum r2_code rc = r2_image_create(&image, op->r->path, "-r2-new", false, op->call.err);
    if (!rc) rc = r2_fetch(op, remote, true, &image);
    if (!rc && in_log) /* a log's own past goes with the retention; this stays (a restore) */
        snprintf(key, sizeof key, "%s-forks/%" PRIu64 "-%016" PRIx64 "-%016" PRIx64 ".db",
                 op->r->config.key, remote->v.version, op->r->record.writer,
                 r2_image_checksum(&image));
    else if (!rc)
        r2_log_key(op->r->config.key, op->r->record.base.lineage, remote->v.version, ".db", key);
    if (!rc)
        rc = keep_bytes(op, key, image.fd, (uint64_t)image.pages * image.page_size,
                        r2_image_checksum(&image), remote->v.version);
    r2_image_free(&image);
    if (!rc)
        r2_note(op->r, "%s was changed without r2vfs; version %" PRIu64 " was kept as %s%s",
                op->r->path, remote->v.version, op->r->config.url, key + strlen(op->r->config.key));
    return rc;
}

static enum r2_code local_wins(struct r2_op *op, struct r2_remote *remote, uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    struct r2_staged s;
    uint64_t top = k->base.version > k->highest_seen ? k->base.version : k->highest_seen;
    enum r2_relation relation = r2_plan_relation(k, remote);
    bool in_log = remote->exists ? remote->layout == R2_LAYOUT_LOG : r2_in_log(k);
    if (r2_local_absent(op))
        return r2_fail(op->call.err, R2_REFUSED, "%s is empty: there is no local content to push",
                       op->r->path);
    if (in_log && remote->exists && relation != R2_REL_OLDER && relation != R2_REL_ALTERED) {
        enum r2_code on_top = keep_remote(op, remote, true); /* a segment like any other */
        return on_top ? on_top : r2_push_if_dirty(op, version);
    }
    enum r2_code rc = remote->exists ? keep_remote(op, remote, false) : R2_OK;
    /* the log there does not fit what was seen of it: a new lineage in its place */
    if (!rc && in_log && remote->exists)
        rc = r2_layout_object.probe(op->r->store, &op->call, op->r->config.key, remote);
    if (rc) return rc;
    if (remote->exists && remote->v.version > top) top = remote->v.version; /* as just fetched */
    struct r2_version over_base = k->base; /* journal mode, cookie, lineage go on from here */
    if (in_log) memset(over_base.lineage, 0, sizeof over_base.lineage);
    (void)r2_strcpy(over_base.recent, sizeof over_base.recent,
                    remote->exists ? remote->v.recent : k->base.recent);
    k->pending.kind = R2_PENDING_NONE; /* what it tried is either the remote's now, or can no longer
                                          land: its condition names an ETag that is replaced */
    rc = r2_stage(op, true, &s);
    if (!rc && !s.image.pages)
        rc = r2_fail(op->call.err, R2_REFUSED, "%s is empty: there is no local content to push",
                     op->r->path);
    if (!rc && remote->exists && k->base.version && remote->v.pages) {
        /* it does not continue the remote's content: its cookie is one that nobody has met */
        const uint8_t *mine = k->base.header + 40, *theirs = remote->v.header + 40;
        memcpy(over_base.header + 40, r2_get32(mine) > r2_get32(theirs) ? mine : theirs, 4);
        r2_put32(over_base.header + 40, r2_get32(over_base.header + 40) + 1);
        over_base.local_cookie = ~r2_image_cookie(&s.image); /* and one more */
    }
    if (!rc) {
        struct r2_push_over over = {.base = k->base.version ? &over_base : NULL,
                                    .etag = remote->exists ? remote->v.etag : "",
                                    .version = top + 1};
        rc = r2_push_staged(op, &s, &over, version);
    }
    r2_staged_free(&s);
    return rc;
}

static enum r2_code remote_wins(struct r2_op *op, struct r2_remote *remote, uint64_t *version)
{
    struct r2_record *k = &op->r->record;
    bool nothing_to_settle = false;
    enum r2_code rc = R2_OK;
    if (!remote->exists)
        return r2_fail(
            op->call.err, R2_REFUSED,
            "%s does not exist in the remote; SELECT r2_resolve('local') creates it again "
            "from the local file",
            k->url);
    if (r2_plan_relation(k, remote) == R2_REL_SAME && !r2_local_absent(op)) {
        struct r2_staged s;
        rc = r2_stage_changes(op, &s);
        nothing_to_settle = s.equal;
        r2_staged_free(&s);
    }
    if (!rc && !nothing_to_settle) rc = r2_adopt_remote(op, remote);
    *version = k->base.version;
    return rc;
}

static enum r2_code resolve(struct r2_op *op, bool local, uint64_t *version)
{
    struct r2_replica *r = op->r;
    struct r2_remote remote;
    enum r2_code rc = r2_look_and_settle(op, &remote);
    if (!rc && local && r2_plan_relation(&r->record, &remote) == R2_REL_SAME)
        rc = r2_push_if_dirty(op, version);
    else if (!rc)
        rc = local ? local_wins(op, &remote, version) : remote_wins(op, &remote, version);
    if (rc) return rc;
    r2_bar(r, NULL);
    atomic_store(&r->in_conflict, false);
    if (!r->record.conflict_version) return R2_OK;
    r->record.conflict_version = 0;
    return r2_op_save(op);
}

enum r2_code r2_replica_resolve(struct r2_replica *r, const char *how, uint64_t *version,
                                struct r2_err *e)
{
    struct r2_op op;
    enum r2_code rc;
    bool local = strcmp(how, "local") == 0;
    if (!local && strcmp(how, "fork") != 0 && strcmp(how, "remote") != 0)
        return r2_fail(e, R2_CONFIG, "r2_resolve() takes 'fork', 'remote' or 'local', not '%.40s'",
                       how);
    int64_t until = r2_boot_ms() + atomic_load(&r->timeout_ms);
    do {
        rc = r2_op_start(&op, r, e);
        if (rc) return rc;
        rc = resolve(&op, local, version);
        r2_op_end(&op);
    } while (r2_op_again(&op, rc, until));
    if (rc) r2_log_err(r, e);
    return rc;
}

/* ---- small questions ---- */

enum r2_code r2_replica_version(struct r2_replica *r, uint64_t *version, struct r2_err *e)
{
    struct r2_op op;
    *version = atomic_load(&r->version);
    if (r2_replica_foreign(r) || r2_op_begin(&op, r, 0, e)) { /* an upload is under way */
        r2_err_clear(e);
        return R2_OK;
    }
    *version = r->record.base.version;
    r2_op_end(&op);
    return R2_OK;
}

/* Versions without a gap after *ctx. */
static bool on_entry(void *ctx, const struct r2_log_entry *entry)
{
    uint64_t *version = ctx;
    if (entry->kind != R2_LOG_SEGMENT) return true;
    if (entry->version != *version + 1) return false;
    *version = entry->version;
    return true;
}

enum r2_code r2_replica_remote_version(struct r2_replica *r, uint64_t *version, struct r2_err *e)
{
    struct r2_op op;
    struct r2_remote remote;
    enum r2_code rc = r2_op_start(&op, r, e);
    if (rc) return rc;
    rc = r2_probe(&op, &remote);
    *version = !rc && remote.exists ? remote.v.version : 0;
    if (!rc && remote.by_segments) { /* there is one more at least: count them */
        struct r2_log l;
        r2_log_of(&op, &l);
        rc = r2_log_list(&l, remote.v.lineage, remote.v.version, on_entry, version);
        atomic_store(&r->remote_version, *version);
    }
    r2_op_end(&op);
    if (rc) r2_log_err(r, e);
    return rc;
}

enum r2_code r2_replica_presign(struct r2_replica *r, int64_t seconds, char *url, size_t room,
                                struct r2_err *e)
{
    struct r2_buf text;
    struct r2_call call = {.deadline_ms = r2_boot_ms() + atomic_load(&r->timeout_ms),
                           .traffic = &r->traffic,
                           .err = e};
    if (seconds < 1 || seconds > 604800)
        return r2_fail(e, R2_CONFIG, "r2_presign() takes 1 to 604800 seconds, not %lld",
                       (long long)seconds);
    r2_buf_init(&text, room - 1);
    enum r2_code rc = r->store->ops->presign(r->store, &call, r->config.key, seconds, &text);
    if (!rc && text.failed) rc = r2_fail(e, R2_NOMEM, "no room for the URL");
    if (!rc) (void)r2_strcpy(url, room, text.at);
    r2_buf_free(&text);
    return rc;
}
