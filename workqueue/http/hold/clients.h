/* clients.h - notices that the client of a response that is held has left.
 *
 * libh2o has stopped reading such a connection. So each loop has an epoll of its own, itself watched
 * by the loop. What has been held for a while goes in there, and what ends sooner never does. */
#ifndef WQ_HTTP_HOLD_CLIENTS_H
#define WQ_HTTP_HOLD_CLIENTS_H

#include <sys/queue.h>

#include "workqueue/http/hold/timers.h"

typedef struct wq_client {
    int fd; /* -1: none */
    int is_watched;
    LIST_ENTRY(wq_client) link; /* while it is not watched yet */
    unsigned stall_timeout_ms;
    void (*gone)(struct wq_client *client); /* may remove this one, and no other */
} wq_client;

typedef struct wq_clients {
    wq_timers *timers;
    int fd;
    h2o_socket_t *sock;
    LIST_HEAD(, wq_client) unwatched;
    wq_timer timer;
} wq_clients;

/* Ends the process where there are no descriptors. */
void wq_clients_open(wq_clients *clients, wq_timers *timers, h2o_loop_t *loop);
void wq_clients_close(wq_clients *clients);

/* `client` has fd, stall_timeout_ms and gone. */
void wq_clients_add(wq_clients *clients, wq_client *client);
void wq_clients_remove(wq_clients *clients, wq_client *client);

/* The kernel drops the connection when the other side has acknowledged nothing for so long. Harmless
 * where it is no TCP socket. */
void wq_client_limit_stall(int fd, unsigned stall_timeout_ms);

/* How many bytes the client's machine has taken; 0 where nobody can tell. */
uint64_t wq_client_bytes_taken(int fd);

#endif
