/* main.c - episodes: what the processes do in their turns, what goes wrong, how all of it ends.
 *
 *   r2sim [-v] [-c] [-f] FIRST [COUNT]
 *
 * -v: tell what happens; -c: play each seed twice and compare; -f: end at the first that fails.
 * Prints "seed N: what is wrong" for each seed that breaks a rule, then "N passed, M failed". */
#include "sim.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../vfs/r2vfs.h"
#include "../../vfs/sigv4.h"

struct sim *sim;
int me = -1;
static int nowhere; /* /dev/null: what r2vfs tells the user */

static struct {
    uint64_t commands, kills, power;
} total;

/* ---- chance, memory, words ---- */

uint64_t sim_random(void)
{
    uint64_t z = (sim->rng += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t below(uint32_t n)
{
    return n ? (uint32_t)(sim_random() % n) : 0;
}

bool chance(uint32_t of_1000)
{
    return below(1000) < of_1000;
}

void *sim_alloc(size_t n)
{
    n = (n + 63) & ~(size_t)63;
    if (sim->used + n > ARENA_BYTES) abort(); /* far more than an episode needs */
    void *p = sim->arena + sim->used;
    sim->used += n;
    return p;
}

void trace(const char *fmt, ...)
{
    va_list ap;
    if (!sim->verbose) return;
    fprintf(stderr, "%12.3f ", (double)sim->now_ns / 1e9);
    if (me >= 0) fprintf(stderr, "[%d] ", me);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void wrong(const char *fmt, ...)
{
    va_list ap;
    if (sim->wrong[0]) return;
    va_start(ap, fmt);
    vsnprintf(sim->wrong, sizeof sim->wrong, fmt, ap);
    va_end(ap);
    trace("WRONG: %s", sim->wrong);
}

/* ---- processes ---- */

static void start_process(int index)
{
    struct worker *w = &sim->w[index];
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) abort();
    uint32_t number = 1000 + ++sim->next_process;
    memset(w, 0, sizeof *w);
    w->number = number;
    pid_t pid = fork();
    if (pid < 0) abort();
    if (pid == 0) {
        if (!sim->verbose) dup2(nowhere, 2);
        close(pair[0]);
        for (int k = 0; k < WORKERS; k++)
            if (sim->w[k].pid) close(sim->w[k].fd);
        worker_main(index, pair[1]);
    }
    close(pair[1]);
    w->pid = pid;
    w->fd = pair[0];
}

static void forget_process(int index)
{
    struct worker *w = &sim->w[index];
    for (int k = 0; k < FLIGHTS; k++) /* those that it waits for */
        if (sim->f[k].used && sim->f[k].worker == index) sim->f[k].orphan = true;
    close(w->fd);
    w->pid = 0;
    w->busy = w->open = w->asleep = w->background = false;
}

static void kill_process(int index)
{
    struct worker *w = &sim->w[index];
    if (!w->pid) return;
    trace("kill process %d%s", index, w->busy ? " in the middle" : "");
    kill(w->pid, SIGKILL);
    waitpid(w->pid, NULL, 0);
    if (w->busy) oracle_killed(index);
    total.kills++;
    forget_process(index);
}

static void lose_power(int machine)
{
    for (int k = 0; k < SLOTS; k++)
        kill_process(machine * SLOTS + k);
    oracle_events();
    power_loss(&sim->m[machine]);
    oracle_power(machine);
    total.power++;
}

static const char *const todo_names[TODOS] = {
    "open",           "close",   "commit",       "count",  "rollback",     "sync",
    "pull",           "read",    "checkpoint",   "tend",   "resolve fork", "resolve remote",
    "resolve local",  "restore", "show",         "to log", "to object",    "vacuum",
    "wal_checkpoint", "timer",   "stock commit", "exit"};

/* It ended, as planned or not. */
static void bury(int index)
{
    struct worker *w = &sim->w[index];
    int status = 0;
    bool power = w->power && w->died;
    if (waitpid(w->pid, &status, 0) != w->pid) abort();
    if (w->died || (w->todo == DO_EXIT && WIFEXITED(status))) {
        total.kills++;
        if (w->busy) oracle_killed(index);
    } else {
        wrong("process %d ended by itself: %s %d", index, WIFSIGNALED(status) ? "signal" : "exit",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    forget_process(index);
    if (power) lose_power(index / SLOTS);
}

static int beside = -1; /* the neighbour of a process that paused between two file calls */

static void run_process(int index)
{
    struct worker *w = &sim->w[index];
    char what = 0;
    ssize_t n;
    if (w->asleep && sim->now_ns < w->wake_ns) sim->now_ns = w->wake_ns;
    if (write(w->fd, "g", 1) != 1 || (n = read(w->fd, &what, 1)) != 1) {
        oracle_events();
        bury(index);
        return;
    }
    oracle_events();
    if (what == 'c' && sim->slots > 1) beside = index ^ 1;
    if (what != 'd') return;
    w->busy = false;
    w->kill_in = 0;
    trace("[%d] %s: rc %d, version %lld %s", index, todo_names[w->todo], w->rc,
          (long long)w->version, w->text);
    oracle_done(index);
}

static void command(int index, enum todo todo)
{
    struct worker *w = &sim->w[index];
    if (!w->pid) start_process(index);
    w->todo = todo;
    w->busy = true;
    w->died = w->power = false;
    w->version = 0;
    w->kill_in = 0;
    w->wanted = 0;
    if (todo == DO_COMMIT || todo == DO_ROLLBACK || todo == DO_STOCK) w->id = ++sim->next_id;
    if (todo == DO_RESTORE || todo == DO_PAST) w->wanted = oracle_earlier(w->certain = sim->calm);
    if (todo == DO_RESTORE && w->wanted > 1 && chance(500)) w->wanted--; /* than the newest */
    if (!sim->calm && chance(sim->p.kill)) w->kill_in = 1 + below(1u << (1 + below(8)));
    if (w->kill_in && chance(sim->p.power)) w->power = true;
    total.commands++;
    oracle_begins(index);
    trace("[%d] %s%s %u%s", index, todo_names[todo], w->kill_in ? ", to die" : "",
          todo == DO_COMMIT ? w->id : (uint32_t)w->wanted, w->power ? " with its machine" : "");
    run_process(index);
}

/* ---- what happens ---- */

static void begin_episode(uint64_t seed, bool verbose)
{
    sim->seed = seed;
    sim->rng = seed * UINT64_C(0x2545f4914f6cdd1d) + 1;
    sim->now_ns = INT64_C(1583020800) * 1000 * MS; /* the spring of 2020 */
    sim->verbose = verbose;
    sim->calm = sim->settled = false;
    sim->used = 0;
    sim->objects = sim->events = 0;
    sim->next_id = sim->next_process = 0;
    sim->next_file = 100;
    sim->wrong[0] = 0;
    memset(sim->f, 0, sizeof sim->f);
    memset(sim->w, 0, sizeof sim->w);
    for (int k = 0; k < MACHINES; k++)
        disk_reset(&sim->m[k]);
    dice();
    tell_dice();
    oracle_reset();
    beside = -1;
}

static void arrivals(bool all)
{
    for (int k = 0; k < FLIGHTS; k++) {
        struct flight *f = &sim->f[k];
        if (!f->used || !f->orphan) continue;
        if (!all && f->due_ns > sim->now_ns && !chance(30)) continue;
        if (chance(200)) {
            f->used = false; /* it never arrives */
            continue;
        }
        deliver(f);
        oracle_events();
    }
}

static void weather(void)
{
    if (chance(sim->p.pass)) {
        int64_t s = chance(600) ? below(600) : chance(700) ? below(3 * 3600) : below(30 * 3600);
        sim->now_ns += s * 1000 * MS;
        trace("%lld s pass", (long long)s);
    }
    struct machine *m = &sim->m[below(sim->machines)];
    if (chance(sim->p.jump)) {
        m->skew_ns = chance(300) ? 0 : ((int64_t)below(2 * 6 * 3600) - 6 * 3600) * 1000 * MS;
        if (chance(500)) m->skew_ns /= 20;
        trace("machine %d's clock is %lld s off", (int)(m - sim->m),
              (long long)(m->skew_ns / MS / 1000));
    }
    if (m->full ? chance(300) : chance(sim->p.full)) {
        m->full = !m->full;
        trace("machine %d's disk is %s", (int)(m - sim->m), m->full ? "full" : "no longer full");
    }
    int index = (int)below(sim->machines * SLOTS);
    if (chance(sim->p.kill / 4)) {
        if (chance(sim->p.power))
            lose_power(index / SLOTS);
        else
            kill_process(index);
    }
    arrivals(false);
}

/* One of those that wait; -1: none does. */
static int waiting(void)
{
    int found[WORKERS], n = 0;
    for (int k = 0; k < WORKERS; k++)
        if (sim->w[k].pid && sim->w[k].busy) found[n++] = k;
    return n ? found[below((uint32_t)n)] : -1;
}

static void finish_all(void)
{
    int k;
    while (!sim->wrong[0] && (k = waiting()) >= 0)
        run_process(k);
}

/* What background threads have begun is finished, too: others wait for it. */
static void finish_threads(void)
{
    for (bool any = true; any && !sim->wrong[0];) {
        any = false;
        for (int k = 0; k < WORKERS && !sim->wrong[0]; k++) {
            struct worker *w = &sim->w[k];
            if (!w->pid || (!w->busy && !w->background)) continue;
            any = true;
            if (w->busy)
                run_process(k);
            else
                command(k, DO_TIMER);
        }
    }
}

static void end_processes(void)
{
    for (int k = 0; k < WORKERS; k++) {
        if (!sim->w[k].pid) continue;
        kill(sim->w[k].pid, SIGKILL);
        waitpid(sim->w[k].pid, NULL, 0);
        forget_process(k);
    }
}

/* With sync=N nobody has to ask. */
static void timer_pushes(int index)
{
    struct worker *w = &sim->w[index];
    command(index, DO_COMMIT);
    finish_all();
    uint32_t id = w->id;
    if (w->rc && !sim->wrong[0]) wrong("no COMMIT when all faults have ended: %s", w->text);
    machine_of(index)->skew_ns = -600 * 1000 * MS; /* its clock is set back */
    int64_t began = sim->now_ns;
    for (int turn = 0; turn < 3 && !sim->wrong[0]; turn++) {
        sim->now_ns += 3000 * MS;
        command(index, DO_TIMER);
        finish_threads();
    }
    if (!sim->wrong[0] && !oracle_pushed(id))
        wrong("sync=2000: transaction %u was not pushed in the background", id);
    if (!sim->wrong[0] && sim->now_ns - began > 60 * 1000 * MS)
        wrong("sync=2000: transaction %u was pushed %" PRId64 " s later", id,
              (sim->now_ns - began) / (1000 * MS));
    machine_of(index)->skew_ns = 0;
}

/* Earlier versions, to somebody who has nothing. */
static void show_some(void)
{
    for (int n = 0; sim->travels && n < 2 && !sim->wrong[0] && oracle_earlier(true); n++) {
        command(FRESH * SLOTS, DO_PAST);
        finish_all();
    }
}

/* A change of layout was cut short: nobody can push, until somebody calls it again. */
static void go_on_from_the_end(void)
{
    static const enum todo order[] = {DO_OPEN, DO_PULL, DO_TO_OBJECT, DO_CLOSE};
    struct worker *w = &sim->w[0];
    for (int n = 0; n < 4 && !sim->wrong[0]; n++) {
        command(0, order[n]);
        finish_all();
        if (w->rc && !sim->wrong[0])
            wrong("a change of layout that was cut short cannot be ended: %s", w->text);
    }
}

/* SQLite's own: a disk error in a file's first transaction, and a neighbour takes its journal for a
 * remnant, as the file has no page: what is left is no database. r2vfs leaves it as it is. */
static bool spoilt(const struct worker *w)
{
    return w->rc && (sim->p.io || sim->p.full) && strstr(w->text, "file is not a database");
}

/* The faults end. Everybody comes back, and must get on. */
static void settle(void)
{
    sim->calm = true;
    finish_threads();
    for (int k = 0; k < WORKERS; k++) {
        if (!sim->wrong[0] && sim->w[k].pid && sim->w[k].open && chance(500)) command(k, DO_CLOSE);
        finish_all();
        kill_process(k);
    }
    arrivals(true);
    memset(sim->f, 0, sizeof sim->f);
    show_some();
    sim->now_ns += INT64_C(3600) * 1000 * MS;
    for (uint32_t k = 0; k < MACHINES; k++) {
        sim->m[k].full = sim->m[k].error_policy = false;
        sim->m[k].skew_ns = 0;
    }
    if (oracle_ended()) go_on_from_the_end();
    for (int round = 0; round < 2; round++) {
        sim->settled = round == 1;
        for (uint32_t k = 0; k < sim->machines && !sim->wrong[0]; k++) {
            static const enum todo order[] = {DO_OPEN, DO_READ, DO_SYNC, DO_CLOSE};
            for (int n = 0; n < 4 && !sim->wrong[0]; n++) {
                command((int)k * SLOTS, order[n]);
                finish_all();
                struct worker *w = &sim->w[k * SLOTS];
                if (spoilt(w)) return;
                if (w->rc && !sim->wrong[0])
                    wrong("machine %u does not recover when all faults have ended: %s", k, w->text);
                sim->now_ns += 1000 * MS;
                if (n == 1 && sim->timers && sim->m[k].sync == R2_SYNC_TIMER && !sim->wrong[0])
                    timer_pushes((int)k * SLOTS);
            }
        }
    }
    static const enum todo fresh[] = {DO_OPEN, DO_READ};
    for (int n = 0; n < 2 && !sim->wrong[0]; n++) {
        command(FRESH * SLOTS, fresh[n]);
        finish_all();
        if (sim->w[FRESH * SLOTS].rc && !sim->wrong[0])
            wrong("a fresh replica cannot be made: %s", sim->w[FRESH * SLOTS].text);
    }
    if (!sim->wrong[0]) oracle_final();
    show_some();
}

static bool episode(uint64_t seed, bool verbose)
{
    begin_episode(seed, verbose);
    uint32_t steps = 30 + below(70), done = 0;
    while (done < steps && !sim->wrong[0] && sim->next_id < IDS - 20) {
        weather();
        int k = beside;
        beside = -1;
        if (k >= 0 && chance(600) && !sim->w[k].busy) {
            command(k, sim->w[k].open && chance(600) ? DO_COMMIT : choose(&sim->w[k]));
            done++;
            continue;
        }
        k = waiting();
        if (k >= 0 && chance(700)) {
            run_process(k);
            continue;
        }
        k = (int)(below(sim->machines) * SLOTS + below(sim->slots));
        if (sim->w[k].busy) {
            run_process(k);
            continue;
        }
        command(k, choose(&sim->w[k]));
        done++;
    }
    if (!sim->wrong[0]) settle();
    end_processes();
    return !sim->wrong[0];
}

static void remove_top(void)
{
    char line[200];
    snprintf(line, sizeof line, "rm -rf '%s'", sim->top);
    if (system(line) != 0) fprintf(stderr, "%s stays\n", sim->top);
}

static void prepare(void)
{
    const char *tmp = getenv("TMPDIR");
    void *at = mmap(NULL, sizeof *sim, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || arena == MAP_FAILED) abort();
    sim = at;
    sim->arena = arena;
    snprintf(sim->top, sizeof sim->top, "%.80s/r2simXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(sim->top)) abort();
    setenv("R2_ENDPOINT", "http://127.0.0.1:9", 1);
    setenv("R2_ACCESS_KEY_ID", "sim", 1);
    setenv("R2_SECRET_ACCESS_KEY", "sim", 1);
    setenv("R2VFS_PROGRESS", "0", 1);
    if (!r2_crypto_ready() || sqlite3_r2vfs_init(NULL, NULL, NULL) != SQLITE_OK) abort();
    signal(SIGPIPE, SIG_IGN);
    nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
}

int main(int argc, char **argv)
{
    bool verbose = false, twice = false, until = false;
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++) {
        verbose = verbose || strcmp(argv[at], "-v") == 0;
        twice = twice || strcmp(argv[at], "-c") == 0;
        until = until || strcmp(argv[at], "-f") == 0;
    }
    if (at >= argc) {
        fprintf(stderr, "usage: r2sim [-v] [-c] [-f] FIRST [COUNT]\n");
        return 2;
    }
    uint64_t first = strtoull(argv[at], NULL, 10), failed = 0;
    uint64_t count = at + 1 < argc ? strtoull(argv[at + 1], NULL, 10) : 1;
    prepare();
    for (uint64_t seed = first; seed < first + count; seed++) {
        bool ok = episode(seed, verbose);
        if (!ok) {
            failed++;
            printf("seed %llu: %s\n", (unsigned long long)seed, sim->wrong);
            if (until) count = seed - first + 1;
        }
        if (twice) {
            uint64_t rng = sim->rng;
            int64_t now = sim->now_ns;
            episode(seed, verbose);
            if (rng != sim->rng || now != sim->now_ns)
                printf("seed %llu is not the same twice\n", (unsigned long long)seed), failed++;
        }
        fflush(stdout);
    }
    remove_top();
    printf("%llu commands, %llu kills, %llu power losses, %llu versions, %llu acknowledged, "
           "%llu forks, %llu collected, %llu restored, %llu shown\n",
           (unsigned long long)total.commands, (unsigned long long)total.kills,
           (unsigned long long)total.power, (unsigned long long)tally.versions,
           (unsigned long long)tally.acked, (unsigned long long)tally.forks,
           (unsigned long long)tally.collected, (unsigned long long)tally.restored,
           (unsigned long long)tally.shown);
    printf("%llu passed, %llu failed\n", (unsigned long long)(count - failed),
           (unsigned long long)failed);
    return failed != 0;
}
