/* test_log_list.c - what a log holds: which versions can be rebuilt, from where, and why not. */
#include "unit.h"

#include "../../vfs/log_list.h"

/* A log in words: "b3@10 s4@11 s5@12": base of version 3 at 10 ms, segment of version 4 at 11 ...
 */
struct told {
    struct r2_past_row row[64];
    size_t count;
};

static void keep(void *ctx, const struct r2_past_row *row)
{
    struct told *t = ctx;
    t->row[t->count++] = *row;
}

static void feed(struct r2_past *p, const char *log)
{
    char kind;
    unsigned version, ms;
    int n;
    while (sscanf(log, " %c%u@%u%n", &kind, &version, &ms, &n) == 3) {
        struct r2_log_entry entry = {.kind = kind == 'b' ? R2_LOG_BASE : R2_LOG_SEGMENT,
                                     .version = version,
                                     .bytes = kind == 'b' ? 1000 : 10,
                                     .modified_ms = ms};
        CU_ASSERT_TRUE(r2_past_add(p, &entry));
        log += n;
    }
}

static struct told rows_of(unsigned snapshot, int64_t ms, const char *log)
{
    struct r2_past p;
    struct told t = {.count = 0};
    r2_past_begin(&p, snapshot, 2000, ms, keep, &t);
    feed(&p, log);
    r2_past_end(&p);
    return t;
}

static void rows(void)
{
    struct told t = rows_of(5, 90, "s1@1 b2@50 s2@2 s3@3 s4@4 s5@5 s6@6 s8@8");
    static const struct {
        unsigned version, bytes, ms;
        bool base, snapshot, segment, reachable;
    } want[] = {{1, 10, 1, false, false, true, false}, {2, 10, 2, true, false, true, true},
                {3, 10, 3, false, false, true, true},  {4, 10, 4, false, false, true, true},
                {5, 10, 5, false, true, true, true},   {6, 10, 6, false, false, true, true},
                {8, 10, 8, false, false, true, false}};
    CU_ASSERT_EQUAL_FATAL(t.count, sizeof want / sizeof *want);
    for (size_t k = 0; k < t.count; k++) {
        CU_ASSERT_EQUAL(t.row[k].version, want[k].version);
        CU_ASSERT_EQUAL(t.row[k].bytes, want[k].bytes);
        CU_ASSERT_EQUAL(t.row[k].modified_ms, want[k].ms);
        CU_ASSERT_EQUAL(t.row[k].base, want[k].base);
        CU_ASSERT_EQUAL(t.row[k].snapshot, want[k].snapshot);
        CU_ASSERT_EQUAL(t.row[k].segment, want[k].segment);
        CU_ASSERT_EQUAL(t.row[k].reachable, want[k].reachable);
    }
    /* the snapshot alone; before, among and after everything else */
    t = rows_of(1, 7, "");
    CU_ASSERT_TRUE(t.count == 1 && t.row[0].snapshot && t.row[0].bytes == 2000);
    t = rows_of(9, 7, "b2@1 b5@2");
    CU_ASSERT_TRUE(t.count == 3 && t.row[2].snapshot && t.row[2].version == 9);
    CU_ASSERT_TRUE(t.row[0].reachable && t.row[1].reachable && t.row[2].reachable);
    t = rows_of(5, 7, "b5@9"); /* what was kept has the same bytes */
    CU_ASSERT_TRUE(t.count == 1 && t.row[0].snapshot && t.row[0].base);
}

static struct r2_choice choose(unsigned snapshot, int64_t ms, const char *log, unsigned version,
                               int64_t at)
{
    struct r2_past p;
    struct r2_choice c;
    struct r2_want want = {.version = version, .at_ms = at};
    r2_choice_begin(&c, &want);
    r2_past_begin(&p, snapshot, 2000, ms, r2_choice_row, &c);
    feed(&p, log);
    r2_past_end(&p);
    return c;
}

#define AFTER "b3@80 s4@4 s5@5 s6@6 s7@7 s8@8 s9@9" /* with a snapshot of version 6 */

static void by_version(void)
{
    for (unsigned v = 1; v <= 12; v++) {
        struct r2_choice c = choose(6, 60, AFTER, v, 0);
        bool there = v >= 3 && v <= 9;
        CU_ASSERT_EQUAL(c.version, there ? v : 0);
        CU_ASSERT_EQUAL(c.lost, 0);
        CU_ASSERT_EQUAL(c.oldest, 3);
        CU_ASSERT_EQUAL(c.newest, 9);
        if (!there) continue;
        CU_ASSERT_EQUAL(c.base, v < 6 ? 3 : 6);
        CU_ASSERT_EQUAL(c.from_snapshot, v >= 6);
    }
    /* the newest base counts; segments below the oldest are of no use */
    struct r2_choice c = choose(9, 1, "s2@1 s3@1 b4@1 s4@1 s5@1 b6@1 s6@1 s7@1 s8@1", 8, 0);
    CU_ASSERT_TRUE(c.version == 8 && c.base == 6 && !c.from_snapshot);
    c = choose(9, 1, "s2@1 s3@1 b4@1 s4@1 s5@1 b6@1 s6@1 s7@1 s8@1", 3, 0);
    CU_ASSERT_TRUE(c.version == 0 && c.oldest == 4 && c.lost == 0);
    /* only the snapshot, and what comes after it */
    c = choose(1, 1, "s2@2", 2, 0);
    CU_ASSERT_TRUE(c.version == 2 && c.base == 1 && c.from_snapshot);
}

static void holes(void)
{
    static const char log[] = "b1@1 s2@2 s3@3 s5@5 s6@6 s8@8 b9@90 s10@10";
    for (unsigned v = 1; v <= 12; v++) {
        struct r2_choice c = choose(12, 12, log, v, 0);
        bool there = v <= 3 || v == 9 || v == 10 || v == 12;
        CU_ASSERT_EQUAL(c.version, there ? v : 0);
        CU_ASSERT_EQUAL(c.lost, there ? 0 : v == 11 ? 11 : 4);
    }
}

static void by_time(void)
{
    static const struct {
        int64_t at;
        unsigned version;
    } want[] = {{3, 0}, {4, 4}, {5, 5}, {6, 6}, {7, 7}, {9, 9}, {1000, 9}};
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        struct r2_choice c = choose(6, 60, AFTER, 0, want[k].at);
        CU_ASSERT_EQUAL(c.version, want[k].version);
        CU_ASSERT_EQUAL(c.lost, 0);
        CU_ASSERT_EQUAL(c.oldest_ms, 4);
    }
    /* two of the same time: the newer one */
    CU_ASSERT_EQUAL(choose(1, 1, "s2@5 s3@5 s4@6", 0, 5).version, 3);
    /* a segment is missing: never an older version in its place */
    struct r2_choice c = choose(1, 1, "s2@2 s4@4 s5@5", 0, 5);
    CU_ASSERT_TRUE(c.version == 0 && c.lost == 3);
    c = choose(1, 1, "s2@2 s4@4 s5@5", 0, 3); /* it may have been there by then */
    CU_ASSERT_TRUE(c.version == 0 && c.lost == 3);
    CU_ASSERT_EQUAL(choose(1, 1, "s2@2 s4@4 s5@5", 0, 1).version, 1);
    CU_ASSERT_EQUAL(choose(6, 6, "b1@1 s2@2 s4@4 s5@5", 0, 6).version, 6);
    /* before 1970 there was nothing */
    c = choose(1, 1, "s2@2", 0, -5);
    CU_ASSERT_TRUE(c.version == 0 && c.lost == 0 && c.oldest_ms == 1);
}

UNIT_MAIN("log_list", UNIT(rows), UNIT(by_version), UNIT(holes), UNIT(by_time))
