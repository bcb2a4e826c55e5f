/* fuzz_dirmeta.c - the sidecar of the directory store. Its last line is made right, too: what lies
 * behind a checksum would never be seen. */
#include "fuzz.h"

#include <openssl/evp.h>

#include "../../vfs/dirmeta.h"

static bool same(const struct r2_dirmeta *a, const struct r2_dirmeta *b)
{
    bool yes = a->n == b->n;
    for (unsigned i = 0; yes && i < a->n; i++) {
        const struct r2_dirmeta_entry *x = &a->at[i], *y = &b->at[i];
        yes = strcmp(x->md5, y->md5) == 0 && x->ino == y->ino && x->size == y->size &&
              x->mtime == y->mtime && x->ctime == y->ctime && x->meta.len == y->meta.len &&
              memcmp(x->meta.text, y->meta.text, x->meta.len) == 0;
    }
    return yes;
}

static void look(const char *bytes, size_t n)
{
    static struct r2_dirmeta m, again;
    struct r2_buf text;
    char value[32];
    if (!r2_dirmeta_parse(bytes, n, &m)) return;
    RULE(m.n >= 1 && m.n <= R2_DIRMETA_ENTRIES && n <= R2_DIRMETA_BYTES);
    for (unsigned i = 0; i < m.n; i++) {
        RULE(strlen(m.at[i].md5) == 32 && m.at[i].meta.len <= R2_META_BYTES);
        RULE(r2_dirmeta_find(&m, &m.at[i]));
        (void)r2_dirmeta_same(&m.at[0], &m.at[i]);
        (void)r2_meta_get(&m.at[i].meta, "db-version", value, sizeof value);
    }
    r2_buf_init(&text, R2_DIRMETA_BYTES);
    RULE(r2_dirmeta_print(&m, &text));
    RULE(r2_dirmeta_parse(text.at, text.len, &again) && same(&m, &again));
    r2_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char last[] = "end 00000000000000000000000000000000\n";
    uint8_t sum[EVP_MAX_MD_SIZE];
    struct input in = {bytes, n};
    char *as_is = (char *)take_bytes(&in, n), hex[33];
    look(as_is, n);
    if (n >= sizeof last - 1 && n <= R2_DIRMETA_BYTES) {
        size_t body = n - (sizeof last - 1);
        RULE(EVP_Digest(as_is, body, sum, NULL, EVP_md5(), NULL) == 1);
        r2_hex16(sum, hex);
        memcpy(as_is + body, last, sizeof last - 1);
        memcpy(as_is + body + 4, hex, 32);
        look(as_is, n);
    }
    free(as_is);
    return 0;
}
