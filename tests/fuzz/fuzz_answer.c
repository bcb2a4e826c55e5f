/* fuzz_answer.c - the header lines of an answer, and what it is taken for. */
#include "fuzz.h"

#include "../../vfs/store_s3.h"

static void consistent(const struct r2_answer *a)
{
    char value[R2_META_BYTES + 1];
    RULE(memchr(a->etag, 0, sizeof a->etag) && memchr(a->type, 0, sizeof a->type));
    RULE(!a->has_range || (a->range_first <= a->range_last && a->range_last < a->range_total));
    RULE(a->modified_ms >= 0 && a->date_ms >= 0);
    RULE(a->retry_after_ms >= 0 && a->retry_after_ms <= 86400000);
    RULE(!a->has_length || a->length <= INT64_MAX);
    RULE(a->meta->len <= R2_META_BYTES && strlen(a->meta->text) == a->meta->len);
    (void)r2_meta_get(a->meta, "db-version", value, sizeof value);
    RULE(strlen(value) <= R2_META_BYTES);
}

/* What may be believed of it. */
static void judged(const struct r2_s3_req *q, const struct r2_answer *a, int64_t signed_ms)
{
    struct r2_s3_verdict v;
    struct r2_err e;
    r2_err_clear(&e);
    r2_s3_judge(q, a, signed_ms, &v, &e);
    sentence(v.code, &e);
    RULE(v.code != R2_OK || (a->outcome == R2_ANSWERED && a->status >= 200 && a->status < 300));
    RULE(v.code != R2_OK || !v.again);
    RULE(v.code != R2_OK || q->changes || a->whole);
    RULE(!v.doubt || q->changes);
    RULE(v.code != R2_UNKNOWN || q->changes);
    RULE(v.wait_ms >= 0 && v.wait_ms <= 86400000);
    /* a condition is only lost when the server says so */
    RULE(v.code != R2_PRECONDITION || q->promise || a->status == 412 || a->status == 409 ||
         (a->status == 404 && q->must_exist));
    if (a->outcome == R2_NO_ANSWER && q->changes) RULE(v.doubt);
    if (a->outcome == R2_NOT_SENT) RULE(!v.doubt);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct r2_meta meta;
    static struct r2_sink sink;
    struct input in = {bytes, n};
    struct r2_answer a;
    uint8_t flags = take8(&in), more = take8(&in);
    int64_t signed_ms = (int64_t)(take64(&in) >> 20);
    struct r2_s3_req q = {.method = flags & 1 ? "PUT" : "GET",
                          .verb = "read",
                          .key = "k",
                          .changes = flags & 1,
                          .must_exist = flags & 2,
                          .promise = flags & 4 && flags & 1,
                          .resumes = flags & 8,
                          .sink = flags & 16 ? &sink : NULL};
    r2_answer_init(&a, &meta);
    while (in.left && *in.at != '\n') {
        size_t len = 0;
        while (len < in.left && in.at[len] != '\n')
            len++;
        len += len < in.left;
        uint8_t *line = take_bytes(&in, len);
        r2_answer_header(&a, (char *)line, len);
        free(line);
        consistent(&a);
    }
    (void)take8(&in);
    r2_buf_add(&a.text, in.at, in.left < R2_HTTP_TEXT ? in.left : R2_HTTP_TEXT);
    a.outcome = (enum r2_outcome)(more % 3);
    a.whole = more & 4, a.short_body = more & 8, a.fit = more & 32;
    a.untrusted = more & 16 && a.outcome == R2_NOT_SENT;
    judged(&q, &a, signed_ms);
    r2_answer_free(&a);
    return 0;
}
