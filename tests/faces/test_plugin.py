"""test_plugin.py - the demo as a user has it: its page, its search, its program, its run script."""

import http.server
import json
import os
import re
import shutil
import sqlite3
import subprocess

from harness import BUILD, DEADLINE, DEMO, ROOT, SERVER, FaceTest, basic, plain_only, serve_http
from node import browse

PROCESS_DOCSET = BUILD / "demo-plugin" / "process-docset"
TEXTS = {"sonnet.txt": "Shall I compare thee to a summer's day?\nThou art more lovely.\n",
         "night.txt": "The lovely night; a café by the sea. <b>Not bold</b> & so on.\n",
         "deep/er/log.txt": "error: nothing happened\nlovely lovely lovely\n",
         "empty.txt": ""}


class SampleTest(FaceTest):
    """A plugin with sample documents, which is the Overview server too."""

    def setUp(self):
        super().setUp()
        self.sample = self.folder / "sample"
        for name, text in TEXTS.items():
            path = self.sample / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def serve_sample(self, **options):
        return self.serve(PROCESS_DOCSET, sample=self.sample, **options)

    def generate(self, server, token="sample", document_set="1"):
        return server.request("POST", "/generate", {"Authorization": basic(token), "Content-Type":
                              "application/x-www-form-urlencoded"},
                              f"server={server.base}&documentSetId={document_set}")

    def search(self, server, query, token="sample", **more):
        fields = {"server": server.base, "documentSetId": "1", "q": query, **more}
        query = "&".join(f"{name}={value}" for name, value in fields.items())
        return server.ask("GET", "/search?" + query, {"Authorization": basic(token)})


class SearchTest(SampleTest):
    def test_from_documents_to_a_search(self):
        server = self.serve_sample()
        self.assert_problem(self.search(server, "lovely"), 404)
        stream = self.generate(server)
        records = []
        while (record := stream.record()) is not None:
            self.assert_record(record)
            records.append(record)
        self.assertEqual(records[-1]["returncode"], 0, records)
        fractions = [record["fraction"] for record in records]
        self.assertEqual(fractions, sorted(fractions))
        head, body = self.search(server, "lovely")
        self.assertEqual((head.status, head.get("content-type")), (200, "application/json"))
        found = json.loads(body)
        self.assertEqual(found["total"], 3)
        titles = [result["title"] for result in found["results"]]
        self.assertEqual(len(set(titles)), 3)
        self.assertIn("log.txt", titles[0], "the best match first")
        for result in found["results"]:
            self.assertIsInstance(result["id"], int)
            self.assertIn("lovely", re.sub("<[^>]*>", "", result["snippet"]))

    def test_what_people_type(self):
        server = self.serve_sample()
        self.assertEqual(self.generate(server).last()["returncode"], 0)
        for query, total in (("summer", 1), ("caf%C3%A9", 1), ("nowhere", 0), ("lovely+night", 1),
                             ("%22lovely+night%22", 1), ("%22night+lovely%22", 0), ("summ*", 1)):
            with self.subTest(query):
                head, body = self.search(server, query)
                self.assertEqual((head.status, json.loads(body)["total"]), (200, total))
        for query in ("%22", "AND", "(", "*", "a%22b", "NEAR(", "-", ":", "x%00y", "%F0%9D%84%9E", "a:b", "{", "^"):
            with self.subTest(query):
                self.assertIn(self.search(server, query)[0].status, (200, 400))

    def test_other_token_sees_nothing(self):
        server = self.serve_sample()
        self.assertEqual(self.generate(server).last()["returncode"], 0)
        self.assert_problem(self.search(server, "lovely", token="other"), 404)
        self.assert_problem(server.ask("GET", f"/search?server={server.base}&documentSetId=1&q=a"), 401)
        self.assert_problem(server.ask("GET", "/search?q=a", {"Authorization": basic("sample")}), 400)

    def test_wrong_token_and_set(self):
        """What Overview says of them is what the user is told."""
        server = self.serve_sample()
        last = self.generate(server, token="wrong").last()
        self.assertNotEqual(last["returncode"], 0)
        self.assertIn("401", last["error"])
        last = self.generate(server, document_set="2").last()
        self.assertNotEqual(last["returncode"], 0)
        self.assertIn("403", last["error"])

    def test_overview_api(self):
        """The sample answers as an Overview server does."""
        server = self.serve_sample()
        path = "/api/v1/document-sets/1/documents"
        head, body = server.ask("GET", path + "?fields=id")
        self.assertEqual(head.status, 401)
        self.assertIn("message", json.loads(body))
        auth = {"Authorization": basic("sample")}
        self.assertEqual(server.ask("GET", path, {"Authorization": basic("sample", "x")})[0].status, 401)
        self.assertEqual(server.ask("GET", path.replace("/1/", "/2/"), auth)[0].status, 403)
        page = json.loads(server.ask("GET", path + "?fields=id,title,text&limit=2&offset=1", auth)[1])
        self.assertEqual({key: page["pagination"][key] for key in ("offset", "limit", "total")},
                         {"offset": 1, "limit": 2, "total": len(TEXTS)})
        self.assertEqual(len(page["items"]), 2)
        whole = json.loads(server.ask("GET", path + "?fields=id,title,text&stream=true", auth)[1])
        self.assertEqual(sorted(item["text"] for item in whole["items"]), sorted(TEXTS.values()))
        ids = json.loads(server.ask("GET", path + "?fields=id", auth)[1])
        self.assertEqual(ids, [item["id"] for item in whole["items"]])
        token = json.loads(server.ask("GET", "/api/v1/api-token", auth)[1])
        self.assertEqual(token["token"], "sample")

    def test_m8_a_warning_when_open_to_the_world(self):
        """Who listens beyond loopback is told at the start that any page can have it fetch from inside."""
        for listen, options, warned in (("0.0.0.0:0", {}, True), ("127.0.0.1:0", {}, False),
                                        ("0.0.0.0:0", {"allow_server": SERVER}, False)):
            with self.subTest(listen, **options):
                process = subprocess.Popen(
                    [DEMO, "--listen", listen, "--storage", self.folder, "--journal", "none",
                     *(["--allow-server", options["allow_server"]] if options else [])],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                self.assertIn("listening", process.stdout.readline())
                process.terminate()
                self.assertEqual("without --allow-server" in process.communicate(timeout=DEADLINE)[1], warned)

    def test_metadata(self):
        server = self.serve_sample()
        head, body = server.ask("GET", "/metadata")
        self.assertEqual((head.status, json.loads(body)), (200, {}))
        self.assertRegex(head.get("content-type"), "^application/json")

    def test_show_may_be_framed(self):
        server = self.serve_sample()
        head, body = server.ask("GET", "/show?server=a&documentSetId=1&apiToken=sample&origin=b")
        self.assertEqual(head.status, 200)
        self.assertRegex(head.get("content-type"), "^text/html")
        self.assertIsNone(head.get("x-frame-options"))
        self.assertNotIn("frame-ancestors", head.get("content-security-policy") or "")
        self.assertNotIn(b"sample", body, "the token is the page's to read from its address")


@plain_only
class ShowTest(SampleTest):
    """The page in headless Chromium."""

    def show(self, server, overview=None, document_set="1", token="sample"):
        return (f"{server.base}/show?server={overview or server.base}&documentSetId={document_set}"
                f"&apiToken={token}&origin={server.base}")

    def test_from_the_address_to_a_found_document(self):
        server = self.serve_sample()
        browser = browse(self, "browser.mjs", show=self.show(server), query="summer's", expect="sonnet.txt")
        self.assertEqual(browser.end()[0], {"end": "found", "errors": []})
        self.assertNotIn("apiToken", server.log())

    def test_a_person_sees_progress_and_place(self):
        server = self.serve(workers=1, sample=self.sample)
        first, job = self.told("first"), self.told("7")
        stream = server.generate("first")
        stream.record()
        browser = browse(self, "browser.mjs", look=self.show(server, document_set="7"), until="exit now")
        browser.until(lambda l: "before you" in l["text"] and "Queued" in l["text"], "a place in the queue")
        first.succeed()
        job.progress("0.25\tindexing page 3")
        browser.until(lambda l: "25" in l["text"] and "indexing page 3" in l["text"], "the progress")
        self.assertRegex(browser.seen[-1]["text"], r"progress=0\.25/1\b")
        job.tell("echo 'this is why: exit now' >&2; exit 1")
        browser.until(lambda l: "this is why: exit now" in l.get("text", ""), "the error")

    def test_a_person_without_a_token_is_told(self):
        """And not asked for a password by the browser, for as long as nobody gives one."""
        server = self.serve_sample()
        browser = browse(self, "browser.mjs", look=self.show(server, token=""), until="API token is needed")
        browser.until(lambda l: "API token is needed" in l["text"], "what is missing")


class FakeOverview(http.server.BaseHTTPRequestHandler):
    """An Overview server that answers the download as its class attribute says."""

    protocol_version = "HTTP/1.1"
    how = None

    def do_GET(self):
        type(self).how(self)

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *parts, cut=False):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in parts:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"" if cut else b"0\r\n\r\n")
        self.close_connection = True


HEAD = b'{"selectionId":"x","pagination":{"offset":0,"limit":9,"total":%d},"items":['
ITEM = b'{"text":"words of %d","title":null,"id":%d,"url":null,"pageNumber":null}'


class ProcessDocsetTest(FaceTest):
    """The program from a shell: four arguments, progress on stdout, one sentence on stderr."""

    program = PROCESS_DOCSET

    def run_against(self, how, document_set="1"):
        handler = type("Handler", (FakeOverview,), {"how": staticmethod(how)})
        return self.run_program(f"http://127.0.0.1:{serve_http(self, handler)}", document_set)

    def run_program(self, server, document_set="1", token="sample"):
        self.output = self.folder / "output"
        self.output.write_bytes(b"")
        return subprocess.run([str(self.program), server, document_set, token, str(self.output)],
                              capture_output=True, text=True, timeout=6 * DEADLINE)

    def assert_failed(self, result, *words):
        self.assertNotEqual(result.returncode, 0)
        self.assertGreater(result.returncode, 0, "an exit, not a signal")
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertTrue(lines[0].endswith("."), lines)
        for word in words:
            self.assertIn(word, lines[0])
        self.assertNotIn("sample", result.stderr)

    def assert_succeeded(self, result):
        self.assertEqual((result.returncode, result.stderr), (0, ""), result)
        for line in result.stdout.splitlines():
            self.assertRegex(line, r"^(\d+/\d+|[01](\.\d+)?)(\t.*)?$")
        self.assertGreater(len(self.output.read_bytes()), 0)
        with sqlite3.connect(f"file:{self.output}?mode=ro", uri=True) as db:
            self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            tables = [row[0] for row in db.execute("SELECT sql FROM sqlite_master") if row[0]]
            self.assertTrue(any("fts5" in sql.lower() for sql in tables), tables)
        db.close()

    def test_sample_from_a_shell(self):
        sample = self.folder / "sample"
        sample.mkdir()
        for i in range(50):
            (sample / f"{i}.txt").write_text(f"text number {i}\n" * 100)
        server = self.serve(sample=sample)
        result = self.run_program(server.base)
        self.assert_succeeded(result)
        self.assertGreater(len(result.stdout.splitlines()), 1)

    def test_stream_in_any_pieces(self):
        body = HEAD % 3 + b",".join(ITEM % (i, i << 40) for i in range(1, 4)) + b"]}"
        result = self.run_against(lambda h: h.stream(*[body[i:i + 1] for i in range(len(body))]))
        self.assert_succeeded(result)

    def test_no_documents(self):
        result = self.run_against(lambda h: h.stream(HEAD % 0 + b"]}"))
        self.assert_succeeded(result)

    def test_what_is_asked_for(self):
        seen = []

        def how(handler):
            seen.append((handler.path, handler.headers["Authorization"]))
            handler.stream(HEAD % 0 + b"]}")
        self.run_against(how, "17")
        path, authorization = seen[0]
        self.assertTrue(path.startswith("/api/v1/document-sets/17/documents?"), path)
        self.assertIn("stream=true", path)
        self.assertEqual(authorization, basic("sample"))

    def test_refused(self):
        for status in (401, 403, 404, 500):
            with self.subTest(status):
                self.assert_failed(self.run_against(
                    lambda h: h.answer(status, b'{"message":"no"}')), str(status))

    def test_a_refusal_without_end(self):
        def how(handler):
            handler.send_response(401)
            handler.end_headers()
            try:
                while True:
                    handler.wfile.write(b"no " * 10000)
            except OSError:
                handler.close_connection = True
        self.assert_failed(self.run_against(how), "401")

    def test_broken_stream(self):
        whole = HEAD % 3 + ITEM % (1, 1) + b"," + ITEM % (2, 2)
        for name, how in {
                "cut": lambda h: h.stream(whole, cut=True), "without its end": lambda h: h.stream(whole),
                "no JSON": lambda h: h.answer(200, b"<html>hello</html>"),
                "nothing": lambda h: h.answer(200, b""),
                "only its head": lambda h: h.stream(HEAD % 3, cut=True)}.items():
            with self.subTest(name):
                self.assert_failed(self.run_against(how))

    def test_q12_documents_that_cannot_be_indexed(self):
        """They are left out and named, and the rest is indexed, whatever comes around them."""
        large = b"x" * (65 << 20)
        items = [ITEM % (1, 1), b'{"title":"big.pdf","text":"' + large + b'","id":2}', ITEM % (3, 3),
                 b'{"id":4,"title":"cut","text":"bad \\x escape"}', b'{"title":"nameless","text":"no id"}',
                 b'{"id":6,"text":nonsense}', b'{"id":7 "text":"comma"}', b'{"id":8,,"x":[1,{"y":2}]}', b'{"id":9,"text":}',
                 b'{"id":10,"title":"' + b"t" * 70000 + b'"}', b"{}", ITEM % (11, 11)]
        result = self.run_against(lambda h: h.stream(HEAD % len(items), b",".join(items), b"]}"))
        self.assert_succeeded(result)
        self.assertIn("indexed 3 documents; left out 9, the first: big.pdf, as it is larger than 64 MiB",
                      result.stdout.splitlines()[-1])
        with sqlite3.connect(self.output) as db:
            self.assertEqual([row[0] for row in db.execute("SELECT id FROM documents")], [1, 3, 11])
            facts = dict(db.execute("SELECT * FROM facts"))
            self.assertEqual((facts["documents"], facts["left_out"]), (3, 9))
            names = dict(db.execute("SELECT * FROM left_out"))
        db.close()
        self.assertEqual(names["big.pdf"], "it is larger than 64 MiB")
        self.assertEqual(names["cut"], "it is malformed")
        self.assertEqual(names["nameless"], "it has no id")
        self.assertEqual(names["document 10"], "its title or address is larger than 64 KiB")
        self.assertEqual(names["document 8"], "it is malformed")

    def test_q11_pages(self):
        item = b'{"id":%d,"title":"report.pdf","text":"words","pageNumber":%s,"url":"http://x/"}'
        self.assert_succeeded(self.run_against(
            lambda h: h.stream(HEAD % 3, item % (1, b"1"), b",", item % (2, b"2"), b",", item % (3, b"null"), b"]}")))
        with sqlite3.connect(self.output) as db:
            self.assertEqual([row[0] for row in db.execute("SELECT page FROM documents")], [1, 2, None])
        db.close()

    def test_m8_no_foreign_words(self):
        """Who may start a run is not told what a server inside says to us."""
        for status in (401, 500):
            result = self.run_against(lambda h: h.answer(status, b'{"message":"the secret of the intranet"}'))
            self.assertNotIn("secret", result.stderr + result.stdout)
        result = self.run_against(lambda h: h.answer(200, b'{"secret":"of the intranet"}'))
        self.assertNotIn("intranet", result.stderr + result.stdout)

    def test_progress_with_a_rate(self):
        """How many, how fast, how long still; the fraction never goes back."""
        n = 60
        os.environ["PROCESS_DOCSET_PAUSE_MS"] = "40"
        self.addCleanup(os.environ.pop, "PROCESS_DOCSET_PAUSE_MS")
        result = self.run_against(lambda h: h.stream(HEAD % n, b",".join(ITEM % (i, i) for i in range(1, n + 1)), b"]}"))
        self.assert_succeeded(result)
        self.assertRegex(result.stdout, r"\n(\d+)/60\t\1 of 60 documents, \d+ a second, about \d+ s left\n")
        done = [int(line.split("/")[0]) for line in result.stdout.splitlines() if "/" in line.split("\t")[0]]
        self.assertEqual(done, sorted(done))
        self.assertEqual(done[-1], n)

    def test_unreachable(self):
        self.assert_failed(self.run_program("http://127.0.0.1:1"), "127.0.0.1")
        self.assert_failed(self.run_program("nonsense"))
        self.assert_failed(self.run_program("http://127.0.0.1:1", token="t"), "Cannot get an answer")

    def test_wrong_arguments(self):
        result = subprocess.run([str(PROCESS_DOCSET), "one"], capture_output=True, text=True, timeout=60)
        self.assertNotEqual(result.returncode, 0)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)

    @plain_only
    def test_memory_is_bounded(self):
        """A set of 100 MB goes through in pieces: at no time is it held."""
        n, text = 50000, b"many words of some length " * 80
        item = b'{"id":%d,"title":"t","text":"' + text + b'"}'

        def how(handler):
            handler.stream(HEAD % n, *(b",".join(item % i for i in range(at + 1, at + 101)) +
                                       (b"," if at + 100 < n else b"]}") for at in range(0, n, 100)))
        peak = self.folder / "peak"
        self.program = self.script(MEASURED.format(program=PROCESS_DOCSET, peak=peak))
        self.assert_succeeded(self.run_against(how))
        self.assertLess(int(peak.read_text()), 70000, "KiB of peak memory")


# Runs the program as its own parent's only child, and tells how much memory it had at its most.
MEASURED = """#!/usr/bin/python3
import os, sys
pid = os.posix_spawn("{program}", ["process-docset"] + sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
open("{peak}", "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


@plain_only
class RunTest(FaceTest):
    """demo-plugin/run, from a copy of the tree."""

    def copy(self):
        tree = self.folder / "a tree"
        names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                               capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        return tree

    def test_once(self):
        tree = self.copy()
        for attempt in ("from nothing", "again"):
            with self.subTest(attempt):
                result = subprocess.run([tree / "demo-plugin" / "run", "--once"], text=True, cwd="/",
                                        capture_output=True, stdin=subprocess.DEVNULL, timeout=400)
                self.assertEqual(result.returncode, 0, result)
                self.assertIn("POST /generate", result.stdout)
                self.assertIn("100.0 %", result.stdout)
                self.assertRegex(result.stdout, r"[1-9]\d* documents found")
        self.assertFalse((tree / "build").exists(), "T2: the tree of tests/run and tests/bench/run is left to them")
        nothing = subprocess.run([tree / "demo-plugin" / "run", "--once", "--query", "nowhere to be found",
                                  "--sample", "/usr/share/common-licenses"],
                                 capture_output=True, text=True, timeout=60)
        self.assertEqual(nothing.returncode, 0, nothing)
        self.assertIn("0 documents found", nothing.stdout)
        failing = subprocess.run([tree / "demo-plugin" / "run", "--once", "--sample", "/nowhere"],
                                 capture_output=True, text=True, timeout=60)
        self.assertEqual(failing.returncode, 1, failing)
        self.assertIn("/nowhere", failing.stderr)
