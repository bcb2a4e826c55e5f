/* fuzz_wal.c - a -wal file, against a second reader that is as simple as can be. Its checksums are
 * made right for a number of frames: nothing lies behind a wrong one. */
#include "fuzz.h"

#include "../../vfs/wal.h"

struct file {
    const uint8_t *at;
    uint64_t n;
};

static int64_t read_file(void *ctx, void *to, uint64_t n, uint64_t at)
{
    const struct file *f = ctx;
    if (at >= f->n) return 0;
    if (n > f->n - at) n = f->n - at;
    memcpy(to, f->at + at, n);
    return (int64_t)n;
}

/* ---- the second reader ---- */

static void simple_sum(bool big, const uint8_t *p, size_t n, uint32_t s[2])
{
    for (size_t k = 0; k + 8 <= n; k += 8) {
        uint32_t x = r2_get32(p + k), y = r2_get32(p + k + 4);
        s[0] += (big ? x : __builtin_bswap32(x)) + s[1];
        s[1] += (big ? y : __builtin_bswap32(y)) + s[0];
    }
}

/* Fills *end; `repair`: that many frames get the salts and checksums that they need. */
static void simple_scan(uint8_t *p, size_t n, unsigned repair, struct r2_wal_end *end)
{
    uint32_t s[2] = {0}, size = n >= 32 ? r2_get32(p + 8) : 0, frame = 0;
    memset(end, 0, sizeof *end);
    if (n < 32 || (r2_get32(p) & ~1u) != 0x377f0682 || r2_get32(p + 4) != 3007000) return;
    if (size < 512 || size > 65536 || (size & (size - 1))) return;
    bool big = p[3] & 1;
    simple_sum(big, p, 24, s);
    if (repair) r2_put32(p + 24, s[0]), r2_put32(p + 28, s[1]);
    if (r2_get32(p + 24) != s[0] || r2_get32(p + 28) != s[1]) return;
    *end = (struct r2_wal_end){.page_size = size, .cksum = {s[0], s[1]}};
    end->salt[0] = r2_get32(p + 16), end->salt[1] = r2_get32(p + 20);
    for (uint8_t *f = p + 32; (size_t)(p + n - f) >= 24 + size; f += 24 + size) {
        if (frame < repair) memcpy(f + 8, p + 16, 8);
        simple_sum(big, f, 8, s);
        simple_sum(big, f + 24, size, s);
        if (frame < repair) r2_put32(f + 16, s[0]), r2_put32(f + 20, s[1]);
        if (memcmp(f + 8, p + 16, 8) != 0 || r2_get32(f + 16) != s[0] || r2_get32(f + 20) != s[1])
            return;
        if (!r2_get32(f)) return; /* right, and of no page */
        frame++;
        if (!r2_get32(f + 4)) continue;
        end->frames = frame, end->pages = r2_get32(f + 4);
        memcpy(end->cksum, s, sizeof s);
    }
}

/* ---- rules ---- */

struct told {
    const struct file *f;
    uint32_t frames, page_size;
};

static enum r2_code on_frame(void *ctx, uint32_t frame, uint32_t pgno, uint64_t page_at,
                             uint32_t commit_pages)
{
    struct told *t = ctx;
    RULE(frame == t->frames + 1 && pgno && commit_pages);
    RULE(page_at == 32 + 24 + (uint64_t)(frame - 1) * (24 + t->page_size));
    RULE(page_at + t->page_size <= t->f->n && r2_get32(t->f->at + page_at - 24) == pgno);
    t->frames = frame;
    return R2_OK;
}

static bool equal(const struct r2_wal_end *a, const struct r2_wal_end *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static void look(uint8_t *p, size_t n, unsigned repair)
{
    struct file f = {p, n};
    struct r2_wal_end simple, end, quiet;
    struct r2_err e;
    bool yes;
    simple_scan(p, n, repair, &simple);
    struct told t = {.f = &f, .page_size = simple.page_size};
    RULE(r2_wal_scan(read_file, &f, on_frame, &t, &end, &e) == R2_OK && equal(&end, &simple));
    RULE(t.frames == end.frames);
    RULE(r2_wal_scan(read_file, &f, NULL, NULL, &quiet, &e) == R2_OK && equal(&end, &quiet));
    RULE(r2_wal_continues(read_file, &f, &end, &yes, &e) == R2_OK && yes == (end.page_size != 0));
    end.cksum[1]++;
    RULE(r2_wal_continues(read_file, &f, &end, &yes, &e) == R2_OK && !yes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct input in = {bytes, n};
    unsigned repair = take8(&in) & 7;
    size_t left = in.left;
    uint8_t *p = take_bytes(&in, left);
    look(p, left, 0);
    if (repair) look(p, left, repair);
    free(p);
    return 0;
}
