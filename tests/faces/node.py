"""node.py - the clients of tests/clients, in Node and in headless Chromium."""

import contextlib
import http.server
import json
import os
import queue
import shutil
import subprocess
import threading

from harness import DEADLINE, ROOT, serve_http

CLIENTS = ROOT / "tests" / "clients"


class NodeProcess:
    """A client in Node; what it prints, line by line, with a deadline."""

    def __init__(self, test, *arguments):
        self.process = subprocess.Popen(["node", *arguments], cwd=CLIENTS, stdout=subprocess.PIPE,
                                        env={**os.environ, "TMPDIR": str(test.folder)})
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
        self.process.terminate()  # so that it ends its browser, which removes its profile
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
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


class QuietPages(http.server.SimpleHTTPRequestHandler):
    """Another origin: an empty page."""

    def do_GET(self):
        body = b"<!doctype html><title>another origin</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(ConnectionError):  # a browser that is closed does not wait for it
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def other_origin(test):
    """The address of a page of another origin than the server's."""
    return f"http://localhost:{serve_http(test, QuietPages)}/"


def browse(test, script, **told):
    """A script of tests/clients that has Chromium do what it is told."""
    told = {"chromium": shutil.which("chromium"), "timeout": 60000, **told}
    return NodeProcess(test, script, json.dumps(told))
