"""The wheel of r2vfs. Nothing is compiled here: the extension comes out of `make`.

    R2VFS_BUILD     the folder with r2vfs.so; default: build/ of the repository
    R2VFS_VERSION   the version; scripts/packages sets it

`make packages` calls this in a copy of this folder, so that nothing is left behind in the sources.
"""

import os
import shutil
import sys

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

try:
    from setuptools.command.bdist_wheel import bdist_wheel  # setuptools 70.1 or newer
except ImportError:
    from wheel.bdist_wheel import bdist_wheel

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("R2VFS_BUILD") or os.path.join(HERE, "..", "..", "build")
VERSION = os.environ.get("R2VFS_VERSION", "0")
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


class Binary(Distribution):
    def has_ext_modules(self):
        return True


class WithExtension(build_py):
    def run(self):
        super().run()
        folder = os.path.join(self.build_lib, "r2vfs")
        with open(os.path.join(folder, "_version.py"), "w") as file:
            file.write(f'__version__ = "{VERSION}"\n')
        for name in ("r2vfs", "r2vfs-preload"):
            path = os.path.join(BUILD, name + SUFFIX)
            if os.path.exists(path):
                shutil.copyfile(path, os.path.join(folder, name + SUFFIX))
                os.chmod(os.path.join(folder, name + SUFFIX), 0o755)
            elif name == "r2vfs":
                raise SystemExit(f"{path} is not there: run make first")


class AnyPython(bdist_wheel):
    """The extension knows SQLite only, no Python: one wheel for all of a platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(version=VERSION, distclass=Binary,
      cmdclass={"build_py": WithExtension, "bdist_wheel": AnyPython})
