#!/usr/bin/env python3
"""check - after a script of SQLite's suite: does the remote hold what the local files hold?

    check.py ROOT BUCKET KEPT EXTENSION SYNC

ROOT: the folder the script ran in; BUCKET: the folder that was its remote. KEPT/N: what remote.tcl
put aside of databases that the script deleted or replaced: `file`, `file-r2`, and `bucket` with the
object `file`; KEPT/edited names databases whose bytes, or log, the script edited. Every database
that the remote has is looked at:

1. Snapshot and segments are read by the decoder in ltx.py, which shares nothing with r2vfs. Each
   checksum, each link from version to version, and the database's own checksum after every version
   must be right. That is required of every database, however its script ended.
2. The local file must hold the version that its state names, page by page, if the state calls it
   clean: nothing written since, and the file not touched by anybody else (size, time, no -journal, no
   -wal). That is the newest one, but after a COMMIT that failed locally (sync=commit).
   A file that is not clean (a crash was simulated, its bytes were edited, it has a log) is opened
   once more and closed, which is what brings such a file into the remote, and must be equal then.
   r2vfs may refuse that with a sentence, for example for a file that is damaged or has another
   program's lock: it is counted, and what refused is printed.
3. A fresh replica, pulled through r2vfs, must be equal to what ltx.py rebuilt.

Equal means: but for page 1's local fields, and for the leaves of the free list. Those have no
content: SQLite does not restore them in a rollback, and no commit changes them (loose pages).

Prints what is wrong, "! NAME what", and at the end a line "checked ..." with the counts.
"""

import collections
import contextlib
import hashlib
import mmap
import os
import sqlite3
import struct
import sys
import urllib.parse

import ltx

COUNTED = ("databases", "kept", "versions", "segments", "clean", "brought", "refused", "skipped")
LOCAL_FIELDS = ((18, 20), (24, 32), (40, 44), (92, 96))
LIVE_AT = 24576         # the state file's live page: vfs/state.h
SLOT = 12288
LARGEST = 64 << 20      # ltx.py is slow; SQLite's suite has one database of 5 GB


class Wrong(Exception):
    """The remote, or what it reconstructs, is not right."""


# ---------------------------------------------------------------- the remote, past r2vfs

def read(path):
    with open(path, "rb") as file:
        return file.read()


def mapped(path):
    """The same, not in memory: SQLite's suite has a database of 5 GB."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.path.getsize(path) else b""


def metadata(path):
    """The metadata of an object in a folder that is a remote (vfs/dirmeta.h)."""
    folder, name = os.path.split(path)
    with open(os.path.join(folder, ".r2vfs", name + ".meta"), "rb") as file:
        rest = file.read().split(b"\n", 1)[1]
    md5 = hashlib.md5(read(path)).hexdigest().encode()
    while rest.startswith(b"object "):
        line, rest = rest.split(b"\n", 1)
        words = line.split()
        mine, rest = rest[:int(words[-1])], rest[int(words[-1]):]
        if words[1] == md5:
            return dict(one.split(": ", 1) for one in mine.decode().splitlines())
    raise Wrong(f"no entry of {name}.meta fits the object's bytes")


def page_size_of(data):
    size = int.from_bytes(data[16:18], "big")
    return 65536 if size == 1 else size


class Image:
    """A version: its pages, and each one's checksum."""

    def __init__(self, data):
        self.size = page_size_of(data)
        self.pages = [data[i:i + self.size] for i in range(0, len(data), self.size)]
        self.sums = [ltx.page_checksum(i + 1, page) for i, page in enumerate(self.pages)]

    def apply(self, header, pages):
        if header.page_size != self.size:
            self.size, self.pages, self.sums = header.page_size, [], []
        more = header.commit - len(self.pages)
        if more > 0:
            self.pages += [b""] * more
            self.sums += [0] * more
        del self.pages[header.commit:], self.sums[header.commit:]
        for number, page in pages:
            self.pages[number - 1] = page
            self.sums[number - 1] = ltx.page_checksum(number, page)

    def checksum(self):
        total = 0
        lock = ltx.lock_page(self.size)
        for i, each in enumerate(self.sums):
            if i + 1 != lock:
                total ^= each
        return ltx.FLAG | total

    def free_leaves(self):
        """The free list's pages that have no content."""
        leaves, seen = set(), set()
        trunk = struct.unpack(">I", self.pages[0][32:36])[0] if self.pages else 0
        while 1 < trunk <= len(self.pages) and trunk not in seen:
            seen.add(trunk)
            page = self.pages[trunk - 1]
            follow, count = struct.unpack(">II", page[:8])
            count = min(count, self.size // 4 - 2)
            leaves.update(struct.unpack(f">{count}I", page[8:8 + 4 * count]))
            trunk = follow
        return leaves


def step(image, version, body):
    """From version to version+1 by a segment's bytes."""
    header, pages, _, trailer = ltx.decode(body)
    if not header.min_txid == header.max_txid == version + 1:
        raise Wrong(f"segment {version + 1} says it is {header.min_txid}..{header.max_txid}")
    if header.pre != image.checksum():
        raise Wrong(f"segment {version + 1} follows {header.pre:016x}, version {version} has "
                    f"{image.checksum():016x}")
    image.apply(header, pages)
    if trailer.post != image.checksum():
        raise Wrong(f"segment {version + 1} leads to {trailer.post:016x}, its pages to "
                    f"{image.checksum():016x}")


def rebuild(path, upto=None):
    """(version, Image, segments) of the object at `path` and its log: the newest version, or `upto`. It
    begins at the oldest base, an earlier snapshot, so that every segment there is gets used; and comes
    by the snapshot."""
    meta, image = metadata(path), Image(read(path))
    snapshot, said = int(meta.get("db-version", 1)), meta.get("db-checksum")
    if said is not None and int(said, 16) != image.checksum():
        raise Wrong(f"the snapshot's db-checksum is {said}, its pages have {image.checksum():016x}")
    if meta.get("db-layout") != "log":
        return snapshot, image, 0
    folder = f"{path}-log/{meta['db-lineage'][:8]}"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    log = {int(name[:16], 16) for name in names if name.endswith(".ltx")}
    bases = [int(name[:16], 16) for name in names if name.endswith(".db")]
    version, pages = snapshot, image.pages
    if bases:
        version = min(bases)
        image = Image(read(f"{folder}/{version:016x}.db"))
    wanted = set(range(version + 1, max(log | {version}) + 1))
    if wanted - log or log and not bases and min(log) <= snapshot:
        raise Wrong(f"bases {bases}, snapshot {snapshot}, segments {sorted(log)}: some are missing")
    for number in sorted(wanted):
        if upto == number - 1:
            return upto, image, 0
        step(image, number - 1, read(f"{folder}/{number:016x}.ltx"))
        if number == snapshot and image.pages != pages:
            raise Wrong(f"the snapshot is not what base {version} and the segments lead to")
    return max(wanted | {version}), image, len(wanted)


# ---------------------------------------------------------------- the local file

def pages_of(data, size):
    """How many pages SQLite makes of a file's bytes. It does not always cut a file that shrank: the header says the
    size, unless a very old SQLite wrote last. What a short file lacks of its last page is zeros."""
    pages = int.from_bytes(data[28:32], "big")
    if data[24:28] == data[92:96] and 0 < pages * size < len(data):
        return pages
    return -(-len(data) // size)


def differing(image, data):
    """The pages by which a local file's bytes differ from a version; sizes count. The lock page is nobody's:
    SQLite never uses it, and no segment has it."""
    wrong, count = [], pages_of(data, image.size)
    free = {*image.free_leaves(), ltx.lock_page(image.size)}
    for i in range(max(len(image.pages), count)):
        here = data[i * image.size:(i + 1) * image.size].ljust(image.size, b"\0") if i < count else b""
        there = image.pages[i] if i < len(image.pages) else b""
        if i == 0 and len(here) == len(there):
            here, there = bytearray(here), bytearray(there)
            for first, end in LOCAL_FIELDS:
                here[first:end] = there[first:end] = bytes(end - first)
        if here != there and i + 1 not in free:
            wrong.append(i + 1)
    return wrong


def text_at(record, at):
    size = struct.unpack_from(">I", record, at)[0]
    return at + 4 + size


def calls_clean(path, st):
    """The version that the file beside its state holds, by what the state says; None: it does not say so.
    In WAL mode r2vfs looks at the log, too: a script that damages one has said so (`edited`)."""
    try:
        with open(path + "-r2", "rb") as file:
            state = file.read(LIVE_AT + 16)
    except OSError:
        return None
    slots = [state[at:at + SLOT] for at in (0, SLOT)]
    slots = [slot for slot in slots if slot[:5] == b"r2vfs" and len(slot) == SLOT]
    if not slots or len(state) < LIVE_AT + 16:
        return None
    record = max(slots, key=lambda slot: slot[24:32])       # the higher sequence number
    at = text_at(record, 32) + 4 + 8 + 8 + 8 + 8 + 8 + 4    # url; layout ... area
    base, = struct.unpack_from(">Q", record, at)
    at = text_at(record, at + 8) + 16 + 8 + 4 + 4 + 100     # base: version, etag; lineage ... header
    at = text_at(record, at) + 4                            # recent; local_cookie
    clean_seq, _, _, *seen, _, wal_size = struct.unpack_from(">QQQQqqQ", record, at)
    write_seq, = struct.unpack_from("=Q", state, LIVE_AT)
    clean = write_seq == clean_seq and (*seen, wal_size) == (st.st_size, st.st_mtime_ns, 0)
    return base if clean else None


def has_log(path):
    """A -journal or a -wal that may change what the file says."""
    for suffix in ("-journal", "-wal"):
        with contextlib.suppress(OSError):
            if os.path.getsize(path + suffix):
                return True
    return False


# ---------------------------------------------------------------- r2vfs

def connect(path, remote, **more):
    query = urllib.parse.urlencode({"vfs": "r2vfs", "remote": "file://" + remote, **more},
                                   quote_via=urllib.parse.quote, safe="/:")
    return sqlite3.connect(f"file:{urllib.parse.quote(path)}?{query}", uri=True, timeout=5,
                           isolation_level=None)


def bring(path, remote):
    """Open, sync(), close. Returns the sentence of a refusal, or None."""
    try:
        db = connect(path, remote)
        try:
            db.execute("SELECT sync()").fetchall()
        finally:
            db.close()
    except sqlite3.Error as error:
        return str(error)
    return None


def pulled(path, remote):
    """(version, bytes) that a machine without a file gets."""
    db = connect(path, remote, sync="manual")
    try:
        version = db.execute("SELECT r2_version()").fetchone()[0]
    finally:
        db.close()
    return version, read(path)


# ---------------------------------------------------------------- what is looked at

class Checker:
    def __init__(self, work, edited, sync):
        self.work, self.edited, self.sync = work, edited, sync
        self.counts = collections.Counter()
        self.fresh = 0

    def remote(self, path):
        """What is rebuilt and what is pulled are one."""
        version, image, segments = rebuild(path)
        self.counts.update(versions=segments + 1, segments=segments)
        self.fresh += 1
        to = f"{self.work}/{self.fresh}.db"
        try:
            got, data = pulled(to, path)
        except sqlite3.Error as error:
            raise Wrong(f"a fresh replica cannot be pulled: {error}") from error
        wrong = differing(image, data)
        if got != version or wrong:
            raise Wrong(f"a fresh replica has version {got}, ltx.py rebuilds version {version}; "
                        f"pages that differ: {wrong[:10]}")
        for suffix in ("", "-r2"):
            os.unlink(to + suffix)
        return version, image

    def local(self, path, remote):
        """A file that the script left behind, and its remote."""
        self.counts.update(databases=1)
        if os.path.getsize(remote) > LARGEST:
            self.counts.update(skipped=1)
            return
        version, image = self.remote(remote)
        if not os.path.isfile(path):
            self.counts.update(skipped=1)       # deleted by other means than Tcl
            return
        base = calls_clean(path, os.stat(path))
        if base and not has_log(path) and path not in self.edited:
            self.same(*self.at(base, version, image, remote), path)
            self.counts.update(clean=1)
            return
        refusal = bring(path, remote)
        version, image = self.remote(remote)
        if refusal:
            self.counts.update(refused=1)
            print(f"refused {os.path.basename(path)}: {refusal[:300]}")
        elif has_log(path) or path in self.edited and differing(image, mapped(path)):
            # a super-journal's; bytes changed by hand under an open connection, which nobody notices
            self.counts.update(skipped=1)
        else:
            self.same(version, image, path)
            self.counts.update(brought=1)

    def kept(self, folder):
        """A database that the script deleted or replaced."""
        self.counts.update(kept=1)
        path, remote = f"{folder}/file", f"{folder}/bucket/file"
        version, image = self.remote(remote)
        base = calls_clean(path, os.stat(path))
        if base:
            self.same(*self.at(base, version, image, remote), path)
            self.counts.update(clean=1)
        else:
            self.counts.update(skipped=1)

    def at(self, base, version, image, remote):
        """sync=commit: a COMMIT that the remote took may have failed in the local file after that; the
        file is the version before, and knows no more."""
        if base < version and self.sync == "commit":
            return rebuild(remote, base)[:2]
        return version, image

    @staticmethod
    def same(version, image, path):
        wrong = differing(image, mapped(path))
        if wrong:
            raise Wrong(f"the file is clean, but is not version {version} as ltx.py rebuilds it: "
                        f"{len(wrong)} pages differ: {wrong[:10]}")

    def look(self, name, what, *args):
        try:
            what(*args)
        except (Wrong, ltx.Violation, OSError, ValueError, KeyError, struct.error) as error:
            print(f"! {name} {type(error).__name__}: {error}")


def objects(bucket):
    """Keys of the databases in a bucket."""
    for folder, names, files in os.walk(bucket):
        names[:] = sorted(name for name in names if name != ".r2vfs"
                          and not name.endswith(("-log", "-forks")))
        for name in sorted(files):
            yield os.path.relpath(os.path.join(folder, name), bucket)


def main(root, bucket, kept, extension, sync):
    db = sqlite3.connect(":memory:")
    db.enable_load_extension(True)
    db.load_extension(extension)
    db.close()
    work = os.path.join(kept, "work")
    os.makedirs(work)
    edited = set()
    with contextlib.suppress(OSError), open(os.path.join(kept, "edited")) as file:
        edited.update(file.read().splitlines())
    checker = Checker(work, edited, sync)
    for key in objects(bucket):
        checker.look(key, checker.local, os.path.join(root, key), os.path.join(bucket, key))
    for name in sorted(os.listdir(kept)):
        if name not in ("work", "edited"):
            checker.look(f"kept/{name}", checker.kept, os.path.join(kept, name))
    print("checked", *(f"{name}={checker.counts[name]}" for name in COUNTED))


if __name__ == "__main__":
    main(*sys.argv[1:])
