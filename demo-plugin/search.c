/* search.c - GET /search and GET /index.
 *
 * A search in a large set takes longer than an event loop may be held up, which carries the streams
 * of everybody else, and so may the look for the database, if it is in a store across a network. So
 * both are work for the threads of the faces:
 *
 *     loop: on_request ─► wq_http_work ─► thread: do_task: its turn, query_run ─► loop: end_task:
 * answer
 *
 * Of one API token one search runs at a time; a few more wait for their turn, and the rest are told
 * to come again, so that whoever asks for much delays nobody else. */
#include "search.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "fresh.h"
#include "query.h"

enum { OF_ONE_TOKEN = 6, DEFAULT_RESULTS = 20, LOOK_EVERY_MS = 20, PATIENCE_MS = 200 };

struct task {
    struct search *search;
    struct task *next; /* in search->tasks */
    wq_http_task *work;
    atomic_int stop;  /* nobody waits for the answer any more */
    wq_params params; /* in held */
    char *held;
    int is_about_index; /* GET /index */
    struct query query;
};

struct search {
    struct plugin *plugin;
    struct watch *watch;
    pthread_mutex_t lock;
    pthread_cond_t turn; /* a task has left */
    struct task *tasks;  /* that threads have, the oldest first; under lock */
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

static void refuse(struct query *query, int status, const char *problem)
{
    query->status = status;
    query->problem = problem;
}

/* ---- turns ---- */

static int is_gone(void *user)
{
    const struct task *task = user;
    return wq_http_gone(task->work);
}

/* How many of the token's tasks that somebody waits for are older. */
static int count_older_locked(const struct search *search, const struct task *task)
{
    int n = 0;
    for (const struct task *t = search->tasks; t != NULL && t != task; t = t->next)
        n += strcmp(t->params.api_token, task->params.api_token) == 0 && !wq_http_gone(t->work);
    return n;
}

/* Whether no other task of the token is before it, not even one that is ending for nobody. */
static int is_first_locked(const struct search *search, const struct task *task)
{
    for (const struct task *t = search->tasks; t != task; t = t->next)
        if (strcmp(t->params.api_token, task->params.api_token) == 0)
            return 0;
    return 1;
}

static void wait_for_news_locked(struct search *search)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_EVERY_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&search->turn, &search->lock, &until);
}

/* Waits until it is the task's turn. Nonzero: it will not be. Either way leave(). */
static int enter(struct task *task)
{
    struct search *search = task->search;
    struct task **at;
    pthread_mutex_lock(&search->lock);
    for (at = &search->tasks; *at != NULL;)
        at = &(*at)->next;
    *at = task;
    /* Who has left may not have been seen to leave yet. */
    const int64_t patience_ms = clock_ms() + PATIENCE_MS;
    while (count_older_locked(search, task) >= OF_ONE_TOKEN && !is_gone(task) &&
           clock_ms() < patience_ms)
        wait_for_news_locked(search);
    int too_many = count_older_locked(search, task) >= OF_ONE_TOKEN;
    while (!too_many && !is_first_locked(search, task) && !is_gone(task))
        wait_for_news_locked(search);
    pthread_mutex_unlock(&search->lock);
    if (too_many)
        refuse(&task->query, 503, "This API token has other searches under way; try again later.");
    return too_many || is_gone(task);
}

static void leave(struct task *task)
{
    struct search *search = task->search;
    pthread_mutex_lock(&search->lock);
    struct task **at = &search->tasks;
    while (*at != task)
        at = &(*at)->next;
    *at = task->next;
    pthread_cond_broadcast(&search->turn);
    pthread_mutex_unlock(&search->lock);
}

/* ---- the work ---- */

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

static void look_at_index(struct task *task)
{
    struct query *query = &task->query;
    query->status = fresh_look(&query->body, query->path, &task->params, &task->stop);
    if (query->status == 422)
        refuse(query, 422, "The output for this document set is no index that can be searched.");
    else if (query->status != 200)
        refuse(query, query->status, "The index of this document set cannot be read.");
}

/* On a thread. */
static void do_task(void *user, wq_http_task *work)
{
    struct task *task = user;
    task->work = work;
    if (enter(task) == 0 && find_database(task->search->plugin->queue, task) == WQ_OK) {
        if (task->is_about_index)
            look_at_index(task);
        else
            query_run(&task->query);
    }
    leave(task);
}

/* Answers the request, unless it has gone. */
static void end_task(void *user, h2o_req_t *req)
{
    struct task *task = user;
    const struct query *query = &task->query;
    if (req != NULL) {
        if (query->status == 503)
            plugin_header(req, "retry-after", "2");
        if (query->problem != NULL)
            wq_http_problem(req, query->status, query->problem);
        else
            wq_http_send(req, 200, "application/json", query->body.data, query->body.len);
    }
    free_task(task);
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
    task->search = search;
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
    if (wq_http_work(search->plugin->http, req, do_task, end_task, task) != WQ_OK)
        free_task(task);
    return 0;
}

/* ---- the whole ---- */

struct search *search_open(struct plugin *plugin)
{
    pthread_condattr_t monotonic;
    struct search *search = calloc(1, sizeof *search);
    if (search == NULL)
        return NULL;
    curl_global_init(CURL_GLOBAL_DEFAULT); /* while there is one thread */
    search->plugin = plugin;
    pthread_mutex_init(&search->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&search->turn, &monotonic);
    pthread_condattr_destroy(&monotonic);
    search->watch = watch_open();
    if (search->watch != NULL)
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
    handler->search = search;
    handler->path = path;
}

void search_routes(struct search *search, h2o_hostconf_t *host)
{
    add_route(search, host, SEARCH_PATH);
    add_route(search, host, INDEX_PATH);
}

void search_close(struct search *search)
{
    if (search == NULL)
        return;
    watch_close(search->watch);
    pthread_cond_destroy(&search->turn);
    pthread_mutex_destroy(&search->lock);
    free(search);
}
