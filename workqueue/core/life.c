/* life.c - the phases of a job, and the one place where they change; its run, and its end.
 * Functions named _locked want the core's lock. */
#include "workqueue/core/life.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "workqueue/core/line.h"

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

int wq_is_in_order(wq_phase phase)
{
    return phase == WQ_PHASE_BLOCKED || phase == WQ_PHASE_WAITING || phase == WQ_PHASE_SENT;
}

static wq_job *job_of_node(wq_order_node *node)
{
    return (wq_job *)((char *)node - offsetof(wq_job, order));
}

static void move_in_order_locked(wq_queue *q, wq_job *job, wq_phase from, wq_phase to)
{
    if (wq_is_in_order(from) && !wq_is_in_order(to)) {
        wq_order_remove(&q->order, &job->order);
        TAILQ_REMOVE(&q->by_age, job, by_age);
    } else if (!wq_is_in_order(from) && wq_is_in_order(to)) {
        wq_order_insert(&q->order, &job->order, job->order.rank, to == WQ_PHASE_WAITING);
        TAILQ_INSERT_TAIL(&q->by_age, job, by_age);
    } else if (wq_is_in_order(to)) {
        wq_order_set_ready(&job->order, to == WQ_PHASE_WAITING);
    }
    if (wq_is_in_order(from) || wq_is_in_order(to))
        atomic_store(&q->n_ready, wq_order_n_ready(&q->order));
}

size_t wq_n_running(const wq_queue *q)
{
    return q->n[WQ_PHASE_STARTING] + q->n[WQ_PHASE_RUNNING];
}

void wq_set_phase(wq_queue *q, wq_job *job, wq_phase to)
{
    const wq_phase from = job->phase;
    assert(may_follow[from] & BIT(to));
    move_in_order_locked(q, job, from, to);
    q->n[from]--;
    q->n[to]++;
    job->phase = to;
    if (wq_is_in_order(from) != wq_is_in_order(to))
        wq_counters_waiting(&q->counters, wq_n_in_order(q));
    if (to == WQ_PHASE_SETTLING) {
        job->settled = from;
    } else if (to < WQ_PHASE_SETTLING) {
        wq_job_set_state(job, public_state[to], waits_for[to]);
    }
    if (to == WQ_PHASE_WAITING)
        pthread_cond_signal(&q->work);
}

/* ---- the journal ----------------------------------------------------------------------------- */

void wq_record_locked(wq_queue *q, wq_job *job, wq_want want, const wq_end *end, wq_company company)
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

wq_company wq_company_of(const wq_queue *q)
{
    return wq_life_has_idle_worker(q) ? WQ_COMPANY_NONE : WQ_COMPANY_SHORT;
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

void wq_count_out_locked(wq_job *job)
{
    for (size_t i = 0; i < sizeof job->members / sizeof job->members[0]; i++)
        wq_users_remove(&job->members[i]);
}

void wq_evict_locked(wq_queue *q, wq_effects *fx)
{
    wq_job *job = wq_known_evict(&q->known, 0); /* one out for each one in keeps the bound */
    if (job == NULL)
        return;
    wq_set_phase(q, job, WQ_PHASE_GONE);
    job->behind = fx->evicted;
    fx->evicted = job;
}

void wq_promote_locked(wq_queue *q, const char *key, int succeeded, wq_effects *fx)
{
    wq_job *next = wq_line_head_locked(q, key);
    if (next == NULL || next->phase != WQ_PHASE_BLOCKED)
        return; /* one that is ADMITTING finds itself head of its line when the journal has it */
    if (succeeded && !next->rebuild)
        wq_decide_end_locked(q, next, wq_end_now(WQ_STATE_SUCCEEDED, 0, NULL), fx);
    else
        wq_set_phase(q, next, WQ_PHASE_WAITING);
}

uint64_t *wq_life_generation_locked(wq_queue *q, const char *key)
{
    char two[3] = {key[0], key[1]};
    return &q->generations[strtoul(two, NULL, 16) % WQ_GENERATIONS];
}

/* SETTLING, or what need not settle, to ENDED. */
static void end_locked(wq_queue *q, wq_job *job, wq_end end, wq_effects *fx)
{
    char key[WQ_KEY_SIZE];
    memcpy(key, job->key, sizeof key);
    const int was_head = wq_line_is_head_locked(q, job),
              succeeded = end.state == WQ_STATE_SUCCEEDED && !job->output_deleted;
    wq_count_out_locked(job);
    ++*wq_life_generation_locked(q, job->key);
    wq_counters_end(&q->counters, end.state);
    wq_line_leave_locked(q, job);
    wq_set_phase(q, job, WQ_PHASE_ENDED);
    wq_job_set_end(job, &end);
    wq_effects_tell_locked(fx, job);
    wq_known_end(&q->known, job);
    wq_evict_locked(q, fx);
    if (was_head)
        wq_promote_locked(q, key, succeeded, fx);
}

void wq_decide_end_locked(wq_queue *q, wq_job *job, wq_end end, wq_effects *fx)
{
    const int ran = job->phase == WQ_PHASE_RUNNING;
    assert(job->phase < WQ_PHASE_SETTLING);
    apply_wish_locked(q, job, &end);
    detach_run_locked(job);
    if (ran)
        wq_counters_over(&q->counters, end.mono - job->started_mono);
    wq_effects_tell_positions_locked(q, fx);
    if (q->recorder.self == NULL || end.resumes) {
        wq_record_locked(q, job, WQ_WANT_WAITING, NULL, WQ_COMPANY_STOPPED);
        end_locked(q, job, end, fx);
        return;
    }
    job->end = end;
    wq_set_phase(q, job, WQ_PHASE_SETTLING);
    wq_record_locked(q, job, WQ_WANT_ENDED, &end, wq_company_of(q));
}

void wq_finish_settling_locked(wq_queue *q, wq_job *job, wq_effects *fx)
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
        wq_decide_end_locked(q, job, end, &fx);
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
    wq_set_phase(q, job, to);
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
        wq_record_locked(q, job, WQ_WANT_STARTED, NULL, WQ_COMPANY_STARTED);
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
        wq_set_phase(q, job, WQ_PHASE_RUNNING);
        if (was_sent) {
            begin_locked(q, job);
            wq_record_locked(q, job, WQ_WANT_STARTED, NULL, WQ_COMPANY_STARTED);
            wq_effects_tell_locked(&fx, job);
            wq_effects_tell_positions_locked(q,
                                             &fx); /* those in front of it have one more who runs */
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
        wq_decide_end_locked(q, job, wq_end_now(WQ_STATE_SUCCEEDED, 0, NULL), &fx);
    } else {
        wq_counters_over(&q->counters, wq_monotonic_ms() - job->started_mono);
        wq_set_phase(q, job, WQ_PHASE_HANDED);
        wq_effects_tell_positions_locked(q, &fx);
    }
    pthread_mutex_unlock(&q->lock);
    wq_effects_carry_out(q, &fx);
    wq_job_unref(job);
    return goes_on;
}

void wq_life_put_off(wq_queue *q, wq_job *job)
{
    pthread_mutex_lock(&q->lock);
    wq_set_phase(q, job, WQ_PHASE_PUT_OFF);
    pthread_mutex_unlock(&q->lock);
}

/* ---- looking --------------------------------------------------------------------------------- */

size_t wq_life_ahead_locked(wq_queue *q, const wq_job *job)
{
    if (wq_is_in_order(job->phase))
        return wq_n_running(q) + wq_order_position(&job->order);
    return job->phase == WQ_PHASE_ADMITTING ? wq_n_running(q) + wq_n_in_order(q) : 0;
}

int wq_life_count_store_result(wq_queue *q, int result)
{
    const int fails =
        result < 0 && result != WQ_ERROR_NOT_FOUND && result != WQ_ERROR_INVALID_ARGUMENT;
    if (fails)
        atomic_fetch_add(&q->store_errors, 1);
    if (atomic_load(&q->store_fails) != fails)
        atomic_store(&q->store_fails, fails);
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
    wq_job_news_init(&q->news, &q->logger);
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

void wq_life_forget_all(wq_queue *q)
{
    wq_job *job;
    do {
        pthread_mutex_lock(&q->lock);
        job = wq_known_evict(&q->known, 1);
        if (job != NULL)
            wq_set_phase(q, job, WQ_PHASE_GONE);
        pthread_mutex_unlock(&q->lock);
        wq_job_unref(job);
    } while (job != NULL);
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
