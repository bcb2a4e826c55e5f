/* apply_wal.c - the wal-index (shared memory) and appending a transaction to the -wal.
 *
 * The wal-index, in pieces of 32768 bytes and the machine's byte order:
 *   piece 0: header twice (48 bytes each), checkpoint info (40): 0 copied frames  4 five read marks
 *            24 eight lock bytes  32 frames that a checkpoint attempted; then 4062 page numbers
 *   others:  4096 page numbers
 *   each:    8192 slots of 16 bits: hash of a page number -> 1 + index in this piece, 0: empty
 * Written under the WAL's write lock only; what is at or below the published mx_frame never changes
 * while somebody reads it. Read marks and the count of copied frames are never touched here.
 *
 * What makes a folded image stable (r2_walidx_load): a reader holds either a read mark, then the
 * log cannot be begun anew and no frame after the mark is copied into the file; or slot 0, then
 * nothing at all is copied into the file, and the log cannot be begun anew while it has uncopied
 * frames. In both cases frames up to the published mx_frame stay what they are if mx_frame is above
 * the count of copied frames; and if it is not, the main file alone is the whole content, and stays
 * it. */
#include "apply_int.h"

#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "os.h"

SQLITE_EXTENSION_INIT3

enum {
    IDX_VERSION = 3007000,
    SLOTS = 8192,
    PAGES_PER_REGION = 4096,
    FIRST_SKIP = 136 / 4, /* words of piece 0 before its page numbers */
    PAGES_FIRST = PAGES_PER_REGION - FIRST_SKIP,
    COPIED_AT = 96 / 4, /* word of piece 0: frames copied into the main file */
    LOAD_TRIES = 100,
    WAL_MAGIC = 0x377f0682
};

#define NATIVE_BIG (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)

void r2_walidx_forget(struct r2_local *l)
{
    free(l->region);
    l->region = NULL;
    l->regions = 0;
}

/* Piece `i`, mapped; `extend` makes it if need be (under the write lock only). */
static int map_region(struct r2_local *l, uint32_t i, bool extend, volatile uint32_t **out)
{
    *out = NULL;
    if (i >= l->regions) {
        uint32_t room = i + 8;
        volatile uint32_t **grown = realloc(l->region, room * sizeof *grown);
        if (!grown) return SQLITE_NOMEM;
        for (uint32_t k = l->regions; k < room; k++)
            grown[k] = NULL;
        l->region = grown;
        l->regions = room;
    }
    if (!l->region[i]) {
        void volatile *at = NULL;
        int rc = l->file->pMethods->xShmMap(l->file, (int)i, R2_WALIDX_REGION, extend, &at);
        if (rc == SQLITE_READONLY && at) rc = SQLITE_OK; /* readable is all that a reader needs */
        if (rc != SQLITE_OK) return rc;
        if (!at) return SQLITE_IOERR_SHMMAP;
        l->region[i] = at;
    }
    *out = l->region[i];
    return SQLITE_OK;
}

static uint32_t region_of(uint32_t frame)
{
    return frame <= PAGES_FIRST ? 0 : (frame - PAGES_FIRST - 1) / PAGES_PER_REGION + 1;
}

/* The frame before the first that piece `i` describes. */
static uint32_t region_zero(uint32_t i)
{
    return i == 0 ? 0 : PAGES_FIRST + (i - 1) * PAGES_PER_REGION;
}

static volatile uint32_t *region_pages(volatile uint32_t *region, uint32_t i)
{
    return i == 0 ? region + FIRST_SKIP : region;
}

static volatile uint16_t *region_slots(volatile uint32_t *region)
{
    return (volatile uint16_t *)(region + PAGES_PER_REGION);
}

static void sum_header(const struct r2_walidx_hdr *h, uint32_t sum[2])
{
    sum[0] = sum[1] = 0;
    r2_wal_checksum(NATIVE_BIG, (const uint8_t *)h, 40, sum);
}

/* Both copies, as a reader without a lock has to: first the first, then the second. */
static bool read_header(struct r2_local *l, volatile uint32_t *region, struct r2_walidx_hdr *h)
{
    struct r2_walidx_hdr second;
    uint32_t sum[2];
    memcpy(h, (const void *)region, sizeof *h);
    l->file->pMethods->xShmBarrier(l->file);
    memcpy(&second, (const char *)(const void *)region + sizeof *h, sizeof second);
    if (memcmp(h, &second, sizeof second) != 0 || !h->is_init) return false;
    sum_header(h, sum);
    return sum[0] == h->sum[0] && sum[1] == h->sum[1];
}

int r2_walidx_load(struct r2_local *l)
{
    volatile uint32_t *region;
    struct r2_walidx_hdr again;
    if (l->file->pMethods->iVersion < 2) return SQLITE_IOERR_SHMMAP;
    int rc = map_region(l, 0, false, &region);
    if (rc != SQLITE_OK) return rc;
    for (int i = 0; i < LOAD_TRIES; i++) {
        if (!read_header(l, region, &l->idx)) continue;
        uint32_t copied = __atomic_load_n(&region[COPIED_AT], __ATOMIC_ACQUIRE);
        l->file->pMethods->xShmBarrier(l->file);
        /* A log begun anew sets the header first and the count then: only a count between two
         * equal headers belongs to them. */
        if (!read_header(l, region, &again) || memcmp(&l->idx, &again, sizeof again) != 0) continue;
        if (l->idx.version != IDX_VERSION) return SQLITE_CANTOPEN;
        l->fold = l->idx.mx_frame > copied;
        if (l->idx.mx_frame && !r2_page_size_ok(r2_walidx_page_size(&l->idx)))
            return SQLITE_CORRUPT;
        return SQLITE_OK;
    }
    return SQLITE_BUSY;
}

int r2_walidx_find(struct r2_local *l, uint32_t pgno, uint32_t *frame)
{
    uint32_t last = l->idx.mx_frame;
    *frame = 0;
    if (!l->fold) return SQLITE_OK;
    for (uint32_t i = region_of(last) + 1; i-- > 0 && !*frame;) {
        volatile uint32_t *region;
        int rc = map_region(l, i, false, &region);
        if (rc != SQLITE_OK) return rc;
        volatile uint32_t *pages = region_pages(region, i);
        volatile uint16_t *slots = region_slots(region);
        uint32_t zero = region_zero(i), most = i == 0 ? PAGES_FIRST : PAGES_PER_REGION, n = 0;
        uint32_t key = (pgno * 383) & (SLOTS - 1);
        for (uint32_t idx; (idx = __atomic_load_n(&slots[key], __ATOMIC_ACQUIRE)) != 0;
             key = (key + 1) & (SLOTS - 1)) {
            if (idx > most || ++n > SLOTS) return SQLITE_CORRUPT;
            /* later ones win; those after `last` are of a writer that is not done */
            if (zero + idx <= last && pages[idx - 1] == pgno) *frame = zero + idx;
        }
    }
    return SQLITE_OK;
}

/* ---- appending ---- */

struct append {
    struct r2_local *l;
    const struct r2_apply *a;
    const uint8_t *page1;
    struct r2_walidx_hdr h; /* becomes the new header */
    uint8_t *buf;           /* frames to be written */
    uint32_t held;          /* bytes in it */
    uint64_t at;            /* where they go */
    uint32_t frames;        /* of this transaction, so far */
    uint32_t last_page;     /* the commit frame's */
};

static bool to_write(const struct r2_apply *a, uint32_t pgno)
{
    return pgno != r2_lock_page(a->page_size) && r2_map_has(a->write_map, pgno);
}

/* Remove what a writer that died left in the hash beyond mx_frame, and see that the rest is sound:
 * the slots in use are just the frames, so that there is room for the others. */
static int clean_hash(struct r2_local *l)
{
    uint32_t last = l->idx.mx_frame, used = 0;
    volatile uint32_t *region;
    if (last == 0) return SQLITE_OK; /* the first frame clears its piece */
    uint32_t i = region_of(last), limit = last - region_zero(i);
    int rc = map_region(l, i, true, &region);
    if (rc != SQLITE_OK) return rc;
    volatile uint16_t *slots = region_slots(region);
    volatile uint32_t *pages = region_pages(region, i);
    for (uint32_t k = 0; k < SLOTS; k++) {
        if (slots[k] > limit) slots[k] = 0;
        if (slots[k]) used++;
    }
    for (volatile uint32_t *p = pages + limit; p < region + PAGES_PER_REGION; p++)
        *p = 0;
    return used == limit ? SQLITE_OK : SQLITE_CORRUPT;
}

/* Enter a frame; its piece is mapped and clean. */
static void index_frame(struct r2_local *l, uint32_t frame, uint32_t pgno)
{
    uint32_t i = region_of(frame), idx = frame - region_zero(i);
    volatile uint32_t *region = l->region[i], *pages = region_pages(region, i);
    volatile uint16_t *slots = region_slots(region);
    if (idx == 1) {
        size_t n = R2_WALIDX_REGION - (i == 0 ? FIRST_SKIP * sizeof(uint32_t) : 0);
        memset((void *)pages, 0, n);
    }
    uint32_t key = (pgno * 383) & (SLOTS - 1);
    while (slots[key])
        key = (key + 1) & (SLOTS - 1);
    pages[idx - 1] = pgno;
    __atomic_store_n(&slots[key], (uint16_t)idx, __ATOMIC_RELEASE);
}

static void publish(struct append *p)
{
    struct r2_local *l = p->l;
    uint32_t frame = l->idx.mx_frame, end = p->h.mx_frame;
    for (uint32_t pgno = 1; pgno <= p->a->pages; pgno++)
        if (to_write(p->a, pgno)) index_frame(l, ++frame, pgno);
    while (frame < end)
        index_frame(l, ++frame, p->last_page); /* padding */
    r2_raw_ask(R2_RAW_PUBLISH);
    volatile uint32_t *region = l->region[0];
    sum_header(&p->h, p->h.sum);
    l->file->pMethods->xShmBarrier(l->file);
    memcpy((char *)(void *)region + sizeof p->h, &p->h, sizeof p->h);
    l->file->pMethods->xShmBarrier(l->file);
    r2_raw_ask(R2_RAW_PUBLISH);
    memcpy((void *)region, &p->h, sizeof p->h);
    l->file->pMethods->xShmBarrier(l->file);
    l->idx = p->h;
    l->fold = true;
}

/* A new log: salts that no frame in the file has, and the header on the disk before any frame, or
 * old frames could be taken for a part of the new log. */
static int start_log(struct append *p)
{
    struct r2_local *l = p->l;
    uint8_t w[R2_WAL_HEADER];
    int rc = r2_raw_read(l->wal_file, w, sizeof w, 0);
    if (rc != SQLITE_OK) return rc;
    uint32_t sequence = (r2_get32(w) & ~1u) == WAL_MAGIC ? r2_get32(w + 12) + 1 : 0;
    if (r2_get64(p->h.salt))
        r2_put32(p->h.salt, r2_get32(p->h.salt) + 1), r2_random(p->h.salt + 4, 4);
    else
        r2_random(p->h.salt, 8);
    r2_put32(w, WAL_MAGIC | NATIVE_BIG);
    r2_put32(w + 4, IDX_VERSION);
    r2_put32(w + 8, p->a->page_size);
    r2_put32(w + 12, sequence);
    memcpy(w + 16, p->h.salt, 8);
    p->h.big_end = NATIVE_BIG;
    p->h.frame_sum[0] = p->h.frame_sum[1] = 0;
    r2_wal_checksum(NATIVE_BIG, w, 24, p->h.frame_sum);
    r2_put32(w + 24, p->h.frame_sum[0]);
    r2_put32(w + 28, p->h.frame_sum[1]);
    rc = r2_raw_write(l->wal_file, w, sizeof w, 0);
    return rc == SQLITE_OK ? r2_raw_sync(l->wal_file) : rc;
}

static int flush(struct append *p)
{
    int rc = p->held ? r2_raw_write(p->l->wal_file, p->buf, p->held, p->at) : SQLITE_OK;
    p->at += p->held;
    p->held = 0;
    return rc;
}

/* Room for one more page; NULL and *rc when the buffer could not be emptied. */
static uint8_t *next_frame(struct append *p, int *rc)
{
    uint32_t need = p->a->page_size + R2_WAL_FRAME_HEADER;
    *rc = p->held + need > R2_RAW_CHUNK ? flush(p) : SQLITE_OK;
    return *rc == SQLITE_OK ? p->buf + p->held : NULL;
}

/* The page stands at f + 24: put the header before it. */
static void seal_frame(struct append *p, uint8_t *f, uint32_t pgno, bool commit)
{
    uint32_t ps = p->a->page_size;
    r2_put32(f, pgno);
    r2_put32(f + 4, commit ? p->a->pages : 0);
    memcpy(f + 8, p->h.salt, 8);
    r2_wal_checksum(p->h.big_end, f, 8, p->h.frame_sum);
    r2_wal_checksum(p->h.big_end, f + R2_WAL_FRAME_HEADER, ps, p->h.frame_sum);
    r2_put32(f + 16, p->h.frame_sum[0]);
    r2_put32(f + 20, p->h.frame_sum[1]);
    p->held += ps + R2_WAL_FRAME_HEADER;
    p->frames++;
}

/* All frames. SQLITE_ABORT: the reader failed and has filled *e. */
static int write_frames(struct append *p, struct r2_err *e)
{
    const struct r2_apply *a = p->a;
    uint32_t ps = a->page_size, sector = r2_raw_sector(p->l);
    int rc = SQLITE_OK;
    uint8_t *f;
    for (uint32_t pgno = 1; pgno <= p->last_page; pgno++) {
        if (!to_write(a, pgno)) continue;
        if (!(f = next_frame(p, &rc))) return rc;
        if (pgno == 1)
            memcpy(f + R2_WAL_FRAME_HEADER, p->page1, ps);
        else if (a->read(a->ctx, pgno, 1, f + R2_WAL_FRAME_HEADER, e) != R2_OK)
            return SQLITE_ABORT;
        seal_frame(p, f, pgno, pgno == p->last_page);
    }
    /* Repeat the last frame to the end of the sector: a torn write of what comes next must not
     * damage this commit. */
    uint64_t end = p->at + p->held;
    uint64_t until = sector ? (end + sector - 1) / sector * sector : end;
    for (; end < until; end += ps + R2_WAL_FRAME_HEADER) {
        const uint8_t *last = p->buf + p->held - ps; /* also after a flush */
        if (!(f = next_frame(p, &rc))) return rc;
        memmove(f + R2_WAL_FRAME_HEADER, last, ps);
        seal_frame(p, f, p->last_page, true);
    }
    rc = flush(p);
    return rc == SQLITE_OK ? r2_raw_sync(p->l->wal_file) : rc;
}

/* Take back what was written: without its first frame nobody can take it for a commit. false: it
 * may still be there after a power loss. */
static bool take_back(struct append *p)
{
    static const uint8_t none[R2_WAL_FRAME_HEADER];
    sqlite3_file *w = p->l->wal_file;
    uint64_t first = r2_wal_frame_at(p->l->idx.mx_frame + 1, p->a->page_size);
    sqlite3_int64 size = 0;
    if (w->pMethods->xFileSize(w, &size) == SQLITE_OK && (uint64_t)size <= first) return true;
    return r2_raw_write(w, none, sizeof none, first) == SQLITE_OK && r2_raw_sync(w) == SQLITE_OK;
}

static int map_all(struct r2_local *l, uint32_t last)
{
    volatile uint32_t *region;
    int rc = SQLITE_OK;
    for (uint32_t i = 0; rc == SQLITE_OK && i <= region_of(last); i++)
        rc = map_region(l, i, true, &region);
    return rc;
}

enum r2_code r2_apply_wal(struct r2_local *l, const struct r2_apply *a, const uint8_t *page1,
                          struct r2_err *e)
{
    struct append p = {.l = l, .a = a, .page1 = page1, .h = l->idx};
    const char *what = "write pulled pages to the -wal";
    uint64_t frames = r2_raw_sector(l) / (a->page_size + R2_WAL_FRAME_HEADER) + 1; /* padding */
    bool taken_back = true;
    for (uint32_t pgno = 1; pgno <= a->pages; pgno++)
        if (to_write(a, pgno)) frames++, p.last_page = pgno;
    if (l->idx.mx_frame + frames > R2_MAX_FRAMES)
        return r2_fail(e, R2_REFUSED, "%s: the -wal is too long", l->name);
    /* All that can fail comes before the frames are complete: what is published after that is
     * memory only. */
    p.buf = malloc(R2_RAW_CHUNK);
    int rc = p.buf ? map_all(l, l->idx.mx_frame + (uint32_t)frames) : SQLITE_NOMEM;
    if (rc == SQLITE_OK) rc = clean_hash(l);
    if (rc == SQLITE_OK && l->idx.mx_frame == 0) rc = start_log(&p);
    if (rc == SQLITE_OK) {
        p.at = r2_wal_frame_at(l->idx.mx_frame + 1, a->page_size);
        rc = write_frames(&p, e);
        if (rc == SQLITE_OK && l->idx.mx_frame == 0) rc = r2_raw_ask(R2_RAW_SYNC);
        if (rc == SQLITE_OK && l->idx.mx_frame == 0 &&
            r2_sync_folder_of(sqlite3_filename_wal(l->name), e) != R2_OK)
            rc = SQLITE_ABORT;
        if (rc != SQLITE_OK) taken_back = take_back(&p);
    }
    free(p.buf);
    if (rc == SQLITE_ABORT)
        r2_wrap(e, "%s: %s", l->name, what);
    else if (rc != SQLITE_OK)
        r2_fail_sqlite(l, rc, what, e);
    if (!taken_back) e->code = R2_UNKNOWN;
    if (rc != SQLITE_OK) return e->code;
    p.h.version = IDX_VERSION;
    p.h.is_init = 1;
    p.h.change++;
    p.h.page_size = (uint16_t)((a->page_size & 0xff00) | (a->page_size >> 16));
    p.h.mx_frame = l->idx.mx_frame + p.frames;
    p.h.pages = a->pages;
    publish(&p);
    return R2_OK;
}
