/* test_config.c - every name of the configuration: defaults, limits from both sides, sentences. */
#include "unit.h"

#include "../../vfs/config.h"

#include <sys/stat.h>

/* A configuration: "name=value" lines; URI parameters are written with a leading '?'. */
struct given {
    const char *lines[16];
};

/* The value of `name`, in front of a guard page. */
static const char *find(const struct given *g, char mark, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; g->lines[i]; i++) {
        const char *line = g->lines[i];
        bool uri = line[0] == '?';
        if (uri != (mark == '?')) continue;
        line += uri;
        if (strncmp(line, name, n) == 0 && line[n] == '=')
            return (const char *)unit_guarded(line + n + 1, strlen(line + n + 1) + 1);
    }
    return NULL;
}

static const char *from_uri(void *ctx, const char *name)
{
    return find(ctx, '?', name);
}

static const char *from_env(void *ctx, const char *name)
{
    return find(ctx, ' ', name);
}

static struct r2_config got;
static struct r2_err err;

static enum r2_code load_at(const char *path, struct given g)
{
    struct r2_config_source src = {from_uri, from_env, &g};
    memset(&got, 0xee, sizeof got);
    r2_err_clear(&err);
    return r2_config_load(&src, (const char *)unit_guarded(path, strlen(path) + 1), &got, &err);
}

#define GIVEN(...)    ((struct given){{__VA_ARGS__}})
#define LOAD(...)     load_at("/data/app.db", GIVEN(__VA_ARGS__))
#define HAS(word)     CU_ASSERT_PTR_NOT_NULL(strstr(err.text, word))
#define HAS_NOT(word) CU_ASSERT_PTR_NULL(strstr(err.text, word))
#define S3            "R2_ACCOUNT_ID=abc", "R2_ACCESS_KEY_ID=AK", "R2_SECRET_ACCESS_KEY=SK"
#define FILE_REMOTE   "?remote=file:///bucket/app.db"
#define WRONG(code_, word)                                                                         \
    do {                                                                                           \
        CU_ASSERT_EQUAL(code_, R2_CONFIG);                                                         \
        HAS(word);                                                                                 \
    } while (0)

static void nothing_given_passes_through(void)
{
    CU_ASSERT_EQUAL(LOAD(NULL), R2_OK);
    CU_ASSERT_EQUAL(got.scheme, R2_SCHEME_NONE);
    CU_ASSERT_STRING_EQUAL(got.url, "");
    CU_ASSERT_EQUAL(LOAD("?remote=", "R2VFS_REMOTE=", "?sync=nonsense"), R2_OK);
    CU_ASSERT_EQUAL(got.scheme, R2_SCHEME_NONE);
}

static void defaults_are_as_documented(void)
{
    CU_ASSERT_EQUAL(LOAD("?remote=s3://bkt/users/42/app.db", S3), R2_OK);
    CU_ASSERT_EQUAL(got.scheme, R2_SCHEME_S3);
    CU_ASSERT_STRING_EQUAL(got.url, "s3://bkt/users/42/app.db");
    CU_ASSERT_STRING_EQUAL(got.bucket, "bkt");
    CU_ASSERT_STRING_EQUAL(got.key, "users/42/app.db");
    CU_ASSERT_STRING_EQUAL(got.endpoint, "https://abc.r2.cloudflarestorage.com");
    CU_ASSERT_STRING_EQUAL(got.region, "auto");
    CU_ASSERT_STRING_EQUAL(got.cred.access_key, "AK");
    CU_ASSERT_STRING_EQUAL(got.cred.secret_key, "SK");
    CU_ASSERT_STRING_EQUAL(got.cred.session_token, "");
    CU_ASSERT_EQUAL(got.sync, R2_SYNC_CLOSE);
    CU_ASSERT_TRUE(got.refresh_open);
    CU_ASSERT_FALSE(got.layout_given);
    CU_ASSERT_EQUAL(got.layout, R2_LAYOUT_LOG);
    CU_ASSERT_EQUAL(got.conflict, R2_ON_CONFLICT_FORK);
    CU_ASSERT_FALSE(got.offline_allow);
    CU_ASSERT_EQUAL(got.timeout_ms, 30000);
    CU_ASSERT_EQUAL(got.retention_s, 86400);
    CU_ASSERT_TRUE(got.progress);
}

static void file_remote_needs_no_credentials(void)
{
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE), R2_OK);
    CU_ASSERT_EQUAL(got.scheme, R2_SCHEME_FILE);
    CU_ASSERT_STRING_EQUAL(got.url, "file:///bucket/app.db");
    CU_ASSERT_STRING_EQUAL(got.key, "bucket/app.db");
    WRONG(LOAD("?remote=file:///data/app.db"), "the database file itself");
}

static void wrong_remotes_are_explained(void)
{
    static const struct {
        const char *value, *word;
    } rows[] = {
        {"S3://bkt/k", "s3://BUCKET/KEY"},   {"s3:/bkt/k", "s3://BUCKET/KEY"},
        {"r2://bkt/k", "s3://BUCKET/KEY"},   {"bkt/k", "s3://BUCKET/KEY"},
        {"http://h/bkt/k", "endpoint"},      {"HTTPS://h/bkt/k", "R2_ENDPOINT"},
        {"file://k", "absolute path"},       {"file:k", "absolute path"},
        {"FILE:///k", "lower case"},         {"s3://", "bucket is missing"},
        {"s3:///k", "bucket is missing"},    {"s3://bkt", "names no object"},
        {"s3://bkt/", "names no object"},    {"file:///", "names no object"},
        {"s3://bkt/k/", "names a folder"},   {"s3://bkt/a//b", "empty parts"},
        {"s3://bkt//b", "empty parts"},      {"s3://bkt/./b", "\"..\""},
        {"s3://bkt/a/../b", "\"..\""},       {"s3://bkt/..", "\"..\""},
        {"file:///a/../b", "\"..\""},        {"s3://bk/k", "3 to 63"},
        {"s3://Bkt/k", "3 to 63"},           {"s3://b_t/k", "3 to 63"},
        {"s3://-bt/k", "3 to 63"},           {"s3://bt./k", "3 to 63"},
        {"s3://b..t/k", "3 to 63"},          {"s3://bkt/a\\b", "backslash"},
        {"s3://bkt/a\nb", "control"},        {"s3://bkt/a\x7f", "control"},
        {"s3://bkt/a\xc2\x85", "control"},   {"s3://bkt/a\xff", "UTF-8"},
        {"s3://bkt/a\xc3", "UTF-8"},         {"s3://bkt/a\xc0\xaf", "UTF-8"},
        {"s3://bkt/a\xed\xa0\x80", "UTF-8"}, {"s3://bkt/a\xf4\x90\x80\x80", "UTF-8"},
        {"s3://bkt/a\xe0\x80\xaf", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char line[256];
        snprintf(line, sizeof line, "?remote=%s", rows[i].value);
        enum r2_code code = LOAD(line, S3);
        if (code != R2_CONFIG || !strstr(err.text, rows[i].word))
            printf("\n  %s -> %d %s\n", rows[i].value, code, err.text);
        CU_ASSERT_EQUAL(code, R2_CONFIG);
        HAS(rows[i].word);
        HAS("the URI parameter remote");
        CU_ASSERT_EQUAL(got.scheme, R2_SCHEME_NONE);
    }
}

static void good_keys_are_kept_as_they_are(void)
{
    static const char *const keys[] = {
        "a",        "a.b/c-d_e/f",         "...",  ".hidden", "a b+c=d&e%20",
        "\xc3\xa9", "\xf0\x9f\x98\x80.db", "a..b", "x@y/#1"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char line[256];
        snprintf(line, sizeof line, "?remote=s3://my.bucket-1/%s", keys[i]);
        CU_ASSERT_EQUAL(LOAD(line, S3), R2_OK);
        CU_ASSERT_STRING_EQUAL(got.key, keys[i]);
        CU_ASSERT_STRING_EQUAL(got.url, line + 8);
    }
}

static void lengths_are_limited_from_both_sides(void)
{
    char line[2000], bucket[80];
    for (size_t n = R2_KEY_MAX; n <= R2_KEY_MAX + 1; n++) {
        size_t at = (size_t)snprintf(line, sizeof line, "?remote=s3://bkt/");
        memset(line + at, 'k', n);
        line[at + n] = 0;
        CU_ASSERT_EQUAL(LOAD(line, S3), n > R2_KEY_MAX ? R2_CONFIG : R2_OK);
        at = (size_t)snprintf(line, sizeof line, "?remote=file:///");
        memset(line + at, 'k', n);
        line[at + n] = 0;
        CU_ASSERT_EQUAL(LOAD(line), n > R2_KEY_MAX ? R2_CONFIG : R2_OK);
    }
    HAS("900");
    for (size_t n = 62; n <= 64; n++) {
        memset(bucket, 'b', n);
        bucket[n] = 0;
        snprintf(line, sizeof line, "?remote=s3://%s/k", bucket);
        CU_ASSERT_EQUAL(LOAD(line, S3), n > 63 ? R2_CONFIG : R2_OK);
    }
    memset(line, 'x', sizeof line);
    memcpy(line, "?remote=", 8);
    line[sizeof line - 1] = 0;
    CU_ASSERT_EQUAL(LOAD(line, S3), R2_CONFIG);
    CU_ASSERT_TRUE(strlen(err.text) < 400);
}

static void credentials_are_never_shown(void)
{
    static const char *const lines[] = {
        "?remote=s3://AKID:HUSH@bkt/k",      "?remote=s3://bkt/k?secret_access_key=HUSH",
        "?remote=file:///k?token=HUSH",      "?remote=https://u:HUSH@host/k",
        "?remote=s3:AKID:HUSH@bkt/k",        "?remote=file://u:HUSH@h/k",
        "?endpoint=https://u:HUSH@host",     "?endpoint=https://host/?token=HUSH",
        "?endpoint=HTTPS://u:HUSH@host",     "R2_SECRET_ACCESS_KEY=HUSH\n",
        "R2_SECRET_ACCESS_KEY=HUSH\x80HUSH", "R2_ACCESS_KEY_ID=HUSH HUSH",
        "R2_SESSION_TOKEN=HUSH\r",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        CU_ASSERT_EQUAL(LOAD(lines[i], "?remote=s3://bkt/k", S3), R2_CONFIG);
        HAS_NOT("HUSH");
        CU_ASSERT_PTR_NULL(memmem(&got, sizeof got, "HUSH", 4));
    }
}

static void a_refused_configuration_keeps_no_credential(void)
{
    CU_ASSERT_EQUAL(LOAD("?remote=s3://bkt/k", "R2_ACCOUNT_ID=abc", "R2_ACCESS_KEY_ID=HUSH",
                         "R2_SECRET_ACCESS_KEY=a b"),
                    R2_CONFIG);
    CU_ASSERT_PTR_NULL(memmem(&got, sizeof got, "HUSH", 4));
    CU_ASSERT_EQUAL(LOAD("?remote=s3://bkt/k", "R2_ACCOUNT_ID=abc", "R2_ACCESS_KEY_ID=a",
                         "R2_SECRET_ACCESS_KEY=a\x7f"),
                    R2_CONFIG);
}

static void credentials_in_the_uri_are_refused(void)
{
    static const char *const names[] = {"access_key", "secret_access_key", "AWS_SECRET_ACCESS_KEY",
                                        "password",   "secretAccessKey",   "SecretAccessKey",
                                        "token",      "R2_SESSION_TOKEN",  "Password"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char line[100];
        snprintf(line, sizeof line, "?%s=HUSH", names[i]);
        CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, line), R2_CONFIG);
        HAS(names[i]);
        HAS("R2_SECRET_ACCESS_KEY");
        HAS_NOT("HUSH");
    }
    CU_ASSERT_EQUAL(LOAD("?password=HUSH"), R2_OK); /* no remote: none of our business */
}

static void prefix_takes_the_base_name_or_the_path_below_the_root(void)
{
    static const struct {
        const char *remote, *root, *path, *url; /* url NULL: passes through */
    } rows[] = {
        {"s3://bkt/pre", "", "/data/u/app.db", "s3://bkt/pre/app.db"},
        {"s3://bkt/pre/", "", "/data/u/app.db", "s3://bkt/pre/app.db"},
        {"s3://bkt/a/b//", "", "/data/u/app.db", "s3://bkt/a/b/app.db"},
        {"s3://bkt", "", "/app.db", "s3://bkt/app.db"},
        {"s3://bkt/", "", "/app.db", "s3://bkt/app.db"},
        {"file:///", "", "/x/app.db", "file:///app.db"},
        {"file:///pre/", "/data", "/data/u/app.db", "file:///pre/u/app.db"},
        {"s3://bkt/pre", "/data", "/data/u/app.db", "s3://bkt/pre/u/app.db"},
        {"s3://bkt/pre", "/data/", "/data/u/app.db", "s3://bkt/pre/u/app.db"},
        {"s3://bkt/pre", "/data//", "/data/app.db", "s3://bkt/pre/app.db"},
        {"s3://bkt/pre", "/", "/data/app.db", "s3://bkt/pre/data/app.db"},
        {"s3://bkt/pre", "/data", "/database/app.db", NULL},
        {"s3://bkt/pre", "/data", "/data", NULL},
        {"s3://bkt/pre", "/data", "/dat/a", NULL},
        {"s3://bkt/pre", "/data", "/tmp/app.db", NULL},
        {"nonsense", "/data", "/tmp/app.db", NULL},
        {"s3://bkt/pre", "/link", "/really/u/app.db", "s3://bkt/pre/u/app.db"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char remote[100], root[100];
        snprintf(remote, sizeof remote, "R2VFS_REMOTE=%s", rows[i].remote);
        snprintf(root, sizeof root, "R2VFS_ROOT=%s", rows[i].root);
        const char *real =
            strcmp(rows[i].root, "/link") == 0 ? "R2VFS_ROOT (realpath)=/really" : "unused=";
        CU_ASSERT_EQUAL(load_at(rows[i].path, GIVEN(remote, root, real, S3)), R2_OK);
        CU_ASSERT_STRING_EQUAL(got.url, rows[i].url ? rows[i].url : "");
        CU_ASSERT_EQUAL(got.scheme == R2_SCHEME_NONE, rows[i].url == NULL);
    }
    WRONG(load_at("/d/a.db", GIVEN("R2VFS_REMOTE=s3://bkt", "R2VFS_ROOT=d", S3)), "R2VFS_ROOT");
    WRONG(load_at("/d/a.db", GIVEN("R2VFS_REMOTE=bkt", S3)), "R2VFS_REMOTE");
    WRONG(load_at("/d/a.db", GIVEN("R2VFS_REMOTE=s3://bkt/../x", S3)), "R2VFS_REMOTE");
    WRONG(load_at("/d/a\\b.db", GIVEN("R2VFS_REMOTE=s3://bkt", S3)), "backslash");
    WRONG(load_at("/d/a\x01", GIVEN("R2VFS_REMOTE=s3://bkt", S3)), "path");
    WRONG(load_at("/d/../etc/x", GIVEN("R2VFS_REMOTE=s3://bkt", "R2VFS_ROOT=/d", S3)), "\"..\"");
    WRONG(load_at("/d/a.db", GIVEN("R2VFS_REMOTE=file:///d")), "the database file itself");
}

static void a_long_path_below_a_long_prefix_is_refused(void)
{
    char remote[1100] = "R2VFS_REMOTE=s3://bkt/", path[1100] = "/d/";
    size_t at = strlen(remote);
    memset(remote + at, 'p', 890);
    memset(path + 3, 'f', 9);
    CU_ASSERT_EQUAL(load_at(path, GIVEN(remote, S3)), R2_OK); /* 890 + 1 + 9 */
    CU_ASSERT_EQUAL(strlen(got.key), R2_KEY_MAX);
    path[12] = 'f';
    WRONG(load_at(path, GIVEN(remote, S3)), "900");
    memset(path + 3, 'f', 1000);
    WRONG(load_at(path, GIVEN(remote, S3)), "900");
    memset(remote + at, 'p', 901);
    WRONG(load_at("/d/a", GIVEN(remote, S3)), "900");
    memset(remote + at, 'p', 1050);
    WRONG(load_at("/d/a", GIVEN(remote, S3)), "900");
}

static void the_uri_beats_the_environment(void)
{
    CU_ASSERT_EQUAL(LOAD("?remote=s3://bkt/k", "R2VFS_REMOTE=s3://other/pre", "?sync=manual",
                         "R2VFS_SYNC=close", "?timeout=200", "R2VFS_TIMEOUT=300",
                         "?endpoint=http://uri:1", "R2_ENDPOINT=http://env:1", S3),
                    R2_OK);
    CU_ASSERT_STRING_EQUAL(got.url, "s3://bkt/k");
    CU_ASSERT_EQUAL(got.sync, R2_SYNC_MANUAL);
    CU_ASSERT_EQUAL(got.timeout_ms, 200);
    CU_ASSERT_STRING_EQUAL(got.endpoint, "http://uri:1");
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "?sync=", "R2VFS_SYNC=5"), R2_OK); /* "" is not set */
    CU_ASSERT_EQUAL(got.sync, R2_SYNC_TIMER);
    WRONG(LOAD(FILE_REMOTE, "R2VFS_SYNC=never"), "variable R2VFS_SYNC has the value \"never\"");
    WRONG(LOAD(FILE_REMOTE, "?sync=never", "R2VFS_SYNC=close"), "URI parameter sync");
}

/* Each option: a text and whether it is accepted, both by URI and by environment. */
static void options_have_limits(void)
{
    static const struct {
        const char *uri, *env, *good, *bad; /* divided by blanks */
    } rows[] = {
        {"sync", "R2VFS_SYNC", "close manual 1 86400000 0005",
         "0 86400001 -1 Close 1s 1.5 99999999999999999999 +5 0x10"},
        {"refresh", "R2VFS_REFRESH", "open 0 1 86400000", "86400001 -1 never Open"},
        {"layout", "R2VFS_LAYOUT", "object", "Object tree 1"},
        {"conflict", "R2VFS_CONFLICT", "fork error", "Fork local 0"},
        {"offline", "R2VFS_OFFLINE", "error allow", "Allow 1 yes"},
        {"timeout", "R2VFS_TIMEOUT", "100 3600000", "99 3600001 0 open"},
        {"retention", "R2VFS_RETENTION", "3600 86400 3153600000", "3599 0 3153600001 1h"},
        {NULL, "R2VFS_PROGRESS", "0 1", "2 yes on 00"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int good = 0; good < 2; good++)
            for (int uri = 0; uri < 2; uri++) {
                const char *name = uri ? rows[i].uri : rows[i].env;
                const char *p = good ? rows[i].good : rows[i].bad;
                while (name && *p) {
                    char line[100];
                    int n = (int)strcspn(p, " ");
                    snprintf(line, sizeof line, "%s%s=%.*s", uri ? "?" : "", name, n, p);
                    p += n + (p[n] == ' ');
                    enum r2_code code = LOAD(FILE_REMOTE, line);
                    if (code != (good ? R2_OK : R2_CONFIG)) printf("\n  %s: %d\n", line, code);
                    CU_ASSERT_EQUAL(code, good ? R2_OK : R2_CONFIG);
                    if (!good) HAS(name);
                    if (!good) HAS("but it must be");
                }
            }
}

static void options_arrive(void)
{
    char text[32];
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "?sync=2500", "?refresh=0", "?layout=object",
                         "?conflict=error", "?offline=allow", "?timeout=100", "?retention=3600",
                         "R2VFS_PROGRESS=0"),
                    R2_OK);
    CU_ASSERT_EQUAL(got.sync, R2_SYNC_TIMER);
    CU_ASSERT_EQUAL(got.sync_ms, 2500);
    r2_config_sync_text(&got, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "2500");
    CU_ASSERT_FALSE(got.refresh_open);
    CU_ASSERT_EQUAL(got.refresh_ms, 0);
    CU_ASSERT_TRUE(got.layout_given);
    CU_ASSERT_EQUAL(got.conflict, R2_ON_CONFLICT_ERROR);
    CU_ASSERT_TRUE(got.offline_allow);
    CU_ASSERT_EQUAL(got.timeout_ms, 100);
    CU_ASSERT_EQUAL(got.retention_s, 3600);
    CU_ASSERT_FALSE(got.progress);
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "?refresh=1500"), R2_OK);
    CU_ASSERT_EQUAL(got.refresh_ms, 1500);
    static const char *const words[] = {"close", "commit", "manual"};
    for (int i = 0; i < 3; i++) {
        got.sync = (enum r2_sync_mode)i;
        r2_config_sync_text(&got, text, sizeof text);
        CU_ASSERT_STRING_EQUAL(text, words[i]);
    }
}

static void an_earlier_version_is_named_in_one_way(void)
{
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE), R2_OK);
    CU_ASSERT_TRUE(got.version == 0 && !got.at_given);
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "?version=1742"), R2_OK);
    CU_ASSERT_TRUE(got.version == 1742 && !got.at_given);
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "?version=9223372036854775807"), R2_OK);
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "?at=1970-01-01T00:00:01.5+00:00"), R2_OK);
    CU_ASSERT_TRUE(got.version == 0 && got.at_given && got.at_ms == 1500);
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "?at=1970-01-01T00:00:00Z"), R2_OK);
    CU_ASSERT_TRUE(got.at_given && got.at_ms == 0);
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "?version=", "?at="), R2_OK);
    CU_ASSERT_TRUE(got.version == 0 && !got.at_given);
    static const char *const numbers[] = {"?version=0", "?version=-1", "?version=1x", "?version= 1",
                                          "?version=9223372036854775808"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        WRONG(LOAD(FILE_REMOTE, numbers[i]), "it must be a version's number, from 1");
    static const char *const times[] = {"?at=now", "?at=2026-11-23", "?at=1700000000"};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        WRONG(LOAD(FILE_REMOTE, times[i]), "it must be a time as in");
    WRONG(LOAD(FILE_REMOTE, "?version=1", "?at=1970-01-01T00:00:00Z"), "both say which version");
    CU_ASSERT_EQUAL(got.scheme, R2_SCHEME_NONE);
    /* the database itself would be shown in its place */
    WRONG(LOAD("?version=1"), "has no remote");
    WRONG(LOAD("?at=1970-01-01T00:00:00Z"), "has no remote");
    CU_ASSERT_EQUAL(LOAD(FILE_REMOTE, "version=3", "at=x"), R2_OK); /* not from the environment */
    CU_ASSERT_TRUE(got.version == 0 && !got.at_given);
}

#define BKT  "?remote=s3://bkt/k"
#define KEYS "R2_ACCESS_KEY_ID=AK", "R2_SECRET_ACCESS_KEY=SK"

static void endpoints_come_from_four_places(void)
{
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, "?endpoint=http://127.0.0.1:8787/cdn-cgi/local/r2/s3/",
                         "R2_ACCOUNT_ID=abc"),
                    R2_OK);
    CU_ASSERT_STRING_EQUAL(got.endpoint, "http://127.0.0.1:8787/cdn-cgi/local/r2/s3");
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, "R2_ENDPOINT=https://e1", "R2_ACCOUNT_ID=abc"), R2_OK);
    CU_ASSERT_STRING_EQUAL(got.endpoint, "https://e1");
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, "R2_ACCOUNT_ID=abc", "R2_JURISDICTION=eu",
                         "AWS_ENDPOINT_URL_S3=https://e2"),
                    R2_OK);
    CU_ASSERT_STRING_EQUAL(got.endpoint, "https://abc.eu.r2.cloudflarestorage.com");
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, "R2_ACCOUNT_ID=abc", "R2_JURISDICTION=fedramp"), R2_OK);
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, "R2_ACCOUNT_ID=abc", "R2_JURISDICTION=us"), R2_OK);
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, "R2_ACCOUNT_ID=abc", "R2_JURISDICTION=default"), R2_OK);
    CU_ASSERT_STRING_EQUAL(got.endpoint, "https://abc.r2.cloudflarestorage.com");
    WRONG(LOAD(BKT, KEYS, "R2_ACCOUNT_ID=abc", "R2_JURISDICTION=EU"), "R2_JURISDICTION");
    WRONG(LOAD(BKT, KEYS, "R2_ACCOUNT_ID=a/b"), "R2_ACCOUNT_ID");
    WRONG(LOAD(BKT, KEYS, "R2_ACCOUNT_ID=a.evil.example"), "R2_ACCOUNT_ID");
    WRONG(LOAD(BKT, KEYS,
               "R2_ACCOUNT_ID=1234567890123456789012345678901234567890123456789012345678901234"),
          "63");
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, "AWS_ENDPOINT_URL_S3=https://e2"), R2_OK);
    CU_ASSERT_STRING_EQUAL(got.endpoint, "https://e2");
    CU_ASSERT_STRING_EQUAL(got.region, "auto");
    WRONG(LOAD(BKT, KEYS), "R2_ACCOUNT_ID");
    HAS("R2_ENDPOINT");
    HAS("s3://bkt/k");
}

static void wrong_endpoints_are_explained(void)
{
    static const char *const bad[] = {
        "host",          "ftp://h",       "HTTPS://h",      "https://",        "https:///p",
        "https://h:",    "https://h:0",   "https://h:x",    "https://h:65536", "https://h:123456",
        "https://-h",    "https://h_x",   "https://h h",    "https://h/a//b",  "https://h/../x",
        "https://h/a b", "https://h?x=1", "https://h/#f",   "https://u@h",     "https://u:p@h",
        "https://[::1",  "https://[]",    "https://[::1]x", "https://h/a\nb"};
    static const char *const good[] = {"https://h",     "http://localhost:1", "https://h:65535/p/q",
                                       "https://[::1]", "https://[::1]:9000", "http://h/a%20b~"};
    char line[800];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(line, sizeof line, "R2_ENDPOINT=%s", bad[i]);
        enum r2_code code = LOAD(BKT, KEYS, line);
        if (code != R2_CONFIG) printf("\n  %s: %d\n", line, code);
        WRONG(code, "R2_ENDPOINT");
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(line, sizeof line, "R2_ENDPOINT=%s", good[i]);
        CU_ASSERT_EQUAL(LOAD(BKT, KEYS, line), R2_OK);
        CU_ASSERT_STRING_EQUAL(got.endpoint, line + 12);
    }
    for (size_t n = 511; n <= 512; n++) {
        memset(line, 'h', sizeof line);
        memcpy(line, "R2_ENDPOINT=https://", 20);
        line[12 + n] = 0;
        CU_ASSERT_EQUAL(LOAD(BKT, KEYS, line), n > 511 ? R2_CONFIG : R2_OK);
    }
}

static void region_follows_the_aws_endpoint_only(void)
{
#define E2 "AWS_ENDPOINT_URL_S3=https://e2"
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, E2, "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=x"), R2_OK);
    CU_ASSERT_STRING_EQUAL(got.region, "us-east-1");
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, E2, "AWS_DEFAULT_REGION=x"), R2_OK);
    CU_ASSERT_STRING_EQUAL(got.region, "x");
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, "R2_ENDPOINT=https://e", "AWS_REGION=us-east-1"), R2_OK);
    CU_ASSERT_STRING_EQUAL(got.region, "auto");
    WRONG(LOAD(BKT, KEYS, E2, "AWS_REGION=a/b"), "AWS_REGION");
    char line[100] = "AWS_REGION=";
    memset(line + 11, 'r', 63);
    CU_ASSERT_EQUAL(LOAD(BKT, KEYS, E2, line), R2_OK);
    line[74] = 'r';
    WRONG(LOAD(BKT, KEYS, E2, line), "63");
}

static void credentials_come_as_one_family(void)
{
#define AC "R2_ACCOUNT_ID=abc"
    CU_ASSERT_EQUAL(
        LOAD(BKT, AC, "AWS_ACCESS_KEY_ID=A", "AWS_SECRET_ACCESS_KEY=B", "AWS_SESSION_TOKEN=C"),
        R2_OK);
    CU_ASSERT_STRING_EQUAL(got.cred.access_key, "A");
    CU_ASSERT_STRING_EQUAL(got.cred.secret_key, "B");
    CU_ASSERT_STRING_EQUAL(got.cred.session_token, "C");
    /* R2_ first, and no AWS_ token with them */
    CU_ASSERT_EQUAL(LOAD(BKT, AC, KEYS, "AWS_ACCESS_KEY_ID=A", "AWS_SECRET_ACCESS_KEY=B",
                         "AWS_SESSION_TOKEN=C"),
                    R2_OK);
    CU_ASSERT_STRING_EQUAL(got.cred.access_key, "AK");
    CU_ASSERT_STRING_EQUAL(got.cred.session_token, "");
    CU_ASSERT_EQUAL(LOAD(BKT, AC, KEYS, "R2_SESSION_TOKEN=T"), R2_OK);
    CU_ASSERT_STRING_EQUAL(got.cred.session_token, "T");
    WRONG(LOAD(BKT, AC, "R2_ACCESS_KEY_ID=A", "AWS_SECRET_ACCESS_KEY=B"),
          "R2_SECRET_ACCESS_KEY is not set, though R2_ACCESS_KEY_ID is");
    WRONG(LOAD(BKT, AC, "R2_SECRET_ACCESS_KEY=A"), "R2_ACCESS_KEY_ID is not set");
    WRONG(LOAD(BKT, AC, "R2_SESSION_TOKEN=A"), "though R2_SESSION_TOKEN is");
    WRONG(LOAD(BKT, AC, "AWS_SESSION_TOKEN=A"), "AWS_ACCESS_KEY_ID is not set");
    WRONG(LOAD(BKT, AC), "R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY, or AWS_ACCESS_KEY_ID");
}

static void long_credentials_are_refused_not_cut(void)
{
    char id[400] = "R2_ACCESS_KEY_ID=", token[5000] = "R2_SESSION_TOKEN=";
    memset(id + 17, 'a', R2_TEXT_BYTES - 1);
    CU_ASSERT_EQUAL(LOAD(BKT, AC, id, "R2_SECRET_ACCESS_KEY=S"), R2_OK);
    CU_ASSERT_EQUAL(strlen(got.cred.access_key), R2_TEXT_BYTES - 1);
    id[17 + R2_TEXT_BYTES - 1] = 'a';
    WRONG(LOAD(BKT, AC, id, "R2_SECRET_ACCESS_KEY=S"), "R2_ACCESS_KEY_ID is too long");
    memset(token + 17, 't', R2_SECRET_BYTES - 1);
    CU_ASSERT_EQUAL(LOAD(BKT, AC, KEYS, token), R2_OK);
    token[17 + R2_SECRET_BYTES - 1] = 't';
    WRONG(LOAD(BKT, AC, KEYS, token), "R2_SESSION_TOKEN is too long");
    HAS_NOT("ttt");
}

static void getenv_knows_the_real_root(void)
{
    char dir[] = "/tmp/r2cfgXXXXXX", link[64], real[4096];
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    snprintf(link, sizeof link, "%s/link", dir);
    CU_ASSERT_EQUAL(symlink("/usr", link), 0);
    setenv("R2VFS_ROOT", link, 1);
    CU_ASSERT_STRING_EQUAL(r2_config_getenv(NULL, "R2VFS_ROOT"), link);
    CU_ASSERT_PTR_NOT_NULL_FATAL(realpath("/usr", real));
    CU_ASSERT_STRING_EQUAL(r2_config_getenv(NULL, R2_CONFIG_REAL_ROOT), real);
    unsetenv("R2VFS_ROOT");
    CU_ASSERT_PTR_NULL(r2_config_getenv(NULL, R2_CONFIG_REAL_ROOT));
    CU_ASSERT_PTR_NULL(r2_config_getenv(NULL, "R2VFS_NO_SUCH_NAME"));
    unlink(link);
    rmdir(dir);
}

UNIT_MAIN("config", UNIT(nothing_given_passes_through), UNIT(defaults_are_as_documented),
          UNIT(file_remote_needs_no_credentials), UNIT(wrong_remotes_are_explained),
          UNIT(good_keys_are_kept_as_they_are), UNIT(lengths_are_limited_from_both_sides),
          UNIT(credentials_are_never_shown), UNIT(a_refused_configuration_keeps_no_credential),
          UNIT(credentials_in_the_uri_are_refused),
          UNIT(prefix_takes_the_base_name_or_the_path_below_the_root),
          UNIT(a_long_path_below_a_long_prefix_is_refused), UNIT(the_uri_beats_the_environment),
          UNIT(options_have_limits), UNIT(options_arrive),
          UNIT(an_earlier_version_is_named_in_one_way), UNIT(endpoints_come_from_four_places),
          UNIT(wrong_endpoints_are_explained), UNIT(region_follows_the_aws_endpoint_only),
          UNIT(credentials_come_as_one_family), UNIT(long_credentials_are_refused_not_cut),
          UNIT(getenv_knows_the_real_root))
