/* job_log.h - what the program of a job has written to stderr. */
#ifndef WQ_HTTP_FACES_JOB_LOG_H
#define WQ_HTTP_FACES_JOB_LOG_H

#include "workqueue/http/http.h"

/* Each takes over the reference to `job`. */
int wq_answer_log_text(h2o_req_t *req, wq_job *job);
int wq_answer_log_events(wq_http *http, h2o_req_t *req, wq_job *job);

#endif
