/* replica_travel.c - earlier versions: shown beside the database, listed, or made the newest one.
 * See travel.h; how a version is found and rebuilt is in log_past.c. */
#include "travel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "log_list.h"
#include "os.h"
#include "replica_int.h"

enum { RESTORE_BUSY_MS = 5000, LOOKS_AT_ONCE = 16 };

/* A log of its own: what it learns about old versions says nothing of the replica's base. */
struct past {
    struct r2_ahead ahead;
    struct r2_log log;
    struct r2_past_in in;
};

static void past_of(struct past *p, struct r2_store *store, struct r2_call *call, const char *path,
                    const struct r2_config *config, int64_t timeout_ms)
{
    memset(p, 0, sizeof *p);
    p->log = (struct r2_log){
        .store = store, .call = call, .key = config->key, .db_path = path, .ahead = &p->ahead};
    p->in = (struct r2_past_in){.log = &p->log,
                                .url = config->url,
                                .timeout_ms = timeout_ms,
                                .retention_s = config->retention_s};
}

/* A file for an image, removed at once. Its name is not shared: several may be made at the same
 * time. */
static enum r2_code new_image(struct r2_image *image, const char *path, struct r2_err *e)
{
    char suffix[48];
    r2_image_init(image);
    snprintf(suffix, sizeof suffix, "-r2-past-%016" PRIx64, r2_random64());
    return r2_image_create(image, path, suffix, false, e);
}

/* ---- show ---- */

enum r2_code r2_travel(const char *path, const struct r2_config *config, int *fd, uint64_t *size,
                       uint64_t *version, struct r2_err *e)
{
    static const uint8_t rollback_mode[2] = {1, 1}; /* bytes 18 and 19: no -wal is looked for */
    struct r2_store *store = NULL;
    struct r2_image image;
    struct past past;
    struct r2_want want = {.version = config->version, .at_ms = config->at_ms};
    struct r2_call call = {.progress = config->progress, .err = e};
    struct r2_remote *seen = malloc(sizeof *seen);
    r2_image_init(&image);
    enum r2_code rc =
        seen ? r2_store_open(config, &store, e) : r2_fail(e, R2_NOMEM, "out of memory");
    if (!rc) rc = r2_make_folders_above(path, e);
    if (!rc) rc = new_image(&image, path, e);
    if (!rc) {
        past_of(&past, store, &call, path, config, config->timeout_ms);
        rc = r2_past_image(&past.in, &want, &image, seen);
    }
    if (!rc && image.pages) rc = r2_write_at(image.fd, rollback_mode, 2, 18, e);
    if (!rc) {
        *fd = image.fd;
        *size = (uint64_t)image.pages * image.page_size;
        *version = seen->v.version;
        image.fd = -1;
    }
    r2_image_free(&image);
    if (store) store->ops->close(store);
    free(seen);
    return rc;
}

/* ---- list ---- */

static void keep_row(void *ctx, const struct r2_past_row *row)
{
    struct r2_history *h = ctx;
    if (!row->reachable || h->no_memory) return;
    if (h->count == h->room) {
        size_t room = h->room ? 2 * h->room : 256;
        struct r2_history_row *more = realloc(h->row, room * sizeof *more);
        if (!more) {
            h->no_memory = true;
            return;
        }
        h->row = more;
        h->room = room;
    }
    h->row[h->count++] = (struct r2_history_row){.version = row->version,
                                                 .bytes = row->bytes,
                                                 .time_ms = row->modified_ms,
                                                 .segment = row->segment};
}

/* Newest first. What was copied or written late is not younger than what came after it. */
static void arrange(struct r2_history *h)
{
    for (size_t k = h->count; k-- > 1;)
        if (!h->row[k - 1].segment && h->row[k - 1].time_ms > h->row[k].time_ms)
            h->row[k - 1].time_ms = h->row[k].time_ms;
    for (size_t k = 0; k < h->count / 2; k++) {
        struct r2_history_row row = h->row[k];
        h->row[k] = h->row[h->count - 1 - k];
        h->row[h->count - 1 - k] = row;
    }
}

enum r2_code r2_replica_history(struct r2_replica *r, struct r2_history *out, struct r2_err *e)
{
    struct past past;
    struct r2_call call = {.traffic = &r->traffic, .err = e};
    memset(out, 0, sizeof *out);
    if (r2_replica_foreign(r))
        return r2_fail(e, R2_REFUSED, "this connection was opened before a fork(); open a new one");
    struct r2_remote *snapshot = malloc(sizeof *snapshot);
    if (!snapshot) return r2_fail(e, R2_NOMEM, "out of memory");
    past_of(&past, r->store, &call, r->path, &r->config, atomic_load(&r->timeout_ms));
    enum r2_code rc = r2_past_rows(&past.in, snapshot, keep_row, out);
    if (!rc && out->no_memory) rc = r2_fail(e, R2_NOMEM, "out of memory");
    if (!rc) {
        memcpy(out->lineage, snapshot->v.lineage, sizeof out->lineage);
        arrange(out);
        for (size_t k = 0; k < out->count;
             k++) /* the nonces of the newest 64 are in the snapshot */
            out->row[k].has_writer =
                r2_recent_find(snapshot->v.recent, out->row[k].version, &out->row[k].writer);
    } else {
        r2_history_free(out);
    }
    free(snapshot);
    return rc;
}

void r2_history_free(struct r2_history *h)
{
    free(h->row);
    memset(h, 0, sizeof *h);
}

struct looking {
    const struct r2_past_in *in;
    struct r2_history *h;
    size_t first;
};

static enum r2_code look_at_row(void *ctx, struct r2_call *call, uint64_t index)
{
    const struct looking *g = ctx;
    struct r2_history_row *row = &g->h->row[g->first + index];
    struct r2_ltx_header header;
    if (row->looked || !row->segment) return R2_OK;
    enum r2_code rc = r2_past_header(g->in, call, g->h->lineage, row->version, &header);
    if (rc == R2_MISSING) { /* collected meanwhile */
        r2_err_clear(call->err);
        return R2_OK;
    }
    if (rc) return rc;
    row->has_writer = true;
    row->writer = header.node_id;
    row->pages = header.commit;
    return R2_OK;
}

enum r2_code r2_history_look(struct r2_replica *r, struct r2_history *h, size_t first, size_t count,
                             struct r2_err *e)
{
    struct past past;
    struct r2_call call = {.traffic = &r->traffic, .err = e};
    if (r2_replica_foreign(r))
        return r2_fail(e, R2_REFUSED, "this connection was opened before a fork(); open a new one");
    int64_t timeout = atomic_load(&r->timeout_ms);
    call.deadline_ms = r2_boot_ms() + timeout;
    past_of(&past, r->store, &call, r->path, &r->config, timeout);
    struct looking g = {.in = &past.in, .h = h, .first = first};
    if (first >= h->count) return R2_OK;
    if (count > h->count - first) count = h->count - first;
    enum r2_code rc = r2_store_parallel(&call, LOOKS_AT_ONCE, count, look_at_row, &g, e);
    for (size_t k = 0; !rc && k < count; k++)
        h->row[first + k].looked = true;
    return rc;
}

/* ---- restore ---- */

/* The local file must be the remote's newest version, and nothing else. *seq: as it was then. */
static enum r2_code is_head(struct r2_op *op, struct r2_remote *seen, uint64_t *seq)
{
    struct r2_record *k = &op->r->record;
    struct r2_err *e = op->call.err;
    struct r2_identity now;
    struct r2_staged s;
    enum r2_code rc = r2_look_and_settle(op, seen);
    if (rc) return rc;
    if (k->pending.kind == R2_PENDING_PUSH)
        return r2_fail(e, R2_UNKNOWN,
                       "version %" PRIu64
                       " of %s may or may not have been stored; call sync() first",
                       k->pending.v.version, k->url);
    if (!k->base.version || r2_plan_relation(k, seen) != R2_REL_SAME)
        return r2_fail(e, R2_CONFLICT, "%s moved on meanwhile; nothing was changed: try again",
                       k->url);
    (void)r2_strcpy(k->base.etag, sizeof k->base.etag, seen->v.etag);
    rc = r2_identity_of(op->r->path, &now, e);
    *seq = k->clean_seq;
    if (rc || !r2_maybe_dirty(op, &now)) return rc;
    rc = r2_stage_changes(op, &s);
    *seq = s.seq;
    if (!rc && !s.equal)
        rc = r2_fail(e, R2_REFUSED,
                     "%s has changes that are not in the remote: push them with SELECT sync() "
                     "first, then they stay reachable, too",
                     op->r->path);
    if (!rc) r2_staged_is_base(op, &s);
    r2_staged_free(&s);
    return rc ? rc : r2_op_save(op);
}

/* Writers wait until the restored version is there: what they would write now is about the old
 * content. */
static enum r2_code keep_writers_out(struct r2_op *op, uint64_t seq, const struct r2_image *image,
                                     struct r2_local **l)
{
    struct r2_err *e = op->call.err;
    struct r2_stamp now;
    struct r2_identity id;
    enum r2_code rc = r2_op_local(op, op->busy_ms, l);
    if (!rc) rc = r2_local_begin_write(*l, e);
    if (!rc && r2_local_is_wal(*l) && image->page_size != op->r->record.base.page_size)
        return r2_fail(e, R2_REFUSED,
                       "that version has pages of %u bytes, and %s, in WAL mode, has pages of %u: "
                       "leave WAL mode with PRAGMA journal_mode=DELETE first",
                       image->page_size, op->r->path, op->r->record.base.page_size);
    if (!rc) rc = r2_local_stamp(*l, &now, e);
    if (!rc) rc = r2_identity_of(op->r->path, &id, e);
    bool same = !rc && atomic_load(&r2_state_live(op->r->state)->write_seq) == seq &&
                (r2_continues(op->r, &now, &id) ||
                 r2_identity_equal(&op->r->record.identity, &id)); /* as it was just looked at */
    if (rc || same) return rc;
    return r2_fail(e, R2_BUSY, "%s was changed meanwhile; nothing was restored: try again",
                   op->r->path);
}

/* The pages by which the image differs from the base, as if they had been written here. */
static enum r2_code as_changes(struct r2_op *op, const struct r2_image *image, struct r2_staged *s)
{
    enum { SUMS = 512 };
    uint64_t was[SUMS];
    const struct r2_version *base = &op->r->record.base;
    struct r2_err *e = op->call.err;
    struct r2_changes *c = &s->changes;
    uint32_t lock = r2_ltx_lock_page(image->page_size);
    uint32_t kept = image->page_size == base->page_size ? base->pages : 0;
    uint8_t *page = malloc(image->page_size);
    enum r2_code rc = page ? R2_OK : r2_fail(e, R2_NOMEM, "out of memory");
    s->by_changes = true;
    r2_patch_init(&c->patch, op->r->path);
    r2_patch_shape(&c->patch, image->page_size, image->pages);
    for (uint32_t at = 0; !rc && at < image->pages; at++) {
        uint32_t left = at < kept ? kept - at : 0;
        if (left && at % SUMS == 0)
            rc = r2_state_read_sums(op->r->state, op->r->record.area, at + 1,
                                    left < SUMS ? left : SUMS, was, e);
        if (rc || at + 1 == lock || (at && left && was[at % SUMS] == image->sums[at])) continue;
        rc = r2_read_at(image->fd, page, image->page_size, (uint64_t)at * image->page_size, e);
        if (!rc) rc = r2_patch_put(&c->patch, at + 1, page, e);
        c->changed++;
    }
    c->reshaped = image->pages != base->pages || !kept;
    c->rest = (r2_image_checksum(image) ^ image->sums[0]) & ~R2_LTX_FLAG;
    c->page1 = page;
    s->image.page_size = image->page_size;
    s->image.pages = image->pages;
    if (!rc && !(s->image.page1 = malloc(image->page_size)))
        rc = r2_fail(e, R2_NOMEM, "out of memory");
    if (rc) return rc;
    memcpy(c->page1, image->page1, image->page_size);
    memcpy(s->image.page1, image->page1, image->page_size);
    return R2_OK;
}

/* It is not there, as far as is known. */
static enum r2_code failed(struct r2_op *op, enum r2_code rc, uint64_t version)
{
    struct r2_record *k = &op->r->record;
    struct r2_pending *p = &k->pending;
    struct r2_err why = *op->call.err;
    bool tried = p->kind == R2_PENDING_PUSH && p->tries;
    if (rc == R2_CONFLICT) {
        p->kind = R2_PENDING_NONE; /* the number is taken */
        r2_fail(&why, R2_CONFLICT,
                "another replica pushed version %" PRIu64 " of %s before version %" PRIu64
                " was restored; nothing was restored: look at what it is, and try again",
                k->base.version + 1, k->url, version);
    } else if (rc == R2_UNKNOWN && tried) {
        p->try[p->tries - 1].gone = true; /* should it land, it is a newer version: see r2_settle */
        r2_wrap(&why,
                "version %" PRIu64 " of %s, which restores version %" PRIu64
                ", may or may not have been stored",
                p->v.version, k->url, version);
        r2_advise(&why, "; SELECT r2_pull() finds out when the network is back");
    } else {
        p->kind = R2_PENDING_NONE; /* there was none before */
        r2_wrap(&why, "cannot restore version %" PRIu64 " of %s", version, k->url);
    }
    if (rc == R2_CONFLICT || rc == R2_UNKNOWN) atomic_store(&op->r->behind, true);
    (void)r2_op_save(op);
    *op->call.err = why;
    return why.code = rc;
}

/* Send the image as the version after the base; *seen: that. Then the image has its fields. */
static enum r2_code send(struct r2_op *op, struct r2_image *image, struct r2_remote *seen)
{
    struct r2_record *k = &op->r->record;
    struct r2_err *e = op->call.err;
    struct r2_staged s;
    enum r2_maker maker;
    enum r2_code rc;
    memset(&s, 0, sizeof s);
    r2_image_init(&s.image);
    s.state = op->r->state;
    s.changes.patch.fd = -1;
    /* another cookie than the base's local one, whatever it was then: statements are made anew */
    r2_put32(image->page1 + 40, ~k->base.local_cookie);
    if (k->layout == R2_LAYOUT_LOG) {
        rc = as_changes(op, image, &s);
        if (!rc) rc = r2_send_changes(op, &s, true, seen, &maker);
        if (!rc) rc = r2_image_set_fields(image, seen->v.header, e);
    } else {
        struct r2_push_over over = {
            .base = &k->base, .etag = k->base.etag, .version = k->base.version + 1};
        s.image = *image;
        rc = r2_send_image(op, &s, &over, true, seen, &maker);
        *image = s.image;
        r2_image_init(&s.image);
    }
    r2_staged_free(&s);
    return rc;
}

/* It is in the remote: bring the local file to it. */
static enum r2_code take_over(struct r2_op *op, struct r2_remote *seen, struct r2_image *image)
{
    static const struct r2_expect base_content;
    struct r2_replica *r = op->r;
    r->record.pending.kind = R2_PENDING_NONE;
    atomic_fetch_add(&r->pushes, 1);
    atomic_store(&r->remote_version, seen->v.version);
    if (r->record.highest_seen < seen->v.version) r->record.highest_seen = seen->v.version;
    uint64_t version = seen->v.version;
    enum r2_code rc = r2_install(op, seen, image, &base_content, RESTORE_BUSY_MS);
    if (!rc) return R2_OK;
    atomic_store(&r->behind, true);
    if (rc != R2_BUSY)
        return r2_wrap(op->call.err, "version %" PRIu64 " was stored in %s, but not here", version,
                       r->config.url);
    r2_log_err(r, op->call.err); /* readers are in the way: the next transaction takes it */
    r2_err_clear(op->call.err);
    return R2_OK;
}

static enum r2_code restore(struct r2_op *op, uint64_t version, uint64_t *now)
{
    struct r2_replica *r = op->r;
    struct r2_record *k = &r->record;
    struct r2_err *e = op->call.err;
    struct r2_image image;
    struct r2_local *l = NULL;
    struct past past;
    struct r2_want want = {.version = version};
    uint64_t seq = 0;
    r2_image_init(&image);
    struct r2_remote *seen = malloc(sizeof *seen);
    if (!seen) return r2_fail(e, R2_NOMEM, "out of memory");
    enum r2_code rc = r2_not_damaged(op);
    if (!rc) rc = is_head(op, seen, &seq);
    *now = k->base.version;
    if (rc || version == k->base.version) { /* it is the newest */
        free(seen);
        return rc;
    }
    rc = new_image(&image, r->path, e);
    struct r2_remote *old = malloc(sizeof *old);
    if (!rc && !old) rc = r2_fail(e, R2_NOMEM, "out of memory");
    past_of(&past, r->store, &op->call, r->path, &r->config, atomic_load(&r->timeout_ms));
    if (!rc) rc = r2_past_image(&past.in, &want, &image, old);
    free(old);
    if (!rc && !image.pages) rc = r2_fail(e, R2_REFUSED, "version %" PRIu64 " is empty", version);
    r2_op_time(op);
    if (!rc && k->layout != R2_LAYOUT_LOG)
        rc = r2_keep_base(op, seen); /* it is going to be replaced */
    if (!rc) rc = keep_writers_out(op, seq, &image, &l);
    if (!rc) {
        rc = send(op, &image, seen);
        if (rc) rc = failed(op, rc, version);
        r2_local_close(l);
        l = NULL;
        if (!rc) {
            *now = seen->v.version;
            rc = take_over(op, seen, &image);
        }
    }
    r2_local_close(l);
    r2_image_free(&image);
    free(seen);
    return rc;
}

enum r2_code r2_replica_restore(struct r2_replica *r, uint64_t version, uint64_t *now,
                                struct r2_err *e)
{
    struct r2_op op;
    if (!version) return r2_fail(e, R2_CONFIG, "r2_restore() takes a version's number, from 1");
    int64_t until = r2_boot_ms() + atomic_load(&r->timeout_ms);
    enum r2_code rc = r2_replica_pull(r, now, e);
    if (rc) return rc;
    do {
        rc = r2_op_start(&op, r, e);
        if (rc) return rc;
        rc = restore(&op, version, now);
        r2_op_end(&op);
    } while (r2_op_again(&op, rc, until));
    if (rc) r2_log_err(r, e);
    return rc;
}
