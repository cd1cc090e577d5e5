/* server.c - the server's side of a broker: a runner that sends jobs to packagers.
 *
 * A job goes to the permanent queue with the name of a transient one, which has been subscribed to
 * before, so that it exists. What a packager answers there becomes begun, report and ended of the
 * run. The transient queue is read only while somebody looks at the job, and now and then for a
 * moment, so that an end does not stay unknown; when nobody reads it for long the broker collects
 * it. Whatever is lost, by that, by a broker or by a packager that dies, shows as silence, and
 * after a silence the job is sent again: packagers answer for an id that they know instead of
 * running it twice.
 *
 * Answers are acknowledged as they are put into the mail, but an end only when the run has ended,
 * so that a server that dies meanwhile finds it again. A job that comes from the journal was
 * probably sent before: its transient queue is read first, and it is sent again only if that is
 * silent.
 *
 * One thread does all this. Everybody else - the broker's thread, the queue's, those who look -
 * only puts something into a job's mail. Of progress the mail keeps the latest line, so it is
 * bounded however fast a packager talks. Outputs that are elsewhere (of packagers that are not
 * ours) are downloaded by threads of fetch.c.
 *
 * The lock guards the table, the mail, and the lists; no other is taken under it and nothing is
 * called. What is in a job besides is the thread's.
 */
#include "workqueue/remote/brokers.h"
#include "workqueue/remote/serving.h"

/* ---- the thread ------------------------------------------------------------------------------ */

/* Moves a job's mail out. */
static remote_job *next_mail_locked(remote *r, mail *m)
{
    remote_job *job = TAILQ_FIRST(&r->mailed);
    if (job == NULL)
        return NULL;
    TAILQ_REMOVE(&r->mailed, job, link);
    job->has_mail = 0;
    *m = job->mail;
    memset(&job->mail, 0, sizeof job->mail);
    return job;
}

static void wait_locked(remote *r)
{
    if (r->n == 0)
        pthread_cond_wait(&r->news, &r->lock);
    else
        wq_cond_wait_ms(&r->news, &r->lock, TICK_MS);
}

static void process_mail_locked(remote *r)
{
    remote_job *job;
    mail m;
    while ((job = next_mail_locked(r, &m)) != NULL) {
        pthread_mutex_unlock(&r->lock);
        atomic_fetch_add(&job->refs, 1);
        wq_remote_take_mail(r, job, &m);
        wq_remote_unref(job);
        wq_remote_free_mail(&m);
        pthread_mutex_lock(&r->lock);
    }
}

/* `anew`: there is another connection than last time. */
static void look_at_clock(remote *r, int connected, int anew, int64_t *ticked)
{
    int64_t now = wq_monotonic_ms();
    r->has_met |= connected;
    if (!anew && now - *ticked < TICK_MS)
        return;
    *ticked = now;
    if (anew || !connected)
        wq_remote_forgive(r, anew, now);
    if (r->has_met)
        wq_remote_tick(r, now);
}

static void *thread_main(void *arg)
{
    remote *r = arg;
    int64_t ticked = 0;
    pthread_mutex_lock(&r->lock);
    while (!r->closing) {
        if (TAILQ_EMPTY(&r->mailed) && !r->has_connected)
            wait_locked(r);
        int connected = r->is_connected, anew = r->has_connected;
        r->is_rabbitmq = r->met_rabbitmq;
        r->has_connected = 0;
        process_mail_locked(r);
        pthread_mutex_unlock(&r->lock);
        look_at_clock(r, connected, anew, &ticked);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ---- the runner ------------------------------------------------------------------------------ */

static int remote_start(void *self, const wq_run *run, wq_error *error)
{
    remote *r = self;
    remote_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    snprintf(job->id, sizeof job->id, "%s", run->id);
    atomic_init(&job->refs, 1);
    atomic_init(&job->fetch.stop, 0);
    job->remote = r;
    job->run = run;
    pthread_mutex_lock(&r->lock);
    int entered = tsearch(job, &r->by_id, wq_remote_compare) != NULL;
    if (entered) {
        r->n++;
        wq_remote_post_locked(r, job, MAIL_NEW);
    }
    pthread_mutex_unlock(&r->lock);
    if (entered)
        return WQ_OK;
    free(job);
    return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

static void remote_cancel(void *self, const wq_run *run)
{
    wq_remote_post_by_id(self, run->id, MAIL_CANCEL);
}

static void remote_interest(void *self, const wq_run *run)
{
    wq_remote_post_by_id(self, run->id, MAIL_INTEREST);
}

/* It stays at packagers that keep outputs where we do not see them. */
static void remote_removed(void *self, const wq_params *params, const char *key)
{
    remote *r = self;
    static const wq_stomp_header headers[] = {{"content-type", "text/plain"},
                                              {"persistent", "true"}};
    wq_error error;
    char *text = wq_job_message_text(key, params, 0);
    int result = WQ_ERROR_NO_MEMORY;
    if (text != NULL)
        result = wq_broker_send(r->broker, r->o.queue_delete, headers, 2, text, strlen(text),
                                wq_remote_on_told, NULL, &error);
    if (result != WQ_OK)
        wq_log(&r->logger, WQ_LOG_WARNING, "packagers are not told that an output was deleted: %s",
               text != NULL ? error.message : "out of memory");
    free(text);
}

static int remote_list(void *self, int (*each)(void *user, const wq_elsewhere *job), void *user,
                       wq_error *error)
{
    return wq_record_list_running(((remote *)self)->o.store, each, user, error);
}

/* The mark is what counts; the hint has its packager look at it at once. */
static int remote_cancel_elsewhere(void *self, const wq_elsewhere *job, wq_error *error)
{
    remote *r = self;
    int result = wq_cancel_mark(r->o.store, job->id, error);
    if (result == WQ_OK)
        wq_remote_send_hint(r, job);
    return result;
}

static void free_strings(wq_stomp_options *o)
{
    free((char *)o->queue_package);
    free((char *)o->queue_reply);
    free((char *)o->queue_delete);
    free((char *)o->plain_request);
}

static void free_jobs(remote *r)
{
    remote_job *job;
    TAILQ_FOREACH(job, &r->mailed, link)
    if (job->mail.what & MAIL_NEW) /* the thread has not seen it */
        TAILQ_INSERT_TAIL(&r->jobs, job, all);
    while ((job = TAILQ_FIRST(&r->jobs)) != NULL) {
        TAILQ_REMOVE(&r->jobs, job, all);
        tdelete(job->id, &r->by_id, wq_remote_compare);
        wq_remote_unref(job);
    }
}

static void free_remote(remote *r)
{
    free_jobs(r);
    pthread_cond_destroy(&r->news);
    pthread_mutex_destroy(&r->lock);
    free_strings(&r->o);
    free(r);
}

static void remote_close(wq_runner *runner)
{
    remote *r = runner->self;
    pthread_mutex_lock(&r->lock);
    r->closing = 1;
    pthread_cond_broadcast(&r->news);
    pthread_mutex_unlock(&r->lock);
    if (r->has_thread)
        pthread_join(r->thread, NULL);
    if (r->fetcher != NULL)
        wq_fetcher_close(r->fetcher);
    wq_looker_close(r->looker);
    if (r->broker != NULL)
        wq_broker_close(r->broker);
    free_remote(r);
}

/* ---- opening --------------------------------------------------------------------------------- */

void wq_stomp_options_init(wq_stomp_options *options, size_t size)
{
    if (size != sizeof *options) {
        memset(options, 0, size);
        return;
    }
    *options = (wq_stomp_options){
        .size = size,
        .queue_package = "/queue/docsets%2Fpackage",
        .queue_reply = "/queue/package%2F{id}",
        .queue_delete = "/queue/docsets%2Fdelete",
        .heartbeat_ms = 10000,
        .reply_expires_ms = 1800000,
        .linger_ms = 10000,
        .check_ms = 60000,
        .resend_ms = 600000,
        .quiet_ms = 60000,
        .cancel_wait_ms = 10000,
        .max_in_flight = 1000,
    };
}

static int check_server_options(const wq_stomp_options *o, wq_error *error)
{
    const char *wrong = NULL;
    if (o->size != sizeof *o)
        wrong = "options are not initialised by wq_stomp_options_init()";
    else if (o->urls == NULL || *o->urls == '\0')
        wrong = "options: urls is missing";
    else if (!o->queue_package || !o->queue_reply || !o->queue_delete)
        wrong = "options: a destination is missing";
    else if (o->max_in_flight == 0 || o->max_in_flight > 100000)
        wrong = "options: max_in_flight must be from 1 to 100000";
    else if (o->reply_expires_ms < 1000 || o->check_ms >= o->reply_expires_ms)
        wrong = "options: reply_expires_ms must be at least 1000, and more than check_ms";
    if (wrong != NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "%s", wrong);
    return WQ_OK;
}

static int copy_options(remote *r, const wq_stomp_options *options)
{
    wq_stomp_options *o = &r->o;
    *o = *options;
    o->queue_package = strdup(options->queue_package);
    o->queue_reply = strdup(options->queue_reply);
    o->queue_delete = strdup(options->queue_delete);
    o->plain_request = options->plain_request != NULL ? strdup(options->plain_request) : NULL;
    return o->queue_package && o->queue_reply && o->queue_delete &&
                   (o->plain_request != NULL || options->plain_request == NULL)
               ? 0
               : -1;
}

static int open_broker(remote *r, const wq_stomp_options *options, wq_error *error)
{
    wq_broker_options o;
    wq_broker_options_init(&o);
    o.urls = options->urls;
    o.ca_file = options->ca_file;
    o.cert_file = options->cert_file;
    o.key_file = options->key_file;
    o.heartbeat_ms = options->heartbeat_ms;
    o.log = r->logger;
    o.connected = wq_remote_on_connected;
    o.disconnected = wq_remote_on_disconnected;
    o.user = r;
    return wq_broker_open(&r->broker, &o, error);
}

static int remote_trouble(void *self, char *buf, size_t size)
{
    remote *r = self;
    pthread_mutex_lock(&r->lock);
    const int is_away = !r->is_connected;
    const size_t n = r->n;
    pthread_mutex_unlock(&r->lock);
    if (is_away)
        snprintf(buf, size, "the broker is away: %zu job%s for it", n, n == 1 ? " waits" : "s wait");
    return is_away;
}

static void init(remote *r, const wq_stomp_options *options)
{
    pthread_mutex_init(&r->lock, NULL);
    wq_cond_init(&r->news);
    TAILQ_INIT(&r->mailed);
    TAILQ_INIT(&r->jobs);
    r->logger = (wq_logger){options->log, options->log_user};
    r->runner = (wq_runner){
        .self = r,
        .close = remote_close,
        .start = remote_start,
        .cancel = remote_cancel,
        .interest = remote_interest,
        .removed = remote_removed,
        .trouble = remote_trouble,
        .max_in_flight = options->max_in_flight,
    };
    if (options->store != NULL && options->store->shared != NULL) {
        r->runner.list = remote_list;
        r->runner.cancel_elsewhere = remote_cancel_elsewhere;
    }
}

int wq_remote_open_one(wq_runner **out, const wq_stomp_options *options, wq_error *error)
{
    int result = check_server_options(options, error);
    if (result != WQ_OK)
        return result;
    remote *r = calloc(1, sizeof *r);
    if (r == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    init(r, options);
    if (copy_options(r, options) != 0)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    else if ((result = wq_fetcher_open(&r->fetcher, FETCHERS, r->o.max_fetch_bytes, error)) ==
             WQ_OK) {
        if (r->o.store != NULL && r->o.store->shared != NULL)
            result = wq_looker_open(&r->looker, r->o.store, error);
        if (result == WQ_OK)
            result = open_broker(r, options, error);
    }
    if (result == WQ_OK) {
        r->has_thread = wq_thread_start(&r->thread, "wq-remote", thread_main, r) == 0;
        if (!r->has_thread)
            result = wq_fail(error, WQ_ERROR_NO_MEMORY, "cannot start a thread");
    }
    if (result == WQ_OK)
        *out = &r->runner;
    else
        remote_close(&r->runner);
    return result;
}
