"""Notes for many users: one SQLite database for each, whose truth lives in R2. README.md beside this
file says how to start it.

The routes are plain SQLite. get_db_connection() is the only place that knows of R2."""

import contextlib
import logging
import os
import pathlib
import re
import sqlite3
import uuid

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel

# ROOT/users/42/app.db is the local copy of R2VFS_REMOTE/users/42/app.db.
ROOT = pathlib.Path(os.environ["R2VFS_ROOT"]).resolve()
JOURNAL_MODE = os.environ.get("JOURNAL_MODE", "wal")
USER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")      # becomes a folder and part of a key
SCHEMA = """
    CREATE TABLE IF NOT EXISTS notes(id TEXT PRIMARY KEY, text TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS counter(one INTEGER PRIMARY KEY CHECK(one = 1), value INTEGER);
"""

loader = sqlite3.connect(":memory:")                # once per process
loader.enable_load_extension(True)
loader.load_extension(os.environ.get("R2VFS_SO", "r2vfs"))
loader.close()


@contextlib.contextmanager
def get_db_connection(user):
    """The user's database, as R2 has it now. Leaving the with-block commits and pushes; after an
    exception it rolls back.

    Use it with `with` inside the route. In a FastAPI dependency with `yield` the part after the yield
    runs after the response was sent (before 0.106, and again from 0.118 on), so the client would be
    told "done" before it is."""
    if not USER.fullmatch(user):
        raise HTTPException(404, "no such user")
    path = ROOT / "users" / user / "app.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(f"{path.as_uri()}?vfs=r2vfs", uri=True, timeout=30)    # pulls if newer
    try:
        db.execute(f"PRAGMA journal_mode={JOURNAL_MODE}")
        db.executescript(SCHEMA)
        with db:
            yield db
        # close() would push as well, but Python's cannot raise: a failure would be a line on stderr
        # and the client would get its 200. When nothing was written this costs no request.
        db.execute("SELECT sync()").fetchone()
    finally:
        db.close()


app = FastAPI()


@app.exception_handler(sqlite3.DatabaseError)
def not_stored(request, error):
    """Neither is a "done", and neither is certain to have changed nothing. 409: another machine changed
    this database meanwhile; what this request did is in a fork, unless a request beside it had taken
    it along. 503: R2 did not confirm it; it may still get there. So: look, or try again with something
    that may happen twice (PUT and DELETE here)."""
    logging.getLogger("uvicorn.error").error("%s: %s", request.url.path, error)
    conflict = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY_SNAPSHOT
    return JSONResponse({"detail": "changed elsewhere" if conflict else "storage unavailable"},
                        status_code=409 if conflict else 503, headers={"Retry-After": "1"})


class Note(BaseModel):
    text: str


@app.get("/users/{user}/notes")
def list_notes(user: str):
    with get_db_connection(user) as db:
        rows = db.execute("SELECT id, text FROM notes ORDER BY rowid").fetchall()
    return [{"id": id, "text": text} for id, text in rows]


@app.post("/users/{user}/notes", status_code=201)
def create_note(user: str, note: Note):
    id = str(uuid.uuid4())
    with get_db_connection(user) as db:
        db.execute("INSERT INTO notes VALUES(?, ?)", (id, note.text))
    return {"id": id, "text": note.text}


@app.put("/users/{user}/notes/{id}")
def put_note(user: str, id: uuid.UUID, note: Note):
    with get_db_connection(user) as db:
        db.execute("INSERT INTO notes VALUES(?1, ?2) ON CONFLICT(id) DO UPDATE SET text = ?2",
                   (str(id), note.text))
    return {"id": id, "text": note.text}


@app.delete("/users/{user}/notes/{id}")
def delete_note(user: str, id: uuid.UUID):
    with get_db_connection(user) as db:
        gone = db.execute("DELETE FROM notes WHERE id = ?", (str(id),)).rowcount
    if not gone:
        raise HTTPException(404, "no such note")
    return {"id": id}


@app.post("/users/{user}/counter")
def count(user: str):
    with get_db_connection(user) as db:
        [(value,)] = db.execute("INSERT INTO counter VALUES(1, 1) "
                                "ON CONFLICT(one) DO UPDATE SET value = value + 1 RETURNING value")
    return {"value": value}


@app.get("/users/{user}/counter")
def counted(user: str):
    with get_db_connection(user) as db:
        row = db.execute("SELECT value FROM counter").fetchone()
    return {"value": row[0] if row else 0}


@app.get("/health")
def health():
    return {"ok": True}
