/* flight.h - a run that is under way, in a worker or out at an asynchronous runner: what it
 * reports, how it is ended early, and how it ends. */
#ifndef WQ_FLIGHT_H
#define WQ_FLIGHT_H

#include "workqueue/core/publish.h"
#include "workqueue/core/queue.h"

typedef struct wq_flight {
    /* under the queue's lock */
    wq_job *job;   /* NULL: nothing runs, or its end is known already */
    int told;      /* it has been asked to end */
    int overdue;   /* that was for a time limit: the job has failed */
    int stops;     /* that was because the queue stops */
    char why[80];  /* the sentence for it */
    int64_t begun; /* when the program began to run, monotonic; 0: it does not yet */
    int (*tell)(struct wq_flight *flight); /* asks it to end; nonzero if that was possible */
} wq_flight;

/* The job has this run from now on, or has it no more. */
void wq_flight_begin_locked(wq_flight *flight, wq_job *job);
void wq_flight_part_locked(wq_flight *flight);

/* The run is to end early, and this is why; nothing if it has been told so before. */
void wq_flight_tell_locked(wq_flight *flight, const char *why);

/* Somebody cancels it; zero if it is being ended for its time limit, and has failed. A stop of the
 * queue would have it run again, so this goes before that.
 */
int wq_flight_cancel_locked(wq_flight *flight);

/* Ends the run if its time is up; else `*next` becomes the time when it will be, if that is sooner.
 */
void wq_flight_check_locked(wq_flight *flight, int64_t now, int64_t *next);

/* A line that the program has written. */
void wq_flight_report(wq_job *job, const char *line, size_t len);

/* The run is over, and the flight parted from its job: publishes the output, or ends the job. Frees
 * the outcome's error. No lock is held. */
void wq_flight_end(wq_flight *flight, wq_job *job, const wq_outcome *outcome,
                   wq_publisher *publisher);

#endif
