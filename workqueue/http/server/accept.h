/* accept.h - the connections of one event loop: how many there may be, in all and of one peer, and
 * what every one of them is given before libh2o reads it. */
#ifndef WQ_HTTP_SERVER_ACCEPT_H
#define WQ_HTTP_SERVER_ACCEPT_H

#include "workqueue/http/hold/peers.h"
#include "workqueue/http/server/guard.h"

enum { WQ_MAX_LISTENERS = 16 };

typedef struct wq_acceptor {
    h2o_accept_ctx_t h2o;
    wq_guards guards;
    wq_peers *peers;
    h2o_socket_t *listeners[WQ_MAX_LISTENERS];
    unsigned n_listeners;
    size_t n_connections, max_connections;
    wq_timer retry;
} wq_acceptor;

/* On the loop's thread; the other fields are set. `fds` are the acceptor's from now on. */
void wq_acceptor_open(wq_acceptor *acceptor, const int *fds, unsigned n_fds);

/* No new connections. */
void wq_acceptor_close(wq_acceptor *acceptor);

#endif
