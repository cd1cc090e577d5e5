/* clients.c - one epoll for all clients that may leave unnoticed. */
#include "workqueue/http/hold/clients.h"

#include <limits.h>
#include <linux/tcp.h> /* not netinet/tcp.h, whose tcp_info ends early */
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
    WATCH_AFTER_MS = 250, /* a client that has left is noticed within a second */
    /* the kernel drops a client that takes nothing, too, but we count them */
    KERNEL_LATER_MS = 1000,
};

void wq_client_limit_stall(int fd, unsigned stall_timeout_ms)
{
    int keep = stall_timeout_ms < INT_MAX - KERNEL_LATER_MS
                   ? (int)stall_timeout_ms + KERNEL_LATER_MS
                   : INT_MAX;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &keep, sizeof keep);
}

uint64_t wq_client_bytes_taken(int fd)
{
    struct tcp_info info;
    socklen_t n = sizeof info;
    const size_t needed =
        offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof info.tcpi_bytes_acked;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) != 0 || n < needed)
        return 0;
    return info.tcpi_bytes_acked;
}

/* Who has left already is told of at once. Without memory, again later. */
static void watch_clients(wq_timer *timer)
{
    wq_clients *clients = H2O_STRUCT_FROM_MEMBER(wq_clients, timer, timer);
    wq_client *client;
    while ((client = LIST_FIRST(&clients->unwatched)) != NULL) {
        struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = client};
        if (epoll_ctl(clients->fd, EPOLL_CTL_ADD, client->fd, &event) != 0) {
            wq_timer_set(clients->timers, timer, wq_monotonic_ms() + WATCH_AFTER_MS);
            return;
        }
        wq_client_limit_stall(client->fd, client->stall_timeout_ms);
        client->is_watched = 1;
        LIST_REMOVE(client, link);
    }
}

static void on_epoll(h2o_socket_t *sock, const char *err)
{
    wq_clients *clients = sock->data;
    struct epoll_event events[64];
    (void)err;
    /* A callback can remove only its own client, so no later event here is stale. */
    int n = epoll_wait(clients->fd, events, 64, 0);
    for (int i = 0; i < n; i++) {
        wq_client *client = events[i].data.ptr;
        if (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            client->gone(client);
    }
}

void wq_clients_add(wq_clients *clients, wq_client *client)
{
    client->is_watched = 0;
    LIST_INSERT_HEAD(&clients->unwatched, client, link);
    if (!clients->timer.is_set)
        wq_timer_set(clients->timers, &clients->timer, wq_monotonic_ms() + WATCH_AFTER_MS);
}

void wq_clients_remove(wq_clients *clients, wq_client *client)
{
    if (client->is_watched)
        epoll_ctl(clients->fd, EPOLL_CTL_DEL, client->fd, NULL);
    else
        LIST_REMOVE(client, link);
    client->is_watched = 0;
}

void wq_clients_open(wq_clients *clients, wq_timers *timers, h2o_loop_t *loop)
{
    clients->timers = timers;
    clients->timer = (wq_timer){.fire = watch_clients};
    LIST_INIT(&clients->unwatched);
    clients->fd = epoll_create1(EPOLL_CLOEXEC);
    if (clients->fd < 0)
        h2o_fatal("workqueue: no file descriptors left for an event loop");
    clients->sock = h2o_evloop_socket_create(loop, clients->fd, H2O_SOCKET_FLAG_DONT_READ);
    clients->sock->data = clients;
    h2o_socket_read_start(clients->sock, on_epoll);
}

void wq_clients_close(wq_clients *clients)
{
    h2o_socket_close(clients->sock);
}
