/* buf.h - a growing byte buffer with a ceiling, and bounds-checked big-endian access. */
#ifndef R2_BUF_H
#define R2_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

struct r2_buf {
    char *at;    /* the bytes; always NUL-terminated once anything was appended */
    size_t len;  /* bytes in use, terminator not counted */
    size_t room; /* bytes allocated */
    size_t max;  /* the ceiling for len */
    bool failed; /* sticky: no memory, or the ceiling was reached; later calls do nothing */
};

void r2_buf_init(struct r2_buf *b, size_t max_bytes);
void r2_buf_free(struct r2_buf *b);  /* releases; the buffer may be used again */
void r2_buf_reset(struct r2_buf *b); /* empties, keeps the memory, clears `failed` */
bool r2_buf_add(struct r2_buf *b, const void *bytes, size_t n);
bool r2_buf_str(struct r2_buf *b, const char *text);
bool r2_buf_printf(struct r2_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Copy `src` into `dst` of `room` bytes, always terminated. false when it did not fit. */
bool r2_strcpy(char *dst, size_t room, const char *src);

/* A whole string as a decimal number, nothing before or after it. false when it is none or > max.
 */
bool r2_parse_u64(const char *text, uint64_t max, uint64_t *out);
/* Exactly `digits` lower- or upper-case hex digits at `text`, nothing after them. */
bool r2_parse_hex64(const char *text, size_t digits, uint64_t *out);

static inline uint16_t r2_get16(const uint8_t *p)
{
    return (uint16_t)((p[0] << 8) | p[1]);
}
static inline uint32_t r2_get32(const uint8_t *p)
{
    return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | p[3];
}
static inline uint64_t r2_get64(const uint8_t *p)
{
    return ((uint64_t)r2_get32(p) << 32) | r2_get32(p + 4);
}
static inline void r2_put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24), p[1] = (uint8_t)(v >> 16), p[2] = (uint8_t)(v >> 8),
    p[3] = (uint8_t)v;
}
static inline void r2_put64(uint8_t *p, uint64_t v)
{
    r2_put32(p, (uint32_t)(v >> 32)), r2_put32(p + 4, (uint32_t)v);
}

#endif
