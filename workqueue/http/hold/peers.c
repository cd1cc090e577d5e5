/* peers.c - see peers.h: a table of addresses with a count each. */
#include "workqueue/http/hold/peers.h"

#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT_FROM = 256 }; /* in all, from which on a share is looked at by default */

struct wq_peer {
    wq_address address; /* first: the tree compares it */
    size_t n;
};

struct wq_peers {
    size_t share;
    int counts_local; /* clients on this machine are counted, too */
    pthread_mutex_t lock;
    void *by_address; /* under the lock; tsearch */
};

static int compare_peers(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(wq_address));
}

wq_peers *wq_peers_new(size_t share, size_t total)
{
    wq_peers *peers = calloc(1, sizeof *peers);
    if (peers == NULL)
        return NULL;
    peers->share = share != 0 ? share : total < COUNT_FROM ? 0 : total / 2;
    peers->counts_local = share != 0;
    pthread_mutex_init(&peers->lock, NULL);
    return peers;
}

void wq_peers_free(wq_peers *peers)
{
    if (peers == NULL)
        return;
    tdestroy(peers->by_address, free);
    pthread_mutex_destroy(&peers->lock);
    free(peers);
}

size_t wq_peers_share(const wq_peers *peers)
{
    return peers->share;
}

static wq_peer *find_or_add_locked(wq_peers *peers, const wq_address *address)
{
    wq_peer **found = tfind(address, &peers->by_address, compare_peers), *peer;
    if (found != NULL)
        return *found;
    if ((peer = calloc(1, sizeof *peer)) == NULL)
        return NULL;
    peer->address = *address;
    if (tsearch(peer, &peers->by_address, compare_peers) != NULL)
        return peer;
    free(peer);
    return NULL;
}

static int is_counted(const wq_peers *peers, const wq_address *address)
{
    return peers->share != 0 && (peers->counts_local || !wq_address_is_local(address));
}

int wq_peer_has_room(wq_peers *peers, wq_address address)
{
    if (!is_counted(peers, &address))
        return 1;
    address = wq_address_of_peer(address);
    pthread_mutex_lock(&peers->lock);
    wq_peer **found = tfind(&address, &peers->by_address, compare_peers);
    const int has_room = found == NULL || (*found)->n < peers->share;
    pthread_mutex_unlock(&peers->lock);
    return has_room;
}

int wq_peer_take(wq_peers *peers, wq_address address, wq_peer **out)
{
    int result = WQ_OK;
    *out = NULL;
    if (!is_counted(peers, &address))
        return WQ_OK;
    address = wq_address_of_peer(address);
    pthread_mutex_lock(&peers->lock);
    wq_peer *peer = find_or_add_locked(peers, &address);
    if (peer == NULL)
        result = WQ_ERROR_NO_MEMORY;
    else if (peer->n >= peers->share)
        result = WQ_ERROR_FULL;
    else
        peer->n++;
    pthread_mutex_unlock(&peers->lock);
    if (result == WQ_OK)
        *out = peer;
    return result;
}

void wq_peer_give_back(wq_peers *peers, wq_peer *peer)
{
    if (peer == NULL)
        return;
    pthread_mutex_lock(&peers->lock);
    if (--peer->n == 0) {
        tdelete(peer, &peers->by_address, compare_peers);
        free(peer);
    }
    pthread_mutex_unlock(&peers->lock);
}
