/* test_shim.c - what the shim tells SQLite's turns at one transaction from another transaction by;
 * who comes in between while WAL mode is left, or while a push reads and sends; a commit that is in
 * a -wal before its index says so, and one that was taken back and surfaces there.
 */
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../vfs/r2vfs.h"

static char top[256];

static void run(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
        abort();
    }
}

static int number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) || sqlite3_step(s) != SQLITE_ROW) abort();
    int n = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return n;
}

/* The local file top/local, in WAL mode, of the remote `key`. */
static sqlite3 *connect_to(const char *local, const char *key, const char *more)
{
    char uri[1024];
    sqlite3 *db = NULL;
    snprintf(uri, sizeof uri, "file:%s/%s?vfs=r2vfs&remote=file://%s/bucket/%s%s%s", top, local,
             top, key, strstr(more, "sync=") ? "" : "&sync=manual", more);
    if (sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                        NULL))
        abort();
    run(db, "PRAGMA journal_mode=WAL");
    return db;
}

/* Below r2vfs: SQLite's own VFS, which tells when somebody is about to lock a main database, or to
 * sync a -wal. */
static void (*on_lock)(int level);
static int (*on_wal_sync)(void); /* returns what the sync shall */
static sqlite3_vfs below;
static sqlite3_io_methods watched, watched_wal;
static int (*real_open)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);
static int (*real_lock)(sqlite3_file *, int);
static int (*real_sync)(sqlite3_file *, int);

static int watch_lock(sqlite3_file *f, int level)
{
    if (on_lock) on_lock(level);
    return real_lock(f, level);
}

static int watch_wal_sync(sqlite3_file *f, int flags)
{
    int rc = on_wal_sync ? on_wal_sync() : SQLITE_OK;
    return rc == SQLITE_OK ? real_sync(f, flags) : rc;
}

static int watch_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    int rc = real_open(vfs, name, f, flags, out);
    if (rc == SQLITE_OK && flags & SQLITE_OPEN_WAL) {
        if (!real_sync) {
            watched_wal = *f->pMethods;
            real_sync = watched_wal.xSync;
            watched_wal.xSync = watch_wal_sync;
        }
        f->pMethods = &watched_wal;
    }
    if (rc != SQLITE_OK || !(flags & SQLITE_OPEN_MAIN_DB)) return rc;
    if (!real_lock) {
        watched = *f->pMethods;
        real_lock = watched.xLock;
        watched.xLock = watch_lock;
    }
    f->pMethods = &watched;
    return rc;
}

static void watch(void)
{
    if (real_open) return;
    below = *sqlite3_vfs_find(NULL);
    real_open = below.xOpen;
    below.xOpen = watch_open;
    below.zName = "below";
    if (sqlite3_vfs_register(&below, 1) != SQLITE_OK) abort();
}

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    char *message = NULL;
    watch();
    snprintf(top, sizeof top, "%s/r2shimXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(top) || sqlite3_r2vfs_init(NULL, &message, NULL) % 256 != SQLITE_OK) abort();
}

static void end(void)
{
    char cmd[300];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", top);
    if (system(cmd) != 0) abort();
}

/* As SQLite naps between its turns. */
static void nap(void)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find("r2vfs");
    vfs->xSleep(vfs, 1);
}

static void *insert(void *writer)
{
    run(writer, "INSERT INTO t VALUES(1)");
    number(writer, "SELECT sync()");
    return NULL;
}

/* In a thread of its own: naps are a thread's. */
static void push(sqlite3 *writer)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, insert, writer) || pthread_join(thread, NULL)) abort();
}

static void naps(void)
{
    begin();
    sqlite3 *writer = connect_to("a.db", "app.db", "");
    run(writer, "CREATE TABLE t(x)");
    push(writer);
    sqlite3 *reader = connect_to("b.db", "app.db", "&refresh=0");
    sqlite3 *other = connect_to("c.db", "other.db", "");
    CU_ASSERT_EQUAL(number(reader, "SELECT count(*) FROM t"), 1);
    push(writer);
    CU_ASSERT_EQUAL(number(reader, "SELECT count(*) FROM t"), 2);
    push(writer);
    nap(); /* the same transaction goes on: its refresh was made */
    CU_ASSERT_EQUAL(number(reader, "SELECT count(*) FROM t"), 2);
    CU_ASSERT_EQUAL(number(reader, "SELECT count(*) FROM t"), 3);
    /* another connection of the thread, which has nothing to refresh, naps: not this one */
    push(writer);
    number(other, "SELECT count(*) FROM sqlite_master");
    nap();
    CU_ASSERT_EQUAL(number(reader, "SELECT count(*) FROM t"), 4);
    sqlite3_close(other);
    sqlite3_close(reader);
    sqlite3_close(writer);
    end();
}

/* SQLite has deleted the log and not written the header yet: a neighbour finds WAL mode, and
 * commits in a log that SQLite will not look at. */
static void come_in_between(int level)
{
    char wal[300];
    snprintf(wal, sizeof wal, "%s/a.db-wal", top);
    if (level != SQLITE_LOCK_RESERVED || access(wal, F_OK) == 0) return;
    on_lock = NULL;
    sqlite3 *neighbour = connect_to("a.db", "app.db", "");
    run(neighbour, "INSERT INTO t VALUES('between')");
    sqlite3_close(neighbour);
    CU_ASSERT_EQUAL(access(wal, F_OK), 0);
}

static void leaving_wal(void)
{
    begin();
    sqlite3 *db = connect_to("a.db", "app.db", "");
    sqlite3_extended_result_codes(db, 1);
    run(db, "CREATE TABLE t(x)");
    run(db, "INSERT INTO t VALUES('before')");
    on_lock = come_in_between;
    CU_ASSERT_EQUAL(sqlite3_exec(db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL),
                    SQLITE_BUSY_RECOVERY);
    CU_ASSERT_PTR_NULL(on_lock);
    CU_ASSERT_EQUAL(number(db, "SELECT count(*) FROM t"), 2);
    run(db, "INSERT INTO t VALUES('after')");
    run(db, "PRAGMA journal_mode=DELETE"); /* nobody comes in between */
    run(db, "INSERT INTO t VALUES('and on')");
    CU_ASSERT_EQUAL(number(db, "SELECT count(*) FROM t"), 4);
    CU_ASSERT_EQUAL(number(db, "SELECT sync()"), 1);
    sqlite3_close(db);
    end();
}

/* What a machine that has nothing gets. */
static void elsewhere_are(int rows)
{
    sqlite3 *other = connect_to("b.db", "app.db", "");
    CU_ASSERT_EQUAL(number(other, "SELECT count(*) FROM t"), rows);
    sqlite3_close(other);
}

/* A stock connection has written its commit to the -wal, and is about to say so in the index. */
static sqlite3 *pushes;
static int pushed;

static int push_in_between(void)
{
    const char *const suffix[] = {"", "-wal"};
    const struct timespec then[2] = {{.tv_sec = 1600000000}, {.tv_sec = 1600000000}};
    char name[300];
    on_wal_sync = NULL;
    for (int k = 0; k < 2; k++) { /* it was a while ago: the times of the files tell */
        snprintf(name, sizeof name, "%s/a.db%s", top, suffix[k]);
        if (utimensat(AT_FDCWD, name, then, 0) != 0) abort();
    }
    pushed = number(pushes, "SELECT sync()");
    return SQLITE_OK;
}

static void written_and_not_said(void)
{
    for (int begun_anew = 0; begun_anew < 2; begun_anew++) {
        begin();
        char name[300];
        sqlite3 *stock = NULL;
        pushes = connect_to("a.db", "app.db", "");
        run(pushes, "CREATE TABLE t(x)");
        CU_ASSERT_EQUAL(number(pushes, "SELECT sync()"), 1);
        run(pushes, "INSERT INTO t VALUES('ours')");
        snprintf(name, sizeof name, "%s/a.db", top);
        if (sqlite3_open_v2(name, &stock, SQLITE_OPEN_READWRITE, "below")) abort();
        run(stock, "PRAGMA synchronous=FULL");
        if (begun_anew) run(stock, "PRAGMA wal_checkpoint(RESTART)");
        on_wal_sync = push_in_between;
        run(stock, "INSERT INTO t VALUES('theirs')");
        CU_ASSERT(!on_wal_sync);
        CU_ASSERT_EQUAL(pushed, 2);
        CU_ASSERT_EQUAL(number(pushes, "SELECT sync()"), 3);
        CU_ASSERT_EQUAL(number(pushes, "SELECT sync()"), 3);
        sqlite3_close(stock);
        sqlite3_close(pushes);
        elsewhere_are(2);
        end();
    }
}

/* A push has read the file, and has not sent it yet: a stock connection commits where the log has
 * room, within one tick of the file system's clock. */
static int commit_in_the_same_tick(void)
{
    sqlite3 *stock = NULL;
    struct stat before, after;
    struct timespec now, as[2] = {{.tv_nsec = UTIME_OMIT}};
    char name[300], wal[310];
    on_wal_sync = NULL;
    snprintf(name, sizeof name, "%s/a.db", top);
    snprintf(wal, sizeof wal, "%s-wal", name);
    if (stat(wal, &before) || sqlite3_open_v2(name, &stock, SQLITE_OPEN_READWRITE, "below"))
        abort();
    run(stock, "PRAGMA synchronous=OFF");
    run(stock, "INSERT INTO t VALUES('theirs')");
    sqlite3_close(stock);
    as[1] = before.st_mtim;
    if (utimensat(AT_FDCWD, wal, as, 0) || stat(wal, &after)) abort();
    CU_ASSERT_EQUAL(after.st_size, before.st_size);
    do /* the upload took its time */
        clock_gettime(CLOCK_REALTIME, &now);
    while ((now.tv_sec - as[1].tv_sec) * 1000 + (now.tv_nsec - as[1].tv_nsec) / 1000000 < 100);
    return SQLITE_OK;
}

static void written_in_the_same_tick(void)
{
    begin();
    pushes = connect_to("a.db", "app.db", "");
    run(pushes, "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(99999))");
    CU_ASSERT_EQUAL(number(pushes, "SELECT sync()"), 1);
    run(pushes, "PRAGMA wal_checkpoint(RESTART)");
    run(pushes, "INSERT INTO t VALUES('ours')");
    on_wal_sync = commit_in_the_same_tick;
    CU_ASSERT_EQUAL(number(pushes, "SELECT sync()"), 2);
    CU_ASSERT(!on_wal_sync);
    CU_ASSERT_EQUAL(number(pushes, "SELECT sync()"), 3);
    sqlite3_close(pushes);
    elsewhere_are(3);
    end();
}

static int fails(void)
{
    return SQLITE_IOERR_FSYNC;
}

/* A COMMIT is in the remote, and its sync here fails: it was taken back. Somebody looks, and takes
 * the version for another's. Then a crash. */
static void commit_and_crash(const char *more)
{
    sqlite3 *db = connect_to("a.db", "app.db", more);
    run(db, "PRAGMA synchronous=FULL");
    run(db, "INSERT INTO t VALUES(2)"); /* the log has begun */
    on_wal_sync = fails;
    if (sqlite3_exec(db, "INSERT INTO t VALUES(3)", NULL, NULL, NULL) == SQLITE_OK) _exit(1);
    on_wal_sync = NULL;
    (void)sqlite3_exec(db, "SELECT sync()", NULL, NULL, NULL);
    _exit(0); /* before it reads, which would bring the newer version */
}

static void surfaces_in_the_remote(void)
{
    const char *const layout[] = {"log", "object"};
    for (int k = 0; k < 4; k++) {
        char more[64], cmd[400];
        int status = -1;
        begin();
        snprintf(more, sizeof more, "&layout=%s", layout[k % 2]);
        sqlite3 *db = connect_to("a.db", "app.db", more);
        run(db, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        CU_ASSERT_EQUAL(number(db, "SELECT sync()"), 1);
        sqlite3_close(db);
        snprintf(more, sizeof more, "&layout=%s&sync=commit", layout[k % 2]);
        pid_t pid = fork();
        if (pid == 0) commit_and_crash(more);
        if (pid < 0 || waitpid(pid, &status, 0) != pid) abort();
        CU_ASSERT_EQUAL(status, 0);
        if (k > 1) { /* others went on from it */
            sqlite3 *other = connect_to("b.db", "app.db", "");
            CU_ASSERT_EQUAL(number(other, "SELECT count(*) FROM t"), 3);
            run(other, "INSERT INTO t VALUES(4)");
            CU_ASSERT_EQUAL(number(other, "SELECT sync()"), 4);
            sqlite3_close(other);
        }
        db = connect_to("a.db", "app.db", "");
        CU_ASSERT_EQUAL(number(db, "SELECT count(*) FROM t"), k > 1 ? 4 : 3);
        run(db, "INSERT INTO t VALUES(5)");
        CU_ASSERT_EQUAL(number(db, "SELECT sync()"), k > 1 ? 5 : 4);
        sqlite3_close(db);
        snprintf(cmd, sizeof cmd, "test ! -e '%s/bucket/app.db-forks'", top);
        if (k != 3) CU_ASSERT_EQUAL(system(cmd), 0); /* an object does not tell what it was */
        end();
    }
}

UNIT_MAIN("shim", UNIT(naps), UNIT(leaving_wal), UNIT(written_and_not_said),
          UNIT(written_in_the_same_tick), UNIT(surfaces_in_the_remote))
