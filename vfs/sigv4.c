/* sigv4.c - see sigv4.h. */
#include "sigv4.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SHA_BYTES = 32, CANONICAL_MAX = 256 * 1024, SCOPE_BYTES = 128 };

/* exit() must not take OpenSSL down under a database that is closed in an older handler, or under a
 * thread that is still sending. A program that used OpenSSL before us has it taken down all the
 * same. */
__attribute__((constructor)) static void keep_crypto(void)
{
    OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
}

bool r2_crypto_ready(void)
{
    return OPENSSL_init_crypto(0, NULL) == 1;
}

static const char ALGORITHM[] = "AWS4-HMAC-SHA256";

void r2_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digit[bytes[i] >> 4];
        out[2 * i + 1] = digit[bytes[i] & 15];
    }
    out[2 * n] = 0;
}

bool r2_sha256_hex(const void *bytes, size_t n, char out[R2_SHA256_HEX])
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    out[0] = 0;
    if (EVP_Digest(bytes, n, sum, NULL, EVP_sha256(), NULL) != 1) return false;
    r2_hex(sum, SHA_BYTES, out);
    return true;
}

void r2_sigv4_stamp(int64_t time_s, char out[R2_STAMP_BYTES])
{
    time_t t = (time_t)time_s;
    struct tm tm;
    if (!gmtime_r(&t, &tm) || strftime(out, R2_STAMP_BYTES, "%Y%m%dT%H%M%SZ", &tm) == 0)
        r2_strcpy(out, R2_STAMP_BYTES, "19700101T000000Z"); /* a year of five digits */
}

static bool unreserved(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

bool r2_sigv4_encode(struct r2_buf *out, const char *text, bool keep_slash)
{
    static const char digit[] = "0123456789ABCDEF";
    for (; *text; text++) {
        uint8_t c = (uint8_t)*text;
        char hex[3] = {'%', digit[c >> 4], digit[c & 15]};
        if (unreserved(*text) || (keep_slash && c == '/'))
            r2_buf_add(out, text, 1);
        else
            r2_buf_add(out, hex, sizeof hex);
    }
    return r2_buf_add(out, "", 0);
}

static int by_name_then_value(const void *a, const void *b)
{
    const struct r2_pair *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : strcmp(x->value, y->value);
}

bool r2_sigv4_query(struct r2_buf *out, const struct r2_pair *query, size_t n)
{
    struct r2_pair sorted[R2_SIGNED_MAX];
    size_t at[R2_SIGNED_MAX][2];
    struct r2_buf coded;
    if (n > R2_SIGNED_MAX) return false;
    r2_buf_init(&coded, CANONICAL_MAX);
    for (size_t i = 0; i < n; i++) {
        at[i][0] = coded.len;
        r2_sigv4_encode(&coded, query[i].name, false);
        r2_buf_add(&coded, "", 1);
        at[i][1] = coded.len;
        r2_sigv4_encode(&coded, query[i].value ? query[i].value : "", false);
        r2_buf_add(&coded, "", 1);
    }
    bool ok = !coded.failed;
    if (ok) {
        for (size_t i = 0; i < n; i++)
            sorted[i] = (struct r2_pair){coded.at + at[i][0], coded.at + at[i][1]};
        qsort(sorted, n, sizeof *sorted, by_name_then_value);
        for (size_t i = 0; i < n; i++)
            r2_buf_printf(out, "%s%s=%s", i ? "&" : "", sorted[i].name, sorted[i].value);
        ok = r2_buf_add(out, "", 0);
    }
    r2_buf_free(&coded);
    return ok;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static int by_lower_name(const void *a, const void *b)
{
    const char *x = ((const struct r2_pair *)a)->name, *y = ((const struct r2_pair *)b)->name;
    while (*x && lower(*x) == lower(*y))
        x++, y++;
    return (uint8_t)lower(*x) - (uint8_t)lower(*y);
}

static void add_lower(struct r2_buf *out, const char *text)
{
    for (; *text; text++) {
        char c = lower(*text);
        r2_buf_add(out, &c, 1);
    }
}

/* Trimmed, and every run of white space one space. */
static void add_trimmed(struct r2_buf *out, const char *text)
{
    bool space = false, any = false;
    for (; *text; text++) {
        if (*text == ' ' || (*text >= '\t' && *text <= '\r')) {
            space = any;
            continue;
        }
        if (space) r2_buf_add(out, " ", 1);
        r2_buf_add(out, text, 1);
        space = false, any = true;
    }
}

/* The headers' two places in the canonical request: "name:value\n" each, and "name;name". */
static bool canonical_headers(const struct r2_pair *sorted, size_t n, struct r2_buf *lines,
                              struct r2_buf *names)
{
    for (size_t i = 0; i < n; i++) {
        add_lower(lines, sorted[i].name);
        r2_buf_str(lines, ":");
        add_trimmed(lines, sorted[i].value ? sorted[i].value : "");
        r2_buf_str(lines, "\n");
        if (i) r2_buf_str(names, ";");
        add_lower(names, sorted[i].name);
    }
    return !lines->failed && !names->failed;
}

static bool hmac(const void *key, size_t key_n, const char *text, uint8_t out[SHA_BYTES])
{
    unsigned n = SHA_BYTES;
    return HMAC(EVP_sha256(), key, (int)key_n, (const uint8_t *)text, strlen(text), out, &n) &&
           n == SHA_BYTES;
}

/* hex(HMAC(signing key, "AWS4-HMAC-SHA256\n...")), where the key is a chain of four HMACs. */
static bool signature(const struct r2_sigv4 *s, const char *stamp, const char *scope,
                      const struct r2_buf *canonical, char out[R2_SHA256_HEX])
{
    char secret[R2_TEXT_BYTES + 8], day[9], hash[R2_SHA256_HEX], text[512];
    uint8_t key[SHA_BYTES], next[SHA_BYTES];
    int n = snprintf(secret, sizeof secret, "AWS4%s", s->cred->secret_key);
    snprintf(day, sizeof day, "%.8s", stamp);
    bool ok = r2_sha256_hex(canonical->at, canonical->len, hash);
    int m = snprintf(text, sizeof text, "%s\n%s\n%s\n%s", ALGORITHM, stamp, scope, hash);
    ok = ok && n > 0 && (size_t)n < sizeof secret && m > 0 && (size_t)m < sizeof text;
    ok = ok && hmac(secret, (size_t)n, day, key) && hmac(key, SHA_BYTES, s->region, next) &&
         hmac(next, SHA_BYTES, "s3", key) && hmac(key, SHA_BYTES, "aws4_request", next) &&
         hmac(next, SHA_BYTES, text, key);
    if (ok) r2_hex(key, SHA_BYTES, out);
    OPENSSL_cleanse(secret, sizeof secret);
    OPENSSL_cleanse(next, sizeof next);
    return ok;
}

/* Sign a request whose canonical query and sorted headers are given. */
static bool sign(const struct r2_sigv4 *s, const char *query, const struct r2_pair *headers,
                 size_t n, const char *stamp, const char *scope, struct r2_buf *names,
                 char out[R2_SHA256_HEX])
{
    struct r2_buf canonical, lines;
    r2_buf_init(&canonical, CANONICAL_MAX);
    r2_buf_init(&lines, CANONICAL_MAX);
    bool ok = canonical_headers(headers, n, &lines, names);
    ok = ok &&
         r2_buf_printf(&canonical, "%s\n%s\n%s\n%s\n%s\n%s", s->method, s->path, query, lines.at,
                       names->at, s->payload) &&
         signature(s, stamp, scope, &canonical, out);
    r2_buf_free(&lines);
    r2_buf_free(&canonical);
    return ok;
}

static bool scope_of(const struct r2_sigv4 *s, const char *stamp, char out[SCOPE_BYTES])
{
    int n = snprintf(out, SCOPE_BYTES, "%.8s/%s/s3/aws4_request", stamp, s->region);
    return n > 0 && n < SCOPE_BYTES;
}

bool r2_sigv4_authorization(const struct r2_sigv4 *s, struct r2_buf *out)
{
    struct r2_pair all[R2_SIGNED_MAX];
    char stamp[R2_STAMP_BYTES], scope[SCOPE_BYTES], hex[R2_SHA256_HEX];
    struct r2_buf query, names;
    size_t n = s->header_count;
    if (n + 4 > R2_SIGNED_MAX) return false;
    r2_sigv4_stamp(s->time_s, stamp);
    if (n) memcpy(all, s->headers, n * sizeof *all);
    all[n++] = (struct r2_pair){"host", s->host};
    all[n++] = (struct r2_pair){"x-amz-content-sha256", s->payload};
    all[n++] = (struct r2_pair){"x-amz-date", stamp};
    if (s->cred->session_token[0])
        all[n++] = (struct r2_pair){"x-amz-security-token", s->cred->session_token};
    qsort(all, n, sizeof *all, by_lower_name);
    r2_buf_init(&query, CANONICAL_MAX);
    r2_buf_init(&names, CANONICAL_MAX);
    r2_buf_add(&query, "", 0);
    bool ok = scope_of(s, stamp, scope) && r2_sigv4_query(&query, s->query, s->query_count) &&
              sign(s, query.at, all, n, stamp, scope, &names, hex) &&
              r2_buf_printf(out, "%s Credential=%s/%s,SignedHeaders=%s,Signature=%s", ALGORITHM,
                            s->cred->access_key, scope, names.at, hex);
    r2_buf_free(&names);
    r2_buf_free(&query);
    return ok;
}

bool r2_sigv4_presign(const struct r2_sigv4 *s, int64_t seconds, struct r2_buf *out)
{
    struct r2_pair all[R2_SIGNED_MAX], query[R2_SIGNED_MAX];
    char stamp[R2_STAMP_BYTES], scope[SCOPE_BYTES], hex[R2_SHA256_HEX], life[24];
    char credential[R2_TEXT_BYTES + SCOPE_BYTES];
    struct r2_buf lines, names;
    size_t n = s->header_count, q = s->query_count;
    if (n + 1 > R2_SIGNED_MAX || q + 6 > R2_SIGNED_MAX) return false;
    r2_sigv4_stamp(s->time_s, stamp);
    if (!scope_of(s, stamp, scope)) return false;
    snprintf(life, sizeof life, "%lld", (long long)seconds);
    snprintf(credential, sizeof credential, "%s/%s", s->cred->access_key, scope);
    if (n) memcpy(all, s->headers, n * sizeof *all);
    all[n++] = (struct r2_pair){"host", s->host};
    qsort(all, n, sizeof *all, by_lower_name);
    r2_buf_init(&lines, CANONICAL_MAX);
    r2_buf_init(&names, CANONICAL_MAX);
    bool ok = canonical_headers(all, n, &lines, &names);
    r2_buf_reset(&lines);
    if (q) memcpy(query, s->query, q * sizeof *query);
    query[q++] = (struct r2_pair){"X-Amz-Algorithm", ALGORITHM};
    query[q++] = (struct r2_pair){"X-Amz-Credential", credential};
    query[q++] = (struct r2_pair){"X-Amz-Date", stamp};
    query[q++] = (struct r2_pair){"X-Amz-Expires", life};
    query[q++] = (struct r2_pair){"X-Amz-SignedHeaders", names.at};
    if (s->cred->session_token[0])
        query[q++] = (struct r2_pair){"X-Amz-Security-Token", s->cred->session_token};
    ok = ok && r2_sigv4_query(&lines, query, q);
    r2_buf_reset(&names);
    ok = ok && sign(s, lines.at, all, n, stamp, scope, &names, hex) &&
         r2_buf_printf(out, "%s&X-Amz-Signature=%s", lines.at, hex);
    r2_buf_free(&names);
    r2_buf_free(&lines);
    return ok;
}
