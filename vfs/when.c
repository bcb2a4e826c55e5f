/* when.c - see when.h. */
#include "when.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* `n` digits at *p, at most `max`; steps over them. */
static bool number(const char **p, int n, int max, int *out)
{
    int value = 0;
    for (int k = 0; k < n; k++) {
        char c = (*p)[k];
        if (c < '0' || c > '9') return false;
        value = value * 10 + (c - '0');
    }
    *p += n;
    *out = value;
    return value <= max;
}

static bool sign(const char **p, const char *allowed)
{
    if (!**p || !strchr(allowed, **p)) return false;
    ++*p;
    return true;
}

static int days_in(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap);
}

/* Days from 1970-01-01; years are counted from March, so that leap days come last. */
static int64_t days_since_1970(int year, int month, int day)
{
    int64_t y = year - (month <= 2);
    int64_t from_march = (month + 9) % 12;
    return 365 * y + y / 4 - y / 100 + y / 400 + (153 * from_march + 2) / 5 + day - 1 - 719468;
}

static bool fraction(const char **p, int *ms)
{
    *ms = 0;
    if (**p != '.') return true;
    const char *digit = ++*p;
    for (int scale = 100; *digit >= '0' && *digit <= '9'; digit++, scale /= 10)
        *ms += (*digit - '0') * scale;
    bool any = digit > *p;
    *p = digit;
    return any;
}

static bool offset(const char **p, int *minutes)
{
    int h, m, way = **p == '-' ? -1 : 1;
    *minutes = 0;
    if (sign(p, "Zz")) return true;
    if (!sign(p, "+-") || !number(p, 2, 23, &h) || !sign(p, ":") || !number(p, 2, 59, &m))
        return false;
    *minutes = way * (h * 60 + m);
    return true;
}

bool r2_when_parse(const char *text, int64_t *out)
{
    const char *p = text;
    int year, month, day, h, m, s, ms, minutes;
    if (!number(&p, 4, 9999, &year) || year == 0 || !sign(&p, "-") || !number(&p, 2, 12, &month) ||
        month == 0 || !sign(&p, "-") || !number(&p, 2, days_in(year, month), &day) || day == 0)
        return false;
    if (!sign(&p, "Tt ") || !number(&p, 2, 23, &h) || !sign(&p, ":") || !number(&p, 2, 59, &m) ||
        !sign(&p, ":") || !number(&p, 2, 60, &s)) /* 60: a leap second */
        return false;
    if (!fraction(&p, &ms) || !offset(&p, &minutes) || *p) return false;
    int64_t seconds = days_since_1970(year, month, day) * 86400 + h * 3600 + m * 60 + s;
    *out = (seconds - minutes * 60) * 1000 + ms;
    return true;
}

void r2_when_text(int64_t ms, char out[R2_WHEN_BYTES])
{
    char day[R2_WHEN_BYTES];
    int64_t rest = (ms % 1000 + 1000) % 1000;
    time_t seconds = (time_t)(ms / 1000 - (ms % 1000 < 0));
    struct tm tm;
    out[0] = 0;
    if (!gmtime_r(&seconds, &tm) || tm.tm_year < 1000 - 1900 || tm.tm_year > 9999 - 1900) return;
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, R2_WHEN_BYTES, "%.19s.%03dZ", day, (int)rest);
}
