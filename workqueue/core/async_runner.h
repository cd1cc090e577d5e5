/* async_runner.h - sends jobs out to an asynchronous runner, and takes in what becomes of them. */
#ifndef WQ_CORE_ASYNC_RUNNER_H
#define WQ_CORE_ASYNC_RUNNER_H

#include "workqueue/core/life.h"

typedef struct wq_async_runner wq_async_runner;

/* Starts the thread. The runner is taken over on success only. */
int wq_async_runner_open(wq_async_runner **out, wq_queue *queue, wq_runner *runner,
                         wq_error *error);

/* Ends what exceeds its time; `*next` becomes the time when something may, if that is sooner. */
void wq_async_runner_check_limits_locked(wq_async_runner *async, int64_t now, int64_t *next,
                                         wq_effects *effects);

/* Tells the runner that somebody looks at the job, if that was not done just now. */
void wq_async_runner_interest(wq_job *job);

/* The queue stops. With a journal the jobs that are out end here and go on where they are; without
 * one they are cancelled. */
void wq_async_runner_stop(wq_async_runner *async);

/* After wq_async_runner_stop(): waits for what has to be waited for and closes the runner. Nothing
 * is handed to the publisher afterwards. */
void wq_async_runner_close(wq_async_runner *async);

#endif
