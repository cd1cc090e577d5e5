/* sharing.c - servers that share a store without a broker: a runner that stands before the queue's
 * own, and has a key's lease while its program runs.
 *
 *   run()     takes the lease, has the queue's own runner run the program; a failure is written
 *             into the record at once. Where another has the key it waits for that one's end, which
 *             is this run's end as well, and its output this run's output.
 *   settler   a thread: a run that went well has its lease until the queue has published the output
 *             (or has discarded it), which is when its file is gone; then the record says so.
 *
 * A worker that waits for another server's run is not free for other keys.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>
#include <workqueue/remote.h>

#include "workqueue/remote/lease.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/threads.h"

enum {
    LOOK_AGAIN_MS = 250, /* between two looks whether another's run has ended */
    SETTLE_MS = 20,      /* between two looks whether an output is published */
    CLOSE_MS = 5000,     /* how long a close waits for the last of them */
};

/* A run that went well, and whose output is the publisher's now. */
typedef struct finished {
    TAILQ_ENTRY(finished) link;
    wq_lease *lease;
    char key[WQ_KEY_SIZE];
    char path[]; /* of the output in the making */
} finished;

typedef struct sharing {
    wq_runner runner;
    wq_runner *own; /* the queue's, which puts it here */
    const wq_store *store;
    wq_leases *leases;
    char name[WQ_NAME_SIZE]; /* no other server's */
    pthread_t thread;
    int has_thread;

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t news; /* one has finished, or was settled; or we close */
    TAILQ_HEAD(, finished) finished;
    int closing;
} sharing;

/* ---- settling -------------------------------------------------------------------------------- */

/* Its file is gone: so it is in place, unless it was discarded or could not be published. Nonzero:
 * the record says so, or is another's. */
static int settle_finished(const sharing *s, finished *f)
{
    char tag[WQ_TAG_SIZE];
    uint64_t epoch = 0, bytes = 0;
    int result = s->store->shared->output(s->store->self, f->key, &epoch, &bytes, tag, NULL);
    if (result != WQ_OK && result != WQ_ERROR_NOT_FOUND)
        return 0;
    int is_in_place = result == WQ_OK && epoch >= wq_lease_epoch(f->lease);
    return wq_lease_release(f->lease, is_in_place ? WQ_DONE_WELL : WQ_FREE, 0, bytes, NULL, NULL) !=
           WQ_ERROR_AWAY;
}

static void *settler_main(void *arg)
{
    sharing *s = arg;
    finished *f;
    pthread_mutex_lock(&s->lock);
    while (!s->closing || !TAILQ_EMPTY(&s->finished)) {
        if ((f = TAILQ_FIRST(&s->finished)) == NULL) {
            pthread_cond_wait(&s->news, &s->lock);
            continue;
        }
        TAILQ_REMOVE(&s->finished, f, link);
        pthread_mutex_unlock(&s->lock);
        int is_settled = access(f->path, F_OK) != 0 && settle_finished(s, f);
        pthread_mutex_lock(&s->lock);
        if (!is_settled && s->closing == 2) {
            wq_lease_drop(f->lease);
            is_settled = 1;
        }
        if (is_settled) {
            free(f);
            pthread_cond_broadcast(&s->news);
            continue;
        }
        TAILQ_INSERT_TAIL(&s->finished, f, link);
        wq_cond_wait_ms(&s->news, &s->lock, SETTLE_MS);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* The lease is the settler's from here on. */
static void hand_to_settler(sharing *s, const wq_run *run, wq_lease *lease)
{
    finished *f = calloc(1, sizeof *f + strlen(run->output_path) + 1);
    if (f == NULL) {
        wq_lease_drop(lease); /* it is taken over after a while, and found to be done */
        return;
    }
    f->lease = lease;
    snprintf(f->key, sizeof f->key, "%s", run->key);
    memcpy(f->path, run->output_path, strlen(run->output_path) + 1);
    pthread_mutex_lock(&s->lock);
    TAILQ_INSERT_TAIL(&s->finished, f, link);
    pthread_cond_broadcast(&s->news);
    pthread_mutex_unlock(&s->lock);
}

/* ---- a run ----------------------------------------------------------------------------------- */

static int is_cancelled(const wq_run *run, int wait_ms)
{
    struct pollfd fd = {.fd = run->cancel_fd, .events = POLLIN};
    return poll(&fd, 1, wait_ms) > 0;
}

static void fail_outcome(wq_outcome *outcome, int returncode, const char *why)
{
    *outcome = (wq_outcome){.returncode = returncode, .error = strdup(why)};
}

static void lost_lease(void *user)
{
    const uint64_t one = 1;
    if (write(*(int *)user, &one, sizeof one) < 0)
        return; /* it says so already */
}

/* What is readable when either is: epoll is, as poll() sees it. -1: no descriptors are left. */
static int join_fds(int a, int b)
{
    struct epoll_event event = {.events = EPOLLIN};
    int both = epoll_create1(EPOLL_CLOEXEC);
    if (both >= 0 && epoll_ctl(both, EPOLL_CTL_ADD, a, &event) == 0 &&
        epoll_ctl(both, EPOLL_CTL_ADD, b, &event) == 0)
        return both;
    if (both >= 0)
        close(both);
    return -1;
}

/* Nonzero: the lease was lost, and the program was ended for that. */
static int run_with_lease(sharing *s, const wq_run *run, wq_lease *lease, int lost_fd,
                          wq_outcome *outcome)
{
    wq_run ours = *run;
    wq_outcome ended = {0};
    ours.cancel_fd = join_fds(run->cancel_fd, lost_fd);
    if (ours.cancel_fd >= 0) {
        s->own->run(s->own->self, &ours, &ended);
        close(ours.cancel_fd);
    } else {
        fail_outcome(&ended, WQ_RETURNCODE_OURS, "no descriptors are left");
    }
    if (wq_lease_is_lost(lease)) {
        wq_lease_drop(lease);
        free(ended.error);
        return truncate(run->output_path, 0) == 0 || errno != EINTR;
    }
    if (ended.returncode == 0)
        hand_to_settler(s, run, lease);
    else if (wq_lease_release(lease, ended.cancelled ? WQ_FREE : WQ_FAILED, ended.returncode, 0,
                              ended.error, NULL) == WQ_ERROR_AWAY)
        wq_lease_drop(lease);
    *outcome = ended;
    return 0;
}

/* Another's output becomes this run's, as the queue wants to publish one: a second name of it. */
static void take_output(const sharing *s, const wq_run *run, wq_outcome *outcome)
{
    char path[PATH_MAX], *name = NULL;
    wq_error error = {.message = "out of memory"};
    int ok = s->store->path(s->store->self, run->key, path, sizeof path, &error) == WQ_OK &&
             asprintf(&name, "%s.other", run->output_path) >= 0;
    if (ok && (link(path, name) != 0 || rename(name, run->output_path) != 0)) {
        snprintf(error.message, sizeof error.message, "take over the output: %s", strerror(errno));
        unlink(name);
        ok = 0;
    }
    free(name);
    *outcome = (wq_outcome){0};
    if (!ok)
        fail_outcome(outcome, WQ_RETURNCODE_OURS, error.message);
}

/* One look at the record. Nonzero: the run has ended. */
static int try_run(sharing *s, const wq_run *run, wq_claim *claim, wq_outcome *outcome)
{
    wq_lease *lease;
    wq_record record;
    char *why = NULL;
    wq_error error;
    int is_over = 1;
    switch (wq_lease_take(s->leases, claim, &lease, &record, &why, &error)) {
    case WQ_CLAIMED:
        is_over = !run_with_lease(s, run, lease, *(int *)claim->user, outcome);
        break;
    case WQ_CLAIM_ANSWERED:
        if (record.state == WQ_DONE_WELL)
            take_output(s, run, outcome);
        else
            fail_outcome(outcome, record.returncode, why != NULL ? why : "failed");
        break;
    case WQ_CLAIM_ELSEWHERE:
    case WQ_CLAIM_AWAY:
        is_over = 0;
        break;
    }
    free(why);
    return is_over;
}

static void sharing_run(void *self, const wq_run *run, wq_outcome *outcome)
{
    int lost_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    wq_claim claim = {.key = run->key,
                      .id = run->id,
                      .params = run->params,
                      .rebuild = run->rebuild,
                      .lost = lost_lease,
                      .user = &lost_fd};
    if (lost_fd < 0) {
        fail_outcome(outcome, WQ_RETURNCODE_OURS, "no descriptors are left");
        return;
    }
    while (!try_run(self, run, &claim, outcome))
        if (is_cancelled(run, LOOK_AGAIN_MS)) {
            *outcome = (wq_outcome){
                .returncode = WQ_RETURNCODE_OURS, .cancelled = 1, .error = strdup("cancelled")};
            break;
        }
    close(lost_fd);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int sharing_list(void *self, int (*each)(void *user, const wq_elsewhere *job), void *user,
                        wq_error *error)
{
    return wq_record_list_running(((sharing *)self)->store, each, user, error);
}

static void stop_settler(sharing *s)
{
    int64_t end = wq_monotonic_ms() + CLOSE_MS;
    pthread_mutex_lock(&s->lock);
    s->closing = 1;
    pthread_cond_broadcast(&s->news);
    while (!TAILQ_EMPTY(&s->finished) && wq_monotonic_ms() < end)
        wq_cond_wait_ms(&s->news, &s->lock, SETTLE_MS);
    s->closing = 2;
    pthread_cond_broadcast(&s->news);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
}

static void sharing_close(wq_runner *runner)
{
    sharing *s = runner->self;
    if (s->has_thread)
        stop_settler(s);
    if (s->own != NULL)
        s->own->close(s->own);
    wq_leases_close(s->leases);
    pthread_cond_destroy(&s->news);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static sharing *new_sharing(const wq_store *store)
{
    sharing *s = calloc(1, sizeof *s);
    if (s == NULL || wq_owner_name(s->name, NULL) != 0) {
        free(s);
        return NULL;
    }
    s->runner = (wq_runner){.self = s,
                            .run = sharing_run,
                            .close = sharing_close,
                            .own = &s->own,
                            .list = sharing_list};
    s->store = store;
    pthread_mutex_init(&s->lock, NULL);
    wq_cond_init(&s->news);
    TAILQ_INIT(&s->finished);
    return s;
}

int wq_sharing_runner_open(wq_runner **out, const wq_sharing_options *options, wq_error *error)
{
    const wq_store *store = options->store;
    wq_leases_options leases = {.store = store,
                                .renew_ms = options->renew_ms,
                                .takeover_ms = options->takeover_ms,
                                .max_attempts = options->max_attempts,
                                .logger = {options->log, options->log_user}};
    if (options->size != sizeof *options || store == NULL || store->shared == NULL ||
        options->takeover_ms < 2 * options->renew_ms)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "options: a store that machines share is missing, or the time to take over "
                       "is less than twice that between renewals");
    int result = store->shared->probe(store->self, error);
    if (result != WQ_OK)
        return result;
    sharing *s = new_sharing(store);
    if (s == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    leases.owner = s->name;
    result = wq_leases_open(&s->leases, &leases, error);
    s->has_thread =
        result == WQ_OK && wq_thread_start(&s->thread, "wq-settle", settler_main, s) == 0;
    if (s->has_thread) {
        *out = &s->runner;
        return WQ_OK;
    }
    sharing_close(&s->runner);
    return result != WQ_OK ? result : wq_fail(error, WQ_ERROR_NO_MEMORY, "cannot start a thread");
}

void wq_sharing_options_init(wq_sharing_options *options, size_t size)
{
    memset(options, 0, size);
    if (size == sizeof *options)
        *options = (wq_sharing_options){
            .size = size, .renew_ms = 5000, .takeover_ms = 20000, .max_attempts = 5};
}
