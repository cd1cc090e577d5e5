"""test_nginx.py - nginx in front, with the defaults of proxy_pass: records must not be held back."""

import json

from harness import Client, FaceTest, basic, wait_for
from nginx import start_nginx
from test_websocket import WebSocket, path_of


class Proxied(FaceTest):
    more = ""

    def setUp(self):
        super().setUp()
        self.server = self.serve(heartbeat_ms=0)  # which could tell of who has left
        self.address = start_nginx(self, self.folder, self.server.address, self.more)

    def generate(self, name, accept=None):
        return self.server.generate(name, accept, client=Client(self.address))


class NginxTest(Proxied):
    def test_records_come_as_they_are_written(self):
        job = self.told("set")
        stream = self.generate("set")
        self.assertEqual(stream.record()["fraction"], 0)
        for i in range(1, 10):
            job.progress(f"0.{i}")
            self.assertEqual(stream.until_fraction(i / 10)["returncode"], None)
        job.succeed()
        self.assertEqual(json.loads(stream.read_all())[-1]["returncode"], 0)
        self.assertEqual(json.loads(self.generate("set").read_all()), [])

    def test_events_and_lines(self):
        job = self.told("set")
        events, lines = self.generate("set", "text/event-stream"), self.generate("set", "application/x-ndjson")
        self.assertEqual(json.loads(events.message()["data"])["fraction"], 0)
        lines.record()
        job.progress("0.5")
        lines.until_fraction(0.5)
        self.assertEqual(json.loads(events.message()["data"])["fraction"], 0.5)
        job.succeed()
        self.assertEqual(lines.last()["returncode"], 0)
        self.assertEqual(json.loads(events.message()["data"])["returncode"], 0)

    def test_client_behind_it_leaves(self):
        job = self.told("set")
        stays = self.server.generate("set")
        stays.record()
        before = self.server.connections()
        stream = self.generate("set")
        stream.record()
        wait_for(lambda: self.server.connections() > before, "the connection of nginx")
        stream.close()
        wait_for(lambda: self.server.connections() <= before, "the connection of nginx closed")
        job.succeed()
        self.assertEqual(stays.last()["returncode"], 0)

    def test_problems_pass(self):
        stream = self.server.request("POST", "/generate", {"Connection": "close"}, "",
                                     client=Client(self.address))
        stream.read_all()
        self.assert_problem((stream.head, stream.body), 400)


class WebSocketTest(Proxied):
    """With the headers that an upgrade needs, as nginx's documentation has them."""

    more = ("proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
            "proxy_set_header Connection $connection_upgrade;")

    def open(self):
        return WebSocket(self.address, path_of("set"), {"Authorization": basic()}).opened()

    def test_records_come_as_they_are_written(self):
        job, ws = self.told("set"), self.open()
        self.assertEqual(ws.record()["fraction"], 0)
        for i in range(1, 10):
            job.progress(f"0.{i}")
            ws.until_fraction(i / 10)
        job.succeed()
        self.assertEqual(ws.records()[-1]["returncode"], 0)
        self.assertEqual(ws.closed[0], 1000)

    def test_other_faces_need_no_other_place(self):
        job, stream = self.told("set"), self.generate("set")
        stream.record()
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)

    def test_client_behind_it_leaves(self):
        job = self.told("set")
        stays = self.server.generate("set")
        stays.record()
        before = self.server.connections()
        ws = self.open()
        ws.record()
        wait_for(lambda: self.server.connections() > before, "the connection of nginx")
        ws.close()
        wait_for(lambda: self.server.connections() <= before, "the connection of nginx closed")
        job.succeed()
        self.assertEqual(stays.last()["returncode"], 0)
