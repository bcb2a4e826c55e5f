/* layout.h - how versions become objects in a bucket (DESIGN sections 2 and 3).
 *
 * A layout answers three questions over a store: what is the newest version, what are its bytes,
 * and "make this image version N+1 if N is still the newest". It holds no state of its own. The
 * object layout is layout_object.c; the log layout gets the same table. */
#ifndef R2_LAYOUT_H
#define R2_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "image.h"
#include "patch.h"
#include "state.h"
#include "store.h"

/* The newest version in the remote, as a probe saw it. */
struct r2_remote {
    bool exists;
    struct r2_version v; /* page_size, pages, header: only after a fetch */
    uint64_t size;       /* bytes of the snapshot, */
    int64_t modified_ms; /* and when it was written */
    bool numbered;       /* it carries a db-version */
    bool no_layout;      /* a lineage without db-layout: nothing says whether a log follows */
    bool has_checksum;   /* v.checksum is the writer's word and v.recent is valid */
    bool has_lineage;
    char older[R2_RECENT_BYTES]; /* a db-recent that ends below db-version: a program that knows
                                    only the object carried it on from what it replaced; else "" */
    bool altered;                /* its metadata call it the base, and its bytes are others */
    enum r2_layout_kind layout;
    bool headless;    /* nothing stands at KEY, but its log is not empty */
    bool by_segments; /* log: v is the segment after the base, and perhaps not the last one */
    bool successor;   /* the base's lineage has ended in order, and this one goes on from it */
    bool ended; /* log: v is the base, after which the end of its lineage stands; no other has begun
                 */
    uint64_t end_nonce; /* of that end */
};

/* Who made version N+1? */
enum r2_maker {
    R2_MAKER_NOBODY,  /* N+1 does not exist (yet) */
    R2_MAKER_LATEST,  /* the last of our tries */
    R2_MAKER_EARLIER, /* an earlier one: *which */
    R2_MAKER_OTHER,
    R2_MAKER_HIDDEN /* exists, but the remote has moved on and does not say */
};

/* A push: make `image` version pending->v.version, in place of pending->over_etag. */
struct r2_push {
    const struct r2_pending *pending; /* kind PUSH: version, checksum, recent (with its own entry),
                                         lineage, tries */
    const struct r2_image *image;     /* fd and size */
    enum r2_layout_kind layout;       /* as it will be told: births and adoptions */
    uint64_t size;
    const struct r2_reuse *reuse; /* what it has in common with what it replaces; may be NULL */
};

struct r2_layout_ops {
    const char *name; /* as in db-layout */

    /* The newest version. R2_OK also when there is none (out->exists false). R2_CORRUPT when the
     * object's metadata makes no sense. */
    enum r2_code (*probe)(struct r2_store *, struct r2_call *, const char *key,
                          struct r2_remote *out);

    /* Bytes of the version that a probe saw, into image->fd, checked against its checksum; fills
     * remote->v's shape and header. R2_PRECONDITION: the remote has moved on meanwhile. */
    enum r2_code (*fetch)(struct r2_store *, struct r2_call *, const char *key,
                          struct r2_remote *remote, struct r2_image *image);

    /* R2_OK: it is there, *seen->v.etag is its ETag ("" when a newer one hides it).
     * R2_CONFLICT: somebody else's version stands there; *seen and *maker say what.
     * R2_UNKNOWN: not settled by the deadline. Others: nothing happened. */
    enum r2_code (*push)(struct r2_store *, struct r2_call *, const char *key,
                         const struct r2_push *push, struct r2_remote *seen, enum r2_maker *maker);
};

extern const struct r2_layout_ops r2_layout_object;

/* The probe of a version that was kept beside KEY. Nobody but r2vfs writes there, so its
 * db-checksum counts without a db-recent: at KEY one alone may be left over from before another
 * program's version. */
enum r2_code r2_object_probe_kept(struct r2_store *store, struct r2_call *call, const char *key,
                                  struct r2_remote *out);

/* What db-layout says. */
const char *r2_layout_name(enum r2_layout_kind kind);

/* ---- the log layout ---- */

enum {
    R2_AHEAD = 64,    /* segments under way at once; */
    R2_AHEAD_FEW = 8, /* so many at most before it is certain that the log is long */
};
#define R2_FRESH_MS ((int64_t)30 * 60 * 1000) /* DESIGN section 3, "Fresh" */
#define R2_LATE_MS  ((int64_t)10 * 60 * 1000) /* an answer after this acknowledges nothing yet */

/* Segments that were fetched and not used yet: first, first+1 ... as unnamed files. */
struct r2_segment {
    int fd;
    uint64_t size;
    int64_t modified_ms, signed_ms; /* Last-Modified; when it was asked for */
};
struct r2_ahead {
    uint64_t first;
    uint32_t count;
    struct r2_segment at[R2_AHEAD];
};
void r2_ahead_free(struct r2_ahead *a); /* closes; usable again */

/* One database in the log layout, as a replica knows it. */
struct r2_log {
    struct r2_store *store;
    struct r2_call *call;
    const char *key;
    const char *db_path; /* beside it downloads are put */
    int64_t verified_ms; /* in and out: the signing time of the last conclusive answer; 0: none */
    uint64_t snapshot;   /* in and out: the highest version of a snapshot that was seen */
    int64_t headed_ms;   /* out: signing time of a HEAD of the snapshot, if one was made */
    struct r2_ahead *ahead;
    uint64_t bytes;     /* out: of the segments that r2_log_follow took, */
    bool from_snapshot; /* which were all since the snapshot */
    bool ended;         /* out: r2_log_follow came to the end of the lineage */
    uint64_t sure;      /* in: the log is known to go on to this version at least; 0: not known */
    /* in, may be NULL: r2_log_follow may say that beginning at the snapshot is less (shorter);
     * out: what stands at KEY then */
    struct r2_remote *shortcut;
    bool shorter;
    uint8_t **changed; /* out, if not NULL: what r2_log_fetch changed of the snapshot, as by
                          r2_log_changed; malloc'ed, NULL: not known */
    /* called with each version that r2_log_follow comes by (header filled); may be NULL */
    void (*on_version)(void *ctx, const struct r2_version *v);
    void *ctx;
};

/* KEY-log/<lineage, 8 digits>/<version, 16 hex digits><suffix> */
enum { R2_LOG_KEY = R2_KEY_BYTES + 64 };
void r2_log_key(const char *key, const uint8_t lineage[16], uint64_t version, const char *suffix,
                char out[R2_LOG_KEY]);

/* Is there a version after `base`? out: the base itself if not; the segment after it (by_segments,
 * fetched into l->ahead); or what stands at KEY when that decides (gone, another lineage, a
 * snapshot past the base whose segments were collected, or one older than l->snapshot). */
enum r2_code r2_log_probe(struct r2_log *l, const struct r2_version *base, struct r2_remote *out);

/* The pages by which the newest version (or `upto`, if not 0) differs from `base`, checked link by
 * link. *head: that version. R2_PRECONDITION: segments were collected meanwhile, the lineage
 * ended, or the snapshot is so much newer that it is less than the segments up to it
 * (l->shorter): start from the snapshot. */
enum r2_code r2_log_follow(struct r2_log *l, const struct r2_version *base, uint64_t upto,
                           struct r2_patch *patch, struct r2_version *head);

/* The snapshot that a probe of KEY saw, and all segments after it (up to `upto`, if not 0), as an
 * image; remote->v becomes that version. R2_CORRUPT: a hole in the log. */
enum r2_code r2_log_fetch(struct r2_log *l, struct r2_remote *remote, uint64_t upto,
                          struct r2_image *image);

/* The pages of version `to` that a snapshot of it need not have in common with an earlier one,
 * which stands at KEY: bit (pgno-1), malloc'ed. NULL: that cannot be told, or not for less than it
 * is worth; the sentence why is not kept. timeout_ms: of each transfer. log_changed.c. */
uint8_t *r2_log_changed(struct r2_log *l, const struct r2_remote *snapshot,
                        const struct r2_version *to, int64_t timeout_ms);
/* An empty map, but for the page that no checksum covers; NULL: out of memory. */
uint8_t *r2_changed_new(uint32_t page_size, uint32_t pages);
/* Mark a patch's pages up to `pages`. */
void r2_patch_mark(const struct r2_patch *p, uint32_t pages, uint8_t *map);

/* Create the segment of pending->v, whose encoded bytes are `body`. Results as for
 * r2_layout_ops.push, and R2_STALE: not verified for 30 minutes, nothing was sent. */
enum r2_code r2_log_push(struct r2_log *l, const struct r2_pending *pending,
                         const struct r2_body *body, struct r2_remote *seen, enum r2_maker *maker);

/* The end of a lineage: a segment that changes nothing but page 1's counter, with this as its
 * salt 1. After it KEY is replaced by a new lineage, which goes on with the version after it.
 * Nobody can push to the old one any more, and who reads it looks at KEY. */
#define R2_LOG_END UINT32_C(0x454e4421)

/* ---- collecting: log_collect.c ---- */

enum { R2_COLLECT_BASES = 256, R2_COLLECT_MAX = 1000 };

/* What a listing has of interest to the decision; filled by r2_collect_add(), decided by
 * r2_collect_decide(). Pure. */
struct r2_collect {
    uint64_t snapshot; /* its version, read before the listing */
    int64_t retention_ms, signed_ms;
    uint32_t bases, segments;
    struct {
        uint64_t version;
        int64_t modified_ms;
        bool drop;
    } base[R2_COLLECT_BASES];
    uint64_t
        segment[R2_COLLECT_MAX]; /* old enough, not above the snapshot; after the decision: to go */
};
/* In the order of versions. false: nothing that comes after it matters. */
bool r2_collect_add(struct r2_collect *c, bool base, uint64_t version, int64_t modified_ms);
void r2_collect_decide(struct r2_collect *c);

/* Delete what nobody needs any more of the log whose snapshot was just read; at most R2_COLLECT_MAX
 * segments. *deleted: how many objects. */
enum r2_code r2_log_collect(struct r2_log *l, const struct r2_remote *snapshot, int64_t retention_s,
                            uint32_t *deleted);
/* Before the snapshot is replaced: keep it as a base, unless there is one that is younger than the
 * retention. *based_ms, in and out: when the newest one was made, 0: not known. R2_PRECONDITION: it
 * was replaced meanwhile. */
enum r2_code r2_log_keep_base(struct r2_log *l, const struct r2_remote *snapshot,
                              int64_t retention_s, int64_t *based_ms);

/* ---- db-recent: "version:nonce" pairs, newest first, pure ---- */

/* Is `recent` well formed and its first entry `version`? */
bool r2_recent_valid(const char *recent, uint64_t version);
/* The version of its first entry; 0: not well formed. */
uint64_t r2_recent_first(const char *recent);
/* The nonce of `version`; false when it is not among the entries. */
bool r2_recent_find(const char *recent, uint64_t version, uint64_t *nonce);
/* out = (version, nonce) before the entries of `base`, at most R2_RECENT_MAX in all. */
void r2_recent_prepend(const char *base, uint64_t version, uint64_t nonce,
                       char out[R2_RECENT_BYTES]);

/* Who made pending->v.version, by what a probe saw? *which: the try's index. Pure. */
enum r2_maker r2_layout_maker(const struct r2_remote *seen, const struct r2_pending *pending,
                              uint32_t *which);

/* 32 hex digits of a lineage, and back. */
void r2_lineage_text(const uint8_t lineage[16], char out[33]);
bool r2_lineage_parse(const char *text, uint8_t lineage[16]);

#endif
