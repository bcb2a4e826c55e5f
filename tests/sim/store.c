/* store.c - the bucket, behind a network that loses, delays, refuses and damages: see sim.h.
 *
 * A request that changes something is put on its way first; others may run before it arrives, and
 * before its answer does. When its process dies, or gives up, it may still arrive: until the
 * server would refuse its signature. These definitions stand before the real stores'. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../vfs/ltx.h"
#include "../../vfs/os.h"

#define TOLERANCE_NS                                                                               \
    (15 * 60 * 1000 * MS) /* a signature may be this far off the server's clock                    \
                           */

struct sim_store {
    struct r2_store base;
};

/* ---- objects ---- */

struct object *object_at(const char *key)
{
    for (uint32_t k = 0; k < sim->objects; k++)
        if (strcmp(sim->o[k].key, key) == 0) return sim->o[k].gone ? NULL : &sim->o[k];
    return NULL;
}

static struct object *object_for(const char *key)
{
    for (uint32_t k = 0; k < sim->objects; k++)
        if (strcmp(sim->o[k].key, key) == 0) return &sim->o[k];
    if (sim->objects == OBJECTS) abort();
    struct object *o = &sim->o[sim->objects++];
    memset(o, 0, sizeof *o);
    snprintf(o->key, sizeof o->key, "%s", key);
    o->gone = true;
    return o;
}

static void etag_of(const uint8_t *bytes, uint64_t size, char etag[40])
{
    uint64_t a = r2_crc64(0, bytes, size), b = r2_crc64(a * 31 + size, bytes, size);
    snprintf(etag, 40, "\"%016llx%016llx\"", (unsigned long long)a, (unsigned long long)b);
}

static void tell_oracle(const struct flight *f, const struct object *o)
{
    if (sim->events == EVENTS) abort();
    struct event *e = &sim->e[sim->events++];
    memset(e, 0, sizeof *e);
    e->kind = f->kind;
    e->object = *o;
    snprintf(e->from, sizeof e->from, "%s", f->from);
    e->worker = f->worker;
    e->on_purpose = f->on_purpose;
    e->asked = f->asked;
    e->moves = f->moves;
    e->restores = f->restores;
}

static enum r2_code put_now(struct flight *f, struct object *o)
{
    bool there = !o->gone;
    if (f->when == R2_PUT_IF_ABSENT && there) return R2_PRECONDITION;
    if (f->when == R2_PUT_IF_MATCH && (!there || strcmp(o->etag, f->etag) != 0))
        return R2_PRECONDITION;
    o->gone = false;
    o->bytes = f->bytes;
    o->size = f->size;
    o->meta = f->meta;
    o->modified_ns = sim->now_ns;
    etag_of(o->bytes, o->size, o->etag);
    snprintf(f->etag, sizeof f->etag, "%s", o->etag);
    return R2_OK;
}

static enum r2_code copy_now(struct flight *f, struct object *o)
{
    const struct object *from = object_at(f->from);
    if (!from) return R2_MISSING;
    if (f->etag[0] && strcmp(from->etag, f->etag) != 0) return R2_PRECONDITION;
    o->gone = false;
    o->bytes = from->bytes;
    o->size = from->size;
    o->meta = from->meta;
    o->modified_ns = sim->now_ns;
    snprintf(o->etag, sizeof o->etag, "%s", from->etag);
    return R2_OK;
}

void deliver(struct flight *f)
{
    struct object *o = object_for(f->key);
    int64_t off = sim->now_ns - f->signed_ns;
    f->used = false;
    if (off > TOLERANCE_NS || off < -TOLERANCE_NS)
        f->code = R2_DENIED;
    else if (f->kind == REQ_PUT)
        f->code = put_now(f, o);
    else if (f->kind == REQ_COPY)
        f->code = copy_now(f, o);
    else
        f->code = R2_OK;
    trace("  %s %s -> %s%s",
          f->kind == REQ_PUT    ? "PUT"
          : f->kind == REQ_COPY ? "COPY"
                                : "DELETE",
          f->key, r2_code_text(f->code), f->orphan ? " (late)" : "");
    if (f->code) return;
    if (f->kind == REQ_DEL) {
        if (o->gone) return;
        tell_oracle(f, o);
        o->gone = true;
        return;
    }
    tell_oracle(f, o);
}

/* ---- a request's way ---- */

static enum r2_code fail(struct r2_call *call, enum r2_code code, const char *what)
{
    return r2_fail(call->err, code, "%s", what);
}

static bool fault(uint32_t of_1000)
{
    return !sim->calm && of_1000 && chance(of_1000);
}

static void travel(void)
{
    sim->now_ns += (2 + (int64_t)below(200)) * MS;
    if (fault(sim->p.slow)) { /* the machine slept, or the network did */
        sim->now_ns += (int64_t)below(25 * 60) * 1000 * MS;
        trace("  the network is slow");
    }
    if (thread_runs() && chance(500)) thread_pause();
    if (!thread_runs()) thread_maybe();
    if (chance(sim->p.hand)) hand_over('r');
}

/* Sign it. R2_OK: it may be sent. */
static enum r2_code sign(struct r2_store *s, struct r2_call *call, bool changes, int64_t *began)
{
    struct sim_store *st = (struct sim_store *)(void *)s;
    *began = r2_boot_ms();
    int64_t signed_ms = (r2_now_ms() + st->base.skew_ms) / 1000 * 1000;
    if (changes && r2_store_stale(call, signed_ms)) return R2_STALE;
    call->signed_ms = signed_ms;
    on_call("request");
    sim->w[me].calls += 4; /* they count for more than file calls */
    if (fault(sim->p.refused)) {
        sim->now_ns += (int64_t)below(3000) * MS;
        return fail(call, R2_UNREACHABLE, "simulated: 503 Slow Down");
    }
    if (fault(sim->p.denied)) return fail(call, R2_DENIED, "simulated: 403");
    return R2_OK;
}

/* Does the server take the signature? Corrected once, as the real store does. */
static bool skewed(struct r2_store *s, const struct r2_call *call)
{
    struct sim_store *st = (struct sim_store *)(void *)s;
    int64_t off = sim->now_ns - call->signed_ms * MS;
    if (off <= TOLERANCE_NS && off >= -TOLERANCE_NS) return false;
    st->base.skew_ms += off / MS; /* what the server's refusal taught */
    trace("  the server refuses the clock: %lld s off", (long long)(off / MS / 1000));
    return true;
}

static enum r2_code change(struct r2_store *s, struct r2_call *call, struct flight *mine,
                           struct flight **out)
{
    struct worker *w = &sim->w[me];
    int64_t began;
    for (int turn = 0; turn < 2; turn++) {
        enum r2_code rc = sign(s, call, true, &began);
        if (rc) return rc;
        int k = 0;
        while (k < FLIGHTS - 1 && sim->f[k].used)
            k++;
        struct flight *f = &sim->f[k];
        *f = *mine;
        f->used = true;
        f->worker = me;
        bool told = !thread_runs(); /* not what the background thread does */
        /* a neighbour's may have ended meanwhile */
        f->on_purpose = machine_of(me)->wins || (told && w->todo == DO_RESOLVE_LOCAL);
        f->moves = told && (w->todo == DO_TO_LOG || w->todo == DO_TO_OBJECT);
        f->restores = told && w->todo == DO_RESTORE ? w->wanted : 0;
        f->asked = told && w->todo >= DO_RESOLVE_FORK && w->todo <= DO_RESOLVE_LOCAL;
        f->signed_ns = call->signed_ms * MS;
        f->due_ns = sim->now_ns + (int64_t)below(chance(500) ? 10 : 16 * 60) * 1000 * MS;
        *out = f;
        travel();
        if (fault(sim->p.never)) {
            f->used = false;
            call->took_ms = r2_boot_ms() - began;
            return fail(call, R2_UNKNOWN, "simulated: the connection was cut");
        }
        if (fault(sim->p.late)) {
            f->orphan = true;
            trace("  a request for %s is late", f->key);
            call->took_ms = r2_boot_ms() - began;
            return fail(call, R2_UNKNOWN, "simulated: no answer in time");
        }
        bool again = skewed(s, call);
        if (again)
            f->used = false, f->code = R2_DENIED;
        else
            deliver(f);
        struct flight done = *f;
        travel();
        call->took_ms = r2_boot_ms() - began;
        if (again && turn == 0) continue;
        if (fault(sim->p.lost)) return fail(call, R2_UNKNOWN, "simulated: the answer was lost");
        *mine = done;
        return done.code ? fail(call, done.code, "simulated: refused by its condition") : R2_OK;
    }
    return fail(call, R2_DENIED, "simulated: RequestTimeTooSkewed");
}

/* A request that only reads: R2_OK when the bucket is asked now. */
static enum r2_code ask(struct r2_store *s, struct r2_call *call, int64_t *began)
{
    for (int turn = 0;; turn++) {
        enum r2_code rc = sign(s, call, false, began);
        if (rc) return rc;
        travel();
        if (!skewed(s, call)) return R2_OK;
        if (turn) return fail(call, R2_DENIED, "simulated: RequestTimeTooSkewed");
    }
}

static enum r2_code answered(struct r2_call *call, int64_t began)
{
    travel();
    call->took_ms = r2_boot_ms() - began;
    return fault(sim->p.lost) ? fail(call, R2_UNREACHABLE, "simulated: the answer was lost")
                              : R2_OK;
}

/* ---- the table ---- */

static void tell(const struct object *o, struct r2_object *out)
{
    if (!out) return;
    memset(out, 0, sizeof *out);
    snprintf(out->etag, sizeof out->etag, "%s", o->etag);
    out->size = o->size;
    out->modified_ms = o->modified_ns / MS / 1000 * 1000;
    if (!o->meta) return;
    out->meta.len = strlen(o->meta);
    memcpy(out->meta.text, o->meta, out->meta.len + 1);
}

static enum r2_code s_head(struct r2_store *s, struct r2_call *call, const char *key,
                           struct r2_object *out)
{
    int64_t began;
    enum r2_code rc = ask(s, call, &began);
    if (rc) return rc;
    const struct object *o = object_at(key);
    if (o) tell(o, out);
    rc = answered(call, began);
    trace("  HEAD %s -> %s", key, rc ? "no answer" : o ? out->etag : "404");
    if (rc) return rc;
    return o ? R2_OK : fail(call, R2_MISSING, "no such object");
}

static enum r2_code take(struct r2_sink *sink, const uint8_t *bytes, size_t n, struct r2_call *call)
{
    if (!sink->buf) return r2_write_at(sink->fd, bytes, n, sink->off, call->err);
    return r2_buf_add(sink->buf, bytes, n) ? R2_OK : fail(call, R2_NOMEM, "no room");
}

static enum r2_code s_get(struct r2_store *s, struct r2_call *call, const char *key,
                          const char *if_match, uint64_t expect_size, struct r2_sink *sink,
                          struct r2_object *out)
{
    int64_t began;
    (void)expect_size;
    enum r2_code rc = ask(s, call, &began);
    if (rc) return rc;
    const struct object *there = object_at(key);
    struct object o = there ? *there : (struct object){.size = 0};
    rc = answered(call, began);
    trace("  GET %s -> %s", key, rc ? "no answer" : there ? o.etag : "404");
    if (rc) return rc;
    if (!there) return fail(call, R2_MISSING, "no such object");
    if (if_match && strcmp(if_match, o.etag) != 0)
        return fail(call, R2_PRECONDITION, "another ETag");
    if (out) tell(&o, out);
    if (fault(sim->p.damaged)) {
        size_t some = below((uint32_t)o.size);
        if (chance(500)) { /* cut */
            if (!sink->buf) rc = take(sink, o.bytes, some, call);
            return rc ? rc : fail(call, R2_CORRUPT, "simulated: the body is too short");
        }
        uint8_t *bad = malloc(o.size);
        memcpy(bad, o.bytes, o.size);
        bad[some] ^= (uint8_t)(1 + below(255));
        rc = take(sink, bad, o.size, call);
        free(bad);
        return rc;
    }
    return take(sink, o.bytes, o.size, call);
}

static const char *keep_meta(const struct r2_meta *m)
{
    if (!m || !m->len) return NULL;
    char *text = sim_alloc(m->len + 1);
    memcpy(text, m->text, m->len + 1);
    return text;
}

static enum r2_code s_put(struct r2_store *s, struct r2_call *call, const struct r2_put *what,
                          struct r2_object *out)
{
    struct flight f = {.kind = REQ_PUT, .when = what->when, .size = what->body.size}, *on_way;
    uint8_t *bytes = sim_alloc(what->body.size + 1);
    snprintf(f.key, sizeof f.key, "%s", what->key);
    if (what->when == R2_PUT_IF_MATCH) snprintf(f.etag, sizeof f.etag, "%s", what->etag);
    f.meta = keep_meta(what->meta);
    if (what->body.mem) {
        memcpy(bytes, (const uint8_t *)what->body.mem + what->body.off, f.size);
    } else {
        enum r2_code rc = r2_read_at(what->body.fd, bytes, f.size, what->body.off, call->err);
        if (rc) return rc;
    }
    f.bytes = bytes;
    trace("  %s for %s, %llu bytes",
          f.when == R2_PUT_IF_ABSENT ? "PUT if absent"
          : f.etag[0]                ? "PUT if match"
                                     : "PUT",
          f.key, (unsigned long long)f.size);
    enum r2_code rc = change(s, call, &f, &on_way);
    if (!rc && out) {
        snprintf(out->etag, sizeof out->etag, "%s", f.etag);
        out->size = f.size;
    }
    return rc;
}

static enum r2_code s_copy(struct r2_store *s, struct r2_call *call, const char *from,
                           const char *if_match, const char *to)
{
    struct flight f = {.kind = REQ_COPY}, *on_way;
    enum r2_code rc = r2_store_check_copy(from, if_match, to, call->err);
    if (rc) return rc;
    snprintf(f.key, sizeof f.key, "%s", to);
    snprintf(f.from, sizeof f.from, "%s", from);
    snprintf(f.etag, sizeof f.etag, "%s", if_match ? if_match : "");
    return change(s, call, &f, &on_way);
}

static enum r2_code s_del(struct r2_store *s, struct r2_call *call, const char *key)
{
    struct flight f = {.kind = REQ_DEL}, *on_way;
    snprintf(f.key, sizeof f.key, "%s", key);
    return change(s, call, &f, &on_way);
}

static int by_key(const void *a, const void *b)
{
    return strcmp((*(struct object *const *)a)->key, (*(struct object *const *)b)->key);
}

static enum r2_code s_list(struct r2_store *s, struct r2_call *call, const char *prefix,
                           const char *after, r2_list_fn fn, void *ctx)
{
    int64_t began;
    uint32_t n = 0;
    enum r2_code rc = ask(s, call, &began);
    if (rc) return rc;
    struct object **found = calloc(sim->objects + 1, sizeof *found);
    for (uint32_t k = 0; k < sim->objects; k++) {
        struct object *o = &sim->o[k];
        if (!o->gone && strncmp(o->key, prefix, strlen(prefix)) == 0 &&
            (!after || strcmp(o->key, after) > 0))
            found[n++] = o;
    }
    qsort(found, n, sizeof *found, by_key);
    trace("  LIST %s: %u", prefix, n);
    for (uint32_t k = 0; k < n; k++)
        if (!fn(ctx, found[k]->key, found[k]->size, found[k]->modified_ns / MS / 1000 * 1000))
            break;
    free(found);
    return answered(call, began);
}

static enum r2_code s_presign(struct r2_store *s, struct r2_call *call, const char *key,
                              int64_t seconds, struct r2_buf *url)
{
    (void)s, (void)key, (void)seconds, (void)url;
    return fail(call, R2_REFUSED, "simulated: no such thing here");
}

static void s_close(struct r2_store *s)
{
    free(s);
}

static const struct r2_store_ops ops = {.head = s_head,
                                        .get = s_get,
                                        .put = s_put,
                                        .list = s_list,
                                        .copy = s_copy,
                                        .del = s_del,
                                        .presign = s_presign,
                                        .close = s_close};

enum r2_code r2_store_open_s3(const struct r2_config *config, struct r2_store **out,
                              struct r2_err *e)
{
    struct sim_store *s = calloc(1, sizeof *s);
    (void)config;
    if (!s) return r2_fail(e, R2_NOMEM, "out of memory");
    s->base.ops = &ops;
    *out = &s->base;
    return R2_OK;
}

enum r2_code r2_store_open_dir(const struct r2_config *config, struct r2_store **out,
                               struct r2_err *e)
{
    return r2_store_open_s3(config, out, e);
}
