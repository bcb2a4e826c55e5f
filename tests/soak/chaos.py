"""chaos.py - the fault proxy in a process of its own, failing at random: a share of all requests is
lost, cut, answered with 5xx, cut short, or lands late. Prints its endpoint; then, for each line on
stdin: "quiet" stops the faults, "counts" prints what was done so far, as JSON."""

import collections
import json
import os
import random
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "proxy"))
from faultproxy import FaultProxy, Rule  # noqa: E402

# (in a thousand requests, action, arguments, only for)
FAULTS = (
    (15, "lose", {}, None),                     # it happened, the client does not know
    (15, "cut", {"after_body": True}, None),
    (5, "cut", {"after_body": False}, None),
    (15, "status", {"status": 500}, None),
    (10, "status", {"status": 503}, None),
    (5, "status", {"status": 429}, None),
    (10, "late", {}, "PUT"),                    # it happens after the client has given up on it
    (10, "truncate", {"at": 70}, "GET"),
)


class Chaos(FaultProxy):
    def __init__(self, upstream, seed):
        self.random = random.Random(seed)
        self.quiet = False
        self.done = collections.Counter()
        super().__init__(upstream)

    def rule_for(self, request):
        with self._lock:
            self.done["requests"] += 1
            if self.done["requests"] % 1000 == 0:
                self.requests[:] = [r for r in self.requests if r.ms is None]
            if self.quiet:
                return None
            draw = self.random.randrange(1000)
            for share, action, args, only in FAULTS:
                draw -= share
                if draw < 0:
                    break
            else:
                return None
            if only and request.method != only:
                return None
            self.done[f"{action}{args.get('status', '')}"] += 1
        if action == "status":
            args = {**args, "headers": {}, "body": b""}
        rule = Rule(action, **args)
        if action == "late":
            timer = threading.Timer(self.random.uniform(0.2, 3), rule._open.set)
            timer.daemon = True
            timer.start()
        return rule


def main(upstream, seed):
    with Chaos(upstream, seed) as proxy:
        print(proxy.endpoint, flush=True)
        for line in sys.stdin:
            if line.strip() == "quiet":
                proxy.quiet = True
            print(json.dumps(proxy.done), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
