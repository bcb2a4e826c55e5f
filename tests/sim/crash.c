/* crash.c - what a power loss leaves of a machine's files: see sim.h.
 *
 * Changes of the folder are lost from some point on (all file systems keep their order), and with
 * them that a file was cut shorter after that point: SQLite relies on it, it cuts a database only
 * when it has unlinked the journal. Of each file, any sector written since its last sync may be as
 * it was then, or as it was written. */
#include "sim.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void path_of(const struct machine *m, const char *name, char out[300])
{
    snprintf(out, 300, "%s/%.63s", m->dir, name);
}

static void trash_of(const struct machine *m, uint32_t trash, char out[300])
{
    snprintf(out, 300, "%s-trash/%u", m->dir, trash);
}

static void empty_folder(const char *folder)
{
    char path[600];
    DIR *d = opendir(folder);
    struct dirent *e;
    while (d && (e = readdir(d)) != NULL) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
}

/* Files that have no name any more are gone, unless somebody still has them open. */
void folder_synced(struct machine *m)
{
    char path[300];
    struct stat st;
    for (uint32_t k = 0; k < m->ops; k++) {
        if (!m->op[k].trash) continue;
        trash_of(m, m->op[k].trash, path);
        int before = me;
        me = -1; /* as it really is */
        if (stat(path, &st) == 0 && st.st_nlink == 1) {
            struct file *f = file_by_ino(m, st.st_ino);
            if (f) file_synced(f), f->used = false;
        }
        unlink(path);
        me = before;
    }
    m->ops = 0;
    for (int k = 0; k < FILES; k++)
        m->file[k].cut_after = 0;
}

static void undo(struct machine *m, const struct folder_op *o)
{
    char name[300], to[300], trash[300];
    path_of(m, o->name, name);
    path_of(m, o->to, to);
    /* also one that is gone again: the pages that it had kept are not */
    if (m->folder_failed && strcmp(o->name, "app.db-journal") == 0) m->betrayed = true;
    trash_of(m, o->trash, trash);
    trace("  power loss: %s %s %s is undone",
          (const char *[]){"create", "unlink", "rename", "link"}[o->kind], o->name, o->to);
    switch (o->kind) {
    case OP_CREATE:
        unlink(name);
        break;
    case OP_LINK:
        unlink(to);
        break;
    case OP_UNLINK:
        rename(trash, name);
        break;
    case OP_RENAME:
        rename(to, name);
        if (o->trash) rename(trash, to);
        break;
    }
}

enum { KEEP, LOSE, TEAR };

static bool lose(int how)
{
    return how == LOSE || (how == TEAR && chance(500));
}

static void put_back(int fd, const void *was, int64_t at, size_t n, int64_t size)
{
    if (at >= size) return;
    if (at + (int64_t)n > size) n = (size_t)(size - at);
    if (pwrite(fd, was, n, at) < 0) abort();
}

static void lose_file(struct file *f, const char *path, int how, bool cut_lost)
{
    struct stat st;
    int fd = open(path, O_RDWR);
    uint32_t lost = 0, all = 0;
    if (fd < 0 || fstat(fd, &st) != 0) abort();
    int64_t size = st.st_size;
    if (f->synced_size >= 0 && lose(how)) size = f->synced_size;
    if (f->synced_size > st.st_size && cut_lost) size = f->synced_size;
    bool cut_undone = f->synced_size > st.st_size && size == f->synced_size;
    if (ftruncate(fd, size) != 0) abort();
    for (struct sector *s = f->unsynced; s; s = s->next) {
        int64_t at = (int64_t)s->index * SECTOR;
        bool in_cut = cut_undone && at + SECTOR > st.st_size;
        all++;
        if (!in_cut && !lose(how)) continue;
        lost++;
        put_back(fd, s->was, at, SECTOR, size);
    }
    for (uint32_t k = 0; k < f->maps; k++) {
        struct mapped *p = &f->map[k];
        bool whole = chance(700), gone = lose(how);
        for (uint32_t at = 0; at < p->len; at += SECTOR)
            if (whole ? gone : lose(how)) put_back(fd, p->synced + at, p->at + at, SECTOR, size);
    }
    if (f->mtime_ns != f->synced_mtime_ns && f->synced_mtime_ns && lose(how))
        f->mtime_ns = f->ctime_ns = f->synced_mtime_ns;
    trace("  power loss: %s: %u of %u sectors lost, %lld -> %lld bytes", strrchr(path, '/') + 1,
          lost, all, (long long)st.st_size, (long long)size);
    close(fd);
    file_synced(f);
    f->maps = 0;
}

static void new_boot(struct machine *m)
{
    char path[300], text[64];
    m->boots++;
    m->booted_ns = sim->now_ns - 20000 * MS;
    snprintf(path, sizeof path, "%s-boot", m->dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    int n = snprintf(text, sizeof text, "%08x-0000-4000-8000-%012u\n", 1 + m->boots,
                     (unsigned)(m - sim->m));
    if (fd < 0 || write(fd, text, (size_t)n) != n) abort();
    close(fd);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

void power_loss(struct machine *m)
{
    char names[FILES][NAME_ROOM];
    char path[300];
    int count = 0;
    struct dirent *e;
    struct stat st;
    int how = (int)below(4);
    if (how > TEAR) how = TEAR;
    uint32_t kept = how == KEEP ? m->ops : how == LOSE ? 0 : below(m->ops + 1);
    trace("power loss of machine %d (%s)", (int)(m - sim->m),
          (const char *[]){"all is kept", "all is lost", "torn"}[how]);
    bool cut_lost[FILES];
    for (int k = 0; k < FILES; k++)
        cut_lost[k] = m->file[k].cut_after > kept;
    while (m->ops > kept)
        undo(m, &m->op[--m->ops]);
    m->folder_failed = false;
    folder_synced(m);
    DIR *d = opendir(m->dir);
    while (d && count < FILES && (e = readdir(d)) != NULL)
        if (e->d_name[0] != '.') snprintf(names[count++], NAME_ROOM, "%.63s", e->d_name);
    if (d) closedir(d);
    qsort(names, (size_t)count, NAME_ROOM, by_name);
    for (int k = 0; k < count; k++) {
        path_of(m, names[k], path);
        struct file *f = stat(path, &st) == 0 ? file_by_ino(m, st.st_ino) : NULL;
        if (f && !f->loose)
            lose_file(f, path, how == TEAR && chance(200) ? LOSE : how, cut_lost[f - m->file]);
    }
    new_boot(m);
}

void disk_reset(struct machine *m)
{
    char path[300];
    int k = (int)(m - sim->m);
    snprintf(m->dir, sizeof m->dir, "%s/m%d", sim->top, k);
    snprintf(path, sizeof path, "%s-trash", m->dir);
    mkdir(m->dir, 0755);
    mkdir(path, 0755);
    empty_folder(m->dir);
    empty_folder(path);
    for (int n = 0; n < FILES; n++)
        if (m->file[n].used) memset(&m->file[n], 0, sizeof m->file[n]);
    m->ops = m->trash = 0;
    m->full = m->folder_failed = m->betrayed = false;
    m->boots = (uint32_t)(sim->seed & 0xffff) << 8;
    new_boot(m);
}
