"""test_afar.py - outputs across a network look to clients like those on a disk, and hold up nobody."""

import hashlib
import json
import os
import urllib.parse

from harness import DEADLINE, SERVER, TOKEN, basic, plain_only, wait_for
from test_limits import LibraryTest
from test_websocket import TEXT, WebSocket, frame, path_of
from test_work import LargeTest, ResultTest, WorkTest


class Afar:
    """Servers whose store has no descriptors, and is asked on threads."""

    def serve(self, **options):
        if "command" in options:
            return super().serve(**options)
        return LibraryTest.serve_with(self, afar=1, **options)

    def away(self, server):
        (server.storage / ".away").touch()

    def back(self, server):
        (server.storage / ".away").unlink()


class AfarResultTest(Afar, ResultTest):
    test_headers = None  # it needs an option of the demo; see below

    def test_what_comes_is_what_was_made(self):
        server = self.serve()
        for size in self.SIZES:
            output = os.urandom(size)
            path = self.done(server, f"set{size}", output)
            head, body = self.result(server, path)
            self.assertEqual((head.status, hashlib.sha256(body).digest()),
                             (200, hashlib.sha256(output).digest()))
            self.assertEqual(head.get("content-length"), str(size))
            self.assertEqual(head.get("accept-ranges"), "bytes")
            self.assertEqual(len({name for name, _ in head.headers}), len(head.headers), head.headers)


class AfarLargeTest(Afar, LargeTest):
    test_four_gibibytes = test_a_file_that_gets_shorter = None  # of files on this disk
    test_an_output_that_is_deleted_meanwhile = None
    test_a_client_that_takes_nothing_is_dropped = None  # see below
    test_a_slow_client_is_not = test_as_many_as_may = None

    def test_a_client_that_takes_nothing(self):
        server = self.serve(stall_timeout_ms=300, loops=1)
        path = self.large(server)
        before = server.connections()
        idle = [self.begin_reading(server, path) for _ in range(5)]
        # `before` may count a connection of large() that was about to be closed
        wait_for(lambda: self.metric(server, "workqueue_clients_stalled_total") >= 5,
                 "those that read nothing dropped", seen=server.connections)
        wait_for(lambda: server.connections() <= before, "their connections closed",
                 seen=server.connections)
        self.assertEqual(self.metric(server, "workqueue_clients_stalled_total"), 5)
        del idle

    @plain_only
    def test_memory(self):
        server = self.serve()
        path = self.large(server, "256M")
        self.result(server, path, {"Range": "bytes=0-1000000"})
        before = server.rss()
        client = self.poll(server, path)
        client.read_head()
        left, buffer = (256 << 20) - len(client.held), bytearray(1 << 20)
        while left > 0:
            n = client.sock.recv_into(buffer)
            self.assertGreater(n, 0)
            left -= n
        self.assertLess(server.rss() - before, 4 << 20)

    def test_deleted_in_the_middle(self):
        """The rest cannot be had; the client sees that it has not all."""
        server = self.serve()
        client = self.begin_reading(server, self.large(server))
        self.stored_output(server).unlink()
        with self.assertRaisesRegex(AssertionError, "in the middle"):
            client.read_all(3 * DEADLINE)
        self.assertEqual(server.ask("GET", "/health")[0].status, 200)


class AwayTest(Afar, WorkTest):
    def test_a_store_that_is_away_for_a_while(self):
        server = self.serve()
        path = self.done(server)
        self.away(server)
        head = self.assert_problem(server.ask("GET", path), 503, "away")
        self.assertRegex(head.get("retry-after"), r"^[1-9]\d*$")
        self.back(server)
        self.assertEqual(self.result(server, path)[1], b"output of set\n")

    def test_away_in_the_middle(self):
        server = self.serve()
        job = self.told("set")
        path = self.begin(server)
        job.tell("truncate -s 64M \"$out\"; exit 0")
        self.until_ended(server, path)
        client = self.poll(server, path, client=server.connect(receive_buffer=4096))
        self.assertEqual(client.read_head().status, 200)
        self.away(server)
        with self.assertRaisesRegex(AssertionError, "in the middle"):
            client.read_all(3 * DEADLINE)

    def test_clients_may_fetch_it_themselves(self):
        server = self.serve()
        path = self.done(server)
        (server.storage / ".url").write_text("https://bucket.example/prefix\n")
        for method in ("GET", "HEAD"):
            head, body = server.ask(method, path)
            self.assertEqual((head.status, body), (302, b""))
            self.assertRegex(head.get("location"), "^https://bucket.example/prefix/[0-9a-f]{64}$")
            self.assertEqual(head.get("cache-control"), "no-store")
        (server.storage / ".url").unlink()


class SlowStoreTest(Afar, WorkTest):
    """A store that does not answer keeps only those waiting who need its answer. One loop."""

    #: how each face asks for a job; the WebSocket is below
    FACES = {
        "stream": ("POST", "/generate", {}),
        "lines": ("POST", "/generate", {"Accept": "application/x-ndjson"}),
        "events": ("GET", "/generate", {"Accept": "text/event-stream"}),
        "polling": ("POST", "/start_work", {}),
        "run": ("POST", "/run", {}),
        "lunkwill": ("POST", "/run", {"X-Lunkwill": "require"}),
        "tasks": ("POST", "/api/tasks/", {}),
    }

    def serve(self, **options):
        return super().serve(loops=1, **options)

    def slow(self, server):
        (server.storage / ".slow").touch()

    def until_asked(self, server):
        """Somebody waits for the store; meanwhile others are answered."""
        asked = server.storage / ".asked"
        wait_for(asked.exists, "the store to be asked")
        asked.unlink()
        for path in ("/health", "/metrics"):
            self.assertEqual(server.ask("GET", path)[0].status, 200)

    def go_on(self, server):
        (server.storage / ".slow").unlink()

    def start(self, server, face, document_set, token=TOKEN, **more):
        method, path, headers = self.FACES[face]
        fields = urllib.parse.urlencode({"server": SERVER, "documentSetId": document_set, **more})
        headers = {"Authorization": basic(token), "Connection": "close", **headers}
        if method == "GET":
            return server.request(method, f"{path}?{fields}", headers)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return server.request(method, path, headers, fields)

    def test_every_face(self):
        for journal in (0, 1):
            server = self.serve(journal=journal, workers=8,
                                storage=self.folder / f"storage{journal}")
            self.slow(server)
            clients = {}
            for face in self.FACES:
                clients[face] = self.start(server, face, f"{face}{journal}", f"user{face}")
                self.until_asked(server) if len(clients) <= 4 else None  # so many threads ask
            self.assertEqual([f for f, c in clients.items() if c.held or c.head], [])
            self.go_on(server)
            for face, client in clients.items():
                with self.subTest(face, journal=journal):
                    client.read_all()
                    self.assertEqual(client.head.status, {"polling": 303, "lunkwill": 201}.get(face, 200))
                    self.assertEqual(client.head.get("x-workqueue", "started"), "started")
                    self.assertEqual(self.n_runs(f"{face}{journal}"), 1)
            server.finish()

    def n_runs(self, name):
        """Once there is one: who is told of a job need not wait for its program."""
        started = self.folder / "started"
        return wait_for(lambda: started.exists() and started.read_text().count(f" {name} "),
                        f"a run of {name}")

    def test_a_rebuild_asks_nobody(self):
        server = self.serve(journal=1)
        self.done(server)
        job = self.told("set")
        self.slow(server)
        client = self.start(server, "stream", "set", rebuild=1)
        self.assertEqual(client.read_head().status, 200)
        self.assertIsNone(client.record()["returncode"])
        self.go_on(server)
        job.succeed()
        self.assertEqual(client.last()["returncode"], 0)

    def web_socket(self, server, document_set, in_message):
        headers = {} if in_message else {"Authorization": basic()}
        ws = WebSocket(server.address, path_of(document_set), headers)
        self.addCleanup(ws.close)
        if in_message:
            ws.opened().send(frame(TEXT, TOKEN))
        return ws

    def test_web_sockets(self):
        for journal in (0, 1):
            server = self.serve(journal=journal, storage=self.folder / f"storage{journal}")
            for in_message in (0, 1):
                with self.subTest(in_message=in_message, journal=journal):
                    name = f"set{journal}{in_message}"
                    job = self.told(name)
                    self.slow(server)
                    ws, left = (self.web_socket(server, name, in_message) for _ in range(2))
                    self.until_asked(server)
                    left.close()
                    self.go_on(server)
                    self.assertIsNone(ws.record()["returncode"])
                    job.succeed()
                    self.assertEqual(ws.records()[-1]["returncode"], 0)
                    self.assertEqual(ws.closed, (1000, ""))
                    again = self.web_socket(server, name, in_message)
                    self.assertEqual(again.records(), [])
                    self.assertEqual(again.closed[0], 1000)
            server.finish()

    def test_what_is_there(self):
        """What there is to be read of an output waits too, and nothing else."""
        server = self.serve()
        path = self.done(server)
        lunkwill = self.start(server, "lunkwill", "set")
        lunkwill.read_all()
        summary = "/api/lunkwill/%s/summary" % json.loads(lunkwill.body)["id"]
        self.slow(server)
        reader = self.poll(server, path)
        self.until_asked(server)
        self.assertEqual(json.loads(server.ask("GET", summary)[1])["status"], "ready")
        again = self.start(server, "tasks", "set")
        self.until_asked(server)
        self.go_on(server)
        self.assertEqual(reader.read_all(), b"output of set\n")
        again.read_all()
        self.assertEqual(json.loads(again.body)["data"]["task_status"], "SUCCESS")

    def test_one_task_of_a_user(self):
        """Those that come while the first waits are told of it; another user has his own."""
        server, job = self.serve(journal=1, workers=1), self.told("set0")
        self.slow(server)
        clients = [self.start(server, "tasks", "set0")]
        self.until_asked(server)
        clients += [self.start(server, "tasks", f"set{i}") for i in range(1, 20)]
        left = self.start(server, "tasks", "set1")
        other = self.start(server, "tasks", "set0", "another user")
        self.until_asked(server)
        left.close()
        self.go_on(server)
        for client in [*clients, other]:
            client.read_all()
        self.assertEqual([c.head.status for c in clients], [200] + [201] * 19)
        self.assertEqual(len({json.loads(c.body)["data"]["task_id"] for c in clients}), 1)
        self.assertEqual(other.head.status, 200)
        job.succeed()

    def test_a_task_that_cannot_begin(self):
        """Those that waited for it have their turn."""
        server, _ = self.serve(), self.told("set")
        self.slow(server)
        first = self.start(server, "tasks", "set")
        self.until_asked(server)
        others = [self.start(server, "tasks", "set") for _ in range(5)]
        self.assertEqual(server.ask("GET", "/health")[0].status, 200)
        self.away(server)
        self.go_on(server)
        for client in [first, *others]:
            client.read_all()
            self.assertIn(client.head.status, (500, 503), client.body)
        self.back(server)
        again = self.start(server, "tasks", "set")
        again.read_all()
        self.assertEqual(again.head.status, 200)

    def test_clients_that_leave(self):
        """Their jobs are done, and nothing of them stays."""
        server = self.serve(journal=1)
        before = server.connections()
        self.slow(server)
        clients = [self.start(server, face, f"{face}{i}", f"user{face}") for face in self.FACES
                   for i in range(3)]
        self.until_asked(server)
        for client in clients[:10]:
            client.reset()
        for client in clients[10:]:
            client.close()
        self.go_on(server)
        wait_for(lambda: server.connections() <= before, "no connection left",
                 seen=server.connections)
        self.assertEqual(self.start(server, "tasks", "set", "somebody").read_head().status, 200)

    def test_a_stop_meanwhile(self):
        for journal in (0, 1):
            server = self.serve(journal=journal, linger_ms=20000,
                                storage=self.folder / f"storage{journal}")
            self.slow(server)
            clients = [self.start(server, face, face) for face in self.FACES for _ in range(2)]
            web_sockets = [self.web_socket(server, "set", in_message) for in_message in (0, 1)]
            self.until_asked(server)
            server.terminate()
            for client in clients:
                client.read_all()
                self.assertEqual(client.head.status, 503, client.body)
            self.assertEqual(web_sockets[0].head().status, 503)
            self.assertEqual(web_sockets[1].close_code(), 1012 if journal else 1001)
            self.assertEqual(server.wait(), 0)


del Afar, ResultTest, LargeTest, WorkTest
