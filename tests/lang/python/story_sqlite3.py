"""The story in Python with the standard sqlite3 module (3.12 or newer can name the entry point in
load_extension(path, entrypoint=...); the SQL function works in all). A conflict is OperationalError
with sqlite_errorcode 517 (Python 3.11 or newer; before, only the text).

The module begins a transaction by itself before INSERT, UPDATE, DELETE and REPLACE: commit() before
sync(), or connect with isolation_level=None. A cursor that was not read to its end is an unfinished
statement until it is exhausted, closed, or garbage."""

import os
import sqlite3
import sys

WAY = os.environ["STORY_WAY"]


def open_uri(extension, uri):
    # r2vfs: begin uri
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)
    db = sqlite3.connect(uri, uri=True)
    # r2vfs: end
    return db


def open_path(extension, path):
    # r2vfs: begin default
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.execute("SELECT load_extension(?, 'sqlite3_r2vfsdefault_init')", (extension,))
    # r2vfs: end
    return sqlite3.connect(path)


def say(*words):
    print(*words, flush=True)


def one(db, sql):
    return db.execute(sql).fetchone()[0]


def rows(db):
    for number, who in db.execute("SELECT id, who FROM story ORDER BY id"):
        say("row", number, who)


def insert(db):
    with db:                # commits at its end
        db.execute("INSERT INTO story(who) VALUES(?)", (os.environ["STORY_WHO"],))


def write(db):
    db.execute("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)")
    insert(db)
    say("version", one(db, "SELECT sync()"))
    say("status", *db.execute("SELECT version, remote_version, dirty_pages, pushes FROM r2_status"
                              ).fetchone())


def read(db):
    rows(db)
    say("sqlite", one(db, "SELECT sqlite_version()"))
    say("client", "Python", ".".join(map(str, sys.version_info[:3])))


def conflict(db):
    insert(db)
    say("ready")
    sys.stdin.readline()
    try:
        say("other", one(db, "SELECT sync()"))
    except sqlite3.OperationalError as error:
        busy = error.sqlite_errorcode & 0xff == sqlite3.SQLITE_BUSY
        say("busy" if busy else "other", error.sqlite_errorcode, error)
    say("version", one(db, "SELECT r2_resolve('fork')"))
    rows(db)


def refused(db):
    try:
        say("other", one(db, "SELECT sync()"))
    except sqlite3.OperationalError as error:
        say("refused", error)


def mind(db):
    db.execute("INSERT INTO story(who) VALUES(?)", (os.environ["STORY_WHO"],))
    refused(db)
    db.commit()
    say("version", one(db, "SELECT sync()"))
    insert(db)
    cursor = db.execute("SELECT who FROM story")
    cursor.fetchone()
    refused(db)
    cursor.close()
    say("version", one(db, "SELECT sync()"))


if WAY == "uri":
    connection = open_uri(os.environ["R2VFS_SO"], os.environ["STORY_URI"])
else:
    connection = open_path(os.environ["R2VFS_SO"], os.environ["STORY_PATH"])
{"write": write, "read": read, "conflict": conflict, "mind": mind}[sys.argv[1]](connection)
connection.close()
say("closed")
