/* http.h - one HTTP request and its answer. http.c is the only file that knows curl.
 *
 * Connections: easy handles in one pool for all threads and replicas of the process; when no
 * request runs, at most R2_HTTP_IDLE of them are kept (while some run, as many as fill up
 * R2_HTTP_BUSY: many small requests at once must not connect anew each time), none longer than 5
 * minutes (R2 hangs up after 400 s), and at most R2_HTTP_BUSY requests run at once, others wait.
 * After fork() the child forgets the parent's handles without closing them (a TLS goodbye would end
 * the parent's connection too).
 *
 * Time: `deadline_ms` bounds the whole request, waiting for a handle included. A body of more than
 * R2_HTTP_BULK bytes, either way, may take as long as it likes provided it moves: then the time
 * from the request's start to its deadline is the longest silence allowed, and less than 1 KiB/s
 * over 20 s ends it. Connecting takes at most 5 s.
 *
 * No redirects, no 100-continue, no content decoding, no request repeated behind the caller's back
 * when `once` is set. TLS is verified, against CURL_CA_BUNDLE, SSL_CERT_FILE or the system's
 * bundle; proxies come from the environment as curl's own. */
#ifndef R2_HTTP_H
#define R2_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "progress.h"
#include "sigv4.h"
#include "store.h"

enum {
    R2_HTTP_IDLE = 16,
    R2_HTTP_BUSY = 64,
    R2_HTTP_IDLE_MS = 300000,
    R2_HTTP_ETAG = 512,  /* parts' ETags may be longer than objects' */
    R2_HTTP_TEXT = 16384 /* most bytes kept of a body that does not go to the sink */
};
#define R2_HTTP_BULK ((uint64_t)8 << 20)

enum r2_outcome {
    R2_NOT_SENT,  /* no name, no connection, no TLS: the server saw no byte of the request */
    R2_NO_ANSWER, /* something was sent, and no whole header block came back */
    R2_ANSWERED   /* status and headers are there; `whole` says whether the body is */
};

struct r2_answer {
    enum r2_outcome outcome;
    int status;
    bool whole;      /* the body is complete */
    bool short_body; /* the server hung up cleanly before the end of the body */
    bool untrusted;  /* NOT_SENT because of the TLS certificate */
    bool wrong_url;  /* NOT_SENT because curl cannot serve such a URL */
    bool fit;        /* `accept` took the body into the sink */
    bool has_length, chunked, has_range;
    uint64_t length;                               /* Content-Length */
    uint64_t range_first, range_last, range_total; /* Content-Range */
    int64_t modified_ms, date_ms;                  /* Last-Modified, Date; 0: not told */
    int64_t retry_after_ms;                        /* 0: not told */
    char etag[R2_HTTP_ETAG];                       /* "" also when it is longer than that */
    char type[64];                                 /* Content-Type, cut */
    struct r2_meta *meta; /* where x-amz-meta-* go; NULL: nowhere. The caller's */
    bool meta_too_long;
    uint64_t head_bytes; /* of all header lines */
    uint64_t up, down;   /* body bytes sent and received */
    uint64_t sunk;       /* of those received, the bytes now in the sink */
    struct r2_buf text;  /* a body that did not go to the sink, cut at R2_HTTP_TEXT */
    char why[256];       /* what went wrong below HTTP; "" when nothing did */
};

struct r2_http {
    const char *method;
    const char *url;
    const struct r2_pair *headers; /* sent in this order */
    size_t header_count;
    const struct r2_body *body; /* NULL: no body at all */
    const struct r2_sink *sink; /* NULL: the answer's body goes to `text` */
    uint64_t sink_max;          /* a body with more bytes than that does not fit */
    /* Asked once, when the headers are there: may the body go to the sink? NULL: if 200 or 206. */
    bool (*accept)(void *ctx, const struct r2_answer *a);
    void *ctx;
    bool once;                    /* never send it a second time */
    int64_t deadline_ms;          /* on r2_boot_ms()'s clock */
    struct r2_progress *progress; /* may be NULL */
};

/* Send `q`, fill `a` (r2_answer_init before, r2_answer_free after). R2_OK whatever came back; other
 * codes are local failures: reading the body, writing the sink, no memory. */
enum r2_code r2_http_do(const struct r2_http *q, struct r2_answer *a, struct r2_err *e);

/* The pool, for the tests: handles idle now, connections opened so far by this process. */
void r2_http_stats(unsigned *idle, uint64_t *connections);

/* ---- http_answer.c, pure ---- */

void r2_answer_init(struct r2_answer *a, struct r2_meta *meta);
void r2_answer_free(struct r2_answer *a);
/* One header line as received, its end of line included. A status line starts anew. */
void r2_answer_header(struct r2_answer *a, const char *line, size_t n);
/* "Wed, 21 Oct 2015 07:28:00 GMT" and "2015-10-21T07:28:00.000Z" in ms since 1970; 0: neither. */
int64_t r2_http_date(const char *text);
int64_t r2_iso_date(const char *text);

#endif
