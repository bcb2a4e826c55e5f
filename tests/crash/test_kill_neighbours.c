/* test_kill_neighbours.c - two machines, on each of them two writers in processes of their own, on
 * one database; whoever writes is killed again and again, at any system call and at any time, while
 * the others go on; conflicts are settled as they come. The remote is a directory.
 *
 * Afterwards every row whose COMMIT returned is in the newest version, in a fork, or in a local
 * file; every row that sync() or a COMMIT in sync=commit acknowledged is in the newest version; all
 * of them are whole, and no commit is there by halves.
 *
 * R2VFS_ROUNDS: how many databases; R2VFS_PLAN: all of them like this one of `plans`; R2VFS_SEED:
 * the draws of an earlier run; R2VFS_KEEP=1: what a round that failed leaves behind stays, and what
 * its writers said. */
#include "../unit/unit.h"

#ifndef __GLIBC__
static void needs_glibc(void)
{
    printf("not run: takes glibc's functions over ");
}
UNIT_MAIN("neighbours", UNIT(needs_glibc))
#else

#include <ftw.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <time.h>

#include "../../vfs/r2vfs.h"
#include "faultkit.h"

enum { WRITERS = 4, ROWS = 4000, TURNS = 400, TRIED = 1, COMMITTED = 2, ACKNOWLEDGED = 4 };

/* What a round is: for both machines the journal mode, for the writers their sync=. */
struct plan {
    const char *layout, *journal[2], *sync[WRITERS];
    bool faults; /* a system call of each process fails, too */
};

static const struct plan plans[] = {
    {"object", {"delete", "delete"}, {"close", "50", "close", "50"}, false},
    {"object", {"delete", "delete"}, {"close", "50", "close", "50"}, true},
    {"object", {"wal", "delete"}, {"commit", "commit", "close", "50"}, true},
    {"object", {"delete", "truncate"}, {"close", "commit", "20", "20"}, true},
    {"log", {"delete", "wal"}, {"close", "50", "close", "50"}, false},
};

/* Shared with the writers, and beyond their death. */
struct book {
    _Atomic int tried;
    _Atomic uint8_t row[ROWS];
};
static struct shared {
    _Atomic bool stop;
    _Atomic int wrong;
    struct book book[WRITERS];
} * shared;

static char top[200], remote[240];
static const struct plan *plan;
static int log_fd = -1;
static _Atomic uint64_t draws; /* of this process */

static RAW uint64_t drawn(void)
{
    uint64_t x = atomic_fetch_add(&draws, UINT64_C(0x9e3779b97f4a7c15));
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static int below(int n)
{
    return (int)(drawn() % (uint64_t)n);
}

static void note(const char *fmt, ...)
{
    char line[1200];
    struct timespec now;
    va_list ap;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int n = snprintf(line, sizeof line, "%ld.%06ld %d ", (long)now.tv_sec, now.tv_nsec / 1000,
                     (int)getpid());
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    size_t end = strlen(line);
    line[end] = '\n';
    ssize_t put = log_fd >= 0 ? write(log_fd, line, end + 1) : 0;
    (void)put; /* one of the calls that may fail */
}

static void wrong(const char *fmt, ...)
{
    char text[1000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    note("WRONG %s", text);
    if (atomic_fetch_add(&shared->wrong, 1) < 20) dprintf(1, "\n  %s", text);
}

static void on_log(void *ctx, int code, const char *text)
{
    (void)ctx;
    note("log %d %s", code, text);
}

/* ---- to be killed ---- */

static _Atomic long calls_left;

static RAW void watch(void)
{
    if (atomic_fetch_sub(&calls_left, 1) == 1) kill(getpid(), SIGKILL);
    if (drawn() % 64 == 0) {
        struct timespec nap = {.tv_nsec = (long)(drawn() % 2000000)};
        nanosleep(&nap, NULL);
    }
}

/* ---- SQL ---- */

static int open_db(sqlite3 **db, const char *path, const char *more)
{
    char uri[1000];
    snprintf(uri, sizeof uri, "file:%s?vfs=r2vfs&remote=file://%s&layout=%s&timeout=5000%s", path,
             remote, plan->layout, more);
    int rc = sqlite3_open_v2(uri, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                             NULL);
    if (rc == SQLITE_OK) sqlite3_busy_timeout(*db, 2000);
    return rc;
}

static int run(sqlite3 *db, const char *fmt, ...)
{
    char sql[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sql, sizeof sql, fmt, ap);
    va_end(ap);
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

static int64_t number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s = NULL;
    int64_t v = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        v = sqlite3_column_int64(s, 0);
    return sqlite3_finalize(s) == SQLITE_OK ? v : -1;
}

/* ---- a writer ---- */

struct writer {
    int me;
    char path[240];
    sqlite3 *db;
    int pending[ROWS], count; /* committed, not acknowledged */
};

static void says(int me, int n, uint8_t what)
{
    atomic_fetch_or(&shared->book[me].row[n], what);
}

static int insert(struct writer *w)
{
    struct book *b = &shared->book[w->me];
    int n = atomic_load(&b->tried) + 1;
    bool commit = strcmp(plan->sync[w->me], "commit") == 0;
    if (n >= ROWS) return SQLITE_OK;
    atomic_store(&b->tried, n);
    says(w->me, n, TRIED);
    int rc = run(w->db, "BEGIN IMMEDIATE");
    if (!rc)
        rc = run(w->db,
                 "INSERT INTO t VALUES(%d, %d, hex(zeroblob(%d))); UPDATE total SET c = c + 1",
                 w->me, n, below(8) ? below(200) : 3000);
    if (!rc) rc = run(w->db, "COMMIT");
    if (rc) return rc;
    says(w->me, n, commit ? COMMITTED | ACKNOWLEDGED : COMMITTED);
    note("%d:%d committed", w->me, n);
    if (!commit) w->pending[w->count++] = n;
    return SQLITE_OK;
}

static int push(struct writer *w)
{
    sqlite3_stmt *s = NULL;
    int rc = run(w->db, "SELECT sync()");
    if (rc) return rc;
    rc = sqlite3_prepare_v2(w->db, "SELECT 1 FROM t WHERE w = ? AND n = ?", -1, &s, NULL);
    for (int k = 0; !rc && k < w->count; k++) {
        sqlite3_bind_int(s, 1, w->me);
        sqlite3_bind_int(s, 2, w->pending[k]);
        /* a neighbour may have settled a conflict: then it is in a fork */
        if (sqlite3_step(s) == SQLITE_ROW) says(w->me, w->pending[k], ACKNOWLEDGED);
        rc = sqlite3_reset(s);
    }
    note("%d synced", w->me);
    if (!rc) w->count = 0;
    sqlite3_finalize(s);
    return rc;
}

static int turn(struct writer *w)
{
    char more[60];
    int rc = SQLITE_OK;
    bool at_close = strcmp(plan->sync[w->me], "close") == 0;
    if (!w->db) {
        snprintf(more, sizeof more, "&sync=%s", plan->sync[w->me]);
        rc = open_db(&w->db, w->path, more);
        if (rc) {
            note("%d open: %d", w->me, rc);
            sqlite3_close(w->db);
            w->db = NULL;
            return SQLITE_OK;
        }
        run(w->db, "PRAGMA cache_size=-64");
    }
    for (int k = at_close ? below(3) : 0; !rc && k >= 0; k--)
        rc = insert(w);
    if (!rc && w->count && below(10) < 3) rc = push(w);
    if (!rc && at_close) {
        sqlite3_close(w->db);
        w->db = NULL;
    }
    return rc;
}

/* What a program does after an error. */
static void settle(struct writer *w)
{
    char said[1200];
    sqlite3_stmt *s = NULL;
    snprintf(said, sizeof said, "%s ", sqlite3_errmsg(w->db));
    note("%d error %d %s", w->me, sqlite3_extended_errcode(w->db), said);
    int code = sqlite3_errcode(w->db) & 0xff;
    if ((code == SQLITE_CORRUPT && !fault.hits) || code == SQLITE_NOTADB)
        wrong("writer %d: %s", w->me, said);
    if (!sqlite3_get_autocommit(w->db)) run(w->db, "ROLLBACK");
    if (sqlite3_prepare_v2(w->db, "PRAGMA r2_last_error", -1, &s, NULL) == SQLITE_OK &&
        sqlite3_step(s) == SQLITE_ROW)
        snprintf(said + strlen(said), sizeof said - strlen(said), "%s",
                 (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    /* whatever bars it, the sentence has the cure */
    static int barred;
    barred = code == SQLITE_CANTOPEN ? barred + 1 : 0;
    if (barred == 20) wrong("writer %d cannot go on: %s", w->me, said);
    if (strstr(said, "r2_resolve")) {
        int rc = run(w->db, "SELECT r2_resolve('fork')");
        note("%d resolve: %d %s", w->me, rc, rc ? sqlite3_errmsg(w->db) : "");
    }
}

static void begin_process(uint64_t seed)
{
    atomic_store(&draws, seed);
    sqlite3_config(SQLITE_CONFIG_LOG, on_log, NULL);
    if (sqlite3_r2vfs_init(NULL, NULL, NULL) != SQLITE_OK) abort();
}

static void path_of(int machine, char *to, size_t room)
{
    snprintf(to, room, "%s/m%d/app.db", top, machine);
}

static void writer_process(int me, uint64_t seed)
{
    static const int most[] = {60, 500, 3000, 100000};
    struct writer w = {.me = me};
    begin_process(seed);
    path_of(me / 2, w.path, sizeof w.path);
    atomic_store(&calls_left, 1 + below(most[below(4)]));
    fault_watch = watch;
    if (plan->faults && below(2)) fault_arm(BROKEN, 1 + below(2000), false);
    note("%d begins", me);
    for (int k = 0; k < TURNS && !atomic_load(&shared->stop); k++) {
        if (turn(&w)) settle(&w);
        if (below(4) == 0) sqlite3_sleep(below(8));
    }
    sqlite3_close(w.db);
    _exit(0);
}

/* ---- the judgement ---- */

/* Marks what a database's file has; it must be whole. */
static void collect(const char *path, uint8_t *has)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix") != SQLITE_OK) {
        wrong("%s: %s", path, sqlite3_errmsg(db));
    } else {
        if (number(db, "SELECT integrity_check = 'ok' FROM pragma_integrity_check") != 1)
            wrong("%s: integrity_check", path);
        if (number(db, "SELECT (SELECT count(*) FROM t) = (SELECT c FROM total)") != 1)
            wrong("%s: a mixture of commits", path);
        sqlite3_prepare_v2(db, "SELECT w, n FROM t", -1, &s, NULL);
        while (sqlite3_step(s) == SQLITE_ROW)
            has[sqlite3_column_int(s, 0) * ROWS + sqlite3_column_int(s, 1)] = 1;
        if (sqlite3_finalize(s) != SQLITE_OK) wrong("%s: %s", path, sqlite3_errmsg(db));
    }
    sqlite3_close(db);
}

/* What a person does with a machine that comes back. */
static void bring(int machine)
{
    sqlite3 *db = NULL;
    char path[240];
    path_of(machine, path, sizeof path);
    int rc = open_db(&db, path, "");
    if (!rc) rc = run(db, "SELECT sync()");
    if (rc && strstr(sqlite3_errmsg(db), "r2_resolve")) rc = run(db, "SELECT r2_resolve('fork')");
    if (rc) wrong("machine %d comes back: %d %s", machine, rc, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static void judge_process(uint64_t seed)
{
    static uint8_t newest[WRITERS * ROWS], anywhere[WRITERS * ROWS];
    char path[300], fork_path[600];
    sqlite3 *db = NULL;
    begin_process(seed);
    for (int k = 0; k < 4; k++)
        bring(k % 2);
    path_of(2, path, sizeof path);
    if (open_db(&db, path, "&sync=manual")) wrong("fresh: %s", sqlite3_errmsg(db));
    sqlite3_close(db);
    collect(path, newest);
    memcpy(anywhere, newest, sizeof newest);
    for (int machine = 0; machine < 2; machine++) {
        path_of(machine, path, sizeof path);
        collect(path, anywhere);
    }
    snprintf(path, sizeof path, "%s-forks", remote);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        size_t n = strlen(e->d_name);
        if (n < 3 || strcmp(e->d_name + n - 3, ".db") != 0) continue;
        snprintf(fork_path, sizeof fork_path, "%s/%s", path, e->d_name);
        collect(fork_path, anywhere);
    }
    if (d) closedir(d);
    for (int w = 0; w < WRITERS; w++)
        for (int n = 1; n < ROWS; n++) {
            uint8_t said = atomic_load(&shared->book[w].row[n]);
            if (said & ACKNOWLEDGED && !newest[w * ROWS + n])
                wrong("row %d:%d was acknowledged and is not in the newest version", w, n);
            if (said & COMMITTED && !anywhere[w * ROWS + n])
                wrong("row %d:%d was committed and is nowhere", w, n);
        }
    _exit(0);
}

/* ---- a round ---- */

static int remove_it(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void prepare_process(uint64_t seed)
{
    char path[240];
    sqlite3 *db = NULL;
    begin_process(seed);
    for (int machine = 0; machine < 2; machine++) {
        path_of(machine, path, sizeof path);
        if (open_db(&db, path, "")) wrong("prepare: %s", sqlite3_errmsg(db));
        run(db, "PRAGMA journal_mode=%s", plan->journal[machine]);
        if (machine == 0 && run(db, "CREATE TABLE t(w INTEGER, n INTEGER, pad, PRIMARY KEY(w, n));"
                                    "CREATE TABLE total(c); INSERT INTO total VALUES(0)"))
            wrong("prepare: %s", sqlite3_errmsg(db));
        sqlite3_close(db);
    }
    _exit(0);
}

static pid_t start(void (*fn)(uint64_t))
{
    uint64_t seed = drawn();
    pid_t pid = fork();
    if (pid == 0) fn(seed);
    if (pid < 0) abort();
    return pid;
}

static pid_t start_writer(int me)
{
    uint64_t seed = drawn();
    pid_t pid = fork();
    if (pid == 0) writer_process(me, seed);
    if (pid < 0) abort();
    return pid;
}

static void wait_for(pid_t pid, const char *what)
{
    int status = 0;
    waitpid(pid, &status, 0);
    if (status != 0) wrong("%s ended with status %x", what, (unsigned)status);
}

/* Kill and begin again, `kills` times. Who came to the end of his turns begins anew, too. */
static void load(int kills)
{
    pid_t pid[WRITERS];
    int status;
    for (int k = 0; k < WRITERS; k++)
        pid[k] = start_writer(k);
    while (kills > 0 && !atomic_load(&shared->wrong)) {
        struct timespec nap = {.tv_nsec = 1000000 + below(20000000)};
        nanosleep(&nap, NULL);
        if (below(3) == 0) kill(pid[below(WRITERS)], SIGKILL);
        for (int k = 0; k < WRITERS; k++) {
            if (waitpid(pid[k], &status, WNOHANG) != pid[k]) continue;
            if (status != 0 && status != SIGKILL)
                wrong("writer %d ended with status %x", k, (unsigned)status);
            note("%d was killed", k);
            kills -= status == SIGKILL;
            pid[k] = start_writer(k);
        }
    }
    if (below(2)) atomic_store(&shared->stop, true);
    for (int k = 0; k < WRITERS; k++) {
        if (!atomic_load(&shared->stop)) kill(pid[k], SIGKILL);
        waitpid(pid[k], &status, 0);
        if (status != 0 && status != SIGKILL)
            wrong("writer %d ended with status %x", k, (unsigned)status);
    }
}

static void make_folders(void)
{
    const char *tmp = getenv("TMPDIR");
    char path[300];
    if (!tmp || !*tmp) tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(top, sizeof top, "%.150s/r2neighboursXXXXXX", tmp);
    if (!mkdtemp(top)) abort();
    static const char *const names[] = {"m0", "m1", "m2", "remote"};
    for (size_t k = 0; k < 4; k++) {
        snprintf(path, sizeof path, "%s/%s", top, names[k]);
        if (mkdir(path, 0755) != 0) abort();
    }
    snprintf(remote, sizeof remote, "%s/remote/app.db", top);
    snprintf(path, sizeof path, "%s/said", top);
    log_fd = getenv("R2VFS_KEEP") ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
}

static long total_kills, total_rows, total_acknowledged;

static void one_round(int kills)
{
    make_folders();
    memset(shared, 0, sizeof *shared);
    wait_for(start(prepare_process), "what prepares");
    load(kills);
    wait_for(start(judge_process), "the judgement");
    for (int w = 0; w < WRITERS; w++)
        for (int n = 1; n < ROWS; n++) {
            total_rows += (atomic_load(&shared->book[w].row[n]) & COMMITTED) != 0;
            total_acknowledged += (atomic_load(&shared->book[w].row[n]) & ACKNOWLEDGED) != 0;
        }
    total_kills += kills;
    CU_ASSERT_EQUAL(atomic_load(&shared->wrong), 0);
    if (log_fd >= 0) close(log_fd);
    log_fd = -1;
    if (atomic_load(&shared->wrong) && getenv("R2VFS_KEEP"))
        printf("\n  kept: %s\n", top);
    else
        nftw(top, remove_it, 16, FTW_DEPTH | FTW_PHYS);
}

static void nothing_committed_is_lost(void)
{
    const char *rounds = getenv("R2VFS_ROUNDS"), *seed = getenv("R2VFS_SEED");
    const char *only = getenv("R2VFS_PLAN");
    long most = rounds ? strtol(rounds, NULL, 10) : (long)(sizeof plans / sizeof *plans);
    uint64_t first = seed ? (uint64_t)strtoull(seed, NULL, 10) : (uint64_t)getpid();
    atomic_store(&draws, first);
    printf("\n  seed: R2VFS_SEED=%llu", (unsigned long long)first);
    fflush(stdout);
    setenv("R2VFS_PROGRESS", "0", 1);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) abort();
    for (long k = 0; k < most && !CU_get_number_of_failures(); k++) {
        plan = &plans[only ? strtoul(only, NULL, 10) : (size_t)k % (sizeof plans / sizeof *plans)];
        one_round(25);
    }
    printf("\n  %ld kills, %ld rows committed, %ld acknowledged ", total_kills, total_rows,
           total_acknowledged);
}

UNIT_MAIN("neighbours", UNIT(nothing_committed_is_lost))
#endif
