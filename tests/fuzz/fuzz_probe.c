/* fuzz_probe.c - an object's metadata, and what a replica decides on them. The input is a record's
 * numbers, then lines "name: value" as x-amz-meta-* would be. */
#include "fake_store.h"

#include "../../vfs/layout.h"
#include "../../vfs/plan.h"

static void decide(const struct r2_remote *seen, struct input numbers)
{
    static struct r2_record k;
    char why[R2_ERR_TEXT];
    uint32_t which = 0;
    memset(&k, 0, sizeof k);
    (void)r2_strcpy(k.url, sizeof k.url, "s3://bucket/app.db");
    k.base.version = take8(&numbers) % 8;
    k.base.checksum = (uint64_t)1 << 63;
    k.highest_seen = take8(&numbers);
    if (take8(&numbers) & 1) (void)r2_strcpy(k.base.etag, sizeof k.base.etag, "\"e\"");
    if (take8(&numbers) & 1) memcpy(k.base.lineage, seen->v.lineage, 16);
    if (k.base.version) r2_recent_prepend("", k.base.version, 0xab, k.base.recent);
    enum r2_relation relation = r2_plan_relation(&k, seen);
    RULE(relation <= R2_REL_HEADLESS);
    /* never down, and never to another database without a word */
    if (relation == R2_REL_NEWER) RULE(seen->v.version > k.base.version);
    if (relation == R2_REL_FIRST) RULE(!k.base.version);
    for (int local = R2_LOCAL_ABSENT; local <= R2_LOCAL_STRANGE; local++) {
        enum r2_action what = r2_plan((enum r2_local_kind)local, relation);
        RULE(what <= R2_DO_RESET);
        if (local == R2_LOCAL_DIRTY || local == R2_LOCAL_STRANGE) RULE(what != R2_DO_PULL);
    }
    r2_plan_explain(relation, &k, seen, why, sizeof why);
    RULE(memchr(why, 0, sizeof why) && !strchr(why, '\n') && !strchr(why, 27));
    k.pending.kind = R2_PENDING_PUSH;
    k.pending.v.version = k.base.version + 1;
    k.pending.tries = 2;
    k.pending.try[1].nonce = 0xab;
    k.pending.layout = seen->layout;
    enum r2_maker maker = r2_layout_maker(seen, &k.pending, &which);
    RULE(which < 2 && maker <= R2_MAKER_HIDDEN);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct r2_meta meta;
    static struct r2_remote seen;
    struct input in = {bytes, n}, numbers = {bytes, n < 4 ? n : 4};
    struct fake f = {.base = {.ops = &fake_ops}, .n = 1};
    struct r2_err e;
    struct r2_call call = {.err = &e};
    r2_err_clear(&e);
    for (size_t k = 0; k < 4; k++)
        (void)take8(&in);
    char *text = take_text(&in, 16384), *rest = text;
    r2_meta_clear(&meta);
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        char *colon = strstr(line, ": ");
        if (!colon) continue;
        *colon = 0;
        (void)r2_meta_add(&meta, line, colon + 2);
    }
    (void)r2_strcpy(f.object[0].key, sizeof f.object[0].key, "app.db");
    f.object[0].meta = &meta;
    enum r2_code rc = r2_layout_object.probe(&f.base, &call, "app.db", &seen);
    sentence(rc, &e);
    RULE(rc == R2_OK || rc == R2_CORRUPT);
    if (!rc) {
        RULE(seen.exists && seen.v.version >= 1 && seen.v.version <= INT64_MAX);
        RULE(!seen.has_checksum || r2_recent_valid(seen.v.recent, seen.v.version));
        RULE(!seen.older[0] || r2_recent_first(seen.older) < seen.v.version);
        decide(&seen, numbers);
    }
    RULE(!f.changed);
    free(text);
    return 0;
}
