/* progress.c - see progress.h. */
#include "progress.h"
#include "buf.h"
#include "os.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_AFTER_MS = 1000, EVERY_MS = 200, NAME_COLUMNS = 48 };

void r2_progress_begin(struct r2_progress *p, bool wanted, const char *verb, const char *name,
                       uint64_t total)
{
    memset(p, 0, sizeof *p);
    p->on = wanted && isatty(STDERR_FILENO) == 1;
    p->verb = verb;
    p->name = name;
    p->total = total;
    p->begun_ms = r2_boot_ms();
}

void r2_progress_line(const struct r2_progress *p, char *out, unsigned room)
{
    char name[NAME_COLUMNS + 4];
    int64_t moved = atomic_load(&p->done);
    unsigned long long done = moved > 0 ? (unsigned long long)moved : 0;
    size_t n = strlen(p->name);
    /* a long key shows its end, which tells more */
    bool cut = n > NAME_COLUMNS;
    snprintf(name, sizeof name, "%s%s", cut ? "..." : "", p->name + (cut ? n - NAME_COLUMNS : 0));
    for (char *c = name; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f) *c = '?';
    if (p->total)
        snprintf(out, room, "r2vfs: %s %s  %llu of %llu MiB", p->verb, name, done >> 20,
                 (unsigned long long)(p->total + (1 << 20) - 1) >> 20);
    else
        snprintf(out, room, "r2vfs: %s %s  %llu MiB", p->verb, name, done >> 20);
}

static void show(const char *text)
{
    char line[256];
    int n = snprintf(line, sizeof line, "\r\033[K%s", text);
    if (n > 0 && (size_t)n < sizeof line && write(STDERR_FILENO, line, (size_t)n) < 0) {
        /* a terminal that went away is no error of the transfer */
    }
}

void r2_progress_add(struct r2_progress *p, int64_t bytes)
{
    atomic_fetch_add(&p->done, bytes);
    if (!p->on) return;
    int64_t now = r2_boot_ms(), last = atomic_load(&p->shown_ms);
    if (now - p->begun_ms < FIRST_AFTER_MS || (last && now - last < EVERY_MS)) return;
    /* of several threads that get here, one draws */
    if (!atomic_compare_exchange_strong(&p->shown_ms, &last, now)) return;
    char text[200];
    r2_progress_line(p, text, sizeof text);
    show(text);
}

void r2_progress_end(struct r2_progress *p)
{
    if (p->on && atomic_load(&p->shown_ms)) show("");
    p->on = false;
}
