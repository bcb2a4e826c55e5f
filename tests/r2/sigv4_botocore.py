#!/usr/bin/python3
"""Differential test: our SigV4 against botocore's, on random requests with odd characters.

usage: sigv4_botocore.py PATH_TO_SIGV4_CLI [COUNT [SEED]]
"""
import datetime
import random
import subprocess
import sys
from urllib.parse import quote

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

WORDS = ["a", "Z", "0", "-", ".", "_", "~", "/", " ", "  ", "+", "%", "%20", "%2F", "é", "日本", "\U0001f600",
         "=", "&", "?", "#", "!", "*", "'", "(", ")", ":", ";", ",", "@", "$", "[", "]", "{", "|", "\\", "\"", "<", "//", "../", "./"]


def text(rng, low, high):
    return "".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def hexed(value):
    return value.encode().hex()


def clock_at(moment):
    """botocore asks the clock in ways that differ between its releases: answer all of them."""
    class Frozen(datetime.datetime):
        @classmethod
        def utcnow(cls):
            return moment.replace(tzinfo=None)

        @classmethod
        def now(cls, tz=None):
            return moment if tz else moment.replace(tzinfo=None)

    class Module:
        datetime = Frozen

        def __getattr__(self, name):
            return getattr(datetime, name)
    botocore.auth.datetime = Module()
    if hasattr(botocore.auth, "get_current_datetime"):
        botocore.auth.get_current_datetime = lambda remove_tzinfo=True: (
            moment.replace(tzinfo=None) if remove_tzinfo else moment)


def header_value(rng):
    return " ".join(rng.choice(["v", "bytes=0-9", "\"etag\"", "x  y", "*", "a,b", "=", "%25"])
                    for _ in range(rng.randint(1, 4)))


def one_request(rng):
    moment = datetime.datetime.fromtimestamp(rng.randint(1, 4_000_000_000), datetime.timezone.utc)
    clock_at(moment)
    host = rng.choice(["h.example", "account.r2.cloudflarestorage.com", "127.0.0.1", "[::1]"])
    port = rng.choice(["", "", ":8787", ":9000"])
    path = "/" + quote(text(rng, 0, 12), safe="/~")
    query = {text(rng, 1, 4): text(rng, 0, 4) for _ in range(rng.randint(0, 5))}
    headers = {}
    for _ in range(rng.randint(0, 5)):
        name = rng.choice(["If-Match", "If-None-Match", "Range", "Content-Type", "x-amz-meta-db-version",
                           "X-Amz-Meta-" + rng.choice(["A", "a-b", "zz", "db-recent"])])
        headers[name.lower() if rng.random() < .5 else name] = header_value(rng)
    headers = {k: v for i, (k, v) in enumerate(headers.items())
               if k.lower() not in [o.lower() for o in list(headers)[:i]]}
    creds = Credentials("AK" + str(rng.random()), text(rng, 10, 40),
                        rng.choice([None, None, "token/+=" + text(rng, 5, 40).replace(" ", "").replace("\\", "")]))
    region = rng.choice(["auto", "us-east-1"])
    method = rng.choice(["GET", "PUT", "HEAD", "POST", "DELETE"])
    life = rng.randint(1, 604800) if rng.random() < .3 else 0
    body = b"" if life else text(rng, 0, 20).encode()
    request = AWSRequest(method, f"https://{host}{port}{path}", headers=dict(headers), data=body, params=dict(query))
    words = [("m", method), ("u", host + port), ("p", path), ("k", creds.access_key), ("s", creds.secret_key),
             ("r", region), ("d", str(int(moment.timestamp())))]
    if creds.token:
        words.append(("t", creds.token))
    line = " ".join(f"{k}={hexed(v)}" for k, v in words)
    line += "".join(f" q={hexed(k)}:{hexed(v)}" for k, v in query.items())
    line += "".join(f" h={hexed(k)}:{hexed(v)}" for k, v in headers.items())
    if life:
        botocore.auth.S3SigV4QueryAuth(creds, "s3", region, expires=life).add_auth(request)
        want = request.url.partition("?")[2]
        return line + f" x={hexed(str(life))} b={hexed('UNSIGNED-PAYLOAD')}", want
    request.context["payload_signing_enabled"] = rng.random() < .7
    botocore.auth.S3SigV4Auth(creds, "s3", region).add_auth(request)
    line += f" b={hexed(request.headers['X-Amz-Content-SHA256'])}"
    return line, request.headers["Authorization"].replace(", ", ",")


def same(want, got):
    if want == got:
        return True
    # a presigned query: botocore appends in another order, and spells some values differently
    if "X-Amz-Signature" not in want:
        return False
    return want.rpartition("=")[2] == got.rpartition("=")[2]


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 32)
    rng = random.Random(seed)
    pairs = [one_request(rng) for _ in range(count)]
    answer = subprocess.run([sys.argv[1]], input="".join(p[0] + "\n" for p in pairs), text=True,
                            capture_output=True, check=True).stdout.splitlines()
    if len(answer) != count:
        sys.exit(f"{len(answer)} answers to {count} requests (seed {seed})")
    wrong = [(p, got) for p, got in zip(pairs, answer) if not same(p[1], got)]
    for (line, want), got in wrong[:5]:
        print("request", line, "\n  botocore", want, "\n  ours    ", got)
    signed = sum("X-Amz-Signature" not in p[1] for p in pairs)
    print(f"{count - len(wrong)} of {count} signatures equal botocore's "
          f"({signed} headers, {count - signed} presigned; seed {seed})")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
