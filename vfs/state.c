/* state.c - see state.h. */
#include "state_int.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "buf.h"
#include "ltx.h"
#include "os.h"

enum { OP_BYTE = 0x40000000, USERS_BYTE = 0x40000001, TEND_BYTE = 0x40000002 };

/* A change within the clock's tick after a look would not move mtime: see r2_identity_same. */
enum { TICK_MS = 20, COARSE_TICK_MS = 2000 };

static enum r2_code map_file(struct r2_state *s, struct r2_err *e)
{
    struct stat st;
    int fd = r2_os.open(s->path, O_RDWR | O_CREAT, 0644);
    if (fd < 0) return r2_fail_errno(e, errno, "open the state file %s", s->path);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        r2_os.close(fd);
        return r2_fail(e, R2_IO, "the state file %s is not a regular file", s->path);
    }
    /* grow only: another process may be doing the same */
    if (st.st_size < R2_STATE_BLOCKS_AT) {
        int rc = posix_fallocate(fd, 0, R2_STATE_BLOCKS_AT);
        if (rc != 0) {
            r2_os.close(fd);
            return r2_fail_errno(e, rc, "make room in the state file %s", s->path);
        }
    }
    void *at =
        r2_os.mmap(NULL, R2_STATE_LIVE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, R2_STATE_LIVE_AT);
    if (at == MAP_FAILED) {
        int err = errno;
        r2_os.close(fd);
        return r2_fail_errno(e, err, "map the state file %s", s->path);
    }
    s->fd = fd;
    s->joined = false;
    r2_state_drop_maps(s);
    atomic_store(&s->live, (struct r2_live *)at);
    return R2_OK;
}

enum r2_code r2_state_open(const char *db_path, struct r2_state **out, struct r2_err *e)
{
    struct r2_state *s = calloc(1, sizeof *s);
    if (!s) return r2_fail(e, R2_NOMEM, "out of memory");
    pthread_mutex_init(&s->mapping, NULL);
    int n = snprintf(s->path, sizeof s->path, "%s-r2", db_path);
    enum r2_code rc = n > 0 && (size_t)n < sizeof s->path
                          ? map_file(s, e)
                          : r2_fail(e, R2_IO, "the path is too long: %s", db_path);
    if (rc)
        free(s);
    else
        *out = s;
    return rc;
}

void r2_state_close(struct r2_state *s)
{
    if (!s) return;
    munmap(atomic_load(&s->live), R2_STATE_LIVE);
    r2_state_unmap_maps(s);
    r2_os.close(s->fd);
    pthread_mutex_destroy(&s->mapping);
    free(s);
}

void r2_state_forget(struct r2_state *s)
{
    /* The locks belong to the open file description, which the parent still has: letting go of it
     * here releases nothing. Keeping it, as descriptor or as mapping, would keep the locks of a
     * parent that dies. */
    static struct r2_live nobodys;
    if (s->fd < 0) return;
    r2_os.close(s->fd);
    s->fd = -1;
    munmap(atomic_exchange(&s->live, &nobodys), R2_STATE_LIVE);
    r2_state_unmap_maps(s);
}

/* Is the descriptor still the file that the path names? A disk that does not answer has not said
 * that it is gone. */
static bool still_there(const struct r2_state *s)
{
    struct stat mine, named;
    if (fstat(s->fd, &mine) != 0 || stat(s->path, &named) != 0)
        return errno != ENOENT && errno != ENOTDIR;
    return mine.st_dev == named.st_dev && mine.st_ino == named.st_ino &&
           mine.st_size >= R2_STATE_BLOCKS_AT;
}

enum r2_code r2_state_lock(struct r2_state *s, int64_t wait_ms, bool *anew, struct r2_err *e)
{
    *anew = false;
    for (int turn = 0; turn < 8; turn++) {
        if (!r2_lock_byte(s->fd, OP_BYTE, true, wait_ms))
            return r2_fail(e, R2_BUSY, "another process is still busy with this replica (%s)",
                           s->path);
        if (still_there(s)) return R2_OK;
        /* deleted or replaced: the old mapping stays for threads that still look at it */
        struct r2_live *old = atomic_load(&s->live);
        int old_fd = s->fd;
        bool joined = s->joined, alone;
        enum r2_code rc = map_file(s, e);
        if (rc) {
            r2_unlock_byte(old_fd, OP_BYTE);
            return rc;
        }
        /* only now: of an emptied file the old mapping was unreadable until it grew again */
        uint64_t seq = atomic_load(&old->write_seq);
        r2_unlock_byte(old_fd, OP_BYTE); /* the old mapping would keep them beyond the close */
        r2_unlock_byte(old_fd, USERS_BYTE);
        r2_unlock_byte(old_fd, TEND_BYTE);
        r2_os.close(old_fd);
        uint64_t fresh = 0;
        atomic_compare_exchange_strong(&r2_state_live(s)->write_seq, &fresh, seq + 1);
        if (joined) r2_state_join(s, &alone);
        s->sums_hold = false;
        *anew = true;
    }
    return r2_fail(e, R2_BUSY, "the state file %s is being replaced again and again", s->path);
}

void r2_state_unlock(struct r2_state *s)
{
    r2_unlock_byte(s->fd, OP_BYTE);
}

bool r2_state_tend(struct r2_state *s)
{
    return r2_lock_byte(s->fd, TEND_BYTE, true, 0);
}

void r2_state_tended(struct r2_state *s)
{
    r2_unlock_byte(s->fd, TEND_BYTE);
}

void r2_state_join(struct r2_state *s, bool *alone)
{
    *alone = r2_lock_byte(s->fd, USERS_BYTE, true, 0);
    s->joined = r2_lock_byte(s->fd, USERS_BYTE, false, 1000);
}

void r2_state_join_others(struct r2_state *s)
{
    s->joined = r2_lock_byte(s->fd, USERS_BYTE, false, 1000);
}

static uint64_t sums_at(uint8_t area, uint32_t index)
{
    uint64_t in = index % R2_BLOCK_PAGES, of_area = (uint64_t)area * R2_BLOCK_PAGES;
    return r2_block_at(index / R2_BLOCK_PAGES) + R2_BLOCK_MAPS + (of_area + in) * 8;
}

/* A file that was cut short has the record, but not what the record speaks of. */
bool r2_state_has_sums(const struct r2_state *s, const struct r2_version *v, uint8_t area)
{
    struct stat st;
    if (!v->version || !v->pages) return true;
    /* when that cannot be had, reading them says what is wrong */
    return fstat(s->fd, &st) != 0 || (uint64_t)st.st_size >= sums_at(area, v->pages - 1) + 8;
}

/* Are the base's checksums those that its own one was made of? A damaged one would go into the next
 * version's. Looked at once: 8 bytes a page. */
static enum r2_code look_at_sums(struct r2_state *s, const struct r2_record *r, bool *hold,
                                 struct r2_err *e)
{
    enum { RUN = 8192 };
    const struct r2_version *v = &r->base;
    enum r2_code rc = R2_OK;
    *hold = true;
    if (s->sums_hold || !v->version || !v->pages || !v->checksum) return R2_OK;
    uint64_t *sums = malloc(RUN * 8), rolling = R2_LTX_FLAG;
    if (!sums) return r2_fail(e, R2_NOMEM, "out of memory");
    uint32_t lock_page = r2_ltx_lock_page(v->page_size);
    for (uint32_t done = 0; !rc && done < v->pages;) {
        uint32_t run = v->pages - done < RUN ? v->pages - done : RUN;
        rc = r2_state_read_sums(s, r->area, done + 1, run, sums, e);
        for (uint32_t k = 0; k < run; k++)
            if (done + k + 1 != lock_page) rolling ^= sums[k] & ~R2_LTX_FLAG;
        done += run;
    }
    free(sums);
    if (rc) return rc;
    s->sums_hold = *hold = rolling == v->checksum;
    return R2_OK;
}

enum r2_code r2_state_load(struct r2_state *s, const char *url, struct r2_record *out,
                           struct r2_err *e)
{
    uint8_t bytes[R2_STATE_SLOT];
    struct r2_record other;
    bool found = false;
    memset(out, 0, sizeof *out);
    for (int slot = 0; slot < 2; slot++) {
        enum r2_code rc = r2_read_at(s->fd, bytes, sizeof bytes, (uint64_t)slot * R2_STATE_SLOT, e);
        if (rc) return r2_wrap(e, "read the state file %s", s->path);
        if (!r2_record_decode(bytes, &other)) continue;
        if (!found || other.sequence > out->sequence) *out = other;
        found = true;
    }
    if (!found) return r2_fail(e, R2_MISSING, "the state file %s holds no valid record", s->path);
    bool whole = r2_state_has_sums(s, &out->base, out->area);
    enum r2_code rc = whole ? look_at_sums(s, out, &whole, e) : R2_OK;
    if (rc) return rc;
    if (!whole || strcmp(out->url, url) != 0) {
        uint64_t sequence = out->sequence, writer = out->writer;
        if (whole)
            r2_fail(e, R2_MISSING, "the state file %s is bound to %s", s->path, out->url);
        else
            r2_fail(e, R2_MISSING, "the state file %s is damaged, or was cut short", s->path);
        memset(out, 0, sizeof *out);
        out->sequence = sequence; /* the next save must win over it */
        out->writer = writer;
        return R2_MISSING;
    }
    /* the copy is written after the sync: a power loss may have left it behind */
    atomic_store(&r2_state_live(s)->clean_seq, out->clean_seq);
    return R2_OK;
}

enum r2_code r2_state_save(struct r2_state *s, struct r2_record *r, struct r2_err *e)
{
    uint8_t bytes[R2_STATE_SLOT];
    r2_err_clear(e);
    /* checksums first: the record must never name some that are not there */
    enum r2_code rc = r2_sync_fd(s->fd, s->path, e);
    if (rc) return rc;
    r->sequence++;
    r2_record_encode(r, bytes);
    uint64_t slot = r->sequence & 1;
    rc = r2_write_at(s->fd, bytes, sizeof bytes, slot * R2_STATE_SLOT, e);
    if (!rc) rc = r2_sync_fd(s->fd, s->path, e);
    if (rc) {
        r->sequence--; /* tried again, it goes into the same slot: the other is the valid one */
        return r2_wrap(e, "write the state file %s", s->path);
    }
    atomic_store(&r2_state_live(s)->clean_seq, r->clean_seq);
    return R2_OK;
}

/* Runs of checksums that lie side by side in the file. */
static uint32_t run_from(uint32_t index, uint32_t left)
{
    uint32_t run = R2_BLOCK_PAGES - index % R2_BLOCK_PAGES;
    return run < left ? run : left;
}

enum r2_code r2_state_read_sums(struct r2_state *s, uint8_t area, uint32_t first, uint32_t count,
                                uint64_t *to, struct r2_err *e)
{
    for (uint32_t index = first - 1; count;) {
        uint32_t run = run_from(index, count);
        enum r2_code rc = r2_read_at(s->fd, to, run * 8u, sums_at(area, index), e);
        if (rc) return r2_wrap(e, "read checksums from the state file %s", s->path);
        index += run, count -= run, to += run;
    }
    return R2_OK;
}

enum r2_code r2_state_write_sums(struct r2_state *s, uint8_t area, uint32_t first, uint32_t count,
                                 const uint64_t *from, struct r2_err *e)
{
    atomic_store(&r2_state_live(s)->level, 0); /* before: a crash leaves them different */
    for (uint32_t index = first - 1; count;) {
        uint32_t run = run_from(index, count);
        enum r2_code rc = r2_write_at(s->fd, from, run * 8u, sums_at(area, index), e);
        if (rc) return r2_wrap(e, "write checksums to the state file %s", s->path);
        index += run, count -= run, from += run;
    }
    return R2_OK;
}

static uint64_t level_token(uint8_t area, uint64_t version)
{
    uint8_t boot[16];
    r2_boot_id(boot);
    uint64_t crc = r2_crc64(0, boot, sizeof boot);
    return r2_crc64(r2_crc64(crc, &version, sizeof version), &area, 1) | 1;
}

void r2_state_is_level(struct r2_state *s, uint8_t area, uint64_t version)
{
    atomic_store(&r2_state_live(s)->level, level_token(area, version));
}

enum r2_code r2_state_level(struct r2_state *s, uint8_t from, uint64_t version, uint32_t pages,
                            struct r2_err *e)
{
    enum { RUN = 8192 };
    if (atomic_load(&r2_state_live(s)->level) == level_token(from, version)) return R2_OK;
    uint64_t *sums = malloc(RUN * sizeof *sums);
    enum r2_code rc = sums ? R2_OK : r2_fail(e, R2_NOMEM, "out of memory");
    for (uint32_t done = 0; !rc && done < pages;) {
        uint32_t run = pages - done < RUN ? pages - done : RUN;
        rc = r2_state_read_sums(s, from, done + 1, run, sums, e);
        if (!rc) rc = r2_state_write_sums(s, from ^ 1, done + 1, run, sums, e);
        done += run;
    }
    free(sums);
    return rc;
}

/* A file cut short under the mapping (an old copy put back in place) would end the host with
 * SIGBUS: make it long enough again. What was in it is noticed by its record and the file's
 * identity. Every transaction that writes asks for the length, by the cheapest call that tells it;
 * nobody uses the descriptor's offset. */
struct r2_live *r2_state_live(struct r2_state *s)
{
    uint64_t needed = atomic_load(&s->needed);
    off_t size = lseek(s->fd, 0, SEEK_END);
    if (size >= 0 && (uint64_t)size < needed) {
        /* the live page itself may be gone; and unseen moves before empty maps can be read */
        if (size < R2_STATE_BLOCKS_AT) (void)posix_fallocate(s->fd, 0, R2_STATE_BLOCKS_AT);
        r2_live_unseen(atomic_load(&s->live)); /* the maps were in what is gone */
        (void)posix_fallocate(s->fd, (off_t)needed - 1, 1);
    }
    return atomic_load(&s->live);
}

enum r2_code r2_state_touch(struct r2_state *s, struct r2_err *e)
{
    struct r2_live *live = r2_state_live(s);
    uint64_t before = atomic_fetch_add(&live->write_seq, 1);
    /* one writes at a time: whoever is still there died, and may have left pages unmarked */
    if (atomic_exchange(&live->writing, before + 1)) r2_live_unseen(live);
    if (before != atomic_load(&live->clean_seq)) return R2_OK;
    r2_boot_id(live->boot_id);
    if (msync(live, R2_STATE_LIVE, MS_SYNC) == 0) return R2_OK;
    int err = errno;
    uint64_t mine = before + 1; /* the next one must try again */
    atomic_compare_exchange_strong(&live->write_seq, &mine, before);
    return r2_fail_errno(e, err, "sync the state file %s", s->path);
}

void r2_state_set_mark(struct r2_state *s, const struct r2_mark *mark)
{
    struct r2_live *live = atomic_load(&s->live);
    uint64_t seq = atomic_load(&live->mark_seq) + 1;
    struct r2_mark *slot = &live->mark[seq & 1];
    slot->seq = 0;
    atomic_thread_fence(memory_order_release); /* what is kept is the order of the stores */
    struct r2_mark copy = *mark;
    copy.seq = 0;
    *slot = copy;
    atomic_thread_fence(memory_order_release);
    slot->seq = seq;
    atomic_store_explicit(&live->mark_seq, seq, memory_order_release);
}

void r2_state_committed(struct r2_state *s, const struct r2_mark *mark)
{
    struct r2_live *live = atomic_load(&s->live);
    r2_state_set_mark(s, mark);
    atomic_fetch_add(&live->write_seq, 1);
}

bool r2_state_mark(struct r2_state *s, struct r2_mark *out)
{
    struct r2_live *live = r2_state_live(s);
    struct r2_mark a = live->mark[0], b = live->mark[1];
    *out = a.seq > b.seq ? a : b;
    return out->seq != 0;
}

static int64_t ns_of(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#ifdef __APPLE__
#define st_mtim st_mtimespec
#define st_ctim st_ctimespec
#endif

enum r2_code r2_identity_of(const char *db_path, struct r2_identity *out, struct r2_err *e)
{
    struct stat st;
    char wal[PATH_MAX];
    memset(out, 0, sizeof *out);
    if (stat(db_path, &st) != 0) {
        if (errno == ENOENT) return r2_fail(e, R2_MISSING, "%s does not exist", db_path);
        return r2_fail_errno(e, errno, "stat %s", db_path);
    }
    out->dev = (uint64_t)st.st_dev;
    out->ino = (uint64_t)st.st_ino;
    out->size = (uint64_t)st.st_size;
    out->mtime_ns = ns_of(st.st_mtim);
    out->ctime_ns = ns_of(st.st_ctim);
    int n = snprintf(wal, sizeof wal, "%s-wal", db_path);
    if (n > 0 && (size_t)n < sizeof wal && stat(wal, &st) == 0 && st.st_size > 0) {
        out->wal_size = (uint64_t)st.st_size;
        out->wal_mtime_ns = ns_of(st.st_mtim);
    }
    out->taken_ms = r2_now_ms();
    return R2_OK;
}

static bool settled(int64_t mtime_ns, int64_t taken_ms)
{
    /* whole seconds: a file system that keeps one or two of them */
    int64_t tick_ms = mtime_ns % 1000000000 ? TICK_MS : COARSE_TICK_MS;
    return mtime_ns / 1000000 + tick_ms < taken_ms;
}

bool r2_identity_seal(const char *db_path, struct r2_identity *out)
{
    struct timespec now[2] = {{.tv_nsec = UTIME_OMIT}};
    struct r2_err ignored;
    clock_gettime(CLOCK_REALTIME, &now[1]);
    now[1].tv_nsec |= 1; /* kept by file systems that keep nanoseconds, and only by them */
    if (utimensat(AT_FDCWD, db_path, now, 0) != 0 ||
        r2_identity_of(db_path, out, &ignored) != R2_OK || out->mtime_ns != ns_of(now[1]))
        return false;
    out->taken_ms += COARSE_TICK_MS;
    return true;
}

bool r2_identity_equal(const struct r2_identity *then, const struct r2_identity *now)
{
    return then->dev == now->dev && then->ino == now->ino && then->size == now->size &&
           then->mtime_ns == now->mtime_ns && then->ctime_ns == now->ctime_ns &&
           then->wal_size == now->wal_size && then->wal_mtime_ns == now->wal_mtime_ns;
}

bool r2_identity_same(const struct r2_identity *then, const struct r2_identity *now)
{
    return r2_identity_equal(then, now) && settled(then->mtime_ns, then->taken_ms) &&
           (!then->wal_size || settled(then->wal_mtime_ns, then->taken_ms));
}
