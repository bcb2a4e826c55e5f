/* fuzz_state.c - a whole state file of hostile bytes is opened, used as a replica uses it, and
 * written. Its records' checksums are made right; of the rest nothing vouches for anything. */
#include "fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include "../../vfs/ltx.h"
#include "../../vfs/os.h"
#include "../../vfs/state.h"

enum { READ_MAX = 5000 };

static char db[200], path[210];

/* flags, size of the record, the record's fields, and what stands at the live page's place. */
static void make_file(struct input *in)
{
    static uint8_t file[R2_STATE_BLOCKS_AT];
    static struct r2_record none;
    uint8_t flags = take8(in);
    size_t record = (size_t)take8(in) << 8;
    record |= take8(in);
    uint8_t *slot = file + (flags & 1 ? R2_STATE_SLOT : 0);
    memset(file, 0, sizeof file);
    r2_record_encode(&none, slot);
    for (size_t k = 0; k < record && k < R2_STATE_SLOT - 24 && in->left; k++)
        slot[24 + k] = take8(in);
    slot[24] &= 0x7f; /* the sequence number: nobody saves 2^63 times */
    if (flags & 2)
        slot[flags >> 2] ^= 1; /* a damaged one */
    else
        r2_put64(slot + 8, r2_crc64(0, slot + 16, R2_STATE_SLOT - 16));
    for (size_t k = 0; k < R2_STATE_LIVE && in->left; k++)
        file[R2_STATE_LIVE_AT + k] = take8(in);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    RULE(fd >= 0);
    size_t n = flags & 4 ? sizeof file : sizeof file - (size_t)(flags >> 3) * 900;
    RULE(write(fd, file, n) == (ssize_t)n);
    if (flags & 4) RULE(ftruncate(fd, (off_t)n + (flags >> 3) * 20000) == 0);
    close(fd);
}

/* What was marked is seen, or the look is told to compare every page. */
static bool marked_or_all(const struct r2_dirty *d)
{
    return !d->complete || (d->pages >= 3 && d->map[0] & 4);
}

static void use_maps(struct r2_state *s)
{
    struct r2_marks marks = {0};
    struct r2_dirty d;
    struct r2_err e;
    if (r2_state_touch(s, &e)) return;
    r2_state_begin_marks(s, &marks);
    r2_state_mark_page(s, &marks, 3);
    r2_state_mark_size(s, &marks, 7);
    RULE(r2_state_take_dirty(s, true, &d, &e) == R2_OK);
    RULE(d.lowest <= 7);
    RULE(marked_or_all(&d));
    bool all = !d.complete;
    r2_state_dirty_done(s, &d, false);
    r2_state_ended(s, &marks);
    RULE(r2_state_take_dirty(s, false, &d, &e) == R2_OK && marked_or_all(&d)); /* not settled yet */
    RULE(!all || !d.complete);
    r2_state_dirty_done(s, &d, true);
    r2_marks_free(&marks);
}

static void use(struct r2_state *s)
{
    static struct r2_record r, again;
    static uint64_t sums[READ_MAX];
    struct r2_mark mark = {.counter = 5}, back;
    struct r2_err e;
    bool anew, alone;
    RULE(r2_state_lock(s, 0, &anew, &e) == R2_OK && !anew);
    r2_state_join(s, &alone);
    RULE(alone);
    enum r2_code rc = r2_state_load(s, "s3://b/k", &r, &e);
    RULE(rc == R2_OK || rc == R2_MISSING);       /* whatever it is: never believed in part */
    if (!rc && r.base.version && r.base.pages) { /* what a record speaks of is there */
        uint32_t n = r.base.pages < READ_MAX ? r.base.pages : READ_MAX;
        RULE(r2_state_read_sums(s, r.area, r.base.pages - n + 1, n, sums, &e) == R2_OK);
        RULE(r.base.page_size >= 512 && r.base.page_size <= 65536);
    }
    use_maps(s);
    r2_state_committed(s, &mark);
    if (r2_state_mark(s, &back)) RULE(back.seq);
    (void)r2_strcpy(r.url, sizeof r.url, "s3://b/k");
    r.base.pages = r.base.version ? 2 : 0;
    r.base.page_size = 512;
    memset(sums, 7, 16);
    r.base.checksum = r2_ltx_rolling(sums, 2, 512);
    RULE(r2_state_write_sums(s, r.area, 1, 2, sums, &e) == R2_OK);
    RULE(r2_state_save(s, &r, &e) == R2_OK);
    RULE(r2_state_load(s, "s3://b/k", &again, &e) == R2_OK);
    RULE(again.sequence == r.sequence && again.base.version == r.base.version);
    RULE(again.area == r.area && again.verified_ms == r.verified_ms);
    r2_state_unlock(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const char *tmp = getenv("TMPDIR");
    struct input in = {bytes, n};
    struct r2_state *s = NULL;
    struct r2_err e;
    if (!db[0]) {
        snprintf(db, sizeof db, "%s/fuzz-%d", tmp ? tmp : "/tmp", (int)getpid());
        snprintf(path, sizeof path, "%s-r2", db);
    }
    make_file(&in);
    RULE(r2_state_open(db, &s, &e) == R2_OK);
    use(s);
    r2_state_close(s);
    unlink(path);
    return 0;
}
