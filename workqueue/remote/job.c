/* job.c - what becomes of a job of the server: by what has come for it, and by time that goes by.
 */
#include "workqueue/remote/serving.h"

/* ---- answers --------------------------------------------------------------------------------- */

/* A job that is cancelled is not run again by those who did not hear of it. */
static void take_accepted(remote *r, remote_job *job, const mail *m)
{
    job->is_accepted = job->is_sent = 1;
    job->alive_ms = m->alive_ms;
    job->estimate_ms = m->estimate_ms;
    if (job->cancel_at != 0)
        wq_remote_send_cancel(r, job);
    else
        job->run->begun(job->run->user, m->estimate_ms);
}

/* Ours put the output where the queue looks for it; others tell where it is. */
static void take_complete(remote *r, remote_job *job, mail *m)
{
    const char *url = m->text;
    if (m->is_ours || url == NULL || strncmp(url, "http", 4) != 0) {
        wq_remote_end_well(r, job);
        return;
    }
    wq_remote_start_fetch(r, job, m);
}

static void take_end(remote *r, remote_job *job, mail *m)
{
    if (m->end == WQ_REPLY_COMPLETE)
        take_complete(r, job, m);
    else if (m->end == WQ_REPLY_CANCELLED || job->cancel_at != 0)
        wq_remote_end_cancelled(r, job);
    else
        wq_remote_end_badly(r, job, m->returncode,
                            m->text != NULL && *m->text ? m->text
                                                        : "the packager failed without a reason");
}

static void take_fetched(remote *r, remote_job *job, const mail *m)
{
    job->is_fetching = 0;
    if (job->cancel_at != 0)
        wq_remote_end_cancelled(r, job);
    else if (m->fetched >= 0)
        wq_remote_end_well(r, job);
    else
        wq_remote_end_badly(r, job, WQ_RETURNCODE_OURS, m->error.message);
}

/* What the store has said. One that runs and is renewed is heard of. */
static void take_look(remote *r, remote_job *job)
{
    wq_look *look = &job->look;
    job->is_looking = 0;
    if (look->seen == WQ_SEEN_DONE)
        wq_remote_end_well(r, job);
    else if (look->seen == WQ_SEEN_FAILED && job->cancel_at == 0)
        wq_remote_end_badly(r, job, look->returncode, look->why);
    else if (look->seen == WQ_SEEN_RUNNING && look->has_changed && job->is_accepted)
        job->heard_at = wq_monotonic_ms();
    if (!job->is_over) {
        free(look->why);
        look->why = NULL;
    }
}

/* Whoever gets it from now on finds the mark. */
static void take_mark(remote *r, remote_job *job)
{
    job->is_marking = 0;
    job->is_marked = job->mark.seen == WQ_SEEN_MARKED;
    if (!job->is_marked)
        return; /* again at the next tick */
    wq_remote_send_cancel(r, job);
    if (!job->is_accepted)
        wq_remote_end_cancelled(r, job);
}

static void take_cancel(remote *r, remote_job *job)
{
    if (job->cancel_at != 0)
        return;
    job->cancel_at = wq_monotonic_ms();
    atomic_store(&job->fetch.stop, 1);
    if (!job->is_sent && !job->run->resumed)
        wq_remote_end_cancelled(r, job);
    else if (r->looker != NULL)
        wq_remote_mark_cancelled(r, job);
    else
        wq_remote_send_cancel(r, job);
}

/* A job of the journal that is heard of is out already. */
static void take_job_line(remote_job *job, const mail *m)
{
    job->is_accepted = job->is_sent = 1;
    if (job->cancel_at == 0)
        job->run->report(job->run->user, m->line, m->line_len);
}

static void take_news(remote *r, remote_job *job, mail *m)
{
    int64_t now = wq_monotonic_ms();
    if (m->what & MAIL_NEW)
        TAILQ_INSERT_TAIL(&r->jobs, job, all);
    if (m->what & MAIL_INTEREST)
        job->interest_at = now;
    if (m->what & MAIL_HEARD) {
        job->heard_at = now;
        job->has_heard = 1;
    }
    if (m->alive_ms > 0)
        job->alive_ms = m->alive_ms;
    if (*m->inbox != '\0')
        memcpy(job->inbox, m->inbox, sizeof job->inbox);
    if (m->epoch > job->epoch)
        job->epoch = m->epoch;
    job->is_with_ours |= m->epoch != 0;
    if ((m->what & MAIL_OTHER) && !job->warned++)
        wq_log(&r->logger, WQ_LOG_WARNING, "job %s: a message that is no answer was passed over",
               job->id);
    if (m->what & MAIL_ACCEPTED)
        take_accepted(r, job, m);
    if (m->line != NULL)
        take_job_line(job, m);
    if (m->delivery == NULL)
        return;
    wq_remote_settle(r, job->delivery); /* it has come again */
    job->delivery = m->delivery;
    m->delivery = NULL;
}

/* Nothing is sent before the first connection, which tells what kind of broker it is. */
static void begin_run(remote *r, remote_job *job)
{
    if (!job->run->resumed)
        wq_remote_send_job(r, job);
    else
        wq_remote_subscribe(r, job);
    if (job->run->resumed)
        wq_remote_ask_store(r, job);
}

/* What came together is taken in its natural order. While an output is being fetched, nothing but
 * that ends the job. */
void wq_remote_take_mail(remote *r, remote_job *job, mail *m)
{
    take_news(r, job, m);
    if (m->what & MAIL_FETCHED)
        take_fetched(r, job, m);
    else if (m->what & MAIL_CANCEL)
        take_cancel(r, job);
    if (!job->is_over && (m->what & MAIL_LOOKED) && !(m->what & MAIL_END))
        take_look(r, job);
    if (!job->is_over && (m->what & MAIL_MARKED))
        take_mark(r, job);
    if (m->what & MAIL_LOOKED)
        job->is_looking = 0;
    if (job->is_over || job->is_fetching)
        return;
    if (m->what & MAIL_END)
        take_end(r, job, m);
    else if (m->what & MAIL_REFUSED)
        wq_remote_end_badly(r, job, WQ_RETURNCODE_OURS, m->error.message);
    else if ((m->what & MAIL_NEW) && r->has_met)
        begin_run(r, job);
    else if ((m->what & MAIL_INTEREST) && job->is_sent && job->subscription == NULL) {
        wq_remote_subscribe(r, job);
        wq_remote_ask_store(r, job); /* it may have ended while nobody listened */
    }
}

/* ---- time ------------------------------------------------------------------------------------ */

/* Doubling with each time that it was sent, where nobody has promised to speak. */
static int64_t doubled(int64_t ms, unsigned n_sent)
{
    return ms << (n_sent > 8 ? 7 : n_sent > 0 ? n_sent - 1 : 0);
}

/* How long a silence is taken for work. */
static int64_t patience_ms(const remote *r, const remote_job *job)
{
    int64_t estimate = (int64_t)job->estimate_ms * SILENT_ESTIMATES;
    if (!job->is_accepted) /* it waits in the broker's queue */
        return doubled(r->o.resend_ms, job->n_sent);
    if (job->alive_ms > 0)
        return (int64_t)job->alive_ms * SILENT_ALIVES + 1000;
    return doubled(estimate > r->o.quiet_ms ? estimate : r->o.quiet_ms, job->n_sent);
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What promises signs of life is silent only while we listen. Of others all that they have said
 * comes when we listen, and they are as silent while we do not. */
static int is_silent(const remote *r, const remote_job *job, int64_t now)
{
    int64_t since = !job->is_accepted    ? job->sent_at
                    : job->alive_ms == 0 ? job->heard_at
                                         : later(job->heard_at, job->looked_at);
    return now - since >= patience_ms(r, job);
}

static int is_watched(const remote *r, const remote_job *job, int64_t now)
{
    return job->run->watched(job->run->user) || job->cancel_at != 0 ||
           (job->interest_at != 0 && now - job->interest_at < r->o.linger_ms);
}

/* Nobody looks: after all that has gathered has come, and a sign of life if one was promised. */
static int has_looked(const remote *r, const remote_job *job, int64_t now)
{
    if (now - job->looked_at < (job->n_sent <= 1 && !job->is_accepted ? r->o.linger_ms : LOOK_MS))
        return 0;
    return !job->is_accepted || job->alive_ms == 0
               ? now - later(job->heard_at, job->looked_at) >= LOOK_MS
               : job->has_heard;
}

/* One of the journal that nothing was heard of, or one that did not fit. */
static void tick_unsent(remote *r, remote_job *job, int64_t now)
{
    if (!job->run->resumed || job->subscription == NULL)
        begin_run(r, job);
    else if (now - job->looked_at >= LOOK_MS)
        wq_remote_send_job(r, job);
}

/* Where the store knows the ends nothing gathers in a queue: it is read while somebody looks, until
 * one of ours has the job, and of one that is not ours to the end. */
static int may_stop_listening(const remote *r, const remote_job *job, int64_t now)
{
    if (is_watched(r, job, now))
        return 0;
    if (r->looker == NULL)
        return has_looked(r, job, now);
    return job->is_accepted && job->is_with_ours && now - job->looked_at >= LOOK_MS;
}

static void tick_sent(remote *r, remote_job *job, int64_t now)
{
    if (r->looker != NULL && now - job->asked_at >= r->o.check_ms)
        wq_remote_ask_store(r, job);
    if (job->subscription == NULL) {
        if (is_watched(r, job, now)) {
            wq_remote_subscribe(r, job);
            wq_remote_ask_store(r, job);
        } else if (r->looker == NULL ? now - job->looked_at >= r->o.check_ms
                                     : now - job->heard_at >= r->o.check_ms + patience_ms(r, job)) {
            wq_remote_subscribe(r, job); /* and is_silent() decides */
        }
    } else if (is_silent(r, job, now)) {
        if (now - job->looked_at < SILENT_LOOK_MS)
            return;
        if (r->looker != NULL && (job->is_looking || now - job->asked_at >= SILENT_LOOK_MS)) {
            wq_remote_ask_store(r, job); /* before it is sent again */
            return;
        }
        wq_log(&r->logger, WQ_LOG_WARNING, "job %s: nothing was heard of it; it is sent again",
               job->id);
        wq_remote_send_job(r, job);
    } else if (may_stop_listening(r, job, now)) {
        wq_remote_unsubscribe(job);
    }
}

static void tick_job(remote *r, remote_job *job, int64_t now)
{
    if (job->is_fetching)
        return;
    if (job->cancel_at != 0 && now - job->cancel_at >= r->o.cancel_wait_ms)
        wq_remote_end_cancelled(r, job);
    else if (job->cancel_at != 0) {
        wq_remote_subscribe(r, job);
        wq_remote_mark_cancelled(r, job);
    } else if (job->is_sent)
        tick_sent(r, job, now);
    else
        tick_unsent(r, job, now);
}

/* What was not heard while there was no broker is no silence. The store may know ends meanwhile. */
void wq_remote_forgive(remote *r, int anew, int64_t now)
{
    remote_job *job;
    TAILQ_FOREACH(job, &r->jobs, all)
    {
        if (job->is_sent && (anew || now - job->asked_at >= AWAY_LOOK_MS))
            wq_remote_ask_store(r, job);
        job->heard_at = job->sent_at = job->looked_at = now;
        job->has_heard = 0;
    }
}

void wq_remote_tick(remote *r, int64_t now)
{
    remote_job *job = TAILQ_FIRST(&r->jobs), *next;
    for (; job != NULL; job = next) {
        next = TAILQ_NEXT(job, all);
        tick_job(r, job, now);
    }
}
