/* packager.c - workqueue packager: takes jobs from a broker, runs a program for each, puts the
 * outputs into a store, and answers. It ends at SIGTERM or SIGINT; what it was at, others take. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/command/command.h"
#include "workqueue/command/packager_http.h"
#include "workqueue/remote/brokers.h"
#include "workqueue/remote/metrics.h"
#include "workqueue/remote/packager.h"

enum { METRICS_S = 5 };

typedef struct packager_settings {
    settings s; /* first: the tables that others use, too, write there */
    wq_packager_options packager;
    const char *metrics, *listen;
    int drains;
} packager_settings;

#define MINE(member) 0, offsetof(packager_settings, member)

static const option_row packager_rows[] = {
    {"state", "DIR", OPTION_TEXT, 1, offsetof(program_settings, queue.storage_dir), 0, 0,
     "Outputs in the making are in this folder, which is made if it is missing and is this "
     "packager's alone (below $STATE_DIRECTORY, or ~/.local/state/workqueue)."},
    {"name", "NAME", OPTION_TEXT, MINE(packager.name), 0, 0,
     "This tells packagers apart (the host's name and a random number)."},
    {"max-attempts", "N", OPTION_UNSIGNED, MINE(packager.max_attempts), 0, 1000,
     "A job at which so many packagers ended fails (5); 0: any number."},
    {"strict", NULL, OPTION_ON, MINE(packager.strict), 0, 0,
     "A program whose lease cannot be renewed is ended before another may begin."},
    {"alive-ms", "N", OPTION_UNSIGNED, MINE(packager.alive_ms), 100, 600000,
     "Each job gives a sign of life so often (5000)."},
    {"renew-ms", "N", OPTION_UNSIGNED, MINE(packager.renew_ms), 50, 600000,
     "The lease of a key that runs is renewed so often (5000)."},
    {"takeover-ms", "N", OPTION_UNSIGNED, MINE(packager.takeover_ms), 100, 3600000,
     "One that was not renewed for so long is taken over (20000)."},
    {"put-off-ms", "N", OPTION_UNSIGNED, MINE(packager.put_off_ms), 50, 600000,
     "A request whose key runs elsewhere comes again after so long (5000)."},
    {"ack-after-ms", "N", OPTION_UNSIGNED, MINE(packager.ack_after_ms), 0, UINT32_MAX,
     "A longer job is put off as well, as the broker may not hold it for ever (600000); 0: never."},
    {"drain-at-term", NULL, OPTION_ON, MINE(drains), 0, 0,
     "SIGTERM is as SIGUSR1: nothing new is taken, what runs goes on to its end."},
    {"listen", "ADDRESS:PORT", OPTION_TEXT, MINE(listen), 0, 0,
     "GET /metrics and /health are answered there, and nothing else."},
    {"metrics", "FILE", OPTION_TEXT, MINE(metrics), 0, 0,
     "What it does is written there every few seconds, for a Prometheus collector of text files."},
};
static const option_group packager_group = {"Packager", packager_rows,
                                            sizeof packager_rows / sizeof *packager_rows};
static const option_group *const packager_groups[] = {&program_group,  &broker_group, &store_group,
                                                      &packager_group, &limit_group,  &given_group,
                                                      &log_group,      &about_group,  NULL};

const option_set packager_set = {
    .command = "workqueue packager",
    .usage = "workqueue packager --broker URL --store STORE --program PATH [OPTION]...",
    .about =
        "Takes the jobs of servers on other machines from a STOMP broker, runs the program for "
        "each, puts the outputs into the store, and answers. As many packagers as you like "
        "share the work.",
    .groups = packager_groups,
    .after = "SIGTERM and SIGINT end it, and others take over what runs; SIGUSR1 drains it: it "
             "takes nothing new and ends when what runs has ended.",
    .own = settings_own,
    .call = settings_call,
    .max_operands = 0,
};

/* One packager for each broker; they share the queue and the store. */
typedef struct team {
    packager_settings *settings;
    event_log *log;
    wq_queue *queue;
    size_t n;
    char *urls[WQ_MAX_BROKERS];
    wq_packager *all[WQ_MAX_BROKERS];
    atomic_size_t n_drained;
} team;

/* ---- what follows from the options ----------------------------------------------------------- */

/* What stands before a key in the URL of an output, as others may find it; from malloc. */
static char *make_url_base(const wq_s3_options *s3, const char *store)
{
    char *base = NULL, *path = NULL;
    const char *endpoint = s3->endpoint ? s3->endpoint : getenv("AWS_ENDPOINT_URL_S3");
    if (endpoint == NULL)
        endpoint = getenv("AWS_ENDPOINT_URL");
    int n, is_s3 = strncmp(store, "s3://", 5) == 0;
    if (s3->public_base != NULL)
        n = asprintf(&base, "%s/", s3->public_base);
    else if (is_s3 && endpoint != NULL)
        n = asprintf(&base, "%s/%s/", endpoint, store + 5);
    else if (!is_s3 && (path = realpath(store, NULL)) != NULL)
        n = asprintf(&base, "file://%s/", path);
    else
        n = asprintf(&base, "%s/", store);
    free(path);
    return n < 0 ? NULL : base;
}

/* The broker is that of the table that servers have, too. */
static void take_broker(packager_settings *ps)
{
    const wq_stomp_options *stomp = &ps->s.all.stomp;
    wq_packager_options *o = &ps->packager;
    o->urls = stomp->urls;
    o->ca_file = stomp->ca_file;
    o->cert_file = stomp->cert_file;
    o->key_file = stomp->key_file;
    o->heartbeat_ms = stomp->heartbeat_ms;
    o->queue_package = stomp->queue_package;
    o->queue_reply = stomp->queue_reply;
    o->queue_delete = stomp->queue_delete;
    o->workers = ps->s.all.queue.workers;
}

static int check_settings(packager_settings *ps, const option_set *set)
{
    program_settings *p = &ps->s.all;
    if (p->stomp.urls == NULL && getenv("WORKQUEUE_BROKER") == NULL)
        return options_wrong(set, "--broker is missing");
    if (p->store == NULL)
        return options_wrong(set, "--store is missing");
    if (ps->s.n_programs != 0)
        return options_wrong(set, "a packager has one program, without a NAME");
    p->journal = "none";
    p->folder = "packager";
    int r = settings_finish(&ps->s, set);
    take_broker(ps);
    return r;
}

static int open_store(team *t, wq_error *error)
{
    program_settings *p = &t->settings->s.all;
    p->s3.cache_dir = p->queue.storage_dir;
    p->s3.log = log_write;
    p->s3.log_user = t->log;
    int result = p->s3.url != NULL ? wq_s3_store_open(&p->queue.store, &p->s3, error)
                                   : wq_shared_folder_open(&p->queue.store, p->store_path, error);
    t->settings->packager.store = p->queue.store;
    return result;
}

/* ---- while it runs --------------------------------------------------------------------------- */

static void add_stats(wq_packager_stats *sum, const wq_packager_stats *one)
{
    sum->is_connected &= one->is_connected;
    sum->is_away |= one->is_away;
    sum->running += one->running;
    sum->claimed += one->claimed;
    sum->taken_over += one->taken_over;
    sum->put_off += one->put_off;
    sum->fenced += one->fenced;
    sum->succeeded += one->succeeded;
    sum->failed += one->failed;
    sum->cancelled += one->cancelled;
    sum->dead_letters += one->dead_letters;
    sum->connections += one->connections;
    if (one->renewal_age_ms > sum->renewal_age_ms)
        sum->renewal_age_ms = one->renewal_age_ms;
}

static void sum_stats(void *user, wq_packager_stats *sum)
{
    const team *t = user;
    wq_packager_stats one;
    *sum = (wq_packager_stats){.is_connected = 1};
    for (size_t i = 0; i < t->n; i++) {
        wq_packager_stat(t->all[i], &one);
        add_stats(sum, &one);
    }
}

static void write_metrics(team *t)
{
    wq_packager_stats sum;
    char path[600], why[200];
    if (t->settings->metrics == NULL)
        return;
    sum_stats(t, &sum);
    if (wq_packager_write_metrics(&sum, t->settings->metrics) != 0)
        log_event(t->log, WQ_LOG_WARNING, "event=no_metrics file=%s msg=%s",
                  log_quote(path, sizeof path, t->settings->metrics),
                  log_quote(why, sizeof why, strerror(errno)));
}

static void on_drained(void *user)
{
    team *t = user;
    if (atomic_fetch_add(&t->n_drained, 1) + 1 == t->n)
        kill(getpid(), SIGTERM);
}

/* Until we are to end: at SIGTERM or SIGINT, or at SIGUSR1 when all that ran has ended. */
static void wait_for_end(team *t, const sigset_t *stop)
{
    static const struct timespec pause = {.tv_sec = METRICS_S};
    const packager_settings *ps = t->settings;
    int number, drains = 0;
    for (;;) {
        number = ps->metrics != NULL ? sigtimedwait(stop, NULL, &pause) : sigwaitinfo(stop, NULL);
        write_metrics(t);
        if (number < 0)
            continue;
        int is_to_drain = number == SIGUSR1 || (number == SIGTERM && ps->drains);
        if (!is_to_drain || drains)
            break;
        drains = 1;
        log_event(t->log, WQ_LOG_INFO,
                  "event=draining msg=\"nothing new is taken; what runs goes on to its end\"");
        for (size_t i = 0; i < t->n; i++)
            wq_packager_drain(t->all[i], on_drained, t);
    }
    pthread_sigmask(SIG_UNBLOCK, stop, NULL); /* a second one ends us at once */
}

/* ---- its life -------------------------------------------------------------------------------- */

/* The workers are divided among the brokers, at least one for each. */
static int open_team(team *t, wq_error *error)
{
    wq_packager_options o = t->settings->packager;
    int result = wq_brokers_split(t->urls, &t->n, t->settings->packager.urls, error);
    for (size_t i = 0; result == WQ_OK && i < t->n; i++) {
        unsigned share = (unsigned)(t->settings->packager.workers / t->n +
                                    (i < t->settings->packager.workers % t->n));
        o.urls = t->urls[i];
        o.workers = share > 0 ? share : 1;
        result = wq_packager_open(&t->all[i], t->queue, &o, error);
    }
    return result;
}

static void close_team(team *t)
{
    for (size_t i = 0; i < t->n; i++)
        wq_packager_close(t->all[i]);
    if (t->n > 0)
        free(t->urls[0]);
    wq_close(t->queue);
}

static int run_packager(team *t, const sigset_t *stop)
{
    wq_options *queue = &t->settings->s.all.queue;
    packager_http *http = NULL;
    wq_error error;
    int r = COMMAND_OK;
    queue->log = t->settings->packager.log = log_write;
    queue->log_user = t->settings->packager.log_user = t->log;
    if (open_store(t, &error) != WQ_OK || wq_open(&t->queue, queue, &error) != WQ_OK ||
        open_team(t, &error) != WQ_OK ||
        (t->settings->listen != NULL &&
         packager_http_open(&http, t->queue, t->settings->listen, sum_stats, t, &error) != WQ_OK)) {
        fprintf(stderr, "workqueue packager: %s\n", error.message);
        r = COMMAND_WRONG;
    } else {
        puts("ready");
        if (http != NULL)
            printf("listening on http://%s/\n", packager_http_address(http));
        fflush(stdout);
        wait_for_end(t, stop);
    }
    packager_http_close(http);
    close_team(t);
    return r;
}

static int start_packager(packager_settings *ps)
{
    team t = {.settings = ps};
    sigset_t stop;
    unsigned open_files = 0;
    char *url_base = make_url_base(&ps->s.all.s3, ps->s.all.store_path);
    if (url_base != NULL)
        ps->packager.url_base = url_base;
    host_raise_open_files(&ps->s.all.queue, &open_files);
    host_begin();
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &stop, NULL);
    t.log = log_open(&ps->s.log);
    int r = run_packager(&t, &stop);
    log_close(t.log);
    free(url_base);
    return r;
}

int packager_main(int argc, char **argv)
{
    static packager_settings ps;
    option_set set = packager_set;
    char **operands;
    size_t n;
    settings_init(&ps.s);
    wq_packager_options_init(&ps.packager);
    set.all = &ps;
    int r = settings_read_config(&ps.s, &set, argc, argv);
    if (r == COMMAND_GO_ON)
        r = options_parse(&set, argc, argv, &operands, &n);
    if (r == COMMAND_GO_ON)
        r = check_settings(&ps, &set);
    if (r == COMMAND_GO_ON)
        r = start_packager(&ps);
    settings_free(&ps.s);
    return r;
}
