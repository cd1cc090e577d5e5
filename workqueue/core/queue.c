/* queue.c - admission, one job per key, order and exact position.
 *
 * The life of a job here: admitted (by_key, by_id) - accepted by the journal, if there is one
 * (order) - taken (leaves order) - decided, until the journal has its end -
 * finished (leaves by_key, joins `ended`) - forgotten (leaves by_id).
 * Functions named _locked want the queue's lock.
 */
#include "workqueue/core/queue.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "workqueue/core/run.h"
#include "workqueue/journal/journal.h"
#include "workqueue/util/clocks.h"

enum { MAX_DECIDED = 256, STOP_FOLLOWS_MS = 1000 };

static wq_job *find_key(const wq_table *keys, const char *key)
{
    return (wq_job *)wq_table_find(keys, key); /* a job begins with its key */
}

static wq_job *find_id(const wq_table *ids, const char *id)
{
    const char *found = wq_table_find(ids, id);
    return found ? (wq_job *)(found - offsetof(wq_job, id)) : NULL;
}

static int init_tables(wq_queue *queue)
{
    uint64_t secret;
    if (getrandom(&secret, sizeof secret, 0) < 0)
        return -1;
    queue->by_key = queue->by_done_key = (wq_table){.len = WQ_KEY_SIZE, .secret = secret};
    queue->by_id = (wq_table){.len = WQ_ID_SIZE, .secret = secret};
    return 0;
}

int wq_queue_init(wq_queue *queue, const wq_options *options)
{
    atomic_init(&queue->refs, 1);
    atomic_init(&queue->n_ready, 0);
    queue->logger = (wq_logger){options->log, options->log_user};
    queue->max_queue = options->max_queue;
    queue->max_ended = options->max_ended;
    queue->max_per_user = options->max_per_user;
    queue->max_per_server = options->max_per_server;
    queue->servers.of_servers = 1;
    queue->fair = options->fair;
    queue->workers = options->workers;
    queue->retain_ended_ms = options->retain_ended_ms;
    queue->run_timeout_ms = options->run_timeout_ms;
    queue->progress_timeout_ms = options->progress_timeout_ms;
    queue->queue_timeout_ms = options->queue_timeout_ms;
    queue->max_output_bytes = options->max_output_bytes;
    wq_watchers_init(&queue->watchers);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->work, NULL);
    wq_cond_init(&queue->stops);
    TAILQ_INIT(&queue->by_age);
    TAILQ_INIT(&queue->ended);
    if (getrandom(&queue->order.random, sizeof queue->order.random, 0) < 0)
        return -1;
    queue->order.random |= 1;
    return init_tables(queue);
}

wq_queue *wq_queue_ref(wq_queue *queue)
{
    atomic_fetch_add_explicit(&queue->refs, 1, memory_order_relaxed);
    return queue;
}

void wq_queue_unref(wq_queue *queue)
{
    if (atomic_fetch_sub_explicit(&queue->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_cond_destroy(&queue->work);
    pthread_cond_destroy(&queue->stops);
    pthread_mutex_destroy(&queue->lock);
    wq_watchers_dispose(&queue->watchers);
    wq_table_clear(&queue->by_key);
    wq_table_clear(&queue->by_id);
    wq_table_clear(&queue->by_done_key);
    free(queue);
}

size_t wq_queue_ahead_locked(wq_queue *queue, const wq_job *job)
{
    if (job->decided)
        return 0;
    return queue->running + (job->pending ? queue->queued : wq_order_position(&job->order));
}

wq_job *wq_queue_by_key_locked(wq_queue *queue, const char *key)
{
    wq_job *found = find_key(&queue->by_key, key);
    return found ? wq_job_ref(found) : NULL;
}

uint64_t *wq_queue_generation_locked(wq_queue *queue, const char *key)
{
    char two[3] = {key[0], key[1]};
    return &queue->generations[strtoul(two, NULL, 16) % WQ_GENERATIONS];
}

/* ---- durations ------------------------------------------------------------------------------- */

static const double bounds_s[WQ_HISTOGRAM_BUCKETS] = {
    0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, INFINITY,
};

double wq_histogram_bound_s(unsigned i)
{
    return i < WQ_HISTOGRAM_BUCKETS ? bounds_s[i] : INFINITY;
}

static void count(wq_histogram *histogram, int64_t ms)
{
    double s = (double)ms / 1000;
    size_t i = 0;
    while (s > bounds_s[i])
        i++;
    histogram->counts[i]++;
    histogram->sum_s += s;
}

/* ---- in -------------------------------------------------------------------------------------- */

static int index_job_locked(wq_queue *queue, wq_job *job, wq_job *before)
{
    if (wq_table_add(&queue->by_id, job->id) != 0)
        return -1;
    if (before == NULL && wq_table_add(&queue->by_key, job->key) != 0) {
        wq_table_remove(&queue->by_id, job->id);
        return -1;
    }
    return 0;
}

/* Is this user at his limit? */
static int check_user_locked(wq_queue *queue, const wq_user *user, wq_error *error)
{
    if (queue->max_per_user == 0 || user == NULL || user->n_jobs < queue->max_per_user)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_USER_FULL,
                   "%zu jobs of this API token wait or run, as many as may; try again later",
                   user->n_jobs);
}

static int is_server_full_locked(wq_queue *queue, const wq_params *params)
{
    const wq_user *server =
        queue->max_per_server > 0 ? wq_users_find(&queue->servers, params) : NULL;
    return server != NULL && server->n_jobs >= queue->max_per_server;
}

static int count_in_locked(wq_queue *queue, wq_job *job)
{
    if ((queue->fair || queue->max_per_user > 0) && wq_users_add(&queue->users, job) != 0)
        return -1;
    if (queue->max_per_server == 0 || wq_users_add(&queue->servers, job) == 0)
        return 0;
    wq_users_remove(&queue->users, job);
    return -1;
}

static void count_out_locked(wq_queue *queue, wq_job *job)
{
    wq_users_remove(&queue->users, job);
    wq_users_remove(&queue->servers, job);
}

/* The queue's reference is taken, and the place in the order decided; the job waits for `before`,
 * if there is one, but not in the row. */
static int enter_locked(wq_queue *queue, wq_job *job, wq_job *before)
{
    const int counts_users = queue->fair || queue->max_per_user > 0;
    wq_user *user = counts_users ? wq_users_find(&queue->users, &job->params) : NULL;
    job->order.rank = queue->fair ? wq_users_rank(&queue->users, user) : (uint64_t)job->note.seq;
    if (count_in_locked(queue, job) != 0)
        return -1;
    if (index_job_locked(queue, job, before) != 0) {
        count_out_locked(queue, job);
        return -1;
    }
    wq_job_ref(job);
    if (before != NULL) {
        before->follower = job;
        job->blocked = 1;
    }
    return 0;
}

/* For those who do not hold the lock. */
static void look_at_row_locked(wq_queue *queue)
{
    atomic_store(&queue->n_ready, wq_order_n_ready(&queue->order));
}

int wq_queue_is_hungry(const wq_queue *queue)
{
    return atomic_load(&queue->n_ready) < queue->workers;
}

static void line_up_locked(wq_queue *queue, wq_job *job)
{
    wq_order_insert(&queue->order, &job->order, job->order.rank, !job->blocked);
    TAILQ_INSERT_TAIL(&queue->by_age, job, ended);
    queue->queued++;
    look_at_row_locked(queue);
    if (!job->blocked)
        pthread_cond_signal(&queue->work);
}

/* Outputs that an asynchronous runner has ready are not bounded by its runs. */
static size_t waiting_locked(const wq_queue *queue)
{
    return queue->queued + queue->pending +
           (queue->asynchronous ? queue->publishing : queue->put_off);
}

/* Jobs that an idle worker is about to take do not wait. */
static int is_full_locked(const wq_queue *queue)
{
    size_t waiting = waiting_locked(queue);
    size_t idle = queue->workers > queue->running ? queue->workers - queue->running : 0;
    return waiting >= idle && waiting - idle >= queue->max_queue;
}

int wq_queue_admit_locked(wq_queue *queue, wq_job *job, wq_job *before, wq_error *error)
{
    const int counts_users = queue->fair || queue->max_per_user > 0;
    wq_user *user = counts_users ? wq_users_find(&queue->users, &job->params) : NULL;
    if (queue->stopping)
        return wq_fail(error, WQ_ERROR_CLOSING, "the queue is stopping and takes no new jobs");
    if (check_user_locked(queue, user, error) != WQ_OK)
        return WQ_ERROR_USER_FULL;
    if (is_server_full_locked(queue, &job->params))
        return wq_fail(error, WQ_ERROR_USER_FULL,
                       "%zu jobs of this server wait or run, as many as may; try again later",
                       queue->max_per_server);
    if (is_full_locked(queue))
        return wq_fail(error, WQ_ERROR_FULL,
                       "%zu jobs are waiting, as many as may; try again later",
                       waiting_locked(queue));
    job->note.seq = (int64_t)queue->next_rank;
    if (enter_locked(queue, job, before) != 0)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    queue->next_rank++;
    if (queue->journal == NULL) {
        line_up_locked(queue, job);
        return WQ_OK;
    }
    job->pending = 1;
    queue->pending++;
    wq_journal_note_locked(queue->journal, job);
    return WQ_OK;
}

/* ---- through --------------------------------------------------------------------------------- */

static wq_job *job_of(wq_order_node *node)
{
    return (wq_job *)((char *)node - offsetof(wq_job, order));
}

int wq_queue_may_take_locked(const wq_queue *queue)
{
    return wq_order_n_ready(&queue->order) > 0 && queue->decided < MAX_DECIDED;
}

static void note_locked(wq_queue *queue, wq_job *job)
{
    if (queue->journal != NULL)
        wq_journal_note_locked(queue->journal, job);
}

void wq_queue_start_locked(wq_queue *queue, wq_job *job)
{
    wq_order_remove(&queue->order, &job->order);
    wq_users_taken(&queue->users, job);
    TAILQ_REMOVE(&queue->by_age, job, ended);
    queue->queued--;
    queue->running++;
    look_at_row_locked(queue);
    wq_job_set_state(job, WQ_STATE_RUNNING);
    queue->taken_mono = job->started_mono;
    count(&queue->waited, job->started_mono - job->queued_mono);
    note_locked(queue, job);
}

wq_job *wq_queue_take(wq_queue *queue, int wait)
{
    wq_job *job = NULL;
    pthread_mutex_lock(&queue->lock);
    while (wait && !wq_queue_may_take_locked(queue) && !queue->stopping)
        pthread_cond_wait(&queue->work, &queue->lock);
    if (wq_queue_may_take_locked(queue)) {
        job = job_of(wq_order_first_ready(&queue->order));
        wq_queue_start_locked(queue, job);
    }
    if (queue->pending > 0 && wq_queue_is_hungry(queue))
        wq_journal_hurry_locked(queue->journal);
    pthread_mutex_unlock(&queue->lock);
    if (job != NULL)
        wq_watchers_tell(&job->watchers);
    return job;
}

wq_job *wq_queue_send_locked(wq_queue *queue)
{
    wq_job *job = job_of(wq_order_first_ready(&queue->order));
    wq_order_set_ready(&job->order, 0);
    wq_users_taken(&queue->users, job);
    look_at_row_locked(queue);
    return wq_job_ref(job);
}

static void leave_locked(wq_queue *queue, wq_job *job)
{
    switch (job->state) {
    case WQ_STATE_QUEUED:
        wq_order_remove(&queue->order, &job->order);
        TAILQ_REMOVE(&queue->by_age, job, ended);
        queue->queued--;
        look_at_row_locked(queue);
        break;
    case WQ_STATE_RUNNING:
        queue->running--;
        break;
    case WQ_STATE_PUBLISHING:
        queue->publishing--;
        break;
    default:
        assert(0);
    }
}

/* A moving mean, so that an estimate follows what programs have done lately. */
static void learn_run_time_locked(wq_queue *queue, const wq_job *job)
{
    double ran = (double)(wq_monotonic_ms() - job->started_mono);
    count(&queue->ran, wq_monotonic_ms() - job->started_mono);
    queue->mean_run_ms = queue->mean_run_ms == 0 ? ran : queue->mean_run_ms * 0.8 + ran * 0.2;
}

/* Positions are news only for those who wait. */
static void tell_positions(wq_queue *queue, size_t waiting)
{
    if (waiting > 0)
        wq_watchers_tell(&queue->watchers);
}

void wq_queue_publishing(wq_queue *queue, wq_job *job)
{
    pthread_mutex_lock(&queue->lock);
    leave_locked(queue, job);
    queue->publishing++;
    learn_run_time_locked(queue, job);
    wq_job_set_state(job, WQ_STATE_PUBLISHING);
    size_t waiting = queue->queued;
    pthread_mutex_unlock(&queue->lock);
    tell_positions(queue, waiting);
}

/* ---- out ------------------------------------------------------------------------------------- */

static int is_old_locked(wq_queue *queue, const wq_job *job)
{
    return job->state >= WQ_STATE_SUCCEEDED &&
           wq_monotonic_ms() - job->ended_mono > queue->retain_ended_ms;
}

static wq_job *oldest_surplus_locked(wq_queue *queue)
{
    wq_job *oldest = TAILQ_FIRST(&queue->ended);
    if (oldest != NULL && queue->n_ended <= queue->max_ended && !is_old_locked(queue, oldest))
        oldest = NULL;
    return oldest;
}

static void forget_locked(wq_queue *queue, wq_job *job)
{
    TAILQ_REMOVE(&queue->ended, job, ended);
    queue->n_ended--;
    wq_table_remove(&queue->by_id, job->id);
    wq_table_remove(&queue->by_done_key, job->key); /* unless a later one has its place */
}

/* Puts an ended job among those that are still known. Without memory for an index it is not found
 * by its key, which costs an id of its own and nothing else. */
static void remember_locked(wq_queue *queue, wq_job *job)
{
    TAILQ_INSERT_TAIL(&queue->ended, job, ended);
    queue->n_ended++;
    if (job->state == WQ_STATE_SUCCEEDED) {
        wq_job *earlier = find_key(&queue->by_done_key, job->key);
        if (earlier != NULL)
            wq_table_remove(&queue->by_done_key, earlier->key);
        wq_table_add(&queue->by_done_key, job->key);
    }
}

/* Not one that would soon be unknown: who gets it may still ask for it by its id. */
wq_job *wq_queue_done_locked(wq_queue *queue, const char *key)
{
    wq_job *found = find_key(&queue->by_done_key, key);
    int is_young =
        found != NULL && wq_monotonic_ms() - found->ended_mono <= queue->retain_ended_ms / 2;
    return is_young ? wq_job_ref(found) : NULL;
}

/* Its key is free, so a follower's turn has come; or it was a follower, and is one no more. */
static void leave_key_locked(wq_queue *queue, wq_job *job)
{
    wq_job *follower = job->follower, *present = find_key(&queue->by_key, job->key);
    if (job->blocked) {
        while (present != NULL && present->follower != job)
            present = present->follower;
        if (present != NULL)
            present->follower = follower;
        return;
    }
    wq_table_remove(&queue->by_key, job->key);
    if (follower == NULL)
        return;
    job->follower = NULL;
    follower->blocked = 0;
    if (!follower->pending && !follower->decided)
        wq_order_set_ready(&follower->order, 1);
    look_at_row_locked(queue);
    wq_table_add(&queue->by_key, follower->key); /* never fails: one has just left */
    pthread_cond_signal(&queue->work);
}

/* Its run is out still: nobody waits for it here any more, and it is to end, unless it is kept. */
static void part_locked(wq_job *job)
{
    wq_flight *flight = job->flight;
    if (flight == NULL)
        return;
    wq_flight_part_locked(flight);
    if (!job->kept && !flight->told)
        flight->told = flight->tell(flight);
}

/* Moves a job to the ended ones and returns what must be unreferenced once the lock is free: the
 * oldest one, if that is now too many or too old. One out for each one in keeps the bound. */
static wq_job *end_locked(wq_queue *queue, wq_job *job)
{
    wq_end end = job->end;
    job->end = (wq_end){0};
    count_out_locked(queue, job);
    ++*wq_queue_generation_locked(queue, job->key);
    queue->succeeded += end.state == WQ_STATE_SUCCEEDED;
    queue->failed += end.state == WQ_STATE_FAILED;
    queue->cancelled += end.state == WQ_STATE_CANCELLED;
    leave_key_locked(queue, job);
    wq_job_end_locked(job, end);
    remember_locked(queue, job);
    wq_job *surplus = oldest_surplus_locked(queue);
    if (surplus != NULL)
        forget_locked(queue, surplus);
    return surplus;
}

/* The end of a job, which frees its place in the row. Nonzero: everybody is to be told now, and
 * `*surplus` is as above. Zero: not before the journal has it; who asks meanwhile joins a job that
 * has succeeded, and else gets another. */
static int decide_locked(wq_queue *queue, wq_job *job, int state, int returncode, const char *error,
                         wq_job **surplus)
{
    leave_locked(queue, job);
    part_locked(job);
    job->end = wq_end_now(state, returncode, error);
    job->ran = 1;
    int tells = queue->journal == NULL || job->kept;
    if (tells) {
        *surplus = end_locked(queue, job);
    } else {
        job->decided = 1;
        queue->decided++;
        job->ending = state != WQ_STATE_SUCCEEDED;
    }
    note_locked(queue, job);
    return tells;
}

static void tell_end(wq_queue *queue, wq_job *job, size_t waiting, wq_job *surplus)
{
    wq_watchers_tell(&job->watchers);
    tell_positions(queue, waiting);
    wq_job_unref(surplus);
}

void wq_queue_finish(wq_queue *queue, wq_job *job, int state, int returncode, const char *error)
{
    wq_job *surplus = NULL;
    wq_job_ref(job); /* the ended list may let go of it at once */
    pthread_mutex_lock(&queue->lock);
    if (job->state == WQ_STATE_RUNNING)
        learn_run_time_locked(queue, job);
    int tells = decide_locked(queue, job, state, returncode, error, &surplus);
    size_t waiting = queue->queued;
    pthread_mutex_unlock(&queue->lock);
    if (tells)
        tell_end(queue, job, waiting, surplus);
    else
        tell_positions(queue, waiting);
    wq_job_unref(job);
}

void wq_queue_fail(wq_queue *queue, wq_job *job, int returncode, const char *error)
{
    char reason[512];
    wq_snapshot_reason(&(wq_snapshot){.returncode = returncode, .error = error}, reason,
                       sizeof reason);
    wq_log(&queue->logger, WQ_LOG_WARNING, "job %s: %s", job->id, reason);
    wq_queue_finish(queue, job, WQ_STATE_FAILED, returncode, error);
}

int wq_queue_abandon(wq_queue *queue, wq_job *job)
{
    pthread_mutex_lock(&queue->lock);
    int is_early = !job->ran && (job->state == WQ_STATE_QUEUED || job->state == WQ_STATE_RUNNING);
    int goes = is_early && job->tentative && atomic_load(&job->n_watching) == 0;
    if (goes)
        job->ending = 1;
    pthread_mutex_unlock(&queue->lock);
    return goes;
}

static int end_queued(wq_queue *queue, wq_job *job, int state, const char *why)
{
    wq_job *surplus = NULL;
    pthread_mutex_lock(&queue->lock);
    int queued = job->state == WQ_STATE_QUEUED && !job->decided, pending = job->pending, tells = 0;
    if (queued && pending)
        job->ending = 1; /* once the journal has it */
    else if (queued)
        tells = decide_locked(queue, job, state, -999, why, &surplus);
    size_t waiting = queue->queued;
    pthread_mutex_unlock(&queue->lock);
    if (tells)
        tell_end(queue, job, waiting, surplus);
    else if (queued && !pending)
        tell_positions(queue, waiting);
    return queued;
}

/* Is its end, which is that, on its way to the journal? */
static int is_being_cancelled(wq_queue *queue, const wq_job *job)
{
    pthread_mutex_lock(&queue->lock);
    int is = job->decided && job->end.state == WQ_STATE_CANCELLED;
    pthread_mutex_unlock(&queue->lock);
    return is;
}

int wq_queue_cancel_queued(wq_queue *queue, wq_job *job, const char *why)
{
    return end_queued(queue, job, WQ_STATE_CANCELLED, why) || is_being_cancelled(queue, job);
}

int wq_queue_fail_queued(wq_queue *queue, wq_job *job, const char *why)
{
    return end_queued(queue, job, WQ_STATE_FAILED, why);
}

const char *wq_queue_why_stopping(const wq_queue *queue)
{
    static const char with[] =
        "cancelled: the queue is stopping; the job runs when it is open again",
                      without[] = "cancelled: the queue is stopping";
    return queue->journal != NULL ? with : without;
}

/* For one that waits in the row. */
static wq_job *put_down_locked(wq_queue *queue, wq_job *job)
{
    wq_job *surplus = NULL;
    job->kept = queue->journal != NULL;
    decide_locked(queue, job, WQ_STATE_CANCELLED, -999, wq_queue_why_stopping(queue), &surplus);
    return surplus;
}

void wq_queue_put_down_running(wq_queue *queue, wq_job *job)
{
    wq_job *surplus = NULL;
    int tells = 0;
    pthread_mutex_lock(&queue->lock);
    const wq_flight *flight = job->state == WQ_STATE_RUNNING ? job->flight : NULL;
    if (flight != NULL && flight->told) {
        int state = flight->overdue ? WQ_STATE_FAILED : WQ_STATE_CANCELLED;
        tells = decide_locked(queue, job, state, WQ_OWN_FAILURE, flight->why, &surplus);
    } else if (flight != NULL) {
        surplus = put_down_locked(queue, job);
        tells = 1;
    }
    size_t waiting = queue->queued;
    pthread_mutex_unlock(&queue->lock);
    if (tells)
        tell_end(queue, job, waiting, surplus);
}

void wq_queue_put_down(wq_queue *queue)
{
    wq_order_node *node;
    pthread_mutex_lock(&queue->lock);
    while ((node = wq_order_first(&queue->order)) != NULL) {
        wq_job *job = wq_job_ref(job_of(node));
        wq_job *surplus = put_down_locked(queue, job);
        size_t waiting = queue->queued;
        pthread_mutex_unlock(&queue->lock);
        tell_end(queue, job, waiting, surplus);
        wq_job_unref(job);
        pthread_mutex_lock(&queue->lock);
    }
    pthread_mutex_unlock(&queue->lock);
}

/* ---- with the journal ------------------------------------------------------------------------ */

/* Each gets the job, unless there is an error. */
static void tell_awaits(struct wq_awaits *awaits, wq_job *job, const wq_error *error)
{
    wq_await *await;
    while ((await = STAILQ_FIRST(awaits)) != NULL) {
        STAILQ_REMOVE_HEAD(awaits, link); /* it is the callback's to free */
        if (error != NULL)
            await->cb(await->user, error->code, NULL, 0, error);
        else
            await->cb(await->user, await->result, wq_job_ref(job), await->made_at_ms, NULL);
    }
}

static void take_awaits_locked(wq_job *job, struct wq_awaits *awaits)
{
    job->pending = 0;
    STAILQ_INIT(awaits);
    STAILQ_CONCAT(awaits, &job->awaits);
}

static void end_pending_locked(wq_queue *queue, wq_job *job, struct wq_awaits *awaits)
{
    take_awaits_locked(job, awaits);
    queue->pending--;
}

void wq_queue_accepted(wq_queue *queue, wq_job *job)
{
    struct wq_awaits awaits;
    wq_job *surplus = NULL;
    pthread_mutex_lock(&queue->lock);
    end_pending_locked(queue, job, &awaits);
    line_up_locked(queue, job);
    int stops = queue->stopping && !job->ending;
    if (job->ending)
        decide_locked(queue, job, WQ_STATE_CANCELLED, -999, "cancelled", &surplus);
    else if (stops)
        surplus = put_down_locked(queue, job);
    size_t waiting = queue->queued;
    pthread_mutex_unlock(&queue->lock);
    tell_awaits(&awaits, job, NULL);
    if (stops)
        tell_end(queue, job, waiting, surplus);
    else if (queue->fair) /* it may have come in front of others */
        tell_positions(queue, waiting);
}

void wq_queue_refused(wq_queue *queue, wq_job *job, const wq_error *error)
{
    struct wq_awaits awaits;
    pthread_mutex_lock(&queue->lock);
    end_pending_locked(queue, job, &awaits);
    leave_key_locked(queue, job);
    count_out_locked(queue, job);
    wq_table_remove(&queue->by_id, job->id);
    wq_job_end_locked(job, wq_end_now(WQ_STATE_FAILED, -999, error->message));
    pthread_mutex_unlock(&queue->lock);
    tell_awaits(&awaits, job, error);
    wq_watchers_tell(&job->watchers);
    wq_job_unref(job);
}

void wq_queue_known(wq_queue *queue, wq_job *job)
{
    struct wq_awaits awaits;
    pthread_mutex_lock(&queue->lock);
    take_awaits_locked(job, &awaits);
    pthread_mutex_unlock(&queue->lock);
    tell_awaits(&awaits, job, NULL);
}

void wq_queue_ended(wq_queue *queue, wq_job *job)
{
    pthread_mutex_lock(&queue->lock);
    job->decided = 0;
    if (queue->decided-- == MAX_DECIDED)
        pthread_cond_broadcast(&queue->work);
    wq_job *surplus = end_locked(queue, job);
    pthread_mutex_unlock(&queue->lock);
    tell_end(queue, job, 0, surplus); /* its place was free before */
}

int wq_queue_put_back(wq_queue *queue, wq_job *job, wq_error *error)
{
    pthread_mutex_lock(&queue->lock);
    wq_job *before = find_key(&queue->by_key, job->key);
    while (before != NULL && before->follower != NULL)
        before = before->follower;
    int entered = enter_locked(queue, job, before) == 0;
    if (entered)
        line_up_locked(queue, job);
    pthread_mutex_unlock(&queue->lock);
    return entered ? WQ_OK : wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

/* Not found by its key: its token is gone, and who asks for a job brings one. */
int wq_queue_put_back_ended(wq_queue *queue, wq_job *job)
{
    pthread_mutex_lock(&queue->lock);
    int entered = wq_table_add(&queue->by_id, job->id) == 0;
    if (entered) {
        wq_job_ref(job);
        TAILQ_INSERT_TAIL(&queue->ended, job, ended);
        queue->n_ended++;
    }
    pthread_mutex_unlock(&queue->lock);
    return entered ? WQ_OK : WQ_ERROR_NO_MEMORY;
}

int wq_queue_wait_for_stop(wq_queue *queue, int may_come)
{
    int64_t at = wq_monotonic_ms() + STOP_FOLLOWS_MS;
    struct timespec until = {at / 1000, at % 1000 * 1000000};
    int r = may_come ? 0 : -1;
    pthread_mutex_lock(&queue->lock);
    while (!queue->stopping && r == 0)
        r = pthread_cond_timedwait(&queue->stops, &queue->lock, &until);
    int stopping = queue->stopping;
    pthread_mutex_unlock(&queue->lock);
    return stopping;
}

int wq_queue_is_in_place(wq_queue *queue, const wq_job *job)
{
    return !job->rebuild &&
           wq_queue_store_said(
               queue, queue->store->find(queue->store->self, job->key, NULL, NULL)) == WQ_OK;
}

int wq_queue_remember(wq_queue *queue, wq_job *job)
{
    int result = WQ_ERROR_NO_MEMORY;
    pthread_mutex_lock(&queue->lock);
    wq_job_end_locked(job, wq_end_now(WQ_STATE_SUCCEEDED, 0, NULL));
    if (wq_table_add(&queue->by_id, job->id) == 0) {
        remember_locked(queue, wq_job_ref(job));
        result = WQ_OK;
    }
    if (result == WQ_OK && queue->journal != NULL) {
        job->note.seq = (int64_t)queue->next_rank++;
        job->pending = 1;
        wq_journal_note_locked(queue->journal, job);
    }
    wq_job *surplus = oldest_surplus_locked(queue);
    if (surplus != NULL)
        forget_locked(queue, surplus);
    pthread_mutex_unlock(&queue->lock);
    wq_job_unref(surplus);
    return result;
}

int wq_job_by_id(wq_queue *queue, const char *id, wq_job **out)
{
    wq_job *job = NULL;
    if (strnlen(id, WQ_ID_SIZE) != WQ_ID_SIZE - 1)
        return WQ_ERROR_NOT_FOUND;
    pthread_mutex_lock(&queue->lock);
    wq_job *found = find_id(&queue->by_id, id);
    if (found != NULL && !is_old_locked(queue, found))
        job = wq_job_ref(found);
    pthread_mutex_unlock(&queue->lock);
    if (job == NULL)
        return WQ_ERROR_NOT_FOUND;
    *out = job;
    return WQ_OK;
}

/* How many run at the same time. Where runs are elsewhere, as many as do so now are all we know. */
static double at_once_locked(const wq_queue *queue)
{
    if (!queue->asynchronous)
        return queue->workers;
    return queue->running > 0 ? (double)queue->running : 1;
}

/* Of one that has not ended. */
static uint64_t estimate_ms_locked(wq_queue *queue, wq_job *job)
{
    double mean = queue->mean_run_ms, estimate = 0;
    if (job->decided)
        return 1;
    if (job->state == WQ_STATE_QUEUED) {
        /* as many rounds of the workers as it takes until its turn, and its own run */
        int64_t since = job->queued_mono > queue->taken_mono ? job->queued_mono : queue->taken_mono;
        double still = (double)(wq_monotonic_ms() - since);
        double rounds = (double)wq_queue_ahead_locked(queue, job) / at_once_locked(queue) + 1;
        estimate = rounds * mean;
        if (estimate < still) /* the row has stopped moving: the longer, the less we expect of it */
            estimate = still;
    } else if (job->state == WQ_STATE_RUNNING) {
        estimate = wq_job_remaining_ms(job, job->estimate_ms ? (double)job->estimate_ms : mean);
    }
    return estimate < 1 ? 1 : (uint64_t)estimate;
}

uint64_t wq_job_estimate_ms(wq_job *job)
{
    wq_queue *queue = job->queue;
    pthread_mutex_lock(&queue->lock);
    uint64_t ms = job->state < WQ_STATE_SUCCEEDED ? estimate_ms_locked(queue, job) : 0;
    pthread_mutex_unlock(&queue->lock);
    return ms;
}

/* How long until one of these ends. */
static uint64_t first_end_ms_locked(wq_queue *queue, const wq_user *user)
{
    uint64_t least = UINT64_MAX;
    const wq_member *member;
    TAILQ_FOREACH(member, &user->jobs, link)
    {
        uint64_t ms = estimate_ms_locked(queue, member->job);
        least = ms < least ? ms : least;
        if (member->job->state == WQ_STATE_QUEUED && !member->job->blocked)
            break; /* those behind it take longer */
    }
    return least;
}

uint64_t wq_user_estimate_ms(wq_queue *queue, const wq_params *params)
{
    uint64_t ms = 0;
    pthread_mutex_lock(&queue->lock);
    const wq_user *user = wq_users_find(&queue->users, params);
    if (is_server_full_locked(queue, params))
        ms = first_end_ms_locked(queue, wq_users_find(&queue->servers, params));
    if (user != NULL && (ms == 0 || check_user_locked(queue, user, NULL) != WQ_OK)) {
        uint64_t own = first_end_ms_locked(queue, user);
        ms = own > ms ? own : ms; /* both must have room */
    }
    pthread_mutex_unlock(&queue->lock);
    return ms;
}

void wq_queue_forget(wq_queue *queue)
{
    wq_job *job;
    pthread_mutex_lock(&queue->lock);
    while ((job = TAILQ_FIRST(&queue->ended)) != NULL) {
        forget_locked(queue, job);
        pthread_mutex_unlock(&queue->lock);
        wq_job_unref(job);
        pthread_mutex_lock(&queue->lock);
    }
    pthread_mutex_unlock(&queue->lock);
}

int wq_queue_store_said(wq_queue *queue, int result)
{
    if (result < 0 && result != WQ_ERROR_NOT_FOUND && result != WQ_ERROR_INVALID_ARGUMENT)
        atomic_fetch_add(&queue->store_errors, 1);
    return result;
}

void wq_queue_stats(wq_queue *queue, wq_stats *out)
{
    pthread_mutex_lock(&queue->lock);
    *out = (wq_stats){
        .queued = queue->queued + queue->pending,
        .running = queue->running,
        .publishing = queue->publishing,
        .ended = queue->n_ended,
        .workers = queue->workers,
        .max_queue = queue->max_queue,
        .succeeded = queue->succeeded,
        .failed = queue->failed,
        .cancelled = queue->cancelled,
        .store_errors = atomic_load(&queue->store_errors),
        .journal_errors = atomic_load(&queue->journal_errors),
        .stopping = queue->stopping,
        .mean_run_ms = (uint64_t)queue->mean_run_ms,
        .ran = queue->ran,
        .waited = queue->waited,
        .has_journal = queue->journal != NULL,
        .ending = queue->decided,
    };
    pthread_mutex_unlock(&queue->lock);
}
