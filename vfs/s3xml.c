/* s3xml.c - see s3xml.h. */
#include "s3xml.h"
#include "http.h"

#include <string.h>

enum { DEPTH_MAX = 16, NAME_BYTES = 64, TEXT_BYTES = 8192 };

/* ---- the reader ---- */

struct element {
    char name[NAME_BYTES];
};

struct reader {
    const char *at, *end;
    unsigned depth; /* elements that are open */
    bool bad;
    struct element open[DEPTH_MAX];
    size_t text_n;         /* of the innermost element, up to here */
    bool text_cut;         /* it did not fit */
    bool self_closing;     /* the next event is the close of open[depth-1] */
    char text[TEXT_BYTES]; /* decoded */
};

enum event { OPEN, CLOSE, END }; /* END: the document is over, or `bad` */

static void add_text(struct reader *r, const char *bytes, size_t n)
{
    if (n >= TEXT_BYTES - r->text_n) {
        r->text_cut = true;
        return;
    }
    memcpy(r->text + r->text_n, bytes, n);
    r->text_n += n;
    r->text[r->text_n] = 0;
}

static void add_code_point(struct reader *r, uint64_t c)
{
    char utf8[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        r->bad = true;
        return;
    }
    for (size_t i = n; i-- > 1; c >>= 6)
        utf8[i] = (char)(0x80 | (c & 0x3f));
    utf8[0] = (char)(n == 1 ? c : (0xf00 >> n & 0xff) | c);
    add_text(r, utf8, n);
}

/* At '&'. */
static void entity(struct reader *r)
{
    static const struct {
        const char *name, *text;
    } named[] = {{"lt", "<"}, {"gt", ">"}, {"amp", "&"}, {"quot", "\""}, {"apos", "'"}};
    char name[12];
    size_t left = (size_t)(r->end - r->at), n = 1;
    uint64_t code = 0;
    while (n < left && n < sizeof name && r->at[n] != ';')
        n++;
    if (n >= left || n >= sizeof name) {
        r->bad = true;
        return;
    }
    memcpy(name, r->at + 1, n - 1);
    name[n - 1] = 0;
    r->at += n + 1;
    if (name[0] == '#') {
        size_t digits = strlen(name) - 1;
        bool ok = name[1] == 'x' ? digits > 1 && r2_parse_hex64(name + 2, digits - 1, &code)
                                 : r2_parse_u64(name + 1, 0x10ffff, &code);
        if (ok)
            add_code_point(r, code);
        else
            r->bad = true;
        return;
    }
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (strcmp(name, named[i].name) == 0) {
            add_text(r, named[i].text, 1);
            return;
        }
    r->bad = true;
}

static bool begins(const struct reader *r, const char *what)
{
    size_t n = strlen(what);
    return (size_t)(r->end - r->at) >= n && memcmp(r->at, what, n) == 0;
}

/* The first `what` from `from` on; NULL: none. */
static const char *find(const struct reader *r, const char *from, const char *what)
{
    return from <= r->end ? memmem(from, (size_t)(r->end - from), what, strlen(what)) : NULL;
}

/* Skip <?..?>, <!--..-->; take in <![CDATA[..]]>. false: it is none of these. */
static bool special(struct reader *r)
{
    const char *stop = NULL;
    size_t skip = 0;
    if (begins(r, "<?"))
        stop = find(r, r->at + 2, "?>"), skip = 2;
    else if (begins(r, "<!--"))
        stop = find(r, r->at + 4, "-->"), skip = 3;
    else if (begins(r, "<![CDATA["))
        stop = find(r, r->at + 9, "]]>"), skip = 3;
    else if (begins(r, "<!"))
        r->bad = true;
    else
        return false;
    if (!stop) r->bad = true;
    if (r->bad) return true;
    if (begins(r, "<![")) add_text(r, r->at + 9, (size_t)(stop - r->at) - 9);
    r->at = stop + skip;
    return true;
}

/* The end of the tag that begins at r->at: a '>' outside quotes; NULL: there is none. */
static const char *tag_end(const struct reader *r)
{
    char quote = 0;
    for (const char *p = r->at; p < r->end; p++) {
        if (quote)
            quote = *p == quote ? 0 : quote;
        else if (*p == '"' || *p == '\'')
            quote = *p;
        else if (*p == '>')
            return p;
    }
    return NULL;
}

/* The local name of the tag whose name begins at `p`. */
static bool tag_name(const char *p, const char *stop, char out[NAME_BYTES])
{
    size_t n = 0;
    for (; p < stop && !strchr(" \t\r\n/>", *p); p++) {
        if (*p == ':') {
            n = 0;
            continue;
        }
        if (n + 1 >= NAME_BYTES || !*p) return false;
        out[n++] = *p;
    }
    out[n] = 0;
    return n > 0;
}

static enum event close_element(struct reader *r)
{
    r->depth--;
    r->self_closing = false;
    return CLOSE;
}

/* At '<' of a tag. */
static enum event tag(struct reader *r)
{
    const char *stop = tag_end(r);
    char name[NAME_BYTES];
    bool closing = begins(r, "</");
    r->bad = r->bad || !stop || !tag_name(r->at + 1 + closing, stop, name);
    if (r->bad) return END;
    if (closing) {
        r->bad = r->depth == 0 || strcmp(r->open[r->depth - 1].name, name) != 0;
        r->at = stop + 1;
        return r->bad ? END : close_element(r);
    }
    if (r->depth == DEPTH_MAX) return r->bad = true, END;
    memcpy(r->open[r->depth++].name, name, sizeof name);
    r->self_closing = stop[-1] == '/';
    r->at = stop + 1;
    r->text_n = 0, r->text_cut = false, r->text[0] = 0;
    return OPEN;
}

static void reader_init(struct reader *r, const char *xml, size_t n)
{
    memset(r, 0, offsetof(struct reader, text));
    r->text[0] = 0;
    r->at = xml;
    r->end = xml ? xml + n : xml;
}

/* OPEN: open[depth-1] is new. CLOSE: open[depth] has ended; its text is `text`. */
static enum event next(struct reader *r)
{
    if (r->self_closing) return close_element(r);
    while (!r->bad && r->at < r->end) {
        if (*r->at == '<') {
            if (special(r)) continue;
            return tag(r);
        }
        if (*r->at == '&') {
            entity(r);
            continue;
        }
        const char *from = r->at;
        while (r->at < r->end && *r->at != '<' && *r->at != '&')
            r->at++;
        if (memchr(from, 0, (size_t)(r->at - from)))
            r->bad = true;
        else
            add_text(r, from, (size_t)(r->at - from));
    }
    if (r->depth) r->bad = true; /* cut off */
    return END;
}

/* ---- what S3 says ---- */

bool r2_s3_value(const char *xml, size_t n, const char *root, const char *name, char *out,
                 size_t room)
{
    struct reader r;
    bool found = false, fits = true, rooted = false;
    reader_init(&r, xml, n);
    for (enum event ev; (ev = next(&r)) != END;) {
        if (ev == OPEN && r.depth == 1) rooted = strcmp(r.open[0].name, root) == 0;
        if (ev != CLOSE || r.depth != 1 || found || strcmp(r.open[1].name, name) != 0) continue;
        found = rooted;
        fits = !r.text_cut && r2_strcpy(out, room, r.text);
    }
    return found && fits && !r.bad;
}

bool r2_s3_error(const char *xml, size_t n, struct r2_s3_error *out)
{
    struct reader r;
    bool rooted = false;
    memset(out, 0, sizeof *out);
    reader_init(&r, xml, n);
    for (enum event ev; (ev = next(&r)) != END;) {
        if (ev == OPEN && r.depth == 1) rooted = strcmp(r.open[0].name, "Error") == 0;
        if (ev != CLOSE || r.depth != 1 || !rooted) continue;
        const char *name = r.open[1].name;
        if (strcmp(name, "Code") == 0) r2_strcpy(out->code, sizeof out->code, r.text);
        if (strcmp(name, "Message") == 0) r2_strcpy(out->message, sizeof out->message, r.text);
        if (strcmp(name, "ServerTime") == 0) out->server_time_ms = r2_iso_date(r.text);
    }
    for (char *c = out->message; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f) *c = '?';
    for (char *c = out->code; *c; c++) {
        bool letter =
            (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9');
        if (!letter) out->code[0] = 0;
        if (!letter) break;
    }
    return out->code[0] != 0;
}

/* In place: %XX and '+' (a space), as S3 encodes names on request. */
static bool url_decode(char *text)
{
    char *to = text;
    for (; *text; text++) {
        char hex[3] = {0};
        uint64_t v;
        if (*text != '%') {
            *to++ = *text == '+' ? ' ' : *text;
            continue;
        }
        memcpy(hex, text + 1, text[1] ? 2 : 1);
        if (!r2_parse_hex64(hex, 2, &v) || v == 0) return false;
        *to++ = (char)v;
        text += 2;
    }
    *to = 0;
    return true;
}

struct listed {
    char key[R2_S3_TOKEN_BYTES]; /* encoded it may be three times as long */
    uint64_t size;
    int64_t modified_ms;
    bool has_key, has_size;
};

static bool take_field(const struct reader *r, struct listed *o)
{
    const char *name = r->open[2].name;
    if (strcmp(name, "Key") == 0) {
        o->has_key = !r->text_cut && r2_strcpy(o->key, sizeof o->key, r->text);
        return o->has_key;
    }
    if (strcmp(name, "Size") == 0) {
        o->has_size = r2_parse_u64(r->text, INT64_MAX, &o->size);
        return o->has_size;
    }
    if (strcmp(name, "LastModified") == 0) o->modified_ms = r2_iso_date(r->text);
    return true;
}

static bool sane(struct listed *o, bool coded)
{
    if (!o->has_key || !o->has_size) return false;
    if (coded && !url_decode(o->key)) return false;
    return o->key[0] && strlen(o->key) < R2_S3_KEY_BYTES;
}

/* Walk the <Contents>; with fn NULL only look whether all is well. */
static bool contents(const char *xml, size_t n, bool coded, r2_s3_object_fn fn, void *ctx,
                     struct r2_s3_page *page)
{
    struct reader r;
    struct listed o;
    memset(&o, 0, sizeof o);
    reader_init(&r, xml, n);
    for (enum event ev; (ev = next(&r)) != END;) {
        bool inside = r.depth >= 2 && strcmp(r.open[1].name, "Contents") == 0;
        if (ev == OPEN && r.depth == 2) memset(&o, 0, sizeof o);
        if (ev == CLOSE && r.depth == 2 && inside && !take_field(&r, &o)) return false;
        if (ev != CLOSE || r.depth != 1 || strcmp(r.open[1].name, "Contents") != 0) continue;
        if (!sane(&o, coded)) return false;
        if (!fn || page->stopped) continue;
        page->stopped = !fn(ctx, o.key, o.size, o.modified_ms);
    }
    return !r.bad;
}

bool r2_s3_listing(const char *xml, size_t n, r2_s3_object_fn fn, void *ctx,
                   struct r2_s3_page *page)
{
    static const char root[] = "ListBucketResult";
    char more[8] = "", encoding[8] = "";
    memset(page, 0, sizeof *page);
    if (!r2_s3_value(xml, n, root, "IsTruncated", more, sizeof more)) return false;
    (void)r2_s3_value(xml, n, root, "EncodingType", encoding, sizeof encoding);
    bool coded = strcmp(encoding, "url") == 0;
    page->truncated = strcmp(more, "true") == 0;
    if (page->truncated &&
        (!r2_s3_value(xml, n, root, "NextContinuationToken", page->token, sizeof page->token) ||
         !page->token[0]))
        return false;
    return contents(xml, n, coded, NULL, NULL, page) && contents(xml, n, coded, fn, ctx, page);
}

bool r2_s3_escape(struct r2_buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '&')
            r2_buf_str(out, "&amp;");
        else if (*text == '<')
            r2_buf_str(out, "&lt;");
        else if (*text == '>')
            r2_buf_str(out, "&gt;");
        else
            r2_buf_add(out, text, 1);
    }
    return r2_buf_add(out, "", 0);
}
