/* test_plan.c - the table of decisions, and the sentences that come with them. */
#include "unit.h"

#include "../../vfs/plan.h"

/* Written out once more, one line per case, so that a slip in the table shows. */
static const struct {
    enum r2_relation relation;
    enum r2_local_kind local;
    enum r2_action action;
} wanted[] = {
    {R2_REL_ABSENT, R2_LOCAL_ABSENT, R2_DO_NOTHING},
    {R2_REL_ABSENT, R2_LOCAL_CLEAN, R2_DO_NOTHING},
    {R2_REL_ABSENT, R2_LOCAL_DIRTY, R2_DO_PUSH}, /* births */
    {R2_REL_ABSENT, R2_LOCAL_OLD, R2_DO_PUSH},
    {R2_REL_ABSENT, R2_LOCAL_STRANGE, R2_DO_PUSH},
    {R2_REL_FIRST, R2_LOCAL_ABSENT, R2_DO_PULL},
    {R2_REL_FIRST, R2_LOCAL_CLEAN, R2_DO_COMPARE}, /* no base: nothing vouches for the file */
    {R2_REL_FIRST, R2_LOCAL_DIRTY, R2_DO_COMPARE},
    {R2_REL_FIRST, R2_LOCAL_OLD, R2_DO_COMPARE},
    {R2_REL_FIRST, R2_LOCAL_STRANGE, R2_DO_COMPARE},
    {R2_REL_SAME, R2_LOCAL_ABSENT, R2_DO_PULL},
    {R2_REL_SAME, R2_LOCAL_CLEAN, R2_DO_NOTHING},
    {R2_REL_SAME, R2_LOCAL_DIRTY, R2_DO_PUSH},
    {R2_REL_SAME, R2_LOCAL_OLD, R2_DO_PULL},
    {R2_REL_SAME, R2_LOCAL_STRANGE, R2_DO_COMPARE},
    {R2_REL_NEWER, R2_LOCAL_ABSENT, R2_DO_PULL},
    {R2_REL_NEWER, R2_LOCAL_CLEAN, R2_DO_PULL},
    {R2_REL_NEWER, R2_LOCAL_DIRTY, R2_DO_CONFLICT},
    {R2_REL_NEWER, R2_LOCAL_OLD, R2_DO_PULL},
    {R2_REL_NEWER, R2_LOCAL_STRANGE, R2_DO_COMPARE},
    {R2_REL_GONE, R2_LOCAL_ABSENT, R2_DO_RESET},
    {R2_REL_GONE, R2_LOCAL_CLEAN, R2_DO_REFUSE},
    {R2_REL_GONE, R2_LOCAL_DIRTY, R2_DO_REFUSE},
    {R2_REL_GONE, R2_LOCAL_OLD, R2_DO_REFUSE},
    {R2_REL_GONE, R2_LOCAL_STRANGE, R2_DO_REFUSE},
    {R2_REL_OLDER, R2_LOCAL_ABSENT, R2_DO_REFUSE},
    {R2_REL_OLDER, R2_LOCAL_CLEAN, R2_DO_REFUSE},
    {R2_REL_OLDER, R2_LOCAL_DIRTY, R2_DO_REFUSE},
    {R2_REL_OLDER, R2_LOCAL_OLD, R2_DO_REFUSE},
    {R2_REL_OLDER, R2_LOCAL_STRANGE, R2_DO_REFUSE},
    {R2_REL_ALTERED, R2_LOCAL_ABSENT, R2_DO_PULL},
    {R2_REL_ALTERED, R2_LOCAL_CLEAN, R2_DO_CONFLICT},
    {R2_REL_ALTERED, R2_LOCAL_DIRTY, R2_DO_CONFLICT},
    {R2_REL_ALTERED, R2_LOCAL_OLD, R2_DO_CONFLICT},
    {R2_REL_ALTERED, R2_LOCAL_STRANGE, R2_DO_COMPARE},
    {R2_REL_LINEAGE, R2_LOCAL_ABSENT, R2_DO_PULL},
    {R2_REL_LINEAGE, R2_LOCAL_CLEAN, R2_DO_CONFLICT},
    {R2_REL_LINEAGE, R2_LOCAL_DIRTY, R2_DO_CONFLICT},
    {R2_REL_LINEAGE, R2_LOCAL_OLD, R2_DO_CONFLICT},
    {R2_REL_LINEAGE, R2_LOCAL_STRANGE, R2_DO_COMPARE},
};

static void whole_table(void)
{
    CU_ASSERT_EQUAL(sizeof wanted / sizeof *wanted, 40);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (r2_plan(wanted[i].local, wanted[i].relation) != wanted[i].action)
            fprintf(stderr, "relation %d, local %d\n", wanted[i].relation, wanted[i].local);
        CU_ASSERT_EQUAL(r2_plan(wanted[i].local, wanted[i].relation), wanted[i].action);
    }
}

/* Whatever may hold something that is nowhere else is never pulled over, nor pushed over others. */
static void what_nobody_else_has_is_kept(void)
{
    for (int rel = R2_REL_ABSENT; rel <= R2_REL_LINEAGE; rel++) {
        CU_ASSERT_NOT_EQUAL(r2_plan(R2_LOCAL_DIRTY, (enum r2_relation)rel), R2_DO_PULL);
        CU_ASSERT_NOT_EQUAL(r2_plan(R2_LOCAL_STRANGE, (enum r2_relation)rel), R2_DO_PULL);
        CU_ASSERT_NOT_EQUAL(r2_plan(R2_LOCAL_DIRTY, (enum r2_relation)rel), R2_DO_RESET);
        for (int kind = R2_LOCAL_ABSENT; kind <= R2_LOCAL_STRANGE; kind++)
            if (r2_plan((enum r2_local_kind)kind, (enum r2_relation)rel) == R2_DO_PUSH)
                CU_ASSERT_TRUE(rel == R2_REL_ABSENT || rel == R2_REL_SAME);
    }
}

/* ---- relations ---- */

static struct r2_record record; /* base: version 5 of lineage 1.., pushed by r2vfs */
static struct r2_remote remote; /* the same, to be changed by each case */

#define RECENT5 "5:00000000000000a5,4:00000000000000a4"

static void start(void)
{
    memset(&record, 0, sizeof record);
    snprintf(record.url, sizeof record.url, "s3://bucket/app.db");
    record.base.version = record.highest_seen = 5;
    snprintf(record.base.etag, sizeof record.base.etag, "\"five\"");
    memset(record.base.lineage, 1, 16);
    record.base.checksum = 0x8000000000000055;
    snprintf(record.base.recent, sizeof record.base.recent, RECENT5);
    memset(&remote, 0, sizeof remote);
    remote.exists = remote.numbered = remote.has_checksum = remote.has_lineage = true;
    remote.v = record.base;
}

static enum r2_relation relation(void)
{
    return r2_plan_relation(&record, &remote);
}

/* A version of another r2vfs. */
static void theirs(uint64_t version)
{
    remote.v.version = version;
    snprintf(remote.v.etag, sizeof remote.v.etag, "\"theirs%d\"", (int)version);
    snprintf(remote.v.recent, sizeof remote.v.recent, "%d:00000000000000bb", (int)version);
    remote.v.checksum = 0x8000000000000066;
}

/* An object of a program that knows at most db-version; 0: not even that. */
static void foreign(uint64_t version)
{
    memset(&remote.v, 0, sizeof remote.v);
    remote.has_checksum = remote.has_lineage = false;
    remote.numbered = version != 0;
    remote.v.version = version ? version : 1;
    snprintf(remote.v.etag, sizeof remote.v.etag, "\"foreign\"");
}

static void without_a_base(void)
{
    start();
    memset(&record.base, 0, sizeof record.base);
    CU_ASSERT_EQUAL(relation(), R2_REL_FIRST);
    foreign(0);
    CU_ASSERT_EQUAL(relation(), R2_REL_FIRST);
    memset(&remote, 0, sizeof remote);
    CU_ASSERT_EQUAL(relation(), R2_REL_ABSENT);
}

static void same_and_gone(void)
{
    start();
    CU_ASSERT_EQUAL(relation(), R2_REL_SAME);
    memset(&remote, 0, sizeof remote);
    CU_ASSERT_EQUAL(relation(), R2_REL_GONE);
    /* a plain file that was read as it is, still there */
    start();
    memset(record.base.lineage, 0, 16);
    record.base.recent[0] = 0;
    foreign(0);
    snprintf(remote.v.etag, sizeof remote.v.etag, "\"five\"");
    CU_ASSERT_EQUAL(relation(), R2_REL_SAME);
}

static void same_version_under_another_etag(void)
{
    start();
    snprintf(remote.v.etag, sizeof remote.v.etag, "\"copied-5\"");
    CU_ASSERT_EQUAL(relation(), R2_REL_SAME);
    record.base.etag[0] = 0; /* our own push, whose answer we never saw */
    CU_ASSERT_EQUAL(relation(), R2_REL_SAME);
    /* whoever changes the bytes may copy our metadata: two MD5s are two contents */
    snprintf(record.base.etag, sizeof record.base.etag, "\"0123456789abcdef0123456789abcdef\"");
    CU_ASSERT_EQUAL(relation(), R2_REL_SAME); /* theirs is none: r2_probe() looks at the bytes, */
    remote.altered = true;
    CU_ASSERT_EQUAL(relation(), R2_REL_ALTERED); /* and says so */
    remote.altered = false;
    snprintf(remote.v.etag, sizeof remote.v.etag, "\"0123456789abcdef0123456789abcde0\"");
    CU_ASSERT_EQUAL(relation(), R2_REL_ALTERED);
    record.base.etag[0] = 0;
    CU_ASSERT_EQUAL(relation(), R2_REL_SAME);
    /* each part of the proof is needed */
    remote.v.checksum++;
    CU_ASSERT_EQUAL(relation(), R2_REL_ALTERED);
    remote.v.checksum--;
    remote.has_checksum = false;
    CU_ASSERT_EQUAL(relation(), R2_REL_ALTERED);
    remote.has_checksum = true;
    snprintf(remote.v.recent, sizeof remote.v.recent, "5:00000000000000b5,4:00000000000000a4");
    CU_ASSERT_EQUAL(relation(), R2_REL_ALTERED); /* another writer's 5 with equal content */
    remote.v.recent[0] = record.base.recent[0] = 0;
    CU_ASSERT_EQUAL(relation(), R2_REL_ALTERED);
}

static void newer_and_older(void)
{
    start();
    theirs(6);
    CU_ASSERT_EQUAL(relation(), R2_REL_NEWER);
    theirs(600);
    CU_ASSERT_EQUAL(relation(), R2_REL_NEWER);
    theirs(4);
    CU_ASSERT_EQUAL(relation(), R2_REL_OLDER);
    theirs(5);
    CU_ASSERT_EQUAL(relation(), R2_REL_ALTERED);
    /* above our base, yet below what was seen there */
    record.highest_seen = 9;
    theirs(8);
    CU_ASSERT_EQUAL(relation(), R2_REL_OLDER);
    theirs(9);
    CU_ASSERT_EQUAL(relation(), R2_REL_NEWER);
    /* versions are 64 bits wide */
    theirs(6);
    remote.v.version = record.highest_seen = UINT64_MAX;
    CU_ASSERT_EQUAL(relation(), R2_REL_NEWER);
    remote.v.version = ((uint64_t)1 << 32) + 4;
    CU_ASSERT_EQUAL(relation(), R2_REL_OLDER);
}

static void foreign_writers(void)
{
    static const struct {
        uint64_t number;
        enum r2_relation want;
    } cases[] = {{6, R2_REL_NEWER},   {7, R2_REL_NEWER},   {5, R2_REL_ALTERED},
                 {4, R2_REL_ALTERED}, {1, R2_REL_ALTERED}, {0, R2_REL_ALTERED}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start();
        foreign(cases[i].number);
        CU_ASSERT_EQUAL(relation(), cases[i].want);
        remote.has_lineage = true; /* it kept our lineage */
        memcpy(remote.v.lineage, record.base.lineage, 16);
        CU_ASSERT_EQUAL(relation(), cases[i].want);
    }
    /* over a plain base, which is version 1 */
    start();
    record.base.version = 1;
    memset(record.base.lineage, 0, 16);
    foreign(0);
    CU_ASSERT_EQUAL(relation(), R2_REL_ALTERED);
    foreign(2);
    CU_ASSERT_EQUAL(relation(), R2_REL_NEWER);
}

static void lineages_never_mix(void)
{
    start();
    theirs(6);
    remote.v.lineage[15] ^= 1;
    CU_ASSERT_EQUAL(relation(), R2_REL_LINEAGE);
    theirs(4);
    CU_ASSERT_EQUAL(relation(), R2_REL_LINEAGE);
    theirs(5);
    CU_ASSERT_EQUAL(relation(), R2_REL_LINEAGE);
    remote.v.recent[0] = 0;
    CU_ASSERT_EQUAL(relation(), R2_REL_LINEAGE);
    /* a plain object that somebody made the first version of a lineage */
    start();
    memset(record.base.lineage, 0, 16);
    theirs(6);
    CU_ASSERT_EQUAL(relation(), R2_REL_NEWER);
    /* who gives none is a foreign writer, no other lineage */
    start();
    theirs(6);
    remote.has_lineage = false;
    memset(remote.v.lineage, 0, 16);
    CU_ASSERT_EQUAL(relation(), R2_REL_NEWER);
}

/* ---- sentences ---- */

static bool says(enum r2_relation rel, const char *part)
{
    char text[R2_ERR_TEXT];
    r2_plan_explain(rel, &record, &remote, text, sizeof text);
    bool yes = strstr(text, part) != NULL && strlen(text) + 1 < sizeof text;
    if (!yes) fprintf(stderr, "\"%s\" does not say \"%s\"\n", text, part);
    return yes;
}

static void sentences_name_versions_and_cure(void)
{
    start();
    record.base.version = 1741;
    record.highest_seen = 1742;
    remote.v.version = 1738;
    for (int rel = R2_REL_FIRST; rel <= R2_REL_LINEAGE; rel++) {
        enum r2_relation r = (enum r2_relation)rel;
        CU_ASSERT_TRUE(says(r, "conflict"));
        CU_ASSERT_TRUE(says(r, "s3://bucket/app.db"));
        CU_ASSERT_TRUE(says(r, "r2_resolve('local')"));
        if (r != R2_REL_GONE) CU_ASSERT_TRUE(says(r, "r2_resolve('fork')")); /* nothing to take */
        if (r != R2_REL_GONE) CU_ASSERT_TRUE(says(r, "1738"));
        const char *ours = r == R2_REL_OLDER ? "1742" : r == R2_REL_FIRST ? "version 0" : "1741";
        CU_ASSERT_TRUE(says(r, ours));
    }
}

/* Room is kept to, whatever the URL. */
static void small_room(void)
{
    start();
    memset(record.url, 'x', sizeof record.url - 1);
    record.url[sizeof record.url - 1] = 0;
    for (int rel = R2_REL_ABSENT; rel <= R2_REL_LINEAGE; rel++) {
        char text[40];
        memset(text, 'T', sizeof text);
        r2_plan_explain((enum r2_relation)rel, &record, &remote, text, 20);
        CU_ASSERT_TRUE(memchr(text, 0, 20) != NULL);
        CU_ASSERT_EQUAL(text[20], 'T');
    }
}

UNIT_MAIN("plan", UNIT(whole_table), UNIT(what_nobody_else_has_is_kept), UNIT(without_a_base),
          UNIT(same_and_gone), UNIT(same_version_under_another_etag), UNIT(newer_and_older),
          UNIT(foreign_writers), UNIT(lineages_never_mix), UNIT(sentences_name_versions_and_cure),
          UNIT(small_room))
