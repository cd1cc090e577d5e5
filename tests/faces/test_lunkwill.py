"""test_lunkwill.py - POST /run, held until the job ends or asked about in the lunkwill conversation."""

import http.client
import http.server
import json
import subprocess
import threading
import time
import unittest

from harness import (BUILD, DEADLINE, SANITIZED, TOKEN, FaceTest, basic, demo_command, is_running,
                     plain_only, serve_http, wait_for)
from node import NodeProcess

SUMMARY_TYPE = "application/vnd.lunkwill.request-summary+json; charset=utf-8"
RETRY_MS = 2000
SILENCE_S = 5  # --lunkwill-patience-ms of these tests: before that, nobody has stopped asking
UNKNOWN = "92f6317d-c2e9-4c47-a6dd-b87898d9f8f4"


def comparable(head):
    """What two answers that are the same have in common: everything but the time and the order."""
    return head.status, sorted((name, value) for name, value in head.headers if name != "date")


class LunkwillTest(FaceTest):
    def assert_problem(self, answer, status, *words):
        """S2: in the form that NextGIS's client reads, and without a number called status."""
        head, body = answer
        self.assertEqual(head.status, status, body)
        self.assertEqual(head.get("content-type"), "application/json", body)
        self.assertEqual(head.get("access-control-allow-origin"), "*")
        error = json.loads(body)
        self.assertEqual(list(error), ["title", "message", "detail", "exception", "status_code"])
        self.assertEqual(error["status_code"], status)
        for name in ("title", "message", "detail", "exception"):
            self.assertTrue(error[name], error)
        for word in words:
            self.assertIn(word, error["detail"])
        self.assertNotIn(TOKEN, body.decode())
        return head

    def run_fields(self, lunkwill=None, token=TOKEN):
        fields = {"Authorization": basic(token), "Content-Type": "application/x-www-form-urlencoded",
                  "Connection": "close"}
        if lunkwill is not None:
            fields["X-Lunkwill"] = lunkwill
        return fields

    def post(self, server, document_set, lunkwill=None, **more):
        """A POST /run whose answer is still to be read."""
        body = f"server=http%3A%2F%2Foverview.example&documentSetId={document_set}"
        return server.request("POST", "/run", self.run_fields(lunkwill, **more), body)

    def until_held(self, server, n=1):
        """So many wait for their job in the plain form."""
        text = f'workqueue_held_responses{{face="run"}} {n}\n'.encode()
        wait_for(lambda: text in server.ask("GET", "/metrics")[1], f"{n} to be held")

    def run_plain(self, server, document_set, lunkwill=None, **more):
        client = self.post(server, document_set, lunkwill, **more)
        client.read_all()
        client.close()
        return client.head, client.body

    def assert_summary(self, answer, status, *words):
        head, body = answer
        self.assertEqual(head.status, status, body)
        self.assertEqual(head.get("content-type"), SUMMARY_TYPE)
        self.assertEqual(head.get("cache-control"), "no-store")
        self.assertEqual(head.get("access-control-allow-origin"), "*")
        self.assertEqual(head.get("content-length"), str(len(body)))
        summary = json.loads(body)
        self.assertEqual(list(summary), ["id", "status", "delay_ms", "retry_ms"])
        self.assertRegex(summary["id"],
                         r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
        self.assertTrue(50 <= summary["delay_ms"] <= 4000, summary)
        self.assertEqual(summary["retry_ms"], RETRY_MS)
        if words:
            self.assertIn(summary["status"], words)
        return summary

    def begin(self, server, document_set, form="require", **more):
        """An intercepted request: its summary."""
        summary = self.assert_summary(self.run_plain(server, document_set, form, **more), 201)
        self.assertEqual(summary["delay_ms"], 50)
        return summary

    def ask(self, server, id):
        return self.assert_summary(server.ask("GET", f"/api/lunkwill/{id}/summary"), 200)

    def response(self, server, id, method="GET"):
        return server.ask(method, f"/api/lunkwill/{id}/response")

    def wait_status(self, server, id, *words, seconds=None):
        seen = []

        def now():
            summary = self.ask(server, id)
            if not seen or seen[-1] != summary["status"]:
                seen.append(summary["status"])
            return summary["status"] in words and summary

        return wait_for(now, f"a summary with {words}", seconds=seconds, seen=lambda: seen)


class PlainTest(LunkwillTest):
    """Without the header, the answer to POST /run is held until the job ends."""

    def test_success(self):
        server, job = self.serve(), self.told("set")
        client = self.post(server, "set")
        job.wait_started()
        job.succeed("the output")
        self.assertEqual(client.read_all(), b"the output\n")
        self.assertEqual(client.head.status, 200)
        self.assertEqual(client.head.get("x-workqueue"), "started")

    def test_failure(self):
        server, job = self.serve(), self.told("set")
        client = self.post(server, "set")
        job.tell("echo 'not like this' >&2; exit 3")
        client.read_all()
        self.assert_problem((client.head, client.body), 500, "Exited with code 3", "not like this")

    def test_already_done(self):
        server = self.serve()
        first, second = self.run_plain(server, "set"), self.run_plain(server, "set")
        self.assertEqual((first[0].status, first[1]), (200, b"output of set\n"))
        self.assertEqual((second[0].status, second[1]), (200, b"output of set\n"))
        self.assertEqual(second[0].get("x-workqueue"), "hit")
        self.assertRegex(second[0].get("age"), r"^\d+$")
        self.assertEqual(len(self.told("set").runs()), 1)

    def test_a_failed_job_runs_afresh(self):
        server, job = self.serve(), self.told("set")
        client = self.post(server, "set")
        job.tell("exit 1")
        client.read_all()
        self.assertEqual(client.head.status, 500)
        client = self.post(server, "set")
        job.succeed()
        client.read_all()
        self.assertEqual(client.head.status, 200)
        self.assertEqual(len(job.runs()), 2)

    def test_many_wait_for_one_job(self):
        server, job = self.serve(loops=3), self.told("set")
        clients = [self.post(server, "set") for _ in range(20)]
        job.wait_started()
        job.succeed("for all")
        for client in clients:
            self.assertEqual(client.read_all(), b"for all\n")
        self.assertEqual(len(job.runs()), 1)

    def test_a_client_that_leaves_changes_nothing(self):
        server = self.serve()
        for leave in ("close", "reset"):
            with self.subTest(leave):
                job = self.told(leave)
                before = server.connections()
                client = self.post(server, leave)
                pid, _ = job.wait_started()
                getattr(client, leave)()
                wait_for(lambda: server.connections() <= before, "its connection closed",
                         seen=server.connections)
                self.assertTrue(is_running(pid))
                self.until_held(server, 0)
                client = self.post(server, leave)
                self.until_held(server)
                job.succeed("still")
                self.assertEqual(client.read_all(), b"still\n")
                self.assertEqual(client.head.get("x-workqueue"), "attached")
                self.assertEqual(len(job.runs()), 1)

    def test_many_come_and_go(self):
        server, job = self.serve(loops=2), self.told("set")
        before = server.connections()
        clients = [self.post(server, "set") for _ in range(60)]
        job.wait_started()
        for client in clients[:40]:
            client.close()
        wait_for(lambda: server.connections() <= before + 20, "40 connections closed",
                 seen=server.connections)
        job.succeed()
        for client in clients[40:]:
            self.assertEqual(client.read_all(), b"done\n")

    def test_server_stops(self):
        server, job = self.serve(grace_ms=200), self.told("set")
        client = self.post(server, "set")
        job.wait_started()
        server.terminate()
        client.read_all()
        head = self.assert_problem((client.head, client.body), 503)
        self.assertEqual(head.get("retry-after"), "2", "W2: the job goes on after the restart")

    def test_faces_stop(self):
        """wq_http_stop() on a server of the host's own: the job has not ended, the answer must."""
        server, job = self.serve_faces(own_host=1), self.told("set")
        client = self.post(server, "set")
        job.wait_started()
        server.terminate()
        client.read_all()
        self.assert_problem((client.head, client.body), 503)
        self.assertTrue(client.head.get("retry-after"))

    def test_wrong_requests(self):
        server = self.serve()
        head = self.assert_problem(server.ask("GET", "/run"), 405, "POST")
        self.assertEqual(head.get("allow"), "POST, OPTIONS")
        fields = self.run_fields()
        self.assert_problem(server.ask("POST", "/run", fields, "documentSetId=1"), 400, "server")
        del fields["Authorization"]
        self.assert_problem(server.ask("POST", "/run", fields, "server=http://x&documentSetId=1"), 401)
        head, body = server.ask("OPTIONS", "/run")
        self.assertEqual((head.status, body), (204, b""))
        self.assertIn("POST", head.get("access-control-allow-methods"))

    def serve_faces(self, **options):
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        return self.serve(command=[str(BUILD / "tests" / "face-server"), str(self.told_program),
                                   str(storage), "grace_ms=200"] +
                          [f"{name}={value}" for name, value in options.items()])


class InterceptTest(LunkwillTest):
    """With the header, the request is answered by a summary."""

    def test_forms(self):
        server, job = self.serve(), self.told("set")
        for form in ("suggest", "require", "Suggest", "REQUIRE", " \trequire  "):
            with self.subTest(form):
                answer = self.run_plain(server, "set", form)
                self.assert_summary(answer, 201, "spooled", "processing")
                self.assertIn(answer[0].get("x-workqueue"), ("started", "attached"))
        job.succeed()

    def test_other_values_start_nothing(self):
        server, job = self.serve(), self.told("set")
        for value in ("", "yes", "suggested", "suggest, require", "require;q=1"):
            with self.subTest(value):
                answer = self.run_plain(server, "set", value)
                self.assert_problem(answer, 400, "X-Lunkwill", "suggest", "require")
        self.begin(server, "other")
        wait_for(self.told("other").runs, "a run of the other set")
        self.assertEqual(job.runs(), [])

    def test_already_done(self):
        server = self.serve()
        self.run_plain(server, "set")

        def same():
            """Within one second, for Age counts seconds."""
            plain, suggested = self.run_plain(server, "set"), self.run_plain(server, "set", "suggest")
            summary = self.begin(server, "set", "require")
            self.assertEqual(summary["status"], "ready")
            response = self.response(server, summary["id"])
            answers = [(comparable(head), body) for head, body in (plain, suggested, response)]
            return answers[0] == answers[1] == answers[2] and plain

        head, body = wait_for(same, "three answers that are the same")
        self.assertEqual((head.status, body), (200, b"output of set\n"))
        self.assertEqual(head.get("x-workqueue"), "hit")
        self.assertEqual(len(self.told("set").runs()), 1)

    def test_ids_are_of_requests(self):
        server, job = self.serve(), self.told("set")
        ids = {self.begin(server, "set")["id"] for _ in range(20)}
        self.assertEqual(len(ids), 20)
        job.succeed()
        for id in ids:
            self.wait_status(server, id, "ready")
        self.assertEqual(len(job.runs()), 1)

    def test_wrong_requests(self):
        server = self.serve()
        fields = self.run_fields("require")
        self.assert_problem(server.ask("POST", "/run", fields, "documentSetId=1"), 400, "server")
        del fields["Authorization"]
        self.assert_problem(server.ask("POST", "/run", fields, "server=http://x&documentSetId=1"), 401)

    def test_queue_is_full(self):
        server = self.serve(workers=1, max_queue=1)
        running, waiting = self.told("running"), self.told("waiting")
        self.begin(server, "running")
        running.wait_started()
        self.begin(server, "waiting")
        head = self.assert_problem(self.run_plain(server, "third", "require"), 503)
        self.assertTrue(head.get("retry-after"))
        running.succeed()
        waiting.succeed()

    def test_as_many_requests_as_may(self):
        storage = self.folder / "storage"
        storage.mkdir()
        server = self.serve(command=[str(BUILD / "tests" / "face-server"), str(self.told_program),
                                     str(storage), "max_streams=2"])
        job = self.told("set")
        ids = [self.begin(server, "set")["id"] for _ in range(2)]
        self.assert_problem(self.run_plain(server, "set", "require"), 503)
        self.assert_problem(self.run_plain(server, "other", "require"), 503)
        job.succeed()
        for id in ids:
            self.wait_status(server, id, "ready")
        self.begin(server, "set")
        self.assertEqual(self.told("other").runs(), [])


class SummaryTest(LunkwillTest):
    """What a summary says of each state, and what the response is then."""

    def test_s3_the_first_summary_of_an_idle_server(self):
        """Older clients know no other word; also while the job is only about to run."""
        server = self.serve()
        for i in range(20):
            job = self.told(f"set{i}")
            head = self.run_plain(server, f"set{i}", "require")
            id = self.assert_summary(head, 201, "processing")["id"]
            job.succeed()
            self.wait_status(server, id, "ready")

    def test_spooled_processing_ready(self):
        server = self.serve(workers=1)
        first, job = self.told("first"), self.told("set")
        self.begin(server, "first")
        first.wait_started()
        id = self.begin(server, "set")["id"]
        self.assertEqual(self.ask(server, id)["status"], "spooled")
        self.assert_problem(self.response(server, id), 409, "summary")
        first.succeed()
        self.wait_status(server, id, "processing")
        self.assert_problem(self.response(server, id), 409, "summary")
        job.wait_started()
        job.succeed("at last")
        self.wait_status(server, id, "ready")
        head, body = self.response(server, id)
        self.assertEqual((head.status, body), (200, b"at last\n"))

    @unittest.skipIf(SANITIZED, "a sanitizer must be preloaded first")
    def test_buffering(self):
        """Seen while the disk is slow: here its fsync() waits for a file to go away."""
        slow = self.folder / "slow.c"
        slow.write_text('#include <sys/syscall.h>\n#include <unistd.h>\n#include <fcntl.h>\n'
                        '#define SLOW(name) int name(int fd) { while (access(HOLD, F_OK) == 0)'
                        ' usleep(1000); return (int)syscall(SYS_##name, fd); }\n'
                        'SLOW(fsync) SLOW(fdatasync) SLOW(syncfs)\n')
        hold, library, storage = self.folder / "hold", self.folder / "slow.so", self.folder / "storage"
        subprocess.run(["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", f'-DHOLD="{hold}"', "-o", library, slow],
                       check=True)
        storage.mkdir()
        command = demo_command(self.told_program, storage, sync=True)
        server = self.serve(command=["env", f"LD_PRELOAD={library}"] + command)
        job = self.told("set")
        id = self.begin(server, "set")["id"]
        job.wait_started()
        hold.touch()
        self.addCleanup(hold.unlink, missing_ok=True)
        job.succeed()
        self.wait_status(server, id, "buffering")
        self.assert_problem(self.response(server, id), 409)
        hold.unlink()
        self.wait_status(server, id, "ready")

    def test_a_failed_program_is_ready(self):
        server, job = self.serve(), self.told("set")
        id = self.begin(server, "set")["id"]
        job.tell("echo why >&2; exit 4")
        self.wait_status(server, id, "ready")
        self.assert_problem(self.response(server, id), 500, "Exited with code 4", "why")

    def test_an_output_that_was_deleted_is_failed(self):
        server, job = self.serve(), self.told("set")
        id = self.begin(server, "set")["id"]
        _, path = job.wait_started()
        job.succeed("short-lived")
        self.wait_status(server, id, "ready")
        gone = [p for p in server.storage.rglob("*") if p.is_file() and p.read_bytes() == b"short-lived\n"]
        self.assertEqual(len(gone), 1, gone)
        gone[0].unlink()
        self.assertEqual(self.ask(server, id)["status"], "failed")
        self.assert_problem(self.response(server, id), 410)

    def test_delays_grow(self):
        server, job = self.serve(), self.told("set")
        began = time.monotonic()
        id = self.begin(server, "set")["id"]
        delays = [50]
        while delays[-1] < 300:
            summary = self.ask(server, id)
            self.assertGreaterEqual(summary["delay_ms"], delays[-1])
            self.assertLessEqual(summary["delay_ms"], 51 + 100 * (time.monotonic() - began))
            delays.append(summary["delay_ms"])
            self.assertLess(time.monotonic() - began, 3 * DEADLINE, delays)
        self.assertGreater(len(set(delays)), 20, "no steps")
        self.assertEqual(self.begin(server, "set")["delay_ms"], 50)  # a request of its own
        job.succeed()

    def test_head(self):
        server, job = self.serve(), self.told("set")
        id = self.begin(server, "set")["id"]
        path = f"/api/lunkwill/{id}/summary"
        job.succeed()
        self.wait_status(server, id, "ready")
        head, body = server.ask("HEAD", path)
        self.assertEqual(body, b"")
        self.assertEqual(head.status, 200)
        self.assertEqual(head.get("content-type"), SUMMARY_TYPE)
        self.assertGreater(int(head.get("content-length")), 80)
        whole, head = self.response(server, id), self.response(server, id, "HEAD")
        self.assertEqual(comparable(head[0]), comparable(whole[0]))
        self.assertEqual(head[1], b"")

    def test_methods(self):
        server, job = self.serve(), self.told("set")
        id = self.begin(server, "set")["id"]
        for part, allow in (("/summary", "GET, HEAD, OPTIONS"), ("/response", "GET, HEAD, OPTIONS"),
                            ("", "DELETE, OPTIONS")):
            with self.subTest(part):
                path = f"/api/lunkwill/{id}{part}"
                head = self.assert_problem(server.ask("PUT", path), 405)
                self.assertEqual(head.get("allow"), allow)
                head, body = server.ask("OPTIONS", path)
                self.assertEqual((head.status, body, head.get("allow")), (204, b"", allow))
        job.succeed()

    def test_unknown(self):
        server, job = self.serve(), self.told("set")
        id = self.begin(server, "set")["id"]
        for path in (f"{UNKNOWN}/summary", f"{UNKNOWN}/response", f"{id}/nothing",
                     f"{id}x/summary", f"{id[:-1]}/summary", "summary", "x", ""):
            with self.subTest(path):
                self.assert_problem(server.ask("GET", f"/api/lunkwill/{path}"), 404)
        self.assert_problem(server.ask("DELETE", f"/api/lunkwill/{UNKNOWN}"), 404)
        self.assertEqual(server.ask("OPTIONS", "/api/lunkwill/x")[0].status, 204)
        job.succeed()

    def test_keep_alive(self):
        """A client's whole conversation on one connection, questions pipelined."""
        server, job = self.serve(), self.told("set")
        id = self.begin(server, "set")["id"]
        job.succeed("one connection")
        self.wait_status(server, id, "ready")
        client = server.connect()
        for _ in range(3):
            server.request("GET", f"/api/lunkwill/{id}/summary", client=client)
        server.request("GET", f"/api/lunkwill/{id}/response", client=client)
        for _ in range(3):
            client.begin_response()
            self.assertEqual(json.loads(client.read_all())["status"], "ready")
        client.begin_response()
        self.assertEqual(client.read_all(), b"one connection\n")


class ResponseTest(LunkwillTest):
    """The response is what the plain form answers: status, headers, body."""

    def check(self, *lines):
        server, job = self.serve(), self.told("set")
        stream = server.generate("set")
        pid, _ = job.wait_started()
        plain = self.post(server, "set")
        self.until_held(server)
        head = self.run_plain(server, "set", "suggest")
        id = self.assert_summary(head, 201, "processing")["id"]
        self.assertEqual(head[0].get("x-workqueue"), "attached")
        job.tell(*lines)
        plain.read_all()
        stream.last()
        self.wait_status(server, id, "ready")
        head, body = self.response(server, id)
        self.assertEqual(comparable(head), comparable(plain.head))
        self.assertEqual(body, plain.body)
        return head, body

    def test_success(self):
        head, body = self.check("echo 'the same' >\"$out\"; exit 0")
        self.assertEqual((head.status, body), (200, b"the same\n"))

    def test_failure(self):
        self.assert_problem(self.check("echo 'bad luck' >&2; exit 7"), 500, "code 7", "bad luck")

    def test_signal(self):
        self.assert_problem(self.check("kill -9 $$"), 500, "-9")

    def test_empty_output(self):
        self.assert_problem(self.check("exit 0"), 500, "output")

    def test_by_http_client(self):
        """By another HTTP client, and for jobs that each of the two has started."""
        server = self.serve()

        def answers(token, lunkwill):
            connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
            body = "server=http%3A%2F%2Foverview.example&documentSetId=set"
            connection.request("POST", "/run", body, self.run_fields(lunkwill, token))
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            return answer, text

        answer, text = answers("one", None)
        _, summary = answers("two", "require")
        id = json.loads(summary)["id"]
        self.wait_status(server, id, "ready")
        head, body = self.response(server, id)
        times = ("date", "etag", "last-modified", "age")
        self.assertEqual(head.status, answer.status)
        self.assertEqual([(n, v) for n, v in head.headers if n not in times],
                         [(n.lower(), v) for n, v in answer.getheaders() if n.lower() not in times])
        self.assertEqual([n for n, _ in head.headers if n != "last-modified"],
                         [n for n, _ in map(lambda h: (h[0].lower(), h[1]), answer.getheaders())
                          if n != "last-modified"])
        self.assertEqual(body, text)


class DeleteTest(LunkwillTest):
    """DELETE says that the client will not ask again."""

    def delete(self, server, id):
        head, body = server.ask("DELETE", f"/api/lunkwill/{id}")
        self.assertEqual((head.status, body), (204, b""))

    def test_running(self):
        server, job = self.serve(grace_ms=200), self.told("set")
        id = self.begin(server, "set")["id"]
        pid, _ = job.wait_started()
        self.delete(server, id)
        wait_for(lambda: not is_running(pid), "the program's end")
        self.wait_status(server, id, "cancelled")
        self.assert_problem(self.response(server, id), 410, "cancelled")

    def test_queued(self):
        server = self.serve(workers=1)
        first, job = self.told("first"), self.told("set")
        self.begin(server, "first")
        first.wait_started()
        id = self.begin(server, "set")["id"]
        self.delete(server, id)
        self.wait_status(server, id, "cancelled")
        first.succeed()
        self.assertEqual(job.runs(), [])

    def test_another_goes_on(self):
        server, job = self.serve(), self.told("set")
        ids = [self.begin(server, "set")["id"] for _ in range(2)]
        pid, _ = job.wait_started()
        self.delete(server, ids[0])
        self.assertEqual(self.ask(server, ids[1])["status"], "processing")
        self.assertTrue(is_running(pid))
        job.succeed()
        self.wait_status(server, ids[1], "ready")

    def test_somebody_insists(self):
        """By a stream, by the plain form; whether they came before or after, stay or have left."""
        server = self.serve()
        by_stream, by_run = self.told("stream"), self.told("run")
        ids = [self.begin(server, "stream")["id"]]
        before = server.connections()
        stream = server.generate("stream")
        stream.record()
        stream.close()
        wait_for(lambda: server.connections() <= before, "its connection closed", seen=server.connections)
        plain = self.post(server, "run")
        by_run.wait_started()
        ids.append(self.begin(server, "run")["id"])
        for id, job in zip(ids, (by_stream, by_run)):
            self.delete(server, id)
            job.wait_started()
            job.succeed()
            self.wait_status(server, id, "ready")
        self.assertEqual(plain.read_all(), b"done\n")

    def test_ended(self):
        server = self.serve()
        id = self.begin(server, "set")["id"]
        self.wait_status(server, id, "ready")
        self.delete(server, id)
        self.assertEqual(self.ask(server, id)["status"], "ready")
        self.assertEqual(self.response(server, id)[1], b"output of set\n")


class SilenceTest(LunkwillTest):
    """A client that stops asking has its request cancelled, unless somebody else wants the job."""

    def serve(self, **options):
        return super().serve(lunkwill_patience_ms=SILENCE_S * 1000, **options)

    def test_silence(self):
        """All at once, for it takes real time. `last` was asked for last: once it is cancelled,
        whatever else is to be cancelled has been."""
        server = self.serve(workers=6, loops=3, grace_ms=200)
        names = ["streamed", "asked", "shared", "resumed", "both", "last"]
        jobs = {name: self.told(name) for name in names}
        ids = {name: self.begin(server, name)["id"] for name in names[:-1]}
        others = [self.begin(server, name)["id"] for name in ("shared", "resumed")]
        ids["other of both"] = self.begin(server, "both")["id"]
        stream, leaves = server.generate("streamed"), server.generate("asked")
        self.assertEqual(stream.record()["returncode"], None)
        leaves.record()
        leaves.close()
        began = time.monotonic()
        ids["last"] = self.begin(server, "last")["id"]
        pids = {name: jobs[name].wait_started()[0] for name in names}

        def last_has_ended():
            for id in others:
                self.assertEqual(self.ask(server, id)["status"], "processing")
            return not is_running(pids["last"])

        wait_for(last_has_ended, "the end of the last program", SILENCE_S + DEADLINE)
        self.assertGreater(time.monotonic() - began, SILENCE_S)
        wait_for(lambda: not is_running(pids["both"]), "the end of the one that both left")
        for name in ("last", "both", "other of both"):
            self.wait_status(server, ids[name], "cancelled")
            self.assert_problem(self.response(server, ids[name]), 410, "cancelled")
        for name in ("streamed", "asked", "shared", "resumed"):
            self.assertTrue(is_running(pids[name]), name)
            self.assertEqual(self.ask(server, ids[name])["status"], "processing", name)
        self.check_resumed(server, pids["resumed"], ids["resumed"], others[1])
        for name in ("streamed", "asked", "shared"):
            jobs[name].succeed()
            self.wait_status(server, ids[name], "ready")
        self.assertIsNone(stream.last()["error"])

    def test_in_the_queue(self):
        """One that waits is taken out of the queue, which those behind it see."""
        server = self.serve(workers=1)
        running, silent, behind = (self.told(name) for name in ("running", "silent", "behind"))
        stays = server.generate("running")
        running.wait_started()
        id = self.begin(server, "silent")["id"]
        stream = server.generate("behind")
        self.assertEqual(stream.record()["n_ahead_in_queue"], 2)
        stream.until(lambda r: r["n_ahead_in_queue"] == 1, "one less in front", SILENCE_S + DEADLINE)
        self.wait_status(server, id, "cancelled")
        running.succeed()
        behind.succeed()
        self.assertEqual([stays.last()["error"], stream.last()["error"]], [None, None])
        self.assertEqual(silent.runs(), [])

    def check_resumed(self, server, pid, id, other):
        """Its first client was silent while the other one asked; now it asks and the other is gone,
        and at last it is gone too."""
        self.assert_gone(server, other)
        self.assertTrue(is_running(pid))
        self.assertEqual(self.ask(server, id)["status"], "processing")
        self.assert_gone(server, id)
        wait_for(lambda: not is_running(pid), "the end of the program")

    def assert_gone(self, server, id):
        self.assertEqual(server.ask("DELETE", f"/api/lunkwill/{id}")[0].status, 204)

    def test_asked_for_again(self):
        """What silence has cancelled runs afresh when somebody asks anew; the old request is what
        it was."""
        server, job = self.serve(grace_ms=200), self.told("set")
        old = self.begin(server, "set")["id"]
        pid, _ = job.wait_started()
        wait_for(lambda: not is_running(pid), "the end of the program", SILENCE_S + DEADLINE)
        self.wait_status(server, old, "cancelled")
        new = self.begin(server, "set")["id"]
        job.wait_started(2)
        job.succeed("second")
        self.wait_status(server, new, "ready")
        self.assertEqual(self.response(server, new)[1], b"second\n")
        self.assertEqual(self.ask(server, old)["status"], "cancelled")

    def test_server_stops_before(self):
        """Requests that are being asked for do not keep it from stopping."""
        server, job = self.serve(grace_ms=200), self.told("set")
        for _ in range(3):
            self.begin(server, "set")
        job.wait_started()
        server.finish()


class CrowdTest(LunkwillTest):
    """Many requests of few jobs at once, on several loops: some ask on, some leave by DELETE."""

    def test_crowd(self):
        server = self.serve(workers=4, loops=3)
        jobs = [self.told(f"set{i}") for i in range(4)]
        stay, errors = [], []

        def one(number):
            try:
                id = self.begin(server, f"set{number % 4}")["id"]
                for _ in range(5):
                    self.assertIn(self.ask(server, id)["status"], ("spooled", "processing"))
                if number % 3 == 0:
                    self.assertEqual(server.ask("DELETE", f"/api/lunkwill/{id}")[0].status, 204)
                else:
                    stay.append(id)
            except (AssertionError, OSError) as error:
                errors.append(error)

        for i in range(4):  # each job is wanted before anybody leaves
            stay.append(self.begin(server, f"set{i}")["id"])
        threads = [threading.Thread(target=one, args=(i,)) for i in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        for job in jobs:
            job.wait_started()
            job.succeed()
        for id in stay:
            self.wait_status(server, id, "ready")
            self.assertEqual(self.response(server, id)[1], b"done\n")
        self.assertEqual([len(job.runs()) for job in jobs], [1, 1, 1, 1])


class Relay:
    """Between a client and the server; what `plan` lists comes first in place of summaries: "cut" for
    no answer at all, a number for an error, an object for a summary with these values."""

    def __init__(self, test, server, plan):
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                instead = plan.pop(0) if self.path.endswith("/summary") and plan else None
                relay.asked.append((self.path.rpartition("/")[2], time.monotonic()))
                if instead == "cut":
                    return self.connection.shutdown(2)
                if isinstance(instead, int):
                    return self.send(instead, [("Content-Type", "text/plain")], b"no")
                status, headers, body = self.forward()
                if instead:
                    body = json.dumps({**json.loads(body), **instead}).encode()
                self.send(status, headers, body)

            def forward(self):
                connection = http.client.HTTPConnection(*server.address, timeout=3 * DEADLINE)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                text = answer.read()
                connection.close()
                return answer.status, answer.getheaders(), text

            def send(self, status, headers, body):
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "connection", "date"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

            do_GET = do_POST = answer

        self.asked = []
        self.base = f"http://127.0.0.1:{serve_http(test, Handler)}"


class NodeClientTest(LunkwillTest):
    """A client written from the protocol's description."""

    def client(self, base, form="suggest"):
        return NodeProcess(self, "lunkwill.mjs", base, "set", TOKEN, form)

    def converse(self, form):
        server, job = self.serve(), self.told("set")
        client = self.client(server.base, form)
        first = client.next()["summary"]
        self.assertEqual((first["delay_ms"], first["retry_ms"]), (50, RETRY_MS))
        client.until(lambda l: l["summary"]["status"] == "processing", "processing")
        job.succeed(form)
        end = client.until(lambda l: "end" in l, "the end")
        self.assertEqual((end["end"], end["status"], end["body"]), ("response", 200, form + "\n"))
        self.assertEqual({s["summary"]["id"] for s in client.seen if "summary" in s}, {first["id"]})
        self.assertNotIn("retry", [key for line in client.seen for key in line])

    @plain_only
    def test_suggest(self):
        self.converse("suggest")

    @plain_only
    def test_require(self):
        self.converse("require")

    @plain_only
    def test_already_done(self):
        server = self.serve()
        self.run_plain(server, "set")
        end = self.client(server.base).next()
        self.assertEqual((end["end"], end["body"]), ("response", "output of set\n"))
        client = self.client(server.base, "require")
        self.assertEqual(client.next()["summary"]["status"], "ready")
        self.assertEqual(client.next()["body"], "output of set\n")

    @plain_only
    def test_failure(self):
        server, job = self.serve(), self.told("set")
        client = self.client(server.base)
        job.tell("echo 'it broke' >&2; exit 5")
        end = client.until(lambda l: "end" in l, "the end")
        self.assertEqual((end["end"], end["status"], end["type"]),
                         ("response", 500, "application/json"))
        self.assertIn("it broke", end["body"])

    @plain_only
    def test_retries(self):
        """Summaries that fail, by the network or a proxy, cancel nothing."""
        server, job = self.serve(), self.told("set")
        relay = Relay(self, server, ["cut", 502, 503])
        client = self.client(relay.base)
        pid, _ = job.wait_started()
        for _ in range(3):
            client.until(lambda l: "retry" in l, "a retry")
        client.until(lambda l: "summary" in l and l["summary"]["status"] == "processing", "processing")
        self.assertTrue(is_running(pid))
        job.succeed()
        self.assertEqual(client.until(lambda l: "end" in l, "the end")["body"], "done\n")
        times = [t for what, t in relay.asked if what == "summary"]
        for before, after in zip(times[:3], times[1:4]):
            self.assertGreater(after - before, RETRY_MS / 1000 - 0.1)

    @plain_only
    def test_stops_at_a_status_it_does_not_know(self):
        server, job = self.serve(), self.told("set")
        relay = Relay(self, server, [{"status": "confused"}])
        client = self.client(relay.base)
        self.assertEqual(client.until(lambda l: "end" in l, "the end")["end"], "confused")
        self.assertNotIn("response", [what for what, _ in relay.asked])
        job.succeed()

    @plain_only
    def test_deadline(self):
        server, job = self.serve(), self.told("set")
        relay = Relay(self, server, [{"deadline_ms": 0}])
        client = self.client(relay.base)
        self.assertEqual(client.until(lambda l: "end" in l, "the end")["end"], "deadline")
        job.succeed()

    @plain_only
    def test_cancelled(self):
        server, job = self.serve(grace_ms=200), self.told("set")
        client = self.client(server.base)
        first = client.next()["summary"]
        job.wait_started()
        self.assertEqual(server.ask("DELETE", f"/api/lunkwill/{first['id']}")[0].status, 204)
        self.assertEqual(client.until(lambda l: "end" in l, "the end")["end"], "cancelled")
