/* state.h - the file app.db-r2: what this replica knows about its remote, shared by all processes.
 *
 * A cache of knowledge, never the data: when it is lost or does not fit, the local file is compared
 * with the remote before anything is believed.
 *
 *   offset          what
 *   0               record, slot 0 (12,288 bytes, see state_codec.c)
 *   12,288          record, slot 1; the valid one with the higher sequence number counts
 *   24,576          live page (4,096 bytes), mapped by every process: struct r2_live
 *   28,672          blocks of 266,240 bytes; block k is about pages 16,384k+1 .. 16,384k+16,384:
 *       0           map 0: one bit per page (2,048 bytes), u64 words, lowest bit first
 *       2,048       map 1; both maps are mapped by every process: see state_dirty.c
 *       4,096       page checksums (u64) of area 0
 *       135,168     page checksums of area 1
 *
 * Integers of the record are big-endian; live page, maps and checksums are in the byte order that
 * the record names. `area` says which checksums are the base's; the other area holds the pending
 * version's. A record is written to the older slot and synced: a torn write leaves the other one.
 *
 * Locks (OFD, bytes beyond any data): OP is held by whoever probes, pulls, pushes or writes the
 * record; USERS is held shared by every process that has the replica open. */
#ifndef R2_STATE_H
#define R2_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "err.h"
#include "local.h"
#include "store.h"
#include "wal.h"

enum {
    R2_STATE_SLOT = 12288,
    R2_STATE_LIVE_AT = 2 * R2_STATE_SLOT,
    R2_STATE_LIVE = 4096,
    R2_STATE_BLOCKS_AT = R2_STATE_LIVE_AT + R2_STATE_LIVE,
    R2_BLOCK_PAGES = 16384, /* pages that one block is about */
    R2_BLOCK_MAPS = 4096,   /* bytes of its two maps */
    R2_BLOCK_BYTES = R2_BLOCK_MAPS + 2 * 8 * R2_BLOCK_PAGES,
    R2_HEADER = 100,        /* the header of a SQLite file */
    R2_RECENT_BYTES = 2560, /* 64 entries "version:nonce" of at most 38 bytes */
    R2_RECENT_MAX = 64,
    R2_TRIES_MAX = 16,
    R2_HELD_MAX = 64,
    R2_STAMP_WORDS = sizeof(struct r2_stamp) / 8
};

/* Which file, and what it looked like: SQLite's writers move at least one of these. */
struct r2_identity {
    uint64_t dev, ino, size;
    int64_t mtime_ns, ctime_ns;
    uint64_t wal_size; /* 0: no -wal */
    int64_t wal_mtime_ns;
    uint32_t counter; /* change counter of the local page 1 */
    int64_t taken_ms; /* wall clock when this was read */
};

/* One version: what a replica must know to compare with it and to follow it. */
struct r2_version {
    uint64_t version;         /* 0: none */
    char etag[R2_ETAG_BYTES]; /* "" when not known */
    uint8_t lineage[16];      /* zeros: none (a plain object) */
    uint64_t checksum;        /* rolling, whole database */
    uint32_t page_size, pages;
    uint8_t header[R2_HEADER];    /* the first 100 bytes of the version's page 1 */
    char recent[R2_RECENT_BYTES]; /* db-recent, "" when none is valid */
    uint32_t local_cookie;        /* the local file's schema cookie when it holds this version */
};

enum r2_pending_kind { R2_PENDING_NONE, R2_PENDING_PUSH, R2_PENDING_PULL };

/* A content that was (or is being) sent as one version number, and its nonce. */
struct r2_try {
    uint64_t nonce;
    uint64_t checksum;
    uint8_t lineage[16];
    bool gone; /* its transaction was rolled back: nothing local holds it, or continues it */
};

/* The version that is on its way, either way; its page checksums are in the other area. */
struct r2_pending {
    enum r2_pending_kind kind;
    struct r2_version v;
    char over_etag[R2_ETAG_BYTES]; /* push: the ETag it replaces, "" for a birth */
    uint64_t seq;                  /* push: write_seq of the staged content */
    bool doubt;                    /* push: at least one attempt's outcome is unknown */
    bool exact; /* push inside a COMMIT: the file holds it only if its content is just that */
    enum r2_layout_kind layout; /* push: of the lineage that it belongs to */
    uint32_t tries;             /* push: contents tried for v.version; the last one is v's */
    struct r2_try try[R2_TRIES_MAX];
};

/* What the record holds. */
struct r2_record {
    uint64_t sequence;      /* of the record itself */
    char url[R2_URL_BYTES]; /* bound to this remote */
    enum r2_layout_kind layout;
    uint64_t writer;       /* random id of this replica, for fork names */
    uint64_t highest_seen; /* highest version ever seen in the remote */
    int64_t verified_ms;   /* signing time of the last conclusive answer */
    uint64_t snapshot;     /* log: highest version of a snapshot that was seen */
    int64_t headed_ms;     /* log: signing time of the last look at the snapshot */
    uint8_t area;          /* 0 or 1: where the base's checksums are */
    struct r2_version base;
    uint64_t clean_seq;          /* the local file held base when live write_seq was this */
    struct r2_identity identity; /* of the file when it was last known to hold base */
    struct r2_pending pending;
    bool unclean;              /* after an unclean end: quick_check before anything is pushed */
    bool unvouched;            /* changed while no r2vfs was there: keep base before a push */
    bool damaged;              /* and that check failed: never pushed */
    struct r2_identity left;   /* the file when it was last closed with something unpushed */
    uint64_t left_seq;         /* and write_seq then; 0: not so */
    uint64_t conflict_version; /* remote version a push lost against; 0: no conflict known */
    uint64_t surplus;     /* nonce of a COMMIT that was rolled back here, and is in the remote */
    uint64_t surplus_seq; /* as base's successor; and write_seq when that was seen; 0: none */
    uint32_t held;        /* contents that this file held as a version, newest first: */
    uint64_t held_content[R2_HELD_MAX];
    uint64_t log_bytes;   /* log: bytes of the segments since the snapshot, about */
    uint64_t tended;      /* log: the lineage (its first 8 bytes) that the next two are about */
    int64_t based_ms;     /* when the newest base was made; 0: not known */
    int64_t collected_ms; /* when old segments were last looked for; 0: never */
};

/* The fingerprint of the last commit: a file that still carries it continues what was there. */
struct r2_mark {
    uint64_t seq;
    uint32_t counter;  /* rollback modes: change counter */
    uint32_t wal_page; /* WAL: page size, and where the log ended; 0: another mode */
    uint32_t wal_salt[2];
    uint32_t wal_frames; /* 0: it has just begun, and the checksum is its header's */
    uint32_t wal_cksum[2];
};

/* Shared memory. write_seq moves before the first page write of a transaction and after its commit:
 * write_seq == clean_seq means that no r2vfs connection wrote since the file held base. */
struct r2_live {
    _Atomic uint64_t write_seq;
    _Atomic uint64_t clean_seq; /* copy of the record's, for a look without the lock */
    uint8_t boot_id[16];
    struct r2_mark mark[2]; /* written in turn: mark[seq & 1]; a torn one has another seq */
    _Atomic uint64_t mark_seq;
    _Atomic uint64_t writing;    /* id of the transaction that has written pages and is not over, or
                                    whose writer died; 0: none */
    _Atomic uint32_t uploading;  /* whoever holds the OP lock is sending: it may take long */
    _Atomic uint32_t generation; /* writers mark their pages in map generation & 1 */
    _Atomic uint64_t unseen;     /* moves when pages may have changed that no map shows */
    _Atomic uint64_t known;      /* `unseen` + 1 when the maps were last complete; 0: never */
    _Atomic uint32_t blocks;     /* blocks whose maps have ever been marked */
    _Atomic uint32_t cut;        /* UINT32_MAX - the smallest size in pages since the last look */
    _Atomic uint64_t level;      /* which version's checksums both areas hold, in which boot; 0 */
    _Atomic int64_t verified_ms; /* the record's, when they are newer than what is on the disk */
    _Atomic int64_t headed_ms;
    _Atomic uint32_t aside;        /* how often local commits were set aside for the remote's */
    _Atomic uint32_t pulling;      /* whoever holds the OP lock is fetching a newer version */
    _Atomic int64_t committing_ms; /* until then (r2_boot_ms) a COMMIT, with SQLite's write lock,
                                      waits for the OP lock: whoever has that gives way */
    _Atomic int64_t
        asking_ms; /* until then somebody waits for the OP lock: see r2_replica_let_pass */
    _Atomic uint64_t stamp[R2_STAMP_WORDS]; /* struct r2_stamp: after the last commit
                          that the maps know of; written under SQLite's write lock, or before
                          anybody has one */
};

struct r2_state;

/* Open or create the state file of the database at `db_path`. Nothing is believed yet. */
enum r2_code r2_state_open(const char *db_path, struct r2_state **out, struct r2_err *e);
void r2_state_close(struct r2_state *s);
/* After fork(): forget in the child without touching locks. */
void r2_state_forget(struct r2_state *s);

/* Hold the OP lock. Notices when the file was deleted or replaced under us, and starts a new one
 * (`*anew` is set: nothing is known then). R2_BUSY after wait_ms. */
enum r2_code r2_state_lock(struct r2_state *s, int64_t wait_ms, bool *anew, struct r2_err *e);
void r2_state_unlock(struct r2_state *s);

/* Be the one process that tends the replica's remote (checkpoints, collection): not the OP lock,
 * and nobody waits for it. false: another one is. */
bool r2_state_tend(struct r2_state *s);
void r2_state_tended(struct r2_state *s);

/* Join the users. `*alone`: no other process has the replica open. Call with the OP lock held. */
void r2_state_join(struct r2_state *s, bool *alone);

/* The same without the OP lock, when somebody who holds it is a user for certain. */
void r2_state_join_others(struct r2_state *s);

/* The valid record, if there is one for `url`; R2_MISSING otherwise (file new, damaged, or bound to
 * another remote). OP lock held, as for all below. */
enum r2_code r2_state_load(struct r2_state *s, const char *url, struct r2_record *out,
                           struct r2_err *e);
/* Write and sync the record (and the checksums written before). Increments r->sequence. */
enum r2_code r2_state_save(struct r2_state *s, struct r2_record *r, struct r2_err *e);

/* Is the file long enough for this version's checksums in that area? It may have been cut short. */
bool r2_state_has_sums(const struct r2_state *s, const struct r2_version *v, uint8_t area);
/* Checksums first .. first+count-1 (pages, from 1) of an area. */
enum r2_code r2_state_read_sums(struct r2_state *s, uint8_t area, uint32_t first, uint32_t count,
                                uint64_t *to, struct r2_err *e);
enum r2_code r2_state_write_sums(struct r2_state *s, uint8_t area, uint32_t first, uint32_t count,
                                 const uint64_t *from, struct r2_err *e);

/* Make both areas hold the checksums of pages 1 .. pages of `from`, those of this version; nothing
 * is copied when they do already: r2_state_is_level() said so, and no checksum was written since.
 */
enum r2_code r2_state_level(struct r2_state *s, uint8_t from, uint64_t version, uint32_t pages,
                            struct r2_err *e);
void r2_state_is_level(struct r2_state *s, uint8_t area, uint64_t version);

/* The mapped live page; the pointer may change at r2_state_lock when the file was replaced. */
struct r2_live *r2_state_live(struct r2_state *s);
/* Note that pages are about to change: moves write_seq, and makes that durable when the file was
 * clean before (a power loss must not leave a changed file that the state calls clean). SQLite lets
 * one transaction write at a time. */
enum r2_code r2_state_touch(struct r2_state *s, struct r2_err *e);
void r2_state_committed(struct r2_state *s, const struct r2_mark *mark);
/* Nothing is committed, but what continues the file is told by this mark from now on. */
void r2_state_set_mark(struct r2_state *s, const struct r2_mark *mark);
/* The newest whole mark; false when there is none. */
bool r2_state_mark(struct r2_state *s, struct r2_mark *out);

/* ---- which pages may differ from the base: state_dirty.c ---- */

/* What one writing transaction marked: to be marked again if a look came in between. Zeros at
 * first; one per connection, kept from transaction to transaction. */
struct r2_marks {
    uint32_t *page; /* [count]; malloc'ed */
    uint32_t count, room;
    bool too_many;   /* more than are kept */
    bool lost;       /* one could not be marked: until the end no look makes the maps complete */
    uint32_t lowest; /* the smallest size in pages that it gave the database */
    uint32_t since;  /* the generation when it began */
};
void r2_marks_free(struct r2_marks *m);

/* A transaction that r2_state_touch() was called for begins. */
void r2_state_begin_marks(struct r2_state *s, struct r2_marks *m);
/* It is about to change a page; to cut the database to `pages`. Never fails: what cannot be marked
 * makes the maps incomplete. */
void r2_state_mark_page(struct r2_state *s, struct r2_marks *m, uint32_t pgno);
void r2_state_mark_size(struct r2_state *s, struct r2_marks *m, uint32_t pages);
/* It is over, one way or the other. */
void r2_state_ended(struct r2_state *s, struct r2_marks *m);
/* Pages may have changed that are in no map: the next look compares every page. */
void r2_state_unseen(struct r2_state *s);

/* Nothing of that kind since the maps were last made complete. */
bool r2_state_seen(struct r2_state *s);

/* Its log was just folded in, and SQLite's locks still keep writers out: r2_identity_seal(), and
 * that is the stamp. */
void r2_state_seal(struct r2_state *s, const char *db_path);
/* Is the file still as it was sealed, in this boot of the machine? */
bool r2_state_sealed(struct r2_state *s, const struct r2_identity *now);
/* Of the last commit that the maps know of. */
struct r2_stamp r2_state_stamp(struct r2_state *s);
/* The local file as it stands now, in the writer's hands; NULL: whoever comes first shall compare.
 */
void r2_state_set_stamp(struct r2_state *s, const struct r2_stamp *now);
/* Does it continue what the stamp says? `next`: it is the counter of the commit in progress.
 * Without a stamp: *none, and false. Pure but for reading shared memory. */
bool r2_state_continues(struct r2_state *s, const struct r2_stamp *now, bool next, bool *none);

/* A look at the local file, by whoever holds the OP lock. */
struct r2_dirty {
    bool complete;   /* every page that differs from the base is in the map, or beyond base's end */
    uint64_t *map;   /* malloc'ed: bit (pgno-1) of pages 1 .. pages */
    uint32_t pages;  /* a multiple of 64 */
    uint32_t lowest; /* the smallest size that the database had: pages above it may differ, too */
    uint64_t unseen; /* as it was when the map was taken */
    uint64_t writing; /* the transaction in progress then whose pages may be in the map; 0: none */
};
/* Take the marks BEFORE the read transaction begins: what is marked from now on goes into the other
 * map. `own`: the transaction in progress is the caller's, which is going to see all of its pages.
 */
enum r2_code r2_state_take_dirty(struct r2_state *s, bool own, struct r2_dirty *out,
                                 struct r2_err *e);
/* The look of a transaction that is about to commit: it sees all of its own pages, and its end need
 * not mark them again. */
enum r2_code r2_state_take_own(struct r2_state *s, struct r2_marks *m, struct r2_dirty *out,
                               struct r2_err *e);
/* The read transaction has begun: what was committed since the marks were taken is in what it sees,
 * and its marks are in the maps by now. Adds them to d->map; none is forgotten for that. */
enum r2_code r2_state_see_dirty(struct r2_state *s, struct r2_dirty *d, struct r2_err *e);
/* A look found that this page differs from the base, and is no change: a loose page. */
void r2_state_mark_loose(struct r2_state *s, uint32_t pgno);
/* The look is over. `settled`: each page that was taken was seen to be the base's, or has become
 * it (each page of all, if the map was not complete): those marks are forgotten. Frees d->map. */
void r2_state_dirty_done(struct r2_state *s, struct r2_dirty *d, bool settled);

/* stat() of the database file and its -wal. R2_MISSING: no database file. `counter` is left 0. */
enum r2_code r2_identity_of(const char *db_path, struct r2_identity *out, struct r2_err *e);
/* While a lock of SQLite's keeps writers out: give the file a time of change that no write will
 * ever give it. The kernel's clock for files stands still for milliseconds, and a write right after
 * could leave the same time; one between two ticks is nobody else's. *out, which counts as settled.
 */
bool r2_identity_seal(const char *db_path, struct r2_identity *out);
bool r2_identity_equal(const struct r2_identity *then, const struct r2_identity *now);
/* Equal, and old enough when taken for a later write to have moved the clock's tick. */
bool r2_identity_same(const struct r2_identity *then, const struct r2_identity *now);

/* state_codec.c: the record as bytes. Decoding fails on any damage. Pure. */
void r2_record_encode(const struct r2_record *r, uint8_t out[R2_STATE_SLOT]);
bool r2_record_decode(const uint8_t in[R2_STATE_SLOT], struct r2_record *out);

#endif
