"""r2vfs: SQLite databases whose truth lives in Cloudflare R2; the local file is a cache.

    import r2vfs

    db = r2vfs.connect("app.db", "s3://BUCKET/app.db")      # a stock sqlite3.Connection
    db.execute("CREATE TABLE IF NOT EXISTS notes(body)")
    db.commit()
    db.execute("SELECT sync()")                             # now it is in R2

Credentials come from the environment (R2_ACCOUNT_ID, R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY), never
from a call. A SQLite extension serves the whole process: it is loaded once, and every connection
opened after that has r2vfs's SQL functions.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from typing import Any, Dict, Optional, Union
from urllib.parse import parse_qsl, quote

try:
    from ._version import __version__  # type: ignore[import]
except ImportError:         # the source tree
    __version__ = "0"

__all__ = ["connect", "is_conflict", "load", "loadable_path", "preload_path", "uri", "__version__"]

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Setting = Union[str, int, None]

_HERE = os.path.dirname(os.path.abspath(__file__))
_SUFFIX, _PRELOAD = ((".dylib", "DYLD_INSERT_LIBRARIES") if sys.platform == "darwin"
                     else (".so", "LD_PRELOAD"))
_BUSY_SNAPSHOT = 517        # sqlite3.SQLITE_BUSY_SNAPSHOT; named there since Python 3.11
_lock = threading.Lock()
_loaded = False


def _file(name: str) -> str:
    path = os.path.join(_HERE, name + _SUFFIX)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"r2vfs: {path} is not there. This is not an installed package but its source: "
            f"run `make packages`, then pip install build/packages/r2vfs-*.whl")
    return path


def loadable_path() -> str:
    """The extension's file: for SQLite's .load, or another driver's load_extension()."""
    return _file("r2vfs")


def preload_path() -> str:
    """A library for LD_PRELOAD (DYLD_INSERT_LIBRARIES on macOS): it brings r2vfs into a program that
    loads no extensions itself. The environment says what it does there: see R2VFS_DEFAULT,
    R2VFS_REMOTE in the README."""
    return _file("r2vfs-preload")


def _no_extensions() -> sqlite3.NotSupportedError:
    version = ".".join(map(str, sys.version_info[:3]))
    return sqlite3.NotSupportedError(
        f"r2vfs: this Python ({sys.executable}) was built without loadable SQLite extensions, so no "
        f"extension can be loaded. Use one that was built with them: the distribution's "
        f"(/usr/bin/python3), Homebrew's, conda's, or with pyenv: PYTHON_CONFIGURE_OPTS="
        f"--enable-loadable-sqlite-extensions pyenv install --force {version}; or start this one "
        f"with {_PRELOAD}={os.path.join(_HERE, 'r2vfs-preload' + _SUFFIX)} in the environment")


def load(connection: Optional[sqlite3.Connection] = None, *, default: bool = False) -> None:
    """Load r2vfs into this process, and into `connection` if one is given.

    Afterwards every connection that is opened in this process can use the VFS `r2vfs` and has the SQL
    functions; `connection`, which was open before, has the functions only. Loading twice does no
    harm. Loading of extensions is disabled on `connection` again when this returns.

    default=True makes r2vfs the process's default VFS, for programs whose way of opening a database
    cannot be changed: R2VFS_REMOTE in the environment then decides which of them have a remote.

    connect() does this by itself.
    """
    global _loaded
    with _lock:
        if connection is None:
            db = sqlite3.connect(":memory:")
            try:
                # Preloaded, or linked into this Python: nothing is left to do.
                if default or not _has_functions(db):
                    _load_into(db, default)
            finally:
                db.close()
        else:
            _load_into(connection, default)
        _loaded = True


def _has_functions(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT * FROM r2_status LIMIT 0")
    except sqlite3.OperationalError:
        return False
    return True


def _load_into(db: sqlite3.Connection, default: bool) -> None:
    path = loadable_path()
    try:
        allow = db.enable_load_extension
    except AttributeError:
        raise _no_extensions() from None
    allow(True)
    before = os.environ.get("R2VFS_DEFAULT")
    try:
        if default:     # Connection.load_extension() can name an entry point since 3.12 only
            os.environ["R2VFS_DEFAULT"] = "1"
        db.load_extension(path)
    finally:
        if default and before is None:
            del os.environ["R2VFS_DEFAULT"]
        elif before is not None:
            os.environ["R2VFS_DEFAULT"] = before
        allow(False)


def _text(name: str, value: Setting) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError(f"r2vfs: {name} must be a text or a whole number, not {value!r}")
    text = str(value)
    if "\0" in text:
        raise ValueError(f"r2vfs: {name} has a NUL character in it")
    return text


def _no_file(what: str) -> ValueError:
    return ValueError(f"r2vfs: {what} has no file that could have a remote; open it with "
                      f"sqlite3.connect()")


def _base(database: Path, is_uri: bool) -> str:
    """`database` as a file: URI, which may have a query."""
    raw = os.fsencode(database)
    if b"\0" in raw:
        raise ValueError("r2vfs: the path has a NUL character in it")
    if is_uri and raw.startswith(b"file:"):
        text = os.fsdecode(raw).partition("#")[0]
        path, _, query = text.partition("?")
        modes = [value for name, value in parse_qsl(query) if name == "mode"]
        if path in ("file:", "file::memory:") or "memory" in modes:
            raise _no_file("an in-memory database")
        return text
    if raw == b":memory:":
        raise _no_file("':memory:'")
    if not raw:
        raise _no_file("a temporary database (an empty path)")
    # Absolute, since "file://" is followed by a host; no normalising: a/../b may be another file.
    return "file://" + quote(os.path.join(os.getcwdb(), raw))


def _uri(database: Path, settings: Dict[str, Setting], is_uri: bool) -> str:
    base = _base(database, is_uri)
    there = {name for name, _ in parse_qsl(base.partition("?")[2], keep_blank_values=True)}
    given: Dict[str, Setting] = {"vfs": "r2vfs", **settings}
    query = []
    for name, value in given.items():
        if value is None:
            continue
        if name in there:
            raise ValueError(f"r2vfs: {name} is in the URI already; say it once")
        query.append(f"{name}={quote(_text(name, value), safe='/:')}")
    return base + ("&" if "?" in base else "?") + "&".join(query)


def uri(database: Path, remote: Optional[str] = None, *, sync: Setting = None,
        refresh: Setting = None, layout: Optional[str] = None, conflict: Optional[str] = None,
        offline: Optional[str] = None, remote_timeout: Optional[int] = None,
        retention: Optional[int] = None, endpoint: Optional[str] = None) -> str:
    """The `file:` URI that opens `database` (a path) through r2vfs, everything in it quoted: for a
    framework that takes a URI. r2vfs must be loaded first: load(). Parameters are connect()'s."""
    return _uri(database, dict(remote=remote, sync=sync, refresh=refresh, layout=layout,
                               conflict=conflict, offline=offline, timeout=remote_timeout,
                               retention=retention, endpoint=endpoint), False)


def connect(database: Path, remote: Optional[str] = None, *, sync: Setting = None,
            refresh: Setting = None, layout: Optional[str] = None, conflict: Optional[str] = None,
            offline: Optional[str] = None, remote_timeout: Optional[int] = None,
            retention: Optional[int] = None, endpoint: Optional[str] = None,
            **sqlite3_arguments: Any) -> sqlite3.Connection:
    """Open the file `database` through r2vfs: sqlite3.connect(), and nothing else is set.

    remote          s3://BUCKET/KEY or file:///DIR/KEY, the object itself. None: R2VFS_REMOTE in the
                    environment decides; without that, the database is plain SQLite's.
    sync            when to push: "close" (default), "manual", or milliseconds
    refresh         when to look for a newer version: "open" (default), or milliseconds
    layout          "object" or "log", for a database that the remote does not have yet
    conflict        at open: "fork" (default) or "error"
    offline         "error" (default), or "allow": open the local copy without the remote
    remote_timeout  milliseconds for one operation on the remote (the URI parameter `timeout`);
                    sqlite3's own `timeout` stays what it is: seconds to wait for a lock
    retention       seconds that old versions stay reachable
    endpoint        another S3 service than the one that the environment names

    Everything else goes to sqlite3.connect(): timeout, isolation_level, autocommit, factory,
    check_same_thread, ... With uri=True a `database` that begins with file: is a URI, and the
    parameters are added to its query: r2vfs.connect("file:app.db?mode=ro", remote, uri=True).

    Returns a stock sqlite3.Connection (or the factory's). Note that sqlite3's `with connection:`
    commits but does not close, and that closing is what pushes (sync="close"): use
    contextlib.closing(), or SELECT sync().
    """
    is_uri = sqlite3_arguments.pop("uri", False)
    target = _uri(database, dict(remote=remote, sync=sync, refresh=refresh, layout=layout,
                                 conflict=conflict, offline=offline, timeout=remote_timeout,
                                 retention=retention, endpoint=endpoint), bool(is_uri))
    if not _loaded:
        load()
    return sqlite3.connect(target, uri=True, **sqlite3_arguments)


def is_conflict(error: Optional[BaseException]) -> bool:
    """Whether this error says that another replica was faster (SQLITE_BUSY_SNAPSHOT), also when a
    framework has wrapped it (SQLAlchemy's OperationalError, Django's)."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", None)     # since Python 3.11
            return code == _BUSY_SNAPSHOT or (code is None and "r2_resolve(" in str(error))
        error = getattr(error, "orig", None) or error.__cause__
    return False
