/* workqueue.c - the public handle: options, what a queue is put together of, and the order in which
 * it is taken apart. */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/core/admit.h"
#include "workqueue/core/async_runner.h"
#include "workqueue/core/life.h"
#include "workqueue/core/lookup.h"
#include "workqueue/core/run.h"
#include "workqueue/core/watchdog.h"
#include "workqueue/core/wishes.h"
#include "workqueue/core/worker.h"
#include "workqueue/process/local.h"
#include "workqueue/store/dir.h"

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
        return "this API token, server or address has as many jobs as it may have";
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

/* ---- options --------------------------------------------------------------------------------- */

/* The size of the first release's; what came later stands behind it. */
enum { FIRST_SIZE = offsetof(wq_options, guard_path) };

static const wq_options defaults = {
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
    .max_error_bytes = 16 << 20,
    .storage_wait_ms = 30000,
};

static int is_known_size(size_t size)
{
    return size >= FIRST_SIZE && size <= sizeof(wq_options);
}

void wq_options_init(wq_options *options, size_t size)
{
    if (options == NULL)
        return;
    memset(options, 0, size);
    if (!is_known_size(size))
        return;
    memcpy(options, &defaults, size);
    options->size = size;
}

static const char *check_tables(const wq_options *o)
{
    const wq_runner *r = o->runner;
    const wq_store *s = o->store;
    if (r != NULL && (r->close == NULL || (r->run == NULL) == (r->start == NULL) ||
                      (r->start != NULL && r->cancel == NULL)))
        return "options: a runner has `close`, and either `run`, or `start` and `cancel`";
    if (s != NULL && (s->close == NULL || s->find == NULL || s->begin == NULL ||
                      s->publish == NULL || s->discard == NULL))
        return "options: a store has find, begin, publish, discard and close";
    return NULL;
}

static int check_options(const wq_options *o, wq_error *error)
{
    const char *wrong = check_tables(o);
    if (wrong != NULL)
        ; /* nothing else matters */
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

/* The options as this library knows them. */
static int read_options(wq_options *own, const wq_options *given, wq_error *error)
{
    *own = defaults;
    if (given == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "options are NULL");
    if (!is_known_size(given->size))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "options: size is unknown to this library; fill them with "
                       "wq_options_init()");
    memcpy(own, given, given->size);
    own->size = sizeof *own;
    return check_options(own, error);
}

/* ---- parts ----------------------------------------------------------------------------------- */

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

static int open_folder(wq_store **out, wq_queue *queue, const wq_options *o, wq_error *error)
{
    char *program = o->runner == NULL ? from_root(o->program) : NULL;
    const wq_dir_options dir = {
        .path = o->storage_dir, .program = program, .sync = o->sync, .stop_ms = o->storage_wait_ms};
    int result = wq_dir_open(out, &dir, &queue->logger, error);
    free(program);
    return result;
}

static int open_store(wq_queue *queue, const wq_options *o, wq_error *error)
{
    if (o->store != NULL) {
        queue->store = o->store;
        return WQ_OK;
    }
    wq_store *store;
    int result = open_folder(&store, queue, o, error);
    if (result == WQ_OK && (o->retain_age_s > 0 || o->retain_bytes > 0) &&
        (result = wq_dir_retain(store, o->retain_age_s, o->retain_bytes, error)) != WQ_OK)
        store->close(store);
    if (result == WQ_OK)
        queue->store = store;
    return result;
}

static int open_runner(wq_runner **out, wq_queue *queue, const wq_options *o, wq_error *error)
{
    if (o->runner != NULL)
        *out = o->runner;
    if (o->runner != NULL && o->runner->own == NULL)
        return WQ_OK;
    if (o->runner != NULL)
        out = o->runner->own; /* which it stands before */
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
    if (!queue->asynchronous)
        return;
    size_t most = runner->max_in_flight ? runner->max_in_flight : IN_FLIGHT;
    queue->workers = most < UINT_MAX ? (unsigned)most : UINT_MAX;
    if (runner->interest != NULL)
        queue->interest = wq_async_runner_interest;
}

/* A job that died with its server so often may be why. What runs elsewhere is not why a server
 * died, and its runner knows what has become of it. */
static int restore_job(void *user, const wq_journal_row *row, wq_error *error)
{
    wq_queue *queue = user;
    char why[200];
    wq_job *job = wq_job_new(queue, &row->params, row->key);
    if (job == NULL) {
        wq_text_unref(row->end.error);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    int result = wq_life_restore(queue, job, row, error);
    if (result == WQ_OK && row->is_cancelled) {
        wq_life_cancel(queue, job);
    } else if (result == WQ_OK && !row->has_ended && row->attempts > 0 && !queue->asynchronous) {
        if (!row->rebuild && wq_life_is_in_place(queue, job)) {
            wq_life_end(queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
        } else if (row->attempts >= (int)queue->max_attempts) {
            snprintf(why, sizeof why,
                     "the server ended unexpectedly while this job ran, %d time%s; it is not tried "
                     "again",
                     row->attempts, row->attempts == 1 ? "" : "s");
            wq_life_fail(queue, job, WQ_RETURNCODE_OWN, why);
        }
    }
    wq_job_unref(job);
    return result;
}

static int open_journal(wq_queue *queue, const wq_options *o, wq_error *error)
{
    const wq_journal_options options = {
        .path = o->journal_path,
        .sync = o->sync,
        .max_ended = o->max_ended,
        .retain_ms = o->retain_ended_ms,
        .max_error_bytes = o->max_error_bytes,
        .logger = queue->logger,
        .user = queue,
        .restore = restore_job,
        .written = wq_life_written,
    };
    int64_t next_seq = 1;
    if (o->journal_path == NULL)
        return WQ_OK;
    queue->recorder.write = wq_journal_write;
    queue->recorder.flush_soon = wq_journal_flush_soon;
    int result = wq_journal_open(&queue->recorder.self, &options, &next_seq, error);
    pthread_mutex_lock(&queue->lock);
    queue->next_seq = next_seq;
    pthread_mutex_unlock(&queue->lock);
    return result;
}

static int open_publisher(wq_queue *queue, wq_error *error)
{
    const wq_publisher_options options = {
        .store = queue->store,
        .asynchronous = queue->asynchronous,
        .n_ready = &queue->n_ready,
        .workers = queue->workers,
        .logger = queue->logger,
        .user = queue,
        .published = wq_run_published,
    };
    return wq_publisher_open(&queue->publisher, &options, error);
}

/* The runner is the workers' or the async runner's from here on, also on failure. */
static int open_runs(wq_queue *queue, wq_runner *runner, wq_error *error)
{
    int result;
    if (!queue->asynchronous)
        return wq_pool_open(&queue->pool, queue, runner, error);
    result = wq_async_runner_open(&queue->async, queue, runner, error);
    if (result != WQ_OK)
        runner->close(runner);
    return result;
}

/* ---- open, stop and close -------------------------------------------------------------------- */

static void free_queue(wq_queue *queue)
{
    wq_life_dispose(queue);
    free(queue->folders[0]);
    free(queue->folders[1]);
    free(queue);
}

/* The queue is stopping, so no more come. */
static void wait_for_runner(wq_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    while (queue->runner_users > 0)
        pthread_cond_wait(&queue->unused, &queue->lock);
    pthread_mutex_unlock(&queue->lock);
}

static void close_runs(wq_queue *queue)
{
    wait_for_runner(queue);
    wq_watchdog_close(queue->watchdog);
    queue->watchdog = NULL;
    if (queue->pool != NULL)
        wq_pool_close(queue->pool);
    if (queue->async != NULL)
        wq_async_runner_close(queue->async);
    queue->pool = NULL;
    queue->async = NULL;
}

/* What a queue has when its runs are gone; the jobs that wait stay in the journal. */
static void close_parts(wq_queue *queue)
{
    wq_life_stop(queue);
    wq_publisher_close(queue->publisher);
    wq_lookups_close(queue->lookups);
    if (queue->recorder.self != NULL)
        wq_journal_close(queue->recorder.self);
    pthread_mutex_lock(&queue->lock);
    queue->closed = 1; /* references to jobs may outlive the store */
    while (queue->store_users > 0)
        pthread_cond_wait(&queue->unused, &queue->lock);
    queue->recorder.self = NULL;
    pthread_mutex_unlock(&queue->lock);
    queue->store->close(queue->store);
    wq_life_forget_all(queue);
}

static void close_given(const wq_options *o)
{
    if (o->runner != NULL && o->runner->close != NULL)
        o->runner->close(o->runner);
    if (o->store != NULL && o->store->close != NULL)
        o->store->close(o->store);
}

static int open_parts(wq_queue *queue, wq_runner *runner, const wq_options *o, wq_error *error)
{
    /* where no job may wait, questions about those that may run still do */
    size_t most = o->max_queue > 0 ? o->max_queue : queue->workers;
    int result = open_journal(queue, o, error);
    if (result == WQ_OK && queue->store->blocks)
        result = wq_lookups_open(&queue->lookups, most, error);
    if (result == WQ_OK)
        result = open_publisher(queue, error);
    if (result != WQ_OK) {
        runner->close(runner);
        return result;
    }
    result = open_runs(queue, runner, error);
    if (result == WQ_OK)
        result = wq_watchdog_open(&queue->watchdog, queue, error);
    return result;
}

/* Whose disks are looked at. Without memory they are not. */
static void note_folders(wq_queue *queue, const wq_options *o)
{
    if (o->storage_dir != NULL && *o->storage_dir != '\0')
        queue->folders[0] = from_root(o->storage_dir);
    if (o->journal_path != NULL && (queue->folders[1] = from_root(o->journal_path)) != NULL) {
        char *slash = strrchr(queue->folders[1], '/');
        slash[slash == queue->folders[1]] = '\0';
    }
}

static wq_queue *new_queue(const wq_options *o, wq_error *error)
{
    wq_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL) {
        wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
        return NULL;
    }
    if (wq_owner_init(queue, free_queue) != 0) {
        wq_fail(error, WQ_ERROR_SYSTEM, "mmap: %s", strerror(errno));
        free(queue);
        return NULL;
    }
    if (wq_life_init(queue, o) == 0) {
        note_folders(queue, o);
        return queue;
    }
    wq_fail(error, WQ_ERROR_SYSTEM, "getrandom: %s", strerror(errno));
    wq_owner_unref(queue);
    return NULL;
}

int wq_open(wq_queue **out, const wq_options *options, wq_error *error)
{
    wq_options o;
    wq_runner *runner = NULL;
    wq_error own = {0};
    error = error != NULL ? error : &own;
    int result = read_options(&o, options, error);
    if (result == WQ_OK && out == NULL)
        result = wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "out is NULL");
    wq_queue *queue = result == WQ_OK ? new_queue(&o, error) : NULL;
    if (queue == NULL) {
        close_given(&o);
        return result == WQ_OK ? error->code : result;
    }
    /* the program first: a mistyped path must not leave files in the storage folder */
    if ((result = open_runner(&runner, queue, &o, error)) != WQ_OK) {
        close_given(&o);
        wq_owner_unref(queue);
        return result;
    }
    assert(runner != NULL);
    if ((result = open_store(queue, &o, error)) != WQ_OK) {
        runner->close(runner);
        wq_owner_unref(queue);
        return result;
    }
    set_runner(queue, runner);
    result = open_parts(queue, runner, &o, error);
    if (result != WQ_OK) {
        wq_stop(queue);
        close_runs(queue);
        close_parts(queue);
        wq_owner_unref(queue);
        return result;
    }
    *out = queue;
    return WQ_OK;
}

void wq_stop(wq_queue *queue)
{
    if (queue == NULL || wq_owner_is_forked(queue))
        return;
    wq_life_stop(queue);
    if (queue->pool != NULL)
        wq_pool_stop(queue->pool);
    if (queue->async != NULL)
        wq_async_runner_stop(queue->async);
    if (queue->publisher != NULL)
        wq_publisher_stop(queue->publisher);
    if (queue->store->stop != NULL)
        queue->store->stop(queue->store->self);
}

void wq_close(wq_queue *queue)
{
    if (queue == NULL || wq_owner_is_forked(queue))
        return;
    wq_stop(queue);
    close_runs(queue);
    close_parts(queue);
    wq_owner_unref(queue);
}
