"""The story with the installed Python package: r2vfs.connect(), a stock sqlite3.Connection."""

import os
import sqlite3
import sys

PATH, REMOTE = os.environ["PACKAGE_PATH"], os.environ.get("PACKAGE_REMOTE")


def open_remote():
    # r2vfs: begin uri
    import r2vfs
    db = r2vfs.connect(PATH, REMOTE)
    # r2vfs: end
    return db


def open_by_environment():
    # r2vfs: begin default
    import r2vfs
    db = r2vfs.connect(PATH)
    # r2vfs: end
    return db


def say(*words):
    print(*words, flush=True)


def one(sql):
    return db.execute(sql).fetchone()[0]


def rows():
    for number, who in db.execute("SELECT id, who FROM story ORDER BY id"):
        say("row", number, who)


def insert():
    with db:
        db.execute("INSERT INTO story(who) VALUES(?)", (os.environ["STORY_WHO"],))


def write():
    db.execute("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)")
    insert()
    say("version", one("SELECT sync()"))
    say("status", *db.execute("SELECT version, remote_version, dirty_pages, pushes FROM r2_status"
                              ).fetchone())


def read():
    rows()
    say("sqlite", one("SELECT sqlite_version()"))
    say("client r2vfs", r2vfs.__version__, "for Python", ".".join(map(str, sys.version_info[:3])))


def conflict():
    insert()
    say("ready")
    sys.stdin.readline()
    try:
        say("other", one("SELECT sync()"))
    except sqlite3.OperationalError as error:
        say("busy" if r2vfs.is_conflict(error) else "other", error.sqlite_errorcode, error)
    say("version", one("SELECT r2_resolve('fork')"))
    rows()


db = open_remote() if os.environ["STORY_WAY"] == "uri" else open_by_environment()
import r2vfs  # noqa: E402
assert type(db) is sqlite3.Connection
{"write": write, "read": read, "conflict": conflict}[sys.argv[1]]()
db.close()
say("closed")
