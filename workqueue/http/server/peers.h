/* peers.h - who is on the other side, and how much each has: no client may take everything. */
#ifndef WQ_HTTP_SERVER_PEERS_H
#define WQ_HTTP_SERVER_PEERS_H

#include <stddef.h>
#include <sys/socket.h>

typedef struct wq_peers wq_peers;
typedef struct wq_peer wq_peer;

/* Each may have `most` (0: any number). NULL: no memory. */
wq_peers *wq_peers_new(size_t most);
void wq_peers_free(wq_peers *peers); /* NULL is allowed */

/* One more for this address: of IPv6 the first 64 bits, as a host has all below. From any thread.
 * NULL and `*full` says whether it has as many as it may; else memory ran out. */
wq_peer *wq_peer_take(wq_peers *peers, const struct sockaddr *address, int *full);
void wq_peer_give_back(wq_peers *peers, wq_peer *peer);

/* Is it this machine: loopback, or no address at all (a Unix socket)? */
int wq_is_local(const struct sockaddr *address);

#endif
