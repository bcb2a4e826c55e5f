/* Segments that were collected and then created anew, by a body that was on its way for longer than
 * the retention: nobody believes them. And what was hidden while a machine slept is found. */
#include "replicakit.h"

#include "../../vfs/log_int.h"

static struct machine c;

/* Three machines at version 1 of a log; c has x = 99 committed, and its push as version 2 is on its
 * way for now. */
static void on_its_way(void)
{
    uint64_t v;
    start();
    machine(&c, "c");
    a.config.layout = b.config.layout = c.config.layout = R2_LAYOUT_LOG;
    CU_ASSERT_EQUAL(session(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, zeroblob(5000))"),
                    R2_OK);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    CU_ASSERT_EQUAL(open_it(&c), R2_OK);
    commit(&c, SET(99));
    script.fork = LOST;
    CU_ASSERT_EQUAL(sync_it(&c, &v), R2_UNKNOWN);
    CU_ASSERT_TRUE(script.late.there && !script.blind);
}

/* As a process that ends with nothing more said. */
static void dies(struct machine *m)
{
    r2_replica_detach(m->r);
    m->r = NULL;
}

static void delete_segment(uint64_t v)
{
    char key[R2_LOG_KEY];
    struct r2_call call = {.deadline_ms = r2_boot_ms() + 60000, .err = &err};
    r2_log_key(a.config.key, remote().v.lineage, v, ".ltx", key);
    CU_ASSERT_EQUAL(bucket->ops->del(bucket, &call, key), R2_OK);
}

/* a makes the next versions, x = 11, 12 ... `to`, and the last one the snapshot. */
static void a_goes_on(int to)
{
    uint64_t v;
    char sql[64];
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    for (int x = 11; x <= to; x++) {
        snprintf(sql, sizeof sql, "UPDATE t SET x = %d", x);
        commit(&a, sql);
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    }
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    CU_ASSERT_EQUAL(remote_value(), to);
}

/* Another's versions 2 .. `versions` are collected, and then c's body arrives. */
static void created_anew(uint64_t versions)
{
    a_goes_on(9 + (int)versions);
    CU_ASSERT_EQUAL(remote_version(), versions);
    for (uint64_t v = 2; v <= versions; v++)
        delete_segment(v);
    CU_ASSERT_EQUAL(deliver(), R2_OK);
    script.blind = false;
}

/* It has not asked for half an hour. */
static void is_stale(struct machine *m)
{
    struct r2_op op;
    CU_ASSERT_EQUAL_FATAL(r2_op_begin(&op, m->r, 1000, &err), R2_OK);
    op.r->record.verified_ms = 0;
    CU_ASSERT_EQUAL(r2_op_save(&op), R2_OK);
    r2_op_end(&op);
}

/* "Created just now" is no proof for who was not fresh. */
static void a_reader_meets_one(void)
{
    uint64_t v;
    for (uint64_t versions = 3; versions < 6; versions++) {
        on_its_way();
        dies(&c);
        CU_ASSERT_EQUAL(open_it(&b), R2_OK);
        created_anew(versions);
        is_stale(&b);
        CU_ASSERT_EQUAL(pull_it(&b, &v), R2_OK);
        CU_ASSERT_EQUAL(v, versions);
        CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
        CU_ASSERT_EQUAL(value(&b), 9 + (int)versions);
        stop();
    }
}

/* The snapshot is of that very number, and is another version. */
static void the_snapshot_is_that_version(void)
{
    uint64_t v;
    on_its_way();
    dies(&c);
    CU_ASSERT_EQUAL(open_it(&b), R2_OK);
    created_anew(2);
    is_stale(&b);
    CU_ASSERT_EQUAL(pull_it(&b, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 2);
    CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
    CU_ASSERT_EQUAL(value(&b), 11);
    stop();
}

/* Whose body it was meets it: our nonce, and yet another has the number. */
static void its_writer_meets_it(void)
{
    on_its_way();
    dies(&c);
    created_anew(3);
    CU_ASSERT_EQUAL(open_it(&c), R2_OK);
    CU_ASSERT_EQUAL(version(&c), 3);
    CU_ASSERT_EQUAL(close_it(&c, false), R2_OK);
    CU_ASSERT_EQUAL(value(&c), 12);
    CU_ASSERT_EQUAL(fork_value(), 99);
    stop();
}

static void three_versions_and_ours(void)
{
    script.blind = false;
    created_anew(3);
}

/* The same while it pushes: nothing is acknowledged. */
static void its_writer_pushes_again(void)
{
    uint64_t v;
    on_its_way();
    script.before_get = three_versions_and_ours;
    CU_ASSERT_EQUAL(sync_it(&c, &v), R2_CONFLICT);
    CU_ASSERT_PTR_NULL(script.before_get);
    CU_ASSERT_EQUAL(remote_value(), 12);
    CU_ASSERT_EQUAL(resolve_it(&c, "fork", &v), R2_OK);
    CU_ASSERT_EQUAL(fork_value(), 99);
    CU_ASSERT_EQUAL(close_it(&c, false), R2_OK);
    stop();
}

static void in_the_same_push(void)
{
    uint64_t v;
    start();
    machine(&c, "c");
    a.config.layout = c.config.layout = R2_LAYOUT_LOG;
    CU_ASSERT_EQUAL(session(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, zeroblob(5000))"),
                    R2_OK);
    CU_ASSERT_EQUAL(open_it(&c), R2_OK);
    commit(&c, SET(99));
    script.fork = LOST;
    script.before_get = three_versions_and_ours; /* the look after it */
    CU_ASSERT_EQUAL(sync_it(&c, &v), R2_CONFLICT);
    CU_ASSERT_EQUAL(remote_value(), 12);
    CU_ASSERT_EQUAL(close_it(&c, false), R2_CONFLICT);
    stop();
}

/* Ours lands, and more versions follow than db-recent tells, all between a 404 and the HEAD. */
static void ours_and_many_more(void)
{
    CU_ASSERT_EQUAL(deliver(), R2_OK);
    a_goes_on(11 + R2_RECENT_MAX + 5);
}

static void after_a_sleep(void)
{
    on_its_way();
    is_stale(&c);
    dies(&c);
    script.before_head = ours_and_many_more;
    CU_ASSERT_EQUAL(open_it(&c), R2_OK);
    CU_ASSERT_EQUAL(version(&c), R2_RECENT_MAX + 8);
    CU_ASSERT_EQUAL(close_it(&c, false), R2_OK);
    CU_ASSERT_EQUAL(value(&c), 11 + R2_RECENT_MAX + 5);
    CU_ASSERT_EQUAL(fork_count(), 0);
    stop();
}

/* And so do another's: then ours at that number, which is younger than the next, is none, even if
 * its bytes are the same. */
static int others_first;
static bool made_older;

static void others_and_many_more(void)
{
    uint64_t v;
    char sql[64];
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    snprintf(sql, sizeof sql, "UPDATE t SET x = %d", others_first);
    commit(&a, sql);
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    a_goes_on(11 + R2_RECENT_MAX + 5);
    delete_segment(2);
    CU_ASSERT_EQUAL(deliver(), R2_OK);
    if (made_older)
        shell("touch -d '1 hour ago' '%s'/*/0000000000000002.ltx", kit_path("bucket/app.db-log"));
}

static void another_after_a_sleep(void)
{
    for (int how = 0; how < 3; how++) {
        others_first = how == 1 ? 99 : 98;
        made_older = how == 2;
        on_its_way();
        is_stale(&c);
        dies(&c);
        script.before_head = others_and_many_more;
        CU_ASSERT_EQUAL(open_it(&c), R2_OK);
        CU_ASSERT_EQUAL(version(&c), R2_RECENT_MAX + 8);
        CU_ASSERT_EQUAL(close_it(&c, false), R2_OK);
        CU_ASSERT_EQUAL(value(&c), 11 + R2_RECENT_MAX + 5);
        CU_ASSERT_EQUAL(fork_value(), 99);
        stop();
    }
}

/* Ours landed, was collected, and another's body made that number anew. */
static void anothers_body_hides_ours(void)
{
    uint64_t v;
    on_its_way();
    dies(&c);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    CU_ASSERT_EQUAL(open_it(&b), R2_OK);
    commit(&b, SET(77));
    script.fork = LANDED_BLIND;
    CU_ASSERT_EQUAL(sync_it(&b, &v), R2_UNKNOWN);
    dies(&b);
    script.blind = false;
    a_goes_on(12);
    CU_ASSERT_EQUAL(remote_version(), 4);
    for (v = 2; v <= 4; v++)
        delete_segment(v);
    CU_ASSERT_EQUAL(deliver(), R2_OK);
    IS_AT(&b, 4, 12);
    CU_ASSERT_EQUAL(fork_count(), 0);
    stop();
}

/* Ours landed; what is read of it then is damaged on the way, in its nonce or in a page, or in the
 * bucket. */
static void damaged(void)
{
    static const struct {
        int flips;
        off_t at;
    } how[] = {{1, 72}, {1, 79}, {1, 150}, {2, 150}};
    for (size_t k = 0; k < sizeof how / sizeof *how; k++) {
        uint64_t v;
        on_its_way();
        dies(&c);
        CU_ASSERT_EQUAL(open_it(&b), R2_OK);
        commit(&b, SET(77));
        script.fork = LANDED_BLIND;
        CU_ASSERT_EQUAL(sync_it(&b, &v), R2_UNKNOWN);
        dies(&b);
        script.blind = false;
        script.flips = how[k].flips;
        script.flip_at = how[k].at;
        CU_ASSERT_EQUAL(open_it(&b), R2_OK);
        CU_ASSERT_EQUAL(script.flips, 0);
        CU_ASSERT_EQUAL(version(&b), 2);
        CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
        CU_ASSERT_EQUAL(value(&b), 77);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
}

UNIT_MAIN("log_doubt", UNIT(a_reader_meets_one), UNIT(the_snapshot_is_that_version),
          UNIT(its_writer_meets_it), UNIT(its_writer_pushes_again), UNIT(in_the_same_push),
          UNIT(after_a_sleep), UNIT(another_after_a_sleep), UNIT(anothers_body_hides_ours),
          UNIT(damaged))
