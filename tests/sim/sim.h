/* sim.h - a world in one block of shared memory: machines with disks and clocks, a bucket behind a
 * bad network, and the processes that run the real r2vfs in it.
 *
 *   main.c     episodes: which process runs next, what breaks, how it ends
 *   dice.c     what a seed means
 *   worker.c   a process: opens the database through r2vfs and does what it is told
 *   disk.c     the C library's file calls, clocks and randomness, as the simulated machine has them
 *   thread.c   the background thread of a process
 *   crash.c    what a power loss leaves of a machine's files
 *   store.c    the bucket: requests are lost, late, refused, cut
 *   oracle.c   what must hold: looks at every object, and at what was promised to whom
 *   past.c     the same of earlier versions and of changes of the layout
 *
 * Each process is a real one (so it can be killed at any system call), but only one runs at a time:
 * it hands over where it sends a request, sleeps, or at a file call now and then. All chance comes
 * from one generator, all time from one clock: a seed is a whole history. */
#ifndef SIM_H
#define SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "../../vfs/config.h"
#include "../../vfs/store.h"

enum {
    MACHINES = 4, /* the last one is for replicas that begin with nothing */
    FRESH = MACHINES - 1,
    SLOTS = 2, /* processes per machine */
    WORKERS = MACHINES * SLOTS,
    IDS = 512, /* transactions in an episode */
    FILES = 160,
    SECTOR = 512,
    SECTORS = 2048, /* of a file */
    OPS = 128,      /* changes of a folder since it was synced */
    OBJECTS = 4096,
    FLIGHTS = 32,
    EVENTS = 64,
    KEY_ROOM = 160,
    NAME_ROOM = 64
};
#define MS INT64_C(1000000)

struct idset {
    uint64_t bit[IDS / 64];
};

/* ---- disk ---- */

struct sector { /* as it was when the file was last synced */
    struct sector *next;
    uint32_t index;
    uint8_t was[SECTOR];
};

struct mapped { /* a range that processes write without a call */
    int64_t at;
    uint32_t len;
    uint8_t *synced;
};

struct file {
    bool used, loose; /* loose: never matters after a crash (-shm) */
    uint64_t ino;     /* the real one, */
    uint64_t number;  /* and the one that is told */
    int64_t mtime_ns, ctime_ns, synced_mtime_ns;
    int64_t synced_size; /* -1: as it is */
    uint32_t cut_after;  /* changes of the folder that came before it was cut shorter */
    struct sector *unsynced;
    struct sector **of; /* [SECTORS]: the same, by index; NULL: there are none */
    uint32_t maps;
    struct mapped map[4];
};

enum op_kind { OP_CREATE, OP_UNLINK, OP_RENAME, OP_LINK };
struct folder_op {
    enum op_kind kind;
    char name[NAME_ROOM], to[NAME_ROOM];
    uint32_t trash; /* where what was there lies; 0: nothing */
};

struct machine {
    char dir[128];
    int64_t skew_ns; /* its wall clock against the world's */
    int64_t booted_ns;
    uint32_t boots;
    bool full;          /* the disk */
    bool folder_failed; /* its last sync did, which SQLite takes no notice of */
    bool betrayed;      /* and then a journal came back in a power loss */
    struct file file[FILES];
    uint32_t ops;
    struct folder_op op[OPS];
    uint32_t trash;
    /* how its databases are opened */
    enum r2_sync_mode sync;
    int refresh; /* -1: open */
    const char *journal;
    bool error_policy;
    bool wins; /* somebody there said that its content shall be the newest */
};

/* ---- bucket ---- */

struct object {
    char key[KEY_ROOM];
    const uint8_t *bytes;
    uint64_t size;
    char etag[40];
    int64_t modified_ns;
    const char *meta;
    bool gone;
};

enum request { REQ_HEAD, REQ_GET, REQ_LIST, REQ_PUT, REQ_COPY, REQ_DEL };

/* A change that is on its way to the bucket. */
struct flight {
    bool used, orphan; /* orphan: its process does not wait for it any more */
    enum request kind;
    char key[KEY_ROOM], from[KEY_ROOM], etag[40];
    enum r2_put_if when;
    const uint8_t *bytes;
    uint64_t size;
    const char *meta;
    int64_t signed_ns, due_ns;
    int worker;
    bool on_purpose;   /* of a machine that was told to let its content win */
    bool asked;        /* of a process that was told to settle a conflict */
    bool moves;        /* to change the layout */
    uint64_t restores; /* this version; 0: none */
    enum r2_code code;
};

/* A change that happened: for the oracle. */
struct event {
    enum request kind;
    struct object object; /* as it is now; REQ_DEL: as it was */
    char from[KEY_ROOM];
    int worker;
    bool on_purpose, asked, moves;
    uint64_t restores;
};

/* ---- processes ---- */

enum todo {
    DO_OPEN,
    DO_CLOSE,
    DO_COMMIT,
    DO_COUNT, /* a commit whose bytes do not say who made it */
    DO_ROLLBACK,
    DO_SYNC,
    DO_PULL,
    DO_READ,
    DO_CHECKPOINT,
    DO_TEND,
    DO_RESOLVE_FORK,
    DO_RESOLVE_REMOTE,
    DO_RESOLVE_LOCAL,
    DO_RESTORE,
    DO_PAST, /* show an earlier version */
    DO_TO_LOG,
    DO_TO_OBJECT,
    DO_VACUUM,
    DO_WAL_CHECKPOINT,
    DO_TIMER, /* the background thread's turn */
    DO_STOCK, /* a commit by SQLite without r2vfs */
    DO_EXIT,
    TODOS
};

enum stage { BEFORE_COMMIT, IN_COMMIT, AFTER_COMMIT };

struct worker {
    pid_t pid; /* 0: there is none */
    int fd;    /* the parent's end */
    bool busy, open, asleep;
    bool background; /* its background thread is in the middle of something */
    bool looking;    /* only to find out: its disk does not fail meanwhile */
    int64_t wake_ns;
    uint32_t number; /* of the process: its pid as it sees it */
    enum todo todo;
    uint32_t id;     /* of the transaction */
    uint64_t wanted; /* the earlier version */
    bool certain;    /* that it can be had */
    enum todo next;  /* what it does after this; DO_OPEN: anything */
    uint32_t calls, turns;
    uint32_t kill_in; /* calls until it dies; 0: it does not */
    bool power;       /* and the whole machine with it */
    bool died;        /* as planned */
    /* what came of it */
    enum stage stage;
    int rc;
    int64_t version;
    bool read;
    struct idset before; /* in the local file before the call */
    struct idset seen;   /* and after it */
    char text[600];
};

/* ---- the world ---- */

struct chances { /* in a thousand, of a request or call */
    uint32_t lost, never, late, refused, denied, damaged, slow, kill, power, full, io, jump, hand,
        call, pass;
};

struct sim {
    uint64_t rng, seed;
    int64_t now_ns;
    struct chances p;
    bool calm, settled, verbose, stock, resolve_local, collects, travels, moves, timers, counts;
    enum r2_layout_kind layout;
    uint32_t machines, slots, retention_s, page_size;
    uint32_t next_id, next_process;
    uint64_t next_file;
    struct machine m[MACHINES];
    struct worker w[WORKERS];
    uint32_t objects, events;
    struct object o[OBJECTS];
    struct flight f[FLIGHTS];
    struct event e[EVENTS];
    char wrong[600]; /* the first thing that must not be; "": nothing yet */
    char top[100];
    uint8_t *arena;
    size_t used;
};
#define ARENA_BYTES ((size_t)512 << 20)

extern struct sim *sim;
extern int me; /* which worker this process is; -1: none */

/* main.c */
uint64_t sim_random(void);
bool chance(uint32_t of_1000);
uint32_t below(uint32_t n);
void *sim_alloc(size_t n);
void trace(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline struct machine *machine_of(int worker)
{
    return &sim->m[worker / SLOTS];
}
static inline const char *sim_key(void)
{
    return "app.db";
}

/* dice.c */
void dice(void);
void tell_dice(void);
enum todo choose(struct worker *w);

/* worker.c */
void worker_main(int index, int fd) __attribute__((noreturn));
void hand_over(char why); /* let others run; returns when it is our turn again */
void die(void) __attribute__((noreturn));
/* A system call or request is about to be made: it may be the last one. */
void on_call(const char *what);

/* thread.c */
bool thread_runs(void);  /* is this the background thread? */
void thread_turn(void);  /* its turn, if it has anything to do now */
void thread_maybe(void); /* the same, by chance */
void thread_due(void);   /* when it has */
void thread_pause(void); /* called by it: others first */
void thread_sleep(int64_t ns);

/* disk.c */
void disk_prepare(void);
int64_t wall_ns(const struct machine *m);
void sleep_ns(int64_t ns);
struct file *file_by_ino(struct machine *m, uint64_t ino);
void file_synced(struct file *f);

/* crash.c */
void power_loss(struct machine *m);
void disk_reset(struct machine *m);
void folder_synced(struct machine *m);

/* store.c */
struct object *object_at(const char *key);
/* It reaches the bucket now. */
void deliver(struct flight *f);

/* oracle.c */
struct tally {
    uint64_t versions, acked, forks, collected, restored, shown;
};
extern struct tally tally; /* of all episodes */
void oracle_reset(void);
void oracle_events(void);       /* look at what happened since */
void oracle_begins(int worker); /* a command begins */
void oracle_done(int worker);   /* it came to its end */
void oracle_killed(int worker); /* or was cut short */
void oracle_power(int machine);
bool oracle_pushed(uint32_t id); /* is it in any version? */
void oracle_final(void);

/* past.c */
/* The number of a version, one that can be had for certain or any; 0: there is none. */
uint64_t oracle_earlier(bool certain);
bool oracle_ended(void); /* the log has ended, and nothing goes on from it yet */

static inline bool idset_has(const struct idset *s, uint32_t id)
{
    return s->bit[id / 64] >> id % 64 & 1;
}
static inline void idset_add(struct idset *s, uint32_t id)
{
    s->bit[id / 64] |= UINT64_C(1) << id % 64;
}
static inline void idset_drop(struct idset *s, uint32_t id)
{
    s->bit[id / 64] &= ~(UINT64_C(1) << id % 64);
}
static inline void idset_join(struct idset *s, const struct idset *more)
{
    for (int k = 0; k < IDS / 64; k++)
        s->bit[k] |= more->bit[k];
}
/* The first id of `a` that `b` lacks; -1: none. */
static inline int idset_lacks(const struct idset *b, const struct idset *a)
{
    for (int k = 0; k < IDS; k++)
        if (idset_has(a, (uint32_t)k) && !idset_has(b, (uint32_t)k)) return k;
    return -1;
}

#endif
