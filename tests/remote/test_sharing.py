"""test_sharing.py - `workqueue serve`, twice, on one folder and without a broker: one run a key."""

import json
import os
import signal
import unittest
from urllib.parse import urlencode

from far import SECONDS
from harness import BUILD, SERVER, TOKEN, FaceTest, Server, basic, is_running, wait_for

WORKQUEUE = BUILD / "workqueue"
WORKQUEUE = WORKQUEUE if WORKQUEUE.is_file() else BUILD / "bin" / "workqueue"
FORM = {"Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"}
OPERATOR = {"Authorization": "Bearer operator"}
TAKEOVER_S = 20


class SharingTest(FaceTest):
    def setUp(self):
        super().setUp()
        self.shared = self.folder / "shared"
        self.secret = self.folder / "secret"
        self.secret.write_text("operator\n")
        self.secret.chmod(0o600)

    def serve(self, program=None, name=None, **options):
        """One of the servers; each has a folder of its own besides."""
        own = self.folder / (name or f"own.{len(list(self.folder.glob('own.*')))}")
        command = [WORKQUEUE, "serve", "--listen", "127.0.0.1:0", "--storage", own, "--store",
                   self.shared, "--no-sync", "--operator-secret-file", self.secret, "--program",
                   program or self.told_program]
        for option, value in options.items():
            command += ["--" + option.replace("_", "-"), value]
        server = Server(self.folder, None, storage=own, command=list(map(str, command)))
        self.addCleanup(server.finish)
        return server

    def start(self, server, set="set", **more):
        body = urlencode({"server": SERVER, "documentSetId": set, **more})
        head, body = server.ask("POST", "/start_work", FORM, body)
        self.assertEqual(head.status, 303, body)
        return head.get("location")

    def end_of(self, server, path, seconds=SECONDS):
        def ended():
            head, body = server.ask("GET", path, {"Prefer": "wait=1"})
            return head.status != 303 and (head.status, body)
        return wait_for(ended, f"the end of {path}", seconds, seen=server.log)

    def jobs(self, server, query=""):
        return json.loads(server.ask("GET", "/jobs" + query, OPERATOR)[1])["jobs"]

    def test_two_servers_run_each_key_once(self):
        """Both are asked for all keys at the same time."""
        runs = self.folder / "runs"
        program = self.script(f'echo "$2" >>"{runs}"; sleep 0.05; echo "output of $2" >"$4"')
        servers = [self.serve(program, workers=8) for _ in range(2)]
        paths = [(server, self.start(server, f"set{i}"), i) for i in range(24) for server in servers]
        for server, path, i in paths:
            self.assertEqual(self.end_of(server, path), (200, b"output of set%d\n" % i))
        self.assertEqual(sorted(runs.read_text().split()), sorted(f"set{i}" for i in range(24)))

    def test_who_asks_elsewhere_gets_the_same_end(self):
        first, second = self.serve(), self.serve()
        good, bad = self.told("good"), self.told("bad")
        here = [self.start(first, name) for name in ("good", "bad")]
        good.wait_started(), bad.wait_started()
        there = [self.start(second, name) for name in ("good", "bad")]
        good.succeed("made")
        bad.tell("echo reason >&2; exit 3")
        for server, (good_path, bad_path) in ((first, here), (second, there)):
            self.assertEqual(self.end_of(server, good_path), (200, b"made\n"))
            status, body = self.end_of(server, bad_path)
            self.assertEqual(status, 500)
            self.assertIn(b"reason", body)
        self.assertEqual([len(good.runs()), len(bad.runs())], [1, 1])

    def test_what_runs_is_listed_by_the_other_one(self):
        first, second, told = self.serve(), self.serve(), self.told("set")
        path = self.start(first)
        told.wait_started()
        wait_for(lambda: self.jobs(second), "the job at the other server", SECONDS)
        job = self.jobs(second, "?state=running&limit=1")[0]
        self.assertEqual([job["state"], job["server"], job["document_set_id"], job["attempt"]],
                         ["running", SERVER, "set", 1])
        self.assertEqual(set(self.jobs(first)[0]) - set(job), set())
        self.assertTrue(job["packager"] and job["host"])
        self.assertNotIn(TOKEN, json.dumps(job))
        self.assertEqual(self.jobs(second, "?state=failed"), [])
        self.assertEqual(self.jobs(second, f"?after={job['id']}"), [])
        told.succeed()
        self.assertEqual(self.end_of(first, path)[0], 200)
        wait_for(lambda: not self.jobs(second), "it to be gone from the other server", SECONDS)

    def test_a_trace_reaches_the_program(self):
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        server = self.serve(self.script('echo "${TRACEPARENT-none}" >"$4"'))
        for i, (header, seen) in enumerate([(trace, trace), (trace + "-1", "none"),
                                            (trace.upper(), "none"), ("ff" + trace[2:], "none"),
                                            ("", "none")]):
            body = urlencode({"server": SERVER, "documentSetId": f"set{i}"})
            head, _ = server.ask("POST", "/start_work", {**FORM, "traceparent": header}, body)
            self.assertEqual(self.end_of(server, head.get("location"))[1].decode(), seen + "\n", header)

    def test_a_rebuild_runs_again_and_once(self):
        first, second, told = self.serve(), self.serve(), self.told("set")
        path = self.start(first)
        told.wait_started()
        told.succeed("old")
        self.assertEqual(self.end_of(first, path), (200, b"old\n"))
        path = self.start(second, rebuild=1)
        told.wait_started(2)
        told.succeed("new")
        self.assertEqual(self.end_of(second, path), (200, b"new\n"))
        self.assertEqual(self.end_of(first, self.start(first)), (200, b"new\n"))
        self.assertEqual(len(told.runs()), 2)

    def test_a_cancel_frees_the_key_for_others(self):
        first, second, told = self.serve(), self.serve(), self.told("set")
        here = self.start(first)
        pid, _ = told.wait_started()
        there = self.start(second)
        first.ask("DELETE", here)
        self.assertEqual(self.end_of(first, here)[0], 410)
        wait_for(lambda: not is_running(pid), "the program's end")
        told.wait_started(2)
        told.succeed("made")
        self.assertEqual(self.end_of(second, there), (200, b"made\n"))

    def test_the_other_takes_over_when_one_is_killed(self):
        first, second, told = self.serve(), self.serve(), self.told("set")
        self.start(first)
        told.wait_started()
        path = self.start(second)
        first.kill()
        told.wait_gone()
        wait_for(lambda: len(told.runs()) == 2, "a second run", TAKEOVER_S + SECONDS)
        told.succeed("made")
        self.assertEqual(self.end_of(second, path), (200, b"made\n"))

    def test_d_one_that_was_frozen_replaces_nothing(self):
        """Its program ends while others have built what is newer; both sides' clients get that."""
        runs = self.folder / "runs"
        program = self.script(f'echo "$$" >>"{runs}"; n=$(wc -l <"{runs}"); echo "v$n" >"$4"; '
                              f'while [ "$n" = 2 ] && ! [ -e "{self.folder}/go" ]; do sleep 0.05; done')
        first, second = self.serve(program), self.serve(program)
        self.assertEqual(self.end_of(first, self.start(first)), (200, b"v1\n"))
        path = self.start(first, rebuild=1)
        wait_for(lambda: len(runs.read_text().split()) == 2, "the second run")
        os.kill(first.pid, signal.SIGSTOP)
        try:
            self.assertEqual(self.end_of(second, self.start(second, rebuild=1), TAKEOVER_S + SECONDS),
                             (200, b"v3\n"))
            (self.folder / "go").touch()
        finally:
            os.kill(first.pid, signal.SIGCONT)
        self.assertEqual(self.end_of(first, path)[0], 200)
        self.assertNotEqual(self.end_of(second, self.start(second)), (200, b"v2\n"))


if __name__ == "__main__":
    unittest.main()
