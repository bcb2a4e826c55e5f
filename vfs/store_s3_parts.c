/* store_s3_parts.c - how a large body is cut into parts, and which of them the store has already,
 * in the object that is to be replaced; see store_s3.h.
 *
 * Such a part is copied on the store's side (UploadPartCopy). R2 takes no condition on the source
 * there, so that a copy is of whatever stands at the key then. Why nothing but the right bytes
 * comes of it all the same:
 *
 *   - Complete carries If-Match with the ETag E of the object O whose parts are taken. Whoever
 *     replaced O meanwhile with other bytes left another ETag, which is an MD5 of the bytes: it
 *     fails, and the parts are dropped with the upload. (Stores that ignore a condition there: the
 *     look just before it.)
 *   - E can come back only with O's own bytes, put back by hand. Was the same object all the time
 *     at the key, every copy is of it; was another one there in between, a copy may be of that one,
 *     and E holds again. That is what the next check is for.
 *   - R2's ETag of a part is the MD5 of its bytes, also when it was copied: compared with what
 *     the body has there, before Complete. And the ETag of the whole is the MD5 of all those MD5s:
 *     compared after Complete, for stores whose ETags of parts say nothing. What differs is
 *     uploaded, all of it, and this store is not asked to copy again. */
#include "store_s3.h"
#include "os.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS_MAX = 10000, COPY_TRIES = 3 };
#define MIB ((uint64_t)1 << 20)
/* One request more is worth so many bytes that need not be sent. */
#define PART_WORTH MIB

/* ---- the cut ---- */

/* Has the old object these bytes? */
static bool is_there(const struct r2_reuse *old, uint64_t from, uint64_t to)
{
    if (to > old->size) return false;
    uint64_t last = (to - 1) / old->block;
    for (uint64_t k = from / old->block; k <= last; k++)
        if (old->changed[k / 8] >> k % 8 & 1) return false;
    return true;
}

static uint64_t part_end(const struct r2_s3_cut *cut, uint64_t size, uint64_t index)
{
    uint64_t end = (index + 1) * cut->part_size;
    return end < size ? end : size;
}

bool r2_s3_part_is_there(const struct r2_s3_cut *cut, uint64_t size, const struct r2_reuse *old,
                         uint64_t index)
{
    return cut->copies && is_there(old, index * cut->part_size, part_end(cut, size, index));
}

static struct r2_s3_cut cut_by(uint64_t size, uint64_t part_size, const struct r2_reuse *old)
{
    struct r2_s3_cut cut = {
        .part_size = part_size, .parts = (size + part_size - 1) / part_size, .copies = old ? 1 : 0};
    cut.sent = size;
    uint64_t copies = 0;
    for (uint64_t i = 0; old && i < cut.parts; i++) {
        if (!r2_s3_part_is_there(&cut, size, old, i)) continue;
        cut.sent -= part_end(&cut, size, i) - i * part_size;
        copies++;
    }
    cut.copies = copies;
    return cut;
}

static uint64_t cost(const struct r2_s3_cut *cut)
{
    return cut->sent + cut->parts * PART_WORTH;
}

struct r2_s3_cut r2_s3_cut(uint64_t size, const struct r2_reuse *old)
{
    /* the smallest is the smallest that S3 takes; a database's pages never lie across two parts */
    static const uint8_t mib[] = {5, 8, 16, 32, 64};
    uint64_t part_size = R2_PART_BYTES, least = (size + PARTS_MAX - 1) / PARTS_MAX;
    if (part_size < least) part_size = (least + MIB - 1) / MIB * MIB;
    struct r2_s3_cut best = cut_by(size, part_size, NULL);
    if (!old || !old->block || !old->changed) return best;
    for (size_t k = 0; k < sizeof mib; k++) {
        if (mib[k] * MIB < least) continue;
        struct r2_s3_cut cut = cut_by(size, mib[k] * MIB, old);
        if (cut.copies && cost(&cut) < cost(&best)) best = cut;
    }
    return best;
}

/* ---- what an ETag says ---- */

enum r2_code r2_s3_md5(const struct r2_body *b, uint8_t out[R2_MD5_BYTES], struct r2_err *e)
{
    return r2_s3_digest(b, EVP_md5(), out, e);
}

/* The quotes are XML's or HTTP's. */
static bool is_hex_md5(const char *etag, const char **after, char hex[2 * R2_MD5_BYTES + 1])
{
    if (*etag == '"') etag++;
    for (size_t k = 0; k < 2 * R2_MD5_BYTES; k++) {
        char c = etag[k];
        if (c >= 'A' && c <= 'F') c = (char)(c - 'A' + 'a');
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
        hex[k] = c;
    }
    hex[2 * R2_MD5_BYTES] = 0;
    *after = etag + 2 * R2_MD5_BYTES;
    return true;
}

bool r2_s3_part_differs(const char *etag, const uint8_t md5[R2_MD5_BYTES])
{
    char said[2 * R2_MD5_BYTES + 1], is[2 * R2_MD5_BYTES + 1];
    const char *after;
    if (!is_hex_md5(etag, &after, said) || (*after && strcmp(after, "\"") != 0)) return false;
    r2_hex(md5, R2_MD5_BYTES, is);
    return strcmp(said, is) != 0;
}

bool r2_s3_whole_differs(const char *etag, const uint8_t (*md5)[R2_MD5_BYTES], uint64_t parts)
{
    char said[2 * R2_MD5_BYTES + 1], is[2 * R2_MD5_BYTES + 1], count[24];
    uint8_t of_all[R2_MD5_BYTES];
    const char *after;
    int n = snprintf(count, sizeof count, "-%llu", (unsigned long long)parts);
    if (!is_hex_md5(etag, &after, said) || strncmp(after, count, (size_t)n) != 0 ||
        (after[n] && strcmp(after + n, "\"") != 0))
        return false;
    if (EVP_Digest(md5, parts * R2_MD5_BYTES, of_all, NULL, EVP_md5(), NULL) != 1) return false;
    r2_hex(of_all, R2_MD5_BYTES, is);
    return strcmp(said, is) != 0;
}

/* ---- the request ---- */

/* "/bucket/key", encoded; without the endpoint's prefix, which only the way to the store needs. */
bool r2_s3_copy_source(const struct r2_s3 *s, const char *key, struct r2_buf *out)
{
    return r2_buf_str(out, "/") && r2_sigv4_encode(out, s->bucket, false) && r2_buf_str(out, "/") &&
           r2_sigv4_encode(out, key, true);
}

enum r2_code r2_s3_copy_part(struct r2_s3 *s, struct r2_call *call, const char *key,
                             const char *upload, uint64_t number, uint64_t from, uint64_t to,
                             char etag[R2_HTTP_ETAG])
{
    char n[24], range[64];
    struct r2_s3_result res;
    struct r2_buf source;
    struct r2_s3_req q = {.method = "PUT",
                          .label = "COPY",
                          .verb = "copy a part of",
                          .key = key,
                          .body = &(struct r2_body){.mem = ""},
                          .changes = true,
                          .promise = true,
                          .tries = COPY_TRIES};
    r2_buf_init(&source, R2_S3_PATH_BYTES);
    if (!r2_s3_copy_source(s, key, &source)) {
        r2_buf_free(&source);
        return r2_fail(call->err, R2_NOMEM, "out of memory");
    }
    snprintf(n, sizeof n, "%llu", (unsigned long long)number);
    snprintf(range, sizeof range, "bytes=%llu-%llu", (unsigned long long)from,
             (unsigned long long)to - 1);
    r2_s3_add_query(&q, "partNumber", n);
    r2_s3_add_query(&q, "uploadId", upload);
    r2_s3_add_header(&q, "x-amz-copy-source", source.at);
    r2_s3_add_header(&q, "x-amz-copy-source-range", range);
    enum r2_code code = r2_s3_perform(s, call, &q, &res);
    if (!code && (!r2_s3_value(res.a.text.at, res.a.text.len, "CopyPartResult", "ETag", etag,
                               R2_HTTP_ETAG) ||
                  !etag[0]))
        code = r2_fail(call->err, R2_CORRUPT, "the answer to a copied part has no usable ETag");
    r2_answer_free(&res.a);
    r2_buf_free(&source);
    return code;
}
