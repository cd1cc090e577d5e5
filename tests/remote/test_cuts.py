"""test_cuts.py - jobs in flight at two servers and two packagers, while one of them, the broker or
the store is killed, stopped or cut off, again and again; and nothing is lost, and nothing left.

    python3 tests/remote/test_cuts.py [--rounds N] [--seed N]

Without --rounds it goes on for 20 s. Chance follows the seed, as far as the scheduler lets
it. Each round has one harm; then all is well again, and every job must end as it should.
"""

import hashlib
import json
import os
import random
import re
import signal
import sys
import threading
import time
import unittest
import warnings
from pathlib import Path

from machines import Cluster
from harness import SERVER, FaceTest, basic, plain_only, request_bytes, wait_for

SECONDS = 20
ROUND_SECONDS = 150  # a job has ended by then
PROGRAM = r"""#!/bin/sh
# NAME.ACTION.STEPS.SECONDS
here=$(dirname "$0")
IFS=. read -r name action steps seconds <<END
$2
END
seconds=0.$seconds
echo "start $2 $$" >>"$here/runs"
i=0
while [ $i -lt "$steps" ]; do
    i=$((i + 1))
    printf '%s/%s\tstep %s\n' $i $((steps + 1)) $i
    sleep "$seconds"
done
[ "$action" = fail ] && echo 'as told' >&2 && exit 3
yes "$2 $$" | head -n 20000 >"$4.part"
{ cat "$4.part"; sha256sum <"$4.part"; } >"$4"
rm "$4.part"
"""


def check_output(data, name):
    """What is wrong with it, or None if it is whole."""
    body, _, last = data.rstrip(b"\n").rpartition(b"\n")
    if last.split()[:1] != [hashlib.sha256(body + b"\n").hexdigest().encode()]:
        return f"the output of {name} is not whole: {len(data)} bytes, {data[-80:]!r}"
    return None if body.startswith(name.encode() + b" ") else f"not of {name}: {body[:80]!r}"


class Gone(Exception):
    """The server has ended, or says that it cannot now."""


class Client(threading.Thread):
    """Asks a server for a job until it has seen its end, whatever happens to the server."""

    def __init__(self, server, name, polls, until):
        super().__init__(daemon=True)
        self.server, self.name_, self.polls, self.until = server, name, polls, until
        self.id = self.end = self.output = self.wrong = None
        self.seen = []
        self.start()

    def run(self):
        try:
            while self.end is None and self.wrong is None:
                if time.monotonic() > self.until:
                    self.wrong = f"no end; seen {self.seen[-5:]}"
                    break
                try:
                    (self.poll if self.polls else self.stream)()
                except (Gone, OSError, AssertionError, json.JSONDecodeError, ValueError) as why:
                    self.seen.append(repr(why)[:300])
                    time.sleep(0.1)
        except Exception as why:
            self.wrong = repr(why)

    def headers(self, **more):
        return {"Authorization": basic(), "Content-Type": "application/x-www-form-urlencoded",
                "Connection": "close", **more}

    def ask(self, method, path, headers=None, body=None):
        client = self.server.connect()
        try:
            client.send(request_bytes(method, path, headers, body))
            client.read_all(60)
            return client.head, client.body
        finally:
            client.close()

    def body(self):
        return f"server={SERVER}&documentSetId={self.name_}"

    def stream(self):
        client = self.server.connect()
        try:
            client.send(request_bytes("POST", "/generate", self.headers(
                Accept="application/x-ndjson"), self.body()))
            client.read_head(60)
            if client.head.status != 200:
                raise Gone(client.head.status)
            fraction, record = 0, None
            while (following := client.record(30)) is not None:
                record = following
                if record["fraction"] < fraction:
                    self.wrong = f"{fraction} was followed by {record}"
                fraction = record["fraction"]
                self.seen.append(fraction)
            if record is None:
                if client.head.get("x-workqueue") != "hit":
                    raise Gone("no record")
                self.end = 0
            elif record["returncode"] is not None and "queue is stopping" not in (record["error"] or ""):
                self.end = record["returncode"]
                self.seen.append(record["error"])
        finally:
            client.close()

    def poll(self):
        if self.id is None:
            head, body = self.ask("POST", "/start_work", self.headers(), self.body())
            if head.status != 303:
                raise Gone(head.status, body)
            self.id = head.get("location").rpartition("/")[2]
        head, body = self.ask("GET", f"/work/{self.id}", {"Prefer": "wait=2"})
        if head.status == 404:
            self.wrong = f"{self.id} was forgotten"
        elif head.status == 200:
            self.end, self.output = 0, body
        elif head.status in (410, 500) and b"queue is stopping" not in body:
            self.seen.append(body)
            self.end = 3 if b"code 3" in body else head.status
        elif head.status != 303:
            raise Gone(head.status, body)


@plain_only
class CutTest(FaceTest):
    rounds, seed = None, None

    def setUp(self):
        super().setUp()
        warnings.simplefilter("ignore", ResourceWarning)  # of connections that are refused
        self.program = self.script(PROGRAM)
        (self.folder / "runs").touch()
        self.count = {}
        self.slowest = 0
        self.cluster = Cluster(
            self, self.program,
            server_options=("--broker-heartbeat-ms", "1000", "--heartbeat-ms", "1000"),
            packager_options=("--broker-heartbeat-ms", "1000", "--alive-ms", "500", "--grace-ms", "300",
                              "--renew-ms", "500", "--takeover-ms", "3000", "--put-off-ms", "400"))

    def runs(self, name):
        return sum(line.split()[1] == name
                   for line in (self.folder / "runs").read_text().splitlines())

    def wait_connected(self, machine, before):
        wait_for(lambda: machine.log().count(": connected") > before, f"{machine.name} connected", 60)

    # -- harm: whether a key may run more than once by it ----------------------------------------

    def revive(self, machine, chance):
        time.sleep(chance.choice([0, 0, 0.5, 2]))
        before = machine.log().count(": connected")
        machine.start()
        return lambda: self.wait_connected(machine, before)

    def harm_none(self, chance):
        return False, None

    def harm_kill_packager(self, chance):
        packager = chance.choice(self.cluster.packagers)
        packager.kill()
        return True, self.revive(packager, chance)

    def harm_end_packager(self, chance):
        packager = chance.choice(self.cluster.packagers)
        packager.terminate()
        return True, self.revive(packager, chance)

    def harm_kill_server(self, chance):
        server = chance.choice(self.cluster.servers)
        server.kill()
        return False, self.revive(server, chance)

    def harm_end_server(self, chance):
        server = chance.choice(self.cluster.servers)
        server.terminate()
        return False, self.revive(server, chance)

    def harm_kill_broker(self, chance):
        before = [(m, m.log().count(": connected")) for m in self.cluster.machines]
        self.cluster.rabbitmq.kill()
        time.sleep(chance.choice([0, 1, 3]))
        self.cluster.rabbitmq.start()
        return False, lambda: [self.wait_connected(*each) for each in before]

    def harm_kill_store(self, chance):
        self.cluster.ceph.kill()
        time.sleep(chance.choice([0, 1]))
        self.cluster.ceph.start()
        return False, None

    def stop_for_a_while(self, pid, chance):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(chance.choice([0.5, 2, 5]))
        os.kill(pid, signal.SIGCONT)

    def harm_stop_packager(self, chance):
        self.stop_for_a_while(chance.choice(self.cluster.packagers).pid, chance)
        return True, None

    def harm_stop_server(self, chance):
        self.stop_for_a_while(chance.choice(self.cluster.servers).pid, chance)
        return False, None

    def harm_stop_broker(self, chance):
        self.stop_for_a_while(self.cluster.rabbitmq.pid("rabbitmq"), chance)
        return False, None

    def harm_stop_store(self, chance):
        self.stop_for_a_while(self.cluster.ceph.pid("rgw"), chance)
        return False, None

    def with_proxies(self, proxies, chance, ways):
        way = chance.choice(ways)
        self.tally(f"  {way}")
        for proxy in proxies:
            if way in ("away", "cut"):
                proxy.refuses = way == "away"
                proxy.cut()
            elif way == "stalled":
                proxy.stalled.clear()
            else:
                proxy.bytes_per_s = 4000 if "broker" in way else 100000
        time.sleep(chance.choice([0.2, 1, 4]))
        for proxy in proxies:
            proxy.heal()

    def harm_broker_connections(self, chance):
        machines = chance.choice([self.cluster.machines, [chance.choice(self.cluster.machines)]])
        self.with_proxies([m.broker for m in machines], chance,
                          ["cut", "away", "stalled", "slow broker"])
        return False, None

    def harm_store_connections(self, chance):
        machines = chance.choice([self.cluster.machines, [chance.choice(self.cluster.machines)]])
        self.with_proxies([m.store for m in machines], chance, ["cut", "away", "stalled", "slow"])
        return len(machines) == 1 and machines[0] in self.cluster.packagers, None  # it alone

    WEIGHTS = {"none": 2, "kill_packager": 6, "end_packager": 2, "kill_server": 4, "end_server": 2,
               "kill_broker": 4, "kill_store": 2, "stop_packager": 3, "stop_server": 2,
               "stop_broker": 2, "stop_store": 2, "broker_connections": 4, "store_connections": 3}

    # -- a round ---------------------------------------------------------------------------------

    def tally(self, what):
        self.count[what] = self.count.get(what, 0) + 1

    def ask_for_jobs(self, n, chance):
        clients, until = [], time.monotonic() + ROUND_SECONDS
        for i in range(chance.randint(4, 8)):
            fails = chance.random() < 0.2
            name = (f"r{n}j{i}x{chance.getrandbits(16)}.{'fail' if fails else 'ok'}."
                    f"{chance.randint(0, 8)}.{chance.choice([0, 0, 1, 2, 4])}")
            some = chance.sample(self.cluster.servers, 1 if fails else chance.choice([1, 2, 2]))
            for server in some:
                clients.append(Client(server, name, chance.random() < 0.5, until))
        return clients

    def one_round(self, n):
        chance = random.Random(f"{self.seed}/{n}")
        harm = chance.choices(list(self.WEIGHTS), list(self.WEIGHTS.values()))[0]
        self.tally(harm)
        began = time.monotonic()
        clients = self.ask_for_jobs(n, chance)
        time.sleep(chance.uniform(0, 1.5))
        try:
            may_repeat, wait_until_well = getattr(self, f"harm_{harm}")(chance)
            for client in clients:
                client.join(ROUND_SECONDS + 90)
            if wait_until_well is not None:
                wait_until_well()
            self.check(clients, may_repeat)
        except AssertionError as error:
            raise AssertionError(f"round {n}, {harm}, seed {self.seed}: {error}\n" + "\n".join(
                f"-- {m.name}\n" + "\n".join(m.log().splitlines()[-60:]) for m in self.cluster.machines)) from error
        self.slowest = max(self.slowest, time.monotonic() - began)
        if self.rounds is not None:
            print(f"round {n}: {harm}, {len(clients)} clients, {time.monotonic() - began:.1f} s",
                  flush=True)

    def check(self, clients, may_repeat):
        wrong, outputs = [], {}
        for c in clients:
            expected = 3 if ".fail." in c.name_ else 0
            if c.wrong or c.end != expected:
                wrong.append(f"{c.name_} at {c.server.name}: {c.wrong}, end {c.end}, not {expected}, "
                             f"{self.runs(c.name_)} runs, "
                             f"{'polled' if c.polls else 'streamed'} {c.id}; {c.seen[-4:]}")
            if c.output is not None:
                outputs.setdefault(c.name_, set()).add(c.output)
        for name, all_ in outputs.items():
            wrong += filter(None, [check_output(output, name) for output in all_])
            if len(all_) > 1:
                wrong.append(f"{name} has {len(all_)} different outputs")
        for name in {c.name_ for c in clients}:
            runs = self.runs(name)
            self.count["runs"] = self.count.get("runs", 0) + runs
            if runs < 1 or (runs > 1 and not may_repeat):
                wrong.append(f"{name} ran {runs} times")
        assert not wrong, "\n".join(wrong)

    # -- what is left ----------------------------------------------------------------------------

    def processes(self):
        """Command lines that name our folder, of programs and guards too."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = path.read_text(errors="replace").replace("\0", " ")
            except OSError:
                continue
            if str(self.folder) in text:
                found.append(text)
        return found

    def check_the_rest(self):
        cluster = self.cluster
        wait_for(lambda: cluster.queues().get(cluster.queue, (1, 0))[0] == 0, "no job at the broker",
                 60, seen=cluster.queues)
        for machine in cluster.machines:
            machine.terminate()
            log = machine.log()
            for secret in ("tok3nofthetest", "docsets:docsets", "docsets-secret"):
                self.assertNotIn(secret, log)
        left = cluster.queues()
        self.assertEqual(left.pop(cluster.queue), (0, 0))
        self.assertEqual(left.pop(cluster.queue + "/delete", (0, 0)), (0, 0))
        self.assertEqual(left.pop(cluster.queue + ".wait-400", (0, 0))[1], 0)
        self.assertEqual(left, {})  # answers and inboxes have gone with their readers
        wait_for(lambda: not self.processes(), "no process", seen=self.processes)
        files = [str(p.relative_to(self.folder)) for m in cluster.machines
                 for p in m.folder.rglob("*") if p.is_file()]
        mine = re.compile(r".*/(\.workqueue\.(lock|process)|s3-copies/[0-9a-f]{64})$")
        self.assertEqual([f for f in files if not mine.match(f)], [])

    def test_whatever_dies_every_job_ends_once(self):
        CutTest.seed = self.seed if self.seed is not None else random.randrange(1 << 32)
        began, n = time.monotonic(), 0
        while n < self.rounds if self.rounds is not None else time.monotonic() - began < SECONDS:
            self.one_round(n)
            n += 1
        self.check_the_rest()
        print(f"seed {self.seed}, {n} rounds, {self.count}, the longest {self.slowest:.1f} s",
              flush=True)


if __name__ == "__main__":
    for option in ("--rounds", "--seed"):
        if option in sys.argv:
            at = sys.argv.index(option)
            setattr(CutTest, option[2:], int(sys.argv[at + 1]))
            del sys.argv[at:at + 2]
    unittest.main()
