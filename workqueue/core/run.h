/* run.h - a run that is under way: what it reports, when it has lasted too long, and what becomes
 * of its outcome. */
#ifndef WQ_CORE_RUN_H
#define WQ_CORE_RUN_H

#include "workqueue/core/life.h"
#include "workqueue/core/publish.h"

/* A line that the program has written. */
void wq_run_told_stderr(wq_job *job, const char *bytes, size_t len);
void wq_run_report(wq_job *job, const char *line, size_t len);

/* Asks the run to end if its time is up; else `*next` becomes the time when it will be, if that is
 * sooner. */
void wq_run_check_limits_locked(wq_queue *queue, wq_run_state *run, int64_t now, int64_t *next,
                                wq_effects *effects);

/* The run is over: publishes the output, or ends the job. Takes over the outcome's error, and the
 * temporary file (NULL: the output is in the store already). No lock is held. */
void wq_run_over(wq_queue *queue, wq_job *job, wq_outcome *outcome, char *temp_path);

/* What has come of publishing; the publisher's callback. */
void wq_run_published(void *queue, wq_parcel *parcel, int result, const wq_error *error);

#endif
