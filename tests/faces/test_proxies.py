"""test_proxies.py - behind nginx, Apache httpd, HAProxy and Caddy, set up as workqueue-deploy(7) says.

The settings are taken from the page; only what makes a server of a test's own is added here.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import unittest
import zlib

from harness import DEADLINE, ROOT, SERVER, TOKEN, FaceTest, free_port, wait_for
from nginx import listens

PAGE = ROOT / "workqueue" / "doc" / "workqueue-deploy.7.md"
BODY = f"server={SERVER}&documentSetId=set&apiToken={TOKEN}"
TYPE = {"Content-Type": "application/x-www-form-urlencoded"}


def settings(title):
    """The first example below this heading of the page."""
    part = PAGE.read_text().split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return "\n".join(line[4:] for line in re.search(r"(?:^    .*\n?)+", part, re.M)[0].split("\n"))


class Told:
    """What a response tells, as it comes; a read takes what is there, or waits for it."""

    def __init__(self, answer):
        assert answer.status == 200, (answer.status, answer.read())
        self.answer, self.text = answer, ""
        self.is_gzip = answer.headers["Content-Encoding"] == "gzip"
        self.inflate = zlib.decompressobj(31)

    def until(self, text):
        while text not in self.text:
            data = self.answer.read1(65536)
            assert data, f"expected {text}; got the end after {self.text}"
            self.text += (self.inflate.decompress(data) if self.is_gzip else data).decode()


class ProxyTest(FaceTest):
    def behind(self, title, wrap, command):
        """A server and the address of a proxy in front of it."""
        server = self.serve(self.script("echo 0.25; read x <\"$0.go\"; echo done >\"$4\""),
                            path_prefix="/queue", hold_ms=300)
        os.mkfifo(self.folder / "program.go")
        port = free_port()
        text = settings(title).replace("UPSTREAM", "%s:%d" % server.address)
        config = self.folder / "proxy.conf"
        config.write_text(wrap(text.replace("LISTEN", f"127.0.0.1:{port}"), port))
        with open(self.folder / "proxy.log", "wb") as log:
            proxy = subprocess.Popen(command(config), stdout=log, stderr=log,
                                     env={**os.environ, "HOME": str(self.folder),
                                          "PATH": os.environ["PATH"] + ":/usr/sbin"})
        self.addCleanup(proxy.wait)
        self.addCleanup(proxy.terminate)
        wait_for(lambda: listens(("127.0.0.1", port)), f"{title} to listen",
                 seen=(self.folder / "proxy.log").read_text)
        return port

    def check(self, port):
        stream = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        stream.request("POST", "/queue/generate", BODY, {**TYPE, "Accept-Encoding": "gzip"})
        told = Told(stream.getresponse())
        told.until('"fraction": 0.25')  # no record is held back, compressed or not
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        connection.request("POST", "/queue/start_work", BODY, TYPE)
        answer = connection.getresponse()
        answer.read()
        location = answer.headers["Location"]
        self.assertEqual(answer.status, 303)
        self.assertRegex(re.sub("^http://[^/]+", "", location), "^/queue/work/[0-9a-f-]{36}$")
        with open(self.folder / "program.go", "w") as go:
            go.write("go\n")
        told.until('"returncode": 0')
        stream.close()
        done = subprocess.run(["curl", "-s", "-L", "--data", BODY,
                               f"http://127.0.0.1:{port}/queue/start_work"],
                              capture_output=True, timeout=3 * DEADLINE)
        self.assertEqual(done.stdout, b"done\n")
        for _ in range(5):  # on the connections that the proxy keeps
            connection.request("POST", "/queue/start_work", BODY, TYPE)
            answer = connection.getresponse()
            answer.read()
            self.assertEqual(answer.status, 303)
        connection.request("GET", "/queue/work/" + "0" * 8)
        answer = connection.getresponse()
        self.assertEqual(json.loads(answer.read())["status"], 404)
        connection.close()

    @unittest.skipUnless(shutil.which("nginx", path="/usr/sbin:/usr/bin"), "needs nginx")
    def test_nginx(self):
        folder = self.folder
        user = "user root;" if os.getuid() == 0 else ""
        self.check(self.behind("nginx", lambda text, port: (
            f"{user} pid {folder}/pid; error_log {folder}/e; events {{}} http {{ access_log off; gzip on;"
            f" gzip_types *; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;"
            f" fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/s;"
            f" server {{ listen 127.0.0.1:{port};\n{text}\n}} }}"),
            lambda config: ["nginx", "-c", str(config), "-e", f"{folder}/e", "-g", "daemon off;"]))

    @unittest.skipUnless(shutil.which("apache2", path="/usr/sbin:/usr/bin"), "needs apache2")
    def test_apache(self):
        modules = "/usr/lib/apache2/modules"
        load = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in
                       ("mpm_event", "authz_core", "proxy", "proxy_http", "headers", "deflate",
                        "filter"))
        self.check(self.behind("Apache httpd", lambda text, port: (
            f"ServerRoot {self.folder}\nPidFile {self.folder}/pid\nServerName localhost\n"
            f"Listen 127.0.0.1:{port}\n{load}ErrorLog {self.folder}/e\n"
            f"AddOutputFilterByType DEFLATE application/json\n{text}\n"),
            lambda config: ["apache2", "-f", str(config), "-DFOREGROUND"]))

    @unittest.skipUnless(shutil.which("haproxy", path="/usr/sbin:/usr/bin"), "needs haproxy")
    def test_haproxy(self):
        self.check(self.behind("HAProxy", lambda text, port: text + "\n",
                               lambda config: ["haproxy", "-db", "-f", str(config)]))

    @unittest.skipUnless(shutil.which("caddy"), "needs caddy")
    def test_caddy(self):
        self.check(self.behind("Caddy", lambda text, port: (
            f"{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{port} {{\n encode gzip\n{text}\n}}\n"),
            lambda config: ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]))
