/* test_store_s3.c - the S3 store against s3_server.h: copies, the gate for who is not fresh, times
 * of signing, many requests at once. */
#include "s3_server.h"

#include <sched.h>

#define HOURS ((int64_t)3600 * 1000)
#define COPIED                                                                                     \
    STATUS("200 OK", "", "?")                                                                      \
    "\n<?xml version=\"1.0\"?><CopyObjectResult><ETag>&quot;c&quot;</ETag></CopyObjectResult>"
/* The server's clock is far ahead of ours: what is signed after this answer is signed in 2030. */
#define SKEWED                                                                                     \
    STATUS("403 No", "Date: Fri, 24 May 2030 00:00:00 GMT\r\n", "?")                               \
    "<Error><Code>RequestTimeTooSkewed</Code></Error>"
#define SKEWED_HEAD "HTTP/1.1 403 No\r\nDate: Fri, 24 May 2030 00:00:00 GMT\r\n\r\n"

static enum r2_code copy(const char *from, const char *if_match, const char *to)
{
    return store->ops->copy(store, &call, from, if_match, to);
}

static enum r2_code del_k(void)
{
    return store->ops->del(store, &call, "k");
}

static bool take_any(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    int *n = ctx;
    (void)key, (void)size, (void)modified_ms;
    CU_ASSERT_NOT_EQUAL(call.signed_ms, 0); /* the time is there for whom it is listed */
    (*n)++;
    return true;
}

static enum r2_code list_all(int *n)
{
    *n = 0;
    return store->ops->list(store, &call, "p/", NULL, take_any, n);
}

/* Reopens the store: it forgets what it learned of the server's clock. */
static void reset(const struct rule *rules, size_t n)
{
    store->ops->close(store);
    open_store(server.port);
    set_rules(rules, n);
}

/* ---- copy ---- */

static void a_copy_as_sent(void)
{
    static struct r2_request row;
    start(RULES({.answer = COPIED, .times = 2}));
    want(copy("a b/\xc3\xa9+c", "\"old\"", "to x"), R2_OK);
    CU_ASSERT_EQUAL(seen("PUT /pre%20fix/bkt/to%20x HTTP/1.1\r\n"), 1);
    CU_ASSERT_EQUAL(seen("\r\nx-amz-copy-source: /bkt/a%20b/%C3%A9%2Bc\r\n"), 1);
    CU_ASSERT_EQUAL(seen("\r\nx-amz-copy-source-if-match: \"old\"\r\n"), 1);
    CU_ASSERT_EQUAL(seen("SignedHeaders=host;x-amz-content-sha256;x-amz-copy-source;"
                         "x-amz-copy-source-if-match;x-amz-date;"),
                    1);
    CU_ASSERT_EQUAL(seen("Content-Length: 0\r\n"), 1);
    CU_ASSERT_EQUAL(seen("\r\nif-"), 0); /* no condition on what is there */
    CU_ASSERT_EQUAL(r2_reqlog_copy(&row, 1), 1);
    CU_ASSERT_STRING_EQUAL(row.method, "COPY");
    CU_ASSERT_STRING_EQUAL(row.key, "to x");
    CU_ASSERT_EQUAL(atomic_load(&traffic.class_a), 1);
    CU_ASSERT_EQUAL(atomic_load(&traffic.bytes_up), 0);
    want(copy("a", NULL, "b"), R2_OK);
    CU_ASSERT_EQUAL(seen("x-amz-copy-source-if-match: "), 1);
    want(copy("a", NULL, "a"), R2_REFUSED);
    want(copy("a", "", "b"), R2_REFUSED);
    want(copy("", NULL, "b"), R2_REFUSED);
    want(copy("a", NULL, "b\n"), R2_REFUSED);
    CU_ASSERT_EQUAL(server.seen, 2);
    stop();
}

static void what_answers_to_a_copy_mean(void)
{
    static const struct {
        const char *answer;
        enum r2_code code;
        int sent;
    } cases[] = {
        {ERROR("200 OK", "PreconditionFailed"), R2_PRECONDITION, 1},
        {ERROR("200 OK", "NoSuchKey"), R2_MISSING, 1},
        {ERROR("200 OK", "AccessDenied"), R2_DENIED, 1},
        {ERROR("200 OK", "InvalidRequest"), R2_REFUSED, 1},
        {ERROR("200 OK", "InternalError"), R2_OK, 2},
        {ERROR("200 OK", "SlowDown"), R2_OK, 2},
        {STATUS("200 OK", "", "300") "\n<CopyObjectRes", R2_OK, 2}, /* cut in the middle */
        {STATUS("200 OK", "", "300") "<Error><Code>NoSuchKey</Code>", R2_OK, 2},
        {STATUS("200 OK", "Content-Type: text/html\r\n", "?") "<html></html>", R2_UNKNOWN, 1},
        {STATUS("200 OK", "", "0"), R2_UNKNOWN, 1},
        {ERROR("412 No", "PreconditionFailed"), R2_PRECONDITION, 1},
        {ERROR("404 No", "NoSuchKey"), R2_MISSING, 1},
        {ERROR("400 No", "EntityTooLarge"), R2_REFUSED, 1},
        {STATUS("503 Busy", "", "0"), R2_OK, 2},
        {STATUS("500 Oh", "", "0"), R2_OK, 2},
        {NULL, R2_OK, 2}}; /* lost */
    start(NULL, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool cut = !cases[i].answer || strstr(cases[i].answer, "300\r\n");
        set_rules(RULES({.answer = cases[i].answer, .cut = cut}, {.answer = COPIED}));
        want(copy("from", NULL, "to"), cases[i].code);
        CU_ASSERT_EQUAL(server.seen, cases[i].sent);
        if (!cases[i].code) continue;
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "cannot copy s3://bkt/from to s3://bkt/to: "));
    }
    /* once in doubt, always in doubt */
    set_rules(RULES({.cut = true}, {.answer = ERROR("412 No", "PreconditionFailed")}));
    want(copy("from", "\"e\"", "to"), R2_UNKNOWN);
    set_rules(RULES({.answer = STATUS("200 OK", "", "300") "<Copy", .cut = true},
                    {.answer = ERROR("412 No", "PreconditionFailed")}));
    want(copy("from", "\"e\"", "to"), R2_UNKNOWN);
    set_rules(RULES({.cut = true, .times = 99}));
    again(300);
    want(copy("from", NULL, "to"), R2_UNKNOWN);
    stop();
}

/* curl repeats a request without a body on its own when a kept connection dies: not these. */
static void what_curl_would_repeat_is_in_doubt(void)
{
    start(RULES({.match = "HEAD ", .answer = OK_HEAD, .times = 9}, {.cut = true},
                {.answer = ERROR("403 No", "AccessDenied")}, {.cut = true},
                {.answer = ERROR("403 No", "AccessDenied")}, {.cut = true},
                {.answer = ERROR("403 No", "AccessDenied")}));
    for (int how = 0; how < 3; how++) {
        want(head_k(), R2_OK);
        want(how == 0   ? put_when(R2_PUT_ANY)
             : how == 1 ? copy("from", NULL, "k")
                        : del_k(),
             R2_UNKNOWN);
        CU_ASSERT_EQUAL(server.conn_of[how * 3], server.conn_of[how * 3 + 1]);
        CU_ASSERT_EQUAL(server.seen, (how + 1) * 3);
    }
    stop();
}

/* ---- the gate ---- */

static enum r2_code change(int how)
{
    if (how == 0) return put_when(R2_PUT_ANY);
    if (how == 1) return put_when(R2_PUT_IF_ABSENT);
    if (how == 2) return copy("from", NULL, "k");
    return del_k();
}
enum { CHANGES = 4 };

static void who_is_not_fresh_sends_nothing(void)
{
    static struct r2_request row, last;
    int n;
    start(RULES({.match = "GET /pre%20fix/bkt?", .answer = "HTTP/1.1 404 No\r\n\r\n"},
                {.match = "GET ", .answer = OK_GET}, {.match = "HEAD ", .answer = OK_HEAD}));
    memset(&last, 0, sizeof last);
    (void)r2_reqlog_copy(&last, 1);
    for (int i = 0; i < 2 * CHANGES; i++) {
        again(20000);
        call.signed_ms = call.took_ms = 7;
        call.fresh_until_ms = r2_now_ms() + (i % 2 ? -1000 : 2 * HOURS);
        want(change(i / 2), R2_STALE);
        CU_ASSERT_EQUAL(err.code, R2_STALE);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "s3://bkt/k"));
        CU_ASSERT_EQUAL(call.signed_ms, 0);
        CU_ASSERT_EQUAL(call.took_ms, 0);
        CU_ASSERT_EQUAL(atomic_load(&traffic.class_a), 0);
    }
    memset(&row, 0, sizeof row);
    (void)r2_reqlog_copy(&row, 1);
    CU_ASSERT_EQUAL(memcmp(&row, &last, sizeof row), 0);
    CU_ASSERT_EQUAL(server.seen, 0);
    call.fresh_until_ms = 1; /* who only reads need not be fresh */
    want(head_k(), R2_OK);
    want(get_k(), R2_OK);
    want(list_all(&n), R2_MISSING);
    CU_ASSERT_EQUAL(server.seen, 3);
    stop();
}

static void who_is_fresh_sends(void)
{
    start(RULES({.match = "DELETE ", .answer = GONE}, {.match = "-copy-", .answer = COPIED},
                {.match = "PUT ", .answer = OK_PUT, .times = 2}));
    for (int how = 0; how < CHANGES; how++) {
        call.fresh_until_ms = r2_now_ms() + HOURS / 2;
        want(change(how), R2_OK);
    }
    CU_ASSERT_EQUAL(server.seen, CHANGES);
    stop();
}

/* Every attempt has its own signing time, here by skew correction. */
static void each_attempt_is_looked_at(void)
{
    start(NULL, 0);
    for (int how = 0; how < CHANGES; how++) {
        reset(RULES({.answer = SKEWED}, {.answer = OK_PUT}));
        call.fresh_until_ms = r2_now_ms() + HOURS / 2;
        want(change(how), R2_STALE);
        CU_ASSERT_EQUAL(server.seen, 1);
        CU_ASSERT_EQUAL(atomic_load(&traffic.class_a), how == 3 ? 0 : 1);
        reset(RULES({.answer = STATUS("503 Busy", "", "0")}, {.answer = SKEWED}));
        call.fresh_until_ms = r2_now_ms() + HOURS / 2;
        want(change(how), R2_STALE); /* busy: nothing was changed */
        CU_ASSERT_EQUAL(server.seen, 2);
        if (how == 1) continue; /* a conditional put is not repeated after this: */
        reset(RULES({.cut = true}, {.answer = SKEWED}));
        call.fresh_until_ms = r2_now_ms() + HOURS / 2;
        want(change(how), R2_UNKNOWN); /* the first may have happened */
        CU_ASSERT_EQUAL(err.code, R2_UNKNOWN);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "may or may not"));
        CU_ASSERT_EQUAL(server.seen, 2);
        CU_ASSERT_NOT_EQUAL(call.signed_ms, 0);
        CU_ASSERT(call.signed_ms < r2_now_ms() + HOURS); /* not the one that was not made */
    }
    stop();
}

static void parts_need_not_be_fresh_but_complete_must(void)
{
    start(NULL, 0);
    fresh_for_large = -1;
    want(put_large(R2_PUT_IF_ABSENT), R2_STALE);
    CU_ASSERT_EQUAL(server.seen, 0);
    fresh_for_large = r2_now_ms() + HOURS / 2;
    reset(RULES({.match = "partNumber=3", .answer = SKEWED}, UPLOAD, ABSENT,
                {.match = FINISH, .answer = COMPLETED}));
    want(put_large(R2_PUT_IF_ABSENT), R2_STALE);
    CU_ASSERT_EQUAL(seen("PUT "), 6); /* all parts went */
    CU_ASSERT_EQUAL(seen(FINISH), 0);
    CU_ASSERT_EQUAL(seen("DELETE "), 1); /* and so did the abort */
    reset(RULES(UPLOAD, ABSENT, {.match = FINISH, .answer = COMPLETED}));
    want(put_large(R2_PUT_IF_ABSENT), R2_OK);
    fresh_for_large = 0;
    stop();
}

/* ---- times ---- */

/* The x-amz-date of the last request that had `part` in its head, in ms; 0: none. */
static int64_t stamp_of(const char *part)
{
    int64_t ms = 0;
    pthread_mutex_lock(&server.lock);
    for (int i = 0; i < server.seen && i < SEEN_MAX; i++) {
        const char *at = strstr(server.heads[i], "x-amz-date: ");
        char iso[24];
        if (!at || !strstr(server.heads[i], part)) continue;
        at += 12;
        snprintf(iso, sizeof iso, "%.4s-%.2s-%.2sT%.2s:%.2s:%.2sZ", at, at + 4, at + 6, at + 9,
                 at + 11, at + 13);
        ms = r2_iso_date(iso);
    }
    pthread_mutex_unlock(&server.lock);
    return ms;
}

#define PAGE_1                                                                                     \
    STATUS("200 OK", "", "?")                                                                      \
    "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>more"                 \
    "</NextContinuationToken><Contents><Key>p/1</Key><Size>1</Size></Contents></ListBucketResult>"
#define PAGE_2                                                                                     \
    STATUS("200 OK", "", "?")                                                                      \
    "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/2</Key><Size>1</Size>"     \
    "</Contents></ListBucketResult>"

/* The caller learns the very time that was sent. The answer before each is a correction of the
 * clock: what counts is the last attempt. */
static void the_signing_time_is_told(void)
{
    int n;
    start(RULES({.match = "HEAD ", .answer = SKEWED_HEAD}, {.match = "HEAD ", .answer = OK_HEAD}));
    want(head_k(), R2_OK);
    CU_ASSERT_EQUAL(call.signed_ms, stamp_of("HEAD "));
    CU_ASSERT(call.signed_ms > r2_now_ms() + HOURS);
    reset(RULES({.answer = SKEWED}, {.answer = OK_GET}));
    want(get_k(), R2_OK);
    CU_ASSERT_EQUAL(call.signed_ms, stamp_of("GET "));
    CU_ASSERT(call.signed_ms > r2_now_ms() + HOURS);
    reset(RULES({.answer = SKEWED}, {.answer = ERROR("404 No", "NoSuchKey")}));
    want(get_k(), R2_MISSING);
    CU_ASSERT_EQUAL(call.signed_ms, stamp_of("GET "));
    CU_ASSERT(call.signed_ms > r2_now_ms() + HOURS);
    for (int how = 0; how < CHANGES; how++) {
        reset(RULES({.answer = SKEWED}, {.match = "DELETE ", .answer = GONE},
                    {.match = "-copy-", .answer = COPIED}, {.answer = OK_PUT}));
        want(change(how), R2_OK);
        CU_ASSERT_EQUAL(call.signed_ms, stamp_of(" "));
        CU_ASSERT(call.signed_ms > r2_now_ms() + HOURS);
        CU_ASSERT(call.took_ms >= 0);
    }
    /* of a listing, the first page's; the second one's is years later */
    reset(RULES({.match = "continuation-token=", .answer = SKEWED},
                {.match = "continuation-token=", .answer = PAGE_2}, {.answer = PAGE_1}));
    want(list_all(&n), R2_OK);
    CU_ASSERT_EQUAL(n, 2);
    CU_ASSERT_EQUAL(call.signed_ms,
                    stamp_of("/bkt?encoding-type=url&list-type=2&prefix=p%2F HTTP"));
    CU_ASSERT(call.signed_ms < r2_now_ms() + HOURS);
    CU_ASSERT(stamp_of("continuation-token=more") > r2_now_ms() + HOURS);
    /* of a put in parts, Complete's */
    reset(RULES({.match = FINISH, .answer = SKEWED}, UPLOAD, ABSENT,
                {.match = FINISH, .answer = COMPLETED}));
    want(put_large(R2_PUT_IF_ABSENT), R2_OK);
    CU_ASSERT_EQUAL(call.signed_ms, stamp_of(FINISH));
    CU_ASSERT(call.signed_ms > r2_now_ms() + HOURS);
    stop();
}

/* Until the last byte, of the last range. */
static void the_time_it_took_goes_to_the_end(void)
{
    char path[] = "/tmp/r2vfs-store-XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    struct r2_sink sink = {.fd = fd};
    enum { SMALL = 4 * 65536 };
    start(RULES({.answer = STATUS("200 OK", "ETag: \"abc\"\r\n", "262144"),
                 .body = SMALL,
                 .pause_ms = 30}));
    want(store->ops->get(store, &call, "k", NULL, UINT64_MAX, &sink, &object), R2_OK);
    CU_ASSERT(call.took_ms >= 3 * 30);
    set_rules(RULES(
        {.match = "range: bytes=0-", .answer = SKEWED},
        {.match = "range: bytes=0-",
         .answer = STATUS("206 P", "ETag: \"a\"\r\nContent-Range: bytes 0-16777215/17039360\r\n",
                          "16777216"),
         .body = 16777216},
        {.answer =
             STATUS("206 P", "ETag: \"a\"\r\nContent-Range: bytes 16777216-17039359/17039360\r\n",
                    "262144"),
         .body = SMALL,
         .pause_ms = 30}));
    want(store->ops->get(store, &call, "k", "\"a\"", 17039360, &sink, &object), R2_OK);
    CU_ASSERT(call.took_ms >= 3 * 30);
    CU_ASSERT_EQUAL(call.signed_ms, stamp_of("range: bytes=0-"));
    CU_ASSERT(call.signed_ms > r2_now_ms() + HOURS);
    stop();
    close(fd);
}

/* ---- many at once ---- */

static enum r2_code head_nth(void *ctx, struct r2_call *mine, uint64_t index)
{
    char key[24];
    struct r2_object o;
    _Atomic uint64_t *done = ctx;
    snprintf(key, sizeof key, "n%llu", (unsigned long long)index);
    enum r2_code code = store->ops->head(store, mine, key, &o);
    if (!code) atomic_fetch_add(done, 1);
    return code;
}

/* The server answers none before 64 have come: three times. */
static void sixty_four_at_once(void)
{
    _Atomic uint64_t done = 0;
    unsigned idle;
    uint64_t connections;
    start(RULES({.answer = OK_HEAD, .gather = 64, .times = 192}));
    want(r2_store_parallel(&call, 64, 192, head_nth, &done, &err), R2_OK);
    CU_ASSERT_EQUAL(atomic_load(&done), 192);
    CU_ASSERT_EQUAL(server.seen, 192);
    CU_ASSERT_EQUAL(seen("HEAD /pre%20fix/bkt/n191 "), 1);
    CU_ASSERT_EQUAL(atomic_load(&traffic.class_b), 192);
    CU_ASSERT(server.accepts < 96); /* 64 connections for all, not for each wave */
    r2_http_stats(&idle, &connections);
    CU_ASSERT(idle <= R2_HTTP_IDLE); /* and the usual number afterwards */
    stop();
}

static enum r2_code head_and_meet(void *ctx, struct r2_call *mine, uint64_t index)
{
    struct r2_object o;
    (void)index;
    enum r2_code code = store->ops->head(store, mine, "k", &o);
    pthread_barrier_wait(ctx);
    return code;
}

static void *head_hold(void *ctx)
{
    struct r2_call mine = call;
    struct r2_object o;
    struct r2_err e = {0};
    mine.err = &e;
    return store->ops->head(store, &mine, "hold", &o) == R2_OK ? NULL : ctx;
}

/* While any request runs, connections stay for the next ones, though all 40 rest at a time. */
static void connections_stay_while_requests_run(void)
{
    pthread_t thread;
    pthread_barrier_t meet;
    unsigned idle;
    uint64_t connections;
    void *bad = NULL;
    pthread_barrier_init(&meet, NULL, 40);
    start(RULES({.match = "/hold ", .answer = OK_HEAD, .gather = 2, .times = 2},
                {.answer = OK_HEAD, .gather = 40, .times = 120}));
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, head_hold, &server), 0);
    while (!seen("/hold "))
        sched_yield();
    want(r2_store_parallel(&call, 40, 120, head_and_meet, &meet, &err), R2_OK);
    CU_ASSERT_EQUAL(server.seen, 121);
    CU_ASSERT_EQUAL(server.accepts, 41);
    r2_http_stats(&idle, &connections);
    CU_ASSERT(idle >= 40);
    CU_ASSERT_PTR_NULL(head_hold(&server)); /* which ends the other one too */
    pthread_join(thread, &bad);
    CU_ASSERT_PTR_NULL(bad);
    r2_http_stats(&idle, &connections);
    CU_ASSERT(idle <= R2_HTTP_IDLE);
    stop();
    pthread_barrier_destroy(&meet);
}

static void one_that_is_missing_ends_it(void)
{
    _Atomic uint64_t done = 0;
    start(RULES({.match = "/n7 ", .answer = "HTTP/1.1 404 No\r\n\r\n"},
                {.answer = OK_HEAD, .times = 200}));
    want(r2_store_parallel(&call, 1, 200, head_nth, &done, &err), R2_MISSING);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "s3://bkt/n7"));
    CU_ASSERT_EQUAL(atomic_load(&done), 7);
    CU_ASSERT_EQUAL(server.seen, 8);
    stop();
}

UNIT_MAIN("store_s3", UNIT(a_copy_as_sent), UNIT(what_answers_to_a_copy_mean),
          UNIT(what_curl_would_repeat_is_in_doubt), UNIT(who_is_not_fresh_sends_nothing),
          UNIT(who_is_fresh_sends), UNIT(each_attempt_is_looked_at),
          UNIT(parts_need_not_be_fresh_but_complete_must), UNIT(the_signing_time_is_told),
          UNIT(the_time_it_took_goes_to_the_end), UNIT(sixty_four_at_once),
          UNIT(connections_stay_while_requests_run), UNIT(one_that_is_missing_ends_it))
