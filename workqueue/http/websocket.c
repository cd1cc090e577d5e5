/* websocket.c - one job's records as WebSocket messages. */
#include "workqueue/http/websocket.h"

#include "workqueue/http/problem.h"

int wq_websocket_wanted(h2o_req_t *req)
{
    (void)req;
    return 0;
}

int wq_websocket_generate(wq_http *http, h2o_req_t *req)
{
    (void)http;
    return wq_problem(req, 501, "Not written yet.");
}

int wq_websocket(wq_http *http, h2o_req_t *req, wq_job *job)
{
    (void)http;
    wq_job_unref(job);
    return wq_problem(req, 501, "Not written yet.");
}
