/* test_faults_one_by_one.c - the n-th malloc fails, the n-th system call, once and from then on,
 * for every n until the operation passes; in each thing that a user does, in both layouts and both
 * journal modes, with a directory as the remote.
 *
 * After each fault: an error code and a sentence, no crash; no lock is left; what was acknowledged
 * is there, and nothing half done; the same thing tried again works; so does the next open, and a
 * machine that has nothing gets it all; memory and descriptors are given back; no conflict was made
 * up.
 *
 * R2VFS_FAULT_POINTS: how many n of each operation and kind of fault; 0: every one.
 * R2VFS_FAULT_ONLY: those whose name contains it ("close, log, wal, EIO once"); R2VFS_FAULT_AT:
 * this n only. */
#include "../unit/unit.h"

#ifndef __GLIBC__
static void needs_glibc(void)
{
    printf("not run: takes glibc's functions over ");
}
UNIT_MAIN("faults", UNIT(needs_glibc))
#else

#include "faultkit.h"
#include "faultworld.h"

/* ---- the operations ---- */

static int act_open(struct world *w)
{
    if (w->db) sqlite3_close(w->db);
    int rc = w_open(w, &w->db, w->a, "");
    return rc ? rc : w_exec(w, w->db, "SELECT count(*) FROM t");
}

static int act_birth(struct world *w)
{
    if (w->db) sqlite3_close(w->db);
    int rc = w_open(w, &w->db, w->a, "");
    if (!rc) rc = w_exec(w, w->db, "PRAGMA journal_mode=%s", w->mode);
    if (!rc) rc = w_exec(w, w->db, "%s", W_CREATE);
    if (!rc) rc = w_insert(w, w->db, 1);
    return rc ? rc : w_exec(w, w->db, "SELECT sync()");
}

static int act_commit(struct world *w)
{
    return w_insert(w, w->db, 9);
}

static int act_sync(struct world *w)
{
    return w_exec(w, w->db, "SELECT sync()");
}

static int act_pull(struct world *w)
{
    return w_exec(w, w->db, "SELECT r2_pull()");
}

static int act_read(struct world *w)
{
    return w_exec(w, w->db, "SELECT count(*) FROM t");
}

static int act_checkpoint(struct world *w)
{
    return w_exec(w, w->db, "SELECT r2_checkpoint()");
}

static int act_close(struct world *w)
{
    int rc = sqlite3_close(w->db);
    w->db = NULL;
    return rc;
}

static int act_restore(struct world *w)
{
    return w_exec(w, w->db, "SELECT r2_restore(1)");
}

static int act_fork(struct world *w)
{
    return w_exec(w, w->db, "SELECT r2_resolve('fork')");
}

static int act_remote(struct world *w)
{
    return w_exec(w, w->db, "SELECT r2_resolve('remote')");
}

static int act_local(struct world *w)
{
    return w_exec(w, w->db, "SELECT r2_resolve('local')");
}

/* Another connection of the same process shows version 1. */
static int act_past(struct world *w)
{
    sqlite3 *db = NULL;
    int rc = w_open(w, &db, w->a, "&version=1");
    if (!rc) rc = w_exec(w, db, "SELECT count(*) FROM t");
    sqlite3_close(db);
    return rc;
}

/* ---- how they begin ---- */

static void nothing(struct world *w)
{
    (void)w;
}

static void closed(struct world *w)
{
    w_born(w);
}

static void opened(struct world *w)
{
    w_born(w);
    w_must_open(w, &w->db, w->a, "&sync=manual");
}

static void opened_commit(struct world *w)
{
    w_born(w);
    w_must_open(w, &w->db, w->a, "&sync=commit");
    w_must(w_exec(w, w->db, "PRAGMA journal_mode=%s", w->mode)); /* only WAL is the file's */
}

static void dirty(struct world *w)
{
    opened(w);
    w_must(w_insert(w, w->db, 9));
}

static void dirty_close(struct world *w)
{
    w_born(w);
    w_must_open(w, &w->db, w->a, "&sync=close");
    w_must(w_insert(w, w->db, 9));
}

/* Another machine made two versions since. */
static void newer(struct world *w)
{
    sqlite3 *other;
    w_must_open(w, &other, w->b, "&sync=manual");
    w_must(w_insert(w, other, 8));
    w_must(w_exec(w, other, "SELECT sync()"));
    w_must(w_insert(w, other, 9));
    w_must(w_exec(w, other, "SELECT sync()"));
    sqlite3_close(other);
}

static void closed_behind(struct world *w)
{
    w_born(w);
    newer(w);
}

static void opened_behind(struct world *w)
{
    opened(w);
    newer(w);
}

static void reading_behind(struct world *w)
{
    w_born(w);
    w_must_open(w, &w->db, w->a, "&sync=manual&refresh=0");
    newer(w);
}

static void cold(struct world *w)
{
    w_born(w);
    newer(w);
    w_forget(w->a);
}

static void two_versions(struct world *w)
{
    opened(w);
    w_must(w_insert(w, w->db, 7));
    w_must(w_exec(w, w->db, "SELECT sync()"));
}

static void diverged(struct world *w)
{
    opened(w);
    newer(w);
    w_must(w_insert(w, w->db, 5));
}

static void diverged_closed(struct world *w)
{
    diverged(w);
    w_must(sqlite3_close(w->db));
    w->db = NULL;
}

#define BORN   (BIT(1) | BIT(2) | BIT(3))
#define OTHERS (BORN | BIT(8) | BIT(9))
#define MINE   (BORN | BIT(5))

static const struct operation operations[] = {
    /* name, how it begins, what is done, rows before, rows after, forks, what it is */
    {"open", closed, act_open, BORN, BORN, {0, 0}, 0},
    {"open behind", closed_behind, act_open, BORN, OTHERS, {0, 0}, IS_LATER},
    {"open cold", cold, act_open, 0, OTHERS, {0, 0}, IS_FIRST},
    {"birth", nothing, act_birth, 0, BIT(1), {0, 0}, IS_FIRST},
    {"read", opened, act_read, BORN, BORN, {0, 0}, 0},
    {"read behind", reading_behind, act_read, BORN, OTHERS, {0, 0}, 0},
    {"commit", opened, act_commit, BORN, BORN | BIT(9), {0, 0}, IS_COMMIT},
    {"commit sync", opened_commit, act_commit, BORN, BORN | BIT(9), {0, 0}, IS_COMMIT | IS_PUSH},
    {"sync", dirty, act_sync, BORN | BIT(9), BORN | BIT(9), {0, 0}, IS_PUSH},
    {"pull", opened_behind, act_pull, BORN, OTHERS, {0, 0}, 0},
    {"checkpoint", two_versions, act_checkpoint, BORN | BIT(7), BORN | BIT(7), {0, 0}, 0},
    {"close", dirty_close, act_close, BORN | BIT(9), BORN | BIT(9), {0, 0}, IS_CLOSE},
    {"restore", two_versions, act_restore, BORN | BIT(7), BORN, {0, 0}, IS_PUSH | IS_IN_LOG},
    {"past", two_versions, act_past, BORN | BIT(7), BORN | BIT(7), {0, 0}, IS_IN_LOG},
    {"resolve fork", diverged, act_fork, MINE, OTHERS, {1, 1}, 0},
    {"resolve remote", diverged, act_remote, MINE, OTHERS, {1, 1}, 0},
    {"resolve local", diverged, act_local, MINE, MINE, {1, 1}, IS_PUSH},
    {"open diverged", diverged_closed, act_open, MINE, OTHERS, {1, 1}, IS_LATER},
};

static void with(enum fault_kind kind, bool onward)
{
    for (size_t k = 0; k < sizeof operations / sizeof *operations; k++)
        w_all(&operations[k], kind, onward);
    w_summary();
}

static void memory_once(void)
{
    with(MEMORY, false);
}
static void memory_gone(void)
{
    with(MEMORY, true);
}
static void broken_once(void)
{
    with(BROKEN, false);
}
static void broken_onward(void)
{
    with(BROKEN, true);
}
static void full_once(void)
{
    with(FULL, false);
}
static void full_onward(void)
{
    with(FULL, true);
}
static void denied_once(void)
{
    with(DENIED, false);
}
static void denied_onward(void)
{
    with(DENIED, true);
}
static void short_once(void)
{
    with(SHORT, false);
}
static void short_onward(void)
{
    with(SHORT, true);
}

UNIT_MAIN("faults", UNIT(memory_once), UNIT(memory_gone), UNIT(broken_once), UNIT(broken_onward),
          UNIT(full_once), UNIT(full_onward), UNIT(denied_once), UNIT(denied_onward),
          UNIT(short_once), UNIT(short_onward))
#endif
