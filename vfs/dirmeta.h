/* dirmeta.h - the sidecar that keeps an object's ETag and metadata in the directory store. Pure.
 *
 * A text file, <folder>/.r2vfs/<name>.meta:
 *
 *   r2vfs-meta 1\n
 *   object <md5> <inode> <size> <mtime> <ctime> <metadata bytes>\n     one or two of these,
 *   <metadata, lines "name: value\n">                                  the newest first
 *   end <md5 of all before this line>\n
 *
 * md5 is 32 lower-case hex digits, the rest decimal, times in ns since 1970. An entry belongs to
 * the file whose bytes have its MD5. The stat fields only spare us the reading: a file that has all
 * of them is taken to have that MD5. ctime 0: not known (a put that was cut short, a file system
 * with coarse times, a file that came by hand); then the bytes decide. Two entries: while a put is
 * being committed, or after a crash in the middle of one. */
#ifndef R2_DIRMETA_H
#define R2_DIRMETA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "buf.h"
#include "store.h"

enum { R2_DIRMETA_ENTRIES = 2, R2_DIRMETA_BYTES = 2 * (R2_META_BYTES + 256) + 128 };

struct r2_dirmeta_entry {
    char md5[33];
    uint64_t ino, size, mtime, ctime;
    struct r2_meta meta;
};

struct r2_dirmeta {
    unsigned n;
    struct r2_dirmeta_entry at[R2_DIRMETA_ENTRIES];
    bool
        unchecked; /* parse: false because its checksum could not be computed, for want of memory */
};

/* false: damaged, or not ours. */
bool r2_dirmeta_parse(const char *bytes, size_t n, struct r2_dirmeta *out);
/* false: no memory. */
bool r2_dirmeta_print(const struct r2_dirmeta *m, struct r2_buf *to);

/* All stat fields of entry and file agree, and ctime is known. */
bool r2_dirmeta_same(const struct r2_dirmeta_entry *a, const struct r2_dirmeta_entry *file);
/* The entry for a file with file->md5 and file->size, or NULL. Of two with equal bytes, the one
 * with the file's inode and mtime. */
const struct r2_dirmeta_entry *r2_dirmeta_find(const struct r2_dirmeta *m,
                                               const struct r2_dirmeta_entry *file);

#ifdef __APPLE__
#define R2_ST_TIME(st, which) ((st)->st_##which##timespec)
#else
#define R2_ST_TIME(st, which) ((st)->st_##which##tim)
#endif
static inline int64_t r2_mtime_ns(const struct stat *st)
{
    return (int64_t)R2_ST_TIME(st, m).tv_sec * 1000000000 + R2_ST_TIME(st, m).tv_nsec;
}
static inline int64_t r2_ctime_ns(const struct stat *st)
{
    return (int64_t)R2_ST_TIME(st, c).tv_sec * 1000000000 + R2_ST_TIME(st, c).tv_nsec;
}

/* 16 bytes as 32 hex digits. */
void r2_hex16(const uint8_t bytes[16], char out[33]);

#endif
