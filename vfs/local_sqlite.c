/* local_sqlite.c - see local.h: a session is a private SQLite connection and its sqlite3_file. */
#include "apply_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "buf.h"
#include "os.h"

SQLITE_EXTENSION_INIT3

enum { TIDY_FRAMES = 1000, DB_HEADER = 100 };

static const char *parent_vfs;
static _Thread_local bool opening;

void r2_local_set_vfs(const char *name)
{
    parent_vfs = name;
}

bool r2_local_opening(void)
{
    return opening;
}

static enum r2_code code_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_OK:
        return R2_OK;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return R2_BUSY;
    case SQLITE_NOMEM:
        return R2_NOMEM;
    case SQLITE_FULL:
        return R2_FULL;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return R2_CORRUPT;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return R2_READONLY;
    default:
        return R2_IO;
    }
}

/* SQLite calls a read that the disk refused SQLITE_CORRUPT, too. Only the file knows the
 * difference: sqlite3_system_errno() is not kept for that code. */
static int disk_error(sqlite3_file *f)
{
    int err = 0;
    if (!f || !f->pMethods ||
        f->pMethods->xFileControl(f, SQLITE_FCNTL_LAST_ERRNO, &err) != SQLITE_OK)
        return 0;
    return err == EIO || err == ENXIO || err == ERANGE ? err : 0;
}

enum r2_code r2_fail_sqlite(const struct r2_local *l, int rc, const char *what, struct r2_err *e)
{
    sqlite3_file *journal = NULL; /* or the -wal */
    int err = 0;
    if ((rc & 0xff) == SQLITE_CORRUPT && !(err = disk_error(l->file)) && l->db &&
        sqlite3_file_control(l->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &journal) == SQLITE_OK)
        err = disk_error(journal);
    if (err) return r2_fail_errno(e, err, "%s: %s", l->name, what);
    return r2_fail(e, code_of(rc), "%s: %s: %s", l->name, what, sqlite3_errstr(rc));
}

/* ---- open and close ---- */

void r2_local_hurry(struct r2_local *l, bool (*hurry)(void *), void *arg)
{
    l->hurry = hurry;
    l->hurry_arg = arg;
}

static bool may_wait(const struct r2_local *l, int64_t until_ms)
{
    return r2_boot_ms() < until_ms && !(l->hurry && l->hurry(l->hurry_arg));
}

static void pause_a_little(int64_t *pause_ms, int64_t until_ms)
{
    int64_t left = until_ms - r2_boot_ms();
    if (left <= 0) return;
    r2_sleep_ms(*pause_ms < left ? *pause_ms : left);
    if (*pause_ms < 50) *pause_ms *= 2;
}

/* SQLite's busy handler: false ends the waiting. */
static int wait_a_little(void *arg, int turn)
{
    struct r2_local *l = arg;
    int64_t pause_ms = (int64_t)1 << (turn < 5 ? turn : 5);
    if (!may_wait(l, l->until_ms)) return 0;
    pause_a_little(&pause_ms, l->until_ms);
    return 1;
}

static int connect_db(const char *path, struct r2_local *l)
{
    /* no URI: '?' and '%' are ordinary; a private cache: a shared one would lock against a caller
     * that is in the middle of its own open */
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    bool before = opening;
    opening = true;
    int rc = sqlite3_open_v2(path, &l->db, flags, parent_vfs);
    opening = before;
    if (rc != SQLITE_OK) return rc;
    sqlite3_extended_result_codes(l->db, 1);
    sqlite3_busy_handler(l->db, wait_a_little, l);
    /* a mapping would outlive a truncation by somebody else */
    rc = sqlite3_exec(l->db, "PRAGMA mmap_size=0", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_file_control(l->db, "main", SQLITE_FCNTL_FILE_POINTER, &l->file);
    if (rc == SQLITE_OK)
        rc = sqlite3_file_control(l->db, "main", SQLITE_FCNTL_VFS_POINTER, &l->vfs);
    if (rc == SQLITE_OK && (!l->file || !l->file->pMethods)) rc = SQLITE_CANTOPEN;
    if (rc == SQLITE_OK) l->name = sqlite3_db_filename(l->db, "main");
    if (rc == SQLITE_OK && (!l->name || !l->name[0])) rc = SQLITE_CANTOPEN;
    struct stat st;
    l->found_wal = rc == SQLITE_OK && stat(sqlite3_filename_wal(l->name), &st) == 0;
    return rc;
}

enum r2_code r2_local_open(const char *path, int64_t busy_ms, struct r2_local **out,
                           struct r2_err *e)
{
    struct stat st;
    *out = NULL;
    if (stat(path, &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return r2_fail(e, R2_MISSING, "%s does not exist", path);
        return r2_fail_errno(e, errno, "look at %s", path);
    }
    struct r2_local *l = calloc(1, sizeof *l);
    if (!l) return r2_fail(e, R2_NOMEM, "open %s: out of memory", path);
    l->busy_ms = busy_ms < 0 ? 0 : busy_ms > INT32_MAX ? INT32_MAX : busy_ms;
    int rc = connect_db(path, l);
    if (rc != SQLITE_OK) {
        l->name = path;
        enum r2_code code = r2_fail_sqlite(l, rc, "open a session", e);
        sqlite3_close(l->db);
        free(l);
        return code;
    }
    *out = l;
    return R2_OK;
}

void r2_local_close(struct r2_local *l)
{
    if (!l) return;
    if (l->state != R2_LOCAL_IDLE) r2_local_end(l, NULL);
    /* a log that was there when we came is not ours to fold in and delete */
    if (l->found_wal) sqlite3_db_config(l->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(l->db);
    r2_walidx_forget(l);
    free(l);
}

/* ---- transactions ---- */

static void stop_reading(struct r2_local *l)
{
    sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    r2_walidx_forget(l);
    l->shaped = l->wal = l->fold = false;
    l->wal_file = NULL;
    l->state = R2_LOCAL_IDLE;
}

/* A read transaction, hot journals and leftover WALs replayed. PRAGMA schema_version takes the lock
 * without parsing the schema, so a damaged schema does not keep a pull out. */
static int start_reading(struct r2_local *l, int64_t until_ms)
{
    l->until_ms = until_ms;
    int rc = sqlite3_exec(l->db, "BEGIN; PRAGMA schema_version", NULL, NULL, NULL);
    if (rc == SQLITE_OK && sqlite3_txn_state(l->db, "main") != SQLITE_TXN_READ) rc = SQLITE_ERROR;
    /* In WAL mode the connection's journal is its -wal, open; in a read transaction of the rollback
     * modes it has no journal open. */
    sqlite3_file *journal = NULL;
    if (rc == SQLITE_OK)
        rc = sqlite3_file_control(l->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &journal);
    if (rc == SQLITE_OK && journal && journal->pMethods) {
        l->wal = true;
        l->wal_file = journal;
        rc = r2_walidx_load(l);
    }
    if (rc != SQLITE_OK)
        stop_reading(l);
    else
        l->state = R2_LOCAL_READ;
    return rc;
}

/* The write lock on top of a read transaction. `file` waits for readers that are still there. */
static int lock_for_writing(struct r2_local *l, int64_t until_ms)
{
    const sqlite3_io_methods *m = l->file->pMethods;
    if (l->wal) {
        int rc = m->xShmLock(l->file, 0, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);
        if (rc != SQLITE_OK) return rc;
        rc = r2_walidx_load(l); /* what was committed since the read transaction began */
        if (rc != SQLITE_OK) m->xShmLock(l->file, 0, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
        l->shaped = false;
        return rc;
    }
    int rc = m->xLock(l->file, SQLITE_LOCK_RESERVED);
    if (rc != SQLITE_OK) return rc; /* another writer: our SHARED lock would be in its way */
    for (int64_t pause_ms = 1;; pause_a_little(&pause_ms, until_ms)) {
        rc = m->xLock(l->file, SQLITE_LOCK_EXCLUSIVE);
        if ((rc & 0xff) != SQLITE_BUSY || !may_wait(l, until_ms)) break;
    }
    if (rc != SQLITE_OK) m->xUnlock(l->file, SQLITE_LOCK_SHARED);
    return rc;
}

static enum r2_code begin(struct r2_local *l, bool write, struct r2_err *e)
{
    const char *what = write ? "lock for writing" : "lock for reading";
    if (l->state != R2_LOCAL_IDLE)
        return r2_fail(e, R2_REFUSED, "%s: a transaction is open already", l->name);
    if (write && sqlite3_db_readonly(l->db, "main") == 1)
        return r2_fail(e, R2_READONLY, "%s: may not be written", l->name);
    int64_t until_ms = r2_boot_ms() + l->busy_ms;
    for (int64_t pause_ms = 1;; pause_a_little(&pause_ms, until_ms)) {
        int rc = start_reading(l, until_ms);
        if (rc == SQLITE_OK && write) {
            rc = lock_for_writing(l, until_ms);
            if (rc == SQLITE_OK)
                l->state = R2_LOCAL_WRITE;
            else
                stop_reading(l);
        }
        if (rc == SQLITE_OK) return R2_OK;
        if (code_of(rc) != R2_BUSY || !may_wait(l, until_ms)) return r2_fail_sqlite(l, rc, what, e);
    }
}

enum r2_code r2_local_begin_read(struct r2_local *l, struct r2_err *e)
{
    return begin(l, false, e);
}

enum r2_code r2_local_begin_write(struct r2_local *l, struct r2_err *e)
{
    return begin(l, true, e);
}

enum r2_code r2_local_end(struct r2_local *l, struct r2_err *e)
{
    if (l->state == R2_LOCAL_IDLE) return R2_OK;
    const sqlite3_io_methods *m = l->file->pMethods;
    int rc = SQLITE_OK;
    if (l->state == R2_LOCAL_WRITE && l->wal)
        rc = m->xShmLock(l->file, 0, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
    else if (l->state == R2_LOCAL_WRITE)
        rc = m->xUnlock(l->file, SQLITE_LOCK_SHARED);
    bool replay = l->hot;
    l->hot = false;
    stop_reading(l);
    if (replay) {
        rc = start_reading(l, r2_boot_ms() + l->busy_ms);
        if (rc == SQLITE_OK) stop_reading(l);
        if (rc != SQLITE_OK) {
            r2_fail_sqlite(l, rc, "play back the journal of an unfinished pull", e);
            r2_advise(e, "; the old content is in the journal, leave it in place");
            return code_of(rc);
        }
    }
    return rc == SQLITE_OK ? R2_OK : r2_fail_sqlite(l, rc, "unlock", e);
}

bool r2_local_is_wal(const struct r2_local *l)
{
    return l->wal;
}

/* ---- the image ---- */

/* Sizes as SQLite sees them: the header's if it is valid and not beyond the end. */
static int find_shape(struct r2_local *l)
{
    uint8_t h[DB_HEADER];
    sqlite3_int64 size = 0;
    uint32_t frame = 0;
    int rc = l->file->pMethods->xFileSize(l->file, &size);
    if (rc != SQLITE_OK) return rc;
    l->page_size = l->pages = l->file_pages = 0;
    if (size == 0 && !l->fold) return SQLITE_OK;
    if (l->fold) l->page_size = r2_walidx_page_size(&l->idx);
    if (l->fold && (rc = r2_walidx_find(l, 1, &frame)) != SQLITE_OK) return rc;
    if (frame)
        rc = r2_raw_read(l->wal_file, h, sizeof h,
                         r2_wal_frame_at(frame, l->page_size) + R2_WAL_FRAME_HEADER);
    else
        rc = r2_raw_read(l->file, h, sizeof h, 0);
    if (rc != SQLITE_OK) return rc;
    if (!l->fold) l->page_size = r2_header_page_size(h);
    if (memcmp(h, "SQLite format 3", 16) != 0 || !r2_page_size_ok(l->page_size))
        return SQLITE_NOTADB;
    uint64_t n = ((uint64_t)size + l->page_size - 1) / l->page_size;
    if (n >= UINT32_MAX) return SQLITE_CORRUPT;
    l->file_pages = (uint32_t)n;
    uint32_t whole = l->wal && l->idx.pages ? l->idx.pages : l->file_pages;
    uint32_t told = r2_get32(h + 28);
    bool valid = told && told <= whole && memcmp(h + 24, h + 92, 4) == 0;
    l->pages = valid ? told : whole;
    return SQLITE_OK;
}

enum r2_code r2_local_shape(struct r2_local *l, uint32_t *page_size, uint32_t *pages,
                            struct r2_err *e)
{
    if (l->state == R2_LOCAL_IDLE)
        return r2_fail(e, R2_REFUSED, "%s: no transaction is open", l->name);
    int rc = l->shaped ? SQLITE_OK : find_shape(l);
    if (rc != SQLITE_OK) return r2_fail_sqlite(l, rc, "read the size", e);
    l->shaped = true;
    if (page_size) *page_size = l->page_size;
    if (pages) *pages = l->pages;
    return R2_OK;
}

void r2_wal_stamp(const void *header, struct r2_stamp *out)
{
    struct r2_walidx_hdr h;
    memcpy(&h, header, sizeof h);
    *out = (struct r2_stamp){.kind = 2,
                             .change = h.change,
                             .frames = h.mx_frame,
                             .cksum = {h.frame_sum[0], h.frame_sum[1]}};
    memcpy(out->salt, h.salt, sizeof out->salt);
}

enum r2_code r2_local_stamp(struct r2_local *l, struct r2_stamp *out, struct r2_err *e)
{
    uint8_t counter[4];
    memset(out, 0, sizeof *out);
    if (l->wal) {
        r2_wal_stamp(&l->idx, out);
        return R2_OK;
    }
    int rc = r2_raw_read(l->file, counter, sizeof counter, 24);
    if (rc != SQLITE_OK) return r2_fail_sqlite(l, rc, "read the change counter", e);
    *out = (struct r2_stamp){.kind = 1, .counter = r2_get32(counter)};
    return R2_OK;
}

enum r2_code r2_local_sync(struct r2_local *l, struct r2_err *e)
{
    int rc = SQLITE_OK;
    /* the journal's end first: SQLite cuts the file after it, and pages that were cut off are in no
     * journal that comes back */
    enum r2_code code = l->wal ? R2_OK : r2_sync_journal_of(l->name, e);
    if (code) return code;
    if (l->wal && l->wal_file && l->fold)
        rc = l->wal_file->pMethods->xSync(l->wal_file, SQLITE_SYNC_NORMAL);
    if (rc == SQLITE_OK) rc = l->file->pMethods->xSync(l->file, SQLITE_SYNC_NORMAL);
    return rc == SQLITE_OK ? R2_OK : r2_fail_sqlite(l, rc, "sync", e);
}

/* How many of the pages from `first` on come from the main file, at most `count`. */
static int main_run(struct r2_local *l, uint32_t first, uint32_t count, uint32_t *run,
                    uint32_t *frame)
{
    *frame = 0;
    *run = 0;
    if (!l->fold) {
        *run = count;
        return SQLITE_OK;
    }
    while (*run < count) {
        int rc = r2_walidx_find(l, first + *run, frame);
        if (rc != SQLITE_OK) return rc;
        if (*frame) break;
        ++*run;
    }
    if (*run) *frame = 0;
    return SQLITE_OK;
}

enum r2_code r2_local_read_pages(struct r2_local *l, uint32_t first, uint32_t count, uint8_t *to,
                                 struct r2_err *e)
{
    uint32_t ps = 0, pages = 0, run = 0, frame = 0;
    enum r2_code code = r2_local_shape(l, &ps, &pages, e);
    if (code != R2_OK) return code;
    if (first == 0 || count > pages || first - 1 > pages - count)
        return r2_fail(e, R2_REFUSED, "%s: pages %u+%u of %u asked for", l->name, first, count,
                       pages);
    uint32_t lock = r2_lock_page(ps), most = R2_RAW_CHUNK / ps;
    for (; count; first += run, count -= run, to += (size_t)run * ps) {
        run = 1;
        if (first == lock) {
            memset(to, 0, ps);
            continue;
        }
        uint32_t n = count < most ? count : most;
        if (first < lock && lock - first < n) n = lock - first;
        int rc = main_run(l, first, n, &run, &frame);
        if (rc == SQLITE_OK && frame) {
            run = 1;
            rc = r2_raw_read(l->wal_file, to, ps, r2_wal_frame_at(frame, ps) + R2_WAL_FRAME_HEADER);
        } else if (rc == SQLITE_OK) {
            rc = r2_raw_read(l->file, to, run * ps, (uint64_t)(first - 1) * ps);
        }
        if (rc != SQLITE_OK) return r2_fail_sqlite(l, rc, "read pages", e);
    }
    return R2_OK;
}

void r2_local_wal_end(const struct r2_local *l, struct r2_wal_end *out)
{
    memset(out, 0, sizeof *out);
    if (l->state == R2_LOCAL_IDLE || !l->wal || l->idx.mx_frame == 0) return;
    out->page_size = r2_walidx_page_size(&l->idx);
    out->salt[0] = r2_get32(l->idx.salt);
    out->salt[1] = r2_get32(l->idx.salt + 4);
    out->frames = l->idx.mx_frame;
    out->pages = l->idx.pages;
    memcpy(out->cksum, l->idx.frame_sum, sizeof out->cksum);
}

static int64_t read_log(void *ctx, void *to, uint64_t n, uint64_t at)
{
    struct r2_local *l = ctx; /* beyond the end there are zeros */
    return r2_raw_read(l->wal_file, to, (uint32_t)n, at) == SQLITE_OK ? (int64_t)n : -1;
}

enum r2_code r2_local_goes_on(struct r2_local *l, bool *yes, struct r2_err *e)
{
    struct r2_wal_end end = {.salt = {r2_get32(l->idx.salt), r2_get32(l->idx.salt + 4)}};
    *yes = false;
    if (!l->wal || !l->wal_file) return R2_OK;
    if (l->idx.mx_frame) r2_local_wal_end(l, &end);
    enum r2_code rc = r2_wal_goes_on(read_log, l, &end, yes, e);
    return rc ? r2_wrap(e, "%s", l->name) : R2_OK;
}

/* ---- the rest ---- */

enum r2_code r2_local_quick_check(struct r2_local *l, struct r2_err *e)
{
    sqlite3_stmt *s = NULL;
    enum r2_code code = R2_OK;
    l->until_ms = r2_boot_ms() + l->busy_ms;
    int rc = sqlite3_prepare_v2(l->db, "PRAGMA quick_check(1)", -1, &s, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(s, 0);
        if (!text || strcmp(text, "ok") != 0)
            code = r2_fail(e, R2_CORRUPT, "%s: quick_check: %s", l->name, text ? text : "no text");
    } else {
        code = r2_fail_sqlite(l, rc == SQLITE_DONE ? SQLITE_ERROR : rc, "quick_check", e);
    }
    sqlite3_finalize(s);
    return code;
}

void r2_local_tidy_wal(struct r2_local *l)
{
    if (l->state != R2_LOCAL_IDLE || sqlite3_db_readonly(l->db, "main") == 1) return;
    int frames = 0, copied = 0;
    if (start_reading(l, 0) != SQLITE_OK) return;
    bool due = l->wal && l->idx.mx_frame >= TIDY_FRAMES;
    stop_reading(l);
    if (!due) return;
    l->until_ms = 0;
    /* the long part without the write lock; then the short one, if it can be had at once */
    if (sqlite3_wal_checkpoint_v2(l->db, "main", SQLITE_CHECKPOINT_PASSIVE, &frames, &copied) ==
            SQLITE_OK &&
        frames > 0 && frames == copied)
        sqlite3_wal_checkpoint_v2(l->db, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
}

enum r2_code r2_local_set_wal(struct r2_local *l, bool wal, struct r2_err *e)
{
    const char *want = wal ? "wal" : "delete";
    sqlite3_stmt *s = NULL;
    enum r2_code code = R2_OK;
    if (l->state != R2_LOCAL_IDLE)
        return r2_fail(e, R2_REFUSED, "%s: a transaction is open", l->name);
    l->until_ms = r2_boot_ms() + l->busy_ms;
    int rc = sqlite3_prepare_v2(
        l->db, wal ? "PRAGMA main.journal_mode=WAL" : "PRAGMA main.journal_mode=DELETE", -1, &s,
        NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(s);
    if (rc != SQLITE_ROW) {
        code =
            r2_fail_sqlite(l, rc == SQLITE_DONE ? SQLITE_ERROR : rc, "change the journal mode", e);
    } else {
        const char *is = (const char *)sqlite3_column_text(s, 0);
        if (!is || strcmp(is, want) != 0)
            code = r2_fail(e, R2_BUSY, "%s: the journal mode stays %s instead of %s", l->name,
                           is ? is : "?", want);
    }
    sqlite3_finalize(s);
    return code;
}
