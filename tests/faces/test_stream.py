"""test_stream.py - POST /generate: what is streamed, in which format, and when."""

import json
import threading

from harness import DEADLINE, SANITIZED, TOKEN, FaceTest, basic, plain_only, request_bytes
from test_limits import LibraryTest

UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


class ArrayTest(FaceTest):
    """The JSON array, record by record."""

    def test_success(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        first = stream.record()
        self.assert_record(first)
        self.assertEqual([first[k] for k in ("n_ahead_in_queue", "fraction", "returncode", "error")],
                         [0, 0, None, None])
        job.progress("0.25\tindexing")
        record = stream.until_fraction(0.25)
        self.assert_record(record)
        self.assertEqual(record["message"], "indexing")
        self.assertFalse(stream.complete)
        job.progress("0.5")
        self.assert_record(stream.until_fraction(0.5))
        job.succeed()
        last = stream.last()
        self.assert_record(last)
        self.assertEqual((last["returncode"], last["fraction"], last["error"]), (0, 1.0, None))
        self.assertEqual(list(json.loads(stream.body)[-1].items()), list(last.items()))

    def test_bytes_on_the_wire(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        stream.record()
        job.succeed()
        body = stream.read_all().decode("ascii")
        self.assertTrue(body.startswith("["), body)
        self.assertTrue(body.rstrip("\n").endswith("]"), body)
        self.assertRegex(body, r'^\[\{"n_ahead_in_queue": 0, "fraction": 0(\.0)?, "message": null, '
                               r'"returncode": null, "error": null\}')

    def test_headers(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        head = stream.read_head()
        self.assertEqual((head.version, head.status), ("HTTP/1.1", 200))
        expected = {"content-type": "application/json", "cache-control": "no-store, no-transform",
                    "x-accel-buffering": "no", "x-content-type-options": "nosniff",
                    "transfer-encoding": "chunked", "access-control-allow-origin": "*",
                    "content-length": None}
        self.assertEqual({name: head.get(name) for name in expected}, expected)
        job.succeed()
        stream.read_all()

    def test_done_job_is_an_empty_array(self):
        server = self.serve()
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        stream = server.generate("set")
        self.assertEqual(json.loads(stream.read_all()), [])
        self.assertEqual((stream.head.status, stream.head.get("content-type"),
                          stream.head.get("cache-control")), (200, "application/json", "no-store, no-transform"))

    def test_w8_no_proxy_may_compress_a_stream(self):
        """Which would hold its records back."""
        server, job = self.serve(), self.told("set")
        for accept in ("application/json", "application/x-ndjson", "text/event-stream"):
            head = server.generate("set", accept).read_head()
            self.assertIn("no-transform", head.get("cache-control"))
            self.assertEqual(head.get("x-accel-buffering"), "no")
        job.succeed()

    def test_failure_then_afresh(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        job.tell("echo 'no such set' >&2", "exit 3")
        last = stream.last()
        self.assert_record(last)
        self.assertEqual((last["returncode"], last["error"]),
                         (3, "Exited with code 3\nstderr:\nno such set\n"))
        again = server.generate("set")
        self.assertEqual(again.record()["fraction"], 0)
        job.succeed()
        self.assertEqual(again.last()["returncode"], 0)
        self.assertEqual(len(job.runs()), 2)

    def test_items(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        job.progress("3/12\tindexing page 3")
        self.assertEqual(stream.until_fraction(0.25)["message"], "indexing page 3")
        job.succeed()
        stream.read_all()

    def test_a_line_arrives_while_the_program_runs_on(self):
        """No buffer between: each line is seen before the next is written."""
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        for i in range(1, 100):
            job.progress(f"0.{i:02}\tstep {i}")
            self.assertEqual(stream.until_fraction(i / 100)["message"], f"step {i}")
        job.succeed()
        stream.read_all()

    def test_outside_of_ascii_is_escaped(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        job.progress("0.1\tcafé 𝄞")
        record = stream.until_fraction(0.1)
        self.assertEqual(record["message"], "café 𝄞")
        self.assertIn(rb"caf\u00e9 \ud834\udd1e", stream.body)
        job.tell(r"printf '0.2\tbad \377\303( \355\240\200 end\n'")
        record = stream.until_fraction(0.2)
        self.assertRegex(record["message"], "^bad \ufffd\ufffd\\( \ufffd{1,3} end$")
        job.tell(r"""printf '0.3\ta\001b"c\\d\177\n'""")
        self.assertEqual(stream.until_fraction(0.3)["message"], 'a\x01b"c\\d\x7f')
        job.tell(r"printf 'tail \377 é\n' >&2", "exit 1")
        self.assertEqual(stream.last()["error"], "Exited with code 1\nstderr:\ntail \ufffd é\n")
        stream.body.decode("ascii")

    def test_heartbeats_are_newlines_between_tokens(self):
        server, job = self.serve(heartbeat_ms=100), self.told("set")
        stream = server.generate("set")
        stream.record()
        at = len(stream.body)
        while stream.body[at:].count(b"\n") < 3:
            stream.read_more("three heartbeats")
        self.assertEqual(stream.body[at:].strip(b"\n"), b"")
        job.succeed()
        self.assertEqual(json.loads(stream.read_all())[-1]["returncode"], 0)

    def test_http_1_0_ends_with_the_connection(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set", version="1.0")
        self.assertEqual(stream.record()["fraction"], 0)
        self.assertIsNone(stream.head.get("transfer-encoding"))
        job.progress("0.5")
        stream.until_fraction(0.5)
        job.succeed()
        self.assertEqual(json.loads(stream.read_all())[-1]["returncode"], 0)


class FormatTest(FaceTest):
    """The same stream by Accept."""

    def test_ndjson(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set", "application/x-ndjson")
        self.assert_record(stream.record())
        self.assertEqual(stream.head.get("content-type"), "application/x-ndjson")
        job.progress("0.5\thalf")
        stream.until_fraction(0.5)
        job.succeed()
        stream.read_all()
        self.assertTrue(stream.body.endswith(b"\n"))
        records = [json.loads(line) for line in stream.body.splitlines() if line]
        for record in records:
            self.assert_record(record)
        self.assertEqual(records[-1]["returncode"], 0)
        done = server.generate("set", "application/x-ndjson")
        self.assertEqual(done.read_all(), b"")
        self.assertEqual(done.head.status, 200)

    def test_events_by_post(self):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set", "text/event-stream")
        self.check_events(stream, job)

    def test_events_by_get(self):
        server, job = self.serve(), self.told("set")
        stream = server.request("GET", query("set"), {"Accept": "text/event-stream"})
        self.check_events(stream, job)

    def check_events(self, stream, job):
        first = stream.message()
        self.assertRegex(stream.head.get("content-type"), r"^text/event-stream\b")
        self.assertEqual(stream.head.get("cache-control"), "no-store, no-transform")
        self.assertRegex(first["id"], rf"^{UUID4}\.\d+$")
        self.assert_record(json.loads(first["data"]))
        job.progress("0.5\thalf")
        seen = [first]
        while json.loads(seen[-1]["data"])["fraction"] != 0.5:
            seen.append(stream.message())
        job.succeed()
        while (event := stream.message()) is not None:
            seen.append(event)
        self.assertEqual(json.loads(seen[-1]["data"])["returncode"], 0)
        self.assertIn(b"event: end\n", stream.body)
        ids = [event["id"].rpartition(".") for event in seen]
        self.assertEqual({job_id for job_id, _, _ in ids}, {ids[0][0]})
        versions = [int(version) for _, _, version in ids]
        self.assertEqual(versions, sorted(versions))

    def test_event_heartbeats_are_no_events(self):
        server, job = self.serve(heartbeat_ms=50), self.told("set")
        stream = server.generate("set", "text/event-stream")
        stream.message()
        at = len(stream.body)
        while len(stream.body) < at + 3:
            stream.read_more("heartbeats")
        job.succeed()
        self.assertEqual(json.loads(stream.message()["data"])["returncode"], 0)

    def test_after_the_last_event_comes_204(self):
        """So EventSource stops, and a failed job is not run again and again."""
        server = self.serve()
        for name, end in (("success", "echo x >\"$out\"; exit 0"), ("failure", "exit 7")):
            with self.subTest(name):
                job, path = self.told(name), query(name)
                stream = server.request("GET", path, {"Accept": "text/event-stream"})
                events = [stream.message()]
                job.tell(end)
                while (event := stream.message()) is not None:
                    events.append(event)
                head, body = server.ask("GET", path, {"Accept": "text/event-stream",
                                                      "Last-Event-ID": events[-1]["id"]})
                self.assertEqual((head.status, body), (204, b""))
                self.assertEqual(len(job.runs()), 1)

    def test_reconnect_resumes(self):
        server, job = self.serve(), self.told("set")
        stream = server.request("GET", query("set"), {"Accept": "text/event-stream"})
        event = stream.message()
        stream.close()
        job.progress("0.5\thalf")
        watcher = server.generate("set")
        watcher.until_fraction(0.5)
        stream = server.request("GET", query("set"), {"Accept": "text/event-stream",
                                                      "Last-Event-ID": event["id"]})
        self.assertEqual(json.loads(stream.message()["data"])["fraction"], 0.5)
        job.succeed()
        while (following := stream.message()) is not None:
            event = following
        self.assertEqual(json.loads(event["data"])["returncode"], 0)
        self.assertEqual(len(job.runs()), 1)

    def test_reconnect_gets_the_last_event_that_it_missed(self):
        server, job = self.serve(), self.told("set")
        stream = server.request("GET", query("set"), {"Accept": "text/event-stream"})
        event = stream.message()
        stream.close()
        watcher = server.generate("set")
        watcher.record()
        job.tell("exit 9")
        self.assertEqual(watcher.last()["returncode"], 9)
        stream = server.request("GET", query("set"), {"Accept": "text/event-stream",
                                                      "Last-Event-ID": event["id"]})
        self.assertEqual(json.loads(stream.message()["data"])["returncode"], 9)
        self.assertIsNone(stream.message())
        self.assertEqual(len(job.runs()), 1)

    def test_a_strange_last_event_id_is_no_harm(self):
        server = self.serve()
        for i, value in enumerate(["", "x", ".", "0" * 5000, "a.b.c", "\x80\xff", "x.99999999999999999999"]):
            with self.subTest(value[:20]):
                stream = server.request("GET", query(f"set{i}"), {"Accept": "text/event-stream",
                                                                 "Last-Event-ID": value})
                while (event := stream.message()) is not None:
                    last = event
                self.assertEqual(json.loads(last["data"])["returncode"], 0)

    def test_what_accept_chooses(self):
        server = self.serve()
        server.generate("set").read_all()
        array, events, lines = "application/json", "text/event-stream", "application/x-ndjson"
        for accept, expected in [
                (None, array), ("*/*", array), ("application/*", array), ("text/*", events),
                ("application/json, text/event-stream;q=0.5", array),
                ("application/json;q=0.1, application/x-ndjson", lines),
                ("text/html, application/xhtml+xml, */*;q=0.8", array),
                ("application/json;q=0, */*;q=0.1", None), ("Application/X-NDJSON", lines)]:
            with self.subTest(accept):
                stream = server.generate("set", accept)
                stream.read_all()
                if stream.head.status == 204:  # a done job as events
                    self.assertEqual(expected, events)
                    continue
                self.assertEqual(stream.head.status, 200)
                got = stream.head.get("content-type").split(";")[0]
                if expected:
                    self.assertEqual(got, expected)
                else:
                    self.assertNotEqual(got, array)

    def test_not_acceptable(self):
        server = self.serve()
        for accept in ("text/html", "image/png, application/pdf", "*/*;q=0"):
            with self.subTest(accept):
                stream = server.generate("set", accept, {"Connection": "close"})
                stream.read_all()
                self.assert_problem((stream.head, stream.body), 406)
        self.assertFalse((self.folder / "started").exists())


def query(document_set, token="tok3nofthetest"):
    return f"/generate?server=http%3A%2F%2Foverview.example&documentSetId={document_set}&apiToken={token}"


class QueueTest(FaceTest):
    """The place in the queue, and many who ask for one job."""

    def test_place_is_exact(self):
        server = self.serve(workers=1)
        jobs = [self.told(f"set{i}") for i in range(5)]
        streams = []
        for i in range(5):
            streams.append(server.generate(f"set{i}"))
            self.assertEqual(streams[i].record()["n_ahead_in_queue"], i)
        for done in range(5):
            jobs[done].wait_started()
            jobs[done].succeed()
            self.assertEqual(streams[done].last()["returncode"], 0)
            for i in range(done + 1, 5):
                place = i - done - 1
                streams[i].until(lambda r: r["n_ahead_in_queue"] == place, f"n_ahead_in_queue {place}")

    def test_place_with_two_workers(self):
        server = self.serve(workers=2)
        jobs = [self.told(f"set{i}") for i in range(4)]
        streams = [server.generate("set0"), server.generate("set1")]
        for i in range(2):
            jobs[i].wait_started()
            jobs[i].progress("0.1")
            self.assertEqual(streams[i].until_fraction(0.1)["n_ahead_in_queue"], 0)
        for i in (2, 3):
            streams.append(server.generate(f"set{i}"))
            self.assertEqual(streams[i].record()["n_ahead_in_queue"], i)
        jobs[1].succeed()
        streams[3].until(lambda r: r["n_ahead_in_queue"] == 2, "n_ahead_in_queue 2")
        jobs[2].progress("0.1")
        self.assertEqual(streams[2].until_fraction(0.1)["n_ahead_in_queue"], 0)
        for job in (jobs[0], jobs[2], jobs[3]):
            job.succeed()
        for stream in streams:
            self.assertEqual(stream.last()["returncode"], 0)

    def test_first_come_first_served(self):
        server = self.serve(workers=1)
        self.told("first").tell("echo x >\"$out\"; exit 0")
        gate = self.told("gate")
        streams = [server.generate("gate")]
        streams[0].record()
        order = [f"s{i}" for i in (3, 1, 4, 0, 5, 9, 2, 6)]
        for name in order:
            streams.append(server.generate(name))
            streams[-1].record()
        gate.succeed()
        for stream in streams:
            self.assertEqual(stream.last()["returncode"], 0)
        started = (self.folder / "started").read_text().splitlines()
        self.assertEqual([line.split()[1] for line in started], ["gate"] + order)

    def test_a_thousand_ask_and_it_runs_once(self):
        n = 100 if SANITIZED else 1000
        server, job = self.serve(loops=2), self.told("set")
        clients = [server.connect() for _ in range(n)]
        parts = [clients[i::8] for i in range(8)]
        threads = [threading.Thread(target=lambda part=part: [server.generate("set", client=c)
                                                              for c in part]) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in clients:
            self.assertIsNone(client.record(DEADLINE)["returncode"])
        job.progress("0.5\tfor all")
        for client in clients:
            self.assertEqual(client.until_fraction(0.5)["message"], "for all")
        job.succeed()
        for client in clients:
            self.assertEqual(client.last()["returncode"], 0)
            client.close()
        self.assertEqual(len(job.runs()), 1)

    def test_other_parameters_are_another_job(self):
        server = self.serve(workers=8)
        streams = [server.generate("set"), server.generate("set", token="another"),
                   server.request("GET", query("set").replace("overview", "overvie"),
                                  {"Accept": "text/event-stream"})]
        for stream in streams:
            stream.read_all()
        self.assertEqual(len((self.folder / "started").read_text().splitlines()), 3)

    def test_full_queue(self):
        server = self.serve(workers=1, max_queue=1)
        running, queued = self.told("running"), self.told("queued")
        streams = [server.generate("running")]
        running.wait_started()
        streams.append(server.generate("queued"))
        self.assertEqual(streams[1].record()["n_ahead_in_queue"], 1)
        refused = server.generate("third", headers={"Connection": "close"})
        refused.read_all()
        head = self.assert_problem((refused.head, refused.body), 503)
        self.assertRegex(head.get("retry-after"), r"^[1-9]\d*$")
        attached = server.generate("queued")
        self.assertEqual(attached.record()["n_ahead_in_queue"], 1)
        running.succeed()
        queued.succeed()
        for stream in streams + [attached]:
            self.assertEqual(stream.last()["returncode"], 0)
        self.assertEqual(server.generate("third").last()["returncode"], 0)

    def begin(self, server, name, n_ahead, token=TOKEN):
        stream = server.generate(name, token=token)
        self.assertEqual(stream.record()["n_ahead_in_queue"], n_ahead)
        return stream

    def test_a_user_with_too_many_jobs(self):
        server = self.serve(workers=1, max_per_user=2)
        jobs = [self.told("running"), self.told("queued")]
        streams = [self.begin(server, "running", 0)]
        jobs[0].wait_started()
        streams.append(self.begin(server, "queued", 1))
        refused = server.generate("third", headers={"Connection": "close"})
        refused.read_all()
        head = self.assert_problem((refused.head, refused.body), 429)
        self.assertRegex(head.get("retry-after"), r"^[1-9]\d*$")
        self.assertNotIn(TOKEN, refused.body.decode())
        streams.append(self.begin(server, "queued", 1))  # one that is there already is no other
        streams.append(self.begin(server, "third", 2, "another user"))
        for job in jobs:
            job.succeed()
        for stream in streams:
            self.assertEqual(stream.last()["returncode"], 0)
        self.assertEqual(server.generate("third").last()["returncode"], 0)

    def test_a_server_with_too_many_jobs(self):
        server = self.serve(max_per_server=1)
        job, other = self.told("set"), self.told("elsewhere")
        stream = self.begin(server, "set", 0)
        refused = server.generate("second", token="another user", headers={"Connection": "close"})
        refused.read_all()
        head = self.assert_problem((refused.head, refused.body), 429, "server")
        self.assertRegex(head.get("retry-after"), r"^[1-9]\d*$")
        body = "server=http://other.example&documentSetId=elsewhere&apiToken=" + TOKEN
        elsewhere = server.request("POST", "/generate",
                                   {"Content-Type": "application/x-www-form-urlencoded"}, body)
        elsewhere.record()
        for told in (job, other):
            told.succeed()
        self.assertEqual(stream.last()["returncode"], 0)
        self.assertEqual(elsewhere.last()["returncode"], 0)
        self.assertEqual(server.generate("second").last()["returncode"], 0)

    def test_users_take_turns(self):
        """With --fair, who has a single job need not wait for all of another's."""
        server = self.serve(workers=1, fair=True)
        jobs = [self.told(str(i)) for i in range(5)]
        streams = [self.begin(server, "0", 0)]
        jobs[0].wait_started()
        streams += [self.begin(server, str(i), i) for i in range(1, 5)]
        other = self.begin(server, "7", 2, "another user")
        # those that were overtaken learn it
        streams[4].until(lambda r: r["n_ahead_in_queue"] == 5, "its new position")
        for job in jobs:
            job.succeed()
        for stream in streams + [other]:
            self.assertEqual(stream.last()["returncode"], 0)


class ConnectionTest(FaceTest):
    """What HTTP/1.1 allows on a connection."""

    def test_keep_alive(self):
        server = self.serve()
        client = server.connect()
        for i in range(3):
            server.generate("set", client=client)
            client.read_all()
            self.assertEqual(client.head.status, 200)
            client.begin_response()

    def test_pipelined(self):
        server, job = self.serve(), self.told("set")
        client = server.connect()
        for _ in range(2):
            server.generate("set", client=client)
        server.generate("other", client=client)
        client.record()
        job.progress("0.5")
        client.until_fraction(0.5)
        job.succeed()
        answers = []
        for _ in range(3):
            answers.append(json.loads(client.read_all()))
            client.begin_response()
        self.assertEqual(answers[0][-1]["returncode"], 0)
        self.assertEqual(answers[1], [])
        self.assertEqual(answers[2][-1]["returncode"], 0)

    def test_head_has_no_body(self):
        server = self.serve()
        server.generate("set").read_all()
        for path in (query("set"), "/metadata", "/show", "/nowhere"):
            with self.subTest(path):
                client = server.connect()
                client.begin_response(head_only=True)
                server.request("HEAD", path, client=client)
                client.read_head()
                client.begin_response()
                server.request("GET", "/metadata", {"Connection": "close"}, client=client)
                self.assertEqual(client.read_head().status, 200)
                self.assertEqual(json.loads(client.read_all()), {})

    def test_half_a_request_delays_nobody(self):
        server = self.serve(loops=1)
        half, data = server.connect(), request_bytes("POST", "/generate", {
            "Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"},
            "server=http://half.example&documentSetId=8")
        for begin, end in ((0, 10), (10, 60), (60, len(data) - 20), (len(data) - 20, len(data))):
            half.send(data[begin:end])
            self.assertEqual(server.generate(f"set{begin}").last()["returncode"], 0)
        self.assertEqual(half.last()["returncode"], 0)

    def test_body_in_chunks(self):
        server = self.serve()
        client = server.connect()
        client.send("POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                    f"Authorization: {basic()}\r\nContent-Type: application/json\r\n\r\n")
        for part in ('{"server": "http://a', '.example", "docume', 'ntSetId": "7"}'):
            client.send(f"{len(part):x}\r\n{part}\r\n")
        client.send("0\r\n\r\n")
        self.assertEqual(client.last()["returncode"], 0)

    def test_expect_continue(self):
        """curl sends it before a larger body and waits for a second if nobody answers."""
        server = self.serve()
        client = server.connect()
        body = "server=http://a.example&documentSetId=1&more=" + "x" * 2000
        client.send("POST /generate HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                    f"Content-Length: {len(body)}\r\nAuthorization: {basic()}\r\n"
                    "Content-Type: application/x-www-form-urlencoded\r\n\r\n")
        self.assertEqual(client.read_head().status, 100)
        client.begin_response()
        client.send(body)
        self.assertEqual(client.last()["returncode"], 0)

    def test_http_2_is_refused(self):
        server = self.serve()
        client = server.connect()
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        answer = client.read_raw()
        self.assertFalse(answer.startswith(b"\0\0"), answer)
        head, _ = server.ask("GET", "/metadata", {"Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"})
        self.assertEqual(head.status, 200)

    def test_rubbish_is_no_harm(self):
        server = self.serve()
        for data in (b"\0" * 100, b"GET\r\n\r\n", b"\r\n" * 50, b"GET / HTTP/9.9\r\n\r\n",
                     b"POST /generate HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                     b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                     b"GET /" + b"a" * 500000 + b" HTTP/1.1\r\n\r\n"):
            client = server.connect()
            try:
                client.send(data)
            except ConnectionError:
                pass
            client.close()
        self.assertEqual(server.ask("GET", "/metadata")[0].status, 200)


class LatestOnlyTest(FaceTest):
    """A client too slow for every change gets the latest, never a backlog, and always the last."""

    def serve_patiently(self):
        """Whoever does not read is not dropped, however long the test takes."""
        return LibraryTest.serve_with(self, loops=1, stall_timeout_ms=600000)

    @plain_only
    def test_non_readers_cost_nothing(self):
        server, job = self.serve_patiently(), self.told("set")
        idle = [server.generate("set", client=server.connect(receive_buffer=4096)) for _ in range(200)]
        reader = server.generate("set")
        reader.record()
        before = server.rss()
        job.tell("awk 'BEGIN{for (i = 1; i < 100000; i++) printf \"%.5f\\tpage %d of many %0200d\\n\", "
                 "i / 100000, i, 7}'")
        reader.until_fraction(0.99999)
        grown = server.rss() - before
        self.assertLess(grown, 40 << 20, "resident memory grew")
        job.succeed()
        self.assertEqual(reader.last()["returncode"], 0)
        for stream in idle:
            records = json.loads(stream.read_all())
            self.assertEqual(records[-1]["returncode"], 0)
            self.assertLess(len(records), 20000, "a backlog was sent")

    def test_a_non_reader_delays_nobody(self):
        server, job = self.serve_patiently(), self.told("set")
        idle = server.generate("set", client=server.connect(receive_buffer=4096))
        reader = server.generate("set")
        n = 2000 if SANITIZED else 20000
        job.tell(f"awk 'BEGIN{{for (i = 1; i < {n}; i++) printf \"%.6f\\t%0900d\\n\", i / {n}, i}}'",
                 "echo '1\tall written'")
        reader.until(lambda r: r["message"] == "all written", "the last line")
        for i in range(20):
            job.progress(f"0.{i + 10}\tquick")
            reader.until_fraction((i + 10) / 100)
        job.succeed()
        self.assertEqual(reader.last()["returncode"], 0)
        self.assertEqual(json.loads(idle.read_all())[-1]["returncode"], 0)
