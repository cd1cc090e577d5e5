"""test_jobs.py - a job as a resource: POST /jobs, GET and DELETE /jobs/{id}, its events."""

import json
import os

from harness import TOKEN, FaceTest, basic, wait_for

NAMES = ["id", "state", "server", "document_set_id", "n_ahead_in_queue", "waits_for", "fraction",
         "message", "items_done", "items_total", "returncode", "error", "accepted_at", "started_at",
         "published_at", "ended_at", "heard_at", "estimate_ms", "watching", "memory_bytes",
         "attempt", "output"]


class JobTest(FaceTest):
    """What the tests here share."""

    def create(self, server, document_set, **fields):
        body = {"server": "http://overview.example", "documentSetId": document_set, **fields}
        head, body = server.ask("POST", "/jobs", {"Content-Type": "application/json",
                                                  "Authorization": basic(TOKEN)}, json.dumps(body))
        return head, json.loads(body)

    def job(self, server, job_id):
        head, body = server.ask("GET", f"/jobs/{job_id}")
        self.assertEqual(head.status, 200, body)
        self.assertNotIn(TOKEN, body.decode())
        return json.loads(body)

    def wait_until(self, server, job_id, state):
        return wait_for(lambda: (j := self.job(server, job_id))["state"] == state and j, state)


class ResourceTest(JobTest):
    def test_from_begin_to_end(self):
        server = self.serve(self.script('echo "1/4\thalf of half"; read x <"$0.go"; echo made >"$4"'))

        os.mkfifo(self.folder / "program.go")
        head, job = self.create(server, "1")
        self.assertEqual(head.status, 201)
        self.assertEqual(head.get("location"), f"/jobs/{job['id']}")
        self.assertEqual([n for n in NAMES if n in job], NAMES)
        self.assertEqual(job["document_set_id"], "1")
        running = wait_for(lambda: (j := self.job(server, job["id"]))["message"] and j, "progress")
        self.assertEqual((running["fraction"], running["items_done"], running["items_total"]), (0.25, 1, 4))
        self.assertRegex(running["started_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        again, same = self.create(server, "1")
        self.assertEqual((again.status, same["id"]), (200, job["id"]))
        (self.folder / "program.go").write_text("go\n")
        done = self.wait_until(server, job["id"], "succeeded")
        self.assertEqual((done["fraction"], done["returncode"], done["error"]), (1.0, 0, None))
        self.assertEqual(done["output"], {"bytes": 5, "href": f"/work/{job['id']}"})
        head, body = server.ask("GET", done["output"]["href"])
        self.assertEqual(body, b"made\n")

    def test_memory_is_null_without_a_control_group(self):
        server = self.serve(self.script('echo 0.5; sleep 1.5; echo 0.6; read x <"$0.go"; echo made >"$4"'),
                            cgroup="none")
        os.mkfifo(self.folder / "program.go")
        job = self.create(server, "1")[1]
        running = wait_for(lambda: (j := self.job(server, job["id"]))["fraction"] == 0.6 and j, "progress")
        self.assertIsNone(running["memory_bytes"])
        (self.folder / "program.go").write_text("go\n")
        self.wait_until(server, job["id"], "succeeded")

    def test_failure_keeps_how_far_it_was(self):
        server = self.serve(self.script("echo 0.5; sleep 0.1; echo why >&2; exit 3"))
        job = self.wait_until(server, self.create(server, "1")[1]["id"], "failed")
        self.assertEqual((job["fraction"], job["returncode"], job["output"]), (0.5, 3, None))
        self.assertIn("why", job["error"])

    def test_events_to_the_end(self):
        server = self.serve(self.script('echo 0.5; sleep 0.3; echo x >"$4"'))
        job = self.create(server, "1")[1]
        head, body = server.ask("GET", f"/jobs/{job['id']}", {"Accept": "text/event-stream"})
        self.assertEqual(head.get("content-type"), "text/event-stream")
        records = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {\"id")]
        self.assertEqual(records[-1]["state"], "succeeded")
        self.assertIn(0.5, [r["fraction"] for r in records])
        self.assertTrue(body.endswith(b"event: end\ndata: {}\n\n"), body[-100:])
        last = [line[4:] for line in body.decode().splitlines() if line.startswith("id: ")][-1]
        head, body = server.ask("GET", f"/jobs/{job['id']}", {"Accept": "text/event-stream", "Last-Event-ID": last})
        self.assertEqual(head.status, 204, "an EventSource that has seen the end stops")

    def test_cancel(self):
        server = self.serve(self.script("echo 0.5; sleep 60"))
        job = self.create(server, "1")[1]
        head, body = server.ask("DELETE", f"/jobs/{job['id']}")
        self.assertIn(head.status, (202, 204), body)
        self.wait_until(server, job["id"], "cancelled")
        self.assert_problem(server.ask("GET", "/jobs/7f3a91c2-5d0e-4b7a-9c11-e2b8d44f60a7"), 404)

    def test_run_again_is_the_operators(self):
        secret = self.folder / "secret"
        secret.write_text("s3cret\n")
        secret.chmod(0o600)
        server = self.serve(self.script('echo "$3" | cut -c1-3 >"$4"; echo 1'), operator_secret_file=secret)
        job = self.create(server, "1")[1]
        self.wait_until(server, job["id"], "succeeded")
        self.assert_problem(server.ask("POST", f"/jobs/{job['id']}"), 401)
        head, body = server.ask("POST", f"/jobs/{job['id']}", {"Authorization": "Bearer s3cret"})
        self.assertEqual(head.status, 201, body)
        again = json.loads(body)
        self.assertNotEqual(again["id"], job["id"])
        self.wait_until(server, again["id"], "succeeded")

    def test_a_page_is_not_a_job(self):
        server = self.serve()
        head, body = server.ask("GET", "/jobs/x", {"Accept": "text/html"})
        self.assertEqual(head.status, 404, "the plugin has no pages for jobs")


class OperatorTest(JobTest):
    SECRET = {"Authorization": "Bearer s3cret"}

    def operated(self, program=None, **options):
        secret = self.folder / "secret"
        secret.write_text("s3cret\n")
        secret.chmod(0o600)
        return self.serve(program, operator_secret_file=secret, **options)

    def list(self, server, query=""):
        head, body = server.ask("GET", f"/jobs{query}", self.SECRET)
        self.assertEqual(head.status, 200, body)
        return json.loads(body)

    def test_only_the_operator_lists(self):
        server = self.operated()
        self.assert_problem(server.ask("GET", "/jobs"), 401)
        self.assert_problem(server.ask("GET", "/jobs", {"Authorization": "Bearer nearly"}), 401)
        self.assert_problem(server.ask("DELETE", "/jobs?state=queued"), 401)
        self.assert_problem(self.serve(storage=self.folder / "other").ask("GET", "/jobs"), 403)

    def test_the_operators_paths_answer_no_other_origin(self):
        """Neither a page's question beforehand, nor the request itself, whatever comes of it."""
        server = self.operated()
        job, page = self.told("set"), {"Origin": "https://elsewhere.example"}
        stream = server.generate("set")
        stream.record()
        one = "/jobs/" + stream.head.get("x-workqueue-job")
        operators = [("GET", "/jobs"), ("DELETE", "/jobs"), ("POST", one), ("GET", "/outputs"),
                     ("DELETE", "/outputs"), ("DELETE", "/outputs/" + "0" * 64), ("DELETE", "/output"),
                     ("GET", "/metrics")]
        for method, path in operators:
            for secret in ({}, {"Authorization": "Bearer wrong"}, self.SECRET):
                with self.subTest(method + path, secret=secret):
                    head, _ = server.ask(method, path, {**page, **secret})
                    self.assertIsNone(head.get("access-control-allow-origin"))
                    self.assertEqual(head.get("cross-origin-resource-policy"), "same-origin")
        for method, path in [*operators, ("GET", "/stats")]:
            with self.subTest("OPTIONS" + method + path):
                head, _ = server.ask("OPTIONS", path, {
                    **page, "Access-Control-Request-Method": method,
                    "Access-Control-Request-Headers": "authorization"})
                self.assertEqual(head.status, 204)
                for name, _ in head.headers:
                    self.assertNotRegex(name, "^access-control")
        head, _ = server.ask("GET", "/stats", {**page, **self.SECRET})
        self.assertIsNone(head.get("access-control-allow-origin"))
        everybodys = [("POST", "/jobs"), ("GET", one), ("GET", one + "/log"), ("DELETE", one),
                      ("GET", "/stats"), ("GET", "/health")]
        for method, path in everybodys:
            with self.subTest(method + path):
                head, _ = server.ask(method, path, page)
                self.assertEqual(head.get("access-control-allow-origin"), "*")
        del job

    def test_the_operator_by_basic(self):
        """For curl --user operator:SECRET."""
        server = self.operated()
        secret = self.SECRET["Authorization"].partition(" ")[2]
        for user, password, status in (("operator", secret, 200), ("operator", secret + "x", 401),
                                       ("operator", secret[:-1], 401), ("root", secret, 401),
                                       (secret, secret, 401), ("operator", "", 401)):
            with self.subTest(user + password):
                head, _ = server.ask("GET", "/jobs", {"Authorization": basic(user, password)})
                self.assertEqual(head.status, status)

    def test_m3_links_below_a_prefix(self):
        """In a job's record, its events and the list, as in every Location."""
        server = self.operated(path_prefix="/queue",
                               trust_forwarded_prefix=True)
        self.told("set").succeed("x")
        client = server.generate("set")
        one = "/jobs/" + client.read_head().get("x-workqueue-job")
        client.last()
        for headers, prefix in (({}, "/queue"), ({"X-Forwarded-Prefix": "/other/"}, "/other")):
            href = f'"href": "{prefix}/work/{one[6:]}"'
            for path, more in ((one, {}), (one, {"Accept": "text/event-stream"}), ("/jobs", self.SECRET)):
                with self.subTest(path, **headers, **more):
                    head, body = server.ask("GET", path, {**headers, **more})
                    self.assertIn(href, body.decode())

    def test_pages_have_each_job_once(self):
        server = self.operated(self.script("sleep 60"), workers=2)
        ids = {self.create(server, str(i))[1]["id"] for i in range(25)}
        seen, after = [], ""
        while after is not None:
            page = self.list(server, f"?limit=10{after and '&after=' + after}")
            seen += [job["id"] for job in page["jobs"]]
            after = page["next"]
        self.assertEqual(sorted(seen), sorted(ids))
        self.assertEqual(len(self.list(server, "?state=running")["jobs"]), 2)
        self.assertEqual(len(self.list(server, "?state=running,queued&server=http%3A%2F%2Foverview.example")["jobs"]), 25)
        self.assertEqual(self.list(server, "?server=http%3A%2F%2Fx.example")["jobs"], [])
        self.assertNotIn(TOKEN, json.dumps(self.list(server)))
        for query in ("?state=lost", "?limit=0", "?limit=many"):
            self.assert_problem(server.ask("GET", f"/jobs{query}", self.SECRET), 400)

    def test_cancel_all_that_match(self):
        server = self.operated(self.script("sleep 60"), workers=1, grace_ms=100)
        for i in range(12):
            self.create(server, str(i))
        self.assert_problem(server.ask("DELETE", "/jobs", self.SECRET), 400)
        head, body = server.ask("DELETE", "/jobs?state=queued", self.SECRET)
        self.assertEqual(json.loads(body), {"cancelled": 11})
        wait_for(lambda: len(self.list(server, "?state=cancelled")["jobs"]) == 11, "11 cancelled")
        self.assertEqual(len(self.list(server, "?state=running")["jobs"]), 1)
        head, body = server.ask("DELETE", "/jobs?server=http%3A%2F%2Foverview.example", self.SECRET)
        self.assertEqual(json.loads(body), {"cancelled": 1})
        wait_for(lambda: len(self.list(server, "?state=cancelled")["jobs"]) == 12, "all cancelled")

    def test_events_of_all_jobs(self):
        server = self.operated(self.script('echo 0.5; sleep 0.2; echo x >"$4"'))
        client = server.request("GET", "/jobs", {**self.SECRET, "Accept": "text/event-stream"})
        client.read_head()
        ids = {self.create(server, str(i))[1]["id"] for i in range(5)}
        ended = set()
        while ended != ids:
            job = json.loads(client.event()["data"])
            if job["state"] == "succeeded":
                ended.add(job["id"])
        client.close()
        self.create(server, "after")

    def test_events_end_when_the_server_stops(self):
        server = self.operated(self.script("sleep 60"))
        client = server.request("GET", "/jobs", {**self.SECRET, "Accept": "text/event-stream"})
        client.read_head()
        self.create(server, "1")
        client.event()
        server.terminate()
        server.wait()
        client.close()

    def test_numbers(self):
        server = self.operated(self.script('echo 1; echo x >"$4"'))
        job = self.create(server, "1")[1]
        wait_for(lambda: json.loads(server.ask("GET", f"/jobs/{job['id']}")[1])["output"], "the end")
        head, body = server.ask("GET", "/stats")
        self.assertEqual(json.loads(body), {"wait_ms": 0}, "all that a start page needs")
        self.assert_problem(server.ask("GET", "/stats", {"Authorization": "Bearer nearly"}), 401)
        numbers = json.loads(server.ask("GET", "/stats", self.SECRET)[1])
        self.assertEqual(len(numbers["minutes"]), 60)
        self.assertEqual(sum(m["succeeded"] for m in numbers["minutes"]), 1)
        self.assertEqual((numbers["workers"], numbers["problems"]), (2, []))

    def test_outputs(self):
        server = self.operated(self.script('echo 1; echo "$2" >"$4"'))
        for i in range(5):
            self.wait_until(server, self.create(server, f"set-{i}")[1]["id"], "succeeded")
        self.assert_problem(server.ask("GET", "/outputs"), 401)
        page = json.loads(server.ask("GET", "/outputs?limit=3", self.SECRET)[1])
        rest = json.loads(server.ask("GET", f"/outputs?limit=3&after={page['next']}", self.SECRET)[1])
        outputs = page["outputs"] + rest["outputs"]
        self.assertEqual(sorted(o["document_set_id"] for o in outputs), [f"set-{i}" for i in range(5)])
        self.assertEqual({o["bytes"] for o in outputs}, {6})
        self.assertNotIn(TOKEN, json.dumps(outputs))
        key = outputs[0]["key"]
        self.assertEqual(json.loads(server.ask("DELETE", f"/outputs/{key}", self.SECRET)[1]), {"deleted": 1})
        self.assert_problem(server.ask("DELETE", f"/outputs/{key}", self.SECRET), 404)
        self.assert_problem(server.ask("DELETE", "/outputs", self.SECRET), 400)
        head, body = server.ask("DELETE", "/outputs?server=http%3A%2F%2Foverview.example", self.SECRET)
        self.assertEqual(json.loads(body), {"deleted": 4})
        self.assertEqual(json.loads(server.ask("GET", "/outputs", self.SECRET)[1])["outputs"], [])

    def test_outputs_tell_when_they_were_used(self):
        server = self.operated(self.script('echo 1; echo "$2" >"$4"'))
        job = self.wait_until(server, self.create(server, "1")[1]["id"], "succeeded")
        listed = lambda: json.loads(server.ask("GET", "/outputs", self.SECRET)[1])["outputs"][0]
        output = listed()
        self.assertGreaterEqual(output["used_at"], output["made_at"])
        path = server.storage / output["key"]
        os.utime(path, (1e9, 1e9))
        old = listed()
        self.assertEqual((old["made_at"], old["used_at"]), ("2001-09-09T01:46:40.000Z",) * 2)
        server.ask("GET", job["output"]["href"])
        used = listed()
        self.assertEqual(used["made_at"], old["made_at"])
        self.assertGreaterEqual(used["used_at"], output["used_at"])

    def test_log_of_a_job(self):
        server = self.operated(self.script('echo first >&2; echo 0.5; sleep 0.3; echo "key $3" >&2; exit 2'))
        job = self.create(server, "1")[1]
        client = server.request("GET", f"/jobs/{job['id']}/log", {"Accept": "text/event-stream"})
        text = client.read_all().decode()
        self.assertIn("data: first\n", text)
        self.assertIn("data: key ", text)
        self.assertNotIn(TOKEN, text)
        self.assertTrue(text.endswith("event: end\ndata: {}\n\n"), text)
        self.wait_until(server, job["id"], "failed")
        head, body = server.ask("GET", f"/jobs/{job['id']}/log")
        self.assertEqual(head.get("content-type"), "text/plain; charset=utf-8")
        self.assertTrue(body.startswith(b"first\nkey "), body)
        self.assert_problem(server.ask("GET", "/jobs/7f3a91c2-5d0e-4b7a-9c11-e2b8d44f60a7/log"), 404)
