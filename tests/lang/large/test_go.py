#!/usr/bin/env python3
"""The story in Go: database/sql with mattn's driver, as Debian has it (with the system's SQLite)."""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pool  # noqa: E402
import story  # noqa: E402
import support  # noqa: E402

GOPATH = "/usr/share/gocode"        # where Debian's packages put Go sources
DRIVER = "github.com/mattn/go-sqlite3"
PACKAGE = "golang-github-mattn-go-sqlite3-dev"


class GoMattn(pool.Pool, story.Story):
    client = "Go mattn/go-sqlite3"
    source = "large/go/story.go"
    loading = 'SQLiteDriver{Extensions: []string{"./r2vfs"}}'
    mind = ("`tx.Commit()` before `sync()`. The pool closes what it has idle beyond 2 connections, each open "
            "asks the remote, and each close pushes what is new: `db.SetMaxIdleConns(n)`. `db.Close()` "
            "before `os.Exit` and `log.Fatal`")
    minds = 1

    @classmethod
    def build(cls, folder):
        go = support.need("go", shutil.which("go"))
        found = os.path.isdir(os.path.join(GOPATH, "src", DRIVER))
        support.need(PACKAGE, found)
        version = subprocess.run(["dpkg-query", "-W", "-f", "${source:Upstream-Version}", PACKAGE],
                                 stdout=subprocess.PIPE, text=True, check=True).stdout
        version = version.partition("~")[0]     # ~ds1: Debian took the bundled SQLite out
        program = os.path.join(folder, "story")
        cls.compile(go, "build", "-o", program, "-ldflags", f"-X main.driverVersion={version}",
                    *(cls.path_of(f"large/go/{name}.go") for name in ("story", "pool")),
                    env={**os.environ, "GO111MODULE": "off", "GOPATH": GOPATH, "GOFLAGS": "",
                         "CGO_ENABLED": "1", "GOCACHE": os.path.join(folder, "cache")})
        return [program]

    def pool_command(self):
        return self._argv


if __name__ == "__main__":
    story.main()
