#!/usr/bin/env python3
"""The fault proxy does what it says, in front of a small upstream that writes down what it gets."""

import http.client
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from faultproxy import FaultProxy  # noqa: E402

BIG = bytes(range(256)) * 4096  # 1 MiB


class Upstream(http.server.ThreadingHTTPServer):
    """Keeps objects; GET of /p/b/chunked answers without a length."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), UpstreamHandler)
        self.objects = {}
        self.seen = []                  # (method, target, host, bytes)
        self.tires = False              # ... of a connection's second request, without a word
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, *_):
        pass                            # connections are cut here all the time

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_address[1]}/p"


class UpstreamHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def serve(self):
        if self.server.tires:
            self.answered = getattr(self, "answered", 0) + 1
            if self.answered > 1:
                self.close_connection = True
                return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, self.headers["Host"], body))
        if self.command == "PUT":
            self.server.objects[self.path] = body
            status, answer = 200, b""
        else:
            found = self.server.objects.get(self.path)
            status, answer = (404, b"none") if found is None else (200, found)
        self.send_response_only(status)
        self.send_header("ETag", '"true"')
        if self.path.endswith("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_PUT = do_HEAD = do_DELETE = serve


class Case(unittest.TestCase):
    def setUp(self):
        self.upstream = Upstream()
        self.addCleanup(self.upstream.server_close)
        self.addCleanup(self.upstream.shutdown)
        self.proxy = FaultProxy(self.upstream.endpoint)
        self.addCleanup(self.proxy.stop)
        self.client = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=60)
        self.addCleanup(self.client.close)

    def ask(self, method, key, body=None, headers=None):
        """(status, headers, body); a broken connection is an exception."""
        try:
            self.client.request(method, "/p/b/" + key, body, headers or {})
            answer = self.client.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except Exception:
            self.client.close()
            raise

    def lost(self, method, key, body=None):
        with self.assertRaises((ConnectionError, http.client.BadStatusLine)):
            self.ask(method, key, body)

    def landed(self, key):
        return self.upstream.objects.get("/p/b/" + key)


class Passing(Case):
    def test_bytes_path_query_and_host_go_through(self):
        target = "a%2Fb%20c//d?x=%2F&y"
        self.assertEqual(self.ask("PUT", target, BIG, {"Host": "signed.example:1"})[0], 200)
        self.assertEqual(self.upstream.seen, [("PUT", "/p/b/" + target, "signed.example:1", BIG)])
        self.assertEqual(self.ask("GET", target)[2], BIG)
        status, headers, body = self.ask("HEAD", target)
        self.assertEqual((status, headers["Content-Length"], body), (200, str(len(BIG)), b""))
        self.assertEqual(self.ask("GET", "none")[0], 404)
        self.assertEqual(self.ask("DELETE", "none")[0], 404)

    def test_an_upstream_that_closes_kept_connections(self):
        """As the emulator does after some idle seconds, and just when the next request comes."""
        self.upstream.tires = True
        for i in range(20):
            self.assertEqual(self.ask("PUT", f"k{i}", b"x")[0], 200)
        self.assertEqual(len(self.upstream.objects), 20)

    def test_no_length(self):
        self.assertEqual(self.ask("GET", "chunked")[2], b"abcde")
        self.assertEqual(self.ask("GET", "none")[2], b"none")

    def test_expect_continue(self):
        with socket.create_connection(("127.0.0.1", self.proxy.port), 60) as client:
            client.sendall(b"PUT /p/b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n"
                           b"Expect: 100-continue\r\n\r\n")
            answers = client.makefile("rb")
            self.assertEqual(answers.readline(), b"HTTP/1.1 100 Continue\r\n")
            self.assertEqual(answers.readline(), b"\r\n")
            client.sendall(b"x")
            self.assertEqual(answers.readline(), b"HTTP/1.1 200 OK\r\n")
            answers.close()
        self.assertEqual(self.landed("k"), b"x")

    def test_record(self):
        self.ask("PUT", "a%2Fb?x=1", b"12345", {"X-Mark": "m"})
        self.ask("GET", "a%2Fb?x=1")
        self.proxy.settle()
        put, get = self.proxy.requests
        self.assertEqual((put.method, put.bucket, put.key, put.query, put.status,
                          put.request_bytes, put.response_bytes, put.header("x-mark")),
                         ("PUT", "b", "a/b", "x=1", 200, 5, 0, "m"))
        self.assertEqual((get.status, get.request_bytes, get.response_bytes), (200, 0, 5))
        self.assertGreaterEqual(get.ms, 0)
        self.assertEqual(self.proxy.count("GET"), 1)
        self.assertEqual(self.proxy.count(key="^a/b$", query="x="), 2)
        self.assertEqual(self.proxy.count(key="^b$"), 0)
        self.proxy.clear()
        self.assertEqual(self.proxy.requests, [])

    def test_parallel(self):
        def work(n):
            client = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=60)
            for i in range(20):
                client.request("PUT", f"/p/b/{n}-{i}", str(n * i))
                client.getresponse().read()
            client.close()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(self.upstream.objects), 160)
        self.assertEqual(self.landed("7-19"), b"133")


class Matching(Case):
    def test_nth_and_count(self):
        rule = self.proxy.status(503, method="PUT", key=r"\.ltx$", nth=2, count=2)
        keys = ["a.db", "1.ltx", "2.ltx", "3.ltx", "4.ltx"]
        self.assertEqual([self.ask("PUT", k, b"x")[0] for k in keys], [200, 200, 503, 503, 200])
        self.assertEqual((rule.seen, rule.hits), (4, 2))
        self.assertEqual(sorted(self.upstream.objects),
                         ["/p/b/1.ltx", "/p/b/4.ltx", "/p/b/a.db"])

    def test_all_query_and_headers(self):
        self.proxy.status(500, query="^uploads", count=None)
        self.proxy.status(501, header="^if-none-match: ", count=None)
        self.assertEqual([self.ask("GET", "k?uploads")[0] for _ in range(3)], [500] * 3)
        self.assertEqual(self.ask("GET", "k", headers={"If-None-Match": "*"})[0], 501)
        self.assertEqual(self.ask("GET", "k")[0], 404)
        self.proxy.clear_rules()
        self.assertEqual(self.ask("GET", "k?uploads")[0], 404)

    def test_rules_queue_up(self):
        self.proxy.status(500)
        self.proxy.status(429)
        self.assertEqual([self.ask("GET", "k")[0] for _ in range(3)], [500, 429, 404])


class Faults(Case):
    def test_status(self):
        self.proxy.status(429, {"Retry-After": "1"}, b"slow", method="PUT")
        status, headers, body = self.ask("PUT", "k", BIG)
        self.assertEqual((status, headers["Retry-After"], body), (429, "1", b"slow"))
        self.assertIsNone(self.landed("k"))
        self.assertEqual(self.ask("PUT", "k", b"x")[0], 200)  # the same connection still works
        self.assertEqual([(r.status, r.upstream_status, r.fault) for r in self.proxy.requests],
                         [(429, None, "status"), (200, 200, None)])

    def test_status_has_an_s3_error(self):
        self.proxy.status(503)
        self.assertIn(b"<Code>ServiceUnavailable</Code>", self.ask("GET", "k")[2])

    def test_html(self):
        self.proxy.html()
        status, headers, body = self.ask("GET", "k")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/html"))
        self.assertIn(b"<html>", body)

    def test_cut(self):
        for after_body in (True, False):
            self.proxy.cut(after_body=after_body, method="PUT")
            self.lost("PUT", "k", b"x")
        self.assertEqual(self.upstream.seen, [])
        self.assertIsNone(self.proxy.requests[0].status)

    def test_lose(self):
        rule = self.proxy.lose(method="PUT")
        self.lost("PUT", "k", b"x")
        self.assertEqual(self.landed("k"), b"x")
        self.assertEqual(rule.hits, 1)
        self.assertEqual((self.proxy.requests[0].status, self.proxy.requests[0].upstream_status),
                         (None, 200))

    def test_late(self):
        rule = self.proxy.late(method="PUT")
        self.lost("PUT", "k", b"old")
        rule.wait_hit()
        self.assertEqual(self.ask("PUT", "k", b"new")[0], 200)
        self.assertEqual(self.landed("k"), b"new")
        self.assertEqual(rule.release(), 200)
        self.assertEqual(self.landed("k"), b"old")

    def test_late_is_dropped_at_the_end(self):
        rule = self.proxy.late(method="PUT")
        self.lost("PUT", "k", b"x")
        rule.wait_hit()
        self.proxy.stop()
        self.assertIsNone(self.landed("k"))

    def held(self, rule, landed_before):
        answer = []
        thread = threading.Thread(target=lambda: answer.append(self.ask("PUT", "k", b"x")))
        thread.start()
        rule.wait_hit()
        self.assertEqual((self.landed("k"), answer), (landed_before, []))
        rule.release()
        thread.join()
        self.assertEqual((self.landed("k"), answer[0][0]), (b"x", 200))

    def test_hold(self):
        self.held(self.proxy.hold(), None)

    def test_hold_answer(self):
        self.held(self.proxy.hold_answer(), b"x")

    def test_truncate(self):
        self.ask("PUT", "k", BIG)
        for at in (0, 5, 700_001):
            self.proxy.truncate(at, method="GET")
            with self.assertRaises(http.client.IncompleteRead) as caught:
                self.ask("GET", "k")
            self.assertEqual(caught.exception.partial, BIG[:at])
        self.assertEqual(self.ask("GET", "k")[2], BIG)

    def test_flip(self):
        self.ask("PUT", "k", BIG)
        for at in (0, 700_001, len(BIG) - 1):
            self.proxy.flip(at, 0x80, method="GET")
            body = self.ask("GET", "k")[2]
            self.assertEqual([i for i in range(len(BIG)) if body[i] != BIG[i]], [at])
            self.assertEqual(body[at], BIG[at] ^ 0x80)

    def test_a_byte_that_is_not_there_is_no_hit(self):
        self.ask("PUT", "k", b"x")
        rule = self.proxy.flip(1, method="GET")
        self.assertEqual(self.ask("GET", "k")[2], b"x")
        self.assertEqual(rule.hits, 0)

    def test_headers(self):
        self.ask("PUT", "k", b"x")
        self.proxy.etag('"other"', method="GET")
        self.proxy.drop_header("etag", method="GET")
        self.assertEqual(self.ask("GET", "k")[1]["ETag"], '"other"')
        self.assertNotIn("ETag", self.ask("GET", "k")[1])
        self.assertEqual(self.ask("GET", "k")[1]["ETag"], '"true"')

    def test_delay_and_latency_still_answer(self):
        self.proxy.latency_ms = 20
        self.proxy.delay(20)
        self.assertEqual(self.ask("PUT", "k", b"x")[0], 200)
        self.proxy.settle()
        self.assertGreaterEqual(self.proxy.requests[0].ms, 40)


class Program(Case):
    def test_log_and_rules(self):
        with tempfile.TemporaryDirectory() as folder:
            log = os.path.join(folder, "log")
            program = subprocess.Popen(
                [sys.executable, os.path.join(os.path.dirname(__file__), "faultproxy.py"),
                 "--upstream", self.upstream.endpoint, "--log", log,
                 "--rule", r"status 418 method=GET key=^k\.x$ nth=2 count=all"],
                stdout=subprocess.PIPE, text=True)
            try:
                port = int(program.stdout.readline().split(":")[2].split("/")[0])
                client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                status = []
                for _ in range(3):
                    client.request("GET", "/p/b/k.x")
                    status.append(client.getresponse())
                    status[-1].read()
                client.request("GET", "/p/b/kkx")
                client.getresponse().read()
                client.close()
            finally:
                program.kill()
                program.wait()
                program.stdout.close()
            self.assertEqual([s.status for s in status], [404, 418, 418])
            with open(log) as lines:
                logged = [json.loads(line) for line in lines]
            # The last line may have been under way when the program was killed.
            self.assertEqual([r["status"] for r in logged][:3], [404, 418, 418])


if __name__ == "__main__":
    unittest.main()
