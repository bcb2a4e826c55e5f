/* shim.h - between the two halves of the shim: shim.c (the VFS) and shim_io.c (its files). */
#ifndef R2_SHIM_H
#define R2_SHIM_H

#include <sqlite3ext.h>
#include <stdbool.h>

#include "config.h"
#include "replica.h"
#include "state.h"

/* What SQLITE_FCNTL_BUSYHANDLER hands over: false ends the waiting. */
struct r2_busy {
    int (*handler)(void *);
    void *arg;
};

/* A file of a replica: the main database or its -wal. The real file follows in memory. */
struct r2_file {
    sqlite3_file base;          /* must be first: SQLite's view */
    sqlite3_file *real;         /* the parent VFS's file, behind this struct */
    struct r2_replica *replica; /* main database: ours; -wal: NULL */
    struct r2_file *main;       /* -wal: the main database's file; else NULL */
    struct r2_config *config;   /* main database: of this connection */
    const char *name;           /* main database: as SQLite gave it, the same memory */
    struct r2_file *next;       /* main database: the next open one */
    int lock;                   /* main database: the lock that SQLite holds */
    bool used;                  /* main database: has begun a transaction */
    bool has_shm;               /* main database: in WAL mode, its writes are checkpoints */
    bool began;                 /* main database: xLock(SHARED) has begun the transaction */
    bool wal_write;             /* main database: holds WAL's write lock */
    bool touched;               /* main database: pages written since the last commit or unlock */
    bool committed;             /* main database: and they were committed */
    bool unsynced;              /* main database: has committed since it last heard of all */
    uint32_t aside;             /* main database: r2_replica_aside() before the first of these */
    bool wrote;                 /* main database: ever */
    struct r2_commit *commit;   /* main database: pushed, and not committed locally yet */
    bool forget;                /* main database: SQLite's cache may be of a COMMIT that failed */
    bool reserved;              /* main database: SQLite has had RESERVED: a transaction writes */
    bool kept;                  /* main database: no lock was given back since the last commit */
    bool folded;                /* main database: has folded its log in, and not written since */
    bool left_wal;              /* main database: has left WAL mode since it got its lock */
    bool to_wal;                /* main database: PRAGMA journal_mode=WAL was the last pragma */
    struct r2_busy *busy;       /* main database: the pager's busy handler; or NULL */
    sqlite3 **db;               /* main database: where SQLite keeps whose it is; or NULL */
    uint32_t old_change;        /* main database: WAL's count of commits before the transaction */
    uint32_t old_counter;       /* main database: change counter before the transaction */
    struct r2_marks marks;      /* main database: pages of the transaction that writes */
    uint32_t page_size;         /* main database: as it was last written with; 0: not known */
    void volatile *shm;         /* main database: the first piece of the wal-index; or NULL */
    struct r2_mark mark;        /* main database: how the commit in progress will look */
    uint32_t wal_page;          /* -wal: its page size; 0: not known yet */
    struct r2_frames *frames;   /* -wal: sync=commit: of the transaction in progress; or NULL */
};

/* io_methods for a main database and a -wal, of the parent's iVersion (1..3). */
const sqlite3_io_methods *r2_shim_main_methods(int version);
const sqlite3_io_methods *r2_shim_wal_methods(void);
/* The replica's file behind `f`; NULL when it is not one of ours, or not a main database. */
struct r2_file *r2_shim_file(sqlite3_file *f);
/* A main database is open under p->name, until it is forgotten: its -wal finds it by that. */
void r2_shim_remember(struct r2_file *p);
void r2_shim_forget(struct r2_file *p);

/* sync() has succeeded for this connection: R2_CONFLICT, once, if what it had committed is in a
 * fork because another connection has settled a conflict meanwhile. `told`: it did that itself. */
enum r2_code r2_shim_synced(sqlite3 *db, const char *schema, bool told, struct r2_err *e);

/* The VFS's xSleep. */
void r2_shim_slept(int us);

/* ---- sync=commit: shim_commit.c ---- */

/* A transaction is about to write its first page (`in_wal`: to the -wal): may sync=commit do that?
 */
int r2_commit_begin(struct r2_file *p, bool in_wal);
/* WAL: nothing of the -wal is this transaction's yet. */
void r2_frames_begin(struct r2_file *w);
/* Rollback modes: SQLite is about to sync the main file. Pushes if that is a commit. */
int r2_commit_rollback(struct r2_file *p);
/* WAL: in place of a write to the -wal. */
int r2_commit_wal_write(struct r2_file *w, const void *from, int n, sqlite3_int64 at);
/* The transaction is over. */
void r2_commit_end(struct r2_file *p, bool committed);
/* After the push SQLite could not write: what to say instead of `rc`. */
static inline int r2_commit_half(const struct r2_file *p, int rc)
{
    return rc != SQLITE_OK && p->commit ? SQLITE_IOERR_COMMIT_ATOMIC : rc;
}
/* What sync=commit refuses: SQLITE_OK or a sentence. */
int r2_commit_pragma(struct r2_file *p, const char *name, const char *value, char **sentence);
void r2_frames_free(struct r2_file *w);

/* Register the VFS "r2vfs" around the platform's default; idempotent. */
int r2_shim_register(bool make_default, char **message);
/* The replica of a schema of a connection ("main" when NULL); NULL when it has none. */
struct r2_replica *r2_shim_replica(sqlite3 *db, const char *schema);

/* SQLite's result code for a kind of error. */
int r2_shim_code(enum r2_code code);
/* Tell a failure where nobody sees a sentence: sqlite3_log, last error, stderr. */
void r2_shim_report(struct r2_replica *r, const struct r2_err *e, const char *when);

#endif
