#!/usr/bin/env python3
"""run.py - what a job, an event and a poll cost the server, in system calls and instructions.

    tests/cost/run.py [--build TREE] [--record] [--instructions]

Unlike a time, these figures are nearly the same on every machine, however busy it is. Each is a
slope: the server does N of them, then MORE, each time in a process of its own under strace (and,
if asked for, valgrind's callgrind), and the difference is divided. They are compared with
figures.json, and none may be larger by more than SLACK of it; --record writes them there anew, with
the reason to be told in the commit.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIGURES = Path(__file__).with_name("figures.json")
SLACK = {"calls": 0.06, "instructions": 0.10}
LEAST = {"calls": 0.5, "instructions": 2000}  # is no growth either
DEADLINE_S = 120
STRACE = ["strace", "-f", "-qq", "-c", "-o"]
CALLGRIND = ["valgrind", "--tool=callgrind", "--fair-sched=yes"]


def fields(document_set):
    return urllib.parse.urlencode({"server": "http://127.0.0.1:1", "documentSetId": document_set,
                                   "apiToken": "token-of-the-test"})


class Server:
    """The demo plugin, under a tool that counts."""

    def __init__(self, build, program, folder, tool):
        storage = Path(tempfile.mkdtemp(dir=folder))
        self.process = subprocess.Popen(
            [*tool, build / "demo-plugin/demo-plugin", "--listen", "127.0.0.1:0", "--program",
             program, "--storage", storage, "--journal", "none"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)", line)
        if not found:
            raise RuntimeError(f"the server has not started: {line}{self.process.stderr.read()}")
        self.connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=DEADLINE_S)

    def ask(self, method, path, body=None):
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response, response.read()

    def stop(self):
        """What it has said on stderr."""
        self.connection.close()
        target = self.process.pid
        children = Path(f"/proc/{target}/task/{target}/children")
        if self.process.args[0] == "strace":
            target = int(children.read_text().split()[0])
        os.kill(target, 15)
        said = self.process.communicate(timeout=DEADLINE_S)[1]
        if self.process.returncode != 0:
            raise RuntimeError(f"the server has ended with {self.process.returncode}: {said}")
        return said


# ---- what is done n times ------------------------------------------------------------------------

def do_jobs(server, n):
    for i in range(n):
        response, body = server.ask("POST", "/generate", fields(f"job{i}-2"))
        if b'"returncode": 0' not in body:
            raise RuntimeError(f"a job has failed: {response.status} {body}")


def do_events(server, n):
    response, body = server.ask("POST", "/generate", fields(f"events-{n}"))
    if body.count(b"fraction") < n * 0.9:
        raise RuntimeError(f"of {n} events only {body.count(b'fraction')} were told")


def do_polls(server, n):
    """Of a job that has ended: one that runs would be held until there is news."""
    response, _ = server.ask("POST", "/start_work", fields("polls-0"))
    path = urllib.parse.urlparse(response.headers["Location"]).path
    for _ in range(n):
        response, body = server.ask("GET", path)
        if response.status not in (200, 202, 303):
            raise RuntimeError(f"a poll has failed: {response.status} {body}")


WORK = {"job": (do_jobs, 5, 45), "event": (do_events, 20, 220), "poll": (do_polls, 20, 420)}


# ---- counting ------------------------------------------------------------------------------------

def count_calls(build, program, folder, do, n):
    log = folder / "calls"
    server = Server(build, program, folder, [*STRACE, log])
    do(server, n)
    server.stop()
    return int(re.search(r"^100\.00\s+\S+\s+(?:\S+\s+)?(\d+)(?:\s+\d+)?\s+total", log.read_text(),
                         re.M)[1])


def count_instructions(build, program, folder, do, n):
    server = Server(build, program, folder,
                    [*CALLGRIND, f"--callgrind-out-file={folder / 'callgrind'}"])
    do(server, n)
    return int(re.search(r"Collected : (\d+)", server.stop())[1])


def measure(build, program, kinds):
    figures = {}
    for name, (do, few, more) in WORK.items():
        for kind, count in kinds.items():
            with tempfile.TemporaryDirectory(prefix="wq-cost-") as folder:
                counts = [count(build, program, Path(folder), do, n) for n in (few, more)]
            slope = (counts[1] - counts[0]) / (more - few)
            figures[f"{kind} a {name}"] = round(slope, 1 if kind == "calls" else None)
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=ROOT / "build", type=Path)
    parser.add_argument("--program", type=Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--instructions", action="store_true")
    options = parser.parse_args()
    program = options.program or options.build / "tests/programs/cost_job"
    kinds = {"calls": count_calls}
    if shutil.which("strace") is None:
        print("SKIPPED: there is no strace")
        return 77
    if options.instructions and shutil.which("valgrind") is not None:
        kinds["instructions"] = count_instructions
    figures, grown = measure(options.build.resolve(), program.resolve(), kinds), []
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name, figure in figures.items():
        kind = name.split()[0]
        before = known.get(name)
        too_much = before is not None and figure > before + max(before * SLACK[kind], LEAST[kind])
        grown += [name] if too_much else []
        print(f"{name:24} {figure:12,}   recorded: {before}{'   GROWN' if too_much else ''}")
    if options.record:
        FIGURES.write_text(json.dumps({**known, **figures}, indent=4) + "\n")
        return 0
    return 1 if grown or not known else 0


if __name__ == "__main__":
    sys.exit(main())
