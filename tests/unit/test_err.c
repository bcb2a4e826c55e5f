/* test_err.c - codes and sentences. */
#include "unit.h"

#include "../../vfs/err.h"

#include <errno.h>

static struct r2_err e;

static void a_sentence_grows_on_the_way_up(void)
{
    r2_err_clear(&e);
    CU_ASSERT_EQUAL(e.code, R2_OK);
    CU_ASSERT_EQUAL(r2_fail(&e, R2_MISSING, "no object %s", "k"), R2_MISSING);
    CU_ASSERT_EQUAL(r2_wrap(&e, "pull of %d", 7), R2_MISSING);
    CU_ASSERT_EQUAL(r2_advise(&e, "; set %s", "it"), R2_MISSING);
    CU_ASSERT_STRING_EQUAL(e.text, "pull of 7: no object k; set it");
    CU_ASSERT_EQUAL(e.code, R2_MISSING);
    r2_fail(&e, R2_IO, "another");
    CU_ASSERT_STRING_EQUAL(e.text, "another");
    r2_err_clear(&e);
    CU_ASSERT_STRING_EQUAL(e.text, "");
}

static void nobody_need_listen(void)
{
    CU_ASSERT_EQUAL(r2_fail(NULL, R2_BUSY, "x"), R2_BUSY);
    CU_ASSERT_EQUAL(r2_fail_errno(NULL, ENOSPC, "x"), R2_FULL);
    (void)r2_wrap(NULL, "x");
    (void)r2_advise(NULL, "x");
}

static void errno_becomes_a_code(void)
{
    static const struct {
        int err;
        enum r2_code code;
    } rows[] = {{ENOSPC, R2_FULL},  {EDQUOT, R2_FULL}, {EROFS, R2_READONLY}, {EACCES, R2_READONLY},
                {ENOMEM, R2_NOMEM}, {EIO, R2_IO},      {ENOENT, R2_IO},      {0, R2_IO}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CU_ASSERT_EQUAL(r2_fail_errno(&e, rows[i].err, "open %s", "f"), rows[i].code);
        CU_ASSERT_EQUAL(e.code, rows[i].code);
        CU_ASSERT_EQUAL(strncmp(e.text, "open f: ", 8), 0);
        CU_ASSERT_TRUE(strlen(e.text) > 10); /* and why */
    }
}

static void long_sentences_are_cut_inside_their_room(void)
{
    struct {
        struct r2_err e;
        char after[8];
    } box;
    char text[3 * R2_ERR_TEXT];
    memset(text, 't', sizeof text);
    text[sizeof text - 1] = 0;
    memset(&box, 0x55, sizeof box);
    r2_fail(&box.e, R2_IO, "%s", text);
    CU_ASSERT_EQUAL(strlen(box.e.text), R2_ERR_TEXT - 1);
    r2_advise(&box.e, "more");
    CU_ASSERT_EQUAL(strlen(box.e.text), R2_ERR_TEXT - 1);
    r2_wrap(&box.e, "front");
    CU_ASSERT_EQUAL(strlen(box.e.text), R2_ERR_TEXT - 1);
    CU_ASSERT_EQUAL(strncmp(box.e.text, "front: ttt", 10), 0);
    r2_wrap(&box.e, "%s", text);
    CU_ASSERT_EQUAL(strlen(box.e.text), R2_ERR_TEXT - 1);
    r2_fail(&box.e, R2_IO, "short");
    r2_advise(&box.e, "%s", text);
    CU_ASSERT_EQUAL(strlen(box.e.text), R2_ERR_TEXT - 1);
    r2_fail_errno(&box.e, EIO, "%s", text);
    CU_ASSERT_EQUAL(strlen(box.e.text), R2_ERR_TEXT - 1);
    for (size_t i = 0; i < sizeof box.after; i++)
        CU_ASSERT_EQUAL(box.after[i], 0x55);
}

static void every_code_has_its_own_sentence(void)
{
    for (int i = R2_OK; i <= R2_READONLY; i++) {
        CU_ASSERT_TRUE(strlen(r2_code_text((enum r2_code)i)) > 5);
        for (int k = R2_OK; k < i; k++)
            CU_ASSERT_STRING_NOT_EQUAL(r2_code_text((enum r2_code)i),
                                       r2_code_text((enum r2_code)k));
    }
    CU_ASSERT_STRING_EQUAL(r2_code_text((enum r2_code)(R2_STALE + 1)), "unknown error");
    CU_ASSERT_STRING_EQUAL(r2_code_text((enum r2_code) - 1), "unknown error");
}

UNIT_MAIN("err", UNIT(a_sentence_grows_on_the_way_up), UNIT(nobody_need_listen),
          UNIT(errno_becomes_a_code), UNIT(long_sentences_are_cut_inside_their_room),
          UNIT(every_code_has_its_own_sentence))
