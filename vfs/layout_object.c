/* layout_object.c - every version is the whole file, replaced with If-Match. See layout.h.
 *
 *   KEY    a plain SQLite file
 *     x-amz-meta-db-version    decimal; the contract that other programs read
 *     x-amz-meta-db-lineage    32 hex digits
 *     x-amz-meta-db-layout     "object"
 *     x-amz-meta-db-checksum   16 hex digits: LTX rolling checksum of the file
 *     x-amz-meta-db-recent     see recent.c; checksum and recent count only when its first entry is
 *                              db-version: a program that copies our metadata and puts other bytes
 *                              and a higher db-version there is a foreign writer */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "buf.h"
#include "layout.h"
#include "os.h"

enum { BULK = 8 << 20, LOOK_MS = 10000 };

const char *r2_layout_name(enum r2_layout_kind kind)
{
    return kind == R2_LAYOUT_LOG ? "log" : "object";
}

static enum r2_code bad_meta(struct r2_err *e, const char *key, const char *name, const char *value)
{
    char shown[41]; /* whatever it is, the sentence is text */
    (void)r2_strcpy(shown, sizeof shown, value);
    for (char *c = shown; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?';
    return r2_fail(e, R2_CORRUPT,
                   "the metadata %s of %s is \"%s\", which r2vfs does not understand; repair the "
                   "object's metadata, or move the object away",
                   name, key, shown);
}

static enum r2_code read_checksum(const struct r2_object *o, const char *key, struct r2_remote *out,
                                  struct r2_err *e)
{
    char value[R2_META_BYTES + 1];
    if (!r2_meta_get(&o->meta, "db-checksum", value, sizeof value)) return R2_OK;
    if (!r2_parse_hex64(value, 16, &out->v.checksum)) return bad_meta(e, key, "db-checksum", value);
    out->has_checksum = true;
    return R2_OK;
}

static enum r2_code read_meta(const struct r2_object *o, const char *key, struct r2_remote *out,
                              struct r2_err *e)
{
    char value[R2_META_BYTES + 1]; /* room for any: too long is not "none" */
    out->v.version = 1;            /* a plain file that somebody put there */
    if (r2_meta_get(&o->meta, "db-version", value, sizeof value)) {
        if (!r2_parse_u64(value, INT64_MAX, &out->v.version) || out->v.version == 0)
            return bad_meta(e, key, "db-version", value);
        out->numbered = true;
    }
    bool has_layout = r2_meta_get(&o->meta, "db-layout", value, sizeof value);
    if (has_layout) {
        if (strcmp(value, r2_layout_name(R2_LAYOUT_LOG)) == 0)
            out->layout = R2_LAYOUT_LOG;
        else if (strcmp(value, r2_layout_name(R2_LAYOUT_OBJECT)) != 0)
            return bad_meta(e, key, "db-layout", value);
    }
    if (r2_meta_get(&o->meta, "db-lineage", value, sizeof value)) {
        if (!r2_lineage_parse(value, out->v.lineage)) return bad_meta(e, key, "db-lineage", value);
        out->has_lineage = true;
    }
    bool recent = r2_meta_get(&o->meta, "db-recent", value, sizeof value);
    uint64_t first = recent ? r2_recent_first(value) : 0;
    if (first && first < out->v.version) (void)r2_strcpy(out->older, sizeof out->older, value);
    if (recent && r2_recent_valid(value, out->v.version)) {
        (void)r2_strcpy(out->v.recent, sizeof out->v.recent, value);
        enum r2_code rc = read_checksum(o, key, out, e);
        if (rc) return rc;
    }
    /* nobody but r2vfs writes snapshots of a log */
    bool whole = out->has_lineage && out->numbered && out->has_checksum;
    out->no_layout = out->has_lineage && !has_layout;
    if (out->layout == R2_LAYOUT_LOG && !whole)
        return r2_fail(e, R2_CORRUPT,
                       "the metadata of %s do not fit together (db-version, db-lineage, db-layout, "
                       "db-checksum, db-recent): put back those that it was written with",
                       key);
    return R2_OK;
}

static enum r2_code take_object(const struct r2_object *o, const char *key, struct r2_remote *out,
                                struct r2_err *e)
{
    memset(out, 0, sizeof *out);
    out->exists = true;
    out->size = o->size;
    out->modified_ms = o->modified_ms;
    (void)r2_strcpy(out->v.etag, sizeof out->v.etag, o->etag);
    return read_meta(o, key, out, e);
}

static enum r2_code ask(struct r2_store *store, struct r2_call *call, const char *key,
                        struct r2_object *o, struct r2_remote *out)
{
    enum r2_code rc = store->ops->head(store, call, key, o);
    memset(out, 0, sizeof *out);
    return rc ? rc : take_object(o, key, out, call->err);
}

static enum r2_code probe(struct r2_store *store, struct r2_call *call, const char *key,
                          struct r2_remote *out)
{
    struct r2_object o;
    enum r2_code rc = ask(store, call, key, &o, out);
    if (rc != R2_MISSING) return rc;
    r2_err_clear(call->err);
    return R2_OK;
}

enum r2_code r2_object_probe_kept(struct r2_store *store, struct r2_call *call, const char *key,
                                  struct r2_remote *out)
{
    struct r2_object o;
    enum r2_code rc = ask(store, call, key, &o, out);
    return rc ? rc : read_checksum(&o, key, out, call->err);
}

static enum r2_code fetch(struct r2_store *store, struct r2_call *call, const char *key,
                          struct r2_remote *remote, struct r2_image *image)
{
    struct r2_object o;
    struct r2_sink sink = {.fd = image->fd};
    enum r2_code rc = R2_OK;
    for (int turn = 0; turn < 2; turn++) {
        r2_err_clear(call->err);
        if (r2_os.ftruncate(image->fd, 0) != 0)
            return r2_fail(call->err, R2_IO, "cannot empty the download file");
        rc = store->ops->get(store, call, key, remote->v.etag, remote->size, &sink, &o);
        if (rc) return rc;
        rc = r2_image_adopt(image, o.size, call->err);
        if (!rc && remote->has_checksum && r2_image_checksum(image) != remote->v.checksum)
            rc = r2_fail(call->err, R2_CORRUPT,
                         "its bytes do not have the checksum %016" PRIx64 " that its writer gave",
                         remote->v.checksum);
        if (rc != R2_CORRUPT) break; /* damaged on the way? once more */
    }
    if (rc) {
        r2_wrap(call->err, "object %s, version %" PRIu64, key, remote->v.version);
        if (rc == R2_CORRUPT)
            r2_advise(call->err,
                      "; nothing local was changed. Name another object if this one is not "
                      "yours; else put a good copy there, or make a replica's content "
                      "the newest with r2_resolve('local')");
        return rc;
    }
    remote->v.checksum = r2_image_checksum(image);
    remote->v.page_size = image->page_size;
    remote->v.pages = image->pages;
    memset(remote->v.header, 0, R2_HEADER);
    if (image->pages) memcpy(remote->v.header, image->page1, R2_HEADER);
    return R2_OK;
}

static bool write_meta(const struct r2_version *v, enum r2_layout_kind layout, struct r2_meta *m)
{
    char text[64];
    r2_meta_clear(m);
    snprintf(text, sizeof text, "%" PRIu64, v->version);
    bool ok = r2_meta_add(m, "db-version", text);
    r2_lineage_text(v->lineage, text);
    ok = ok && r2_meta_add(m, "db-lineage", text) &&
         r2_meta_add(m, "db-layout", r2_layout_name(layout));
    snprintf(text, sizeof text, "%016" PRIx64, v->checksum);
    return ok && r2_meta_add(m, "db-checksum", text) && r2_meta_add(m, "db-recent", v->recent);
}

/* After a 412 or a lost answer: whose version stands there now? Looks until the deadline. */
static enum r2_code look(struct r2_store *store, struct r2_call *call, const char *key,
                         const struct r2_pending *pending, struct r2_remote *seen,
                         enum r2_maker *maker)
{
    uint32_t which;
    enum r2_code rc = probe(store, call, key, seen);
    if (rc) return r2_wrap(call->err, "look what became of version %" PRIu64, pending->v.version);
    *maker = r2_layout_maker(seen, pending, &which);
    /* an object that was deleted meanwhile is no birth that we may still hope for */
    if (*maker == R2_MAKER_NOBODY && !seen->exists && pending->over_etag[0])
        *maker = R2_MAKER_OTHER;
    return R2_OK;
}

static enum r2_code push(struct r2_store *store, struct r2_call *call, const char *key,
                         const struct r2_push *p, struct r2_remote *seen, enum r2_maker *maker)
{
    struct r2_meta meta;
    struct r2_object o = {.size = 0};
    const struct r2_pending *n = p->pending;
    struct r2_put put = {.key = key,
                         .body = {.fd = p->image->fd, .size = p->size},
                         .when = n->over_etag[0] ? R2_PUT_IF_MATCH : R2_PUT_IF_ABSENT,
                         .etag = n->over_etag,
                         .meta = &meta,
                         .reuse = n->over_etag[0] ? p->reuse : NULL,
                         .content_type = "application/vnd.sqlite3"};
    bool lost_answer = n->doubt;
    int64_t until = call->deadline_ms, budget = until - r2_boot_ms();
    memset(seen, 0, sizeof *seen);
    if (!write_meta(&n->v, p->layout, &meta))
        return r2_fail(call->err, R2_IO, "metadata over R2's limit");
    for (int64_t pause = 100;; pause = pause < 2000 ? pause * 2 : pause) {
        r2_err_clear(call->err);
        enum r2_code rc = store->ops->put(store, call, &put, &o);
        if (rc == R2_OK) {
            seen->exists = seen->numbered = seen->has_checksum = seen->has_lineage = true;
            seen->layout = p->layout;
            seen->v = n->v;
            (void)r2_strcpy(seen->v.etag, sizeof seen->v.etag, o.etag);
            *maker = R2_MAKER_LATEST;
            return R2_OK;
        }
        if (rc == R2_UNKNOWN) lost_answer = true;
        /* a long upload may have used up the time: there is always some left to look */
        if (p->size > BULK && call->deadline_ms < r2_boot_ms() + LOOK_MS)
            call->deadline_ms = r2_boot_ms() + (budget < LOOK_MS ? budget : LOOK_MS);
        if (rc != R2_UNKNOWN && rc != R2_PRECONDITION) {
            if (!lost_answer) return rc;
            break; /* this attempt did nothing, but an earlier one may have */
        }
        rc = look(store, call, key, n, seen, maker);
        if (rc) break; /* no answer to the question either */
        if (*maker == R2_MAKER_LATEST) {
            if (seen->v.version != n->v.version) seen->v.etag[0] = 0; /* hidden by a newer one */
            return R2_OK;
        }
        if (*maker != R2_MAKER_NOBODY)
            return r2_fail(call->err, R2_CONFLICT,
                           "the remote is at version %" PRIu64 " of another writer",
                           seen->v.version);
        if (r2_boot_ms() + pause >= until) break;
        r2_sleep_ms(pause); /* the same bytes again: they cannot land twice */
    }
    if (!call->err->text[0]) r2_fail(call->err, R2_UNKNOWN, "no attempt was answered in time");
    return call->err->code = R2_UNKNOWN;
}

const struct r2_layout_ops r2_layout_object = {
    .name = "object", .probe = probe, .fetch = fetch, .push = push};
