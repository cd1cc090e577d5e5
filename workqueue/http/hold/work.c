/* work.c - threads for what would hold up a loop, and wq_http_work().
 *
 *     loop: wq_http_work() ─► row ─► thread: work(user, task) ─► post ─► loop: done(user, req)
 *
 * Threads start one by one, when there is something to do and none is idle, and stay. A task whose
 * request has gone before a thread has come to it is not begun; one that is under way can see it.
 */
#include "workqueue/http/hold/work.h"

#include <signal.h>
#include <stdlib.h>

#include "workqueue/http/hold/held.h"
#include "workqueue/http/request/problem.h"

enum { MAX_THREADS = 16, MAX_WAITING = 4096 };

/* In the memory of the request. */
typedef struct work_guard {
    wq_http_task *task; /* NULL: it is done */
    wq_held held;       /* fd is -1 unless it is held for this task */
} work_guard;

struct wq_http_task {
    wq_post post;
    STAILQ_ENTRY(wq_http_task) link;
    wq_http_work_fn work;
    wq_http_done_fn done;
    void *user;
    atomic_int is_gone;
    /* the loop's */
    wq_http *http;
    h2o_req_t *req; /* NULL: it has ended */
    work_guard *guard;
};

struct wq_threads {
    wq_http *http;
    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t work;
    STAILQ_HEAD(, wq_http_task) row;
    size_t n_waiting;
    unsigned n_idle, n;
    pthread_t threads[MAX_THREADS];
    int closing;
};

/* ---- the threads ----------------------------------------------------------------------------- */

struct wq_threads *wq_threads_new(wq_http *http)
{
    struct wq_threads *threads = calloc(1, sizeof *threads);
    if (threads == NULL)
        return NULL;
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->work, NULL);
    threads->http = http;
    STAILQ_INIT(&threads->row);
    return threads;
}

static wq_http_task *take_task_locked(struct wq_threads *threads)
{
    wq_http_task *task = STAILQ_FIRST(&threads->row);
    if (task == NULL)
        return NULL;
    STAILQ_REMOVE_HEAD(&threads->row, link);
    threads->n_waiting--;
    return task;
}

/* Its loop has ended, and its request with it. */
static void lose_task(wq_http_task *task)
{
    task->done(task->user, NULL);
    free(task);
}

static void run_task(wq_http *http, wq_http_task *task)
{
    if (!atomic_load(&task->is_gone))
        task->work(task->user, task);
    if (wq_post_send(&http->inboxes, &task->post) != 0)
        lose_task(task);
}

static void *thread_main(void *arg)
{
    struct wq_threads *threads = arg;
    wq_http_task *task;
    pthread_mutex_lock(&threads->lock);
    while (!threads->closing) {
        if ((task = take_task_locked(threads)) == NULL) {
            threads->n_idle++;
            pthread_cond_wait(&threads->work, &threads->lock);
            threads->n_idle--;
            continue;
        }
        pthread_mutex_unlock(&threads->lock);
        run_task(threads->http, task);
        pthread_mutex_lock(&threads->lock);
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

/* The host's signals are not for these threads. */
static int add_thread_locked(struct wq_threads *threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&threads->threads[threads->n], NULL, thread_main, threads);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return threads->n > 0 ? WQ_OK : WQ_ERROR_NO_MEMORY; /* the others will get to it */
    pthread_setname_np(threads->threads[threads->n++], "wq-http");
    return WQ_OK;
}

static int put_task_locked(struct wq_threads *threads, wq_http_task *task)
{
    int result = WQ_OK;
    if (threads->closing || threads->n_waiting == MAX_WAITING)
        return WQ_ERROR_FULL;
    if (threads->n_idle <= threads->n_waiting && threads->n < MAX_THREADS)
        result = add_thread_locked(threads);
    if (result != WQ_OK)
        return result;
    STAILQ_INSERT_TAIL(&threads->row, task, link);
    threads->n_waiting++;
    pthread_cond_signal(&threads->work);
    return WQ_OK;
}

static int put_task(struct wq_threads *threads, wq_http_task *task)
{
    pthread_mutex_lock(&threads->lock);
    int result = put_task_locked(threads, task);
    pthread_mutex_unlock(&threads->lock);
    return result;
}

void wq_threads_free(struct wq_threads *threads)
{
    wq_http_task *task;
    if (threads == NULL)
        return;
    pthread_mutex_lock(&threads->lock);
    threads->closing = 1;
    pthread_cond_broadcast(&threads->work);
    pthread_mutex_unlock(&threads->lock);
    for (unsigned i = 0; i < threads->n; i++)
        pthread_join(threads->threads[i], NULL);
    while ((task = take_task_locked(threads)) != NULL)
        lose_task(task);
    pthread_cond_destroy(&threads->work);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}

/* ---- a request's task ------------------------------------------------------------------------ */

/* The task is not looked for in the row: whoever comes to it sees that it is for nobody. */
static void forget_request(work_guard *g)
{
    wq_release(&g->held);
    if (g->task == NULL)
        return;
    atomic_store(&g->task->is_gone, 1);
    g->task->req = NULL;
    g->task = NULL;
}

static void on_work_request_end(void *arg)
{
    forget_request(arg);
}

/* What is held has to be answered, though nobody reads it. */
static void on_client_gone(wq_held *held)
{
    h2o_req_t *req = held->req;
    forget_request(H2O_STRUCT_FROM_MEMBER(work_guard, held, held));
    req->http1_is_persistent = 0;
    wq_problem(req, 408, "The client has closed its side of the connection.");
}

static void on_done(wq_post *post)
{
    wq_http_task *task = H2O_STRUCT_FROM_MEMBER(wq_http_task, post, post);
    h2o_req_t *req = task->req;
    if (req != NULL) {
        task->guard->task = NULL;
        wq_release(&task->guard->held);
    }
    task->done(task->user, req);
    free(task);
}

/* NULL: no memory. */
static wq_http_task *new_task(wq_http *http, h2o_req_t *req, wq_http_work_fn work,
                              wq_http_done_fn done, void *user)
{
    wq_http_task *task = calloc(1, sizeof *task);
    if (task == NULL)
        return NULL;
    task->post = (wq_post){.inbox = &wq_loop_of(http, req)->inbox, .arrive = on_done};
    task->work = work;
    task->done = done;
    task->user = user;
    task->http = http;
    task->req = req;
    task->guard = h2o_mem_alloc_shared(&req->pool, sizeof *task->guard, on_work_request_end);
    *task->guard = (work_guard){
        .task = task,
        .held = {.http = http, .face = WQ_FACE_WORK, .req = req, .gone = on_client_gone, .fd = -1},
    };
    return task;
}

static void drop_task(wq_http_task *task)
{
    task->guard->task = NULL;
    wq_release(&task->guard->held);
    free(task);
}

int wq_work_start(wq_http *http, h2o_req_t *req, wq_http_work_fn work, wq_http_done_fn done,
                  void *user)
{
    wq_http_task *task = new_task(http, req, work, done, user);
    int result = task != NULL ? put_task(http->threads, task) : WQ_ERROR_NO_MEMORY;
    if (result != WQ_OK && task != NULL)
        drop_task(task);
    return result;
}

int wq_http_work(wq_http *http, h2o_req_t *req, wq_http_work_fn work, wq_http_done_fn done,
                 void *user)
{
    wq_http_task *task = new_task(http, req, work, done, user);
    if (task == NULL) {
        wq_problem_result(req, WQ_ERROR_NO_MEMORY, NULL, 5);
        return WQ_ERROR_NO_MEMORY;
    }
    if (wq_hold(&task->guard->held, NULL) != 0) {
        if (task->req != NULL) /* the answer has not ended it yet */
            task->guard->task = NULL;
        free(task);
        return WQ_ERROR_FULL;
    }
    int result = put_task(http->threads, task);
    if (result != WQ_OK) {
        drop_task(task);
        wq_problem_result(req, result, NULL, 5);
    }
    return result;
}

int wq_http_gone(const wq_http_task *task)
{
    return atomic_load(&task->is_gone);
}
