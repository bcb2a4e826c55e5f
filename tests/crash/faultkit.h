/* faultkit.h - every malloc and every system call of this program, r2vfs's and SQLite's, in our
 * hands: the n-th fails, or all from the n-th on.
 *
 * A definition in the program comes before the library's, for shared libraries too: SQLite's fsync
 * and fdopendir's malloc come here as well. Calls are counted while a fault is armed, in all
 * threads. What is never made to fail: unlocking, unmapping, getting the time. */
#ifndef FAULTKIT_H
#define FAULTKIT_H

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAULT_SANITIZED 1
#else
#define FAULT_SANITIZED 0
#endif

/* Called before a sanitizer is ready. */
#define RAW  __attribute__((no_sanitize("address", "undefined", "thread")))
#define OURS __attribute__((visibility("default"))) RAW

enum fault_kind {
    MEMORY, /* malloc, calloc, realloc: no memory */
    BROKEN, /* any call: EIO */
    FULL,   /* what needs room: ENOSPC, after a write that got half way */
    DENIED, /* names: EACCES */
    SHORT,  /* reads and writes: half of it, without an error */
    FAULT_KINDS
};
enum fault_class {
    C_MEMORY = 1,
    C_READ = 2,
    C_WRITE = 4,
    C_SYNC = 8,
    C_NAME = 16,   /* a name in a folder changes or is looked for */
    C_CREATE = 32, /* ... and needs room */
    C_LOCK = 64,
    C_CLOSE = 128,
    C_BYTES = 256 /* may come short */
};

static struct {
    _Atomic bool armed;
    enum fault_kind kind;
    bool onward;
    long nth;
    _Atomic long seen, hits;
    const char *_Atomic first; /* the call that failed first */
    _Atomic bool halved;       /* the short write of a full disk has been made */
} fault;

static _Atomic long fault_live; /* blocks of memory in use */

static inline void fault_arm(enum fault_kind kind, long nth, bool onward)
{
    fault.kind = kind, fault.nth = nth, fault.onward = onward;
    fault.seen = fault.hits = 0;
    fault.first = NULL;
    fault.halved = false;
    fault.armed = nth > 0;
}

static inline bool fault_disarm(void)
{
    fault.armed = false;
    return fault.hits > 0;
}

/* For a debugger: break fault_hit, then bt. */
static RAW __attribute__((noinline)) void fault_hit(const char *name)
{
    const char *none = NULL;
    atomic_compare_exchange_strong(&fault.first, &none, name);
}

static void (*fault_watch)(void); /* called before each system call, if it is set */

static _Thread_local bool fault_spared; /* inside what a sanitizer does for itself */

/* Does this call fail? Then errno says how. */
static RAW bool fault_now(int class, const char *name)
{
    static const int hit_by[FAULT_KINDS] = {
        [MEMORY] = C_MEMORY,
        [BROKEN] = C_READ | C_WRITE | C_SYNC | C_NAME | C_CREATE | C_LOCK | C_CLOSE,
        [FULL] = C_WRITE | C_CREATE,
        [DENIED] = C_NAME | C_CREATE,
        [SHORT] = C_BYTES,
    };
    static const int says[FAULT_KINDS] = {
        [MEMORY] = ENOMEM, [BROKEN] = EIO, [FULL] = ENOSPC, [DENIED] = EACCES};
    if (fault_watch && class != C_MEMORY) fault_watch();
    if (!atomic_load(&fault.armed) || fault_spared || !(class & hit_by[fault.kind])) return false;
    long n = atomic_fetch_add(&fault.seen, 1) + 1;
    if (n != fault.nth && !(fault.onward && n > fault.nth)) return false;
    atomic_fetch_add(&fault.hits, 1);
    fault_hit(name);
    errno = says[fault.kind];
    return true;
}

/* ---- memory ---- */

#if FAULT_SANITIZED
extern void *__interceptor_malloc(size_t n);
extern void *__interceptor_calloc(size_t k, size_t n);
extern void *__interceptor_realloc(void *p, size_t n);
extern void __interceptor_free(void *p);
#define REAL(fn) __interceptor_##fn
#else
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t k, size_t n);
extern void *__libc_realloc(void *p, size_t n);
extern void __libc_free(void *p);
#define REAL(fn) __libc_##fn
#endif

OURS void *malloc(size_t n)
{
    void *p = fault_now(C_MEMORY, "malloc") ? NULL : REAL(malloc)(n);
    if (p) atomic_fetch_add(&fault_live, 1);
    return p;
}

OURS void *calloc(size_t k, size_t n)
{
    void *p = fault_now(C_MEMORY, "calloc") ? NULL : REAL(calloc)(k, n);
    if (p) atomic_fetch_add(&fault_live, 1);
    return p;
}

OURS void *realloc(void *old, size_t n)
{
    if (fault_now(C_MEMORY, "realloc")) return NULL;
    bool had = old != NULL;
    void *p = REAL(realloc)(old, n);
    if (p && !had) atomic_fetch_add(&fault_live, 1);
    if (!p && had && n == 0) atomic_fetch_sub(&fault_live, 1);
    return p;
}

OURS void free(void *p)
{
    if (p) atomic_fetch_sub(&fault_live, 1);
    REAL(free)(p);
}

/* ---- system calls ---- */

/* The library's own function; looked up once, which needs no memory. */
#define NEXT(name)                                                                                 \
    static _Atomic uintptr_t found_;                                                               \
    if (!found_) found_ = (uintptr_t)dlsym(RTLD_NEXT, #name);                                      \
    __typeof__(name) *real_ = (__typeof__(name) *)found_

#if FAULT_SANITIZED
/* How a sanitizer finds the stack of a thread that begins; without memory it gives up. */
OURS int pthread_getattr_np(pthread_t thread, pthread_attr_t *to)
{
    NEXT(pthread_getattr_np);
    fault_spared = true;
    int rc = real_(thread, to);
    fault_spared = false;
    return rc;
}
#endif

static inline RAW size_t fault_half(size_t n)
{
    return n > 1 ? n / 2 : n;
}

#define READER(name, off_type)                                                                     \
    OURS ssize_t name(int fd, void *to, size_t n, off_type at)                                     \
    {                                                                                              \
        NEXT(name);                                                                                \
        bool hit = fault_now(C_READ | C_BYTES, #name);                                             \
        if (hit && fault.kind != SHORT) return -1;                                                 \
        return real_(fd, to, hit ? fault_half(n) : n, at);                                         \
    }
READER(pread, off_t)
READER(pread64, off64_t)

OURS ssize_t read(int fd, void *to, size_t n)
{
    NEXT(read);
    bool hit = fault_now(C_READ | C_BYTES, "read");
    if (hit && fault.kind != SHORT) return -1;
    return real_(fd, to, hit ? fault_half(n) : n);
}

/* A disk that gets full takes a part first. */
static inline RAW bool fault_is_short(size_t n)
{
    bool not_yet = false;
    if (fault.kind == SHORT) return true;
    return fault.kind == FULL && n > 1 && fault.onward &&
           atomic_compare_exchange_strong(&fault.halved, &not_yet, true);
}

#define WRITER(name, off_type)                                                                     \
    OURS ssize_t name(int fd, const void *from, size_t n, off_type at)                             \
    {                                                                                              \
        NEXT(name);                                                                                \
        if (!fault_now(C_WRITE | C_BYTES, #name)) return real_(fd, from, n, at);                   \
        return fault_is_short(n) ? real_(fd, from, fault_half(n), at) : -1;                        \
    }
WRITER(pwrite, off_t)
WRITER(pwrite64, off64_t)

OURS ssize_t write(int fd, const void *from, size_t n)
{
    NEXT(write);
    if (fd <= 2 || !fault_now(C_WRITE | C_BYTES, "write")) return real_(fd, from, n);
    return fault_is_short(n) ? real_(fd, from, fault_half(n)) : -1;
}

/* One argument list, one class; -1 and errno. */
#define CALL(class, type, name, params, args)                                                      \
    OURS type name params                                                                          \
    {                                                                                              \
        NEXT(name);                                                                                \
        return fault_now(class, #name) ? -1 : real_ args;                                          \
    }
CALL(C_WRITE, int, ftruncate, (int fd, off_t n), (fd, n))
CALL(C_WRITE, int, ftruncate64, (int fd, off64_t n), (fd, n))
CALL(C_WRITE, int, futimens, (int fd, const struct timespec t[2]), (fd, t))
CALL(C_WRITE, int, utimensat, (int fd, const char *p, const struct timespec t[2], int f),
     (fd, p, t, f))
CALL(C_NAME, int, fchmod, (int fd, mode_t mode), (fd, mode))
CALL(C_SYNC, int, fsync, (int fd), (fd))
CALL(C_SYNC, int, fdatasync, (int fd), (fd))
CALL(C_SYNC, int, msync, (void *at, size_t n, int flags), (at, n, flags))
CALL(C_NAME, int, unlink, (const char *path), (path))
CALL(C_CREATE, int, rename, (const char *from, const char *to), (from, to))
CALL(C_CREATE, int, link, (const char *from, const char *to), (from, to))
CALL(C_CREATE, int, mkdir, (const char *path, mode_t mode), (path, mode))
CALL(C_READ, int, stat, (const char *path, struct stat *st), (path, st))
CALL(C_READ, int, lstat, (const char *path, struct stat *st), (path, st))
CALL(C_READ, int, fstat, (int fd, struct stat *st), (fd, st))
CALL(C_READ, int, stat64, (const char *path, struct stat64 *st), (path, st))
CALL(C_READ, int, lstat64, (const char *path, struct stat64 *st), (path, st))
CALL(C_READ, int, fstat64, (int fd, struct stat64 *st), (fd, st))
CALL(C_READ, int, access, (const char *path, int mode), (path, mode))

OURS int posix_fallocate(int fd, off_t at, off_t n)
{
    NEXT(posix_fallocate);
    return fault_now(C_WRITE, "posix_fallocate") ? errno : real_(fd, at, n);
}

OURS int close(int fd)
{
    NEXT(close);
    int rc = real_(fd);
    return fault_now(C_CLOSE, "close") ? -1 : rc;
}

OURS DIR *opendir(const char *path)
{
    NEXT(opendir);
    return fault_now(C_READ, "opendir") ? NULL : real_(path);
}

#define OPENER(name)                                                                               \
    OURS int name(const char *path, int flags, ...)                                                \
    {                                                                                              \
        NEXT(name);                                                                                \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;                                    \
        va_end(ap);                                                                                \
        return fault_now(flags & O_CREAT ? C_CREATE : C_NAME, #name) ? -1                          \
                                                                     : real_(path, flags, mode);   \
    }
OPENER(open)
OPENER(open64)

#define MAPPER(name, off_type)                                                                     \
    OURS void *name(void *at, size_t n, int prot, int flags, int fd, off_type off)                 \
    {                                                                                              \
        NEXT(name);                                                                                \
        if (fd >= 0 && fault_now(C_READ, #name)) return MAP_FAILED;                                \
        return real_(at, n, prot, flags, fd, off);                                                 \
    }
#if !FAULT_SANITIZED /* a sanitizer's runtime maps before anything can be looked up */
MAPPER(mmap, off_t)
MAPPER(mmap64, off64_t)
#endif

/* Locks: taking one may fail, giving it back may not. */
#define LOCKER(name)                                                                               \
    OURS int name(int fd, int what, ...)                                                           \
    {                                                                                              \
        NEXT(name);                                                                                \
        va_list ap;                                                                                \
        va_start(ap, what);                                                                        \
        void *arg = va_arg(ap, void *);                                                            \
        va_end(ap);                                                                                \
        bool takes = (what == F_SETLK || what == F_SETLKW || what == F_OFD_SETLK) &&               \
                     ((struct flock *)arg)->l_type != F_UNLCK;                                     \
        bool asks = what == F_GETLK || what == F_OFD_GETLK;                                        \
        if ((takes || asks) && fault_now(C_LOCK, #name)) return -1;                                \
        return real_(fd, what, arg);                                                               \
    }
LOCKER(fcntl)
LOCKER(fcntl64)

#endif
