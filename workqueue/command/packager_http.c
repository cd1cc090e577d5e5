/* packager_http.c - GET /metrics and /health of a packager, by the server that `workqueue serve`
 * is, so that its rules for connections and requests hold here, too. Its faces are out of the way,
 * below a path of their own, and no server is allowed there: a job that is asked for here would run
 * without a lease. */
#include "workqueue/command/packager_http.h"

#include <h2o.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/remote/metrics.h"

struct packager_http {
    wq_server *server;
    void (*sum)(void *user, wq_packager_stats *stats);
    void *user;
};

typedef struct packager_route {
    h2o_handler_t handler; /* first: libh2o's */
    packager_http *http;
} packager_route;

/* Like a server's: it goes on, whatever is wrong, and says what that is. */
static void write_health(FILE *out, const wq_packager_stats *stats)
{
    const char *between = "";
    fprintf(out, "{\"status\":\"ok\",\"running\":%u,\"problems\":[", stats->running);
    if (!stats->is_connected) {
        fputs("\"The broker is away.\"", out);
        between = ",";
    }
    if (stats->is_away)
        fprintf(out, "%s\"The store cannot be used, so no jobs are taken.\"", between);
    fputs("]}\n", out);
}

static int answer_packager(h2o_handler_t *handler, h2o_req_t *req)
{
    const packager_http *http = ((packager_route *)handler)->http;
    const int is_metrics =
        h2o_memis(req->path_normalized.base, req->path_normalized.len, H2O_STRLIT("/metrics"));
    wq_packager_stats stats;
    char *text = NULL;
    size_t size;
    if (!is_metrics &&
        !h2o_memis(req->path_normalized.base, req->path_normalized.len, H2O_STRLIT("/health")))
        return wq_http_problem(req, 404, "A packager has /metrics and /health.");
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    FILE *out = open_memstream(&text, &size);
    http->sum(http->user, &stats);
    if (out != NULL && is_metrics)
        wq_packager_write_rows(out, &stats);
    else if (out != NULL)
        write_health(out, &stats);
    if (out == NULL || fclose(out) != 0) {
        free(text);
        return wq_http_problem(req, 500, "There is no memory for the answer.");
    }
    wq_http_send(req, 200, is_metrics ? "text/plain; version=0.0.4" : "application/json", text,
                 size);
    free(text);
    return 0;
}

static void add_route(void *user, wq_http *faces, h2o_hostconf_t *host)
{
    h2o_pathconf_t *path = h2o_config_register_path(host, "/", 0);
    packager_route *route = (packager_route *)h2o_create_handler(path, sizeof *route);
    (void)faces;
    route->handler.on_req = answer_packager;
    route->http = user;
}

int packager_http_open(packager_http **out, wq_queue *queue, const char *listen,
                       void (*sum)(void *user, wq_packager_stats *stats), void *user,
                       wq_error *error)
{
    static const char *const nobody[] = {"http://nobody.invalid"};
    packager_http *http = calloc(1, sizeof *http);
    wq_serve_options options;
    wq_serve_options_init(&options, sizeof options);
    if (http == NULL) {
        snprintf(error->message, sizeof error->message, "%s", wq_strerror(WQ_ERROR_NO_MEMORY));
        return WQ_ERROR_NO_MEMORY;
    }
    http->sum = sum;
    http->user = user;
    options.listen = listen;
    options.http.mount_path = "/faces";
    options.http.allow_servers = nobody;
    options.http.n_allow_servers = 1;
    options.loops = 1;
    options.linger_ms = 100;
    options.routes = add_route;
    options.user = http;
    int result = wq_serve(&http->server, queue, &options, error);
    if (result != WQ_OK) {
        free(http);
        return result;
    }
    *out = http;
    return WQ_OK;
}

const char *packager_http_address(const packager_http *http)
{
    return wq_server_address(http->server);
}

void packager_http_close(packager_http *http)
{
    if (http == NULL)
        return;
    wq_server_stop(http->server);
    free(http);
}
