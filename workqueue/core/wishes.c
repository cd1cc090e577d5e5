/* wishes.c - what somebody wants of a job before its end: that it is cancelled, has reached a
 * limit, or that the queue stops. The end itself is decided in life.c. */
#include "workqueue/core/wishes.h"

#include <stdio.h>

#include "workqueue/core/life.h"

/* Something may be wished of it: its program has not succeeded yet, and its end is not decided. */
static int is_early(const wq_job *job)
{
    return job->phase >= WQ_PHASE_ADMITTING && job->phase <= WQ_PHASE_RUNNING;
}

static void request_stop_locked(wq_job *job)
{
    if (job->run == NULL || job->run->stop_requested)
        return;
    job->run->stop_requested = 1;
    job->run->request_stop(job->run);
}

/* Ends at once what no program runs for; the others are asked to end. What a runner has been sent
 * is ended here, and the runner told. */
static void wish_locked(wq_queue *q, wq_job *job, wq_wish wish, wq_effects *fx)
{
    job->wish = wish;
    /* with a journal, what is out at a runner elsewhere goes on while we are away */
    if (wish != WQ_WISH_STOP || !q->asynchronous || q->recorder.self == NULL)
        request_stop_locked(job);
    if (wq_is_in_order(job->phase))
        wq_decide_end_locked(q, job, wq_end_now(WQ_STATE_CANCELLED, WQ_RETURNCODE_OWN, NULL), fx);
}

static int cancel_locked(wq_queue *q, wq_job *job, wq_effects *fx)
{
    if (job->phase == WQ_PHASE_SETTLING)
        return job->end.state == WQ_STATE_CANCELLED ? WQ_OK : WQ_DONE;
    if (!is_early(job) || job->wish == WQ_WISH_LIMIT)
        return WQ_DONE;
    if (job->wish == WQ_WISH_CANCEL)
        return WQ_OK;
    wish_locked(q, job, WQ_WISH_CANCEL, fx);
    /* its program has its grace, and we may be killed meanwhile */
    if (job->phase == WQ_PHASE_STARTING || job->phase == WQ_PHASE_RUNNING)
        wq_record_locked(q, job, WQ_WANT_CANCELLED, NULL, wq_company_of(q));
    return WQ_OK;
}

int wq_life_cancel(wq_queue *q, wq_job *job)
{
    wq_effects fx;
    wq_effects_init(&fx);
    pthread_mutex_lock(&q->lock);
    int result = cancel_locked(q, job, &fx);
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
    return result;
}

int wq_life_abandon(wq_queue *q, wq_job *job)
{
    wq_effects fx;
    int result = WQ_DONE;
    wq_effects_init(&fx);
    pthread_mutex_lock(&q->lock);
    if (job->tentative && atomic_load(&job->n_watching) == 0)
        result = cancel_locked(q, job, &fx);
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
    return result;
}

void wq_life_limit_locked(wq_queue *q, wq_job *job, const char *why, wq_effects *fx)
{
    if (!is_early(job) || job->phase == WQ_PHASE_ADMITTING || job->wish != WQ_WISH_NONE)
        return;
    snprintf(job->why, sizeof job->why, "%s", why);
    if (wq_is_in_order(job->phase)) /* else its run says so, at its end */
        snprintf(fx->warning, sizeof fx->warning, "job %s: %s", job->id, why);
    wish_locked(q, job, WQ_WISH_LIMIT, fx);
}

/* One at a time, as watchers are told in between. */
static int stop_first_locked(wq_queue *q, wq_effects *fx)
{
    wq_job *job = TAILQ_FIRST(&q->by_age);
    if (job == NULL)
        return 0;
    wish_locked(q, job, WQ_WISH_STOP, fx);
    return 1;
}

void wq_life_stop(wq_queue *q)
{
    int more;
    pthread_mutex_lock(&q->lock);
    q->stopping = 1;
    pthread_cond_broadcast(&q->work);
    pthread_cond_broadcast(&q->stopped);
    pthread_mutex_unlock(&q->lock);
    do {
        wq_effects fx;
        wq_effects_init(&fx);
        pthread_mutex_lock(&q->lock);
        more = stop_first_locked(q, &fx);
        pthread_mutex_unlock(&q->lock);
        wq_effects_carry_out(q, &fx);
    } while (more);
}

void wq_life_stop_run_locked(wq_run_state *run)
{
    wq_job *job = run->job;
    if (job == NULL || job->wish != WQ_WISH_NONE)
        return;
    job->wish = WQ_WISH_STOP;
    request_stop_locked(job);
}

void wq_life_interrupt_locked(wq_queue *q, wq_job *job, wq_effects *fx)
{
    if (job->phase >= WQ_PHASE_SETTLING)
        return;
    if (job->wish == WQ_WISH_NONE)
        job->wish = WQ_WISH_STOP;
    wq_decide_end_locked(q, job, wq_end_now(WQ_STATE_CANCELLED, WQ_RETURNCODE_OWN, NULL), fx);
}

void wq_life_interrupt(wq_queue *q, wq_job *job)
{
    wq_effects fx;
    wq_effects_init(&fx);
    pthread_mutex_lock(&q->lock);
    wq_life_interrupt_locked(q, job, &fx);
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
}

wq_wish wq_life_wish(wq_queue *q, const wq_job *job)
{
    pthread_mutex_lock(&q->lock);
    wq_wish wish = job->wish;
    pthread_mutex_unlock(&q->lock);
    return wish;
}
