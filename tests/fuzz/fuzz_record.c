/* fuzz_record.c - the record of the state file. What a checksum vouches for is let through. */
#include "fuzz.h"

#include "../../vfs/ltx.h"
#include "../../vfs/state.h"

/* Magic, byte order and checksum as they have to be. */
static void make_right(uint8_t slot[R2_STATE_SLOT])
{
    static struct r2_record none;
    static uint8_t right[R2_STATE_SLOT];
    if (!right[0]) r2_record_encode(&none, right);
    memcpy(slot, right, 8);
    memcpy(slot + 16, right + 16, 8);
    r2_put64(slot + 8, r2_crc64(0, slot + 16, R2_STATE_SLOT - 16));
}

static void look(const uint8_t slot[R2_STATE_SLOT])
{
    static struct r2_record r, again;
    static uint8_t bytes[R2_STATE_SLOT];
    if (!r2_record_decode(slot, &r)) return;
    RULE(r.area <= 1 && r.held <= R2_HELD_MAX && r.pending.tries <= R2_TRIES_MAX);
    RULE(memchr(r.url, 0, sizeof r.url) && memchr(r.base.etag, 0, sizeof r.base.etag));
    RULE(memchr(r.base.recent, 0, sizeof r.base.recent));
    RULE((unsigned)r.layout <= R2_LAYOUT_LOG && (unsigned)r.pending.kind <= R2_PENDING_PULL);
    r2_record_encode(&r, bytes);
    RULE(r2_record_decode(bytes, &again) && memcmp(&r, &again, sizeof r) == 0);
    size_t end = R2_STATE_SLOT;
    while (end > 24 && !bytes[end - 1])
        end--;
    for (size_t k = 24; k < end; k++) /* one way to write it */
        RULE(bytes[k] == slot[k]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    uint8_t slot[R2_STATE_SLOT] = {0};
    memcpy(slot, bytes, n < sizeof slot ? n : sizeof slot);
    look(slot);
    make_right(slot);
    look(slot);
    return 0;
}
