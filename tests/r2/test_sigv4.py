#!/usr/bin/env python3
"""Our SigV4 against botocore's, on random requests (sigv4_botocore.py with the program sigv4_cli)."""
# One layout: there is no database.

import os
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import support  # noqa: E402


class SigV4(unittest.TestCase):
    def test_against_botocore(self):
        program = os.path.join(support.BUILD, "tests", "r2", "sigv4_cli")
        self.assertTrue(os.path.exists(program), program + " is missing: make tests")
        done = subprocess.run([support.PYTHON, os.path.join(HERE, "sigv4_botocore.py"), program,
                               "2000"], env=support.child_env(), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    support.main()
