/* s3xml.h - the little XML that S3 answers with. Pure, and bounded in every way.
 *
 * Understood: elements (attributes and namespace prefixes are skipped), text, the five named
 * entities and numeric ones, CDATA, comments, <?...?>. Refused: a DOCTYPE, and with it every other
 * entity; more than 16 levels. */
#ifndef R2_S3XML_H
#define R2_S3XML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"

enum {
    R2_S3_KEY_BYTES = 1025, /* R2 allows keys of 1,024 bytes */
    R2_S3_CODE_BYTES = 64,
    R2_S3_MESSAGE_BYTES = 200,
    R2_S3_TOKEN_BYTES = 4096
};

/* <Error><Code>..</Code><Message>..</Message><ServerTime>..</ServerTime></Error> */
struct r2_s3_error {
    char code[R2_S3_CODE_BYTES];       /* "" when the text is no such error */
    char message[R2_S3_MESSAGE_BYTES]; /* cut; printable */
    int64_t server_time_ms;            /* with RequestTimeTooSkewed; 0: not told */
};
bool r2_s3_error(const char *xml, size_t n, struct r2_s3_error *out);

/* The text of the child `name` of the root element `root`; false: not that root, or no such child,
 * or the document is broken or incomplete, or the text does not fit. */
bool r2_s3_value(const char *xml, size_t n, const char *root, const char *name, char *out,
                 size_t room);

/* One page of ListObjectsV2: `fn` for each object; false from it ends the page early. */
struct r2_s3_page {
    bool truncated;                /* another page follows */
    bool stopped;                  /* fn said so */
    char token[R2_S3_TOKEN_BYTES]; /* NextContinuationToken */
};
typedef bool (*r2_s3_object_fn)(void *ctx, const char *key, uint64_t size, int64_t modified_ms);
/* false: the document is not a whole, sane listing; fn has then not been called. */
bool r2_s3_listing(const char *xml, size_t n, r2_s3_object_fn fn, void *ctx,
                   struct r2_s3_page *page);

/* Append `text` with & < > as entities. */
bool r2_s3_escape(struct r2_buf *out, const char *text);

#endif
