/* worker.h - a pool of threads: each takes a job, has the runner run it, and hands on the outcome.
 */
#ifndef WQ_CORE_WORKER_H
#define WQ_CORE_WORKER_H

#include "workqueue/core/life.h"

typedef struct wq_pool wq_pool;

/* Starts `queue->workers` threads. Takes over `runner`, also on failure. */
int wq_pool_open(wq_pool **out, wq_queue *queue, wq_runner *runner, wq_error *error);

/* Ends what exceeds its time; `*next` becomes the time when something may, if that is sooner. */
void wq_pool_check_limits_locked(wq_pool *pool, int64_t now, int64_t *next, wq_effects *effects);

/* Ends all running jobs early. queue->stopping is set. */
void wq_pool_stop(wq_pool *pool);

/* After wq_pool_stop(): waits for the threads, closes the runner and frees everything. */
void wq_pool_close(wq_pool *pool);

#endif
