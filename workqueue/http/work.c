/* work.c - polling: POST /start_work, GET, HEAD and DELETE /work/{id}. */
#include "workqueue/http/faces.h"
#include "workqueue/http/problem.h"

int wq_face_start_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)http, (void)rest;
    return wq_problem(req, 404, "There is nothing at this path.");
}

int wq_face_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)http, (void)rest;
    return wq_problem(req, 404, "There is nothing at this path.");
}
