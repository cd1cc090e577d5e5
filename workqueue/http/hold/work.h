/* threads.h - threads for what would hold up a loop: a store across a network, or all of a store.
 */
#ifndef WQ_THREADS_H
#define WQ_THREADS_H

#include "workqueue/http/hold/loop.h"

/* One thing to be done. Whoever embeds it looks at the request on the loop only, and notes its end
 * there, because the request may end before. */
typedef struct wq_task {
    wq_post post; /* post.arrive is called on the loop once `work` has returned */
    STAILQ_ENTRY(wq_task) link;
    void (*work)(struct wq_task *task); /* on a thread */
    void (*lost)(struct wq_task *task); /* instead of post.arrive: the loop has ended, and the
                                           request with it; on any thread */
} wq_task;

struct wq_threads *wq_threads_new(wq_http *http); /* NULL: no memory */

/* Waits for what is being done; what has not been begun is lost. Every loop has ended. NULL is
 * allowed. */
void wq_threads_free(struct wq_threads *threads);

/* For a request, on its loop; post.arrive, work and lost are set. WQ_OK, or WQ_ERROR_FULL: too much
 * waits already, or WQ_ERROR_NO_MEMORY: no thread can be had; and then nothing happens. */
int wq_task_start(wq_http *http, h2o_req_t *req, wq_task *task);

#endif
