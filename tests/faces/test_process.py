"""test_process.py - the server as a process: its options, its end by signals, its start after a crash."""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

from harness import DEADLINE, DEMO, SLOW, FaceTest, demo_command, is_running, wait_for


class OptionsTest(FaceTest):
    """A wrong option or an unusable folder is one sentence and exit 2."""

    def run_demo(self, *arguments):
        return subprocess.run([str(DEMO), *map(str, arguments)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=3 * DEADLINE)

    def assert_refused(self, arguments, *words):
        result = self.run_demo(*arguments)
        self.assertEqual(result.returncode, 2, result)
        self.assertEqual(result.stdout, "")
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertGreater(len(lines[0].split()), 3, "a sentence")
        for word in words:
            self.assertIn(word, lines[0])

    def good(self):
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        return demo_command(self.told_program, storage)[1:]

    def test_wrong_option(self):
        for more, *words in ((["--nonsense"], "--nonsense"), (["--workers"], "workers"),
                             (["--workers", "many"], "workers"), (["--workers", "0"], "workers"),
                             (["--workers", "-1"], "workers"), (["--workers", "2x"], "workers"),
                             (["--loops", "0"], "loops"), (["--loops", "99999999999999"], "loops"),
                             (["--max-queue", "x"], "max-queue"), (["--grace-ms", ""], "grace-ms"),
                             (["--heartbeat-ms", "1.5"], "heartbeat-ms"), (["extra"], "extra")):
            with self.subTest(more):
                self.assert_refused(self.good() + more, *words)

    def test_wrong_address(self):
        for value in ("nonsense", "127.0.0.1:99999", "127.0.0.1:", "999.0.0.1:0", "127.0.0.1:x"):
            with self.subTest(value):
                self.assert_refused(self.good() + ["--listen", value], value)

    def test_address_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            self.assert_refused(self.good() + ["--listen", address], address)

    def test_unusable_folder(self):
        not_a_folder = self.folder / "file"
        not_a_folder.touch()
        for path in (not_a_folder, Path("/proc/nowhere/storage")):
            with self.subTest(path):
                self.assert_refused(self.good() + ["--storage", path], str(path))

    def test_unusable_program(self):
        plain = self.folder / "plain"
        plain.write_text("#!/bin/sh\n")
        for path in (self.folder / "missing", plain, self.folder):
            with self.subTest(path):
                self.assert_refused(self.good() + ["--program", path], str(path))

    def test_unusable_sample(self):
        path = self.folder / "missing"
        self.assert_refused(self.good() + ["--sample", path], str(path))

    def test_help_and_version(self):
        help_ = self.run_demo("--help")
        self.assertEqual((help_.returncode, help_.stderr), (0, ""))
        for name in ("listen", "program", "storage", "workers", "loops", "max-queue", "heartbeat-ms",
                     "grace-ms", "no-sync", "allow-server", "max-per-user", "fair", "retain-age-s",
                     "retain-bytes",                     "sample", "help", "version"):
            self.assertIn("--" + name, help_.stdout)
        version = self.run_demo("--version")
        self.assertEqual((version.returncode, version.stderr), (0, ""))
        self.assertRegex(version.stdout, r"\b\d+\.\d+\.\d+\b")

    def test_second_process_on_the_storage(self):
        server = self.serve()
        self.assert_refused(self.good(), str(server.storage))
        self.assertEqual(server.generate("set").last()["returncode"], 0)


class TermTest(FaceTest):
    """SIGTERM: every stream gets its last record and its end, jobs end within the grace, exit 0."""

    def serve(self, program=None, **options):
        """Without a journal: what is stopped is lost, and its last record says so."""
        return super().serve(program, **{"journal": "none", **options})

    def test_streams_get_their_end(self):
        server = self.serve(workers=1)
        running, queued = self.told("running"), self.told("queued")
        running.tell('sleep 1000 & echo $! >"$here/child"', "echo 0.5")
        streams = [server.generate("running"), server.generate("running", "application/x-ndjson"),
                   server.generate("running", version="1.0")]
        for stream in streams:
            stream.until_fraction(0.5)
        events = server.generate("running", "text/event-stream")
        events.message()
        pid = running.wait_started()[0]
        child = int((self.folder / "child").read_text())
        streams.append(server.generate("queued"))
        self.assertEqual(streams[-1].record()["n_ahead_in_queue"], 1)
        server.terminate()
        for stream in streams:
            last = stream.last()
            self.assert_record(last)
            self.assertEqual((last["returncode"], last["fraction"]), (-999, 1.0))
            self.assertRegex(last["error"], r"(?i)cancel|stop|shut|clos")
        for stream in (streams[0], streams[2], streams[3]):
            json.loads(stream.body)
        while (event := events.message()) is not None:
            last_event = event
        self.assertEqual(json.loads(last_event["data"])["returncode"], -999)
        self.assertEqual(server.wait(), 0)
        self.assertFalse(is_running(pid), "the program")
        wait_for(lambda: not is_running(child), "the end of the program's child")
        self.assertEqual(queued.runs(), [])
        self.assertEqual([name for name in server.stored() if len(name) >= 64], [])

    def test_a_program_that_ignores_it(self):
        server, job = self.serve(grace_ms=200), self.told("set")
        job.tell("trap '' TERM", 'sleep 1000 & echo $! >"$here/child"', "echo 0.5")
        stream = server.generate("set")
        stream.until_fraction(0.5)
        pid = job.wait_started()[0]
        server.terminate()
        self.assertEqual(stream.last()["returncode"], -999)
        self.assertEqual(server.wait(2 * SLOW + 3), 0)
        self.assertFalse(is_running(pid), "the program")
        child = int((self.folder / "child").read_text())
        wait_for(lambda: not is_running(child), "its child's end")

    def test_a_program_that_cleans_up(self):
        """It gets the grace, and may say why it ends."""
        server, job = self.serve(grace_ms=20000), self.told("set")
        job.tell(f"trap 'echo bye >>{self.folder}/cleaned; exit 3' TERM", "echo 0.5")
        stream = server.generate("set")
        stream.until_fraction(0.5)
        server.terminate()
        self.assertEqual(stream.last()["returncode"], -999)
        self.assertEqual(server.wait(), 0)
        self.assertEqual((self.folder / "cleaned").read_text(), "bye\n")

    def test_no_new_connections(self):
        server, job = self.serve(grace_ms=20000), self.told("set")
        job.tell(f"trap 'while [ ! -e {self.folder}/go ]; do sleep 0.02; done; exit 3' TERM", "echo 0.5")
        stream, idle = server.generate("set"), server.connect()
        stream.until_fraction(0.5)
        idle.send("GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n")
        idle.read_all()
        server.terminate()

        def is_refused():
            try:
                server.connect().close()
                return False
            except ConnectionRefusedError:
                return True
        wait_for(is_refused, "new connections refused")
        (self.folder / "go").touch()
        self.assertEqual(stream.last()["returncode"], -999)
        self.assertEqual(server.wait(), 0)

    def test_idle_server(self):
        server = self.serve()
        clients = [server.connect() for _ in range(10)]
        clients[0].send("GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n")
        clients[0].read_all()
        clients[1].send("POST /generate HTTP/1.1\r\nHost")
        server.terminate()
        self.assertEqual(server.wait(8 * SLOW), 0)

    def test_clients_that_do_not_read(self):
        server, job = self.serve(grace_ms=500), self.told("set")
        reader = server.generate("set")
        reader.record()
        idle = [server.generate("set", client=server.connect(receive_buffer=4096)) for _ in range(10)]
        job.tell("awk 'BEGIN{for (i = 1; i < 2000; i++) printf \"%.6f\\t%04000d\\n\", i / 2000, i}'",
                 "echo '1\tall written'")
        reader.until(lambda r: r["message"] == "all written", "the last line")
        server.terminate()
        self.assertEqual(reader.last()["returncode"], -999)
        self.assertEqual(server.wait(20 * SLOW), 0)
        del idle

    def test_sigint_too(self):
        server = self.serve()
        server.process.send_signal(2)
        self.assertEqual(server.wait(), 0)

    def test_sigint_and_then_sigterm(self):
        """Ctrl-C reaches also the script that has started it, which then sends SIGTERM."""
        go = self.folder / "go"
        server = self.serve(self.script(f"trap 'echo 0.9; until [ -e {go} ]; do sleep 0.01; done; exit 1' "
                                        "TERM; echo 0.5; while :; do sleep 0.01; done"))
        stream = server.generate("set")
        stream.until_fraction(0.5)
        server.process.send_signal(2)
        stream.until_fraction(0.9)  # it stops
        server.terminate()
        go.touch()
        self.assertEqual(stream.last()["returncode"], -999)
        json.loads(stream.body)
        self.assertEqual(server.wait(), 0)

    def test_started_by_one_that_ignores_its_children(self):
        storage = self.folder / "storage"
        server = self.serve(command=["env", "--ignore-signal=CHLD",
                                     *demo_command(self.told_program, storage)])
        self.assertEqual(server.generate("set").last()["returncode"], 0)

    def test_started_again(self):
        server = self.serve()
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        server.terminate()
        self.assertEqual(server.wait(), 0)
        again = self.serve(storage=server.storage)
        self.assertEqual(json.loads(again.generate("set").read_all()), [])


class ContainerTest(FaceTest):
    """As process 1 of a pid namespace (W3)."""

    ORPHANS = ("for i in 1 2; do (setsid sleep 0.0$i >/dev/null 2>&1 &); (sleep 0.0$i >/dev/null 2>&1 &); "
               "done; echo x >\"$4\"")

    def serve_as_process_1(self):
        """The server and the pid, seen from here, of process 1 in there."""
        enter = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if subprocess.run([*enter, "true"], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("no pid namespace can be made here")
        server = self.serve(command=[*enter, *demo_command(self.script(self.ORPHANS), self.folder / "storage",
                                                           workers=4, cgroup="none")])
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        server.terminated = True  # by its process 1, as unshare does not pass signals on
        return server, int(children[0])

    def inside(self, first):
        """(pid, state, command) of all processes in the namespace of that one."""
        space, found = os.readlink(f"/proc/{first}/ns/pid"), []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(path / "ns" / "pid_for_children") != space:
                    continue
            except OSError:  # a zombie has none; but its parent is one of them
                pass
            try:
                fields = (path / "stat").read_text()
            except OSError:
                continue
            name, _, rest = fields.partition("(")[2].rpartition(")")
            found.append((int(path.name), *rest.split()[:2], name))
        pids = {first} | {pid for pid, state, parent, name in found if state != "Z" and int(parent) == first}
        return [entry for entry in found if entry[0] in pids or int(entry[2]) in pids]

    def test_w3_no_orphan_stays_a_zombie(self):
        server, first = self.serve_as_process_1()
        for i in range(20):
            self.assertEqual(server.generate(f"set{i}").last()["returncode"], 0)
        wait_for(lambda: not [p for p in self.inside(first) if p[3] == "sleep" or p[1] == "Z"],
                 "no orphan left", seen=lambda: self.inside(first))
        os.kill(first, 15)
        self.assertEqual(server.wait(), 0)

    def test_w3_it_ends_as_the_command_does(self):
        server, first = self.serve_as_process_1()
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        command = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        command = [int(pid) for pid in command
                   if Path(f"/proc/{pid}/comm").read_text().strip() == "demo-plugin"]
        self.assertEqual(len(command), 1)
        os.kill(command[0], 9)
        server.process.wait(DEADLINE)
        self.assertEqual(server.process.returncode, 128 + 9)


class KillTest(FaceTest):
    """SIGKILL of the server in the middle of a job."""

    def test_leaves_no_child_and_no_output(self):
        server, job = self.serve(workers=2, journal="none"), self.told("set")
        server.terminate()
        self.assertEqual(server.wait(), 0)
        empty = server.stored()
        server = self.serve(storage=server.storage, workers=2, journal="none")
        other = self.told("other")
        stream = server.generate("set")
        server.generate("other")
        job.tell('echo part >"$out"', 'sleep 1000 & echo $! >"$here/child"',
                 'sh -c "sleep 1000; :" & echo $! >"$here/child2"', "trap '' TERM", "echo 0.5")
        stream.until_fraction(0.5)
        pids = [job.wait_started()[0], other.wait_started()[0],
                int((self.folder / "child").read_text()), int((self.folder / "child2").read_text())]
        for pid in pids:
            self.assertTrue(is_running(pid))
        server.kill()
        for pid in pids:
            wait_for(lambda: not is_running(pid), f"process {pid} gone")
        self.assertEqual([name for name in server.stored()
                          if re.fullmatch("[0-9a-f]{64}", os.path.basename(name))], [])
        again = self.serve(storage=server.storage, journal="none")
        self.assertEqual(again.stored(), empty)
        stream = again.generate("set")
        job.succeed("whole")
        self.assertEqual(stream.last()["returncode"], 0)
        self.assertEqual(len(job.runs()), 2)
        outputs = [name for name in again.stored() if name not in empty]
        self.assertEqual(len(outputs), 1)
        self.assertRegex(outputs[0], "^[0-9a-f]{64}$")
        self.assertEqual((again.storage / outputs[0]).read_text(), "whole\n")

    def test_outputs_of_before_stay(self):
        server, job = self.serve(sync=True), self.told("set2")
        self.assertEqual(server.generate("set1").last()["returncode"], 0)
        stream = server.generate("set2")
        stream.record()
        job.wait_started()
        server.kill()
        again = self.serve(storage=server.storage, sync=True)
        self.assertEqual(json.loads(again.generate("set1").read_all()), [])
        ran = [line.split()[1] for line in (self.folder / "started").read_text().splitlines()]
        self.assertEqual(ran.count("set1"), 1)

    def test_killed_again_and_again(self):
        """Whenever it is killed, an output is there whole or not at all."""
        program = self.script("head -c 300000 /dev/zero | tr '\\0' x >\"$4\"; echo end >>\"$4\"")
        storage = self.folder / "storage"
        for round_ in range(5):
            server = self.serve(program, storage=storage, workers=4)
            streams = [server.generate(f"set{round_}-{i}") for i in range(40)]
            streams[5 * round_].last()
            server.kill()
            for name in server.stored():
                if re.fullmatch("[0-9a-f]{64}", name):
                    self.assertEqual((storage / name).stat().st_size, 300004)
        server = self.serve(program, storage=storage)
        left = [name for name in server.stored() if not name.startswith(".workqueue")]
        self.assertEqual([name for name in left if (storage / name).stat().st_size != 300004], [])
        self.assertGreaterEqual(len(left), 5)


class LogTest(FaceTest):
    def test_w4_a_log_that_nobody_reads_stops_nothing(self):
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        try:
            while True:
                os.write(reader, b"x" * 4096)
        except BlockingIOError:
            pass
        program = self.script('echo "$0" > "$4"')
        command = ["sh", "-c", f'exec "$0" "$@" 2> "{fifo}"',
                   *demo_command(program, self.folder / "storage")]
        server = self.serve(command=command)
        for i in range(5):
            self.assertEqual(server.generate(f"set{i}").last()["returncode"], 0)
        os.read(reader, 65536)  # somebody comes
        self.assertEqual(server.generate("six").last()["returncode"], 0)
        self.assertIn(b"lines were left out", os.read(reader, 65536))
