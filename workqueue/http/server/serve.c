/* serve.c - a whole plugin server: listener, event loops on threads of their own, connection cap,
 * graceful stop.
 *
 * libh2o wants loop, context, listener and sockets made on the thread that runs the loop, because
 * it recycles memory per thread; so each thread sets itself up, and wq_serve() waits until all
 * have. To stop, each loop: closes its listeners; ends idle connections; waits until its
 * connections are gone, at most linger_ms; cuts the rest; disposes of what it made.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "workqueue/http/hold/contexts.h"
#include "workqueue/http/hold/loop.h"
#include "workqueue/http/server/accept.h"
#include "workqueue/http/server/descriptors.h"
#include "workqueue/http/server/fallback.h"
#include "workqueue/http/server/listen.h"
#include "workqueue/http/server/notify.h"
#include "workqueue/util/log.h"

enum { STATUS_MS = 5000 }; /* systemd is told of the queue so often */

typedef struct server_loop {
    wq_server *server;
    pthread_t thread;
    h2o_context_t ctx;
    wq_acceptor acceptor;
    int listen_fds[WQ_MAX_LISTENERS];
    size_t max_connections;
    h2o_multithread_receiver_t receiver;
    h2o_multithread_message_t stop;
    int stopping;
    int64_t stop_by; /* CLOCK_MONOTONIC ms */
    wq_timer tick;
    atomic_llong ticked_at; /* its thread has been at work then */
} server_loop;

struct wq_server {
    wq_queue *queue;
    wq_http *http;
    struct served {
        wq_queue *queue;
        wq_http *http;
    } * more; /* besides; n_more of them */
    size_t n_more;
    h2o_globalconf_t config;
    wq_serve_options options; /* its texts are not kept */
    unsigned n_loops, n_started;
    server_loop *loops;
    wq_listening listening;
    wq_peers *peers;
    unsigned tick_ms, watchdog_ms; /* 0: systemd is told nothing; expects nothing */
    pthread_mutex_t telling;       /* held while loops are told to stop */
    /* under it */
    pthread_cond_t up;
    unsigned n_up; /* loops that can be told something */
};

/* ---- stop, on the loop's thread -------------------------------------------------------------- */

static int fd_of(h2o_req_t *req)
{
    return h2o_socket_get_fd(req->conn->callbacks->get_socket(req->conn));
}

/* A request that has no version yet has not arrived: its connection is idle. But one that the loop
 * has only not come to read is to be answered, and its client would be taken for one that left. */
static int shut_idle(h2o_req_t *req, void *unused)
{
    char byte;
    (void)unused;
    if (req->version == 0 && recv(fd_of(req), &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
        shutdown(fd_of(req), SHUT_RD);
    return 0;
}

static int shut_all(h2o_req_t *req, void *unused)
{
    (void)unused;
    shutdown(fd_of(req), SHUT_RDWR);
    return 0;
}

static void each_connection(server_loop *loop, int (*cb)(h2o_req_t *req, void *data))
{
    loop->ctx.globalconf->http1.callbacks.foreach_request(&loop->ctx, cb, NULL);
}

static void on_stop_message(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    server_loop *loop = H2O_STRUCT_FROM_MEMBER(server_loop, receiver, receiver);
    (void)messages;
    h2o_linklist_unlink(&loop->stop.link); /* the only one there is */
    /* not h2o_context_request_shutdown(): that arms a timer that outlives the context */
    loop->ctx.shutdown_requested = 1;
    loop->stopping = 1;
    loop->stop_by = wq_loop_now() + loop->server->options.linger_ms;
    wq_acceptor_close(&loop->acceptor);
    each_connection(loop, shut_idle);
    wq_context_stop(loop->server->http, &loop->ctx);
    for (size_t i = 0; i < loop->server->n_more; i++)
        wq_context_stop(loop->server->more[i].http, &loop->ctx);
}

static void run_loop(server_loop *loop)
{
    const size_t *n_connections = &loop->acceptor.n_connections;
    while (!loop->stopping)
        h2o_evloop_run(loop->ctx.loop, INT32_MAX);
    while (*n_connections > 0 && wq_loop_now() < loop->stop_by) {
        h2o_evloop_run(loop->ctx.loop, 20);
        each_connection(loop, shut_idle); /* those that have become idle since */
    }
    each_connection(loop, shut_all);
    wq_context_cut(loop->server->http, &loop->ctx);
    for (size_t i = 0; i < loop->server->n_more; i++)
        wq_context_cut(loop->server->more[i].http, &loop->ctx);
    for (int i = 0; i < 100 && *n_connections > 0; i++)
        h2o_evloop_run(loop->ctx.loop, 10);
}

/* ---- what systemd is told -------------------------------------------------------------------- */

static int all_loops_tick(const wq_server *server, int64_t now)
{
    for (unsigned i = 0; i < server->n_loops; i++) {
        const long long at = atomic_load(&server->loops[i].ticked_at);
        if (at != 0 && now - at > server->watchdog_ms)
            return 0;
    }
    return 1;
}

/* By the first loop; the watchdog hears of us only while all of them are at work. */
static void tell_systemd(const wq_server *server, int64_t now)
{
    char text[128];
    wq_stats stats;
    wq_queue_stats(server->queue, &stats);
    snprintf(text, sizeof text, "STATUS=%zu running, %zu queued%s", stats.running, stats.queued,
             server->watchdog_ms != 0 && all_loops_tick(server, now) ? "\nWATCHDOG=1" : "");
    wq_notify(text);
}

static void on_tick(wq_timer *timer)
{
    server_loop *loop = H2O_STRUCT_FROM_MEMBER(server_loop, tick, timer);
    const int64_t now = wq_loop_now();
    atomic_store(&loop->ticked_at, now);
    if (loop == loop->server->loops)
        tell_systemd(loop->server, now);
    wq_timer_set(&wq_loop_of_context(loop->server->http, &loop->ctx)->timers, timer,
                 now + loop->server->tick_ms);
}

/* ---- a loop's thread ------------------------------------------------------------------------- */

/* libh2o leaves the loop's own epoll open. Its number stands right behind the public part of the
 * loop; it is closed only if it is an epoll indeed. */
static void destroy_loop(h2o_evloop_t *evloop)
{
    char path[64], target[64];
    int fd;
    memcpy(&fd, evloop + 1, sizeof fd);
    h2o_evloop_destroy(evloop);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = '\0';
    if (strcmp(target, "anon_inode:[eventpoll]") == 0)
        close(fd);
}

static void open_loop(server_loop *loop)
{
    wq_server *server = loop->server;
    wq_timers *timers = &wq_loop_of_context(server->http, &loop->ctx)->timers;
    loop->acceptor = (wq_acceptor){.h2o = {.ctx = &loop->ctx, .hosts = server->config.hosts},
                                   .peers = server->peers,
                                   .max_connections = loop->max_connections};
    wq_guards_init(&loop->acceptor.guards, server->http, timers, server->options.request_timeout_ms,
                   server->options.idle_timeout_ms);
    wq_acceptor_open(&loop->acceptor, loop->listen_fds, server->listening.n);
    loop->tick.fire = on_tick;
    if (server->tick_ms != 0)
        wq_timer_set(timers, &loop->tick, wq_loop_now() + 1);
}

static void *loop_main(void *arg)
{
    server_loop *loop = arg;
    wq_server *server = loop->server;
    const wq_logger logger = {server->options.log, server->options.log_user};
    h2o_evloop_t *evloop = h2o_evloop_create();
    h2o_context_init(&loop->ctx, evloop, &server->config);
    h2o_multithread_register_receiver(loop->ctx.queue, &loop->receiver, on_stop_message);
    open_loop(loop);
    pthread_mutex_lock(&server->telling);
    server->n_up++;
    pthread_cond_signal(&server->up);
    pthread_mutex_unlock(&server->telling);

    run_loop(loop);

    /* libh2o writes to a loop's pipe after the message can be read already: nobody may be about to
     * when the pipe is closed */
    pthread_mutex_lock(&server->telling);
    pthread_mutex_unlock(&server->telling);
    h2o_multithread_unregister_receiver(loop->ctx.queue, &loop->receiver);
    if (loop->acceptor.n_connections > 0)
        wq_log(&logger, WQ_LOG_ERROR, "connections were left at stop");
    h2o_context_dispose(&loop->ctx);
    h2o_evloop_run(evloop, 0); /* frees the sockets that were closed last */
    destroy_loop(evloop);
    return NULL;
}

/* ---- start ----------------------------------------------------------------------------------- */

static void close_copies(server_loop *loop, unsigned n)
{
    while (n > 0)
        close(loop->listen_fds[--n]);
}

static int start_loop(server_loop *loop, const wq_listening *listening, wq_error *error)
{
    sigset_t all, before;
    int r = 0;
    unsigned n = 0;
    for (; n < listening->n && r == 0; n++)
        if ((loop->listen_fds[n] = fcntl(listening->fds[n], F_DUPFD_CLOEXEC, 3)) < 0)
            r = errno;
    n -= r != 0;
    /* Signals are the host's; and a write to a client that left must not raise SIGPIPE. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (r == 0)
        r = pthread_create(&loop->thread, NULL, loop_main, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0) {
        pthread_setname_np(loop->thread, "wq-loop");
        return WQ_OK;
    }
    close_copies(loop, n);
    return wq_fail(error, WQ_ERROR_SYSTEM, "start an event loop: %s", strerror(r));
}

static int start_loops(wq_server *server, wq_error *error)
{
    int result = WQ_OK;
    size_t max = server->options.max_connections, n = server->n_loops;
    if (max == 0)
        max = wq_room_for_connections(server->queue);
    server->peers = wq_peers_new(server->options.max_connections_per_peer, max);
    if (server->peers == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    /* all of them before the first one starts, which looks at the others */
    for (unsigned i = 0; i < n; i++)
        server->loops[i] =
            (server_loop){.server = server, .max_connections = max / n + (max % n != 0)};
    for (unsigned i = 0; i < n && result == WQ_OK; i++) {
        result = start_loop(&server->loops[i], &server->listening, error);
        server->n_started += result == WQ_OK;
    }
    pthread_mutex_lock(&server->telling);
    while (server->n_up < server->n_started)
        pthread_cond_wait(&server->up, &server->telling);
    pthread_mutex_unlock(&server->telling);
    return result;
}

/* ---- the public functions -------------------------------------------------------------------- */

void wq_serve_options_init(wq_serve_options *options, size_t size)
{
    memset(options, 0, size);
    if (size != sizeof *options)
        return;
    options->size = size;
    options->listen = "127.0.0.1:8080";
    options->loops = 2;
    options->request_timeout_ms = 10000;
    options->idle_timeout_ms = 75000;
    options->linger_ms = 5000;
    wq_http_options_init(&options->http, sizeof options->http);
}

/* libh2o cuts a connection whose body is beyond its limit; ours is below, with an answer. */
static size_t cut_bodies_at(size_t max_body_bytes)
{
    enum { MORE = 65536 };
    return max_body_bytes < (SIZE_MAX - MORE) / 2 ? max_body_bytes * 2 + MORE : SIZE_MAX;
}

/* The guard knows the limit of each wait; libh2o, which has one for all, comes later. */
static unsigned longest_wait(const wq_serve_options *options)
{
    const unsigned a = options->request_timeout_ms, b = options->idle_timeout_ms, more = 1000;
    const unsigned longer = a > b ? a : b;
    return longer < UINT32_MAX - more ? longer + more : longer;
}

/* Nothing is left of one that cannot be mounted. */
static int mount_more(wq_server *server, h2o_hostconf_t *host, const wq_serve_options *options,
                      wq_error *error)
{
    if (options->n_more == 0)
        return WQ_OK;
    server->more = calloc(options->n_more, sizeof *server->more);
    if (server->more == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < options->n_more; i++) {
        struct served *served = &server->more[i];
        served->queue = options->more[i].queue;
        int result =
            wq_http_mount(&served->http, host, served->queue, &options->more[i].http, error);
        if (result != WQ_OK)
            return result;
        server->n_more++;
    }
    return WQ_OK;
}

static int configure(wq_server *server, const wq_serve_options *options, wq_error *error)
{
    h2o_globalconf_t *config = &server->config;
    h2o_hostconf_t *host =
        h2o_config_register_host(config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    config->server_name.len = 0;
    config->max_request_entity_size = cut_bodies_at(options->http.max_body_bytes);
    config->http1.req_timeout = longest_wait(options);
    config->http1.upgrade_to_http2 = 0;
    int result = wq_http_mount(&server->http, host, server->queue, &options->http, error);
    if (result == WQ_OK)
        result = mount_more(server, host, options, error);
    if (result != WQ_OK)
        return result;
    if (options->routes != NULL)
        options->routes(options->user, server->http, host);
    wq_fallback_add(host);
    wq_guard_host(host);
    return WQ_OK;
}

static void stop_loops(wq_server *server)
{
    pthread_mutex_lock(&server->telling);
    for (unsigned i = 0; i < server->n_started; i++)
        h2o_multithread_send_message(&server->loops[i].receiver, &server->loops[i].stop);
    pthread_mutex_unlock(&server->telling);
    for (unsigned i = 0; i < server->n_started; i++)
        pthread_join(server->loops[i].thread, NULL);
}

static void free_server(wq_server *server)
{
    wq_listening_close(&server->listening);
    wq_http_free(server->http);
    for (size_t i = 0; i < server->n_more; i++)
        wq_http_free(server->more[i].http);
    free(server->more);
    h2o_config_dispose(&server->config);
    wq_peers_free(server->peers);
    pthread_cond_destroy(&server->up);
    pthread_mutex_destroy(&server->telling);
    free(server->loops);
    free(server);
}

static int open_listeners(wq_server *server, const wq_serve_options *options, wq_error *error)
{
    int result = WQ_OK;
    if (options->listen != NULL)
        result = wq_listen(&server->listening, options->listen, error);
    for (size_t i = 0; i < options->n_listen_also && result == WQ_OK; i++)
        result = wq_listen(&server->listening, options->listen_also[i], error);
    return result;
}

static int check_options(const wq_serve_options *options, wq_error *error)
{
    if (options->size != sizeof *options)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "serve options: fill them with wq_serve_options_init()");
    if (options->loops < 1 || options->loops > 64 ||
        (options->listen == NULL && options->n_listen_also == 0))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "serve options: loops must be from 1 to 64, and listen must be set");
    if (options->request_timeout_ms == 0 || options->idle_timeout_ms == 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "serve options: request_timeout_ms and idle_timeout_ms must not be 0");
    return WQ_OK;
}

static void plan_ticks(wq_server *server)
{
    if (!server->options.notify_systemd)
        return;
    server->watchdog_ms = wq_watchdog_ms();
    server->tick_ms = STATUS_MS;
    if (server->watchdog_ms != 0 && server->watchdog_ms / 3 < STATUS_MS)
        server->tick_ms = server->watchdog_ms / 3 + 1;
}

/* NULL: no memory. */
static wq_server *new_server(wq_queue *queue, const wq_serve_options *options)
{
    wq_server *server = calloc(1, sizeof *server);
    if (server == NULL || (server->loops = calloc(options->loops, sizeof(server_loop))) == NULL) {
        free(server);
        return NULL;
    }
    server->queue = queue;
    server->n_loops = options->loops;
    server->options = *options;
    pthread_mutex_init(&server->telling, NULL);
    pthread_cond_init(&server->up, NULL);
    h2o_config_init(&server->config);
    plan_ticks(server);
    return server;
}

int wq_serve(wq_server **out, wq_queue *queue, const wq_serve_options *options, wq_error *error)
{
    int result = check_options(options, error);
    if (result != WQ_OK)
        return result;
    wq_server *server = new_server(queue, options);
    if (server == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    result = configure(server, options, error);
    if (result == WQ_OK)
        result = open_listeners(server, options, error);
    if (result == WQ_OK)
        result = wq_check_room_for_loops(server->n_loops, error);
    if (result == WQ_OK)
        result = start_loops(server, error);
    wq_listening_leave(&server->listening); /* each loop has its own */
    if (result != WQ_OK) {
        stop_loops(server);
        free_server(server);
        return result;
    }
    if (options->notify_systemd)
        wq_notify("READY=1");
    *out = server;
    return WQ_OK;
}

const char *wq_server_address(const wq_server *server)
{
    return server->listening.address;
}

void wq_server_stop(wq_server *server)
{
    if (server == NULL)
        return;
    if (server->options.notify_systemd)
        wq_notify("STOPPING=1\nSTATUS=stopping");
    wq_stop(server->queue);
    for (size_t i = 0; i < server->n_more; i++)
        wq_stop(server->more[i].queue);
    stop_loops(server);
    free_server(server);
}
