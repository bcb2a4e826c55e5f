/* recent.c - db-recent and lineages as text: see layout.h. Pure.
 *
 *   db-recent:  entry *("," entry)        newest first, at most 64
 *   entry:      version ":" nonce         decimal ":" 16 hex digits
 *   db-lineage: 32 hex digits */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "buf.h"
#include "layout.h"

/* Read one entry at *at and step over it and its comma. false: malformed, or the end. */
static bool entry(const char **at, uint64_t *version, uint64_t *nonce)
{
    char digits[21], hex[17];
    const char *p = *at;
    size_t n = strspn(p, "0123456789");
    if (n == 0 || n >= sizeof digits || p[n] != ':') return false;
    memcpy(digits, p, n);
    digits[n] = 0;
    p += n + 1;
    n = strspn(p, "0123456789abcdef");
    if (n != 16) return false;
    memcpy(hex, p, 16);
    hex[16] = 0;
    p += 16;
    if (*p == ',')
        p++;
    else if (*p)
        return false;
    if (!*p && p[-1] == ',') return false; /* cut off */
    if (!r2_parse_u64(digits, UINT64_MAX, version) || !r2_parse_hex64(hex, 16, nonce)) return false;
    *at = p;
    return true;
}

bool r2_recent_valid(const char *recent, uint64_t version)
{
    uint64_t first, v, nonce, last;
    if (strlen(recent) >= R2_RECENT_BYTES || !entry(&recent, &first, &nonce)) return false;
    if (first != version) return false;
    for (last = first; *recent; last = v)
        if (!entry(&recent, &v, &nonce) || v >= last) return false;
    return true;
}

uint64_t r2_recent_first(const char *recent)
{
    uint64_t first, nonce;
    const char *at = recent;
    return entry(&at, &first, &nonce) && r2_recent_valid(recent, first) ? first : 0;
}

bool r2_recent_find(const char *recent, uint64_t version, uint64_t *nonce)
{
    uint64_t v;
    while (*recent && entry(&recent, &v, nonce))
        if (v == version) return true;
    return false;
}

void r2_recent_prepend(const char *base, uint64_t version, uint64_t nonce,
                       char out[R2_RECENT_BYTES])
{
    uint64_t v, was;
    int n = snprintf(out, R2_RECENT_BYTES, "%" PRIu64 ":%016" PRIx64, version, nonce);
    size_t len = (size_t)n;
    for (int k = 1; k < R2_RECENT_MAX && *base && entry(&base, &v, &was); k++) {
        char text[48];
        n = snprintf(text, sizeof text, ",%" PRIu64 ":%016" PRIx64, v, was);
        if (v >= version || len + (size_t)n >= R2_RECENT_BYTES) break;
        memcpy(out + len, text, (size_t)n + 1);
        len += (size_t)n;
        version = v;
    }
}

/* Is the log still where the segment that we want to make would continue it? */
static bool below(const struct r2_remote *seen, const struct r2_pending *pending)
{
    return seen->has_lineage && memcmp(seen->v.lineage, pending->v.lineage, 16) == 0 &&
           seen->v.version < pending->v.version;
}

enum r2_maker r2_layout_maker(const struct r2_remote *seen, const struct r2_pending *pending,
                              uint32_t *which)
{
    uint64_t version = pending->v.version, nonce;
    if (!seen->exists) return R2_MAKER_NOBODY;
    /* the segment's key is taken by the end of the lineage; KEY is as it was */
    if (seen->ended) return pending->over_etag[0] ? R2_MAKER_NOBODY : R2_MAKER_OTHER;
    bool segment = pending->layout == R2_LAYOUT_LOG && version > 1 && !pending->over_etag[0];
    if (segment ? below(seen, pending) : strcmp(seen->v.etag, pending->over_etag) == 0)
        return R2_MAKER_NOBODY;
    const char *recent = seen->v.recent[0] ? seen->v.recent : seen->older;
    if (recent[0] && r2_recent_find(recent, version, &nonce)) {
        for (uint32_t k = pending->tries; k-- > 0;) {
            if (pending->try[k].nonce != nonce) continue;
            *which = k;
            return k + 1 == pending->tries ? R2_MAKER_LATEST : R2_MAKER_EARLIER;
        }
        return R2_MAKER_OTHER;
    }
    /* a version that does not say who made it and is not past ours was made by somebody else */
    return seen->v.version > version ? R2_MAKER_HIDDEN : R2_MAKER_OTHER;
}

void r2_lineage_text(const uint8_t lineage[16], char out[33])
{
    for (int k = 0; k < 16; k++)
        snprintf(out + 2 * (size_t)k, 3, "%02x", lineage[k]);
}

bool r2_lineage_parse(const char *text, uint8_t lineage[16])
{
    char half[17];
    uint64_t v;
    if (strlen(text) != 32) return false;
    for (int k = 0; k < 2; k++) {
        memcpy(half, text + 16 * (size_t)k, 16);
        half[16] = 0;
        if (!r2_parse_hex64(half, 16, &v)) return false;
        r2_put64(lineage + 8 * (size_t)k, v);
    }
    return true;
}
