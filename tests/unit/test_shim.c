/* test_shim.c - what the shim tells SQLite's turns at one transaction from another transaction by;
 * who comes in between while WAL mode is left.
 */
#include "unit.h"

#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
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
    snprintf(uri, sizeof uri, "file:%s/%s?vfs=r2vfs&sync=manual&remote=file://%s/bucket/%s%s", top,
             local, top, key, more);
    if (sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                        NULL))
        abort();
    run(db, "PRAGMA journal_mode=WAL");
    return db;
}

/* Below r2vfs: SQLite's own VFS, which tells when somebody is about to lock a main database. */
static void (*on_lock)(int level);
static sqlite3_vfs below;
static sqlite3_io_methods watched;
static int (*real_open)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);
static int (*real_lock)(sqlite3_file *, int);

static int watch_lock(sqlite3_file *f, int level)
{
    if (on_lock) on_lock(level);
    return real_lock(f, level);
}

static int watch_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    int rc = real_open(vfs, name, f, flags, out);
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

UNIT_MAIN("shim", UNIT(naps), UNIT(leaving_wal))
