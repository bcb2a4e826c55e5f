"""test_lost_files.py - files that were deleted, restored, replaced, damaged or written by others.

Whatever happened to the local files, every row that was ever committed afterwards stands in the
remote's head, in a fork beside it, or in a local file; the head goes on; and what is odd is said in
a sentence, in SQLite's log or in the error of the call."""

import errno
import glob
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest

import crashkit
from crashkit import create, plain_look, rng, rows, step
from lostkit import KINDS, LOG, MODES, LostCase, each
import support


class Deleted(LostCase):
    @each()
    def test_file(self, mode):
        self.write(1, 5, mode)
        self.remove("")
        self.after(head=range(1, 6), forks=0)

    @each()
    def test_state(self, mode):
        self.write(1, 5, mode)
        self.remove("-r2")
        self.after(head=range(1, 6), forks=0)

    @each()
    def test_state_and_the_remote_went_on(self, mode):
        """A file of which nothing is known, and which is not the head: kept as a fork."""
        self.write(1, 5, mode)
        self.elsewhere(6)
        self.remove("-r2")
        self.after(head=range(1, 7), forks=1, said="conflict")

    @each()
    def test_state_of_a_file_with_commits_of_its_own(self, mode):
        self.write(1, 5, mode)
        self.write(6, 8, sync="manual")
        self.remove("-r2")
        self.after(head=range(1, 6), forks=1, said="conflict")

    @each()
    def test_both(self, mode):
        self.write(1, 5, mode)
        self.remove("", "-r2")
        self.after(head=range(1, 6), forks=0)

    @each()
    def test_file_with_unpushed_commits(self, mode):
        """What only the deleted file had is gone; the rest must come back."""
        self.write(1, 5, mode)
        self.write(6, 8, sync="manual")
        self.remove("")
        self.after(head=range(1, 6), lost=(6, 7, 8), forks=0)

    @each()
    def test_while_open(self, mode):
        """The file goes away under a process that has it open: the next open gets it back."""
        self.write(1, 5, mode)
        with_it = self.spawn("db = connect(sys.argv[1], sys.argv[2])\n"
                             "one(db, 'SELECT count(*) FROM t')\n"
                             "print('ready'); input(); db.close()\n", self.file, self.remote)
        support.expect(with_it, "ready")
        self.remove("", "-wal", "-shm")
        support.tell(with_it)
        support.finish(with_it)
        self.after(head=range(1, 6), forks=0)

    @each()
    def test_state_while_open(self, mode):
        self.write(1, 5, mode)
        db = self.connect(self.file, self.remote)
        step(db, 6)
        self.remove("-r2")
        step(db, 7)
        with self.assertRaises(support.sqlite3.OperationalError) as caught:
            db.execute("SELECT sync()")  # of this file nothing is known any more: never a push
        self.assertEqual(caught.exception.sqlite_errorcode, 517)
        step(db, 8)
        db.execute("SELECT r2_resolve('local')")
        step(db, 9)
        db.close()
        self.ever |= {6, 7, 8, 9}
        self.after(head=range(1, 10))

    @each(kinds=("s3",))
    def test_remote_and_file(self, mode):
        """Both sides are gone: the state alone brings nothing back, and stands in nobody's way."""
        self.write(1, 5, mode)
        self.remove("")
        for key in self.bucket.all_keys(self.key):
            self.bucket.delete(key)
        self.ever.clear()
        self.write(7, 8, mode)
        self.after(head=(7, 8), forks=0)

    @each(kinds=("s3",))
    @support.log_layout("there is nothing beside KEY")
    def test_key_and_file(self, mode):
        """KEY is gone and its log is not: that is no new database, whatever the state knows."""
        self.write(1, 5, mode)
        self.elsewhere(6)
        self.elsewhere(7)
        self.remove("")
        head, before = self.bucket.get(self.key, raw=True), self.bucket.snapshot(self.key)
        self.bucket.delete(self.key)
        del before[self.key]
        for state in (True, False):
            with self.assertRaises(support.sqlite3.Error):
                rows(support.connect(self.file, self.remote))
            self.assertTrue(LOG.ours("its snapshot was lost"), LOG.lines)
            LOG.clear()
            self.assertEqual(self.bucket.snapshot(self.key), before)
            self.remove("-r2")
        self.bucket.put(self.key, head.body, head.meta)     # put back: all is well again
        self.after(head=range(1, 8), forks=0)


class WalLeftBehind(LostCase):
    """A log without its database: its frames must not get into the file that is pulled, nor vanish."""

    def leave(self):
        self.write(1, 5, "wal")

        def crash():
            db = support.connect(self.file, self.remote, sync="manual")
            for n in (6, 7):
                step(db, n)
        pid = os.fork()
        if pid == 0:
            try:
                crash()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        with open(self.file + "-wal", "rb") as file:
            log = file.read()
        self.assertGreater(len(log), 0)
        return log

    def strays(self):
        """The logs that were set aside."""
        found = set()
        for path in glob.glob(glob.escape(self.file) + "-r2-stray-wal*"):
            with open(path, "rb") as file:
                found.add(file.read())
        return found

    def stray(self, log):
        self.assertTrue(log in self.strays(), "the stray log was thrown away")

    @each(("wal",))
    def test_with_state(self, mode):
        log = self.leave()
        self.remove("", "-shm")
        self.after(head=range(1, 6), forks=0, said="stray")
        self.stray(log)

    @each(("wal",))
    def test_without_state(self, mode):
        log = self.leave()
        self.remove("", "-shm", "-r2")
        self.after(head=range(1, 6), forks=0, said="stray")
        self.stray(log)

    @each(("wal",), ("file",))
    def test_twice(self, mode):
        """A second stray log does not take the place of the first, which may be all there is."""
        first = self.leave()
        self.remove("", "-shm")
        support.connect(self.file, self.remote).close()
        self.stray(first)
        self.write(8, 8)            # another log
        pid = os.fork()
        if pid == 0:
            db = support.connect(self.file, self.remote, sync="manual")
            db.execute("PRAGMA journal_mode=wal")
            step(db, 9)
            os._exit(0)
        os.waitpid(pid, 0)
        with open(self.file + "-wal", "rb") as file:
            second = file.read()
        self.remove("", "-shm")
        self.after(head=(1, 2, 3, 4, 5, 8), said="stray")
        self.stray(first)
        self.stray(second)

    @each(("delete",))
    def test_hot_journal_of_a_deleted_file(self, mode):
        """SQLite would roll the new file back with it."""
        self.write(1, 5, "delete")
        result = crashkit.run_traced(self.spill, 30)
        self.assertIsNone(result.status, result.said)
        self.assertTrue(os.path.exists(self.file + "-journal"))
        self.remove("")
        self.after(head=range(1, 6), forks=0)

    def spill(self):
        db = support.connect(self.file, self.remote)
        db.execute("PRAGMA cache_size=1")
        crashkit.mark()
        db.execute("BEGIN")
        for _ in range(50):
            db.execute("INSERT INTO junk VALUES(randomblob(9000))")


class Restored(LostCase):
    """An older copy comes back: a version, or a moment between two versions."""

    def put_back(self, how, copy):
        """how: cp into the same file, or mv of another one over it."""
        for suffix in ("-wal", "-shm", "-journal"):
            self.remove(suffix)
            if how != "cp-main" and os.path.exists(copy + suffix) and suffix == "-wal":
                shutil.copyfile(copy + suffix, self.file + suffix)
        if how == "mv":
            shutil.copyfile(copy, self.file + ".new")
            os.replace(self.file + ".new", self.file)
        else:
            shutil.copyfile(copy, self.file)

    @each(how=("cp", "mv"))
    def test_a_version(self, mode, how):
        """The content of an earlier version is nobody's work: the head's comes back, no fork."""
        self.write(1, 5, mode)
        copy = self.kept()
        self.write(6, 8)
        self.put_back(how, copy)
        self.after(head=range(1, 9), forks=0, said="older version")

    @each(how=("cp", "mv"))
    def test_a_version_and_the_remote_went_on(self, mode, how):
        self.write(1, 5, mode)
        copy = self.kept()
        self.write(6, 8)
        self.elsewhere(9)
        self.put_back(how, copy)
        self.after(head=range(1, 10), forks=0)

    @each(how=("cp", "mv"))
    def test_a_moment(self, mode, how):
        """A copy from between two versions: never pushed over what came later."""
        self.write(1, 3, mode)
        self.write(4, 5, sync="manual")
        copy = self.kept()
        self.write(6, 8)            # 1..8 is version 2
        self.put_back(how, copy)
        self.after(head=range(1, 9))

    @each(how=("cp", "mv"))
    def test_a_moment_and_plain_commits(self, mode, how):
        """The same, and stock SQLite then wrote into what was put back."""
        self.write(1, 3, mode)
        self.write(4, 5, sync="manual")
        copy = self.kept()
        self.write(6, 8)
        self.put_back(how, copy)
        self.write_plain(20, 21)
        self.after()

    @each(how=("cp", "mv"))
    def test_a_version_and_plain_commits(self, mode, how):
        self.write(1, 5, mode)
        copy = self.kept()
        self.write(6, 8)
        self.put_back(how, copy)
        self.write_plain(20, 29)
        self.after()

    @each()
    def test_state(self, mode):
        """The state is older than the file."""
        self.write(1, 5, mode)
        copy = self.kept()
        self.write(6, 8)
        shutil.copyfile(copy + "-r2", self.state)
        self.after(head=range(1, 9), forks=0)

    @each()
    def test_state_and_unpushed_commits(self, mode):
        self.write(1, 5, mode)
        copy = self.kept()
        self.write(6, 8)
        self.write(9, 9, sync="manual")
        shutil.copyfile(copy + "-r2", self.state)
        self.after()

    @each()
    def test_dirty_state(self, mode):
        """The state is from a moment with unpushed commits."""
        self.write(1, 5, mode)
        self.write(6, 6, sync="manual")
        copy = self.kept()
        self.write(7, 8)
        shutil.copyfile(copy + "-r2", self.state)
        self.after(head=range(1, 9))

    @each()
    def test_state_renamed_into_place(self, mode):
        self.write(1, 5, mode)
        copy = self.kept()
        self.write(6, 8)
        os.replace(copy + "-r2", self.state)
        self.after(head=range(1, 9), forks=0)

    def whole(self, copy):
        shutil.rmtree(os.path.dirname(self.file))
        subprocess.run(["cp", "-a", os.path.dirname(copy), os.path.dirname(self.file)], check=True)

    @each()
    def test_whole_folder(self, mode):
        self.write(1, 5, mode)
        copy = self.kept()
        self.write(6, 8)
        self.whole(copy)
        self.after(head=range(1, 9), forks=0)

    @each()
    def test_whole_folder_with_unpushed_commits(self, mode):
        self.write(1, 5, mode)
        self.write(6, 6, sync="manual")
        copy = self.kept()
        self.write(7, 8)
        self.whole(copy)
        self.after(head=range(1, 9))

    @each()
    def test_whole_folder_of_another_future(self, mode):
        """Restored, written, and the remote had gone on without it."""
        self.write(1, 5, mode)
        copy = self.kept()
        self.write(6, 8)
        self.whole(copy)
        self.write_plain(20, 22)
        self.after(head=range(1, 9), forks=1, said="conflict")

    @each()
    def test_whole_folder_while_running(self, mode):
        """Copied file by file from under a running writer, at any moment."""
        random = rng("running")
        self.write(1, 5, mode)
        db = support.connect(self.file, self.remote, sync="manual")
        n = 6
        for _ in range(random.randrange(1, 6)):
            step(db, n)
            n += 1
        if random.random() < 0.5:
            db.execute("SELECT sync()")
        copy = self.kept()
        for _ in range(random.randrange(1, 6)):
            step(db, n)
            n += 1
        db.execute("SELECT sync()")
        db.close()
        self.ever |= set(range(6, n))
        self.whole(copy)
        self.after(head=self.ever)


class WrittenByOthers(LostCase):
    @each()
    def test_closed(self, mode):
        """Stock SQLite writes while no r2vfs is there: pushed at the next open."""
        self.write(1, 5, mode)
        self.write_plain(6, 8)
        self.after(head=range(1, 9), forks=0)

    @each()
    def test_closed_and_the_mode_changed(self, mode):
        self.write(1, 5, mode)
        self.write_plain(6, 8, "delete" if mode == "wal" else "wal")
        self.after(head=range(1, 9), forks=0)

    @each()
    def test_conflict(self, mode):
        self.write(1, 5, mode)
        self.write_plain(6, 8)
        self.elsewhere(9)
        self.after(head=(1, 2, 3, 4, 5, 9), forks=1, said="conflict")

    @each()
    def test_crashed(self, mode):
        """Stock SQLite was killed in its commit: the hot journal or the log is played back first."""
        self.write(1, 5, mode)

        def work():
            db = support.plain(self.file)
            step(db, 6)
            crashkit.say("c")
            db.execute("PRAGMA cache_size=1")
            crashkit.mark()
            step(db, 7)
        result = crashkit.run_traced(work, 6)
        self.assertEqual((result.status, result.said), (None, ["c"]))
        self.ever |= {6}
        there = self.after(forks=0)
        self.assertLessEqual({1, 2, 3, 4, 5, 6}, there)

    @each(how=("sync", "close"))
    def test_open_elsewhere(self, mode, how):
        """While another process has it open through r2vfs: that one's sync() and close push it."""
        self.write(1, 5, mode)
        other = self.spawn("db = connect(sys.argv[1], sys.argv[2])\n"
                           "one(db, 'SELECT count(*) FROM t')\n"
                           "print('ready'); input()\n"
                           "if sys.argv[3] == 'sync': print('done', one(db, 'SELECT sync()'))\n"
                           "else: db.close(); print('done')\n"
                           "input()\n", self.file, self.remote, how)
        support.expect(other, "ready")
        self.write_plain(6, 8)
        support.tell(other)
        support.expect(other, "done")
        self.assertEqual(self.head()[0], set(range(1, 9)))
        support.tell(other)
        support.finish(other)
        self.after(head=range(1, 9), forks=0)

    @each()
    def test_writer_that_stays_open(self, mode):
        """Stock SQLite keeps its connection over our pushes, and writes again after a pull."""
        self.write(1, 5, mode)
        stock = support.plain(self.file)
        rows(stock)
        step(stock, 6)
        self.ever |= {6}
        db = support.connect(self.file, self.remote)
        db.execute("SELECT sync()")
        self.elsewhere(7)
        support.one(db, "SELECT r2_pull()")
        self.assertEqual(rows(stock), set(range(1, 8)))
        step(stock, 8)
        self.ever |= {8}
        db.execute("SELECT sync()")
        stock.close()
        db.close()
        self.after(head=range(1, 9), forks=0)

    @each()
    def test_vacuum(self, mode):
        self.write(1, 5, mode)
        db = support.plain(self.file)
        db.execute("DELETE FROM junk")
        db.execute("VACUUM")
        db.close()
        self.after(head=range(1, 6), forks=0)


class Replaced(LostCase):
    def another(self, first, last, commits=0, mode=None):
        """A database with rows of its own, made by stock SQLite."""
        path = os.path.join(tempfile.mkdtemp(dir=self.folder), "other.db")
        db = support.plain(path)
        create(db, mode)
        for n in range(first, last + 1):
            step(db, n)
        for _ in range(commits):
            db.execute("DELETE FROM junk")
            db.execute("INSERT INTO junk VALUES(1)")
        db.close()
        self.ever |= set(range(first, last + 1))
        return path

    def replace(self, how, other):
        self.remove("-wal", "-shm")
        if how == "mv":
            os.replace(other, self.file)
        else:
            shutil.copyfile(other, self.file)

    def put_in_place(self, mode, how, commits):
        self.write(1, 20, mode)
        self.replace(how, self.another(101, 103, commits))
        self.after()

    @each(how=("mv", "cp"))
    def test_younger(self, mode, how):
        """Fewer commits than our file had: its change counter is lower."""
        self.put_in_place(mode, how, 0)

    @each(how=("mv", "cp"))
    def test_older(self, mode, how):
        """More commits than our file had: the change counter alone looks like progress."""
        self.put_in_place(mode, how, 100)

    @each(("delete",), data=(b"this is no database\n" * 400, bytes(4096), b"x"))
    def test_garbage(self, mode, data):
        self.write(1, 5)
        with open(self.file, "wb") as file:
            file.write(data)
        self.after_damage()

    def after_damage(self):
        """Put right at once, or refused with a sentence until the file is deleted."""
        there = set(self.ever)
        try:
            self.after(head=there)
        except support.sqlite3.Error as error:
            self.assertTrue(LOG.ours("move it away to get what"), LOG.lines)
            self.assertEqual(self.head()[0], there, error)
            self.remove("")             # the cure that a user will try
            self.after(head=there)

    @each()
    def test_truncated_to_nothing(self, mode):
        self.write(1, 5, mode)
        os.truncate(self.file, 0)
        self.after(head=range(1, 6), forks=0)

    @each(kinds=("file",))
    def test_truncated_in_the_middle(self, mode):
        self.write(1, 9, mode)
        os.truncate(self.file, os.path.getsize(self.file) // 4096 // 2 * 4096)
        self.after_damage()

    def test_by_a_folder(self):
        self.world()
        self.write(1, 5)
        self.remove("")
        os.mkdir(self.file)
        with self.assertRaises(support.sqlite3.Error):
            rows(support.connect(self.file, self.remote))
        os.rmdir(self.file)
        self.after(head=range(1, 6), forks=0)


class NoRoom(LostCase):
    """A disk that is full, and a folder that must not be written."""

    SMALL = 1 << 20

    def small_disk(self):
        """A folder with a megabyte, or None."""
        at = os.path.join(self.folder, "small")
        os.mkdir(at)
        if os.geteuid() != 0 or not sys.platform.startswith("linux"):
            return None
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.SMALL}", "r2vfs-test", at],
                              stderr=subprocess.DEVNULL)
        if done.returncode != 0:
            return None
        self.addCleanup(subprocess.run, ["umount", "-l", at])
        return at

    def place(self):
        """self.file is where there is little room; fill() and free() take and give the rest."""
        at = self.small_disk()
        if at:
            self.file = os.path.join(at, "app.db")
            self.state = self.file + "-r2"
            filler = os.path.join(at, "filler")

            def fill(leave=0):
                with open(filler, "wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(4096))
                    except OSError as error:
                        self.assertEqual(error.errno, errno.ENOSPC)
                    file.truncate(max(0, file.tell() - leave) // 4096 * 4096)

            def free():
                os.unlink(filler)
            return fill, free
        was = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, was)

        def fill(leave=0):
            resource.setrlimit(resource.RLIMIT_FSIZE,
                               (os.path.getsize(self.file) // 4096 * 4096 if leave == 0 else leave,
                                was[1]))
        return fill, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, was)

    def test_commit(self):
        """A commit that finds no room fails as in stock SQLite; what was there stays."""
        for mode in MODES:
            with self.subTest(mode=mode):
                self.setUp()
                self.world()
                fill, free = self.place()
                self.write(1, 5, mode)
                db = support.connect(self.file, self.remote)
                rows(db)                # in WAL mode even a reader needs room for its -shm
                fill()
                with self.assertRaises(support.sqlite3.OperationalError):
                    for n in range(6, 60):
                        step(db, n)
                        self.ever.add(n)
                if db.in_transaction:
                    db.execute("ROLLBACK")
                self.assertEqual(rows(db), self.ever)
                free()
                db.close()
                self.after(forks=0)

    def test_push(self):
        """A push that cannot be staged says so and keeps everything for the next."""
        for mode in MODES:
            with self.subTest(mode=mode):
                self.setUp()
                self.world()
                fill, free = self.place()
                self.write(1, 5, mode)
                before = self.head()
                db = support.connect(self.file, self.remote)
                step(db, 6)
                self.ever.add(6)
                fill()
                with self.assertRaises(support.sqlite3.OperationalError) as caught:
                    db.execute("SELECT sync()")
                self.assertIn(self.file, str(caught.exception))
                self.assertEqual(support.one(db, "PRAGMA r2_last_error"), str(caught.exception))
                self.assertEqual(self.head(), before)
                free()
                db.execute("SELECT sync()")
                self.assertEqual(self.head()[0], self.ever)
                db.close()
                self.after(head=range(1, 7), forks=0)

    def test_close(self):
        """The same at close, where nobody hears an error: the next open pushes."""
        failed = 0
        for mode in MODES:
            with self.subTest(mode=mode):
                self.setUp()
                self.world()
                fill, free = self.place()
                self.write(1, 5, mode)
                db = support.connect(self.file, self.remote)
                step(db, 6)
                self.ever.add(6)
                fill()
                LOG.clear()
                db.close()
                pushed = self.head()[0] == self.ever    # what few pages need may still have had room
                self.assertTrue(pushed or LOG.ours(self.file),
                                "a failed push at close without a sentence")
                failed += not pushed
                free()
                support.connect(self.file, self.remote).close()
                self.assertEqual(self.head()[0], self.ever)
                self.after(head=range(1, 7), forks=0)
        self.assertGreater(failed, 0, "no push failed: nothing was tested")

    def test_pull(self):
        """A newer version that does not fit: a sentence, and the old content stays whole."""
        for mode in MODES:
            with self.subTest(mode=mode):
                self.setUp()
                self.world()
                fill, free = self.place()
                self.write(1, 5, mode)
                old = set(self.ever)
                self.elsewhere(6)
                fill(16384)
                try:
                    db = support.connect(self.file, self.remote)
                    self.assertIn(rows(db), (old, self.ever))
                    db.close()
                except support.sqlite3.OperationalError:
                    pass
                self.assertTrue(LOG.ours(self.file), "without a sentence")
                # (in what is left of the disk)
                self.assertEqual(plain_look(crashkit.copy_of(self.file, self.path("look")))[0], old)
                free()
                self.after(head=range(1, 7), forks=0)

    def test_first_pull(self):
        self.world()
        self.write(1, 40)
        fill, free = self.place()
        with open(self.file, "wb"):
            pass
        fill(20480)
        with self.assertRaises(support.sqlite3.OperationalError):
            rows(support.connect(self.file, self.remote))
        self.assertTrue(LOG.ours(), "without a sentence")
        free()
        self.after(head=range(1, 41), forks=0)

    CHILD = """
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.path.insert(0, sys.argv[3])
import crashkit
try:
    db = connect(sys.argv[1], sys.argv[2])
    print("rows", len(crashkit.rows(db)))
    try:
        crashkit.step(db, 50)
        print("wrote", one(db, "SELECT sync()"))
    except sqlite3.Error as error:
        print("refused", error, one(db, "PRAGMA r2_last_error"))
    db.close()
except sqlite3.Error as error:
    print("no open", error)
"""

    def as_nobody(self):
        """A child that is not root opens, reads and writes; what it said and wrote to stderr."""
        if os.geteuid() != 0:
            self.skipTest("needs root to become somebody else")
        os.chmod(self.folder, 0o755)
        if self.remote_kind == "file":
            subprocess.run(["chmod", "-R", "a+rwX", os.path.join(self.folder, "remote")], check=True)
        done = support.run_python(self.CHILD, self.file, self.remote,
                                  os.path.dirname(os.path.abspath(crashkit.__file__)))
        return done.stdout.split("\n", 1)[1] if "seed" in done.stdout else done.stdout, done.stderr

    def test_folder(self):
        """Files that may be written in a folder that may not: SQLite needs a journal there."""
        for kind in KINDS:
            for newer in (False, True):
                with self.subTest(kind=kind, newer=newer):
                    self.world(kind)
                    self.write(1, 5)
                    if newer:
                        self.elsewhere(6)
                    folder = os.path.dirname(self.file)
                    os.chmod(self.file, 0o666)
                    os.chmod(self.state, 0o666)
                    os.chmod(folder, 0o555)
                    before = self.head()
                    out, err = self.as_nobody()
                    self.assertRegex(out, r"refused .*|no open ")
                    self.assertNotIn("Traceback", err)
                    if "no open" in out or newer:
                        self.assertIn(self.file, out + err, "without a sentence")
                    self.assertEqual(self.head(), before)
                    os.chmod(folder, 0o755)
                    self.after(head=self.ever, forks=0)

    def test_files(self):
        """Nothing may be written at all: reading is refused with a sentence, or works."""
        for kind in KINDS:
            for newer in (False, True):
                with self.subTest(kind=kind, newer=newer):
                    self.world(kind)
                    self.write(1, 5)
                    if newer:
                        self.elsewhere(6)
                    os.chmod(self.file, 0o444)
                    os.chmod(self.state, 0o444)
                    os.chmod(os.path.dirname(self.file), 0o555)
                    before = self.head()
                    out, err = self.as_nobody()
                    self.assertRegex(out, r"refused .*|no open ")
                    if "no open" in out:
                        self.assertIn(self.state, out + err, "without a sentence")
                    self.assertEqual(self.head(), before)
                    os.chmod(os.path.dirname(self.file), 0o755)
                    os.chmod(self.file, 0o644)
                    os.chmod(self.state, 0o644)
                    self.after(head=self.ever, forks=0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
