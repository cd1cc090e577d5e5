/* workqueue.c - the public API, assembly, and the order of shutdown. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/journal/journal.h"
#include "workqueue/core/lookup.h"
#include "workqueue/core/params.h"
#include "workqueue/core/queue.h"
#include "workqueue/process/local.h"
#include "workqueue/store/dir.h"
#include "workqueue/core/worker.h"
#include "workqueue/util/log.h"

const char *wq_strerror(int result)
{
    switch (result) {
    case WQ_OK:
        return "done as asked";
    case WQ_DONE:
        return "the output is there already";
    case WQ_ATTACHED:
        return "the job was there already";
    case WQ_PENDING:
        return "the answer comes later";
    case WQ_ERROR_INVALID_ARGUMENT:
        return "an option or parameter is missing or malformed";
    case WQ_ERROR_NO_MEMORY:
        return "out of memory";
    case WQ_ERROR_SYSTEM:
        return "the operating system refused";
    case WQ_ERROR_LOCKED:
        return "another queue owns the storage or the journal";
    case WQ_ERROR_FULL:
        return "as many jobs are waiting as may";
    case WQ_ERROR_CLOSING:
        return "the queue is stopping and takes no new jobs";
    case WQ_ERROR_NOT_FOUND:
        return "there is no such job or output";
    case WQ_ERROR_TIMEOUT:
        return "the time given ran out";
    case WQ_ERROR_USER_FULL:
        return "this API token, or this server, has as many jobs as it may have";
    case WQ_ERROR_AWAY:
        return "the store cannot be reached now";
    default:
        return "unknown result";
    }
}

const char *wq_version(void)
{
    return WQ_VERSION;
}

/* ---- open ------------------------------------------------------------------------------------ */

void wq_options_init(wq_options *options, size_t size)
{
    memset(options, 0, size);
    if (size != sizeof *options)
        return;
    *options = (wq_options){
        .size = size,
        .workers = 2,
        .max_queue = 10000,
        .sync = 1,
        .grace_ms = 5000,
        .drain_ms = 500,
        .max_line_bytes = 8192,
        .stderr_tail_bytes = 65536,
        .max_ended = 4096,
        .retain_ended_ms = 3600 * 1000,
        .max_attempts = 3,
    };
}

static int check_options(const wq_options *o, wq_error *error)
{
    const char *wrong = NULL;
    if (o->size != sizeof *o)
        wrong = "options: size is unknown to this library; fill them with wq_options_init()";
    else if (o->runner == NULL && (o->program == NULL || *o->program == '\0'))
        wrong = "options: program is missing";
    else if (o->store == NULL && (o->storage_dir == NULL || *o->storage_dir == '\0'))
        wrong = "options: storage_dir is missing";
    else if (o->workers < 1 || o->workers > 1024)
        wrong = "options: workers must be from 1 to 1024";
    else if (o->max_line_bytes < 16 || o->max_line_bytes > 1 << 20)
        wrong = "options: max_line_bytes must be from 16 to 1048576";
    else if (o->stderr_tail_bytes > 16 << 20)
        wrong = "options: stderr_tail_bytes must be at most 16777216";
    else if (o->max_open_files > 0 && o->max_open_files < 16)
        wrong = "options: max_open_files must be 0 or at least 16";
    else if (o->journal_path != NULL && *o->journal_path == '\0')
        wrong = "options: journal_path is empty";
    else if (o->max_attempts < 1 || o->max_attempts > 1000)
        wrong = "options: max_attempts must be from 1 to 1000";
    if (wrong != NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "%s", wrong);
    return WQ_OK;
}

static int open_store(wq_queue *queue, const wq_options *o, wq_error *error)
{
    if (o->store != NULL) {
        queue->store = o->store;
        return WQ_OK;
    }
    wq_store *store;
    int result = wq_dir_open(&store, o->storage_dir, o->sync, &queue->logger, error);
    if (result == WQ_OK && (o->retain_age_s > 0 || o->retain_bytes > 0) &&
        (result = wq_dir_retain(store, o->retain_age_s, o->retain_bytes, error)) != WQ_OK)
        store->close(store);
    if (result == WQ_OK)
        queue->store = store;
    return result;
}

/* From the root, as the host may change its folder. Links stay links: there are programs that do
 * what the name says by which they are started. */
static char *from_root(const char *path)
{
    char here[PATH_MAX], *whole = NULL;
    if (*path == '/')
        return strdup(path);
    if (getcwd(here, sizeof here) == NULL || asprintf(&whole, "%s/%s", here, path) < 0)
        return NULL;
    return whole;
}

static int open_runner(wq_runner **out, wq_queue *queue, const wq_options *o, wq_error *error)
{
    if (o->runner != NULL) {
        *out = o->runner;
        return WQ_OK;
    }
    char *program = from_root(o->program);
    if (program == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "program %s: %s", o->program,
                       strerror(errno));
    wq_local_options local = {
        .program = program,
        .workers = o->workers,
        .grace_ms = o->grace_ms,
        .drain_ms = o->drain_ms,
        .max_line_bytes = o->max_line_bytes,
        .stderr_tail_bytes = o->stderr_tail_bytes,
        .limits = {.output_bytes = o->max_output_bytes,
                   .memory_bytes = o->max_memory_bytes,
                   .cpu_s = o->max_cpu_s,
                   .open_files = o->max_open_files,
                   .soft_open_files = o->soft_open_files,
                   .processes = o->max_processes},
        .environment = o->environment,
        .cgroup_dir = o->cgroup_dir,
        .guard_path = o->guard_path,
        .token_in_environment = o->token_in_environment,
        .private_tmpdir = o->private_tmpdir,
        .allow_new_privileges = o->allow_new_privileges,
        .logger = queue->logger,
    };
    int result = wq_local_open(out, &local, error);
    free(program);
    return result;
}

static void set_runner(wq_queue *queue, wq_runner *runner)
{
    enum { IN_FLIGHT = 1000 };
    queue->runner = runner;
    queue->asynchronous = runner->start != NULL;
    queue->wants_interest = queue->asynchronous && runner->interest != NULL;
    if (!queue->asynchronous)
        return;
    size_t most = runner->max_in_flight ? runner->max_in_flight : IN_FLIGHT;
    queue->workers = most < UINT_MAX ? (unsigned)most : UINT_MAX;
}

static void close_given(const wq_options *o)
{
    if (o->size != sizeof *o)
        return;
    if (o->runner != NULL)
        o->runner->close(o->runner);
    if (o->store != NULL)
        o->store->close(o->store);
}

/* Store and journal; the jobs that wait stay in the journal. */
static void close_parts(wq_queue *queue)
{
    wq_queue_put_down(queue);
    wq_lookups_close(queue->lookups);
    queue->lookups = NULL;
    if (queue->journal != NULL)
        wq_journal_close(queue->journal);
    queue->journal = NULL;
    queue->store->close(queue->store);
    queue->store = NULL; /* references to jobs may outlive it */
    wq_queue_forget(queue);
}

int wq_open(wq_queue **out, const wq_options *options, wq_error *error)
{
    wq_runner *runner = NULL;
    int result = check_options(options, error);
    wq_queue *queue = result == WQ_OK ? calloc(1, sizeof *queue) : NULL;
    if (queue == NULL) {
        close_given(options);
        return result == WQ_OK ? wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory") : result;
    }
    if (wq_queue_init(queue, options) != 0) {
        result = wq_fail(error, WQ_ERROR_SYSTEM, "getrandom: %s", strerror(errno));
        close_given(options);
        goto failed;
    }
    /* the program first: a mistyped path must not leave files in the storage folder */
    if ((result = open_runner(&runner, queue, options, error)) != WQ_OK) {
        close_given(options);
        goto failed;
    }
    assert(runner != NULL);
    if ((result = open_store(queue, options, error)) != WQ_OK) {
        runner->close(runner);
        goto failed;
    }
    set_runner(queue, runner);
    /* where no job may wait, questions about those that may run still do */
    size_t most = options->max_queue > 0 ? options->max_queue : queue->workers;
    if (options->journal_path != NULL)
        result = wq_journal_open(&queue->journal, queue, options, error);
    if (result == WQ_OK && queue->store->blocks)
        result = wq_lookups_open(&queue->lookups, most, error);
    if (result != WQ_OK)
        runner->close(runner);
    else
        result = wq_pool_open(&queue->pool, queue, runner, error);
    if (result != WQ_OK) {
        close_parts(queue);
        goto failed;
    }
    *out = queue;
    return WQ_OK;
failed:
    wq_queue_unref(queue);
    return result;
}

/* ---- jobs ------------------------------------------------------------------------------------ */

/* The job to join, with a reference, if there is one. A rebuild joins one that waits, and the
 * follower of one that runs; so does everybody if the run is being cancelled. `*before` is what a
 * new one would have to follow. */
static wq_job *join_locked(wq_queue *queue, const char *key, unsigned flags, wq_job **before)
{
    wq_job *first = wq_queue_by_key_locked(queue, key), *job = first;
    *before = NULL; /* by_key keeps it while the lock is held, and its followers */
    while (job != NULL &&
           (job->ending || ((flags & WQ_ENSURE_REBUILD) && job->state != WQ_STATE_QUEUED))) {
        *before = job;
        job = job->follower;
    }
    if (job != NULL)
        wq_job_ref(job);
    wq_job_unref(first);
    if (job != NULL && !(flags & WQ_ENSURE_TENTATIVE))
        job->tentative = 0;
    return job;
}

/* `result`, and the job, whose reference is taken; or WQ_PENDING if the journal does not have it
 * yet: `await` is told when it has. */
static int hand_out_locked(wq_job *job, wq_await *await, int result, wq_job **out)
{
    if (!job->pending) {
        *out = job;
        return result;
    }
    assert(await != NULL);
    await->result = result;
    STAILQ_INSERT_TAIL(&job->awaits, await, link);
    wq_job_unref(job); /* the queue has it */
    return WQ_PENDING;
}

/* Joins a job or begins `new`; WQ_DONE: its key may have ended since `generation`, so the store
 * must be asked again. */
static int join_or_begin(wq_queue *queue, wq_job *new, unsigned flags, uint64_t generation,
                         wq_await *await, wq_job **out, wq_error *error)
{
    int result = WQ_ATTACHED;
    wq_job *before;
    pthread_mutex_lock(&queue->lock);
    wq_job *job = join_locked(queue, new->key, flags, &before);
    if (job == NULL && *wq_queue_generation_locked(queue, new->key) != generation) {
        result = WQ_DONE;
    } else if (job == NULL) {
        new->rebuild = (flags & WQ_ENSURE_REBUILD) != 0;
        new->tentative = (flags & WQ_ENSURE_TENTATIVE) != 0;
        result = wq_queue_admit_locked(queue, new, before, error);
        if (result == WQ_OK)
            job = wq_job_ref(new);
    }
    if (job != NULL)
        result = hand_out_locked(job, await, result, out);
    pthread_mutex_unlock(&queue->lock);
    if (result == WQ_OK && queue->fair) /* it may have come in front of others */
        wq_watchers_tell(&queue->watchers);
    return result;
}

/* The output is there: a job that says so, if one is wanted. */
static int done(wq_queue *queue, const wq_params *params, const char *key, unsigned flags,
                wq_await *await, wq_job **out, wq_error *error)
{
    if (!(flags & WQ_ENSURE_JOB)) {
        *out = NULL;
        return WQ_DONE;
    }
    pthread_mutex_lock(&queue->lock);
    wq_job *job = wq_queue_done_locked(queue, key);
    pthread_mutex_unlock(&queue->lock);
    if (job == NULL) {
        job = wq_job_new(queue, params, key);
        if (job == NULL || wq_queue_remember(queue, job) != WQ_OK) {
            wq_job_unref(job);
            return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
        }
    }
    pthread_mutex_lock(&queue->lock);
    int result = hand_out_locked(job, await, WQ_DONE, out);
    pthread_mutex_unlock(&queue->lock);
    return result;
}

static int find(wq_queue *queue, const char *key, int64_t *made_at_ms, wq_error *error)
{
    wq_store *store = queue->store;
    return wq_queue_store_said(queue, store->find(store->self, key, made_at_ms, error));
}

/* A look at the row: WQ_ATTACHED, WQ_PENDING or WQ_ERROR_NOT_FOUND. */
static int join(wq_queue *queue, const char *key, unsigned flags, uint64_t *generation,
                wq_await *await, wq_job **out)
{
    wq_job *before;
    int result = WQ_ERROR_NOT_FOUND;
    pthread_mutex_lock(&queue->lock);
    *generation = *wq_queue_generation_locked(queue, key);
    wq_job *job = join_locked(queue, key, flags, &before);
    if (job != NULL)
        result = hand_out_locked(job, await, WQ_ATTACHED, out);
    pthread_mutex_unlock(&queue->lock);
    return result;
}

/* One look at the row and at the store: WQ_ATTACHED, WQ_PENDING, WQ_DONE, WQ_ERROR_NOT_FOUND if a
 * job has to begin, or a failure. */
static int look(wq_queue *queue, const wq_params *params, const char *key, unsigned flags,
                uint64_t *generation, wq_await *await, wq_job **out, int64_t *made_at_ms,
                wq_error *error)
{
    int result = join(queue, key, flags, generation, await, out);
    if (result != WQ_ERROR_NOT_FOUND || (flags & WQ_ENSURE_REBUILD))
        return result;
    int64_t made_at = 0;
    wq_error why = {.code = WQ_OK};
    result = find(queue, key, &made_at, &why);
    if (made_at_ms != NULL)
        *made_at_ms = made_at;
    if (result != WQ_OK) {
        if (result != WQ_ERROR_NOT_FOUND && error != NULL) /* that one is no failure of ours */
            *error = why;
        return result;
    }
    if (await != NULL)
        await->made_at_ms = made_at;
    return done(queue, params, key, flags, await, out, error);
}

static int check_ask(const wq_params *params, unsigned flags, char key[WQ_KEY_SIZE],
                     wq_error *error)
{
    const unsigned known = WQ_ENSURE_REBUILD | WQ_ENSURE_JOB | WQ_ENSURE_TENTATIVE;
    int result = wq_params_check(params, error);
    if (result != WQ_OK)
        return result;
    if (flags & ~known)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "flags are unknown to this library");
    if (wq_params_key(params, key) != WQ_OK)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    return WQ_OK;
}

/* WQ_PENDING: `await` will be told. */
static int ensure_run(wq_queue *queue, const wq_params *params, unsigned flags, wq_await *await,
                      wq_job **out, int64_t *made_at_ms, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    uint64_t generation;
    int result = check_ask(params, flags, key, error);
    if (result != WQ_OK)
        return result;
    /* The store is asked without a lock, so an end in between sends us round again: else a job
     * could run twice because its first run ended while we looked. */
    wq_job *new = NULL;
    do {
        result = look(queue, params, key, flags, &generation, await, out, made_at_ms, error);
        if (result != WQ_ERROR_NOT_FOUND)
            break;
        if (new == NULL && (new = wq_job_new(queue, params, key)) == NULL) {
            result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
            break;
        }
        result = join_or_begin(queue, new, flags, generation, await, out, error);
    } while (result == WQ_DONE);
    wq_job_unref(new);
    return result;
}

/* A thread that waits for the journal. */
typedef struct waiter {
    wq_await await;
    pthread_mutex_t lock;
    pthread_cond_t told;
    /* under the lock */
    int is_told, result;
    wq_job *job;
    wq_error error;
} waiter;

static void wake_waiter(void *user, int result, wq_job *job, int64_t made_at_ms,
                        const wq_error *error)
{
    (void)made_at_ms;
    waiter *w = user;
    pthread_mutex_lock(&w->lock);
    w->is_told = 1;
    w->result = result;
    w->job = job;
    if (error != NULL)
        w->error = *error;
    pthread_cond_signal(&w->told);
    pthread_mutex_unlock(&w->lock);
}

int wq_ensure_run_aged(wq_queue *queue, const wq_params *params, unsigned flags, wq_job **out,
                       int64_t *made_at_ms, wq_error *error)
{
    wq_job *job = NULL;
    waiter w = {.await = {.cb = wake_waiter, .user = &w},
                .lock = PTHREAD_MUTEX_INITIALIZER,
                .told = PTHREAD_COND_INITIALIZER};
    int result = ensure_run(queue, params, flags, &w.await, &job, made_at_ms, error);
    if (result == WQ_PENDING) {
        pthread_mutex_lock(&w.lock);
        while (!w.is_told)
            pthread_cond_wait(&w.told, &w.lock);
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

int wq_ensure_run(wq_queue *queue, const wq_params *params, unsigned flags, wq_job **out,
                  wq_error *error)
{
    return wq_ensure_run_aged(queue, params, flags, out, NULL, error);
}

/* Somebody else's question and callback, in memory of ours. */
typedef struct async {
    wq_lookup lookup; /* first */
    wq_await await;
    wq_queue *queue;
    wq_params params; /* behind the structure, for the lookup */
    unsigned flags;
    wq_accepted_cb cb;
    void *user;
} async;

static int is_stopping(wq_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    int is = queue->stopping;
    pthread_mutex_unlock(&queue->lock);
    return is;
}

static void tell_async(void *user, int result, wq_job *job, int64_t made_at_ms,
                       const wq_error *error)
{
    async *a = user;
    a->cb(a->user, result, job, made_at_ms, error);
    free(a);
}

static void ask_store(wq_lookup *lookup, int closing)
{
    async *a = (async *)lookup;
    wq_job *job = NULL;
    int64_t made_at_ms = 0;
    wq_error error = {0};
    int result =
        closing ? WQ_ERROR_CLOSING
                : ensure_run(a->queue, &a->params, a->flags, &a->await, &job, &made_at_ms, &error);
    /* a store that has been stopped says that it is away */
    if (result < 0 && (closing || is_stopping(a->queue)))
        result = wq_fail(&error, WQ_ERROR_CLOSING, "%s", wq_strerror(WQ_ERROR_CLOSING));
    if (result != WQ_PENDING)
        tell_async(a, result, job, result == WQ_DONE ? made_at_ms : 0, result < 0 ? &error : NULL);
}

/* `params` may be NULL. */
static async *new_async(wq_queue *queue, const wq_params *params, unsigned flags, wq_accepted_cb cb,
                        void *user)
{
    async *a = calloc(1, sizeof *a + (params ? wq_params_bytes(params) : 0));
    if (a == NULL)
        return NULL;
    if (params != NULL)
        wq_params_copy(&a->params, (char *)(a + 1), params);
    a->lookup.ask = ask_store;
    a->await = (wq_await){.cb = tell_async, .user = a};
    a->queue = queue;
    a->flags = flags;
    a->cb = cb;
    a->user = user;
    return a;
}

/* The row is looked at here, as it may have the job; the store by a thread. */
static int ask_later(wq_queue *queue, async *a, const char *key, wq_job **out, wq_error *error)
{
    uint64_t generation;
    int result = join(queue, key, a->flags, &generation, &a->await, out);
    if (result != WQ_ERROR_NOT_FOUND)
        return result;
    result = wq_lookups_add(queue->lookups, &a->lookup, error);
    return result == WQ_OK ? WQ_PENDING : result;
}

int wq_ensure_run_async(wq_queue *queue, const wq_params *params, unsigned flags, wq_job **out,
                        int64_t *made_at_ms, wq_accepted_cb cb, void *user, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    int asks_later = queue->lookups != NULL && !(flags & WQ_ENSURE_REBUILD);
    if (queue->journal == NULL && !asks_later)
        return ensure_run(queue, params, flags, NULL, out, made_at_ms, error);
    int result = asks_later ? check_ask(params, flags, key, error) : WQ_OK;
    if (result != WQ_OK)
        return result;
    async *a = new_async(queue, asks_later ? params : NULL, flags, cb, user);
    if (a == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    result = asks_later ? ask_later(queue, a, key, out, error)
                        : ensure_run(queue, params, flags, &a->await, out, made_at_ms, error);
    if (result != WQ_PENDING)
        free(a);
    return result;
}

/* Also the answer when the queue is closed, where there is no pool any more. */
static int has_ended(wq_job *job)
{
    pthread_mutex_lock(&job->lock);
    int ended = job->state >= WQ_STATE_SUCCEEDED;
    pthread_mutex_unlock(&job->lock);
    return ended;
}

/* It has been cancelled, but the journal does not have that yet. */
static int is_being_cancelled(wq_queue *queue, wq_job *job)
{
    pthread_mutex_lock(&queue->lock);
    int is = job->decided && job->end.state == WQ_STATE_CANCELLED;
    pthread_mutex_unlock(&queue->lock);
    return is;
}

int wq_job_cancel(wq_job *job)
{
    wq_queue *queue = job->queue;
    if (has_ended(job))
        return WQ_DONE;
    if (wq_queue_cancel_queued(queue, job, "cancelled") || wq_pool_cancel(queue->pool, job) ||
        is_being_cancelled(queue, job))
        return WQ_OK;
    return WQ_DONE;
}

int wq_job_abandon(wq_job *job)
{
    return wq_queue_abandon(job->queue, job) ? wq_job_cancel(job) : WQ_DONE;
}

/* ---- stop and close -------------------------------------------------------------------------- */

void wq_stop(wq_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->stopping = 1;
    pthread_cond_broadcast(&queue->stops);
    pthread_mutex_unlock(&queue->lock);
    wq_queue_put_down(queue);
    wq_pool_stop(queue->pool);
    if (queue->store->stop != NULL)
        queue->store->stop(queue->store->self);
}

void wq_close(wq_queue *queue)
{
    if (queue == NULL)
        return;
    wq_stop(queue);
    wq_pool_close(queue->pool);
    close_parts(queue);
    wq_queue_unref(queue);
}

/* ---- outputs --------------------------------------------------------------------------------- */

static int key_of(const wq_params *params, char key[WQ_KEY_SIZE], wq_error *error)
{
    int result = wq_params_check(params, error);
    if (result == WQ_OK && wq_params_key(params, key) != WQ_OK)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    return result;
}

int wq_output_find(wq_queue *queue, const wq_params *params, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    int result = key_of(params, key, error);
    return result == WQ_OK ? find(queue, key, NULL, error) : result;
}

/* For who needs a descriptor where the store has none. The copy stays long enough to be opened. */
static int open_copy(wq_store *store, const char *key, int *fd, wq_error *error)
{
    char path[PATH_MAX];
    if (store->path == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "this store has no files");
    int result = store->path(store->self, key, path, sizeof path, error);
    if (result != WQ_OK)
        return result;
    int opened = open(path, O_RDONLY | O_CLOEXEC);
    if (opened < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "open %s: %s", path, strerror(errno));
    *fd = opened;
    return WQ_OK;
}

int wq_output_open(wq_queue *queue, const wq_params *params, int *fd, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    wq_output output;
    int result = key_of(params, key, error);
    if (result == WQ_OK)
        result = queue->store->open(queue->store->self, key, &output, error);
    if (result == WQ_OK && output.fd < 0)
        result = open_copy(queue->store, key, &output.fd, error);
    if (result == WQ_OK)
        *fd = output.fd;
    return wq_queue_store_said(queue, result);
}

int wq_job_output(wq_job *job, wq_output *out, wq_error *error)
{
    wq_store *store = job->queue->store;
    if (store == NULL)
        return wq_fail(error, WQ_ERROR_CLOSING, "the queue is closed");
    return wq_queue_store_said(job->queue, store->open(store->self, job->key, out, error));
}

int wq_outputs_block(const wq_queue *queue)
{
    return queue->store->blocks;
}

static int64_t read_file(int fd, uint64_t offset, char *buf, size_t size, wq_error *error)
{
    size_t n = 0;
    while (n < size) {
        ssize_t got = pread(fd, buf + n, size - n, (off_t)(offset + n));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return wq_fail(error, WQ_ERROR_SYSTEM, "read an output: %s", strerror(errno));
        if (got == 0)
            break;
        n += (size_t)got;
    }
    return (int64_t)n;
}

int64_t wq_output_read(wq_job *job, const wq_output *output, uint64_t offset, void *buf,
                       size_t size, wq_error *error)
{
    wq_store *store = job->queue->store;
    if (offset >= output->size_bytes)
        return 0;
    if (size > output->size_bytes - offset)
        size = (size_t)(output->size_bytes - offset);
    if (output->fd >= 0)
        return read_file(output->fd, offset, buf, size, error);
    if (store == NULL)
        return wq_fail(error, WQ_ERROR_CLOSING, "the queue is closed");
    int64_t n = store->read(store->self, job->key, output, offset, buf, size, error);
    if (n < 0)
        wq_queue_store_said(job->queue, (int)n);
    return n;
}

int wq_output_url(wq_job *job, char *url, size_t size, wq_error *error)
{
    wq_store *store = job->queue->store;
    if (store == NULL || store->url == NULL)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "the store has no URLs for clients");
    return store->url(store->self, job->key, url, size, error);
}

int wq_output_delete(wq_queue *queue, const wq_params *params, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    int result = key_of(params, key, error);
    if (result != WQ_OK)
        return wq_queue_store_said(queue, result);
    result = queue->store->remove(queue->store->self, key, error);
    if (queue->runner->removed != NULL)
        queue->runner->removed(queue->runner->self, params, key);
    return wq_queue_store_said(queue, result);
}

int wq_outputs_delete(wq_queue *queue, const char *server, const char *document_set_id, size_t *n,
                      wq_error *error)
{
    *n = 0;
    if (server == NULL || *server == '\0')
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "server is missing");
    return wq_queue_store_said(
        queue, queue->store->remove_set(queue->store->self, server, document_set_id, n, error));
}

int wq_output_path(wq_queue *queue, const wq_params *params, char *path, size_t size,
                   wq_error *error)
{
    char key[WQ_KEY_SIZE];
    int result = key_of(params, key, error);
    if (result != WQ_OK)
        return result;
    if (queue->store->path == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "this store has no paths");
    return queue->store->path(queue->store->self, key, path, size, error);
}
