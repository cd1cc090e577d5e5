/* order.c - who is next, and how many are in front: an ordered tree that counts (a treap). */
#include "workqueue/core/order.h"

static size_t size_of(const wq_order_node *node)
{
    return node ? node->size : 0;
}

static size_t n_ready(const wq_order_node *node)
{
    return node ? node->n_ready : 0;
}

static void count(wq_order_node *node)
{
    node->size = size_of(node->left) + size_of(node->right) + 1;
    node->n_ready = n_ready(node->left) + n_ready(node->right) + (size_t)node->ready;
}

static void replace_child(wq_order *order, wq_order_node *old, wq_order_node *new)
{
    wq_order_node *parent = old->parent;
    if (parent == NULL)
        order->root = new;
    else if (parent->left == old)
        parent->left = new;
    else
        parent->right = new;
    if (new != NULL)
        new->parent = parent;
}

/* Lifts `node` above its parent and keeps the order. */
static void rotate_up(wq_order *order, wq_order_node *node)
{
    wq_order_node *parent = node->parent;
    wq_order_node *inner = parent->left == node ? node->right : node->left;
    replace_child(order, parent, node);
    if (parent->left == node) {
        parent->left = inner;
        node->right = parent;
    } else {
        parent->right = inner;
        node->left = parent;
    }
    if (inner != NULL)
        inner->parent = parent;
    parent->parent = node;
    count(parent);
    count(node);
}

/* xorshift64: no secret hangs on it, only the tree's shape. */
static uint32_t next_random(wq_order *order)
{
    uint64_t x = order->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    order->random = x;
    return (uint32_t)(x >> 32);
}

void wq_order_insert(wq_order *order, wq_order_node *node, uint64_t rank, int ready)
{
    wq_order_node *parent = NULL, **slot = &order->root;
    while (*slot != NULL) {
        parent = *slot;
        parent->size++;
        parent->n_ready += (size_t)ready;
        slot = rank < parent->rank ? &parent->left : &parent->right;
    }
    *node = (wq_order_node){.parent = parent,
                            .size = 1,
                            .n_ready = (size_t)ready,
                            .ready = ready,
                            .rank = rank,
                            .priority = next_random(order)};
    *slot = node;
    while (node->parent != NULL && node->parent->priority < node->priority)
        rotate_up(order, node);
}

void wq_order_remove(wq_order *order, wq_order_node *node)
{
    while (node->left != NULL && node->right != NULL)
        rotate_up(order, node->left->priority > node->right->priority ? node->left : node->right);
    wq_order_node *parent = node->parent;
    replace_child(order, node, node->left ? node->left : node->right);
    for (; parent != NULL; parent = parent->parent) {
        parent->size--;
        parent->n_ready -= (size_t)node->ready;
    }
    node->size = 0;
}

wq_order_node *wq_order_first(const wq_order *order)
{
    wq_order_node *node = order->root;
    while (node != NULL && node->left != NULL)
        node = node->left;
    return node;
}

void wq_order_set_ready(wq_order_node *node, int ready)
{
    if (node->ready == ready)
        return;
    node->ready = ready;
    for (; node != NULL; node = node->parent)
        count(node);
}

size_t wq_order_n_ready(const wq_order *order)
{
    return n_ready(order->root);
}

wq_order_node *wq_order_first_ready(const wq_order *order)
{
    wq_order_node *node = order->root;
    while (n_ready(node) > 0 && (n_ready(node->left) > 0 || !node->ready))
        node = n_ready(node->left) > 0 ? node->left : node->right;
    return n_ready(node) > 0 ? node : NULL;
}

size_t wq_order_position(const wq_order_node *node)
{
    size_t position = size_of(node->left);
    for (; node->parent != NULL; node = node->parent)
        if (node->parent->right == node)
            position += node->parent->size - node->size; /* itself and its left: no look there */
    return position;
}
