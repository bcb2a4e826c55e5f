/* shim_past.c - a main database that shows an earlier version: a file without a name, read-only.
 *
 * It is opened under the path of the database that it is an earlier version of, and SQLite derives
 * the names of journal and -wal from that path. Those belong to the database itself, which may be
 * open beside it. SQLITE_IOCAP_IMMUTABLE keeps SQLite off them: such a file is never locked, has no
 * hot journal, no -wal, and is not written (it is what immutable=1 in a URI does). */
#include "shim_past.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "os.h"
#include "shim.h"
#include "travel.h"

SQLITE_EXTENSION_INIT3

struct past_file {
    sqlite3_file base; /* must be first: SQLite's view */
    int fd;
    uint64_t size;
    uint64_t version;
    char *url;
};
_Static_assert(sizeof(struct past_file) <= sizeof(struct r2_file), "it takes its place");

static struct past_file *file_of(sqlite3_file *f)
{
    return (struct past_file *)(void *)f;
}

static int past_close(sqlite3_file *f)
{
    struct past_file *p = file_of(f);
    r2_os.close(p->fd);
    sqlite3_free(p->url);
    return SQLITE_OK;
}

static int past_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at)
{
    struct past_file *p = file_of(f);
    char *out = to;
    int done = 0;
    while (done < n) {
        ssize_t got = r2_os.pread(p->fd, out + done, (size_t)(n - done), (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return SQLITE_IOERR_READ;
        if (got == 0) break;
        done += (int)got;
    }
    if (done == n) return SQLITE_OK;
    memset(out + done, 0, (size_t)(n - done));
    return SQLITE_IOERR_SHORT_READ;
}

static int past_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at)
{
    (void)f, (void)from, (void)n, (void)at;
    return SQLITE_READONLY;
}

static int past_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    (void)f, (void)size;
    return SQLITE_READONLY;
}

static int past_sync(sqlite3_file *f, int flags)
{
    (void)f, (void)flags;
    return SQLITE_OK;
}

static int past_file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    *size = (sqlite3_int64)file_of(f)->size;
    return SQLITE_OK;
}

static int past_lock(sqlite3_file *f, int level)
{
    (void)f, (void)level;
    return SQLITE_OK;
}

static int past_check_reserved(sqlite3_file *f, int *out)
{
    (void)f;
    *out = 0;
    return SQLITE_OK;
}

static int pragma(char **args)
{
    char text[R2_ERR_TEXT];
    if (!args[1] || sqlite3_stricmp(args[1], "r2_last_error") != 0) return SQLITE_NOTFOUND;
    r2_replica_last_error(NULL, text, sizeof text);
    args[0] = sqlite3_mprintf("%s", text);
    return args[0] ? SQLITE_OK : SQLITE_NOMEM;
}

static int past_control(sqlite3_file *f, int op, void *arg)
{
    if (op == SQLITE_FCNTL_PRAGMA) return pragma(arg);
    if (op != SQLITE_FCNTL_VFSNAME) return SQLITE_NOTFOUND;
    char **name = arg;
    *name = sqlite3_mprintf("r2vfs/version %llu", (unsigned long long)file_of(f)->version);
    return SQLITE_OK;
}

static int past_sector_size(sqlite3_file *f)
{
    (void)f;
    return 0; /* SQLite's default */
}

static int past_device(sqlite3_file *f)
{
    (void)f;
    return SQLITE_IOCAP_IMMUTABLE;
}

static const sqlite3_io_methods past_methods = {
    .iVersion = 1, /* no shared memory, no mmap */
    .xClose = past_close,
    .xRead = past_read,
    .xWrite = past_write,
    .xTruncate = past_truncate,
    .xSync = past_sync,
    .xFileSize = past_file_size,
    .xLock = past_lock,
    .xUnlock = past_lock,
    .xCheckReservedLock = past_check_reserved,
    .xFileControl = past_control,
    .xSectorSize = past_sector_size,
    .xDeviceCharacteristics = past_device,
};

enum r2_code r2_shim_open_past(const char *name, const struct r2_config *config, sqlite3_file *f,
                               int flags, int *out_flags, struct r2_err *e)
{
    struct past_file *p = file_of(f);
    memset(p, 0, sizeof *p);
    const char *cache = sqlite3_uri_parameter(name, "cache");
    if (cache && strcmp(cache, "shared") == 0) return r2_fail(e, R2_CONFIG, R2_PAST_SHARED);
    p->url = sqlite3_mprintf("%s", config->url);
    if (!p->url) return r2_fail(e, R2_NOMEM, "out of memory");
    enum r2_code rc = r2_travel(name, config, &p->fd, &p->size, &p->version, e);
    if (rc) {
        sqlite3_free(p->url);
        return rc;
    }
    p->base.pMethods = &past_methods;
    if (out_flags)
        *out_flags = (flags & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) | SQLITE_OPEN_READONLY;
    return R2_OK;
}

bool r2_shim_shows_past(sqlite3 *db, const char *schema, uint64_t *version, const char **url)
{
    sqlite3_file *f = NULL;
    if (sqlite3_file_control(db, schema, SQLITE_FCNTL_FILE_POINTER, &f) != SQLITE_OK) return false;
    if (!f || f->pMethods != &past_methods) return false;
    *version = file_of(f)->version;
    *url = file_of(f)->url;
    return true;
}
