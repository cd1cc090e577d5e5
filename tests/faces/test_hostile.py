"""test_hostile.py - clients that mean no good: each is refused or dropped, costs a bounded amount,
and nobody else notices."""

import json
import select
import socket
import time

from harness import (BUILD, DEADLINE, SANITIZED, SLOW, TOKEN, FaceTest, basic, plain_only, wait_for,
                     write_until)

SERVER = BUILD / "tests" / "face-server"
HOST = "Host: plugin.example\r\n"
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
AUTH = f"Authorization: {basic()}\r\n"
BODY = "server=http%3A%2F%2Foverview.example&documentSetId=set"
CHUNKED = "Transfer-Encoding: chunked\r\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
WEBSOCKET = UPGRADE + "Sec-WebSocket-Version: 13\r\n"


def get(path="/nowhere", headers="", method="GET", version="HTTP/1.1", host=HOST):
    return f"{method} {path} {version}\r\n{host}{headers}\r\n".encode("latin1")


def post(headers, body=BODY):
    return f"POST /generate HTTP/1.1\r\n{HOST}{AUTH}{FORM}{headers}\r\n{body}".encode("latin1")


def length(*values):
    return post("".join(f"Content-Length: {value}\r\n" for value in values))


def upgrade(headers):
    return get(f"/generate?{BODY}&apiToken={TOKEN}", headers)


def chunks(body):
    return post(CHUNKED, body)


# Each is answered 4xx, or the connection ends without an answer.
SHAPES = {
    "nothing but line ends": b"\r\n" * 1000,
    "zeros": b"\0" * 5000,
    "noise": bytes(range(128, 256)) * 50,
    "noise, and a line end": b"\xff\xfe\x01\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"a" * 200,
    "SOCKS": b"\5\1\0",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    # the request line
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "HTTP/2 in words": get(version="HTTP/2.0"),
    "version 9.9": get(version="HTTP/9.9"),
    "version 1.10": get(version="HTTP/1.10"),
    "version in small letters": get(version="http/1.1"),
    "method only": b"GET\r\n\r\n",
    "no method": b" /nowhere HTTP/1.1\r\n\r\n",
    "endless method": b"A" * 100000 + b" / HTTP/1.1\r\n\r\n",
    "control byte in the method": b"G\x01T / HTTP/1.1\r\n\r\n",
    "CONNECT": get("evil.example:80", method="CONNECT"),
    "TRACE": get("/generate", method="TRACE"),
    "absolute form": get("http://evil.example/nowhere"),
    "absolute form without a host": get("http://"),
    "no slash": get("nowhere"),
    "star": get("*"),
    "NUL in the path": get("/gen\0erate"),
    "escaped NUL in the path": get("/work/%00"),
    "bad escape in the path": get("/work/%zz"),
    "escape cut off": get("/work/%"),
    "dots": get("/../../../etc/passwd"),
    "escaped dots": get("/work/%2e%2e/%2e%2e/etc/passwd"),
    "backslashes": get("/work\\..\\..\\etc"),
    "space in the path": get("/a b"),
    "tab in the path": get("/a\tb"),
    "high bytes in the path": get("/work/\xff\xfe\xc0\x80"),
    "overlong UTF-8 in the query": get("/generate?server=%c0%af&documentSetId=%f8%88", method="POST"),
    "NUL in the query": get("/generate?server=a%00b&documentSetId=7", method="POST"),
    "path of 300 KB": get("/" + "a" * 300000),
    "path of 600 KB": get("/" + "a" * 600000),
    "query of 300 KB": get("/generate?" + "a=b&" * 75000, method="POST"),
    "query of 300,000 fields": get("/generate?" + "&" * 300000, method="POST"),
    # headers
    "101 headers": get(headers="".join(f"X-{i}: y\r\n" for i in range(101))),
    "header of 300 KB": get(headers="X: " + "a" * 300000 + "\r\n"),
    "header of 500 KB": get(headers="X: " + "a" * 500000 + "\r\n"),
    "header without end": b"GET / HTTP/1.1\r\nX: " + b"a" * 2000000,
    "header without colon": get(headers="nocolon\r\n"),
    "space before the colon": get(headers="X : y\r\n"),
    "header without a name": get(headers=": y\r\n"),
    "NUL in a header": get(headers="X: a\0b\r\n"),
    "NUL in a header's name": get(headers="X\0Y: b\r\n"),
    "control bytes in a header": get(headers="X: a\x01\x1bb\r\n"),
    "CR in a header": get(headers="X: a\rb\r\n"),
    "high bytes in a header's name": get(headers="X\xe9: b\r\n"),
    "folded first header": get(host=" Host: x\r\n"),
    "bare LF": b"GET /nowhere HTTP/1.1\nHost: x\n\n",
    "no host": get(host=""),
    "two hosts": get(headers="Host: evil.example\r\n"),
    "host of 70 KB": get(host="Host: " + "a" * 70000 + "\r\n"),
    "host of nonsense": get(host="Host: a b/\\..\r\n"),
    # how long the body is
    "length: letters": length("abc"),
    "length: negative": length("-1"),
    "length: with a sign": length("+54"),
    "length: hex": length("0x36"),
    "length: more than 64 bits": length("99999999999999999999999"),
    "length: all of 64 bits": length("18446744073709551615"),
    "length: a list": length("54, 54"),
    "length: empty": length(""),
    "length: with a space": length("5 4"),
    "length: twice": length(len(BODY), len(BODY)),
    "length: twice, and different": length(len(BODY), 5),
    "length: first 0": length(0, len(BODY)),
    "length: beyond what comes": length(5400),
    "length: less than comes": length(5),
    "length: none": post(""),
    "length: terabytes": length(1 << 40),
    "length: on a GET, beyond what comes": get(headers="Content-Length: 50\r\n") + b"hello",
    "encoding: nonsense": post("Transfer-Encoding: nonsense\r\n"),
    "encoding: gzip too": post("Transfer-Encoding: gzip, chunked\r\n"),
    "encoding: identity": post("Transfer-Encoding: identity\r\n"),
    "encoding: and a length": post(CHUNKED + "Content-Length: 54\r\n", f"36\r\n{BODY}\r\n0\r\n\r\n"),
    "length: and an encoding": post("Content-Length: 5\r\n" + CHUNKED, f"36\r\n{BODY}\r\n0\r\n\r\n"),
    "encoding: twice": post(CHUNKED * 2, f"36\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk: no number": chunks("zz\r\nabc\r\n0\r\n\r\n"),
    "chunk: negative": chunks("-5\r\nabc\r\n"),
    "chunk: 64 bits": chunks("ffffffffffffffff\r\nabc"),
    "chunk: more": chunks("fffffffffffffffffffff\r\nabc"),
    "chunk: longer than it says": chunks("3\r\nabcdef\r\n0\r\n\r\n"),
    "chunk: an extension of 100 KB": chunks("3;" + "x" * 100000 + "\r\nabc\r\n0\r\n\r\n"),
    "chunk: 10,000 trailers": chunks("0\r\n" + "X: y\r\n" * 10000 + "\r\n"),
    "chunk: endless number": chunks("0" * 200000),
    "chunk: empty number": chunks("\r\nabc\r\n0\r\n\r\n"),
    "chunk: NUL": chunks("3\0\r\nabc\r\n0\r\n\r\n"),
    "chunk: no end": chunks("3\r\nabc\r\n"),
    # upgrades
    "WebSocket: no key": upgrade(WEBSOCKET),
    "WebSocket: bad key": upgrade(WEBSOCKET + "Sec-WebSocket-Key: x\r\n"),
    "WebSocket: key of 60 KB": upgrade(WEBSOCKET + "Sec-WebSocket-Key: " + "a" * 60000 + "\r\n"),
    "WebSocket: version 1": upgrade(UPGRADE + "Sec-WebSocket-Version: 1\r\n" + KEY),
    "WebSocket: nowhere": get(headers=WEBSOCKET + KEY),
    "WebSocket: by POST": post(WEBSOCKET + KEY + "Content-Length: 5\r\n"),
    "WebSocket: to no job": get("/work/01234567-89ab-cdef-0123-456789abcdef", WEBSOCKET + KEY),
    "upgrade to HTTP/2": upgrade("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                                 "HTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
    "upgrade to 10,000 things": upgrade("Upgrade: " + "a, " * 10000 + "\r\nConnection: Upgrade\r\n"),
    "connection of 10,000 words": get(headers="Connection: " + "close, " * 10000 + "\r\n"),
    "expectations": get(headers="Expect: nonsense\r\n"),
    # one after the other
    "garbage behind a request": get() + b"\1\2 garbage\r\n\r\n",
    "a thousand at once": get() * 1000,
    "one behind the last": get(headers="Connection: close\r\n") + get("/metadata"),
    "a request in the body of another": length(0, len(BODY)) + get("/metadata"),
}


def all_of(client, seconds):
    """What comes until the server ends the connection."""
    data, end = b"", time.monotonic() + seconds
    client.sock.setblocking(False)
    poll = select.poll()
    poll.register(client.sock, select.POLLIN)
    while poll.poll(max(0, 1000 * (end - time.monotonic()))):
        try:
            part = client.sock.recv(1 << 16)
        except ConnectionError:
            return data
        if not part:
            return data
        data += part
    raise AssertionError(f"expected the end of the connection; got {data[-300:]!r} and no end")


def statuses(data):
    """Of the answers in it, which are not chunked."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin1").lower().split("\r\n")
        sizes = [int(line[15:]) for line in lines if line.startswith("content-length:")]
        size = sizes[0] if sizes else len(data)  # to the end
        yield int(first.split(" ")[1]), data[:size]
        data = data[size:]


class HostileTest(FaceTest):
    def serve_with(self, program=None, **options):
        storage = self.folder / "storage"
        command = [str(SERVER), str(program or self.told_program), str(storage)]
        command += [f"{name}={value}" for name, value in options.items()]
        return self.serve(storage=storage, command=command)

    def assert_serves(self, server):
        head, body = server.ask("GET", "/health")
        self.assertEqual(head.status, 200, body)

    def answers(self, server, client):
        """Sends a good request on a connection of its own, which is answered."""
        server.request("OPTIONS", "/generate", client=client)
        self.assertEqual(client.read_head().status, 204)
        client.begin_response()


class ShapesTest(HostileTest):
    def test_each_malformed_shape(self):
        """Refused in words or by the end of the connection, and the next request is answered."""
        server = self.serve_with(self.script("echo x >$4"), request_timeout_ms=1000,
                                 idle_timeout_ms=1000)
        clients = {}
        for name, data in SHAPES.items():
            with self.subTest(name):
                clients[name] = server.connect()
                try:
                    clients[name].send(data)
                except ConnectionError:
                    pass  # it has ended the connection already
                self.assert_serves(server)
        for name, client in clients.items():
            with self.subTest(name):
                for status, body in statuses(all_of(client, DEADLINE)):
                    self.assertIn(status, range(400, 500), body)
                    self.assertGreater(len(body), 10)
                client.close()
        self.assert_serves(server)
        self.assertEqual([name for name in server.stored() if len(name) == 64], [])

    def test_odd_but_allowed(self):
        server = self.serve_with()
        shapes = {
            "OPTIONS of all": (get("*", method="OPTIONS"), 204),
            "a line end first": (b"\r\n" + get("/health"), 200),
            "HTTP/1.0": (get("/health", version="HTTP/1.0", host=""), 200),
            "many headers": (get("/health", "".join(f"X-{i}: y\r\n" for i in range(90))), 200),
            "body of a GET": (get("/health", "Content-Length: 5\r\n") + b"hello", 200),
            "chunks, one each byte": (post(CHUNKED + "Accept: text/event-stream\r\n", "".join(
                f"1;x=y\r\n{c}\r\n" for c in BODY) + "0\r\nX: y\r\n\r\n"), 200),
        }
        for name, (data, status) in shapes.items():
            with self.subTest(name):
                client = server.connect()
                client.send(data)
                self.assertEqual(client.read_head().status, status)
                client.close()

    def test_one_request_is_never_two(self):
        """Whoever in front takes the other length would see another request in the rest."""
        server = self.serve_with()
        smuggled = get("/health")
        for lengths in ((len(smuggled), 0), (0, len(smuggled))):
            client = server.connect()
            client.send(f"POST /generate HTTP/1.1\r\n{HOST}"
                        f"Content-Length: {lengths[0]}\r\nContent-Length: {lengths[1]}\r\n\r\n")
            client.send(smuggled)
            self.assertEqual([status for status, _ in statuses(all_of(client, DEADLINE))], [400])


class FramingTest(HostileTest):
    """What others may read as another request: 400 and the end of the connection, on every path."""

    HIDDEN = get("/health")

    def refused(self, server, data):
        client = server.connect()
        client.send(data)
        self.assertEqual([status for status, _ in statuses(all_of(client, DEADLINE))], [400])
        client.close()

    def test_m1_m2_every_path(self):
        """Also where there is no face, and with the fault in the second request of a connection."""
        server = self.serve_with()
        n = len(self.HIDDEN)
        body = self.HIDDEN.decode()
        for path in ("/generate", "/health", "/nowhere", "/work/x"):
            head = f"POST {path} HTTP/1.1\r\n{HOST}"
            for name, data in {
                    "two lengths": f"{head}Content-Length: {n}\r\nContent-Length: {n}\r\n\r\n{body}",
                    "length and chunks": f"{head}Content-Length: {n}\r\n{CHUNKED}\r\n0\r\n\r\n{body}",
                    "0x5": f"{head}{CHUNKED}\r\n0x5\r\nhello\r\n0\r\n\r\n{body}",
                    "bare LF in an extension": f"{head}{CHUNKED}\r\n2;\nxx\r\n0\r\n\r\n{body}",
                    "HTTP/1.0 in chunks": f"POST {path} HTTP/1.0\r\n{HOST}{CHUNKED}\r\n0\r\n\r\n{body}",
                    "folded": f"{head}Content-Length: 1\r\n 0\r\n\r\n{body}",
                    "no host": f"GET {path} HTTP/1.1\r\n\r\n{body}",
                    "two hosts": f"GET {path} HTTP/1.1\r\n{HOST}{HOST}\r\n{body}",
                    "HTTP/1.9": f"GET {path} HTTP/1.9\r\n{HOST}\r\n{body}",
                    "a blank before the colon": f"{head}Content-Length : 0\r\n\r\n{body}"}.items():
                with self.subTest(name, path=path):
                    self.refused(server, data.encode())
                    client = server.connect()
                    client.send(self.HIDDEN + data.encode())
                    got = [status for status, _ in statuses(all_of(client, DEADLINE))]
                    self.assertEqual(got[:1], [200])
                    self.assertLessEqual(set(got[1:]), {400})
                    client.close()
        self.assert_serves(server)

    def test_m2_chunks_in_pieces(self):
        """A byte at a time, as the guard sees what libh2o has not decoded yet."""
        server = self.serve_with()
        head = f"POST /nowhere HTTP/1.1\r\n{HOST}{CHUNKED}\r\n"
        for chunks_, status in (("3;a=b\r\nabc\r\n0\r\n\r\n", 404), ("0x3\r\nabc\r\n0\r\n\r\n", 400)):
            client = server.connect()
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for byte in head + chunks_:
                    client.send(byte.encode())
                    time.sleep(0.002)
            except ConnectionError:
                pass
            self.assertEqual([s for s, _ in statuses(all_of(client, DEADLINE))], [status])

    def test_m2_closes_behind_chunks(self):
        server = self.serve_with()
        client = server.connect()
        client.send(f"POST /nowhere HTTP/1.1\r\n{HOST}{CHUNKED}\r\n0\r\n\r\n".encode() + self.HIDDEN)
        self.assertEqual([s for s, _ in statuses(all_of(client, DEADLINE))], [404])

    def test_l_what_the_rfc_allows(self):
        server = self.serve_with()
        for data in (b"GET /health HTTP/1.1\r\nHost: x \t \r\nX: y  \r\n\r\n",
                     b"GET http://plugin.example/health?x HTTP/1.1\r\nHost: x\r\n\r\n",
                     b"GET HTTP://p/health HTTP/1.1\r\nHost: x\r\n\r\n",
                     b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5 \r\n\r\nhello"):
            client = server.connect()
            client.send(data * 3)
            for _ in range(3):
                head = client.read_head()
                self.assertEqual(head.status, 405 if data.startswith(b"POST") else 200)
                client.read_body() if hasattr(client, "read_body") else client.read_all()
                client.begin_response()
            client.close()

    def test_h3_heads(self):
        """32 KiB are taken, more are 431, wherever the end is."""
        server = self.serve_with()
        for size, status in ((31000, 200), (33000, 431), (300000, 431)):
            client = server.connect()
            try:
                client.send(get("/health", "X: " + "a" * size + "\r\n"))
            except ConnectionError:
                pass
            self.assertEqual(client.read_head().status, status)
            client.close()
        self.assert_serves(server)


@plain_only
class MemoryTest(HostileTest):
    def test_h3_what_is_sent_behind_a_held_request(self):
        """It costs no memory while the response is held (see test_memory): what the server has read of it
        is forgotten, and the rest stays with the kernel."""
        server, job = self.serve_with(loops=1), self.told("set")
        first = server.generate("set")
        first.record()
        streams = []
        for _ in range(10):
            client = server.generate("set")
            client.record()
            streams.append(client)
            held = server.connect()
            held.sock.settimeout(1)
            try:
                held.sock.sendall(post(f"Content-Length: {len(BODY)}\r\n") + get("/health") * 50000)
            except (TimeoutError, OSError):
                pass
            streams.append(held)
        job.succeed()
        self.assertEqual(first.last()["returncode"], 0)
        for held in streams[1::2]:
            held.sock.settimeout(DEADLINE)
            self.assertEqual(held.read_head().status, 200)
            held.close()
        self.assert_serves(server)


class CostTest(HostileTest):
    """What is long, but no longer than is taken, costs time in proportion only."""

    def check(self, server, data, *expected):
        before = server.cpu()
        client = server.connect()
        client.send(data)
        self.assertIn(client.read_head().status, expected)
        client.close()
        self.assertLess(server.cpu() - before, 1 * SLOW)

    def test_bodies(self):
        server = self.serve_with(max_body_bytes=1 << 20)
        part = '--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n'
        bodies = {
            "urlencoded, empty fields": (FORM, "&" * 1000000),
            "urlencoded, many fields": (FORM, "a=b&" * 250000),
            "urlencoded, escapes": (FORM, "server=" + "%41" * 300000),
            "multipart, many parts": ("Content-Type: multipart/form-data; boundary=b\r\n",
                                      part * (1000000 // len(part)) + "--b--\r\n"),
            "multipart, nearly a boundary": (
                f"Content-Type: multipart/form-data; boundary={'-' * 60}\r\n", "-" * 1000000),
            "multipart, a part of line ends": ("Content-Type: multipart/form-data; boundary=b\r\n",
                                               "--b\r\n\r\n" + "\r\n" * 400000),
            "JSON, deep": ("Content-Type: application/json\r\n", "[" * 1000000),
            "JSON, wide": ("Content-Type: application/json\r\n", "{" + '"a":1,' * 140000 + '"b":2}'),
            "JSON, escapes": ("Content-Type: application/json\r\n",
                              '{"server":"' + "\\u0041" * 160000 + '"}'),
        }
        for name, (content_type, body) in bodies.items():
            with self.subTest(name):
                head = f"POST /generate HTTP/1.1\r\n{HOST}{AUTH}{content_type}"
                self.check(server, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode(), 400)
        self.assert_serves(server)

    def test_headers(self):
        """On a job and its output, so that they are looked at."""
        server = self.serve_with(self.script("head -c 100000 /dev/zero >$4"))
        client = server.request("POST", "/start_work", {
            "Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"}, BODY)
        client.read_all()
        path = client.head.get("location")
        server.generate("set").read_all()  # until it has ended, unless it has already
        self.assertEqual(server.ask("GET", path)[0].status, 200)
        n = 30000
        headers = {
            "Range: bytes=" + ",".join(f"{i}-{i + 50000}" for i in range(2000)): (200, 206, 416),
            "Range: bytes=" + "0-," * (n // 3): (200, 206, 416),
            "Range: bytes=" + "9" * n + "-": (200, 416),
            "If-None-Match: " + '"a", ' * (n // 5): (200,),
            "If-None-Match: " + '"' * n: (200,),
            "If-Match: " + 'W/"a", ' * (n // 7): (412,),
            "If-Modified-Since: " + "x" * n: (200,),
            "Accept: " + "text/html;q=0.1, " * (n // 17): (200, 303, 406),
            "Accept: " + ";q=" * (n // 3): (200, 303, 406),
            "Prefer: " + "wait=, " * (n // 7): (200,),
            "Prefer: " + '"\\' * (n // 2): (200,),
            "Last-Event-ID: " + "a" * n: (200,),
            "Cache-Control: " + "no-cache=, " * (n // 11): (200,),
            "Sec-WebSocket-Protocol: " + "token., " * (n // 8): (200,),
        }
        for header, expected in headers.items():
            with self.subTest(header[:50]):
                self.check(server, get(path, header + "\r\n"), *expected)
        self.check(server, post("Authorization: Basic " + "Zm9v" * (n // 4) + "\r\nContent-Length: 54\r\n"),
                   200, 400, 401)
        self.assert_serves(server)


class SlowTest(HostileTest):
    """Those who keep connections busy with nothing."""

    def drip(self, server, begin, rest, n):
        """n connections that send a byte now and then; the seconds until all have been ended."""
        before = server.connections()
        clients = [server.connect() for _ in range(n)]
        for client in clients:
            client.send(begin)
        wait_for(lambda: server.connections() >= before + n, "the connections", seen=server.connections)
        good = server.connect()
        begun, open_ones, at = time.monotonic(), clients, 0
        while open_ones:
            self.answers(server, good)  # others are served meanwhile
            self.assertLess(time.monotonic() - begun, 9 * SLOW, f"{len(open_ones)} are still there")
            still = []
            for client in open_ones:
                try:
                    client.sock.send(rest[at:at + 1], socket.MSG_DONTWAIT)
                    if not select.select([client.sock], [], [], 0)[0] or client.sock.recv(1 << 16):
                        still.append(client)
                except ConnectionError:
                    pass
            open_ones, at = still, (at + 1) % len(rest)
            # that is how slow they are
            select.select([good.sock], [], [], 0.1)
        for client in clients:
            client.close()
        return time.monotonic() - begun

    def test_headers_byte_by_byte(self):
        server = self.serve_with(request_timeout_ms=1000)
        self.drip(server, "GET /health HTTP/1.1\r\nX: ", b"abc", 200)

    def test_body_byte_by_byte(self):
        server = self.serve_with(request_timeout_ms=1000)
        self.drip(server, post("Content-Length: 100000\r\n", ""), b"abc", 200)

    def test_chunks_byte_by_byte(self):
        server = self.serve_with(request_timeout_ms=1000)
        self.drip(server, post(CHUNKED, ""), b"1\r\na\r\n", 200)

    def test_a_thousand_half_open(self):
        """Or some hundreds. Those who connect and say nothing, or half a request."""
        server, n = self.serve_with(request_timeout_ms=5000, loops=2), 300 if SANITIZED else 1000
        before, memory, cpu = server.connections(), server.rss(), server.cpu()
        halves = ("", "GET", "POST /generate HTTP/1.1\r\nContent-Le", post("Content-Length: 99\r\n", "x"))
        crowd = [server.connect() for _ in range(n)]
        for i, client in enumerate(crowd):
            client.send(halves[i % len(halves)])
        wait_for(lambda: server.connections() >= before + n, "the connections", seen=server.connections)
        self.assert_serves(server)
        job = self.told("set")
        stream = server.generate("set")
        self.assertEqual(stream.record()["fraction"], 0)
        job.progress("0.5")
        stream.until_fraction(0.5)
        if not SANITIZED:
            self.assertLess(server.rss() - memory, n * (32 << 10))
        wait_for(lambda: server.connections() <= before + 1, "all of them ended", 2 * DEADLINE,
                 seen=server.connections)
        self.assertLess(server.cpu() - cpu, 1 * SLOW)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)
        for client in crowd:
            client.close()

    def test_beyond_the_cap(self):
        """Silent ones that take every place: others wait in the row until those are ended."""
        server = self.serve_with(request_timeout_ms=1000, max_connections=20, loops=2)
        crowd = [server.connect() for _ in range(50)]
        before = server.cpu()
        head, _ = server.ask("GET", "/health")
        self.assertEqual(head.status, 200)
        self.assertLess(server.cpu() - before, 0.5 * SLOW)
        self.assertLess(server.files(), 100)
        for client in crowd:
            client.close()


class StallTest(HostileTest):
    """A reader that takes nothing costs a bounded amount, and is dropped, on every stream."""

    N = 20

    def flood(self, job):
        n = 300 if SANITIZED else 3000
        job.tell(f"awk 'BEGIN{{for (i = 1; i < {n}; i++) printf \"%.6f\\t%08000d\\n\", i / {n}, i}}'",
                 "echo '1\tall written'")

    def check(self, ask):
        server, job = self.serve_with(stall_timeout_ms=1000, loops=2), self.told("set")
        reader = server.generate("set")
        reader.record()
        before, memory = server.connections(), server.rss()
        idle = [server.connect(receive_buffer=4096) for _ in range(self.N)]
        for client in idle:
            ask(server, client)
        wait_for(lambda: server.connections() >= before + self.N, "the connections",
                 seen=server.connections)
        self.flood(job)
        reader.until(lambda r: r["message"] == "all written", "the last line", 3 * DEADLINE)
        if not SANITIZED:
            self.assertLess(server.rss() - memory, 8 << 20)
        write_until(lambda: server.connections() <= before, job, reader,
                    "those that read nothing dropped", seen=server.connections)
        job.succeed()
        self.assertEqual(reader.last()["returncode"], 0)
        self.assert_serves(server)
        for client in idle:
            client.close()

    def stream(self, accept):
        self.check(lambda server, client: server.generate("set", accept, client=client))

    def test_array(self):
        self.stream("application/json")

    def test_ndjson(self):
        self.stream("application/x-ndjson")

    def test_events(self):
        self.stream("text/event-stream")

    def test_work_events(self):
        path = []

        def ask(server, client):
            if not path:
                one = server.request("POST", "/start_work", {
                    "Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"}, BODY)
                one.read_all()
                path.append(one.head.get("location"))
                one.close()
            server.request("GET", path[0], {"Accept": "text/event-stream"}, client=client)
        self.check(ask)

    def test_websocket(self):
        self.check(lambda server, client: client.send(upgrade(WEBSOCKET + KEY)))

    @plain_only
    def test_output(self):
        server = self.serve_with(self.script("head -c 50000000 /dev/zero >$4"),
                                 stall_timeout_ms=500, loops=2)
        before = server.connections()
        client = server.request("POST", "/start_work", {
            "Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"}, BODY)
        client.read_all()
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        client.close()
        wait_for(lambda: server.connections() <= before, "nobody there", seen=server.connections)
        memory = server.rss()
        idle = [server.connect(receive_buffer=4096) for _ in range(self.N)]
        for one in idle:
            server.request("GET", client.head.get("location"), client=one)
        wait_for(lambda: server.connections() >= before + self.N, "the connections",
                 seen=server.connections)
        wait_for(lambda: server.connections() <= before, "those that read nothing dropped",
                 seen=server.connections)
        self.assertLess(server.rss() - memory, 16 << 20)
        self.assert_serves(server)


class HalfClosedTest(HostileTest):
    """A client that ends its own side after the request, as nc -N does. It gets what there is to
    get at once; one that waits for news counts as gone, since nothing but a write could tell it
    from one that has closed."""

    def ask(self, server, method, path, headers=None, body=None):
        client = server.request(method, path, headers, body)
        client.sock.shutdown(socket.SHUT_WR)
        client.read_all()
        return client

    def test_what_is_there_is_sent(self):
        server = self.serve_with(self.script("head -c 3000000 /dev/zero >$4"))
        form = {"Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"}
        self.assertEqual(self.ask(server, "GET", "/health").head.status, 200)
        path = self.ask(server, "POST", "/start_work", form, BODY).head.get("location")
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        client = self.ask(server, "GET", path)
        self.assertEqual((client.head.status, len(client.body)), (200, 3000000))
        self.assertEqual(json.loads(self.ask(server, "POST", "/generate", form, BODY).body), [])

    def test_one_that_waits_is_gone(self):
        server, job = self.serve_with(heartbeat_ms=0), self.told("set")
        stays = server.generate("set")
        stays.record()
        before = server.connections()
        client = server.generate("set")
        client.record()
        client.sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: server.connections() <= before, "the connection ended")
        job.succeed()
        self.assertEqual(stays.last()["returncode"], 0)
