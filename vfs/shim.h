/* shim.h - between the two halves of the shim: shim.c (the VFS) and shim_io.c (its files). */
#ifndef R2_SHIM_H
#define R2_SHIM_H

#include <sqlite3ext.h>
#include <stdbool.h>

#include "config.h"
#include "replica.h"
#include "state.h"

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
    bool wrote;                 /* main database: ever */
    struct r2_mark mark;        /* main database: how the commit in progress will look */
    sqlite3_int64 frame_at;     /* -wal: offset of the last committing frame header; 0: none */
};

/* io_methods for a main database and a -wal, of the parent's iVersion (1..3). */
const sqlite3_io_methods *r2_shim_main_methods(int version);
const sqlite3_io_methods *r2_shim_wal_methods(void);
/* The replica's file behind `f`; NULL when it is not one of ours, or not a main database. */
struct r2_file *r2_shim_file(sqlite3_file *f);
/* A main database is open under p->name, until it is forgotten: its -wal finds it by that. */
void r2_shim_remember(struct r2_file *p);
void r2_shim_forget(struct r2_file *p);

/* Register the VFS "r2vfs" around the platform's default; idempotent. */
int r2_shim_register(bool make_default, char **message);
/* The replica of a schema of a connection ("main" when NULL); NULL when it has none. */
struct r2_replica *r2_shim_replica(sqlite3 *db, const char *schema);

/* SQLite's result code for a kind of error. */
int r2_shim_code(enum r2_code code);
/* Tell a failure where nobody sees a sentence: sqlite3_log, last error, stderr. */
void r2_shim_report(struct r2_replica *r, const struct r2_err *e, const char *when);

#endif
