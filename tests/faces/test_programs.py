"""test_programs.py - what programs do to those who run them, seen by the clients."""

import json
import os
import re
import signal
import time

from harness import DEADLINE, OWN, SLOW, TOKEN, FaceTest, demo_command, is_running, plain_only, wait_for


class EndTest(FaceTest):
    """How a program ends is how its job ends."""

    def run_to_end(self, text, **options):
        """The last record of a job whose program is `text`; the server."""
        server = self.serve(self.script(text), **options)
        last = server.generate("set").last(3 * DEADLINE)
        self.assert_record(last)
        return last, server

    def failed(self, last, code, error):
        self.assertEqual((last["returncode"], last["fraction"]), (code, 1.0))
        self.assertEqual(last["error"], OWN + error if code == -999 else error)

    def test_exit_code(self):
        last, server = self.run_to_end("echo 0.5; echo so and so >&2; exit 42")
        self.failed(last, 42, "Exited with code 42\nstderr:\nso and so\n")
        self.assertEqual([name for name in server.stored() if len(name) >= 64], [])

    def test_signal(self):
        last, _ = self.run_to_end("echo last words >&2; kill -9 $$")
        self.failed(last, -9, "Exited with code -9\nstderr:\nlast words\n")
        for name in ("TERM", "INT", "HUP", "PIPE", "USR1", "SEGV"):
            with self.subTest(name):
                self.folder.joinpath("storage-" + name).mkdir()
                last, _ = self.run_to_end(f"kill -{name} $$; exit 0",
                                          storage=self.folder / ("storage-" + name))
                code = -getattr(signal, "SIG" + name)
                self.failed(last, code, f"Exited with code {code}\nstderr:\n")

    def test_empty_output(self):
        last, server = self.run_to_end("exit 0")
        error = "invalid program: it should have written to its output file"
        self.failed(last, -999, error)
        self.assertIn(error, server.log())

    def test_removed_output(self):
        last, _ = self.run_to_end('rm "$4"')
        self.assertEqual(last["returncode"], -999)
        self.assertTrue(last["error"].startswith(OWN + "Failed to stat output file: "), last)

    def test_output_made_anew(self):
        """Programs write a file beside it and rename it, as SQLite's VACUUM INTO does."""
        last, server = self.run_to_end('rm "$4"; echo whole >"$4.x"; mv "$4.x" "$4"')
        self.assertEqual(last["returncode"], 0)
        self.assertEqual(json.loads(server.generate("set").read_all()), [])

    def test_output_that_is_no_file(self):
        for i, text in enumerate(('rm "$4"; mkdir "$4"', 'rm "$4"; ln -s /etc/passwd "$4"')):
            with self.subTest(text):
                last, _ = self.run_to_end(text, storage=self.folder / f"storage{i}")
                self.assertEqual(last["returncode"], -999)

    def test_what_the_program_sees(self):
        """stdin is empty, the output is there, empty and private; nothing else is open."""
        seen = self.folder / "seen"
        text = (f"{{ cat; stat -c '%a %s' \"$4\"; ls -l /proc/self/fd | grep -c -- '->'; "
                f"umask; ps -o pgid= -p $$ | tr -d ' '; echo $$; }} >'{seen}'\n"
                # By builtins: while it forks, the shell itself blocks all signals for a moment.
                'while read -r line; do case $line in SigBlk*|SigIgn*) echo "$line" ;; esac; '
                f"done </proc/$$/status >>'{seen}'" + '\necho x >"$4"')
        last, server = self.run_to_end(text)
        self.assertEqual(last["returncode"], 0)
        mode, n_files, _, group, pid, blocked, ignored = seen.read_text().splitlines()
        self.assertEqual(mode, "600 0")
        self.assertEqual(int(n_files), 4, "ls has 0, 1, 2 and the folder it reads")
        self.assertEqual(group, pid, "its own process group")
        self.assertEqual(int(blocked.split()[1], 16), 0, "no signal blocked")
        self.assertEqual(int(ignored.split()[1], 16), 0, "no signal ignored")

    def test_closes_stdout(self):
        last, _ = self.run_to_end('echo 0.5; exec >&-; echo x >"$4"; exit 0')
        self.assertEqual(last["returncode"], 0)

    def test_closes_everything_and_lives_on(self):
        """Closed pipes are no end: the job goes on until the program does."""
        program = self.script('echo 0.5; exec >&- 2>&-; while [ ! -e ' + f"'{self.folder}/go'" +
                              ' ]; do sleep 0.02; done; echo x >"$4"')
        server = self.serve(program)
        stream = server.generate("set")
        stream.until_fraction(0.5)
        other = server.generate("set")
        self.assertIsNone(other.record()["returncode"])
        (self.folder / "go").touch()
        self.assertEqual(stream.last()["returncode"], 0)

    @plain_only
    def test_a_line_of_ten_megabytes(self):
        last, server = self.run_to_end(
            "head -c 10000000 /dev/zero | tr '\\0' x; echo; "
            "printf '0.5\\t'; head -c 10000000 /dev/zero | tr '\\0' y; echo; "
            'echo 0.75; echo x >"$4"')
        self.assertEqual(last["returncode"], 0)
        self.assertLess(server.rss(), 60 << 20)
        warnings = [line for line in server.log().splitlines() if "invalid program" in line]
        self.assertEqual(len(warnings), 1, warnings)
        self.assertLess(len(warnings[0]), 2000)

    def test_a_long_message_is_cut(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        job.tell("printf '0.5\\t'; head -c 100000 /dev/zero | tr '\\0' y; echo")
        message = stream.until_fraction(0.5)["message"]
        self.assertEqual(message, "y" * len(message))
        self.assertTrue(1000 < len(message) <= 8192, len(message))
        job.progress("0.6\tshort")
        self.assertEqual(stream.until_fraction(0.6)["message"], "short")
        job.succeed()
        stream.read_all()

    @plain_only
    def test_a_gigabyte_on_stderr(self):
        last, server = self.run_to_end("head -c 1000000000 /dev/zero | tr '\\0' e >&2; "
                                       "echo the end >&2; exit 1")
        begin = "Exited with code 1\nstderr:\n"
        tail = last["error"][len(begin):]
        self.assertTrue(last["error"].startswith(begin))
        self.assertTrue(tail.endswith("e\nthe end\n") or tail.endswith("ethe end\n"), tail[-50:])
        self.assertTrue(60000 < len(tail) <= 65536 + 200, len(tail))
        self.assertLess(server.rss(), 60 << 20)

    def test_a_grandchild_holds_the_pipes(self):
        pid_file = self.folder / "grandchild"
        program = self.script(f'setsid sh -c \'echo $$ >"{pid_file}.x"; mv "{pid_file}.x" "{pid_file}"; '
                              f'exec sleep 300\' & while ! [ -e "{pid_file}" ]; do sleep 0.02; done; '
                              'echo 0.9; echo x >"$4"; exit 0')
        server = self.serve(program, cgroup="none")  # else the grandchild ends with its job
        begin = time.monotonic()
        last = server.generate("set").last()
        try:
            self.assertEqual(last["returncode"], 0)
            self.assertLess(time.monotonic() - begin, 5 + DEADLINE / 2)
        finally:
            os.kill(int(pid_file.read_text()), signal.SIGKILL)

    def test_what_was_written_just_before_the_exit_is_read(self):
        last, _ = self.run_to_end("i=0; while [ $i -lt 500 ]; do echo 0.$i; i=$((i+1)); done; "
                                  "echo 'the reason' >&2; exit 5")
        self.failed(last, 5, "Exited with code 5\nstderr:\nthe reason\n")

    def test_a_line_without_its_end(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        job.tell("printf '0.5\\tno newline'; echo x >\"$out\"; exit 0")
        self.assertEqual(stream.last()["returncode"], 0)

    def test_gone_after_the_start(self):
        program = self.script('echo x >"$4"')
        server = self.serve(program)
        program.unlink()
        last = server.generate("set").last()
        self.assertEqual(last["returncode"], -999)
        self.assertIn(str(program), last["error"])
        self.assertIn("No such file or directory", last["error"])

    def test_interpreter_missing(self):
        last, _ = self.run_to_end("#!/no/such/interpreter\n")
        self.assertEqual(last["returncode"], -999)
        self.assertIn("No such file or directory", last["error"])

    def test_not_executable_any_more(self):
        program = self.script('echo x >"$4"')
        server = self.serve(program)
        program.chmod(0o644)
        last = server.generate("set").last()
        self.assertEqual(last["returncode"], -999)
        self.assertIn("Permission denied", last["error"])
        program.chmod(0o755)
        self.assertEqual(server.generate("set").last()["returncode"], 0)

    @plain_only
    def test_small_stacks(self):
        """A host may give its threads 128 KiB each, as musl does."""
        command = ["sh", "-c", 'ulimit -s 128; exec "$@"', "sh",
                   *demo_command(self.script('echo x >"$4"'), self.folder / "storage", sync=True)]
        server = self.serve(command=command)
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        self.assertIsNone(server.process.poll())

    def test_many_short_programs(self):
        server = self.serve(self.script('echo x >"$4"'), workers=4)
        files = None
        for round_ in range(3):
            streams = [server.generate(f"set{round_}-{i}") for i in range(100)]
            for stream in streams:
                self.assertEqual(stream.last()["returncode"], 0)
                stream.close()
            if files is None:
                wait_for(lambda: server.files() < 80, "connections closed", seen=server.files)
                files = server.files()
        wait_for(lambda: server.files() <= files, f"{files} open files again", seen=server.files)


class ProgressLineTest(FaceTest):
    """The lines on stdout."""

    def test_invalid_line_warns_once_a_job(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        job.tell(r"""printf 'what\033[31mis\tthis\377\n'""", "echo again", "echo 0.5")
        record = stream.until_fraction(0.5)
        self.assertIsNone(record["message"])
        job.succeed()
        stream.read_all()
        warnings = [line for line in server.log().splitlines() if "invalid program" in line]
        self.assertEqual(len(warnings), 1, warnings)
        self.assertIn("stdout must look like '0.25<TAB>message'; got 'what", warnings[0])
        self.assertTrue(warnings[0].isascii() and warnings[0].isprintable(), warnings[0])
        self.assertNotIn("again", warnings[0])
        other = server.generate("set2")
        other.read_all()
        again = self.told("set3")
        stream = server.generate("set3")
        again.tell("echo nonsense", "echo 0.5")
        stream.until_fraction(0.5)
        wait_for(lambda: server.log().count("invalid program") == 2, "a warning for the second job",
                 seen=server.log)
        again.succeed()
        stream.read_all()

    def test_p1_a_bar_that_is_drawn_again_and_again(self):
        """Records that end in \\r come at once, and keep a stall timeout from striking."""
        server, job = self.serve(stall_timeout_ms=int(2000 * SLOW)), self.told("set")
        stream = server.generate("set")
        begin = time.monotonic()
        for i in range(1, 8):
            job.tell(f"printf '\\r%3d%%|##        | {i}/10 [00:00<00:05, 2.0it/s]\\r' {10 * i}")
            stream.until_fraction(i / 10)
            job.tell(f"printf '0.{i}5\\r'")
            stream.until_fraction(i / 10 + 0.05)
            while time.monotonic() < begin + 0.5 * SLOW * i:
                time.sleep(0.01)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)
        self.assertNotIn("invalid program", server.log())

    def test_p1_what_can_only_mean_one_thing(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        for line, fraction in ((" 0.1", 0.1), ("0.2 ", 0.2), ("+0.3", 0.3), ("25%", 0.25), ("12.5 %", 0.125),
                               ("3 of 4", 0.75), ("1.0000000000000002", 1), ("100%", 1)):
            with self.subTest(line):
                job.progress(line)
                stream.until_fraction(fraction)
                job.progress("0.01")
                stream.until_fraction(0.01)
        job.succeed()
        stream.read_all()

    def test_p1_the_log_says_what_was_meant_and_how_many(self):
        for i, (line, hint) in enumerate((("25", "25 is more than 1: 0.25, or 25%?"),
                                          ("0,25", "a decimal comma?"), ('{"fraction": 0.25}', "JSON?"),
                                          (r"0.25\tpage 7", "a backslash and a t"))):
            with self.subTest(line):
                program = self.script(f"printf '%s\\n' '{line}' '{line}'; echo x >\"$4\"", f"program{i}")
                (self.folder / f"storage{i}").mkdir()
                server = self.serve(program, storage=self.folder / f"storage{i}")
                self.assertEqual(server.generate("set").last()["returncode"], 0)
                shown = line.replace("\\", "\\\\")
                self.assertIn(f"invalid program: stdout must look like '0.25<TAB>message'; got '{shown}'; ",
                              server.log())
                self.assertIn(hint, server.log())
                self.assertIn("2 lines of stdout were no progress and ignored", server.log())

    def test_what_is_no_progress(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        self.assertEqual(stream.record()["fraction"], 0)
        for line in ("", " ", "nan", "inf", "-0.1", "1.1", "0x1", "0.5 message", "1/0", "5/3", "a/b",
                     "-1/2", "0.25.1", ",5", "0,5"):
            job.progress(line)
        job.progress("0.123\tend")
        # Every change is a record here, so the first one that differs is the end's.
        record = stream.until(lambda r: r["fraction"] != 0 or r["message"], "the first change")
        self.assertEqual((record["fraction"], record["message"]), (0.123, "end"))
        job.succeed()
        stream.read_all()

    def test_forms_of_a_fraction(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        for line, fraction, message in (("0.1", 0.1, None), ("0.2\t", 0.2, ""), ("0.3\ta\tb", 0.3, "a\tb"),
                                        ("4/10", 0.4, None), ("5/10\tx", 0.5, "x"), ("1", 1, None),
                                        ("0", 0, None), ("0.25\r", 0.25, None)):
            with self.subTest(line):
                job.tell("printf '%s\\n' '" + line.replace("\r", "'\"$(printf '\\r')\"'") + "'")
                record = stream.until(lambda r: r["fraction"] == fraction, f"fraction {fraction}")
                self.assertIn(record["message"], (message, message or None))
                self.assertIsNone(record["returncode"])
        job.succeed()
        stream.read_all()


class TokenTest(FaceTest):
    def test_the_token_is_nowhere(self):
        """Not in the storage, nor in a log, nor in an error of ours."""
        token = "q7z9token5secret"
        program = self.script('echo nonsense; exit 0')
        server = self.serve(program)
        server.generate("set", token=token).last()
        program.unlink()
        last = server.generate("set", token=token).last()
        self.assertNotIn(token, last["error"])
        server.ask("GET", f"/generate?server=x&apiToken={token}&documentSetId=%zz")
        server.ask("GET", f"/show?server=x&apiToken={token}&documentSetId=1&origin=http://o.example")
        server.ask("GET", f"/search?server=x&apiToken={token}&documentSetId=1&q=a")
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertNotIn(token, server.log())
        self.assertNotIn(token, server.process.stdout.read().decode())
        self.assertNotIn(token, "\n".join(server.stored()))

    def test_a_program_that_tells_it(self):
        """An error hides it; a message is told as the program has written it."""
        token = "q7z9token5secret"
        server = self.serve(self.script(r'printf "0.5\ta %s b\n" "$3"; echo $3 >&2; exit 1'))
        last = server.generate("set", token=token).last()
        self.assertEqual(last["message"], f"a {token} b")
        self.assertEqual(last["error"], "Exited with code 1\nstderr:\n****************\n")
