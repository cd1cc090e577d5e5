/* job_list.h - all jobs, for the operator: the list, its events, cancelling those that match. */
#ifndef WQ_HTTP_FACES_JOB_LIST_H
#define WQ_HTTP_FACES_JOB_LIST_H

#include "workqueue/http/http.h"

int wq_answer_job_list(wq_http *http, h2o_req_t *req);   /* GET /jobs */
int wq_answer_cancel_all(wq_http *http, h2o_req_t *req); /* DELETE /jobs */

/* GET /jobs as an event stream: each change of any job, until the client leaves. */
int wq_answer_job_events(wq_http *http, h2o_req_t *req);

#endif
