/* config_int.h - between config.c and config_s3.c only. */
#ifndef R2_CONFIG_INT_H
#define R2_CONFIG_INT_H

#include "config.h"

struct r2_config_load {
    const struct r2_config_source *src;
    const char *path; /* the database file */
    struct r2_config *out;
    struct r2_err *e;
};

/* A value and where it is from, for sentences. */
struct r2_config_value {
    const char *text; /* NULL: not set */
    const char *kind; /* "the URI parameter", "the environment variable" */
    const char *name;
};

const char *r2_config_env(const struct r2_config_load *l, const char *name); /* "" is NULL */
/* The URI parameter `uri`, else the variable `env`; either may be NULL. */
struct r2_config_value r2_config_pick(const struct r2_config_load *l, const char *uri,
                                      const char *env);
/* R2_CONFIG: "<kind> <name> has the value "...", but <allowed>". */
enum r2_code r2_config_wrong(const struct r2_config_load *l, const struct r2_config_value *v,
                             const char *allowed);
/* The same for a value that may hold a credential: "<kind> <name> <allowed>". */
enum r2_code r2_config_wrong_hidden(const struct r2_config_load *l, const struct r2_config_value *v,
                                    const char *allowed);

/* R2_CONFIG for a URI parameter that looks like a misspelt one of ours. */
enum r2_code r2_config_refuse_typos(const struct r2_config_load *l);

/* Endpoint, region and credentials. */
enum r2_code r2_config_load_s3(struct r2_config_load *l);

#endif
