"""The examples do what they say: each is run as its first lines tell."""

import functools
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("WQ_BUILD", ROOT / "build"))
EXAMPLES = ROOT / "demo-plugin" / "examples"
BUILT = BUILD / "demo-plugin" / "examples"
PROGRAMS = ["program.sh", "program.py", "program.mjs"]
DEADLINE = 60


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="wq-test-examples ")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.storage = self.folder / "storage"
        self.storage.mkdir()

    def run_example(self, name, *arguments):
        return subprocess.run([BUILT / f"example-{name}", *map(str, arguments)], text=True,
                              stdout=subprocess.PIPE, timeout=DEADLINE, check=True).stdout

    def start(self, command, environment=None):
        """A server; its address is in its first line."""
        server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True,
                                  env=environment)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        return server, server.stdout.readline().split()[-1]

    def stop(self, server):
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(DEADLINE), 0)

    def generate(self, address, **fields):
        fields = {"server": "http://o.example", "documentSetId": "7", "apiToken": "token", **fields}
        body = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
        with urllib.request.urlopen(f"http://{address}/generate", body, DEADLINE) as answer:
            return json.load(answer)


class ProgramTest(Folder):
    def test_programs_keep_the_contract(self):
        for name in PROGRAMS:
            output = self.folder / name
            output.touch()
            run = subprocess.run([EXAMPLES / name, "http://o.example", "7", "token", output],
                                 stdout=subprocess.PIPE, text=True, timeout=DEADLINE)
            self.assertEqual(run.returncode, 0, name)
            self.assertGreater(output.stat().st_size, 0, name)
            for line in run.stdout.splitlines():
                self.assertRegex(line, r"^\d+/\d+\t.+$", name)


class QueueTest(Folder):
    def test_the_queue_alone_tells_records_and_copies_the_output(self):
        arguments = EXAMPLES / "program.py", self.storage, "http://o.example", "7", "token"
        *records, output = self.run_example("queue", *arguments).splitlines()
        self.assertEqual(json.loads(records[-1])["returncode"], 0)
        self.assertEqual(json.loads(output)["documentSet"], "7")
        self.assertEqual(self.run_example("queue", *arguments), output)  # it is there

    def test_a_runner_and_a_store_of_ones_own(self):
        arguments = self.storage, "http://o.example", "7", "token"
        said = self.run_example("own_parts", *arguments)
        self.assertEqual(said.splitlines()[-1], "line 5 for document set 7")
        self.assertEqual(self.run_example("own_parts", *arguments), said)  # it is there
        self.assertEqual([path.suffix for path in self.storage.iterdir()], [".txt"])

    def test_glib_watches_to_the_end(self):
        if not (BUILT / "example-glib").exists():
            self.skipTest("libglib2.0-dev is not installed")
        said = self.run_example("glib", EXAMPLES / "program.sh", self.storage, "http://o.example",
                                "7", "token")
        self.assertEqual(said.splitlines()[-1].split("%")[0].strip(), "100")


class ServerTest(Folder):
    def test_twenty_lines_serve_each_program(self):
        for name in PROGRAMS:
            storage = self.storage / name
            storage.mkdir()
            server, address = self.start([BUILT / "example-plugin", EXAMPLES / name, storage,
                                          "127.0.0.1:0"])
            records = self.generate(address)
            self.assertEqual(records[-1]["returncode"], 0, name)
            self.stop(server)

    def test_own_h2o_serves_the_faces_and_its_own_route(self):
        server, address = self.start([BUILT / "example-own_h2o", EXAMPLES / "program.sh",
                                      self.storage, 0])
        with urllib.request.urlopen(f"http://{address}/hello", timeout=DEADLINE) as answer:
            self.assertEqual(answer.read(), b"hello\n")
        for number in range(4):  # on one loop or the other
            records = self.generate(address, documentSetId=number)
            self.assertEqual(records[-1]["returncode"], 0)
        self.stop(server)


class BrowserTest(Folder):
    """page.html, in Chromium, from a web server that is not the jobs' own."""

    def test_a_page_of_ones_own_on_another_origin(self):
        chromium, clients = shutil.which("chromium"), ROOT / "tests" / "clients"
        if not chromium or not (clients / "node_modules" / "playwright-core").is_dir():
            self.skipTest("needs chromium, and npm ci in tests/clients")
        if "asan" in BUILD.name or "tsan" in BUILD.name:
            self.skipTest("it is about the page")
        _, jobs = self.start([BUILD / "bin" / "workqueue", "serve", "--program", EXAMPLES / "program.sh", "--listen",
                              "127.0.0.1:0", "--storage", self.storage, "--journal", "none"])
        handler = functools.partial(QuietHandler, directory=str(EXAMPLES))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
            threading.Thread(target=pages.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{pages.server_port}/page.html?jobs={jobs.rstrip('/')}"
            told = {"chromium": chromium, "timeout": 1000 * DEADLINE, "page": address, "set": "7"}
            run = subprocess.run(["node", clients / "own_page.mjs", json.dumps(told)], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, timeout=4 * DEADLINE)
            pages.shutdown()
        self.assertEqual(run.returncode, 0, run.stderr)
        seen = json.loads(run.stdout)
        self.assertEqual((seen["status"], seen["errors"]), ("Done", []))
        self.assertRegex(seen["output"], r"\d\d:\d\d:\d\d")  # the program's date


def pieces(page, language=""):
    """What a page of the manual has between lines of ```."""
    text = (ROOT / "workqueue" / "doc" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


class PagesTest(Folder):
    """The examples of the manual's pages, as they are there; but addresses and folders are ours."""

    def setUp(self):
        super().setUp()
        if "asan" in BUILD.name or "tsan" in BUILD.name:
            self.skipTest("they are built without a sanitizer")
        self.bin = f"{BUILD / 'bin'}:{BUILD / 'demo-plugin'}:{os.environ['PATH']}"
        self.home = {"HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}

    def shell(self, text):
        return subprocess.run(["sh", "-eu", "-c", text], cwd=self.folder, env=dict(os.environ, PATH=self.bin, **self.home), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=2 * DEADLINE, check=True).stdout

    def start_here(self, command):
        command = f"cd '{self.folder}'; PATH='{self.bin}' exec {command} --listen 127.0.0.1:0 --journal none 2>/dev/null"
        return self.start(["sh", "-c", command], dict(os.environ, **self.home))

    def hello(self):
        first, *_ = pieces("workqueue.1")
        lines = first.splitlines()
        self.shell("\n".join(lines[:2]))
        return lines

    def compile(self, page, change=lambda text: text):
        source = self.folder / "example.c"
        source.write_text(change(pieces(page, "c")[0]))
        subprocess.run(["gcc", f"-I{ROOT / 'include'}", "-D_GNU_SOURCE", "-pthread", source, "-o", self.folder / "example",
                        f"-L{BUILD}", f"-Wl,-rpath,{BUILD}", "-lworkqueue-h2o", "-lworkqueue"], check=True)

    def test_workqueue_1(self):
        lines = self.hello()
        self.shell(lines[2])
        _, address = self.start_here(lines[3])
        self.shell(pieces("workqueue.1")[1].replace("http://127.0.0.1:8080/", address))
        self.assertRegex((self.folder / "made").read_text(), r"\d\d:\d\d:\d\d")

    def test_readme(self):
        typed = re.findall(r"^    (\S.*)$", (ROOT / "README.md").read_text(), re.M)
        begin = next(i for i, line in enumerate(typed) if line.startswith("printf "))
        self.shell("\n".join(typed[begin:begin + 3]))
        _, address = self.start_here(typed[begin + 3].partition("  #")[0])
        curl = next(line for line in typed if line.startswith("curl "))
        self.assertIn('"returncode": 0', self.shell(curl.replace("http://127.0.0.1:8080", address)))

    def test_workqueue_serve_1(self):
        self.hello()
        text = pieces("workqueue-serve.1")[-1]
        (self.folder / "secret").write_text("secret\n")
        (self.folder / "secret").chmod(0o600)
        text = text.replace("/usr/local/bin/read-scans", str(self.folder / "hello")).replace("/etc/workqueue", str(self.folder))
        text = re.sub(r"^listen = .*\n", "", text, flags=re.M)
        (self.folder / "serve.conf").write_text(text)
        _, address = self.start_here("workqueue serve --config serve.conf --storage storage")
        with urllib.request.urlopen(f"{address}/scans/", timeout=DEADLINE) as answer:
            self.assertIn("Searchable scans", answer.read().decode())

    def test_demo_plugin_1(self):
        documents = self.folder / "documents"
        documents.mkdir()
        (documents / "one.txt").write_text("words\n")
        _, address = self.start_here(pieces("demo-plugin.1")[-1].strip())
        page = (ROOT / "workqueue" / "doc" / "demo-plugin.1.md").read_text()
        show = re.search(r"open http://127.0.0.1:8080(\S+) in", page)[1].replace("http://127.0.0.1:8080", address)
        with urllib.request.urlopen(address + show, timeout=DEADLINE) as answer:
            self.assertIn("text/html", answer.headers["Content-Type"])
        self.assertEqual(self.generate(address.removeprefix("http://"), server=address, documentSetId="1",
                                       apiToken="sample")[-1]["returncode"], 0)

    def test_libworkqueue_3(self):
        self.hello()
        self.compile("libworkqueue.3")
        path = self.folder / self.shell("mkdir outputs; ./example").strip()
        self.assertRegex(path.read_text(), r"\d\d:\d\d:\d\d")
        self.assertEqual(self.folder / self.shell("./example").strip(), path)  # it is there

    def test_libworkqueue_http_3(self):
        self.hello()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        init = "wq_serve_options_init(&serve, sizeof serve);"
        self.compile("libworkqueue-http.3", lambda text: text.replace("/var/lib/hello", str(self.storage)).replace(
            init, f'{init} serve.listen = "127.0.0.1:{port}";'))
        server = subprocess.Popen([self.folder / "example"], cwd=self.folder)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        for _ in range(10 * DEADLINE):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(.1)
        self.assertEqual(self.generate(f"127.0.0.1:{port}")[-1]["returncode"], 0)
        self.stop(server)


class PythonTest(Folder):
    """The API of the package that this project descends from, on the C library."""

    def setUp(self):
        super().setUp()
        if "asan" in BUILD.name or "tsan" in BUILD.name:
            self.skipTest("a sanitizer's library is for programs that are built with it")
        self.environment = dict(os.environ, LIBWORKQUEUE=str(BUILD / "libworkqueue.so"),
                                PYTHONPATH=str(EXAMPLES / "python"), STORAGE=str(self.storage),
                                PROGRAM=str(EXAMPLES / "program.py"))

    def python(self, code):
        run = subprocess.run([sys.executable, "-c", code], env=self.environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def test_a_job_from_beginning_to_end(self):
        said = self.python("""
import os
from concurrent.futures import ThreadPoolExecutor
from libworkqueue import OverviewViewParams, Progress, WorkQueue
params = OverviewViewParams("http://o.example", "7", "token")
with WorkQueue(os.environ["PROGRAM"], ThreadPoolExecutor(2), os.environ["STORAGE"]) as work:
    job = work.ensure_run(params)
    assert job.params == params
    seen = list(work.report_job_progress_until_completed(job))
    assert all(isinstance(progress, Progress) for progress in seen)
    assert (seen[-1].fraction, seen[-1].returncode, seen[-1].error) == (1.0, 0, None), seen[-1]
    assert work.ensure_run(params) is None
    path = work.destination_path_for_params(params)
    assert "token" not in str(path)
    print(path.read_text())
""")
        self.assertEqual(json.loads(said)["documentSet"], "7")

    def test_faults_of_a_program_reach_the_log_by_the_old_names(self):
        program = self.folder / "junk"
        program.write_text("#!/bin/sh\necho not progress\n[ $2 = silent ] || echo x >\"$4\"\n")
        program.chmod(0o755)
        self.environment["PROGRAM"] = str(program)
        said = self.python("""
import logging, os, sys
from libworkqueue import OverviewViewParams, WorkQueue
logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s", level="WARNING")
with WorkQueue(os.environ["PROGRAM"], 1, os.environ["STORAGE"]) as work:
    for document_set in "loud", "silent":
        job = work.ensure_run(OverviewViewParams("http://o.example", document_set, "token"))
        *_, last = work.report_job_progress_until_completed(job)
        print(last.returncode)
    assert last.error.startswith("Exited with code -999\\nstderr:\\n"), last.error
""").splitlines()
        wanted = "workqueue WARNING invalid program: "
        self.assertIn(wanted + "stdout must look like '0.25\\tmessage'; got 'not progress'", said)
        self.assertIn(wanted + "it should have written to its output file", said)
        self.assertIn("-999", said)

    def test_a_flask_plugin_with_one_import_changed(self):
        try:
            import flask  # noqa: F401
        except ImportError:
            self.skipTest("python3-flask is not installed")
        server = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", EXAMPLES / "python" / "flask_plugin.py", "run",
             "--port", "0"], env=self.environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        for line in server.stderr:
            if "Running on http://" in line:
                address = line.split("http://")[1].strip()
                break
        request = urllib.request.Request(
            f"http://{address}/generate", b"server=http://o.example&documentSetId=7",
            {"Authorization": "Basic dG9rZW46eC1hdXRoLXRva2Vu"})
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            self.assertEqual(json.load(answer)[-1]["returncode"], 0)
