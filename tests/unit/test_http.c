/* test_http.c - http.c, and what the S3 store makes of answers (s3_server.h): what is repeated,
 * what they mean, how it is sent, multipart. */
#include "s3_server.h"

/* ---- what may be repeated, and what may not ---- */

static void a_conditional_put_without_an_answer_is_in_doubt(void)
{
    start(RULES({.match = "PUT ", .cut = true, .times = 5}));
    want(put_when(R2_PUT_IF_ABSENT), R2_UNKNOWN);
    CU_ASSERT_EQUAL(seen("PUT "), 1);
    want(put_when(R2_PUT_IF_MATCH), R2_UNKNOWN);
    CU_ASSERT_EQUAL(seen("PUT "), 2);
    CU_ASSERT_EQUAL(atomic_load(&traffic.class_a), 2);
    stop();
}

/* curl itself repeats a request when a kept connection dies: not this one. */
static void nor_is_it_repeated_on_a_kept_connection(void)
{
    start(RULES({.match = "HEAD ", .answer = OK_HEAD}, {.match = "PUT ", .cut = true, .times = 5}));
    want(head_k(), R2_OK);
    want(put_when(R2_PUT_IF_ABSENT), R2_UNKNOWN);
    CU_ASSERT_EQUAL(seen("PUT "), 1);
    CU_ASSERT_EQUAL(server.conn_of[0], server.conn_of[1]);
    stop();
}

static void a_plain_put_without_an_answer_is_repeated(void)
{
    start(RULES({.cut = true}, {.answer = OK_PUT}));
    want(put_when(R2_PUT_ANY), R2_OK);
    CU_ASSERT_EQUAL(seen("PUT "), 2);
    stop();
}

/* Once in doubt, a definite failure later does not end the doubt. */
static void doubt_stays(void)
{
    start(RULES({.cut = true}, {.answer = ERROR("403 Forbidden", "AccessDenied"), .times = 9}));
    want(put_when(R2_PUT_ANY), R2_UNKNOWN);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "may or may not"));
    stop();
}

static void failures_of_the_server_are_doubt(void)
{
    static const char *const status[] = {STATUS("500 Oh", "", "0"), STATUS("502 Oh", "", "0"),
                                         STATUS("504 Oh", "", "0"), STATUS("520 Oh", "", "0")};
    for (size_t i = 0; i < 4; i++) {
        start(RULES({.answer = status[i]}, {.answer = OK_PUT}));
        want(put_when(R2_PUT_IF_ABSENT), R2_UNKNOWN);
        CU_ASSERT_EQUAL(seen("PUT "), 1);
        set_rules(RULES({.answer = status[i], .times = 2}, {.answer = OK_GET}));
        want(get_k(), R2_OK);
        CU_ASSERT_EQUAL(seen("GET "), 3);
        set_rules(RULES({.answer = status[i]}, {.answer = OK_HEAD}));
        want(head_k(), R2_OK);
        stop();
    }
}

static void busy_is_repeated(void)
{
    start(RULES({.answer = STATUS("503 Busy", "", "0"), .times = 2},
                {.answer = ERROR("400 Bad", "SlowDown")}, {.answer = OK_PUT}));
    want(put_when(R2_PUT_IF_ABSENT), R2_OK);
    CU_ASSERT_EQUAL(seen("PUT "), 4);
    set_rules(RULES({.answer = STATUS("429 Slow", "", "0")}, {.answer = OK_PUT}));
    int64_t began = r2_boot_ms();
    want(put_when(R2_PUT_IF_ABSENT), R2_OK);
    CU_ASSERT(r2_boot_ms() - began >= 1000); /* one write per second to one key */
    stop();
}

static void busy_for_too_long(void)
{
    start(RULES({.answer = STATUS("503 Busy", "", "0"), .times = 1000}));
    again(2500);
    want(put_when(R2_PUT_IF_ABSENT), R2_UNREACHABLE);
    CU_ASSERT(seen("PUT ") > 1);
    /* asked to wait beyond the deadline: no use trying */
    set_rules(RULES({.answer = STATUS("503 Busy", "Retry-After: 60\r\n", "0"), .times = 1000}));
    want(put_when(R2_PUT_IF_ABSENT), R2_UNREACHABLE);
    CU_ASSERT_EQUAL(seen("PUT "), 1);
    again(-1);
    want(put_when(R2_PUT_IF_ABSENT), R2_UNREACHABLE);
    CU_ASSERT_EQUAL(seen("PUT "), 1);
    stop();
}

static void no_answer_in_time(void)
{
    start(RULES({.hang = true, .times = 9}));
    again(300);
    want(put_when(R2_PUT_IF_ABSENT), R2_UNKNOWN);
    again(300);
    want(get_k(), R2_UNREACHABLE);
    stop();
}

static void nobody_listens(void)
{
    int port, fd = listen_on(&port);
    close(fd);
    open_store(port);
    again(300);
    want(put_when(R2_PUT_IF_ABSENT), R2_UNREACHABLE);
    CU_ASSERT_EQUAL(atomic_load(&traffic.class_a), 0); /* nothing was sent */
    again(300);
    want(get_k(), R2_UNREACHABLE);
    store->ops->close(store);
}

/* The server hangs up in the middle of a body: no signal, and no word on what came of it. */
static void cut_while_sending(void)
{
    static char big[4 << 20];
    start(RULES({.cut = true, .early = true}));
    struct r2_put p = {
        .key = "k", .body = {.mem = big, .size = sizeof big}, .when = R2_PUT_IF_ABSENT};
    want(store->ops->put(store, &call, &p, NULL), R2_UNKNOWN);
    CU_ASSERT_EQUAL(seen("PUT "), 1);
    stop();
}

/* ---- what answers mean ---- */

static void lost_conditions(void)
{
    start(RULES({.answer = ERROR("412 No", "PreconditionFailed")},
                {.answer = ERROR("409 No", "ConditionalRequestConflict")},
                {.answer = ERROR("404 No", "NoSuchKey")},
                {.answer = ERROR("404 No", "NoSuchBucket")},
                {.answer = ERROR("404 No", "NoSuchKey")}));
    for (int i = 0; i < 3; i++)
        want(put_when(R2_PUT_IF_MATCH), R2_PRECONDITION);
    want(put_when(R2_PUT_IF_MATCH), R2_MISSING);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "no such bucket"));
    want(get_k(), R2_MISSING);
    CU_ASSERT_EQUAL(server.seen, 5);
    stop();
}

static void denials(void)
{
    static const struct {
        const char *answer, *says;
    } cases[] = {
        {ERROR("403 No", "SignatureDoesNotMatch"), "R2_SECRET_ACCESS_KEY"},
        {ERROR("403 No", "InvalidAccessKeyId"), "R2_ACCESS_KEY_ID"},
        {ERROR("401 No", "Unauthorized"), "R2_ACCESS_KEY_ID"},
        {ERROR("403 No", "AccessDenied"), "this bucket"},
        {ERROR("400 No", "ExpiredToken"), "R2_SESSION_TOKEN"},
        {ERROR("403 No", "RequestTimeTooSkewed"), "clock"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start(RULES({.answer = cases[i].answer, .times = 9}));
        want(get_k(), R2_DENIED);
        if (!strstr(err.text, cases[i].says)) CU_FAIL(err.text);
        CU_ASSERT_EQUAL(server.seen, 1);
        stop();
    }
}

static void a_wrong_clock_is_corrected_once(void)
{
    static const char *const skewed =
        STATUS("403 No", "Date: Fri, 24 May 2030 00:00:00 GMT\r\n",
               "?") "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    start(RULES({.answer = skewed}, {.answer = OK_PUT, .times = 2}));
    want(put_when(R2_PUT_IF_ABSENT), R2_OK);
    CU_ASSERT_EQUAL(seen("x-amz-date: 20300524T0000"), 1);
    want(put_when(R2_PUT_IF_ABSENT), R2_OK); /* and remembered */
    CU_ASSERT_EQUAL(server.seen, 3);
    CU_ASSERT_EQUAL(seen("x-amz-date: 20300524T0000"), 2);
    stop();
    start(RULES({.answer = skewed}, {.answer = STATUS("403 No", "", "0")}));
    want(put_when(R2_PUT_IF_ABSENT), R2_DENIED);
    CU_ASSERT_EQUAL(server.seen, 2);
    stop();
    /* a HEAD's answer has no body that could say so */
    start(RULES({.answer = "HTTP/1.1 403 No\r\nDate: Fri, 24 May 2030 00:00:00 GMT\r\n\r\n"},
                {.answer = OK_HEAD}));
    want(head_k(), R2_OK);
    stop();
}

static void pages_of_others(void)
{
#define PAGE STATUS("200 OK", "Content-Type: text/html\r\n", "?") "<html></html>"
    start(RULES({.match = "GET ", .answer = PAGE, .times = 9},
                {.match = "PUT ", .answer = PAGE, .times = 9},
                {.match = "HEAD ",
                 .answer = STATUS("200 OK", "Content-Type: text/html\r\n", "13"),
                 .times = 9}));
    want(get_k(), R2_CORRUPT);
    CU_ASSERT_STRING_EQUAL(got, "");
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "text/html"));
    want(head_k(), R2_CORRUPT);
    want(put_when(R2_PUT_ANY), R2_UNKNOWN); /* no ETag: who knows */
    CU_ASSERT_EQUAL(server.seen, 3);
    again(20000);
    want(store->ops->list(store, &call, "p/", NULL, NULL, NULL), R2_CORRUPT);
    stop();
}

static void redirects_are_not_followed(void)
{
    start(RULES({.answer = STATUS("307 Go", "Location: /elsewhere\r\n", "0"), .times = 9}));
    want(get_k(), R2_CONFIG);
    want(put_when(R2_PUT_IF_ABSENT), R2_CONFIG);
    CU_ASSERT_EQUAL(server.seen, 2);
    stop();
}

static void short_bodies(void)
{
    start(RULES(
        {.answer = OK_HEAD "he", .cut = true},
        {.match = "range: bytes=2-\r\n",
         .answer = STATUS("206 P", "ETag: \"abc\"\r\nContent-Range: bytes 2-4/5\r\n", "3") "llo"}));
    want(get_k(), R2_OK); /* went on where it was cut, of the same object */
    CU_ASSERT_STRING_EQUAL(got, "hello");
    CU_ASSERT_EQUAL(object.size, 5);
    CU_ASSERT_EQUAL(seen("if-match: \"abc\"\r\n"), 1);
    /* replaced meanwhile: from the start */
    set_rules(RULES({.answer = OK_HEAD "he", .cut = true}, {.answer = STATUS("412 No", "", "0")},
                    {.answer = STATUS("200 OK", "ETag: \"x\"\r\n", "3") "new"}));
    want(get_k(), R2_OK);
    CU_ASSERT_STRING_EQUAL(got, "new");
    CU_ASSERT_STRING_EQUAL(object.etag, "\"x\"");
    /* always short: damage */
    set_rules(RULES({.answer = OK_HEAD, .cut = true, .times = 9}));
    want(get_k(), R2_CORRUPT);
    CU_ASSERT_EQUAL(server.seen, 3);
    stop();
}

static void ranges_must_be_the_ones_asked_for(void)
{
    static const char *const wrong[] = {
        STATUS("200 OK", "ETag: \"abc\"\r\n", "5") "hello",
        STATUS("206 P", "ETag: \"abc\"\r\n", "5") "hello",
        STATUS("206 P", "ETag: \"abc\"\r\nContent-Range: bytes 1-5/20000000\r\n", "5") "hello",
        STATUS("206 P", "ETag: \"abc\"\r\nContent-Range: bytes 0-4/20000000\r\n", "5") "hello",
        STATUS("206 P", "ETag: \"abc\"\r\nContent-Range: bytes 1-16777215/20000000\r\n",
               "16777215") "hello",
        STATUS("206 P", "ETag: \"xyz\"\r\nContent-Range: bytes 0-4/5\r\n", "5") "hello",
    };
    char path[] = "/tmp/r2vfs-http-XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    struct r2_sink sink = {.fd = fd};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        start(RULES({.answer = wrong[i], .times = 9}));
        want(store->ops->get(store, &call, "k", "\"abc\"", 20000000, &sink, &object), R2_CORRUPT);
        CU_ASSERT_EQUAL(lseek(fd, 0, SEEK_END), 0);
        stop();
    }
    close(fd);
}

static void headers_have_limits(void)
{
    static char large[100000], meta[9500];
    size_t n = (size_t)snprintf(large, sizeof large, "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\n");
    while (n < 80000)
        n += (size_t)snprintf(large + n, sizeof large - n, "X-Filler-%zu: %0100d\r\n", n, 1);
    snprintf(large + n, sizeof large - n, "Content-Length: 5\r\n\r\nhello");
    start(RULES({.answer = large, .times = 99}));
    again(400);
    want(get_k(), R2_UNREACHABLE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "64 KiB"));
    n = (size_t)snprintf(meta, sizeof meta, "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\nx-amz-meta-a: ");
    memset(meta + n, 'v', 8192);
    snprintf(meta + n + 8192, sizeof meta - n - 8192, "\r\nContent-Length: 5\r\n\r\n");
    set_rules(RULES({.answer = meta}));
    want(head_k(), R2_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "metadata"));
    /* a foreign object's odd names are left out, the rest is read */
    set_rules(RULES({.answer = STATUS("200 OK",
                                      "ETag: \"abc\"\r\nx-amz-meta-o$d: 1\r\n"
                                      "X-Amz-Meta-DB-Version:  42 \r\nx-amz-meta-e:\r\n",
                                      "5")}));
    want(head_k(), R2_OK);
    char value[10];
    CU_ASSERT_TRUE(r2_meta_get(&object.meta, "db-version", value, sizeof value));
    CU_ASSERT_STRING_EQUAL(value, "42");
    stop();
}

static void odd_but_right_answers(void)
{
    start(RULES({.answer = "HTTP/1.1 100 Continue\r\nETag: \"no\"\r\n\r\n" OK_PUT},
                {.answer = "HTTP/1.1 200 OK\r\nETag: \"c\"\r\nTransfer-Encoding: chunked\r\n\r\n"
                           "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"},
                {.answer = STATUS("200 OK", "ETag: \"e\"\r\n", "0")}));
    struct r2_put p = {.key = "k", .body = {.mem = "hello", .size = 5}};
    want(store->ops->put(store, &call, &p, &object), R2_OK);
    CU_ASSERT_STRING_EQUAL(object.etag, "\"new\"");
    want(get_k(), R2_OK);
    CU_ASSERT_STRING_EQUAL(got, "hello");
    CU_ASSERT_EQUAL(object.size, 5);
    want(get_k(), R2_OK);
    CU_ASSERT_EQUAL(object.size, 0);
    /* neither a length nor chunks: nobody could tell a cut body from a whole one */
    set_rules(RULES({.answer = "HTTP/1.1 200 OK\r\nETag: \"c\"\r\n\r\nhello", .cut = true}));
    want(get_k(), R2_CORRUPT);
    stop();
}

/* ---- how it is sent ---- */

static void headers_as_sent(void)
{
    static char big[2 << 20];
    start(RULES({.answer = OK_PUT, .times = 2}));
    struct r2_meta meta;
    r2_meta_clear(&meta);
    CU_ASSERT_TRUE(r2_meta_add(&meta, "db-version", "9"));
    CU_ASSERT_TRUE(r2_meta_add(&meta, "db-empty", ""));
    struct r2_put p = {.key = "a b/c+d",
                       .body = {.mem = big, .size = sizeof big},
                       .when = R2_PUT_IF_MATCH,
                       .etag = "\"old\"",
                       .meta = &meta};
    want(store->ops->put(store, &call, &p, NULL), R2_OK);
    CU_ASSERT_EQUAL(seen("PUT /pre%20fix/bkt/a%20b/c%2Bd HTTP/1.1\r\n"), 1);
    CU_ASSERT_EQUAL(seen("\r\nif-match: \"old\"\r\n"), 1);
    CU_ASSERT_EQUAL(seen("\r\nx-amz-meta-db-empty:"), 1);
    CU_ASSERT_EQUAL(seen("\r\nx-amz-security-token: " TOKEN "\r\n"), 1);
    CU_ASSERT_EQUAL(seen("SignedHeaders=content-type;host;if-match;x-amz-content-sha256;x-amz-date;"
                         "x-amz-meta-db-empty;x-amz-meta-db-version;x-amz-security-token,"),
                    1);
    CU_ASSERT_EQUAL(seen("x-amz-content-sha256: "
                         "5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee"),
                    1);
    CU_ASSERT_EQUAL(seen("Expect"), 0);
    CU_ASSERT_EQUAL(seen("Accept-Encoding"), 0);
    CU_ASSERT_EQUAL(seen(SECRET), 0);
    stop();
}

static void *get_in_thread(void *ctx)
{
    (void)ctx;
    struct r2_call mine = call;
    struct r2_object o;
    struct r2_err e = {0};
    mine.err = &e;
    return store->ops->head(store, &mine, "k", &o) == R2_OK ? NULL : ctx;
}

static void connections_are_kept_and_shared(void)
{
    pthread_t thread;
    void *bad = NULL;
    start(RULES({.answer = OK_HEAD, .times = 99}));
    for (int i = 0; i < 5; i++)
        want(head_k(), R2_OK);
    CU_ASSERT_EQUAL(server.accepts, 1);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, get_in_thread, &server), 0);
    pthread_join(thread, &bad);
    CU_ASSERT_PTR_NULL(bad);
    CU_ASSERT_EQUAL(server.seen, 6);
    CU_ASSERT_EQUAL(server.accepts, 1);
    struct r2_store *first = store; /* another store of the same place: the same connection */
    open_store(server.port);
    want(head_k(), R2_OK);
    CU_ASSERT_EQUAL(server.accepts, 1);
    first->ops->close(first);
    stop();
}

/* More callers at once than handles are kept: all are served, and the surplus goes. */
static void many_threads(void)
{
    pthread_t threads[40];
    unsigned idle;
    uint64_t connections;
    start(RULES({.answer = OK_HEAD, .times = 99}));
    for (int i = 0; i < 40; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, get_in_thread, &server), 0);
    for (int i = 0; i < 40; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        CU_ASSERT_PTR_NULL(bad);
    }
    CU_ASSERT_EQUAL(server.seen, 40);
    r2_http_stats(&idle, &connections);
    CU_ASSERT(idle <= R2_HTTP_IDLE);
    stop();
}

/* A large body may take longer than the deadline as long as it moves; a small one may not. */
static void large_bodies_outlive_the_deadline(void)
{
    char path[] = "/tmp/r2vfs-http-XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    struct r2_sink sink = {.fd = fd};
    start(RULES({.answer = STATUS("200 OK", "ETag: \"abc\"\r\n", "9437184"),
                 .body = 9437184,
                 .pause_ms = 20}));
    again(2000); /* 144 pauses of 20 ms */
    int64_t began = r2_boot_ms();
    want(store->ops->get(store, &call, "k", NULL, UINT64_MAX, &sink, &object), R2_OK);
    CU_ASSERT(r2_boot_ms() - began > 2000);
    CU_ASSERT_EQUAL(lseek(fd, 0, SEEK_END), 9437184);
    set_rules(RULES(
        {.answer = STATUS("200 OK", "ETag: \"abc\"\r\n", "9437184"), .body = 65536, .hang = true},
        {.hang = true, .times = 9}));
    again(300);
    want(store->ops->get(store, &call, "k", NULL, UINT64_MAX, &sink, &object), R2_UNREACHABLE);
    stop();
    close(fd);
}

/* ---- multipart ---- */

static void multipart_that_works(void)
{
    start(RULES({.match = "partNumber=3", .answer = STATUS("500 Oh", "", "0")},
                {.match = "partNumber=2", .cut = true},
                {.match = FINISH, .answer = STATUS("503 Busy", "", "0")}, UPLOAD, ABSENT,
                {.match = FINISH, .answer = COMPLETED}));
    want(put_large(R2_PUT_IF_ABSENT), R2_OK);
    CU_ASSERT_STRING_EQUAL(object.etag, "\"m-5\"");
    CU_ASSERT_EQUAL(object.size, R2_MULTIPART_BYTES + 1);
    CU_ASSERT_EQUAL(seen("PUT "), 7);
    CU_ASSERT_EQUAL(seen("Content-Length: 16777216\r\n"), 6); /* 4, and 2 again: all equal */
    CU_ASSERT_EQUAL(seen("Content-Length: 1\r\n"), 1);        /* but the last */
    CU_ASSERT_EQUAL(seen(FINISH), 2);
    CU_ASSERT_EQUAL(seen("\r\nif-none-match: *\r\n"), 2); /* at Complete, not before */
    CU_ASSERT_EQUAL(seen("DELETE "), 0);
    stop();
}

static void complete_says_200_and_means_no(void)
{
    start(
        RULES(UPLOAD, ABSENT, {.match = FINISH, .answer = ERROR("200 OK", "PreconditionFailed")}));
    want(put_large(R2_PUT_IF_ABSENT), R2_PRECONDITION);
    CU_ASSERT_EQUAL(seen("DELETE "), 1);
    set_rules(RULES(UPLOAD, ABSENT, {.match = FINISH, .answer = ERROR("200 OK", "InvalidPart")}));
    want(put_large(R2_PUT_IF_ABSENT), R2_REFUSED);
    CU_ASSERT_EQUAL(seen("DELETE "), 1);
    set_rules(RULES(UPLOAD, ABSENT, {.match = FINISH, .answer = ERROR("200 OK", "InternalError")}));
    want(put_large(R2_PUT_IF_ABSENT), R2_UNKNOWN);
    CU_ASSERT_EQUAL(seen("DELETE "), 0); /* it may still be carried out */
    stop();
}

static void complete_without_an_answer(void)
{
    start(RULES(UPLOAD, ABSENT, {.match = FINISH, .cut = true, .times = 5}));
    want(put_large(R2_PUT_IF_ABSENT), R2_UNKNOWN);
    CU_ASSERT_EQUAL(seen(FINISH), 1);
    CU_ASSERT_EQUAL(seen("DELETE "), 0);
    /* the first try was refused as busy, but the upload is gone: then it was done after all? */
    set_rules(RULES(UPLOAD, ABSENT, {.match = FINISH, .answer = STATUS("503 Busy", "", "0")},
                    {.match = FINISH, .answer = ERROR("404 No", "NoSuchUpload")}));
    want(put_large(R2_PUT_IF_ABSENT), R2_UNKNOWN);
    CU_ASSERT_EQUAL(seen("DELETE "), 0);
    stop();
}

static void a_lost_condition_is_seen_before_complete(void)
{
    start(RULES(UPLOAD, {.match = "HEAD ", .answer = OK_HEAD}));
    want(put_large(R2_PUT_IF_ABSENT), R2_PRECONDITION);
    CU_ASSERT_EQUAL(seen(FINISH), 0);
    CU_ASSERT_EQUAL(seen("DELETE "), 1);
    set_rules(RULES(UPLOAD, {.match = "HEAD ", .answer = OK_HEAD}));
    want(put_large(R2_PUT_IF_MATCH), R2_PRECONDITION);
    set_rules(RULES({.match = "POST ", .answer = CREATED},
                    {.match = "PUT ", .answer = STATUS("403 No", "", "0"), .times = 9},
                    {.match = "DELETE ", .answer = GONE}));
    want(put_large(R2_PUT_ANY), R2_DENIED); /* a part that fails ends it */
    CU_ASSERT_EQUAL(seen("DELETE "), 1);
    CU_ASSERT(seen("PUT ") <= 3);
    stop();
}

/* ---- configuration, progress ---- */

static void endpoints(void)
{
    static const struct {
        const char *endpoint, *url; /* NULL: refused */
    } cases[] = {{"https://H.example", "https://h.example/b/k?"},
                 {"https://h.example:443/p/", "https://h.example/p/b/k?"},
                 {"http://h:80", "http://h/b/k?"},
                 {"http://h:443", "http://h:443/b/k?"},
                 {"http://[::1]:8080/a/b", "http://[::1]:8080/a/b/b/k?"},
                 {"ftp://h", NULL},
                 {"https://", NULL},
                 {"https://user:pass@h", NULL},
                 {"https://h?x", NULL},
                 {"https://h#x", NULL},
                 {"https://h h", NULL},
                 {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct r2_config config = {.bucket = "b", .region = "auto", .cred = {"A", "S", ""}};
        struct r2_buf url;
        r2_strcpy(config.endpoint, sizeof config.endpoint, cases[i].endpoint);
        enum r2_code code = r2_store_open_s3(&config, &store, &err);
        CU_ASSERT_EQUAL(code, cases[i].url ? R2_OK : R2_CONFIG);
        CU_ASSERT_PTR_NULL(strstr(err.text, "pass"));
        if (code) continue;
        r2_buf_init(&url, 2000);
        again(1000);
        want(store->ops->presign(store, &call, "k", 60, &url), R2_OK);
        if (!cases[i].url || strncmp(url.at, cases[i].url, strlen(cases[i].url)) != 0)
            CU_FAIL(cases[i].endpoint);
        r2_buf_free(&url);
        store->ops->close(store);
    }
    struct r2_config none = {.bucket = "b", .endpoint = "https://h"};
    CU_ASSERT_EQUAL(r2_store_open_s3(&none, &store, &err), R2_CONFIG);
}

static void progress_line(void)
{
    struct r2_progress p;
    char line[200];
    r2_progress_begin(&p, false, "uploading", "users/42/app\x1b.db", (120 << 20) - 5);
    r2_progress_add(&p, 40 << 20);
    r2_progress_add(&p, -(3 << 20));
    r2_progress_line(&p, line, sizeof line);
    CU_ASSERT_STRING_EQUAL(line, "r2vfs: uploading users/42/app?.db  37 of 120 MiB");
    CU_ASSERT_FALSE(p.on);
    r2_progress_end(&p);
}

UNIT_MAIN("http", UNIT(a_conditional_put_without_an_answer_is_in_doubt),
          UNIT(nor_is_it_repeated_on_a_kept_connection),
          UNIT(a_plain_put_without_an_answer_is_repeated), UNIT(doubt_stays),
          UNIT(failures_of_the_server_are_doubt), UNIT(busy_is_repeated), UNIT(busy_for_too_long),
          UNIT(no_answer_in_time), UNIT(nobody_listens), UNIT(cut_while_sending),
          UNIT(lost_conditions), UNIT(denials), UNIT(a_wrong_clock_is_corrected_once),
          UNIT(pages_of_others), UNIT(redirects_are_not_followed), UNIT(short_bodies),
          UNIT(ranges_must_be_the_ones_asked_for), UNIT(headers_have_limits),
          UNIT(odd_but_right_answers), UNIT(headers_as_sent), UNIT(connections_are_kept_and_shared),
          UNIT(many_threads), UNIT(large_bodies_outlive_the_deadline), UNIT(multipart_that_works),
          UNIT(complete_says_200_and_means_no), UNIT(complete_without_an_answer),
          UNIT(a_lost_condition_is_seen_before_complete), UNIT(endpoints), UNIT(progress_line))
