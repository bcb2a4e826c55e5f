/* sigv4.h - AWS Signature Version 4 for S3. Pure: the same input gives the same text.
 *
 *   canonical request: METHOD \n path \n query \n name:value\n ... \n names;... \n payload
 *   to be signed:      AWS4-HMAC-SHA256 \n stamp \n scope \n hex(sha256(canonical request))
 *   scope:             YYYYMMDD/region/s3/aws4_request
 *
 * S3's own rules: the path is encoded once and never normalised; everything but A-Za-z0-9-._~ (and
 * '/' in paths) becomes %XX; the query is sorted after it was encoded. */
#ifndef R2_SIGV4_H
#define R2_SIGV4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "config.h"

#define R2_UNSIGNED_PAYLOAD "UNSIGNED-PAYLOAD"
#define R2_EMPTY_SHA256     "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

enum {
    R2_SHA256_HEX = 65,  /* bytes, terminator included */
    R2_STAMP_BYTES = 17, /* 20130524T000000Z and terminator */
    R2_SIGNED_MAX = 96   /* most headers, and most query pairs, of one request */
};

/* False once exit() has taken OpenSSL down: whoever would hash or sign after that must not. */
bool r2_crypto_ready(void);

/* A header, or a query parameter not yet encoded. A NULL value is an empty one. */
struct r2_pair {
    const char *name;
    const char *value;
};

struct r2_sigv4 {
    const char *method;
    const char *host;            /* as in the Host header: with the port unless it is the default */
    const char *path;            /* as in the request line: already encoded, begins with '/' */
    const struct r2_pair *query; /* not encoded, any order */
    size_t query_count;
    const struct r2_pair *headers; /* to be signed besides the four below; no name twice */
    size_t header_count;
    const char *payload; /* hex SHA-256 of the body, or R2_UNSIGNED_PAYLOAD */
    const struct r2_credentials *cred;
    const char *region;
    int64_t time_s; /* since 1970 */
};

/* The value of the Authorization header. Host, x-amz-content-sha256 (payload), x-amz-date (the
 * stamp of time_s) and, if there is a session token, x-amz-security-token are always signed: the
 * caller sends them with just these values. false: no memory, too many headers, or `out` is full.
 */
bool r2_sigv4_authorization(const struct r2_sigv4 *s, struct r2_buf *out);

/* The whole query (without '?') of a URL that is valid for `seconds`; signs host and s->headers,
 * with the payload as given (R2_UNSIGNED_PAYLOAD for S3). */
bool r2_sigv4_presign(const struct r2_sigv4 *s, int64_t seconds, struct r2_buf *out);

/* Append `text`, percent-encoded. */
bool r2_sigv4_encode(struct r2_buf *out, const char *text, bool keep_slash);
/* Append the canonical query, which is also the one to send. */
bool r2_sigv4_query(struct r2_buf *out, const struct r2_pair *query, size_t n);
void r2_sigv4_stamp(int64_t time_s, char out[R2_STAMP_BYTES]);
bool r2_sha256_hex(const void *bytes, size_t n, char out[R2_SHA256_HEX]);
void r2_hex(const uint8_t *bytes, size_t n, char *out); /* writes 2n characters and a terminator */

#endif
