/* os.h - system calls behind a table, so that tests can fail each of them in turn.
 *
 * Everything that r2vfs itself does to files, clocks and randomness goes through here. The database
 * file itself does not: it is only ever touched through SQLite's own VFS (POSIX locks: closing any
 * descriptor of it would drop SQLite's locks). */
#ifndef R2_OS_H
#define R2_OS_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "err.h"

struct r2_os {
    int (*open)(const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *to, size_t n, off_t at);
    ssize_t (*pwrite)(int fd, const void *from, size_t n, off_t at);
    int (*ftruncate)(int fd, off_t size);
    int (*fdatasync)(int fd);
    int (*unlink)(const char *path);
    int (*rename)(const char *from, const char *to);
    int (*link)(const char *from, const char *to);
    int (*mkdir)(const char *path, mode_t mode);
    void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t off);
};
extern struct r2_os r2_os; /* the real calls; a test may replace members */

/* Whole reads and writes: loop over EINTR and short counts. Read past the end is R2_IO. */
enum r2_code r2_read_at(int fd, void *to, size_t n, uint64_t at, struct r2_err *e);
enum r2_code r2_write_at(int fd, const void *from, size_t n, uint64_t at, struct r2_err *e);
/* fdatasync a file, fsync the folder that holds `path`. */
enum r2_code r2_sync_fd(int fd, const char *path, struct r2_err *e);
enum r2_code r2_sync_folder_of(const char *path, struct r2_err *e);
/* The end of the rollback journal of the database at `path`, as SQLite left it: removed, or empty,
 * or with a header of zeros. It syncs the last two only with synchronous=FULL, and what came back
 * after a power loss would be rolled back. */
enum r2_code r2_sync_journal_of(const char *path, struct r2_err *e);
/* mkdir -p of everything above the last '/' of `path`. */
enum r2_code r2_make_folders_above(const char *path, struct r2_err *e);

/* Lock one byte of a file for this open file description (OFD lock: not dropped when another
 * descriptor of the file is closed). Waits at most `wait_ms`; false on time-out or error. */
bool r2_lock_byte(int fd, off_t byte, bool exclusive, int64_t wait_ms);
void r2_unlock_byte(int fd, off_t byte);

int64_t r2_now_ms(void);  /* wall clock, ms since 1970 */
int64_t r2_boot_ms(void); /* CLOCK_BOOTTIME: goes on while the machine sleeps */
void r2_sleep_ms(int64_t ms);
void r2_random(void *to, size_t n);     /* from the kernel; never fails */
uint64_t r2_random64(void);             /* never 0 */
void r2_boot_id(uint8_t id[16]);        /* this boot of the machine; zeros when unknown */
void r2_fork_reset(pthread_mutex_t *m); /* a lock that a forked child shall find free */
unsigned r2_fork_count(void);           /* how many forks lie between the load and this process */
extern unsigned r2_forks;               /* the same, for who has called it before: read only */

/* Writing to a connection or pipe that is gone raises SIGPIPE, which would end the host program:
 * hold it back in this thread, and swallow one that we caused. */
struct r2_quiet {
    sigset_t old;
    bool was_pending;
};
void r2_quiet_begin(struct r2_quiet *q);
void r2_quiet_end(struct r2_quiet *q);

#endif
