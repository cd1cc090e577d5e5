"""test_harm.py - the demo's options that bound what a job's program may do, as clients see it."""

import base64
import http.server
import threading

from harness import BUILD, TOKEN, FaceTest, demo_command

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
        self.assertEqual((last["returncode"], last["error"]), (-999, error))

    def test_run_time(self):
        self.assert_ends("echo 0.5; exec sleep 1000", "timed out after 300 ms", run_timeout_ms=300)

    def test_progress(self):
        self.assert_ends("while :; do echo no; sleep 0.05; done", "no progress for 300 ms",
                         stall_timeout_ms=300)

    def test_time_in_the_queue(self):
        server = self.serve_with(self.script("[ $2 = first ] && exec sleep 1000; echo x >$4"),
                                 workers=1, queue_timeout_ms=500)
        first = server.generate("first")
        first.until(lambda r: r["n_ahead_in_queue"] == 0, "the first one's run")
        last = server.generate("second").last()
        self.assertEqual((last["returncode"], last["error"]),
                         (-999, "waited longer than 500 ms in the queue"))

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

    def test_private_tmpdir(self):
        server = self.serve_with(self.script("touch $TMPDIR/f && echo $TMPDIR >$4"),
                                 "--private-tmpdir")
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        files = [p for p in (self.folder / "storage").iterdir() if len(p.name) == 64]
        self.assertIn("/storage/.workqueue-", files[0].read_text())
        self.assertEqual(list((self.folder / "storage").glob(".workqueue-*")), [])


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

        overview = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Overview)
        thread = threading.Thread(target=overview.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(overview.server_close)
        self.addCleanup(overview.shutdown)
        self.address = f"http://127.0.0.1:{overview.server_port}"

    def test_in_the_environment(self):
        program = self.script(f'echo "$3" >{self.folder}/third\nexec {PROCESS_DOCSET} "$@"\n')
        server = self.serve_with(program, "--token-in-environment")
        basic = base64.b64encode(f"{TOKEN}:x-auth-token".encode()).decode()
        fields = {"Authorization": "Basic " + basic,
                  "Content-Type": "application/x-www-form-urlencoded"}
        body = f"server={self.address}&documentSetId=1"
        last = server.request("POST", "/generate", fields, body).last()
        self.assertEqual((last["returncode"], last["error"]), (0, None))
        self.assertEqual(self.seen, ["Basic " + basic])
        self.assertEqual((self.folder / "third").read_text(), "-\n")
