/* plan.c - see plan.h. */
#include "plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool lineage_known(const struct r2_version *v)
{
    static const uint8_t none[16];
    return memcmp(v->lineage, none, sizeof none) != 0;
}

/* Is it the MD5 of the bytes, as S3 gives to what was not uploaded in parts? */
static bool is_md5(const char *etag)
{
    return strlen(etag) == 34 && strspn(etag + 1, "0123456789abcdef") == 32;
}

/* The same version under another ETag: copied by a tool that uploads in other parts, or our own
 * push whose ETag we never saw. Metadata alone do not vouch for bytes, since whoever changes them
 * may copy ours: r2_probe() has looked at those that an ETag does not tell apart (remote->altered).
 */
static bool same_version(const struct r2_version *base, const struct r2_remote *remote)
{
    /* two births with the same bytes have the same ETag and are two databases all the same */
    if (remote->has_lineage && lineage_known(base) &&
        memcmp(base->lineage, remote->v.lineage, 16) != 0)
        return false;
    /* the same bytes under a higher number are a version of their own: ours must not go below it */
    if (strcmp(base->etag, remote->v.etag) == 0) return remote->v.version <= base->version;
    if (remote->altered || (is_md5(base->etag) && is_md5(remote->v.etag))) return false;
    return r2_plan_says_same(base, remote);
}

bool r2_plan_says_same(const struct r2_version *base, const struct r2_remote *remote)
{
    return remote->has_checksum && base->version == remote->v.version &&
           base->checksum == remote->v.checksum && base->recent[0] &&
           strcmp(base->recent, remote->v.recent) == 0;
}

/* A change of layout begins a new lineage that goes on from the base's: db-recent still has it. */
static bool goes_on(const struct r2_version *base, const struct r2_remote *remote)
{
    uint64_t here, there;
    if (remote->v.version <= base->version) return false;
    return remote->successor ||
           (r2_recent_find(base->recent, base->version, &here) &&
            r2_recent_find(remote->v.recent, base->version, &there) && here == there);
}

enum r2_relation r2_plan_relation(const struct r2_record *record, const struct r2_remote *remote)
{
    const struct r2_version *base = &record->base;
    if (!base->version && remote->headless) return R2_REL_HEADLESS;
    if (!base->version) return remote->exists ? R2_REL_FIRST : R2_REL_ABSENT;
    if (!remote->exists) return R2_REL_GONE;
    if (same_version(base, remote)) return R2_REL_SAME;
    if (remote->has_lineage && lineage_known(base) &&
        memcmp(base->lineage, remote->v.lineage, 16) != 0)
        return goes_on(base, remote) ? R2_REL_NEWER : R2_REL_LINEAGE;
    bool foreign = !remote->v.recent[0];
    if (foreign) return remote->v.version > base->version ? R2_REL_NEWER : R2_REL_ALTERED;
    if (remote->v.version == base->version) return R2_REL_ALTERED;
    /* also above our base it can be lower than what this replica has seen there */
    bool older = remote->v.version < base->version ||
                 (!remote->by_segments && remote->v.version < record->highest_seen);
    return older ? R2_REL_OLDER : R2_REL_NEWER;
}

enum r2_action r2_plan(enum r2_local_kind local, enum r2_relation remote)
{
    enum {
        NOTHING = R2_DO_NOTHING,
        PUSH = R2_DO_PUSH,
        PULL = R2_DO_PULL,
        COMPARE = R2_DO_COMPARE,
        CONFLICT = R2_DO_CONFLICT,
        REFUSE = R2_DO_REFUSE,
        RESET = R2_DO_RESET
    };
    static const unsigned char table[9][5] = {
        /*              absent   clean     dirty     old       strange */
        /* ABSENT  */ {NOTHING, NOTHING, PUSH, PUSH, PUSH},
        /* FIRST   */ {PULL, COMPARE, COMPARE, COMPARE, COMPARE},
        /* SAME    */ {PULL, NOTHING, PUSH, PULL, COMPARE},
        /* NEWER   */ {PULL, PULL, CONFLICT, PULL, COMPARE},
        /* GONE    */ {RESET, REFUSE, REFUSE, REFUSE, REFUSE},
        /* OLDER   */ {REFUSE, REFUSE, REFUSE, REFUSE, REFUSE},
        /* ALTERED */ {PULL, CONFLICT, CONFLICT, CONFLICT, COMPARE},
        /* LINEAGE */ {PULL, CONFLICT, CONFLICT, CONFLICT, COMPARE},
        /* HEADLS. */ {REFUSE, REFUSE, REFUSE, REFUSE, REFUSE},
    };
    return (enum r2_action)table[remote][local];
}

void r2_plan_explain(enum r2_relation relation, const struct r2_record *record,
                     const struct r2_remote *remote, char *out, size_t room)
{
    const char *url = record->url;
    uint64_t base = record->base.version, now = remote->v.version;
    if (record->damaged) {
        snprintf(
            out, room,
            "conflict: the local file is damaged after an unclean end (PRAGMA quick_check says "
            "where) and is not pushed; it started from version %" PRIu64 " of %s, which is at "
            "version %" PRIu64 " now; SELECT r2_resolve('fork') keeps it as a fork in the bucket "
            "and takes the remote's content",
            base, url, now);
        return;
    }
    const char *cure = "SELECT r2_resolve('fork') keeps the local content as a fork in the bucket "
                       "and takes the remote's, r2_resolve('local') makes the local content the "
                       "newest version and keeps the remote's as a fork";
    switch (relation) {
    case R2_REL_GONE:
        snprintf(out, room,
                 "conflict: %s is gone from the remote, but this replica holds version %" PRIu64
                 " of it; put the object back, or create it again from the local file with SELECT "
                 "r2_resolve('local')",
                 url, base);
        return;
    case R2_REL_HEADLESS:
        snprintf(
            out, room,
            "%s is not there, but the log of a database of that name is: its snapshot was lost; "
            "put it back, or go on from a replica that has the database. SELECT "
            "r2_resolve('local') begins a new database under this name and leaves the old log",
            url);
        return;
    case R2_REL_OLDER:
        snprintf(out, room,
                 "conflict: %s is at version %" PRIu64 " although version %" PRIu64
                 " was seen there before: an older object was put back; %s",
                 url, now, record->highest_seen, cure);
        return;
    case R2_REL_ALTERED:
        snprintf(out, room,
                 "conflict: version %" PRIu64 " of %s in the remote does not have the bytes of the "
                 "version %" PRIu64 " that this replica started from; %s",
                 now, url, base, cure);
        return;
    case R2_REL_LINEAGE:
        snprintf(out, room,
                 "conflict: %s is another database now (lineage differs): the remote is at version "
                 "%" PRIu64 ", this replica started from version %" PRIu64 "; %s",
                 url, now, base, cure);
        return;
    case R2_REL_FIRST:
        snprintf(out, room,
                 "conflict: the local file is not the version %" PRIu64
                 " that %s holds, and nothing says that it comes from it (local version 0); %s",
                 now, url, cure);
        return;
    default:
        snprintf(out, room,
                 "conflict: the local file has changes on top of version %" PRIu64
                 ", but %s is already at version %" PRIu64 "; %s",
                 base, url, now, cure);
    }
}
