/* owner.h - what a job and a queue must know of each other's memory, and of a fork: a wq_queue
 * begins with a wq_owner. */
#ifndef WQ_CORE_OWNER_H
#define WQ_CORE_OWNER_H

#include <stdatomic.h>
#include <workqueue/workqueue.h>

typedef struct wq_owner {
    atomic_uint refs; /* the handle's, and one for each job */
    void (*free)(wq_queue *queue);
    /* a page that a fork's child finds wiped: its threads are gone, and locks may be held for ever
     */
    const volatile unsigned char *mark;
} wq_owner;

/* The first reference is the caller's. 0, or -1 with errno. */
int wq_owner_init(wq_queue *queue, void (*free)(wq_queue *queue));

void wq_owner_ref(wq_queue *queue);
void wq_owner_unref(wq_queue *queue);

/* Nonzero in a process that the queue's process has forked. Takes no lock. */
int wq_owner_is_forked(const wq_queue *queue);

#endif
