/* fuzz_follow.c - a cold start from a hostile bucket in the log layout: snapshot, its metadata and
 * the segments after it. The input: size of the metadata and of each body (2 bytes), metadata, body
 * of KEY, bodies of the segments 2, 3 ... Segments' checksums are made right. */
#include "fake_store.h"
#include "ltx_repair.h"

#include <unistd.h>

#include "../../vfs/layout.h"

enum { SEGMENTS = 3, PAGES_MAX = 1 << 20 };
static const uint8_t lineage[16] = {0x3f, 0x9c, 0x2b, 0x71};

static void take_meta(struct r2_meta *meta, struct input *in, size_t n)
{
    struct input part = {in->at, n < in->left ? n : in->left};
    in->at += part.left, in->left -= part.left;
    char *text = take_text(&part, 4096), *rest = text;
    r2_meta_clear(meta);
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        char *colon = strstr(line, ": ");
        if (!colon) continue;
        *colon = 0;
        (void)r2_meta_add(meta, line, colon + 2);
    }
    free(text);
}

/* What a cold start calls a version is what the version's own checksum says. */
static void check_image(const struct r2_remote *remote, struct r2_image *i)
{
    uint8_t *page = malloc(i->page_size + 1u);
    struct r2_err e;
    uint64_t rolling = R2_LTX_FLAG;
    RULE(remote->v.pages == i->pages && remote->v.page_size == i->page_size);
    RULE(r2_image_checksum(i) == remote->v.checksum && i->pages <= PAGES_MAX);
    for (uint32_t k = 1; k <= i->pages; k++) {
        RULE(r2_image_read(i, k, 1, page, &e) == R2_OK);
        if (k != r2_ltx_lock_page(i->page_size))
            rolling = r2_ltx_exchange(rolling, 0, r2_ltx_page_checksum(k, page, i->page_size));
    }
    RULE(!i->pages || rolling == remote->v.checksum); /* read again, from the file */
    free(page);
}

static void cold_start(struct fake *f, const char *path)
{
    static struct r2_remote remote;
    struct r2_ahead ahead = {.count = 0};
    struct r2_image image;
    struct r2_err e;
    struct r2_call call = {.err = &e, .deadline_ms = r2_boot_ms() + 60000};
    struct r2_log l = {
        .store = &f->base, .call = &call, .key = "app.db", .db_path = path, .ahead = &ahead};
    r2_err_clear(&e);
    r2_image_init(&image);
    RULE(r2_image_create(&image, path, "-image", false, &e) == R2_OK);
    enum r2_code rc = r2_layout_object.probe(&f->base, &call, "app.db", &remote);
    uint64_t snapshot = remote.v.version;
    if (!rc && remote.layout == R2_LAYOUT_LOG) {
        rc = r2_log_fetch(&l, &remote, 0, &image);
        if (!rc) RULE(remote.v.version >= snapshot && remote.v.version - snapshot <= SEGMENTS);
        if (!rc) check_image(&remote, &image);
    }
    sentence(rc, &e);
    r2_ahead_free(&ahead);
    r2_image_free(&image);
    RULE(!f->changed); /* reading changes nothing */
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct r2_meta meta;
    static struct fake f;
    static char path[200];
    const char *tmp = getenv("TMPDIR");
    struct input in = {bytes, n};
    size_t size[2 + SEGMENTS];
    uint8_t *body[1 + SEGMENTS];
    if (!path[0]) snprintf(path, sizeof path, "%s/fuzz-%d", tmp ? tmp : "/tmp", (int)getpid());
    memset(&f, 0, sizeof f);
    f.base.ops = &fake_ops;
    for (unsigned k = 0; k < 2 + SEGMENTS; k++) {
        size[k] = (size_t)take8(&in) << 8;
        size[k] |= take8(&in);
    }
    take_meta(&meta, &in, size[0]);
    for (unsigned k = 0; k <= SEGMENTS; k++) {
        struct fake_object *o = &f.object[f.n++];
        size_t had = in.left;
        body[k] = take_bytes(&in, size[k + 1]);
        *o = (struct fake_object){.at = body[k], .n = had - in.left, .modified_ms = 1};
        if (k) (void)ltx_repair(body[k], o->n);
        if (k)
            r2_log_key("app.db", lineage, 1 + k, ".ltx", o->key);
        else
            o->meta = &meta, (void)r2_strcpy(o->key, sizeof o->key, "app.db");
        if (k && !o->n) f.n--;
    }
    cold_start(&f, path);
    for (unsigned k = 0; k <= SEGMENTS; k++)
        free(body[k]);
    return 0;
}
