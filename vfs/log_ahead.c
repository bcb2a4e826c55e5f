/* log_ahead.c - fetching segments before they are asked for, several at once. See layout.h.
 *
 * Keys are predictable: the first one that is not there is the end. What is asked for beyond it was
 * asked for in vain, so there are few at first, and more as more are found or known to be there. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "layout.h"
#include "log_int.h"
#include "os.h"

void r2_ahead_free(struct r2_ahead *a)
{
    for (uint32_t k = 0; k < a->count; k++)
        r2_os.close(a->at[k].fd);
    a->count = 0;
}

/* ---- one segment ---- */

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
    struct r2_segment segment; /* fd -1: it is not there, or was taken */
    bool asked;
};

static enum r2_code fetch_segment(const struct r2_log *l, struct r2_call *call,
                                  const uint8_t lineage[16], uint64_t version, struct fetched *out)
{
    char key[R2_LOG_KEY];
    struct r2_object *o = malloc(sizeof *o);
    memset(out, 0, sizeof *out);
    struct r2_segment *s = &out->segment;
    s->fd = -1;
    if (!o) return r2_fail(call->err, R2_NOMEM, "out of memory");
    r2_log_key(l->key, lineage, version, ".ltx", key);
    enum r2_code rc = unnamed_file(l->db_path, &s->fd, call->err);
    struct r2_sink sink = {.fd = s->fd};
    if (!rc) rc = l->store->ops->get(l->store, call, key, NULL, UINT64_MAX, &sink, o);
    s->size = o->size;
    s->modified_ms = o->modified_ms;
    s->signed_ms = call->signed_ms;
    out->asked = true;
    free(o);
    if (rc && s->fd >= 0) {
        r2_os.close(s->fd);
        s->fd = -1;
    }
    if (rc != R2_MISSING) return rc;
    r2_err_clear(call->err);
    return R2_OK;
}

/* ---- a few at once ---- */

struct batch {
    const struct r2_log *l;
    const uint8_t *lineage;
    uint64_t first;
    uint32_t wanted;
    struct fetched at[R2_AHEAD];
};

/* What stands at KEY is only a hint here: whatever is wrong with it is for who needs it. */
static void look_for_shortcut(const struct r2_log *l, struct r2_call *call)
{
    if (r2_layout_object.probe(l->store, call, l->key, l->shortcut)) l->shortcut->exists = false;
    r2_err_clear(call->err);
}

static enum r2_code fetch_one(void *ctx, struct r2_call *call, uint64_t index)
{
    struct batch *b = ctx;
    if (index < b->wanted)
        return fetch_segment(b->l, call, b->lineage, b->first + index, &b->at[index]);
    look_for_shortcut(b->l, call);
    return R2_OK;
}

enum r2_code r2_ahead_fetch(struct r2_log *l, const uint8_t lineage[16], uint64_t first,
                            uint32_t wanted, bool hint, struct r2_gap *gap)
{
    struct r2_ahead *a = l->ahead;
    struct batch *b = calloc(1, sizeof *b);
    if (!b) return r2_fail(l->call->err, R2_NOMEM, "out of memory");
    b->l = l, b->lineage = lineage, b->first = first, b->wanted = wanted;
    for (uint32_t k = 0; k < wanted; k++)
        b->at[k].segment.fd = -1;
    uint32_t all = wanted + hint;
    enum r2_code rc = all == 1 ? fetch_one(b, l->call, 0)
                               : r2_store_parallel(l->call, all, all, fetch_one, b, l->call->err);
    r2_ahead_free(a);
    a->first = first;
    gap->found = false;
    for (uint32_t k = 0; k < wanted; k++) {
        const struct r2_segment *s = &b->at[k].segment;
        if (rc || gap->found) { /* what lies behind a gap is of no use */
            if (s->fd >= 0) r2_os.close(s->fd);
        } else if (s->fd < 0) {
            gap->found = true;
            gap->asked_ms = s->signed_ms;
        } else {
            a->at[a->count++] = *s;
        }
    }
    free(b);
    return rc;
}

/* ---- many: taken over in their order while others come, and no connection waits ---- */

struct stream {
    struct r2_log *l;
    const uint8_t *lineage;
    uint64_t first, sure; /* versions: of index 0, and the last that is known to be there */
    r2_take_fn take;
    void *ctx;
    struct r2_gap *gap;
    int64_t budget_ms;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t moved;
    uint64_t next; /* the index to be taken over next */
    bool stop;
    enum r2_code code; /* why, if something failed */
    struct r2_err why;
    struct fetched at[R2_AHEAD]; /* index % R2_AHEAD */
};

/* With the lock: how many may be under way. */
static uint64_t width(const struct stream *s)
{
    uint64_t at = s->first + s->next, known = s->sure >= at ? s->sure - at + 1 : 0;
    uint64_t n = 2 * (s->next + R2_AHEAD_FEW);
    if (s->l->sure) n = at > s->l->sure ? 2 * (at - s->l->sure) - 1 : 1; /* it was listed */
    if (n <= known) n = known + 1;
    return n < R2_AHEAD ? n : R2_AHEAD;
}

/* With the lock: hand on all that has come without a gap. */
static enum r2_code take_over(struct stream *s, struct r2_call *call)
{
    struct r2_log *l = s->l;
    struct r2_call *was = l->call;
    enum r2_code rc = R2_OK;
    l->call = call;
    while (!rc && !s->stop && s->at[s->next % R2_AHEAD].asked) {
        struct fetched *f = &s->at[s->next % R2_AHEAD];
        f->asked = false;
        if (f->segment.fd < 0) {
            s->stop = s->gap->found = true;
            s->gap->asked_ms = f->segment.signed_ms;
            break;
        }
        l->ahead->first = s->first + s->next++;
        l->ahead->at[0] = f->segment;
        l->ahead->count = 1;
        rc = s->take(s->ctx);
        r2_ahead_free(l->ahead);
        s->stop = s->stop || l->ended;
    }
    l->call = was;
    return rc;
}

static enum r2_code stream_one(void *ctx, struct r2_call *call, uint64_t index)
{
    struct stream *s = ctx;
    struct fetched f;
    pthread_mutex_lock(&s->lock);
    while (!s->stop && index >= s->next + width(s))
        pthread_cond_wait(&s->moved, &s->lock);
    bool stop = s->stop;
    pthread_mutex_unlock(&s->lock);
    if (stop) return R2_MISSING; /* so that no other begins */
    call->deadline_ms = r2_boot_ms() + s->budget_ms;
    enum r2_code rc = fetch_segment(s->l, call, s->lineage, s->first + index, &f);
    pthread_mutex_lock(&s->lock);
    if (!rc && !s->stop) {
        s->at[index % R2_AHEAD] = f;
        rc = take_over(s, call);
    } else if (f.segment.fd >= 0) {
        r2_os.close(f.segment.fd);
    }
    if (rc && !s->stop) {
        s->stop = true;
        s->code = rc;
        s->why = *call->err;
    }
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

enum r2_code r2_ahead_stream(struct r2_log *l, const uint8_t lineage[16], uint64_t first,
                             uint64_t count, uint64_t sure, r2_take_fn take, void *ctx,
                             struct r2_gap *gap)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s) return r2_fail(l->call->err, R2_NOMEM, "out of memory");
    s->l = l, s->lineage = lineage, s->first = first, s->sure = sure;
    s->take = take, s->ctx = ctx, s->gap = gap;
    s->budget_ms = l->call->deadline_ms - r2_boot_ms();
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->moved, NULL);
    gap->found = false;
    r2_ahead_free(l->ahead);
    (void)r2_store_parallel(l->call, R2_AHEAD, count, stream_one, s, NULL);
    for (uint32_t k = 0; k < R2_AHEAD; k++) /* behind the end, or behind a failure */
        if (s->at[k].asked && s->at[k].segment.fd >= 0) r2_os.close(s->at[k].segment.fd);
    enum r2_code rc = s->code;
    if (rc) *l->call->err = s->why;
    pthread_cond_destroy(&s->moved);
    pthread_mutex_destroy(&s->lock);
    free(s);
    return rc;
}
