/* off_loop.c - there and back: a request is held, a thread makes its answer, the loop sends it. */
#include "workqueue/http/faces/off_loop.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/http/request/problem.h"

/* In the memory of the request. */
typedef struct held_answer {
    wq_held held;
    wq_off_loop *work; /* NULL: nothing is awaited any more */
} held_answer;

/* The thread's; then, posted back, the loop's. */
struct wq_off_loop {
    wq_task task;
    wq_http *http;
    held_answer *held; /* the loop's at any time; NULL: nobody waits */
    wq_make_answer make;
    int status;
    char *body; /* from malloc */
    size_t size;
    _Alignas(max_align_t) char ask[];
};

static void free_work(wq_off_loop *work)
{
    free(work->body);
    free(work);
}

static void make_answer(wq_task *task)
{
    wq_off_loop *work = H2O_STRUCT_FROM_MEMBER(wq_off_loop, task, task);
    FILE *out = open_memstream(&work->body, &work->size);
    work->status = out ? work->make(work->http, work->ask, out) : 500;
    if (out != NULL && fclose(out) != 0)
        work->status = 500;
}

static void lose_answer(wq_task *task)
{
    free_work(H2O_STRUCT_FROM_MEMBER(wq_off_loop, task, task));
}

static void let_go(held_answer *held)
{
    held->work->held = NULL;
    held->work = NULL;
    wq_release(&held->held);
}

static void send_answer(h2o_req_t *req, const wq_off_loop *work)
{
    if (work->status >= 400 && work->size == 0) {
        wq_problem(req, work->status, "There is no memory for the answer.");
    } else if (work->status >= 400) {
        wq_problem(req, work->status, "%s", work->body);
    } else {
        h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                       H2O_STRLIT("no-store"));
        wq_send_bytes(req, work->status, "application/json", work->body, work->size);
    }
}

static void on_made(wq_post *post)
{
    wq_off_loop *work = H2O_STRUCT_FROM_MEMBER(wq_off_loop, task.post, post);
    held_answer *held = work->held;
    if (held != NULL) {
        let_go(held);
        send_answer(held->held.req, work);
    }
    free_work(work);
}

static void on_gone(wq_held *held)
{
    let_go(H2O_STRUCT_FROM_MEMBER(held_answer, held, held));
    held->req->http1_is_persistent = 0;
    wq_problem(held->req, 503, "The answer is not waited for any more.");
}

int wq_answer_off_loop(wq_http *http, h2o_req_t *req, wq_make_answer make, const void *ask,
                       size_t ask_size)
{
    wq_off_loop *work = calloc(1, sizeof *work + ask_size);
    if (work == NULL)
        return wq_problem(req, 500, "There is no memory for the answer.");
    if (ask_size > 0)
        memcpy(work->ask, ask, ask_size);
    work->task = (wq_task){.post = {.arrive = on_made}, .work = make_answer, .lost = lose_answer};
    work->http = http;
    work->make = make;
    held_answer *held = h2o_mem_alloc_pool(&req->pool, sizeof *held);
    *held = (held_answer){.held = {.http = http, .face = WQ_FACE_LIST, .req = req, .gone = on_gone},
                          .work = work};
    if (wq_hold(&held->held, NULL) != 0) {
        free_work(work);
        return 0;
    }
    work->held = held;
    int result = wq_task_start(http, req, &work->task);
    if (result == WQ_OK)
        return 0;
    let_go(held);
    free_work(work);
    return wq_problem_result(req, result, NULL, 5);
}
