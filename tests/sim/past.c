/* past.c - what must hold of earlier versions and of changes of the layout: see oracle.c.
 *
 *   collecting  nothing is deleted before its time; every version of the retention can be rebuilt
 *   restore     the new version has just the content of the old one; what it replaced stays
 *   version=    shows what that version held; within the retention it can be shown
 *   layout      a new lineage begins with the content with which the old one ended */
#include "oracle_int.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../vfs/buf.h"
#include "../../vfs/ltx.h"

/* ---- collecting ---- */

static bool rebuilds(const struct version *v)
{
    char key[KEY_ROOM];
    for (uint64_t n = v->number; n; n--) {
        snprintf(key, sizeof key, "%s-log/%s/%016" PRIx64 ".db", sim_key(), v->lineage, n);
        if (object_at(key) || (know.at_key && know.at_key->number == n &&
                               strcmp(know.at_key->lineage, v->lineage) == 0))
            return true;
        if (!segment_there(v->lineage, n)) return false;
    }
    return false;
}

void collected(const struct event *e, const char *lineage, uint64_t number, bool base)
{
    int64_t retention = (int64_t)sim->retention_s * 1000 * MS;
    int64_t age = sim->now_ns - e->object.modified_ns;
    tally.collected++;
    /* 30 minutes more, but for the clock of who asked, and rounding */
    if (age < retention + INT64_C(14) * 60 * 1000 * MS)
        wrong("%s was collected after %" PRId64 " s", e->object.key, age / MS / 1000);
    if (!base && know.at_key && strcmp(know.at_key->lineage, lineage) == 0 &&
        number > know.at_key->number)
        wrong("segment %" PRIu64 " was collected before a snapshot held it", number);
    for (uint32_t k = 0; k < know.count; k++) {
        const struct version *v = &know.v[k], *next = find_version(lineage, v->number + 1);
        if (strcmp(v->lineage, lineage) != 0) continue;
        if (next && next->made_ns < sim->now_ns - retention) continue;
        if (!rebuilds(v))
            wrong("version %" PRIu64 " cannot be rebuilt any more since %s was collected",
                  v->number, e->object.key);
    }
}

/* ---- the same content ---- */

/* Is it a leaf of the free list? What such a page holds is no content: a rollback leaves it
 * changed. */
static bool is_leaf(const struct version *v, uint32_t pgno)
{
    uint32_t trunk = r2_get32(v->image + 32);
    for (uint32_t k = 0; k < v->pages && trunk > 1 && trunk <= v->pages; k++) {
        const uint8_t *page = v->image + (size_t)(trunk - 1) * v->page_size;
        uint32_t leaves = r2_get32(page + 4);
        for (uint32_t n = 0; n < leaves && n < v->page_size / 4 - 2; n++)
            if (r2_get32(page + 8 + 4 * n) == pgno) return true;
        trunk = r2_get32(page);
    }
    return false;
}

static bool same_page(const struct version *a, const struct version *b, uint32_t pgno)
{
    size_t at = (size_t)(pgno - 1) * a->page_size, skip = pgno == 1 ? 100 : 0;
    return memcmp(a->image + at + skip, b->image + at + skip, a->page_size - skip) == 0 ||
           (is_leaf(a, pgno) && is_leaf(b, pgno));
}

/* But for the fields of page 1 that say which version it is, and the journal mode. */
static bool same_content(const struct version *a, const struct version *b)
{
    static const struct {
        size_t at, n;
    } may_differ[] = {{18, 2}, {24, 4}, {40, 4}, {92, 4}};
    uint8_t page[2][100];
    if (a->page_size != b->page_size || a->pages != b->pages || !a->pages) return false;
    memcpy(page[0], a->image, 100);
    memcpy(page[1], b->image, 100);
    for (size_t k = 0; k < sizeof may_differ / sizeof *may_differ; k++)
        memset(page[0] + may_differ[k].at, 0, may_differ[k].n),
            memset(page[1] + may_differ[k].at, 0, may_differ[k].n);
    bool same = memcmp(page[0], page[1], 100) == 0;
    for (uint32_t pgno = 1; same && pgno <= a->pages; pgno++)
        same = same_page(a, b, pgno);
    return same;
}

void judge_move(const struct version *new, const struct version *before)
{
    /* what was committed meanwhile goes along into the new lineage, but not into the end of one */
    bool more = !new->end && (know.vacuumed || idset_lacks(&before->ids, &new->ids) >= 0);
    if (!more && !same_content(new, before))
        wrong("version %" PRIu64 " of lineage %s only changes the layout, and does not have the "
              "content of version %" PRIu64,
              new->number, new->lineage, before->number);
}

void judge_restore(const struct event *e, const struct version *new, const struct version *before)
{
    char key[KEY_ROOM];
    bool same = false;
    for (uint32_t k = 0; k < know.count && !same; k++)
        same = know.v[k].number == e->restores && same_content(&know.v[k], new);
    if (!same)
        wrong("version %" PRIu64 ", which restores version %" PRIu64 ", does not have its content",
              new->number, e->restores);
    tally.restored++;
    if (new->log || !before) return;
    snprintf(key, sizeof key, "%s-log/%s/%016" PRIx64 ".db", sim_key(), before->lineage,
             before->number);
    if (!object_at(key))
        wrong("version %" PRIu64 " was restored over version %" PRIu64 ", which was not kept",
              e->restores, before->number);
    find_version(before->lineage, before->number)->kept = true;
}

/* ---- what is shown ---- */

/* Must it be to be had by its number now? */
static bool within_reach(const struct version *v)
{
    const struct version *now = newest(), *next = find_version(v->lineage, v->number + 1);
    int64_t since = sim->now_ns - ((int64_t)sim->retention_s - 60) * 1000 * MS;
    if (!now || strcmp(now->lineage, v->lineage) != 0) return false;
    if (v->end) return false; /* no version to show: it changes nothing */
    if (v == now || v->kept) return true;
    return v->log && next && next->made_ns > since;
}

uint64_t oracle_earlier(bool certain)
{
    const struct version *now = newest();
    uint64_t found[64];
    uint32_t n = 0;
    if (!now) return 0;
    bool there = chance(700); /* what is gone is refused */
    for (uint64_t number = now->number; number && n < 64; number--) {
        const struct version *v = find_version(now->lineage, number);
        if (there && (!v || !rebuilds(v))) continue;
        if (!certain || (v && within_reach(v))) found[n++] = number;
    }
    return n ? found[below(n < 5 || chance(300) ? n : 5)] : 0;
}

bool oracle_ended(void)
{
    const struct version *v = newest();
    return v && v->end;
}

static bool holds_just(uint64_t number, const struct idset *ids)
{
    for (uint32_t k = 0; k < know.count; k++)
        if (know.v[k].number == number && idset_lacks(&know.v[k].ids, ids) < 0 &&
            idset_lacks(ids, &know.v[k].ids) < 0)
            return true;
    return false;
}

void past_done(int index)
{
    const struct worker *w = &sim->w[index];
    if (w->todo == DO_PAST && w->rc == SQLITE_OK && w->read) {
        tally.shown++;
        if (!holds_just(w->wanted, &w->seen))
            wrong("version=%" PRIu64 " shows what that version did not hold", w->wanted);
    } else if (w->todo == DO_PAST && w->rc && w->certain) {
        wrong("version=%" PRIu64 " cannot be shown: %s", w->wanted, w->text);
    }
    if (w->todo == DO_RESTORE && w->rc == SQLITE_OK) {
        bool right = false;
        for (uint32_t k = 0; k < know.count && !right; k++)
            right =
                know.v[k].number == (uint64_t)w->version && holds_just(w->wanted, &know.v[k].ids);
        if (!right)
            wrong("r2_restore(%" PRIu64 ") returned version %" PRId64 ", which is not that content",
                  w->wanted, w->version);
    }
}
