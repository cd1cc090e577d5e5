/* lunkwill.c - POST /run, and the lunkwill conversation. */
#include "workqueue/http/faces.h"
#include "workqueue/http/problem.h"

int wq_face_run(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)http, (void)rest;
    return wq_problem(req, 404, "There is nothing at this path.");
}

int wq_face_lunkwill(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)http, (void)rest;
    return wq_problem(req, 404, "There is nothing at this path.");
}

struct wq_lunkwill *wq_lunkwill_new(wq_http *http)
{
    (void)http;
    return calloc(1, 1);
}

void wq_lunkwill_free(struct wq_lunkwill *lunkwill)
{
    free(lunkwill);
}

int64_t wq_lunkwill_sweep(struct wq_lunkwill *lunkwill, int64_t now)
{
    (void)lunkwill, (void)now;
    return 0;
}
