/* unit.h - what every unit test program starts with: CUnit, a main(), inputs against guard pages.
 *
 * One program per room, tests/unit/test_<room>.c:
 *
 *     static void some_rule(void) { CU_ASSERT_EQUAL(1 + 1, 2); }
 *     UNIT_MAIN("room", UNIT(some_rule), UNIT(other_rule))
 */
#ifndef UNIT_H
#define UNIT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct unit_test {
    const char *name;
    void (*fn)(void);
};
#define UNIT(fn)                                                                                   \
    {                                                                                              \
#fn, fn                                                                                    \
    }

static inline int unit_run(const char *suite, const struct unit_test *t, size_t n)
{
    if (CU_initialize_registry() != CUE_SUCCESS) return 2;
    CU_pSuite s = CU_add_suite(suite, NULL, NULL);
    for (size_t i = 0; s && i < n; i++)
        if (!CU_add_test(s, t[i].name, t[i].fn)) return 2;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    unsigned ran = CU_get_number_of_tests_run();
    CU_cleanup_registry();
    return failed || ran != n ? 1 : 0;
}

#define UNIT_MAIN(suite, ...)                                                                      \
    int main(void)                                                                                 \
    {                                                                                              \
        static const struct unit_test tests[] = {__VA_ARGS__};                                     \
        return unit_run(suite, tests, sizeof tests / sizeof *tests);                               \
    }

/* A copy of n bytes that ends right before an unreadable page: one byte too far crashes. Kept until
 * the program ends. */
static inline uint8_t *unit_guarded(const void *bytes, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (n + page - 1) / page * page;
    uint8_t *at =
        mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(at + body, page, PROT_NONE) != 0) abort();
    uint8_t *start = at + body - n;
    if (n) memcpy(start, bytes, n);
    return start;
}

#endif
