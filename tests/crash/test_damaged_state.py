"""test_damaged_state.py - the state file app.db-r2 cut short, overwritten, flipped, or another database's:
it is a cache of knowledge, so nothing is lost, and nothing wrong is pushed."""

import os
import shutil

from crashkit import rng
from lostkit import LOG, LostCase, each
import support


def flip(low, high, n):
    def damage(data, random):
        out = bytearray(data)
        for _ in range(n):
            out[random.randrange(low, min(high, len(out)))] ^= random.randrange(1, 256)
        return bytes(out)
    damage.__name__ = f"{n} bytes in {low}..{high}"
    return damage


def empty(data, random):
    return b""


def short(n):
    def damage(data, random):
        return data[:n]
    damage.__name__ = f"cut at {n}"
    return damage


def no_checksums(data, random):
    return data[:28672]


def garbage(data, random):
    return random.randbytes(len(data))


def zeros(data, random):
    return bytes(len(data))


def text(data, random):
    return b"hello\n" * 9000


# the parts of state.h: two slots of the record, the live page, the checksums of both areas
DAMAGES = [empty, no_checksums, garbage, zeros, text] + [
    short(n) for n in (100, 6000, 14000, 26000, 30000, 34000)] + [
    flip(low, high, n) for n in (1, 8, 200)
    for low, high in ((0, 12288), (12288, 24576), (0, 24576), (24576, 24700), (28672, 28800),
                      (32768, 32896), (0, 1 << 30))]


class DamagedState(LostCase):
    def damage(self, how):
        with open(self.state, "r+b") as file:
            data = how(file.read(), rng(self.id(), how.__name__))
            file.seek(0)
            file.truncate()
            file.write(data)

    @each(kinds=("file",), how=DAMAGES)
    def test_clean(self, mode, how):
        """Nothing to push, nothing to pull: the damage is noticed and the content stays."""
        self.write(1, 5, mode)
        self.damage(how)
        self.after(head=range(1, 6))

    @each(kinds=("file",), how=DAMAGES)
    def test_the_remote_went_on(self, mode, how):
        """The pull must get through, whatever the checksums of the base say now."""
        self.write(1, 5, mode)
        self.elsewhere(6)
        self.damage(how)
        self.after(head=range(1, 7))

    @each(kinds=("file",), how=DAMAGES)
    def test_dirty(self, mode, how):
        self.write(1, 5, mode)
        self.write(6, 7, sync="manual")
        self.damage(how)
        self.after()

    @each(kinds=("file",), how=DAMAGES)
    def test_plain_commits(self, mode, how):
        self.write(1, 5, mode)
        self.write_plain(6, 7)
        self.damage(how)
        self.after()

    @each(kinds=("file",), how=DAMAGES)
    def test_conflict(self, mode, how):
        self.write(1, 5, mode)
        self.elsewhere(9)
        self.write_plain(6, 7)
        self.damage(how)
        self.after(head=(1, 2, 3, 4, 5, 9), forks=1)

    @each(kinds=("file",), area=(0, 1))
    @support.log_layout("a version's checksum is counted on from the one before")
    def test_checksums(self, mode, area):
        """One bit of each page's checksum: it goes into no version, and no row is lost."""
        self.write(1, 5, mode)
        for page in range(1, os.path.getsize(self.file) // 4096 + 1):
            self.world()
            self.write(1, 4, mode)
            self.write(5, 5)                # both areas have been the base's
            self.write(6, 6, sync="manual")
            self.flip_checksum(area, page)
            self.after()                    # pushes twice, and looks at every version's checksum

    def flip_checksum(self, area, page):
        with open(self.state, "r+b") as file:
            file.seek(28672 + (4096, 135168)[area] + 8 * (page - 1))
            byte, = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte ^ 0x40]))

    @each(kinds=("file",))
    def test_of_another_database(self, mode):
        self.write(1, 5, mode)
        state = self.kept() + "-r2"
        self.world()
        self.write(1, 3, mode)
        self.write(4, 6, sync="manual")
        shutil.copyfile(state, self.state)
        self.after(head=range(1, 4), forks=1)

    @each(kinds=("file",))
    def test_of_another_replica(self, mode):
        """Of the same remote, but of another machine's file."""
        self.write(1, 5, mode)
        other = self.path(f"{self.count}/b/app.db")
        support.connect(other, self.remote).close()
        self.elsewhere(6)
        self.write_plain(7, 8)
        shutil.copyfile(other + "-r2", self.state)
        self.after(head=range(1, 7), forks=1)

    def test_no_regular_file(self):
        self.world()
        self.write(1, 5)
        self.remove("-r2")
        os.mkdir(self.state)
        with self.assertRaises(support.sqlite3.Error):
            support.connect(self.file, self.remote)
        self.assertTrue(LOG.ours(self.state), "refused without a sentence")
        os.rmdir(self.state)
        self.after(head=range(1, 6), forks=0)


if __name__ == "__main__":
    support.main()
