/* life.c - the life of a job: its phases, and the one place where they change. Functions named
 * _locked want the core's lock. */
#include "workqueue/core/life.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { MAX_SETTLING = 256 };

#define BIT(phase) (1u << (phase))
#define ANY_END (BIT(WQ_PHASE_SETTLING) | BIT(WQ_PHASE_ENDED))

/* What may follow each phase. */
__attribute__((unused)) static const unsigned may_follow[WQ_PHASES] = {
    [WQ_PHASE_NEW] = BIT(WQ_PHASE_ADMITTING) | BIT(WQ_PHASE_BLOCKED) | BIT(WQ_PHASE_WAITING) |
                     BIT(WQ_PHASE_ENDED),
    [WQ_PHASE_ADMITTING] =
        BIT(WQ_PHASE_BLOCKED) | BIT(WQ_PHASE_WAITING) | BIT(WQ_PHASE_GONE) | ANY_END,
    [WQ_PHASE_BLOCKED] = BIT(WQ_PHASE_WAITING) | ANY_END,
    [WQ_PHASE_WAITING] = BIT(WQ_PHASE_SENT) | BIT(WQ_PHASE_STARTING) | ANY_END,
    [WQ_PHASE_SENT] = BIT(WQ_PHASE_RUNNING) | ANY_END,
    [WQ_PHASE_STARTING] = BIT(WQ_PHASE_RUNNING) | ANY_END,
    [WQ_PHASE_RUNNING] = BIT(WQ_PHASE_HANDED) | ANY_END,
    [WQ_PHASE_HANDED] = BIT(WQ_PHASE_PUT_OFF) | ANY_END,
    [WQ_PHASE_PUT_OFF] = BIT(WQ_PHASE_PUT_OFF) | ANY_END,
    [WQ_PHASE_SETTLING] = BIT(WQ_PHASE_ENDED),
    [WQ_PHASE_ENDED] = BIT(WQ_PHASE_GONE),
};

/* What people see of each; of SETTLING the phase before, and of ENDED its end. */
static const int public_state[WQ_PHASES] = {
    [WQ_PHASE_STARTING] = WQ_STATE_RUNNING,
    [WQ_PHASE_RUNNING] = WQ_STATE_RUNNING,
    [WQ_PHASE_HANDED] = WQ_STATE_PUBLISHING,
    [WQ_PHASE_PUT_OFF] = WQ_STATE_PUBLISHING,
};

/* And what it waits for. */
static const int waits_for[WQ_PHASES] = {
    [WQ_PHASE_ADMITTING] = WQ_WAITS_FOR_WORKER, [WQ_PHASE_BLOCKED] = WQ_WAITS_FOR_JOB,
    [WQ_PHASE_WAITING] = WQ_WAITS_FOR_WORKER,   [WQ_PHASE_SENT] = WQ_WAITS_FOR_WORKER,
    [WQ_PHASE_PUT_OFF] = WQ_WAITS_FOR_STORE,
};

/* ---- the one writer of phases ---------------------------------------------------------------- */

static int is_in_order(wq_phase phase)
{
    return phase == WQ_PHASE_BLOCKED || phase == WQ_PHASE_WAITING || phase == WQ_PHASE_SENT;
}

static wq_job *job_of_node(wq_order_node *node)
{
    return (wq_job *)((char *)node - offsetof(wq_job, order));
}

static void move_in_order_locked(wq_queue *q, wq_job *job, wq_phase from, wq_phase to)
{
    if (is_in_order(from) && !is_in_order(to)) {
        wq_order_remove(&q->order, &job->order);
        TAILQ_REMOVE(&q->by_age, job, by_age);
    } else if (!is_in_order(from) && is_in_order(to)) {
        wq_order_insert(&q->order, &job->order, job->order.rank, to == WQ_PHASE_WAITING);
        TAILQ_INSERT_TAIL(&q->by_age, job, by_age);
    } else if (is_in_order(to)) {
        wq_order_set_ready(&job->order, to == WQ_PHASE_WAITING);
    }
    if (is_in_order(from) || is_in_order(to))
        atomic_store(&q->n_ready, wq_order_n_ready(&q->order));
}

static size_t n_in_order(const wq_queue *q)
{
    return q->n[WQ_PHASE_BLOCKED] + q->n[WQ_PHASE_WAITING] + q->n[WQ_PHASE_SENT];
}

static void set_phase(wq_queue *q, wq_job *job, wq_phase to)
{
    const wq_phase from = job->phase;
    assert(may_follow[from] & BIT(to));
    move_in_order_locked(q, job, from, to);
    q->n[from]--;
    q->n[to]++;
    job->phase = to;
    if (is_in_order(from) != is_in_order(to))
        wq_counters_waiting(&q->counters, n_in_order(q));
    if (to == WQ_PHASE_SETTLING) {
        job->settled = from;
    } else if (to < WQ_PHASE_SETTLING) {
        wq_job_set_state(job, public_state[to], waits_for[to]);
    }
    if (to == WQ_PHASE_WAITING)
        pthread_cond_signal(&q->work);
}

/* ---- effects --------------------------------------------------------------------------------- */

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

/* A change of one job; those that end with it are told besides. */
static void tell_locked(wq_effects *fx, wq_job *job)
{
    if (fx->job == job)
        return;
    if (fx->job == NULL)
        fx->job = wq_job_ref(job);
    else
        STAILQ_INSERT_TAIL(&fx->more, wq_job_ref(job), to_tell);
}

/* Positions are news only for those who wait. */
static void tell_positions_locked(wq_queue *q, wq_effects *fx)
{
    fx->positions |= n_in_order(q) > 0;
}

/* Everybody who asked gets the job, or if that is NULL the error; `rebuild`: also those who asked
 * for one. */
static void answer_locked(wq_effects *fx, wq_job *job, wq_job *given, int rebuild)
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

/* ---- the journal ----------------------------------------------------------------------------- */

/* The entry's reference to the job is given back by wq_life_written(). */
static void record_locked(wq_queue *q, wq_job *job, wq_want want, const wq_end *end,
                          wq_company company)
{
    wq_entry_end entry_end;
    if (q->recorder.self == NULL)
        return;
    if (end != NULL)
        entry_end = (wq_entry_end){end->state,       end->returncode,    wq_text_ref(end->error),
                                   job->version + 1, job->started_at_ms, end->at_ms};
    if (q->recorder.write(q->recorder.self, &job->entry, want, job->rebuild,
                          end != NULL ? &entry_end : NULL, company))
        wq_job_ref(job);
}

static wq_company company_of(const wq_queue *q)
{
    return wq_life_has_idle_worker(q) ? WQ_COMPANY_NONE : WQ_COMPANY_SHORT;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static wq_job *line_head_locked(const wq_queue *q, const char *key)
{
    return (wq_job *)wq_table_find(&q->by_key, key); /* a job begins with its key */
}

/* 0, or -1 without memory. */
static int join_line_locked(wq_queue *q, wq_job *job)
{
    wq_job *last = line_head_locked(q, job->key);
    if (last == NULL)
        return wq_table_add(&q->by_key, job->key);
    while (last->behind != NULL)
        last = last->behind;
    last->behind = job;
    job->was_behind = 1;
    return 0;
}

static int is_head_locked(const wq_queue *q, const wq_job *job)
{
    return line_head_locked(q, job->key) == job;
}

static void leave_line_locked(wq_queue *q, wq_job *job)
{
    wq_job *head = line_head_locked(q, job->key), *behind = job->behind;
    job->behind = NULL;
    if (head != job) {
        while (head != NULL && head->behind != job)
            head = head->behind;
        assert(head != NULL);
        head->behind = behind;
        return;
    }
    wq_table_remove(&q->by_key, job->key);
    if (behind != NULL)
        wq_table_add(&q->by_key, behind->key); /* never fails: one has just left */
}

/* ---- ends ------------------------------------------------------------------------------------ */

static const char why_stopped[] = "cancelled: the queue is stopping";
static const char why_resumes[] =
    "cancelled: the queue is stopping; the job runs when it is open again";

static void replace_end(wq_end *end, int state, const char *why)
{
    wq_text_unref(end->error);
    *end = wq_end_now(state, WQ_RETURNCODE_OWN, why);
}

/* The one place where a wish becomes an end. */
static void apply_wish_locked(const wq_queue *q, const wq_job *job, wq_end *end)
{
    switch (job->wish) {
    case WQ_WISH_LIMIT:
        replace_end(end, WQ_STATE_FAILED, job->why);
        break;
    case WQ_WISH_CANCEL:
        replace_end(end, WQ_STATE_CANCELLED, "cancelled");
        break;
    case WQ_WISH_STOP:
        if (end->state == WQ_STATE_SUCCEEDED)
            break;
        replace_end(end, WQ_STATE_CANCELLED, q->recorder.self ? why_resumes : why_stopped);
        end->resumes = q->recorder.self != NULL;
        break;
    case WQ_WISH_NONE:
        break;
    }
}

static void detach_run_locked(wq_job *job)
{
    wq_run_state *run = job->run;
    if (run == NULL)
        return;
    job->run = NULL;
    run->job = NULL;
}

static void count_out_locked(wq_job *job)
{
    for (size_t i = 0; i < sizeof job->members / sizeof job->members[0]; i++)
        wq_users_remove(&job->members[i]);
}

static void evict_locked(wq_queue *q, wq_effects *fx)
{
    wq_job *job = wq_known_evict(&q->known, 0); /* one out for each one in keeps the bound */
    if (job == NULL)
        return;
    set_phase(q, job, WQ_PHASE_GONE);
    job->behind = fx->evicted;
    fx->evicted = job;
}

static void decide_end_locked(wq_queue *q, wq_job *job, wq_end end, wq_effects *fx);

/* Its key is free: the next in line may run, or need not. */
static void promote_locked(wq_queue *q, const char *key, int succeeded, wq_effects *fx)
{
    wq_job *next = line_head_locked(q, key);
    if (next == NULL || next->phase != WQ_PHASE_BLOCKED)
        return; /* one that is ADMITTING finds itself head of its line when the journal has it */
    if (succeeded && !next->rebuild)
        decide_end_locked(q, next, wq_end_now(WQ_STATE_SUCCEEDED, 0, NULL), fx);
    else
        set_phase(q, next, WQ_PHASE_WAITING);
}

/* SETTLING, or what need not settle, to ENDED. */
static void end_locked(wq_queue *q, wq_job *job, wq_end end, wq_effects *fx)
{
    char key[WQ_KEY_SIZE];
    memcpy(key, job->key, sizeof key);
    const int was_head = is_head_locked(q, job), succeeded = end.state == WQ_STATE_SUCCEEDED;
    count_out_locked(job);
    ++*wq_life_generation_locked(q, job->key);
    wq_counters_end(&q->counters, end.state);
    leave_line_locked(q, job);
    set_phase(q, job, WQ_PHASE_ENDED);
    wq_job_set_end(job, &end);
    tell_locked(fx, job);
    wq_known_end(&q->known, job);
    evict_locked(q, fx);
    if (was_head)
        promote_locked(q, key, succeeded, fx);
}

/* Every end passes here. It is told at once, or when the journal has it; meanwhile who asks joins a
 * job that has succeeded, and else gets another. */
static void decide_end_locked(wq_queue *q, wq_job *job, wq_end end, wq_effects *fx)
{
    const int ran = job->phase == WQ_PHASE_RUNNING;
    assert(job->phase < WQ_PHASE_SETTLING);
    apply_wish_locked(q, job, &end);
    detach_run_locked(job);
    if (ran)
        wq_counters_over(&q->counters, end.mono - job->started_mono);
    tell_positions_locked(q, fx);
    if (q->recorder.self == NULL || end.resumes) {
        record_locked(q, job, WQ_WANT_WAITING, NULL, WQ_COMPANY_STOPPED);
        end_locked(q, job, end, fx);
        return;
    }
    job->end = end;
    set_phase(q, job, WQ_PHASE_SETTLING);
    record_locked(q, job, WQ_WANT_ENDED, &end, company_of(q));
}

/* The reference of the core goes with the last effect. */
static void finish_settling_locked(wq_queue *q, wq_job *job, wq_effects *fx)
{
    wq_end end = job->end;
    job->end = (wq_end){0};
    if (q->n[WQ_PHASE_SETTLING] == MAX_SETTLING)
        pthread_cond_broadcast(&q->work);
    end_locked(q, job, end, fx);
}

static void end_job(wq_queue *q, wq_job *job, wq_end end)
{
    wq_effects fx;
    wq_effects_init(&fx);
    wq_job_ref(job); /* the ended list may let go of it at once */
    pthread_mutex_lock(&q->lock);
    if (job->phase < WQ_PHASE_SETTLING)
        decide_end_locked(q, job, end, &fx);
    else
        wq_text_unref(end.error);
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
    wq_job_unref(job);
}

void wq_life_end(wq_queue *q, wq_job *job, int state, int returncode, const char *error)
{
    end_job(q, job, wq_end_now(state, returncode, error));
}

void wq_life_fail(wq_queue *q, wq_job *job, int returncode, const char *error)
{
    char reason[512];
    wq_snapshot_reason(&(wq_snapshot){.returncode = returncode, .error = error}, reason,
                       sizeof reason);
    wq_log(&q->logger, WQ_LOG_WARNING, "job %s: %s", job->id, reason);
    wq_life_end(q, job, WQ_STATE_FAILED, returncode, error);
}

/* ---- in -------------------------------------------------------------------------------------- */

uint64_t *wq_life_generation_locked(wq_queue *q, const char *key)
{
    char two[3] = {key[0], key[1]};
    return &q->generations[strtoul(two, NULL, 16) % WQ_GENERATIONS];
}

/* Outputs that an asynchronous runner has ready are not bounded by its runs. */
static size_t n_waiting(const wq_queue *q)
{
    return n_in_order(q) + q->n[WQ_PHASE_ADMITTING] + q->n[WQ_PHASE_PUT_OFF] +
           (q->asynchronous ? q->n[WQ_PHASE_HANDED] : 0);
}

static size_t n_running(const wq_queue *q)
{
    return q->n[WQ_PHASE_STARTING] + q->n[WQ_PHASE_RUNNING];
}

/* Jobs that an idle worker is about to take do not wait. */
static int is_full_locked(const wq_queue *q)
{
    size_t waiting = n_waiting(q);
    size_t idle = q->workers > n_running(q) ? q->workers - n_running(q) : 0;
    return waiting >= idle && waiting - idle >= q->max_queue;
}

static int counts_users(const wq_queue *q)
{
    return q->fair || q->max_per_user > 0;
}

static int counts_peers(const wq_queue *q)
{
    return q->fair || q->max_per_peer > 0;
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
    const wq_user *server = q->max_per_server > 0 ? wq_users_find(&q->servers, params->server) : NULL;
    const wq_user *peer = is_limited_peer(q, job->peer) ? wq_users_find(&q->peers, job->peer) : NULL;
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
    const int has_peer = counts_peers(q) && *job->peer != '\0';
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
    if (join_line_locked(q, job) != 0) {
        wq_known_remove(&q->known, job);
        goto failed;
    }
    wq_job_ref(job);
    return WQ_OK;
failed:
    count_out_locked(job);
    return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

static void line_up_locked(wq_queue *q, wq_job *job)
{
    set_phase(q, job, is_head_locked(q, job) ? WQ_PHASE_WAITING : WQ_PHASE_BLOCKED);
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
        tell_locked(fx, job);
        fx->positions |= q->fair; /* it may have come in front of others */
        return WQ_OK;
    }
    assert(ask != NULL);
    set_phase(q, job, WQ_PHASE_ADMITTING);
    ask->result = WQ_OK;
    STAILQ_INSERT_TAIL(&job->asks, ask, link);
    record_locked(q, job, WQ_WANT_WAITING, NULL, company_of(q));
    return WQ_PENDING;
}

/* Who asks now would be told of a job that does not do what he asks for. */
static int is_ending(const wq_job *job)
{
    return job->wish >= WQ_WISH_CANCEL ||
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
    wq_job *job = line_head_locked(q, key);
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
        record_locked(q, job, WQ_WANT_WAITING, NULL, company_of(q));
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
    set_phase(q, job, WQ_PHASE_ENDED);
    wq_job_set_end(job, &end);
    wq_known_end(&q->known, wq_job_ref(job));
    evict_locked(q, fx);
    if (q->recorder.self == NULL) {
        *out = wq_job_ref(job);
        return WQ_DONE;
    }
    record_locked(q, job, WQ_WANT_ENDED, &end, company_of(q));
    return wait_for_answer_locked(job, ask, WQ_DONE, 0);
}

/* ---- through --------------------------------------------------------------------------------- */

int wq_life_has_idle_worker(const wq_queue *q)
{
    return atomic_load(&q->n_ready) < q->workers;
}

int wq_life_has_ready_locked(const wq_queue *q)
{
    return wq_order_n_ready(&q->order) > 0 && q->n[WQ_PHASE_SETTLING] < MAX_SETTLING;
}

static wq_job *attach_first_locked(wq_queue *q, wq_run_state *run, wq_phase to)
{
    wq_job *job = job_of_node(wq_order_first_ready(&q->order));
    wq_users_taken(&q->users, job->order.rank);
    set_phase(q, job, to);
    *run = (wq_run_state){.job = job, .request_stop = run->request_stop};
    job->run = run;
    return wq_job_ref(job);
}

static void begin_locked(wq_queue *q, wq_job *job)
{
    wq_counters_begin(&q->counters, wq_monotonic_ms() - job->queued_mono);
}

wq_job *wq_life_take(wq_queue *q, wq_run_state *run, int wait)
{
    wq_job *job = NULL;
    pthread_mutex_lock(&q->lock);
    while (wait && !wq_life_has_ready_locked(q) && !q->stopping)
        pthread_cond_wait(&q->work, &q->lock);
    if (wq_life_has_ready_locked(q) && !q->stopping) {
        job = attach_first_locked(q, run, WQ_PHASE_STARTING);
        begin_locked(q, job);
        record_locked(q, job, WQ_WANT_STARTED, NULL, WQ_COMPANY_STARTED);
    }
    if (q->n[WQ_PHASE_ADMITTING] > 0 && wq_life_has_idle_worker(q))
        q->recorder.flush_soon(q->recorder.self);
    pthread_mutex_unlock(&q->lock);
    if (job != NULL)
        wq_job_news_tell(&q->news, job);
    return job;
}

wq_job *wq_life_send_locked(wq_queue *q, wq_run_state *run)
{
    return attach_first_locked(q, run, WQ_PHASE_SENT);
}

int wq_life_begin(wq_queue *q, wq_run_state *run, uint64_t estimate_ms)
{
    wq_effects fx;
    wq_effects_init(&fx);
    pthread_mutex_lock(&q->lock);
    wq_job *job = run->job;
    int begins = job != NULL && job->wish == WQ_WISH_NONE &&
                 (job->phase == WQ_PHASE_STARTING || job->phase == WQ_PHASE_SENT);
    if (job != NULL && estimate_ms > 0)
        job->estimate_ms = estimate_ms;
    if (begins) {
        const int was_sent = job->phase == WQ_PHASE_SENT;
        run->begun = wq_monotonic_ms();
        set_phase(q, job, WQ_PHASE_RUNNING);
        if (was_sent) {
            begin_locked(q, job);
            record_locked(q, job, WQ_WANT_STARTED, NULL, WQ_COMPANY_STARTED);
            tell_locked(&fx, job);
            tell_positions_locked(q, &fx); /* those in front of it have one more who runs */
        }
    }
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
    return begins;
}

wq_job *wq_life_detach(wq_queue *q, wq_run_state *run)
{
    pthread_mutex_lock(&q->lock);
    wq_job *job = run->job;
    if (job != NULL)
        detach_run_locked(job);
    pthread_mutex_unlock(&q->lock);
    return job;
}

int wq_life_hand(wq_queue *q, wq_job *job)
{
    wq_effects fx;
    wq_effects_init(&fx);
    wq_job_ref(job);
    pthread_mutex_lock(&q->lock);
    const int goes_on = job->wish < WQ_WISH_CANCEL;
    detach_run_locked(job);
    if (!goes_on) {
        decide_end_locked(q, job, wq_end_now(WQ_STATE_SUCCEEDED, 0, NULL), &fx);
    } else {
        wq_counters_over(&q->counters, wq_monotonic_ms() - job->started_mono);
        set_phase(q, job, WQ_PHASE_HANDED);
        tell_positions_locked(q, &fx);
    }
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
    wq_job_unref(job);
    return goes_on;
}

void wq_life_put_off(wq_queue *q, wq_job *job)
{
    pthread_mutex_lock(&q->lock);
    set_phase(q, job, WQ_PHASE_PUT_OFF);
    pthread_mutex_unlock(&q->lock);
}

/* ---- the journal's answers ------------------------------------------------------------------- */

/* It was not let in: everything is as if it had never been. */
static void refuse_locked(wq_queue *q, wq_job *job, const wq_error *error, wq_effects *fx)
{
    wq_end end = wq_end_now(WQ_STATE_FAILED, WQ_RETURNCODE_OWN, error->message);
    const int was_head = is_head_locked(q, job);
    fx->error = *error;
    answer_locked(fx, job, NULL, 1);
    leave_line_locked(q, job);
    if (was_head)
        promote_locked(q, job->key, 0, fx);
    count_out_locked(job);
    wq_known_remove(&q->known, job);
    set_phase(q, job, WQ_PHASE_GONE);
    wq_job_set_end(job, &end);
    job->behind = fx->evicted; /* the core's reference */
    fx->evicted = job;
}

static void accept_locked(wq_queue *q, wq_job *job, int rebuild, wq_effects *fx)
{
    answer_locked(fx, job, job, rebuild);
    tell_locked(fx, job);
    line_up_locked(q, job);
    if (q->stopping && job->wish == WQ_WISH_NONE)
        job->wish = WQ_WISH_STOP;
    if (job->wish != WQ_WISH_NONE)
        decide_end_locked(q, job, wq_end_now(WQ_STATE_CANCELLED, WQ_RETURNCODE_OWN, NULL), fx);
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
        finish_settling_locked(q, job, &fx);
    }
    if (!STAILQ_EMPTY(&job->asks)) {
        const int promised = w->result == WQ_OK || job->phase == WQ_PHASE_ENDED;
        if (!promised)
            fx.error = *w->error;
        answer_locked(&fx, job, promised ? job : NULL, w->rebuild || job->phase >= WQ_PHASE_ENDED);
    }
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
    if (w->is_last)
        wq_job_unref(job);
}

/* ---- restoring ------------------------------------------------------------------------------- */

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
    set_phase(q, job, WQ_PHASE_ENDED);
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
    job->entry.have = row->has_ended ? WQ_WANT_ENDED : WQ_WANT_WAITING;
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

/* ---- wishes ---------------------------------------------------------------------------------- */

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
    if (is_in_order(job->phase))
        decide_end_locked(q, job, wq_end_now(WQ_STATE_CANCELLED, WQ_RETURNCODE_OWN, NULL), fx);
}

static int cancel_locked(wq_queue *q, wq_job *job, wq_effects *fx)
{
    if (job->phase == WQ_PHASE_SETTLING)
        return job->end.state == WQ_STATE_CANCELLED ? WQ_OK : WQ_DONE;
    if (!is_early(job) || job->wish == WQ_WISH_LIMIT)
        return WQ_DONE;
    if (job->wish < WQ_WISH_CANCEL)
        wish_locked(q, job, WQ_WISH_CANCEL, fx);
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
    if (is_in_order(job->phase)) /* else its run says so, at its end */
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

void wq_life_interrupt(wq_queue *q, wq_job *job)
{
    wq_effects fx;
    wq_effects_init(&fx);
    pthread_mutex_lock(&q->lock);
    if (job->phase < WQ_PHASE_SETTLING) {
        if (job->wish == WQ_WISH_NONE)
            job->wish = WQ_WISH_STOP;
        decide_end_locked(q, job, wq_end_now(WQ_STATE_CANCELLED, WQ_RETURNCODE_OWN, NULL), &fx);
    }
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
}

void wq_life_forget_all(wq_queue *q)
{
    wq_job *job;
    do {
        pthread_mutex_lock(&q->lock);
        job = wq_known_evict(&q->known, 1);
        if (job != NULL)
            set_phase(q, job, WQ_PHASE_GONE);
        pthread_mutex_unlock(&q->lock);
        wq_job_unref(job);
    } while (job != NULL);
}

wq_wish wq_life_wish(wq_queue *q, const wq_job *job)
{
    pthread_mutex_lock(&q->lock);
    wq_wish wish = job->wish;
    pthread_mutex_unlock(&q->lock);
    return wish;
}

/* ---- looking --------------------------------------------------------------------------------- */

size_t wq_life_ahead_locked(wq_queue *q, const wq_job *job)
{
    if (is_in_order(job->phase))
        return n_running(q) + wq_order_position(&job->order);
    return job->phase == WQ_PHASE_ADMITTING ? n_running(q) + n_in_order(q) : 0;
}

int wq_life_count_store_result(wq_queue *q, int result)
{
    if (result < 0 && result != WQ_ERROR_NOT_FOUND && result != WQ_ERROR_INVALID_ARGUMENT)
        atomic_fetch_add(&q->store_errors, 1);
    return result;
}

int wq_life_is_in_place(wq_queue *q, const wq_job *job)
{
    return wq_life_count_store_result(q, q->store->find(q->store->self, job->key, NULL, NULL)) ==
           WQ_OK;
}

/* ---- the core itself ------------------------------------------------------------------------- */

/* What one peer may have where nothing was said. */
static size_t share_of_peer(const wq_options *o)
{
    enum { COUNT_FROM = 256, USERS = 10 };
    const size_t half = o->max_queue < COUNT_FROM ? 0 : o->workers + o->max_queue / 2;
    const size_t users = o->max_per_user < SIZE_MAX / USERS ? o->max_per_user * USERS : 0;
    return users != 0 && (half == 0 || users < half) ? users : half;
}

int wq_life_init(wq_queue *q, const wq_options *o)
{
    uint64_t secret;
    atomic_init(&q->n_ready, 0);
    q->logger = (wq_logger){o->log, o->log_user};
    q->max_queue = o->max_queue;
    q->max_per_user = o->max_per_user;
    q->max_per_server = o->max_per_server;
    q->max_per_peer = o->max_per_peer != 0 ? o->max_per_peer : share_of_peer(o);
    q->counts_local = o->max_per_peer != 0;
    q->fair = o->fair;
    q->workers = o->workers;
    q->run_timeout_ms = o->run_timeout_ms;
    q->progress_timeout_ms = o->progress_timeout_ms;
    q->queue_timeout_ms = o->queue_timeout_ms;
    q->max_output_bytes = o->max_output_bytes;
    q->stderr_bytes = o->stderr_tail_bytes;
    q->max_attempts = o->max_attempts;
    q->next_seq = 1;
    wq_watchers_init(&q->watchers);
    wq_job_news_init(&q->news, &q->logger, &q->store);
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->work, NULL);
    wq_cond_init(&q->stopped);
    pthread_cond_init(&q->unused, NULL);
    TAILQ_INIT(&q->by_age);
    if (getrandom(&q->order.random, sizeof q->order.random, 0) < 0 ||
        getrandom(&secret, sizeof secret, 0) < 0)
        return -1;
    q->order.random |= 1;
    q->by_key = (wq_table){.len = WQ_KEY_SIZE, .secret = secret};
    wq_known_init(&q->known, o, secret);
    return 0;
}

void wq_life_dispose(wq_queue *q)
{
    pthread_cond_destroy(&q->work);
    pthread_cond_destroy(&q->stopped);
    pthread_cond_destroy(&q->unused);
    pthread_mutex_destroy(&q->lock);
    wq_watchers_dispose(&q->watchers);
    wq_job_news_dispose(&q->news);
    wq_table_clear(&q->by_key);
    wq_known_dispose(&q->known);
}
