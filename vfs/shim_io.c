/* shim_io.c - the files of a replica: forward every call, and tell the replica what happened.
 *
 * Where SQLite lets us in is DESIGN section 5 and was tried out; in short:
 *
 * - a transaction starts: xLock(SHARED) from NONE; in WAL mode a shared lock on a read slot (3..7),
 *   but not while this file holds the write slot;
 * - pages are written: xWrite on the main file (rollback modes) or on the -wal;
 * - a commit happened: FCNTL_COMMIT_PHASETWO on the main file, in every mode;
 * - the -wal's index was made anew: its recovery slot (2) released, under the write lock;
 * - a transaction ended: xUnlock to SHARED or below; WAL's write slot released.
 *
 * Writes to a main file that has a wal-index are checkpoints: content that was committed before.
 */
#include "shim.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "buf.h"

SQLITE_EXTENSION_INIT3

enum { SHM_WRITE = 0, SHM_RECOVER = 2, SHM_READ0 = 3 };

/* Out of line, so that what SQLite calls for every page and lock stays small. */
#define NOINLINE __attribute__((noinline))
#define SELDOM   __attribute__((noinline, cold))

static struct r2_file *file_of(sqlite3_file *f)
{
    return (struct r2_file *)(void *)f;
}

static sqlite3_file *real_of(sqlite3_file *f)
{
    return file_of(f)->real;
}

/* The first transaction without a log since it was folded in: killed in it, the file has this
 * change counter or the next. */
SELDOM static void leave_log(struct r2_file *p)
{
    uint8_t counter[4];
    p->folded = false;
    if (p->has_shm || !r2_replica_was_folded(p->replica) ||
        p->real->pMethods->xRead(p->real, counter, 4, 24) != SQLITE_OK)
        return;
    struct r2_mark mark = {.counter = r2_get32(counter)};
    r2_replica_marked(p->replica, &mark);
}

/* Before the first page of a transaction changes. A state file that cannot be written would make a
 * later crash look clean: then the write fails. */
NOINLINE static int touch(struct r2_file *p, bool in_wal)
{
    struct r2_err e;
    if (p->config->sync == R2_SYNC_COMMIT) {
        int refused = r2_commit_begin(p, in_wal);
        if (refused) return refused;
    }
    if (r2_replica_foreign(p->replica)) return SQLITE_OK;
    enum r2_code rc = r2_replica_touch(p->replica, &p->marks, &e);
    if (rc) {
        r2_log_err(p->replica, &e);
        return SQLITE_IOERR_WRITE;
    }
    if (p->folded) leave_log(p);
    p->touched = p->wrote = true;
    if (!p->unsynced) p->aside = r2_replica_aside(p->replica);
    uint8_t counter[4] = {0};
    if (p->config->sync == R2_SYNC_COMMIT && !p->has_shm)
        (void)p->real->pMethods->xRead(p->real, counter, 4, 24);
    p->old_counter = r2_get32(counter);
    return SQLITE_OK;
}

SELDOM static int refused(struct r2_file *p)
{
    struct r2_err e;
    if (r2_replica_foreign(p->replica) || !r2_replica_barred(p->replica, &e)) return SQLITE_OK;
    r2_log_err(p->replica, &e);
    return SQLITE_CANTOPEN;
}

static int refuse_if_barred(struct r2_file *p)
{
    return r2_replica_at_ease(p->replica, p->config) ? SQLITE_OK : refused(p);
}

/* Has a transaction of this process ever had something to do when it began? See begin_in_wal. */
static atomic_bool turns_count;

SELDOM static int prepare(struct r2_file *p, bool first)
{
    struct r2_err e;
    atomic_store(&turns_count, true);
    if (r2_replica_foreign(p->replica)) return SQLITE_OK;
    if (refused(p)) {
        /* The first one of a connection reads the schema, and nothing else. Newer SQLites do that
         * before every SELECT: without it r2_resolve() could not be called. */
        return first ? SQLITE_OK : SQLITE_CANTOPEN;
    }
    if (p->config->sync == R2_SYNC_COMMIT) r2_replica_let_pass(p->replica);
    if (!r2_replica_refresh_due(p->replica, p->config)) return SQLITE_OK;
    enum r2_code rc = r2_replica_refresh(p->replica, p->config, &e);
    return rc == R2_BUSY ? SQLITE_BUSY : rc ? SQLITE_IOERR_LOCK : SQLITE_OK;
}

/* A transaction is about to begin. */
static int begin(struct r2_file *p)
{
    bool first = !p->used;
    p->used = true;
    return r2_replica_at_ease(p->replica, p->config) ? SQLITE_OK : prepare(p, first);
}

/* A refresh takes long beside SQLite's own steps: when somebody commits meanwhile, SQLite gives the
 * read slot back and begins anew (walTryBeginRead), up to 100 times. The refresh of the first turns
 * holds for the transaction. What tells such a turn from another transaction is SQLite's own nap
 * between them: 1 us at first, and never whole milliseconds, as busy handlers sleep. While no
 * transaction of this process has had anything to do, its turns need not be told apart. */
static _Thread_local const struct r2_file *reading; /* the last one of this thread to read */
static _Thread_local const struct r2_file *napping; /* and SQLite has napped since */

void r2_shim_slept(int us)
{
    if (us % 1000) napping = reading;
}

/* The same in WAL mode, where SQLite takes a BUSY from here for a race that it lost: up to 3.46
 * just SQLITE_BUSY, later ones all of its extended codes, too. It would try again 100 times,
 * without the busy handler, and then say "locking protocol". */
SELDOM static int begin_turn(struct r2_file *p)
{
    bool begun = p->began || napping == p; /* the first one begins with xLock */
    p->began = false;
    napping = NULL;
    int rc = begun ? SQLITE_OK : begin(p);
    while (rc == SQLITE_BUSY && p->busy && p->busy->handler(p->busy->arg))
        rc = begin(p);
    reading = rc ? NULL : p;
    if (rc != SQLITE_BUSY) return rc;
    return sqlite3_libversion_number() < 3047000 ? SQLITE_BUSY_TIMEOUT : SQLITE_LOCKED;
}

static int begin_in_wal(struct r2_file *p)
{
    if (atomic_load(&turns_count) || !r2_replica_at_ease(p->replica, p->config))
        return begin_turn(p);
    p->used = true;
    p->began = false;
    return SQLITE_OK;
}

/* Under the write lock. */
static bool wal_stamp(const struct r2_file *p, struct r2_stamp *out)
{
    if (p->shm) r2_wal_stamp((const void *)p->shm, out);
    return p->shm != NULL;
}

/* A transaction is over, and wrote. A committed one leaves its mark. */
NOINLINE static void end_of_write(struct r2_file *p)
{
    struct r2_stamp now = {.kind = 1, .counter = p->mark.counter};
    bool known = p->committed && (wal_stamp(p, &now) || !p->has_shm);
    /* a frame that is in the log is no commit before the wal-index says so */
    if (p->committed && p->shm && now.change == p->old_change) p->committed = false;
    bool committed = p->committed;
    if (p->touched && !r2_replica_foreign(p->replica)) {
        if (committed) {
            if (known)
                r2_replica_left(p->replica, &now);
            else
                r2_replica_unseen(p->replica);
            p->unsynced = p->config->sync != R2_SYNC_COMMIT;
            r2_replica_committed(p->replica, &p->mark);
        }
        r2_replica_ended(p->replica, &p->marks);
    }
    if (p->commit) r2_commit_end(p, committed);
    p->touched = p->committed = false;
}

static bool has_written(const struct r2_file *p)
{
    return p->touched || p->committed || p->commit;
}

/* ---- main database ---- */

static int main_close(sqlite3_file *f)
{
    struct r2_file *p = file_of(f);
    struct r2_err e;
    int rc = p->real->pMethods ? p->real->pMethods->xClose(p->real) : SQLITE_OK;
    /* after the real close: a -wal is folded in by now, and our own session is not in its way */
    if (r2_replica_close(p->replica, p->config, p->wrote, &e))
        r2_shim_report(p->replica, &e, "at close");
    r2_shim_forget(p);
    r2_marks_free(&p->marks);
    r2_replica_detach(p->replica);
    sqlite3_free(p->config);
    return rc;
}

SELDOM static int read_and_forget(struct r2_file *p, void *to, int n, sqlite3_int64 at)
{
    int rc = p->real->pMethods->xRead(p->real, to, n, at);
    /* what SQLite compares to see whether anybody wrote: somebody did, whatever the counters say */
    if (n == 16 && at == 24 && (rc == SQLITE_OK || rc == SQLITE_IOERR_SHORT_READ)) {
        memset(to, 0xff, 16);
        p->forget = rc != SQLITE_OK; /* an empty file: it keeps what it remembers */
    }
    return rc;
}

static int main_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at)
{
    struct r2_file *p = file_of(f);
    return p->forget ? read_and_forget(p, to, n, at) : p->real->pMethods->xRead(p->real, to, n, at);
}

/* Is the counter that this transaction gives the one after the last commit that we know of? A
 * rollback writes the old one back. */
NOINLINE static void found_counter(struct r2_file *p, const uint8_t *header)
{
    struct r2_stamp now = {.kind = 1, .counter = r2_get32(header + 24)};
    p->mark = (struct r2_mark){.counter = now.counter};
    if (p->touched) r2_replica_found(p->replica, &now, true);
}

/* Nobody can say which page it is. */
SELDOM static void cannot_mark(struct r2_file *p)
{
    p->marks.lost = true;
    r2_replica_unseen(p->replica);
}

/* SQLite writes whole pages to the main file. */
static void mark_written(struct r2_file *p, int n, sqlite3_int64 at)
{
    if (!p->touched) return; /* not ours: a forked child */
    if (n < 512 || n > 65536 || n & (n - 1) || at & (n - 1)) {
        cannot_mark(p);
        return;
    }
    p->page_size = (uint32_t)n;
    r2_replica_mark_page(p->replica, &p->marks, (uint32_t)(at >> __builtin_ctz((unsigned)n)) + 1);
}

static int main_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at)
{
    struct r2_file *p = file_of(f);
    r2_replica_count_write(p->replica);
    if (!p->has_shm) {
        int rc = p->touched ? SQLITE_OK : touch(p, false);
        if (rc) return rc;
        mark_written(p, n, at);
        if (at == 0 && n >= R2_HEADER) found_counter(p, from);
    }
    return r2_commit_half(p, p->real->pMethods->xWrite(p->real, from, n, at));
}

static int main_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    struct r2_file *p = file_of(f);
    int rc = p->has_shm || p->touched ? SQLITE_OK : touch(p, false);
    /* too low does no harm */
    if (!rc && p->touched)
        r2_replica_mark_size(p->replica, &p->marks,
                             (uint32_t)(size / (p->page_size ? p->page_size : 65536)));
    return rc ? rc : r2_commit_half(p, p->real->pMethods->xTruncate(p->real, size));
}

static int main_sync(sqlite3_file *f, int flags)
{
    struct r2_file *p = file_of(f);
    r2_replica_count_sync(p->replica);
    return r2_commit_half(p, p->real->pMethods->xSync(p->real, flags));
}

static int main_file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xFileSize(real, size);
}

/* To leave WAL mode SQLite deletes the log, lets others in, and only then writes the header from
 * its cache. Whoever came in between found WAL mode, and may have left commits in a new log: SQLite
 * does not look again, and would go on from the pages before them. */
static bool log_came_back(const struct r2_file *p)
{
    char wal[PATH_MAX];
    struct stat st;
    int n = p->left_wal ? snprintf(wal, sizeof wal, "%s-wal", p->name) : -1;
    return n > 0 && (size_t)n < sizeof wal && stat(wal, &st) == 0;
}

static int main_lock(sqlite3_file *f, int level)
{
    struct r2_file *p = file_of(f);
    if (level == SQLITE_LOCK_SHARED && p->lock == SQLITE_LOCK_NONE) {
        int rc = begin(p);
        if (rc) return rc;
        p->began = true;
    }
    if (level > SQLITE_LOCK_SHARED && refuse_if_barred(p)) return SQLITE_CANTOPEN;
    int rc = p->real->pMethods->xLock(p->real, level);
    if (rc == SQLITE_OK && level > p->lock) p->lock = level;
    if (rc == SQLITE_OK && level == SQLITE_LOCK_RESERVED) p->reserved = true;
    /* not plain BUSY: the pager would ask for the same lock again */
    if (rc == SQLITE_OK && level == SQLITE_LOCK_EXCLUSIVE && log_came_back(p))
        return SQLITE_BUSY_RECOVERY;
    return rc;
}

static int main_unlock(sqlite3_file *f, int level)
{
    struct r2_file *p = file_of(f);
    int rc = p->real->pMethods->xUnlock(p->real, level);
    if (level < p->lock) p->lock = level;
    if (level > SQLITE_LOCK_SHARED) return rc;
    if (!p->has_shm && has_written(p)) end_of_write(p);
    p->reserved = p->kept = false;
    if (level == SQLITE_LOCK_NONE) p->left_wal = false;
    return rc;
}

static int main_check_reserved(sqlite3_file *f, int *out)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xCheckReservedLock(real, out);
}

SELDOM static int pragma(struct r2_file *p, char **args)
{
    char text[R2_ERR_TEXT];
    if (!args[1]) return SQLITE_NOTFOUND;
    if (p->config->sync == R2_SYNC_COMMIT) {
        int rc = r2_commit_pragma(p, args[1], args[2], &args[0]);
        if (rc) return rc;
    }
    if (sqlite3_stricmp(args[1], "r2_last_error") != 0) return SQLITE_NOTFOUND;
    r2_replica_last_error(p->replica, text, sizeof text);
    args[0] = sqlite3_mprintf("%s", text);
    return args[0] ? SQLITE_OK : SQLITE_NOMEM;
}

SELDOM static int vfs_name(struct r2_file *p, char **name)
{
    int rc = p->real->pMethods->xFileControl(p->real, SQLITE_FCNTL_VFSNAME, name);
    if (rc == SQLITE_OK) *name = sqlite3_mprintf("r2vfs/%z", *name);
    return rc;
}

static int main_control(sqlite3_file *f, int op, void *arg)
{
    struct r2_file *p = file_of(f);
    int rc = SQLITE_OK;
    switch (op) {
    case SQLITE_FCNTL_PRAGMA:
        rc = pragma(p, arg);
        if (rc != SQLITE_NOTFOUND) return rc;
        break;
    case SQLITE_FCNTL_BUSYHANDLER:
        p->busy = arg;
        break;
    case SQLITE_FCNTL_COMMIT_PHASETWO:
        if (!p->has_shm) p->committed = p->kept = true;
        p->to_wal = false;
        if (has_written(p)) end_of_write(p);
        break;
    case SQLITE_FCNTL_SYNC:
        if (p->touched && p->config->sync == R2_SYNC_COMMIT) rc = r2_commit_rollback(p);
        if (rc) return rc;
        break;
    case SQLITE_FCNTL_PDB:
        p->db = arg;
        break;
    case SQLITE_FCNTL_VFSNAME:
        return vfs_name(p, arg);
    default:
        break;
    }
    return p->real->pMethods->xFileControl(p->real, op, arg);
}

static int main_sector_size(sqlite3_file *f)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xSectorSize(real);
}

static int main_device(sqlite3_file *f)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xDeviceCharacteristics(real);
}

static int main_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **out)
{
    struct r2_file *p = file_of(f);
    p->has_shm = true;
    p->left_wal = false; /* what came back was seen */
    int rc = p->real->pMethods->xShmMap(p->real, region, size, extend, out);
    if (region == 0 && rc == SQLITE_OK) p->shm = *out;
    return rc;
}

/* WAL's write lock, alone or with the other slots, is taken or given back. */
NOINLINE static int write_slot(struct r2_file *p, int n, int flags)
{
    struct r2_stamp now;
    bool take = flags & SQLITE_SHM_LOCK;
    if (take && p->used && refuse_if_barred(p)) return SQLITE_CANTOPEN;
    /* before the lock goes, so that no other writer marks its commit at the same time */
    if (!take && has_written(p)) end_of_write(p);
    int rc = p->real->pMethods->xShmLock(p->real, SHM_WRITE, n, flags);
    if (rc != SQLITE_OK) return rc;
    p->wal_write = take;
    if (take && !r2_replica_foreign(p->replica) && wal_stamp(p, &now)) {
        r2_replica_found(p->replica, &now, false);
        p->old_change = now.change;
    }
    return rc;
}

NOINLINE static int read_slot(struct r2_file *p, int slot, int n)
{
    int rc = begin_in_wal(p);
    if (rc) return rc;
    return p->real->pMethods->xShmLock(p->real, slot, n, SQLITE_SHM_LOCK | SQLITE_SHM_SHARED);
}

/* WAL's recovery slot is given back, alone or with another. */
SELDOM static int recovered(struct r2_file *p, int slot, int n, int flags)
{
    struct r2_stamp now;
    if (!r2_replica_foreign(p->replica) && wal_stamp(p, &now))
        r2_replica_recovered(p->replica, &now);
    return p->real->pMethods->xShmLock(p->real, slot, n, flags);
}

static int main_shm_lock(sqlite3_file *f, int slot, int n, int flags)
{
    struct r2_file *p = file_of(f);
    if (slot == SHM_WRITE && flags & SQLITE_SHM_EXCLUSIVE) return write_slot(p, n, flags);
    if (flags == (SQLITE_SHM_LOCK | SQLITE_SHM_SHARED) && slot >= SHM_READ0 && !p->wal_write)
        return read_slot(p, slot, n);
    if (flags == (SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE) && slot <= SHM_RECOVER &&
        slot + n > SHM_RECOVER)
        return recovered(p, slot, n, flags);
    return p->real->pMethods->xShmLock(p->real, slot, n, flags);
}

static void main_shm_barrier(sqlite3_file *f)
{
    sqlite3_file *real = real_of(f);
    real->pMethods->xShmBarrier(real);
}

/* All of the log is in the database file, and the log is about to go. */
SELDOM static void folded(struct r2_file *p)
{
    struct r2_stamp now;
    if (!r2_replica_foreign(p->replica) && wal_stamp(p, &now)) r2_replica_folded(p->replica, &now);
}

static int main_shm_unmap(sqlite3_file *f, int delete)
{
    struct r2_file *p = file_of(f);
    if (delete &&p->lock == SQLITE_LOCK_EXCLUSIVE) {
        folded(p);
        p->left_wal = p->folded = true;
    }
    p->has_shm = false;
    p->shm = NULL;
    return p->real->pMethods->xShmUnmap(p->real, delete);
}

static int main_fetch(sqlite3_file *f, sqlite3_int64 at, int n, void **out)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xFetch(real, at, n, out);
}

static int main_unfetch(sqlite3_file *f, sqlite3_int64 at, void *page)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xUnfetch(real, at, page);
}

/* ---- -wal ---- */

static int wal_close(sqlite3_file *f)
{
    sqlite3_file *real = real_of(f);
    r2_frames_free(file_of(f));
    return real->pMethods ? real->pMethods->xClose(real) : SQLITE_OK;
}

/* Learn the log's page size: from its header, which is being written, or has been. */
SELDOM static void know_page_size(struct r2_file *w, const uint8_t *from, int n, sqlite3_int64 at)
{
    uint8_t page_size[4];
    if (at == 0 && n == R2_WAL_HEADER)
        w->wal_page = r2_get32(from + 8);
    else if (!w->wal_page && w->real->pMethods->xRead(w->real, page_size, 4, 8) == SQLITE_OK)
        w->wal_page = r2_get32(page_size);
    if (w->wal_page >= 512 && w->wal_page <= 65536) return;
    w->wal_page = 0;
    cannot_mark(w->main);
}

/* A frame's header is about to be written: mark its page, and keep what a committing one says (see
 * struct r2_mark). Its page follows, or was there before (a header rewritten once its checksum was
 * known). What SQLite pads a sector with repeats the commit's frame, in pieces of any size. */
NOINLINE static void watch_frame(struct r2_file *w, const uint8_t *from, sqlite3_int64 at)
{
    struct r2_file *p = w->main;
    uint32_t pgno = r2_get32(from), pages = r2_get32(from + 4), frames = 0;
    if (w->wal_page) {
        uint64_t in_log = (uint64_t)(at - R2_WAL_HEADER), frame = R2_WAL_FRAME_HEADER + w->wal_page;
        frames = (uint32_t)(in_log / frame) + 1;
        if ((frames - 1) * frame != in_log) return;
        if (pgno) r2_replica_mark_page(p->replica, &p->marks, pgno);
        if (pages) r2_replica_mark_size(p->replica, &p->marks, pages);
    }
    if (!pages || (!r2_get32(from + 8) && !r2_get32(from + 12))) return;
    p->mark = (struct r2_mark){.wal_page = w->wal_page,
                               .wal_frames = frames,
                               .wal_salt = {r2_get32(from + 8), r2_get32(from + 12)},
                               .wal_cksum = {r2_get32(from + 16), r2_get32(from + 20)}};
    p->committed = true;
}

/* A log begins, anew perhaps: all that was committed is in the database file, and no frame says so.
 */
SELDOM static void log_begun(struct r2_file *w, const uint8_t *header)
{
    struct r2_mark mark = {.wal_page = w->wal_page,
                           .wal_salt = {r2_get32(header + 16), r2_get32(header + 20)},
                           .wal_cksum = {r2_get32(header + 24), r2_get32(header + 28)}};
    r2_replica_marked(w->main->replica, &mark);
}

static int wal_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at)
{
    struct r2_file *w = file_of(f), *p = w->main;
    int rc = SQLITE_OK;
    r2_replica_count_write(p->replica);
    if (!p->touched) {
        rc = touch(p, true);
        if (rc) return rc;
        r2_frames_begin(w);
    }
    if (p->touched && (!w->wal_page || at == 0)) know_page_size(w, from, n, at);
    if (p->touched && n == R2_WAL_FRAME_HEADER && at >= R2_WAL_HEADER) watch_frame(w, from, at);
    if (p->touched && p->config->sync == R2_SYNC_COMMIT) {
        /* its header cannot be read: no frame would be known for what it is */
        if (!w->wal_page) return SQLITE_IOERR_READ;
        rc = r2_commit_wal_write(w, from, n, at);
    } else {
        rc = w->real->pMethods->xWrite(w->real, from, n, at);
    }
    if (at == 0 && n == R2_WAL_HEADER && rc == SQLITE_OK && p->touched) log_begun(w, from);
    return rc;
}

static int wal_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    struct r2_file *w = file_of(f);
    /* a checkpoint has copied all of it, and keeps writers out: sealed before it goes */
    if (size == 0) folded(w->main);
    return w->real->pMethods->xTruncate(w->real, size);
}

static int wal_sync(sqlite3_file *f, int flags)
{
    struct r2_file *w = file_of(f);
    r2_replica_count_sync(w->main->replica);
    return w->real->pMethods->xSync(w->real, flags);
}

static int wal_lock(sqlite3_file *f, int level)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xLock(real, level);
}

static int wal_unlock(sqlite3_file *f, int level)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xUnlock(real, level);
}

static int wal_control(sqlite3_file *f, int op, void *arg)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xFileControl(real, op, arg);
}

/* ---- tables: SQLite must never be offered a method that the parent does not have ---- */

#define MAIN_V1                                                                                    \
    .xClose = main_close, .xRead = main_read, .xWrite = main_write, .xTruncate = main_truncate,    \
    .xSync = main_sync, .xFileSize = main_file_size, .xLock = main_lock, .xUnlock = main_unlock,   \
    .xCheckReservedLock = main_check_reserved, .xFileControl = main_control,                       \
    .xSectorSize = main_sector_size, .xDeviceCharacteristics = main_device
#define MAIN_V2                                                                                    \
    MAIN_V1, .xShmMap = main_shm_map, .xShmLock = main_shm_lock, .xShmBarrier = main_shm_barrier,  \
             .xShmUnmap = main_shm_unmap

static const sqlite3_io_methods main_methods[3] = {
    {.iVersion = 1, MAIN_V1},
    {.iVersion = 2, MAIN_V2},
    {.iVersion = 3, MAIN_V2, .xFetch = main_fetch, .xUnfetch = main_unfetch},
};

static const sqlite3_io_methods wal_methods = {
    .iVersion = 1, /* a -wal is never shared-memory mapped, nor fetched */
    .xClose = wal_close,
    .xRead = main_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = main_file_size,
    .xLock = wal_lock,
    .xUnlock = wal_unlock,
    .xCheckReservedLock = main_check_reserved,
    .xFileControl = wal_control,
    .xSectorSize = main_sector_size,
    .xDeviceCharacteristics = main_device,
};

const sqlite3_io_methods *r2_shim_main_methods(int version)
{
    return &main_methods[version < 1 ? 0 : version > 3 ? 2 : version - 1];
}

const sqlite3_io_methods *r2_shim_wal_methods(void)
{
    return &wal_methods;
}

struct r2_file *r2_shim_file(sqlite3_file *f)
{
    if (!f || f->pMethods < main_methods || f->pMethods > main_methods + 2) return NULL;
    return file_of(f);
}
