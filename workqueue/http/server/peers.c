/* peers.c - see peers.h: a table of addresses with a count each. */
#include "workqueue/http/server/peers.h"

#include <netinet/in.h>
#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

struct wq_peer {
    unsigned char address[8]; /* first: the tree compares it */
    size_t n;
};

struct wq_peers {
    size_t most;
    pthread_mutex_t lock;
    void *by_address; /* under the lock; tsearch */
};

static int compare_peers(const void *a, const void *b)
{
    return memcmp(a, b, sizeof((wq_peer *)0)->address);
}

wq_peers *wq_peers_new(size_t most)
{
    wq_peers *peers = calloc(1, sizeof *peers);
    if (peers == NULL)
        return NULL;
    peers->most = most;
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

/* An IPv4 address in IPv6's form is IPv4. */
static const unsigned char *ipv4_of(const struct sockaddr *address)
{
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
    if (address->sa_family == AF_INET)
        return (const unsigned char *)&((const struct sockaddr_in *)address)->sin_addr;
    if (address->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
        return six->sin6_addr.s6_addr + 12;
    return NULL;
}

int wq_is_local(const struct sockaddr *address)
{
    const unsigned char *four = ipv4_of(address);
    if (four != NULL)
        return four[0] == 127;
    return address->sa_family != AF_INET6 ||
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

static void write_address(unsigned char out[8], const struct sockaddr *address)
{
    const unsigned char *four = ipv4_of(address);
    memset(out, 0, 8);
    if (four != NULL)
        memcpy(out + 4, four, 4);
    else if (address->sa_family == AF_INET6)
        memcpy(out, ((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr, 8);
}

static wq_peer *find_or_add_locked(wq_peers *peers, const unsigned char address[8])
{
    wq_peer **found = tfind(address, &peers->by_address, compare_peers), *peer;
    if (found != NULL)
        return *found;
    if ((peer = calloc(1, sizeof *peer)) == NULL)
        return NULL;
    memcpy(peer->address, address, sizeof peer->address);
    if (tsearch(peer, &peers->by_address, compare_peers) != NULL)
        return peer;
    free(peer);
    return NULL;
}

wq_peer *wq_peer_take(wq_peers *peers, const struct sockaddr *address, int *full)
{
    unsigned char text[8];
    write_address(text, address);
    pthread_mutex_lock(&peers->lock);
    wq_peer *peer = find_or_add_locked(peers, text);
    *full = peer != NULL && peers->most != 0 && peer->n >= peers->most;
    if (*full)
        peer = NULL;
    else if (peer != NULL)
        peer->n++;
    pthread_mutex_unlock(&peers->lock);
    return peer;
}

void wq_peer_give_back(wq_peers *peers, wq_peer *peer)
{
    pthread_mutex_lock(&peers->lock);
    if (--peer->n == 0) {
        tdelete(peer, &peers->by_address, compare_peers);
        free(peer);
    }
    pthread_mutex_unlock(&peers->lock);
}
