#!/usr/bin/env python3
"""The story in PHP, Ruby, Perl and Tcl."""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import story  # noqa: E402
import support  # noqa: E402


def has(*command):
    """Whether a program is there with the modules that it needs."""
    return shutil.which(command[0]) and subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL).returncode == 0


class Php(story.Story):
    client = "PHP SQLite3"
    source = "php/story_sqlite3.php"
    loading = '$db->loadExtension("r2vfs.so")'
    mind = ("`php -d sqlite3.extension_dir=DIR` (or php.ini); it opens no `file:` URI: ATTACH it, or "
            "`R2VFS_DEFAULT=1`. A result not read to its end: `finalize()` it before `sync()`")
    minds = 1
    names_entry = False
    asks = 'exit(class_exists("SQLite3") ? 0 : 1);'

    @classmethod
    def build(cls, folder):
        support.need("php with sqlite3", has("php", "-r", cls.asks))
        return ["php", "-d", "sqlite3.extension_dir=" + os.path.dirname(support.SO),
                cls.path_of(cls.source)]


class PhpPdo(Php):
    client = "PHP PDO"
    source = "php/story_pdo.php"
    loading = '(new SQLite3(":memory:"))->loadExtension("r2vfs.so")'
    mind = ("the SQLite3 class loads it for PDO too, once per process. A statement not read to its end: "
            "`closeCursor()` before `sync()`. A connection closes when the last statement or caught "
            "exception that refers to it is gone")
    asks = 'exit(class_exists("SQLite3") && in_array("sqlite", PDO::getAvailableDrivers()) ? 0 : 1);'


class Ruby(story.Story):
    client = "Ruby sqlite3"
    source = "ruby/story.rb"
    loading = 'db.load_extension("./r2vfs")'
    mind = ("what `query` or `prepare` gave: `close` it before `sync()` and before `db.close`, which "
            "otherwise raises BusyException and closes nothing")
    minds = 1

    @classmethod
    def build(cls, folder):
        support.need("ruby-sqlite3", has("ruby", "-rsqlite3", "-e", ""))
        return ["ruby", cls.path_of(cls.source)]


class Perl(story.Story):
    client = "Perl DBD::SQLite"
    source = "perl/story.pl"
    loading = '$dbh->sqlite_load_extension("./r2vfs")'
    mind = ("with `AutoCommit => 0` even a SELECT begins a transaction: `local $dbh->{AutoCommit} = 1` "
            "around `sync()`. A handle not read to its end: `$sth->finish`")
    minds = 2

    @classmethod
    def build(cls, folder):
        support.need("perl with DBD::SQLite", has("perl", "-MDBD::SQLite", "-e", ""))
        return ["perl", cls.path_of(cls.source)]


class Tcl(story.Story):
    client = "Tcl sqlite3"
    source = "tcl/story.tcl"
    loading = "db eval {SELECT load_extension('./r2vfs')}"
    mind = ("`-uri 1 -translatefilename 0`, or Tcl turns `s3://` into `s3:/`. `db close` before the "
            "end: Tcl does not. No `sync()` inside the body of a `db eval` loop")
    minds = 1

    @classmethod
    def build(cls, folder):
        tclsh = support.need("tclsh", shutil.which("tclsh"))
        done = subprocess.run([tclsh], input="puts [package require sqlite3]", text=True,
                              capture_output=True)
        support.need("libsqlite3-tcl", done.stdout)
        return [tclsh, cls.path_of(cls.source)]


if __name__ == "__main__":
    story.main()
