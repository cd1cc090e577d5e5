/* search.c - GET /search.
 *
 * A search in a large set takes longer than an event loop may be held up, which carries the streams
 * of everybody else, and so may the look for the database, if it is in a store across a network. So
 * both are done by a few threads of their own:
 *
 *     loop: on_request ─► waiting ─► thread: query_run ─► message ─► loop: on_done ─► answer
 *
 * A task belongs to its loop, then to the thread, then to the loop again. The request may be gone
 * by then: a guard in its pool, freed on the loop like the request, forgets it, and the search
 * stops. Of one API token one search runs at a time; its others wait, and those of other tokens go
 * first. */
#include "search.h"

#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "fresh.h"
#include "query.h"

enum { THREADS = 2, MAX_WAITING = 64, DEFAULT_RESULTS = 20 };

struct search_loop {
    h2o_multithread_receiver_t receiver; /* first: on_done gets the loop by it */
    struct search *search;
    size_t pending; /* tasks of this loop that a thread has or will have; under search->lock */
};

struct task {
    h2o_multithread_message_t message; /* first */
    struct task *next;                 /* in waiting */
    struct search_loop *loop;
    struct guard *guard; /* NULL once the request is gone; the loop's */
    atomic_int stop;     /* the request is gone, or the server stops */
    int fd;              /* of its connection; -1 once it is gone; under search->lock */
    wq_params params;    /* in held */
    char *held;
    int is_about_index; /* GET /index */
    struct query query;
};

/* In the pool of a request that waits. */
struct guard {
    h2o_req_t *req;
    struct task *task; /* NULL once it is answered */
};

struct search {
    struct plugin *plugin;
    pthread_mutex_t lock;
    pthread_cond_t work; /* waiting is not empty, or stopping */
    pthread_cond_t idle; /* a loop's pending has become 0 */
    struct task *waiting, **last;
    size_t n_waiting;
    struct task *running[THREADS]; /* NULL: that thread has none */
    struct watch *watch;
    int stopping;
    pthread_t threads[THREADS];
    size_t n_threads, n_begun;
};

struct search_handler {
    h2o_handler_t super;
    struct search *search;
    const char *path;
};

static void free_task(struct task *task)
{
    query_dispose(&task->query);
    if (task->held != NULL) /* the token is in it */
        explicit_bzero(task->held, strlen(task->held));
    free(task->held);
    free(task);
}

/* ---- the threads ---- */

static int is_running_locked(const struct search *search, const char *api_token)
{
    for (size_t i = 0; i < THREADS; i++)
        if (search->running[i] != NULL &&
            strcmp(search->running[i]->params.api_token, api_token) == 0)
            return 1;
    return 0;
}

/* Takes the task at *at out of those that wait. */
static struct task *unlink_task_locked(struct search *search, struct task **at)
{
    struct task *task = *at;
    *at = task->next;
    if (*at == NULL)
        search->last = at;
    search->n_waiting--;
    return task;
}

/* Takes the next task: the first one whose token has none that runs, or that nobody waits for any
 * more. NULL: stop. search->lock is held. */
static struct task *next_task_locked(struct search *search)
{
    for (;;) {
        for (struct task **at = &search->waiting; *at != NULL; at = &(*at)->next)
            if ((*at)->stop || !is_running_locked(search, (*at)->params.api_token))
                return unlink_task_locked(search, at);
        if (search->stopping)
            return NULL;
        pthread_cond_wait(&search->work, &search->lock);
    }
}

static void refuse(struct query *query, int status, const char *problem)
{
    query->status = status;
    query->problem = problem;
}

/* The path of the database, of a local copy if it is elsewhere; nonzero: there is none. */
static int find_database(wq_queue *queue, struct task *task)
{
    struct query *query = &task->query;
    int r = wq_output_find(queue, &task->params, NULL);
    if (r == WQ_OK)
        r = wq_output_path(queue, &task->params, query->path, sizeof query->path, NULL);
    if (r == WQ_ERROR_NOT_FOUND)
        refuse(
            query, 404,
            "There is no database for this document set yet: call POST /generate first, and wait "
            "until it ends.");
    else if (r == WQ_ERROR_AWAY)
        refuse(query, 503, "The store where databases are cannot be reached; try again later.");
    else if (r != WQ_OK)
        refuse(query, 500, "The database of this document set cannot be had.");
    return r;
}

/* libh2o does not read from a connection whose request is being answered, so it does not see it
 * close. */
static int is_gone(void *user)
{
    struct task *task = user;
    struct search *search = task->loop->search;
    char byte;
    pthread_mutex_lock(&search->lock);
    ssize_t n = task->fd == -1 ? 0 : recv(task->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    int gone = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    pthread_mutex_unlock(&search->lock);
    return gone;
}

static void look_at_index(struct task *task)
{
    struct query *query = &task->query;
    query->status = fresh_look(&query->body, query->path, &task->params, &task->stop);
    if (query->status == 422)
        refuse(query, 422, "The output for this document set is no index that can be searched.");
    else if (query->status != 200)
        refuse(query, query->status, "The index of this document set cannot be read.");
}

static void run_task(struct search *search, struct task *task)
{
    if (task->stop || is_gone(task))
        refuse(&task->query, 503, "The search was stopped.");
    else if (find_database(search->plugin->queue, task) != WQ_OK)
        return;
    else if (task->is_about_index)
        look_at_index(task);
    else
        query_run(&task->query);
}

/* The task is the loop's again as soon as the message is out, and the loop may end as soon as
 * nothing of it is pending, so neither is touched after that. */
static void *thread_main(void *user)
{
    struct search *search = user;
    struct task *task;
    pthread_mutex_lock(&search->lock);
    size_t number = search->n_begun++;
    while ((task = next_task_locked(search)) != NULL) {
        search->running[number] = task;
        pthread_mutex_unlock(&search->lock);
        struct search_loop *loop = task->loop;
        run_task(search, task);
        pthread_mutex_lock(&search->lock);
        search->running[number] = NULL;
        h2o_multithread_send_message(&loop->receiver, &task->message);
        if (--loop->pending == 0)
            pthread_cond_broadcast(&search->idle);
        pthread_cond_broadcast(&search->work); /* its token may have another one */
    }
    pthread_mutex_unlock(&search->lock);
    return NULL;
}

/* 0, or -1: too many wait already, or none is to come any more. */
static int add_task(struct search *search, struct task *task)
{
    pthread_mutex_lock(&search->lock);
    int full = search->n_waiting == MAX_WAITING || search->stopping;
    if (!full) {
        *search->last = task;
        search->last = &task->next;
        search->n_waiting++;
        task->loop->pending++;
        pthread_cond_signal(&search->work);
    }
    pthread_mutex_unlock(&search->lock);
    return full ? -1 : 0;
}

/* ---- the loops ---- */

static void finish_task(struct task *task)
{
    struct guard *guard = task->guard;
    const struct query *query = &task->query;
    if (guard != NULL) {
        guard->task = NULL;
        if (query->status == 503)
            plugin_header(guard->req, "retry-after", "2");
        if (query->problem != NULL)
            wq_http_problem(guard->req, query->status, query->problem);
        else
            wq_http_send(guard->req, 200, "application/json", query->body.data, query->body.len);
    }
    free_task(task);
}

static struct task *pop_message(h2o_linklist_t *messages)
{
    if (h2o_linklist_is_empty(messages))
        return NULL;
    h2o_linklist_t *link = messages->next;
    h2o_linklist_unlink(link);
    assert(messages->next != link);
    return H2O_STRUCT_FROM_MEMBER(struct task, message.link, link);
}

static void on_done(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    struct task *task;
    (void)receiver;
    while ((task = pop_message(messages)) != NULL)
        finish_task(task);
}

static void on_context_init(h2o_handler_t *handler, h2o_context_t *context)
{
    struct search_loop *loop = h2o_mem_alloc(sizeof *loop);
    memset(loop, 0, sizeof *loop);
    loop->search = ((struct search_handler *)handler)->search;
    h2o_multithread_register_receiver(context->queue, &loop->receiver, on_done);
    h2o_context_set_handler_context(context, handler, loop);
}

/* No request is left, but tasks of requests that were cut off may be. */
static void on_context_dispose(h2o_handler_t *handler, h2o_context_t *context)
{
    struct search_loop *loop = h2o_context_get_handler_context(context, handler);
    struct search *search = loop->search;
    struct task *task;
    pthread_mutex_lock(&search->lock);
    while (loop->pending > 0)
        pthread_cond_wait(&search->idle, &search->lock);
    pthread_mutex_unlock(&search->lock);
    while ((task = pop_message(&loop->receiver._messages)) != NULL)
        free_task(task);
    h2o_multithread_unregister_receiver(context->queue, &loop->receiver);
    free(loop);
}

/* ---- the request ---- */

/* Copies the parameters; nonzero: they are wrong, and the request is answered. */
static int keep_params(struct plugin *plugin, h2o_req_t *req, struct task *task)
{
    wq_params params;
    if (wq_http_params(plugin->http, req, &params) != WQ_OK)
        return -1;
    size_t token = strlen(params.api_token) + 1, server = strlen(params.server) + 1,
           set = strlen(params.document_set_id) + 1;
    task->held = malloc(token + server + set);
    if (task->held == NULL)
        return wq_http_problem(req, 503, "There is no memory for a search."), -1;
    task->params.api_token = memcpy(task->held, params.api_token, token);
    task->params.server = memcpy(task->held + token, params.server, server);
    task->params.document_set_id = memcpy(task->held + token + server, params.document_set_id, set);
    return 0;
}

/* A field of at most size - 1 bytes; nonzero: it is longer, or missing without a fallback. */
static int read_text(h2o_req_t *req, const char *name, const char *fallback, char *out, size_t size)
{
    const char *value = wq_http_query(req, name);
    if (value == NULL)
        value = fallback;
    if (value == NULL || strlen(value) >= size)
        return -1;
    memcpy(out, value, strlen(value) + 1);
    return 0;
}

static int read_number(h2o_req_t *req, const char *name, size_t fallback, size_t *out)
{
    const char *value = wq_http_query(req, name);
    size_t len = value == NULL ? 0 : strlen(value);
    *out = fallback;
    if (value == NULL)
        return 0;
    if (len == 0 || len > 9 || strspn(value, "0123456789") != len)
        return -1;
    *out = strtoul(value, NULL, 10);
    return 0;
}

/* Reads what was asked for; NULL, or a sentence about what is wrong with it. */
static const char *read_query(struct query *query, h2o_req_t *req)
{
    size_t bits;
    if (read_text(req, "q", NULL, query->text, sizeof query->text) != 0)
        return "The field q, the words to search for, is missing or longer than 3000 bytes.";
    if (read_number(req, "limit", DEFAULT_RESULTS, &query->limit) != 0 ||
        read_number(req, "offset", 0, &query->offset) != 0 ||
        read_number(req, "bits", 0, &bits) != 0)
        return "The fields limit, offset and bits must be numbers.";
    if (query->limit > QUERY_MAX_RESULTS)
        query->limit = QUERY_MAX_RESULTS;
    query->wants_bits = bits != 0;
    if (read_text(req, "open", "[", query->open, sizeof query->open) != 0 ||
        read_text(req, "close", "]", query->close, sizeof query->close) != 0)
        return "The fields open and close, the marks around a match, have at most 16 bytes.";
    return NULL;
}

/* Whether it waits or runs, a thread ends it soon. */
static void stop_task(struct search *search, struct task *task)
{
    task->stop = 1;
    watch_wake(search->watch);
    pthread_mutex_lock(&search->lock);
    task->fd = -1;
    pthread_cond_signal(&search->work);
    pthread_mutex_unlock(&search->lock);
}

static void on_request_gone(void *pointer)
{
    struct guard *guard = pointer;
    struct task *task = guard->task;
    if (task == NULL)
        return;
    task->guard = NULL;
    stop_task(task->loop->search, task);
}

static int send_task(struct search *search, struct task *task, h2o_req_t *req)
{
    task->fd = h2o_socket_get_fd(req->conn->callbacks->get_socket(req->conn));
    if (add_task(search, task) != 0) {
        free_task(task);
        plugin_header(req, "retry-after", "2");
        return wq_http_problem(req, 503, "Too many searches are waiting; try again later.");
    }
    task->guard = h2o_mem_alloc_shared(&req->pool, sizeof *task->guard, on_request_gone);
    *task->guard = (struct guard){req, task};
    return 0;
}

static int on_request(h2o_handler_t *handler, h2o_req_t *req)
{
    const struct search_handler *route = (struct search_handler *)handler;
    struct search *search = route->search;
    if (req->path_normalized.len != strlen(route->path))
        return wq_http_problem(req, 404, "There is nothing at this path.");
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    struct task *task = calloc(1, sizeof *task);
    if (task == NULL)
        return wq_http_problem(req, 503, "There is no memory for a search.");
    if (keep_params(search->plugin, req, task) != 0) {
        free_task(task);
        return 0;
    }
    plugin_header(req, "cache-control", "no-store");
    task->is_about_index = strcmp(route->path, INDEX_PATH) == 0;
    const char *wrong = task->is_about_index ? NULL : read_query(&task->query, req);
    if (wrong != NULL) {
        free_task(task);
        return wq_http_problem(req, 400, wrong);
    }
    task->query.stop = &task->stop;
    task->query.is_gone = is_gone;
    task->query.user = task;
    task->query.watch = search->watch;
    task->loop = h2o_context_get_handler_context(req->conn->ctx, handler);
    return send_task(search, task, req);
}

/* ---- the whole ---- */

struct search *search_open(struct plugin *plugin)
{
    struct search *search = calloc(1, sizeof *search);
    if (search == NULL)
        return NULL;
    curl_global_init(CURL_GLOBAL_DEFAULT); /* while there is one thread */
    search->plugin = plugin;
    search->last = &search->waiting;
    pthread_mutex_init(&search->lock, NULL);
    pthread_cond_init(&search->work, NULL);
    pthread_cond_init(&search->idle, NULL);
    search->watch = watch_open();
    while (search->watch != NULL && search->n_threads < THREADS &&
           pthread_create(&search->threads[search->n_threads], NULL, thread_main, search) == 0)
        search->n_threads++;
    if (search->n_threads > 0)
        return search;
    search_close(search);
    return NULL;
}

static void add_route(struct search *search, h2o_hostconf_t *host, const char *path)
{
    h2o_pathconf_t *conf = h2o_config_register_path(host, path, 0);
    struct search_handler *handler =
        (struct search_handler *)h2o_create_handler(conf, sizeof *handler);
    handler->super.on_req = on_request;
    handler->super.on_context_init = on_context_init;
    handler->super.on_context_dispose = on_context_dispose;
    handler->search = search;
    handler->path = path;
}

void search_routes(struct search *search, h2o_hostconf_t *host)
{
    add_route(search, host, SEARCH_PATH);
    add_route(search, host, INDEX_PATH);
}

void search_stop(struct search *search)
{
    pthread_mutex_lock(&search->lock);
    search->stopping = 1;
    for (struct task *task = search->waiting; task != NULL; task = task->next)
        task->stop = 1;
    for (size_t i = 0; i < THREADS; i++)
        if (search->running[i] != NULL)
            search->running[i]->stop = 1;
    pthread_cond_broadcast(&search->work);
    pthread_mutex_unlock(&search->lock);
    if (search->watch != NULL)
        watch_wake(search->watch);
}

void search_close(struct search *search)
{
    if (search == NULL)
        return;
    search_stop(search);
    for (size_t i = 0; i < search->n_threads; i++)
        pthread_join(search->threads[i], NULL);
    watch_close(search->watch);
    pthread_cond_destroy(&search->idle);
    pthread_cond_destroy(&search->work);
    pthread_mutex_destroy(&search->lock);
    free(search);
}
