/* publish.h - puts the outputs of jobs in place and ends the jobs; tries again while the store is
 * away. */
#ifndef WQ_PUBLISH_H
#define WQ_PUBLISH_H

#include "workqueue/core/queue.h"

typedef struct wq_publisher wq_publisher;

/* Starts a thread, or some, if the store waits or blocks, or the runner is asynchronous. */
int wq_publisher_open(wq_publisher **out, wq_queue *queue, wq_error *error);

/* A PUBLISHING job: its temp_path is to be put in place, or, where there is none, its output is in
 * the store already. May wait for others to be done, but not if the runner is asynchronous. */
void wq_publisher_add(wq_publisher *publisher, wq_job *job);

/* The queue has become hungry. */
void wq_publisher_hurry(wq_publisher *publisher);

/* The queue stops: nothing is tried again. */
void wq_publisher_stop(wq_publisher *publisher);

/* Nothing is added any more: does what there is to do, and frees everything. NULL is allowed. */
void wq_publisher_close(wq_publisher *publisher);

#endif
