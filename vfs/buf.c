/* buf.c - see buf.h. */
#include "buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void r2_buf_init(struct r2_buf *b, size_t max_bytes)
{
    memset(b, 0, sizeof *b);
    b->max = max_bytes;
}

void r2_buf_free(struct r2_buf *b)
{
    free(b->at);
    r2_buf_init(b, b->max);
}

void r2_buf_reset(struct r2_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->at) b->at[0] = 0;
}

static bool grow(struct r2_buf *b, size_t n)
{
    if (b->failed) return false;
    if (n > b->max - b->len) return b->failed = true, false;
    size_t need = b->len + n + 1;
    if (need <= b->room) return true;
    size_t room = b->room ? b->room : 256;
    while (room < need)
        room *= 2;
    char *at = realloc(b->at, room);
    if (!at) return b->failed = true, false;
    b->at = at;
    b->room = room;
    return true;
}

bool r2_buf_add(struct r2_buf *b, const void *bytes, size_t n)
{
    if (!grow(b, n)) return false;
    if (n) memcpy(b->at + b->len, bytes, n);
    b->len += n;
    b->at[b->len] = 0;
    return true;
}

bool r2_buf_str(struct r2_buf *b, const char *text)
{
    return r2_buf_add(b, text, strlen(text));
}

bool r2_buf_printf(struct r2_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && grow(b, (size_t)n);
    if (ok) {
        vsnprintf(b->at + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return ok;
}

bool r2_strcpy(char *dst, size_t room, const char *src)
{
    size_t n = strlen(src);
    bool fits = n < room;
    if (!fits) n = room - 1;
    memcpy(dst, src, n);
    dst[n] = 0;
    return fits;
}

bool r2_parse_u64(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    if (!*text) return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return false;
        uint64_t digit = (uint64_t)(*text - '0');
        if (v > (UINT64_MAX - digit) / 10) return false;
        v = v * 10 + digit;
    }
    if (v > max) return false;
    *out = v;
    return true;
}

bool r2_parse_hex64(const char *text, size_t digits, uint64_t *out)
{
    uint64_t v = 0;
    size_t i;
    for (i = 0; i < digits; i++) {
        char c = text[i];
        unsigned d = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                     : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                     : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
                                            : 16;
        if (d == 16) return false;
        v = v << 4 | d;
    }
    if (text[i] || digits > 16) return false;
    *out = v;
    return true;
}
