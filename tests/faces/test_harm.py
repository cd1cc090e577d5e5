"""test_harm.py - the demo's options that bound what a job's program may do, as clients see it."""

import base64
import http.server
import os
import resource
from unittest import SkipTest

from harness import BUILD, OWN, TOKEN, FaceTest, demo_command, is_running, serve_http, wait_for

PROCESS_DOCSET = BUILD / "demo-plugin" / "process-docset"
SET = (b'{"selectionId":"x","pagination":{"offset":0,"limit":9,"total":1},"items":['
       b'{"id":1,"title":"one","text":"words","url":null}]}')


class ServedTest(FaceTest):
    def serve_with(self, program, *flags, **options):
        storage = self.folder / "storage"
        command = demo_command(program, storage, **options) + list(flags)
        return self.serve(storage=storage, command=command)


class HarmTest(ServedTest):
    def assert_ends(self, text, error, **options):
        server = self.serve_with(self.script(text), grace_ms=300, **options)
        last = server.generate("set").last()
        self.assert_record(last)
        self.assertEqual((last["returncode"], last["error"]), (-999, OWN + error))

    def test_run_time(self):
        self.assert_ends("echo 0.5; exec sleep 1000", "timed out after 300 ms", run_timeout_ms=300)

    def test_progress(self):
        self.assert_ends("while :; do echo no; sleep 0.05; done", "no progress for 300 ms",
                         stall_timeout_ms=300)

    def test_time_in_the_queue(self):
        server = self.serve_with(self.script("[ $2 = first ] && exec sleep 1000; echo x >$4"),
                                 workers=1, queue_timeout_ms=1000)
        first = server.generate("first")
        first.until(lambda r: r["n_ahead_in_queue"] == 0, "the first one's run")
        last = server.generate("second").last()
        self.assertEqual((last["returncode"], last["error"]),
                         (-999, OWN + "waited longer than 1000 ms in the queue"))

    def test_output(self):
        self.assert_ends("head -c 2000 /dev/zero >$4; exit 0",
                         "wrote more than 1000 bytes to its output file", max_output_bytes=1000)

    def test_processor(self):
        self.assert_ends("while :; do :; done", "used more than 1 s of CPU", max_cpu_s=1)

    def test_memory(self):
        server = self.serve_with(
            self.script("head -c 300000000 /dev/zero | LC_ALL=C tail -n 1 >$4"),
            max_memory_bytes=100 << 20)
        self.assertIn("memory exhausted", server.generate("set").last()["error"])

    def test_the_log_stays_lines_that_can_be_read(self):
        """Whatever a client sends: nothing breaks a line or a terminal, or fills the disk."""
        server = self.serve_with(self.script('printf "%s %s\\n" "$1" "$2"; echo "$1 $2" >&2; exit 1'))
        evil = "%0d%0aforged%1b[31m%00"
        for document_set in ("%c3%a9%e2%80%a8%c2%9b31m" * 15, evil, "x" * 100000):
            server.ask("POST", "/run?server=http://o/" + "%e2%80%ae" * 600 +
                       f"&documentSetId={document_set}&apiToken=some-token-or-other")
        for path in ("/work/" + evil, "/nothing" + evil, "/generate?" + evil):
            server.ask("GET", path, {"Authorization": "Basic \x1b[31m", "X-Lunkwill": "\x1b" * 2000})
        server.ask("POST", "/generate", {"Content-Type": "application/json"},
                   '{"server": "\\u001b\\n", "documentSetId": "\\r", "apiToken": "\\u0000"}')
        wait_for(lambda: "(the program ended with exit code 1)" in server.log(), "the failure in the log",
                 seen=server.log)
        log = server.log_path.read_bytes()
        self.assertNotIn(b"forged", log)
        self.assertNotIn(b"some-token-or-other", log)
        for line in log.split(b"\n"):
            self.assertLess(len(line), 1100)
            self.assertEqual([byte for byte in line if not 32 <= byte < 127], [], line)

    def test_private_tmpdir(self):
        server = self.serve_with(self.script("touch $TMPDIR/f && echo $TMPDIR >$4"),
                                 "--private-tmpdir")
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        files = [p for p in (self.folder / "storage").iterdir() if len(p.name) == 64]
        self.assertIn("/storage/.workqueue.tmp/", files[0].read_text())
        self.assertEqual(list((self.folder / "storage" / ".workqueue.tmp").iterdir()), [])


class GivenTest(ServedTest):
    """What of the server a program is given."""

    def run_and_read(self, text, *flags):
        server = self.serve_with(self.script(f"{{ {text}; }} >$4"), *flags)
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        server.finish()
        output = next(p for p in server.storage.iterdir() if len(p.name) == 64)
        text = output.read_text()
        output.unlink()
        return text

    def test_environment(self):
        os.environ["WQ_TEST_SECRET"] = "for the server only"
        self.addCleanup(os.environ.pop, "WQ_TEST_SECRET")
        by_default = self.run_and_read("env")
        self.assertNotIn("WQ_TEST_SECRET=", by_default)
        self.assertIn("PATH=" + os.environ["PATH"], by_default.split("\n"))
        self.assertIn("WQ_TEST_SECRET=", self.run_and_read("env", "--environment", "*"))
        lines = self.run_and_read("env", "--environment", "PATH", "--environment", "MADE=up").split("\n")
        self.assertIn("PATH=" + os.environ["PATH"], lines)
        self.assertIn("MADE=up", lines)
        self.assertLessEqual({line.partition("=")[0] for line in lines},
                             {"PATH", "MADE", "PWD", "OLDPWD", "PYTHONUNBUFFERED", "SHLVL", "_", ""})

    def test_open_files(self):
        """The server raises its own limit; programs get the one that it was started with."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (321, before[1]))
        try:
            told = self.run_and_read("ulimit -Sn; ulimit -Hn")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        self.assertEqual(told.split(), ["321", str(before[1])])


class FarAwayTest(ServedTest):
    """One that has left the program's process group and session."""

    def start(self, *flags):
        server = self.serve_with(self.script(
            "cd ${0%/*}; (setsid sh -c 'trap \"\" TERM; echo $$ >far.new; mv far.new far; "
            "exec sleep 1000' >/dev/null 2>&1 &)\nuntil [ -s far ]; do sleep 0.01; done\n"
            "echo 0.5; [ $2 = ends ] || exec sleep 1000; echo x >$4"), *flags, grace_ms=300)
        if "without control groups" in server.log():
            raise SkipTest("no control group can be made here")
        return server

    def far_away(self):
        return int((self.folder / "far").read_text())

    def test_ends_with_the_job(self):
        server = self.start()
        self.assertEqual(server.generate("ends").last()["returncode"], 0)
        self.assertFalse(is_running(self.far_away()))

    def test_ends_with_a_killed_server(self):
        server = self.start()
        server.generate("stays").until_fraction(0.5)
        server.kill()
        wait_for(lambda: not is_running(self.far_away()), "its end")

    def test_without_control_groups(self):
        server = self.start("--cgroup", "none")
        self.assertEqual(server.generate("ends").last()["returncode"], 0)
        self.assertTrue(is_running(self.far_away()))
        os.kill(self.far_away(), 9)


class TokenTest(ServedTest):
    """process-docset finds its token where ps does not."""

    def setUp(self):
        super().setUp()
        self.seen = []

        class Overview(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):
                self.seen.append(handler.headers["Authorization"])
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(SET)))
                handler.end_headers()
                handler.wfile.write(SET)

            def log_message(handler, *_):
                pass

        self.address = f"http://127.0.0.1:{serve_http(self, Overview)}"

    def test_in_the_environment(self):
        program = self.script(f'echo "$3" >{self.folder}/third\nexec "{PROCESS_DOCSET}" "$@"\n')
        server = self.serve_with(program, "--token-in-environment")
        basic = base64.b64encode(f"{TOKEN}:x-auth-token".encode()).decode()
        fields = {"Authorization": "Basic " + basic,
                  "Content-Type": "application/x-www-form-urlencoded"}
        body = f"server={self.address}&documentSetId=1"
        last = server.request("POST", "/generate", fields, body).last()
        self.assertEqual((last["returncode"], last["error"]), (0, None))
        self.assertEqual(self.seen, ["Basic " + basic])
        self.assertEqual((self.folder / "third").read_text(), "-\n")
