#!/usr/bin/env python3
"""The story in Rust: rusqlite, as Debian has it (with the system's SQLite)."""

import glob
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pool  # noqa: E402
import story  # noqa: E402
import support  # noqa: E402

REGISTRY = "/usr/share/cargo/registry"      # where Debian's packages put crates
CONFIG = f"""
[source.crates-io]
replace-with = "debian"
[source.debian]
directory = "{REGISTRY}"
"""


class RustRusqlite(pool.Pool, story.Story):
    client = "Rust rusqlite"
    source = "large/rust/story.rs"
    loading = 'loader.load_extension("./r2vfs", None)'
    mind = ("feature `load_extension`. `Rows` not read to their end: drop them before `sync()`. "
            "`std::process::exit` drops no `Connection`")
    minds = 1

    @classmethod
    def build(cls, folder):
        # Debian's own, whose crates these are; another cargo in PATH may be newer than they like.
        cargo, rustc = (support.need(name, shutil.which(name, path="/usr/bin"))
                        for name in ("cargo", "rustc"))
        crates = glob.glob(os.path.join(REGISTRY, "rusqlite-[0-9]*"))
        crate = support.need("librust-rusqlite-dev", crates and crates[0])
        for name in ("Cargo.toml", "story.rs", "pool.rs"):
            shutil.copy(cls.path_of(f"large/rust/{name}"), folder)
        home = os.path.join(folder, "home")     # no settings of the user's
        os.makedirs(home)
        with open(os.path.join(home, "config.toml"), "w") as file:
            file.write(CONFIG)
        version = re.search(r"rusqlite-([0-9.]+)$", crate).group(1)
        cls.compile(cargo, "build", "--offline", "--quiet", cwd=folder, env={
            **os.environ, "CARGO_HOME": home, "RUSTC": rustc, "RUSTFLAGS": "",
            "CARGO_TARGET_DIR": os.path.join(folder, "target"), "RUSQLITE_VERSION": version})
        return [os.path.join(folder, "target", "debug", "story")]

    def pool_command(self):
        return self._argv


if __name__ == "__main__":
    story.main()
