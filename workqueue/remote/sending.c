/* sending.c - what is said for a job: subscriptions, messages, questions to the store, its end. */
#include "workqueue/remote/serving.h"

/* ---- listening ---------------------------------------------------------------------------------
 */

/* What its answers come by. */
static const char *reply_id(const remote *r, const remote_job *job)
{
    return r->o.plain_request != NULL ? job->run->params->document_set_id : job->id;
}

int wq_remote_subscribe(remote *r, remote_job *job)
{
    char destination[WQ_DESTINATION_SIZE], expires[24];
    snprintf(expires, sizeof expires, "%u", r->o.reply_expires_ms);
    /* What the store knows needs no queue that outlives its reader. */
    const wq_stomp_header durable[] = {{"x-expires", expires}};
    const wq_stomp_header transient[] = {
        {"durable", "false"}, {"auto-delete", "true"}, {"exclusive", "false"}};
    const wq_subscribe options = {
        .destination = destination,
        .headers = r->looker != NULL ? transient : durable,
        /* others do not know them; a queue that a packager of others declares has none */
        .n_headers = !r->is_rabbitmq || r->o.plain_request != NULL ? 0
                     : r->looker != NULL                           ? 3
                                                                   : 1,
        .ack = WQ_ACK_INDIVIDUAL, /* else what crosses with the end of this was lost */
        .message = wq_remote_on_reply,
        .refused = wq_remote_on_refused,
        .user = job,
    };
    if (job->subscription != NULL ||
        wq_destination(destination, sizeof destination, r->o.queue_reply, reply_id(r, job)) !=
            WQ_OK ||
        wq_broker_subscribe(&job->subscription, r->broker, &options, NULL) != WQ_OK)
        return job->subscription != NULL ? 0 : -1;
    job->looked_at = wq_monotonic_ms();
    job->has_heard = 0;
    return 0;
}

void wq_remote_unsubscribe(remote_job *job)
{
    if (job->subscription == NULL)
        return;
    wq_broker_unsubscribe(job->subscription);
    job->subscription = NULL;
    job->looked_at = wq_monotonic_ms();
}

/* ---- the end of a job ------------------------------------------------------------------------ */

/* The run is the queue's again; late messages find nobody. */
void wq_remote_end(remote *r, remote_job *job, const wq_outcome *outcome)
{
    const wq_run *run = job->run;
    wq_remote_settle(r, job->delivery);
    job->delivery = NULL;
    wq_remote_unsubscribe(job);
    TAILQ_REMOVE(&r->jobs, job, all);
    pthread_mutex_lock(&r->lock);
    tdelete(job->id, &r->by_id, wq_remote_compare);
    r->n--;
    if (job->has_mail)
        TAILQ_REMOVE(&r->mailed, job, link);
    job->has_mail = 0;
    job->is_over = 1;
    pthread_mutex_unlock(&r->lock);
    wq_remote_unref(job);
    run->ended(run->user, outcome);
}

void wq_remote_end_badly(remote *r, remote_job *job, int returncode, const char *why)
{
    const wq_outcome outcome = {.returncode = returncode == 0 ? WQ_RETURNCODE_OURS : returncode,
                                .error = strdup(why != NULL ? why : "out of memory")};
    wq_remote_end(r, job, &outcome);
}

void wq_remote_end_cancelled(remote *r, remote_job *job)
{
    const wq_outcome outcome = {
        .returncode = WQ_RETURNCODE_OURS, .cancelled = 1, .error = strdup("cancelled")};
    wq_remote_end(r, job, &outcome);
}

void wq_remote_end_well(remote *r, remote_job *job)
{
    const wq_outcome outcome = {.returncode = 0};
    wq_remote_end(r, job, &outcome);
}

/* ---- sending --------------------------------------------------------------------------------- */

static int reply_to(const remote *r, const char *id, char *buf, size_t size)
{
    char plain[WQ_DESTINATION_SIZE];
    if (wq_destination(plain, sizeof plain, r->o.queue_reply, id) != WQ_OK)
        return -1;
    return wq_destination_for_others(buf, size, plain, r->is_rabbitmq);
}

static int hand_to_broker(remote *r, remote_job *job, const char *reply, wq_error *error)
{
    const wq_stomp_header headers[] = {
        {"content-type", "text/plain"},
        {"persistent", "true"},
        {"reply-to", reply},
        {"correlation-id", job->id},
        {"traceparent", job->run->traceparent},
    };
    size_t n = r->o.plain_request != NULL ? 2 : job->run->traceparent != NULL ? 5 : 4;
    const char *plain = r->o.plain_request;
    char *text = plain != NULL ? wq_plain_message_text(plain, job->run->params)
                               : wq_job_message_text(job->id, job->run->params, job->run->rebuild);
    if (text == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    atomic_fetch_add(&job->refs, 1);
    int result = wq_broker_send(r->broker, r->o.queue_package, headers, n, text, strlen(text),
                                wq_remote_on_sent, job, error);
    if (result != WQ_OK) /* never the last one: the table has it, too */
        atomic_fetch_sub(&job->refs, 1);
    free(text);
    return result;
}

/* Sends the job, for the first time or again; later, if too much is on its way. */
void wq_remote_send_job(remote *r, remote_job *job)
{
    char reply[WQ_DESTINATION_SIZE];
    wq_error error = {0};
    if (wq_remote_subscribe(r, job) != 0)
        return;
    int result = reply_to(r, job->id, reply, sizeof reply) == 0
                     ? hand_to_broker(r, job, reply, &error)
                     : wq_fail(&error, WQ_ERROR_INVALID_ARGUMENT, "its name is too long");
    if (result == WQ_ERROR_INVALID_ARGUMENT)
        wq_remote_end_badly(r, job, WQ_RETURNCODE_OURS, error.message);
    if (result != WQ_OK)
        return;
    job->is_sent = 1;
    job->n_sent++;
    job->is_accepted = 0;
    job->sent_at = job->heard_at = wq_monotonic_ms();
}

/* It is kept until the broker has it, and that is all. */
void wq_remote_on_told(void *user, int result, const char *why)
{
    (void)user, (void)result, (void)why;
}

static void hint_cancel(remote *r, const char *inbox, const char *id)
{
    wq_hint hint = {.kind = WQ_HINT_CANCEL};
    char text[512];
    const wq_stomp_header headers[] = {{"content-type", "text/plain"}};
    snprintf(hint.id, sizeof hint.id, "%s", id);
    size_t n = wq_hint_text(text, sizeof text, &hint);
    wq_broker_send(r->broker, inbox, headers, 1, text, n, NULL, NULL, NULL);
}

/* A hint to who has it, if that is known: it looks at the mark. */
void wq_remote_send_cancel(remote *r, const remote_job *job)
{
    if (*job->inbox != '\0')
        hint_cancel(r, job->inbox, job->id);
}

/* The same for another server's job, from any thread. */
void wq_remote_send_hint(remote *r, const wq_elsewhere *job)
{
    char plain[WQ_DESTINATION_SIZE], inbox[WQ_DESTINATION_SIZE];
    pthread_mutex_lock(&r->lock);
    int is_rabbitmq = r->met_rabbitmq;
    pthread_mutex_unlock(&r->lock);
    if (wq_inbox(plain, sizeof plain, r->o.queue_reply, job->packager) == 0 &&
        wq_destination_for_others(inbox, sizeof inbox, plain, is_rabbitmq) == 0)
        hint_cancel(r, inbox, job->id);
}

/* ---- the store's word ------------------------------------------------------------------------ */

static void post_look(remote_job *job, unsigned what)
{
    remote *r = job->remote;
    pthread_mutex_lock(&r->lock);
    wq_remote_post_locked(r, job, what);
    pthread_mutex_unlock(&r->lock);
    wq_remote_unref(job);
}

/* On the looker's thread. */
static void on_looked(void *user)
{
    post_look(user, MAIL_LOOKED);
}

static void on_marked(void *user)
{
    post_look(user, MAIL_MARKED);
}

void wq_remote_ask_store(remote *r, remote_job *job)
{
    wq_look *look = &job->look;
    if (r->looker == NULL || job->is_looking)
        return;
    job->is_looking = 1;
    job->asked_at = wq_monotonic_ms();
    look->key = job->run->key;
    look->id = job->id;
    look->rebuild = job->run->rebuild;
    look->epoch = job->epoch;
    look->done = on_looked;
    look->user = job;
    atomic_fetch_add(&job->refs, 1);
    wq_looker_add(r->looker, look);
}

void wq_remote_mark_cancelled(remote *r, remote_job *job)
{
    wq_look *mark = &job->mark;
    if (r->looker == NULL || job->is_marking || job->is_marked)
        return;
    job->is_marking = 1;
    mark->marks = 1;
    mark->id = job->id;
    mark->done = on_marked;
    mark->user = job;
    atomic_fetch_add(&job->refs, 1);
    wq_looker_add(r->looker, mark);
}

/* ---- outputs that are elsewhere -------------------------------------------------------------- */

/* On a thread of the fetcher's. */
static int fetch_path(void *user, const char **path, wq_error *error)
{
    const remote_job *job = user;
    return job->run->output(job->run->user, path, error);
}

static void on_fetched(void *user, int result, const wq_error *error)
{
    remote_job *job = user;
    remote *r = job->remote;
    pthread_mutex_lock(&r->lock);
    job->mail.fetched = result;
    job->mail.error = *error;
    wq_remote_post_locked(r, job, MAIL_FETCHED);
    pthread_mutex_unlock(&r->lock);
}

void wq_remote_start_fetch(remote *r, remote_job *job, mail *m)
{
    wq_error error = {0};
    job->fetch.url = m->text;
    job->fetch.size_bytes = m->has_size ? m->size_bytes : UINT64_MAX;
    job->fetch.path = fetch_path;
    job->fetch.done = on_fetched;
    job->fetch.user = job;
    m->text = NULL;
    job->is_fetching = 1;
    if (wq_fetcher_add(r->fetcher, &job->fetch, &error) != WQ_OK)
        on_fetched(job, error.code, &error);
}
