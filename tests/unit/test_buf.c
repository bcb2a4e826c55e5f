/* test_buf.c - the growing buffer, its ceiling, numbers from text, big-endian access. */
#include "unit.h"

#include "../../vfs/buf.h"

static void grows_up_to_its_ceiling(void)
{
    struct r2_buf b;
    r2_buf_init(&b, 1000);
    CU_ASSERT_TRUE(r2_buf_add(&b, "", 0));
    CU_ASSERT_STRING_EQUAL(b.at, "");
    for (int i = 0; i < 100; i++)
        CU_ASSERT_TRUE(r2_buf_printf(&b, "%010d", i));
    CU_ASSERT_EQUAL(b.len, 1000);
    CU_ASSERT_EQUAL(b.at[1000], 0);
    CU_ASSERT_STRING_EQUAL(b.at + 990, "0000000099");
    CU_ASSERT_TRUE(r2_buf_add(&b, "", 0));
    CU_ASSERT_FALSE(r2_buf_str(&b, "x"));
    CU_ASSERT_EQUAL(b.len, 1000);
    CU_ASSERT_TRUE(b.failed);
    CU_ASSERT_FALSE(r2_buf_add(&b, "", 0)); /* sticky */
    r2_buf_reset(&b);
    CU_ASSERT_EQUAL(b.len, 0);
    CU_ASSERT_TRUE(r2_buf_str(&b, "again"));
    CU_ASSERT_STRING_EQUAL(b.at, "again");
    r2_buf_free(&b);
    CU_ASSERT_PTR_NULL(b.at);
    CU_ASSERT_TRUE(r2_buf_str(&b, "and again"));
    CU_ASSERT_EQUAL(b.max, 1000);
    r2_buf_free(&b);
}

static void huge_appends_do_not_wrap(void)
{
    struct r2_buf b;
    r2_buf_init(&b, 10);
    CU_ASSERT_TRUE(r2_buf_str(&b, "12345"));
    CU_ASSERT_FALSE(r2_buf_add(&b, "x", SIZE_MAX));
    CU_ASSERT_EQUAL(b.len, 5);
    r2_buf_reset(&b);
    CU_ASSERT_FALSE(r2_buf_printf(&b, "%s", "eleven char"));
    CU_ASSERT_EQUAL(b.len, 0);
    r2_buf_free(&b);
}

static void bytes_may_be_zero(void)
{
    struct r2_buf b;
    r2_buf_init(&b, 100);
    CU_ASSERT_TRUE(r2_buf_add(&b, unit_guarded("a\0b", 3), 3));
    CU_ASSERT_EQUAL(b.len, 3);
    CU_ASSERT_EQUAL(memcmp(b.at, "a\0b", 4), 0);
    r2_buf_free(&b);
}

static void copies_are_always_terminated(void)
{
    char *room = (char *)unit_guarded("xxxx", 4);
    CU_ASSERT_TRUE(r2_strcpy(room, 4, "abc"));
    CU_ASSERT_STRING_EQUAL(room, "abc");
    CU_ASSERT_FALSE(r2_strcpy(room, 4, "efgh"));
    CU_ASSERT_STRING_EQUAL(room, "efg");
    CU_ASSERT_FALSE(r2_strcpy(room, 1, "z"));
    CU_ASSERT_STRING_EQUAL(room, "");
    CU_ASSERT_TRUE(r2_strcpy(room, 1, ""));
}

static bool u64(const char *text, uint64_t max, uint64_t *v)
{
    *v = 77;
    return r2_parse_u64((const char *)unit_guarded(text, strlen(text) + 1), max, v);
}

static void decimal_numbers(void)
{
    static const char *const bad[] = {"", " 1", "1 ", "+1", "-1", "1.0", "0x1", "1e3", "one"};
    uint64_t v;
    CU_ASSERT_TRUE(u64("0", 0, &v) && v == 0);
    CU_ASSERT_TRUE(u64("007", 10, &v) && v == 7);
    CU_ASSERT_TRUE(u64("10", 10, &v) && v == 10);
    CU_ASSERT_FALSE(u64("11", 10, &v));
    CU_ASSERT_EQUAL(v, 77); /* untouched */
    CU_ASSERT_TRUE(u64("18446744073709551615", UINT64_MAX, &v) && v == UINT64_MAX);
    CU_ASSERT_FALSE(u64("18446744073709551616", UINT64_MAX, &v));
    CU_ASSERT_FALSE(u64("99999999999999999999999", UINT64_MAX, &v));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_FALSE(u64(bad[i], UINT64_MAX, &v));
}

static bool hex(const char *text, size_t digits, uint64_t *v)
{
    *v = 77;
    return r2_parse_hex64((const char *)unit_guarded(text, strlen(text) + 1), digits, v);
}

static void hex_numbers(void)
{
    uint64_t v;
    CU_ASSERT_TRUE(hex("00000000000006cf", 16, &v) && v == 0x6cf);
    CU_ASSERT_TRUE(hex("fFfFfFfFfFfFfFfF", 16, &v) && v == UINT64_MAX);
    CU_ASSERT_TRUE(hex("a", 1, &v) && v == 10);
    CU_ASSERT_FALSE(hex("ab", 1, &v));
    CU_ASSERT_FALSE(hex("a", 2, &v)); /* stops at the terminator */
    CU_ASSERT_FALSE(hex("", 1, &v));
    CU_ASSERT_FALSE(hex("0g", 2, &v));
    CU_ASSERT_FALSE(hex("0123456789abcdef0", 17, &v));
    CU_ASSERT_EQUAL(v, 77);
}

static void big_endian(void)
{
    uint8_t b[12] = {0};
    r2_put32(b + 1, 0x81020304);
    CU_ASSERT_EQUAL(memcmp(b, "\0\x81\x02\x03\x04\0", 6), 0);
    CU_ASSERT_EQUAL(r2_get32(b + 1), 0x81020304);
    CU_ASSERT_EQUAL(r2_get16(b + 1), 0x8102);
    r2_put64(b + 2, 0xf1e2d3c4b5a69788);
    CU_ASSERT_EQUAL(r2_get64(b + 2), 0xf1e2d3c4b5a69788);
    CU_ASSERT_EQUAL(b[2], 0xf1);
    CU_ASSERT_EQUAL(b[9], 0x88);
    CU_ASSERT_EQUAL(b[10], 0);
    uint8_t *edge = unit_guarded(b + 2, 8);
    CU_ASSERT_EQUAL(r2_get64(edge), 0xf1e2d3c4b5a69788);
    r2_put64(edge, 1);
    CU_ASSERT_EQUAL(edge[7], 1);
}

UNIT_MAIN("buf", UNIT(grows_up_to_its_ceiling), UNIT(huge_appends_do_not_wrap),
          UNIT(bytes_may_be_zero), UNIT(copies_are_always_terminated), UNIT(decimal_numbers),
          UNIT(hex_numbers), UNIT(big_endian))
