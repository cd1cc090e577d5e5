"""load.py - clients of every face at once, with books of what they were told; for test_kills.py and
the soak.

A job is named NAME.ACTION.STEPS.MS, which programs/load_job.c does. The books know which jobs were
accepted (a client saw its id, or a first record), what their ends were told to be, and complain when
two clients are told different ones.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import threading
import urllib.parse

from harness import BUILD, OWN, SERVER, Client, basic, request_bytes
from test_websocket import WebSocket

PROGRAM = BUILD / "tests" / "programs" / "load_job"
MARK = "kt0k3n"  # every token begins so, and nothing else has it
ENDLESS = ("hang", "deaf")
WHOLE = ("ok", "family")
FAILING = {"fail": "code 3", "die": "code -9", "empty": "should have written"}
STOPPING = "the queue is stopping"
GIVEN_UP = "ended unexpectedly"


def install(folder):
    """The program and what it needs, in a folder of its own."""
    (folder / "locks").mkdir(exist_ok=True)
    shutil.copy(PROGRAM, folder / "program")
    return folder / "program"


class Job:
    """What a client asks for."""

    def __init__(self, name, action, steps=1, ms=0, users=8):
        self.name, self.action = name, action
        self.document_set = f"{name}.{action}.{steps}.{ms}"
        user = int(hashlib.sha256(name.encode()).hexdigest(), 16) % users
        self.token = f"{MARK}-{name.partition('-')[0]}-{user}"
        parts = (SERVER, self.document_set, self.token)
        self.key = hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p.encode()
                                           for p in parts)).hexdigest()

    def headers(self, **more):
        return {"Authorization": basic(self.token),
                "Content-Type": "application/x-www-form-urlencoded", **more}

    def body(self, rebuild=False):
        fields = {"server": SERVER, "documentSetId": self.document_set}
        return urllib.parse.urlencode({**fields, **({"rebuild": "1"} if rebuild else {})})


def check_output(data, name):
    """What is wrong with an output, or None if it is whole."""
    first, _, _ = data.partition(b"\n")
    match = re.fullmatch(rb"(\d+) (\S+) \d+", first)
    if not match or match[2].decode() != name:
        return f"the output of {name} begins with {first[:80]!r}"
    if data != (first + b"\n") * int(match[1]):
        return f"the output of {name} is not whole: {len(data)} bytes"
    return None


class Books:
    """What clients were told; any number of threads."""

    def __init__(self, folder):
        self.lock = threading.Lock()
        self.jobs = {}        # name: Job, of all that were asked for
        self.accepted = set() # their names, as far as a client was told
        self.ids = {}         # id: name
        self.ends = {}        # id: (end, who said so)
        self.seen = {}        # name: ends told without an id
        self.cancels = set()  # names for which a cancel was asked
        self.rebuilds = set()
        self.forgetful = set()  # names asked for by lunkwill: a client that stops asking cancels
        self.wrong = []
        self.after = {}       # name: how long the log of runs was when success was told
        self.runs = folder / "runs"

    def complain(self, text):
        with self.lock:
            self.wrong.append(text)

    def accept(self, job, id_=None):
        with self.lock:
            self.accepted.add(job.name)
            if id_ is not None and self.ids.setdefault(id_, job.name) != job.name:
                self.wrong.append(f"{id_} was {self.ids[id_]}, and then {job.name}")

    def end(self, job, id_, what, who):
        """An end was told: "succeeded", "failed" or "cancelled"."""
        with self.lock:
            if what == "succeeded":
                self.after.setdefault(job.name, self.runs.stat().st_size)
            if id_ is None:
                self.seen.setdefault(job.name, set()).add(what)
                return
            before = self.ends.setdefault(id_, (what, who))
            if before[0] != what:
                self.wrong.append(f"{job.document_set} {id_} had {before}, and then {what}, {who}")
        if wrong := self._unfit(job, what):
            self.complain(f"{job.document_set} {id_}: {wrong}, {who}")

    def _unfit(self, job, what):
        may_cancel = job.name in self.cancels or job.name in self.forgetful
        fit = {"succeeded": job.action in WHOLE, "failed": job.action in FAILING,
               "cancelled": may_cancel}[what]
        return None if fit else f"has {what}"

    def output(self, job, data, who):
        if wrong := check_output(data, job.name):
            self.complain(f"{wrong}, {who}")


class Load:
    """Clients on threads of their own, each at the face that chance gives it."""

    ACTIONS = ("ok", "family", "fail", "empty", "die", "hang", "deaf")
    WEIGHTS = (10, 2, 2, 1, 1, 1, 1)

    def __init__(self, address, books, seed, prefix, clients=6, names=None):
        self.address, self.books = address, books
        self.prefix, self.names = prefix, names  # so many different jobs; None: any number
        self.over = threading.Event()  # the server is about to die: what breaks now is no failure
        self.n = 0
        self.local = threading.local()
        self.threads = [threading.Thread(target=self._client, args=(random.Random(f"{seed}/{i}"),))
                        for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def end(self):
        """Before the server is killed: clients do nothing new."""
        self.over.set()

    def join(self):
        for thread in self.threads:
            thread.join()

    def _client(self, chance):
        faces = [self.stream, self.events, self.websocket, self.poll, self.lunkwill, self.plain,
                 self.task, self.cancel, self.look]
        weights = [4, 3, 2, 4, 3, 2, 3, 2, 1]
        while not self.over.is_set():
            face = chance.choices(faces, weights)[0]
            try:
                with contextlib.ExitStack() as stack:
                    self.local.stack = stack
                    face(chance)
            except Exception as error:  # of any kind, when the server dies
                if not self.over.is_set():
                    self.books.complain(f"{face.__name__}: {type(error).__name__} {error}")

    def job(self, chance):
        with self.books.lock:
            known = [j for j in list(self.books.jobs.values())[-20:]
                     if j.name.startswith(self.prefix)]
            if known and chance.random() < 0.3:
                return chance.choice(known)
            self.n += 1
            job = self.new_job(self.n)
            return self.books.jobs.setdefault(job.name, job)

    def new_job(self, n):
        """What a job does follows from its name alone."""
        name = f"{self.prefix}-{n % self.names if self.names else n}"
        chance = random.Random(name)
        return Job(name, chance.choices(self.ACTIONS, self.WEIGHTS)[0], chance.randint(0, 4),
                   chance.choice([0, 1, 5, 20]))

    def send(self, method, path, headers=None, body=None):
        client = self.own(Client(self.address))
        client.send(request_bytes(method, path, {"Connection": "close", **(headers or {})}, body))
        return client

    def own(self, client):
        """Closed when the face is done, at the latest."""
        if stack := getattr(self.local, "stack", None):
            stack.callback(client.close)
        return client

    def ask(self, *request):
        client = self.send(*request)
        client.read_all()
        client.close()
        return client.head, client.body

    def expect(self, head, body, *statuses):
        """Whether it is one of those; others but 503, which says that the server stops, are wrong."""
        if head.status not in (*statuses, 503):
            self.books.complain(f"status {head.status}, not {statuses}: {body[:300]!r}")
        return head.status in statuses

    # -- faces -----------------------------------------------------------------------------------

    def last(self, job, id_, record, who):
        """The last record that came, which is an end unless the server stopped."""
        if record is None or record["returncode"] is None or STOPPING in (record["error"] or ""):
            return
        error = record["error"] and record["error"].removeprefix(OWN)
        what = ("succeeded" if error is None else "cancelled" if error == "cancelled" else "failed")
        self.books.end(job, id_, what, f"{who}: {error}")

    def rebuild(self, chance, job):
        if chance.random() > 0.1 or job.action in ENDLESS:
            return False
        self.books.rebuilds.add(job.name)
        return True

    def stream(self, chance):
        """An array or lines; some leave after the first record."""
        job = self.job(chance)
        accept = chance.choice(["application/json", "application/x-ndjson"])
        client = self.send("POST", "/generate", job.headers(Accept=accept),
                           job.body(self.rebuild(chance, job)))
        client.read_head()
        if client.head.status != 200:
            return self.expect(client.head, client.read_all(), 200)
        record = client.record()
        if record is not None:
            self.books.accept(job)
        elif client.body.strip() == b"[]" or not client.body.strip():
            if client.head.get("x-workqueue") == "hit":
                self.books.accept(job)
                self.books.end(job, None, "succeeded", "stream")
        leaves = chance.random() < 0.3
        while record is not None and not leaves:
            following = client.record()
            if following is None:
                self.last(job, None, record, "stream")
            record = following
        client.close()

    def events(self, chance):
        job = self.job(chance)
        client = self.send("POST", "/generate", job.headers(Accept="text/event-stream"),
                           job.body(self.rebuild(chance, job)))
        client.read_head()
        if client.head.status != 200:
            return self.expect(client.head, client.read_all(), 200)
        id_, leaves = None, chance.random() < 0.3
        while (event := client.message()) is not None:
            id_ = event["id"].partition(".")[0]
            self.books.accept(job, id_)
            self.last(job, id_, json.loads(event["data"]), "events")
            if leaves:
                break
        client.close()

    def websocket(self, chance):
        job = self.job(chance)
        fields = {"server": SERVER, "documentSetId": job.document_set}
        ws = WebSocket(self.address, "/generate?" + urllib.parse.urlencode(fields),
                       {"Authorization": basic(job.token)})
        self.own(ws.client)
        if ws.head().status != 101:
            return self.expect(ws.head(), ws.client.read_all(), 101)
        while (record := ws.record()) is not None:
            self.books.accept(job)
            self.last(job, None, record, "websocket")
        ws.client.close()

    def poll(self, chance):
        job = self.job(chance)
        head, body = self.ask("POST", "/start_work", job.headers(),
                              job.body(self.rebuild(chance, job)))
        if not self.expect(head, body, 303):
            return
        id_ = head.get("location").rpartition("/")[2]
        self.books.accept(job, id_)
        while chance.random() < 0.9 and not self.over.is_set():
            if self.look_at_work(job, id_, "wait=1"):
                return

    def look_at_work(self, job, id_, wait="wait=0"):
        """Asks how it is; whether it has ended."""
        head, body = self.ask("GET", f"/work/{id_}", {"Prefer": wait})
        if not self.expect(head, body, 200, 303, 410, 500) or head.status == 303:
            return False
        self.result(job, id_, head, body, "work")
        return True

    def result(self, job, id_, head, body, who):
        if head.status == 200:
            self.books.output(job, body, who)
        elif STOPPING in body.decode():
            return
        elif head.status == 500 and FAILING.get(job.action, "?") not in body.decode():
            self.books.complain(f"{job.document_set} {id_}: {body!r}, {who}")
        what = {200: "succeeded", 500: "failed", 410: "cancelled"}[head.status]
        self.books.end(job, id_, what, f"{who}: {body[-200:] if what == 'failed' else ''}")

    def lunkwill(self, chance):
        job = self.job(chance)
        self.books.forgetful.add(job.name)
        head, body = self.ask("POST", "/run", job.headers(**{
            "X-Lunkwill": chance.choice(["suggest", "require"])}), job.body())
        if not self.expect(head, body, 200, 201, 500, 410) or head.status != 201:
            return
        id_ = json.loads(body)["id"]
        while chance.random() < 0.9 and not self.over.is_set():
            head, body = self.ask("GET", f"/api/lunkwill/{id_}/summary")
            if not self.expect(head, body, 200):
                return
            if json.loads(body)["status"] in ("ready", "cancelled"):
                head, body = self.ask("GET", f"/api/lunkwill/{id_}/response")
                if self.expect(head, body, 200, 410, 500):
                    self.result(job, None, head, body, "lunkwill")
                return
            self.over.wait(json.loads(body)["delay_ms"] / 1000)

    def plain(self, chance):
        job = self.job(chance)
        if job.action in ENDLESS:
            return
        head, body = self.ask("POST", "/run", job.headers(), job.body())
        if self.expect(head, body, 200, 410, 500):
            self.books.accept(job)
            self.result(job, None, head, body, "run")

    def task(self, chance):
        job = self.job(chance)
        head, body = self.ask("POST", "/api/tasks", job.headers(), job.body())
        if not self.expect(head, body, 200, 201) or head.status == 201:
            return
        id_ = json.loads(body)["data"]["task_id"]
        self.books.accept(job, id_)
        while chance.random() < 0.8 and not self.over.is_set():
            if self.look_at_task(job, id_):
                return
            self.over.wait(0.02)

    def look_at_task(self, job, id_):
        head, body = self.ask("GET", f"/api/tasks/{id_}")
        if not self.expect(head, body, 200):
            return False
        status = json.loads(body)["data"]["task_status"]
        ends = {"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "cancelled"}
        if status == "REVOKED" and self.over.is_set():
            return False  # the server may be stopping, and this one may run again
        if status in ends:
            self.books.end(job, id_, ends[status], "task")
        return status in ends

    def cancel(self, chance):
        with self.books.lock:
            known = [(i, n) for i, n in list(self.books.ids.items())[-20:]
                     if n.startswith(self.prefix)]
            if not known:
                return
            id_, name = chance.choice(known)
            self.books.cancels.add(name)
        self.expect(*self.ask("DELETE", f"/work/{id_}"), 204, 409)

    def look(self, chance):
        path = chance.choice(["/metrics", "/health", "/metadata"])
        self.expect(*self.ask("GET", path), 200)
