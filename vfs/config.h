/* config.h - what a database is bound to and how, from its URI, the environment and defaults.
 *
 * Pure: reads through two callbacks, touches nothing. The table of names, defaults and limits is
 * DESIGN section 6 and README "Configuration". A URI parameter beats the environment. */
#ifndef R2_CONFIG_H
#define R2_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

enum {
    R2_KEY_BYTES = 1024, /* R2's limit for a key is 1,024; ours leaves room for -log/ and -forks/ */
    R2_KEY_MAX = 900,
    R2_URL_BYTES = 1200,   /* scheme, bucket, key, terminator */
    R2_TEXT_BYTES = 256,   /* endpoint, names */
    R2_SECRET_BYTES = 4096 /* session tokens are long */
};

enum r2_scheme { R2_SCHEME_NONE, R2_SCHEME_S3, R2_SCHEME_FILE };
enum r2_sync_mode { R2_SYNC_CLOSE, R2_SYNC_COMMIT, R2_SYNC_MANUAL, R2_SYNC_TIMER };
enum r2_layout_kind { R2_LAYOUT_OBJECT, R2_LAYOUT_LOG };
enum r2_conflict_policy { R2_ON_CONFLICT_FORK, R2_ON_CONFLICT_ERROR };

struct r2_credentials {
    char access_key[R2_TEXT_BYTES];
    char secret_key[R2_TEXT_BYTES];
    char session_token[R2_SECRET_BYTES]; /* "" when there is none */
};

struct r2_config {
    enum r2_scheme scheme;      /* NONE: no remote, the file passes through */
    char url[R2_URL_BYTES];     /* canonical: s3://bucket/key or file:///dir/key; no credentials */
    char bucket[R2_TEXT_BYTES]; /* s3 only */
    char key[R2_KEY_BYTES];     /* s3: the key; file: the absolute path without its first '/' */
    char endpoint[R2_TEXT_BYTES * 2]; /* http[s]://host[:port][/prefix], no trailing '/' */
    char region[64];                  /* "auto" */
    struct r2_credentials cred;
    enum r2_sync_mode sync;
    int64_t sync_ms;            /* with R2_SYNC_TIMER; 1 .. 86,400,000 */
    bool refresh_open;          /* probe at xOpen only */
    int64_t refresh_ms;         /* else: probe at a transaction's start if older than this; >= 0 */
    enum r2_layout_kind layout; /* for a database that the remote does not have yet */
    bool layout_given;
    enum r2_conflict_policy conflict;
    bool offline_allow;
    int64_t timeout_ms;  /* one operation, retries included; 100 .. 3,600,000 */
    int64_t retention_s; /* at least 3600 */
    uint64_t version;    /* show this one, read-only; 0: the newest */
    bool at_given;       /* or the newest one of this time */
    int64_t at_ms;
    bool progress;
};

/* SQLite hands over paths with their symbolic links resolved. So the `env` callback is also asked
 * for this name, which no environment has, and may answer with R2VFS_ROOT's realpath (valid until
 * the next call): a database below either spelling of the root is below the root. */
#define R2_CONFIG_REAL_ROOT "R2VFS_ROOT (realpath)"

/* Where values come from. Each returns NULL when the name is not set; "" counts as not set. */
struct r2_config_source {
    const char *(*uri)(void *ctx, const char *name);
    const char *(*env)(void *ctx, const char *name);
    void *ctx;
};

/* Fill `out` for the database file `path` (absolute). Without a remote: R2_OK and scheme NONE.
 * A wrong value is R2_CONFIG with a sentence naming the parameter or variable, the value (never a
 * credential) and what is allowed. */
enum r2_code r2_config_load(const struct r2_config_source *src, const char *path,
                            struct r2_config *out, struct r2_err *e);

/* The sync mode as written in a configuration: "close", "commit", "manual" or milliseconds. */
void r2_config_sync_text(const struct r2_config *c, char *out, size_t room);

/* The process's environment as the `env` callback; knows R2_CONFIG_REAL_ROOT. */
const char *r2_config_getenv(void *ctx, const char *name);

#endif
