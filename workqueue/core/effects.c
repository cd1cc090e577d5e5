/* effects.c - what a change of a job means for others, carried out when the core's lock is free. */
#include "workqueue/core/effects.h"

void wq_effects_init(wq_effects *fx)
{
    *fx = (wq_effects){0};
    STAILQ_INIT(&fx->more);
    STAILQ_INIT(&fx->asks);
}

/* One ask may be answered by a thread that frees it, so it is taken out before. */
static void answer_asks(wq_effects *fx)
{
    wq_ask *ask;
    while ((ask = STAILQ_FIRST(&fx->asks)) != NULL) {
        STAILQ_REMOVE_HEAD(&fx->asks, link);
        if (ask->job == NULL)
            ask->cb(ask->user, fx->error.code, NULL, 0, &fx->error);
        else
            ask->cb(ask->user, ask->result, ask->job, ask->made_at_ms, NULL);
    }
}

void wq_effects_carry_out(wq_queue *q, wq_effects *fx)
{
    wq_job *job;
    if (*fx->warning != '\0')
        wq_log(&q->logger, WQ_LOG_WARNING, "%s", fx->warning);
    answer_asks(fx);
    if (fx->job != NULL)
        wq_job_news_tell(&q->news, fx->job);
    wq_job_unref(fx->job);
    while ((job = STAILQ_FIRST(&fx->more)) != NULL) {
        STAILQ_REMOVE_HEAD(&fx->more, to_tell);
        wq_job_news_tell(&q->news, job);
        wq_job_unref(job);
    }
    if (fx->positions)
        wq_watchers_tell(&q->watchers);
    while ((job = fx->evicted) != NULL) {
        fx->evicted = job->behind;
        job->behind = NULL;
        wq_job_unref(job);
    }
}

void wq_effects_tell_locked(wq_effects *fx, wq_job *job)
{
    if (fx->job == job)
        return;
    if (fx->job == NULL)
        fx->job = wq_job_ref(job);
    else
        STAILQ_INSERT_TAIL(&fx->more, wq_job_ref(job), to_tell);
}

void wq_effects_tell_positions_locked(wq_queue *q, wq_effects *fx)
{
    fx->positions |= wq_n_in_order(q) > 0;
}

void wq_effects_answer_locked(wq_effects *fx, wq_job *job, wq_job *given, int rebuild)
{
    struct wq_asks later = STAILQ_HEAD_INITIALIZER(later);
    wq_ask *ask;
    while ((ask = STAILQ_FIRST(&job->asks)) != NULL) {
        STAILQ_REMOVE_HEAD(&job->asks, link);
        if (given != NULL && ask->needs_rebuild && !rebuild) {
            STAILQ_INSERT_TAIL(&later, ask, link);
            continue;
        }
        ask->job = wq_job_ref(given);
        STAILQ_INSERT_TAIL(&fx->asks, ask, link);
    }
    STAILQ_CONCAT(&job->asks, &later);
}
