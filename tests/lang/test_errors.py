#!/usr/bin/env python3
"""Errors as a stranger meets them: each situation for real, through the sqlite3 shell and Python. One
sentence says what happened, with which remote, and the cure, where that user looks: in the driver's
exception, on stderr, in sqlite3_log. README's table of symptoms is made of these."""

import email.utils
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402

CLEAN = {name: None for name in [*os.environ, *support.NAMES]
         if re.match("R2_|AWS_|R2VFS_(?!SO$|BUILD$|PRELOAD$|CI$)|https?_proxy", name, re.I)}
SECRET = "hunter22-hunter22-hunter22"

# A program as a stranger writes it: opens, works, closes; what it prints is what its user sees.
PROGRAM = """
import os, sqlite3, sys
def work(target, *statements):
    try:
        if os.environ.get("LOADS", "1") == "1":
            loader = sqlite3.connect(":memory:")
            if os.environ.get("ENABLES", "1") == "1":
                loader.enable_load_extension(True)
            loader.execute("SELECT load_extension(?)", [os.environ["EXTENSION"]])
    except sqlite3.Error as error:
        print(f"{type(error).__name__}: {error}")
        return
    try:
        db = sqlite3.connect(target, uri=True, isolation_level=None)
    except sqlite3.Error as error:
        print(f"{type(error).__name__}: {error}")
        if os.environ.get("LOADS", "1") == "1":
            print("last error:", *loader.execute("SELECT r2_last_error()").fetchone())
        return
    for sql in statements:
        try:
            for row in db.execute(sql):
                print(*row)
        except sqlite3.Error as error:
            print(f"{type(error).__name__}: {error}")
            print("last error:", *next(iter(db.execute("PRAGMA r2_last_error")), ("none",)))
    db.close()
    print("closed")
work(*sys.argv[1:])
"""
WRITE = ("CREATE TABLE IF NOT EXISTS t(x)", "INSERT INTO t VALUES('kept')")
SYNC = "SELECT sync()"
OPEN_FAILS = "OperationalError: unable to open database file\nlast error: cannot open "


class Stranger(support.Case):
    def setUp(self):
        super().setUp()
        self.secrets = {SECRET, self.emulator.env["R2_SECRET_ACCESS_KEY"]}
        os.chmod(self.folder, 0o755)            # for the user nobody

    def uri(self, name="app.db", remote=..., **params):
        return support.uri(self.path(name), self.remote if remote is ... else remote, **params)

    def environ(self, env):
        return support.child_env({**CLEAN, **self.emulator.env, "EXTENSION": support.SO,
                                  **(env or {})})

    def no_credential(self, said):
        for secret in self.secrets:
            self.assertNotIn(secret, said)
        for word in ("Signature=", "Credential=", "Authorization", "X-Amz-Signature"):
            self.assertNotIn(word, said)

    def python(self, target, *statements, env=None, prefix=(), **popen):
        """(stdout, stderr) of the program."""
        done = subprocess.run([*prefix, support.PYTHON, "-c", PROGRAM, target, *statements],
                              env=self.environ(env), stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=support.DEADLINE, **popen)
        self.no_credential(done.stdout + done.stderr)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout, done.stderr

    def shell(self, target, *lines, env=None):
        """(stdout, stderr) of the sqlite3 shell; sqlite3_log goes to stdout, and long sentences, which
        it would cut, come in pieces."""
        done = support.shell([".log stdout", f'.open "{target}"', *lines],
                             env={**CLEAN, **self.emulator.env, **(env or {})}, check=False)
        self.no_credential(done.stdout + done.stderr)
        return re.sub(r"\n\(\d+\) r2vfs: \.\.\. ", " ", done.stdout), done.stderr

    def has(self, text, words):
        for word in words:
            if isinstance(word, re.Pattern):
                self.assertRegex(text, word)
            else:
                self.assertIn(word, text)

    def cannot_open(self, *words, target=None, env=None, prefix=(), shell=True, remote=True,
                    local=None, **popen):
        """Python's exception has only SQLite's words: stderr has the sentence, r2_last_error() on any
        connection, and in the shell sqlite3_log. It is one line, and nothing local comes of it."""
        target = target or self.uri()
        words = (*words, *([self.remote] if remote else []))
        path = local or self.path()
        out, err = self.python(target, env=env, prefix=prefix, **popen)
        self.has(err, words)
        self.assertRegex(err, r"\Ar2vfs: at open: cannot open [^\n]+\n\Z")
        self.assertEqual(out, OPEN_FAILS + err[len("r2vfs: at open: cannot open "):])
        self.assertFalse(os.path.exists(path))
        if shell:
            out, err = self.shell(target, "SELECT count(*) FROM sqlite_master;", env=env)
            self.has(err, (*words, "unable to open database"))
            self.has(out, (*words, "r2vfs: cannot open"))       # sqlite3_log
            self.assertFalse(os.path.exists(path))

    def cannot_sync(self, *words, target=None, env=None, remote=None, **more):
        """The driver's exception has the sentence; PRAGMA r2_last_error has it; the push at close
        fails as well, and stderr says so. What was committed stays in the local file."""
        words = (*words, remote or self.remote)
        out, err = self.python(target or self.uri(), *WRITE, SYNC, env=env, **more)
        said, last = re.fullmatch(r"\w+Error: (.+)\nlast error: (.+)\nclosed\n", out).groups()
        self.has(said, words)
        self.assertEqual(last, said)
        self.assertIn("r2vfs: at close: ", err)
        self.has(err, words)
        return said

    def seed(self, key=None, rows=1):
        """An object in the bucket, made elsewhere."""
        db = self.connect("elsewhere/app.db", self.remote_of(key) if key else None)
        db.execute("CREATE TABLE t(x)")
        db.executemany("INSERT INTO t VALUES(?)", [(os.urandom(1000),)] * rows)
        db.close()


class Credentials(Stranger):
    def test_wrong_access_key(self):
        self.cannot_open("does not know this access key (401)", "check R2_ACCESS_KEY_ID",
                         env={"R2_ACCESS_KEY_ID": "0123456789abcdef"})

    def test_wrong_secret(self):
        self.cannot_open("denied it (403)", "check R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY",
                         "clock", env={"R2_SECRET_ACCESS_KEY": SECRET})

    def test_missing(self):
        gone = {"R2_ACCESS_KEY_ID": None, "R2_SECRET_ACCESS_KEY": None}
        self.cannot_open("needs credentials: set R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY", env=gone)
        self.cannot_open("R2_SECRET_ACCESS_KEY is not set, though R2_ACCESS_KEY_ID is; set both",
                         env={"R2_SECRET_ACCESS_KEY": None})
        self.cannot_open("R2_SECRET_ACCESS_KEY holds a character", "a line break", remote=False,
                         env={"R2_SECRET_ACCESS_KEY": SECRET + "\n"})

    def test_in_the_uri(self):
        self.cannot_open("secret_access_key looks like a credential", "in the environment",
                         remote=False, target=self.uri(secret_access_key=SECRET),
                         shell=False)           # the shell's own message repeats the URI
        self.cannot_open("credentials are never part of a remote", "in the environment",
                         remote=False, target=self.uri(remote=f"s3://key:{SECRET}@bucket/app.db"),
                         shell=False)

    def test_no_permission_to_write(self):
        """A token that may only read: reading works, and sync() says what is missing."""
        self.seed()
        proxy = self.proxy()
        proxy.status(403, method="PUT", count=None)
        target = self.uri(endpoint=proxy.endpoint)
        out, err = self.python(target, "SELECT count(*) FROM t")
        self.assertEqual((out, err), ("1\nclosed\n", ""))
        self.cannot_sync("version 2", "403 AccessDenied", "no permission",
                         "give it Object Read & Write for this bucket", target=target)
        out, err = self.shell(target, "INSERT INTO t VALUES('kept, too');", "SELECT sync();")
        self.has(err, ["Object Read & Write", self.remote])
        self.has(out, ["r2vfs: cannot push version 2"])                 # sqlite3_log
        proxy.clear_rules()
        out, err = self.python(target, "SELECT count(*) FROM t", SYNC)  # nothing was lost
        self.assertEqual((out, err), ("3\n2\nclosed\n", ""))


class Network(Stranger):
    def setUp(self):
        super().setUp()
        self.short = {"R2VFS_TIMEOUT": "700"}

    def cannot_reach(self, *words, endpoint, **more):
        env = {**self.short, **more.pop("env", {}), "R2_ENDPOINT": endpoint}
        self.cannot_open(*words, "no local copy of", env=env, **more)

    def or_no_time(self, why):
        """The last attempt may have run out of time before it came to its reason."""
        return re.compile(re.escape(why) + r"|nothing came within \d+ ms")

    def test_wrong_bucket(self):
        """A HEAD cannot tell it from a database that is not there yet; in the log layout the listing
        that follows can, else the first push."""
        remote = "s3://no-such-bucket/app.db"
        if support.LAYOUT == "log":
            return self.cannot_open("no such bucket", "create it, or correct the remote", "R2_ACCOUNT_ID",
                                    target=self.uri(remote=remote), remote=False)
        self.cannot_sync("no such bucket", "create it, or correct the remote", "R2_ACCOUNT_ID",
                         target=self.uri(remote=remote), remote=remote)

    def test_wrong_host(self):
        self.cannot_reach(self.or_no_time("Could not resolve host: nowhere.invalid"),
                          "check the network and the endpoint", endpoint="https://nowhere.invalid")

    def test_account_is_no_account(self):
        self.cannot_open("R2_ACCOUNT_ID", "an account id has letters and digits only", remote=False,
                         env={"R2_ENDPOINT": None, "R2_ACCOUNT_ID": "my account"})

    def test_no_endpoint(self):
        self.cannot_open("needs an endpoint: set R2_ACCOUNT_ID", env={"R2_ENDPOINT": None})

    def tls_server(self, sni=None):
        """Its port; a certificate that nobody trusts; sni: may refuse the name."""
        openssl = support.need("openssl", shutil.which("openssl"))
        key, cert = self.path("key.pem"), self.path("cert.pem")
        subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key,
                        "-out", cert, "-days", "1", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost"], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.sni_callback = sni
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(line, server_side=True).close()
                except OSError:
                    line.close()
        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(listener.close)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)
        return listener.getsockname()[1]

    def test_certificate_not_trusted(self):
        self.cannot_open("TLS certificate is not trusted", "CA certificates", "CURL_CA_BUNDLE",
                         env={"R2_ENDPOINT": f"https://localhost:{self.tls_server()}"})

    def test_wrong_account(self):
        """R2 has a certificate for each account: another name is refused in the handshake."""
        port = self.tls_server(lambda *_: ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE)
        self.cannot_reach("no connection", self.or_no_time("handshake failure"),
                          "check the network and the endpoint",
                          endpoint=f"https://localhost:{port}")

    def test_refused(self):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))       # and does not listen
            port = nobody.getsockname()[1]
            self.cannot_reach(f"Failed to connect to 127.0.0.1 port {port}",
                              "check the network and the endpoint",
                              endpoint=f"http://127.0.0.1:{port}")

    def test_black_hole(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            self.cannot_reach("no answer (nothing came within", "check the network",
                              endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")

    def test_offline_with_a_local_copy(self):
        """The cure is named, and it works."""
        self.python(self.uri(), *WRITE, SYNC)
        env = {**self.short, "R2_ENDPOINT": "https://nowhere.invalid"}
        out, err = self.python(self.uri(), env=env)
        self.assertTrue(out.startswith(OPEN_FAILS), out)
        self.has(err, [self.remote, "open with offline=allow (or set R2VFS_OFFLINE=allow)"])
        out, err = self.python(self.uri(), "SELECT x FROM t", env={**env, "R2VFS_OFFLINE": "allow"})
        self.assertEqual((out, err), ("kept\nclosed\n", ""))
        out, err = self.python(self.uri(), SYNC, WRITE[1], SYNC, env={**env, "R2VFS_OFFLINE": "allow"})
        self.has(out, ["1\n", "OperationalError: ", "no connection", self.remote])
        self.assertIn("r2vfs: at close: ", err)

    def test_captive_portal(self):
        proxy = self.proxy()
        rule = proxy.html(count=None)
        words = ["does something between here and the endpoint answer in its place?",
                 "Log in to the network, or correct the endpoint"]
        self.cannot_open("(200, text/html)", *words, target=self.uri(endpoint=proxy.endpoint))
        rule.count = 0
        proxy.status(302, {"Location": "http://login.example/"}, b"", count=None)
        self.cannot_open("redirect (302)", "log in to the network",
                         target=self.uri(endpoint=proxy.endpoint))

    def test_proxy_is_gone(self):
        self.cannot_open("Failed to connect to 127.0.0.1 port 9", "check the network",
                         env={**self.short, "R2_ENDPOINT": "https://host.example",
                              "https_proxy": "http://127.0.0.1:9"})


class Clock(Stranger):
    def setUp(self):
        super().setUp()
        self.faketime = support.need("faketime", shutil.which("faketime"))

    def test_corrected(self):
        """The server's Date tells how far off the clock is: it simply works."""
        proxy = self.proxy()
        proxy.set_header("Date", email.utils.formatdate(usegmt=True), count=None)
        for n, off in enumerate(("-1h", "+1h"), 1):
            with self.subTest(off):
                proxy.clear()
                out, err = self.python(self.uri(f"{n}/app.db", endpoint=proxy.endpoint), *WRITE,
                                       SYNC, prefix=[self.faketime, "-f", off])
                self.assertEqual((out, err), (f"{n}\nclosed\n", ""))
                refused = [request for request in proxy.requests if request.status == 403]
                self.assertEqual(len(refused), 1)       # one request, then it knows
                self.assertEqual(self.bucket.head(self.key).meta["db-version"], str(n))

    def test_not_told(self):
        """Nothing says the time: then the clock is among the suspects."""
        for off in ("-1h", "+1h"):
            with self.subTest(off):
                self.cannot_open("denied it (403)", "that this machine's clock is right",
                                 prefix=[self.faketime, "-f", off], shell=False)

    def test_told_and_wrong(self):
        """The answer names the reason, and its Date does not help."""
        proxy = self.proxy()
        body = b"<Error><Code>RequestTimeTooSkewed</Code><Message>x</Message></Error>"
        self.seed()
        proxy.status(403, {"Content-Type": "application/xml"}, body, method="PUT", count=None)
        self.cannot_sync("clock is more than 15 minutes wrong", "RequestTimeTooSkewed", "set it",
                         target=self.uri(endpoint=proxy.endpoint))


class Disk(Stranger):
    def nobody(self):
        """To run as a user whom permissions stop; the extension where that one can read it."""
        self.assertTrue(os.access(support.SO, os.R_OK))
        copy = self.path("r2vfs" + support.SUFFIX)
        if not os.path.exists(copy):
            shutil.copy(support.SO, copy)
            os.chmod(copy, 0o755)
        setpriv = support.need("setpriv", os.geteuid() != 0 or shutil.which("setpriv"))
        prefix = [] if setpriv is True else [setpriv, "--reuid=65534", "--regid=65534",
                                             "--clear-groups"]
        return {"env": {"EXTENSION": copy}, "prefix": prefix, "cwd": "/"}

    def test_read_only_folder(self):
        os.mkdir(self.path("folder"), 0o555)
        path = self.path("folder/app.db")
        words = ["Permission denied", "give this user the right to read and write there", path]
        self.cannot_open(*words, target=self.uri("folder/app.db"), remote=False, shell=False,
                         local=path, **self.nobody())
        # the same with a database in it
        os.chmod(self.path("folder"), 0o755)
        self.python(self.uri("folder/app.db"), *WRITE)
        os.chmod(self.path("folder"), 0o555)
        for params in ({}, {"mode": "ro"}):
            out, err = self.python(self.uri("folder/app.db", **params), **self.nobody())
            self.assertTrue(out.startswith(OPEN_FAILS), out)
            self.has(err, words)

    def test_folder_that_cannot_be_made(self):
        os.mkdir(self.path("folder"), 0o555)
        target = "file:" + self.path("folder") + f"/deeper/app.db?vfs=r2vfs&remote={self.remote}"
        self.cannot_open("create folder", "folder/deeper: Permission denied",
                         "give this user the right", target=target, remote=False, shell=False,
                         **self.nobody())

    def test_read_only_file(self):
        """It opens, as in plain SQLite, and writing says what plain SQLite says."""
        os.mkdir(self.path("folder"))
        self.python(self.uri("folder/app.db"), *WRITE)
        os.chmod(self.path("folder"), 0o777)
        os.chmod(self.path("folder/app.db"), 0o444)
        os.chmod(self.path("folder/app.db-r2"), 0o666)
        out, err = self.python(self.uri("folder/app.db"), "SELECT x FROM t", WRITE[1],
                               **self.nobody())
        self.has(out, ["kept\n", "OperationalError: attempt to write a readonly database"])
        self.assertEqual(err, "")

    def test_not_there_and_not_to_be_made(self):
        for mode in ("ro", "rw"):
            with self.subTest(mode):
                self.cannot_open("no such database, neither here nor at",
                                 "open it without mode=ro or mode=rw to create it",
                                 target=self.uri(mode=mode))

    def test_read_only_mode_takes_it_from_the_remote(self):
        self.seed()
        out, err = self.python(self.uri(mode="ro"), "SELECT count(*) FROM t", WRITE[1])
        self.has(out, ["1\n", "OperationalError: attempt to write a readonly database"])
        self.assertEqual(err, "")

    def small_disk(self, size):
        """A folder with that many KiB."""
        folder = self.path("disk")
        os.makedirs(folder, exist_ok=True)
        if os.geteuid() != 0:
            self.skipTest("mounting a small disk needs root")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder],
                              capture_output=True)
        if done.returncode:
            self.skipTest("mounting is not allowed here")
        self.addCleanup(subprocess.run, ["umount", folder], check=True)
        return self.uri("disk/app.db")

    def test_full_at_the_state_file(self):
        target = self.small_disk(8)
        self.cannot_open("state file", "app.db-r2", "No space left on device", "make room on that disk",
                         target=target, remote=False, local=self.path("disk/app.db"))

    def test_full_at_pull(self):
        self.seed(rows=1000)
        self.cannot_open("cannot pull", "No space left on device", "make room on that disk",
                         target=self.small_disk(400), local=self.path("disk/app.db"))

    def test_full_at_write(self):
        """SQLite's own words, and the transaction is rolled back."""
        target = self.small_disk(400)
        out, _ = self.python(target, *WRITE, "INSERT INTO t VALUES(randomblob(900000))",
                             "SELECT count(*) FROM t")
        self.has(out, ["OperationalError: database or disk is full", "\n1\n"])

    def test_full_at_push(self):
        """A push stages a copy beside the database."""
        target = self.small_disk(1400)
        out, err = self.python(target, "CREATE TABLE t(x)",
                               "INSERT INTO t VALUES(randomblob(900000))", SYNC)
        self.has(out, ["OperationalError: ", self.path("disk/app.db"), "No space left on device",
                       "make room on that disk"])
        self.has(err, ["r2vfs: at close: ", "make room on that disk"])
        shutil.copy(self.path("disk/app.db"), self.path("saved.db"))      # it is all there
        self.assertEqual(support.integrity(self.path("saved.db")), "ok")

    def test_file_size_limit(self):
        """ulimit -f, as some hosts set it: an error, and no signal that ends the program."""
        self.seed(rows=1000)
        self.cannot_open("File too large", "ulimit -f", target=self.uri(), shell=False,
                         prefix=["sh", "-c", "ulimit -f 200; trap '' XFSZ; exec \"$@\"", "sh"])


class Loading(Stranger):
    def test_not_enabled(self):
        out, _ = self.python(self.uri(), env={"ENABLES": "0"})
        self.assertEqual(out, "OperationalError: not authorized\n")

    def test_not_found(self):
        out, _ = self.python(self.uri(), env={"EXTENSION": self.path("r2vfs")})
        self.has(out, ["OperationalError: ", "cannot open shared object file: No such file"])

    def test_not_loaded(self):
        out, _ = self.python(self.uri(), env={"LOADS": "0"})
        self.assertEqual(out, "OperationalError: no such vfs: r2vfs\n")
        out, _ = self.python(self.path("plain.db"), SYNC, env={"LOADS": "0"})
        self.has(out, ["OperationalError: no such function: sync"])

    def test_old_sqlite(self):
        cc = support.need("cc", shutil.which("cc"))
        host = self.path("oldsqlite" + support.SUFFIX)
        here = os.path.dirname(os.path.abspath(__file__))
        subprocess.run([cc, "-std=c11", "-shared", "-fPIC", "-o", host,
                        os.path.join(here, "old_sqlite.c"), "-ldl"], check=True)
        for what, words in (
                ("3.36.0", "this program runs SQLite 3.36.0, and 3.37.0 or newer is needed; upgrade "
                           "it, or use a program or driver that brings a newer one"),
                ("no virtual tables", "was built without virtual tables or WAL; use one that has "
                                      "them")):
            out, err = self.python(self.uri(), env={"EXTENSION": host, "OLD_SQLITE": what,
                                                    "R2VFS_SO": support.SO})
            self.assertTrue(out.startswith("OperationalError: "), out)
            self.has(out, [words])
            self.assertEqual(len(out.splitlines()), 1)


class Names(Stranger):
    """What is wrong in the URI or the environment."""

    def wrong(self, *words, target=None, env=None):
        self.cannot_open(*words, target=target, env=env, remote=False)
        self.assertEqual(os.listdir(self.folder), [])

    def test_http_address(self):
        self.wrong("is an http address", "s3://BUCKET/KEY", "R2_ENDPOINT",
                   target=self.uri(remote="https://abc.r2.cloudflarestorage.com/bucket/app.db"))

    def test_missing_key(self):
        self.wrong('"s3://bucket"', "the key after the bucket or folder is missing",
                   target=self.uri(remote="s3://bucket"))
        self.wrong("name the object itself", target=self.uri(remote="s3://bucket/folder/"))

    def test_wrong_values(self):
        self.wrong('sync has the value "cloze"', "it must be close, commit, manual", target=self.uri(sync="cloze"))
        self.wrong("R2VFS_TIMEOUT", '"5s"', "milliseconds", env={"R2VFS_TIMEOUT": "5s"})

    def test_misspelt_parameters(self):
        """A parameter that nobody asks for would silently do nothing."""
        for slip, name in (("remot", "remote"), ("reomte", "remote"), ("Remote", "remote"),
                           ("REMOTE", "remote"), ("remotes", "remote")):
            self.wrong(f"the URI parameter {slip} is not known; did you mean {name}?",
                       target=self.uri(remote=None, **{slip: self.remote}))
        for slip, name in (("snyc", "sync"), ("synnc", "sync"), ("ofline", "offline"),
                           ("time_out", None), ("refrsh", "refresh"), ("confilct", "conflict")):
            if name:
                self.wrong(f"the URI parameter {slip} is not known; did you mean {name}?",
                           target=self.uri(**{slip: "manual"}))
        # SQLite's own, and what is nobody's, are let through
        out, err = self.python(self.uri(psow=0, cache="private", mode="rwc", immutable=0, color="red",
                                        remote=None))
        self.assertEqual((out, err), ("closed\n", ""))

    def test_outside_the_root(self):
        """A file outside R2VFS_ROOT is left alone; sync() says so."""
        env = {"R2VFS_REMOTE": f"s3://{self.bucket.name}/{self.prefix}", "R2VFS_ROOT": "/srv/data"}
        out, err = self.python(self.uri(remote=None), *WRITE, SYNC, env=env)
        self.has(out, ["has no remote", "a file outside R2VFS_ROOT is left alone"])
        self.assertEqual((err, self.bucket.list(self.prefix)), ("", []))

    def test_no_remote(self):
        out, _ = self.python(self.uri(remote=None), SYNC)
        self.has(out, ["OperationalError: sync: schema 'main' has no remote: open it with", "R2VFS_REMOTE"])
        out, _ = self.python(self.uri(remote=None, vfs=None), SYNC)
        self.has(out, ["has no remote: open it with"])

    def test_somebody_elses_object(self):
        for body in (b"PK\3\4 a zip file" * 100, b"<html>hello</html>", b"hello"):
            self.bucket.put(self.key, body)
            self.cannot_open("it is not a SQLite database (it begins with", "Name another object if "
                             "this one is not yours", "nothing local was changed")
            self.assertEqual(self.bucket.get(self.key).body, body)

    def test_inside_a_transaction(self):
        out, _ = self.python(self.uri(), *WRITE, "BEGIN", SYNC, "ROLLBACK")
        self.has(out, ["sync cannot run inside a transaction", "COMMIT, or finish reading, first"])

    def test_conflict(self):
        """Busy, in the language's own words for it, with the cure."""
        self.python(self.uri("a/app.db"), *WRITE)
        self.python(self.uri("b/app.db"), "SELECT 1")
        self.python(self.uri("a/app.db"), WRITE[1])
        target = self.uri("b/app.db", sync="manual", conflict="error", offline="allow",
                          endpoint="http://127.0.0.1:9", timeout=300)
        self.python(target, WRITE[1])
        out, _ = self.python(self.uri("b/app.db", conflict="error"), "SELECT * FROM t")
        self.has(out, ["OperationalError: ", "last error: conflict", "version 1", "version 2",
                       self.remote, "r2_resolve('fork')"])


if __name__ == "__main__":
    support.main()
