"""test_clients.py - the clients that people use: Oboe, streaming parsers, EventSource, a browser."""

import json

from harness import DEADLINE, TOKEN, FaceTest, free_port, plain_only, wait_for
from node import NodeProcess, browse, other_origin

ARRAY_CLIENTS = ("oboe !.*", "oboe ![*]", "@streamparser/json", "stream-json")


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
                self.assertIsNone(records[-1]["returncode"])  # it goes on after the restart (W2)
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
        listen = f"127.0.0.1:{free_port()}"
        server, job = self.serve(listen=listen), self.told("set")
        client = self.client(server, "EventSource")
        client.next()
        job.wait_started()
        server.kill()
        job.wait_gone()
        again = self.serve(storage=server.storage, listen=listen)
        # it comes back at its own pace, some seconds each time
        wait_for(lambda: len(job.runs()) == 2, "the client back", 3 * DEADLINE, seen=job.runs)
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


@plain_only
class BrowserTest(FaceTest):
    """A page of another origin in headless Chromium."""

    def watch(self, server, client):
        return browse(self, "browser.mjs", page=other_origin(self), client=client,
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
