/* layout_log.c - a push in the log layout: one segment whose key can be created once. See layout.h.
 *
 *   KEY                                        the snapshot, as in layout_object.c; db-layout: log
 *   KEY-log/<8 digits of lineage>/<version>.ltx  a segment (ltx.h): min TXID = max TXID = version,
 * node id = the nonce of this content, page 1 always in it
 *
 * Whoever creates the key wins. After a lost answer the key is looked at: our nonce, or not. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "log_int.h"
#include "os.h"

/* A segment proves something only while the snapshot is not past it: after that it may have been
 * collected, and created anew by a body that was on its way for hours. */
static enum r2_code look_at_key(struct r2_log *l, const struct r2_pending *p,
                                struct r2_remote *seen)
{
    struct r2_remote *at_key = malloc(sizeof *at_key);
    if (!at_key) return r2_fail(l->call->err, R2_NOMEM, "out of memory");
    enum r2_code rc = r2_log_look(l, at_key);
    bool before =
        !rc && r2_log_same_lineage(at_key, p->v.lineage) && at_key->v.version < p->v.version;
    if (!rc && !before) *seen = *at_key;
    free(at_key);
    return rc;
}

/* One bit that was lost on the way would make ours another's: in doubt a segment is believed when
 * it is sound, or says the same twice. */
static enum r2_code look_twice(struct r2_log *l, const struct r2_pending *p, struct r2_remote *seen)
{
    struct r2_ltx_header first = {.node_id = 0}, now;
    struct r2_gap gap = {.found = false};
    enum r2_code rc = R2_OK;
    if (!l->ahead->count || l->ahead->first != p->v.version)
        rc = r2_ahead_fetch(l, p->v.lineage, p->v.version, 1, false, &gap);
    if (!rc && !gap.found) rc = r2_log_peek(l, p->v.lineage, 0, &first);
    now = first;
    if (!rc && !gap.found) rc = r2_log_check(l, 0);
    if (rc == R2_CORRUPT) {
        r2_err_clear(l->call->err);
        rc = r2_ahead_fetch(l, p->v.lineage, p->v.version, 1, false, &gap);
        if (!rc && !gap.found) rc = r2_log_peek(l, p->v.lineage, 0, &now);
        if (!rc && !gap.found && now.node_id != first.node_id) rc = r2_log_check(l, 0);
    }
    if (!rc && gap.found)
        rc = r2_fail(l->call->err, R2_BUSY, "the segment of version %" PRIu64 " went just now",
                     p->v.version);
    if (!rc) r2_recent_prepend("", p->v.version, now.node_id, seen->v.recent);
    return rc;
}

/* db-recent does not go back that far. Is ours there yet? It is, if the next one continues it and
 * is not older: one that was created anew is younger than all that came after the first. */
static enum r2_code once_more(struct r2_log *l, const struct r2_pending *p, enum r2_maker *maker,
                              uint32_t *which)
{
    struct r2_ltx_header at, next;
    struct r2_gap gap;
    enum r2_code rc = r2_ahead_fetch(l, p->v.lineage, p->v.version, 2, false, &gap);
    bool both = !rc && l->ahead->count == 2;
    if (both) rc = r2_log_peek(l, p->v.lineage, 0, &at);
    if (both && !rc) rc = r2_log_peek(l, p->v.lineage, 1, &next);
    bool first = both && !rc && l->ahead->at[0].modified_ms <= l->ahead->at[1].modified_ms;
    r2_ahead_free(l->ahead);
    for (uint32_t k = p->tries; first && k-- > 0;) {
        if (p->try[k].nonce != at.node_id || p->try[k].checksum != next.pre) continue;
        *which = k;
        *maker = k + 1 == p->tries ? R2_MAKER_LATEST : R2_MAKER_EARLIER;
        break;
    }
    if (rc != R2_CORRUPT) return rc;
    r2_err_clear(l->call->err); /* then it says nothing */
    return R2_OK;
}

enum r2_code r2_log_maker(struct r2_log *l, const struct r2_pending *p, bool doubt,
                          struct r2_remote *seen, enum r2_maker *maker, uint32_t *which)
{
    enum r2_code rc = R2_OK;
    *maker = r2_layout_maker(seen, p, which);
    bool ours = *maker == R2_MAKER_LATEST || *maker == R2_MAKER_EARLIER;
    if (seen->by_segments && (doubt || ours)) {
        rc = look_twice(l, p, seen);
        if (!rc) rc = look_at_key(l, p, seen);
        if (!rc) *maker = r2_layout_maker(seen, p, which);
    }
    if (!rc && *maker == R2_MAKER_HIDDEN && r2_log_same_lineage(seen, p->v.lineage))
        rc = once_more(l, p, maker, which);
    return rc;
}

/* Who made the version that we want to make? */
static enum r2_code look(struct r2_log *l, const struct r2_pending *p, bool doubt,
                         struct r2_remote *seen, enum r2_maker *maker)
{
    struct r2_version *before = malloc(sizeof *before);
    uint32_t which;
    if (!before) return r2_fail(l->call->err, R2_NOMEM, "out of memory");
    *before = p->v;
    before->version--;
    before->recent[0] = 0;
    int64_t verified_ms = l->verified_ms;
    l->verified_ms = 0; /* in doubt a 404 proves nothing: look at the snapshot, too */
    enum r2_code rc = r2_log_probe(l, before, seen);
    if (!rc && !seen->by_segments && r2_log_same_lineage(seen, p->v.lineage) &&
        seen->v.version >= p->v.version)
        rc = r2_log_probe(l, before, seen); /* collected, or created in between: once more */
    l->verified_ms = verified_ms;
    *maker = R2_MAKER_OTHER;
    if (!rc && seen->exists && seen->v.version == before->version && !seen->by_segments &&
        !seen->ended)
        *maker = R2_MAKER_NOBODY;
    else if (!rc && seen->exists)
        rc = r2_log_maker(l, p, doubt, seen, maker, &which);
    if (!rc && !seen->exists) *maker = R2_MAKER_OTHER; /* KEY is gone: nothing is retried */
    free(before);
    r2_ahead_free(l->ahead);
    return rc ? r2_wrap(l->call->err, "look what became of version %" PRIu64, p->v.version) : R2_OK;
}

/* The remote is past the version that we want to make, and does not say whose that one was. */
static enum r2_code hidden(struct r2_log *l, const struct r2_pending *p, uint64_t version)
{
    return r2_fail(l->call->err, R2_UNKNOWN,
                   "nothing says any more whether version %" PRIu64
                   " was made by this push: the remote is at version %" PRIu64,
                   p->v.version, version);
}

/* The answer came late: segments may have been collected meanwhile, this key among them, and then
 * it was made a second time. */
static enum r2_code confirm(struct r2_log *l, const struct r2_pending *p, struct r2_remote *seen)
{
    uint32_t which;
    enum r2_code rc = r2_log_look(l, seen);
    if (rc) return l->call->err->code = R2_UNKNOWN;
    bool same = r2_log_same_lineage(seen, p->v.lineage);
    if (same && seen->v.version < p->v.version) return R2_OK;
    enum r2_maker maker = R2_MAKER_HIDDEN;
    if (same && r2_log_maker(l, p, true, seen, &maker, &which))
        return l->call->err->code = R2_UNKNOWN;
    if (maker == R2_MAKER_LATEST) return R2_OK; /* somebody went on from it */
    if (maker == R2_MAKER_HIDDEN) return hidden(l, p, seen->v.version);
    return r2_fail(l->call->err, R2_CONFLICT,
                   "the remote moved on to version %" PRIu64 " while the answer was on its way",
                   seen->v.version);
}

static void ours(const struct r2_pending *p, struct r2_remote *seen)
{
    memset(seen, 0, sizeof *seen);
    seen->exists = seen->numbered = seen->has_checksum = seen->has_lineage = true;
    seen->layout = R2_LAYOUT_LOG;
    seen->v = p->v;
    seen->v.etag[0] = 0;
}

enum r2_code r2_log_push(struct r2_log *l, const struct r2_pending *p, const struct r2_body *body,
                         struct r2_remote *seen, enum r2_maker *maker)
{
    char key[R2_LOG_KEY];
    struct r2_put put = {.key = key, .body = *body, .when = R2_PUT_IF_ABSENT};
    struct r2_object *o = malloc(sizeof *o);
    struct r2_call *call = l->call;
    bool lost_answer = p->doubt;
    enum r2_code rc = R2_OK;
    if (!o) return r2_fail(call->err, R2_NOMEM, "out of memory");
    r2_log_key(l->key, p->v.lineage, p->v.version, ".ltx", key);
    for (int64_t pause = 100;; pause = pause < 2000 ? pause * 2 : pause) {
        r2_err_clear(call->err);
        call->fresh_until_ms = l->verified_ms + R2_FRESH_MS;
        rc = l->store->ops->put(l->store, call, &put, o);
        call->fresh_until_ms = 0;
        int64_t signed_ms = call->signed_ms; /* of the PUT: what comes after it verifies nothing */
        if (rc == R2_OK && call->took_ms > R2_LATE_MS) {
            lost_answer = true;
            rc = confirm(l, p, seen);
        }
        if (rc == R2_OK) {
            l->verified_ms = signed_ms;
            ours(p, seen);
            *maker = R2_MAKER_LATEST;
            break;
        }
        if (rc == R2_CONFLICT) {
            *maker = R2_MAKER_OTHER;
            break;
        }
        if (rc == R2_UNKNOWN) lost_answer = true;
        if (rc != R2_UNKNOWN && rc != R2_PRECONDITION) {
            if (lost_answer)
                rc = call->err->code = R2_UNKNOWN; /* an earlier one may have done it */
            break;
        }
        if (look(l, p, lost_answer, seen, maker)) {
            rc = call->err->code = R2_UNKNOWN;
            break;
        }
        if (*maker == R2_MAKER_LATEST) {
            ours(p, seen);
            rc = R2_OK;
            break;
        }
        bool unknown = *maker == R2_MAKER_NOBODY || (*maker == R2_MAKER_HIDDEN && lost_answer);
        rc = unknown ? R2_UNKNOWN : R2_CONFLICT;
        if (seen->ended) {
            rc = r2_fail(call->err, R2_BUSY,
                         "the layout of %s is being changed by another replica; try again, and if "
                         "this stays, SELECT r2_checkpoint('object') finishes it",
                         l->key);
            break;
        }
        if (rc == R2_CONFLICT)
            r2_fail(call->err, rc, "the remote is at version %" PRIu64 " of another writer",
                    seen->v.version);
        else if (*maker == R2_MAKER_HIDDEN)
            hidden(l, p, seen->v.version);
        else if (r2_boot_ms() + pause >= call->deadline_ms)
            r2_fail(call->err, rc, "no attempt was answered in time");
        else {
            r2_sleep_ms(pause); /* the same bytes again: they cannot land twice */
            continue;
        }
        break;
    }
    free(o);
    return rc;
}
