"""test_limits.py - the limits that the demo does not offer as options, and a host of one's own."""

import json
import resource
import socket
import subprocess
import time

from harness import (BUILD, DEADLINE, SLOW, FaceTest, demo_command, plain_only, wait_for,
                     write_until)

SERVER = BUILD / "tests" / "face-server"


class LibraryTest(FaceTest):
    def serve_with(self, storage=None, **options):
        storage = storage or self.folder / "storage"
        command = [str(SERVER), str(self.told_program), str(storage)]
        command += [f"{name}={value}" for name, value in options.items()]
        return self.serve(storage=storage, command=command)


class StallTest(LibraryTest):
    def test_a_client_that_takes_nothing_is_dropped(self):
        server, job = self.serve_with(stall_timeout_ms=1000, loops=1), self.told("set")
        reader = server.generate("set")
        reader.record()
        before = server.connections()
        idle = [server.generate("set", client=server.connect(receive_buffer=4096)) for _ in range(5)]
        wait_for(lambda: server.connections() >= before + 5, "the connections", seen=server.connections)
        write_until(lambda: server.connections() <= before, job, reader,
                    "those that read nothing dropped", seen=server.connections)
        job.succeed()
        self.assertEqual(reader.last()["returncode"], 0)
        del idle

    def test_a_quiet_job_is_no_stall(self):
        """Nothing is on its way, so nobody is late."""
        server, job = self.serve_with(stall_timeout_ms=200, heartbeat_ms=0), self.told("set")
        stream = server.generate("set")
        stream.record()
        job.tell("sleep 1", "echo 0.5")
        stream.until_fraction(0.5)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)


class LimitTest(LibraryTest):
    def test_streams(self):
        server, job = self.serve_with(max_streams=3, loops=2), self.told("set")
        streams = [server.generate("set") for _ in range(3)]
        for stream in streams:
            stream.record()
        refused = server.generate("set", headers={"Connection": "close"})
        refused.read_all()
        head = self.assert_problem((refused.head, refused.body), 503)
        self.assertRegex(head.get("retry-after"), r"^[1-9]\d*$")
        streams.pop().close()

        def is_served():
            streams.append(server.generate("set"))
            return streams[-1].read_head().status == 200 or streams.pop().close()
        wait_for(is_served, "a place for another stream")
        job.succeed()
        for stream in streams:
            self.assertEqual(stream.last()["returncode"], 0)

    def test_body(self):
        server = self.serve_with(max_body_bytes=100)
        body = "server=http://a.example&documentSetId=7&apiToken=t&x="
        for size, status in ((100, 200), (101, 413)):
            answer = server.ask("POST", "/generate",
                                {"Content-Type": "application/x-www-form-urlencoded"},
                                body + "x" * (size - len(body)))
            self.assertEqual(answer[0].status, status, answer[1])
        self.assert_problem(answer, 413)

    def test_any_body(self):
        server = self.serve_with(max_body_bytes=2**64 - 1)
        answer = server.ask("POST", "/generate", {"Content-Type": "application/x-www-form-urlencoded"},
                            "server=http://a.example&documentSetId=7&x=" + "x" * 200000)
        self.assert_problem(answer, 401)  # it has been read

    def test_a_request_that_never_ends(self):
        server = self.serve_with(request_timeout_ms=300)
        for data in ("", "GET / HT", "POST /generate HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"):
            with self.subTest(data):
                client, begin = server.connect(), time.monotonic()
                client.send(data)
                while client.read_raw():
                    pass
                self.assertTrue(client.eof)
                self.assertLess(time.monotonic() - begin, 9, "not the usual 10 s")

    def test_the_request_timeout_cuts_no_stream(self):
        server, job = self.serve_with(request_timeout_ms=200), self.told("set")
        stream = server.generate("set")
        stream.record()
        job.tell("sleep 1", "echo 0.5")
        stream.until_fraction(0.5)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)

    def test_connections(self):
        """Those beyond the cap wait or are refused; those within work, and nothing spins."""
        server, job = self.serve_with(max_connections=10, loops=1), self.told("set")
        streams = [server.generate("set") for _ in range(10)]
        for stream in streams:
            stream.record()
        beyond = [server.connect() for _ in range(20)]
        before = server.cpu()
        job.tell("sleep 1", "echo 0.5")
        for stream in streams:
            stream.until_fraction(0.5)
        self.assertLess(server.cpu() - before, 0.3 * SLOW)
        self.assertLess(server.files(), 60)
        for stream in streams:
            stream.close()
        for client in beyond:
            client.close()
        wait_for(lambda: self.is_served(server), "a place for another connection")
        again = server.generate("set")
        again.until_fraction(0.5)
        job.succeed()
        self.assertEqual(again.last()["returncode"], 0)

    def is_served(self, server):
        try:
            return server.ask("OPTIONS", "/generate")[0].status in (200, 204)
        except (AssertionError, ConnectionError):
            return False

    def test_as_many_as_can_be_said(self):
        server = self.serve_with(max_connections=2**64 - 1, loops=2)
        self.assertTrue(self.is_served(server))

    @plain_only
    def test_few_files_at_the_start(self):
        """It starts, or says why not."""
        storage = self.folder / "storage"
        storage.mkdir()
        started = []
        for n in range(20, 72, 3):
            command = ["sh", "-c", f'ulimit -n {n}; exec "$@"', "sh",
                       *demo_command(self.told_program, storage, loops=3)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            with self.subTest(n):
                if process.stdout.readline():
                    process.terminate()
                    started.append(n)
                    self.assertEqual(process.wait(DEADLINE), 0)
                else:
                    self.assertEqual(process.wait(DEADLINE), 2)
                    self.assertRegex(process.stderr.read(), "(?i)too many open files")
            process.communicate()
        self.assertIn(71, started)

    def test_no_files_left(self):
        """With more clients than the process may open files it neither spins nor stays away."""
        server, job = self.serve_with(max_connections=100000, loops=2), self.told("set")
        stream = server.generate("set")
        stream.record()
        job.wait_started()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.files() + 20,) * 2)
        crowd = [server.connect() for _ in range(60)]
        before = server.cpu()
        job.tell("sleep 1", "echo 0.5")
        stream.until_fraction(0.5)
        self.assertLess(server.cpu() - before, 0.5 * SLOW)
        for client in crowd:
            client.close()
        wait_for(lambda: self.is_served(server), "new clients served again", 3 * DEADLINE)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)


class OwnHostTest(LibraryTest):
    """The faces mounted on an h2o server that somebody has already."""

    def test_faces_and_own_handler(self):
        server, job = self.serve_with(own_host=1), self.told("set")
        self.assertEqual(server.ask("GET", "/")[1], b"my own\n")
        stream = server.generate("set")
        self.assertEqual(stream.record()["fraction"], 0)
        job.progress("0.5")
        stream.until_fraction(0.5)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)
        self.assertEqual(json.loads(server.generate("set").read_all()), [])

    def test_leaving(self):
        server, job = self.serve_with(own_host=1, heartbeat_ms=0), self.told("set")
        before = server.connections()
        clients = [server.generate("set") for _ in range(3)]
        for client in clients:
            client.record()
        clients[0].close()
        clients[1].reset()
        clients[2].sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: server.connections() <= before, "the connections closed",
                 seen=server.connections)
        job.succeed()
        self.assertEqual(server.generate("set").read_all()[-1:], b"]")

    def test_stop(self):
        server, job = self.serve_with(own_host=1), self.told("set")
        streams = [server.generate("set"), server.generate("set", "application/x-ndjson"),
                   server.generate("set", "text/event-stream")]
        for stream in streams:
            stream.read_head()
        self.assertEqual(streams[0].record()["fraction"], 0)
        server.terminate()
        for stream in streams:
            stream.read_all()
        self.assertIsInstance(json.loads(streams[0].body), list)
        self.assertEqual(server.wait(), 0)
        del job


class CrowdTest(LibraryTest):
    """One client's connections are not everybody's."""

    def crowd(self, server, n, source, data):
        """n connections from that address, which send and never read."""
        clients = []
        for _ in range(n):
            sock = socket.socket()
            self.addCleanup(sock.close)
            sock.bind((source, 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(server.address)
            sock.setblocking(False)
            try:
                sock.send(data)
            except (BlockingIOError, ConnectionError):
                pass
            clients.append(sock)
        return clients

    def is_answered(self, server):
        try:
            return server.ask("GET", "/health")[0].status == 200
        except (AssertionError, OSError):
            return False

    def test_h1_those_who_never_read(self):
        """They hold no response: they ask for more than they take."""
        server = self.serve_with(max_connections=20, loops=1, stall_timeout_ms=1000)
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        crowd = self.crowd(server, 20, "127.0.0.1", request * 2000)
        wait_for(lambda: self.is_answered(server), "the others served", 3 * DEADLINE)
        del crowd

    def test_m9_a_share_for_each(self):
        """The rest is for others, and a place that is given back can be taken again."""
        server = self.serve_with(max_connections=20, loops=2, max_connections_per_peer=5)
        crowd = self.crowd(server, 30, "127.0.0.2", b"GET / HT")
        self.assertTrue(self.is_answered(server))
        wait_for(lambda: sum(self.is_open(sock) for sock in crowd) == 5, "five of them left")
        for sock in crowd:
            sock.close()

        def can_connect():
            again = self.crowd(server, 1, "127.0.0.2", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            again[0].settimeout(DEADLINE)
            try:
                return again[0].recv(100)
            except ConnectionError:
                return False
        wait_for(can_connect, "a place")

    def is_open(self, sock):
        try:
            return sock.recv(1) != b""
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    def test_h2_turns(self):
        """A connection that pipelines leaves its loop to others between."""
        server = self.serve_with(loops=1)
        sock = socket.create_connection(server.address)
        self.addCleanup(sock.close)
        request = b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        requests = request * 100000
        sock.setblocking(False)
        sent, longest, end = 0, 0, time.monotonic() + 4
        while time.monotonic() < end:
            try:
                sent += sock.send(requests[sent % len(request):][:1 << 20])
            except BlockingIOError:
                pass
            try:
                while sock.recv(1 << 20):
                    pass
            except BlockingIOError:
                pass
            begin = time.monotonic()
            self.assertTrue(self.is_answered(server))
            longest = max(longest, time.monotonic() - begin)
        self.assertLess(longest, 0.5 * SLOW)
        self.assertGreater(sent, 1 << 20)

    def test_w5_idle_connections_stay(self):
        """Longer than a request may take to arrive, as a proxy's pool wants it."""
        server = self.serve_with(request_timeout_ms=300, idle_timeout_ms=3000)
        client = server.connect()
        client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(client.read_head().status, 200)
        client.read_all()
        time.sleep(1)
        client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        client.begin_response()
        self.assertEqual(client.read_head().status, 200)
        client.read_all()
        begin = time.monotonic()
        while client.read_raw():
            pass
        self.assertTrue(client.eof)
        self.assertGreater(time.monotonic() - begin, 1)
