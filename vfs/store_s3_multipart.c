/* store_s3_multipart.c - put a large body: Create, parts, a look, Complete; see store_s3.h.
 *
 * Parts are all equal but the last (R2 insists), at most 10,000. Not every store honours a
 * condition at Complete: a HEAD just before it looks too, and Complete carries the condition as
 * well. A Complete is sent until it is answered once: no answer is R2_UNKNOWN, and then nothing is
 * aborted, since it may still be carried out. Every other failure aborts the upload, so that it is
 * not stored and paid for. A writer that is not fresh (call->fresh_until_ms) neither creates nor
 * completes; parts and the abort change no object, and always go. */
#include "store_s3.h"
#include "os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PARTS_MAX = 10000,
    UPLOAD_ID_BYTES = 2048,
    PART_ETAG_BYTES = R2_HTTP_ETAG, /* some stores put more than a hash into it */
    ABORT_MS = 10000
};
#define PART_UNIT ((uint64_t)1 << 20)

struct upload {
    struct r2_s3 *s;
    const struct r2_put *what;
    uint64_t part_size, parts;
    int64_t budget_ms;
    char (*etags)[PART_ETAG_BYTES];
    struct r2_progress progress;
    char id[UPLOAD_ID_BYTES];
};

/* Complete, and every part, may take as long as one whole call: many parts take longer than that.
 */
static struct r2_call fresh_call(const struct upload *u, const struct r2_call *call)
{
    struct r2_call fresh = *call;
    int64_t until = r2_boot_ms() + u->budget_ms;
    if (until > fresh.deadline_ms) fresh.deadline_ms = until;
    return fresh;
}

static enum r2_code create(struct upload *u, struct r2_call *call)
{
    struct r2_s3_req q = {.method = "POST",
                          .verb = "begin to write",
                          .key = u->what->key,
                          .body = &(struct r2_body){.mem = ""},
                          .changes = true};
    struct r2_s3_result res;
    struct r2_meta *text = malloc(sizeof *text);
    struct r2_buf names;
    r2_buf_init(&names, 2 * R2_META_BYTES + R2_S3_HEADERS * 16);
    memset(&res, 0, sizeof res);
    r2_s3_add_query(&q, "uploads", "");
    enum r2_code code = text ? r2_s3_put_headers(&q, u->what, text, &names, call->err)
                             : r2_fail(call->err, R2_NOMEM, "out of memory");
    if (!code) code = r2_s3_perform(u->s, call, &q, &res);
    if (code == R2_UNKNOWN) code = r2_s3_recode(call, R2_UNREACHABLE); /* no object came of it */
    if (!code && !r2_s3_value(res.a.text.at, res.a.text.len, "InitiateMultipartUploadResult",
                              "UploadId", u->id, sizeof u->id))
        code = r2_fail(call->err, R2_CORRUPT,
                       "cannot begin to write " R2_S3_NAME ": the answer names no upload",
                       u->s->bucket, u->what->key);
    r2_answer_free(&res.a);
    r2_buf_free(&names);
    free(text);
    return code;
}

static enum r2_code send_part(void *ctx, struct r2_call *call, uint64_t index)
{
    struct upload *u = ctx;
    struct r2_body body = u->what->body;
    struct r2_s3_result res;
    char number[24], hash[R2_SHA256_HEX];
    body.off += index * u->part_size;
    body.size -= index * u->part_size;
    if (body.size > u->part_size) body.size = u->part_size;
    struct r2_s3_req q = {.method = "PUT",
                          .verb = "write a part of",
                          .key = u->what->key,
                          .body = &body,
                          .sha256 = hash,
                          .changes = true,
                          .progress = &u->progress};
    snprintf(number, sizeof number, "%llu", (unsigned long long)index + 1);
    r2_s3_add_query(&q, "partNumber", number);
    r2_s3_add_query(&q, "uploadId", u->id);
    enum r2_code code = r2_s3_hash(&body, hash, call->err);
    if (code) return code;
    code = r2_s3_perform(u->s, call, &q, &res);
    if (code == R2_UNKNOWN) code = r2_s3_recode(call, R2_UNREACHABLE); /* a part is no object */
    if (!code && (!res.a.etag[0] || !r2_strcpy(u->etags[index], PART_ETAG_BYTES, res.a.etag)))
        code = r2_fail(call->err, R2_CORRUPT,
                       "cannot write part %s of " R2_S3_NAME ": the answer has no usable ETag",
                       number, u->s->bucket, u->what->key);
    r2_answer_free(&res.a);
    return code;
}

/* Does the condition still hold, as far as a look can tell? */
static enum r2_code look(struct upload *u, struct r2_call *call)
{
    const struct r2_put *what = u->what;
    if (what->when == R2_PUT_ANY) return R2_OK;
    struct r2_object *now = malloc(sizeof *now);
    if (!now) return r2_fail(call->err, R2_NOMEM, "out of memory");
    enum r2_code code = r2_s3_head(&u->s->base, call, what->key, now);
    bool absent = code == R2_MISSING;
    if (absent) {
        code = R2_OK;
        if (call->err) r2_err_clear(call->err);
    }
    bool holds =
        what->when == R2_PUT_IF_ABSENT ? absent : !absent && strcmp(now->etag, what->etag) == 0;
    if (!code && !holds)
        code = r2_fail(call->err, R2_PRECONDITION,
                       "cannot write " R2_S3_NAME ": the object is not the one that was expected",
                       u->s->bucket, what->key);
    free(now);
    return code;
}

static bool complete_body(const struct upload *u, struct r2_buf *xml)
{
    r2_buf_str(xml, "<CompleteMultipartUpload>");
    for (uint64_t i = 0; i < u->parts; i++) {
        r2_buf_printf(xml, "<Part><PartNumber>%llu</PartNumber><ETag>", (unsigned long long)i + 1);
        r2_s3_escape(xml, u->etags[i]);
        r2_buf_str(xml, "</ETag></Part>");
    }
    return r2_buf_str(xml, "</CompleteMultipartUpload>");
}

/* A 200 of Complete is a promise to tell later: its body says what became of it. */
static enum r2_code completed(struct upload *u, struct r2_call *call, const struct r2_answer *a,
                              struct r2_object *out)
{
    struct r2_s3_error s3;
    char etag[R2_ETAG_BYTES - 2];
    const char *key = u->what->key, *bucket = u->s->bucket;
    bool error = a->whole && r2_s3_error(a->text.at, a->text.len, &s3);
    if (error && (strcmp(s3.code, "PreconditionFailed") == 0 ||
                  strcmp(s3.code, "ConditionalRequestConflict") == 0))
        return r2_fail(call->err, R2_PRECONDITION,
                       "cannot write " R2_S3_NAME ": the object is not the one that was expected",
                       bucket, key);
    if (error && strcmp(s3.code, "InternalError") != 0)
        return r2_fail(call->err, R2_REFUSED,
                       "cannot write " R2_S3_NAME ": putting its parts together failed (%s: %s)",
                       bucket, key, s3.code, s3.message);
    if (error || !a->whole ||
        !r2_s3_value(a->text.at, a->text.len, "CompleteMultipartUploadResult", "ETag", etag,
                     sizeof etag) ||
        !etag[0])
        return r2_fail(call->err, R2_UNKNOWN,
                       "cannot tell whether " R2_S3_NAME " was written: putting its parts together "
                       "was not confirmed%s; it may or may not have happened",
                       bucket, key, error ? " (InternalError)" : "");
    if (!out) return R2_OK;
    bool quoted = etag[0] == '"';
    snprintf(out->etag, sizeof out->etag, quoted ? "%s" : "\"%s\"", etag);
    out->size = u->what->body.size;
    return R2_OK;
}

static enum r2_code complete(struct upload *u, struct r2_call *call, struct r2_object *out)
{
    struct r2_s3_result res;
    struct r2_body body = {0};
    struct r2_buf xml;
    char hash[R2_SHA256_HEX];
    struct r2_s3_req q = {.method = "POST",
                          .verb = "write",
                          .key = u->what->key,
                          .body = &body,
                          .sha256 = hash,
                          .changes = true};
    memset(&res, 0, sizeof res);
    r2_buf_init(&xml, PARTS_MAX * (PART_ETAG_BYTES + 100));
    r2_s3_add_query(&q, "uploadId", u->id);
    r2_s3_add_header(&q, "content-type", "application/xml");
    r2_s3_put_condition(&q, u->what);
    q.once = true;        /* a second Complete of a done one answers 404, which tells nothing */
    q.must_exist = false; /* so a 404 is the upload's, not the object's */
    enum r2_code code =
        complete_body(u, &xml) ? R2_OK : r2_fail(call->err, R2_NOMEM, "out of memory");
    body.mem = xml.at, body.size = xml.len;
    if (!code) code = r2_s3_hash(&body, hash, call->err);
    if (!code) code = r2_s3_perform(u->s, call, &q, &res);
    if (!code)
        code = completed(u, call, &res.a, out);
    else if (code == R2_MISSING && res.attempts > 1) {
        code = r2_s3_recode(call, R2_UNKNOWN); /* an earlier attempt may have done it after all */
        r2_advise(call->err, "; it may or may not have happened");
    }
    r2_answer_free(&res.a);
    r2_buf_free(&xml);
    return code;
}

/* With a few seconds of its own, and no complaint: the store drops leftovers after a week. */
static void give_back(struct upload *u, const struct r2_call *call)
{
    struct r2_err ignored;
    struct r2_s3_result res;
    struct r2_call mine = *call;
    struct r2_s3_req q = {
        .method = "DELETE", .verb = "abort writing", .key = u->what->key, .changes = true};
    r2_err_clear(&ignored);
    mine.err = &ignored;
    mine.fresh_until_ms = 0;
    mine.deadline_ms = r2_boot_ms() + ABORT_MS;
    r2_s3_add_query(&q, "uploadId", u->id);
    (void)r2_s3_perform(u->s, &mine, &q, &res);
    r2_answer_free(&res.a);
}

enum r2_code r2_s3_put_parts(struct r2_s3 *s, struct r2_call *call, const struct r2_put *what,
                             struct r2_object *out)
{
    struct upload u = {.s = s, .what = what, .part_size = R2_PART_BYTES};
    uint64_t least = (what->body.size + PARTS_MAX - 1) / PARTS_MAX;
    if (u.part_size < least) u.part_size = (least + PART_UNIT - 1) / PART_UNIT * PART_UNIT;
    u.parts = (what->body.size + u.part_size - 1) / u.part_size;
    u.budget_ms = call->deadline_ms - r2_boot_ms();
    u.etags = calloc(u.parts, sizeof *u.etags);
    if (!u.etags) return r2_fail(call->err, R2_NOMEM, "out of memory");
    r2_progress_begin(&u.progress, call->progress, "uploading", what->key, what->body.size);
    enum r2_code code = create(&u, call);
    bool begun = !code;
    if (!code) {
        struct r2_call parts = fresh_call(&u, call);
        parts.fresh_until_ms = 0;
        code = r2_store_parallel(&parts, R2_S3_AT_ONCE, u.parts, send_part, &u, call->err);
    }
    if (!code) {
        struct r2_call last = fresh_call(&u, call);
        code = look(&u, &last);
        if (!code) code = complete(&u, &last, out);
        call->signed_ms = last.signed_ms;
        call->took_ms = last.took_ms;
    }
    r2_progress_end(&u.progress);
    if (begun && code && code != R2_UNKNOWN) give_back(&u, call);
    free(u.etags);
    return code;
}
