#!/usr/bin/env python3
"""The Debian package: installed by dpkg into a root that has nothing but what it depends on, where the
sqlite3 shell tells the story; its static library, found by pkg-config; lintian."""

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import emptyroot  # noqa: E402
import packages  # noqa: E402
import story  # noqa: E402
import support  # noqa: E402

_unpacked = None


def deb():
    support.need("debhelper", shutil.which("dh"))
    return packages.make("debian")


def unpacked():
    """Its files in a folder."""
    global _unpacked
    if _unpacked is None:
        _unpacked = tempfile.mkdtemp(prefix="r2vfs-deb.")
        packages.atexit.register(shutil.rmtree, _unpacked, ignore_errors=True)
        packages.run("dpkg", "-x", deb(), _unpacked)
    return _unpacked


def field(name):
    return packages.run("dpkg-deb", "-f", deb(), name).strip()


def triplet():
    return packages.run("dpkg-architecture", "-qDEB_HOST_MULTIARCH").strip()


class Shell(packages.Story):
    """`.load r2vfs`, without a path, in the other root."""

    client = "sqlite3 shell, package r2vfs"
    source = "shell/story.sh"
    recorded = False
    env = {"R2VFS_SO": "r2vfs"}

    @classmethod
    def build(cls, folder):
        emptyroot.need()
        package = deb()
        emptyroot.make(folder, field("Depends") + ", sqlite3, dash, coreutils, sed")
        done = emptyroot.dpkg(folder, "-i", package)
        if done.returncode != 0:
            raise AssertionError(done.stdout)
        shutil.copy(cls.path_of(cls.source), f"{folder}/story.sh")
        # The test's folder is seen in there under its own name.
        enter = f"{folder}.sh"
        with open(enter, "w") as file:
            file.write(f"set -e\nmkdir -p {folder}$PWD\nmount --bind $PWD {folder}$PWD\n"
                       f"exec chroot {folder} sh /story.sh \"$@\"\n")
        cls.addClassCleanup(os.remove, enter)
        return ["unshare", "-m", "sh", enter]

    def program_env(self, way, who):
        env = super().program_env(way, who)
        env["STORY_URI"] = support.uri(self.path("a/app.db"), self.remote)
        return env


class Static(packages.Story):
    client = "C, package r2vfs"
    source = "c/link.c"
    recorded = False

    @classmethod
    def pkg_config(cls, *words):
        """As if the package were in place: prefix is where it was unpacked."""
        support.need("pkg-config", shutil.which("pkg-config"))
        return packages.run(
            "pkg-config", f"--define-variable=prefix={unpacked()}/usr", *words, "r2vfs",
            env={"PKG_CONFIG_PATH": f"{unpacked()}/usr/lib/{triplet()}/pkgconfig"}).split()

    @classmethod
    def build(cls, folder):
        program = os.path.join(folder, "story")
        cls.compile(support.need("cc", shutil.which("cc")), "-std=c11", "-D_GNU_SOURCE", "-o", program,
                    cls.path_of("c/story.c"), cls.path_of(cls.source),
                    *cls.pkg_config("--cflags", "--libs"))
        return [program]

    def program_env(self, way, who):
        env = super().program_env(way, who)
        env["STORY_URI"] = support.uri(self.path("a/app.db"), self.remote)
        return env


class Package(support.Case):
    remote_kind = "file"

    def test_depends_are_what_it_needs(self):
        """Without libcurl dpkg configures nothing; and nothing is left behind by a removal."""
        emptyroot.need()
        root = self.path("root")
        emptyroot.make(root, "libc6")
        done = emptyroot.dpkg(root, "-i", deb())
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"r2vfs\S* depends on libcurl4")
        self.assertTrue(os.path.exists(f"{root}/usr/include/r2vfs.h"))
        emptyroot.dpkg(root, "--purge", "r2vfs")
        left = [path for path in packages.run("find", root, "-name", "*r2vfs*").split()
                if not path.endswith("story.sh")]
        self.assertEqual(left, [])

    def test_lintian(self):
        support.need("lintian", shutil.which("lintian"))
        said = packages.run("lintian", "--allow-root", "--fail-on", "error,warning", deb())
        self.assertNotRegex(said, "(?m)^[EW]:")

    def test_what_is_in_it(self):
        version = packages.run(support.PYTHON, f"{support.ROOT}/scripts/man", "version").strip()
        self.assertEqual(field("Version"), version)
        for name in ("libc6", "libcurl4", "libssl3"):
            self.assertRegex(field("Depends"), rf"\b{name}\b")
        library = f"usr/lib/{triplet()}"
        for path in (f"{library}/r2vfs.so", f"{library}/libr2vfs.a", f"{library}/pkgconfig/r2vfs.pc",
                     "usr/include/r2vfs.h", "usr/share/man/man7/r2vfs.7.gz",
                     "usr/share/doc/r2vfs/copyright", "usr/share/doc/r2vfs/changelog.gz"):
            self.assertTrue(os.path.exists(os.path.join(unpacked(), path)), path)
        self.assertEqual(Static.pkg_config("--modversion"), [version])

    def test_pkg_config_static(self):
        """--static says the same libraries, and SQLite's own needs."""
        libraries = Static.pkg_config("--libs", "--static")
        for name in ("-lr2vfs", "-lsqlite3", "-lcurl", "-lcrypto", "-llz4"):
            self.assertIn(name, libraries)
        self.assertLess(libraries.index("-lr2vfs"), libraries.index("-lcurl"))

    def test_manual_page(self):
        """It is without fault, and has every name of README's two tables."""
        support.need("man", shutil.which("man"))
        path = os.path.join(unpacked(), "usr/share/man/man7/r2vfs.7.gz")
        shown = subprocess.run(["man", "--warnings", "-l", path], text=True, capture_output=True,
                               env={**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8",
                                    "MAN_KEEP_FORMATTING": ""}, check=True)
        self.assertEqual(shown.stderr, "")
        text = " ".join(re.sub(r".\x08", "", shown.stdout).split())
        with open(os.path.join(support.ROOT, "README.md")) as file:
            readme = file.read()
        found = []
        for heading in ("Configuration", "SQL"):
            section = re.search(rf"^## {heading}\n(.*?)^## ", readme, re.M | re.S)[1]
            for row in re.findall(r"^\| .*", section, re.M)[1:]:
                cells = row.strip("|").split(" | ")
                found += re.findall(r"`([^`]+)`", "|".join(cells[:2] if heading != "SQL" else cells[:1]))
        self.assertGreater(len(found), 35)
        self.assertEqual([name for name in found if name not in text], [])
        with gzip.open(path, "rt") as file:
            source = file.read()
        self.assertNotIn("`", source)
        self.assertNotRegex(source, r"@[A-Z]+@")

    def test_preload_by_name(self):
        """LD_PRELOAD=r2vfs-preload.so, without a path, when the linker knows the folder."""
        library = f"{unpacked()}/usr/lib/{triplet()}"
        self.assertTrue(os.path.exists(f"{library}/r2vfs-preload.so"))
        env = support.child_env({"LD_LIBRARY_PATH": library, "LD_PRELOAD": "r2vfs-preload.so",
                                 "R2VFS_ROOT": self.folder, "R2VFS_DEFAULT": None,
                                 "R2VFS_REMOTE": self.remote_of("all")})
        subprocess.run(["sqlite3", self.path("app.db"), "CREATE TABLE t(x)"], env=env, check=True)
        self.assertTrue(os.path.exists(self.remote_of("all/app.db")[len("file://"):]))


if __name__ == "__main__":
    story.main()
