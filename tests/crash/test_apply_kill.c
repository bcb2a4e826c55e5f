/* apply_kill.c - an apply dies, or fails, at every single step: what is left is the old content or
 * the new, for stock SQLite too.
 *
 * Three ways, each at every write, sync, truncate, unlink and publication, in the rollback modes,
 * WAL, and onto an empty file: kill   a child kills itself before the step, or after half of a
 * write; judged: copies of what is on the disk (with and without the -shm), and the place itself
 *   fail   the step returns an error; the apply must say so, hold the old content and no lock
 *   power  what was not synced is lost in part, sector by sector, as after a power failure: the
 * steps are recorded with their bytes and played onto fresh files up to the step */
#include "../unit/localkit.h"

enum { PS = 1024, SECTOR = 512, OLD = 1, NEW = 2 };

struct scene {
    const char *name;
    const char *mode;  /* NULL: the local file is empty */
    uint32_t from, to; /* page sizes */
    int rows_from, rows_to;
    bool log;     /* WAL: a committed transaction is in the log already */
    bool patches; /* the new version continues the old one: pages here and there */
    int sector;   /* not 0: a torn write damages a whole sector of so many bytes */
    bool stale;   /* the log was emptied, and that was not synced: the old one may come back */
};
static const struct scene scenes[] = {
    {"grow", "delete", PS, PS, 60, 150, false, false, 0, false},
    {"shrink", "delete", PS, PS, 150, 40, false, false, 0, false},
    {"persist leftover", "persist", PS, PS, 100, 120, false, false, 0, false},
    {"smaller pages", "delete", 4096, 512, 60, 80, false, false, 0, false},
    {"larger pages", "delete", 512, 4096, 60, 20, false, false, 0, false},
    {"empty", NULL, PS, PS, 0, 60, false, false, 0, false},
    {"new log", "wal", PS, PS, 60, 100, false, false, 0, false},
    {"shrink in the log", "wal", PS, PS, 100, 30, true, false, 0, false},
    {"grow in the log", "wal", PS, PS, 60, 100, true, false, 0, false},
    {"patches", "delete", PS, PS, 8, 0, false, true, 0, false},
    {"patches in the log", "wal", PS, PS, 8, 0, true, true, 0, false},
    {"sectors", "delete", PS, PS, 8, 0, false, true, 4096, false},
    {"sectors in the log", "wal", PS, PS, 40, 90, false, false, 4096, false},
    {"emptied log", "wal", PS, PS, 20, 90, false, false, 0, true},
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static struct kit_version fresh; /* what is applied */
static int old_which;            /* what kit_which says of the old content */
static const char *const suffixes[] = {"", "-journal", "-wal", "-shm"};

static void drop(const char *name)
{
    char file[80];
    for (size_t i = 0; i < COUNT(suffixes); i++) {
        snprintf(file, sizeof file, "%s%s", name, suffixes[i]);
        unlink(kit_path(file));
    }
}

static void copy(const char *from, const char *to, size_t files)
{
    char a[80], b[80];
    drop(to);
    for (size_t i = 0; i < files; i++) {
        size_t n;
        snprintf(a, sizeof a, "%s%s", from, suffixes[i]);
        snprintf(b, sizeof b, "%s%s", to, suffixes[i]);
        uint8_t *bytes = kit_read_file(kit_path(a), &n);
        if (bytes) kit_write_file(kit_path(b), bytes, n);
        free(bytes);
    }
}

/* Rows of t between pages of another table. */
static void interleave(sqlite3 *db)
{
    kit_must(db, "CREATE TABLE other(x)");
    for (int i = 0; i < 25; i++)
        kit_must(db, "INSERT INTO other VALUES(randomblob(2500));"
                     "INSERT INTO t SELECT max(id)+1, 1, randomblob(700) FROM t");
}

/* What "first" holds, with another number in every row of t. */
static struct kit_version continued(uint32_t page_size)
{
    struct kit_version v = {.number = NEW, .page_size = page_size};
    size_t n;
    copy("first", "next", 3);
    sqlite3 *db = kit_open(kit_path("next"));
    kit_must(db, "UPDATE t SET ver=2; PRAGMA journal_mode=DELETE");
    sqlite3_close(db);
    v.bytes = kit_read_file(kit_path("next"), &n);
    v.pages = (uint32_t)(n / page_size);
    return v;
}

/* Make "first": the files as a scene begins, made by a process that died, so that a WAL stays. */
static void set_stage(const struct scene *s)
{
    drop("first"), drop("stale");
    r2_raw_hook.sector = s->sector;
    free(fresh.bytes);
    if (!s->patches) fresh = kit_make(NEW, s->rows_to, s->to, 0);
    old_which = s->mode ? OLD : 0;
    pid_t pid = fork();
    if (pid == 0) {
        if (!s->mode) {
            kit_write_file(kit_path("first"), "", 0);
            _exit(0);
        }
        sqlite3 *db = kit_open(kit_path("first"));
        bool twice = s->sector && !s->patches;
        kit_fill(db, twice ? 9 : OLD, s->rows_from, s->from, 0);
        if (s->patches)
            interleave(db);
        else /* pages that a torn copy leaves with the same checksum: see page_sum in apply.c */
            kit_must(db,
                     "CREATE TABLE hollow(x, n);"
                     "WITH RECURSIVE c(x) AS (SELECT x'' UNION ALL SELECT CAST(x || zeroblob(960)"
                     " || replace(hex(zeroblob(30)), '0', 'x') AS BLOB) FROM c"
                     " WHERE length(x) < 40000)"
                     "INSERT INTO hollow SELECT x, length(replace(hex(x), '00', '')) FROM c"
                     " ORDER BY length(x) DESC LIMIT 1");
        kit_exec(db, "PRAGMA journal_mode=%s", s->mode);
        if (twice) { /* the end of our own transaction lies before the next one */
            struct kit_version v = kit_make(OLD, s->rows_from, s->from, 0);
            kit_which(db); /* is in: the log stays */
            if (kit_apply(kit_path("first"), &v, 0, NULL) != R2_OK) abort();
        }
        if (!strcmp(s->mode, "persist") || s->log) kit_must(db, "UPDATE t SET pad='log'");
        if (s->stale) {
            kit_must(db, "UPDATE t SET ver=8; UPDATE t SET ver=1");
            copy("first", "stale", 3);
            kit_must(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        }
        _exit(0); /* without closing */
    }
    waitpid(pid, NULL, 0);
    if (s->patches) fresh = continued(s->to);
}

/* Which version a file holds; -1 also when the hollow pages are damaged. */
static int which(const char *name)
{
    sqlite3 *db = kit_open(kit_path(name));
    int v = kit_which(db);
    if (kit_int(db, "SELECT count(*) FROM sqlite_schema WHERE name='hollow'") == 1 &&
        kit_int(db, "SELECT n=length(replace(hex(x), '00', '')) AND n>2000 FROM hollow") != 1)
        v = -1;
    sqlite3_close(db);
    return v;
}

/* ---- kill ---- */

struct killer {
    int left;  /* steps until the end */
    bool half; /* in the middle of a write */
};

static int kill_hook(void *ctx, enum r2_raw_op op, sqlite3_file *f, const void *bytes, int n,
                     int64_t at)
{
    struct killer *k = ctx;
    if (k->left-- > 1) return SQLITE_OK;
    if (k->half && op == R2_RAW_WRITE) f->pMethods->xWrite(f, bytes, n / 2, at);
    kill(getpid(), SIGKILL);
    return SQLITE_OK;
}

static int killed_rounds, killed_old, killed_new;

static void note(int found)
{
    CU_ASSERT_TRUE(found == old_which || found == NEW);
    killed_rounds++;
    killed_old += found == old_which;
    killed_new += found == NEW;
}

/* true: the apply went through. */
static bool one_kill(int step, bool half)
{
    copy("first", "k", 3);
    pid_t pid = fork();
    if (pid == 0) {
        struct killer k = {step, half};
        r2_raw_hook.ctx = &k;
        r2_raw_hook.before = kill_hook;
        _exit(kit_apply(kit_path("k"), &fresh, 0, NULL) == R2_OK ? 0 : 1);
    }
    int how = 0;
    waitpid(pid, &how, 0);
    copy("k", "with-shm", 4);
    copy("k", "bare", 3);
    int a = which("bare"), b = which("with-shm");
    note(a), note(b);
    CU_ASSERT_EQUAL(a, b); /* a -shm that nobody holds is rebuilt */
    CU_ASSERT_EQUAL(which("k"), a);
    if (WIFEXITED(how)) {
        CU_ASSERT_EQUAL(WEXITSTATUS(how), 0);
        CU_ASSERT_EQUAL(a, NEW);
        return true;
    }
    /* and a pull that comes after it goes through, whatever it finds */
    copy("bare", "k", 3);
    CU_ASSERT_EQUAL(kit_apply(kit_path("k"), &fresh, 0, NULL), R2_OK);
    CU_ASSERT_EQUAL(which("k"), NEW);
    return false;
}

static void killed_at_every_step(void)
{
    kit_start();
    for (size_t i = 0; i < COUNT(scenes); i++) {
        set_stage(&scenes[i]);
        killed_old = killed_new = 0;
        for (int half = 0; half < 2; half++) {
            int step = 1;
            while (step < 5000 && !one_kill(step, half))
                step++;
            CU_ASSERT_TRUE(step > 4);
            CU_ASSERT_TRUE(step < 5000);
        }
        CU_ASSERT_TRUE(killed_old > 0 && killed_new > 0);
        printf("\n  %s: old %d, new %d", scenes[i].name, killed_old, killed_new);
    }
    printf("\n  %d judged ", killed_rounds);
    kit_stop();
}

/* Killed while another connection lives: the shared memory stays, nothing is recovered. */
static void killed_beside_a_live_connection(void)
{
    kit_start();
    for (size_t i = 0; i < COUNT(scenes); i++) {
        bool done = false;
        if (!scenes[i].mode) continue;
        set_stage(&scenes[i]);
        for (int step = 1; !done; step++) {
            copy("first", "k", 3);
            int to[2], from[2];
            char c = 0;
            if (pipe(to) || pipe(from)) abort();
            pid_t live = fork();
            if (live == 0) { /* looks before and after, on the same connection */
                sqlite3 *db = kit_open(kit_path("k"));
                int found = kit_which(db), rc = 0;
                if (write(from[1], "r", 1) != 1 || read(to[0], &c, 1) != 1) _exit(9);
                if (found != OLD) _exit(8);
                found = kit_which(db);
                rc = kit_exec(db, "UPDATE t SET pad='after' WHERE id=1");
                _exit(rc != SQLITE_OK || kit_which(db) != found ? 7 : found);
            }
            if (read(from[0], &c, 1) != 1) abort();
            pid_t pid = fork();
            if (pid == 0) {
                struct killer k = {step, false};
                r2_raw_hook.ctx = &k;
                r2_raw_hook.before = kill_hook;
                _exit(kit_apply(kit_path("k"), &fresh, 0, NULL) == R2_OK ? 0 : 1);
            }
            int how = 0, saw = 0;
            waitpid(pid, &how, 0);
            if (write(to[1], "g", 1) != 1) abort();
            waitpid(live, &saw, 0);
            CU_ASSERT_TRUE(WIFEXITED(saw));
            done = WIFEXITED(how);
            int found = WEXITSTATUS(saw);
            CU_ASSERT_TRUE(done ? found == NEW : found == OLD || found == NEW);
            CU_ASSERT_EQUAL(which("k"), found);
            close(to[0]), close(to[1]), close(from[0]), close(from[1]);
        }
    }
    kit_stop();
}

/* ---- fail ---- */

struct failer {
    int left, rc;
    bool all; /* from that step on everything fails, but for syncs of nothing */
    bool hit;
};

static int fail_hook(void *ctx, enum r2_raw_op op, sqlite3_file *f, const void *bytes, int n,
                     int64_t at)
{
    struct failer *k = ctx;
    (void)f, (void)bytes, (void)n, (void)at;
    if (op == R2_RAW_PUBLISH) return SQLITE_OK; /* memory */
    k->left--;
    if (k->left > 0 || (k->left < 0 && !k->all)) return SQLITE_OK;
    k->hit = true;
    return k->rc;
}

static void one_failure(struct failer *k, bool wal)
{
    struct r2_err e = {0};
    struct r2_local *l = NULL;
    copy("first", "f", 3);
    CU_ASSERT_EQUAL_FATAL(r2_local_open(kit_path("f"), 0, &l, &e), R2_OK);
    r2_raw_hook.ctx = k;
    r2_raw_hook.before = fail_hook;
    enum r2_code code = kit_apply_on(l, &fresh, &e);
    r2_raw_hook.before = NULL;
    /* what had to be played back is, by now */
    CU_ASSERT_TRUE(k->all || access(kit_path("f-journal"), F_OK) != 0);
    sqlite3 *db = kit_open(kit_path("f")); /* beside the session: nothing is locked */
    int found = kit_which(db);
    if (!k->hit) {
        CU_ASSERT_EQUAL(code, R2_OK);
        CU_ASSERT_EQUAL(found, NEW);
    } else if (code == R2_UNKNOWN) {
        CU_ASSERT_EQUAL(found, wal ? old_which : NEW);
    } else {
        CU_ASSERT_NOT_EQUAL(code, R2_OK);
        CU_ASSERT_TRUE(e.code == code && e.text[0]);
        CU_ASSERT_EQUAL(found, old_which);
        if (!k->all) {
            copy("f", "bare", 3); /* nor is it in the log, should the machine die now */
            CU_ASSERT_EQUAL(which("bare"), old_which);
        }
    }
    CU_ASSERT_EQUAL(kit_exec(db, "CREATE TABLE IF NOT EXISTS after(x)"), SQLITE_OK);
    CU_ASSERT_EQUAL(kit_apply_on(l, &fresh, &e), R2_OK); /* and now it goes through */
    CU_ASSERT_EQUAL(kit_which(db), NEW);
    sqlite3_close(db);
    r2_local_close(l);
}

static void failing_at_every_step(void)
{
    static const int codes[] = {SQLITE_FULL, SQLITE_IOERR_WRITE};
    int rounds = 0;
    kit_start();
    for (size_t i = 0; i < COUNT(scenes); i++) {
        bool wal = scenes[i].mode && !strcmp(scenes[i].mode, "wal");
        set_stage(&scenes[i]);
        for (int way = 0; way < 4; way++)
            for (int step = 1;; step++, rounds++) {
                struct failer k = {step, codes[way % 2], way / 2, false};
                one_failure(&k, wal);
                if (!k.hit) break;
                CU_ASSERT_TRUE_FATAL(step < 5000);
            }
    }
    printf("\n  %d failures ", rounds);
    kit_stop();
}

/* ---- power ---- */

enum which_file { MAIN, JOURNAL, WAL, FILES };
struct step {
    enum r2_raw_op op;
    enum which_file file;
    bool folder; /* a sync of the folder */
    uint8_t *bytes;
    int n;
    int64_t at;
};
struct recorder {
    struct r2_local *l;
    struct step step[5000];
    int n;
};
static struct recorder rec;

static int record_hook(void *ctx, enum r2_raw_op op, sqlite3_file *f, const void *bytes, int n,
                       int64_t at)
{
    struct recorder *r = ctx;
    if (r->n == 5000) abort();
    struct step *s = &r->step[r->n++];
    *s = (struct step){.op = op, .n = n, .at = at};
    s->folder = op == R2_RAW_SYNC && !f;
    s->file = f == r->l->file ? MAIN : f && f == r->l->wal_file ? WAL : JOURNAL;
    if (bytes && (s->bytes = malloc((size_t)n))) memcpy(s->bytes, bytes, (size_t)n);
    return SQLITE_OK;
}

struct disk {
    uint8_t *bytes;
    size_t n;
    bool exists;
};

static uint64_t dice_state;
static bool dice(void) /* for the tests, the same every time */
{
    dice_state = dice_state * 6364136223846793005u + 1442695040888963407u;
    return (dice_state >> 40) & 1;
}

/* What of the bytes that were not synced is lost: by chance, all, those before a cut, those after.
 */
static int loss;
static int64_t cut;
static bool lost(int64_t at)
{
    return loss == 0 ? dice() : loss == 1 || (at < cut) == (loss == 2);
}

/* Play a step onto a file; `torn`: only some of its sectors get there. */
static void play(struct disk *d, const struct step *s, bool torn)
{
    enum { ROOM = 4 << 20 };
    if (!d->bytes && !(d->bytes = calloc(1, ROOM))) abort();
    if (s->op == R2_RAW_TRUNCATE && !(torn && lost(s->at))) {
        if (d->n < (size_t)s->at) memset(d->bytes + d->n, 0, (size_t)s->at - d->n);
        d->n = (size_t)s->at;
    }
    if (s->op != R2_RAW_WRITE) return;
    for (int64_t i = 0, part; i < s->n; i += part) {
        part = SECTOR - (s->at + i) % SECTOR;
        if (part > s->n - i) part = s->n - i;
        if (torn && lost(s->at + i)) {
            int64_t all = r2_raw_hook.sector, from = all ? (s->at + i) / all * all : 0;
            if (from < (int64_t)d->n)
                memset(d->bytes + from, 0xaa,
                       (size_t)(from + all < (int64_t)d->n ? all
                                : all                      ? (int64_t)d->n - from
                                                           : 0));
            continue;
        }
        size_t end = (size_t)(s->at + i + part);
        if (end > ROOM) abort();
        if (end > d->n) memset(d->bytes + d->n, 0, end - d->n), d->n = end;
        memcpy(d->bytes + s->at + i, s->bytes + i, (size_t)part);
    }
}

/* The disk after a power loss before step `stop`; returns what stock SQLite finds there. */
static int after_power_loss(int stop)
{
    struct disk d[FILES] = {0};
    char file[80];
    int synced[FILES] = {-1, -1, -1}, folder = -1; /* the last sync of each */
    for (int i = 0; i < stop; i++) {
        if (rec.step[i].op != R2_RAW_SYNC) continue;
        if (rec.step[i].folder)
            folder = i;
        else
            synced[rec.step[i].file] = i;
    }
    for (int i = 0; i < FILES; i++) {
        size_t n;
        bool stale =
            i == WAL && synced[WAL] < 0 && access(kit_path("stale-wal"), F_OK) == 0 && dice();
        snprintf(file, sizeof file, "%s%s", stale ? "stale" : "first", suffixes[i]);
        uint8_t *b = kit_read_file(kit_path(file), &n);
        play(&d[i], &(struct step){.op = R2_RAW_SYNC}, false);
        if (b) memcpy(d[i].bytes, b, n), d[i].n = n, d[i].exists = true;
        free(b);
    }
    for (int i = 0; i < stop; i++) {
        struct step *s = &rec.step[i];
        struct disk *f = &d[s->file];
        if (s->op == R2_RAW_DELETE) {
            if (i < folder || dice()) f->exists = false;
            continue;
        }
        play(f, s, i > synced[s->file]);
        /* a new name is on the disk for sure once the folder is synced */
        if (!f->exists && s->op != R2_RAW_PUBLISH && !s->folder && (folder >= 0 || dice()))
            f->exists = true;
    }
    drop("p");
    for (int i = 0; i < FILES; i++) {
        snprintf(file, sizeof file, "p%s", suffixes[i]);
        if (d[i].exists) kit_write_file(kit_path(file), d[i].bytes, d[i].n);
        free(d[i].bytes);
    }
    return which("p");
}

static void power_lost_at_every_step(void)
{
    int rounds = 0;
    kit_start();
    dice_state = 20240229;
    for (size_t i = 0; i < COUNT(scenes); i++) {
        struct r2_err e = {0};
        set_stage(&scenes[i]);
        copy("first", "r", 3);
        CU_ASSERT_EQUAL_FATAL(r2_local_open(kit_path("r"), 0, &rec.l, &e), R2_OK);
        rec.n = 0;
        r2_raw_hook.ctx = &rec;
        r2_raw_hook.before = record_hook;
        CU_ASSERT_EQUAL(kit_apply_on(rec.l, &fresh, &e), R2_OK);
        r2_raw_hook.before = NULL;
        r2_local_close(rec.l);
        int old = 0, new = 0;
        for (int stop = 0; stop <= rec.n; stop++)
            for (int seed = 0; seed < (rec.n < 10 ? 120 : 24); seed++, rounds++) {
                loss = seed % 4;
                dice();
                cut = (int64_t)(dice_state >> 33) % (4096 << (dice_state >> 20) % 6);
                int found = after_power_loss(stop);
                CU_ASSERT_TRUE(found == old_which || found == NEW);
                if (stop == rec.n) CU_ASSERT_EQUAL(found, NEW); /* R2_OK is durable */
                old += found == old_which, new += found == NEW;
            }
        CU_ASSERT_TRUE(old > 0 && new > 0);
        for (int k = 0; k < rec.n; k++)
            free(rec.step[k].bytes);
        printf("\n  %s: %d steps, old %d, new %d", scenes[i].name, rec.n, old, new);
    }
    printf("\n  %d power losses ", rounds);
    kit_stop();
}

UNIT_MAIN("apply dies", UNIT(killed_at_every_step), UNIT(killed_beside_a_live_connection),
          UNIT(failing_at_every_step), UNIT(power_lost_at_every_step))
