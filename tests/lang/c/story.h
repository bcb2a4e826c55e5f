/* story.h - the two C clients: they differ in how r2vfs comes in, and in how they ask it to act. */
#ifndef STORY_H
#define STORY_H

#include <sqlite3.h>

/* A connection to STORY_URI or STORY_PATH, as STORY_WAY says; NULL with a sentence on stderr. */
sqlite3 *story_open_uri(const char *extension, const char *uri);
sqlite3 *story_open_path(const char *extension, const char *path);

/* sync() and r2_resolve('fork'): a SQLite result code; *message is to be freed with sqlite3_free.
 */
int story_sync(sqlite3 *db, sqlite3_int64 *version, char **message);
int story_resolve(sqlite3 *db, sqlite3_int64 *version, char **message);

extern const char story_client[];

#endif
