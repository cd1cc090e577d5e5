"""test_ffi.py - the library from another language: the shared library by ctypes, without its header."""

import ctypes
import json
import os
from ctypes import CFUNCTYPE, byref, c_char_p, c_int, c_int64, c_size_t, c_uint, c_void_p

from harness import BUILD, FaceTest, plain_only

LOG = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
NEWS = CFUNCTYPE(None, c_void_p)
OK, DONE, LOCKED = 0, 1, -4


class Error(ctypes.Structure):
    _fields_ = [("code", c_int), ("message", ctypes.c_char * 508)]


class Options(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("program", c_char_p), ("storage_dir", c_char_p),
                ("workers", c_uint), ("max_queue", c_size_t), ("sync", c_int), ("grace_ms", c_uint),
                ("drain_ms", c_uint), ("max_line_bytes", c_size_t), ("stderr_tail_bytes", c_size_t),
                ("max_ended", c_size_t), ("retain_ended_ms", c_uint), ("log", LOG),
                ("log_user", c_void_p), ("runner", c_void_p), ("store", c_void_p)]


class Params(ctypes.Structure):
    _fields_ = [("server", c_char_p), ("document_set_id", c_char_p), ("api_token", c_char_p)]


@plain_only
class FfiTest(FaceTest):
    def setUp(self):
        super().setUp()
        self.wq = ctypes.CDLL(str(BUILD / "libworkqueue.so"))
        self.wq.wq_version.restype = self.wq.wq_job_id.restype = c_char_p
        self.wq.wq_snapshot_json.restype = c_size_t
        self.storage = self.folder / "storage"
        self.storage.mkdir()
        self.logged = []
        self.log = LOG(lambda _, level, message: self.logged.append(message))

    def open(self, program):
        options, queue, error = Options(), c_void_p(), Error()
        self.wq.wq_options_init(byref(options), c_size_t(ctypes.sizeof(options)))
        self.assertEqual((options.size, options.workers, options.max_line_bytes),
                         (ctypes.sizeof(options), 2, 8192), "this layout is the library's")
        options.program, options.storage_dir = str(program).encode(), str(self.storage).encode()
        options.log = self.log
        result = self.wq.wq_open(byref(queue), byref(options), byref(error))
        return result, queue, error

    def test_a_job(self):
        program = self.script('read line <"$0.fifo"; echo "$line"; echo nonsense; echo x >"$4"')
        os.mkfifo(f"{program}.fifo")
        result, queue, error = self.open(program)
        self.assertEqual(result, OK, error.message)
        self.assertEqual(self.open(program)[0], LOCKED)
        params, job, watch = Params(b"http://s", b"1", b"t"), c_void_p(), c_void_p()
        self.assertEqual(self.wq.wq_ensure_run(queue, byref(params), c_uint(0), byref(job), None), OK)
        self.assertRegex(self.wq.wq_job_id(job).decode(), "^[0-9a-f-]{36}$")
        news = []
        told = NEWS(lambda _: news.append(1))
        self.assertEqual(self.wq.wq_job_watch(job, told, None, byref(watch)), OK)
        with open(f"{program}.fifo", "w") as fifo:
            fifo.write("0.5\thalf\n")
        self.assertEqual(self.wq.wq_job_wait(job, c_int64(10000)), OK)
        self.wq.wq_watch_cancel(watch)
        self.assertTrue(news)
        self.assertEqual(self.record(job)["returncode"], 0)
        self.assertEqual(self.record(job)["message"], "half")
        self.wq.wq_job_unref(job)
        self.assertEqual(self.wq.wq_ensure_run(queue, byref(params), c_uint(0), byref(job), None), DONE)
        fd = c_int(-1)
        self.assertEqual(self.wq.wq_output_open(queue, byref(params), byref(fd), None), OK)
        with os.fdopen(fd.value, "rb") as output:
            self.assertEqual(output.read(), b"x\n")
        self.wq.wq_close(queue)
        self.assertTrue(any(b"invalid program" in line for line in self.logged), self.logged)

    def record(self, job):
        """The record by wq_snapshot_json(); of the snapshot itself only its size is guessed."""
        snapshot, text = (ctypes.c_byte * 1024)(), ctypes.create_string_buffer(1000)
        self.wq.wq_job_snapshot(job, snapshot)
        self.wq.wq_snapshot_json(snapshot, text, c_size_t(1000))
        self.wq.wq_snapshot_clear(snapshot)
        return json.loads(text.value)
