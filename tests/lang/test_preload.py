"""test_preload.py - build/r2vfs-preload.so: programs that cannot be changed.

Their databases below R2VFS_ROOT are in the remote, and whatever the program is like, it goes on as it
would have without r2vfs: what cannot be had is one sentence on stderr."""

import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
from support import need  # noqa: E402

PRELOAD = os.path.join(os.path.dirname(support.SO), "r2vfs-preload" + support.SUFFIX)

# A program that does what its arguments say, in this order.
HOST = r"""
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static sqlite3 *db;
static const char *thread_path;
static pthread_barrier_t barrier;
static sqlite3_vfs mine;
static sqlite3_vfs *below;

static int mine_open(sqlite3_vfs *v, const char *n, sqlite3_file *f, int flags, int *out)
{
    (void)v;
    return below->xOpen(below, n, f, flags, out);
}

static int row(void *unused, int n, char **values, char **names)
{
    (void)unused, (void)names;
    if (n) printf("%s\n", values[0] ? values[0] : "NULL");
    return 0;
}

static void sql(sqlite3 *on, const char *text)
{
    char *message = NULL;
    if (sqlite3_exec(on, text, row, NULL, &message)) printf("error %s\n", message);
    sqlite3_free(message);
}

static void tell(const char *what, int rc)
{
    if (rc) printf("%s %d %s\n", what, rc, sqlite3_errstr(rc));
}

static void *in_thread(void *number)
{
    char path[4096];
    sqlite3 *own;
    snprintf(path, sizeof path, "%s/%d.db", thread_path, (int)(size_t)number % 4);
    pthread_barrier_wait(&barrier);
    tell("open", sqlite3_open(path, &own));
    sqlite3_busy_timeout(own, 60000);
    sql(own, "CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES(1)");
    tell("close", sqlite3_close(own));
    return NULL;
}

static void threads(const char *path)
{
    enum { N = 12 };
    pthread_t t[N];
    thread_path = path;
    pthread_barrier_init(&barrier, NULL, N);
    for (size_t i = 0; i < N; i++)
        pthread_create(&t[i], NULL, in_thread, (void *)i);
    for (size_t i = 0; i < N; i++)
        pthread_join(t[i], NULL);
}

static void close_in_the_end(void)
{
    sql(db, "INSERT INTO t VALUES('in the end')");
    sqlite3_close(db);
}

static void shim(void)
{
    below = sqlite3_vfs_find(NULL);
    mine = *below;
    mine.zName = "mine";
    mine.xOpen = mine_open;
    sqlite3_vfs_register(&mine, 1);
}

static void maps(void)
{
    char line[4096];
    FILE *f = fopen("/proc/self/maps", "r");
    int r2vfs = 0, curl = 0;
    while (fgets(line, sizeof line, f)) {
        r2vfs |= strstr(line, "/r2vfs.so") != NULL;
        curl |= strstr(line, "/libcurl") != NULL;
    }
    fclose(f);
    printf("r2vfs %d curl %d\n", r2vfs, curl);
}

static void daemonise(void)
{
    fflush(stdout);
    if (fork()) _exit(0);
    setsid();
    for (int fd = 3; fd < 256; fd++)
        close(fd);
}

static void step(char *word)
{
    char *rest = strchr(word, ':');
    if (rest) *rest++ = 0;
    if (!strcmp(word, "open")) tell(word, sqlite3_open(rest, &db));
    else if (!strcmp(word, "open16")) {
        unsigned short wide[4096] = {0};
        for (int i = 0; rest[i]; i++) wide[i] = (unsigned char)rest[i];
        tell(word, sqlite3_open16(wide, &db));
    } else if (!strcmp(word, "v2")) {
        char *path = strchr(rest, ':');
        *path++ = 0;
        int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
        tell(word, sqlite3_open_v2(path, &db, flags, *rest ? rest : NULL));
    }
    else if (!strcmp(word, "sql")) sql(db, rest);
    else if (!strcmp(word, "close")) tell(word, sqlite3_close(db));
    else if (!strcmp(word, "threads")) threads(rest);
    else if (!strcmp(word, "shutdown")) tell(word, sqlite3_shutdown());
    else if (!strcmp(word, "config")) tell(word, sqlite3_config(SQLITE_CONFIG_SERIALIZED));
    else if (!strcmp(word, "lookaside")) tell(word, sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0));
    else if (!strcmp(word, "reset")) sqlite3_reset_auto_extension();
    else if (!strcmp(word, "shim")) shim();
    else if (!strcmp(word, "maps")) maps();
    else if (!strcmp(word, "chdir")) tell(word, chdir(rest));
    else if (!strcmp(word, "chroot")) tell(word, chroot(rest) || chdir("/"));
    else if (!strcmp(word, "dlopen")) puts(dlopen(rest, RTLD_NOW) ? "loaded" : dlerror());
    else if (!strcmp(word, "atexit")) atexit(close_in_the_end);
    else if (!strcmp(word, "crypto")) {     /* a program that uses OpenSSL itself */
        int (*init)(unsigned long, void *);
        void *crypto = dlopen("libcrypto.so.3", RTLD_NOW);
        *(void **)&init = dlsym(crypto, "OPENSSL_init_crypto");
        tell(word, init(0x40, NULL) != 1);
    }
    else if (!strcmp(word, "stderr")) {     /* a pipe that nobody reads */
        int ends[2];
        tell(word, pipe(ends));
        close(ends[0]);
        dup2(ends[1], 2);
    }
    else if (!strcmp(word, "daemon")) daemonise();
    else if (!strcmp(word, "fork")) {       /* the child goes on */
        int status = 0;
        fflush(stdout);
        if (fork() == 0) return;
        wait(&status);
        printf("child %d\n", status);
        exit(0);
    }
    else if (!strcmp(word, "beside")) {     /* the child ends, the parent goes on */
        int status = 0;
        sqlite3_mutex *held = sqlite3_mutex_alloc(SQLITE_MUTEX_STATIC_MAIN);
        fflush(stdout);
        sqlite3_mutex_enter(held);          /* as another thread may, which the child does not have */
        if (fork() == 0) exit(7);
        sqlite3_mutex_leave(held);
        wait(&status);
        printf("child %d\n", WEXITSTATUS(status));
    }
    else if (!strcmp(word, "_exit")) fflush(stdout), _exit(0);
    else if (!strcmp(word, "wait")) puts("ready"), fflush(stdout), pause();
    else exit(99);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "exec")) {     /* this program again, with what follows */
            fflush(stdout);
            argv[i] = argv[0];
            execv(argv[0], argv + i);
        }
        step(argv[i]);
    }
    return 0;
}
"""

# Calls by name, in a module that is loaded late and for nobody else to see.
MODULE = r"""
#include <sqlite3.h>
int use(const char *path, const char *sql)
{
    sqlite3 *db;
    int rc = sqlite3_open(path, &db);
    if (rc == SQLITE_OK) rc = sqlite3_exec(db, sql, 0, 0, 0);
    int closed = sqlite3_close(db);
    return rc ? rc : closed;
}
const char *version(void)
{
    return sqlite3_libversion();
}
"""

MAKE = "CREATE TABLE t(x); INSERT INTO t VALUES('kept')"


def compile_c(source, program, *options):
    with open(program + ".c", "w") as file:
        file.write(source)
    subprocess.run(["cc", "-g", "-o", program, program + ".c", *options], check=True)
    return program


class Preloaded(support.Case):
    def setUp(self):
        super().setUp()
        need("r2vfs-preload" + support.SUFFIX, os.path.exists(PRELOAD))
        self.root = self.path("root/x")[:-2]
        self.env = {"R2VFS_REMOTE": self.remote_of(self.prefix), "R2VFS_ROOT": self.root}

    def run_with(self, command, env=None, check=True, **more):
        """Run a program with r2vfs-preload.so in it."""
        merged = support.child_env({**self.env, "LD_PRELOAD": PRELOAD, **(env or {})})
        done = subprocess.run(command, env=merged, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=support.DEADLINE, **more)
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}"
                                 f"{done.stderr}")
        return done

    def in_root(self, name="app.db"):
        return os.path.join(self.root, name)

    def stored(self, name="app.db"):
        """The rows of t in the remote's object, read without r2vfs; None: no object."""
        key = f"{self.prefix}/{name}"
        if self.remote_kind == "s3":
            if not self.bucket.exists(key):
                return None
            body = self.bucket.get(key).body
        else:
            if not os.path.exists(os.path.join(self.folder, "remote", key)):
                return None
            body = self.remote_image(key).data
        with support.plain_bytes(body) as db:
            self.assertEqual(support.integrity_of(db), "ok")
            return [x for x, in db.execute("SELECT x FROM t ORDER BY rowid")]

    def forget_local(self):
        shutil.rmtree(self.root)
        os.makedirs(self.root)


# ---------------------------------------------------------------- languages

class Languages(Preloaded):
    """Used, its local data deleted, used again: against Cloudflare's emulator."""

    def story(self, run, version=3):
        """run(sql) opens self.in_root(), runs one statement, closes, gives the lines that came."""
        run("CREATE TABLE t(x)")
        run("INSERT INTO t VALUES('Ada')")
        self.assertEqual(self.stored(), ["Ada"])
        self.forget_local()
        self.assertEqual(run("SELECT x FROM t").split(), ["Ada"])
        run("INSERT INTO t VALUES('Grace')")
        self.assertEqual(self.stored(), ["Ada", "Grace"])
        self.assertEqual(self.bucket.head(self.prefix + "/app.db").meta["db-version"], str(version))
        self.forget_local()
        self.assertEqual(run("SELECT x FROM t ORDER BY 1").split(), ["Ada", "Grace"])

    def with_command(self, *command, version=3):
        def run(sql):
            done = self.run_with([*command, self.in_root(), sql])
            self.assertEqual(done.stderr, "")
            return done.stdout
        self.story(run, version)

    def test_shell(self):
        self.with_command("sqlite3")

    def test_python(self):
        self.with_command(support.PYTHON, "-c", "import sqlite3, sys\n"
                          "db = sqlite3.connect(sys.argv[1])\n"
                          "for row in db.execute(sys.argv[2]): print(row[0])\n"
                          "db.commit(); db.close()")

    def test_php(self):
        need("php with sqlite3", shutil.which("php"))
        self.with_command("php", "-r", "$db = new SQLite3($argv[1]); $found = $db->query($argv[2]);"
                          "while ($found->numColumns() && $row = $found->fetchArray())"
                          "    echo $row[0], PHP_EOL;", "--")

    def test_php_pdo(self):
        need("php with sqlite3", shutil.which("php"))
        self.with_command("php", "-r", "$db = new PDO('sqlite:' . $argv[1]);"
                          "foreach ($db->query($argv[2]) as $row) echo $row[0], PHP_EOL;", "--")

    def test_perl(self):
        need("DBD::SQLite", subprocess.run(["perl", "-MDBD::SQLite", "-e", "1"]).returncode == 0)
        self.with_command("perl", "-MDBI", "-e", """
            my $db = DBI->connect("dbi:SQLite:dbname=$ARGV[0]", "", "", {RaiseError => 1});
            my $s = $db->prepare($ARGV[1]); $s->execute;
            if ($s->{NUM_OF_FIELDS}) { while (my @row = $s->fetchrow_array) { print "$row[0]\\n" } }
            $s->finish; $db->disconnect""")

    def test_ruby(self):
        need("ruby", shutil.which("ruby"))
        self.with_command("ruby", "-rsqlite3", "-e", "db = SQLite3::Database.new(ARGV[0])\n"
                          "db.execute(ARGV[1]) { |row| puts row[0] }\ndb.close")

    def test_wal(self):
        self.run_with(["sqlite3", self.in_root(), "PRAGMA journal_mode=wal"])
        self.with_command("sqlite3", version=4)


# ---------------------------------------------------------------- one program, all corners

class Hosted(Preloaded):
    """With HOST as the program."""

    @classmethod
    def setUpClass(cls):
        cls.build = support.tempfile.mkdtemp(prefix="r2vfs-preload.")
        cls.addClassCleanup(shutil.rmtree, cls.build)
        cls.program = compile_c(HOST, os.path.join(cls.build, "host"), "-lsqlite3", "-lpthread",
                                "-ldl", "-Wl,-rpath,$ORIGIN/modules", "-Wno-format-truncation")

    def host(self, *steps, says=(), env=None, **more):
        """Runs them; returns the lines on stdout. stderr has exactly one line for each of `says`,
        with those words."""
        done = self.run_with([self.program, *steps], env=env, **more)
        said = done.stderr.splitlines()
        says = [says] if isinstance(says, str) else says
        self.assertEqual(len(said), len(says), done.stderr)
        for line, words in zip(said, says):
            self.assertIn(words, line)
        return done.stdout.splitlines()

    def local(self, name="app.db"):
        """The local file's rows, and that r2vfs has nothing beside it."""
        self.assertFalse(os.path.exists(self.in_root(name) + "-r2"))
        db = support.plain(self.in_root(name))
        try:
            return [x for x, in db.execute("SELECT x FROM t")]
        finally:
            db.close()


class Ends(Hosted):
    """How a program may end."""

    def test_exit_without_closing(self):
        """Also after what was pushed before."""
        for mode in ("delete", "wal"):
            with self.subTest(mode=mode):
                name = mode + ".db"
                self.host(f"open:{self.in_root(name)}", f"sql:PRAGMA journal_mode={mode}; {MAKE}",
                          "sql:SELECT r2_sync(); INSERT INTO t VALUES('more')")
                self.assertEqual(self.stored(name), ["kept", "more"])

    def test_exit_in_the_middle(self):
        """What was committed is pushed, what was not is not; by what name the file may go."""
        for name in ("a b%41&d#é.db", "a?b%41.db"):
            self.host(f"open:{self.in_root(name)}", "sql:" + MAKE,
                      "sql:BEGIN; INSERT INTO t VALUES('not this')")
            self.assertEqual(self.stored(name), ["kept"])

    def test_exit_before_the_timer(self):
        self.host(f"open:{self.in_root()}", "sql:" + MAKE, env={"R2VFS_SYNC": "3600000"})
        self.assertEqual(self.stored(), ["kept"])

    def test_exit_by_choice_of_the_user(self):
        self.host(f"open:{self.in_root()}", "sql:" + MAKE, env={"R2VFS_SYNC": "manual"})
        self.assertEqual(self.stored(), None)

    def test_closed_at_exit(self):
        """By a handler of the program's own, which may be the last to run."""
        self.host("atexit", f"open:{self.in_root()}", "sql:" + MAKE)
        self.assertEqual(self.stored(), ["kept", "in the end"])

    def test_closed_when_openssl_is_gone(self):
        """A program's own OpenSSL ends before the program does: the rest is for the next open."""
        self.host("atexit", "crypto", f"open:{self.in_root()}", "sql:" + MAKE,
                  says="r2vfs: at close: ")
        self.assertEqual(self.stored(), ["kept"])
        self.host(f"open:{self.in_root()}", "close")
        self.assertEqual(self.stored(), ["kept", "in the end"])

    def test_ends_that_cannot_be_seen(self):
        """_exit() and SIGKILL: the next open pushes."""
        self.host(f"open:{self.in_root('a.db')}", "sql:" + MAKE, "_exit")
        env = support.child_env({**self.env, "LD_PRELOAD": PRELOAD})
        child = subprocess.Popen([self.program, f"open:{self.in_root('b.db')}", "sql:" + MAKE,
                                  "wait"], env=env, stdout=subprocess.PIPE, text=True)
        self.addCleanup(support.close, child)
        support.expect(child, "ready")
        self.assertEqual(support.kill(child), -signal.SIGKILL)
        for name in ("a.db", "b.db"):
            self.assertEqual(self.stored(name), None)
            self.host(f"open:{self.in_root(name)}", "close")
            self.assertEqual(self.stored(name), ["kept"])


class EndsBesideADirectory(Ends):
    remote_kind = "file"


class Corners(Hosted):
    remote_kind = "file"

    # Ways to open.

    def test_ways_to_open(self):
        for n, way in enumerate(("open:{}", "open16:{}", "v2::{}", "v2:unix:{}",
                                 "v2::file:{}?cache=private", "v2:unix:file:{}?mode=rwc")):
            with self.subTest(way=way):
                self.host(way.format(self.in_root(f"{n}.db")), "sql:" + MAKE, "close")
                self.assertEqual(self.stored(f"{n}.db"), ["kept"])

    def test_attach(self):
        """To a database in memory: the default VFS is settled when that is opened."""
        self.host("open::memory:", f"sql:ATTACH '{self.in_root()}' AS a; CREATE TABLE a.t(x);"
                  "INSERT INTO t VALUES('kept'); DETACH a", "close")
        self.assertEqual(self.stored(), ["kept"])

    def test_a_vfs_of_its_own_choice(self):
        said = "opens " + self.in_root() + " through the VFS 'unix-excl' of its own choice"
        steps = [f"v2:unix-excl:{self.in_root()}", "sql:" + MAKE, "close"]
        self.host(*steps, f"v2:unix-excl:{self.in_root()}", "close", says=said)
        self.assertEqual((self.stored(), self.local()), (None, ["kept"]))
        self.host(f"v2::file:{self.in_root('u.db')}?vfs=unix", "sql:" + MAKE, "close",
                  says="VFS 'unix' of its own")
        self.assertEqual((self.stored("u.db"), self.local("u.db")), (None, ["kept"]))
        self.host(f"v2:unix-excl:{self.path('outside.db')}", "sql:" + MAKE, "close")

    def test_other_files(self):
        outside = self.path("outside.db")
        for path in (outside, ":memory:", ""):
            self.assertEqual(self.host(f"open:{path}", "sql:" + MAKE, "sql:SELECT x FROM t",
                                       "sql:CREATE TEMP TABLE u AS SELECT x FROM t", "close"),
                             ["kept"])
        self.assertFalse(os.path.exists(os.path.join(self.folder, "remote")))
        self.assertEqual(sorted(os.listdir(self.folder)), ["outside.db", "root"])

    def test_a_symbolic_link_to_the_root(self):
        link = self.path("link")
        os.symlink(self.root, link)
        self.host(f"open:{link}/app.db", "sql:" + MAKE, "close", env={"R2VFS_ROOT": link})
        self.assertEqual(self.stored(), ["kept"])

    # What it costs.

    def test_nothing_is_loaded_without_a_database(self):
        self.assertEqual(self.host("maps"), ["r2vfs 0 curl 0"])
        self.assertEqual(self.host("config", "lookaside", "shutdown", "maps"), ["r2vfs 0 curl 0"])
        self.assertEqual(self.host("open::memory:", "maps"), ["r2vfs 1 curl 1"])

    def test_children_without_sqlite(self):
        done = self.run_with(["sh", "-c", "echo a; ls / >/dev/null; env echo b | cat"],
                             env={"R2VFS_EXTENSION": "/nowhere"})
        self.assertEqual((done.stdout, done.stderr), ("a\nb\n", ""))

    def test_dlopen_is_the_callers(self):
        """The host's own search path, which the dynamic linker takes from who calls."""
        folder = os.path.join(self.build, "modules")
        os.makedirs(folder, exist_ok=True)
        compile_c("int nothing;", os.path.join(folder, "libsqlite-nothing.so"), "-shared", "-fPIC")
        self.assertEqual(self.host("dlopen:libsqlite-nothing.so"), ["loaded"])
        self.assertIn("cannot open shared object file", self.host("dlopen:libnowhere.so")[0])

    # What is missing.

    def plainly(self, *says, env=None, program=None, **more):
        """Two databases in one process: all as without r2vfs, and one sentence."""
        if program:
            self.program = program
        out = self.host(f"open:{self.in_root()}", "sql:" + MAKE, "sql:SELECT x FROM t", "close",
                        f"open:{self.in_root('b.db')}", "sql:" + MAKE, "close", "maps",
                        says=says, env=env, **more)
        self.assertEqual(out[0], "kept")
        self.assertEqual(self.local("b.db"), ["kept"])
        self.assertEqual(self.local(), ["kept"])
        self.assertEqual(self.stored(), None)
        return out

    def test_no_extension_beside_it(self):
        copy = shutil.copy(PRELOAD, self.path("alone.so"))
        self.plainly(f"{self.folder}/r2vfs.so: cannot open shared object file",
                     env={"LD_PRELOAD": copy})

    def test_the_extension_by_name(self):
        copy = shutil.copy(PRELOAD, self.path("alone.so"))
        self.host(f"open:{self.in_root()}", "sql:" + MAKE, "close",
                  env={"LD_PRELOAD": copy, "R2VFS_EXTENSION": support.SO})
        self.assertEqual(self.stored(), ["kept"])

    def test_a_wrong_extension(self):
        for name, says in (("/nowhere/r2vfs.so", "/nowhere/r2vfs.so: cannot open"),
                           ("r2vfs.so", "R2VFS_EXTENSION is 'r2vfs.so', but it must be an absolute"),
                           (__file__, "invalid ELF header"),
                           (PRELOAD, "undefined symbol: sqlite3_r2vfsdefault_init")):
            with self.subTest(name=name):
                self.forget_local()
                self.plainly(says, env={"R2VFS_EXTENSION": name})

    def test_half_a_configuration(self):
        for missing, says in (("R2VFS_REMOTE", "R2VFS_REMOTE is not set, so that databases stay"),
                              ("R2VFS_ROOT", "R2VFS_ROOT (the folder whose databases live in R2) is")):
            with self.subTest(missing=missing):
                self.forget_local()
                self.plainly(says, env={missing: None})
                uri = f"file:{self.in_root('uri.db')}?vfs=r2vfs&remote={self.remote_of(self.prefix)}"
                self.host(f"v2::{uri}/{missing}", "sql:" + MAKE, "close", says=says,
                          env={missing: None})
                self.assertEqual(self.stored(missing), ["kept"])

    def test_a_wrong_configuration(self):
        """A program that must not write locally only is told as by any other VFS."""
        out = self.host(f"open:{self.in_root()}", "close", env={"R2VFS_REMOTE": "http://x/y"},
                        says="is an http address")
        self.assertEqual(out, ["open 14 unable to open database file"])

    def library(self):
        found = subprocess.run(["ldd", self.program], stdout=subprocess.PIPE, text=True).stdout
        return next(line.split()[2] for line in found.splitlines() if "libsqlite3" in line)

    def patched(self, name, old, new):
        """The SQLite library of this machine, other bytes in it; returns its folder."""
        with open(self.library(), "rb") as file:
            data = file.read()
        self.assertEqual((data.count(old), len(old)), (1, len(new)))
        path = self.path(f"patched/{name}")
        with open(path, "wb") as file:
            file.write(data.replace(old, new))
        return os.path.dirname(path)

    def test_no_extension_loading(self):
        """A library that keeps sqlite3_load_extension to itself."""
        need("a 64-bit ELF", sys.platform == "linux" and sys.maxsize > 1 << 32)
        library = self.library()
        out = subprocess.run(["readelf", "-SW", "--dyn-syms", library], stdout=subprocess.PIPE,
                             text=True, check=True).stdout
        table = int(re.search(r"\.dynsym +DYNSYM +\w+ (\w+)", out).group(1), 16)
        index = int(re.search(r"^ +(\d+): .* sqlite3_load_extension$", out, re.M).group(1))
        path = shutil.copy(library, self.path("patched/libsqlite3.so.0"))
        with open(path, "r+b") as file:     # st_info: a local symbol instead of a global one
            file.seek(table + 24 * index + 4)
            kind, = file.read(1)
            self.assertEqual(kind >> 4, 1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([kind & 15]))
        self.plainly("has no sqlite3_load_extension, so that",
                     env={"LD_LIBRARY_PATH": os.path.dirname(path)})

    def test_an_old_sqlite(self):
        need("x86-64", platform.machine() == "x86_64")
        number = support.sqlite3.sqlite_version_info
        number = number[0] * 1000000 + number[1] * 1000 + number[2]
        folder = self.patched("libsqlite3.so.0", struct.pack("<BIB", 0xb8, number, 0xc3),
                              struct.pack("<BIB", 0xb8, 3036000, 0xc3))
        self.plainly("3.37.0 or newer is needed", env={"LD_LIBRARY_PATH": folder})

    def test_nobody_reads_stderr(self):
        out = self.host("stderr", f"open:{self.in_root()}", "sql:" + MAKE, "sql:SELECT x FROM t",
                        "close", env={"R2VFS_EXTENSION": "/nowhere"})
        self.assertEqual(out, ["kept"])

    def test_no_remote_there(self):
        """The open fails as SQLite's do; the local copy can be chosen instead."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint = "http://127.0.0.1:%d" % silent.getsockname()[1]
        env = {"R2VFS_REMOTE": "s3://bucket/x", "R2_ENDPOINT": endpoint, "R2VFS_TIMEOUT": "100",
               "R2_ACCESS_KEY_ID": "id", "R2_SECRET_ACCESS_KEY": "key"}
        steps = [f"open:{self.in_root()}", "sql:SELECT 1", "close"]
        out = self.host(*steps, env=env, says="no local copy")
        self.assertEqual(out[0], "open 14 unable to open database file")

    # Threads, processes.

    def test_threads_race_for_the_first_open(self):
        self.assertEqual(self.host("threads:" + self.root, "maps"), ["r2vfs 1 curl 1"])
        for n in range(4):
            self.assertEqual(self.stored(f"{n}.db"), [1, 1, 1])
        self.host("threads:" + self.root, env={"R2VFS_EXTENSION": "/nowhere"}, says="/nowhere")

    def test_fork_before_the_first_open(self):
        out = self.host("fork", f"open:{self.in_root()}", "sql:" + MAKE, "close")
        self.assertEqual((out, self.stored()), (["child 0"], ["kept"]))

    def test_fork_after_the_first_open(self):
        """The child opens its own; the parent's connection stays the parent's."""
        out = self.host("open::memory:", f"open:{self.in_root('a.db')}", "sql:" + MAKE, "fork",
                        f"open:{self.in_root('b.db')}", "sql:" + MAKE, "close")
        self.assertEqual(out, ["child 0"])
        self.assertEqual((self.stored("a.db"), self.stored("b.db")), (["kept"], ["kept"]))

    def test_the_exit_of_a_forked_child(self):
        """It has nothing to push, and waits for nobody."""
        out = self.host(f"open:{self.in_root()}", "sql:" + MAKE, "beside",
                        "sql:INSERT INTO t VALUES('later')", "close")
        self.assertEqual(out, ["child 7"])
        self.assertEqual(self.stored(), ["kept", "later"])

    def test_a_daemon(self):
        """It goes into the background, closes what it does not know, and then opens."""
        self.host("daemon", f"open:{self.in_root()}", "sql:" + MAKE, "close")
        # its stdout was ours: the run is over when it is
        self.assertEqual(self.stored(), ["kept"])

    def test_exec(self):
        out = self.host(f"open:{self.in_root()}", "sql:" + MAKE, "exec", f"open:{self.in_root()}",
                        "sql:SELECT x FROM t", "sql:SELECT r2_version()", "close")
        self.assertEqual((out, self.stored()), (["kept", "1"], ["kept"]))

    # What programs do with SQLite.

    def test_exit_with_a_locked_database(self):
        self.host(f"open:{self.in_root()}", "sql:" + MAKE, "sql:PRAGMA locking_mode=EXCLUSIVE",
                  "sql:INSERT INTO t VALUES('more')",
                  says="at exit, " + self.in_root() + " was not pushed: ")
        self.host(f"open:{self.in_root()}", "close")
        self.assertEqual(self.stored(), ["kept", "more"])

    def test_shutdown_and_another_configuration(self):
        self.host("config", f"open:{self.in_root('a.db')}", "sql:" + MAKE, "close", "shutdown",
                  "config", "lookaside", f"open:{self.in_root('b.db')}", "sql:" + MAKE, "close",
                  "shutdown", f"v2:unix:{self.in_root('c.db')}", "sql:" + MAKE, "close",
                  "shutdown")
        for name in ("a.db", "b.db", "c.db"):
            self.assertEqual(self.stored(name), ["kept"])

    def test_reset_of_automatic_extensions(self):
        out = self.host("open::memory:", "reset", f"open:{self.in_root()}", "sql:" + MAKE,
                        "sql:SELECT r2_version()")
        self.assertEqual(out, ["error no such function: r2_version"])
        self.assertEqual(self.stored(), ["kept"])     # by the end of the program, even

    def test_a_default_vfs_of_its_own(self):
        for n, steps in enumerate((["shim"], ["open::memory:", "shim"])):
            with self.subTest(steps=steps):
                self.host(*steps, f"open:{self.in_root(f'{n}.db')}", "sql:" + MAKE, "close",
                          f"open:{self.in_root(f'{n}.db')}", "close")
                self.assertEqual(self.stored(f"{n}.db"), ["kept"])

    def test_another_folder_later(self):
        """LD_PRELOAD and the database's path may be relative."""
        relative = os.path.relpath(PRELOAD, self.folder)
        done = subprocess.run([self.program, f"chdir:{self.root}", "open:app.db", "sql:" + MAKE,
                               "close"], cwd=self.folder, capture_output=True, text=True,
                              env=support.child_env({**self.env, "LD_PRELOAD": relative}))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertEqual(self.stored(), ["kept"])

    def test_chroot(self):
        """r2vfs.so is not in there: plain SQLite. Opened before, it is."""
        need("root", os.geteuid() == 0)
        self.root = self.path("jail/x")[:-2]
        self.host(f"chroot:{self.folder}", "open:/jail/app.db", "sql:" + MAKE, "close",
                  says="cannot load r2vfs", env={"R2VFS_ROOT": "/jail"})
        self.assertEqual(self.local(), ["kept"])
        self.host("open::memory:", f"chroot:{self.folder}", "open:/jail/app.db",
                  "sql:INSERT INTO t VALUES('more')", "close",
                  env={"R2VFS_ROOT": "/jail", "R2VFS_REMOTE": "file:///remote/" + self.prefix})
        self.assertEqual(self.stored(), ["kept", "more"])

    # Two SQLite libraries in one process.

    TWO = """
import ctypes, sqlite3, sys
module, root, order = ctypes.CDLL(sys.argv[1]), sys.argv[2], sys.argv[3:]
module.version.restype = ctypes.c_char_p
MAKE = "CREATE TABLE t(x); INSERT INTO t VALUES('kept')"
for n, who in enumerate(order):
    path = f"{root}/{n}.db"
    if who == "module":
        print(module.use(path.encode(), MAKE.encode()), module.version().decode())
    else:
        db = sqlite3.connect(path)
        db.executescript(MAKE)
        db.close()
"""

    def module(self, library):
        """MODULE in a file of its own, which needs this library."""
        return compile_c(MODULE, self.path("module.so"), "-shared", "-fPIC", library,
                         "-Wl,-rpath," + os.path.dirname(library))

    def second_library(self):
        """A SQLite library under another name: its own code and data."""
        folder = self.patched("libsqlite9.so.0", b"\0libsqlite3.so.0\0", b"\0libsqlite9.so.0\0")
        path = os.path.join(folder, "libsqlite9.so.0")
        with open(path, "rb") as file:      # to be told apart
            data = file.read()
        version = support.sqlite3.sqlite_version.encode()
        self.assertGreater(data.count(b"\0" + version + b"\0"), 0)
        with open(path, "wb") as file:
            file.write(data.replace(b"\0" + version + b"\0", b"\0" + b"9" + version[1:] + b"\0"))
        return path

    def test_two_libraries(self):
        """The first that opens a database has r2vfs; the other one goes on without."""
        module = self.module(self.second_library())
        for order in (["python", "module", "python", "module"],
                      ["module", "python", "module", "python"]):
            with self.subTest(order=order):
                self.forget_local()
                shutil.rmtree(os.path.join(self.folder, "remote"), ignore_errors=True)
                done = self.run_with([support.PYTHON, "-c", self.TWO, module, self.root, *order])
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertIn("another SQLite library", done.stderr)
                self.assertRegex(done.stdout, r"^(0 9\.\S+\n){2}$")
                for n, who in enumerate(order):
                    if who == order[0]:
                        self.assertEqual(self.stored(f"{n}.db"), ["kept"])
                    else:
                        self.assertEqual((self.stored(f"{n}.db"), self.local(f"{n}.db")),
                                         (None, ["kept"]))

    def test_a_module_with_its_own_sqlite(self):
        """As Perl's DBD::SQLite from CPAN: no other library is there."""
        library = self.second_library()
        done = self.run_with([support.PYTHON, "-c", self.TWO.replace(", sqlite3", ""),
                              self.module(library), self.root, "module", "module"])
        self.assertEqual(done.stderr, "")
        for n in range(2):
            self.assertEqual(self.stored(f"{n}.db"), ["kept"])

    def test_functions_taken_by_dlsym(self):
        """Past every name that the linker could bind to us: plain SQLite, as README says."""
        self.run_with([support.PYTHON, "-c", """
import ctypes, sys
sqlite, db = ctypes.CDLL("libsqlite3.so.0"), ctypes.c_void_p()
assert sqlite.sqlite3_open(sys.argv[1].encode(), ctypes.byref(db)) == 0
assert sqlite.sqlite3_exec(db, sys.argv[2].encode(), None, None, None) == 0
assert sqlite.sqlite3_close(db) == 0
""", self.in_root(), MAKE])
        self.assertEqual((self.stored(), self.local()), (None, ["kept"]))

    def test_a_program_without_sqlite_that_calls_it(self):
        out = self.run_with([support.PYTHON, "-c", """
import ctypes
db = ctypes.c_void_p(1)
print(ctypes.CDLL(None).sqlite3_open(b":memory:", ctypes.byref(db)), db.value)
"""])
        self.assertEqual(out.stdout, "1 None\n")
        self.assertIn("no SQLite library behind it", out.stderr)


if __name__ == "__main__":
    support.main()
