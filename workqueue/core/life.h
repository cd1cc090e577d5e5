/* life.h - the life of a job: its phases, and the one place where they change.
 *
 *     NEW ─admit─► ADMITTING ─journalled─► BLOCKED ─head of its line─► WAITING ─taken─► STARTING
 *                    │ refused                                          │ sent            │ begins
 *                   GONE                                               SENT ─────────► RUNNING
 *                                                                                         │ over
 *     any before SETTLING ─end─► SETTLING ─written─► ENDED ◄── PUT_OFF ◄─store away─ HANDED
 *
 * Without a journal ADMITTING and SETTLING are passed over. An end that is for this process only is
 * not written either.
 *
 * A job's wish is what somebody wants of it before its end; every end passes decide_end(), which
 * reads it. So a cancel that was answered with yes never ends as a success, and what a stop of the
 * queue interrupts goes on after the restart if there is a journal.
 *
 * The jobs of one key stand in line: `by_key` has its head, `behind` leads to the next. Only the
 * head may wait or run. A head that has succeeded ends those behind it that ask for no rebuild.
 *
 * What a change means for others (who is to be told, answered, forgotten) gathers in `effects` and
 * is carried out when the lock is free, by who has made the change. No store, runner or watcher is
 * called with the lock held. */
#ifndef WQ_CORE_LIFE_H
#define WQ_CORE_LIFE_H

#include "workqueue/core/effects.h"
#include "workqueue/core/queue.h"

int wq_life_init(wq_queue *queue, const wq_options *options);

/* Forgets every ended job. Nothing refers to the queue any more but references to jobs. */
void wq_life_forget_all(wq_queue *queue);

void wq_life_dispose(wq_queue *queue);

/* ---- through --------------------------------------------------------------------------------- */

/* WAITING to STARTING, and the job is the run's; a reference is the caller's. If there is none:
 * NULL at once, or with `wait` only when the queue stops. */
wq_job *wq_life_take(wq_queue *queue, wq_run_state *run, int wait);

/* Could a job be taken? Not while the journal is so far behind: what has ended must not gather
 * without bound. */
int wq_life_has_ready_locked(const wq_queue *queue);

/* WAITING to SENT, likewise. There is one. */
wq_job *wq_life_send_locked(wq_queue *queue, wq_run_state *run);

/* STARTING or SENT to RUNNING. Zero, and nothing has changed, if the run is detached, if its
 * program ran already, or if it need not begin, as it is to end: wq_run_over() is next. */
int wq_life_begin(wq_queue *queue, wq_run_state *run, uint64_t estimate_ms);

/* The run's job, if it is its own to end; a run that is detached has none. */
wq_job *wq_life_detach(wq_queue *queue, wq_run_state *run);

/* RUNNING to HANDED: the program has succeeded. Zero if its wish was stronger, and then it has
 * ended: nothing is to be published. */
int wq_life_hand(wq_queue *queue, wq_job *job);

/* HANDED to PUT_OFF: the store is away. */
void wq_life_put_off(wq_queue *queue, wq_job *job);

/* The end of a job, whatever its phase; as its wish would have it. `error` is copied. */
void wq_life_end(wq_queue *queue, wq_job *job, int state, int returncode, const char *error);

/* Likewise, as FAILED, which is logged. */
void wq_life_fail(wq_queue *queue, wq_job *job, int returncode, const char *error);

/* ---- looking --------------------------------------------------------------------------------- */

/* How many run or wait in front of a job that waits; 0 for others. */
size_t wq_life_ahead_locked(wq_queue *queue, const wq_job *job);

/* Fewer jobs are ready than there are workers, so that one may soon have nothing to do: then
 * neither the journal nor the publisher has anybody wait for company. */
int wq_life_has_idle_worker(const wq_queue *queue);

/* Whether the output of a job is in place already, so that it need not run. Calls the store. */
int wq_life_is_in_place(wq_queue *queue, const wq_job *job);

/* Counts what the store answered, if it is a failure of its own; returns it. */
int wq_life_count_store_result(wq_queue *queue, int result);

/* Counts ends of jobs with this key, and of some others: a key that was looked up before an end
 * must be looked up again. Not all ends together, as a slow store would then never be done. */
uint64_t *wq_life_generation_locked(wq_queue *queue, const char *key);

/* ---- for admit.c and wishes.c only ----------------------------------------------------------- */

/* The only writer of a job's phase: counts it, moves it in or out of the order, and shows its
 * state. Watchers are told by effects. */
void wq_set_phase(wq_queue *queue, wq_job *job, wq_phase to);

/* Every end passes here, and becomes what the job's wish would have it be. It is told at once, or
 * when the journal has it; meanwhile who asks joins a job that has succeeded, and else gets
 * another. */
void wq_decide_end_locked(wq_queue *queue, wq_job *job, wq_end end, wq_effects *effects);

/* SETTLING to ENDED. The reference of the core goes with the last effect. */
void wq_finish_settling_locked(wq_queue *queue, wq_job *job, wq_effects *effects);

/* Its key is free: the next in line may run, or need not. */
void wq_promote_locked(wq_queue *queue, const char *key, int succeeded, wq_effects *effects);

/* The entry's reference to the job is given back by wq_life_written(). */
void wq_record_locked(wq_queue *queue, wq_job *job, wq_want want, const wq_end *end,
                      wq_company company);

wq_company wq_company_of(const wq_queue *queue);

/* Out of the counts of its user, server and peer. */
void wq_count_out_locked(wq_job *job);

/* Forgets the ended job that is due, if there is one too many. */
void wq_evict_locked(wq_queue *queue, wq_effects *effects);

int wq_is_in_order(wq_phase phase);
size_t wq_n_running(const wq_queue *queue);

#endif
