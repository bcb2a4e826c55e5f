/* overhead.c - r2vfs beside plain SQLite, in turn, in one process: reads and inserts, rollback and
 * WAL.
 *
 *   overhead path/to/r2vfs.so FOLDER [rounds [layout [sync]]]
 *   overhead path/to/r2vfs.so FOLDER once LAYOUT unix|r2vfs delete|wal reads|ones|thousands|nothing
 *
 * Each round runs every job once plain and once through r2vfs (order swapped each time) on files of
 * the same content; printed is the median of the ratios pair by pair. sync=close, unless said
 * otherwise: what is measured is the local work, and the upload comes after it. `once` is for a
 * tool that counts instructions: one job, one file, nothing is sent; `nothing` is what the job does
 * not cost. */
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS = 20000, ROUNDS_MAX = 101 };

static const char *so, *folder, *layout = "log", *sync_mode = "close";

static void die(sqlite3 *db, const char *what)
{
    fprintf(stderr, "overhead: %s: %s\n", what, db ? sqlite3_errmsg(db) : "");
    exit(1);
}

static void run(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) die(db, sql);
}

static sqlite3 *connect_to(const char *name, int through, const char *mode)
{
    char uri[1024], pragma[64];
    sqlite3 *db = NULL;
    snprintf(uri, sizeof uri,
             through ? "file:%s/%s?vfs=r2vfs&remote=file://%s/bucket/%s&sync=%s&layout=%s"
                     : "file:%s/%s",
             folder, name, folder, name, sync_mode, layout);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
    if (sqlite3_open_v2(uri, &db, flags, NULL) != SQLITE_OK) die(db, uri);
    snprintf(pragma, sizeof pragma, "PRAGMA journal_mode=%s", mode);
    run(db, pragma);
    /* no fsync: its noise would hide the few microseconds that are looked for */
    run(db, "PRAGMA synchronous=OFF; PRAGMA cache_size=200");
    return db;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fill(sqlite3 *db)
{
    run(db, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, body TEXT); DELETE FROM t");
    char sql[256];
    snprintf(
        sql, sizeof sql,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d) INSERT INTO t "
        "SELECT i, hex(randomblob(50)) FROM n",
        ROWS);
    run(db, sql);
}

/* Point reads over more pages than the cache holds; each its own transaction. */
static void reads(sqlite3 *db)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, "SELECT body FROM t WHERE id=?", -1, &s, NULL)) die(db, "prepare");
    for (int i = 0; i < 20000; i++) {
        sqlite3_bind_int(s, 1, i * 7919 % ROWS + 1);
        if (sqlite3_step(s) != SQLITE_ROW) die(db, "read");
        sqlite3_reset(s);
    }
    sqlite3_finalize(s);
}

static void inserts(sqlite3 *db, int transactions, int rows)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, "INSERT INTO t(body) VALUES(?)", -1, &s, NULL)) die(db, "prepare");
    for (int t = 0; t < transactions; t++) {
        run(db, "BEGIN");
        for (int i = 0; i < rows; i++) {
            sqlite3_bind_text(s, 1, "a body of some fifty characters, as notes often are", -1,
                              SQLITE_STATIC);
            if (sqlite3_step(s) != SQLITE_DONE) die(db, "insert");
            sqlite3_reset(s);
        }
        run(db, "COMMIT");
    }
    sqlite3_finalize(s);
}

static void ones(sqlite3 *db)
{
    inserts(db, 2000, 1);
}

static void thousands(sqlite3 *db)
{
    inserts(db, 20, 1000);
}

static void nothing(sqlite3 *db)
{
    (void)db;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double timed(sqlite3 *db, void (*job)(sqlite3 *))
{
    double start = now();
    job(db);
    return now() - start;
}

static void compare(const char *label, const char *mode, void (*job)(sqlite3 *), int rounds)
{
    double ratio[ROUNDS_MAX], plain_s[ROUNDS_MAX];
    char a[64], b[64];
    snprintf(a, sizeof a, "plain-%s.db", mode);
    snprintf(b, sizeof b, "ours-%s.db", mode);
    sqlite3 *plain = connect_to(a, 0, mode), *ours = connect_to(b, 1, mode);
    fill(plain);
    fill(ours);
    job(plain), job(ours);
    for (int r = 0; r < rounds; r++) {
        double p, o;
        if (r % 2)
            p = timed(plain, job), o = timed(ours, job);
        else
            o = timed(ours, job), p = timed(plain, job);
        ratio[r] = o / p;
        plain_s[r] = p;
    }
    qsort(ratio, (size_t)rounds, sizeof *ratio, by_value);
    qsort(plain_s, (size_t)rounds, sizeof *plain_s, by_value);
    printf("%-28s %-7s plain %7.1f ms   r2vfs/plain %.3f (min %.3f, max %.3f)\n", label, mode,
           plain_s[rounds / 2] * 1e3, ratio[rounds / 2], ratio[0], ratio[rounds - 1]);
    sqlite3_close(plain);
    sqlite3_close(ours);
}

static int once(char **argv)
{
    static const struct {
        const char *name;
        void (*job)(sqlite3 *);
    } jobs[] = {{"reads", reads}, {"ones", ones}, {"thousands", thousands}, {"nothing", nothing}};
    char name[64];
    layout = argv[0];
    sync_mode = "manual";
    snprintf(name, sizeof name, "once-%s-%s.db", argv[1], argv[2]);
    sqlite3 *db = connect_to(name, strcmp(argv[1], "r2vfs") == 0, argv[2]);
    fill(db);
    for (size_t k = 0; k < sizeof jobs / sizeof *jobs; k++)
        if (strcmp(jobs[k].name, argv[3]) == 0) jobs[k].job(db);
    sqlite3_close(db);
    return 0;
}

/* Holes in the heap, as a program that has run for a while has them. In a fresh one it is luck
 * where SQLite's larger blocks come to lie, and so what malloc does for each: 3 % of a small
 * transaction, either way. */
static void use_heap(void)
{
    static void *block[4096];
    uint32_t x = 1;
    for (size_t k = 0; k < sizeof block / sizeof *block; k++) {
        x = x * 1664525 + 1013904223;
        block[k] = malloc(16 + (x >> 8) % 6000);
    }
    for (size_t k = 0; k < sizeof block / sizeof *block; k++) {
        x = x * 1664525 + 1013904223;
        if ((x >> 20) % 10) free(block[k]);
    }
}

int main(int argc, char **argv)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    if (argc < 3) die(NULL, "usage: overhead r2vfs.so FOLDER [rounds [layout [sync]]]");
    so = argv[1], folder = argv[2];
    int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 21;
    if (rounds < 1 || rounds > ROUNDS_MAX) rounds = 21;
    use_heap();
    sqlite3_open(":memory:", &db);
    sqlite3_enable_load_extension(db, 1);
    if (sqlite3_load_extension(db, so, NULL, &message)) die(db, message);
    if (argc == 8 && strcmp(argv[3], "once") == 0) {
        int status = once(argv + 4);
        sqlite3_close(db);
        return status;
    }
    if (argc > 4) layout = argv[4];
    if (argc > 5) sync_mode = argv[5];
    for (int wal = 0; wal < 2; wal++) {
        const char *mode = wal ? "wal" : "delete";
        compare("20,000 point reads", mode, reads, rounds);
        compare("2,000 transactions of 1", mode, ones, rounds);
        compare("20 transactions of 1,000", mode, thousands, rounds);
    }
    sqlite3_close(db);
    return 0;
}
