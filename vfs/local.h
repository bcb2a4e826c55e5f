/* local.h - the local database file as replica.c and apply.c see it: a table of calls.
 *
 * local_sqlite.c implements it with a private SQLite connection (through the VFS below r2vfs) to
 * the same file: SQLite itself replays journals, recovers WALs and takes the locks, and the file is
 * only touched through its own VFS. Tests may put another implementation behind it.
 *
 * A session is used by one thread at a time. All offsets and sizes are of the main database file.
 */
#ifndef R2_LOCAL_H
#define R2_LOCAL_H

#include <stdbool.h>
#include <stdint.h>

#include "buf.h"
#include "err.h"
#include "wal.h"

struct r2_local;

/* How a database file stood after a commit: a stranger's commit in between shows when two are
 * compared (r2_state_continues). */
struct r2_stamp {
    uint32_t kind;     /* 0: none, 1: rollback modes, 2: WAL, 3: WAL, folded in and deleted, and the
                          file sealed: r2_state_seal() */
    uint32_t counter;  /* rollback modes: change counter of page 1 */
    uint32_t change;   /* WAL: the wal-index's count of commits, */
    uint32_t frames;   /* its last frame, */
    uint32_t salt[2];  /* the log's salts, and */
    uint32_t cksum[2]; /* that frame's checksum */
};

/* The stamp that a wal-index's first 48 bytes give. */
void r2_wal_stamp(const void *header, struct r2_stamp *out);

/* The page size that the first bytes of a database say; checked by nobody. */
static inline uint32_t r2_header_page_size(const uint8_t *header)
{
    uint32_t n = r2_get16(header + 16);
    return n == 1 ? 65536 : n;
}

/* The VFS that sessions use: the one below r2vfs. NULL (the default) is SQLite's own default, which
 * must not be left so when r2vfs is made the default. The name is not copied. */
void r2_local_set_vfs(const char *name);

/* True while this thread is opening a session: what hangs itself on every new connection (automatic
 * extensions) leaves such a one alone. */
bool r2_local_opening(void);

/* Open a session on the file at `path` (absolute), creating nothing. R2_MISSING: there is no file.
 * Hot journals and leftover WALs are replayed by begin_read/begin_write, not here.
 * busy_ms: how long a lock is waited for. */
enum r2_code r2_local_open(const char *path, int64_t busy_ms, struct r2_local **out,
                           struct r2_err *e);
/* While hurry(arg) is true no lock is waited for. */
void r2_local_hurry(struct r2_local *l, bool (*hurry)(void *), void *arg);
/* Ends a transaction that is still open, without changing the file. A -wal that was there at
 * open stays; one that SQLite made for this session goes with it. NULL is allowed. */
void r2_local_close(struct r2_local *l);

/* Begin a read transaction: the content stays as it is until r2_local_end. R2_BUSY after busy_ms.
 */
enum r2_code r2_local_begin_read(struct r2_local *l, struct r2_err *e);
/* Begin an exclusive write transaction: EXCLUSIVE lock in the rollback modes (readers out), the
 * write lock in WAL mode (readers go on). R2_BUSY after busy_ms. */
enum r2_code r2_local_begin_write(struct r2_local *l, struct r2_err *e);
/* End the transaction; nothing stays locked, whatever is returned. After a failed r2_apply that
 * left a hot journal SQLite replays it here: an error says that it could not, and that the next
 * connection will try again. */
enum r2_code r2_local_end(struct r2_local *l, struct r2_err *e);

/* Within a transaction: */
bool r2_local_is_wal(const struct r2_local *l); /* journal mode of this transaction is WAL */
/* The committed content as one image: its page size and size in pages (0, 0: an empty file), with
 * WAL frames folded in. Valid until r2_local_end; after r2_apply it is the new content. */
enum r2_code r2_local_shape(struct r2_local *l, uint32_t *page_size, uint32_t *pages,
                            struct r2_err *e);
/* Pages first .. first+count-1 of the image (from 1), WAL frames folded in, into `to`. The lock
 * page reads as zeros. */
enum r2_code r2_local_read_pages(struct r2_local *l, uint32_t first, uint32_t count, uint8_t *to,
                                 struct r2_err *e);
/* The published end of the WAL that the image was built from; frames 0: there are none, or this is
 * no WAL transaction. */
void r2_local_wal_end(const struct r2_local *l, struct r2_wal_end *out);

/* Is a commit in the -wal by now that this transaction does not see, as its index does not say so?
 * Then the times of the files are those of later content. */
enum r2_code r2_local_goes_on(struct r2_local *l, bool *yes, struct r2_err *e);

/* How the file stands, for r2_state_set_stamp: within a transaction; after r2_apply the new
 * content.
 */
enum r2_code r2_local_stamp(struct r2_local *l, struct r2_stamp *out, struct r2_err *e);

/* What the transaction reads is on the disk when this returns: the -wal, or the file and the
 * removal of its journal, whatever `synchronous` the writers had. */
enum r2_code r2_local_sync(struct r2_local *l, struct r2_err *e);

/* PRAGMA quick_check: R2_CORRUPT with its first line when it complains. Outside a transaction it
 * looks at what is committed. */
enum r2_code r2_local_quick_check(struct r2_local *l, struct r2_err *e);

/* WAL only, outside a transaction: a log of 1000 frames and more (SQLite's own limit) is copied
 * into the file as far as readers allow, and begun anew if nobody uses it. Never waits; never fails
 * loudly. */
void r2_local_tidy_wal(struct r2_local *l);

/* Leave or enter WAL mode, outside a transaction (needs everybody else out): for a change of page
 * size. R2_BUSY. */
enum r2_code r2_local_set_wal(struct r2_local *l, bool wal, struct r2_err *e);

#endif
