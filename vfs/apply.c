/* apply.c - see apply.h: the raw operations, page 1, and the rollback modes. */
#include "apply_int.h"

#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "os.h"

SQLITE_EXTENSION_INIT3

/* ---- raw operations ---- */

struct r2_raw_hook r2_raw_hook;

enum { PIECE = 65536 }; /* SQLite never moves more in one call; its unix VFS cannot above 131071 */

static int ask(enum r2_raw_op op, sqlite3_file *f, const void *bytes, uint32_t n, uint64_t at)
{
    if (!r2_raw_hook.before) return SQLITE_OK;
    return r2_raw_hook.before(r2_raw_hook.ctx, op, f, bytes, (int)n, (int64_t)at);
}

int r2_raw_ask(enum r2_raw_op op)
{
    return ask(op, NULL, NULL, 0, 0);
}

int r2_raw_write(sqlite3_file *f, const void *bytes, uint32_t n, uint64_t at)
{
    const uint8_t *p = bytes;
    for (uint32_t part; n; n -= part, p += part, at += part) {
        part = n < PIECE ? n : PIECE;
        int rc = ask(R2_RAW_WRITE, f, p, part, at);
        if (rc == SQLITE_OK) rc = f->pMethods->xWrite(f, p, (int)part, (sqlite3_int64)at);
        if (rc != SQLITE_OK) return rc;
    }
    return SQLITE_OK;
}

int r2_raw_sync(sqlite3_file *f)
{
    int rc = ask(R2_RAW_SYNC, f, NULL, 0, 0);
    return rc == SQLITE_OK ? f->pMethods->xSync(f, SQLITE_SYNC_FULL) : rc;
}

int r2_raw_truncate(sqlite3_file *f, uint64_t size)
{
    int rc = ask(R2_RAW_TRUNCATE, f, NULL, 0, size);
    return rc == SQLITE_OK ? f->pMethods->xTruncate(f, (sqlite3_int64)size) : rc;
}

int r2_raw_read(sqlite3_file *f, void *to, uint32_t n, uint64_t at)
{
    uint8_t *p = to;
    for (uint32_t part; n; n -= part, p += part, at += part) {
        part = n < PIECE ? n : PIECE;
        int rc = f->pMethods->xRead(f, p, (int)part, (sqlite3_int64)at);
        /* at the end of the file xRead fills up with zeros */
        if (rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ) return rc;
    }
    return SQLITE_OK;
}

uint32_t r2_raw_sector(const struct r2_local *l)
{
    const sqlite3_io_methods *m = l->file->pMethods;
    if (r2_raw_hook.sector) return (uint32_t)r2_raw_hook.sector;
    if (m->xDeviceCharacteristics(l->file) & SQLITE_IOCAP_POWERSAFE_OVERWRITE) return 0;
    int n = m->xSectorSize ? m->xSectorSize(l->file) : 4096;
    if (n < 512 || (n & (n - 1))) return 512;
    return n > 65536 ? 65536 : (uint32_t)n;
}

/* ---- page 1 ---- */

enum { AT_MODE = 18, AT_COUNTER = 24, AT_PAGES = 28, AT_COOKIE = 40, AT_VALID_FOR = 92 };

void r2_apply_page1(uint8_t *page, const uint8_t *local, uint32_t pages, bool new_schema)
{
    if (!local) return;
    uint32_t counter = r2_get32(local + AT_COUNTER) + 1;
    memcpy(page + AT_MODE, local + AT_MODE, 2);
    r2_put32(page + AT_COUNTER, counter);
    r2_put32(page + AT_VALID_FOR, counter);
    r2_put32(page + AT_PAGES, pages);
    r2_put32(page + AT_COOKIE, r2_get32(local + AT_COOKIE) + (new_schema ? 1 : 0));
}

/* ---- checks before anything is touched ---- */

static enum r2_code check_request(struct r2_local *l, const struct r2_apply *a, struct r2_err *e)
{
    uint32_t ps = 0, pages = 0;
    if (l->state != R2_LOCAL_WRITE || l->hot)
        return r2_fail(e, R2_REFUSED, "%s: apply needs a fresh write transaction", l->name);
    enum r2_code code = r2_local_shape(l, &ps, &pages, e);
    if (code != R2_OK) return code;
    if (a->pages == 0) {
        if (l->wal) return r2_fail(e, R2_REFUSED, "%s: WAL mode cannot hold 0 pages", l->name);
        return R2_OK;
    }
    if (!r2_page_size_ok(a->page_size) || a->pages == UINT32_MAX)
        return r2_fail(e, R2_CORRUPT, "%s: the new version has %u pages of %u bytes", l->name,
                       a->pages, a->page_size);
    bool resized = pages && ps != a->page_size;
    if (resized && l->wal)
        return r2_fail(e, R2_REFUSED, "%s: the page size cannot change from %u to %u in WAL mode",
                       l->name, ps, a->page_size);
    uint32_t lock = r2_lock_page(a->page_size);
    if (a->pages == lock)
        return r2_fail(e, R2_CORRUPT, "%s: the new version ends in the lock page", l->name);
    for (uint32_t p = resized ? 1 : pages + 1; p && p <= a->pages; p++)
        if (p != lock && !r2_map_has(a->write_map, p))
            return r2_fail(e, R2_REFUSED, "%s: page %u is new but not to be written", l->name, p);
    if (!r2_map_has(a->write_map, 1))
        return r2_fail(e, R2_REFUSED, "%s: page 1 is not to be written", l->name);
    return R2_OK;
}

/* Page 1 as it goes into the file, in new memory. */
static enum r2_code make_page1(struct r2_local *l, const struct r2_apply *a, uint8_t **out,
                               struct r2_err *e)
{
    uint8_t *page = malloc(a->page_size), *local = NULL;
    enum r2_code code = R2_OK;
    if (!page) return r2_fail(e, R2_NOMEM, "%s: out of memory", l->name);
    code = a->read(a->ctx, 1, 1, page, e);
    if (code != R2_OK) goto done;
    uint32_t ps = r2_header_page_size(page);
    if (memcmp(page, "SQLite format 3", 16) != 0 || ps != a->page_size) {
        code = r2_fail(e, R2_CORRUPT,
                       "%s: page 1 of the new version is no SQLite header of %u-byte"
                       " pages",
                       l->name, a->page_size);
        goto done;
    }
    if (l->pages) {
        local = malloc(l->page_size);
        code = local ? r2_local_read_pages(l, 1, 1, local, e)
                     : r2_fail(e, R2_NOMEM, "%s: out of memory", l->name);
    }
    if (code == R2_OK) r2_apply_page1(page, local, a->pages, a->new_schema);
done:
    free(local);
    if (code != R2_OK) free(page);
    *out = code == R2_OK ? page : NULL;
    return code;
}

/* ---- the rollback modes ----
 *
 * journal header, padded to a sector; big-endian u32 from byte 8:
 *   0 magic   8 records   12 nonce   16 old size in pages   20 sector size   24 old page size
 * then for each record: page number, the old page, checksum = nonce + every 200th byte of the page,
 * backwards from page size - 200.
 * The magic is written last, when the records are on the disk: before that nothing is played back.
 */

static const uint8_t journal_magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};

struct rollback {
    struct r2_local *l;
    const struct r2_apply *a;
    const uint8_t *page1;
    const char *journal; /* its name, as every SQLite derives it */
    sqlite3_file *jf;    /* open while pMethods is set */
    uint8_t *buf;        /* R2_RAW_CHUNK + a page and its frame */
    uint8_t *old;        /* old pages as read */
    uint64_t at;         /* end of the journal */
    uint32_t nonce, records, sector;
};

static bool overwritten(const struct rollback *r, uint32_t pgno)
{
    const struct r2_apply *a = r->a;
    if (pgno > a->pages || r->l->page_size != a->page_size) return true;
    return r2_map_has(a->write_map, pgno);
}

/* Does the old page have to be in the journal? Where a torn write can damage a sector, its other
 * pages count as overwritten, too. */
static bool journaled(const struct rollback *r, uint32_t pgno)
{
    uint32_t ps = r->l->page_size, group = r->sector > ps ? r->sector / ps : 1;
    uint32_t lock = r2_lock_page(ps);
    if (pgno == lock) return false;
    uint32_t first = (pgno - 1) / group * group + 1;
    for (uint32_t i = 0; i < group && first + i <= r->l->file_pages; i++)
        if (first + i != lock && overwritten(r, first + i)) return true;
    return false;
}

static uint32_t page_sum(const struct rollback *r, const uint8_t *page)
{
    uint32_t sum = r->nonce;
    for (int64_t i = (int64_t)r->l->page_size - 200; i > 0; i -= 200)
        sum += page[i];
    return sum;
}

static int journal_open(struct rollback *r)
{
    struct r2_local *l = r->l;
    int out = 0, there = 0;
    /* nobody can be in WAL mode now; a -wal that is there all the same would be played over us */
    int rc = l->vfs->xAccess(l->vfs, sqlite3_filename_wal(l->name), SQLITE_ACCESS_EXISTS, &there);
    if (rc == SQLITE_OK && there) rc = SQLITE_BUSY;
    if (rc != SQLITE_OK) return rc;
    r->jf = calloc(1, (size_t)(l->vfs->szOsFile > 0 ? l->vfs->szOsFile : 1));
    if (!r->jf) return SQLITE_NOMEM;
    r->journal = sqlite3_filename_journal(l->name);
    rc = l->vfs->xOpen(l->vfs, r->journal, r->jf,
                       SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MAIN_JOURNAL, &out);
    if (rc == SQLITE_OK && (out & SQLITE_OPEN_READONLY)) rc = SQLITE_READONLY;
    /* What a PERSIST or TRUNCATE mode connection left, or a writer that died before it wrote to the
     * main file: nobody has it open while we hold EXCLUSIVE. */
    if (rc == SQLITE_OK) rc = r2_raw_truncate(r->jf, 0);
    return rc;
}

static void journal_close(struct rollback *r)
{
    if (r->jf && r->jf->pMethods) r->jf->pMethods->xClose(r->jf);
    free(r->jf);
    r->jf = NULL;
}

/* Put `count` old pages from `first` on into the journal. */
static int journal_pages(struct rollback *r, uint32_t first, uint32_t count)
{
    uint32_t ps = r->l->page_size;
    int rc = r2_raw_read(r->l->file, r->old, count * ps, (uint64_t)(first - 1) * ps);
    if (rc != SQLITE_OK) return rc;
    uint8_t *p = r->buf;
    for (uint32_t i = 0; i < count; i++, p += ps + 8) {
        const uint8_t *page = r->old + (size_t)i * ps;
        r2_put32(p, first + i);
        memcpy(p + 4, page, ps);
        r2_put32(p + 4 + ps, page_sum(r, page));
    }
    uint32_t n = count * (ps + 8);
    rc = r2_raw_write(r->jf, r->buf, n, r->at);
    r->at += n, r->records += count;
    return rc;
}

static int journal_fill(struct rollback *r)
{
    struct r2_local *l = r->l;
    uint8_t h[512] = {0};
    uint32_t sector = r->sector ? r->sector : 512, ps = l->page_size ? l->page_size : 512;
    r2_random(&r->nonce, sizeof r->nonce);
    r2_put32(h + 12, r->nonce);
    r2_put32(h + 16, l->file_pages);
    r2_put32(h + 20, sector);
    r2_put32(h + 24, ps);
    int rc = SQLITE_OK;
    for (r->at = 0; rc == SQLITE_OK && r->at < sector; r->at += sizeof h) {
        rc = r2_raw_write(r->jf, h, sizeof h, r->at);
        memset(h, 0, sizeof h);
    }
    uint32_t most = R2_RAW_CHUNK / (ps + 8);
    for (uint32_t p = 1; rc == SQLITE_OK && p <= l->file_pages;) {
        uint32_t n = 0;
        while (n < most && p + n <= l->file_pages && journaled(r, p + n))
            n++;
        if (n) rc = journal_pages(r, p, n);
        p += n ? n : 1;
    }
    return rc;
}

/* From here on the journal is hot should we die. */
static int journal_seal(struct rollback *r, struct r2_err *e)
{
    uint8_t h[12];
    memcpy(h, journal_magic, sizeof journal_magic);
    r2_put32(h + 8, r->records);
    int rc = r2_raw_sync(r->jf);
    if (rc == SQLITE_OK) rc = r2_raw_write(r->jf, h, sizeof h, 0);
    if (rc == SQLITE_OK) rc = r2_raw_sync(r->jf);
    if (rc == SQLITE_OK && (rc = r2_raw_ask(R2_RAW_SYNC)) == SQLITE_OK)
        if (r2_sync_folder_of(r->journal, e) != R2_OK) rc = SQLITE_ABORT;
    return rc;
}

static int write_pages(struct rollback *r, struct r2_err *e)
{
    const struct r2_apply *a = r->a;
    if (a->pages == 0) return SQLITE_OK; /* and no page size to divide by */
    uint32_t ps = a->page_size, lock = r2_lock_page(ps), most = R2_RAW_CHUNK / ps;
    for (uint32_t p = 1; p <= a->pages;) {
        uint32_t n = 0;
        while (n < most && p + n <= a->pages && p + n != lock && r2_map_has(a->write_map, p + n))
            n++;
        if (n == 0) {
            p++;
            continue;
        }
        if (a->read(a->ctx, p, n, r->buf, e) != R2_OK) return SQLITE_ABORT;
        if (p == 1) memcpy(r->buf, r->page1, ps);
        int rc = r2_raw_write(r->l->file, r->buf, n * ps, (uint64_t)(p - 1) * ps);
        if (rc != SQLITE_OK) return rc;
        p += n;
    }
    return SQLITE_OK;
}

static int journal_unlink(struct rollback *r)
{
    struct r2_local *l = r->l;
    int there = 1;
    journal_close(r);
    int rc = r2_raw_ask(R2_RAW_DELETE);
    if (rc == SQLITE_OK) rc = l->vfs->xDelete(l->vfs, r->journal, 0);
    /* what counts is whether it is gone */
    if (rc != SQLITE_OK &&
        l->vfs->xAccess(l->vfs, r->journal, SQLITE_ACCESS_EXISTS, &there) == SQLITE_OK && !there)
        rc = SQLITE_OK;
    return rc;
}

/* `rc` as an error of ours. SQLITE_ABORT: somebody below has filled *e already. */
static enum r2_code failed(struct rollback *r, int rc, const char *what, struct r2_err *e)
{
    if (rc != SQLITE_ABORT) return r2_fail_sqlite(r->l, rc, what, e);
    r2_wrap(e, "%s: %s", r->l->name, what);
    return e && e->code != R2_OK ? e->code : R2_IO;
}

static enum r2_code apply_rollback(struct r2_local *l, const struct r2_apply *a,
                                   const uint8_t *page1, struct r2_err *e)
{
    struct rollback r = {.l = l, .a = a, .page1 = page1, .sector = r2_raw_sector(l)};
    enum r2_code code = R2_OK;
    const char *what = "write the journal of a pull";
    r.buf = malloc(R2_RAW_CHUNK);
    r.old = malloc(R2_RAW_CHUNK);
    int rc = r.buf && r.old ? journal_open(&r) : SQLITE_NOMEM;
    if (rc == SQLITE_OK) rc = journal_fill(&r);
    if (rc == SQLITE_OK) rc = journal_seal(&r, e);
    if (rc != SQLITE_OK) {
        /* The main file is untouched: with or without this journal it holds the old content. */
        code = failed(&r, rc, what, e);
        if (r.jf && r.jf->pMethods) journal_unlink(&r);
        goto done;
    }
    what = "write pulled pages";
    l->hot = true; /* until it is gone */
    rc = write_pages(&r, e);
    if (rc == SQLITE_OK) rc = r2_raw_truncate(l->file, (uint64_t)a->pages * a->page_size);
    if (rc == SQLITE_OK) rc = r2_raw_sync(l->file);
    if (rc == SQLITE_OK) {
        what = "remove the journal of a pull";
        rc = journal_unlink(&r);
    }
    if (rc != SQLITE_OK) {
        code = failed(&r, rc, what, e);
        r2_advise(e, "; the old content is played back from %s", r.journal);
        goto done;
    }
    l->hot = false;
    if (r2_raw_ask(R2_RAW_SYNC) != SQLITE_OK || r2_sync_folder_of(r.journal, e) != R2_OK)
        code = r2_fail(e, R2_UNKNOWN,
                       "%s: the pulled content is in place, but its folder could not be synced: a "
                       "power loss may bring the old content back",
                       l->name);
done:
    journal_close(&r);
    free(r.buf);
    free(r.old);
    return code;
}

enum r2_code r2_apply(struct r2_local *l, const struct r2_apply *a, struct r2_err *e)
{
    struct r2_err own = {0}; /* the code of a failed reader is taken from here */
    uint8_t *page1 = NULL;
    if (!e) e = &own;
    enum r2_code code = check_request(l, a, e);
    if (code == R2_OK && a->pages) code = make_page1(l, a, &page1, e);
    if (code == R2_OK)
        code = l->wal ? r2_apply_wal(l, a, page1, e) : apply_rollback(l, a, page1, e);
    free(page1);
    l->shaped = false;
    return code;
}
