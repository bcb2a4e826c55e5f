/* replica.c - the replicas of this process: registry, operations.
 * See replica.h. What an operation does is in replica_open.c, _push.c, _pull.c and _resolve.c. */
#include "replica_int.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "os.h"
#include "sigv4.h"

enum {
    STAGE_BUSY_MS = 5000, /* how long a writer's EXCLUSIVE lock is waited for */
    WAIT_SLICE_MS = 50,
    ASKING_MS = WAIT_SLICE_MS + 10,    /* said again in every slice */
    COMMITTING_MS = 4 * WAIT_SLICE_MS, /* what a waiting COMMIT says again in every slice */
    PATIENCE_MS = 3600 * 1000          /* at most, for an upload of somebody who is alive */
};

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static struct r2_replica *replicas;
static char last_open_error[R2_ERR_TEXT]; /* under `registry` */
void (*r2_log)(enum r2_code code, const char *sentence);
void (*r2_tell)(const char *sentence);

/* ---- sentences ---- */

void r2_log_err(struct r2_replica *r, const struct r2_err *e)
{
    if (r) {
        pthread_mutex_lock(&r->note);
        (void)r2_strcpy(r->last_error, sizeof r->last_error, e->text);
        pthread_mutex_unlock(&r->note);
    } else {
        pthread_mutex_lock(&registry);
        (void)r2_strcpy(last_open_error, sizeof last_open_error, e->text);
        pthread_mutex_unlock(&registry);
    }
    if (r2_log) r2_log(e->code, e->text);
}

void r2_note(struct r2_replica *r, const char *fmt, ...)
{
    char text[R2_ERR_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)r;
    if (r2_log) r2_log(R2_OK, text);
}

void r2_replica_last_error(struct r2_replica *r, char *out, size_t room)
{
    out[0] = 0;
    if (r) {
        pthread_mutex_lock(&r->note);
        (void)r2_strcpy(out, room, r->last_error);
        pthread_mutex_unlock(&r->note);
    }
    if (out[0]) return;
    pthread_mutex_lock(&registry);
    (void)r2_strcpy(out, room, last_open_error);
    pthread_mutex_unlock(&registry);
}

void r2_bar(struct r2_replica *r, const char *why)
{
    pthread_mutex_lock(&r->note);
    (void)r2_strcpy(r->barred_text, sizeof r->barred_text, why ? why : "");
    pthread_mutex_unlock(&r->note);
    atomic_store(&r->barred, why != NULL);
}

bool r2_replica_barred(struct r2_replica *r, struct r2_err *e)
{
    if (!atomic_load(&r->barred)) return false;
    pthread_mutex_lock(&r->note);
    r2_fail(e, R2_CONFLICT, "%s", r->barred_text);
    pthread_mutex_unlock(&r->note);
    return true;
}

/* ---- registry ---- */

static void destroy(struct r2_replica *r)
{
    if (r->forks != r2_fork_count()) {
        if (r->state) r2_state_forget(r->state); /* its memory stays: the parent's threads' locks */
        return;
    }
    if (r->store) r->store->ops->close(r->store);
    r2_state_close(r->state);
    pthread_mutex_destroy(&r->op);
    pthread_mutex_destroy(&r->note);
    free(r->path);
    free(r);
}

static struct r2_replica *create(const char *path, const struct r2_config *config, struct r2_err *e)
{
    struct r2_replica *r = calloc(1, sizeof *r);
    if (!r || !(r->path = strdup(path))) {
        free(r);
        r2_fail(e, R2_NOMEM, "out of memory");
        return NULL;
    }
    r->forks = r2_fork_count();
    r->config = *config;
    atomic_store(&r->timeout_ms, config->timeout_ms);
    pthread_mutex_init(&r->op, NULL);
    pthread_mutex_init(&r->note, NULL);
    if (r2_store_open(config, &r->store, e) == R2_OK && r2_make_folders_above(path, e) == R2_OK &&
        r2_state_open(path, &r->state, e) == R2_OK)
        return r;
    destroy(r);
    return NULL;
}

static void hold_registry(void)
{
    pthread_mutex_lock(&registry);
}

static void release_registry(void)
{
    pthread_mutex_unlock(&registry);
}

/* A child needs the registry's lock in a known state, and must not keep the parent's file locks
 * alive through its copies of the descriptors. */
static void in_child(void)
{
    for (struct r2_replica *r = replicas; r; r = r->next)
        r2_state_forget(r->state);
    release_registry();
}

static void watch_forks(void)
{
    (void)r2_fork_count();
    pthread_atfork(hold_registry, release_registry, in_child);
}

enum r2_code r2_replica_attach(const char *path, const struct r2_config *config,
                               struct r2_replica **out, struct r2_err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    enum r2_code rc = R2_OK;
    pthread_once(&once, watch_forks);
    unsigned forks = r2_fork_count();
    pthread_mutex_lock(&registry);
    struct r2_replica *r = replicas;
    while (r && (r->forks != forks || strcmp(r->path, path) != 0))
        r = r->next;
    if (r && strcmp(r->config.url, config->url) != 0) {
        rc = r2_fail(e, R2_CONFIG,
                     "%s is open in this process with the remote %s; close it before "
                     "opening it with %s",
                     path, r->config.url, config->url);
        r = NULL;
    } else if (!r && (r = create(path, config, e))) {
        r->next = replicas;
        replicas = r;
    }
    if (r)
        r->refs++;
    else if (!rc)
        rc = e->code;
    pthread_mutex_unlock(&registry);
    *out = r;
    return rc;
}

void r2_replica_detach(struct r2_replica *r)
{
    pthread_mutex_lock(&registry);
    bool last = --r->refs == 0;
    if (last) {
        struct r2_replica **at = &replicas;
        while (*at && *at != r)
            at = &(*at)->next;
        if (*at) *at = r->next;
    }
    pthread_mutex_unlock(&registry);
    if (last) destroy(r);
}

bool r2_replica_shared(struct r2_replica *r)
{
    pthread_mutex_lock(&registry);
    bool shared = r->refs > 1;
    pthread_mutex_unlock(&registry);
    return shared;
}

void r2_each_replica(void (*fn)(struct r2_replica *, void *), void *ctx)
{
    unsigned forks = r2_fork_count();
    struct r2_replica *r, *before = NULL;
    pthread_mutex_lock(&registry);
    for (r = replicas; r; r = r->next) {
        if (r->forks != forks) continue;
        r->refs++; /* it stays in the list while fn runs without the lock */
        pthread_mutex_unlock(&registry);
        if (before) r2_replica_detach(before);
        fn(r, ctx);
        before = r;
        pthread_mutex_lock(&registry);
    }
    pthread_mutex_unlock(&registry);
    if (before) r2_replica_detach(before);
}

bool r2_replica_foreign(const struct r2_replica *r)
{
    return r->forks != r2_forks;
}

bool r2_replica_at_ease(const struct r2_replica *r, const struct r2_config *config)
{
    return !atomic_load(&r->barred) && !atomic_load(&r->behind) && config->refresh_open &&
           config->sync != R2_SYNC_COMMIT;
}

/* ---- operations ---- */

int64_t r2_signing_now(struct r2_replica *r)
{
    return r2_now_ms() + atomic_load(&r->store->skew_ms);
}

/* When the remote was last seen is kept in shared memory, too: not every look is worth a write. */
static void take_times(struct r2_replica *r)
{
    struct r2_live *live = r2_state_live(r->state);
    struct r2_record *k = &r->record;
    int64_t verified = atomic_load(&live->verified_ms), headed = atomic_load(&live->headed_ms);
    int64_t most = r2_signing_now(r) + 3600 * 1000; /* it comes from a file */
    if (verified > k->verified_ms && verified < most) k->verified_ms = verified;
    if (headed > k->headed_ms && headed < most) k->headed_ms = headed;
}

/* Does a COMMIT wait for its turn? It holds SQLite's write lock, so that an operation which looks
 * at the file would wait for it in turn. */
static bool commit_waits(struct r2_replica *r)
{
    int64_t left = atomic_load(&r2_state_live(r->state)->committing_ms) - r2_boot_ms();
    return left > 0 && left <= COMMITTING_MS; /* of a process that was killed, or of another boot */
}

/* The OP lock has no queue: who comes back to it at once would keep it from everybody else. */
static void ask(struct r2_op *op)
{
    if (!op->commit)
        atomic_store(&r2_state_live(op->r->state)->asking_ms, r2_boot_ms() + ASKING_MS);
}

void r2_replica_let_pass(struct r2_replica *r)
{
    for (int turn = 0; turn < ASKING_MS / 2; turn++) {
        int64_t left = atomic_load(&r2_state_live(r->state)->asking_ms) - r2_boot_ms();
        if (left <= 0 || left > ASKING_MS) return;
        r2_sleep_ms(1);
    }
}

static bool give_way(void *arg)
{
    struct r2_op *op = arg;
    if (op->commit || !commit_waits(op->r)) return false;
    op->gave_way = true;
    return true;
}

enum r2_code r2_op_local(struct r2_op *op, int64_t busy_ms, struct r2_local **out)
{
    enum r2_code rc = r2_local_open(op->r->path, busy_ms, out, op->call.err);
    if (!rc) r2_local_hurry(*out, give_way, op);
    return rc;
}

bool r2_op_again(const struct r2_op *op, enum r2_code rc, int64_t until_ms)
{
    return rc == R2_BUSY && op->gave_way && r2_boot_ms() < until_ms;
}

/* Take the OP lock. */
static enum r2_code take_turn(struct r2_op *op, int64_t wait_ms, struct r2_err *e)
{
    struct r2_replica *r = op->r;
    struct timespec until;
    bool anew; /* then no record is found below */
    int64_t now = r2_now_ms(), start = r2_boot_ms();
    until.tv_sec = (now + wait_ms) / 1000;
    until.tv_nsec = (now + wait_ms) % 1000 * 1000000;
    if (!r2_crypto_ready())
        return r2_fail(
            e, R2_IO,
            "the process is ending and its libraries are gone: %s stays as it is, and the "
            "next open pushes what it has",
            r->path);
    if (op->commit) atomic_store(&r2_state_live(r->state)->committing_ms, start + COMMITTING_MS);
    while (!op->commit && wait_ms > 0 && commit_waits(r)) {
        if (r2_boot_ms() - start >= wait_ms)
            return r2_fail(e, R2_BUSY, "COMMITs of other connections to %s go first", r->path);
        r2_sleep_ms(1);
    }
    if (pthread_mutex_trylock(&r->op) != 0) {
        if (wait_ms > 0) ask(op);
        if (wait_ms <= 0 || pthread_mutex_timedlock(&r->op, &until) != 0)
            return r2_fail(e, R2_BUSY, "another thread is still busy with the replica of %s",
                           r->path);
    }
    enum r2_code rc = r2_state_lock(r->state, 0, &anew, e);
    int64_t left = wait_ms - (r2_boot_ms() - start);
    if (rc == R2_BUSY && left > 0) {
        ask(op);
        rc = r2_state_lock(r->state, left, &anew, e);
    }
    if (!rc && !op->commit) atomic_store(&r2_state_live(r->state)->asking_ms, 0);
    if (!rc) {
        rc = r2_state_load(r->state, r->config.url, &r->record, e);
        op->known = rc == R2_OK;
        if (rc == R2_MISSING) rc = R2_OK;
        if (!rc && op->known) take_times(r);
        if (rc) r2_state_unlock(r->state);
    }
    if (rc) {
        pthread_mutex_unlock(&r->op);
        return rc;
    }
    r2_err_clear(e);
    if (!op->known) {
        (void)r2_strcpy(r->record.url, sizeof r->record.url, r->config.url);
        if (!r->record.writer) r->record.writer = r2_random64();
    }
    atomic_store(&r2_state_live(r->state)->uploading, 0); /* whoever left it set is dead */
    atomic_store(&r2_state_live(r->state)->pulling, 0);
    int64_t timeout = atomic_load(&r->timeout_ms);
    op->busy_ms = timeout < STAGE_BUSY_MS ? timeout : STAGE_BUSY_MS;
    r2_op_time(op);
    op->call.traffic = &r->traffic;
    op->call.progress = r->config.progress;
    op->call.err = e;
    return R2_OK;
}

static void new_op(struct r2_op *op, struct r2_replica *r, struct r2_err *e)
{
    memset(op, 0, sizeof *op);
    op->r = r;
    r2_err_clear(e);
}

enum r2_code r2_op_begin(struct r2_op *op, struct r2_replica *r, int64_t wait_ms, struct r2_err *e)
{
    new_op(op, r, e);
    return take_turn(op, wait_ms, e);
}

/* Wait for a turn, with the replica's timeout; see r2_op_wait. */
static enum r2_code wait_turn(struct r2_op *op, bool patient, bool *skip, struct r2_err *e)
{
    struct r2_replica *r = op->r;
    int64_t left = atomic_load(&r->timeout_ms), patience = PATIENCE_MS;
    if (skip) *skip = false;
    if (!op->commit) r2_replica_let_pass(r);
    for (;;) {
        int64_t slice = left < WAIT_SLICE_MS ? left : WAIT_SLICE_MS;
        enum r2_code rc = take_turn(op, slice, e);
        if (rc != R2_BUSY) return rc;
        bool uploading = atomic_load(&r2_state_live(r->state)->uploading);
        if (uploading && skip) {
            *skip = true;
            r2_err_clear(e);
            return R2_OK;
        }
        if (!uploading || !patient) left -= slice;
        patience -= slice;
        if (left <= 0 || patience <= 0) return rc;
    }
}

enum r2_code r2_op_wait(struct r2_op *op, struct r2_replica *r, bool patient, bool *skip,
                        struct r2_err *e)
{
    new_op(op, r, e);
    return wait_turn(op, patient, skip, e);
}

static enum r2_code start(struct r2_op *op, struct r2_replica *r, bool commit, struct r2_err *e)
{
    new_op(op, r, e);
    op->commit = commit;
    if (r2_replica_foreign(r))
        return r2_fail(e, R2_REFUSED, "this connection was opened before a fork(); open a new one");
    enum r2_code rc = wait_turn(op, true, NULL, e);
    if (commit) atomic_store(&r2_state_live(r->state)->committing_ms, 0);
    return rc;
}

enum r2_code r2_op_start(struct r2_op *op, struct r2_replica *r, struct r2_err *e)
{
    return start(op, r, false, e);
}

enum r2_code r2_op_start_commit(struct r2_op *op, struct r2_replica *r, struct r2_err *e)
{
    return start(op, r, true, e);
}

void r2_op_end(struct r2_op *op)
{
    atomic_store(&op->r->version, op->r->record.base.version);
    atomic_store(&op->r->verified_ms, op->r->record.verified_ms);
    atomic_store(&op->r->layout, (int)op->r->record.layout);
    atomic_store(&r2_state_live(op->r->state)->verified_ms, op->r->record.verified_ms);
    atomic_store(&r2_state_live(op->r->state)->headed_ms, op->r->record.headed_ms);
    atomic_store(&r2_state_live(op->r->state)->pulling, 0);
    r2_ahead_free(&op->ahead);
    r2_state_unlock(op->r->state);
    pthread_mutex_unlock(&op->r->op);
}

enum r2_code r2_op_save(struct r2_op *op)
{
    enum r2_code rc = r2_state_save(op->r->state, &op->r->record, op->call.err);
    if (!rc) op->known = true;
    op->unsaved = rc != R2_OK;
    return rc;
}

void r2_op_time(struct r2_op *op)
{
    op->call.deadline_ms = r2_boot_ms() + atomic_load(&op->r->timeout_ms);
}

bool r2_maybe_dirty(struct r2_op *op, const struct r2_identity *now)
{
    const struct r2_record *k = &op->r->record;
    return atomic_load(&r2_state_live(op->r->state)->write_seq) != k->clean_seq ||
           !r2_identity_same(&k->identity, now) || !r2_state_seen(op->r->state);
}

void r2_look_again(struct r2_op *op)
{
    op->r->record.clean_seq = UINT64_MAX;
    r2_state_unseen(op->r->state);
}

void r2_mark_clean(struct r2_op *op, uint64_t seq, const struct r2_identity *id, uint64_t content)
{
    struct r2_record *k = &op->r->record;
    k->clean_seq = seq;
    k->unvouched = false;
    k->identity = *id;
    uint32_t n = 0;
    if (!content) return;
    while (n < k->held && k->held_content[n] != content)
        n++;
    if (n == k->held && k->held < R2_HELD_MAX) k->held++;
    if (n == R2_HELD_MAX) n--;
    memmove(k->held_content + 1, k->held_content, n * sizeof *k->held_content);
    k->held_content[0] = content;
}

/* ---- from the I/O methods ---- */

enum r2_code r2_replica_touch(struct r2_replica *r, struct r2_marks *m, struct r2_err *e)
{
    enum r2_code rc = r2_state_touch(r->state, e);
    if (!rc) r2_state_begin_marks(r->state, m);
    return rc;
}

void r2_replica_mark_page(struct r2_replica *r, struct r2_marks *m, uint32_t pgno)
{
    r2_state_mark_page(r->state, m, pgno);
}

void r2_replica_mark_size(struct r2_replica *r, struct r2_marks *m, uint32_t pages)
{
    r2_state_mark_size(r->state, m, pages);
}

void r2_replica_found(struct r2_replica *r, const struct r2_stamp *now, bool next)
{
    struct r2_identity id;
    struct r2_err ignored;
    bool none;
    if (r2_state_continues(r->state, now, next, &none)) return;
    if (r2_identity_of(r->path, &id, &ignored) || !r2_continues(r, now, &id))
        r2_state_unseen(r->state);
}

bool r2_continues(struct r2_replica *r, const struct r2_stamp *now, const struct r2_identity *id)
{
    bool none, same = false;
    if (r2_state_continues(r->state, now, false, &none)) return true;
    if (now->kind == 2 && !now->frames && r2_state_sealed(r->state, id)) return true;
    if (!none) return false;
    /* nobody has written since the open that looked at the file: has a stranger? */
    pthread_mutex_lock(&r->note);
    same = r2_identity_same(&r->looked, id);
    pthread_mutex_unlock(&r->note);
    return same;
}

void r2_replica_recovered(struct r2_replica *r, const struct r2_stamp *now)
{
    struct r2_stamp then = r2_state_stamp(r->state), as = *now;
    struct r2_identity id;
    struct r2_err ignored;
    bool none = false, known = now->frames == 0;
    as.change = then.change;
    if (!known) known = r2_state_continues(r->state, &as, false, &none);
    if (!known && none && r2_identity_of(r->path, &id, &ignored) == R2_OK) {
        pthread_mutex_lock(&r->note);
        known = r->looked_whole && r2_identity_equal(&r->looked, &id);
        pthread_mutex_unlock(&r->note);
    }
    if (!known) r2_state_unseen(r->state);
}

void r2_replica_folded(struct r2_replica *r, const struct r2_stamp *now)
{
    bool none;
    if (r2_state_continues(r->state, now, false, &none)) r2_state_seal(r->state, r->path);
}

bool r2_replica_was_folded(struct r2_replica *r)
{
    struct r2_identity id;
    struct r2_err ignored;
    return r2_identity_of(r->path, &id, &ignored) == R2_OK && r2_state_sealed(r->state, &id);
}

void r2_replica_marked(struct r2_replica *r, const struct r2_mark *mark)
{
    r2_state_set_mark(r->state, mark);
}

void r2_replica_left(struct r2_replica *r, const struct r2_stamp *now)
{
    r2_state_set_stamp(r->state, now);
}

void r2_replica_unseen(struct r2_replica *r)
{
    r2_state_unseen(r->state);
}

void r2_replica_committed(struct r2_replica *r, const struct r2_mark *mark)
{
    r2_state_committed(r->state, mark);
}

void r2_replica_ended(struct r2_replica *r, struct r2_marks *m)
{
    r2_state_ended(r->state, m);
}

void r2_replica_count_write(struct r2_replica *r)
{
    atomic_fetch_add_explicit(&r->writes, 1, memory_order_relaxed);
}

void r2_replica_count_sync(struct r2_replica *r)
{
    atomic_fetch_add_explicit(&r->syncs, 1, memory_order_relaxed);
}
