/* ext.h - what the files of the SQL side share. */
#ifndef R2_EXT_H
#define R2_EXT_H

#include "../vfs/shim.h"

/* Register the SQL functions / the virtual tables on a connection. */
int r2_ext_functions(sqlite3 *db);
int r2_ext_tables(sqlite3 *db);
int r2_ext_history(sqlite3 *db);

/* Set a function's error: the sentence, then the code (the other way round loses 517). */
void r2_ext_error(sqlite3_context *ctx, const struct r2_err *e);

/* The replica of a schema, or a sentence why there is none; `name`: who asks. */
struct r2_replica *r2_ext_find(sqlite3 *db, const char *name, const char *schema, struct r2_err *e);

#endif
