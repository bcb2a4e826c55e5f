/* faultworld.h - a remote, two machines that know it and one that doesn't; an operation done there
 * while something fails, and the judgement afterwards. For test_faults_one_by_one.c. */
#ifndef FAULTWORLD_H
#define FAULTWORLD_H

#include <ftw.h>
#include <limits.h>
#include <openssl/err.h>
#include <signal.h>

#include "../../vfs/r2vfs.h"

#define BIT(n) (UINT64_C(1) << (n))
#define W_PAD  "replace(hex(zeroblob(700)), '00', printf('%04d', n))"
#define W_CREATE                                                                                   \
    "BEGIN; CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, pad);"                             \
    "CREATE TABLE IF NOT EXISTS total(c); COMMIT"

enum {
    IS_FIRST = 1,  /* the local file need not be there */
    IS_COMMIT = 2, /* rows appear with it */
    IS_PUSH = 4,   /* it may be left in doubt */
    IS_CLOSE = 8,  /* no connection afterwards */
    IS_LATER = 32, /* a file that may not be written is opened as it is: the next open does it */
    IS_IN_LOG = 16 /* only that layout has it */
};

struct world {
    const char *mode, *layout;
    sqlite3 *db; /* of machine a: the one that meets the fault */
    char top[200], a[240], b[240], c[240], remote[240];
    char said[600]; /* the sentence of the last failure */
    bool in_log;    /* SQLite's log has one of ours */
};

struct operation {
    const char *name;
    void (*before)(struct world *w);
    int (*act)(struct world *w); /* an extended code; the sentence is in w->said */
    uint64_t old, new;           /* rows before and after */
    unsigned forks[2];           /* afterwards; in the object layout, in the log layout */
    int what;
};

static struct world world;
static const struct operation *now; /* for a crash's last words */
static long tried, passed, refused;

/* As R2VFS_FAULT_ONLY names it. */
static void w_name(char *to, size_t room)
{
    static const char *const kinds[] = {"no memory", "EIO", "disk full", "EACCES", "short"};
    snprintf(to, room, "%s, %s, %s, %s %s", now ? now->name : "?", world.layout, world.mode,
             kinds[fault.kind], fault.onward ? "onward" : "once");
}

static int told;

static void w_blame(int line, const char *what)
{
    char name[300];
    const char *first = fault.first;
    w_name(name, sizeof name);
    if (told++ >= 60) return;
    printf("\n  line %d: %s, call %ld (%s): %s: %s", line, name, fault.nth, first ? first : "none",
           what, world.said);
    fflush(stdout);
    CU_FAIL("see above");
}
#define MUST(yes)                                                                                  \
    do {                                                                                           \
        if (!(yes)) w_blame(__LINE__, #yes);                                                       \
    } while (0)

/* ---- SQL ---- */

static int w_exec(struct world *w, sqlite3 *db, const char *fmt, ...)
{
    char sql[1000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sql, sizeof sql, fmt, ap);
    va_end(ap);
    w->said[0] = 0;
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    if (rc == SQLITE_OK) return rc;
    rc = sqlite3_extended_errcode(db);
    snprintf(w->said, sizeof w->said, "%d: %s", rc, sqlite3_errmsg(db));
    if (!sqlite3_get_autocommit(db)) sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

static int w_open(struct world *w, sqlite3 **db, const char *path, const char *more)
{
    char uri[1000];
    snprintf(uri, sizeof uri, "file:%s?vfs=r2vfs&remote=file://%s&layout=%s%s", path, w->remote,
             w->layout, more);
    w->said[0] = 0;
    int rc = sqlite3_open_v2(uri, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                             NULL);
    if (rc == SQLITE_OK) return rc;
    rc = *db ? sqlite3_extended_errcode(*db) : SQLITE_NOMEM;
    snprintf(w->said, sizeof w->said, "%d: open: %s", rc, *db ? sqlite3_errmsg(*db) : "no handle");
    return rc;
}

/* What is not under test. */
static void w_must(int rc)
{
    if (rc != SQLITE_OK) w_blame(__LINE__, "what prepares or follows the fault goes through");
}

static void w_must_open(struct world *w, sqlite3 **db, const char *path, const char *more)
{
    int rc = w_open(w, db, path, more);
    w_must(rc);
}

static int w_insert(struct world *w, sqlite3 *db, int n)
{
    return w_exec(w, db,
                  "BEGIN IMMEDIATE; DELETE FROM t WHERE n=%d;"
                  "INSERT INTO t SELECT n, %s FROM (SELECT %d AS n);"
                  "DELETE FROM total; INSERT INTO total SELECT count(*) FROM t; COMMIT",
                  n, W_PAD, n);
}

static int64_t w_int(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s = NULL;
    int64_t v = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        v = sqlite3_column_int64(s, 0);
    return sqlite3_finalize(s) == SQLITE_OK ? v : -1;
}

/* The rows, as bits; all ones when no sequence of commits leads to this. */
static uint64_t w_rows(sqlite3 *db)
{
    if (w_int(db, "SELECT count(*) FROM sqlite_schema") == 0) return 0;
    int64_t damaged = w_int(db, "SELECT integrity_check <> 'ok' FROM pragma_integrity_check");
    int64_t wrong = w_int(db, "SELECT count(*) FROM t WHERE pad <> " W_PAD);
    int64_t right =
        w_int(db, "SELECT (SELECT count(*) FROM t) = coalesce((SELECT c FROM total), 0)");
    int64_t set = w_int(db, "SELECT coalesce(sum(1 << n), 0) FROM t");
    return damaged == 0 && wrong == 0 && right == 1 && set >= 0 ? (uint64_t)set : UINT64_MAX;
}

/* ---- folders ---- */

static int w_remove(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type;
    return at->level == 0 ? 0 : remove(path);
}

static int w_count_one(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && (e = readdir(d)) != NULL)
        n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static void w_copy(const char *from, const char *to)
{
    char bytes[65536];
    int in = open(from, O_RDONLY), out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    for (ssize_t n; in >= 0 && (n = read(in, bytes, sizeof bytes)) > 0;)
        if (write(out, bytes, (size_t)n) != n) abort();
    if (in >= 0) close(in), close(out);
}

static void w_reset(struct world *w)
{
    char path[300];
    if (nftw(w->top, w_remove, 16, FTW_DEPTH | FTW_PHYS) != 0) abort();
    for (const char *name = "abcr"; *name; name++) {
        snprintf(path, sizeof path, "%s/%c", w->top, *name);
        if (mkdir(path, 0755) != 0) abort();
    }
}

static void w_forget(const char *path)
{
    char name[300];
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal", "-r2"};
    for (size_t k = 0; k < 5; k++) {
        snprintf(name, sizeof name, "%s%s", path, suffixes[k]);
        unlink(name);
    }
}

/* Version 1, made by machine a; machine b has it, too. */
static void w_born(struct world *w)
{
    sqlite3 *db;
    w_must_open(w, &db, w->a, "&sync=manual");
    w_must(w_exec(w, db, "PRAGMA journal_mode=%s", w->mode));
    w_must(w_exec(w, db, "%s", W_CREATE));
    for (int n = 1; n <= 3; n++)
        w_must(w_insert(w, db, n));
    w_must(w_exec(w, db, "SELECT sync()"));
    sqlite3_close(db);
    w_must_open(w, &db, w->b, "&sync=manual");
    sqlite3_close(db);
}

/* ---- the judgement ---- */

/* Nobody holds the locks of operations and of checkpoints (see state.c). */
static void w_locks(struct world *w)
{
    char path[300];
    snprintf(path, sizeof path, "%s-r2", w->a);
    int fd = open(path, O_RDWR);
    for (off_t byte = 0x40000000; fd >= 0 && byte <= 0x40000002; byte += 2) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
        MUST(fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK);
    }
    if (fd >= 0) close(fd);
}

/* app.db and app.db-r2, and nothing that was on the way (but what could not be deleted). */
static void w_only_ours(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    bool kept = fault.kind == BROKEN || fault.kind == DENIED;
    while (d && (e = readdir(d)) != NULL)
        if (e->d_name[0] != '.' && strcmp(e->d_name, "app.db") && strcmp(e->d_name, "app.db-r2") &&
            !(kept && strncmp(e->d_name, "app.db-r2-", 10) == 0)) {
            snprintf(world.said, sizeof world.said, "%.200s", e->d_name);
            w_blame(__LINE__, "nothing is left in the folder");
        }
    if (d) closedir(d);
}

/* What a stock SQLite finds: beside the open connection, or in a copy. */
static uint64_t w_stock(struct world *w)
{
    sqlite3 *db = NULL;
    char from[300], to[300];
    static const char *const suffixes[] = {"", "-wal", "-journal"};
    snprintf(to, sizeof to, "%s/c/copy.db", w->top);
    for (size_t k = 0; !w->db && k < 3; k++) {
        snprintf(from, sizeof from, "%s%s", w->a, suffixes[k]);
        snprintf(to, sizeof to, "%s/c/copy.db%s", w->top, suffixes[k]);
        unlink(to);
        w_copy(from, to);
    }
    snprintf(to, sizeof to, "%s/c/copy.db", w->top);
    if (sqlite3_open_v2(w->db ? w->a : to, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                        "unix") != SQLITE_OK)
        abort();
    w_must(w_exec(w, db, "BEGIN IMMEDIATE"));
    uint64_t rows = w_rows(db);
    w_must(w_exec(w, db, "ROLLBACK"));
    sqlite3_close(db);
    w_forget(to);
    return rows;
}

static bool w_code_is_honest(const struct operation *o, int rc)
{
    switch (rc & 0xff) {
    case SQLITE_NOMEM:
        return fault.kind == MEMORY;
    case SQLITE_FULL:
        return fault.kind == FULL;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_ERROR:
        return true;
    case SQLITE_AUTH: /* the remote's folder */
        return fault.kind == DENIED;
    case SQLITE_CORRUPT: /* SQLite says so of a read that gave EIO, and of nothing else here */
        return fault.kind == BROKEN && (fault.onward || strncmp(fault.first, "pread", 5) == 0);
    case SQLITE_PROTOCOL: /* and so of a log whose locks cannot be had */
        return fault.kind == BROKEN && fault.onward;
    case SQLITE_BUSY: /* a lock could not be had; a conflict only where a push is in doubt */
        return rc != SQLITE_BUSY_SNAPSHOT || o->what & IS_PUSH;
    }
    return false;
}

/* The same again, as a program does it that is told to. */
static int w_again(const struct operation *o, struct world *w)
{
    int rc = SQLITE_OK;
    for (int turn = 0; turn < 4; turn++) {
        rc = o->act(w);
        if (rc && strstr(w->said, "call sync() first"))
            w_must(w_exec(w, w->db, "SELECT sync()"));
        else if (rc != SQLITE_BUSY_SNAPSHOT && rc != SQLITE_IOERR_COMMIT_ATOMIC)
            break;
    }
    return rc;
}

/* The next open, another commit, and a machine that has nothing. */
static void w_afterwards(const struct operation *o, struct world *w)
{
    sqlite3 *db;
    char path[300];
    w_must_open(w, &db, w->a, "");
    MUST(w_rows(db) == o->new);
    w_must(w_exec(w, db, "SELECT sync()"));
    w_must(w_insert(w, db, 40));
    w_must(w_exec(w, db, "SELECT sync()"));
    sqlite3_close(db);
    w_must_open(w, &db, w->c, "");
    MUST(w_rows(db) == (o->new | BIT(40)));
    sqlite3_close(db);
    snprintf(path, sizeof path, "%s-forks", w->remote);
    MUST((unsigned)w_count_one(path) == o->forks[strcmp(w->layout, "log") == 0]);
    snprintf(path, sizeof path, "%s/a", w->top);
    w_only_ours(path);
}

/* What the local file may hold. */
static bool w_allowed(const struct operation *o, uint64_t rows, bool failed)
{
    /* a lock that cannot be had is held by somebody else, who is not to be disturbed */
    bool lock = fault.kind == BROKEN && fault.first && strncmp(fault.first, "fcntl", 5) == 0;
    bool later = o->what & IS_LATER && (fault.kind == DENIED || lock);
    return rows == o->new || (rows == o->old && (failed || later));
}

/* After the fault. rc: what the operation said. */
static void w_judge(const struct operation *o, struct world *w, int rc)
{
    if (rc != SQLITE_OK) {
        refused++;
        MUST(w->said[0]);
        MUST(w_code_is_honest(o, rc));
        MUST(fault.kind != SHORT);
    } else {
        passed++;
    }
    if (w->db && !sqlite3_get_autocommit(w->db)) w_must(w_exec(w, w->db, "ROLLBACK"));
    w_locks(w);
    if (!(o->what & IS_FIRST) || rc == SQLITE_OK) {
        uint64_t rows = w_stock(w);
        if (rc == SQLITE_OK) snprintf(w->said, sizeof w->said, "rows %llx", (long long)rows);
        MUST(w_allowed(o, rows, rc != SQLITE_OK));
    }
    if (rc != SQLITE_OK && !(o->what & IS_CLOSE)) w_must(w_again(o, w));
    if (w->db) {
        uint64_t rows = w_rows(w->db);
        MUST(w_allowed(o, rows, false));
        MUST(sqlite3_close(w->db) == SQLITE_OK);
    }
    w->db = NULL;
    w_afterwards(o, w);
}

/* true: the fault came. */
static bool w_one(const struct operation *o, enum fault_kind kind, long n, bool onward)
{
    static bool twice;
    struct world *w = &world;
    w->db = NULL;
    w_reset(w);
    ERR_clear_error();
    long live = fault_live;
    int files = w_count_one("/proc/self/fd"), blamed = told;
    o->before(w);
    w->said[0] = 0;
    w->in_log = false;
    fault_arm(kind, n, onward);
    int rc = o->act(w);
    bool hit = fault_disarm();
    if (w->said[0] == 0 && rc != SQLITE_OK) snprintf(w->said, sizeof w->said, "%d", rc);
    tried += hit;
    MUST(hit || rc == SQLITE_OK);
    w_judge(o, w, rc);
    MUST(w_count_one("/proc/self/fd") == files);
    if (FAULT_SANITIZED || n == LONG_MAX || told != blamed) return hit;
    ERR_clear_error();                  /* OpenSSL keeps its errors for each thread */
    if (fault_live != live && !twice) { /* what a process keeps, it keeps once */
        twice = true;
        hit = w_one(o, kind, n, onward);
        twice = false;
        return hit;
    }
    snprintf(w->said, sizeof w->said, "%ld blocks", fault_live - live);
    MUST(fault_live == live);
    return hit;
}

static void w_all(const struct operation *o, enum fault_kind kind, bool onward)
{
    static const char *const modes[] = {"delete", "wal", "truncate"}, *const layouts[] = {"object",
                                                                                          "log"};
    const char *points = getenv("R2VFS_FAULT_POINTS"), *at = getenv("R2VFS_FAULT_AT");
    const char *only = getenv("R2VFS_FAULT_ONLY");
    long most = points ? strtol(points, NULL, 10) : FAULT_SANITIZED ? 2 : 6;
    char name[300];
    for (int k = 0; k < 6; k++) {
        world.mode = modes[k % 3], world.layout = layouts[k / 3];
        now = o, fault.kind = kind, fault.onward = onward;
        w_name(name, sizeof name);
        if ((o->what & IS_IN_LOG && k < 3) || (only && !strstr(name, only))) continue;
        /* the commit is done when the journal is empty, and may fail all the same after that */
        if (k % 3 == 2 && o->what != (IS_COMMIT | IS_PUSH)) continue;
        w_one(o, kind, LONG_MAX, onward);
        long calls = fault.seen;
        bool every = !most || (k % 3 == 2 && kind == BROKEN && !onward && !FAULT_SANITIZED);
        if (at) {
            w_one(o, kind, strtol(at, NULL, 10), onward);
        } else if (!every && calls > most) {
            for (long i = 0; i < most; i++)
                w_one(o, kind, 1 + i * calls / most + random() % (calls / most), onward);
        } else {
            for (long n = 1; w_one(o, kind, n, onward); n++) {
            }
        }
    }
}

static void w_summary(void)
{
    printf("\n  %ld faults: %ld clean errors, %ld operations went through ", tried, refused,
           passed);
    tried = refused = passed = 0;
}

/* ---- before and after everything ---- */

static void w_log(void *ctx, int code, const char *text)
{
    (void)ctx, (void)code;
    if (strncmp(text, "r2vfs:", 6) == 0) world.in_log = true;
}

static void w_last_words(int number)
{
    char name[300];
    w_name(name, sizeof name);
    dprintf(1, "\n  signal %d: %s, call %ld\n", number, name, fault.nth);
    raise(number);
}

__attribute__((constructor)) static void w_begin(void)
{
    const char *tmp = getenv("TMPDIR");
    struct sigaction act = {.sa_handler = w_last_words, .sa_flags = (int)SA_RESETHAND};
    if (!tmp || !*tmp) tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(world.top, sizeof world.top, "%.150s/r2faultXXXXXX", tmp);
    if (!mkdtemp(world.top)) abort();
    snprintf(world.a, sizeof world.a, "%s/a/app.db", world.top);
    snprintf(world.b, sizeof world.b, "%s/b/app.db", world.top);
    snprintf(world.c, sizeof world.c, "%s/c/app.db", world.top);
    snprintf(world.remote, sizeof world.remote, "%s/r/app.db", world.top);
    setenv("R2VFS_PROGRESS", "0", 1);
    sqlite3_config(SQLITE_CONFIG_LOG, w_log, NULL);
    if (sqlite3_r2vfs_init(NULL, NULL, NULL) != SQLITE_OK) abort();
    const char *seed = getenv("R2VFS_SEED");
    unsigned with = seed ? (unsigned)strtoul(seed, NULL, 10) : (unsigned)getpid();
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("seed: R2VFS_SEED=%u\n", with);
    srandom(with);
    if (!FAULT_SANITIZED) sigaction(SIGSEGV, &act, NULL), sigaction(SIGABRT, &act, NULL);
}

__attribute__((destructor)) static void w_end(void)
{
    nftw(world.top, w_remove, 16, FTW_DEPTH | FTW_PHYS);
    rmdir(world.top);
}

#endif
