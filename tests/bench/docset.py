#!/usr/bin/python3
"""docset.py - process-docset beside what else makes the same index.

    tests/bench/docset.py BUILD ROUNDS DOCUMENTS

Prints a line a round: "OURS ALONE PYTHON KIB OTHER_KIB". OURS are the seconds of process-docset, from a
server on loopback that has its answer ready. ALONE are those that SQLite takes to insert the same
documents, which are in memory, by the same statements and the same tokenizer. PYTHON are those of a
script that downloads the answer, parses all of it, and does that. KIB is how much memory process-docset
had at its most, OTHER_KIB the same of the script."""

import http.server
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

SCHEMA = """
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-4096;
CREATE TABLE documents(id INTEGER PRIMARY KEY, title TEXT, page INTEGER, url TEXT, text TEXT);
CREATE VIRTUAL TABLE fts USING fts5(title, text, content='documents', content_rowid='id', tokenize='words');
INSERT INTO fts(fts, rank) VALUES('hashsize', 4194304);
"""


def insert(build, path, documents):
    db = sqlite3.connect(path, isolation_level=None)
    db.enable_load_extension(True)
    db.load_extension(f"{build}/demo-plugin/words")
    db.executescript(SCHEMA)
    db.execute("BEGIN")
    for d in documents:
        db.execute("INSERT INTO documents VALUES(?, ?, ?, ?, ?)",
                   (d["id"], d["title"], d["pageNumber"], d["url"], d["text"]))
        db.execute("INSERT INTO fts(rowid, title, text) VALUES(?, ?, ?)", (d["id"], d["title"], d["text"]))
    db.execute("COMMIT")
    db.close()


def script(build, url, path):
    """All that somebody would write first."""
    with urllib.request.urlopen(url) as answer:
        insert(build, path, json.load(answer)["items"])


# A child counts what its parent had when it was born, and we have the documents.
MEASURE = """
import os, sys, time
begin = time.monotonic()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(time.monotonic() - begin, usage.ru_maxrss, status)
"""


def measure(command):
    """Seconds, and KiB at the most."""
    said = subprocess.run([sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True)
    seconds, kib, status = said.stdout.split()
    if status != "0":
        sys.exit(f"this has failed: {command}\n{said.stderr}")
    return float(seconds), int(kib)


def download(base):
    """The answer of a plugin that makes documents up."""
    query = "fields=id,title,text,url,pageNumber&stream=true"
    request = urllib.request.Request(f"{base}/api/v1/document-sets/1/documents?{query}", headers={
        "Authorization": "Basic c2FtcGxlOngtYXV0aC10b2tlbg=="})
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def serve(body):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def make_documents(build, n, folder):
    plugin = subprocess.Popen([f"{build}/demo-plugin/demo-plugin", "--listen", "127.0.0.1:0", "--storage", folder,
                               "--journal", "none", "--sample", str(n)], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    try:
        return download(plugin.stdout.readline().split()[-1])
    finally:
        plugin.terminate()
        plugin.wait()


def main(build, rounds, n):
    with tempfile.TemporaryDirectory(prefix="bench", dir=build) as folder:
        body = make_documents(build, int(n), folder)
        documents = json.loads(body)["items"]
        base = serve(body)
        for _ in range(int(rounds)):
            ours, kib = measure([f"{build}/demo-plugin/process-docset", base, "1", "token", f"{folder}/ours"])
            begin = time.monotonic()
            insert(build, f"{folder}/alone", documents)
            alone = time.monotonic() - begin
            python, python_kib = measure([sys.executable, __file__, "--script", build, base, f"{folder}/python"])
            for name in ("ours", "alone", "python"):
                os.unlink(f"{folder}/{name}")
            print(f"{ours:.3f} {alone:.3f} {python:.3f} {kib} {python_kib}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--script":
        script(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
