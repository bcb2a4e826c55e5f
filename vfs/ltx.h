/* ltx.h - LTX's checksums (the segment codec comes with the log layout).
 *
 *   page     = F | CRC-64/GO-ISO (page number as 4 bytes big-endian, then the page's bytes)
 *   rolling  = F | (xor of all page checksums but the lock page's); an empty database: F
 *   F        = 1 << 63, set in every stored value
 *   lock page = 0x40000000 / page size + 1, never written by SQLite
 *
 * CRC-64/GO-ISO: reflected polynomial 0xD800000000000000, init and xorout all ones;
 * check("123456789") = b90956c775a41001. Pure. */
#ifndef R2_LTX_H
#define R2_LTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define R2_LTX_FLAG ((uint64_t)1 << 63)

/* Continue a CRC over n bytes; start with 0; the result is the finished CRC of all bytes so far. */
uint64_t r2_crc64(uint64_t crc, const void *bytes, size_t n);

/* Its two ways, apart, for tests and the benchmark. by_clmul: false where the processor has no
 * carry-less multiplication. */
uint64_t r2_crc64_by_tables(uint64_t crc, const void *bytes, size_t n);
bool r2_crc64_by_clmul(uint64_t crc, const void *bytes, size_t n, uint64_t *out);
extern const uint64_t r2_crc64_fold[4]; /* powers of x mod P: 575, 511, 191, 127 */

uint64_t r2_ltx_page_checksum(uint32_t pgno, const void *page, uint32_t page_size);
uint32_t r2_ltx_lock_page(uint32_t page_size);

/* Rolling checksum of sums[0..pages-1] (sums[i] is page i+1's); skips the lock page. */
uint64_t r2_ltx_rolling(const uint64_t *sums, uint32_t pages, uint32_t page_size);

#endif
