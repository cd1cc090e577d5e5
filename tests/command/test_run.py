"""test_run.py - workqueue run: a program by its contract, without a server."""

import os
import pty
import signal
import subprocess
import unittest

from shell import WORKQUEUE, CommandTest

from harness import DEADLINE, SANITIZED, wait_for

GOOD = 'for i in 1 2 3; do echo "$i/3\tstep $i"; done; echo "$1 $2 $3" >"$4"\n'


class RunTest(CommandTest):
    def run_program(self, text, *arguments, **more):
        return self.command("run", self.script(text), *arguments, **more)

    def assert_found(self, result, *words):
        """It has worked, but something is wrong, which is told in these words."""
        self.assertEqual(result.returncode, 3, result)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_good_program(self):
        result = self.run_program(GOOD)
        self.assertEqual(result.returncode, 0, result)
        self.assertIn("100 %  step 3", result.stderr)
        self.assertIn("Done: 24 bytes of output.", result.stderr)
        self.assertNotIn("wrong", result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(os.listdir(self.here), [], "nothing is left")
        self.assertEqual([p for p in os.listdir(self.folder) if p.startswith("workqueue-run")], [])

    def test_parameters_and_output(self):
        result = self.run_program(GOOD, "http://a.example", "set 1", "key", "--output", "made")
        self.assertEqual(result.returncode, 0, result)
        self.assertEqual((self.here / "made").read_text(), "http://a.example set 1 key\n")
        result = self.run_program(GOOD, "--output", "-")
        self.assertEqual(result.stdout, "http://localhost 1 none\n")

    def test_output_is_whole_or_not_at_all(self):
        (self.here / "made").write_text("before")
        result = self.run_program('echo half >"$4"; exit 1', "--output", "made")
        self.assertEqual(result.returncode, 1, result)
        self.assertEqual((self.here / "made").read_text(), "before")
        self.assertEqual(os.listdir(self.here), ["made"])

    def test_failure_is_told_with_its_reason_first(self):
        result = self.run_program("echo first >&2; echo the disk is on fire >&2; exit 4")
        self.assertEqual(result.returncode, 1, result)
        self.assertEqual(result.stderr.splitlines()[0], "Failed: exit code 4: the disk is on fire")
        self.assertIn("first", result.stderr)
        self.assertNotIn("wrong", result.stderr)

    def test_signal_is_named(self):
        result = self.run_program("kill -SEGV $$")
        self.assertEqual(result.returncode, 1, result)
        self.assertIn("signal 11 (Segmentation fault)", result.stderr)

    def test_no_output(self):
        result = self.run_program("echo 0.5")
        self.assertEqual(result.returncode, 1, result)
        self.assertIn("should have written to its output file", result.stderr)

    def test_junk_lines(self):
        result = self.run_program('echo halfway there; echo x >"$4"')
        self.assert_found(result, "halfway there", "0.25")

    def test_backwards(self):
        result = self.run_program('echo 0.5; sleep 0.2; echo 0.25; sleep 0.2; echo x >"$4"')
        self.assert_found(result, "backwards", "from 0.5 to 0.25")

    def test_buffered_stdout(self):
        result = self.run_program(
            "#!/usr/bin/python3 -E\nimport os, sys, time\n"
            "sys.stdout = os.fdopen(1, 'w', 65536)\n"
            "for i in range(4):\n    print(i / 4)\n    time.sleep(0.8)\n"
            "open(sys.argv[4], 'w').write('x')\n")
        self.assert_found(result, "buffer", "flush")

    def test_child_left_behind(self):
        result = self.run_program('sleep 60 & echo 1; sleep 0.2; echo x >"$4"')
        self.assert_found(result, "'sleep'", "background")

    def test_child_that_has_left_the_group(self):
        result = self.run_program(
            'setsid sleep 61 >/dev/null 2>&1 & sleep 0.3; echo 1; echo x >"$4"')
        self.assert_found(result, "'sleep'", "process group")
        for line in result.stderr.splitlines():
            if "pid" in line:
                os.kill(int(line.split("pid ")[1].split(")")[0]), signal.SIGKILL)

    def test_wrong_place(self):
        result = self.run_program('echo 1; echo x >"$4"; echo x >result.csv')
        self.assert_found(result, "result.csv", "fourth argument")

    def test_limits(self):
        result = self.run_program('sleep 60; echo x >"$4"', "--run-timeout-ms", "300")
        self.assertEqual(result.returncode, 1, result)
        self.assertIn("Failed: ", result.stderr)

    def test_not_a_program(self):
        path = self.folder / "plain"
        path.write_text("hello")
        result = self.command("run", path)
        self.assertEqual(result.returncode, 2, result)
        self.assertIn(str(path), result.stderr)
        self.assert_refused(self.command("run"), "PROGRAM")
        self.assert_refused(self.command("run", "--nonsense", path), "--nonsense")
        self.assert_refused(self.command("run", path, "-x"), "-x")

    def test_interrupt_ends_it_and_leaves_nothing(self):
        process = subprocess.Popen([str(WORKQUEUE), "run", str(self.script("echo 0.1; sleep 60"))],
                                   stderr=subprocess.PIPE, text=True, cwd=self.here,
                                   env=self.environment())
        self.assertIn("10 %", process.stderr.readline())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(2 * DEADLINE), 130)
        self.assertIn("Interrupted", process.stderr.read())
        process.stderr.close()
        self.assertEqual([p for p in os.listdir(self.folder) if p.startswith("workqueue-run")], [])

    @unittest.skipIf(SANITIZED, "a terminal is a terminal")
    def test_bar_on_a_terminal(self):
        ours, theirs = pty.openpty()
        process = subprocess.Popen([str(WORKQUEUE), "run", str(self.script(GOOD))], stderr=theirs,
                                   cwd=self.here, env=self.environment(LANG="C.UTF-8", TERM="xterm"))
        os.close(theirs)
        seen = b""

        def read():
            nonlocal seen
            try:
                seen += os.read(ours, 4096)
            except OSError:
                return True
            return False

        wait_for(read, "the end of the bar")
        self.assertEqual(process.wait(DEADLINE), 0)
        os.close(ours)
        self.assertIn("█", seen.decode())
        self.assertIn(b"100 %", seen)
        self.assertIn(b"\r", seen)


class HelpTest(CommandTest):
    def test_overview_fits_a_screen(self):
        result = self.command()
        self.assertEqual(result.returncode, 0, result)
        self.assertLessEqual(len(result.stdout.splitlines()), 40)
        self.assertLessEqual(max(map(len, result.stdout.splitlines())), 100)

    def test_help_is_full_sentences_in_groups(self):
        for name in self.command("--list-words").stdout.split():
            if name == "packager":
                continue  # a program of its own
            with self.subTest(name):
                result = self.command(name, "--help")
                self.assertEqual(result.returncode, 0, result)
                self.assertLessEqual(max(map(len, result.stdout.splitlines())), 80)
                self.assertEqual(self.command("help", name).stdout, result.stdout)
                words = self.command("--list-words", name).stdout.split()
                for word in words:
                    self.assertIn(word.rstrip("="), result.stdout)

    def test_unknown_command(self):
        self.assert_refused(self.command("nonsense"), "nonsense")
        self.assertRegex(self.command("--version").stdout, r"^workqueue \d+\.\d+\.\d+\n$")
