/* when.h - points in time as text: RFC 3339. Pure. */
#ifndef R2_WHEN_H
#define R2_WHEN_H

#include <stdbool.h>
#include <stdint.h>

enum { R2_WHEN_BYTES = 32 };

/* "2026-11-23T03:38:43.25+01:00": date, T (or t, or a space), time, any fraction of a second (cut
 * to milliseconds), Z (or z) or an offset; nothing before or after it. *ms: since 1970. */
bool r2_when_parse(const char *text, int64_t *ms);

/* In UTC, with milliseconds; "" when the year has not four digits. */
void r2_when_text(int64_t ms, char out[R2_WHEN_BYTES]);

#endif
