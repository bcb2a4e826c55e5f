/* dir_bucket.h - a directory store in a temporary folder, for test_store_dir*.c. */
#ifndef DIR_BUCKET_H
#define DIR_BUCKET_H

#include "unit.h"

#include "../../vfs/os.h"
#include "../../vfs/store.h"

#include <stdarg.h>

static char top[256];
static struct r2_store *store;
static struct r2_err err;
static struct r2_os real; /* the calls before a test replaced some */

static inline void shell(const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (system(line) != 0) abort();
}

static inline void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    struct r2_config c = {.scheme = R2_SCHEME_FILE};
    snprintf(top, sizeof top, "%s/r2dirXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(top)) abort();
    if (r2_store_open(&c, &store, &err) != R2_OK) abort();
    real = r2_os;
}

static inline void end(void)
{
    r2_os = real;
    store->ops->close(store);
    shell("rm -rf '%s'", top);
}

static inline const char *path_of(const char *name)
{
    static _Thread_local char path[4][1400];
    static _Thread_local unsigned turn;
    char *p = path[turn++ % 4];
    snprintf(p, 1400, "%s/%s", top, name);
    return p;
}

static inline const char *key_of(const char *name)
{
    return path_of(name) + 1;
}

static inline struct r2_call call_with(struct r2_err *e)
{
    return (struct r2_call){.deadline_ms = r2_boot_ms() + 60000, .err = e};
}

static inline void meta_v(struct r2_meta *m, const char *v)
{
    r2_meta_clear(m);
    r2_meta_add(m, "v", v);
}

/* Puts text with metadata v=<v> (NULL: none). */
static inline enum r2_code put_e(const char *name, const char *text, const char *v,
                                 enum r2_put_if when, const char *etag, struct r2_object *out,
                                 struct r2_err *e)
{
    struct r2_meta m;
    struct r2_call call = call_with(e);
    struct r2_put what = {.key = key_of(name),
                          .body = {.mem = text, .size = strlen(text)},
                          .when = when,
                          .etag = etag};
    if (v) meta_v(&m, v), what.meta = &m;
    return store->ops->put(store, &call, &what, out);
}

static inline enum r2_code put(const char *name, const char *text, const char *v)
{
    return put_e(name, text, v, R2_PUT_ANY, NULL, NULL, &err);
}

static inline enum r2_code head(const char *name, struct r2_object *o)
{
    struct r2_call call = call_with(&err);
    return store->ops->head(store, &call, key_of(name), o);
}

static inline enum r2_code copy(const char *from, const char *if_match, const char *to)
{
    struct r2_call call = call_with(&err);
    return store->ops->copy(store, &call, key_of(from), if_match, key_of(to));
}

static inline enum r2_code del(const char *name)
{
    struct r2_call call = call_with(&err);
    return store->ops->del(store, &call, key_of(name));
}

static inline enum r2_code get_e(const char *name, const char *if_match, char *text, size_t room,
                                 struct r2_object *o, struct r2_err *e)
{
    struct r2_buf b;
    struct r2_call call = call_with(e);
    r2_buf_init(&b, room - 1);
    struct r2_sink sink = {.buf = &b, .fd = -1};
    enum r2_code code = store->ops->get(store, &call, key_of(name), if_match, UINT64_MAX, &sink, o);
    memcpy(text, b.at ? b.at : "", b.len);
    text[b.len] = 0;
    r2_buf_free(&b);
    return code;
}

static inline void write_file(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) abort();
}

/* The object has these bytes, this metadata (NULL: none at all); head and get agree. */
static inline bool is(const char *name, const char *text, const char *v)
{
    struct r2_object h, g;
    char got[4096], value[64] = "";
    if (head(name, &h) != R2_OK) return false;
    if (get_e(name, h.etag, got, sizeof got, &g, &err) != R2_OK) return false;
    bool has = r2_meta_get(&h.meta, "v", value, sizeof value);
    return strcmp(got, text) == 0 && h.size == strlen(text) && g.size == h.size &&
           strcmp(h.etag, g.etag) == 0 && strcmp(h.meta.text, g.meta.text) == 0 &&
           (v ? has && strcmp(value, v) == 0 : h.meta.len == 0);
}

#define HAS(word) CU_ASSERT_PTR_NOT_NULL(strstr(err.text, word))

#endif
