"""many.py - memory, threads and sockets of 1,000 databases open at once, against plain SQLite.

    /usr/bin/python3 tests/bench/many.py path/to/r2vfs.so
"""
import os
import sqlite3
import sys
import tempfile

COUNT = 1000


def status(name):
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1])
    raise KeyError(name)


def descriptors():
    names = os.listdir("/proc/self/fd")
    sockets = 0
    for fd in names:
        try:
            sockets += os.readlink("/proc/self/fd/" + fd).startswith("socket:")
        except OSError:
            pass
    return len(names), sockets


def measure(label, uri_of):
    before = status("VmRSS")
    fds = descriptors()[0]
    open_ = []
    for n in range(COUNT):
        c = sqlite3.connect(uri_of(n), uri=True, isolation_level=None)
        c.execute("SELECT count(*) FROM t").fetchone()
        open_.append(c)
    now, sockets = descriptors()
    print(f"{label:8} {COUNT} open: {(status('VmRSS') - before) / COUNT:.1f} KiB each, "
          f"{(now - fds) / COUNT:.2f} descriptors each, {sockets} sockets, "
          f"{status('Threads')} threads")
    for c in open_:
        c.close()


def main():
    so = sys.argv[1]
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(so)
    with tempfile.TemporaryDirectory() as folder:
        def plain(n):
            return f"file:{folder}/{n}.db"

        def ours(n):
            return f"file:{folder}/{n}.db?vfs=r2vfs&remote=file://{folder}/bucket/{n}.db"
        for n in range(COUNT):
            c = sqlite3.connect(plain(n), uri=True)
            c.execute("CREATE TABLE t(x)")
            c.commit()
            c.close()
        for n in range(COUNT):
            c = sqlite3.connect(ours(n), uri=True)
            c.execute("SELECT count(*) FROM t").fetchone()
            c.close()
        for label, uri in (("plain", plain), ("r2vfs", ours)):
            sys.stdout.flush()
            child = os.fork()  # each in a fresh process: freed memory would be used again
            if child == 0:
                measure(label, uri)
                sys.stdout.flush()
                os._exit(0)
            os.waitpid(child, 0)


main()
