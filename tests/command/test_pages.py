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
