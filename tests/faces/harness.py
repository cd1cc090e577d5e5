"""harness.py - starts the demo plugin with scripted programs and talks to it as clients do.

Nothing here sleeps in the hope that something has happened by then: a test waits for what it wants
to see, and fails with what it saw instead when the deadline passes.

WQ_BUILD   the build tree to test (default: build)
WQ_SLOW    factor on every deadline, for sanitizers (default: 1)
"""

import base64
import http.server
import itertools
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("WQ_BUILD", ROOT / "build")).resolve()
PROGRAMS = ROOT / "tests" / "programs"
DEMO = BUILD / "demo-plugin" / "demo-plugin"
SLOW = float(os.environ.get("WQ_SLOW", "1"))
SANITIZED = SLOW != 1
DEADLINE = 20 * SLOW  # one that is not reached costs nothing
TOKEN = "tok3nofthetest"
SERVER = "http://overview.example"
OWN = "Exited with code -999\nstderr:\n"  # in front of an error that is not the program's
FIELDS = ["n_ahead_in_queue", "fraction", "message", "returncode", "error"]

plain_only = unittest.skipIf(SANITIZED, "too heavy under a sanitizer")


def allow_many_files():
    """A bare shell allows 1024 open files; the crowds here need what the hard limit gives."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 20000 if hard == resource.RLIM_INFINITY else min(hard, 20000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


allow_many_files()


def wait_for(condition, what, seconds=None, seen=None):
    """Waits until condition() is true, and returns its value; `seen` adds to the failure's words."""
    seconds = DEADLINE if seconds is None else seconds
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            more = f"; got {seen()!r}" if seen else ""
            raise AssertionError(f"expected within {seconds:g} s: {what}{more}")
        time.sleep(0.002)


def serve_http(test, handler):
    """A server of the test's own on loopback until it ends; the port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    test.addCleanup(thread.join)
    test.addCleanup(server.server_close)
    test.addCleanup(server.shutdown)
    return server.server_port


def write_until(done, job, reader, what, seen=None):
    """Has the job tell long lines, each of which the reader gets. The kernel takes megabytes for one
    that reads nothing, and who is slow is told less: no number of lines is certain to be too many."""
    lines = itertools.count()

    def write():
        text = f"{next(lines):08000d}"
        job.tell(f"printf '0.5\\t%s\\n' {text}")
        reader.until(lambda record: record["message"] == text, "another line")
        return done()
    wait_for(write, what, seen=seen)


def free_port():
    """One that nobody has, below those that the kernel gives to clients and those of real services:
    it stays free until the test uses it, and while what listens there is killed and comes back."""
    while True:
        port = random.randrange(12000, 20000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def basic(token=TOKEN, password="x-auth-token"):
    return "Basic " + base64.b64encode(f"{token}:{password}".encode()).decode()


def is_running(pid):
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class Told:
    """A job whose program does what tell() says."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        path = folder / f"{name}.told"
        if not path.exists():
            os.mkfifo(path)
        # Opened for both, so that this end never waits for the program and it never sees an end.
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def tell(self, *lines):
        for line in lines:
            os.write(self.fd, line.encode("utf-8", "surrogateescape") + b"\n")

    def progress(self, text):
        self.tell(f"printf '%s\\n' '{text}'")

    def succeed(self, output="done"):
        self.tell(f"echo '{output}' >\"$out\"; exit 0")

    def runs(self):
        """(pid, output path) of each run so far."""
        try:
            lines = (self.folder / "started").read_text().splitlines()
        except FileNotFoundError:
            return []
        runs = [line.split(" ", 2) for line in lines]
        return [(int(pid), path) for pid, name, path in runs if name == self.name]

    def wait_started(self, n=1):
        return wait_for(lambda: len(self.runs()) >= n and self.runs(), f"run {n} of {self.name}",
                        seen=self.runs)[n - 1]

    def wait_gone(self):
        """After its server was killed: another run must not leave what it is told to this one."""
        wait_for(lambda: not any(is_running(pid) for pid, _ in self.runs()), f"{self.name} gone")

    def close(self):
        os.close(self.fd)


class Head:
    """Status and headers of a response."""

    def __init__(self, text):
        first, *lines = text.split("\r\n")
        self.version, status, *_ = first.split(" ", 2)
        self.status = int(status)
        self.headers = []
        for line in lines:
            name, _, value = line.partition(":")
            self.headers.append((name.lower(), value.strip()))

    def get(self, name, default=None):
        return next((v for n, v in self.headers if n == name.lower()), default)


class Client:
    """One connection, byte by byte: what was sent is what a test says, what came is kept."""

    def __init__(self, address, receive_buffer=None, source=None):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if source:  # another client: all of 127.0.0.0/8 is this machine's
            self.sock.bind((source, 0))
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.held = b""      # received, not yet taken
        self.eof = False
        self.begin_response()

    def begin_response(self, head_only=False):
        """The next bytes are a new response's."""
        self.head = None
        self.head_only = head_only
        self.body = b""
        self.complete = False
        self._left = 0       # of the chunk or of Content-Length
        self._chunked = False
        self._until_eof = False

    @property
    def body(self):
        """Of the response so far, chunks undone."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]

    @body.setter
    def body(self, data):
        self._parts, self.size = [data], len(data)
        self._unparsed = [data] if data else []

    def send(self, data):
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def close(self):
        self.sock.close()

    def reset(self):
        """Ends the connection by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # -- reading ---------------------------------------------------------------------------------

    def _receive(self, end, what):
        poll = select.poll()  # select() knows only the first 1024 files
        poll.register(self.sock, select.POLLIN)
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            raise AssertionError(f"expected {what} in time; got "
                                 f"head {self.head and self.head.status}, body {self.body[-500:]!r}, "
                                 f"and {self.held[:200]!r}")
        data = self.sock.recv(1 << 16)
        self.held += data
        self.eof = not data

    def read_head(self, seconds=None):
        end = time.monotonic() + (seconds or DEADLINE)
        while b"\r\n\r\n" not in self.held:
            self._receive(end, "the head of a response")
            if self.eof:
                raise AssertionError(f"expected a head; got the end after {self.held!r}")
        head, _, self.held = self.held.partition(b"\r\n\r\n")
        self.head = Head(head.decode("latin1"))
        length = self.head.get("content-length")
        self._chunked = (self.head.get("transfer-encoding") or "").lower() == "chunked"
        if self.head_only or self.head.status in (204, 304):
            self.complete = True
        elif length is not None:
            self._left = int(length)
            self.complete = self._left == 0
        elif not self._chunked:
            self._until_eof = True
        return self.head

    def _take_chunk_head(self):
        if b"\r\n" not in self.held:
            return False
        line, _, rest = self.held.partition(b"\r\n")
        self._left = int(line.split(b";")[0], 16)
        if self._left == 0:
            if len(rest) < 2:
                return False
            assert rest[:2] == b"\r\n", f"expected the end of the last chunk; got {rest[:80]!r}"
            rest = rest[2:]
            self.complete = True
        else:
            self._left += 2  # its CRLF
        self.held = rest
        return True

    def _take(self):
        """Moves held bytes to the body; whether anything moved."""
        if self.complete:
            return False
        if self._until_eof:
            moved, self.held = self.held, b""
            self._add(moved)
            self.complete = self.eof
            return bool(moved) or self.eof
        if self._chunked and self._left == 0:
            return self._take_chunk_head()
        part, self.held = self.held[:self._left], self.held[self._left:]
        moved = len(part) > 0
        self._left -= len(part)
        if self._chunked:
            crlf = 2 - self._left if self._left < 2 else 0
            part = part[:len(part) - min(crlf, len(part))]
        elif self._left == 0:
            self.complete = True
        self._add(part)
        return moved

    def _add(self, part):
        """To the body; large ones come in thousands of parts, and are put together once."""
        self._parts.append(part)
        self._unparsed.append(part)
        self.size += len(part)

    def _rest(self):
        """What has not been parsed of the body."""
        if len(self._unparsed) != 1:
            self._unparsed = [b"".join(self._unparsed)]
        return self._unparsed[0]

    def more(self, end, what):
        """Reads until the body is longer, or complete."""
        if self.head is None:
            self.read_head(end - time.monotonic())
        size = self.size
        while self.size == size and not self.complete:
            if self._take():
                continue
            if self.eof:
                raise AssertionError(f"expected {what}; the connection ended in the middle, after "
                                     f"{self.body[-500:]!r}")
            self._receive(end, what)
            if self.eof and not self._until_eof:
                while self._take():
                    pass

    def read_more(self, what):
        self.more(time.monotonic() + DEADLINE, what)

    def read_raw(self):
        """Whatever comes next, uninterpreted; empty at the end of the connection."""
        try:
            self._receive(time.monotonic() + DEADLINE, "anything or the end")
        except ConnectionError:
            self.eof = True
        data, self.held = self.held, b""
        return data

    def read_all(self, seconds=None):
        end = time.monotonic() + (seconds or DEADLINE)
        if self.head is None:
            self.read_head(seconds)
        while not self.complete:
            self.more(end, "the end of the response")
        return self.body

    # -- progress records ------------------------------------------------------------------------

    def record(self, seconds=None):
        """The next record of a JSON array or of NDJSON; None at the end."""
        end = time.monotonic() + (seconds or DEADLINE)
        while True:
            rest = self._rest().lstrip(b"[, \n")
            try:
                if rest[:1] == b"{":
                    value, used = json.JSONDecoder().raw_decode(rest.decode("ascii"))
                    self._unparsed = [rest[used:]]
                    return value
            except json.JSONDecodeError:
                pass
            if self.complete:
                return None
            self.more(end, "another record")

    def message(self, seconds=None):
        """The next server-sent event that onmessage would see, the nameless; None at the end."""
        while (event := self.event(seconds)) is not None and "event" in event:
            pass
        return event

    def event(self, seconds=None):
        """The next server-sent event as a dict; None at the end."""
        end = time.monotonic() + (seconds or DEADLINE)
        while True:
            text, cut, rest = self._rest().partition(b"\n\n")
            if cut:
                lines = text.decode().split("\n")
                self._unparsed = [rest]
                fields = dict(line.split(": ", 1) for line in lines if line and line[0] != ":")
                if fields:
                    return fields
                continue
            if self.complete:
                return None
            self.more(end, "another event")

    def until(self, condition, what, seconds=None):
        """Reads records until one fulfils condition, and returns that."""
        seen = []
        while True:
            record = self.record(seconds)
            if record is None:
                raise AssertionError(f"expected a record with {what}; got the end after {seen[-5:]}")
            seen.append(record)
            if condition(record):
                return record

    def until_fraction(self, fraction):
        return self.until(lambda r: abs(r["fraction"] - fraction) < 1e-9, f"fraction {fraction}")

    def last(self, seconds=None):
        """Reads to the end, and returns the last record."""
        record = None
        while (following := self.record(seconds)) is not None:
            record = following
        return record


class Server:
    """A demo plugin that runs; options as in --help, with _ for -."""

    def __init__(self, folder, program, storage=None, command=None, listen_also=(), **options):
        self.folder = folder
        self.storage = Path(storage or folder / "storage")
        self.storage.mkdir(exist_ok=True)
        self.log_path = folder / f"log.{len(list(folder.glob('log.*')))}"
        self.sanitizer_log = folder / "sanitizer"
        self.command = command or demo_command(program, self.storage, **options)
        for address in listen_also:
            self.command += ["--listen", address]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log,
                                            env=self._environment())
        self.pid = self.process.pid
        self.terminated = False
        self.address = self._read_address()
        self.base = f"http://{self.address[0]}:{self.address[1]}"

    def _environment(self):
        env = dict(os.environ)
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            env[name] = ":".join(filter(None, [env.get(name), f"log_path={self.sanitizer_log}"]))
        return env

    def _read_address(self):
        ready = select.select([self.process.stdout], [], [], DEADLINE)[0]
        line = self.process.stdout.readline().decode() if ready else ""
        prefix = "listening on http://"
        if not line.startswith(prefix):
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"expected '{prefix}HOST:PORT' from {self.command}; got {line!r}, "
                                 f"stderr {self.log()!r}, sanitizer {self.sanitizer_reports()!r}")
        host, _, port = line[len(prefix):].strip().rstrip("/").rpartition(":")
        return host, int(port)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def sanitizer_reports(self):
        return "\n".join(p.read_text(errors="replace") for p in self.folder.glob("sanitizer.*"))

    # -- talking to it ---------------------------------------------------------------------------

    def connect(self, **options):
        return Client(self.address, **options)

    def request(self, method, path, headers=None, body=None, version="1.1", client=None):
        """Sends a request; the answer is the client's to read."""
        client = client or self.connect()
        client.send(request_bytes(method, path, headers, body, version))
        return client

    def ask(self, method, path, headers=None, body=None):
        """A request and its whole answer: head and body."""
        client = self.request(method, path, {"Connection": "close", **(headers or {})}, body)
        client.head_only = method == "HEAD"
        client.read_all()
        client.close()
        return client.head, client.body

    def generate(self, document_set, accept=None, headers=None, token=TOKEN, **more):
        """POST /generate as Overview's clients do it."""
        fields = {"Authorization": basic(token), "Content-Type": "application/x-www-form-urlencoded"}
        if accept:
            fields["Accept"] = accept
        fields.update(headers or {})
        body = f"server=http%3A%2F%2Foverview.example&documentSetId={document_set}"
        return self.request("POST", "/generate", fields, body, **more)

    # -- looking at it ---------------------------------------------------------------------------

    def files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def connections(self):
        """Its open sockets: of clients, and a few that never change."""
        n = 0
        for entry in os.scandir(f"/proc/{self.pid}/fd"):
            try:
                n += os.readlink(entry.path).startswith("socket:")
            except FileNotFoundError:
                pass
        return n

    def rss(self):
        """Resident memory in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def cpu(self):
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stored(self):
        """The names in the storage folder: the lock, outputs, and what programs have begun."""
        names = (str(path.relative_to(self.storage)) for path in self.storage.rglob("*"))
        return sorted(name for name in names
                      if name not in (".workqueue.process", ".workqueue.tmp"))

    # -- its end ---------------------------------------------------------------------------------

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self):
        """Asks it to end. Only once: a second time it would end on the spot."""
        if not self.terminated:
            self.terminated = True
            self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds=None):
        return self.process.wait(seconds or 2 * DEADLINE)

    def finish(self):
        """Ends it, if it has not ended, and looks whether it died well."""
        try:
            if self.process.poll() is None:
                self.terminate()
                try:
                    code = self.wait()
                except subprocess.TimeoutExpired:
                    self.kill()
                    raise AssertionError(f"expected an end after SIGTERM; log: {self.log()[-2000:]}")
                assert code == 0, f"expected exit 0 after SIGTERM; got {code}, {self.log()[-2000:]}"
        finally:
            self.process.stdout.close()
            reports = self.sanitizer_reports()
            assert not reports, f"expected no sanitizer report; got {reports[:8000]}"


def demo_command(program, storage, **options):
    listen = options.pop("listen", "127.0.0.1:0")  # one more would be one more address
    command = [str(DEMO), "--listen", listen, "--storage", str(storage)]
    if program:
        command += ["--program", str(program)]
    if not options.pop("sync", False):
        command.append("--no-sync")
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            command += ["--" + name.replace("_", "-")] + ([] if each is True else [str(each)])
    return command


def request_bytes(method, path, headers=None, body=None, version="1.1"):
    body = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/{version}", "Host: plugin.example"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None and "Content-Length" not in (headers or {}):
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin1") + (body or b"")


class FaceTest(unittest.TestCase):
    """A folder, a told program in it, and servers that are ended and looked at afterwards."""

    maxDiff = None

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="wq-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.told_program = self.folder / "told"
        shutil.copy(PROGRAMS / "http_told", self.told_program)

    def serve(self, program=None, **options):
        server = Server(self.folder, program or self.told_program, **options)
        self.addCleanup(server.finish)
        return server

    def told(self, name):
        job = Told(self.folder, name)
        self.addCleanup(job.close)
        return job

    def script(self, text, name="program"):
        """An executable file with this text, by default for sh."""
        path = self.folder / name
        path.write_text(text if text.startswith("#!") else "#!/bin/sh\n" + text)
        path.chmod(0o755)
        return path

    # -- assertions that many share --------------------------------------------------------------

    def assert_record(self, record):
        """The five fields in their order, each of its type."""
        self.assertEqual(list(record), FIELDS)
        self.assertIsInstance(record["n_ahead_in_queue"], int)
        self.assertTrue(0 <= record["fraction"] <= 1, record)
        if record["returncode"] is None:
            self.assertIsNone(record["error"], record)
        else:
            self.assertEqual(record["fraction"], 1.0, record)
            self.assertEqual(record["error"] is None, record["returncode"] == 0, record)
            if record["error"] is not None:  # S5: in one form, whoever is to blame
                head = f"Exited with code {record['returncode']}\nstderr:\n"
                self.assertTrue(record["error"].startswith(head), record)

    def assert_problem(self, answer, status, *words):
        """A problem document with this status, whose detail has these words; returns its head."""
        head, body = answer
        self.assertEqual(head.status, status, body)
        self.assertEqual(head.get("content-type"), "application/problem+json", body)
        is_operators = head.get("cross-origin-resource-policy") == "same-origin"
        self.assertEqual(head.get("access-control-allow-origin"), None if is_operators else "*")
        problem = json.loads(body)
        self.assertEqual(problem["status"], status)
        self.assertTrue(problem["title"], problem)
        self.assertGreater(len(problem["detail"]), 10, problem)
        for word in words:
            self.assertIn(word, problem["detail"])
        self.assertNotIn(TOKEN, body.decode())
        return head
