/* dirlist.h - list the objects of the directory store: the plain files below a prefix, as keys. */
#ifndef R2_DIRLIST_H
#define R2_DIRLIST_H

#include <stdint.h>

#include "err.h"
#include "store.h"

/* The hidden folder beside the objects: metadata, lock, temp files. */
#define R2_DIR_SIDE ".r2vfs"

enum { R2_DIRLIST_NAMES = 4000000 }; /* entries of one folder that we are willing to sort */

/* Keys that begin with `prefix` and come after `after` (may be NULL), in byte order, to fn until it
 * returns false. Symbolic links are not followed. A folder that is not there is empty. Failures
 * carry local codes (R2_IO, R2_READONLY, R2_NOMEM); R2_UNREACHABLE after the deadline. */
enum r2_code r2_dirlist(const char *prefix, const char *after, int64_t deadline_ms, r2_list_fn fn,
                        void *ctx, struct r2_err *e);

#endif
