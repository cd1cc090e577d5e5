"""test_work.py - polling: POST /start_work, /work/{id}, and the output that comes of it."""

import hashlib
import importlib.util
import json
import os
import re
import select
import shutil
import socket
import subprocess
import time
import unittest
from email.utils import formatdate, parsedate_to_datetime

from harness import (DEADLINE, OWN, SERVER, SLOW, TOKEN, FaceTest, basic, plain_only, request_bytes,
                     wait_for)
from test_limits import LibraryTest
from test_websocket import WebSocket

FORM = {"Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded"}
UNKNOWN = "/work/00000000-0000-4000-8000-000000000000"
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
QUIET = 0.3  # seconds without a byte after which a poll is taken to be held
# about 8 seconds
STEADY = """i=0
while [ $i -lt 40 ]; do echo $i/40; i=$((i + 1)); sleep 0.2; done
echo done >"$4"
"""
LONG = {"hold_ms": 60000}  # longer than any test


class WorkTest(FaceTest):
    def post(self, server, document_set="set", headers=None, more=""):
        body = f"server={SERVER}&documentSetId={document_set}{more}"
        return server.ask("POST", "/start_work", {**FORM, **(headers or {})}, body)

    def begin(self, server, document_set="set", **more):
        """Begins a job that must begin, or is there; its path."""
        head, body = self.post(server, document_set, **more)
        self.assertEqual((head.status, body), (303, b""))
        self.assert_path(head.get("location"))
        return head.get("location")

    def assert_path(self, path):
        self.assertRegex(path, f"^/work/{UUID4}$")

    def poll(self, server, path, headers=None, client=None):
        """A poll whose answer is to come."""
        if client:
            client.begin_response()
        return server.request("GET", path, headers, client=client)

    def held(self, server, path, headers=None):
        """A poll that is held, as it must be."""
        so_far = self.polls_so_far(server)
        client = self.poll(server, path, headers)
        wait_for(lambda: self.polls_so_far(server) > so_far, "the poll to be held")
        self.assert_held(client)
        return client

    def assert_held(self, *clients):
        poll = select.poll()
        for client in clients:
            self.assertEqual(client.held, b"")
            poll.register(client.sock, select.POLLIN)
        self.assertEqual(poll.poll(1000 * QUIET), [], "expected held polls; got answers")

    def assert_redirect(self, head, path, body=b""):
        """303 to itself, or to one more of its counted paths; its Retry-After."""
        self.assertEqual((head.status, body), (303, b""))
        self.assertRegex(head.get("location"), f"^{re.escape(path)}(/[1-9][0-9]*)?$")
        self.assertEqual(head.get("content-length"), "0")
        self.assertEqual(head.get("access-control-allow-origin"), "*")
        self.assertEqual(head.get("cache-control"), "no-store")
        self.assertRegex(head.get("retry-after"), "^[1-9][0-9]*$")
        return int(head.get("retry-after"))

    def redirected(self, client, path):
        client.read_all()
        return self.assert_redirect(client.head, path, client.body)

    def result(self, server, path, headers=None, method="GET"):
        """The answer of an ended job."""
        return server.ask(method, path, headers)

    def dated(self, server, path):
        """The same once its date tells it from others: its second is over."""
        wait_for(lambda: self.result(server, path)[0].get("last-modified"), "a Last-Modified")
        return self.result(server, path)

    def done(self, server, document_set="set", output=None, job=None):
        """A job that has succeeded with this output; its path."""
        if output is not None:
            job = job or self.told(document_set)
            file = self.folder / f"{document_set}.output"
            file.write_bytes(output)
            job.tell(f"cat '{file}' >\"$out\"; exit 0")
        path = self.begin(server, document_set)
        self.until_ended(server, path)
        return path

    def until_ended(self, server, path):
        wait_for(lambda: server.ask("HEAD", path)[0].status != 303, f"the end of {path}")

    def metric(self, server, name):
        text = server.ask("GET", "/metrics")[1].decode()
        return float(re.search("^" + re.escape(name) + " (.*)$", text, re.M)[1])

    def polls_held(self, server):
        return self.metric(server, 'workqueue_held_responses{face="poll"}')

    def polls_so_far(self, server):
        return self.metric(server, 'workqueue_held_requests_total{face="poll"}')


# ---- beginning -----------------------------------------------------------------------------------


class StartTest(WorkTest):
    def test_a_new_job(self):
        server, job = self.serve(), self.told("set")
        head, body = self.post(server)
        self.assert_redirect(head, head.get("location"), body)
        self.assert_path(head.get("location"))
        self.assertEqual(head.get("x-workqueue"), "started")
        self.assertIn("Location", head.get("access-control-expose-headers"))
        self.assertIn("Retry-After", head.get("access-control-expose-headers"))
        job.wait_started()

    def test_a_job_that_is_there(self):
        server, job = self.serve(), self.told("set")
        path = self.begin(server)
        job.wait_started()
        head, _ = self.post(server)
        self.assertEqual((head.get("location"), head.get("x-workqueue")), (path, "attached"))
        self.assertEqual(len(job.runs()), 1)

    def test_an_output_that_is_there(self):
        server = self.serve()
        self.done(server)
        head, _ = self.post(server)
        self.assertEqual((head.status, head.get("x-workqueue")), (303, "hit"))
        self.assertLess(int(head.get("age")), 60 * SLOW)
        self.assertEqual(head.get("retry-after"), "0", "S1: seed 001's client needs it")
        self.assertEqual(self.result(server, head.get("location"))[1], b"output of set\n")
        self.assertEqual(len(self.told("set").runs()), 1)

    def test_rebuild(self):
        server = self.serve()
        self.done(server)
        job = self.told("set")
        path = self.begin(server, more="&rebuild=Yes")
        job.wait_started(2)
        self.assertEqual(server.ask("HEAD", path)[0].status, 303)
        job.succeed("built again")
        self.until_ended(server, path)
        self.assertEqual(self.result(server, path)[1], b"built again\n")
        job.succeed("and again")
        path = self.begin(server, more="&rebuild=1")
        self.until_ended(server, path)
        self.assertEqual(self.result(server, path)[1], b"and again\n")

    def test_ids_are_random(self):
        server = self.serve()
        paths = {self.begin(server, f"set{i}") for i in range(50)}
        self.assertEqual(len(paths), 50)

    def test_pipelined_with_its_poll(self):
        """All on one connection, as clients that keep it alive do."""
        server, job = self.serve(**LONG), self.told("set")
        client = server.connect()
        body = f"server={SERVER}&documentSetId=set"
        client.send(request_bytes("POST", "/start_work", FORM, body) * 2)
        client.read_all()
        path = client.head.get("location")
        client.begin_response()
        client.read_all()
        self.assertEqual(client.head.get("location"), path)
        job.wait_started()
        job.succeed("in a row")
        self.poll(server, path, client=client).send(request_bytes("GET", path))
        for _ in range(2):
            while client.read_head().status == 303:
                self.redirected(client, path)
                self.poll(server, path, client=client)
            self.assertEqual(client.read_all(), b"in a row\n")
            client.begin_response()

    def test_wrong_requests(self):
        server = self.serve()
        head = self.assert_problem(server.ask("GET", "/start_work"), 405)
        self.assertEqual(head.get("allow"), "POST, OPTIONS")
        head, _ = server.ask("OPTIONS", "/start_work")
        self.assertEqual(head.status, 204)
        form = {"Content-Type": FORM["Content-Type"]}
        self.assert_problem(server.ask("POST", "/start_work", form, f"server={SERVER}&documentSetId=1"),
                            401)
        self.assert_problem(server.ask("POST", "/start_work", FORM, f"server={SERVER}"), 400,
                            "documentSetId")

    def test_ids_that_are_none(self):
        server = self.serve()
        path = self.done(server)
        for wrong in (UNKNOWN, path[:-1], path + "0", path.upper().replace("WORK", "work"), "/work/",
                      "/work", path + "/result", path + "/x", path + "/-1", path + "/1/2", "/work/x", path.replace("-", "%00")):
            for method in ("GET", "DELETE"):
                with self.subTest(method, path=wrong):
                    self.assert_problem(server.ask(method, wrong), 404)
            head, body = server.ask("HEAD", wrong)
            self.assertEqual((head.status, body), (404, b""))

    def test_methods(self):
        server = self.serve()
        path = self.done(server)
        for method in ("POST", "PUT", "PATCH"):
            head = self.assert_problem(server.ask(method, path, body="x=y"), 405)
            self.assertEqual(head.get("allow"), "GET, HEAD, DELETE, OPTIONS")
        head, body = server.ask("OPTIONS", path)
        self.assertEqual((head.status, body), (204, b""))
        self.assertEqual(server.ask("POST", path)[1], b"output of set\n", "curl -X POST -L")


# ---- holding -------------------------------------------------------------------------------------


class HoldTest(WorkTest):
    def test_until_the_job_ends(self):
        server, job = self.serve(**LONG), self.told("set")
        path = self.begin(server)
        job.wait_started()
        client = self.held(server, path)
        job.progress("0.5\tprogress is no reason to answer")
        self.assert_held(client)
        job.succeed("at last")
        self.assertEqual(client.read_all(), b"at last\n")
        self.assertEqual(client.head.status, 200)

    def test_until_the_job_begins(self):
        """What becomes of others in the queue is no reason to answer."""
        server = self.serve(workers=1, **LONG)
        first, second, third = (self.told(name) for name in ("first", "second", "third"))
        self.begin(server, "first")
        first.wait_started()
        path, path_of_last = self.begin(server, "second"), self.begin(server, "third")
        client, last = self.held(server, path), self.held(server, path_of_last)
        first.succeed()
        self.redirected(client, path)
        second.wait_started()
        self.assert_held(last)
        self.poll(server, path, client=client)
        second.succeed("second")
        self.assertEqual(client.read_all(), b"second\n")
        self.redirected(last, path_of_last)
        third.succeed()

    def test_until_the_hold_runs_out(self):
        server, job = self.serve(hold_ms=300), self.told("set")
        path = self.begin(server)
        job.wait_started()
        begin, client = time.monotonic(), server.connect()
        for i in range(1, 4):
            self.redirected(self.poll(server, path, client=client), path)
            self.assertGreaterEqual(time.monotonic() - begin, 0.29 * i)
        job.succeed()

    def test_without_a_hold(self):
        server, job = self.serve(hold_ms=0), self.told("set")
        path = self.begin(server)
        job.wait_started()
        self.redirected(self.poll(server, path), path)
        job.succeed()

    def test_head_is_not_held(self):
        server, job = self.serve(**LONG), self.told("set")
        path = self.begin(server)
        job.wait_started()
        head, body = server.ask("HEAD", path, {"Prefer": "wait=30"})
        self.assert_redirect(head, path, body)
        self.assertIsNone(head.get("preference-applied"))
        job.succeed()

    def test_all_ends(self):
        for tell, status, words in (("echo 'not so' >&2; exit 3", 500, ("Exited with code 3", "not so")),
                                    ("kill -9 $$", 500, ("killed by signal 9 (SIGKILL", "Exited with code -9")),
                                    ("exit 0", 500, ("invalid program",))):
            with self.subTest(tell):
                server, job = self.serve(**LONG), self.told("set")
                path = self.begin(server)
                job.wait_started()
                client = self.held(server, path)
                job.tell(tell)
                client.read_all()
                self.assert_problem((client.head, client.body), status, *words)
                self.assert_problem(server.ask("GET", path), status, *words)
                head, body = server.ask("HEAD", path)
                self.assertEqual((head.status, body), (status, b""))
                server.finish()
                (self.folder / "started").unlink()

    def test_a_long_error_comes_whole(self):
        server, job = self.serve(), self.told("set")
        path = self.begin(server)
        job.tell("awk 'BEGIN{for (i = 0; i < 3000; i++) print \"caf\\303\\251\", i}' >&2; exit 1")
        self.until_ended(server, path)
        problem = json.loads(server.ask("GET", path)[1])
        self.assertTrue(problem["detail"].endswith("café 2999\n"), problem["detail"][-100:])
        self.assertGreater(len(problem["detail"]), 20000)

    def test_many_of_one_job(self):
        server, job = self.serve(loops=3, **LONG), self.told("set")
        path = self.begin(server)
        job.wait_started()
        clients = [self.poll(server, path) for _ in range(200)]
        wait_for(lambda: self.polls_held(server) == 200, "200 held polls",
                 seen=lambda: self.polls_held(server))
        job.succeed("for all")
        for client in clients:
            self.assertEqual(client.read_all(), b"for all\n")
            client.close()
        self.assertEqual(self.polls_held(server), 0)

    def test_as_many_as_may(self):
        hold = LibraryTest.serve_with(self, max_streams=3)
        job = self.told("set")
        path = self.begin(hold)
        job.wait_started()
        clients = [self.poll(hold, path) for _ in range(3)]
        wait_for(lambda: self.polls_held(hold) == 3, "3 held polls")
        head = self.assert_problem(hold.ask("GET", path), 503)
        self.assertRegex(head.get("retry-after"), r"^\d+$")
        self.assertEqual(hold.ask("GET", path, {"Prefer": "wait=0"})[0].status, 303)
        job.succeed()
        for client in clients:
            self.assertEqual(client.read_all(), b"done\n")

    def test_clients_that_leave(self):
        for leave in (lambda c: c.close(), lambda c: c.reset(),
                      lambda c: c.sock.shutdown(socket.SHUT_WR)):
            server, job = self.serve(**LONG), self.told("set")
            path = self.begin(server)
            job.wait_started()
            stays = self.held(server, path)
            before = server.connections()
            clients = [self.held(server, path) for _ in range(3)]
            for client in clients:
                leave(client)
            wait_for(lambda: self.polls_held(server) == 1, "one poll left")
            wait_for(lambda: server.connections() <= before, "the connections closed")
            job.succeed("for who stays")
            self.assertEqual(stays.read_all(), b"for who stays\n")
            server.finish()
            (self.folder / "started").unlink()
            shutil.rmtree(server.storage)

    @plain_only
    def test_memory(self):
        """A held poll costs no more than a stream."""
        def cost(begin):
            server, job = self.serve(**LONG), self.told("set")
            path = self.begin(server)
            job.wait_started()
            for client in [begin(server, path) for _ in range(100)]:  # what grows only once
                client.close()
            wait_for(lambda: self.metric(server, 'workqueue_held_responses{face="poll"}') +
                     self.metric(server, 'workqueue_held_responses{face="stream"}') == 0, "none held")
            before = server.rss()
            clients = [begin(server, path) for _ in range(2000)]
            wait_for(lambda: self.metric(server, 'workqueue_held_responses{face="poll"}') +
                     self.metric(server, 'workqueue_held_responses{face="stream"}') == 2000, "2000 held")
            grown = server.rss() - before
            job.succeed()
            for client in clients:
                client.close()
            server.finish()
            shutil.rmtree(server.storage)
            (self.folder / "started").unlink()
            return grown / 2000

        stream = cost(lambda server, path: server.generate("set"))
        poll = cost(self.poll)
        self.assertLess(poll, 1.1 * stream)


class PreferTest(WorkTest):
    def test_how_it_is_said(self):
        server, job = self.serve(**LONG), self.told("set")
        path = self.begin(server)
        job.wait_started()
        for value in ("wait=0", "wait=00", "Wait=0", "WAIT = 0", 'wait="0"', "respond-async, wait=0",
                      "wait=0, respond-async", 'x="a, wait=7 \\", b", wait=0', "wait=0;foo=bar",
                      "wait=0 ; foo", ",, wait=0 ,", 'respond-async;x="y", handling=lenient, wait=0',
                      "wait=x, wait=0", "wait=0, wait=9"):
            with self.subTest(value):
                client = self.poll(server, path, {"Prefer": value})
                self.redirected(client, path)
                self.assertEqual(client.head.get("preference-applied"), "wait=0")
                client.close()
        client = server.connect()
        client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\nPrefer: respond-async\r\nPrefer: wait=0\r\n\r\n")
        self.redirected(client, path)
        job.succeed()

    def test_what_it_is_not(self):
        server, job = self.serve(hold_ms=1), self.told("set")
        path = self.begin(server)
        job.wait_started()
        for value in ("", "wait", "wait=", "wait=-1", "wait=1.5", "wait=5s", 'wait="5', "await=5",
                      "waiting=5", 'x="wait=5"', "x;wait=5", "respond-async", "wait 5", '"', "="):
            with self.subTest(value):
                client = self.poll(server, path, {"Prefer": value})
                self.redirected(client, path)
                self.assertIsNone(client.head.get("preference-applied"))
                client.close()
        job.succeed()

    def test_longer_than_usual(self):
        server, job = self.serve(hold_ms=1), self.told("set")
        path = self.begin(server)
        job.wait_started()
        clients = {asked: self.held(server, path, {"Prefer": f"wait={asked}"})
                   for asked in ("30", "60", "61", "100000", "99999999999999999999999")}
        job.succeed("worth it")
        for asked, client in clients.items():
            self.assertEqual(client.read_all(), b"worth it\n")
            self.assertEqual(client.head.get("preference-applied"), f"wait={min(int(asked), 55)}", "W9")

    def test_shorter_than_usual(self):
        server, job = self.serve(**LONG), self.told("set")
        path, begin = self.begin(server), time.monotonic()
        job.wait_started()
        client = self.poll(server, path, {"Prefer": "wait=1"})
        self.redirected(client, path)
        self.assertGreaterEqual(time.monotonic() - begin, 0.99)
        self.assertEqual(client.head.get("preference-applied"), "wait=1")
        job.succeed()


# ---- how often to ask ----------------------------------------------------------------------------


class RetryAfterTest(WorkTest):
    NOW = {"Prefer": "wait=0"}

    def retry_after(self, server, path):
        return self.redirected(self.poll(server, path, self.NOW), path)

    def obey(self, server, path):
        """Polls as told until the end; how often, and how long it was told to wait each time."""
        told = []
        while True:
            head, _ = server.ask("GET", path)
            if head.status != 303:
                return head, told
            told.append(int(head.get("retry-after")))
            time.sleep(told[-1])

    def test_it_shrinks_as_the_job_advances(self):
        server = self.serve(self.script(STEADY))
        path, stream = self.begin(server), server.generate("set")
        told = []
        for fraction in (0.2, 0.5, 0.8):
            stream.until(lambda r: r["fraction"] >= fraction, f"fraction {fraction}")
            told.append(self.retry_after(server, path))
        self.assertEqual(told, sorted(told, reverse=True))
        self.assertLess(told[-1], told[0])
        stream.last()
        self.assertEqual(server.ask("GET", path)[0].status, 200)

    def test_a_client_that_obeys_asks_seldom(self):
        server = self.serve(self.script(STEADY), hold_ms=100)
        head, told = self.obey(server, self.begin(server))
        self.assertEqual(head.status, 200)
        self.assertLess(len(told), 10, told)

    def test_also_when_nothing_is_told(self):
        """Each time it is told to wait longer: a number of polls by the logarithm of the time."""
        server = self.serve(self.script("sleep 8; echo done >\"$4\""), hold_ms=100)
        head, told = self.obey(server, self.begin(server))
        self.assertEqual(head.status, 200)
        self.assertLess(len(told), 8, told)

    def test_s8_early_progress_is_no_promise(self):
        """By its rate the job would take half an hour; it ends at once."""
        server, job = self.serve(), self.told("set")
        path, stream = self.begin(server), server.generate("set")
        job.progress("0.001")
        job.tell("sleep 2")
        job.progress("0.002")
        stream.until_fraction(0.002)
        self.assertLessEqual(self.retry_after(server, path), 5)
        job.succeed()
        stream.last()
        self.assertEqual(server.ask("GET", path)[0].status, 200)

    def test_those_that_were_before_tell(self):
        server, first, second = self.serve(), self.told("first"), self.told("second")
        begin, path = time.monotonic(), self.begin(server, "first")
        first.tell("sleep 3")
        first.succeed()
        self.until_ended(server, path)
        took = time.monotonic() - begin  # or less
        path = self.begin(server, "second")
        self.assertIn(self.retry_after(server, path), range(2, int(took) + 2))
        second.succeed()


# ---- other people's clients ----------------------------------------------------------------------


class CurlTest(WorkTest):
    def curl(self, server, *arguments, path="/start_work", form=True, folder=None):
        command = ["curl", "--silent", "--show-error", "--max-time", str(int(6 * DEADLINE))]
        if form:
            command += ["--user", f"{TOKEN}:x-auth-token", "--data", f"server={SERVER}",
                        "--data", "documentSetId=set"]
        done = subprocess.run([*command, *arguments, server.base + path], capture_output=True,
                              cwd=folder or self.folder, timeout=7 * DEADLINE)
        return done.returncode, done.stdout

    def test_location(self):
        """It ignores Retry-After and gives up after 50 redirects; two minutes at the usual hold of
        25 seconds take as many as 8 seconds at this one."""
        hold_ms, begin = 25000 * 8 // 120, time.monotonic()
        server = self.serve(self.script(STEADY), hold_ms=hold_ms)
        code, out = self.curl(server, "--location", "--write-out", "%{num_redirects}")
        self.assertEqual(code, 0, out)
        self.assertTrue(out.startswith(b"done\n"), out)
        took = time.monotonic() - begin
        self.assertLess(int(out.split(b"\n")[1]), 3 + took * 1000 / hold_ms)

    def test_failure(self):
        server = self.serve(self.script("exit 7"))
        code, out = self.curl(server, "--location")
        self.assertEqual((code, json.loads(out)["status"]), (0, 500))
        code, out = self.curl(server, "--location", "--fail")
        self.assertEqual((code, out), (22, b""))

    def test_parts(self):
        server, output = self.serve(), os.urandom(300000)
        path = self.done(server, output=output)

        def get(*arguments):
            return self.curl(server, *arguments, path=path, form=False)

        self.assertEqual(get("--range", "100-199999"), (0, output[100:200000]))
        code, out = get("--head")
        self.assertEqual(code, 0)
        self.assertIn(b"Content-Length: 300000\r\n", out)
        part = self.folder / "part"
        part.write_bytes(output[:123456])
        self.assertEqual(get("--continue-at", "-", "--output", str(part)), (0, b""))
        self.assertEqual(part.read_bytes(), output)
        self.assertEqual(get("--continue-at", "-", "--output", str(part))[0], 0)
        self.assertEqual(part.read_bytes(), output)
        tag = self.folder / "tag"
        self.assertEqual(get("--etag-save", str(tag))[1], output)
        self.assertEqual(get("--etag-compare", str(tag)), (0, b""))


@unittest.skipUnless(importlib.util.find_spec("urllib3"), "needs python3-urllib3")
class Urllib3Test(WorkTest):
    """It follows 303 with GET, and sleeps as Retry-After says before it does."""

    def test_retry_after(self):
        import urllib3
        server = self.serve(self.script("sleep 3; echo done >\"$4\""), hold_ms=500)
        retry = urllib3.Retry(redirect=20, respect_retry_after_header=True)
        with urllib3.connection_from_url(server.base) as pool:  # PoolManager does not sleep
            answer = pool.request("POST", "/start_work", retries=retry, fields={
                "server": SERVER, "documentSetId": "set", "apiToken": TOKEN})
        self.assertEqual((answer.status, answer.data), (200, b"done\n"))
        redirects = [(r.status, r.redirect_location) for r in answer.retries.history]
        self.assertEqual({status for status, _ in redirects}, {303})
        self.assertLess(len(redirects), 6)

    @unittest.skipUnless(importlib.util.find_spec("requests"), "needs python3-requests")
    def test_requests(self):
        import requests
        server, job = self.serve(), self.told("set")
        job.succeed("for requests")
        with requests.Session() as session:
            answer = session.post(server.base + "/start_work", auth=(TOKEN, "x-auth-token"),
                                  json={"server": SERVER, "documentSetId": "set"})
            self.assertEqual((answer.status_code, answer.content), (200, b"for requests\n"))
            again = session.get(answer.url, headers={"If-None-Match": answer.headers["ETag"]})
            self.assertEqual((again.status_code, again.content), (304, b""))


# ---- cancelling ----------------------------------------------------------------------------------


class DeleteTest(WorkTest):
    def delete(self, server, path):
        head, body = server.ask("DELETE", path)
        if head.status == 204:
            self.assertEqual(body, b"")
            self.assertIsNone(head.get("content-length"))
        return head, body

    def test_running(self):
        server, job = self.serve(**LONG), self.told("set")
        path = self.begin(server)
        job.wait_started()
        client, stream = self.held(server, path), server.generate("set")
        stream.record()  # it has joined: who comes during the cancelling gets another run
        self.assertEqual(self.delete(server, path)[0].status, 204)
        client.read_all()
        self.assert_problem((client.head, client.body), 410, "cancelled")
        self.assertEqual(stream.last()["error"], OWN + "cancelled")
        self.assert_problem(server.ask("GET", path), 410, "cancelled")
        self.assertEqual(self.delete(server, path)[0].status, 204)
        self.assertNotEqual(self.begin(server), path)  # it runs afresh

    def test_queued(self):
        server, job = self.serve(workers=1, **LONG), self.told("first")
        self.begin(server, "first")
        job.wait_started()
        path = self.begin(server, "second")
        client = self.held(server, path)
        for _ in range(2):
            self.assertEqual(self.delete(server, path)[0].status, 204)
        client.read_all()
        self.assert_problem((client.head, client.body), 410, "cancelled")
        job.succeed()
        self.assertEqual(self.told("second").runs(), [])

    def test_too_late(self):
        server, failing = self.serve(), self.told("failing")
        path = self.done(server)
        self.assert_problem(self.delete(server, path), 409, "succeeded")
        self.assertEqual(server.ask("GET", path)[1], b"output of set\n")
        path = self.begin(server, "failing")
        failing.tell("exit 1")
        self.until_ended(server, path)
        self.assert_problem(self.delete(server, path), 409, "failed")


# ---- events and messages -------------------------------------------------------------------------


class EventTest(WorkTest):
    EVENTS = {"Accept": "text/event-stream"}

    def last_of(self, client):
        last = None
        while (event := client.message()) is not None:
            last = json.loads(event["data"])
        return last

    def test_to_the_end(self):
        server, job = self.serve(), self.told("set")
        path = self.begin(server)
        client = server.request("GET", path, self.EVENTS)
        self.assertEqual(client.read_head().get("content-type"), "text/event-stream")
        job.progress("0.5")
        while json.loads(client.message()["data"])["fraction"] != 0.5:
            pass
        job.succeed()
        self.assertEqual(self.last_of(client)["returncode"], 0)
        again = server.request("GET", path, self.EVENTS)
        self.assertEqual(self.last_of(again)["returncode"], 0)

    def test_last_event_id(self):
        server, job, other = self.serve(), self.told("set"), self.told("other")
        path, path_of_other = self.begin(server), self.begin(server, "other")
        first = server.request("GET", path, self.EVENTS)
        job.progress("0.5\thalf")
        while json.loads((event := first.message())["data"])["message"] != "half":
            pass
        self.assertTrue(event["id"].startswith(path.rpartition("/")[2] + "."))
        resumed = server.request("GET", path, {**self.EVENTS, "Last-Event-ID": event["id"]})
        resumed.read_head()
        job.succeed()
        self.assertEqual(json.loads(resumed.message()["data"])["returncode"], 0)
        while (event := first.message()) is not None:
            last = event
        head, _ = server.ask("GET", path, {**self.EVENTS, "Last-Event-ID": last["id"]})
        self.assertEqual(head.status, 204)
        # that of another job says nothing of this one
        stranger = server.request("GET", path_of_other, {**self.EVENTS, "Last-Event-ID": last["id"]})
        self.assertEqual(json.loads(stranger.message()["data"])["returncode"], None)
        other.succeed()
        self.assertEqual(self.last_of(stranger)["returncode"], 0)

    def test_who_gets_them(self):
        server = self.serve(result_type="Application/JSON; charset=utf-8")
        path = self.done(server, output=b"{}")
        for accept, events in (("text/event-stream", True), ("*/*", False), ("text/*", True),
                               ("application/json, text/event-stream;q=0.5", False),
                               ("application/json;q=0.4, text/event-stream;q=0.5", True),
                               ("text/html", False), ("application/json, text/plain, */*", False)):
            with self.subTest(accept):
                head, body = server.ask("GET", path, {"Accept": accept})
                self.assertEqual(head.status, 200)
                self.assertEqual(head.get("content-type"), "text/event-stream" if events
                                 else "Application/JSON; charset=utf-8")
                self.assertEqual(body == b"{}", not events)
        self.assertEqual(server.ask("GET", path)[0].get("vary"), "Accept")

    def test_websocket(self):
        server, job = self.serve(), self.told("set")
        path = self.begin(server)
        client = WebSocket(server.address, path).opened()
        job.progress("0.5")
        client.until_fraction(0.5)
        job.succeed()
        self.assertEqual(client.records()[-1]["returncode"], 0)
        self.assertEqual(client.closed[0], 1000)


# ---- the output ----------------------------------------------------------------------------------


class ResultTest(WorkTest):
    """A small output and a large one go different ways, and nobody can tell."""

    SIZES = (1, 100, 16384, 16385, 65536, 65537, 1200000)

    def test_headers(self):
        server = self.serve(result_type="application/x-tar; x=y")
        for size in self.SIZES:
            with self.subTest(size):
                output = os.urandom(size)
                path = self.done(server, f"set{size}", output)
                head, body = self.dated(server, path)
                self.assertEqual((head.status, hashlib.sha256(body).digest()),
                                 (200, hashlib.sha256(output).digest()))
                for name, value in (("content-type", "application/x-tar; x=y"),
                                    ("content-length", str(size)), ("accept-ranges", "bytes"),
                                    ("cache-control", "private, no-cache"), ("x-workqueue", "hit"),
                                    ("x-content-type-options", "nosniff"), ("vary", "Accept"),
                                    ("access-control-allow-origin", "*")):
                    self.assertEqual(head.get(name), value, name)
                self.assertRegex(head.get("etag"), '^"[^"]+"$')
                self.assertRegex(head.get("age"), r"^\d+$")
                modified = self.dated(server, path)[0].get("last-modified")
                self.assertLess(abs(parsedate_to_datetime(modified).timestamp() - time.time()),
                                60 * SLOW)
                self.assertEqual(len({name for name, _ in head.headers}), len(head.headers), head.headers)

    def test_head(self):
        server = self.serve()
        for size in self.SIZES:
            path = self.done(server, f"set{size}", os.urandom(size))
            get, (head, body) = self.result(server, path)[0], self.result(server, path, method="HEAD")
            self.assertEqual((head.status, body), (200, b""))
            volatile = ("date", "age")
            self.assertEqual([h for h in head.headers if h[0] not in volatile],
                             [h for h in get.headers if h[0] not in volatile])

    def test_many_on_one_connection(self):
        server = self.serve()
        paths = [self.done(server, f"set{size}", bytes([65 + i]) * size)
                 for i, size in enumerate(self.SIZES)]
        client = server.connect()
        client.send(b"".join(request_bytes(method, path) for path in paths for method in ("GET", "HEAD")))
        for i, size in enumerate(self.SIZES):
            self.assertEqual(client.read_all(), bytes([65 + i]) * size)
            client.begin_response(head_only=True)
            client.read_all()
            client.begin_response()

    def test_ranges(self):
        server = self.serve()
        for size in (100, 200000):
            output = os.urandom(size)
            path = self.done(server, f"set{size}", output)
            for text, first, last in ((f"bytes=0-{size - 1}", 0, size), ("bytes=0-0", 0, 1),
                                      ("bytes=10-19", 10, 20), ("bytes=10-", 10, size),
                                      ("bytes=-10", size - 10, size), (f"bytes=-{size * 2}", 0, size),
                                      (f"bytes={size - 1}-", size - 1, size),
                                      (f"bytes=50-{size}", 50, size), ("Bytes=1-2", 1, 3),
                                      ("bytes=50-99999999999999999999999999", 50, size),
                                      ("bytes=-99999999999999999999999999", 0, size)):
                with self.subTest(text, size=size):
                    head, body = self.result(server, path, {"Range": text})
                    self.assertEqual((head.status, body), (206, output[first:last]))
                    self.assertEqual(head.get("content-range"), f"bytes {first}-{last - 1}/{size}")
                    self.assertEqual(head.get("content-length"), str(last - first))
            for text in (f"bytes={size}-", f"bytes={size}-{size}", "bytes=-0",
                         "bytes=99999999999999999999999999-"):
                with self.subTest(text, size=size):
                    answer = self.result(server, path, {"Range": text})
                    head = self.assert_problem(answer, 416, str(size))
                    self.assertEqual(head.get("content-range"), f"bytes */{size}")
            for text in ("bytes=0-1,5-6", "bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "bytes=1-2x",
                         "bytes", "lines=1-2", "bytes=1", "bytes= 1-2", "bytes=--1", "bytes=1-2-3", ""):
                with self.subTest(text, size=size):
                    head, body = self.result(server, path, {"Range": text})
                    self.assertEqual((head.status, body), (200, output))
                    self.assertIsNone(head.get("content-range"))
            head, body = self.result(server, path, {"Range": "bytes=1-2"}, "HEAD")
            self.assertEqual((head.status, head.get("content-length")), (200, str(size)))

    def test_not_modified(self):
        server = self.serve()
        path = self.done(server)
        head, _ = self.dated(server, path)
        tag, modified = head.get("etag"), head.get("last-modified")
        at = parsedate_to_datetime(modified).timestamp()
        before, later = (formatdate(at + s, usegmt=True) for s in (-1, 1))
        for fields, status in (({"If-None-Match": tag}, 304), ({"If-None-Match": "W/" + tag}, 304),
                               ({"If-None-Match": '"x", W/"y",' + tag}, 304), ({"If-None-Match": "foo*"}, 200),
                               ({"If-None-Match": f'"a,b" , {tag} , "z"'}, 304),
                               ({"If-None-Match": "*"}, 304), ({"If-None-Match": '"*"'}, 200),
                               ({"If-None-Match": '"x"'}, 200), ({"If-None-Match": ""}, 200),
                               ({"If-None-Match": tag.strip('"')}, 200),
                               ({"If-None-Match": tag[:-1]}, 200), ({"If-None-Match": "W/"}, 200),
                               ({"If-None-Match": '"x', }, 200), ({"If-Modified-Since": modified}, 304),
                               ({"If-Modified-Since": later}, 304), ({"If-Modified-Since": before}, 200),
                               ({"If-Modified-Since": "yesterday"}, 200),
                               ({"If-None-Match": '"x"', "If-Modified-Since": modified}, 200),
                               ({"If-None-Match": tag, "If-Modified-Since": before}, 304),
                               ({"If-None-Match": tag, "Range": "bytes=0-1"}, 304),
                               ({"If-Match": tag}, 200), ({"If-Match": "*"}, 200),
                               ({"If-Match": '"x"'}, 412), ({"If-Match": "W/" + tag}, 412),
                               ({"If-Unmodified-Since": modified}, 200),
                               ({"If-Unmodified-Since": before}, 412),
                               ({"If-Match": tag, "If-None-Match": tag}, 304)):
            for method in ("GET", "HEAD"):
                with self.subTest(method, **fields):
                    head, body = self.result(server, path, fields, method)
                    self.assertEqual(head.status, status)
                    self.assertEqual(head.get("etag"), tag)
                    if status == 304:
                        self.assertEqual((body, head.get("content-length")), (b"", None))
                        self.assertEqual(head.get("last-modified"), modified)
                    elif method == "GET" and status == 200:
                        self.assertEqual(body, b"output of set\n")

    def test_if_range(self):
        server = self.serve()
        path = self.done(server)
        head, _ = self.dated(server, path)
        for condition, status in ((head.get("etag"), 206), (head.get("last-modified"), 206),
                                  ('"x"', 200), ("W/" + head.get("etag"), 200), ("", 200),
                                  (formatdate(0, usegmt=True), 200)):
            with self.subTest(condition):
                fields = {"Range": "bytes=2-3", "If-Range": condition}
                self.assertEqual(self.result(server, path, fields)[0].status, status)

    def test_l_dates_within_a_second(self):
        """Two outputs of one second have one date, so there is none while the second goes on."""
        server = self.serve()
        for i in range(20):
            path = self.done(server, f"set{i}")
            head, _ = self.result(server, path)
            if (modified := head.get("last-modified")) is None:
                break
            self.assertNotEqual(modified, head.get("date"))
        date = {"If-Range": head.get("date"), "Range": "bytes=0-1"}
        self.assertIsNone(modified)
        self.assertEqual(self.result(server, path, date)[0].status, 200)

    def test_another_version(self):
        """What has been built again has another tag, and is not mixed with what was."""
        server = self.serve()
        path = self.done(server, output=b"a" * 50)
        tag = self.result(server, path)[0].get("etag")
        job = self.told("set")
        again = self.begin(server, more="&rebuild=1")
        job.tell("printf '%050d' 7 >\"$out\"; exit 0")
        self.until_ended(server, again)
        head, body = self.result(server, again, {"Range": "bytes=48-49", "If-Range": tag})
        self.assertEqual((head.status, body), (200, b"0" * 49 + b"7"))
        self.assertEqual(self.result(server, again, {"If-None-Match": tag})[0].status, 200)

    def test_a_deleted_output(self):
        server = self.serve()
        path = self.done(server)
        for name in server.stored():
            if not name.startswith("."):
                (server.storage / name).unlink()
        self.assert_problem(server.ask("GET", path), 410, "deleted")
        head, body = server.ask("HEAD", path)
        self.assertEqual((head.status, body), (410, b""))

    def test_ids_show_their_own_jobs(self):
        server = self.serve()
        paths = {name: self.done(server, name) for name in ("one", "two", "three")}
        for name, path in paths.items():
            self.assertEqual(self.result(server, path)[1], f"output of {name}\n".encode())


# ---- large outputs -------------------------------------------------------------------------------


class LargeTest(WorkTest):
    def stored_output(self, server):
        name, = (name for name in server.stored() if not name.startswith("."))
        return server.storage / name

    def large(self, server, size="64M", document_set="set"):
        """A job whose output is that large; its path."""
        job = self.told(document_set)
        path = self.begin(server, document_set)
        job.tell(f"truncate -s {size} \"$out\"; exit 0")
        self.until_ended(server, path)
        return path

    def begin_reading(self, server, path, room=4096):
        """A client with little room that has read the head, and nothing of the body to speak of."""
        client = self.poll(server, path, client=server.connect(receive_buffer=room))
        self.assertEqual(client.read_head().status, 200)
        return client

    @plain_only
    def test_four_gibibytes(self):
        server, size = self.serve(), 4 << 30
        job = self.told("set")
        path = self.begin(server)
        job.tell(f"truncate -s {size} \"$out\"; printf end >>\"$out\"; exit 0")
        self.until_ended(server, path)
        self.assertEqual(self.result(server, path, {"Range": "bytes=-5"})[1], b"\0\0end")
        self.assertEqual(self.result(server, path, {"Range": f"bytes={size - 1}-"})[1], b"\0end")
        before, most = server.rss(), 0
        client = self.poll(server, path)
        self.assertEqual(client.read_head().get("content-length"), str(size + 3))
        left, buffer = size + 3 - len(client.held), bytearray(1 << 20)
        while left > 0:
            n = client.sock.recv_into(buffer)
            self.assertGreater(n, 0)
            left -= n
            most = max(most, server.rss())
        self.assertEqual((left, bytes(buffer[n - 3:n])), (0, b"end"))
        self.assertLess(most - before, 4 << 20)

    def test_others_are_answered_meanwhile(self):
        server = self.serve(loops=1)
        path = self.large(server, "1G")
        readers = [self.poll(server, path) for _ in range(3)]
        for reader in readers:
            reader.read_head()
        for _ in range(20):
            self.assertEqual(server.ask("GET", "/health")[0].status, 200)
            for reader in readers:
                reader.sock.recv(1 << 20)
        for reader in readers:
            reader.close()

    def test_clients_that_leave(self):
        for leave in (lambda c: c.close(), lambda c: c.reset()):
            server = self.serve()
            path = self.large(server)
            files = server.files()
            clients = [self.begin_reading(server, path) for _ in range(20)]
            self.assertEqual(self.metric(server, 'workqueue_held_responses{face="result"}'), 20)
            for client in clients:
                leave(client)
            wait_for(lambda: server.files() <= files, "files and connections closed", seen=server.files)
            wait_for(lambda: self.metric(server, 'workqueue_held_responses{face="result"}') == 0,
                     "none held")
            server.finish()
            (self.folder / "started").unlink()
            shutil.rmtree(server.storage)

    def test_a_client_that_closes_its_side_reads_on(self):
        server = self.serve()
        client = self.begin_reading(server, self.large(server, "32M"), 1 << 18)
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(len(client.read_all(3 * DEADLINE)), 32 << 20)

    def test_a_client_that_takes_nothing_is_dropped(self):
        server = LibraryTest.serve_with(self, stall_timeout_ms=300, loops=1)
        path = self.large(server)
        files = server.files()
        idle = [self.begin_reading(server, path) for _ in range(5)]
        # `files` may count a connection of large() that was about to be closed
        wait_for(lambda: self.metric(server, "workqueue_clients_stalled_total") >= 5,
                 "those that read nothing dropped", seen=server.files)
        wait_for(lambda: server.files() <= files, "all closed", seen=server.files)
        self.assertEqual(self.metric(server, "workqueue_clients_stalled_total"), 5)
        del idle

    def test_a_slow_client_is_not(self):
        """It takes much longer for what is on its way than a client may do nothing."""
        server = LibraryTest.serve_with(self, stall_timeout_ms=1500, loops=1)
        client = self.begin_reading(server, self.large(server))
        end, read = time.monotonic() + 4, 0
        while time.monotonic() < end:
            read += len(client.sock.recv(4096))
            time.sleep(0.05)  # as slow as that
        self.assertLess(read, 1 << 20)
        self.assertEqual(self.metric(server, "workqueue_clients_stalled_total"), 0)
        client.close()

    def test_a_file_that_gets_shorter(self):
        """The end comes early, so that the client knows that it has not all."""
        server = self.serve()
        client = self.begin_reading(server, self.large(server))
        os.truncate(self.stored_output(server), 100)
        with self.assertRaisesRegex(AssertionError, "in the middle"):
            client.read_all(3 * DEADLINE)
        self.assertEqual(server.ask("GET", "/health")[0].status, 200)

    def test_an_output_that_is_deleted_meanwhile(self):
        server = self.serve()
        path = self.large(server, "8M")
        client = self.begin_reading(server, path)
        self.stored_output(server).unlink()
        self.assert_problem(server.ask("GET", path), 410)
        self.assertEqual(len(client.read_all(3 * DEADLINE)), 8 << 20)

    def test_as_many_as_may(self):
        server = LibraryTest.serve_with(self, max_streams=1)
        path = self.large(server)
        client = self.begin_reading(server, path)
        head = self.assert_problem(server.ask("GET", path), 503)
        self.assertIsNone(head.get("etag"))
        self.assertEqual(server.ask("HEAD", path)[0].status, 200)
        client.close()


# ---- the end of the server -----------------------------------------------------------------------


class StopTest(WorkTest):
    def test_held_polls_are_told(self):
        server, job = self.serve(workers=1, loops=2, **LONG), self.told("running")
        running, queued = self.begin(server, "running"), self.begin(server, "queued")
        job.wait_started()
        clients = [self.held(server, path) for path in (running, queued)]
        server.terminate()
        for client, path in zip(clients, (running, queued)):
            self.assertEqual(self.redirected(client, path), 2, "W2: they go on after the restart")
            self.assertEqual(client.read_raw(), b"")
        self.assertEqual(server.wait(), 0)

    def test_w2_without_a_journal_they_are_lost(self):
        server, job = LibraryTest.serve_with(self, workers=1, **LONG), self.told("running")
        running, queued = self.begin(server, "running"), self.begin(server, "queued")
        job.wait_started()
        clients = [self.held(server, path) for path in (running, queued)]
        server.terminate()
        for client in clients:
            client.read_all()
            self.assert_problem((client.head, client.body), 410, "cancelled: the queue is stopping")

    def test_faces_that_stop_alone(self):
        """The job goes on, but these faces do not tell of it any more."""
        server = LibraryTest.serve_with(self, own_host=1)
        job = self.told("set")
        path = self.begin(server)
        job.wait_started()
        client = self.held(server, path)
        server.terminate()
        self.assertEqual(self.redirected(client, path), 2)
        self.assertEqual(client.read_raw(), b"")
        job.succeed()

    def test_an_output_on_its_way_arrives(self):
        server = self.serve(loops=2)
        path = LargeTest.large(self, server, "16M")
        client = LargeTest.begin_reading(self, server, path, 1 << 18)
        server.terminate()
        self.assertEqual(len(client.read_all()), 16 << 20)
        self.assertEqual(client.read_raw(), b"")
        self.assertEqual(server.wait(), 0)


class CrowdTest(WorkTest):
    def test_all_kinds_at_once(self):
        """Polls, events, outputs and cancels of many jobs on several loops."""
        server = self.serve(loops=3, workers=4, hold_ms=100)
        jobs = {name: self.told(name) for name in (f"set{i}" for i in range(12))}
        paths = {name: self.begin(server, name) for name in jobs}
        polls = [(name, self.poll(server, paths[name])) for name in jobs for _ in range(10)]
        events = [server.request("GET", path, EventTest.EVENTS) for path in paths.values()]
        for i, (name, job) in enumerate(jobs.items()):
            if i % 3 == 0:
                self.assertIn(server.ask("DELETE", paths[name])[0].status, (204,))
            else:
                job.tell(f"echo 0.5; head -c {i * 10000} /dev/zero >\"$out\"; exit 0")
        for i, (name, client) in enumerate(polls):
            client.read_all()
            while client.head.status == 303:
                self.redirected(client, paths[name])
                self.poll(server, paths[name], client=client)
                client.read_all()
            n = int(name[3:])
            self.assertEqual(client.head.status, 410 if n % 3 == 0 else 200)
            if n % 3 != 0:
                self.assertEqual(len(client.body), n * 10000)
        for client in events:
            self.assertIsNotNone(EventTest.last_of(self, client)["returncode"])
