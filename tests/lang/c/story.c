/* story.c - the story in C (tests/lang/story.py). SQLite's C interface returns the primary result
 * code (SQLITE_BUSY) unless sqlite3_extended_result_codes() is on; sqlite3_extended_errcode() has
 * it (SQLITE_BUSY_SNAPSHOT). A statement that returned a row is unfinished until it is stepped to
 * SQLITE_DONE, reset or finalized: sync() refuses beside one. */
#include "story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(sqlite3 *db, int rc)
{
    if (rc == SQLITE_OK || rc == SQLITE_ROW || rc == SQLITE_DONE) return;
    fprintf(stderr, "story: %s\n", sqlite3_errmsg(db));
    exit(1);
}

static void run(sqlite3 *db, const char *sql)
{
    check(db, sqlite3_exec(db, sql, NULL, NULL, NULL));
}

/* Prints "word column column ..." for each row. */
static void print(sqlite3 *db, const char *word, const char *sql)
{
    sqlite3_stmt *s;
    check(db, sqlite3_prepare_v2(db, sql, -1, &s, NULL));
    while (sqlite3_step(s) == SQLITE_ROW) {
        printf("%s", word);
        for (int n = 0; n < sqlite3_column_count(s); n++)
            printf(" %s", (const char *)sqlite3_column_text(s, n));
        printf("\n");
    }
    check(db, sqlite3_finalize(s));
}

static void insert(sqlite3 *db)
{
    sqlite3_stmt *s;
    run(db, "BEGIN");
    check(db, sqlite3_prepare_v2(db, "INSERT INTO story(who) VALUES(?)", -1, &s, NULL));
    check(db, sqlite3_bind_text(s, 1, getenv("STORY_WHO"), -1, SQLITE_STATIC));
    check(db, sqlite3_step(s));
    check(db, sqlite3_finalize(s));
    run(db, "COMMIT");
}

static void print_version(int rc, sqlite3_int64 version, const char *message)
{
    if (rc == SQLITE_OK)
        printf("version %lld\n", version);
    else
        printf("error %d %s\n", rc, message);
}

static void write_step(sqlite3 *db)
{
    sqlite3_int64 version = 0;
    char *message = NULL;
    run(db, "CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)");
    insert(db);
    int rc = story_sync(db, &version, &message);
    print_version(rc, version, message);
    sqlite3_free(message);
    print(db, "status", "SELECT version, remote_version, dirty_pages, pushes FROM r2_status");
}

static void read_step(sqlite3 *db)
{
    print(db, "row", "SELECT id, who FROM story ORDER BY id");
    print(db, "sqlite", "SELECT sqlite_version()");
    printf("client %s\n", story_client);
}

static void conflict_step(sqlite3 *db)
{
    sqlite3_int64 version = 0;
    char *message = NULL;
    insert(db);
    printf("ready\n");
    getchar();
    int rc = story_sync(db, &version, &message);
    const char *word = (rc & 0xff) == SQLITE_BUSY ? "busy" : "other";
    printf("%s %d %s\n", word, rc, message ? message : "");
    sqlite3_free(message);
    rc = story_resolve(db, &version, &message);
    print_version(rc, version, message);
    sqlite3_free(message);
    print(db, "row", "SELECT id, who FROM story ORDER BY id");
}

static void mind_step(sqlite3 *db)
{
    sqlite3_stmt *s;
    sqlite3_int64 version = 0;
    char *message = NULL;
    insert(db);
    check(db, sqlite3_prepare_v2(db, "SELECT who FROM story", -1, &s, NULL));
    check(db, sqlite3_step(s));
    int rc = story_sync(db, &version, &message);
    printf("%s %s\n", rc ? "refused" : "other", message ? message : "");
    sqlite3_free(message);
    check(db, sqlite3_reset(s));
    rc = story_sync(db, &version, &message);
    print_version(rc, version, message);
    sqlite3_free(message);
    check(db, sqlite3_finalize(s));
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *extension = getenv("R2VFS_SO");
    const char *step = argc == 2 ? argv[1] : "";
    sqlite3 *db = strcmp(getenv("STORY_WAY"), "uri") == 0
                      ? story_open_uri(extension, getenv("STORY_URI"))
                      : story_open_path(extension, getenv("STORY_PATH"));
    if (!db) return 1;
    if (strcmp(step, "write") == 0) write_step(db);
    if (strcmp(step, "read") == 0) read_step(db);
    if (strcmp(step, "conflict") == 0) conflict_step(db);
    if (strcmp(step, "mind") == 0) mind_step(db);
    if (sqlite3_close(db)) return 1; /* SQLITE_BUSY: a statement was forgotten */
    printf("closed\n");
    return 0;
}
