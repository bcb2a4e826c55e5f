#!/usr/bin/env python3
"""faultproxy.py - an HTTP/1.1 proxy in front of the R2 emulator that fails on purpose.

In a test:

    with FaultProxy(emulator.endpoint) as proxy:
        lost = proxy.lose(method="PUT", key=r"\\.ltx$", nth=2)      # lands, no answer
        late = proxy.late(method="PUT", key=r"\\.ltx$")             # cut now, lands at release()
        connect(path, remote, endpoint=proxy.endpoint)
        ...
        late.wait_hit()
        status = late.release()
        proxy.requests[-1].status

From a shell (the endpoint is printed; --rule may be repeated):

    faultproxy.py --upstream URL [--port N] [--latency-ms N] [--log FILE]
                  [--rule 'status 503 method=PUT key=app\\.db$ nth=2 count=3']

A rule: which requests (method, a regex for the key, a regex for the query, header=regex for one
of the "name: value" lines), from the nth match on, `count` of them (None: all that follow), and one
action. Rules are asked in the order of their making, and the first that fires is the only one that
counts the request; so two rules for one PUT each serve the first and the second PUT.

Nothing is decided by the clock: what waits, waits for release() or the proxy's end.

The client's bytes go on as they came, Host included: signatures cover it, and the emulator verifies
against the Host header that it gets. Bodies are streamed.
"""

import argparse
import http.client
import http.server
import json
import re
import shlex
import socket
import socketserver
import struct
import sys
import threading
import time
import urllib.parse

CHUNK = 64 * 1024
HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
       "upgrade", "expect"}
HTML = b"<!DOCTYPE html><html><body><h1>Please log in to the hotel's network</h1></body></html>\n"


class Request:
    """One request as the client saw it."""

    def __init__(self, method, path, query, bucket, key, headers):
        self.at = time.time()
        self.method = method
        self.path = path                # as sent, without the query
        self.query = query              # as sent
        self.bucket = bucket
        self.key = key                  # decoded; "" for the bucket itself
        self.headers = headers          # [(name, value)]
        self.status = None              # what the client got; None: no answer (yet)
        self.upstream_status = None     # what the upstream said; None: it was not asked
        self.request_bytes = 0          # body
        self.response_bytes = 0         # body
        self.ms = None                  # None: still under way
        self.fault = None               # the action of the rule that fired

    def header(self, name):
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    def as_dict(self):
        names = ("at", "method", "path", "query", "status", "upstream_status", "request_bytes",
                 "response_bytes", "ms", "fault")
        return {name: getattr(self, name) for name in names}

    def __repr__(self):
        return (f"<{self.method} {self.path}{'?' if self.query else ''}{self.query} "
                f"{self.status}{' ' + self.fault if self.fault else ''}>")


class Rule:
    """What to do with which requests, and what became of it."""

    def __init__(self, action, method=None, key=None, query=None, header=None, nth=1, count=1,
                 **args):
        self.action = action
        self.method = method
        self.key = re.compile(key) if key is not None else None
        self.query = re.compile(query) if query is not None else None
        self.header = re.compile(header, re.I) if header is not None else None
        self.nth, self.count, self.args = nth, count, args
        self.seen = 0                   # requests that matched
        self.hits = 0                   # ... and were acted upon
        self.results = []               # late: the upstream's status (None: no answer) of each
        self._changed = threading.Condition()
        self._open = threading.Event()

    def fires(self, request):
        if self.method is not None and request.method != self.method:
            return False
        if self.key is not None and not self.key.search(request.key):
            return False
        if self.query is not None and not self.query.search(request.query):
            return False
        if self.header is not None and not any(
                self.header.search(f"{n}: {v}") for n, v in request.headers):
            return False
        self.seen += 1
        return self.seen >= self.nth and (self.count is None or self.seen < self.nth + self.count)

    def hit(self):
        with self._changed:
            self.hits += 1
            self._changed.notify_all()

    def wait_hit(self, hits=1, timeout=60):
        """Until that many requests were acted upon. late and hold: they are waiting by then."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.hits >= hits, timeout):
                raise TimeoutError(f"{self.action}: {self.hits} of {hits} requests came")

    def release(self, timeout=60):
        """Let go what hold or late keep. late: returns the upstream's status, once it is known."""
        self._open.set()
        if self.action != "late":
            return None
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.results) >= self.hits, timeout):
                raise TimeoutError("the upstream did not answer a late request")
            return self.results[-1] if self.results else None

    def add_result(self, status):
        with self._changed:
            self.results.append(status)
            self._changed.notify_all()


class Cut(Exception):
    """Reset the client's connection without an answer."""


class Ended(Exception):
    """Close the client's connection after what was sent."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1                       # header and a short body leave in one packet

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.proxy = self.server.proxy
        self.upstream = None

    def leave(self):
        if self.upstream:
            self.upstream.close()
            self.upstream = None

    def finish(self):
        try:
            super().finish()
        except OSError:
            pass                        # the client went away first

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass

    def __getattr__(self, name):
        if name.startswith("do_"):      # every method is served
            return self.serve
        raise AttributeError(name)

    def handle_expect_100(self):
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    # One request.
    def serve(self):
        request = self.proxy.new_request(self.command, self.requestline.split(" ")[1],
                                         list(self.headers.items()))
        start = time.monotonic()
        try:
            if self.headers.get("Transfer-Encoding"):
                raise Cut("a chunked request: R2 does not take those")
            self.left = int(self.headers.get("Content-Length") or 0)
            rule = self.proxy.rule_for(request)
            request.fault = rule.action if rule else None
            if self.proxy.latency_ms:
                time.sleep(self.proxy.latency_ms / 1000)
            getattr(self, "act_" + rule.action if rule else "forward")(request, rule)
            self.wfile.flush()
        except Ended:
            self.close_connection = True
        except (Cut, OSError, http.client.HTTPException):
            self.cut()
        finally:
            self.leave()
            request.ms = (time.monotonic() - start) * 1000
            self.proxy.finished(request)

    def cut(self):
        self.close_connection = True
        try:
            # Detached, because close() would wait for rfile and wfile.
            self.proxy.connections.discard(self.connection)
            with socket.socket(fileno=self.connection.detach()) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                      struct.pack("ii", 1, 0))
        except OSError:
            pass

    def body(self, request):
        """The request's body, piece by piece."""
        while self.left > 0:
            piece = self.rfile.read1(min(CHUNK, self.left))
            if not piece:
                raise Cut("the client went away in its body")
            self.left -= len(piece)
            request.request_bytes += len(piece)
            yield piece

    def drain(self, request):
        for _ in self.body(request):
            pass

    def ask(self, request, pieces):
        """Forward; returns the upstream's answer with its body unread. Over a connection of its own: one
        that is kept may be closed under us (the emulator does it after 5 idle seconds), and what a test
        counts would then have one request more."""
        up = self.upstream = http.client.HTTPConnection(*self.proxy.upstream, timeout=600)
        up.connect()
        up.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up.putrequest(request.method, self.requestline.split(" ")[1], skip_host=True,
                      skip_accept_encoding=True)
        for name, value in request.headers:
            if name.lower() not in HOP:
                up.putheader(name, value)
        up.endheaders()
        for piece in pieces:
            up.send(piece)
        answer = up.getresponse()
        request.upstream_status = answer.status
        return answer

    def send_head(self, request, status, headers):
        request.status = status
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def send_piece(self, request, piece):
        self.proxy.take_turn(len(piece))
        self.wfile.write(piece)
        request.response_bytes += len(piece)

    def forward(self, request, _rule=None, headers=None, at=None, change=None):
        """Forward and answer. headers: [(name, value)] -> the same; at: call change(piece, i) on
        the piece that holds byte `at` of the answer's body, which is byte i of the piece."""
        answer = self.ask(request, self.body(request))
        sent = [(n, v) for n, v in answer.getheaders() if n.lower() not in HOP]
        length = answer.getheader("Content-Length")
        bodyless = (request.method == "HEAD" or answer.status in (204, 304)
                    or answer.status < 200)
        chunked = length is None and not bodyless
        if chunked:
            sent.append(("Transfer-Encoding", "chunked"))
        self.send_head(request, answer.status, headers(sent) if headers else sent)
        while True:
            piece = answer.read(CHUNK)
            if not piece:
                break
            before = request.response_bytes
            if at is not None and before <= at < before + len(piece):
                piece = change(piece, at - before)
            if chunked:
                self.wfile.write(b"%x\r\n" % len(piece))
            self.send_piece(request, piece)
            if chunked:
                self.wfile.write(b"\r\n")
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    # The actions.
    def act_status(self, request, rule):
        rule.hit()
        self.drain(request)
        body = rule.args["body"]
        headers = dict(rule.args["headers"])
        if not any(n.lower() == "content-length" for n in headers):
            headers["Content-Length"] = str(len(body))
        self.send_head(request, rule.args["status"], headers.items())
        if request.method != "HEAD":
            self.send_piece(request, body)

    def act_delay(self, request, rule):
        rule.hit()
        time.sleep(rule.args["ms"] / 1000)
        self.forward(request)

    def act_hold(self, request, rule):
        pieces = list(self.body(request))
        rule.hit()
        self.proxy.wait(rule)
        self.body = lambda _request: iter(pieces)
        try:
            self.forward(request)
        finally:
            del self.body

    def act_hold_answer(self, request, rule):
        answer = self.ask(request, self.body(request))
        body = answer.read()
        rule.hit()
        self.proxy.wait(rule)
        sent = [(n, v) for n, v in answer.getheaders() if n.lower() not in HOP]
        if answer.getheader("Content-Length") is None and answer.status not in (204, 304):
            sent.append(("Content-Length", str(len(body))))
        self.send_head(request, answer.status, sent)
        self.send_piece(request, body)

    def act_cut(self, request, rule):
        if rule.args["after_body"]:
            self.drain(request)
        rule.hit()
        raise Cut

    def act_lose(self, request, rule):
        self.ask(request, self.body(request)).read()
        rule.hit()
        raise Cut

    def act_late(self, request, rule):
        pieces = list(self.body(request))
        self.cut()
        rule.hit()
        status = None
        try:
            self.proxy.wait(rule)
            answer = self.ask(request, pieces)
            answer.read()
            status = answer.status
        finally:
            rule.add_result(status)

    def act_truncate(self, request, rule):
        def change(piece, i):
            self.send_piece(request, piece[:i])
            rule.hit()
            raise Ended
        self.forward(request, at=rule.args["at"], change=change)

    def act_flip(self, request, rule):
        def change(piece, i):
            rule.hit()
            return piece[:i] + bytes([piece[i] ^ rule.args["mask"]]) + piece[i + 1:]
        self.forward(request, at=rule.args["at"], change=change)

    def act_set_header(self, request, rule):
        name, value = rule.args["name"], rule.args["value"]

        def headers(sent):
            kept = [(n, v) for n, v in sent if n.lower() != name.lower()]
            return kept if value is None else kept + [(name, value)]
        rule.hit()
        self.forward(request, headers=headers)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def server_bind(self):              # HTTPServer's asks the resolver for a name
        socketserver.TCPServer.server_bind(self)

    def get_request(self):
        connection, address = super().get_request()
        self.proxy.connections.add(connection)
        return connection, address

    def shutdown_request(self, request):
        self.proxy.connections.discard(request)
        try:
            request.close()
        except OSError:
            pass

    def handle_error(self, request, client_address):
        if not self.proxy.stopping:
            super().handle_error(request, client_address)


class FaultProxy:
    def __init__(self, upstream, port=0, latency_ms=0, log=None):
        parts = urllib.parse.urlsplit(upstream)
        if parts.scheme != "http":
            raise ValueError("the upstream must be an http:// address")
        self.upstream = (parts.hostname, parts.port or 80)
        self.prefix = parts.path.rstrip("/")
        self.latency_ms = latency_ms    # before every request; may be changed at any time
        self.rate = None                # bytes/s of all answers together; None: as they come
        self._free_at = 0               # when the line is free again
        self.requests = []              # every Request since the start or clear()
        self.connections = set()
        self.stopping = False
        self._rules = []
        self._lock = threading.Condition()
        self._log = open(log, "a", buffering=1) if log else None
        self._server = Server(("127.0.0.1", port), Handler)
        self._server.proxy = self
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}{self.prefix}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,),
                                        daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End at once; what is still held is never forwarded."""
        self.stopping = True
        for rule in self._rules:
            rule._open.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.settle()
        if self._log:
            self._log.close()

    # What happened.
    def select(self, method=None, key=None, query=None):
        with self._lock:
            return [r for r in self.requests
                    if (method is None or r.method == method)
                    and (key is None or re.search(key, r.key))
                    and (query is None or re.search(query, r.query))]

    def count(self, method=None, key=None, query=None):
        return len(self.select(method, key, query))

    def clear(self):
        with self._lock:
            self.requests.clear()

    def settle(self, timeout=60):
        """Until no request is under way (those that are held are)."""
        with self._lock:
            if not self._lock.wait_for(lambda: all(r.ms is not None for r in self.requests),
                                       timeout):
                raise TimeoutError("requests are still under way: " + repr(self.requests))

    # Rules.
    def rule(self, action, **match_and_args):
        rule = Rule(action, **match_and_args)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear_rules(self):
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule._open.set()

    def status(self, status, headers=(), body=None, **match):
        """Answer this without forwarding."""
        if body is None:
            code = {429: "TooManyRequests", 503: "ServiceUnavailable", 408: "RequestTimeout",
                    403: "AccessDenied", 412: "PreconditionFailed"}.get(status, "InternalError")
            body = (f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
                    f"<Message>made by the fault proxy</Message></Error>").encode()
            headers = {"Content-Type": "application/xml", **dict(headers)}
        return self.rule("status", status=status, headers=dict(headers), body=body, **match)

    def html(self, **match):
        """A captive portal: 200, and a page of HTML, without forwarding."""
        return self.status(200, {"Content-Type": "text/html"}, HTML, **match)

    def delay(self, ms, **match):
        return self.rule("delay", ms=ms, **match)

    def hold(self, **match):
        """Read the request, forward it at release(), answer as usual."""
        return self.rule("hold", **match)

    def hold_answer(self, **match):
        """Forward at once, answer at release()."""
        return self.rule("hold_answer", **match)

    def cut(self, after_body=True, **match):
        """Close the connection, forward nothing."""
        return self.rule("cut", after_body=after_body, **match)

    def lose(self, **match):
        """Forward, then close the connection: it happened, the client does not know."""
        return self.rule("lose", **match)

    def late(self, **match):
        """Close the connection, and forward only at release(): it happens afterwards."""
        return self.rule("late", **match)

    def truncate(self, at, **match):
        """The answer's body ends before its byte `at`, then the connection."""
        return self.rule("truncate", at=at, **match)

    def flip(self, at, mask=1, **match):
        """Byte `at` of the answer's body is xored with `mask`."""
        return self.rule("flip", at=at, mask=mask, **match)

    def set_header(self, name, value, **match):
        """The answer's header `name` is this (None: not there)."""
        return self.rule("set_header", name=name, value=value, **match)

    def etag(self, value, **match):
        return self.set_header("ETag", value, **match)

    def drop_header(self, name, **match):
        return self.set_header(name, None, **match)

    # For the handler.
    def new_request(self, method, target, headers):
        path, _, query = target.partition("?")
        inner = path[len(self.prefix):] if path.startswith(self.prefix) else path
        bucket, _, key = inner.lstrip("/").partition("/")
        request = Request(method, path, query, bucket, urllib.parse.unquote(key), headers)
        with self._lock:
            self.requests.append(request)
        return request

    def rule_for(self, request):
        with self._lock:
            return next((rule for rule in self._rules if rule.fires(request)), None)

    def wait(self, rule):
        rule._open.wait()
        if self.stopping:
            raise Cut

    def take_turn(self, size):
        """Wait until so many bytes of an answer have gone over the one line that all share."""
        if not self.rate:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self.rate
            until = self._free_at
        time.sleep(max(0, until - time.monotonic()))

    def finished(self, request):
        with self._lock:
            if self._log and not self._log.closed:
                self._log.write(json.dumps(request.as_dict()) + "\n")
            self._lock.notify_all()


def parse_rule(proxy, text):
    """`ACTION [VALUE] [name=value...]`, e.g. `status 503 method=PUT nth=2 count=all`."""
    action, *words = shlex.split(text)
    args, match = [], {}
    for word in words:
        name, eq, value = word.partition("=")
        if eq and name in ("method", "key", "query", "header"):
            match[name] = value
        elif eq and name in ("nth", "count"):
            match[name] = None if value == "all" else int(value)
        else:
            args.append(int(word) if word.isdigit() else word)
    actions = ("status", "html", "delay", "cut", "lose", "truncate", "flip", "set_header", "etag",
               "drop_header")
    if action not in actions:
        raise SystemExit(f"faultproxy: no action {action!r}; there are: {', '.join(actions)}")
    getattr(proxy, action)(*args, **match)


def main():
    parser = argparse.ArgumentParser(description="a fault proxy in front of the R2 emulator")
    parser.add_argument("--upstream", required=True, help="the emulator's R2_ENDPOINT")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0, help="before every request")
    parser.add_argument("--log", help="one JSON line per request is appended here")
    parser.add_argument("--rule", action="append", default=[])
    args = parser.parse_args()
    with FaultProxy(args.upstream, args.port, args.latency_ms, args.log) as proxy:
        for rule in args.rule:
            parse_rule(proxy, rule)
        print(proxy.endpoint, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
