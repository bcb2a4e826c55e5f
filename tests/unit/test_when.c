/* test_when.c - RFC 3339: what is a time, what is none, and the way back. */
#include "unit.h"

#include "../../vfs/when.h"

#include <inttypes.h>
#include <time.h>

static bool parse(const char *text, int64_t *ms)
{
    *ms = INT64_MIN;
    return r2_when_parse((const char *)unit_guarded(text, strlen(text) + 1), ms);
}

static void times(void)
{
    static const struct {
        const char *text;
        int64_t ms;
    } rows[] = {{"1970-01-01T00:00:00Z", 0},
                {"1970-01-01T00:00:00.001Z", 1},
                {"1969-12-31T23:59:59.999Z", -1},
                {"2026-11-23T03:38:43Z", 1795405123000},
                {"2026-11-23T03:38:43.2Z", 1795405123200},
                {"2026-11-23T03:38:43.25Z", 1795405123250},
                {"2026-11-23T03:38:43.2509999999999999999999Z", 1795405123250},
                {"2026-11-23t03:38:43z", 1795405123000},
                {"2026-11-23 03:38:43Z", 1795405123000},
                {"2026-11-23T04:38:43+01:00", 1795405123000},
                {"2026-11-22T18:08:43.5-09:30", 1795405123500},
                {"2026-11-23T03:38:43-00:00", 1795405123000},
                {"2026-11-24T03:37:43+23:59", 1795405123000},
                {"2000-02-29T00:00:00Z", 951782400000},
                {"1900-02-28T23:59:59Z", -2203891201000},
                {"2016-12-31T23:59:60Z", 1483228800000}, /* a leap second */
                {"0001-01-01T00:00:00Z", -62135596800000},
                {"9999-12-31T23:59:59.999Z", 253402300799999}};
    int64_t ms;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CU_ASSERT_TRUE(parse(rows[i].text, &ms));
        CU_ASSERT_EQUAL(ms, rows[i].ms);
        if (ms != rows[i].ms) printf("%s: %" PRId64 "\n", rows[i].text, ms);
    }
}

static void none(void)
{
    static const char *const rows[] = {"",
                                       "now",
                                       "2026",
                                       "2026-11-23",
                                       "2026-11-23T03:38Z",
                                       "2026-11-23T03:38:43",
                                       "2026-11-23T03:38:43.Z",
                                       "2026-11-23T03:38:43,5Z",
                                       "2026-11-23T03:38:43Z ",
                                       " 2026-11-23T03:38:43Z",
                                       "2026-11-23T03:38:43ZZ",
                                       "2026-11-23T03:38:43+0100",
                                       "2026-11-23T03:38:43+01",
                                       "2026-11-23T03:38:43+24:00",
                                       "2026-11-23T03:38:43+01:60",
                                       "2026-11-23T03:38:61Z",
                                       "2026-11-23T03:60:43Z",
                                       "2026-11-23T24:38:43Z",
                                       "2026-11-31T03:38:43Z",
                                       "2026-02-29T03:38:43Z",
                                       "1900-02-29T03:38:43Z",
                                       "2026-00-01T03:38:43Z",
                                       "2026-13-01T03:38:43Z",
                                       "2026-11-00T03:38:43Z",
                                       "0000-11-23T03:38:43Z",
                                       "+2026-11-23T03:38:43Z",
                                       "2026-1-23T03:38:43Z",
                                       "2026/11/23T03:38:43Z",
                                       "2026-11-23_03:38:43Z",
                                       "20261123T033843Z",
                                       "-026-11-23T03:38:43Z",
                                       "2026-11-23T 3:38:43Z"};
    int64_t ms;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CU_ASSERT_FALSE(parse(rows[i], &ms));
        if (ms != INT64_MIN) printf("%s\n", rows[i]);
    }
    /* cut anywhere, it is none, and nothing behind it is read */
    const char *whole = "2026-11-23T03:38:43.250+01:00";
    for (size_t n = 0; n < strlen(whole); n++) {
        char cut[64] = "";
        memcpy(cut, whole, n);
        CU_ASSERT_FALSE(parse(cut, &ms));
    }
}

static void there_and_back(void)
{
    char text[R2_WHEN_BYTES], by_libc[32];
    int64_t back;
    for (int64_t ms = INT64_C(-30610224000000); ms < INT64_C(253402300799999);
         ms += INT64_C(3554745677)) {
        time_t seconds = (time_t)((ms - (ms % 1000 + 1000) % 1000) / 1000);
        struct tm tm;
        r2_when_text(ms, text);
        CU_ASSERT_EQUAL(strlen(text), 24);
        strftime(by_libc, sizeof by_libc, "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &tm));
        CU_ASSERT_EQUAL(strncmp(text, by_libc, 19), 0);
        CU_ASSERT_TRUE(r2_when_parse(text, &back) && back == ms);
    }
    r2_when_text(INT64_MAX, text);
    CU_ASSERT_STRING_EQUAL(text, "");
    r2_when_text(253402300800000, text);
    CU_ASSERT_STRING_EQUAL(text, "");
}

UNIT_MAIN("when", UNIT(times), UNIT(none), UNIT(there_and_back))
