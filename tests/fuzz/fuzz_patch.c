/* fuzz_patch.c - two segments one after the other over an image: patch, image, and the fields of
 * page 1 that are local. */
#include "ltx_repair.h"

#include <unistd.h>

#include "../../vfs/image.h"
#include "../../vfs/os.h"
#include "../../vfs/patch.h"

enum { PAGES_MAX = 20000 };

static bool on_bytes(void *ctx, const void *bytes, size_t n)
{
    return r2_buf_add(ctx, bytes, n);
}

static bool take_segment(struct r2_patch *p, struct input *in, size_t n)
{
    uint8_t *bytes = take_bytes(in, n);
    if (n > in->left + n) n = 0;
    struct r2_ltx_bytes b = {bytes, n};
    struct r2_ltx_header h;
    struct r2_err e;
    uint64_t post;
    (void)ltx_repair(bytes, n);
    enum r2_code rc = r2_patch_decode(p, r2_ltx_read_bytes, &b, n, &h, &post, &e);
    sentence(rc, &e);
    if (!rc) RULE(p->page_size == h.page_size && p->pages == h.commit);
    free(bytes);
    return !rc;
}

/* Every page is found, is inside, and has the checksum that is kept of it. */
static void check_patch(struct r2_patch *p)
{
    uint8_t *page = malloc(p->page_size + 1u);
    struct r2_err e;
    for (uint32_t k = 0; k < p->count; k++) {
        uint32_t pgno = p->page[k].pgno;
        RULE(pgno >= 1 && pgno <= p->pages && r2_patch_find(p, pgno) == (int64_t)k);
        RULE(r2_patch_read(p, k, page, &e) == R2_OK);
        RULE(r2_ltx_page_checksum(pgno, page, p->page_size) == p->page[k].sum);
    }
    RULE(r2_patch_find(p, p->pages + 1) < 0 || p->pages == UINT32_MAX);
    free(page);
}

/* As a segment and back: the same pages. */
static void encode_and_back(struct r2_patch *p)
{
    struct r2_ltx_header h = {.min_txid = 2, .max_txid = 2, .pre = R2_LTX_FLAG}, h2;
    struct r2_buf out;
    struct r2_patch back;
    struct r2_err e;
    uint64_t size, post;
    r2_buf_init(&out, SIZE_MAX / 4);
    r2_patch_init(&back, p->db_path);
    RULE(r2_patch_encode(p, &h, R2_LTX_FLAG, on_bytes, &out, &size, &e) == R2_OK);
    struct r2_ltx_bytes b = {out.at, out.len};
    RULE(r2_patch_decode(&back, r2_ltx_read_bytes, &b, b.size, &h2, &post, &e) == R2_OK);
    RULE(back.count == p->count && back.pages == p->pages && post == R2_LTX_FLAG);
    for (uint32_t k = 0; k < p->count; k++) {
        int64_t at = r2_patch_find(&back, p->page[k].pgno);
        RULE(at >= 0 && back.page[at].sum == p->page[k].sum);
    }
    r2_patch_free(&back);
    r2_buf_free(&out);
}

/* Only the local fields change; the content stays what it was. */
static void exchange_fields(struct r2_image *i, const uint8_t header[R2_HEADER])
{
    static const struct {
        size_t first, last;
    } local[] = {{18, 19}, {24, 31}, {40, 43}, {92, 95}};
    struct r2_err e;
    uint64_t content = r2_image_content(i), would = r2_image_page1_as(i, header);
    uint8_t was[R2_HEADER], now[R2_HEADER];
    memcpy(was, i->page1, R2_HEADER);
    RULE(r2_image_page1_as(i, was) == i->sums[0]);
    RULE(r2_image_set_fields(i, header, &e) == R2_OK && i->sums[0] == would);
    RULE(r2_image_content(i) == content);
    memcpy(now, i->page1, R2_HEADER);
    for (size_t k = 0; k < 4; k++) {
        size_t n = local[k].last - local[k].first + 1;
        RULE(memcmp(now + local[k].first, header + local[k].first, n) == 0);
        memset(now + local[k].first, 0, n);
        memset(was + local[k].first, 0, n);
    }
    RULE(memcmp(was, now, R2_HEADER) == 0);
}

static void over_image(struct r2_patch *p, struct input *in)
{
    struct r2_image i;
    struct r2_err e;
    uint8_t *base = calloc(1, 8 * 512), header[R2_HEADER] = {0};
    memcpy(base, "SQLite format 3\0\2", 17);
    r2_image_init(&i);
    RULE(r2_image_create(&i, p->db_path, "-image", false, &e) == R2_OK);
    RULE(r2_write_at(i.fd, base, 8 * 512, 0, &e) == R2_OK);
    enum r2_code rc = r2_image_adopt(&i, 8 * 512, &e);
    RULE(rc == R2_OK && i.pages == 8 && i.page_size == 512);
    RULE(r2_image_patch(&i, p, &e) == R2_OK && i.pages == p->pages);
    if (i.pages) {
        for (uint32_t k = 0; k < p->count; k++)
            RULE(i.sums[p->page[k].pgno - 1] == p->page[k].sum);
        for (size_t k = 0; k < R2_HEADER; k++)
            header[k] = take8(in) ^ 0xa5; /* no byte is the same by chance */
        int64_t first = r2_patch_find(p, 1);
        if (first >= 0 || p->page_size == 512) exchange_fields(&i, header);
        (void)r2_image_checksum(&i);
    }
    r2_image_free(&i);
    free(base);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static char path[200];
    const char *tmp = getenv("TMPDIR");
    if (!path[0]) snprintf(path, sizeof path, "%s/fuzz-%d", tmp ? tmp : "/tmp", (int)getpid());
    struct input in = {bytes, n};
    struct r2_patch p;
    size_t first = (size_t)take8(&in) << 8;
    first |= take8(&in);
    r2_patch_init(&p, path);
    if (first > in.left) first = in.left;
    bool ok = take_segment(&p, &in, first);
    if (ok) {
        check_patch(&p);
        encode_and_back(&p);
        size_t second = in.left;
        struct input rest = in;
        ok = !second || take_segment(&p, &rest, second);
    }
    if (ok) check_patch(&p);
    /* pages that are in no segment are the caller's to refuse, before it makes room for them */
    if (ok && p.pages <= PAGES_MAX) over_image(&p, &in);
    r2_patch_free(&p);
    return 0;
}
