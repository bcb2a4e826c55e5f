/* thread.c - the background thread of a process, without one: see sim.h.
 *
 * r2vfs begins one thread of its own (sync=N, checkpoints when they are due). Here it is a second
 * stack, which runs when the first one lets it: between two statements, while a request is on its
 * way, when either sleeps or waits for what the other has. So its turns are chance like all others,
 * and a seed is still a whole history. Threads that only share work are not begun: see
 * r2_store_parallel(). These definitions stand before the C library's. */
#include "sim.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#define OVER __attribute__((visibility("default")))
enum { STACK = 4 << 20, WAIT_MS = 5 };

enum state { NONE, READY, ASLEEP, WAITING };
static struct {
    enum state state;
    bool runs, news;
    int64_t wake_ns; /* ASLEEP: by the world's clock, WAITING: by that of the condition */
    clockid_t by;
    void *(*fn)(void *);
    void *stack;
    ucontext_t its, ours;
} thread;

static bool ours(void)
{
    return sim && me >= 0;
}

bool thread_runs(void)
{
    return thread.runs;
}

/* What the clock of the condition shows; only r2vfs' thread waits by one. */
static int64_t shown_ns(void)
{
    const struct machine *m = machine_of(me);
    return thread.by == CLOCK_REALTIME ? wall_ns(m) : sim->now_ns - m->booted_ns;
}

static int64_t until_due(void)
{
    if (thread.state == READY || (thread.state == WAITING && thread.news)) return 0;
    int64_t now = thread.state == WAITING ? shown_ns() : sim->now_ns;
    return thread.wake_ns > now ? thread.wake_ns - now : 0;
}

void thread_turn(void)
{
    if (thread.runs || thread.state == NONE || until_due() > 0) return;
    thread.runs = true;
    if (swapcontext(&thread.ours, &thread.its) != 0) abort();
    thread.runs = false;
}

void thread_maybe(void)
{
    if (sim->timers && chance(250)) thread_turn();
}

void thread_due(void)
{
    if (thread.state == NONE) return;
    sleep_ns(until_due());
    thread_turn();
}

/* Let the other stack go on. */
static void give_back(enum state state, int64_t wake_ns)
{
    thread.state = state;
    thread.wake_ns = wake_ns;
    sim->w[me].background = state == READY || state == ASLEEP;
    if (swapcontext(&thread.its, &thread.ours) != 0) abort();
    thread.state = READY;
}

void thread_pause(void)
{
    give_back(READY, 0);
}

void thread_sleep(int64_t ns)
{
    give_back(ASLEEP, sim->now_ns + ns);
}

static void begin(void)
{
    (void)thread.fn(NULL);
    give_back(NONE, 0);
}

OVER int pthread_create(pthread_t *restrict t, const pthread_attr_t *restrict a,
                        void *(*fn)(void *), void *restrict ctx)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_create");
    if (!ours()) return real(t, a, fn, ctx);
    /* those that share work have a context, and whoever begins one does the work itself */
    if (ctx || !sim->timers || thread.state != NONE) return EAGAIN;
    if (!thread.stack)
        thread.stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (thread.stack == MAP_FAILED || getcontext(&thread.its) != 0) abort();
    thread.fn = fn;
    thread.its.uc_stack.ss_sp = thread.stack;
    thread.its.uc_stack.ss_size = STACK;
    sigemptyset(&thread.its.uc_sigmask);
    makecontext(&thread.its, begin, 0);
    thread.state = READY;
    *t = pthread_self();
    return 0;
}

OVER int pthread_detach(pthread_t t)
{
    static int (*real)(pthread_t);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_detach");
    return ours() ? 0 : real(t);
}

static int64_t ns_of(const struct timespec *t)
{
    return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

OVER int pthread_mutex_timedlock(pthread_mutex_t *restrict m, const struct timespec *restrict until)
{
    static int (*real)(pthread_mutex_t *, const struct timespec *);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    if (!ours()) return real(m, until);
    while (pthread_mutex_trylock(m) != 0) {
        if (wall_ns(machine_of(me)) >= ns_of(until)) return ETIMEDOUT;
        if (!thread.runs) thread_turn();
        sleep_ns(WAIT_MS * MS);
    }
    return 0;
}

OVER int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m,
                                const struct timespec *restrict until)
{
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    if (!ours() || !thread.runs) return real(c, m, until);
    thread.news = false;
    pthread_mutex_unlock(m);
    give_back(WAITING, ns_of(until));
    pthread_mutex_lock(m);
    return shown_ns() >= ns_of(until) ? ETIMEDOUT : 0;
}

OVER int pthread_condattr_setclock(pthread_condattr_t *a, clockid_t which)
{
    static int (*real)(pthread_condattr_t *, clockid_t);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_condattr_setclock");
    if (ours()) thread.by = which;
    return real(a, which);
}

OVER int pthread_cond_signal(pthread_cond_t *c)
{
    static int (*real)(pthread_cond_t *);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_cond_signal");
    if (!ours()) return real(c);
    thread.news = true;
    return 0;
}
