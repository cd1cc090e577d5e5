"""run.py - runs the tests of the faces and ends with "N passed, N failed".

    python3 tests/faces/run.py [-x TEXT] [TEXT ...]

With TEXTs only the tests whose name has one of them, and none that has an -x TEXT; a name is like
test_stream.ArrayTest.test_success.
"""

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


def main(arguments):
    here = str(Path(__file__).parent)
    unwanted = []
    while "-x" in arguments:
        at = arguments.index("-x")
        unwanted.append(arguments[at + 1])
        del arguments[at:at + 2]
    result = Result()
    for test in each(unittest.defaultTestLoader.discover(here)):
        name = test.id()
        wanted = not arguments or any(text in name for text in arguments)
        if wanted and not any(text in name for text in unwanted):
            unittest.TestSuite([test]).run(result)
    print(f"{result.passed} passed, {len(result.bad)} failed")
    return 1 if result.bad or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
