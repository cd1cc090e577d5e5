/* workqueue-packager.c - the command: takes jobs from a broker, runs a program for each, puts the
 * outputs into a store, and answers. It ends at SIGTERM or SIGINT; what it was at, others take. */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <workqueue/remote.h>

#include "workqueue/remote/brokers.h"
#include "workqueue/remote/metrics.h"
#include "workqueue/remote/packager.h"
#include "workqueue/util/log.h"
#include <workqueue/remote.h>

enum { MAX_VARIABLES = 256, METRICS_S = 5 };

typedef struct settings {
    wq_options queue;
    wq_packager_options packager;
    wq_s3_options s3;
    const char *store, *public_base, *state_dir, *metrics;
    int drains;
    char *url_base;
    const char *environment[MAX_VARIABLES + 1];
    size_t n_variables;
} settings;

/* ---- the command line, from one table -------------------------------------------------------- */

typedef enum kind { HELP, VERSION, TEXT, NUMBER, BYTES, ON, OFF, VARIABLE } kind;

#define AT(member) offsetof(settings, member)

static const struct row {
    const char *name, *argument; /* argument NULL: it takes none */
    kind kind;
    size_t at;
    unsigned long long least, most;
    const char *help;
} rows[] = {
    {"broker", "URL[,URL][;URL]", TEXT, AT(packager.urls), 0, 0,
     "stomp[s]://user:password@host:port, or WORKQUEUE_BROKER in the environment; the workers\n"
     "                                   are divided among those with semicolons between"},
    {"broker-ca", "FILE", TEXT, AT(packager.ca_file), 0, 0, "who may sign for stomps brokers"},
    {"broker-cert", "FILE", TEXT, AT(packager.cert_file), 0, 0,
     "our certificate for stomps brokers that ask for one"},
    {"broker-key", "FILE", TEXT, AT(packager.key_file), 0, 0, "its key (in the same file)"},
    {"broker-heartbeat-ms", "N", NUMBER, AT(packager.heartbeat_ms), 0, 3600000,
     "how often both sides show that they are there (10000)"},
    {"queue-package", "DEST", TEXT, AT(packager.queue_package), 0, 0,
     "where jobs come from (/queue/docsets%2Fpackage)"},
    {"queue-reply", "DEST", TEXT, AT(packager.queue_reply), 0, 0,
     "where answers go if a job does not say (/queue/package%2F{id})"},
    {"queue-delete", "DEST", TEXT, AT(packager.queue_delete), 0, 0,
     "where deletions come from (/queue/docsets%2Fdelete)"},
    {"name", "NAME", TEXT, AT(packager.name), 0, 0,
     "tells packagers apart (the host's and a random number)"},
    {"program", "PATH", TEXT, AT(queue.program), 0, 0, "what to run for a job"},
    {"workers", "N", NUMBER, AT(queue.workers), 1, 1024, "jobs that run at the same time (2)"},
    {"store", "DIR|s3://BUCKET/PREFIX", TEXT, AT(store), 0, 0, "where outputs go"},
    {"state", "DIR", TEXT, AT(state_dir), 0, 0,
     "existing folder for outputs in the making (./packager-state, made if missing)"},
    {"s3-endpoint", "URL", TEXT, AT(s3.endpoint), 0, 0, "where the S3 store is (AWS_ENDPOINT_URL)"},
    {"s3-region", "NAME", TEXT, AT(s3.region), 0, 0, "its region (AWS_REGION, us-east-1)"},
    {"s3-credentials", "FILE", TEXT, AT(s3.credentials_file), 0, 0,
     "a file with AWS_ACCESS_KEY_ID=... and so on, read again when they are refused"},
    {"s3-ca", "FILE", TEXT, AT(s3.ca_file), 0, 0, "who may sign for it (AWS_CA_BUNDLE)"},
    {"s3-virtual-host", NULL, OFF, AT(s3.path_style), 0, 0, "the bucket is in the host's name"},
    {"s3-public", "URL", TEXT, AT(public_base), 0, 0,
     "where others may fetch outputs, as told when a job is complete"},
    {"alive-ms", "N", NUMBER, AT(packager.alive_ms), 100, 600000,
     "a sign of life for each job so often (5000)"},
    {"renew-ms", "N", NUMBER, AT(packager.renew_ms), 50, 600000,
     "the lease of a key that runs is renewed so often (5000)"},
    {"takeover-ms", "N", NUMBER, AT(packager.takeover_ms), 100, 3600000,
     "one that was not renewed for so long is taken over (20000)"},
    {"max-attempts", "N", NUMBER, AT(packager.max_attempts), 0, 1000,
     "a job at which so many packagers ended fails (5); 0: any number"},
    {"strict", NULL, ON, AT(packager.strict), 0, 0,
     "end a program whose lease cannot be renewed, before another may begin"},
    {"put-off-ms", "N", NUMBER, AT(packager.put_off_ms), 50, 600000,
     "a request whose key runs elsewhere comes again after so long (5000)"},
    {"metrics", "FILE", TEXT, AT(metrics), 0, 0,
     "what it does, for a Prometheus collector of text files, written every few seconds"},
    {"drain-at-term", NULL, ON, AT(drains), 0, 0,
     "SIGTERM is as SIGUSR1: take nothing new, end what runs, exit"},
    {"ack-after-ms", "N", NUMBER, AT(packager.ack_after_ms), 0, UINT32_MAX,
     "a longer job is put off as well, as the broker may not hold it for ever (600000); 0 never"},
    {"grace-ms", "N", NUMBER, AT(queue.grace_ms), 0, UINT32_MAX,
     "from SIGTERM to SIGKILL for a program that is to end (5000)"},
    {"run-timeout-ms", "N", NUMBER, AT(queue.run_timeout_ms), 0, UINT32_MAX,
     "a program may run so long (0: for ever)"},
    {"stall-timeout-ms", "N", NUMBER, AT(queue.progress_timeout_ms), 0, UINT32_MAX,
     "and be so long without progress (0: for ever)"},
    {"max-output-bytes", "N", BYTES, AT(queue.max_output_bytes), 0, UINT64_MAX,
     "size of the output, and of each file that a program writes (0: any)"},
    {"max-memory-bytes", "N", BYTES, AT(queue.max_memory_bytes), 0, UINT64_MAX,
     "address space of each process of a job (0: any)"},
    {"max-cpu-s", "N", NUMBER, AT(queue.max_cpu_s), 0, UINT32_MAX,
     "processor time of each process of a job (0: any)"},
    {"max-open-files", "N", NUMBER, AT(queue.max_open_files), 0, UINT32_MAX,
     "descriptors of each process of a job, at least 16 (0: as we were started with)"},
    {"max-processes", "N", NUMBER, AT(queue.max_processes), 0, UINT32_MAX,
     "processes of our user, root excepted (0: as we)"},
    {"environment", "NAME", VARIABLE, 0, 0, 0,
     "what a program gets of our environment, also START*, or NAME=VALUE; several times (PATH,\n"
     "                                   HOME and the like, no secrets)"},
    {"cgroup", "DIR", TEXT, AT(queue.cgroup_dir), 0, 0,
     "where jobs get control groups; auto: below our own; none, the default"},
    {"private-tmpdir", NULL, ON, AT(queue.private_tmpdir), 0, 0,
     "each job gets a TMPDIR of its own, removed afterwards"},
    {"token-in-environment", NULL, ON, AT(queue.token_in_environment), 0, 0,
     "the program gets the token in WORKQUEUE_API_TOKEN, where ps does not show it"},
    {"no-sync", NULL, OFF, AT(queue.sync), 0, 0, "do not wait for the disk before success"},
    {"help", NULL, HELP, 0, 0, 0, "show this and exit"},
    {"version", NULL, VERSION, 0, 0, 0, "show the version and exit"},
};

enum { N_ROWS = sizeof rows / sizeof *rows, GO_ON = -1 };

static int wrong(const char *format, const char *a, const char *b)
{
    fputs("workqueue-packager: ", stderr);
    fprintf(stderr, format, a, b);
    fputs("; see workqueue-packager --help.\n", stderr);
    return 2;
}

static int show_help(void)
{
    puts("usage: workqueue-packager --broker URL --store STORE --program PATH [OPTION]...\n"
         "Takes jobs from a STOMP broker, runs a program for each, and answers.\n");
    for (size_t i = 0; i < N_ROWS; i++) {
        char left[48];
        snprintf(left, sizeof left, "--%s%s%s", rows[i].name, rows[i].argument ? " " : "",
                 rows[i].argument ? rows[i].argument : "");
        printf("  %-32s %s\n", left, rows[i].help);
    }
    return 0;
}

static int apply_number(void *at, const struct row *row, const char *text)
{
    char *end, range[80];
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n < row->least ||
        n > row->most) {
        snprintf(range, sizeof range, "--%s takes a number from %llu to %llu", row->name,
                 row->least, row->most);
        return wrong("%s, not '%s'", range, text);
    }
    if (row->kind == NUMBER)
        *(unsigned *)at = (unsigned)n;
    else
        *(uint64_t *)at = n;
    return GO_ON;
}

static int add_variable(settings *s, const char *value)
{
    if (s->n_variables == MAX_VARIABLES)
        return wrong("--environment is given too often%s%s", "", "");
    s->environment[s->n_variables++] = value;
    s->queue.environment = s->environment;
    return GO_ON;
}

static int apply(settings *s, const struct row *row, const char *value)
{
    void *at = (char *)s + row->at;
    switch (row->kind) {
    case HELP:
        return show_help();
    case VERSION:
        printf("workqueue-packager %s\n", wq_version());
        return 0;
    case TEXT:
        if (*value == '\0')
            return wrong("--%s must not be empty%s", row->name, "");
        *(const char **)at = value;
        return GO_ON;
    case ON:
    case OFF:
        *(int *)at = row->kind == ON;
        return GO_ON;
    case VARIABLE:
        return add_variable(s, value);
    case NUMBER:
    case BYTES:
        return apply_number(at, row, value);
    }
    return GO_ON;
}

static int parse(settings *s, int argc, char **argv)
{
    struct option table[N_ROWS + 1] = {{0}};
    int c, r = GO_ON;
    for (int i = 0; i < N_ROWS; i++)
        table[i] = (struct option){rows[i].name, rows[i].argument ? required_argument : no_argument,
                                   NULL, 256 + i};
    opterr = 0;
    while (r == GO_ON && (c = getopt_long(argc, argv, ":", table, NULL)) != -1)
        r = c >= 256 ? apply(s, &rows[c - 256], optarg)
                     : wrong(c == ':' ? "the option '%s' needs a value%s"
                                      : "there is no option '%s', or not in this form%s",
                             argv[optind - 1], "");
    if (r == GO_ON && optind < argc)
        r = wrong("'%s' is not an option%s", argv[optind], "");
    return r;
}

/* ---- what follows from it -------------------------------------------------------------------- */

static int check(settings *s)
{
    if (s->packager.urls == NULL)
        s->packager.urls = getenv("WORKQUEUE_BROKER");
    if (s->packager.urls == NULL)
        return wrong("--broker is missing%s%s", "", "");
    if (s->store == NULL)
        return wrong("--store is missing%s%s", "", "");
    if (s->queue.program == NULL)
        return wrong("--program is missing%s%s", "", "");
    if (s->state_dir != NULL)
        return GO_ON;
    s->state_dir = "packager-state";
    if (mkdir(s->state_dir, 0700) == 0 || errno == EEXIST)
        return GO_ON;
    return wrong("cannot make the folder packager-state (%s%s), give one by --state",
                 strerror(errno), "");
}

/* What stands before a key in the URL of an output, as others may find it; from malloc. */
static char *make_url_base(const settings *s)
{
    char *base = NULL, *path = NULL;
    const char *endpoint = s->s3.endpoint ? s->s3.endpoint : getenv("AWS_ENDPOINT_URL_S3");
    if (endpoint == NULL)
        endpoint = getenv("AWS_ENDPOINT_URL");
    int n, is_s3 = strncmp(s->store, "s3://", 5) == 0;
    if (s->public_base != NULL)
        n = asprintf(&base, "%s/", s->public_base);
    else if (is_s3 && endpoint != NULL)
        n = asprintf(&base, "%s/%s/", endpoint, s->store + 5);
    else if (!is_s3 && (path = realpath(s->store, NULL)) != NULL)
        n = asprintf(&base, "file://%s/", path);
    else
        n = asprintf(&base, "%s/", s->store);
    free(path);
    return n < 0 ? NULL : base;
}

/* As many files as we may have open, as each job needs some; programs get what shells give. */
static void raise_open_files(wq_options *queue)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        queue->soft_open_files = (unsigned)limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int open_store(settings *s, wq_error *error)
{
    if (access(s->state_dir, W_OK | X_OK) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "the folder %s cannot be used: %s", s->state_dir,
                       strerror(errno));
    if (strncmp(s->store, "s3://", 5) != 0) {
        s->queue.storage_dir = s->state_dir;
        int folder = wq_shared_folder_open(&s->queue.store, s->store, error);
        s->packager.store = s->queue.store;
        return folder;
    }
    s->s3.url = s->store;
    s->s3.cache_dir = s->state_dir;
    s->s3.log = s->queue.log;
    s->queue.storage_dir = s->state_dir;
    int result = wq_s3_store_open(&s->queue.store, &s->s3, error);
    s->packager.store = s->queue.store;
    return result;
}

static void on_log(void *user, int level, const char *message)
{
    static const char *const names[] = {"error", "warning", "info"};
    struct timespec now;
    struct tm utc;
    char text[32];
    (void)user;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    fprintf(stderr, "%s.%03ldZ %s: %s\n", text, now.tv_nsec / 1000000,
            names[level < 0 || level > 2 ? 2 : level], message);
}

static int refuse(const wq_error *error)
{
    fprintf(stderr, "workqueue-packager: %s\n", error->message);
    return 2;
}

/* One packager for each broker; they share the queue and the store. */
typedef struct team {
    size_t n;
    char *urls[WQ_MAX_BROKERS];
    wq_packager *all[WQ_MAX_BROKERS];
    atomic_size_t n_drained;
} team;

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

static void write_metrics(const settings *s, const team *t)
{
    wq_packager_stats one, sum = {.is_connected = 1};
    for (size_t i = 0; i < t->n; i++) {
        wq_packager_stat(t->all[i], &one);
        add_stats(&sum, &one);
    }
    if (wq_packager_write_metrics(&sum, s->metrics) != 0)
        fprintf(stderr, "workqueue-packager: cannot write %s: %s\n", s->metrics, strerror(errno));
}

static void on_drained(void *user)
{
    team *t = user;
    if (atomic_fetch_add(&t->n_drained, 1) + 1 == t->n)
        kill(getpid(), SIGTERM);
}

/* Until we are to end: at SIGTERM or SIGINT, or at SIGUSR1 when all that ran has ended. */
static void wait_for_end(const settings *s, team *t, const sigset_t *stop)
{
    static const struct timespec pause = {.tv_sec = METRICS_S};
    int number, drains = 0;
    for (;;) {
        number = s->metrics != NULL ? sigtimedwait(stop, NULL, &pause) : sigwaitinfo(stop, NULL);
        if (s->metrics != NULL)
            write_metrics(s, t);
        if (number < 0)
            continue;
        int is_to_drain = number == SIGUSR1 || (number == SIGTERM && s->drains);
        if (!is_to_drain || drains)
            break;
        drains = 1;
        on_log(NULL, WQ_LOG_INFO, "nothing new is taken; what runs goes on to its end");
        for (size_t i = 0; i < t->n; i++)
            wq_packager_drain(t->all[i], on_drained, t);
    }
    pthread_sigmask(SIG_UNBLOCK, stop, NULL); /* a second one ends us at once */
}

/* The workers are divided among the brokers, at least one for each. */
static int open_team(settings *s, team *t, wq_queue *queue, wq_error *error)
{
    wq_packager_options o = s->packager;
    int result = wq_brokers_split(t->urls, &t->n, s->packager.urls, error);
    for (size_t i = 0; result == WQ_OK && i < t->n; i++) {
        unsigned share = (unsigned)(o.workers / t->n + (i < o.workers % t->n));
        s->packager.urls = t->urls[i];
        s->packager.workers = share > 0 ? share : 1;
        result = wq_packager_open(&t->all[i], queue, &s->packager, error);
    }
    return result;
}

static void close_team(team *t)
{
    for (size_t i = 0; i < t->n; i++)
        wq_packager_close(t->all[i]);
    if (t->n > 0)
        free(t->urls[0]);
}

static int run(settings *s, const sigset_t *stop)
{
    wq_queue *queue = NULL;
    team t = {0};
    wq_error error;
    int r = 0;
    if (open_store(s, &error) != WQ_OK || wq_open(&queue, &s->queue, &error) != WQ_OK ||
        open_team(s, &t, queue, &error) != WQ_OK) {
        r = refuse(&error);
    } else {
        puts("ready");
        fflush(stdout);
        wait_for_end(s, &t, stop);
    }
    close_team(&t);
    wq_close(queue);
    return r;
}

int main(int argc, char **argv)
{
    settings s = {0};
    sigset_t stop, all;
    wq_leave_process_1(); /* in a container */
    wq_options_init(&s.queue, sizeof s.queue);
    wq_packager_options_init(&s.packager);
    wq_s3_options_init(&s.s3, sizeof s.s3);
    s.queue.log = s.packager.log = on_log;
    int r = parse(&s, argc, argv);
    if (r == GO_ON)
        r = check(&s);
    if (r != GO_ON)
        return r;
    if (s.queue.cgroup_dir != NULL && strcmp(s.queue.cgroup_dir, "none") == 0)
        s.queue.cgroup_dir = NULL;
    raise_open_files(&s.queue);
    s.packager.workers = s.queue.workers;
    s.packager.url_base = s.url_base = make_url_base(&s);
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGUSR1);
    all = stop;
    sigaddset(&all, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    /* Who started us may ignore it: then no exit code would be known. */
    (void)signal(SIGCHLD, SIG_DFL);
    r = run(&s, &stop);
    free(s.url_base);
    return r;
}
