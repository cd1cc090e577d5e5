"""services.py - the real services of the tests, each started once by a process of tests and ended
with it.

Each is a script of tests/services with the commands start, stop, kill and restart.
"""

import atexit
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "faces"))

SPAN = 100  # ports that a service may use, from its own on


_taken = []  # sockets on the last of each SPAN, while this process is there


def _is_free(port):
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _take(port):
    """Whether nobody else has it, in this process or another: from now on it is ours."""
    sock = socket.socket()
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        return False
    _taken.append(sock)
    return True


def free_ports():
    """The first of SPAN ports that are free, below those that the kernel gives to clients. No other
    process of tests gets one of them, although a service takes some time to take its own."""
    for _ in range(1000):
        port = random.randrange(20000, 32000, SPAN)
        if _take(port + SPAN - 1) and all(_is_free(port + i) for i in range(SPAN - 1)):
            return port
    raise AssertionError("expected free ports below 32768")


def make_certificates(folder):
    """An authority, and a server's certificate for 127.0.0.1, no name."""
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)

    folder.mkdir(parents=True)
    key, pem, request = folder / "server.key", folder / "server.pem", folder / "request"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", "/CN=authority",
            "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", key,
            "-out", request)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl("x509", "-req", "-in", request, "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
            "-CAcreateserial", "-days", 2, "-extfile", folder / "names", "-out", pem)
    openssl("pkcs12", "-export", "-in", pem, "-inkey", key, "-passout", "pass:changeit", "-out",
            folder / "server.p12")


class Service:
    """One that runs, in a folder of its own."""

    def __init__(self, name, tls=False):
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"wq-test-{name}-"))
        self.port = free_ports()
        atexit.register(self._end)
        if tls:
            make_certificates(self.folder / "tls")
        self.start()

    def _do(self, command, *arguments):
        # Not a pipe: the service's processes would keep it open.
        with open(self.folder / "said", "w+b") as said:
            done = subprocess.run([ROOT / "tests" / "services" / self.name, command, self.folder,
                                   *map(str, arguments)], stdout=said, stderr=said, timeout=300)
            said.seek(0)
            assert done.returncode == 0, f"{self.name} {command}: {said.read().decode()}"

    def start(self):
        self._do("start", self.port)

    def stop(self):
        self._do("stop")

    def kill(self):
        self._do("kill")

    def pid(self, process):
        return int((self.folder / f"{process}.pid").read_text())

    def _end(self):
        try:
            self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


_running = {}


def service(name):
    """The one service of that name, running."""
    if name not in _running:
        _running[name] = Service(name, tls=name in ("rabbitmq", "activemq"))
    return _running[name]
