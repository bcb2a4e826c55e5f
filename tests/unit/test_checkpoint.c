/* Tests for replica_checkpoint.c: when a checkpoint is due, and that nothing is written of which
 * the checksum is not the version's. How they go through against R2: tests/r2/test_checkpoint.py.
 */
#include "replicakit.h"

#define MIB ((uint64_t)1 << 20)

static struct r2_record record;

static bool due(uint64_t size, uint64_t segments, uint64_t bytes)
{
    memset(&record, 0, sizeof record);
    record.layout = R2_LAYOUT_LOG;
    record.snapshot = 10;
    record.base.version = 10 + segments;
    record.base.page_size = 4096;
    record.base.pages = (uint32_t)(size / 4096);
    record.log_bytes = bytes;
    return r2_checkpoint_due(&record);
}

static void when_due(void)
{
    CU_ASSERT_FALSE(due(MIB, 0, 0));
    CU_ASSERT_FALSE(due(MIB, 0, 100 * MIB)); /* the snapshot is the base, whatever was counted */
    CU_ASSERT_FALSE(due(MIB, 255, MIB));
    CU_ASSERT_TRUE(due(MIB, 256, MIB));
    CU_ASSERT_TRUE(due(MIB, 1, MIB + 1));
    CU_ASSERT_FALSE(due(100 * MIB, 3, 25 * MIB)); /* a quarter */
    CU_ASSERT_TRUE(due(100 * MIB, 3, 25 * MIB + 1));
    CU_ASSERT_TRUE(due(64 * MIB, 256, 1000));
    CU_ASSERT_FALSE(due(65 * MIB, 256, 1000)); /* 256 requests are less than 65 MiB */
    CU_ASSERT_FALSE(due(1024 * MIB, 4095, 1000));
    CU_ASSERT_TRUE(due(1024 * MIB, 4096, 1000));
    (void)due(MIB, 300, 0);
    record.snapshot = 400; /* somebody's newer one was seen */
    CU_ASSERT_FALSE(r2_checkpoint_due(&record));
    record.snapshot = 0;
    record.layout = R2_LAYOUT_OBJECT;
    CU_ASSERT_FALSE(r2_checkpoint_due(&record));
    memset(&record, 0, sizeof record);
    record.layout = R2_LAYOUT_LOG;
    CU_ASSERT_FALSE(r2_checkpoint_due(&record));
}

/* Version 1 is the snapshot; a's base is version 2, a segment. */
static void in_a_log(void)
{
    uint64_t v;
    start();
    a.config.layout = R2_LAYOUT_LOG;
    CU_ASSERT_EQUAL(open_it(&a), R2_OK);
    commit(&a, "CREATE TABLE t(x, pad); INSERT INTO t VALUES(10, zeroblob(50000))");
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    commit(&a, "UPDATE t SET x = 11");
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(v, 2);
    CU_ASSERT_EQUAL(remote_version(), 1);
    script.puts = script.others = 0;
}

static enum r2_code checkpoint(uint64_t *v)
{
    *v = 0;
    r2_err_clear(&err);
    return r2_replica_checkpoint(a.r, "", v, &err);
}

/* Change the state behind the replica's back. */
static void tamper(void (*how)(struct r2_op *))
{
    struct r2_op op;
    CU_ASSERT_EQUAL_FATAL(r2_op_begin(&op, a.r, 1000, &err), R2_OK);
    how(&op);
    CU_ASSERT_EQUAL(r2_op_save(&op), R2_OK);
    r2_op_end(&op);
}

static void other_checksum(struct r2_op *op)
{
    op->r->record.base.checksum ^= 4;
}

static void other_header(struct r2_op *op)
{
    op->r->record.base.header[27] ^= 1; /* page 1 with another change counter */
}

/* A page that the file and the state agree on, though no version ever had it. */
static void other_page(struct r2_op *op)
{
    uint8_t page[4096];
    uint64_t sum;
    struct r2_err e;
    int fd = open(a.path, O_RDWR);
    if (fd < 0 || pread(fd, page, sizeof page, 3 * 4096) != sizeof page) abort();
    page[4000] ^= 1;
    if (pwrite(fd, page, sizeof page, 3 * 4096) != sizeof page) abort();
    close(fd);
    sum = r2_ltx_page_checksum(4, page, sizeof page);
    CU_ASSERT_EQUAL(r2_state_write_sums(op->r->state, op->r->record.area, 4, 1, &sum, &e), R2_OK);
}

static void never_another_checksum(void)
{
    static void (*const how[])(struct r2_op *) = {other_checksum, other_page};
    uint64_t v;
    for (size_t k = 0; k < 2; k++) {
        in_a_log();
        tamper(how[k]);
        CU_ASSERT_EQUAL(checkpoint(&v), R2_CORRUPT);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "No snapshot was written"));
        CU_ASSERT_EQUAL(script.puts + script.others, 0);
        CU_ASSERT_EQUAL(remote_version(), 1);
        CU_ASSERT_EQUAL(close_it(&a, true), R2_OK); /* nor at close */
        CU_ASSERT_EQUAL(script.puts + script.others, 0);
        CU_ASSERT_EQUAL(remote_value(), 10);
        stop();
    }
}

/* What differs from the base is not the base: then the remote's is taken. */
static void not_the_base(void)
{
    uint64_t v;
    in_a_log();
    tamper(other_header);
    CU_ASSERT_EQUAL(checkpoint(&v), R2_OK);
    CU_ASSERT_EQUAL(v, 2);
    CU_ASSERT_EQUAL(remote_value(), 11);
    CU_ASSERT_EQUAL(remote().v.version, 2);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    stop();
}

static void goes_through(void)
{
    uint64_t v;
    in_a_log();
    CU_ASSERT_EQUAL(checkpoint(&v), R2_OK);
    CU_ASSERT_EQUAL(v, 2);
    CU_ASSERT_EQUAL(remote_value(), 11);
    CU_ASSERT_EQUAL(script.puts, 1);
    CU_ASSERT_EQUAL(script.others, 1); /* the base's copy */
    CU_ASSERT_EQUAL(a.r->record.snapshot, 2);
    CU_ASSERT_EQUAL(a.r->record.log_bytes, 0);
    CU_ASSERT_EQUAL(close_it(&a, true), R2_OK);
    CU_ASSERT_EQUAL(script.puts, 1);
    stop();
}

/* Bytes are counted, of what is pushed and of what is pulled, and not twice. */
static void counted(void)
{
    uint64_t v, here;
    in_a_log();
    here = a.r->record.log_bytes;
    CU_ASSERT_TRUE(here > 100 && here < 4096);
    b.config.layout = R2_LAYOUT_LOG;
    CU_ASSERT_EQUAL(open_it(&b), R2_OK);
    CU_ASSERT_EQUAL(b.r->record.log_bytes, here);
    commit(&a, "UPDATE t SET x = 12");
    CU_ASSERT_EQUAL(sync_it(&a, &v), R2_OK);
    CU_ASSERT_EQUAL(pull_it(&b, &v), R2_OK);
    CU_ASSERT_TRUE(a.r->record.log_bytes > here);
    CU_ASSERT_EQUAL(b.r->record.log_bytes, a.r->record.log_bytes);
    CU_ASSERT_EQUAL(checkpoint(&v), R2_OK);
    CU_ASSERT_EQUAL(v, 3);
    CU_ASSERT_EQUAL(a.r->record.log_bytes, 0);
    CU_ASSERT_EQUAL(close_it(&a, false), R2_OK);
    CU_ASSERT_EQUAL(close_it(&b, false), R2_OK);
    stop();
}

UNIT_MAIN("checkpoint", UNIT(when_due), UNIT(goes_through), UNIT(counted),
          UNIT(never_another_checksum), UNIT(not_the_base))
