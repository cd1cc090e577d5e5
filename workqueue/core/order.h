/* order.h - who is next, and how many are in front: an ordered tree that counts (a treap).
 *
 * Insert, remove and position cost O(log n) in expectation, whatever leaves from the middle. No
 * allocation: the node is part of the job. Callers hold the queue's lock. */
#ifndef WQ_ORDER_H
#define WQ_ORDER_H

#include <stddef.h>
#include <stdint.h>

typedef struct wq_order_node {
    struct wq_order_node *left, *right, *parent;
    size_t size;    /* nodes in this subtree, this one included */
    size_t n_ready; /* those of them whose turn may come */
    int ready;
    uint64_t rank;     /* what is sorted by; of those alike the one that came first */
    uint32_t priority; /* random; a parent's is at least its children's */
} wq_order_node;

typedef struct wq_order {
    wq_order_node *root;
    uint64_t random; /* state of the generator; any value but 0 */
} wq_order;

void wq_order_insert(wq_order *order, wq_order_node *node, uint64_t rank, int ready);
void wq_order_remove(wq_order *order, wq_order_node *node);
wq_order_node *wq_order_first(const wq_order *order); /* NULL if empty */

/* Those that are not ready keep their places, but are passed over. */
void wq_order_set_ready(wq_order_node *node, int ready);
size_t wq_order_n_ready(const wq_order *order);
wq_order_node *wq_order_first_ready(const wq_order *order); /* NULL if there is none */
size_t wq_order_position(const wq_order_node *node);        /* how many are in front of it */

#endif
