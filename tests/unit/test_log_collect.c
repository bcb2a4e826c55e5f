/* Tests for log_collect.c: what goes and what stays, and that it goes in an order in which a
 * collection that is cut anywhere leaves a log that can be read. */
#include "dir_bucket.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#include "../../vfs/layout.h"
#include "../../vfs/log_list.h"

#define MIN ((int64_t)60 * 1000)
#define H   (60 * MIN)

/* ---- the decision ---- */

static struct r2_collect plan;
static const int64_t now = 1000 * H;

static void begin_plan(uint64_t snapshot, int64_t retention_ms)
{
    memset(&plan, 0, sizeof plan);
    plan.snapshot = snapshot;
    plan.retention_ms = retention_ms;
    plan.signed_ms = now;
}

static bool seg(uint64_t version, int64_t age)
{
    return r2_collect_add(&plan, false, version, now - age);
}

static bool base(uint64_t version, int64_t age)
{
    return r2_collect_add(&plan, true, version, now - age);
}

static bool goes(uint64_t version)
{
    for (uint32_t k = 0; k < plan.segments; k++)
        if (plan.segment[k] == version) return true;
    return false;
}

static void age(void)
{
    begin_plan(100, 24 * H);
    CU_ASSERT_TRUE(seg(2, 24 * H + 30 * MIN + 1));
    CU_ASSERT_TRUE(seg(3, 24 * H + 30 * MIN)); /* not older than retention + 30 minutes */
    CU_ASSERT_TRUE(seg(4, 24 * H + 1));
    CU_ASSERT_FALSE(seg(5, 24 * H)); /* nothing after it can matter */
    r2_collect_decide(&plan);
    CU_ASSERT_EQUAL(plan.segments, 1);
    CU_ASSERT_TRUE(goes(2));

    begin_plan(100, H); /* the shortest retention */
    CU_ASSERT_TRUE(seg(2, H + 30 * MIN + 1));
    CU_ASSERT_TRUE(seg(3, H + 30 * MIN));
    r2_collect_decide(&plan);
    CU_ASSERT_EQUAL(plan.segments, 1);
}

/* A clock that ran backwards, or an answer without a time, makes nothing old. */
static void strange_times(void)
{
    begin_plan(100, H);
    CU_ASSERT_FALSE(seg(2, -5 * H));
    begin_plan(100, H);
    CU_ASSERT_FALSE(r2_collect_add(&plan, false, 2, 0));
    begin_plan(100, H);
    plan.signed_ms = 0;
    CU_ASSERT_FALSE(seg(2, 100 * H));
    r2_collect_decide(&plan);
    CU_ASSERT_EQUAL(plan.segments, 0);
}

static void snapshot(void)
{
    begin_plan(10, H);
    CU_ASSERT_TRUE(seg(9, 50 * H));
    CU_ASSERT_TRUE(seg(10, 50 * H));
    CU_ASSERT_FALSE(seg(11, 50 * H)); /* the snapshot needs it */
    CU_ASSERT_FALSE(base(12, 50 * H));
    r2_collect_decide(&plan);
    CU_ASSERT_TRUE(goes(9) && goes(10) && !goes(11));
}

static void bases(void)
{
    begin_plan(100, 24 * H);
    base(1, 80 * H);
    seg(2, 79 * H);
    base(20, 49 * H);
    seg(20, 49 * H);
    seg(21, 48 * H);
    base(50, 25 * H); /* itself older than the retention: the earlier ones go */
    seg(50, 25 * H);
    seg(51, 25 * H);
    base(90, H);
    seg(90, 25 * H);
    r2_collect_decide(&plan);
    CU_ASSERT_TRUE(plan.base[0].drop && plan.base[1].drop);
    CU_ASSERT_FALSE(plan.base[2].drop || plan.base[3].drop);
    CU_ASSERT_TRUE(goes(2) && goes(20) && goes(21) && goes(50));
    CU_ASSERT_FALSE(goes(51) || goes(90)); /* base 50 needs what comes after it */

    begin_plan(100, 24 * H);
    base(1, 80 * H);
    seg(2, 79 * H);
    base(20, 24 * H); /* not older: base 1 stays, and all after it */
    seg(20, 49 * H);
    r2_collect_decide(&plan);
    CU_ASSERT_FALSE(plan.base[0].drop || plan.base[1].drop);
    CU_ASSERT_EQUAL(plan.segments, 0);
}

/* More than one run takes: the oldest go first, and bases are seen however far up they are. */
static void bounds(void)
{
    begin_plan(100000, H);
    base(1, 90 * H);
    for (uint64_t v = 2; v < 5000; v++)
        CU_ASSERT_TRUE(seg(v, 80 * H));
    base(5000, 70 * H);
    r2_collect_decide(&plan);
    CU_ASSERT_TRUE(plan.base[0].drop);
    CU_ASSERT_EQUAL(plan.segments, R2_COLLECT_MAX);
    CU_ASSERT_TRUE(goes(2) && goes(R2_COLLECT_MAX + 1) && !goes(R2_COLLECT_MAX + 2));

    begin_plan(100000, H);
    for (uint64_t v = 1; v <= R2_COLLECT_BASES + 10; v++)
        CU_ASSERT_TRUE(base(v, 90 * H));
    r2_collect_decide(&plan); /* those that were not looked at stay */
    CU_ASSERT_FALSE(plan.base[R2_COLLECT_BASES - 1].drop);
    CU_ASSERT_TRUE(plan.base[R2_COLLECT_BASES - 2].drop);
}

/* ---- on a store that counts, and fails on demand ---- */

static struct {
    struct r2_store base;
    unsigned dels, fail_at, copies;
    char deleted[64][R2_LOG_KEY];
    int64_t fresh_until;
} between;

static enum r2_code b_list(struct r2_store *s, struct r2_call *call, const char *prefix,
                           const char *after, r2_list_fn fn, void *ctx)
{
    (void)s;
    return store->ops->list(store, call, prefix, after, fn, ctx);
}

static enum r2_code b_copy(struct r2_store *s, struct r2_call *call, const char *from,
                           const char *if_match, const char *to)
{
    (void)s;
    between.copies++;
    return store->ops->copy(store, call, from, if_match, to);
}

static enum r2_code b_del(struct r2_store *s, struct r2_call *call, const char *key)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    (void)s;
    pthread_mutex_lock(&lock);
    unsigned n = between.dels++;
    if (n < 64) snprintf(between.deleted[n], sizeof between.deleted[n], "%s", key);
    between.fresh_until = call->fresh_until_ms;
    pthread_mutex_unlock(&lock);
    if (n + 1 == between.fail_at) return r2_fail(call->err, R2_UNREACHABLE, "no connection");
    return store->ops->del(store, call, key);
}

static const struct r2_store_ops between_ops = {.list = b_list, .copy = b_copy, .del = b_del};

static struct r2_remote at_key;
static struct r2_call call;
static struct r2_log bucket_log;

static void begin_log(void)
{
    static char key[1400];
    begin();
    memset(&between, 0, sizeof between);
    between.base.ops = &between_ops;
    memset(&at_key, 0, sizeof at_key);
    at_key.exists = at_key.has_lineage = true;
    at_key.layout = R2_LAYOUT_LOG;
    memset(at_key.v.lineage, 0xab, 16);
    at_key.v.version = 10;
    call = call_with(&err);
    memset(&bucket_log, 0, sizeof bucket_log);
    bucket_log.store = &between.base;
    bucket_log.call = &call;
    snprintf(key, sizeof key, "%s", key_of("app.db"));
    bucket_log.key = key;
}

static const char *in_log(const char *name)
{
    static char path[4][600];
    static unsigned turn;
    char *p = path[turn++ % 4];
    snprintf(p, 600, "app.db-log/abababab/%s", name);
    return p;
}

/* An object that is this many hours old. */
static void thing(const char *name, int hours)
{
    struct timespec t[2] = {{.tv_sec = time(NULL) - hours * 3600},
                            {.tv_sec = time(NULL) - hours * 3600}};
    CU_ASSERT_EQUAL_FATAL(put(name, "x", NULL), R2_OK);
    CU_ASSERT_EQUAL_FATAL(utimensat(AT_FDCWD, path_of(name), t, 0), 0);
}

static bool there(const char *name)
{
    struct stat st;
    return stat(path_of(name), &st) == 0;
}

static void seg_file(uint64_t version, int hours)
{
    char name[64];
    snprintf(name, sizeof name, "%016llx.ltx", (unsigned long long)version);
    thing(in_log(name), hours);
}

static void base_file(uint64_t version, int hours)
{
    char name[64];
    snprintf(name, sizeof name, "%016llx.db", (unsigned long long)version);
    thing(in_log(name), hours);
}

static unsigned left(void)
{
    unsigned n = 0;
    struct stat st;
    char name[64];
    for (unsigned v = 0; v < 64; v++)
        for (int k = 0; k < 2; k++) {
            snprintf(name, sizeof name, "%016x%s", v, k ? ".db" : ".ltx");
            n += stat(path_of(in_log(name)), &st) == 0;
        }
    return n;
}

static const char *const not_ours[] = {
    "app.db-log/abababab/0000000000000002.LTX",      "app.db-log/abababab/2.ltx",
    "app.db-log/abababab/0000000000000002.ltx.part", "app.db-log/abababab/0000000000000002",
    "app.db-log/abababab/000000000000000g.ltx",      "app.db-log/abababab/0000000000000002.dbx",
    "app.db-log/abababab/sub/0000000000000002.ltx",  "app.db-log/cdcdcdcd/0000000000000002.ltx",
    "app.db-log/abababa/0000000000000002.ltx",       "app.db-log/0000000000000002.ltx",
    "app.db-log2/abababab/0000000000000002.ltx",     "app.db-forks/0000000000000002.ltx",
    "app.db-log/abababab/0000000000000000.ltx"};

static void only_ours(void)
{
    uint32_t deleted;
    begin_log();
    thing("app.db", 90);
    for (size_t k = 0; k < sizeof not_ours / sizeof *not_ours; k++)
        thing(not_ours[k], 90);
    for (uint64_t v = 2; v < 12; v++)
        seg_file(v, 90);
    CU_ASSERT_EQUAL(r2_log_collect(&bucket_log, &at_key, 86400, &deleted), R2_OK);
    CU_ASSERT_EQUAL(deleted, 9); /* 2 .. 10 */
    CU_ASSERT_TRUE(there("app.db") && there(in_log("000000000000000b.ltx")));
    for (size_t k = 0; k < sizeof not_ours / sizeof *not_ours; k++)
        CU_ASSERT_TRUE(there(not_ours[k]));
    CU_ASSERT_EQUAL(r2_log_collect(&bucket_log, &at_key, 86400, &deleted), R2_OK);
    CU_ASSERT_EQUAL(deleted, 0);
    CU_ASSERT_TRUE(between.fresh_until > call.signed_ms); /* not acted on hours later */
    CU_ASSERT_EQUAL(call.fresh_until_ms, 0);
    end();
}

static void retention_floor(void)
{
    uint32_t deleted;
    begin_log();
    seg_file(2, 1); /* an hour old; whoever says 0 gets an hour and 30 minutes */
    seg_file(3, 1);
    CU_ASSERT_EQUAL(r2_log_collect(&bucket_log, &at_key, 0, &deleted), R2_OK);
    CU_ASSERT_EQUAL(deleted, 0);
    seg_file(2, 2);
    seg_file(3, 2);
    CU_ASSERT_EQUAL(r2_log_collect(&bucket_log, &at_key, 0, &deleted), R2_OK);
    CU_ASSERT_EQUAL(deleted, 2);
    end();
}

/* Cut after any number of deletions: what stays begins with a base, and has all segments after it
 * up to the snapshot's version. */
static void cut_anywhere(void)
{
    for (unsigned cut = 1;; cut++) {
        uint32_t deleted;
        begin_log();
        base_file(1, 200);
        base_file(4, 100);
        base_file(7, 50);
        base_file(9, 2);
        for (uint64_t v = 2; v <= 10; v++)
            seg_file(v, 100);
        between.fail_at = cut;
        enum r2_code rc = r2_log_collect(&bucket_log, &at_key, 86400, &deleted);
        bool b[11], s[11];
        char name[64];
        for (unsigned v = 1; v <= 10; v++) {
            snprintf(name, sizeof name, "%016x.db", v);
            b[v] = there(in_log(name));
            snprintf(name, sizeof name, "%016x.ltx", v);
            s[v] = there(in_log(name));
        }
        unsigned first = 1;
        while (first < 10 && !b[first])
            first++;
        for (unsigned v = first + 1; v <= 10; v++)
            CU_ASSERT_TRUE(s[v]);
        CU_ASSERT_TRUE(b[7] && b[9]);
        if (!rc) { /* nothing failed: this was all */
            CU_ASSERT_EQUAL(cut, 2 + 6 + 1);
            CU_ASSERT_EQUAL(deleted, 2 + 6);
            CU_ASSERT_EQUAL(left(), 2 + 3);
            end();
            return;
        }
        CU_ASSERT_EQUAL(rc, R2_UNREACHABLE);
        between.fail_at = 0; /* and the next one finishes it */
        CU_ASSERT_EQUAL(r2_log_collect(&bucket_log, &at_key, 86400, &deleted), R2_OK);
        CU_ASSERT_EQUAL(left(), 2 + 3);
        end();
    }
}

/* ---- bases ---- */

static void read_key(void)
{
    struct r2_object o;
    CU_ASSERT_EQUAL_FATAL(head("app.db", &o), R2_OK);
    snprintf(at_key.v.etag, sizeof at_key.v.etag, "%.*s", (int)sizeof at_key.v.etag - 1, o.etag);
    at_key.size = o.size;
    call.signed_ms = r2_now_ms();
}

static void keep_base(void)
{
    int64_t based = 0;
    begin_log();
    CU_ASSERT_EQUAL_FATAL(put("app.db", "snapshot 10", "ten"), R2_OK);
    read_key();
    CU_ASSERT_EQUAL(r2_log_keep_base(&bucket_log, &at_key, 86400, &based), R2_OK);
    CU_ASSERT_TRUE(is(in_log("000000000000000a.db"), "snapshot 10", "ten"));
    CU_ASSERT_TRUE(based > 0);
    /* within the retention no second one, whether that is remembered or has to be looked up */
    at_key.v.version = 11;
    CU_ASSERT_EQUAL(r2_log_keep_base(&bucket_log, &at_key, 86400, &based), R2_OK);
    based = 0;
    CU_ASSERT_EQUAL(r2_log_keep_base(&bucket_log, &at_key, 86400, &based), R2_OK);
    CU_ASSERT_EQUAL(between.copies, 1);
    CU_ASSERT_TRUE(based > 0);
    /* after it, one more */
    base_file(10, 25);
    based = 0;
    CU_ASSERT_EQUAL(r2_log_keep_base(&bucket_log, &at_key, 86400, &based), R2_OK);
    CU_ASSERT_TRUE(is(in_log("000000000000000b.db"), "snapshot 10", "ten"));
    CU_ASSERT_EQUAL(between.copies, 2);
    /* what was replaced since it was looked at is not what was to be kept */
    CU_ASSERT_EQUAL_FATAL(put("app.db", "snapshot 12", "twelve"), R2_OK);
    base_file(11, 25);
    based = 0;
    at_key.v.version = 12;
    CU_ASSERT_EQUAL(r2_log_keep_base(&bucket_log, &at_key, 86400, &based), R2_PRECONDITION);
    CU_ASSERT_FALSE(there(in_log("000000000000000c.db")));
    /* a time that was remembered wrongly, far in the future */
    read_key();
    based = call.signed_ms + 100 * H;
    CU_ASSERT_EQUAL(r2_log_keep_base(&bucket_log, &at_key, 86400, &based), R2_OK);
    CU_ASSERT_TRUE(there(in_log("000000000000000c.db")));
    end();
}

UNIT_MAIN("log_collect", UNIT(age), UNIT(strange_times), UNIT(snapshot), UNIT(bases), UNIT(bounds),
          UNIT(only_ours), UNIT(retention_floor), UNIT(cut_anywhere), UNIT(keep_base))
