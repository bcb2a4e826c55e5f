"""story.py - one short story that every client language has to live through.

A client is a small program in its language, run as `CLIENT STEP`. It finds in the environment:

    R2VFS_SO    the extension
    STORY_WAY   uri: load the extension on any connection, with its default entry point, and open
                STORY_URI, a file: URI that names vfs=r2vfs and the remote
                default: load it through sqlite3_r2vfsdefault_init and open STORY_PATH, a plain path
                (a driver that cannot name an entry point: `names_entry = False`, and R2VFS_DEFAULT=1
                is set); R2VFS_REMOTE and R2VFS_ROOT say where its databases live
    STORY_WHO   a text

and prints, one by one and flushed:

    write     CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT); in a transaction,
              bound: INSERT INTO story(who) VALUES(STORY_WHO); SELECT sync()      -> version N
              SELECT version, remote_version, dirty_pages, pushes FROM r2_status  -> status V R D P
              close                                                               -> closed
    read      SELECT id, who FROM story ORDER BY id                               -> row ID WHO
              SELECT sqlite_version()                                             -> sqlite X.Y.Z
              the driver's own version                                            -> client TEXT
              close                                                               -> closed
    conflict  INSERT STORY_WHO                                                    -> ready
              wait for a line on stdin: meanwhile another replica pushes
              SELECT sync() fails with what this language calls SQLITE_BUSY       -> busy CODE MESSAGE
              anything else                                                       -> other ...
              SELECT r2_resolve('fork')                                           -> version N
              the rows as above, close                                            -> closed
    mind      (only with `mind` and `minds`) what surprises in this driver, `minds` times: INSERT
              STORY_WHO, then SELECT sync() where the driver still holds a statement or a transaction
              open                                                                -> refused MESSAGE
              and again after what this driver wants for it                       -> version N
              close                                                               -> closed

CODE is 5 or 517 (or their names), as the driver gives it; `text` where it gives nothing but a text.
Between comments `r2vfs: begin` and `r2vfs: end` stands what a user has to write for r2vfs (`r2vfs:
begin uri`, `r2vfs: begin default`: for one way only); it is counted and shown in README.

A test file declares its clients and imports the module, not the class:

    import story

    class PythonSqlite3(story.Story):
        client = "Python sqlite3"               # in README's table
        source = "python/story_sqlite3.py"      # below tests/lang
        loading = 'db.load_extension("r2vfs")'  # in README's table
        mind = "commit() before sync()"         # in README's list; the step `mind` proves it
        minds = 1

        @classmethod
        def build(cls, folder):                 # the command; once, `folder` is temporary
            return [support.need("python3", shutil.which("python3")), cls.path_of(cls.source)]

A client whose tests have all passed leaves a record, build/lang/CLIENT.json; scripts/matrix makes
README's table of these records.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import support  # noqa: E402
from support import one  # noqa: E402

RECORDS = os.path.join(support.ROOT, "build", "lang")      # whichever build was tested
BUSY = ("5", "517", "SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "text")
CLIENTS = {}    # name: class, all that were declared


def record_path(client):
    return os.path.join(RECORDS, re.sub(r"[^a-z0-9]+", "-", client.lower()).strip("-") + ".json")


def user_lines(text, way):
    """What stands between the markers for this way, without comments of its own and empty lines."""
    found, inside = [], False
    for line in text.splitlines():
        begin = re.search(r"r2vfs: begin\b *(\w*)", line)
        if begin:
            inside = begin.group(1) in ("", way)
        elif "r2vfs: end" in line:
            inside = False
        elif inside and line.strip() and not re.match(r"\s*(# |//|/\*|-- )", line):
            found.append(line)
    return found


class Story(support.Case):
    client = None           # a declared one has a name
    source = None           # the program's text, below tests/lang
    loading = ""            # one line: how a user loads it
    ways = ("uri", "default")
    names_entry = True      # the driver can name an entry point
    env = {}                # more environment
    mind = ""               # one line: what to mind with this driver
    minds = 0               # how many things the step `mind` shows
    _argv = None
    _passed, _tests = frozenset(), {}

    @classmethod
    def build(cls, folder):
        """The command of the program, made in `folder` if it has to be compiled."""
        raise NotImplementedError

    @staticmethod
    def path_of(name):
        return os.path.join(HERE, name)

    @classmethod
    def compile(cls, *command, **more):
        """A compiler; what it says is in the failure."""
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              **more)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout}")

    # One test per way in rollback mode, and one in WAL mode.

    def __init_subclass__(cls, **more):
        super().__init_subclass__(**more)
        if not cls.client:
            return
        CLIENTS[cls.client] = cls
        for name in cls._tests:             # of the client that it was derived from
            setattr(cls, name, None)
        cls._passed, cls._facts, cls._argv = set(), {}, None
        cls._tests = {f"test_{way}": (way, False) for way in cls.ways}
        cls._tests[f"test_{cls.ways[0]}_wal"] = (cls.ways[0], True)
        for name, (way, wal) in cls._tests.items():
            def test(self, way=way, wal=wal):
                self.tell_story(way, wal)
                self._passed.add(self._testMethodName)
            setattr(cls, name, test)
        if cls.minds:
            def test_mind(self):
                self.tell_minds(self.ways[0])
                self._passed.add(self._testMethodName)
            cls._tests["test_mind"] = cls.test_mind = test_mind

    def setUp(self):
        super().setUp()
        cls = type(self)
        if not cls._argv:
            folder = tempfile.mkdtemp(prefix="r2vfs-client.")
            cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
            cls._argv = cls.build(folder)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        path = record_path(cls.client)
        if cls._passed == set(cls._tests):
            cls.write_record(path)

    # A failure takes the record of earlier days away; so does a skip, which proves nothing.
    def run(self, result=None):
        result = result or self.defaultTestResult()

        def count():
            return len(result.failures) + len(result.errors) + len(result.skipped)
        before = count()
        done = super().run(result)
        if count() > before and os.path.exists(record_path(self.client)):
            os.remove(record_path(self.client))
        return done

    @classmethod
    def write_record(cls, path):
        with open(cls.path_of(cls.source)) as file:
            text = file.read()
        code = {way: user_lines(text, way) for way in cls.ways}
        record = {"client": cls.client, "driver": cls._facts["client"],
                  "sqlite": cls._facts["sqlite"], "ways": list(cls.ways), "loading": cls.loading,
                  "mind": cls.mind,
                  "lines": {way: len(lines) for way, lines in code.items()}, "code": code}
        os.makedirs(RECORDS, exist_ok=True)
        with open(path + ".new", "w") as file:
            json.dump(record, file, indent=1, ensure_ascii=False)
            file.write("\n")
        os.replace(path + ".new", path)

    # Running the program.

    def program_env(self, way, who):
        local = self.path("a/app.db")
        env = {name: None for name in ("STORY_URI", "STORY_PATH", "R2VFS_REMOTE", "R2VFS_ROOT",
                                       "R2VFS_DEFAULT", "R2VFS_SYNC")}
        env |= {"R2VFS_SO": support.SO, "STORY_WAY": way, "STORY_WHO": who,
                "LC_ALL": "C.UTF-8", **self.env}    # some drivers ask the locale what a text is
        if way == "uri":
            env["STORY_URI"] = support.uri(local, self.remote)
        else:
            env |= {"STORY_PATH": local, "R2VFS_ROOT": os.path.dirname(local),
                    "R2VFS_REMOTE": self.remote_of(self.prefix)}
            if not self.names_entry:
                env["R2VFS_DEFAULT"] = "1"
        return support.child_env(env)

    def start(self, way, step, who=""):
        with open(self.path("stderr"), "w") as errors:
            child = subprocess.Popen([*self._argv, step], env=self.program_env(way, who), text=True,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                     encoding="utf-8", errors="surrogateescape", cwd=self.folder)

        def end():
            if child.poll() is None:
                child.kill()
                child.wait()
            support.close(child)
        self.addCleanup(end)
        return child

    def finish(self, child):
        """The child's lines up to its end, as (word, rest), and what r2vfs said on stderr."""
        out, _ = child.communicate(timeout=support.DEADLINE)
        with open(self.path("stderr")) as file:
            errors = file.read()
        self.assertEqual(child.returncode, 0, f"{' '.join(self._argv)}:\n{out}{errors}")
        return ([tuple(line.partition(" ")[::2]) for line in out.splitlines()],
                re.findall("r2vfs: .*", errors))

    def step(self, way, step, who=""):
        said, errors = self.finish(self.start(way, step, who))
        self.assertEqual(errors, [])        # where a failed open or close would be told
        return said

    # What must be true then.

    def in_bucket(self, key=None):
        """(version, rows) of an object that is a sound SQLite file."""
        found = self.bucket.get(key or self.key)
        self.assertEqual(support.integrity_of_bytes(found.body), "ok")
        with open(self.path("seen.db"), "wb") as file:
            file.write(found.body)
        db = support.plain(self.path("seen.db"))
        try:
            rows = db.execute("SELECT id, who FROM story ORDER BY id").fetchall()
        finally:
            db.close()
        os.remove(self.path("seen.db"))
        return int(found.meta["db-version"]), rows

    @staticmethod
    def as_lines(rows):
        return [("row", f"{number} {who}") for number, who in rows]

    def journal_is(self, wal):
        with open(self.path("a/app.db"), "rb") as file:
            self.assertEqual(file.read(20)[18:], b"\2\2" if wal else b"\1\1")

    def tell_story(self, way, wal):
        version = 0
        if wal:         # born in WAL mode elsewhere: so is the client's copy
            db = self.connect("b/app.db")
            self.assertEqual(one(db, "PRAGMA journal_mode=wal"), "wal")
            db.execute("CREATE TABLE other(x)")
            version = one(db, "SELECT sync()")
            db.close()
        rows = self.writes(way, version + 1)
        self.journal_is(wal)
        self.reads_again(way, version + 1, rows)
        self.journal_is(wal)
        self.loses(way, version + 1, rows)

    def writes(self, way, version):
        rows = [(1, "Zoë Lovelace")]
        said = self.step(way, "write", rows[0][1])
        self.assertEqual(said, [("version", str(version)), ("status", f"{version} {version} 0 1"),
                                ("closed", "")])
        self.assertEqual(self.in_bucket(), (version, rows))
        return rows

    def reads_again(self, way, version, rows):
        shutil.rmtree(os.path.dirname(self.path("a/app.db")))
        self.path("a/app.db")
        said = self.step(way, "read")
        self.assertEqual(said[:-3], self.as_lines(rows))
        facts = dict(said[-3:])
        self.assertEqual(list(facts), ["sqlite", "client", "closed"])
        self.assertRegex(facts["sqlite"], r"^3\.\d+\.\d+$")
        self.assertTrue(facts["client"])
        self._facts.update(facts)
        self.assertEqual(self.in_bucket(), (version, rows))

    def loses(self, way, version, rows):
        child = self.start(way, "conflict", "loser")
        support.expect(child, "ready")
        db = self.connect("b/app.db")
        db.execute("INSERT INTO story(who) VALUES('winner')")
        self.assertEqual(one(db, "SELECT sync()"), version + 1)
        db.close()
        before, after = rows + [(2, "loser")], rows + [(2, "winner")]
        support.tell(child, "go")
        said, errors = self.finish(child)
        self.assertEqual(said[0][0], "busy", said)
        code, _, message = said[0][1].partition(" ")
        self.assertIn(code, BUSY, said)
        for words in ("conflict", f"version {version}", f"version {version + 1}", self.remote,
                      "r2_resolve('fork')"):
            self.assertIn(words, message)
        self.assertEqual(said[1:], [("version", str(version + 1)), *self.as_lines(after),
                                    ("closed", "")])
        self.assertEqual(self.in_bucket(), (version + 1, after))
        fork, = self.bucket.list(self.key + "-forks/")
        self.assertEqual(self.in_bucket(fork)[1], before)
        told, = errors
        self.assertIn(fork, told)

    def tell_minds(self, way):
        rows = self.writes(way, 1)
        said = self.step(way, "mind", "more")
        self.assertEqual([word for word, _ in said],
                         ["refused", "version"] * self.minds + ["closed"])
        for n in range(self.minds):
            self.assertIn("unfinished statement", said[2 * n][1])
            self.assertEqual(said[2 * n + 1][1], str(n + 2))
        rows += [(n + 2, "more") for n in range(self.minds)]
        self.assertEqual(self.in_bucket(), (1 + self.minds, rows))


def main():
    support.main()
