/* test_store_dir.c - the directory store: conditions, metadata, foreign hands, listing, limits. */
#include "dir_bucket.h"

#include "../../vfs/dirmeta.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

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
        struct stat st;
        CU_ASSERT_EQUAL(put("k", "aaaa", "1"), R2_OK);
        CU_ASSERT_EQUAL(stat(path_of("k"), &st), 0);
        /* mtime lies so far before the commit that no later write can have the same */
        CU_ASSERT_TRUE(r2_ctime_ns(&st) - r2_mtime_ns(&st) >= 50000000);
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

/* A put between a reader's open of the body and its look at the sidecar: no old body without its
 * metadata comes of it. */
static int open_after_a_put(const char *path, int flags, mode_t mode)
{
    if (strstr(path, "k.meta") && puts_left-- == 1 && put("k", "new body", "2") != R2_OK) abort();
    return real.open(path, flags, mode);
}

static void head_is_not_mixed_by_a_put(void)
{
    struct r2_object o;
    begin();
    CU_ASSERT_EQUAL(put("k", "old body", "1"), R2_OK);
    puts_left = 1;
    r2_os.open = open_after_a_put;
    CU_ASSERT_EQUAL(head("k", &o), R2_OK);
    r2_os = real;
    CU_ASSERT_TRUE(puts_left < 1);
    CU_ASSERT_STRING_EQUAL(o.meta.text, "v: 2\n");
    CU_ASSERT_TRUE(is("k", "new body", "2"));
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
    /* of two entries with equal bytes, the one of this very file */
    struct r2_dirmeta_entry file = {.ino = 5, .size = 7, .mtime = 2};
    memset(file.md5, '0', 32);
    memset(back.at[1].md5, '0', 32);
    back.at[1].size = 7;
    CU_ASSERT_PTR_EQUAL(r2_dirmeta_find(&back, &file), &back.at[0]);
    back.at[1].ino = 5, back.at[1].mtime = 2;
    CU_ASSERT_PTR_EQUAL(r2_dirmeta_find(&back, &file), &back.at[1]);
    file.size = 8;
    CU_ASSERT_PTR_NULL(r2_dirmeta_find(&back, &file));
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
          UNIT(head_is_not_mixed_by_a_put), UNIT(leftovers_are_swept),
          UNIT(sidecar_is_checked_byte_for_byte))
