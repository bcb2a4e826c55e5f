/* apply_int.h - what local_sqlite.c, apply.c and apply_wal.c share: the session and its raw files.
 *
 * A session in a transaction is a plain SQLite read transaction; a write transaction adds, through
 * the same sqlite3_file, EXCLUSIVE (rollback modes) or the WAL's write lock. SQLite's own pager
 * thus never has anything to write or to undo, and drops its cache like any other connection's. */
#ifndef R2_APPLY_INT_H
#define R2_APPLY_INT_H

#include <sqlite3ext.h>
#include <stdbool.h>
#include <stdint.h>

#include "apply.h"
#include "local.h"

enum {
    R2_RAW_CHUNK = 1 << 20,    /* bytes moved at once */
    R2_WALIDX_REGION = 32768,  /* bytes of one piece of the wal-index */
    R2_LOCK_BYTE = 0x40000000, /* the page that holds it is never read or written */
    R2_MAX_FRAMES = 0x7fffffff /* in one -wal */
};

/* The wal-index header, twice at the start of the shared memory, in the machine's byte order. */
struct r2_walidx_hdr {
    uint32_t version; /* 3007000 */
    uint32_t unused;
    uint32_t change;       /* one more with every commit */
    uint8_t is_init;       /* 1 */
    uint8_t big_end;       /* checksums of the -wal are over big-endian words */
    uint16_t page_size;    /* 1: 65536 */
    uint32_t mx_frame;     /* last committed frame */
    uint32_t pages;        /* size of the database */
    uint32_t frame_sum[2]; /* cumulative checksum of mx_frame */
    uint8_t salt[8];       /* as in the -wal's header */
    uint32_t sum[2];       /* checksum of all before */
};
_Static_assert(sizeof(struct r2_walidx_hdr) == 48, "layout of the wal-index");

enum r2_local_state { R2_LOCAL_IDLE, R2_LOCAL_READ, R2_LOCAL_WRITE };

struct r2_local {
    sqlite3 *db;
    sqlite3_file *file; /* the main file; the connection's own */
    sqlite3_vfs *vfs;
    const char *name; /* as SQLite calls the file */
    int64_t busy_ms;
    int64_t until_ms; /* r2_boot_ms: until then the busy handler waits */
    bool (*hurry)(void *);
    void *hurry_arg;
    enum r2_local_state state;
    bool wal;       /* this transaction is in WAL mode */
    bool found_wal; /* a -wal was there at open */
    bool hot;       /* a failed apply left its journal for SQLite to replay */
    bool shaped;    /* page_size .. file_pages are filled */
    uint32_t page_size, pages;
    uint32_t file_pages;        /* pages of the main file, whatever its header says (rounded up) */
    sqlite3_file *wal_file;     /* the -wal, the connection's own */
    bool fold;                  /* frames of the -wal belong to the image */
    struct r2_walidx_hdr idx;   /* the wal-index header that the image is built from */
    volatile uint32_t **region; /* pieces of the wal-index, mapped as needed; NULL where not yet */
    uint32_t regions;
};

static inline bool r2_page_size_ok(uint32_t n)
{
    return n >= 512 && n <= 65536 && (n & (n - 1)) == 0;
}
static inline uint32_t r2_lock_page(uint32_t page_size)
{
    return R2_LOCK_BYTE / page_size + 1;
}
static inline bool r2_map_has(const uint8_t *map, uint32_t pgno)
{
    return (map[(pgno - 1) / 8] >> ((pgno - 1) % 8)) & 1;
}

/* A SQLite result as an error of ours: "<name>: <what>: <SQLite's text>". */
enum r2_code r2_fail_sqlite(const struct r2_local *l, int rc, const char *what, struct r2_err *e);

/* ---- raw changes of files; each asks the hook first (apply.c) ---- */

enum r2_raw_op { R2_RAW_WRITE, R2_RAW_SYNC, R2_RAW_TRUNCATE, R2_RAW_DELETE, R2_RAW_PUBLISH };

/* For tests: called before each operation with what it is about; returns SQLITE_OK to go on or the
 * error that the operation is to fail with. May end the process. */
struct r2_raw_hook {
    int (*before)(void *ctx, enum r2_raw_op op, sqlite3_file *f, const void *bytes, int n,
                  int64_t at);
    void *ctx;
    int sector; /* not 0: pretend that a torn write damages a whole sector of so many bytes */
};
extern struct r2_raw_hook r2_raw_hook;

int r2_raw_ask(enum r2_raw_op op);
int r2_raw_write(sqlite3_file *f, const void *bytes, uint32_t n, uint64_t at);
int r2_raw_sync(sqlite3_file *f);
int r2_raw_truncate(sqlite3_file *f, uint64_t size);
/* Zeros where the file ends early, as SQLite reads. */
int r2_raw_read(sqlite3_file *f, void *to, uint32_t n, uint64_t at);
/* 0: a write damages nothing beside it; else the sector that a torn write may damage. */
uint32_t r2_raw_sector(const struct r2_local *l);

/* Page 1 of a new version as it goes into the local file (the table in DESIGN section 2). `local`
 * is the local page 1, NULL when the file is empty. Pure. */
void r2_apply_page1(uint8_t *page, const uint8_t *local, uint32_t pages, bool new_schema);

/* ---- the wal-index and the -wal (apply_wal.c) ---- */

/* Read the header of the wal-index into l->idx and say whether frames belong to the image
 * (l->fold). SQLITE_BUSY: it is being written, or was left unfinished; end the transaction and try
 * again. */
int r2_walidx_load(struct r2_local *l);
/* The newest frame of the image with this page; 0: none, it is in the main file. */
int r2_walidx_find(struct r2_local *l, uint32_t pgno, uint32_t *frame);
void r2_walidx_forget(struct r2_local *l);
static inline uint32_t r2_walidx_page_size(const struct r2_walidx_hdr *h)
{
    return (h->page_size & 0xfe00u) + ((h->page_size & 1u) << 16);
}
static inline uint64_t r2_wal_frame_at(uint32_t frame, uint32_t page_size)
{
    return R2_WAL_HEADER + (uint64_t)(frame - 1) * (page_size + R2_WAL_FRAME_HEADER);
}

/* The WAL half of r2_apply. `page1` is page 1 as it goes into the file. */
enum r2_code r2_apply_wal(struct r2_local *l, const struct r2_apply *a, const uint8_t *page1,
                          struct r2_err *e);

#endif
