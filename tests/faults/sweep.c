/* sweep.c - whole jobs, again and again, each time with another call failing.
 *
 *   sweep [-a | -n SOME] [-v] [SCENARIO [KIND [N [COUNT]]]]
 *
 * For each scenario and each kind of call (inject.h) a process does it all while the n-th call
 * fails: with -a for every n until there are no more such calls, else for some of them, spread over
 * all. Kinds that may go on failing are also tried with every call from the n-th on. What must
 * hold each time is what expect() says: no crash, no hang, no leak (with AddressSanitizer), every
 * job ends, every failure is told, nothing is left behind, and all is well once the fault has
 * passed.
 */
#include "inject.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <workqueue/http.h>

enum { DEADLINE_MS = 20000, TEXT_BYTES = 65536 };

#define OUTPUT "the whole output\n"

static char folder[64];          /* of the scenario's process */
static const char *journal;      /* its path, or NULL */
static char kept_id[WQ_ID_SIZE]; /* of the job that the journal keeps */
static int wrong;                /* how often something was not as it should be */
static int verbose;

static void expect(int holds, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void expect(int holds, const char *format, ...)
{
    va_list args;
    if (holds)
        return;
    va_start(args, format);
    fprintf(stderr, "    expected ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    wrong++;
}

/* ---- what the library has told --------------------------------------------------------------- */

static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;
static char told[TEXT_BYTES];
static size_t told_len;
static int failures; /* calls that were refused and jobs that have failed */

static void tell(const char *text)
{
    pthread_mutex_lock(&telling);
    int n = snprintf(told + told_len, sizeof told - told_len, "%s\n", text);
    if (n > 0 && told_len + (size_t)n < sizeof told)
        told_len += (size_t)n;
    pthread_mutex_unlock(&telling);
    if (verbose)
        fprintf(stderr, "      %s\n", text);
}

static void on_log(void *user, int level, const char *message)
{
    (void)user;
    (void)level;
    tell(message);
}

static void refused(const char *what, const wq_error *error)
{
    failures++;
    expect(error->message[0] != '\0', "%s to say why it fails", what);
    tell(error->message);
}

static int is_told(const char *text)
{
    return strcasestr(told, text) != NULL;
}

/* SQLite has words of its own; the last ones it has for a log that cannot be made. */
static int is_told_by_sqlite(void)
{
    return journal != NULL &&
           (is_told("disk") || is_told("unable to open") || is_told("corrupt") ||
            is_told("in use by another server") || is_told("cannot be written to"));
}

/* What has failed must have been said, with the system's word for it. */
/* Not a single allocation succeeds from now on: a connection whose request cannot even be kept is
 * closed. */
static int is_without_memory(void)
{
    return inject->kind == INJECT_ALLOC && inject->n == 0 && inject->hits >= inject->at;
}

static void expect_told(void)
{
    const int kind = inject->kind;
    if (failures == 0 || inject->at == 0 || inject->hits < inject->at)
        return;
    if (kind == INJECT_SQLITE || inject_errors[kind] == 0) /* which know nothing of it */
        return;
    expect(is_told(strerror(inject_errors[kind])) || is_told("memory") || is_told_by_sqlite() ||
               (kind == INJECT_ALLOC && is_told(strerror(EAGAIN))), /* a thread's */
           "the reason (%s) in what was told:\n%s", strerror(inject_errors[kind]), told);
}

/* ---- a queue and its jobs -------------------------------------------------------------------- */

static int is_past(void)
{
    return inject->at == 0 || (inject->n != 0 && inject->hits >= inject->at + inject->n - 1);
}

static void heal(void)
{
    __atomic_store_n(&inject->kind, INJECT_NOTHING, __ATOMIC_SEQ_CST);
}

static int open_queue(wq_queue **queue)
{
    wq_options options;
    wq_error error = {0};
    wq_options_init(&options, sizeof options);
    options.program = WQ_TEST_PROGRAMS "/shell";
    options.storage_dir = folder;
    options.fair = 1;
    options.grace_ms = 5000;
    options.run_timeout_ms = DEADLINE_MS;
    options.max_open_files = 64;
    options.token_in_environment = options.private_tmpdir = 1;
    options.retain_age_s = 86400;
    options.retain_bytes = 1 << 30;
    options.journal_path = journal;
    options.log = on_log;
    int result = wq_open(queue, &options, &error);
    if (result != WQ_OK)
        refused("wq_open", &error);
    return result;
}

static wq_params params_of(const char *script, const char *document_set_id)
{
    return (wq_params){.server = script, .document_set_id = document_set_id, .api_token = "t0ken"};
}

#define GOOD "printf '0.5\\thalf\\n'; echo 'the whole output' > \"$4\""

static void on_news(void *user)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

static void expect_output(wq_queue *queue, const wq_params *params, int must)
{
    char text[64] = "";
    int fd;
    wq_error error = {0};
    int result = wq_output_open(queue, params, &fd, &error);
    if (result != WQ_OK) {
        expect(!must, "the output to be there; got: %s", error.message);
        if (result != WQ_ERROR_NOT_FOUND)
            refused("wq_output_open", &error);
        return;
    }
    expect(read(fd, text, sizeof text - 1) >= 0 && strcmp(text, OUTPUT) == 0,
           "the whole output; got \"%s\"", text);
    close(fd);
}

/* How the job has ended; it must have, and say why if not well. */
static int end_of(wq_job *job)
{
    wq_snapshot s;
    char json[512];
    int result = wq_job_wait(job, DEADLINE_MS);
    wq_job_snapshot(job, &s);
    expect(result == WQ_OK, "the job to end; it is in state %d", s.state);
    int state = s.state;
    wq_snapshot_json(&s, json, sizeof json);
    if (verbose)
        fprintf(stderr, "      %s\n", json);
    if (state == WQ_STATE_FAILED) {
        failures++;
        expect(s.error != NULL && *s.error != '\0', "a failed job to say why");
        tell(s.error != NULL ? s.error : "");
    }
    wq_snapshot_clear(&s);
    return state;
}

/* A job from its start to its output; -1 if it was refused. */
static int whole_job(wq_queue *queue, const char *document_set_id, unsigned flags, int must)
{
    wq_params params = params_of(GOOD, document_set_id);
    wq_error error = {0};
    wq_job *job;
    wq_watch *watch = NULL;
    atomic_int news = 0;
    int result = wq_ensure_run(queue, &params, flags | WQ_ENSURE_JOB, &job, &error);
    if (result < 0) {
        refused("wq_ensure_run", &error);
        expect(!must, "the job to be accepted now; got: %s", error.message);
        return -1;
    }
    if (wq_job_watch(job, on_news, &news, &watch) != WQ_OK)
        watch = NULL;
    int state = end_of(job);
    expect(!must || state == WQ_STATE_SUCCEEDED, "the job to succeed now; it is in state %d",
           state);
    wq_watch_cancel(watch);
    expect_output(queue, &params, state == WQ_STATE_SUCCEEDED && is_past());
    wq_job_unref(job);
    return state;
}

static void pause_ms(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static void cancelled_job(wq_queue *queue)
{
    wq_params params = params_of("exec sleep 1000", "2");
    wq_error error = {0};
    wq_snapshot s;
    wq_job *job;
    int state;
    if (wq_ensure_run(queue, &params, 0, &job, &error) < 0) {
        refused("wq_ensure_run", &error);
        return;
    }
    do {
        pause_ms(1);
        wq_job_snapshot(job, &s);
        state = s.state;
        wq_snapshot_clear(&s);
    } while (state == WQ_STATE_QUEUED);
    wq_job_cancel(job);
    state = end_of(job);
    expect(state == WQ_STATE_CANCELLED || state == WQ_STATE_FAILED,
           "a cancelled job to end so; it is in state %d", state);
    wq_job_unref(job);
}

/* Opens, runs, reads, rebuilds, cancels, deletes, closes. */
static void library(void)
{
    wq_queue *queue;
    wq_error error = {0};
    if (open_queue(&queue) != WQ_OK)
        return;
    wq_params params = params_of(GOOD, "1");
    int first = whole_job(queue, "1", 0, 0);
    whole_job(queue, "1", WQ_ENSURE_REBUILD, 0);
    if (first == WQ_STATE_SUCCEEDED)
        expect_output(queue, &params, 0);
    cancelled_job(queue);
    int result = wq_output_delete(queue, &params, &error);
    if (result < 0 && result != WQ_ERROR_NOT_FOUND)
        refused("wq_output_delete", &error);
    size_t n;
    if (wq_outputs_delete(queue, GOOD, NULL, &n, &error) < 0)
        refused("wq_outputs_delete", &error);
    if (is_past())
        whole_job(queue, "3", 0, 1);
    wq_close(queue);
}

/* ---- a job that outlives its queue ----------------------------------------------------------- */

#define KEPT "[ -e \"${4%/*/*}/.go\" ] || exec sleep 1000; " GOOD

static void accept_kept(wq_queue *queue)
{
    wq_params params = params_of(KEPT, "10");
    wq_error error = {0};
    wq_job *job;
    if (wq_ensure_run(queue, &params, 0, &job, &error) < 0) {
        refused("wq_ensure_run", &error);
        return;
    }
    wq_snapshot s;
    wq_job_snapshot(job, &s);
    /* one that has failed at once is no more to be kept */
    if (s.state < WQ_STATE_SUCCEEDED)
        strcpy(kept_id, wq_job_id(job));
    wq_snapshot_clear(&s);
    wq_job_unref(job);
}

/* Whatever has failed meanwhile: what was accepted is there again, or has ended. */
static void expect_kept(wq_queue *queue, int must)
{
    wq_job *job;
    if (*kept_id == '\0')
        return;
    int result = wq_job_by_id(queue, kept_id, &job);
    expect(result == WQ_OK, "the accepted job %s to be there again", kept_id);
    if (result != WQ_OK)
        return;
    int state = end_of(job);
    expect(!must || state == WQ_STATE_SUCCEEDED || state == WQ_STATE_FAILED,
           "the accepted job to end; it is in state %d", state);
    wq_job_unref(job);
}

/* Opens, accepts, closes, opens again. */
static void with_journal(void)
{
    wq_queue *queue;
    static char path[128];
    snprintf(path, sizeof path, "%s/.journal", folder);
    journal = path;
    if (open_queue(&queue) != WQ_OK)
        return;
    whole_job(queue, "1", 0, 0);
    accept_kept(queue);
    wq_close(queue);
    if (open_queue(&queue) == WQ_OK) {
        if (is_past())
            whole_job(queue, "3", 0, 1);
        wq_close(queue);
    }
}

static void let_go(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/.go", folder);
    fclose(fopen(path, "w"));
}

/* ---- over HTTP ------------------------------------------------------------------------------- */

static int connect_to(const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval patience = {.tv_sec = DEADLINE_MS / 1000};
    to.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        perror("connect");
        abort();
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

/* The close of a WebSocket, to which the server would wait for an answer. */
static int has_goodbye(const char *answer, size_t len)
{
    return memmem(answer, len, "\x88\x02", 2) != NULL;
}

/* The status; `answer` gets all that came until the end. */
static int ask(const char *address, char *answer, const char *format, ...)
{
    char request[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(request, sizeof request, format, args);
    va_end(args);
    size_t len = 0;
    ssize_t got = 0;
    errno = 0;
    int fd = connect_to(address);
    expect(send(fd, request, (size_t)n, MSG_NOSIGNAL) == n, "the request to be taken");
    while (len < TEXT_BYTES - 1 && !has_goodbye(answer, len) &&
           ((got = recv(fd, answer + len, TEXT_BYTES - 1 - len, 0)) > 0 || errno == EINTR)) {
        len += got > 0 ? (size_t)got : 0;
        errno = 0;
    }
    expect(got >= 0 || is_without_memory(), "an orderly end of the answer; got: %s",
           strerror(errno));
    answer[len] = '\0';
    close(fd);
    int status = strncmp(answer, "HTTP/1.1 ", 9) == 0 ? atoi(answer + 9) : 0;
    if (verbose)
        fprintf(stderr, "      %.*s\n      %s\n", (int)strcspn(request, "\r"), request, answer);
    return status;
}

#define END_OF_HEAD "Connection: close\r\n\r\n"
#define AUTHORISED "Host: h\r\nAuthorization: Basic dDBrZW46eC1hdXRoLXRva2Vu\r\n"
#define BODY                                                                                       \
    "{\"server\":\"printf '0.5\\\\n'; echo 'the whole output' > "                                  \
    "\\\"$4\\\"\",\"documentSetId\":\"%s\"}"

static int post(const char *address, char *answer, const char *path, const char *more,
                const char *document_set_id)
{
    char body[512];
    int n = snprintf(body, sizeof body, BODY, document_set_id);
    return ask(address, answer,
               "POST %s HTTP/1.1\r\n" AUTHORISED
               "Content-Type: application/json\r\nContent-Length: %d\r\n%s" END_OF_HEAD "%s",
               path, n, more, body);
}

/* A status of success, or a problem with its words; an end without an answer is none. */
static int expect_answer(const char *what, int status, const char *answer, int must)
{
    int well = status >= 200 && status < 400;
    if (status == 0 && is_without_memory())
        return 0;
    expect(status != 0, "an answer to %s; got \"%.200s\"", what, answer);
    expect(well || !must, "%s to succeed now; got %.2000s", what, answer);
    if (!well) {
        failures++;
        expect(strstr(answer, "\"detail\"") != NULL || strstr(answer, "\"message\"") != NULL,
               "%s to say why; got %.2000s", what, answer);
        tell(answer);
    } else if (strstr(answer, "\"error\": \"") != NULL) {
        failures++;
        tell(answer);
    }
    return well;
}

static void expect_last_record(const char *answer, int must)
{
    expect(strstr(answer, "\"returncode\": -") != NULL ||
               strstr(answer, "\"returncode\": 0") != NULL || strstr(answer, "[]") != NULL,
           "a stream to have a last record; got %.2000s", answer);
    expect(!must || strstr(answer, "\"returncode\": -") == NULL,
           "the job to succeed now; got %.2000s", answer);
}

static void stream(const char *address, const char *accept, const char *document_set_id, int must)
{
    static char answer[TEXT_BYTES];
    int status = post(address, answer, "/generate", accept, document_set_id);
    if (expect_answer("POST /generate", status, answer, must) && status == 200)
        expect_last_record(answer, must);
}

/* The token comes in a header, or in the first message, masked by spaces. */
static void websocket(const char *address, const char *header, const char *message,
                      const char *document_set_id)
{
    static char answer[TEXT_BYTES];
    int status = ask(address, answer,
                     "GET /generate?documentSetId=%s&server=echo%%20x%%3E%%22%%244%%22 HTTP/1.1\r\n"
                     "%sUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                     "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n%s",
                     document_set_id, header, message);
    if (status == 0 && is_without_memory())
        return;
    expect(status != 0, "an answer to an upgrade");
    expect(status == 101 || strstr(answer, "\"detail\"") != NULL, "%s to say why", answer);
}

/* Follows where it leads until there is the output, or an error. */
static void poll_job(const char *address)
{
    static char answer[TEXT_BYTES];
    char path[256] = "";
    int status = post(address, answer, "/start_work", "", "5");
    for (int i = 0; i < 50 && status == 303; i++) {
        const char *location = strcasestr(answer, "\r\nlocation: ");
        expect(location != NULL, "a redirect to lead somewhere");
        if (location == NULL || sscanf(location + 12, "%255s", path) != 1)
            return;
        const char *local = strstr(path, "/work/");
        status =
            ask(address, answer, "GET %s HTTP/1.1\r\n" AUTHORISED "Prefer: wait=20\r\n" END_OF_HEAD,
                local != NULL ? local : path);
    }
    if (expect_answer("GET /work", status, answer, 0))
        expect(status == 200 && strstr(answer, OUTPUT) != NULL, "the output; got %.2000s", answer);
}

static void other_faces(const char *address)
{
    static char answer[TEXT_BYTES];
    int status = post(address, answer, "/run", "X-Lunkwill: require\r\n", "6");
    expect_answer("POST /run", status, answer, 0);
    status = post(address, answer, "/api/tasks/", "", "7");
    expect_answer("POST /api/tasks/", status, answer, 0);
    status = ask(address, answer, "GET /metrics HTTP/1.1\r\n" AUTHORISED END_OF_HEAD);
    expect_answer("GET /metrics", status, answer, 0);
    status = ask(address, answer,
                 "DELETE /output?server=x HTTP/1.1\r\nHost: h\r\n"
                 "Authorization: Bearer secret\r\n" END_OF_HEAD);
    expect(status != 0 || is_without_memory(), "an answer to DELETE /output");
}

static void faces(void)
{
    wq_queue *queue;
    wq_server *server;
    wq_serve_options options;
    wq_error error = {0};
    if (open_queue(&queue) != WQ_OK)
        return;
    wq_serve_options_init(&options, sizeof options);
    options.http.any_server = 1; /* it is a script here */
    options.listen = "127.0.0.1:0";
    options.http.operator_secret = "secret";
    options.http.hold_ms = DEADLINE_MS;
    options.log = on_log;
    if (wq_serve(&server, queue, &options, &error) == WQ_OK) {
        const char *address = wq_server_address(server);
        stream(address, "", "1", 0);
        stream(address, "Accept: text/event-stream\r\n", "2", 0);
        websocket(address, AUTHORISED, "", "4");
        websocket(address, "Host: h\r\n", "\x81\x85    T\x10KEN", "11");
        poll_job(address);
        other_faces(address);
        if (is_past())
            stream(address, "", "8", 1);
        wq_server_stop(server);
    } else {
        refused("wq_serve", &error);
    }
    wq_close(queue);
}

/* ---- what is left ---------------------------------------------------------------------------- */

static unsigned count_fds(void)
{
    unsigned n = 0;
    DIR *fds = opendir("/proc/self/fd");
    while (readdir(fds) != NULL)
        n++;
    closedir(fds);
    return n;
}

/* Children of ours, or of those that have gone: we are the one who inherits them. */
static void expect_no_children(void)
{
    for (int i = 0; i < DEADLINE_MS; i++) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 && errno == ECHILD)
            return;
        if (pid == 0)
            pause_ms(1);
    }
    expect(0, "no process to be left");
}

static void expect_clean_folder(void)
{
    char temps[128];
    struct stat st;
    snprintf(temps, sizeof temps, "%s/.workqueue.tmp", folder);
    expect(stat(temps, &st) != 0 || rmdir(temps) == 0, "nothing to be left in %s", temps);
    DIR *entries = opendir(folder);
    for (struct dirent *e; (e = readdir(entries)) != NULL;)
        expect(strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
                   strncmp(e->d_name, ".workqueue.", 11) == 0 || strlen(e->d_name) == 64 ||
                   strncmp(e->d_name, ".journal", 8) == 0 || strcmp(e->d_name, ".go") == 0,
               "no %s to be left", e->d_name);
    closedir(entries);
}

/* The scenario's process. */
static int once(void (*scenario)(void))
{
    wq_queue *queue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    unsigned fds = count_fds();
    scenario();
    expect_told();
    heal();
    expect_no_children();
    expect(count_fds() == fds, "%u descriptors as before; got %u", fds, count_fds());
    expect_clean_folder();
    let_go();
    int opened = open_queue(&queue) == WQ_OK;
    expect(opened, "the storage to open now");
    if (opened) {
        whole_job(queue, "9", 0, 1);
        expect_kept(queue, 1);
        wq_close(queue);
    }
    expect_no_children();
    expect_clean_folder();
    return wrong ? 1 : 0;
}

/* ---- the sweep ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {{"library", library}, {"journal", with_journal}, {"faces", faces}};
enum { N_SCENARIOS = sizeof scenarios / sizeof *scenarios };

static unsigned n_runs, n_bad;

static void remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0)
        fprintf(stderr, "sweep: cannot remove %s\n", folder);
}

/* Waits for the process, and kills it when its time is up. */
static int wait_for(pid_t pid, int *status)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int ended = poll(&p, 1, 2 * DEADLINE_MS) > 0;
    if (!ended)
        kill(pid, SIGABRT);
    waitpid(pid, status, 0);
    close(fd);
    return ended;
}

/* Does it all once with this control; how many calls there were. */
static unsigned run(unsigned scenario, int kind, unsigned at, unsigned n)
{
    int status;
    strcpy(folder, "/tmp/wq-faults-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        perror(folder);
        exit(2);
    }
    fflush(NULL);
    *inject = (inject_control){.kind = kind, .at = at, .n = n};
    pid_t pid = fork();
    if (pid == 0) {
        int r = once(scenarios[scenario].run);
        exit(r); /* through the leak checker */
    }
    int ended = wait_for(pid, &status);
    n_runs++;
    if (!ended || status != 0) {
        n_bad++;
        printf("FAILED  %s, %s, from call %u, %u of them: ", scenarios[scenario].name,
               inject_names[kind], at, n);
        if (!ended)
            printf("it hangs\n");
        else if (WIFSIGNALED(status))
            printf("%s\n", strsignal(WTERMSIG(status)));
        else
            printf("exit code %d\n", WEXITSTATUS(status));
    }
    inject->kind = INJECT_NOTHING;
    remove_folder();
    return inject->hits;
}

/* Every n, or some of them. Which call is the n-th differs a little between runs. */
static void sweep(unsigned scenario, int kind, unsigned n, unsigned some)
{
    unsigned calls = run(scenario, kind, 0, 1);
    unsigned step = calls <= some ? 1 : (calls + some - 1) / some;
    for (unsigned at = 1; at <= calls; at += step)
        run(scenario, kind, at, n);
    if (calls > 0)
        printf("%s, %s: %u calls%s\n", scenarios[scenario].name, inject_names[kind], calls,
               n == 0 ? ", and from there on" : "");
    fflush(stdout);
}

static int can_last(int kind)
{
    return kind == INJECT_ALLOC || kind == INJECT_OPEN || kind == INJECT_WRITE ||
           kind == INJECT_SYNC || kind == INJECT_RENAME || kind == INJECT_SPAWN ||
           kind == INJECT_FDS || kind == INJECT_SQLITE || kind == INJECT_FOLDER ||
           kind == INJECT_LINKS || kind == INJECT_INODE;
}

static int number_of(const char *name, int kinds)
{
    for (int i = 0; i < (kinds ? INJECT_KINDS : N_SCENARIOS); i++)
        if (strcmp(name, kinds ? inject_names[i] : scenarios[i].name) == 0)
            return i;
    fprintf(stderr, "sweep: there is no %s\n", name);
    exit(2);
}

/* In memory that the scenarios' processes share with us. */
static void share_control(void)
{
    inject = mmap(NULL, sizeof *inject, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (inject == MAP_FAILED)
        exit(2);
}

int main(int argc, char **argv)
{
    unsigned some = 5;
    int option;
    while ((option = getopt(argc, argv, "avn:")) != -1) {
        some = option == 'a' ? UINT_MAX : option == 'n' ? (unsigned)atoi(optarg) : some;
        verbose |= option == 'v';
    }
    argv += optind;
    argc -= optind;
    int only = argc > 0 ? number_of(argv[0], 0) : -1, kind = argc > 1 ? number_of(argv[1], 1) : -1;
    share_control();
    if (argc > 2) {
        run((unsigned)only, kind, (unsigned)atoi(argv[2]), argc > 3 ? (unsigned)atoi(argv[3]) : 1);
    } else {
        for (int s = 0; s < N_SCENARIOS; s++)
            for (int k = 1; k < INJECT_KINDS; k++)
                if ((only < 0 || s == only) && (kind < 0 || k == kind)) {
                    sweep((unsigned)s, k, 1, some);
                    if (can_last(k))
                        sweep((unsigned)s, k, 0, some);
                }
    }
    printf("%u runs, %u failed\n", n_runs, n_bad);
    return n_bad > 0;
}
