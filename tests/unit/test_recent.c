/* test_recent.c - db-recent and lineages as text, and who made a version. */
#include "unit.h"

#include "../../vfs/layout.h"

#include <inttypes.h>

static void valid_text(void)
{
    CU_ASSERT_TRUE(r2_recent_valid("1:0000000000000000", 1));
    CU_ASSERT_TRUE(r2_recent_valid("7:00000000000000aa,6:00000000000000bb,2:ffffffffffffffff", 7));
    CU_ASSERT_TRUE(r2_recent_valid("18446744073709551615:00000000000000aa", UINT64_MAX));
    CU_ASSERT_FALSE(r2_recent_valid("7:00000000000000aa", 6)); /* the object's number is another */
    CU_ASSERT_FALSE(r2_recent_valid("7:00000000000000aa", 8));
}

static void hostile_text(void)
{
    static const char *const bad[] = {
        "",
        ",",
        ":",
        "7",
        "7:",
        "x",
        "7:00000000000000a",   /* 15 digits */
        "7:00000000000000aaa", /* 17 */
        "7:00000000000000AA",  /* never written so */
        "7:00000000000000ag",
        " 7:00000000000000aa",
        "7 :00000000000000aa",
        "7: 0000000000000aa",
        "7:00000000000000aa ",
        "7:00000000000000aa;6:00000000000000bb",
        "7:00000000000000aa,,6:00000000000000bb",
        "7:00000000000000aa,x",
        "7:00000000000000aa,6",
        "7:00000000000000aa,6:00000000000000b",
        "7:00000000000000aa,",                   /* cut off */
        "7:00000000000000aa,7:00000000000000bb", /* twice */
        "7:00000000000000aa,8:00000000000000bb", /* not newest first */
        "7:00000000000000aa,6:00000000000000bb,6:00000000000000cc",
        "-7:00000000000000aa",
        "+7:00000000000000aa",
        "18446744073709551623:00000000000000aa",  /* 7 + 2^64 */
        "000000000000000000007:00000000000000aa", /* 21 digits */
        "7:00000000000000aa\n6:00000000000000bb",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t n = strlen(bad[i]) + 1;
        const char *edge = (const char *)unit_guarded(bad[i], n);
        if (r2_recent_valid(edge, 7)) fprintf(stderr, "taken: \"%s\"\n", bad[i]);
        CU_ASSERT_FALSE(r2_recent_valid(edge, 7));
        uint64_t nonce;
        (void)r2_recent_find(edge, 99, &nonce); /* reads no byte too far */
        char out[R2_RECENT_BYTES];
        r2_recent_prepend(edge, 100, 1, out);
        CU_ASSERT_TRUE(r2_recent_valid(out, 100)); /* what we write is always right */
    }
    /* longer than any writer makes it */
    static char all[40 * 100];
    size_t len = 0;
    for (int v = 99; v > 0; v--)
        len += (size_t)snprintf(all + len, sizeof all - len, "%s%020d:00000000000000aa",
                                v == 99 ? "" : ",", v);
    CU_ASSERT_TRUE(len >= R2_RECENT_BYTES);
    CU_ASSERT_FALSE(r2_recent_valid(all, 99));
}

static void find(void)
{
    static const char *const recent = "9:00000000000000a9,7:00000000000000a7,1:ffffffffffffffff";
    uint64_t nonce = 0;
    CU_ASSERT_TRUE(r2_recent_find(recent, 9, &nonce) && nonce == 0xa9);
    CU_ASSERT_TRUE(r2_recent_find(recent, 7, &nonce) && nonce == 0xa7);
    CU_ASSERT_TRUE(r2_recent_find(recent, 1, &nonce) && nonce == UINT64_MAX);
    CU_ASSERT_FALSE(r2_recent_find(recent, 8, &nonce));
    CU_ASSERT_FALSE(r2_recent_find(recent, 0, &nonce));
    CU_ASSERT_FALSE(r2_recent_find("", 1, &nonce));
    CU_ASSERT_FALSE(r2_recent_find("9:00000000000000a9,x,1:ffffffffffffffff", 1, &nonce));
}

static void prepend(void)
{
    char out[R2_RECENT_BYTES];
    r2_recent_prepend("", 1, 0x1f, out);
    CU_ASSERT_STRING_EQUAL(out, "1:000000000000001f");
    r2_recent_prepend("6:00000000000000aa,5:00000000000000bb", 7, 0xcc, out);
    CU_ASSERT_STRING_EQUAL(out, "7:00000000000000cc,6:00000000000000aa,5:00000000000000bb");
    /* what cannot be older than the new version is not carried on */
    r2_recent_prepend("7:00000000000000aa,5:00000000000000bb", 7, 0xcc, out);
    CU_ASSERT_STRING_EQUAL(out, "7:00000000000000cc");
    r2_recent_prepend("9:00000000000000aa", 7, 0xcc, out);
    CU_ASSERT_STRING_EQUAL(out, "7:00000000000000cc");
}

static unsigned entries(const char *recent)
{
    unsigned n = 1;
    for (; *recent; recent++)
        n += *recent == ',';
    return n;
}

/* 64 at most, also of the longest; the oldest go. */
static void prepend_limits(void)
{
    for (int wide = 0; wide < 2; wide++) {
        char a[R2_RECENT_BYTES], b[R2_RECENT_BYTES];
        uint64_t v = wide ? UINT64_MAX - 200 : 1, first = v, nonce = 0;
        r2_recent_prepend("", v, v, a);
        for (int k = 1; k < 150; k++) {
            memset(b, 'Z', sizeof b);
            v++;
            r2_recent_prepend(a, v, ~v, b);
            CU_ASSERT_TRUE_FATAL(memchr(b, 0, sizeof b) != NULL && r2_recent_valid(b, v));
            CU_ASSERT_EQUAL(entries(b), k < R2_RECENT_MAX ? (unsigned)k + 1 : R2_RECENT_MAX);
            memcpy(a, b, sizeof a);
        }
        CU_ASSERT_TRUE(r2_recent_find(a, v, &nonce) && nonce == ~v);
        CU_ASSERT_TRUE(r2_recent_find(a, v - 63, &nonce) && nonce == ~(v - 63));
        CU_ASSERT_FALSE(r2_recent_find(a, v - 64, &nonce));
        CU_ASSERT_FALSE(r2_recent_find(a, first, &nonce));
    }
}

/* ---- who made version 8? ---- */

static struct r2_pending pending; /* three contents tried for version 8 over "seven" */
static struct r2_remote seen;

static void start(const char *etag, uint64_t version, const char *recent)
{
    memset(&pending, 0, sizeof pending);
    pending.kind = R2_PENDING_PUSH;
    pending.v.version = 8;
    snprintf(pending.over_etag, sizeof pending.over_etag, "\"seven\"");
    pending.tries = 3;
    for (unsigned k = 0; k < 3; k++)
        pending.try[k].nonce = 0xa0 + k;
    memset(&seen, 0, sizeof seen);
    seen.exists = true;
    snprintf(seen.v.etag, sizeof seen.v.etag, "%s", etag);
    seen.v.version = version;
    snprintf(seen.v.recent, sizeof seen.v.recent, "%s", recent);
}

static enum r2_maker maker(uint32_t *which)
{
    *which = 99;
    return r2_layout_maker(&seen, &pending, which);
}

static void makers(void)
{
    uint32_t which;
    /* not there yet */
    start("\"seven\"", 7, "7:0000000000000007");
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_NOBODY);
    memset(&seen, 0, sizeof seen);
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_NOBODY);
    pending.over_etag[0] = 0; /* a birth */
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_NOBODY);
    /* ours */
    start("\"eight\"", 8, "8:00000000000000a2,7:0000000000000007");
    CU_ASSERT_TRUE(maker(&which) == R2_MAKER_LATEST && which == 2);
    pending.over_etag[0] = 0;
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_LATEST);
    start("\"eight\"", 8, "8:00000000000000a0,7:0000000000000007");
    CU_ASSERT_TRUE(maker(&which) == R2_MAKER_EARLIER && which == 0);
    start("\"eight\"", 8, "8:00000000000000a1");
    CU_ASSERT_TRUE(maker(&which) == R2_MAKER_EARLIER && which == 1);
    pending.tries = 1; /* only what was tried counts */
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_OTHER);
    /* ours, and others went on */
    start("\"ten\"", 10, "10:0000000000000010,9:0000000000000009,8:00000000000000a2");
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_LATEST);
    start("\"ten\"", 10, "10:0000000000000010,8:00000000000000a1");
    CU_ASSERT_TRUE(maker(&which) == R2_MAKER_EARLIER && which == 1);
    /* another r2vfs */
    start("\"eight\"", 8, "8:00000000000000bb,7:0000000000000007");
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_OTHER);
    start("\"ten\"", 10, "10:00000000000000a2,8:00000000000000bb"); /* our nonce, other version */
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_OTHER);
    /* a version that does not say */
    start("\"eight\"", 8, "");
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_OTHER);
    start("\"plain\"", 1, "");
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_OTHER);
    start("\"six\"", 6, "6:0000000000000006"); /* somebody put an older one back */
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_OTHER);
    /* past it, without a word about it */
    start("\"ten\"", 10, "");
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_HIDDEN);
    start("\"ten\"", 10, "10:0000000000000010,9:0000000000000009");
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_HIDDEN);
    /* a program that knows only the object carried our metadata on from what it replaced */
    start("\"nine\"", 9, "");
    snprintf(seen.older, sizeof seen.older, "8:00000000000000a2,7:0000000000000007");
    CU_ASSERT_TRUE(maker(&which) == R2_MAKER_LATEST && which == 2);
    snprintf(seen.older, sizeof seen.older, "8:00000000000000a1");
    CU_ASSERT_TRUE(maker(&which) == R2_MAKER_EARLIER && which == 1);
    snprintf(seen.older, sizeof seen.older, "8:00000000000000bb");
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_OTHER);
    snprintf(seen.older, sizeof seen.older, "7:0000000000000007"); /* nothing of 8 */
    CU_ASSERT_EQUAL(maker(&which), R2_MAKER_HIDDEN);
}

static void first_entry(void)
{
    CU_ASSERT_EQUAL(r2_recent_first("8:00000000000000bb,7:0000000000000007"), 8);
    CU_ASSERT_EQUAL(r2_recent_first("8:00000000000000bb,9:0000000000000007"), 0);
    CU_ASSERT_EQUAL(r2_recent_first("8:00000000000000b"), 0);
    CU_ASSERT_EQUAL(r2_recent_first(""), 0);
}

static void lineage_text(void)
{
    uint8_t id[16], back[16];
    char text[33];
    for (int k = 0; k < 16; k++)
        id[k] = (uint8_t)(k * 17 + 3);
    r2_lineage_text(id, text);
    CU_ASSERT_EQUAL(strlen(text), 32);
    CU_ASSERT_EQUAL(memcmp(text, "0314", 4), 0);
    CU_ASSERT_TRUE(r2_lineage_parse(text, back) && memcmp(id, back, 16) == 0);
    static const char *const bad[] = {"",
                                      "0",
                                      "0314253647586970",
                                      "03142536475869708192a3b4c5d6e7g8",
                                      "03142536475869708192a3b4c5d6e7f",
                                      "03142536475869708192a3b4c5d6e7f80",
                                      "03142536475869708192a3b4 5d6e7f8",
                                      "x3142536475869708192a3b4c5d6e7f8"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_FALSE(
            r2_lineage_parse((const char *)unit_guarded(bad[i], strlen(bad[i]) + 1), back));
}

UNIT_MAIN("recent", UNIT(valid_text), UNIT(hostile_text), UNIT(find), UNIT(prepend),
          UNIT(prepend_limits), UNIT(makers), UNIT(first_entry), UNIT(lineage_text))
