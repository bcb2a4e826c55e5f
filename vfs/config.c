/* config.c - see config.h. The remote is in here; endpoint and credentials are in config_s3.c. */
#include "config.h"
#include "buf.h"
#include "config_int.h"
#include "when.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- values ---- */

static const char *set(const char *text)
{
    return text && *text ? text : NULL;
}

const char *r2_config_env(const struct r2_config_load *l, const char *name)
{
    return set(l->src->env ? l->src->env(l->src->ctx, name) : NULL);
}

struct r2_config_value r2_config_pick(const struct r2_config_load *l, const char *uri,
                                      const char *env)
{
    struct r2_config_value v = {NULL, "the URI parameter", uri};
    if (uri && l->src->uri) v.text = set(l->src->uri(l->src->ctx, uri));
    if (v.text || !env) return v;
    v.text = r2_config_env(l, env);
    v.kind = "the environment variable";
    v.name = env;
    return v;
}

/* A value as it may stand in a sentence: short, no control characters. */
static void show(const char *text, char out[84])
{
    size_t n = 0;
    for (; *text && n < 80; text++)
        out[n++] = (unsigned char)*text < 32 || *text == 127 ? '?' : *text;
    while (*text && n && ((unsigned char)out[n - 1] & 0xc0) == 0x80)
        n--; /* no half of a UTF-8 character at the cut */
    if (*text) memcpy(out + n, "...", 3), n += 3;
    out[n] = 0;
}

enum r2_code r2_config_wrong(const struct r2_config_load *l, const struct r2_config_value *v,
                             const char *allowed)
{
    char shown[84];
    show(v->text, shown);
    return r2_fail(l->e, R2_CONFIG, "%s %s has the value \"%s\", but %s", v->kind, v->name, shown,
                   allowed);
}

enum r2_code r2_config_wrong_hidden(const struct r2_config_load *l, const struct r2_config_value *v,
                                    const char *allowed)
{
    return r2_fail(l->e, R2_CONFIG, "%s %s %s", v->kind, v->name, allowed);
}

/* ---- keys ---- */

/* Length of the UTF-8 character at p (of n bytes), 0 when there is none. No surrogates, nothing
 * longer than it need be. */
static size_t utf8_char(const unsigned char *p, size_t n)
{
    size_t len = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (p[0] > 0xf4 || len == 0 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

static const char *wrong_chars(const char *key)
{
    size_t n = strlen(key), len;
    for (size_t i = 0; i < n; i += len) {
        const unsigned char *p = (const unsigned char *)key + i;
        len = utf8_char(p, n - i);
        if (!len) return "a key must be valid UTF-8";
        if (*p == '\\') return "a key must not contain a backslash; its parts are divided by /";
        if (*p < 32 || *p == 127 || (*p == 0xc2 && p[1] < 0xa0))
            return "a key must not contain control characters";
    }
    return NULL;
}

/* NULL, or what is wrong with an object's key. */
static const char *wrong_key(const char *key)
{
    if (!*key) return "it names no object: the key after the bucket or folder is missing";
    if (key[strlen(key) - 1] == '/')
        return "it ends with /, so it names a folder; name the object itself";
    if (strlen(key) > R2_KEY_MAX) return "a key may have at most 900 bytes";
    for (const char *p = key; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 0) return "a key must not have empty parts (two / in a row)";
        if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return "a key must not have a part \".\" or \"..\"";
        p += n;
        if (*p) p++;
    }
    return wrong_chars(key);
}

static bool bucket_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool bucket_ok(const char *b, size_t n)
{
    if (n < 3 || n > 63 || !bucket_char(b[0]) || !bucket_char(b[n - 1])) return false;
    for (size_t i = 1; i + 1 < n; i++) {
        if (!bucket_char(b[i]) && b[i] != '.' && b[i] != '-') return false;
        if (b[i] == '.' && b[i + 1] == '.') return false;
    }
    return true;
}

/* ---- the remote ---- */

static const char no_scheme[] =
    "it must be s3://BUCKET/KEY or file:///DIR/KEY (an absolute path), in lower case";

static const char no_query[] = "has a query (after a ?), but a remote is the object's name only";

/* Scheme and bucket of v; *rest is what comes after them, without the '/' that divides them. */
static enum r2_code parse_remote(struct r2_config_load *l, const struct r2_config_value *v,
                                 const char **rest)
{
    const char *t = v->text;
    if (strncasecmp(t, "http://", 7) == 0 || strncasecmp(t, "https://", 8) == 0)
        return r2_config_wrong_hidden(l, v,
                                      "is an http address, but it must name the object as "
                                      "s3://BUCKET/KEY; the address goes into the URI parameter "
                                      "endpoint or the environment variable R2_ENDPOINT");
    if (strncmp(t, "file:///", 8) == 0) {
        if (strchr(t, '?')) return r2_config_wrong_hidden(l, v, no_query);
        l->out->scheme = R2_SCHEME_FILE;
        *rest = t + 8;
        return R2_OK;
    }
    const char *after = strstr(t, "://");
    size_t authority = after ? strcspn(after + 3, "/") : 0;
    bool s3 = strncmp(t, "s3://", 5) == 0;
    if ((after && memchr(after + 3, '@', authority)) || (!s3 && strchr(t, '@')))
        return r2_config_wrong_hidden(
            l, v,
            "has a user name or password before an @; credentials are never part of a remote: set "
            "R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY in the environment");
    if (!s3) return r2_config_wrong(l, v, no_scheme);
    if (strchr(t, '?')) return r2_config_wrong_hidden(l, v, no_query);
    const char *b = t + 5;
    if (authority == 0) return r2_config_wrong(l, v, "the name of the bucket is missing");
    if (!bucket_ok(b, authority))
        return r2_config_wrong(l, v,
                               "the name of a bucket has 3 to 63 characters a-z 0-9 . -, begins "
                               "and ends with a letter or digit");
    memcpy(l->out->bucket, b, authority);
    l->out->bucket[authority] = 0;
    l->out->scheme = R2_SCHEME_S3;
    *rest = b + authority + (b[authority] == '/');
    return R2_OK;
}

static enum r2_code set_key(struct r2_config_load *l, const struct r2_config_value *v,
                            const char *key)
{
    struct r2_config *c = l->out;
    const char *wrong = wrong_key(key);
    if (wrong) return r2_config_wrong(l, v, wrong);
    r2_strcpy(c->key, sizeof c->key, key);
    if (c->scheme == R2_SCHEME_FILE && l->path[0] == '/' && strcmp(l->path + 1, key) == 0)
        return r2_config_wrong(l, v,
                               "that is the database file itself; the remote must be another file");
    int n = c->scheme == R2_SCHEME_S3
                ? snprintf(c->url, sizeof c->url, "s3://%s/%s", c->bucket, c->key)
                : snprintf(c->url, sizeof c->url, "file:///%s", c->key);
    if (n < 0 || (size_t)n >= sizeof c->url) return r2_config_wrong(l, v, "it is too long");
    return R2_OK;
}

/* What of `path` is below folder `root`, or NULL. */
static const char *below(const char *path, const char *root)
{
    size_t n = strlen(root);
    while (n && root[n - 1] == '/')
        n--;
    if (strncmp(path, root, n) != 0 || path[n] != '/') return NULL;
    path += n;
    while (*path == '/')
        path++;
    return *path ? path : NULL;
}

/* The database's name below the prefix; *name NULL when it lies outside the root. */
static enum r2_code local_name(struct r2_config_load *l, const char **name)
{
    struct r2_config_value root = r2_config_pick(l, NULL, "R2VFS_ROOT");
    const char *slash = strrchr(l->path, '/');
    *name = slash ? slash + 1 : l->path;
    if (!root.text) return R2_OK;
    if (root.text[0] != '/')
        return r2_config_wrong(l, &root, "it must be an absolute path, beginning with /");
    const char *real = r2_config_env(l, R2_CONFIG_REAL_ROOT);
    *name = below(l->path, root.text);
    if (!*name && real && real[0] == '/') *name = below(l->path, real);
    return R2_OK;
}

/* R2VFS_REMOTE is a prefix; the key is prefix/name. */
static enum r2_code load_prefix(struct r2_config_load *l, const struct r2_config_value *v)
{
    const char *rest, *name;
    char key[R2_KEY_BYTES];
    enum r2_code code = local_name(l, &name);
    if (code || !name) return code;
    code = parse_remote(l, v, &rest);
    if (code) return code;
    size_t n = strlen(rest);
    while (n && rest[n - 1] == '/')
        n--;
    if (n > R2_KEY_MAX) return r2_config_wrong(l, v, "a key may have at most 900 bytes");
    r2_strcpy(key, sizeof key, rest);
    key[n] = 0;
    const char *wrong = n ? wrong_key(key) : NULL;
    if (wrong) return r2_config_wrong(l, v, wrong);
    int len = snprintf(key + n, sizeof key - n, "%s%s", n ? "/" : "", name);
    /* what is wrong now is the file's name */
    struct r2_config_value file = {l->path, "with R2VFS_REMOTE,", "the database file's path"};
    if (len < 0 || (size_t)len >= sizeof key - n)
        return r2_config_wrong(l, &file, "a key may have at most 900 bytes");
    return set_key(l, &file, key);
}

static enum r2_code load_remote(struct r2_config_load *l)
{
    const char *key;
    struct r2_config_value v = r2_config_pick(l, "remote", "R2VFS_REMOTE");
    if (!v.text) return R2_OK;
    if (strcmp(v.name, "R2VFS_REMOTE") == 0) return load_prefix(l, &v);
    enum r2_code code = parse_remote(l, &v, &key);
    return code ? code : set_key(l, &v, key);
}

/* ---- options ---- */

/* One of the words, as its index, or a number; words end with NULL. */
struct option {
    const char *uri, *env;
    const char *const *words;
    uint64_t min, max; /* of a number; max 0: words only */
    const char *allowed;
};

static const char *const sync_words[] = {"close", "commit", "manual", NULL};
static const char *const refresh_words[] = {"open", NULL};
static const char *const layout_words[] = {"object", "log", NULL};
static const char *const conflict_words[] = {"fork", "error", NULL};
static const char *const offline_words[] = {"error", "allow", NULL};
static const char *const progress_words[] = {"0", "1", NULL};
static const char *const no_words[] = {NULL};

static const struct option options[] = {
    {"sync", "R2VFS_SYNC", sync_words, 1, 86400000,
     "it must be close, commit, manual, or a number of milliseconds from 1 to 86400000"},
    {"refresh", "R2VFS_REFRESH", refresh_words, 0, 86400000,
     "it must be open, or a number of milliseconds from 0 to 86400000"},
    {"layout", "R2VFS_LAYOUT", layout_words, 0, 0, "it must be log or object"},
    {"conflict", "R2VFS_CONFLICT", conflict_words, 0, 0, "it must be fork or error"},
    {"offline", "R2VFS_OFFLINE", offline_words, 0, 0, "it must be error or allow"},
    {"timeout", "R2VFS_TIMEOUT", no_words, 100, 3600000,
     "it must be a number of milliseconds from 100 to 3600000"},
    {"retention", "R2VFS_RETENTION", no_words, 3600, 3153600000,
     "it must be a number of seconds from 3600 to 3153600000"},
    {NULL, "R2VFS_PROGRESS", progress_words, 0, 0, "it must be 0 or 1"},
};

/* What an option was set to. */
struct choice {
    bool given;
    int word; /* index, or -1: number */
    uint64_t number;
};
enum { SYNC, REFRESH, LAYOUT, CONFLICT, OFFLINE, TIMEOUT, RETENTION, PROGRESS, OPTIONS };

static enum r2_code choose(struct r2_config_load *l, const struct option *o, struct choice *c)
{
    struct r2_config_value v = r2_config_pick(l, o->uri, o->env);
    c->given = v.text != NULL;
    if (!v.text) return R2_OK;
    for (c->word = 0; o->words[c->word]; c->word++)
        if (strcmp(v.text, o->words[c->word]) == 0) return R2_OK;
    c->word = -1;
    if (o->max && r2_parse_u64(v.text, o->max, &c->number) && c->number >= o->min) return R2_OK;
    return r2_config_wrong(l, &v, o->allowed);
}

/* An earlier version, by its number or its time: only in the URI, as it is for one open. */
static enum r2_code load_past(struct r2_config_load *l)
{
    struct r2_config_value version = r2_config_pick(l, "version", NULL);
    struct r2_config_value at = r2_config_pick(l, "at", NULL);
    struct r2_config *out = l->out;
    if (!version.text && !at.text) return R2_OK;
    if (out->scheme == R2_SCHEME_NONE)
        return r2_fail(l->e, R2_CONFIG,
                       "the URI parameter %s shows an earlier version from the remote, and this "
                       "database has no remote: give one with remote=s3://BUCKET/KEY or "
                       "R2VFS_REMOTE",
                       version.text ? "version" : "at");
    if (version.text && at.text)
        return r2_fail(l->e, R2_CONFIG,
                       "the URI parameters version and at both say which version to show; give one "
                       "of them");
    if (version.text &&
        (!r2_parse_u64(version.text, INT64_MAX, &out->version) || out->version == 0))
        return r2_config_wrong(l, &version, "it must be a version's number, from 1");
    out->at_given = at.text != NULL;
    if (at.text && !r2_when_parse(at.text, &out->at_ms))
        return r2_config_wrong(l, &at,
                               "it must be a time as in 2026-11-23T17:05:00Z or "
                               "2026-11-23T18:05:00.250+01:00");
    return R2_OK;
}

static enum r2_code load_options(struct r2_config_load *l)
{
    struct r2_config *out = l->out;
    struct choice c[OPTIONS] = {0};
    for (size_t i = 0; i < OPTIONS; i++) {
        enum r2_code code = choose(l, &options[i], &c[i]);
        if (code) return code;
    }
    if (c[SYNC].given) {
        out->sync = c[SYNC].word >= 0 ? (enum r2_sync_mode)c[SYNC].word : R2_SYNC_TIMER;
        out->sync_ms = c[SYNC].word >= 0 ? 0 : (int64_t)c[SYNC].number;
    }
    if (c[REFRESH].given) {
        out->refresh_open = c[REFRESH].word == 0;
        out->refresh_ms = out->refresh_open ? 0 : (int64_t)c[REFRESH].number;
    }
    out->layout_given = c[LAYOUT].given;
    if (c[LAYOUT].given) out->layout = (enum r2_layout_kind)c[LAYOUT].word;
    if (c[CONFLICT].given) out->conflict = (enum r2_conflict_policy)c[CONFLICT].word;
    if (c[OFFLINE].given) out->offline_allow = c[OFFLINE].word == 1;
    if (c[TIMEOUT].given) out->timeout_ms = (int64_t)c[TIMEOUT].number;
    if (c[RETENTION].given) out->retention_s = (int64_t)c[RETENTION].number;
    if (c[PROGRESS].given) out->progress = c[PROGRESS].word == 1;
    return R2_OK;
}

/* ---- credentials where they must not be ---- */

/* SQLite hands a VFS only parameters that it asks for by name, in their exact case. (Not "key":
 * encryption extensions have one of that name.) */
static enum r2_code refuse_uri_secrets(const struct r2_config_load *l)
{
    static const char *const names[] = {"access_key",
                                        "access_key_id",
                                        "accesskey",
                                        "accesskeyid",
                                        "accessKey",
                                        "accessKeyId",
                                        "secret",
                                        "secret_key",
                                        "secret_access_key",
                                        "secretkey",
                                        "secretKey",
                                        "secretAccessKey",
                                        "secretaccesskey",
                                        "session_token",
                                        "sessiontoken",
                                        "sessionToken",
                                        "token",
                                        "api_token",
                                        "api_key",
                                        "apikey",
                                        "apiKey",
                                        "apiToken",
                                        "auth_token",
                                        "authToken",
                                        "password",
                                        "passwd",
                                        "credentials",
                                        "aws_access_key",
                                        "aws_access_key_id",
                                        "aws_secret_key",
                                        "aws_secret_access_key",
                                        "aws_session_token",
                                        "r2_access_key",
                                        "r2_access_key_id",
                                        "r2_secret_key",
                                        "r2_secret_access_key",
                                        "r2_session_token",
                                        "r2_token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char upper[32], lead[32];
        r2_strcpy(upper, sizeof upper, names[i]);
        r2_strcpy(lead, sizeof lead, names[i]);
        for (char *p = upper; *p; p++)
            *p = (char)toupper((unsigned char)*p);
        lead[0] = upper[0];
        const char *const spelt[] = {names[i], upper, lead};
        for (size_t k = 0; k < 3; k++)
            if (r2_config_pick(l, spelt[k], NULL).text)
                return r2_fail(l->e, R2_CONFIG,
                               "the URI parameter %s looks like a credential, and those must not "
                               "be in a URI, which ends up in logs; set R2_ACCESS_KEY_ID and "
                               "R2_SECRET_ACCESS_KEY in the environment",
                               spelt[k]);
    }
    return R2_OK;
}

/* ---- all ---- */

enum r2_code r2_config_load(const struct r2_config_source *src, const char *path,
                            struct r2_config *out, struct r2_err *e)
{
    struct r2_config_load l = {src, path, out, e};
    memset(out, 0, sizeof *out);
    r2_strcpy(out->region, sizeof out->region, "auto");
    out->refresh_open = true;
    out->timeout_ms = 30000;
    out->retention_s = 86400;
    out->layout = R2_LAYOUT_LOG;
    out->progress = true;
    enum r2_code code = load_remote(&l);
    if (code == R2_OK) code = r2_config_refuse_typos(&l);
    if (code == R2_OK) code = load_past(&l);
    if (code == R2_OK && out->scheme == R2_SCHEME_NONE) return R2_OK;
    if (code == R2_OK) code = refuse_uri_secrets(&l);
    if (code == R2_OK) code = load_options(&l);
    if (code == R2_OK && out->scheme == R2_SCHEME_S3) code = r2_config_load_s3(&l);
    if (code) { /* nobody goes on with half a configuration */
        out->scheme = R2_SCHEME_NONE;
        memset(&out->cred, 0, sizeof out->cred);
    }
    return code;
}

void r2_config_sync_text(const struct r2_config *c, char *out, size_t room)
{
    if (c->sync == R2_SYNC_TIMER)
        snprintf(out, room, "%lld", (long long)c->sync_ms);
    else
        snprintf(out, room, "%s", sync_words[c->sync]);
}

const char *r2_config_getenv(void *ctx, const char *name)
{
    static _Thread_local char real[PATH_MAX];
    (void)ctx;
    if (strcmp(name, R2_CONFIG_REAL_ROOT) != 0) return getenv(name);
    const char *root = getenv("R2VFS_ROOT");
    return root && *root ? realpath(root, real) : NULL;
}
