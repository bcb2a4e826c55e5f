/* ltx_repair.h - make the checksums of a mutated segment right, so that what lies behind them is
 * reached: a writer of the bucket can make them right, too. */
#ifndef LTX_REPAIR_H
#define LTX_REPAIR_H

#include "fuzz.h"

#include "../../vfs/ltx.h"

/* The file's checksum can only be had by reading all pages: the reader's own sentence says it. */
static inline bool ltx_repair(uint8_t *p, size_t n)
{
    static const char is[] = "the checksum of the file is ";
    struct r2_ltx_bytes b = {p, n};
    struct r2_ltx_reader *d;
    struct r2_ltx_header h;
    struct r2_err e;
    uint64_t rolling = R2_LTX_FLAG, post, sum;
    uint32_t pgno;
    bool end = false;
    enum r2_code rc = r2_ltx_open(&d, r2_ltx_read_bytes, &b, n, &h, &e);
    uint8_t *page = rc ? NULL : calloc(1, h.page_size);
    while (!rc && !end) {
        rc = r2_ltx_next(d, &pgno, page, &end);
        if (!rc && !end)
            rolling = r2_ltx_exchange(rolling, 0, r2_ltx_page_checksum(pgno, page, h.page_size));
    }
    r2_ltx_close(d);
    free(page);
    if (rc) return false;
    if (h.min_txid == 1 || !h.commit) r2_put64(p + n - 16, rolling);
    if (r2_ltx_verify(r2_ltx_read_bytes, &b, n, &h, &post, &e) == R2_OK) return true;
    const char *at = strstr(e.text, is);
    if (!at) return false;
    char digits[17];
    memcpy(digits, at + sizeof is - 1, 16);
    digits[16] = 0;
    RULE(r2_parse_hex64(digits, 16, &sum));
    r2_put64(p + n - 8, sum);
    return true;
}

#endif
