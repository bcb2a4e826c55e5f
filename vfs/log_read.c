/* log_read.c - reading the log: segments after a base, or after the snapshot. See layout.h.
 *
 * Keys are predictable, so segments are fetched ahead, several at once: one, two, four ... The
 * first one that is not there ends the log, if this replica is fresh; else the snapshot is looked
 * at after it: one that is past the gap means that the segments there were collected. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "layout.h"
#include "log_int.h"
#include "os.h"

void r2_log_key(const char *key, const uint8_t lineage[16], uint64_t version, const char *suffix,
                char out[R2_LOG_KEY])
{
    char text[33];
    r2_lineage_text(lineage, text);
    snprintf(out, R2_LOG_KEY, "%s-log/%.8s/%016" PRIx64 "%s", key, text, version, suffix);
}

void r2_ahead_free(struct r2_ahead *a)
{
    for (uint32_t k = 0; k < a->count; k++)
        r2_os.close(a->at[k].fd);
    a->count = 0;
}

/* ---- fetching ---- */

static enum r2_code unnamed_file(const char *db_path, int *fd, struct r2_err *e)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s-r2-segment-%016" PRIx64, db_path, r2_random64());
    if (n < 0 || (size_t)n >= sizeof path)
        return r2_fail(e, R2_IO, "the path is too long: %s", db_path);
    *fd = r2_os.open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (*fd < 0) return r2_fail_errno(e, errno, "create %s", path);
    r2_os.unlink(path);
    return R2_OK;
}

struct fetched {
    enum r2_code code; /* R2_MISSING: it is not there */
    int fd;
    uint64_t size;
    int64_t modified_ms, signed_ms;
};

static enum r2_code fetch_segment(const struct r2_log *l, struct r2_call *call,
                                  const uint8_t lineage[16], uint64_t version, struct fetched *out)
{
    char key[R2_LOG_KEY];
    struct r2_object *o = malloc(sizeof *o);
    memset(out, 0, sizeof *out);
    out->fd = -1;
    if (!o) return r2_fail(call->err, R2_NOMEM, "out of memory");
    r2_log_key(l->key, lineage, version, ".ltx", key);
    enum r2_code rc = unnamed_file(l->db_path, &out->fd, call->err);
    struct r2_sink sink = {.fd = out->fd};
    if (!rc) rc = l->store->ops->get(l->store, call, key, NULL, UINT64_MAX, &sink, o);
    out->code = rc;
    out->size = o->size;
    out->modified_ms = o->modified_ms;
    out->signed_ms = call->signed_ms;
    free(o);
    if (rc && out->fd >= 0) {
        r2_os.close(out->fd);
        out->fd = -1;
    }
    if (rc != R2_MISSING) return rc;
    r2_err_clear(call->err);
    return R2_OK;
}

struct batch {
    const struct r2_log *l;
    const uint8_t *lineage;
    uint64_t first;
    struct fetched at[R2_AHEAD];
};

static enum r2_code fetch_one(void *ctx, struct r2_call *call, uint64_t index)
{
    struct batch *b = ctx;
    return fetch_segment(b->l, call, b->lineage, b->first + index, &b->at[index]);
}

/* The next `wanted` segments into the (empty) ahead, as far as there are any. *gap: there was one
 * that is not there; *asked_ms: when that was asked. */
static enum r2_code fetch_ahead(struct r2_log *l, const uint8_t lineage[16], uint64_t first,
                                uint32_t wanted, bool *gap, int64_t *asked_ms)
{
    struct r2_ahead *a = l->ahead;
    struct batch *b = calloc(1, sizeof *b);
    if (!b) return r2_fail(l->call->err, R2_NOMEM, "out of memory");
    b->l = l, b->lineage = lineage, b->first = first;
    for (uint32_t k = 0; k < wanted; k++)
        b->at[k].fd = -1;
    enum r2_code rc = wanted == 1
                          ? fetch_one(b, l->call, 0)
                          : r2_store_parallel(l->call, wanted, wanted, fetch_one, b, l->call->err);
    r2_ahead_free(a);
    a->first = first;
    *gap = false;
    for (uint32_t k = 0; k < wanted; k++) {
        if (rc || *gap) { /* what lies behind a gap is of no use */
            if (b->at[k].fd >= 0) r2_os.close(b->at[k].fd);
        } else if (b->at[k].code == R2_MISSING) {
            *gap = true;
            *asked_ms = b->at[k].signed_ms;
        } else {
            a->at[a->count].fd = b->at[k].fd;
            a->at[a->count].size = b->at[k].size;
            a->at[a->count++].modified_ms = b->at[k].modified_ms;
        }
    }
    free(b);
    return rc;
}

/* ---- looking ---- */

bool r2_log_is_fresh(int64_t verified_ms, int64_t signed_ms)
{
    int64_t age = signed_ms - verified_ms;
    return verified_ms && age >= 0 && age < R2_FRESH_MS;
}

enum r2_code r2_log_look(struct r2_log *l, struct r2_remote *out)
{
    enum r2_code rc = r2_layout_object.probe(l->store, l->call, l->key, out);
    if (!rc) l->headed_ms = l->call->signed_ms;
    return rc;
}

bool r2_log_same_lineage(const struct r2_remote *seen, const uint8_t lineage[16])
{
    return seen->exists && seen->has_lineage && seen->layout == R2_LAYOUT_LOG &&
           memcmp(seen->v.lineage, lineage, 16) == 0;
}

/* The segment after `version` is not there, asked at `asked_ms`. Is `version` the newest one? */
enum r2_code r2_log_gap(struct r2_log *l, const uint8_t lineage[16], uint64_t version,
                        int64_t asked_ms, struct r2_remote *seen, bool *newest)
{
    memset(seen, 0, sizeof *seen);
    *newest = r2_log_is_fresh(l->verified_ms, asked_ms);
    if (*newest) {
        l->verified_ms = asked_ms;
        return R2_OK;
    }
    enum r2_code rc = r2_log_look(l, seen);
    if (rc) return rc;
    *newest = r2_log_same_lineage(seen, lineage) && seen->v.version <= version &&
              seen->v.version >= l->snapshot;
    if (!*newest) return R2_OK;
    l->snapshot = seen->v.version;
    l->verified_ms = asked_ms;
    return R2_OK;
}

enum r2_code r2_log_peek(struct r2_log *l, const uint8_t lineage[16], uint32_t k,
                         struct r2_ltx_header *h)
{
    uint8_t head[R2_LTX_HEADER];
    char key[R2_LOG_KEY];
    struct r2_err *e = l->call->err;
    uint64_t size = l->ahead->at[k].size;
    enum r2_code rc = size < sizeof head ? r2_fail(e, R2_CORRUPT, "it has only %llu bytes",
                                                   (unsigned long long)size)
                                         : r2_read_at(l->ahead->at[k].fd, head, sizeof head, 0, e);
    if (!rc) rc = r2_ltx_get_header(head, h, e);
    if (!rc) return R2_OK;
    r2_log_key(l->key, lineage, l->ahead->first + k, ".ltx", key);
    return r2_wrap(e, "segment %s", key);
}

bool r2_log_beyond_damage(struct r2_log *l, const struct r2_version *base, struct r2_remote *out)
{
    struct r2_err why = *l->call->err;
    r2_err_clear(l->call->err);
    bool yes = r2_log_look(l, out) == R2_OK && r2_log_same_lineage(out, base->lineage) &&
               out->v.version > base->version;
    r2_ahead_free(l->ahead);
    if (!yes) *l->call->err = why;
    return yes;
}

static void is_base(const struct r2_version *base, struct r2_remote *out)
{
    memset(out, 0, sizeof *out);
    out->exists = out->numbered = out->has_checksum = out->has_lineage = true;
    out->layout = R2_LAYOUT_LOG;
    out->v = *base;
}

/* After the base stands the end of its lineage: what counts is at KEY. */
static enum r2_code probe_end(struct r2_log *l, const struct r2_version *base, uint64_t nonce,
                              struct r2_remote *out)
{
    r2_ahead_free(l->ahead);
    enum r2_code rc = r2_log_look(l, out);
    if (rc) return rc;
    bool same = r2_log_same_lineage(out, base->lineage);
    out->successor = out->exists && !same;
    if (!same || out->v.version < l->snapshot || out->v.version > base->version) return R2_OK;
    is_base(base, out);
    out->ended = true;
    out->end_nonce = nonce;
    return R2_OK;
}

enum r2_code r2_log_probe(struct r2_log *l, const struct r2_version *base, struct r2_remote *out)
{
    struct r2_ltx_header h;
    int64_t asked_ms = 0;
    bool gap, newest;
    enum r2_code rc = fetch_ahead(l, base->lineage, base->version + 1, 1, &gap, &asked_ms);
    if (rc) return rc;
    if (gap) {
        rc = r2_log_gap(l, base->lineage, base->version, asked_ms, out, &newest);
        if (rc || !newest) return rc;
    } else {
        rc = r2_log_peek(l, base->lineage, 0, &h);
        if (rc == R2_CORRUPT && r2_log_beyond_damage(l, base, out)) return R2_OK;
        if (rc) return rc;
        if (h.salt1 == R2_LOG_END) return probe_end(l, base, h.node_id, out);
    }
    is_base(base, out);
    if (gap) return R2_OK;
    out->by_segments = true;
    out->v.version = base->version + 1;
    out->v.etag[0] = 0;
    r2_recent_prepend(base->recent, out->v.version, h.node_id, out->v.recent);
    return R2_OK;
}

/* ---- following ---- */

static enum r2_code read_file(void *ctx, uint64_t off, void *to, size_t n, struct r2_err *e)
{
    return r2_read_at(*(const int *)ctx, to, n, off, e);
}

static enum r2_code take_header(struct r2_patch *patch, struct r2_version *head, struct r2_err *e)
{
    int64_t at = r2_patch_find(patch, 1);
    memset(head->header, 0, R2_HEADER);
    if (!head->pages) return R2_OK;
    if (at < 0) return r2_fail(e, R2_CORRUPT, "the log's segments do not have page 1");
    uint8_t *page = malloc(head->page_size);
    if (!page) return r2_fail(e, R2_NOMEM, "out of memory");
    enum r2_code rc = r2_patch_read(patch, (uint32_t)at, page, e);
    if (!rc) memcpy(head->header, page, R2_HEADER);
    free(page);
    return rc;
}

/* Pages that it adds are in it: a size alone may be a lie, and a page that nobody has counts as
 * none in the checksum. */
static bool has_new_pages(const struct r2_patch *p, const struct r2_version *before)
{
    uint32_t pgno = p->page_size == before->page_size ? before->pages + 1 : 1;
    uint32_t lock_page = r2_ltx_lock_page(p->page_size);
    while (pgno <= p->pages && (pgno == lock_page || r2_patch_find(p, pgno) >= 0))
        pgno++;
    return pgno > p->pages;
}

/* Take one segment over: the next link of the chain. */
static enum r2_code take_link(struct r2_log *l, uint32_t k, struct r2_patch *patch,
                              struct r2_version *head)
{
    struct r2_ltx_header h;
    struct r2_err *e = l->call->err;
    char key[R2_LOG_KEY], recent[R2_RECENT_BYTES];
    uint64_t post, version = head->version + 1;
    enum r2_code rc =
        r2_patch_decode(patch, read_file, &l->ahead->at[k].fd, l->ahead->at[k].size, &h, &post, e);
    if (!rc && (h.min_txid != version || h.max_txid != version))
        rc = r2_fail(e, R2_CORRUPT, "it holds versions %" PRIu64 " to %" PRIu64, h.min_txid,
                     h.max_txid);
    if (!rc && h.pre != head->checksum)
        rc = r2_fail(e, R2_CORRUPT,
                     "it continues a database with the checksum %016" PRIx64
                     ", and version %" PRIu64 " has %016" PRIx64,
                     h.pre, head->version, head->checksum);
    if (!rc && !has_new_pages(patch, head))
        rc = r2_fail(e, R2_CORRUPT, "it makes the database larger without the pages for that");
    if (rc) {
        r2_log_key(l->key, head->lineage, version, ".ltx", key);
        r2_wrap(e, "segment %s", key);
        if (rc == R2_CORRUPT)
            r2_advise(e, "; nothing local was changed. A replica that is past it repairs this with "
                         "SELECT r2_checkpoint(), or r2_resolve('local') goes on from this one");
        return rc;
    }
    r2_recent_prepend(head->recent, version, h.node_id, recent);
    memcpy(head->recent, recent, sizeof recent);
    head->version = version;
    head->checksum = post;
    head->page_size = h.page_size;
    head->pages = h.commit;
    head->etag[0] = 0;
    l->bytes += l->ahead->at[k].size;
    if (l->ahead->at[k].modified_ms > l->verified_ms) l->verified_ms = l->ahead->at[k].modified_ms;
    if (!l->on_version) return R2_OK;
    rc = take_header(patch, head, e);
    if (!rc) l->on_version(l->ctx, head);
    return rc;
}

/* Take over what was fetched, up to the end of the lineage. */
static enum r2_code take_links(struct r2_log *l, struct r2_patch *patch, struct r2_version *head)
{
    struct r2_ltx_header h;
    enum r2_code rc = R2_OK;
    for (uint32_t k = 0; !rc && !l->ended && k < l->ahead->count; k++) {
        rc = r2_log_peek(l, head->lineage, k, &h);
        l->ended = !rc && h.salt1 == R2_LOG_END;
        if (!rc && !l->ended) rc = take_link(l, k, patch, head);
    }
    return rc;
}

/* The lineage ended after `version`. Has another one begun? If not, that is the newest version. */
static enum r2_code look_beyond_end(struct r2_log *l, const struct r2_version *head,
                                    struct r2_remote *seen, bool *newest)
{
    enum r2_code rc = r2_log_look(l, seen);
    *newest = r2_log_same_lineage(seen, head->lineage) && seen->v.version <= head->version;
    return rc;
}

static enum r2_code follow(struct r2_log *l, const struct r2_version *base, uint64_t upto,
                           struct r2_patch *patch, struct r2_version *head)
{
    struct r2_remote *seen = malloc(sizeof *seen);
    enum r2_code rc = seen ? R2_OK : r2_fail(l->call->err, R2_NOMEM, "out of memory");
    bool gap = false, newest = true;
    int64_t asked_ms = 0;
    *head = *base;
    r2_patch_shape(patch, base->page_size, base->pages);
    if (l->ahead->first != base->version + 1) r2_ahead_free(l->ahead);
    l->ended = false;
    for (uint32_t wanted = 1; !rc && !gap && !l->ended && (!upto || head->version < upto);) {
        uint64_t left = upto ? upto - head->version : R2_AHEAD;
        if (left < wanted) wanted = (uint32_t)left;
        if (!l->ahead->count)
            rc = fetch_ahead(l, base->lineage, head->version + 1, wanted, &gap, &asked_ms);
        if (!rc) rc = take_links(l, patch, head);
        r2_ahead_free(l->ahead);
        if (wanted < R2_AHEAD) wanted *= 2;
    }
    if (!rc && l->ended && !upto)
        rc = look_beyond_end(l, head, seen, &newest);
    else if (!rc && (gap || l->ended) && upto)
        rc = r2_fail(l->call->err, R2_MISSING, "the segment of version %" PRIu64 " is not there",
                     head->version + 1);
    else if (!rc && gap)
        rc = r2_log_gap(l, base->lineage, head->version, asked_ms, seen, &newest);
    if (!rc && !newest)
        rc = r2_fail(l->call->err, R2_PRECONDITION, "the log moved on while it was being read");
    if (!rc && head->version > base->version) rc = take_header(patch, head, l->call->err);
    free(seen);
    return rc;
}

enum r2_code r2_log_follow(struct r2_log *l, const struct r2_version *base, uint64_t upto,
                           struct r2_patch *patch, struct r2_version *head)
{
    enum r2_code rc = follow(l, base, upto, patch, head);
    if (rc != R2_CORRUPT) return rc;
    /* damaged on the way? once more, from the beginning: what was taken over is worth nothing */
    const char *db_path = patch->db_path;
    r2_ahead_free(l->ahead);
    r2_patch_free(patch);
    r2_patch_init(patch, db_path);
    r2_err_clear(l->call->err);
    return follow(l, base, upto, patch, head);
}

/* ---- from the snapshot ---- */

struct beyond {
    uint64_t version; /* of the first segment beyond the end; 0: none */
    size_t prefix;
};

static bool on_key(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    struct beyond *b = ctx;
    const char *name = strlen(key) > b->prefix ? key + b->prefix : "";
    char digits[17];
    (void)size, (void)modified_ms;
    if (strlen(name) != 20 || strcmp(name + 16, ".ltx") != 0) return true;
    memcpy(digits, name, 16);
    digits[16] = 0;
    return !r2_parse_hex64(digits, 16, &b->version);
}

/* A log that goes on after its end has lost a segment. */
static enum r2_code look_for_holes(struct r2_log *l, const struct r2_version *head)
{
    char folder[R2_LOG_KEY], after[R2_LOG_KEY];
    r2_log_key(l->key, head->lineage, head->version, ".ltx", after);
    (void)r2_strcpy(folder, sizeof folder, after);
    char *end = strrchr(folder, '/');
    end[1] = 0;
    struct beyond b = {.prefix = strlen(folder)};
    enum r2_code rc = l->store->ops->list(l->store, l->call, folder, after, on_key, &b);
    if (rc || b.version <= head->version + 1) return rc; /* the next one came just now */
    return r2_fail(l->call->err, R2_CORRUPT,
                   "the log %s has version %" PRIu64 " but not version %" PRIu64
                   ": a segment is lost; a replica that is past it repairs this with SELECT "
                   "r2_checkpoint(), or r2_resolve('local') goes on from this one",
                   folder, b.version, head->version + 1);
}

enum r2_code r2_log_fetch(struct r2_log *l, struct r2_remote *remote, uint64_t upto,
                          struct r2_image *image)
{
    struct r2_patch patch;
    struct r2_version *base = malloc(sizeof *base), *head = malloc(sizeof *head);
    r2_patch_init(&patch, l->db_path);
    enum r2_code rc = base && head
                          ? r2_layout_object.fetch(l->store, l->call, l->key, remote, image)
                          : r2_fail(l->call->err, R2_NOMEM, "out of memory");
    if (!rc) {
        *base = remote->v;
        if (l->snapshot < base->version) l->snapshot = base->version;
        if (l->on_version) l->on_version(l->ctx, base);
        l->bytes = 0;
        l->from_snapshot = true;
        rc = r2_log_follow(l, base, upto, &patch, head);
    }
    if (!rc && head->version > base->version) rc = r2_image_patch(image, &patch, l->call->err);
    if (!rc && r2_image_checksum(image) != head->checksum)
        rc = r2_fail(l->call->err, R2_CORRUPT,
                     "version %" PRIu64 " of %s does not have the checksum of its segment",
                     head->version, l->key);
    if (!rc && !upto) rc = look_for_holes(l, head);
    if (!rc) {
        remote->v = *head;
        remote->v.etag[0] = 0;
        remote->by_segments = false;
    }
    r2_patch_free(&patch);
    free(base);
    free(head);
    return rc;
}
