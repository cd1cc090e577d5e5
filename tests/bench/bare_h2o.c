/* bare_h2o.c - what libh2o itself can do, to compare our faces with: no queue, no job, no limits.
 *
 *   bare_h2o inline LOOPS                   answers every request with "[]" by h2o_send_inline
 *   bare_h2o hold LOOPS COUNT MILLISECONDS  holds every response; once there is one, a thread sends
 *                                           COUNT records with the time to all, then ends them
 *
 * Prints "listening on http://127.0.0.1:PORT" and runs until it is killed. Contexts, listeners and
 * sockets are made on the thread that runs their loop: libh2o recycles buffers by thread.
 */
#include <arpa/inet.h>
#include <h2o.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LOOPS_MAX = 64 };

/* A record on its way to streams, shared by all of a loop. */
struct record {
    size_t refs;
    int last;
    size_t len;
    char text[160];
};

/* From the ticking thread to a loop. */
struct tick {
    h2o_multithread_message_t super;
    struct record *record;
};

struct server;

struct loop {
    struct server *server;
    h2o_context_t ctx; /* handlers find their loop by it */
    h2o_accept_ctx_t accept;
    h2o_multithread_receiver_t receiver;
    h2o_linklist_t held;
    struct record *latest;
    pthread_t thread;
};

struct server {
    h2o_globalconf_t config;
    int n_loops, port, count, ms;
    struct loop loops[LOOPS_MAX];
    pthread_barrier_t ready;
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    int somebody; /* a response is held; under `lock` */
};

/* One held response; lives in its request's pool. */
struct held {
    h2o_generator_t super;
    h2o_linklist_t link;
    h2o_req_t *req;
    struct loop *loop;
    struct record *sent; /* what is in flight, or went out last */
    int busy;
};

struct handler {
    h2o_handler_t super;
    struct server *server;
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* ---- a request answered at once -------------------------------------------------------------- */

static int answer_inline(h2o_handler_t *self, h2o_req_t *req) {
    (void)self;
    req->res.status = 200;
    req->res.reason = "OK";
    req->res.content_length = 2;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("application/json"));
    h2o_send_inline(req, H2O_STRLIT("[]"));
    return 0;
}

/* ---- a response that is held ----------------------------------------------------------------- */

static void drop(struct record *record) {
    if (record && --record->refs == 0)
        free(record);
}

static void send_latest(struct held *held) {
    struct record *record = held->loop->latest;
    h2o_iovec_t bytes = h2o_iovec_init(record->text, record->len);
    record->refs++;
    drop(held->sent);
    held->sent = record;
    held->busy = 1;
    if (!record->last) {
        h2o_send(held->req, &bytes, 1, H2O_SEND_STATE_IN_PROGRESS);
        return;
    }
    /* The last record is never freed: after FINAL nobody says when its bytes are out. */
    h2o_linklist_unlink(&held->link);
    h2o_send(held->req, &bytes, 1, H2O_SEND_STATE_FINAL);
}

static void on_proceed(h2o_generator_t *self, h2o_req_t *req) {
    struct held *held = H2O_STRUCT_FROM_MEMBER(struct held, super, self);
    (void)req;
    held->busy = 0;
    if (held->loop->latest && held->loop->latest != held->sent)
        send_latest(held);
}

static void on_stop(h2o_generator_t *self, h2o_req_t *req) {
    struct held *held = H2O_STRUCT_FROM_MEMBER(struct held, super, self);
    (void)req;
    h2o_linklist_unlink(&held->link);
    drop(held->sent);
}

static int answer_held(h2o_handler_t *self, h2o_req_t *req) {
    struct server *server = ((struct handler *)self)->server;
    struct held *held = h2o_mem_alloc_pool(&req->pool, sizeof(*held));
    *held = (struct held){{on_proceed, on_stop}, {NULL, NULL}, req, NULL, NULL, 1};
    held->loop = H2O_STRUCT_FROM_MEMBER(struct loop, ctx, req->conn->ctx);
    h2o_linklist_insert(&held->loop->held, &held->link);
    req->res.status = 200;
    req->res.reason = "OK";
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("application/json"));
    h2o_start_response(req, &held->super);
    h2o_iovec_t first = h2o_iovec_init(H2O_STRLIT("[{\"n_ahead_in_queue\": 0}"));
    h2o_send(req, &first, 1, H2O_SEND_STATE_IN_PROGRESS);
    pthread_mutex_lock(&server->lock);
    server->somebody = 1;
    pthread_cond_signal(&server->wanted);
    pthread_mutex_unlock(&server->lock);
    return 0;
}

static void on_tick(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages) {
    struct loop *loop = H2O_STRUCT_FROM_MEMBER(struct loop, receiver, receiver);
    while (!h2o_linklist_is_empty(messages)) {
        struct tick *tick = H2O_STRUCT_FROM_MEMBER(struct tick, super.link, messages->next);
        h2o_linklist_unlink(&tick->super.link);
        drop(loop->latest);
        loop->latest = tick->record;
        free(tick);
    }
    for (h2o_linklist_t *at = loop->held.next, *next; at != &loop->held; at = next) {
        next = at->next;
        struct held *held = H2O_STRUCT_FROM_MEMBER(struct held, link, at);
        if (!held->busy)
            send_latest(held);
    }
}

/* Tells all loops the time; the job of a server that has none. */
static void tick_once(struct server *server, int last) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (int i = 0; i < server->n_loops; i++) {
        struct tick *tick = calloc(1, sizeof(*tick));
        struct record *record = malloc(sizeof(*record));
        if (!tick || !record)
            abort();
        record->refs = 1;
        record->last = last;
        record->len = (size_t)snprintf(
            record->text, sizeof(record->text),
            ",\n{\"n_ahead_in_queue\": 0, \"fraction\": 0.5, \"message\": \"ts=%lld\", "
            "\"returncode\": null, \"error\": null}%s",
            (long long)now.tv_sec * 1000000000 + now.tv_nsec, last ? "]" : "");
        tick->record = record;
        h2o_multithread_send_message(&server->loops[i].receiver, &tick->super);
    }
}

static void tick_for_ever(struct server *server) {
    struct timespec pause = {.tv_sec = server->ms / 1000, .tv_nsec = server->ms % 1000 * 1000000L};
    pthread_mutex_lock(&server->lock);
    while (!server->somebody)
        pthread_cond_wait(&server->wanted, &server->lock);
    pthread_mutex_unlock(&server->lock);
    for (int i = 1; i <= server->count; i++) {
        nanosleep(&pause, NULL);
        tick_once(server, i == server->count);
    }
}

/* ---- loops ----------------------------------------------------------------------------------- */

static int listen_on(int port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&to, sizeof(to)) != 0 || listen(fd, 4096) != 0)
        fail("listen");
    return fd;
}

static int port_of(int fd) {
    struct sockaddr_in at;
    socklen_t size = sizeof(at);
    if (getsockname(fd, (struct sockaddr *)&at, &size) != 0)
        fail("getsockname");
    return ntohs(at.sin_port);
}

static void on_accept(h2o_socket_t *listener, const char *error) {
    struct loop *loop = listener->data;
    h2o_socket_t *sock;
    while (!error && (sock = h2o_evloop_socket_accept(listener)))
        h2o_accept(&loop->accept, sock);
}

static void *run_loop(void *arg) {
    struct loop *loop = arg;
    struct server *server = loop->server;
    h2o_evloop_t *evloop = h2o_evloop_create();
    h2o_context_init(&loop->ctx, evloop, &server->config);
    h2o_linklist_init_anchor(&loop->held);
    h2o_multithread_register_receiver(loop->ctx.queue, &loop->receiver, on_tick);
    loop->accept.ctx = &loop->ctx;
    loop->accept.hosts = server->config.hosts;
    h2o_socket_t *listener =
        h2o_evloop_socket_create(evloop, listen_on(server->port), H2O_SOCKET_FLAG_DONT_READ);
    listener->data = loop;
    h2o_socket_read_start(listener, on_accept);
    pthread_barrier_wait(&server->ready);
    while (h2o_evloop_run(evloop, INT32_MAX) == 0)
        ;
    return NULL;
}

static void configure(struct server *server, int hold) {
    h2o_config_init(&server->config);
    server->config.http1.upgrade_to_http2 = 0;
    h2o_hostconf_t *host =
        h2o_config_register_host(&server->config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h2o_pathconf_t *path = h2o_config_register_path(host, "/", 0);
    h2o_handler_t *handler = h2o_create_handler(path, sizeof(struct handler));
    ((struct handler *)handler)->server = server;
    handler->on_req = hold ? answer_held : answer_inline;
}

int main(int argc, char **argv) {
    int hold = argc == 5 && strcmp(argv[1], "hold") == 0;
    static struct server server;
    server.n_loops = argc > 2 ? atoi(argv[2]) : 0;
    if ((!hold && (argc != 3 || strcmp(argv[1], "inline") != 0)) || server.n_loops < 1 ||
        server.n_loops > LOOPS_MAX) {
        fprintf(stderr, "usage: bare_h2o inline LOOPS | hold LOOPS COUNT MILLISECONDS\n");
        return 2;
    }
    server.count = hold ? atoi(argv[3]) : 0;
    server.ms = hold ? atoi(argv[4]) : 0;
    signal(SIGPIPE, SIG_IGN);
    pthread_mutex_init(&server.lock, NULL);
    pthread_cond_init(&server.wanted, NULL);
    pthread_barrier_init(&server.ready, NULL, (unsigned)server.n_loops + 1);
    configure(&server, hold);
    int probe = listen_on(0); /* finds a free port; the loops bind it too while it is held */
    server.port = port_of(probe);
    for (int i = 0; i < server.n_loops; i++) {
        server.loops[i].server = &server;
        if (pthread_create(&server.loops[i].thread, NULL, run_loop, &server.loops[i]) != 0)
            fail("pthread_create");
    }
    pthread_barrier_wait(&server.ready);
    close(probe);
    printf("listening on http://127.0.0.1:%d\n", server.port);
    fflush(stdout);
    if (hold)
        tick_for_ever(&server);
    for (;;)
        pause();
}
