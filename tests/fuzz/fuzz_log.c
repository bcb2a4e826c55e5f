/* fuzz_log.c - what a hostile server lists in a log: its rows, the version that is chosen, and what
 * would be collected. Each entry of the input: a byte of kind and name, age, version. */
#include "fake_store.h"

#include "../../vfs/layout.h"
#include "../../vfs/log_list.h"

static const uint8_t lineage[16] = {0x3f, 0x9c, 0x2b, 0x71};

struct rows {
    struct r2_past_row at[4 * FAKE_OBJECTS + 2];
    unsigned n;
};

static void on_row(void *ctx, const struct r2_past_row *row)
{
    struct rows *r = ctx;
    RULE(row->version && (row->base || row->snapshot || row->segment));
    RULE(r->n < sizeof r->at / sizeof *r->at);
    r->at[r->n++] = *row;
}

struct listed {
    struct r2_past p;
    uint64_t last;
    bool sorted;
};

static bool on_entry(void *ctx, const struct r2_log_entry *entry)
{
    struct listed *d = ctx;
    RULE(entry->version);
    d->sorted = d->sorted && entry->version >= d->last;
    d->last = entry->version;
    return r2_past_add(&d->p, entry);
}

/* The same question, answered by looking at all rows again and again. */
static bool rebuildable(const struct rows *r, unsigned k)
{
    const struct r2_past_row *row = &r->at[k];
    if (row->base || row->snapshot) return true;
    return k > 0 && r->at[k - 1].version == row->version - 1 && rebuildable(r, k - 1);
}

static void check_rows(const struct rows *r, bool sorted)
{
    for (unsigned k = 0; sorted && k < r->n; k++) {
        RULE(!k || r->at[k].version > r->at[k - 1].version);
        RULE(r->at[k].reachable == rebuildable(r, k));
    }
}

static void check_choice(const struct rows *r, const struct r2_want *want, bool sorted)
{
    struct r2_choice c;
    r2_choice_begin(&c, want);
    for (unsigned k = 0; k < r->n; k++)
        r2_choice_row(&c, &r->at[k]);
    RULE(!c.version || c.base);
    if (!sorted || !c.version) return;
    RULE(c.base <= c.version && c.version <= c.newest);
    RULE(!want->version || c.version == want->version);
    for (unsigned k = 0; k < r->n; k++)
        if (r->at[k].version == c.version) RULE(rebuildable(r, k));
}

struct collecting {
    struct r2_collect c;
    bool stopped;
};

static bool on_collect(void *ctx, const struct r2_log_entry *e)
{
    struct collecting *g = ctx;
    g->stopped = !r2_collect_add(&g->c, e->kind == R2_LOG_BASE, e->version, e->modified_ms);
    return !g->stopped;
}

/* What goes is old, below the snapshot, and below a base that stays (or there is none at all). */
static void check_collect(struct fake *f, struct r2_log *l, uint64_t snapshot)
{
    static struct collecting g;
    uint64_t kept = UINT64_MAX;
    memset(&g, 0, sizeof g);
    g.c.snapshot = snapshot;
    g.c.retention_ms = 3600000;
    g.c.signed_ms = 1000000000000;
    RULE(r2_log_list(l, lineage, 0, on_collect, &g) == R2_OK);
    r2_collect_decide(&g.c);
    RULE(g.c.bases <= R2_COLLECT_BASES && g.c.segments <= R2_COLLECT_MAX);
    for (uint32_t k = g.c.bases; k-- > 0;)
        if (!g.c.base[k].drop) kept = g.c.base[k].version;
    RULE(!g.c.bases || kept != UINT64_MAX); /* never the last one */
    for (uint32_t k = 0; k < g.c.segments; k++) {
        RULE(g.c.segment[k] <= snapshot && g.c.segment[k] <= kept);
        bool old = false;
        for (unsigned i = 0; i < f->n; i++)
            old = old || f->object[i].modified_ms < g.c.signed_ms - g.c.retention_ms;
        RULE(old);
    }
}

static void fill(struct fake *f, struct input *in)
{
    static const char *const suffix[] = {".ltx", ".db", ".ltx", ".tmp"};
    while (in->left > 3 && f->n < FAKE_OBJECTS) {
        struct fake_object *o = &f->object[f->n++];
        uint8_t kind = take8(in);
        o->modified_ms = 1000000000000 - (int64_t)take8(in) * 120000;
        if (kind & 4) {
            r2_log_key("app.db", lineage, take8(in), suffix[kind & 3], o->key);
        } else if (kind & 8) {
            r2_log_key("app.db", lineage, take64(in), suffix[kind & 3], o->key);
        } else { /* any name, also outside of the folder that was asked for */
            char *name = take_text(in, 40);
            snprintf(o->key, sizeof o->key, "%s%s", kind & 16 ? "" : "app.db-log/3f9c2b71/", name);
            free(name);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct fake f;
    struct input in = {bytes, n};
    struct r2_err e;
    struct r2_call call = {.err = &e};
    struct r2_log l = {.store = &f.base, .call = &call, .key = "app.db", .db_path = "/nowhere"};
    struct rows rows = {.n = 0};
    struct listed d = {.sorted = true};
    memset(&f, 0, sizeof f);
    f.base.ops = &fake_ops;
    uint8_t snapshot = take8(&in), wanted = take8(&in), age = take8(&in);
    fill(&f, &in);
    const struct r2_want by_number = {.version = wanted};
    const struct r2_want by_time = {.at_ms = 1000000000000 - (int64_t)age * 120000};
    r2_past_begin(&d.p, snapshot, 1, 1000000000000 - 60000, on_row, &rows);
    RULE(r2_log_list(&l, lineage, 0, on_entry, &d) == R2_OK);
    r2_past_end(&d.p);
    bool sorted = d.sorted; /* a hostile server need not keep the order */
    check_rows(&rows, sorted);
    if (wanted) check_choice(&rows, &by_number, sorted);
    check_choice(&rows, &by_time, sorted);
    if (snapshot) check_collect(&f, &l, snapshot);
    RULE(!f.changed);
    return 0;
}
