"""lostkit.py - what the tests of lost, restored and damaged local files share: worlds with a local file and
a remote, ways to write and to remove, and the one question after all of it: is every row somewhere?"""

import functools
import os
import shutil
import tempfile

import crashkit
from crashkit import CrashCase, create, plain_look, rows, step
import support

LOG = crashkit.Log()                    # before anything initialises SQLite
MODES = ("delete", "wal")
KINDS = ("file", "s3")


def each(modes=MODES, kinds=KINDS, **more):
    """A test(self, mode) for each kind of remote and journal mode, each in a new world; `more`: one
    further argument and its values."""
    name, values = next(iter(more.items()), (None, (None,)))

    def wrap(body):
        @functools.wraps(body)
        def test(self):
            for kind in kinds:
                for mode in modes:
                    for value in values:
                        args = {name: value} if name else {}
                        shown = {name: getattr(value, "__name__", value)} if name else {}
                        with self.subTest(kind=kind, mode=mode, **shown):
                            self.world(kind)
                            body(self, mode, **args)
        return test
    return wrap


class LostCase(CrashCase):
    def setUp(self):
        super().setUp()
        LOG.clear()

    def world(self, kind="file"):
        self.use(kind)
        self.file = self.path(f"{self.count}/a/app.db")
        self.state = self.file + "-r2"
        self.ever = set()
        LOG.clear()
        return self.file

    def write(self, first, last, mode=None, path=None, **params):
        """Rows through r2vfs, closed (and pushed, unless sync=manual)."""
        db = support.connect(path or self.file, self.remote, **params)
        create(db, mode)
        for n in range(first, last + 1):
            step(db, n)
        db.close()
        self.ever |= set(range(first, last + 1))

    def write_plain(self, first, last, mode=None, path=None):
        """Rows through a SQLite that knows nothing of remotes."""
        db = support.plain(path or self.file)
        if mode:
            db.execute(f"PRAGMA journal_mode={mode}")
        for n in range(first, last + 1):
            step(db, n)
        db.close()
        self.ever |= set(range(first, last + 1))

    def elsewhere(self, n):
        """Another machine goes on."""
        path = os.path.join(tempfile.mkdtemp(dir=self.folder), "app.db")
        self.write(n, n, path=path)

    def kept(self, name="backup"):
        """The database's whole folder, as it is now."""
        to = os.path.join(self.folder, f"{self.count}-{name}")
        shutil.copytree(os.path.dirname(self.file), to)
        return os.path.join(to, "app.db")

    def remove(self, *suffixes):
        for suffix in suffixes:
            if os.path.exists(self.file + suffix):
                os.unlink(self.file + suffix)

    def after(self, head=None, forks=None, said=None, lost=()):
        """Open and close through r2vfs; then nothing is lost and local, head, fresh are the same.
        lost: rows that no file that is left can hold."""
        db = support.connect(self.file, self.remote)
        seen = rows(db)
        db.close()
        ever = self.ever - set(lost)
        self.assertLessEqual(ever, self.all_rows(self.file), "rows are nowhere any more")
        there, digest = self.head()
        self.assertEqual(plain_look(self.file)[0], there, "local file and head differ after close")
        self.assertEqual(self.fresh()[:2], (there, digest))
        self.assertEqual(seen, there)
        if head is not None:
            self.assertEqual(there, set(head))
        if forks is not None:
            self.assertEqual(len(self.forks()), forks, list(self.forks()))
        if said:
            self.assertTrue(LOG.ours(said), f"nothing said {said!r}: {LOG.lines}")
        # and life goes on
        self.write(901, 901)
        self.assertEqual(self.head()[0], there | {901})
        return there
