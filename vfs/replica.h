/* replica.h - one local database file bound to one remote; shared by every connection that opens
 * it.
 *
 * The shim tells a replica what SQLite does; SQL functions ask it to act. No SQLite types here. All
 * functions may be called from any thread; operations on one replica run one at a time, also across
 * processes (the state file's OP lock). */
#ifndef R2_REPLICA_H
#define R2_REPLICA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "err.h"
#include "state.h"

struct r2_replica;

/* ---- life cycle (replica.c) ---- */

/* The replica of the file at `path` (absolute), made at first use; another remote than that of the
 * connections already open on this file is R2_CONFIG. Every attach is paired with a detach. */
enum r2_code r2_replica_attach(const char *path, const struct r2_config *config,
                               struct r2_replica **out, struct r2_err *e);
void r2_replica_detach(struct r2_replica *r);

/* At xOpen, before the file is opened: finish what a crash left, probe, pull or settle by the
 * connection's policies. R2_OK with r2_replica_barred() set: open, but no transaction may begin
 * until r2_resolve() settled it. */
enum r2_code r2_replica_open(struct r2_replica *r, const struct r2_config *config,
                             struct r2_err *e);
/* At xClose, after the file was closed: push what is dirty. `wrote`: this connection changed it. */
enum r2_code r2_replica_close(struct r2_replica *r, const struct r2_config *config, bool wrote,
                              struct r2_err *e);

/* ---- from the I/O methods ---- */

/* Pages are about to be written: call before the first write of each transaction, then mark each
 * page before it is written. */
enum r2_code r2_replica_touch(struct r2_replica *r, struct r2_marks *m, struct r2_err *e);
void r2_replica_mark_page(struct r2_replica *r, struct r2_marks *m, uint32_t pgno);
void r2_replica_mark_size(struct r2_replica *r, struct r2_marks *m, uint32_t pages);
/* The file as a writer finds it (`next`: the counter that its commit gives), and as it leaves it. A
 * stranger's commit in between makes the next look compare every page. */
void r2_replica_found(struct r2_replica *r, const struct r2_stamp *now, bool next);
void r2_replica_left(struct r2_replica *r, const struct r2_stamp *now);
/* The -wal's index was made anew, which counts anew. A commit may have surfaced that its writer
 * could not end: nobody has marked it as one. */
void r2_replica_recovered(struct r2_replica *r, const struct r2_stamp *now);
/* SQLite has folded the -wal in to delete or empty it, and holds the locks that keep writers out.
 */
void r2_replica_folded(struct r2_replica *r, const struct r2_stamp *now);
/* Is the file still just what was folded in? */
bool r2_replica_was_folded(struct r2_replica *r);
/* Nothing is committed, but from now on the file (or its -wal) looks like this: a new log begins.
 */
void r2_replica_marked(struct r2_replica *r, const struct r2_mark *mark);
/* Pages changed, or may have, that were not marked. */
void r2_replica_unseen(struct r2_replica *r);
/* A transaction was committed; `mark` says how the file (or its -wal) looks then. */
void r2_replica_committed(struct r2_replica *r, const struct r2_mark *mark);
/* A transaction that wrote is over, committed or not. */
void r2_replica_ended(struct r2_replica *r, struct r2_marks *m);
void r2_replica_count_write(struct r2_replica *r);
void r2_replica_count_sync(struct r2_replica *r);
/* How often this replica's local commits were set aside, as a fork, for the remote's. */
uint32_t r2_replica_aside(struct r2_replica *r);
/* Before an operation, or a transaction of sync=commit, which will be one: wait a little for those
 * who have waited already. No lock is held. */
void r2_replica_let_pass(struct r2_replica *r);
/* At the start of a transaction: probe if the last one is older than config->refresh_ms, and pull.
 * R2_BUSY: with refresh=0 the newer version could not be applied now. */
enum r2_code r2_replica_refresh(struct r2_replica *r, const struct r2_config *config,
                                struct r2_err *e);
/* Is nothing in the way of a transaction, and nothing to do before it? By far the most often; when
 * not, the other functions say what it is. In a forked child, too, nothing is to be done. */
bool r2_replica_at_ease(const struct r2_replica *r, const struct r2_config *config);
/* Is a refresh due? Cheap; no lock. */
bool r2_replica_refresh_due(const struct r2_replica *r, const struct r2_config *config);
/* Transactions are refused, with this sentence, until r2_resolve(). */
bool r2_replica_barred(struct r2_replica *r, struct r2_err *e);
/* True in a process that was forked after the replica was attached: it must not act. */
bool r2_replica_foreign(const struct r2_replica *r);

/* ---- sync=commit: replica_commit.c ---- */

struct r2_source;
struct r2_commit;
/* A transaction is about to commit, its pages are in `from`: push them as the next version. R2_OK:
 * it is in the remote, and r2_replica_commit_end() must follow, by the same thread, while SQLite's
 * write lock is held. R2_CONFLICT: another version was there first; R2_UNKNOWN: it may still
 * happen; in both cases, and all others, the transaction must be rolled back (R2_BUSY: may be tried
 * again). `locked`: nobody else can read the file now. */
enum r2_code r2_replica_commit(struct r2_replica *r, const struct r2_source *from,
                               struct r2_marks *m, bool locked, struct r2_commit **out,
                               struct r2_err *e);
/* It was committed locally, or not (then the next transaction finds it in the remote). `synced`:
 * the file, or its log, is on the disk. */
void r2_replica_commit_end(struct r2_commit *c, bool committed, bool synced);

/* ---- SQL (all return the version in *version) ---- */

enum r2_code r2_replica_sync(struct r2_replica *r, uint64_t *version, struct r2_err *e);
enum r2_code r2_replica_pull(struct r2_replica *r, uint64_t *version, struct r2_err *e);
enum r2_code r2_replica_version(struct r2_replica *r, uint64_t *version, struct r2_err *e);
enum r2_code r2_replica_remote_version(struct r2_replica *r, uint64_t *version, struct r2_err *e);
/* how: "fork", "remote" or "local" */
enum r2_code r2_replica_resolve(struct r2_replica *r, const char *how, uint64_t *version,
                                struct r2_err *e);
/* Write the snapshot now; *version: what it holds. how: "", or "log" or "object": change the
 * layout. */
enum r2_code r2_replica_checkpoint(struct r2_replica *r, const char *how, uint64_t *version,
                                   struct r2_err *e);
enum r2_code r2_replica_presign(struct r2_replica *r, int64_t seconds, char *url, size_t room,
                                struct r2_err *e);

struct r2_status {
    char file[1024], remote[R2_URL_BYTES], layout[16], sync[24];
    uint64_t version, remote_version, dirty_pages;
    uint64_t writes, syncs, pushes, pulls, conflicts;
    uint64_t class_a, class_b, bytes_up, bytes_down;
    char last_error[R2_ERR_TEXT];
    int64_t verified_ms; /* 0: never */
};
/* The index-th replica of this process; false past the last. */
bool r2_replica_status(size_t index, struct r2_status *out);

/* The last failure of this replica, or of any open in this process; "" when there was none. */
void r2_replica_last_error(struct r2_replica *r, char *out, size_t room);

/* Where sentences go that no caller sees (sqlite3_log, set by the shim). */
extern void (*r2_log)(enum r2_code code, const char *sentence);
extern void (*r2_tell)(const char *sentence); /* to the person in front of the process: stderr */
void r2_log_err(struct r2_replica *r, const struct r2_err *e); /* log, and keep as last error */
void r2_note(struct r2_replica *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
