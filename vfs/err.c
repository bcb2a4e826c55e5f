/* err.c - see err.h. */
#include "err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void put(char *to, size_t room, const char *fmt, va_list ap)
{
    if (room) vsnprintf(to, room, fmt, ap);
}

enum r2_code r2_fail(struct r2_err *e, enum r2_code code, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        e->code = code;
        put(e->text, sizeof e->text, fmt, ap);
        va_end(ap);
    }
    return code;
}

static enum r2_code code_of_errno(int err)
{
    switch (err) {
    case ENOSPC:
    case EDQUOT:
        return R2_FULL;
    case EROFS:
    case EACCES:
    case EPERM:
        return R2_READONLY;
    case ENOMEM:
        return R2_NOMEM;
    default:
        return R2_IO;
    }
}

static const char *cure_of(int err, enum r2_code code)
{
    if (err == EFBIG) return "; raise this program's limit on the size of a file (ulimit -f)";
    if (code == R2_FULL) return "; make room on that disk";
    if (code == R2_READONLY) return "; give this user the right to read and write there";
    return "";
}

/* strerror_r comes in two shapes: glibc's returns the text, POSIX's a number. */
static const char *text_of_errno(int err, char *room, size_t n)
{
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    return strerror_r(err, room, n);
#else
    return strerror_r(err, room, n) == 0 ? room : "unknown error";
#endif
}

enum r2_code r2_fail_errno(struct r2_err *e, int err, const char *fmt, ...)
{
    enum r2_code code = code_of_errno(err);
    if (e) {
        char why[128] = "";
        va_list ap;
        va_start(ap, fmt);
        e->code = code;
        put(e->text, sizeof e->text, fmt, ap);
        va_end(ap);
        r2_advise(e, ": %s%s", text_of_errno(err, why, sizeof why), cure_of(err, code));
    }
    return code;
}

enum r2_code r2_wrap(struct r2_err *e, const char *fmt, ...)
{
    if (!e) return R2_OK;
    char whole[R2_ERR_TEXT];
    va_list ap;
    va_start(ap, fmt);
    put(whole, sizeof whole, fmt, ap);
    va_end(ap);
    char was[R2_ERR_TEXT];
    memcpy(was, e->text, sizeof was);
    memcpy(e->text, whole, sizeof whole);
    return r2_advise(e, ": %s", was);
}

enum r2_code r2_advise(struct r2_err *e, const char *fmt, ...)
{
    if (!e) return R2_OK;
    size_t n = strlen(e->text);
    va_list ap;
    va_start(ap, fmt);
    put(e->text + n, sizeof e->text - n, fmt, ap);
    va_end(ap);
    return e->code;
}

void r2_err_clear(struct r2_err *e)
{
    e->code = R2_OK;
    e->text[0] = 0;
}

const char *r2_code_text(enum r2_code code)
{
    static const char *const text[] = {
#define X(name, text) text,
        R2_CODES(X)
#undef X
    };
    return (unsigned)code < sizeof text / sizeof *text ? text[code] : "unknown error";
}
