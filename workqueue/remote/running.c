/* running.c - a job that runs here, from its lease to its end: publish, release, tell, settle.
 *
 * The queue runs the program and publishes the output, under the epoch of the lease. Only when the
 * record says so is anybody told of an end, and only then is the delivery settled. Where the lease
 * is lost nobody is told anything: the request is put off, and whoever has the lease answers it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/remote/packaging.h"

enum {
    PROGRESS_MS = 20, /* progress is told at most so often, the latest */
    IDLE_MS = 250,
    TAKE_RETRY_MS = 500, /* to tell a store that is away */
};

/* A job of the queue, as its slot sees it. */
typedef struct job_run {
    slot *slot;
    work *work;
    wq_lease *lease;
    wq_job *job;
    wq_watch *watch;
    int64_t began_at, told_at;
    char line[WQ_REPLY_LINE_BYTES]; /* the latest */
    size_t line_len;
    int has_line;  /* that is yet to be told */
    int is_ending; /* by our will */
    int is_lost, is_unwanted;
} job_run;

static void on_job_news(void *user)
{
    wq_slot_wake(user);
}

/* ---- who asks -------------------------------------------------------------------------------- */

/* What is in the list changes only under the lock, and only this thread takes something out, so it
 * goes through it with the lock given back while it talks. */
static requester *next_asker(slot *s, const requester *after)
{
    pthread_mutex_lock(&s->packager->lock);
    requester *r = after != NULL ? LIST_NEXT(after, link) : LIST_FIRST(&s->askers);
    pthread_mutex_unlock(&s->packager->lock);
    return r;
}

static void drop_asker(slot *s, requester *r)
{
    pthread_mutex_lock(&s->packager->lock);
    LIST_REMOVE(r, link);
    pthread_mutex_unlock(&s->packager->lock);
    wq_requester_unref(r);
}

static void tell_all(slot *s, const char *text, size_t len)
{
    for (requester *r = next_asker(s, NULL); r != NULL; r = next_asker(s, r))
        wq_tell(s->packager, r, text, len, 0, s->epoch, 0);
}

static void tell_new_ones(job_run *u)
{
    slot *s = u->slot;
    for (requester *r = next_asker(s, NULL); r != NULL; r = next_asker(s, r)) {
        pthread_mutex_lock(&s->packager->lock);
        int was_told = r->is_told;
        r->is_told = 1;
        pthread_mutex_unlock(&s->packager->lock);
        if (was_told)
            continue;
        wq_tell_accepted(s->packager, r, wq_job_estimate_ms(u->job), s->packager->name, s->epoch);
        if (u->line_len > 0)
            wq_tell(s->packager, r, u->line, u->line_len, 0, s->epoch, 0);
    }
}

/* Copies the id of the n-th who asks; -1: there are not so many. */
static int copy_asker_id(slot *s, unsigned n, char id[WQ_REQUEST_ID_SIZE])
{
    pthread_mutex_lock(&s->packager->lock);
    const requester *r = LIST_FIRST(&s->askers);
    while (r != NULL && n-- > 0)
        r = LIST_NEXT(r, link);
    if (r != NULL)
        memcpy(id, r->id, sizeof r->id);
    pthread_mutex_unlock(&s->packager->lock);
    return r != NULL ? 0 : -1;
}

static void note_cancelled(slot *s, const char *id)
{
    requester *r;
    pthread_mutex_lock(&s->packager->lock);
    LIST_FOREACH(r, &s->askers, link)
    if (strcmp(r->id, id) == 0)
        r->is_cancelled = s->has_news = 1;
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->packager->lock);
}

void wq_look_for_cancels(void *user)
{
    slot *s = user;
    char id[WQ_REQUEST_ID_SIZE];
    for (unsigned n = 0; copy_asker_id(s, n, id) == 0; n++)
        if (wq_cancel_is_marked(s->packager->o.store, id))
            note_cancelled(s, id);
}

/* Those who do not want it any more. The run goes on while others want it. */
static void drop_cancelled(job_run *u)
{
    slot *s = u->slot;
    wq_packager *p = s->packager;
    requester *next, *r = next_asker(s, NULL);
    for (; r != NULL; r = next) {
        next = next_asker(s, r);
        pthread_mutex_lock(&p->lock);
        int is_cancelled = r->is_cancelled;
        pthread_mutex_unlock(&p->lock);
        if (!is_cancelled)
            continue;
        wq_tell(p, r, "Cancelled\n", strlen("Cancelled\n"), 0, s->epoch, 1);
        drop_asker(s, r);
        p->cancelled++;
    }
    u->is_unwanted = next_asker(s, NULL) == NULL;
}

/* Nobody can join from now on; those who have are handed out. */
static void close_list(slot *s)
{
    pthread_mutex_lock(&s->packager->lock);
    s->key[0] = '\0';
    pthread_mutex_unlock(&s->packager->lock);
}

static void drop_all(slot *s)
{
    requester *r;
    while ((r = next_asker(s, NULL)) != NULL)
        drop_asker(s, r);
}

/* ---- while it runs --------------------------------------------------------------------------- */

/* The line as the program would write it, from what the queue has made of it. */
static size_t make_line(char line[WQ_REPLY_LINE_BYTES], const wq_snapshot *snapshot)
{
    char head[64];
    unsigned long n = (unsigned long)(snapshot->reached * 1e9 + 0.5);
    if (snapshot->has_items)
        snprintf(head, sizeof head, "%" PRIu64 "/%" PRIu64, snapshot->items_done,
                 snapshot->items_total);
    else
        snprintf(head, sizeof head, "%lu.%09lu", n / 1000000000, n % 1000000000);
    int len = snprintf(line, WQ_REPLY_LINE_BYTES, "%s%s%s", head, snapshot->message ? "\t" : "",
                       snapshot->message ? snapshot->message : "");
    return len < WQ_REPLY_LINE_BYTES ? (size_t)len : WQ_REPLY_LINE_BYTES - 1;
}

/* The last line is told before the end, the others not too often. */
static void take_progress(job_run *u, const wq_snapshot *snapshot, int64_t now)
{
    char line[WQ_REPLY_LINE_BYTES];
    size_t len = make_line(line, snapshot);
    if (len != u->line_len || memcmp(line, u->line, len) != 0) {
        memcpy(u->line, line, len);
        u->line_len = len;
        u->has_line = 1;
    }
    int64_t least = u->has_line ? PROGRESS_MS : u->slot->packager->o.alive_ms;
    if (u->line_len == 0 ||
        (now - u->told_at < least && !(u->has_line && snapshot->has_returncode)))
        return;
    tell_all(u->slot, u->line, u->line_len);
    u->has_line = 0;
    u->told_at = now;
}

static void end_early(job_run *u)
{
    if (u->is_ending)
        return;
    u->is_ending = 1;
    wq_job_cancel(u->job);
}

/* One look at the job and all around it. */
static void look_around(job_run *u, int64_t now)
{
    wq_packager *p = u->slot->packager;
    if (!u->is_lost && wq_lease_is_lost(u->lease)) {
        u->is_lost = 1;
        p->fenced++;
    }
    if (!u->is_lost)
        drop_cancelled(u);
    if (u->is_lost || u->is_unwanted || p->closing)
        end_early(u);
    if (p->o.ack_after_ms > 0 && now - u->began_at >= p->o.ack_after_ms && !u->work->is_off) {
        u->work->need = wq_lease_epoch(u->lease);
        if (wq_put_off(u->slot, u->work, 0) != 0)
            u->began_at = now; /* again later */
    }
}

/* Until the job has ended; then `snapshot` is filled in. */
static void follow_job(job_run *u, wq_snapshot *snapshot)
{
    for (;;) {
        int64_t now = wq_monotonic_ms();
        look_around(u, now);
        wq_job_snapshot(u->job, snapshot);
        if (!u->is_ending) {
            tell_new_ones(u);
            if (snapshot->started_at_ms != 0)
                take_progress(u, snapshot, now);
        }
        if (snapshot->has_returncode)
            return;
        wq_snapshot_clear(snapshot);
        wq_slot_wait(u->slot, u->has_line ? PROGRESS_MS : IDLE_MS);
    }
}

/* ---- its end --------------------------------------------------------------------------------- */

/* Has the record say so. WQ_OK, WQ_ERROR_LOCKED: it is another's by now; WQ_ERROR_AWAY: we stop and
 * the store is away. */
static int release_lease(job_run *u, wq_record *record, const char *why)
{
    wq_packager *p = u->slot->packager;
    wq_error error;
    int result;
    while ((result = wq_lease_release(u->lease, record->state, record->returncode,
                                      record->size_bytes, why, &error)) == WQ_ERROR_AWAY) {
        if (p->closing) {
            wq_lease_drop(u->lease);
            break;
        }
        wq_slot_wait(u->slot, TAKE_RETRY_MS);
    }
    if (result != WQ_OK && result != WQ_ERROR_LOCKED && result != WQ_ERROR_AWAY)
        wq_log(&p->logger, WQ_LOG_ERROR, "%s: %.8s: its end cannot be written: %s",
               u->work->message.id, u->work->key, error.message);
    return result;
}

/* How large the output is that is in place. */
static int find_size(job_run *u, uint64_t *bytes)
{
    const wq_packager *p = u->slot->packager;
    const wq_store *store = p->o.store;
    char tag[WQ_TAG_SIZE];
    uint64_t epoch;
    wq_error error;
    int result;
    while ((result = store->shared->output(store->self, u->work->key, &epoch, bytes, tag,
                                           &error)) == WQ_ERROR_AWAY &&
           !p->closing)
        wq_slot_wait(u->slot, TAKE_RETRY_MS);
    return result;
}

/* Nobody hears anything; the request comes again, and is answered by who has it then. */
static void leave_run(job_run *u)
{
    if (!u->work->is_off)
        wq_put_off(u->slot, u->work, 1);
}

static void end_run(job_run *u, wq_record_state state, int returncode, const char *why)
{
    slot *s = u->slot;
    wq_packager *p = s->packager;
    wq_record record = {.state = state, .returncode = returncode, .epoch = s->epoch};
    if (state == WQ_DONE_WELL && find_size(u, &record.size_bytes) != WQ_OK)
        record.state = WQ_FREE; /* deleted meanwhile, say: it runs again */
    int result = release_lease(u, &record, why);
    u->lease = NULL;
    close_list(s);
    if (result != WQ_OK || record.state == WQ_FREE) {
        p->fenced += result == WQ_ERROR_LOCKED;
        leave_run(u);
        return;
    }
    p->succeeded += state == WQ_DONE_WELL;
    p->failed += state == WQ_FAILED;
    for (requester *r = next_asker(s, NULL); r != NULL; r = next_asker(s, r))
        wq_tell_record(p, r, u->work->key, &record, why);
    wq_work_settle(s, u->work);
}

/* It did not end by itself: `settles` if nobody wants it. */
static void give_up_run(job_run *u, int settles)
{
    wq_record record = {.state = WQ_FREE};
    if (u->is_lost)
        wq_lease_drop(u->lease);
    else
        release_lease(u, &record, NULL);
    u->lease = NULL;
    close_list(u->slot);
    if (settles)
        wq_work_settle(u->slot, u->work);
    else if (!u->slot->packager->closing)
        leave_run(u);
}

static void take_run_end(job_run *u, const wq_snapshot *snapshot)
{
    if (u->is_lost)
        give_up_run(u, 0);
    else if (snapshot->state == WQ_STATE_SUCCEEDED)
        end_run(u, WQ_DONE_WELL, 0, NULL);
    else if (u->is_ending || snapshot->resumes || snapshot->state == WQ_STATE_CANCELLED)
        give_up_run(u, u->is_unwanted && !u->slot->packager->closing);
    else
        end_run(u, WQ_FAILED, snapshot->returncode, snapshot->error ? snapshot->error : "failed");
}

/* ---- its beginning --------------------------------------------------------------------------- */

static void ask_queue(job_run *u)
{
    wq_packager *p = u->slot->packager;
    wq_error error = {0};
    wq_snapshot snapshot;
    unsigned flags = WQ_ENSURE_JOB | (u->work->message.rebuild ? WQ_ENSURE_REBUILD : 0);
    const wq_asker from = {.traceparent = u->work->came->traceparent};
    int result = wq_ensure_run_from(p->queue, &from, &u->work->message.params, flags, &u->job, NULL,
                                    NULL, NULL, &error);
    if (result >= 0 && wq_job_watch(u->job, on_job_news, u->slot, &u->watch) != WQ_OK) {
        wq_job_cancel(u->job);
        result = wq_fail(&error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    if (result == WQ_ERROR_CLOSING || result == WQ_ERROR_AWAY || result == WQ_ERROR_FULL) {
        give_up_run(u, 0);
    } else if (result < 0) {
        end_run(u, WQ_FAILED, WQ_RETURNCODE_OURS, error.message);
    } else {
        follow_job(u, &snapshot);
        take_run_end(u, &snapshot);
        wq_snapshot_clear(&snapshot);
    }
    wq_watch_cancel(u->watch);
    wq_job_unref(u->job);
}

void wq_run_work(slot *s, work *w, wq_lease *lease)
{
    wq_packager *p = s->packager;
    int64_t now = wq_monotonic_ms();
    job_run u = {.slot = s, .work = w, .lease = lease, .began_at = now};
    p->claimed++;
    p->taken_over += wq_lease_attempts(lease) > 1;
    p->running++;
    pthread_mutex_lock(&p->lock);
    memcpy(s->key, w->key, sizeof s->key);
    s->epoch = wq_lease_epoch(lease);
    wq_requester_join_locked(s, w->message.id, w->reply_to);
    pthread_mutex_unlock(&p->lock);
    wq_log(&p->logger, WQ_LOG_INFO, "%s: %.8s runs here (epoch %" PRIu64 ", attempt %u)%s%s",
           w->message.id, w->key, s->epoch, wq_lease_attempts(lease),
           *w->came->traceparent ? " traceparent " : "", w->came->traceparent);
    ask_queue(&u);
    close_list(s);
    drop_all(s);
    p->running--;
}
