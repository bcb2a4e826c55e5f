"""acks.py - was everything kept that sync() acknowledged, and every fork reported? For the modes in which a
COMMIT is local and sync() is the promise. Pure.

Recorded events of each client (JSON lines, in its order):

    {"e": "try", "row": id}                     a row is about to be committed
    {"e": "row", "row": id, "t": ns}            ... and COMMIT returned
    {"e": "sync", "from": ns, "t": ns, "version": n}
    {"e": "told", "from": ns, "t": ns, "forks": [key]}      an action said where it kept a loser
    {"e": "conflict", "t": ns, "why": sentence}

`from` is when the action began. A row that sync() acknowledged belongs in the remote for ever; or, if
a conflict on this replica had been settled before that sync() returned, in the fork that was named
then: to this client, or to its neighbour on the same file."""

import collections
import json

Result = collections.namedtuple("Result", "wrong counts")


def parse(lines):
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            if line.endswith("\n"):
                raise
    return found


def check(clients, replica_of, remote, forks, newest):
    """clients: {client: [event]}; replica_of: {client: replica}; remote: the rows of the newest version,
    which is `newest`; forks: {key: rows}."""
    wrong, counts = [], collections.Counter()
    later = {"of an earlier fork": set(), "of a neighbour's fork": set()}
    remote = set(remote)
    told = collections.defaultdict(list)        # key -> [(from, client)]
    for client, events in clients.items():
        for event in events:
            for key in event.get("forks", ()):
                told[key].append((event["from"], client))
                if key not in forks:
                    wrong.append(f"client {client} was told of a fork that does not exist: {key}")
    tried = {event["row"] for events in clients.values() for event in events if event["e"] == "try"}
    for name, rows in [("the remote", remote), *forks.items()]:
        if set(rows) - tried:
            wrong.append(f"{name} holds rows that nobody wrote: {sorted(set(rows) - tried)[:5]}")
    for client, events in clients.items():
        one_client(client, events, replica_of, (remote, forks, newest, told, later), wrong, counts)
    reported = set().union(remote, *(rows for key, rows in forks.items() if key in told))
    for key, rows in forks.items():             # the one that died before it could say so left nothing
        counts["forks"] += 1
        counts["forks not reported"] += key not in told
        if key not in told and set(rows) - reported:
            wrong.append(f"nobody was told of {key}, and {len(set(rows) - reported)} of its rows are "
                         f"nowhere else: {sorted(set(rows) - reported)[:5]}")
    counts.update({name: len(rows) for name, rows in later.items()})
    return Result(wrong, counts)


def one_client(client, events, replica_of, world, wrong, counts):
    remote, forks, newest, told, later = world
    everywhere = remote.union(*forks.values())
    mine = []
    for event in events:
        if event["e"] == "row":
            counts["rows"] += 1
            mine.append(event["row"])
            if event["row"] not in everywhere:
                wrong.append(f"row {event['row']} of client {client} was committed and is nowhere")
            elif event["row"] not in remote:
                counts["rows only in forks"] += 1
        elif event["e"] == "conflict":
            counts["conflicts"] += 1
        elif event["e"] == "sync":
            counts["syncs"] += 1
            if event["version"] > newest:
                wrong.append(f"sync() of client {client} gave version {event['version']}, and the newest "
                             f"is {newest}")
            for row in mine:
                if row not in remote:
                    promised(client, row, event, replica_of, world, wrong)


def promised(client, row, event, replica_of, world, wrong):
    """The row was committed before this sync(), which was acknowledged, and is not in the remote."""
    _, forks, _, told, later = world
    before = [teller for key, rows in forks.items() if row in rows
              for at, teller in told[key]
              if at < event["t"] and replica_of[teller] == replica_of[client]]
    if not before:
        wrong.append(f"LOST: row {row} of client {client} was acknowledged by sync() as part of version "
                     f"{event['version']}, is not in the remote, and no conflict had been reported")
    else:
        later["of an earlier fork" if client in before else "of a neighbour's fork"].add(row)
