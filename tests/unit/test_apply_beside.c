/* test_apply_beside.c - applying a version beside readers, writers and other processes. */
#include "localkit.h"

enum { ROUNDS = 30, LAST = 1000 }; /* of the test with other processes */
static const char *const modes[] = {"delete", "truncate", "persist", "memory", "off", "wal"};

static void a_wal_reader_keeps_its_snapshot(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("w.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 300, 1024, 0);
    kit_must(db, "PRAGMA journal_mode=WAL; UPDATE t SET pad='q' WHERE id=5");
    for (int i = 0; i < 2; i++) { /* with a read mark; then on a log that was copied whole */
        kit_must(db, "BEGIN");
        int before = kit_which(db);
        struct kit_version v = kit_make(i + 2, 200, 1024, 0), w = kit_make(i + 12, 500, 1024, 0);
        CU_ASSERT_EQUAL(kit_apply(path, &v, 0, &e), R2_OK);
        CU_ASSERT_EQUAL(kit_which(db), before);
        CU_ASSERT_EQUAL(kit_apply(path, &w, 0, &e), R2_OK);
        CU_ASSERT_EQUAL(kit_which(db), before);
        CU_ASSERT_EQUAL(kit_which_file(path), i + 12);
        CU_ASSERT_EQUAL(kit_exec(db, "DELETE FROM t"),
                        SQLITE_BUSY); /* a stale snapshot can't write */
        kit_must(db, "COMMIT");
        CU_ASSERT_EQUAL(kit_which(db), i + 12);
        kit_must(db, "PRAGMA wal_checkpoint(PASSIVE)");
        free(v.bytes), free(w.bytes);
    }
    sqlite3_close(db);
    CU_ASSERT_EQUAL(kit_which_file(path), 13);
    kit_stop();
}

static void locks_of_others_are_respected(void)
{
    struct r2_err e = {0};
    kit_start();
    for (int wal = 0; wal < 2; wal++) {
        const char *path = wal ? kit_path("lw.db") : kit_path("lr.db");
        sqlite3 *db = kit_open(path);
        kit_fill(db, 1, 100, 1024, 0);
        if (wal) kit_must(db, "PRAGMA journal_mode=WAL");
        struct kit_version v = kit_make(2, 300, 1024, 0);
        kit_must(db, "BEGIN IMMEDIATE; UPDATE t SET pad='w'");
        CU_ASSERT_EQUAL(kit_apply(path, &v, 20, &e), R2_BUSY);
        kit_must(db, "COMMIT");
        CU_ASSERT_EQUAL(kit_which(db), 1);
        if (!wal) {
            kit_must(db, "BEGIN; SELECT * FROM t LIMIT 1");
            CU_ASSERT_EQUAL(kit_apply(path, &v, 20, &e), R2_BUSY);
            sqlite3 *third = kit_open(path); /* nothing is left locked: a pending lock would be */
            CU_ASSERT_EQUAL(kit_which(third), 1);
            sqlite3_close(third);
            kit_must(db, "COMMIT");
        }
        /* the other way round: while we hold it, others get BUSY; then they build on the new */
        struct r2_local *l = NULL;
        CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 0, &l, &e), R2_OK);
        CU_ASSERT_EQUAL_FATAL(r2_local_begin_write(l, &e), R2_OK);
        CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET pad='late'"), SQLITE_BUSY);
        CU_ASSERT_EQUAL(kit_int(db, "SELECT count(*) FROM t"), wal ? 100 : -1);
        CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
        CU_ASSERT_EQUAL(kit_apply_on(l, &v, &e), R2_OK);
        CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET pad='late'"), SQLITE_OK);
        CU_ASSERT_EQUAL(kit_which(db), 2);
        CU_ASSERT_EQUAL(kit_int(db, "SELECT count(*) FROM t WHERE pad='late'"), 300);
        /* the session's own view is not a stale cache */
        CU_ASSERT_EQUAL(r2_local_quick_check(l, &e), R2_OK);
        if (!wal) {
            kit_must(db, "PRAGMA locking_mode=EXCLUSIVE; UPDATE t SET pad='x'");
            CU_ASSERT_EQUAL(r2_local_begin_write(l, &e), R2_BUSY);
            CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_BUSY);
        }
        r2_local_close(l);
        sqlite3_close(db);
        free(v.bytes);
    }
    kit_stop();
}

static void wal_in_exclusive_mode_elsewhere(void)
{
    struct r2_err e = {0};
    struct r2_local *l = NULL;
    kit_start();
    const char *path = kit_path("x.db");
    sqlite3 *db = kit_open(path);
    kit_must(db, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 10, &l, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_begin_write(l, &e), R2_BUSY);
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_BUSY);
    sqlite3_close(db);
    CU_ASSERT_EQUAL(r2_local_begin_write(l, &e), R2_OK);
    r2_local_close(l);
    kit_stop();
}

/* A VFS under the session that lets somebody else commit right before the session's write lock. */
static sqlite3_io_methods meddling, *meddled;
static sqlite3 *meddler;
static sqlite3_vfs meddling_vfs;
static int meddlings;

static int meddle(sqlite3_file *f, int first, int n, int flags)
{
    if (first == 0 && flags == (SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE) && meddlings > 0) {
        meddlings--;
        kit_must(meddler, "UPDATE t SET pad=randomblob(150) WHERE id % 3 = 0;"
                          "INSERT INTO log VALUES(1)");
    }
    return meddled->xShmLock(f, first, n, flags);
}

static int meddling_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    sqlite3_vfs *real = vfs->pAppData;
    int rc = real->xOpen(real, name, f, flags, out);
    if (rc != SQLITE_OK || !(flags & SQLITE_OPEN_MAIN_DB)) return rc;
    meddled = (sqlite3_io_methods *)(uintptr_t)f->pMethods;
    meddling = *meddled;
    meddling.xShmLock = meddle;
    f->pMethods = &meddling;
    return rc;
}

static void a_commit_just_before_the_write_lock(void)
{
    struct r2_err e = {0};
    struct r2_local *l = NULL;
    uint32_t ps, pages;
    kit_start();
    const char *path = kit_path("m.db");
    meddler = kit_open(path);
    kit_fill(meddler, 1, 300, 1024, 0);
    kit_must(meddler, "CREATE TABLE log(x); PRAGMA journal_mode=WAL; UPDATE t SET pad='w'");
    meddling_vfs = *sqlite3_vfs_find(NULL);
    meddling_vfs.zName = "meddling", meddling_vfs.pAppData = sqlite3_vfs_find(NULL);
    meddling_vfs.xOpen = meddling_open;
    sqlite3_vfs_register(&meddling_vfs, 0);
    r2_local_set_vfs("meddling");
    CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 0, &l, &e), R2_OK);
    meddlings = 1;
    CU_ASSERT_EQUAL_FATAL(r2_local_begin_write(l, &e), R2_OK);
    CU_ASSERT_EQUAL(meddlings, 0);
    /* the image has that commit ... */
    uint8_t *b = kit_image(l, &ps, &pages);
    b[18] = b[19] = 1;
    kit_write_file(kit_path("image"), b, (size_t)ps * pages);
    sqlite3 *db = kit_open(kit_path("image"));
    CU_ASSERT_EQUAL(kit_which(db), 1);
    CU_ASSERT_EQUAL(kit_int(db, "SELECT count(*) FROM log"), 1);
    /* ... and so does a version made from it, appended after it and not over it */
    kit_must(db, "UPDATE t SET ver=2 WHERE id>0");
    sqlite3_close(db);
    struct kit_version v = {.page_size = ps, .number = 2};
    size_t n;
    free(b);
    v.bytes = kit_read_file(kit_path("image"), &n);
    v.pages = (uint32_t)(n / ps);
    kit_must(meddler,
             "BEGIN; SELECT * FROM t LIMIT 1"); /* reads frames of the commit all the while */
    uint8_t *map = kit_diff(l, &v);
    struct r2_apply a = {.page_size = ps,
                         .pages = v.pages,
                         .write_map = map,
                         .read = kit_version_read,
                         .ctx = &v,
                         .new_schema = true};
    CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
    CU_ASSERT_EQUAL(kit_which(meddler), 1);
    kit_must(meddler, "COMMIT");
    CU_ASSERT_EQUAL(kit_which(meddler), 2);
    CU_ASSERT_EQUAL(kit_int(meddler, "SELECT count(*) FROM log"), 1);
    r2_local_close(l);
    sqlite3_close(meddler);
    CU_ASSERT_TRUE(kit_file_same(&v, path));
    r2_local_set_vfs(NULL);
    sqlite3_vfs_unregister(&meddling_vfs);
    free(map), free(v.bytes);
    kit_stop();
}

/* A stock process: for every byte that it hears it looks three times (and writes in between), while
 * a version is applied, and then tells. */
static void stock_process(const char *path, bool writes, int hear, int tell)
{
    sqlite3 *db = kit_open(path), *other = kit_open(path);
    sqlite3_busy_timeout(db, 600000), sqlite3_busy_timeout(other, 600000);
    kit_must(db, "PRAGMA cache_size=10; PRAGMA wal_autocheckpoint=50; PRAGMA synchronous=OFF");
    kit_must(other, "PRAGMA synchronous=OFF");
    int last = 0, seen = 0;
    char c;
    for (int i = 0; read(hear, &c, 1) == 1; i++) {
        for (int k = 0; k < 3; k++) {
            sqlite3 *on = (i + k) % 3 ? db : other;
            kit_must(on, "BEGIN");
            int v = kit_which(on);
            if (v < last || v <= 0) _exit(3); /* a mixture, damage, or back to an old one */
            if (k == 1 && kit_which(on) != v) _exit(4);
            kit_must(on, "COMMIT");
            seen += v != last;
            last = v;
            if (!writes || k == 2) continue; /* builds on what is there, brings nothing back */
            int rc = kit_exec(on, "UPDATE t SET pad=randomblob(200) WHERE id %% 7 = %d", i % 7);
            if (rc != SQLITE_OK && rc != SQLITE_BUSY) _exit(5);
        }
        if (write(tell, "l", 1) != 1) _exit(6);
    }
    last = kit_which(other);
    sqlite3_close(db), sqlite3_close(other);
    _exit(last != LAST ? 7 : seen < ROUNDS / 2 - 1 ? 8 : 0);
}

/* The version's rows with another number. */
static struct kit_version renumbered(const struct kit_version *v, int number)
{
    struct kit_version y = {.page_size = v->page_size, .number = number};
    char sql[80];
    size_t n;
    kit_write_file(kit_path("n.db"), v->bytes, (size_t)v->pages * v->page_size);
    sqlite3 *db = kit_open(kit_path("n.db"));
    snprintf(sql, sizeof sql, "PRAGMA synchronous=OFF; UPDATE t SET ver=%d", number);
    kit_must(db, sql);
    sqlite3_close(db);
    y.bytes = kit_read_file(kit_path("n.db"), &n);
    y.pages = (uint32_t)(n / y.page_size);
    return y;
}

static void beside_stock_processes(const char *mode)
{
    struct r2_err e = {0};
    struct kit_version v[8];
    const char *path = kit_path("o.db");
    int go[2][2], done[2][2], bad = 0;
    char c;
    pid_t pid[2];
    unlink(path);
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 80, 1024, 0);
    kit_exec(db, "PRAGMA journal_mode=%s", mode);
    sqlite3_close(db);
    for (int i = 0; i < 8; i++)
        v[i] = kit_make(i + 2, 40 + 30 * i, 1024, 0);
    for (int i = 0; i < 2; i++) {
        if (pipe2(go[i], O_CLOEXEC) || pipe2(done[i], O_CLOEXEC)) abort();
        if ((pid[i] = fork()) == 0) {
            for (int k = 0; k <= i; k++)
                close(go[k][1]), close(done[k][0]);
            stock_process(path, i == 1, go[i][0], done[i][1]);
        }
        close(go[i][0]), close(done[i][1]);
    }
    struct r2_local *l = NULL;
    CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 600000, &l, &e), R2_OK);
    for (int i = 0; i < ROUNDS; i++) {
        struct kit_version y = renumbered(&v[i % 8], i == ROUNDS - 1 ? LAST : i + 10);
        bad += write(go[0][1], "g", 1) != 1 || write(go[1][1], "g", 1) != 1;
        if (kit_apply_on(l, &y, &e) != R2_OK) bad++, fprintf(stderr, "%s\n", e.text);
        if (i % 10 == 0) r2_local_tidy_wal(l);
        bad += read(done[0][0], &c, 1) != 1 || read(done[1][0], &c, 1) != 1;
        free(y.bytes);
    }
    CU_ASSERT_EQUAL(bad, 0);
    r2_local_close(l);
    for (int i = 0; i < 2; i++) {
        int how = 0;
        close(go[i][1]);
        waitpid(pid[i], &how, 0);
        close(done[i][0]);
        if (how) fprintf(stderr, "%s, process %d: %x\n", mode, i, (unsigned)how);
        CU_ASSERT_TRUE(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    }
    CU_ASSERT_EQUAL(kit_which_file(path), LAST);
    for (int i = 0; i < 8; i++)
        free(v[i].bytes);
}

static void other_processes_see_old_or_new(void)
{
    signal(SIGPIPE, SIG_IGN);
    kit_start();
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
        beside_stock_processes(modes[m]);
    kit_stop();
}

UNIT_MAIN("apply beside others", UNIT(a_wal_reader_keeps_its_snapshot),
          UNIT(locks_of_others_are_respected), UNIT(wal_in_exclusive_mode_elsewhere),
          UNIT(a_commit_just_before_the_write_lock), UNIT(other_processes_see_old_or_new))
