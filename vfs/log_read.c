/* log_read.c - reading the log: segments after a base, or after the snapshot. See layout.h.
 *
 * The first segment that is not there ends the log, if this replica is fresh; else the snapshot is
 * looked at after it: one that is past the gap means that the segments there were collected. Who is
 * far behind looks at the snapshot on the way, too: it may be less than the segments up to it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "layout.h"
#include "log_int.h"
#include "os.h"

enum {
    REQUEST_BYTES = 64 << 10, /* what a request, of many side by side, takes as long as */
    LISTED = 1000             /* one page of a listing */
};

void r2_log_key(const char *key, const uint8_t lineage[16], uint64_t version, const char *suffix,
                char out[R2_LOG_KEY])
{
    char text[33];
    r2_lineage_text(lineage, text);
    snprintf(out, R2_LOG_KEY, "%s-log/%.8s/%016" PRIx64 "%s", key, text, version, suffix);
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
                        uint64_t checksum, int64_t asked_ms, struct r2_remote *seen, bool *newest)
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
    /* that very version, and it is another: a segment that was collected was created anew */
    if (checksum && seen->v.version == version && seen->v.checksum != checksum) *newest = false;
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
    struct r2_gap gap;
    bool newest;
    enum r2_code rc = r2_ahead_fetch(l, base->lineage, base->version + 1, 1, false, &gap);
    if (rc) return rc;
    if (gap.found) {
        rc = r2_log_gap(l, base->lineage, base->version, 0, gap.asked_ms, out, &newest);
        if (rc || !newest) return rc;
    } else {
        rc = r2_log_peek(l, base->lineage, 0, &h);
        if (rc == R2_CORRUPT && r2_log_beyond_damage(l, base, out)) return R2_OK;
        if (rc) return rc;
        if (h.salt1 == R2_LOG_END) return probe_end(l, base, h.node_id, out);
    }
    is_base(base, out);
    if (gap.found) return R2_OK;
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

enum r2_code r2_log_check(struct r2_log *l, uint32_t k)
{
    struct r2_patch scratch;
    struct r2_ltx_header h;
    struct r2_segment *s = &l->ahead->at[k];
    uint64_t post;
    r2_patch_init(&scratch, l->db_path);
    enum r2_code rc =
        r2_patch_decode(&scratch, read_file, &s->fd, s->size, &h, &post, l->call->err);
    r2_patch_free(&scratch);
    return rc;
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

/* A segment says what was so when it was created. Whoever was not fresh then may have met one that
 * was collected and created anew: for him it says nothing, and he asks for the snapshot at the end.
 */
static void verify_by(struct r2_log *l, const struct r2_segment *s)
{
    if (!r2_log_is_fresh(l->verified_ms, s->signed_ms))
        l->verified_ms = 0;
    else if (s->modified_ms > l->verified_ms)
        l->verified_ms = s->modified_ms;
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
    verify_by(l, &l->ahead->at[k]);
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

struct walk {
    struct r2_log *l;
    struct r2_patch *patch;
    struct r2_version *head;
};

static enum r2_code take_next(void *ctx)
{
    struct walk *w = ctx;
    return take_links(w->l, w->patch, w->head);
}

/* Is what stands at KEY less than the segments up to it? A request counts as the bytes that come in
 * the meantime; the snapshot is some questions more, one after the other. */
static bool is_shorter(const struct r2_log *l, const struct r2_version *base,
                       const struct r2_version *head)
{
    const struct r2_remote *s = l->shortcut;
    if (!r2_log_same_lineage(s, base->lineage) || s->v.version < l->snapshot ||
        s->v.version <= head->version)
        return false;
    uint64_t skipped = s->v.version - head->version, so_far = head->version - base->version;
    if (skipped > UINT32_MAX) skipped = UINT32_MAX;
    uint64_t each = REQUEST_BYTES + (so_far ? l->bytes / so_far : 0);
    return skipped > R2_AHEAD && (skipped - R2_AHEAD) * each > s->size;
}

/* Fetch and take over what follows *head. The first is there already if a probe found it; then two
 * and some more, for who is not far behind; then as many as can be had. */
static enum r2_code walk(struct r2_log *l, const struct r2_version *base, uint64_t upto,
                         struct r2_patch *patch, struct r2_version *head, struct r2_gap *gap)
{
    struct walk w = {l, patch, head};
    uint64_t sure = l->sure > upto ? l->sure : upto;
    bool hint = l->shortcut && !upto && !l->on_version;
    enum r2_code rc = R2_OK;
    for (uint32_t want = 1; !rc && !gap->found && !l->ended && (!upto || head->version < upto);) {
        uint64_t known = sure > head->version ? sure - head->version : 0;
        uint64_t left = upto ? upto - head->version : UINT64_MAX / 2, n = known + 1;
        if (n < want) n = want;
        if (n > left) n = left;
        if (!l->ahead->count && n > R2_AHEAD_FEW) {
            l->shorter = hint && want > R2_AHEAD_FEW && is_shorter(l, base, head);
            if (l->shorter) return r2_fail(l->call->err, R2_PRECONDITION, "the snapshot is nearer");
            if (hint && want > R2_AHEAD_FEW && r2_log_same_lineage(l->shortcut, base->lineage))
                sure = l->shortcut->v.version;
            return r2_ahead_stream(l, base->lineage, head->version + 1, left, sure, take_next, &w,
                                   gap);
        }
        if (!l->ahead->count)
            rc = r2_ahead_fetch(l, base->lineage, head->version + 1, (uint32_t)n,
                                hint && want == R2_AHEAD_FEW, gap);
        if (!rc) rc = take_next(&w);
        r2_ahead_free(l->ahead);
        want = want == 1 ? 2 : want == 2 ? R2_AHEAD_FEW : R2_AHEAD;
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
    struct r2_gap gap = {.found = false};
    bool newest = true;
    *head = *base;
    r2_patch_shape(patch, base->page_size, base->pages);
    if (l->ahead->first != base->version + 1) r2_ahead_free(l->ahead);
    l->ended = l->shorter = false;
    if (!rc) rc = walk(l, base, upto, patch, head, &gap);
    if (!rc && l->ended && !upto)
        rc = look_beyond_end(l, head, seen, &newest);
    else if (!rc && (gap.found || l->ended) && upto)
        rc = r2_fail(l->call->err, R2_MISSING, "the segment of version %" PRIu64 " is not there",
                     head->version + 1);
    else if (!rc && gap.found)
        rc = r2_log_gap(l, base->lineage, head->version, head->checksum, gap.asked_ms, seen,
                        &newest);
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

/* The segments after a version, as a listing has them. */
struct listed {
    size_t prefix;
    uint64_t from, last; /* they follow each other up to `last` */
    uint64_t beyond;     /* the first one that does not; 0: none */
};

static bool on_key(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    struct listed *b = ctx;
    const char *name = strlen(key) > b->prefix ? key + b->prefix : "";
    char digits[17];
    uint64_t version;
    (void)size, (void)modified_ms;
    if (strlen(name) != 20 || strcmp(name + 16, ".ltx") != 0) return true;
    memcpy(digits, name, 16);
    digits[16] = 0;
    if (!r2_parse_hex64(digits, 16, &version)) return true;
    if (version == b->last + 1)
        b->last = version;
    else
        b->beyond = version;
    return !b->beyond && b->last - b->from < LISTED;
}

static enum r2_code list_after(struct r2_log *l, struct r2_call *call, const uint8_t lineage[16],
                               uint64_t version, struct listed *out)
{
    char folder[R2_LOG_KEY], after[R2_LOG_KEY];
    r2_log_key(l->key, lineage, version, ".ltx", after);
    (void)r2_strcpy(folder, sizeof folder, after);
    strrchr(folder, '/')[1] = 0;
    *out = (struct listed){.prefix = strlen(folder), .from = version, .last = version};
    return l->store->ops->list(l->store, call, folder, after, on_key, out);
}

/* The snapshot, and beside it the names of what follows it. */
struct start {
    struct r2_log *l;
    struct r2_remote *remote;
    struct r2_image *image;
    struct listed *listed;
};

static enum r2_code begin(void *ctx, struct r2_call *call, uint64_t index)
{
    struct start *s = ctx;
    struct r2_log *l = s->l;
    if (index == 0) return r2_layout_object.fetch(l->store, call, l->key, s->remote, s->image);
    return list_after(l, call, s->remote->v.lineage, s->remote->v.version, s->listed);
}

/* A log that goes on after its end has lost a segment. */
static enum r2_code look_for_holes(struct r2_log *l, const struct r2_version *head)
{
    struct listed now;
    char key[R2_LOG_KEY];
    enum r2_code rc = list_after(l, l->call, head->lineage, head->version, &now);
    if (rc || !now.beyond || now.last > head->version) return rc; /* the next one came just now */
    r2_log_key(l->key, head->lineage, head->version, "", key);
    strrchr(key, '/')[1] = 0;
    return r2_fail(l->call->err, R2_CORRUPT,
                   "the log %s has version %" PRIu64 " but not version %" PRIu64
                   ": a segment is lost; a replica that is past it repairs this with SELECT "
                   "r2_checkpoint(), or r2_resolve('local') goes on from this one",
                   key, now.beyond, head->version + 1);
}

enum r2_code r2_log_fetch(struct r2_log *l, struct r2_remote *remote, uint64_t upto,
                          struct r2_image *image)
{
    struct r2_patch patch;
    struct listed listed = {.last = 0};
    struct start start = {l, remote, image, &listed};
    struct r2_version *base = malloc(sizeof *base), *head = malloc(sizeof *head);
    r2_patch_init(&patch, l->db_path);
    enum r2_code rc = base && head
                          ? r2_store_parallel(l->call, 2, upto ? 1 : 2, begin, &start, l->call->err)
                          : r2_fail(l->call->err, R2_NOMEM, "out of memory");
    if (!rc) {
        *base = remote->v;
        if (l->snapshot < base->version) l->snapshot = base->version;
        if (l->on_version) l->on_version(l->ctx, base);
        l->bytes = 0;
        l->from_snapshot = true;
        l->sure = listed.last;
        rc = r2_log_follow(l, base, upto, &patch, head);
        l->sure = 0;
    }
    if (!rc && l->changed && base->page_size == head->page_size) {
        *l->changed = r2_changed_new(head->page_size, head->pages);
        if (*l->changed) r2_patch_mark(&patch, head->pages, *l->changed);
    }
    if (!rc && head->version > base->version) rc = r2_image_patch(image, &patch, l->call->err);
    if (!rc && r2_image_checksum(image) != head->checksum)
        rc = r2_fail(l->call->err, R2_CORRUPT,
                     "version %" PRIu64 " of %s does not have the checksum of its segment",
                     head->version, l->key);
    if (!rc && (listed.beyond || listed.last > head->version)) rc = look_for_holes(l, head);
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
