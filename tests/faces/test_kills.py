"""test_kills.py - the server is killed again and again under load, and nothing is lost or left.

    python3 tests/faces/test_kills.py [--rounds N] [--seed N]

Each round: clients at all faces, SIGKILL of the server at a random moment, also while it starts or
stops, several times; then a server that may live, and a look at everything. Chance follows the
seed, as far as the scheduler lets it. Without --rounds it goes on for 45 s.
"""

import ctypes
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import unittest

from harness import SANITIZED, FaceTest, Server, demo_command, wait_for
from load import ENDLESS, FAILING, GIVEN_UP, MARK, WHOLE, Books, Job, Load, check_output, install

SECONDS = 10 if SANITIZED else 45
PR_SET_CHILD_SUBREAPER = 36
MINE = re.compile(r"(storage|storage-journal\.sqlite(-wal)?|program|locks|runs|tmp|told|copy.*|log\.\d+"
                  r"|sanitizer.*)")


def adopt_orphans(on):
    """What loses its parent becomes our child, so that nothing gets out of sight."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def children(pid):
    """Its children that are alive, by command line; our own dead ones are reaped."""
    found = {}
    for entry in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{entry}/children") as file:
                pids = [int(p) for p in file.read().split()]
        except OSError:
            continue
        for child in pids:
            try:
                with open(f"/proc/{child}/stat") as file:
                    dead = file.read().rpartition(")")[2].split()[0] in "ZX"
                with open(f"/proc/{child}/cmdline") as file:
                    command = file.read().replace("\0", " ").strip()
            except OSError:
                continue
            if not dead:
                found[child] = command
            elif pid == os.getpid():
                try:
                    os.waitpid(child, os.WNOHANG)
                except ChildProcessError:
                    pass
    return found


class KilledServer(Server):
    def _environment(self):
        return {**super()._environment(), "TMPDIR": str(self.folder / "tmp")}


class KillTest(FaceTest):
    rounds, seed = None, None

    def setUp(self):
        super().setUp()
        adopt_orphans(True)
        self.addCleanup(adopt_orphans, False)
        self.addCleanup(self.end_what_is_left)
        self.program = install(self.folder)
        (self.folder / "tmp").mkdir()
        (self.folder / "runs").touch()
        self.books = Books(self.folder)
        self.whole = {}       # path: (inode, modified), of outputs that were looked at
        self.read_to = 0      # of the log of runs
        self.starts, self.finished = {}, {}
        self.count = {}
        self.servers = 0

    def start(self, chance, **more):
        options = dict(workers=chance.choice([2, 4]), grace_ms=150, max_attempts=50,
                       cgroup=chance.choice(["auto", "none"]), sync=chance.random() < 0.25,
                       private_tmpdir=chance.random() < 0.5, fair=chance.random() < 0.5)
        options = {name: value for name, value in options.items() if value or name == "sync"}
        return demo_command(self.program, self.folder / "storage", **{**options, **more})

    def serve_command(self, command):
        self.servers += 1
        return KilledServer(self.folder, None, command=command)

    def end_what_is_left(self):
        """After a failure."""
        for _ in range(2):  # of the server, then of what it leaves
            for pid, command in children(os.getpid()).items():
                if str(self.folder) in command:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def tally(self, what, n=1):
        self.count[what] = self.count.get(what, 0) + n

    # -- doing the harm --------------------------------------------------------------------------

    def kill_while_it_starts(self, chance):
        with open(self.folder / "log.0", "ab") as log:
            process = subprocess.Popen(self.start(chance), stdout=subprocess.DEVNULL, stderr=log,
                                       env={**os.environ, "TMPDIR": str(self.folder / "tmp")})
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        process.wait()

    def kill_under_load(self, chance, prefix, stops):
        server = self.serve_command(self.start(chance))
        load = Load(server.address, self.books, chance.random(), prefix)
        time.sleep(chance.uniform(0.02, 0.6))
        load.end()
        if stops:
            server.terminate()
            time.sleep(chance.uniform(0, 0.2))
        server.kill()
        load.join()
        server.process.stdout.close()
        self.check_log(server)

    def one_round(self, n):
        chance = random.Random(f"{self.seed}/{n}")
        prefix = f"r{n}x{chance.getrandbits(16)}"
        ways = ["load"] + chance.choices(["load", "stop", "start"], [3, 2, 2],
                                         k=chance.choice([0, 0, 1, 2]))
        for i, way in enumerate(ways):
            self.tally(f"killed: {way}")
            if way == "start":
                self.kill_while_it_starts(chance)
            else:
                self.kill_under_load(chance, f"{prefix}y{i}", way == "stop")
            self.check_journal()
        server = self.serve_command(self.start(chance))
        self.settle(server, prefix, chance)
        self.look_around(server, prefix)
        if chance.random() < 0.5:
            server.finish()
        else:
            server.kill()
            server.process.stdout.close()
        wait_for(lambda: not children(os.getpid()), "no process at all",
                 seen=lambda: children(os.getpid()))

    # -- looking at what is left -----------------------------------------------------------------

    def check_log(self, server):
        if MARK in server.log():
            self.books.complain(f"a token in the log {server.log_path}")
        server.log_path.unlink()

    def check_journal(self):
        """In a copy, as opening it changes it."""
        for path in self.folder.glob("storage-journal.sqlite*"):
            shutil.copy(path, str(path).replace("storage-journal", "copy"))
        if (self.folder / "copy.sqlite").exists():
            database = sqlite3.connect(self.folder / "copy.sqlite")
            said = database.execute("PRAGMA integrity_check").fetchall()
            database.close()
            if said != [("ok",)]:
                self.books.complain(f"the journal: {said}")
        for path in self.folder.glob("copy.*"):
            path.unlink()

    def in_journal(self, text):
        return any(text.encode() in path.read_bytes()
                   for path in self.folder.glob("storage-journal.sqlite*"))

    def names(self, prefix):
        return [name for name in list(self.books.jobs) if name.startswith(prefix)]

    def ask_again(self, load, job):
        """By an id, whether it is still there; what was accepted and did not end must be."""
        head, body = load.ask("POST", "/start_work", job.headers(), job.body())
        if not load.expect(head, body, 303):
            return
        may_have_ended = (job.action in FAILING or job.name in self.books.cancels
                          or job.name in self.books.forgetful)
        known = job.name in self.books.accepted
        if known and head.get("x-workqueue") == "started" and not may_have_ended:
            self.books.complain(f"{job.document_set} is lost")
        id_ = head.get("location").rpartition("/")[2]
        self.books.accept(job, id_)
        if job.action in ENDLESS:
            self.books.cancels.add(job.name)

    def settle(self, server, prefix, chance):
        """All that was accepted ends, and stays ended."""
        load = Load(server.address, self.books, 0, prefix, clients=0)
        for name in self.names(prefix):
            job = self.books.jobs[name]
            if job.action in ENDLESS or job.action in WHOLE and name in self.books.accepted:
                self.ask_again(load, job)
        ids = [(id_, self.books.jobs[name]) for id_, name in list(self.books.ids.items())
               if name.startswith(prefix)]
        for id_, job in ids:
            if job.action in ENDLESS:
                self.books.cancels.add(job.name)
                load.expect(*load.ask("DELETE", f"/work/{id_}"), 204, 409)
        wait_for(lambda: self.is_idle(server), "every job to end",
                 seen=lambda: (server.ask("GET", "/health")[1], server.log()[-3000:]))
        old = [(id_, self.books.jobs[name]) for id_, name in list(self.books.ids.items())[-1000:]]
        for id_, job in ids + chance.sample(old, min(20, len(old))):
            wait_for(lambda: load.look_at_work(job, id_) or self.books.wrong,
                     f"an end of {job.document_set} {id_}", seen=lambda: load.look_at_task(job, id_))
            load.look_at_task(job, id_)
        self.tally("jobs with an id", len(ids))
        self.tally("jobs", len(self.names(prefix)))

    def is_idle(self, server):
        text = server.ask("GET", "/metrics")[1].decode()
        return not re.search(r"^workqueue_(queued|running|publishing)_jobs [1-9]", text, re.M)

    def look_around(self, server, prefix):
        wait_for(lambda: self.stray(server) == [], "no process of a job",
                 seen=lambda: self.stray(server))
        wait_for(lambda: not self.in_journal(MARK), "no token in the journal")
        self.check_storage()
        self.check_runs(prefix)
        self.check_log_of(server)
        extra = [p.name for p in self.folder.iterdir() if not MINE.fullmatch(p.name)]
        # ThreadSanitizer removes its own at once, but who is killed sooner cannot
        extra += [p for p in (self.folder / "tmp").iterdir() if not p.name.startswith("tsan.rodata.")]
        if extra:
            self.books.complain(f"left behind: {extra}")

    def check_log_of(self, server):
        text = server.log()
        if MARK in text or GIVEN_UP in text or "corrupt" in text:
            self.books.complain(f"the log: {text[-2000:]}")

    def stray(self, server):
        """All processes but the server and one guard."""
        below = list(children(server.pid).values())
        own = [c for pid, c in children(os.getpid()).items() if pid != server.pid]
        guards = [c for c in own if "workqueue-guard" in c]
        others = [c for c in own if "workqueue-guard" not in c]
        return below + others + guards[1:] + ([] if guards else ["no guard"])

    def check_storage(self):
        keys = {job.key: job for job in self.books.jobs.values()}
        present = set()
        for entry in os.scandir(self.folder / "storage"):
            stat = entry.stat()
            present.add(entry.name)
            if entry.name.startswith(".workqueue."):
                continue  # our own
            if entry.name not in keys:
                self.books.complain(f"in the storage: {entry.name}")
            elif self.whole.get(entry.name) != (stat.st_ino, stat.st_mtime_ns):
                self.whole[entry.name] = (stat.st_ino, stat.st_mtime_ns)
                with open(entry.path, "rb") as file:
                    if wrong := check_output(file.read(), keys[entry.name].name):
                        self.books.complain(f"{wrong}, in the storage")
        for id_, (what, _) in self.books.ends.items():
            if what == "succeeded" and self.books.jobs[self.books.ids[id_]].key not in present:
                self.books.complain(f"{id_} has succeeded, and has no output")

    def check_runs(self, prefix):
        """The log of the program itself."""
        with open(self.folder / "runs", "rb") as file:
            file.seek(self.read_to)
            for line in file:
                if len(line.split()) != 3:
                    self.books.complain(f"the program has noted {line!r} at {self.read_to}")
                    break
                what, name, pid = line.decode().split()
                if what == "twice":
                    self.books.complain(f"{name} runs twice at once, in {pid}")
                # who asks while a cancel is under way gets another run, even if that came too late
                asked_again = name in self.books.rebuilds | self.books.cancels
                if (what == "start" and not asked_again
                        and self.books.after.get(name, sys.maxsize) <= self.read_to):
                    self.books.complain(f"{name} runs again after its success")
                counts = self.starts if what == "start" else self.finished
                counts[name] = counts.get(name, 0) + 1
                self.read_to += len(line)
                self.tally(f"runs: {what}")
        for name in self.names(prefix):
            action = self.books.jobs[name].action
            if name not in self.books.accepted:
                continue
            cancelled = name in self.books.cancels or name in self.books.forgetful
            counts = self.starts if action == "die" else self.finished
            if action not in ENDLESS and not cancelled and name not in counts:
                self.books.complain(f"{name}, {action}, was accepted and never ended")

    # -- tests -----------------------------------------------------------------------------------

    def test_rounds(self):
        self.seed = random.randrange(1 << 32) if self.seed is None else self.seed
        begin, n = time.monotonic(), 0
        while (n < self.rounds) if self.rounds else (time.monotonic() - begin < SECONDS):
            try:
                self.one_round(n)
            finally:
                if self.books.wrong:
                    shutil.copytree(self.folder, f"{self.folder}.kept", ignore=lambda *_: ["locks"])
                    print(f"kept: {self.folder}.kept")
                self.assertEqual(self.books.wrong[:10], [], f"in round {n} of seed {self.seed}")
            n += 1
            if self.rounds and n % 10 == 0:
                print(f"{n} rounds, {time.monotonic() - begin:.0f} s, {self.count}", flush=True)
        print(f"{n} rounds with seed {self.seed}: {self.count}")

    def result(self, server, id_):
        """The answer once the job has ended; that it has begun is not yet one."""
        def ended():
            head, body = server.ask("GET", f"/work/{id_}", {"Prefer": "wait=10"})
            return head.status != 303 and (head, body)
        return wait_for(ended, f"the end of {id_}")

    def test_what_kills_the_server_is_given_up(self):
        """Not a crash loop: so many attempts, one more if the first was too quick to be noted."""
        chance = random.Random(1)
        for ms, at_most in ((1000, 2), (0, 3)):
            job = Job(f"k{ms}", "killer", 1, ms)
            server = self.serve_command(self.start(chance, max_attempts=2, workers=1))
            load = Load(server.address, self.books, 0, "k", clients=0)
            before = Job(f"b{ms}", "good", 1, 2000)  # so that the answer comes before the end does
            load.ask("POST", "/start_work", before.headers(), before.body())
            head, body = load.ask("POST", "/start_work", job.headers(), job.body())
            id_ = head.get("location").rpartition("/")[2]
            for _ in range(at_most):
                server.wait()
                server.process.stdout.close()
                try:
                    server = self.serve_command(self.start(chance, max_attempts=2))
                    head, body = self.result(server, id_)
                    break
                except (AssertionError, ConnectionError):
                    continue
            self.assertEqual(head.status, 500, body)
            self.assertIn("ended unexpectedly while this job ran, 2 times",
                          json.loads(body)["detail"])
            starts = (self.folder / "runs").read_text().count(f"start {job.name} ")
            self.assertTrue(2 <= starts <= at_most, starts)
            server.finish()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    while arguments:
        name, value, *arguments = arguments
        setattr(KillTest, {"--rounds": "rounds", "--seed": "seed"}[name], int(value))
    unittest.main(argv=[sys.argv[0], "KillTest.test_rounds"])
