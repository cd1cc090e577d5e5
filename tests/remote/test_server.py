"""test_server.py - the demo with real brokers between it and its programs: what clients see, and
what packagers hear. The packager is one in Python, and where two have to agree our own."""

import json
import os
import signal
import subprocess
import threading
import unittest
import uuid
from urllib.parse import urlencode

import services
import stomp
from far import SECONDS, Listener, Packager, Runner, Shelf
from harness import BUILD, OWN, SERVER, TOKEN, FaceTest, basic, is_running, wait_for
from services import service
import test_agree

FORM = {"Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"}
OUTPUT = b"the\0output\xff\n" * 1000


def field(set):
    return urlencode({"server": SERVER, "documentSetId": set})


class RemoteTest(FaceTest):
    """Destinations of the test's own, and servers and packagers that use them; `service` is the
    broker."""

    service = "rabbitmq"

    def setUp(self):
        super().setUp()
        os.environ.pop("WORKQUEUE_BROKER", None)
        self.broker = service(self.service)
        self.url = f"stomp://docsets:docsets@127.0.0.1:{self.broker.port}"
        name = self.name = uuid.uuid4().hex
        self.names = {"queue_package": f"/queue/{name}%2Fjobs", "queue_delete": f"/queue/{name}.gone",
                      "queue_reply": f"/queue/{name}%2F{{id}}"}

    def serve(self, program=None, **options):
        return super().serve(program, **{"broker": self.url, **self.names, **options})

    def packager(self):
        return Packager(self, self.broker.port, self.names)

    # -- clients

    def start(self, server, set="set", headers=()):
        """POST /start_work: the job's path."""
        head, body = server.ask("POST", "/start_work", {**FORM, **dict(headers)}, field(set))
        self.assertEqual(head.status, 303, body)
        return head.get("location")

    def poll(self, server, path, wait=0):
        return server.ask("GET", path, {"Prefer": f"wait={wait}"})

    def wait_result(self, server, path, seconds=None):
        def ended():
            head, body = self.poll(server, path, wait=1)
            return head.status != 303 and (head, body)
        return wait_for(ended, f"the end of {path}", seconds or SECONDS)

    def follow(self, server, set="set", **more):
        client = server.generate(set, **more)
        client.read_head()
        return client

    def assert_succeeds(self, stream):
        last = stream.last(SECONDS)
        self.assertEqual([last["returncode"], last["error"]], [0, None])

    def output_of(self, server, path):
        head, body = server.ask("GET", path)
        self.assertEqual(head.status, 200, body)
        return body

    def wait_log(self, server, text):
        wait_for(lambda: text in server.log(), f"{text!r} in the log", SECONDS, seen=server.log)

    def assert_no_more(self, packager):
        """Nothing is at the broker for the packager: what is sent now is the next that comes."""
        packager.send(self.names["queue_package"], "Package: marker\nDocument-Set: marker\n")
        self.assertEqual(packager.get().id, "marker")

    def wait_trouble(self, server, words):
        """Until /health says so."""
        said = []

        def is_said():
            head, body = server.ask("GET", "/health")
            said[:] = [head.status, json.loads(body)]
            return any(words in text for text in said[1].get("problems", []))
        wait_for(is_said, f"{words} in /health", SECONDS, seen=lambda: said)
        self.assertEqual((said[0], said[1]["status"]), (200, "troubled"))


class Cases:
    """What holds with both brokers."""

    # -- what packagers say

    def test_the_message_and_every_way_to_speak(self):
        server, packager = self.serve(), self.packager()
        path = self.start(server)
        stream, job = self.follow(server), packager.get()
        self.assertEqual(job.fields, {"Package": path.split("/")[-1], "Server": SERVER,
                                      "Document-Set": "set", "Token": TOKEN})
        self.assertEqual([job.headers[n] for n in ("content-type", "persistent", "correlation-id")],
                         ["text/plain", "true", job.id])
        self.assertEqual(stream.record()["fraction"], 0)
        job.accept()
        said = [("0.125\tas a program", 0.125, "as a program"), ("3/12\titems", 0.25, "items"),
                ("Progress: 0.375", 0.375, None), ("50%", 0.5, None),
                ("62.5 % complete", 0.625, "complete"),
                (json.dumps({"n_ahead_in_queue": 0, "fraction": 0.75, "message": "a record",
                             "returncode": None, "error": None}), 0.75, "a record"),
                ("0.5\tback", 0.75, "back"), ("what is this", None, None), ("0.875\tend", 0.875, "end")]
        for line, fraction, message in said:
            job.say(line)
            if fraction is not None:
                with self.subTest(line):
                    record = stream.until(lambda r: r["fraction"] == fraction
                                          and r["message"] == message, line)
                    self.assert_record(record)
        job.complete(OUTPUT)
        self.assert_succeeds(stream)
        self.assertEqual(self.output_of(server, path), OUTPUT)
        self.wait_log(server, "no answer")

    def test_an_output_that_is_not_as_said(self):
        server, packager = self.serve(max_output_bytes=100000), self.packager()
        shelf = packager.shelf
        cases = {"size": (shelf.put(b"12345"), 6, "5 bytes"),
                 "missing": (shelf.put(b"") + "0", 5, "404"),
                 "huge": (shelf.put(b"x" * 100001), 100001, "100000 bytes"),
                 "nobody": (f"http://127.0.0.1:{services.free_ports()}/", 5, "fetched"),
                 "file": ("file:///etc/passwd", 5, "store"),
                 "redirected": ("httpx://127.0.0.1/", 5, "fetched"),
                 "empty": (shelf.put(b""), 0, "")}
        for name, (url, size, words) in cases.items():
            with self.subTest(name):
                stream = self.follow(server, name)
                packager.get_set(name).say(f"Complete: {url}\nSize: {size}\n")
                last = stream.last(SECONDS)
                self.assertEqual(last["returncode"], -999)
                self.assertIn(words, last["error"])
        self.assertEqual([n for n in server.stored() if not n.startswith(".")], [])

    def test_a_failure_is_told_as_it_was_said(self):
        server, packager = self.serve(), self.packager()
        for name, said, headers, code, error in [
                ("a", "Failed: Exited with code 3\nstderr:\nbad\n", {"workqueue_returncode": 3}, 3,
                 "Exited with code 3\nstderr:\nbad"),
                ("b", "Failed", {}, -999, "the packager failed without a reason"),
                ("c", "Failed. No such set", {"workqueue_returncode": "x"}, -999, "No such set"),
                ("d", f"Failed: {TOKEN} is not good", {}, -999, "************** is not good")]:
            with self.subTest(said):
                stream = self.follow(server, name)
                packager.get_set(name).say(said, **headers)
                last = stream.last(SECONDS)
                self.assertEqual([last["returncode"], last["error"].removeprefix(OWN).strip()], [code, error])
        self.assertNotIn(TOKEN, server.log())

    def test_places_in_the_row(self):
        server, packager = self.serve(), self.packager()
        streams = [self.follow(server, name) for name in "abc"]
        jobs = [packager.get_set(name) for name in "abc"]
        for n, stream in enumerate(streams):
            stream.until(lambda r: r["n_ahead_in_queue"] == n, f"{n} in front", SECONDS)
        head, _ = self.poll(server, self.start(server, "c"))
        self.assertGreaterEqual(int(head.get("retry-after")), 1)
        jobs[1].accept(3600)
        streams[1].until(lambda r: r["n_ahead_in_queue"] == 0, "to run", SECONDS)
        path = self.start(server, "b")
        _, body = server.ask("GET", path.replace("/work/", "/jobs/"))
        self.assertGreater(json.loads(body)["estimate_ms"], 600_000)
        # It may end before it was said to: who polls must not be late by more than five seconds.
        self.assertIn(int(self.poll(server, path)[0].get("retry-after")), range(1, 6))
        jobs[0].complete()
        self.assert_succeeds(streams[0])
        streams[2].until(lambda r: r["n_ahead_in_queue"] == 1, "1 in front", SECONDS)
        for job, stream in zip(jobs[1:], streams[1:]):
            job.complete()
            self.assert_succeeds(stream)

    def test_what_is_queued_here_is_bounded_at_the_broker(self):
        server, packager = self.serve(broker_jobs=2), self.packager()
        streams = [self.follow(server, name) for name in "abcd"]
        first, second = packager.get_set("a"), packager.get_set("b")
        self.assert_no_more(packager)
        second.complete()
        third = packager.get_set("c")
        self.assert_no_more(packager)
        first.complete()
        third.complete()
        packager.get_set("d").complete()
        for stream in streams:
            self.assert_succeeds(stream)

    def test_the_conversation_of_the_seed_from_the_servers_side(self):
        """A body that is a URL; answers on the queue of its last segment, declared by whoever is first."""
        package, reply = self.names["queue_package"], self.names["queue_reply"].replace("{id}", "5")
        said, came = [], threading.Event()
        link = stomp.StompConnection12([("127.0.0.1", self.broker.port)], vhost="/")

        class Theirs(stomp.ConnectionListener):
            def on_message(self, frame):
                said.append(frame)
                came.set()

        link.set_listener("", Theirs())
        link.connect("docsets", "docsets", wait=True)
        self.addCleanup(link.disconnect)
        link.subscribe(package, id="0", ack="auto")
        server = self.serve(plain_request="{server}/api/docsets/{id}?fmt=meta,txt")
        path = self.start(server, "5")
        self.assertTrue(came.wait(SECONDS))
        self.assertEqual(said[0].body, f"{SERVER}/api/docsets/5?fmt=meta,txt\n")
        self.assertNotIn("reply-to", said[0].headers)
        shelf = Shelf(self)
        link.send(reply, "Accepted. 45 seconds\n", content_type="text/plain")
        link.send(reply, f"Complete: {shelf.put(OUTPUT)}\nSize: {len(OUTPUT)}\n", content_type="text/plain")
        self.wait_result(server, path)
        self.assertEqual(self.output_of(server, path), OUTPUT)

    def test_s13_a_file_server_that_is_busy_once(self):
        server, packager = self.serve(), self.packager()
        path, job = self.start(server), packager.get()
        job.accept()
        packager.shelf.busy["/0"] = 2
        job.complete(OUTPUT)
        self.wait_result(server, path)
        self.assertEqual(self.output_of(server, path), OUTPUT)
        self.assertEqual(packager.shelf.busy["/0"], 0)

    def test_two_brokers_at_once(self):
        """Each job goes by the one that its key chooses; a packager of ours hears both."""
        other = services.service("rabbitmq" if self.service == "activemq" else "activemq")
        both = f"{self.url};stomp://docsets:docsets@127.0.0.1:{other.port}"
        far = self.folder / "far"
        far.mkdir()
        program = self.script("#!/bin/sh\necho output of $2 >$4\n")
        names = [f"--{name.replace('_', '-')}={value}" for name, value in self.names.items()]
        with open(self.folder / "far.log", "wb") as log:
            packager = subprocess.Popen(
                [BUILD / "bin" / "workqueue", "packager", "--broker", both, "--program", program, "--store", far,
                 "--state", self.folder, "--workers", "2", *names], stdout=subprocess.PIPE, stderr=log)
        self.addCleanup(packager.stdout.close)
        self.addCleanup(packager.wait)
        self.addCleanup(packager.terminate)
        self.assertEqual(packager.stdout.readline(), b"ready\n")
        server = self.serve(broker=both, store=far)
        for stream in [self.follow(server, f"set{i}") for i in range(12)]:
            self.assert_succeeds(stream)
        self.assertEqual((self.folder / "far.log").read_text().count(" runs here "), 12)

    # -- cancelling

    def test_a_cancel_is_heard_and_answered(self):
        server, packager = self.serve(), self.packager()
        path, job = self.start(server), packager.get()
        stream = self.follow(server)
        job.accept()
        job.say("0.5\thalf")
        stream.until_fraction(0.5)
        delete = server.request("DELETE", path)
        self.assertEqual(packager.notices.get(timeout=SECONDS), f"Cancel: {job.id}\n")
        job.say("0.75\tstill")
        job.say("Cancelled")
        self.assertEqual(delete.read_head().status, 204)
        delete.close()
        last = stream.last(SECONDS)
        self.assertEqual([last["returncode"], last["error"]], [-999, OWN + "cancelled"])
        self.assertEqual(self.wait_result(server, path)[0].status, 410)

    def test_a_cancel_that_nobody_answers(self):
        server, packager = self.serve(cancel_wait_ms=300), self.packager()
        path, job = self.start(server), packager.get()
        stream = self.follow(server)
        job.accept()
        stream.until(lambda r: r["n_ahead_in_queue"] == 0, "to run", SECONDS)
        server.ask("DELETE", path)
        self.assertEqual(packager.notices.get(timeout=SECONDS), f"Cancel: {job.id}\n")
        job.accept()  # who says so has not heard
        self.assertEqual(packager.notices.get(timeout=SECONDS), f"Cancel: {job.id}\n")
        self.assertEqual(stream.last(SECONDS)["error"], OWN + "cancelled")
        job.complete()  # too late

    def test_a_cancel_before_it_is_taken(self):
        server = self.serve()
        path = self.start(server)
        server.ask("DELETE", path)
        self.assertEqual(self.wait_result(server, path)[0].status, 410)

    def test_a_time_limit_reaches_the_packager(self):
        server, packager = self.serve(run_timeout_ms=300), self.packager()
        stream, job = self.follow(server), packager.get()
        job.accept()
        self.assertEqual(packager.notices.get(timeout=SECONDS), f"Cancel: {job.id}\n")
        job.say("Cancelled")
        self.assertEqual(stream.last(SECONDS)["error"], OWN + "timed out after 300 ms")

    # -- silence

    def test_silence_is_told_to_another_packager(self):
        server, packager = self.serve(), self.packager()
        stream, job = self.follow(server), packager.get()
        job.accept(workqueue_alive_ms=100)
        job.say("0.5\thalf", workqueue_alive_ms=100)
        stream.until_fraction(0.5)
        again = packager.get()
        self.assertEqual(again.id, job.id)
        again.accept()
        again.say("0.25\tanother")
        record = stream.until(lambda r: r["message"] == "another", "the other's word", SECONDS)
        self.assertEqual(record["fraction"], 0.5)
        again.complete()
        self.assert_succeeds(stream)
        self.wait_log(server, "sent again")

    # -- who looks

    def test_ends_become_known_to_nobody(self):
        server = self.serve(reply_linger_ms=0, reply_check_ms=500)
        packager = self.packager()
        self.start(server)
        job = packager.get()
        job.accept(workqueue_alive_ms=100)
        for _ in range(20):
            job.say("0.5\twork", workqueue_alive_ms=100)
        job.complete(OUTPUT)
        wait_for(lambda: test_agree.key() in server.stored(), "the output", SECONDS)
        self.assert_no_more(packager)

    # -- the server's end

    def test_a_server_that_is_killed_goes_on(self):
        server, packager = self.serve(), self.packager()
        path, job = self.start(server), packager.get()
        stream = self.follow(server)
        job.accept(workqueue_alive_ms=60000)
        job.say("0.25\tbefore")
        stream.until_fraction(0.25)
        server.kill()
        job.say("0.5\tmeanwhile", workqueue_alive_ms=60000)
        server = self.serve(storage=server.storage)
        stream = self.follow(server)
        stream.until_fraction(0.5)
        self.assertEqual(self.poll(server, path)[0].status, 303)
        job.complete(OUTPUT)
        self.assert_succeeds(stream)
        self.assertEqual(self.output_of(server, path), OUTPUT)
        self.assertEqual(packager.ids, [job.id])  # it was heard of, and so not sent again

    def test_an_end_while_the_server_is_dead(self):
        server, packager = self.serve(), self.packager()
        path, job = self.start(server), packager.get()
        server.kill()
        job.accept()
        job.complete(OUTPUT)
        server = self.serve(storage=server.storage)
        self.assertEqual(self.wait_result(server, path)[1], OUTPUT)
        self.assertEqual(packager.ids, [job.id])

    def test_a_server_killed_while_it_fetches(self):
        server, packager = self.serve(), self.packager()
        path, job = self.start(server), packager.get()
        with Listener() as slow:  # takes the connection and says nothing
            job.say(f"Complete: {slow.url}\nSize: {len(OUTPUT)}")
            slow.wait()
            server.kill()
            slow.answer(OUTPUT)
            server = self.serve(storage=server.storage)
            self.assertEqual(self.wait_result(server, path)[1], OUTPUT)
        self.assertEqual(packager.ids, [job.id])

    def test_a_silent_packager_is_asked_again_by_the_same_id(self):
        server, packager = self.serve(), self.packager()
        path, job = self.start(server), packager.get()
        server.kill()
        server = self.serve(storage=server.storage)
        again = packager.get()
        self.assertEqual(again.id, job.id)
        again.complete(OUTPUT)
        self.assertEqual(self.wait_result(server, path)[1], OUTPUT)

    def test_a_server_that_is_stopped(self):
        server, packager = self.serve(), self.packager()
        path, job = self.start(server), packager.get()
        stream = self.follow(server)
        job.accept(workqueue_alive_ms=60000)
        stream.until(lambda r: r["n_ahead_in_queue"] == 0, "to run", SECONDS)
        server.terminate()
        # It goes on after the restart, so nobody is told of an end (W2).
        self.assertIsNone(stream.record(SECONDS))
        self.assertTrue(stream.body.rstrip().endswith(b"]"), stream.body)
        self.assertEqual(server.wait(), 0)
        job.say("0.5\tmeanwhile", workqueue_alive_ms=60000)
        server = self.serve(storage=server.storage)
        stream = self.follow(server)
        stream.until_fraction(0.5)
        job.complete(OUTPUT)
        self.assert_succeeds(stream)
        self.assertEqual(self.output_of(server, path), OUTPUT)
        self.assertEqual(packager.ids, [job.id])
        self.assertTrue(packager.notices.empty())

    def test_without_a_journal_a_stop_cancels(self):
        server, packager = self.serve(journal="none", cancel_wait_ms=60000), self.packager()
        self.start(server)
        job = packager.get()
        job.accept()
        server.terminate()
        self.assertEqual(packager.notices.get(timeout=SECONDS), f"Cancel: {job.id}\n")
        job.say("Cancelled")
        self.assertEqual(server.wait(), 0)

    # -- the broker's end

    def test_a_broker_that_is_killed_in_the_middle(self):
        server, packager = self.serve(heartbeat_ms=50), self.packager()
        path, job = self.start(server), packager.get()
        stream = self.follow(server)
        job.accept(workqueue_alive_ms=60000)
        job.say("0.25\tbefore")
        stream.until_fraction(0.25)
        self.broker.kill()
        self.wait_log(server, "trying again")
        waiting = self.start(server, "waiting")
        stream.read_more("a heartbeat")
        self.broker.start()
        packager.connect()
        job.say("0.5\tafter", workqueue_alive_ms=60000)
        stream.until(lambda r: r["fraction"] == 0.5, "what is said afterwards", 3 * SECONDS)
        job.complete(OUTPUT)
        self.assert_succeeds(stream)
        other = packager.get()
        while other.id == job.id:  # the acknowledgement died with the broker
            self.assertEqual(other.headers.get("redelivered"), "true")
            other = packager.get()
        other.complete()
        self.assertEqual(self.wait_result(server, waiting)[0].status, 200)
        self.assertEqual(packager.ids.count(other.id), 1)

    def test_a_wrong_password(self):
        server = self.serve(broker=self.url.replace(":docsets@", ":wr0ngpassword@"))
        path = self.start(server)
        self.wait_log(server, f"broker stomp://127.0.0.1:{self.broker.port}")
        wait_for(lambda: server.log().count("trying again") >= 2, "a second try", SECONDS)
        self.assertEqual(self.poll(server, path)[0].status, 303)
        self.wait_trouble(server, "broker is away")
        self.assertNotIn("wr0ngpassword", server.log())

    # -- deletion

    def test_a_deletion_is_told(self):
        secret = self.folder / "secret"
        secret.write_text("operator\n")
        secret.chmod(0o600)
        server, packager = self.serve(operator_secret_file=secret), self.packager()
        path = self.start(server)
        packager.get().complete(OUTPUT)
        self.assertEqual(self.wait_result(server, path)[0].status, 200)
        query = urlencode({"server": SERVER, "documentSetId": "set", "apiToken": TOKEN})
        head, body = server.ask("DELETE", "/output?" + query, {"Authorization": "Bearer operator"})
        self.assertEqual(head.status, 204, body)
        told = packager.deletions.get(timeout=SECONDS)
        for line in (f"Server: {SERVER}", "Document-Set: set", f"Token: {TOKEN}"):
            self.assertIn(line, told.splitlines())


class MachinesTest(RemoteTest):
    """Our own packagers, and a store that they share with servers: `remote` says which."""

    def serve(self, program=None, **options):
        storage = options.pop("storage", None) or self.folder / f"storage.{uuid.uuid4().hex}"
        return super().serve(program, **{"storage": storage, **self.remote, **options})

    def pack(self, program=None, **options):
        """One of our packagers."""
        state = self.folder / f"state.{uuid.uuid4().hex}"
        state.mkdir()
        command = [BUILD / "bin" / "workqueue", "packager", "--broker", self.url, "--state", state, "--program",
                   program or self.told_program, "--no-sync"]
        for name, value in {**self.names, **self.remote, **options}.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        with open(state / "log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        process.log = state / "log"
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        return process


class ListCases:
    """Jobs of all machines, whichever server is asked."""

    def serve(self, program=None, **options):
        secret = self.folder / "secret"
        secret.write_text("operator\n")
        secret.chmod(0o600)
        return super().serve(program, operator_secret_file=secret, **options)

    def jobs(self, server, query="", method="GET"):
        head, body = server.ask(method, "/jobs" + query, {"Authorization": "Bearer operator"})
        self.assertEqual(head.status, 200, body)
        return json.loads(body)

    def wait_elsewhere(self, server, *expected):
        def found():
            jobs = {job["document_set_id"]: job for job in self.jobs(server)["jobs"]}
            return set(jobs) == set(expected) and (jobs or True)
        return wait_for(found, f"{expected} elsewhere", SECONDS, lambda: self.jobs(server))

    def test_jobs_of_all_machines_are_listed_at_each_server(self):
        first, second = self.serve(), self.serve()
        self.pack(workers=4)
        told = {name: self.told(name) for name in "abc"}
        paths = {name: self.start(first, name) for name in told}
        for each in told.values():
            each.wait_started()
        jobs = self.wait_elsewhere(second, *"abc")
        own = {job["document_set_id"]: job for job in self.jobs(first)["jobs"]}
        for name, job in jobs.items():
            self.assertEqual(job["id"], paths[name].split("/")[-1])
            self.assertEqual(set(own[name]) - set(job), set())
            self.assertEqual([job["state"], job["server"], job["attempt"]], ["running", SERVER, 1])
            self.assertTrue(job["packager"] and job["host"])
        self.assertNotIn(TOKEN, json.dumps(jobs))
        page, seen = {"next": ""}, []
        while page["next"] is not None:  # piece by piece, each once
            page = self.jobs(second, f"?limit=1&after={page['next']}")
            seen += [job["document_set_id"] for job in page["jobs"]]
        self.assertEqual(sorted(seen), list("abc"))
        self.assertEqual(self.jobs(second, "?state=queued")["jobs"], [])
        self.assertEqual(len(self.jobs(second, "?document_set_id=a")["jobs"]), 1)
        self.start(second, "a")  # it has that one itself now
        wait_for(lambda: [j.get("packager") for j in self.jobs(second, "?document_set_id=a")["jobs"]]
                 == [None], "its own job instead", SECONDS)
        for each in told.values():
            each.succeed()
        for path in paths.values():
            self.assertEqual(self.wait_result(first, path)[0].status, 200)
        self.wait_elsewhere(second, "a")  # ended, and its own

    def test_their_events_and_their_end(self):
        first, second, told = self.serve(), self.serve(), self.told("set")
        self.pack()
        path = self.start(first)
        told.wait_started()
        events = second.request("GET", "/jobs", {"Authorization": "Bearer operator",
                                                 "Accept": "text/event-stream"})
        events.read_head()
        job = json.loads(events.event(SECONDS)["data"])
        self.assertEqual([job["id"], job["state"]], [path.split("/")[-1], "running"])
        told.succeed()
        event = events.event(SECONDS)
        while event.get("event") != "gone":
            event = events.event(SECONDS)
        self.assertEqual(json.loads(event["data"])["id"], job["id"])
        events.close()

    def test_a_trace_reaches_the_program_and_every_log(self):
        trace = f"00-{uuid.uuid4().hex}-00f067aa0ba902b7-01"
        program = self.script('echo "${TRACEPARENT-none}" >"$4"\n', "tracing")
        server = self.serve()
        packager = self.pack(program)
        path = self.start(server, "traced", {"traceparent": trace})
        self.assertEqual(self.wait_result(server, path)[1].decode(), trace + "\n")
        path = self.start(server, "other", {"traceparent": "00-not-one"})
        self.assertEqual(self.wait_result(server, path)[1], b"none\n")
        self.wait_log(server, f'set="traced" traceparent={trace} state=succeeded')
        self.assertIn(f" traceparent {trace}", packager.log.read_text())
        self.assertNotIn("not-one", server.log() + packager.log.read_text())

    def test_a_cancel_at_another_server(self):
        first, second, told = self.serve(), self.serve(), self.told("set")
        self.pack()
        stream = self.follow(first)
        pid, _ = told.wait_started()
        self.wait_elsewhere(second, "set")
        self.assertEqual(self.jobs(second, "?document_set_id=set", "DELETE"), {"cancelled": 1})
        self.assertEqual(stream.last(SECONDS)["returncode"], -999)
        wait_for(lambda: not is_running(pid), "the program's end")


class FolderTest(ListCases, MachinesTest):
    """A folder that servers and packagers share."""

    def setUp(self):
        super().setUp()
        self.shared = self.folder / "far"
        self.shared.mkdir()
        self.remote = {"store": self.shared}


class StoreTest(ListCases, MachinesTest):
    """Outputs in Ceph."""

    ACCESS = {"AWS_ACCESS_KEY_ID": "DOCSETSKEY", "AWS_SECRET_ACCESS_KEY": "docsets-secret-0123456789"}

    def setUp(self):
        super().setUp()
        self.store = service("ceph")
        self.endpoint = f"http://127.0.0.1:{self.store.port}"
        os.environ.update(self.ACCESS)
        self.addCleanup(lambda: [os.environ.pop(name) for name in self.ACCESS])
        if not hasattr(self.store, "has_outputs"):
            self.make_bucket("outputs")
            self.store.has_outputs = True
        self.remote = {"store": f"s3://outputs/{self.name}", "s3_endpoint": self.endpoint}

    def make_bucket(self, name):
        subprocess.run([BUILD / "tests" / "s3-tool", "bucket"], check=True, stdout=subprocess.DEVNULL,
                       env={**os.environ, "S3_ENDPOINT": self.endpoint, "S3_URL": f"s3://{name}",
                            "S3_CACHE": str(self.folder)})

    def test_started_at_one_and_watched_at_the_other(self):
        first, second = self.serve(), self.serve()
        self.pack(), self.pack()
        told = self.told("set")
        path, stream = self.start(first), self.follow(first)
        told.wait_started()
        other = self.follow(second)
        told.progress("0.25\tquarter")
        told.progress("0.5\thalf")
        for each in (stream, other):
            each.until_fraction(0.5)
        told.succeed("made")
        for each in (stream, other):
            self.assert_succeeds(each)
        self.assertEqual(len(told.runs()), 1)
        self.assertEqual(self.output_of(first, path), b"made\n")
        self.assertEqual(self.output_of(second, self.start(second)), b"made\n")

    def test_a_cancel_reaches_the_program(self):
        server, told = self.serve(), self.told("set")
        self.pack()
        path, stream = self.start(server), self.follow(server)
        pid, _ = told.wait_started()
        server.ask("DELETE", path)
        self.assertEqual(stream.last(SECONDS)["error"], OWN + "cancelled")
        wait_for(lambda: not is_running(pid), "the program's end")

    def test_outputs_are_listed(self):
        server = self.serve()
        self.pack(self.script('echo "of $2" >"$4"\n'))
        for name in "ab":
            self.assert_succeeds(self.follow(server, name))
        head, body = server.ask("GET", "/outputs", {"Authorization": "Bearer operator"})
        self.assertEqual(head.status, 200, body)
        self.assertEqual(sorted((o["server"], o["document_set_id"], o["bytes"])
                                for o in json.loads(body)["outputs"]),
                         [(SERVER, "a", 5), (SERVER, "b", 5)])
        self.assertNotIn(TOKEN.encode(), body)

    def test_every_way_to_the_output(self):
        server, told = self.serve(), self.told("set")
        public = self.serve(s3_public="http://cdn.example/base")
        self.pack()
        path = self.start(server)
        (self.folder / "good").write_bytes(OUTPUT)
        told.tell(f"cat '{self.folder}/good' >\"$out\"; exit 0")
        self.assertEqual(self.wait_result(server, path)[1], OUTPUT)
        for range, expected in [("0-9", OUTPUT[:10]), ("100-", OUTPUT[100:]), ("-7", OUTPUT[-7:])]:
            head, body = server.ask("GET", path, {"Range": f"bytes={range}"})
            self.assertEqual([head.status, body], [206, expected])
        head, _ = server.ask("GET", path, {"Range": f"bytes={len(OUTPUT)}-"})
        self.assertEqual(head.status, 416)
        head, body = server.ask("HEAD", path)
        self.assertEqual([head.status, int(head.get("content-length"))], [200, len(OUTPUT)])
        head, body = server.ask("POST", "/run", {**FORM, "X-Lunkwill": "require"}, field("set"))
        lunkwill = "/api/lunkwill/" + json.loads(body)["id"]
        self.assertEqual(server.ask("GET", lunkwill + "/response")[1], OUTPUT)
        self.assertEqual(server.ask("POST", "/run", FORM, field("set"))[1], OUTPUT)
        head, _ = public.ask("GET", self.start(public))
        self.assertEqual([head.status // 100, head.get("location")],
                         [3, f"http://cdn.example/base/{self.name}/{test_agree.key()}"])

    def test_a_search_in_what_is_in_the_store(self):
        sample = self.folder / "sample"
        sample.mkdir()
        (sample / "sonnet.txt").write_text("Thou art more lovely.\n")
        server = self.serve(sample=sample)
        self.pack(BUILD / "demo-plugin" / "process-docset")
        params = {"server": server.base, "documentSetId": "1"}
        headers = {**FORM, "Authorization": basic("sample")}

        def search(words):
            return server.ask("GET", "/search?" + urlencode({**params, "q": words}), headers)
        self.assert_problem(search("lovely"), 404)
        stream = server.request("POST", "/generate", headers, urlencode(params))
        self.assert_succeeds(stream)
        head, body = search("lovely")
        self.assertEqual([head.status, json.loads(body)["total"]], [200, 1])
        self.assertEqual(json.loads(search("nowhere")[1])["total"], 0)

    def test_a_store_that_is_away(self):
        server, told, made = self.serve(heartbeat_ms=100), self.told("set"), self.told("made")
        self.pack()
        done = self.start(server, "made")
        made.succeed("made")
        self.assertEqual(self.wait_result(server, done)[0].status, 200)
        path, stream = self.start(server), self.follow(server)
        told.wait_started()
        gate = self.store.pid("rgw")
        os.kill(gate, signal.SIGKILL)
        told.succeed("late")
        head, body = server.ask("GET", done)
        self.assertEqual(head.status, 503, body)
        self.assertGreaterEqual(int(head.get("retry-after")), 1)
        stream.read_more("a heartbeat")
        self.assertEqual(self.poll(server, path)[0].status, 303)
        self.wait_trouble(server, "store")
        self.store.stop()
        self.store.start()
        self.assertEqual(self.wait_result(server, path, 4 * SECONDS)[1], b"late\n")
        self.assert_succeeds(stream)
        self.assertEqual(len(told.runs()), 1)


class RabbitTest(Cases, RemoteTest):
    service = "rabbitmq"

    def queues(self):
        """{name: (messages, consumers)} of the test's."""
        folder, port = self.broker.folder, self.broker.port
        done = subprocess.run(
            ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "-n", f"wq{port}@localhost", "list_queues",
             "name", "messages", "consumers", "--no-table-headers"], text=True, check=True,
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/lib/rabbitmq/bin:/usr/bin:/bin", "HOME": str(folder / "home"),
                 "ERL_EPMD_PORT": str(port + 3), "LC_ALL": "C.UTF-8",
                 "RABBITMQ_CONF_ENV_FILE": "/dev/null"})
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        return {name: (int(n), int(c)) for name, n, c in rows if name.startswith(self.name)}

    def wait_queue(self, name, expected, seconds=SECONDS):
        wait_for(lambda: self.queues().get(name) == expected, f"{name} as {expected}", seconds,
                 seen=self.queues)

    def test_answers_are_read_only_while_somebody_looks(self):
        server = self.serve(reply_linger_ms=300, reply_check_ms=3000000, reply_expires_ms=3600000)
        packager, path = self.packager(), self.start(server)
        job = packager.get()
        name = f"{self.name}/{job.id}"
        stream = self.follow(server)
        job.accept(workqueue_alive_ms=60000)
        stream.until(lambda r: r["n_ahead_in_queue"] == 0, "to run", SECONDS)
        stream.close()
        self.wait_queue(name, (0, 0))
        job.say("0.25\tunseen", workqueue_alive_ms=60000)
        job.say("0.5\tunseen", workqueue_alive_ms=60000)
        self.wait_queue(name, (2, 0))
        stream = self.follow(server)
        stream.until_fraction(0.5)
        self.wait_queue(name, (0, 1))
        stream.close()
        self.wait_queue(name, (0, 0))
        job.complete(OUTPUT)
        self.wait_queue(name, (1, 0))
        self.assertEqual(self.wait_result(server, path)[1], OUTPUT)
        self.wait_queue(name, (0, 0))

    def test_a_queue_that_nobody_reads_goes(self):
        server = self.serve(reply_linger_ms=0, reply_check_ms=900, reply_expires_ms=1000)
        packager, path = self.packager(), self.start(server)
        job = packager.get()
        name = f"{self.name}/{job.id}"
        self.wait_queue(name, (0, 0))
        server.kill()
        wait_for(lambda: name not in self.queues(), "the queue to go", SECONDS)
        server = self.serve(storage=server.storage)
        packager.get().complete(OUTPUT)
        self.assertEqual(self.wait_result(server, path)[1], OUTPUT)

    def test_a_queue_of_answers_that_is_refused(self):
        """It is there already, and made otherwise: that job fails, and others go on."""
        server = self.serve(reply_expires_ms=3600000)
        packager, path = self.packager(), self.start(server)
        packager.get()
        server.kill()
        server = self.serve(storage=server.storage, reply_expires_ms=3601000)
        other = self.follow(server, "other")
        self.assertEqual(self.wait_result(server, path, 3 * SECONDS)[0].status, 500)
        wait_for(lambda: packager.get().set == "other", "the other")
        other.close()

    def test_a_thousand_jobs(self):
        server = self.serve(broker_jobs=2000, reply_linger_ms=0, reply_check_ms=1000)
        packager = self.packager()
        client, paths = server.connect(), []
        for i in range(1000):
            client.begin_response()
            server.request("POST", "/start_work", FORM, field(f"s{i}"), client=client)
            client.read_all()
            paths.append(client.head.get("location"))
        # RabbitMQ ends a connection by which an answer crosses with UNSUBSCRIBE, and what it has not
        # confirmed by then comes again, as itself.
        jobs = {}
        while len(jobs) < 1000:
            job = packager.get()
            jobs[job.id] = job
        self.assertEqual(set(jobs), {path.split("/")[-1] for path in paths})
        url = packager.shelf.put(b"x")
        for job in jobs.values():
            job.say("Accepted.")
            job.say("0.5\thalf")
            job.say(f"Complete: {url}\nSize: 1")
        wait_for(lambda: len(server.stored()) > 1000, "a thousand outputs", 6 * SECONDS,
                 seen=lambda: len(server.stored()))
        for path in paths[::100]:
            self.assertEqual(self.wait_result(server, path)[0].status, 200)
        self.assertEqual(set(packager.ids), set(jobs))

    def test_a_job_that_nobody_accepts_is_sent_again(self):
        server, packager = self.serve(resend_ms=1200, reply_check_ms=300), self.packager()
        path = self.start(server)
        self.assertEqual(packager.get().id, packager.get().id)
        reply = self.names["queue_reply"].replace("{id}", path.split("/")[-1])
        packager.send("/amq" + reply, "Failed: enough")
        self.assertEqual(self.wait_result(server, path)[0].status, 500)

    def test_a_packager_without_promises_that_dies_unwatched(self):
        server = self.serve(quiet_ms=1500, reply_linger_ms=0, reply_check_ms=300)
        packager, path = self.packager(), self.start(server)
        job = packager.get()
        job.accept(0)
        self.assertEqual(packager.get().id, job.id)


class ActiveTest(Cases, RemoteTest):
    service = "activemq"

    def test_no_broker_at_first(self):
        self.broker.kill()
        server = self.serve(heartbeat_ms=50)
        path = self.start(server)
        stream = self.follow(server)
        self.assertEqual(stream.record()["n_ahead_in_queue"], 0)
        for _ in range(3):
            stream.read_more("a heartbeat")
        cancelled = self.start(server, "other")
        self.assertEqual(server.ask("DELETE", cancelled)[0].status, 204)
        self.assertEqual(self.wait_result(server, cancelled)[0].status, 410)
        paths = [path] + [self.start(server, f"set{i}") for i in range(5)]
        self.wait_trouble(server, "broker is away")
        self.broker.start()
        packager = self.packager()
        jobs = [packager.get() for _ in paths]
        self.assertNotIn("problems", json.loads(server.ask("GET", "/health")[1]))
        self.assertEqual([job.id for job in jobs], [path.split("/")[-1] for path in paths])
        for job in jobs:
            job.complete(OUTPUT)
        self.assert_succeeds(stream)
        self.assert_no_more(packager)


class AgreeTest(RemoteTest, test_agree.AgreeTest):
    """All faces on one job: the program is run by a packager in Python."""

    def make_bed(self, **options):
        self.names["queue_package"] += uuid.uuid4().hex
        server, job = super().make_bed(**options)
        Runner(self, self.broker.port, self.names, str(job.folder / "told"))
        return server, job

    def agree(self, *arguments, **options):
        super().agree(*arguments, **{**options, "alone": False})

    def check_stored(self, server, job, expected):
        stored = [name for name in server.stored() if name != test_agree.LOCK]
        if expected["state"] == "succeeded":
            self.assertEqual((server.storage / test_agree.key()).read_bytes(), expected["output"])
        self.assertEqual(len(stored), expected["state"] == "succeeded")
        self.assertEqual(len(job.runs()), 1)


class ActiveAgreeTest(AgreeTest):
    service = "activemq"


if __name__ == "__main__":
    unittest.main()
