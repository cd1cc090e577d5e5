/* main.c - demo-plugin: an Overview plugin on workqueue's public headers.
 *
 * The library brings the queue, the server and POST /generate; this adds what is the plugin's own:
 * GET /metadata, GET /show, GET /search and, with --sample, an Overview server to try it with. */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <workqueue/extend.h>

#include "options.h"
#include "pages.h"
#include "plugin.h"
#include "sample.h"
#include "search.h"

/* ---- routes ---- */

struct route {
    h2o_handler_t super;
    struct plugin *plugin;
    int (*handle)(struct plugin *plugin, h2o_req_t *req);
    size_t path_len; /* of a route that has nothing below it; 0: it has */
};

void plugin_header(h2o_req_t *req, const char *name, const char *value)
{
    h2o_set_header_by_str(&req->pool, &req->res.headers, name, strlen(name), 1, value,
                          strlen(value), 1);
}

static int metadata_handle(struct plugin *plugin, h2o_req_t *req)
{
    (void)plugin;
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    plugin_header(req, "cache-control", "max-age=10");
    return wq_http_send(req, 200, "application/json", "{}", 2);
}

static int on_request(h2o_handler_t *handler, h2o_req_t *req)
{
    struct route *route = (struct route *)handler;
    if (route->path_len != 0 && req->path_normalized.len != route->path_len)
        return wq_http_problem(req, 404, "There is nothing at this path.");
    return route->handle(route->plugin, req);
}

static void add_route(struct plugin *plugin, h2o_hostconf_t *host, const char *path, int has_below,
                      int (*handle)(struct plugin *plugin, h2o_req_t *req))
{
    h2o_pathconf_t *conf = h2o_config_register_path(host, path, 0);
    struct route *route = (struct route *)h2o_create_handler(conf, sizeof *route);
    route->super.on_req = on_request;
    route->plugin = plugin;
    route->handle = handle;
    route->path_len = has_below ? 0 : strlen(path);
}

static void add_routes(void *user, wq_http *http, h2o_hostconf_t *host)
{
    struct plugin *plugin = user;
    plugin->http = http;
    add_route(plugin, host, "/metadata", 0, metadata_handle);
    add_route(plugin, host, "/show", 0, pages_show);
    add_route(plugin, host, PAGES_PATH, 1, pages_handle);
    search_routes(plugin->search, host);
    if (plugin->sample != NULL)
        add_route(plugin, host, "/api/v1", 1, sample_handle);
}

/* ---- the process ---- */

/* Our stderr, by a description of its own that does not block; a socket has none, but need not. */
static int log_fd = -1;

static ssize_t write_line(const char *line, size_t n)
{
    return log_fd >= 0 ? write(log_fd, line, n)
                       : send(STDERR_FILENO, line, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Threads that do the work call this: none may wait for whoever reads our stderr, so a line that it
 * has no room for is left out. */
static void on_log(void *user, int level, const char *message)
{
    static const char *const names[] = {"error", "warning", "info"};
    static atomic_ulong n_left_out;
    struct timespec now;
    struct tm utc;
    char line[PIPE_BUF]; /* whole or not at all */
    (void)user;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %s: %s\n", now.tv_nsec / 1000000,
                          names[level < 0 || level > 2 ? 2 : level], message);
    if (write_line(line, n < sizeof line ? n : sizeof line - 1) < 0) {
        atomic_fetch_add(&n_left_out, 1);
    } else if (atomic_load(&n_left_out) > 0) {
        n = (size_t)snprintf(line, sizeof line, "(%lu lines were left out, as nobody read them)\n",
                             atomic_exchange(&n_left_out, 0));
        write_line(line, n);
    }
}

/* If we were started without one of the standard three, the next file or connection would be given
 * its number, and get our log lines. */
static void fill_standard_fds(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

/* As many connections as we may have, not as many as shells usually give. Programs get that: some
 * close, or allocate for, every descriptor that there may be. */
static void raise_open_files(wq_options *queue)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        queue->soft_open_files = (unsigned)limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Blocks the signals that ask us to stop, so that wait_for_signal() gets them, and SIGPIPE, so that
 * a terminal that has gone is no reason to. Threads inherit this; programs are started without. */
static void block_signals(sigset_t *stop)
{
    sigset_t all;
    sigemptyset(stop);
    sigaddset(stop, SIGTERM);
    sigaddset(stop, SIGINT);
    sigaddset(stop, SIGHUP); /* the terminal has gone */
    all = *stop;
    sigaddset(&all, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    /* Who started us may ignore it: then no exit code would be known. */
    (void)signal(SIGCHLD, SIG_DFL);
}

/* Waits for the first; the same one again ends us at once. The other does not: Ctrl-C in a terminal
 * reaches also the shell script that has started us, which may send SIGTERM then. */
static void wait_for_signal(const sigset_t *stop)
{
    sigset_t again;
    int signal_number;
    while (sigwait(stop, &signal_number) != 0)
        continue;
    sigemptyset(&again);
    sigaddset(&again, signal_number);
    pthread_sigmask(SIG_UNBLOCK, &again, NULL);
}

static int refuse(const wq_error *error)
{
    fprintf(stderr, "demo-plugin: %s\n", error->message);
    return 2;
}

/* Whoever can reach us can have us fetch from what we can reach, which may be more. */
static void warn_of_openness(const char *address, const struct options *options)
{
    int is_loopback = strncmp(address, "127.", 4) == 0 || strncmp(address, "unix:", 5) == 0 ||
                      strncmp(address, "[::1]", 5) == 0;
    if (!is_loopback && options->serve.http.n_allow_servers == 0)
        on_log(NULL, WQ_LOG_WARNING,
               "listening beyond loopback without --allow-server: whoever reaches this address can "
               "have it fetch from any server that it reaches, and index it; name your Overview "
               "server by --allow-server");
}

static int serve(struct plugin *plugin, struct options *options, const sigset_t *stop)
{
    wq_server *server;
    wq_error error;
    options->serve.routes = add_routes;
    options->serve.user = plugin;
    options->serve.log = on_log;
    if (wq_serve(&server, plugin->queue, &options->serve, &error) != WQ_OK)
        return refuse(&error);
    printf("listening on %s%s\n",
           strncmp(wq_server_address(server), "unix:", 5) == 0 ? "" : "http://",
           wq_server_address(server));
    fflush(stdout);
    warn_of_openness(wq_server_address(server), options);
    wait_for_signal(stop);
    wq_server_stop(server);
    return 0;
}

/* Where outputs are and where programs run, if that is not here. */
static int go_remote(struct options *options, wq_error *error)
{
    int r = WQ_OK;
    options->s3.log = options->stomp.log = on_log;
    options->s3.cache_dir = options->queue.storage_dir;
    if (options->s3.url != NULL)
        r = wq_s3_store_open(&options->queue.store, &options->s3, error);
    else if (options->store != NULL && options->stomp.urls != NULL)
        r = wq_shared_folder_open(&options->queue.store, options->store, error);
    options->stomp.store = options->queue.store;
    if (r == WQ_OK && options->stomp.urls != NULL)
        r = wq_stomp_runner_open(&options->queue.runner, &options->stomp, error);
    if (r != WQ_OK && options->queue.store != NULL)
        options->queue.store->close(options->queue.store);
    return r;
}

static int run(struct options *options)
{
    struct plugin plugin = {0};
    sigset_t stop;
    wq_error error;
    int r;
    raise_open_files(&options->queue);
    block_signals(&stop);
    options->queue.log = on_log;
    if (options->sample != NULL &&
        sample_open(&plugin.sample, options->sample, on_log, &error) != 0)
        return refuse(&error);
    plugin.search = search_open(&plugin);
    if (plugin.search == NULL) {
        snprintf(error.message, sizeof error.message, "cannot start threads");
        r = refuse(&error);
    } else if (go_remote(options, &error) != WQ_OK ||
               wq_open(&plugin.queue, &options->queue, &error) != WQ_OK) {
        r = refuse(&error);
    } else {
        r = serve(&plugin, options, &stop);
    }
    search_close(plugin.search);
    wq_close(plugin.queue);
    sample_close(plugin.sample);
    return r;
}

int main(int argc, char **argv)
{
    struct options options;
    fill_standard_fds();
    log_fd = open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC);
    wq_leave_process_1();
    int r = options_parse(&options, argc, argv);
    r = r == OPTIONS_RUN ? run(&options) : r == OPTIONS_EXIT ? 0 : 2;
    options_dispose(&options);
    return r;
}
