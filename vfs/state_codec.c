/* state_codec.c - the state file's record as bytes.
 *
 *   0      8   "r2vfs\0\0\2": magic and format number
 *   8      8   u64 CRC-64/GO-ISO of bytes 16..12287
 *   16     8   byte order mark: u64 0x0102030405060708 in the order of live page and checksums
 *   24     ..  the fields below, one after the other, in the order of walk():
 *              uN big-endian; text: u32 length, bytes; byte arrays as they are
 *   rest       zero
 *
 * Encoder and decoder are one walk over the fields, so that they cannot drift apart. */
#include "state.h"

#include <string.h>

#include "buf.h"
#include "ltx.h"

static const uint8_t magic[8] = {'r', '2', 'v', 'f', 's', 0, 0, 2};
static const uint64_t order_mark = 0x0102030405060708u;

struct cursor {
    uint8_t *at; /* next byte */
    uint8_t *end;
    bool writing;
    bool failed; /* sticky */
};

static uint8_t *take(struct cursor *c, size_t n)
{
    if (c->failed || (size_t)(c->end - c->at) < n) {
        c->failed = true;
        return NULL;
    }
    c->at += n;
    return c->at - n;
}

static void u64(struct cursor *c, uint64_t *v)
{
    uint8_t *p = take(c, 8);
    if (!p) return;
    if (c->writing)
        r2_put64(p, *v);
    else
        *v = r2_get64(p);
}

static void i64(struct cursor *c, int64_t *v)
{
    uint64_t u = (uint64_t)*v;
    u64(c, &u);
    if (!c->writing) *v = (int64_t)u;
}

static void u32(struct cursor *c, uint32_t *v)
{
    uint8_t *p = take(c, 4);
    if (!p) return;
    if (c->writing)
        r2_put32(p, *v);
    else
        *v = r2_get32(p);
}

/* A small number with a limit: enumerations, flags, counts. */
static unsigned small(struct cursor *c, unsigned v, unsigned limit)
{
    uint32_t wide = v;
    u32(c, &wide);
    if (wide > limit) c->failed = true;
    return c->failed ? 0 : wide;
}

static void bytes(struct cursor *c, uint8_t *v, size_t n)
{
    uint8_t *p = take(c, n);
    if (!p) return;
    if (c->writing)
        memcpy(p, v, n);
    else
        memcpy(v, p, n);
}

static void text(struct cursor *c, char *v, size_t room)
{
    unsigned n = c->writing ? (unsigned)strlen(v) : 0;
    n = small(c, n, (unsigned)room - 1);
    uint8_t *p = take(c, n);
    if (!p) return;
    if (c->writing) {
        memcpy(p, v, n);
        return;
    }
    memcpy(v, p, n);
    v[n] = 0;
    if (strlen(v) != n) c->failed = true;
}

static void identity(struct cursor *c, struct r2_identity *i)
{
    u64(c, &i->dev);
    u64(c, &i->ino);
    u64(c, &i->size);
    i64(c, &i->mtime_ns);
    i64(c, &i->ctime_ns);
    u64(c, &i->wal_size);
    i64(c, &i->wal_mtime_ns);
    u32(c, &i->counter);
    i64(c, &i->taken_ms);
}

static void version(struct cursor *c, struct r2_version *v)
{
    u64(c, &v->version);
    text(c, v->etag, sizeof v->etag);
    bytes(c, v->lineage, sizeof v->lineage);
    u64(c, &v->checksum);
    u32(c, &v->page_size);
    u32(c, &v->pages);
    bool sane =
        v->page_size >= 512 && v->page_size <= 65536 && !(v->page_size & (v->page_size - 1));
    if (!c->writing && v->pages && !sane) c->failed = true; /* it is divided by */
    bytes(c, v->header, sizeof v->header);
    text(c, v->recent, sizeof v->recent);
    u32(c, &v->local_cookie);
}

static void pending(struct cursor *c, struct r2_pending *p)
{
    p->kind = (enum r2_pending_kind)small(c, p->kind, R2_PENDING_PULL);
    if (p->kind == R2_PENDING_NONE) return;
    version(c, &p->v);
    text(c, p->over_etag, sizeof p->over_etag);
    u64(c, &p->seq);
    p->doubt = small(c, p->doubt, 1) != 0;
    p->exact = small(c, p->exact, 1) != 0;
    p->layout = (enum r2_layout_kind)small(c, p->layout, R2_LAYOUT_LOG);
    p->tries = small(c, p->tries, R2_TRIES_MAX);
    for (uint32_t i = 0; i < p->tries && !c->failed; i++) {
        u64(c, &p->try[i].nonce);
        u64(c, &p->try[i].checksum);
        bytes(c, p->try[i].lineage, sizeof p->try[i].lineage);
        p->try[i].gone = small(c, p->try[i].gone, 1) != 0;
    }
}

static void walk(struct cursor *c, struct r2_record *r)
{
    u64(c, &r->sequence);
    text(c, r->url, sizeof r->url);
    r->layout = (enum r2_layout_kind)small(c, r->layout, R2_LAYOUT_LOG);
    u64(c, &r->writer);
    u64(c, &r->highest_seen);
    i64(c, &r->verified_ms);
    u64(c, &r->snapshot);
    i64(c, &r->headed_ms);
    r->area = (uint8_t)small(c, r->area, 1);
    version(c, &r->base);
    u64(c, &r->clean_seq);
    identity(c, &r->identity);
    pending(c, &r->pending);
    r->unclean = small(c, r->unclean, 1) != 0;
    r->unvouched = small(c, r->unvouched, 1) != 0;
    r->damaged = small(c, r->damaged, 1) != 0;
    identity(c, &r->left);
    u64(c, &r->left_seq);
    u64(c, &r->conflict_version);
    r->held = small(c, r->held, R2_HELD_MAX);
    for (uint32_t i = 0; i < r->held && !c->failed; i++)
        u64(c, &r->held_content[i]);
    u64(c, &r->log_bytes);
    u64(c, &r->tended);
    i64(c, &r->based_ms);
    i64(c, &r->collected_ms);
    u64(c, &r->surplus); /* zeros in what was written before there were these */
    u64(c, &r->surplus_seq);
}

/* The longest record fits its slot: texts, arrays and fixed fields (twice a version). */
_Static_assert(2 * (R2_ETAG_BYTES + R2_RECENT_BYTES + R2_HEADER + 80) + R2_URL_BYTES +
                       R2_ETAG_BYTES + 36 * R2_TRIES_MAX + 8 * R2_HELD_MAX + 640 <
                   R2_STATE_SLOT - 24,
               "record too long for its slot");

void r2_record_encode(const struct r2_record *r, uint8_t out[R2_STATE_SLOT])
{
    struct r2_record copy = *r; /* the walk takes no const; it only reads when writing bytes */
    struct cursor c = {.at = out + 24, .end = out + R2_STATE_SLOT, .writing = true};
    memset(out, 0, R2_STATE_SLOT);
    memcpy(out, magic, 8);
    memcpy(out + 16, &order_mark, 8);
    walk(&c, &copy);
    r2_put64(out + 8, r2_crc64(0, out + 16, R2_STATE_SLOT - 16));
}

bool r2_record_decode(const uint8_t in[R2_STATE_SLOT], struct r2_record *out)
{
    uint8_t copy[R2_STATE_SLOT];
    memcpy(copy, in, sizeof copy);
    memset(out, 0, sizeof *out);
    if (memcmp(copy, magic, 8) != 0 || memcmp(copy + 16, &order_mark, 8) != 0) return false;
    if (r2_get64(copy + 8) != r2_crc64(0, copy + 16, R2_STATE_SLOT - 16)) return false;
    struct cursor c = {.at = copy + 24, .end = copy + R2_STATE_SLOT, .writing = false};
    walk(&c, out);
    return !c.failed;
}
