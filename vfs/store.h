/* store.h - objects in a bucket: head, get, put-if, list, delete. Two kinds: S3 and a directory.
 *
 * A store knows nothing of databases. Every call has a deadline, retries what may be retried, and
 * ends in one of the r2_codes below; the sentence in call->err says which key and what to do.
 *
 *   R2_OK            done; for a put: the object is there as sent
 *   R2_MISSING       404: no such object (or bucket: the sentence says which)
 *   R2_PRECONDITION  412: the condition did not hold; nothing was changed BY THIS ATTEMPT
 *   R2_UNKNOWN       put, copy and delete only: an attempt got no answer (cut connection, time-out,
 *                    500, 502, 504), so it may have happened, or may still happen. A conditional
 *                    put is never repeated after that by the store: the layout looks first.
 *   R2_STALE         put, copy and delete only: not sent, because it would have been signed outside
 *                    of the time that call->fresh_until_ms allows; nothing was changed
 *   R2_UNREACHABLE   nothing was changed: no connection, or 429/503 until the deadline
 *   R2_DENIED        401/403
 *   R2_CORRUPT       the answer does not fit its own headers (short body, no ETag, HTML page)
 *   others           local failures
 *
 * Stores may be used by many threads at once. */
#ifndef R2_STORE_H
#define R2_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "config.h"
#include "err.h"

enum {
    R2_META_BYTES = 8192, /* R2's limit for all metadata of an object */
    R2_ETAG_BYTES = 200
};
#define R2_MULTIPART_BYTES ((uint64_t)64 << 20) /* larger puts go in equal parts */
#define R2_PART_BYTES      ((uint64_t)16 << 20) /* smallest part we use; grows above 10,000 parts */

/* User metadata: lines "name: value\n"; names in lower case, without "x-amz-meta-". */
struct r2_meta {
    size_t len;
    char text[R2_META_BYTES + 1];
};
void r2_meta_clear(struct r2_meta *m);
bool r2_meta_add(struct r2_meta *m, const char *name, const char *value); /* false: no room */
bool r2_meta_get(const struct r2_meta *m, const char *name, char *out, size_t room);

struct r2_object {
    char etag[R2_ETAG_BYTES]; /* with its quotes, as answered */
    uint64_t size;            /* bytes of the whole object, also after a ranged get */
    int64_t modified_ms;      /* Last-Modified, ms since 1970; 0 when not told (as by puts) */
    struct r2_meta meta;
};

#define R2_COPY_BYTES ((uint64_t)5 << 30) /* the largest object that S3 copies in one request */

/* What to send: memory, or a region of a file (read with pread, from several threads). */
struct r2_body {
    const void *mem; /* NULL: use fd */
    int fd;
    uint64_t off;
    uint64_t size;
};

/* Where to put what comes: a buffer (appended, up to its ceiling) or a file (pwrite from off). */
struct r2_sink {
    struct r2_buf *buf; /* NULL: use fd */
    int fd;
    uint64_t off;
};

/* Per-replica counters; class A: PUT, POST, LIST, COPY; class B: GET, HEAD (R2's price classes).
 * Every attempt that was sent counts. */
struct r2_traffic {
    _Atomic uint64_t class_a, class_b, bytes_up, bytes_down;
};

struct r2_call {
    int64_t deadline_ms;        /* on r2_boot_ms()'s clock */
    struct r2_traffic *traffic; /* may be NULL */
    bool progress;              /* show progress of long transfers on a terminal */
    struct r2_err *err;
    /* A request that changes something is not sent when its signing time is at or after this, or
     * more than an hour before it: R2_STALE. 0: any may be. Looked at before every attempt, with
     * that attempt's own time; of a put in parts, before the first and the last request. Times of
     * signing, ms since 1970, are bounded by the server's clock: it refuses those that are more
     * than 15 minutes off. (A directory has no such server: there they are this machine's.) */
    int64_t fresh_until_ms;
    /* Out, whatever came of it: when the last attempt that was made was signed (0: none was), and
     * the time from there to the end of its answer, on r2_boot_ms()'s clock. Of several requests:
     * a put in parts tells the last one's; a listing and a get in ranges tell the first one's
     * signing, and the time to the end of all. A listing's signed_ms is there for its `fn`. */
    int64_t signed_ms;
    int64_t took_ms;
};

/* R2_REFUSED for what no store copies: an object onto itself, an empty condition. */
enum r2_code r2_store_check_copy(const char *from, const char *if_match, const char *to,
                                 struct r2_err *e);

/* Is `signed_ms` outside of what call->fresh_until_ms allows? Then the sentence is in call->err. */
bool r2_store_stale(const struct r2_call *call, int64_t signed_ms);

enum r2_put_if {
    R2_PUT_ANY,
    R2_PUT_IF_ABSENT, /* If-None-Match: * */
    R2_PUT_IF_MATCH   /* If-Match: etag */
};

/* What a put's body has in common with the object that it replaces: the same bytes at the same
 * place. Only what is certain. A store may take them from there; one that cannot sends all. */
struct r2_reuse {
    const uint8_t *changed; /* bit k: block k of the body is new, or may be */
    uint32_t block;         /* bytes of a block: 512 .. 65536, a power of two */
    uint64_t size;          /* bytes of that object */
};

struct r2_put {
    const char *key;
    struct r2_body body;
    enum r2_put_if when;
    const char *etag;             /* with R2_PUT_IF_MATCH */
    const struct r2_meta *meta;   /* may be NULL */
    const char *content_type;     /* NULL: application/octet-stream */
    const struct r2_reuse *reuse; /* with R2_PUT_IF_MATCH; may be NULL */
};

/* Called for each object of a listing, in key order; false ends the listing (R2_OK). */
typedef bool (*r2_list_fn)(void *ctx, const char *key, uint64_t size, int64_t modified_ms);

struct r2_store {
    const struct r2_store_ops *ops;
    _Atomic int64_t skew_ms; /* added to our clock before signing; from a server's Date */
};

struct r2_store_ops {
    enum r2_code (*head)(struct r2_store *, struct r2_call *, const char *key,
                         struct r2_object *out);
    /* The whole object, in parallel ranges pinned to one ETag when it is large. `if_match` (may be
     * NULL): R2_PRECONDITION when the object has another ETag by now. `expect_size`: what a head
     * said, UINT64_MAX when not known (then one plain GET). A body longer or shorter than its
     * Content-Length is R2_CORRUPT. */
    enum r2_code (*get)(struct r2_store *, struct r2_call *, const char *key, const char *if_match,
                        uint64_t expect_size, struct r2_sink *sink, struct r2_object *out);
    /* Create or replace. out->etag and out->size are filled on R2_OK; out may be NULL. */
    enum r2_code (*put)(struct r2_store *, struct r2_call *, const struct r2_put *what,
                        struct r2_object *out);
    enum r2_code (*list)(struct r2_store *, struct r2_call *, const char *prefix,
                         const char *after /* may be NULL */, r2_list_fn fn, void *ctx);
    /* Copy an object with its metadata, on the server's side; what is at `to` is replaced.
     * `if_match` (may be NULL): R2_PRECONDITION when `from` has another ETag by now. R2_MISSING:
     * there is no `from`. Repeated after a lost answer: twice does what once does. More than
     * R2_COPY_BYTES is not copied (the server refuses it): the caller knows the size. */
    enum r2_code (*copy)(struct r2_store *, struct r2_call *, const char *from,
                         const char *if_match, const char *to);
    enum r2_code (*del)(struct r2_store *, struct r2_call *, const char *key);
    /* A URL that downloads `key` without credentials for `seconds` (1 .. 604800). */
    enum r2_code (*presign)(struct r2_store *, struct r2_call *, const char *key, int64_t seconds,
                            struct r2_buf *url);
    void (*close)(struct r2_store *);
    bool reuses; /* put looks at what->reuse */
};

/* The store of config->scheme (table in store.c). The caller closes it with ops->close. */
enum r2_code r2_store_open(const struct r2_config *config, struct r2_store **out, struct r2_err *e);
enum r2_code r2_store_open_s3(const struct r2_config *config, struct r2_store **out,
                              struct r2_err *e);
enum r2_code r2_store_open_dir(const struct r2_config *config, struct r2_store **out,
                               struct r2_err *e);

/* ---- several requests at once ---- */

enum { R2_STORE_AT_ONCE = 64 };

/* Call fn for 0 .. count-1, up to `at_once` (at most R2_STORE_AT_ONCE) at a time, begun in this
 * order, until one fails: those under way end, no other begins. Returns the first failure's code,
 * its sentence in `e` (may be NULL). fn runs in this thread and in others, whose signals are
 * blocked; it has a copy of the call, with an error of its own and, like every request that
 * follows another, the whole time from now to the deadline. */
typedef enum r2_code (*r2_store_part_fn)(void *ctx, struct r2_call *call, uint64_t index);
enum r2_code r2_store_parallel(const struct r2_call *call, unsigned at_once, uint64_t count,
                               r2_store_part_fn fn, void *ctx, struct r2_err *e);

/* ---- the last requests of this process, for r2_requests; both kinds of store report here ---- */

enum { R2_REQLOG_ROWS = 256 };

struct r2_request {
    int64_t time_ms;        /* when it began, ms since 1970 */
    char method[8];         /* GET, HEAD, PUT, POST, DELETE, LIST, COPY */
    char key[R2_KEY_BYTES]; /* the key or prefix; no query, no credential */
    int status;             /* HTTP status (the directory store says what S3 would); 0: no answer */
    uint64_t bytes;         /* of the body, sent or received */
    int64_t ms;             /* how long it took */
    int retries;            /* attempts before this one for the same call */
};

void r2_reqlog_add(const struct r2_request *r);
/* Copy the rows, newest first, at most `room`; returns how many. */
size_t r2_reqlog_copy(struct r2_request *to, size_t room);
/* One request: counts it in t (may be NULL) by class, and adds it to the log. */
void r2_reqlog_count(struct r2_traffic *t, const struct r2_request *r, uint64_t up, uint64_t down);

#endif
