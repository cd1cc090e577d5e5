"""A plugin in Flask as it was written for overview-plugin-workqueue, with one import changed.

    LIBWORKQUEUE=/path/to/libworkqueue.so flask --app flask_plugin run
"""
import base64
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flask import Flask, Response, request
from libworkqueue import OverviewViewParams, WorkQueue

app = Flask(__name__)
HERE = Path(__file__).parent
WORK_QUEUE = WorkQueue(
    Path(os.environ.get("PROGRAM", HERE / "program.py")),
    executor=ThreadPoolExecutor(2, "process-docset-"),
    storage_dir=Path(os.environ.get("STORAGE", HERE / "databases")),
)


def params_of(form, headers):
    token = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).split(b":")[0]
    return OverviewViewParams(form["server"], form["documentSetId"], token.decode("latin1"))


@app.route("/generate", methods=["POST"])
def generate():
    job = WORK_QUEUE.ensure_run(params_of(request.form, request.headers))
    stream = [] if job is None else WORK_QUEUE.report_job_progress_until_completed(job)
    records = (("" if i == 0 else ",") + json.dumps(progress._asdict())
               for i, progress in enumerate(stream))
    return Response(itertools.chain(["["], records, ["]"]), content_type="application/json")
