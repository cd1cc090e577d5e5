"""test_agree.py - one scripted job, driven through every face: all tell the same of it.

A new face is a row in FACES. A face is a generator over a running server: it asks for the job of
PARAMS and yields; once the program runs, it does what it waits by and yields again; when the job
has ended, or was told to, it returns what it has been told, a dict with any of

    state    "succeeded", "failed" or "cancelled"
    record   the last progress record
    error    that says why
    says     a sentence for a person, with that error in it
    output   the bytes

or None, if it had no way to be told any more.
"""

import hashlib
import json
import select
import shutil
import struct
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

from harness import DEADLINE, OWN, SANITIZED, SERVER, TOKEN, FaceTest, Told, basic, wait_for

PARAMS = {"server": SERVER, "documentSetId": "set", "apiToken": TOKEN}
FORM = {"Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"}
BODY = urlencode({"server": SERVER, "documentSetId": "set"})
OUTPUT = b"the\0output\xff\n" * 1000
LOCK = ".workqueue.lock"
RUNNING = ("spooled", "processing", "buffering")


def key():
    """The contract's words: SHA-256 over the three, each preceded by its length."""
    digest = hashlib.sha256()
    for text in PARAMS.values():
        digest.update(struct.pack(">Q", len(text)) + text.encode())
    return digest.hexdigest()


# ---- what was told, from the forms it is told in -------------------------------------------------


def from_record(record):
    """None: the stream had nothing to tell, for the output is there already."""
    if record is None:
        return {"state": "succeeded"}
    error = record["error"] and record["error"].removeprefix(OWN)
    cancelled = (error or "").startswith("cancelled")
    state = "succeeded" if record["returncode"] == 0 else "cancelled" if cancelled else "failed"
    return {"state": state, "record": record, "error": error}


def from_answer(client):
    if client.head.status == 200:
        return {"state": "succeeded", "output": client.body, "error": None}
    state = {500: "failed", 410: "cancelled"}[client.head.status]
    return {"state": state, "says": json.loads(client.body)["detail"]}


def asked(server, path):
    """A GET on a connection of its own, read to the end."""
    client = server.request("GET", path)
    client.read_all()
    client.close()
    return client


def last_answer(server, client, path):
    """What one is told on the connection that it has when the server stops: an answer in full, which
    may be of the time before, or None, the end of the connection."""
    try:
        client.begin_response()
        server.request("GET", path, client=client)
        return client.read_all()
    except ConnectionError:
        return None
    except AssertionError:
        assert client.eof and client.head is None, f"expected an answer or the end; got {client.body}"
        return None


def until_taken(server, client, name):
    """Until the request is held, or answered: who stops the server sooner may be too soon for it."""
    held = f'workqueue_held_responses{{face="{name}"}} 1'.encode()
    wait_for(lambda: select.select([client.sock], [], [], 0)[0] or held in asked(server, "/metrics").body,
             f"the request of {name} to be taken")


# ---- the faces -----------------------------------------------------------------------------------


def stream(accept):
    def face(server):
        client = server.generate("set", accept=accept)
        client.read_head()
        record = client.record()
        yield
        yield
        while (following := client.record()) is not None:
            record = following
        return from_record(record)
    return face


def events(server):
    client, record = server.generate("set", accept="text/event-stream"), None
    client.read_head()
    yield
    yield
    while (event := client.message()) is not None:
        record = json.loads(event["data"])
    return from_record(record)


def poll(server):
    client = server.request("POST", "/start_work", FORM, BODY)
    client.read_all()
    assert client.head.status == 303, client.head.status
    location = client.head.get("location")
    yield

    def ask():
        client.begin_response()
        server.request("GET", location, client=client)
    ask()
    until_taken(server, client, "poll")
    yield
    client.read_all()
    while client.head.status == 303:
        # told of the start only now; and who waits no more may find the connection closed
        if not server.terminated:
            ask()
            client.read_all()
        elif last_answer(server, client, location) is None:
            return None
    return from_answer(client)


def work_events(server):
    client = server.request("POST", "/start_work", FORM, BODY)
    client.read_all()
    path = client.head.get("location")
    yield
    client, record = server.request("GET", path, {"Accept": "text/event-stream"}), None
    client.read_head()
    yield
    while (event := client.message()) is not None:
        record = json.loads(event["data"])
    return from_record(record)


def run(server):
    client = server.request("POST", "/run", FORM, BODY)
    until_taken(server, client, "run")
    yield
    yield
    client.read_all()
    return from_answer(client)


def lunkwill(form):
    def face(server):
        client = server.request("POST", "/run", {**FORM, "X-Lunkwill": form}, BODY)
        client.read_all()
        yield
        yield
        if client.head.status != 201:  # suggested, and there already
            return from_answer(client)
        path = "/api/lunkwill/" + json.loads(client.body)["id"]
        if server.terminated:
            body = last_answer(server, client, path + "/summary")
            status = body and json.loads(body)["status"]
            return {"state": "cancelled" if status in RUNNING else status} if status else None
        while True:
            summary = json.loads(asked(server, path + "/summary").body)
            if summary["status"] not in RUNNING:
                break
            time.sleep(summary["delay_ms"] / 1000)
        told = from_answer(asked(server, path + "/response"))
        assert (summary["status"] == "cancelled") == (told["state"] == "cancelled"), summary
        return told
    return face


def task(server):
    client = server.request("POST", "/api/tasks/", FORM, BODY)
    client.read_all()
    path = "/api/tasks/" + json.loads(client.body)["data"]["task_id"] + "/"
    yield
    yield
    ends = {"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "cancelled"}

    def end(body):
        return ends.get(json.loads(body)["data"]["task_status"])
    if not server.terminated:
        return {"state": wait_for(lambda: end(asked(server, path).body), "the task's end")}
    body = last_answer(server, client, path)
    return {"state": end(body) or "cancelled"} if body else None


def frames(client):
    """The messages up to the close, as (opcode, payload)."""
    data = b""

    def take(n):
        nonlocal data
        while len(data) < n:
            client.more(time.monotonic() + DEADLINE, "another frame")
            data, client.body = data + client.body, b""
        taken, data = data[:n], data[n:]
        return taken
    opcode = None
    while opcode != 8:
        opcode, size = take(2)
        assert opcode & 0x80 and not size & 0x80, "expected whole frames, not masked"
        opcode &= 15
        size = (struct.unpack(">H", take(2))[0] if size == 126 else
                struct.unpack(">Q", take(8))[0] if size == 127 else size)
        yield opcode, take(size)


def websocket(server):
    client = server.request("GET", "/generate?" + urlencode(PARAMS), {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert client.read_head().status == 101, client.head.status
    record = None
    yield
    yield
    for opcode, payload in frames(client):
        if opcode == 1:
            record = json.loads(payload)
    return from_record(record)


FACES = {
    "array": stream("application/json"),
    "ndjson": stream("application/x-ndjson"),
    "events": events,
    "websocket": websocket,
    "poll": poll,
    "work events": work_events,
    "run": run,
    "lunkwill suggest": lunkwill("suggest"),
    "lunkwill require": lunkwill("require"),
    "task": task,
}

# ---- the job -------------------------------------------------------------------------------------


class AgreeTest(FaceTest):
    """Each test is an end; each face is driven alone, and then all of them on one job."""

    def setUp(self):
        super().setUp()
        self.good = self.folder / "good"
        self.good.write_bytes(OUTPUT)

    def id_of(self, server):
        """The id of the job, from a stream that joins it."""
        client = server.generate("set", accept="text/event-stream")
        id = client.event()["id"].partition(".")[0]
        client.close()
        return id

    # -- how it ends: each makes the job end so

    def end_well(self, server, job):
        job.tell("printf '0.25\\thalf of a half\\n3/4\\tmost\\n'",
                 f"cat '{self.good}' >\"$out\"; exit 0")

    def end_badly(self, server, job):
        job.tell("printf '0.5\\thalf\\n'", "echo 'not like this' >&2; echo x >\"$out\"; exit 3")

    def write_nothing(self, server, job):
        job.tell("exit 0")

    def die(self, server, job):
        job.tell("kill -9 $$")

    def cancel(self, server, job):
        head, body = server.ask("DELETE", "/work/" + self.id_of(server))
        self.assertIn(head.status, (200, 202, 204), body)

    def run_on(self, server, job):
        job.tell("printf '0.5\\thalf\\n'")

    def stop(self, server, job):
        server.terminate()

    # -- driving

    def make_bed(self, **options):
        """A server and its job, in a folder of their own."""
        bed = Path(tempfile.mkdtemp(dir=self.folder))
        program = shutil.copy(self.told_program, bed)
        job = Told(bed, "set")
        self.addCleanup(job.close)
        return self.serve(program, storage=bed / "storage", **options), job

    def begin(self, server, faces, job=None):
        """The faces, waiting."""
        waiting = {name: face(server) for name, face in faces.items()}
        for face in waiting.values():
            next(face)
        if job is not None:
            job.wait_started()
        for face in waiting.values():
            next(face)
        return waiting

    def check_told(self, waiting, expected):
        """Waits for what each face is told, and finds nothing in it but what is so."""
        for name, face in waiting.items():
            with self.subTest(name), self.assertRaises(StopIteration) as raised:
                next(face)
            told = raised.exception.value
            for part in told or {}:
                with self.subTest(name, part=part):
                    if part == "says":
                        self.assertIn(expected["error"], told["says"])
                    else:
                        self.assertEqual(told[part], expected[part])

    def check_stored(self, server, job, expected):
        stored = [name for name in server.stored() if name != LOCK]
        if expected["state"] == "succeeded":
            self.assertEqual(stored, [key()])
            self.assertEqual((server.storage / key()).read_bytes(), expected["output"])
        else:
            self.assertEqual(stored, [])
        self.assertEqual(len(job.runs()), 1)

    def drive(self, faces, end, expected, **options):
        server, job = self.make_bed(**options)
        try:
            waiting = self.begin(server, faces, job)
            end(server, job)
            self.check_told(waiting, expected)
            if server.terminated:
                self.assertEqual(server.wait(), 0)
            self.check_stored(server, job, expected)
        finally:
            server.finish()

    def agree(self, end, state, returncode, error, message=None, output=None, alone=True,
              together=True, **options):
        record = {"n_ahead_in_queue": 0, "fraction": 1.0, "message": message,
                  "returncode": returncode,
                  "error": OWN + error if returncode == -999 else error}
        expected = {"state": state, "record": record, "error": error, "output": output}
        for name, face in FACES.items() if alone else ():
            with self.subTest(name, alone=True):
                self.drive({name: face}, end, expected, **options)
        if together:
            with self.subTest("together"):
                self.drive(FACES, end, expected, **options)

    # -- the ends

    def test_success(self):
        self.agree(self.end_well, "succeeded", 0, None, message="most", output=OUTPUT)

    def test_failure(self):
        self.agree(self.end_badly, "failed", 3, "Exited with code 3\nstderr:\nnot like this\n",
                   message="half")

    def test_nothing_written(self):
        self.agree(self.write_nothing, "failed", -999,
                   "invalid program: it should have written to its output file")

    def test_signal(self):
        self.agree(self.die, "failed", -9, "Exited with code -9\nstderr:\n")

    def test_cancel(self):
        self.agree(self.cancel, "cancelled", -999, "cancelled")

    def test_server_stopped(self):
        """Without a journal: with one, it has not ended, and nobody is told so (test_restart)."""
        self.agree(self.stop, "cancelled", -999, "cancelled: the queue is stopping", journal="none")

    def test_timed_out(self):
        """All together have to come before it is over."""
        for ms, alone in ((800, True), (4000, False))[SANITIZED:]:
            self.agree(self.run_on, "failed", -999, f"timed out after {ms} ms", message="half",
                       alone=alone, together=not alone, run_timeout_ms=ms)

    def test_already_done(self):
        """Nothing runs again, and those who tell the output tell the same bytes."""
        server, job = self.make_bed()
        first = server.generate("set")
        self.end_well(server, job)
        last = first.last()
        self.assertEqual(last["returncode"], 0)
        expected = {"state": "succeeded", "record": last, "error": None, "output": OUTPUT}
        self.check_told(self.begin(server, FACES), expected)
        self.check_stored(server, job, expected)
