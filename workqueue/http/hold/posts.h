/* posts.h - from any thread to an event loop: "do this there". */
#ifndef WQ_HTTP_HOLD_POSTS_H
#define WQ_HTTP_HOLD_POSTS_H

#include <h2o.h>
#include <pthread.h>
#include <sys/queue.h>

/* Where the posts to one loop arrive. */
typedef struct wq_inbox {
    h2o_multithread_receiver_t receiver;
    LIST_ENTRY(wq_inbox) link;
} wq_inbox;

/* The inboxes of the loops that run. */
typedef struct wq_inboxes {
    pthread_mutex_t lock;
    LIST_HEAD(, wq_inbox) open; /* under the lock */
} wq_inboxes;

/* What a thread that is no loop's has done for a request, on its way back. The request may end
 * before, so it is not the thread's to look at: whoever embeds this notes the request's end by
 * h2o_mem_alloc_shared(), on the loop. */
typedef struct wq_post {
    h2o_multithread_message_t message;
    wq_inbox *inbox;
    void (*arrive)(struct wq_post *post); /* on the loop; the memory is its owner's again */
} wq_post;

void wq_inboxes_init(wq_inboxes *inboxes);
void wq_inboxes_destroy(wq_inboxes *inboxes);

/* On the loop's thread. Closing takes in what has been sent. */
void wq_inbox_open(wq_inboxes *inboxes, wq_inbox *inbox, h2o_multithread_queue_t *queue);
void wq_inbox_close(wq_inboxes *inboxes, wq_inbox *inbox, h2o_multithread_queue_t *queue);

/* From any thread, while the inboxes are there: 0, and post->arrive will be called; or -1: the loop
 * has ended, and all its requests with it. */
int wq_post_send(wq_inboxes *inboxes, wq_post *post);

#endif
