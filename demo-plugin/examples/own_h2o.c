/* own_h2o.c - the faces on an h2o server of one's own, with two event loops on two threads.
 *
 *   own_h2o PROGRAM STORAGE PORT
 *
 * What matters: wq_http_mount() and all other configuration come before any context; each context,
 * loop and listener is made on the thread that runs it; HTTP/2 is off.
 */
#include <workqueue/http.h>

#include <arpa/inet.h>
#include <h2o.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { LOOPS = 2 };

static h2o_globalconf_t config;
static pthread_barrier_t ready;
static int port;

struct loop {
    pthread_t thread;
    h2o_context_t context;
    h2o_accept_ctx_t accept;
    h2o_socket_t *listener;
    h2o_multithread_receiver_t stop; /* its message ends the loop */
    h2o_multithread_message_t stop_message;
    int stopping;
};

/* A route of one's own, beside the faces. */
static int answer_hello(h2o_handler_t *handler, h2o_req_t *req)
{
    (void)handler;
    return wq_http_send(req, 200, "text/plain; charset=utf-8", "hello\n", 6);
}

static void on_accept(h2o_socket_t *listener, const char *error)
{
    struct loop *loop = listener->data;
    h2o_socket_t *sock = error == NULL ? h2o_evloop_socket_accept(listener) : NULL;
    if (sock != NULL)
        h2o_accept(&loop->accept, sock);
}

static void on_stop(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    struct loop *loop = H2O_STRUCT_FROM_MEMBER(struct loop, stop, receiver);
    if (!h2o_linklist_is_empty(messages))
        h2o_linklist_unlink(messages->next); /* the only one that is ever sent */
    loop->stopping = 1;
}

/* A socket for each loop on the same port; the first one chooses it. */
static int listen_on_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof address;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
        perror("listen");
        exit(1);
    }
    port = ntohs(address.sin_port);
    return fd;
}

static void *run_loop(void *arg)
{
    struct loop *loop = arg;
    h2o_evloop_t *evloop = h2o_evloop_create();
    h2o_context_init(&loop->context, evloop, &config);
    h2o_multithread_register_receiver(loop->context.queue, &loop->stop, on_stop);
    loop->accept = (h2o_accept_ctx_t){.ctx = &loop->context, .hosts = config.hosts};
    loop->listener =
        h2o_evloop_socket_create(evloop, listen_on_port(), H2O_SOCKET_FLAG_DONT_READ);
    loop->listener->data = loop;
    h2o_socket_read_start(loop->listener, on_accept);
    pthread_barrier_wait(&ready);
    while (!loop->stopping)
        h2o_evloop_run(evloop, INT32_MAX);
    h2o_socket_close(loop->listener);
    /* the last records of held responses, and their ends, are still on their way */
    for (int turns = 0; turns < 20; turns++)
        h2o_evloop_run(evloop, 10);
    return NULL;
}

static void open_queue(wq_queue **queue, char **argv)
{
    wq_options options;
    wq_error error;
    wq_options_init(&options, sizeof options);
    options.program = argv[1];
    options.storage_dir = argv[2];
    if (wq_open(queue, &options, &error) != WQ_OK) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
}

static wq_http *configure(wq_queue *queue)
{
    wq_http_options options;
    wq_http *http;
    wq_error error;
    h2o_config_init(&config);
    config.http1.upgrade_to_http2 = 0;
    config.max_request_entity_size = 1 << 16;
    h2o_hostconf_t *host =
        h2o_config_register_host(&config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h2o_pathconf_t *path = h2o_config_register_path(host, "/hello", 0);
    h2o_create_handler(path, sizeof(h2o_handler_t))->on_req = answer_hello;
    wq_http_options_init(&options, sizeof options);
    if (wq_http_mount(&http, host, queue, &options, &error) != WQ_OK) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    return http;
}

int main(int argc, char **argv)
{
    static struct loop loops[LOOPS];
    wq_queue *queue;
    sigset_t signals;
    int signal;
    if (argc != 4)
        return fprintf(stderr, "usage: own_h2o PROGRAM STORAGE PORT\n"), 2;
    port = atoi(argv[3]);
    /* before any thread: all of them leave these signals to sigwait() below */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    sigdelset(&signals, SIGPIPE);
    open_queue(&queue, argv);
    wq_http *http = configure(queue);
    for (int i = 0; i < LOOPS; i++) {
        /* one after the other, so that the first has chosen the port */
        pthread_barrier_init(&ready, NULL, 2);
        pthread_create(&loops[i].thread, NULL, run_loop, &loops[i]);
        pthread_barrier_wait(&ready);
        pthread_barrier_destroy(&ready);
    }
    printf("listening on 127.0.0.1:%d\n", port);
    fflush(stdout);
    sigwait(&signals, &signal);
    wq_stop(queue);
    wq_http_stop(http);
    for (int i = 0; i < LOOPS; i++)
        h2o_multithread_send_message(&loops[i].stop, &loops[i].stop_message);
    for (int i = 0; i < LOOPS; i++)
        pthread_join(loops[i].thread, NULL);
    /* A program that ends here leaves contexts and configuration to the kernel. One that goes on
     * disposes of the contexts, calls wq_http_free(http), h2o_config_dispose() and wq_close(). */
    return 0;
}
