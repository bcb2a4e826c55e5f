/* ltx.h - LTX segments (superfly/ltx, file version 3): checksums, encoder, decoder. Pure.
 *
 * A segment brings a database from one version to another: the pages that changed, whole. All
 * fixed-width integers are big-endian.
 *
 *   header        0    4   "LTX1"
 *                 4    4   flags; 0x2 is defined: without checksums (r2vfs refuses it)
 *                 8    4   page size: 512, 1024 ... 65536
 *                12    4   commit: pages of the database afterwards
 *                16    8   min TXID: the first version in here, from 1; 1 makes it a snapshot
 *                24    8   max TXID: the last one
 *                32    8   i64 time, ms since 1970
 *                40    8   pre: rolling checksum before; a snapshot's is 0
 *                48    8   i64 WAL offset, 0: none; the next three fields need one
 *                56    8   i64 WAL size
 *                64    4   WAL salt 1
 *                68    4   WAL salt 2
 *                72    8   node id
 *                80   20   zero
 *   page frames  100    4   page number: ascending, 1..commit, never the lock page;
 *   (each)                  a snapshot has all
 *                 4    2   flags: 1: as below; 0: an LZ4 frame (4D224D18...) follows instead
 *                 6    4   n
 *                10    n   LZ4 block that inflates to the page
 *   end            0    6   zero
 *   page index     each page in order, three varints (LEB128, shortest form): page number,
 *                  offset of its frame, size of its frame with all 6 or 10 bytes before the
 *                  LZ4 data; one zero byte
 *   index size     0    8   bytes of the page index
 *   trailer        0    8   post: rolling checksum afterwards
 *                  8    8   file checksum; the segment ends here
 *
 *   page     = F | CRC-64/GO-ISO (page number as 4 bytes, then the page's bytes)
 *   rolling  = F | (xor of all page checksums but the lock page's); an empty database: F
 *   file     = F | CRC of all bytes before it, with the page's bytes in the place of LZ4 data
 *   F        = 1 << 63, set in every stored value
 *   lock page = 0x40000000 / page size + 1, never written by SQLite
 *
 * CRC-64/GO-ISO: reflected polynomial 0xD800000000000000, init and xorout all ones;
 * check("123456789") = b90956c775a41001.
 *
 * LZ4 data is covered only through what it inflates to. */
#ifndef R2_LTX_H
#define R2_LTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

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

/* The rolling checksum after one page changed; old_sum 0: the page is new, new_sum 0: it is gone.
 * Not for the lock page. */
static inline uint64_t r2_ltx_exchange(uint64_t rolling, uint64_t old_sum, uint64_t new_sum)
{
    return R2_LTX_FLAG | (rolling ^ old_sum ^ new_sum);
}

/* --- segments --- */

enum { R2_LTX_HEADER = 100, R2_LTX_FRAME = 10, R2_LTX_END = 6, R2_LTX_TAIL = 24 };
#define R2_LTX_NO_CHECKSUM UINT32_C(0x2)
#define R2_LTX_MAX_COMMIT  UINT32_C(0xfffffffe) /* SQLite's own limit */

struct r2_ltx_header {
    uint32_t flags; /* 0: all others are refused, both ways */
    uint32_t page_size;
    uint32_t commit;
    uint64_t min_txid, max_txid;
    int64_t timestamp_ms;
    uint64_t pre;
    int64_t wal_offset, wal_size;
    uint32_t salt1, salt2;
    uint64_t node_id;
};

/* The encoder. One r2_ltx_page for each page, in order, then r2_ltx_end; r2_ltx_free in any case.
 * `out` gets the bytes in order; when it says false, the segment is lost: the code is that of the
 * sentence which `out` left in `e`, R2_IO without one. What the format forbids is R2_REFUSED. The
 * first failure stays: all later calls return it. `e` must last as long as the writer. Memory: the
 * page index, about ten bytes for each page, and 20 to 90 KiB. */
struct r2_ltx_writer;
typedef bool (*r2_ltx_out_fn)(void *ctx, const void *bytes, size_t n);

enum r2_code r2_ltx_begin(struct r2_ltx_writer **w, const struct r2_ltx_header *h,
                          r2_ltx_out_fn out, void *ctx, struct r2_err *e);
enum r2_code r2_ltx_page(struct r2_ltx_writer *w, uint32_t pgno, const void *page);
/* `post`: the rolling checksum of the whole database; only a snapshot's can be checked here. */
enum r2_code r2_ltx_end(struct r2_ltx_writer *w, uint64_t post, uint64_t *file_checksum,
                        uint64_t *size);
void r2_ltx_free(struct r2_ltx_writer *w); /* NULL is fine */

/* The decoder. r2_ltx_next until `end`, then r2_ltx_finish; r2_ltx_close in any case.
 *
 * NOTHING MAY BE BELIEVED BEFORE r2_ltx_finish SAYS R2_OK, neither the header nor a page: the
 * checksum of the file stands at its end. Put the pages where they can be dropped.
 *
 * Any violation is R2_CORRUPT with an offset and what is wrong there; a segment without checksums
 * is R2_REFUSED; what `read` returns is passed on. `read` delivers all n bytes or fails; it is
 * asked only for bytes below `size`, not in order (page index and frames are read side by side, and
 * the index twice). The first failure stays. `e` must last as long as the reader. Memory: 35 to
 * 70 KiB; up to 9 MiB more, most of it never touched, for segments with LZ4 frames. */
struct r2_ltx_reader;
typedef enum r2_code (*r2_ltx_read_fn)(void *ctx, uint64_t off, void *to, size_t n,
                                       struct r2_err *e);

enum r2_code r2_ltx_open(struct r2_ltx_reader **d, r2_ltx_read_fn read, void *ctx, uint64_t size,
                         struct r2_ltx_header *h, struct r2_err *e);
/* `page`: room for header.page_size bytes, garbage after a failure. After the last page: *end, and
 * *pgno is 0. */
enum r2_code r2_ltx_next(struct r2_ltx_reader *d, uint32_t *pgno, void *page, bool *end);
enum r2_code r2_ltx_finish(struct r2_ltx_reader *d, uint64_t *post);
void r2_ltx_close(struct r2_ltx_reader *d); /* NULL is fine */

/* Decode all of it, keep nothing. */
enum r2_code r2_ltx_verify(r2_ltx_read_fn read, void *ctx, uint64_t size, struct r2_ltx_header *h,
                           uint64_t *post, struct r2_err *e);

/* A reader for bytes in memory. */
struct r2_ltx_bytes {
    const void *at;
    uint64_t size;
};
enum r2_code r2_ltx_read_bytes(void *bytes, uint64_t off, void *to, size_t n, struct r2_err *e);

/* The first R2_LTX_HEADER bytes alone, for who wants to know whose segment it is. */
enum r2_code r2_ltx_get_header(const uint8_t *bytes, struct r2_ltx_header *h, struct r2_err *e);
void r2_ltx_put_header(uint8_t *bytes, const struct r2_ltx_header *h);

/* What the format forbids (ltx_rules.c), the same for both sides: NULL, or what is wrong.
 * *at: the offset of the header's field. `last`: the page before, 0: none. `rolling`: that of the
 * pages in the segment. */
const char *r2_ltx_header_fault(const struct r2_ltx_header *h, unsigned *at);
const char *r2_ltx_page_fault(const struct r2_ltx_header *h, uint32_t last, uint32_t pgno);
const char *r2_ltx_end_fault(const struct r2_ltx_header *h, uint32_t last, uint64_t rolling,
                             uint64_t post);

#endif
