/* http.c - see http.h. The only file that knows curl. */
#include "http.h"
#include "os.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#ifndef SOCK_CLOEXEC
#define SOCK_CLOEXEC 0
#endif

enum {
    CONNECT_MS = 5000,
    SLOW_WINDOW_MS = 20000,
    SLOW_BYTES = 20 * 1024, /* less than that per window: stuck */
    HEAD_MAX = 64 * 1024,
    HEADERS_MAX = 128
};

/* ---- the pool ---- */

struct slot {
    struct slot *next;
    CURLM *multi; /* holds the connections; ours, so that waiting ends just at the deadline */
    CURL *easy;
    char origin[256];    /* scheme://host:port it was last used for */
    int64_t idle_since;  /* boot clock */
    unsigned generation; /* r2_fork_count() at birth */
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t freed;
    struct slot *idle; /* the last one used comes first */
    unsigned idle_count, busy, generation;
    bool curl_ready;
    _Atomic uint64_t connections;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .freed = PTHREAD_COND_INITIALIZER};

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void hold_pool(void)
{
    pthread_mutex_lock(&pool.lock);
}

static void release_pool(void)
{
    pthread_mutex_unlock(&pool.lock);
}

/* The child's condition variable may hold waiters that it does not have. */
static void release_in_child(void)
{
    pthread_cond_t fresh = PTHREAD_COND_INITIALIZER;
    memcpy(&pool.freed, &fresh, sizeof fresh);
    pthread_mutex_unlock(&pool.lock);
}

static void watch_fork(void)
{
    (void)r2_fork_count(); /* it counts from its first call on */
    pthread_atfork(hold_pool, release_pool, release_in_child);
}

static void slot_free(struct slot *s)
{
    if (s->easy) curl_easy_cleanup(s->easy);
    if (s->multi) curl_multi_cleanup(s->multi);
    free(s);
}

static struct slot *slot_new(void)
{
    struct slot *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->multi = curl_multi_init();
    s->easy = curl_easy_init();
    s->generation = r2_fork_count();
    if (s->multi && s->easy) {
        curl_multi_setopt(s->multi, CURLMOPT_MAXCONNECTS, 2L);
        return s;
    }
    slot_free(s);
    return NULL;
}

static void origin_of(const char *url, char out[256])
{
    const char *host = strstr(url, "://");
    size_t n = host ? (size_t)(host + 3 - url) + strcspn(host + 3, "/?") : strlen(url);
    snprintf(out, 256, "%.*s", (int)(n < 255 ? n : 255), url);
}

/* With the lock: after a fork all that is here is the parent's, and is left alone for ever. */
static void forget_parents(void)
{
    if (pool.generation == r2_fork_count()) return;
    pool.idle = NULL;
    pool.idle_count = pool.busy = 0;
    pool.generation = r2_fork_count();
}

/* With the lock: unlink what has been idle for too long, and beyond the limit; returns the chain.
 */
static struct slot *take_stale(int64_t now, unsigned keep)
{
    struct slot *stale = NULL, **at = &pool.idle;
    unsigned seen = 0;
    while (*at) {
        struct slot *s = *at;
        if (seen < keep && now - s->idle_since < R2_HTTP_IDLE_MS) {
            seen++, at = &s->next;
            continue;
        }
        *at = s->next;
        s->next = stale;
        stale = s;
        pool.idle_count--;
    }
    return stale;
}

/* With the lock: how many may be idle now. */
static unsigned idle_limit(void)
{
    unsigned room = R2_HTTP_BUSY - pool.busy;
    return pool.busy && room > R2_HTTP_IDLE ? room : R2_HTTP_IDLE;
}

static void free_chain(struct slot *s)
{
    while (s) {
        struct slot *next = s->next;
        slot_free(s);
        s = next;
    }
}

/* With the lock: wait until fewer than R2_HTTP_BUSY requests run. */
static bool wait_for_turn(int64_t deadline_ms)
{
    while (pool.busy >= R2_HTTP_BUSY) {
        int64_t left = deadline_ms - r2_boot_ms();
        if (left <= 0) return false;
        int64_t until = r2_now_ms() + left;
        struct timespec ts = {.tv_sec = until / 1000, .tv_nsec = until % 1000 * 1000000};
        pthread_cond_timedwait(&pool.freed, &pool.lock, &ts);
    }
    return true;
}

/* NULL: no memory, or (`late`) no turn before the deadline. */
static struct slot *check_out(const char *url, int64_t deadline_ms, bool *late)
{
    char origin[256];
    struct slot *found = NULL;
    origin_of(url, origin);
    pthread_once(&fork_once, watch_fork);
    pthread_mutex_lock(&pool.lock);
    if (!pool.curl_ready) pool.curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    forget_parents();
    bool turn = pool.curl_ready && wait_for_turn(deadline_ms);
    *late = pool.curl_ready && !turn;
    struct slot *stale = take_stale(r2_boot_ms(), idle_limit());
    for (struct slot **at = &pool.idle; turn && *at; at = &(*at)->next) {
        if (strcmp((*at)->origin, origin) != 0) continue;
        found = *at;
        *at = found->next;
        pool.idle_count--;
        break;
    }
    if (turn) pool.busy++;
    pthread_mutex_unlock(&pool.lock);
    free_chain(stale);
    if (!turn) return NULL;
    if (!found) found = slot_new();
    if (found) {
        memcpy(found->origin, origin, sizeof origin);
        return found;
    }
    pthread_mutex_lock(&pool.lock);
    pool.busy--;
    pthread_cond_signal(&pool.freed);
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

static void check_in(struct slot *s)
{
    if (s->generation != r2_fork_count()) return; /* forked during a request: the parent's */
    pthread_mutex_lock(&pool.lock);
    s->idle_since = r2_boot_ms();
    s->next = pool.idle;
    pool.idle = s;
    pool.idle_count++;
    pool.busy--;
    struct slot *stale = take_stale(s->idle_since, idle_limit());
    pthread_cond_signal(&pool.freed);
    pthread_mutex_unlock(&pool.lock);
    free_chain(stale);
}

void r2_http_stats(unsigned *idle, uint64_t *connections)
{
    pthread_mutex_lock(&pool.lock);
    forget_parents();
    *idle = pool.idle_count;
    *connections = atomic_load(&pool.connections);
    pthread_mutex_unlock(&pool.lock);
}

/* ---- one request ---- */

struct run {
    const struct r2_http *q;
    struct r2_answer *a;
    struct r2_err *e;
    enum r2_code local; /* a local failure inside a callback */
    bool head_done;     /* the headers are complete */
    bool text_full;     /* ended on purpose: enough was seen of a body that nobody wants */
    bool head_too_long;
    bool resent; /* curl wanted to send it once more, and may not */
    unsigned sendings;
    uint64_t read_at; /* next byte of the body to hand to curl */
    int64_t begun_ms, moved_ms, window_ms;
    uint64_t moved, window_moved; /* body bytes either way, at those times */
    uint64_t reported;            /* to the progress line */
    char error[CURL_ERROR_SIZE];
};

static curl_socket_t on_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *to)
{
    (void)ctx;
    (void)purpose;
    int fd = socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
    if (fd >= 0 && !SOCK_CLOEXEC) (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (fd >= 0) atomic_fetch_add(&pool.connections, 1);
    return fd >= 0 ? fd : CURL_SOCKET_BAD;
}

static size_t on_read(char *to, size_t size, size_t n, void *ctx)
{
    struct run *r = ctx;
    const struct r2_body *b = r->q->body;
    uint64_t left = b->size - r->read_at;
    size_t some = size * n < left ? size * n : (size_t)left;
    if (!some) return 0;
    if (b->mem) {
        memcpy(to, (const char *)b->mem + b->off + r->read_at, some);
    } else {
        r->local = r2_read_at(b->fd, to, some, b->off + r->read_at, r->e);
        if (r->local) return CURL_READFUNC_ABORT;
    }
    r->read_at += some;
    r->a->up += some;
    return some;
}

/* curl wants the body again, because a kept connection turned out to be dead. Where the first copy
 * may have arrived all the same, that is for the caller to decide. */
static int on_seek(void *ctx, curl_off_t at, int origin)
{
    struct run *r = ctx;
    if (r->q->once || origin != SEEK_SET || at < 0 || (uint64_t)at > r->q->body->size)
        return CURL_SEEKFUNC_FAIL;
    r->read_at = (uint64_t)at;
    return CURL_SEEKFUNC_OK;
}

#if LIBCURL_VERSION_NUM >= 0x075000
/* The same for a request without a body, which curl repeats without asking for it. */
static int on_sending(void *ctx, char *to, char *from, int to_port, int from_port)
{
    struct run *r = ctx;
    (void)to, (void)from, (void)to_port, (void)from_port;
    r->resent = r->sendings++ && r->q->once;
    return r->resent ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}
#endif

static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
    struct run *r = ctx;
    struct r2_answer *a = r->a;
    n *= size;
    if (r->head_done) return n; /* trailers */
    r2_answer_header(a, line, n);
    if (a->head_bytes > HEAD_MAX) return r->head_too_long = true, 0;
    bool end = n <= 2 && (n == 0 || line[0] == '\r' || line[0] == '\n');
    if (!end || a->status < 200) return n;
    r->head_done = true;
    if (!r->q->sink) return n;
    if (r->q->accept)
        a->fit = r->q->accept(r->q->ctx, a);
    else
        a->fit = a->status == 200 || a->status == 206;
    return n;
}

static bool into_sink(struct run *r, const char *bytes, size_t n)
{
    const struct r2_sink *s = r->q->sink;
    struct r2_answer *a = r->a;
    if (n > r->q->sink_max - a->sunk || (s->buf && n > s->buf->max - s->buf->len)) {
        r->local = r2_fail(r->e, R2_REFUSED, "the object is larger than is allowed here");
    } else if (s->buf) {
        if (!r2_buf_add(s->buf, bytes, n)) r->local = r2_fail(r->e, R2_NOMEM, "out of memory");
    } else {
        r->local = r2_write_at(s->fd, bytes, n, s->off + a->sunk, r->e);
    }
    if (!r->local) a->sunk += n;
    return !r->local;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *ctx)
{
    struct run *r = ctx;
    struct r2_answer *a = r->a;
    n *= size;
    a->down += n;
    if (a->fit) return into_sink(r, bytes, n) ? n : 0;
    size_t room = R2_HTTP_TEXT - a->text.len, some = n < room ? n : room;
    r2_buf_add(&a->text, bytes, some);
    if (some < n) return r->text_full = true, 0;
    return n;
}

/* How long to wait for the network before looking again; 0: give up, and a->why says why. */
static int64_t patience(struct run *r)
{
    struct r2_answer *a = r->a;
    int64_t now = r2_boot_ms(), until = r->q->deadline_ms;
    uint64_t moved = a->up + a->down, body = r->q->body ? r->q->body->size : 0;
    if (moved != r->moved) r->moved = moved, r->moved_ms = now;
    if (r->q->progress && moved != r->reported) {
        r2_progress_add(r->q->progress, (int64_t)(moved - r->reported));
        r->reported = moved;
    }
    bool bulk = body > R2_HTTP_BULK || a->down > R2_HTTP_BULK ||
                (r->head_done && a->fit && a->length > R2_HTTP_BULK);
    if (bulk) until = r->moved_ms + (r->q->deadline_ms - r->begun_ms);
    if (now >= until) {
        snprintf(a->why, sizeof a->why, "%s within %lld ms",
                 !r->head_done ? "nothing came"
                 : bulk        ? "nothing more came"
                               : "no complete answer",
                 (long long)(r->q->deadline_ms - r->begun_ms));
        return 0;
    }
    bool waiting = r->read_at == body && !r->head_done; /* the server thinks: no bytes move */
    if (now - r->window_ms >= SLOW_WINDOW_MS) {
        if (bulk && !waiting && moved - r->window_moved < SLOW_BYTES) {
            snprintf(a->why, sizeof a->why, "the transfer is stuck at %llu bytes",
                     (unsigned long long)moved);
            return 0;
        }
        r->window_ms = now, r->window_moved = moved;
    }
    return until - now < 500 ? until - now : 500;
}

/* Run the transfer to its end. false: given up, and a->why says why. */
static bool drive(struct slot *s, struct run *r, CURLcode *result)
{
    int running = 1, left;
    bool done = false;
    *result = CURLE_FAILED_INIT;
    if (curl_multi_add_handle(s->multi, s->easy) != CURLM_OK) return true;
    for (;;) {
        if (curl_multi_perform(s->multi, &running) != CURLM_OK) break;
        if (!running) {
            done = true;
            break;
        }
        int64_t wait = patience(r);
        if (wait <= 0) break;
        curl_multi_poll(s->multi, NULL, 0, (int)wait, NULL);
    }
    for (CURLMsg *m; (m = curl_multi_info_read(s->multi, &left)) != NULL;)
        if (m->msg == CURLMSG_DONE) *result = m->data.result;
    return done;
}

static bool tls_untrusted(CURLcode c)
{
    return c == CURLE_PEER_FAILED_VERIFICATION || c == CURLE_SSL_CACERT_BADFILE ||
           c == CURLE_SSL_ISSUER_ERROR || c == CURLE_SSL_INVALIDCERTSTATUS;
}

/* What curl's result means for the one who asked. */
static void conclude(struct slot *s, struct run *r, bool done, CURLcode c)
{
    struct r2_answer *a = r->a;
    long request_bytes = 0, connect_code = 0;
    curl_easy_getinfo(s->easy, CURLINFO_REQUEST_SIZE, &request_bytes);
    curl_easy_getinfo(s->easy, CURLINFO_HTTP_CONNECTCODE, &connect_code);
    a->outcome = r->head_done                                   ? R2_ANSWERED
                 : r->resent                                    ? R2_NO_ANSWER
                 : request_bytes == 0 || connect_code / 100 > 2 ? R2_NOT_SENT
                                                                : R2_NO_ANSWER;
    if (!done) return; /* patience() left its reason */
    a->whole = c == CURLE_OK && r->head_done;
    a->short_body = c == CURLE_PARTIAL_FILE && r->head_done;
    a->wrong_url = c == CURLE_URL_MALFORMAT || c == CURLE_UNSUPPORTED_PROTOCOL;
    if (a->outcome == R2_NOT_SENT) a->untrusted = tls_untrusted(c);
    if (c == CURLE_OK || r->text_full) return;
    if (r->head_too_long)
        snprintf(a->why, sizeof a->why, "the answer's headers are over %d KiB", HEAD_MAX / 1024);
    else if (c == CURLE_SEND_FAIL_REWIND || r->resent)
        snprintf(a->why, sizeof a->why, "the connection was cut before an answer came");
    else
        snprintf(a->why, sizeof a->why, "%s", r->error[0] ? r->error : curl_easy_strerror(c));
}

/* ---- options ---- */

static bool set_headers(const struct r2_http *q, struct curl_slist **list)
{
    struct r2_buf line;
    bool ok = q->header_count <= HEADERS_MAX;
    r2_buf_init(&line, 16384);
    /* R2 knows no 100-continue: curl would wait a second for it. No content type unless given. */
    const char *const none[] = {"Expect:", "Transfer-Encoding:", "Content-Type:"};
    for (size_t i = 0; ok && i < q->header_count + 3; i++) {
        const struct r2_pair *h = i >= 3 ? &q->headers[i - 3] : NULL;
        r2_buf_reset(&line);
        if (!h)
            r2_buf_str(&line, none[i]);
        else if (h->value && h->value[0])
            r2_buf_printf(&line, "%s: %s", h->name, h->value);
        else
            r2_buf_printf(&line, "%s;", h->name); /* curl's way to send an empty one */
        bool replaced = false;
        for (size_t k = 0; !h && i == 2 && k < q->header_count; k++)
            if (strcasecmp(q->headers[k].name, "content-type") == 0) replaced = true;
        if (replaced) continue;
        struct curl_slist *more = line.failed ? NULL : curl_slist_append(*list, line.at);
        if (more)
            *list = more;
        else
            ok = false;
    }
    r2_buf_free(&line);
    return ok;
}

static void set_trust(CURL *c)
{
    const char *file = getenv("CURL_CA_BUNDLE"), *folder = getenv("SSL_CERT_DIR");
    if (!file || !*file) file = getenv("SSL_CERT_FILE");
    if (file && *file) curl_easy_setopt(c, CURLOPT_CAINFO, file);
    if (folder && *folder) curl_easy_setopt(c, CURLOPT_CAPATH, folder);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
}

static void set_general(CURL *c, const struct r2_http *q, struct run *r)
{
    int64_t left = q->deadline_ms - r->begun_ms;
    curl_easy_setopt(c, CURLOPT_URL, q->url);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c, CURLOPT_HTTP_CONTENT_DECODING, 0L);
    curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "r2vfs/1");
    curl_easy_setopt(c, CURLOPT_MAXAGE_CONN, (long)(R2_HTTP_IDLE_MS / 1000));
    /* one handle has one connection: HTTP/2 would win nothing, and R2 does not document it */
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)(left < CONNECT_MS ? left : CONNECT_MS));
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, r->error);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, on_socket);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075000
    curl_easy_setopt(c, CURLOPT_PREREQFUNCTION, on_sending);
    curl_easy_setopt(c, CURLOPT_PREREQDATA, r);
#endif
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, r);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, r);
}

static void set_method(CURL *c, const struct r2_http *q, struct run *r)
{
    if (strcmp(q->method, "HEAD") == 0) {
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
        return;
    }
    if (q->body) {
        curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, (curl_off_t)q->body->size);
        curl_easy_setopt(c, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(c, CURLOPT_READDATA, r);
        curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(c, CURLOPT_SEEKDATA, r);
        if (q->body->size > 1 << 20) curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, 256L * 1024);
    }
    if (q->sink && !q->sink->buf) curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 64L * 1024);
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method);
}

enum r2_code r2_http_do(const struct r2_http *q, struct r2_answer *a, struct r2_err *e)
{
    struct run r = {.q = q, .a = a, .e = e, .begun_ms = r2_boot_ms()};
    struct curl_slist *headers = NULL;
    struct r2_quiet quiet;
    bool late = false;
    CURLcode c;
    r.moved_ms = r.window_ms = r.begun_ms;
    a->outcome = R2_NOT_SENT;
    if (q->deadline_ms <= r.begun_ms) {
        r2_strcpy(a->why, sizeof a->why, "the time for it was over before it began");
        return R2_OK;
    }
    r2_quiet_begin(&quiet);
    struct slot *s = check_out(q->url, q->deadline_ms, &late);
    if (late)
        r2_strcpy(a->why, sizeof a->why, "too many requests are running in this process");
    else if (!s || !set_headers(q, &headers))
        r.local = r2_fail(e, R2_NOMEM, "out of memory");
    if (s && !r.local) {
        set_general(s->easy, q, &r);
        set_trust(s->easy);
        set_method(s->easy, q, &r);
        curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, headers);
        bool done = drive(s, &r, &c);
        conclude(s, &r, done, c);
        curl_multi_remove_handle(s->multi, s->easy);
    }
    if (s) {
        curl_easy_reset(s->easy); /* keeps the connections; drops what points into `r` */
        check_in(s);
    }
    r2_quiet_end(&quiet);
    curl_slist_free_all(headers);
    if (q->progress && a->up + a->down != r.reported)
        r2_progress_add(q->progress, (int64_t)(a->up + a->down - r.reported));
    return r.local;
}
