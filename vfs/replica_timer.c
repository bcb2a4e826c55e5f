/* replica_timer.c - sync=N: one background thread per process pushes dirty replicas when due.
 *
 * Started at the first replica that wants it, ended when none is left; a forked child starts its
 * own. An idle replica costs a look at shared memory, no request. */
#include "replica_int.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "os.h"

enum { EXIT_WAIT_S = 60 };

/* Not the wall clock, which may be set back by an hour while somebody waits. */
#ifdef __APPLE__
#define NEWS_CLOCK CLOCK_REALTIME /* there is no choice */
#else
#define NEWS_CLOCK CLOCK_MONOTONIC
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news; /* waited for by NEWS_CLOCK; r2_timer_want makes it */
static pthread_cond_t gone = PTHREAD_COND_INITIALIZER;
static bool running;      /* under lock, as all here */
static unsigned its_fork; /* r2_fork_count() of the process that it runs in */
static unsigned wants;    /* calls of r2_timer_want */
static bool ending;       /* the process is in exit(): nothing new is begun */

__attribute__((constructor)) static void fork_safely(void)
{
    r2_fork_reset(&lock);
}

struct round {
    int64_t now, next; /* boot ms: when it is, when something is due next */
    bool wanted;       /* a replica with sync=N exists */
};

static void push_if_due(struct r2_replica *r, void *ctx)
{
    struct round *round = ctx;
    struct r2_live *live = r2_state_live(r->state);
    int64_t every = atomic_load(&r->timer_ms), last = atomic_load(&r->pushed_boot_ms);
    uint64_t version;
    struct r2_err e;
    r2_checkpoint_if_due(r);
    if (!every) return;
    round->wanted = true;
    if (!last) atomic_store(&r->pushed_boot_ms, last = round->now);
    if (last + every <= round->now) {
        last = round->now;
        atomic_store(&r->pushed_boot_ms, last);
        if (atomic_load(&live->write_seq) != atomic_load(&live->clean_seq) &&
            !atomic_load(&r->in_conflict))
            (void)r2_replica_sync(r, &version, &e); /* logs its failure; tried again when due */
    }
    if (last + every < round->next) round->next = last + every;
}

/* Sleep until something is due or somebody wants something new. */
static void wait_until(int64_t next, unsigned seen)
{
    struct timespec until;
    clock_gettime(NEWS_CLOCK, &until);
    int64_t ms = next - r2_boot_ms(), ns = until.tv_nsec + (ms < 1 ? 1 : ms) * 1000000;
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&lock);
    while (wants == seen && pthread_cond_timedwait(&news, &lock, &until) != ETIMEDOUT) {
    }
    pthread_mutex_unlock(&lock);
}

static void *run(void *unused)
{
    (void)unused;
    for (;;) {
        struct round round = {.now = r2_boot_ms()};
        round.next = round.now + 60000;
        pthread_mutex_lock(&lock);
        unsigned seen = wants;
        bool over = ending;
        pthread_mutex_unlock(&lock);
        if (!over) r2_each_replica(push_if_due, &round);
        if (!over && round.wanted) {
            wait_until(round.next, seen);
            continue;
        }
        pthread_mutex_lock(&lock);
        over = over || wants == seen;
        if (over) running = false;
        pthread_cond_broadcast(&gone);
        pthread_mutex_unlock(&lock);
        if (over) return NULL;
    }
}

/* In exit(): a push under way is finished first, or libraries that it uses would be taken down
 * under it. What is dirty after that stays dirty: the next open pushes it. */
static void at_exit(void)
{
    struct timespec until;
    if (its_fork != r2_fork_count()) return; /* the thread is the parent's */
    pthread_mutex_lock(&lock);
    ending = true;
    wants++;
    pthread_cond_signal(&news);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += EXIT_WAIT_S;
    while (running && its_fork == r2_fork_count() &&
           pthread_cond_timedwait(&gone, &lock, &until) != ETIMEDOUT) {
    }
    pthread_mutex_unlock(&lock);
}

static void at_exit_please(void)
{
    atexit(at_exit);
}

/* Under lock. */
static void make_news(void)
{
    pthread_condattr_t by;
    pthread_condattr_init(&by);
#ifndef __APPLE__
    pthread_condattr_setclock(&by, NEWS_CLOCK);
#endif
    pthread_cond_init(&news, &by);
    pthread_condattr_destroy(&by);
}

void r2_timer_want(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t all, was;
    pthread_t thread;
    pthread_once(&once, at_exit_please);
    pthread_mutex_lock(&lock);
    if (!wants++) {
        make_news();
    } else if (its_fork != r2_fork_count()) { /* they may hold waiters that stayed behind */
        static const pthread_cond_t fresh = PTHREAD_COND_INITIALIZER;
        make_news();
        memcpy(&gone, &fresh, sizeof fresh);
        running = false;
    }
    pthread_cond_signal(&news);
    if (!running && !ending) {
        its_fork = r2_fork_count();
        sigfillset(&all); /* signals are the host's */
        pthread_sigmask(SIG_SETMASK, &all, &was);
        running = pthread_create(&thread, NULL, run, NULL) == 0;
        pthread_sigmask(SIG_SETMASK, &was, NULL);
        if (running) pthread_detach(thread);
    }
    pthread_mutex_unlock(&lock);
}
