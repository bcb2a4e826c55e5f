/* store_s3.c - the store of s3://BUCKET/KEY: R2, or any S3 with conditional writes.
 *
 * Path-style requests, signed with SigV4 (sigv4.h); see store_s3.h for the files of this store. An
 * object of this kind owns no socket: connections belong to http.c's pool. */
#include "store_s3.h"
#include "os.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    LIST_MAX_BYTES = 8 << 20, /* 1,000 keys of 1,024 bytes, each byte as %XX, and their fields */
    LIST_PAGES_MAX = 1000000,
    PRESIGN_MAX_S = 604800
};

static struct r2_s3 *s3_of(struct r2_store *store)
{
    return (struct r2_s3 *)store;
}

/* Keys come from configuration and listings; what cannot be a header or a path is refused. */
enum r2_code r2_s3_check_key(const char *key, bool may_be_empty, struct r2_err *e)
{
    size_t n = strlen(key);
    if (n == 0 && !may_be_empty) return r2_fail(e, R2_REFUSED, "an empty key cannot be used");
    if (n >= R2_S3_KEY_BYTES)
        return r2_fail(e, R2_REFUSED, "the key %.60s... has %zu bytes, more than 1024", key, n);
    for (const char *c = key; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return r2_fail(e, R2_REFUSED, "a key with control characters cannot be used");
    return R2_OK;
}

/* ---- head ---- */

enum r2_code r2_s3_head(struct r2_store *store, struct r2_call *call, const char *key,
                        struct r2_object *out)
{
    struct r2_s3 *s = s3_of(store);
    struct r2_s3_result res;
    struct r2_s3_req q = {.method = "HEAD", .verb = "look at", .key = key, .meta = &out->meta};
    enum r2_code code = r2_s3_check_key(key, false, call->err);
    if (code) return code;
    code = r2_s3_perform(s, call, &q, &res);
    const struct r2_answer *a = &res.a;
    if (!code && (!r2_s3_has_etag(a) || !a->has_length || a->status != 200)) {
        code = r2_fail(call->err, R2_CORRUPT,
                       "cannot look at " R2_S3_NAME ": the answer (%d, %s) has no %s; does "
                       "something between here and the endpoint answer in its place? Log in to "
                       "the network, or correct the endpoint",
                       s->bucket, key, a->status, a->type[0] ? a->type : "no type",
                       a->etag[0] ? "Content-Length" : "ETag");
    } else if (!code && a->meta_too_long) {
        code =
            r2_fail(call->err, R2_CORRUPT, "the metadata of " R2_S3_NAME " are more than %d bytes",
                    s->bucket, key, R2_META_BYTES);
    }
    if (!code) r2_s3_object_of(a, out);
    r2_answer_free(&res.a);
    return code;
}

/* ---- put ---- */

enum r2_code r2_s3_put_headers(struct r2_s3_req *q, const struct r2_put *what, struct r2_meta *text,
                               struct r2_buf *names, struct r2_err *e)
{
    static const char prefix[] = "x-amz-meta-";
    r2_s3_add_header(q, "content-type",
                     what->content_type ? what->content_type : "application/octet-stream");
    if (!what->meta) return R2_OK;
    *text = *what->meta;
    /* all names first: the buffer may move while it grows */
    for (char *line = text->text; line < text->text + text->len;) {
        char *colon = strstr(line, ": "), *end = strchr(line, '\n');
        if (!colon || !end || colon > end)
            return r2_fail(e, R2_REFUSED, "the metadata for %s are malformed", what->key);
        *colon = *end = 0;
        r2_buf_str(names, prefix);
        r2_buf_add(names, line, strlen(line) + 1);
        for (const char *c = colon + 2; *c; c++)
            if ((unsigned char)*c < ' ' || (unsigned char)*c > '~')
                return r2_fail(e, R2_REFUSED, "the metadata for %s are not plain ASCII", what->key);
        line = end + 1;
    }
    if (names->failed) return r2_fail(e, R2_NOMEM, "out of memory");
    const char *name = names->at;
    for (char *line = text->text; line < text->text + text->len;) {
        char *value = line + strlen(line) + 2;
        r2_s3_add_header(q, name, value);
        name += strlen(name) + 1;
        line = value + strlen(value) + 1;
    }
    return R2_OK;
}

void r2_s3_put_condition(struct r2_s3_req *q, const struct r2_put *what)
{
    if (what->when == R2_PUT_IF_ABSENT) r2_s3_add_header(q, "if-none-match", "*");
    if (what->when == R2_PUT_IF_MATCH) r2_s3_add_header(q, "if-match", what->etag);
    q->once = what->when != R2_PUT_ANY;
    q->must_exist = what->when == R2_PUT_IF_MATCH;
}

static enum r2_code put_whole(struct r2_s3 *s, struct r2_call *call, const struct r2_put *what,
                              struct r2_object *out)
{
    char hash[R2_SHA256_HEX];
    struct r2_progress progress;
    struct r2_s3_result res;
    struct r2_meta *text = malloc(sizeof *text);
    struct r2_buf names;
    struct r2_s3_req q = {.method = "PUT",
                          .verb = "write",
                          .key = what->key,
                          .body = &what->body,
                          .sha256 = hash,
                          .changes = true,
                          .progress = &progress};
    r2_buf_init(&names, 2 * R2_META_BYTES + R2_S3_HEADERS * 16);
    memset(&res, 0, sizeof res);
    r2_progress_begin(&progress, call->progress, "uploading", what->key, what->body.size);
    enum r2_code code = text ? r2_s3_put_headers(&q, what, text, &names, call->err)
                             : r2_fail(call->err, R2_NOMEM, "out of memory");
    r2_s3_put_condition(&q, what);
    if (!code) code = r2_s3_hash(&what->body, hash, call->err);
    if (!code) code = r2_s3_perform(s, call, &q, &res);
    if (!code && !r2_s3_has_etag(&res.a))
        code = r2_fail(call->err, R2_UNKNOWN,
                       "cannot tell whether " R2_S3_NAME " was written: the answer (%d, %s) has "
                       "no ETag",
                       s->bucket, what->key, res.a.status, res.a.type[0] ? res.a.type : "no type");
    if (!code && out) {
        r2_s3_object_of(&res.a, out);
        out->size = what->body.size;
    }
    r2_progress_end(&progress);
    r2_answer_free(&res.a);
    r2_buf_free(&names);
    free(text);
    return code;
}

static enum r2_code s3_put(struct r2_store *store, struct r2_call *call, const struct r2_put *what,
                           struct r2_object *out)
{
    enum r2_code code = r2_s3_check_key(what->key, false, call->err);
    if (out) memset(out, 0, sizeof *out);
    if (code) return code;
    if (what->when == R2_PUT_IF_MATCH && (!what->etag || !what->etag[0]))
        return r2_fail(call->err, R2_REFUSED, "a put with If-Match needs an ETag");
    if (what->body.size > R2_MULTIPART_BYTES) return r2_s3_put_parts(s3_of(store), call, what, out);
    return put_whole(s3_of(store), call, what, out);
}

/* ---- list ---- */

struct listing {
    const char *prefix;
    const char *after; /* NULL: from the start */
    r2_list_fn fn;
    void *ctx;
    bool foreign; /* a key came that was not asked for */
    char last[R2_S3_KEY_BYTES];
};

/* A listing that goes back, or outside its prefix, must not be believed. */
static bool on_object(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    struct listing *l = ctx;
    l->foreign = strncmp(key, l->prefix, strlen(l->prefix)) != 0 || strcmp(key, l->last) <= 0;
    if (l->foreign) return false;
    r2_strcpy(l->last, sizeof l->last, key);
    if (l->after && strcmp(key, l->after) <= 0) return true;
    return l->fn(l->ctx, key, size, modified_ms);
}

/* What a cut attempt left behind goes. */
static void list_again(void *ctx, struct r2_s3_req *q, const struct r2_answer *last)
{
    (void)ctx;
    (void)last;
    r2_buf_reset(q->sink->buf);
}

static enum r2_code list_page(struct r2_s3 *s, struct r2_call *call, struct listing *l,
                              struct r2_buf *text, struct r2_s3_page *page)
{
    char token[R2_S3_TOKEN_BYTES];
    struct r2_s3_result res;
    struct r2_sink sink = {.buf = text};
    struct r2_s3_req q = {.method = "GET",
                          .label = "LIST",
                          .verb = "list",
                          .key = l->prefix,
                          .bucket_level = true,
                          .sink = &sink,
                          .sink_max = LIST_MAX_BYTES,
                          .before = list_again};
    memcpy(token, page->token, sizeof token);
    r2_s3_add_query(&q, "list-type", "2");
    r2_s3_add_query(&q, "encoding-type", "url");
    r2_s3_add_query(&q, "prefix", l->prefix);
    if (token[0])
        r2_s3_add_query(&q, "continuation-token", token);
    else if (l->after)
        r2_s3_add_query(&q, "start-after", l->after);
    for (int tries = 1;; tries++) {
        enum r2_code code = r2_s3_perform(s, call, &q, &res);
        r2_answer_free(&res.a);
        if (code) return code;
        if (r2_s3_listing(text->at, text->len, on_object, l, page) && !l->foreign) return R2_OK;
        if (l->foreign || tries == R2_S3_SHORT_TRIES) break;
    }
    return r2_fail(call->err, R2_CORRUPT,
                   "cannot list " R2_S3_NAME "*: the answer is %s; does something between here "
                   "and the endpoint answer in its place? Log in to the network, or correct the "
                   "endpoint",
                   s->bucket, l->prefix, l->foreign ? "not in order" : "no listing");
}

static enum r2_code s3_list(struct r2_store *store, struct r2_call *call, const char *prefix,
                            const char *after, r2_list_fn fn, void *ctx)
{
    struct listing l = {.prefix = prefix, .after = after, .fn = fn, .ctx = ctx};
    struct r2_s3_page *page = calloc(1, sizeof *page);
    struct r2_buf text;
    enum r2_code code = r2_s3_check_key(prefix, true, call->err);
    r2_buf_init(&text, LIST_MAX_BYTES);
    if (!page) code = r2_fail(call->err, R2_NOMEM, "out of memory");
    int64_t began = r2_boot_ms(), budget = call->deadline_ms - began;
    struct r2_call more = *call;
    for (int pages = 0; !code && pages < LIST_PAGES_MAX; pages++) {
        code = list_page(s3_of(store), pages ? &more : call, &l, &text, page);
        if (pages) call->took_ms = r2_boot_ms() - began;
        if (code || page->stopped || !page->truncated) break;
        more.deadline_ms = r2_boot_ms() + budget; /* each page has the whole time */
    }
    r2_buf_free(&text);
    free(page);
    return code;
}

/* ---- copy, delete, presign ---- */

static enum r2_code s3_copy(struct r2_store *store, struct r2_call *call, const char *from,
                            const char *if_match, const char *to)
{
    struct r2_s3 *s = s3_of(store);
    struct r2_s3_result res;
    struct r2_buf verb, source;
    enum r2_code code = r2_s3_check_key(from, false, call->err);
    if (!code) code = r2_s3_check_key(to, false, call->err);
    if (!code) code = r2_store_check_copy(from, if_match, to, call->err);
    if (code) return code;
    r2_buf_init(&verb, R2_S3_PATH_BYTES);
    r2_buf_init(&source, R2_S3_PATH_BYTES);
    r2_buf_printf(&verb, "copy " R2_S3_NAME " to", s->bucket, from);
    bool ok = !verb.failed && r2_s3_copy_source(s, from, &source);
    struct r2_s3_req q = {.method = "PUT",
                          .label = "COPY",
                          .verb = verb.at,
                          .key = to,
                          .body = &(struct r2_body){.mem = ""},
                          .changes = true,
                          .promise = true};
    r2_s3_add_header(&q, "x-amz-copy-source", source.at);
    if (if_match) r2_s3_add_header(&q, "x-amz-copy-source-if-match", if_match);
    if (ok) {
        code = r2_s3_perform(s, call, &q, &res);
        r2_answer_free(&res.a);
    } else {
        code = r2_fail(call->err, R2_NOMEM, "out of memory");
    }
    r2_buf_free(&source);
    r2_buf_free(&verb);
    return code;
}

static enum r2_code s3_del(struct r2_store *store, struct r2_call *call, const char *key)
{
    struct r2_s3_result res;
    struct r2_s3_req q = {.method = "DELETE", .verb = "delete", .key = key, .changes = true};
    enum r2_code code = r2_s3_check_key(key, false, call->err);
    if (code) return code;
    code = r2_s3_perform(s3_of(store), call, &q, &res);
    struct r2_s3_error s3;
    /* S3 says 204 for what is not there; others say 404 */
    if (code == R2_MISSING && !(r2_s3_error(res.a.text.at, res.a.text.len, &s3) &&
                                strcmp(s3.code, "NoSuchBucket") == 0)) {
        if (call->err) r2_err_clear(call->err);
        code = R2_OK;
    }
    r2_answer_free(&res.a);
    return code;
}

static enum r2_code s3_presign(struct r2_store *store, struct r2_call *call, const char *key,
                               int64_t seconds, struct r2_buf *url)
{
    struct r2_s3 *s = s3_of(store);
    struct r2_buf path;
    enum r2_code code = r2_s3_check_key(key, false, call->err);
    if (code) return code;
    if (seconds < 1 || seconds > PRESIGN_MAX_S)
        return r2_fail(call->err, R2_REFUSED, "a URL can be made for 1 to %d seconds, not %lld",
                       PRESIGN_MAX_S, (long long)seconds);
    r2_buf_init(&path, R2_S3_PATH_BYTES);
    bool ok = r2_s3_path(s, key, &path);
    struct r2_sigv4 sign = {.method = "GET",
                            .host = s->host,
                            .path = path.at,
                            .payload = R2_UNSIGNED_PAYLOAD,
                            .cred = &s->cred,
                            .region = s->region,
                            .time_s = (r2_now_ms() + atomic_load(&s->base.skew_ms)) / 1000};
    ok = ok && r2_buf_printf(url, "%s%s?", s->origin, path.at) &&
         r2_sigv4_presign(&sign, seconds, url);
    r2_buf_free(&path);
    return ok ? R2_OK : r2_fail(call->err, R2_NOMEM, "the URL for %s is too long", key);
}

/* ---- open and close ---- */

static void s3_close(struct r2_store *store)
{
    if (!store) return;
    OPENSSL_cleanse(&s3_of(store)->cred, sizeof s3_of(store)->cred);
    free(store);
}

static const struct r2_store_ops ops = {
    .head = r2_s3_head,
    .get = r2_s3_get,
    .put = s3_put,
    .list = s3_list,
    .copy = s3_copy,
    .del = s3_del,
    .presign = s3_presign,
    .close = s3_close,
    .reuses = true,
};

/* "http[s]://host[:port][/prefix]": origin in lower case without a default port, and the prefix. */
static enum r2_code parse_endpoint(struct r2_s3 *s, const char *endpoint, struct r2_err *e)
{
    bool tls = strncasecmp(endpoint, "https://", 8) == 0;
    size_t scheme = tls ? 8 : 7;
    if (!tls && strncasecmp(endpoint, "http://", 7) != 0)
        return r2_fail(e, R2_CONFIG, "the endpoint must begin with https:// or http://");
    const char *host = endpoint + scheme;
    size_t host_n = strcspn(host, "/"), prefix_n = strlen(host + host_n);
    const char *prefix = host + host_n;
    while (prefix_n && prefix[prefix_n - 1] == '/')
        prefix_n--;
    bool plain = host_n > 0;
    for (const char *c = host; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f || strchr("?#@\\\"<>", *c))
            plain = false; /* '@': credentials do not belong here */
    if (!plain)
        return r2_fail(e, R2_CONFIG,
                       "the endpoint must be https://HOST[:PORT][/PREFIX] and nothing else");
    const char *port = tls ? ":443" : ":80";
    size_t port_n = strlen(port);
    if (host_n > port_n && memcmp(host + host_n - port_n, port, port_n) == 0) host_n -= port_n;
    struct r2_buf b;
    r2_buf_init(&b, sizeof s->origin - 1);
    bool ok = r2_buf_printf(&b, "%s://%.*s", tls ? "https" : "http", (int)host_n, host) &&
              r2_strcpy(s->origin, sizeof s->origin, b.at);
    r2_buf_free(&b);
    for (char *c = s->origin; *c; c++)
        if (*c >= 'A' && *c <= 'Z') *c = (char)(*c - 'A' + 'a');
    s->host = s->origin + scheme;
    r2_buf_init(&b, sizeof s->root - 1);
    ok = ok && r2_buf_add(&b, prefix, prefix_n) && r2_buf_str(&b, "/") &&
         r2_sigv4_encode(&b, s->bucket, false) && r2_strcpy(s->root, sizeof s->root, b.at);
    r2_buf_free(&b);
    return ok ? R2_OK : r2_fail(e, R2_CONFIG, "the endpoint or the bucket's name is too long");
}

enum r2_code r2_store_open_s3(const struct r2_config *config, struct r2_store **out,
                              struct r2_err *e)
{
    *out = NULL;
    if (!config->bucket[0])
        return r2_fail(e, R2_CONFIG, "the remote names no bucket; it must be s3://BUCKET/KEY");
    if (!config->cred.access_key[0] || !config->cred.secret_key[0])
        return r2_fail(e, R2_CONFIG,
                       "no credentials: set R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY");
    for (const char *c = config->cred.access_key; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            return r2_fail(e, R2_CONFIG, "R2_ACCESS_KEY_ID has characters that no key has");
    for (const char *c = config->cred.session_token; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            return r2_fail(e, R2_CONFIG, "R2_SESSION_TOKEN has characters that no token has");
    struct r2_s3 *s = calloc(1, sizeof *s);
    if (!s) return r2_fail(e, R2_NOMEM, "out of memory");
    s->base.ops = &ops;
    s->cred = config->cred;
    bool fits = r2_strcpy(s->bucket, sizeof s->bucket, config->bucket) &&
                r2_strcpy(s->region, sizeof s->region, config->region[0] ? config->region : "auto");
    enum r2_code code = fits ? parse_endpoint(s, config->endpoint, e)
                             : r2_fail(e, R2_CONFIG, "the bucket's name is too long");
    if (code) {
        s3_close(&s->base);
        return code;
    }
    *out = &s->base;
    return R2_OK;
}
