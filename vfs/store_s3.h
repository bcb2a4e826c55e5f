/* store_s3.h - what the files of the S3 store share; nobody else includes it.
 *
 *   store_s3.c            the calls of store.h: head, put, list, copy, delete, presign
 *   store_s3_get.c        get: parallel ranges, resumed where they were cut
 *   store_s3_multipart.c  put of large bodies
 *   store_s3_parts.c      their parts, and which of them the store has already
 *   store_s3_request.c    one logical request: sign, send, judge the answer, retry
 *   store_s3_verdict.c    what an answer means (pure)
 */
#ifndef R2_STORE_S3_H
#define R2_STORE_S3_H

#include <openssl/evp.h>

#include "http.h"
#include "s3xml.h"
#include "store.h"

enum {
    R2_S3_HEADERS = 80, /* of one request, metadata included */
    R2_S3_QUERY = 6,
    R2_S3_AT_ONCE = 3,          /* parts or ranges in flight: more makes R2 answer 500 */
    R2_S3_SHORT_TRIES = 3,      /* short bodies in a row before it is called damage */
    R2_S3_PATH_BYTES = 4 * 1024 /* an encoded key, with the endpoint's prefix and the bucket */
};
#define R2_S3_RANGE_BYTES ((uint64_t)16 << 20)

struct r2_s3 {
    struct r2_store base;               /* must be first */
    char origin[R2_TEXT_BYTES * 2 + 8]; /* scheme://host[:port], default port left out */
    const char *host;                   /* inside origin: what follows "://" */
    char root[R2_TEXT_BYTES * 5];       /* encoded: endpoint's path prefix, '/', bucket */
    char bucket[R2_TEXT_BYTES];
    char region[64];
    struct r2_credentials cred;
    _Atomic bool no_copies; /* a part that it copied was not what it should be */
};

/* One logical request: what is sent, and how far it may be repeated. */
struct r2_s3_req {
    const char *method; /* as sent */
    const char *label;  /* in the log of requests; NULL: the method */
    const char *verb;   /* in sentences: "read", "write", ... */
    const char *key;    /* an object, or with `bucket_level` the prefix of a listing */
    bool bucket_level;
    struct r2_pair query[R2_S3_QUERY];
    size_t query_count;
    struct r2_pair headers[R2_S3_HEADERS];
    size_t header_count;
    const struct r2_body *body; /* NULL: none */
    const char *sha256;         /* of the body; NULL: of nothing */
    const struct r2_sink *sink;
    uint64_t sink_max;
    bool (*accept)(void *ctx, const struct r2_answer *a);
    /* Before each attempt: where to go on from. `last` is the attempt before; all 0 at first. */
    void (*before)(void *ctx, struct r2_s3_req *q, const struct r2_answer *last);
    void *ctx;
    bool changes;         /* it changes the bucket: no answer means that it may have happened */
    bool once;            /* and it is not repeated then */
    bool must_exist;      /* If-Match on a put: 404 is a lost condition */
    bool resumes;         /* a cut body is no loss: `before` goes on from there */
    bool promise;         /* a 200 only says that it was begun: its body says what became of it */
    int tries;            /* not more attempts than this; 0: until the deadline */
    struct r2_meta *meta; /* where the answer's metadata go */
    struct r2_progress *progress;
};

/* What is known at the end of a request besides its answer. */
struct r2_s3_result {
    struct r2_answer a; /* the last attempt's; r2_answer_free it in every case */
    int attempts;
    int64_t signed_ms; /* the signing time of the last attempt that was made */
    int64_t skew_ms;   /* what was added to our clock for it */
};

/* What one answer means. */
struct r2_s3_verdict {
    enum r2_code code; /* R2_OK: a 2xx that fits; its sentence is in the error */
    bool again;        /* worth another attempt */
    bool doubt;        /* it may have changed something all the same */
    bool short_body;
    int64_t wait_ms; /* at least, before the next attempt */
    int64_t skew_ms; /* with `skewed`: the server's clock minus our signing time */
    bool skewed;
};

/* Judge an answer; the sentence goes to `e`, without a beginning that names the key. */
void r2_s3_judge(const struct r2_s3_req *q, const struct r2_answer *a, int64_t signed_ms,
                 struct r2_s3_verdict *v, struct r2_err *e);

/* Send until it is settled or the deadline is over. R2_OK: a 2xx answer that `accept` took. Any
 * other code comes with a whole sentence in call->err. */
enum r2_code r2_s3_perform(struct r2_s3 *s, struct r2_call *call, struct r2_s3_req *q,
                           struct r2_s3_result *res);
void r2_s3_add_header(struct r2_s3_req *q, const char *name, const char *value);
void r2_s3_add_query(struct r2_s3_req *q, const char *name, const char *value);
/* Has it an ETag that an r2_object can hold? */
bool r2_s3_has_etag(const struct r2_answer *a);
/* Another code for the sentence that is there. */
enum r2_code r2_s3_recode(struct r2_call *call, enum r2_code code);
/* Fill what every result has from an answer's headers. */
void r2_s3_object_of(const struct r2_answer *a, struct r2_object *out);
/* "s3://bucket/key" for sentences. */
#define R2_S3_NAME "s3://%s/%s"
/* R2_REFUSED for keys that cannot be sent. */
enum r2_code r2_s3_check_key(const char *key, bool may_be_empty, struct r2_err *e);
/* Append the encoded path of a key. */
bool r2_s3_path(const struct r2_s3 *s, const char *key, struct r2_buf *out);

/* SHA-256 of a body in hex. */
enum r2_code r2_s3_hash(const struct r2_body *b, char out[R2_SHA256_HEX], struct r2_err *e);
/* Its digest by one of OpenSSL's algorithms; NULL: one that this OpenSSL does not have. */
enum r2_code r2_s3_digest(const struct r2_body *b, const EVP_MD *by, uint8_t *out,
                          struct r2_err *e);

enum r2_code r2_s3_head(struct r2_store *, struct r2_call *, const char *key,
                        struct r2_object *out);
enum r2_code r2_s3_get(struct r2_store *, struct r2_call *, const char *key, const char *if_match,
                       uint64_t expect_size, struct r2_sink *sink, struct r2_object *out);
/* The headers of a put: type, metadata (as lines of `text`, changed in place). */
enum r2_code r2_s3_put_headers(struct r2_s3_req *q, const struct r2_put *what, struct r2_meta *text,
                               struct r2_buf *names, struct r2_err *e);
void r2_s3_put_condition(struct r2_s3_req *q, const struct r2_put *what);
enum r2_code r2_s3_put_parts(struct r2_s3 *s, struct r2_call *call, const struct r2_put *what,
                             struct r2_object *out);

/* ---- parts: store_s3_parts.c ---- */

enum { R2_MD5_BYTES = 16 };

/* A body in parts, all equal but the last. */
struct r2_s3_cut {
    uint64_t part_size, parts;
    uint64_t copies; /* of them the store has in the object that is replaced */
    uint64_t sent;   /* bytes that are to be sent */
};
/* The cheapest cut, in requests and bytes; pure. `old` may be NULL. */
struct r2_s3_cut r2_s3_cut(uint64_t size, const struct r2_reuse *old);
/* Is the part one of `copies`? */
bool r2_s3_part_is_there(const struct r2_s3_cut *cut, uint64_t size, const struct r2_reuse *old,
                         uint64_t index);

enum r2_code r2_s3_md5(const struct r2_body *b, uint8_t out[R2_MD5_BYTES], struct r2_err *e);
/* Does the ETag of a part, of an object in parts, say that it has other bytes than those with these
 * MD5s? An ETag that is of another kind says nothing: false. Pure. */
bool r2_s3_part_differs(const char *etag, const uint8_t md5[R2_MD5_BYTES]);
bool r2_s3_whole_differs(const char *etag, const uint8_t (*md5)[R2_MD5_BYTES], uint64_t parts);

/* Part `number` of an upload from bytes from .. to-1 of what stands at the same key. */
enum r2_code r2_s3_copy_part(struct r2_s3 *s, struct r2_call *call, const char *key,
                             const char *upload, uint64_t number, uint64_t from, uint64_t to,
                             char etag[R2_HTTP_ETAG]);
/* What x-amz-copy-source says for a key. */
bool r2_s3_copy_source(const struct r2_s3 *s, const char *key, struct r2_buf *out);

#endif
