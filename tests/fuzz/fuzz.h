/* fuzz.h - what the fuzz targets share: an input that is cut into values, and rules.
 *
 * A target is one file fuzz_*.c with LLVMFuzzerTestOneInput; scripts/fuzz builds and runs them.
 * Each asserts with RULE what its decoder promises, not only that it does not crash. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../vfs/buf.h"
#include "../../vfs/err.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* libFuzzer keeps the input of a process that aborts. */
#define RULE(holds)                                                                                \
    do {                                                                                           \
        if (holds) break;                                                                          \
        fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #holds);                        \
        abort();                                                                                   \
    } while (0)

struct input {
    const uint8_t *at;
    size_t left;
};

static uint8_t take8(struct input *in)
{
    if (!in->left) return 0;
    in->left--;
    return *in->at++;
}

static uint64_t take64(struct input *in)
{
    uint64_t v = 0;
    for (int k = 0; k < 8; k++)
        v = v << 8 | take8(in);
    return v;
}

/* Bytes in a block of just their size, so that the sanitizer sees a read beyond it. */
static uint8_t *take_bytes(struct input *in, size_t n)
{
    if (n > in->left) n = in->left;
    uint8_t *p = malloc(n + !n);
    if (!p) abort();
    memcpy(p, in->at, n);
    in->at += n;
    in->left -= n;
    return p;
}

/* Up to the next zero byte, at most `most`; to be freed. */
static char *take_text(struct input *in, size_t most)
{
    size_t n = 0;
    while (n < in->left && n < most && in->at[n])
        n++;
    char *text = malloc(n + 1);
    if (!text) abort();
    memcpy(text, in->at, n);
    text[n] = 0;
    in->at += n;
    in->left -= n;
    if (in->left && !*in->at) take8(in);
    return text;
}

/* A failure says what happened, in one line that a terminal may show. */
static void sentence(enum r2_code code, const struct r2_err *e)
{
    RULE(code == R2_OK || e->text[0]);
    RULE(memchr(e->text, 0, sizeof e->text));
    for (const char *c = e->text; code && *c; c++)
        RULE(((unsigned char)*c >= 32 && *c != 127) || *c == '\t');
}

#pragma GCC diagnostic pop
#endif
