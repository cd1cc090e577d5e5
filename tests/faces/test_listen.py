"""test_listen.py - where the server listens, and what it tells the service manager (W6, W7)."""

import os
import signal
import socket
import stat
import subprocess

from harness import DEADLINE, FaceTest, demo_command

REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class ListenTest(FaceTest):
    def start(self, *listen, prefix=(), **more):
        """The demo on these addresses; the process and the line it says."""
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        command = [arg for arg in demo_command(self.told_program, storage)]
        at = command.index("--listen") if "--listen" in command else None
        if at is not None:
            del command[at:at + 2]
        for address in listen:
            command += ["--listen", address]
        process = subprocess.Popen([*prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, **more)
        self.addCleanup(self.end, process)
        return process, process.stdout.readline().strip()

    def end(self, process):
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def answer(self, family, address):
        with socket.socket(family) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(address)
            sock.sendall(REQUEST)
            return sock.makefile("rb").readline()

    def test_w6_both_families(self):
        _, said = self.start(":0")
        port = int(said.rpartition(":")[2])
        self.assertIn(b" 200 ", self.answer(socket.AF_INET, ("127.0.0.1", port)))
        if socket.has_ipv6:
            self.assertIn(b" 200 ", self.answer(socket.AF_INET6, ("::1", port)))

    def test_w6_unix_socket(self):
        """Stale ones are replaced, those in use are not, and none is left behind."""
        path = self.folder / "plugin.sock"
        process, said = self.start(f"unix:{path},660", "127.0.0.1:0")
        self.assertEqual(said, f"listening on unix:{path}")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o660)
        self.assertIn(b" 200 ", self.answer(socket.AF_UNIX, str(path)))
        process.kill()
        process.wait()
        self.assertTrue(path.exists())
        process, _ = self.start(f"unix:{path}")
        self.assertIn(b" 200 ", self.answer(socket.AF_UNIX, str(path)))
        second = subprocess.run(process.args[:-1] + [f"unix:{path}"], capture_output=True, text=True,
                                timeout=DEADLINE)
        self.assertNotEqual(second.returncode, 0)
        self.assertIn(b" 200 ", self.answer(socket.AF_UNIX, str(path)))
        process.terminate()
        self.assertEqual(process.wait(DEADLINE), 0)
        self.assertFalse(path.exists())

    def test_w6_socket_activation(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            port = sock.getsockname()[1]

            def become_third():
                if sock.fileno() != 3:
                    os.dup2(sock.fileno(), 3)
                os.set_inheritable(3, True)
            script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
            _, said = self.start("systemd", prefix=["sh", "-c", script, "sh"], close_fds=False,
                                 preexec_fn=become_third)
        self.assertEqual(said, f"listening on http://127.0.0.1:{port}")
        self.assertIn(b" 200 ", self.answer(socket.AF_INET, ("127.0.0.1", port)))

    def test_w6_what_is_wrong(self):
        for address in ("fd:99", "systemd", "unix:", "unix:/nowhere/x", "unix:x,9", "8080", "x:y"):
            with self.subTest(address):
                process, said = self.start(address)
                self.assertEqual(said, "")
                self.assertEqual(process.wait(DEADLINE), 2)
                self.assertRegex(process.stderr.read(), "listen|chmod")

    def test_w6_systemd_is_told(self):
        path = self.folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(path))
            manager.settimeout(DEADLINE)
            process, _ = self.start("127.0.0.1:0", env={**os.environ, "NOTIFY_SOCKET": str(path),
                                                        "WATCHDOG_USEC": "600000"})
            said = b""
            for word in (b"READY=1", b"WATCHDOG=1", b"STATUS=0 running, 0 queued"):
                while word not in said:
                    said += manager.recv(4096) + b"\n"
            process.terminate()
            while b"STOPPING=1" not in said:
                said += manager.recv(4096) + b"\n"
            self.assertEqual(process.wait(DEADLINE), 0)

    def test_w7_hangup(self):
        """A terminal that has gone is a reason to stop, in good order."""
        process, _ = self.start("127.0.0.1:0")
        process.send_signal(signal.SIGHUP)
        self.assertEqual(process.wait(DEADLINE), 0)
