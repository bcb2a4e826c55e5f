/* replica_status.c - what r2_status tells of a replica. */
#include "replica_int.h"

#include <string.h>

#include "buf.h"

struct nth {
    size_t left;
    bool found;
    struct r2_status *out;
};

/* Counting dirty pages means reading the file; only done when somebody wrote. */
static uint64_t dirty_pages(struct r2_replica *r)
{
    struct r2_op op;
    struct r2_err e;
    struct r2_identity now;
    uint64_t pages = 0;
    if (r2_op_begin(&op, r, 100, &e)) { /* a long transfer: at least one, if anybody wrote */
        struct r2_live *live = r2_state_live(r->state);
        return atomic_load(&live->write_seq) != atomic_load(&live->clean_seq);
    }
    if (r2_identity_of(r->path, &now, &e) == R2_OK && r2_maybe_dirty(&op, &now)) {
        struct r2_staged s;
        struct r2_diff d = {0};
        enum r2_code rc = r2_stage_changes(&op, &s);
        if (rc)
            pages = 1; /* somebody is writing: at least one */
        else if (s.by_changes)
            pages = s.equal ? 0 : s.changes.changed;
        else if (s.image.sums && !s.equal &&
                 r2_image_compare(&s.image, &r->record.base, r->state, r->record.area, &d, &e) ==
                     R2_OK)
            pages = d.pages;
        r2_diff_free(&d);
        r2_staged_free(&s);
    }
    r2_op_end(&op);
    return pages;
}

static void fill(struct r2_replica *r, void *ctx)
{
    struct nth *n = ctx;
    struct r2_status *s = n->out;
    if (n->found || n->left-- > 0) return;
    n->found = true;
    memset(s, 0, sizeof *s);
    s->dirty_pages = dirty_pages(r);
    (void)r2_strcpy(s->file, sizeof s->file, r->path);
    (void)r2_strcpy(s->remote, sizeof s->remote, r->config.url);
    (void)r2_strcpy(s->layout, sizeof s->layout,
                    r2_layout_name((enum r2_layout_kind)atomic_load(&r->layout)));
    struct r2_config mode = {.sync = (enum r2_sync_mode)atomic_load(&r->sync_mode),
                             .sync_ms = atomic_load(&r->sync_ms)};
    r2_config_sync_text(&mode, s->sync, sizeof s->sync);
    s->version = atomic_load(&r->version);
    s->remote_version = atomic_load(&r->remote_version);
    s->writes = atomic_load(&r->writes);
    s->syncs = atomic_load(&r->syncs);
    s->pushes = atomic_load(&r->pushes);
    s->pulls = atomic_load(&r->pulls);
    s->conflicts = atomic_load(&r->conflicts);
    s->class_a = atomic_load(&r->traffic.class_a);
    s->class_b = atomic_load(&r->traffic.class_b);
    s->bytes_up = atomic_load(&r->traffic.bytes_up);
    s->bytes_down = atomic_load(&r->traffic.bytes_down);
    pthread_mutex_lock(&r->note);
    (void)r2_strcpy(s->last_error, sizeof s->last_error, r->last_error);
    pthread_mutex_unlock(&r->note);
    s->verified_ms = atomic_load(&r->verified_ms);
}

bool r2_replica_status(size_t index, struct r2_status *out)
{
    struct nth n = {.left = index, .out = out};
    r2_each_replica(fill, &n);
    return n.found;
}
