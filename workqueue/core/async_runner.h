/* dispatch.h - the dispatcher of an asynchronous runner: sends jobs out, and takes in what becomes
 * of them. */
#ifndef WQ_DISPATCH_H
#define WQ_DISPATCH_H

#include "workqueue/core/publish.h"
#include "workqueue/core/queue.h"

typedef struct wq_dispatch wq_dispatch;

/* Starts the thread. The runner is taken over on success only. */
int wq_dispatch_open(wq_dispatch **out, wq_queue *queue, wq_runner *runner, wq_publisher *publisher,
                     wq_error *error);

/* Ends what exceeds its time; `*next` becomes the time when something may, if that is sooner. */
void wq_dispatch_check_locked(wq_dispatch *dispatch, int64_t now, int64_t *next);

/* The queue stops. With a journal the jobs that are out end here and go on where they are; without
 * one they are cancelled. */
void wq_dispatch_stop(wq_dispatch *dispatch);

/* After wq_dispatch_stop(): waits for what has to be waited for and closes the runner. Nothing is
 * handed to the publisher afterwards. */
void wq_dispatch_close(wq_dispatch *dispatch);

#endif
