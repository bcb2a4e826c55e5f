/* shim_past.h - a main database that shows an earlier version: shim_past.c. */
#ifndef R2_SHIM_PAST_H
#define R2_SHIM_PAST_H

#include <sqlite3ext.h>
#include <stdbool.h>

#include "config.h"

#define R2_PAST_SHARED                                                                             \
    "an earlier version cannot be opened with cache=shared: connections share what has the same "  \
    "path, and the database itself has it, too"

/* Open `name` as config->version or at_ms says, in `f` (memory for a struct r2_file). R2_OK, or a
 * sentence and f->pMethods NULL. */
enum r2_code r2_shim_open_past(const char *name, const struct r2_config *config, sqlite3_file *f,
                               int flags, int *out_flags, struct r2_err *e);

/* Does a schema of a connection show an earlier version? *version: which, *url: of what. */
bool r2_shim_shows_past(sqlite3 *db, const char *schema, uint64_t *version, const char **url);

#endif
