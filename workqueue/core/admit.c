/* admit.c - how a job comes into the queue: room, its line, those who asked for it, the journal's
 * answer; and jobs of an earlier process. */
#include "workqueue/core/admit.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/core/life.h"
#include "workqueue/core/line.h"

/* Outputs that an asynchronous runner has ready are not bounded by its runs. */
static size_t n_waiting(const wq_queue *q)
{
    return wq_n_in_order(q) + q->n[WQ_PHASE_ADMITTING] + q->n[WQ_PHASE_PUT_OFF] +
           (q->asynchronous ? q->n[WQ_PHASE_HANDED] : 0);
}

/* Jobs that an idle worker is about to take do not wait. */
static int is_full_locked(const wq_queue *q)
{
    size_t waiting = n_waiting(q);
    size_t idle = q->workers > wq_n_running(q) ? q->workers - wq_n_running(q) : 0;
    return waiting >= idle && waiting - idle >= q->max_queue;
}

static int counts_users(const wq_queue *q)
{
    return q->fair || q->max_per_user > 0;
}

/* A proxy's address is everybody's. */
static int is_limited_peer(const wq_queue *q, const char *peer)
{
    return q->max_per_peer > 0 && *peer != '\0' &&
           (q->counts_local || (strcmp(peer, "127.0.0.1") != 0 && strcmp(peer, "::1") != 0));
}

static int check_room_locked(wq_queue *q, const wq_job *job, wq_error *error)
{
    const wq_params *params = &job->params;
    const wq_user *user = q->max_per_user > 0 ? wq_users_find(&q->users, params->api_token) : NULL;
    const wq_user *server =
        q->max_per_server > 0 ? wq_users_find(&q->servers, params->server) : NULL;
    const wq_user *peer =
        is_limited_peer(q, job->peer) ? wq_users_find(&q->peers, job->peer) : NULL;
    if (q->stopping)
        return wq_fail(error, WQ_ERROR_CLOSING, "the queue is stopping and takes no new jobs");
    if (user != NULL && user->n_jobs >= q->max_per_user)
        return wq_fail(error, WQ_ERROR_USER_FULL,
                       "%zu jobs of this API token wait or run, as many as may; try again later",
                       user->n_jobs);
    if (server != NULL && server->n_jobs >= q->max_per_server)
        return wq_fail(error, WQ_ERROR_USER_FULL,
                       "%zu jobs of this server wait or run, as many as may; try again later",
                       server->n_jobs);
    if (peer != NULL && peer->n_jobs >= q->max_per_peer)
        return wq_fail(error, WQ_ERROR_USER_FULL,
                       "%zu jobs from this address wait or run, as many as may; try again later",
                       peer->n_jobs);
    if (is_full_locked(q))
        return wq_fail(error, WQ_ERROR_FULL,
                       "%zu jobs are waiting, as many as may; try again later", n_waiting(q));
    return WQ_OK;
}

/* Among those of its user, server and peer. 0, or -1 without memory, and some of it is done. */
static int count_in_locked(wq_queue *q, wq_job *job)
{
    enum { USER, SERVER, PEER };
    const wq_params *params = &job->params;
    const int has_peer = is_limited_peer(q, job->peer) || (q->fair && *job->peer != '\0');
    const wq_user *user = counts_users(q) ? wq_users_find(&q->users, params->api_token) : NULL;
    const wq_user *peer = has_peer ? wq_users_find(&q->peers, job->peer) : NULL;
    job->order.rank = q->fair ? wq_users_rank(&q->users, user, peer) : (uint64_t)job->entry.seq;
    for (size_t i = 0; i < sizeof job->members / sizeof job->members[0]; i++)
        job->members[i] = (wq_member){.job = job, .rank = job->order.rank};
    if (has_peer && wq_users_add(&q->peers, &job->members[PEER], job->peer, NULL) != 0)
        return -1;
    if (counts_users(q) && wq_users_add(&q->users, &job->members[USER], params->api_token,
                                        job->members[PEER].user) != 0)
        return -1;
    if (q->max_per_server > 0)
        return wq_users_add(&q->servers, &job->members[SERVER], params->server, NULL);
    return 0;
}

/* Counts it in, indexes it and puts it in line; the core takes its reference. */
static int enter_locked(wq_queue *q, wq_job *job, wq_error *error)
{
    if (count_in_locked(q, job) != 0)
        goto failed;
    if (wq_known_add(&q->known, job) != 0)
        goto failed;
    if (wq_line_join_locked(q, job) != 0) {
        wq_known_remove(&q->known, job);
        goto failed;
    }
    wq_job_ref(job);
    return WQ_OK;
failed:
    wq_count_out_locked(job);
    return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

static void line_up_locked(wq_queue *q, wq_job *job)
{
    wq_set_phase(q, job, wq_line_is_head_locked(q, job) ? WQ_PHASE_WAITING : WQ_PHASE_BLOCKED);
}

int wq_life_admit_locked(wq_queue *q, wq_job *job, wq_ask *ask, wq_effects *fx, wq_error *error)
{
    int result = check_room_locked(q, job, error);
    job->entry.seq = q->next_seq;
    job->entry.queued_at_ms = job->queued_at_ms;
    if (result == WQ_OK)
        result = enter_locked(q, job, error);
    if (result != WQ_OK)
        return result;
    q->next_seq++;
    if (q->recorder.self == NULL) {
        line_up_locked(q, job);
        wq_effects_tell_locked(fx, job);
        fx->positions |= q->fair; /* it may have come in front of others */
        return WQ_OK;
    }
    assert(ask != NULL);
    wq_set_phase(q, job, WQ_PHASE_ADMITTING);
    ask->result = WQ_OK;
    STAILQ_INSERT_TAIL(&job->asks, ask, link);
    wq_record_locked(q, job, WQ_WANT_WAITING, NULL, wq_company_of(q));
    return WQ_PENDING;
}

/* Who asks now would be told of a job that does not do what he asks for. */
static int is_ending(const wq_job *job)
{
    return job->wish >= WQ_WISH_CANCEL || job->output_deleted ||
           (job->phase == WQ_PHASE_SETTLING && job->end.state != WQ_STATE_SUCCEEDED);
}

/* A rebuild joins what has not begun: it becomes one, or is one that was sent as such. */
static int may_rebuild(const wq_job *job)
{
    return job->phase == WQ_PHASE_ADMITTING || job->phase == WQ_PHASE_BLOCKED ||
           job->phase == WQ_PHASE_WAITING || (job->phase == WQ_PHASE_SENT && job->rebuild);
}

wq_job *wq_life_joinable_locked(wq_queue *q, const char *key, unsigned flags)
{
    wq_job *job = wq_line_head_locked(q, key);
    while (job != NULL && (is_ending(job) || ((flags & WQ_ENSURE_REBUILD) && !may_rebuild(job))))
        job = job->behind;
    return job;
}

static int wait_for_answer_locked(wq_job *job, wq_ask *ask, int result, unsigned flags)
{
    assert(ask != NULL);
    ask->result = result;
    ask->needs_rebuild = (flags & WQ_ENSURE_REBUILD) != 0;
    STAILQ_INSERT_TAIL(&job->asks, ask, link);
    return WQ_PENDING;
}

int wq_life_join_locked(wq_queue *q, wq_job *job, unsigned flags, wq_ask *ask, int result,
                        wq_job **out)
{
    const int becomes_rebuild = (flags & WQ_ENSURE_REBUILD) && !job->rebuild;
    if (!(flags & WQ_ENSURE_TENTATIVE))
        job->tentative = 0;
    if (becomes_rebuild) {
        job->rebuild = 1;
        wq_record_locked(q, job, WQ_WANT_WAITING, NULL, wq_company_of(q));
    }
    if (job->phase == WQ_PHASE_ADMITTING || (becomes_rebuild && q->recorder.self != NULL) ||
        !STAILQ_EMPTY(&job->asks))
        return wait_for_answer_locked(job, ask, result, flags);
    *out = wq_job_ref(job);
    return result;
}

int wq_life_remember_locked(wq_queue *q, wq_job *job, wq_ask *ask, wq_effects *fx, wq_job **out)
{
    wq_end end = wq_end_now(WQ_STATE_SUCCEEDED, 0, NULL);
    if (wq_known_add(&q->known, job) != 0)
        return WQ_ERROR_NO_MEMORY;
    job->entry.seq = q->next_seq++;
    job->entry.queued_at_ms = job->queued_at_ms;
    wq_set_phase(q, job, WQ_PHASE_ENDED);
    wq_job_set_end(job, &end);
    wq_known_end(&q->known, wq_job_ref(job));
    wq_evict_locked(q, fx);
    if (q->recorder.self == NULL) {
        *out = wq_job_ref(job);
        return WQ_DONE;
    }
    wq_record_locked(q, job, WQ_WANT_ENDED, &end, wq_company_of(q));
    return wait_for_answer_locked(job, ask, WQ_DONE, 0);
}

/* ---- the journal's answer -------------------------------------------------------------------- */

/* It was not let in: everything is as if it had never been. */
static void refuse_locked(wq_queue *q, wq_job *job, const wq_error *error, wq_effects *fx)
{
    wq_end end = wq_end_now(WQ_STATE_FAILED, WQ_RETURNCODE_OWN, error->message);
    const int was_head = wq_line_is_head_locked(q, job);
    fx->error = *error;
    wq_effects_answer_locked(fx, job, NULL, 1);
    wq_line_leave_locked(q, job);
    if (was_head)
        wq_promote_locked(q, job->key, 0, fx);
    wq_count_out_locked(job);
    wq_known_remove(&q->known, job);
    wq_set_phase(q, job, WQ_PHASE_GONE);
    wq_job_set_end(job, &end);
    job->behind = fx->evicted; /* the core's reference */
    fx->evicted = job;
}

static void accept_locked(wq_queue *q, wq_job *job, int rebuild, wq_effects *fx)
{
    wq_effects_answer_locked(fx, job, job, rebuild);
    wq_effects_tell_locked(fx, job);
    line_up_locked(q, job);
    if (q->stopping && job->wish == WQ_WISH_NONE)
        job->wish = WQ_WISH_STOP;
    if (job->wish != WQ_WISH_NONE)
        wq_decide_end_locked(q, job, wq_end_now(WQ_STATE_CANCELLED, WQ_RETURNCODE_OWN, NULL), fx);
    else
        fx->positions |= q->fair; /* it may have come in front of others */
}

void wq_life_written(void *queue, wq_entry *entry, const wq_written *w)
{
    wq_queue *q = queue;
    wq_job *job = (wq_job *)((char *)entry - offsetof(wq_job, entry));
    wq_effects fx;
    wq_effects_init(&fx);
    pthread_mutex_lock(&q->lock);
    if (job->phase == WQ_PHASE_ADMITTING && w->what == WQ_WRITTEN_ADDED) {
        if (w->result == WQ_OK)
            accept_locked(q, job, w->rebuild, &fx);
        else
            refuse_locked(q, job, w->error, &fx);
    } else if (job->phase == WQ_PHASE_SETTLING && w->what == WQ_WRITTEN_END) {
        /* also if it could not be written, for nothing can be done about that now */
        wq_finish_settling_locked(q, job, &fx);
    }
    if (!STAILQ_EMPTY(&job->asks)) {
        const int promised = w->result == WQ_OK || job->phase == WQ_PHASE_ENDED;
        if (!promised) {
            fx.error = *w->error;
            if (job->phase == WQ_PHASE_BLOCKED || job->phase == WQ_PHASE_WAITING)
                job->rebuild = w->rebuild; /* else the next one who asks would find it promised */
        }
        wq_effects_answer_locked(&fx, job, promised ? job : NULL,
                                 w->rebuild || job->phase >= WQ_PHASE_ENDED);
    }
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
    if (w->is_last)
        wq_job_unref(job);
}

/* ---- jobs of an earlier process -------------------------------------------------------------- */

/* How long ago a moment of an earlier process was; the clock may have been set since. */
static int64_t mono_of(int64_t unix_ms)
{
    int64_t ago = wq_unix_ms() - unix_ms;
    return wq_monotonic_ms() - (ago > 0 ? ago : 0);
}

/* Beyond what any watcher has seen of it, also of a run that was stopped or whose start was not
 * noted any more, and so is no attempt: of no job are there as many changes as microseconds. */
static uint64_t version_beyond(int attempts, int64_t queued_at_ms)
{
    int64_t age_ms = wq_unix_ms() - queued_at_ms;
    return ((uint64_t)attempts << 48) + (age_ms > 0 ? (uint64_t)age_ms << 10 : 0);
}

static int restore_ended_locked(wq_queue *q, wq_job *job, const wq_journal_row *row)
{
    wq_end end = {.state = row->end.state,
                  .returncode = row->end.returncode,
                  .error = row->end.error,
                  .at_ms = row->end.ended_at_ms,
                  .mono = mono_of(row->end.ended_at_ms)};
    if (wq_known_add(&q->known, job) != 0)
        return WQ_ERROR_NO_MEMORY;
    job->queued_mono = mono_of(row->queued_at_ms);
    job->version = row->end.version - 1; /* the end is one more */
    job->started_at_ms = row->end.started_at_ms;
    if (job->started_at_ms != 0)
        job->started_mono = mono_of(job->started_at_ms);
    wq_set_phase(q, job, WQ_PHASE_ENDED);
    wq_job_set_end(job, &end);
    wq_known_end(&q->known, wq_job_ref(job));
    return WQ_OK;
}

int wq_life_restore(wq_queue *q, wq_job *job, const wq_journal_row *row, wq_error *error)
{
    int result;
    memcpy(job->id, row->id, WQ_ID_SIZE);
    job->queued_at_ms = job->entry.queued_at_ms = row->queued_at_ms;
    job->rebuild = job->entry.have_rebuild = job->entry.want_rebuild = row->rebuild;
    job->attempts = row->attempts;
    job->was_journalled = 1;
    job->entry.seq = row->seq;
    job->entry.slot = row->slot;
    job->entry.have = row->has_ended      ? WQ_WANT_ENDED
                      : row->is_cancelled ? WQ_WANT_CANCELLED
                                          : WQ_WANT_WAITING;
    atomic_store(&job->logged, 1 + (row->has_ended ? row->end.state : WQ_STATE_QUEUED));
    pthread_mutex_lock(&q->lock);
    if (row->has_ended) {
        result = restore_ended_locked(q, job, row);
    } else {
        /* it waits anew: the time without a server was not the queue's */
        job->version = version_beyond(row->attempts, row->queued_at_ms);
        result = enter_locked(q, job, error);
        if (result == WQ_OK)
            line_up_locked(q, job);
    }
    pthread_mutex_unlock(&q->lock);
    return result == WQ_OK ? WQ_OK : wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}
