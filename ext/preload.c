/* preload.c - r2vfs-preload.so: programs that cannot be changed.
 *
 *     LD_PRELOAD=.../r2vfs-preload.so R2VFS_REMOTE=s3://bucket/prefix R2VFS_ROOT=/data app
 *
 * Stands before sqlite3_open(), _open16() and _open_v2(). The first call loads r2vfs.so into the
 * SQLite library that the caller would have reached, as its default VFS; every call goes on to
 * there. What cannot be had is one sentence on stderr, and plain SQLite. At exit(), what was
 * committed on connections that the program never closed is pushed.
 *
 * Besides, one flag of dlopen() is changed (below). Nothing runs at load time: this is in every
 * child process as well. No code of r2vfs is in here and no library is linked; r2vfs.so is loaded
 * as SQLite loads it. */
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

#ifdef __APPLE__
#define R2VFS_FILE  "r2vfs.dylib"
#define SQLITE_FILE "libsqlite3.dylib"
#define safe_getenv getenv
#else
#define R2VFS_FILE  "r2vfs.so"
#define SQLITE_FILE "libsqlite3.so.0"
#define safe_getenv secure_getenv
#endif

EXPORT int sqlite3_open(const char *name, sqlite3 **db);
EXPORT int sqlite3_open16(const void *name, sqlite3 **db);
EXPORT int sqlite3_open_v2(const char *name, sqlite3 **db, int flags, const char *vfs);

/* What we call of a SQLite library. */
struct api {
    int (*open)(const char *, sqlite3 **, int, const char *);
    int (*close)(sqlite3 *);
    int (*exec)(sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **);
    int (*allow)(sqlite3 *, int);
    int (*load)(sqlite3 *, const char *, const char *, char **);
    const char *(*errmsg)(sqlite3 *);
    void (*free)(void *);
    sqlite3_vfs *(*vfs_find)(const char *);
    int (*control)(sqlite3 *, const char *, int, void *);
    const char *(*filename)(sqlite3 *, const char *);
};

static const struct {
    const char *name;
    size_t at;
} symbols[] = {
    {"sqlite3_open_v2", offsetof(struct api, open)},
    {"sqlite3_close", offsetof(struct api, close)},
    {"sqlite3_exec", offsetof(struct api, exec)},
    {"sqlite3_enable_load_extension", offsetof(struct api, allow)},
    {"sqlite3_load_extension", offsetof(struct api, load)},
    {"sqlite3_errmsg", offsetof(struct api, errmsg)},
    {"sqlite3_free", offsetof(struct api, free)},
    {"sqlite3_vfs_find", offsetof(struct api, vfs_find)},
    {"sqlite3_file_control", offsetof(struct api, control)},
    {"sqlite3_db_filename", offsetof(struct api, filename)},
};

/* A SQLite library of this process. Usually there is one; a Python or Perl module may bring its
 * own. r2vfs serves the first and refuses the others with a sentence. */
enum state { UNTRIED, READY, PLAIN };
struct library {
    void *base; /* where it is loaded; NULL: a free place */
    void *handle;
    struct api api;
    const char *entry;   /* the entry point of r2vfs.so that is called */
    sqlite3_vfs *parent; /* the default VFS before r2vfs was */
    char path[PATH_MAX]; /* of r2vfs.so */
};
enum { LIBRARIES = 8 };
static struct library libraries[LIBRARIES];
static _Atomic int states[LIBRARIES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* loading, and the table */
static _Thread_local bool inside;       /* this thread is in one of our own calls */
static struct library *_Atomic serving; /* the one with r2vfs in it */
static void *r2vfs_base;                /* where r2vfs.so is; set before `serving` */
static _Atomic pid_t opener;            /* the process that last opened a database here */
static atomic_flag told_of_vfs = ATOMIC_FLAG_INIT, told_of_none = ATOMIC_FLAG_INIT;

static const char plain[] = "; the program goes on with plain SQLite, and its data stays local";

/* In one piece, past the host's buffers. A stderr that nobody reads must not end the host. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char text[2 * PATH_MAX];
    va_list ap;
    int n = snprintf(text, sizeof text, "r2vfs-preload: ");
    va_start(ap, format);
    n += vsnprintf(text + n, sizeof text - (size_t)n, format, ap);
    va_end(ap);
    if (n > (int)sizeof text - 1) n = (int)sizeof text - 1;
    text[n++] = '\n'; /* in the place of the final 0 */
    sigset_t pipe_only, pending, before;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    ssize_t done = write(STDERR_FILENO, text, (size_t)n);
#ifndef __APPLE__
    const struct timespec at_once = {0, 0};
    if (done < 0 && !sigismember(&pending, SIGPIPE)) sigtimedwait(&pipe_only, NULL, &at_once);
#else
    (void)done;
#endif
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- where things are ---- */

/* The absolute name of the file that holds this code, also if LD_PRELOAD had a relative one and the
 * program has changed its folder since. */
static bool own_file(char *out, size_t room)
{
    Dl_info info;
    if (!dladdr((void *)(uintptr_t)own_file, &info) || !info.dli_fname) return false;
    if (info.dli_fname[0] == '/') {
        int n = snprintf(out, room, "%s", info.dli_fname);
        return n > 0 && (size_t)n < room;
    }
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[PATH_MAX + 128];
    uintptr_t here = (uintptr_t)own_file;
    bool found = false;
    while (maps && !found && fgets(line, sizeof line, maps)) {
        char *end, *slash = strchr(line, '/');
        uintptr_t first = strtoul(line, &end, 16),
                  last = *end == '-' ? strtoul(end + 1, NULL, 16) : 0;
        if (here < first || here >= last || !slash) continue;
        slash[strcspn(slash, "\n")] = 0;
        int n = snprintf(out, room, "%s", slash);
        found = n > 0 && (size_t)n < room;
    }
    if (maps) fclose(maps);
    return found;
}

/* r2vfs.so: what R2VFS_EXTENSION names, or the one beside us. */
static bool find_r2vfs(char *out, size_t room)
{
    const char *named = safe_getenv("R2VFS_EXTENSION");
    if (named && *named) {
        int n = snprintf(out, room, "%s", named);
        if (named[0] == '/' && n > 0 && (size_t)n < room) return true;
        say("R2VFS_EXTENSION is '%.200s', but it must be an absolute path%s", named, plain);
        return false;
    }
    char *slash = own_file(out, room) ? strrchr(out, '/') : NULL;
    size_t left = slash ? room - (size_t)(slash + 1 - out) : 0;
    if (left >= sizeof R2VFS_FILE) {
        memcpy(slash + 1, R2VFS_FILE, sizeof R2VFS_FILE);
        return true;
    }
    say("cannot tell where " R2VFS_FILE " is; name it in R2VFS_EXTENSION%s", plain);
    return false;
}

/* The object file that an address belongs to; NULL if none. */
static void *base_of(const void *address)
{
    Dl_info info;
    return address && dladdr(address, &info) ? info.dli_fbase : NULL;
}

static void *handle_of(const void *address)
{
    Dl_info info;
    if (!address || !dladdr(address, &info) || !info.dli_fname) return NULL;
    return dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
}

static void *symbol_of(void *handle, const char *name)
{
    void *found = handle ? dlsym(handle, name) : NULL;
    return base_of(found) == base_of((void *)(uintptr_t)symbol_of) ? NULL : found;
}

/* The function that the caller would have reached without us. In the order of the linker: the
 * program's own libraries, then those of the module that calls (loaded late and not for all to see,
 * as Python does), which may be the module itself. Then, for a SQLite extension, which calls
 * through a table and not by name: the library that it will be of. */
static void *next(const char *name, const void *caller)
{
    struct library *l = atomic_load(&serving);
    if (l && base_of(caller) == r2vfs_base) return symbol_of(l->handle, name);
    void *found = dlsym(RTLD_NEXT, name);
    if (found) return found;
    void *handle = handle_of(caller);
    found = symbol_of(handle, name);
    if (handle) dlclose(handle);
    if (!found && l) found = symbol_of(l->handle, name);
    if (found) return found;
    handle = dlopen(SQLITE_FILE, RTLD_LAZY | RTLD_NOLOAD);
    found = symbol_of(handle, name);
    if (handle) dlclose(handle);
    return found;
}

/* Take what we need of the library; it stays loaded from now on, since r2vfs.so points into it. */
static bool take_api(struct library *l, const void *member)
{
    Dl_info info;
    if (dladdr(member, &info) && info.dli_fname)
        l->handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
    if (!l->handle) {
        say("cannot look into the program's SQLite library%s", plain);
        return false;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *found = dlsym(l->handle, symbols[i].name);
        if (!found || base_of(found) != l->base) {
            say("%.*s has no %s, so that r2vfs cannot be loaded into it%s", PATH_MAX,
                info.dli_fname, symbols[i].name, plain);
            return false;
        }
        memcpy((char *)&l->api + symbols[i].at, &found, sizeof found);
    }
    return true;
}

/* ---- loading ---- */

/* Make r2vfs known (again) to a library, through a connection that is nobody's. The caller closes
 * *db. */
static int introduce(const struct library *l, sqlite3 **db, char **message)
{
    *message = NULL;
    int rc = l->api.open(":memory:", db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (rc == SQLITE_OK) rc = l->api.allow(*db, 1);
    if (rc == SQLITE_OK) rc = l->api.load(*db, l->path, l->entry, message);
    return rc;
}

/* By default every database below the root is replicated. Without a root that would be every
 * database of the program, each under its bare name: nobody can mean that. */
static const char *entry_point(void)
{
    const char *remote = getenv("R2VFS_REMOTE"), *root = getenv("R2VFS_ROOT");
    if (remote && *remote && root && *root) return "sqlite3_r2vfsdefault_init";
    say("%s is not set, so that databases stay local unless a URI with vfs=r2vfs names their "
        "remote",
        remote && *remote ? "R2VFS_ROOT (the folder whose databases live in R2)" : "R2VFS_REMOTE");
    return "sqlite3_r2vfs_init";
}

static enum state load(struct library *l, const void *member)
{
    if (!take_api(l, member) || !find_r2vfs(l->path, sizeof l->path)) return PLAIN;
    void *handle = dlopen(l->path, RTLD_NOW | RTLD_LOCAL); /* its own words if it cannot be had */
    if (!handle) {
        say("cannot load r2vfs: %s%s", dlerror(), plain);
        return PLAIN;
    }
    sqlite3 *db = NULL;
    char *message = NULL;
    l->parent = l->api.vfs_find(NULL);
    l->entry = entry_point();
    int rc = introduce(l, &db, &message);
    if (rc == SQLITE_OK) {
        r2vfs_base = base_of(dlsym(handle, l->entry));
        atomic_store(&serving, l);
    } else {
        say("cannot load %s: %s%s", l->path, message ? message : l->api.errmsg(db), plain);
    }
    l->api.free(message);
    l->api.close(db);
    dlclose(handle); /* SQLite keeps its own */
    return rc == SQLITE_OK ? READY : PLAIN;
}

/* sqlite3_shutdown() makes the library forget which VFS is the default one. (A VFS that the program
 * itself made the default is left in its place: it stands on r2vfs.) */
static void stay_default(const struct library *l)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    if (strcmp(l->entry, "sqlite3_r2vfsdefault_init") != 0 || l->api.vfs_find(NULL) != l->parent)
        return;
    pthread_mutex_lock(&lock);
    inside = true;
    if (introduce(l, &db, &message) != SQLITE_OK)
        say("cannot load %s again: %s%s", l->path, message ? message : l->api.errmsg(db), plain);
    l->api.free(message);
    l->api.close(db);
    inside = false;
    pthread_mutex_unlock(&lock);
}

static void at_exit(void);

/* A child that was forked while another thread was loading. */
static void in_child(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    memcpy(&lock, &fresh, sizeof fresh);
}

static void once_per_process(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

/* The library that `member` is a function of, with r2vfs in it; NULL: without. */
static struct library *prepare(const void *member)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    void *base = base_of(member);
    if (!base || inside) return NULL;
    pthread_once(&once, once_per_process);
    for (int i = 0; i < LIBRARIES; i++) { /* the usual way takes no lock */
        int state = atomic_load(&states[i]);
        if (state != UNTRIED && libraries[i].base == base) {
            if (state == READY) stay_default(&libraries[i]);
            return state == READY ? &libraries[i] : NULL;
        }
    }
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < LIBRARIES && libraries[i].base && libraries[i].base != base)
        i++;
    if (i < LIBRARIES && atomic_load(&states[i]) == UNTRIED) {
        libraries[i].base = base;
        inside = true;
        atomic_store(&states[i], (int)load(&libraries[i], member));
        inside = false;
        if (atomic_load(&states[i]) == READY) atexit(at_exit);
    }
    bool ready = i < LIBRARIES && atomic_load(&states[i]) == READY;
    pthread_mutex_unlock(&lock);
    return ready ? &libraries[i] : NULL;
}

/* ---- the calls ---- */

static bool is_below(const char *path, const char *root)
{
    size_t n = strlen(root);
    while (n && root[n - 1] == '/')
        n--;
    return strncmp(path, root, n) == 0 && path[n] == '/';
}

/* A database below the root that a VFS of the program's choice keeps from us: say so, once. */
static void look(const struct library *l, sqlite3 *db)
{
    char real[PATH_MAX], *stack = NULL;
    const char *root = getenv("R2VFS_ROOT"), *remote = getenv("R2VFS_REMOTE");
    const char *file = l->api.filename(db, "main");
    if (!file || !*file || !root || !*root || !remote || !*remote) return;
    if (!is_below(file, root) && !(realpath(root, real) && is_below(file, real))) return;
    if (l->api.control(db, "main", SQLITE_FCNTL_VFSNAME, &stack) != SQLITE_OK) stack = NULL;
    if (stack && !strstr(stack, "r2vfs") && !atomic_flag_test_and_set(&told_of_vfs))
        say("the program opens %s through the VFS '%s' of its own choice: it stays local", file,
            stack);
    l->api.free(stack);
}

static int opened(const struct library *l, int rc, sqlite3 **db)
{
    if (!l || rc != SQLITE_OK) return rc;
    atomic_store(&opener, getpid());
    look(l, *db);
    return rc;
}

static int no_sqlite(const char *name, sqlite3 **db)
{
    if (!atomic_flag_test_and_set(&told_of_none))
        say("the program calls %s, but there is no SQLite library behind it", name);
    if (db) *db = NULL;
    return SQLITE_ERROR;
}

int sqlite3_open(const char *name, sqlite3 **db)
{
    int (*real)(const char *, sqlite3 **);
    void *found = next("sqlite3_open", CALLER);
    if (!found) return no_sqlite("sqlite3_open", db);
    memcpy(&real, &found, sizeof real);
    const struct library *l = prepare(found);
    return opened(l, real(name, db), db);
}

int sqlite3_open16(const void *name, sqlite3 **db)
{
    int (*real)(const void *, sqlite3 **);
    void *found = next("sqlite3_open16", CALLER);
    if (!found) return no_sqlite("sqlite3_open16", db);
    memcpy(&real, &found, sizeof real);
    const struct library *l = prepare(found);
    return opened(l, real(name, db), db);
}

/* A program that names the VFS that is the default anyway means the default. r2vfs itself, for its
 * own work on the local file, means what it says. */
int sqlite3_open_v2(const char *name, sqlite3 **db, int flags, const char *vfs)
{
    int (*real)(const char *, sqlite3 **, int, const char *);
    const void *caller = CALLER;
    void *found = next("sqlite3_open_v2", caller);
    if (!found) return no_sqlite("sqlite3_open_v2", db);
    memcpy(&real, &found, sizeof real);
    const struct library *l = prepare(found);
    if (!l || base_of(caller) == r2vfs_base) return real(name, db, flags, vfs);
    if (vfs && l->parent && strcmp(vfs, l->parent->zName) == 0) vfs = NULL;
    return opened(l, real(name, db, flags, vfs), db);
}

#ifdef RTLD_DEEPBIND
EXPORT void *dlopen(const char *file, int mode);

/* PHP loads its modules so that they look into their own libraries before ours. Only for a module
 * that is SQLite's by its name is that taken away. The call is the function's last act and becomes
 * a jump: dlopen() looks at who called it. */
void *dlopen(const char *file, int mode)
{
    static void *(*_Atomic real)(const char *, int);
    void *(*call)(const char *, int) = atomic_load(&real);
    if (!call) {
        void *found = dlsym(RTLD_NEXT, "dlopen");
        if (!found) return NULL;
        memcpy(&call, &found, sizeof call);
        atomic_store(&real, call);
    }
    const char *slash = file ? strrchr(file, '/') : NULL;
    if (slash && mode & RTLD_DEEPBIND && strstr(slash, "sqlite")) mode &= ~RTLD_DEEPBIND;
    return call(file, mode);
}
#endif

/* ---- the end ---- */

/* name=text for a URI; false: no room. */
static bool add(char *uri, size_t room, const char *name, const char *text)
{
    static const char hex[] = "0123456789ABCDEF", as_it_is[] = "/.:_-";
    size_t n = strlen(uri), k = strlen(name);
    if (n + k >= room) return false;
    memcpy(uri + n, name, k);
    for (n += k; *text; text++) {
        unsigned char c = (unsigned char)*text;
        bool letter = (c | 32) >= 'a' && (c | 32) <= 'z';
        if (n + 4 > room) return false;
        if (letter || (c >= '0' && c <= '9') || strchr(as_it_is, c)) {
            uri[n++] = (char)c;
        } else {
            uri[n++] = '%';
            uri[n++] = hex[c >> 4];
            uri[n++] = hex[c & 15];
        }
    }
    uri[n] = 0;
    return true;
}

/* Push what one database has, on a connection of our own: the program's may be in any state. The
 * remote may have come from the program's URI; one that a URI cannot name came from R2VFS_REMOTE.
 */
static int push(void *library, int columns, char **values, char **names)
{
    const struct library *l = library;
    char uri[3 * PATH_MAX] = "", *message = NULL;
    const char *name = values[0];
    sqlite3 *db = NULL;
    (void)columns, (void)names;
    if (!strchr(values[1], '?') && add(uri, sizeof uri, "file:", values[0]) &&
        add(uri, sizeof uri, "?vfs=r2vfs&remote=", values[1]))
        name = uri;
    int flags = SQLITE_OPEN_READWRITE | (name == uri ? SQLITE_OPEN_URI : 0);
    int rc = l->api.open(name, &db, flags, "r2vfs");
    if (rc == SQLITE_OK) rc = l->api.exec(db, "SELECT sync()", NULL, NULL, &message);
    if (rc != SQLITE_OK)
        say("at exit, %s was not pushed: %s; the next open pushes it", values[0],
            message ? message : l->api.errmsg(db));
    l->api.free(message);
    l->api.close(db);
    return SQLITE_OK;
}

/* Many programs end without closing their databases: what they committed is pushed now. (Not after
 * _exit() or a signal: then the next open does it.) A forked child that opened nothing has nothing
 * to push, and no right to. */
static void at_exit(void)
{
    if (atomic_load(&opener) != getpid()) return;
    inside = true;
    for (int i = 0; i < LIBRARIES; i++) {
        sqlite3 *db = NULL;
        char *message;
        if (atomic_load(&states[i]) != READY) continue;
        if (introduce(&libraries[i], &db, &message) == SQLITE_OK)
            libraries[i].api.exec(db, "SELECT file, remote FROM r2_status WHERE sync <> 'manual'",
                                  push, &libraries[i], NULL);
        libraries[i].api.free(message);
        libraries[i].api.close(db);
    }
    inside = false;
}
