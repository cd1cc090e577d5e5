"""test_websocket.py - one job's records as WebSocket messages: the handshake, the token's ways, the
records, the closes, and clients that break the protocol."""

import base64
import hashlib
import json
import os
import random
import socket
import struct
import time
import urllib.parse

from harness import (BUILD, DEADLINE, SERVER, TOKEN, Client, FaceTest, basic, plain_only,
                     request_bytes, wait_for, write_until)
from node import browse, other_origin

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def path_of(document_set, **more):
    fields = {"server": SERVER, "documentSetId": document_set, **more}
    return "/generate?" + urllib.parse.urlencode(fields)


def frame(opcode, payload=b"", final=True, masked=True, reserved=0, claims=None):
    """A frame of a client; `claims` is the length that it says it has."""
    payload = payload.encode() if isinstance(payload, str) else payload
    length = len(payload) if claims is None else claims
    head = bytes([final << 7 | reserved << 4 | opcode])
    flag = masked << 7
    if length < 126:
        head += bytes([flag | length])
    elif length < 1 << 16:
        head += bytes([flag | 126]) + struct.pack(">H", length)
    else:
        head += bytes([flag | 127]) + struct.pack(">Q", length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


class WebSocket:
    """A client, frame by frame. It answers pings and closes, unless it is told not to."""

    def __init__(self, address, path, headers=None, receive_buffer=None, rest=b""):
        self.client = Client(address, receive_buffer)
        self.key = base64.b64encode(os.urandom(16)).decode()
        self.polite = True
        self.pings = 0
        self.closed = None   # (code, reason) of the server's close
        fields = {"Upgrade": "websocket", "Connection": "keep-alive, Upgrade",
                  "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": self.key, **(headers or {})}
        fields = {name: value for name, value in fields.items() if value is not None}
        self.client.send(request_bytes("GET", path, fields) + rest)

    def head(self):
        return self.client.head or self.client.read_head()

    def opened(self):
        head = self.head()
        assert head.status == 101, f"expected 101; got {head.status} {self.client.read_all()}"
        return self

    def send(self, *frames):
        self.client.send(b"".join(frames))

    def _bytes(self, n, end, what):
        while len(self.client.held) < n:
            self.client._receive(end, what)
            if self.client.eof:
                raise AssertionError(f"expected {what}; got the end after {self.client.held!r}")
        data, self.client.held = self.client.held[:n], self.client.held[n:]
        return data

    def frame(self, seconds=None, what="a frame"):
        """The next frame: opcode and payload."""
        self.opened()
        end = time.monotonic() + (seconds or DEADLINE)
        first, second = self._bytes(2, end, what)
        assert first & 0xf0 == 0x80 and second < 128, f"expected whole, unmasked; got {first:x}"
        length = second
        if length == 126:
            length, = struct.unpack(">H", self._bytes(2, end, what))
            assert length >= 126
        elif length == 127:
            length, = struct.unpack(">Q", self._bytes(8, end, what))
            assert length >= 1 << 16
        payload = self._bytes(length, end, what)
        if first & 15 == CLOSE:
            self.closed = (struct.unpack(">H", payload[:2])[0] if payload else 1005,
                           payload[2:].decode())
        return first & 15, payload

    def message(self, seconds=None):
        """The next text message as it is; None at the close."""
        while True:
            opcode, payload = self.frame(seconds, "a message or the close")
            if opcode == TEXT:
                return payload.decode("ascii")
            if opcode == CLOSE:
                if self.polite:
                    self.send(frame(CLOSE, payload))
                return None
            assert opcode in (PING, PONG), f"expected a text message; got {opcode} {payload!r}"
            if opcode == PING:
                self.pings += 1
                if self.polite:
                    self.send(frame(PONG, payload))

    def record(self, seconds=None):
        message = self.message(seconds)
        return None if message is None else json.loads(message)

    def until_fraction(self, fraction):
        while (record := self.record()) is not None:
            if abs(record["fraction"] - fraction) < 1e-9:
                return record
        raise AssertionError(f"expected fraction {fraction}; got the close {self.closed}")

    def records(self, seconds=None):
        """All records up to the close."""
        records = []
        while (record := self.record(seconds)) is not None:
            records.append(record)
        return records

    def close_code(self):
        self.records()
        return self.closed[0]

    def ended(self, seconds=None):
        """Waits for the end of the connection."""
        end = time.monotonic() + (seconds or DEADLINE)
        while not self.client.eof:
            try:
                self.client._receive(end, "the end of the connection")
            except ConnectionError:
                break
        return True

    def close(self):
        self.client.close()


class WebSocketTest(FaceTest):
    def open(self, server, document_set="set", headers=None, fields=None, **options):
        """On /generate, with the token in Authorization unless headers say otherwise."""
        headers = {"Authorization": basic()} if headers is None else headers
        ws = WebSocket(server.address, path_of(document_set, **(fields or {})), headers, **options)
        self.addCleanup(ws.close)
        return ws

    def face_server(self, program=None, **options):
        """Options that the demo has not."""
        storage = self.folder / f"storage{len(list(self.folder.glob('storage*')))}"
        storage.mkdir()
        return self.serve(storage=storage, command=[
            str(BUILD / "tests" / "face-server"), str(program or self.told_program), str(storage),
            *(f"{name}={value}" for name, value in options.items())])

    def assert_ends(self, ws, code, *reason):
        """A close with this code comes, is answered, and the connection ends."""
        self.assertEqual(ws.close_code(), code, ws.closed)
        for word in reason:
            self.assertIn(word, ws.closed[1])
        self.assertNotIn(TOKEN, ws.closed[1])
        self.assertLessEqual(len(ws.closed[1].encode()), 123)
        ws.ended()


class RecordsTest(WebSocketTest):
    """One message a record, the first at once, the last before the close."""

    def test_success(self):
        server, job = self.serve(), self.told("set")
        ws = self.open(server)
        text = ws.message()
        self.assertEqual(text, json.dumps(json.loads(text)), "the record and nothing else")
        self.assert_record(json.loads(text))
        job.progress("0.25\tcafé 𝄞")
        self.assertEqual(ws.until_fraction(0.25)["message"], "café 𝄞")
        job.progress("3/4\tmost")
        ws.until_fraction(0.75)
        job.succeed()
        records = ws.records()
        for record in records:
            self.assert_record(record)
        self.assertEqual((records[-1]["returncode"], records[-1]["fraction"]), (0, 1))
        self.assertEqual(ws.closed, (1000, ""))
        ws.ended()

    def test_the_same_records_as_the_array(self):
        server, job = self.serve(), self.told("set")
        ws, stream = self.open(server), server.generate("set")
        seen = [[ws.record()], [stream.record()]]
        for fraction in (0.125, 0.5, 0.875):
            job.progress(str(fraction))
            seen[0].append(ws.until_fraction(fraction))
            seen[1].append(stream.until_fraction(fraction))
        job.tell("echo why >&2; exit 3")
        seen[0].append(ws.records()[-1])
        seen[1].append(stream.last())
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(seen[0][-1]["error"], "Exited with code 3\nstderr:\nwhy\n")
        self.assertEqual(len(job.runs()), 1)

    def test_a_job_as_a_resource(self):
        server, job = self.serve(), self.told("set")
        head, body = server.ask("POST", "/jobs", {"Content-Type": "application/x-www-form-urlencoded"},
                                "server=http://overview.example&documentSetId=set&apiToken=t")
        id_ = json.loads(body)["id"]
        ws = WebSocket(server.address, f"/jobs/{id_}", {})
        self.addCleanup(ws.close)
        job.progress("0.25\tone")
        record = ws.until_fraction(0.25)
        self.assertEqual((record["id"], record["state"], record["message"]), (id_, "running", "one"))
        job.succeed()
        last = ws.records()[-1]
        self.assertEqual((last["state"], last["output"]["href"]), ("succeeded", f"/work/{id_}"))
        self.assertEqual({**last, "watching": 0}, json.loads(server.ask("GET", f"/jobs/{id_}")[1]))
        self.assertEqual(ws.closed, (1000, ""))

    def test_long_records(self):
        """Frames of each of the three lengths."""
        server = self.serve()
        for size in (10, 1000, 60000):
            with self.subTest(size):
                job = self.told(f"set{size}")
                ws = self.open(server, f"set{size}")
                ws.record()
                job.tell(f"head -c {size} /dev/zero | tr '\\0' '\\001' >&2; exit 1")
                record = ws.records()[-1]
                self.assertEqual(record["error"].count("\x01"), size)
                self.assertEqual(ws.closed, (1000, ""))

    def test_done_before(self):
        server = self.serve()
        server.generate("set").read_all()
        ws = self.open(server)
        self.assertEqual(ws.opened().head().get("x-workqueue"), "hit")
        self.assertEqual(ws.records(), [])
        self.assertEqual(ws.closed[0], 1000)
        ws.ended()

    def test_browsers_no_cache_builds_nothing_again(self):
        server, job = self.serve(), self.told("set")
        ws = self.open(server)
        job.succeed()
        ws.records()
        again = self.open(server, headers={"Authorization": basic(), "Cache-Control": "no-cache",
                                           "Pragma": "no-cache"})
        self.assertEqual(again.records(), [])
        self.assertEqual(len(job.runs()), 1)

    def test_rebuild(self):
        server, job = self.serve(), self.told("set")
        job.succeed()
        self.open(server).records()
        for headers, first in (({"Authorization": basic()}, ()),
                               ({}, (frame(TEXT, TOKEN),))):
            ws = self.open(server, headers=headers, fields={"rebuild": 1})
            ws.opened().send(*first)
            self.assertIsNone(ws.record()["returncode"])
            job.succeed()
            self.assertEqual(ws.records()[-1]["returncode"], 0)
        self.assertEqual(len(job.runs()), 3)

    def test_positions_in_the_queue(self):
        server = self.serve(workers=1)
        first, second = self.told("first"), self.told("second")
        running = self.open(server, "first")
        running.record()
        waiting = self.open(server, "second")
        self.assertEqual(waiting.record()["n_ahead_in_queue"], 1)
        first.succeed()
        self.assertEqual(waiting.record()["n_ahead_in_queue"], 0)
        second.succeed()
        self.assertEqual(waiting.records()[-1]["returncode"], 0)

    def test_many_watch_one_job(self):
        server, job = self.serve(loops=3), self.told("set")
        all_of_them = [self.open(server) for _ in range(100)]
        for ws in all_of_them:
            ws.record()
        job.progress("0.5")
        for ws in all_of_them:
            ws.until_fraction(0.5)
        job.succeed()
        for ws in all_of_them:
            self.assertEqual(ws.records()[-1]["returncode"], 0)
            self.assertEqual(ws.closed, (1000, ""))
        self.assertEqual(len(job.runs()), 1)


class HandshakeTest(WebSocketTest):
    """RFC 6455, 4.2, and what a request may be refused for while it is one."""

    def refused(self, server, status, *words, fields=None, path=None, headers=None):
        ws = WebSocket(server.address, path or path_of("set"),
                       {"Authorization": basic(), **(headers or {})})
        self.addCleanup(ws.close)
        head, body = ws.head(), ws.client.read_all()
        return self.assert_problem((head, body), status, *words)

    def test_accepted(self):
        server = self.serve()
        ws = self.open(server)
        head = ws.opened().head()
        digest = hashlib.sha1(ws.key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.assertEqual(head.get("sec-websocket-accept"), base64.b64encode(digest).decode())
        self.assertEqual(head.get("upgrade").lower(), "websocket")
        self.assertEqual(head.get("connection").lower(), "upgrade")
        self.assertIsNone(head.get("sec-websocket-protocol"))
        self.assertIsNone(head.get("sec-websocket-extensions"))
        self.assertEqual(head.get("x-workqueue"), "started")

    def test_in_any_case(self):
        server = self.serve()
        ws = self.open(server, headers={"Authorization": basic(), "Upgrade": "WebSocket",
                                        "Connection": "upgrade"})
        ws.opened()

    def test_wrong_version(self):
        server = self.serve()
        for version in ("8", "", "113", None):
            head = self.refused(server, 426, "13", headers={"Sec-WebSocket-Version": version})
            self.assertEqual(head.get("sec-websocket-version"), "13")
            self.assertEqual(head.get("upgrade"), "websocket")

    def test_wrong_key(self):
        server = self.serve()
        for key in ("", "short", "a" * 24, "=" * 24, "!" * 22 + "==", None):
            head = self.refused(server, 400, "Sec-WebSocket-Key", headers={"Sec-WebSocket-Key": key})
            self.assertEqual(head.get("sec-websocket-version"), "13")

    def test_a_proxy_without_upgrade(self):
        server = self.serve()
        for gone in ({"Upgrade": None}, {"Connection": "close"}, {"Upgrade": "h2c"}):
            self.refused(server, 426, "Upgrade", headers=gone)

    def test_http_1_0(self):
        server = self.serve()
        client = server.connect()
        client.send(request_bytes("GET", path_of("set", apiToken=TOKEN), {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, version="1.0"))
        self.assertEqual(client.read_head().status, 426)

    def test_a_post_is_no_handshake(self):
        """And is answered as any other."""
        server = self.serve()
        stream = server.generate("set", headers={
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
        self.assertEqual(stream.last()["returncode"], 0)

    def test_parameters(self):
        server = self.serve(allow_server=[SERVER])
        self.refused(server, 400, "server", path="/generate")
        self.refused(server, 400, "documentSetId", path=f"/generate?server={SERVER}")
        self.refused(server, 400, "query", path=path_of("set") + "&x=%zz")
        self.refused(server, 403, path="/generate?server=http://evil.example&documentSetId=1")
        self.refused(server, 401, headers={"Authorization": "Bearer abc"})
        # Without a token, the rest is looked at before the upgrade all the same.
        for path, status in (("/generate?server=http://evil.example&documentSetId=1", 403),
                             (f"/generate?server={SERVER}", 400)):
            ws = WebSocket(server.address, path)
            self.addCleanup(ws.close)
            self.assertEqual(ws.head().status, status)

    def test_queue_full(self):
        server = self.serve(workers=1, max_queue=1)
        jobs = [self.told(name) for name in ("first", "second", "third")]
        self.open(server, "first").record()
        jobs[0].wait_started()
        self.open(server, "second").record()
        head = self.refused(server, 503, path=path_of("third"))
        self.assertTrue(head.get("retry-after"))

    def test_a_user_with_too_many_jobs(self):
        server = self.serve(max_per_user=1)
        job = self.told("first")
        self.open(server, "first").record()
        job.wait_started()
        head = self.refused(server, 429, path=path_of("second"))
        self.assertTrue(head.get("retry-after"))

    def test_too_many_are_held(self):
        server, job = self.face_server(max_streams=2), self.told("set")
        held = [self.open(server), self.open(server, headers={})]
        held[0].record()
        held[1].opened()
        self.refused(server, 503)
        held[1].client.close()
        again = wait_for(lambda: self.try_open(server), "room again")
        again.record()
        job.succeed()
        self.assertEqual(held[0].records()[-1]["returncode"], 0)

    def try_open(self, server):
        ws = self.open(server)
        return ws if ws.head().status == 101 else None

    def test_bytes_that_come_with_the_handshake(self):
        server, job = self.serve(), self.told("set")
        ws = self.open(server, headers={}, rest=frame(PING, b"early") + frame(TEXT, TOKEN))
        self.assertEqual({ws.frame()[0], ws.frame()[0]}, {PONG, TEXT})
        job.succeed()
        self.assertEqual(ws.records()[-1]["returncode"], 0)

    def test_after_other_requests_on_the_connection(self):
        server, job = self.serve(), self.told("set")
        ws = WebSocket(server.address, "/nothing")
        self.addCleanup(ws.close)
        self.assertEqual(ws.head().status, 404)
        ws.client.read_all()
        ws.client.begin_response()
        ws.client.send(request_bytes("GET", path_of("set"), {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": ws.key, "Authorization": basic()}))
        ws.record()
        job.succeed()
        self.assertEqual(ws.records()[-1]["returncode"], 0)


class TokenTest(WebSocketTest):
    """Every way to bring it."""

    def check(self, token=TOKEN, first=None, **options):
        server = self.serve(storage=self.folder / f"storage.{random.random()}")
        ws = self.open(server, **options)
        if first is not None:
            ws.opened().send(*first)
        records = ws.records()
        self.assertEqual(records[-1]["returncode"], 0, records)
        self.assertEqual(ws.closed, (1000, ""))
        head = ws.head()
        self.assertNotIn(token, str(head.headers))
        self.assertNotIn(token, server.log())
        # It was this token: the same job by other means is done.
        self.assertEqual(server.generate("set", token=token).read_all(), b"[]")
        return head

    def test_authorization(self):
        self.check()

    def test_query(self):
        self.check(headers={}, fields={"apiToken": TOKEN})
        self.check(headers={}, fields={"api_token": TOKEN})

    def test_subprotocol(self):
        for offer in (f"workqueue, token.{TOKEN}", f"token.{TOKEN},workqueue",
                      f"graphql-ws, workqueue,  token.{TOKEN} "):
            head = self.check(headers={"Sec-WebSocket-Protocol": offer})
            self.assertEqual(head.get("sec-websocket-protocol"), "workqueue")

    def test_subprotocol_with_odd_characters(self):
        token = "a+b/c d%é=\"(.,"
        offer = "workqueue, token." + urllib.parse.quote(token, safe="")
        self.check(token, headers={"Sec-WebSocket-Protocol": offer})
        self.check("a+b", headers={"Sec-WebSocket-Protocol": "workqueue, token.a+b"})

    def test_precedence(self):
        """The field over the header over the subprotocol (S11)."""
        offer = {"Sec-WebSocket-Protocol": f"workqueue, token.{TOKEN}"}
        self.check("other", headers={"Authorization": basic("first"), **offer},
                   fields={"apiToken": "other"})
        self.check("first", headers={"Authorization": basic("first"), **offer})

    def test_subprotocol_is_selected_without_a_token_in_it(self):
        head = self.check(headers={"Sec-WebSocket-Protocol": "workqueue", "Authorization": basic()})
        self.assertEqual(head.get("sec-websocket-protocol"), "workqueue")
        head = self.check(headers={"Sec-WebSocket-Protocol": "mqtt", "Authorization": basic()})
        self.assertIsNone(head.get("sec-websocket-protocol"))

    def test_only_the_token_is_offered(self):
        server = self.serve()
        ws = self.open(server, headers={"Sec-WebSocket-Protocol": f"token.{TOKEN}"})
        self.assert_problem((ws.head(), ws.client.read_all()), 400, "workqueue")

    def test_malformed_subprotocol(self):
        server = self.serve()
        ws = self.open(server, headers={"Sec-WebSocket-Protocol": "workqueue, token.%zz"})
        self.assertEqual(ws.head().status, 401)

    def test_first_message(self):
        for text in (TOKEN, json.dumps({"apiToken": TOKEN}),
                     json.dumps({"more": [1, {}], "api_token": TOKEN})):
            self.check(headers={}, first=[frame(TEXT, text)])

    def test_first_message_in_pieces(self):
        text = json.dumps({"apiToken": TOKEN, "padding": "x" * 60000}).encode()
        pieces = [frame(TEXT if i == 0 else 0, text[i:i + 999], final=i + 999 >= len(text))
                  for i in range(0, len(text), 999)]
        pieces.insert(3, frame(PING, b"between"))
        self.check(headers={}, first=pieces)
        bytewise = [frame(TEXT, b"", final=False), *(frame(0, bytes([b]), final=False)
                                                     for b in TOKEN.encode()), frame(0)]
        self.check(headers={}, first=bytewise)

    def test_messages_after_the_token_are_ignored(self):
        server, job = self.serve(), self.told("set")
        ws = self.open(server)
        ws.record()
        ws.send(frame(TEXT, "hello"), frame(TEXT), frame(TEXT, json.dumps({"apiToken": "x"})))
        ws.send(frame(PING, b"there?"))
        self.assertEqual(ws.frame(), (PONG, b"there?"))
        job.succeed()
        self.assertEqual(ws.records()[-1]["returncode"], 0)

    def test_first_message_refused(self):
        server = self.serve()
        for first, word in ((frame(TEXT), "first message"), (frame(TEXT, "{}"), "first message"),
                            (frame(TEXT, '{"apiToken": '), "JSON"),
                            (frame(TEXT, json.dumps({"apiToken": 1})), "first message"),
                            (frame(TEXT, "to\0ken"), "first message"),
                            (frame(TEXT, "line\n"), "api_token"),
                            (frame(TEXT, "long" * 1100), "api_token")):
            with self.subTest(first):
                ws = self.open(server, headers={})
                ws.opened().send(first)
                self.assert_ends(ws, 1008, word)

    def test_none_comes(self):
        server = self.face_server(stall_timeout_ms=200, heartbeat_ms=20)
        begin = time.monotonic()
        ws = self.open(server, headers={})
        self.assert_ends(ws, 1008, "token")
        self.assertGreater(time.monotonic() - begin, 0.15)
        # Neither pings nor pieces of a message put it off.
        ws = self.open(server, headers={})
        ws.opened().send(frame(TEXT, b"{", final=False))
        begin = time.monotonic()
        while ws.closed is None and time.monotonic() - begin < DEADLINE:
            ws.send(frame(PING), frame(0, b" ", final=False))
            ws.frame()
        self.assertEqual(ws.closed[0], 1008)

    def test_queue_full(self):
        server = self.serve(workers=1, max_queue=1)
        jobs = [self.told(name) for name in ("first", "second")]
        self.open(server, "first").record()
        jobs[0].wait_started()
        self.open(server, "second").record()
        ws = self.open(server, "third", headers={})
        ws.opened().send(frame(TEXT, TOKEN))
        self.assert_ends(ws, 1013)

    def test_done_before(self):
        server = self.serve()
        server.generate("set").read_all()
        ws = self.open(server, headers={})
        ws.opened().send(frame(TEXT, TOKEN))
        self.assertEqual(ws.records(), [])
        self.assertEqual(ws.closed[0], 1000)

    def test_it_does_not_leave_a_job_behind(self):
        """A client that goes before its token has come has begun nothing."""
        server, job = self.serve(), self.told("set")
        files = server.files()
        for i in range(30):
            ws = self.open(server, headers={}).opened()
            ws.send(frame(TEXT, TOKEN[:i % 7], final=False))
            ws.close()
        wait_for(lambda: server.files() <= files, "the connections closed", seen=server.files)
        self.assertEqual(job.runs(), [])


class WorkTest(WebSocketTest):
    """On /work/{id}: who knows the id needs no token."""

    def work_of(self, server, document_set="set"):
        path = path_of(document_set).replace("/generate", "/start_work")
        head, body = server.ask("POST", path, {"Authorization": basic()}, b"")
        self.assertEqual(head.status, 303, body)
        return urllib.parse.urlsplit(head.get("location")).path

    def watch(self, server, path, headers=None):
        ws = WebSocket(server.address, path, headers)
        self.addCleanup(ws.close)
        return ws

    def test_to_the_end(self):
        server, job = self.serve(), self.told("set")
        path = self.work_of(server)
        ws = self.watch(server, path, {"Sec-WebSocket-Protocol": "workqueue"})
        self.assert_record(ws.record())
        self.assertEqual(ws.head().get("sec-websocket-protocol"), "workqueue")
        job.progress("0.5")
        ws.until_fraction(0.5)
        job.succeed()
        self.assertEqual(ws.records()[-1]["returncode"], 0)
        self.assertEqual(ws.closed, (1000, ""))
        # A job that has ended and is still known: its last record, and the close.
        again = self.watch(server, path).records()
        self.assertEqual([r["returncode"] for r in again], [0])
        self.assertEqual(len(job.runs()), 1)

    def test_cancelled(self):
        server, job = self.serve(), self.told("set")
        path = self.work_of(server)
        ws = self.watch(server, path)
        ws.record()
        job.wait_started()
        self.assertLess(server.ask("DELETE", path)[0].status, 300)
        self.assertEqual(ws.records()[-1]["returncode"], -999)
        self.assertEqual(ws.closed, (1000, ""))

    def test_refused(self):
        server, job = self.serve(), self.told("set")
        path = self.work_of(server)
        unknown = self.watch(server, "/work/00000000-0000-4000-8000-000000000000")
        self.assert_problem((unknown.head(), unknown.client.read_all()), 404)
        old = self.watch(server, path, {"Sec-WebSocket-Version": "8"})
        self.assert_problem((old.head(), old.client.read_all()), 426)
        job.wait_started()
        self.assertEqual(len(job.runs()), 1)


class ControlTest(WebSocketTest):
    """Pings and closes, from either side."""

    def test_ping_is_answered(self):
        server, job = self.serve(), self.told("set")
        ws = self.open(server)
        ws.record()
        for payload in (b"", b"x" * 125, bytes(range(100))):
            ws.send(frame(PING, payload))
            self.assertEqual(ws.frame(), (PONG, payload))
        ws.send(frame(PONG, b"unasked"), frame(PING, b"still there"))
        self.assertEqual(ws.frame(), (PONG, b"still there"))
        job.succeed()
        self.assertEqual(ws.close_code(), 1000)

    def test_pings_when_idle(self):
        server, job = self.serve(heartbeat_ms=30), self.told("set")
        ws = self.open(server)
        ws.record()
        for _ in range(3):
            self.assertEqual(ws.frame(), (PING, b""))
            ws.send(frame(PONG))
        job.progress("0.5")
        ws.until_fraction(0.5)
        job.succeed()
        ws.records()
        self.assertEqual(ws.closed, (1000, ""))

    def test_never_pings(self):
        server, job = self.face_server(heartbeat_ms=0, stall_timeout_ms=50), self.told("set")
        ws, stream = self.open(server), server.generate("set")
        ws.record()
        job.progress("0.5")
        stream.until_fraction(0.5)
        ws.until_fraction(0.5)
        job.tell("sleep 0.3")
        job.succeed()
        self.assertEqual(ws.records()[-1]["returncode"], 0)
        self.assertEqual(ws.pings, 0)

    def test_a_client_that_answers_no_ping_is_dropped(self):
        server, job = self.face_server(heartbeat_ms=30, stall_timeout_ms=1000), self.told("set")
        silent, answers = self.open(server), self.open(server)
        silent.record()
        answers.record()
        both = server.connections()

        def dropped():
            if answers.frame() == (PING, b""):
                answers.send(frame(PONG))
            return server.connections() < both

        wait_for(dropped, "the silent one dropped")
        silent.polite = False
        with self.assertRaisesRegex(AssertionError, "the end"):
            silent.message()
        job.succeed()
        self.assertEqual(answers.records()[-1]["returncode"], 0)

    def test_close_is_answered_and_the_job_goes_on(self):
        server, job = self.serve(), self.told("set")
        for payload, echo in ((b"", b""), (struct.pack(">H", 1000), b"\x03\xe8"),
                              (struct.pack(">H", 4321) + b"bye", b"\x10\xe1bye")):
            ws = self.open(server)
            ws.record()
            ws.send(frame(CLOSE, payload))
            opcode, answer = ws.frame()
            self.assertEqual((opcode, answer), (CLOSE, echo))
            ws.ended()
        job.progress("0.5")
        back = self.open(server)
        back.until_fraction(0.5)
        job.succeed()
        self.assertEqual(back.records()[-1]["returncode"], 0)
        self.assertEqual(len(job.runs()), 1)

    def test_close_while_the_token_is_awaited(self):
        server = self.serve()
        ws = self.open(server, headers={})
        ws.opened().send(frame(CLOSE, struct.pack(">H", 1001)))
        self.assertEqual(ws.frame(), (CLOSE, b"\x03\xe9"))
        ws.ended()

    def test_a_close_that_is_not_answered(self):
        """The connection ends soon all the same."""
        server, job = self.serve(), self.told("set")
        ws = self.open(server)
        ws.polite = False
        ws.record()
        job.succeed()
        self.assertEqual(ws.close_code(), 1000)
        ws.ended(2 + DEADLINE)

    def test_leaving(self):
        """Noticed at once, in every way to leave; the job goes on."""
        server, job = self.serve(), self.told("set")
        stays = self.open(server)
        stays.record()
        job.wait_started()
        before = server.connections()
        for leave in (lambda c: c.close(), lambda c: c.reset(),
                      lambda c: c.sock.shutdown(socket.SHUT_WR)):
            clients = [self.open(server) for _ in range(20)]
            for ws in clients:
                ws.record()
            for ws in clients:
                leave(ws.client)
            wait_for(lambda: server.connections() <= before, "the connections closed",
                     seen=server.connections)
        job.succeed()
        self.assertEqual(stays.records()[-1]["returncode"], 0)


class BrokenTest(WebSocketTest):
    """Clients that break the protocol are told by the code, even if they have more to say."""

    def check(self, code, *frames, headers=None):
        server, job = self.broken_server, self.told(f"set{self.n}")
        ws = self.open(server, f"set{self.n}", headers=headers)
        ws.opened()
        if headers is None:
            ws.record()
        ws.send(*frames)
        self.assert_ends(ws, code)
        self.n += 1
        return ws, job

    def setUp(self):
        super().setUp()
        self.broken_server, self.n = self.serve(workers=32), 0

    def test_protocol_errors(self):
        for frames in ([frame(TEXT, "x", masked=False)], [frame(TEXT, "x", reserved=4)],
                       [frame(3, "x")], [frame(11, "x")], [frame(0, "x")],
                       [frame(TEXT, "x", final=False), frame(TEXT, "y")],
                       [frame(PING, final=False)], [frame(PING, b"x" * 126)],
                       [bytes([0x81, 0xfe, 0, 5, 0, 0, 0, 0])],
                       [frame(CLOSE, struct.pack(">H", 1005))],
                       [frame(CLOSE, struct.pack(">H", 999))]):
            with self.subTest(frames):
                self.check(1002, *frames)
                self.check(1002, *frames, frame(TEXT, "more" * 10000))

    def test_protocol_error_instead_of_a_token(self):
        self.check(1002, frame(TEXT, "x", masked=False), headers={})

    def test_binary(self):
        self.check(1003, frame(BINARY, b"x"))
        self.check(1003, frame(BINARY, TOKEN), headers={})

    def test_not_utf_8(self):
        self.check(1007, frame(TEXT, b"caf\xe9!"))
        self.check(1007, frame(TEXT, b"caf\xc3", final=False), frame(0, b"!"))
        self.check(1007, frame(TEXT, b"\xff" + b"x" * 60000), headers={})

    def test_too_big(self):
        self.check(1009, frame(TEXT, b"x" * 65537), headers={})
        self.check(1009, frame(TEXT, b"x" * 65537))
        # Only said to be: the server does not wait for it, and does not make room.
        self.check(1009, frame(TEXT, b"x", claims=1 << 62))
        # In pieces, each of them small.
        pieces = [frame(0 if i else TEXT, b"x" * 1000, final=False) for i in range(66)]
        self.check(1009, *pieces)
        self.check(1009, *pieces, headers={})

    def test_as_big_as_may_be(self):
        server, job = self.broken_server, self.told("set")
        ws = self.open(server)
        ws.record()
        ws.send(frame(TEXT, b"x" * 65536), frame(PING, b"ok"))
        self.assertEqual(ws.frame(), (PONG, b"ok"))
        job.succeed()
        self.assertEqual(ws.close_code(), 1000)

    def test_megabytes_after_the_close(self):
        """The close arrives, although the client writes on before it reads."""
        ws, _ = self.check(1009, frame(TEXT, b"x" * 3000000))
        del ws

    def test_random_bytes(self):
        """Whatever comes, it ends, and the server goes on."""
        server, job = self.broken_server, self.told("set")
        rng = random.Random(1)
        for i in range(200):
            ws = self.open(server, headers={} if i % 2 else None)
            ws.opened()
            try:
                ws.send(rng.randbytes(rng.randrange(1, 300)))
                ws.client.sock.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass
            ws.ended()
            ws.close()
        ws = self.open(server)
        ws.record()
        job.succeed()
        self.assertEqual(ws.records()[-1]["returncode"], 0)


class SlowTest(WebSocketTest):
    """Clients that do not read: they get the latest, cost little, and go after a while."""

    def flood(self, job, n=300, size=4000):
        job.tell(f"m=$(head -c {size} /dev/zero | tr '\\0' x); i=0; while [ $i -lt {n} ]; do "
                 f"i=$((i+1)); printf '%s\\t%s\\n' $(printf '0.%06d' $i) $m; done; echo 0.9")

    def test_latest_only(self):
        server, job = self.face_server(stall_timeout_ms=600000), self.told("set")
        reader = server.generate("set")
        slow = self.open(server, receive_buffer=4096)
        slow.record()
        self.flood(job)
        reader.until_fraction(0.9)
        job.succeed()
        self.assertEqual(reader.last()["returncode"], 0)
        records = slow.records()
        self.assertEqual(records[-1]["returncode"], 0)
        self.assertEqual(slow.closed, (1000, ""))
        self.assertLess(len(records), 250, "records are left out")
        fractions = [r["fraction"] for r in records]
        self.assertEqual(fractions, sorted(fractions))

    def test_stalled(self):
        server, job = self.face_server(stall_timeout_ms=1000), self.told("set")
        reader = server.generate("set")
        reader.record()
        job.wait_started()
        before = server.connections()
        stalled = [self.open(server, receive_buffer=4096) for _ in range(5)]
        for ws in stalled:
            ws.opened()
        write_until(lambda: server.connections() <= before, job, reader, "the stalled dropped",
                    seen=server.connections)
        job.succeed()
        self.assertEqual(reader.last()["returncode"], 0)

    def test_pings_without_end(self):
        """A client that asks and does not read the answers is not read either."""
        server, job = self.face_server(stall_timeout_ms=3000), self.told("set")
        reader = self.open(server)
        reader.record()
        job.wait_started()
        ws = self.open(server, receive_buffer=4096)
        ws.record()
        before, connections = server.rss(), server.connections()
        ws.client.sock.settimeout(1)
        many = b"".join(frame(PING, b"x" * 125) for _ in range(500))
        with self.assertRaises((socket.timeout, ConnectionError)):
            for _ in range(2000):
                ws.client.sock.sendall(many)
        self.assertLess(server.rss() - before, 16 << 20)
        job.progress("0.5")
        reader.until_fraction(0.5)
        wait_for(lambda: server.connections() < connections, "it dropped", seen=server.connections)
        job.succeed()
        self.assertEqual(reader.records()[-1]["returncode"], 0)

    def test_a_burst_of_pings(self):
        """All are answered, in order."""
        server, job = self.serve(), self.told("set")
        ws = self.open(server)
        ws.record()
        ws.send(*(frame(PING, str(i)) for i in range(3000)))
        for i in range(3000):
            self.assertEqual(ws.frame(), (PONG, str(i).encode()))
        job.succeed()
        self.assertEqual(ws.close_code(), 1000)


class ManyTest(WebSocketTest):
    """Clients that come and go."""

    def test_come_and_go(self):
        server, job = self.serve(loops=3, heartbeat_ms=20), self.told("set")
        stays = self.open(server)
        stays.record()
        job.wait_started()
        before = server.connections()
        rng, held = random.Random(7), []
        for i in range(500):
            ws = self.open(server, headers={} if rng.random() < 0.3 else None)
            held.append(ws)
            if rng.random() < 0.1:
                job.progress(f"0.{i:04d}")
                stays.until_fraction(i / 10000)  # and answers pings, so that it may stay
            while len(held) > rng.randrange(40):
                self.leave(rng, held.pop(rng.randrange(len(held))))
        for ws in held:
            self.leave(rng, ws)
        wait_for(lambda: server.connections() <= before, "the connections closed",
                 seen=server.connections)
        job.succeed()
        self.assertEqual(stays.records()[-1]["returncode"], 0)
        self.assertEqual(len(job.runs()), 1)

    def leave(self, rng, ws):
        """At any moment, in any way."""
        how = rng.randrange(7)
        try:
            if how > 1:
                ws.opened()
            if how > 4:
                ws.send(frame(TEXT, TOKEN))
            if how == 6:
                ws.record()
            if how in (2, 3, 6):
                ws.send(frame(CLOSE))
            if how == 3:
                ws.ended()
        except ConnectionError:
            pass
        if how in (0, 4):
            ws.client.reset()
        else:
            ws.close()

    @plain_only
    def test_memory_of_a_held_one(self):
        server, job = self.serve(), self.told("set")
        for ws in [self.open(server) for _ in range(100)]:
            ws.record()
        job.wait_started()
        before = server.rss()
        held = [self.open(server) for _ in range(2000)]
        for ws in held:
            ws.record()
        self.assertLess((server.rss() - before) / len(held), 14 << 10)
        job.succeed()
        for ws in held:
            self.assertEqual(ws.records()[-1]["returncode"], 0)


class StopTest(WebSocketTest):
    """The server stops: every client is told, and nothing holds it up."""

    def test_records_go_to_the_end(self):
        server, job = self.serve(journal="none"), self.told("set")
        ws = self.open(server)
        ws.record()
        job.wait_started()
        server.terminate()
        records = ws.records()
        self.assertEqual(records[-1]["returncode"], -999)
        self.assertEqual(ws.closed, (1000, ""))
        self.assertEqual(server.wait(), 0)

    def test_those_that_wait_for_a_token(self):
        server = self.serve()
        clients = [self.open(server, headers={}) for _ in range(10)]
        for ws in clients:
            ws.opened()
        begin = time.monotonic()
        server.terminate()
        for ws in clients:
            self.assert_ends(ws, 1012)
        self.assertEqual(server.wait(), 0)
        self.assertLess(time.monotonic() - begin, 4.5, "not 5 s, for which it would linger")

    def test_those_that_do_not_answer(self):
        """Silent ones and stalled ones are cut when the time to linger is over."""
        server, job = self.face_server(linger_ms=300), self.told("set")
        silent = [self.open(server) for _ in range(10)]
        silent += [self.open(server, headers={}) for _ in range(10)]
        for ws in silent:
            ws.polite = False
            ws.opened()
        job.wait_started()
        begin = time.monotonic()
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertLess(time.monotonic() - begin, 4.5, "not the usual 5 s")
        for ws in silent:
            self.assertIn(ws.close_code(), (1000, 1001))
            ws.ended()

    def test_a_job_that_takes_longer_than_there_is_time(self):
        """Its watchers are told that the server goes, before they are cut."""
        server, job = self.face_server(linger_ms=200, grace_ms=2500), self.told("set")
        clients = [self.open(server) for _ in range(20)]
        for ws in clients:
            ws.record()
        job.tell("trap '' TERM", "echo 0.5")
        for ws in clients:
            ws.until_fraction(0.5)
        server.terminate()
        for ws in clients:
            ws.polite = False
            self.assertEqual(ws.close_code(), 1001)
            ws.ended()
        self.assertEqual(server.wait(), 0)

    def test_in_the_middle_of_crowds(self):
        for i in range(3):
            server, job = self.serve(storage=self.folder / f"s{i}", loops=3), self.told(f"set{i}")
            clients = [self.open(server, f"set{i}", headers={} if j % 3 else None)
                       for j in range(60)]
            clients[0].record()
            job.wait_started()
            for ws in clients[5:25]:
                ws.client.reset()
            server.terminate()
            self.assertEqual(server.wait(), 0)
            for ws in clients:
                ws.close()

    def test_on_a_server_of_somebody_else(self):
        server, job = self.face_server(own_host=1), self.told("set")
        streaming, waiting = self.open(server), self.open(server, headers={})
        streaming.record()
        waiting.opened()
        job.progress("0.5")
        streaming.until_fraction(0.5)
        server.terminate()
        for ws in (streaming, waiting):
            ws.polite = False
            self.assertEqual(ws.close_code(), 1001)
            ws.ended()
        self.assertEqual(server.wait(), 0)


class ForeignTest(WebSocketTest):
    """Clients of other people. The tests in Node are few, for each starts a Node."""

    def foreign(self, server, by, client="ws", document_set="set", **more):
        return browse(self, "websocket.mjs", client=client, token=TOKEN, by=by,
                      url=f"ws{server.base[4:]}{path_of(document_set)}", **more)

    def watch_to_the_end(self, client, job, protocol):
        """What every client should see of a job that is told to succeed."""
        self.assertEqual(client.next(), {"open": protocol})
        self.assert_record(json.loads(client.next()["message"]))
        job.progress("0.5\tcafé 𝄞")
        half = client.until(lambda l: "0.5," in l.get("message", ""), "fraction 0.5")
        self.assertEqual(json.loads(half["message"])["message"], "café 𝄞")
        job.succeed()
        end, _ = client.end()
        last = [line for line in client.seen if "message" in line][-1]
        self.assertEqual(json.loads(last["message"])["returncode"], 0)
        self.assertEqual((end["end"], end["reason"]), (1000, ""))
        return end


@plain_only
class WsTest(ForeignTest):
    """npm's ws."""

    def test_every_way_to_bring_the_token(self):
        server = self.serve(workers=8)
        for i, by in enumerate(("authorization", "subprotocol", "message", "json message")):
            with self.subTest(by):
                client = self.foreign(server, by, document_set=f"set{i}")
                job = self.told(f"set{i}")
                self.watch_to_the_end(client, job, "workqueue" if by == "subprotocol" else "")

    def test_refused(self):
        server = self.serve(allow_server=["http://elsewhere.example"])
        self.assertEqual(self.foreign(server, "authorization").next(), {"refused": 403})
        server = self.serve(storage=self.folder / "another")
        self.assertEqual(self.foreign(server, "bare subprotocol").next(), {"refused": 400})

    def test_pings_both_ways_and_leaving(self):
        server, job = self.serve(heartbeat_ms=50), self.told("set")
        client = self.foreign(server, "subprotocol", ping="hello", closeAfter=2)
        client.until(lambda l: l.get("pong") == "hello", "a pong")
        client.until(lambda l: l.get("ping") == 3, "three pings")
        job.progress("0.5")
        self.assertEqual(client.end()[0], {"end": 4000, "reason": "enough"})
        ws = self.open(server)
        ws.until_fraction(0.5)
        job.succeed()
        self.assertEqual(ws.records()[-1]["returncode"], 0)

    def test_too_big(self):
        server = self.serve()
        self.told("set")
        client = self.foreign(server, "authorization", send=1000000)
        self.assertEqual(client.end()[0]["end"], 1009)

    def test_done_before(self):
        server = self.serve()
        server.generate("set").read_all()
        client = self.foreign(server, "message")
        end, _ = client.end()
        self.assertEqual([list(line)[0] for line in client.seen], ["open", "end"])
        self.assertEqual(end["end"], 1000)

    def test_the_server_stops(self):
        server, job = self.serve(), self.told("set")
        watching, waiting = self.foreign(server, "authorization"), self.foreign(server, "nothing")
        watching.until(lambda l: "message" in l, "a record")
        waiting.next()
        job.wait_started()
        server.terminate()
        self.assertEqual(watching.end()[0]["end"], 1000)
        self.assertEqual(waiting.end()[0]["end"], 1012)
        self.assertEqual(server.wait(), 0)


@plain_only
class ChromiumTest(ForeignTest):
    """A page of another origin in headless Chromium."""

    def browse(self, server, by):
        return self.foreign(server, by, client="chromium", page=other_origin(self))

    def test_subprotocol(self):
        server, job = self.serve(), self.told("set")
        end = self.watch_to_the_end(self.browse(server, "subprotocol"), job, "workqueue")
        self.assertTrue(end["clean"])
        self.assertEqual(len(job.runs()), 1)

    def test_first_message(self):
        server, job = self.serve(), self.told("set")
        end = self.watch_to_the_end(self.browse(server, "json message"), job, "")
        self.assertTrue(end["clean"])

    def test_only_the_token_is_offered(self):
        """Refused, which a page sees as 1006; the token comes back in no header."""
        server, job = self.serve(), self.told("set")
        end, _ = self.browse(server, "bare subprotocol").end()
        self.assertEqual((end["end"], end["clean"]), (1006, False))
        self.assertEqual(job.runs(), [])
