/* fuzz_s3xml.c - the XML of S3's answers; and what we write must read back. */
#include "fuzz.h"

#include "../../vfs/s3xml.h"

struct seen {
    unsigned count, stop_after;
};

static bool on_object(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    struct seen *s = ctx;
    RULE(key[0] && strlen(key) < R2_S3_KEY_BYTES);
    RULE(size <= INT64_MAX && modified_ms >= 0);
    return ++s->count < s->stop_after;
}

static void listing(const char *xml, size_t n, unsigned stop_after)
{
    struct seen all = {.stop_after = UINT32_MAX}, some = {.stop_after = stop_after};
    struct r2_s3_page page;
    bool ok = r2_s3_listing(xml, n, on_object, &all, &page);
    RULE(ok || all.count == 0); /* all or nothing */
    RULE(!ok || !page.stopped);
    RULE(!ok || !page.truncated || (page.token[0] && memchr(page.token, 0, sizeof page.token)));
    RULE(r2_s3_listing(xml, n, on_object, &some, &page) == ok);
    RULE(some.count == (all.count < stop_after ? all.count : stop_after));
}

static void error(const char *xml, size_t n)
{
    struct r2_s3_error e;
    bool is = r2_s3_error(xml, n, &e);
    RULE(is == (e.code[0] != 0) && e.server_time_ms >= 0);
    RULE(memchr(e.code, 0, sizeof e.code) && memchr(e.message, 0, sizeof e.message));
    for (const char *c = e.message; *c; c++)
        RULE(*c >= ' ' && *c < 0x7f);
}

/* A text that we escape is the same when it is read. */
static void round_trip(const char *text)
{
    struct r2_buf xml;
    char *back = malloc(8192);
    r2_buf_init(&xml, 1 << 20);
    if (!back) abort();
    r2_buf_str(&xml, "<a><b>");
    r2_s3_escape(&xml, text);
    r2_buf_str(&xml, "</b></a>");
    RULE(r2_s3_value(xml.at, xml.len, "a", "b", back, 8192) && strcmp(back, text) == 0);
    r2_buf_free(&xml);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct input in = {bytes, n};
    unsigned stop = take8(&in) + 1u;
    char *text = take_text(&in, in.left ? in.at[0] : 0), value[16];
    size_t left = in.left;
    char *xml = (char *)take_bytes(&in, left);
    listing(xml, left, stop);
    error(xml, left);
    if (r2_s3_value(xml, left, "CopyObjectResult", "ETag", value, sizeof value))
        RULE(memchr(value, 0, sizeof value));
    round_trip(text);
    free(text);
    free(xml);
    return 0;
}
