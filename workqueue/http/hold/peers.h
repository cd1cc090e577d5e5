/* peers.h - how much each client has of something that is bounded: no one may take everything.
 *
 * The one rule for all that is counted by address: connections, held responses, lunkwill requests.
 */
#ifndef WQ_HTTP_HOLD_PEERS_H
#define WQ_HTTP_HOLD_PEERS_H

#include <stddef.h>

#include "workqueue/http/request/address.h"

typedef struct wq_peers wq_peers;
typedef struct wq_peer wq_peer;

/* Each may have `share`; 0: half of `total`, unless that is a small number, or it comes from this
 * machine, where it is a proxy, and everybody. NULL: no memory. */
wq_peers *wq_peers_new(size_t share, size_t total);
void wq_peers_free(wq_peers *peers); /* NULL is allowed */

/* One more for this address. From any thread. WQ_OK, and `*out` is to be given back (NULL: it is
 * not counted); WQ_ERROR_FULL: it has as many as it may; or WQ_ERROR_NO_MEMORY. */
int wq_peer_take(wq_peers *peers, wq_address address, wq_peer **out);
void wq_peer_give_back(wq_peers *peers, wq_peer *peer); /* NULL is allowed */

/* Would there be room now? */
int wq_peer_has_room(wq_peers *peers, wq_address address);

/* How many each may have; 0: any number. */
size_t wq_peers_share(const wq_peers *peers);

#endif
