"""test_s3.py - the S3 store on the real Ceph RGW and Swift, which check signatures and hashes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from services import make_certificates, service
from harness import BUILD, SANITIZED, SLOW, wait_for
from nginx import start_nginx

TOOL = BUILD / "tests" / "s3-tool"
OK, SYSTEM, NOT_FOUND, AWAY = 0, -3, -7, -10
SECRET = "docsets-secret-0123456789"
STRANGE = "a b/ü+%41&=?#;/..x<&>'\"*"
FIRST = ("http://overview.example/a?b=c&d", "17", "tok3nofthetest")


def pattern(n):
    block = bytes((i * i >> 3) & 255 for i in range(1 << 16))
    return (block * (n // len(block) + 1))[:n]


BUCKETS = ["with-prefixes", "without"]


class Store:
    """An S3 store under test: a service, a prefix of its own in a bucket, or the bucket that is only
    used without one, and a folder for local copies."""

    def __init__(self, test, name, access_key, prefix="", bucket=BUCKETS[0], **environment):
        self.service = service(name)
        self.folder = Path(tempfile.mkdtemp(prefix="wq-test-s3-"))
        test.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_"))},
            "AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": SECRET,
            "S3_ENDPOINT": f"http://127.0.0.1:{self.service.port}", "S3_URL": f"s3://{bucket}",
            "S3_CACHE": str(self.folder), **environment}
        if not hasattr(self.service, "has_buckets"):
            # At first: a Ceph whose gateway was killed takes half a minute to make one.
            for each in BUCKETS:
                self.do("bucket", expect=OK, S3_URL=f"s3://{each}")
            self.service.has_buckets = True
        if bucket == BUCKETS[0]:
            self.environment["S3_URL"] += f"/{os.urandom(8).hex()}/{prefix}"

    def start(self, *arguments, **environment):
        # Its log goes to a file: a pipe that nobody reads would hold it up.
        with open(self.folder / "log", "a") as log:
            return subprocess.Popen([TOOL, *map(str, arguments)], text=True,
                                    env={**self.environment, **environment},
                                    stdout=subprocess.PIPE, stderr=log)

    def do(self, *arguments, expect=None, **environment):
        with self.start(*arguments, **environment) as process:
            out, _ = process.communicate(timeout=120 * SLOW)
        log = (self.folder / "log").read_text()
        assert process.returncode == 0, log
        assert SECRET not in out + log
        answer = json.loads(out)
        assert expect is None or answer["result"] == expect, answer
        return answer

    def put(self, params, text, *more, **environment):
        path = self.folder / "source"
        path.write_text(text)
        return self.do("put", *params, path, *more, expect=OK, **environment)

    def read(self, params=FIRST, offset=0, size=1000):
        answer = self.do("read", *params, offset, size)
        assert answer["result"] >= 0, answer
        return answer.get("text", "")

    def files(self):
        """What is in the folder of copies but for its lock."""
        return sorted(p.name for p in (self.folder / "s3-copies").rglob("*")
                      if not p.name.startswith(".workqueue."))


class Cases:
    """What holds on every store."""

    def store(self, prefix="", **environment):
        return Store(self, self.SERVICE, self.ACCESS_KEY, prefix, **environment)

    def test_an_output_is_put_found_read_and_removed(self):
        for prefix in [None, "outputs", STRANGE]:
            with self.subTest(prefix):
                store = self.store(prefix) if prefix else self.store(bucket=BUCKETS[1])
                store.do("find", *FIRST, expect=NOT_FOUND)
                store.do("open", *FIRST, expect=NOT_FOUND)
                store.do("path", *FIRST, expect=NOT_FOUND)
                store.do("remove", *FIRST, expect=NOT_FOUND)
                self.assertFalse(store.put(FIRST, "hello world")["kept"])
                store.do("find", *FIRST, expect=OK)
                seen = store.do("open", *FIRST, expect=OK)
                self.assertEqual([seen["fd"], seen["size"]], [-1, 11])
                self.assertLess(abs(seen["made_at_ms"] / 1000 - time.time()), 60)
                self.assertEqual(store.read(), "hello world")
                self.assertEqual(store.read(offset=6), "world")
                self.assertEqual(store.read(offset=4, size=3), "o w")
                self.assertEqual(store.read(offset=11), "")
                store.do("remove", *FIRST, expect=OK)
                store.do("find", *FIRST, expect=NOT_FOUND)

    def test_what_is_in_place_stays_unless_it_is_to_be_replaced(self):
        store = self.store()
        store.put(FIRST, "first")
        before = store.do("open", *FIRST)["tag"]
        self.assertFalse(store.put(FIRST, "second")["kept"])
        self.assertEqual(store.read(), "first")
        store.put(FIRST, "third", "replace")
        self.assertEqual(store.read(), "third")
        self.assertNotEqual(store.do("open", *FIRST)["tag"], before)
        # who reads the version before does not get bytes of this one
        answer = store.do("read", *FIRST, 0, 5, before, expect=NOT_FOUND)
        self.assertIn("replaced", answer["message"])

    def test_many_publish_the_same_at_once(self):
        store = self.store()
        tags = store.do("race", *FIRST, 24, expect=OK)["tags"]
        whole = {hashlib.md5(pattern(1000 + i)).hexdigest() for i in range(24)}
        self.assertLessEqual(set(tags), whole)
        if self.CONDITIONAL:
            self.assertEqual(len(set(tags)), 1)

    def test_a_local_copy_is_of_this_version_and_whole(self):
        store = self.store()
        store.put(FIRST, "first")
        path = Path(store.do("path", *FIRST, expect=OK)["text"])
        self.assertEqual(path.read_text(), "first")
        shutil.rmtree(store.folder / "s3-copies")  # as on another machine
        self.assertEqual(store.do("path", *FIRST, expect=OK)["text"], str(path))
        self.assertEqual(path.read_text(), "first")
        store.put(FIRST, "second", "replace")
        newer = Path(store.do("path", *FIRST, expect=OK)["text"])
        self.assertEqual([path.read_text(), newer.read_text()], ["first", "second"])

    def test_a_large_output_goes_up_in_parts_and_comes_back_the_same(self):
        n = (40 << 20) + 12345
        store = self.store(S3_PART_BYTES=str(16 << 20))
        store.do("put", *FIRST, n, expect=OK)
        seen = store.do("open", *FIRST)
        self.assertEqual(seen["size"], n)
        self.assertTrue(seen["tag"].endswith("-3"), seen)
        shutil.rmtree(store.folder / "s3-copies")
        path = store.do("path", *FIRST, expect=OK)["text"]
        self.assertEqual(Path(path).read_bytes(), pattern(n))
        store.put(FIRST, "other")  # a small one does not take its place, nor does a large one
        store.do("put", *FIRST, n + 1, expect=OK)
        self.assertEqual(store.do("open", *FIRST)["size"], n)
        store.do("put", *FIRST, n + 1, "replace", expect=OK)
        self.assertEqual(store.do("open", *FIRST)["size"], n + 1)
        store.do("remove", *FIRST, expect=OK)

    @unittest.skipIf(SANITIZED, "a sanitizer has memory of its own")
    def test_memory_does_not_grow_with_the_output(self):
        n = 256 << 20
        store = self.store()
        small = store.do("put", "s", "0", "t", 1000, expect=OK)["peak_bytes"]
        for part in [64 << 20, 1 << 30]:
            answer = store.do("put", *FIRST, n, "replace", expect=OK, S3_PART_BYTES=str(part))
            self.assertLess(answer["peak_bytes"], small + (8 << 20))
        shutil.rmtree(store.folder / "s3-copies")
        answer = store.do("path", *FIRST, expect=OK)
        self.assertLess(answer["peak_bytes"], small + (8 << 20))
        self.assertEqual(os.stat(answer["text"]).st_size, n)
        store.do("remove", *FIRST, expect=OK)

    def test_sets_are_removed_whatever_their_tokens(self):
        store = self.store("some where/&")
        below = dict(S3_URL=store.environment["S3_URL"] + "/deeper")
        for server, sets in [("http://a", "123"), ("http://b", "1")]:
            for one in sets:
                for token in ["x", "y"]:
                    store.put((server, one, token), "text")
        store.put(("http://a", "1", "x"), "text", **below)
        self.assertEqual(store.do("remove-set", "http://a", "2", expect=OK)["n"], 2)
        store.do("find", "http://a", "2", "x", expect=NOT_FOUND)
        store.do("find", "http://a", "1", "x", expect=OK)
        self.assertEqual(store.do("remove-set", "http://a", "9", expect=OK)["n"], 0)
        self.assertEqual(store.do("remove-set", "http://a", expect=OK)["n"], 4)
        store.do("find", "http://b", "1", "y", expect=OK)
        store.do("find", "http://a", "1", "x", expect=OK, **below)

    def test_outputs_are_listed_piece_by_piece(self):
        store = self.store("some where/&")
        self.assertEqual(store.do("list", 10, expect=OK)["outputs"], [])
        strange = ("http://a/?b=c d&%41/é", "ä b%", "x")
        params = [("http://a", n, "x") for n in "123"] + [("http://b", "1", "y"), strange]
        for one in params:
            store.put(one, "text")
        store.put(("http://a", "1", "x"), "text", S3_URL=store.environment["S3_URL"] + "/deeper")
        seen, position = [], ""
        for n in (2, 2, 1):
            answer = store.do("list", 2, position, expect=OK)
            self.assertEqual(len(answer["outputs"]), n)
            seen, position = seen + answer["outputs"], answer["position"]
        self.assertEqual(position, "")
        self.assertEqual(sorted((o["server"], o["set"]) for o in seen), sorted(p[:2] for p in params))
        self.assertEqual([o["key"] for o in seen], sorted({o["key"] for o in seen}))
        for output in seen:
            self.assertEqual(output["size"], 4)
            self.assertLess(abs(output["made_at_ms"] / 1000 - time.time()), 60)
        of_a = store.do("list", 10, "", "http://a", expect=OK)["outputs"]
        self.assertEqual(sorted(o["set"] for o in of_a), ["1", "2", "3"])
        of_set = store.do("list", 10, "", "http://a", "2", expect=OK)["outputs"]
        self.assertEqual([(o["server"], o["set"]) for o in of_set], [("http://a", "2")])

    def test_what_is_wrong_is_said(self):
        store = self.store()
        store.put(FIRST, "text")
        (store.folder / "source").write_text("more")
        put = ["put", "s", "1", "t", store.folder / "source"]
        wrong = dict(AWS_SECRET_ACCESS_KEY="wr0ngs3cret")
        # What is wrong with credentials is no fault of the output, which waits for others.
        answer = store.do(*put, "replace", expect=AWAY, **wrong)  # without a look first
        self.assertIn("403 SignatureDoesNotMatch", answer["message"])
        self.assertTrue(answer["kept"])
        answer = store.do("find", *FIRST, expect=AWAY, **wrong)
        self.assertIn("403", answer["message"])
        self.assertIn("credentials", answer["message"])
        self.assertNotIn("wr0ngs3cret", answer["message"])
        answer = store.do(*put, expect=AWAY, AWS_ACCESS_KEY_ID="nobody:knows")
        self.assertIn("403", answer["message"])
        answer = store.do(*put, "replace", expect=AWAY, S3_URL="s3://there-is-none-of-this-name")
        self.assertIn("NoSuchBucket", answer["message"])
        self.assertTrue(answer["kept"])

    def test_a_job_of_a_queue_with_such_a_store(self):
        store = self.store("some where")
        program = store.folder / "program"
        program.write_text('#!/bin/sh\nprintf "output of %s" "$2" >"$4"\n')
        program.chmod(0o755)
        seen = store.do("job", *FIRST, program, expect=OK)
        self.assertIsNone(seen["error"])
        self.assertEqual([seen["blocks"], seen["read"], seen["opened"]],
                         [True, "utput of 17", "output of 17"])
        self.assertTrue(seen["path"].startswith(str(store.folder)), seen)
        store.do("find", *FIRST, expect=NOT_FOUND)  # it has been deleted at the end
        self.assertEqual([name for name in store.files() if ".tmp" in name], [])

    def test_a_store_that_is_away_is_waited_for(self):
        store = self.store()
        store.put(FIRST, "before")
        source = store.folder / "source"
        source.write_text("in between")
        store.service.kill()
        try:
            answer = store.do("find", *FIRST, expect=AWAY, S3_RETRIES="1")
            self.assertIn("cannot be reached now", answer["message"])
            process = store.start("again", "http://a", "1", "t", source, S3_RETRIES="1")
            self.addCleanup(process.communicate)
            self.addCleanup(process.kill)
            answer = json.loads(process.stdout.readline())
            self.assertEqual([answer["result"], answer["kept"]], [AWAY, True])
        finally:
            store.service.start()
        for line in process.stdout:
            answer = json.loads(line)
            self.assertIn(answer["result"], [AWAY, OK], answer)
        self.assertEqual([answer["result"], answer["kept"]], [OK, False])
        self.assertEqual(store.read(), "before")
        self.assertEqual(store.read(("http://a", "1", "t")), "in between")

    def test_a_store_that_stops_in_the_middle_of_an_upload(self):
        """It stands still while the output is on its way, and goes on later."""
        store = self.store(S3_PART_BYTES=str(5 << 20))
        n = 60 << 20
        process = store.start("put", *FIRST, n, S3_STALL_MS="2000")
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        copies = store.folder / "s3-copies"
        wait_for(lambda: any(p.stat().st_size == n for p in copies.glob(".workqueue.tmp/*")), "an output")
        gate = store.service.pid(self.GATE)
        os.kill(gate, signal.SIGSTOP)
        try:
            time.sleep(3)  # longer than a request may stand still
        finally:
            os.kill(gate, signal.SIGCONT)
        answer = json.loads(process.stdout.readline())
        self.assertEqual(answer["result"], OK, answer)
        self.assertEqual(store.do("open", *FIRST, expect=OK)["size"], n)


class CephTest(Cases, unittest.TestCase):
    SERVICE, ACCESS_KEY, CONDITIONAL = "ceph", "DOCSETSKEY", True
    GATE = "rgw"

    def test_the_bucket_in_the_host(self):
        store = self.store("pre fix")
        port = store.service.port
        style = dict(S3_HOST_STYLE="1", S3_ENDPOINT=f"http://localhost:{port}")
        store.put(FIRST, "text", **style)
        self.assertEqual(store.do("open", *FIRST, expect=OK, **style)["size"], 4)
        self.assertEqual(store.read(), "text")

    def test_https(self):
        """By nginx, whose certificate is for 127.0.0.1; who signed it is told, or it is refused."""
        store = self.store()
        good, other = store.folder / "tls", store.folder / "other"
        make_certificates(good)
        make_certificates(other)
        port = start_nginx(self, store.folder, ("127.0.0.1", store.service.port),
                           "proxy_set_header Host $http_host; client_max_body_size 0;", good)[1]
        tls = dict(S3_ENDPOINT=f"https://127.0.0.1:{port}", AWS_CA_BUNDLE=str(good / "ca.pem"))
        store.put(FIRST, "by https", **tls)
        self.assertEqual(store.do("read", *FIRST, 0, 100, **tls)["text"], "by https")
        self.assertEqual(store.read(), "by https")
        for wrong, words in [(dict(AWS_CA_BUNDLE=str(other / "ca.pem")), "certificate"),
                             (dict(AWS_CA_BUNDLE="/nowhere.pem"), "/nowhere.pem"),
                             (dict(S3_ENDPOINT=f"https://localhost:{port}"), "'localhost'")]:
            with self.subTest(words):
                for what in [["find", *FIRST], ["put", *FIRST, 1000, "replace"]]:
                    answer = store.do(*what, expect=SYSTEM, **{**tls, **wrong})
                    self.assertIn(words, answer["message"])
        self.assertEqual(store.read(), "by https")


class SwiftTest(Cases, unittest.TestCase):
    SERVICE, ACCESS_KEY, CONDITIONAL = "swift", "docsets:worker", False
    GATE = "proxy"


if __name__ == "__main__":
    unittest.main()
