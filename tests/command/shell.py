"""shell.py - the real binary, as somebody would call it in a shell, and servers started by it."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "faces"))

from harness import BUILD, DEADLINE, Server  # noqa: E402

WORKQUEUE = BUILD / "bin" / "workqueue"


class CommandTest(unittest.TestCase):
    """A folder that is the home and the current one, programs in it, and servers that are ended."""

    maxDiff = None

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="wq-command-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.here = self.folder / "here"
        self.here.mkdir()

    def script(self, text, name="program"):
        """An executable file with this text, by default for sh."""
        path = self.folder / name
        path.write_text(text if text.startswith("#!") else "#!/bin/sh\n" + text)
        path.chmod(0o755)
        return path

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items()
               if k not in ("STATE_DIRECTORY", "XDG_STATE_HOME", "WORKQUEUE_BROKER")}
        return {**env, "HOME": str(self.folder), "TMPDIR": str(self.folder), **more}

    def command(self, *arguments, stdin=subprocess.DEVNULL, env=None, **more):
        """Runs it to its end: returncode, stdout and stderr."""
        return subprocess.run([str(WORKQUEUE), *map(str, arguments)], stdin=stdin,
                              capture_output=True, text=True, timeout=3 * DEADLINE, cwd=self.here,
                              env=self.environment(**(env or {})), **more)

    def serve(self, *arguments, listen="127.0.0.1:0", env=None):
        """A server by `workqueue serve`; its storage is where it chooses."""
        command = [str(WORKQUEUE), "serve"]
        if listen:
            command += ["--listen", listen]
        command += [str(a) for a in arguments]
        before, own = dict(os.environ), self.environment(**(env or {}))
        os.environ.clear()
        os.environ.update(own)
        try:
            server = Server(self.folder, None, storage=self.folder / "unused", command=command)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.addCleanup(server.finish)
        return server

    def assert_refused(self, result, *words):
        """One sentence on stderr, exit 2, nothing on stdout."""
        self.assertEqual(result.returncode, 2, result)
        self.assertEqual(result.stdout, "")
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertGreater(len(lines[0].split()), 3, "a sentence")
        for word in words:
            self.assertIn(word, lines[0])
