/* test_apply.c - applying a version in every journal mode and page size; journals and logs to the
 * byte.
 */
#include "localkit.h"

static const uint32_t sizes[] = {512, 1024, 4096, 16384, 65536};
static const char *const modes[] = {"delete", "truncate", "persist", "memory", "off", "wal"};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static sqlite3 *open_mode(const char *path, const char *mode)
{
    sqlite3 *db = kit_open(path);
    kit_exec(db, "PRAGMA journal_mode=%s", mode);
    return db;
}

static void page_1_fields(void)
{
    uint8_t page[100], local[100], want[100];
    for (int i = 0; i < 100; i++)
        page[i] = (uint8_t)(i + 100), local[i] = (uint8_t)i;
    r2_put32(local + 24, 0xffffffffu);
    r2_put32(local + 40, 7);
    memcpy(want, page, sizeof want);
    r2_apply_page1(page, NULL, 9, true);
    CU_ASSERT_EQUAL(memcmp(page, want, sizeof want), 0);
    r2_apply_page1(page, local, 9, false);
    want[18] = 18, want[19] = 19;
    r2_put32(want + 24, 0), r2_put32(want + 92, 0), r2_put32(want + 28, 9), r2_put32(want + 40, 7);
    CU_ASSERT_EQUAL(memcmp(page, want, sizeof want), 0);
    r2_apply_page1(page, local, 9, true);
    r2_put32(want + 40, 8);
    CU_ASSERT_EQUAL(memcmp(page, want, sizeof want), 0);
}

/* Beside an idle connection with a warm cache: grow, the same size, shrink; raw bytes at the end.
 */
static void one_round(const char *mode, uint32_t ps, int vacuum)
{
    const char *path = kit_path("a.db");
    struct r2_err e = {0};
    sqlite3 *db = open_mode(path, mode);
    kit_must(db, "CREATE TABLE x(y)"); /* page size is fixed below, by VACUUM before WAL */
    sqlite3_close(db);
    unlink(path), unlink(kit_path("a.db-wal")), unlink(kit_path("a.db-shm"));
    db = kit_open(path);
    kit_fill(db, 1, 60, ps, vacuum);
    kit_exec(db, "PRAGMA journal_mode=%s", mode);
    CU_ASSERT_EQUAL(kit_which(db), 1);
    static const int rows[] = {400, 400, 30, 300};
    for (int i = 0; i < 4; i++) {
        struct kit_version v = kit_make(i + 2, rows[i], ps, vacuum);
        CU_ASSERT_EQUAL(kit_apply(path, &v, 0, &e), R2_OK);
        if (e.code) fprintf(stderr, "%s %u: %s\n", mode, ps, e.text), e.code = R2_OK;
        CU_ASSERT_EQUAL(kit_which(db), v.number);
        CU_ASSERT_TRUE(kit_text_is(db, "PRAGMA journal_mode", mode));
        if (i % 2 == 0) { /* it goes on writing, in its own mode */
            CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET pad = zeroblob(40) WHERE id %% 3 = 0"), 0);
            CU_ASSERT_EQUAL(kit_which(db), v.number);
        } else {
            kit_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)");
            CU_ASSERT_TRUE(kit_file_same(&v, path));
        }
        free(v.bytes);
    }
    sqlite3_close(db);
    CU_ASSERT_EQUAL(kit_which_file(path), 5);
    unlink(path), unlink(kit_path("a.db-journal"));
}

static void every_mode_and_page_size(void)
{
    kit_start();
    for (size_t m = 0; m < COUNT(modes); m++)
        for (size_t s = 0; s < COUNT(sizes); s++)
            one_round(modes[m], sizes[s], 0);
    kit_stop();
}

static void auto_vacuum_databases(void)
{
    kit_start();
    for (int vacuum = 1; vacuum <= 2; vacuum++)
        for (size_t m = 0; m < COUNT(modes); m++)
            one_round(modes[m], 1024, vacuum);
    kit_stop();
}

/* A device without safe overwrites: whole sectors in the journal, padding in the WAL. */
static void sectors_larger_than_pages(void)
{
    kit_start();
    r2_raw_hook.sector = 4096;
    for (size_t m = 0; m < COUNT(modes); m++)
        one_round(modes[m], 512, 0), one_round(modes[m], 1024, 0);
    r2_raw_hook.sector = 65536;
    one_round("delete", 4096, 0), one_round("wal", 4096, 0);
    r2_raw_hook.sector = 0;
    kit_stop();
}

static void empty_file(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("e.db");
    struct kit_version v = kit_make(3, 200, 4096, 0);
    for (int i = 0; i < 3; i++) {
        kit_write_file(path, "", 0);
        if (i == 1) kit_write_file(kit_path("e.db-wal"), "left over", 9);
        if (i == 2) kit_write_file(kit_path("e.db-journal"), "left over", 9);
        sqlite3 *db = kit_open(path); /* has seen the empty file */
        CU_ASSERT_EQUAL(kit_int(db, "SELECT count(*) FROM sqlite_schema"), 0);
        CU_ASSERT_EQUAL(kit_apply(path, &v, 0, &e), R2_OK);
        size_t n;
        uint8_t *b = kit_read_file(path, &n);
        CU_ASSERT_TRUE(n == (size_t)v.pages * 4096 && memcmp(b, v.bytes, n) == 0);
        free(b);
        CU_ASSERT_EQUAL(kit_which(db), 3);
        sqlite3_close(db);
        CU_ASSERT_NOT_EQUAL(access(kit_path("e.db-journal"), F_OK), 0);
    }
    /* and back to nothing */
    struct kit_version none = {.page_size = 4096};
    sqlite3 *db = kit_open(path);
    CU_ASSERT_EQUAL(kit_which(db), 3);
    CU_ASSERT_EQUAL(kit_apply(path, &none, 0, &e), R2_OK);
    CU_ASSERT_EQUAL(kit_which(db), 0);
    kit_must(db, "CREATE TABLE works(x)");
    sqlite3_close(db);
    free(v.bytes);
    kit_stop();
}

static void other_page_size_beside_an_idle_connection(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("p.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 300, 512, 0);
    CU_ASSERT_EQUAL(kit_which(db), 1);
    static const uint32_t to[] = {4096, 1024, 65536, 512};
    for (int i = 0; i < 4; i++) {
        struct kit_version v = kit_make(i + 2, 100 + i * 90, to[i], 0);
        CU_ASSERT_EQUAL(kit_apply(path, &v, 0, &e), R2_OK);
        CU_ASSERT_TRUE(kit_file_same(&v, path));
        CU_ASSERT_EQUAL(kit_which(db), v.number);
        CU_ASSERT_EQUAL(kit_int(db, "PRAGMA page_size"), to[i]);
        CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET pad = 'x'"), 0);
        free(v.bytes);
    }
    /* not in WAL mode, and nothing happens then; through r2_local_set_wal it goes */
    kit_exec(db, "PRAGMA journal_mode=WAL");
    struct kit_version v = kit_make(9, 50, 8192, 0);
    CU_ASSERT_EQUAL(kit_apply(path, &v, 0, &e), R2_REFUSED);
    CU_ASSERT_EQUAL(kit_which(db), 5);
    struct r2_local *l = NULL;
    CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 0, &l, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_set_wal(l, false, &e), R2_BUSY); /* db is in */
    sqlite3_close(db);
    CU_ASSERT_EQUAL(r2_local_set_wal(l, false, &e), R2_OK);
    CU_ASSERT_EQUAL(kit_apply_on(l, &v, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_set_wal(l, true, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_quick_check(l, &e), R2_OK);
    r2_local_close(l);
    CU_ASSERT_EQUAL(kit_which_file(path), 9);
    free(v.bytes);
    kit_stop();
}

/* Page 1 of another history may carry the very cookie that a connection has parsed. */
static void statements_are_prepared_again(void)
{
    struct r2_err e = {0};
    kit_start();
    for (size_t m = 0; m < COUNT(modes); m++) {
        const char *path = kit_path("s.db");
        unlink(path);
        unlink(kit_path("other.db"));
        sqlite3 *db = kit_open(path), *other = kit_open(kit_path("other.db"));
        kit_must(db, "CREATE TABLE a1(x); CREATE TABLE z(x)");
        kit_must(other, "CREATE TABLE b1(x); CREATE TABLE a1(x)");
        CU_ASSERT_EQUAL(kit_int(db, "PRAGMA schema_version"),
                        kit_int(other, "PRAGMA schema_version"));
        sqlite3_close(other);
        kit_exec(db, "PRAGMA journal_mode=%s", modes[m]);
        sqlite3_stmt *s;
        CU_ASSERT_EQUAL_FATAL(sqlite3_prepare_v2(db, "INSERT INTO a1 VALUES(7)", -1, &s, NULL), 0);
        CU_ASSERT_EQUAL(sqlite3_step(s), SQLITE_DONE);
        sqlite3_reset(s);
        struct kit_version v = {.page_size = 4096, .number = 1};
        size_t n;
        v.bytes = kit_read_file(kit_path("other.db"), &n);
        v.pages = (uint32_t)(n / 4096);
        CU_ASSERT_EQUAL(kit_apply(path, &v, 0, &e), R2_OK);
        CU_ASSERT_EQUAL(sqlite3_step(s), SQLITE_DONE);
        sqlite3_finalize(s);
        CU_ASSERT_EQUAL(kit_int(db, "SELECT x FROM a1"), 7);
        CU_ASSERT_EQUAL(kit_int(db, "SELECT count(*) FROM b1"), 0);
        sqlite3_close(db);
        free(v.bytes);
    }
    kit_stop();
}

/* The header of the wal-index, if both copies are equal: read in a process of its own, since
 * closing the file would drop SQLite's locks in this one. */
static struct r2_walidx_hdr published(const char *path)
{
    struct r2_walidx_hdr h[2] = {0};
    char shm[500];
    int to[2];
    snprintf(shm, sizeof shm, "%s-shm", path);
    if (pipe(to)) abort();
    pid_t pid = fork();
    if (pid == 0) {
        int fd = open(shm, O_RDONLY);
        _exit(read(fd, h, sizeof h) != sizeof h || write(to[1], h, sizeof h) != sizeof h);
    }
    waitpid(pid, NULL, 0);
    close(to[1]);
    if (read(to[0], h, sizeof h) != sizeof h || memcmp(&h[0], &h[1], sizeof *h) != 0)
        memset(h, 0xff, sizeof h);
    close(to[0]);
    return h[0];
}

/* Frames across the pieces of the wal-index, and a stale hash that a dead writer left. */
static void long_logs(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("long.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 50, 512, 0);
    kit_must(db, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; UPDATE t SET pad='a'");
    struct r2_local *l = NULL;
    CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 0, &l, &e), R2_OK);
    uint32_t before = 0;
    for (int i = 2; i < 12; i++) {
        struct kit_version v = kit_make(i, 900 + 300 * (i % 5), 512, 0);
        pid_t pid = fork();
        if (pid == 0) { /* spills frames into the log and its hash, and dies */
            sqlite3 *d = kit_open(path);
            kit_must(d, "PRAGMA cache_size=5; BEGIN; UPDATE t SET pad=randomblob(300)");
            kill(getpid(), SIGKILL);
        }
        waitpid(pid, NULL, 0);
        struct r2_walidx_hdr was = published(path), is;
        CU_ASSERT_EQUAL(kit_apply_on(l, &v, &e), R2_OK);
        is = published(path);
        CU_ASSERT_TRUE(is.version == 3007000 && is.is_init == 1);
        CU_ASSERT_EQUAL(is.change, was.change + 1);
        CU_ASSERT_TRUE(is.mx_frame > was.mx_frame && is.pages == v.pages);
        CU_ASSERT_EQUAL(kit_which(db), i);
        CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET pad=randomblob(90) WHERE id<30"), 0);
        CU_ASSERT_EQUAL(kit_which(db), i);
        struct r2_wal_end end;
        CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
        r2_local_wal_end(l, &end);
        r2_local_end(l, &e);
        CU_ASSERT_TRUE(end.frames > before + 400);
        before = end.frames;
        free(v.bytes);
    }
    CU_ASSERT_TRUE(before > 8158);
    sqlite3_close(db);
    r2_local_close(l);
    CU_ASSERT_EQUAL(kit_which_file(path), 11);
    kit_stop();
}

/* Without the shared memory SQLite recovers our frames from the -wal: the checksums are right. */
static void recovered_from_the_log_alone(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("r.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 100, 1024, 0);
    kit_must(db, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0");
    for (int i = 2; i < 6; i++) {
        struct kit_version v = kit_make(i, 150 * i, 1024, 0);
        if (i % 2) kit_must(db, "UPDATE t SET pad='between'");
        if (i == 4) kit_must(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        CU_ASSERT_EQUAL(kit_apply(path, &v, 0, &e), R2_OK);
        size_t n;
        uint8_t *b = kit_read_file(path, &n);
        kit_write_file(kit_path("copy.db"), b, n);
        free(b);
        b = kit_read_file(kit_path("r.db-wal"), &n);
        kit_write_file(kit_path("copy.db-wal"), b, n);
        free(b);
        CU_ASSERT_EQUAL(kit_which_file(kit_path("copy.db")), i);
        CU_ASSERT_TRUE(kit_file_same(&v, kit_path("copy.db"))); /* folded in by the close */
        free(v.bytes);
    }
    sqlite3_close(db);
    kit_stop();
}

static int die_when_written(void *ctx, enum r2_raw_op op, sqlite3_file *f, const void *bytes, int n,
                            int64_t at)
{
    (void)ctx, (void)f, (void)bytes, (void)n;
    if (op == R2_RAW_TRUNCATE && at > 0) kill(getpid(), SIGKILL); /* the pages are written */
    return SQLITE_OK;
}

static void die_in_an_apply(const char *path, const struct kit_version *v)
{
    int how = 0;
    pid_t pid = fork();
    if (pid == 0) {
        r2_raw_hook.before = die_when_written;
        kit_apply(path, v, 0, NULL);
        _exit(1);
    }
    waitpid(pid, &how, 0);
    CU_ASSERT_TRUE(WIFSIGNALED(how));
}

/* A PERSIST mode journal may hold a second part, and that could begin right where ours ends. */
static void leftover_of_a_longer_journal(void)
{
    static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
    uint8_t part[512 + 4 + 512 + 4] = {0};
    struct stat st;
    kit_start();
    const char *path = kit_path("j.db"), *journal = kit_path("j.db-journal");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 100, 512, 0);
    sqlite3_close(db);
    struct kit_version v = kit_make(2, 150, 512, 0);
    die_in_an_apply(path, &v);
    CU_ASSERT_EQUAL_FATAL(stat(journal, &st), 0);
    CU_ASSERT_EQUAL(kit_which_file(path), 1);
    /* a part with one record, of page 2 in zeros */
    memcpy(part, magic, 8);
    r2_put32(part + 8, 1), r2_put32(part + 16, 20);
    r2_put32(part + 20, 512), r2_put32(part + 24, 512), r2_put32(part + 512, 2);
    int fd = open(journal, O_RDWR | O_CREAT, 0644);
    CU_ASSERT_EQUAL(pwrite(fd, part, sizeof part, (st.st_size + 511) / 512 * 512), sizeof part);
    close(fd);
    die_in_an_apply(path, &v);
    CU_ASSERT_EQUAL(kit_which_file(path), 1);
    free(v.bytes);
    kit_stop();
}

/* A database of more than 1 GiB, as a sparse file: the lock page is left alone. */
static void beyond_the_lock_page(void)
{
    struct r2_err e = {0};
    struct r2_local *l = NULL;
    enum { PS = 65536, LOCK = 0x40000000 / PS + 1, END = LOCK + 3 };
    kit_start();
    const char *path = kit_path("big.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 10, PS, 0);
    sqlite3_close(db);
    int fd = open(path, O_RDWR);
    uint8_t h[4], page[PS], mark[PS];
    memset(mark, 0xaa, sizeof mark);
    r2_put32(h, END);
    CU_ASSERT_EQUAL(pwrite(fd, h, 4, 28), 4);
    for (int64_t p = LOCK - 2; p <= END; p++)
        CU_ASSERT_EQUAL(pwrite(fd, mark, PS, (p - 1) * PS), PS);
    close(fd);
    CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 0, &l, &e), R2_OK);
    uint8_t *map = calloc(1, END / 8 + 1);
    struct kit_version v = {.page_size = PS, .pages = END};
    v.bytes = mmap(NULL, (size_t)END * PS, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CU_ASSERT_TRUE_FATAL(v.bytes != MAP_FAILED && map);
    memset(v.bytes + (size_t)(LOCK - 2) * PS, 0x55, 5 * (size_t)PS);
    map[0] = 1;
    for (uint32_t p = LOCK - 1; p <= END; p++)
        map[(p - 1) / 8] |= (uint8_t)(1 << ((p - 1) % 8));
    for (int again = 0; again < 2; again++) {
        /* 0: fails after the writes, SQLite plays our journal back; 1: succeeds */
        struct r2_apply a = {
            .page_size = PS, .pages = END, .write_map = map, .read = kit_version_read, .ctx = &v};
        CU_ASSERT_EQUAL_FATAL(r2_local_begin_write(l, &e), R2_OK);
        CU_ASSERT_EQUAL(r2_local_read_pages(l, 1, 1, v.bytes, &e), R2_OK);
        if (again == 0) a.pages = LOCK;
        CU_ASSERT_EQUAL(r2_apply(l, &a, &e), again ? R2_OK : R2_CORRUPT);
        CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
        fd = open(kit_path("big.db"), O_RDONLY);
        for (int64_t p = LOCK - 2; p <= END; p++) {
            bool is_new = again && p != LOCK && p != LOCK - 2;
            CU_ASSERT_EQUAL(pread(fd, page, PS, (p - 1) * PS), PS);
            CU_ASSERT_EQUAL(page[0], is_new ? 0x55 : 0xaa);
            CU_ASSERT_EQUAL(page[PS - 1], is_new ? 0x55 : 0xaa);
        }
        close(fd); /* no lock is held by anybody now */
    }
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_read_pages(l, LOCK, 1, page, &e), R2_OK);
    CU_ASSERT_EQUAL(page[0], 0);
    r2_local_close(l);
    munmap(v.bytes, (size_t)END * PS);
    free(map);
    kit_stop();
}

static enum r2_code failing_read(void *ctx, uint32_t first, uint32_t count, uint8_t *to,
                                 struct r2_err *e)
{
    if (first + count > 20) return r2_fail(e, R2_UNREACHABLE, "the reader has lost its source");
    return kit_version_read(ctx, first, count, to, e);
}

static void a_reader_that_fails(void)
{
    struct r2_err e = {0};
    kit_start();
    for (int wal = 0; wal < 2; wal++) {
        const char *path = wal ? kit_path("fw.db") : kit_path("fr.db");
        sqlite3 *db = kit_open(path);
        kit_fill(db, 1, 600, 512, 0);
        if (wal) kit_must(db, "PRAGMA journal_mode=WAL");
        struct kit_version v = kit_make(2, 900, 512, 0);
        struct r2_local *l = NULL;
        CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 0, &l, &e), R2_OK);
        CU_ASSERT_EQUAL_FATAL(r2_local_begin_write(l, &e), R2_OK);
        uint8_t *map = kit_diff(l, &v);
        map[1] = 0; /* pages 9..16 stay: several runs */
        struct r2_apply a = {
            .page_size = 512, .pages = v.pages, .write_map = map, .read = failing_read, .ctx = &v};
        CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_UNREACHABLE);
        CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "lost its source"));
        CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
        CU_ASSERT_EQUAL(kit_which(db), 1);
        CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET pad='on'"), 0);
        r2_err_clear(&e);
        CU_ASSERT_EQUAL(kit_apply_on(l, &v, &e), R2_OK);
        CU_ASSERT_EQUAL(kit_which(db), 2);
        r2_local_close(l);
        sqlite3_close(db);
        free(map);
        free(v.bytes);
    }
    kit_stop();
}

static void refused_requests(void)
{
    struct r2_err e = {0};
    struct r2_local *l = NULL;
    kit_start();
    const char *path = kit_path("f.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 100, 1024, 0);
    struct kit_version v = kit_make(2, 300, 1024, 0);
    CU_ASSERT_EQUAL_FATAL(r2_local_open(path, 0, &l, &e), R2_OK);
    struct r2_apply a = {.page_size = 1024, .pages = v.pages, .read = kit_version_read, .ctx = &v};
    CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_REFUSED); /* no transaction */
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_REFUSED); /* a read transaction */
    r2_local_end(l, &e);
    CU_ASSERT_EQUAL_FATAL(r2_local_begin_write(l, &e), R2_OK);
    uint8_t *map = kit_diff(l, &v);
    a.write_map = map;
    map[0] &= 0xfe;
    CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_REFUSED); /* without page 1 */
    map[0] |= 1;
    map[(v.pages - 1) / 8] = 0;
    CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_REFUSED); /* without a page beyond the end */
    map[(v.pages - 1) / 8] = 0xff;
    v.bytes[17] ^= 0x10;
    CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_CORRUPT); /* page 1 speaks of another page size */
    v.bytes[17] ^= 0x10;
    v.bytes[3] ^= 1;
    CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_CORRUPT); /* no SQLite file */
    v.bytes[3] ^= 1;
    a.page_size = 1000;
    CU_ASSERT_EQUAL(r2_apply(l, &a, &e), R2_CORRUPT);
    a.page_size = 1024;
    CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
    CU_ASSERT_EQUAL(kit_which(db), 1);
    CU_ASSERT_EQUAL(kit_apply_on(l, &v, &e), R2_OK);
    r2_local_close(l);
    CU_ASSERT_EQUAL(kit_which(db), 2);
    sqlite3_close(db);
    free(map), free(v.bytes);
    kit_stop();
}

/* The journal lies beside the file that a link leads to, where every SQLite looks for it; and '?',
 * '%' and '#' in names are just characters. */
static void links_and_odd_names(void)
{
    kit_start();
    CU_ASSERT_EQUAL_FATAL(mkdir(kit_path("real"), 0755), 0);
    const char *real = kit_path("real/a?b%20#c.db"), *name = kit_path("li?nk%41.db");
    sqlite3 *db = kit_open(real);
    kit_fill(db, 1, 200, 1024, 0);
    sqlite3_close(db);
    CU_ASSERT_EQUAL_FATAL(symlink(real, name), 0);
    struct kit_version v = kit_make(2, 400, 1024, 0);
    die_in_an_apply(name, &v);
    CU_ASSERT_EQUAL(access(kit_path("real/a?b%20#c.db-journal"), F_OK), 0);
    CU_ASSERT_EQUAL(kit_which_file(real), 1);
    CU_ASSERT_EQUAL(kit_apply(name, &v, 0, NULL), R2_OK);
    CU_ASSERT_EQUAL(kit_which_file(real), 2);
    free(v.bytes);
    kit_stop();
}

UNIT_MAIN("apply", UNIT(page_1_fields), UNIT(every_mode_and_page_size), UNIT(auto_vacuum_databases),
          UNIT(sectors_larger_than_pages), UNIT(empty_file),
          UNIT(other_page_size_beside_an_idle_connection), UNIT(statements_are_prepared_again),
          UNIT(long_logs), UNIT(recovered_from_the_log_alone), UNIT(leftover_of_a_longer_journal),
          UNIT(beyond_the_lock_page), UNIT(a_reader_that_fails), UNIT(refused_requests),
          UNIT(links_and_odd_names))
