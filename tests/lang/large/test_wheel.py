#!/usr/bin/env python3
"""The wheel in an empty virtual environment: the story through r2vfs.connect(), and what a caller may
get wrong; SQLAlchemy and Django with the text of the package's own page."""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import packages  # noqa: E402
import story  # noqa: E402
import support  # noqa: E402

README = os.path.join(support.ROOT, "ext", "python", "README.md")
_venv = None


def venv():
    """An environment that has nothing but Python and the wheel; returns its interpreter."""
    global _venv
    if _venv is None:
        # PYTHONPATH would be looked at before the environment's packages.
        able = packages.run(support.PYTHON, "-c", "import ensurepip, setuptools, wheel", check=False)
        support.need("python3-venv, python3-setuptools, python3-wheel", able.returncode == 0)
        _venv = tempfile.mkdtemp(prefix="r2vfs-venv.")
        packages.atexit.register(shutil.rmtree, _venv, ignore_errors=True)
        packages.run(support.PYTHON, "-m", "venv", _venv)
        packages.run(f"{_venv}/bin/python", "-m", "pip", "install", "--no-index", "--no-cache-dir",
                     "--only-binary=:all:", "--disable-pip-version-check", packages.make("python"))
    return f"{_venv}/bin/python"


def site_packages():
    venv()
    found, = glob.glob(f"{_venv}/lib/python*/site-packages")
    return found


def snippet(heading):
    """The first piece of Python below this heading of the package's page."""
    with open(README) as file:
        return re.search(rf"^## {heading}\n.*?^```python\n(.*?)^```", file.read(), re.M | re.S)[1]


class Wheel(packages.Story):
    client = "Python, package r2vfs"
    source = "large/packages/story_connect.py"
    loading = "r2vfs.connect(path, remote)"

    @classmethod
    def build(cls, folder):
        return [venv(), cls.path_of(cls.source)]


class Package(support.Case):
    def python(self, code, *args, env=None, check=True, interpreter=None):
        """Run it; PATH, REMOTE and r2vfs are there."""
        head = ("import contextlib, os, sqlite3, sys, threading\nimport r2vfs\n"
                "PATH, REMOTE = sys.argv[1:3]\n")
        none = {name: None for name in ("R2VFS_REMOTE", "R2VFS_ROOT", "R2VFS_DEFAULT", "R2VFS_SYNC")}
        done = subprocess.run([interpreter or venv(), "-c", head + code, self.path(), self.remote,
                               *args], env=support.child_env({**none, **(env or {})}), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, cwd=self.folder,
                              timeout=support.DEADLINE)
        if check:
            self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        return done

    def test_what_is_in_it(self):
        said = self.python("print(os.path.dirname(r2vfs.__file__), r2vfs.__version__)\n"
                           "print(os.path.dirname(r2vfs.loadable_path()))\n"
                           "print(os.path.exists(r2vfs.loadable_path()))").stdout.split()
        version = packages.run(support.PYTHON, f"{support.ROOT}/scripts/man", "version").strip()
        self.assertEqual(said, [f"{site_packages()}/r2vfs", version, f"{site_packages()}/r2vfs",
                                "True"])
        shown = packages.run(venv(), "-m", "pip", "--disable-pip-version-check", "show", "-f", "r2vfs")
        for word in (f"Version: {version}", "License: MIT", "LICENSE", "r2vfs/py.typed"):
            self.assertIn(word, shown)
        name = os.path.basename(packages.make("python"))
        self.assertRegex(name, rf"^r2vfs-{re.escape(version)}-py3-none-(linux|macosx)_\w+\.whl$")

    def test_quoting(self):
        """Every character that a URI gives a meaning to, in the path and in the key."""
        name = "a b?c#d%41&e=f+g;é:'\"h.db"
        self.key = f"{self.prefix}/k é%41#x&vfs=none+;'z.db"
        self.remote = self.remote_of(self.key)
        self.python("db = r2vfs.connect(sys.argv[3], REMOTE)\n"
                    "db.execute('CREATE TABLE t(x)'); db.close()", name)
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")
        self.assertEqual(self.bucket.list(self.prefix), [self.key])
        self.assertEqual(sorted(os.listdir(self.folder)), sorted([name, name + "-r2"]))
        db = support.plain(os.path.join(self.folder, name))
        self.addCleanup(db.close)
        self.assertEqual(db.execute("SELECT name FROM sqlite_schema").fetchall(), [("t",)])

    def test_kinds_of_paths(self):
        """Bytes, PathLike, relative, beginning with //, through a link and back."""
        self.python("""
import pathlib
os.makedirs("real/deep"); os.symlink("real/deep", "link")
for n, path in enumerate((b"\\xff.db", pathlib.Path("p.db"), "/" + os.path.abspath("s.db"), "link/../l.db")):
    with contextlib.closing(r2vfs.connect(path, f"{REMOTE}{n}")) as db:
        db.execute("CREATE TABLE t(x)")
for path in (b"\\xff.db", "p.db", "s.db", "real/l.db"):
    assert os.path.exists(path), path
""")
        self.assertEqual(self.bucket.list(self.prefix), [f"{self.key}{n}" for n in range(4)])

    def test_refused(self):
        said = self.python("""
def refused(kind, *args, **more):
    try:
        r2vfs.connect(*args, **more)
    except kind as error:
        print(error)
    else:
        print("NOT REFUSED", args, more)
refused(ValueError, ":memory:", REMOTE)
refused(ValueError, "", REMOTE)
refused(ValueError, "file::memory:", REMOTE, uri=True)
refused(ValueError, "file:x?cache=shared&mode=memory", REMOTE, uri=True)
refused(ValueError, "a\\0b", REMOTE)
refused(ValueError, "app.db", REMOTE + "\\0")
refused(ValueError, "file:app.db?remote=s3://b/k", REMOTE, uri=True)
refused(TypeError, "app.db", REMOTE, sync=True)
refused(TypeError, "app.db", REMOTE, sync=1.5)
refused(TypeError, "app.db", REMOTE, no_such_argument=1)
""").stdout.splitlines()
        words = ["':memory:' has no file", "empty path", "in-memory", "in-memory", "NUL", "NUL",
                 "remote is in the URI already", "sync must be", "sync must be", "no_such_argument"]
        self.assertEqual(len(said), len(words), said)
        for line, word in zip(said, words):
            self.assertIn(word, line)
        self.assertEqual(os.listdir(self.folder), [])
        self.assertEqual(self.bucket.list(self.prefix), [])

    def test_settings_arrive(self):
        """Each one, under its own name: r2_status has one, refusals name the others."""
        said = self.python("""
db = r2vfs.connect(PATH, REMOTE, sync=60000, refresh=0, conflict="error", offline="allow",
                   remote_timeout=9000, retention=7200, endpoint=os.environ["R2_ENDPOINT"])
print(db.execute("SELECT sync FROM r2_status").fetchone()[0])
db.close()
for name in ("sync", "refresh", "conflict", "offline", "remote_timeout", "retention", "endpoint"):
    try:
        r2vfs.connect(PATH, REMOTE, **{name: "wrong"})
        print("NOT REFUSED", name)
    except sqlite3.OperationalError as error:
        print(name, error)
""", check=False)
        self.assertEqual(said.returncode, 0, said.stderr)
        self.assertEqual(said.stdout.splitlines()[0], "60000")
        self.assertNotIn("NOT REFUSED", said.stdout)
        for name in ("sync", "refresh", "conflict", "offline", "timeout", "retention", "endpoint"):
            self.assertRegex(said.stderr, rf"URI parameter {name} ")

    def test_arguments_of_sqlite3(self):
        self.python("""
class Mine(sqlite3.Connection):
    pass
db = r2vfs.connect(PATH, REMOTE, factory=Mine, isolation_level=None, check_same_thread=False, timeout=7)
assert type(db) is Mine and db.isolation_level is None
assert db.execute("PRAGMA busy_timeout").fetchone() == (7000,)
thread = threading.Thread(target=db.execute, args=("CREATE TABLE t(x)",)); thread.start(); thread.join()
db.execute("INSERT INTO t VALUES(1)")
assert not db.in_transaction
db.close()
ro = r2vfs.connect("file:app.db?mode=ro", REMOTE, uri=True)
assert ro.execute("SELECT x FROM t").fetchall() == [(1,)]
try:
    ro.execute("INSERT INTO t VALUES(2)")
    raise SystemExit("not read-only")
except sqlite3.OperationalError as error:
    assert "readonly" in str(error)
""")
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")

    def test_without_remote_it_is_stock(self):
        self.python("""
stock = sqlite3.connect("stock.db"); ours = r2vfs.connect("ours.db")
for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "page_size"):
    assert stock.execute("PRAGMA " + pragma).fetchall() == ours.execute("PRAGMA " + pragma).fetchall()
assert stock.isolation_level == ours.isolation_level
ours.execute("CREATE TABLE t(x)"); ours.close()
# and others are not touched by it
other = sqlite3.connect("other.db"); other.execute("CREATE TABLE t(x)"); other.close()
""")
        self.assertEqual(sorted(os.listdir(self.folder)), ["other.db", "ours.db", "stock.db"])

    def test_load(self):
        self.python("""
def disabled(db):
    try:
        db.execute("SELECT load_extension('x')")
    except sqlite3.OperationalError as error:
        return "not authorized" in str(error)
old = sqlite3.connect(":memory:")
r2vfs.load(old)
assert disabled(old)
assert old.execute("SELECT count(*) FROM r2_status").fetchone() == (0,)
r2vfs.load(); r2vfs.load(old); r2vfs.load()
assert sqlite3.connect(":memory:").execute("SELECT count(*) FROM r2_status").fetchone() == (0,)
bad = r2vfs.loadable_path
r2vfs.loadable_path = lambda: "/nonexistent"
try:
    r2vfs.load(old)
    raise SystemExit("loaded nothing")
except sqlite3.OperationalError:
    assert disabled(old)
r2vfs.loadable_path = bad
db = sqlite3.connect(r2vfs.uri(PATH, REMOTE), uri=True)
db.execute("CREATE TABLE t(x)"); db.close()
""")
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")

    def test_load_as_default(self):
        self.python("""
r2vfs.load(); r2vfs.load(default=True)
db = sqlite3.connect(PATH)
db.execute("CREATE TABLE t(x)"); db.close()
assert "R2VFS_DEFAULT" not in os.environ
""", env={"R2VFS_REMOTE": self.remote_of(self.prefix)})
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")

    def test_many_threads_at_once(self):
        self.python("""
start, errors = threading.Barrier(16), []
def work(n):
    try:
        start.wait()
        with contextlib.closing(r2vfs.connect(f"{PATH}{n}", f"{REMOTE}{n}")) as db:
            db.execute("CREATE TABLE t(x)")
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
""")
        self.assertEqual(len(self.bucket.list(self.prefix)), 16)

    def test_is_conflict(self):
        self.python("""
class Wrapped(Exception):
    def __init__(self, orig): self.orig = orig
text = "conflict: ...; SELECT r2_resolve('fork') keeps ..."      # Python before 3.11 has no code
assert r2vfs.is_conflict(Wrapped(sqlite3.OperationalError(text)))
assert not r2vfs.is_conflict(sqlite3.OperationalError("database is locked"))
coded = sqlite3.OperationalError(text); coded.sqlite_errorcode = sqlite3.SQLITE_BUSY
assert not r2vfs.is_conflict(coded)
assert not r2vfs.is_conflict(ValueError(text)) and not r2vfs.is_conflict(None)
round = Wrapped(None); round.orig = round
assert not r2vfs.is_conflict(round)
""")

    def test_python_without_extensions(self):
        """What one of them sees; and each that is on this machine."""
        said = self.python("try: r2vfs.load(object())\n"
                           "except sqlite3.NotSupportedError as error: print(error)").stdout
        self.assertIn("without loadable SQLite extensions", said)
        self.assertIn("--enable-loadable-sqlite-extensions", said)
        for path in self.without_extensions():
            with self.subTest(path):
                env = support.child_env()
                env.update(PYTHONPATH=site_packages(), PYTHONDONTWRITEBYTECODE="1")
                said = subprocess.run(
                    [path, "-c", "import sqlite3, r2vfs\n"
                     "try: r2vfs.connect('app.db', 's3://b/app.db')\n"
                     "except sqlite3.NotSupportedError as error: print(error)"],
                    env=env, text=True, stdout=subprocess.PIPE, check=True).stdout
                self.assertIn(f"r2vfs: this Python ({path}) was built without", said)
                self.preloaded(path, env, said)

    @staticmethod
    def without_extensions():
        """Interpreters on this machine."""
        code = ("import sqlite3, sys\nif sys.version_info >= (3, 8) and not "
                "hasattr(sqlite3.Connection, 'enable_load_extension'): print(sys.executable)")
        folders = [*os.environ["PATH"].split(os.pathsep),
                   *glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin"))]
        found = [packages.run(path, "-c", code, check=False).stdout.strip()
                 for folder in folders for path in glob.glob(folder + "/python3")]
        return sorted({path for path in found if os.path.exists(path)})

    def preloaded(self, path, env, said):
        """The cure that builds nothing, as the sentence names it."""
        variable, preload = re.search(r"with (\w+)=(\S+) in the environment", said).groups()
        self.assertTrue(os.path.exists(preload), preload)
        name = path.strip("/").replace("/", "-")
        subprocess.run([path, "-c", "import sys, r2vfs\n"
                        "db = r2vfs.connect(sys.argv[1], sys.argv[2])\n"
                        "db.execute('CREATE TABLE t(x)'); db.close()",
                        self.path(name), self.remote_of(f"{self.prefix}/{name}")], check=True,
                       env={**env, variable: preload}, stderr=subprocess.PIPE)
        self.assertEqual(self.bucket.head(f"{self.prefix}/{name}").meta["db-version"], "1")

    # Frameworks: Debian's, with the wheel beside them.

    def framework(self, module):
        able = packages.run(support.PYTHON, "-c", f"import {module}", check=False).returncode == 0
        support.need(f"python3-{module}", able)

    def with_framework(self, code):
        none = {name: None for name in ("R2VFS_REMOTE", "R2VFS_ROOT", "R2VFS_DEFAULT")}
        env = support.child_env(none)
        env["PYTHONPATH"] = site_packages() + os.pathsep + self.folder
        done = subprocess.run([support.PYTHON, "-W", "ignore", "-c", code], env=env, text=True,
                              capture_output=True, cwd=self.folder, timeout=support.DEADLINE)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        return done.stdout

    def own_names(self, text):
        for name in ("s3://BUCKET/app.db", "s3://BUCKET/db.sqlite3"):
            text = text.replace(name, self.remote)
        return text.replace("sync=1000", "sync='manual'")   # here nothing may happen by the clock

    def test_sqlalchemy(self):
        self.framework("sqlalchemy")
        head = "import sqlalchemy, sqlalchemy.pool, r2vfs\n" + self.own_names(snippet("SQLAlchemy"))
        self.with_framework(head + """
with engine.begin() as db:
    db.execute(sqlalchemy.text("CREATE TABLE t(x)"))
    db.execute(sqlalchemy.text("INSERT INTO t VALUES(:x)"), {"x": 42})
with engine.connect() as db:
    assert db.execute(sqlalchemy.text("SELECT sync()")).scalar() == 1
engine.dispose()
""")
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")
        os.remove(self.path())
        self.with_framework(head + f"""
with engine.connect() as db:
    assert db.execute(sqlalchemy.text("SELECT x FROM t")).all() == [(42,)]
with engine.begin() as db:
    db.execute(sqlalchemy.text("INSERT INTO t VALUES(43)"))
with engine.connect() as db:
    other = r2vfs.connect("other.db", {self.remote!r})
    other.execute("INSERT INTO t VALUES(44)"); other.commit(); other.close()
    try:
        db.execute(sqlalchemy.text("SELECT sync()"))
        raise SystemExit("no conflict")
    except sqlalchemy.exc.OperationalError as error:
        assert r2vfs.is_conflict(error), error
""")

    def test_django(self):
        self.framework("django")
        with open(self.path("settings.py"), "w") as file:
            file.write(f"from pathlib import Path\nBASE_DIR = Path({self.folder!r})\n"
                       "INSTALLED_APPS = ['django.contrib.contenttypes', 'django.contrib.auth']\n"
                       "USE_TZ = True\n" + self.own_names(snippet("Django")))
        head = ("import os, django\nos.environ['DJANGO_SETTINGS_MODULE'] = 'settings'\n"
                "django.setup()\nfrom django.contrib.auth.models import User\n"
                "from django.db import connection, transaction\n"
                "from django.db.utils import OperationalError\n")
        self.with_framework(head + """
from django.core.management import call_command
call_command("migrate", verbosity=0)
with transaction.atomic():
    User.objects.create(username="ada")
with connection.cursor() as cursor:
    assert cursor.execute("SELECT sync()").fetchone() == (1,)
""")
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")
        os.remove(self.path("db.sqlite3"))
        self.with_framework(head + f"""
import r2vfs
assert [user.username for user in User.objects.all()] == ["ada"]
User.objects.create(username="grace")
other = r2vfs.connect("other.db", {self.remote!r})
other.execute("CREATE TABLE t(x)"); other.close()
try:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sync()")
    raise SystemExit("no conflict")
except OperationalError as error:
    assert r2vfs.is_conflict(error), error
""")

    def test_first_page(self):
        """What the package's page begins with."""
        with open(README) as file:
            first = re.search(r"^```python\n(.*?)^```", file.read(), re.M | re.S)[1]
        self.python(first.replace("s3://BUCKET/app.db", self.remote))
        self.assertEqual(self.bucket.head(self.key).meta["db-version"], "1")


if __name__ == "__main__":
    story.main()
