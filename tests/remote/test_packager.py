"""test_packager.py - the real workqueue packager on real brokers, asked by Debian's python3-stomp as
other people's servers ask: with messages that are only a URL, and with our own form of them."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
import uuid
from pathlib import Path

import services
import stomp
from harness import BUILD, DEADLINE, PROGRAMS, SLOW, Told, is_running, wait_for

PACKAGER = (BUILD / "bin" / "workqueue", "packager")
SECONDS = 3 * DEADLINE  # a broker that has just been started has more to do than to answer
PASSWORD, TOKEN, SECRET = "docsets", "tok3nofthetest", "docsets-secret-0123456789"


class Answers(stomp.ConnectionListener):
    """A connection of python3-stomp, and all that came for each subscription."""

    def __init__(self, test, port):
        self.came, self.receipts = {}, set()
        self.lock = threading.Lock()
        self.connection = stomp.StompConnection12([("127.0.0.1", port)], vhost="/",
                                                  reconnect_attempts_max=1)
        self.connection.set_listener("", self)
        self.connection.connect("docsets", PASSWORD, wait=True)
        test.addCleanup(self.close)

    def on_message(self, frame):
        with self.lock:
            self.came.setdefault(frame.headers["subscription"], []).append(frame)

    def on_receipt(self, frame):
        self.receipts.add(frame.headers["receipt-id"])

    def confirmed(self, call, *arguments, **headers):
        """Until the broker has dealt with it."""
        receipt = uuid.uuid4().hex
        call(*arguments, receipt=receipt, **headers)
        wait_for(lambda: receipt in self.receipts, "a receipt", SECONDS)

    def subscribe(self, destination, name, **headers):
        self.confirmed(lambda receipt: self.connection.subscribe(
            destination, id=name, ack="auto", headers={"receipt": receipt, **headers}))

    def send(self, destination, body, **headers):
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        self.confirmed(lambda receipt: self.connection.send(
            destination, body, content_type="text/plain",
            headers={"receipt": receipt, **headers}))

    def of(self, name):
        with self.lock:
            return list(self.came.get(name, []))

    def close(self):
        if self.connection.is_connected():
            self.connection.disconnect()


class Job:
    """One request, and what was answered."""

    def __init__(self, answers, id):
        self.answers, self.id = answers, id

    def bodies(self):
        return [frame.body for frame in self.answers.of(self.id)]

    def all(self, begin):
        return [frame for frame in self.answers.of(self.id) if frame.body.startswith(begin)]

    def wait(self, begin, n=1, seconds=SECONDS):
        """The n-th answer that begins so."""
        return wait_for(lambda: len(self.all(begin)) >= n and self.all(begin), f"{n} {begin!r}",
                        seconds, seen=lambda: [b[:200] for b in self.bodies()[-10:]])[n - 1]

    def ends(self):
        return [b for b in self.bodies() if re.match("Complete|Failed|Cancelled", b)]


class Packager:
    def __init__(self, test, folder, program, broker, store=None, environment=None, **options):
        folder.mkdir(exist_ok=True)
        self.folder, self.store = folder, store or folder / "store"
        for name in ("store", "state"):
            (folder / name).mkdir(exist_ok=True)
        self.log_path = folder / f"log.{len(list(folder.glob('log.*')))}"
        self.command = [*PACKAGER, "--program", program, "--store", self.store, "--state",
                        folder / "state", "--no-sync", "--grace-ms", 1000]
        for name, value in options.items():
            self.command += ["--" + name.replace("_", "-")] + ([] if value is True else [value])
        environment = {**os.environ, "WORKQUEUE_BROKER": broker, **(environment or {})}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            environment[name] = f"{os.environ.get(name, '')}:log_path={folder / 'sanitizer'}"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([str(word) for word in self.command], text=True,
                                            stdout=subprocess.PIPE, stderr=log, env=environment)
        test.addCleanup(self.finish)
        self.pid = self.process.pid
        assert self.process.stdout.readline() == "ready\n", self.log()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_log(self, text, n=1):
        wait_for(lambda: self.log().count(text) >= n, f"a log line with {text!r}", SECONDS, self.log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self):
        self.process.terminate()

    def finish(self):
        """Ends it, if it has not ended, and looks whether it died well."""
        if self.process.poll() is None:
            self.terminate()
        try:
            code = self.process.wait(SECONDS)
            reports = [p.read_text(errors="replace") for p in self.folder.glob("sanitizer.*")]
            assert not reports, f"expected no sanitizer report; got {reports[0][:8000]}"
            assert code in (0, -signal.SIGKILL), f"expected exit 0; got {code}: {self.log()[-2000:]}"
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"expected an end after SIGTERM: {self.log()[-2000:]}") from None
        finally:
            self.process.stdout.close()


class PackagerTest(unittest.TestCase):
    service = "rabbitmq"
    slash = "%2F"

    def setUp(self):
        self.broker = services.service(self.service)
        self.url = f"stomp://docsets:{PASSWORD}@127.0.0.1:{self.broker.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="wq-test-packager-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.program = self.folder / "told"
        shutil.copy(PROGRAMS / "http_told", self.program)
        self.tag = uuid.uuid4().hex[:12]
        self.package, self.delete = self.queue("docsets", "package"), self.queue("docsets", "delete")
        (self.folder / "store").mkdir()
        self.n_packagers = 0
        self.answers = Answers(self, self.broker.port)

    def queue(self, *names):
        return "/queue/" + self.slash.join([self.tag, *names])

    def reply(self, id):
        return self.queue("package", id)

    def packager(self, name=None, **options):
        self.n_packagers += 1
        given = {"queue_package": self.package, "queue_delete": self.delete, "store": self.folder / "store",
                 "renew_ms": 200, "takeover_ms": 1500, "put_off_ms": 300,
                 "queue_reply": self.reply("{id}"), "workers": 2, **options}
        return Packager(self, self.folder / (name or f"packager{self.n_packagers}"), self.program,
                        self.url, **given)

    def told(self, name):
        job = Told(self.folder, name)
        self.addCleanup(job.close)
        return job

    def listen(self, id, answers=None, **headers):
        answers = answers or self.answers
        answers.subscribe(self.reply(id), id, **headers)
        return Job(answers, id)

    def seed(self, url):
        self.answers.send(self.package, f" {url}\n")

    def text(self, id, document_set, server="http://overview.example", rebuild=False):
        return (f"Package: {id}\nServer: {server}\nDocument-Set: {document_set}\nToken: {TOKEN}\n"
                + ("Rebuild: 1\n" if rebuild else ""))

    def send_job(self, id, document_set, **more):
        """Our own form, as a server of ours would send it."""
        reply = self.reply(id)
        if self.service == "rabbitmq":
            reply = "/amq" + reply
        self.answers.send(self.package, self.text(id, document_set, **more), reply_to=reply,
                          persistent="true")

    def ask(self, document_set, id=None, **more):
        id = id or uuid.uuid4().hex
        expires = {"x-expires": "600000"} if self.service == "rabbitmq" else {}
        job = self.listen(id, **expires)
        self.send_job(id, document_set, **more)
        return job

    def cancel(self, id):
        """As a server of ours does: a mark in the store; the hint may get lost."""
        (self.folder / "store" / ".cancel" / id).write_text("cancelled\n")

    def started(self, document_set=None):
        """The pids of the programs that were started."""
        try:
            lines = (self.folder / "started").read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []
        words = [line.split() for line in lines]
        return [int(w[0]) for w in words if document_set in (None, w[1])]

    def wait_started(self, n, document_set=None):
        wait_for(lambda: len(self.started(document_set)) >= n, f"{n} programs started", SECONDS,
                 lambda: self.started())
        return self.started(document_set)[n - 1]

    def barrier(self, n=1):
        """When it returns the packagers have dealt with all that was sent before: each has a worker
        free."""
        for _ in range(n):
            self.ask(f"barrier{uuid.uuid4().hex}").wait("Complete")


class Both:
    """What holds with both brokers."""

    # -- other people's servers ------------------------------------------------------------------

    def test_the_conversation_of_the_seed(self):
        packager, told = self.packager(), self.told("5")
        self.seed("http://server/api/docsets/5?fmt=meta,txt")
        self.wait_started(1)
        told.progress("0.25\tindexing page 7")
        told.tell('[ "$1" = "http://server/api/docsets/5?fmt=meta,txt" ] || exit 3')
        told.succeed("x" * 5000)
        job = self.listen("5")  # only later
        complete = job.wait("Complete").body
        job.wait("0.250000000\tindexing page 7")
        accepted, *later = job.bodies()
        self.assertRegex(accepted, r"^Accepted\. \d+ seconds")
        url, size = re.fullmatch(r"Complete: file://(\S+)\nSize: (\d+)\n", complete).groups()
        self.assertEqual(os.path.getsize(url), int(size))
        self.assertEqual(Path(url).parent, packager.store)
        self.assertGreaterEqual(int(size), 5000)
        if self.service == "rabbitmq":  # ActiveMQ lets what is persistent, an end, overtake the rest
            self.assertEqual(later[-1], complete)

    def test_a_failure_says_why(self):
        self.packager()
        self.told("5").tell("echo no such thing >&2", "exit 7")
        self.seed("http://server/api/docsets/5")
        failed = self.listen("5").wait("Failed")
        self.assertIn("no such thing", failed.body)
        self.assertEqual(failed.headers["workqueue-returncode"], "7")

    def test_two_servers_have_a_document_set_of_the_same_number(self):
        self.program.write_text(f"""#!/bin/sh
            echo $$ $2 $4 >>{self.folder}/started
            until [ -e {self.folder}/go ]; do sleep 0.1; done
            echo "$1" >"$4"
            """)
        packager, job = self.packager(), self.listen("5")
        for host in ("one", "two"):
            self.seed(f"http://{host}/api/docsets/5")
        self.wait_started(2)
        (self.folder / "go").touch()
        job.wait("Complete", 2)
        outputs = {path.read_text() for path in packager.store.glob("[0-9a-f]*")}
        self.assertEqual(outputs, {f"http://{host}/api/docsets/5\n" for host in ("one", "two")})

    def test_a_job_of_ours(self):
        packager, told = self.packager(alive_ms=300), self.told("7")
        job = self.ask("7")
        self.wait_started(1)
        accepted = job.wait("Accepted")
        self.assertEqual(accepted.headers["workqueue-alive-ms"], "300")
        self.assertEqual(accepted.headers["correlation-id"], job.id)
        self.assertTrue(accepted.headers["workqueue-packager"])
        job.wait("0.000000000", 3)
        told.progress("3/12\thalf")
        job.wait("3/12\thalf", 3)
        told.tell(f'[ "$3" = {TOKEN} ] || exit 3')
        told.succeed()
        job.wait("Complete")
        self.assertEqual(len(job.ends()), 1)
        self.assertNotIn(TOKEN, packager.log())
        self.assertNotIn(PASSWORD + "@", packager.log())

    def test_the_second_job_takes_as_long_as_the_first(self):
        self.packager()
        told = self.told("1")
        first = self.ask("1")
        self.wait_started(1)
        told.tell("sleep 3")
        told.succeed()
        first.wait("Complete")
        told = self.told("2")
        seconds = int(self.ask("2").wait("Accepted").body.split()[1])
        told.tell("exit 1")
        self.assertTrue(2 <= seconds <= 3 + 3 * SLOW, seconds)

    def test_a_flood_of_progress_is_told_in_part(self):
        self.packager()
        told = self.told("1")
        job = self.ask("1")
        told.tell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i/20000; done")
        job.wait("20000/20000")
        self.assertLess(len(job.bodies()), 2000)
        told.succeed()
        job.wait("Complete")

    def test_what_is_there_is_not_made_again_but_for_a_rebuild(self):
        self.packager()
        first = self.ask("1").wait("Complete").body
        self.assertEqual(self.ask("1").wait("Complete").body, first)
        self.assertEqual(len(self.started()), 1)
        self.ask("1", rebuild=True).wait("Complete")
        self.assertEqual(len(self.started()), 2)

    def test_deletion(self):
        self.packager()
        url = "http://server/api/docsets/5"
        job = self.listen("5")
        self.seed(url)
        path = re.search("file://(.*)", job.wait("Complete").body).group(1)
        self.answers.send(self.delete, url)
        wait_for(lambda: not os.path.exists(path), "the output to be deleted", SECONDS)
        self.answers.send(self.delete, url)  # that is not there
        self.seed(url)
        job.wait("Complete", 2)
        self.assertEqual(len(self.started()), 2)

    # -- what is wrong ---------------------------------------------------------------------------

    def test_what_is_no_job_is_answered_and_forgotten(self):
        packager = self.packager()
        bad = {"nonsense": "hello", "empty": "", "url": "http://", "long": "x" * 300000,
               "half": "Package: a\nServer: http://a\n", "nul": "Package: 1\nServer: a\0b\n"}
        jobs = {}
        for name, body in bad.items():
            jobs[name] = self.listen(name)
            self.answers.send(self.package, body, reply_to=self.reply(name))
            self.answers.send(self.package, body)
            self.answers.send(self.delete, body)
        for job in jobs.values():
            job.wait("Failed: ")
        self.listen("odd")
        self.answers.send(self.package, self.text("odd", "1", server=""))
        Job(self.answers, "odd").wait("Failed: ")
        self.barrier()
        self.assertEqual(len(self.started()), 1)
        self.assertNotIn(TOKEN, packager.log())

    def test_strangers_choose_strange_places_for_answers(self):
        packager = self.packager()
        for to in (self.package, "nowhere", self.delete, "/queue/" + "x" * 5000):
            self.answers.send(self.package, "hello", reply_to=to)
            self.answers.send(self.package, self.text("odd", "1"), reply_to=to)
        self.listen("odd").wait("Complete")
        self.barrier()
        self.assertEqual(len(self.started("1")), 1)
        if self.service == "rabbitmq":  # refuses a queue of other properties, and hangs up
            self.answers.subscribe(self.reply("other"), "other", **{"x-expires": "600000"})
            told = self.told("2")
            self.answers.send(self.package, self.text("odd2", "2"), reply_to=self.reply("other"))
            packager.wait_log("refuses answers to odd2")
            told.succeed()
            self.barrier()
            self.assertEqual(len(self.started("2")), 1)

    def test_nobody_hears_what_others_shout_into_the_inbox(self):
        self.packager()
        told, job = self.told("1"), self.ask("1")
        inbox = job.wait("Accepted").headers["workqueue-inbox"]
        key = "0123456789abcdef" * 4
        for body in ("", "x" * 200000, f"Join: {key}\nPackage: 1\nReply-To: x\n", "Cancel: unknown\n",
                     f"Cancel: {job.id}\n", "Join: 1\n"):
            self.answers.send(inbox, body)
        told.succeed()
        job.wait("Complete")  # what is not marked in the store is not cancelled
        self.barrier()

    # -- cancel ----------------------------------------------------------------------------------

    def test_cancel_of_a_running_job(self):
        self.packager(grace_ms=300)
        told = self.told("1")
        job = self.ask("1")
        told.tell("trap '' TERM")
        told.progress("0.5")
        job.wait("0.5")
        pid = self.started()[0]
        self.cancel(job.id)
        job.wait("Cancelled")
        wait_for(lambda: not is_running(pid), "the program's end", SECONDS)
        self.barrier(2)
        self.assertEqual(job.ends(), ["Cancelled\n"])

    def test_cancel_before_it_was_taken(self):
        self.packager(workers=1)
        told = self.told("1")
        first = self.ask("1")
        self.wait_started(1)
        second = self.ask("2")
        self.cancel(second.id)
        told.succeed()
        first.wait("Complete")
        second.wait("Cancelled")
        self.barrier()
        self.assertEqual(self.started("2"), [])

    def test_cancel_by_one_of_two_who_ask(self):
        self.packager()
        told = self.told("1")
        one, two = self.ask("1"), self.ask("1")
        one.wait("Accepted")
        two.wait("Accepted")
        self.cancel(one.id)
        one.wait("Cancelled")
        told.succeed()
        two.wait("Complete")
        self.assertEqual(one.ends(), ["Cancelled\n"])
        self.assertEqual(len(self.started()), 1)

    # -- more than once --------------------------------------------------------------------------

    def test_a_job_that_comes_twice_runs_once(self):
        self.packager()
        told = self.told("1")
        job = self.ask("1")
        job.wait("Accepted")
        told.progress("0.5")
        job.wait("0.5")
        n = len(job.bodies())
        self.send_job(job.id, "1")
        wait_for(lambda: len(job.bodies()) > n, "the present state", SECONDS)
        told.succeed()
        complete = job.wait("Complete").body
        self.send_job(job.id, "1")
        self.assertEqual(job.wait("Complete", 2).body, complete)
        self.assertEqual(len(self.started()), 1)

    def test_a_failed_job_that_comes_twice_fails_the_same_way(self):
        self.packager()
        self.told("1").tell("echo because >&2; exit 4")
        job = self.ask("1")
        failed = job.wait("Failed").body
        self.send_job(job.id, "1")
        self.assertEqual(job.wait("Failed", 2).body, failed)
        self.assertEqual(len(self.started()), 1)

    def test_two_packagers_and_two_who_ask_at_once(self):
        self.packager(workers=1)
        self.packager(workers=1)
        for i in range(20):
            told = self.told(str(i))
            jobs = [self.listen(uuid.uuid4().hex) for _ in range(2)]
            for job in reversed(jobs) if i % 2 else jobs:
                self.send_job(job.id, str(i))
            for job in jobs:
                job.wait("Accepted")
            self.wait_started(1, str(i))
            told.succeed()
            for job in jobs:
                job.wait("Complete")
            self.assertEqual(len(self.started(str(i))), 1, f"round {i}")

    def test_never_more_than_workers_and_nobody_idles(self):
        self.packager(workers=1)
        self.packager(workers=2)
        told = [self.told(str(i)) for i in range(5)]
        jobs = [self.ask(str(i)) for i in range(5)]
        self.wait_started(3)
        ran = []
        for _ in range(5):
            running = [i for i in range(5) if self.started(str(i)) and i not in ran]
            self.assertLessEqual(len(running), 3)
            ran.append(running[0])
            told[running[0]].succeed()
            jobs[running[0]].wait("Complete")
            self.wait_started(min(5, len(ran) + 3))
        self.assertEqual(len(self.started()), 5)

    # -- deaths ----------------------------------------------------------------------------------

    def test_another_takes_over_from_one_that_was_killed(self):
        packagers = [self.packager(workers=1) for _ in range(2)]
        told = self.told("1")
        job = self.ask("1")
        accepted = job.wait("Accepted")
        first = self.wait_started(1)
        name = accepted.headers["workqueue-packager"]
        self.owner(packagers, first).kill()
        wait_for(lambda: not is_running(first), "the program's end", SECONDS)
        self.wait_started(2)
        wait_for(lambda: job.all("Accepted")[-1].headers["workqueue-packager"] != name, "another",
                 SECONDS)
        told.succeed()
        job.wait("Complete")

    def owner(self, packagers, pid):
        """The packager whose program that is."""
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        return next(p for p in packagers if p.pid == int(parent))

    def test_one_that_stops_leaves_its_jobs_to_others(self):
        one = self.packager(workers=3, ack_after_ms=300)
        told = {i: self.told(i) for i in "12"}
        jobs = [self.ask("1"), self.ask("2"), self.ask("2")]
        self.wait_started(2)
        for job in jobs:
            job.wait("Accepted")
        two = self.packager(workers=3)  # ActiveMQ has a worker hold each request
        told["1"].tell("trap '' TERM")  # until SIGKILL, after a second
        told["1"].progress("0.5")
        jobs[0].wait("0.5")
        first = self.started("1")[0]
        one.terminate()
        self.wait_started(2, "1")
        self.assertFalse(is_running(first))
        self.wait_started(2, "2")
        told["1"].succeed()
        told["2"].succeed()
        for job in jobs:
            job.wait("Complete")
        self.assertEqual(one.process.wait(SECONDS), 0)
        self.assertEqual(len(self.started()), 4)
        self.assertIsNone(two.process.poll())

    def test_a_long_job_is_put_off_and_comes_again_when_its_packager_dies(self):
        one = self.packager(workers=1, ack_after_ms=300)
        told = self.told("1")
        first = self.ask("1")
        pid = self.wait_started(1)
        other = self.packager(workers=1)
        # It comes again and again, and is put off as it runs; nobody is kept from other jobs.
        for _ in range(3):
            self.ask(f"other{uuid.uuid4().hex}").wait("Complete")
        self.assertEqual(len(self.started("1")), 1)
        one.kill()
        wait_for(lambda: not is_running(pid), "the program's end", SECONDS)
        self.wait_started(2, "1")
        other.wait_log("is taken over from")
        told.succeed()
        first.wait("Complete")

    def test_a_drain_ends_what_runs_and_takes_nothing_new(self):
        one = self.packager(workers=2)
        told, job = self.told("1"), self.ask("1")
        self.wait_started(1)
        one.process.send_signal(signal.SIGUSR1)
        one.wait_log("nothing new is taken")
        other = self.ask("2")
        time.sleep(0.5)
        self.assertEqual(self.started("2"), [])
        told.succeed()
        job.wait("Complete")
        self.assertEqual(one.process.wait(SECONDS), 0)
        self.packager()
        other.wait("Complete")

    def test_a_broker_that_is_killed_while_jobs_run(self):
        self.packager(workers=1)
        self.packager(workers=1)
        told = [self.told(str(i)) for i in range(3)]
        jobs = [self.ask(str(i)) for i in range(3)]
        self.wait_started(2)
        running = [i for i in range(3) if self.started(str(i))]
        for i in running:
            jobs[i].wait("Accepted")
        self.broker.kill()
        told[running[0]].succeed()  # while there is nobody to tell
        pid = self.started(str(running[0]))[0]
        wait_for(lambda: not is_running(pid), "the program's end", SECONDS)
        self.broker.start()
        self.answers = Answers(self, self.broker.port)
        jobs = [self.listen(job.id, **({"x-expires": "600000"} if self.service == "rabbitmq" else {}))
                for job in jobs]
        jobs[running[0]].wait("Complete")
        for i in set(range(3)) - {running[0]}:
            told[i].succeed()
            jobs[i].wait("Complete")
        self.barrier(2)
        self.assertEqual(len([i for i in range(3) for _ in self.started(str(i))]), 3)


class RabbitTest(Both, PackagerTest):
    service, slash = "rabbitmq", "%2F"

    def test_f_requests_of_a_key_that_runs_take_no_place(self):
        """Where the broker gives back later what it was sent; ActiveMQ's deliveries are held."""
        self.packager(workers=2)
        told = self.told("1")
        jobs = [self.ask("1") for _ in range(4)] + [self.ask("1", rebuild=True) for _ in range(2)]
        self.wait_started(1, "1")
        self.ask("2").wait("Complete")
        told.succeed()
        for job in jobs[:4]:
            job.wait("Complete")
        self.wait_started(2, "1")
        told.succeed()
        for job in jobs[4:]:
            job.wait("Complete")

    def test_the_default_destinations(self):
        packager = Packager(self, self.folder / "defaults", self.program, self.url)
        self.answers.send("/queue/docsets%2Fpackage", " http://server/api/docsets/5?fmt=meta,txt\n")
        self.answers.subscribe("/queue/package%2F5", "5")
        Job(self.answers, "5").wait("Complete")
        self.assertEqual(len(list(packager.store.glob("[0-9a-f]*"))), 1)


class ActiveTest(Both, PackagerTest):
    service, slash = "activemq", "/"


class StoreTest(PackagerTest):
    """Outputs in S3."""

    def s3(self, **options):
        swift = services.service("swift")
        environment = {"AWS_ACCESS_KEY_ID": "docsets:worker", "AWS_SECRET_ACCESS_KEY": SECRET,
                       "S3_ENDPOINT": f"http://127.0.0.1:{swift.port}"}
        subprocess.run([BUILD / "tests" / "s3-tool", "bucket"], check=True, stdout=subprocess.PIPE,
                       env={**os.environ, **environment, "S3_URL": "s3://packages",
                            "S3_CACHE": str(self.folder)})
        return swift, self.packager(store=f"s3://packages/{self.tag}", environment=environment,
                                    s3_endpoint=environment["S3_ENDPOINT"], **options)

    def test_a_store_that_is_away_for_a_while(self):
        swift, packager = self.s3(alive_ms=300)
        told = self.told("1")
        job = self.ask("1")
        told.progress("0.5")
        job.wait("0.5")
        swift.kill()
        told.succeed("kept")
        wait_for(lambda: not is_running(self.started()[0]), "the program's end", SECONDS)
        n = len(job.bodies())
        wait_for(lambda: len(job.bodies()) > n + 3, "signs of life", SECONDS)
        self.assertEqual(job.ends(), [])
        swift.start()
        complete = job.wait("Complete").body
        self.assertIn(f"http://127.0.0.1:{swift.port}/packages/{self.tag}/", complete)
        self.assertEqual(len(self.started()), 1)
        self.assertNotIn(SECRET, packager.log())


class CommandTest(unittest.TestCase):
    def run_with(self, *arguments, code=2, **environment):
        done = subprocess.run([*PACKAGER, *map(str, arguments)], text=True, timeout=SECONDS,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder,
                              env={**os.environ, **environment})
        self.assertEqual(done.returncode, code, done)
        return done

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="wq-test-packager-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def assert_refused(self, *arguments, words):
        said = self.run_with(*arguments).stderr
        self.assertEqual(said.count("\n"), 1, said)
        self.assertIn(words, said)
        self.assertNotIn("s3cret", said)

    def test_a_broker_that_asks_who_we_are(self):
        """It takes no connection without a certificate that its authority has signed."""
        folder = Path(tempfile.mkdtemp(prefix="wq-test-certificates-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        tls = folder / "tls"
        services.make_certificates(tls)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "server.pem", tls / "server.key")
        context.load_verify_locations(tls / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        listener.settimeout(SECONDS)
        for who, comes in ((["--broker-cert", tls / "server.pem", "--broker-key", tls / "server.key"], True),
                           ([], False)):
            with self.subTest(comes), open(folder / "log", "wb") as log:
                process = subprocess.Popen(list(map(str, [
                    *PACKAGER, "--broker", f"stomps://127.0.0.1:{listener.getsockname()[1]}", "--broker-ca",
                    tls / "ca.pem", *who, "--program", "/bin/true", "--store", folder, "--state",
                    folder / "state"])), stdout=log, stderr=log)
                try:
                    with listener.accept()[0] as plain:
                        plain.settimeout(SECONDS)
                        try:
                            with context.wrap_socket(plain, server_side=True) as link:
                                said = link.recv(100)
                        except ssl.SSLError:
                            said = b""
                    self.assertEqual(said.startswith(b"CONNECT\n"), comes)
                finally:
                    process.kill()
                    process.wait()

    def test_help_and_version(self):
        said = self.run_with("--help", code=0).stdout
        for option in ("--broker URL", "--store", "--program", "--state", "--ack-after-ms"):
            self.assertIn(option, said)
        self.assertTrue(all(len(line) <= 130 for line in said.split("\n")), said)
        self.assertIn("workqueue packager", self.run_with("--version", code=0).stdout)

    def test_what_is_wrong_is_said_in_one_sentence(self):
        broker = ("--broker", "stomp://u:s3cret@127.0.0.1:1")
        good = (*broker, "--store", self.folder, "--program", "/bin/true")
        self.assert_refused("--brokr", words="--brokr")
        self.assert_refused(words="--broker is missing")
        self.assert_refused(*broker, words="--store is missing")
        self.assert_refused(*broker, "--store", self.folder, words="--program is missing")
        self.assert_refused(*good, "--workers", "0", words="from 1 to 1024")
        self.assert_refused(*good, "--workers", words="needs a value")
        self.assert_refused(*good, "more", words="'more'")
        self.assert_refused(*good, "--state", "/proc/none", words="none")
        self.assert_refused(*broker, "--store", self.folder, "--program", "a=/bin/true", words="without a NAME")
        self.assert_refused(*good, "--name", "x" * 200, words="name")
        self.assert_refused(*good, "--broker", "http://u:s3cret@h", words="broker")
        self.assert_refused(*broker, "--store", "/proc/none", "--program", "/bin/true",
                            words="none")
        self.assert_refused(*broker, "--store", self.folder, "--program", "/none", words="/none")
        self.assert_refused(*broker, "--store", "s3://", "--program", "/bin/true", words="S3")
        file = self.folder / "file"
        file.write_text("")
        self.assert_refused(*good, "--state", file, words="file")

    def test_a_file_of_options(self):
        file = self.folder / "conf"
        lines = f"broker = stomp://u:s3cret@127.0.0.1:1\nstore = {self.folder}\n"
        for more, words in (("", "--program is missing"), ("program = /none\n", "/none"),
                            ("program = /bin/true\nworkers = 0\n", "from 1 to 1024"),
                            ("alive-ms = soon\n", "alive-ms"), ("max-queue = 80\n", "max-queue"),
                            ("[one]\nprogram = /bin/true\n", "without a NAME")):
            file.write_text(lines + more)
            self.assert_refused("--config", file, words=words)
        file.write_text(lines + "program = /none\n")
        self.assert_refused("--config", file, "--program", "/none/other", words="/none/other")
