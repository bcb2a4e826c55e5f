/* test_wal.c - what r2_wal_scan finds against what real SQLite recovers from the same bytes.
 *
 * All fixtures are made by libsqlite3. The judge is `alike`: fold the frames that were reported
 * into a copy of the main file; let SQLite recover and checkpoint another copy; compare the two,
 * byte by byte. */
#include "unit.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "../../vfs/buf.h"
#include "../../vfs/wal.h"

struct bytes {
    uint8_t *at;
    size_t n;
};
struct pair { /* a database file and its -wal */
    struct bytes db, wal;
    uint32_t page_size;
};

static char folder[512]; /* of this run */

static void need(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "\ntest set-up failed: %s\n", what);
    abort();
}

/* --- files ------------------------------------------------------------------------------------ */

static const char *path(const char *name, const char *suffix)
{
    static char made[4][600];
    static unsigned turn;
    char *p = made[turn++ % 4];
    need(snprintf(p, 600, "%s/%s%s", folder, name, suffix) < 600, "path too long");
    return p;
}
static struct bytes bytes_new(size_t n)
{
    struct bytes b = {malloc(n ? n : 1), n};
    need(b.at != NULL, "malloc");
    return b;
}
static struct bytes file_read(const char *p)
{
    struct stat st;
    int fd = open(p, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return bytes_new(0);
    need(fstat(fd, &st) == 0, p);
    struct bytes b = bytes_new((size_t)st.st_size);
    need(pread(fd, b.at, b.n, 0) == (ssize_t)b.n, p);
    close(fd);
    return b;
}
static void file_write(const char *p, const uint8_t *at, size_t n)
{
    int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    need(fd >= 0 && pwrite(fd, at, n, 0) == (ssize_t)n, p);
    close(fd);
}
static void database_unlink(const char *name)
{
    unlink(path(name, ""));
    unlink(path(name, "-wal"));
    unlink(path(name, "-shm"));
}
static void pair_free(struct pair *p)
{
    free(p->db.at);
    free(p->wal.at);
}

/* --- SQLite ----------------------------------------------------------------------------------- */

static void run(sqlite3 *db, const char *sql)
{
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) need(false, why ? why : sql);
}
/* The first column of the first row; -1 after an error, whose code goes to *rc. */
static int64_t ask(sqlite3 *db, const char *sql, int *rc)
{
    sqlite3_stmt *st = NULL;
    int64_t value = -1;
    if ((*rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL)) == SQLITE_OK) {
        if ((*rc = sqlite3_step(st)) == SQLITE_ROW) value = sqlite3_column_int64(st, 0);
        if (*rc == SQLITE_ROW) *rc = SQLITE_OK;
    }
    sqlite3_finalize(st);
    return value;
}

/* A database in WAL mode with some rows in the main file, an empty log, and a cache of two pages:
 * every larger transaction spills. A close leaves the log as it is. */
static sqlite3 *database_new(const char *name, uint32_t page_size)
{
    sqlite3 *db;
    char sql[400];
    database_unlink(name);
    need(sqlite3_open(path(name, ""), &db) == SQLITE_OK, "open");
    snprintf(sql, sizeof sql,
             "PRAGMA page_size=%u; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
             "PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=2; PRAGMA cache_spill=1;"
             "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB, c INT DEFAULT 0);"
             "INSERT INTO t(b) VALUES(randomblob(%u)); PRAGMA wal_checkpoint(TRUNCATE);",
             page_size, page_size);
    run(db, sql);
    need(sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL) == SQLITE_OK, "config");
    return db;
}
/* n rows of about one page each, in one statement. */
static void insert(sqlite3 *db, uint32_t page_size, int n)
{
    char sql[300];
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE k(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM k WHERE i<%d)"
             "INSERT INTO t(b) SELECT randomblob(%u) FROM k;",
             n, page_size - 100);
    run(db, sql);
}
static struct pair database_take(sqlite3 *db, const char *name, uint32_t page_size)
{
    need(sqlite3_close(db) == SQLITE_OK, "close");
    struct pair p = {file_read(path(name, "")), file_read(path(name, "-wal")), page_size};
    database_unlink(name);
    return p;
}

/* All that a log can hold: small and spilled transactions, rollbacks after a spill, pages rewritten
 * within a transaction, a database that shrinks; at the end, frames that nothing commits. */
static void live(sqlite3 *db, uint32_t page_size)
{
    insert(db, page_size, 1);
    insert(db, page_size, 2);
    run(db, "BEGIN");
    insert(db, page_size, 12);
    run(db, "ROLLBACK");
    insert(db, page_size, 3);
    run(db, "BEGIN");
    insert(db, page_size, 8);
    run(db, "UPDATE t SET c=c+1; UPDATE t SET c=c+2, b=randomblob(50) WHERE a%2; COMMIT");
    run(db, "DELETE FROM t WHERE a%3=0; VACUUM");
    run(db, "SAVEPOINT s");
    insert(db, page_size, 8);
    run(db, "ROLLBACK TO s; UPDATE t SET c=7; RELEASE s");
    run(db, "BEGIN");
    insert(db, page_size, 12);
    run(db, "ROLLBACK");
}
static struct pair history(uint32_t page_size, bool restarted)
{
    sqlite3 *db = database_new("history", page_size);
    live(db, page_size);
    if (restarted) {
        run(db, "PRAGMA wal_checkpoint(RESTART)");
        insert(db, page_size, 1);
        insert(db, page_size, 1);
    }
    return database_take(db, "history", page_size);
}
/* Three transactions, a few KiB: small enough to damage every byte of it. */
static struct pair small(void)
{
    sqlite3 *db = database_new("small", 512);
    insert(db, 512, 1);
    insert(db, 512, 2);
    run(db, "UPDATE t SET c=1 WHERE a=1");
    return database_take(db, "small", 512);
}

/* --- reading ---------------------------------------------------------------------------------- */

struct source {
    const uint8_t *at;
    uint64_t n;
    int calls;        /* made so far */
    int fail_at;      /* the call that fails, from 1; 0: none */
    int64_t fail_add; /* it returns -1 (0), or this much more than it was asked for */
    uint64_t hidden;  /* bytes behind n that reach the buffer though they are not counted */
    int vanish_at;    /* from this call on the file holds zeros; 0: never */
};
static int64_t source_read(void *ctx, void *to, uint64_t n, uint64_t at)
{
    struct source *s = ctx;
    if (++s->calls == s->fail_at) return s->fail_add ? (int64_t)n + s->fail_add : -1;
    if (s->hidden && at < s->n + s->hidden)
        memcpy(to, s->at + at, n < s->n + s->hidden - at ? n : s->n + s->hidden - at);
    if (at >= s->n) return 0;
    if (n > s->n - at) n = s->n - at;
    if (s->vanish_at && s->calls >= s->vanish_at)
        memset(to, 0, n);
    else
        memcpy(to, s->at + at, n);
    return (int64_t)n;
}

struct fold {
    struct source *from;
    struct bytes db; /* the main file with the frames folded in */
    uint32_t page_size;
    uint32_t last;    /* frame told of last */
    uint32_t pages;   /* the last commit's */
    uint32_t stop_at; /* fn refuses this frame; 0: none */
    bool bad;         /* out of order, or a place outside of the file */
};
static enum r2_code fold_frame(void *ctx, uint32_t frame, uint32_t pgno, uint64_t page_at,
                               uint32_t commit_pages)
{
    struct fold *f = ctx;
    if (frame == f->stop_at) return R2_REFUSED;
    f->bad |= frame != f->last + 1 || pgno == 0 || commit_pages == 0;
    f->bad |= page_at != 32 + (uint64_t)(frame - 1) * (24 + f->page_size) + 24;
    f->bad |= page_at + f->page_size > f->from->n;
    f->last = frame;
    f->pages = commit_pages;
    uint64_t end = (uint64_t)pgno * f->page_size;
    if (f->bad || end > 64 << 20) return R2_OK;
    if (f->db.n < end) {
        f->db.at = realloc(f->db.at, end);
        need(f->db.at != NULL, "realloc");
        memset(f->db.at + f->db.n, 0, end - f->db.n);
        f->db.n = end;
    }
    memcpy(f->db.at + end - f->page_size, f->from->at + page_at, f->page_size);
    return R2_OK;
}

/* Scan with and without fn; *folded becomes the database that the frames make of p's. */
static struct r2_wal_end scan(const struct pair *p, const uint8_t *wal, size_t n,
                              struct bytes *folded)
{
    struct source s = {.at = wal, .n = n}, again = s;
    struct fold f = {.from = &s, .db = bytes_new(p->db.n), .page_size = p->page_size};
    struct r2_wal_end end, blind;
    struct r2_err e = {0};
    memcpy(f.db.at, p->db.at, p->db.n);
    CU_ASSERT_EQUAL_FATAL(r2_wal_scan(source_read, &s, fold_frame, &f, &end, &e), R2_OK);
    CU_ASSERT_EQUAL_FATAL(r2_wal_scan(source_read, &again, NULL, NULL, &blind, &e), R2_OK);
    CU_ASSERT(memcmp(&end, &blind, sizeof end) == 0);
    CU_ASSERT(!f.bad && f.last == end.frames && f.pages == end.pages);
    if (end.frames) f.db.n = (size_t)end.pages * end.page_size; /* SQLite cuts it so */
    *folded = f.db;
    return end;
}

/* Does SQLite recover from this log exactly the database that the scan reports? */
static bool alike(const struct pair *p, const uint8_t *wal, size_t n, struct r2_wal_end *out)
{
    struct bytes ours;
    struct r2_wal_end end = scan(p, wal, n, &ours);
    sqlite3 *db;
    int rc, rc2;
    database_unlink("judge");
    file_write(path("judge", ""), p->db.at, p->db.n);
    file_write(path("judge", "-wal"), wal, n);
    need(sqlite3_open(path("judge", ""), &db) == SQLITE_OK, "open");
    run(db, "PRAGMA synchronous=OFF");
    int64_t pages = ask(db, "PRAGMA page_count", &rc);
    int64_t busy = ask(db, "PRAGMA wal_checkpoint(TRUNCATE)", &rc2);
    sqlite3_close(db);
    struct bytes theirs = file_read(path("judge", ""));
    bool same = rc == SQLITE_OK && rc2 == SQLITE_OK && busy == 0 && ours.n == theirs.n &&
                memcmp(ours.at, theirs.at, ours.n) == 0 && (uint64_t)pages * p->page_size == ours.n;
    free(ours.at);
    free(theirs.at);
    if (out) *out = end;
    return same;
}

/* --- an independent hand at the format -------------------------------------------------------- */

static uint32_t word(bool big, const uint8_t *p)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++)
        v = v << 8 | p[big ? i : 3 - i];
    return v;
}
static void sum(bool big, const uint8_t *p, size_t n, uint32_t s[2])
{
    for (size_t i = 0; i < n / 4; i += 2) {
        s[0] += word(big, p + 4 * i) + s[1];
        s[1] += word(big, p + 4 * i + 4) + s[0];
    }
}
/* Make all checksums right again, in the byte order that the magic number names. The frames after
 * the first `frames` are left alone. */
static void resum(uint8_t *wal, uint32_t page_size, uint32_t frames)
{
    bool big = (wal[3] & 1) != 0;
    uint32_t s[2] = {0, 0};
    sum(big, wal, 24, s);
    r2_put32(wal + 24, s[0]), r2_put32(wal + 28, s[1]);
    for (uint8_t *f = wal + 32; frames > 0; frames--, f += 24 + page_size) {
        sum(big, f, 8, s);
        sum(big, f + 24, page_size, s);
        r2_put32(f + 16, s[0]), r2_put32(f + 20, s[1]);
    }
}
static struct bytes copy(const struct bytes *b)
{
    struct bytes c = bytes_new(b->n);
    memcpy(c.at, b->at, b->n);
    return c;
}
static uint8_t *frame_of(const struct bytes *wal, uint32_t page_size, uint32_t frame)
{
    return wal->at + 32 + (size_t)(frame - 1) * (24 + page_size);
}

/* --- tests ------------------------------------------------------------------------------------ */

static const uint32_t sizes[] = {512, 1024, 4096, 65536};

static void whole_histories(void)
{
    for (size_t i = 0; i < 4; i++) {
        struct pair p = history(sizes[i], false);
        struct r2_wal_end end;
        CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &end));
        CU_ASSERT(end.frames > 20 && end.page_size == sizes[i]);
        /* The rolled-back frames are there, valid but not committed: the fixture has its point. */
        const uint8_t *next = frame_of(&p.wal, sizes[i], end.frames + 1);
        CU_ASSERT(next + 24 + sizes[i] <= p.wal.at + p.wal.n);
        CU_ASSERT(memcmp(next + 8, p.wal.at + 16, 8) == 0);
        uint32_t s[2] = {end.cksum[0], end.cksum[1]};
        sum(false, next, 8, s);
        sum(false, next + 24, sizes[i], s);
        CU_ASSERT(r2_get32(next + 16) == s[0] && r2_get32(next + 20) == s[1]);
        pair_free(&p);
    }
}

static void restarted_logs_with_old_frames_behind(void)
{
    for (size_t i = 0; i < 4; i++) {
        struct pair p = history(sizes[i], true);
        struct r2_wal_end end;
        CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &end));
        CU_ASSERT(end.frames >= 2 && end.frames < 20);
        const uint8_t *old = frame_of(&p.wal, sizes[i], end.frames + 1);
        CU_ASSERT(old + 24 + sizes[i] <= p.wal.at + p.wal.n);
        CU_ASSERT(memcmp(old + 8, p.wal.at + 16, 8) != 0); /* it is there, with the old salts */
        pair_free(&p);
    }
}

static void a_frame_rewritten_within_its_transaction(void)
{
    sqlite3 *db = database_new("rewrite", 1024);
    insert(db, 1024, 10);
    run(db, "BEGIN; UPDATE t SET c=1");
    struct bytes before = file_read(path("rewrite", "-wal"));
    run(db, "UPDATE t SET c=2; UPDATE t SET c=3; COMMIT");
    struct pair p = database_take(db, "rewrite", 1024);
    unsigned rewritten = 0;
    for (uint32_t f = 1; 32 + (size_t)f * 1048 <= before.n; f++) {
        const uint8_t *was = frame_of(&before, 1024, f), *is = frame_of(&p.wal, 1024, f);
        rewritten += memcmp(was, is, 4) == 0 && memcmp(was + 24, is + 24, 1024) != 0;
    }
    CU_ASSERT(rewritten > 0);
    CU_ASSERT(alike(&p, p.wal.at, p.wal.n, NULL));
    free(before.at);
    pair_free(&p);
}

static void missing_empty_and_header_only(void)
{
    struct pair p = small();
    struct r2_wal_end end;
    struct r2_wal_end none = {0};
    CU_ASSERT(alike(&p, p.wal.at, 0, &end) && memcmp(&end, &none, sizeof end) == 0);
    CU_ASSERT(alike(&p, p.wal.at, 31, &end) && memcmp(&end, &none, sizeof end) == 0);
    CU_ASSERT(alike(&p, p.wal.at, 32, &end) && end.frames == 0 && end.pages == 0);
    CU_ASSERT_EQUAL(end.page_size, 512);
    CU_ASSERT(end.salt[0] == r2_get32(p.wal.at + 16) && end.salt[1] == r2_get32(p.wal.at + 20));
    CU_ASSERT(alike(&p, p.db.at, p.db.n, &end) && memcmp(&end, &none, sizeof end) == 0);
    pair_free(&p);
}

static void cut_short_at_every_byte(void)
{
    struct pair p = small();
    unsigned long wrong = 0, shrunk = 0;
    uint32_t last = UINT32_MAX;
    for (size_t n = p.wal.n + 1; n-- > 0;) {
        struct r2_wal_end end;
        wrong += !alike(&p, unit_guarded(p.wal.at, n), n, &end);
        wrong += end.frames > last;
        shrunk += end.frames < last;
        last = end.frames;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(shrunk, 4); /* three commits and none */
    pair_free(&p);
}

/* What lies in the buffer behind the count that the read returned is not the file's. */
static void only_what_was_read_counts(void)
{
    struct pair p = small();
    unsigned long wrong = 0;
    for (size_t n = 0; n <= p.wal.n; n++) {
        struct source plain = {.at = p.wal.at, .n = n}, more = plain;
        struct r2_wal_end a, b;
        more.hidden = p.wal.n - n;
        CU_ASSERT_EQUAL(r2_wal_scan(source_read, &plain, NULL, NULL, &a, NULL), R2_OK);
        CU_ASSERT_EQUAL(r2_wal_scan(source_read, &more, NULL, NULL, &b, NULL), R2_OK);
        wrong += memcmp(&a, &b, sizeof a) != 0;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    pair_free(&p);
}

static void cut_short_near_every_frame_border(void)
{
    static const int off[] = {-1, 0, 1, 23, 24, 25};
    for (size_t i = 1; i < 4; i++) {
        struct pair p = history(sizes[i], i % 2 != 0);
        unsigned long wrong = 0;
        for (uint32_t f = 1; 32 + (size_t)(f - 1) * (24 + sizes[i]) <= p.wal.n; f++)
            for (size_t k = 0; k < 6; k++) {
                size_t n = (size_t)(frame_of(&p.wal, sizes[i], f) - p.wal.at) + (size_t)off[k];
                if (n <= p.wal.n) wrong += !alike(&p, p.wal.at, n, NULL);
            }
        CU_ASSERT_EQUAL(wrong, 0);
        pair_free(&p);
    }
}

static void one_flipped_bit_in_every_byte(void)
{
    struct pair p = small();
    struct r2_wal_end good, end;
    unsigned long wrong = 0;
    CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &good));
    CU_ASSERT_EQUAL((size_t)good.frames * 536 + 32, p.wal.n); /* nothing but committed frames */
    for (size_t i = 0; i < p.wal.n; i++) {
        p.wal.at[i] ^= (uint8_t)(1 << i % 8);
        wrong += !alike(&p, p.wal.at, p.wal.n, &end);
        uint32_t frame = i < 32 ? 0 : (uint32_t)((i - 32) / 536) + 1;
        wrong += frame ? end.frames >= frame : end.frames != 0;
        p.wal.at[i] ^= (uint8_t)(1 << i % 8);
    }
    CU_ASSERT_EQUAL(wrong, 0);
    pair_free(&p);
}

static void big_endian_checksums(void)
{
    for (size_t i = 0; i < 4; i++) {
        struct pair p = history(sizes[i], false);
        struct r2_wal_end little, big;
        CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &little));
        r2_put32(p.wal.at, 0x377f0683);
        resum(p.wal.at, sizes[i], (uint32_t)((p.wal.n - 32) / (24 + sizes[i])));
        CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &big));
        CU_ASSERT(big.frames == little.frames && big.pages == little.pages && big.frames > 20);
        CU_ASSERT(memcmp(big.cksum, little.cksum, sizeof big.cksum) != 0);
        pair_free(&p);
    }
    struct pair p = small();
    unsigned long wrong = 0;
    r2_put32(p.wal.at, 0x377f0683);
    resum(p.wal.at, 512, (uint32_t)((p.wal.n - 32) / 536));
    for (size_t i = 0; i < p.wal.n; i += 7) {
        p.wal.at[i] ^= 0x10;
        wrong += !alike(&p, p.wal.at, p.wal.n, NULL);
        p.wal.at[i] ^= 0x10;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    pair_free(&p);
}

/* Rightly summed, but nothing that SQLite would take. */
static void hostile_headers(void)
{
    static const uint32_t bad[] = {0, 1, 256, 511, 513, 768, 65535, 65537, 131072, 0x80000000};
    struct pair p = small();
    struct r2_wal_end end;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r2_put32(p.wal.at + 8, bad[i]);
        resum(p.wal.at, 512, 0);
        CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &end));
        CU_ASSERT(end.frames == 0 && end.page_size == 0);
    }
    r2_put32(p.wal.at + 8, 512);
    static const uint32_t magic[] = {0, 0x377f0680, 0x377f0684, 0x367f0682};
    for (size_t i = 0; i < 4; i++) {
        r2_put32(p.wal.at, magic[i]);
        resum(p.wal.at, 512, (uint32_t)((p.wal.n - 32) / 536));
        CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &end) && end.page_size == 0);
    }
    r2_put32(p.wal.at, 0x377f0682);
    r2_put32(p.wal.at + 4, 3007001); /* SQLite does not open such a log at all */
    resum(p.wal.at, 512, (uint32_t)((p.wal.n - 32) / 536));
    struct bytes same;
    end = scan(&p, p.wal.at, p.wal.n, &same);
    CU_ASSERT(end.frames == 0 && end.page_size == 0);
    free(same.at);
    r2_put32(p.wal.at + 4, 3007000);
    resum(p.wal.at, 512, (uint32_t)((p.wal.n - 32) / 536));
    CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &end) && end.frames > 0);
    pair_free(&p);
}

static void hostile_frames(void)
{
    struct pair p = small();
    struct r2_wal_end good, end;
    CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &good));
    for (uint32_t f = 1; f <= good.frames; f++)
        for (int what = 0; what < 4; what++) {
            struct bytes w = copy(&p.wal);
            uint8_t *head = frame_of(&w, 512, f);
            if (what == 0) r2_put32(head, 0); /* page 0 */
            if (what == 1) head[8] ^= 1;      /* salts of another log */
            if (what == 2) head[15] ^= 0x80;
            if (what == 3) r2_put32(head + 4, 0); /* a commit that is none any more */
            resum(w.at, 512, good.frames);
            CU_ASSERT(alike(&p, w.at, w.n, &end));
            CU_ASSERT(what == 3 ? end.frames <= good.frames : end.frames < f);
            free(w.at);
        }
    /* Sizes that no file has are told as they are: who applies them has to look. */
    r2_put32(frame_of(&p.wal, 512, good.frames), UINT32_MAX);
    r2_put32(frame_of(&p.wal, 512, good.frames) + 4, UINT32_MAX);
    resum(p.wal.at, 512, good.frames);
    struct source s = {.at = p.wal.at, .n = p.wal.n};
    struct fold f = {.from = &s, .db = bytes_new(0), .page_size = 512};
    CU_ASSERT_EQUAL(r2_wal_scan(source_read, &s, fold_frame, &f, &end, NULL), R2_OK);
    CU_ASSERT(end.frames == good.frames && end.pages == UINT32_MAX && !f.bad);
    free(f.db.at);
    pair_free(&p);
}

/* A log of several chunks, one transaction across all borders between them. */
static struct pair large(void)
{
    sqlite3 *db = database_new("large", 4096);
    insert(db, 4096, 20);
    insert(db, 4096, 400);
    insert(db, 4096, 5);
    return database_take(db, "large", 4096);
}

static void more_than_one_chunk(void)
{
    struct pair p = large();
    struct r2_wal_end whole, part;
    CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &whole));
    CU_ASSERT(p.wal.n > 3 * 512 * 1024);
    /* The log changes under the reader: what was seen before still counts, no half transaction. */
    for (int call = 1; call <= 4; call++) {
        struct source s = {.at = p.wal.at, .n = p.wal.n, .vanish_at = call};
        struct fold f = {.from = &s, .db = bytes_new(0), .page_size = 4096};
        CU_ASSERT_EQUAL(r2_wal_scan(source_read, &s, fold_frame, &f, &part, NULL), R2_OK);
        CU_ASSERT(!f.bad && f.last == part.frames && part.frames < 100);
        CU_ASSERT(call < 3 ? part.frames == 0 : part.frames >= 20);
        free(f.db.at);
    }
    pair_free(&p);
}

static void failing_reads(void)
{
    struct pair p = large();
    struct source s = {.at = p.wal.at, .n = p.wal.n};
    struct r2_wal_end good, end, none = {0};
    bool yes;
    CU_ASSERT_EQUAL(r2_wal_scan(source_read, &s, NULL, NULL, &good, NULL), R2_OK);
    int calls = s.calls;
    CU_ASSERT(calls > 4);
    for (int add = 0; add < 2; add++)
        for (int at = 1; at <= calls; at++) {
            struct r2_err e = {0};
            memset(&end, 0xff, sizeof end);
            s = (struct source){.at = p.wal.at, .n = p.wal.n, .fail_at = at, .fail_add = add};
            CU_ASSERT_EQUAL(r2_wal_scan(source_read, &s, NULL, NULL, &end, &e), R2_IO);
            CU_ASSERT(e.code == R2_IO && e.text[0] && memcmp(&end, &none, sizeof end) == 0);
            CU_ASSERT_EQUAL(s.calls, at);
            s.calls = 0, yes = true;
            CU_ASSERT_EQUAL(r2_wal_continues(source_read, &s, &good, &yes, &e), R2_IO);
            CU_ASSERT(!yes);
        }
    pair_free(&p);
}

static void a_refusing_callback_ends_the_walk(void)
{
    struct pair p = small();
    struct r2_wal_end good, end, none = {0};
    CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &good));
    for (uint32_t at = 1; at <= good.frames; at++) {
        struct source s = {.at = p.wal.at, .n = p.wal.n};
        struct fold f = {.from = &s, .db = bytes_new(0), .page_size = 512, .stop_at = at};
        CU_ASSERT_EQUAL(r2_wal_scan(source_read, &s, fold_frame, &f, &end, NULL), R2_REFUSED);
        CU_ASSERT(f.last == at - 1 && memcmp(&end, &none, sizeof end) == 0);
        free(f.db.at);
    }
    pair_free(&p);
}

static struct r2_wal_end mark_of(const char *name)
{
    struct bytes w = file_read(path(name, "-wal"));
    struct source s = {.at = w.at, .n = w.n};
    struct r2_wal_end end;
    CU_ASSERT_EQUAL(r2_wal_scan(source_read, &s, NULL, NULL, &end, NULL), R2_OK);
    free(w.at);
    return end;
}
static bool continues_in(const struct bytes *w, const struct r2_wal_end *mark)
{
    struct source s = {.at = w->at, .n = w->n};
    bool yes = false;
    CU_ASSERT_EQUAL(r2_wal_continues(source_read, &s, mark, &yes, NULL), R2_OK);
    return yes;
}
static bool continues(const char *name, const struct r2_wal_end *mark)
{
    struct bytes w = file_read(path(name, "-wal"));
    bool yes = continues_in(&w, mark);
    free(w.at);
    return yes;
}

static void continues_a_living_log(void)
{
    sqlite3 *db = database_new("living", 1024);
    struct r2_wal_end none = mark_of("living");
    CU_ASSERT(none.page_size == 0 && !continues("living", &none));
    insert(db, 1024, 2);
    CU_ASSERT(!continues("living", &none));
    struct r2_wal_end first = mark_of("living");
    CU_ASSERT(first.frames > 0 && continues("living", &first));
    insert(db, 1024, 1);
    struct r2_wal_end second = mark_of("living");
    CU_ASSERT(second.frames > first.frames);
    CU_ASSERT(continues("living", &first) && continues("living", &second));
    run(db, "BEGIN");
    insert(db, 1024, 12); /* spills behind the mark */
    CU_ASSERT(continues("living", &second));
    run(db, "ROLLBACK");
    CU_ASSERT(continues("living", &second));
    insert(db, 1024, 2); /* overwrites what was spilled */
    CU_ASSERT(continues("living", &first) && continues("living", &second));
    run(db, "PRAGMA wal_checkpoint(PASSIVE)");
    CU_ASSERT(continues("living", &second));
    insert(db, 1024, 1); /* all was checkpointed: the log begins anew */
    CU_ASSERT(!continues("living", &first) && !continues("living", &second));
    struct r2_wal_end third = mark_of("living");
    CU_ASSERT(continues("living", &third));
    run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    CU_ASSERT(!continues("living", &third));
    insert(db, 1024, 4);
    CU_ASSERT(!continues("living", &first) && !continues("living", &third));
    struct pair p = database_take(db, "living", 1024);
    pair_free(&p);
}

static bool goes_on(const char *name, const struct r2_wal_end *end)
{
    struct bytes w = file_read(path(name, "-wal"));
    struct source s = {.at = w.at, .n = w.n};
    bool yes = false;
    CU_ASSERT_EQUAL(r2_wal_goes_on(source_read, &s, end, &yes, NULL), R2_OK);
    free(w.at);
    return yes;
}

static void goes_on_beyond_what_the_index_knows(void)
{
    sqlite3 *db = database_new("beyond", 1024);
    struct r2_wal_end none = {0}, end, begun;
    CU_ASSERT(!goes_on("beyond", &none));
    insert(db, 1024, 2);
    end = mark_of("beyond");
    CU_ASSERT(goes_on("beyond", &none) && !goes_on("beyond", &end));
    run(db, "BEGIN");
    insert(db, 1024, 12); /* spills, and commits nothing */
    CU_ASSERT(!goes_on("beyond", &end));
    run(db, "ROLLBACK");
    CU_ASSERT(!goes_on("beyond", &end));
    run(db, "BEGIN");
    insert(db, 1024, 40); /* more frames than are read at a time */
    run(db, "COMMIT");
    CU_ASSERT(goes_on("beyond", &end));
    end = mark_of("beyond");
    run(db, "PRAGMA wal_checkpoint(RESTART)");
    /* the index has the next log's salt, and the old log's frames are still there */
    begun = (struct r2_wal_end){.salt = {end.salt[0] + 1, 12345}};
    CU_ASSERT(!goes_on("beyond", &begun) && !goes_on("beyond", &end));
    insert(db, 1024, 1);
    begun = mark_of("beyond");
    CU_ASSERT(begun.salt[0] == end.salt[0] + 1);
    CU_ASSERT(!goes_on("beyond", &begun) && goes_on("beyond", &end));
    begun.frames = 0; /* a commit in a log that was only begun */
    CU_ASSERT(goes_on("beyond", &begun));
    run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    CU_ASSERT(!goes_on("beyond", &begun) && !goes_on("beyond", &end));
    struct pair p = database_take(db, "beyond", 1024);
    pair_free(&p);
}

static void continues_looks_at_every_part_of_the_mark(void)
{
    struct pair p = small(), other = small();
    struct r2_wal_end good, m;
    CU_ASSERT(alike(&p, p.wal.at, p.wal.n, &good));
    CU_ASSERT(continues_in(&p.wal, &good) && !continues_in(&other.wal, &good));
    uint32_t *const part[] = {&m.page_size, &m.salt[0],  &m.salt[1], &m.frames,
                              &m.pages,     &m.cksum[0], &m.cksum[1]};
    for (size_t i = 0; i < 7; i++) {
        m = good;
        *part[i] ^= 1;
        CU_ASSERT(!continues_in(&p.wal, &m));
    }
    m = good;
    m.frames++;
    CU_ASSERT(!continues_in(&p.wal, &m));

    /* A frame with the right checksum that does not commit. */
    m = good;
    while (m.frames > 1 && r2_get32(frame_of(&p.wal, 512, m.frames) + 4) != 0)
        m.frames--;
    const uint8_t *head = frame_of(&p.wal, 512, m.frames);
    need(r2_get32(head + 4) == 0, "a transaction of more than one frame");
    m.pages = 0;
    m.cksum[0] = r2_get32(head + 16), m.cksum[1] = r2_get32(head + 20);
    CU_ASSERT(!continues_in(&p.wal, &m));

    for (size_t i = 0; i < p.wal.n; i += 5) { /* damage before the mark */
        p.wal.at[i] ^= 4;
        CU_ASSERT(!continues_in(&p.wal, &good));
        p.wal.at[i] ^= 4;
    }
    struct bytes header = {p.wal.at, 32}; /* a header alone is continued by its own frames */
    struct source s = {.at = header.at, .n = header.n};
    CU_ASSERT_EQUAL(r2_wal_scan(source_read, &s, NULL, NULL, &m, NULL), R2_OK);
    CU_ASSERT(continues_in(&p.wal, &m) && continues_in(&header, &m));
    CU_ASSERT(!continues_in(&other.wal, &m) && !continues_in(&header, &good));
    pair_free(&p);
    pair_free(&other);
}

static void checksum_against_the_definition(void)
{
    uint8_t raw[4096];
    for (size_t i = 0; i < sizeof raw; i++)
        raw[i] = (uint8_t)(i * 2654435761u >> 11);
    for (int big = 0; big < 2; big++)
        for (size_t n = 0; n <= sizeof raw; n += 8) {
            const uint8_t *at = unit_guarded(raw, n);
            uint32_t a[2] = {7, 9}, b[2] = {7, 9};
            r2_wal_checksum(big != 0, at, n, a);
            sum(big != 0, raw, n, b);
            CU_ASSERT(a[0] == b[0] && a[1] == b[1]);
        }
}

static void make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/r2vfs-wal-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
}
static void remove_folder(void)
{
    database_unlink("judge");
    CU_ASSERT_EQUAL(rmdir(folder), 0); /* nothing was left behind */
}

UNIT_MAIN("wal", UNIT(make_folder), UNIT(whole_histories),
          UNIT(restarted_logs_with_old_frames_behind),
          UNIT(a_frame_rewritten_within_its_transaction), UNIT(missing_empty_and_header_only),
          UNIT(cut_short_at_every_byte), UNIT(only_what_was_read_counts),
          UNIT(cut_short_near_every_frame_border), UNIT(one_flipped_bit_in_every_byte),
          UNIT(big_endian_checksums), UNIT(hostile_headers), UNIT(hostile_frames),
          UNIT(more_than_one_chunk), UNIT(failing_reads), UNIT(a_refusing_callback_ends_the_walk),
          UNIT(continues_a_living_log), UNIT(goes_on_beyond_what_the_index_knows),
          UNIT(continues_looks_at_every_part_of_the_mark), UNIT(checksum_against_the_definition),
          UNIT(remove_folder))
