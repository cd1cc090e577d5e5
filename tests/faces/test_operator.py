"""test_operator.py - what the operator sees and may do: metrics, health, deletion of outputs."""

import hashlib
import itertools
import json
import re
import shutil
import subprocess
from urllib.parse import urlencode

from harness import (BUILD, DEADLINE, DEMO, SERVER, TOKEN, FaceTest, demo_command, plain_only,
                     wait_for, write_until)

SECRET = "op3rator-s3cret"
OTHER = "http://other.example"


def key(server, document_set, token=TOKEN):
    """The name of an output, as the contract says."""
    digest = hashlib.sha256()
    for text in (server, document_set, token):
        digest.update(len(text.encode()).to_bytes(8, "big") + text.encode())
    return digest.hexdigest()


class OperatorTest(FaceTest):
    def secret_file(self, text=SECRET + "\n", mode=0o600):
        path = self.folder / "secret"
        path.write_text(text)
        path.chmod(mode)
        return path

    def metrics(self, server):
        """Every sample by its name and labels as they stand there."""
        head, body = server.ask("GET", "/metrics")
        self.assertEqual(head.status, 200)
        lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
        samples = dict(line.rsplit(" ", 1) for line in lines)
        self.assertEqual(len(samples), len(lines), "a sample is there twice")
        return {name: float(value) for name, value in samples.items()}

    def wait_metric(self, server, name, value):
        wait_for(lambda: self.metrics(server)[name] == value, f"{name} {value}",
                 seen=lambda: self.metrics(server)[name])

    def build(self, server, document_set, at=SERVER, token=TOKEN):
        """Has an output made; the file's name."""
        body = urlencode({"server": at, "documentSetId": document_set, "apiToken": token})
        head, _ = server.ask("POST", "/generate",
                             {"Content-Type": "application/x-www-form-urlencoded"}, body)
        self.assertEqual(head.status, 200)
        name = key(at, document_set, token)
        self.assertIn(name, server.stored())
        return name

    def id_of(self, stream):
        """The id of the job that an event stream is of."""
        return stream.event()["id"].partition(".")[0]


class MetricsTest(OperatorTest):
    def test_promtool(self):
        if not shutil.which("promtool"):
            self.skipTest("promtool is not installed; Debian has it in the package prometheus")
        server = self.serve()
        self.build(server, "set")
        body = server.ask("GET", "/metrics")[1]
        done = subprocess.run(["promtool", "check", "metrics"], input=body, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual((done.returncode, done.stdout), (0, b""))

    def test_each_is_described(self):
        server = self.serve()
        head, body = server.ask("GET", "/metrics")
        self.assertEqual(head.get("content-type"), "text/plain; version=0.0.4; charset=utf-8")
        text = body.decode()
        self.assertTrue(text.endswith("\n"))
        for name in self.metrics(server):
            family = re.sub(r"_(bucket|sum|count)$", "", name.partition("{")[0])
            self.assertRegex(family, r"^workqueue_[a-z_]+$")
            self.assertRegex(text, rf"(?m)^# HELP {family} .+\.$")
            self.assertRegex(text, rf"(?m)^# TYPE {family} (gauge|counter|histogram)$")

    def test_guarded(self):
        server = self.serve(guard_metrics=True, operator_secret_file=self.secret_file())
        self.assert_problem(server.ask("GET", "/metrics"), 401)
        head, body = server.ask("GET", "/metrics", {"Authorization": f"Bearer {SECRET}"})
        self.assertEqual(head.status, 200)
        self.assertIn(b"workqueue_build_info", body)

    def test_version(self):
        version = subprocess.run([DEMO, "--version"], stdout=subprocess.PIPE, check=True)
        version = version.stdout.decode().split()[1]
        self.assertEqual(self.metrics(self.serve())[f'workqueue_build_info{{version="{version}"}}'], 1)

    def test_the_row(self):
        server, job = self.serve(workers=1, max_queue=7), self.told("set")
        streams = [server.generate("set")]
        job.wait_started()
        streams += [server.generate(name) for name in ("next", "third")]
        for stream in streams:
            stream.record()
        seen = self.metrics(server)
        self.assertEqual(seen["workqueue_running_jobs"], 1)
        self.assertEqual(seen["workqueue_queued_jobs"], 2)
        self.assertEqual(seen["workqueue_known_ended_jobs"], 0)
        self.assertEqual(seen["workqueue_workers"], 1)
        self.assertEqual(seen["workqueue_max_queued_jobs"], 7)
        job.succeed()
        for stream in streams:
            self.assertEqual(stream.last()["returncode"], 0)
        seen = self.metrics(server)
        for state in ("running", "queued", "publishing", "ending"):
            self.assertEqual(seen[f"workqueue_{state}_jobs"], 0)
        self.assertEqual(seen["workqueue_known_ended_jobs"], 3)

    def ends(self, server):
        seen = self.metrics(server)
        return [seen[f'workqueue_ended_jobs_total{{end="{end}"}}']
                for end in ("succeeded", "failed", "cancelled")]

    def test_each_end_is_counted(self):
        server = self.serve()
        self.assertEqual(self.ends(server), [0, 0, 0])
        self.build(server, "good")
        self.assertEqual(self.ends(server), [1, 0, 0])
        bad, stream = self.told("bad"), server.generate("bad")
        bad.tell("exit 3")
        self.assertEqual(stream.last()["returncode"], 3)
        self.assertEqual(self.ends(server), [1, 1, 0])
        self.told("ill")
        stream = server.generate("ill", accept="text/event-stream")
        self.assertEqual(server.ask("DELETE", "/work/" + self.id_of(stream))[0].status // 100, 2)
        while stream.event() is not None:
            pass
        self.assertEqual(self.ends(server), [1, 1, 1])
        self.build(server, "good")  # there already: no job has ended
        self.assertEqual(self.ends(server), [1, 1, 1])

    def histogram(self, server, name):
        seen = self.metrics(server)
        pattern = re.compile(rf'workqueue_{name}_bucket{{le="(.*)"}}')
        buckets = [(match[1], n) for sample, n in seen.items() if (match := pattern.fullmatch(sample))]
        counts = [n for _, n in buckets]
        bounds = [float(bound) for bound, _ in buckets]
        self.assertEqual((bounds, counts), (sorted(bounds), sorted(counts)))
        self.assertEqual(buckets[-1], ("+Inf", seen[f"workqueue_{name}_count"]))
        return dict(buckets), seen[f"workqueue_{name}_sum"]

    def test_durations(self):
        server, job = self.serve(workers=1), self.told("set")
        first = server.generate("set")
        job.wait_started()
        second = server.generate("next")
        second.record()
        job.tell("sleep 0.2")
        job.succeed()
        first.last()
        second.last()
        buckets, total = self.histogram(server, "run_duration_seconds")
        self.assertLessEqual(buckets["0.1"], 1)  # the second
        self.assertEqual(buckets["14400"], 2)
        self.assertEqual(buckets["+Inf"], 2)
        self.assertTrue(0.2 <= total < DEADLINE, total)
        buckets, total = self.histogram(server, "wait_duration_seconds")
        self.assertLessEqual(buckets["0.1"], 1)
        self.assertEqual(buckets["+Inf"], 2)
        self.assertTrue(0.2 <= total < DEADLINE, total)

    def test_held_responses(self):
        server, job = self.serve(), self.told("set")
        held = 'workqueue_held_responses{face="stream"}'
        streams = [server.generate("set") for _ in range(3)]
        for stream in streams:
            stream.record()
        self.assertEqual(self.metrics(server)[held], 3)
        streams.pop().close()
        self.wait_metric(server, held, 2)
        self.assertEqual(self.metrics(server)["workqueue_clients_left_total"], 1)
        job.succeed()
        size = 0
        for stream in streams:
            size += len(stream.read_all())
        seen = self.metrics(server)
        self.assertEqual(seen[held], 0)
        self.assertEqual(seen['workqueue_held_requests_total{face="stream"}'], 3)
        self.assertGreater(seen["workqueue_sent_bytes_total"], size)
        self.assertEqual(seen["workqueue_clients_left_total"], 1)
        self.assertEqual(seen["workqueue_clients_stalled_total"], 0)

    def test_bytes(self):
        server = self.serve()
        body = server.generate("set").read_all()
        self.assertEqual(self.metrics(server)["workqueue_sent_bytes_total"], len(body))

    def test_a_client_that_takes_nothing(self):
        storage = self.folder / "storage"
        server = self.serve(storage=storage, command=[
            str(BUILD / "tests" / "face-server"), str(self.told_program), str(storage),
            "stall_timeout_ms=300"])
        job, idle = self.told("set"), server.connect(receive_buffer=4096)
        server.generate("set", client=idle)
        reader = server.generate("set")
        write_until(lambda: self.metrics(server)["workqueue_clients_stalled_total"] == 1, job, reader,
                    "it counted")
        self.wait_metric(server, 'workqueue_held_responses{face="stream"}', 1)
        job.succeed()
        self.assertEqual(reader.last()["returncode"], 0)

    def test_store_errors(self):
        server = self.serve()
        away = self.folder / "away"
        self.assertEqual(self.metrics(server)["workqueue_store_errors_total"], 0)
        server.storage.rename(away)
        self.assertEqual(server.generate("set").last()["returncode"], -999)
        away.rename(server.storage)
        self.assertEqual(self.metrics(server)["workqueue_store_errors_total"], 1)
        self.build(server, "set")
        empty, stream = self.told("empty"), server.generate("empty")
        empty.tell("exit 0")  # the program's mistake, not the store's
        self.assertEqual(stream.last()["returncode"], -999)
        seen = self.metrics(server)
        self.assertEqual(seen["workqueue_store_errors_total"], 1)
        self.assertEqual(seen["workqueue_journal_errors_total"], 0)

    def test_nothing_of_the_users(self):
        server = self.serve()
        self.build(server, "zyx-set", at="http://wvu.example", token="tsr")
        text = server.ask("GET", "/metrics")[1].decode()
        for word in ("zyx-set", "wvu", "tsr", key("http://wvu.example", "zyx-set", "tsr")):
            self.assertNotIn(word, text)

    @plain_only
    def test_cheap(self):
        """A scrape a second from several Prometheuses must not be felt."""
        server = self.serve()
        client, before = server.connect(), server.cpu()
        for _ in range(1000):
            server.request("GET", "/metrics", client=client)
            client.read_all()
            client.begin_response()
        self.assertLess(server.cpu() - before, 0.5)


class HealthTest(OperatorTest):
    def test_ok(self):
        server, job = self.serve(workers=1), self.told("set")
        server.generate("set")
        job.wait_started()
        server.generate("next").record()
        head, body = server.ask("GET", "/health")
        self.assertEqual((head.status, head.get("content-type")), (200, "application/json"))
        self.assertEqual(head.get("cache-control"), "no-store")
        self.assertEqual(json.loads(body), {"status": "ok", "queued": 1, "running": 1})
        job.succeed()

    def test_stopping(self):
        """Asked behind a stream, on its connection: new ones are not taken any more."""
        server, _ = self.serve(), self.told("set")
        client = server.generate("set")
        client.record()
        server.request("GET", "/health", client=client)
        server.terminate()
        self.assertIsNone(client.last())  # it goes on after the restart (W2)
        client.begin_response()
        self.assertEqual(json.loads(client.read_all()), {"status": "stopping"})
        self.assertEqual(client.head.status, 503)


class TroubleTest(OperatorTest):
    """What /health says when something is wrong: it is answered, and the server goes on."""

    def troubles(self, server):
        head, body = server.ask("GET", "/health")
        self.assertEqual(head.status, 200, "a server that has trouble is not to be ended for it")
        health = json.loads(body)
        problems = health.get("problems", [])
        self.assertEqual(health["status"], "troubled" if problems else "ok")
        return problems

    def says(self, server, *words):
        def said():
            return [text for text in self.troubles(server) if all(word in text for word in words)]
        return wait_for(said, f"a problem with {words}", seen=lambda: self.troubles(server))

    def small_disk(self, name):
        path = self.folder / name
        path.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)],
                          capture_output=True).returncode != 0:
            self.skipTest("needs the right to mount")
        self.addCleanup(subprocess.run, ["umount", "-l", str(path)], capture_output=True)
        return path

    def fill(self, path):
        try:
            with open(path / "filler", "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
        except OSError:
            pass

    def test_the_storage(self):
        path = self.small_disk("disk")
        server = self.serve(storage=path / "storage")
        self.assertEqual(self.troubles(server), [])
        self.fill(path)
        self.says(server, "storage", "full", str(path))
        (path / "filler").unlink()
        self.assertEqual(self.troubles(server), [])
        # as the kernel makes a filesystem that has errors, though files are open
        subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", str(path)], capture_output=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        self.says(server, "storage", "read-only", str(path))
        subprocess.run(["umount", "-l", str(path)], check=True)
        self.assertEqual(self.troubles(server), [])

    def test_a_storage_that_is_gone(self):
        server = self.serve()
        away = self.folder / "away"
        server.storage.rename(away)
        self.says(server, "storage", "No such file", str(server.storage))
        away.rename(server.storage)
        self.assertEqual(self.troubles(server), [])

    def test_a_journal_that_cannot_be_written(self):
        path = self.small_disk("disk")
        server = self.serve(journal=path / "journal")
        self.told("set")
        server.generate("set").record()
        self.fill(path)
        self.says(server, "journal", "full", str(path))

        def refused():
            name = str(next(count))
            client = server.generate(name, token=name + "t" * 4000)
            return client.read_head().status != 200
        count = itertools.count()
        wait_for(refused, "a job that finds no room in the journal")
        self.says(server, "journal", "written")
        (path / "filler").unlink()
        wait_for(lambda: server.generate("after").read_head().status == 200, "the journal again")
        self.assertEqual(self.troubles(server), [])


class MannersTest(OperatorTest):
    def test_methods(self):
        server = self.serve()
        for path, allow in (("/metrics", "GET, HEAD, OPTIONS"), ("/health", "GET, HEAD, OPTIONS"),
                            ("/output", "DELETE, OPTIONS")):
            with self.subTest(path):
                head, body = server.ask("OPTIONS", path)
                self.assertEqual((head.status, head.get("allow"), body), (204, allow, b""))
                for method in {"GET", "HEAD", "POST", "PUT", "DELETE"} - set(allow.split(", ")):
                    head, _ = server.ask(method, path)
                    self.assertEqual((head.status, head.get("allow")), (405, allow), method)
                head, _ = server.ask(allow.partition(",")[0], path + "/below")
                self.assertEqual(head.status, 404)

    def test_head(self):
        server = self.serve()
        for path in ("/metrics", "/health"):
            with self.subTest(path):
                head, body = server.ask("HEAD", path)
                self.assertEqual((head.status, body), (200, b""))
                self.assertGreater(int(head.get("content-length")), 10)
                self.assertEqual(head.get("cache-control"), "no-store")


class DeletionTest(OperatorTest):
    def setUp(self):
        super().setUp()
        self.server = self.serve(operator_secret_file=self.secret_file())

    def delete(self, secret=SECRET, body=None, content_type=None, scheme="Bearer", **fields):
        headers = {"Authorization": f"{scheme} {secret}"} if secret is not None else {}
        if content_type:
            headers["Content-Type"] = content_type
        path = "/output" + ("?" + urlencode(fields) if fields else "")
        return self.server.ask("DELETE", path, headers, body)

    def assert_deleted(self, answer, n):
        head, body = answer
        self.assertEqual((head.status, head.get("content-type")), (200, "application/json"), body)
        self.assertEqual(json.loads(body), {"deleted": n})

    def outputs(self):
        return {name for name in self.server.stored() if re.fullmatch("[0-9a-f]{64}", name)}

    def build_some(self):
        """Of two servers, two document sets and two tokens."""
        return {(at, name, token): self.build(self.server, name, at, token)
                for at in (SERVER, OTHER) for name in ("7", "8") for token in (TOKEN, "another")}

    def test_one(self):
        names = self.build_some()
        one = {"server": SERVER, "documentSetId": "7", "apiToken": TOKEN}
        head, body = self.delete(**one)
        self.assertEqual((head.status, body, head.get("content-length")), (204, b"", None))
        self.assertEqual(self.outputs(), set(names.values()) - {names[SERVER, "7", TOKEN]})
        self.assert_problem(self.delete(**one), 404)
        head = self.server.generate("7").read_head()
        self.assertEqual((head.status, head.get("x-workqueue")), (200, "started"))

    def test_one_from_a_body(self):
        one = {"server": SERVER, "document_set_id": "7", "api_token": TOKEN}
        for content_type, body in (("application/json", json.dumps(one)),
                                   ("application/x-www-form-urlencoded", urlencode(one))):
            with self.subTest(content_type):
                name = self.build(self.server, "7")
                self.assertEqual(self.delete(body=body, content_type=content_type)[0].status, 204)
                self.assertNotIn(name, self.outputs())
        self.assert_problem(self.delete(body="{", content_type="application/json"), 400)
        self.assert_problem(self.delete(body="x", content_type="text/plain"), 415)

    def test_a_document_set(self):
        names = self.build_some()
        self.assert_deleted(self.delete(server=SERVER, documentSetId="7"), 2)
        self.assertEqual(self.outputs(),
                         {name for what, name in names.items() if what[:2] != (SERVER, "7")})
        self.assert_deleted(self.delete(server=SERVER, documentSetId="7"), 0)

    def test_a_server(self):
        names = self.build_some()
        self.assert_deleted(self.delete(server=SERVER), 4)
        self.assertEqual(self.outputs(), {name for what, name in names.items() if what[0] == OTHER})

    def test_what_is_wrong_deletes_nothing(self):
        names = self.build_some()
        for fields, word in (({}, "server"), ({"documentSetId": "7"}, "server"),
                             ({"server": ""}, "server"),
                             ({"server": SERVER, "documentSetId": ""}, "document_set_id"),
                             ({"server": SERVER, "apiToken": TOKEN}, "documentSetId"),
                             ({"server": SERVER, "documentSetId": "7", "apiToken": ""}, "api_token")):
            with self.subTest(fields):
                self.assert_problem(self.delete(**fields), 400, word)
        self.assertEqual(self.outputs(), set(names.values()))

    def test_only_the_operator(self):
        name = self.build(self.server, "7")
        for secret in (None, "", "x", SECRET[:-1], SECRET + "x", SECRET.upper(), SECRET + " " + SECRET):
            with self.subTest(secret):
                head = self.assert_problem(self.delete(secret, server=SERVER), 401)
                self.assertRegex(head.get("www-authenticate"), "^Bearer ")
        self.assert_problem(self.delete(scheme="Basic", server=SERVER), 401)
        head, body = self.server.ask("DELETE", "/output?" + urlencode({"server": SERVER, "secret": SECRET}))
        self.assertEqual(head.status, 401, body)
        self.assertEqual(self.outputs(), {name})
        self.assert_deleted(self.delete(scheme="bearer ", server=SERVER), 1)
        self.assertNotIn(SECRET, self.server.log())

    def test_a_job_that_runs_goes_on(self):
        job, name = self.told("7"), self.build(self.server, "8")
        stream = self.server.generate("7")
        stream.record()
        job.wait_started()
        self.assert_problem(self.delete(server=SERVER, documentSetId="7", apiToken=TOKEN), 404)
        self.assert_deleted(self.delete(server=SERVER), 1)
        self.assertNotIn(name, self.outputs())
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)
        self.assertEqual(self.outputs(), {key(SERVER, "7")})

    # -- a storage that takes a while to read

    def fill(self):
        for i in range(30000):
            (self.server.storage / f"{i:064x}").touch()

    def begin(self):
        return self.server.request("DELETE", "/output?" + urlencode({"server": SERVER}),
                                   {"Authorization": "Bearer " + SECRET})

    def test_one_at_a_time(self):
        self.build(self.server, "7")
        self.fill()
        clients = []

        def is_one_refused():
            """Of several at once; they may come one after the other all the same."""
            new = [self.begin() for _ in range(8)]
            for client in new:
                client.read_all()
            clients.extend(new)
            statuses = [client.head.status for client in new]
            self.assertLessEqual(set(statuses), {200, 503})
            self.assertGreaterEqual(statuses.count(200), 1)
            return 503 in statuses
        wait_for(is_one_refused, "one to be refused while another is under way")
        for client in clients:
            if client.head.status == 503:
                self.assert_problem((client.head, client.body), 503)
                self.assertRegex(client.head.get("retry-after"), r"^[1-9]\d*$")
        self.assertEqual(sum(json.loads(client.body)["deleted"] for client in clients
                             if client.head.status == 200), 1)
        self.assert_deleted(self.delete(server=SERVER), 0)

    def test_a_client_that_leaves(self):
        name = self.build(self.server, "7")
        self.fill()
        self.begin().reset()
        wait_for(lambda: not (self.server.storage / name).exists(), "the output deleted")
        self.wait_metric(self.server, 'workqueue_held_responses{face="work"}', 0)
        self.assertEqual(self.metrics(self.server)['workqueue_held_requests_total{face="work"}'], 1)

    def test_stop_meanwhile(self):
        self.fill()
        client = self.begin()
        self.wait_metric(self.server, 'workqueue_held_requests_total{face="work"}', 1)
        self.server.terminate()
        self.assert_deleted((client.read_head(), client.read_all()), 0)
        self.assertEqual(self.server.wait(), 0)


class SecretTest(OperatorTest):
    """The file that holds the secret."""

    def test_none(self):
        server = self.serve()
        self.build(server, "7")
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer x"}):
            self.assert_problem(server.ask("DELETE", "/output?" + urlencode({"server": SERVER}), headers),
                                403, "operator")
        self.assertIn(key(SERVER, "7"), server.stored())

    def test_what_is_refused(self):
        storage = self.folder / "storage"
        storage.mkdir()
        for text, mode in (("", 0o600), ("\n", 0o600), ("x" * 1025, 0o600), (SECRET, 0o644),
                           (SECRET + "\r\n", 0o600), ("two words", 0o600)):
            with self.subTest(text[:20], mode=mode):
                self.check_refused(storage, self.secret_file(text, mode), text.strip())
        self.check_refused(storage, self.folder / "missing", "")
        self.check_refused(storage, self.folder, "")

    def check_refused(self, storage, path, secret):
        command = demo_command(self.told_program, storage, operator_secret_file=path)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (2, b""), done.stderr)
        self.assertRegex(done.stderr.decode(), r"^demo-plugin: .*secret.*\n\Z")
        if secret:
            self.assertNotIn(secret, done.stderr.decode())

    def test_the_longest(self):
        server = self.serve(operator_secret_file=self.secret_file("x" * 1024 + "\n"))
        head, _ = server.ask("DELETE", "/output?" + urlencode({"server": SERVER}),
                             {"Authorization": "Bearer " + "x" * 1024})
        self.assertEqual(head.status, 200)
