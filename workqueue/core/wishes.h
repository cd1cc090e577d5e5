/* wishes.h - what somebody wants of a job before its end. */
#ifndef WQ_CORE_WISHES_H
#define WQ_CORE_WISHES_H

#include "workqueue/core/queue.h"

/* WQ_OK: the job ends as cancelled, at once or soon. WQ_DONE: it is too late. */
int wq_life_cancel(wq_queue *queue, wq_job *job);

/* Likewise, if nobody insists on the job or watches it. */
int wq_life_abandon(wq_queue *queue, wq_job *job);

/* It is to fail, as a limit was reached, which is logged: nothing if somebody has wished something
 * before. */
void wq_life_limit_locked(wq_queue *queue, wq_job *job, const char *why, wq_effects *effects);

/* What is wished of a job; with LIMIT its sentence stays as it is. */
wq_wish wq_life_wish(wq_queue *queue, const wq_job *job);

/* The queue stops: what waits ends at once, what runs is asked to. */
void wq_life_stop(wq_queue *queue);

/* The queue stops: the run is asked to end. */
void wq_life_stop_run_locked(wq_run_state *run);

/* The queue stops, and nobody waits for what the job is at: it ends here, and with a journal it
 * runs again after the restart. Nothing if it has ended, or is settling. */
void wq_life_interrupt(wq_queue *queue, wq_job *job);
void wq_life_interrupt_locked(wq_queue *queue, wq_job *job, wq_effects *effects);

#endif
