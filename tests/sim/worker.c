/* worker.c - a process of the simulation: it does to a database through r2vfs what it is told.
 *
 * Every transaction adds one row to `log` and one to a counter of `acct`, so that in every state of
 * the database that anybody may ever see the counters' sum is the number of rows. */
#include "sim.h"

#include <execinfo.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../vfs/r2vfs.h"
#include "../../vfs/replica_int.h"
#include "../../vfs/shim.h"

static sqlite3 *db;
static int to_parent;

static struct worker *w(void)
{
    return &sim->w[me];
}

void die(void)
{
    w()->died = true;
    trace("  process %d dies", me);
    _exit(9);
}

void hand_over(char why)
{
    char go;
    if (me < 0) return;
    if (++w()->turns > 20000) {
        wrong("process %d is stuck: 20,000 turns in one command", me);
        _exit(8);
    }
    if (write(to_parent, &why, 1) != 1 || read(to_parent, &go, 1) != 1) _exit(7);
}

void on_call(const char *what)
{
    (void)what;
    if (me < 0) return;
    w()->calls++;
    sim->now_ns += 1000 + below(30000);
    if (w()->kill_in && --w()->kill_in == 0) die();
    if (chance(sim->p.call)) hand_over('c');
}

/* ---- SQL ---- */

static int run(const char *fmt, ...)
{
    va_list ap;
    char *text = NULL;
    va_start(ap, fmt);
    char *sql = sqlite3_vmprintf(fmt, ap);
    va_end(ap);
    int rc = sqlite3_exec(db, sql, NULL, NULL, &text);
    if (rc == SQLITE_OK && !sqlite3_get_autocommit(db) && sqlite3_strnicmp(sql, "COMMIT", 6) == 0)
        rc = SQLITE_ERROR;
    if (rc != SQLITE_OK)
        snprintf(w()->text, sizeof w()->text, "%.80s: %d %s", sql, sqlite3_extended_errcode(db),
                 text ? text : "?");
    if (rc != SQLITE_OK) rc = sqlite3_extended_errcode(db);
    sqlite3_free(text);
    sqlite3_free(sql);
    return rc;
}

static int number(const char *sql, int64_t *out)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) *out = sqlite3_column_int64(s, 0);
    bool row = rc == SQLITE_ROW;
    rc = sqlite3_finalize(s);
    if (rc == SQLITE_OK && !row) rc = SQLITE_ERROR;
    if (rc != SQLITE_OK) {
        snprintf(w()->text, sizeof w()->text, "%.80s: %d %s", sql, sqlite3_extended_errcode(db),
                 sqlite3_errmsg(db));
        rc = sqlite3_extended_errcode(db);
    }
    return rc;
}

/* Which transactions does the database hold? false: it cannot be read now. */
static bool look_at(struct idset *out)
{
    sqlite3_stmt *s = NULL;
    int64_t n = 0, sum = 0, rows = 0;
    memset(out, 0, sizeof *out);
    if (run("BEGIN")) return false;
    int rc = number("SELECT count(*) FROM sqlite_schema WHERE name='log'", &n);
    if (rc == SQLITE_OK && n) {
        rc = sqlite3_prepare_v2(db, "SELECT id, x FROM log", -1, &s, NULL);
        while (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
            int64_t id = sqlite3_column_int64(s, 0);
            if (id <= 0 || id >= IDS || sqlite3_column_int64(s, 1) != id * 7 + 1)
                wrong("process %d reads a row that nobody wrote: %lld", me, (long long)id);
            else
                idset_add(out, (uint32_t)id);
            rows++;
            rc = SQLITE_OK;
        }
        sqlite3_finalize(s);
        rc = rc == SQLITE_DONE ? SQLITE_OK : rc;
        if (rc == SQLITE_OK) rc = number("SELECT total(n) FROM acct", &sum);
        if (rc == SQLITE_OK && sum != rows)
            wrong("process %d reads %lld rows and counters of %lld", me, (long long)rows,
                  (long long)sum);
    }
    /* SQLite's own: after a disk error in a file's first transaction it may keep the page that was
     * rolled back, when another connection makes one with the same counter */
    bool known = rc == SQLITE_NOTADB && (sim->p.io || sim->p.full);
    if (rc == SQLITE_CORRUPT || (rc == SQLITE_NOTADB && !known))
        wrong("process %d reads a damaged database: %s", me, w()->text);
    run("ROLLBACK");
    return rc == SQLITE_OK;
}

static bool look(struct idset *out)
{
    w()->looking = true;
    bool ok = look_at(out);
    w()->looking = false;
    return ok;
}

static void check_integrity(void)
{
    sqlite3_stmt *s = NULL;
    w()->looking = true;
    if (sqlite3_prepare_v2(db, "PRAGMA integrity_check(1)", -1, &s, NULL) == SQLITE_OK &&
        sqlite3_step(s) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(s, 0), "ok") != 0)
        wrong("process %d: integrity_check says: %s", me, sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    w()->looking = false;
}

/* ---- commands ---- */

static const char *sync_text(const struct machine *m)
{
    return (const char *[]){"close", "commit", "manual", "2000"}[m->sync];
}

/* An earlier version, beside whatever is open. */
static void past(void)
{
    sqlite3 *ours = db;
    char *uri = sqlite3_mprintf(
        "file:%s/app.db?vfs=r2vfs&remote=s3://sim/%s&timeout=4000&retention=%u&version=%lld",
        machine_of(me)->dir, sim_key(), sim->retention_s, (long long)w()->wanted);
    int rc = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
    sqlite3_free(uri);
    sqlite3_extended_result_codes(db, 1);
    if (rc == SQLITE_OK) {
        w()->read = look(&w()->seen);
        check_integrity();
    } else {
        snprintf(w()->text, sizeof w()->text, "open: %d %s", rc, sqlite3_errmsg(db));
    }
    w()->rc = rc;
    sqlite3_close(db);
    db = ours;
}

static int do_open(bool plain)
{
    struct machine *m = machine_of(me);
    char refresh[20] = "open";
    if (m->refresh >= 0) snprintf(refresh, sizeof refresh, "%d", m->refresh);
    char *uri = plain ? sqlite3_mprintf("file:%s/app.db", m->dir)
                      : sqlite3_mprintf("file:%s/app.db?vfs=r2vfs&remote=s3://sim/%s&sync=%s"
                                        "&refresh=%s&layout=%s&conflict=%s&timeout=4000"
                                        "&retention=%u",
                                        m->dir, sim_key(), sync_text(m), refresh,
                                        sim->layout == R2_LAYOUT_LOG ? "log" : "object",
                                        m->error_policy ? "error" : "fork", sim->retention_s);
    int rc = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                             plain ? "unix" : NULL);
    sqlite3_free(uri);
    if (rc != SQLITE_OK) {
        snprintf(w()->text, sizeof w()->text, "open: %d %s", sqlite3_extended_errcode(db),
                 sqlite3_errmsg(db));
        rc = sqlite3_extended_errcode(db);
        sqlite3_close(db);
        db = NULL;
        return rc;
    }
    sqlite3_extended_result_codes(db, 1);
    sqlite3_busy_timeout(db, 400);
    /* NORMAL in the rollback modes may be damaged by a power loss, and says so */
    bool wal = m->journal && strcmp(m->journal, "wal") == 0;
    (void)run("PRAGMA page_size=%u; PRAGMA cache_size=12; PRAGMA synchronous=%s", sim->page_size,
              wal && chance(300) ? "NORMAL" : "FULL");
    w()->text[0] = 0;
    if (m->journal && chance(800)) {
        (void)run("PRAGMA journal_mode=%s", m->journal);
        trace("  journal_mode=%s %s", m->journal, w()->text);
        w()->text[0] = 0;
    }
    w()->open = !plain;
    return SQLITE_OK;
}

static const char CREATE[] = "CREATE TABLE IF NOT EXISTS log(id INTEGER PRIMARY KEY, x, who, pad);"
                             "CREATE TABLE IF NOT EXISTS acct(k INTEGER PRIMARY KEY, n, pad);"
                             "CREATE TABLE IF NOT EXISTS junk(k INTEGER PRIMARY KEY, b)";
static const char CREATE_COUNT[] = "CREATE TABLE IF NOT EXISTS twin(k INTEGER PRIMARY KEY, n);"
                                   "INSERT OR IGNORE INTO twin VALUES(0, 0)";

/* The same in every transaction, and something else. */
static int change(uint32_t id)
{
    uint32_t k = below(12); /* each on a page of its own */
    int rc =
        run("INSERT INTO acct VALUES(%u, 1, zeroblob(350)) ON CONFLICT(k) DO UPDATE SET n=n+1", k);
    if (!rc) rc = run("INSERT INTO log VALUES(%u, %u, %d, '')", id, id * 7 + 1, me);
    if (!rc && chance(300))
        rc = run("INSERT OR REPLACE INTO junk VALUES(%u, randomblob(%u))", below(20), below(3000));
    if (!rc && chance(150)) rc = run("DELETE FROM junk WHERE k%%3=%u", below(3));
    if (!rc && chance(60)) /* larger than the cache */
        rc = run("WITH RECURSIVE c(i) AS (SELECT 100 UNION ALL SELECT i+1 FROM c WHERE i<%u)"
                 "INSERT OR REPLACE INTO junk SELECT i, randomblob(700) FROM c",
                 105 + below(25));
    if (!rc && chance(40)) rc = run("DELETE FROM junk WHERE k>=100");
    if (!rc && chance(60)) rc = run("UPDATE log SET pad=randomblob(%u) WHERE id%%5=0", below(200));
    if (!rc && chance(30)) rc = run("CREATE TABLE IF NOT EXISTS t%u(a, b UNIQUE)", below(4));
    if (!rc && chance(20)) rc = run("DROP TABLE IF EXISTS t%u", below(4));
    return rc;
}

static int create_and_change(void)
{
    int64_t n;
    int rc = SQLITE_OK;
    if (number("SELECT count(*) FROM sqlite_schema WHERE name='log'", &n) || !n) {
        rc = run(CREATE);
        if (!rc && sim->counts) rc = run(CREATE_COUNT);
    }
    return rc ? rc : change(w()->id);
}

static int transaction(bool roll_back)
{
    int rc = run("BEGIN IMMEDIATE");
    if (rc) return rc;
    thread_maybe();
    rc = w()->todo == DO_COUNT ? run("UPDATE twin SET n=n+1") : create_and_change();
    thread_maybe();
    if (!rc && !roll_back) {
        w()->stage = IN_COMMIT;
        rc = run("COMMIT");
        w()->rc = rc;
        w()->stage = AFTER_COMMIT;
    }
    if (!sqlite3_get_autocommit(db)) {
        char text[sizeof w()->text];
        memcpy(text, w()->text, sizeof text);
        (void)run("ROLLBACK");
        memcpy(w()->text, text, sizeof text);
    }
    return rc;
}

static void stock(void)
{
    sqlite3 *ours = db;
    bool open = w()->open;
    int rc = do_open(true);
    if (rc == SQLITE_OK) {
        int64_t n = 0;
        rc = number("SELECT count(*) FROM sqlite_schema WHERE name='log'", &n);
        if (rc == SQLITE_OK && n) rc = transaction(false);
    }
    w()->rc = rc;
    if (db) sqlite3_close(db);
    db = ours;
    w()->open = open;
}

static int call(const char *sql)
{
    w()->read = look(&w()->before);
    int rc = number(sql, &w()->version);
    if (rc == SQLITE_OK && chance(300)) check_integrity();
    return rc;
}

static void tend(struct r2_replica *r, void *ctx)
{
    (void)ctx;
    r2_checkpoint_if_due(r);
}

static void obey(void)
{
    static const char *const sql[TODOS] = {[DO_SYNC] = "SELECT r2_sync()",
                                           [DO_PULL] = "SELECT r2_pull()",
                                           [DO_CHECKPOINT] = "SELECT r2_checkpoint()",
                                           [DO_TO_LOG] = "SELECT r2_checkpoint('log')",
                                           [DO_TO_OBJECT] = "SELECT r2_checkpoint('object')",
                                           [DO_RESOLVE_FORK] = "SELECT r2_resolve('fork')",
                                           [DO_RESOLVE_REMOTE] = "SELECT r2_resolve('remote')",
                                           [DO_RESOLVE_LOCAL] = "SELECT r2_resolve('local')"};
    enum todo todo = w()->todo;
    char restore[60];
    w()->rc = SQLITE_OK;
    switch (todo) {
    case DO_OPEN:
        w()->rc = do_open(false);
        break;
    case DO_CLOSE:
        w()->open = false;
        w()->rc = sqlite3_close(db);
        db = NULL;
        break;
    case DO_COMMIT:
    case DO_COUNT:
    case DO_ROLLBACK:
        w()->rc = transaction(todo == DO_ROLLBACK);
        break;
    case DO_READ:
        w()->read = look(&w()->seen);
        check_integrity();
        break;
    case DO_PAST:
        past();
        break;
    case DO_RESTORE:
        snprintf(restore, sizeof restore, "SELECT r2_restore(%llu)",
                 (unsigned long long)w()->wanted);
        w()->rc = call(restore);
        break;
    case DO_TEND:
        r2_each_replica(tend, NULL);
        break;
    case DO_TIMER:
        thread_due();
        break;
    case DO_VACUUM:
        w()->rc = run("VACUUM");
        break;
    case DO_WAL_CHECKPOINT:
        w()->rc = run("PRAGMA wal_checkpoint(%s)", chance(500) ? "TRUNCATE" : "PASSIVE");
        break;
    case DO_STOCK:
        stock();
        break;
    case DO_EXIT:
        _exit(0); /* without closing: exit(), not a crash, comes to the same */
    default:
        w()->rc = call(sql[todo]);
        if (todo == DO_PULL && w()->rc == SQLITE_OK) w()->read = look(&w()->seen);
    }
}

/* Where it happened, for who plays a seed again with -v. */
static void crashed(int signal_number)
{
    void *at[60];
    backtrace_symbols_fd(at, backtrace(at, 60), 2);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void worker_main(int index, int fd)
{
    char go;
    if (sim->verbose) {
        signal(SIGSEGV, crashed);
        signal(SIGBUS, crashed);
        signal(SIGABRT, crashed);
    }
    me = index;
    to_parent = fd;
    disk_prepare();
    sqlite3_randomness(0, NULL);
    for (;;) {
        if (read(fd, &go, 1) != 1) _exit(0);
        w()->text[0] = 0;
        w()->read = false;
        w()->turns = 0;
        w()->stage = BEFORE_COMMIT;
        obey();
        if (write(fd, "d", 1) != 1) _exit(0);
    }
}
