/* test_state_dirty.c - the maps of pages that may differ: nothing that changed is ever forgotten.
 */
#include "unit.h"

#include "../../vfs/buf.h"
#include "../../vfs/os.h"
#include "../../vfs/state.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

static char dir[256], db[300];
static struct r2_err err;

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/r2dirtyXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) abort();
    snprintf(db, sizeof db, "%s/app.db", dir);
}

static void end(void)
{
    char cmd[300];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    if (system(cmd) != 0) abort();
}

static struct r2_state *open_state(void)
{
    struct r2_state *s = NULL;
    if (r2_state_open(db, &s, &err) != R2_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return s;
}

static struct r2_dirty take(struct r2_state *s, bool own)
{
    struct r2_dirty d;
    if (r2_state_take_dirty(s, own, &d, &err) != R2_OK) abort();
    return d;
}

static bool has(const struct r2_dirty *d, uint32_t pgno)
{
    return pgno <= d->pages && d->map[(pgno - 1) / 64] >> (pgno - 1) % 64 & 1;
}

static unsigned count(const struct r2_dirty *d)
{
    unsigned n = 0;
    for (uint32_t w = 0; w < d->pages / 64; w++)
        n += (unsigned)__builtin_popcountll(d->map[w]);
    return n;
}

static void start(struct r2_state *s, struct r2_marks *m)
{
    if (r2_state_touch(s, &err) != R2_OK) abort();
    r2_state_begin_marks(s, m);
}

/* All is known, nothing is marked. */
static void settle(struct r2_state *s)
{
    struct r2_dirty d = take(s, false);
    r2_state_dirty_done(s, &d, true);
}

static void marks_are_taken_once(void)
{
    struct r2_marks m = {0};
    begin();
    struct r2_state *s = open_state();
    struct r2_dirty d = take(s, false);
    CU_ASSERT_FALSE(d.complete); /* a new file knows nothing */
    CU_ASSERT_EQUAL(count(&d), 0);
    r2_state_dirty_done(s, &d, true);
    static const uint32_t pages[] = {1, 2, 63, 64, 65, 16384, 16385, 40000, 262145};
    start(s, &m);
    for (unsigned k = 0; k < 9; k++)
        r2_state_mark_page(s, &m, pages[k]);
    r2_state_ended(s, &m);
    d = take(s, false);
    CU_ASSERT_TRUE(d.complete);
    CU_ASSERT_EQUAL(count(&d), 9);
    for (unsigned k = 0; k < 9; k++)
        CU_ASSERT_TRUE(has(&d, pages[k]));
    CU_ASSERT_EQUAL(d.lowest, UINT32_MAX);
    r2_state_dirty_done(s, &d, false); /* the push failed: they stay */
    d = take(s, false);
    CU_ASSERT_EQUAL(count(&d), 9);
    r2_state_dirty_done(s, &d, true);
    d = take(s, false);
    CU_ASSERT_TRUE(d.complete);
    CU_ASSERT_EQUAL(count(&d), 0);
    r2_state_dirty_done(s, &d, true);
    r2_marks_free(&m);
    r2_state_close(s);
    end();
}

/* A transaction that was in progress when the maps were taken, and commits after the look's
 * snapshot: its pages are there for the next look, wherever in between it ended. */
static void a_commit_behind_the_look(void)
{
    for (int when = 0; when < 2; when++) {
        struct r2_marks m = {0};
        begin();
        struct r2_state *s = open_state();
        settle(s);
        start(s, &m);
        r2_state_mark_page(s, &m, 7);
        r2_state_mark_size(s, &m, 90);
        struct r2_dirty d = take(s, false); /* its snapshot has no page 7 yet */
        CU_ASSERT_TRUE(has(&d, 7) && d.lowest == 90);
        r2_state_mark_page(s, &m, 8);
        if (when) r2_state_ended(s, &m);
        r2_state_dirty_done(s, &d, true);
        if (!when) r2_state_ended(s, &m);
        d = take(s, false);
        CU_ASSERT_TRUE(d.complete && has(&d, 7) && has(&d, 8));
        CU_ASSERT_EQUAL(d.lowest, 90);
        r2_state_dirty_done(s, &d, true);
        d = take(s, false);
        CU_ASSERT_EQUAL(count(&d), 0);
        CU_ASSERT_EQUAL(d.lowest, UINT32_MAX);
        r2_state_dirty_done(s, &d, true);
        r2_marks_free(&m);
        r2_state_close(s);
        end();
    }
}

/* The same with more pages than are remembered one by one. */
static void a_large_commit_behind_the_look(void)
{
    struct r2_marks m = {0};
    begin();
    struct r2_state *s = open_state();
    settle(s);
    start(s, &m);
    for (uint32_t n = 1; n <= 100000; n++)
        r2_state_mark_page(s, &m, n);
    CU_ASSERT_TRUE(m.too_many);
    struct r2_dirty d = take(s, false);
    r2_state_ended(s, &m);
    r2_state_dirty_done(s, &d, true);
    d = take(s, false);
    CU_ASSERT_TRUE(d.complete);
    CU_ASSERT_EQUAL(count(&d), 100000);
    r2_state_dirty_done(s, &d, true);
    r2_marks_free(&m);
    r2_state_close(s);
    end();
}

/* A look from within the transaction forgets its own pages. */
static void own_transaction(void)
{
    struct r2_marks m = {0};
    begin();
    struct r2_state *s = open_state();
    settle(s);
    start(s, &m);
    r2_state_mark_page(s, &m, 7);
    struct r2_dirty d = take(s, true);
    CU_ASSERT_TRUE(has(&d, 7));
    r2_state_dirty_done(s, &d, true);
    CU_ASSERT_EQUAL(atomic_load(&r2_state_live(s)->known),
                    atomic_load(&r2_state_live(s)->unseen) + 1);
    d = take(s, false);
    CU_ASSERT_FALSE(has(&d, 7));
    r2_state_dirty_done(s, &d, true);
    r2_marks_free(&m);
    r2_state_close(s);
    end();
}

/* Whoever dies in the middle makes the maps incomplete for the next one that writes. */
static void a_dead_writer(void)
{
    struct r2_marks m = {0};
    int status;
    begin();
    struct r2_state *s = open_state();
    settle(s);
    pid_t pid = fork();
    if (pid == 0) {
        struct r2_state *mine = open_state();
        start(mine, &m);
        r2_state_mark_page(mine, &m, 5);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) abort();
    struct r2_dirty d = take(s, false);
    CU_ASSERT_TRUE(has(&d, 5)); /* the marks outlive it */
    r2_state_dirty_done(s, &d, true);
    start(s, &m);
    r2_state_ended(s, &m);
    d = take(s, false);
    CU_ASSERT_TRUE(has(&d, 5)); /* it never said that it was over */
    CU_ASSERT_FALSE(d.complete);
    r2_state_dirty_done(s, &d, true);
    d = take(s, false);
    CU_ASSERT_TRUE(d.complete);
    r2_state_dirty_done(s, &d, true);
    r2_marks_free(&m);
    r2_state_close(s);
    end();
}

static void *no_memory(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    (void)at, (void)n, (void)prot, (void)flags, (void)fd, (void)off;
    errno = ENOMEM;
    return MAP_FAILED;
}

/* A page could not be marked (no memory, a full disk). A look that compares every page before that
 * transaction commits makes the maps complete, but not for it. Three ways on: it looks itself
 * (sync=commit); it ends; nobody could say which page it was (shim_io.c cannot_mark), and it ends.
 */
static void not_marked_and_a_look(void)
{
    for (int how = 0; how < 3; how++) {
        bool own = how == 0;
        struct r2_marks m = {0};
        begin();
        struct r2_state *other = open_state(), *s = open_state();
        settle(other);
        start(s, &m);
        struct r2_os real = r2_os;
        r2_os.mmap = no_memory;
        if (how < 2) r2_state_mark_page(s, &m, 7);
        r2_os = real;
        if (how == 2) r2_state_unseen(s), m.lost = true;
        struct r2_dirty d = take(other, false);
        CU_ASSERT_FALSE(d.complete);
        r2_state_dirty_done(other, &d, true);
        if (own && r2_state_take_own(s, &m, &d, &err)) abort();
        if (own) {
            CU_ASSERT_TRUE(has(&d, 7) || !d.complete);
            r2_state_dirty_done(s, &d, true);
        }
        r2_state_ended(s, &m);
        d = take(other, false);
        if (!own) CU_ASSERT_TRUE(has(&d, 7) || !d.complete);
        r2_state_dirty_done(other, &d, true);
        d = take(other, false);
        CU_ASSERT_TRUE(d.complete);
        r2_state_dirty_done(other, &d, true);
        r2_marks_free(&m);
        r2_state_close(s);
        r2_state_close(other);
        end();
    }
}

static void unseen_during_a_look(void)
{
    begin();
    struct r2_state *s = open_state();
    settle(s);
    struct r2_dirty d = take(s, false);
    r2_state_unseen(s);
    r2_state_dirty_done(s, &d, true); /* the look was before it */
    d = take(s, false);
    CU_ASSERT_FALSE(d.complete);
    r2_state_dirty_done(s, &d, false); /* and this one failed */
    d = take(s, false);
    CU_ASSERT_FALSE(d.complete);
    r2_state_dirty_done(s, &d, true);
    d = take(s, false);
    CU_ASSERT_TRUE(d.complete);
    r2_state_dirty_done(s, &d, true);
    r2_state_close(s);
    end();
}

static void stamps(void)
{
    bool none;
    struct r2_stamp roll = {.kind = 1, .counter = 9};
    struct r2_stamp wal = {.kind = 2, .change = 4, .frames = 7, .salt = {1, 2}, .cksum = {3, 4}}, x;
    begin();
    struct r2_state *s = open_state();
    CU_ASSERT_FALSE(r2_state_continues(s, &roll, false, &none));
    CU_ASSERT_TRUE(none);
    r2_state_set_stamp(s, &roll);
    CU_ASSERT_TRUE(r2_state_continues(s, &roll, false, &none));
    CU_ASSERT_FALSE(none);
    x = roll;
    x.counter = 10;
    CU_ASSERT_FALSE(r2_state_continues(s, &x, false, &none));
    CU_ASSERT_TRUE(r2_state_continues(s, &x, true, &none));
    x.counter = 11;
    CU_ASSERT_FALSE(r2_state_continues(s, &x, true, &none));
    CU_ASSERT_FALSE(r2_state_continues(s, &wal, false, &none));
    r2_state_set_stamp(s, &wal);
    CU_ASSERT_TRUE(r2_state_continues(s, &wal, false, &none));
    CU_ASSERT_FALSE(r2_state_continues(s, &roll, false, &none));
    for (int k = 0; k < 4; k++) { /* a log begun anew is empty; another one is a stranger's */
        x = wal;
        if (k == 0) x.frames = 8;
        if (k == 1) x.salt[1]++;
        if (k == 2) x.cksum[0]++;
        if (k == 3) x.change++;
        CU_ASSERT_FALSE(r2_state_continues(s, &x, false, &none));
        x.frames = 0;
        CU_ASSERT_FALSE(r2_state_continues(s, &x, false, &none));
        r2_put32((uint8_t *)x.salt, r2_get32((const uint8_t *)wal.salt) + 1); /* a reset adds one */
        x.salt[1] ^= 77;
        CU_ASSERT_EQUAL(r2_state_continues(s, &x, false, &none), k != 3);
        r2_put32((uint8_t *)x.salt, r2_get32((const uint8_t *)wal.salt) + 1000);
        CU_ASSERT_FALSE(r2_state_continues(s, &x, false, &none));
    }
    /* two new logs look alike, whatever went through the first one */
    x = (struct r2_stamp){.kind = 2};
    r2_state_set_stamp(s, &x);
    CU_ASSERT_FALSE(r2_state_continues(s, &x, false, &none));
    CU_ASSERT_TRUE(none);
    x = wal;
    x.frames = 0;
    r2_state_set_stamp(s, &x); /* reset, and nothing since */
    CU_ASSERT_TRUE(r2_state_continues(s, &x, false, &none));
    memset(x.salt, 0, sizeof x.salt); /* and deleted */
    CU_ASSERT_FALSE(r2_state_continues(s, &x, false, &none));
    r2_state_close(s);
    end();
}

/* ---- many transactions, many looks ---- */

enum { PAGES = 3000, ROUNDS = 20000 };
static uint32_t content[PAGES + 1];   /* the database: what each page holds, under `file` */
static uint32_t committed[PAGES + 1]; /* what base holds: only the look writes it */
static pthread_mutex_t file = PTHREAD_MUTEX_INITIALIZER; /* one writer at a time, and snapshots */
static _Atomic bool over;

/* Marks, then commits at one instant, then says that it is over; all as one of SQLite's writers. */
static void *writer(void *arg)
{
    struct r2_state *s = open_state();
    struct r2_marks m = {0};
    static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
    unsigned random = (unsigned)(uintptr_t)arg * 7919 + 1;
    for (int k = 0; k < ROUNDS; k++) {
        uint32_t page[8];
        pthread_mutex_lock(&turn);
        start(s, &m);
        for (int n = 0; n < 8; n++) {
            random = random * 1103515245u + 12345u;
            page[n] = 1 + (random >> 8) % PAGES;
            r2_state_mark_page(s, &m, page[n]);
        }
        pthread_mutex_lock(&file);
        for (int n = 0; n < 8; n++)
            content[page[n]]++;
        pthread_mutex_unlock(&file);
        r2_state_ended(s, &m);
        pthread_mutex_unlock(&turn);
    }
    r2_marks_free(&m);
    r2_state_close(s);
    return NULL;
}

/* Looks read marked pages of a snapshot only; what they miss would differ from base for ever. */
static void nothing_is_forgotten(void)
{
    pthread_t thread[2];
    static uint32_t snapshot[PAGES + 1];
    unsigned looks = 0, marked = 0;
    begin();
    struct r2_state *s = open_state();
    settle(s);
    atomic_store(&over, false);
    for (uintptr_t k = 0; k < 2; k++)
        if (pthread_create(&thread[k], NULL, writer, (void *)k)) abort();
    for (int last = 0; last < 2; looks++) {
        if (looks >= 500) { /* after the writers: whatever is left is in the maps */
            if (!last) pthread_join(thread[0], NULL), pthread_join(thread[1], NULL);
            last++;
        }
        struct r2_dirty d = take(s, false);
        CU_ASSERT_TRUE_FATAL(d.complete);
        pthread_mutex_lock(&file);
        memcpy(snapshot, content, sizeof snapshot);
        pthread_mutex_unlock(&file);
        bool pushed = looks % 5 != 3; /* one in five fails */
        for (uint32_t n = 1; n <= PAGES; n++) {
            if (!has(&d, n)) continue;
            marked++;
            if (pushed) committed[n] = snapshot[n];
        }
        r2_state_dirty_done(s, &d, pushed);
    }
    CU_ASSERT_EQUAL(memcmp(content, committed, sizeof content), 0);
    struct r2_dirty d = take(s, false);
    CU_ASSERT_EQUAL(count(&d), 0);
    r2_state_dirty_done(s, &d, true);
    CU_ASSERT_TRUE(marked > 0);
    r2_state_close(s);
    end();
}

UNIT_MAIN("state_dirty", UNIT(marks_are_taken_once), UNIT(a_commit_behind_the_look),
          UNIT(a_large_commit_behind_the_look), UNIT(own_transaction), UNIT(a_dead_writer),
          UNIT(unseen_during_a_look), UNIT(not_marked_and_a_look), UNIT(stamps),
          UNIT(nothing_is_forgotten))
