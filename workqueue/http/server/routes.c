/* routes.c - which path is which face, and the life of a mounted set of faces. */
#include "workqueue/http/server/routes.h"

#include <stdlib.h>
#include <string.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/hold/contexts.h"
#include "workqueue/http/hold/timers.h"
#include "workqueue/http/hold/work.h"
#include "workqueue/http/request/problem.h"
#include "workqueue/http/request/slim.h"
#include "workqueue/http/request/url.h"

/* A path that ends in '/' stands for all below it; NULL: http->options.tasks_path. */
static const struct {
    const char *path;
    wq_face_fn answer;
} routes[] = {
    {"/generate", wq_face_generate},
    {"/start_work", wq_face_start_work},
    {"/work/", wq_face_work},
    {"/run", wq_face_run},
    {"/api/lunkwill/", wq_face_lunkwill},
    {NULL, wq_face_tasks},
    {"/jobs/", wq_face_jobs},
    {"/stats", wq_face_stats},
    {"/outputs/", wq_face_outputs},
    {"/metrics", wq_face_metrics},
    {"/health", wq_face_health},
    {"/output", wq_face_output},
};

/* libh2o tries no other path after one that has declined, and its own 404 is no problem document.
 */
static int nothing_here(h2o_req_t *req)
{
    if (wq_is_method(req, "OPTIONS"))
        return wq_method(req, "OPTIONS"), 0;
    return wq_problem(req, 404, "There is nothing at this path.");
}

/* Where another server in front reads it the other way, what follows may be somebody else's request
 * in disguise: nothing more is read from there. */
static int refuse_ambiguous(h2o_req_t *req)
{
    req->http1_is_persistent = 0;
    return wq_problem(req, 400, "The request says more than once how long its body is.");
}

/* The path of a request, in which a doubled or a final slash changes nothing. */
static h2o_iovec_t path_of(h2o_req_t *req)
{
    h2o_iovec_t path = req->path_normalized;
    if (path.len > 1 &&
        (path.base[path.len - 1] == '/' || memmem(path.base, path.len, "//", 2) != NULL)) {
        char *at = h2o_mem_alloc_pool(&req->pool, path.len), *begin = at;
        for (size_t i = 0; i < path.len; i++)
            if (path.base[i] != '/' || at == begin || at[-1] != '/')
                *at++ = path.base[i];
        path = h2o_iovec_init(begin, (size_t)(at - begin));
        path.len -= path.len > 1 && begin[path.len - 1] == '/';
    }
    return path;
}

/* Only the whole path of a route is ours, or, where the route ends in '/', what is below; the path
 * without that slash is as good as with it. */
static int is_path_of(const wq_route *route, h2o_iovec_t path, h2o_iovec_t *rest)
{
    size_t n = strlen(route->path), above = route->http->mount_len;
    int below = route->path[n - 1] == '/';
    *rest = h2o_iovec_init(NULL, 0);
    if (path.len < above ||
        (above > 0 && memcmp(path.base, route->http->options.mount_path, above) != 0))
        return 0;
    path = h2o_iovec_init(path.base + above, path.len - above);
    if (below && path.len > n && memcmp(path.base, route->path, n) == 0)
        *rest = h2o_iovec_init(path.base + n, path.len - n);
    return rest->len > 0 || h2o_memis(path.base, path.len, route->path, n - (size_t)below);
}

/* libh2o hands every path that begins like a route's to it. */
static int on_req(h2o_handler_t *handler, h2o_req_t *req)
{
    wq_route *route = (wq_route *)handler;
    h2o_iovec_t rest;
    wq_request_slim_head(req); /* before anything points to it */
    if (!is_path_of(route, path_of(req), &rest))
        return nothing_here(req);
    if (req->entity.base != NULL && wq_request_is_ambiguous(req))
        return refuse_ambiguous(req);
    return route->answer(route->http, req, rest);
}

/* libh2o finds no route for "//generate", as it compares paths from their beginning. */
int wq_route_anyway(h2o_req_t *req)
{
    h2o_iovec_t path = path_of(req), rest;
    for (size_t i = 0; i < req->hostconf->paths.size; i++) {
        h2o_pathconf_t *conf = &req->hostconf->paths.entries[i];
        for (size_t k = 0; k < conf->handlers.size; k++) {
            h2o_handler_t *handler = conf->handlers.entries[k];
            if (handler->on_req != on_req || !is_path_of((wq_route *)handler, path, &rest))
                continue;
            req->pathconf = conf;
            return on_req(handler, req);
        }
    }
    return -1;
}

static void add_route(wq_http *http, h2o_hostconf_t *host, const char *name, wq_face_fn answer)
{
    size_t n = strlen(name);
    h2o_iovec_t bare = h2o_concat(
        NULL, h2o_iovec_init(http->mount_len ? http->options.mount_path : "", http->mount_len),
        h2o_iovec_init(name, name[n - 1] == '/' ? n - 1 : n));
    h2o_pathconf_t *path = h2o_config_register_path(host, bare.base, 0); /* copies it */
    free(bare.base);
    wq_route *route = (wq_route *)h2o_create_handler(path, sizeof *route);
    route->super.on_req = on_req;
    route->http = http;
    route->path = name;
    route->answer = answer;
    if (http->anchor == NULL)
        wq_contexts_attach(http, route);
}

static void add_routes(wq_http *http, h2o_hostconf_t *host)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
        add_route(http, host, routes[i].path ? routes[i].path : http->options.tasks_path,
                  routes[i].answer);
}

/* ---- mount ----------------------------------------------------------------------------------- */

void wq_http_options_init(wq_http_options *options, size_t size)
{
    memset(options, 0, size);
    if (size != sizeof *options)
        return;
    options->size = size;
    options->heartbeat_ms = 15000;
    options->stall_timeout_ms = 30000;
    options->max_streams = 100000;
    options->max_body_bytes = 65536;
    options->hold_ms = 25000;
    options->tasks_window_ms = 300000;
    options->result_type = "application/octet-stream";
    options->tasks_path = "/api/tasks";
    options->lunkwill_patience_ms = 180000;
}

static int fail_mount(wq_error *error, int code, const char *sentence)
{
    if (error != NULL) {
        error->code = code;
        snprintf(error->message, sizeof error->message, "%s", sentence);
    }
    return code;
}

static int copy_text(const char **text)
{
    if (*text != NULL && (*text = strdup(*text)) == NULL)
        return -1;
    return 0;
}

/* Stored with the slash at its end that makes a route stand for all below it. */
static int copy_path(const char **path)
{
    char *copy;
    size_t n = strlen(*path);
    int slash = n > 0 && (*path)[n - 1] == '/';
    if (asprintf(&copy, "%s%s", *path, slash ? "" : "/") < 0)
        copy = NULL;
    *path = copy;
    return copy ? 0 : -1;
}

static int copy_options(wq_http *http, const wq_http_options *options, wq_error *error)
{
    wq_http_options *own = &http->options;
    own->allow_servers = NULL;
    own->n_allow_servers = 0;
    if (copy_text(&own->result_type) | copy_path(&own->tasks_path) |
        copy_text(&own->operator_secret) | copy_text(&own->path_prefix) |
        copy_text(&own->mount_path) | copy_text(&own->program_name))
        return fail_mount(error, WQ_ERROR_NO_MEMORY, "out of memory");
    http->mounted_s = wq_loop_now() / 1000;
    http->mount_len = own->mount_path ? strlen(own->mount_path) : 0;
    own->trust_proxies = NULL;
    int result =
        wq_allow_new(&http->limits.allow, options->allow_servers, options->n_allow_servers, error);
    return result != WQ_OK ? result
                           : wq_proxies_new(&http->proxies, options->trust_proxies,
                                            options->n_trust_proxies, error);
}

int wq_http_mount(wq_http **out, h2o_hostconf_t *host, wq_queue *queue,
                  const wq_http_options *options, wq_error *error)
{
    wq_stats stats;
    if (options->size != sizeof *options)
        return fail_mount(error, WQ_ERROR_INVALID_ARGUMENT,
                          "http options: fill them with wq_http_options_init()");
    if (options->mount_path != NULL &&
        (options->mount_path[0] != '/' ||
         options->mount_path[strlen(options->mount_path) - 1] == '/'))
        return fail_mount(
            error, WQ_ERROR_INVALID_ARGUMENT,
            "http options: mount_path must be a path such as /scans, without a final slash");
    if (options->result_type == NULL || options->tasks_path == NULL ||
        options->tasks_path[0] != '/' || options->tasks_path[1] == '\0')
        return fail_mount(error, WQ_ERROR_INVALID_ARGUMENT,
                          "http options: result_type must be set, and tasks_path a path such as "
                          "/api/tasks");
    if (options->path_prefix != NULL &&
        !wq_is_prefix(options->path_prefix, strlen(options->path_prefix)))
        return fail_mount(
            error, WQ_ERROR_INVALID_ARGUMENT,
            "http options: path_prefix must be a path such as /queue, without a final slash");
    if (options->stall_timeout_ms == 0 || options->max_body_bytes == 0)
        return fail_mount(error, WQ_ERROR_INVALID_ARGUMENT,
                          "http options: stall_timeout_ms and max_body_bytes must not be 0");
    wq_http *http = calloc(1, sizeof *http);
    if (http == NULL)
        return fail_mount(error, WQ_ERROR_NO_MEMORY, "out of memory");
    http->queue = queue;
    http->options = *options;
    http->limits.max_body_bytes = options->max_body_bytes;
    http->limits.any_server = options->any_server;
    pthread_mutex_init(&http->lock, NULL);
    LIST_INIT(&http->loops);
    wq_inboxes_init(&http->inboxes);
    int result = copy_options(http, options, error);
    if (result != WQ_OK) {
        wq_http_free(http);
        return result;
    }
    http->lunkwill = wq_lunkwill_new(http);
    http->tasks = wq_tasks_new(queue);
    http->threads = wq_threads_new(http);
    http->asks = wq_asks_new();
    http->holders = wq_peers_new(options->max_streams_per_peer, options->max_streams);
    wq_queue_stats(queue, &stats);
    http->has_journal = stats.has_journal;
    http->asks_block = stats.has_journal || wq_outputs_block(queue);
    if (http->lunkwill == NULL || http->tasks == NULL || http->threads == NULL ||
        http->asks == NULL || http->holders == NULL) {
        wq_http_free(http);
        return fail_mount(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    add_routes(http, host);
    *out = http;
    return WQ_OK;
}

void wq_http_free(wq_http *http)
{
    if (http == NULL)
        return;
    wq_asks_free(http->asks); /* first: answers that come yet are told to tasks */
    wq_lunkwill_free(http->lunkwill);
    wq_tasks_free(http->tasks);
    wq_threads_free(http->threads);
    wq_allow_free(http->limits.allow);
    wq_proxies_free(http->proxies);
    wq_peers_free(http->holders);
    free((char *)http->options.result_type);
    free((char *)http->options.tasks_path);
    free((char *)http->options.operator_secret);
    wq_inboxes_destroy(&http->inboxes);
    free((char *)http->options.path_prefix);
    free((char *)http->options.mount_path);
    free((char *)http->options.program_name);
    pthread_mutex_destroy(&http->lock);
    free(http);
}

int wq_http_params(wq_http *http, h2o_req_t *req, wq_params *out)
{
    return wq_request_params(&http->limits, req, out, NULL) == 0 ? WQ_OK
                                                                 : WQ_ERROR_INVALID_ARGUMENT;
}
