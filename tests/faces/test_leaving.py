"""test_leaving.py - clients that leave, come back, or only seem to be there."""

import json
import select
import socket
import time

from harness import DEADLINE, SANITIZED, SLOW, FaceTest, plain_only, wait_for

SILENT = {"heartbeat_ms": 0}  # so that nothing is written that could tell the server


class NoticeTest(FaceTest):
    """A client that leaves is noticed although nothing is written to it."""

    def check(self, leave, n=1, **options):
        server, job = self.serve(**SILENT, **options), self.told("set")
        stays = server.generate("set")
        stays.record()
        job.progress("0.25")
        stays.until_fraction(0.25)
        before = server.connections()
        clients = [server.generate("set") for _ in range(n)]
        for client in clients:
            client.record()
        wait_for(lambda: server.connections() >= before + n, "the connections", seen=server.connections)
        for client in clients:
            leave(client)
        wait_for(lambda: server.connections() <= before, "the connections closed by the server",
                 seen=server.connections)
        job.progress("0.7\twent on")
        back = server.generate("set")
        back.until(lambda r: (r["fraction"], r["message"]) == (0.7, "went on"), "the present state")
        job.succeed()
        self.assertEqual(stays.last()["returncode"], 0)
        self.assertEqual(back.last()["returncode"], 0)
        self.assertEqual(len(job.runs()), 1)

    def test_close(self):
        self.check(lambda client: client.close())

    def test_reset(self):
        self.check(lambda client: client.reset())

    def test_shutdown(self):
        self.check(lambda client: client.sock.shutdown(socket.SHUT_WR))

    def test_many_at_once(self):
        self.check(lambda client: client.close(), n=200, loops=3)

    def test_while_waiting_in_the_queue(self):
        server = self.serve(workers=1, **SILENT)
        running, waiting = self.told("running"), self.told("waiting")
        streams = [server.generate("running")]
        running.wait_started()
        before = server.connections()
        client = server.generate("waiting")
        self.assertEqual(client.record()["n_ahead_in_queue"], 1)
        client.close()
        wait_for(lambda: server.connections() <= before, "the connection closed by the server")
        running.succeed()
        waiting.wait_started()
        waiting.succeed()
        streams[0].read_all()
        stream = server.generate("waiting")
        stream.read_all()
        self.assertEqual(len(waiting.runs()), 1)

    def test_the_last_one_leaves_and_the_job_goes_on(self):
        server, job = self.serve(), self.told("set")
        files = server.files()
        client = server.generate("set")
        client.record()
        job.wait_started()
        client.reset()
        job.progress("0.5\talone")
        client = server.generate("set")
        client.until_fraction(0.5)
        client.close()
        job.succeed()
        # whoever asks between the output's appearance and the job's end still sees the end
        wait_for(lambda: json.loads(server.generate("set").read_all()) == [], "the output published",
                 seen=server.stored)
        wait_for(lambda: server.files() <= files, "everything closed", seen=server.files)

    def test_half_a_request_then_gone(self):
        server = self.serve()
        before = server.connections()
        for data in ("", "POST", "POST /generate HTTP/1.1\r\nContent-Length: 100\r\n\r\nserv"):
            client = server.connect()
            client.send(data)
            client.close()
        server.ask("GET", "/metadata")
        wait_for(lambda: server.connections() <= before, "the connections closed", seen=server.connections)

    def test_leaving_with_a_full_buffer(self):
        """Those who read nothing and then go, in the middle of a write to them."""
        for name, leave in (("close", lambda c: c.close()), ("reset", lambda c: c.reset()),
                            ("shutdown", lambda c: c.sock.shutdown(socket.SHUT_WR))):
            with self.subTest(name):
                server_folder = self.folder / ("storage-" + name)
                server, job = self.serve(storage=server_folder, **SILENT), self.told(name)
                reader = server.generate(name)
                reader.record()
                before = server.connections()
                idle = [server.generate(name, client=server.connect(receive_buffer=4096))
                        for _ in range(20)]
                wait_for(lambda: server.connections() >= before + 20, "the connections", seen=server.connections)
                n = 500 if SANITIZED else 5000
                job.tell(f"awk 'BEGIN{{for (i = 1; i < {n}; i++) printf \"%.6f\\t%04000d\\n\", i / {n}, i}}'",
                         "echo '1\tall written'")
                reader.until(lambda r: r["message"] == "all written", "the last line")
                for client in idle:
                    leave(client)
                wait_for(lambda: server.connections() <= before, "the connections closed by the server",
                         seen=server.connections)
                job.succeed()
                self.assertEqual(reader.last()["returncode"], 0)


class IdleTest(FaceTest):
    def test_holding_streams_costs_no_time(self):
        """No polling: a server with streams that wait uses no processor."""
        server, job = self.serve(), self.told("set")
        streams = [server.generate("set") for _ in range(50)]
        for stream in streams:
            stream.record()
        waiting = server.connect()
        before = server.cpu()
        begin = time.monotonic()
        # Nothing will come; this is the time over which it is measured.
        self.assertEqual(select.select([s.sock for s in streams] + [waiting.sock], [], [], 2)[0], [])
        self.assertLess(server.cpu() - before, 0.05 * SLOW * (time.monotonic() - begin))
        job.succeed()
        for stream in streams:
            self.assertEqual(stream.last()["returncode"], 0)


class CrowdTest(FaceTest):
    @plain_only
    def test_ten_thousand_come_and_go(self):
        server, job = self.serve(**SILENT), self.told("set")
        stays = server.generate("set")
        stays.record()
        job.wait_started()
        self.batch(server, 500)
        files, memory = server.files(), server.rss()
        for _ in range(5):
            self.batch(server, 2000)
        wait_for(lambda: server.files() <= files, f"{files} open files again", seen=server.files)
        self.assertLess(server.rss() - memory, 2000 * (24 << 10), "resident memory grew")
        self.assert_levels_off(server)
        job.progress("0.5\tstill here")
        self.assertEqual(stays.until_fraction(0.5)["message"], "still here")
        job.succeed()
        self.assertEqual(stays.last()["returncode"], 0)
        self.assertEqual(len(job.runs()), 1)

    def assert_levels_off(self, server):
        """malloc needs a few batches to find its shape; a leak never ends."""
        sizes = [server.rss()]
        while len(sizes) < 3 or sizes[-1] - sizes[-3] > 1 << 20:
            self.assertLess(len(sizes), 15, f"resident memory grows with each batch: {sizes}")
            self.batch(server, 1000)
            sizes.append(server.rss())

    def batch(self, server, n):
        """n clients at the same time, who each see a record and leave in one of three ways."""
        before = server.connections()
        clients = [server.generate("set") for _ in range(n)]
        for client in clients:
            self.assertIsNone(client.record()["returncode"])
        for i, client in enumerate(clients):
            if i % 3 == 0:
                client.reset()
            elif i % 3 == 1:
                client.close()
            else:
                client.sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: server.connections() <= before, "the connections closed by the server",
                 seen=server.connections)
        for client in clients:
            client.close()

    @plain_only
    def test_all_of_them_get_the_end(self):
        """Five thousand held streams on one job get its change and its end, each whole."""
        server, job = self.serve(), self.told("set")
        clients = [server.generate("set") for _ in range(5000)]
        for client in clients:
            client.record()
        job.progress("0.5")
        for client in clients:
            client.until_fraction(0.5)
        job.succeed()
        for client in clients:
            self.assertEqual(json.loads(client.read_all(2 * DEADLINE))[-1]["returncode"], 0)
            client.close()
