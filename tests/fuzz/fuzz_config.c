/* fuzz_config.c - URI parameters, environment, and the path of the database. The input is lines:
 * "u name=value" of the URI, "e name=value" of the environment, "p path". */
#include "fuzz.h"

#include "../../vfs/config.h"

enum { PAIRS = 40 };
static const char marker[] = "S3cr3tM4rker";

struct pair {
    char kind;
    char *name, *value;
};
struct source {
    struct pair at[PAIRS];
    unsigned n;
    const char *only; /* one URI parameter in place of all, */
    const char *url;  /* and its value */
};

static const char *find(const struct source *s, char kind, const char *name)
{
    for (unsigned k = 0; k < s->n; k++)
        if (s->at[k].kind == kind && strcmp(s->at[k].name, name) == 0) return s->at[k].value;
    return NULL;
}
static const char *uri(void *ctx, const char *name)
{
    const struct source *s = ctx;
    if (s->only && strcmp(name, "remote") == 0) return s->url;
    return find(s, 'u', name);
}
static const char *env(void *ctx, const char *name)
{
    return find(ctx, 'e', name);
}

static bool plain_key(const char *key)
{
    if (!*key || strlen(key) > R2_KEY_MAX || key[strlen(key) - 1] == '/') return false;
    for (const char *p = key; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127 || *p == '\\') return false;
    size_t n = strlen(key);
    if ((n > 2 && strcmp(key + n - 3, "/..") == 0) || (n > 1 && strcmp(key + n - 2, "/.") == 0))
        return false;
    return !strstr(key, "//") && !strstr(key, "/../") && !strstr(key, "/./") &&
           strncmp(key, "../", 3) != 0 && strcmp(key, "..") != 0 && strcmp(key, ".") != 0 &&
           strncmp(key, "./", 2) != 0;
}

/* Secrets are where they belong, and nowhere else. */
static void no_secret(const struct source *s, const char *path, const struct r2_config *c,
                      const struct r2_err *e)
{
    if (strstr(path, marker)) return;
    for (unsigned k = 0; k < s->n; k++) {
        bool secret = s->at[k].kind == 'e' &&
                      (strstr(s->at[k].name, "SECRET") || strstr(s->at[k].name, "TOKEN"));
        if (!secret && strstr(s->at[k].value, marker)) return;
    }
    RULE(!strstr(e->text, marker) && !strstr(c->url, marker) && !strstr(c->endpoint, marker));
    RULE(!strstr(c->cred.access_key, marker));
}

static void accepted(const struct r2_config *c, const char *path)
{
    static struct r2_config again;
    struct r2_err e;
    if (c->scheme == R2_SCHEME_NONE) return;
    RULE(plain_key(c->key));
    RULE(strstr(c->url, c->key) && strstr(c->url, "://"));
    RULE(c->timeout_ms >= 100 && c->timeout_ms <= 3600000 && c->retention_s >= 3600);
    RULE(c->sync != R2_SYNC_TIMER || (c->sync_ms >= 1 && c->sync_ms <= 86400000));
    RULE(c->refresh_ms >= 0 && c->refresh_ms <= 86400000);
    RULE((unsigned)c->layout <= R2_LAYOUT_LOG && (unsigned)c->sync <= R2_SYNC_TIMER);
    if (c->scheme == R2_SCHEME_S3) {
        RULE(c->bucket[0] && strlen(c->bucket) >= 3 && strlen(c->bucket) <= 63);
        RULE(strncmp(c->endpoint, "http", 4) == 0 && !strpbrk(c->endpoint, "@?# \t\r\n\"<>\\"));
        RULE(c->cred.access_key[0] && c->cred.secret_key[0]);
        for (const char *p = c->cred.access_key; *p; p++)
            RULE(*p > 32 && *p < 127); /* it goes into a header */
        for (const char *p = c->region; *p; p++)
            RULE(*p > 32 && *p < 127 && *p != '/');
    }
    /* the canonical name means the same remote; in a URI a ? could be a query with credentials, but
     * a file below R2VFS_ROOT may be called so */
    if (strchr(c->url, '?')) return;
    struct source one = {.only = "remote", .url = c->url};
    one.at[0] = (struct pair){'e', "R2_ENDPOINT", "https://h"};
    one.at[1] = (struct pair){'e', "R2_ACCESS_KEY_ID", "a"};
    one.at[2] = (struct pair){'e', "R2_SECRET_ACCESS_KEY", "b"};
    one.n = 3;
    const struct r2_config_source src = {uri, env, &one};
    RULE(r2_config_load(&src, path, &again, &e) == R2_OK);
    RULE(strcmp(again.url, c->url) == 0 && again.scheme == c->scheme);
    RULE(strcmp(again.key, c->key) == 0 && strcmp(again.bucket, c->bucket) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct r2_config c;
    struct input in = {bytes, n};
    struct source s = {.n = 0};
    struct r2_err e;
    char *text = take_text(&in, 64 << 10), *path = NULL, *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL && s.n < PAIRS;) {
        char *value = strchr(line, '=');
        if (line[0] == 'p' && line[1] == ' ' && line[2] == '/') path = line + 2;
        if ((line[0] != 'u' && line[0] != 'e') || line[1] != ' ' || !value) continue;
        *value = 0;
        s.at[s.n++] = (struct pair){line[0], line + 2, value + 1};
    }
    const struct r2_config_source src = {uri, env, &s};
    r2_err_clear(&e);
    if (!path) path = "/data/app.db";
    enum r2_code rc = r2_config_load(&src, path, &c, &e);
    sentence(rc, &e);
    RULE(rc == R2_OK || rc == R2_CONFIG);
    no_secret(&s, path, &c, &e);
    if (rc)
        RULE(c.scheme == R2_SCHEME_NONE && !c.cred.secret_key[0] && !c.cred.session_token[0]);
    else
        accepted(&c, path);
    free(text);
    return 0;
}
