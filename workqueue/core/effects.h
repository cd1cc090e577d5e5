/* effects.h - what a change of a job means for others: who is to be told, answered, forgotten. It
 * gathers under the core's lock, and is carried out without it by who has made the change. */
#ifndef WQ_CORE_EFFECTS_H
#define WQ_CORE_EFFECTS_H

#include "workqueue/core/queue.h"

void wq_effects_init(wq_effects *effects);

/* Without the lock. */
void wq_effects_carry_out(wq_queue *queue, wq_effects *effects);

/* A change of one job; those that end with it are told besides. */
void wq_effects_tell_locked(wq_effects *effects, wq_job *job);

/* Positions are news only for those who wait. */
void wq_effects_tell_positions_locked(wq_queue *queue, wq_effects *effects);

/* Everybody who asked gets the job, or if that is NULL the error; `rebuild`: also those who asked
 * for one. */
void wq_effects_answer_locked(wq_effects *effects, wq_job *job, wq_job *given, int rebuild);

#endif
