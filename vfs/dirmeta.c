/* dirmeta.c - see dirmeta.h. */
#include "dirmeta.h"

#include <openssl/evp.h>
#include <string.h>

void r2_hex16(const uint8_t bytes[16], char out[33])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < 16; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[32] = 0;
}

static bool md5_hex(const void *bytes, size_t n, char out[33])
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    if (EVP_Digest(bytes, n, sum, NULL, EVP_md5(), NULL) != 1) return false;
    r2_hex16(sum, out);
    return true;
}

/* What is left to read. */
struct input {
    const char *at, *end;
};

static bool take(struct input *in, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(in->end - in->at) < n || memcmp(in->at, text, n) != 0) return false;
    in->at += n;
    return true;
}

/* One word of at most room - 1 bytes, and the byte that must follow it. */
static bool take_word(struct input *in, char stop, char *out, size_t room)
{
    size_t n = 0;
    while (in->at < in->end && *in->at != stop) {
        if (n + 1 >= room || !*in->at) return false;
        out[n++] = *in->at++;
    }
    out[n] = 0;
    if (in->at == in->end) return false;
    in->at++;
    return n > 0;
}

static bool take_number(struct input *in, char stop, uint64_t max, uint64_t *out)
{
    char word[24];
    return take_word(in, stop, word, sizeof word) && r2_parse_u64(word, max, out);
}

static bool take_md5(struct input *in, char stop, char out[33])
{
    return take_word(in, stop, out, 33) && strspn(out, "0123456789abcdef") == 32;
}

/* Lines "name: value\n", as r2_meta_add makes them. */
static bool take_meta(struct input *in, size_t n, struct r2_meta *m)
{
    r2_meta_clear(m);
    if ((size_t)(in->end - in->at) < n) return false;
    struct input lines = {in->at, in->at + n};
    in->at += n;
    while (lines.at < lines.end) {
        const char *eol = memchr(lines.at, '\n', (size_t)(lines.end - lines.at));
        char line[R2_META_BYTES + 1];
        if (!eol) return false;
        size_t len = (size_t)(eol - lines.at);
        memcpy(line, lines.at, len);
        line[len] = 0;
        lines.at = eol + 1;
        char *colon = strstr(line, ": ");
        if (strlen(line) != len || !colon) return false;
        *colon = 0;
        if (!r2_meta_add(m, line, colon + 2)) return false;
    }
    return true;
}

static bool take_entry(struct input *in, struct r2_dirmeta_entry *e)
{
    uint64_t bytes;
    return take_md5(in, ' ', e->md5) && take_number(in, ' ', UINT64_MAX, &e->ino) &&
           take_number(in, ' ', INT64_MAX, &e->size) &&
           take_number(in, ' ', UINT64_MAX, &e->mtime) &&
           take_number(in, ' ', UINT64_MAX, &e->ctime) &&
           take_number(in, '\n', R2_META_BYTES, &bytes) && take_meta(in, (size_t)bytes, &e->meta);
}

bool r2_dirmeta_parse(const char *bytes, size_t n, struct r2_dirmeta *out)
{
    struct input in = {bytes, bytes + n};
    char said[33], is[33];
    out->n = 0;
    out->unchecked = false;
    if (n > R2_DIRMETA_BYTES || !take(&in, "r2vfs-meta 1\n")) return false;
    while (take(&in, "object ")) {
        if (out->n == R2_DIRMETA_ENTRIES || !take_entry(&in, &out->at[out->n])) return false;
        out->n++;
    }
    size_t body = (size_t)(in.at - bytes);
    if (!out->n || !take(&in, "end ") || !take_md5(&in, '\n', said) || in.at != in.end)
        return false;
    out->unchecked = !md5_hex(bytes, body, is);
    return !out->unchecked && strcmp(said, is) == 0;
}

bool r2_dirmeta_print(const struct r2_dirmeta *m, struct r2_buf *to)
{
    char sum[33];
    r2_buf_reset(to);
    r2_buf_str(to, "r2vfs-meta 1\n");
    for (unsigned i = 0; i < m->n; i++) {
        const struct r2_dirmeta_entry *e = &m->at[i];
        r2_buf_printf(to, "object %s %llu %llu %llu %llu %zu\n", e->md5, (unsigned long long)e->ino,
                      (unsigned long long)e->size, (unsigned long long)e->mtime,
                      (unsigned long long)e->ctime, e->meta.len);
        r2_buf_add(to, e->meta.text, e->meta.len);
    }
    return !to->failed && md5_hex(to->at, to->len, sum) && r2_buf_printf(to, "end %s\n", sum);
}

bool r2_dirmeta_same(const struct r2_dirmeta_entry *a, const struct r2_dirmeta_entry *file)
{
    return a->ctime && a->ino == file->ino && a->size == file->size && a->mtime == file->mtime &&
           a->ctime == file->ctime;
}

const struct r2_dirmeta_entry *r2_dirmeta_find(const struct r2_dirmeta *m,
                                               const struct r2_dirmeta_entry *file)
{
    const struct r2_dirmeta_entry *found = NULL;
    for (unsigned i = 0; i < m->n; i++) {
        const struct r2_dirmeta_entry *e = &m->at[i];
        if (e->size != file->size || strcmp(e->md5, file->md5) != 0) continue;
        if (e->ino == file->ino && e->mtime == file->mtime) return e;
        if (!found) found = e;
    }
    return found;
}
