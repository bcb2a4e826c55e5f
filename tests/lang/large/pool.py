"""pool.py - several threads of one program, each with a connection of its driver, write to one
database and call sync() beside each other.

A program finds R2VFS_SO, STORY_PATH, R2VFS_REMOTE and R2VFS_ROOT as in story.py's way `default` (so
it loads through sqlite3_r2vfsdefault_init), and

    POOL_THREADS    so many threads insert
    POOL_ROUNDS     so many times:
    POOL_ROWS       so many rows, one by one: INSERT INTO story(who) VALUES('THREAD.ROW'), and then
                    SELECT sync()                                               -> synced N

It makes the table before (story(id INTEGER PRIMARY KEY, who TEXT)), and afterwards, with all
connections still open, prints
    SELECT count(*) FROM r2_status                                              -> replicas N
    SELECT version, remote_version, dirty_pages, pushes FROM r2_status          -> status V R D P
waits for a line on stdin, closes, and prints `closed`.
"""

import collections
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
import support  # noqa: E402

THREADS, ROUNDS, ROWS = 4, 5, 8


class Pool:
    """Beside story.Story: `pool_command` is the program."""

    def pool_command(self):
        raise NotImplementedError

    def test_pool(self):
        rows = {f"{thread}.{row}" for thread in range(THREADS) for row in range(ROUNDS * ROWS)}
        self.env = {**self.env, "POOL_THREADS": str(THREADS), "POOL_ROUNDS": str(ROUNDS),
                    "POOL_ROWS": str(ROWS)}
        child = self.start_program(self.pool_command(), "pool")
        said = []
        for line in child.stdout:
            said.append(tuple(line.rstrip("\n").partition(" ")[::2]))
            if said[-1][0] == "status":
                break
        else:
            self.fail(f"the program never came to its status: {said}, {self.finish(child)}")
        # All connections are open: sync() alone brought it there.
        version, found = self.in_bucket()
        self.assertEqual(collections.Counter(who for _, who in found), dict.fromkeys(rows, 1))
        support.tell(child, "go")
        self.assertEqual(self.finish(child), ([("closed", "")], []))
        synced = [int(rest) for word, rest in said if word == "synced"]
        self.assertEqual(len(synced), THREADS * ROUNDS)
        self.assertEqual(max(synced), version)
        self.assertLessEqual(version, THREADS * ROUNDS)
        self.assertEqual(said[len(synced):], [
            ("replicas", "1"), ("status", f"{version} {version} 0 {version}")])
        self.assertEqual(self.in_bucket(), (version, found))    # the closes pushed nothing

    def start_program(self, command, step):
        """Story.start() with another command."""
        cls = type(self)
        before, cls._argv = cls._argv, list(command)
        try:
            return self.start("default", step)
        finally:
            cls._argv = before
