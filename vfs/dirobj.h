/* dirobj.h - one call on one object of the directory store: its paths, its lock, its bytes, and how
 * the object and its entry in the sidecar are found. For store_dir.c only. */
#ifndef R2_DIROBJ_H
#define R2_DIROBJ_H

#include <sys/stat.h>

#include "dirlist.h"
#include "dirmeta.h"
#include "store.h"

enum {
    DIR_CHUNK = 256 * 1024,
    DIR_NAME_MAX = 240 /* of one part of a key: a file name may have 255, with ".meta" */
};

/* One call: paths, the object as found, the row for the request log. */
struct r2_dir_job {
    struct r2_call *call;
    struct r2_request row;
    int64_t began_ms;
    uint64_t up, down;
    struct r2_err err;
    const char *key;
    char body[R2_KEY_BYTES + 8];
    char side[R2_KEY_BYTES + 32]; /* <folder>/.r2vfs */
    char meta[R2_KEY_BYTES + 48];
    char temp[R2_KEY_BYTES + 64];
    int fd;      /* the object, or -1 */
    int temp_fd; /* the new body, or -1 */
    int lock_fd; /* the lock file while it is held, else -1 */
    bool seen;   /* st and now are from an earlier look at the object */
    struct stat st;
    struct r2_dirmeta_entry now;  /* the object as it is */
    struct r2_dirmeta m;          /* the sidecar as read, or as written */
    struct r2_dirmeta_entry made; /* the one to be put */
    bool exact;                   /* its file system keeps times to the nanosecond */
    uint8_t chunk[DIR_CHUNK];
};

/* Begin: NULL without memory (call->err says so). Drop: releases all. End: tells the call's times,
 * reports the request (R2_STALE: none was made), passes the sentence on, drops, returns `code`. */
struct r2_dir_job *r2_dir_job(struct r2_call *call, const char *method, const char *key);
enum r2_code r2_dir_paths(struct r2_dir_job *j);
void r2_dir_drop(struct r2_dir_job *j);
enum r2_code r2_dir_end(struct r2_dir_job *j, enum r2_code code);
/* R2_STALE if the call is not fresh enough to change something at this time. */
enum r2_code r2_dir_gate(struct r2_dir_job *j, int64_t now_ms);
/* A key is a relative path of plain names; a prefix may end anywhere in one. */
enum r2_code r2_dir_check_key(struct r2_dir_job *j, const char *key, bool prefix);

/* j->err holds a local failure in the bucket: make it a remote's failure, with what to do. */
enum r2_code r2_dir_failed(struct r2_dir_job *j);
enum r2_code r2_dir_failed_sys(struct r2_dir_job *j, int err, const char *doing, const char *path);
bool r2_dir_is_late(const struct r2_dir_job *j);
enum r2_code r2_dir_late(struct r2_dir_job *j);

/* Shared: does without where there is no lock file or it may not be read. */
enum r2_code r2_dir_lock(struct r2_dir_job *j, bool exclusive);
void r2_dir_unlock(struct r2_dir_job *j);

/* Where bytes come from and go to; the bucket is on one side. */
struct r2_dir_flow {
    bool upload;        /* the bucket is written, else read */
    const uint8_t *mem; /* from memory, or */
    int from;           /* from this file */
    uint64_t off, size;
    struct r2_buf *buf; /* into a buffer, or */
    int to;             /* into this file, or nowhere (-1) */
    uint64_t to_off;
};
/* Moves all bytes, looking at the deadline, and says their MD5. */
enum r2_code r2_dir_flow(struct r2_dir_job *j, const struct r2_dir_flow *f, char md5[33]);

void r2_dir_stat(struct r2_dirmeta_entry *e, const struct stat *st);
bool r2_dir_same_file(const struct stat *a, const struct stat *b);
/* Opens the object: j->fd and j->st. */
enum r2_code r2_dir_open(struct r2_dir_job *j);
/* And finds its ETag and metadata: j->now. */
enum r2_code r2_dir_resolve(struct r2_dir_job *j);
void r2_dir_tell(const struct r2_dirmeta_entry *e, const struct stat *st, struct r2_object *out);

#endif
