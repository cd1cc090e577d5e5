"""test_many.py - ten thousand jobs on a real server: an operator finds the stuck one and ends it."""

import http.client
import json
import threading

from test_pages import PageTest, needs_browser

from harness import DEADLINE, wait_for

SECRET = "s3cret-of-the-test"
N_ENDED, N_QUEUED, N_CLIENTS = 1500, 10000, 4
PROGRAM = ('case $2 in stuck*) printf "0.41\\tsheet 3 of 7\\n"; exec sleep 1000;;\n'
           'set-1?????) sleep 0.005;; esac\n'  # else a fast machine has done them before they are looked at
           'echo x >"$4"\n')


class ManyTest(PageTest):
    def setUp(self):
        super().setUp()
        secret = self.folder / "secret"
        secret.write_text(SECRET + "\n")
        secret.chmod(0o600)
        self.server = self.serve("--program", self.script(PROGRAM), "--workers", "1", "--grace-ms", "200",
                                 "--journal", "none", "--no-sync", "--max-queue", "20000",
                                 "--operator-secret-file", secret)

    def put(self, client, name):
        client.request("POST", "/jobs", f"server=http%3A%2F%2F{name[-1]}.example&document_set_id={name}&api_token=t",
                       {"Content-Type": "application/x-www-form-urlencoded"})
        answer = client.getresponse()
        body = answer.read()
        self.assertIn(answer.status, (200, 201), body)
        return json.loads(body)

    def connect(self):
        client = http.client.HTTPConnection(*self.server.address, timeout=DEADLINE)
        self.addCleanup(client.close)
        return client

    def put_many(self, begin, end):
        done = []
        def put_some(first):
            client = self.connect()
            for i in range(begin + first, end, N_CLIENTS):
                self.put(client, f"set-{i}")
            done.append(first)
        threads = [threading.Thread(target=put_some, args=(i,)) for i in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(done), N_CLIENTS)

    def health(self):
        return json.loads(self.server.ask("GET", "/health")[1])

    def fill(self):
        """Some have ended, one is stuck, and ten thousand wait behind it."""
        self.put_many(0, N_ENDED)
        wait_for(lambda: self.health()["queued"] + self.health()["running"] == 0, "their end", 3 * DEADLINE)
        stuck = self.put(self.connect(), "stuck-in-the-middle")
        self.put_many(10 * N_QUEUED, 11 * N_QUEUED)
        self.assertEqual(self.health()["queued"], N_QUEUED)
        return stuck["id"]

    @needs_browser
    def test_in_the_browser(self):
        self.fill()
        seen = {line["seen"]: line for line in self.node("many.mjs", base=self.server.base + "/",
                                                         secret=SECRET, stuck="stuck-in",
                                                         jobs=f"{N_ENDED + 1 + N_QUEUED:,}")}
        self.assertNotIn("error", seen)
        self.assertLess(seen["open"]["rows"], 200)
        self.assertLess(seen["cancelled"]["ms"], 10000, "from the login to its end")
        self.assertRegex(seen["all cancelled"]["asked"], r"^Cancel [\d,]+ jobs\?$")
        # On an idle machine no task takes 100 ms; these bounds are for a busy one.
        for step in seen.values():
            self.assertLess(max(step["tasks"], default=0), 1000, step)
        self.assertLess(seen["scrolled"]["p95"], 500, seen["scrolled"])

    def test_in_the_terminal(self):
        stuck = self.fill()
        env = {"WORKQUEUE_OPERATOR_SECRET": SECRET}
        result = self.command("jobs", "--state", "running", self.server.base + "/", env=env)
        self.assertRegex(result.stdout, rf"running +41 % +stuck-in-the-middle +{stuck} +\d+ (?:s|min)  sheet 3 of 7\n")
        self.assertEqual(self.command("cancel", f"{self.server.base}/jobs/{stuck}", env=env).returncode, 0)
        wait_for(lambda: self.health()["queued"] < N_QUEUED, "those behind it run")
        result = self.command("jobs", "--limit", "20000", "--json", self.server.base + "/", env=env)
        jobs = json.loads(result.stdout)["jobs"]
        self.assertGreater(len(jobs), N_QUEUED)
        self.assertEqual(len({job["id"] for job in jobs}), len(jobs))
        result = self.command("jobs", "--set", "stuck-in-the-middle", self.server.base + "/", env=env)
        self.assertRegex(result.stdout, "cancelled +41 %")
        self.assertNotIn("set-1", result.stdout)
