/* test_replica_between.c - somebody else commits to the local file at any moment of what a replica
 * does: at its n-th system call, for every n. Whatever comes of it, what they committed is in the
 * newest version, in a fork, or still in the local file. */
#include "replicakit.h"

#include "../../vfs/travel.h"

/* ---- the neighbour ---- */

static struct {
    struct r2_os real;
    _Atomic long calls; /* since the beginning */
    long at;            /* before this one; 0: never */
    bool plain;         /* SQLite without r2vfs, which marks nothing */
    bool done;          /* a lock may have kept it out */
} neighbour;

#define ADD(n) "INSERT INTO t VALUES(" #n ", zeroblob(9000))"

static void neighbour_commits(void)
{
    struct r2_err own;
    struct r2_mark mark = {0};
    struct r2_marks marks = {0};
    struct r2_replica *r = neighbour.plain ? NULL : b.r;
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(b.path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
        sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) == SQLITE_OK) {
        if (r && r2_replica_touch(r, &marks, &own) != R2_OK) abort();
        if (r) r2_replica_unseen(r);
        neighbour.done = sqlite3_exec(db, ADD(99) "; COMMIT", NULL, NULL, NULL) == SQLITE_OK;
        mark.counter = counter_of(b.path);
        if (r && neighbour.done) r2_replica_committed(r, &mark);
        if (r) r2_replica_ended(r, &marks);
        r2_marks_free(&marks);
    }
    sqlite3_close(db);
}

static void now(void)
{
    static _Thread_local bool within;
    if (within || atomic_fetch_add(&neighbour.calls, 1) + 1 != neighbour.at) return;
    within = true;
    neighbour_commits();
    within = false;
}

static int n_open(const char *path, int flags, mode_t mode)
{
    return now(), neighbour.real.open(path, flags, mode);
}
static int n_close(int fd)
{
    return now(), neighbour.real.close(fd);
}
static ssize_t n_pread(int fd, void *to, size_t n, off_t at)
{
    return now(), neighbour.real.pread(fd, to, n, at);
}
static ssize_t n_pwrite(int fd, const void *from, size_t n, off_t at)
{
    return now(), neighbour.real.pwrite(fd, from, n, at);
}
static int n_fdatasync(int fd)
{
    return now(), neighbour.real.fdatasync(fd);
}
static int n_unlink(const char *path)
{
    return now(), neighbour.real.unlink(path);
}
static int n_rename(const char *from, const char *to)
{
    return now(), neighbour.real.rename(from, to);
}
static int n_link(const char *from, const char *to)
{
    return now(), neighbour.real.link(from, to);
}

static void neighbour_comes(long at)
{
    atomic_store(&neighbour.calls, 0);
    neighbour.at = at;
    neighbour.done = false;
    neighbour.real = r2_os;
    r2_os.open = n_open, r2_os.close = n_close, r2_os.pread = n_pread, r2_os.pwrite = n_pwrite;
    r2_os.fdatasync = n_fdatasync, r2_os.unlink = n_unlink;
    r2_os.rename = n_rename, r2_os.link = n_link;
}

static void neighbour_goes(void)
{
    r2_os = neighbour.real;
}

/* ---- what is done meanwhile ---- */

static enum r2_layout_kind layout;

static void opened(void)
{
    both_at_1();
    CU_ASSERT_EQUAL(open_it(&b), R2_OK);
}

static void behind(void)
{
    opened();
    CU_ASSERT_EQUAL(session(&a, ADD(11)), R2_OK);
}

static void dirty(void)
{
    opened();
    commit(&b, ADD(12));
}

static void diverged(void)
{
    behind();
    commit(&b, ADD(12));
}

static void closed_behind(void)
{
    both_at_1();
    CU_ASSERT_EQUAL(session(&a, ADD(11)), R2_OK);
}

static void closed_diverged(void)
{
    diverged();
    CU_ASSERT_EQUAL(close_it(&b, true), R2_CONFLICT);
}

static void old_copy(void)
{
    both_at_1();
    shell("cp -p '%s' '%s'", b.path, kit_path("old.db"));
    CU_ASSERT_EQUAL(session(&b, ADD(12)), R2_OK);
    CU_ASSERT_EQUAL(session(&b, ADD(13)), R2_OK);
    shell("cp '%s' '%s'", kit_path("old.db"), b.path);
}

static void old_copy_behind(void)
{
    old_copy();
    CU_ASSERT_EQUAL(session(&a, ADD(11)), R2_OK);
}

static uint64_t v;
static void fork_it(void)
{
    resolve_it(&b, "fork", &v);
}
static void remote_it(void)
{
    resolve_it(&b, "remote", &v);
}
static void local_it(void)
{
    resolve_it(&b, "local", &v);
}
static void pull(void)
{
    pull_it(&b, &v);
}
static void push(void)
{
    sync_it(&b, &v);
}
static void closes(void)
{
    r2_err_clear(&err);
    r2_replica_close(b.r, &b.config, true, &err);
    neighbour_goes(); /* there is nothing left to mark in */
    r2_replica_detach(b.r);
    b.r = NULL;
}
static void opens(void)
{
    if (open_it(&b) == R2_OK) return;
    r2_replica_detach(b.r);
    b.r = NULL;
}
static void restore(void)
{
    r2_err_clear(&err);
    r2_replica_restore(b.r, 1, &v, &err);
}

static void change_layout(void)
{
    r2_err_clear(&err);
    r2_replica_checkpoint(b.r, layout == R2_LAYOUT_LOG ? "object" : "log", &v, &err);
}

/* ---- the judgement ---- */

static bool has(const char *path, int n)
{
    char sql[80];
    sqlite3 *db = kit_open(path);
    snprintf(sql, sizeof sql, "SELECT count(*) FROM t WHERE x = %d", n);
    bool yes = kit_text_is(db, "PRAGMA integrity_check", "ok") && kit_int(db, sql) == 1;
    sqlite3_close(db);
    return yes;
}

static bool in_a_fork(int n)
{
    char path[700];
    bool yes = false;
    DIR *d = opendir(kit_path("bucket/app.db-forks"));
    for (struct dirent *e; d && !yes && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%.200s", kit_path("bucket/app.db-forks"), e->d_name);
        yes = has(path, n);
    }
    if (d) closedir(d);
    return yes;
}

/* Everybody closes, comes back, and follows. */
static void all_come_back(void)
{
    if (b.r) close_it(&b, true);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
    CU_ASSERT_EQUAL(session(&a, NULL), R2_OK);
    CU_ASSERT_EQUAL(session(&b, NULL), R2_OK);
}

static void at_call(long at, void (*before)(void), void (*act)(void), const char *name)
{
    shell("rm -rf '%s'/*", kit_dir);
    set_up();
    a.config.layout = b.config.layout = layout;
    before();
    neighbour_comes(at);
    act();
    neighbour_goes();
    all_come_back();
    if (neighbour.done && !has(a.path, 99) && !has(b.path, 99) && !in_a_fork(99)) {
        printf("\n  %s, %s, %s: what was committed before call %ld is nowhere", name,
               r2_layout_name(layout), neighbour.plain ? "plain" : "r2vfs", at);
        CU_FAIL("see above");
    }
    tear_down();
}

/* At every call, or at one in `step`, unless R2VFS_POINTS=0. */
static void at_calls(const char *name, void (*before)(void), void (*act)(void), long step)
{
    const char *points = getenv("R2VFS_POINTS");
    if (points && strcmp(points, "0") == 0) step = 1;
    kit_start();
    for (int k = 0; k < 4; k++) {
        long commits = 0, calls = 1;
        neighbour.plain = k % 2;
        layout = k / 2 ? R2_LAYOUT_LOG : R2_LAYOUT_OBJECT;
        for (long at = 1; at <= calls; at += 1 + random() % (2 * step - 1)) {
            at_call(at, before, act, name);
            calls = atomic_load(&neighbour.calls);
            commits += neighbour.done;
        }
        CU_ASSERT_TRUE(commits > 0);
    }
    kit_stop();
}

static void while_a_conflict_is_settled(void)
{
    at_calls("fork, behind", behind, fork_it, 1);
    at_calls("remote, behind", behind, remote_it, 1);
    at_calls("fork, dirty", dirty, fork_it, 8);
    at_calls("fork, diverged", diverged, fork_it, 8);
    at_calls("local, diverged", diverged, local_it, 8);
}

static void while_it_is_opened(void)
{
    at_calls("open, behind", closed_behind, opens, 8);
    at_calls("open, diverged", closed_diverged, opens, 8);
    at_calls("open, an old copy", old_copy, opens, 8);
    at_calls("open, an old copy, behind", old_copy_behind, opens, 8);
}

static void while_it_follows(void)
{
    at_calls("pull", behind, pull, 8);
    at_calls("push", dirty, push, 8);
    at_calls("push, diverged", diverged, push, 8);
    at_calls("close", dirty, closes, 8);
    at_calls("restore", behind, restore, 8);
    at_calls("change the layout", opened, change_layout, 8);
}

UNIT_MAIN("replica_between", UNIT(while_a_conflict_is_settled), UNIT(while_it_is_opened),
          UNIT(while_it_follows))
