/* err.h - one error: a kind, and a sentence that grows on the way up.
 *
 * Every function that can fail takes a `struct r2_err *` and returns an `enum r2_code` (R2_OK is
 * 0). The place that notices calls r2_fail() with what happened; a caller that knows more (which
 * file, which remote, what to do) calls r2_wrap(). No sentence ever holds a credential. */
#ifndef R2_ERR_H
#define R2_ERR_H

/* X(name, what the kind means in a sentence of its own) */
#define R2_CODES(X)                                                                                \
    X(OK, "no error")                                                                              \
    X(NOMEM, "out of memory")                                                                      \
    X(IO, "a local file could not be read or written")                                             \
    X(FULL, "the local disk is full")                                                              \
    X(BUSY, "a lock could not be had in time")                                                     \
    X(CONFIG, "the configuration is wrong")                                                        \
    X(UNREACHABLE, "the remote gave no usable answer; nothing was changed there")                  \
    X(DENIED, "the remote refused the credentials")                                                \
    X(MISSING, "the object does not exist")                                                        \
    X(PRECONDITION, "the object is not the one that was expected")                                 \
    X(UNKNOWN, "the write may or may not have happened")                                           \
    X(CONFLICT, "local changes and remote changes exclude each other")                             \
    X(CORRUPT, "the content is damaged or is no SQLite database")                                  \
    X(REFUSED, "the request cannot be served as it stands")                                        \
    X(READONLY, "the local file cannot be written")                                                \
    X(STALE, "the remote must be asked again before anything is pushed")

enum r2_code {
#define X(name, text) R2_##name,
    R2_CODES(X)
#undef X
};

enum { R2_ERR_TEXT = 1024 }; /* bytes of a sentence, terminator included */

struct r2_err {
    enum r2_code code;      /* R2_OK while nothing failed */
    char text[R2_ERR_TEXT]; /* the sentence, "" while nothing failed */
};

/* Record a failure and return `code`. `e` may be NULL. Replaces what was there. */
enum r2_code r2_fail(struct r2_err *e, enum r2_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for errno `err`: ENOSPC and EDQUOT become R2_FULL, EROFS and EACCES R2_READONLY, ENOMEM
 * R2_NOMEM, all else R2_IO; strerror's text is appended after ": ", and what to do about it. */
enum r2_code r2_fail_errno(struct r2_err *e, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "<formatted>: " before the sentence. Returns the code that is there. */
enum r2_code r2_wrap(struct r2_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Append to the sentence (what to do about it). Returns the code that is there. */
enum r2_code r2_advise(struct r2_err *e, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void r2_err_clear(struct r2_err *e);

/* The kind's own sentence; never NULL. */
const char *r2_code_text(enum r2_code code);

#endif
