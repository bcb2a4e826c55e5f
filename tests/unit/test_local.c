/* test_local.c - sessions on a real file: the image, the locks, what SQLite replays for us. */
#include "localkit.h"

#include "os.h"

static struct r2_local *session(const char *path, int64_t busy_ms)
{
    struct r2_err e = {0};
    struct r2_local *l = NULL;
    if (r2_local_open(path, busy_ms, &l, &e) != R2_OK) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    return l;
}

/* The image opened as a database of its own: which version it holds. */
static int which_image(struct r2_local *l)
{
    uint32_t ps, pages;
    uint8_t *b = kit_image(l, &ps, &pages);
    if (!b) return -2;
    if (pages) b[18] = b[19] = 1;
    kit_write_file(kit_path("image"), b, (size_t)ps * pages);
    free(b);
    return kit_which_file(kit_path("image"));
}

static bool image_is_file(struct r2_local *l, const char *path)
{
    uint32_t ps, pages;
    size_t n;
    uint8_t *b = kit_image(l, &ps, &pages), *f = kit_read_file(path, &n);
    bool yes = b && f && n == (size_t)ps * pages && memcmp(b, f, n) == 0;
    free(b), free(f);
    return yes;
}

static void what_cannot_be_opened(void)
{
    struct r2_err e = {0};
    struct r2_local *l = NULL;
    kit_start();
    CU_ASSERT_EQUAL(r2_local_open(kit_path("none.db"), 0, &l, &e), R2_MISSING);
    CU_ASSERT_EQUAL(r2_local_open(kit_path("none/none.db"), 0, &l, &e), R2_MISSING);
    CU_ASSERT_NOT_EQUAL(access(kit_path("none.db"), F_OK), 0);
    CU_ASSERT_PTR_NULL(l);
    CU_ASSERT_EQUAL(r2_local_open(kit_dir, 0, &l, &e), R2_IO);
    kit_write_file(kit_path("text"), "this is no database, but a text of some length", 40);
    r2_local_set_vfs("no such vfs");
    CU_ASSERT_EQUAL(r2_local_open(kit_path("text"), 0, &l, &e), R2_IO);
    r2_local_set_vfs("unix");
    l = session(kit_path("text"), 0);
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_CORRUPT);
    CU_ASSERT_EQUAL(r2_local_begin_write(l, &e), R2_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "text"));
    r2_local_close(l);
    r2_local_set_vfs(NULL);
    r2_local_close(NULL);
    kit_stop();
}

static void the_image_is_the_file(void)
{
    static const uint32_t sizes[] = {512, 4096, 65536};
    struct r2_err e = {0};
    uint32_t ps = 9, pages = 9;
    uint8_t page[4096];
    kit_start();
    kit_write_file(kit_path("empty"), "", 0);
    struct r2_local *l = session(kit_path("empty"), 0);
    CU_ASSERT_EQUAL(r2_local_shape(l, &ps, &pages, &e), R2_REFUSED);
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_REFUSED); /* twice */
    CU_ASSERT_EQUAL(r2_local_shape(l, &ps, &pages, &e), R2_OK);
    CU_ASSERT_TRUE(ps == 0 && pages == 0);
    CU_ASSERT_EQUAL(r2_local_read_pages(l, 1, 1, page, &e), R2_REFUSED);
    r2_local_close(l);
    for (int i = 0; i < 3; i++) {
        const char *path = kit_path("i.db");
        unlink(path);
        sqlite3 *db = kit_open(path);
        kit_fill(db, 1, 3000, sizes[i], 0);
        l = session(path, 0);
        CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
        CU_ASSERT_FALSE(r2_local_is_wal(l));
        CU_ASSERT_TRUE(image_is_file(l, path));
        CU_ASSERT_EQUAL(r2_local_shape(l, &ps, &pages, &e), R2_OK);
        CU_ASSERT_EQUAL(ps, sizes[i]);
        CU_ASSERT_EQUAL(r2_local_read_pages(l, 0, 1, page, &e), R2_REFUSED);
        CU_ASSERT_EQUAL(r2_local_read_pages(l, pages, 2, page, &e), R2_REFUSED);
        CU_ASSERT_EQUAL(r2_local_read_pages(l, UINT32_MAX, 2, page, &e), R2_REFUSED);
        CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET ver=2"), SQLITE_BUSY); /* it is a real lock */
        CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
        CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET ver=2"), SQLITE_OK);
        r2_local_close(l);
        sqlite3_close(db);
    }
    kit_stop();
}

/* The header's size counts if it is valid and lies within the file; else the file's. */
static void sizes_as_sqlite_sees_them(void)
{
    struct r2_err e = {0};
    uint32_t ps, pages, real;
    uint8_t h[100], word[4];
    kit_start();
    const char *path = kit_path("h.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 100, 1024, 0);
    sqlite3_close(db);
    int fd = open(path, O_RDWR);
    CU_ASSERT_EQUAL(pread(fd, h, 100, 0), 100);
    real = r2_get32(h + 28);
    CU_ASSERT_EQUAL(ftruncate(fd, (off_t)(real + 5) * 1024), 0); /* a chunk set aside */
    for (int i = 0; i < 3; i++) {
        static const int grow[] = {0, 50, 0};
        r2_put32(word, real + (uint32_t)grow[i]); /* 1: beyond the end */
        CU_ASSERT_EQUAL(pwrite(fd, word, 4, 28), 4);
        r2_put32(word, r2_get32(h + 92) + (i == 2)); /* 2: by a SQLite that does not know it */
        CU_ASSERT_EQUAL(pwrite(fd, word, 4, 92), 4);
        struct r2_local *l = session(path, 0);
        CU_ASSERT_EQUAL(i == 1 || r2_local_begin_read(l, &e) == R2_OK, true);
        if (i != 1) {
            CU_ASSERT_EQUAL(r2_local_shape(l, &ps, &pages, &e), R2_OK);
            CU_ASSERT_EQUAL(pages, i == 0 ? real : real + 5);
        } else {
            CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_CORRUPT); /* SQLite says so itself */
        }
        r2_local_close(l);
    }
    close(fd);
    kit_stop();
}

static int64_t file_read(void *ctx, void *to, uint64_t n, uint64_t at)
{
    return pread(*(int *)ctx, to, n, (off_t)at);
}

static void wal_frames_are_folded_in(void)
{
    struct r2_err e = {0};
    struct r2_wal_end end, scan;
    kit_start();
    const char *path = kit_path("w.db");
    sqlite3 *db = kit_open(path), *w = kit_open(path);
    kit_fill(db, 1, 400, 1024, 0);
    kit_must(db, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0");
    struct r2_local *l = session(path, 0);
    for (int i = 2; i < 7; i++) {
        kit_exec(db, "UPDATE t SET ver=%d, pad=randomblob(200)", i);
        if (i == 4) kit_must(db, "BEGIN; SELECT * FROM t LIMIT 1");
        if (i == 5) kit_must(db, "COMMIT; DELETE FROM t WHERE id>150; VACUUM");
        if (i == 6) kit_must(db, "PRAGMA wal_checkpoint(PASSIVE)");
        kit_must(w, "PRAGMA cache_size=4; BEGIN; UPDATE t SET pad=zeroblob(300)"); /* spills */
        CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
        CU_ASSERT_TRUE(r2_local_is_wal(l));
        CU_ASSERT_EQUAL(which_image(l), i);
        r2_local_wal_end(l, &end);
        kit_must(w, "ROLLBACK");
        int fd = open(kit_path("w.db-wal"), O_RDONLY);
        CU_ASSERT_EQUAL(r2_wal_scan(file_read, &fd, NULL, NULL, &scan, &e), R2_OK);
        close(fd);
        if (i < 6) {
            CU_ASSERT_EQUAL(memcmp(&scan, &end, sizeof end), 0);
            CU_ASSERT_TRUE(end.frames > 100);
        } else {
            CU_ASSERT_EQUAL(end.frames, 0); /* the spill has begun the log anew */
        }
        CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
    }
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
    uint32_t ps, pages;
    uint8_t *b = kit_image(l, &ps, &pages);
    r2_local_end(l, &e);
    kit_must(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    size_t n;
    uint8_t *f = kit_read_file(path, &n);
    CU_ASSERT_TRUE(b && n == (size_t)ps * pages && memcmp(b, f, n) == 0);
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
    r2_local_wal_end(l, &end);
    CU_ASSERT_EQUAL(end.frames, 0);
    CU_ASSERT_TRUE(image_is_file(l, path));
    free(b), free(f);
    r2_local_close(l);
    sqlite3_close(db), sqlite3_close(w);
    CU_ASSERT_NOT_EQUAL(access(kit_path("w.db-wal"), F_OK), 0);
    kit_stop();
}

/* Whatever others do: begun anew, copied, appended, the image stays what it was. */
static void the_image_stays(void)
{
    static const char *const before[] = {
        "PRAGMA wal_checkpoint(PASSIVE)",  /* slot 0: all is copied */
        "UPDATE t SET pad='x' WHERE id=1", /* a read mark */
        "PRAGMA wal_checkpoint(TRUNCATE)", /* an empty log */
        "PRAGMA wal_checkpoint(PASSIVE);UPDATE t SET pad='x' WHERE id=2", /* a part is copied */
    };
    struct r2_err e = {0};
    kit_start();
    for (int i = 0; i < 4; i++) {
        const char *path = kit_path("s.db");
        unlink(path);
        sqlite3 *db = kit_open(path);
        kit_fill(db, 1, 200, 1024, 0);
        kit_must(db, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;"
                     "UPDATE t SET pad=zeroblob(150)");
        kit_must(db, before[i]);
        struct r2_local *l = session(path, 0);
        CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
        uint32_t ps, pages, ps2, pages2;
        uint8_t *a = kit_image(l, &ps, &pages);
        for (int round = 0; round < 6; round++) {
            kit_exec(db, "UPDATE t SET ver=%d, pad=randomblob(%d)", round + 2, 100 + 90 * round);
            if (round == 3) kit_must(db, "DELETE FROM t WHERE id > 20; VACUUM");
            if (round % 2) kit_must(db, "PRAGMA wal_checkpoint(PASSIVE)");
            if (round == 4) kit_exec(db, "PRAGMA wal_checkpoint(RESTART)");
            uint8_t *b = kit_image(l, &ps2, &pages2);
            CU_ASSERT_TRUE(a && b && ps == ps2 && pages == pages2);
            CU_ASSERT_EQUAL(memcmp(a, b, (size_t)ps * pages), 0);
            free(b);
        }
        free(a);
        CU_ASSERT_EQUAL(which_image(l), 1);
        CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
        CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
        CU_ASSERT_EQUAL(which_image(l), 7);
        r2_local_close(l);
        sqlite3_close(db);
    }
    kit_stop();
}

/* A process that commits and checkpoints without a pause: every image is one committed state. */
static void busy_writer(const char *path, int stop_fd)
{
    sqlite3 *db = kit_open(path);
    sqlite3_busy_timeout(db, 600000);
    kit_must(db, "PRAGMA wal_autocheckpoint=20; PRAGMA cache_size=8; PRAGMA synchronous=OFF");
    char c;
    for (int i = 2; read(stop_fd, &c, 1) != 1; i++) {
        if (kit_exec(db, "BEGIN; UPDATE t SET ver=%d, pad=randomblob(%d); %s", i, 50 + i % 300,
                     i % 5 ? "COMMIT" : "ROLLBACK") != SQLITE_OK)
            _exit(1);
        if (i % 7 == 0) kit_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    }
    sqlite3_close(db);
    _exit(0);
}

static void images_beside_a_busy_writer(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("b.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 40, 1024, 0);
    kit_must(db, "PRAGMA journal_mode=WAL");
    sqlite3_close(db);
    int stop[2];
    if (pipe2(stop, O_NONBLOCK)) abort();
    pid_t pid[2];
    for (int i = 0; i < 2; i++)
        if ((pid[i] = fork()) == 0) busy_writer(path, stop[0]);
    struct r2_local *l = session(path, 600000);
    int last = 0, changed = 0, bad = 0;
    for (int i = 0; changed < 60; i++) {
        uint32_t ps, pages, ps2, pages2;
        if ((i % 8 ? r2_local_begin_read(l, &e) : r2_local_begin_write(l, &e)) != R2_OK) {
            fprintf(stderr, "%s\n", e.text);
            bad++;
            break;
        }
        uint8_t *a = kit_image(l, &ps, &pages), *b = kit_image(l, &ps2, &pages2);
        bad += !a || !b || ps != ps2 || pages != pages2 || memcmp(a, b, (size_t)ps * pages) != 0;
        free(a), free(b);
        int which = which_image(l);
        r2_local_end(l, &e);
        bad += which <= 0;
        if (bad) break;
        changed += which != last;
        last = which;
    }
    CU_ASSERT_EQUAL(bad, 0);
    r2_local_close(l);
    CU_ASSERT_EQUAL(write(stop[1], "ss", 2), 2);
    for (int i = 0; i < 2; i++) {
        int how;
        waitpid(pid[i], &how, 0);
        CU_ASSERT_TRUE(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    }
    close(stop[0]), close(stop[1]);
    CU_ASSERT_TRUE(kit_which_file(path) > 0);
    kit_stop();
}

/* A process that died in the middle leaves a hot journal, or a log with an unfinished transaction.
 */
static void what_a_dead_process_left(void)
{
    struct r2_err e = {0};
    kit_start();
    for (int wal = 0; wal < 2; wal++)
        for (int write = 0; write < 2; write++) {
            const char *path = kit_path("d.db");
            unlink(path), unlink(kit_path("d.db-wal")), unlink(kit_path("d.db-shm"));
            pid_t pid = fork();
            if (pid == 0) {
                sqlite3 *db = kit_open(path);
                kit_fill(db, 1, 300, 1024, 0);
                if (wal) kit_must(db, "PRAGMA journal_mode=WAL; UPDATE t SET pad='kept'");
                kit_must(db, "PRAGMA cache_size=4; BEGIN; UPDATE t SET ver=2, pad=randomblob(400)");
                kill(getpid(), SIGKILL);
            }
            waitpid(pid, NULL, 0);
            CU_ASSERT_EQUAL(access(kit_path(wal ? "d.db-wal" : "d.db-journal"), F_OK), 0);
            struct r2_local *l = session(path, 0);
            CU_ASSERT_EQUAL((write ? r2_local_begin_write : r2_local_begin_read)(l, &e), R2_OK);
            CU_ASSERT_EQUAL(r2_local_is_wal(l), wal);
            CU_ASSERT_EQUAL(which_image(l), 1);
            CU_ASSERT_NOT_EQUAL(access(kit_path("d.db-journal"), F_OK), 0);
            r2_local_close(l);
            CU_ASSERT_EQUAL(kit_which_file(path), 1);
        }
    kit_stop();
}

static void busy_is_busy(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("l.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 20, 1024, 0);
    struct r2_local *l = session(path, 30), *m = session(path, 0);
    kit_must(db, "BEGIN EXCLUSIVE");
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_BUSY);
    CU_ASSERT_EQUAL(r2_local_begin_write(l, &e), R2_BUSY);
    kit_must(db, "COMMIT");
    CU_ASSERT_EQUAL(r2_local_begin_write(l, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_begin_write(m, &e), R2_BUSY);
    CU_ASSERT_EQUAL(r2_local_begin_read(m, &e), R2_BUSY);
    CU_ASSERT_EQUAL(kit_int(db, "SELECT count(*) FROM t"), -1);
    CU_ASSERT_EQUAL(r2_local_end(l, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_begin_read(m, &e), R2_OK);
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
    r2_local_end(l, &e);
    CU_ASSERT_EQUAL(r2_local_begin_write(l, &e), R2_BUSY); /* m reads */
    CU_ASSERT_EQUAL(kit_int(db, "SELECT count(*) FROM t"), 20);
    r2_local_end(m, &e);
    CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET pad='free'"), 0);
    r2_local_close(l), r2_local_close(m);
    sqlite3_close(db);
    kit_stop();
}

static void a_file_that_may_not_be_written(void)
{
    struct r2_err e = {0};
    kit_start();
    sqlite3 *db = kit_open(kit_path("r.db"));
    kit_fill(db, 1, 20, 1024, 0);
    sqlite3_close(db);
    if (chmod(kit_path("r.db"), 0444) != 0 || chmod(kit_dir, 0755) != 0) abort();
    pid_t pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && setuid(65534) != 0) _exit(9);
        struct r2_local *l = session(kit_path("r.db"), 0);
        if (r2_local_begin_write(l, &e) != R2_READONLY) _exit(1);
        if (r2_local_begin_read(l, &e) != R2_OK || !image_is_file(l, kit_path("r.db"))) _exit(2);
        r2_local_close(l);
        _exit(0);
    }
    int how;
    waitpid(pid, &how, 0);
    CU_ASSERT_TRUE(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    kit_stop();
}

static void quick_check(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("q.db");
    sqlite3 *db = kit_open(path);
    kit_fill(db, 1, 300, 1024, 0);
    struct r2_local *l = session(path, 0);
    CU_ASSERT_EQUAL(r2_local_quick_check(l, &e), R2_OK);
    sqlite3_close(db);
    int fd = open(path, O_RDWR);
    CU_ASSERT_EQUAL(pwrite(fd, "XXXXXXXXXXXXXXXXXXXXXXXX", 24, 20 * 1024), 24);
    close(fd);
    r2_local_close(l);
    l = session(path, 0);
    CU_ASSERT_EQUAL(r2_local_quick_check(l, &e), R2_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "quick_check"));
    r2_local_close(l);
    kit_stop();
}

static off_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : -1;
}

static void tidying_the_log(void)
{
    struct r2_err e = {0};
    kit_start();
    const char *path = kit_path("t.db"), *wal = kit_path("t.db-wal");
    sqlite3 *db = kit_open(path), *reader = kit_open(path);
    kit_fill(db, 1, 100, 512, 0);
    struct r2_local *l = session(path, 10000);
    r2_local_tidy_wal(l); /* no WAL: nothing */
    kit_must(db, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; UPDATE t SET pad='x'");
    off_t small = size_of(wal);
    r2_local_tidy_wal(l);
    CU_ASSERT_EQUAL(size_of(wal), small); /* too short to be worth it */
    while (size_of(wal) < 1100 * 536)
        kit_must(db, "UPDATE t SET pad=randomblob(100)");
    kit_must(reader, "BEGIN; SELECT * FROM t LIMIT 1");
    r2_local_tidy_wal(l); /* a reader is in the way: it is left alone, and nobody waits for it */
    CU_ASSERT_TRUE(size_of(wal) > 1000 * 536);
    CU_ASSERT_EQUAL(kit_which(reader), 1);
    kit_must(db, "BEGIN IMMEDIATE");
    r2_local_tidy_wal(l); /* a writer */
    kit_must(db, "COMMIT");
    kit_must(reader, "COMMIT");
    r2_local_tidy_wal(l);
    CU_ASSERT_EQUAL(size_of(wal), 0);
    CU_ASSERT_EQUAL(kit_which(reader), 1);
    CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET ver=5"), 0);
    CU_ASSERT_EQUAL(kit_which(reader), 5);
    CU_ASSERT_EQUAL(r2_local_begin_read(l, &e), R2_OK);
    r2_local_tidy_wal(l); /* inside a transaction: nothing */
    CU_ASSERT_EQUAL(which_image(l), 5);
    r2_local_close(l);
    sqlite3_close(db), sqlite3_close(reader);
    kit_stop();
}

/* A session from inside the caller's own xOpen, also with a shared cache. */
static sqlite3_vfs shim;
static int shim_result, shim_saw_flag;

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    sqlite3_vfs *real = vfs->pAppData;
    if ((flags & SQLITE_OPEN_MAIN_DB) && name && access(name, F_OK) == 0) {
        struct r2_local *l = NULL;
        struct r2_err e = {0};
        shim_result = r2_local_open(name, 0, &l, &e) == R2_OK &&
                      r2_local_begin_write(l, &e) == R2_OK && image_is_file(l, name);
        r2_local_close(l);
    }
    return real->xOpen(real, name, f, flags, out);
}

static int watch_opens(sqlite3 *db, char **text, const struct sqlite3_api_routines *api)
{
    (void)db, (void)text, (void)api;
    shim_saw_flag += r2_local_opening();
    return SQLITE_OK;
}

static void from_inside_an_open(void)
{
    kit_start();
    sqlite3 *db = kit_open(kit_path("o.db"));
    kit_fill(db, 1, 50, 1024, 0);
    sqlite3_close(db);
    shim = *sqlite3_vfs_find(NULL);
    shim.zName = "shim", shim.pAppData = sqlite3_vfs_find(NULL), shim.xOpen = shim_open;
    sqlite3_vfs_register(&shim, 1); /* as the default: sessions need the parent's name */
    r2_local_set_vfs("unix");
    sqlite3_auto_extension((void (*)(void))watch_opens);
    for (int shared = 0; shared < 2; shared++) {
        sqlite3_enable_shared_cache(shared);
        shim_result = shim_saw_flag = 0;
        CU_ASSERT_EQUAL(sqlite3_open_v2(kit_path("o.db"), &db, SQLITE_OPEN_READWRITE, NULL), 0);
        CU_ASSERT_EQUAL(shim_result, 1);
        CU_ASSERT_EQUAL(shim_saw_flag, 1); /* the session, not the caller's own connection */
        CU_ASSERT_FALSE(r2_local_opening());
        CU_ASSERT_EQUAL(kit_exec(db, "UPDATE t SET pad='ok'"), 0);
        sqlite3_close(db);
    }
    sqlite3_enable_shared_cache(0);
    sqlite3_vfs_unregister(&shim);
    sqlite3_vfs_register(shim.pAppData, 1);
    sqlite3_reset_auto_extension();
    r2_local_set_vfs(NULL);
    kit_stop();
}

UNIT_MAIN("local", UNIT(what_cannot_be_opened), UNIT(the_image_is_the_file),
          UNIT(sizes_as_sqlite_sees_them), UNIT(wal_frames_are_folded_in), UNIT(the_image_stays),
          UNIT(images_beside_a_busy_writer), UNIT(what_a_dead_process_left), UNIT(busy_is_busy),
          UNIT(a_file_that_may_not_be_written), UNIT(quick_check), UNIT(tidying_the_log),
          UNIT(from_inside_an_open))
