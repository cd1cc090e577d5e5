/* routes.c - which path is which face, and the life of a mounted set of faces. */
#include <stdlib.h>
#include <string.h>

#include "workqueue/http/faces.h"
#include "workqueue/http/problem.h"

static const struct {
    const char *path;
    int (*answer)(wq_http *http, h2o_req_t *req);
} routes[] = {
    {"/generate", wq_face_generate},
};

/* libh2o hands every path that begins like a route's to it; only the whole one is ours. */
static int on_req(h2o_handler_t *handler, h2o_req_t *req)
{
    wq_route *route = (wq_route *)handler;
    if (!h2o_memis(req->path_normalized.base, req->path_normalized.len, route->path,
                   strlen(route->path)))
        return -1;
    return route->answer(route->http, req);
}

static void add_routes(wq_http *http, h2o_hostconf_t *host)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        h2o_pathconf_t *path = h2o_config_register_path(host, routes[i].path, 0);
        wq_route *route = (wq_route *)h2o_create_handler(path, sizeof *route);
        route->super.on_req = on_req;
        route->http = http;
        route->path = routes[i].path;
        route->answer = routes[i].answer;
        if (i == 0)
            wq_loops_attach(http, route);
    }
}

unsigned wq_retry_after_s(wq_queue *queue)
{
    wq_stats stats;
    wq_queue_stats(queue, &stats);
    uint64_t s = (stats.mean_run_ms / stats.workers + 999) / 1000;
    return s < 1 ? 1 : s > 3600 ? 3600 : (unsigned)s;
}

/* ---- mount --------------------------------------------------------------------------------------
 */

void wq_http_options_init(wq_http_options *options, size_t size)
{
    memset(options, 0, size);
    if (size != sizeof *options)
        return;
    options->size = size;
    options->heartbeat_ms = 15000;
    options->stall_timeout_ms = 30000;
    options->max_streams = 100000;
    options->max_body_bytes = 1 << 20;
}

static int copy_servers(wq_http *http, const wq_http_options *options)
{
    size_t n = options->n_allow_servers;
    if (n == 0)
        return 0;
    http->limits.allow_servers = calloc(n, sizeof(char *));
    if (http->limits.allow_servers == NULL)
        return -1;
    for (; http->limits.n_allow_servers < n; http->limits.n_allow_servers++) {
        char *copy = strdup(options->allow_servers[http->limits.n_allow_servers]);
        if (copy == NULL)
            return -1;
        http->limits.allow_servers[http->limits.n_allow_servers] = copy;
    }
    return 0;
}

static int fail(wq_error *error, int code, const char *sentence)
{
    if (error != NULL) {
        error->code = code;
        snprintf(error->message, sizeof error->message, "%s", sentence);
    }
    return code;
}

int wq_http_mount(wq_http **out, h2o_hostconf_t *host, wq_queue *queue,
                  const wq_http_options *options, wq_error *error)
{
    if (options->size != sizeof *options)
        return fail(error, WQ_ERROR_INVALID_ARGUMENT,
                    "http options: fill them with wq_http_options_init()");
    if (options->stall_timeout_ms == 0 || options->max_body_bytes == 0)
        return fail(error, WQ_ERROR_INVALID_ARGUMENT,
                    "http options: stall_timeout_ms and max_body_bytes must not be 0");
    wq_http *http = calloc(1, sizeof *http);
    if (http == NULL)
        return fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    http->queue = queue;
    http->options = *options;
    http->options.allow_servers = NULL;
    http->limits.max_body_bytes = options->max_body_bytes;
    pthread_mutex_init(&http->lock, NULL);
    LIST_INIT(&http->loops);
    if (copy_servers(http, options) != 0) {
        wq_http_free(http);
        return fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    add_routes(http, host);
    *out = http;
    return WQ_OK;
}

void wq_http_free(wq_http *http)
{
    if (http == NULL)
        return;
    for (size_t i = 0; i < http->limits.n_allow_servers; i++)
        free(http->limits.allow_servers[i]);
    free(http->limits.allow_servers);
    pthread_mutex_destroy(&http->lock);
    free(http);
}

int wq_http_params(wq_http *http, h2o_req_t *req, wq_params *out)
{
    return wq_request_params(&http->limits, req, out) == 0 ? WQ_OK : WQ_ERROR_INVALID_ARGUMENT;
}
