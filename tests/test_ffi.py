#!/usr/bin/env python3
"""test_ffi.py - the shared library can be used from another language, as it is: through Python's
ctypes, with nothing but what the headers say, and it shows nothing besides.

    test_ffi.py BUILD
"""
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import unittest
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_char, c_char_p, c_double, c_int,
                    c_int64, c_size_t, c_uint, c_uint64, c_void_p)

TESTS = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build")
WORKQUEUE = os.path.join(BUILD, "libworkqueue.so")
SHELL = os.path.join(TESTS, "programs", "shell").encode()
OK, DONE, INVALID_ARGUMENT, LOCKED, NOT_FOUND, TIMEOUT = 0, 1, -1, -4, -7, -8
RUNNING, SUCCEEDED, FAILED, CANCELLED = 1, 3, 4, 5
TOKEN = b"s3cret0token0of0a0user25x"

LogCallback = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
WatchCallback = CFUNCTYPE(None, c_void_p)


class Error(Structure):
    _fields_ = [("code", c_int), ("message", c_char * 508)]


class Options(Structure):
    _fields_ = [("size", c_size_t), ("program", c_char_p), ("storage_dir", c_char_p),
                ("workers", c_uint), ("max_queue", c_size_t),
                ("max_per_user", c_size_t), ("max_per_server", c_size_t), ("fair", c_int), ("sync", c_int),
                ("grace_ms", c_uint), ("drain_ms", c_uint), ("max_line_bytes", c_size_t),
                ("stderr_tail_bytes", c_size_t), ("max_ended", c_size_t),
                ("retain_ended_ms", c_uint), ("journal_path", c_char_p),
                ("max_attempts", c_uint), ("run_timeout_ms", c_uint),
                ("progress_timeout_ms", c_uint), ("queue_timeout_ms", c_uint),
                ("max_output_bytes", c_uint64), ("max_cpu_s", c_uint),
                ("max_memory_bytes", c_uint64), ("max_open_files", c_uint),
                ("soft_open_files", c_uint), ("max_processes", c_uint),
                ("environment", POINTER(c_char_p)),
                ("token_in_environment", c_int), ("private_tmpdir", c_int),
                ("allow_new_privileges", c_int),
                ("cgroup_dir", c_char_p), ("retain_age_s", c_uint),
                ("retain_bytes", c_uint64), ("log", LogCallback), ("log_user", c_void_p),
                ("runner", c_void_p), ("store", c_void_p), ("guard_path", c_char_p)]


class Params(Structure):
    _fields_ = [("server", c_char_p), ("document_set_id", c_char_p), ("api_token", c_char_p)]


class Snapshot(Structure):
    _fields_ = [("state", c_int), ("version", c_uint64), ("n_ahead_in_queue", c_uint64),
                ("fraction", c_double), ("reached", c_double), ("has_items", c_int),
                ("items_done", c_uint64), ("items_total", c_uint64), ("has_returncode", c_int),
                ("returncode", c_int),
                ("message", c_char_p), ("error", c_char_p), ("queued_at_ms", c_int64),
                ("heard_at_ms", c_int64), ("watching", c_size_t),
                ("started_at_ms", c_int64), ("ended_at_ms", c_int64), ("resumes", c_int),
                ("waits_for", c_int), ("attempt", c_uint), ("waited_ms", c_uint64),
                ("ran_ms", c_uint64), ("memory_bytes", c_uint64), ("held", c_void_p * 2)]


def load():
    lib = ctypes.CDLL(WORKQUEUE)
    for name, result, *arguments in [
            ("wq_strerror", c_char_p, c_int),
            ("wq_version", c_char_p),
            ("wq_options_init", None, POINTER(Options), c_size_t),
            ("wq_open", c_int, POINTER(c_void_p), POINTER(Options), POINTER(Error)),
            ("wq_close", None, c_void_p),
            ("wq_params_key", c_int, POINTER(Params), c_char_p),
            ("wq_ensure_run", c_int, c_void_p, POINTER(Params), c_uint, POINTER(c_void_p),
             POINTER(Error)),
            ("wq_ensure_run_aged", c_int, c_void_p, POINTER(Params), c_uint, POINTER(c_void_p),
             POINTER(c_int64), POINTER(Error)),
            ("wq_job_by_id", c_int, c_void_p, c_char_p, POINTER(c_void_p)),
            ("wq_job_unref", None, c_void_p),
            ("wq_job_id", c_char_p, c_void_p),
            ("wq_job_key", c_char_p, c_void_p),
            ("wq_job_snapshot", None, c_void_p, POINTER(Snapshot)),
            ("wq_snapshot_clear", None, POINTER(Snapshot)),
            ("wq_snapshot_json", c_size_t, POINTER(Snapshot), c_char_p, c_size_t),
            ("wq_job_cancel", c_int, c_void_p),
            ("wq_job_wait", c_int, c_void_p, c_int64),
            ("wq_job_watch", c_int, c_void_p, WatchCallback, c_void_p, POINTER(c_void_p)),
            ("wq_watch_cancel", None, c_void_p),
            ("wq_output_find", c_int, c_void_p, POINTER(Params), POINTER(Error)),
            ("wq_output_open", c_int, c_void_p, POINTER(Params), POINTER(c_int), POINTER(Error)),
            ("wq_output_path", c_int, c_void_p, POINTER(Params), c_char_p, c_size_t,
             POINTER(Error))]:
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


class FfiTest(unittest.TestCase):
    def setUp(self):
        self.lib = load()
        self.folder = tempfile.TemporaryDirectory(prefix="wq-test-ffi-")
        self.logged = []
        self.options = Options()
        self.lib.wq_options_init(byref(self.options), ctypes.sizeof(Options))
        self.options.program = SHELL
        self.options.storage_dir = self.folder.name.encode()
        self.options.log = LogCallback(lambda user, level, text: self.logged.append((level, text)))
        self.queue = None

    def tearDown(self):
        self.lib.wq_close(self.queue)
        self.folder.cleanup()
        self.assertFalse([line for _, line in self.logged if TOKEN in line])

    def open(self):
        queue, error = c_void_p(), Error()
        result = self.lib.wq_open(byref(queue), byref(self.options), byref(error))
        self.assertEqual(OK, result, error.message)
        self.queue = queue

    def ask(self, params):
        job, error = c_void_p(), Error()
        result = self.lib.wq_ensure_run(self.queue, byref(params), 0, byref(job), byref(error))
        return result, job

    def record(self, job):
        """The snapshot and the record, which must agree."""
        snapshot = Snapshot()
        self.lib.wq_job_snapshot(job, byref(snapshot))
        size = self.lib.wq_snapshot_json(byref(snapshot), None, 0)
        text = ctypes.create_string_buffer(size + 1)
        self.assertEqual(size, self.lib.wq_snapshot_json(byref(snapshot), text, size + 1))
        record = json.loads(text.value)
        self.assertEqual(["n_ahead_in_queue", "fraction", "message", "returncode", "error"],
                         list(record))
        self.assertEqual(snapshot.fraction, record["fraction"])
        self.assertEqual(snapshot.message,
                         record["message"] and record["message"].encode())
        state = snapshot.state
        self.lib.wq_snapshot_clear(byref(snapshot))
        return state, record

    def test_options_are_known_by_their_size(self):
        self.assertEqual(ctypes.sizeof(Options), self.options.size)
        self.assertEqual((2, 10000, 5000), (self.options.workers, self.options.max_queue,
                                            self.options.grace_ms))
        self.options.size = 8
        queue, error = c_void_p(), Error()
        self.assertEqual(INVALID_ARGUMENT,
                         self.lib.wq_open(byref(queue), byref(self.options), byref(error)))
        self.assertEqual(INVALID_ARGUMENT, error.code)
        self.assertIn(b"size", error.message)
        self.assertIsNone(queue.value)

    def test_a_job_from_its_start_to_its_output(self):
        self.open()
        params = Params("printf '0.5\\tcaf\\303\\251\\n'; echo done >\"$4\"".encode(), b"17", TOKEN)
        result, job = self.ask(params)
        self.assertEqual(OK, result)
        self.assertRegex(self.lib.wq_job_id(job).decode(), r"^[0-9a-f-]{36}$")
        key = ctypes.create_string_buffer(65)
        self.assertEqual(OK, self.lib.wq_params_key(byref(params), key))
        self.assertEqual(key.value, self.lib.wq_job_key(job))
        found = c_void_p()
        self.assertEqual(OK, self.lib.wq_job_by_id(self.queue, self.lib.wq_job_id(job),
                                                   byref(found)))
        self.assertEqual(job.value, found.value)
        self.lib.wq_job_unref(found)
        self.assertEqual(OK, self.lib.wq_job_wait(job, 30000))
        state, record = self.record(job)
        self.assertEqual(SUCCEEDED, state)
        self.assertEqual({"n_ahead_in_queue": 0, "fraction": 1.0, "message": "caf\u00e9",
                          "returncode": 0, "error": None}, record)
        self.lib.wq_job_unref(job)
        self.read_output(params, b"done\n")
        result, job = self.ask(params)
        self.assertEqual((DONE, None), (result, job.value))

    def read_output(self, params, expected):
        error, fd = Error(), c_int()
        self.assertEqual(OK, self.lib.wq_output_find(self.queue, byref(params), byref(error)))
        self.assertEqual(OK, self.lib.wq_output_open(self.queue, byref(params), byref(fd),
                                                     byref(error)))
        with open(fd.value, "rb") as output:
            self.assertEqual(expected, output.read())
        path = ctypes.create_string_buffer(4096)
        self.assertEqual(OK, self.lib.wq_output_path(self.queue, byref(params), path, 4096, None))
        with open(path.value, "rb") as output:
            self.assertEqual(expected, output.read())

    def test_failures_come_with_a_sentence(self):
        self.open()
        _, job = self.ask(Params(b"echo oh >&2; exit 7", b"17", TOKEN))
        self.assertEqual(OK, self.lib.wq_job_wait(job, 30000))
        state, record = self.record(job)
        self.assertEqual((FAILED, 7), (state, record["returncode"]))
        self.assertEqual("Exited with code 7\nstderr:\noh\n", record["error"])
        self.assertTrue(self.logged)  # the callback has been called by a thread of the library
        self.lib.wq_job_unref(job)
        result, _ = self.ask(Params(b"x", b"", TOKEN))
        self.assertEqual(INVALID_ARGUMENT, result)
        error = Error()
        self.assertEqual(NOT_FOUND, self.lib.wq_output_find(
            self.queue, byref(Params(b"never", b"asked", b"for")), byref(error)))
        self.assertTrue(error.message)
        queue = c_void_p()
        self.assertEqual(LOCKED, self.lib.wq_open(byref(queue), byref(self.options),
                                                  byref(error)))
        self.assertIn(self.folder.name.encode(), error.message)
        self.assertTrue(self.lib.wq_strerror(LOCKED))

    def test_news_and_cancel(self):
        self.open()
        news = threading.Event()
        callback = WatchCallback(lambda user: news.set())
        _, job = self.ask(Params(b"echo 0.5; exec sleep 1000", b"17", TOKEN))
        watch = c_void_p()
        self.assertEqual(OK, self.lib.wq_job_watch(job, callback, None, byref(watch)))
        while self.record(job)[1]["fraction"] != 0.5:
            self.assertTrue(news.wait(30))
            news.clear()
        self.assertEqual(TIMEOUT, self.lib.wq_job_wait(job, 0))
        self.assertEqual(OK, self.lib.wq_job_cancel(job))
        while self.record(job)[0] == RUNNING:
            self.assertTrue(news.wait(30))
            news.clear()
        self.assertEqual(CANCELLED, self.record(job)[0])
        self.lib.wq_watch_cancel(watch)
        self.lib.wq_job_unref(job)

    def test_nothing_but_the_api_is_visible(self):
        for name in ("wq_queue_take", "wq_log", "wq_fail", "wq_lines_feed", "wq_dir_open"):
            with self.assertRaises(AttributeError):
                getattr(self.lib, name)
        promised = set()
        for header in ("workqueue.h", "extend.h"):
            with open(os.path.join(TESTS, "..", "include", "workqueue", header)) as text:
                promised |= set(re.findall(r"^WQ_API [^(]*\b(wq_\w+)\(", text.read(), re.M))
        shown = subprocess.run(["nm", "-D", "--defined-only", WORKQUEUE], check=True, text=True,
                               stdout=subprocess.PIPE).stdout
        self.assertEqual(promised, {line.split()[-1] for line in shown.splitlines()})
        for name in promised:
            self.assertTrue(getattr(self.lib, name))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
