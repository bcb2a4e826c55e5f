/* config_typo.c - misspelt URI parameters.
 *
 * SQLite hands a VFS only the parameters that it asks for: remot=s3://... would silently be a plain
 * local file. So the likely slips of each name are asked for, too: a letter left out, two swapped,
 * one doubled, an s at the end, capitals. */
#include "config_int.h"

#include <ctype.h>
#include <string.h>

enum { NAME_MAX_BYTES = 16 };

static enum r2_code refuse(const struct r2_config_load *l, const char *slip, const char *name)
{
    if (strcmp(slip, name) == 0 || !r2_config_pick(l, slip, NULL).text) return R2_OK;
    return r2_fail(l->e, R2_CONFIG, "the URI parameter %s is not known; did you mean %s?", slip,
                   name);
}

static enum r2_code refuse_slips_of(const struct r2_config_load *l, const char *name)
{
    char slip[NAME_MAX_BYTES + 2];
    size_t n = strlen(name);
    enum r2_code code = R2_OK;
    for (size_t i = 0; !code && i < n; i++) { /* left out */
        memcpy(slip, name, i);
        memcpy(slip + i, name + i + 1, n - i);
        code = refuse(l, slip, name);
    }
    for (size_t i = 0; !code && i + 1 < n; i++) { /* swapped */
        memcpy(slip, name, n + 1);
        slip[i] = name[i + 1];
        slip[i + 1] = name[i];
        code = refuse(l, slip, name);
    }
    for (size_t i = 0; !code && i < n; i++) { /* doubled */
        memcpy(slip, name, i + 1);
        memcpy(slip + i + 1, name + i, n - i + 1);
        code = refuse(l, slip, name);
    }
    memcpy(slip, name, n);
    memcpy(slip + n, "s", 2);
    if (!code) code = refuse(l, slip, name);
    memcpy(slip, name, n + 1);
    slip[0] = (char)toupper((unsigned char)slip[0]);
    if (!code) code = refuse(l, slip, name);
    for (char *p = slip; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    return code ? code : refuse(l, slip, name);
}

enum r2_code r2_config_refuse_typos(const struct r2_config_load *l)
{
    /* "remote" first: without one nothing else is ours */
    static const char *const names[] = {"remote",  "sync",    "refresh",   "layout",   "conflict",
                                        "offline", "timeout", "retention", "endpoint", "version"};
    enum r2_code code = R2_OK;
    for (size_t i = 0; !code && i < sizeof names / sizeof *names; i++) {
        if (i && l->out->scheme == R2_SCHEME_NONE) break;
        code = refuse_slips_of(l, names[i]);
    }
    return code;
}
