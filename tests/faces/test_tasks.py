"""test_tasks.py - the task-status API: begin a task, one at a time for each user, and poll it."""

import json
import threading

from harness import SERVER, TOKEN, FaceTest, basic, plain_only, wait_for
from node import browse, other_origin
from test_limits import LibraryTest

FORM = "application/x-www-form-urlencoded"
REQUIRED = ["This field is required."]
UNKNOWN = "00000000-0000-4000-8000-000000000000"
FIELDS = ["task_id", "task_status", "done_percentage", "count_done_items", "number_of_items"]


class TaskTest(FaceTest):
    path = "/api/tasks/"

    def post(self, server, document_set="7", token=TOKEN, body=None, path=None, content_type=FORM):
        headers = {"Content-Type": content_type}
        if token:
            headers["Authorization"] = basic(token)
        if body is None:
            body = f"server={SERVER}&documentSetId={document_set}"
        return self.parsed(server.ask("POST", path or self.path, headers, body))

    def get(self, server, task):
        return self.parsed(server.ask("GET", f"{self.path}{task}/"))

    def parsed(self, answer):
        head, body = answer
        self.assertEqual(head.get("content-type"), "application/json", body)
        self.assertEqual(head.get("cache-control"), "no-store")
        self.assertEqual(head.get("content-length"), str(len(body)))
        self.assertEqual(head.get("access-control-allow-origin"), "*")
        self.assertNotIn(TOKEN, body.decode())
        return head, json.loads(body)

    def begin(self, server, document_set="7", token=TOKEN, **more):
        """Begins a task that must begin; its id."""
        head, answer = self.post(server, document_set, token, **more)
        self.assertEqual(head.status, 200, answer)
        self.assertEqual(list(answer), ["success", "data"])
        self.assertIs(answer["success"], True)
        self.assertEqual(list(answer["data"]), FIELDS[:2])
        return answer["data"]["task_id"]

    def status(self, server, task):
        """What the API tells of a task, its identity checked and taken off."""
        head, answer = self.get(server, task)
        self.assertEqual(head.status, 200, answer)
        self.assertEqual(list(answer), ["success", "data"])
        self.assertIs(answer["success"], True)
        self.assertEqual(list(answer["data"]), FIELDS)
        self.assertEqual(answer["data"].pop("task_id"), task)
        self.assertIsInstance(answer["data"]["done_percentage"], int)
        return tuple(answer["data"].values())

    def until(self, server, task, *expected):
        wait_for(lambda: self.status(server, task) == expected, f"a task with {expected}",
                 seen=lambda: self.status(server, task))

    def until_state(self, server, task, expected):
        wait_for(lambda: self.status(server, task)[0] == expected, f"a task with {expected}",
                 seen=lambda: self.status(server, task))
        return self.status(server, task)

    def assert_active(self, answer, task):
        self.assertEqual(answer[0].status, 201)
        self.assertEqual(answer[1], {"success": True, "message": "There is an active request",
                                     "data": {"task_id": task}})

    def assert_refused(self, answer, status, message):
        self.assertEqual(answer[0].status, status, answer[1])
        self.assertEqual(answer[1], {"success": False, "message": message})


class StateTest(TaskTest):
    """What a poll sees from the beginning to each end."""

    def test_success(self):
        server, job = self.serve(), self.told("7")
        task = self.begin(server)
        self.until(server, task, "PROCESSING", 0, None, None)
        for line, percentage in (("0.29", 29), ("0.999", 99), ("1", 99), ("0.5\thalf", 50)):
            job.progress(line)
            self.until(server, task, "PROCESSING", percentage, None, None)
        job.succeed()
        self.until(server, task, "SUCCESS", 100, None, None)

    def test_counts(self):
        server, job = self.serve(), self.told("7")
        task = self.begin(server)
        for done, total, percentage in ((0, 12, 0), (3, 12, 25), (5, 12, 41), (12, 12, 99), (0, 0, 0),
                                        (2, 3, 66), (99, 100, 99), (7, 25, 28),
                                        (999999999999999998, 999999999999999999, 99),
                                        (300000000000000000, 999999999999999999, 30)):
            job.progress(f"{done}/{total}\tindexing")
            self.until(server, task, "PROCESSING", percentage, done, total)
        job.progress("11/12")
        self.until(server, task, "PROCESSING", 91, 11, 12)
        job.succeed()
        self.until(server, task, "SUCCESS", 100, 11, 12)

    def test_queued_and_failed(self):
        server = self.serve(workers=1)
        first, second = self.told("first"), self.told("second")
        running = self.begin(server, "first", "one")
        self.until_state(server, running, "PROCESSING")
        head, answer = self.post(server, "second", "two")
        self.assertEqual(answer["data"]["task_status"], "QUEUED")
        waiting = answer["data"]["task_id"]
        self.assertEqual(self.status(server, waiting), ("QUEUED", 0, None, None))
        first.tell("exit 1")
        self.assertLess(self.until_state(server, running, "FAILURE")[1], 100)
        self.until_state(server, waiting, "PROCESSING")
        second.progress("6/12")
        self.until(server, waiting, "PROCESSING", 50, 6, 12)
        second.tell("kill -9 $$")
        self.until(server, waiting, "FAILURE", 50, 6, 12)

    def test_cancelled(self):
        server, job = self.serve(), self.told("7")
        task = self.begin(server)
        job.wait_started()
        self.assertLess(server.ask("DELETE", f"/work/{task}")[0].status, 300)
        self.assertLess(self.until_state(server, task, "REVOKED")[1], 100)

    def test_already_done(self):
        server = self.serve()
        server.generate("7").read_all()
        for _ in range(2):
            head, answer = self.post(server)
            self.assertEqual((head.status, answer["data"]["task_status"]), (200, "SUCCESS"))
            self.assertEqual(self.status(server, answer["data"]["task_id"]),
                             ("SUCCESS", 100, None, None))

    def test_joins_a_job_of_another_face(self):
        server, job = self.serve(), self.told("7")
        stream = server.generate("7")
        stream.record()
        task = self.begin(server)
        job.progress("0.5")
        stream.until_fraction(0.5)
        self.assertEqual(self.status(server, task), ("PROCESSING", 50, None, None))
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)
        self.until(server, task, "SUCCESS", 100, None, None)
        self.assertEqual(len(job.runs()), 1)

    def test_many_polls_on_one_connection(self):
        server, job = self.serve(), self.told("7")
        task = self.begin(server)
        client = server.connect()
        for i in range(100):
            client.begin_response(head_only=i % 2 == 1)
            server.request("HEAD" if i % 2 else "GET", f"{self.path}{task}/", client=client)
            client.read_all()
            self.assertEqual(client.head.status, 200)
            self.assertGreater(int(client.head.get("content-length")), 100)
        self.assertEqual(client.held, b"")
        job.succeed()


class OneActiveTest(TaskTest):
    """A user has one active request at a time."""

    def test_a_second_request(self):
        server, job = self.serve(), self.told("7")
        task = self.begin(server)
        self.assert_active(self.post(server), task)
        self.assert_active(self.post(server, "8"), task)
        self.assert_active(self.post(server, "8", body="server=http://x&documentSetId=8&rebuild=1"),
                           task)
        job.wait_started()
        self.assert_active(self.post(server), task)
        job.succeed()
        self.until_state(server, task, "SUCCESS")
        self.assertNotEqual(self.begin(server, "8"), task)

    def test_after_a_failure(self):
        server, job = self.serve(), self.told("7")
        task = self.begin(server)
        job.tell("exit 1")
        self.until_state(server, task, "FAILURE")
        again = self.begin(server)
        self.assertNotEqual(again, task)
        self.assert_active(self.post(server), again)

    def test_while_queued(self):
        server, _ = self.serve(workers=1), self.told("1")
        self.begin(server, "1", "one")
        task = self.begin(server, "2", "two")
        self.assert_active(self.post(server, "3", "two"), task)

    def test_another_user(self):
        server, _ = self.serve(), self.told("7")
        tasks = {token: self.begin(server, "7", token) for token in ("one", "two")}
        self.assertNotEqual(tasks["one"], tasks["two"])
        for token, task in tasks.items():
            self.assert_active(self.post(server, "8", token), task)

    def test_the_token_wherever_it_is(self):
        server, _ = self.serve(), self.told("7")
        task = self.begin(server)
        body = json.dumps({"server": SERVER, "documentSetId": 8, "apiToken": TOKEN})
        self.assert_active(self.post(server, token=None, body=body, content_type="application/json"),
                           task)

    def test_not_forgotten_among_many(self):
        """Users come and go; the one whose task goes on stays known."""
        server, job = self.serve(), self.told("mine")
        task = self.begin(server, "mine")
        for i in range(100):
            other = self.begin(server, f"set{i}", f"user{i}")
            self.until_state(server, other, "SUCCESS")
            self.assert_active(self.post(server, f"set{i}"), task)
        job.succeed()
        self.until_state(server, task, "SUCCESS")

    def crowd(self, server, document_sets):
        """All at once from one user; the answers."""
        answers, barrier = [], threading.Barrier(len(document_sets))

        def one(document_set):
            barrier.wait()
            answers.append(self.post(server, document_set))

        threads = [threading.Thread(target=one, args=(name,)) for name in document_sets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(answers), len(document_sets))
        return answers

    def assert_one_began(self, server, answers):
        self.assertEqual(sorted(head.status for head, _ in answers), [200] + [201] * (len(answers) - 1))
        tasks = {answer["data"]["task_id"] for _, answer in answers}
        self.assertEqual(len(tasks), 1)
        return tasks.pop()

    def test_a_crowd_for_one_document_set(self):
        server, job = self.serve(loops=4), self.told("7")
        self.assert_one_began(server, self.crowd(server, ["7"] * 50))
        job.wait_started()
        self.assertEqual(len(job.runs()), 1)

    def test_a_crowd_for_many_document_sets(self):
        server = self.serve(loops=4, workers=1)
        names = [f"set{i}" for i in range(50)]
        jobs = [self.told(name) for name in names]
        for _ in range(3):
            task = self.assert_one_began(server, self.crowd(server, names))
            began = wait_for(lambda: [j for j in jobs if j.runs()], "a run")
            self.assertEqual(len(began), 1)
            jobs.remove(began[0])
            names.remove(began[0].name)
            began[0].succeed()
            self.until_state(server, task, "SUCCESS")
        # With one worker and nobody to tell them to end, any others would be in the way of this.
        last = self.begin(server, "last", "somebody else")
        self.until_state(server, last, "SUCCESS")
        self.assertEqual([j.name for j in jobs if j.runs()], [])

    def test_a_crowd_for_a_done_one(self):
        server = self.serve(loops=4)
        server.generate("7").read_all()
        for head, answer in self.crowd(server, ["7"] * 20):
            self.assertEqual((head.status, answer["data"]["task_status"]), (200, "SUCCESS"))


class WindowTest(LibraryTest, TaskTest):
    def test_after_the_window(self):
        server, _ = self.serve_with(tasks_window_ms=4000), self.told("1")
        self.told("2")
        first = self.begin(server, "1")
        self.assert_active(self.post(server, "2"), first)
        head, answer = wait_for(lambda: (a := self.post(server, "2"))[0].status == 200 and a,
                                "another task after the window")
        second = answer["data"]["task_id"]
        self.assertNotEqual(second, first)
        self.assert_active(self.post(server, "1"), second)
        self.until_state(server, first, "PROCESSING")

    def test_the_same_one_after_the_window(self):
        server, job = self.serve_with(tasks_window_ms=0), self.told("1")
        task = self.begin(server, "1")
        self.assertEqual(self.begin(server, "1"), task)
        job.wait_started()
        self.assertEqual(len(job.runs()), 1)


class RefusedTest(TaskTest):
    """Errors have the API's shape; those of fields are lists, by field."""

    def test_missing_fields(self):
        server = self.serve()
        for body, token, missing in (
                ("documentSetId=7", TOKEN, ["server"]), (f"server={SERVER}", TOKEN, ["documentSetId"]),
                ("", TOKEN, ["server", "documentSetId"]), ("server=&documentSetId=7", TOKEN, ["server"]),
                (f"server={SERVER}", None, ["documentSetId", "apiToken"]),
                ("", None, ["server", "documentSetId", "apiToken"])):
            with self.subTest(body, token=token):
                self.assert_refused(self.post(server, body=body, token=token), 400,
                                    {name: REQUIRED for name in missing})
        self.assert_refused(self.post(server, body="{}", content_type="application/json"), 400,
                            {"server": REQUIRED, "documentSetId": REQUIRED})

    def test_no_token(self):
        server = self.serve()
        answer = self.post(server, token=None)
        self.assert_refused(answer, 401, {"apiToken": REQUIRED})
        self.assertRegex(answer[0].get("www-authenticate"), "^Basic ")

    def test_malformed_token(self):
        server = self.serve()
        head, answer = self.parsed(server.ask("POST", self.path, {
            "Authorization": "Bearer x", "Content-Type": FORM}, f"server={SERVER}&documentSetId=7"))
        self.assertEqual((head.status, list(answer["message"])), (401, ["apiToken"]))

    def test_malformed_fields(self):
        server = self.serve()
        for body, field in ((f"server={SERVER}%01&documentSetId=7", "server"),
                            (f"server={SERVER}&documentSetId=" + "7" * 300, "documentSetId")):
            head, answer = self.post(server, body=body)
            self.assertEqual((head.status, list(answer["message"])), (400, [field]), answer)
            self.assertGreater(len(answer["message"][field][0]), 10)
        head, answer = self.post(server, body=f"server={SERVER}&documentSetId=7&apiToken=" + "a" * 5000,
                                 token=None)
        self.assertEqual((head.status, list(answer["message"])), (400, ["apiToken"]), answer)

    def test_malformed_body(self):
        server = self.serve()
        for body, content_type in (("server=%zz", FORM), ("{", "application/json")):
            head, answer = self.post(server, body=body, content_type=content_type)
            self.assertEqual((head.status, list(answer["message"])), (400, ["non_field_errors"]))
            self.assertIn("malformed", answer["message"]["non_field_errors"][0])

    def test_refused_as_a_whole(self):
        server = self.serve(allow_server="http://elsewhere.example")
        answers = {403: self.post(server), 415: self.post(server, content_type="text/plain"),
                   413: self.post(server, body="server=http://elsewhere.example&x=" + "x" * 100000)}
        for status, (head, answer) in answers.items():
            self.assertEqual((head.status, answer["success"]), (status, False))
            self.assertIsInstance(answer["message"], str)
            self.assertGreater(len(answer["message"]), 10)

    def test_unknown(self):
        server, _ = self.serve(), self.told("7")
        task = self.begin(server)
        for name in (UNKNOWN, "1", "x" * 1000, task + "x", task[:-1], task + "/x", task.upper() + "/"):
            with self.subTest(name):
                self.assert_refused(self.parsed(server.ask("GET", self.path + name)), 404,
                                    "Task not found")

    def test_queue_full(self):
        server = self.serve(workers=1, max_queue=1)
        jobs = [self.told(name) for name in ("one", "two", "three")]
        tasks = [self.begin(server, name, name) for name in ("one", "two")]
        for _ in range(2):
            head, answer = self.post(server, "three", "three")
            self.assertEqual((head.status, answer["success"]), (503, False), answer)
            self.assertIsInstance(answer["message"], str)
            self.assertGreaterEqual(int(head.get("retry-after")), 1)
        for job, task in zip(jobs, tasks):
            job.succeed()
            self.until_state(server, task, "SUCCESS")
        self.begin(server, "three", "three")

    def test_a_user_with_too_many_jobs(self):
        server = self.serve(max_per_user=1, workers=1)
        job, stream = self.told("one"), server.generate("one", token="user")
        stream.record()
        head, answer = self.post(server, "two", "user")
        self.assertEqual((head.status, answer["success"]), (429, False), answer)
        self.assertGreaterEqual(int(head.get("retry-after")), 1)
        job.succeed()
        self.assertEqual(stream.last()["returncode"], 0)
        self.begin(server, "two", "user")

    def test_methods(self):
        server, _ = self.serve(), self.told("7")
        task = self.begin(server)
        for path, allow in ((self.path, "POST, OPTIONS"), (self.path + task, "GET, HEAD, OPTIONS"),
                            (self.path + task + "/", "GET, HEAD, OPTIONS")):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
                if method != "OPTIONS" and method in allow.split(", "):
                    continue
                with self.subTest(method + " " + path):
                    head, _ = server.ask(method, path)
                    self.assertEqual(head.status, 204 if method == "OPTIONS" else 405)
                    self.assertEqual(head.get("allow"), allow)


class PathTest(TaskTest):
    def test_without_the_last_slash(self):
        server, job = self.serve(), self.told("7")
        task = self.begin(server, path="/api/tasks")
        with_slash = server.ask("GET", f"/api/tasks/{task}/")
        without = server.ask("GET", f"/api/tasks/{task}")
        self.assertEqual((with_slash[0].status, without[0].status), (200, 200))
        self.assertEqual(json.loads(with_slash[1])["data"]["task_id"], task)
        self.assert_problem(server.ask("POST", "/api/tasksx", body=""), 404)
        job.succeed()

    def test_a_path_of_ones_own(self):
        """As the client of the API's first server calls it."""
        for i, option in enumerate(("/api/tuned-long-running-task", "/api/tuned-long-running-task/")):
            with self.subTest(option):
                server = self.serve(tasks_path=option, storage=self.folder / f"storage{i}")
                self.path = "/api/tuned-long-running-task/"
                task = self.begin(server)
                self.until(server, task, "SUCCESS", 100, None, None)
                self.assertEqual(server.ask("POST", "/api/tasks/")[0].status, 404)


@plain_only
class PageTest(TaskTest):
    """A jQuery page of another origin in headless Chromium, which polls each second."""

    def browse(self, server, token=TOKEN):
        return browse(self, "tasks_page.mjs", page=other_origin(self), token=token, every=1000,
                      tasks=server.base + self.path, documentSet="7")

    def until_percentage(self, page, percentage):
        return page.until(lambda l: l.get("data", {}).get("done_percentage") == percentage,
                          f"{percentage} %")

    def test_to_success(self):
        server, job = self.serve(), self.told("7")
        page = self.browse(server)
        begun = page.next()
        self.assertEqual((begun["status"], begun["begun"]["success"]), (200, True))
        job.progress("3/12\tindexing")
        line = self.until_percentage(page, 25)
        self.assertEqual((line["data"]["count_done_items"], line["data"]["number_of_items"]), (3, 12))
        job.progress("7/12")
        self.assertEqual(self.until_percentage(page, 58)["bar"], "58%")
        job.succeed()
        self.assertEqual(page.until(lambda l: "end" in l, "the end"), {"end": "SUCCESS"})
        polls = [line["data"] for line in page.seen if "data" in line]
        seen = [poll["done_percentage"] for poll in polls]
        self.assertEqual(seen, sorted(seen))
        self.assertEqual((seen[-1], polls[-1]["task_status"]), (100, "SUCCESS"))
        for poll in polls:
            self.assertEqual(poll["done_percentage"] == 100, poll["task_status"] == "SUCCESS")
        self.assertEqual(len(job.runs()), 1)

    def test_a_second_page_follows_the_active_one(self):
        server, job = self.serve(), self.told("7")
        task = self.begin(server, "7")
        page = self.browse(server)
        self.assertEqual(page.next()["status"], 201)
        job.progress("0.5")
        self.assertEqual(self.until_percentage(page, 50)["data"]["task_id"], task)
        job.tell("exit 1")
        self.assertEqual(page.until(lambda l: "end" in l, "the end"), {"end": "FAILURE"})

    def test_refused(self):
        server = self.serve(allow_server="http://elsewhere.example")
        end = self.browse(server).until(lambda l: "end" in l, "the end")
        self.assertEqual((end["end"], end["status"], end["body"]["success"]), ("refused", 403, False))
