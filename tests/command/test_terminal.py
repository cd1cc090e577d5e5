"""test_terminal.py - workqueue start, watch, cancel, jobs, outputs, delete against a real server."""

import json
import re
import signal
import subprocess

from shell import WORKQUEUE, CommandTest

from harness import wait_for

STEPS = ('for i in 1 2 3; do printf "$i/3\\tsheet $i\\n"; sleep 0.1; case $2 in slow) sleep 60;; esac; done\n'
         'case $2 in bad) echo "sheet 3 is torn" >&2; exit 4;; esac\necho "$1 $2 $3" >"$4"\n')
SECRET = {"WORKQUEUE_OPERATOR_SECRET": "s3cret"}


class TerminalTest(CommandTest):
    def setUp(self):
        super().setUp()
        secret = self.folder / "secret"
        secret.write_text("s3cret\n")
        secret.chmod(0o600)
        self.server = self.serve("--program", self.script(STEPS), "--grace-ms", "200",
                                 "--operator-secret-file", secret)
        self.url = self.server.base + "/"

    def test_start_watch_and_fetch(self):
        result = self.command("start", self.url, "http://a.example", "one", "--output", "made",
                              env={"WORKQUEUE_API_TOKEN": "tok3n"})
        self.assertEqual(result.returncode, 0, result)
        self.assertEqual((self.here / "made").read_text(), "http://a.example one tok3n\n")
        self.assertIn("sheet", result.stderr)
        self.assertIn("Done.", result.stderr)
        self.assertNotIn("tok3n", result.stderr + result.stdout)
        job = re.search(r"http://\S+/jobs/\S+", result.stderr).group(0)
        again = self.command("watch", job, "--output", "-")
        self.assertEqual((again.returncode, again.stdout), (0, "http://a.example one tok3n\n"))

    def test_failure_tells_its_reason(self):
        result = self.command("start", self.url, "http://a.example", "bad")
        self.assertEqual(result.returncode, 1, result)
        self.assertIn("Failed: exit code 4: sheet 3 is torn", result.stderr)

    def test_cancel(self):
        job = self.command("start", "--detach", self.url, "http://a.example", "slow").stdout.strip()
        watching = subprocess.Popen([str(WORKQUEUE), "watch", job], stderr=subprocess.PIPE, text=True)
        self.assertIn("33 %", watching.stderr.readline())
        self.assertEqual(self.command("cancel", job).returncode, 0)
        self.assertEqual(watching.wait(60), 1)
        self.assertIn("Cancelled.", watching.stderr.read())
        watching.stderr.close()

    def test_interrupt_only_stops_watching(self):
        job = self.command("start", "--detach", self.url, "http://a.example", "slow").stdout.strip()
        watching = subprocess.Popen([str(WORKQUEUE), "watch", job], stderr=subprocess.PIPE, text=True,
                                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        self.assertIn("33 %", watching.stderr.readline())
        watching.send_signal(signal.SIGINT)
        watching.wait(60)
        watching.stderr.close()
        head, body = self.server.ask("GET", "/jobs/" + job.rpartition("/")[2])
        self.assertEqual(json.loads(body)["state"], "running")

    def test_operator(self):
        self.command("start", self.url, "http://a.example", "one")
        self.command("start", "--detach", self.url, "http://b.example", "slow")
        self.assertEqual(self.command("jobs", self.url).returncode, 1)
        self.assertIn("--operator-secret-file", self.command("jobs", self.url).stderr)
        result = self.command("jobs", self.url, env=SECRET)
        self.assertEqual(result.returncode, 0, result)
        self.assertRegex(result.stdout, r"succeeded +100 % +one ")
        self.assertRegex(result.stdout, r"running +33 % +slow ")
        jobs = json.loads(self.command("jobs", "--json", "--state", "running", self.url, env=SECRET).stdout)
        self.assertEqual([job["document_set_id"] for job in jobs["jobs"]], ["slow"])
        outputs = self.command("outputs", self.url, env=SECRET)
        self.assertRegex(outputs.stdout, r" BYTES +AGE +USED +SET ")
        self.assertRegex(outputs.stdout, r" \d+ s +\d+ s +one ")
        key = wait_for(lambda: re.search(r"^[0-9a-f]{64}", outputs.stdout, re.M), "a key").group(0)
        self.assertEqual(self.command("delete", self.url, key, env=SECRET).returncode, 0)
        self.assertEqual(self.command("delete", self.url, key, env=SECRET).returncode, 1)
        self.assertEqual(self.command("delete", "--server", "http://a.example", self.url, env=SECRET).stdout, "0 deleted\n")
        result = self.command("cancel", "--state", "running", self.url, env=SECRET)
        self.assertEqual(result.stdout, "1 cancelled\n")

    def test_wrong_words(self):
        for arguments, *words in ((["start"], "URL"), (["start", "example.org"], "http://"), (["watch"], "JOB_URL"),
                                  (["cancel"], "URL"), (["jobs"], "URL"), (["delete", self.url], "--server")):
            with self.subTest(arguments):
                self.assert_refused(self.command(*arguments), *words)
        result = self.command("watch", self.url + "jobs/7f3a91c2-5d0e-4b7a-9c11-e2b8d44f60a7")
        self.assertEqual(result.returncode, 1)
        result = self.command("start", "http://127.0.0.1:9/")
        self.assertEqual(result.returncode, 1)
        self.assertIn("127.0.0.1:9", result.stderr)
