/* fuzz_when.c - times as text: RFC 3339 in a URI, HTTP's and ISO dates in answers. */
#include "fuzz.h"

#include <time.h>

#include "../../vfs/http.h"
#include "../../vfs/when.h"

/* Whole seconds in UTC, by the C library: another calendar than ours. */
static void same_as_strptime(const char *text, int64_t ms)
{
    struct tm tm = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (!rest || *rest || strlen(text) != 20 || tm.tm_sec > 59) return;
    RULE((int64_t)timegm(&tm) * 1000 == ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct input in = {bytes, n};
    char *text = take_text(&in, 4096), again[R2_WHEN_BYTES];
    int64_t ms, back, http = r2_http_date(text), iso = r2_iso_date(text);
    const int64_t end = INT64_C(253402300800000); /* the year 10000 */
    if (r2_when_parse(text, &ms)) {
        same_as_strptime(text, ms);
        r2_when_text(ms, again);
        /* the year 1000 and after: it has four digits */
        RULE(again[0] || ms < INT64_C(-30609792000000) + 86400000 || ms >= end - 86400000);
        if (again[0]) RULE(r2_when_parse(again, &back) && back == ms);
    }
    RULE(http >= 0 && http <= end && iso >= 0 && iso <= end); /* a leap second */
    r2_when_text((int64_t)take64(&in), again);
    RULE(strlen(again) == 24 || !again[0]);
    if (again[0]) RULE(r2_when_parse(again, &back));
    free(text);
    return 0;
}
