/* state.h - the file app.db-r2: what this replica knows about its remote, shared by all processes.
 *
 * A cache of knowledge, never the data: when it is lost or does not fit, the local file is compared
 * with the remote before anything is believed.
 *
 *   offset          what
 *   0               record, slot 0 (12,288 bytes, see state_codec.c)
 *   12,288          record, slot 1; the valid one with the higher sequence number counts
 *   24,576          live page (4,096 bytes), mapped by every process: struct r2_live
 *   28,672          blocks of 8,192 bytes: 512 page checksums (u64) of area 0, then 512 of area 1;
 *                   block k holds pages 512k+1 .. 512k+512
 *
 * Integers of the record are big-endian; live page and checksums are in the byte order that the
 * record names. `area` says which checksums are the base's; the other area holds the pending
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
#include "store.h"
#include "wal.h"

enum {
    R2_STATE_SLOT = 12288,
    R2_STATE_LIVE_AT = 2 * R2_STATE_SLOT,
    R2_STATE_LIVE = 4096,
    R2_STATE_SUMS_AT = R2_STATE_LIVE_AT + R2_STATE_LIVE,
    R2_SUMS_PER_BLOCK = 512,
    R2_HEADER = 100,        /* the header of a SQLite file */
    R2_RECENT_BYTES = 2560, /* 64 entries "version:nonce" of at most 38 bytes */
    R2_RECENT_MAX = 64,
    R2_TRIES_MAX = 16,
    R2_HELD_MAX = 64
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
};

/* The version that is on its way, either way; its page checksums are in the other area. */
struct r2_pending {
    enum r2_pending_kind kind;
    struct r2_version v;
    char over_etag[R2_ETAG_BYTES]; /* push: the ETag it replaces, "" for a birth */
    uint64_t seq;                  /* push: write_seq of the staged content */
    bool doubt;                    /* push: at least one attempt's outcome is unknown */
    uint32_t tries;                /* push: contents tried for v.version; the last one is v's */
    struct r2_try try[R2_TRIES_MAX];
};

/* What the record holds. */
struct r2_record {
    uint64_t sequence;      /* of the record itself */
    char url[R2_URL_BYTES]; /* bound to this remote */
    enum r2_layout_kind layout;
    uint64_t writer;       /* random id of this replica, for fork names */
    uint64_t highest_seen; /* highest version ever seen in the remote */
    int64_t verified_ms;   /* wall clock of the last conclusive answer */
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
    uint32_t held;             /* contents that this file held as a version, newest first: */
    uint64_t held_content[R2_HELD_MAX];
};

/* The fingerprint of the last commit: a file that still carries it continues what was there. */
struct r2_mark {
    uint64_t seq;
    uint32_t counter;  /* rollback modes: change counter */
    uint32_t wal_page; /* WAL: page size, and where the log ended */
    uint32_t wal_salt[2];
    uint32_t wal_frames;
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
    _Atomic uint32_t
        writing; /* a transaction has written pages and is not over; or its writer died */
    _Atomic uint32_t uploading; /* whoever holds the OP lock is sending: it may take long */
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

/* Checksums first .. first+count-1 (pages, from 1) of an area. */
enum r2_code r2_state_read_sums(struct r2_state *s, uint8_t area, uint32_t first, uint32_t count,
                                uint64_t *to, struct r2_err *e);
enum r2_code r2_state_write_sums(struct r2_state *s, uint8_t area, uint32_t first, uint32_t count,
                                 const uint64_t *from, struct r2_err *e);

/* The mapped live page; the pointer may change at r2_state_lock when the file was replaced. */
struct r2_live *r2_state_live(struct r2_state *s);
/* Note that pages are about to change: moves write_seq, and makes that durable when the file was
 * clean before (a power loss must not leave a changed file that the state calls clean). */
enum r2_code r2_state_touch(struct r2_state *s, struct r2_err *e);
/* The transaction that r2_state_touch() was called for is over, one way or the other. */
void r2_state_ended(struct r2_state *s);
void r2_state_committed(struct r2_state *s, const struct r2_mark *mark);
/* The newest whole mark; false when there is none. */
bool r2_state_mark(struct r2_state *s, struct r2_mark *out);

/* stat() of the database file and its -wal. R2_MISSING: no database file. `counter` is left 0. */
enum r2_code r2_identity_of(const char *db_path, struct r2_identity *out, struct r2_err *e);
/* Equal, and old enough when taken for a later write to have moved the clock's tick. */
bool r2_identity_same(const struct r2_identity *then, const struct r2_identity *now);

/* state_codec.c: the record as bytes. Decoding fails on any damage. Pure. */
void r2_record_encode(const struct r2_record *r, uint8_t out[R2_STATE_SLOT]);
bool r2_record_decode(const uint8_t in[R2_STATE_SLOT], struct r2_record *out);

#endif
