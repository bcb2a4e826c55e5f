/* test_shim.c - what the shim tells SQLite's turns at one transaction from another transaction by.
 */
#include "unit.h"

#include <pthread.h>
#include <sqlite3.h>

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

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    char *message = NULL;
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

UNIT_MAIN("shim", UNIT(naps))
