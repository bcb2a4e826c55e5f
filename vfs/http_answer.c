/* http_answer.c - read the header lines of an answer; see http.h. Pure. */
#include "http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { LINE_MAX_BYTES = 9000 }; /* a metadata value may be as long as all metadata */

void r2_answer_init(struct r2_answer *a, struct r2_meta *meta)
{
    memset(a, 0, sizeof *a);
    a->meta = meta;
    if (meta) r2_meta_clear(meta);
    r2_buf_init(&a->text, R2_HTTP_TEXT);
}

void r2_answer_free(struct r2_answer *a)
{
    r2_buf_free(&a->text);
}

static int64_t ms_of(int year, int month, int day, int hour, int minute, int second)
{
    bool sane = year >= 1970 && year <= 9999 && month >= 0 && month < 12 && day >= 1 && day <= 31 &&
                hour >= 0 && hour < 24 && minute >= 0 && minute < 60 && second >= 0 && second <= 60;
    struct tm tm = {.tm_year = year - 1900,
                    .tm_mon = month,
                    .tm_mday = day,
                    .tm_hour = hour,
                    .tm_min = minute,
                    .tm_sec = second};
    return sane ? (int64_t)timegm(&tm) * 1000 : 0;
}

int64_t r2_http_date(const char *text)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    char month[4] = "";
    int day = 0, year = 0, hour = -1, minute = -1, second = -1;
    if (sscanf(text, "%*3s, %2d %3s %4d %2d:%2d:%2d", &day, month, &year, &hour, &minute,
               &second) != 6)
        return 0;
    for (int i = 0; i < 12; i++)
        if (strncmp(month, months + 3 * i, 3) == 0)
            return ms_of(year, i, day, hour, minute, second);
    return 0;
}

int64_t r2_iso_date(const char *text)
{
    int year = 0, month = 0, day = 0, hour = -1, minute = -1, second = -1, at = 0;
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &year, &month, &day, &hour, &minute, &second,
               &at) != 6)
        return 0;
    int64_t ms = ms_of(year, month - 1, day, hour, minute, second);
    if (!ms || text[at] != '.') return ms;
    for (int i = 1, unit = 100; i <= 3 && text[at + i] >= '0' && text[at + i] <= '9'; i++) {
        ms += (text[at + i] - '0') * unit;
        unit /= 10;
    }
    return ms;
}

/* "bytes 0-9/120"; a total of '*' is of no use to us. */
static void content_range(struct r2_answer *a, char *value)
{
    char *dash = strchr(value, '-'), *slash = strchr(value, '/');
    if (strncasecmp(value, "bytes ", 6) != 0 || !dash || !slash || slash < dash) return;
    *dash = *slash = 0;
    a->has_range = r2_parse_u64(value + 6, INT64_MAX, &a->range_first) &&
                   r2_parse_u64(dash + 1, INT64_MAX, &a->range_last) &&
                   r2_parse_u64(slash + 1, INT64_MAX, &a->range_total) &&
                   a->range_first <= a->range_last && a->range_last < a->range_total;
}

/* What we could not write ourselves (odd names, control characters) is a foreign object's own
 * business and is left out; only too much of it is an error. */
static void metadata(struct r2_answer *a, char *name, const char *value)
{
    for (char *c = name; *c; c++)
        if (*c >= 'A' && *c <= 'Z') *c = (char)(*c - 'A' + 'a');
    if (r2_meta_add(a->meta, name, value)) return;
    if (a->meta->len + strlen(name) + strlen(value) + 3 > R2_META_BYTES) a->meta_too_long = true;
}

/* It may be shown on a terminal, or sent back: no control characters. */
static bool plain(const char *value)
{
    while (*value && (unsigned char)*value >= ' ' && *value != 127)
        value++;
    return !*value;
}

static void field(struct r2_answer *a, char *name, char *value)
{
    uint64_t number;
    if (strcasecmp(name, "etag") == 0) {
        if (!r2_strcpy(a->etag, sizeof a->etag, value) || !plain(value)) a->etag[0] = 0;
    } else if (strcasecmp(name, "content-length") == 0) {
        a->has_length = r2_parse_u64(value, INT64_MAX, &a->length);
    } else if (strcasecmp(name, "transfer-encoding") == 0) {
        a->chunked = true;
    } else if (strcasecmp(name, "content-range") == 0) {
        content_range(a, value);
    } else if (strcasecmp(name, "content-type") == 0) {
        if (plain(value)) r2_strcpy(a->type, sizeof a->type, value);
    } else if (strcasecmp(name, "last-modified") == 0) {
        a->modified_ms = r2_http_date(value);
    } else if (strcasecmp(name, "date") == 0) {
        a->date_ms = r2_http_date(value);
    } else if (strcasecmp(name, "retry-after") == 0) {
        if (r2_parse_u64(value, 86400, &number)) a->retry_after_ms = (int64_t)number * 1000;
    } else if (a->meta && strncasecmp(name, "x-amz-meta-", 11) == 0 && name[11]) {
        metadata(a, name + 11, value);
    }
}

/* "HTTP/1.1 200 OK": an earlier block was a 1xx or a proxy's, and is forgotten. */
static void status_line(struct r2_answer *a, const char *line)
{
    int status = 0;
    uint64_t head_bytes = a->head_bytes;
    struct r2_meta *meta = a->meta;
    struct r2_buf text = a->text;
    if (sscanf(line, "HTTP/%*3s %3d", &status) != 1) sscanf(line, "HTTP/%*1s %3d", &status);
    uint64_t up = a->up;
    memset(a, 0, sizeof *a);
    a->meta = meta, a->text = text, a->up = up, a->head_bytes = head_bytes;
    if (meta) r2_meta_clear(meta);
    a->status = status;
}

void r2_answer_header(struct r2_answer *a, const char *line, size_t n)
{
    char text[LINE_MAX_BYTES];
    a->head_bytes += n;
    bool meta = n > 11 && strncasecmp(line, "x-amz-meta-", 11) == 0;
    if (n >= sizeof text) {
        if (meta) a->meta_too_long = true;
        return; /* no header that we read is that long */
    }
    memcpy(text, line, n);
    text[n] = 0;
    n = strlen(text); /* a zero byte inside ends it */
    while (n && (text[n - 1] == '\r' || text[n - 1] == '\n' || text[n - 1] == ' ' ||
                 text[n - 1] == '\t'))
        text[--n] = 0;
    if (strncmp(text, "HTTP/", 5) == 0) {
        status_line(a, text);
        return;
    }
    char *colon = strchr(text, ':');
    if (!colon || colon == text || text[0] == ' ' || text[0] == '\t') return;
    char *value = colon + 1 + strspn(colon + 1, " \t");
    *colon = 0;
    field(a, text, value);
}
