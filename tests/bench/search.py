#!/usr/bin/python3
"""search.py - searches of the example plugin beside SQLite's own.

    tests/bench/search.py BUILD ROUNDS DOCUMENTS

Prints "NAME OURS OTHER" a round and kind of query: milliseconds of GET /search with twenty results and
their snippets, and of SELECT ... MATCH ... ORDER BY rank LIMIT 20 in the same database, which has no
snippets, and, in the row "broad", is given up after ten seconds."""

import base64
import http.client
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

BROAD = [a + "*" for a in "bdfghklmnprstvw"] + [a + "a*" for a in "bdfghklmnprstvw"] + ["st*", "sta*"]
# As we write it, as FTS5 does.
QUERIES = {
    "rare": ("only77", '"only77"'),
    "common": ("da", '"da"'),
    "both": ("fa stin", '"fa" AND "stin"'),
    "phrase": ('"da fa"', '"da fa"'),
    "beginning": ("sta*", '"sta" *'),
    "broad": (" OR ".join(BROAD), " OR ".join(f'"{b[:-1]}" *' for b in BROAD)),
}
TIMES = {"broad": 1}


class Plugin:
    def __init__(self, build, n, folder):
        self.process = subprocess.Popen(
            [f"{build}/demo-plugin/demo-plugin", "--listen", "127.0.0.1:0", "--storage", folder, "--journal", "none",
             "--sample", n], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.base = self.process.stdout.readline().split()[-1]

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.base.removeprefix("http://"), timeout=600)
        connection.request(method, path, body, {
            "Authorization": "Basic " + base64.b64encode(b"sample:x-auth-token").decode(),
            "Content-Type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def index(self):
        _, body = self.ask("POST", "/generate", urlencode({"server": self.base, "documentSetId": "1"}))
        if b'"returncode": 0' not in body:
            sys.exit(f"the documents could not be indexed: {body[-500:]}")

    def search(self, query):
        begin = time.monotonic()
        status, body = self.ask("GET", "/search?" + urlencode({"server": self.base, "documentSetId": "1", "q": query}))
        took = 1000 * (time.monotonic() - begin)
        if status != 200 or json.loads(body)["total"] == 0:
            sys.exit(f"nothing was found: {body[:500]}")
        return took


def alone(db, query):
    begin = time.monotonic()
    db.set_progress_handler(lambda: time.monotonic() - begin > 10, 10000)
    try:
        db.execute("SELECT rowid FROM fts WHERE fts MATCH ? ORDER BY rank LIMIT 20", (query,)).fetchall()
    except sqlite3.OperationalError:
        pass
    return 1000 * (time.monotonic() - begin)


def main(build, rounds, n):
    with tempfile.TemporaryDirectory(prefix="bench", dir=build) as folder:
        plugin = Plugin(build, n, folder)
        try:
            plugin.index()
            path = max(Path(folder).iterdir(), key=lambda p: p.stat().st_size)
            db = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
            db.enable_load_extension(True)
            db.load_extension(f"{build}/demo-plugin/words")
            for _ in range(int(rounds)):
                for name, (ours, other) in QUERIES.items():
                    times = TIMES.get(name, 7)
                    print(name, statistics.median(plugin.search(ours) for _ in range(times)),
                          statistics.median(alone(db, other) for _ in range(times)), flush=True)
        finally:
            plugin.process.terminate()
            plugin.process.wait()


main(*sys.argv[1:])
