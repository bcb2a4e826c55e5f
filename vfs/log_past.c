/* log_past.c - an earlier version, rebuilt: the newest whole one at or below it, and the segments
 * after that. See log_list.h.
 *
 * A checkpoint or a collection in between takes away what was just found: then it is looked for
 * anew. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log_int.h"
#include "log_list.h"
#include "os.h"
#include "when.h"

enum { TURNS = 3, SLICE = 512 /* segments for which there is the whole timeout */ };

static void new_deadline(const struct r2_past_in *in)
{
    in->log->call->deadline_ms = r2_boot_ms() + in->timeout_ms;
}

/* ---- what there is ---- */

static enum r2_code look(const struct r2_past_in *in, struct r2_remote *snapshot)
{
    struct r2_err *e = in->log->call->err;
    new_deadline(in);
    enum r2_code rc = r2_log_look(in->log, snapshot);
    if (rc) return r2_wrap(e, "cannot ask %s for its version", in->url);
    if (snapshot->exists) return R2_OK;
    return r2_fail(e, R2_REFUSED, "there is no database at %s, so it has no versions", in->url);
}

/* Last-Modified comes in whole seconds; a listing has the rest. */
static bool on_snapshot(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    (void)key, (void)size;
    *(int64_t *)ctx = modified_ms;
    return false;
}

static enum r2_code when_exactly(const struct r2_past_in *in, struct r2_remote *snapshot)
{
    struct r2_log *l = in->log;
    int64_t listed = 0;
    new_deadline(in);
    enum r2_code rc = l->store->ops->list(l->store, l->call, l->key, NULL, on_snapshot, &listed);
    if (rc) return r2_wrap(l->call->err, "cannot list %s", l->key);
    bool same = listed / 1000 == snapshot->modified_ms / 1000; /* not replaced in between */
    snapshot->modified_ms = same ? listed : snapshot->modified_ms / 1000 * 1000 + 999;
    return R2_OK;
}

static enum r2_code walk(const struct r2_past_in *in, const struct r2_remote *snapshot,
                         uint64_t after, r2_past_row_fn fn, void *ctx)
{
    struct r2_past past;
    r2_past_begin(&past, snapshot->v.version, snapshot->size, snapshot->modified_ms, fn, ctx);
    enum r2_code rc = R2_OK;
    new_deadline(in);
    if (snapshot->has_lineage)
        rc = r2_log_list(in->log, snapshot->v.lineage, after, r2_past_add, &past);
    if (!rc) r2_past_end(&past);
    return rc;
}

enum r2_code r2_past_rows(const struct r2_past_in *in, struct r2_remote *snapshot,
                          r2_past_row_fn fn, void *ctx)
{
    enum r2_code rc = look(in, snapshot);
    if (!rc) rc = when_exactly(in, snapshot);
    return rc ? rc : walk(in, snapshot, 0, fn, ctx);
}

/* ---- why not ---- */

static enum r2_code none(const struct r2_past_in *in, const struct r2_remote *snapshot,
                         const struct r2_choice *c)
{
    struct r2_err *e = in->log->call->err;
    char at[R2_WHEN_BYTES], oldest[R2_WHEN_BYTES];
    uint64_t v = c->want.version;
    bool object = snapshot->layout != R2_LAYOUT_LOG;
    if (v > c->newest)
        return r2_fail(e, R2_REFUSED,
                       "there is no version %" PRIu64 " of %s yet: the newest is %" PRIu64, v,
                       in->url, c->newest);
    if (v && object)
        return r2_fail(e, R2_REFUSED,
                       "version %" PRIu64
                       " of %s is not kept: in the object layout every version replaces the one "
                       "before it, and the newest is %" PRIu64,
                       v, in->url, c->newest);
    if (v && v < c->oldest)
        return r2_fail(e, R2_REFUSED,
                       "version %" PRIu64 " of %s is not kept any more: the oldest is %" PRIu64
                       " (retention %" PRId64
                       " s; R2VFS_RETENTION says how long versions are kept from now on)",
                       v, in->url, c->oldest, in->retention_s);
    if (c->lost && !object)
        return r2_fail(e, R2_CORRUPT,
                       "%s cannot be shown as it was then: the segment of version %" PRIu64
                       " is missing",
                       in->url, c->lost);
    r2_when_text(c->want.at_ms, at);
    r2_when_text(c->oldest_ms, oldest);
    if (object)
        return r2_fail(e, R2_REFUSED,
                       "what %s was at %s is not kept: in the object layout every version replaces "
                       "the one before it, and version %" PRIu64 " is of %s",
                       in->url, at, c->oldest, oldest);
    return r2_fail(e, R2_REFUSED,
                   "nothing of %s is kept that is as old as %s: the oldest version, %" PRIu64
                   ", is of %s (retention %" PRId64
                   " s; R2VFS_RETENTION says how long versions are kept from now on)",
                   in->url, at, c->oldest, oldest, in->retention_s);
}

/* ---- building ---- */

/* The base's object, and that it is what its name says. */
static enum r2_code look_at_base(const struct r2_past_in *in, const struct r2_remote *snapshot,
                                 const char *key, uint64_t version, struct r2_remote *out)
{
    struct r2_log *l = in->log;
    enum r2_code rc = r2_object_probe_kept(l->store, l->call, key, out);
    if (rc == R2_MISSING) return r2_fail(l->call->err, rc, "%s is not there", key);
    if (rc) return rc;
    bool other = out->has_lineage && memcmp(out->v.lineage, snapshot->v.lineage, 16) != 0;
    if (other || out->v.version != version)
        return r2_fail(l->call->err, R2_CORRUPT,
                       "%s holds version %" PRIu64 "%s, which is not what its name says", key,
                       out->v.version, other ? " of another lineage" : "");
    memcpy(out->v.lineage, snapshot->v.lineage, 16);
    out->has_lineage = true;
    return R2_OK;
}

/* The next segments, at most `version`, over what image holds; remote->v follows. */
static enum r2_code follow_slice(const struct r2_past_in *in, uint64_t version,
                                 struct r2_image *image, struct r2_version *base,
                                 struct r2_remote *remote)
{
    struct r2_log *l = in->log;
    struct r2_patch patch;
    uint64_t left = version - remote->v.version;
    *base = remote->v;
    new_deadline(in);
    r2_patch_init(&patch, l->db_path);
    enum r2_code rc =
        r2_log_follow(l, base, base->version + (left < SLICE ? left : SLICE), &patch, &remote->v);
    if (rc == R2_MISSING && l->ended)
        rc = r2_fail(l->call->err, R2_REFUSED,
                     "version %" PRIu64 " of %s only ends the log: its content is version %" PRIu64
                     "'s",
                     version, in->url, version - 1);
    if (!rc) rc = r2_image_patch(image, &patch, l->call->err);
    r2_patch_free(&patch);
    return rc;
}

/* Segments up to `version`. */
static enum r2_code follow(const struct r2_past_in *in, uint64_t version, struct r2_image *image,
                           struct r2_remote *remote)
{
    struct r2_err *e = in->log->call->err;
    enum r2_code rc = R2_OK;
    bool any = remote->v.version < version;
    struct r2_version *base = malloc(sizeof *base);
    if (!base) return r2_fail(e, R2_NOMEM, "out of memory");
    while (!rc && remote->v.version < version)
        rc = follow_slice(in, version, image, base, remote);
    if (!rc && any && r2_image_checksum(image) != remote->v.checksum)
        rc = r2_fail(e, R2_CORRUPT,
                     "version %" PRIu64 " of %s does not have the checksum of its segment", version,
                     in->url);
    if (any) remote->v.etag[0] = 0;
    free(base);
    return rc;
}

static enum r2_code try_image(const struct r2_past_in *in, const struct r2_want *want,
                              struct r2_image *image, struct r2_remote *out)
{
    struct r2_log *l = in->log;
    struct r2_choice c;
    char key[R2_LOG_KEY];
    struct r2_remote *snapshot = malloc(sizeof *snapshot);
    if (!snapshot) return r2_fail(l->call->err, R2_NOMEM, "out of memory");
    enum r2_code rc = look(in, snapshot);
    if (!rc && !want->version) rc = when_exactly(in, snapshot);
    if (!rc) {
        r2_choice_begin(&c, want);
        bool above = want->version >= snapshot->v.version;
        struct r2_remote alone = *snapshot;
        alone.has_lineage = alone.has_lineage && want->version != snapshot->v.version;
        rc = walk(in, &alone, above ? snapshot->v.version : 0, r2_choice_row, &c);
    }
    if (!rc && !c.version) rc = none(in, snapshot, &c);
    if (!rc) {
        new_deadline(in);
        if (c.from_snapshot) {
            (void)snprintf(key, sizeof key, "%s", l->key);
            *out = *snapshot;
        } else {
            r2_log_key(l->key, snapshot->v.lineage, c.base, ".db", key);
            rc = look_at_base(in, snapshot, key, c.base, out);
        }
    }
    if (!rc) rc = r2_layout_object.fetch(l->store, l->call, key, out, image);
    if (!rc) rc = follow(in, c.version, image, out);
    out->layout = snapshot->layout;
    out->by_segments = false;
    free(snapshot);
    return rc;
}

enum r2_code r2_past_image(const struct r2_past_in *in, const struct r2_want *want,
                           struct r2_image *image, struct r2_remote *out)
{
    enum r2_code rc = R2_OK;
    for (int turn = 0; turn < TURNS; turn++) {
        r2_err_clear(in->log->call->err);
        rc = try_image(in, want, image, out);
        r2_ahead_free(in->log->ahead);
        if (rc != R2_MISSING && rc != R2_PRECONDITION) break;
    }
    return rc;
}

/* ---- one segment's header ---- */

enum r2_code r2_past_header(const struct r2_past_in *in, struct r2_call *call,
                            const uint8_t lineage[16], uint64_t version, struct r2_ltx_header *out)
{
    struct r2_log *l = in->log;
    char key[R2_LOG_KEY], suffix[48];
    uint8_t head[R2_LTX_HEADER];
    struct r2_image file;
    struct r2_object *o = malloc(sizeof *o);
    if (!o) return r2_fail(call->err, R2_NOMEM, "out of memory");
    r2_image_init(&file);
    snprintf(suffix, sizeof suffix, "-r2-segment-%016" PRIx64, r2_random64());
    r2_log_key(l->key, lineage, version, ".ltx", key);
    enum r2_code rc = r2_image_create(&file, l->db_path, suffix, false, call->err);
    struct r2_sink sink = {.fd = file.fd};
    if (!rc) rc = l->store->ops->get(l->store, call, key, NULL, UINT64_MAX, &sink, o);
    if (!rc) {
        rc = o->size < sizeof head ? r2_fail(call->err, R2_CORRUPT, "it has only %llu bytes",
                                             (unsigned long long)o->size)
                                   : r2_read_at(file.fd, head, sizeof head, 0, call->err);
        if (!rc) rc = r2_ltx_get_header(head, out, call->err);
        if (rc) r2_wrap(call->err, "segment %s", key);
    }
    r2_image_free(&file);
    free(o);
    return rc;
}
