/* work.h - threads for what would hold up a loop: a store across a network, or all of a store. The
 * public way to them is wq_http_work(); this is how a response that is held already gets there. */
#ifndef WQ_HTTP_HOLD_WORK_H
#define WQ_HTTP_HOLD_WORK_H

#include "workqueue/http/http.h"

struct wq_threads *wq_threads_new(wq_http *http); /* NULL: no memory */

/* Waits for what is being done; what has not been begun is not, and its `done` is called. Every loop
 * has ended. NULL is allowed. */
void wq_threads_free(struct wq_threads *threads);

/* As wq_http_work(), for a request that is held, or whose response has begun: who holds it tells when
 * its client has gone, by ending the request. Nothing is
 * answered: WQ_OK, or WQ_ERROR_FULL or WQ_ERROR_NO_MEMORY, and then `done` is not called. */
int wq_work_start(wq_http *http, h2o_req_t *req, wq_http_work_fn work, wq_http_done_fn done,
                  void *user);

#endif
