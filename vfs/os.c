/* os.c - see os.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os.h"
#include "buf.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static int real_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags | O_CLOEXEC, mode);
}

struct r2_os r2_os = {
    .open = real_open,
    .close = close,
    .pread = pread,
    .pwrite = pwrite,
    .ftruncate = ftruncate,
#ifdef __APPLE__
    .fdatasync = fsync,
#else
    .fdatasync = fdatasync,
#endif
    .unlink = unlink,
    .rename = rename,
    .link = link,
    .mkdir = mkdir,
    .mmap = mmap,
};

enum r2_code r2_read_at(int fd, void *to, size_t n, uint64_t at, struct r2_err *e)
{
    char *p = to;
    while (n) {
        ssize_t got = r2_os.pread(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return r2_fail_errno(e, errno, "read at byte %llu", (unsigned long long)at);
        if (got == 0)
            return r2_fail(e, R2_IO, "the file ends at byte %llu", (unsigned long long)at);
        p += got, n -= (size_t)got, at += (uint64_t)got;
    }
    return R2_OK;
}

enum r2_code r2_write_at(int fd, const void *from, size_t n, uint64_t at, struct r2_err *e)
{
    const char *p = from;
    while (n) {
        ssize_t put = r2_os.pwrite(fd, p, n, (off_t)at);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return r2_fail_errno(e, errno, "write at byte %llu", (unsigned long long)at);
        p += put, n -= (size_t)put, at += (uint64_t)put;
    }
    return R2_OK;
}

enum r2_code r2_sync_fd(int fd, const char *path, struct r2_err *e)
{
    if (r2_os.fdatasync(fd) == 0) return R2_OK;
    return r2_fail_errno(e, errno, "fsync %s", path);
}

enum r2_code r2_sync_folder_of(const char *path, struct r2_err *e)
{
    char folder[PATH_MAX];
    if (!r2_strcpy(folder, sizeof folder, path)) return r2_fail(e, R2_IO, "path too long");
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    int fd = r2_os.open(slash ? folder : ".", O_RDONLY, 0);
    if (fd < 0) return r2_fail_errno(e, errno, "open folder %s", folder);
    int rc = fsync(fd), err = errno;
    r2_os.close(fd);
    /* some file systems cannot sync a folder, and need not */
    if (rc != 0 && err != EINVAL && err != ENOTSUP && err != EBADF)
        return r2_fail_errno(e, err, "fsync folder %s", folder);
    return R2_OK;
}

enum r2_code r2_sync_journal_of(const char *path, struct r2_err *e)
{
    char journal[PATH_MAX];
    if (strlen(path) + sizeof "-journal" > sizeof journal)
        return r2_fail(e, R2_IO, "path too long: %s", path);
    snprintf(journal, sizeof journal, "%s-journal", path);
    int fd = r2_os.open(journal, O_RDONLY, 0);
    if (fd < 0 && errno != ENOENT) return r2_fail_errno(e, errno, "open %s", journal);
    enum r2_code rc = fd < 0 ? R2_OK : r2_sync_fd(fd, journal, e);
    if (fd >= 0) r2_os.close(fd);
    return rc ? rc : r2_sync_folder_of(path, e);
}

enum r2_code r2_make_folders_above(const char *path, struct r2_err *e)
{
    char part[PATH_MAX];
    if (!r2_strcpy(part, sizeof part, path)) return r2_fail(e, R2_IO, "path too long: %s", path);
    for (char *p = part + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        if (r2_os.mkdir(part, 0777) != 0 && errno != EEXIST) {
            struct stat st;
            int err = errno;
            if (stat(part, &st) != 0) return r2_fail_errno(e, err, "create folder %s", part);
        }
        *p = '/';
    }
    return R2_OK;
}

#ifdef F_OFD_SETLK
#define SETLK F_OFD_SETLK
#else
#define SETLK F_SETLK
#endif

bool r2_lock_byte(int fd, off_t byte, bool exclusive, int64_t wait_ms)
{
    int64_t until = r2_boot_ms() + wait_ms;
    for (int64_t pause = 1;;) {
        struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK,
                             .l_whence = SEEK_SET,
                             .l_start = byte,
                             .l_len = 1};
        if (fcntl(fd, SETLK, &lock) == 0) return true;
        if (errno != EAGAIN && errno != EACCES && errno != EINTR) return false;
        if (r2_boot_ms() >= until) return false;
        r2_sleep_ms(pause);
        if (pause < 10) pause++;
    }
}

void r2_unlock_byte(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    (void)fcntl(fd, SETLK, &lock);
}

int64_t r2_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t r2_boot_ms(void)
{
    struct timespec ts;
#ifdef CLOCK_BOOTTIME
    clock_gettime(CLOCK_BOOTTIME, &ts);
#else
    clock_gettime(CLOCK_MONOTONIC, &ts);
#endif
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void r2_sleep_ms(int64_t ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};
    while (ms > 0 && nanosleep(&ts, &ts) != 0 && errno == EINTR) {
    }
}

void r2_random(void *to, size_t n)
{
    char *p = to;
    while (n) {
        size_t some = n < 256 ? n : 256;
        if (getentropy(p, some) != 0) abort(); /* no randomness: no nonce can be trusted */
        p += some, n -= some;
    }
}

uint64_t r2_random64(void)
{
    uint64_t v = 0;
    while (!v)
        r2_random(&v, sizeof v);
    return v;
}

void r2_boot_id(uint8_t id[16])
{
    memset(id, 0, 16);
    char text[64] = "";
    int fd = r2_os.open("/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
    if (fd < 0) return;
    ssize_t n = r2_os.pread(fd, text, sizeof text - 1, 0);
    r2_os.close(fd);
    unsigned half = 0, at = 0;
    for (ssize_t i = 0; i < n && at < 16; i++) {
        char c = text[i];
        unsigned d = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                     : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                                            : 16;
        if (d == 16) continue;
        if (half)
            id[at] = (uint8_t)(id[at] | d), at++;
        else
            id[at] = (uint8_t)(d << 4);
        half = !half;
    }
}

unsigned r2_forks;
static pthread_once_t forks_once = PTHREAD_ONCE_INIT;

/* Locks that guard short work on plain data: another thread may have held one when we were forked.
 */
enum { RESETS_MAX = 8 };
static pthread_mutex_t *resets[RESETS_MAX];
static unsigned reset_count;

static void in_child(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    r2_forks++;
    for (unsigned k = 0; k < reset_count; k++)
        memcpy(resets[k], &fresh, sizeof fresh);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

void r2_fork_reset(pthread_mutex_t *m)
{
    if (reset_count == RESETS_MAX) abort(); /* a constant of this program, not an input */
    resets[reset_count++] = m;
    (void)r2_fork_count();
}

unsigned r2_fork_count(void)
{
    pthread_once(&forks_once, watch_forks);
    return r2_forks;
}

void r2_quiet_begin(struct r2_quiet *q)
{
    sigset_t pipe_only, pending;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigpending(&pending);
    q->was_pending = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_only, &q->old);
}

void r2_quiet_end(struct r2_quiet *q)
{
#ifndef __APPLE__ /* there sockets can be told not to raise it, and curl does */
    const struct timespec at_once = {0, 0};
    sigset_t pipe_only;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    if (!q->was_pending) (void)sigtimedwait(&pipe_only, NULL, &at_once);
#endif
    pthread_sigmask(SIG_SETMASK, &q->old, NULL);
}
