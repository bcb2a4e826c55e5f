/* plan.h - what to do with a local file and a remote: one pure table (DESIGN section 3).
 *
 * Deciding is separate from acting so that every case can be read, and tested, in one place. */
#ifndef R2_PLAN_H
#define R2_PLAN_H

#include <stdbool.h>

#include "layout.h"
#include "state.h"

/* The local file against what the state calls its base. */
enum r2_local_kind {
    R2_LOCAL_ABSENT, /* no file, or an empty one */
    R2_LOCAL_CLEAN,  /* holds the base */
    R2_LOCAL_DIRTY,  /* the base, and local commits on top */
    R2_LOCAL_OLD,    /* holds a version older than the base: a restored backup */
    R2_LOCAL_STRANGE /* content of which nothing is known */
};

/* The remote against the base. */
enum r2_relation {
    R2_REL_ABSENT,  /* no base, nothing in the remote */
    R2_REL_FIRST,   /* no base, something in the remote */
    R2_REL_SAME,    /* the base is the newest version */
    R2_REL_NEWER,   /* a later version, same lineage or a foreign writer's */
    R2_REL_GONE,    /* a base, but nothing in the remote any more */
    R2_REL_OLDER,   /* a version lower than one already seen */
    R2_REL_ALTERED, /* the base's number with other bytes */
    R2_REL_LINEAGE, /* another database altogether */
    R2_REL_HEADLESS /* no base, no snapshot, but a log */
};

enum r2_action {
    R2_DO_NOTHING,
    R2_DO_PUSH,    /* also a birth */
    R2_DO_PULL,    /* take the remote; nothing local is lost */
    R2_DO_COMPARE, /* fetch, then: equal content is clean at that version, any other a conflict */
    R2_DO_CONFLICT,
    R2_DO_REFUSE, /* no policy settles this: r2_resolve() must say */
    R2_DO_RESET   /* both sides are gone: forget the state, start anew */
};

/* Do the remote's metadata call it the base, whatever its ETag? */
bool r2_plan_says_same(const struct r2_version *base, const struct r2_remote *remote);
enum r2_relation r2_plan_relation(const struct r2_record *record, const struct r2_remote *remote);
enum r2_action r2_plan(enum r2_local_kind local, enum r2_relation remote);

/* The sentence for a conflict or refusal: both versions, and the cure. */
void r2_plan_explain(enum r2_relation relation, const struct r2_record *record,
                     const struct r2_remote *remote, char *out, size_t room);

#endif
