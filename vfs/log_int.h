/* log_int.h - what the files of the log layout share. */
#ifndef R2_LOG_INT_H
#define R2_LOG_INT_H

#include "layout.h"

/* Verified less than 30 minutes before, by signing times? */
bool r2_log_is_fresh(int64_t verified_ms, int64_t signed_ms);
/* The header of the k-th segment that was fetched. */
enum r2_code r2_log_peek(struct r2_log *l, const uint8_t lineage[16], uint32_t k,
                         struct r2_ltx_header *h);
/* A segment after the base is damaged (the sentence is in l->call->err): is the snapshot past the
 * base? Then it is *out, and the sentence is cleared. */
bool r2_log_beyond_damage(struct r2_log *l, const struct r2_version *base, struct r2_remote *out);
/* What stands at KEY; notes when it was asked. */
enum r2_code r2_log_look(struct r2_log *l, struct r2_remote *out);
/* Is that the snapshot of this log? */
bool r2_log_same_lineage(const struct r2_remote *seen, const uint8_t lineage[16]);
/* The segment after `version` was not there when asked at asked_ms. Is that conclusive? If this
 * replica is not fresh, *seen is what stands at KEY. */
enum r2_code r2_log_gap(struct r2_log *l, const uint8_t lineage[16], uint64_t version,
                        int64_t asked_ms, struct r2_remote *seen, bool *newest);

#endif
