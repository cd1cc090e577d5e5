"""run.py - runs the tests of the `workqueue` command and ends with "N passed, N failed".

    python3 tests/command/run.py [-j N] [-x TEXT] [TEXT ...]

As tests/faces/run.py, whose code it uses.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "faces"))

import run  # noqa: E402

if __name__ == "__main__":
    run.__file__ = __file__  # that is where it looks for tests
    sys.exit(run.main(sys.argv[1:]))
