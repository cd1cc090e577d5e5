"""test_faults.py - the demo while the system fails it: calls that fail, files that run out, a clock
that jumps, a system that is suspended. Calls and clock by tests/faults/inject.c."""

import json
import os
import resource
import signal
import struct
import time
from unittest import SkipTest

from harness import BUILD, DEADLINE, FaceTest, Server, basic, demo_command, plain_only, wait_for

INJECT = BUILD / "tests" / "faults" / "libinject.so"
KINDS = {"alloc": 1, "open": 2, "write": 3, "sync": 5, "rename": 6, "spawn": 11, "fds": 12,
         "accept": 15, "thread": 16, "sqlite": 18}
DAY = 86400


class Control:
    """The reins of libinject.so: struct inject_control in a file."""

    FORMAT = "iIIIq"

    def __init__(self, path):
        self.path = path
        self.set()

    def set(self, kind=0, at=0, n=1, offset_s=0):
        # in place: it is mapped
        data = struct.pack(self.FORMAT, kind, at, n, 0, offset_s)
        with open(self.path, "r+b" if self.path.exists() else "wb") as file:
            file.write(data)

    def calls(self):
        return struct.unpack(self.FORMAT, self.path.read_bytes())[3]


class FaultTest(FaceTest):
    def setUp(self):
        super().setUp()
        if not INJECT.exists():
            raise SkipTest("libinject.so is not built here")
        self.control = Control(self.folder / "control")

    def command(self, **options):
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        return ["/usr/bin/env", f"LD_PRELOAD={INJECT}", f"WQ_INJECT={self.control.path}",
                *demo_command(self.told_program, storage, **options)]

    def serve(self, **options):
        server = Server(self.folder, None, storage=self.folder / "storage",
                        command=self.command(**options))
        self.addCleanup(server.finish)
        return server


@plain_only
class ClockTest(FaultTest):
    LIMITS = {"run_timeout_ms": 60000, "stall_timeout_ms": 60000, "queue_timeout_ms": 60000}

    def jump(self, days):
        server = self.serve(workers=1, **self.LIMITS)
        running, waiting = self.told("running"), self.told("waiting")
        first = server.generate("running")
        running.wait_started()
        second = server.generate("waiting")
        second.record()
        head, _ = self.start_work(server, "running")
        held = server.request("GET", head.get("location"), {"Prefer": "wait=20"})
        self.control.set(offset_s=days * DAY)
        running.progress("0.5")
        first.until_fraction(0.5)
        running.succeed()
        self.assertEqual(first.last()["returncode"], 0)
        held.read_all()
        self.assertIn(held.head.status, (200, 303))
        waiting.wait_started()
        waiting.succeed()
        self.assertEqual(second.last()["returncode"], 0)
        self.assertIsNotNone(server.generate("afterwards").record())

    def start_work(self, server, document_set):
        return server.ask("POST", "/start_work",
                          {"Authorization": basic(),
                           "Content-Type": "application/x-www-form-urlencoded"},
                          f"server=http%3A%2F%2Foverview.example&documentSetId={document_set}")

    def test_ten_days_ahead_no_job_is_timed_out_or_lost(self):
        self.jump(10)

    def test_ten_days_back_no_job_is_timed_out_or_lost(self):
        self.jump(-10)

    def test_ended_jobs_outlive_a_jump_ahead(self):
        journal = self.folder / "journal"
        server = self.serve(journal=journal)
        location = self.end_one(server, "known")
        self.control.set(offset_s=10 * DAY)
        self.end_one(server, "later")
        log = journal.with_name("journal-wal")
        wait_for(lambda: log.stat().st_size == 0, "the journal to be tidied", DEADLINE)
        self.control.set()
        server.kill()
        head, _ = self.serve(journal=journal).ask("GET", location)
        self.assertEqual(head.status, 200)

    def end_one(self, server, document_set):
        """Where it was."""
        told = self.told(document_set)
        head, _ = self.start_work(server, document_set)
        told.wait_started()
        told.succeed()
        client = server.generate(document_set)
        client.read_all()
        return head.get("location")

    def put_old(self, server, name, age_s):
        path = server.storage / (name * 64)
        path.write_text("old")
        then = time.time() - age_s
        os.utime(path, (then, then))
        return path

    def status_of(self, server, document_set):
        client = server.generate(document_set)
        client.read_all()
        return client.head.get("x-workqueue")

    def test_outputs_outlive_a_jump_ahead(self):
        server = self.serve(retain_age_s=24)
        self.assertEqual(self.status_of(server, "kept"), "started")
        old = self.put_old(server, "a", 1000)
        wait_for(lambda: not old.exists(), "an old output to go", 3 * DEADLINE)
        self.assertEqual(self.status_of(server, "kept"), "hit")
        self.control.set(offset_s=10 * DAY)
        older = self.put_old(server, "b", 1000)
        wait_for(lambda: not older.exists(), "the old one to go also by the new time", 3 * DEADLINE)
        self.assertEqual(self.status_of(server, "kept"), "hit")


@plain_only
class SuspendedTest(FaultTest):
    def test_all_goes_on_where_it_was(self):
        server = self.serve(run_timeout_ms=60000, stall_timeout_ms=60000)
        job = self.told("set")
        stream = server.generate("set")
        pid, _ = job.wait_started()
        job.progress("0.25")
        stream.until_fraction(0.25)
        head, _ = server.ask("POST", "/start_work",
                             {"Authorization": basic(),
                              "Content-Type": "application/x-www-form-urlencoded"},
                             "server=http%3A%2F%2Foverview.example&documentSetId=set")
        held = server.request("GET", head.get("location"), {"Prefer": "wait=1"})
        for each in (server.pid, pid):
            os.kill(each, signal.SIGSTOP)
        job.progress("0.5")
        late = server.generate("set")  # the kernel takes it in
        time.sleep(3)  # what is tested is that time passes
        for each in (server.pid, pid):
            os.kill(each, signal.SIGCONT)
        stream.until_fraction(0.5)
        held.read_all()
        self.assertEqual(held.head.status, 303)
        late.until_fraction(0.5)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)
        self.assertEqual(late.last()["returncode"], 0)


@plain_only
class OpenFilesTest(FaultTest):
    def set_limit(self, server, more):
        """Leaves it so many numbers beyond the highest that is in use."""
        highest = max(int(fd) for fd in os.listdir(f"/proc/{server.pid}/fd"))
        hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[1]
        soft = hard if more is None else highest + 1 + more
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))

    def test_none_left_is_told_and_passes(self):
        server = self.serve(workers=2)
        job = self.told("running")
        stream = server.generate("running")
        job.wait_started()
        client = server.connect()
        server.request("GET", "/metadata", client=client)
        client.read_all()
        full = server.files()
        self.set_limit(server, 0)
        # what numbers are free below the limit is taken by connections
        crowd = [server.connect() for _ in range(full)]
        outside = crowd[-1]
        wait_for(lambda: server.files() >= max(int(fd) for fd in
                                               os.listdir(f"/proc/{server.pid}/fd")) + 1,
                 "no number to be left", seen=server.files)
        client.begin_response()
        server.generate("refused", client=client)
        last = client.last()
        self.assertEqual(last["returncode"], -999)
        self.assertIn("Too many open files", last["error"])
        job.progress("0.5")
        stream.until_fraction(0.5)
        server.request("GET", "/metadata", client=outside)
        cpu = server.cpu()
        self.assertLess(server.cpu() - cpu, 0.5)
        self.set_limit(server, None)
        outside.read_all()
        self.assertEqual(outside.head.status, 200)
        self.assertEqual(server.generate("refused").last()["returncode"], 0)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)


@plain_only
class SweepTest(FaultTest):
    """The whole demo: start, a job, a poll, the end, while one call fails; some of all calls."""

    def once(self, kind, at):
        for old in (self.folder / "storage").glob("[!.]*"):
            old.unlink()
        self.control.set(kind, at)
        try:
            server = Server(self.folder, None, storage=self.folder / "storage",
                            command=self.command(sync=True))
        except AssertionError as refused:
            # it may refuse to start, saying why
            self.assertIn("demo-plugin: ", str(refused))
            return
        try:
            stream = server.generate("set")
            if stream.read_head().status == 200:
                last = stream.last()
                self.assertTrue(last is None or last["returncode"] is not None, last)
                if last and last["returncode"]:
                    self.assertTrue(last["error"])
            else:
                self.assertTrue(json.loads(stream.read_all())["detail"])
            self.control.set()
            again = server.generate("again")
            self.assertEqual(again.last()["returncode"], 0, server.log())
            self.assertEqual([n for n in server.stored() if n.endswith(".tmp")], [])
        finally:
            server.finish()

    def sweep(self, name, step):
        self.once(KINDS[name], 0)
        # counted until "set" was there
        self.control.set(KINDS[name], 0)
        server = Server(self.folder, None, storage=self.folder / "storage",
                        command=self.command(sync=True))
        server.generate("third").read_all()
        calls = self.control.calls()
        server.finish()
        for at in range(1, calls + 1, step or max(1, calls // 10)):
            with self.subTest(kind=name, at=at):
                self.once(KINDS[name], at)

    def test_each_kind_of_call(self):
        step = 1 if os.environ.get("WQ_FAULTS_ALL") else 0
        for name in KINDS:
            self.sweep(name, step)
