/* store_s3_multipart.c - put a large body: Create, parts, a look, Complete; see store_s3.h.
 *
 * Parts are all equal but the last (R2 insists), at most 10,000: see store_s3_parts.c, also for
 * those that the store copies. One that it does not copy, for whatever reason, is sent. Not every
 * store honours a condition at Complete: a HEAD just before it looks too, and Complete carries the
 * condition as well. A Complete is sent until it is answered once: no answer is R2_UNKNOWN, and
 * then nothing is aborted, since it may still be carried out. Every other failure aborts the
 * upload, so that it is not stored and paid for. A writer that is not fresh (call->fresh_until_ms)
 * neither creates nor completes; parts and the abort change no object, and always go. */
#include "store_s3.h"
#include "os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    UPLOAD_ID_BYTES = 2048,
    PART_ETAG_BYTES = R2_HTTP_ETAG, /* some stores put more than a hash into it */
    COPIES_FAIL = 3,                /* then all that is left is sent */
    ABORT_MS = 10000
};

struct upload {
    struct r2_s3 *s;
    const struct r2_put *what;
    struct r2_s3_cut cut;
    int64_t budget_ms;
    char (*etags)[PART_ETAG_BYTES];
    uint8_t (*md5)[R2_MD5_BYTES]; /* of each part as it should be; NULL: none is copied */
    _Atomic unsigned failed;      /* copies */
    _Atomic bool copied;          /* at least one part */
    _Atomic bool wrong;           /* a copy is not what it should be, or cannot be used */
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

/* *done: the store has copied it. What it cannot copy, or only says that it has, is sent. */
static enum r2_code copy_part(struct upload *u, struct r2_call *call, uint64_t index,
                              const struct r2_body *body, bool *done)
{
    uint64_t from = body->off - u->what->body.off;
    enum r2_code code = r2_s3_copy_part(u->s, call, u->what->key, u->id, index + 1, from,
                                        from + body->size, u->etags[index]);
    *done = !code;
    if (code) {
        atomic_fetch_add(&u->failed, 1);
        if (call->err) r2_err_clear(call->err);
        return R2_OK;
    }
    if (r2_s3_part_differs(u->etags[index], u->md5[index])) {
        atomic_store(&u->wrong, true);
        return r2_fail(call->err, R2_CORRUPT, "a part that was copied has other bytes");
    }
    atomic_store(&u->copied, true);
    r2_progress_add(&u->progress, (int64_t)body->size);
    return R2_OK;
}

static enum r2_code put_part(struct upload *u, struct r2_call *call, uint64_t index,
                             const struct r2_body *body)
{
    struct r2_s3_result res;
    char number[24], hash[R2_SHA256_HEX];
    struct r2_s3_req q = {.method = "PUT",
                          .verb = "write a part of",
                          .key = u->what->key,
                          .body = body,
                          .sha256 = hash,
                          .changes = true,
                          .progress = &u->progress};
    snprintf(number, sizeof number, "%llu", (unsigned long long)index + 1);
    r2_s3_add_query(&q, "partNumber", number);
    r2_s3_add_query(&q, "uploadId", u->id);
    enum r2_code code = r2_s3_hash(body, hash, call->err);
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

static enum r2_code send_part(void *ctx, struct r2_call *call, uint64_t index)
{
    struct upload *u = ctx;
    struct r2_body body = u->what->body;
    uint64_t at = index * u->cut.part_size;
    bool done = false;
    body.off += at;
    body.size -= at;
    if (body.size > u->cut.part_size) body.size = u->cut.part_size;
    enum r2_code code = u->md5 ? r2_s3_md5(&body, u->md5[index], call->err) : R2_OK;
    if (!code && r2_s3_part_is_there(&u->cut, u->what->body.size, u->what->reuse, index) &&
        atomic_load(&u->failed) < COPIES_FAIL)
        code = copy_part(u, call, index, &body, &done);
    return code || done ? code : put_part(u, call, index, &body);
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
    for (uint64_t i = 0; i < u->cut.parts; i++) {
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
    r2_buf_init(&xml, u->cut.parts * (PART_ETAG_BYTES + 100));
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

static enum r2_code run(struct upload *u, struct r2_call *call, struct r2_object *out)
{
    enum r2_code code = create(u, call);
    if (code) return code;
    struct r2_call parts = fresh_call(u, call);
    parts.fresh_until_ms = 0;
    code = r2_store_parallel(&parts, R2_S3_AT_ONCE, u->cut.parts, send_part, u, call->err);
    if (!code) {
        struct r2_call last = fresh_call(u, call);
        code = look(u, &last);
        if (!code) code = complete(u, &last, out);
        if (code == R2_REFUSED && atomic_load(&u->copied)) atomic_store(&u->wrong, true);
        call->signed_ms = last.signed_ms;
        call->took_ms = last.took_ms;
    }
    if (code && code != R2_UNKNOWN) give_back(u, call);
    return code;
}

/* *wrong: a copied part has other bytes, or is refused. R2_OK all the same: that was noticed after
 * Complete, and the object that stands there now is `out`. */
static enum r2_code put_parts(struct r2_s3 *s, struct r2_call *call, const struct r2_put *what,
                              struct r2_object *out, bool *wrong)
{
    const struct r2_reuse *old = what->when == R2_PUT_IF_MATCH ? what->reuse : NULL;
    struct upload u = {.s = s, .what = what, .cut = r2_s3_cut(what->body.size, old)};
    u.budget_ms = call->deadline_ms - r2_boot_ms();
    u.etags = calloc(u.cut.parts, sizeof *u.etags);
    u.md5 = u.cut.copies ? calloc(u.cut.parts, sizeof *u.md5) : NULL;
    enum r2_code code = R2_OK;
    if (!u.etags || (u.cut.copies && !u.md5)) code = r2_fail(call->err, R2_NOMEM, "out of memory");
    r2_progress_begin(&u.progress, call->progress, "uploading", what->key, what->body.size);
    if (!code) code = run(&u, call, out);
    r2_progress_end(&u.progress);
    *wrong = atomic_load(&u.wrong);
    if (!code && atomic_load(&u.copied))
        *wrong = r2_s3_whole_differs(out->etag, (const uint8_t(*)[R2_MD5_BYTES])u.md5, u.cut.parts);
    free(u.md5);
    free(u.etags);
    return code;
}

enum r2_code r2_s3_put_parts(struct r2_s3 *s, struct r2_call *call, const struct r2_put *what,
                             struct r2_object *out)
{
    struct r2_put plain = *what;
    struct r2_object *now = calloc(1, sizeof *now);
    int64_t budget_ms = call->deadline_ms - r2_boot_ms();
    bool wrong;
    if (!now) return r2_fail(call->err, R2_NOMEM, "out of memory");
    if (atomic_load(&s->no_copies)) plain.reuse = NULL;
    enum r2_code code = put_parts(s, call, &plain, now, &wrong);
    if (wrong) { /* all of it, in place of what was made or not made of it */
        char made[R2_ETAG_BYTES];
        bool stands = !code;
        atomic_store(&s->no_copies, true);
        plain.reuse = NULL;
        memcpy(made, now->etag, sizeof made);
        if (stands) plain.etag = made;
        if (call->err) r2_err_clear(call->err);
        call->deadline_ms = r2_boot_ms() + budget_ms;
        code = put_parts(s, call, &plain, now, &wrong);
        if (stands && code && code != R2_PRECONDITION) {
            code = r2_s3_recode(call, R2_CORRUPT);
            if (call->err)
                r2_wrap(call->err,
                        R2_S3_NAME " was put together of other bytes than it should have, and "
                                   "could not be written again",
                        s->bucket, what->key);
        }
    }
    if (!code && out) *out = *now;
    free(now);
    return code;
}
