/* store_s3_request.c - one logical request: sign, send, judge, retry; see store_s3.h.
 *
 * Waiting between attempts: full jitter over a doubling ceiling, at least what the answer asks for.
 * Every attempt is signed anew. Time: call->deadline_ms bounds all attempts; after an attempt that
 * moved much of a large body it is counted from there again, a few times at most, so that a
 * transfer longer than the time-out can be resumed. */
#include "store_s3.h"
#include "os.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

enum {
    WAIT_FIRST_MS = 100,
    WAIT_MOST_MS = 5000,
    LEAST_MS = 250,
    EXTENSIONS = 8, /* how often a large transfer gets its time anew */
    URL_BYTES = 16 * 1024
};
#define MUCH_BYTES ((uint64_t)1 << 20)

void r2_s3_add_header(struct r2_s3_req *q, const char *name, const char *value)
{
    if (q->header_count < R2_S3_HEADERS)
        q->headers[q->header_count] = (struct r2_pair){name, value};
    q->header_count++; /* one too many is noticed when it is sent */
}

void r2_s3_add_query(struct r2_s3_req *q, const char *name, const char *value)
{
    if (q->query_count < R2_S3_QUERY) q->query[q->query_count] = (struct r2_pair){name, value};
    q->query_count++;
}

bool r2_s3_path(const struct r2_s3 *s, const char *key, struct r2_buf *out)
{
    r2_buf_str(out, s->root);
    r2_buf_str(out, "/");
    return r2_sigv4_encode(out, key, true);
}

bool r2_s3_has_etag(const struct r2_answer *a)
{
    return a->etag[0] && strlen(a->etag) < R2_ETAG_BYTES;
}

enum r2_code r2_s3_recode(struct r2_call *call, enum r2_code code)
{
    if (call->err) call->err->code = code;
    return code;
}

void r2_s3_object_of(const struct r2_answer *a, struct r2_object *out)
{
    r2_strcpy(out->etag, sizeof out->etag, a->etag);
    out->size = a->has_range ? a->range_total : a->length;
    out->modified_ms = a->modified_ms;
}

enum r2_code r2_s3_digest(const struct r2_body *b, const EVP_MD *by, uint8_t *out, struct r2_err *e)
{
    enum { CHUNK = 64 * 1024 };
    if (b->mem) {
        bool ok = EVP_Digest((const char *)b->mem + b->off, b->size, out, NULL, by, NULL) == 1;
        return ok ? R2_OK : r2_fail(e, R2_NOMEM, "out of memory");
    }
    uint8_t *chunk = malloc(CHUNK);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    enum r2_code code = R2_OK;
    if (!chunk || !md || EVP_DigestInit_ex(md, by, NULL) != 1)
        code = r2_fail(e, R2_NOMEM, "out of memory");
    for (uint64_t at = 0; !code && at < b->size;) {
        size_t n = b->size - at < CHUNK ? (size_t)(b->size - at) : CHUNK;
        code = r2_read_at(b->fd, chunk, n, b->off + at, e);
        if (!code && EVP_DigestUpdate(md, chunk, n) != 1)
            code = r2_fail(e, R2_NOMEM, "out of memory");
        at += n;
    }
    if (!code && EVP_DigestFinal_ex(md, out, NULL) != 1)
        code = r2_fail(e, R2_NOMEM, "out of memory");
    EVP_MD_CTX_free(md);
    free(chunk);
    return code;
}

enum r2_code r2_s3_hash(const struct r2_body *b, char out[R2_SHA256_HEX], struct r2_err *e)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    enum r2_code code = r2_s3_digest(b, EVP_sha256(), sum, e);
    if (!code) r2_hex(sum, 32, out);
    return code;
}

/* ---- one attempt ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct r2_pair *)a)->name, ((const struct r2_pair *)b)->name);
}

struct message {
    struct r2_buf path, url, authorization;
    char stamp[R2_STAMP_BYTES];
    struct r2_pair headers[R2_S3_HEADERS + 5];
    size_t header_count;
};

static bool compose(const struct r2_s3 *s, const struct r2_s3_req *q, int64_t signed_ms,
                    struct message *m)
{
    const char *payload = q->sha256 ? q->sha256 : R2_EMPTY_SHA256;
    struct r2_buf query;
    bool ok = q->header_count <= R2_S3_HEADERS && q->query_count <= R2_S3_QUERY;
    r2_buf_init(&query, URL_BYTES);
    ok = ok && (q->bucket_level ? r2_buf_str(&m->path, s->root) : r2_s3_path(s, q->key, &m->path));
    struct r2_sigv4 sign = {.method = q->method,
                            .host = s->host,
                            .path = m->path.at,
                            .query = q->query,
                            .query_count = q->query_count,
                            .headers = q->headers,
                            .header_count = q->header_count,
                            .payload = payload,
                            .cred = &s->cred,
                            .region = s->region,
                            .time_s = signed_ms / 1000};
    ok = ok && r2_sigv4_query(&query, q->query, q->query_count) &&
         r2_sigv4_authorization(&sign, &m->authorization) &&
         r2_buf_printf(&m->url, "%s%s%s%s", s->origin, m->path.at, query.len ? "?" : "",
                       query.len ? query.at : "");
    r2_buf_free(&query);
    if (!ok) return false;
    r2_sigv4_stamp(sign.time_s, m->stamp);
    memcpy(m->headers, q->headers, q->header_count * sizeof *m->headers);
    size_t n = q->header_count;
    m->headers[n++] = (struct r2_pair){"x-amz-content-sha256", payload};
    m->headers[n++] = (struct r2_pair){"x-amz-date", m->stamp};
    if (s->cred.session_token[0])
        m->headers[n++] = (struct r2_pair){"x-amz-security-token", s->cred.session_token};
    qsort(m->headers, n, sizeof *m->headers, by_name);
    m->headers[n++] = (struct r2_pair){"Authorization", m->authorization.at};
    m->header_count = n;
    return true;
}

static void log_attempt(const struct r2_call *call, const struct r2_s3_req *q,
                        const struct r2_answer *a, int64_t began_wall, int64_t began, int attempt)
{
    struct r2_request row = {.time_ms = began_wall,
                             .status = a->outcome == R2_ANSWERED ? a->status : 0,
                             .bytes = a->up > a->down ? a->up : a->down,
                             .ms = r2_boot_ms() - began,
                             .retries = attempt};
    if (a->outcome == R2_NOT_SENT) return;
    r2_strcpy(row.method, sizeof row.method, q->label ? q->label : q->method);
    r2_strcpy(row.key, sizeof row.key, q->key);
    r2_reqlog_count(call->traffic, &row, a->up, a->down);
}

static enum r2_code attempt(struct r2_s3 *s, struct r2_call *call, struct r2_s3_req *q,
                            struct r2_s3_result *res, int64_t deadline_ms)
{
    struct message m;
    int64_t began = r2_boot_ms(), wall = r2_now_ms(), skew = atomic_load(&s->base.skew_ms);
    int64_t signed_ms = (wall + skew) / 1000 * 1000; /* the stamp knows no fractions */
    enum r2_code code;
    if (q->changes && r2_store_stale(call, signed_ms)) return R2_STALE;
    if (q->before) q->before(q->ctx, q, &res->a);
    r2_answer_free(&res->a);
    r2_answer_init(&res->a, q->meta);
    memset(&m, 0, sizeof m);
    r2_buf_init(&m.path, R2_S3_PATH_BYTES);
    r2_buf_init(&m.url, URL_BYTES);
    r2_buf_init(&m.authorization, URL_BYTES);
    res->skew_ms = skew;
    res->signed_ms = call->signed_ms = signed_ms;
    if (compose(s, q, signed_ms, &m)) {
        struct r2_http http = {.method = q->method,
                               .url = m.url.at,
                               .headers = m.headers,
                               .header_count = m.header_count,
                               .body = q->body,
                               .sink = q->sink,
                               .sink_max = q->sink_max,
                               .accept = q->accept,
                               .ctx = q->ctx,
                               .once = q->changes, /* repeating is up to us: it may be in doubt */
                               .deadline_ms = deadline_ms,
                               .progress = q->progress};
        code = r2_http_do(&http, &res->a, call->err);
        log_attempt(call, q, &res->a, wall, began, res->attempts);
    } else {
        code = r2_fail(call->err, R2_REFUSED, "the key or the metadata are too long to be sent");
    }
    r2_buf_free(&m.authorization);
    r2_buf_free(&m.url);
    r2_buf_free(&m.path);
    res->attempts++;
    call->took_ms = r2_boot_ms() - began;
    return code;
}

/* ---- until it is settled ---- */

struct trial {
    struct r2_err own; /* stands in for call->err if the caller gave none */
    int64_t deadline_ms, budget_ms;
    int extensions, shorts;
    bool doubt, skew_tried;
};

/* May another attempt be made? Then waits for it. */
static bool again(struct trial *t, const struct r2_s3_req *q, const struct r2_s3_result *res,
                  const struct r2_s3_verdict *v)
{
    uint64_t moved = res->a.up + res->a.down;
    int64_t now = r2_boot_ms(), wait = v->wait_ms;
    if (!v->again || (v->doubt && q->once)) return false;
    if (q->tries && res->attempts >= q->tries) return false;
    bool moves = q->resumes && moved >= MUCH_BYTES;
    t->shorts = v->short_body && !moves ? t->shorts + 1 : 0;
    if (t->shorts >= R2_S3_SHORT_TRIES) return false;
    bool bulk = moved > R2_HTTP_BULK || moves;
    if (bulk && t->extensions < EXTENSIONS && now + t->budget_ms > t->deadline_ms) {
        t->extensions++;
        t->deadline_ms = now + t->budget_ms;
    }
    int64_t most = WAIT_MOST_MS;
    if (res->attempts < 6) most = (int64_t)WAIT_FIRST_MS << res->attempts;
    int64_t jitter = (int64_t)(r2_random64() % (uint64_t)most);
    if (wait < jitter) wait = jitter;
    /* an attempt without time would only tell that it had none */
    if (now + wait + LEAST_MS >= t->deadline_ms) return false;
    r2_sleep_ms(wait);
    return true;
}

static enum r2_code give_up(const struct r2_s3 *s, struct r2_call *call, const struct r2_s3_req *q,
                            const struct trial *t, const struct r2_s3_result *res,
                            enum r2_code code)
{
    struct r2_err *e = call->err;
    bool stale = code == R2_STALE;
    if (t->doubt) {
        e->code = code = R2_UNKNOWN;
        r2_advise(e, "; %s may or may not have happened",
                  stale ? "an earlier attempt that got no answer" : "it");
    }
    if (res->attempts > 1) r2_advise(e, "; %d attempts", res->attempts);
    r2_wrap(e, q->bucket_level ? "cannot %s " R2_S3_NAME "*" : "cannot %s " R2_S3_NAME, q->verb,
            s->bucket, q->key);
    return code;
}

enum r2_code r2_s3_perform(struct r2_s3 *s, struct r2_call *call, struct r2_s3_req *q,
                           struct r2_s3_result *res)
{
    struct trial t = {.deadline_ms = call->deadline_ms};
    struct r2_call mine = *call;
    enum r2_code code;
    if (!mine.err) mine.err = &t.own;
    mine.signed_ms = mine.took_ms = 0;
    t.budget_ms = t.deadline_ms - r2_boot_ms();
    memset(res, 0, sizeof *res);
    r2_answer_init(&res->a, q->meta);
    for (;;) {
        struct r2_s3_verdict v;
        code = attempt(s, &mine, q, res, t.deadline_ms);
        if (code) break;
        r2_s3_judge(q, &res->a, res->signed_ms, &v, mine.err);
        code = v.code;
        if (!code) break;
        t.doubt = t.doubt || v.doubt;
        uint64_t lost = res->a.up + res->a.down - (q->resumes ? res->a.sunk : 0);
        if (q->progress) r2_progress_add(q->progress, -(int64_t)lost);
        if (v.skewed && !t.skew_tried) {
            t.skew_tried = true;
            atomic_store(&s->base.skew_ms, res->skew_ms + v.skew_ms);
            continue;
        }
        if (!again(&t, q, res, &v)) break;
    }
    call->signed_ms = mine.signed_ms;
    call->took_ms = mine.took_ms;
    return code ? give_up(s, &mine, q, &t, res, code) : R2_OK;
}
