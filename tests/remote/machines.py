"""machines.py - servers, packagers, a broker and a store, as if each were a machine of its own: each
can be killed, stopped and cut off, and come back as what it was.
"""

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

from services import free_ports, service
from harness import BUILD, DEADLINE, Server, wait_for

PACKAGER = (BUILD / "bin" / "workqueue", "packager")
SECRET = "docsets-secret-0123456789"
BUCKET = "machines"


class Proxy:
    """What a process sees of a service: a port that forwards, or does not."""

    def __init__(self, to):
        self.to = to
        self.refuses = False  # connections end as soon as they are made
        self.stalled = threading.Event()  # nothing passes while it is not set
        self.stalled.set()
        self.bytes_per_s = None
        self.passed = 0  # bytes, both ways
        self.lock = threading.Lock()
        self.open = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            try:
                if self.refuses:
                    raise ConnectionError
                far = socket.create_connection(("127.0.0.1", self.to), timeout=5)
                far.settimeout(None)
            except OSError:  # it takes none for now, or for too long
                near.close()
                continue
            with self.lock:
                self.open |= {near, far}
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, a, b):
        try:
            while data := a.recv(65536):
                self.stalled.wait()
                self.passed += len(data)
                rate = self.bytes_per_s
                step = max(1, rate // 20) if rate else len(data)
                for i in range(0, len(data), step):
                    b.sendall(data[i:i + step])
                    if rate:
                        time.sleep(0.05)
        except OSError:
            pass
        with self.lock:
            for each in {a, b} & self.open:
                self.open.discard(each)
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            a.close()

    def cut(self):
        """Ends all connections there are."""
        with self.lock:
            for each in self.open:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def heal(self):
        self.refuses, self.bytes_per_s = False, None
        self.stalled.set()

    def close(self):
        self.heal()
        self.listener.close()
        self.cut()


class Machine:
    """A process of ours and what it writes, with its own ways to the broker and the store."""

    def __init__(self, folder, name, command, broker, store):
        self.name, self.command = name, command
        self.folder = folder / name
        self.folder.mkdir()
        self.broker, self.store = Proxy(broker), Proxy(store)
        self.log_path = self.folder.with_suffix(".log")
        self.process = None

    def environment(self):
        return {**{k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
                "WORKQUEUE_BROKER": f"stomp://docsets:docsets@127.0.0.1:{self.broker.port}",
                "AWS_ACCESS_KEY_ID": "DOCSETSKEY", "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.store.port}"}

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log,
                                            cwd=self.folder, env=self.environment())
        ready = select.select([self.process.stdout], [], [], 3 * DEADLINE)[0]
        line = self.process.stdout.readline().decode() if ready else ""
        assert line, f"{self.name} does not start: {self.log()[-2000:]}"
        return line

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def kill(self):
        self.process.kill()
        self._gone()

    def terminate(self):
        """In good order."""
        self.process.send_signal(signal.SIGTERM)
        code = self._gone()
        assert code == 0, f"{self.name}: expected exit 0 after SIGTERM; got {code}: {self.log()[-3000:]}"

    def _gone(self):
        code = self.process.wait(3 * DEADLINE)
        self.process.stdout.close()
        return code

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def end(self):
        """Whatever it is doing."""
        if self.is_alive():
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        self.broker.close()
        self.store.close()


class Packager(Machine):
    def __init__(self, folder, name, program, broker, store, *options):
        super().__init__(folder, name, [
            *PACKAGER, "--name", name, "--store", f"s3://{BUCKET}/outputs", "--state", ".",
            "--program", program, "--no-sync", *options], broker, store)


class Front(Machine):
    """A demo plugin, always at the same address."""

    ask, request, connect, generate = Server.ask, Server.request, Server.connect, Server.generate

    def __init__(self, folder, name, program, broker, store, *options):
        self.port = free_ports()
        self.address = ("127.0.0.1", self.port)
        super().__init__(folder, name, [
            BUILD / "demo-plugin" / "demo-plugin", "--listen", f"127.0.0.1:{self.port}", "--storage",
            folder / name, "--store", f"s3://{BUCKET}/outputs", "--program", program, "--no-sync",
            *options], broker, store)


def make_bucket(port):
    """Once a process of tests, by curl, which can sign."""
    ceph = service("ceph")
    if getattr(ceph, "has_machines", False):
        return
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    subprocess.run(["curl", "-sSf", "-K", "-", "-X", "PUT", "--retry", "5", "--retry-all-errors",
                    "--aws-sigv4", "aws:amz:us-east-1:s3", "-H", f"x-amz-content-sha256: {empty}",
                    f"http://127.0.0.1:{port}/{BUCKET}"], check=True, text=True,
                   input=f"user = DOCSETSKEY:{SECRET}")
    ceph.has_machines = True


class Cluster:
    """Two servers and two packagers with a broker and a store, which all tests of a process share."""

    def __init__(self, test, program, servers=2, packagers=2, server_options=(), packager_options=()):
        self.rabbitmq, self.ceph = service("rabbitmq"), service("ceph")
        make_bucket(self.ceph.port)
        # Queues of this test.
        own = os.urandom(6).hex()
        self.queue = f"jobs/{own}"
        quoted = urllib.parse.quote(self.queue, safe="")
        names = ["--queue-package", f"/queue/{quoted}", "--queue-reply", f"/queue/{quoted}%2F{{id}}",
                 "--queue-delete", f"/queue/{quoted}%2Fdelete"]
        ports = self.rabbitmq.port, self.ceph.port
        self.packagers = [Packager(test.folder, f"packager-{i}", program, *ports, *names,
                                   *packager_options) for i in range(packagers)]
        self.servers = [Front(test.folder, f"server-{i}", program, *ports, *names, *server_options)
                        for i in range(servers)]
        self.machines = [*self.packagers, *self.servers]
        for machine in self.machines:
            test.addCleanup(machine.end)
            machine.start()
        for machine in self.machines:
            wait_for(lambda: ": connected" in machine.log(), f"{machine.name} connected", 60)

    def queues(self):
        """Of this test: name: (messages, consumers)."""
        folder = self.rabbitmq.folder
        env = {**os.environ, "HOME": f"{folder}/home", "ERL_EPMD_PORT": str(self.rabbitmq.port + 3),
               "ERL_EPMD_ADDRESS": "127.0.0.1", "RABBITMQ_CONF_ENV_FILE": "/dev/null"}
        said = subprocess.run(["/usr/lib/rabbitmq/bin/rabbitmqctl", "-n",
                               f"wq{self.rabbitmq.port}@localhost", "-q", "--formatter", "json",
                               "list_queues", "name", "messages", "consumers"], env=env, text=True,
                              check=True, capture_output=True, timeout=60).stdout
        return {row["name"]: (row["messages"], row["consumers"]) for row in json.loads(said)
                if row["name"].startswith(self.queue)}
