/* config_s3.c - endpoint, region and credentials of an s3:// remote. */
#include "buf.h"
#include "config_int.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- endpoint ---- */

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* host, host:port, [v6], [v6]:port; n bytes. */
static bool host_ok(const char *host, size_t n)
{
    size_t i = 0;
    if (n && host[0] == '[') {
        for (i = 1; i < n && (is_alnum(host[i]) || host[i] == ':' || host[i] == '.'); i++) {
        }
        if (i == 1 || i == n || host[i++] != ']') return false;
    } else {
        if (n == 0 || !is_alnum(host[0])) return false;
        for (; i < n && (is_alnum(host[i]) || host[i] == '.' || host[i] == '-'); i++) {
        }
    }
    if (i == n) return true;
    char port[8];
    uint64_t number;
    size_t digits = n - i - 1;
    if (host[i] != ':' || digits == 0 || digits > 5) return false;
    memcpy(port, host + i + 1, digits);
    port[digits] = 0;
    return r2_parse_u64(port, 65535, &number) && number > 0;
}

/* "" or /part/part; n bytes. */
static bool prefix_ok(const char *p, size_t n)
{
    const char *end = p + n;
    while (p < end) {
        const char *part = ++p;
        while (p < end && *p != '/') {
            if (!is_alnum(*p) && !strchr("-._~%", *p)) return false;
            p++;
        }
        size_t len = (size_t)(p - part);
        bool dots = (len == 1 && part[0] == '.') || (len == 2 && part[0] == '.' && part[1] == '.');
        if (len == 0 || dots) return false;
    }
    return true;
}

static enum r2_code set_endpoint(struct r2_config_load *l, const struct r2_config_value *v)
{
    const char *t = v->text;
    if (strchr(t, '@'))
        return r2_config_wrong_hidden(
            l, v,
            "has an @; user names and passwords are no part of an endpoint: set "
            "R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY in the environment");
    if (strpbrk(t, "?#"))
        return r2_config_wrong_hidden(l, v,
                                      "has a query or fragment (? or #), which no endpoint has");
    size_t scheme = strncmp(t, "https://", 8) == 0 ? 8 : strncmp(t, "http://", 7) == 0 ? 7 : 0;
    static const char allowed[] =
        "it must be https://HOST or http://HOST, in lower case, with an optional :PORT (1 to "
        "65535) and an optional /PREFIX";
    if (!scheme) return r2_config_wrong(l, v, allowed);
    size_t n = strlen(t);
    while (n > scheme && t[n - 1] == '/')
        n--;
    if (n >= sizeof l->out->endpoint)
        return r2_config_wrong(l, v, "it is longer than the 511 bytes that an endpoint may have");
    size_t host = strcspn(t + scheme, "/");
    if (host > n - scheme) host = n - scheme;
    if (!host_ok(t + scheme, host) || !prefix_ok(t + scheme + host, n - scheme - host))
        return r2_config_wrong(l, v, allowed);
    memcpy(l->out->endpoint, t, n);
    l->out->endpoint[n] = 0;
    return R2_OK;
}

static enum r2_code account_endpoint(struct r2_config_load *l, const struct r2_config_value *id)
{
    static const char *const places[] = {"eu", "fedramp", "us"};
    size_t n = strlen(id->text), i;
    for (i = 0; i < n && is_alnum(id->text[i]); i++) {
    }
    if (i < n || n > 63)
        return r2_config_wrong(l, id,
                               "an account id has letters and digits only (at most 63; R2's have "
                               "32 hex digits)");
    struct r2_config_value place = r2_config_pick(l, NULL, "R2_JURISDICTION");
    if (place.text && strcmp(place.text, "default") != 0) {
        for (i = 0; i < 3 && strcmp(place.text, places[i]) != 0; i++) {
        }
        if (i == 3) return r2_config_wrong(l, &place, "it must be eu, fedramp, us or default");
        snprintf(l->out->endpoint, sizeof l->out->endpoint,
                 "https://%s.%s.r2.cloudflarestorage.com", id->text, place.text);
        return R2_OK;
    }
    snprintf(l->out->endpoint, sizeof l->out->endpoint, "https://%s.r2.cloudflarestorage.com",
             id->text);
    return R2_OK;
}

static enum r2_code set_region(struct r2_config_load *l)
{
    struct r2_config_value v = r2_config_pick(l, NULL, "AWS_REGION");
    if (!v.text) v = r2_config_pick(l, NULL, "AWS_DEFAULT_REGION");
    if (!v.text) return R2_OK;
    size_t i = 0;
    while (is_alnum(v.text[i]) || v.text[i] == '-')
        i++;
    if (v.text[i] || i >= sizeof l->out->region)
        return r2_config_wrong(l, &v, "a region has letters, digits and hyphens only (at most 63)");
    r2_strcpy(l->out->region, sizeof l->out->region, v.text);
    return R2_OK;
}

static enum r2_code load_endpoint(struct r2_config_load *l)
{
    struct r2_config_value v = r2_config_pick(l, "endpoint", "R2_ENDPOINT");
    if (v.text) return set_endpoint(l, &v);
    v = r2_config_pick(l, NULL, "R2_ACCOUNT_ID");
    if (v.text) return account_endpoint(l, &v);
    v = r2_config_pick(l, NULL, "AWS_ENDPOINT_URL_S3");
    if (!v.text)
        return r2_fail(l->e, R2_CONFIG,
                       "%s needs an endpoint: set R2_ACCOUNT_ID (and R2_JURISDICTION if the bucket "
                       "has one), or R2_ENDPOINT, or AWS_ENDPOINT_URL_S3 in the environment, or "
                       "the URI parameter endpoint",
                       l->out->url);
    enum r2_code code = set_endpoint(l, &v);
    return code ? code : set_region(l);
}

/* ---- credentials ---- */

/* They go into headers and signatures: printable ASCII without blanks. A line break at the end,
 * from a file, is the usual mistake. */
static enum r2_code set_secret(const struct r2_config_load *l, const char *name, const char *text,
                               char *out, size_t room)
{
    struct r2_config_value v = {text, "the environment variable", name};
    for (const char *p = text; *p; p++)
        if (*p < 33 || *p > 126)
            return r2_config_wrong_hidden(l, &v,
                                          "holds a character that no credential has (a blank or a "
                                          "line break?)");
    if (r2_strcpy(out, room, text)) return R2_OK;
    return r2_config_wrong_hidden(l, &v, "is too long for a credential");
}

/* The three of one family belong together. */
static enum r2_code load_credentials(struct r2_config_load *l)
{
    static const char *const names[2][3] = {
        {"R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_SESSION_TOKEN"},
        {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}};
    struct r2_credentials *c = &l->out->cred;
    char *const to[3] = {c->access_key, c->secret_key, c->session_token};
    const size_t room[3] = {sizeof c->access_key, sizeof c->secret_key, sizeof c->session_token};
    for (size_t f = 0; f < 2; f++) {
        const char *text[3];
        for (size_t i = 0; i < 3; i++)
            text[i] = r2_config_env(l, names[f][i]);
        if (!text[0] && !text[1] && !text[2]) continue;
        for (size_t i = 0; i < 2; i++)
            if (!text[i])
                return r2_fail(l->e, R2_CONFIG,
                               "%s needs credentials, and the environment variable %s is not set, "
                               "though %s is; set both (R2_ and AWS_ ones are never mixed)",
                               l->out->url, names[f][i], names[f][text[1 - i] ? 1 - i : 2]);
        for (size_t i = 0; i < 3; i++) {
            if (!text[i]) continue;
            enum r2_code code = set_secret(l, names[f][i], text[i], to[i], room[i]);
            if (code) return code;
        }
        return R2_OK;
    }
    return r2_fail(l->e, R2_CONFIG,
                   "%s needs credentials: set R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY, or "
                   "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the environment",
                   l->out->url);
}

enum r2_code r2_config_load_s3(struct r2_config_load *l)
{
    enum r2_code code = load_endpoint(l);
    return code ? code : load_credentials(l);
}
