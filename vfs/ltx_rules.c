/* ltx_rules.c - what an LTX segment may hold. Encoder and decoder ask here, so that they agree. */
#include "ltx.h"

static const char *checksum_fault(const struct r2_ltx_header *h)
{
    if (h->min_txid == 1)
        return h->pre ? "a snapshot (min TXID 1) has a checksum of what was before it" : NULL;
    return h->pre & R2_LTX_FLAG ? NULL : "the checksum of what was before is missing";
}

static const char *wal_fault(const struct r2_ltx_header *h)
{
    if (h->wal_offset < 0 || h->wal_size < 0) return "WAL offset or size is negative";
    if (!h->wal_offset && (h->wal_size || h->salt1 || h->salt2))
        return "WAL size or salts stand without a WAL offset";
    return NULL;
}

const char *r2_ltx_header_fault(const struct r2_ltx_header *h, unsigned *at)
{
    const char *why;
    *at = 4;
    if (h->flags & ~R2_LTX_NO_CHECKSUM) return "unknown flags";
    if (h->flags) return "it is without checksums (flag 2)";
    *at = 8;
    if (h->page_size < 512 || h->page_size > 65536 || (h->page_size & (h->page_size - 1)) != 0)
        return "the page size is no power of two from 512 to 65536";
    *at = 12;
    if (h->commit > R2_LTX_MAX_COMMIT) return "more pages than SQLite allows";
    *at = 16;
    if (!h->min_txid) return "min TXID is 0";
    *at = 24;
    if (h->max_txid < h->min_txid) return "max TXID is below min TXID";
    *at = 40;
    if ((why = checksum_fault(h))) return why;
    *at = 48;
    return wal_fault(h);
}

const char *r2_ltx_page_fault(const struct r2_ltx_header *h, uint32_t last, uint32_t pgno)
{
    uint32_t lock = r2_ltx_lock_page(h->page_size);
    if (!pgno) return "page number 0";
    if (pgno > h->commit) return "a page behind the database's end";
    if (pgno == lock) return "the lock page";
    if (pgno <= last) return "page numbers do not ascend";
    /* pgno > last: no overflow. */
    if (h->min_txid == 1 && pgno != last + 1 && !(pgno == lock + 1 && last == lock - 1))
        return "a snapshot with a page left out";
    return NULL;
}

const char *r2_ltx_end_fault(const struct r2_ltx_header *h, uint32_t last, uint64_t rolling,
                             uint64_t post)
{
    uint32_t whole = h->commit;
    if (whole && whole == r2_ltx_lock_page(h->page_size)) whole--;
    if (!(post & R2_LTX_FLAG)) return "the checksum of the database is missing";
    if (!h->commit && post != R2_LTX_FLAG) return "an empty database with a checksum";
    if (h->min_txid != 1) return NULL;
    if (last != whole) return "a snapshot without the database's last pages";
    if (rolling != post) return "the checksum of the database is not that of the snapshot's pages";
    return NULL;
}
