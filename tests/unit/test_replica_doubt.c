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

static struct r2_os real;

/* Once a segment is in the bucket no record can be written. */
static ssize_t no_record(int fd, const void *from, size_t n, off_t at)
{
    errno = EIO;
    return script.others && n == R2_STATE_SLOT ? -1 : real.pwrite(fd, from, n, at);
}

static void push_without_a_record(void)
{
    uint64_t version = 0;
    if (open_it(&a) != R2_OK) _exit(1);
    commit(&a, SET(12));
    script.others = 0;
    real = r2_os;
    r2_os.pwrite = no_record;
    _exit(r2_replica_sync(a.r, &version, &err) == R2_OK && version == 3 ? 9 : 2);
}

/* A log with x = 10 as version 1. */
static void start_log(void)
{
    start();
    a.config.layout = b.config.layout = R2_LAYOUT_LOG;
    CU_ASSERT_EQUAL(session(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, 1)"), R2_OK);
}

/* Landed, and the disk refuses the record that says so: the one before still holds, with the page
 * checksums that it names. */
static void landed_and_not_recorded(void)
{
    int status = 0;
    bool anew;
    struct r2_state *s;
    struct r2_record k;
    start_log();
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) push_without_a_record();
    if (pid < 0 || waitpid(pid, &status, 0) != pid) abort();
    CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    if (r2_state_open(a.path, &s, &err) || r2_state_lock(s, 1000, &anew, &err)) abort();
    CU_ASSERT_EQUAL(r2_state_load(s, a.config.url, &k, &err), R2_OK);
    CU_ASSERT_TRUE(k.base.version == 2 && k.pending.v.version == 3);
    r2_state_unlock(s);
    r2_state_close(s);
    CU_ASSERT_EQUAL(session(&a, SET(13)), R2_OK);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    CU_ASSERT_TRUE(value(&a) == 13 && value(&b) == 13);
    CU_ASSERT_EQUAL(fork_count(), 0);
    stop();
}

/* a has x = 12 committed on top of 11, version 2, and its push got no answer, nor landed yet. */
static void in_doubt_in_a_log(void)
{
    uint64_t v;
    start_log();
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    commit(&a, SET(12));
    script.fork = LOST;
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNKNOWN);
}

static void it_lands_and_nobody_answers(void)
{
    a.r->store->skew_ms = 0;
    if (deliver() != R2_OK) abort();
    script.blind = true;
}

static void the_machine_sleeps(void)
{
    a.r->store->skew_ms = 40 * 60 * 1000;
    script.before_get = it_lands_and_nobody_answers;
}

/* In doubt, and it lands between two looks of the next push, of which the second gets no answer:
 * what fails before a push was begun leaves the doubt as it was. */
static void landed_between_two_looks(void)
{
    for (int more = 0; more < 2; more++) {
        uint64_t version = 0;
        in_doubt_in_a_log();
        if (more) commit(&a, SET(13));
        script.before_get = the_machine_sleeps;
        CU_ASSERT_EQUAL(r2_replica_sync(a.r, &version, &err), R2_UNREACHABLE);
        CU_ASSERT_TRUE(!script.late.there && !script.blind);
        CU_ASSERT_EQUAL(r2_replica_sync(a.r, &version, &err), R2_OK);
        CU_ASSERT_EQUAL(version, more ? 4 : 3);
        CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
        CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
        CU_ASSERT_EQUAL(value(&b), more ? 13 : 12);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
}

static struct r2_record record_of(struct machine *m, const struct r2_record *put)
{
    struct r2_state *s;
    struct r2_record k;
    bool anew;
    if (r2_state_open(m->path, &s, &err) || r2_state_lock(s, 1000, &anew, &err) ||
        r2_state_load(s, m->config.url, &k, &err))
        abort();
    uint64_t sequence = k.sequence;
    if (put) k = *put;
    k.sequence = sequence;
    if (put && r2_state_save(s, &k, &err)) abort();
    r2_state_unlock(s);
    r2_state_close(s);
    return k;
}

static long reads, fail_read;

static ssize_t failing_read(int fd, void *to, size_t n, off_t at)
{
    errno = EIO;
    return ++reads == fail_read ? -1 : real.pread(fd, to, n, at);
}

/* A pull is in the file, and not recorded; then one read fails, each in turn: an error at worst. */
static void pulled_and_a_read_fails(void)
{
    start();
    both_at_1();
    struct r2_record before = record_of(&b, NULL), cut = before;
    CU_ASSERT_EQUAL(session(&a, SET(11)), R2_OK);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    struct r2_record after = record_of(&b, NULL);
    CU_ASSERT_TRUE(after.base.version == 2 && after.area == (before.area ^ 1));
    CU_ASSERT_EQUAL(session(&a, SET(12)), R2_OK);
    cut.pending.kind = R2_PENDING_PULL;
    cut.pending.v = after.base;
    cut.pending.layout = after.layout;
    enum r2_code rc = R2_IO;
    record_of(&b, &cut);
    shell("cp -r '%s' '%s'", kit_path("b"), kit_path("cut"));
    for (fail_read = 1; fail_read == 1 || reads >= fail_read - 1; fail_read++) {
        shell("cp '%s'/* '%s'", kit_path("cut"), kit_path("b"));
        real = r2_os;
        r2_os.pread = failing_read;
        reads = 0;
        rc = session(&b, NULL);
        r2_os = real;
        CU_ASSERT_EQUAL(fork_count(), 0);
    }
    CU_ASSERT_EQUAL(rc, R2_OK);
    CU_ASSERT_TRUE(fail_read > 5);
    IS_AT(&b, 3, 12);
    stop();
}

/* A COMMIT landed, and what became of it here was not written down: whichever read of the files
 * fails then, it stays ours. */
static void landed_and_a_read_fails(void)
{
    for (fail_read = 1; fail_read == 1 || reads >= fail_read - 1; fail_read++) {
        uint64_t v;
        start_log();
        CU_ASSERT_EQUAL(open_it(&a), R2_OK);
        commit(&a, SET(11));
        script.fork = LANDED_BLIND;
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_UNKNOWN);
        struct r2_record k = record_of(&a, NULL);
        k.pending.exact = true;
        record_of(&a, &k);
        real = r2_os;
        r2_os.pread = failing_read;
        reads = 0;
        (void)sync_it(&a, &v);
        r2_os = real;
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
        CU_ASSERT_EQUAL(v, 2);
        CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
        CU_ASSERT_EQUAL(session(&b, SET(12)), R2_OK);
        CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
        CU_ASSERT_EQUAL(value(&a), 12);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
    CU_ASSERT_TRUE(fail_read > 5);
}

static ssize_t no_record_once(int fd, const void *from, size_t n, off_t at)
{
    if (n != R2_STATE_SLOT) return real.pwrite(fd, from, n, at);
    r2_os.pwrite = real.pwrite;
    errno = EIO;
    return -1;
}

/* What was sent was taken back here, as a COMMIT's is. A later try, of what the file holds, got no
 * further than its page checksums: they are not those of the one that may still land. */
static void taken_back_and_tried_again(void)
{
    uint64_t version = 0;
    in_doubt_in_a_log();
    commit(&a, SET(11));
    r2_replica_detach(a.r);
    struct r2_record k = record_of(&a, NULL);
    CU_ASSERT_TRUE(k.pending.kind == R2_PENDING_PUSH && k.pending.tries == 1);
    k.pending.try[0].gone = true;
    record_of(&a, &k);
    a.config.sync = R2_SYNC_MANUAL; /* the open shall not push */
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    real = r2_os;
    r2_os.pwrite = no_record_once;
    CU_ASSERT_NOT_EQUAL(r2_replica_sync(a.r, &version, &err), R2_OK);
    CU_ASSERT_PTR_EQUAL(r2_os.pwrite, real.pwrite);
    r2_replica_detach(a.r);
    CU_ASSERT_EQUAL(deliver(), R2_OK);
    CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
    CU_ASSERT_EQUAL(value(&a), 12);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    CU_ASSERT_EQUAL(value(&b), 12);
    stop();
}

/* The first of two puts of KEY that nobody heard of lands. */
static void first_lands(char *bytes, size_t n, const struct r2_meta *meta)
{
    kit_write_file(kit_path("first"), bytes, n);
    put_object(kit_path("first"), meta->text);
    free(bytes);
}

/* The same content is tried in another layout (`birth`: version 1; or a change of layout and then
 * sync()): whichever of the two lands, its layout is the one that is gone on in. */
static void tried_in_two_layouts(void)
{
    for (int birth = 0; birth < 2; birth++) {
        uint64_t v;
        start();
        if (!birth) both_at_1();
        CU_ASSERT_EQUAL(open_it(&a), R2_OK);
        if (birth) commit(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, 1)");
        script.put = LOST;
        enum r2_code rc = birth ? sync_it(&a, &v) : r2_replica_checkpoint(a.r, "log", &v, &err);
        CU_ASSERT_EQUAL(rc, R2_UNKNOWN);
        char *bytes = script.late.bytes;
        script.late.bytes = NULL;
        size_t n = script.late.n;
        struct r2_meta meta = script.late.meta;
        r2_replica_detach(a.r);
        if (birth) a.config.layout = b.config.layout = R2_LAYOUT_LOG;
        script.put = LOST;
        CU_ASSERT_EQUAL(open_it(&a), R2_OK); /* and tries again */
        CU_ASSERT_EQUAL(script.put, SERVE);
        first_lands(bytes, n, &meta);
        CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
        CU_ASSERT_EQUAL(v, birth ? 1 : 2);
        CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
        CU_ASSERT_EQUAL(record_of(&a, NULL).layout, remote().layout);
        CU_ASSERT_EQUAL(session(&b, SET(11)), R2_OK);
        CU_ASSERT_EQUAL(session(&a, SET(12)), R2_OK);
        CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
        CU_ASSERT_TRUE(value(&a) == 12 && value(&b) == 12);
        CU_ASSERT_EQUAL(fork_count(), 0);
        stop();
    }
}

UNIT_MAIN("replica_doubt", UNIT(killed_before_the_put), UNIT(killed_after_the_put),
          UNIT(killed_after_the_put_and_hidden), UNIT(killed_before_the_put_and_overtaken),
          UNIT(written_over_a_landed_intent), UNIT(old_copy_over_a_landed_intent),
          UNIT(retried_with_the_same_bytes), UNIT(landed_unseen), UNIT(settled_by_the_next_process),
          UNIT(still_offline), UNIT(an_earlier_content_landed), UNIT(an_earlier_try_landed),
          UNIT(a_later_content_lands_instead), UNIT(back_at_the_base_content),
          UNIT(somebody_else_took_the_number), UNIT(ours_and_then_somebody_elses),
          UNIT(moved_on_between_look_and_fetch), UNIT(too_many_tries), UNIT(births_in_doubt),
          UNIT(certainly_not_sent), UNIT(landed_and_not_recorded), UNIT(landed_between_two_looks),
          UNIT(pulled_and_a_read_fails), UNIT(landed_and_a_read_fails),
          UNIT(taken_back_and_tried_again), UNIT(tried_in_two_layouts))
