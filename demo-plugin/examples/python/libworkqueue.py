"""libworkqueue - the Python package `overview-plugin-workqueue`, on the C library.

Change one import, and keep the rest of your plugin:

    from libworkqueue import OverviewViewParams, WorkQueue

What is better by design than in that package is told in workqueue-python(7). The shared library is
looked for by the system; the environment variable LIBWORKQUEUE names another one. It is opened
for the process that calls: with a server that forks (gunicorn, uWSGI), make the WorkQueue in the
worker, after the fork.
"""
import ctypes
import ctypes.util
import json
import logging
import os
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_char, c_char_p, c_int, c_int64, c_size_t,
                    c_uint, c_uint64, c_void_p)
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Sequence, Union

__all__ = ["Job", "OverviewViewParams", "Progress", "WorkQueue", "WorkQueueError"]
logger = logging.getLogger("workqueue")

_DONE, _TIMEOUT = 1, -8
_LogCallback = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
_WatchCallback = CFUNCTYPE(None, c_void_p)


class OverviewViewParams(NamedTuple):
    """What names a job; there is one job at a time for each three of these."""

    server: str
    document_set_id: str
    api_token: str


class Progress(NamedTuple):
    """A job at one moment, as the progress record of the stream tells it."""

    n_ahead_in_queue: int = 0
    fraction: float = 0.0
    message: Optional[str] = None
    returncode: Optional[int] = None
    error: Optional[str] = None


class WorkQueueError(RuntimeError):
    """The library refused; `code` is its wq_result."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class _Error(Structure):
    _fields_ = [("code", c_int), ("message", c_char * 508)]


class _Params(Structure):
    _fields_ = [("server", c_char_p), ("document_set_id", c_char_p), ("api_token", c_char_p)]


class _Options(Structure):
    """wq_options of workqueue.h up to the fields that we set; the library fills in what is newer."""

    _fields_ = [
        ("size", c_size_t), ("program", c_char_p), ("storage_dir", c_char_p), ("workers", c_uint),
        ("max_queue", c_size_t), ("max_per_user", c_size_t), ("max_per_server", c_size_t),
        ("fair", c_int), ("sync", c_int), ("grace_ms", c_uint), ("drain_ms", c_uint),
        ("max_line_bytes", c_size_t), ("stderr_tail_bytes", c_size_t), ("max_ended", c_size_t),
        ("retain_ended_ms", c_uint), ("journal_path", c_char_p), ("max_attempts", c_uint),
        ("run_timeout_ms", c_uint), ("progress_timeout_ms", c_uint), ("queue_timeout_ms", c_uint),
        ("max_output_bytes", c_uint64), ("max_cpu_s", c_uint), ("max_memory_bytes", c_uint64),
        ("max_open_files", c_uint), ("soft_open_files", c_uint), ("max_processes", c_uint),
        ("environment", POINTER(c_char_p)), ("token_in_environment", c_int),
        ("private_tmpdir", c_int), ("allow_new_privileges", c_int), ("cgroup_dir", c_char_p),
        ("retain_age_s", c_uint), ("retain_bytes", c_uint64), ("log", _LogCallback),
        ("log_user", c_void_p), ("runner", c_void_p), ("store", c_void_p), ("guard_path", c_char_p)]


def _load() -> ctypes.CDLL:
    name = os.environ.get("LIBWORKQUEUE") or ctypes.util.find_library("workqueue")
    lib = ctypes.CDLL(name or "libworkqueue.so.1")
    for function, result, *arguments in [
            ("wq_options_init", None, POINTER(_Options), c_size_t),
            ("wq_open", c_int, POINTER(c_void_p), POINTER(_Options), POINTER(_Error)),
            ("wq_close", None, c_void_p),
            ("wq_ensure_run", c_int, c_void_p, POINTER(_Params), c_uint, POINTER(c_void_p),
             POINTER(_Error)),
            ("wq_output_path", c_int, c_void_p, POINTER(_Params), c_char_p, c_size_t,
             POINTER(_Error)),
            ("wq_job_id", c_char_p, c_void_p),
            ("wq_job_unref", None, c_void_p),
            ("wq_job_cancel", c_int, c_void_p),
            ("wq_job_wait", c_int, c_void_p, c_int64),
            ("wq_job_snapshot", None, c_void_p, c_void_p),
            ("wq_snapshot_json", c_size_t, c_void_p, c_char_p, c_size_t),
            ("wq_snapshot_clear", None, c_void_p),
            ("wq_job_watch", c_int, c_void_p, _WatchCallback, c_void_p, POINTER(c_void_p)),
            ("wq_queue_watch", c_int, c_void_p, _WatchCallback, c_void_p, POINTER(c_void_p)),
            ("wq_watch_cancel", None, c_void_p)]:
        getattr(lib, function).restype = result
        getattr(lib, function).argtypes = arguments
    return lib


_lib = None


def _library() -> ctypes.CDLL:
    global _lib
    if _lib is None:
        _lib = _load()
    return _lib


def _log(_user, level, message):
    """A line of the library. The package logged a program's faults as warnings, in these very words and
    without saying whose they are; what the library says besides is for who asks for more."""
    text = message.decode("ascii", "replace")
    at = text.find("invalid program: ")
    if at < 0:
        logger.log(logging.ERROR if level == 0 else logging.INFO, "%s", text)
        return
    # What it says behind these words, a hint, is for the one who reads the other record.
    line = re.match(r"invalid program: stdout must look like '0\.25<TAB>message'; got '.*?'(?=;|$)", text[at:])
    fault = line[0].replace("<TAB>", "\\t", 1) if line else text[at:].split("; ")[0]
    logger.warning("%s", fault)
    logger.info("%s", text)


_log_callback = _LogCallback(_log)


def _params(params: OverviewViewParams) -> _Params:
    return _Params(*(str(text).encode("utf-8") for text in params))


def _check(result: int, error: _Error) -> int:
    if result < 0:
        raise WorkQueueError(result, error.message.decode("utf-8", "replace"))
    return result


class Job:
    """One job; from WorkQueue.ensure_run()."""

    def __init__(self, params: OverviewViewParams, handle: c_void_p):
        self.params = params
        self._handle = handle
        weakref.finalize(self, _library().wq_job_unref, handle)

    @property
    def id(self) -> str:
        """The job's random id, by which clients may poll for it."""
        return _library().wq_job_id(self._handle).decode("ascii")

    @property
    def current_progress(self) -> Progress:
        """The job now."""
        lib = _library()
        snapshot = ctypes.create_string_buffer(4096)  # a wq_snapshot, which is far smaller
        lib.wq_job_snapshot(self._handle, snapshot)
        size = lib.wq_snapshot_json(snapshot, None, 0) + 1
        text = ctypes.create_string_buffer(size)
        lib.wq_snapshot_json(snapshot, text, size)
        lib.wq_snapshot_clear(snapshot)
        progress = Progress(**json.loads(text.value))
        if progress.error is not None:  # as Python's own exception would say it
            progress = progress._replace(error=progress.error.replace(
                "Failed to stat output file: No such", "Failed to stat output file: [Errno 2] No such"))
            if "[Errno 2] No such file or directory" in progress.error:
                progress = progress._replace(error=progress.error + ": the output file")
        return progress

    def cancel(self) -> bool:
        """Ends the job early; False if that came too late."""
        return _library().wq_job_cancel(self._handle) == 0

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until it has ended; False if `timeout` seconds ran out first."""
        ms = -1 if timeout is None else int(timeout * 1000)
        return _library().wq_job_wait(self._handle, ms) != _TIMEOUT


class WorkQueue:
    """Runs `program_path` once for all who ask with the same parameters.

    `executor` says how many programs run at the same time: a ThreadPoolExecutor, as before, of which
    only the number of threads is used, or that number. `journal_path`, if given, is the file that
    keeps accepted jobs over a restart. `environment` is what programs get of ours: names, "START*" or
    "NAME=VALUE"; everything, as before, by default.
    """

    def __init__(self, program_path: Union[str, Path], executor: Union[ThreadPoolExecutor, int],
                 storage_dir: Union[str, Path], journal_path: Union[str, Path, None] = None,
                 environment: Sequence[str] = ("*",)):
        lib = _library()
        self.program_path, self.storage_dir = Path(program_path), Path(storage_dir)
        self.storage_dir.mkdir(parents=True, exist_ok=True)
        options, queue, error = _Options(), c_void_p(), _Error()
        lib.wq_options_init(byref(options), ctypes.sizeof(options))
        options.program = os.fsencode(program_path)
        options.storage_dir = os.fsencode(storage_dir)
        options.workers = getattr(executor, "_max_workers", executor)
        options.journal_path = os.fsencode(journal_path) if journal_path is not None else None
        options.environment = (c_char_p * (len(environment) + 1))(*map(os.fsencode, environment))
        options.log = _log_callback
        _check(lib.wq_open(byref(queue), byref(options), byref(error)), error)
        self._queue = queue
        self.close = weakref.finalize(self, lib.wq_close, queue)

    def __enter__(self) -> "WorkQueue":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def ensure_run(self, params: OverviewViewParams) -> Optional[Job]:
        """The job that makes the output of `params`, or None if that is there already."""
        handle, error = c_void_p(), _Error()
        result = _check(_library().wq_ensure_run(self._queue, byref(_params(params)), 0,
                                                 byref(handle), byref(error)), error)
        return None if result == _DONE else Job(params, handle)

    def destination_path_for_params(self, params: OverviewViewParams) -> Path:
        """Where the output of `params` is, or will be. The name is a hash, without the token."""
        path, error = ctypes.create_string_buffer(4096), _Error()
        _check(_library().wq_output_path(self._queue, byref(_params(params)), path, len(path),
                                         byref(error)), error)
        return Path(os.fsdecode(path.value))

    def report_job_progress_until_completed(self, job: Job) -> Iterator[Progress]:
        """Each change as it comes; the last one has the returncode."""
        lib, news = _library(), threading.Event()
        callback = _WatchCallback(lambda _user: news.set())
        watches = [c_void_p(), c_void_p()]
        try:
            if (lib.wq_job_watch(job._handle, callback, None, byref(watches[0])) < 0 or
                    lib.wq_queue_watch(self._queue, callback, None, byref(watches[1])) < 0):
                raise MemoryError
            latest = None
            while latest is None or latest.returncode is None:
                news.clear()
                progress = job.current_progress
                if progress != latest:
                    latest = progress
                    yield progress
                else:
                    news.wait()
        finally:
            for watch in watches:
                lib.wq_watch_cancel(watch)
