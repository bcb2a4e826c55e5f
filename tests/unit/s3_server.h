/* s3_server.h - the S3 store against a server that says what the test tells it to, for test_http.c
 * and test_store_s3.c.
 *
 * The server is a few threads in this process. A test gives it rules: the first one that was not
 * used up and whose `match` is part of a request's head answers it. What the emulator never does is
 * here: lost answers, 429 and 5xx, wrong clocks, pages of others, cut bodies. */
#ifndef S3_SERVER_H
#define S3_SERVER_H

#include "unit.h"

#include "../../vfs/http.h"
#include "../../vfs/os.h"
#include "../../vfs/store.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

/* ---- the server ---- */

enum { RULES_MAX = 16, SEEN_MAX = 256, CONNS_MAX = 256, HEAD_ROOM = 8192 };

struct rule {
    const char *match;  /* NULL: any request */
    const char *answer; /* NULL: none. "Content-Length: ?" becomes the body's */
    bool cut;           /* hang up after it; without an answer: at once after the request */
    bool early;         /* hang up before the body was read */
    bool hang;          /* say no more until the client goes */
    uint64_t body;      /* so many zero bytes after the answer */
    int pause_ms;       /* after each 64 KiB of them */
    int times;          /* 0: once */
    int gather;         /* answer only when so many requests of this rule have come, and so on */
    int index;          /* filled in */
};

static struct {
    pthread_mutex_t lock;
    pthread_t thread;
    pthread_cond_t came;
    int fd, port, accepts, seen, conns;
    bool over;
    struct rule rules[RULES_MAX];
    int used[RULES_MAX], gathered[RULES_MAX];
    char heads[SEEN_MAX][HEAD_ROOM];
    int conn_of[SEEN_MAX];
    int conn_fd[CONNS_MAX];
    pthread_t conn_thread[CONNS_MAX];
} server = {.lock = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER};

static inline bool send_all(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t put = send(fd, bytes, n, MSG_NOSIGNAL);
        if (put <= 0) return false;
        bytes += put, n -= (size_t)put;
    }
    return true;
}

/* A copy of the next rule for this head; false: there is none. Takes note of the request. */
static inline bool rule_for(const char *head, int conn, struct rule *out)
{
    bool found = false;
    pthread_mutex_lock(&server.lock);
    if (server.seen < SEEN_MAX) {
        r2_strcpy(server.heads[server.seen], HEAD_ROOM, head);
        server.conn_of[server.seen] = conn;
    }
    server.seen++;
    for (int i = 0; i < RULES_MAX && !found; i++) {
        const struct rule *r = &server.rules[i];
        bool live = (r->answer || r->cut || r->hang) && server.used[i] < (r->times ? r->times : 1);
        if (!live || (r->match && !strstr(head, r->match))) continue;
        server.used[i]++;
        *out = *r;
        out->index = i;
        found = true;
    }
    pthread_mutex_unlock(&server.lock);
    return found;
}

static inline bool send_answer(int fd, const char *answer)
{
    const char *mark = strstr(answer, "Content-Length: ?"), *body = strstr(answer, "\r\n\r\n");
    char number[24];
    if (!mark || !body) return send_all(fd, answer, strlen(answer));
    int n = snprintf(number, sizeof number, "%zu", strlen(body + 4));
    return send_all(fd, answer, (size_t)(mark + 16 - answer)) && send_all(fd, number, (size_t)n) &&
           send_all(fd, mark + 17, strlen(mark + 17));
}

static inline void send_zeros(int fd, const struct rule *r)
{
    static const char zeros[65536];
    for (uint64_t left = r->body; left;) {
        size_t n = left < sizeof zeros ? (size_t)left : sizeof zeros;
        if (!send_all(fd, zeros, n)) return;
        left -= n;
        if (r->pause_ms) r2_sleep_ms(r->pause_ms);
    }
}

static inline void gather(const struct rule *r)
{
    pthread_mutex_lock(&server.lock);
    int *come = &server.gathered[r->index], until = ((*come)++ / r->gather + 1) * r->gather;
    pthread_cond_broadcast(&server.came);
    while (*come < until && !server.over)
        pthread_cond_wait(&server.came, &server.lock);
    pthread_mutex_unlock(&server.lock);
}

/* One request and its answer. false: this connection is over. */
static inline bool serve_one(int conn)
{
    int fd = server.conn_fd[conn];
    char head[HEAD_ROOM], sink[65536];
    size_t n = 0;
    while (n + 1 < sizeof head) {
        ssize_t got = recv(fd, head + n, 1, 0);
        if (got <= 0) return false;
        head[++n] = 0;
        if (n >= 4 && memcmp(head + n - 4, "\r\n\r\n", 4) == 0) break;
    }
    struct rule rule, *r = rule_for(head, conn, &rule) ? &rule : NULL;
    const char *length = strcasestr(head, "\r\ncontent-length:");
    uint64_t left = length ? strtoull(length + 17, NULL, 10) : 0;
    if (!r || r->early) return false;
    while (left) {
        ssize_t got = recv(fd, sink, left < sizeof sink ? (size_t)left : sizeof sink, 0);
        if (got <= 0) return false;
        left -= (uint64_t)got;
    }
    if (r->gather) gather(r);
    if (r->answer && !send_answer(fd, r->answer)) return false;
    send_zeros(fd, r);
    if (r->hang) (void)!recv(fd, sink, 1, 0);
    return !r->cut && !r->hang;
}

static inline void *serve(void *ctx)
{
    int i = (int)(intptr_t)ctx;
    while (serve_one(i)) {
    }
    shutdown(server.conn_fd[i], SHUT_RDWR);
    return NULL;
}

static inline void *accept_all(void *ctx)
{
    (void)ctx;
    for (int fd; (fd = accept(server.fd, NULL, NULL)) >= 0;) {
        pthread_mutex_lock(&server.lock);
        int i = server.conns;
        if (i == CONNS_MAX) abort();
        server.conn_fd[i] = fd;
        if (pthread_create(&server.conn_thread[i], NULL, serve, (void *)(intptr_t)i)) abort();
        server.conns++;
        server.accepts++;
        pthread_mutex_unlock(&server.lock);
    }
    return NULL;
}

static inline int listen_on(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, n) || listen(fd, 64) ||
        getsockname(fd, (struct sockaddr *)&at, &n))
        abort();
    *port = ntohs(at.sin_port);
    return fd;
}

/* ---- a test's frame ---- */

#define SECRET "very/secret+key"
#define TOKEN  "session-token-value"

static struct r2_store *store;
static struct r2_err err;
static struct r2_traffic traffic;
static struct r2_call call;

static inline void open_store(int port)
{
    struct r2_config config = {.scheme = R2_SCHEME_S3,
                               .bucket = "bkt",
                               .region = "auto",
                               .cred = {"AKTEST", SECRET, TOKEN}};
    setenv("no_proxy", "*", 1);
    snprintf(config.endpoint, sizeof config.endpoint, "http://127.0.0.1:%d/pre%%20fix/", port);
    CU_ASSERT_EQUAL_FATAL(r2_store_open_s3(&config, &store, &err), R2_OK);
}

static inline void again(int64_t ms)
{
    memset(&err, 0, sizeof err);
    memset(&traffic, 0, sizeof traffic);
    call = (struct r2_call){.deadline_ms = r2_boot_ms() + ms, .traffic = &traffic, .err = &err};
}

static inline void set_rules(const struct rule *rules, size_t n)
{
    pthread_mutex_lock(&server.lock);
    memset(server.rules, 0, sizeof server.rules);
    memset(server.used, 0, sizeof server.used);
    if (n) memcpy(server.rules, rules, n * sizeof *rules);
    memset(server.gathered, 0, sizeof server.gathered);
    server.seen = server.accepts = 0;
    pthread_mutex_unlock(&server.lock);
    again(20000);
}

static inline void start(const struct rule *rules, size_t n)
{
    server.fd = listen_on(&server.port);
    server.conns = 0, server.over = false;
    set_rules(rules, n);
    if (pthread_create(&server.thread, NULL, accept_all, NULL)) abort();
    open_store(server.port);
}
#define RULES(...)                                                                                 \
    (const struct rule[]){__VA_ARGS__},                                                            \
        sizeof((const struct rule[]){__VA_ARGS__}) / sizeof(struct rule)

static inline void stop(void)
{
    CU_ASSERT_PTR_NULL(strstr(err.text, SECRET));
    CU_ASSERT_PTR_NULL(strstr(err.text, TOKEN));
    CU_ASSERT_PTR_NULL(strstr(err.text, "Signature="));
    store->ops->close(store);
    pthread_mutex_lock(&server.lock);
    server.over = true;
    pthread_cond_broadcast(&server.came);
    pthread_mutex_unlock(&server.lock);
    shutdown(server.fd, SHUT_RDWR);
    pthread_join(server.thread, NULL);
    close(server.fd);
    for (int i = 0; i < server.conns; i++)
        shutdown(server.conn_fd[i], SHUT_RDWR);
    for (int i = 0; i < server.conns; i++) {
        pthread_join(server.conn_thread[i], NULL);
        close(server.conn_fd[i]);
    }
}

static inline int seen(const char *part)
{
    int n = 0;
    pthread_mutex_lock(&server.lock);
    for (int i = 0; i < server.seen && i < SEEN_MAX; i++)
        n += strstr(server.heads[i], part) != NULL;
    pthread_mutex_unlock(&server.lock);
    return n;
}

static inline enum r2_code put_when(enum r2_put_if when)
{
    struct r2_put p = {.key = "k", .body = {.mem = "hello", .size = 5}, .when = when};
    if (when == R2_PUT_IF_MATCH) p.etag = "\"old\"";
    return store->ops->put(store, &call, &p, NULL);
}

static struct r2_object object;

static inline enum r2_code head_k(void)
{
    return store->ops->head(store, &call, "k", &object);
}

static char got[128];

static inline enum r2_code get_k(void)
{
    struct r2_buf b;
    struct r2_sink sink = {.buf = &b};
    r2_buf_init(&b, sizeof got - 1);
    enum r2_code code = store->ops->get(store, &call, "k", NULL, UINT64_MAX, &sink, &object);
    r2_strcpy(got, sizeof got, b.len ? b.at : "");
    r2_buf_free(&b);
    return code;
}

static inline void want(enum r2_code code, enum r2_code wanted)
{
    if (code != wanted) fprintf(stderr, "\n  %d, not %d: %s\n", code, wanted, err.text);
    CU_ASSERT_EQUAL(code, wanted);
}

#define STATUS(s, more, length) "HTTP/1.1 " s "\r\n" more "Content-Length: " length "\r\n\r\n"
#define OK_PUT                  STATUS("200 OK", "ETag: \"new\"\r\n", "0")
#define OK_HEAD                 STATUS("200 OK", "ETag: \"abc\"\r\n", "5")
#define OK_GET                  OK_HEAD "hello"
#define ERROR(s, code)          STATUS(s, "", "?") "<Error><Code>" code "</Code></Error>"

/* ---- multipart ---- */

#define CREATED                                                                                    \
    STATUS("200 OK", "", "?")                                                                      \
    "<InitiateMultipartUploadResult><UploadId>id&amp;1</UploadId></InitiateMultipartUploadResult>"
#define COMPLETED                                                                                  \
    STATUS("200 OK", "", "?")                                                                      \
    "<CompleteMultipartUploadResult><ETag>&quot;m-5&quot;</ETag>"                                  \
    "</CompleteMultipartUploadResult>"
#define UPLOAD                                                                                     \
    {.match = "POST /pre%20fix/bkt/k?uploads=", .answer = CREATED},                                \
        {.match = "PUT ", .answer = OK_PUT, .times = 5},                                           \
    {                                                                                              \
        .match = "DELETE ", .answer = GONE                                                         \
    }
#define GONE "HTTP/1.1 204 No Content\r\n\r\n"
#define ABSENT                                                                                     \
    {                                                                                              \
        .match = "HEAD ", .answer = "HTTP/1.1 404 No\r\n\r\n"                                      \
    }
#define FINISH "POST /pre%20fix/bkt/k?uploadId=id%261 "

static int64_t fresh_for_large; /* fresh_until_ms of put_large */

static inline enum r2_code put_large(enum r2_put_if when)
{
    char path[] = "/tmp/r2vfs-http-XXXXXX";
    int fd = mkstemp(path);
    uint64_t size = R2_MULTIPART_BYTES + 1;
    unlink(path);
    if (fd < 0 || ftruncate(fd, (off_t)size)) abort();
    struct r2_put p = {.key = "k", .body = {.fd = fd, .size = size}, .when = when, .etag = "\"o\""};
    memset(&object, 0, sizeof object);
    again(60000);
    call.fresh_until_ms = fresh_for_large;
    enum r2_code code = store->ops->put(store, &call, &p, &object);
    close(fd);
    return code;
}

#endif
