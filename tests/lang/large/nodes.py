"""nodes.py - the Node and the packages of node/package.json, installed once per machine.

They are pinned, with their hashes, by node/package-lock.json, and live beside scripts/r2-emulator's
in ${R2VFS_CACHE:-${XDG_CACHE_HOME:-~/.cache}/r2vfs}. `npm ci --ignore-scripts`: no package's code runs
at installation; better-sqlite3 brings its compiled part along.
"""

import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", ".."))
import support  # noqa: E402

PINS = [os.path.join(HERE, "node", name) for name in ("package.json", "package-lock.json")]
OLDEST = 24     # of a Node that comes from elsewhere: allowExtension, loadExtension's entry point


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("R2VFS_CACHE") or os.path.join(base, "r2vfs")


def packages():
    """Their folder; installed if they are not."""
    with open(PINS[1], "rb") as file:
        folder = os.path.join(cache(), "node-" + hashlib.sha256(file.read()).hexdigest()[:12])
    if os.path.exists(os.path.join(folder, "installed")):
        return folder
    npm = support.need("npm", shutil.which("npm"))
    os.makedirs(cache(), exist_ok=True)
    new = tempfile.mkdtemp(prefix="new.", dir=cache())
    try:
        for pin in PINS:
            shutil.copy(pin, new)
        print(f"installing Node and its SQLite drivers into {folder}", file=sys.stderr)
        done = subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=new,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            support.need("the npm package better-sqlite3 (npm ci, above)", None)
        open(os.path.join(new, "installed"), "w").close()
        try:
            os.rename(new, folder)
        except OSError:
            # Somebody else was faster: theirs stays.
            if not os.path.exists(os.path.join(folder, "installed")):
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def node():
    """The one of the packages, else the machine's."""
    for found in glob.glob(os.path.join(packages(), "node_modules", "node-*", "bin", "node")):
        return found
    found = shutil.which("node")
    if found:
        major = subprocess.run([found, "-p", "process.versions.node.split('.')[0]"], text=True,
                               stdout=subprocess.PIPE, check=True).stdout
        found = found if int(major) >= OLDEST else None
    return support.need(f"Node {OLDEST} or newer for {platform.machine()}", found)


def modules():
    """For NODE_PATH, which require() looks at."""
    return os.path.join(packages(), "node_modules")
