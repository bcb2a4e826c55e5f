#!/usr/bin/env python3
"""What all packages have in common: the same bytes from the same build, one version, what is said when
something is missing; and `make install`."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import packages  # noqa: E402
import support  # noqa: E402

SCRIPTS = os.path.join(support.ROOT, "scripts")


class Packages(support.Case):
    remote_kind = "file"

    def build(self):
        shutil.copytree(packages.build(), self.path("build"),
                        ignore=shutil.ignore_patterns("packages"))
        return self.path("build")

    @staticmethod
    def hashes(build):
        folder = os.path.join(build, "packages")
        found = {}
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
        return found

    def test_same_bytes_again(self):
        """Another umask, other file times, a later hour; and no package of an earlier version stays."""
        for module, name in (("dh", "debhelper"), ("npm", "npm")):
            support.need(name, shutil.which(module))
        build = self.build()
        said = packages.run(support.PYTHON, f"{SCRIPTS}/packages", build)
        first = self.hashes(build)
        self.assertEqual(len(first), 3, first)
        for name in first:
            self.assertRegex(said, rf"{re.escape(name)}  \d+ KiB")
        open(os.path.join(build, "packages", "r2vfs-0.0.0.tgz"), "w").close()
        for name in os.listdir(build):
            os.utime(os.path.join(build, name), (1, 1000000000))
        packages.run("sh", "-c", f'umask 077; TZ=Pacific/Auckland exec "$0" "$@"', support.PYTHON,
                     f"{SCRIPTS}/packages", build)
        self.assertEqual(self.hashes(build), first)
        # and a day that somebody chose is in all of them
        packages.run(support.PYTHON, f"{SCRIPTS}/packages", build, "python",
                     env={"SOURCE_DATE_EPOCH": "1000000000"})
        changed = self.hashes(build)
        self.assertEqual(len(changed), 1)
        self.assertNotIn(list(changed.values())[0], first.values())

    def test_the_extension_in_them_is_the_built_one(self):
        """(The Debian package's is stripped of one section more.)"""
        with open(support.SO, "rb") as file:
            built = file.read()
        with zipfile.ZipFile(packages.make("python")) as wheel:
            self.assertEqual(wheel.read("r2vfs/r2vfs" + support.SUFFIX), built)
            for entry in wheel.infolist():
                self.assertEqual(entry.external_attr >> 16 & 0o002, 0, entry.filename)
        support.need("npm", shutil.which("npm"))
        with tarfile.open(packages.make("node")) as package:
            found = package.extractfile("package/r2vfs" + support.SUFFIX).read()
        self.assertEqual(found, built)

    def test_something_is_missing(self):
        build = self.build()
        os.mkdir(self.path("bin"))
        for name in ("python3", "make", "sh"):
            os.symlink(shutil.which(name), self.path(f"bin/{name}"))
        done = packages.run(support.PYTHON, f"{SCRIPTS}/packages", build, "node", "debian", check=False,
                            env={"PATH": self.path("bin")})
        self.assertEqual(done.returncode, 1)
        self.assertIn("no package for node: npm is missing", done.stdout)
        self.assertIn("this is no Debian", done.stdout)
        os.remove(os.path.join(build, os.path.basename(support.SO)))
        done = packages.run(support.PYTHON, f"{SCRIPTS}/packages", build, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("run make first", done.stdout)

    def test_one_version(self):
        """The header's; refused where the changelog begins with another, or there is none."""
        shutil.copytree(os.path.join(support.ROOT, "ext", "debian"), self.path("ext/debian"))
        for name in ("scripts/man", "vfs/r2vfs.h"):
            shutil.copy(os.path.join(support.ROOT, name), self.path(name))
        with open(self.path("vfs/r2vfs.h")) as file:
            header = file.read()
        number = re.search(r'R2VFS_VERSION "(.*?)"', header)[1]
        for text, status, says in ((header, 0, number), (header.replace(number, "99.9"), 1, "99.9"),
                                   ("", 1, "does not define R2VFS_VERSION")):
            with open(self.path("vfs/r2vfs.h"), "w") as file:
                file.write(text)
            done = packages.run(support.PYTHON, self.path("scripts/man"), "version", check=False)
            self.assertEqual(done.returncode, status, done.stdout)
            self.assertIn(says, done.stdout)

    def test_make_install_and_uninstall(self):
        def make(target):
            packages.run("make", "-C", support.ROOT, target, f"BUILD={build}", "PREFIX=/opt/r2",
                         f"DESTDIR={self.path('root')}")
            return sorted(os.path.relpath(os.path.join(where, name), self.path("root"))
                          for where, _, files in os.walk(self.path("root")) for name in files)
        build = self.build()
        names = ["opt/r2/include/r2vfs.h", "opt/r2/lib/libr2vfs.a", "opt/r2/lib/pkgconfig/r2vfs.pc",
                 "opt/r2/lib/r2vfs" + support.SUFFIX, "opt/r2/share/man/man7/r2vfs.7"]
        preload = "r2vfs-preload" + support.SUFFIX
        if os.path.exists(os.path.join(build, preload)):
            names.append("opt/r2/lib/" + preload)
        self.assertEqual(make("install-built"), sorted(names))
        found = subprocess.run(
            ["pkg-config", "--variable=libdir", self.path("root/opt/r2/lib/pkgconfig/r2vfs.pc")],
            stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertEqual(found, "/opt/r2/lib\n")
        self.assertEqual(make("uninstall"), [])


if __name__ == "__main__":
    support.main()
