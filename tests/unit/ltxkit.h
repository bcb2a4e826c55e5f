/* ltxkit.h - what the tests of LTX segments share: encode and decode whole segments in memory,
 * segments of others (tests/fixtures/ltx), and the decoder in Python (tests/ltx.py). */
#ifndef LTXKIT_H
#define LTXKIT_H

#include "unit.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../../vfs/buf.h"
#include "../../vfs/ltx.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

struct bytes {
    uint8_t *at;
    size_t n;
};

static char folder[300];   /* of this run */
static uint8_t *page_room; /* 64 KiB right before an unreadable page */

static void need(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "\ntest set-up failed: %s\n", what);
    abort();
}

/* --- bytes and files ---------------------------------------------------------------------------
 */

static uint64_t rng_state = 0x9e3779b97f4a7c15u; /* fixed seed: a failure repeats */
static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

enum kind { ZERO, TEXT, NOISE };
static void fill(uint8_t *p, size_t n, enum kind kind)
{
    static const char words[] = "INSERT INTO t VALUES(1, 'a row like many others', NULL); ";
    for (size_t i = 0; i < n; i++)
        p[i] = kind == NOISE  ? (uint8_t)(rng() >> 32)
               : kind == TEXT ? (uint8_t)words[(i + (i / 700) * 13) % (sizeof words - 1)]
                              : 0;
    if (kind == TEXT) p[rng() % n] = (uint8_t)rng(); /* no two alike */
}

static struct bytes bytes_new(size_t n)
{
    struct bytes b = {malloc(n ? n : 1), n};
    need(b.at != NULL, "malloc");
    return b;
}
static struct bytes bytes_of(const void *at, size_t n)
{
    struct bytes b = bytes_new(n);
    if (n) memcpy(b.at, at, n);
    return b;
}
static struct bytes buf_take(struct r2_buf *buf)
{
    struct bytes b = bytes_of(buf->at, buf->len);
    need(!buf->failed, "memory");
    r2_buf_free(buf);
    return b;
}
static struct bytes file_read(const char *p)
{
    struct stat st;
    int fd = open(p, O_RDONLY | O_CLOEXEC);
    need(fd >= 0 && fstat(fd, &st) == 0, p);
    struct bytes b = bytes_new((size_t)st.st_size);
    need(pread(fd, b.at, b.n, 0) == (ssize_t)b.n, p);
    close(fd);
    return b;
}
static void file_write(const char *p, const void *at, size_t n)
{
    int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    need(fd >= 0 && pwrite(fd, at, n, 0) == (ssize_t)n, p);
    close(fd);
}
static const char *path(const char *name)
{
    static char made[4][500];
    static unsigned turn;
    char *p = made[turn++ % 4];
    need(snprintf(p, 500, "%s/%s", folder, name) < 500, "path too long");
    return p;
}
/* Beside this file, wherever the program is started. */
static const char *tests_path(const char *name)
{
    static char made[4][500];
    static unsigned turn;
    const char *slash = strrchr(__FILE__, '/');
    char *p = made[turn++ % 4];
    snprintf(p, 500, "%.*s/../%s", (int)(slash - __FILE__), __FILE__, name);
    return p;
}
static struct bytes fixture(const char *name)
{
    char file[100];
    snprintf(file, sizeof file, "fixtures/ltx/%s", name);
    return file_read(tests_path(file));
}

/* --- encode and decode, the ordinary way -------------------------------------------------------
 */

struct out {
    struct r2_buf buf;
    int calls, fail_at; /* the call that fails, from 1; 0: none */
    struct r2_err *say; /* leave a sentence here when it fails */
};
static bool out_add(void *ctx, const void *bytes, size_t n)
{
    struct out *o = ctx;
    if (!o->buf.max) r2_buf_init(&o->buf, SIZE_MAX / 4);
    if (++o->calls == o->fail_at) {
        if (o->say) r2_fail(o->say, R2_FULL, "the disk is full");
        return false;
    }
    return r2_buf_add(&o->buf, bytes, n);
}

struct image { /* pages of one size, in order */
    struct r2_ltx_header h;
    uint32_t n;
    uint32_t *pgno;
    uint8_t *pages;
    uint64_t post;
};
static struct image image_new(uint32_t page_size, uint32_t n)
{
    struct image i = {.h = {.page_size = page_size,
                            .commit = n,
                            .min_txid = 7,
                            .max_txid = 9,
                            .timestamp_ms = 1700000000123,
                            .pre = R2_LTX_FLAG | 5,
                            .node_id = UINT64_C(0x0102030405060708)},
                      .n = n,
                      .post = R2_LTX_FLAG | 6};
    i.pgno = malloc((n + 1) * sizeof *i.pgno);
    i.pages = malloc((size_t)n * page_size + 1);
    need(i.pgno && i.pages, "malloc");
    for (uint32_t k = 0; k < n; k++)
        i.pgno[k] = k + 1;
    memset(i.pages, 0, (size_t)n * page_size + 1);
    return i;
}
static uint8_t *image_page(const struct image *i, uint32_t k)
{
    return i->pages + (size_t)k * i->h.page_size;
}
/* A whole database, and the checksum to it. */
static void image_snapshot(struct image *i)
{
    i->h.min_txid = 1;
    i->h.pre = 0;
    i->post = R2_LTX_FLAG;
    for (uint32_t k = 0; k < i->n; k++)
        i->post = r2_ltx_exchange(
            i->post, 0, r2_ltx_page_checksum(i->pgno[k], image_page(i, k), i->h.page_size));
}
static struct image image_random(uint32_t page_size, uint32_t n, int kind, bool snapshot)
{
    struct image i = image_new(page_size, n);
    for (uint32_t k = 0; k < n; k++)
        fill(image_page(&i, k), page_size, kind < 0 ? (enum kind)(k % 3) : (enum kind)kind);
    if (snapshot) {
        image_snapshot(&i);
    } else {
        uint32_t p = 0;
        for (uint32_t k = 0; k < n; k++)
            i.pgno[k] = p += 1 + (uint32_t)(rng() % (k % 4 ? 3 : 30000));
        i.h.commit = p + 10;
        if (!n) i.h.commit = 3;
    }
    return i;
}
static void image_free(struct image *i)
{
    free(i->pgno);
    free(i->pages);
}
static bool image_same(const struct image *a, const struct image *b)
{
    uint8_t ha[R2_LTX_HEADER], hb[R2_LTX_HEADER];
    r2_ltx_put_header(ha, &a->h);
    r2_ltx_put_header(hb, &b->h);
    if (memcmp(ha, hb, sizeof ha) != 0 || a->n != b->n || a->post != b->post) return false;
    return a->n == 0 || (memcmp(a->pgno, b->pgno, a->n * sizeof *a->pgno) == 0 &&
                         memcmp(a->pages, b->pages, (size_t)a->n * a->h.page_size) == 0);
}

static enum r2_code encode_to(const struct image *i, struct out *o, struct r2_err *e)
{
    struct r2_ltx_writer *w;
    uint64_t sum = 0, size = 0;
    enum r2_code rc = r2_ltx_begin(&w, &i->h, out_add, o, e);
    for (uint32_t k = 0; k < i->n && !rc; k++)
        rc = r2_ltx_page(w, i->pgno[k], image_page(i, k));
    if (!rc) rc = r2_ltx_end(w, i->post, &sum, &size);
    if (!rc) need(size == o->buf.len && sum == r2_get64((uint8_t *)o->buf.at + size - 8), "result");
    r2_ltx_free(w);
    return rc;
}
static struct bytes encode(const struct image *i)
{
    struct out o = {0};
    struct r2_err e = {0};
    need(encode_to(i, &o, &e) == R2_OK, e.text);
    return buf_take(&o.buf);
}

/* A reader over bytes of its own, before an unreadable page, that counts and fails. */
struct in {
    struct r2_ltx_bytes b;
    int calls, fail_at;
};
static enum r2_code in_read(void *ctx, uint64_t off, void *to, size_t n, struct r2_err *e)
{
    struct in *in = ctx;
    if (++in->calls == in->fail_at) return r2_fail(e, R2_UNREACHABLE, "the line is down");
    if (n == 0 || off > in->b.size || n > in->b.size - off) abort(); /* never asked for */
    return r2_ltx_read_bytes(&in->b, off, to, n, e);
}

static enum r2_code decode_from(struct in *in, struct image *i, struct r2_err *e)
{
    struct r2_ltx_reader *d;
    struct r2_ltx_header h;
    uint32_t pgno;
    bool end = false;
    enum r2_code rc = r2_ltx_open(&d, in_read, in, in->b.size, &h, e);
    *i = (struct image){.pgno = NULL};
    if (rc) return rc;
    i->h = h;
    uint8_t *page = page_room + 65536 - h.page_size;
    while (!(rc = r2_ltx_next(d, &pgno, page, &end)) && !end) {
        if (!(i->n & (i->n - 1))) { /* as powers of two */
            size_t room = i->n ? i->n * 2 : 1;
            i->pgno = realloc(i->pgno, room * sizeof *i->pgno);
            i->pages = realloc(i->pages, room * h.page_size);
            need(i->pgno && i->pages, "realloc");
        }
        i->pgno[i->n] = pgno;
        memcpy(image_page(i, i->n++), page, h.page_size);
    }
    if (!rc) rc = r2_ltx_finish(d, &i->post);
    if (rc) { /* the first failure stays */
        uint64_t post;
        CU_ASSERT(r2_ltx_next(d, &pgno, page, &end) == rc && pgno == 0 && !end);
        CU_ASSERT(r2_ltx_finish(d, &post) == rc && post == 0);
    }
    r2_ltx_close(d);
    return rc;
}
static enum r2_code decode(const uint8_t *at, size_t n, struct image *i, struct r2_err *e)
{
    struct in in = {.b = {at, n}};
    *e = (struct r2_err){0};
    enum r2_code rc = decode_from(&in, i, e);
    CU_ASSERT(rc == e->code && (rc == R2_OK || e->text[0]));
    return rc;
}
static enum r2_code verdict(const uint8_t *at, size_t n)
{
    struct image i;
    struct r2_err e;
    enum r2_code rc = decode(at, n, &i, &e);
    image_free(&i);
    return rc;
}
static bool round_trip(const struct image *i)
{
    struct bytes b = encode(i);
    struct image back;
    struct r2_err e;
    bool same = decode(b.at, b.n, &back, &e) == R2_OK && image_same(i, &back);
    free(b.at);
    image_free(&back);
    return same;
}

static const char *const fixtures[] = {
    "frames-1.ltx",    "blocks-1.ltx",       "r2vfs-1.ltx",        "frames-2-3.ltx",
    "blocks-2-3.ltx",  "r2vfs-2-3.ltx",      "frames-empty.ltx",   "blocks-empty.ltx",
    "r2vfs-empty.ltx", "frames-65536-1.ltx", "blocks-65536-1.ltx", "r2vfs-65536-1.ltx"};

/* --- tests/ltx.py ------------------------------------------------------------------------------
 */

/* Run it over the files `pattern` in the test's folder, output to `got`; its exit status, or -1
 * where there is no Python. */
static int python(const char *pattern)
{
    const char *name = access("/usr/bin/python3", X_OK) == 0 ? "/usr/bin/python3" : "python3";
    char cmd[1200];
    snprintf(cmd, sizeof cmd, "%s -c ''", name);
    if (system(cmd) != 0) {
        printf(" [no python3] ");
        CU_ASSERT_PTR_NULL(getenv("R2VFS_CI"));
        return -1;
    }
    char *script = realpath(tests_path("ltx.py"), NULL);
    need(script != NULL, "ltx.py");
    snprintf(cmd, sizeof cmd, "cd '%s' && exec %s -B '%s' %s >got", folder, name, script, pattern);
    free(script);
    return WEXITSTATUS(system(cmd));
}

/* --- first and last test ---------------------------------------------------------------------- */

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    static uint8_t zeros[65536];
    snprintf(folder, sizeof folder, "%s/r2ltxXXXXXX", tmp && *tmp ? tmp : "/tmp");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    page_room = unit_guarded(zeros, sizeof zeros);
}
static void end(void)
{
    char cmd[400];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", folder);
    CU_ASSERT_EQUAL(system(cmd), 0);
}

#pragma GCC diagnostic pop

#endif
