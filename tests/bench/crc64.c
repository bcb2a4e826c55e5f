/* crc64.c - how fast are the checksums? GB/s, the best of some rounds, beside memcpy in the same
 * run.
 *
 *     cc -O2 -std=c11 -D_GNU_SOURCE -Ivfs tests/bench/crc64.c vfs/ltx.c vfs/wal.c vfs/err.c
 * vfs/buf.c
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../vfs/ltx.h"
#include "../../vfs/wal.h"

enum { ROUNDS = 7 };

static uint8_t *from, *to; /* `bytes` each */
static size_t bytes, page_size;
static volatile uint64_t sink;

static void run_memcpy(void)
{
    memcpy(to, from, bytes);
    sink += to[bytes - 1];
}
static void run_crc(void)
{
    sink += r2_crc64(0, from, bytes);
}
static void run_tables(void)
{
    sink += r2_crc64_by_tables(0, from, bytes);
}
static void run_pages(void)
{
    uint32_t pgno = 1;
    for (size_t at = 0; at < bytes; at += page_size)
        sink += r2_ltx_page_checksum(pgno++, from + at, (uint32_t)page_size);
}
static void run_wal(void)
{
    uint32_t sum[2] = {0, 0};
    r2_wal_checksum(false, from, bytes, sum);
    sink += sum[0];
}
static void run_wal_big_endian(void)
{
    uint32_t sum[2] = {0, 0};
    r2_wal_checksum(true, from, bytes, sum);
    sink += sum[0];
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void measure(const char *what, void (*fn)(void), size_t repeat)
{
    double best = 1e9;
    for (int i = 0; i < ROUNDS; i++) {
        double start = seconds();
        for (size_t k = 0; k < repeat; k++)
            fn();
        double took = seconds() - start;
        if (took < best) best = took;
    }
    printf("  %-28s %7.2f GB/s\n", what, (double)bytes * (double)repeat / best / 1e9);
}

int main(void)
{
    static const size_t sizes[] = {64 * 1024, 64 * 1024 * 1024};
    from = malloc(sizes[1]);
    to = malloc(sizes[1]);
    if (!from || !to) return 1;
    for (size_t i = 0; i < sizes[1]; i++)
        from[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t i = 0; i < 2; i++) {
        bytes = sizes[i];
        size_t repeat = sizes[1] / bytes;
        printf("%zu KiB\n", bytes / 1024);
        measure("memcpy", run_memcpy, repeat);
        measure("crc64", run_crc, repeat);
        measure("crc64 by tables", run_tables, repeat);
        page_size = 4096, measure("page checksum, 4096", run_pages, repeat);
        page_size = 512, measure("page checksum, 512", run_pages, repeat);
        measure("wal checksum", run_wal, repeat);
        measure("wal checksum, big-endian", run_wal_big_endian, repeat);
    }
    free(from);
    free(to);
    return 0;
}
