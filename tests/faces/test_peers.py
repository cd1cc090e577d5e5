"""test_peers.py - no client may take everything (M6, M9): what each address may have, whatever tokens
it makes up, and who may say that he speaks for others."""

import json
import socket

from harness import FaceTest, basic, wait_for

HONEST, GREEDY = "127.0.0.3", "127.0.0.2"


class PeerTest(FaceTest):
    def from_address(self, server, source):
        client = server.connect(source=source)
        self.addCleanup(client.close)
        return client

    def stream(self, server, document_set, source, token="honest", **headers):
        client = self.from_address(server, source)
        return server.generate(document_set, token=token, client=client, headers=headers)

    def busy(self, **options):
        """A server whose worker is busy with a job of nobody's."""
        server = self.serve(workers=1, **options)
        job = self.told("first")
        client = server.generate("first", token="first")
        client.record()
        job.wait_started()
        return server, job


class RowTest(PeerTest):
    """Jobs that wait or run."""

    def crowd(self, server, n, source=GREEDY, **headers):
        """Each with a token that was made up for it."""
        clients = [self.stream(server, f"crowd{i}", source, f"made-up-{i}", **headers)
                   for i in range(n)]
        for client in clients:
            client.record()
        return clients

    def test_m6_fair_against_made_up_tokens(self):
        server, _ = self.busy(fair=True)
        self.crowd(server, 40)
        for i in range(4):  # one of his comes, then one of mine
            ahead = self.stream(server, f"mine{i}", HONEST).record()["n_ahead_in_queue"]
            self.assertLessEqual(ahead, 1 + 2 + 2 * i)

    def test_m6_fair_behind_a_proxy(self):
        server, _ = self.busy(fair=True, trust_proxy="127.0.0.1")
        self.crowd(server, 40, "127.0.0.1", **{"X-Forwarded-For": "198.51.100.7, 203.0.113.9"})
        for name, value in (("X-Forwarded-For", "203.0.113.10"), ("Forwarded", "for=203.0.113.11"),
                            ("Forwarded", 'proto=https;For="[2001:db8::7]:4711"')):
            with self.subTest(value):
                honest = self.stream(server, value, "127.0.0.1", value, **{name: value})
                self.assertLessEqual(honest.record()["n_ahead_in_queue"], 6)

    def test_m6_only_a_proxy_of_ours_speaks_for_others(self):
        """Made-up addresses are worth no more than made-up tokens."""
        server, _ = self.busy(max_per_peer=5, trust_proxy="127.0.0.1")
        for i in range(6):
            client = self.stream(server, f"crowd{i}", GREEDY, f"made-up-{i}",
                                 **{"X-Forwarded-For": f"203.0.113.{i}"})
            self.assertEqual(client.read_head().status, 200 if i < 5 else 429)
        # what a client says itself stands in front of what our proxy adds
        for i in range(6):
            client = self.stream(server, f"spoof{i}", "127.0.0.1", f"other-{i}",
                                 **{"X-Forwarded-For": f"203.0.113.{i}, 198.51.100.1, 127.0.0.1"})
            self.assertEqual(client.read_head().status, 200 if i < 5 else 429)

    def test_m6_max_per_user_against_made_up_tokens(self):
        server, _ = self.busy(max_per_user=1)
        self.crowd(server, 10)
        refused = self.stream(server, "one more", GREEDY, "another", Connection="close")
        refused.read_all()
        head = self.assert_problem((refused.head, refused.body), 429, "address")
        self.assertRegex(head.get("retry-after"), r"^[1-9]\d*$")
        self.assertEqual(self.stream(server, "mine", HONEST).read_head().status, 200)
        self.assertEqual(self.stream(server, "crowd1", GREEDY, "made-up-1").read_head().status, 200,
                         "a job that is there can be joined")

    def test_m6_places_in_the_row_are_given_back(self):
        server, job = self.busy(max_per_peer=2)
        first = self.told("a")
        clients = [self.stream(server, name, GREEDY, name) for name in "ab"]
        for client in clients:
            client.record()
        self.assertEqual(self.stream(server, "c", GREEDY, "c").read_head().status, 429)
        job.succeed()
        first.wait_started()
        first.succeed()
        self.assertEqual(clients[0].last()["returncode"], 0)
        self.assertEqual(self.stream(server, "c", GREEDY, "c").read_head().status, 200)

    def test_m6_of_each_face(self):
        """Whoever begins a job, by whatever protocol."""
        server, _ = self.busy(max_per_peer=1)
        self.crowd(server, 1)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for path, more in (("/start_work", {}), ("/run", {}), ("/run", {"X-Lunkwill": "require"}),
                           ("/api/tasks/", {}), ("/generate", {"Accept": "text/event-stream"})):
            with self.subTest(path, **more):
                client = self.from_address(server, GREEDY)
                server.request("POST", path, {"Authorization": basic("x" + path), **form, **more},
                               f"server=http://a.example&documentSetId={len(path)}", client=client)
                self.assertEqual(client.read_head().status, 429)

    def test_m6_a_server_with_a_journal(self):
        """Its answers come later, and are the same."""
        server, _ = self.busy(max_per_peer=3, journal=self.folder / "journal")
        self.crowd(server, 3)
        self.assertEqual(self.stream(server, "x", GREEDY, "x").read_head().status, 429)


class HeldTest(PeerTest):
    """Responses that wait for news."""

    def test_m6_held_responses(self):
        server, job = self.serve(max_streams_per_peer=3), self.told("set")
        form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": basic()}
        body = "server=http://overview.example&documentSetId=set"
        streams = [self.stream(server, "set", GREEDY, "tok3nofthetest") for _ in range(3)]
        for stream in streams:
            stream.record()
        key = streams[0].head.get("x-workqueue-job")
        more = [("POST", "/generate", form, body), ("GET", f"/work/{key}", {"Prefer": "wait=30"}, None)]
        for method, path, headers, text in more:
            with self.subTest(path):
                client = self.from_address(server, GREEDY)
                server.request(method, path, {**headers, "Connection": "close"}, text, client=client)
                client.read_all()
                head = self.assert_problem((client.head, client.body), 429, "3", "address")
                self.assertTrue(head.get("retry-after"))
        client = self.from_address(server, GREEDY)
        server.request("POST", "/run", form, body, client=client)
        self.assertEqual(client.read_head().status, 429)
        client = self.from_address(server, GREEDY)
        server.request("GET", f"/work/{key}",
                       {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, client=client)
        self.assertEqual(client.read_head().status, 429)
        self.assertEqual(self.stream(server, "set", HONEST, "tok3nofthetest").read_head().status, 200)
        streams.pop().close()
        wait_for(lambda: self.stream(server, "set", GREEDY, "tok3nofthetest").read_head().status == 200,
                 "a place that was given back")
        job.succeed()
        self.assertEqual(streams[0].last()["returncode"], 0)

    def test_m6_lunkwill_requests(self):
        server, job = self.serve(max_streams_per_peer=3, workers=1), self.told("set")

        def ask(source, document_set="set"):
            client = self.from_address(server, source)
            server.request("POST", "/run",
                           {"Authorization": basic(), "X-Lunkwill": "require", "Connection": "close",
                            "Content-Type": "application/x-www-form-urlencoded"},
                           f"server=http://a.example&documentSetId={document_set}", client=client)
            return client.read_head().status, client.read_all()
        ids = []
        for _ in range(3):
            status, text = ask(GREEDY)
            self.assertEqual(status, 201)
            ids.append(json.loads(text)["id"])
        status, text = ask(GREEDY)
        self.assertEqual(status, 429, text)
        self.assertEqual(ask(HONEST)[0], 201)
        self.assertEqual(server.ask("DELETE", f"/api/lunkwill/{ids[0]}")[0].status, 204)
        self.assertEqual(ask(GREEDY)[0], 201)
        self.assertEqual(ask(GREEDY)[0], 429)
        job.succeed()
        job.wait_started()

        def is_ready(name):
            answer = server.ask("GET", f"/api/lunkwill/{name}/summary")[1]
            return json.loads(answer)["status"] == "ready"
        for name in ids[1:]:
            wait_for(lambda name=name: is_ready(name), "the end")
        self.assertEqual(ask(GREEDY)[0], 201)

    def test_m6_the_default_spares_a_proxy_on_this_machine(self):
        server, job, _ = self.serve(max_streams=300), self.told("set"), self.told("slow")
        streams = [server.generate("set") for _ in range(200)]
        for stream in streams:
            self.assertEqual(stream.read_head().status, 200)
        others = [self.stream(server, "set", GREEDY, "tok3nofthetest") for _ in range(100)]
        self.assertEqual({stream.read_head().status for stream in others}, {200})
        job.succeed()
        self.assertEqual(streams[0].last()["returncode"], 0)
        for stream in streams:
            stream.close()
        many = [self.stream(server, "slow", GREEDY) for _ in range(151)]
        self.assertEqual([stream.read_head().status for stream in many].count(429), 1,
                         "half of all")


class ConnectionTest(PeerTest):
    def test_m9_connections_of_a_proxy_are_everybodys(self):
        server = self.serve(max_connections_per_peer=3, trust_proxy=f"{GREEDY}/31")
        for source, most in ((GREEDY, 10), (HONEST, 10), ("127.0.0.4", 3)):
            clients = [self.from_address(server, source) for _ in range(10)]
            n = sum(self.is_served(client) for client in clients)
            self.assertEqual(n, most, source)

    def is_served(self, client):
        try:
            client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            return client.read_head().status == 200
        except (ConnectionError, AssertionError):
            return False

    def test_m6_a_unix_socket(self):
        path = self.folder / "sock"
        server, _ = self.busy(listen_also=[f"unix:{path}"], max_per_peer=2,
                              trust_proxy="unix")
        for i in range(6):
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.connect(str(path))
            body = f"server=http://a.example&documentSetId=u{i}&apiToken=u{i}"
            client.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.%d\r\n"
                           b"Content-Type: application/x-www-form-urlencoded\r\n"
                           b"Content-Length: %d\r\n\r\n%s" % (i // 3, len(body), body.encode()))
            self.assertEqual(client.recv(100)[9:12], b"429" if i % 3 == 2 else b"200")

    def test_m6_a_proxy_that_is_none(self):
        for value in ("nonsense", "10.0.0.0/33", "10.0.0.1/", "::1/129", "10.0.0.1/x"):
            with self.subTest(value), self.assertRaises(AssertionError) as caught:
                self.serve(trust_proxy=value)
            self.assertIn(value, str(caught.exception))
