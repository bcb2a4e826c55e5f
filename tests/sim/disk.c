/* disk.c - the C library's calls as a process of the simulation finds them: see sim.h.
 *
 * Files are real ones in a folder in memory, so that locks, mappings and SQLite's own code are the
 * real ones, too. What was written since the last sync is remembered, for crash.c. Times, inode
 * numbers and randomness are the world's. These definitions stand before the C library's, also for
 * SQLite. */
#include "sim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define OVER     __attribute__((visibility("default")))
#define TICK_NS  (4 * MS) /* of the clock that files are stamped with */
#define REAL(fn) real_##fn = (__typeof__(real_##fn))dlsym(RTLD_NEXT, #fn)

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);
static int (*real_link)(const char *, const char *);
static int (*real_stat)(const char *, struct stat *);
static int (*real_fstat)(int, struct stat *);
static int (*real_lstat)(const char *, struct stat *);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static int (*real_munmap)(void *, size_t);
static int (*real_msync)(void *, size_t, int);
static int (*real_fallocate)(int, off_t, off_t);
static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_sleep)(const struct timespec *, struct timespec *);
static ssize_t (*real_getrandom)(void *, size_t, unsigned);
static time_t (*real_time)(time_t *);
static int (*real_fcntl)(int, int, ...);

__attribute__((constructor(101))) static void find_real(void)
{
    REAL(open), REAL(close), REAL(pread), REAL(pwrite), REAL(write), REAL(ftruncate);
    REAL(unlink), REAL(rename), REAL(link), REAL(stat), REAL(fstat), REAL(lstat);
    REAL(mmap), REAL(munmap), REAL(msync), REAL(time), REAL(getrandom), REAL(fcntl);
    real_fallocate = (__typeof__(real_fallocate))dlsym(RTLD_NEXT, "posix_fallocate");
    real_clock = (__typeof__(real_clock))dlsym(RTLD_NEXT, "clock_gettime");
    real_sleep = (__typeof__(real_sleep))dlsym(RTLD_NEXT, "nanosleep");
}

/* ---- which file is it ---- */

enum { FDS = 1024, A_FOLDER = -1 };
static int of_fd[FDS];          /* 0: none of ours, else index + 1 */
static uint64_t number_fd[FDS]; /* the file may be gone, and its place another's */

static struct machine *mine(void)
{
    return sim && me >= 0 ? machine_of(me) : NULL;
}

static bool in_folder(const struct machine *m, const char *path)
{
    size_t n = strlen(m->dir);
    return strncmp(path, m->dir, n) == 0 && path[n] == '/';
}

static const char *name_in(const struct machine *m, const char *path)
{
    return path + strlen(m->dir) + 1;
}

struct file *file_by_ino(struct machine *m, uint64_t ino)
{
    for (int k = 0; k < FILES; k++)
        if (m->file[k].used && m->file[k].ino == ino) return &m->file[k];
    return NULL;
}

static struct file *file_of(int fd)
{
    struct machine *m = mine();
    struct file *f = m && fd >= 0 && fd < FDS && of_fd[fd] > 0 ? &m->file[of_fd[fd] - 1] : NULL;
    return f && f->used && f->number == number_fd[fd] ? f : NULL;
}

static struct file *new_file(struct machine *m, uint64_t ino, const char *name)
{
    struct file *f = file_by_ino(m, ino);
    for (int turn = 0; !f && turn < 2; turn++) {
        for (int k = 0; !f && k < FILES; k++)
            if (!m->file[k].used) f = &m->file[k];
        if (!f) folder_synced(m); /* forget those that have no name */
    }
    if (!f) abort(); /* more files than a replica ever has */
    memset(f, 0, sizeof *f);
    size_t n = strlen(name);
    f->used = true;
    f->loose = n > 4 && strcmp(name + n - 4, "-shm") == 0;
    f->ino = ino;
    f->number = ++sim->next_file;
    f->synced_size = -1;
    return f;
}

/* ---- clocks ---- */

int64_t wall_ns(const struct machine *m)
{
    return sim->now_ns + m->skew_ns;
}

static void touched(struct machine *m, struct file *f)
{
    f->mtime_ns = f->ctime_ns = wall_ns(m) / TICK_NS * TICK_NS;
}

void sleep_ns(int64_t ns)
{
    struct worker *w = &sim->w[me];
    if (ns <= 0) return;
    /* a busy machine: short pauses are long, or waiting for a lock would take thousands of turns */
    ns = ns < 60 * MS ? ns * 16 : ns;
    if (thread_runs()) {
        thread_sleep(ns);
        return;
    }
    thread_maybe();
    w->wake_ns = sim->now_ns + ns;
    w->asleep = true;
    hand_over('s');
    w->asleep = false;
    if (sim->now_ns < w->wake_ns) sim->now_ns = w->wake_ns;
}

OVER int clock_gettime(clockid_t which, struct timespec *t)
{
    struct machine *m = mine();
    if (!m) return real_clock(which, t);
    sim->now_ns += 200;
    int64_t ns = which == CLOCK_REALTIME ? wall_ns(m) : sim->now_ns - m->booted_ns;
    t->tv_sec = ns / 1000000000;
    t->tv_nsec = ns % 1000000000;
    return 0;
}

OVER int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

OVER time_t time(time_t *to)
{
    struct timespec now;
    if (!mine()) return real_time(to);
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

OVER int nanosleep(const struct timespec *t, struct timespec *left)
{
    if (!mine()) return real_sleep(t, left);
    sleep_ns((int64_t)t->tv_sec * 1000000000 + t->tv_nsec);
    return 0;
}

OVER int usleep(useconds_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    return nanosleep(&t, NULL);
}

/* ---- chance, processes ---- */

static void fill(void *to, size_t n)
{
    uint8_t *p = to;
    for (size_t k = 0; k < n; k++)
        p[k] = (uint8_t)(sim_random() >> 24);
}

OVER ssize_t getrandom(void *to, size_t n, unsigned flags)
{
    if (!mine()) return real_getrandom(to, n, flags);
    fill(to, n);
    return (ssize_t)n;
}

OVER int getentropy(void *to, size_t n)
{
    if (!mine()) return syscall(SYS_getrandom, to, n, 0) == (long)n ? 0 : -1;
    fill(to, n);
    return 0;
}

OVER pid_t getpid(void)
{
    return mine() ? (pid_t)sim->w[me].number : (pid_t)syscall(SYS_getpid);
}

/* ---- what is not on the disk yet ---- */

/* Remember the sectors of [at, at+n) as they are, unless that was done since the last sync. */
static void before_write(struct file *f, int fd, int64_t at, int64_t n)
{
    struct stat st;
    if (f->loose || n <= 0 || real_fstat(fd, &st) != 0) return;
    if (at + n > st.st_size && f->synced_size < 0) f->synced_size = st.st_size;
    if ((at + n) / SECTOR >= SECTORS) {
        wrong("a file of %lld bytes: larger than this simulation can have", (long long)(at + n));
        return;
    }
    if (!f->of) f->of = memset(sim_alloc(SECTORS * sizeof *f->of), 0, SECTORS * sizeof *f->of);
    for (int64_t s = at / SECTOR; s <= (at + n - 1) / SECTOR; s++) {
        if (f->of[s]) continue;
        struct sector *was = sim_alloc(sizeof *was);
        memset(was, 0, sizeof *was);
        was->index = (uint32_t)s;
        if (s * SECTOR < st.st_size && real_pread(fd, was->was, SECTOR, s * SECTOR) < 0) abort();
        was->next = f->unsynced;
        f->unsynced = f->of[s] = was;
    }
}

void file_synced(struct file *f)
{
    for (struct sector *s = f->unsynced; s; s = s->next)
        f->of[s->index] = NULL;
    f->unsynced = NULL;
    f->synced_size = -1;
    f->cut_after = 0;
    f->synced_mtime_ns = f->mtime_ns;
}

static void maps_synced(const struct file *f, int fd, int64_t from, int64_t to)
{
    for (uint32_t k = 0; k < f->maps; k++) {
        const struct mapped *p = &f->map[k];
        if (p->at >= from && p->at < to && real_pread(fd, p->synced, p->len, p->at) < 0) abort();
    }
}

/* The system writes back what it likes, when it likes. */
static void write_back(struct file *f, int fd)
{
    struct sector **at = &f->unsynced;
    if (f->synced_size >= 0) return;
    while (*at) {
        struct sector *s = *at;
        if (chance(500)) {
            *at = s->next;
            f->of[s->index] = NULL;
        } else {
            at = &s->next;
        }
    }
    for (uint32_t k = 0; k < f->maps; k++)
        if (chance(500)) maps_synced(f, fd, f->map[k].at, f->map[k].at + 1);
}

/* Others may run before this call, too, though nothing ends here. */
static void pause_here(void)
{
    if (sim->slots > 1 && chance(sim->p.call)) hand_over('c');
}

static bool fails(uint32_t of_1000)
{
    return !sim->calm && of_1000 && !sim->w[me].looking && chance(of_1000);
}

static void note_op(struct machine *m, enum op_kind kind, const char *name, const char *to,
                    uint32_t trash)
{
    if (m->ops == OPS) folder_synced(m);
    struct folder_op *o = &m->op[m->ops++];
    memset(o, 0, sizeof *o);
    o->kind = kind;
    o->trash = trash;
    (void)!memccpy(o->name, name, 0, NAME_ROOM - 1);
    if (to) (void)!memccpy(o->to, to, 0, NAME_ROOM - 1);
}

/* ---- open, close, read ---- */

static int open_in(struct machine *m, const char *path, int flags, mode_t mode)
{
    struct stat st;
    bool folder = strcmp(path, m->dir) == 0;
    if (strcmp(path, "/dev/urandom") == 0) {
        errno = ENOENT;
        return -1;
    }
    if (!folder && !in_folder(m, path)) return real_open(path, flags, mode);
    on_call("open");
    if (fails(sim->p.io)) {
        errno = EMFILE;
        return -1;
    }
    bool there = real_stat(path, &st) == 0;
    if (!there && flags & O_CREAT && m->full && chance(300)) {
        errno = ENOSPC;
        return -1;
    }
    int fd = real_open(path, flags, mode);
    if (fd < 0 || fd >= FDS) return fd;
    of_fd[fd] = folder ? A_FOLDER : 0;
    if (folder || real_fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return fd;
    struct file *f = there ? file_by_ino(m, st.st_ino) : NULL;
    if (!f) {
        f = new_file(m, st.st_ino, path);
        touched(m, f);
        if (!there) note_op(m, OP_CREATE, name_in(m, path), NULL, 0);
    }
    of_fd[fd] = (int)(f - m->file) + 1;
    number_fd[fd] = f->number;
    return fd;
}

OVER int open(const char *path, int flags, ...)
{
    struct machine *m = mine();
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list ap;
        va_start(ap, flags);
        mode = va_arg(ap, mode_t);
        va_end(ap);
    }
    if (!m) return real_open(path, flags, mode);
    if (strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) {
        char text[200];
        snprintf(text, sizeof text, "%s-boot", m->dir);
        return real_open(text, O_RDONLY | O_CLOEXEC);
    }
    return open_in(m, path, flags, mode);
}

OVER int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list ap;
        va_start(ap, flags);
        mode = va_arg(ap, mode_t);
        va_end(ap);
    }
    return open(path, flags, mode);
}

OVER int close(int fd)
{
    if (mine() && fd >= 0 && fd < FDS) of_fd[fd] = 0;
    return real_close(fd);
}

OVER ssize_t pread(int fd, void *to, size_t n, off_t at)
{
    if (file_of(fd)) {
        pause_here();
        if (fails(sim->p.io)) {
            errno = chance(300) ? EINTR : EIO;
            return -1;
        }
        if (n > 1 && fails(sim->p.io)) n = 1 + below((uint32_t)n - 1);
    }
    return real_pread(fd, to, n, at);
}

OVER ssize_t pread64(int fd, void *to, size_t n, off_t at)
{
    return pread(fd, to, n, at);
}

OVER int fcntl(int fd, int what, ...)
{
    va_list ap;
    va_start(ap, what);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (file_of(fd)) pause_here();
    return real_fcntl(fd, what, arg);
}

OVER int fcntl64(int fd, int what, ...)
{
    va_list ap;
    va_start(ap, what);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return fcntl(fd, what, arg);
}

/* ---- write ---- */

OVER ssize_t pwrite(int fd, const void *from, size_t n, off_t at)
{
    struct file *f = file_of(fd);
    struct stat st;
    if (!f) return real_pwrite(fd, from, n, at);
    struct machine *m = mine();
    if (sim->w[me].kill_in == 1 && chance(600)) { /* in the middle of it */
        size_t some = n > SECTOR ? below((uint32_t)(n / SECTOR)) * SECTOR : 0;
        before_write(f, fd, at, (int64_t)some);
        if (some && real_pwrite(fd, from, some, at) < 0) abort();
        touched(m, f);
        die();
    }
    on_call("pwrite");
    if (fails(sim->p.io)) {
        errno = chance(300) ? EINTR : EIO;
        return -1;
    }
    if (n > 1 && fails(sim->p.io)) n = 1 + below((uint32_t)n - 1);
    if (m->full && real_fstat(fd, &st) == 0 && at + (off_t)n > st.st_size && chance(800)) {
        errno = ENOSPC;
        return -1;
    }
    before_write(f, fd, at, (int64_t)n);
    ssize_t put = real_pwrite(fd, from, n, at);
    touched(m, f);
    if (chance(20)) write_back(f, fd);
    return put;
}

OVER ssize_t pwrite64(int fd, const void *from, size_t n, off_t at)
{
    return pwrite(fd, from, n, at);
}

OVER ssize_t write(int fd, const void *from, size_t n)
{
    if (file_of(fd)) return pwrite(fd, from, n, lseek(fd, 0, SEEK_CUR));
    return real_write(fd, from, n);
}

OVER int ftruncate(int fd, off_t size)
{
    struct file *f = file_of(fd);
    struct stat st;
    if (!f) return real_ftruncate(fd, size);
    on_call("ftruncate");
    if (fails(sim->p.io)) {
        errno = EIO;
        return -1;
    }
    if (real_fstat(fd, &st) != 0) return -1;
    if (size < st.st_size) before_write(f, fd, size, st.st_size - size);
    if (size != st.st_size && f->synced_size < 0) f->synced_size = st.st_size;
    if (size < st.st_size) f->cut_after = mine()->ops;
    touched(mine(), f);
    return real_ftruncate(fd, size);
}

OVER int ftruncate64(int fd, off_t size)
{
    return ftruncate(fd, size);
}

OVER int posix_fallocate(int fd, off_t at, off_t n)
{
    struct file *f = file_of(fd);
    struct stat st;
    if (!f) return real_fallocate(fd, at, n);
    on_call("fallocate");
    if (mine()->full && chance(800)) return ENOSPC;
    if (real_fstat(fd, &st) != 0) return EIO;
    if (at + n > st.st_size && f->synced_size < 0) f->synced_size = st.st_size;
    touched(mine(), f);
    return real_fallocate(fd, at, n);
}

/* ---- sync ---- */

OVER int fdatasync(int fd)
{
    struct machine *m = mine();
    struct file *f = file_of(fd);
    if (!m || fd < 0 || fd >= FDS || !of_fd[fd]) return 0;
    on_call("fsync");
    if (fails(sim->p.io)) {
        if (!f) m->folder_failed = true;
        errno = EIO;
        return -1;
    }
    sim->now_ns += MS;
    if (!f) {
        m->folder_failed = false;
        folder_synced(m);
        return 0;
    }
    int64_t before = f->synced_mtime_ns;
    file_synced(f);
    if (before && chance(300)) f->synced_mtime_ns = before; /* it need not: the data are */
    maps_synced(f, fd, 0, INT64_MAX);
    return 0;
}

OVER int fsync(int fd)
{
    return fdatasync(fd);
}

/* ---- mappings ---- */

enum { MAPPINGS = 64 };
static struct {
    uint8_t *addr;
    size_t len;
    int64_t at;
    struct file *f;
} mapping[MAPPINGS];

OVER void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t at)
{
    struct file *f = file_of(fd);
    void *got = real_mmap(addr, len, prot, flags, fd, at);
    if (!f || f->loose || got == MAP_FAILED || !(flags & MAP_SHARED) || !(prot & PROT_WRITE))
        return got;
    bool known = false;
    for (uint32_t k = 0; k < f->maps; k++)
        known = known || (f->map[k].at == at && f->map[k].len == len);
    if (!known) {
        if (f->maps == sizeof f->map / sizeof *f->map) abort();
        struct mapped *p = &f->map[f->maps++];
        *p = (struct mapped){.at = at, .len = (uint32_t)len, .synced = sim_alloc(len)};
        memset(p->synced, 0, len);
        if (real_pread(fd, p->synced, len, at) < 0) abort();
    }
    for (int k = 0; k < MAPPINGS; k++) {
        if (mapping[k].f) continue;
        mapping[k].addr = got;
        mapping[k].len = len;
        mapping[k].at = at;
        mapping[k].f = f;
        return got;
    }
    abort();
}

OVER void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t at)
{
    return mmap(addr, len, prot, flags, fd, at);
}

OVER int munmap(void *addr, size_t len)
{
    for (int k = 0; mine() && k < MAPPINGS; k++)
        if (mapping[k].f && mapping[k].addr == addr) mapping[k].f = NULL;
    return real_munmap(addr, len);
}

OVER int msync(void *addr, size_t len, int flags)
{
    if (!mine()) return real_msync(addr, len, flags);
    on_call("msync");
    if (fails(sim->p.io)) {
        errno = EIO;
        return -1;
    }
    for (int k = 0; k < MAPPINGS; k++) {
        struct file *f = mapping[k].f;
        for (uint32_t n = 0; f && mapping[k].addr == addr && n < f->maps; n++)
            if (f->map[n].at == mapping[k].at) memcpy(f->map[n].synced, addr, f->map[n].len);
    }
    return 0;
}

/* ---- names ---- */

/* What is at `path` goes where a power loss can bring it back from. */
static uint32_t to_trash(struct machine *m, const char *path)
{
    char trash[200];
    snprintf(trash, sizeof trash, "%s-trash/%u", m->dir, ++m->trash);
    return real_rename(path, trash) == 0 ? m->trash : 0;
}

OVER int unlink(const char *path)
{
    struct machine *m = mine();
    struct stat st;
    if (!m || !in_folder(m, path)) return real_unlink(path);
    on_call("unlink");
    if (fails(sim->p.io)) {
        errno = EIO;
        return -1;
    }
    if (real_lstat(path, &st) != 0) return -1;
    uint32_t trash = to_trash(m, path);
    if (!trash) return -1;
    note_op(m, OP_UNLINK, name_in(m, path), NULL, trash);
    return 0;
}

OVER int rename(const char *from, const char *to)
{
    struct machine *m = mine();
    struct stat st;
    if (!m || !in_folder(m, from) || !in_folder(m, to)) return real_rename(from, to);
    on_call("rename");
    uint32_t trash = real_lstat(to, &st) == 0 ? to_trash(m, to) : 0;
    if (real_rename(from, to) != 0) return -1;
    note_op(m, OP_RENAME, name_in(m, from), name_in(m, to), trash);
    return 0;
}

OVER int link(const char *from, const char *to)
{
    struct machine *m = mine();
    if (!m || !in_folder(m, to)) return real_link(from, to);
    on_call("link");
    if (real_link(from, to) != 0) return -1;
    note_op(m, OP_LINK, name_in(m, from), name_in(m, to), 0);
    return 0;
}

/* ---- stat ---- */

static int told(int rc, struct stat *st)
{
    struct machine *m = mine();
    struct file *f = m && rc == 0 ? file_by_ino(m, st->st_ino) : NULL;
    if (!f) return rc;
    st->st_ino = f->number;
    st->st_dev = 1;
    st->st_mtim = (struct timespec){f->mtime_ns / 1000000000, f->mtime_ns % 1000000000};
    st->st_ctim = (struct timespec){f->ctime_ns / 1000000000, f->ctime_ns % 1000000000};
    return rc;
}

OVER int stat(const char *restrict path, struct stat *restrict st)
{
    return told(real_stat(path, st), st);
}

OVER int lstat(const char *restrict path, struct stat *restrict st)
{
    return told(real_lstat(path, st), st);
}

OVER int fstat(int fd, struct stat *st)
{
    return told(real_fstat(fd, st), st);
}

/* The two are the same on 64-bit Linux. */
OVER int stat64(const char *restrict path, struct stat64 *restrict st)
{
    return stat(path, (struct stat *)(void *)st);
}

OVER int lstat64(const char *restrict path, struct stat64 *restrict st)
{
    return lstat(path, (struct stat *)(void *)st);
}

OVER int fstat64(int fd, struct stat64 *st)
{
    return fstat(fd, (struct stat *)(void *)st);
}

OVER int utimensat(int folder, const char *path, const struct timespec t[2], int flags)
{
    struct machine *m = mine();
    struct stat st;
    if (!m || folder != AT_FDCWD || real_stat(path, &st) != 0) {
        errno = ENOENT;
        return -1;
    }
    (void)flags;
    struct file *f = file_by_ino(m, st.st_ino);
    if (!f) return -1;
    on_call("utimensat");
    f->ctime_ns = wall_ns(m) / TICK_NS * TICK_NS;
    f->mtime_ns = (int64_t)t[1].tv_sec * 1000000000 + t[1].tv_nsec;
    return 0;
}

void disk_prepare(void)
{
    memset(of_fd, 0, sizeof of_fd);
    memset(mapping, 0, sizeof mapping);
}
