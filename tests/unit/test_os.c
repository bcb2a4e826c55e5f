/* test_os.c - whole reads and writes, folders, locks, clocks, randomness. */
#include "unit.h"

#include "../../vfs/os.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

static char top[256];
static struct r2_os real;
static struct r2_err err;

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(top, sizeof top, "%s/r2osXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(top)) abort();
    real = r2_os;
}

static void end(void)
{
    char line[300];
    r2_os = real;
    snprintf(line, sizeof line, "rm -rf '%s'", top);
    if (system(line) != 0) abort();
}

static const char *path_of(const char *name)
{
    static char path[2][600];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", top, name);
    return path[turn];
}

/* Every second call is interrupted, the others move three bytes at most. */
static int calls;

static ssize_t short_pread(int fd, void *to, size_t n, off_t at)
{
    if (++calls % 2) return errno = EINTR, -1;
    return real.pread(fd, to, n < 3 ? n : 3, at);
}

static ssize_t short_pwrite(int fd, const void *from, size_t n, off_t at)
{
    if (++calls % 2) return errno = EINTR, -1;
    return real.pwrite(fd, from, n < 3 ? n : 3, at);
}

static ssize_t full_pwrite(int fd, const void *from, size_t n, off_t at)
{
    (void)fd, (void)from, (void)n, (void)at;
    return errno = ENOSPC, -1;
}

static void reads_and_writes_are_whole(void)
{
    char back[32] = "";
    begin();
    int fd = r2_os.open(path_of("f"), O_RDWR | O_CREAT, 0600);
    CU_ASSERT_TRUE_FATAL(fd >= 0);
    CU_ASSERT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    r2_os.pread = short_pread, r2_os.pwrite = short_pwrite;
    CU_ASSERT_EQUAL(r2_write_at(fd, "0123456789abcdef", 16, 5, &err), R2_OK);
    CU_ASSERT_EQUAL(r2_read_at(fd, back, 16, 5, &err), R2_OK);
    CU_ASSERT_STRING_EQUAL(back, "0123456789abcdef");
    CU_ASSERT_EQUAL(r2_read_at(fd, back, 17, 5, &err), R2_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "ends at byte 21"));
    CU_ASSERT_EQUAL(r2_read_at(fd, back, 0, 999, &err), R2_OK);
    r2_os.pwrite = full_pwrite;
    CU_ASSERT_EQUAL(r2_write_at(fd, "x", 1, 0, &err), R2_FULL);
    r2_os = real;
    CU_ASSERT_EQUAL(r2_sync_fd(fd, "f", &err), R2_OK);
    CU_ASSERT_EQUAL(r2_sync_folder_of(path_of("f"), &err), R2_OK);
    r2_os.close(fd);
    CU_ASSERT_NOT_EQUAL(r2_sync_fd(fd, "f", &err), R2_OK);
    CU_ASSERT_NOT_EQUAL(r2_read_at(fd, back, 1, 0, &err), R2_OK);
    CU_ASSERT_NOT_EQUAL(r2_sync_folder_of(path_of("none/f"), &err), R2_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "none"));
    CU_ASSERT_EQUAL(r2_sync_folder_of("no-slash", &err), R2_OK); /* the current folder */
    CU_ASSERT_EQUAL(r2_sync_folder_of("/f", &err), R2_OK);
    end();
}

static void folders_are_made_above(void)
{
    struct stat st;
    char longer[8000];
    begin();
    CU_ASSERT_EQUAL(r2_make_folders_above(path_of("a/b/c/file"), &err), R2_OK);
    CU_ASSERT_EQUAL(r2_make_folders_above(path_of("a/b/c/file"), &err), R2_OK);
    CU_ASSERT_EQUAL(stat(path_of("a/b/c"), &st), 0);
    CU_ASSERT_TRUE(S_ISDIR(st.st_mode));
    CU_ASSERT_EQUAL(stat(path_of("a/b/c/file"), &st), -1);
    close(open(path_of("plain"), O_CREAT | O_WRONLY, 0600));
    CU_ASSERT_NOT_EQUAL(r2_make_folders_above(path_of("plain/x/y"), &err), R2_OK);
    memset(longer, 'x', sizeof longer);
    longer[0] = '/', longer[sizeof longer - 1] = 0;
    CU_ASSERT_EQUAL(r2_make_folders_above(longer, &err), R2_IO);
    CU_ASSERT_EQUAL(r2_sync_folder_of(longer, &err), R2_IO);
    end();
}

/* In another process: may byte 7 be locked? */
static bool other_can_lock(const char *path, bool exclusive)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        int fd = open(path, O_RDWR);
        _exit(fd >= 0 && r2_lock_byte(fd, 7, exclusive, 0) ? 0 : 1);
    }
    if (waitpid(pid, &status, 0) != pid) abort();
    return status == 0;
}

static void locks_exclude_descriptors_and_processes(void)
{
    begin();
    char path[600];
    snprintf(path, sizeof path, "%s", path_of("lock"));
    int a = open(path, O_RDWR | O_CREAT, 0600), b = open(path, O_RDWR);
    CU_ASSERT_TRUE(r2_lock_byte(a, 7, true, 0));
    CU_ASSERT_FALSE(r2_lock_byte(b, 7, true, 0));
    CU_ASSERT_FALSE(r2_lock_byte(b, 7, false, 5));
    CU_ASSERT_TRUE(r2_lock_byte(b, 8, true, 0)); /* another byte */
    CU_ASSERT_FALSE(other_can_lock(path, false));
    /* closing another descriptor of the file must not drop it (POSIX locks would) */
    close(open(path, O_RDWR));
    CU_ASSERT_FALSE(other_can_lock(path, true));
    r2_unlock_byte(a, 7);
    CU_ASSERT_TRUE(other_can_lock(path, true));
    CU_ASSERT_TRUE(r2_lock_byte(a, 7, false, 0)); /* shared with shared */
    CU_ASSERT_TRUE(r2_lock_byte(b, 7, false, 0));
    CU_ASSERT_TRUE(other_can_lock(path, false));
    CU_ASSERT_FALSE(other_can_lock(path, true));
    close(a), close(b);
    CU_ASSERT_TRUE(other_can_lock(path, true));
    CU_ASSERT_FALSE(r2_lock_byte(-1, 7, true, 1000000)); /* an error does not wait */
    end();
}

static void clocks_and_sleep(void)
{
    int64_t wall = r2_now_ms(), boot = r2_boot_ms();
    r2_sleep_ms(3);
    r2_sleep_ms(0);
    r2_sleep_ms(-5);
    CU_ASSERT_TRUE(r2_boot_ms() - boot >= 2); /* at least: whole ms are cut */
    CU_ASSERT_TRUE(wall > 1700000000000);     /* 2023: ms, not seconds */
}

static void randomness_differs(void)
{
    uint8_t a[600] = {0}, b[600] = {0}, zero[64] = {0};
    r2_random(a, sizeof a); /* more than the kernel gives at once */
    r2_random(b, sizeof b);
    CU_ASSERT_NOT_EQUAL(memcmp(a, b, sizeof a), 0);
    CU_ASSERT_NOT_EQUAL(memcmp(a + sizeof a - 64, zero, 64), 0);
    CU_ASSERT_NOT_EQUAL(r2_random64(), r2_random64());
    r2_random(unit_guarded(a, 257), 257);
}

static int no_open(const char *path, int flags, mode_t mode)
{
    (void)path, (void)flags, (void)mode;
    return errno = ENOENT, -1;
}

static void boot_id_is_stable(void)
{
    uint8_t a[16], b[16], zero[16] = {0};
    char text[64] = "", want[64] = "";
    size_t n = 0;
    begin();
    r2_boot_id(a);
    r2_boot_id(b);
    CU_ASSERT_EQUAL(memcmp(a, b, 16), 0);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f && fgets(text, sizeof text, f)) {
        for (const char *p = text; *p; p++)
            if (*p != '-' && *p != '\n') want[n++] = *p;
        for (size_t i = 0; i < 16; i++)
            snprintf(text + 2 * i, 3, "%02x", a[i]);
        CU_ASSERT_STRING_EQUAL(text, want);
    }
    if (f) fclose(f);
    r2_os.open = no_open;
    r2_boot_id(a);
    CU_ASSERT_EQUAL(memcmp(a, zero, 16), 0);
    end();
}

static void forks_are_counted(void)
{
    unsigned before = r2_fork_count();
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (r2_fork_count() != before + 1) _exit(1);
        pid_t inner = fork();
        if (inner == 0) _exit(r2_fork_count() == before + 2 ? 0 : 1);
        _exit(waitpid(inner, &status, 0) == inner && status == 0 ? 0 : 2);
    }
    CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
    CU_ASSERT_EQUAL(status, 0);
    CU_ASSERT_EQUAL(r2_fork_count(), before);
}

UNIT_MAIN("os", UNIT(reads_and_writes_are_whole), UNIT(folders_are_made_above),
          UNIT(locks_exclude_descriptors_and_processes), UNIT(clocks_and_sleep),
          UNIT(randomness_differs), UNIT(boot_id_is_stable), UNIT(forks_are_counted))
