/* operator.c - metrics, health, and the deletion of outputs. */
#include "workqueue/http/faces.h"
#include "workqueue/http/problem.h"

int wq_face_metrics(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)http, (void)rest;
    return wq_problem(req, 404, "There is nothing at this path.");
}

int wq_face_health(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)http, (void)rest;
    return wq_problem(req, 404, "There is nothing at this path.");
}

int wq_face_output(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)http, (void)rest;
    return wq_problem(req, 404, "There is nothing at this path.");
}
