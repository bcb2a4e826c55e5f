"""support.py - what the integration tests share. A test is a program of its own:

    import os, sys
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    import support

    class Sync(support.Case):
        def test_sync(self):
            db = self.connect()                         # a new file, a new key, the emulator
            db.execute("CREATE TABLE t(x)")
            version, = db.execute("SELECT sync()").fetchone()
            self.assertEqual(self.bucket.head(self.key).meta["db-version"], str(version))

    if __name__ == "__main__":
        support.main()

From the environment, all optional:
    R2VFS_SO        the extension; default: build/r2vfs.so
    R2VFS_PRELOAD   a sanitizer's runtime that programs need before they load the extension
    R2VFS_BUILD     where C test programs were built; default: build
    R2_ENDPOINT, R2VFS_TEST_BUCKET, R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY
                    a running emulator; default: scripts/r2-emulator starts one
    R2VFS_TEST_LAYOUT
                    the layout of databases where a test does not name one: object (default) or log
"""

import atexit
import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PYTHON = sys.executable
BUILD = os.path.join(ROOT, os.environ.get("R2VFS_BUILD", "build"))
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
SO = os.path.join(ROOT, os.environ.get("R2VFS_SO", os.path.join(BUILD, "r2vfs" + SUFFIX)))
PRELOAD = os.environ.get("R2VFS_PRELOAD", "")
LAYOUT = os.environ.get("R2VFS_TEST_LAYOUT") or "object"
if LAYOUT not in ("object", "log"):
    raise SystemExit(f"R2VFS_TEST_LAYOUT is {LAYOUT!r}: object or log")
os.environ.setdefault("R2VFS_LAYOUT", LAYOUT)   # always said: no built-in default matters
LOOK = "HEAD" if LAYOUT == "object" else "GET"     # what asks for the version
NAMES = ("R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2VFS_TEST_BUCKET")
# It has done its work for this process, and shells (bash, dash) crash under TSan's: from here on only
# children that load the extension get it.
if PRELOAD and os.environ.get("LD_PRELOAD") == PRELOAD:
    del os.environ["LD_PRELOAD"]
DEADLINE = 300  # seconds until a child process counts as stuck; generous: sanitizers are slow

sys.path.insert(0, os.path.join(HERE, "proxy"))
from faultproxy import FaultProxy  # noqa: E402,F401  (tests take it from here)


# ---------------------------------------------------------------- the emulator and its bucket

class Emulator:
    """The one that the environment names, or one of our own until this process ends."""

    def __init__(self, environ=None, own=False):
        environ = dict(os.environ if environ is None else environ)
        self.dir = self._bucket = None
        if own or not all(environ.get(name) for name in NAMES):
            started = subprocess.run(
                [os.path.join(ROOT, "scripts", "r2-emulator"), "start", "--watch",
                 str(os.getpid())], env=environ, text=True, stdout=subprocess.PIPE, check=True)
            environ = dict(re.findall(r"^export (\w+)='([^']*)'$", started.stdout, re.M))
            self.dir = environ["R2_EMULATOR_DIR"]
            atexit.register(self.stop)
        self.env = {name: environ[name] for name in NAMES}
        self.endpoint = self.env["R2_ENDPOINT"]
        self.bucket_name = self.env["R2VFS_TEST_BUCKET"]

    def stop(self):
        if self.dir:
            subprocess.run([os.path.join(ROOT, "scripts", "r2-emulator"), "stop", self.dir],
                           check=True)
            self.dir = None
            atexit.unregister(self.stop)

    def bucket(self, endpoint=None):
        """The bucket, seen past r2vfs. endpoint: for example a FaultProxy's."""
        return Bucket(endpoint or self.endpoint, self.bucket_name, self.env["R2_ACCESS_KEY_ID"],
                      self.env["R2_SECRET_ACCESS_KEY"])

    def own_bucket(self):
        """The same one for all tests of this process."""
        if self._bucket is None:
            self._bucket = self.bucket()
        return self._bucket


_emulator = None


def emulator():
    """One emulator for this process; its names are put into the environment."""
    global _emulator
    if _emulator is None:
        _emulator = Emulator()
        os.environ.update(_emulator.env)
    return _emulator


Object = collections.namedtuple("Object", "etag size meta modified body")


class Missing(Exception):
    pass


class Precondition(Exception):
    pass


class Bucket:
    """Objects through botocore: another implementation than the one under test.

    head() and get() of a database in the log layout answer for its newest version, put together from
    snapshot and segments as another program would: so a test says the same in both layouts. `raw`:
    the object itself."""

    def __init__(self, endpoint, name, access_key, secret_key):
        import botocore.config
        import botocore.session
        os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
        # Newer botocore adds checksum trailers, which R2 does not take.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        self.name = name
        self.client = botocore.session.Session().create_client(
            "s3", endpoint_url=endpoint, region_name="auto", aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=botocore.config.Config(s3={"addressing_style": "path"},
                                          retries={"max_attempts": 2}))
        self._extra = threading.local()
        self.client.meta.events.register("before-call.s3", self._add_headers)
        self.client.meta.events.register("before-send.s3", self._do_not_expect)

    def _add_headers(self, params, **_):
        params["headers"].update(getattr(self._extra, "headers", None) or {})

    @staticmethod
    def _do_not_expect(request, **_):
        request.headers.pop("Expect", None)     # neither R2 nor the emulator answers it: 1 s each

    def _call(self, method, headers=None, **args):
        import botocore.exceptions
        self._extra.headers = headers
        try:
            return getattr(self.client, method)(Bucket=self.name, **args)
        except botocore.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            kind = {404: Missing, 412: Precondition}.get(status)
            if kind:
                raise kind(args.get("Key")) from error
            raise
        finally:
            self._extra.headers = None

    @staticmethod
    def _object(answer, body=None):
        return Object(answer["ETag"], answer["ContentLength"], answer["Metadata"],
                      answer["LastModified"], body)

    def head(self, key, raw=False):
        """Raises Missing; so does get."""
        found = self._object(self._call("head_object", Key=key))
        if raw or LAYOUT != "log" or found.meta.get("db-layout") != "log":
            return found
        return self.get(key)._replace(body=None)

    def get(self, key, raw=False):
        answer = self._call("get_object", Key=key)
        found = self._object(answer, answer["Body"].read())
        if raw or LAYOUT != "log" or found.meta.get("db-layout") != "log":
            return found
        return self._newest(key, found)

    def _newest(self, key, found):
        last = [found]

        def get(name):
            last[0] = found if name == key else self.get(name, raw=True)
            return last[0].body, last[0].meta
        newest = read_remote(key, get, self.all_keys)
        recent = [found.meta["db-recent"]]
        for version, body in newest.segments:
            recent.insert(0, f"{version}:{int.from_bytes(body[72:80], 'big'):016x}")
        meta = {**found.meta, "db-version": str(newest.version), "db-checksum": newest.checksum,
                "db-recent": ",".join(",".join(recent).split(",")[:64])}
        return Object(last[0].etag, len(newest.data), meta, last[0].modified, newest.data)

    def exists(self, key):
        try:
            self.head(key)
        except Missing:
            return False
        return True

    def put(self, key, body, meta=None, if_match=None, if_none_match=None):
        """Returns the ETag; raises Precondition."""
        headers = {}
        if if_match:
            headers["If-Match"] = if_match
        if if_none_match:
            headers["If-None-Match"] = if_none_match
        return self._call("put_object", headers, Key=key, Body=body, Metadata=meta or {})["ETag"]

    def delete(self, key):
        self._call("delete_object", Key=key)

    def list(self, prefix="", raw=False):
        """All keys below the prefix, sorted; a log belongs to its database, unless `raw`."""
        keys, more = [], {}
        while True:
            answer = self._call("list_objects_v2", Prefix=prefix, **more)
            keys += [entry["Key"] for entry in answer.get("Contents", [])]
            if not answer.get("IsTruncated"):
                return sorted(key for key in keys
                              if raw or LAYOUT != "log" or "-log/" not in key)
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def all_keys(self, prefix):
        return self.list(prefix, raw=True)

    def snapshot(self, prefix=""):
        """{key: ETag}: to see that nothing was changed."""
        return {key: self.head(key, raw=True).etag for key in self.all_keys(prefix)}


# ---------------------------------------------------------------- databases through r2vfs

_loaded = False


def load(entry=None):
    """Load the extension into this process, once."""
    global _loaded
    if _loaded:
        return
    db = sqlite3.connect(":memory:")
    db.enable_load_extension(True)
    if entry:
        db.execute("SELECT load_extension(?, ?)", (SO, entry))
    else:
        db.load_extension(SO)
    db.close()
    _loaded = True


def uri(path, remote=None, vfs="r2vfs", **params):
    """The URI that opens `path`; parameters as in README's table, None ones are left out."""
    if remote is not None:
        params["remote"] = remote
    if vfs:
        params["vfs"] = vfs
    query = urllib.parse.urlencode({k: v for k, v in params.items() if v is not None},
                                   quote_via=urllib.parse.quote, safe="/:")
    return "file:" + urllib.parse.quote(os.path.abspath(path)) + ("?" + query if query else "")


def connect(path, remote=None, timeout=60, **params):
    """A connection through r2vfs, in autocommit mode (BEGIN and COMMIT are the test's)."""
    load()
    return sqlite3.connect(uri(path, remote, **params), uri=True, timeout=timeout,
                           isolation_level=None, check_same_thread=False)


def plain(path, timeout=60):
    """A connection that r2vfs has no part in."""
    return sqlite3.connect(uri(path, vfs="unix"), uri=True, timeout=timeout, isolation_level=None,
                           check_same_thread=False)


@contextlib.contextmanager
def plain_bytes(data):
    """The same on a file's bytes, a snapshot's for example, for the length of a with block."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.db")
        with open(path, "wb") as file:
            file.write(data)
        with contextlib.closing(plain(path)) as db:
            yield db


def integrity_of(db):
    """PRAGMA integrity_check: "ok", or what is wrong."""
    return "\n".join(row[0] for row in db.execute("PRAGMA integrity_check"))


def integrity(path):
    """... of a file, without r2vfs."""
    with contextlib.closing(plain(path)) as db:
        return integrity_of(db)


def integrity_of_bytes(data):
    with plain_bytes(data) as db:
        return integrity_of(db)


def file_sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


# ---------------------------------------------------------------- other processes

def child_env(env=None):
    """This process's environment, the emulator's names if it runs, `env` over it (None removes)."""
    merged = dict(os.environ)
    if PRELOAD:
        merged["LD_PRELOAD"] = PRELOAD
    merged["PYTHONPATH"] = HERE + os.pathsep + merged.get("PYTHONPATH", "")
    merged["PYTHONUNBUFFERED"] = "1"
    for name, value in (env or {}).items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


PROLOGUE = "import json, os, sqlite3, sys, time, support; from support import *; support.load()\n"


def spawn_python(code, *args, env=None, **popen):
    """Start `code` with the extension loaded; sys.argv[1:] are `args` as text. stdin, stdout are
    pipes: print("ready") there and expect(child, "ready") here is how the two wait for each other."""
    return subprocess.Popen([PYTHON, "-c", PROLOGUE + code, *map(str, args)], env=child_env(env),
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **popen)


def run_python(code, *args, env=None, check=True, timeout=DEADLINE):
    """Run it to its end; returns a CompletedProcess with stdout and stderr."""
    done = subprocess.run([PYTHON, "-c", PROLOGUE + code, *map(str, args)], env=child_env(env),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout)
    if check and done.returncode != 0:
        raise AssertionError(f"child ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def expect(child, text):
    """Wait until the child prints this line; returns it. The child's end is a failure."""
    for line in child.stdout:
        if line.startswith(text):
            return line.rstrip("\n")
    raise AssertionError(f"the child ended with {child.wait()} and never said {text!r}")


def tell(child, text=""):
    """A line for the child's input()."""
    child.stdin.write(text + "\n")
    child.stdin.flush()


def kill(child, number=signal.SIGKILL):
    """End the child and wait for it; returns its status."""
    child.send_signal(number)
    status = child.wait(DEADLINE)
    close(child)
    return status


def close(child):
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream:
            try:
                stream.close()
            except BrokenPipeError:
                pass


def finish(child, check=True):
    """Wait for the child's own end; returns what it still printed."""
    out, _ = child.communicate(timeout=DEADLINE)
    if check and child.returncode != 0:
        raise AssertionError(f"child ended with {child.returncode}:\n{out}")
    return out


def shell(sql, database=None, env=None, check=True, loaded=True, timeout=DEADLINE):
    """The sqlite3 shell: `.load` of the extension, then .open of `database` (a path or a URI), then
    the lines of `sql` (a text or a list). Returns a CompletedProcess."""
    lines = [f".load {SO}"] if loaded else []
    if database:
        lines.append(f'.open "{database}"')
    lines += [sql] if isinstance(sql, str) else list(sql)
    done = subprocess.run(["sqlite3", "-batch", "-bail", ":memory:"],
                          input="\n".join(lines) + "\n", env=child_env(env), capture_output=True,
                          text=True, timeout=timeout)
    if check and (done.returncode != 0 or "Error" in done.stderr):
        raise AssertionError(f"sqlite3 ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


class Peer:
    """A connection of a child process: peer("SELECT ...", args) runs there and gives the rows, or
    raises what sqlite3 raised. `stock`: a process that never loads the extension."""

    CODE = """
import json, os, sqlite3, sys
db = None
for line in sys.stdin:
    sql, args = json.loads(line)
    try:
        if sql == "open":
            db = sqlite3.connect(args[0], uri=True, timeout=60, isolation_level=None)
            answer = []
        elif sql == "close":
            answer, db = db.close() or [], None
        else:
            answer = [[v.hex() if isinstance(v, bytes) else v for v in row]
                      for row in db.execute(sql, args)]
    except sqlite3.Error as error:
        answer = [str(error), getattr(error, "sqlite_errorcode", None)]
        print(json.dumps({"error": answer}), flush=True)
        continue
    print(json.dumps({"rows": answer}), flush=True)
if db:
    db.close()
"""

    def __init__(self, case, target, stock=False, env=None, **popen):
        code = self.CODE if stock else PROLOGUE + self.CODE
        self.child = subprocess.Popen([PYTHON, "-c", code], env=child_env(env), text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, **popen)
        self.pid = self.child.pid
        case.addCleanup(self.end)
        self("open", target)

    def send(self, sql, *args):
        tell(self.child, json.dumps([sql, args]))

    def answer(self):
        line = self.child.stdout.readline()
        if not line:
            raise AssertionError(f"the peer ended with {self.child.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            error = sqlite3.OperationalError(answer["error"][0])
            error.sqlite_errorcode = answer["error"][1]
            raise error
        return answer["rows"]

    def __call__(self, sql, *args):
        self.send(sql, *args)
        return self.answer()

    def one(self, sql, *args):
        return self(sql, *args)[0][0]

    def close(self):
        self("close")

    def kill(self):
        kill(self.child)

    def end(self):
        """Close the connection as a program does that ends in order."""
        if self.child.poll() is None:
            close(self.child)
            try:
                self.child.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        close(self.child)


# ---------------------------------------------------------------- a version's bytes

def _crc_table():
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC = _crc_table()


def crc64(data):
    """CRC-64/GO-ISO, bit by bit from its definition: not a line shared with what is tested."""
    crc, table = 0xFFFFFFFFFFFFFFFF, _CRC
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFFFFFFFFFF


def page_size_of(data):
    size = int.from_bytes(data[16:18], "big")
    return 65536 if size == 1 else size


def ltx_checksum(data):
    """LTX's rolling checksum of a whole database."""
    flag, size = 1 << 63, page_size_of(data)
    checksum = flag
    for number in range(1, len(data) // size + 1):
        if number != 0x40000000 // size + 1:
            page = data[(number - 1) * size:number * size]
            checksum = flag | (checksum ^ (flag | crc64(number.to_bytes(4, "big") + page)))
    return f"{checksum:016x}"


class Remote:
    """What a database's remote holds, read past r2vfs: the newest version's bytes, from the snapshot
    and the segments after it. Every checksum and link was checked on the way."""

    def __init__(self, version, data, checksum, layout, segments):
        self.version, self.data, self.checksum = version, data, checksum
        self.layout, self.segments = layout, segments   # segments: [(version, bytes)]


def _follow(folder, names, get, version, data, checksum, upto=None):
    """The versions that the segments make of this one, up to the first gap: version, data, checksum,
    segment. Every number, link and checksum is looked at."""
    import ltx
    while version != upto and f"{version + 1:016x}.ltx" in names:
        body = get(f"{folder}{version + 1:016x}.ltx")[0]
        header, pages, _, trailer = ltx.decode(body)
        if (header.min_txid, header.max_txid) != (version + 1, version + 1):
            raise AssertionError(f"segment {version + 1} says {header}")
        if f"{header.pre:016x}" != checksum:
            raise AssertionError(f"segment {version + 1} follows {header.pre:016x}, not {checksum}")
        data = bytearray(data if header.page_size == page_size_of(data) else b"")
        del data[header.commit * header.page_size:]
        data.extend(bytes(header.commit * header.page_size - len(data)))
        for number, page in pages:
            data[(number - 1) * header.page_size:number * header.page_size] = page
        version, checksum = version + 1, f"{trailer.post:016x}"
        if ltx_checksum(data) != checksum:
            raise AssertionError(f"version {version}: its segment says {checksum}, its pages have "
                                 f"{ltx_checksum(data)}")
        if number_at(data, 24) != version & 0xFFFFFFFF:
            raise AssertionError(f"version {version}: its change counter is {number_at(data, 24)}")
        yield version, data, checksum, body


def _snapshot(key, get):
    """(data, metadata, checksum) of KEY or of a base; its checksum was compared."""
    data, meta = get(key)
    checksum = meta.get("db-checksum")
    if checksum is not None and checksum != ltx_checksum(data):
        raise AssertionError(f"{key}: db-checksum is {checksum}, its bytes have {ltx_checksum(data)}")
    return data, meta, checksum


def read_remote(key, get, keys, upto=None):
    """get(key) -> (bytes, metadata); keys(prefix) -> all keys below it. upto: not the newest version, but
    this one."""
    data, meta, checksum = _snapshot(key, get)
    version = int(meta.get("db-version", 1))
    if meta.get("db-layout") != "log":
        return Remote(version, data, checksum, "object", [])
    folder, segments = f"{key}-log/{meta['db-lineage'][:8]}/", []
    names = {name[len(folder):] for name in keys(folder)}
    for version, data, checksum, body in _follow(folder, names, get, version, data, checksum, upto):
        segments.append((version, body))
    later = [name for name in names if name.endswith(".ltx") and int(name[:16], 16) > version]
    if later and not upto:
        raise AssertionError(f"{folder}: {later} above version {version}")
    return Remote(version, bytes(data), checksum, "log", segments)


def read_past(key, get, keys):
    """{(lineage, version): bytes} of all versions that can still be had: what stands at KEY, the bases and
    kept copies in its log, and what segments make of each of them."""
    found, folders = {}, {}
    for name in keys(f"{key}-log/"):
        folder, _, last = name.rpartition("/")
        folders.setdefault(folder + "/", set()).add(last)
    starts = [folder + name for folder, names in folders.items() for name in names
              if name.endswith(".db")]
    for start in [key, *starts]:
        try:
            data, meta, checksum = _snapshot(start, get)
        except (FileNotFoundError, Missing):
            if start == key:
                continue                # gone: what is left tells the rest
            raise
        lineage, version = meta.get("db-lineage", "")[:8], int(meta.get("db-version", 1))
        found[lineage, version] = data
        folder = f"{key}-log/{lineage}/"
        if meta.get("db-layout") == "log":
            for version, data, _, _ in _follow(folder, folders.get(folder, ()), get, version, data,
                                               checksum):
                found[lineage, version] = bytes(data)
    return found


def sidecar(path):
    """The metadata of an object in a directory that is a remote: of two entries, that of its bytes."""
    folder, name = os.path.split(path)
    with open(path, "rb") as file:
        md5 = hashlib.md5(file.read()).hexdigest().encode()
    with open(os.path.join(folder, ".r2vfs", name + ".meta"), "rb") as file:
        rest = file.read().split(b"\n", 1)[1]
    while rest.startswith(b"object "):
        line, rest = rest.split(b"\n", 1)
        size = int(line.split()[-1])
        if line.split()[1] == md5:
            return dict(one.split(": ", 1) for one in rest[:size].decode().splitlines())
        rest = rest[size:]
    return {}


def number_at(data, offset):
    return int.from_bytes(data[offset:offset + 4], "big")


def without_local_fields(data):
    """A database's bytes with the four local fields of page 1 zeroed."""
    data = bytearray(data)
    for first, last in ((18, 19), (24, 31), (40, 43), (92, 95)):
        data[first:last + 1] = bytes(last + 1 - first)
    return bytes(data)


# ---------------------------------------------------------------- test cases

class Case(unittest.TestCase):
    """A temporary folder and a key of its own for each test; R2 through the emulator."""

    remote_kind = "s3"                  # "file": a directory as the remote, without the emulator

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="r2vfs-test.")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.prefix = f"{type(self).__name__}/{self._testMethodName}/{uuid.uuid4().hex[:8]}"
        self.key = self.prefix + "/app.db"
        if self.remote_kind == "s3":
            self.emulator = emulator()
            self.bucket = self.emulator.own_bucket()
        self.remote = self.remote_of(self.key)

    def remote_of(self, key):
        if self.remote_kind == "file":
            return "file://" + os.path.join(self.folder, "remote", key)
        return f"s3://{self.emulator.bucket_name}/{key}"

    def remote_image(self, key=None, upto=None):
        """The newest version in the remote, decoded without a line of r2vfs: a Remote."""
        return read_remote(key or self.key, *self.reader(), upto)

    def remote_past(self, key=None):
        """{(lineage, version): bytes} of all that can still be had."""
        return read_past(key or self.key, *self.reader())

    def reader(self):
        """get(key) and keys(prefix) of this case's remote, past r2vfs."""
        if self.remote_kind == "s3":
            def get(name):
                found = self.bucket.get(name, raw=True)
                return found.body, found.meta
            return get, self.bucket.all_keys
        root = os.path.join(self.folder, "remote")

        def read(name):
            with open(os.path.join(root, name), "rb") as file:
                return file.read(), sidecar(os.path.join(root, name))

        def below(prefix):
            return [os.path.relpath(os.path.join(folder, name), root)
                    for folder, _, names in os.walk(os.path.join(root, prefix))
                    for name in names if not name.startswith(".") and ".r2vfs" not in folder]
        return read, below

    def remote_version(self, key=None):
        return self.remote_image(key).version

    def path(self, name="app.db"):
        """A file of this test; `a/app.db` and `b/app.db` play two machines."""
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def connect(self, name="app.db", remote=None, **params):
        db = connect(self.path(name), remote or self.remote, **params)
        self.addCleanup(db.close)       # closing twice is allowed
        return db

    def proxy(self, **args):
        proxy = FaultProxy(self.emulator.endpoint, **args)
        self.addCleanup(proxy.stop)
        return proxy

    def peer(self, name="app.db", remote=None, stock=False, env=None, **params):
        """A Peer with this file open: another process on the same machine, or with its own file
        another machine."""
        target = (uri(self.path(name), vfs=None) if stock
                  else uri(self.path(name), remote or self.remote, **params))
        return Peer(self, target, stock, env)

    def fails(self, run, *args, code=None, says=()):
        """run(*args) raises a sqlite3 error with this extended code and these words; returns its
        text."""
        with self.assertRaises(sqlite3.Error) as caught:
            run(*args)
        if code is not None:
            self.assertEqual(caught.exception.sqlite_errorcode, code, str(caught.exception))
        for word in [says] if isinstance(says, str) else says:
            self.assertIn(word, str(caught.exception))
        return str(caught.exception)

    def spawn(self, code, *args, **more):
        child = spawn_python(code, *args, **more)

        def end():
            if child.poll() is None:
                child.kill()
                child.wait()
            close(child)
        self.addCleanup(end)
        return child


def status(db, path=None):
    """The row of r2_status that belongs to `path`, or to the connection's own file, as a dict: others that
    this process has open, or had until a moment ago, do not count."""
    path = path or one(db, "SELECT file FROM pragma_database_list WHERE name='main'")
    cursor = db.execute("SELECT * FROM r2_status")
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, row)) for row in cursor]
    rows = [row for row in rows if not path or row["file"] == os.path.realpath(path)]
    if len(rows) != 1:
        raise AssertionError(f"r2_status has {len(rows)} rows for {path}")
    return rows[0]


def one(db, sql, *args):
    """The first column of the first row; None without one."""
    row = db.execute(sql, args).fetchone()
    return row[0] if row else None


def until(done, seconds=DEADLINE):
    """Look again and again; the clock only ends what would hang."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("it never came to that")
        time.sleep(0.005)


def need(name, found):
    """`found` is what a test needs from the machine (a path, a version, a module); returns it. Without
    it: a failure where R2VFS_CI is set (continuous integration installs everything), else a skip
    that says the name."""
    if found:
        return found
    if os.environ.get("R2VFS_CI"):
        raise AssertionError(f"{name} is not there; scripts/setup lang installs it")
    raise unittest.SkipTest(f"{name} is not there (scripts/setup lang)")


def object_layout(why):
    """For a test or a class that is about the object layout; says why it says nothing of the other."""
    return unittest.skipIf(LAYOUT != "object", f"object layout only: {why}")


def log_layout(why):
    """The same for what is about the log."""
    return unittest.skipIf(LAYOUT != "log", f"log layout only: {why}")


def main():
    unittest.main(verbosity=2)
