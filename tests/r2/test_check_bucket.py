#!/usr/bin/env python3
"""scripts/check-bucket: yes where a promise holds, and no, on just that line, where it is broken."""
# One layout: there is no database.

import email.utils
import os
import re
import signal
import subprocess
import sys
import time
import types
import unittest
import unittest.mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support  # noqa: E402
import faultproxy  # noqa: E402

SCRIPT = os.path.join(support.ROOT, "scripts", "check-bucket")
EMULATOR = {"multipart with a condition"}       # what it does not keep itself; not needed
OURS = re.compile("R2_|AWS_|R2VFS_TIMEOUT|https?_proxy", re.I)


class Liar(faultproxy.Handler):
    """Answers with what the rule's function makes up: lie(request, body) -> (status, headers, body)."""

    def act_lie(self, request, rule):
        body = b"".join(self.body(request))
        rule.hit()
        status, headers, content = rule.args["lie"](request, body)
        self.send_head(request, status, [*headers, ("Content-Length", str(len(content)))])
        if request.method != "HEAD":
            self.send_piece(request, content)


class CheckBucket(support.Case):
    @classmethod
    def setUpClass(cls):
        if support.PRELOAD:
            raise unittest.SkipTest("nothing of r2vfs runs here: no work for a sanitizer")

    def setUp(self):
        super().setUp()
        self.through = self.proxy()
        self.through._server.RequestHandlerClass = Liar

    def environ(self, env=None):
        clean = {name: value for name, value in os.environ.items() if not OURS.match(name)}
        merged = {**clean, **self.emulator.env, "R2_ENDPOINT": self.through.endpoint,
                  "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def start(self, *words, env=None, prefix=()):
        # whoever runs the tests in the background ignores SIGINT
        prefix = ["env", "--default-signal=INT", *prefix]
        return subprocess.Popen([*prefix, support.PYTHON, SCRIPT, *words], env=self.environ(env),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def finish(self, child, env=None):
        """(exit status, lines by name, all that was said)"""
        out, err = child.communicate(timeout=support.DEADLINE)
        for name, value in self.environ(env).items():
            if re.search("KEY|TOKEN", name):
                self.assertNotIn(value, out + err, name)
        self.assertNotIn("Signature=", out + err)
        self.assertNotIn("Traceback", err)
        lines = {name: word for word, name in re.findall(r"^(yes|no) +(.+?)(?:  .*)?$", out, re.M)}
        return child.returncode, lines, out + err

    def run_check(self, *words, env=None, prefix=()):
        words = words or (f"s3://{self.bucket.name}/{self.prefix}",)
        return self.finish(self.start(*words, env=env, prefix=prefix), env)

    def broken(self, *names, status=1, words=(), left=False, env=None):
        """Just these lines say no; nothing is left in the bucket."""
        ended, lines, said = self.run_check(env=env)
        self.through.clear_rules()
        self.assertEqual({name for name, word in lines.items() if word == "no"} - EMULATOR,
                         set(names) - EMULATOR, said)
        self.assertEqual(ended, status, said)
        for word in words:
            self.assertIn(word, said)
        if not left:
            self.assertEqual(self.bucket.list(self.prefix), [])
            self.assertEqual(lines["cleaned up"], "yes")
        return said

    def lie(self, lie, **match):
        self.through.rule("lie", lie=lie, count=None, **match)

    def unconditional(self, request, body):
        return 200, [("ETag", self.bucket.put(request.key, body))], b""


class Signing(unittest.TestCase):
    """Its signatures are botocore's, also with a session token and odd keys."""

    def test_botocore(self):
        import botocore.auth
        import botocore.awsrequest
        import botocore.credentials
        script = types.ModuleType("check_bucket")
        with open(SCRIPT) as file:
            exec(compile(file.read(), SCRIPT, "exec"), script.__dict__)
        for token in (None, "a/token+="):
            with unittest.mock.patch.dict(os.environ, {
                    "R2_ENDPOINT": "https://host.example:8443/some/prefix",
                    "R2_ACCESS_KEY_ID": "AKID", "R2_SECRET_ACCESS_KEY": "hunter22",
                    "R2_SESSION_TOKEN": token or ""}):
                bucket = script.Bucket("bucket")
            for key, query in (("plain", {}), ("a/b c+~(1)\u00e9", {"prefix": "x/y z", "uploads": ""})):
                with self.subTest(key=key, token=token):
                    path = bucket.path(key)
                    ours = bucket.signed("PUT", path, bucket.query(query), {"if-match": '"e"'}, b"x")
                    theirs = botocore.awsrequest.AWSRequest(
                        "PUT", bucket.origin + path + "?" + bucket.query(query), {"if-match": '"e"'},
                        b"x")
                    theirs.context["payload_signing_enabled"] = True
                    auth = botocore.auth.S3SigV4Auth(
                        botocore.credentials.Credentials("AKID", "hunter22", token), "s3", "auto")
                    theirs.context["timestamp"] = ours["x-amz-date"]
                    theirs.headers["X-Amz-Date"] = ours["x-amz-date"]
                    theirs.headers["X-Amz-Content-SHA256"] = ours["x-amz-content-sha256"]
                    if token:
                        theirs.headers["X-Amz-Security-Token"] = token
                    string = auth.string_to_sign(theirs, auth.canonical_request(theirs))
                    self.assertIn("Signature=" + auth.signature(string, theirs),
                                  ours["authorization"])


class Kept(CheckBucket):
    def test_the_emulator(self):
        said = self.broken(*EMULATOR, status=0, words=["everything that r2vfs needs holds"])
        self.assertRegex(said, r"latency +median [0-9.]+ ms")
        self.assertRegex(said, r"metadata +(19|2\d)\d\d bytes")
        # all below a name of its own, and nothing else was touched
        keys = {request.key for request in self.through.requests if request.method == "PUT"}
        self.assertTrue(all(re.match(re.escape(self.prefix) + "/r2vfs-check-[0-9a-f]{16}/", key)
                            for key in keys), keys)

    def test_neighbours_stay(self):
        self.bucket.put(self.key, b"the user's")
        ended, _, said = self.run_check()
        self.assertEqual(ended, 0, said)
        self.assertEqual(self.bucket.list(self.prefix), [self.key])
        self.assertEqual(self.bucket.get(self.key).body, b"the user's")

    def test_the_other_names(self):
        env = {name: None for name in support.NAMES}
        env.update(AWS_ENDPOINT_URL_S3=self.through.endpoint + "/",
                   AWS_ACCESS_KEY_ID=self.emulator.env["R2_ACCESS_KEY_ID"],
                   AWS_SECRET_ACCESS_KEY=self.emulator.env["R2_SECRET_ACCESS_KEY"])
        self.broken(status=0, env=env)

    def test_busy(self):
        """R2's limit of one write per second to a key is no broken promise."""
        self.through.status(429, method="PUT", key="create$")
        self.through.status(503, method="GET", key="ranges", count=2)
        self.through.status(429, method="PUT", key="creators-0-0", count=None)
        said = self.broken(status=0)
        self.assertIn("exactly one won", said)

    def test_a_directory(self):
        folder = self.path("remote/x")[:-2]
        ended, lines, said = self.run_check("file://" + folder)
        self.assertEqual((ended, set(lines.values()), os.listdir(folder)), (0, {"yes"}, []), said)
        ended, lines, said = self.run_check("file:///proc/nowhere")
        self.assertEqual((ended, lines), (1, {"writable": "no"}), said)


class Broken(CheckBucket):
    def test_if_none_match(self):
        self.lie(self.unconditional, method="PUT", header="^if-none-match:")
        self.broken("create only if absent", "racing creators", words=["16 of 16 won"])
        self.lie(self.unconditional, method="PUT", key="creators")
        self.broken("racing creators")
        self.through.status(412, method="PUT", header="^if-none-match:", count=None)
        self.broken("create only if absent", "racing creators", words=["0 of 16 won"])

    def test_if_match(self):
        self.lie(self.unconditional, method="PUT", header="^if-match:")
        self.broken("replace only if unchanged", "racing replacers", words=["16 of 16 won"])
        self.lie(self.unconditional, method="PUT", key="replacers", header="^if-match:")
        self.broken("racing replacers")

    def test_one_wins_but_another_stays(self):
        """The answers are as they should be, and the object is somebody else's."""
        won = set()

        def lie(request, body):
            first = request.key not in won
            won.add(request.key)
            tag = self.bucket.put(request.key, b"nobody")
            return (200, [("ETag", tag)], b"") if first else (412, [], b"")
        self.lie(lie, method="PUT", key="creators")
        self.broken("racing creators", words=["something else"])

    def test_stale_reads(self):
        for method in ("GET", "HEAD"):
            with self.subTest(method):
                seen = {}

                def stale(request, _body):
                    if request.key not in seen:
                        try:
                            found = self.bucket.get(request.key)
                            seen[request.key] = 200, [("ETag", found.etag)], found.body
                        except support.Missing:
                            seen[request.key] = 404, [], b""
                    return seen[request.key]
                self.lie(stale, method=method, key="/read/")
                self.broken("read after write", words=["right after a PUT"])

    def test_stale_list(self):
        answers = []

        def stale(request, _body):
            answers.append(request.query)
            return 200, [], b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
        self.lie(stale, method="GET", key="^$", query="%2Fread%2F")
        self.broken("read after write", words=["LIST"])
        self.assertTrue(answers)

    def test_metadata(self):
        self.through.drop_header("x-amz-meta-db-recent", count=None)
        self.broken("metadata", words=["db-recent not at all"])
        self.through.set_header("x-amz-meta-db-checksum", "00", method="GET", count=None)
        self.broken("metadata", words=["db-checksum changed"])

    def test_ranges(self):
        def whole(request, _body):
            found = self.bucket.get(request.key)
            return 200, [("ETag", found.etag)], found.body

        def shifted(request, _body):
            found = self.bucket.get(request.key)
            return 206, [("ETag", found.etag), ("Content-Range", "bytes 0-15/100000")], found.body[1:17]
        for lie in (whole, shifted):
            with self.subTest(lie.__name__):
                self.lie(lie, method="GET", header="^range:")
                self.broken("ranges")
        self.through.flip(3, method="GET", header="^range: bytes=40000-49999")
        self.broken("ranges", words=["other bytes"])

    def test_clock(self):
        for minutes, word in ((20, "no"), (-20, "no"), (6, "yes"), (0, "yes")):
            with self.subTest(minutes):
                date = email.utils.formatdate(time.time() + 60 * minutes, usegmt=True)
                self.through.set_header("Date", date, count=None)
                if word == "no":
                    self.broken("clock", words=["set it: beyond 15 minutes"])
                else:
                    said = self.broken(status=0)
                    self.assertEqual("set it soon" in said, minutes == 6, said)

    def test_own_clock(self):
        """This machine's clock is off: found out from the server's Date, and told."""
        faketime = ["faketime", "-f", "-1h"]
        ended, lines, said = self.run_check(prefix=faketime)
        self.assertEqual((ended, lines), (1, {"reachable, authorised": "no"}), said)
        self.assertIn("clock is more than 15 minutes wrong", said)
        self.through.set_header("Date", email.utils.formatdate(usegmt=True), count=None)
        ended, lines, said = self.run_check(prefix=faketime)
        self.assertEqual([name for name, word in lines.items() if word == "no"],
                         ["clock", *EMULATOR], said)
        self.assertRegex(said, r"clock is 3[56]\d\d s behind")

    def test_presigned(self):
        self.through.status(403, query="X-Amz-Signature", count=None)
        self.broken("presigned download")
        self.lie(lambda *_: (200, [], b"for whoever has the link"), query="X-Amz-Signature")
        self.broken("presigned download", words=["forged"])

    def test_etags(self):
        self.through.etag('"same"', method="PUT", key="/tag-", count=None)
        self.broken("ETags tell contents apart")
        self.through.etag('"other"', method="PUT", key="/md5", count=None)
        self.broken("ETag is the MD5", status=0, words=["not needed"])

    def test_large_objects(self):
        """Not needed for small databases: told, and no failure. No upload is left behind."""
        self.through.status(501, query="^uploads", count=None)
        self.broken("multipart upload", "copy of a range", status=0)
        self.through.clear()
        self.through.status(500, query="partNumber=2", count=None)
        self.broken("multipart upload", "copy of a range", status=0)
        ended = self.through.select("POST", query="uploadId") + \
            self.through.select("DELETE", query="uploadId")
        self.assertEqual(len(self.through.select("POST", query="^uploads")), 3)
        self.assertEqual([request.status for request in ended], [200, 204, 204])

    def test_delete(self):
        self.lie(lambda *_: (204, [], b""), method="DELETE", key="/delete/")
        said = self.broken("delete", "cleaned up", left=True)
        self.assertIn("by hand", said)
        left = self.bucket.list(self.prefix)
        self.assertEqual(len(left), 1)
        self.bucket.delete(left[0])

    def test_read_only_token(self):
        self.through.status(403, method="PUT", count=None)
        ended, lines, said = self.run_check()
        self.assertEqual((ended, lines["put"]), (1, "no"), said)
        self.assertIn("403 AccessDenied", said)
        self.assertIn("could not be tried", said)


class Ends(CheckBucket):
    def unusable(self, words, *args, env=None):
        ended, lines, said = self.run_check(*args, env=env)
        self.assertEqual((ended, lines), (2, {}), said)
        for word in words:
            self.assertIn(word, said)
        self.assertEqual(len(said.splitlines()), 1)

    def test_usage(self):
        for args in (("s3://",), ("s3://B",), ("bucket",), ("s3://bucket", "more"), ("-x",)):
            self.unusable(["s3://BUCKET"], *args)
        ended, _, said = self.run_check("--help")
        self.assertEqual(ended, 0)
        self.assertIn("Exit status", said)

    def test_environment(self):
        for name, words in (("R2_ENDPOINT", "no endpoint"),
                            ("R2_SECRET_ACCESS_KEY", "R2_SECRET_ACCESS_KEY is not set"),
                            ("R2_ACCESS_KEY_ID", "R2_ACCESS_KEY_ID is not set")):
            self.unusable([words], env={name: None})
        self.unusable(["no credentials"], env={"R2_SECRET_ACCESS_KEY": None,
                                               "R2_ACCESS_KEY_ID": None})
        self.unusable(["a line break"], env={"R2_SECRET_ACCESS_KEY": "hunter22\n"})
        self.unusable(["R2_ENDPOINT must be"], env={"R2_ENDPOINT": "https://user:hunter22@host"})
        self.unusable(["R2_JURISDICTION"], env={"R2_ENDPOINT": None, "R2_ACCOUNT_ID": "0a",
                                                "R2_JURISDICTION": "moon"})

    def cannot(self, words, *args, env=None):
        ended, lines, said = self.run_check(*args, env=env)
        self.assertEqual((ended, lines), (1, {"reachable, authorised": "no"}), said)
        for word in words:
            self.assertIn(word, said)

    def test_strangers(self):
        self.cannot(["SignatureDoesNotMatch", "secret"], env={"R2_SECRET_ACCESS_KEY": "hunter22"})
        self.cannot(["access key is not known"], env={"R2_ACCESS_KEY_ID": "hunter22"})
        self.cannot(["no such bucket"], "s3://no-such-bucket")
        self.cannot(["400"], env={"R2_SESSION_TOKEN": "hunter22"})
        self.through.html(count=None)
        self.cannot(["answer in its place"])
        self.through.stop()
        self.cannot(["Connection refused"])

    def test_interrupted(self):
        """Ctrl-C while racers write: they are waited for, and everything goes."""
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                held = self.through.hold(method="PUT", key="creators", count=8)
                child = self.start(f"s3://{self.bucket.name}/{self.prefix}")
                held.wait_hit(8)
                child.send_signal(number)
                held.release()                  # it has to wait for them before it cleans up
                ended, lines, said = self.finish(child)
                self.assertEqual((ended, lines["cleaned up"]), (130, "yes"), said)
                self.through.settle()
                self.assertEqual(self.bucket.list(self.prefix), [])
                self.through.clear_rules()


if __name__ == "__main__":
    support.main()
