"""test_serve.py - workqueue serve: its options, its file of options, its log, its end."""

import json
import os
import signal
import socket
import subprocess
import time

from shell import WORKQUEUE, CommandTest

from harness import DEADLINE, TOKEN, wait_for

GOOD = 'echo 0.5; echo "made for $2" >"$4"\n'


def fields(line):
    """A line of the log as a dict, its time left out."""
    found, rest = {}, line.strip()
    while rest:
        word, _, after = rest.partition("=")
        if after.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(after)
            rest = after[end:].strip()
        else:
            value, _, rest = after.partition(" ")
        found[word.split()[-1]] = value
    return found


def ask_health(address, seen):
    """What /health says, also kept for the words of a failure."""
    answer = subprocess.run(["curl", "-sS", "-m", str(DEADLINE), f"http://{address}/health"],
                            capture_output=True, text=True).stdout
    seen[:] = [answer]
    return " ".join(json.loads(answer).get("problems", []))


class ServeTest(CommandTest):
    def lines(self, server, event):
        return [f for f in map(fields, server.log().splitlines()) if f.get("event") == event]

    def test_a_job_through_it(self):
        server = self.serve("--program", self.script(GOOD))
        records = json.loads(server.generate("set-1").read_all())
        self.assertEqual(records[-1]["returncode"], 0)

    def test_storage_is_in_the_state_folder(self):
        server = self.serve("--program", self.script(GOOD))
        server.generate("1").read_all()
        base = self.folder / ".local" / "state" / "workqueue"
        [own] = os.listdir(base)
        self.assertTrue(own.startswith("program-"), own)
        self.assertTrue((base / own / "outputs").is_dir())
        self.assertTrue((base / own / "outputs-journal.sqlite").is_file())

    def test_storage_of_systemd(self):
        state = self.folder / "state"
        server = self.serve("--program", self.script(GOOD), env={"STATE_DIRECTORY": str(state)})
        server.generate("1").read_all()
        self.assertTrue((state / "outputs").is_dir())

    def test_two_programs_of_one_name_share_nothing(self):
        (self.folder / "a").mkdir()
        (self.folder / "b").mkdir()
        first = self.serve("--program", self.script(GOOD, "a/program"))
        second = self.serve("--program", self.script(GOOD, "b/program"))
        one, two = (wait_for(lambda s=s: self.lines(s, "start"), "the start", seen=s.log)[0] for s in (first, second))
        self.assertNotEqual(one["storage"], two["storage"])

    def test_start_line(self):
        program = self.script(GOOD)
        server = self.serve("--program", program)
        [start] = wait_for(lambda: self.lines(server, "start"), "the line of the start", seen=server.log)
        self.assertEqual(start["program"], str(program))
        self.assertEqual(start["address"], f"{server.address[0]}:{server.address[1]}")
        self.assertEqual(start["level"], "info")
        self.assertEqual(start["resumed"], "0")
        self.assertRegex(start["version"], r"^\d")
        self.assertTrue(start["journal"].endswith(".sqlite"))

    def test_wrong_options(self):
        program = self.script(GOOD)
        for arguments, *words in (
                ([], "--program is missing"), (["--program", program, "--nonsense"], "--nonsense"),
                (["--program", program, "--workers", "0"], "--workers", "1 to 1024"),
                (["--program", program, "extra"], "extra"),
                (["--program", program, "--log-level", "loud"], "loud", "warning"),
                (["--program", program, "--log-format", "xml"], "xml"),
                (["--program", program, "--program", f"a={program}"], "NAME"),
                (["--program", program, "--config", "/nowhere"], "/nowhere")):
            with self.subTest(arguments):
                self.assert_refused(self.command("serve", *arguments), *words)

    def test_file_of_options(self):
        program, config = self.script(GOOD), self.folder / "workqueue.ini"
        config.write_text(f"# a comment\nprogram = {program}\nlisten = 127.0.0.1:0\n"
                          f"storage = {self.folder}/kept\nmax-queue = 7\nno-sync = yes\nfair = no\n"
                          "allow-server = http://overview.example\n    http://other.example\n")
        server = self.serve("--config", config, listen=None)
        self.assertEqual(json.loads(server.generate("1").read_all())[-1]["returncode"], 0)
        self.assertTrue((self.folder / "kept").is_dir())
        head, body = server.ask("POST", "/generate", {"Content-Type": "application/json"}, json.dumps(
            {"server": "http://third.example", "documentSetId": "1", "apiToken": "x"}))
        self.assertEqual(head.status, 403, body)

    def test_the_command_line_counts_more_than_the_file(self):
        program, config = self.script(GOOD), self.folder / "workqueue.ini"
        config.write_text(f"program = {program}\nlog-format = json\nstorage = {self.folder}/one\n")
        server = self.serve("--storage", self.folder / "two", "--config", config)
        line = wait_for(lambda: server.log().splitlines(), "a line of the log")[0]
        self.assertEqual(json.loads(line)["storage"], f"{self.folder}/two")

    def test_wrong_lines_of_the_file_are_named(self):
        program, config = self.script(GOOD), self.folder / "workqueue.ini"
        for text, *words in (("nonsense = 1\n", ":2", "nonsense"), ("workers = many\n", "many"),
                             ("fair = perhaps\n", ":2", "perhaps"), ("no equals sign\n", ":2"),
                             ("[Bad Name]\nworkers = 1\n", ":3", "Bad Name"),
                             ("title = " + "x" * 300 + "\n", ":2", "characters"),
                             ("[a]\nworkers = 1\n", "program")):
            with self.subTest(text):
                config.write_text(f"program = {program}\n{text}")
                self.assert_refused(self.command("serve", "--config", config), *words)

    def test_secret_is_no_ones_but_the_operators(self):
        secret = self.folder / "secret"
        secret.write_text("s3cret\n")
        secret.chmod(0o644)
        arguments = ["serve", "--program", self.script(GOOD), "--operator-secret-file", secret]
        self.assert_refused(self.command(*arguments), "chmod")
        secret.write_text("")
        secret.chmod(0o600)
        self.assert_refused(self.command(*arguments), "empty")

    def test_open_door_m8(self):
        program = self.script(GOOD)
        server = self.serve("--program", program, listen="0.0.0.0:0")
        [warning] = wait_for(lambda: self.lines(server, "open_door"), "a warning", seen=server.log)
        self.assertEqual(warning["level"], "warning")
        self.assertIn("whoever reaches the port", warning["msg"])

    def test_loopback_or_an_allow_list_is_no_open_door_m8(self):
        program = self.script(GOOD)
        for arguments, listen in (([], "127.0.0.1:0"),
                                  (["--allow-server", "http://a.example"], "0.0.0.0:0")):
            server = self.serve("--program", program, "--storage", self.folder / listen, *arguments,
                                listen=listen)
            server.terminate()
            server.wait()
            self.assertEqual(self.lines(server, "open_door"), [])

    def test_no_token_in_the_log(self):
        server = self.serve("--program", self.script('echo "$3"; echo "$3" >&2; exit 1'))
        server.generate("1").read_all()
        server.terminate()
        server.wait()
        self.assertNotIn(TOKEN, server.log())

    def test_json_log(self):
        server = self.serve("--program", self.script("exit 3"), "--log-format", "json")
        server.generate("1").read_all()
        server.terminate()
        server.wait()
        for line in server.log().splitlines():
            record = json.loads(line)
            self.assertIn(record["level"], ("info", "warning", "error"))
            self.assertIn("event", record)

    def test_level(self):
        server = self.serve("--program", self.script(GOOD), "--log-level", "error")
        server.generate("1").read_all()
        server.terminate()
        server.wait()
        self.assertEqual(server.log(), "")

    def test_priorities_for_journald(self):
        """systemd names the socket that stderr is; only then lines begin with <N>."""
        ours, theirs = socket.socketpair()
        st = os.fstat(theirs.fileno())
        process = subprocess.Popen(
            [str(WORKQUEUE), "serve", "--listen", "127.0.0.1:0", "--program", str(self.script(GOOD))],
            stdout=subprocess.PIPE, stderr=theirs,
            env=self.environment(JOURNAL_STREAM=f"{st.st_dev}:{st.st_ino}"))
        theirs.close()
        process.stdout.readline()
        process.terminate()
        self.assertEqual(process.wait(2 * DEADLINE), 0)
        process.stdout.close()
        lines = ours.makefile().read().splitlines()
        ours.close()
        self.assertTrue(lines)
        for line in lines:
            self.assertRegex(line, r"^<[346]>event=[a-z_]+")

    def test_a_log_that_nobody_reads_stops_nothing_w4(self):
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        try:
            while True:
                os.write(write_end, b"x" * 65536)
        except BlockingIOError:
            os.set_blocking(write_end, True)
        process = subprocess.Popen(
            [str(WORKQUEUE), "serve", "--listen", "127.0.0.1:0", "--program",
             str(self.script("exit 1"))],
            stdout=subprocess.PIPE, stderr=write_end, text=True, env=self.environment())
        try:
            address = process.stdout.readline().split("//")[1].strip()
            for i in range(5):
                answer = subprocess.run(
                    ["curl", "-sS", "-m", str(DEADLINE), "-u", "user:x", "-d", "server=http://a.example",
                     "-d", f"documentSetId={i}", f"http://{address}/generate"],
                    capture_output=True, text=True)
                self.assertEqual(json.loads(answer.stdout)[-1]["returncode"], 1)
            health = []
            wait_for(lambda: "log" in ask_health(address, health), "a word of it in /health", seen=lambda: health)
            process.terminate()
            self.assertEqual(process.wait(2 * DEADLINE), 0)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            os.close(read_end)
            os.close(write_end)

    def test_hangup_changes_nothing_w7(self):
        server = self.serve("--program", self.script(GOOD))
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: self.lines(server, "hangup"), "a line about SIGHUP", seen=server.log)
        self.assertEqual(json.loads(server.generate("1").read_all())[-1]["returncode"], 0)

    def test_second_signal_ends_it_at_once(self):
        server = self.serve("--program", self.script('trap "" TERM; echo 0.5; sleep 60'),
                            "--grace-ms", "60000")
        client = server.generate("1", accept="application/x-ndjson")
        wait_for(lambda: server.ask("GET", "/metrics")[1].find(b"running\"} 1") > 0 or
                 b"0.5" in server.ask("GET", "/metrics")[1] or time.sleep(0.3) is None, "a run")
        server.terminated = True
        os.kill(server.pid, signal.SIGTERM)
        wait_for(lambda: self.lines(server, "stopping"), "the begin of its end", seen=server.log)
        os.kill(server.pid, signal.SIGTERM)
        self.assertEqual(server.wait(), -signal.SIGTERM)
        client.close()
        server.process.stdout.close()
        server.finish = lambda: None


class SeveralTest(CommandTest):
    """Several programs in one server, each below its name."""

    def several(self, *arguments):
        one = self.script('echo 1; echo "one of $2" >"$4"', "one")
        two = self.script('echo 1; echo "two of $2" >"$4"', "two")
        return self.serve("--no-sync", "--program", f"first={one}", "--title", "The first",
                          "--program", f"second={two}", "--about", "Does <this>", "--workers", "1", *arguments)

    def start(self, server, path, document_set, **headers):
        head, body = server.ask("POST", f"{path}/jobs", {"Content-Type": "application/json", **headers},
                                json.dumps({"server": "http://a.example", "documentSetId": document_set,
                                            "apiToken": "tok"}))
        self.assertEqual(head.status, 201, body)
        return head, json.loads(body)

    def test_each_has_its_own(self):
        server = self.several()
        for name, text in (("first", b"one of 1\n"), ("second", b"two of 1\n")):
            head, job = self.start(server, f"/{name}", "1")
            self.assertEqual(head.get("location"), f"/{name}/jobs/{job['id']}")
            done = wait_for(lambda: (j := json.loads(server.ask("GET", head.get("location"))[1]))["output"]
                            and j, "the end")
            self.assertEqual(server.ask("GET", done["output"]["href"])[1], text)
            head, body = server.ask("POST", f"/{name}/start_work?server=http://a.example&documentSetId=1&apiToken=tok")
            self.assertTrue(head.get("location").startswith(f"/{name}/work/"), head.get("location"))
            self.assertEqual(server.ask("GET", f"/{name}/health")[0].status, 200)
        self.assertEqual(server.ask("GET", "/health")[0].status, 404)
        self.assertEqual(server.ask("GET", "/third/health")[0].status, 404)

    def test_pages(self):
        server = self.several()
        choice = server.ask("GET", "/", {"Accept": "text/html"})[1].decode()
        self.assertIn('<a href="first/">The first</a>', choice)
        self.assertIn("Does &lt;this&gt;", choice)
        self.assertNotIn("{{", choice)
        for path, base in (("/first/", ""), ("/first", "first/"), ("/first/jobs", ""), ("/first/jobs/x", "../")):
            head, body = server.ask("GET", path, {"Accept": "text/html"})
            self.assertEqual(head.status, 200, path)
            self.assertIn(f'href="{base}pages/base.css"', body.decode(), path)
        self.assertEqual(server.ask("GET", "/first/pages/base.css")[0].status, 200)

    def test_a_file_with_sections(self):
        one, two = self.script('echo x >"$4"', "one"), self.script('echo y >"$4"', "two")
        config = self.folder / "several.ini"
        config.write_text(f"no-sync = yes\n[first]\nprogram = {one}\nmax-queue = 3\n[second]\nprogram = {two}\n"
                          f"storage = {self.folder}/of-second\n")
        server = self.serve("--config", config)
        for name in ("first", "second"):
            self.start(server, f"/{name}", "1")
        self.assertTrue((self.folder / "of-second").is_dir())

    def test_all_stop_in_good_order(self):
        server = self.several("--grace-ms", "200")
        self.start(server, "/second", "1")
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertIn("event=stopped", server.log())
