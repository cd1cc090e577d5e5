"""test_memory.py - what a held response costs, whatever was sent for it (H3).

Each kind is held many times over, with a head and a body as large as the limits take, and the server's
memory is looked at: at most 24 KiB each, with all that the kernel does not count."""

import urllib.parse

from harness import SANITIZED, FaceTest, basic, wait_for

MOST = float("inf") if SANITIZED else 24 * 1024  # they take much more
N = 20 if SANITIZED else 500
FORM = "application/x-www-form-urlencoded"


def large_headers(bytes_of_head):
    """As cookies and tracing make them, one of them a large one."""
    headers = {f"X-Filler-{i}": "f" * 900 for i in range((bytes_of_head - 12000) // 920)}
    return {**headers, "Cookie": "c" * 11000}


class HeldMemoryTest(FaceTest):
    def hold(self, request, n=N, warm=20):
        """Bytes for each of n responses, which `request` asks for and has begun."""
        clients = [request() for _ in range(warm)]
        before = self.server.rss()
        clients += [request() for _ in range(n)]
        each = (self.server.rss() - before) / n
        print(f"\n  {self.id().rpartition('.')[2]}: {each / 1024:.1f} KiB each", flush=True)
        for client in clients:
            client.close()
        return each

    def setUp(self):
        super().setUp()
        self.server, self.job = self.serve(hold_ms=600000), self.told("set")
        self.body = urllib.parse.urlencode({"server": "http://a.example", "documentSetId": "set",
                                            "filler": "b" * 60000})
        first = self.server.request("POST", "/generate", {"Authorization": basic(), "Content-Type": FORM},
                                    self.body)
        first.record()
        self.first = first
        self.id_of_job = first.head.get("x-workqueue-job")

    def held(self):
        text = self.server.ask("GET", "/metrics")[1].decode()
        return sum(int(line.split()[-1]) for line in text.splitlines()
                   if line.startswith("workqueue_held") and not line.startswith("#"))

    def post(self, path, **headers):
        return self.server.request("POST", path, {"Authorization": basic(), "Content-Type": FORM,
                                                  **large_headers(30000), **headers}, self.body)

    def test_h3_streams(self):
        def stream():
            client = self.post("/generate")
            client.record()
            return client
        self.assertLess(self.hold(stream), MOST)

    def test_h3_queries(self):
        def stream():
            client = self.post("/generate?" + "q" * 8000 + "&lastEventId=" + "e" * 8000,
                               Accept="text/event-stream")
            client.message()
            return client
        large = large_headers(30000)
        self.post = lambda path, **headers: self.server.request(
            "POST", path, {"Authorization": basic(), "Content-Type": FORM, **headers,
                           "Cookie": large["Cookie"]}, self.body)
        self.assertLess(self.hold(stream), MOST)

    def test_h3_many_lines_of_one_header(self):
        def stream():
            client = self.server.connect()
            accept = f"Accept: application/json;q=0.9, {'a' * 300}/*\r\n" * 90
            client.send(f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: {basic()}\r\n"
                        f"Content-Type: {FORM}\r\nContent-Length: {len(self.body)}\r\n{accept}\r\n"
                        f"{self.body}")
            client.record()
            return client
        self.assertLess(self.hold(stream), MOST)

    def test_h3_chunked_bodies(self):
        def stream():
            client = self.server.connect()
            head = "".join(f"{name}: {value}\r\n" for name, value in large_headers(30000).items())
            client.send(f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: {basic()}\r\n"
                        f"Content-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n{head}\r\n")
            for at in range(0, len(self.body), 1000):
                part = self.body[at:at + 1000]
                client.send(f"{len(part):x}\r\n{part}\r\n")
            client.send("0\r\n\r\n")
            client.record()
            return client
        self.assertLess(self.hold(stream), MOST)

    def wait_held(self, ask):
        """For those that say nothing until they end."""
        n = self.held()
        client = ask()
        wait_for(lambda: self.held() > n, "one more that is held")
        return client

    def test_h3_plain_runs(self):
        self.assertLess(self.hold(lambda: self.wait_held(lambda: self.post("/run"))), MOST)

    def test_h3_polls(self):
        def poll():
            return self.server.request("GET", f"/work/{self.id_of_job}?" + "q" * 8000,
                                       {"Prefer": "wait=600", **large_headers(20000),
                                        "If-None-Match": '"x"'})
        self.assertLess(self.hold(lambda: self.wait_held(poll)), MOST)

    def test_h3_websockets(self):
        def websocket():
            client = self.server.request("GET", f"/work/{self.id_of_job}", {
                "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **large_headers(30000)})
            self.assertEqual(client.read_head().status, 101)
            return client
        self.assertLess(self.hold(websocket), MOST)

    # -- and nothing that is needed is lost -------------------------------------------------------

    def test_h3_the_connection_goes_on(self):
        """With what was sent behind the request, too."""
        client = self.post("/generate")
        client.record()
        client.send(f"GET /jobs/{self.id_of_job} HTTP/1.1\r\nHost: x\r\n\r\n")
        self.job.succeed()
        self.assertEqual(client.last()["returncode"], 0)
        client.begin_response()
        self.assertIn(b'"succeeded"', client.read_all())
        self.server.request("POST", "/generate", {"Authorization": basic(), "Content-Type": FORM},
                            self.body, client=client)
        client.begin_response()
        self.assertEqual(client.read_all(), b"[]")

    def poll(self, **headers):
        return self.wait_held(lambda: self.server.request(
            "GET", f"/work/{self.id_of_job}//?" + "q" * 5000,
            {"Prefer": "wait=600", **large_headers(20000), **headers}))

    def test_h3_what_the_answer_depends_on(self):
        """Conditions and ranges of a poll are those that it came with."""
        etag = '"never"'
        wait_for(self.job.runs, "the program: a start is an answer to polls, too")
        polls = {name: self.poll(**headers) for name, headers in {
            "plain": {}, "none": {"If-None-Match": "*"}, "range": {"Range": "bytes=1-2"},
            "match": {"If-Match": etag}, "stale": {"If-Range": etag, "Range": "bytes=1-2"},
            "long": {"If-Range": etag + " " * 5000, "Range": "bytes=1-2"}}.items()}
        run = self.wait_held(lambda: self.post("/run", Range="bytes=1-2"))
        self.job.succeed("0123456789")
        for client in [*polls.values(), run]:
            client.read_all()
        said = {name: (client.head.status, client.body) for name, client in polls.items()}
        whole = (200, b"0123456789\n")
        self.assertEqual(said, {"plain": whole, "none": (304, b""), "range": (206, b"12"), "stale": whole,
                                "match": (412, said["match"][1]), "long": whole})
        self.assertIn(run.head.status, (200, 206))
