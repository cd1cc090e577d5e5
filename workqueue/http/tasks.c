/* tasks.c - the task-status API. */
#include "workqueue/http/faces.h"
#include "workqueue/http/problem.h"

int wq_face_tasks(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)http, (void)rest;
    return wq_problem(req, 404, "There is nothing at this path.");
}

struct wq_tasks *wq_tasks_new(void)
{
    return calloc(1, 1);
}

void wq_tasks_free(struct wq_tasks *tasks)
{
    free(tasks);
}
