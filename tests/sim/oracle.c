/* oracle.c - what must hold, whatever fails: see sim.h.
 *
 *   versions    no number stands for two contents; each is whole, passes integrity_check, has the
 *               checksum that its writer claims, and holds all that the one before it held
 *   promises    what COMMIT (sync=commit) or sync() acknowledged is in the remote's newest version
 *               from then on; what a failed COMMIT took back is nowhere, ever
 *   commits     what was committed locally is in the file, in a version or in a fork, unless the
 *               machine lost its power
 *   counts      machines that did the same, to equal bytes, did it as often as it was promised
 *   the past    every version of the retention can be rebuilt; nothing younger is collected; what
 * is shown or restored is what it was: see past.c */
#include "oracle_int.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../vfs/layout.h"
#include "../../vfs/ltx.h"

struct known know;
static sqlite3 *judge;
struct tally tally;

void oracle_reset(void)
{
    memset(&know, 0, sizeof know);
    if (!judge && sqlite3_open_v2(":memory:", &judge, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        abort();
}

/* ---- images ---- */

static bool ask(const char *sql, int64_t *out)
{
    sqlite3_stmt *s = NULL;
    bool row =
        sqlite3_prepare_v2(judge, sql, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW;
    if (row) *out = sqlite3_column_int64(s, 0);
    return sqlite3_finalize(s) == SQLITE_OK && row;
}

static int64_t last_counted; /* of what was judged last */

/* The transactions that a database holds; `what` names it when it is damaged. */
static void judge_image(const uint8_t *bytes, uint64_t size, const char *what, struct idset *ids)
{
    sqlite3_stmt *s = NULL;
    int64_t n = 0, sum = 0, rows = 0;
    memset(ids, 0, sizeof *ids);
    last_counted = 0;
    if (!size) return;
    uint8_t *copy = sqlite3_malloc64(size);
    memcpy(copy, bytes, size);
    copy[18] = copy[19] = 1; /* no log in memory */
    sqlite3_deserialize(judge, "main", copy, (sqlite3_int64)size, (sqlite3_int64)size,
                        SQLITE_DESERIALIZE_FREEONCLOSE);
    if (sqlite3_prepare_v2(judge, "PRAGMA integrity_check(1)", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_step(s) != SQLITE_ROW || strcmp((const char *)sqlite3_column_text(s, 0), "ok") != 0)
        wrong("%s is damaged: %s", what,
              s && sqlite3_column_text(s, 0) ? (const char *)sqlite3_column_text(s, 0)
                                             : sqlite3_errmsg(judge));
    sqlite3_finalize(s);
    if (!ask("SELECT count(*) FROM sqlite_schema WHERE name='log'", &n) || !n) return;
    s = NULL;
    if (sqlite3_prepare_v2(judge, "SELECT id FROM log", -1, &s, NULL) == SQLITE_OK)
        while (sqlite3_step(s) == SQLITE_ROW && ++rows)
            if (sqlite3_column_int64(s, 0) > 0 && sqlite3_column_int64(s, 0) < IDS)
                idset_add(ids, (uint32_t)sqlite3_column_int64(s, 0));
    sqlite3_finalize(s);
    if (!ask("SELECT total(n) FROM acct", &sum) || sum != rows)
        wrong("%s has %" PRId64 " rows and counters of %" PRId64, what, rows, sum);
    if (sim->counts && !ask("SELECT n FROM twin", &last_counted)) wrong("%s does not count", what);
    for (uint32_t id = 1; id < IDS; id++)
        if (idset_has(ids, id) && idset_has(&know.never, id))
            wrong("%s holds transaction %u, which was rolled back", what, id);
}

static uint64_t checksum_of(const uint8_t *image, uint32_t page_size, uint32_t pages)
{
    uint64_t sum = R2_LTX_FLAG;
    for (uint32_t k = 0; k < pages; k++)
        sum = r2_ltx_exchange(
            sum, 0, r2_ltx_page_checksum(k + 1, image + (size_t)k * page_size, page_size));
    return sum;
}

/* ---- versions ---- */

struct version *find_version(const char *lineage, uint64_t number)
{
    for (uint32_t k = 0; k < know.count; k++)
        if (know.v[k].number == number && strcmp(know.v[k].lineage, lineage) == 0)
            return &know.v[k];
    return NULL;
}

bool segment_there(const char *lineage, uint64_t number)
{
    char key[KEY_ROOM];
    snprintf(key, sizeof key, "%s-log/%s/%016" PRIx64 ".ltx", sim_key(), lineage, number);
    return object_at(key) != NULL;
}

struct version *newest(void)
{
    struct version *v = object_at(sim_key()) ? know.at_key : NULL;
    while (v && segment_there(v->lineage, v->number + 1)) {
        struct version *next = find_version(v->lineage, v->number + 1);
        if (!next) break;
        v = next;
    }
    return v;
}

static void add(const struct event *e, struct version *new, const struct version *before)
{
    char what[80];
    snprintf(what, sizeof what, "version %" PRIu64 " of lineage %s", new->number, new->lineage);
    struct version *old = find_version(new->lineage, new->number);
    if (old) {
        if (old->page_size != new->page_size || old->pages != new->pages ||
            memcmp(old->image, new->image, (size_t) new->pages *new->page_size) != 0)
            wrong("%s has two contents", what);
        return;
    }
    new->made_ns = sim->now_ns;
    new->checksum = checksum_of(new->image, new->page_size, new->pages);
    judge_image(new->image, (uint64_t) new->pages *new->page_size, what, &new->ids);
    new->counted = last_counted;
    if (before && new->counted < before->counted)
        wrong("%s counts %" PRId64 ", the one before it %" PRId64, what, new->counted,
              before->counted);
    if (know.count == VERSIONS) abort();
    know.v[know.count++] = *new;
    tally.versions++;
    idset_join(&know.pushed, &new->ids);
    trace("  %s", what);
    for (int k = 0; k < IDS / 64; k++) { /* a promise that was put aside holds again */
        know.moved.bit[k] &= ~new->ids.bit[k];
        know.past.bit[k] &= ~new->ids.bit[k];
    }
    if (e->restores) judge_restore(e, new, before);
    bool begins = e->moves && before && strcmp(before->lineage, new->lineage) != 0;
    if (begins || new->end) judge_move(new, before);
    int lost = before ? idset_lacks(&new->ids, &before->ids) : -1;
    if (lost < 0) return;
    if (!e->on_purpose && !e->restores) {
        wrong("%s lacks transaction %d, which version %" PRIu64 " of lineage %s had", what, lost,
              before->number, before->lineage);
        return;
    }
    know.purposes++;
    for (uint32_t id = 1; id < IDS; id++)
        if (idset_has(&before->ids, id) && !idset_has(&new->ids, id)) {
            idset_add(&know.moved, id);
            if (e->restores) idset_add(&know.past, id);
        }
}

/* ---- objects ---- */

bool object_meta(const struct object *o, const char *name, char *out, size_t room)
{
    struct r2_meta m;
    r2_meta_clear(&m);
    if (o->meta) memcpy(m.text, o->meta, m.len = strlen(o->meta));
    m.text[m.len] = 0;
    return r2_meta_get(&m, name, out, room);
}

static uint32_t page_size_of(const uint8_t *bytes, uint64_t size)
{
    uint32_t n = size < 100 ? 0 : (uint32_t)(bytes[16] << 8 | bytes[17]);
    return n == 1 ? 65536 : n;
}

static void snapshot(const struct event *e)
{
    const struct object *o = &e->object;
    struct version new = {.image = (uint8_t *)(uintptr_t)o->bytes};
    char text[64] = "";
    if (!object_meta(o, "db-version", text, sizeof text)) wrong("a snapshot without db-version");
    new.number = strtoull(text, NULL, 10);
    if (!object_meta(o, "db-lineage", text, sizeof text)) wrong("a snapshot without db-lineage");
    memcpy(new.lineage, text, LINEAGE - 1);
    new.page_size = page_size_of(o->bytes, o->size);
    new.pages = new.page_size ? (uint32_t)(o->size / new.page_size) : 0;
    const struct version *before = find_version(new.lineage, new.number - 1);
    if (!before) before = newest();
    if (know.at_key && strcmp(know.at_key->lineage, new.lineage) == 0 &&
        know.at_key->number > new.number)
        wrong("the snapshot of version %" PRIu64 " replaced that of %" PRIu64, new.number,
              know.at_key->number);
    new.log = object_meta(o, "db-layout", text, sizeof text) && strcmp(text, "log") == 0;
    add(e, &new, before);
    know.at_key = find_version(new.lineage, new.number);
    if (object_meta(o, "db-checksum", text, sizeof text) &&
        strtoull(text, NULL, 16) != know.at_key->checksum)
        wrong("the snapshot of version %" PRIu64 " has another checksum than it says", new.number);
}

static void segment(const struct event *e, const char *lineage, uint64_t number)
{
    struct r2_ltx_bytes bytes = {.at = e->object.bytes, .size = e->object.size};
    struct r2_ltx_header h;
    struct r2_ltx_reader *d = NULL;
    struct r2_err err;
    struct version new = {.number = number};
    struct version *before = find_version(lineage, number - 1);
    uint64_t post = 0;
    uint32_t pgno;
    bool end = false;
    memcpy(new.lineage, lineage, LINEAGE);
    if (!before) {
        wrong("segment %" PRIu64 " of lineage %s follows nothing", number, lineage);
        return;
    }
    enum r2_code rc = r2_ltx_open(&d, r2_ltx_read_bytes, &bytes, bytes.size, &h, &err);
    if (!rc && (h.min_txid != number || h.max_txid != number || h.pre != before->checksum))
        wrong("segment %" PRIu64 " does not follow what is there: %" PRIu64 "-%" PRIu64, number,
              h.min_txid, h.max_txid);
    if (!rc) {
        new.page_size = h.page_size;
        new.pages = h.commit;
        new.image = sim_alloc((size_t)h.page_size * (h.commit + 1));
        memset(new.image, 0, (size_t)h.page_size * (h.commit + 1));
        uint32_t same = before->pages < h.commit ? before->pages : h.commit;
        if (before->page_size == h.page_size)
            memcpy(new.image, before->image, (size_t)same * h.page_size);
    }
    uint8_t page[65536];
    while (!rc && !end) {
        rc = r2_ltx_next(d, &pgno, page, &end);
        if (!rc && !end) memcpy(new.image + (size_t)(pgno - 1) * h.page_size, page, h.page_size);
    }
    if (!rc) rc = r2_ltx_finish(d, &post);
    r2_ltx_close(d);
    if (rc) {
        wrong("segment %" PRIu64 " cannot be read: %s", number, err.text);
        return;
    }
    new.log = true;
    new.end = h.salt1 == R2_LOG_END;
    if (before->end) wrong("segment %" PRIu64 " follows the end of lineage %s", number, lineage);
    add(e, &new, before);
    const struct version *now = find_version(lineage, number);
    if (now && now->checksum != post)
        wrong("segment %" PRIu64 " has another checksum than it says", number);
}

/* ---- what happened ---- */

/* A conflict with oneself: everything in the fork is in the remote's newest version as well. Pages
 * may differ all the same when they were written without a transaction of ours. A power loss and a
 * write that failed are no excuse: what was relied on was synced, and the rest was never pushed. */
static void needless(const struct event *e, const struct idset *ids)
{
    const struct version *v = newest();
    struct idset none = {{0}};
    if (sim->counts || idset_lacks(&none, ids) < 0) return; /* two births of nothing */
    /* what was told to win, and did not get through, stays another content */
    bool told = e->asked || e->on_purpose;
    if (v && !told && !sim->stock && !know.vacuumed && idset_lacks(&v->ids, ids) < 0)
        wrong("the fork %s was made although the remote has all of it", e->object.key);
}

/* What this fork has beyond the version that its machine had last: the one below its number. */
static void count_fork(const struct event *e, uint64_t number)
{
    char text[64] = "", lineage[LINEAGE] = "";
    if (object_meta(&e->object, "db-lineage", text, sizeof text))
        memcpy(lineage, text, LINEAGE - 1);
    const struct version *base = find_version(lineage, number - 1);
    int64_t more = last_counted - (base ? base->counted : 0);
    if (more > 0) know.counted_in_forks += more;
}

static void happened_at(const struct event *e)
{
    const char *key = e->object.key, *rest;
    size_t n = strlen(sim_key());
    char lineage[LINEAGE] = "";
    uint64_t number = 0;
    struct idset ids;
    if (strcmp(key, sim_key()) == 0) {
        if (e->kind == REQ_DEL)
            wrong("the snapshot was deleted");
        else
            snapshot(e);
        return;
    }
    rest = key + n;
    if (strncmp(rest, "-forks/", 7) == 0) {
        if (e->kind == REQ_DEL) wrong("the fork %s was deleted", key);
        tally.forks++;
        judge_image(e->object.bytes, e->object.size, key, &ids);
        count_fork(e, strtoull(rest + 7, NULL, 10));
        /* SQLite itself rolled back over later pages there: it is kept as it is, damaged */
        if (machine_of(e->worker)->betrayed) sim->wrong[0] = 0;
        needless(e, &ids);
        idset_join(&know.forks, &ids);
        return;
    }
    if (sscanf(rest, "-log/%8[0-9a-f]/%16" SCNx64, lineage, &number) != 2) {
        wrong("a strange key: %s", key);
        return;
    }
    bool base = strcmp(key + strlen(key) - 3, ".db") == 0;
    if (e->kind == REQ_DEL)
        collected(e, lineage, number, base);
    else if (!base)
        segment(e, lineage, number);
    else {
        const struct version *v = find_version(lineage, number);
        if (!v || (uint64_t)v->pages * v->page_size != e->object.size ||
            memcmp(v->image, e->object.bytes, e->object.size) != 0)
            wrong("the base %s is not version %" PRIu64, key, number);
    }
}

static void happened(const struct event *e)
{
    uint32_t before = know.count;
    happened_at(e);
    if (know.count > before) machine_of(e->worker)->wins = false;
}

static void check_promises(void)
{
    const struct version *v = newest();
    struct idset have = know.moved;
    if (v) idset_join(&have, &v->ids);
    int id = idset_lacks(&have, &know.acked);
    if (id >= 0)
        wrong("transaction %d was acknowledged, and the remote's version %" PRIu64
              " does not have it",
              id, v ? v->number : 0);
}

void oracle_events(void)
{
    uint32_t n = sim->events;
    for (uint32_t k = 0; k < n && !sim->wrong[0]; k++) {
        struct event *e = &sim->e[k];
        happened(e);
    }
    sim->events = 0;
    if (n && !sim->wrong[0]) check_promises();
}

/* A command ended, or was killed in the middle: what of its transaction, if it has one? */
static void committed(int index)
{
    const struct worker *w = &sim->w[index];
    if (w->todo != DO_COMMIT && w->todo != DO_COUNT && w->todo != DO_ROLLBACK &&
        w->todo != DO_STOCK)
        return;
    const struct machine *m = machine_of(index);
    int rc = w->rc & 0xff;
    if (w->stage == IN_COMMIT) return; /* it may have happened */
    if (w->todo == DO_COUNT) {
        know.counted += w->stage == AFTER_COMMIT && rc == SQLITE_OK;
        return;
    }
    if (w->stage == BEFORE_COMMIT || rc == SQLITE_BUSY) {
        idset_add(&know.never, w->id);
        if (idset_has(&know.pushed, w->id))
            wrong("transaction %u was rolled back (%d), and is in the remote", w->id, w->rc);
    } else if (rc == SQLITE_OK && m->sync == R2_SYNC_COMMIT && w->todo == DO_COMMIT) {
        idset_add(&know.acked, w->id);
    } else if (rc == SQLITE_OK) {
        idset_add(&know.local[index / SLOTS], w->id);
    }
}

static void synced(int index)
{
    const struct worker *w = &sim->w[index];
    struct idset have;
    int best = -1;
    bool found = false;
    for (uint32_t k = 0; k < know.count; k++) {
        if (know.v[k].number != (uint64_t)w->version) continue;
        have = know.v[k].ids;
        if (sim->slots > 1) { /* set aside by a neighbour, and perhaps restored */
            idset_join(&have, &know.forks);
            idset_join(&have, &know.past);
            idset_join(&have, &newest()->ids);
        }
        found = true;
        int lost = idset_lacks(&have, &w->before);
        if (lost < 0) {
            best = -1;
            break;
        }
        best = lost;
    }
    struct idset none = {{0}};
    if (!w->version && idset_lacks(&none, &w->before) < 0) return; /* nothing to store yet */
    if (!found)
        wrong("sync() returned version %lld, which is not there", (long long)w->version);
    else if (best >= 0)
        wrong("sync() returned version %lld, which lacks transaction %d of the local file",
              (long long)w->version, best);
    if (sim->slots > 1) {
        struct idset left = w->before;
        for (uint32_t id = 1; id < IDS; id++)
            if (idset_has(&know.forks, id) || idset_has(&know.past, id)) idset_drop(&left, id);
        idset_join(&know.acked, &left);
    } else {
        idset_join(&know.acked, &w->before);
    }
}

static void was_read(int index)
{
    const struct worker *w = &sim->w[index];
    struct idset have = w->seen;
    for (uint32_t id = 1; id < IDS; id++)
        if (idset_has(&w->seen, id) && idset_has(&know.never, id))
            wrong("machine %d holds transaction %u, which was rolled back", index / SLOTS, id);
    idset_join(&have, &know.forks);
    idset_join(&have, &know.pushed);
    int id = idset_lacks(&have, &know.local_then[index]);
    if (id >= 0)
        wrong("transaction %d, committed on machine %d, is neither there nor anywhere else", id,
              index / SLOTS);
    if (w->todo == DO_PULL && know.purposes == know.purposes_then[index] &&
        !machine_of(index)->wins) {
        id = idset_lacks(&w->seen, &know.head_then[index]);
        if (id >= 0) wrong("after r2_pull() machine %d lacks transaction %d", index / SLOTS, id);
    }
    if (sim->settled && w->todo == DO_READ) {
        have = w->seen;
        idset_join(&have, &know.moved);
        id = idset_lacks(&have, &know.acked);
        if (id >= 0)
            wrong("machine %d comes back without transaction %d, which was acknowledged",
                  index / SLOTS, id);
        const struct version *v = newest();
        if (v && (idset_lacks(&w->seen, &v->ids) >= 0 || idset_lacks(&v->ids, &w->seen) >= 0))
            wrong("machine %d does not follow: version %" PRIu64 " has other transactions",
                  index / SLOTS, v->number);
    }
}

void oracle_begins(int index)
{
    const struct version *v = newest();
    know.vacuumed = know.vacuumed || sim->w[index].todo == DO_VACUUM;
    if (sim->w[index].todo == DO_RESOLVE_LOCAL) {
        machine_of(index)->wins = true;
        know.purposes++;
    }
    know.purposes_then[index] = know.purposes;
    know.local_then[index] = know.local[index / SLOTS];
    memset(&know.head_then[index], 0, sizeof know.head_then[index]);
    if (v) know.head_then[index] = v->ids;
}

void oracle_done(int index)
{
    const struct worker *w = &sim->w[index];
    committed(index);
    if (w->todo == DO_SYNC && w->rc == SQLITE_OK && w->read) synced(index);
    if (w->todo == DO_RESOLVE_LOCAL && w->rc == SQLITE_OK) machine_of(index)->wins = false;
    if ((w->todo == DO_READ || w->todo == DO_PULL) && w->rc == SQLITE_OK && w->read)
        was_read(index);
    past_done(index);
    if (!sim->wrong[0]) check_promises();
}

void oracle_killed(int index)
{
    committed(index);
}

/* What was committed and not pushed may be gone. */
void oracle_power(int machine)
{
    for (int k = 0; k < SLOTS; k++)
        memset(&know.local_then[machine * SLOTS + k], 0, sizeof know.local_then[0]);
    memset(&know.local[machine], 0, sizeof know.local[machine]);
}

bool oracle_pushed(uint32_t id)
{
    return idset_has(&know.pushed, id);
}

void oracle_final(void)
{
    for (uint32_t id = 1; id < IDS; id++)
        tally.acked += idset_has(&know.acked, id);
    const struct version *v = newest();
    struct idset have = know.forks, all = know.acked;
    idset_join(&have, &know.past);
    if (v) idset_join(&have, &v->ids);
    for (int k = 0; k < MACHINES; k++)
        idset_join(&all, &know.local[k]);
    int id = idset_lacks(&have, &all);
    if (id >= 0)
        wrong("transaction %d, which was %s, is in the end neither in the remote nor in a fork", id,
              idset_has(&know.acked, (uint32_t)id) ? "acknowledged" : "committed");
    int64_t counted = (v ? v->counted : 0) + know.counted_in_forks;
    if (counted < know.counted)
        wrong("%" PRId64 " counts were committed; the remote and the forks have %" PRId64,
              know.counted, counted);
    const struct worker *fresh = &sim->w[FRESH * SLOTS];
    if (v && fresh->read &&
        (idset_lacks(&fresh->seen, &v->ids) >= 0 || idset_lacks(&v->ids, &fresh->seen) >= 0))
        wrong("a fresh replica does not have what the remote has");
}
