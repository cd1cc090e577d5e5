"""test_pages.py - the pages of `workqueue serve`, driven in headless Chromium."""

import json
import shutil
import subprocess
import unittest

from shell import CommandTest

from harness import DEADLINE, ROOT

CLIENTS = ROOT / "tests" / "clients"
CHROMIUM = shutil.which("chromium")
GOOD = 'echo 0.5; echo "made for $2" >"$4"\n'

needs_browser = unittest.skipUnless(CHROMIUM and (CLIENTS / "node_modules" / "axe-core").is_dir(),
                                    "needs chromium, and npm ci in tests/clients")


class PageTest(CommandTest):
    def node(self, script, **told):
        """Runs a script with what it is told; what it said, a JSON line each."""
        told = {"chromium": CHROMIUM, "timeout": 1000 * DEADLINE, **told}
        result = subprocess.run(["node", CLIENTS / script, json.dumps(told)], capture_output=True,
                                text=True, timeout=20 * DEADLINE)
        self.assertEqual(result.returncode, 0, result.stderr[-3000:] + result.stdout[-1000:])
        return [json.loads(line) for line in result.stdout.splitlines()]

    def page_server(self, *arguments):
        return self.serve("--program", self.script(GOOD), "--title", "Searchable scans",
                          "--server-label", "Archive", "--set-label", "Collection", *arguments)


@needs_browser
class StatesTest(PageTest):
    """Every state at 360 and 1280 px: nothing jumps, nothing is wider than the screen, axe is
    content, and the console has nothing to say, so that the policy forbids nothing that is needed."""

    def look(self, **told):
        server = self.page_server()
        seen = self.node("states.mjs", base=server.base + "/", **told)
        self.assertGreater(len(seen), 3)
        for picture in seen:
            with self.subTest(picture["name"], width=picture["width"]):
                self.assertEqual(picture["violations"], [])
                self.assertEqual(picture["console"], [])
                self.assertFalse(picture["wide"], "it is wider than the screen")
        return seen

    def test_job(self):
        seen = self.look(only="job")
        for width in (360, 1280):
            tops = {p["name"]: p["tops"] for p in seen if p["width"] == width and p["tops"]}
            del tops["job-long"]  # its heading has more lines
            self.assertEqual(len(tops), 10)
            for name, slots in tops.items():
                with self.subTest(name, width=width):
                    self.assertEqual(slots, tops["job-queued"])

    def test_job_dark(self):
        self.look(only="job", dark=True)

    def test_start_page(self):
        self.look(only="run")

    def test_login(self):
        self.look(only="login")

    def test_operator(self):
        self.look(only="jobs")

    def test_operator_dark(self):
        self.look(only="jobs", dark=True)


class AnswersTest(PageTest):
    """The pages as they come: their headers, their words, what is not theirs."""

    def test_headers(self):
        server = self.page_server()
        for path in ("/", "/login", "/jobs", "/jobs/some-id"):
            with self.subTest(path):
                head, body = server.ask("GET", path, {"Accept": "text/html,*/*;q=0.8"})
                self.assertEqual(head.status, 200, body)
                policy = head.get("content-security-policy")
                self.assertIn("default-src 'none'", policy)
                self.assertNotIn("unsafe", policy)
                self.assertNotIn("http", policy, "no other origin")
                self.assertEqual(head.get("referrer-policy"), "no-referrer")
                self.assertEqual(head.get("x-content-type-options"), "nosniff")
                self.assertNotIn(b"{{", body)
                self.assertNotIn(b" style=", body)
                self.assertNotIn(b" onclick", body)

    def test_relative_to_where_it_is(self):
        server = self.page_server()
        for path, base in (("/", ""), ("/jobs", ""), ("/jobs/an-id", "../"), ("/jobs/an-id/", "../../")):
            head, body = server.ask("GET", path, {"Accept": "text/html"})
            self.assertIn(f'href="{base}pages/base.css"'.encode(), body, path)

    def test_parts_are_tagged(self):
        server = self.page_server()
        head, body = server.ask("GET", "/pages/workqueue.js")
        self.assertEqual(head.get("content-type"), "text/javascript; charset=utf-8")
        self.assertEqual(head.get("access-control-allow-origin"), "*", "any page may use it")
        again, nothing = server.ask("GET", "/pages/workqueue.js", {"If-None-Match": head.get("etag")})
        self.assertEqual((again.status, nothing), (304, b""))
        self.assert_not_found(server, "/pages/nothing.js")
        self.assert_not_found(server, "/pages/run.html")
        self.assert_not_found(server, "/nothing")

    def assert_not_found(self, server, path):
        head, body = server.ask("GET", path, {"Accept": "text/html"})
        self.assertEqual(head.status, 404, body)
        self.assertEqual(head.get("content-type"), "application/problem+json")

    def test_words_are_escaped(self):
        server = self.page_server("--about", '<b onclick="x">"&', "--token-hint", "a<b")
        body = server.ask("GET", "/")[1].decode()
        self.assertIn("&lt;b onclick=&quot;x&quot;&gt;&quot;&amp;", body)
        self.assertIn("a&lt;b", body)
        self.assertIn("Archive", body)

    def test_fields_that_are_not_asked_for(self):
        server = self.page_server("--fields", "set")
        body = server.ask("GET", "/")[1].decode()
        self.assertIn('value="http://localhost"', body)
        self.assertEqual(body.count('class="field" hidden'), 2)


STEPS = ('for i in 1 2 3; do printf "$i/3\\tsheet $i\\n"; echo "read sheet $i" >&2; sleep 0.4\n'
         'case $2$i in slow*1) sleep 60;; bad2) echo "sheet 2 is torn" >&2; exit 4;; esac; done\n'
         'echo "made of $2" >"$4"\n')


@needs_browser
class FlowTest(PageTest):
    """A program of a few lines, started, watched, failed, cancelled and downloaded in a browser."""

    def flow(self, name, *arguments, program=STEPS, **told):
        server = self.serve("--program", self.script(program), "--grace-ms", "200", *arguments)
        return self.look(self.node("flows.mjs", flow=name, base=server.base + "/", **told))

    def look(self, lines):
        self.assertEqual([line for line in lines if "error" in line], [])
        return {line["seen"]: line for line in lines}

    def test_run_and_download(self):
        seen = self.flow("run", program=STEPS.replace("sleep 0.4", 'until [ $i = 1 ] || [ -e "$0.go" ]; do sleep 0.05; done'),
                         go=str(self.folder / "program.go"))
        self.assertRegex(seen["running"]["message"], "sheet [12]")
        self.assertEqual(seen["log"]["lines"], "3 lines", "it is followed while it runs")
        self.assertEqual(seen["done"]["body"], "made of letters\n")
        self.assertEqual(seen["done"]["name"], "letters")
        self.assertIn("16\u00a0bytes", seen["done"]["button"])
        self.assertFalse(seen["kept"]["token"], "the key is kept nowhere")
        self.assertEqual(seen["kept"]["runs"], 1, "a double click starts one")
        self.assertEqual(seen["again"]["token"], "")
        self.assertEqual(seen["again"]["server"], "http://archive.example")
        self.assertNotIn("#", seen["again"]["url"])

    def test_failure_is_a_sentence(self):
        seen = self.flow("fail")["failed"]
        self.assertEqual(seen["message"], "The program ended with code 4: sheet 2 is torn")
        self.assertEqual(seen["figure"], "66", "never 100 % for a failure")
        self.assertIn("read sheet 1", seen["log"])

    def test_cancel(self):
        seen = self.flow("cancel", "--grace-ms", "2000", program="trap '' TERM\n" + STEPS.replace("sleep 60", "sleep 60 & wait"))
        self.assertEqual((seen["cancelling"]["focus"], seen["cancelling"]["disabled"]), ("cancel", "true"))
        seen = seen["cancelled"]
        self.assertEqual(seen["figure"], "33")
        self.assertIn("Nothing of it was kept", seen["note"])

    def test_operator(self):
        secret = self.folder / "secret"
        secret.write_text("s3cret-of-the-test\n")
        secret.chmod(0o600)
        seen = self.flow("operator", "--operator-secret-file", secret, "--workers", "4",
                         secret="s3cret-of-the-test")
        self.assertEqual(seen["pushed"]["rows"], 2)
        self.assertGreaterEqual(seen["again"]["ended"], 1)
        self.assertEqual((seen["out"]["cookie"], seen["out"]["secret"], seen["out"]["session"]), ("", False, 0))

    def test_lost_connection(self):
        """The server is killed and comes back: the last state stays, and the job goes on."""
        storage, program = self.folder / "kept", self.script(STEPS)
        arguments = ["--program", program, "--grace-ms", "200", "--storage", storage]
        server = self.serve(*arguments)
        told = {"chromium": CHROMIUM, "timeout": 1000 * DEADLINE, "flow": "lost",
                "base": server.base + "/"}
        process = subprocess.Popen(["node", CLIENTS / "flows.mjs", json.dumps(told)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(json.loads(process.stdout.readline())["seen"], "running")
        server.kill()
        process.stdin.write("gone\n")
        process.stdin.flush()
        lost = json.loads(process.stdout.readline())
        self.assertEqual((lost["seen"], lost["figure"], lost["chip"], lost["cancel"]),
                         ("lost", "33", "Running", False))
        self.assertRegex(lost["note"], r"No connection since \d\d:\d\d:\d\d; the run goes on")
        again = self.serve(*arguments, listen=f"127.0.0.1:{server.address[1]}")
        process.stdin.write("back\n")
        process.stdin.flush()
        found = json.loads(process.stdout.readline())
        self.assertEqual(found["seen"], "found", found)
        process.stdin.close()
        process.stdout.close()
        again.kill()
        again.finish = server.finish = lambda: None
