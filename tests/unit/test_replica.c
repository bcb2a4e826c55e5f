/* test_replica.c - one local file and its remote: births, pushes, pulls, conflicts, and everything
 * that people do to files while nobody looks. Doubtful pushes are in test_replica_doubt.c. */
#include "replicakit.h"

/* ---- the ordinary day ---- */

static void birth_push_pull(void)
{
    uint64_t v;
    start();
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK); /* nothing yet */
    CU_ASSERT_TRUE(v == 0 && remote_version() == 0);
    commit(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, zeroblob(5000))");
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 1);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    struct r2_remote one = remote();
    CU_ASSERT_TRUE(one.numbered && one.has_checksum && one.has_lineage && one.v.version == 1);
    CU_ASSERT_EQUAL(session(&b, SET(11)), R2_OK);
    struct r2_remote two = remote();
    CU_ASSERT_EQUAL(two.v.version, 2);
    CU_ASSERT_EQUAL(memcmp(one.v.lineage, two.v.lineage, 16), 0);
    uint64_t nonce;
    CU_ASSERT_TRUE(r2_recent_find(two.v.recent, 1, &nonce) &&
                   r2_recent_find(two.v.recent, 2, &nonce));
    IS_AT(&a, 2, 11);
    /* the object is the file but for the local fields, and its number is in it */
    size_t n, m;
    uint8_t *object = kit_read_file(kit_path("bucket/app.db"), &n),
            *file = kit_read_file(b.path, &m);
    struct kit_version want = {.bytes = file, .page_size = 4096, .pages = (uint32_t)(m / 4096)};
    CU_ASSERT_TRUE(n == m && kit_same(&want, object, n));
    CU_ASSERT_TRUE(r2_get32(object + 24) == 2 && r2_get32(object + 92) == 2);
    free(object), free(file);
    CU_ASSERT_EQUAL(fork_count(), 0);
    /* nothing is left beside the files */
    CU_ASSERT_NOT_EQUAL(access(kit_path("b/app.db-r2-new"), F_OK), 0);
    stop();
}

static void pull_while_open(void)
{
    uint64_t v;
    start();
    both_at_1();
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    CU_ASSERT_EQUAL(session(&b, SET(11)), R2_OK);
    CU_ASSERT_EQUAL(pull_it(&a, &v), R2_OK);
    CU_ASSERT_TRUE(v == 2 && value(&a) == 11);
    commit(&a, SET(12));
    CU_ASSERT_EQUAL(session(&b, SET(13)), R2_OK);
    CU_ASSERT_EQUAL(pull_it(&a, &v), R2_CONFLICT); /* never over a dirty page */
    CU_ASSERT_EQUAL(value(&a), 12);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_CONFLICT);
    stop();
}

/* DESIGN section 8: an idle database asks nothing; an open asks once; a push is one request. */
static void no_request_when_clean(void)
{
    uint64_t v;
    start();
    both_at_1();
    for (int turn = 0; turn < 2; turn++) {
        script.heads = script.gets = script.puts = 0;
        CU_ASSERT_EQUAL(open_it(&a), R2_OK);
        CU_ASSERT_EQUAL(script.heads, 1);
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
        CU_ASSERT_EQUAL(v, turn ? 2u : 1u);
        CU_ASSERT_TRUE(script.heads == 1 && script.gets == 0 && script.puts == 0);
        if (turn == 0) {
            commit(&a, SET(11));
            CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
            CU_ASSERT_TRUE(v == 2 && script.puts == 1 && script.heads == 1);
        }
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
        CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
        CU_ASSERT_TRUE(script.puts == (turn == 0) && script.heads == 1 && script.gets == 0);
    }
    stop();
}

/* A rollback after a cache spill changes free pages: no commit, so no version; a pull goes over it.
 */
static void loose_pages_are_no_change(void)
{
    start();
    CU_ASSERT_EQUAL(session(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, 0);"
                                "CREATE TABLE big(y); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL "
                                "SELECT i+1 FROM c WHERE i<900) INSERT INTO big SELECT "
                                "randomblob(900) FROM c; DELETE FROM big"),
                    R2_OK);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    size_t n, m;
    uint8_t *was = kit_read_file(a.path, &n);
    struct r2_marks marks = {0};
    CU_ASSERT_EQUAL(r2_replica_touch(a.r, &marks, &err), R2_OK);
    r2_replica_unseen(a.r);
    stock(a.path,
          "PRAGMA cache_size=10; BEGIN; WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT "
          "i+1 FROM c WHERE i<300) INSERT INTO big SELECT randomblob(900) FROM c; ROLLBACK");
    r2_replica_ended(a.r, &marks);
    uint8_t *now = kit_read_file(a.path, &m);
    CU_ASSERT_TRUE(n == m && memcmp(was, now, n) != 0);
    free(was), free(now);
    script.puts = 0;
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    CU_ASSERT_EQUAL(script.puts, 0);
    CU_ASSERT_EQUAL(remote_version(), 1);
    CU_ASSERT_EQUAL(session(&b, SET(11)), R2_OK);
    IS_AT(&a, 2, 11);
    CU_ASSERT_EQUAL(fork_count(), 0);
    stop();
}

static void page_size_changes(void)
{
    for (int wal = 0; wal < 2; wal++) {
        start();
        both_at_1();
        if (wal) stock(b.path, "PRAGMA journal_mode=WAL");
        if (wal) CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
        uint64_t v = remote_version();
        CU_ASSERT_EQUAL(session(&a, "PRAGMA page_size=8192; VACUUM; UPDATE t SET x=11"), R2_OK);
        CU_ASSERT_EQUAL(remote_version(), v + 1);
        IS_AT(&b, v + 1, 11);
        sqlite3 *db = kit_open(b.path);
        CU_ASSERT_EQUAL(kit_int(db, "PRAGMA page_size"), 8192);
        CU_ASSERT_TRUE(kit_text_is(db, "PRAGMA journal_mode", wal ? "wal" : "delete"));
        sqlite3_close(db);
        CU_ASSERT_EQUAL(session(&b, SET(12)), R2_OK);
        IS_AT(&a, v + 2, 12);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
}

/* ---- plain SQLite in between ---- */

/* Commit with stock SQLite in a process that ends without closing: the -wal stays. */
static void stock_and_die(const char *path, const char *sql)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        sqlite3 *db = kit_open(path);
        kit_must(db, sql);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

static void written_by_plain_sqlite(void)
{
    for (int how = 0; how < 3; how++) {
        start();
        both_at_1();
        if (how) stock(a.path, "PRAGMA journal_mode=WAL");
        if (how) CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
        uint64_t v = remote_version();
        if (how < 2)
            stock(a.path, SET(11));
        else
            stock_and_die(a.path, SET(11));
        IS_AT(&a, v + 1, 11);
        CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
        CU_ASSERT_EQUAL(value(&b), 11);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
}

/* The machine lost its power, and the file's times are those that were known before. */
static void started_anew_with_old_times(struct machine *m)
{
    struct r2_state *s;
    struct r2_record k;
    struct r2_identity now;
    bool anew;
    if (r2_state_open(m->path, &s, &err) || r2_state_lock(s, 1000, &anew, &err) ||
        r2_state_load(s, m->config.url, &k, &err) || r2_identity_of(m->path, &now, &err))
        abort();
    now.counter = k.identity.counter;
    now.taken_ms += 60000;
    k.identity = now;
    memset(r2_state_live(s)->boot_id, 7, 16);
    if (r2_state_save(s, &k, &err)) abort();
    r2_state_unlock(s);
    r2_state_close(s);
}

static void written_before_a_power_loss(void)
{
    for (int wal = 0; wal < 2; wal++) {
        start();
        both_at_1();
        if (wal) stock(a.path, "PRAGMA journal_mode=WAL");
        CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
        CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
        CU_ASSERT_EQUAL(session(&b, SET(12)), R2_OK);
        stock(a.path, SET(13));
        started_anew_with_old_times(&a);
        IS_AT(&a, 3, 12);
        CU_ASSERT_EQUAL(fork_value(), 13); /* and not overwritten by a pull */
        stock(a.path, SET(14));
        started_anew_with_old_times(&a);
        IS_AT(&a, 4, 14);
        stop();
    }
}

/* It leads back to an earlier version's content: that is a change like any other, not a backup. */
static void plain_sqlite_undoes_a_change(void)
{
    for (int wal = 0; wal < 2; wal++) {
        start();
        both_at_1();
        if (wal) stock(a.path, "PRAGMA journal_mode=WAL");
        CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
        stock(a.path, SET(10));
        CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
        if (!wal) CU_ASSERT_TRUE(value(&a) == 10 && remote_value() == 10);
        /* in WAL mode nothing tells it from a copy put back: then neither is lost */
        CU_ASSERT_TRUE(remote_value() == 10 || fork_value() == 10);
        stop();
    }
}

/* ---- old copies put back, files deleted ---- */

static void old_copy_of_the_database(void)
{
    for (int how = 0; how < 3; how++) {
        start();
        both_at_1();
        shell("cp -p '%s' '%s'", a.path, kit_path("old.db"));
        CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
        CU_ASSERT_EQUAL(session(&a, SET(12)), R2_OK);
        if (how == 0) shell("cp '%s' '%s'", kit_path("old.db"), a.path);
        if (how == 1) shell("cp -p '%s' '%s'", kit_path("old.db"), a.path);
        if (how == 2) shell("mv '%s' '%s'", kit_path("old.db"), a.path);
        IS_AT(&a, 3, 12);
        CU_ASSERT_EQUAL(fork_count(), 0); /* it was a version: nothing is lost */
        stop();
    }
}

static void old_copy_in_wal_mode(void)
{
    start();
    both_at_1();
    stock(a.path, "PRAGMA journal_mode=WAL");
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    shell("cp -p '%s' '%s'", a.path, kit_path("old.db"));
    CU_ASSERT_EQUAL(session(&a, SET(12)), R2_OK);
    shell("cp '%s' '%s'", kit_path("old.db"), a.path);
    uint64_t v = remote_version();
    IS_AT(&a, v, 12);
    stop();
}

static void another_database_put_in_its_place(void)
{
    start();
    both_at_1();
    stock(kit_path("stranger.db"), "CREATE TABLE t(x); INSERT INTO t VALUES(99)");
    shell("mv '%s' '%s'", kit_path("stranger.db"), a.path);
    IS_AT(&a, 1, 10);
    CU_ASSERT_EQUAL(fork_value(), 99);
    stop();
}

static void old_copy_of_the_state(void)
{
    start();
    both_at_1();
    shell("cp -p '%s-r2' '%s'", a.path, kit_path("old-r2"));
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    shell("cp '%s' '%s-r2'", kit_path("old-r2"), a.path);
    IS_AT(&a, 2, 11);
    CU_ASSERT_EQUAL(fork_count(), 0);
    stop();
}

static void old_copy_of_both(void)
{
    start();
    both_at_1();
    shell("cp -rp '%s' '%s'", kit_path("a"), kit_path("backup"));
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    shell("rm -r '%s'; mv '%s' '%s'", kit_path("a"), kit_path("backup"), kit_path("a"));
    IS_AT(&a, 2, 11);
    CU_ASSERT_EQUAL(fork_count(), 0);
    stop();
}

static void deleted_database(void)
{
    start();
    both_at_1();
    unlink(a.path);
    kit_write_file(kit_path("a/app.db-wal"), "left over", 9);
    kit_write_file(kit_path("a/app.db-journal"), "left over", 9);
    IS_AT(&a, 1, 10);
    /* it may hold commits: set aside, not deleted */
    shell("cat '%s'-r2-stray-wal* >'%s'", a.path, kit_path("kept"));
    size_t n;
    uint8_t *kept = kit_read_file(kit_path("kept"), &n);
    CU_ASSERT_TRUE(kept && n == 9 && memcmp(kept, "left over", 9) == 0);
    free(kept);
    CU_ASSERT_NOT_EQUAL(access(kit_path("a/app.db-journal"), F_OK), 0);
    stop();
}

static void deleted_state(void)
{
    for (int how = 0; how < 4; how++) {
        start();
        both_at_1();
        if (how == 1) CU_ASSERT_EQUAL(session(&b, SET(11)), R2_OK); /* the remote goes on */
        if (how == 2) stock(a.path, SET(12));                       /* the file does */
        if (how == 3) unlink(a.path);
        unlink(kit_path("a/app.db-r2"));
        CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
        IS_AT(&a, how == 1 ? 2 : 1, how == 1 ? 11 : 10);
        CU_ASSERT_EQUAL(fork_count(), how == 1 || how == 2); /* never a push */
        if (how == 1) CU_ASSERT_EQUAL(fork_value(), 10);
        if (how == 2) CU_ASSERT_EQUAL(fork_value(), 12);
        stop();
    }
}

/* Under an open replica: a file equal to the head is clean at that version, here too. */
static void deleted_state_while_open(void)
{
    for (int pull = 0; pull < 2; pull++) {
        uint64_t v;
        start();
        both_at_1();
        CU_ASSERT_EQUAL(open_it(&a), R2_OK);
        unlink(kit_path("a/app.db-r2"));
        CU_ASSERT_EQUAL(pull ? pull_it(&a, &v) : sync_it(&a, &v), R2_OK);
        CU_ASSERT_EQUAL(v, 1);
        CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
        IS_AT(&a, 1, 10);
        /* and with a commit of ours: no push, no loss */
        CU_ASSERT_EQUAL(open_it(&a), R2_OK);
        commit(&a, SET(11));
        unlink(kit_path("a/app.db-r2"));
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_CONFLICT);
        CU_ASSERT_EQUAL(close_it(&a, true), R2_CONFLICT);
        IS_AT(&a, 1, 10);
        CU_ASSERT_EQUAL(fork_value(), 11);
        stop();
    }
}

/* Its records are whole, its checksums are cut off: nothing is known then, and nothing is stuck. */
static void state_cut_short(void)
{
    for (int dirty = 0; dirty < 2; dirty++) {
        start();
        both_at_1();
        if (truncate(kit_path("a/app.db-r2"), R2_STATE_BLOCKS_AT) != 0) abort();
        stock(a.path, dirty ? SET(11) : "PRAGMA user_version");
        if (!dirty) shell("touch '%s'", a.path);
        CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
        IS_AT(&a, remote_version(), value(&a));
        CU_ASSERT_TRUE(!dirty || remote_value() == 11 || fork_value() == 11);
        stop();
    }
}

/* An empty file that somebody is filling right now: his journal is not ours to remove. */
static void a_first_transaction_in_progress(void)
{
    start();
    CU_ASSERT_EQUAL(session(&b, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, 1)"), R2_OK);
    sqlite3 *db = kit_open(a.path);
    kit_must(db, "BEGIN IMMEDIATE; CREATE TABLE mine(x); INSERT INTO mine VALUES(1)");
    CU_ASSERT_EQUAL(access(kit_path("a/app.db-journal"), F_OK), 0);
    enum r2_code rc = open_it(&a);
    CU_ASSERT_EQUAL(rc, R2_BUSY);
    CU_ASSERT_EQUAL(access(kit_path("a/app.db-journal"), F_OK), 0);
    r2_replica_detach(a.r);
    kit_must(db, "ROLLBACK");
    sqlite3_close(db);
    IS_AT(&a, 1, 10);
    stop();
}

/* ---- conflicts ---- */

/* a made version 2 (x = 11), b has x = 12 on top of 1 and could not push it. */
static void make_conflict(void)
{
    both_at_1();
    CU_ASSERT_EQUAL(open_it(&b), R2_OK);
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    commit(&b, SET(12));
    uint64_t v;
    CU_ASSERT_EQUAL(sync_it(&b, &v), R2_CONFLICT);
    CU_ASSERT_TRUE(strstr(err.text, "version 1") && strstr(err.text, "version 2") &&
                   strstr(err.text, "r2_resolve"));
    CU_ASSERT_EQUAL(close_it(&b, true), R2_CONFLICT);
    CU_ASSERT_TRUE(value(&b) == 12 && remote_value() == 11);
}

/* Is the only fork this file, byte for byte, as `version`? */
static bool is_fork(const uint8_t *bytes, size_t n, uint32_t number, bool exactly)
{
    char path[700];
    size_t m;
    if (forks(path, sizeof path) != 1) return false;
    uint8_t *fork_bytes = kit_read_file(path, &m);
    struct kit_version want = {
        .bytes = (uint8_t *)(uintptr_t)bytes, .page_size = 4096, .pages = (uint32_t)(n / 4096)};
    bool same =
        n == m && (exactly ? memcmp(bytes, fork_bytes, n) == 0 : kit_same(&want, fork_bytes, m));
    same = same && r2_get32(fork_bytes + 24) == number;
    free(fork_bytes);
    return same;
}

static void conflict_forks(void)
{
    size_t n;
    start();
    make_conflict();
    uint8_t *mine = kit_read_file(b.path, &n);
    IS_AT(&b, 2, 11);
    CU_ASSERT_TRUE(is_fork(mine, n, 2, false));
    free(mine);
    CU_ASSERT_EQUAL(session(&b, SET(13)), R2_OK); /* and goes on */
    IS_AT(&a, 3, 13);
    CU_ASSERT_EQUAL(fork_count(), 1);
    stop();
}

static void conflict_error_then_resolved(void)
{
    static const char *const hows[] = {"fork", "remote", "local"};
    for (int k = 0; k < 3; k++) {
        size_t n, m;
        uint64_t v;
        start();
        make_conflict();
        uint8_t *mine = kit_read_file(b.path, &n),
                *theirs = kit_read_file(kit_path("bucket/app.db"), &m);
        b.config.conflict = R2_ON_CONFLICT_ERROR;
        for (int again = 0; again < 2; again++) {
            CU_ASSERT_EQUAL(open_it(&b), R2_OK);
            CU_ASSERT_TRUE(r2_replica_barred(b.r, &err));
            CU_ASSERT_TRUE(strstr(err.text, "version 1") && strstr(err.text, "version 2"));
            CU_ASSERT_EQUAL(sync_it(&b, &v), R2_CONFLICT);
            CU_ASSERT_EQUAL(pull_it(&b, &v), R2_CONFLICT);
            CU_ASSERT_EQUAL(value(&b), 12);
            if (!again) CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
        }
        CU_ASSERT_EQUAL(resolve_it(&b, "sideways", &v), R2_CONFIG);
        CU_ASSERT_EQUAL(resolve_it(&b, hows[k], &v), R2_OK);
        CU_ASSERT_FALSE(r2_replica_barred(b.r, &err));
        CU_ASSERT_EQUAL(v, k == 2 ? 3 : 2);
        CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
        IS_AT(&b, v, k == 2 ? 12 : 11);
        IS_AT(&a, v, k == 2 ? 12 : 11);
        CU_ASSERT_TRUE(k == 2 ? is_fork(theirs, m, 2, true) : is_fork(mine, n, 2, false));
        free(mine), free(theirs);
        stop();
    }
}

static void a_goes_on(void)
{
    CU_ASSERT_EQUAL(session(&a, SET(14)), R2_OK);
}

/* The remote goes on while it is being kept: the number after that, and that one kept. */
static void local_wins_over_a_moving_remote(void)
{
    uint64_t v;
    start();
    make_conflict();
    b.config.conflict = R2_ON_CONFLICT_ERROR;
    CU_ASSERT_EQUAL(open_it(&b), R2_OK);
    script.before_get = a_goes_on;
    CU_ASSERT_EQUAL(resolve_it(&b, "local", &v), R2_OK);
    CU_ASSERT_EQUAL(v, 4);
    CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
    IS_AT(&b, 4, 12);
    CU_ASSERT_EQUAL(fork_value(), 14);
    stop();
}

/* Without the fork nothing is given up. */
static void fork_cannot_be_kept(void)
{
    static const enum how hows[] = {DOWN, LOST, LANDED, LANDED_BLIND};
    for (int k = 0; k < 4; k++) {
        start();
        make_conflict();
        script.fork = hows[k];
        enum r2_code rc = session(&b, NULL);
        if (hows[k] == DOWN) {
            CU_ASSERT_NOT_EQUAL(rc, R2_OK);
            CU_ASSERT_EQUAL(value(&b), 12);
            CU_ASSERT_EQUAL(fork_count(), 0);
        }
        script.fork = SERVE;
        IS_AT(&b, 2, 11);
        CU_ASSERT_EQUAL(fork_value(), 12);
        stop();
    }
}

/* The same loser twice: its fork is there already. */
static void fork_is_there_already(void)
{
    start();
    make_conflict();
    shell("cp -rp '%s' '%s'", kit_path("b"), kit_path("again"));
    IS_AT(&b, 2, 11);
    shell("rm -r '%s'; cp -rp '%s' '%s'", kit_path("b"), kit_path("again"), kit_path("b"));
    IS_AT(&b, 2, 11);
    CU_ASSERT_EQUAL(fork_value(), 12);
    stop();
}

/* ---- what people do in the bucket ---- */

static void remote_is_gone(void)
{
    uint64_t v;
    start();
    both_at_1();
    shell("rm '%s'", kit_path("bucket/app.db"));
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    CU_ASSERT_TRUE(r2_replica_barred(a.r, &err));
    CU_ASSERT_TRUE(strstr(err.text, "gone") && strstr(err.text, "r2_resolve('local')"));
    CU_ASSERT_EQUAL(resolve_it(&a, "fork", &v), R2_REFUSED);
    CU_ASSERT_TRUE(r2_replica_barred(a.r, &err));
    CU_ASSERT_EQUAL(resolve_it(&a, "local", &v), R2_OK);
    CU_ASSERT_EQUAL(v, 2);
    CU_ASSERT_EQUAL(close_it(&a, false), R2_OK);
    IS_AT(&a, 2, 10);
    IS_AT(&b, 2, 10);
    /* both gone: a new beginning */
    shell("rm '%s' '%s'", kit_path("bucket/app.db"), a.path);
    CU_ASSERT_EQUAL(session(&a, "CREATE TABLE t(x); INSERT INTO t VALUES(20)"), R2_OK);
    IS_AT(&a, 1, 20);
    stop();
}

static void remote_is_gone_while_open(void)
{
    uint64_t v;
    start();
    both_at_1();
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    commit(&a, SET(11));
    shell("rm '%s'", kit_path("bucket/app.db"));
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_CONFLICT); /* no birth */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "gone"));
    CU_ASSERT_EQUAL(remote_version(), 0);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_CONFLICT);
    CU_ASSERT_EQUAL(value(&a), 11);
    stop();
}

static void older_object_put_back(void)
{
    for (int local = 0; local < 2; local++) {
        uint64_t v;
        start();
        both_at_1();
        CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
        shell("cp -rp '%s' '%s'", kit_path("bucket"), kit_path("backup"));
        CU_ASSERT_EQUAL(session(&a, SET(12)), R2_OK);
        CU_ASSERT_EQUAL(session(&a, SET(13)), R2_OK);
        shell("rm -r '%s'; cp -rp '%s' '%s'", kit_path("bucket"), kit_path("backup"),
              kit_path("bucket"));
        CU_ASSERT_EQUAL(remote_version(), 2);
        CU_ASSERT_EQUAL(open_it(&a), R2_OK);
        CU_ASSERT_TRUE(r2_replica_barred(a.r, &err));
        CU_ASSERT_TRUE(strstr(err.text, "version 2") && strstr(err.text, "version 4"));
        CU_ASSERT_EQUAL(resolve_it(&a, local ? "local" : "remote", &v), R2_OK);
        CU_ASSERT_EQUAL(close_it(&a, false), R2_OK);
        IS_AT(&a, local ? 5 : 2, local ? 13 : 11);
        CU_ASSERT_EQUAL(fork_value(), local ? 11 : 13);
        stop();
    }
}

static void same_number_with_other_bytes(void)
{
    start();
    both_at_1();
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    stock(kit_path("foreign.db"), "CREATE TABLE t(x); INSERT INTO t VALUES(30)");
    put_object(kit_path("foreign.db"), "db-version: 2\n");
    IS_AT(&a, 2, 30);
    CU_ASSERT_EQUAL(fork_value(), 11);
    stop();
}

static void another_lineage(void)
{
    uint64_t v;
    start();
    both_at_1();
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    shell("rm '%s' '%s' '%s-r2'", kit_path("bucket/app.db"), b.path, b.path);
    CU_ASSERT_EQUAL(session(&b, "CREATE TABLE t(x); INSERT INTO t VALUES(40)"), R2_OK);
    CU_ASSERT_EQUAL(session(&b, SET(41)), R2_OK);
    CU_ASSERT_EQUAL(session(&b, SET(42)), R2_OK);
    CU_ASSERT_EQUAL(remote_version(), 3); /* a higher number: yet no successor of ours */
    a.config.conflict = R2_ON_CONFLICT_ERROR;
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    CU_ASSERT_TRUE(r2_replica_barred(a.r, &err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "lineage"));
    CU_ASSERT_EQUAL(resolve_it(&a, "fork", &v), R2_OK);
    CU_ASSERT_EQUAL(close_it(&a, false), R2_OK);
    IS_AT(&a, 3, 42);
    CU_ASSERT_EQUAL(fork_value(), 11);
    stop();
}

/* A plain file is read as it is; the first push gives it a lineage. */
static void plain_object_first(void)
{
    start();
    stock(kit_path("plain.db"), "CREATE TABLE t(x); INSERT INTO t VALUES(50)");
    shell("cp '%s' '%s'", kit_path("plain.db"), kit_path("bucket/app.db"));
    IS_AT(&a, 1, 50);
    size_t n, m;
    uint8_t *x = kit_read_file(kit_path("plain.db"), &n), *y = kit_read_file(a.path, &m);
    struct kit_version want = {.bytes = x, .page_size = 4096, .pages = (uint32_t)(n / 4096)};
    CU_ASSERT_TRUE(kit_same(&want, y, m));
    free(x), free(y);
    CU_ASSERT_FALSE(remote().has_lineage);
    CU_ASSERT_EQUAL(session(&a, SET(51)), R2_OK);
    struct r2_remote seen = remote();
    CU_ASSERT_TRUE(seen.has_lineage && seen.v.version == 2);
    IS_AT(&b, 2, 51);
    CU_ASSERT_EQUAL(fork_count(), 0);
    stop();
}

/* Another program takes part with nothing but db-version: our next push carries the lineage on, so
 * that a replica that never saw that program's version just follows. */
static void foreign_writers(void)
{
    start();
    both_at_1();
    struct r2_remote one = remote();
    shell("cp '%s' '%s'", kit_path("bucket/app.db"), kit_path("foreign.db"));
    stock(kit_path("foreign.db"), SET(60));
    put_object(kit_path("foreign.db"), "db-version: 2\n");
    IS_AT(&a, 2, 60);
    CU_ASSERT_EQUAL(session(&a, SET(61)), R2_OK);
    struct r2_remote three = remote();
    CU_ASSERT_EQUAL(three.v.version, 3);
    CU_ASSERT_EQUAL(memcmp(one.v.lineage, three.v.lineage, 16), 0);
    b.config.conflict = R2_ON_CONFLICT_ERROR;
    IS_AT(&b, 3, 61);
    CU_ASSERT_EQUAL(fork_count(), 0);
    /* without a number: nobody knows what it continues */
    stock(kit_path("foreign.db"), SET(62));
    put_object(kit_path("foreign.db"), "");
    CU_ASSERT_EQUAL(open_it(&b), R2_OK);
    CU_ASSERT_TRUE(r2_replica_barred(b.r, &err));
    CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
    CU_ASSERT_EQUAL(value(&b), 61);
    stop();
}

/* A damaged object: nothing local changes, and r2_resolve('local') is the cure that it names. */
static void damaged_object(void)
{
    uint64_t v;
    size_t n;
    start();
    both_at_1();
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    struct r2_remote seen = remote();
    uint8_t *bytes = kit_read_file(kit_path("bucket/app.db"), &n);
    bytes[n - 1] ^= 1;
    kit_write_file(kit_path("damaged.db"), bytes, n);
    put_object(kit_path("damaged.db"), "");
    char meta[R2_META_BYTES], lineage[33];
    r2_lineage_text(seen.v.lineage, lineage);
    snprintf(meta, sizeof meta,
             "db-version: 2\ndb-lineage: %s\ndb-layout: object\ndb-checksum: %016llx\n"
             "db-recent: %s\n",
             lineage, (unsigned long long)seen.v.checksum, seen.v.recent);
    put_object(kit_path("damaged.db"), meta);
    CU_ASSERT_EQUAL(open_it(&b), R2_CORRUPT);
    CU_ASSERT_TRUE(strstr(err.text, "checksum") && strstr(err.text, "version 2"));
    CU_ASSERT_EQUAL(value(&b), 10);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "r2_resolve('local')"));
    CU_ASSERT_EQUAL(resolve_it(&b, "local", &v), R2_OK);
    CU_ASSERT_EQUAL(v, 3);
    r2_replica_detach(b.r);
    IS_AT(&b, 3, 10);
    CU_ASSERT_TRUE(is_fork(bytes, n, 2, true)); /* damaged or not: kept */
    free(bytes);
    stop();
}

/* A conflict that an open cannot settle: whoever is told so is told the way on, too. */
static void damaged_object_in_a_conflict(void)
{
    uint64_t v;
    size_t n;
    char meta[R2_META_BYTES], lineage[33];
    start();
    make_conflict();
    struct r2_remote seen = remote();
    uint8_t *bytes = kit_read_file(kit_path("bucket/app.db"), &n);
    r2_lineage_text(seen.v.lineage, lineage);
    snprintf(meta, sizeof meta,
             "db-version: 2\ndb-lineage: %s\ndb-layout: object\ndb-checksum: %016llx\n"
             "db-recent: %s\n",
             lineage, (unsigned long long)seen.v.checksum, seen.v.recent);
    bytes[n - 1] ^= 1;
    kit_write_file(kit_path("damaged.db"), bytes, n);
    put_object(kit_path("damaged.db"), meta);
    CU_ASSERT_EQUAL(open_it(&b), R2_OK);
    CU_ASSERT_TRUE(r2_replica_barred(b.r, &err));
    CU_ASSERT_TRUE(strstr(err.text, "checksum") && strstr(err.text, "r2_resolve('local')") &&
                   strstr(err.text, "r2_resolve('fork')"));
    bytes[n - 1] ^= 1;
    kit_write_file(kit_path("damaged.db"), bytes, n);
    put_object(kit_path("damaged.db"), meta);
    free(bytes);
    CU_ASSERT_EQUAL(resolve_it(&b, "fork", &v), R2_OK);
    CU_ASSERT_FALSE(r2_replica_barred(b.r, &err));
    CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
    IS_AT(&b, 2, 11);
    CU_ASSERT_EQUAL(fork_value(), 12);
    stop();
}

/* ---- offline, and the rest ---- */

static void offline(void)
{
    start();
    both_at_1();
    script.offline = true;
    CU_ASSERT_EQUAL(open_it(&a), R2_UNREACHABLE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "offline=allow"));
    r2_replica_detach(a.r);
    a.config.offline_allow = true;
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    commit(&a, SET(11));
    CU_ASSERT_EQUAL(close_it(&a, true), R2_UNREACHABLE);
    CU_ASSERT_EQUAL(value(&a), 11);
    unlink(b.path);
    b.config.offline_allow = true;
    CU_ASSERT_EQUAL(open_it(&b), R2_UNREACHABLE); /* no local copy to work with */
    r2_replica_detach(b.r);
    script.offline = false;
    IS_AT(&a, 2, 11);
    IS_AT(&b, 2, 11);
    stop();
}

static void one_remote_for_one_file(void)
{
    struct r2_replica *other = NULL;
    start();
    both_at_1();
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    struct r2_config c = a.config;
    snprintf(c.url, sizeof c.url, "file://%s", kit_path("bucket/other.db"));
    CU_ASSERT_EQUAL(r2_replica_attach(a.path, &c, &other, &err), R2_CONFIG);
    CU_ASSERT_PTR_NULL(other);
    CU_ASSERT_TRUE(strstr(err.text, a.config.url) && strstr(err.text, c.url));
    CU_ASSERT_EQUAL(close_it(&a, false), R2_OK);
    /* bound to another remote later: its state does not count there */
    snprintf(c.key, sizeof c.key, "%s", kit_path("bucket/other.db") + 1);
    struct r2_config was = a.config;
    a.config = c;
    CU_ASSERT_EQUAL(session(&a, NULL), R2_OK); /* a birth there */
    CU_ASSERT_EQUAL(value_in(kit_path("bucket/other.db")), 10);
    a.config = was;
    IS_AT(&a, 1, 10);
    stop();
}

static void status_counts(void)
{
    struct r2_status s;
    uint64_t v;
    start();
    both_at_1();
    CU_ASSERT_FALSE(r2_replica_status(0, &s));
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    CU_ASSERT_TRUE(r2_replica_status(0, &s) && !r2_replica_status(1, &s));
    CU_ASSERT_TRUE(r2_replica_status(0, &s));
    CU_ASSERT_STRING_EQUAL(s.file, a.path);
    CU_ASSERT_STRING_EQUAL(s.remote, a.config.url);
    CU_ASSERT_TRUE(s.version == 1 && s.dirty_pages == 0 && s.pushes == 0);
    commit(&a, SET(11));
    CU_ASSERT_TRUE(r2_replica_status(0, &s) && s.dirty_pages == 1);
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_TRUE(r2_replica_status(0, &s) && s.dirty_pages == 0 && s.pushes == 1 &&
                   s.version == 2);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    stop();
}

UNIT_MAIN("replica", UNIT(birth_push_pull), UNIT(pull_while_open), UNIT(no_request_when_clean),
          UNIT(loose_pages_are_no_change), UNIT(page_size_changes), UNIT(written_by_plain_sqlite),
          UNIT(written_before_a_power_loss), UNIT(plain_sqlite_undoes_a_change),
          UNIT(old_copy_of_the_database), UNIT(old_copy_in_wal_mode),
          UNIT(another_database_put_in_its_place), UNIT(old_copy_of_the_state),
          UNIT(old_copy_of_both), UNIT(deleted_database), UNIT(deleted_state),
          UNIT(deleted_state_while_open), UNIT(state_cut_short),
          UNIT(a_first_transaction_in_progress), UNIT(conflict_forks),
          UNIT(conflict_error_then_resolved), UNIT(local_wins_over_a_moving_remote),
          UNIT(fork_cannot_be_kept), UNIT(fork_is_there_already), UNIT(remote_is_gone),
          UNIT(remote_is_gone_while_open), UNIT(older_object_put_back),
          UNIT(same_number_with_other_bytes), UNIT(another_lineage), UNIT(plain_object_first),
          UNIT(foreign_writers), UNIT(damaged_object), UNIT(damaged_object_in_a_conflict),
          UNIT(offline), UNIT(one_remote_for_one_file), UNIT(status_counts))
