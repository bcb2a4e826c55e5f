/* dice.c - what a seed is: the machines, what may go wrong, what a process does next. */
#include "sim.h"

static uint32_t some(uint32_t most)
{
    return chance(400) ? 0 : below(most);
}

void dice(void)
{
    static const char *const journals[] = {"delete", "truncate", "persist", "wal", "wal", NULL};
    struct chances *p = &sim->p;
    sim->machines = 2 + below(2);
    sim->slots = chance(300) ? 2 : 1;
    sim->layout = chance(750) ? R2_LAYOUT_LOG : R2_LAYOUT_OBJECT;
    sim->retention_s = chance(500) ? 3600 : 86400;
    sim->page_size = chance(700) ? 512 : 1024;
    sim->stock = chance(150);
    sim->resolve_local = chance(200);
    sim->collects = chance(200); /* days pass, and snapshots are written */
    /* not from the generator: the worlds without them stay what they were */
    sim->travels = sim->seed % 3 == 0;
    sim->moves = sim->seed % 4 == 0;
    sim->timers = sim->seed % 5 < 2;
    sim->counts = sim->seed % 7 == 0;
    if (sim->counts) sim->stock = sim->resolve_local = sim->travels = sim->moves = false;
    /* in the object layout what plain SQLite changes keeps the version before it */
    if (sim->travels && sim->layout == R2_LAYOUT_OBJECT) sim->stock = true;
    *p = (struct chances){.lost = some(150),
                          .never = some(100),
                          .late = chance(200) ? below(500) : some(150),
                          .refused = some(100),
                          .denied = some(30),
                          .damaged = some(60),
                          .slow = some(15),
                          .kill = some(250),
                          .power = chance(500) ? below(1000) : 0,
                          .full = some(60),
                          .io = chance(300) ? below(8) : 0,
                          .jump = some(60),
                          .hand = chance(800) ? below(400) : 0,
                          .call = chance(500) ? below(20) : below(sim->slots > 1 ? 200 : 30),
                          .pass = below(150)};
    if (sim->counts) p->power = 0; /* what it takes along is not counted */
    if (sim->collects) {
        sim->retention_s = 3600;
        p->pass = 250;
        p->jump /= 4;
    }
    enum r2_sync_mode all = chance(300)   ? R2_SYNC_COMMIT
                            : chance(300) ? R2_SYNC_MANUAL
                                          : R2_SYNC_CLOSE;
    bool mixed = chance(400);
    for (int k = 0; k < MACHINES; k++) {
        struct machine *m = &sim->m[k];
        m->journal = journals[below(6)];
        m->sync =
            !mixed ? all
                   : (enum r2_sync_mode[]){R2_SYNC_CLOSE, R2_SYNC_COMMIT, R2_SYNC_MANUAL}[below(3)];
        if (sim->timers && chance(600)) m->sync = R2_SYNC_TIMER;
        m->refresh = chance(500) ? -1 : chance(500) ? 0 : 1000;
        m->error_policy = chance(150);
        m->wins = false;
        m->skew_ns = chance(300) ? ((int64_t)below(1600) - 800) * 1000 * MS : 0;
    }
}

void tell_dice(void)
{
    const struct chances *p = &sim->p;
    trace("%s layout, %u machines with %u processes, pages of %u, retention %u s%s%s%s%s%s%s",
          sim->layout == R2_LAYOUT_LOG ? "log" : "object", sim->machines, sim->slots,
          sim->page_size, sim->retention_s, sim->stock ? ", plain SQLite, too" : "",
          sim->collects ? ", collecting" : "", sim->resolve_local ? ", local wins" : "",
          sim->travels ? ", time travel" : "", sim->moves ? ", changes of layout" : "",
          sim->counts ? ", counting" : "");
    trace(
        "of 1000: lost %u, never %u, late %u, refused %u, denied %u, damaged %u, slow %u; kill %u, "
        "power %u; full %u, io %u; jump %u, pass %u; hand %u, call %u",
        p->lost, p->never, p->late, p->refused, p->denied, p->damaged, p->slow, p->kill, p->power,
        p->full, p->io, p->jump, p->pass, p->hand, p->call);
    for (uint32_t k = 0; k < sim->machines; k++)
        trace("machine %u: sync=%s, refresh %d, journal %s%s", k,
              (const char *[]){"close", "commit", "manual", "2000"}[sim->m[k].sync],
              sim->m[k].refresh, sim->m[k].journal ? sim->m[k].journal : "as it is",
              sim->m[k].error_policy ? ", conflict=error" : "");
}

enum todo choose(struct worker *w)
{
    static const struct {
        enum todo todo;
        uint32_t weight;
    } what[] = {{DO_COMMIT, 400},        {DO_SYNC, 150},         {DO_CLOSE, 110},
                {DO_READ, 60},           {DO_PULL, 60},          {DO_ROLLBACK, 30},
                {DO_CHECKPOINT, 30},     {DO_TEND, 20},          {DO_RESOLVE_FORK, 15},
                {DO_RESOLVE_REMOTE, 6},  {DO_RESOLVE_LOCAL, 10}, {DO_VACUUM, 12},
                {DO_WAL_CHECKPOINT, 20}, {DO_EXIT, 10},          {DO_STOCK, 40}};
    uint32_t sum = 0, n;
    if (sim->collects && w->open && chance(150)) return DO_CHECKPOINT;
    if (w->open && w->next) {
        enum todo next = w->next;
        w->next = DO_OPEN;
        return next;
    }
    if (sim->travels && w->open && chance(120) && oracle_earlier(false)) {
        if (chance(400)) return DO_PAST;
        w->next = DO_RESTORE; /* refuses to put aside what was not pushed */
        return DO_SYNC;
    }
    if (sim->timers && w->open && chance(200)) return DO_TIMER;
    if (sim->counts && w->open && chance(300)) return DO_COUNT;
    if (sim->moves && w->open && chance(60)) return chance(500) ? DO_TO_LOG : DO_TO_OBJECT;
    if (!w->pid || !w->open)
        return sim->stock && chance(sim->travels ? 400 : 100) ? DO_STOCK : DO_OPEN;
    for (n = 0; n < sizeof what / sizeof *what; n++)
        sum += what[n].weight;
    uint32_t at = below(sum);
    for (n = 0; at >= what[n].weight; n++)
        at -= what[n].weight;
    if (what[n].todo == DO_STOCK && !sim->stock) return DO_COMMIT;
    if (what[n].todo == DO_RESOLVE_LOCAL && !sim->resolve_local) return DO_SYNC;
    /* told to set aside what stands on one base, and the same again: one fork stands for both */
    if (sim->counts && (what[n].todo == DO_RESOLVE_FORK || what[n].todo == DO_RESOLVE_REMOTE))
        return DO_SYNC;
    return what[n].todo;
}
