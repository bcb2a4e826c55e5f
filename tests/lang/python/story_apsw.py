"""The story in Python with apsw. It leaves transactions to SQLite, and knows a conflict as
apsw.BusyError. A cursor that was not read to its end is an unfinished statement: sync() refuses
beside it until it is exhausted, closed, or garbage."""

import os
import sys

import apsw


def open_uri(extension, uri):
    # r2vfs: begin uri
    loader = apsw.Connection(":memory:")
    loader.enableloadextension(True)
    loader.loadextension(extension)
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    db = apsw.Connection(uri, flags=flags)
    # r2vfs: end
    return db


def open_path(extension, path):
    # r2vfs: begin default
    loader = apsw.Connection(":memory:")
    loader.enableloadextension(True)
    loader.loadextension(extension, "sqlite3_r2vfsdefault_init")
    # r2vfs: end
    return apsw.Connection(path)


def say(*words):
    print(*words, flush=True)


def one(db, sql):
    return next(db.cursor().execute(sql))[0]


def rows(db):
    for number, who in db.cursor().execute("SELECT id, who FROM story ORDER BY id"):
        say("row", number, who)


def insert(db):
    with db:
        db.cursor().execute("INSERT INTO story(who) VALUES(?)", (os.environ["STORY_WHO"],))


def write(db):
    db.cursor().execute("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)")
    insert(db)
    say("version", one(db, "SELECT sync()"))
    for row in db.cursor().execute(
            "SELECT version, remote_version, dirty_pages, pushes FROM r2_status"):
        say("status", *row)


def read(db):
    rows(db)
    say("sqlite", one(db, "SELECT sqlite_version()"))
    say("client", "apsw", apsw.apswversion())


def conflict(db):
    insert(db)
    say("ready")
    sys.stdin.readline()
    try:
        say("other", one(db, "SELECT sync()"))
    except apsw.BusyError as error:
        say("busy", error.extendedresult, error)
    except apsw.Error as error:
        say("other", error.extendedresult, error)
    say("version", one(db, "SELECT r2_resolve('fork')"))
    rows(db)


def mind(db):
    insert(db)
    cursor = db.cursor().execute("SELECT who FROM story")
    try:
        say("other", one(db, "SELECT sync()"))
    except apsw.Error as error:
        say("refused", error)
    cursor.close()
    say("version", one(db, "SELECT sync()"))


if os.environ["STORY_WAY"] == "uri":
    connection = open_uri(os.environ["R2VFS_SO"], os.environ["STORY_URI"])
else:
    connection = open_path(os.environ["R2VFS_SO"], os.environ["STORY_PATH"])
{"write": write, "read": read, "conflict": conflict, "mind": mind}[sys.argv[1]](connection)
connection.close()
say("closed")
