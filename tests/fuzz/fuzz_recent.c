/* fuzz_recent.c - db-recent and db-lineage, as any writer may have put them there. */
#include "fuzz.h"

#include "../../vfs/layout.h"

static unsigned entries(const char *recent)
{
    unsigned n = *recent != 0;
    for (; *recent; recent++)
        n += *recent == ',';
    return n;
}

static void prepended(const char *base, uint64_t version, uint64_t nonce)
{
    char out[R2_RECENT_BYTES], again[R2_RECENT_BYTES];
    uint64_t found;
    memset(out, 'x', sizeof out);
    r2_recent_prepend(base, version, nonce, out);
    RULE(memchr(out, 0, sizeof out));
    RULE(entries(out) >= 1 && entries(out) <= R2_RECENT_MAX);
    RULE(r2_recent_valid(out, version) && r2_recent_first(out) == version);
    RULE(r2_recent_find(out, version, &found) && found == nonce);
    r2_recent_prepend(out, version, nonce, again); /* the same number is not there twice */
    RULE(r2_recent_valid(again, version));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct input in = {bytes, n};
    uint64_t version = take64(&in), nonce = take64(&in), found, first;
    char *recent = take_text(&in, 8192), *lineage = take_text(&in, 64), text[33];
    uint8_t id[16];
    first = r2_recent_first(recent);
    RULE(!first || (r2_recent_valid(recent, first) && r2_recent_find(recent, first, &found)));
    RULE(!r2_recent_valid(recent, version) || version == first || !version);
    if (first) RULE(entries(recent) < R2_RECENT_BYTES / 17);
    (void)r2_recent_find(recent, version, &found);
    if (version) prepended(recent, version, nonce);
    if (r2_lineage_parse(lineage, id)) {
        r2_lineage_text(id, text);
        RULE(strlen(text) == 32 && strcasecmp(text, lineage) == 0);
    }
    free(recent);
    free(lineage);
    return 0;
}
