/* log_int.h - what the files of the log layout share. */
#ifndef R2_LOG_INT_H
#define R2_LOG_INT_H

#include "layout.h"

/* One segment was not there. */
struct r2_gap {
    bool found;
    int64_t asked_ms; /* signing time of that question */
};

/* log_ahead.c. The next `wanted` (at most R2_AHEAD_FEW) segments into l->ahead, as far as there are
 * any. `hint`: and what stands at KEY into *l->shortcut (exists false: nothing useful). */
enum r2_code r2_ahead_fetch(struct r2_log *l, const uint8_t lineage[16], uint64_t first,
                            uint32_t wanted, bool hint, struct r2_gap *gap);
/* The segments from `first` on, at most `count`: `take` is called for each in its order, one call
 * at a time though in several threads, with that segment in l->ahead, until one is not there, one
 * fails, or l->ended. `sure`: the log goes on to this version at least. */
typedef enum r2_code (*r2_take_fn)(void *ctx);
enum r2_code r2_ahead_stream(struct r2_log *l, const uint8_t lineage[16], uint64_t first,
                             uint64_t count, uint64_t sure, r2_take_fn take, void *ctx,
                             struct r2_gap *gap);

/* Verified less than 30 minutes before, by signing times? */
bool r2_log_is_fresh(int64_t verified_ms, int64_t signed_ms);
/* The header of the k-th segment that was fetched. */
enum r2_code r2_log_peek(struct r2_log *l, const uint8_t lineage[16], uint32_t k,
                         struct r2_ltx_header *h);
/* Do its bytes have their checksum? R2_CORRUPT if not. */
enum r2_code r2_log_check(struct r2_log *l, uint32_t k);
/* A segment after the base is damaged (the sentence is in l->call->err): is the snapshot past the
 * base? Then it is *out, and the sentence is cleared. */
bool r2_log_beyond_damage(struct r2_log *l, const struct r2_version *base, struct r2_remote *out);
/* What stands at KEY; notes when it was asked. */
enum r2_code r2_log_look(struct r2_log *l, struct r2_remote *out);
/* Is that the snapshot of this log? */
bool r2_log_same_lineage(const struct r2_remote *seen, const uint8_t lineage[16]);
/* The segment after `version` (whose checksum that is; 0: not known) was not there when asked at
 * asked_ms. Is that conclusive? If this replica is not fresh, *seen is what stands at KEY. */
enum r2_code r2_log_gap(struct r2_log *l, const uint8_t lineage[16], uint64_t version,
                        uint64_t checksum, int64_t asked_ms, struct r2_remote *seen, bool *newest);
/* layout_log.c. Who made the segment of pending->v, by what a probe saw? Looks further where that
 * proves nothing, and *seen is what stands at KEY then. `doubt`: it may be ours. *which: the try's
 * index. */
enum r2_code r2_log_maker(struct r2_log *l, const struct r2_pending *pending, bool doubt,
                          struct r2_remote *seen, enum r2_maker *maker, uint32_t *which);

#endif
