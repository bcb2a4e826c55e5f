/* progress.h - one updating line on a terminal while a long transfer runs.
 *
 * "r2vfs: uploading users/42/app.db  37 of 120 MiB" on stderr, only if that is a terminal and the
 * transfer has taken more than a second; erased at the end. Used by several threads at once. */
#ifndef R2_PROGRESS_H
#define R2_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct r2_progress {
    bool on;                  /* wanted, and stderr is a terminal */
    const char *verb;         /* "uploading" */
    const char *name;         /* the key; must stay until the end */
    uint64_t total;           /* bytes; 0: not known */
    int64_t begun_ms;         /* boot clock */
    _Atomic int64_t done;     /* bytes moved, without those that a retry moves again */
    _Atomic int64_t shown_ms; /* when the line was last drawn; 0: never */
};

void r2_progress_begin(struct r2_progress *p, bool wanted, const char *verb, const char *name,
                       uint64_t total);
void r2_progress_add(struct r2_progress *p, int64_t bytes); /* negative: to be moved again */
void r2_progress_end(struct r2_progress *p);

/* The line itself, for the tests. Control characters of the name become '?'. */
void r2_progress_line(const struct r2_progress *p, char *out, unsigned room);

#endif
