/* admit.h - how a job comes into the queue. */
#ifndef WQ_CORE_ADMIT_H
#define WQ_CORE_ADMIT_H

#include "workqueue/core/queue.h"

/* Lets a new job in, at the end of its line; the queue takes a reference. `ask` (not NULL with a
 * journal) is answered when that has it: WQ_PENDING. WQ_OK without a journal, or an error. */
int wq_life_admit_locked(wq_queue *queue, wq_job *job, wq_ask *ask, wq_effects *effects,
                         wq_error *error);

/* The job that a question joins, borrowed, or NULL if it has to begin a new one. */
wq_job *wq_life_joinable_locked(wq_queue *queue, const char *key, unsigned flags);

/* The question joins this job; its reference is the caller's, or with WQ_PENDING the ask's. */
int wq_life_join_locked(wq_queue *queue, wq_job *job, unsigned flags, wq_ask *ask, int result,
                        wq_job **out);

/* A new job that is remembered as one that has succeeded already. */
int wq_life_remember_locked(wq_queue *queue, wq_job *job, wq_ask *ask, wq_effects *effects,
                            wq_job **out);

/* A job of an earlier process. */
int wq_life_restore(wq_queue *queue, wq_job *job, const wq_journal_row *row, wq_error *error);

/* What the journal has come to; its callback. */
void wq_life_written(void *queue, wq_entry *entry, const wq_written *written);

#endif
