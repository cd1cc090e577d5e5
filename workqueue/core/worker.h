/* worker.h - the pool: take a job, run it, publish, finish. */
#ifndef WQ_WORKER_H
#define WQ_WORKER_H

#include "workqueue/core/queue.h"

typedef struct wq_pool wq_pool;

/* Starts `queue->workers` threads, or a dispatcher if the runner is asynchronous, and the
 * publisher. Takes over `runner`, also on failure; queue->store stays the queue's. */
int wq_pool_open(wq_pool **out, wq_queue *queue, wq_runner *runner, wq_error *error);

/* Ends a running job early; nothing if it is not running any more. */
int wq_pool_cancel(wq_pool *pool, wq_job *job);

/* Ends all running jobs early. queue->stopping is set. */
void wq_pool_stop(wq_pool *pool);

/* After wq_pool_stop(): waits for the threads and frees everything. NULL is allowed. */
void wq_pool_close(wq_pool *pool);

#endif
