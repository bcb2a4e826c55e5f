/* shim_commit.c - sync=commit: where SQLite lets a push into COMMIT (DESIGN section 5).
 *
 * Rollback modes: FCNTL_SYNC reaches the main file when all pages of the transaction are in it. It
 * comes during rollbacks and hot-journal playback as well: only a moved change counter makes it a
 * commit. An error returned there rolls the transaction back.
 *
 * It comes with EXCLUSIVE that was taken without RESERVED when a dead writer's journal is played
 * back: that is no commit either, whatever the counters say.
 *
 * WAL: the commit is the frame whose header has a size. Its header is held back until the page that
 * follows has arrived and the push is through: no reader, and no recovery, can see the transaction
 * before. A frame that is rewritten within its transaction first arrives with a header without
 * checksum, which is passed on; the header that is written again later is then the commit. After
 * the push SQLite may repeat the frame to fill a sector: that passes. */
#include "shim.h"

#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "changes.h"
#include "local.h"
#include "wal.h"

SQLITE_EXTENSION_INIT3

/* The frames of the transaction in progress, in the order of their places. */
struct r2_frames {
    struct {
        uint32_t pgno;
        sqlite3_int64 at; /* of the header */
    } * frame;
    uint32_t count, room;
    bool lost;                           /* no memory: the transaction cannot be pushed */
    bool holds;                          /* a commit's header is held back: */
    uint8_t header[R2_WAL_FRAME_HEADER]; /* this one */
    sqlite3_int64 held_at;
    sqlite3_int64 passed_at; /* a commit's header without checksum was passed on here; 0: none */
};

void r2_frames_free(struct r2_file *w)
{
    if (w->frames) free(w->frames->frame);
    free(w->frames);
    w->frames = NULL;
}

/* A rolled back transaction may have left frames in the list that are another's by now. */
void r2_frames_begin(struct r2_file *w)
{
    if (!w->frames) return;
    w->frames->count = 0;
    w->frames->lost = w->frames->holds = false;
    w->frames->passed_at = 0;
}

/* ---- the transaction as a source of pages ---- */

struct place {
    uint32_t pgno, index;
};

struct pages {
    struct r2_file *p, *w; /* main file; -wal or NULL */
    struct r2_frames *frames;
    uint32_t page_size, count; /* of the database afterwards */
    const void *last;          /* the commit frame's page, not written yet; or NULL */
    uint32_t last_pgno;
    struct place *order;     /* of the frames, by page and place; [frames->count] */
    struct r2_local *before; /* WAL: what was committed before; opened when needed */
};

static enum r2_code shape(void *ctx, uint32_t *page_size, uint32_t *pages, struct r2_err *e)
{
    const struct pages *t = ctx;
    (void)e;
    *page_size = t->page_size;
    *pages = t->count;
    return R2_OK;
}

static enum r2_code read_file(sqlite3_file *f, uint8_t *to, uint32_t n, sqlite3_int64 at,
                              struct r2_err *e)
{
    int rc = f->pMethods->xRead(f, to, (int)n, at);
    if (rc == SQLITE_OK || rc == SQLITE_IOERR_SHORT_READ) return R2_OK; /* zeros */
    return r2_fail(e, R2_IO, "cannot read the transaction's pages: %s", sqlite3_errstr(rc));
}

/* A page that the transaction has not changed. */
static enum r2_code read_before(struct pages *t, uint32_t pgno, uint8_t *to, struct r2_err *e)
{
    uint32_t page_size, pages;
    enum r2_code rc = R2_OK;
    if (!t->before) {
        rc = r2_local_open(t->p->name, 1000, &t->before, e);
        if (!rc) rc = r2_local_begin_read(t->before, e);
    }
    if (!rc) rc = r2_local_shape(t->before, &page_size, &pages, e);
    if (rc) return rc;
    if (pgno > pages) { /* grown, and never written */
        memset(to, 0, t->page_size);
        return R2_OK;
    }
    return r2_local_read_pages(t->before, pgno, 1, to, e);
}

static enum r2_code read_wal(struct pages *t, uint32_t pgno, uint8_t *to, struct r2_err *e)
{
    if (t->last && pgno == t->last_pgno) {
        memcpy(to, t->last, t->page_size);
        return R2_OK;
    }
    uint32_t low = 0, high = t->frames->count; /* the last place of the page: the newest counts */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->order[middle].pgno <= pgno)
            low = middle + 1;
        else
            high = middle;
    }
    if (!low || t->order[low - 1].pgno != pgno) return read_before(t, pgno, to, e);
    int rc = t->w->real->pMethods->xRead(t->w->real, to, (int)t->page_size,
                                         t->frames->frame[t->order[low - 1].index].at +
                                             R2_WAL_FRAME_HEADER);
    if (rc == SQLITE_OK) return R2_OK;
    return r2_fail(e, R2_IO, "cannot read the transaction's frames: %s", sqlite3_errstr(rc));
}

static enum r2_code read_pages(void *ctx, uint32_t first, uint32_t count, uint8_t *to,
                               struct r2_err *e)
{
    struct pages *t = ctx;
    enum r2_code rc = R2_OK;
    for (uint32_t k = 0; !rc && k < count; k++, to += t->page_size)
        rc = t->w ? read_wal(t, first + k, to, e)
                  : read_file(t->p->real, to, t->page_size,
                              (sqlite3_int64)(first + k - 1) * t->page_size, e);
    return rc;
}

/* ---- the push ---- */

static int code_of(enum r2_code code)
{
    /* what SQLite gives back from COMMIT; the sentence is in PRAGMA r2_last_error */
    return code == R2_UNKNOWN ? SQLITE_IOERR_COMMIT_ATOMIC : r2_shim_code(code);
}

/* Files of this thread's COMMIT that were pushed already: of several attached databases, or one
 * that SQLite then could not write. */
static _Thread_local uint32_t stored;

static int push(struct pages *t)
{
    struct r2_err e = {.code = R2_OK};
    struct r2_source from = {.shape = shape, .read = read_pages, .ctx = t};
    struct r2_file *p = t->p;
    enum r2_code rc = r2_replica_commit(p->replica, &from, &p->marks, !t->w, &p->commit, &e);
    r2_local_close(t->before);
    stored += p->commit != NULL;
    if (!rc) return SQLITE_OK;
    if (stored)
        r2_advise(&e, "; another database of the same transaction is stored already: look at both "
                      "before you repeat it");
    r2_log_err(p->replica, &e);
    /* the busy-retry of an application would do the other half twice */
    return stored ? SQLITE_IOERR_COMMIT_ATOMIC : code_of(rc);
}

int r2_commit_rollback(struct r2_file *p)
{
    struct pages t = {.p = p};
    uint8_t head[R2_HEADER];
    struct r2_err e;
    if (p->commit || p->has_shm || !p->reserved || r2_replica_foreign(p->replica)) return SQLITE_OK;
    if (read_file(p->real, head, sizeof head, 0, &e)) return SQLITE_IOERR_READ;
    if (r2_get32(head + 24) == p->old_counter) return SQLITE_OK; /* a rollback */
    t.count = r2_get32(head + 28);
    t.page_size = r2_header_page_size(head); /* VACUUM writes with the old one */
    int rc = push(&t);
    /* a first transaction: SQLite remembers its counter, which the next one has, too */
    p->forget = rc != SQLITE_OK;
    return rc;
}

void r2_commit_end(struct r2_file *p, bool committed)
{
    struct r2_commit *c = p->commit;
    p->commit = NULL;
    stored--;
    /* a power loss must not take back what the state is going to claim */
    bool synced = !committed || p->has_shm ||
                  p->real->pMethods->xSync(p->real, SQLITE_SYNC_NORMAL) == SQLITE_OK;
    r2_replica_commit_end(c, committed, synced);
}

/* ---- WAL ---- */

static bool add_frame(struct r2_frames *f, uint32_t pgno, sqlite3_int64 at)
{
    while (f->count && f->frame[f->count - 1].at >= at)
        f->count--; /* a savepoint was rolled back, or headers are being rewritten */
    if (f->count == f->room) {
        uint32_t room = f->room ? f->room * 2 : 64;
        void *grown = realloc(f->frame, room * sizeof *f->frame);
        if (!grown) return false;
        f->frame = grown;
        f->room = room;
    }
    f->frame[f->count].pgno = pgno;
    f->frame[f->count++].at = at;
    return true;
}

static int write_through(struct r2_file *w, const void *from, int n, sqlite3_int64 at)
{
    return w->real->pMethods->xWrite(w->real, from, n, at);
}

static int by_page(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->pgno != y->pgno) return x->pgno < y->pgno ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int push_frames(struct pages *t)
{
    const struct r2_frames *f = t->frames;
    if (f->lost || !(t->order = malloc(f->count * sizeof *t->order))) return SQLITE_NOMEM;
    for (uint32_t k = 0; k < f->count; k++)
        t->order[k] = (struct place){.pgno = f->frame[k].pgno, .index = k};
    qsort(t->order, f->count, sizeof *t->order, by_page);
    int rc = push(t);
    free(t->order);
    return rc;
}

/* The transaction is whole but for this header: push, then let it be seen. */
static int commit(struct r2_file *w, const uint8_t *header, const void *page, sqlite3_int64 at)
{
    struct r2_frames *f = w->frames;
    struct pages t = {.p = w->main,
                      .w = w,
                      .frames = f,
                      .page_size = w->wal_page,
                      .count = r2_get32(header + 4),
                      .last = page,
                      .last_pgno = r2_get32(header)};
    int rc = push_frames(&t);
    f->count = 0;
    f->lost = false;
    f->passed_at = 0;
    if (rc == SQLITE_OK && page)
        rc = write_through(w, page, (int)w->wal_page, at + R2_WAL_FRAME_HEADER);
    if (rc == SQLITE_OK) rc = write_through(w, header, R2_WAL_FRAME_HEADER, at);
    /* before the state claims it; SQLite itself does so with synchronous=FULL only */
    if (rc == SQLITE_OK) rc = w->real->pMethods->xSync(w->real, SQLITE_SYNC_NORMAL);
    if (rc != SQLITE_OK) w->main->committed = false;
    return r2_commit_half(w->main, rc);
}

static int on_header(struct r2_file *w, const uint8_t *from, sqlite3_int64 at)
{
    struct r2_frames *f = w->frames;
    if (!add_frame(f, r2_get32(from), at)) f->lost = true;
    if (!r2_get32(from + 4)) return write_through(w, from, R2_WAL_FRAME_HEADER, at);
    if (!r2_get32(from + 8) && !r2_get32(from + 12)) { /* its checksum comes later */
        f->passed_at = at;
        return write_through(w, from, R2_WAL_FRAME_HEADER, at);
    }
    if (f->passed_at == at) return commit(w, from, NULL, at);
    f->holds = true;
    f->held_at = at;
    memcpy(f->header, from, R2_WAL_FRAME_HEADER);
    return SQLITE_OK;
}

int r2_commit_wal_write(struct r2_file *w, const void *from, int n, sqlite3_int64 at)
{
    if (w->main->commit || r2_replica_foreign(w->main->replica))
        return write_through(w, from, n, at);
    if (!w->frames && !(w->frames = calloc(1, sizeof *w->frames))) return SQLITE_NOMEM;
    struct r2_frames *f = w->frames;
    if (f->holds) {
        f->holds = false;
        if (n == (int)w->wal_page && at == f->held_at + R2_WAL_FRAME_HEADER)
            return commit(w, f->header, from, f->held_at);
        int rc = write_through(w, f->header, R2_WAL_FRAME_HEADER, f->held_at); /* none of ours */
        if (rc) return rc;
    }
    if (at == 0) f->count = 0; /* the log begins anew */
    bool aligned = w->wal_page && at >= R2_WAL_HEADER &&
                   (at - R2_WAL_HEADER) % (R2_WAL_FRAME_HEADER + (int)w->wal_page) == 0;
    if (n == R2_WAL_FRAME_HEADER && aligned) return on_header(w, from, at);
    return write_through(w, from, n, at);
}

/* ---- what is refused ---- */

#define NO_OFF                                                                                     \
    "journal_mode=OFF cannot be rolled back, which sync=commit needs when a commit does not "      \
    "reach "                                                                                       \
    "the remote; use another journal mode, or another sync"
#define NO_EXCLUSIVE                                                                               \
    "locking_mode=EXCLUSIVE hides commits from sync=commit, and keeps newer versions out; use "    \
    "locking_mode=NORMAL, or another sync"

/* SQLite takes any beginning of "off", and tries the other names in this order. */
static bool means_off(const char *value)
{
    size_t n = strlen(value);
    return sqlite3_strnicmp(value, "delete", (int)n) != 0 &&
           sqlite3_strnicmp(value, "persist", (int)n) != 0 &&
           sqlite3_strnicmp(value, "off", (int)n) == 0;
}

int r2_commit_pragma(struct r2_file *p, const char *name, const char *value, char **sentence)
{
    const char *why = NULL;
    bool mode = sqlite3_stricmp(name, "journal_mode") == 0;
    /* SQLite goes from MEMORY to WAL by way of OFF */
    p->to_wal = mode && value && (value[0] == 'w' || value[0] == 'W');
    if (!value) return SQLITE_OK;
    if (mode && means_off(value))
        why = NO_OFF;
    else if (sqlite3_stricmp(name, "locking_mode") == 0 && sqlite3_stricmp(value, "exclusive") == 0)
        why = NO_EXCLUSIVE;
    if (!why) return SQLITE_OK;
    *sentence = sqlite3_mprintf("%s", why);
    return SQLITE_ERROR;
}

/* The pragma without a schema reaches the VFS for "main" only, and holds for all attached files. */
static bool journal_is_off(const struct r2_file *p)
{
#if SQLITE_VERSION_NUMBER >= 3039000
    const char *name;
    if (!p->db || sqlite3_libversion_number() < 3039000) return false;
    for (int k = 0; (name = sqlite3_db_name(*p->db, k)) != NULL; k++) {
        sqlite3_file *file = NULL, *journal = NULL;
        if (sqlite3_file_control(*p->db, name, SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK ||
            file != &p->base)
            continue;
        return sqlite3_file_control(*p->db, name, SQLITE_FCNTL_JOURNAL_POINTER, &journal) ==
                   SQLITE_OK &&
               (!journal || !journal->pMethods);
    }
#endif
    return false;
}

int r2_commit_begin(struct r2_file *p, bool in_wal)
{
    struct r2_err e;
    if (r2_replica_foreign(p->replica)) return SQLITE_IOERR_WRITE; /* a child cannot push */
    if (!in_wal && !p->reserved) return SQLITE_OK; /* a dead writer's journal is played back */
    if (in_wal ? !p->wal_write : p->kept)
        r2_fail(&e, R2_REFUSED, "%s: %s", p->name, NO_EXCLUSIVE);
    else if (!in_wal && !p->to_wal && journal_is_off(p))
        r2_fail(&e, R2_REFUSED, "%s: %s", p->name, NO_OFF);
    else
        return SQLITE_OK;
    r2_log_err(p->replica, &e);
    return SQLITE_IOERR_WRITE;
}
