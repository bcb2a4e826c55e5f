/* oracle_int.h - what the oracle knows; shared by oracle.c and past.c. */
#ifndef SIM_ORACLE_INT_H
#define SIM_ORACLE_INT_H

#include "sim.h"

enum { VERSIONS = 2048, LINEAGE = 9 };

struct version {
    char lineage[LINEAGE];
    uint64_t number;
    uint8_t *image;
    uint32_t page_size, pages;
    uint64_t checksum;
    int64_t made_ns;
    struct idset ids;
    int64_t counted; /* how often DO_COUNT is in it */
    bool log;        /* of a lineage in the log layout */
    bool end;        /* the segment that ends it */
    bool kept;       /* a restore in the object layout replaced it */
};

struct known {
    struct version v[VERSIONS];
    uint32_t count;
    struct version *at_key;     /* what the snapshot holds */
    struct idset acked;         /* promised to be in the remote */
    struct idset never;         /* taken back */
    struct idset moved;         /* replaced because somebody said so, */
    struct idset past;          /* by a restore: still in earlier versions */
    struct idset forks, pushed; /* in any fork; in any version ever */
    struct idset local[MACHINES];
    struct idset head_then[WORKERS], local_then[WORKERS]; /* when the command began */
    uint32_t purposes, purposes_then[WORKERS];
    bool vacuumed;
    int64_t counted, counted_in_forks; /* promised; and of that, what only forks have */
};
extern struct known know;

struct version *find_version(const char *lineage, uint64_t number);
bool segment_there(const char *lineage, uint64_t number);
/* The newest version in the remote; NULL: there is none. */
struct version *newest(void);
/* Of an object's metadata. */
bool object_meta(const struct object *o, const char *name, char *out, size_t room);

/* past.c */
void collected(const struct event *e, const char *lineage, uint64_t number, bool base);
/* `new` restores an earlier version, or begins or ends a lineage: only page 1's numbers differ. */
void judge_restore(const struct event *e, const struct version *new, const struct version *before);
void judge_move(const struct version *new, const struct version *before);
void past_done(int worker);

#endif
