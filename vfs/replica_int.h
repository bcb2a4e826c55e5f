/* replica_int.h - what the replica_*.c files share. */
#ifndef R2_REPLICA_INT_H
#define R2_REPLICA_INT_H

#include <pthread.h>

#include "changes.h"
#include "image.h"
#include "layout.h"
#include "local.h"
#include "plan.h"
#include "replica.h"
#include "state.h"
#include "store.h"

struct r2_replica {
    struct r2_replica *next; /* registry */
    int refs;                /* connections; under the registry's lock */
    unsigned forks;          /* r2_fork_count() when attached */
    char *path;              /* the local file */
    struct r2_config config; /* of the connection that attached first: remote, limits */
    struct r2_store *store;
    struct r2_state *state;
    struct r2_traffic traffic;

    pthread_mutex_t op;  /* one operation at a time in this process; then the state's OP lock */
    _Atomic bool joined; /* among the state file's users */

    struct r2_record record; /* as last loaded or saved (under op) */

    pthread_mutex_t note;      /* guards the sentences, and `looked` */
    struct r2_identity looked; /* the file when the last open looked at it */
    bool looked_whole;         /* ... and its -wal ended as it was known to */
    char last_error[R2_ERR_TEXT];
    char barred_text[R2_ERR_TEXT];

    _Atomic bool barred;
    _Atomic uint64_t writes, syncs, pushes, pulls, conflicts;
    _Atomic uint64_t version, remote_version; /* as last known, for status */
    _Atomic int64_t verified_ms;
    _Atomic int64_t probed_boot_ms; /* when the last probe began; 0: never */
    _Atomic bool in_conflict;       /* known: the timer waits for it to be settled */
    _Atomic bool behind;            /* a newer version waits for a lock to be applied */
    _Atomic int64_t timer_ms;       /* sync=N: the shortest N; 0: none */
    _Atomic int64_t pushed_boot_ms; /* when the timer last looked */
    _Atomic int64_t timeout_ms;     /* of the last open */
    _Atomic int sync_mode;          /* of the last open, for status */
    _Atomic int layout;             /* enum r2_layout_kind, for status */
    _Atomic int64_t sync_ms;
    _Atomic bool tending;           /* a thread writes a checkpoint, or collects */
    _Atomic bool unchecked;         /* pushed by this process, and not in a snapshot yet */
    _Atomic bool checkpoint_wanted; /* the timer's thread is asked to */
    _Atomic int64_t rest_until_ms;  /* boot ms: after a failure nobody is asked before that */
};

/* An operation in progress: lock order op, OP; ends with r2_op_end. */
struct r2_op {
    struct r2_replica *r;
    struct r2_ahead ahead; /* segments that a probe has fetched already */
    struct r2_call call;   /* deadline and error of this operation */
    bool known;            /* r->record holds a valid record for this remote */
    bool continues;        /* the local file holds what the pending push sent, or continues it */
    bool unseen;           /* the file differs from base though no r2vfs connection wrote it */
    bool unreadable;       /* the local file is no database that SQLite can read */
    bool unsaved;          /* the record on the disk is an older one */
    bool intended;         /* this operation has begun a push, or another try of one */
    bool new_try;          /* this operation has added a try to the pending push */
    bool barred;           /* this operation ended in a refusal */
    bool closing;       /* a connection closes: its last look is what the next open compares with */
    bool commit;        /* a COMMIT, which holds SQLite's write lock: everybody else gives way */
    bool gave_way;      /* it ended for that */
    bool ended;         /* a pull came to the end of the base's lineage */
    int64_t fetched_ms; /* what was fetched was the newest version then; verified once it is base */
    int64_t busy_ms;    /* how long a lock on the local file is waited for when it is staged */
};

/* wait_ms: how long another operation on this replica is waited for; R2_BUSY after that. */
enum r2_code r2_op_begin(struct r2_op *op, struct r2_replica *r, int64_t wait_ms, struct r2_err *e);
/* The same with the replica's timeout. While an upload is what keeps it, waits on (`patient`), or
 * returns at once with *skip set: what is being sent is newer than anything a probe could find. */
enum r2_code r2_op_wait(struct r2_op *op, struct r2_replica *r, bool patient, bool *skip,
                        struct r2_err *e);
/* An operation that SQL asked for: r2_op_wait, patient; refused in a forked child. */
enum r2_code r2_op_start(struct r2_op *op, struct r2_replica *r, struct r2_err *e);
void r2_op_end(struct r2_op *op);
/* That of a COMMIT: whoever keeps it waiting gives way. */
enum r2_code r2_op_start_commit(struct r2_op *op, struct r2_replica *r, struct r2_err *e);
/* After r2_op_end: did it end with R2_BUSY only because a COMMIT had to go first? Then it is begun
 * anew, until then (r2_boot_ms). */
bool r2_op_again(const struct r2_op *op, enum r2_code rc, int64_t until_ms);
/* The clock that requests are signed by: with a wrong one of our own, only this can be compared
 * with signing times (verified_ms, headed_ms, collected_ms). */
int64_t r2_signing_now(struct r2_replica *r);
/* A session on the replica's file (r2_local_open) that gives way to COMMITs. */
enum r2_code r2_op_local(struct r2_op *op, int64_t busy_ms, struct r2_local **out);
enum r2_code r2_op_save(struct r2_op *op); /* record -> state file */
void r2_op_time(struct r2_op *op);         /* a transfer begins: it has the whole timeout */

/* Do other connections of this process have it open? */
bool r2_replica_shared(struct r2_replica *r);
/* Has anybody written since the file was last known to hold base? *now: the file as it is. */
bool r2_maybe_dirty(struct r2_op *op, const struct r2_identity *now);
/* Has nobody but ours written the file, whose stamp and identity in a transaction these are? */
bool r2_continues(struct r2_replica *r, const struct r2_stamp *now, const struct r2_identity *id);
/* What was staged is base: remember that, and forget its marks. */
struct r2_staged;
void r2_staged_is_base(struct r2_op *op, struct r2_staged *s);
/* The file is not what it was thought to be, whoever wrote it: dirty, and nobody marked what. */
void r2_look_again(struct r2_op *op);
/* Remember that the file holds `base` (write_seq was seq, it looked like `id`). */
void r2_mark_clean(struct r2_op *op, uint64_t seq, const struct r2_identity *id, uint64_t content);

/* replica_open.c */
enum r2_code r2_look_at_local(struct r2_op *op, bool first, enum r2_local_kind *kind);
/* With nothing known of the file: does it hold the remote's version? Then that is the base. */
enum r2_code r2_take_if_equal(struct r2_op *op, struct r2_remote *remote, bool *equal);
/* Read the file although its writers may be alive: rolled back changes are none. */
enum r2_code r2_look_closer(struct r2_op *op, enum r2_local_kind *kind);
/* The file is not there, or empty. */
bool r2_local_absent(struct r2_op *op);

/* replica_push.c */
struct r2_push_over {              /* what a push replaces */
    const struct r2_version *base; /* header, cookie, lineage, recent to continue; NULL: birth */
    const char *etag;              /* "": must be absent */
    uint64_t version;              /* the number to push */
    const enum r2_layout_kind *layout; /* for a new lineage; NULL: as it is */
};
enum r2_code r2_probe(struct r2_op *op, struct r2_remote *out);
/* Settle a push whose outcome is in doubt, by what a probe saw. May move record.base; clears
 * pending when settled (*moved: base or pending changed). */
enum r2_code r2_settle(struct r2_op *op, struct r2_remote *seen, bool *moved);
/* Where an operation on a file that goes on from its base begins: end a pull that was cut short,
 * probe, settle. */
enum r2_code r2_look_and_settle(struct r2_op *op, struct r2_remote *seen);
/* The local file within a read transaction (replica_stage.c). */
struct r2_staged {
    struct r2_state *state;
    struct r2_image image; /* by_changes: shape and page 1 only */
    bool by_changes;       /* log: what differs from base is in `changes` */
    struct r2_changes changes;
    struct r2_identity identity;
    uint64_t content;      /* r2_image_content() of it; 0: not known */
    uint64_t seq;          /* write_seq before the transaction began */
    bool equal;            /* the content is base's (loose pages aside) */
    struct r2_diff loose;  /* equal, or holds_pending: the pages that differ all the same */
    struct r2_dirty dirty; /* the marks that were taken for this look */
    struct r2_stamp stamp; /* the file as it was read */
    bool holds_pending;    /* the whole image is the pending version's (loose aside) */
    bool strange;          /* somebody wrote it who marks nothing */
};
enum r2_code r2_stage(struct r2_op *op, bool keep_bytes, struct r2_staged *out);
/* The same, reading only what may differ from the base where that is known: log layout, with a
 * base. Otherwise r2_stage() without bytes. */
enum r2_code r2_stage_changes(struct r2_op *op, struct r2_staged *out);
bool r2_in_log(const struct r2_record *k); /* pushes are segments */
void r2_staged_free(struct r2_staged *s);
/* Is it an earlier version of this replica, put back by hand (its change counter went back, too)?
 */
bool r2_held_before(const struct r2_record *k, const struct r2_staged *s);
/* Are the checksums in the other area those of the pending version's last try? */
enum r2_code r2_pending_sums_there(struct r2_op *op, bool *yes);
/* Does the local file hold the pending version? Reads it. */
enum r2_code r2_holds_pending(struct r2_op *op, bool *yes);
/* A pull that did not end: find out by the file's content whether it happened. */
enum r2_code r2_finish_pull(struct r2_op *op);
enum r2_code r2_push_staged(struct r2_op *op, struct r2_staged *s, const struct r2_push_over *over,
                            uint64_t *version);
/* Its first half: write the intent, replace (or create) the object. */
enum r2_code r2_send_image(struct r2_op *op, struct r2_staged *s, const struct r2_push_over *over,
                           bool exact, struct r2_remote *seen, enum r2_maker *maker);
enum r2_code r2_not_damaged(struct r2_op *op);
/* Sent inside a COMMIT that did not come back: does the file hold it? r2_settle() looks. */
bool r2_pending_unjudged(const struct r2_pending *p);
enum r2_code r2_push_if_dirty(struct r2_op *op, uint64_t *version);
enum r2_code r2_conflict(struct r2_op *op, enum r2_relation relation,
                         const struct r2_remote *remote);

/* replica_log.c: a replica and its log */
void r2_log_of(struct r2_op *op, struct r2_log *l);
void r2_log_done(struct r2_op *op, const struct r2_log *l); /* what it learned: into the record */
/* Make what was staged by changes the next segment. */
enum r2_code r2_push_changes(struct r2_op *op, struct r2_staged *s, uint64_t *version);
/* Its parts: be fresh, write the intent, create the segment; level the areas when it is base. */
enum r2_code r2_send_changes(struct r2_op *op, struct r2_staged *s, bool exact,
                             struct r2_remote *seen, enum r2_maker *maker);
void r2_level_areas(struct r2_op *op, const struct r2_patch *p);
/* Bring the file up to the log's head from its base. R2_PRECONDITION: only from the snapshot.
 * `shortcut` (may be NULL): then also when that is far less; *shorter, and *shortcut is what stands
 * at KEY. */
enum r2_code r2_pull_segments(struct r2_op *op, int64_t busy_ms, struct r2_remote *shortcut,
                              bool *shorter);

/* replica_push.c: what the two kinds of push share */
/* The pending push for v, which has all but its nonce, lineage and recent: another content than the
 * last one tried, or the same in another layout, gets a nonce of its own. */
enum r2_code r2_next_try(struct r2_op *op, struct r2_version *v, const struct r2_version *base,
                         const char *over_etag, enum r2_layout_kind layout);
enum r2_code r2_push_failed(struct r2_op *op, enum r2_code rc, struct r2_remote *seen,
                            enum r2_maker maker, uint64_t *version);
enum r2_code r2_push_landed(struct r2_op *op, struct r2_staged *s, const struct r2_remote *seen,
                            uint64_t *version);

/* replica_pull.c */
/* The error of a pull that finds, under the write lock, that somebody has written meanwhile. */
enum r2_code r2_changed_meanwhile(struct r2_op *op);
/* What the local file must hold for a pull to go through. */
struct r2_expect {
    const struct r2_image *image; /* exactly this; NULL: base, or nothing (absent) */
};
/* The bytes of what a probe saw. When it was replaced meanwhile: R2_PRECONDITION if `just_this`,
 * else the newer one, and *remote says so. */
enum r2_code r2_fetch(struct r2_op *op, struct r2_remote *remote, bool just_this,
                      struct r2_image *image);
void r2_keep_lineage(const struct r2_record *k, struct r2_remote *remote);
enum r2_code r2_install(struct r2_op *op, struct r2_remote *remote, struct r2_image *image,
                        const struct r2_expect *expect, int64_t busy_ms);
enum r2_code r2_pull_remote(struct r2_op *op, struct r2_remote *remote,
                            const struct r2_expect *expect, int64_t busy_ms);

/* replica_resolve.c */
/* Keep the remote's version as KEY-log/<lineage>/<version>.db, where the past of a database stands,
 * before a push replaces it for which nobody vouches. R2_PRECONDITION: it has moved on. */
enum r2_code r2_keep_base(struct r2_op *op, struct r2_remote *remote);
enum r2_code r2_fork_image(struct r2_op *op, const struct r2_image *image, uint64_t version);
/* The local file becomes the remote's version; what it holds is kept as a fork first. */
enum r2_code r2_adopt_remote(struct r2_op *op, struct r2_remote *remote);

/* replica_checkpoint.c. Never in the way of whoever holds the operation: staging is, sending is
 * not. */
/* Is the log too long for who has to read it? Pure. */
bool r2_checkpoint_due(const struct r2_record *k);
/* After a push: if one is due, ask the background thread. Cheap. */
void r2_checkpoint_soon(struct r2_op *op);
/* In that thread. */
void r2_checkpoint_if_due(struct r2_replica *r);
/* A connection was closed, no operation is in progress. Failures are only logged. */
void r2_checkpoint_at_close(struct r2_replica *r);

/* replica_layout.c: make the database's newest version the first of a new lineage in that layout.
 */
enum r2_code r2_change_layout(struct r2_op *op, enum r2_layout_kind to, uint64_t *version);

/* replica_timer.c */
void r2_timer_want(void); /* a replica with sync=N exists: see that the thread runs */
void r2_each_replica(void (*fn)(struct r2_replica *, void *),
                     void *ctx);                    /* replica.c; holds refs */
void r2_bar(struct r2_replica *r, const char *why); /* NULL: lift */

#endif
