/* ltx.c - see ltx.h.
 *
 * The CRC by carry-less multiplication. P = x^64 + x^4 + x^3 + x + 1; "reflected" means that bit i
 * of a 64-bit word stands for x^(63-i), and the first byte of the input for the highest powers.
 *
 * 1. A 16-byte block of the input is A*x^64 + B, A its first eight bytes. D bits further on in the
 *    input its share is A*x^(D+64) + B*x^D, and only the remainder mod P matters: so multiply A and
 *    B by these powers mod P and xor the products (under 128 bits each) into the block D bits on.
 * 2. The product of two reflected words has bit i+j for x^(126-i-j), which read as a reflected
 *    128-bit block (bit k for x^(127-k)) is the product times x. So the constants carry one power
 *    less: x^(D+63) mod P for A, x^(D-1) mod P for B, both reflected.
 * 3. Four blocks are in flight, D = 512; they join, and the rest follows, with D = 128. The last
 *    block has the remainder of all the input before it, so its CRC (by tables) is the CRC.
 *
 * The register (init, or what came before) is xored into the first eight bytes. */
#include "ltx.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <emmintrin.h>
#include <wmmintrin.h>
#define CLMUL __attribute__((target("sse2,pclmul")))
#elif defined(__aarch64__) && defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif
#ifdef __clang__
#define CLMUL __attribute__((target("aes")))
#else
#define CLMUL __attribute__((target("+crypto")))
#endif
#endif

#define POLY UINT64_C(0xD800000000000000)

enum { SLICES = 8, CLMUL_MIN = 64 }; /* 16 KiB of tables: half of a small first-level cache */

/* x^575, x^511 (D = 512), x^191, x^127 (D = 128), each mod P, reflected. */
const uint64_t r2_crc64_fold[4] = {UINT64_C(0x01b001b1b0000001), UINT64_C(0xb100010100000001),
                                   UINT64_C(0x6b70000000000001), UINT64_C(0xf500000000000001)};

/* table[s][b]: the register after byte b and then s zero bytes, from 0. */
static uint64_t table[SLICES][256];
static bool have_clmul;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool cpu_has_clmul(void)
{
#if defined(CLMUL) && defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("pclmul") != 0;
#elif defined(CLMUL) && defined(__linux__)
    return (getauxval(AT_HWCAP) & (1UL << 4)) != 0; /* HWCAP_PMULL */
#elif defined(CLMUL) && defined(__APPLE__)
    return true; /* every 64-bit ARM of theirs has it */
#else
    return false;
#endif
}

static void set_up(void)
{
    for (unsigned b = 0; b < 256; b++) {
        uint64_t r = b;
        for (int bit = 0; bit < 8; bit++)
            r = r >> 1 ^ (r & 1 ? POLY : 0);
        table[0][b] = r;
    }
    for (unsigned b = 0; b < 256; b++)
        for (unsigned s = 1; s < SLICES; s++)
            table[s][b] = table[s - 1][b] >> 8 ^ table[0][table[s - 1][b] & 0xff];
    have_clmul = cpu_has_clmul();
}

static inline uint64_t load_le64(const uint8_t *p)
{
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 |
           (uint64_t)p[7] << 56;
}

/* The functions from here to r2_crc64 work on the register, which is the complement of the CRC. */
static uint64_t run_tables(uint64_t reg, const uint8_t *p, size_t n)
{
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t w = reg ^ load_le64(p);
        reg = table[7][w & 0xff] ^ table[6][w >> 8 & 0xff] ^ table[5][w >> 16 & 0xff] ^
              table[4][w >> 24 & 0xff] ^ table[3][w >> 32 & 0xff] ^ table[2][w >> 40 & 0xff] ^
              table[1][w >> 48 & 0xff] ^ table[0][w >> 56];
    }
    for (; n > 0; p++, n--)
        reg = reg >> 8 ^ table[0][(reg ^ *p) & 0xff];
    return reg;
}

#ifdef CLMUL
#ifdef __x86_64__
typedef __m128i lane;
CLMUL static inline lane load(const void *p)
{
    return _mm_loadu_si128(p);
}
CLMUL static inline lane add(lane a, lane b)
{
    return _mm_xor_si128(a, b);
}
CLMUL static inline lane advance(lane x, lane k)
{
    return add(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11));
}
#else
typedef uint64x2_t lane;
CLMUL static inline lane load(const void *p)
{
    return vreinterpretq_u64_u8(vld1q_u8(p));
}
CLMUL static inline lane add(lane a, lane b)
{
    return veorq_u64(a, b);
}
CLMUL static inline lane advance(lane x, lane k)
{
    poly128_t lo = vmull_p64((poly64_t)vgetq_lane_u64(x, 0), (poly64_t)vgetq_lane_u64(k, 0));
    poly128_t hi = vmull_p64((poly64_t)vgetq_lane_u64(x, 1), (poly64_t)vgetq_lane_u64(k, 1));
    return add(vreinterpretq_u64_p128(lo), vreinterpretq_u64_p128(hi));
}
#endif

CLMUL static uint64_t run_clmul(uint64_t reg, const uint8_t *p, size_t n)
{
    if (n < CLMUL_MIN) return run_tables(reg, p, n);
    const uint64_t first[2] = {reg, 0};
    const lane far = load(&r2_crc64_fold[0]), near = load(&r2_crc64_fold[2]);
    lane a = add(load(p), load(first)), b = load(p + 16), c = load(p + 32), d = load(p + 48);
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        a = add(advance(a, far), load(p));
        b = add(advance(b, far), load(p + 16));
        c = add(advance(c, far), load(p + 32));
        d = add(advance(d, far), load(p + 48));
    }
    b = add(advance(a, near), b);
    c = add(advance(b, near), c);
    d = add(advance(c, near), d);
    for (; n >= 16; p += 16, n -= 16)
        d = add(advance(d, near), load(p));
    uint8_t last[16];
    memcpy(last, &d, sizeof last);
    return run_tables(run_tables(0, last, sizeof last), p, n);
}
#else
static uint64_t run_clmul(uint64_t reg, const uint8_t *p, size_t n)
{
    return run_tables(reg, p, n);
}
#endif

uint64_t r2_crc64(uint64_t crc, const void *bytes, size_t n)
{
    pthread_once(&once, set_up);
    return ~(have_clmul ? run_clmul(~crc, bytes, n) : run_tables(~crc, bytes, n));
}

uint64_t r2_crc64_by_tables(uint64_t crc, const void *bytes, size_t n)
{
    pthread_once(&once, set_up);
    return ~run_tables(~crc, bytes, n);
}

bool r2_crc64_by_clmul(uint64_t crc, const void *bytes, size_t n, uint64_t *out)
{
    pthread_once(&once, set_up);
    if (have_clmul) *out = ~run_clmul(~crc, bytes, n);
    return have_clmul;
}

uint64_t r2_ltx_page_checksum(uint32_t pgno, const void *page, uint32_t page_size)
{
    pthread_once(&once, set_up);
    /* Four bytes in one step from a register of all ones. */
    uint64_t reg = UINT64_C(0xffffffff) ^ table[3][pgno >> 24 ^ 0xff] ^
                   table[2][(pgno >> 16 & 0xff) ^ 0xff] ^ table[1][(pgno >> 8 & 0xff) ^ 0xff] ^
                   table[0][(pgno & 0xff) ^ 0xff];
    reg = have_clmul ? run_clmul(reg, page, page_size) : run_tables(reg, page, page_size);
    return R2_LTX_FLAG | ~reg;
}

uint32_t r2_ltx_lock_page(uint32_t page_size)
{
    return page_size ? UINT32_C(0x40000000) / page_size + 1 : 0;
}

uint64_t r2_ltx_rolling(const uint64_t *sums, uint32_t pages, uint32_t page_size)
{
    uint32_t lock = r2_ltx_lock_page(page_size);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < pages; i++)
        sum ^= sums[i];
    /* Taken out again rather than tested for in the loop. */
    if (lock && lock <= pages) sum ^= sums[lock - 1];
    return R2_LTX_FLAG | sum;
}
