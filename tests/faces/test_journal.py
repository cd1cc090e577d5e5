"""test_journal.py - the server is killed and started again, and its clients find their jobs."""

import json
import re
import sqlite3
import unittest

from harness import DEADLINE, TOKEN, FaceTest, Server, basic, wait_for

PARAMS = "server=http%3A%2F%2Foverview.example&documentSetId="


class JournalTest(FaceTest):
    def journal(self):
        return [p for p in self.folder.iterdir() if p.name.startswith("storage-journal.sqlite")]

    def holds(self, text):
        return any(text.encode() in p.read_bytes() for p in self.journal() if p.exists())

    def post(self, server, path, document_set, headers=None, token=TOKEN):
        fields = {"Authorization": basic(token),
                  "Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        return server.ask("POST", path, fields, PARAMS + document_set)

    def task(self, server, document_set, token):
        head, body = self.post(server, "/api/tasks", document_set, token=token)
        self.assertEqual(head.status, 200, body)
        return json.loads(body)["data"]["task_id"]

    def status(self, server, task):
        head, body = server.ask("GET", f"/api/tasks/{task}")
        self.assertEqual(head.status, 200, body)
        return json.loads(body)["data"]["task_status"]

    def test_pollers_find_their_jobs(self):
        """Same ids, same order; all of them end."""
        server, jobs = self.serve(workers=1), [self.told(f"set{i}") for i in range(4)]
        ids = [self.task(server, f"set{i}", f"token-of-user-{i}") for i in range(4)]
        jobs[0].wait_started()
        server.kill()
        jobs[0].wait_gone()
        again = self.serve(workers=1)
        wait_for(lambda: self.status(again, ids[0]) == "PROCESSING", "the first to run again")
        self.assertEqual([self.status(again, i) for i in ids[1:]], ["QUEUED"] * 3)
        for document_set in ("set3", "another"):  # S12: one active request, also after a restart
            head, body = self.post(again, "/api/tasks", document_set, token="token-of-user-3")
            self.assertEqual((head.status, json.loads(body)["data"]["task_id"]), (201, ids[3]), body)
        for job in jobs:
            job.succeed("whole")
        for id_ in ids:
            wait_for(lambda: self.status(again, id_) == "SUCCESS", f"the end of {id_}")
        ran = [line.split()[1] for line in (self.folder / "started").read_text().splitlines()]
        self.assertEqual(ran, ["set0", "set0", "set1", "set2", "set3"])
        again.terminate()
        self.assertEqual(again.wait(), 0)
        third = self.serve(workers=1)
        self.assertEqual([self.status(third, i) for i in ids], ["SUCCESS"] * 4)

    def test_failures_stay_known(self):
        server = self.serve(self.script("echo because >&2; exit 3"))
        task = self.task(server, "set", TOKEN)
        wait_for(lambda: self.status(server, task) == "FAILURE", "the failure")
        server.terminate()
        server.wait()
        self.assertEqual(self.status(self.serve(), task), "FAILURE")

    def test_ids_of_what_was_done_already_stay_known(self):
        server = self.serve()
        server.generate("set").last()
        for _ in range(2):
            server.kill()
            server = self.serve()  # which knows the output, and not by whose token it was made
            head, body = self.post(server, "/start_work", "set")
            self.assertEqual((head.status, head.get("x-workqueue")), (303, "hit"), body)
            self.assertLess(int(head.get("age")), 3600)
            server.kill()
            server = self.serve()
            head, body = server.ask("GET", head.get("location"))
            self.assertEqual((head.status, body), (200, b"output of set\n"))
            self.assertFalse(self.holds(TOKEN))

    def test_streams_join_again(self):
        """Who was cut off asks again, and gets the same job; an EventSource by the id it has."""
        server, job = self.serve(), self.told("set")
        stream = server.generate("set", accept="text/event-stream")
        job.wait_started()
        job.tell("echo 0.25")
        while "0.25" not in stream.message()["data"]:
            pass
        last = re.findall(rb"id: (\S+)", stream.body)[-1].decode()
        server.kill()
        job.wait_gone()
        again = self.serve()
        stream = again.generate("set", accept="text/event-stream", headers={"Last-Event-ID": last})
        job.wait_started(2)
        job.succeed("whole")
        body = stream.read_all().decode()
        self.assertEqual({i.split(".")[0] for i in re.findall(r"id: (\S+)", body)},
                         {last.split(".")[0]})
        self.assertIn('"returncode": 0', body)
        last = re.findall(r"id: (\S+)", body)[-1]
        again.terminate()
        again.wait()
        third = self.serve()
        stream = third.generate("set", accept="text/event-stream", headers={"Last-Event-ID": last})
        stream.read_all()
        self.assertEqual(stream.head.status, 204)

    def test_who_comes_late_after_a_stop_gets_the_end(self):
        """It has seen more of the run that was stopped than there was of the one after it."""
        server, job = self.serve(), self.told("set")
        stream = server.generate("set", accept="text/event-stream")
        job.tell("for i in 1 2 3 4 5; do echo 0.$i; done")
        while "0.5" not in stream.message()["data"]:
            pass
        server.terminate()
        last = re.findall(rb"id: (\S+)", stream.read_all())[-1].decode()
        server.wait()
        again = self.serve()
        job.wait_started(2)
        job.succeed("whole")
        wait_for(lambda: self.status(again, last.partition(".")[0]) == "SUCCESS", "the end")
        stream = again.generate("set", accept="text/event-stream", headers={"Last-Event-ID": last})
        self.assertEqual(json.loads(stream.message()["data"])["returncode"], 0)

    def test_lunkwill_client_finds_its_request(self):
        server, job = self.serve(), self.told("set")
        head, body = self.post(server, "/run", "set", {"X-Lunkwill": "require"})
        self.assertEqual(head.status, 201, body)
        summary = json.loads(body)
        job.wait_started()
        server.kill()
        job.wait_gone()
        again = self.serve()
        path = f"/api/lunkwill/{summary['id']}"
        self.assertEqual(again.ask("GET", path + "/summary")[0].status, 200)
        job.succeed("whole")
        wait_for(lambda: json.loads(again.ask("GET", path + "/summary")[1])["status"] == "ready",
                 "a response")
        head, body = again.ask("GET", path + "/response")
        self.assertEqual((head.status, body), (200, b"whole\n"))

    def test_a_stop_counts_no_attempt(self):
        job = self.told("set")
        server = self.serve(max_attempts=1)
        task = self.task(server, "set", TOKEN)
        for _ in range(3):
            job.wait_started()
            server.terminate()
            self.assertEqual(server.wait(), 0)
            server = self.serve(max_attempts=1)
            wait_for(lambda: self.status(server, task) == "PROCESSING", "it to run again")
        job.succeed("whole")
        wait_for(lambda: self.status(server, task) == "SUCCESS", "the end")

    def test_a_cancel_outlives_a_crash(self):
        """204 is said when the end is in the journal, not when the program has been asked to end."""
        program = self.script('trap "sleep 0.3; exit 1" TERM; echo >>"${4%/*/*/*}/runs"\n'
                              'while :; do sleep 0.05; done')
        server, runs = self.serve(program), self.folder / "runs"
        path = self.post(server, "/start_work", "set")[0].get("location")
        path = path.removeprefix(server.base)
        wait_for(lambda: runs.exists() and runs.read_text(), "the run")
        self.assertEqual(server.ask("DELETE", path)[0].status, 204)
        server.kill()
        again = self.serve(program)
        self.assertEqual(again.ask("GET", path, {"Prefer": "wait=0"})[0].status, 410)
        self.assertEqual(runs.read_text(), "\n")

    def test_attempts_end(self):
        server, job = self.serve(max_attempts=2), self.told("set")
        task = self.task(server, "set", TOKEN)
        for round_ in range(2):
            wait_for(lambda: self.started_in_journal(), "the start in the journal")
            server.kill()
            server = self.serve(max_attempts=2)
        self.assertEqual(self.status(server, task), "FAILURE")
        self.assertIn("2 times", server.log())
        self.assertIn("2 times", server.generate("set", accept="text/event-stream", headers={
            "Last-Event-ID": f"{task}.1"}).read_all().decode())

    def started_in_journal(self):
        """Seen in a copy: the journal itself is the server's alone."""
        copy = self.folder / "copy.sqlite"
        for suffix in ("", "-wal"):
            source = self.folder / f"storage-journal.sqlite{suffix}"
            (self.folder / f"copy.sqlite{suffix}").write_bytes(source.read_bytes())
        database = sqlite3.connect(copy)
        try:
            return database.execute("SELECT count(*) FROM job WHERE started = 1").fetchone()[0]
        except sqlite3.DatabaseError:
            return 0  # copied in the middle of a write
        finally:
            database.close()

    def test_tokens_go(self):
        server, job = self.serve(), self.told("set")
        server.generate("set")
        job.wait_started()
        self.assertTrue(self.holds(TOKEN))
        self.assertEqual({p.stat().st_mode & 0o777 for p in self.journal()}, {0o600})
        job.succeed("whole")
        wait_for(lambda: not self.holds(TOKEN), "the token gone from the journal")

    def test_none(self):
        server = self.serve(journal="none")
        self.assertEqual(server.generate("set").last()["returncode"], 0)
        self.assertEqual(self.journal(), [])

    def test_w2_a_stop_is_no_end(self):
        """What goes on after the restart has not ended, and nobody is told so, by any face."""
        server, job = self.serve(workers=1), self.told("set")
        array, lines, events = (server.generate("set", accept) for accept in
                                ("application/json", "application/x-ndjson", "text/event-stream"))
        for stream in (array, lines):
            stream.record()
        events.message()
        job.wait_started()
        id = array.head.get("x-workqueue-job")
        self.assertRegex(id, "^[0-9a-f-]{36}$")
        poll = server.request("GET", f"/work/{id}", {"Prefer": "wait=30"})
        wait_for(lambda: server.metric('workqueue_held_responses{face="poll"}') == 1
                 if hasattr(server, "metric") else
                 b'held_responses{face="poll"} 1' in server.ask("GET", "/metrics")[1], "the held poll")
        server.terminate()
        for stream in (array, lines):
            stream.read_all()
            self.assertNotIn(b"-999", stream.body)
            self.assertNotIn(b"Exited", stream.body)
        self.assertIsInstance(json.loads(array.body), list)
        for line in lines.body.splitlines():
            self.assertIsNone(json.loads(line)["returncode"])
        rest = events.read_all()
        self.assertNotIn(b"event: end", events.body)
        self.assertNotIn(b"-999", events.body)
        poll.read_all()
        self.assertEqual((poll.head.status, poll.head.get("retry-after")), (303, "2"))
        self.assertIn(id, poll.head.get("location"))
        self.assertEqual(server.wait(), 0)
        del rest
        again = self.serve(workers=1)
        job.wait_started(2)
        job.succeed()
        self.assertEqual(again.generate("set").read_all()[-1:], b"]")

    def test_refused_journals(self):
        """A sentence and exit 2, not a queue without its jobs."""
        journal = self.folder / "my.sqlite"
        self.serve(journal=journal).finish()
        database = sqlite3.connect(journal)
        database.execute("PRAGMA user_version = 7")
        database.close()
        for text, words in ((None, "newer version 7"), (b"no database at all" * 99, "database"),
                            ("folder", "not a regular file")):
            if isinstance(text, bytes):
                journal.write_bytes(text)
            elif text:
                journal.unlink()
                journal.mkdir()
            with self.subTest(words), self.assertRaises(AssertionError) as caught:
                Server(self.folder, self.told_program, journal=journal)
            self.assertIn(words, str(caught.exception))

    def test_many_at_once(self):
        """Requests wait for the journal together, and other requests do not wait for them."""
        server = self.serve(sync=True, workers=2)
        streams = [server.generate(f"set{i}") for i in range(200)]
        for stream in streams:
            self.assertEqual(stream.last()["returncode"], 0)
        metrics = server.ask("GET", "/metrics")[1].decode()
        self.assertRegex(metrics, r"workqueue_journal_errors_total 0")

    def test_clients_that_leave_while_it_waits(self):
        server = self.serve(sync=True)
        for i in range(100):
            server.generate(f"set{i}").close()
        wait_for(lambda: len([n for n in server.stored() if len(n) == 64]) == 100,
                 "every job that was accepted to end", 3 * DEADLINE)


if __name__ == "__main__":
    unittest.main()
