/* off_loop.c - there and back: a thread makes an answer, the loop sends it. */
#include "workqueue/http/faces/off_loop.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/http/request/problem.h"

typedef struct answer_work {
    wq_http *http;
    wq_make_answer make;
    int status;
    char *body; /* from malloc */
    size_t size;
    _Alignas(max_align_t) char ask[];
} answer_work;

static void make_answer(void *user, wq_http_task *task)
{
    answer_work *work = user;
    (void)task;
    FILE *out = open_memstream(&work->body, &work->size);
    work->status = out ? work->make(work->http, work->ask, out) : 500;
    if (out != NULL && fclose(out) != 0)
        work->status = 500;
}

static void send_answer(void *user, h2o_req_t *req)
{
    answer_work *work = user;
    if (req == NULL) {
        /* nobody waits for it any more */
    } else if (work->status >= 400) {
        wq_problem(req, work->status, "%s",
                   work->size > 0 ? work->body : "There is no memory for the answer.");
    } else {
        h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                       H2O_STRLIT("no-store"));
        wq_send_bytes(req, work->status, "application/json", work->body, work->size);
    }
    free(work->body);
    free(work);
}

int wq_answer_off_loop(wq_http *http, h2o_req_t *req, wq_make_answer make, const void *ask,
                       size_t ask_size)
{
    answer_work *work = calloc(1, sizeof *work + ask_size);
    if (work == NULL)
        return wq_problem(req, 500, "There is no memory for the answer.");
    work->http = http;
    work->make = make;
    if (ask_size > 0)
        memcpy(work->ask, ask, ask_size);
    if (wq_http_work(http, req, make_answer, send_answer, work) != WQ_OK)
        free(work); /* and it has been answered */
    return 0;
}
