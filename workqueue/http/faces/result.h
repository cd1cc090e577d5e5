/* result.h - the answer that a job has come to: its output, or what went wrong. */
#ifndef WQ_RESULT_H
#define WQ_RESULT_H

#include "workqueue/http/http.h"

/* Answers for a job that has ended; takes over the reference to `job`. Succeeded: 200 with the
 * output (ETag, Last-Modified, ranges, conditions, HEAD), 410 if it has been deleted since. Failed:
 * 500, cancelled: 410, each a problem document whose detail is the job's error. Returns 0. */
int wq_answer_result(wq_http *http, h2o_req_t *req, wq_job *job);

#endif
