/* test_replica_doubt.c - pushes that were cut: killed before or after the put, answers that never
 * came, and what is found when somebody looks later. */
#include "replicakit.h"

/* ---- killed ---- */

/* Intent written, nothing sent: the next open pushes it, once. */
static void killed_before_the_put(void)
{
    for (int wal = 0; wal < 2; wal++) {
        start();
        killed_session(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, 1)", KILL_BEFORE);
        CU_ASSERT_EQUAL(remote_version(), 0);
        IS_AT(&a, 1, 10); /* a birth */
        if (wal) stock(a.path, "PRAGMA journal_mode=WAL");
        CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
        uint64_t v = remote_version();
        killed_session(&a, SET(12), KILL_BEFORE);
        CU_ASSERT_EQUAL(remote_version(), v);
        IS_AT(&a, v + 1, 12);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
}

/* Sent, and the record never written: recognised by its nonce, not pushed again. */
static void killed_after_the_put(void)
{
    for (int wal = 0; wal < 2; wal++) {
        start();
        killed_session(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, 1)", KILL_AFTER);
        CU_ASSERT_EQUAL(remote_version(), 1);
        IS_AT(&a, 1, 10);
        if (wal) stock(a.path, "PRAGMA journal_mode=WAL");
        CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
        uint64_t v = remote_version();
        killed_session(&a, SET(12), KILL_AFTER);
        CU_ASSERT_EQUAL(remote_version(), v + 1);
        script.puts = 0;
        IS_AT(&a, v + 1, 12);
        CU_ASSERT_EQUAL(script.puts, 0);
        CU_ASSERT_EQUAL(fork_count(), 0);
        CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
        CU_ASSERT_EQUAL(value(&b), 12);
        stop();
    }
}

/* Landed, and others went on before anybody looked: db-recent says that it was ours. */
static void killed_after_the_put_and_hidden(void)
{
    start();
    both_at_1();
    killed_session(&a, SET(11), KILL_AFTER);
    CU_ASSERT_EQUAL(session(&b, SET(12)), R2_OK);
    CU_ASSERT_EQUAL(remote_version(), 3);
    IS_AT(&a, 3, 12);
    CU_ASSERT_EQUAL(fork_count(), 0); /* nothing of ours was lost */
    stop();
}

static void killed_before_the_put_and_overtaken(void)
{
    start();
    both_at_1();
    killed_session(&a, SET(11), KILL_BEFORE);
    CU_ASSERT_EQUAL(session(&b, SET(12)), R2_OK);
    IS_AT(&a, 2, 12);
    CU_ASSERT_EQUAL(fork_value(), 11);
    stop();
}

/* A landed intent, and plain SQLite wrote since. One commit more may be ours, cut before its mark:
 * it continues what landed. More are nobody's: never pushed over it, never lost. */
static void written_over_a_landed_intent(void)
{
    for (int more = 0; more < 2; more++) {
        start();
        both_at_1();
        killed_session(&a, SET(11), KILL_AFTER);
        if (more) stock(a.path, SET(98));
        stock(a.path, SET(99));
        if (more) {
            IS_AT(&a, 2, 11);
            CU_ASSERT_EQUAL(fork_value(), 99);
        } else {
            IS_AT(&a, 3, 99);
        }
        stop();
    }
}

static void old_copy_over_a_landed_intent(void)
{
    start();
    both_at_1();
    shell("cp -p '%s' '%s'", a.path, kit_path("old.db"));
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    killed_session(&a, SET(12), KILL_AFTER);
    shell("cp '%s' '%s'", kit_path("old.db"), a.path);
    IS_AT(&a, 3, 12);
    stop();
}

/* ---- no answer, within a process ---- */

/* a has x = 11 committed, and its push got no answer. */
static void in_doubt(enum how how)
{
    uint64_t v;
    start();
    both_at_1();
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    commit(&a, SET(11));
    script.put = how;
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNKNOWN);
    CU_ASSERT_TRUE(strstr(err.text, "may or may not") && strstr(err.text, a.config.url));
    CU_ASSERT_EQUAL(script.put, SERVE);
    script.puts = 0;
}

static void retried_with_the_same_bytes(void)
{
    uint64_t v;
    in_doubt(LOST);
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 2);
    CU_ASSERT_EQUAL(remote_version(), 2);
    size_t n;
    uint8_t *now = kit_read_file(kit_path("bucket/app.db"), &n);
    CU_ASSERT_TRUE(n == script.late.n && memcmp(now, script.late.bytes, n) == 0);
    free(now);
    CU_ASSERT_EQUAL(deliver(), R2_PRECONDITION); /* cannot land twice */
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    IS_AT(&a, 2, 11);
    stop();
}

static void landed_unseen(void)
{
    for (int late = 0; late < 2; late++) {
        uint64_t v;
        in_doubt(late ? LOST : LANDED_BLIND);
        if (late) CU_ASSERT_EQUAL(deliver(), R2_OK);
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
        CU_ASSERT_TRUE(v == 2 && script.puts == 0);
        CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
        IS_AT(&a, 2, 11);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
}

static void settled_by_the_next_process(void)
{
    for (int landed = 0; landed < 2; landed++) {
        in_doubt(landed ? LANDED_BLIND : LOST);
        r2_replica_detach(a.r); /* ended without another word */
        IS_AT(&a, 2, 11);
        CU_ASSERT_EQUAL(script.puts, landed ? 0 : 1);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
}

/* While it is offline nothing is known, and nothing is claimed. */
static void still_offline(void)
{
    uint64_t v;
    in_doubt(LOST);
    script.offline = true;
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNKNOWN);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_UNKNOWN);
    script.offline = false;
    CU_ASSERT_EQUAL(deliver(), R2_OK);
    IS_AT(&a, 2, 11);
    stop();
}

/* The first content lands after a second one was committed: it is the base, the rest is dirty. */
static void an_earlier_content_landed(void)
{
    uint64_t v;
    in_doubt(LOST);
    commit(&a, SET(12));
    CU_ASSERT_EQUAL(deliver(), R2_OK);
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 3);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    IS_AT(&a, 3, 12);
    CU_ASSERT_EQUAL(fork_count(), 0);
    stop();
}

/* Two contents were tried for version 2; of both nobody heard. The first one is what landed. */
static void first_of_two_landed(void)
{
    uint64_t v;
    in_doubt(LOST);
    char *bytes = script.late.bytes;
    script.late.bytes = NULL;
    size_t n = script.late.n;
    struct r2_meta meta = script.late.meta;
    commit(&a, SET(12));
    script.put = LOST;
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNKNOWN);
    kit_write_file(kit_path("first"), bytes, n);
    put_object(kit_path("first"), meta.text);
    free(bytes);
    CU_ASSERT_EQUAL(remote_version(), 2);
}

static void an_earlier_try_landed(void)
{
    uint64_t v;
    first_of_two_landed();
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 3);
    CU_ASSERT_EQUAL(deliver(), R2_PRECONDITION);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    IS_AT(&a, 3, 12);
    stop();
}

static void a_later_content_lands_instead(void)
{
    uint64_t v;
    in_doubt(LOST);
    commit(&a, SET(12));
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 2); /* the same number: the first may still land */
    CU_ASSERT_EQUAL(deliver(), R2_PRECONDITION);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    IS_AT(&a, 2, 12);
    stop();
}

/* Back at the base's content while a push of another is in doubt: what sync() acknowledges stays.
 */
static void back_at_the_base_content(void)
{
    uint64_t v;
    in_doubt(LOST);
    commit(&a, SET(10));
    enum r2_code rc = sync_it(&a, &v);
    CU_ASSERT_TRUE(rc == R2_OK || rc == R2_UNKNOWN);
    (void)deliver(); /* the first one arrives now, if it still can */
    if (rc == R2_OK) CU_ASSERT_EQUAL(remote_value(), 10);
    (void)close_it(&a, true);
    CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
    CU_ASSERT_EQUAL(remote_value(), 10);
    CU_ASSERT_EQUAL(value(&a), 10);
    stop();
}

static void somebody_else_took_the_number(void)
{
    uint64_t v;
    in_doubt(LOST);
    CU_ASSERT_EQUAL(session(&b, SET(12)), R2_OK);
    CU_ASSERT_EQUAL(deliver(), R2_PRECONDITION);
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_CONFLICT);
    CU_ASSERT_TRUE(strstr(err.text, "version 1") && strstr(err.text, "version 2"));
    CU_ASSERT_EQUAL(close_it(&a, true), R2_CONFLICT);
    IS_AT(&a, 2, 12);
    CU_ASSERT_EQUAL(fork_value(), 11);
    stop();
}

static void ours_and_then_somebody_elses(void)
{
    for (int dirty = 0; dirty < 2; dirty++) {
        uint64_t v;
        in_doubt(LANDED_BLIND);
        CU_ASSERT_EQUAL(session(&b, SET(12)), R2_OK);
        CU_ASSERT_EQUAL(remote_version(), 3);
        if (dirty) commit(&a, SET(13));
        if (!dirty) {
            CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK); /* what was committed is there */
            CU_ASSERT_EQUAL(v, 2);
            CU_ASSERT_EQUAL(pull_it(&a, &v), R2_OK);
            CU_ASSERT_EQUAL(v, 3);
            CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
        } else {
            CU_ASSERT_EQUAL(sync_it(&a, &v), R2_CONFLICT);
            CU_ASSERT_EQUAL(close_it(&a, true), R2_CONFLICT);
        }
        IS_AT(&a, 3, 12);
        CU_ASSERT_EQUAL(fork_count(), dirty ? 1u : 0u);
        if (dirty) CU_ASSERT_EQUAL(fork_value(), 13);
        stop();
    }
}

static void b_goes_on(void)
{
    CU_ASSERT_EQUAL(session(&b, "INSERT INTO t VALUES(77, 0)"), R2_OK);
}

/* An earlier try landed, and between the look and the fetch somebody built on it: his changes are
 * not ours to overwrite. */
static void moved_on_between_look_and_fetch(void)
{
    uint64_t v;
    first_of_two_landed();
    script.before_get = b_goes_on;
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_CONFLICT);
    (void)close_it(&a, true);
    shell("cp '%s' '%s'", kit_path("bucket/app.db"), kit_path("look2.db"));
    sqlite3 *db = kit_open(kit_path("look2.db"));
    CU_ASSERT_EQUAL(kit_int(db, "SELECT count(*) FROM t WHERE x=77"), 1);
    sqlite3_close(db);
    CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
    CU_ASSERT_EQUAL(fork_value(), 12);
    stop();
}

/* Every content tried has its nonce; when there is no more room nothing new is sent. */
static void too_many_tries(void)
{
    uint64_t v;
    char sql[64];
    in_doubt(LOST);
    for (int k = 2; k <= R2_TRIES_MAX; k++) {
        snprintf(sql, sizeof sql, "UPDATE t SET x=%d", 100 + k);
        commit(&a, sql);
        script.put = LOST;
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNKNOWN);
    }
    CU_ASSERT_EQUAL(script.puts, R2_TRIES_MAX - 1);
    commit(&a, SET(999));
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNKNOWN);
    CU_ASSERT_EQUAL(script.puts, R2_TRIES_MAX - 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "16 times"));
    CU_ASSERT_EQUAL(deliver(), R2_OK); /* the last one */
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 3);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    IS_AT(&a, 3, 999);
    stop();
}

/* A birth in doubt: several contents, each with a lineage of its own. */
static void births_in_doubt(void)
{
    uint64_t v;
    start();
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    commit(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(1, 1)");
    script.put = LOST;
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNKNOWN);
    commit(&a, SET(2));
    CU_ASSERT_EQUAL(deliver(), R2_OK);
    struct r2_remote first = remote();
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 2);
    struct r2_remote second = remote();
    CU_ASSERT_EQUAL(memcmp(first.v.lineage, second.v.lineage, 16), 0);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    IS_AT(&a, 2, 2);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    CU_ASSERT_EQUAL(value(&b), 2);
    stop();
}

/* The network is down and that is certain: nothing is in doubt, the commit stays for later. */
static void certainly_not_sent(void)
{
    uint64_t v;
    start();
    both_at_1();
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    commit(&a, SET(11));
    script.put = DOWN;
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNREACHABLE);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_UNREACHABLE);
    script.put = SERVE;
    IS_AT(&a, 2, 11); /* the next open tries again */
    stop();
}

UNIT_MAIN("replica_doubt", UNIT(killed_before_the_put), UNIT(killed_after_the_put),
          UNIT(killed_after_the_put_and_hidden), UNIT(killed_before_the_put_and_overtaken),
          UNIT(written_over_a_landed_intent), UNIT(old_copy_over_a_landed_intent),
          UNIT(retried_with_the_same_bytes), UNIT(landed_unseen), UNIT(settled_by_the_next_process),
          UNIT(still_offline), UNIT(an_earlier_content_landed), UNIT(an_earlier_try_landed),
          UNIT(a_later_content_lands_instead), UNIT(back_at_the_base_content),
          UNIT(somebody_else_took_the_number), UNIT(ours_and_then_somebody_elses),
          UNIT(moved_on_between_look_and_fetch), UNIT(too_many_tries), UNIT(births_in_doubt),
          UNIT(certainly_not_sent))
