"""test_afar.py - outputs across a network look to clients like those on a disk, and hold up nobody."""

import hashlib
import os

from harness import DEADLINE, plain_only, wait_for
from test_limits import LibraryTest
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
        wait_for(lambda: server.connections() <= before, "those that read nothing dropped",
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


del Afar, ResultTest, LargeTest, WorkTest
