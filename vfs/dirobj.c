/* dirobj.c - see dirobj.h. */
#include "dirobj.h"
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void close_fd(int *fd)
{
    if (*fd >= 0) r2_os.close(*fd);
    *fd = -1;
}

/* ---- failures ---- */

enum r2_code r2_dir_failed(struct r2_dir_job *j)
{
    switch (j->err.code) {
    case R2_READONLY:
        j->err.code = R2_DENIED;
        r2_advise(&j->err, "; check owner and permissions there (also of the hidden " R2_DIR_SIDE
                           " folder)");
        break;
    case R2_FULL:
        r2_advise(&j->err, "; free some space there; nothing was changed");
        break;
    case R2_IO:
        j->err.code = R2_UNREACHABLE;
        break;
    default:
        break;
    }
    return j->err.code;
}

enum r2_code r2_dir_failed_sys(struct r2_dir_job *j, int err, const char *doing, const char *path)
{
    if (err == ELOOP)
        return r2_fail(&j->err, R2_REFUSED, "%s is a symbolic link; name the file itself", path);
    if (err == ENOTDIR)
        return r2_fail(&j->err, R2_REFUSED, "%s %s: a part of the path is a file, not a folder",
                       doing, path);
    r2_fail_errno(&j->err, err, "%s %s", doing, path);
    return r2_dir_failed(j);
}

bool r2_dir_is_late(const struct r2_dir_job *j)
{
    return r2_boot_ms() >= j->call->deadline_ms;
}

enum r2_code r2_dir_late(struct r2_dir_job *j)
{
    return r2_fail(&j->err, R2_UNREACHABLE,
                   "time ran out for %s of file:///%s; nothing was changed there", j->row.method,
                   j->key);
}

/* ---- the lock ---- */

#ifndef F_OFD_SETLK
/* Locks of this system belong to the process: threads need one more. */
static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;
#define THREADS_LOCK()   pthread_mutex_lock(&threads)
#define THREADS_UNLOCK() pthread_mutex_unlock(&threads)
#else
#define THREADS_LOCK()   ((void)0)
#define THREADS_UNLOCK() ((void)0)
#endif

enum r2_code r2_dir_lock(struct r2_dir_job *j, bool exclusive)
{
    char path[R2_KEY_BYTES + 64];
    snprintf(path, sizeof path, "%s/lock", j->side);
    int flags = O_NOFOLLOW | O_NONBLOCK | (exclusive ? O_RDWR | O_CREAT : O_RDONLY);
    int fd = r2_os.open(path, flags, 0666);
    if (fd < 0 && !exclusive) return R2_OK; /* no writer was ever here, or we may not look */
    if (fd < 0) return r2_dir_failed_sys(j, errno, "open", path);
    THREADS_LOCK();
    int64_t wait = j->call->deadline_ms - r2_boot_ms();
    if (!r2_lock_byte(fd, 0, exclusive, wait > 0 ? wait : 0)) {
        THREADS_UNLOCK();
        r2_os.close(fd);
        return r2_fail(&j->err, R2_UNREACHABLE,
                       "%s could not be locked in time: another process holds it; nothing was "
                       "changed",
                       path);
    }
    j->lock_fd = fd;
    return R2_OK;
}

/* Unlocks by call, not only by close: a child forked meanwhile has the descriptor too. */
void r2_dir_unlock(struct r2_dir_job *j)
{
    if (j->lock_fd < 0) return;
    r2_unlock_byte(j->lock_fd, 0);
    close_fd(&j->lock_fd);
    THREADS_UNLOCK();
}

/* ---- begin and end of a call ---- */

enum r2_code r2_dir_check_key(struct r2_dir_job *j, const char *key, bool prefix)
{
    const char *wrong = NULL;
    size_t n = strlen(key), part = 0;
    if (n >= R2_KEY_BYTES) wrong = "it is too long";
    if (n == 0 && !prefix) wrong = "it is empty";
    for (size_t i = 0; i <= n && !wrong; i++) {
        unsigned char c = (unsigned char)key[i];
        if (c != '/' && c) {
            part++;
            if (c < 32 || c == 127) wrong = "it has control characters";
            if (part > DIR_NAME_MAX) wrong = "a name in it has more than 240 bytes";
            continue;
        }
        const char *at = key + i - part;
        if (!part && !(prefix && !c))
            wrong = "it has an empty part (two '/' in a row, or at an end)";
        if ((part == 1 && at[0] == '.') || (part == 2 && memcmp(at, "..", 2) == 0))
            wrong = "it has a part \".\" or \"..\"";
        if (part == strlen(R2_DIR_SIDE) && memcmp(at, R2_DIR_SIDE, part) == 0)
            wrong = "it has a part \"" R2_DIR_SIDE "\", which is the store's own folder";
        part = 0;
    }
    if (!wrong) return R2_OK;
    return r2_fail(&j->err, R2_REFUSED, "this is no key for a file:// remote, %s: %.*s", wrong, 200,
                   key);
}

struct r2_dir_job *r2_dir_job(struct r2_call *call, const char *method, const char *key)
{
    struct r2_dir_job *j = calloc(1, sizeof *j);
    if (!j) {
        r2_fail(call->err, R2_NOMEM, "out of memory");
        return NULL;
    }
    j->call = call, j->key = key;
    j->fd = j->temp_fd = j->lock_fd = -1;
    j->began_ms = r2_boot_ms();
    j->row.time_ms = call->signed_ms = r2_now_ms();
    call->took_ms = 0;
    r2_strcpy(j->row.method, sizeof j->row.method, method);
    r2_strcpy(j->row.key, sizeof j->row.key, key);
    return j;
}

enum r2_code r2_dir_paths(struct r2_dir_job *j)
{
    enum r2_code code = r2_dir_check_key(j, j->key, false);
    if (code) return code;
    const char *slash = strrchr(j->key, '/');
    int folder = slash ? (int)(slash - j->key) : 0;
    snprintf(j->body, sizeof j->body, "/%s", j->key);
    snprintf(j->side, sizeof j->side, "/%.*s%s" R2_DIR_SIDE, folder, j->key, slash ? "/" : "");
    snprintf(j->meta, sizeof j->meta, "%s/%s.meta", j->side, slash ? slash + 1 : j->key);
    return R2_OK;
}

/* What S3 would have answered. */
static int http_status(enum r2_code code, const char *method)
{
    switch (code) {
    case R2_OK:
        return strcmp(method, "DELETE") == 0 ? 204 : 200;
    case R2_MISSING:
        return 404;
    case R2_PRECONDITION:
        return 412;
    case R2_DENIED:
        return 403;
    case R2_REFUSED:
        return 400;
    case R2_FULL:
        return 507;
    case R2_UNREACHABLE:
        return 503;
    default:
        return 500;
    }
}

enum r2_code r2_dir_gate(struct r2_dir_job *j, int64_t now_ms)
{
    struct r2_call call = *j->call;
    call.err = &j->err;
    if (!r2_store_stale(&call, now_ms)) return R2_OK;
    r2_wrap(&j->err, "%s of file:///%s", j->row.method, j->key);
    return R2_STALE;
}

void r2_dir_drop(struct r2_dir_job *j)
{
    r2_dir_unlock(j);
    close_fd(&j->fd);
    close_fd(&j->temp_fd);
    if (j->temp[0]) (void)r2_os.unlink(j->temp);
    free(j);
}

enum r2_code r2_dir_end(struct r2_dir_job *j, enum r2_code code)
{
    if (code && j->call->err) *j->call->err = j->err;
    j->call->took_ms = j->row.ms = r2_boot_ms() - j->began_ms;
    if (code == R2_STALE) {
        j->call->signed_ms = j->call->took_ms = 0;
    } else {
        j->row.status = http_status(code, j->row.method);
        j->row.bytes = j->up + j->down;
        r2_reqlog_count(j->call->traffic, &j->row, j->up, j->down);
    }
    r2_dir_drop(j);
    return code;
}

/* ---- bytes ---- */

static enum r2_code flow_chunk(struct r2_dir_job *j, const struct r2_dir_flow *f, uint64_t at,
                               size_t n, EVP_MD_CTX *md)
{
    const uint8_t *p = f->mem ? f->mem + at : j->chunk;
    if (!f->mem && r2_read_at(f->from, j->chunk, n, f->off + at, &j->err)) {
        r2_wrap(&j->err, f->upload ? "file:///%s: read what is to be sent" : "file:///%s", j->key);
        return f->upload ? j->err.code : r2_dir_failed(j);
    }
    if (EVP_DigestUpdate(md, p, n) != 1) return r2_fail(&j->err, R2_IO, "MD5 failed");
    if (f->buf && !r2_buf_add(f->buf, p, n))
        return r2_fail(&j->err, R2_REFUSED, "file:///%s is larger than is allowed here (%zu bytes)",
                       j->key, f->buf->max);
    if (f->to >= 0 && r2_write_at(f->to, p, n, f->to_off + at, &j->err)) {
        r2_wrap(&j->err, f->upload ? "file:///%s" : "file:///%s: store what was received", j->key);
        return f->upload ? r2_dir_failed(j) : j->err.code;
    }
    return R2_OK;
}

enum r2_code r2_dir_flow(struct r2_dir_job *j, const struct r2_dir_flow *f, char md5[33])
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    enum r2_code code = R2_OK;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    if (!md || EVP_DigestInit_ex(md, EVP_md5(), NULL) != 1)
        code = r2_fail(&j->err, R2_REFUSED, "this OpenSSL offers no MD5, which ETags need");
    for (uint64_t at = 0; !code && at < f->size;) {
        size_t n = f->size - at < DIR_CHUNK ? (size_t)(f->size - at) : DIR_CHUNK;
        code = r2_dir_is_late(j) ? r2_dir_late(j) : flow_chunk(j, f, at, n, md);
        at += n;
    }
    if (!code && EVP_DigestFinal_ex(md, sum, NULL) != 1)
        code = r2_fail(&j->err, R2_IO, "MD5 failed");
    if (!code) r2_hex16(sum, md5);
    EVP_MD_CTX_free(md);
    return code;
}

/* ---- looking at the object ---- */

enum r2_code r2_dir_open(struct r2_dir_job *j)
{
    close_fd(&j->fd);
    j->fd = r2_os.open(j->body, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (j->fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return r2_fail(&j->err, R2_MISSING, "there is no object file:///%s", j->key);
    if (j->fd < 0 && errno != ENXIO) return r2_dir_failed_sys(j, errno, "open", j->body);
    if (j->fd >= 0 && fstat(j->fd, &j->st) != 0)
        return r2_dir_failed_sys(j, errno, "stat", j->body);
    if (j->fd < 0 || !S_ISREG(j->st.st_mode))
        return r2_fail(&j->err, R2_REFUSED, "%s is %s, not a plain file; an object cannot be there",
                       j->body, j->fd >= 0 && S_ISDIR(j->st.st_mode) ? "a folder" : "special");
    return R2_OK;
}

static enum r2_code load_meta(struct r2_dir_job *j)
{
    size_t n = 0;
    j->m.n = 0;
    int fd = r2_os.open(j->meta, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return R2_OK;
    if (fd < 0) return r2_dir_failed_sys(j, errno, "open", j->meta);
    for (;;) {
        ssize_t got = r2_os.pread(fd, j->chunk + n, R2_DIRMETA_BYTES + 1 - n, (off_t)n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            int err = errno;
            r2_os.close(fd);
            return r2_dir_failed_sys(j, err, "read", j->meta);
        }
        n += (size_t)got;
        if (got == 0 || n > R2_DIRMETA_BYTES) break;
    }
    r2_os.close(fd);
    if (r2_dirmeta_parse((const char *)j->chunk, n, &j->m)) return R2_OK;
    j->m.n = 0;
    if (j->m.unchecked) return r2_fail(&j->err, R2_NOMEM, "out of memory");
    return r2_fail(&j->err, R2_CORRUPT,
                   "%s, which holds the metadata of %s, is damaged; restore it from a backup, or "
                   "remove it: then the file counts as a plain one without metadata",
                   j->meta, j->body);
}

/* The stat fields of a file, as an entry keeps them. */
void r2_dir_stat(struct r2_dirmeta_entry *e, const struct stat *st)
{
    e->ino = (uint64_t)st->st_ino;
    e->size = (uint64_t)st->st_size;
    e->mtime = (uint64_t)r2_mtime_ns(st);
    e->ctime = (uint64_t)r2_ctime_ns(st);
}

/* The open object's entry, by its stat fields only. */
static bool known(struct r2_dir_job *j)
{
    struct r2_dirmeta_entry file = {0};
    r2_dir_stat(&file, &j->st);
    for (unsigned i = 0; i < j->m.n; i++) {
        if (!r2_dirmeta_same(&j->m.at[i], &file)) continue;
        j->now = j->m.at[i];
        return true;
    }
    return false;
}

static enum r2_code look(struct r2_dir_job *j)
{
    enum r2_code code = r2_dir_open(j);
    return code ? code : load_meta(j);
}

/* The file is no other and was not touched between the two. */
bool r2_dir_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           r2_mtime_ns(a) == r2_mtime_ns(b) && r2_ctime_ns(a) == r2_ctime_ns(b);
}

/* By its bytes. R2_BUSY (internal): the file changed while it was read. */
static enum r2_code hash_body(struct r2_dir_job *j)
{
    struct stat after;
    memset(&j->now, 0, sizeof j->now);
    r2_dir_stat(&j->now, &j->st);
    struct r2_dir_flow f = {.from = j->fd, .size = j->now.size, .to = -1};
    enum r2_code code = r2_dir_flow(j, &f, j->now.md5);
    if (fstat(j->fd, &after) != 0) return r2_dir_failed_sys(j, errno, "stat", j->body);
    if (!r2_dir_same_file(&j->st, &after)) return R2_BUSY;
    if (code) return code;
    const struct r2_dirmeta_entry *e = r2_dirmeta_find(&j->m, &j->now);
    if (e) j->now.meta = e->meta;
    j->now.ctime = 0;
    return R2_OK;
}

/* The object may be what a put is just committing; its entry has no ctime yet. */
static bool is_committing(const struct r2_dir_job *j)
{
    struct r2_dirmeta_entry file = {0};
    r2_dir_stat(&file, &j->st);
    for (unsigned i = 0; j->m.n == 2 && i < 2; i++) {
        const struct r2_dirmeta_entry *e = &j->m.at[i];
        if (!e->ctime && e->ino == file.ino && e->size == file.size && e->mtime == file.mtime)
            return true;
    }
    return false;
}

/* Opens the object (j->fd) and finds its ETag and metadata (j->now), a pair that belongs together:
 * a sidecar has the new entry before the body has its name, and the old one until it has lost it.
 * So readers need no lock; they take it to let a commit end, rather than read the whole body. */
enum r2_code r2_dir_resolve(struct r2_dir_job *j)
{
    bool lock = false;
    for (int changed = 0; changed < 5;) {
        struct stat before = j->st, now;
        bool own = lock && j->lock_fd < 0;
        enum r2_code code = own ? r2_dir_lock(j, false) : R2_OK;
        if (!code) code = look(j);
        bool locked = j->lock_fd >= 0;
        if (own) r2_dir_unlock(j);
        if (code) return code;
        if (j->seen && r2_dir_same_file(&before, &j->st)) return R2_OK;
        j->seen = known(j);
        if (j->seen) return R2_OK;
        if (!locked && !lock && is_committing(j)) {
            lock = true;
            continue;
        }
        if (!locked && (lstat(j->body, &now) != 0 || !r2_dir_same_file(&j->st, &now))) {
            if (r2_dir_is_late(j)) return r2_dir_late(j);
            lock = true; /* replaced between the two looks: not again */
            continue;
        }
        code = hash_body(j);
        j->seen = code == R2_OK;
        if (code != R2_BUSY) return code;
        changed++;
    }
    return r2_fail(&j->err, R2_UNREACHABLE,
                   "another program keeps changing %s while it is read; try again later", j->body);
}

void r2_dir_tell(const struct r2_dirmeta_entry *e, const struct stat *st, struct r2_object *out)
{
    if (!out) return;
    snprintf(out->etag, sizeof out->etag, "\"%s\"", e->md5);
    out->size = e->size;
    out->modified_ms = r2_mtime_ns(st) / 1000000;
    out->meta = e->meta;
}
