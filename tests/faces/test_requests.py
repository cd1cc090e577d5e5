"""test_requests.py - what a request may look like, and the answers to those that may not."""

import base64
import gzip
import json
import subprocess
import urllib.parse

from harness import (DEADLINE, PROGRAMS, SERVER, TOKEN, FaceTest, basic, demo_command, plain_only,
                     request_bytes)

FORM = "application/x-www-form-urlencoded"
FORM_BODY = "server=http%3A%2F%2Foverview.example&documentSetId=7"


class ParametersTest(FaceTest):
    """Wherever the three parameters come from, the program gets them."""

    def setUp(self):
        super().setUp()
        self.arguments = self.folder / "arguments"
        program = self.script(f"printf '%s\\n' \"$1\" \"$2\" \"$3\" $# >>'{self.arguments}'\n"
                              "echo x >\"$4\"\n")
        self.server = self.serve(program)

    def check(self, client, server=SERVER, document_set="7", token=TOKEN):
        self.assertEqual(client.last()["returncode"], 0, client.body)
        got = self.arguments.read_text().split("\n")
        self.assertEqual(got, [server, document_set, token, "4", ""])

    def post(self, content_type, body, path="/generate", authorization=basic()):
        headers = {"Content-Type": content_type}
        if authorization:
            headers["Authorization"] = authorization
        return self.server.request("POST", path, headers, body)

    def test_urlencoded(self):
        self.check(self.post(FORM, FORM_BODY))

    def test_urlencoded_with_charset(self):
        self.check(self.post(FORM + "; charset=UTF-8", FORM_BODY))

    def test_urlencoded_decoding(self):
        self.check(self.post(FORM, "x=1&server=http://h.example/%c3%a9%26%3d%2B&document_set_id=a%20b"
                                   "&api_token=formtoken&&empty", authorization=None),
                   "http://h.example/é&=+", "a b", "formtoken")

    def test_token_in_the_form(self):
        self.check(self.post(FORM, FORM_BODY + "&apiToken=formtoken", authorization=None),
                   token="formtoken")

    def test_h4_m5_one_form_for_all_spellings_of_a_server(self):
        """For the key and the program: the second asks for what the first has made."""
        body = "documentSetId=7&server="
        spellings = ["HTTP://Overview.Example.:80/%61/./b/../", "http://overview.example/a/"]
        self.check(self.post(FORM, body + spellings[0]), "http://overview.example/a/")
        self.assertEqual(self.post(FORM, body + spellings[1]).read_all(), b"[]")

    def test_h4_what_is_no_url_of_a_server(self):
        for server in ("file:///etc/passwd", "-o/tmp/owned", "overview.example", "http://", "javascript:x"):
            with self.subTest(server):
                client = self.post(FORM, "documentSetId=7&server=" + server)
                client.read_all()
                self.assert_problem((client.head, client.body), 400, "server")
        for field in ("documentSetId=-1&server=" + SERVER, f"documentSetId=1&apiToken=-x&server={SERVER}"):
            client = self.post(FORM, field)
            client.read_all()
            self.assert_problem((client.head, client.body), 400, "begins with")
        self.assertFalse(self.arguments.exists())

    def test_any_server(self):
        self.server = self.serve(self.folder / "program", storage=self.folder / "any", any_server=True)
        self.check(self.post(FORM, "documentSetId=7&server=whatever+it+is"), "whatever it is")

    def test_s10_words_of_rebuild(self):
        for word, runs in (("0", 1), ("False", 1), ("no", 1), ("OFF", 1), ("", 1), ("1", 2),
                           ("True", 3), ("yes", 4), ("ON", 5)):
            self.post(FORM, FORM_BODY + "&rebuild=" + word).read_all()
            self.assertEqual(self.arguments.read_text().count(SERVER), runs, word)
        client = self.post(FORM, FORM_BODY + "&rebuild=maybe")
        client.read_all()
        self.assert_problem((client.head, client.body), 400, "rebuild")

    def test_s10_a_cache_control_is_no_rebuild(self):
        for _ in range(2):
            self.server.request("POST", "/generate", {
                "Authorization": basic(), "Content-Type": FORM, "Cache-Control": "no-cache"},
                FORM_BODY).read_all()
        self.assertEqual(self.arguments.read_text().count(SERVER), 1)

    def test_s12_ndjson_by_all_its_names(self):
        for name in ("application/x-ndjson", "application/ndjson", "application/jsonl",
                     "application/x-jsonl", "application/jsonlines", "application/x-jsonlines"):
            client = self.server.generate("7", accept=name)
            client.read_all()
            self.assertEqual((client.head.status, client.head.get("content-type")), (200, name))

    def test_l_a_second_content_encoding(self):
        client = self.server.connect()
        client.send(request_bytes("POST", "/generate", {"Content-Type": FORM}, FORM_BODY).replace(
            b"\r\n\r\n", b"\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n\r\n", 1))
        client.read_all()
        self.assert_problem((client.head, client.body), 415)

    def test_l_two_accept_lines(self):
        client = self.server.connect()
        client.send(request_bytes("POST", "/generate", {
            "Content-Type": FORM, "Authorization": basic(), "Accept": "image/png"}, FORM_BODY).replace(
            b"\r\n\r\n", b"\r\nAccept: text/event-stream\r\n\r\n", 1))
        client.read_all()
        self.assertEqual(client.head.get("content-type"), "text/event-stream")

    def test_l_doubled_and_final_slashes(self):
        for path in ("//generate", "/generate/", "//generate//?x=1"):
            with self.subTest(path):
                self.check(self.post(FORM, FORM_BODY + "&rebuild=1", path))
                self.arguments.unlink()
        path = self.location(self.server)
        for wrong in (path + "/", path.replace("/work/", "//work//"), path + "//1/"):
            self.assertEqual(self.server.ask("GET", wrong)[0].status, 200, wrong)
        self.assertEqual(self.server.ask("GET", "//nothing//here/")[0].status, 404)

    def location(self, server, **headers):
        head, _ = server.ask("POST", "/start_work", {"Content-Type": FORM, "Authorization": basic(),
                                                     **headers}, FORM_BODY)
        return head.get("location")

    def test_m3_below_a_prefix(self):
        program = self.folder / "program"
        server = self.serve(program, storage=self.folder / "below", path_prefix="/queue")
        self.assertRegex(self.location(server), "^/queue/work/[0-9a-f-]{36}$")
        self.assertRegex(self.location(server, **{"X-Forwarded-Prefix": "/other"}), "^/queue/work/")
        server = self.serve(program, storage=self.folder / "forwarded", trust_forwarded_prefix=True)
        self.assertRegex(self.location(server, **{"X-Forwarded-Prefix": "/a/b/"}), "^/a/b/work/")
        for wrong in ("//evil.example", "/a/../b", "http://evil.example", "/a b", "a", "/%2e"):
            self.assertRegex(self.location(server, **{"X-Forwarded-Prefix": wrong}), "^/work/", wrong)

    def test_s11_the_form_goes_before_authorization(self):
        """What is in the header may be a proxy's own login."""
        self.check(self.post(FORM, FORM_BODY + "&apiToken=formtoken"), token="formtoken")
        self.arguments.unlink()
        self.check(self.post(FORM, FORM_BODY + "&apiToken=another", authorization="Bearer x"),
                   token="another")

    def test_s11_tokens_as_long_as_a_jwt(self):
        self.check(self.post(FORM, FORM_BODY + "&apiToken=" + "t" * 4096, authorization=None),
                   token="t" * 4096)
        client = self.post(FORM, FORM_BODY + "&apiToken=" + "t" * 4097, authorization=None)
        client.read_all()
        self.assert_problem((client.head, client.body), 400, "4096")

    def test_any_password(self):
        self.check(self.post(FORM, FORM_BODY, authorization=basic("abc", "any:thing")), token="abc")

    def test_no_password(self):
        value = "basic  " + base64.b64encode(b"abc:").decode()
        self.check(self.post(FORM, FORM_BODY, authorization=value), token="abc")

    def test_json(self):
        self.check(self.post("application/json", json.dumps(
            {"server": SERVER, "documentSetId": "7", "apiToken": "jsontoken", "more": [1, {"a": None}]}),
            authorization=None), token="jsontoken")

    def test_json_number(self):
        """Overview's ids are 64-bit numbers."""
        self.check(self.post("application/json; charset=utf-8",
                             json.dumps({"server": SERVER, "document_set_id": 1234567890123456789})),
                   document_set="1234567890123456789")

    def test_multipart(self):
        boundary = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
        parts = "".join(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                        for name, value in [("other", "a\r\nb"), ("server", SERVER),
                                            ("documentSetId", "7")])
        self.check(self.post(f"multipart/form-data; boundary={boundary}",
                             f"{parts}--{boundary}--\r\n"))

    def test_query(self):
        self.check(self.server.request("POST", "/generate?" + FORM_BODY + "&apiToken=querytoken"),
                   token="querytoken")

    def test_body_goes_before_the_query(self):
        self.check(self.post(FORM, FORM_BODY, "/generate?documentSetId=8&server=http://other.example"))

    def test_query_fills_what_the_body_lacks(self):
        self.check(self.post(FORM, "documentSetId=7", "/generate?server=" + SERVER))

    def test_curl(self):
        """As people try it first: -u, -F and --data-urlencode, -N."""
        out = subprocess.run(["curl", "-sN", "-u", TOKEN + ":x-auth-token", "-F", "server=" + SERVER,
                              "-F", "documentSetId=7", self.server.base + "/generate"],
                             stdout=subprocess.PIPE, timeout=60, check=True).stdout
        self.assertEqual(json.loads(out)[-1]["returncode"], 0)
        out = subprocess.run(["curl", "-sN", "-u", TOKEN + ":", "--data-urlencode",
                              "server=" + SERVER, "-d", "documentSetId=7",
                              self.server.base + "/generate"],
                             stdout=subprocess.PIPE, timeout=60, check=True).stdout
        self.assertEqual(json.loads(out), [])


class CurlTest(FaceTest):
    def test_curl_shows_records_as_they_come(self):
        server, job = self.serve(), self.told("7")
        curl = subprocess.Popen(["curl", "-sN", "-u", TOKEN + ":", "-d", FORM_BODY, "-H",
                                 "Accept: application/x-ndjson", server.base + "/generate"],
                                stdout=subprocess.PIPE)
        try:
            self.assertEqual(json.loads(curl.stdout.readline())["fraction"], 0)
            job.progress("0.5\thalf")
            while json.loads(line := curl.stdout.readline())["fraction"] == 0:
                pass
            self.assertEqual(json.loads(line)["message"], "half")
            job.succeed()
            self.assertEqual(json.loads(curl.stdout.read().splitlines()[-1])["returncode"], 0)
            self.assertEqual(curl.wait(DEADLINE), 0)
        finally:
            curl.kill()
            curl.wait()
            curl.stdout.close()


class ProblemTest(FaceTest):
    """Errors are problem documents with a sentence that a person can act on."""

    def post(self, server, body=FORM_BODY, content_type=FORM, authorization=basic(), path="/generate",
             headers=None):
        fields = {"Content-Type": content_type} if content_type else {}
        if authorization:
            fields["Authorization"] = authorization
        return server.ask("POST", path, {**fields, **(headers or {})}, body)

    def test_missing_field_is_named(self):
        server = self.serve()
        self.assert_problem(self.post(server, "documentSetId=7"), 400, "server")
        self.assert_problem(self.post(server, "server=" + SERVER), 400, "documentSetId")
        self.assert_problem(self.post(server, ""), 400)
        self.assert_problem(self.post(server, "{}", "application/json"), 400)
        self.assert_problem(self.post(server, None, None), 400)

    def test_empty_field_is_named(self):
        server = self.serve()
        self.assert_problem(self.post(server, "server=&documentSetId=7"), 400, "server")
        self.assert_problem(self.post(server, "documentSetId=&server=" + SERVER), 400, "ocument")

    def test_malformed_field(self):
        server = self.serve()
        bad = [(FORM, "server=%zz&documentSetId=7"), (FORM, "server=a%00b&documentSetId=7"),
               (FORM, "server=http://a%0ab&documentSetId=7"), (FORM, "server=http://a%ff&documentSetId=7"),
               (FORM, FORM_BODY + "7" * 300), (FORM, "documentSetId=7&server=http://" + "a" * 3000),
               ("application/json", "{"), ("application/json", "[]"), ("application/json", "\"x\""),
               ("application/json", '{"server": {}, "documentSetId": "7"}'),
               ("application/json", '{"server": "http://a", "documentSetId": null}'),
               ("application/json", '{"server": "http://a\\u0000b", "documentSetId": "7"}'),
               ("application/json", "[" * 60000), ("multipart/form-data", "x"),
               ("multipart/form-data; boundary=b", "no boundary in it")]
        for content_type, body in bad:
            with self.subTest(content_type + " " + body[:50]):
                self.assert_problem(self.post(server, body, content_type), 400)
        self.assertFalse((self.folder / "started").exists())

    def test_no_token(self):
        server = self.serve()
        head = self.assert_problem(self.post(server, authorization=None), 401)
        self.assertRegex(head.get("www-authenticate"), r"^Basic\b")

    def test_malformed_authorization(self):
        server = self.serve()
        for value in ("Bearer abc", "Basic", "Basic !!!", "Basic " + base64.b64encode(b"nocolon").decode(),
                      "Basic " + base64.b64encode(b":x-auth-token").decode()):
            with self.subTest(value):
                answer = self.post(server, authorization=value)
                self.assertIn(answer[0].status, (400, 401))
                self.assert_problem(answer, answer[0].status)
        self.assertFalse((self.folder / "started").exists())

    def test_server_not_allowed(self):
        server = self.serve(allow_server=["http://overview.example", "https://b.example/"])
        self.assertEqual(self.post(server)[0].status, 200)
        self.assertEqual(self.post(server, "documentSetId=7&server=https://b.example/x")[0].status, 200)
        self.assert_problem(self.post(server, "documentSetId=7&server=http://evil.example"), 403)
        self.assert_problem(self.post(server, "documentSetId=7&server=http://b.example"), 403)

    def assert_refused(self, answer):
        """403, or 400 where it is no URL that everybody reads alike."""
        self.assertIn(answer[0].status, (400, 403), answer[1])
        self.assert_problem(answer, answer[0].status, "server")

    def test_a_longer_host_is_not_allowed(self):
        """A prefix must not let http://overview.example.evil.example through."""
        server = self.serve(allow_server=["http://overview.example"])
        for url in ("http://overview.example.evil.example", "http://overview.example@evil.example",
                    "http://overview.example:x@evil.example"):
            with self.subTest(url):
                self.assert_refused(self.post(server, "documentSetId=7&server=" + url))
        for url in ("http://overview.example", "http://overview.example/", "http://overview.example:80/a"):
            with self.subTest(url):
                self.assertEqual(self.post(server, "documentSetId=7&server=" + url)[0].status, 200)

    def test_an_allowed_path_is_not_left(self):
        server = self.serve(allow_server=["http://overview.example/a"])
        for url in ("http://overview.example/b", "http://overview.example/ab",
                    "http://overview.example/a/../b", "http://overview.example/a/%252e./b",
                    "http://overview.example/a/%2e%2e/b", "http://u@overview.example/a",
                    "http://overview.example%5C@evil.example/a"):
            with self.subTest(url):
                url = urllib.parse.quote(url, safe="")
                self.assert_refused(self.post(server, "documentSetId=7&server=" + url))
        url = urllib.parse.quote("HTTP://Overview.Example.:80/%61/./b/", safe="")
        self.assertEqual(self.post(server, "documentSetId=7&server=" + url)[0].status, 200)

    def test_an_allow_list_must_hold_urls(self):
        storage = self.folder / "storage"  # its journal is beside it
        storage.mkdir()
        for entry in ("overview.example", "ftp://overview.example", "http://", "http://u:secret@h"):
            command = demo_command(PROGRAMS / "shell", storage, allow_server=[entry])
            ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
            self.assertEqual(ended.returncode, 2, ended.stderr)
            self.assertIn("entry 1", ended.stderr)
            self.assertNotIn("secret", ended.stderr)

    def test_not_found(self):
        server = self.serve()
        for path in ("/nowhere", "/generate/more", "/generatex", "/metadata/x"):
            with self.subTest(path):
                self.assert_problem(server.ask("GET", path), 404)

    def test_method_not_allowed(self):
        server = self.serve()
        for method in ("PUT", "DELETE", "PATCH", "STRANGE"):
            with self.subTest(method):
                head = self.assert_problem(server.ask(method, "/generate"), 405)
                self.assertIn("POST", [m.strip() for m in head.get("allow").split(",")])
        head = self.assert_problem(server.ask("POST", "/metadata", body=""), 405)
        self.assertIn("GET", [m.strip() for m in head.get("allow").split(",")])

    def test_body_too_large(self):
        server = self.serve()
        body = FORM_BODY + "&x=" + "x" * (1 << 20)
        self.assert_problem(self.post(server, body), 413)

    def test_a_huge_body_is_refused_unread(self):
        server = self.serve()
        before = server.rss()
        client = server.request("POST", "/generate", {"Content-Length": str(1 << 40), "Content-Type": FORM,
                                                      "Authorization": basic()})
        try:
            for _ in range(64):
                client.send(b"x" * 65536)
        except ConnectionError:
            pass
        try:
            self.assertEqual(client.read_head().status, 413)
        except ConnectionError:
            pass
        self.assertLess(server.rss() - before, 16 << 20)
        self.assertEqual(server.ask("GET", "/metadata")[0].status, 200)

    def test_unsupported_media_type(self):
        server = self.serve()
        for content_type in ("text/plain", "application/xml", "nonsense"):
            with self.subTest(content_type):
                self.assert_problem(self.post(server, FORM_BODY, content_type), 415)

    def test_unsupported_content_encoding(self):
        server = self.serve()
        headers = {"Authorization": basic(TOKEN), "Content-Type": "application/x-www-form-urlencoded"}
        self.assert_problem(server.ask("POST", "/generate", {**headers, "Content-Encoding": "gzip"},
                                       gzip.compress(FORM_BODY.encode())), 415, "Content-Encoding")
        head, _ = server.ask("POST", "/generate", {**headers, "Content-Encoding": "Identity"}, FORM_BODY)
        self.assertEqual(head.status, 200)


class CorsTest(FaceTest):
    """A page of another origin may use every route."""

    def test_preflight_on_every_route(self):
        server = self.serve()
        for path in ("/generate", "/metadata", "/show", "/search", "/nowhere"):
            with self.subTest(path):
                head, body = server.ask("OPTIONS", path, {
                    "Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization,baggage,traceparent"})
                self.assertIn(head.status, (200, 204))
                self.assertEqual(body, b"")
                self.assertEqual(head.get("access-control-allow-origin"), "*")
                self.assert_list(head.get("access-control-allow-methods"),
                                 ["GET", "POST", "DELETE", "OPTIONS"])
                self.assertEqual(head.get("access-control-allow-headers"),
                                 "authorization,baggage,traceparent", "whatever is asked for")
                self.assertIn("Access-Control-Request-Headers", head.get("vary"))

    def assert_list(self, value, expected):
        names = [name.strip() for name in (value or "").split(",")]
        self.assertLessEqual(set(expected), set(names), value)

    def test_answers_carry_it(self):
        server = self.serve()
        for method, path in (("GET", "/metadata"), ("GET", "/nowhere"), ("POST", "/generate"),
                             ("PUT", "/generate")):
            with self.subTest(method + path):
                head, _ = server.ask(method, path)
                self.assertEqual(head.get("access-control-allow-origin"), "*")
                self.assert_list(head.get("access-control-expose-headers"), ["Location", "Retry-After"])


class CrowdTest(FaceTest):
    @plain_only
    def test_many_parallel_requests_of_all_kinds(self):
        """Good ones get their answer among bad ones."""
        server = self.serve(loops=4, workers=4)
        clients = []
        for i in range(300):
            clients.append((200, server.generate(f"set{i % 30}")))
            clients.append((401, server.request("POST", "/generate", {"Content-Type": FORM}, FORM_BODY)))
            clients.append((404, server.request("GET", f"/x{i}")))
        for status, client in clients:
            client.read_all()
            self.assertEqual(client.head.status, status)
            client.close()
