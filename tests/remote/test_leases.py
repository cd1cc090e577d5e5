"""test_leases.py - one run a key, on a real broker and real stores: the cases A to J that the claims of
before failed at, by their letter, and stores that are not what they should be."""

import http.client
import http.server
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
import unittest
import urllib.request
import uuid

import services
from services import free_ports
from harness import is_running, wait_for
from machines import Proxy
from test_packager import PACKAGER, PASSWORD, SECONDS, SECRET, PackagerTest

BUCKET = "leases"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Middle:
    """What a packager sees of a store, request by request: `change(method, path, status)` may give
    another status for what has been done already."""

    def __init__(self, test, port, change):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                link.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "expect":
                        link.putheader(name, value)
                link.endheaders(body)
                answer = link.getresponse()
                got, status = answer.read(), answer.status
                other = change(self.command, self.path, status)
                self.send_response(other or status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection",
                                            "date", "server"):
                        self.send_header(name, value)
                if self.command == "HEAD":
                    self.send_header("Content-Length", answer.getheader("Content-Length") or "0")
                else:
                    got = b"" if other else got
                    self.send_header("Content-Length", str(len(got)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(got)
                link.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        test.addCleanup(self.server.server_close)
        test.addCleanup(self.server.shutdown)


class LeaseTest(PackagerTest):
    """Packagers, each with its own way to the broker and to the store."""

    def setUp(self):
        super().setUp()
        self.ceph = services.service("ceph")
        self.s3("PUT", "")

    def s3(self, method, path):
        """By curl, which can sign."""
        done = subprocess.run(
            ["curl", "-sS", "-K", "-", "-X", method, "--retry", "5", "--retry-connrefused",
             "--aws-sigv4", "aws:amz:us-east-1:s3", "-H", f"x-amz-content-sha256: {EMPTY}", "--data-binary", "",
             f"http://127.0.0.1:{self.ceph.port}/{BUCKET}{path}"],
            check=True, capture_output=True, input=f"user = DOCSETSKEY:{SECRET}".encode())
        return done.stdout.decode()

    def output(self, key):
        return self.s3("GET", f"/{self.tag}/{key}")

    def key_of(self, job):
        return re.search(r"/([0-9a-f]{64})\n", job.wait("Complete").body)[1]

    def cancel(self, id):
        self.s3("PUT", f"/{self.tag}/.cancel/{id}")

    def far_packager(self, store_port=None, secret=SECRET, **options):
        options = {"broker_heartbeat_ms": 1000, **options}
        broker = Proxy(self.broker.port)
        self.addCleanup(broker.close)
        url = self.url
        self.url = f"stomp://docsets:{PASSWORD}@127.0.0.1:{broker.port}"
        packager = self.packager(
            store=f"s3://{BUCKET}/{self.tag}", environment={
                "AWS_ACCESS_KEY_ID": "DOCSETSKEY", "AWS_SECRET_ACCESS_KEY": secret},
            s3_endpoint=f"http://127.0.0.1:{store_port or self.ceph.port}", **options)
        self.url = url
        packager.broker = broker
        return packager

    def freeze(self, packager, *pids):
        for pid in (packager.pid, *pids):
            os.kill(pid, signal.SIGSTOP)
            self.addCleanup(self.thaw, pid)

    @staticmethod
    def thaw(pid):
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def owner(self, packagers, pid):
        with open(f"/proc/{pid}/stat") as stat:
            parent = int(stat.read().rpartition(")")[2].split()[1])
        return next(p for p in packagers if p.pid == parent)

    # -- by letter -------------------------------------------------------------------------------

    def test_a_a_slow_link_of_the_owner_to_the_broker(self):
        packagers = [self.far_packager(workers=1) for _ in range(2)]
        for packager in packagers:
            packager.broker.bytes_per_s = 4000  # 50 ms and more for each frame
        for i in range(3):
            told = self.told(f"a{i}")
            jobs = [self.ask(f"a{i}") for _ in range(2)]
            self.wait_started(1, f"a{i}")
            for job in jobs:
                job.wait("Accepted")
            told.succeed()
            for job in jobs:
                job.wait("Complete")
            self.assertEqual(len(self.started(f"a{i}")), 1)

    def test_b_and_c_the_owner_is_away_from_the_broker_for_a_while(self):
        packagers = [self.far_packager(workers=1) for _ in range(2)]
        told, job = self.told("1"), self.ask("1")
        owner = self.owner(packagers, self.wait_started(1))
        owner.broker.refuses = True
        owner.broker.cut()
        time.sleep(3)  # the broker delivers it to the other
        self.assertEqual(len(self.started("1")), 1)
        owner.broker.heal()
        told.tell("echo bad luck >&2", "exit 3")
        failed = job.wait("Failed").body
        self.assertIn("bad luck", failed)
        self.barrier()
        self.assertEqual(set(job.ends()), {failed})
        self.assertEqual(len(self.started("1")), 1)

    def test_d_a_rebuild_that_was_frozen_replaces_nothing_later(self):
        packagers = [self.far_packager(workers=1, grace_ms=300) for _ in range(2)]
        first = self.ask("1")
        key = self.key_of(first)
        told, job = self.told("1"), self.ask("1", rebuild=True)
        frozen = self.wait_started(2)
        owner = self.owner(packagers, frozen)
        self.freeze(owner, frozen)
        self.wait_started(3)  # taken over, after a while
        told.succeed("v3")
        job.wait("Complete")
        self.assertEqual(self.output(key), "v3\n")
        told.succeed("v2")  # to whom is frozen
        self.thaw(frozen)
        wait_for(lambda: not is_running(frozen), "the program's end", SECONDS)
        self.thaw(owner.pid)
        self.barrier(2)
        self.assertEqual(self.output(key), "v3\n")
        self.assertEqual(len(job.ends()), 1)

    def test_e_the_owner_is_killed_and_both_who_ask_hear_the_end(self):
        packagers = [self.far_packager(workers=1) for _ in range(2)]
        told = self.told("1")
        jobs = [self.ask("1") for _ in range(2)]
        for job in jobs:
            job.wait("Accepted")
        pid = self.wait_started(1)
        self.owner(packagers, pid).kill()
        wait_for(lambda: not is_running(pid), "the program's end", SECONDS)
        self.wait_started(2)
        told.succeed()
        for job in jobs:
            job.wait("Complete")

    def test_g_a_cancel_while_the_owner_is_away_from_the_broker(self):
        packager = self.far_packager(grace_ms=300)
        told, job = self.told("1"), self.ask("1")
        pid = self.wait_started(1)
        packager.broker.refuses = True
        packager.broker.cut()
        self.cancel(job.id)
        wait_for(lambda: not is_running(pid), "the program's end", SECONDS)
        packager.broker.heal()
        job.wait("Cancelled")
        self.barrier()
        self.assertEqual(job.ends()[0], "Cancelled\n")
        self.assertEqual(len(self.started("1")), 1)
        told.close()
        self._cleanups = [c for c in self._cleanups if c[0] != told.close]

    def test_h_what_was_answered_comes_again_to_another(self):
        one = self.far_packager(workers=1)
        self.told("1").tell("exit 4")
        job = self.ask("1")
        failed = job.wait("Failed").body
        one.terminate()
        self.far_packager(workers=1)
        self.send_job(job.id, "1")
        self.assertEqual(job.wait("Failed", 2).body, failed)
        self.assertEqual(len(self.started("1")), 1)

    def test_i_a_job_that_kills_its_packager_ends(self):
        told = self.told("1")
        packagers = [self.far_packager(workers=1, max_attempts=2) for _ in range(3)]
        job = self.ask("1")
        for n in (1, 2):
            pid = self.wait_started(n)
            self.owner(packagers, pid).kill()
            wait_for(lambda: not is_running(pid), "the program's end", SECONDS)
        self.assertIn("given up: 2 packagers", job.wait("Failed").body)
        self.assertEqual(len(self.started("1")), 2)
        told.close()
        self._cleanups = [c for c in self._cleanups if c[0] != told.close]

    def test_j_a_large_output_is_one_conditional_put_where_parts_ignore_conditions(self):
        packager = self.far_packager()
        packager.wait_log("uploads in parts do not: not used")
        told, job = self.told("1"), self.ask("1")
        told.tell('truncate -s 70M "$out"', "exit 0")
        self.assertIn(f"Size: {70 << 20}", job.wait("Complete").body)

    # -- what else may happen --------------------------------------------------------------------

    def record(self, key):
        return json.loads(self.s3("GET", f"/{self.tag}/.run/{key}").splitlines()[0])

    def test_frozen_after_each_step_for_longer_than_a_takeover(self):
        """SIGSTOP after each answer of the store, until another packager has ended the job: then what
        was frozen changes nothing any more."""
        def run_frozen(after):
            """Whether it was frozen at all, as there were so many requests."""
            name, seen, frozen = f"step{after}", [], threading.Event()

            def change(method, path, status):
                if ".probe" not in path and len(seen) <= after:
                    seen.append(path)
                    if len(seen) == after + 1:
                        os.kill(first.pid, signal.SIGSTOP)
                        frozen.set()

            first = self.far_packager(store_port=Middle(self, self.ceph.port, change).port, workers=1)
            self.addCleanup(self.thaw, first.pid)
            job = self.ask(name)
            wait_for(lambda: frozen.is_set() or job.ends(), "a step or the end", SECONDS)
            if not frozen.is_set():
                return False
            second = self.far_packager(workers=1)
            key = self.key_of(job)
            before, output = self.record(key), self.output(key)  # or it was published by the first
            self.thaw(first.pid)
            wait_for(lambda: self.record(key)["state"] == "done", "its end in the record", SECONDS)
            first.terminate()
            first.process.wait(SECONDS)
            after_all = self.record(key)
            self.assertEqual(self.output(key), output)
            self.assertEqual([after_all["epoch"], after_all["state"]], [before["epoch"], "done"])
            self.assertLessEqual(len(self.started(name)), 2)
            # by two addresses of the store, if both have told it
            self.assertEqual(len({re.sub(r"//[^/]+/", "//store/", end) for end in job.ends()}), 1, job.ends())
            second.terminate()
            second.process.wait(SECONDS)
            return True

        steps = 0
        while run_frozen(steps):
            steps += 1
        self.assertGreaterEqual(steps, 6)

    def test_strict_ends_the_program_before_another_may_begin(self):
        cut = Proxy(self.ceph.port)
        self.addCleanup(cut.close)
        told = self.told("1")
        self.far_packager(store_port=cut.port, strict=True, workers=1, takeover_ms=4000)
        job = self.ask("1")
        pid = self.wait_started(1)
        self.far_packager(workers=1, takeover_ms=4000)
        cut.refuses = True
        cut.cut()
        self.ask("1")  # who asks has the other one look at the record
        wait_for(lambda: not is_running(pid) or len(self.started("1")) > 1, "the program's end", SECONDS)
        self.assertEqual(len(self.started("1")), 1)
        self.assertFalse(is_running(pid))
        self.wait_started(2)
        cut.heal()
        told.succeed()
        job.wait("Complete")
        self.assertEqual(len(self.started("1")), 2)

    def test_a_cancel_of_what_waits_by_the_store_alone(self):
        """No hint comes: the request is found to be cancelled when it comes back."""
        self.far_packager(workers=2)
        told, job = self.told("1"), self.ask("1")
        self.wait_started(1)
        waits = self.ask("1", rebuild=True)
        waits.wait("Accepted")
        self.cancel(waits.id)
        waits.wait("Cancelled")
        told.succeed()
        job.wait("Complete")
        self.barrier()
        self.assertEqual([len(job.ends()), set(waits.ends())], [1, {"Cancelled\n"}])
        self.assertEqual(len(self.started("1")), 1)

    def test_deletions_against_publishing(self):
        self.far_packager(workers=2)
        chance = random.Random(11)
        for _ in range(10):
            job = self.ask("1", rebuild=True)
            time.sleep(chance.random() * 0.1)
            self.answers.send(self.delete, self.text(uuid.uuid4().hex, "1"))
            job.wait("Complete")
        job = self.ask("1")
        self.assertTrue(self.output(self.key_of(job)))
        self.assertEqual(len(job.ends()), 1)

    # -- stores that are not as they should be ---------------------------------------------------

    def test_answers_that_get_lost_after_the_put_was_done(self):
        chance, lied = random.Random(7), []

        def change(method, path, status):
            if method == "PUT" and ".probe" not in path and status == 200 and chance.random() < 0.4:
                lied.append(path)
                return 500
            return None

        middle = Middle(self, self.ceph.port, change)
        self.far_packager(store_port=middle.port)
        jobs = [self.ask(f"lost{i}") for i in range(8)]
        for job in jobs:
            job.wait("Complete")
        self.assertEqual(len(self.started()), 8)
        self.assertGreater(len(lied), 3)

    def test_a_store_that_ignores_conditions_is_refused(self):
        def change(_, path, status):
            return 200 if ".probe" in path and status in (412, 409) else None

        middle = Middle(self, self.ceph.port, change)
        done = subprocess.run(
            [*PACKAGER, "--broker", self.url, "--program", "/bin/true", "--store",
             f"s3://{BUCKET}/{self.tag}", "--state", self.folder / "store", "--s3-endpoint",
             f"http://127.0.0.1:{middle.port}"], capture_output=True, text=True, timeout=SECONDS,
            env={**os.environ, "AWS_ACCESS_KEY_ID": "DOCSETSKEY", "AWS_SECRET_ACCESS_KEY": SECRET})
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("ignores If-None-Match of a PUT, so that a job could run twice", done.stderr)

    def test_wrong_credentials_take_nothing_and_fail_nothing(self):
        wrong = self.far_packager(secret="wrong-secret-0123456789")
        wrong.wait_log("no jobs are taken until the store can be used")
        job = self.ask("1")
        time.sleep(1)
        self.assertEqual(job.bodies(), [])
        self.far_packager()
        job.wait("Complete")
        self.assertEqual(len(self.started()), 1)

    def test_a_short_job_costs_three_puts_and_leaves_nothing_at_the_broker(self):
        asked = []

        def change(method, path, status):
            asked.append((method, re.sub(r"[0-9a-f]{32,}", "KEY", path.partition(self.tag)[2])))

        middle = Middle(self, self.ceph.port, change)
        packager = self.far_packager(store_port=middle.port, workers=1, broker_heartbeat_ms=0)
        self.ask("first").wait("Complete")
        asked.clear()
        before = packager.broker.passed
        n = 20
        for i in range(n):
            self.ask(f"short{i}").wait("Complete")
        self.barrier()
        bytes_at = (packager.broker.passed - before) / (n + 1)
        puts = [path for method, path in asked if method == "PUT"]
        self.assertEqual(len(puts), 3 * (n + 1), sorted(set(asked)))
        self.assertLessEqual(len(asked), 8 * (n + 1), sorted(set(asked)))
        print(f"a job: {len(asked) / (n + 1):.1f} requests of the store, 3 of them PUT, "
              f"{bytes_at:.0f} bytes by the broker", flush=True)
        self.assertLess(bytes_at, 8000)

    def test_credentials_are_read_again_from_their_file(self):
        file = self.folder / "credentials"
        file.write_text("[default]\naws_access_key_id = DOCSETSKEY\naws_secret_access_key = old\n")
        packager = self.far_packager(secret="unused", s3_credentials=file)
        packager.wait_log("no jobs are taken until the store can be used")
        file.write_text(f"AWS_ACCESS_KEY_ID=DOCSETSKEY\nexport AWS_SECRET_ACCESS_KEY='{SECRET}'\n")
        self.ask("1").wait("Complete")
        packager.wait_log("credentials of the S3 store were read again")
        self.assertNotIn(SECRET, packager.log())

    def test_metrics_tell_what_a_packager_does(self):
        file = self.folder / "metrics.prom"
        self.far_packager(metrics=file)
        self.ask("1").wait("Complete")
        wait_for(lambda: file.exists() and "workqueue_packager_succeeded_total 1\n" in file.read_text(),
                 "metrics", SECONDS)
        for line in ("workqueue_packager_connected 1", "workqueue_packager_store_usable 1",
                     "workqueue_packager_claimed_total 1", "workqueue_packager_running 0"):
            self.assertIn(line + "\n", file.read_text())

    def test_metrics_and_health_over_http(self):
        port = free_ports()
        cut = Proxy(self.ceph.port)
        self.addCleanup(cut.close)
        self.far_packager(store_port=cut.port, listen=f"127.0.0.1:{port}")

        def get(path, method="GET"):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        self.ask("1").wait("Complete")
        wait_for(lambda: "workqueue_packager_succeeded_total 1\n" in get("/metrics")[1], "metrics", SECONDS)
        self.assertEqual(json.loads(get("/health")[1]), {"status": "ok", "running": 0, "problems": []})
        for path, method, status in (("/", "GET", 404), ("/generate", "POST", 404),
                                     ("/jobs", "GET", 404), ("/health", "DELETE", 405),
                                     ("/faces/generate?server=http://a&documentSetId=1&apiToken=t",
                                      "POST", 403)):
            self.assertEqual(get(path, method)[0], status, path)
        cut.refuses = True
        cut.cut()
        self.ask("2")
        wait_for(lambda: "store" in get("/health")[1], "the store's absence", 2 * SECONDS)

    def test_a_store_that_is_away_fails_nothing(self):
        cut = Proxy(self.ceph.port)
        self.addCleanup(cut.close)
        self.far_packager(store_port=cut.port)
        self.ask("before").wait("Complete")
        cut.refuses = True
        cut.cut()
        job = self.ask("1")
        time.sleep(2)
        self.assertEqual(job.ends(), [])
        cut.heal()
        job.wait("Complete")

    def test_many_who_ask_for_one_key_again_and_again(self):
        packagers = [self.far_packager(workers=2) for _ in range(2)]
        for i in range(5):
            name = f"many{i}"
            jobs = [self.listen(uuid.uuid4().hex) for _ in range(6)]
            for job in jobs:
                self.send_job(job.id, name)
            for job in jobs:
                job.wait("Complete")
            self.assertEqual(len(self.started(name)), 1)
        self.assertTrue(all(p.process.poll() is None for p in packagers))


if __name__ == "__main__":
    unittest.main()
