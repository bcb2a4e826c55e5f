/* store_s3_verdict.c - what an answer of the S3 API means; see store_s3.h. Pure. */
#include "store_s3.h"

#include <string.h>

enum { SAME_KEY_WAIT_MS = 1000, SKEW_MS = 14 * 60 * 1000 };

static bool is(const struct r2_s3_error *s3, const char *code)
{
    return strcmp(s3->code, code) == 0;
}

static bool is_one_of(const struct r2_s3_error *s3, const char *const *codes)
{
    for (; *codes; codes++)
        if (is(s3, *codes)) return true;
    return false;
}

/* 401 and 403. A HEAD has no body that says why: then the Date tells a wrong clock. */
static void denied(const struct r2_answer *a, const struct r2_s3_error *s3, int64_t signed_ms,
                   struct r2_s3_verdict *v, struct r2_err *e)
{
    int64_t server = s3->server_time_ms ? s3->server_time_ms : a->date_ms;
    int64_t off = server ? server - signed_ms : 0;
    bool far = off > SKEW_MS || off < -SKEW_MS;
    v->code = R2_DENIED;
    if (is(s3, "RequestTimeTooSkewed") || is(s3, "RequestExpired") || (!s3->code[0] && far)) {
        v->skewed = far;
        v->skew_ms = off;
        r2_fail(e, R2_DENIED, "this machine's clock is more than 15 minutes wrong (%d%s%s); set it",
                a->status, s3->code[0] ? " " : "", s3->code);
    } else if (is(s3, "SignatureDoesNotMatch")) {
        r2_fail(e, R2_DENIED,
                "the remote refused the signature (SignatureDoesNotMatch); check "
                "R2_SECRET_ACCESS_KEY");
    } else if (is(s3, "InvalidAccessKeyId") || is(s3, "Unauthorized") || a->status == 401) {
        r2_fail(e, R2_DENIED,
                "the remote does not know this access key (%d%s%s); check R2_ACCESS_KEY_ID and the "
                "account in the endpoint (R2_ACCOUNT_ID, R2_ENDPOINT)",
                a->status, s3->code[0] ? " " : "", s3->code);
    } else if (is(s3, "ExpiredToken") || is(s3, "InvalidToken") || is(s3, "TokenRefreshRequired")) {
        r2_fail(e, R2_DENIED,
                "the session token is not valid (any more) (%s); get a new one and set "
                "R2_SESSION_TOKEN",
                s3->code);
    } else if (is(s3, "AccessDenied")) {
        r2_fail(e, R2_DENIED,
                "the remote denied it (%d AccessDenied): the token has no permission for this; "
                "give it Object Read & Write for this bucket, or use another token",
                a->status);
    } else {
        r2_fail(e, R2_DENIED,
                "the remote denied it (%d%s%s) and did not say why; check R2_ACCESS_KEY_ID and "
                "R2_SECRET_ACCESS_KEY, that the token may read and write this bucket, and that "
                "this machine's clock is right",
                a->status, s3->code[0] ? " " : "", s3->code);
    }
}

static void missing(const struct r2_s3_req *q, const struct r2_s3_error *s3,
                    struct r2_s3_verdict *v, struct r2_err *e)
{
    if (is(s3, "NoSuchBucket")) {
        v->code = r2_fail(e, R2_MISSING,
                          "there is no such bucket at this endpoint; create it, or correct the "
                          "remote or the endpoint (R2_ACCOUNT_ID, R2_JURISDICTION, R2_ENDPOINT)");
    } else if (q->must_exist) {
        v->code = r2_fail(e, R2_PRECONDITION, "the object that was to be replaced does not exist");
    } else if (is(s3, "NoSuchUpload")) {
        v->code = r2_fail(e, R2_MISSING, "the multipart upload does not exist (any more)");
    } else {
        v->code = r2_fail(e, R2_MISSING, "there is no such object%s",
                          s3->code[0] ? "" : ", or no such bucket"); /* a HEAD does not say */
    }
}

/* Other answers of 4xx, all of them "nothing was changed". */
static void refused(const struct r2_answer *a, const struct r2_s3_error *s3,
                    struct r2_s3_verdict *v, struct r2_err *e)
{
    static const char *const damaged[] = {"XAmzContentSHA256Mismatch", "BadDigest", "InvalidDigest",
                                          "IncompleteBody", NULL};
    static const char *const token[] = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired",
                                        NULL};
    static const char *const too_large[] = {"EntityTooLarge", "MetadataTooLarge", "KeyTooLongError",
                                            "KeyTooLong", NULL};
    if (is_one_of(s3, token)) {
        denied(a, s3, 0, v, e);
    } else if (is_one_of(s3, damaged)) {
        v->code = r2_fail(e, R2_REFUSED,
                          "the remote received other bytes than were sent (%s); a proxy changes "
                          "them, or the file was written to meanwhile",
                          s3->code);
    } else if (is_one_of(s3, too_large)) {
        v->code = r2_fail(e, R2_REFUSED, "it is too large for the remote (%s)", s3->code);
    } else if (a->status == 411) {
        v->code = r2_fail(e, R2_REFUSED, "a proxy removed the Content-Length (411)");
    } else {
        v->code =
            r2_fail(e, R2_REFUSED, "the remote refused the request (%d%s%s%s%s)", a->status,
                    s3->code[0] ? " " : "", s3->code, s3->message[0] ? ": " : "", s3->message);
    }
}

static void success(const struct r2_s3_req *q, const struct r2_answer *a, struct r2_s3_verdict *v,
                    struct r2_err *e)
{
    if (q->changes || (a->whole && (!q->sink || a->fit))) {
        v->code = R2_OK; /* what a change answered with is its caller's to look at */
    } else if (q->sink && !a->fit) {
        v->code =
            r2_fail(e, R2_CORRUPT,
                    "the answer (%d, %s%s) is not the object's; does something between here "
                    "and the endpoint answer in its place? Log in to the network, or correct the "
                    "endpoint",
                    a->status, a->type[0] ? a->type : "no type", a->etag[0] ? "" : ", no ETag");
    } else if (a->short_body) {
        v->code = r2_fail(e, R2_CORRUPT, "the answer ended before its Content-Length");
        v->again = v->short_body = true;
    } else {
        v->code = r2_fail(e, R2_UNREACHABLE, "the connection was lost in the middle (%s)", a->why);
        v->again = true;
    }
}

static void without_answer(const struct r2_s3_req *q, const struct r2_answer *a,
                           struct r2_s3_verdict *v, struct r2_err *e)
{
    v->again = true;
    v->code = R2_UNREACHABLE;
    if (a->untrusted) {
        v->again = false;
        r2_fail(e, v->code,
                "the server's TLS certificate is not trusted (%s); check the endpoint, this "
                "machine's clock and CA certificates, or set CURL_CA_BUNDLE",
                a->why);
    } else if (a->wrong_url) {
        v->again = false;
        v->code = r2_fail(e, R2_CONFIG, "curl cannot use this endpoint (%s)", a->why);
    } else if (a->outcome == R2_NOT_SENT) {
        r2_fail(e, v->code, "no connection (%s); check the network and the endpoint", a->why);
    } else {
        v->doubt = q->changes;
        r2_fail(e, v->code, "no answer (%s); check the network and the endpoint",
                a->why[0] ? a->why : "the connection was closed");
    }
}

/* The status that a 200's body stands for, where the 200 only promised; 0: it does not say. */
static int status_meant(const struct r2_answer *a, const struct r2_s3_error *s3)
{
    char etag[R2_HTTP_ETAG];
    if (!a->whole) return 0;
    if (is(s3, "PreconditionFailed")) return 412;
    if (is(s3, "NoSuchKey") || is(s3, "NoSuchBucket")) return 404;
    if (is(s3, "AccessDenied")) return 403;
    if (is(s3, "InternalError")) return 500;
    if (s3->code[0]) return 400;
    const char *xml = a->text.at;
    bool done = r2_s3_value(xml, a->text.len, "CopyObjectResult", "ETag", etag, sizeof etag) ||
                r2_s3_value(xml, a->text.len, "CopyPartResult", "ETag", etag, sizeof etag);
    return done ? 200 : 0;
}

/* The request may be repeated: if the answer was cut, that is worth it. */
static void untold(const struct r2_s3_req *q, const struct r2_answer *a, struct r2_s3_verdict *v,
                   struct r2_err *e)
{
    v->doubt = q->changes;
    v->again = !a->whole;
    v->code = r2_fail(e, q->changes ? R2_UNKNOWN : R2_UNREACHABLE,
                      "the answer (%d, %s) does not say what came of it%s%s", a->status,
                      a->type[0] ? a->type : "no type", a->why[0] ? ": " : "", a->why);
}

void r2_s3_judge(const struct r2_s3_req *q, const struct r2_answer *a, int64_t signed_ms,
                 struct r2_s3_verdict *v, struct r2_err *e)
{
    static const char *const busy[] = {"SlowDown",         "TooMuchConcurrency", "RequestTimeout",
                                       "ClientDisconnect", "ServiceUnavailable", NULL};
    struct r2_s3_error s3;
    int status = a->status;
    memset(v, 0, sizeof *v);
    if (a->outcome != R2_ANSWERED) {
        without_answer(q, a, v, e);
        return;
    }
    (void)r2_s3_error(a->text.at, a->text.len, &s3);
    if (q->promise && status >= 200 && status < 300) status = status_meant(a, &s3);
    if (!status) {
        untold(q, a, v, e);
    } else if (status >= 200 && status < 300) {
        success(q, a, v, e);
    } else if (status == 429 || status == 503 || status == 408 || is_one_of(&s3, busy)) {
        v->again = true;
        v->wait_ms = a->retry_after_ms;
        if (status == 429 && v->wait_ms < SAME_KEY_WAIT_MS) v->wait_ms = SAME_KEY_WAIT_MS;
        v->code = r2_fail(e, R2_UNREACHABLE, "the remote is busy (%d%s%s)", status,
                          s3.code[0] ? " " : "", s3.code);
    } else if (status >= 500 && status != 501) {
        v->again = true;
        v->doubt = q->changes;
        v->wait_ms = a->retry_after_ms;
        v->code = r2_fail(e, R2_UNREACHABLE, "the remote failed (%d%s%s)", status,
                          s3.code[0] ? " " : "", s3.code);
    } else if (status == 401 || status == 403) {
        denied(a, &s3, signed_ms, v, e);
    } else if (status == 404) {
        missing(q, &s3, v, e);
    } else if (status == 412 || (status == 409 && is(&s3, "ConditionalRequestConflict"))) {
        v->code =
            r2_fail(e, R2_PRECONDITION, "the object is not the one that was expected (%d)", status);
    } else if (status >= 300 && status < 400) {
        v->code = r2_fail(e, R2_CONFIG,
                          "the endpoint answered with a redirect (%d), which is not followed; "
                          "correct the endpoint, or log in to the network",
                          status);
    } else if (status == 416) {
        v->code = r2_fail(e, R2_CORRUPT, "the object is shorter than it was said to be (416)");
    } else {
        refused(a, &s3, v, e);
    }
}
