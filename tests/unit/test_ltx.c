/* test_ltx.c - the CRC's two ways against a bitwise reference; page and rolling checksums. */
#include "unit.h"

#include <pthread.h>

#include "../../vfs/ltx.h"

/* The definition, bit by bit: no tables, no words. */
static uint64_t crc_bitwise(uint64_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1) ? (crc >> 1) ^ UINT64_C(0xD800000000000000) : crc >> 1;
    }
    return ~crc;
}

static uint64_t rng_state = 0x9e3779b97f4a7c15u; /* fixed seed: a failure repeats */
static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}
static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(rng() >> 32);
}

typedef uint64_t (*crc_fn)(uint64_t crc, const void *bytes, size_t n);

static uint64_t by_clmul(uint64_t crc, const void *bytes, size_t n)
{
    uint64_t out = 0;
    if (!r2_crc64_by_clmul(crc, bytes, n, &out)) abort(); /* asked for only where there is one */
    return out;
}

/* The ways this machine has; the last is NULL. */
static const crc_fn *ways(void)
{
    static crc_fn fns[4] = {r2_crc64, r2_crc64_by_tables, NULL, NULL};
    uint64_t ignored;
    if (r2_crc64_by_clmul(0, "", 0, &ignored)) fns[2] = by_clmul;
    return fns;
}

/* Run first, so that the tables are first asked for by many threads at once. */
static pthread_barrier_t gate;
static void *first_use(void *out)
{
    pthread_barrier_wait(&gate);
    *(uint64_t *)out = r2_crc64(0, "123456789", 9);
    return NULL;
}
static void first_use_by_many_threads(void)
{
    enum { N = 16 };
    pthread_t t[N];
    uint64_t got[N] = {0};
    pthread_barrier_init(&gate, NULL, N);
    for (int i = 0; i < N; i++)
        if (pthread_create(&t[i], NULL, first_use, &got[i]) != 0) abort();
    for (int i = 0; i < N; i++) {
        pthread_join(t[i], NULL);
        CU_ASSERT_EQUAL(got[i], UINT64_C(0xb90956c775a41001));
    }
    pthread_barrier_destroy(&gate);
}

static void clmul_runs_where_the_processor_has_it(void)
{
#ifdef __x86_64__
    uint64_t out;
    bool has = __builtin_cpu_supports("pclmul") != 0;
    CU_ASSERT_EQUAL(r2_crc64_by_clmul(0, "", 0, &out), has);
#endif
    if (!ways()[2]) printf(" [no carry-less multiply here: only the tables are tested] ");
}

static void known_values(void)
{
    CU_ASSERT_EQUAL(crc_bitwise(0, (const uint8_t *)"123456789", 9), UINT64_C(0xb90956c775a41001));
    for (const crc_fn *f = ways(); *f; f++) {
        CU_ASSERT_EQUAL((*f)(0, "123456789", 9), UINT64_C(0xb90956c775a41001));
        CU_ASSERT_EQUAL((*f)(0, NULL, 0), 0);
        CU_ASSERT_EQUAL((*f)(UINT64_C(0x123456789abcdef0), NULL, 0), UINT64_C(0x123456789abcdef0));
    }
}

/* x^n mod P by long division of the polynomial in a plain bit array, highest power first. */
static uint64_t power_reflected(unsigned n)
{
    static uint8_t coef[1024];
    memset(coef, 0, sizeof coef);
    coef[n] = 1;
    for (unsigned i = n; i >= 64; i--)
        if (coef[i]) {
            static const unsigned char p[] = {64, 4, 3, 1, 0};
            for (size_t k = 0; k < sizeof p; k++)
                coef[i - 64 + p[k]] ^= 1;
        }
    uint64_t r = 0;
    for (unsigned i = 0; i < 64; i++)
        if (coef[i]) r |= (uint64_t)1 << (63 - i);
    return r;
}

static void folding_constants(void)
{
    static const unsigned n[4] = {512 + 63, 512 - 1, 128 + 63, 128 - 1};
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(r2_crc64_fold[i], power_reflected(n[i]));
    CU_ASSERT_EQUAL(power_reflected(64), UINT64_C(0xD800000000000000)); /* P itself, less x^64 */
}

/* Every length up to 700 at every alignment, each right before an unreadable page. */
static void all_lengths_and_alignments(void)
{
    enum { MAX = 700 };
    uint8_t raw[MAX];
    fill(raw, sizeof raw);
    const uint8_t *guarded = unit_guarded(raw, sizeof raw);
    unsigned long wrong = 0;
    for (size_t n = 0; n <= MAX; n++) {
        uint64_t want = crc_bitwise(0, guarded + MAX - n, n);
        for (const crc_fn *f = ways(); *f; f++)
            wrong += (*f)(0, guarded + MAX - n, n) != want;
    }
    for (size_t from = 0; from < 64; from++)
        for (size_t n = 0; n <= 330; n++) {
            uint64_t want = crc_bitwise(0, raw + from, n);
            for (const crc_fn *f = ways(); *f; f++)
                wrong += (*f)(0, raw + from, n) != want;
        }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void random_lengths_and_splits(void)
{
    enum { MAX = 70000 };
    uint8_t *raw = malloc(MAX);
    if (!raw) abort();
    fill(raw, MAX);
    unsigned long wrong = 0;
    for (int round = 0; round < 300; round++) {
        size_t from = rng() % 64, n = rng() % (MAX - 64);
        if (round % 2) n %= 2000;
        uint64_t start = rng(), want = crc_bitwise(start, raw + from, n);
        for (const crc_fn *f = ways(); *f; f++) {
            wrong += (*f)(start, raw + from, n) != want;
            uint64_t crc = start;
            for (size_t at = 0, part; at < n; at += part) {
                part = 1 + rng() % (n - at);
                if (part > 300 && rng() % 2) part = rng() % 300 + 1;
                crc = (*f)(crc, raw + from + at, part);
            }
            wrong += crc != want;
        }
    }
    free(raw);
    CU_ASSERT_EQUAL(wrong, 0);
}

/* A CRC of 64 bits sees every single flipped bit and every burst of up to 64 bits. */
static void every_flipped_bit_shows(void)
{
    uint8_t page[512];
    fill(page, sizeof page);
    uint64_t good = r2_ltx_page_checksum(7, page, sizeof page);
    unsigned long same = 0;
    for (size_t bit = 0; bit < sizeof page * 8; bit++) {
        page[bit / 8] ^= (uint8_t)(1 << bit % 8);
        same += r2_ltx_page_checksum(7, page, sizeof page) == good;
        page[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CU_ASSERT_EQUAL(same, 0);
    CU_ASSERT_EQUAL(r2_ltx_page_checksum(7, page, sizeof page), good);
}

static void page_vectors(void)
{
    uint8_t zeros[4096] = {0}, aa[512];
    memset(aa, 0xAA, sizeof aa);
    CU_ASSERT_EQUAL(r2_ltx_page_checksum(1, zeros, 4096), UINT64_C(0xd9328f592d9e733d));
    CU_ASSERT_EQUAL(r2_ltx_page_checksum(2, aa, 512), UINT64_C(0xa367089fecd99000));
}

static void page_checksum_against_the_definition(void)
{
    static const uint32_t some[] = {1, 2, 255, 256, 65535, 0x01020304, 0x80000000, 0xfffffffe};
    uint8_t *whole = malloc(4 + 65536);
    if (!whole) abort();
    for (uint32_t size = 512; size <= 65536; size *= 2)
        for (size_t i = 0; i < 40; i++) {
            uint32_t pgno = i < 8 ? some[i] : (uint32_t)rng();
            fill(whole, 4 + size);
            whole[0] = (uint8_t)(pgno >> 24), whole[1] = (uint8_t)(pgno >> 16);
            whole[2] = (uint8_t)(pgno >> 8), whole[3] = (uint8_t)pgno;
            uint64_t want = crc_bitwise(0, whole, 4 + size) | R2_LTX_FLAG;
            CU_ASSERT_EQUAL(r2_ltx_page_checksum(pgno, whole + 4, size), want);
        }
    free(whole);
}

static void lock_page(void)
{
    CU_ASSERT_EQUAL(r2_ltx_lock_page(512), 2097153);
    CU_ASSERT_EQUAL(r2_ltx_lock_page(4096), 262145);
    CU_ASSERT_EQUAL(r2_ltx_lock_page(65536), 16385);
    CU_ASSERT_EQUAL(r2_ltx_lock_page(0), 0); /* no database yet: no lock page, no crash */
}

static void rolling(void)
{
    enum { PAGES = 16390 }; /* page 16385 is the lock page at 65536 bytes */
    uint64_t *sums = malloc(PAGES * sizeof *sums);
    if (!sums) abort();
    for (size_t i = 0; i < PAGES; i++)
        sums[i] = rng() | R2_LTX_FLAG;
    CU_ASSERT_EQUAL(r2_ltx_rolling(NULL, 0, 4096), R2_LTX_FLAG);
    CU_ASSERT_EQUAL(r2_ltx_rolling(NULL, 0, 0), R2_LTX_FLAG);
    CU_ASSERT_EQUAL(r2_ltx_rolling(sums, 1, 4096), sums[0]);
    uint64_t all = R2_LTX_FLAG, want = R2_LTX_FLAG;
    for (uint32_t pgno = 1; pgno <= PAGES; pgno++) {
        if (pgno != 16385) want = R2_LTX_FLAG | (want ^ sums[pgno - 1]);
        all = R2_LTX_FLAG | (all ^ sums[pgno - 1]);
        if (pgno >= 16383 || pgno < 5) CU_ASSERT_EQUAL(r2_ltx_rolling(sums, pgno, 65536), want);
    }
    CU_ASSERT_EQUAL(r2_ltx_rolling(sums, PAGES, 4096), all); /* its lock page is far behind */
    CU_ASSERT_NOT_EQUAL(all, want);

    /* Incremental, as a push computes it: take the old page out, put the new one in. */
    uint64_t before = r2_ltx_rolling(sums, PAGES, 4096), old = sums[77];
    sums[77] = rng() | R2_LTX_FLAG;
    CU_ASSERT_EQUAL(r2_ltx_rolling(sums, PAGES, 4096), R2_LTX_FLAG | (before ^ old ^ sums[77]));
    free(sums);
}

UNIT_MAIN("ltx", UNIT(first_use_by_many_threads), UNIT(clmul_runs_where_the_processor_has_it),
          UNIT(known_values), UNIT(folding_constants), UNIT(all_lengths_and_alignments),
          UNIT(random_lengths_and_splits), UNIT(every_flipped_bit_shows), UNIT(page_vectors),
          UNIT(page_checksum_against_the_definition), UNIT(lock_page), UNIT(rolling))
