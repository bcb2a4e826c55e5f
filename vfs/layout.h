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
#include "state.h"
#include "store.h"

/* The newest version in the remote, as a probe saw it. */
struct r2_remote {
    bool exists;
    struct r2_version v; /* page_size, pages, header: only after a fetch */
    uint64_t size;       /* bytes of the snapshot */
    bool numbered;       /* it carries a db-version */
    bool has_checksum;   /* v.checksum is the writer's word and v.recent is valid */
    bool has_lineage;
    char older[R2_RECENT_BYTES]; /* a db-recent that ends below db-version: a program that knows
                                    only the object carried it on from what it replaced; else "" */
    bool altered;                /* its metadata call it the base, and its bytes are others */
    enum r2_layout_kind layout;
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
    uint64_t size;
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

/* The table layout kind -> operations; NULL for one that this build does not have. */
const struct r2_layout_ops *r2_layout_of(enum r2_layout_kind kind);

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
