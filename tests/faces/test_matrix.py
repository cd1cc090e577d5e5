"""test_matrix.py - clients in use, each doing what its users do, through a job that succeeds, one that
fails, one whose output is there, a restart in good order and a kill in the middle.

Polling clients post to /start_work and follow where they are sent (S9). Who is cut off by a restart
asks again with the same request, as its user would, and is never told an end that was none (W2).
"""

import http.client
import importlib.util
import json
import subprocess
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from harness import DEADLINE, SERVER, TOKEN, FaceTest, free_port, wait_for
from node import CLIENTS

FORM = {"server": SERVER, "documentSetId": "set", "apiToken": TOKEN}
TYPE = {"Content-Type": "application/x-www-form-urlencoded"}
HOLD_MS = 200
CUT_OFF = (OSError, http.client.HTTPException)  # a connection that ended, or was refused


class CutOff(Exception):
    """The client was cut off, and said so."""


def body_of():
    return urllib.parse.urlencode(FORM)


# ---- clients that follow redirects: (status, body) -----------------------------------------------


def with_urllib(base, limit=None):
    class Redirects(urllib.request.HTTPRedirectHandler):
        pass
    if limit:
        Redirects.max_redirections = limit
    opener = urllib.request.build_opener(Redirects)
    try:
        with opener.open(base + "/start_work", body_of().encode(), 6 * DEADLINE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def with_requests(base):
    import requests
    try:
        answer = requests.post(base + "/start_work", data=FORM, timeout=6 * DEADLINE)
    except requests.ConnectionError as error:
        raise CutOff from error
    return answer.status_code, answer.content


def with_httpx(base):
    import httpx
    try:
        answer = httpx.post(base + "/start_work", data=FORM, follow_redirects=True,
                            timeout=6 * DEADLINE)
    except httpx.TransportError as error:
        raise CutOff from error
    return answer.status_code, answer.content


def with_urllib3(base):
    import urllib3
    try:
        answer = urllib3.PoolManager(retries=urllib3.Retry(redirect=20)).request_encode_body(
            "POST", base + "/start_work", fields=FORM)
    except urllib3.exceptions.HTTPError as error:
        raise CutOff from error
    return answer.status, answer.data


def with_aiohttp(base):
    import asyncio

    import aiohttp

    async def ask():
        async with aiohttp.ClientSession() as session, \
                session.post(base + "/start_work", data=FORM) as answer:
            return answer.status, await answer.read()
    try:
        return asyncio.run(ask())
    except aiohttp.ClientConnectionError as error:
        raise CutOff from error


def with_command(*command):
    """Its output, with the status at its end."""
    done = subprocess.run(command, capture_output=True, timeout=8 * DEADLINE)
    return done.returncode, done.stdout, done.stderr


def with_curl(base):
    code, out, _ = with_command("curl", "--silent", "--location", "--data", body_of(), "--write-out",
                                "\n%{http_code}", base + "/start_work")
    if code != 0:
        raise CutOff(code)
    body, _, status = out.rpartition(b"\n")
    return int(status), body


def with_wget(base):
    code, out, said = with_command("wget", "--tries=1", "--content-on-error", "-O", "-",
                                   "--post-data", body_of(), base + "/start_work")
    statuses = [int(word) for word in said.decode().replace("... ", "...").split("response...")[1:]
                for word in word.split()[:1] if word.isdigit()]
    if code == 4 or not statuses or statuses[-1] == 303:
        raise CutOff(said)
    return statuses[-1], out


def with_go(base):
    """The rule of Go's net/http: it stops after ten requests in a row."""
    url, method, data = base + "/start_work", "POST", body_of()
    for _ in range(10):
        status, headers, body = one_request(url, method, data)
        if status != 303:
            return status, body
        url, method, data = urllib.parse.urljoin(url, headers["Location"]), "GET", None
    raise AssertionError("stopped after 10 redirects")


def one_request(url, method="GET", data=None, headers=None):
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=6 * DEADLINE)
    try:
        connection.request(method, parts.path, data, headers or (TYPE if data else {}))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def with_seed_001(base):
    """Its client's rules: on 303 the Location becomes the path of the URL, with the same headers, after
    Retry-After; a 303 without one is the answer. So is a 503's Retry-After obeyed."""
    url, method, data = base + "/start_work", "POST", body_of()
    while True:
        status, headers, body = one_request(url, method, data, TYPE)
        if status not in (303, 503) or headers["Retry-After"] is None:
            return status, body
        time.sleep(int(headers["Retry-After"]))
        if status == 303:
            url = urllib.parse.urlsplit(url)._replace(path=headers["Location"]).geturl()
            method, data = "GET", None


PYTHON = {"requests": with_requests, "httpx": with_httpx, "urllib3": with_urllib3,
          "aiohttp": with_aiohttp}
POLLING = {"urllib": with_urllib, "curl": with_curl, "wget": with_wget, "Go's rule": with_go,
           "seed 001's rule": with_seed_001,
           **{name: f for name, f in PYTHON.items() if importlib.util.find_spec(name)}}
NODE_POLLING = ["got", "axios", "undici", "fetch", "undici-request"]
NODE_EVENTS = ["oboe", "eventsource", "event-source-polyfill", "fetch-event-source",
               "reconnecting-websocket"]
HAS_NODE = (CLIENTS / "node_modules" / "reconnecting-websocket").exists()


def in_node(name, base):
    done = subprocess.run(["node", "matrix.mjs", name, base, FORM["documentSetId"], TOKEN],
                          cwd=CLIENTS, capture_output=True, timeout=8 * DEADLINE)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def polling_in_node(name):
    def ask(base):
        told = in_node(name, base)
        if "thrown" in told:
            raise CutOff(told)
        return told["status"], told["body"].encode()
    return ask


def all_polling():
    return {**POLLING, **({name: polling_in_node(name) for name in NODE_POLLING} if HAS_NODE else {})}


class MatrixTest(FaceTest):
    def start(self, program, **options):
        return self.serve(program, hold_ms=HOLD_MS, grace_ms=300, **options)

    def each(self, program, check, clients=None):
        """A server of its own each, so that each has a job of its own."""
        for name, ask in (clients or all_polling()).items():
            with self.subTest(name):
                storage = self.folder / f"storage-{name.replace(' ', '-')}"
                server = self.start(program, storage=storage)
                check(ask(server.base))
                server.finish()


class PollingTest(MatrixTest):
    def test_a_job_that_succeeds(self):
        """It runs for longer than the first holds, and no client gives up."""
        self.each(self.script("sleep 2; echo done >\"$4\""),
                  lambda told: self.assertEqual(told, (200, b"done\n")))

    def test_a_job_that_fails(self):
        def check(told):
            self.assertEqual(told[0], 500)
            self.assertIn(b"bad luck", told[1])
        self.each(self.script("echo bad luck >&2; exit 3"), check)

    def test_an_output_that_is_there(self):
        server = self.start(self.script("echo done >\"$4\""))
        self.assertEqual(with_seed_001(server.base), (200, b"done\n"))
        for name, ask in all_polling().items():
            with self.subTest(name):
                self.assertEqual(ask(server.base), (200, b"done\n"))

    def test_post_all_along(self):
        """curl -X POST -L asks with POST all along."""
        server = self.start(self.script("sleep 1; echo done >\"$4\""))
        code, out, said = with_command("curl", "-s", "-X", "POST", "-L", "--data", body_of(),
                                       server.base + "/start_work")
        self.assertEqual((code, out), (0, b"done\n"), said)


class EventsTest(MatrixTest):
    def check_record(self, name, server, returncode):
        told = in_node(name, server.base)
        if returncode == 0 and told.get("record") is None:
            return
        self.assertEqual(told["record"]["returncode"], returncode, told)

    @unittest.skipUnless(HAS_NODE, "needs npm ci in tests/clients")
    def test_ends(self):
        for returncode, text in ((0, "sleep 0.5; echo 0.5; sleep 0.5; echo done >\"$4\""),
                                 (3, "sleep 0.5; exit 3")):
            for name in NODE_EVENTS:
                with self.subTest(name, returncode=returncode):
                    server = self.start(self.script(text), storage=self.folder / f"{name}{returncode}")
                    self.check_record(name, server, returncode)
                    server.finish()

    @unittest.skipUnless(HAS_NODE, "needs npm ci in tests/clients")
    def test_an_output_that_is_there(self):
        server = self.start(self.script("echo done >\"$4\""))
        with_curl(server.base)
        for name in NODE_EVENTS:
            with self.subTest(name):
                self.assertIsNone(in_node(name, server.base)["record"])


class RestartTest(MatrixTest):
    """The job goes on after the restart, under the same id: whoever asks again gets its output."""

    def through_a_restart(self, ask, end):
        port = free_port()
        listen = f"127.0.0.1:{port}"
        program = self.script("if mkdir \"$0.once\" 2>/dev/null; then exec sleep 60; fi\n"
                              "sleep 1; echo done >\"$4\"")
        storage = self.folder / f"storage-{port}"
        once = self.folder / "program.once"
        server = self.start(program, storage=storage, listen=listen)
        told = []

        def run():
            deadline = time.monotonic() + 4 * DEADLINE
            while time.monotonic() < deadline:
                try:
                    answer = ask(server.base)
                except (*CUT_OFF, CutOff):
                    time.sleep(0.2)
                    continue
                if answer[0] == 503:
                    time.sleep(0.2)
                    continue
                told.append(answer)
                return
        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        wait_for(once.exists, "the first run")
        end(server)
        again = self.start(program, storage=storage, listen=listen)
        wait_for(lambda: told or not thread.is_alive(), "the client's end", 5 * DEADLINE)
        self.assertEqual(told, [(200, b"done\n")])
        again.finish()
        once.rmdir()

    def stop(self, server):
        server.terminate()
        server.wait()

    def test_w2_in_good_order(self):
        for name, ask in all_polling().items():
            with self.subTest(name):
                self.through_a_restart(ask, self.stop)

    def test_killed(self):
        for name, ask in all_polling().items():
            with self.subTest(name):
                self.through_a_restart(ask, lambda server: server.kill())
