"""test_clients.py - the clients that people use: Oboe, streaming parsers, EventSource, a browser."""

import http.server
import json
import queue
import shutil
import subprocess
import threading

from harness import DEADLINE, ROOT, SANITIZED, TOKEN, FaceTest, plain_only

CLIENTS = ROOT / "tests" / "clients"
ARRAY_CLIENTS = ("oboe !.*", "oboe ![*]", "@streamparser/json", "stream-json")


class NodeProcess:
    """A client in Node; what it prints, line by line, with a deadline."""

    def __init__(self, test, *arguments):
        self.process = subprocess.Popen(["node", *arguments], cwd=CLIENTS, stdout=subprocess.PIPE)
        self.lines = queue.Queue()
        self.thread = threading.Thread(target=self._pump)
        self.thread.start()
        test.addCleanup(self._end)
        self.seen = []

    def _pump(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def _end(self):
        self.process.kill()
        self.process.wait()
        self.thread.join()
        self.process.stdout.close()

    def next(self, seconds=3 * DEADLINE):
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"expected something of the client; got {self.seen}") from None
        if line is None:
            raise AssertionError(f"expected something of the client; it ended after {self.seen}")
        self.seen.append(line)
        return line

    def until(self, condition, what):
        while True:
            line = self.next()
            if condition(line):
                return line
            if "end" in line:
                raise AssertionError(f"expected {what}; got {self.seen}")

    def until_fraction(self, fraction):
        return self.until(lambda l: "record" in l and l["record"]["fraction"] == fraction,
                          f"fraction {fraction}")["record"]

    def end(self):
        """The last line, and the records before it."""
        line = self.until(lambda l: "end" in l, "the end")
        return line, [l["record"] for l in self.seen if "record" in l]


class NodeTest(FaceTest):
    def client(self, server, name, document_set="set"):
        return NodeProcess(self, "client.mjs", name, server.base, document_set, TOKEN)

    def each(self, names):
        """A fresh job and a server for each client."""
        server = self.serve(workers=8, heartbeat_ms=50)
        for i, name in enumerate(names):
            with self.subTest(name):
                yield name, server, self.told(f"set{i}"), f"set{i}"

    def test_records_as_they_come_and_done(self):
        for name, server, job, document_set in self.each(ARRAY_CLIENTS + ("fetch",)):
            client = self.client(server, name, document_set)
            self.assert_record(client.next()["record"])
            job.progress("0.25\tcafé 𝄞")
            self.assertEqual(client.until_fraction(0.25)["message"], "café 𝄞")
            job.progress("0.5")
            client.until_fraction(0.5)
            job.succeed()
            end, records = client.end()
            self.assertEqual(end, {"end": "done"})
            self.assertEqual((records[-1]["returncode"], records[-1]["fraction"]), (0, 1))
            for record in records:
                self.assert_record(record)

    def test_failure(self):
        for name, server, job, document_set in self.each(ARRAY_CLIENTS + ("fetch",)):
            client = self.client(server, name, document_set)
            client.next()
            job.tell("echo 'sorry \"é\"' >&2", "exit 1")
            end, records = client.end()
            self.assertEqual(end, {"end": "done"})
            self.assertEqual((records[-1]["returncode"], records[-1]["fraction"], records[-1]["error"]),
                             (1, 1, 'Exited with code 1\nstderr:\nsorry "é"\n'))

    def test_done_job(self):
        server = self.serve()
        server.generate("set").read_all()
        for name in ARRAY_CLIENTS + ("fetch",):
            with self.subTest(name):
                self.assertEqual(self.client(server, name).end(), ({"end": "done"}, []))

    def test_the_server_stops(self):
        for i, name in enumerate(ARRAY_CLIENTS + ("fetch",)):
            with self.subTest(name):
                server, job = self.serve(storage=self.folder / f"storage{i}"), self.told(f"set{i}")
                client = self.client(server, name, f"set{i}")
                client.next()
                server.terminate()
                end, records = client.end()
                self.assertEqual(end, {"end": "done"})
                self.assertEqual(records[-1]["returncode"], -999)
                job.close = lambda: None

    def test_oboe_gets_a_problem(self):
        server = self.serve(allow_server=["http://elsewhere.example"])
        end, records = self.client(server, "oboe !.*").end()
        self.assertEqual((end["end"], end["status"], records), ("failed", 403, []))
        self.assertEqual(json.loads(end["body"])["status"], 403)

    def test_event_source_stops_at_the_end(self):
        for how, text in (("success", 'echo x >"$out"; exit 0'), ("failure", "exit 1")):
            with self.subTest(how):
                server, job = self.serve(storage=self.folder / how), self.told(how)
                client = self.client(server, "EventSource", how)
                self.assert_record(client.next()["record"])
                job.progress("0.5")
                client.until_fraction(0.5)
                job.tell(text)
                end, records = client.end()
                self.assertEqual((end["end"], end["status"]), ("done", 204))
                self.assertEqual([r["returncode"] is None for r in records],
                                 [True] * (len(records) - 1) + [False])
                self.assertEqual(len(job.runs()), 1)

    def test_event_source_comes_back(self):
        """Its server goes and another comes at the same address: the job runs again, once."""
        server, job = self.serve(), self.told("set")
        client = self.client(server, "EventSource")
        client.next()
        server.kill()
        again = self.serve(storage=server.storage, listen="%s:%d" % server.address)
        job.wait_started(2)
        job.progress("0.75")
        client.until_fraction(0.75)
        job.succeed()
        end, records = client.end()
        self.assertEqual((end["end"], records[-1]["returncode"]), ("done", 0))
        self.assertEqual(len(job.runs()), 2)
        del again


class LatTest(FaceTest):
    """LAT, the one public client of the progress fields, by its own rules."""

    def client(self, server, document_set):
        return NodeProcess(self, "client.mjs", "lat", server.base, document_set, TOKEN)

    def test_success(self):
        server, job = self.serve(), self.told("set")
        client = self.client(server, "set")
        job.succeed()
        self.assertEqual(client.end()[0], {"end": "success"})
        self.assertEqual(self.client(server, "set").end()[0], {"end": "success"}, "done before")

    def test_failure(self):
        server, job = self.serve(), self.told("set")
        client = self.client(server, "set")
        job.tell("echo why >&2; exit 2")
        self.assertEqual(client.next(), {"shown": "Error: Exited with code 2\nstderr:\nwhy\n"})
        self.assertEqual(client.end()[0], {"end": "no success"})

    def test_waiting(self):
        server = self.serve(workers=1)
        first, second, third = self.told("first"), self.told("second"), self.told("third")
        streams = [server.generate("first")]
        streams[0].record()
        streams.append(server.generate("second"))
        streams[1].record()
        client = self.client(server, "third")
        self.assertEqual(client.next(), {"shown": "Waiting for other 2 uploads"})
        first.succeed()
        self.assertEqual(client.next(), {"shown": "Waiting for other 1 uploads"})
        second.succeed()
        third.succeed()
        self.assertEqual(client.end()[0], {"end": "success"})


class QuietPages(http.server.SimpleHTTPRequestHandler):
    """Another origin: an empty page."""

    def do_GET(self):
        body = b"<!doctype html><title>another origin</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@plain_only
class BrowserTest(FaceTest):
    """A page of another origin in headless Chromium."""

    def setUp(self):
        super().setUp()
        self.pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), QuietPages)
        thread = threading.Thread(target=self.pages.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.pages.server_close)
        self.addCleanup(self.pages.shutdown)

    def browse(self, **told):
        told = {"chromium": shutil.which("chromium"), "timeout": 60000, **told}
        return NodeProcess(self, "browser.mjs", json.dumps(told))

    def watch(self, server, client):
        return self.browse(page="http://localhost:%d/" % self.pages.server_port, client=client,
                           base=server.base, documentSet="set", token=TOKEN)

    def test_oboe(self):
        server, job = self.serve(), self.told("set")
        client = self.watch(server, "oboe")
        self.assert_record(client.next()["record"])
        job.progress("0.5\thalf")
        self.assertEqual(client.until_fraction(0.5)["message"], "half")
        job.succeed()
        end, records = client.end()
        self.assertEqual((end["end"], records[-1]["returncode"]), ("done", 0))

    def test_fetch(self):
        server, job = self.serve(), self.told("set")
        client = self.watch(server, "fetch")
        client.next()
        job.progress("0.5\thalf")
        client.until(lambda l: "half" in l.get("text", ""), "the record as it comes")
        job.succeed()
        self.assertEqual(client.end()[0]["records"][-1]["returncode"], 0)

    def test_event_source(self):
        server, job = self.serve(), self.told("set")
        client = self.watch(server, "EventSource")
        client.next()
        job.progress("0.5")
        client.until_fraction(0.5)
        job.succeed()
        end, records = client.end()
        self.assertEqual((end["end"], records[-1]["returncode"]), ("done", 0))
        self.assertEqual(len(job.runs()), 1)
