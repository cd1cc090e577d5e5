/* result.c - the answer that a job has come to: its output, or what went wrong. */
#include "workqueue/http/result.h"

#include "workqueue/http/problem.h"

int wq_answer_result(wq_http *http, h2o_req_t *req, wq_job *job)
{
    (void)http;
    wq_job_unref(job);
    return wq_problem(req, 500, "Not written yet.");
}
