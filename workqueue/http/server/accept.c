/* accept.c - see accept.h. */
#include "workqueue/http/server/accept.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "workqueue/http/hold/clients.h"

enum {
    ACCEPT_AT_ONCE = 16,   /* connections before other events get their turn, */
    REFUSE_AT_ONCE = 256,  /* or so many with those that are refused, which cost little */
    ACCEPT_RETRY_MS = 100, /* after accept failed for want of descriptors or memory */
};

typedef struct connection {
    wq_acceptor *acceptor;
    wq_peer *peer; /* NULL: it is not counted */
} connection;

static void on_accept(h2o_socket_t *listener, const char *err);

static void resume_accept(wq_acceptor *a)
{
    if (a->n_connections >= a->max_connections || a->retry.is_set)
        return;
    for (unsigned i = 0; i < a->n_listeners; i++)
        if (!h2o_socket_is_reading(a->listeners[i]))
            h2o_socket_read_start(a->listeners[i], on_accept);
}

static void stop_accept(wq_acceptor *a)
{
    for (unsigned i = 0; i < a->n_listeners; i++)
        h2o_socket_read_stop(a->listeners[i]);
}

static void on_retry(wq_timer *timer)
{
    resume_accept(H2O_STRUCT_FROM_MEMBER(wq_acceptor, retry, timer));
}

static void on_close(void *data)
{
    connection *c = data;
    wq_acceptor *a = c->acceptor;
    wq_peer_give_back(a->peers, c->peer);
    free(c);
    a->n_connections--;
    resume_accept(a);
}

/* 0, or -1: this peer has as many connections as one may, or memory ran out. A proxy's connections
 * are everybody's. */
static int count_peer(wq_acceptor *a, h2o_socket_t *sock, connection *c)
{
    struct sockaddr_storage from = {.ss_family = AF_UNSPEC};
    h2o_socket_getpeername(sock, (struct sockaddr *)&from);
    wq_address address = wq_address_of((struct sockaddr *)&from);
    if (wq_proxies_have(a->guards.http->proxies, &address))
        return 0;
    return wq_peer_take(a->peers, address, &c->peer) == WQ_OK ? 0 : -1;
}

/* libh2o begins to read it, and the guard with it. 1, or 0: it has been refused. */
static int begin_connection(wq_acceptor *a, h2o_socket_t *sock)
{
    connection *c = calloc(1, sizeof *c);
    if (c == NULL || count_peer(a, sock, c) != 0) {
        free(c);
        h2o_socket_close(sock);
        return 0;
    }
    c->acceptor = a;
    a->n_connections++;
    wq_client_limit_stall(h2o_socket_get_fd(sock), a->guards.http->options.stall_timeout_ms);
    h2o_accept(&a->h2o, sock);
    if (wq_guard(&a->guards, sock, on_close, c) != 0) {
        sock->on_close.cb = on_close;
        sock->on_close.data = c;
        shutdown(h2o_socket_get_fd(sock), SHUT_RDWR);
    }
    return 1;
}

static void on_accept(h2o_socket_t *listener, const char *err)
{
    wq_acceptor *a = listener->data;
    if (err != NULL)
        return;
    for (int i = 0, n = 0; i < REFUSE_AT_ONCE && n < ACCEPT_AT_ONCE; i++) {
        if (a->n_connections >= a->max_connections) {
            stop_accept(a); /* until one closes */
            return;
        }
        h2o_socket_t *sock = h2o_evloop_socket_accept(listener);
        if (sock == NULL) {
            if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                return;
            /* A listener that stays readable would spin the loop: it is looked at again soon. */
            stop_accept(a);
            wq_timer_set(a->guards.timers, &a->retry, wq_monotonic_ms() + ACCEPT_RETRY_MS);
            return;
        }
        n += begin_connection(a, sock);
    }
}

void wq_acceptor_open(wq_acceptor *a, const int *fds, unsigned n_fds)
{
    a->retry = (wq_timer){.fire = on_retry};
    for (unsigned i = 0; i < n_fds; i++) {
        h2o_socket_t *sock =
            h2o_evloop_socket_create(a->h2o.ctx->loop, fds[i], H2O_SOCKET_FLAG_DONT_READ);
        sock->data = a;
        a->listeners[a->n_listeners++] = sock;
        h2o_socket_read_start(sock, on_accept);
    }
}

void wq_acceptor_close(wq_acceptor *a)
{
    stop_accept(a);
    wq_timer_clear(a->guards.timers, &a->retry);
    while (a->n_listeners > 0)
        h2o_socket_close(a->listeners[--a->n_listeners]);
}
