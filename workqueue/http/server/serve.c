/* serve.c - a whole plugin server: listener, event loops on threads of their own, connection cap,
 * graceful stop.
 *
 * libh2o wants loop, context, listener and sockets made on the thread that runs the loop, because
 * it recycles memory per thread; so each thread sets itself up, and wq_serve() waits until all
 * have. To stop, each loop: closes its listener; ends idle connections; waits until its connections
 * are gone, at most linger_ms; cuts the rest; disposes of what it made.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "workqueue/http/hold/contexts.h"
#include "workqueue/http/hold/timers.h"
#include "workqueue/http/request/problem.h"

enum {
    ACCEPT_AT_ONCE = 16,   /* connections before other events get their turn */
    ACCEPT_RETRY_MS = 100, /* after accept failed for want of descriptors or memory */
    SPARE_FDS = 64,        /* kept for the host, beside what runs need */
    FDS_PER_RUN = 10,
    FEW_PER_RUN = 5,  /* without which none can start, */
    FEW_PER_LOOP = 8, /* and no loop */
    BACKLOG = 1024,
};

typedef struct server_loop {
    wq_server *server;
    pthread_t thread;
    h2o_context_t ctx;
    h2o_accept_ctx_t accept_ctx;
    h2o_socket_t *listener, *retry;
    int listen_fd, retry_fd;
    size_t n_connections, max_connections;
    h2o_multithread_receiver_t receiver;
    h2o_multithread_message_t stop;
    int stopping;
    int64_t stop_by; /* CLOCK_MONOTONIC ms */
} server_loop;

struct wq_server {
    wq_queue *queue;
    wq_http *http;
    h2o_globalconf_t config;
    unsigned linger_ms, n_loops, n_started;
    server_loop *loops;
    pthread_mutex_t telling; /* held while loops are told to stop */
    /* under it */
    pthread_cond_t up;
    unsigned n_up; /* loops that can be told something */
    char address[128];
    wq_log_cb log;
    void *log_user;
};

static int fail(wq_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(wq_error *error, int code, const char *format, ...)
{
    va_list args;
    if (error == NULL)
        return code;
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    error->code = code;
    return code;
}

/* ---- connections ----------------------------------------------------------------------------- */

static void on_accept(h2o_socket_t *listener, const char *err);

static void resume_accept(server_loop *loop)
{
    if (loop->listener != NULL && !h2o_socket_is_reading(loop->listener) &&
        loop->n_connections < loop->max_connections)
        h2o_socket_read_start(loop->listener, on_accept);
}

static void on_close(void *data)
{
    server_loop *loop = data;
    loop->n_connections--;
    resume_accept(loop);
}

static void on_retry(h2o_socket_t *sock, const char *err)
{
    server_loop *loop = sock->data;
    uint64_t count;
    (void)err;
    if (read(loop->retry_fd, &count, sizeof count) > 0)
        resume_accept(loop);
}

/* A listener that stays readable would spin the loop: stop reading it, and look again soon. */
static void pause_accept(server_loop *loop)
{
    struct itimerspec soon = {.it_value = {0, ACCEPT_RETRY_MS * 1000000}};
    h2o_socket_read_stop(loop->listener);
    timerfd_settime(loop->retry_fd, 0, &soon, NULL);
}

static void on_accept(h2o_socket_t *listener, const char *err)
{
    server_loop *loop = listener->data;
    if (err != NULL)
        return;
    for (int i = 0; i < ACCEPT_AT_ONCE; i++) {
        if (loop->n_connections >= loop->max_connections) {
            h2o_socket_read_stop(listener); /* until one closes */
            return;
        }
        h2o_socket_t *sock = h2o_evloop_socket_accept(listener);
        if (sock == NULL) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
                pause_accept(loop);
            return;
        }
        loop->n_connections++;
        sock->on_close.cb = on_close;
        sock->on_close.data = loop;
        h2o_accept(&loop->accept_ctx, sock);
    }
}

/* ---- stop, on the loop's thread -------------------------------------------------------------- */

static void close_listener(server_loop *loop)
{
    if (loop->listener == NULL)
        return;
    h2o_socket_read_stop(loop->listener);
    h2o_socket_close(loop->listener);
    loop->listener = NULL;
}

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

static void on_stop(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    server_loop *loop = H2O_STRUCT_FROM_MEMBER(server_loop, receiver, receiver);
    (void)messages;
    h2o_linklist_unlink(&loop->stop.link); /* the only one there is */
    /* not h2o_context_request_shutdown(): that arms a timer that outlives the context */
    loop->ctx.shutdown_requested = 1;
    loop->stopping = 1;
    loop->stop_by = wq_loop_now() + loop->server->linger_ms;
    close_listener(loop);
    each_connection(loop, shut_idle);
    wq_context_stop(loop->server->http, &loop->ctx);
}

static void run(server_loop *loop)
{
    while (!loop->stopping)
        h2o_evloop_run(loop->ctx.loop, INT32_MAX);
    while (loop->n_connections > 0 && wq_loop_now() < loop->stop_by) {
        h2o_evloop_run(loop->ctx.loop, 20);
        each_connection(loop, shut_idle); /* those that have become idle since */
    }
    each_connection(loop, shut_all);
    wq_context_cut(loop->server->http, &loop->ctx);
    for (int i = 0; i < 100 && loop->n_connections > 0; i++)
        h2o_evloop_run(loop->ctx.loop, 10);
}

/* ---- a loop's thread ------------------------------------------------------------------------- */

static h2o_socket_t *watch_fd(server_loop *loop, int fd, h2o_socket_cb cb)
{
    h2o_socket_t *sock = h2o_evloop_socket_create(loop->ctx.loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    sock->data = loop;
    h2o_socket_read_start(sock, cb);
    return sock;
}

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

static void *loop_main(void *arg)
{
    server_loop *loop = arg;
    wq_server *server = loop->server;
    h2o_evloop_t *evloop = h2o_evloop_create();
    h2o_context_init(&loop->ctx, evloop, &server->config);
    loop->accept_ctx = (h2o_accept_ctx_t){.ctx = &loop->ctx, .hosts = server->config.hosts};
    h2o_multithread_register_receiver(loop->ctx.queue, &loop->receiver, on_stop);
    loop->retry = watch_fd(loop, loop->retry_fd, on_retry);
    loop->listener = watch_fd(loop, loop->listen_fd, on_accept);
    pthread_mutex_lock(&server->telling);
    server->n_up++;
    pthread_cond_signal(&server->up);
    pthread_mutex_unlock(&server->telling);

    run(loop);

    /* libh2o writes to a loop's pipe after the message can be read already: nobody may be about to
     * when the pipe is closed */
    pthread_mutex_lock(&server->telling);
    pthread_mutex_unlock(&server->telling);
    h2o_multithread_unregister_receiver(loop->ctx.queue, &loop->receiver);
    h2o_socket_close(loop->retry);
    if (loop->n_connections > 0 && server->log != NULL)
        server->log(server->log_user, WQ_LOG_ERROR, "connections were left at stop");
    h2o_context_dispose(&loop->ctx);
    h2o_evloop_run(evloop, 0); /* frees the sockets that were closed last */
    destroy_loop(evloop);
    return NULL;
}

/* ---- start ----------------------------------------------------------------------------------- */

/* "HOST:PORT", "[HOST]:PORT" or ":PORT" to its two parts, in a copy. */
static int split_address(char *copy, const char **host, const char **port)
{
    char *colon = strrchr(copy, ':');
    if (colon == NULL || colon[1] == '\0' || strspn(colon + 1, "0123456789") != strlen(colon + 1))
        return -1;
    *colon = '\0';
    *port = colon + 1;
    size_t n = strlen(copy);
    if (copy[0] == '[' && copy[n - 1] == ']') {
        copy[n - 1] = '\0';
        copy++;
    } else if (strchr(copy, ':') != NULL) {
        return -1;
    }
    *host = *copy != '\0' ? copy : NULL;
    return strtol(*port, NULL, 10) <= 65535 ? 0 : -1;
}

static int listen_on(const struct addrinfo *ai)
{
    int on = 1;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void write_address(wq_server *server, int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof ss;
    char host[64] = "?", port[16] = "?";
    if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        getnameinfo((struct sockaddr *)&ss, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(server->address, sizeof server->address,
             ss.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static int open_listener(wq_server *server, const char *address, int *out, wq_error *error)
{
    const char *host, *port;
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    char *copy = strdup(address);
    if (copy == NULL)
        return fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    int result = WQ_OK;
    if (split_address(copy, &host, &port) != 0) {
        result = fail(error, WQ_ERROR_INVALID_ARGUMENT,
                      "listen address \"%s\" must look like 127.0.0.1:8080 or [::1]:8080", address);
        goto out;
    }
    int r = getaddrinfo(host, port, &hints, &found);
    if (r != 0) {
        result = fail(error, r == EAI_MEMORY ? WQ_ERROR_NO_MEMORY : WQ_ERROR_INVALID_ARGUMENT,
                      "listen address \"%s\": %s", address,
                      r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
        goto out;
    }
    *out = listen_on(found);
    if (*out < 0)
        result = fail(error, WQ_ERROR_SYSTEM, "listen on %s: %s", address, strerror(errno));
    else
        write_address(server, *out);
out:
    if (found != NULL)
        freeaddrinfo(found);
    free(copy);
    return result;
}

/* About how many are open. */
static size_t open_files(void)
{
    size_t n = 0;
    DIR *fds = opendir("/proc/self/fd");
    if (fds != NULL) {
        while (readdir(fds) != NULL)
            n++;
        closedir(fds);
    }
    return n;
}

/* What the limit of open files leaves for connections. */
static size_t room_for_connections(wq_queue *queue)
{
    struct rlimit limit;
    wq_stats stats;
    wq_queue_stats(queue, &stats);
    size_t used = open_files() + SPARE_FDS + FDS_PER_RUN * stats.workers;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return 100000;
    return limit.rlim_cur > used + 16 ? limit.rlim_cur - used : 16;
}

/* libh2o ends the process if it finds no descriptor for a loop: so that is seen to before. */
static int check_room_for_loops(const wq_server *server, wq_error *error)
{
    struct rlimit limit;
    size_t used = open_files();
    size_t needed = FEW_PER_LOOP * server->n_loops + FEW_PER_RUN;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= used + needed)
        return WQ_OK;
    return fail(error, WQ_ERROR_SYSTEM,
                "start %u event loops: too many open files: %zu, and %zu more are needed, but the "
                "limit is %llu",
                server->n_loops, used, needed, (unsigned long long)limit.rlim_cur);
}

static int start_loop(server_loop *loop, int listen_fd, wq_error *error)
{
    sigset_t all, before;
    loop->listen_fd = fcntl(listen_fd, F_DUPFD_CLOEXEC, 3);
    loop->retry_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int r = loop->listen_fd < 0 || loop->retry_fd < 0 ? errno : 0;
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
    if (loop->listen_fd >= 0)
        close(loop->listen_fd);
    if (loop->retry_fd >= 0)
        close(loop->retry_fd);
    return fail(error, WQ_ERROR_SYSTEM, "start an event loop: %s", strerror(r));
}

static int start_loops(wq_server *server, const wq_serve_options *options, int listen_fd,
                       wq_error *error)
{
    int result = WQ_OK;
    size_t max =
        options->max_connections ? options->max_connections : room_for_connections(server->queue);
    for (unsigned i = 0; i < server->n_loops && result == WQ_OK; i++) {
        server->loops[i] = (server_loop){.server = server};
        server->loops[i].max_connections = max / options->loops + (max % options->loops != 0);
        result = start_loop(&server->loops[i], listen_fd, error);
        server->n_started += result == WQ_OK;
    }
    pthread_mutex_lock(&server->telling);
    while (server->n_up < server->n_started)
        pthread_cond_wait(&server->up, &server->telling);
    pthread_mutex_unlock(&server->telling);
    return result;
}

/* ---- what libh2o answers itself -------------------------------------------------------------- */

typedef struct error_stream {
    h2o_ostream_t super;
    h2o_iovec_t body;
} error_stream;

static void send_error_body(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *bufs, size_t n,
                            h2o_send_state_t state)
{
    error_stream *stream = (error_stream *)self;
    (void)bufs;
    (void)n;
    h2o_ostream_send_next(&stream->super, req, &stream->body, stream->body.len != 0, state);
}

/* libh2o's own errors (no such path, body too large, ...) are plain text; ours are problems. */
static void on_setup_ostream(h2o_filter_t *filter, h2o_req_t *req, h2o_ostream_t **slot)
{
    static const char text[] = "text/plain";
    ssize_t i = h2o_find_header(&req->res.headers, H2O_TOKEN_CONTENT_TYPE, -1);
    (void)filter;
    if (req->res.status >= 400 && i >= 0 &&
        strncmp(req->res.headers.entries[i].value.base, text, sizeof text - 1) == 0) {
        error_stream *stream = (error_stream *)h2o_add_ostream(req, sizeof *stream, slot);
        stream->super.do_send = send_error_body;
        stream->body = wq_problem_instead(req);
        slot = &stream->super.next;
    }
    h2o_setup_next_ostream(req, slot);
}

static int no_route(h2o_handler_t *handler, h2o_req_t *req)
{
    (void)handler;
    if (h2o_memis(req->method.base, req->method.len, H2O_STRLIT("OPTIONS")))
        return wq_method(req, "OPTIONS"), 0;
    return wq_problem(req, 404, "There is nothing at this path.");
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
    options->linger_ms = 5000;
    wq_http_options_init(&options->http, sizeof options->http);
}

/* libh2o cuts a connection whose body is beyond its limit; ours is below, with an answer. */
static size_t cut_bodies_at(size_t max_body_bytes)
{
    enum { MORE = 65536 };
    return max_body_bytes < (SIZE_MAX - MORE) / 2 ? max_body_bytes * 2 + MORE : SIZE_MAX;
}

static int configure(wq_server *server, const wq_serve_options *options, wq_error *error)
{
    h2o_globalconf_t *config = &server->config;
    h2o_hostconf_t *host =
        h2o_config_register_host(config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    config->server_name.len = 0;
    config->max_request_entity_size = cut_bodies_at(options->http.max_body_bytes);
    config->http1.req_timeout = options->request_timeout_ms;
    config->http1.upgrade_to_http2 = 0;
    int result = wq_http_mount(&server->http, host, server->queue, &options->http, error);
    if (result != WQ_OK)
        return result;
    if (options->routes != NULL)
        options->routes(options->user, server->http, host);
    h2o_create_handler(&host->fallback_path, sizeof(h2o_handler_t))->on_req = no_route;
    h2o_create_filter(&host->fallback_path, sizeof(h2o_filter_t))->on_setup_ostream =
        on_setup_ostream;
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
    wq_http_free(server->http);
    h2o_config_dispose(&server->config);
    pthread_cond_destroy(&server->up);
    pthread_mutex_destroy(&server->telling);
    free(server->loops);
    free(server);
}

int wq_serve(wq_server **out, wq_queue *queue, const wq_serve_options *options, wq_error *error)
{
    int listen_fd = -1;
    if (options->size != sizeof *options)
        return fail(error, WQ_ERROR_INVALID_ARGUMENT,
                    "serve options: fill them with wq_serve_options_init()");
    if (options->loops < 1 || options->loops > 64 || options->listen == NULL)
        return fail(error, WQ_ERROR_INVALID_ARGUMENT,
                    "serve options: loops must be from 1 to 64, and listen must be set");
    wq_server *server = calloc(1, sizeof *server);
    if (server == NULL || (server->loops = calloc(options->loops, sizeof(server_loop))) == NULL) {
        free(server);
        return fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    server->queue = queue;
    server->n_loops = options->loops;
    server->linger_ms = options->linger_ms;
    server->log = options->log;
    server->log_user = options->log_user;
    pthread_mutex_init(&server->telling, NULL);
    pthread_cond_init(&server->up, NULL);
    h2o_config_init(&server->config);
    int result = configure(server, options, error);
    if (result == WQ_OK)
        result = open_listener(server, options->listen, &listen_fd, error);
    if (result == WQ_OK)
        result = check_room_for_loops(server, error);
    if (result == WQ_OK)
        result = start_loops(server, options, listen_fd, error);
    if (listen_fd >= 0)
        close(listen_fd); /* each loop has its own */
    if (result != WQ_OK) {
        stop_loops(server);
        free_server(server);
        return result;
    }
    *out = server;
    return WQ_OK;
}

const char *wq_server_address(const wq_server *server)
{
    return server->address;
}

void wq_server_stop(wq_server *server)
{
    if (server == NULL)
        return;
    wq_stop(server->queue);
    stop_loops(server);
    free_server(server);
}
