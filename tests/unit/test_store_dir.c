/* test_store_dir.c - the directory store: conditions, races, crashes at every step, foreign hands.
 */
#include "unit.h"

#include "../../vfs/dirmeta.h"
#include "../../vfs/os.h"
#include "../../vfs/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- a bucket folder for each test ---- */

static char top[256];
static struct r2_store *store;
static struct r2_err err;
static struct r2_os real;

static void shell(const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (system(line) != 0) abort();
}

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    struct r2_config c = {.scheme = R2_SCHEME_FILE};
    snprintf(top, sizeof top, "%s/r2dirXXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(top)) abort();
    if (r2_store_open(&c, &store, &err) != R2_OK) abort();
    real = r2_os;
}

static void end(void)
{
    r2_os = real;
    store->ops->close(store);
    shell("rm -rf '%s'", top);
}

static const char *path_of(const char *name)
{
    static _Thread_local char path[4][1400];
    static _Thread_local unsigned turn;
    char *p = path[turn++ % 4];
    snprintf(p, 1400, "%s/%s", top, name);
    return p;
}

static const char *key_of(const char *name)
{
    return path_of(name) + 1;
}

static struct r2_call call_with(struct r2_err *e)
{
    return (struct r2_call){.deadline_ms = r2_boot_ms() + 60000, .err = e};
}

static void meta_v(struct r2_meta *m, const char *v)
{
    r2_meta_clear(m);
    r2_meta_add(m, "v", v);
}

/* Puts text with metadata v=<v> (NULL: none). */
static enum r2_code put_e(const char *name, const char *text, const char *v, enum r2_put_if when,
                          const char *etag, struct r2_object *out, struct r2_err *e)
{
    struct r2_meta m;
    struct r2_call call = call_with(e);
    struct r2_put what = {.key = key_of(name),
                          .body = {.mem = text, .size = strlen(text)},
                          .when = when,
                          .etag = etag};
    if (v) meta_v(&m, v), what.meta = &m;
    return store->ops->put(store, &call, &what, out);
}

static enum r2_code put(const char *name, const char *text, const char *v)
{
    return put_e(name, text, v, R2_PUT_ANY, NULL, NULL, &err);
}

static enum r2_code head(const char *name, struct r2_object *o)
{
    struct r2_call call = call_with(&err);
    return store->ops->head(store, &call, key_of(name), o);
}

static enum r2_code del(const char *name)
{
    struct r2_call call = call_with(&err);
    return store->ops->del(store, &call, key_of(name));
}

static enum r2_code get_e(const char *name, const char *if_match, char *text, size_t room,
                          struct r2_object *o, struct r2_err *e)
{
    struct r2_buf b;
    struct r2_call call = call_with(e);
    r2_buf_init(&b, room - 1);
    struct r2_sink sink = {.buf = &b, .fd = -1};
    enum r2_code code = store->ops->get(store, &call, key_of(name), if_match, UINT64_MAX, &sink, o);
    memcpy(text, b.at ? b.at : "", b.len);
    text[b.len] = 0;
    r2_buf_free(&b);
    return code;
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) abort();
}

/* The object has these bytes, this metadata (NULL: none at all); head and get agree. */
static bool is(const char *name, const char *text, const char *v)
{
    struct r2_object h, g;
    char got[4096], value[64] = "";
    if (head(name, &h) != R2_OK) return false;
    if (get_e(name, h.etag, got, sizeof got, &g, &err) != R2_OK) return false;
    bool has = r2_meta_get(&h.meta, "v", value, sizeof value);
    return strcmp(got, text) == 0 && h.size == strlen(text) && g.size == h.size &&
           strcmp(h.etag, g.etag) == 0 && strcmp(h.meta.text, g.meta.text) == 0 &&
           (v ? has && strcmp(value, v) == 0 : h.meta.len == 0);
}

#define HAS(word) CU_ASSERT_PTR_NOT_NULL(strstr(err.text, word))

/* ---- semantics ---- */

static void put_get_head_delete(void)
{
    struct r2_object o;
    char text[64];
    begin();
    CU_ASSERT_EQUAL(head("a/b/x.db", &o), R2_MISSING);
    HAS("a/b/x.db");
    CU_ASSERT_EQUAL(get_e("a/b/x.db", NULL, text, sizeof text, &o, &err), R2_MISSING);
    CU_ASSERT_EQUAL(del("a/b/x.db"), R2_OK); /* as S3 */
    CU_ASSERT_EQUAL(access(path_of("a"), F_OK), -1);
    CU_ASSERT_EQUAL(put_e("a/b/x.db", "hello", "1", R2_PUT_ANY, NULL, &o, &err), R2_OK);
    CU_ASSERT_STRING_EQUAL(o.etag, "\"5d41402abc4b2a76b9719d911017c592\""); /* md5("hello") */
    CU_ASSERT_EQUAL(o.size, 5);
    CU_ASSERT_TRUE(is("a/b/x.db", "hello", "1"));
    CU_ASSERT_TRUE(llabs(o.modified_ms - r2_now_ms()) < 3600 * 1000);
    CU_ASSERT_EQUAL(put("a/b/x.db", "", "2"), R2_OK); /* an empty object is an object */
    CU_ASSERT_TRUE(is("a/b/x.db", "", "2"));
    CU_ASSERT_EQUAL(put("a/b/x.db", "plain", NULL), R2_OK);
    CU_ASSERT_TRUE(is("a/b/x.db", "plain", NULL));
    CU_ASSERT_EQUAL(del("a/b/x.db"), R2_OK);
    CU_ASSERT_EQUAL(head("a/b/x.db", &o), R2_MISSING);
    CU_ASSERT_EQUAL(access(path_of("a/b/.r2vfs/x.db.meta"), F_OK), -1);
    end();
}

static void conditions(void)
{
    struct r2_object o, n;
    char text[64];
    begin();
    const char *none = "\"00000000000000000000000000000000\"";
    CU_ASSERT_EQUAL(put_e("k", "one", "1", R2_PUT_IF_MATCH, none, NULL, &err), R2_PRECONDITION);
    HAS("does not exist");
    CU_ASSERT_EQUAL(head("k", &o), R2_MISSING);
    CU_ASSERT_EQUAL(put_e("k", "one", "1", R2_PUT_IF_ABSENT, NULL, &o, &err), R2_OK);
    CU_ASSERT_EQUAL(put_e("k", "two", "2", R2_PUT_IF_ABSENT, NULL, NULL, &err), R2_PRECONDITION);
    CU_ASSERT_EQUAL(put_e("k", "two", "2", R2_PUT_IF_MATCH, none, NULL, &err), R2_PRECONDITION);
    HAS(o.etag);
    CU_ASSERT_TRUE(is("k", "one", "1"));
    CU_ASSERT_EQUAL(put_e("k", "two", "2", R2_PUT_IF_MATCH, o.etag, &n, &err), R2_OK);
    CU_ASSERT_TRUE(is("k", "two", "2"));
    CU_ASSERT_EQUAL(put_e("k", "3", "3", R2_PUT_IF_MATCH, o.etag, NULL, &err), R2_PRECONDITION);
    CU_ASSERT_EQUAL(put_e("k", "3", "3", R2_PUT_IF_MATCH, NULL, NULL, &err), R2_REFUSED);
    CU_ASSERT_EQUAL(get_e("k", o.etag, text, sizeof text, &o, &err), R2_PRECONDITION);
    CU_ASSERT_STRING_EQUAL(text, "");
    CU_ASSERT_EQUAL(get_e("k", n.etag, text, sizeof text, &o, &err), R2_OK);
    CU_ASSERT_STRING_EQUAL(text, "two");
    end();
}

static void plain_files_take_part(void)
{
    struct r2_object o;
    begin();
    write_file("k", "by hand");
    CU_ASSERT_TRUE(is("k", "by hand", NULL));
    CU_ASSERT_EQUAL(head("k", &o), R2_OK);
    CU_ASSERT_EQUAL(put_e("k", "x", "1", R2_PUT_IF_ABSENT, NULL, NULL, &err), R2_PRECONDITION);
    CU_ASSERT_EQUAL(chmod(path_of("k"), 0640), 0);
    CU_ASSERT_EQUAL(put_e("k", "ours", "1", R2_PUT_IF_MATCH, o.etag, NULL, &err), R2_OK);
    struct stat st;
    CU_ASSERT_EQUAL(stat(path_of("k"), &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 0777, 0640); /* stays readable for whom it was */
    CU_ASSERT_TRUE(is("k", "ours", "1"));
    write_file("d", "by hand");
    CU_ASSERT_EQUAL(del("d"), R2_OK);
    CU_ASSERT_EQUAL(head("d", &o), R2_MISSING);
    end();
}

static void foreign_changes_are_noticed(void)
{
    struct r2_object before, after;
    begin();
    CU_ASSERT_EQUAL(put("k", "version one", "1"), R2_OK);
    write_file("new", "another body");
    shell("cp '%s' '%s'", path_of("new"), path_of("k"));
    CU_ASSERT_TRUE(is("k", "another body", NULL));
    CU_ASSERT_EQUAL(put("k", "version two", "2"), R2_OK);
    write_file("new", "version 2ww"); /* the same size */
    shell("mv '%s' '%s'", path_of("new"), path_of("k"));
    CU_ASSERT_TRUE(is("k", "version 2ww", NULL));
    CU_ASSERT_EQUAL(put("k", "version three", "3"), R2_OK);
    shell("printf + >>'%s'", path_of("k"));
    CU_ASSERT_TRUE(is("k", "version three+", NULL));
    /* the same size, mtime put back: ctime tells */
    CU_ASSERT_EQUAL(put("k", "version four", "4"), R2_OK);
    shell("touch -r '%s' '%s'; printf V | dd of='%s' conv=notrunc status=none; "
          "touch -r '%s' '%s'",
          path_of("k"), path_of("ref"), path_of("k"), path_of("ref"), path_of("k"));
    CU_ASSERT_TRUE(is("k", "Version four", NULL));
    /* touched, copied with its sidecar, but the same bytes: still that version */
    CU_ASSERT_EQUAL(put("k", "version five", "5"), R2_OK);
    CU_ASSERT_EQUAL(head("k", &before), R2_OK);
    shell("touch '%s'", path_of("k"));
    CU_ASSERT_TRUE(is("k", "version five", "5"));
    shell("cd '%s' && mkdir moved && cp -r k .r2vfs moved/", top);
    CU_ASSERT_TRUE(is("moved/k", "version five", "5"));
    CU_ASSERT_EQUAL(head("k", &after), R2_OK);
    CU_ASSERT_STRING_EQUAL(before.etag, after.etag);
    /* deleted by hand, and another put there by hand */
    shell("rm '%s'", path_of("k"));
    CU_ASSERT_EQUAL(head("k", &after), R2_MISSING);
    CU_ASSERT_EQUAL(put_e("k", "six", "6", R2_PUT_IF_ABSENT, NULL, NULL, &err), R2_OK);
    CU_ASSERT_TRUE(is("k", "six", "6"));
    end();
}

/* A write of the same size right after the put, within the same tick of the file system's clock. */
static void change_in_the_same_tick_is_noticed(void)
{
    begin();
    for (int i = 0; i < 200; i++) {
        CU_ASSERT_EQUAL(put("k", "aaaa", "1"), R2_OK);
        int fd = open(path_of("k"), O_WRONLY);
        CU_ASSERT_EQUAL(pwrite(fd, "b", 1, 0), 1);
        close(fd);
        CU_ASSERT_TRUE(is("k", "baaa", NULL));
    }
    end();
}

static void damage_is_reported(void)
{
    struct r2_object o;
    char text[64];
    begin();
    CU_ASSERT_EQUAL(put("k", "body", "1"), R2_OK);
    shell("printf x >>'%s'", path_of(".r2vfs/k.meta"));
    CU_ASSERT_EQUAL(head("k", &o), R2_CORRUPT);
    HAS(".r2vfs/k.meta");
    CU_ASSERT_EQUAL(put("k", "other", "2"), R2_CORRUPT);
    shell("head -c 100000 /dev/zero >'%s'", path_of(".r2vfs/k.meta"));
    CU_ASSERT_EQUAL(get_e("k", NULL, text, sizeof text, &o, &err), R2_CORRUPT);
    shell("rm '%s'", path_of(".r2vfs/k.meta"));
    CU_ASSERT_TRUE(is("k", "body", NULL));
    CU_ASSERT_EQUAL(put("k", "body", "1"), R2_OK);
    shell("rm '%s'; mkfifo '%s'", path_of(".r2vfs/k.meta"), path_of(".r2vfs/k.meta"));
    CU_ASSERT_NOT_EQUAL(head("k", &o), R2_OK);
    end();
}

/* A read that returns other bytes than were put: bit rot under unchanged stat fields. */
static ssize_t rotten_pread(int fd, void *to, size_t n, off_t at)
{
    ssize_t got = real.pread(fd, to, n, at);
    if (got == 4 && memcmp(to, "good", 4) == 0) memcpy(to, "goon", 4);
    return got;
}

static void rotten_bytes_are_not_delivered(void)
{
    struct r2_object o;
    char text[64];
    begin();
    CU_ASSERT_EQUAL(put("k", "good", "1"), R2_OK);
    r2_os.pread = rotten_pread;
    CU_ASSERT_EQUAL(get_e("k", NULL, text, sizeof text, &o, &err), R2_CORRUPT);
    HAS("damaged");
    CU_ASSERT_STRING_EQUAL(text, "");
    end();
}

static void odd_files_are_refused(void)
{
    struct r2_object o;
    begin();
    shell("cd '%s'; mkdir dir; mkfifo fifo; echo x >file; ln -s file link; ln -s nowhere dangling",
          top);
    static const char *const names[] = {"dir", "fifo", "link", "dangling"};
    for (int i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL(head(names[i], &o), R2_REFUSED);
        HAS(names[i]);
        CU_ASSERT_EQUAL(put(names[i], "x", "1"), R2_REFUSED);
        CU_ASSERT_EQUAL(put_e(names[i], "x", "1", R2_PUT_IF_ABSENT, NULL, NULL, &err), R2_REFUSED);
        CU_ASSERT_EQUAL(del(names[i]), R2_REFUSED);
    }
    CU_ASSERT_EQUAL(head("file/below", &o), R2_MISSING);
    CU_ASSERT_EQUAL(put("file/below", "x", "1"), R2_REFUSED);
    HAS("file, not a folder");
    end();
}

static void hostile_keys_are_refused(void)
{
    char name[1100];
    static const char *const keys[] = {"",      "/abs",   "a//b",        "a/",
                                       "..",    "a/../b", "a/.",         "a\nb",
                                       "a\x01", "a\x7f",  ".r2vfs/lock", "x/.r2vfs/y"};
    begin();
    struct r2_call call = call_with(&err);
    struct r2_object o;
    struct r2_buf url;
    r2_buf_init(&url, 4096);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct r2_put what = {.key = keys[i], .body = {.mem = "x", .size = 1}};
        CU_ASSERT_EQUAL(store->ops->head(store, &call, keys[i], &o), R2_REFUSED);
        CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, NULL), R2_REFUSED);
        CU_ASSERT_EQUAL(store->ops->del(store, &call, keys[i]), R2_REFUSED);
        CU_ASSERT_EQUAL(store->ops->presign(store, &call, keys[i], 60, &url), R2_REFUSED);
    }
    for (size_t n = 240; n <= 241; n++) {
        memset(name, 'n', n);
        name[n] = 0;
        CU_ASSERT_EQUAL(put(name, "x", "1"), n > 240 ? R2_REFUSED : R2_OK);
    }
    memset(name, 'k', sizeof name);
    for (size_t i = 99; i < sizeof name; i += 100)
        name[i] = '/';
    name[R2_KEY_BYTES] = 0;
    CU_ASSERT_EQUAL(store->ops->head(store, &call, name, &o), R2_REFUSED);
    name[R2_KEY_BYTES - 1] = 0;
    CU_ASSERT_EQUAL(store->ops->head(store, &call, name, &o), R2_MISSING);
    r2_buf_free(&url);
    end();
}

static void metadata_to_the_limit(void)
{
    static struct r2_meta m;
    struct r2_object o;
    static char value[R2_META_BYTES];
    begin();
    memset(value, 'v', sizeof value);
    value[R2_META_BYTES - 4] = 0; /* and "n: " and a line end */
    r2_meta_clear(&m);
    CU_ASSERT_TRUE_FATAL(r2_meta_add(&m, "n", value));
    CU_ASSERT_EQUAL(m.len, R2_META_BYTES);
    struct r2_call call = call_with(&err);
    struct r2_put what = {.key = key_of("k"), .body = {.mem = "x", .size = 1}, .meta = &m};
    for (int i = 0; i < 2; i++) { /* the second replaces: two full entries in the sidecar */
        CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, NULL), R2_OK);
        CU_ASSERT_EQUAL(head("k", &o), R2_OK);
        CU_ASSERT_EQUAL(o.meta.len, m.len);
        CU_ASSERT_STRING_EQUAL(o.meta.text, m.text);
    }
    m.len = R2_META_BYTES + 1;
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, NULL), R2_REFUSED);
    end();
}

static void large_bodies_from_and_to_files(void)
{
    enum { SIZE = 3 * 1024 * 1024 + 17, OFF = 1000 };
    begin();
    uint8_t *bytes = malloc(SIZE + OFF), *back = malloc(SIZE + OFF);
    r2_random(bytes, SIZE + OFF);
    int fd = open(path_of("in"), O_RDWR | O_CREAT, 0600);
    CU_ASSERT_EQUAL(r2_write_at(fd, bytes, SIZE + OFF, 0, &err), R2_OK);
    struct r2_traffic t = {0};
    struct r2_call call = call_with(&err);
    call.traffic = &t;
    struct r2_object o, p;
    struct r2_put what = {.key = key_of("k"), .body = {.fd = fd, .off = OFF, .size = SIZE}};
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, &o), R2_OK);
    struct r2_sink sink = {.fd = open(path_of("out"), O_RDWR | O_CREAT, 0600), .off = OFF};
    CU_ASSERT_EQUAL(store->ops->get(store, &call, key_of("k"), o.etag, SIZE, &sink, &p), R2_OK);
    CU_ASSERT_EQUAL(p.size, SIZE);
    CU_ASSERT_EQUAL(r2_read_at(sink.fd, back, SIZE + OFF, 0, &err), R2_OK);
    CU_ASSERT_EQUAL(memcmp(back + OFF, bytes + OFF, SIZE), 0);
    CU_ASSERT_EQUAL(t.class_a, 1);
    CU_ASSERT_EQUAL(t.class_b, 1);
    CU_ASSERT_EQUAL(t.bytes_up, SIZE);
    CU_ASSERT_EQUAL(t.bytes_down, SIZE);
    what.body.size++; /* more than the file has */
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, &o), R2_IO);
    CU_ASSERT_EQUAL(head("k", &o), R2_OK);
    CU_ASSERT_STRING_EQUAL(o.etag, p.etag);
    struct r2_buf small; /* a sink with too low a ceiling */
    r2_buf_init(&small, SIZE - 1);
    sink = (struct r2_sink){.buf = &small};
    CU_ASSERT_EQUAL(store->ops->get(store, &call, key_of("k"), NULL, SIZE, &sink, &p), R2_REFUSED);
    CU_ASSERT_EQUAL(small.len, 0);
    r2_buf_free(&small);
    close(fd), close(sink.fd);
    free(bytes), free(back);
    end();
}

static void requests_are_reported(void)
{
    struct r2_object o;
    static struct r2_request rows[8];
    begin();
    (void)put_e("k", "abc", "1", R2_PUT_ANY, NULL, &o, &err);
    (void)put_e("k", "abc", "1", R2_PUT_IF_ABSENT, NULL, NULL, &err);
    (void)head("none", &o);
    (void)head("k", &o);
    (void)del("k");
    static const struct {
        const char *method;
        int status;
        uint64_t bytes;
    } want[] = {
        {"DELETE", 204, 0}, {"HEAD", 200, 0}, {"HEAD", 404, 0}, {"PUT", 412, 0}, {"PUT", 200, 3}};
    CU_ASSERT_EQUAL_FATAL(r2_reqlog_copy(rows, 5), 5);
    for (int i = 0; i < 5; i++) {
        CU_ASSERT_STRING_EQUAL(rows[i].method, want[i].method);
        CU_ASSERT_EQUAL(rows[i].status, want[i].status);
        CU_ASSERT_EQUAL(rows[i].bytes, want[i].bytes);
        CU_ASSERT_STRING_EQUAL(rows[i].key, key_of(i == 2 ? "none" : "k"));
    }
    end();
}

/* ---- listing ---- */

struct seen {
    char text[2000];
    int left;
};

static bool collect(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    struct seen *s = ctx;
    size_t n = strlen(s->text);
    CU_ASSERT_TRUE(modified_ms > 0);
    snprintf(s->text + n, sizeof s->text - n, "%s=%d ", key + strlen(top), (int)size);
    return --s->left > 0;
}

static const char *list(const char *prefix, const char *after, int limit)
{
    static struct seen s;
    char start[300];
    struct r2_call call = call_with(&err);
    s.text[0] = 0, s.left = limit;
    snprintf(start, sizeof start, "%s", after ? key_of(after) : "");
    if (store->ops->list(store, &call, key_of(prefix), after ? start : NULL, collect, &s))
        return "failed";
    return s.text;
}

static void listing_is_in_key_order(void)
{
    begin();
    static const char *const names[] = {"a/x", "a-b", "a.b", "a/y/z", "a0", "b\xc3\xa9", "bz", "A"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CU_ASSERT_EQUAL(put(names[i], "123", "1"), R2_OK);
    shell("cd '%s'; ln -s A sym; mkfifo fifo; ln -s a symdir; mkdir empty; touch \"$(printf "
          "'a\\nb')\"",
          top);
    CU_ASSERT_STRING_EQUAL(list("", NULL, 100),
                           "A=3 a-b=3 a.b=3 a/x=3 a/y/z=3 a0=3 bz=3 b\xc3\xa9=3 ");
    CU_ASSERT_STRING_EQUAL(list("a", NULL, 100), "a-b=3 a.b=3 a/x=3 a/y/z=3 a0=3 ");
    CU_ASSERT_STRING_EQUAL(list("a/", NULL, 100), "a/x=3 a/y/z=3 ");
    CU_ASSERT_STRING_EQUAL(list("a/y", NULL, 100), "a/y/z=3 ");
    CU_ASSERT_STRING_EQUAL(list("a/y/", "a/y/z", 100), "");
    CU_ASSERT_STRING_EQUAL(list("", "a.b", 100), "a/x=3 a/y/z=3 a0=3 bz=3 b\xc3\xa9=3 ");
    CU_ASSERT_STRING_EQUAL(list("", "a/x", 2), "a/y/z=3 a0=3 ");
    CU_ASSERT_STRING_EQUAL(list("", "a/y/", 1), "a/y/z=3 ");
    CU_ASSERT_STRING_EQUAL(list("nothing/here/", NULL, 100), "");
    CU_ASSERT_STRING_EQUAL(list("A/x", NULL, 100), ""); /* A is a file */
    CU_ASSERT_STRING_EQUAL(list("a/../b", NULL, 100), "failed");
    CU_ASSERT_STRING_EQUAL(list(".r2vfs/", NULL, 100), "failed");
    struct r2_call late = {.err = &err};
    struct seen s = {.left = 9};
    CU_ASSERT_EQUAL(store->ops->list(store, &late, key_of(""), NULL, collect, &s), R2_UNREACHABLE);
    end();
}

static void presigned_urls(void)
{
    begin();
    struct r2_call call = call_with(&err);
    struct r2_buf url;
    r2_buf_init(&url, 4096);
    CU_ASSERT_EQUAL(store->ops->presign(store, &call, "d/a b%\xc3\xa9~.db", 60, &url), R2_OK);
    CU_ASSERT_STRING_EQUAL(url.at, "file:///d/a%20b%25%C3%A9~.db");
    CU_ASSERT_EQUAL(store->ops->presign(store, &call, "d", 0, &url), R2_REFUSED);
    CU_ASSERT_EQUAL(store->ops->presign(store, &call, "d", 604801, &url), R2_REFUSED);
    CU_ASSERT_EQUAL(store->ops->presign(store, &call, "d", 604800, &url), R2_OK);
    r2_buf_free(&url);
    end();
}

/* ---- time and locks ---- */

static struct r2_call *slow_call;

static ssize_t slow_pwrite(int fd, const void *from, size_t n, off_t at)
{
    slow_call->deadline_ms = 0; /* the first chunk took all the time */
    return real.pwrite(fd, from, n, at);
}

static void deadlines_leave_the_old(void)
{
    static char big[1 << 20];
    begin();
    CU_ASSERT_EQUAL(put("k", "old", "1"), R2_OK);
    struct r2_call call = call_with(&err);
    slow_call = &call;
    struct r2_put what = {.key = key_of("k"), .body = {.mem = big, .size = sizeof big}};
    r2_os.pwrite = slow_pwrite;
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, NULL), R2_UNREACHABLE);
    HAS("nothing was changed");
    what.body.size = 4; /* time runs out with the last chunk: before the commit */
    call = call_with(&err);
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, NULL), R2_UNREACHABLE);
    r2_os = real;
    CU_ASSERT_TRUE(is("k", "old", "1"));
    CU_ASSERT_NOT_EQUAL(rmdir(path_of(".r2vfs/tmp")) == 0, 0); /* empty: nothing left behind */
    end();
}

static void readers_do_not_wait_and_writers_do(void)
{
    begin();
    CU_ASSERT_EQUAL(put("k", "old", "1"), R2_OK);
    int fd = open(path_of(".r2vfs/lock"), O_RDWR);
    CU_ASSERT_TRUE_FATAL(r2_lock_byte(fd, 0, true, 0));
    CU_ASSERT_TRUE(is("k", "old", "1"));
    struct r2_call call = call_with(&err);
    call.deadline_ms = r2_boot_ms() + 30;
    struct r2_put what = {.key = key_of("k"), .body = {.mem = "new", .size = 3}};
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, NULL), R2_UNREACHABLE);
    HAS("locked");
    CU_ASSERT_TRUE(is("k", "old", "1"));
    r2_unlock_byte(fd, 0);
    close(fd);
    CU_ASSERT_EQUAL(put("k", "new", "2"), R2_OK);
    end();
}

/* A put in the middle of a get: the get shows what it began with. */
static int puts_left;

static ssize_t put_in_between(int fd, void *to, size_t n, off_t at)
{
    ssize_t got = real.pread(fd, to, n, at);
    if (got == 256 * 1024 && puts_left-- == 1 && put("k", "short", "2") != R2_OK) abort();
    return got;
}

static void get_is_not_torn_by_a_put(void)
{
    enum { SIZE = 1 << 20 };
    static char big[SIZE];
    begin();
    memset(big, 'B', SIZE);
    struct r2_meta m;
    meta_v(&m, "1");
    struct r2_call call = call_with(&err);
    struct r2_object o;
    struct r2_put what = {.key = key_of("k"), .body = {.mem = big, .size = SIZE}, .meta = &m};
    CU_ASSERT_EQUAL(store->ops->put(store, &call, &what, &o), R2_OK);
    struct r2_buf b;
    r2_buf_init(&b, SIZE);
    struct r2_sink sink = {.buf = &b};
    puts_left = 1;
    r2_os.pread = put_in_between;
    CU_ASSERT_EQUAL(store->ops->get(store, &call, key_of("k"), o.etag, SIZE, &sink, &o), R2_OK);
    r2_os = real;
    CU_ASSERT_EQUAL(puts_left < 1, true);
    CU_ASSERT_EQUAL(b.len, SIZE);
    CU_ASSERT_EQUAL(memcmp(b.at, big, SIZE), 0);
    CU_ASSERT_STRING_EQUAL(o.meta.text, "v: 1\n");
    CU_ASSERT_TRUE(is("k", "short", "2"));
    r2_buf_free(&b);
    end();
}

static void leftovers_are_swept(void)
{
    begin();
    CU_ASSERT_EQUAL(put("k", "old", "1"), R2_OK);
    shell("cd '%s/.r2vfs/tmp' && touch -d '2 hours ago' 00112233445566aa README && "
          "touch -d '50 minutes ago' 00112233445566bb",
          top);
    CU_ASSERT_EQUAL(put("k", "new", "2"), R2_OK);
    CU_ASSERT_EQUAL(access(path_of(".r2vfs/tmp/00112233445566aa"), F_OK), -1);
    CU_ASSERT_EQUAL(access(path_of(".r2vfs/tmp/00112233445566bb"), F_OK), 0);
    CU_ASSERT_EQUAL(access(path_of(".r2vfs/tmp/README"), F_OK), 0);
    end();
}

/* ---- failing and dying at every system call ---- */

enum { RACERS = 16 };
static struct {
    int left;  /* calls until it happens */
    int error; /* errno, or 0: SIGKILL */
    bool hit;
    const char *at; /* the call it hit */
    char *log;      /* names of calls, when wanted */
} trap;

static bool trapped(const char *name)
{
    if (trap.log) strncat(trap.log, name, 4000 - strlen(trap.log));
    if (--trap.left != 0) return false;
    if (trap.error == 0) kill(getpid(), SIGKILL);
    trap.hit = true, trap.at = name;
    errno = trap.error;
    return true;
}

static int t_open(const char *path, int flags, mode_t mode)
{
    return trapped("open ") ? -1 : real.open(path, flags, mode);
}
static int t_close(int fd)
{
    int rc = real.close(fd);
    return trapped("close ") ? -1 : rc;
}
static ssize_t t_pread(int fd, void *to, size_t n, off_t at)
{
    return trapped("pread ") ? -1 : real.pread(fd, to, n, at);
}
static ssize_t t_pwrite(int fd, const void *from, size_t n, off_t at)
{
    return trapped("pwrite ") ? -1 : real.pwrite(fd, from, n, at);
}
static int t_fdatasync(int fd)
{
    return trapped("sync ") ? -1 : real.fdatasync(fd);
}
static int t_unlink(const char *path)
{
    return trapped("unlink ") ? -1 : real.unlink(path);
}
static int t_rename(const char *from, const char *to)
{
    return trapped("rename ") ? -1 : real.rename(from, to);
}
static int t_link(const char *from, const char *to)
{
    return trapped("link ") ? -1 : real.link(from, to);
}
static int t_mkdir(const char *path, mode_t mode)
{
    return trapped("mkdir ") ? -1 : real.mkdir(path, mode);
}

static void set_trap(int left, int error)
{
    trap.left = left, trap.error = error, trap.hit = false, trap.at = "";
    r2_os.open = t_open, r2_os.close = t_close, r2_os.pread = t_pread, r2_os.pwrite = t_pwrite;
    r2_os.fdatasync = t_fdatasync, r2_os.unlink = t_unlink, r2_os.rename = t_rename;
    r2_os.link = t_link, r2_os.mkdir = t_mkdir;
}

/* What is done, from what, to what. NULL text: there is no object. */
struct story {
    const char *name;
    const char *old, *old_v;
    bool foreign; /* the old one was put there by hand */
    const char *text, *v;
    enum r2_put_if when;
};

static const struct story stories[] = {
    {"new/folder/k", NULL, NULL, false, "first", "1", R2_PUT_IF_ABSENT},
    {"k", NULL, NULL, false, "first", "1", R2_PUT_ANY},
    {"k", "old body", "1", false, "the new body", "2", R2_PUT_IF_MATCH},
    {"k", "old body", "1", false, "new body", "2", R2_PUT_IF_MATCH}, /* equal sizes */
    {"k", "same", "1", false, "same", "2", R2_PUT_ANY},              /* equal bytes */
    {"k", "by hand", NULL, true, "ours now", "1", R2_PUT_IF_MATCH},
    {"k", "by hand", NULL, true, "by hand", "1", R2_PUT_ANY},
    {"k", "old body", "1", false, NULL, NULL, R2_PUT_ANY}, /* delete */
};
enum { STORIES = sizeof stories / sizeof *stories };

static void story_start(const struct story *s, char etag[R2_ETAG_BYTES])
{
    struct r2_object o = {.etag = ""};
    if (s->foreign)
        write_file(s->name, s->old);
    else if (s->old && put(s->name, s->old, s->old_v) != R2_OK)
        abort();
    if (s->old && head(s->name, &o) != R2_OK) abort();
    memcpy(etag, o.etag, R2_ETAG_BYTES);
}

static enum r2_code story_act(const struct story *s, const char *etag)
{
    if (!s->text) return del(s->name);
    return put_e(s->name, s->text, s->v, s->when, etag, NULL, &err);
}

static bool is_old(const struct story *s)
{
    struct r2_object o;
    return s->old ? is(s->name, s->old, s->old_v) : head(s->name, &o) == R2_MISSING;
}

static bool is_new(const struct story *s)
{
    struct r2_object o;
    return s->text ? is(s->name, s->text, s->v) : head(s->name, &o) == R2_MISSING;
}

static int entries(const char *name)
{
    int n = 0;
    DIR *d = opendir(path_of(name));
    while (d && readdir(d))
        n++;
    if (d) closedir(d);
    return n;
}

/* Returns whether the child got through; counts what was found afterwards. */
static bool die_at(const struct story *s, int step, int *olds, int *news)
{
    char etag[R2_ETAG_BYTES];
    begin();
    story_start(s, etag);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        set_trap(step, 0);
        _exit(story_act(s, etag) == R2_OK ? 0 : 1);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid) abort();
    bool through = WIFEXITED(status);
    CU_ASSERT_TRUE(!through || WEXITSTATUS(status) == 0);
    CU_ASSERT_TRUE(through || WTERMSIG(status) == SIGKILL);
    bool o = is_old(s), n = is_new(s);
    if (o == n) printf("\n  story %d step %d: neither old nor new\n", (int)(s - stories), step);
    CU_ASSERT_TRUE(o != n);
    if (through) CU_ASSERT_TRUE(n);
    *olds += o, *news += n;
    CU_ASSERT_EQUAL(put(s->name, "after", "9"), R2_OK); /* the place is not blocked */
    CU_ASSERT_TRUE(is(s->name, "after", "9"));
    end();
    return through;
}

static void killed_at_every_step_it_is_old_or_new(void)
{
    for (int i = 0; i < STORIES; i++) {
        int olds = 0, news = 0, step = 1;
        while (!die_at(&stories[i], step, &olds, &news) && step < 300)
            step++;
        CU_ASSERT_TRUE(step > 5 && step < 300);
        CU_ASSERT_TRUE(olds > 3);
        CU_ASSERT_TRUE(news > 2);
    }
}

/* Returns whether the call went through without meeting the trap. */
static bool fail_at(const struct story *s, int step, int error)
{
    char etag[R2_ETAG_BYTES], tmp[300];
    begin();
    story_start(s, etag);
    int fds = entries("../../../../../../../../../../proc/self/fd");
    set_trap(step, error);
    enum r2_code code = story_act(s, etag);
    bool hit = trap.hit;
    r2_os = real;
    bool o = is_old(s), n = is_new(s);
    bool fits = code == R2_OK ? n : code == R2_UNKNOWN ? o || n : o;
    if (!fits)
        printf("\n  story %d step %d (%s, %s): code %d, old %d, new %d\n", (int)(s - stories), step,
               trap.at, strerror(error), code, o, n);
    CU_ASSERT_TRUE(fits);
    if (code != R2_OK) CU_ASSERT_NOT_EQUAL(strlen(err.text), 0);
    CU_ASSERT_EQUAL(entries("../../../../../../../../../../proc/self/fd"), fds);
    snprintf(tmp, sizeof tmp, "%.200s", s->name);
    char *slash = strrchr(tmp, '/');
    snprintf(slash ? slash + 1 : tmp, 64, ".r2vfs/tmp");
    int left = entries(tmp);
    CU_ASSERT_TRUE(left <= 2 || strcmp(trap.at, "unlink ") == 0);
    end();
    return !hit;
}

static void failing_at_every_step_nothing_is_half_done(void)
{
    static const int errors[] = {EIO, ENOSPC, EACCES};
    for (int i = 0; i < STORIES; i++)
        for (int k = 0; k < 3; k++) {
            int step = 1;
            while (!fail_at(&stories[i], step, errors[k]) && step < 300)
                step++;
            CU_ASSERT_TRUE(step > 5 && step < 300);
        }
}

static int denied_open(const char *path, int flags, mode_t mode)
{
    if ((flags & O_CREAT) && strstr(path, "/tmp/")) return errno = EACCES, -1;
    return real.open(path, flags, mode);
}

static ssize_t full_pwrite(int fd, const void *from, size_t n, off_t at)
{
    (void)fd, (void)from, (void)n, (void)at;
    return errno = ENOSPC, -1;
}

static void denied_and_full_have_their_own_codes(void)
{
    begin();
    CU_ASSERT_EQUAL(put("k", "old", "1"), R2_OK);
    r2_os.open = denied_open;
    CU_ASSERT_EQUAL(put("k", "new", "2"), R2_DENIED);
    HAS("check owner and permissions");
    r2_os = real;
    r2_os.pwrite = full_pwrite;
    CU_ASSERT_EQUAL(put("k", "new", "2"), R2_FULL);
    HAS("free some space");
    r2_os = real;
    CU_ASSERT_TRUE(is("k", "old", "1"));
    end();
}

/* Against power loss: each thing is synced before the next one relies on it. */
static void syncs_come_in_order(void)
{
    static char log[4096];
    begin();
    char etag[R2_ETAG_BYTES];
    story_start(&stories[2], etag);
    log[0] = 0, trap.log = log;
    set_trap(0, 0);
    CU_ASSERT_EQUAL(story_act(&stories[2], etag), R2_OK);
    trap.log = NULL;
    const char *p = log;
    static const char *const order[] = {"pwrite sync ",         /* the body */
                                        "pwrite sync rename ",  /* the sidecar, */
                                        "open close rename ",   /* its folder; the body's name, */
                                        "open close ",          /* its folder */
                                        "pwrite sync rename "}; /* the sidecar again */
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const char *found = strstr(p, order[i]);
        if (!found) printf("\n  %s not in %s\n", order[i], p);
        CU_ASSERT_PTR_NOT_NULL_FATAL(found);
        p = found + strlen(order[i]) - (i == 1 ? 0 : 0);
    }
    end();
}

/* Without hard links (some file systems have none), a create still works. */
static int no_link(const char *from, const char *to)
{
    (void)from, (void)to;
    return errno = EPERM, -1;
}

/* Another program creates the file between our look and our link. */
static int late_link(const char *from, const char *to)
{
    write_file("k", "theirs");
    return real.link(from, to);
}

static void create_without_links_and_against_a_stranger(void)
{
    begin();
    r2_os.link = no_link;
    CU_ASSERT_EQUAL(put_e("n", "x", "1", R2_PUT_IF_ABSENT, NULL, NULL, &err), R2_OK);
    CU_ASSERT_TRUE(is("n", "x", "1"));
    r2_os.link = late_link;
    CU_ASSERT_EQUAL(put_e("k", "ours", "1", R2_PUT_IF_ABSENT, NULL, NULL, &err), R2_PRECONDITION);
    CU_ASSERT_TRUE(is("k", "theirs", NULL));
    end();
}

/* ---- races ---- */

struct racer {
    pthread_t thread;
    pthread_barrier_t *start;
    const char *etag; /* NULL: if absent */
    int id;
    enum r2_code code;
};

static enum r2_code race_put(const char *etag, int id)
{
    char text[32], v[16];
    struct r2_err e;
    snprintf(text, sizeof text, "body of %d", id);
    snprintf(v, sizeof v, "%d", id);
    return put_e("new/k", text, v, etag ? R2_PUT_IF_MATCH : R2_PUT_IF_ABSENT, etag, NULL, &e);
}

static void *race_thread(void *arg)
{
    struct racer *r = arg;
    pthread_barrier_wait(r->start);
    r->code = race_put(r->etag, r->id);
    return NULL;
}

static int race_threads(const char *etag, int codes[RACERS])
{
    struct racer r[RACERS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, RACERS);
    for (int i = 0; i < RACERS; i++) {
        r[i] = (struct racer){.start = &start, .etag = etag, .id = i};
        if (pthread_create(&r[i].thread, NULL, race_thread, &r[i]) != 0) abort();
    }
    for (int i = 0; i < RACERS; i++) {
        pthread_join(r[i].thread, NULL);
        codes[i] = (int)r[i].code;
    }
    pthread_barrier_destroy(&start);
    return 0;
}

static int race_processes(const char *etag, int codes[RACERS])
{
    int gate[2];
    pid_t pid[RACERS];
    char c;
    if (pipe(gate) != 0) abort();
    fflush(NULL);
    for (int i = 0; i < RACERS; i++)
        if ((pid[i] = fork()) == 0) {
            close(gate[1]);
            if (read(gate[0], &c, 1) != 0) _exit(99); /* opens when the parent closes its end */
            _exit((int)race_put(etag, i));
        }
    close(gate[0]), close(gate[1]);
    for (int i = 0; i < RACERS; i++) {
        int status;
        if (waitpid(pid[i], &status, 0) != pid[i]) abort();
        codes[i] = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    return 0;
}

static int the_winner(const int codes[RACERS])
{
    int winner = -1, won = 0;
    char text[32], v[16];
    for (int i = 0; i < RACERS; i++) {
        if (codes[i] == R2_OK)
            winner = i, won++;
        else
            CU_ASSERT_EQUAL(codes[i], R2_PRECONDITION);
    }
    CU_ASSERT_EQUAL(won, 1);
    snprintf(text, sizeof text, "body of %d", winner);
    snprintf(v, sizeof v, "%d", winner);
    CU_ASSERT_TRUE(is("new/k", text, v));
    return winner;
}

static void exactly_one_racer_wins(void)
{
    int codes[RACERS];
    for (int round = 0; round < 10; round++)
        for (int kind = 0; kind < 2; kind++) {
            struct r2_object o;
            int (*race)(const char *, int *) = kind ? race_processes : race_threads;
            begin();
            race(NULL, codes);
            the_winner(codes);
            CU_ASSERT_EQUAL(put("new/k", "base", "0"), R2_OK);
            CU_ASSERT_EQUAL(head("new/k", &o), R2_OK);
            race(o.etag, codes);
            the_winner(codes);
            write_file("new/k", "by hand");
            CU_ASSERT_EQUAL(head("new/k", &o), R2_OK);
            race(o.etag, codes);
            the_winner(codes);
            end();
        }
}

/* Writers count up with If-Match; readers look for pairs that do not belong together. */
static _Atomic int writers_left, wins, mixtures, looks;

static void *count_up(void *arg)
{
    struct r2_err e;
    (void)arg;
    for (int i = 0; i < 25;) {
        struct r2_object o;
        char text[64], v[32], next[64];
        if (get_e("k", NULL, text, sizeof text, &o, &e) != R2_OK) abort();
        if (!r2_meta_get(&o.meta, "v", v, sizeof v)) v[0] = 0;
        snprintf(next, sizeof next, "body %s", v);
        if (strcmp(next, text) != 0) mixtures++;
        snprintf(v, sizeof v, "%d", (int)strtol(v, NULL, 10) + 1);
        snprintf(next, sizeof next, "body %s", v);
        enum r2_code code = put_e("k", next, v, R2_PUT_IF_MATCH, o.etag, NULL, &e);
        if (code != R2_OK && code != R2_PRECONDITION) abort();
        if (code != R2_OK) continue;
        wins++;
        i++;
    }
    writers_left--;
    return NULL;
}

static void *keep_looking(void *arg)
{
    (void)arg;
    while (writers_left) {
        struct r2_object o;
        struct r2_err e;
        char text[64], v[32] = "", want[64];
        enum r2_code code = get_e("k", NULL, text, sizeof text, &o, &e);
        r2_meta_get(&o.meta, "v", v, sizeof v);
        snprintf(want, sizeof want, "body %s", v);
        if (code != R2_OK || strcmp(want, text) != 0) mixtures++;
        looks++;
    }
    return NULL;
}

static void no_update_is_lost_and_no_pair_is_mixed(void)
{
    enum { W = 4, R = 3 };
    pthread_t t[W + R];
    begin();
    writers_left = W;
    CU_ASSERT_EQUAL(put("k", "body 0", "0"), R2_OK);
    for (int i = 0; i < W + R; i++)
        if (pthread_create(&t[i], NULL, i < W ? count_up : keep_looking, NULL) != 0) abort();
    for (int i = 0; i < W + R; i++)
        pthread_join(t[i], NULL);
    CU_ASSERT_EQUAL(wins, W * 25);
    CU_ASSERT_EQUAL(mixtures, 0);
    CU_ASSERT_TRUE(looks > 0);
    CU_ASSERT_TRUE(is("k", "body 100", "100"));
    end();
}

/* ---- the sidecar's format ---- */

static void sidecar_is_checked_byte_for_byte(void)
{
    static struct r2_dirmeta m, back;
    struct r2_buf b;
    m.n = 2;
    for (unsigned i = 0; i < 2; i++) {
        struct r2_dirmeta_entry *e = &m.at[i];
        memset(e->md5, i ? 'a' : '0', 32);
        e->ino = UINT64_MAX, e->size = 7 + i, e->mtime = 1, e->ctime = i;
        r2_meta_clear(&e->meta);
        r2_meta_add(&e->meta, "db-version", "17");
        r2_meta_add(&e->meta, "x", "with: colon");
    }
    r2_buf_init(&b, R2_DIRMETA_BYTES);
    CU_ASSERT_TRUE(r2_dirmeta_print(&m, &b));
    CU_ASSERT_TRUE_FATAL(r2_dirmeta_parse((const char *)unit_guarded(b.at, b.len), b.len, &back));
    CU_ASSERT_EQUAL(back.n, 2);
    for (unsigned i = 0; i < 2; i++) {
        CU_ASSERT_STRING_EQUAL(back.at[i].md5, m.at[i].md5);
        CU_ASSERT_EQUAL(back.at[i].ino, UINT64_MAX);
        CU_ASSERT_EQUAL(back.at[i].size, 7 + i);
        CU_ASSERT_EQUAL(back.at[i].ctime, i);
        CU_ASSERT_STRING_EQUAL(back.at[i].meta.text, m.at[i].meta.text);
    }
    for (size_t n = 0; n < b.len; n++)
        CU_ASSERT_FALSE(r2_dirmeta_parse((const char *)unit_guarded(b.at, n), n, &back));
    char *copy = (char *)unit_guarded(b.at, b.len);
    for (size_t i = 0; i < b.len; i++)
        for (int bit = 0; bit < 8; bit++) {
            copy[i] = (char)(copy[i] ^ (1 << bit));
            CU_ASSERT_FALSE(r2_dirmeta_parse(copy, b.len, &back));
            copy[i] = (char)(copy[i] ^ (1 << bit));
        }
    CU_ASSERT_TRUE(r2_dirmeta_parse(copy, b.len, &back));
    m.n = 0;
    CU_ASSERT_TRUE(r2_dirmeta_print(&m, &b));
    CU_ASSERT_FALSE(r2_dirmeta_parse(b.at, b.len, &back)); /* no entry: nothing to say */
    r2_buf_free(&b);
}

UNIT_MAIN("store_dir", UNIT(put_get_head_delete), UNIT(conditions), UNIT(plain_files_take_part),
          UNIT(foreign_changes_are_noticed), UNIT(change_in_the_same_tick_is_noticed),
          UNIT(damage_is_reported), UNIT(rotten_bytes_are_not_delivered),
          UNIT(odd_files_are_refused), UNIT(hostile_keys_are_refused), UNIT(metadata_to_the_limit),
          UNIT(large_bodies_from_and_to_files), UNIT(requests_are_reported),
          UNIT(listing_is_in_key_order), UNIT(presigned_urls), UNIT(deadlines_leave_the_old),
          UNIT(readers_do_not_wait_and_writers_do), UNIT(get_is_not_torn_by_a_put),
          UNIT(leftovers_are_swept), UNIT(killed_at_every_step_it_is_old_or_new),
          UNIT(failing_at_every_step_nothing_is_half_done),
          UNIT(denied_and_full_have_their_own_codes), UNIT(syncs_come_in_order),
          UNIT(create_without_links_and_against_a_stranger), UNIT(exactly_one_racer_wins),
          UNIT(no_update_is_lost_and_no_pair_is_mixed), UNIT(sidecar_is_checked_byte_for_byte))
