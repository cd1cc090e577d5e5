/* ask.c - asking for an output: the job that makes it is joined or begun, or the output is there.
 *
 * A question is answered at once, or when the journal or a store that blocks has answered: then it
 * is a pending ask, which is told by its callback. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/core/admit.h"
#include "workqueue/core/event_log.h"
#include "workqueue/core/life.h"
#include "workqueue/core/lookup.h"
#include "workqueue/core/params.h"
#include "workqueue/core/wishes.h"

static int find_output(wq_queue *queue, const char *key, int64_t *made_at_ms, wq_error *error)
{
    wq_store *store = queue->store;
    return wq_life_count_store_result(queue, store->find(store->self, key, made_at_ms, error));
}

/* What came of it is for the effects' error, too: those who wait are told by it. */
static int join_or_begin(wq_queue *queue, wq_job *new, unsigned flags, uint64_t generation,
                         wq_ask *ask, wq_job **out, wq_error *error)
{
    int result;
    wq_effects effects;
    wq_effects_init(&effects);
    pthread_mutex_lock(&queue->lock);
    wq_job *job = wq_life_joinable_locked(queue, new->key, flags);
    if (job != NULL) {
        result = wq_life_join_locked(queue, job, flags, ask, WQ_ATTACHED, out);
    } else if (*wq_life_generation_locked(queue, new->key) != generation) {
        result = WQ_DONE; /* its key may have ended since: the store must be asked again */
    } else {
        new->rebuild = (flags & WQ_ENSURE_REBUILD) != 0;
        new->tentative = (flags & WQ_ENSURE_TENTATIVE) != 0;
        result = wq_life_admit_locked(queue, new, ask, &effects, error);
        if (result == WQ_OK)
            *out = wq_job_ref(new);
    }
    pthread_mutex_unlock(&queue->lock);
    wq_effects_carry_out(queue, &effects);
    return result;
}

/* The output is there: a job that says so, if one is wanted. */
static int answer_done(wq_queue *queue, const wq_params *params, const char *key, unsigned flags,
                       wq_ask *ask, wq_job **out, wq_error *error)
{
    int result;
    wq_effects effects;
    *out = NULL;
    if (!(flags & WQ_ENSURE_JOB))
        return WQ_DONE;
    wq_effects_init(&effects);
    wq_job *new = wq_job_new(queue, params, key);
    pthread_mutex_lock(&queue->lock);
    wq_job *job = wq_known_done(&queue->known, key);
    if (job != NULL)
        result = wq_life_join_locked(queue, job, 0, ask, WQ_DONE, out);
    else if (new != NULL)
        result = wq_life_remember_locked(queue, new, ask, &effects, out);
    else
        result = WQ_ERROR_NO_MEMORY;
    pthread_mutex_unlock(&queue->lock);
    wq_effects_carry_out(queue, &effects);
    wq_job_unref(new);
    return result >= 0 ? result : wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

/* A look at the lines: WQ_ATTACHED, WQ_PENDING or WQ_ERROR_NOT_FOUND. */
static int join_line(wq_queue *queue, const char *key, unsigned flags, uint64_t *generation,
                     wq_ask *ask, wq_job **out)
{
    int result = WQ_ERROR_NOT_FOUND;
    pthread_mutex_lock(&queue->lock);
    *generation = *wq_life_generation_locked(queue, key);
    wq_job *job = wq_life_joinable_locked(queue, key, flags);
    if (job != NULL)
        result = wq_life_join_locked(queue, job, flags, ask, WQ_ATTACHED, out);
    pthread_mutex_unlock(&queue->lock);
    return result;
}

/* One look at the lines and at the store: WQ_ATTACHED, WQ_PENDING, WQ_DONE, WQ_ERROR_NOT_FOUND if a
 * job has to begin, or a failure. */
static int look_up(wq_queue *queue, const wq_params *params, const char *key, unsigned flags,
                   uint64_t *generation, wq_ask *ask, wq_job **out, int64_t *made_at_ms,
                   wq_error *error)
{
    int result = join_line(queue, key, flags, generation, ask, out);
    if (result != WQ_ERROR_NOT_FOUND || (flags & WQ_ENSURE_REBUILD))
        return result;
    int64_t made_at = 0;
    wq_error why = {.code = WQ_OK};
    result = find_output(queue, key, &made_at, &why);
    if (made_at_ms != NULL)
        *made_at_ms = made_at;
    if (result != WQ_OK) {
        if (result != WQ_ERROR_NOT_FOUND && error != NULL) /* that one is no failure of ours */
            *error = why;
        return result;
    }
    if (ask != NULL)
        ask->made_at_ms = made_at;
    return answer_done(queue, params, key, flags, ask, out, error);
}

/* "00-", 32, 16 and 2 hexadecimal digits in small letters with dashes between, as W3C has it; of
 * later versions what they have in common with it. */
static int is_traceparent(const char *text)
{
    static const char form[] = "xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
    size_t i = 0;
    for (; form[i] != '\0' && text[i] != '\0'; i++)
        if (form[i] == 'x' ? strchr("0123456789abcdef", text[i]) == NULL : text[i] != '-')
            return 0;
    return form[i] == '\0' && text[i] == '\0' && strncmp(text, "ff", 2) != 0;
}

/* Who asks, in memory of ours. */
typedef struct asker {
    char peer[WQ_PEER_SIZE], trace[WQ_TRACE_SIZE];
} asker;

static asker copy_asker(const wq_asker *given)
{
    asker copy = {"", ""};
    if (given != NULL && given->peer != NULL)
        snprintf(copy.peer, sizeof copy.peer, "%s", given->peer);
    if (given != NULL && given->traceparent != NULL && is_traceparent(given->traceparent))
        snprintf(copy.trace, sizeof copy.trace, "%s", given->traceparent);
    return copy;
}

static int check_question(wq_queue *queue, const wq_asker *from, const wq_params *params,
                          unsigned flags, char key[WQ_KEY_SIZE], wq_error *error)
{
    const unsigned known = WQ_ENSURE_REBUILD | WQ_ENSURE_JOB | WQ_ENSURE_TENTATIVE;
    if (queue == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the queue is NULL");
    if (wq_owner_is_forked(queue))
        return wq_fail(error, WQ_ERROR_CLOSING, "this queue is another process's");
    int result = wq_params_check(params, error);
    if (result != WQ_OK)
        return result;
    if (from != NULL && from->peer != NULL && strnlen(from->peer, WQ_PEER_SIZE) == WQ_PEER_SIZE)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the peer's name has more than 63 bytes");
    if (flags & ~known)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "flags are unknown to this library");
    if (wq_params_key(params, key) != WQ_OK)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    return WQ_OK;
}

/* WQ_PENDING: `ask` will be told. The store is asked without a lock, so an end in between sends us
 * round again: else a job could run twice because its first run ended while we looked. */
static int ensure_run(wq_queue *queue, const asker *from, const wq_params *params, const char *key,
                      unsigned flags, wq_ask *ask, wq_job **out, int64_t *made_at_ms,
                      wq_error *error)
{
    uint64_t generation;
    int result;
    wq_job *new = NULL;
    do {
        result = look_up(queue, params, key, flags, &generation, ask, out, made_at_ms, error);
        if (result != WQ_ERROR_NOT_FOUND)
            break;
        if (new == NULL && (new = wq_job_new(queue, params, key)) == NULL) {
            result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
            break;
        }
        memcpy(new->peer, from->peer, sizeof new->peer);
        memcpy(new->trace, from->trace, sizeof new->trace);
        result = join_or_begin(queue, new, flags, generation, ask, out, error);
    } while (result == WQ_DONE);
    if (result < 0)
        wq_event_refused(&queue->logger, params, error ? error->message : wq_strerror(result));
    wq_job_unref(new);
    return result;
}

/* ---- for threads that may wait --------------------------------------------------------------- */

typedef struct waiting_thread {
    wq_ask ask;
    pthread_mutex_t lock;
    pthread_cond_t answered;
    /* under the lock */
    int is_answered, result;
    wq_job *job;
    wq_error error;
} waiting_thread;

static void wake_thread(void *user, int result, wq_job *job, int64_t made_at_ms,
                        const wq_error *error)
{
    (void)made_at_ms;
    waiting_thread *w = user;
    pthread_mutex_lock(&w->lock);
    w->is_answered = 1;
    w->result = result;
    w->job = job;
    if (error != NULL)
        w->error = *error;
    pthread_cond_signal(&w->answered);
    pthread_mutex_unlock(&w->lock);
}

static int ensure_and_wait(wq_queue *queue, const wq_asker *from, const wq_params *params,
                           unsigned flags, wq_job **out, int64_t *made_at_ms, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    wq_job *job = NULL;
    waiting_thread w = {.ask = {.cb = wake_thread, .user = &w},
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .answered = PTHREAD_COND_INITIALIZER};
    if (out == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "out is NULL");
    int result = check_question(queue, from, params, flags, key, error);
    const asker who = copy_asker(from);
    if (result != WQ_OK)
        return result;
    result = ensure_run(queue, &who, params, key, flags, &w.ask, &job, made_at_ms, error);
    if (result == WQ_PENDING) {
        pthread_mutex_lock(&w.lock);
        while (!w.is_answered)
            pthread_cond_wait(&w.answered, &w.lock);
        pthread_mutex_unlock(&w.lock);
        result = w.result;
        job = w.job;
        if (result < 0 && error != NULL)
            *error = w.error;
    }
    if (result >= 0)
        *out = job;
    return result;
}

int wq_ensure_run_aged(wq_queue *queue, const wq_params *params, unsigned flags, wq_job **out,
                       int64_t *made_at_ms, wq_error *error)
{
    return ensure_and_wait(queue, NULL, params, flags, out, made_at_ms, error);
}

int wq_ensure_run(wq_queue *queue, const wq_params *params, unsigned flags, wq_job **out,
                  wq_error *error)
{
    return wq_ensure_run_aged(queue, params, flags, out, NULL, error);
}

/* ---- for event loops ------------------------------------------------------------------------- */

/* Somebody else's question and callback, in memory of ours. */
typedef struct async_ask {
    wq_lookup lookup; /* first */
    wq_ask ask;
    wq_queue *queue;
    wq_params params; /* behind the structure, for the lookup */
    asker from;
    char key[WQ_KEY_SIZE];
    unsigned flags;
    wq_accepted_cb cb;
    void *user;
} async_ask;

static int is_stopping(wq_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    int is = queue->stopping;
    pthread_mutex_unlock(&queue->lock);
    return is;
}

static void answer_async(void *user, int result, wq_job *job, int64_t made_at_ms,
                         const wq_error *error)
{
    async_ask *a = user;
    a->cb(a->user, result, job, made_at_ms, error);
    free(a);
}

static void ask_store(wq_lookup *lookup, int closing)
{
    async_ask *a = (async_ask *)lookup;
    wq_job *job = NULL;
    int64_t made_at_ms = 0;
    wq_error error = {0};
    int result = closing ? WQ_ERROR_CLOSING
                         : ensure_run(a->queue, &a->from, &a->params, a->key, a->flags, &a->ask,
                                      &job, &made_at_ms, &error);
    /* a store that has been stopped says that it is away */
    if (result < 0 && (closing || is_stopping(a->queue)))
        result = wq_fail(&error, WQ_ERROR_CLOSING, "%s", wq_strerror(WQ_ERROR_CLOSING));
    if (result != WQ_PENDING)
        answer_async(a, result, job, result == WQ_DONE ? made_at_ms : 0,
                     result < 0 ? &error : NULL);
}

static async_ask *new_async_ask(wq_queue *queue, const asker *from, const wq_params *params,
                                const char *key, unsigned flags, wq_accepted_cb cb, void *user)
{
    async_ask *a = calloc(1, sizeof *a + wq_params_bytes(params));
    if (a == NULL)
        return NULL;
    wq_params_copy(&a->params, (char *)(a + 1), params);
    memcpy(a->key, key, WQ_KEY_SIZE);
    a->from = *from;
    a->lookup.ask = ask_store;
    a->ask = (wq_ask){.cb = answer_async, .user = a};
    a->queue = queue;
    a->flags = flags;
    a->cb = cb;
    a->user = user;
    return a;
}

/* The lines are looked at here, as they may have the job; the store by a thread. */
static int ask_later(wq_queue *queue, async_ask *a, wq_job **out, wq_error *error)
{
    uint64_t generation;
    int result = join_line(queue, a->key, a->flags, &generation, &a->ask, out);
    if (result != WQ_ERROR_NOT_FOUND)
        return result;
    result = wq_lookups_add(queue->lookups, &a->lookup, error);
    return result == WQ_OK ? WQ_PENDING : result;
}

int wq_ensure_run_from(wq_queue *queue, const wq_asker *from, const wq_params *params,
                       unsigned flags, wq_job **out, int64_t *made_at_ms, wq_accepted_cb cb,
                       void *user, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    if (cb == NULL)
        return ensure_and_wait(queue, from, params, flags, out, made_at_ms, error);
    if (out == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "out is NULL");
    int result = check_question(queue, from, params, flags, key, error);
    const asker who = copy_asker(from);
    if (result != WQ_OK)
        return result;
    const int asks_later = queue->lookups != NULL && !(flags & WQ_ENSURE_REBUILD);
    if (queue->recorder.self == NULL && !asks_later)
        return ensure_run(queue, &who, params, key, flags, NULL, out, made_at_ms, error);
    async_ask *a = new_async_ask(queue, &who, params, key, flags, cb, user);
    if (a == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    result = asks_later
                 ? ask_later(queue, a, out, error)
                 : ensure_run(queue, &who, params, key, flags, &a->ask, out, made_at_ms, error);
    if (result != WQ_PENDING)
        free(a);
    return result;
}

int wq_ensure_run_async(wq_queue *queue, const wq_params *params, unsigned flags, wq_job **out,
                        int64_t *made_at_ms, wq_accepted_cb cb, void *user, wq_error *error)
{
    if (cb == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the callback is NULL");
    return wq_ensure_run_from(queue, NULL, params, flags, out, made_at_ms, cb, user, error);
}

/* ---- a job that is known, and wishes --------------------------------------------------------- */

int wq_job_by_id(wq_queue *queue, const char *id, wq_job **out)
{
    if (queue == NULL || id == NULL || out == NULL)
        return WQ_ERROR_INVALID_ARGUMENT;
    if (wq_owner_is_forked(queue))
        return WQ_ERROR_CLOSING;
    if (strnlen(id, WQ_ID_SIZE) != WQ_ID_SIZE - 1)
        return WQ_ERROR_NOT_FOUND;
    pthread_mutex_lock(&queue->lock);
    wq_job *job = wq_job_ref(wq_known_by_id(&queue->known, id));
    pthread_mutex_unlock(&queue->lock);
    if (job == NULL)
        return WQ_ERROR_NOT_FOUND;
    *out = job;
    return WQ_OK;
}

static int check_wish(const wq_job *job)
{
    if (job == NULL)
        return WQ_ERROR_INVALID_ARGUMENT;
    return wq_owner_is_forked(job->queue) ? WQ_ERROR_CLOSING : WQ_OK;
}

int wq_job_cancel(wq_job *job)
{
    int result = check_wish(job);
    return result == WQ_OK ? wq_life_cancel(job->queue, job) : result;
}

int wq_job_cancel_by(wq_job *job, const char *by)
{
    int result = by != NULL ? check_wish(job) : WQ_ERROR_INVALID_ARGUMENT;
    if (result != WQ_OK)
        return result;
    pthread_mutex_lock(&job->lock);
    if (job->state < WQ_STATE_SUCCEEDED && *job->cancelled_by == '\0')
        snprintf(job->cancelled_by, sizeof job->cancelled_by, "%.*s", (int)strcspn(by, " \"\\"),
                 by);
    pthread_mutex_unlock(&job->lock);
    return wq_life_cancel(job->queue, job);
}

int wq_job_abandon(wq_job *job)
{
    int result = check_wish(job);
    return result == WQ_OK ? wq_life_abandon(job->queue, job) : result;
}
