"""test_cluster.py - demo-plugin/run --cluster: a broker, a store, two servers, two packagers, one
of which is frozen on the way, and the other killed."""

import os
import re
import subprocess
from pathlib import Path

import services  # noqa: F401 (finds harness)
from harness import BUILD, ROOT, FaceTest, plain_only


@plain_only
class ClusterTest(FaceTest):
    def run_script(self, *arguments):
        """It, from a tree that has our build, and a TMPDIR in which nothing may be left."""
        tree, tmp = self.folder / "tree", self.folder / "tmp"
        (tree / "tests").mkdir(parents=True)
        tmp.mkdir()
        (tree / "demo-plugin").symlink_to(ROOT / "demo-plugin")
        (tree / "tests" / "services").symlink_to(ROOT / "tests" / "services")
        (tree / "build").symlink_to(BUILD)
        result = subprocess.run([tree / "demo-plugin" / "run", *arguments], text=True, timeout=400,
                                capture_output=True, stdin=subprocess.DEVNULL,
                                env={**os.environ, "TMPDIR": str(tmp)})
        self.assertEqual(list(tmp.iterdir()), [])
        return result

    def processes(self):
        """Those that have the folder in their command line or as their working directory."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                text = (entry / "cmdline").read_text() + os.readlink(entry / "cwd")
            except OSError:
                continue
            if str(self.folder) in text:
                found.append((entry.name, text))
        return found

    def test_one_is_frozen_one_is_killed_and_the_job_ends_at_both_servers(self):
        result = self.run_script("--cluster", "--once")
        said = result.stdout
        self.assertEqual(result.returncode, 0, said + result.stderr)
        frozen, killed = said.index("SIGSTOP to packager-"), said.index("SIGKILL to packager-")
        self.assertLess(frozen, killed)
        runs = re.findall(r"epoch (\d), attempt (\d): key [0-9a-f]{8}, (packager-\d)", said[killed:])
        self.assertEqual([(e, a) for e, a, _ in runs], [("1", "1"), ("2", "2"), ("3", "3")], said)
        for server in ("server-1", "server-2"):
            told = [(m.start(), float(m[1])) for m in re.finditer(server + r" +([\d.]+) %", said)]
            fractions = [fraction for _, fraction in told]
            self.assertEqual(fractions, sorted(fractions), server)
            self.assertEqual(fractions[-1], 100)
            before = max(fraction for at, fraction in told if at < killed)
            self.assertTrue(50 <= before < 100, (server, before, said))
        self.assertRegex(said[killed:], r"[1-9]\d* documents found")
        self.assertEqual(self.processes(), [])
