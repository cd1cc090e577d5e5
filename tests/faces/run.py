"""run.py - runs the tests of the faces and ends with "N passed, N failed".

    python3 tests/faces/run.py [-j N] [-x TEXT] [TEXT ...]

With -j N files of tests at a time, each in a process of its own. With TEXTs only the tests whose
name has one of them, and none that has an -x TEXT; a name is like test_stream.ArrayTest.test_success.
"""

import concurrent.futures
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path


class Result(unittest.TestResult):
    """Tells each test as it ends, and what went wrong at once."""

    def __init__(self):
        super().__init__()
        self.passed = 0
        self.bad = set()

    def startTest(self, test):
        super().startTest(test)
        self.begin = time.monotonic()

    def _say(self, word, test, text=""):
        print(f"{word:7} {test.id()} ({time.monotonic() - self.begin:.1f} s){text}", flush=True)

    def addSuccess(self, test):
        if test.id() not in self.bad:
            self.passed += 1
            self._say("ok", test)

    def _bad(self, test, err, sub=""):
        parent = getattr(test, "test_case", test)
        self.bad.add(parent.id())
        self._say("FAILED", parent, f" {sub}\n" + self._exc_info_to_string(err, parent))

    def addFailure(self, test, err):
        self._bad(test, err)

    addError = addFailure

    def addSkip(self, test, reason):
        self._say("skipped", test, f": {reason}")

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._bad(subtest, err, subtest._subDescription())


def each(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from each(item)
        else:
            yield item


def run_file(path, arguments):
    """The tests of one file in a process of its own: how many passed, and how many failed."""
    run = subprocess.run([sys.executable, __file__, "-f", path.stem + ".", *arguments], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    *lines, last = run.stdout.splitlines() or [""]
    numbers = re.fullmatch(r"(\d+) passed, (\d+) failed", last)
    if shown := lines if numbers else [*lines, last]:
        print("\n".join(shown), flush=True)
    return tuple(map(int, numbers.groups())) if numbers else (0, 1)


def run_files(jobs, arguments):
    files = sorted(Path(__file__).parent.glob("test_*.py"), key=lambda p: -p.stat().st_size)
    unwanted = [b for a, b in zip(arguments, arguments[1:]) if a == "-x"]
    files = [path for path in files if path.stem not in unwanted]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        ends = list(pool.map(lambda path: run_file(path, arguments), files))
    passed, failed = (sum(end[i] for end in ends) for i in (0, 1))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def main(arguments):
    here = str(Path(__file__).parent)
    if arguments[:1] == ["-j"]:
        return run_files(int(arguments[1]), arguments[2:])
    only, unwanted = "", []
    if arguments[:1] == ["-f"]:  # of this file only; from run_file()
        only, arguments = arguments[1], arguments[2:]
    while "-x" in arguments:
        at = arguments.index("-x")
        unwanted.append(arguments[at + 1])
        del arguments[at:at + 2]
    result = Result()
    for test in each(unittest.defaultTestLoader.discover(here)):
        name = test.id()
        wanted = not arguments or any(text in name for text in arguments)
        if wanted and name.startswith(only) and not any(text in name for text in unwanted):
            unittest.TestSuite([test]).run(result)
    print(f"{result.passed} passed, {len(result.bad)} failed")
    return 1 if result.bad or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
