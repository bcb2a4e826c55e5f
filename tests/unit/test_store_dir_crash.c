/* test_store_dir_crash.c - the directory store killed and failing at every system call, and races.
 */
#include "dir_bucket.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- failing and dying at every system call ---- */

enum { RACERS = 16 };
static struct {
    int left;  /* calls until it happens */
    int error; /* errno, or 0: SIGKILL */
    bool hit;
    const char *at; /* the call it hit */
    char *log;      /* names of calls, when wanted */
} trap;

static bool trapped(const char *name)
{
    size_t n = trap.log ? strlen(trap.log) : 0;
    if (trap.log) snprintf(trap.log + n, 4000 - n, "%s", name);
    if (--trap.left != 0) return false;
    if (trap.error == 0) kill(getpid(), SIGKILL);
    trap.hit = true, trap.at = name;
    errno = trap.error;
    return true;
}

static int t_open(const char *path, int flags, mode_t mode)
{
    return trapped("open ") ? -1 : real.open(path, flags, mode);
}
static int t_close(int fd)
{
    int rc = real.close(fd);
    return trapped("close ") ? -1 : rc;
}
static ssize_t t_pread(int fd, void *to, size_t n, off_t at)
{
    return trapped("pread ") ? -1 : real.pread(fd, to, n, at);
}
static ssize_t t_pwrite(int fd, const void *from, size_t n, off_t at)
{
    return trapped("pwrite ") ? -1 : real.pwrite(fd, from, n, at);
}
static int t_fdatasync(int fd)
{
    return trapped("sync ") ? -1 : real.fdatasync(fd);
}
static int t_unlink(const char *path)
{
    return trapped("unlink ") ? -1 : real.unlink(path);
}
static int t_rename(const char *from, const char *to)
{
    return trapped("rename ") ? -1 : real.rename(from, to);
}
static int t_link(const char *from, const char *to)
{
    return trapped("link ") ? -1 : real.link(from, to);
}
static int t_mkdir(const char *path, mode_t mode)
{
    return trapped("mkdir ") ? -1 : real.mkdir(path, mode);
}

static void set_trap(int left, int error)
{
    trap.left = left, trap.error = error, trap.hit = false, trap.at = "";
    r2_os.open = t_open, r2_os.close = t_close, r2_os.pread = t_pread, r2_os.pwrite = t_pwrite;
    r2_os.fdatasync = t_fdatasync, r2_os.unlink = t_unlink, r2_os.rename = t_rename;
    r2_os.link = t_link, r2_os.mkdir = t_mkdir;
}

/* What is done, from what, to what. NULL text: there is no object. */
struct story {
    const char *name;
    const char *old, *old_v;
    bool foreign; /* the old one was put there by hand */
    const char *text, *v;
    enum r2_put_if when;
    bool copy; /* of an object "src" that has them */
};

static const struct story stories[] = {
    {"new/folder/k", NULL, NULL, false, "first", "1", R2_PUT_IF_ABSENT, false},
    {"k", NULL, NULL, false, "first", "1", R2_PUT_ANY, false},
    {"k", "old body", "1", false, "the new body", "2", R2_PUT_IF_MATCH, false},
    {"k", "old body", "1", false, "new body", "2", R2_PUT_IF_MATCH, false}, /* equal sizes */
    {"k", "same", "1", false, "same", "2", R2_PUT_ANY, false},              /* equal bytes */
    {"k", "by hand", NULL, true, "ours now", "1", R2_PUT_IF_MATCH, false},
    {"k", "by hand", NULL, true, "by hand", "1", R2_PUT_ANY, false},
    {"k", "old body", "1", false, NULL, NULL, R2_PUT_ANY, false}, /* delete */
    {"k", "old body", "1", false, "from src", "2", R2_PUT_ANY, true},
    {"new/folder/k", NULL, NULL, false, "from src", "2", R2_PUT_ANY, true},
};
enum { STORIES = sizeof stories / sizeof *stories };

static void story_start(const struct story *s, char etag[R2_ETAG_BYTES])
{
    struct r2_object o = {.etag = ""};
    if (s->foreign)
        write_file(s->name, s->old);
    else if (s->old && put(s->name, s->old, s->old_v) != R2_OK)
        abort();
    if (s->copy && put("src", s->text, s->v) != R2_OK) abort();
    if (s->old && head(s->name, &o) != R2_OK) abort();
    memcpy(etag, o.etag, R2_ETAG_BYTES);
}

static enum r2_code story_act(const struct story *s, const char *etag)
{
    if (!s->text) return del(s->name);
    if (s->copy) return copy("src", NULL, s->name);
    return put_e(s->name, s->text, s->v, s->when, etag, NULL, &err);
}

static bool is_old(const struct story *s)
{
    struct r2_object o;
    return s->old ? is(s->name, s->old, s->old_v) : head(s->name, &o) == R2_MISSING;
}

static bool is_new(const struct story *s)
{
    struct r2_object o;
    if (s->copy && !is("src", s->text, s->v)) return false;
    return s->text ? is(s->name, s->text, s->v) : head(s->name, &o) == R2_MISSING;
}

static int entries(const char *name)
{
    int n = 0;
    DIR *d = opendir(path_of(name));
    while (d && readdir(d))
        n++;
    if (d) closedir(d);
    return n;
}

/* Returns whether the child got through; counts what was found afterwards. */
static bool die_at(const struct story *s, int step, int *olds, int *news)
{
    char etag[R2_ETAG_BYTES];
    begin();
    story_start(s, etag);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        set_trap(step, 0);
        _exit(story_act(s, etag) == R2_OK ? 0 : 1);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid) abort();
    bool through = WIFEXITED(status);
    CU_ASSERT_TRUE(!through || WEXITSTATUS(status) == 0);
    CU_ASSERT_TRUE(through || WTERMSIG(status) == SIGKILL);
    bool o = is_old(s), n = is_new(s);
    if (o == n) printf("\n  story %d step %d: neither old nor new\n", (int)(s - stories), step);
    CU_ASSERT_TRUE(o != n);
    if (through) CU_ASSERT_TRUE(n);
    *olds += o, *news += n;
    CU_ASSERT_EQUAL(put(s->name, "after", "9"), R2_OK); /* the place is not blocked */
    CU_ASSERT_TRUE(is(s->name, "after", "9"));
    end();
    return through;
}

static void killed_at_every_step_it_is_old_or_new(void)
{
    for (int i = 0; i < STORIES; i++) {
        int olds = 0, news = 0, step = 1;
        while (!die_at(&stories[i], step, &olds, &news) && step < 300)
            step++;
        CU_ASSERT_TRUE(step > 5 && step < 300);
        CU_ASSERT_TRUE(olds > 3);
        CU_ASSERT_TRUE(news > 2);
    }
}

/* Returns whether the call went through without meeting the trap. */
static bool fail_at(const struct story *s, int step, int error)
{
    char etag[R2_ETAG_BYTES], tmp[300];
    begin();
    story_start(s, etag);
    int fds = entries("../../../../../../../../../../proc/self/fd");
    set_trap(step, error);
    enum r2_code code = story_act(s, etag);
    bool hit = trap.hit;
    r2_os = real;
    bool o = is_old(s), n = is_new(s);
    bool fits = code == R2_OK ? n : code == R2_UNKNOWN ? o || n : o;
    if (!fits)
        printf("\n  story %d step %d (%s, %s): code %d, old %d, new %d\n", (int)(s - stories), step,
               trap.at, strerror(error), code, o, n);
    CU_ASSERT_TRUE(fits);
    if (code != R2_OK) CU_ASSERT_NOT_EQUAL(strlen(err.text), 0);
    CU_ASSERT_EQUAL(entries("../../../../../../../../../../proc/self/fd"), fds);
    snprintf(tmp, sizeof tmp, "%.200s", s->name);
    char *slash = strrchr(tmp, '/');
    snprintf(slash ? slash + 1 : tmp, 64, ".r2vfs/tmp");
    int left = entries(tmp);
    CU_ASSERT_TRUE(left <= 2 || strcmp(trap.at, "unlink ") == 0);
    end();
    return !hit;
}

static void failing_at_every_step_nothing_is_half_done(void)
{
    static const int errors[] = {EIO, ENOSPC, EACCES};
    for (int i = 0; i < STORIES; i++)
        for (int k = 0; k < 3; k++) {
            int step = 1;
            while (!fail_at(&stories[i], step, errors[k]) && step < 300)
                step++;
            CU_ASSERT_TRUE(step > 5 && step < 300);
        }
}

static int denied_open(const char *path, int flags, mode_t mode)
{
    if ((flags & O_CREAT) && strstr(path, "/tmp/")) return errno = EACCES, -1;
    return real.open(path, flags, mode);
}

static ssize_t full_pwrite(int fd, const void *from, size_t n, off_t at)
{
    (void)fd, (void)from, (void)n, (void)at;
    return errno = ENOSPC, -1;
}

static void denied_and_full_have_their_own_codes(void)
{
    begin();
    CU_ASSERT_EQUAL(put("k", "old", "1"), R2_OK);
    r2_os.open = denied_open;
    CU_ASSERT_EQUAL(put("k", "new", "2"), R2_DENIED);
    HAS("the right to read and write");
    r2_os = real;
    r2_os.pwrite = full_pwrite;
    CU_ASSERT_EQUAL(put("k", "new", "2"), R2_FULL);
    HAS("make room");
    r2_os = real;
    CU_ASSERT_TRUE(is("k", "old", "1"));
    end();
}

/* Against power loss: each thing is synced before the next one relies on it. */
static void syncs_come_in_order(void)
{
    static char log[4096];
    begin();
    char etag[R2_ETAG_BYTES];
    story_start(&stories[2], etag);
    log[0] = 0, trap.log = log;
    set_trap(0, 0);
    CU_ASSERT_EQUAL(story_act(&stories[2], etag), R2_OK);
    trap.log = NULL;
    const char *p = log;
    static const char *const order[] = {"pwrite sync ",         /* the body */
                                        "pwrite sync rename ",  /* the sidecar, */
                                        "open close rename ",   /* its folder; the body's name, */
                                        "open close ",          /* its folder */
                                        "pwrite sync rename "}; /* the sidecar again */
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const char *found = strstr(p, order[i]);
        if (!found) printf("\n  %s not in %s\n", order[i], p);
        CU_ASSERT_PTR_NOT_NULL(found);
        if (!found) break;
        p = found + strlen(order[i]);
    }
    end();
}

/* Without hard links (some file systems have none), a create still works. */
static int no_link(const char *from, const char *to)
{
    (void)from, (void)to;
    return errno = EPERM, -1;
}

/* Another program creates the file between our look and our link. */
static int late_link(const char *from, const char *to)
{
    write_file("k", "theirs");
    return real.link(from, to);
}

static void create_without_links_and_against_a_stranger(void)
{
    begin();
    r2_os.link = no_link;
    CU_ASSERT_EQUAL(put_e("n", "x", "1", R2_PUT_IF_ABSENT, NULL, NULL, &err), R2_OK);
    CU_ASSERT_TRUE(is("n", "x", "1"));
    r2_os.link = late_link;
    CU_ASSERT_EQUAL(put_e("k", "ours", "1", R2_PUT_IF_ABSENT, NULL, NULL, &err), R2_PRECONDITION);
    CU_ASSERT_TRUE(is("k", "theirs", NULL));
    end();
}

/* ---- races ---- */

struct racer {
    pthread_t thread;
    pthread_barrier_t *start;
    const char *etag; /* NULL: if absent */
    int id;
    enum r2_code code;
};

static enum r2_code race_put(const char *etag, int id)
{
    char text[32], v[16];
    struct r2_err e;
    snprintf(text, sizeof text, "body of %d", id);
    snprintf(v, sizeof v, "%d", id);
    return put_e("new/k", text, v, etag ? R2_PUT_IF_MATCH : R2_PUT_IF_ABSENT, etag, NULL, &e);
}

static void *race_thread(void *arg)
{
    struct racer *r = arg;
    pthread_barrier_wait(r->start);
    r->code = race_put(r->etag, r->id);
    return NULL;
}

static int race_threads(const char *etag, int codes[RACERS])
{
    struct racer r[RACERS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, RACERS);
    for (int i = 0; i < RACERS; i++) {
        r[i] = (struct racer){.start = &start, .etag = etag, .id = i};
        if (pthread_create(&r[i].thread, NULL, race_thread, &r[i]) != 0) abort();
    }
    for (int i = 0; i < RACERS; i++) {
        pthread_join(r[i].thread, NULL);
        codes[i] = (int)r[i].code;
    }
    pthread_barrier_destroy(&start);
    return 0;
}

static int race_processes(const char *etag, int codes[RACERS])
{
    int gate[2];
    pid_t pid[RACERS];
    char c;
    if (pipe(gate) != 0) abort();
    fflush(NULL);
    for (int i = 0; i < RACERS; i++)
        if ((pid[i] = fork()) == 0) {
            close(gate[1]);
            if (read(gate[0], &c, 1) != 0) _exit(99); /* opens when the parent closes its end */
            _exit((int)race_put(etag, i));
        }
    close(gate[0]), close(gate[1]);
    for (int i = 0; i < RACERS; i++) {
        int status;
        if (waitpid(pid[i], &status, 0) != pid[i]) abort();
        codes[i] = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    return 0;
}

static int the_winner(const int codes[RACERS])
{
    int winner = -1, won = 0;
    char text[32], v[16];
    for (int i = 0; i < RACERS; i++) {
        if (codes[i] == R2_OK)
            winner = i, won++;
        else
            CU_ASSERT_EQUAL(codes[i], R2_PRECONDITION);
    }
    CU_ASSERT_EQUAL(won, 1);
    snprintf(text, sizeof text, "body of %d", winner);
    snprintf(v, sizeof v, "%d", winner);
    CU_ASSERT_TRUE(is("new/k", text, v));
    return winner;
}

static void exactly_one_racer_wins(void)
{
    int codes[RACERS];
    for (int round = 0; round < 10; round++)
        for (int kind = 0; kind < 2; kind++) {
            struct r2_object o;
            int (*race)(const char *, int *) = kind ? race_processes : race_threads;
            begin();
            race(NULL, codes);
            the_winner(codes);
            CU_ASSERT_EQUAL(put("new/k", "base", "0"), R2_OK);
            CU_ASSERT_EQUAL(head("new/k", &o), R2_OK);
            race(o.etag, codes);
            the_winner(codes);
            write_file("new/k", "by hand");
            CU_ASSERT_EQUAL(head("new/k", &o), R2_OK);
            race(o.etag, codes);
            the_winner(codes);
            end();
        }
}

/* Writers count up with If-Match; readers look for pairs that do not belong together. */
static _Atomic int writers_left, wins, mixtures, looks;

static void *count_up(void *arg)
{
    struct r2_err e;
    (void)arg;
    for (int i = 0; i < 25;) {
        struct r2_object o;
        char text[64], v[32], next[64];
        if (get_e("k", NULL, text, sizeof text, &o, &e) != R2_OK) abort();
        if (!r2_meta_get(&o.meta, "v", v, sizeof v)) v[0] = 0;
        snprintf(next, sizeof next, "body %s", v);
        if (strcmp(next, text) != 0) mixtures++;
        snprintf(v, sizeof v, "%d", (int)strtol(v, NULL, 10) + 1);
        snprintf(next, sizeof next, "body %s", v);
        enum r2_code code = put_e("k", next, v, R2_PUT_IF_MATCH, o.etag, NULL, &e);
        if (code != R2_OK && code != R2_PRECONDITION) abort();
        if (code != R2_OK) continue;
        wins++;
        i++;
    }
    writers_left--;
    return NULL;
}

static void *keep_looking(void *arg)
{
    (void)arg;
    while (writers_left) {
        struct r2_object o;
        struct r2_err e;
        char text[64], v[32] = "", want[64];
        enum r2_code code = get_e("k", NULL, text, sizeof text, &o, &e);
        r2_meta_get(&o.meta, "v", v, sizeof v);
        snprintf(want, sizeof want, "body %s", v);
        if (code != R2_OK || strcmp(want, text) != 0) mixtures++;
        looks++;
    }
    return NULL;
}

static void no_update_is_lost_and_no_pair_is_mixed(void)
{
    enum { W = 4, R = 3 };
    pthread_t t[W + R];
    begin();
    writers_left = W;
    CU_ASSERT_EQUAL(put("k", "body 0", "0"), R2_OK);
    for (int i = 0; i < W + R; i++)
        if (pthread_create(&t[i], NULL, i < W ? count_up : keep_looking, NULL) != 0) abort();
    for (int i = 0; i < W + R; i++)
        pthread_join(t[i], NULL);
    CU_ASSERT_EQUAL(wins, W * 25);
    CU_ASSERT_EQUAL(mixtures, 0);
    CU_ASSERT_TRUE(looks > 0);
    CU_ASSERT_TRUE(is("k", "body 100", "100"));
    end();
}

UNIT_MAIN("store_dir_crash", UNIT(killed_at_every_step_it_is_old_or_new),
          UNIT(failing_at_every_step_nothing_is_half_done),
          UNIT(denied_and_full_have_their_own_codes), UNIT(syncs_come_in_order),
          UNIT(create_without_links_and_against_a_stranger), UNIT(exactly_one_racer_wins),
          UNIT(no_update_is_lost_and_no_pair_is_mixed))
