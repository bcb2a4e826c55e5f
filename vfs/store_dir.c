/* store_dir.c - the directory store, file:///DIR/KEY: the key is the absolute path without its
 * first slash, the object is the plain file there, conditions and ETags (MD5) are as R2 has them.
 *
 *   <folder>/<name>               the object, byte for byte
 *   <folder>/.r2vfs/<name>.meta   its ETag and metadata (dirmeta.h)
 *   <folder>/.r2vfs/lock          byte 0 is locked while a put or delete is committed
 *   <folder>/.r2vfs/tmp/<16 hex>  bodies and sidecars on their way in
 *
 * A put: body into a temp file, synced; under the lock: condition checked, the body's mtime set,
 * sidecar with the new entry and the old one, synced; then the body is renamed to its name, which
 * is the commit; then the sidecar is written again with the new entry and its ctime. Cut anywhere,
 * the file at the name fits exactly one entry, by its bytes' MD5 where the stat fields do not tell.
 *
 * A body's mtime, which is the object's Last-Modified, is set a tenth of a second into the past, to
 * a nanosecond nobody else picks: a later write within the same tick of the file system's clock
 * changes it all the same. Who sets it by hand is believed. */
#include "store.h"
#include "dirlist.h"
#include "dirmeta.h"
#include "dirobj.h"
#include "os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A temp file this old is nobody's: no put takes longer. */
enum { DIR_LEFTOVER_MS = 3600 * 1000 };
/* How far a body's mtime lies in the past. File systems' clocks tick every 10 ms or faster. */
#define DIR_SHIFT_NS 100000000

static enum r2_code dir_head(struct r2_store *s, struct r2_call *call, const char *key,
                             struct r2_object *out)
{
    (void)s;
    struct r2_dir_job *j = r2_dir_job(call, "HEAD", key);
    if (!j) return R2_NOMEM;
    enum r2_code code = r2_dir_paths(j);
    if (!code) code = r2_dir_resolve(j);
    if (!code) r2_dir_tell(&j->now, &j->st, out);
    return r2_dir_end(j, code);
}

/* ---- get ---- */

static enum r2_code is_match(struct r2_dir_job *j, const char *etag)
{
    char quoted[40];
    snprintf(quoted, sizeof quoted, "\"%s\"", j->now.md5);
    if (strcmp(quoted, etag) == 0) return R2_OK;
    return r2_fail(&j->err, R2_PRECONDITION,
                   "file:///%s is not the object that was expected: its ETag is %s, not %.*s",
                   j->key, quoted, R2_ETAG_BYTES, etag);
}

/* Do the bytes that were read have the MD5 that they should? */
static enum r2_code is_sound(struct r2_dir_job *j, const char md5[33])
{
    struct stat after;
    if (strcmp(md5, j->now.md5) == 0) return R2_OK;
    if (fstat(j->fd, &after) != 0 || !r2_dir_same_file(&j->st, &after))
        return r2_fail(&j->err, R2_UNREACHABLE,
                       "another program changed %s while it was read; try again", j->body);
    return r2_fail(&j->err, R2_CORRUPT,
                   "the bytes of %s do not have the MD5 recorded in %s: the file was damaged; "
                   "restore it, or if it is right, remove the record",
                   j->body, j->meta);
}

static enum r2_code send_out(struct r2_dir_job *j, struct r2_sink *sink)
{
    char md5[33];
    struct r2_dir_flow f = {.from = j->fd,
                            .size = j->now.size,
                            .buf = sink->buf,
                            .to = sink->buf ? -1 : sink->fd,
                            .to_off = sink->off};
    enum r2_code code = r2_dir_flow(j, &f, md5);
    if (code) return code;
    j->down = f.size;
    return is_sound(j, md5);
}

static enum r2_code dir_get(struct r2_store *s, struct r2_call *call, const char *key,
                            const char *if_match, uint64_t expect_size, struct r2_sink *sink,
                            struct r2_object *out)
{
    (void)s, (void)expect_size; /* one open descriptor shows one object, however large */
    struct r2_dir_job *j = r2_dir_job(call, "GET", key);
    if (!j) return R2_NOMEM;
    size_t had = sink->buf ? sink->buf->len : 0;
    enum r2_code code = r2_dir_paths(j);
    if (!code) code = r2_dir_resolve(j);
    if (!code && if_match) code = is_match(j, if_match);
    if (!code) code = send_out(j, sink);
    if (!code && out) r2_dir_tell(&j->now, &j->st, out);
    if (code && sink->buf && sink->buf->at) sink->buf->len = had, sink->buf->at[had] = 0;
    return r2_dir_end(j, code);
}

/* ---- put ---- */

/* The store's own folders and all above, each durable before anything is put in it. */
static enum r2_code make_folders(struct r2_dir_job *j)
{
    char path[sizeof j->side + 8];
    snprintf(path, sizeof path, "%s/tmp/", j->side);
    for (char *p = path + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        struct r2_err ignored;
        struct stat st;
        bool made = r2_os.mkdir(path, 0777) == 0;
        int err = errno;
        if (!made && (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)))
            return r2_dir_failed_sys(j, err == EEXIST ? ENOTDIR : err, "create folder", path);
        /* one that another writer has just made may not be durable yet either */
        enum r2_code code = r2_sync_folder_of(path, made ? &j->err : &ignored);
        if (made && code) return r2_dir_failed(j);
        *p = '/';
    }
    return R2_OK;
}

/* A new file in the store's tmp folder: its name in `path`, its descriptor in *fd. */
static enum r2_code make_temp(struct r2_dir_job *j, char *path, size_t room, int *fd)
{
    for (int tries = 0;; tries++) {
        snprintf(path, room, "%s/tmp/%016llx", j->side, (unsigned long long)r2_random64());
        *fd = r2_os.open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
        if (*fd >= 0) return R2_OK;
        int err = errno;
        if (err == ENOENT && tries == 0) {
            enum r2_code code = make_folders(j);
            if (!code) continue;
            path[0] = 0;
            return code;
        }
        enum r2_code code = r2_dir_failed_sys(j, err, "create", path);
        path[0] = 0; /* nothing to remove */
        return code;
    }
}

/* Temp files of writers that were killed. */
static void sweep(struct r2_dir_job *j)
{
    char path[sizeof j->side + 32];
    snprintf(path, sizeof path, "%s/tmp", j->side);
    DIR *dir = opendir(path);
    struct dirent *d;
    while (dir && (d = readdir(dir)) != NULL) {
        struct stat st;
        uint64_t id;
        if (!r2_parse_hex64(d->d_name, 16, &id)) continue;
        if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (r2_now_ms() - r2_mtime_ns(&st) / 1000000 < DIR_LEFTOVER_MS) continue;
        snprintf(path, sizeof path, "%s/tmp/%016llx", j->side, (unsigned long long)id);
        (void)r2_os.unlink(path);
    }
    if (dir) closedir(dir);
}

/* The body into a temp file, durable. */
static enum r2_code stage_body(struct r2_dir_job *j, const struct r2_put *what)
{
    enum r2_code code = make_temp(j, j->temp, sizeof j->temp, &j->temp_fd);
    if (code) return code;
    struct r2_dir_flow f = {.upload = true,
                            .mem = what->body.mem,
                            .from = what->body.fd,
                            .off = what->body.off,
                            .size = what->body.size,
                            .to = j->temp_fd};
    code = r2_dir_flow(j, &f, j->made.md5);
    if (code) return code;
    j->up = f.size;
    if (j->seen && fchmod(j->temp_fd, j->st.st_mode & 0777) != 0)
        return r2_dir_failed_sys(j, errno, "chmod", j->temp);
    if (r2_sync_fd(j->temp_fd, j->temp, &j->err)) return r2_dir_failed(j);
    return R2_OK;
}

/* The time of the put, when its turn has come: whoever waited for the lock is not older for it.
 * j->made becomes the entry. Not synced: should the time get lost, the bytes still tell. */
static enum r2_code stamp_body(struct r2_dir_job *j, const struct r2_put *what)
{
    int64_t ns = r2_now_ms() * 1000000 - DIR_SHIFT_NS + (int64_t)(r2_random64() % 10000) * 100;
    struct timespec times[2] = {
        {.tv_nsec = UTIME_OMIT},
        {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)}};
    struct stat st;
    if (futimens(j->temp_fd, times) != 0)
        return r2_dir_failed_sys(j, errno, "set the time of", j->temp);
    if (fstat(j->temp_fd, &st) != 0) return r2_dir_failed_sys(j, errno, "stat", j->temp);
    r2_dir_stat(&j->made, &st);
    j->made.ctime = 0; /* the commit changes it */
    /* a file system with coarse times could hide a write: then only the bytes count, always */
    j->exact = r2_mtime_ns(&st) == ns;
    if (what->meta) j->made.meta = *what->meta;
    return R2_OK;
}

/* Replaces the sidecar by j->m, durable but for its name. */
static enum r2_code write_meta(struct r2_dir_job *j)
{
    char path[sizeof j->temp];
    struct r2_buf text;
    int fd = -1;
    r2_buf_init(&text, R2_DIRMETA_BYTES);
    enum r2_code code = R2_OK;
    if (!r2_dirmeta_print(&j->m, &text)) code = r2_fail(&j->err, R2_NOMEM, "out of memory");
    if (code) goto done;
    code = make_temp(j, path, sizeof path, &fd);
    if (code) goto done;
    if (r2_write_at(fd, text.at, text.len, 0, &j->err) || r2_sync_fd(fd, path, &j->err)) {
        r2_wrap(&j->err, "%s", path);
        code = r2_dir_failed(j);
    } else if (r2_os.rename(path, j->meta) != 0) {
        code = r2_dir_failed_sys(j, errno, "replace", j->meta);
    }
    if (code) (void)r2_os.unlink(path);
done:
    if (fd >= 0) r2_os.close(fd);
    r2_buf_free(&text);
    return code;
}

static enum r2_code check_condition(struct r2_dir_job *j, const struct r2_put *what)
{
    /* whoever wants none need not know what is there */
    enum r2_code code = what->when == R2_PUT_IF_ABSENT ? r2_dir_open(j) : r2_dir_resolve(j);
    if (code && code != R2_MISSING) return code;
    if (code) j->seen = false;
    if (what->when == R2_PUT_IF_ABSENT && !code)
        return r2_fail(&j->err, R2_PRECONDITION, "file:///%s exists already", j->key);
    if (what->when != R2_PUT_IF_MATCH) return R2_OK;
    if (!code) return is_match(j, what->etag);
    return r2_fail(&j->err, R2_PRECONDITION,
                   "file:///%s is not the object that was expected: it does not exist", j->key);
}

/* Gives the body its name: the commit. A file that another program creates at this moment is not
 * overwritten by a put that wants none. */
static enum r2_code place_body(struct r2_dir_job *j, bool absent)
{
    struct stat st;
    int rc = absent ? r2_os.link(j->temp, j->body) : -1, err = absent ? errno : EPERM;
    bool no_links = err == EPERM || err == ENOTSUP || err == EOPNOTSUPP || err == ENOSYS;
    if (rc != 0 && no_links) {
        rc = r2_os.rename(j->temp, j->body);
        err = errno;
    }
    /* network file systems can do it and say they did not */
    if (rc != 0 && lstat(j->body, &st) == 0 && (uint64_t)st.st_ino == j->made.ino) rc = 0;
    if (rc == 0) return R2_OK;
    if (err == EEXIST && absent)
        return r2_fail(&j->err, R2_PRECONDITION, "file:///%s exists already", j->key);
    return r2_dir_failed_sys(j, err, "create", j->body);
}

/* After the commit: the entry gets its ctime, the old one goes. Failing is harmless. */
static void refresh_meta(struct r2_dir_job *j)
{
    struct stat st;
    struct r2_dirmeta_entry is = j->made;
    (void)r2_os.unlink(j->temp); /* the other name, after a link: this changes ctime */
    j->temp[0] = 0;
    if (fstat(j->temp_fd, &st) != 0) return;
    r2_dir_stat(&is, &st);
    bool sure = j->exact && is.size == j->made.size && is.mtime == j->made.mtime;
    if (!sure) is = j->made;
    j->m.n = 1;
    j->m.at[0] = is;
    (void)write_meta(j);
}

/* Under the lock. */
static enum r2_code commit_put(struct r2_dir_job *j, const struct r2_put *what)
{
    enum r2_code code = check_condition(j, what);
    if (!code && r2_dir_is_late(j)) code = r2_dir_late(j);
    if (!code) code = r2_dir_gate(j, r2_now_ms());
    if (!code) code = stamp_body(j, what);
    if (code) return code;
    bool replaces = j->seen;
    j->m.n = replaces ? 2 : 1;
    j->m.at[0] = j->made;
    if (replaces) j->m.at[1] = j->now;
    code = write_meta(j);
    if (!code && r2_sync_folder_of(j->meta, &j->err)) code = r2_dir_failed(j);
    if (!code) code = place_body(j, what->when == R2_PUT_IF_ABSENT);
    if (code) {
        struct r2_err why = j->err;
        j->m.n = 1;
        j->m.at[0] = j->now;
        if (replaces)
            (void)write_meta(j);
        else
            (void)r2_os.unlink(j->meta);
        j->err = why;
        return code;
    }
    if (r2_sync_folder_of(j->body, &j->err)) {
        r2_wrap(&j->err, "file:///%s was written, but may be lost if the machine fails now",
                j->key);
        code = j->err.code = R2_UNKNOWN;
    }
    struct r2_err why = j->err;
    refresh_meta(j);
    j->err = why;
    return code;
}

static enum r2_code check_put(struct r2_dir_job *j, const struct r2_put *what)
{
    if (what->meta && what->meta->len > R2_META_BYTES)
        return r2_fail(&j->err, R2_REFUSED, "more than %d bytes of metadata for file:///%s",
                       R2_META_BYTES, j->key);
    if (what->when == R2_PUT_IF_MATCH && !what->etag)
        return r2_fail(&j->err, R2_REFUSED, "a put with If-Match needs an ETag");
    if (what->body.size > INT64_MAX)
        return r2_fail(&j->err, R2_REFUSED, "file:///%s would be too large", j->key);
    return R2_OK;
}

/* `source` (may be NULL): the object that the body is read from. */
static enum r2_code run_put(struct r2_dir_job *j, const struct r2_put *what,
                            struct r2_dir_job *source)
{
    enum r2_code code = check_put(j, what);
    if (!code) code = r2_dir_gate(j, j->row.time_ms);
    if (!code) code = check_condition(j, what); /* before the work; it counts under the lock */
    if (!code) code = stage_body(j, what);
    if (code == R2_IO && source) code = r2_dir_failed(j); /* reading it: the bucket's failure */
    if (!code && source) {
        code = is_sound(source, j->made.md5);
        if (code) j->err = source->err;
    }
    if (!code) code = r2_dir_lock(j, true);
    if (!code) code = commit_put(j, what);
    r2_dir_unlock(j);
    if (!code) sweep(j);
    return code;
}

static enum r2_code dir_put(struct r2_store *s, struct r2_call *call, const struct r2_put *what,
                            struct r2_object *out)
{
    (void)s;
    struct stat st;
    struct r2_dir_job *j = r2_dir_job(call, "PUT", what->key);
    if (!j) return R2_NOMEM;
    enum r2_code code = r2_dir_paths(j);
    if (!code) code = run_put(j, what, NULL);
    if (!code && out && fstat(j->temp_fd, &st) == 0) r2_dir_tell(&j->made, &st, out);
    return r2_dir_end(j, code);
}

/* ---- copy, list, delete, presign ---- */

/* The source stays open, so that the bytes are those of the ETag that was found, whatever comes to
 * its name meanwhile. */
static enum r2_code copy_from(struct r2_dir_job *source, struct r2_dir_job *j, const char *if_match)
{
    enum r2_code code = r2_dir_gate(j, j->row.time_ms);
    if (code) return code;
    code = r2_dir_paths(source);
    if (!code) code = r2_dir_resolve(source);
    if (!code && if_match) code = is_match(source, if_match);
    if (code) {
        j->err = source->err;
        return code;
    }
    struct r2_put what = {.key = j->key,
                          .body = {.fd = source->fd, .size = source->now.size},
                          .meta = &source->now.meta};
    code = run_put(j, &what, source);
    j->up = 0; /* nothing came over the wire */
    return code;
}

static enum r2_code dir_copy(struct r2_store *s, struct r2_call *call, const char *from,
                             const char *if_match, const char *to)
{
    (void)s;
    struct r2_dir_job *source = r2_dir_job(call, "COPY", from);
    struct r2_dir_job *j = source ? r2_dir_job(call, "COPY", to) : NULL;
    enum r2_code code = R2_NOMEM;
    if (j) {
        code = r2_dir_paths(j);
        if (!code) code = r2_store_check_copy(from, if_match, to, &j->err);
        if (!code) code = copy_from(source, j, if_match);
        if (code) r2_wrap(&j->err, "cannot copy file:///%s to file:///%s", from, to);
        code = r2_dir_end(j, code);
    }
    if (source) r2_dir_drop(source);
    return code;
}

static enum r2_code dir_list(struct r2_store *s, struct r2_call *call, const char *prefix,
                             const char *after, r2_list_fn fn, void *ctx)
{
    (void)s;
    struct r2_dir_job *j = r2_dir_job(call, "LIST", prefix);
    if (!j) return R2_NOMEM;
    enum r2_code code = r2_dir_check_key(j, prefix, true);
    if (!code && r2_dirlist(prefix, after, call->deadline_ms, fn, ctx, &j->err))
        code = r2_dir_failed(j);
    return r2_dir_end(j, code);
}

static enum r2_code commit_del(struct r2_dir_job *j)
{
    enum r2_code code = r2_dir_open(j);
    if (code == R2_MISSING) code = R2_OK; /* as S3; a sidecar without a body goes too */
    if (!code && r2_dir_is_late(j)) code = r2_dir_late(j);
    if (!code) code = r2_dir_gate(j, r2_now_ms());
    if (code) return code;
    if (r2_os.unlink(j->body) != 0 && errno != ENOENT)
        return r2_dir_failed_sys(j, errno, "remove", j->body);
    if (r2_sync_folder_of(j->body, &j->err)) {
        r2_wrap(&j->err, "file:///%s was deleted, but may be back if the machine fails now",
                j->key);
        return j->err.code = R2_UNKNOWN;
    }
    (void)r2_os.unlink(j->meta); /* of no use, and harmless */
    return R2_OK;
}

static enum r2_code dir_del(struct r2_store *s, struct r2_call *call, const char *key)
{
    (void)s;
    struct r2_dir_job *j = r2_dir_job(call, "DELETE", key);
    if (!j) return R2_NOMEM;
    enum r2_code code = r2_dir_paths(j);
    if (!code) code = r2_dir_gate(j, j->row.time_ms);
    if (!code) code = r2_dir_open(j);
    if (code == R2_MISSING) return r2_dir_end(j, R2_OK);
    if (!code) code = make_folders(j);
    if (!code) code = r2_dir_lock(j, true);
    if (!code) code = commit_del(j);
    return r2_dir_end(j, code);
}

static enum r2_code dir_presign(struct r2_store *s, struct r2_call *call, const char *key,
                                int64_t seconds, struct r2_buf *url)
{
    (void)s;
    struct r2_dir_job *j = r2_dir_job(call, "GET", key);
    if (!j) return R2_NOMEM;
    enum r2_code code = r2_dir_check_key(j, key, false);
    if (!code && (seconds < 1 || seconds > 604800))
        code = r2_fail(&j->err, R2_REFUSED, "a URL can be made for 1 to 604800 seconds, not %lld",
                       (long long)seconds);
    if (!code) r2_buf_str(url, "file:///");
    for (const char *p = key; !code && *p; p++) {
        char c = *p;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     (c && strchr("-._~/", c));
        if (plain)
            r2_buf_add(url, &c, 1);
        else
            r2_buf_printf(url, "%%%02X", (unsigned)(unsigned char)c);
    }
    if (!code && url->failed) code = r2_fail(&j->err, R2_NOMEM, "out of memory");
    if (code && call->err) *call->err = j->err;
    free(j); /* no request was made */
    return code;
}

/* ---- the store ---- */

static void dir_close(struct r2_store *s)
{
    free(s);
}

static const struct r2_store_ops dir_ops = {
    .head = dir_head,
    .get = dir_get,
    .put = dir_put,
    .list = dir_list,
    .copy = dir_copy,
    .del = dir_del,
    .presign = dir_presign,
    .close = dir_close,
};

enum r2_code r2_store_open_dir(const struct r2_config *config, struct r2_store **out,
                               struct r2_err *e)
{
    *out = NULL;
    if (config->scheme != R2_SCHEME_FILE)
        return r2_fail(e, R2_CONFIG, "%s is no file:// remote", config->url);
    struct r2_store *s = calloc(1, sizeof *s);
    if (!s) return r2_fail(e, R2_NOMEM, "out of memory");
    s->ops = &dir_ops;
    *out = s;
    return R2_OK;
}
