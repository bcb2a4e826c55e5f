"""packages.py - the packages of the build under test, made once per test program.

They are made in a folder of their own from the files that are built, so that nothing is compiled again
and nothing in the build folder moves while other tests use it.
"""

import atexit
import glob
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
sys.path.insert(0, os.path.join(HERE, "..", ".."))
import story  # noqa: E402
import support  # noqa: E402

SOURCES = os.path.join(HERE, "packages")
PATTERNS = {"python": "*.whl", "node": "*.tgz", "debian": "*.deb"}
_folder = None


def build():
    """A build folder with what is built."""
    global _folder
    if _folder is None:
        _folder = tempfile.mkdtemp(prefix="r2vfs-packages.")
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
        shutil.copy(support.SO, _folder)
        for name in ("libr2vfs.a", "r2vfs-preload" + support.SUFFIX):
            path = os.path.join(support.BUILD, name)
            if os.path.exists(path):
                shutil.copy(path, _folder)
    return _folder


def run(*command, check=True, env=None, cwd=None):
    """What the command says, stderr as well; CompletedProcess unless `check`."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, cwd=cwd,
                          env=support.child_env(env), timeout=support.DEADLINE)
    if not check:
        return done
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def make(kind, env=None):
    """The package's file."""
    pattern = os.path.join(build(), "packages", PATTERNS[kind])
    if env or not glob.glob(pattern):
        run(support.PYTHON, os.path.join(support.ROOT, "scripts", "packages"), build(), kind, env=env)
    found, = glob.glob(pattern)
    return found


class Story(story.Story):
    """The client gets path and remote; it has to find the extension in its package."""

    env = {"R2VFS_SO": "/nonexistent/r2vfs"}
    recorded = True     # a row of README's table

    @classmethod
    def write_record(cls, path):
        if cls.recorded:
            super().write_record(path)

    def program_env(self, way, who):
        env = super().program_env(way, who)
        env.pop("STORY_URI", None)
        env["PACKAGE_PATH"] = self.path("a/app.db")
        if way == "uri":
            env["PACKAGE_REMOTE"] = self.remote
        return env
