#!/usr/bin/env python3
"""A bucket that is not to be trusted: every byte flipped in turn, every object cut, swapped, or taken
from somewhere else. A replica says what is wrong and with which object, or has the newest version's
content: never another one's, never a crash; and neither the bucket nor the local file is touched.

R2VFS_SOAK=1: every bit of every byte, every length, instead of a sample of them."""

# One layout: each test names its own.
# Not under TSan: bytes are looked at by one thread.

import contextlib
import hashlib
import os
import re
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import threading
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import ltx  # noqa: E402
import support  # noqa: E402
from support import one  # noqa: E402

SOAK = bool(os.environ.get("R2VFS_SOAK"))
FLAG = 1 << 63


def flip(data, at, bit):
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1:]


def sidecar(meta, body):
    """Metadata of an object in a directory, as if they had come with these bytes."""
    text = b"r2vfs-meta 1\nobject %s 0 %d 0 0 %d\n%s" % (
        hashlib.md5(body).hexdigest().encode(), len(body), len(meta), meta)
    return text + b"end " + hashlib.md5(text).hexdigest().encode() + b"\n"


def sealed(segment, **fields):
    """The segment with other values in its header, and the checksum of the file made right."""
    header, pages, index, trailer = ltx.decode(segment)
    head = ltx.HEADER.pack(*header._replace(**{k: v for k, v in fields.items() if k != "post"}))
    post = fields.get("post", trailer.post)
    crc, end = ltx.crc64(head), 100
    for (_, page), (_, offset, size) in zip(pages, index):
        crc = ltx.crc64(segment[offset:offset + 10] + page, crc)
        end = offset + size
    rest = segment[end:-16] + struct.pack(">Q", post)
    return head + segment[100:end] + rest + struct.pack(">Q", FLAG | ltx.crc64(rest, crc))


@contextlib.contextmanager
def silence(path):
    """Each failed open says so on stderr: thousands of lines."""
    sys.stderr.flush()
    was = os.dup(2)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(was, 2)
        os.close(was)


class Hostile(support.Case):
    """A small database, four versions, pages of 512 bytes; a machine that is at version 1."""

    remote_kind = "file"
    strict = True       # the newest version or an error; else an older one will do: `older` has them

    def begin(self, layout, page_size=512, place="", mark=""):
        self.root = os.path.join(self.folder, "remote", os.path.dirname(self.key))
        self.layout, self.contents, self.count, self.older = layout, {}, 0, []
        db = self.connect(place + "a/app.db", layout=layout)
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute("CREATE TABLE t(x INTEGER PRIMARY KEY, y)")
        for n in range(4):
            db.execute("INSERT INTO t VALUES(?, ?)", (n, f"{mark}version {n + 1} " * 9))
            self.assertEqual(one(db, "SELECT sync()"), n + 1)
            self.contents[n + 1] = db.execute("SELECT * FROM t").fetchall()
            if n == 0:
                self.connect(place + "b/app.db", layout=layout).close()
                self.warm = [self.read(place + "b/" + name) for name in ("app.db", "app.db-r2")]
        # what is in the bucket while the writer is still there: at its close a checkpoint is made
        self.bucket_files = self.objects()
        self.meta = "".join(f"{k}: {v}\n" for k, v in support.sidecar(self.root + "/app.db").items())
        self.segments = sorted(name for name in self.bucket_files if name.endswith(".ltx"))
        self.assertEqual(len(self.segments), 3 if layout == "log" else 0)
        db.close()
        self.last_error = support.plain(":memory:")
        self.addCleanup(self.last_error.close)
        self.restore()

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def objects(self):
        """{name below the database's folder: bytes}, without what the store keeps beside them."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if name != ".r2vfs"]
            for name in files:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    found[os.path.relpath(path, self.root)] = file.read()
        return found

    def put(self, name, body, meta=None, side=None):
        """An object as S3 would have it: these bytes with those metadata."""
        path = os.path.join(self.root, name)
        beside = os.path.join(os.path.dirname(path), ".r2vfs", os.path.basename(path) + ".meta")
        if meta is None:
            meta = self.meta if name == "app.db" else ""
        with open(path, "wb") as file:
            file.write(body)
        with open(beside, "wb") as file:
            file.write(sidecar(meta.encode("latin-1"), body) if side is None else side)

    def restore(self):
        for name in set(self.objects()) - set(self.bucket_files):
            os.remove(os.path.join(self.root, name))
        for name, body in self.bucket_files.items():
            self.put(name, body)

    def judge(self, path):
        """Open, read, close: the version that was shown, or None and the sentence."""
        try:
            db = sqlite3.connect(support.uri(path, self.remote, layout=self.layout, timeout=2000), uri=True)
            try:
                rows = db.execute("SELECT * FROM t").fetchall()
                version = one(db, "SELECT r2_version()")
            finally:
                db.close()
        except sqlite3.DatabaseError:
            return None, one(self.last_error, "SELECT r2_last_error()")
        if self.strict:
            self.assertEqual((version, rows), (4, self.contents[4]), "not the newest version")
        else:
            self.assertIn(rows, self.contents.values(), "a content that nobody made")
            if rows != self.contents[4]:
                self.older.append(version)
        return version, ""

    def look(self, name, what):
        """A new machine and one that is at version 1 meet the bucket as it is. Returns who noticed."""
        told = set()
        before = self.objects()
        for warm in (False, True):
            self.count += 1
            folder = self.path(f"m{self.count}/app.db")
            if warm:
                for path, data in zip((folder, folder + "-r2"), self.warm):
                    with open(path, "wb") as file:
                        file.write(data)
            with self.subTest(what, layout=self.layout, warm=warm):
                version, why = self.judge(folder)
                if version is None:
                    if "do not have its checksum" not in why and "checksum of its segment" not in why:
                        self.assertIn(name, why, "the sentence does not name the object")
                    told.add("warm" if warm else "new")
                if version is None and warm:    # it keeps what it had
                    with open(folder, "rb") as file:
                        self.assertEqual(file.read(), self.warm[0])
            for end in ("", "-r2", "-wal", "-journal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(folder + end)
            os.rmdir(os.path.dirname(folder))
        after = self.objects()
        if not self.strict:     # what a conflict's loser had is kept
            for fork in [one for one in after if one not in before and "-forks/" in one]:
                os.remove(os.path.join(self.root, fork))
                del after[fork]
        self.assertEqual(after, before, f"{what}: the bucket was changed")
        return told

    def sweep(self, cases):
        """cases: (name of the object, what, bytes, metadata or None, sidecar or None). Returns those that
        somebody did not notice who read that object: [(what, who noticed, name, bytes)]."""
        harmless, tried = [], 0
        with silence(self.path("stderr")):
            for name, what, body, meta, side in cases:
                self.put(name, body, meta, side)
                tried += 1
                told = self.look(name, what)
                # who is at version 1 of a log reads its segments only
                readers = {"new"} if name == "app.db" and self.layout == "log" else {"new", "warm"}
                if not told >= readers:
                    harmless.append((what, told, name, body))
                self.put(name, self.bucket_files[name])
            self.assertEqual(self.look("", "all is well again"), set())
        print(f"  {self.layout}: {tried} tried, {len(harmless)} not noticed")
        return harmless


class Flipped(Hostile):
    def bits(self, size, stride):
        """(at, bit): each byte once, or each bit; a stride for what is quick only in parts."""
        for at in range(0, size, 1 if SOAK else stride):
            for bit in range(8) if SOAK else ((at * 5 + 3) % 8,):
                yield at, bit

    def test_bodies(self):
        for layout in ("log", "object"):
            self.setUp()
            self.begin(layout)
            harmless = self.sweep(
                (name, f"bit {bit} of byte {at} of {name}", flip(body, at, bit), None, None)
                for name, body in self.bucket_files.items() for at, bit in self.bits(len(body), 1))
            # the LZ4 data of a page may say the same in other words; nothing else may
            for what, _, name, body in harmless:
                self.assertIn(".ltx", name, what)
                with contextlib.suppress(ltx.Violation):    # it is stricter: no match of distance 0
                    self.assertEqual(ltx.decode(body)[:2], ltx.decode(self.bucket_files[name])[:2], what)
                print(f"  {what}: the same page in other LZ4 data")

    def test_metadata(self):
        """One bit of the snapshot's metadata at a time. Nothing but their sense vouches for them: the
        transport does, and in a directory the sidecar's checksum. So an older content may be shown,
        never one that nobody made."""
        self.strict, older = False, {}
        for layout in ("log", "object"):
            self.setUp()
            self.begin(layout)
            body, meta = self.bucket_files["app.db"], self.meta.encode()
            lines = meta.split(b"\n")

            def cases():
                for at, bit in self.bits(len(meta), 1):
                    name = lines[meta[:at].count(b"\n")].split(b":")[0].decode()
                    yield ("app.db", f"bit {bit} of byte {at} of the metadata, in {name}", body,
                           flip(meta, at, bit).decode("latin-1"), None)
                    for _ in self.older:
                        older[layout, name] = older.get((layout, name), 0) + 1
                    self.older.clear()
            self.sweep(cases())
        print(f"an older version: {older}")
        # which log to follow is what it says; all else has to fit together
        self.assertLessEqual(set(older), {("log", "db-lineage")})

    def test_sidecar(self):
        """The file in which a directory keeps them: nothing of it can change unnoticed."""
        for layout in ("log", "object"):
            self.setUp()
            self.begin(layout)
            body = self.bucket_files["app.db"]
            side = sidecar(self.meta.encode(), body)
            self.assertEqual(self.sweep(
                ("app.db", f"bit {bit} of byte {at} of the sidecar", body, None, flip(side, at, bit))
                for at, bit in self.bits(len(side), 3)), [])

    def test_lengths(self):
        """Cut at every place, and longer than it was."""
        for layout in ("log", "object"):
            self.setUp()
            self.begin(layout)
            for name, body in self.bucket_files.items():
                lengths = [*range(0, len(body), 1 if SOAK else 7), len(body) - 1]
                bodies = [body[:n] for n in lengths] + [body + b"x", body + body, body + bytes(512)]
                self.assertEqual(self.sweep((name, f"{len(one)} bytes of {name}, which has {len(body)}", one,
                                             None, None) for one in bodies), [])


class Elsewhere(Hostile):
    """Objects that are whole, and not what should stand there."""

    def begin_at(self, place, *args, **more):
        self.key = f"{self.prefix}-{place}/app.db"
        self.remote = self.remote_of(self.key)
        self.begin(*args, place=place, **more)

    def other(self, place, **more):
        """The bucket of another database: (objects, segments)."""
        self.begin_at(place, "log", mark="other ", **more)
        return self.bucket_files, self.segments

    def noticed(self, cases):
        self.assertEqual(self.sweep(cases), [])

    def test_segments(self):
        stranger, theirs = self.other("stranger")
        wide, wides = self.other("wide", page_size=4096)
        self.begin_at("own", "log")
        two, three, four = self.segments
        body = self.bucket_files
        cases = {"the one before": body[two], "the one after": body[four],
                 "another database's": stranger[theirs[1]], "of another page size": wide[wides[1]],
                 "a snapshot": body["app.db"], "a web page": b"<html><body>Log in</body></html>" * 9,
                 "zeros": bytes(len(body[three])), "empty": b"", "LTX1 and nothing": b"LTX1"}
        self.noticed((three, what, data, None, None) for what, data in cases.items())
        self.assertEqual(sealed(body[four]), body[four])
        head = ltx.decode(body[four])[0]
        # the newest one, with the file's checksum made right, as only somebody could who means it
        lies = [{"min_txid": 3, "max_txid": 3}, {"min_txid": 5, "max_txid": 5}, {"max_txid": 5},
                {"pre": head.pre ^ 1}, {"post": FLAG | 77}, {"commit": head.commit + 1},
                {"commit": 1 << 20}, {"commit": 0xfffffffe}, {"commit": 1}, {"page_size": 1024},
                {"page_size": 65536}, {"flags": 2}, {"flags": 1 << 31}, {"max_txid": (1 << 64) - 1}]
        self.noticed((four, f"a segment that lies: {lie}", sealed(body[four], **lie), None, None)
                     for lie in lies)
        # another time and other nonce are no lie about the content; they are shown, and do no harm
        for lie in ({"timestamp_ms": -1 << 63}, {"timestamp_ms": (1 << 63) - 1}, {"node_id": 0}):
            self.put(three, sealed(body[three], **lie))
            self.assertEqual(self.look(three, str(lie)), set())
            db = sqlite3.connect(support.uri(self.path("h/app.db"), self.remote), uri=True)
            self.assertEqual({row[0] for row in db.execute("SELECT version FROM r2_history")}, {1, 2, 3, 4})
            db.close()
            self.put(three, body[three])

    def test_snapshot(self):
        stranger, _ = self.other("stranger")
        wide, _ = self.other("wide", page_size=4096)
        for layout in ("log", "object"):
            self.begin_at(layout, layout)
            body = self.bucket_files["app.db"]
            giant = body[:28] + b"\xff\xff\xff\xfe" + body[32:]
            cases = {"another database": stranger["app.db"], "of another page size": wide["app.db"],
                     "a web page": b"<html><body>Log in</body></html>" * 9, "zeros": bytes(len(body)),
                     "more pages than there are": giant, "a page size of 3": body[:16] + b"\0\3" + body[18:]}
            self.noticed(("app.db", what, data, None, None) for what, data in cases.items())
            os.remove(os.path.join(self.root, "app.db"))
            with silence(self.path("stderr")):
                if layout == "log":     # its log is there: somebody took it away
                    self.assertIn("new", self.look("app.db", "gone"))

    def test_gaps(self):
        """A segment in the middle is gone: a new machine does not take what is before it for the newest.
        (Who looked within the last half hour sees the log's end there, until it looks at the snapshot.)"""
        self.begin("log")
        self.strict = False
        for name in self.segments[:2]:
            os.remove(os.path.join(self.root, name))
            with silence(self.path("stderr")):
                told = self.look(os.path.basename(os.path.dirname(name)), f"{name} is gone")
            self.assertIn("new", told)
            self.put(name, self.bucket_files[name])

    def test_metadata(self):
        long = "x" * 8000
        absurd = {"db-version": ("0", "-1", "+4", "4.0", "0x4", "1e9", "99999999999999999999", "9" * 8000, "four",
                                 "4 4", "\u0664"),
                  "db-layout": ("", "LOG", "logs", "../../log", long),
                  "db-lineage": ("", "0", "z" * 32, "0" * 31, "0" * 33, long),
                  "db-checksum": ("", "0" * 16, "x" * 16, "f" * 17, long)}
        for layout in ("log", "object"):
            self.begin_at(layout, layout)
            body = self.bucket_files["app.db"]
            fields = dict(line.split(": ", 1) for line in self.meta.splitlines())

            def cases():
                for name, values in absurd.items():
                    for value in values:
                        meta = "".join(f"{k}: {v}\n" for k, v in {**fields, name: value}.items())
                        yield ("app.db", f"{name}: {value[:20]!r}", body, meta.encode().decode("latin-1"), None)
            self.noticed(cases())
            # what a header cannot carry cannot be in a sidecar, either
            for value in ("4\r", "\x1b[2J", "4\x00", "\x7f"):
                meta = self.meta.replace("db-version: ", "db-version: " + value)
                self.noticed([("app.db", repr(value), body, meta, None)])


class Names(support.Case):
    """What stands in a remote's name is a name and nothing else."""

    ODD = ("a%2Fb.db", "%00.db", "%", "a b+c.db", "a#b.db", "a&b=c.db", "..%2f..%2fx.db", "...", "a;b",
           "\u00fc/\u65e5\u672c\u8a9e.db", "\U0001f600.db", "e\u0301.db", "*.db", "'\"`$(x).db", "-log/x-log")
    WRONG = ("a/../b.db", "../b.db", "..", ".", "a//b.db", "a/", "a\nb.db", "a\rb.db", "a\tb.db", "a\x7fb.db",
             "a\\b.db", "a?b.db", "\x1b[2J", "x" * 901)

    def test_odd(self):
        """Two databases never share an object, and each is at just its name."""
        for kind in ("s3", "file"):
            self.remote_kind = kind
            for number, odd in enumerate(self.ODD):
                with self.subTest(odd, kind=kind):
                    self.write_and_read(f"{self.prefix}/{odd}", f"{kind}{number}.db", odd)
        log = re.compile(r"-log/[0-9a-f]{8}/[0-9a-f]{16}\.(ltx|db)$")
        self.assertEqual({key for key in self.bucket.all_keys(self.prefix) if not log.search(key)},
                         {f"{self.prefix}/{odd}" for odd in self.ODD})
        for odd in self.ODD:
            self.assertTrue(os.path.isfile(f"{self.folder}/remote/{self.prefix}/{odd}"), odd)

    def write_and_read(self, key, file, mark):
        for machine in ("a", "b"):
            db = self.connect(f"{machine}/{file}", self.remote_of(key), layout="log")
            if machine == "a":
                db.execute("CREATE TABLE t AS SELECT ? AS x", (mark,))
                one(db, "SELECT sync()")
                db.execute("INSERT INTO t VALUES(2)")
                self.assertEqual(one(db, "SELECT sync()"), 2)
            self.assertEqual(db.execute("SELECT x FROM t").fetchall(), [(mark,), (2,)])
            db.close()

    def test_wrong(self):
        before = self.bucket.all_keys("")
        for scheme in ("s3://" + self.emulator.bucket_name, "file://" + self.folder + "/remote"):
            for key in self.WRONG:
                with self.subTest(scheme=scheme[:4], key=key), silence(self.path("stderr")):
                    self.fails(self.connect, "a.db", f"{scheme}/{key}", code=14)
        made = set(self.bucket.all_keys("")) - set(before)
        # other programs' tests, which run at the same time, have keys of this form
        self.assertEqual([key for key in made if not re.match(r"\w+/test_\w+/[0-9a-f]{8}/", key)], [])
        self.assertFalse(os.path.exists(self.folder + "/remote"))
        for key in (".r2vfs/x.db", "a/.r2vfs/x.db"):    # where a directory keeps its own files
            with silence(self.path("stderr")):
                self.fails(self.connect, "a.db", f"file://{self.folder}/remote/{key}", code=14)


CHILD = """
db = sqlite3.connect(support.uri(sys.argv[1], "s3://bucket/app.db", endpoint=sys.argv[2], timeout=2000),
                     uri=True, isolation_level=None)
db.execute("CREATE TABLE t(x)")
db.execute("SELECT sync()").fetchall()
print("pushed")
"""


class Between(support.Case):
    """Somebody else answers."""

    remote_kind = "file"
    SECRETS = {"R2_ACCESS_KEY_ID": "KeyOfMine", "R2_SECRET_ACCESS_KEY": "SecretOfMine",
               "R2_SESSION_TOKEN": "TokenOfMine", "R2_ENDPOINT": None, "http_proxy": None, "https_proxy": None}

    def openssl(self, *words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self.folder)

    def certificate(self, name, host):
        """NAME.pem and NAME.key for this host name, signed by ca.pem; or by itself for `self`."""
        with open(self.path(name + ".cnf"), "w") as file:
            file.write(f"subjectAltName={host}\n")
        signer = [] if name == "self" else ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", name + ".key", "-out", name + ".csr",
                     "-subj", "/CN=test")
        self.openssl("x509", "-req", "-in", name + ".csr", "-days", "2", "-extfile", name + ".cnf", "-out",
                     name + ".pem", *(signer or ["-signkey", "self.key"]))

    def serve(self, certificate=None, answer=b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"):
        """A server of one's own; returns its port and the list of what it was told."""
        told, listener = [], socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.path(certificate + ".pem"), self.path(certificate + ".key"))

        def talk(stream):
            with contextlib.suppress(OSError), stream:
                if context:
                    stream = context.wrap_socket(stream, server_side=True)
                while data := stream.recv(65536):
                    told.append(data)
                    stream.sendall(answer)
                stream.close()

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=talk, args=listener.accept()[:1], daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1], told

    def push(self, endpoint, **env):
        done = support.run_python(CHILD, self.path(f"{uuid.uuid4().hex}/app.db"), endpoint,
                                  env={**self.SECRETS, **env}, check=False)
        for secret in ("SecretOfMine", "TokenOfMine"):
            self.assertNotIn(secret, done.stderr + done.stdout)
        return done

    def test_certificates(self):
        """Who cannot show the right certificate gets no byte of the request."""
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
                     "-days", "2", "-subj", "/CN=our CA")
        self.certificate("right", "IP:127.0.0.1")
        self.certificate("wrong", "DNS:r2.cloudflarestorage.com")
        self.certificate("self", "IP:127.0.0.1")
        ca = {"CURL_CA_BUNDLE": self.path("ca.pem")}
        for name, env in (("self", {}), ("self", ca), ("wrong", ca), ("right", {})):
            with self.subTest(name, ca=bool(env)):
                port, told = self.serve(name)
                done = self.push(f"https://127.0.0.1:{port}", **{"CURL_CA_BUNDLE": None, **env})
                self.assertNotEqual(done.returncode, 0)
                self.assertIn("TLS certificate is not trusted", done.stderr)
                self.assertEqual(told, [])
        port, told = self.serve("right")    # or nothing at all would have been sent, whatever it is
        self.push(f"https://127.0.0.1:{port}", **ca)
        self.assertIn(b"HEAD /bucket/app.db", b"".join(told))
        self.assertNotIn(b"SecretOfMine", b"".join(told))

    def test_not_tls(self):
        """A server that speaks plain HTTP on that port is not talked to in plain HTTP."""
        port, told = self.serve()
        done = self.push(f"https://127.0.0.1:{port}")
        self.assertNotEqual(done.returncode, 0)
        self.assertNotIn(b"KeyOfMine", b"".join(told))
        self.assertNotIn(b"HTTP/1.1", b"".join(told))

    def test_answers(self):
        """Whatever an answer is, only one that has the object's own headers is believed."""
        page = b"<html><body>Log in to the network</body></html>"
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(page)
        answers = {
            "a login page": head + b"Content-Type: text/html\r\n\r\n" + page,
            "elsewhere": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "giant": b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 9223372036854775807\r\n\r\nSQLite",
            "negative": b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: -1\r\n\r\n",
            "endless": b"HTTP/1.1 200 OK\r\n" + b"X-Y: zzzzzzzz\r\n" * 40000 + b"\r\n",
            "no HTTP": b"\x00\xff\x1b[2JSSH-2.0-x\r\n\r\n",
            "much metadata": head + b'ETag: "x"\r\n' + b"".join(
                b"x-amz-meta-k%d: %s\r\n" % (k, b"v" * 900) for k in range(20)) + b"\r\n" + page,
        }
        for what, answer in answers.items():
            with self.subTest(what):
                port, told = self.serve(answer=answer)
                done = self.push(f"http://127.0.0.1:{port}")
                self.assertNotIn("pushed", done.stdout)
                self.assertEqual(done.returncode, 1, done.stderr[-300:])
                self.assertIn("r2vfs: ", done.stderr)
                self.assertNotIn("\x1b", done.stderr)
                self.assertTrue(told)


if __name__ == "__main__":
    support.main()
