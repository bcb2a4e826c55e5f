"""emptyroot.py - a Debian that has nothing but what a package asks for.

A folder is filled with the files of the packages that the package's Depends name, of what those depend on,
and so on; the machine's own dpkg database says which files these are, so nothing is downloaded. Then
dpkg installs the package there: it checks Depends itself, and chroot shows whether they are enough.
"""

import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", ".."))
import support  # noqa: E402

INFO = "/var/lib/dpkg/info"
NOT_COPIED = re.compile(r"/usr/share/(doc|man|locale|info|lintian|bug|zoneinfo)/")


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=True).stdout


def installed():
    """{name: (its name with architecture, what it depends on)} and {virtual name: names}."""
    packages, provided = {}, {}
    form = "${Package}\t${binary:Package}\t${Pre-Depends},${Depends}\t${Provides}\t${db:Status-Status}\n"
    for line in output("dpkg-query", "-W", "-f", form).splitlines():
        name, full, depends, provides, status = line.split("\t")
        if status == "installed":
            packages.setdefault(name, (full, depends))
            for virtual in names(provides):
                provided.setdefault(virtual[0], []).append(name)
    return packages, provided


def names(depends):
    """[[an alternative, ...], ...] without versions."""
    return [[re.sub(r"[ (:\[].*", "", one.strip()) for one in group.split("|")]
            for group in depends.split(",") if group.strip()]


def closure(wanted):
    """The full names of all packages that `wanted` (a Depends line) needs."""
    packages, provided = installed()
    found, queue = {}, names(wanted)
    while queue:
        group = queue.pop()
        choice = [name for one in group for name in [one, *provided.get(one, [])] if name in packages]
        if not choice:
            raise AssertionError(f"not installed here: {' | '.join(group)}")
        if choice[0] not in found:
            found[choice[0]], depends = packages[choice[0]]
            queue += names(depends)
    return sorted(found.values())


def copy_files(root, package):
    for path in output("dpkg-query", "-L", package).splitlines():
        if not path.startswith("/") or path == "/." or NOT_COPIED.match(path):
            continue
        target = root + path
        if os.path.isdir(path) and not os.path.islink(path):
            os.makedirs(target, exist_ok=True)
        elif os.path.lexists(path) and not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)


def make(root, wanted):
    """The folder becomes a system with dpkg's database."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink("/" + name):
            os.makedirs(f"{root}/usr/{name}", exist_ok=True)
            os.symlink(f"usr/{name}", f"{root}/{name}")
    for name in ("updates", "triggers", "info"):
        os.makedirs(f"{root}/var/lib/dpkg/{name}")
    os.makedirs(f"{root}/tmp")
    with open(f"{root}/var/lib/dpkg/status", "w") as status:
        for package in closure(wanted):
            copy_files(root, package)
            status.write(output("dpkg-query", "-s", package) + "\n")
            for name in (package, package.partition(":")[0]):
                if os.path.exists(f"{INFO}/{name}.list"):
                    shutil.copy(f"{INFO}/{name}.list", f"{root}/var/lib/dpkg/info/")


def dpkg(root, *words):
    """CompletedProcess; both streams are in stdout."""
    return subprocess.run(["dpkg", f"--root={root}", "--force-not-root", *words], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, "LC_ALL": "C"})


def need():
    """What this takes, or a skip."""
    for program in ("dpkg-query", "dpkg", "unshare", "chroot"):
        support.need(program, shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"))
    support.need("root's rights to mount and chroot",
                 subprocess.run(["unshare", "-m", "chroot", "/", "true"],
                                stderr=subprocess.DEVNULL).returncode == 0)
