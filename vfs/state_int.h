/* state_int.h - what state.c and state_dirty.c share. */
#ifndef R2_STATE_INT_H
#define R2_STATE_INT_H

#include <limits.h>
#include <pthread.h>

#include "state.h"

/* The mapped maps of the blocks. Grown by replacing it; older tables stay until the state is
 * closed, because other threads may still look at them. */
struct r2_block_table {
    struct r2_block_table *older;
    uint32_t room;
    uint8_t *_Atomic at[]; /* NULL: not mapped yet */
};

struct r2_state {
    char path[PATH_MAX];
    int fd;
    struct r2_live *_Atomic live; /* mapped; replaced, never unmapped while in use */
    bool joined;                  /* holds USERS */
    bool sums_hold;          /* the base's checksums were looked at since the file was opened */
    pthread_mutex_t mapping; /* guards growth of the table */
    struct r2_block_table *_Atomic table;
    _Atomic uint64_t needed; /* bytes that must be there below our mappings */
};

static inline uint64_t r2_block_at(uint32_t block)
{
    return R2_STATE_BLOCKS_AT + (uint64_t)block * R2_BLOCK_BYTES;
}

/* Nothing was forgotten since the maps were last made complete. */
static inline bool r2_live_seen(struct r2_live *live)
{
    return atomic_load(&live->known) == atomic_load(&live->unseen) + 1;
}

/* `unseen` moves. Twice, if a damaged file says that one more than now is known. */
static inline void r2_live_unseen(struct r2_live *live)
{
    do
        atomic_fetch_add(&live->unseen, 1);
    while (r2_live_seen(live));
}

/* Unmap all maps. No thread may be marking: at close, and in a forked child. The file was replaced:
 * r2_state_drop_maps() forgets them instead, and they stay mapped for those who still look. */
void r2_state_unmap_maps(struct r2_state *s);
void r2_state_drop_maps(struct r2_state *s);

#endif
