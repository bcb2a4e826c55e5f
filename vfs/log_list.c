/* log_list.c - see log_list.h. */
#include "log_list.h"

#include <string.h>

#include "buf.h"

/* ---- listing ---- */

struct listing {
    r2_log_entry_fn fn;
    void *ctx;
    size_t prefix;
};

static bool on_key(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    const struct listing *g = ctx;
    const char *name = strlen(key) > g->prefix ? key + g->prefix : "";
    struct r2_log_entry entry = {.bytes = size, .modified_ms = modified_ms};
    char digits[17];
    size_t n = strlen(name);
    if (n < 17) return true;
    memcpy(digits, name, 16);
    digits[16] = 0;
    if (strcmp(name + 16, ".ltx") == 0)
        entry.kind = R2_LOG_SEGMENT;
    else if (strcmp(name + 16, ".db") == 0)
        entry.kind = R2_LOG_BASE;
    else
        return true;
    if (!r2_parse_hex64(digits, 16, &entry.version) || !entry.version) return true;
    return g->fn(g->ctx, &entry);
}

enum r2_code r2_log_list(struct r2_log *l, const uint8_t lineage[16], uint64_t after,
                         r2_log_entry_fn fn, void *ctx)
{
    char folder[R2_LOG_KEY], last[R2_LOG_KEY];
    r2_log_key(l->key, lineage, after, ".ltx", last);
    (void)r2_strcpy(folder, sizeof folder, last);
    char *end = strrchr(folder, '/');
    end[1] = 0;
    struct listing g = {.fn = fn, .ctx = ctx, .prefix = strlen(folder)};
    enum r2_code rc =
        l->store->ops->list(l->store, l->call, folder, after ? last : NULL, on_key, &g);
    return rc ? r2_wrap(l->call->err, "cannot list %s", folder) : R2_OK;
}

/* ---- version by version ---- */

void r2_past_begin(struct r2_past *p, uint64_t version, uint64_t bytes, int64_t modified_ms,
                   r2_past_row_fn fn, void *ctx)
{
    memset(p, 0, sizeof *p);
    p->snapshot = (struct r2_past_row){
        .version = version, .bytes = bytes, .modified_ms = modified_ms, .snapshot = true};
    p->fn = fn;
    p->ctx = ctx;
}

/* The row is complete. */
static void tell_row(struct r2_past *p)
{
    struct r2_past_row *row = &p->row;
    if (!row->version) return;
    row->reachable =
        row->base || row->snapshot || (row->segment && p->reach && p->reach == row->version - 1);
    if (row->reachable) p->reach = row->version;
    p->fn(p->ctx, row);
    row->version = 0;
}

/* A row for this version: the one in progress, or a new one. */
static struct r2_past_row *row_of(struct r2_past *p, uint64_t version)
{
    if (p->row.version != version) {
        tell_row(p);
        p->row = (struct r2_past_row){.version = version};
    }
    return &p->row;
}

static void add_snapshot(struct r2_past *p)
{
    struct r2_past_row *s = &p->snapshot, *row = row_of(p, s->version);
    row->snapshot = true;
    if (!row->base) row->bytes = s->bytes, row->modified_ms = s->modified_ms;
    s->version = 0;
}

bool r2_past_add(void *past, const struct r2_log_entry *entry)
{
    struct r2_past *p = past;
    /* at its own version it comes before the segment, which has the last word */
    if (p->snapshot.version &&
        (p->snapshot.version < entry->version ||
         (p->snapshot.version == entry->version && entry->kind == R2_LOG_SEGMENT)))
        add_snapshot(p);
    struct r2_past_row *row = row_of(p, entry->version);
    row->base = row->base || entry->kind == R2_LOG_BASE;
    row->segment = row->segment || entry->kind == R2_LOG_SEGMENT;
    row->bytes = entry->bytes;
    row->modified_ms = entry->modified_ms;
    return true;
}

void r2_past_end(struct r2_past *p)
{
    if (p->snapshot.version) add_snapshot(p);
    tell_row(p);
}

/* ---- choosing ---- */

void r2_choice_begin(struct r2_choice *c, const struct r2_want *want)
{
    memset(c, 0, sizeof *c);
    c->want = *want;
}

static void choose(struct r2_choice *c, const struct r2_past_row *row)
{
    c->version = row->version;
    c->base = c->whole;
    c->from_snapshot = c->whole_is_snapshot;
    c->lost = 0;
}

void r2_choice_row(void *choice, const struct r2_past_row *row)
{
    struct r2_choice *c = choice;
    bool asked =
        c->want.version ? row->version == c->want.version : row->modified_ms <= c->want.at_ms;
    uint64_t hole = c->reach && c->reach < row->version - 1 ? c->reach + 1 : 0;
    if (c->newest < row->version) c->newest = row->version;
    if (row->base || row->snapshot) {
        c->whole = row->version;
        c->whole_is_snapshot = row->snapshot;
    }
    if (row->reachable && !c->oldest) c->oldest = row->version, c->oldest_ms = row->modified_ms;
    /* what was copied late is not younger than what came after it */
    if (row->reachable && row->modified_ms < c->oldest_ms) c->oldest_ms = row->modified_ms;
    if (asked && row->reachable) {
        choose(c, row);
    } else if (asked && c->oldest) { /* not an older one in its place */
        c->version = 0;
        c->lost = hole;
    }
    /* the version asked for is itself the one that is missing, or may be */
    if (hole && c->want.version > c->reach && c->want.version < row->version) c->lost = hole;
    if (hole && !c->want.version && !asked && c->version == c->reach) {
        c->version = 0;
        c->lost = hole;
    }
    if (row->reachable) c->reach = row->version;
}
