/* options.c - the command line, from one table: an option more is a row more. */
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_STORAGE "demo-data"
#define JOURNAL_SUFFIX "-journal.sqlite" /* beside the storage, where no output can be */

enum { SECRET_BYTES = 1024 }; /* the longest operator's secret */

enum kind {
    KIND_HELP,
    KIND_VERSION,
    KIND_TEXT,     /* const char *, not empty */
    KIND_UNSIGNED, /* unsigned, from least to most */
    KIND_SIZE,     /* size_t, likewise */
    KIND_BYTES,    /* uint64_t, likewise */
    KIND_OFF,      /* int, becomes 0 */
    KIND_ON,       /* int, becomes 1 */
    KIND_ALLOW,    /* one more of options.allow */
    KIND_PROXY,    /* one more of options.proxies */
    KIND_LISTEN,   /* serve.listen, then one more of options.listen_also */
    KIND_VARIABLE, /* one more of options.environment */
    KIND_CGROUP,   /* const char *, "none" becomes NULL */
    KIND_SECRET    /* the file whose contents become options.secret */
};

#define AT(member) offsetof(struct options, member)

static const struct row {
    const char *name, *argument; /* argument NULL: it takes none */
    enum kind kind;
    size_t at; /* where in struct options it goes */
    unsigned long long least, most;
    const char *help;
} rows[] = {
    {"listen", "ADDR:PORT", KIND_LISTEN, 0, 0, 0,
     "where to listen (127.0.0.1:8080); also :PORT, unix:PATH, fd:N, systemd; may be repeated"},
    {"program", "PATH", KIND_TEXT, AT(queue.program), 0, 0,
     "what to run for a job (process-docset)"},
    {"storage", "DIR", KIND_TEXT, AT(queue.storage_dir), 0, 0,
     "existing folder for the outputs (./" DEFAULT_STORAGE ", made if missing)"},
    {"journal", "FILE|none", KIND_TEXT, AT(journal), 0, 0,
     "keeps accepted jobs across a crash (STORAGE" JOURNAL_SUFFIX ")"},
    {"max-attempts", "N", KIND_UNSIGNED, AT(queue.max_attempts), 1, 1000,
     "so often a job may be running when the server dies (3)"},
    {"workers", "N", KIND_UNSIGNED, AT(queue.workers), 1, 1024,
     "jobs that run at the same time (2)"},
    {"loops", "N", KIND_UNSIGNED, AT(serve.loops), 1, 64, "event loops, each a thread (2)"},
    {"max-queue", "N", KIND_SIZE, AT(queue.max_queue), 1, SIZE_MAX, "jobs that may wait (10000)"},
    {"max-per-user", "N", KIND_SIZE, AT(queue.max_per_user), 0, SIZE_MAX,
     "jobs of one API token that may wait or run (0: no limit)"},
    {"max-per-server", "N", KIND_SIZE, AT(queue.max_per_server), 0, SIZE_MAX,
     "jobs of one server that may wait or run (0: no limit)"},
    {"max-per-peer", "N", KIND_SIZE, AT(queue.max_per_peer), 0, SIZE_MAX,
     "jobs from one client address that may wait or run (0: half of max-queue, or ten times "
     "max-per-user; any number from this machine)"},
    {"max-streams", "N", KIND_SIZE, AT(serve.http.max_streams), 1, SIZE_MAX,
     "responses that are held at the same time (100000)"},
    {"max-connections", "N", KIND_SIZE, AT(serve.max_connections), 0, SIZE_MAX,
     "at the same time (0: as many as the limit of open files leaves room for)"},
    {"max-streams-per-peer", "N", KIND_SIZE, AT(serve.http.max_streams_per_peer), 0, SIZE_MAX,
     "of one client address (0: half of all; any number from this machine)"},
    {"max-body-bytes", "N", KIND_SIZE, AT(serve.http.max_body_bytes), 1, SIZE_MAX / 4,
     "longest body of a request (65536)"},
    {"max-connections-per-peer", "N", KIND_SIZE, AT(serve.max_connections_per_peer), 0, SIZE_MAX,
     "of one client address (0: half of all; any number from this machine)"},
    {"request-timeout-ms", "N", KIND_UNSIGNED, AT(serve.request_timeout_ms), 1, UINT32_MAX,
     "how long a request may take to arrive (10000)"},
    {"idle-timeout-ms", "N", KIND_UNSIGNED, AT(serve.idle_timeout_ms), 1, UINT32_MAX,
     "how long a connection may be idle between requests (75000)"},
    {"fair", NULL, KIND_ON, AT(queue.fair), 0, 0,
     "users take turns, a job each; else first come, first served"},
    {"heartbeat-ms", "N", KIND_UNSIGNED, AT(serve.http.heartbeat_ms), 0, UINT32_MAX,
     "a stream without news gets a newline so often (15000); 0 never"},
    {"hold-ms", "N", KIND_UNSIGNED, AT(serve.http.hold_ms), 0, UINT32_MAX,
     "a poll waits at most so long for its job (25000)"},
    {"lunkwill-patience-ms", "N", KIND_UNSIGNED, AT(serve.http.lunkwill_patience_ms), 1, UINT32_MAX,
     "a lunkwill client that does not ask for so long is cancelled (180000)"},
    {"result-type", "TYPE", KIND_TEXT, AT(serve.http.result_type), 0, 0,
     "Content-Type of outputs (application/octet-stream)"},
    {"tasks-path", "PATH", KIND_TEXT, AT(serve.http.tasks_path), 0, 0,
     "where the task API is (/api/tasks)"},
    {"guard-metrics", NULL, KIND_ON, AT(serve.http.guard_metrics), 0, 0,
     "GET /metrics asks for the operator's secret, too"},
    {"any-server", NULL, KIND_ON, AT(serve.http.any_server), 0, 0,
     "takes any text as server, not http and https URLs only"},
    {"path-prefix", "PATH", KIND_TEXT, AT(serve.http.path_prefix), 0, 0,
     "where clients see this, behind a proxy: /PATH goes before every link"},
    {"trust-forwarded-prefix", NULL, KIND_ON, AT(serve.http.trust_forwarded_prefix), 0, 0,
     "takes X-Forwarded-Prefix of a proxy in front for that"},
    {"trust-proxy", "ADDR[/BITS]", KIND_PROXY, 0, 0, 0,
     "a proxy in front, or unix, that tells the client's address; may be repeated"},
    {"operator-secret-file", "FILE", KIND_SECRET, 0, 0, 0,
     "holds what DELETE /output asks for; without it, that is refused"},
    {"grace-ms", "N", KIND_UNSIGNED, AT(queue.grace_ms), 0, UINT32_MAX,
     "from SIGTERM to SIGKILL for a program that is to end (5000)"},
    {"run-timeout-ms", "N", KIND_UNSIGNED, AT(queue.run_timeout_ms), 0, UINT32_MAX,
     "a program may run so long (0: for ever)"},
    {"stall-timeout-ms", "N", KIND_UNSIGNED, AT(queue.progress_timeout_ms), 0, UINT32_MAX,
     "and be so long without progress (0: for ever)"},
    {"queue-timeout-ms", "N", KIND_UNSIGNED, AT(queue.queue_timeout_ms), 0, UINT32_MAX,
     "a job may wait so long for its turn (0: for ever)"},
    {"max-output-bytes", "N", KIND_BYTES, AT(queue.max_output_bytes), 0, UINT64_MAX,
     "size of the output, and of each file that a program writes (0: any)"},
    {"max-memory-bytes", "N", KIND_BYTES, AT(queue.max_memory_bytes), 0, UINT64_MAX,
     "address space of each process of a job (0: any)"},
    {"max-cpu-s", "N", KIND_UNSIGNED, AT(queue.max_cpu_s), 0, UINT32_MAX,
     "processor time of each process of a job (0: any)"},
    {"max-open-files", "N", KIND_UNSIGNED, AT(queue.max_open_files), 0, UINT32_MAX,
     "descriptors of each process of a job, at least 16 (0: as the server was started with)"},
    {"max-processes", "N", KIND_UNSIGNED, AT(queue.max_processes), 0, UINT32_MAX,
     "processes of the server's user, root excepted (0: as the server)"},
    {"token-in-environment", NULL, KIND_ON, AT(queue.token_in_environment), 0, 0,
     "the program gets the token in WORKQUEUE_API_TOKEN, where ps does not show it"},
    {"environment", "NAME", KIND_VARIABLE, 0, 0, 0,
     "what a program gets of our environment, also START* or '*', or NAME=VALUE; several times "
     "(PATH, HOME, LANG, TMPDIR, proxies and such)"},
    {"cgroup", "DIR", KIND_CGROUP, AT(queue.cgroup_dir), 0, 0,
     "where jobs get control groups; none; auto, the default: below our own, if we may"},
    {"private-tmpdir", NULL, KIND_ON, AT(queue.private_tmpdir), 0, 0,
     "each job gets a TMPDIR of its own, removed afterwards"},
    {"no-sync", NULL, KIND_OFF, AT(queue.sync), 0, 0, "do not wait for the disk before success"},
    {"retain-age-s", "N", KIND_UNSIGNED, AT(queue.retain_age_s), 0, UINT32_MAX,
     "remove outputs that were not used for so long (0: never)"},
    {"retain-bytes", "N", KIND_BYTES, AT(queue.retain_bytes), 0, UINT64_MAX,
     "remove the least recently used while all have more bytes than that (0: never)"},
    {"allow-server", "URL", KIND_ALLOW, 0, 0, 0,
     "refuse any server that is not below this one; may be given several times"},
    {"sample", "DIR|N", KIND_TEXT, AT(sample), 0, 0,
     "be an Overview server too, its documents the text files in DIR, or N that are made up"},
    {"broker", "URL[,URL]", KIND_TEXT, AT(stomp.urls), 0, 0,
     "send jobs to packagers over stomp[s]://user:password@host:port, or WORKQUEUE_BROKER"},
    {"broker-ca", "FILE", KIND_TEXT, AT(stomp.ca_file), 0, 0, "who may sign for stomps brokers"},
    {"broker-heartbeat-ms", "N", KIND_UNSIGNED, AT(stomp.heartbeat_ms), 0, 3600000,
     "how often both sides show that they are there (10000)"},
    {"broker-jobs", "N", KIND_SIZE, AT(stomp.max_in_flight), 1, 100000,
     "jobs that are at the broker at the same time (1000)"},
    {"reply-expires-ms", "N", KIND_UNSIGNED, AT(stomp.reply_expires_ms), 1000, INT32_MAX,
     "a queue of answers that nobody reads goes after this long (1800000)"},
    {"reply-linger-ms", "N", KIND_UNSIGNED, AT(stomp.linger_ms), 0, UINT32_MAX,
     "answers are read so long after somebody has last looked (10000)"},
    {"reply-check-ms", "N", KIND_UNSIGNED, AT(stomp.check_ms), 1, UINT32_MAX,
     "and for a moment so often while nobody does (60000)"},
    {"resend-ms", "N", KIND_UNSIGNED, AT(stomp.resend_ms), 1, INT32_MAX,
     "a job that no packager accepts is sent again after this long (600000)"},
    {"quiet-ms", "N", KIND_UNSIGNED, AT(stomp.quiet_ms), 1, INT32_MAX,
     "and one whose packager, not ours, is silent for this long (60000)"},
    {"cancel-wait-ms", "N", KIND_UNSIGNED, AT(stomp.cancel_wait_ms), 0, INT32_MAX,
     "a packager has so long to say that a job is cancelled (10000)"},
    {"queue-package", "DEST", KIND_TEXT, AT(stomp.queue_package), 0, 0,
     "where jobs go (/queue/docsets%2Fpackage)"},
    {"queue-reply", "DEST", KIND_TEXT, AT(stomp.queue_reply), 0, 0,
     "where their answers come (/queue/package%2F{id})"},
    {"queue-delete", "DEST", KIND_TEXT, AT(stomp.queue_delete), 0, 0,
     "where deletions are told (/queue/docsets%2Fdelete)"},
    {"plain-request", "URL", KIND_TEXT, AT(stomp.plain_request), 0, 0,
     "send each job as this URL and nothing else, for packagers of others; see "
     "workqueue-deploy(7)"},
    {"broker-cert", "FILE", KIND_TEXT, AT(stomp.cert_file), 0, 0,
     "our certificate for stomps brokers that ask for one"},
    {"broker-key", "FILE", KIND_TEXT, AT(stomp.key_file), 0, 0, "its key (in the same file)"},
    {"store", "DIR|s3://BUCKET/PREFIX", KIND_TEXT, AT(store), 0, 0,
     "where outputs are, if not in --storage"},
    {"s3-endpoint", "URL", KIND_TEXT, AT(s3.endpoint), 0, 0,
     "where the S3 store is (AWS_ENDPOINT_URL)"},
    {"s3-region", "NAME", KIND_TEXT, AT(s3.region), 0, 0, "its region (AWS_REGION, us-east-1)"},
    {"s3-ca", "FILE", KIND_TEXT, AT(s3.ca_file), 0, 0, "who may sign for it (AWS_CA_BUNDLE)"},
    {"s3-virtual-host", NULL, KIND_OFF, AT(s3.path_style), 0, 0,
     "the bucket is in the host's name"},
    {"s3-public", "URL", KIND_TEXT, AT(s3.public_base), 0, 0,
     "clients are sent here for outputs, and not served by us"},
    {"help", NULL, KIND_HELP, 0, 0, 0, "show this and exit"},
    {"version", NULL, KIND_VERSION, 0, 0, 0, "show the version and exit"},
};

enum { N_ROWS = sizeof rows / sizeof *rows };

static int wrong(const char *format, const char *a, const char *b)
{
    fputs("demo-plugin: ", stderr);
    fprintf(stderr, format, a, b);
    fputs("; see demo-plugin --help.\n", stderr);
    return OPTIONS_WRONG;
}

static int show_help(void)
{
    puts("usage: demo-plugin [OPTION]...\n"
         "An Overview plugin: runs a program for a document set, shows its progress as it comes,\n"
         "and searches what it made.\n");
    for (size_t i = 0; i < N_ROWS; i++) {
        char left[40];
        snprintf(left, sizeof left, "--%s%s%s", rows[i].name, rows[i].argument ? " " : "",
                 rows[i].argument ? rows[i].argument : "");
        printf("  %-27s %s\n", left, rows[i].help);
    }
    return OPTIONS_EXIT;
}

static int parse_number(const struct row *row, const char *text, unsigned long long *out)
{
    char *end, range[80];
    errno = 0;
    *out = strtoull(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *out >= row->least &&
        *out <= row->most)
        return OPTIONS_RUN;
    snprintf(range, sizeof range, "--%s takes a number from %llu to %llu", row->name, row->least,
             row->most);
    return wrong("%s, not '%s'", range, text);
}

/* One more text at the end of a list of them, which is ours. */
static int add_text(const char ***list, size_t n, const char *text, const char *option)
{
    const char **grown = realloc(*list, (n + 1) * sizeof *grown);
    if (grown == NULL)
        return wrong("there is no memory for --%s%s", option, "");
    grown[n] = text;
    *list = grown;
    return OPTIONS_RUN;
}

static int add_allowed(struct options *options, const char *prefix)
{
    wq_http_options *http = &options->serve.http;
    int r = add_text(&options->allow, http->n_allow_servers, prefix, "allow-server");
    http->allow_servers = options->allow;
    http->n_allow_servers += r == OPTIONS_RUN;
    return r;
}

static int add_proxy(struct options *options, const char *address)
{
    wq_http_options *http = &options->serve.http;
    int r = add_text(&options->proxies, http->n_trust_proxies, address, "trust-proxy");
    http->trust_proxies = options->proxies;
    http->n_trust_proxies += r == OPTIONS_RUN;
    return r;
}

static int add_listen(struct options *options, const char *address)
{
    wq_serve_options *serve = &options->serve;
    if (serve->listen == NULL) {
        serve->listen = address;
        return OPTIONS_RUN;
    }
    int r = add_text(&options->listen_also, serve->n_listen_also, address, "listen");
    serve->listen_also = options->listen_also;
    serve->n_listen_also += r == OPTIONS_RUN;
    return r;
}

/* It ends with NULL. */
static int add_variable(struct options *options, const char *name)
{
    size_t n = options->n_environment;
    const char **grown = realloc(options->environment, (n + 2) * sizeof *grown);
    if (grown == NULL)
        return wrong("there is no memory for --%s%s", "environment", "");
    grown[n] = name;
    grown[n + 1] = NULL;
    options->queue.environment = options->environment = grown;
    options->n_environment = n + 1;
    return OPTIONS_RUN;
}

/* Reads to the end, or until there is more than a secret and its newline. -1 on failure. */
static ssize_t read_secret(int fd, char *buf, size_t size)
{
    size_t n = 0;
    ssize_t got;
    while (n < size && (got = read(fd, buf + n, size - n)) != 0) {
        if (got < 0 && errno != EINTR)
            return -1;
        n += got > 0 ? (size_t)got : 0;
    }
    return (ssize_t)n;
}

/* What is wrong with the secret, as the end of a sentence; NULL: nothing. A header carries nothing
 * but visible ASCII for sure, so anything else would be a secret that never fits. */
static const char *judge_secret(const char *secret, size_t n)
{
    if (n == 0)
        return "is empty";
    if (n > SECRET_BYTES)
        return "is longer than 1024 bytes";
    for (size_t i = 0; i < n; i++)
        if (secret[i] <= ' ' || secret[i] > '~')
            return "holds more than one word of visible ASCII";
    return NULL;
}

/* From a file, because a command line can be read by everybody; the same goes for such a file. */
static int take_secret(struct options *options, const char *path)
{
    char buf[SECRET_BYTES + 2]; /* its newline, and one byte too many */
    const char *why;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 || fstat(fd, &st) != 0 ? -1 : read_secret(fd, buf, sizeof buf);
    why = n < 0 ? strerror(errno) : NULL;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return wrong("cannot read the operator's secret from %s: %s", path, why);
    if (st.st_mode & S_IROTH)
        return wrong("everybody can read the operator's secret in %s (try chmod o-r)%s", path, "");
    if (n > 0 && buf[n - 1] == '\n')
        n--;
    if ((why = judge_secret(buf, (size_t)n)) != NULL)
        return wrong("the operator's secret in %s %s", path, why);
    free(options->secret);
    options->secret = strndup(buf, (size_t)n);
    options->serve.http.operator_secret = options->secret;
    explicit_bzero(buf, sizeof buf);
    return options->secret ? OPTIONS_RUN : wrong("there is no memory for a secret%s%s", "", "");
}

static int apply(struct options *options, const struct row *row, const char *value)
{
    char *at = (char *)options + row->at;
    unsigned long long number = 0;
    if (row->argument != NULL && value[0] == '\0')
        return wrong("--%s must not be empty%s", row->name, "");
    if ((row->kind == KIND_UNSIGNED || row->kind == KIND_SIZE || row->kind == KIND_BYTES) &&
        parse_number(row, value, &number) != OPTIONS_RUN)
        return OPTIONS_WRONG;
    switch (row->kind) {
    case KIND_HELP:
        return show_help();
    case KIND_VERSION:
        printf("demo-plugin %s\n", wq_version());
        return OPTIONS_EXIT;
    case KIND_TEXT:
        *(const char **)at = value;
        break;
    case KIND_UNSIGNED:
        *(unsigned *)at = (unsigned)number;
        break;
    case KIND_SIZE:
        *(size_t *)at = (size_t)number;
        break;
    case KIND_BYTES:
        *(uint64_t *)at = number;
        break;
    case KIND_OFF:
        *(int *)at = 0;
        break;
    case KIND_ON:
        *(int *)at = 1;
        break;
    case KIND_ALLOW:
        return add_allowed(options, value);
    case KIND_PROXY:
        return add_proxy(options, value);
    case KIND_LISTEN:
        return add_listen(options, value);
    case KIND_VARIABLE:
        return add_variable(options, value);
    case KIND_CGROUP:
        *(const char **)at = strcmp(value, "none") == 0 ? NULL : value;
        break;
    case KIND_SECRET:
        return take_secret(options, value);
    }
    return OPTIONS_RUN;
}

static void make_getopt_table(struct option *table)
{
    for (int i = 0; i < N_ROWS; i++)
        table[i] = (struct option){rows[i].name, rows[i].argument ? required_argument : no_argument,
                                   NULL, 256 + i};
    table[N_ROWS] = (struct option){NULL, 0, NULL, 0};
}

static int parse_all(struct options *options, int argc, char **argv)
{
    struct option table[N_ROWS + 1];
    int c, r = OPTIONS_RUN;
    make_getopt_table(table);
    opterr = 0;
    while (r == OPTIONS_RUN && (c = getopt_long(argc, argv, ":", table, NULL)) != -1) {
        if (c >= 256)
            r = apply(options, &rows[c - 256], optarg);
        else
            r = wrong(c == ':' ? "the option '%s' needs a value%s"
                               : "there is no option '%s', or not in this form%s",
                      argv[optind - 1], "");
    }
    if (r == OPTIONS_RUN && optind < argc)
        r = wrong("'%s' is not an option%s", argv[optind], "");
    return r;
}

/* `path`, which begins at the folder that this binary is in. */
static char *below_our_folder(const char *path)
{
    char *folder = realpath("/proc/self/exe", NULL), *whole = NULL;
    char *slash = folder == NULL ? NULL : strrchr(folder, '/');
    if (slash == NULL || asprintf(&whole, "%.*s/%s", (int)(slash - folder), folder, path) < 0)
        whole = NULL;
    free(folder);
    return whole;
}

/* The program beside this binary, as in a build folder, or where it is installed. */
static char *find_program(void)
{
    char *program = below_our_folder("process-docset");
    if (program != NULL && access(program, X_OK) == 0)
        return program;
    free(program);
    return below_our_folder(INSTALLED_PROGRAM);
}

static int make_storage(struct options *options)
{
    if (options->queue.storage_dir != NULL)
        return OPTIONS_RUN;
    options->queue.storage_dir = DEFAULT_STORAGE;
    if (mkdir(DEFAULT_STORAGE, 0700) == 0 || errno == EEXIST)
        return OPTIONS_RUN;
    return wrong("cannot make the folder " DEFAULT_STORAGE " (%s%s), give one by --storage",
                 strerror(errno), "");
}

/* By its real name: a journal is for one folder, however that is reached. One that is missing is
 * for wq_open() to complain of. */
static int choose_journal(struct options *options)
{
    if (options->journal != NULL) {
        if (strcmp(options->journal, "none") != 0)
            options->queue.journal_path = options->journal;
        return OPTIONS_RUN;
    }
    char *folder = realpath(options->queue.storage_dir, NULL);
    if (folder == NULL)
        return OPTIONS_RUN;
    int n = asprintf(&options->journal_path, "%s" JOURNAL_SUFFIX, folder);
    free(folder);
    if (n < 0) {
        options->journal_path = NULL;
        return wrong("there is no memory for a path%s%s", "", "");
    }
    options->queue.journal_path = options->journal_path;
    return OPTIONS_RUN;
}

static int use_defaults(struct options *options)
{
    if (options->serve.listen == NULL)
        options->serve.listen = "127.0.0.1:8080";
    if (options->queue.program == NULL)
        options->queue.program = options->program = find_program();
    if (options->stomp.urls == NULL)
        options->stomp.urls = getenv("WORKQUEUE_BROKER"); /* as ps shows what is in --broker */
    options->stomp.max_fetch_bytes = options->queue.max_output_bytes;
    if (options->store != NULL && strncmp(options->store, "s3://", 5) == 0)
        options->s3.url = options->store;
    else if (options->store != NULL && options->stomp.urls == NULL)
        options->queue.storage_dir = options->store; /* else it is one that packagers share */
    int r = make_storage(options);
    return r == OPTIONS_RUN ? choose_journal(options) : r;
}

int options_parse(struct options *options, int argc, char **argv)
{
    memset(options, 0, sizeof *options);
    wq_options_init(&options->queue, sizeof options->queue);
    options->queue.cgroup_dir = "auto";
    wq_serve_options_init(&options->serve, sizeof options->serve);
    wq_stomp_options_init(&options->stomp, sizeof options->stomp);
    wq_s3_options_init(&options->s3, sizeof options->s3);
    options->serve.listen = NULL;
    options->serve.notify_systemd = 1;
    int r = parse_all(options, argc, argv);
    return r == OPTIONS_RUN ? use_defaults(options) : r;
}

void options_dispose(struct options *options)
{
    free(options->program);
    free(options->journal_path);
    free(options->allow);
    free(options->proxies);
    free(options->listen_also);
    free(options->environment);
    if (options->secret != NULL)
        explicit_bzero(options->secret, strlen(options->secret));
    free(options->secret);
}
