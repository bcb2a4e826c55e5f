/* fake_store.h - a bucket whose every answer is the fuzzer's: objects and listings from memory. */
#ifndef FAKE_STORE_H
#define FAKE_STORE_H

#include "fuzz.h"

#include "../../vfs/os.h"
#include "../../vfs/store.h"

enum { FAKE_OBJECTS = 12 };

struct fake_object {
    char key[R2_KEY_BYTES];
    const uint8_t *at;
    size_t n;
    int64_t modified_ms;
    const struct r2_meta *meta;
};

struct fake {
    struct r2_store base; /* must be first */
    struct fake_object object[FAKE_OBJECTS];
    unsigned n;
    unsigned changed; /* calls that would have changed something */
};

static inline const struct fake_object *fake_find(struct r2_store *s, const char *key)
{
    const struct fake *f = (struct fake *)s;
    for (unsigned k = 0; k < f->n; k++)
        if (strcmp(f->object[k].key, key) == 0) return &f->object[k];
    return NULL;
}

static inline enum r2_code fake_head(struct r2_store *s, struct r2_call *call, const char *key,
                                     struct r2_object *out)
{
    const struct fake_object *o = fake_find(s, key);
    call->signed_ms = 1000000000000;
    if (!o) return r2_fail(call->err, R2_MISSING, "there is no such object");
    memset(out, 0, sizeof *out);
    (void)r2_strcpy(out->etag, sizeof out->etag, "\"e\"");
    out->size = o->n;
    out->modified_ms = o->modified_ms;
    if (o->meta) out->meta = *o->meta;
    return R2_OK;
}

static inline enum r2_code fake_get(struct r2_store *s, struct r2_call *call, const char *key,
                                    const char *if_match, uint64_t expect_size,
                                    struct r2_sink *sink, struct r2_object *out)
{
    enum r2_code rc = fake_head(s, call, key, out);
    const struct fake_object *o = fake_find(s, key);
    (void)if_match, (void)expect_size;
    return rc ? rc : r2_write_at(sink->fd, o->at, o->n, sink->off, call->err);
}

static inline enum r2_code fake_list(struct r2_store *s, struct r2_call *call, const char *prefix,
                                     const char *after, r2_list_fn fn, void *ctx)
{
    const struct fake *f = (struct fake *)s;
    (void)prefix, (void)after; /* a hostile one need not keep to them */
    call->signed_ms = 1000000000000;
    for (unsigned k = 0; k < f->n; k++)
        if (!fn(ctx, f->object[k].key, f->object[k].n, f->object[k].modified_ms)) break;
    return R2_OK;
}

static inline enum r2_code fake_put(struct r2_store *s, struct r2_call *call,
                                    const struct r2_put *what, struct r2_object *out)
{
    (void)what, (void)out;
    ((struct fake *)s)->changed++;
    return r2_fail(call->err, R2_DENIED, "read only");
}

static inline enum r2_code fake_copy(struct r2_store *s, struct r2_call *call, const char *from,
                                     const char *if_match, const char *to)
{
    (void)from, (void)if_match, (void)to;
    ((struct fake *)s)->changed++;
    return r2_fail(call->err, R2_DENIED, "read only");
}

static inline enum r2_code fake_del(struct r2_store *s, struct r2_call *call, const char *key)
{
    (void)key, (void)call;
    ((struct fake *)s)->changed++;
    return R2_OK;
}

static const struct r2_store_ops fake_ops = {.head = fake_head,
                                             .get = fake_get,
                                             .put = fake_put,
                                             .list = fake_list,
                                             .copy = fake_copy,
                                             .del = fake_del};

#endif
