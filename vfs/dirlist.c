/* dirlist.c - see dirlist.h. */
#include "dirlist.h"
#include "dirmeta.h"
#include "os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct listing {
    const char *prefix, *after;
    int64_t deadline_ms;
    r2_list_fn fn;
    void *ctx;
    struct r2_err *e;
    bool ended; /* fn wants no more */
};

/* Names of one folder; a subfolder's ends with '/', so that they sort as the keys do. */
struct names {
    char **at;
    size_t n, room;
};

static void names_free(struct names *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->at[i]);
    free(v->at);
}

static bool names_add(struct names *v, const char *name, bool folder)
{
    if (v->n == v->room) {
        size_t room = v->room ? v->room * 2 : 64;
        char **at = realloc(v->at, room * sizeof *at);
        if (!at) return false;
        v->at = at, v->room = room;
    }
    size_t n = strlen(name);
    char *copy = malloc(n + 2);
    if (!copy) return false;
    memcpy(copy, name, n);
    if (folder) copy[n++] = '/';
    copy[n] = 0;
    v->at[v->n++] = copy;
    return true;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b); /* strcmp compares unsigned bytes */
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* May a key that begins with `part` be wanted? A folder's part ends with '/'. */
static bool wanted(const struct listing *l, const char *part, bool folder)
{
    if (!begins(part, l->prefix) && !(folder && begins(l->prefix, part))) return false;
    if (!l->after || strcmp(part, l->after) > 0) return true;
    return folder && begins(l->after, part);
}

/* A file name that can be the last part of a key. */
static bool is_key_part(const char *name)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, R2_DIR_SIDE) == 0)
        return false;
    for (; *name; name++)
        if ((unsigned char)*name < 32 || *name == 127) return false;
    return true;
}

static enum r2_code late(const struct listing *l, const char *key)
{
    return r2_fail(l->e, R2_UNREACHABLE, "time ran out while listing /%s", key);
}

/* The wanted names of folder /`key`, sorted. */
static enum r2_code read_folder(const struct listing *l, DIR *dir, const char *key, struct names *v)
{
    char part[R2_KEY_BYTES];
    struct dirent *d;
    while ((void)(errno = 0), (d = readdir(dir)) != NULL) {
        struct stat st;
        if (!is_key_part(d->d_name)) continue;
        int n = snprintf(part, sizeof part, "%s%s", key, d->d_name);
        if (n < 0 || (size_t)n + 2 > sizeof part) continue; /* too long to be a key */
        if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue; /* gone */
        bool folder = S_ISDIR(st.st_mode);
        if (!folder && !S_ISREG(st.st_mode)) continue;
        if (folder) part[n] = '/', part[n + 1] = 0;
        if (!wanted(l, part, folder)) continue;
        if (v->n == R2_DIRLIST_NAMES)
            return r2_fail(l->e, R2_REFUSED, "folder /%s holds too many files to list", key);
        if (!names_add(v, d->d_name, folder)) return r2_fail(l->e, R2_NOMEM, "out of memory");
        if (v->n % 256 == 0 && r2_boot_ms() >= l->deadline_ms) return late(l, key);
    }
    if (errno) return r2_fail_errno(l->e, errno, "read folder /%s", key);
    if (v->n) qsort(v->at, v->n, sizeof *v->at, by_bytes);
    return R2_OK;
}

static enum r2_code report(struct listing *l, const char *key)
{
    char path[R2_KEY_BYTES + 16];
    struct stat st;
    snprintf(path, sizeof path, "/%s", key);
    if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode)) return R2_OK; /* gone since */
    l->ended = !l->fn(l->ctx, key, (uint64_t)st.st_size, r2_mtime_ns(&st) / 1000000);
    return R2_OK;
}

/* `key` is "" or ends with '/'. The depth is bounded by the length of a key. */
static enum r2_code walk(struct listing *l, const char *key)
{
    char part[R2_KEY_BYTES + 8];
    struct names v = {0};
    if (r2_boot_ms() >= l->deadline_ms) return late(l, key);
    snprintf(part, sizeof part, "/%s", key);
    int fd = r2_os.open(part, O_RDONLY | O_DIRECTORY | O_NONBLOCK, 0);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return R2_OK;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int err = errno;
        if (fd >= 0) r2_os.close(fd);
        return r2_fail_errno(l->e, err, "open folder /%s", key);
    }
    enum r2_code code = read_folder(l, dir, key, &v);
    closedir(dir);
    for (size_t i = 0; i < v.n && code == R2_OK && !l->ended; i++) {
        snprintf(part, sizeof part, "%s%s", key, v.at[i]);
        bool folder = part[strlen(part) - 1] == '/';
        code = folder ? walk(l, part) : report(l, part);
    }
    names_free(&v);
    return code;
}

enum r2_code r2_dirlist(const char *prefix, const char *after, int64_t deadline_ms, r2_list_fn fn,
                        void *ctx, struct r2_err *e)
{
    struct listing l = {prefix, after, deadline_ms, fn, ctx, e, false};
    char top[R2_KEY_BYTES];
    if (!r2_strcpy(top, sizeof top, prefix)) return R2_OK; /* no key is that long */
    char *slash = strrchr(top, '/');
    if (slash)
        slash[1] = 0;
    else
        top[0] = 0;
    return walk(&l, top);
}
