/* known.c - the jobs that can be found. */
#include "workqueue/core/known.h"

#include <stddef.h>

#include "workqueue/util/clocks.h"

void wq_known_init(wq_known *known, const wq_options *options, uint64_t secret)
{
    known->max_ended = options->max_ended;
    known->retain_ms = options->retain_ended_ms;
    known->max_error_bytes = options->max_error_bytes;
    known->by_id = (wq_table){.len = WQ_ID_SIZE, .secret = secret};
    known->by_done_key = (wq_table){.len = WQ_KEY_SIZE, .secret = secret};
    TAILQ_INIT(&known->ended);
}

void wq_known_dispose(wq_known *known)
{
    wq_table_clear(&known->by_id);
    wq_table_clear(&known->by_done_key);
}

int wq_known_add(wq_known *known, wq_job *job)
{
    return wq_table_add(&known->by_id, job->id);
}

void wq_known_remove(wq_known *known, wq_job *job)
{
    wq_table_remove(&known->by_id, job->id);
}

static int is_old(const wq_known *known, const wq_job *job)
{
    return job->phase == WQ_PHASE_ENDED && wq_monotonic_ms() - job->ended_mono > known->retain_ms;
}

/* Long errors of old jobs make room for those of newer ones. */
static void bound_errors(wq_known *known)
{
    while (known->error_bytes > known->max_error_bytes && known->oldest_long != NULL) {
        known->error_bytes -= wq_job_shorten_error(known->oldest_long);
        known->oldest_long = TAILQ_NEXT(known->oldest_long, ended);
    }
}

/* Without memory for an index it is not found by its key, which costs an id of its own and nothing
 * else. One from the journal has no token, so nobody can ask for its key. */
void wq_known_end(wq_known *known, wq_job *job)
{
    TAILQ_INSERT_TAIL(&known->ended, job, ended);
    known->n_ended++;
    known->error_bytes += wq_job_error_bytes(job);
    if (known->oldest_long == NULL)
        known->oldest_long = job;
    bound_errors(known);
    if (job->state != WQ_STATE_SUCCEEDED || *job->params.api_token == '\0')
        return;
    const char *earlier = wq_table_find(&known->by_done_key, job->key);
    if (earlier != NULL)
        wq_table_remove(&known->by_done_key, earlier);
    wq_table_add(&known->by_done_key, job->key);
}

wq_job *wq_known_evict(wq_known *known, int all)
{
    wq_job *job = TAILQ_FIRST(&known->ended);
    if (job == NULL || (!all && known->n_ended <= known->max_ended && !is_old(known, job)))
        return NULL;
    if (known->oldest_long == job)
        known->oldest_long = TAILQ_NEXT(job, ended);
    known->error_bytes -= wq_job_error_bytes(job);
    TAILQ_REMOVE(&known->ended, job, ended);
    known->n_ended--;
    wq_table_remove(&known->by_id, job->id);
    wq_table_remove(&known->by_done_key, job->key); /* unless a later one has its place */
    return job;
}

wq_job *wq_known_by_id(const wq_known *known, const char *id)
{
    const char *found = wq_table_find(&known->by_id, id);
    wq_job *job = found ? (wq_job *)(found - offsetof(wq_job, id)) : NULL;
    return job != NULL && !is_old(known, job) ? job : NULL;
}

/* Not one that would soon be unknown: who gets it may still ask for it by its id. */
wq_job *wq_known_done(const wq_known *known, const char *key)
{
    wq_job *job = (wq_job *)wq_table_find(&known->by_done_key, key); /* it begins with its key */
    int is_young = job != NULL && wq_monotonic_ms() - job->ended_mono <= known->retain_ms / 2;
    return is_young ? job : NULL;
}
