/* test_state.c - the state file: a record survives or is refused whole; locks; what is believed. */
#include "unit.h"

#include "../../vfs/buf.h"
#include "../../vfs/ltx.h"
#include "../../vfs/os.h"
#include "../../vfs/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[256], db[300], side[310];
static struct r2_err err;
static struct r2_os real;
static const char *const url = "s3://bucket/users/42/app.db";

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/r2stateXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) abort();
    snprintf(db, sizeof db, "%s/app.db", dir);
    snprintf(side, sizeof side, "%s-r2", db);
    real = r2_os;
}

static void end(void)
{
    char cmd[300];
    r2_os = real;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    if (system(cmd) != 0) abort();
}

static void fill_text(char *to, size_t room, char with)
{
    memset(to, with, room - 1);
    to[room - 1] = 0;
}

static void fill_version(struct r2_version *v, char with)
{
    v->version = UINT64_MAX - (uint64_t)with;
    fill_text(v->etag, sizeof v->etag, with);
    memset(v->lineage, with, sizeof v->lineage);
    v->checksum = UINT64_MAX - 1;
    v->page_size = 65536;
    v->pages = UINT32_MAX - 1;
    memset(v->header, with + 1, sizeof v->header);
    fill_text(v->recent, sizeof v->recent, with);
    v->local_cookie = UINT32_MAX - 2;
}

/* Every field at its limit, no two equal where a mix-up could hide. */
static void fill(struct r2_record *r)
{
    memset(r, 0, sizeof *r);
    r->sequence = UINT64_MAX;
    fill_text(r->url, sizeof r->url, 'u');
    r->layout = R2_LAYOUT_LOG;
    r->writer = 0x1122334455667788;
    r->highest_seen = UINT64_MAX - 9;
    r->verified_ms = INT64_MAX;
    r->snapshot = UINT64_MAX - 11;
    r->headed_ms = INT64_MAX - 5;
    r->area = 1;
    fill_version(&r->base, 'b');
    r->clean_seq = UINT64_MAX - 3;
    r->identity = (struct r2_identity){.dev = UINT64_MAX,
                                       .ino = UINT64_MAX - 1,
                                       .size = UINT64_MAX - 2,
                                       .mtime_ns = INT64_MIN,
                                       .ctime_ns = INT64_MAX,
                                       .wal_size = UINT64_MAX - 4,
                                       .wal_mtime_ns = -1,
                                       .counter = UINT32_MAX,
                                       .taken_ms = INT64_MIN + 1};
    r->pending.kind = R2_PENDING_PULL;
    fill_version(&r->pending.v, 'p');
    fill_text(r->pending.over_etag, sizeof r->pending.over_etag, 'o');
    r->pending.seq = UINT64_MAX - 5;
    r->pending.doubt = r->pending.exact = true;
    r->pending.layout = R2_LAYOUT_LOG;
    r->pending.tries = R2_TRIES_MAX;
    for (unsigned i = 0; i < R2_TRIES_MAX; i++) {
        r->pending.try[i].nonce = UINT64_MAX - i;
        r->pending.try[i].checksum = i + 1;
        memset(r->pending.try[i].lineage, (int)i, 16);
        r->pending.try[i].gone = i % 2;
    }
    r->unclean = r->damaged = r->unvouched = true;
    r->left = r->identity;
    r->left.ino = 17;
    r->left_seq = UINT64_MAX - 6;
    r->conflict_version = UINT64_MAX;
    r->surplus = UINT64_MAX - 7;
    r->surplus_seq = UINT64_MAX - 8;
    r->held = R2_HELD_MAX;
    for (unsigned i = 0; i < R2_HELD_MAX; i++)
        r->held_content[i] = UINT64_MAX - 100 - i;
    r->log_bytes = UINT64_MAX - 12;
    r->tended = UINT64_MAX - 13;
    r->based_ms = INT64_MAX - 14;
    r->collected_ms = INT64_MIN + 15;
}

static void simple(struct r2_record *r, uint64_t version)
{
    memset(r, 0, sizeof *r);
    if (!r2_strcpy(r->url, sizeof r->url, url)) abort();
    r->writer = 77;
    r->base.version = version;
}

/* ---- the record as bytes ---- */

static void record_round_trip(void)
{
    struct r2_record r, back;
    static uint8_t bytes[R2_STATE_SLOT], again[R2_STATE_SLOT];
    fill(&r);
    r2_record_encode(&r, bytes);
    CU_ASSERT_TRUE(r2_record_decode(bytes, &back));
    CU_ASSERT_EQUAL(memcmp(&r, &back, sizeof r), 0);
    r2_record_encode(&back, again);
    CU_ASSERT_EQUAL(memcmp(bytes, again, sizeof bytes), 0);
    r.pending.kind = R2_PENDING_PUSH;
    r2_record_encode(&r, bytes);
    CU_ASSERT_TRUE(r2_record_decode(bytes, &back));
    CU_ASSERT_EQUAL(memcmp(&r, &back, sizeof r), 0);
    /* nothing pending: nothing of it is kept */
    r.pending.kind = R2_PENDING_NONE;
    r2_record_encode(&r, bytes);
    CU_ASSERT_TRUE(r2_record_decode(bytes, &back));
    memset(&r.pending, 0, sizeof r.pending);
    CU_ASSERT_EQUAL(memcmp(&r, &back, sizeof r), 0);
    /* all zero */
    memset(&r, 0, sizeof r);
    r2_record_encode(&r, bytes);
    CU_ASSERT_TRUE(r2_record_decode(bytes, &back));
    CU_ASSERT_EQUAL(memcmp(&r, &back, sizeof r), 0);
}

static void every_flipped_byte_is_refused(void)
{
    struct r2_record r, back;
    static uint8_t bytes[R2_STATE_SLOT];
    unsigned taken = 0;
    fill(&r);
    r2_record_encode(&r, bytes);
    for (unsigned i = 0; i < R2_STATE_SLOT; i++) {
        uint8_t was = bytes[i];
        bytes[i] ^= (uint8_t)(1u << i % 8);
        taken += r2_record_decode(bytes, &back);
        bytes[i] = was;
    }
    CU_ASSERT_EQUAL(taken, 0);
    CU_ASSERT_TRUE(r2_record_decode(bytes, &back));
    memset(bytes, 0, sizeof bytes); /* a new file */
    CU_ASSERT_FALSE(r2_record_decode(bytes, &back));
}

/* With this change and a right checksum: is it taken? */
static bool taken_with(const uint8_t *bytes, size_t at, const void *change, size_t n)
{
    static uint8_t copy[R2_STATE_SLOT];
    struct r2_record back;
    memcpy(copy, bytes, sizeof copy);
    memcpy(copy + at, change, n);
    r2_put64(copy + 8, r2_crc64(0, copy + 16, R2_STATE_SLOT - 16));
    return r2_record_decode(copy, &back);
}

static bool taken_with32(const uint8_t *bytes, size_t at, uint32_t v)
{
    uint8_t b[4];
    r2_put32(b, v);
    return taken_with(bytes, at, b, 4);
}

/* Where two records begin to differ: the last byte of the number that does. */
static size_t field(const struct r2_record *x, const struct r2_record *y)
{
    static uint8_t one[R2_STATE_SLOT], two[R2_STATE_SLOT];
    size_t at = 24;
    r2_record_encode(x, one);
    r2_record_encode(y, two);
    while (at < R2_STATE_SLOT && one[at] == two[at])
        at++;
    CU_ASSERT_TRUE_FATAL(at < R2_STATE_SLOT);
    return at - 3;
}

static void limits_hold_with_a_right_checksum(void)
{
    struct r2_record r, other;
    static uint8_t bytes[R2_STATE_SLOT];
    uint8_t zero = 0, other_order[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    size_t at_url = 24 + 8;
    simple(&r, 5);
    r2_record_encode(&r, bytes);
    CU_ASSERT_TRUE(taken_with(bytes, 24, "\1", 1)); /* the tool itself works */
    CU_ASSERT_FALSE(taken_with(bytes, 7, "\1", 1)); /* another format number */
    if (memcmp(bytes + 16, other_order, 8) == 0) other_order[0] = 8, other_order[7] = 1;
    CU_ASSERT_FALSE(taken_with(bytes, 16, other_order, 8)); /* another machine's checksums */
    CU_ASSERT_FALSE(taken_with32(bytes, at_url, R2_URL_BYTES));
    CU_ASSERT_FALSE(taken_with32(bytes, at_url, UINT32_MAX));
    CU_ASSERT_FALSE(taken_with(bytes, at_url + 4 + 3, &zero, 1)); /* NUL inside a text */
    for (int k = 0; k < 4; k++) {
        static const uint32_t limits[] = {R2_LAYOUT_LOG, 1, R2_PENDING_PULL, R2_HELD_MAX};
        other = r;
        if (k == 0) other.layout = R2_LAYOUT_LOG;
        if (k == 1) other.area = 1;
        if (k == 2) other.pending.kind = R2_PENDING_PUSH;
        if (k == 3) other.held = 1;
        size_t at = field(&r, &other);
        CU_ASSERT_TRUE(taken_with32(bytes, at, limits[k]));
        CU_ASSERT_FALSE(taken_with32(bytes, at, limits[k] + 1));
        CU_ASSERT_FALSE(taken_with32(bytes, at, UINT32_MAX));
    }
    r.pending.kind = R2_PENDING_PUSH;
    other = r;
    other.pending.tries = 1;
    r2_record_encode(&r, bytes);
    CU_ASSERT_TRUE(taken_with32(bytes, field(&r, &other), R2_TRIES_MAX));
    CU_ASSERT_FALSE(taken_with32(bytes, field(&r, &other), R2_TRIES_MAX + 1));
}

/* Garbage with a right checksum, against unreadable pages: refused or within all limits. */
static void hostile_records(void)
{
    struct r2_record r;
    static uint8_t good[R2_STATE_SLOT], bytes[R2_STATE_SLOT];
    uint8_t *edge = unit_guarded(good, sizeof good);
    static struct r2_record back;
    unsigned random = 12345, refused = 0, taken = 0;
    fill(&r);
    r2_record_encode(&r, good);
    r2_record_encode(&r, edge); /* not one byte too far */
    CU_ASSERT_EQUAL(memcmp(edge, good, sizeof good), 0);
    for (int turn = 0; turn < 4000; turn++) {
        memcpy(bytes, good, sizeof bytes);
        for (int k = 0; k < 1 + turn % 40; k++) {
            random = random * 1103515245u + 12345u;
            unsigned at = 24 + (random >> 8) % (turn % 2 ? 8000 : 1400);
            bytes[at] = (uint8_t)(random >> 24);
        }
        r2_put64(bytes + 8, r2_crc64(0, bytes + 16, R2_STATE_SLOT - 16));
        memcpy(edge, bytes, sizeof bytes);
        if (!r2_record_decode(edge, &back)) {
            refused++;
            continue;
        }
        taken++;
        bool fine = memchr(back.url, 0, sizeof back.url) &&
                    memchr(back.base.etag, 0, R2_ETAG_BYTES) &&
                    memchr(back.base.recent, 0, R2_RECENT_BYTES) &&
                    memchr(back.pending.v.recent, 0, R2_RECENT_BYTES) &&
                    back.pending.tries <= R2_TRIES_MAX && back.held <= R2_HELD_MAX &&
                    back.area <= 1 && back.layout <= R2_LAYOUT_LOG;
        CU_ASSERT_TRUE_FATAL(fine);
    }
    CU_ASSERT_TRUE(refused > 100 && taken > 100);
}

/* ---- the file ---- */

static struct r2_state *open_state(void)
{
    struct r2_state *s = NULL;
    if (r2_state_open(db, &s, &err) != R2_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return s;
}

static bool lock_now(struct r2_state *s)
{
    bool anew;
    return r2_state_lock(s, 0, &anew, &err) == R2_OK;
}

/* Overwrite a byte of the file behind everybody's back. */
static void damage(off_t at)
{
    uint8_t b;
    int fd = open(side, O_RDWR);
    if (fd < 0 || pread(fd, &b, 1, at) != 1) abort();
    b ^= 0x40;
    if (pwrite(fd, &b, 1, at) != 1) abort();
    close(fd);
}

static uint64_t loaded_version(struct r2_state *s)
{
    struct r2_record r;
    return r2_state_load(s, url, &r, &err) == R2_OK ? r.base.version : 0;
}

static void slots_in_turn(void)
{
    struct r2_record r;
    begin();
    struct r2_state *s = open_state();
    CU_ASSERT_TRUE(lock_now(s));
    CU_ASSERT_EQUAL(r2_state_load(s, url, &r, &err), R2_MISSING);
    simple(&r, 1);
    r.clean_seq = 9;
    CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK);
    CU_ASSERT_EQUAL(r.sequence, 1);
    CU_ASSERT_EQUAL(atomic_load(&r2_state_live(s)->clean_seq), 9);
    CU_ASSERT_EQUAL(loaded_version(s), 1);
    for (uint64_t v = 2; v < 6; v++) { /* the newer counts; without it the older */
        r.base.version = v;
        CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK);
        CU_ASSERT_EQUAL(loaded_version(s), v);
        off_t newer = (off_t)(r.sequence & 1) * R2_STATE_SLOT + 40;
        damage(newer);
        CU_ASSERT_EQUAL(loaded_version(s), v - 1);
        damage(newer);
    }
    damage(100), damage(R2_STATE_SLOT + 100);
    CU_ASSERT_EQUAL(r2_state_load(s, url, &r, &err), R2_MISSING);
    r2_state_unlock(s);
    r2_state_close(s);
    end();
}

static int torn_after; /* bytes of the next record that reach the disk */

static ssize_t torn_pwrite(int fd, const void *from, size_t n, off_t at)
{
    if (at >= R2_STATE_LIVE_AT) return pwrite(fd, from, n, at);
    if (torn_after == 0) {
        errno = EIO;
        return -1;
    }
    ssize_t put = pwrite(fd, from, (size_t)torn_after, at);
    torn_after = 0;
    return put;
}

/* A record that was cut short leaves the one before; also when it is tried again and cut again. */
static void torn_record(void)
{
    static const int cuts[] = {1, 12, 24, 60, 90};
    struct r2_record r;
    begin();
    struct r2_state *s = open_state();
    CU_ASSERT_TRUE(lock_now(s));
    simple(&r, 0);
    for (uint64_t v = 9; v <= 10; v++) {
        r.base.version = v;
        CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK);
    }
    uint64_t v = 10;
    for (unsigned i = 0; i < sizeof cuts / sizeof *cuts; i++, v++) {
        r.base.version = v + 1;
        r2_os.pwrite = torn_pwrite;
        for (int again = 0; again < 2; again++) {
            torn_after = cuts[i];
            CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_IO);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.text, side));
            CU_ASSERT_EQUAL(loaded_version(s), v);
        }
        r2_os = real;
        CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK);
        CU_ASSERT_EQUAL(loaded_version(s), v + 1);
    }
    r2_state_unlock(s);
    r2_state_close(s);
    end();
}

static void bound_to_another_remote(void)
{
    struct r2_record r;
    begin();
    struct r2_state *s = open_state();
    CU_ASSERT_TRUE(lock_now(s));
    simple(&r, 5);
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK);
    CU_ASSERT_EQUAL(r2_state_load(s, "s3://bucket/other.db", &r, &err), R2_MISSING);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, url));
    CU_ASSERT_EQUAL(r.base.version, 0);
    CU_ASSERT_EQUAL(r.writer, 77);
    CU_ASSERT_EQUAL(r.sequence, 3);
    snprintf(r.url, sizeof r.url, "s3://bucket/other.db");
    r.base.version = 1;
    CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK); /* wins over the higher version */
    CU_ASSERT_EQUAL(r2_state_load(s, "s3://bucket/other.db", &r, &err), R2_OK);
    CU_ASSERT_EQUAL(r.base.version, 1);
    CU_ASSERT_EQUAL(loaded_version(s), 0);
    r2_state_unlock(s);
    r2_state_close(s);
    end();
}

/* ---- checksums ---- */

static uint64_t sum_of(uint8_t area, uint32_t page)
{
    return (uint64_t)page * 1000003 + area;
}

static void checksum_areas(void)
{
    enum { PAGES = 2 * R2_BLOCK_PAGES + 3 };
    static uint64_t sums[PAGES], back[PAGES];
    begin();
    struct r2_state *s = open_state();
    CU_ASSERT_TRUE(lock_now(s));
    for (uint8_t area = 0; area < 2; area++) {
        for (uint32_t p = 1; p <= PAGES; p++)
            sums[p - 1] = sum_of(area, p);
        CU_ASSERT_EQUAL(r2_state_write_sums(s, area, 1, PAGES, sums, &err), R2_OK);
    }
    /* any run, in particular over the edges of blocks */
    unsigned wrong = 0;
    for (uint8_t area = 0; area < 2; area++)
        for (uint32_t edge = 0; edge <= 2; edge++)
            for (uint32_t first = edge ? edge * R2_BLOCK_PAGES - 2 : 1;
                 first <= edge * R2_BLOCK_PAGES + 3; first++)
                for (uint32_t last = first; last <= PAGES; last += last < first + 5 ? 1 : 2047) {
                    uint32_t n = last - first + 1;
                    back[n] = 42;
                    if (r2_state_read_sums(s, area, first, n, back, &err) != R2_OK) wrong++;
                    for (uint32_t k = 0; k < n; k++)
                        wrong += back[k] != sum_of(area, first + k);
                    wrong += n < PAGES && back[n] != 42;
                }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(r2_state_read_sums(s, 1, 513, 0, back, &err), R2_OK);
    /* where the head of state.h says */
    int fd = open(side, O_RDONLY);
    for (uint32_t p = 1; p <= PAGES; p++)
        for (uint8_t area = 0; area < 2; area++) {
            uint64_t v = 0;
            off_t at = R2_STATE_BLOCKS_AT + (off_t)((p - 1) / 16384) * 266240 + 4096 +
                       area * 131072 + (off_t)((p - 1) % 16384) * 8;
            if (pread(fd, &v, 8, at) != 8 || v != sum_of(area, p)) wrong++;
        }
    close(fd);
    CU_ASSERT_EQUAL(wrong, 0);
    /* a rewrite of one changes no other */
    uint64_t one = 1;
    CU_ASSERT_EQUAL(r2_state_write_sums(s, 0, 512, 1, &one, &err), R2_OK);
    CU_ASSERT_EQUAL(r2_state_read_sums(s, 0, 511, 3, back, &err), R2_OK);
    CU_ASSERT_TRUE(back[0] == sum_of(0, 511) && back[1] == 1 && back[2] == sum_of(0, 513));
    CU_ASSERT_EQUAL(r2_state_read_sums(s, 1, 512, 1, back, &err), R2_OK);
    CU_ASSERT_EQUAL(back[0], sum_of(1, 512));
    CU_ASSERT_EQUAL(r2_state_read_sums(s, 0, 1000000, 1, back, &err), R2_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, side));
    r2_state_unlock(s);
    r2_state_close(s);
    end();
}

/* ---- locks ---- */

/* In another process: try the lock; 0 had it, 1 busy. */
static int in_child_lock(int64_t wait_ms)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        struct r2_state *s = open_state();
        bool anew;
        _exit(r2_state_lock(s, wait_ms, &anew, &err) == R2_OK ? 0 : 1);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) abort();
    return WEXITSTATUS(status);
}

static void one_operation_at_a_time(void)
{
    bool anew;
    begin();
    struct r2_state *a = open_state(), *b = open_state();
    CU_ASSERT_TRUE(lock_now(a));
    CU_ASSERT_EQUAL(r2_state_lock(b, 0, &anew, &err), R2_BUSY);
    CU_ASSERT_EQUAL(r2_state_lock(b, 20, &anew, &err), R2_BUSY);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, side));
    CU_ASSERT_EQUAL(in_child_lock(0), 1);
    /* another descriptor that is closed takes no lock with it */
    struct r2_state *c = open_state();
    r2_state_close(c);
    CU_ASSERT_EQUAL(in_child_lock(0), 1);
    r2_state_unlock(a);
    CU_ASSERT_EQUAL(in_child_lock(0), 0);
    CU_ASSERT_TRUE(lock_now(b));
    CU_ASSERT_FALSE(lock_now(a));
    r2_state_close(b); /* closing unlocks */
    CU_ASSERT_TRUE(lock_now(a));
    r2_state_close(a);
    end();
}

/* A process that joined and holds the lock, until it is killed. */
static pid_t holder(void)
{
    int tell[2];
    char c;
    if (pipe(tell) != 0) abort();
    pid_t pid = fork();
    if (pid == 0) {
        bool alone;
        struct r2_state *s = open_state();
        if (!lock_now(s)) _exit(1);
        r2_state_join(s, &alone);
        if (write(tell[1], "x", 1) != 1) _exit(1);
        for (;;)
            pause();
    }
    close(tell[1]);
    if (pid < 0 || read(tell[0], &c, 1) != 1) abort();
    close(tell[0]);
    return pid;
}

static void killed_processes_hold_nothing(void)
{
    bool alone = true;
    begin();
    struct r2_state *s = open_state();
    pid_t pid = holder();
    CU_ASSERT_FALSE(lock_now(s));
    r2_state_join(s, &alone);
    CU_ASSERT_FALSE(alone);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CU_ASSERT_TRUE(lock_now(s));
    r2_state_join(s, &alone);
    CU_ASSERT_TRUE(alone);
    r2_state_close(s);
    end();
}

static void users(void)
{
    bool alone = false;
    begin();
    struct r2_state *a = open_state(), *b = open_state();
    r2_state_join(a, &alone);
    CU_ASSERT_TRUE(alone);
    r2_state_join(b, &alone);
    CU_ASSERT_FALSE(alone);
    r2_state_join(b, &alone); /* again: still among others */
    CU_ASSERT_FALSE(alone);
    r2_state_close(a);
    r2_state_join(b, &alone);
    CU_ASSERT_TRUE(alone);
    CU_ASSERT_TRUE(lock_now(b)); /* joining is no operation */
    r2_state_close(b);
    end();
}

/* A forked child that drops its copy of the descriptor takes neither lock with it. */
static void a_forked_child_forgets(void)
{
    bool alone;
    begin();
    struct r2_state *s = open_state();
    CU_ASSERT_TRUE(lock_now(s));
    r2_state_join(s, &alone);
    pid_t pid = fork();
    if (pid == 0) {
        r2_state_forget(s);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    struct r2_state *b = open_state();
    CU_ASSERT_FALSE(lock_now(b));
    r2_state_join(b, &alone);
    CU_ASSERT_FALSE(alone);
    r2_state_close(b);
    r2_state_close(s);
    end();
}

/* ---- the file goes away under an open handle ---- */

static void deleted_or_replaced(void)
{
    struct r2_record r;
    char cmd[1000];
    for (int how = 0; how < 2; how++) {
        bool anew = false, alone = true;
        begin();
        struct r2_state *s = open_state();
        CU_ASSERT_TRUE(lock_now(s));
        r2_state_join(s, &alone);
        simple(&r, 7);
        CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK);
        CU_ASSERT_EQUAL(r2_state_touch(s, &err), R2_OK);
        r2_state_unlock(s);
        struct r2_live *old = r2_state_live(s);
        uint64_t seq = atomic_load(&old->write_seq);
        if (how == 0)
            snprintf(cmd, sizeof cmd, "rm '%s'", side);
        else
            snprintf(cmd, sizeof cmd, "head -c 28672 /dev/zero >'%s.x'; mv '%s.x' '%s'", side, side,
                     side);
        if (system(cmd) != 0) abort();
        CU_ASSERT_EQUAL(r2_state_lock(s, 0, &anew, &err), R2_OK);
        CU_ASSERT_TRUE(anew);
        CU_ASSERT_EQUAL(access(side, F_OK), 0);
        CU_ASSERT_EQUAL(loaded_version(s), 0);
        CU_ASSERT_TRUE(atomic_load(&old->write_seq) == seq); /* other threads may still look */
        struct r2_live *live = r2_state_live(s);
        CU_ASSERT_TRUE(atomic_load(&live->write_seq) != atomic_load(&live->clean_seq));
        struct r2_state *b = open_state();
        CU_ASSERT_FALSE(lock_now(b)); /* the lock is on the new file */
        r2_state_join(b, &alone);
        CU_ASSERT_FALSE(alone); /* and so is the user */
        r2_state_close(b);
        r2_state_unlock(s);
        CU_ASSERT_EQUAL(r2_state_lock(s, 0, &anew, &err), R2_OK);
        CU_ASSERT_FALSE(anew);
        r2_state_close(s);
        munmap(old, R2_STATE_LIVE);
        end();
    }
}

/* Somebody empties it: no crash of the process that has it mapped. */
static void emptied(void)
{
    begin();
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        bool anew = false;
        struct r2_state *s = open_state();
        if (truncate(side, 0) != 0) _exit(2);
        bool ok = r2_state_lock(s, 0, &anew, &err) == R2_OK && anew && loaded_version(s) == 0;
        _exit(ok ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    CU_ASSERT_TRUE(WIFEXITED(status));
    CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    end();
}

/* The same between two transactions of a writer: what it marks in is there again, and for the marks
 * that are gone the next look compares every page. */
static void cut_under_a_writer(void)
{
    static const off_t left[] = {0, R2_STATE_LIVE_AT, R2_STATE_BLOCKS_AT};
    for (size_t k = 0; k < sizeof left / sizeof *left; k++) {
        begin();
        int status = 0;
        pid_t pid = fork();
        if (pid == 0) {
            struct r2_marks m = {.page = NULL};
            struct r2_state *s = open_state();
            for (int turn = 0; turn < 2; turn++) {
                if (turn && truncate(side, left[k]) != 0) _exit(2);
                if (r2_state_touch(s, &err)) _exit(3);
                r2_state_begin_marks(s, &m);
                r2_state_mark_page(s, &m, 3);
                r2_state_ended(s, &m);
                struct r2_live *live = r2_state_live(s);
                bool complete = atomic_load(&live->known) == atomic_load(&live->unseen) + 1;
                if (turn) _exit(complete ? 4 : 0);
                atomic_store(&live->known, atomic_load(&live->unseen) + 1);
            }
        }
        waitpid(pid, &status, 0);
        CU_ASSERT_TRUE(WIFEXITED(status));
        CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        end();
    }
}

static void not_a_regular_file(void)
{
    struct r2_state *s = NULL;
    begin();
    if (mkdir(side, 0755) != 0) abort();
    CU_ASSERT_EQUAL(r2_state_open(db, &s, &err), R2_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, side));
    CU_ASSERT_PTR_NULL(s);
    end();
}

/* ---- the live page ---- */

static void touch_and_commit(void)
{
    struct r2_record r;
    struct r2_mark m;
    static const uint8_t none[16];
    begin();
    struct r2_state *a = open_state(), *b = open_state();
    struct r2_live *live = r2_state_live(a), *theirs = r2_state_live(b);
    CU_ASSERT_TRUE(lock_now(a));
    CU_ASSERT_FALSE(r2_state_mark(a, &m));
    CU_ASSERT_EQUAL(r2_state_touch(a, &err), R2_OK);
    CU_ASSERT_EQUAL(atomic_load(&theirs->write_seq), 1);
    CU_ASSERT_TRUE(memcmp(theirs->boot_id, none, 16) != 0);
    for (uint32_t k = 1; k <= 5; k++) {
        struct r2_mark mark = {.counter = k, .wal_salt = {k + 1, k + 2}, .wal_frames = k + 3};
        r2_state_committed(k % 2 ? a : b, &mark);
        CU_ASSERT_TRUE(r2_state_mark(k % 2 ? b : a, &m));
        CU_ASSERT_TRUE(m.counter == k && m.wal_salt[1] == k + 2 && m.wal_frames == k + 3);
    }
    CU_ASSERT_EQUAL(atomic_load(&live->write_seq), 6);
    /* torn while being written: the one before counts */
    live->mark[5 & 1].seq = 0;
    live->mark[5 & 1].counter = 99;
    CU_ASSERT_TRUE(r2_state_mark(a, &m));
    CU_ASSERT_EQUAL(m.counter, 4);
    live->mark[4 & 1].seq = 0;
    CU_ASSERT_FALSE(r2_state_mark(a, &m));
    /* clean, then dirty by the first touch: the boot is noted again */
    simple(&r, 1);
    r.clean_seq = 6;
    CU_ASSERT_EQUAL(r2_state_save(a, &r, &err), R2_OK);
    CU_ASSERT_EQUAL(atomic_load(&theirs->clean_seq), 6);
    memset(live->boot_id, 0, 16);
    CU_ASSERT_EQUAL(r2_state_touch(b, &err), R2_OK);
    CU_ASSERT_TRUE(memcmp(live->boot_id, none, 16) != 0);
    CU_ASSERT_EQUAL(atomic_load(&live->write_seq), 7);
    r2_state_close(a);
    r2_state_close(b);
    end();
}

/* The copy of clean_seq in the live page is written after the sync: a power loss can leave it
 * behind. Then the first touch must be made durable all the same. */
static void live_copy_left_behind(void)
{
    struct r2_record r;
    static const uint8_t none[16];
    begin();
    struct r2_state *s = open_state();
    CU_ASSERT_TRUE(lock_now(s));
    atomic_store(&r2_state_live(s)->write_seq, 8);
    simple(&r, 3);
    r.clean_seq = 8;
    CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK);
    atomic_store(&r2_state_live(s)->clean_seq, 2); /* what the disk still has */
    memset(r2_state_live(s)->boot_id, 0, 16);
    r2_state_close(s);
    s = open_state();
    CU_ASSERT_TRUE(lock_now(s));
    CU_ASSERT_EQUAL(loaded_version(s), 3);
    CU_ASSERT_EQUAL(r2_state_touch(s, &err), R2_OK);
    CU_ASSERT_TRUE(memcmp(r2_state_live(s)->boot_id, none, 16) != 0); /* set just before the sync */
    r2_state_close(s);
    end();
}

/* ---- identities ---- */

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) abort();
}

/* Let the file's last change lie some seconds back. */
static void age(const char *path)
{
    struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)(r2_now_ms() / 1000 - 5)}};
    if (utimensat(AT_FDCWD, path, t, 0) != 0) abort();
}

static void identities(void)
{
    struct r2_identity a, b;
    char wal[320];
    begin();
    snprintf(wal, sizeof wal, "%s-wal", db);
    CU_ASSERT_EQUAL(r2_identity_of(db, &a, &err), R2_MISSING);
    write_file(db, "some content");
    age(db);
    CU_ASSERT_EQUAL(r2_identity_of(db, &a, &err), R2_OK);
    CU_ASSERT_TRUE(a.size == 12 && a.wal_size == 0 && a.counter == 0);
    CU_ASSERT_EQUAL(r2_identity_of(db, &b, &err), R2_OK);
    CU_ASSERT_TRUE(r2_identity_same(&a, &b));
    write_file(wal, ""); /* an empty -wal is none */
    CU_ASSERT_EQUAL(r2_identity_of(db, &b, &err), R2_OK);
    CU_ASSERT_TRUE(r2_identity_same(&a, &b));
    write_file(wal, "frames");
    age(wal);
    CU_ASSERT_EQUAL(r2_identity_of(db, &b, &err), R2_OK);
    CU_ASSERT_FALSE(r2_identity_same(&a, &b));
    a = b;
    CU_ASSERT_TRUE(r2_identity_same(&a, &b));
    write_file(wal, "Frames"); /* same size, new time */
    CU_ASSERT_EQUAL(r2_identity_of(db, &b, &err), R2_OK);
    CU_ASSERT_FALSE(r2_identity_same(&a, &b));
    unlink(wal);
    CU_ASSERT_EQUAL(r2_identity_of(db, &a, &err), R2_OK);
    /* in-place write of the same size, then the old mtime put back: ctime tells */
    int fd = open(db, O_WRONLY);
    if (pwrite(fd, "S", 1, 0) != 1) abort();
    close(fd);
    age(db);
    CU_ASSERT_EQUAL(r2_identity_of(db, &b, &err), R2_OK);
    CU_ASSERT_FALSE(r2_identity_same(&a, &b));
    /* each of them alone */
    for (int k = 0; k < 7; k++) {
        b = a;
        CU_ASSERT_TRUE(r2_identity_same(&a, &b));
        if (k == 0) b.dev++;
        if (k == 1) b.ino++;
        if (k == 2) b.size++;
        if (k == 3) b.mtime_ns++;
        if (k == 4) b.ctime_ns++;
        if (k == 5) b.wal_size++;
        if (k == 6) b.wal_mtime_ns++;
        CU_ASSERT_FALSE(r2_identity_same(&a, &b));
    }
    end();
}

/* A look within the tick of the last write proves nothing: the next write may show the same time.
 */
static void same_clock_tick(void)
{
    struct r2_identity a;
    begin();
    write_file(db, "x");
    CU_ASSERT_EQUAL(r2_identity_of(db, &a, &err), R2_OK);
    a.taken_ms = a.mtime_ns / 1000000;
    CU_ASSERT_FALSE(r2_identity_same(&a, &a));
    a.taken_ms = a.mtime_ns / 1000000 + 10; /* a tick of 100 Hz */
    CU_ASSERT_FALSE(r2_identity_same(&a, &a));
    a.taken_ms = a.mtime_ns / 1000000 + 1000;
    CU_ASSERT_TRUE(r2_identity_same(&a, &a));
    a.taken_ms = a.mtime_ns / 1000000 - 1000; /* a time in the future */
    CU_ASSERT_FALSE(r2_identity_same(&a, &a));
    a.taken_ms = a.mtime_ns / 1000000 + 1000;
    a.wal_size = 5;
    a.wal_mtime_ns = a.mtime_ns + 1000 * 1000000LL; /* the -wal's tick counts too */
    CU_ASSERT_FALSE(r2_identity_same(&a, &a));
    end();
}

/* ---- each system call fails in turn ---- */

static unsigned calls, fail_at;

static bool fails(int why)
{
    if (++calls != fail_at) return false;
    errno = why;
    return true;
}
static int f_open(const char *p, int flags, mode_t m)
{
    return fails(EMFILE) ? -1 : real.open(p, flags, m);
}
static ssize_t f_pread(int fd, void *to, size_t n, off_t at)
{
    return fails(EIO) ? -1 : real.pread(fd, to, n, at);
}
static ssize_t f_pwrite(int fd, const void *from, size_t n, off_t at)
{
    return fails(ENOSPC) ? -1 : real.pwrite(fd, from, n, at);
}
static int f_fdatasync(int fd)
{
    return fails(EIO) ? -1 : real.fdatasync(fd);
}
static void *f_mmap(void *a, size_t n, int prot, int flags, int fd, off_t off)
{
    return fails(ENOMEM) ? MAP_FAILED : real.mmap(a, n, prot, flags, fd, off);
}

static unsigned open_files(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d) closedir(d);
    return n;
}

/* From version `was` to was + 1. */
static enum r2_code update(uint64_t was)
{
    static uint64_t sums[600], back[600];
    struct r2_record r;
    struct r2_state *s = NULL;
    bool anew;
    enum r2_code rc = r2_state_open(db, &s, &err);
    if (rc) return rc;
    rc = r2_state_lock(s, 0, &anew, &err);
    if (!rc) rc = r2_state_load(s, url, &r, &err);
    if (!rc) {
        CU_ASSERT_EQUAL(r.base.version, was);
        for (uint32_t k = 0; k < 600; k++)
            sums[k] = was + k;
        rc = r2_state_write_sums(s, r.area ^ 1, 1, 600, sums, &err);
    }
    if (!rc) {
        r.area ^= 1;
        r.base.version = was + 1;
        rc = r2_state_save(s, &r, &err);
    }
    if (!rc) rc = r2_state_read_sums(s, r.area, 1, 600, back, &err);
    if (!rc) CU_ASSERT_EQUAL(memcmp(sums, back, sizeof sums), 0);
    r2_state_close(s);
    return rc;
}

static void each_call_fails(void)
{
    struct r2_record r;
    begin();
    struct r2_state *s = open_state();
    CU_ASSERT_TRUE(lock_now(s));
    simple(&r, 1);
    CU_ASSERT_EQUAL(r2_state_save(s, &r, &err), R2_OK);
    r2_state_close(s);
    unsigned files = open_files(), failed = 0;
    uint64_t version = 1;
    for (fail_at = 1;; fail_at++) {
        r2_os.open = f_open, r2_os.pread = f_pread, r2_os.pwrite = f_pwrite;
        r2_os.fdatasync = f_fdatasync, r2_os.mmap = f_mmap;
        calls = 0;
        r2_err_clear(&err);
        enum r2_code rc = update(version);
        bool hit = calls >= fail_at;
        CU_ASSERT_EQUAL(hit, rc != R2_OK);
        if (rc) CU_ASSERT_TRUE(err.code == rc && strstr(err.text, side));
        CU_ASSERT_EQUAL(open_files(), files);
        r2_os = real;
        s = open_state();
        CU_ASSERT_TRUE(lock_now(s));
        uint64_t now = loaded_version(s);
        CU_ASSERT_TRUE(now == version || (now == version + 1)); /* the old or the new */
        version = now;
        r2_state_close(s);
        if (!hit) break;
        failed++;
    }
    CU_ASSERT_TRUE(failed >= 9); /* open, mmap, 3 reads, 2 writes, 2 syncs */
    end();
}

UNIT_MAIN("state", UNIT(record_round_trip), UNIT(every_flipped_byte_is_refused),
          UNIT(limits_hold_with_a_right_checksum), UNIT(hostile_records), UNIT(slots_in_turn),
          UNIT(torn_record), UNIT(bound_to_another_remote), UNIT(checksum_areas),
          UNIT(one_operation_at_a_time), UNIT(killed_processes_hold_nothing), UNIT(users),
          UNIT(a_forked_child_forgets), UNIT(deleted_or_replaced), UNIT(emptied),
          UNIT(cut_under_a_writer), UNIT(not_a_regular_file), UNIT(touch_and_commit),
          UNIT(live_copy_left_behind), UNIT(identities), UNIT(same_clock_tick),
          UNIT(each_call_fails))
