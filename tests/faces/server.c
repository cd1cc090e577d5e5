/* server.c - a plugin server with the options that the demo does not offer, for the tests of the
 * faces.
 *
 *   face-server PROGRAM STORAGE [NAME=VALUE ...]
 *
 * Prints the address that it listens on, and stops in good order at SIGTERM. With own_host=1 the
 * faces are mounted on an h2o server of its own, as somebody would who has one already; with afar=1
 * outputs are as across a network; with journal=1 there is a journal beside them.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <h2o.h>
#include <h2o/http1.h>
#include <workqueue/http.h>

#include "tests/faces/afar.h"

struct settings {
    wq_options queue;
    wq_serve_options serve;
    unsigned own_host, afar, journal;
    const char *proxy;
};

static void print_log(void *user, int level, const char *message)
{
    (void)user;
    fprintf(stderr, "%d %s\n", level, message);
}

static int set(struct settings *s, const char *name, const char *value)
{
    const size_t size = strtoul(value, NULL, 10);
    const unsigned n = size < UINT_MAX ? (unsigned)size : UINT_MAX;
    const struct {
        const char *name;
        unsigned *to;
    } numbers[] = {
        {"own_host", &s->own_host},
        {"afar", &s->afar},
        {"journal", &s->journal},
        {"workers", &s->queue.workers},
        {"grace_ms", &s->queue.grace_ms},
        {"drain_ms", &s->queue.drain_ms},
        {"loops", &s->serve.loops},
        {"request_timeout_ms", &s->serve.request_timeout_ms},
        {"idle_timeout_ms", &s->serve.idle_timeout_ms},
        {"linger_ms", &s->serve.linger_ms},
        {"heartbeat_ms", &s->serve.http.heartbeat_ms},
        {"stall_timeout_ms", &s->serve.http.stall_timeout_ms},
        {"tasks_window_ms", &s->serve.http.tasks_window_ms},
        {"hold_ms", &s->serve.http.hold_ms},
        {"lunkwill_patience_ms", &s->serve.http.lunkwill_patience_ms},
        {"fair", (unsigned *)&s->queue.fair},
        {"any_server", (unsigned *)&s->serve.http.any_server},
        {"trust_forwarded_prefix", (unsigned *)&s->serve.http.trust_forwarded_prefix},
    };
    const struct {
        const char *name;
        size_t *to;
    } sizes[] = {
        {"max_connections", &s->serve.max_connections},
        {"max_connections_per_peer", &s->serve.max_connections_per_peer},
        {"max_streams", &s->serve.http.max_streams},
        {"max_body_bytes", &s->serve.http.max_body_bytes},
        {"max_queue", &s->queue.max_queue},
        {"max_per_peer", &s->queue.max_per_peer},
        {"max_per_user", &s->queue.max_per_user},
        {"max_streams_per_peer", &s->serve.http.max_streams_per_peer},
    };

    if (strcmp(name, "trust_proxy") == 0) {
        s->proxy = value;
        s->serve.http.trust_proxies = &s->proxy;
        s->serve.http.n_trust_proxies = 1;
        return 0;
    }
    if (strcmp(name, "path_prefix") == 0)
        return (s->serve.http.path_prefix = value, 0);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (strcmp(name, numbers[i].name) == 0)
            return (int)(*numbers[i].to = n, 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (strcmp(name, sizes[i].name) == 0)
            return (int)(*sizes[i].to = size, 0);
    return -1;
}

static int read_arguments(struct settings *s, int argc, char **argv)
{
    for (int i = 3; i < argc; i++) {
        char *equals = strchr(argv[i], '=');

        if (equals == NULL)
            return -1;
        *equals = '\0';
        if (set(s, argv[i], equals + 1) != 0)
            return -1;
    }
    return 0;
}

static void wait_for_term(void)
{
    sigset_t set;
    int got;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigwait(&set, &got);
}

static int serve(const struct settings *s, wq_queue *queue)
{
    wq_server *server;
    wq_error error;

    if (wq_serve(&server, queue, &s->serve, &error) != WQ_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 2;
    }
    printf("listening on http://%s\n", wq_server_address(server));
    fflush(stdout);
    wait_for_term();
    wq_server_stop(server);
    return 0;
}

/* ---- an h2o server of its own: one loop, on a thread ----------------------------------------- */

struct host {
    wq_queue *queue;
    const wq_http_options *options;
    int listen_fd;
    int stop_fds[2]; /* a byte here ends the loop */
    h2o_globalconf_t config;
    h2o_context_t context;
    h2o_accept_ctx_t accept;
    wq_http *http;
    int stopping;
};

static void on_accept(h2o_socket_t *listener, const char *error)
{
    struct host *host = listener->data;
    h2o_socket_t *sock;

    if (error == NULL && (sock = h2o_evloop_socket_accept(listener)) != NULL)
        h2o_accept(&host->accept, sock);
}

static void on_stop(h2o_socket_t *sock, const char *error)
{
    struct host *host = sock->data;

    (void)error;
    h2o_socket_read_stop(sock);
    host->stopping = 1;
    wq_http_stop(host->http);
}

static int shut_idle(h2o_req_t *req, void *user)
{
    (void)user;
    if (req->version == 0) { /* keep-alive without a request */
        h2o_socket_t *sock = req->conn->callbacks->get_socket(req->conn);
        shutdown(h2o_socket_get_fd(sock), SHUT_RD);
    }
    return 0;
}

static int own_handler(h2o_handler_t *handler, h2o_req_t *req)
{
    (void)handler;
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    return wq_http_send(req, 200, "text/plain", "my own\n", 7);
}

static void run_loop(struct host *host)
{
    h2o_loop_t *loop = host->context.loop;
    h2o_socket_t *listener =
        h2o_evloop_socket_create(loop, host->listen_fd, H2O_SOCKET_FLAG_DONT_READ);
    h2o_socket_t *stop =
        h2o_evloop_socket_create(loop, host->stop_fds[0], H2O_SOCKET_FLAG_DONT_READ);

    listener->data = stop->data = host;
    h2o_socket_read_start(listener, on_accept);
    h2o_socket_read_start(stop, on_stop);
    while (!host->stopping)
        h2o_evloop_run(loop, INT32_MAX);
    h2o_socket_read_stop(listener);
    h2o_socket_close(listener);
    h2o_socket_close(stop);
    host->context.shutdown_requested = 1;
    host->config.http1.callbacks.foreach_request(&host->context, shut_idle, NULL);
    while (!h2o_linklist_is_empty(&host->context.http1._conns))
        h2o_evloop_run(loop, 100);
}

static void *host_main(void *user)
{
    struct host *host = user;
    sigset_t pipe;

    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, NULL);
    h2o_context_init(&host->context, h2o_evloop_create(), &host->config);
    host->accept = (h2o_accept_ctx_t){.ctx = &host->context, .hosts = host->config.hosts};
    run_loop(host);
    h2o_context_dispose(&host->context);
    h2o_evloop_destroy(host->context.loop);
    return NULL;
}

static int listen_somewhere(unsigned *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)&address, len) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        abort();
    *port = ntohs(address.sin_port);
    return fd;
}

static int mount(struct host *host)
{
    h2o_hostconf_t *conf;
    h2o_pathconf_t *path;
    wq_error error;

    h2o_config_init(&host->config);
    host->config.http1.upgrade_to_http2 = 0;
    conf = h2o_config_register_host(&host->config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    if (wq_http_mount(&host->http, conf, host->queue, host->options, &error) != WQ_OK) {
        fprintf(stderr, "%s\n", error.message);
        return -1;
    }
    path = h2o_config_register_path(conf, "/", 0);
    h2o_create_handler(path, sizeof(h2o_handler_t))->on_req = own_handler;
    return 0;
}

static int serve_on_own_host(const struct settings *s, wq_queue *queue)
{
    struct host host = {.queue = queue, .options = &s->serve.http};
    pthread_t thread;
    unsigned port;

    host.listen_fd = listen_somewhere(&port);
    if (mount(&host) != 0 || pipe2(host.stop_fds, O_CLOEXEC | O_NONBLOCK) != 0 ||
        pthread_create(&thread, NULL, host_main, &host) != 0)
        return 2;
    printf("listening on http://127.0.0.1:%u\n", port);
    fflush(stdout);
    wait_for_term();
    if (write(host.stop_fds[1], "x", 1) != 1)
        return 2;
    pthread_join(thread, NULL);
    close(host.stop_fds[1]);
    wq_http_free(host.http);
    h2o_config_dispose(&host.config);
    return 0;
}

int main(int argc, char **argv)
{
    struct settings s = {.own_host = 0};
    wq_queue *queue;
    wq_error error;
    sigset_t term;
    char journal[4096];
    int result;

    wq_options_init(&s.queue, sizeof(s.queue));
    wq_serve_options_init(&s.serve, sizeof(s.serve));
    if (argc < 3 || read_arguments(&s, argc, argv) != 0)
        return 2;
    /* Before any thread exists, so that only wait_for_term() gets it. */
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, NULL);
    s.queue.program = argv[1];
    s.queue.storage_dir = argv[2];
    s.queue.sync = 0;
    s.queue.log = s.serve.log = print_log;
    s.serve.listen = "127.0.0.1:0";
    snprintf(journal, sizeof journal, "%s-journal.sqlite", argv[2]);
    s.queue.journal_path = s.journal ? journal : NULL;
    if (s.afar && (s.queue.store = afar_store(argv[2], &error)) == NULL) {
        fprintf(stderr, "%s\n", error.message);
        return 2;
    }
    if (wq_open(&queue, &s.queue, &error) != WQ_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 2;
    }
    result = s.own_host ? serve_on_own_host(&s, queue) : serve(&s, queue);
    wq_close(queue);
    return result;
}
