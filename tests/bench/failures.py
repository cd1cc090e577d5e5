#!/usr/bin/python3
"""failures.py - what many failed jobs in the journal cost those that come after them.

    tests/bench/failures.py BUILD FAILURES

Jobs fail, each with 64 KiB of stderr, as many as FAILURES. Prints "NAME OURS OTHER" a row: p99 of POST
/start_work of 400 further jobs in milliseconds, with the failures in the journal and with none, and how
long it takes from the start of the server until it listens, likewise; then the bytes of the journal's
files and of the errors in them, in MiB."""

import http.client
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

ACCEPTED = 400
FAILING = """#!/bin/sh
case $2 in
fails*) cat "{blob}" >&2; exit 1;;
esac
echo done >"$4"
"""


class Server:
    def __init__(self, build, folder, program):
        began = time.monotonic()
        self.process = subprocess.Popen(
            [build / "demo-plugin/demo-plugin", "--listen", "127.0.0.1:0", "--program", program,
             "--storage", folder, "--journal", f"{folder}-journal", "--workers", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = re.search(r"http://([\d.]+):(\d+)", self.process.stdout.readline())
        self.opened_ms = 1000 * (time.monotonic() - began)
        self.connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=60)

    def ask(self, path, name):
        fields = {"server": "http://127.0.0.1:1", "documentSetId": name, "apiToken": "t"}
        self.connection.request("POST", path, urlencode(fields),
                                {"Content-Type": "application/x-www-form-urlencoded"})
        response = self.connection.getresponse()
        return response.status, response.read()

    def stop(self):
        self.process.terminate()
        if self.process.wait(60) != 0:
            sys.exit("failures.py: the server has not ended well")
        self.process.stdout.close()

    def p99_ms(self, name):
        times = []
        for i in range(ACCEPTED):
            began = time.monotonic()
            status, _ = self.ask("/start_work", f"{name}{i}")
            if status not in (303, 202):
                sys.exit(f"failures.py: a job was not accepted: {status}")
            times.append(1000 * (time.monotonic() - began))
        return sorted(times)[ACCEPTED * 99 // 100]


def fail(server, n):
    for i in range(n):
        status, body = server.ask("/generate", f"fails{i}")
        if status != 200 or b'"returncode": 1' not in body:
            sys.exit(f"failures.py: a job has not failed as it should: {status} {body[:200]}")


def main():
    build, n = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="wq-bench-", dir=os.environ.get("BENCH_STORAGE")) as name:
        folder = Path(name)
        blob, program = folder / "blob", folder / "program"
        blob.write_bytes(b"something went wrong here, and here\n" * (65536 // 36))
        program.write_text(FAILING.format(blob=blob))
        program.chmod(0o755)
        empty, full = folder / "empty", folder / "full"
        for storage in (empty, full):
            storage.mkdir()
        server = Server(build, full, program)
        fail(server, n)
        server.stop()
        opened, p99 = {}, {}
        for storage in (empty, full):
            server = Server(build, storage, program)
            opened[storage] = server.opened_ms
            p99[storage] = server.p99_ms("accepted")
            server.stop()
        print("p99", round(p99[full], 2), round(p99[empty], 2))
        print("open", round(opened[full], 1), round(opened[empty], 1))
        size = sum(f.stat().st_size for f in folder.glob("full-journal*"))
        with sqlite3.connect(f"file:{full}-journal?mode=ro", uri=True) as journal:
            errors = journal.execute("SELECT coalesce(sum(size), 0) FROM error").fetchone()[0]
        print("bytes", round(size / 2**20, 1), round(errors / 2**20, 1))


main()
