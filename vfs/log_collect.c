/* log_collect.c - bases, and what nobody needs any more (DESIGN section 3, "Collecting old
 * segments").
 *
 *   a segment goes  at or below the snapshot as just read, at or below the oldest base that stays,
 * and older than the retention plus 30 minutes: with the freshness of writers (30 minutes,
 * layout_log.c) nobody can create its key again a base goes     when a later one is itself older
 * than the retention a base is made  of the snapshot before it is replaced, at most once per
 * retention
 *
 * Ages are Last-Modified against the signing time of the listing. Bases go first, the oldest first:
 * cut anywhere, what stays begins with a base that all later segments follow. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "layout.h"
#include "log_list.h"

enum { AT_ONCE = 16 };
#define MARGIN_MS     ((int64_t)30 * 60 * 1000)
#define STAND_BACK_MS ((int64_t)10 * 60 * 1000) /* a decision is not acted on later than this */

/* ---- the decision ---- */

static bool older(int64_t modified_ms, int64_t signed_ms, int64_t than_ms)
{
    return modified_ms > 0 && modified_ms < signed_ms && signed_ms - modified_ms > than_ms;
}

bool r2_collect_add(struct r2_collect *c, bool base, uint64_t version, int64_t modified_ms)
{
    if (version > c->snapshot) return false;
    if (base) {
        if (c->bases == R2_COLLECT_BASES) return true; /* those above it stay for now */
        c->base[c->bases].version = version;
        c->base[c->bases].modified_ms = modified_ms;
        c->base[c->bases++].drop = false;
        return true;
    }
    /* what comes after a young segment was made after it */
    if (!older(modified_ms, c->signed_ms, c->retention_ms)) return false;
    if (older(modified_ms, c->signed_ms, c->retention_ms + MARGIN_MS) &&
        c->segments < R2_COLLECT_MAX)
        c->segment[c->segments++] = version;
    return true;
}

void r2_collect_decide(struct r2_collect *c)
{
    bool later = false;
    uint64_t oldest = UINT64_MAX;
    for (uint32_t k = c->bases; k-- > 0;) {
        c->base[k].drop = later;
        if (!later) oldest = c->base[k].version;
        later = later || older(c->base[k].modified_ms, c->signed_ms, c->retention_ms);
    }
    uint32_t n = 0;
    for (uint32_t k = 0; k < c->segments; k++)
        if (c->segment[k] <= oldest) c->segment[n++] = c->segment[k];
    c->segments = n;
}

/* ---- acting on it ---- */

struct listing {
    struct r2_collect *c;
    const struct r2_call *call;
};

static bool on_entry(void *ctx, const struct r2_log_entry *entry)
{
    const struct listing *g = ctx;
    g->c->signed_ms = g->call->signed_ms;
    return r2_collect_add(g->c, entry->kind == R2_LOG_BASE, entry->version, entry->modified_ms);
}

struct removal {
    const struct r2_log *l;
    const uint8_t *lineage;
    const struct r2_collect *c;
};

static enum r2_code remove_one(const struct r2_log *l, struct r2_call *call,
                               const uint8_t lineage[16], uint64_t version, const char *suffix)
{
    char key[R2_LOG_KEY];
    r2_log_key(l->key, lineage, version, suffix, key);
    enum r2_code rc = l->store->ops->del(l->store, call, key);
    if (rc != R2_MISSING) return rc; /* somebody else did it */
    r2_err_clear(call->err);
    return R2_OK;
}

static enum r2_code remove_segment(void *ctx, struct r2_call *call, uint64_t index)
{
    const struct removal *r = ctx;
    return remove_one(r->l, call, r->lineage, r->c->segment[index], ".ltx");
}

static enum r2_code remove_all(struct r2_log *l, const uint8_t lineage[16],
                               const struct r2_collect *c, uint32_t *deleted)
{
    struct removal r = {.l = l, .lineage = lineage, .c = c};
    enum r2_code rc = R2_OK;
    l->call->fresh_until_ms = c->signed_ms + STAND_BACK_MS;
    for (uint32_t k = 0; !rc && k < c->bases; k++) {
        if (!c->base[k].drop) continue;
        rc = remove_one(l, l->call, lineage, c->base[k].version, ".db");
        if (!rc) ++*deleted;
    }
    if (!rc && c->segments)
        rc = r2_store_parallel(l->call, AT_ONCE, c->segments, remove_segment, &r, l->call->err);
    if (!rc) *deleted += c->segments;
    l->call->fresh_until_ms = 0;
    return rc;
}

enum r2_code r2_log_collect(struct r2_log *l, const struct r2_remote *snapshot, int64_t retention_s,
                            uint32_t *deleted)
{
    struct r2_collect *c = calloc(1, sizeof *c);
    *deleted = 0;
    if (!c) return r2_fail(l->call->err, R2_NOMEM, "out of memory");
    c->snapshot = snapshot->v.version;
    c->retention_ms = (retention_s < 3600 ? 3600 : retention_s) * 1000;
    struct listing g = {.c = c, .call = l->call};
    enum r2_code rc = r2_log_list(l, snapshot->v.lineage, 0, on_entry, &g);
    if (!rc) {
        r2_collect_decide(c);
        rc = remove_all(l, snapshot->v.lineage, c, deleted);
    }
    free(c);
    return rc ? r2_wrap(l->call->err, "collect what the log of %s does not need any more", l->key)
              : R2_OK;
}

/* ---- bases ---- */

static bool on_newest(void *ctx, const struct r2_log_entry *entry)
{
    int64_t *newest = ctx;
    if (entry->kind == R2_LOG_BASE && entry->modified_ms > *newest) *newest = entry->modified_ms;
    return true;
}

static bool younger(int64_t made_ms, int64_t now_ms, int64_t retention_s)
{
    int64_t age = now_ms - made_ms;
    return made_ms && age > -MARGIN_MS && age < retention_s * 1000;
}

enum r2_code r2_log_keep_base(struct r2_log *l, const struct r2_remote *snapshot,
                              int64_t retention_s, int64_t *based_ms)
{
    char key[R2_LOG_KEY];
    if (retention_s < 3600) retention_s = 3600;
    if (younger(*based_ms, l->call->signed_ms, retention_s)) return R2_OK; /* as of the last look */
    int64_t newest = 0;
    enum r2_code rc = r2_log_list(l, snapshot->v.lineage, 0, on_newest, &newest);
    if (rc) return rc;
    if (younger(newest, l->call->signed_ms, retention_s)) {
        *based_ms = newest;
        return R2_OK;
    }
    if (snapshot->size > R2_COPY_BYTES) return R2_OK; /* no server copies it in one request */
    r2_log_key(l->key, snapshot->v.lineage, snapshot->v.version, ".db", key);
    rc = l->store->ops->copy(l->store, l->call, l->key, snapshot->v.etag, key);
    if (rc) return rc;
    *based_ms = l->call->signed_ms;
    return R2_OK;
}
