/* state_dirty.c - which pages may differ from the base: two maps in the state file, shared by all
 * processes, so that a push reads what changed and not the whole file.
 *
 * A writer marks each page in the current map before it changes. A look takes the current map: it
 * merges into it what an earlier look could not settle, and turns the generation, so that the other
 * map, empty, is the current one. Then it begins its read transaction, and looks at both maps once
 * more, because commits that came between the turn and the snapshot are in the other one. It reads
 * the marked pages, and when they are settled forgets those of the map that it took.
 *
 * A transaction that was in progress at the turn may commit after the look's snapshot with pages
 * that it marked before the turn. So at its end it marks them once more if the generation has
 * turned, and only then says that it is over; and the look forgets its marks only if no
 * transaction was in progress at the turn, or that one is over by now. SQLite lets one transaction
 * write at a time, so there is at most one.
 *
 * The maps are complete when `known` is `unseen` + 1. What nobody could mark (a writer that died in
 * the middle, stock SQLite, no room on the disk) moves `unseen`; a look that compared every page
 * makes them complete again. Marks of pages that did not change after all do no harm. */
#include "state_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "buf.h"
#include "os.h"

enum { MAP_BYTES = R2_BLOCK_MAPS / 2, MAP_WORDS = MAP_BYTES / 8, FIRST_ROOM = 8 };
enum { KEPT_MAX = 32768 }; /* pages that a transaction remembers */
enum { RESETS_MAX = 64 };  /* each adds one to a log's first salt; one made anew has a random one */

_Static_assert(sizeof(struct r2_stamp) == R2_STAMP_WORDS * 8, "a stamp is read by words");

static _Atomic uint64_t *words_of(uint8_t *maps, uint32_t generation)
{
    return (_Atomic uint64_t *)(void *)(maps + (generation & 1) * MAP_BYTES);
}

/* ---- mapping ---- */

static struct r2_block_table *grown(struct r2_state *s, uint32_t block)
{
    struct r2_block_table *old = atomic_load(&s->table), *t;
    uint32_t room = old ? old->room : FIRST_ROOM;
    if (old && block < old->room) return old;
    while (room <= block)
        room *= 2;
    t = calloc(1, sizeof *t + room * sizeof *t->at);
    if (!t) return NULL;
    t->room = room;
    t->older = old;
    for (uint32_t k = 0; old && k < old->room; k++)
        atomic_store(&t->at[k], atomic_load(&old->at[k]));
    atomic_store(&s->table, t);
    return t;
}

static uint8_t *map_block(struct r2_state *s, uint32_t block)
{
    uint64_t at = r2_block_at(block), end = at + R2_BLOCK_MAPS;
    uint8_t *maps = NULL;
    pthread_mutex_lock(&s->mapping);
    struct r2_block_table *t = grown(s, block);
    if (t && !(maps = atomic_load(&t->at[block])) &&
        (errno = posix_fallocate(s->fd, (off_t)at, R2_BLOCK_MAPS)) == 0) {
        void *p =
            r2_os.mmap(NULL, R2_BLOCK_MAPS, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, (off_t)at);
        if (p != MAP_FAILED) {
            maps = p;
            atomic_store(&t->at[block], maps);
            if (atomic_load(&s->needed) < end) atomic_store(&s->needed, end);
        }
    }
    pthread_mutex_unlock(&s->mapping);
    return maps;
}

/* The maps of a block; NULL when they cannot be had. */
static uint8_t *maps_of(struct r2_state *s, uint32_t block)
{
    struct r2_block_table *t = atomic_load_explicit(&s->table, memory_order_acquire);
    uint8_t *maps = t && block < t->room ? atomic_load(&t->at[block]) : NULL;
    return maps ? maps : map_block(s, block);
}

void r2_state_unmap_maps(struct r2_state *s)
{
    struct r2_block_table *t = atomic_exchange(&s->table, NULL);
    for (uint32_t k = 0; t && k < t->room; k++)
        if (atomic_load(&t->at[k])) munmap(atomic_load(&t->at[k]), R2_BLOCK_MAPS);
    while (t) {
        struct r2_block_table *older = t->older;
        free(t);
        t = older;
    }
}

void r2_state_drop_maps(struct r2_state *s)
{
    /* rare: the few kilobytes are not given back, somebody may be marking in them */
    pthread_mutex_lock(&s->mapping);
    atomic_store(&s->table, NULL);
    atomic_store(&s->needed, R2_STATE_BLOCKS_AT);
    pthread_mutex_unlock(&s->mapping);
}

/* ---- writers ---- */

void r2_state_unseen(struct r2_state *s)
{
    r2_live_unseen(atomic_load(&s->live));
}

bool r2_state_seen(struct r2_state *s)
{
    return r2_live_seen(atomic_load(&s->live)); /* its length was checked by r2_maybe_dirty */
}

/* How many blocks have maps. What the live page says comes from a file: not more than fit in it. */
static uint32_t blocks_of(struct r2_state *s, struct r2_live *live)
{
    struct stat st;
    uint32_t blocks = atomic_load(&live->blocks);
    if (!blocks ||
        (fstat(s->fd, &st) == 0 && (uint64_t)st.st_size >= r2_block_at(blocks - 1) + R2_BLOCK_MAPS))
        return blocks;
    r2_live_unseen(live);
    atomic_store(&live->blocks, 0);
    return 0;
}

static bool mark(struct r2_state *s, uint32_t pgno)
{
    struct r2_live *live = atomic_load(&s->live);
    uint32_t index = pgno - 1, block = index / R2_BLOCK_PAGES, in = index % R2_BLOCK_PAGES;
    uint8_t *maps = maps_of(s, block);
    if (!maps) {
        r2_live_unseen(live);
        return false;
    }
    uint32_t blocks = atomic_load(&live->blocks);
    while (blocks <= block && !atomic_compare_exchange_weak(&live->blocks, &blocks, block + 1)) {
    }
    _Atomic uint64_t *word = words_of(maps, atomic_load(&live->generation)) + in / 64;
    uint64_t bit = (uint64_t)1 << in % 64;
    if (!(atomic_load(word) & bit)) atomic_fetch_or(word, bit);
    return true;
}

static void mark_cut(struct r2_live *live, uint32_t cut)
{
    uint32_t was = atomic_load(&live->cut);
    while (was < cut && !atomic_compare_exchange_weak(&live->cut, &was, cut)) {
    }
}

void r2_marks_free(struct r2_marks *m)
{
    free(m->page);
    memset(m, 0, sizeof *m);
}

void r2_state_begin_marks(struct r2_state *s, struct r2_marks *m)
{
    m->count = 0;
    m->too_many = m->lost = false;
    m->lowest = UINT32_MAX;
    m->since = atomic_load(&atomic_load(&s->live)->generation);
}

static void keep(struct r2_marks *m, uint32_t pgno)
{
    if (m->count && m->page[m->count - 1] == pgno) return;
    if (m->count == m->room && !m->too_many) {
        uint32_t room = m->room ? m->room * 2 : 32;
        uint32_t *page = room > KEPT_MAX ? NULL : realloc(m->page, room * sizeof *page);
        if (page) {
            m->page = page;
            m->room = room;
        }
        m->too_many = !page;
    }
    if (!m->too_many) m->page[m->count++] = pgno;
}

void r2_state_mark_page(struct r2_state *s, struct r2_marks *m, uint32_t pgno)
{
    keep(m, pgno);
    if (!mark(s, pgno)) m->lost = true;
}

void r2_state_mark_size(struct r2_state *s, struct r2_marks *m, uint32_t pages)
{
    if (pages < m->lowest) m->lowest = pages;
    mark_cut(atomic_load(&s->live), UINT32_MAX - pages);
}

/* Take what was marked in the other generation over into this one. */
static void keep_all(struct r2_state *s, struct r2_live *live)
{
    uint32_t generation = atomic_load(&live->generation), blocks = blocks_of(s, live);
    for (uint32_t k = 0; k < blocks; k++) {
        uint8_t *maps = maps_of(s, k);
        if (!maps) {
            r2_live_unseen(live);
            return;
        }
        _Atomic uint64_t *to = words_of(maps, generation), *from = words_of(maps, generation + 1);
        for (uint32_t w = 0; w < MAP_WORDS; w++) {
            uint64_t bits = atomic_load(&from[w]);
            if (bits) atomic_fetch_or(&to[w], bits);
        }
    }
}

void r2_state_ended(struct r2_state *s, struct r2_marks *m)
{
    struct r2_live *live = atomic_load(&s->live); /* its length was checked by r2_state_touch */
    for (uint32_t now = atomic_load(&live->generation); now != m->since;
         now = atomic_load(&live->generation)) {
        m->since = now;
        mark_cut(live, UINT32_MAX - m->lowest);
        if (m->too_many) keep_all(s, live);
        for (uint32_t k = 0; !m->too_many && k < m->count; k++)
            (void)mark(s, m->page[k]);
    }
    if (m->lost) r2_live_unseen(live); /* again: a look may have compared all before the commit */
    atomic_store_explicit(&live->writing, 0, memory_order_release); /* after all of that */
}

/* ---- commits of stock SQLite ---- */

void r2_state_set_stamp(struct r2_state *s, const struct r2_stamp *now)
{
    static const struct r2_stamp none;
    /* a log that is new can be any new one: whoever comes first compares */
    if (now && now->kind == 2 && !now->salt[0] && !now->salt[1]) now = NULL;
    /* a reader that meets it half written takes it for another one, and compares every page */
    uint64_t word[R2_STAMP_WORDS];
    memcpy(word, now ? now : &none, sizeof word);
    struct r2_live *live = atomic_load(&s->live);
    for (uint32_t k = 0; k < R2_STAMP_WORDS; k++)
        atomic_store_explicit(&live->stamp[k], word[k], memory_order_release);
}

static struct r2_stamp stamp_of(struct r2_live *live)
{
    uint64_t word[R2_STAMP_WORDS];
    struct r2_stamp out;
    for (uint32_t k = 0; k < R2_STAMP_WORDS; k++)
        word[k] = atomic_load(&live->stamp[k]);
    memcpy(&out, word, sizeof out);
    return out;
}

struct r2_stamp r2_state_stamp(struct r2_state *s)
{
    return stamp_of(r2_state_live(s));
}

/* A sealed file's fields, and the boot of the machine, where a log's are in another stamp. Kind 0:
 * no seal is to be had. */
static struct r2_stamp seal_of(const struct r2_identity *id)
{
    struct r2_stamp seal = {.kind = 3};
    uint8_t boot[16];
    r2_boot_id(boot);
    memcpy(&seal.counter, boot, sizeof seal.counter);
    if (!seal.counter) seal.kind = 0;
    seal.change = (uint32_t)id->ino;
    seal.frames = (uint32_t)(id->ino >> 32);
    memcpy(seal.salt, &id->mtime_ns, sizeof seal.salt);
    memcpy(seal.cksum, &id->size, sizeof seal.cksum);
    return seal;
}

void r2_state_seal(struct r2_state *s, const char *db_path)
{
    struct r2_stamp seal = {.kind = 0};
    struct r2_identity id;
    if (r2_identity_seal(db_path, &id)) seal = seal_of(&id);
    r2_state_set_stamp(s, &seal);
}

bool r2_state_sealed(struct r2_state *s, const struct r2_identity *now)
{
    struct r2_stamp then = stamp_of(r2_state_live(s));
    if (then.kind != 3 || now->wal_size) return false;
    struct r2_stamp seal = seal_of(now);
    return memcmp(&then, &seal, sizeof seal) == 0;
}

bool r2_state_continues(struct r2_state *s, const struct r2_stamp *now, bool next, bool *none)
{
    struct r2_stamp then = stamp_of(atomic_load(&s->live));
    *none = then.kind == 0;
    if (then.kind != now->kind) return false;
    if (now->kind == 1) /* in exclusive locking mode the counter stands still */
        return now->counter == then.counter || (next && now->counter == then.counter + 1);
    if (now->change != then.change) return false;
    bool same_log = now->salt[0] == then.salt[0] && now->salt[1] == then.salt[1];
    /* without salts: a wal-index made anew, whose count began anew, too */
    if (now->frames || !then.salt[0])
        return now->frames && now->frames == then.frames && same_log &&
               now->cksum[0] == then.cksum[0] && now->cksum[1] == then.cksum[1];
    /* a log that was begun anew holds nothing yet, and the count goes on */
    uint32_t resets = r2_get32((const uint8_t *)now->salt) - r2_get32((const uint8_t *)then.salt);
    return then.frames == 0 && same_log ? true : resets - 1 < RESETS_MAX;
}

/* ---- looks ---- */

static enum r2_code no_room(struct r2_state *s, struct r2_err *e)
{
    return r2_fail_errno(e, errno, "make room for the page maps of %s", s->path);
}

enum r2_code r2_state_take_dirty(struct r2_state *s, bool own, struct r2_dirty *out,
                                 struct r2_err *e)
{
    struct r2_live *live = r2_state_live(s);
    uint32_t turn = atomic_load(&live->generation), blocks;
    memset(out, 0, sizeof *out);
    blocks = blocks_of(s, live);
    out->unseen = atomic_load(&live->unseen);
    out->complete = atomic_load(&live->known) == out->unseen + 1;
    /* what the last look left in the other map goes along again, which empties that one */
    for (uint32_t k = 0; k < blocks; k++) {
        uint8_t *maps = maps_of(s, k);
        if (!maps) return no_room(s, e);
        _Atomic uint64_t *to = words_of(maps, turn), *from = words_of(maps, turn + 1);
        for (uint32_t w = 0; w < MAP_WORDS; w++) {
            uint64_t bits = atomic_load(&from[w]);
            if (!bits) continue;
            atomic_fetch_or(&to[w], bits);
            atomic_fetch_and(&from[w], ~bits); /* what comes meanwhile stays: it is current next */
        }
    }
    atomic_store(&live->generation, turn + 1);
    out->lowest = UINT32_MAX - atomic_exchange(&live->cut, 0);
    out->writing = own ? 0 : atomic_load(&live->writing);
    blocks = atomic_load(&live->blocks);
    out->pages = blocks * R2_BLOCK_PAGES;
    out->map = calloc(blocks ? (size_t)blocks * MAP_WORDS : 1, 8);
    if (!out->map) return no_room(s, e);
    for (uint32_t k = 0; k < blocks; k++) {
        uint8_t *maps = maps_of(s, k);
        if (!maps) return no_room(s, e);
        _Atomic uint64_t *from = words_of(maps, turn);
        for (uint32_t w = 0; w < MAP_WORDS; w++)
            out->map[(size_t)k * MAP_WORDS + w] = atomic_load(&from[w]);
    }
    return R2_OK;
}

enum r2_code r2_state_take_own(struct r2_state *s, struct r2_marks *m, struct r2_dirty *out,
                               struct r2_err *e)
{
    struct r2_live *live = r2_state_live(s);
    if (m->lost) r2_live_unseen(live); /* another's look may have made the maps complete */
    enum r2_code rc = r2_state_take_dirty(s, true, out, e);
    m->since = atomic_load(&live->generation);
    return rc;
}

enum r2_code r2_state_see_dirty(struct r2_state *s, struct r2_dirty *d, struct r2_err *e)
{
    struct r2_live *live = r2_state_live(s);
    uint32_t blocks = blocks_of(s, live), had = d->pages / R2_BLOCK_PAGES;
    if (blocks > had) {
        uint64_t *map = realloc(d->map, (size_t)blocks * MAP_BYTES);
        if (!map) return no_room(s, e);
        memset(map + (size_t)had * MAP_WORDS, 0, (size_t)(blocks - had) * MAP_BYTES);
        d->map = map;
        d->pages = blocks * R2_BLOCK_PAGES;
    }
    for (uint32_t k = 0; k < blocks; k++) {
        uint8_t *maps = maps_of(s, k);
        if (!maps) return no_room(s, e);
        for (uint32_t w = 0; w < MAP_WORDS; w++)
            d->map[(size_t)k * MAP_WORDS + w] |=
                atomic_load(&words_of(maps, 0)[w]) | atomic_load(&words_of(maps, 1)[w]);
    }
    uint32_t lowest = UINT32_MAX - atomic_load(&live->cut);
    if (lowest < d->lowest) d->lowest = lowest;
    if (atomic_load(&live->unseen) != d->unseen) d->complete = false;
    return R2_OK;
}

void r2_state_mark_loose(struct r2_state *s, uint32_t pgno)
{
    (void)mark(s, pgno);
}

void r2_state_dirty_done(struct r2_state *s, struct r2_dirty *d, bool settled)
{
    struct r2_live *live = atomic_load(&s->live);
    uint32_t turn = atomic_load(&live->generation) - 1;
    /* in progress at the turn, and still: its pages may be marked nowhere else */
    bool over = !d->writing || atomic_load(&live->writing) != d->writing;
    if (d->map && settled && over) {
        for (uint32_t k = 0; k < d->pages / R2_BLOCK_PAGES; k++) {
            uint8_t *maps = maps_of(s, k);
            for (uint32_t w = 0; maps && w < MAP_WORDS; w++) {
                uint64_t bits = d->map[(size_t)k * MAP_WORDS + w];
                if (bits) atomic_fetch_and(&words_of(maps, turn)[w], ~bits);
            }
        }
    }
    if (!settled || !over) mark_cut(live, UINT32_MAX - d->lowest);
    if (d->map && settled) atomic_store(&live->known, d->unseen + 1);
    free(d->map);
    d->map = NULL;
}
