/* travel.h - earlier versions: show one, list them, make one the newest. No SQLite types here. */
#ifndef R2_TRAVEL_H
#define R2_TRAVEL_H

#include "replica.h"

/* The version that config names (version or at_ms), as a file without a name in *fd, *size bytes,
 * in a rollback journal mode. Nothing at `path` is touched; downloads go beside it. */
enum r2_code r2_travel(const char *path, const struct r2_config *config, int *fd, uint64_t *size,
                       uint64_t *version, struct r2_err *e);

/* Make the content of `version` the newest version, and bring the local file to it. *now: its
 * number. Nothing is erased. */
enum r2_code r2_replica_restore(struct r2_replica *r, uint64_t version, uint64_t *now,
                                struct r2_err *e);

/* The versions that can be opened, newest first. */
struct r2_history_row {
    uint64_t version, bytes;
    int64_t time_ms;
    bool looked;     /* r2_history_look() has been here */
    bool has_writer; /* then: */
    uint64_t writer;
    uint32_t pages; /* of the database; 0: not known */
    bool segment;
};
struct r2_history {
    uint8_t lineage[16];
    struct r2_history_row *row; /* [count]; malloc'ed */
    size_t count, room;
    bool no_memory;
};
enum r2_code r2_replica_history(struct r2_replica *r, struct r2_history *out, struct r2_err *e);
void r2_history_free(struct r2_history *h);
/* Fetch what a listing does not say of rows first .. first+count-1. */
enum r2_code r2_history_look(struct r2_replica *r, struct r2_history *h, size_t first, size_t count,
                             struct r2_err *e);

#endif
