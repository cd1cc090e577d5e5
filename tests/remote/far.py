"""far.py - a packager in Python, independent of ours: python3-stomp speaks to the broker, the test
says what is answered. It keeps its outputs on an HTTP server of its own."""

import http.server
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path

import stomp
from harness import DEADLINE

SECONDS = 2 * DEADLINE


class Shelf:
    """An HTTP server with the files that are put on it."""

    def __init__(self, test):
        files = self.files = {}
        busy = self.busy = {}  # path: so many times it says 503 first

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = files.get(self.path)
                status = 200 if body is not None else 404
                if busy.get(self.path, 0) > 0:
                    busy[self.path] -= 1
                    body, status = b"", 503
                self.send_response(status)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        test.addCleanup(thread.join)
        test.addCleanup(self.server.server_close)
        test.addCleanup(self.server.shutdown)

    def put(self, body):
        """Its URL."""
        path = f"/{len(self.files)}"
        self.files[path] = body
        return f"http://127.0.0.1:{self.server.server_port}{path}"


class Job:
    """One message that the packager got."""

    def __init__(self, packager, frame):
        self.packager, self.frame, self.headers = packager, frame, frame.headers
        body = frame.body.decode() if isinstance(frame.body, bytes) else frame.body
        self.fields = dict(line.split(": ", 1) for line in body.splitlines())
        self.id = self.fields["Package"]
        self.set = self.fields["Document-Set"]

    def say(self, body, **headers):
        self.packager.send(self.headers["reply-to"], body, **{"workqueue-inbox": self.packager.inbox},
                           **{name.replace("_", "-"): str(v) for name, v in headers.items()})

    def accept(self, seconds=45, **headers):
        self.say(f"Accepted. {seconds} seconds", **headers)

    def complete(self, output=b"done\n", size=None):
        url = self.packager.shelf.put(output)
        self.say(f"Complete: {url}\nSize: {len(output) if size is None else size}\n")


class Packager(stomp.ConnectionListener):
    """Takes jobs from `queue` and has an inbox; acknowledges at once. What `prefetch` allows comes
    without that."""

    def __init__(self, test, port, names, shelf=None):
        self.port, self.names, self.shelf = port, names, shelf or Shelf(test)
        self.jobs, self.notices, self.deletions = queue.Queue(), queue.Queue(), queue.Queue()
        self.ids = []  # of all the jobs that came
        self.lock, self.closed = threading.Lock(), False
        self.connect()
        test.addCleanup(self.close)

    def connect(self):
        self.connection = stomp.StompConnection12([("127.0.0.1", self.port)], vhost="/",
                                                  auto_decode=False)
        self.connection.set_listener("", self)
        self.connection.connect("docsets", "docsets", wait=True)
        inbox = self.names["queue_reply"].replace("{id}", f"inbox-{os.urandom(6).hex()}")
        self.inbox = ("/amq" if self.is_rabbitmq else "") + inbox
        self.connection.subscribe(inbox, id="inbox", ack="auto", headers={
            "durable": "false", "auto-delete": "true", "exclusive": "false"} if self.is_rabbitmq else {})
        self.connection.subscribe(self.names["queue_delete"], id="delete", ack="auto")
        self.connection.subscribe(self.names["queue_package"], id="jobs", ack="client-individual")

    def on_connected(self, frame):
        self.is_rabbitmq = frame.headers.get("server", "").startswith("RabbitMQ")

    def on_message(self, frame):
        if frame.headers["subscription"] == "jobs":
            self.connection.ack(frame.headers["ack"])
            job = Job(self, frame)
            self.ids.append(job.id)
            self.take(job)
        elif frame.headers["subscription"] == "inbox":
            self.notice(frame.body.decode())
        else:
            self.deletions.put(frame.body.decode())

    def take(self, job):
        self.jobs.put(job)

    def notice(self, text):
        self.notices.put(text)

    def send(self, destination, body, **headers):
        with self.lock:
            try:
                self.connection.send(destination, body, content_type="text/plain", **headers)
            except stomp.exception.NotConnectedException:
                if not self.closed:
                    raise

    def get(self, seconds=SECONDS):
        """The next job."""
        return self.jobs.get(timeout=seconds)

    def get_set(self, document_set):
        """The next job, which must be of that document set."""
        job = self.get()
        assert job.set == document_set, f"expected a job of {document_set}; got {job.fields}"
        return job

    def close(self):
        self.closed = True
        try:
            if self.connection.is_connected():
                self.connection.disconnect()
        except Exception:
            pass  # the broker was killed


class Runner(Packager):
    """A packager that runs a program for each job, and says what that says."""

    def __init__(self, test, port, names, program):
        self.program, self.running = program, {}
        super().__init__(test, port, names)
        test.addCleanup(self.kill)

    def take(self, job):
        with self.lock:
            fd, path = tempfile.mkstemp(dir=Path(self.program).parent, prefix="out.")
            os.close(fd)
            process = subprocess.Popen(
                [self.program, job.fields["Server"], job.set, job.fields["Token"], path],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.running[job.id] = process
        threading.Thread(target=self.follow, args=(job, process, Path(path)), daemon=True).start()

    def notice(self, text):
        name, _, id = text.strip().partition(": ")
        if name == "Cancel" and id in self.running:
            self.running[id].cancelled = True
            self.running[id].kill()

    def follow(self, job, process, path):
        job.accept(workqueue_alive_ms=60000)
        for line in process.stdout:
            job.say(line)
        error = process.stderr.read().decode()
        code, output = process.wait(), path.read_bytes()
        process.stdout.close(), process.stderr.close()
        if hasattr(process, "cancelled"):
            job.say("Cancelled")
        elif code != 0:
            job.say(f"Failed: Exited with code {code}\nstderr:\n{error}", workqueue_returncode=code)
        elif not output:
            job.say("Failed: invalid program: it should have written to its output file")
        else:
            job.complete(output)

    def kill(self):
        for process in self.running.values():
            if process.poll() is None:
                process.kill()


class Listener:
    """An HTTP server that has taken a request and answers only when it is told to."""

    def __init__(self):
        self.asked, self.may_answer, self.body = threading.Event(), threading.Event(), b""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.set()
                outer.may_answer.wait(SECONDS)
                try:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(outer.body)
                except OSError:
                    pass  # who asked was killed

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def wait(self):
        assert self.asked.wait(SECONDS), "expected a request"

    def answer(self, body):
        self.body = body
        self.may_answer.set()

    def __exit__(self, *_):
        self.may_answer.set()
        self.server.shutdown()
        self.server.server_close()
