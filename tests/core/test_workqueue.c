/* test_workqueue.c - the public API from end to end, as users of the library see it.
 *
 * Real programs are tests/programs/shell, whose first argument is the shell command that it does;
 * the other tests bring a runner that does what the test says ("the gate"), or a store ("the
 * shelf"). After each test no thread, descriptor or child may be left, and all that was logged must
 * be clean: one bounded line of printable ASCII each, and no token. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <workqueue/extend.h>

#include "tests/support.h"

#include "workqueue/util/log.h"

enum { GRACE_MS = 1000, MAX_GARBAGE = 64 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static int in_valgrind(void)
{
    const char *preload = getenv("LD_PRELOAD");
    return preload != NULL && strstr(preload, "vgpreload") != NULL;
}

/* How many, where each is much slower. */
static int scaled(int n)
{
    return in_valgrind() ? n / 100 : SANITIZED ? n / 10 : n;
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- the gate: a runner that does what the test says ----------------------------------------- */

typedef struct gate {
    wq_runner runner;
    int permits; /* an eventfd: each permit makes one run say a line, or end */
    pthread_mutex_t lock;
    char line[128];   /* to be said; "": end */
    char order[8192]; /* the document sets that began, each followed by a space */
    int returncode;   /* of runs that end */
    const char *output;
    atomic_int begun, ended, closed, slot_clash;
    atomic_int in_slot[1024];
} gate;

static void gate_finish(gate *g, const wq_run *run, wq_outcome *outcome)
{
    *outcome = (wq_outcome){.returncode = g->returncode};
    if (g->returncode != 0)
        outcome->error = strdup("the gate says no");
    FILE *f = g->output ? fopen(run->output_path, "we") : NULL;
    if (f != NULL) {
        fputs(g->output, f);
        fclose(f);
    }
}

static int gate_take_line(gate *g, char line[128])
{
    pthread_mutex_lock(&g->lock);
    strcpy(line, g->line);
    g->line[0] = '\0';
    pthread_mutex_unlock(&g->lock);
    return line[0] != '\0';
}

static void gate_wait(gate *g, const wq_run *run, wq_outcome *outcome)
{
    char line[128];
    uint64_t one;
    struct pollfd fds[] = {{.fd = run->cancel_fd, .events = POLLIN},
                           {.fd = g->permits, .events = POLLIN}};
    for (;;) {
        poll(fds, 2, -1);
        if (fds[0].revents != 0) {
            *outcome = (wq_outcome){-999, 1, strdup("Cancelled")};
            return;
        }
        if (read(g->permits, &one, sizeof one) != sizeof one)
            continue; /* another run was faster */
        if (!gate_take_line(g, line))
            break;
        run->report(run->user, line, strlen(line));
    }
    gate_finish(g, run, outcome);
}

static void gate_run(void *self, const wq_run *run, wq_outcome *outcome)
{
    gate *g = self;
    if (atomic_exchange(&g->in_slot[run->slot], 1))
        atomic_store(&g->slot_clash, 1);
    pthread_mutex_lock(&g->lock);
    size_t n = strlen(g->order);
    snprintf(g->order + n, sizeof g->order - n, "%s ", run->params->document_set_id);
    pthread_mutex_unlock(&g->lock);
    atomic_fetch_add(&g->begun, 1);
    gate_wait(g, run, outcome);
    atomic_store(&g->in_slot[run->slot], 0);
    atomic_fetch_add(&g->ended, 1);
}

static void gate_close(wq_runner *runner)
{
    gate *g = runner->self;
    atomic_fetch_add(&g->closed, 1);
}

static void permit(gate *g, uint64_t n)
{
    assert_int_equal(write(g->permits, &n, sizeof n), sizeof n);
}

static void let_end(gate *g)
{
    permit(g, 1);
}

static void let_say(gate *g, const char *line)
{
    pthread_mutex_lock(&g->lock);
    snprintf(g->line, sizeof g->line, "%s", line);
    pthread_mutex_unlock(&g->lock);
    permit(g, 1);
}

/* ---- the shelf: a store that does what the test says ----------------------------------------- */

enum { SHELF_MADE_AT_MS = 86400123 };

typedef struct shelf {
    wq_store store;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char keys[64][WQ_KEY_SIZE];
    size_t n_keys;
    int hold;                                      /* publish waits as long as this is set */
    int find_result, begin_result, publish_result; /* where they should fail */
    atomic_int publishing, discarded, closed, stopped;
} shelf;

static int shelf_find(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    shelf *s = self;
    int result = s->find_result ? s->find_result : WQ_ERROR_NOT_FOUND;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n_keys; i++)
        if (strcmp(s->keys[i], key) == 0)
            result = WQ_OK;
    pthread_mutex_unlock(&s->lock);
    if (result == WQ_OK && made_at_ms != NULL)
        *made_at_ms = SHELF_MADE_AT_MS;
    return result == WQ_OK ? WQ_OK : wq_fail(error, result, "not on the shelf");
}

static int shelf_open(void *self, const char *key, wq_output *out, wq_error *error)
{
    int result = shelf_find(self, key, NULL, error);
    if (result == WQ_OK)
        *out = (wq_output){.fd = open("/dev/null", O_RDONLY | O_CLOEXEC)};
    return result;
}

static int shelf_begin(void *self, const char *key, char **temp_path, wq_error *error)
{
    shelf *s = self;
    (void)key;
    if (s->begin_result != 0)
        return wq_fail(error, s->begin_result, "the shelf is full");
    *temp_path = strdup("/nowhere");
    return WQ_OK;
}

static void shelf_publish(void *self, wq_publish *items, size_t n)
{
    shelf *s = self;
    atomic_fetch_add(&s->publishing, 1);
    pthread_mutex_lock(&s->lock);
    while (s->hold)
        pthread_cond_wait(&s->changed, &s->lock);
    for (size_t i = 0; i < n; i++) {
        items[i].result = s->publish_result;
        if (s->publish_result == WQ_OK)
            strcpy(s->keys[s->n_keys++], items[i].key);
        else
            wq_fail(&items[i].error, s->publish_result, "it fell from the shelf");
    }
    pthread_mutex_unlock(&s->lock);
}

static void shelf_discard(void *self, const char *temp_path)
{
    shelf *s = self;
    (void)temp_path;
    atomic_fetch_add(&s->discarded, 1);
}

static void shelf_close(wq_store *store)
{
    shelf *s = store->self;
    atomic_fetch_add(&s->closed, 1);
}

static void shelf_hold(shelf *s, int hold)
{
    pthread_mutex_lock(&s->lock);
    s->hold = hold;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* ---- the rig --------------------------------------------------------------------------------- */

typedef struct rig {
    char dir[FOLDER_SIZE];   /* the storage folder */
    char notes[FOLDER_SIZE]; /* where programs leave word for the test */
    wq_options options;
    wq_queue *queue;
    gate gate;
    shelf shelf;
    int fds, threads; /* before the queue was open */
    char *garbage[MAX_GARBAGE];
    size_t n_garbage;
    logbook log;
    pthread_mutex_t unclean_lock;
    char unclean[2048]; /* what should not have been logged */
} rig;

static void check_log(void *user, int level, const char *message)
{
    rig *r = user;
    size_t n = strlen(message), i = 0;
    on_log(&r->log, level, message);
    while (i < n && message[i] >= 0x20 && message[i] < 0x7f)
        i++;
    if (n == 0 || n >= 1024 || i < n || strstr(message, TOKEN) != NULL) {
        pthread_mutex_lock(&r->unclean_lock);
        snprintf(r->unclean, sizeof r->unclean, "%s", message);
        pthread_mutex_unlock(&r->unclean_lock);
    }
}

static int set_up(void **state)
{
    rig *r = calloc(1, sizeof *r);
    if (r == NULL)
        return -1;
    *state = r;
    if (make_folder(r->dir, "storage") != 0 || make_folder(r->notes, "notes") != 0)
        return -1;
    pthread_mutex_init(&r->unclean_lock, NULL);
    pthread_mutex_init(&r->gate.lock, NULL);
    pthread_mutex_init(&r->shelf.lock, NULL);
    pthread_cond_init(&r->shelf.changed, NULL);
    r->gate.permits = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    r->gate.output = "made by the gate";
    wq_options_init(&r->options, sizeof r->options);
    r->options.program = SHELL;
    r->options.storage_dir = r->dir;
    r->options.grace_ms = GRACE_MS;
    r->options.drain_ms = 200;
    r->options.sync = 0;
    r->options.log = check_log;
    r->options.log_user = r;
    r->fds = entries_of("/proc/self/fd");
    r->threads = entries_of("/proc/self/task");
    return 0;
}

static void use_gate(rig *r)
{
    r->gate.runner = (wq_runner){.self = &r->gate, .run = gate_run, .close = gate_close};
    r->options.runner = &r->gate.runner;
    r->options.program = NULL;
}

static void use_shelf(rig *r)
{
    r->shelf.store = (wq_store){.self = &r->shelf,
                                .find = shelf_find,
                                .open = shelf_open,
                                .begin = shelf_begin,
                                .publish = shelf_publish,
                                .discard = shelf_discard,
                                .close = shelf_close};
    r->options.store = &r->shelf.store;
    r->options.storage_dir = NULL;
}

/* Opens with options that are gone afterwards: they are borrowed for the call only. */
static void open_queue(rig *r)
{
    wq_error error = {0};
    wq_options options = r->options;
    char *program = options.program ? strdup(options.program) : NULL;
    char *dir = options.storage_dir ? strdup(options.storage_dir) : NULL;
    options.program = program;
    options.storage_dir = dir;
    int result = wq_open(&r->queue, &options, &error);
    if (result != WQ_OK)
        fail_msg("wq_open: %d %s", result, error.message);
    free(program);
    free(dir);
    memset(&options, 0xa5, sizeof options);
}

static void close_queue(rig *r)
{
    wq_queue *queue = r->queue;
    r->queue = NULL;
    wq_close(queue);
    /* a thread that is joined may be seen for a moment more */
    EVENTUALLY(entries_of("/proc/self/task") <= r->threads);
    assert_int_equal(entries_of("/proc/self/fd"), r->fds);
    siginfo_t info;
    assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT), -1);
    assert_int_equal(errno, ECHILD);
    assert_int_equal(r->gate.closed, r->options.runner != NULL);
    assert_int_equal(r->shelf.closed, r->options.store != NULL);
    assert_int_equal(r->gate.slot_clash, 0);
}

static int tear_down(void **state)
{
    rig *r = *state;
    if (r->queue != NULL)
        close_queue(r);
    assert_string_equal(r->unclean, "");
    close(r->gate.permits);
    const int result = remove_folder(r->dir) | remove_folder(r->notes);
    for (size_t i = 0; i < r->n_garbage; i++)
        free(r->garbage[i]);
    free(r);
    return result;
}

/* ---- asking ---------------------------------------------------------------------------------- */

/* Text that lives as long as the rig. */
static const char *text(rig *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *text(rig *r, const char *format, ...)
{
    va_list args;
    char *made = NULL;
    va_start(args, format);
    assert_true(vasprintf(&made, format, args) >= 0 && r->n_garbage < MAX_GARBAGE);
    va_end(args);
    return r->garbage[r->n_garbage++] = made;
}

static wq_params shell(const char *command)
{
    return (wq_params){command, "17", TOKEN};
}

static wq_params numbered(char number[16], int i)
{
    snprintf(number, 16, "%d", i);
    return (wq_params){"http://localhost", number, TOKEN};
}

static wq_job *ask(rig *r, const wq_params *params)
{
    wq_error error = {0};
    wq_job *job = NULL;
    int result = wq_ensure_run(r->queue, params, 0, &job, &error);
    if (result != WQ_OK && result != WQ_ATTACHED)
        fail_msg("wq_ensure_run: %d %s", result, error.message);
    assert_int_equal(error.code, WQ_OK); /* a call that does not fail says nothing */
    assert_string_equal(error.message, "");
    assert_non_null(job);
    return job;
}

static wq_job *ask_shell(rig *r, const char *command)
{
    wq_params params = shell(command);
    return ask(r, &params);
}

static wq_job *ask_nr(rig *r, int i)
{
    char number[16];
    wq_params params = numbered(number, i);
    return ask(r, &params);
}

static wq_snapshot see(wq_job *job)
{
    wq_snapshot s;
    wq_job_snapshot(job, &s);
    return s;
}

static wq_stats stats_of(rig *r)
{
    wq_stats stats;
    wq_queue_stats(r->queue, &stats);
    return stats;
}

/* Waits for the end; the caller clears what it gets. */
static wq_snapshot see_end(wq_job *job)
{
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    return see(job);
}

static wq_snapshot run_shell(rig *r, const char *command)
{
    wq_job *job = ask_shell(r, command);
    wq_snapshot s = see_end(job);
    wq_job_unref(job); /* a snapshot stands on its own */
    return s;
}

static int ask_again(rig *r, const wq_params *params)
{
    wq_job *job = NULL;
    int result = wq_ensure_run(r->queue, params, 0, &job, NULL);
    if (result == WQ_DONE)
        assert_null(job);
    wq_job_unref(job);
    return result;
}

/* The contents of a small file, "" if there is none. */
static const char *text_of(rig *r, const char *path)
{
    char got[8192];
    get_file(path, got, sizeof got);
    return text(r, "%s", got);
}

/* ---- results and options --------------------------------------------------------------------- */

static void test_every_result_has_a_sentence(void **state)
{
    (void)state;
    for (int a = WQ_ERROR_TIMEOUT; a <= WQ_DONE; a++) {
        assert_true(strlen(wq_strerror(a)) > 5);
        for (int b = WQ_ERROR_TIMEOUT; b < a; b++)
            assert_string_not_equal(wq_strerror(a), wq_strerror(b));
    }
    assert_non_null(wq_strerror(INT_MIN));
    assert_non_null(wq_strerror(INT_MAX));
    assert_true(isdigit(wq_version()[0]));
}

static void test_options_begin_with_the_defaults(void **state)
{
    (void)state;
    wq_options o;
    memset(&o, 0xa5, sizeof o);
    wq_options_init(&o, sizeof o);
    assert_int_equal(o.size, sizeof o);
    assert_null(o.program);
    assert_null(o.storage_dir);
    assert_int_equal(o.workers, 2);
    assert_int_equal(o.max_queue, 10000);
    assert_int_equal(o.sync, 1);
    assert_int_equal(o.grace_ms, 5000);
    assert_int_equal(o.drain_ms, 500);
    assert_int_equal(o.max_line_bytes, 8192);
    assert_int_equal(o.stderr_tail_bytes, 65536);
    assert_int_equal(o.max_ended, 4096);
    assert_int_equal(o.retain_ended_ms, 3600000);
    assert_true(o.log == NULL && o.runner == NULL && o.store == NULL);
}

static void expect_no_open(rig *r, int code, const char *a, const char *b)
{
    wq_error error = {0};
    wq_queue *untouched = (wq_queue *)r, *queue = untouched;
    assert_int_equal(wq_open(&queue, &r->options, &error), code);
    assert_int_equal(error.code, code);
    assert_ptr_equal(queue, untouched);
    assert_true(strlen(error.message) > 10);
    assert_null(strchr(error.message, '\n'));
    if (strstr(error.message, a) == NULL || strstr(error.message, b) == NULL)
        fail_msg("expected %s and %s, got '%s'", a, b, error.message);
    assert_int_equal(wq_open(&queue, &r->options, NULL), code);
    EVENTUALLY(entries_of("/proc/self/task") <= r->threads);
    assert_int_equal(entries_of("/proc/self/fd"), r->fds);
}

static void test_wrong_options_are_named(void **state)
{
    rig *r = *state;
    const wq_options right = r->options;
#define WRONG(field, value, a, b)                                                                  \
    r->options = right;                                                                            \
    r->options.field = value;                                                                      \
    expect_no_open(r, WQ_ERROR_INVALID_ARGUMENT, a, b)
    WRONG(size, 0, "size", "wq_options_init");
    WRONG(size, 8, "size", "wq_options_init");
    WRONG(size, sizeof(wq_options) + 8, "size", "wq_options_init");
    WRONG(program, NULL, "program", "missing");
    WRONG(program, "", "program", "missing");
    WRONG(storage_dir, NULL, "storage_dir", "missing");
    WRONG(storage_dir, "", "storage_dir", "missing");
    WRONG(workers, 0, "workers", "1024");
    WRONG(workers, 1025, "workers", "1024");
    WRONG(max_line_bytes, 0, "max_line_bytes", "");
    WRONG(stderr_tail_bytes, SIZE_MAX, "stderr_tail_bytes", "");
    WRONG(program, "/no/such/program", "/no/such/program", "No such file or directory");
    WRONG(program, r->dir, r->dir, "not a regular file");
    WRONG(program, WQ_TEST_PROGRAMS "/not-executable", "/not-executable", "Permission denied");
#undef WRONG
    /* a size that is unknown gives nothing that could be used by mistake */
    wq_options_init(&r->options, 80);
    assert_int_equal(r->options.workers, 0);
    r->options = right;
    assert_int_equal(entries_of(r->dir), 2); /* and the folder was not touched */
}

/* A program that was built against the header of the first release. */
static void test_c19_options_of_an_older_header(void **state)
{
    rig *r = *state;
    wq_options whole;
    const size_t old = offsetof(wq_options, guard_path);
    wq_options_init(&whole, sizeof whole);
    memset(&r->options.guard_path, 0x5a, sizeof whole - old); /* what is not its own */
    r->options.size = old;
    open_queue(r);
    wq_options_init(&whole, old);
    assert_int_equal(whole.size, old);
    assert_int_equal(whole.workers, 2);
}

static void test_unusable_folders(void **state)
{
    rig *r = *state;
    r->options.storage_dir = "/no/such/folder";
    expect_no_open(r, WQ_ERROR_SYSTEM, "/no/such/folder", "No such file or directory");
    r->options.storage_dir = text(r, "%s/file", r->notes);
    put_file(r->options.storage_dir, "");
    expect_no_open(r, WQ_ERROR_SYSTEM, "/file", "Not a directory");
    r->options.storage_dir = "/proc";
    expect_no_open(r, WQ_ERROR_SYSTEM, "/proc", "");
}

/* Runs this very program as another process; what it prints comes from its "--..." mode below. */
static pid_t start_self(const char *mode, const char *dir, int *out)
{
    char self[PATH_MAX] = "";
    int fds[2];
    pid_t pid;
    posix_spawn_file_actions_t files;
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, fds[1], 1);
    char *argv[] = {self, (char *)mode, (char *)dir, NULL};
    assert_int_equal(posix_spawn(&pid, self, &files, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&files);
    close(fds[1]);
    *out = fds[0];
    return pid;
}

/* Reads until `until`, or the end. */
static void read_text(int fd, char *to, size_t size, const char *until)
{
    size_t n = 0;
    for (ssize_t got = 1; got > 0 && n + 1 < size; n += got > 0 ? (size_t)got : 0) {
        to[n] = '\0';
        if (until != NULL && strstr(to, until) != NULL)
            return;
        got = read(fd, to + n, size - 1 - n);
    }
    to[n] = '\0';
}

/* The mode "--open": says what wq_open() comes to. */
static int open_and_say(const char *dir)
{
    wq_options options;
    wq_error error = {0};
    wq_queue *queue;
    wq_options_init(&options, sizeof options);
    options.program = SHELL;
    options.storage_dir = dir;
    int result = wq_open(&queue, &options, &error);
    printf("%d %s", result, error.message);
    if (result == WQ_OK)
        wq_close(queue);
    return 0;
}

static const char *open_elsewhere(rig *r)
{
    char got[1024];
    int out, status;
    pid_t pid = start_self("--open", r->dir, &out);
    read_text(out, got, sizeof got, NULL);
    close(out);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return text(r, "%s", got);
}

static void test_a_folder_has_one_queue(void **state)
{
    rig *r = *state;
    open_queue(r);
    wq_error error = {0};
    wq_queue *second = NULL;
    assert_int_equal(wq_open(&second, &r->options, &error), WQ_ERROR_LOCKED);
    assert_int_equal(error.code, WQ_ERROR_LOCKED);
    assert_null(second);
    assert_non_null(strstr(error.message, r->dir));
    const char *got = open_elsewhere(r);
    assert_int_equal(atoi(got), WQ_ERROR_LOCKED);
    assert_non_null(strstr(got, text(r, "%ld", (long)getpid())));
    assert_non_null(strstr(got, r->dir));

    wq_snapshot s = run_shell(r, "echo x >\"$4\""); /* the owner did not notice */
    assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
    wq_snapshot_clear(&s);
    close_queue(r);
    assert_int_equal(atoi(open_elsewhere(r)), WQ_OK);
    open_queue(r);
    wq_params params = shell("echo x >\"$4\"");
    assert_int_equal(ask_again(r, &params), WQ_DONE);
}

static void test_relative_paths_are_resolved_once(void **state)
{
    rig *r = *state;
    char here[PATH_MAX];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(WQ_TEST_PROGRAMS), 0);
    r->options.program = "./shell";
    open_queue(r);
    assert_int_equal(chdir(here), 0);
    wq_snapshot s = run_shell(r, "echo x >\"$4\"");
    assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
    wq_snapshot_clear(&s);
}

/* Some programs are many in one, and the name says which: busybox, proxies of version managers. */
static void test_a_program_is_started_by_its_name(void **state)
{
    rig *r = *state;
    char link[PATH_MAX];
    snprintf(link, sizeof link, "%s/another-name", r->notes);
    assert_int_equal(symlink(WQ_TEST_PROGRAMS "/shell", link), 0);
    r->options.program = link;
    open_queue(r);
    wq_snapshot s = run_shell(r, "printf '0.5\\t%s\\n' \"${0##*/}\"; echo x >\"$4\"");
    assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
    assert_string_equal(s.message, "another-name");
    wq_snapshot_clear(&s);
    assert_int_equal(unlink(link), 0);
}

/* ---- parameters ------------------------------------------------------------------------------ */

static void expect_key(const char *server, const char *set, const char *token, const char *key)
{
    wq_params params = {server, set, token};
    char got[WQ_KEY_SIZE];
    assert_int_equal(wq_params_key(&params, got), WQ_OK);
    assert_string_equal(got, key);
}

/* Computed elsewhere: Python's hashlib, sha256 over each string after its length in 8 bytes, most
 * significant first. */
static void test_keys(void **state)
{
    (void)state;
    char x[2049], y[257], z[257];
    expect_key("http://localhost:9000", "17", "abc123",
               "eaa233a0bc2af5cd53c70d952bde2b2db38f1b20220e08251bb8e5b2fa6976ae");
    expect_key("http://localhost:90001", "7", "abc123",
               "41a0b7e2c4a4f91bc509d4e4b8e87f2323c7ebcfb2d8eb8702811b86db7a24a2");
    expect_key("h", "1", "t", "671b0df964b3c4d3a19936f665f036f4f68b00a7a8e42770d3a313eb84b48384");
    expect_key("https://www.overviewdocs.com", "9223372036854775807", "0123456789abcdefghijklmno",
               "7e7132ce7e2371713189d66757402c7860fbf2cce643e277b22e552485c48b00");
    expect_key("http://\xc3\xa9.example/\xe2\x82\xac\xf0\x9f\x98\x80", "dix-sept", "jeton",
               "7306cfdb646d8c102ad41c07f891aa365414a2b8c1287b743454f1196391c883");
    memset(x, 'x', sizeof x);
    memset(y, 'y', sizeof y);
    memset(z, 'z', sizeof z);
    x[2048] = y[256] = z[256] = '\0';
    expect_key(x, y, z, "5c4a1b48a19b09ef186a7236686fa63f20dd2bfdf8515b6fe8811e12647ce28e");
}

static void expect_refused(const char *server, const char *set, const char *token, const char *name)
{
    wq_params params = {server, set, token};
    wq_error error = {0};
    assert_int_equal(wq_params_check(&params, &error), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(error.code, WQ_ERROR_INVALID_ARGUMENT);
    if (strncmp(error.message, name, strlen(name)) != 0)
        fail_msg("expected '%s...', got '%s'", name, error.message);
    assert_null(strstr(error.message, "s3cret"));
    assert_int_equal(wq_params_check(&params, NULL), WQ_ERROR_INVALID_ARGUMENT);
}

static void test_parameters_are_checked(void **state)
{
    (void)state;
    char x[2050], y[258], z[4098];
    wq_params good = {"h\xc3\xa9 \"'\\/..", "../1", " "};
    assert_int_equal(wq_params_check(&good, NULL), WQ_OK);
    expect_refused(NULL, "1", "t", "server is missing");
    expect_refused("", "1", "t", "server is missing");
    expect_refused("h", NULL, "t", "document_set_id is missing");
    expect_refused("h", "", "t", "document_set_id is missing");
    expect_refused("h", "1", NULL, "api_token is missing");
    expect_refused("h", "1", "", "api_token is missing");
    expect_refused("h\n", "1", "t", "server");
    expect_refused("h", "1\t", "t", "document_set_id");
    expect_refused("h", "1", "s3cret\x7f", "api_token");
    expect_refused("h\xff", "1", "t", "server");
    expect_refused("h", "\xc0\xaf", "t", "document_set_id");
    expect_refused("h", "1", "s3cret\xed\xa0\x80", "api_token");
    memset(x, 'x', sizeof x);
    memset(y, 'y', sizeof y);
    memset(z, 'z', sizeof z);
    x[2049] = y[257] = z[4097] = '\0';
    expect_refused(x, "1", "t", "server");
    expect_refused("h", y, "t", "document_set_id");
    expect_refused("h", "1", z, "api_token");
}

static void test_nobody_gets_a_job_for_nonsense(void **state)
{
    rig *r = *state;
    open_queue(r);
    wq_error error = {0};
    wq_job *job = NULL;
    wq_params bad = {"h", "", TOKEN}, good = {"h", "1", TOKEN};
    char path[256];
    int fd;
    assert_int_equal(wq_ensure_run(r->queue, &bad, 0, &job, &error), WQ_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "document_set_id"));
    assert_int_equal(wq_ensure_run(r->queue, &good, 1U << 31, &job, &error),
                     WQ_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "flags"));
    assert_null(job);
    assert_int_equal(wq_output_find(r->queue, &bad, NULL), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(wq_output_open(r->queue, &bad, &fd, NULL), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(wq_output_path(r->queue, &bad, path, sizeof path, NULL),
                     WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(stats_of(r).queued + stats_of(r).running + stats_of(r).ended, 0);
}

/* ---- a job's life ---------------------------------------------------------------------------- */

static void expect_output(rig *r, const wq_params *params, const char *contents)
{
    char path[256], got[64] = "", key[WQ_KEY_SIZE];
    struct stat st;
    int fd = -1;
    assert_int_equal(wq_params_key(params, key), WQ_OK);
    assert_int_equal(wq_output_find(r->queue, params, NULL), WQ_OK);
    assert_int_equal(wq_output_open(r->queue, params, &fd, NULL), WQ_OK);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(read(fd, got, sizeof got - 1), strlen(contents));
    assert_string_equal(got, contents);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    close(fd);
    assert_int_equal(wq_output_path(r->queue, params, path, sizeof path, NULL), WQ_OK);
    assert_string_equal(path, text(r, "%s/%s", r->dir, key));
    assert_int_equal(access(path, R_OK), 0);
}

static void expect_no_output(rig *r, const wq_params *params)
{
    wq_error error = {0};
    char path[256];
    int fd = -7;
    assert_int_equal(wq_output_find(r->queue, params, &error), WQ_ERROR_NOT_FOUND);
    assert_int_equal(error.code, WQ_ERROR_NOT_FOUND);
    assert_true(strlen(error.message) > 10);
    assert_int_equal(wq_output_open(r->queue, params, &fd, NULL), WQ_ERROR_NOT_FOUND);
    assert_int_equal(fd, -7);
    assert_int_equal(wq_output_path(r->queue, params, path, sizeof path, NULL), WQ_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(wq_output_path(r->queue, params, path, 10, NULL), WQ_ERROR_INVALID_ARGUMENT);
}

static void live_a_life(rig *r)
{
    struct timespec before;
    clock_gettime(CLOCK_REALTIME, &before);
    open_queue(r);
    wq_params params =
        shell(text(r,
                   "printf '3/12\\tindexing\\n'; while [ ! -e %s/go ]; do sleep 0.01; done; "
                   "echo hello >\"$4\"; echo 'not an error' >&2; printf '0.75\\tlast'",
                   r->notes));
    expect_no_output(r, &params);
    wq_job *job = ask(r, &params);
    assert_string_equal(wq_job_params(job)->server, params.server);
    assert_string_equal(wq_job_params(job)->document_set_id, "17");
    assert_string_equal(wq_job_params(job)->api_token, TOKEN);
    char key[WQ_KEY_SIZE];
    wq_params_key(&params, key);
    assert_string_equal(wq_job_key(job), key);

    EVENTUALLY(fraction_of(job) > 0);
    wq_snapshot s = see(job);
    assert_int_equal(s.state, WQ_STATE_RUNNING);
    assert_true(s.fraction == 0.25 && s.has_items && s.items_done == 3 && s.items_total == 12);
    assert_string_equal(s.message, "indexing");
    assert_true(!s.has_returncode && s.error == NULL && s.ended_at_ms == 0);
    assert_true(s.queued_at_ms >= before.tv_sec * 1000 && s.started_at_ms >= s.queued_at_ms);
    uint64_t version = s.version;
    expect_no_output(r, &params);

    put_file(text(r, "%s/go", r->notes), "");
    wq_snapshot e = see_end(job);
    assert_int_equal(e.state, WQ_STATE_SUCCEEDED);
    assert_true(e.fraction == 1 && e.has_returncode && e.returncode == 0 && e.error == NULL);
    assert_string_equal(e.message, "last");
    assert_true(e.reached == 0.75 && s.reached == 0.25);
    assert_true(!e.has_items && e.version > version && e.ended_at_ms >= e.started_at_ms);
    assert_true(e.n_ahead_in_queue == 0 && e.ran_ms < DEADLINE_MS);
    assert_string_equal(s.message, "indexing"); /* an older snapshot stays what it was */
    char json[256];
    wq_snapshot_json(&e, json, sizeof json);
    assert_string_equal(json, "{\"n_ahead_in_queue\": 0, \"fraction\": 1.0, \"message\": \"last\", "
                              "\"returncode\": 0, \"error\": null}");
    expect_output(r, &params, "hello\n");
    assert_int_equal(ask_again(r, &params), WQ_DONE);
    wq_job_unref(job);
    wq_snapshot_clear(&s);
    assert_true(s.message == NULL && s.held[0] == NULL && s.version == 0);
    wq_snapshot_clear(&s);
    wq_snapshot_clear(&e);
    assert_string_equal(r->log.text, "");
}

static void test_a_life_with_sync(void **state)
{
    rig *r = *state;
    r->options.sync = 1;
    live_a_life(r);
}

static void test_a_life_without_sync(void **state)
{
    live_a_life(*state);
}

static void test_times(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 1;
    open_queue(r);
    wq_job *first = ask_nr(r, 1), *second = ask_nr(r, 2);
    EVENTUALLY(r->gate.begun == 1);
    int64_t since = now_ms();
    EVENTUALLY(now_ms() - since >= 30);
    wq_snapshot s = see(second);
    assert_int_equal(s.state, WQ_STATE_QUEUED);
    assert_true(s.waited_ms >= 30 && s.ran_ms == 0 && s.started_at_ms == 0);
    assert_true(s.fraction == 0 && s.message == NULL && !s.has_returncode);
    wq_snapshot_clear(&s);
    s = see(first);
    assert_true(s.waited_ms < 10000 && s.ran_ms >= 30);
    wq_snapshot_clear(&s);
    permit(&r->gate, 2);
    s = see_end(second);
    assert_true(s.waited_ms >= 30);
    wq_snapshot_clear(&s);
    s = see_end(first);
    uint64_t ran = s.ran_ms;
    since = now_ms();
    EVENTUALLY(now_ms() - since >= 5);
    wq_snapshot_clear(&s);
    s = see(first);
    assert_int_equal(s.ran_ms, ran); /* it stands still after the end */
    wq_snapshot_clear(&s);
    wq_job_unref(first);
    wq_job_unref(second);
}

static void expect_failure(rig *r, const char *command, int returncode, const char *error)
{
    wq_params params = shell(command);
    wq_snapshot s = run_shell(r, command);
    assert_int_equal(s.state, WQ_STATE_FAILED);
    assert_true(s.has_returncode && s.fraction == 1);
    assert_int_equal(s.returncode, returncode);
    assert_non_null(s.error);
    if (strncmp(s.error, error, strlen(error)) != 0)
        fail_msg("%s: expected '%s...', got '%s'", command, error, s.error);
    wq_snapshot_clear(&s);
    expect_no_output(r, &params);
}

static void expect_ends(rig *r)
{
    open_queue(r);
    const char *empty = "invalid program: it should have written to its output file";
    expect_failure(r, ":", -999, empty);
    assert_int_equal(logged(&r->log, empty), 1);
    expect_failure(r, "rm \"$4\"", -999, "Failed to stat output file: No such file");
    expect_failure(r, "rm \"$4\"; ln -s /etc/passwd \"$4\"", -999, "invalid program: ");
    expect_failure(r, "rm \"$4\"; mkfifo \"$4\"", -999, "invalid program: ");
    expect_failure(r, "echo x >\"$4\"; echo oh >&2; echo no >&2; exit 7", 7,
                   "Exited with code 7\nstderr:\noh\nno\n");
    expect_failure(r, "echo x >\"$4\"; kill -KILL $$", -9, "Exited with code -9\nstderr:\n");
    assert_int_equal(entries_of(r->dir), 3); /* ".", ".." and the lock: nothing is left */
    wq_stats stats = stats_of(r);
    assert_int_equal(stats.failed, 6);
    assert_int_equal(stats.succeeded, 0);
    /* a folder cannot be swept along like a file, but it is no output either */
    expect_failure(r, "rm \"$4\"; mkdir \"$4\"", -999, "invalid program: ");
}

static void test_output_whole_or_not_at_all_with_sync(void **state)
{
    rig *r = *state;
    r->options.sync = 1;
    expect_ends(r);
}

static void test_output_whole_or_not_at_all(void **state)
{
    expect_ends(*state);
}

static void test_an_output_in_place_stays(void **state)
{
    rig *r = *state;
    open_queue(r);
    wq_params params = shell(text(r,
                                  "echo 0.5; while [ ! -e %s/go ]; do sleep 0.01; done; "
                                  "echo second >\"$4\"",
                                  r->notes));
    char path[256];
    wq_job *job = ask(r, &params);
    EVENTUALLY(fraction_of(job) > 0);
    assert_int_equal(wq_output_path(r->queue, &params, path, sizeof path, NULL), WQ_OK);
    put_file(path, "first");
    put_file(text(r, "%s/go", r->notes), "");
    wq_snapshot s = see_end(job);
    assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
    wq_snapshot_clear(&s);
    wq_job_unref(job);
    assert_string_equal(text_of(r, path), "first");
    assert_int_equal(entries_of(r->dir), 4);
}

/* A line that is no progress is a warning, once a job, and changes nothing. */
static void test_lines_that_are_no_progress(void **state)
{
    rig *r = *state;
    open_queue(r);
    wq_snapshot s = run_shell(r, "printf '0.5\\tgood\\n'; echo bad; echo worse; echo 1.5; echo x >"
                                 "\"$4\"");
    assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
    assert_string_equal(s.message, "good");
    wq_snapshot_clear(&s);
    assert_int_equal(logged(&r->log, "invalid program: stdout must look like '0.25<TAB>message'; got "
                                     "'bad'"),
                     1);
    assert_int_equal(logged(&r->log, "invalid program"), 1);
    assert_int_equal(logged(&r->log, ": 3 lines of stdout were no progress and ignored"), 1);
    s = run_shell(r, "echo again; echo x >\"$4\"");
    wq_snapshot_clear(&s);
    assert_int_equal(logged(&r->log, "got 'again'"), 1);
}

static void test_messages_are_utf8(void **state)
{
    rig *r = *state;
    open_queue(r);
    wq_snapshot s = run_shell(r, "printf '0.5\\tcaf\\303\\251 \\377 \\000!\\n'; printf 'a\\377b' "
                                 ">&2; exit 1");
    assert_string_equal(s.message, "caf\xc3\xa9 \xef\xbf\xbd \xef\xbf\xbd!");
    assert_string_equal(s.error, "Exited with code 1\nstderr:\na\xef\xbf\xbd"
                                 "b");
    wq_snapshot_clear(&s);
}

/* What a program prints must not break lines or terminals, nor fill a disk. The rig checks each
 * line that is logged. */
static void test_the_log_is_escaped_and_bounded(void **state)
{
    rig *r = *state;
    open_queue(r);
    wq_snapshot s = run_shell(r, "printf '\\033[31m\\377\\001\\n'; exit 3");
    assert_int_equal(logged(&r->log, "got '\\x1b[31m\\xff\\x01'"), 1);
    wq_snapshot_clear(&s);
    s = run_shell(r, "head -c 100000 /dev/zero | tr '\\000' '\\377'; exit 4");
    wq_snapshot_clear(&s);
    assert_int_equal(logged(&r->log, ": The program ended with exit code 4"), 1);
    s = run_shell(r, "printf 'on\\ne line' >&2; exit 5");
    wq_snapshot_clear(&s);
}

static void test_the_token_stays_secret(void **state)
{
    rig *r = *state;
    open_queue(r);
    wq_snapshot s =
        run_shell(r, "echo \"token $3, again $3$3\"; echo \"$0 $* failed for $3\" >&2; exit 1");
    assert_int_equal(logged(&r->log, "got 'token ***"), 1);
    assert_non_null(strstr(s.error, "failed for ***"));
    assert_null(strstr(s.error, TOKEN));
    char json[8192];
    wq_snapshot_json(&s, json, sizeof json);
    assert_null(strstr(json, TOKEN));
    wq_snapshot_clear(&s);
    /* a path is all that a program is told beside its parameters */
    s = run_shell(r, "printf '0.5\\t%s\\n' \"$4\"; exit 1");
    assert_non_null(strstr(s.message, r->dir));
    assert_null(strstr(s.message, TOKEN));
    wq_snapshot_clear(&s);
}

/* ---- one job per key ------------------------------------------------------------------------- */

typedef struct crowd {
    rig *r;
    wq_params params;
    pthread_barrier_t together;
    atomic_int asked, begun, joined, done, others, ended;
    char id[WQ_ID_SIZE]; /* the job that all should get */
    int keep_id;
} crowd;

static void *ask_in_crowd(void *arg)
{
    crowd *c = arg;
    wq_job *job = NULL;
    pthread_barrier_wait(&c->together);
    int result = wq_ensure_run(c->r->queue, &c->params, 0, &job, NULL);
    atomic_fetch_add(result == WQ_OK         ? &c->begun
                     : result == WQ_ATTACHED ? &c->joined
                     : result == WQ_DONE     ? &c->done
                                             : &c->others,
                     1);
    if (job != NULL && c->keep_id && strcmp(c->id, wq_job_id(job)) != 0)
        atomic_fetch_add(&c->others, 1);
    atomic_fetch_add(&c->asked, 1);
    if (job != NULL && wq_job_wait(job, DEADLINE_MS) == WQ_OK)
        atomic_fetch_add(&c->ended, 1);
    wq_job_unref(job);
    return NULL;
}

static void start_threads(pthread_t *threads, int n, void *(*main)(void *), void *arg)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 512 * 1024);
    for (int i = 0; i < n; i++)
        assert_int_equal(pthread_create(&threads[i], &attr, main, arg), 0);
    pthread_attr_destroy(&attr);
}

static void join_threads(pthread_t *threads, int n)
{
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

enum { CROWD = 1000 };

/* While the program runs, all get the one job. */
static void test_a_thousand_ask_and_one_runs(void **state)
{
    rig *r = *state;
    static pthread_t threads[CROWD];
    open_queue(r);
    crowd c = {.r = r, .keep_id = 1};
    c.params = shell(text(r,
                          "echo run >>%s/runs; while [ ! -e %s/go ]; do sleep 0.01; done; "
                          "echo x >\"$4\"",
                          r->notes, r->notes));
    wq_job *job = ask(r, &c.params);
    strcpy(c.id, wq_job_id(job));
    pthread_barrier_init(&c.together, NULL, CROWD);
    start_threads(threads, CROWD, ask_in_crowd, &c);
    EVENTUALLY(c.asked == CROWD);
    assert_int_equal(c.joined, CROWD);
    put_file(text(r, "%s/go", r->notes), "");
    join_threads(threads, CROWD);
    pthread_barrier_destroy(&c.together);
    assert_int_equal(c.ended, CROWD);
    assert_int_equal(c.others, 0);
    assert_int_equal(wq_job_wait(job, -1), WQ_OK);
    wq_job_unref(job);
    assert_string_equal(text_of(r, text(r, "%s/runs", r->notes)), "run\n");
    assert_int_equal(ask_again(r, &c.params), WQ_DONE);
    assert_int_equal(stats_of(r).succeeded, 1);
}

/* The program ends while they ask: some get the job, some hear that it is done, still one runs. */
static void test_a_thousand_ask_while_it_ends(void **state)
{
    rig *r = *state;
    static pthread_t threads[CROWD];
    open_queue(r);
    crowd c = {.r = r, .params = shell(text(r, "echo run >>%s/runs; echo x >\"$4\"", r->notes))};
    pthread_barrier_init(&c.together, NULL, CROWD);
    start_threads(threads, CROWD, ask_in_crowd, &c);
    join_threads(threads, CROWD);
    pthread_barrier_destroy(&c.together);
    assert_int_equal(c.begun, 1);
    assert_int_equal(c.begun + c.joined + c.done, CROWD);
    assert_int_equal(c.ended, c.begun + c.joined);
    assert_string_equal(text_of(r, text(r, "%s/runs", r->notes)), "run\n");
    assert_int_equal(ask_again(r, &c.params), WQ_DONE);
}

/* Keys that many threads ask for while the runs of them end at once: the moment between the end of
 * a job and the look at the store is met again and again. */
enum { KEYS = 300, ASKERS = 8 };

typedef struct sprint {
    wq_runner runner;
    rig *r;
    atomic_int runs[KEYS], wrong;
} sprint;

static void sprint_run(void *self, const wq_run *run, wq_outcome *outcome)
{
    sprint *s = self;
    atomic_fetch_add(&s->runs[atoi(run->params->document_set_id)], 1);
    *outcome = (wq_outcome){.returncode = 0};
    int fd = open(run->output_path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "x", 1) != 1)
        atomic_fetch_add(&s->wrong, 1);
    close(fd);
}

static void sprint_close(wq_runner *runner)
{
    (void)runner;
}

static void *ask_in_sprint(void *arg)
{
    sprint *s = arg;
    for (int i = 0; i < KEYS; i++) {
        char number[16];
        wq_params params = numbered(number, i);
        wq_job *job = NULL;
        int result = wq_ensure_run(s->r->queue, &params, 0, &job, NULL);
        if (job != NULL)
            result = wq_job_wait(job, DEADLINE_MS);
        if (result < 0 || wq_output_find(s->r->queue, &params, NULL) != WQ_OK)
            atomic_fetch_add(&s->wrong, 1);
        wq_job_unref(job);
    }
    return NULL;
}

static void test_no_key_runs_twice(void **state)
{
    rig *r = *state;
    pthread_t threads[ASKERS];
    sprint s = {.runner = {.self = &s, .run = sprint_run, .close = sprint_close}, .r = r};
    r->options.runner = &s.runner;
    open_queue(r);
    start_threads(threads, ASKERS, ask_in_sprint, &s);
    join_threads(threads, ASKERS);
    r->options.runner = NULL; /* it is not the gate that will be closed */
    close_queue(r);
    assert_int_equal(s.wrong, 0);
    for (int i = 0; i < KEYS; i++)
        assert_int_equal(s.runs[i], 1);
}

static void test_what_failed_runs_afresh(void **state)
{
    rig *r = *state;
    use_gate(r);
    open_queue(r);
    char number[16], ids[4][WQ_ID_SIZE];
    wq_params params = numbered(number, 1);
    for (int i = 0; i < 4; i++) {
        wq_job *job = ask(r, &params);
        strcpy(ids[i], wq_job_id(job));
        for (int j = 0; j < i; j++)
            assert_string_not_equal(ids[i], ids[j]);
        EVENTUALLY(r->gate.begun == i + 1);
        r->gate.returncode = i == 0 ? 3 : 0;
        r->gate.output = i == 2 ? NULL : "x";
        if (i == 1)
            assert_int_equal(wq_job_cancel(job), WQ_OK);
        else
            let_end(&r->gate);
        wq_snapshot s = see_end(job);
        assert_int_equal(s.state, i == 1   ? WQ_STATE_CANCELLED
                                  : i == 3 ? WQ_STATE_SUCCEEDED
                                           : WQ_STATE_FAILED);
        assert_int_equal(s.returncode, i == 0 ? 3 : i == 3 ? 0 : -999);
        if (i == 0)
            assert_string_equal(s.error, "the gate says no");
        wq_snapshot_clear(&s);
        wq_job_unref(job);
    }
    assert_int_equal(ask_again(r, &params), WQ_DONE);
    wq_stats stats = stats_of(r);
    assert_true(stats.succeeded == 1 && stats.failed == 2 && stats.cancelled == 1);
    assert_int_equal(stats.ended, 4);
}

/* ---- order and position ---------------------------------------------------------------------- */

static void test_first_in_first_out(void **state)
{
    enum { N = 50 };
    rig *r = *state;
    char expected[N * 4] = "";
    wq_job *jobs[N];
    use_gate(r);
    r->options.workers = 1;
    open_queue(r);
    for (int i = 0; i < N; i++) {
        jobs[i] = ask_nr(r, i);
        sprintf(expected + strlen(expected), "%d ", i);
    }
    wq_job_unref(ask_nr(r, 7)); /* asking again changes no place */
    permit(&r->gate, N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(wq_job_wait(jobs[i], DEADLINE_MS), WQ_OK);
        wq_job_unref(jobs[i]);
    }
    assert_string_equal(r->gate.order, expected);
}

static void test_workers_run_side_by_side(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 5;
    open_queue(r);
    for (int i = 0; i < 9; i++)
        wq_job_unref(ask_nr(r, i)); /* nobody needs to hold a job for it to run */
    EVENTUALLY(stats_of(r).running == 5 && r->gate.begun == 5);
    wq_stats stats = stats_of(r);
    assert_int_equal(stats.queued, 4);
    assert_int_equal(stats.workers, 5);
    permit(&r->gate, 9);
    EVENTUALLY(stats_of(r).succeeded == 9);
    stats = stats_of(r);
    assert_true(stats.queued == 0 && stats.running == 0 && stats.publishing == 0);
}

/* The queue and a plain list that should be like it. */
typedef struct model {
    rig *r;
    wq_job *queued[200];
    size_t n_queued, n_running, next;
    unsigned random;
} model;

static void check_model(model *m)
{
    EVENTUALLY(stats_of(m->r).running == m->n_running && stats_of(m->r).queued == m->n_queued &&
               stats_of(m->r).publishing == 0);
    for (size_t i = 0; i < m->n_queued; i++) {
        wq_snapshot s = see(m->queued[i]);
        assert_int_equal(s.state, WQ_STATE_QUEUED);
        assert_int_equal(s.n_ahead_in_queue, m->n_running + i);
        wq_snapshot_clear(&s);
    }
}

static wq_job *remove_from_model(model *m, size_t at)
{
    wq_job *job = m->queued[at];
    m->n_queued--;
    memmove(m->queued + at, m->queued + at + 1, (m->n_queued - at) * sizeof *m->queued);
    return job;
}

static void start_in_model(model *m)
{
    if (m->n_running == 3 || m->n_queued == 0)
        return;
    wq_job *job = remove_from_model(m, 0);
    m->n_running++;
    EVENTUALLY(state_of(job) == WQ_STATE_RUNNING);
    assert_int_equal(ahead_of(job), 0);
    wq_job_unref(job);
}

static void change_model(model *m)
{
    m->random = m->random * 1103515245 + 12345;
    unsigned what = m->random >> 16 & 7, which = m->random >> 20;
    if (what < 4 && m->n_queued < 100) {
        m->queued[m->n_queued++] = ask_nr(m->r, (int)m->next++);
    } else if (what < 6 && m->n_queued > 0) {
        wq_job *job = remove_from_model(m, which % m->n_queued);
        assert_int_equal(wq_job_cancel(job), WQ_OK);
        assert_int_equal(ahead_of(job), 0);
        wq_job_unref(job);
    } else if (m->n_running > 0) {
        let_end(&m->r->gate);
        m->n_running--;
    }
    start_in_model(m);
}

static void test_positions_are_exact(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 3;
    open_queue(r);
    model m = {.r = r, .random = 4711};
    int steps = in_valgrind() ? 100 : 600;
    for (int step = 0; step < steps; step++) {
        change_model(&m);
        check_model(&m);
    }
    while (m.n_queued > 0)
        wq_job_unref(remove_from_model(&m, 0));
}

/* ---- a million ------------------------------------------------------------------------------- */

typedef struct million {
    rig *r;
    int n;
    wq_job **jobs;
    int *order, *tree; /* cancels in this order; Fenwick's tree over those that wait */
    unsigned long long random;
} million;

static int draw(million *m, int below)
{
    m->random = m->random * 6364136223846793005ULL + 1442695040888963407ULL;
    return (int)((m->random >> 33) % (unsigned)below);
}

static void count_waiting(million *m, int i, int change)
{
    for (i++; i <= m->n; i += i & -i)
        m->tree[i] += change;
}

static int waiting_before(const million *m, int i)
{
    int sum = 0;
    for (; i > 0; i -= i & -i)
        sum += m->tree[i];
    return sum;
}

static int is_waiting(const million *m, int i)
{
    return waiting_before(m, i + 1) - waiting_before(m, i);
}

/* One runs for ever; what wait are those of the tree. */
static void check_one(million *m, int i)
{
    wq_snapshot s = see(m->jobs[i]);
    if (i == 0)
        assert_int_equal(s.state, WQ_STATE_RUNNING);
    else if (is_waiting(m, i))
        assert_int_equal(s.n_ahead_in_queue, 1 + waiting_before(m, i));
    else
        assert_int_equal(s.state, WQ_STATE_CANCELLED);
    wq_snapshot_clear(&s);
}

static void queue_them(million *m)
{
    for (int i = 0; i < m->n; i++) {
        m->jobs[i] = ask_nr(m->r, i);
        m->order[i] = i;
        if (i == 0)
            EVENTUALLY(m->r->gate.begun == 1);
        else
            count_waiting(m, i, 1);
    }
    for (int i = m->n - 1; i > 1; i--) { /* but for the first, which runs */
        int j = 1 + draw(m, i), swap = m->order[i];
        m->order[i] = m->order[j];
        m->order[j] = swap;
    }
}

/* The processor time that a position costs. */
static int64_t time_positions(million *m)
{
    int n = m->n / 10;
    int64_t begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < n; i++)
        assert_int_not_equal(ahead_of(m->jobs[1 + draw(m, m->n - 1)]), 0);
    return (clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin) / n;
}

/* Cancels the first `n` of the order, wherever they stand. */
static void cancel_them(million *m, int n)
{
    for (int i = 1; i <= n; i++) {
        int job = m->order[i];
        assert_int_equal(wq_job_cancel(m->jobs[job]), WQ_OK);
        count_waiting(m, job, -1);
        if (i % 10 == 0)
            check_one(m, draw(m, m->n));
    }
}

static void test_a_million_wait(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 1;
    r->options.max_queue = 2000000;
    million m = {.r = r, .n = scaled(1000000), .random = 4711};
    m.jobs = calloc((size_t)m.n, sizeof *m.jobs);
    m.order = calloc((size_t)m.n, sizeof *m.order);
    m.tree = calloc((size_t)m.n + 1, sizeof *m.tree);
    assert_true(m.jobs && m.order && m.tree);
    size_t before = mallinfo2().uordblks;
    int64_t begin = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    open_queue(r);
    queue_them(&m);
    size_t full = mallinfo2().uordblks;
    int64_t mean = time_positions(&m);
    for (int i = 0; i < m.n; i += 11)
        check_one(&m, i);
    cancel_them(&m, m.n / 2);
    assert_int_equal(stats_of(r).queued, m.n - 1 - m.n / 2);
    close_queue(r); /* with all the others in it */
    for (int i = 0; i < m.n; i++) {
        assert_int_equal(state_of(m.jobs[i]), WQ_STATE_CANCELLED);
        wq_job_unref(m.jobs[i]);
    }
    int64_t took = (clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin) / 1000000;
    size_t after = mallinfo2().uordblks;
    print_message("%d jobs: %lld ms of processor time, a position %lld ns, %zu bytes each\n", m.n,
                  (long long)took, (long long)mean, (full - before) / (size_t)m.n);
    free(m.jobs);
    free(m.order);
    free(m.tree);
    if (SANITIZED || in_valgrind())
        return;
    assert_true(after < before + (1 << 20));
    assert_true(took < 60000);
    assert_true(mean < 50000);
}

/* ---- limits of the queue --------------------------------------------------------------------- */

static void test_a_full_queue(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 1;
    r->options.max_queue = 2;
    open_queue(r);
    wq_job_unref(ask_nr(r, 0));
    EVENTUALLY(r->gate.begun == 1);
    wq_job *waits = ask_nr(r, 1);
    wq_job_unref(ask_nr(r, 2));
    wq_error error = {0};
    wq_job *job = NULL;
    char number[16];
    wq_params params = numbered(number, 3);
    assert_int_equal(wq_ensure_run(r->queue, &params, 0, &job, &error), WQ_ERROR_FULL);
    assert_int_equal(error.code, WQ_ERROR_FULL);
    assert_true(strlen(error.message) > 10);
    assert_null(job);
    wq_job_unref(ask_nr(r, 1)); /* who is in can be joined */
    wq_job_unref(ask_nr(r, 0));
    assert_int_equal(stats_of(r).queued, 2);
    assert_int_equal(stats_of(r).max_queue, 2);
    assert_int_equal(wq_job_cancel(waits), WQ_OK); /* and a place can become free */
    wq_job_unref(waits);
    wq_job_unref(ask_nr(r, 3));
}

static void test_a_queue_that_stops(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 1;
    open_queue(r);
    char number[16];
    wq_job *done = ask_nr(r, 1);
    let_end(&r->gate);
    assert_int_equal(wq_job_wait(done, DEADLINE_MS), WQ_OK);
    wq_job *running = ask_nr(r, 2), *queued = ask_nr(r, 3);
    EVENTUALLY(r->gate.begun == 2);
    wq_stop(r->queue);
    assert_int_equal(state_of(queued), WQ_STATE_CANCELLED);
    wq_error error = {0};
    wq_job *job = NULL;
    wq_params params = numbered(number, 4);
    assert_int_equal(wq_ensure_run(r->queue, &params, 0, &job, &error), WQ_ERROR_CLOSING);
    assert_int_equal(error.code, WQ_ERROR_CLOSING);
    assert_true(strlen(error.message) > 10);
    assert_null(job);
    wq_stop(r->queue);
    wq_snapshot s = see_end(running);
    assert_int_equal(s.state, WQ_STATE_CANCELLED);
    assert_int_equal(s.returncode, -999);
    assert_true(s.error != NULL && s.fraction == 1);
    wq_snapshot_clear(&s);
    params = numbered(number, 1);
    assert_int_equal(ask_again(r, &params), WQ_DONE);
    assert_string_equal(r->gate.order, "1 2 ");
    wq_job_unref(done);
    wq_job_unref(running);
    wq_job_unref(queued);
}

/* ---- ids ------------------------------------------------------------------------------------- */

static int is_uuid4(const char *id)
{
    static const char pattern[] = "xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx";
    for (size_t i = 0; i < sizeof pattern; i++) {
        char p = pattern[i], c = id[i];
        int fits = p == 'x'   ? c != '\0' && strchr("0123456789abcdef", c) != NULL
                   : p == 'y' ? c != '\0' && strchr("89ab", c) != NULL
                              : c == p;
        if (!fits)
            return 0;
    }
    return 1;
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void test_ids_are_random_uuids(void **state)
{
    enum { N = 2000 };
    rig *r = *state;
    static char ids[N][WQ_ID_SIZE];
    use_gate(r);
    open_queue(r);
    for (int i = 0; i < N; i++) {
        wq_job *job = ask_nr(r, i), *found = NULL;
        strcpy(ids[i], wq_job_id(job));
        assert_true(is_uuid4(ids[i]));
        assert_int_equal(wq_job_by_id(r->queue, ids[i], &found), WQ_OK);
        assert_ptr_equal(found, job);
        wq_job_unref(found);
        wq_job_unref(job);
    }
    qsort(ids, N, sizeof *ids, compare_ids);
    for (int i = 1; i < N; i++)
        assert_string_not_equal(ids[i - 1], ids[i]);
}

static void test_ids_never_issued(void **state)
{
    rig *r = *state;
    use_gate(r);
    open_queue(r);
    wq_job *job = ask_nr(r, 1), *untouched = job;
    const char *id = wq_job_id(job);
    const char *wrong[] = {"",
                           "x",
                           "00000000-0000-4000-8000-000000000000",
                           wq_job_key(job),
                           text(r, "%.35s", id),
                           text(r, "%s0", id),
                           text(r, "%.35s%c", id, id[35] == '0' ? '1' : '0')};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(wq_job_by_id(r->queue, wrong[i], &untouched), WQ_ERROR_NOT_FOUND);
        assert_ptr_equal(untouched, job);
    }
    wq_job_unref(job);
}

static void test_ended_jobs_are_known_for_a_while(void **state)
{
    rig *r = *state;
    char ids[6][WQ_ID_SIZE];
    wq_job *first = NULL, *job;
    use_gate(r);
    r->options.max_ended = 3;
    r->options.workers = 1;
    open_queue(r);
    for (int i = 0; i < 6; i++) {
        job = ask_nr(r, i);
        strcpy(ids[i], wq_job_id(job));
        let_end(&r->gate);
        assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
        if (i == 0)
            first = job;
        else
            wq_job_unref(job);
    }
    assert_int_equal(stats_of(r).ended, 3);
    for (int i = 0; i < 6; i++) {
        int result = wq_job_by_id(r->queue, ids[i], &job);
        assert_int_equal(result, i < 3 ? WQ_ERROR_NOT_FOUND : WQ_OK);
        if (result != WQ_OK)
            continue;
        assert_int_equal(state_of(job), WQ_STATE_SUCCEEDED);
        wq_job_unref(job);
    }
    /* who holds a job still sees it */
    assert_string_equal(wq_job_id(first), ids[0]);
    assert_int_equal(state_of(first), WQ_STATE_SUCCEEDED);
    wq_job_unref(first);
}

static void test_ended_jobs_are_known_for_a_time(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.retain_ended_ms = 1000;
    open_queue(r);
    wq_job *job = ask_nr(r, 1), *runs = ask_nr(r, 2), *found = NULL;
    let_end(&r->gate);
    EVENTUALLY(state_of(job) == WQ_STATE_SUCCEEDED || state_of(runs) == WQ_STATE_SUCCEEDED);
    if (state_of(job) != WQ_STATE_SUCCEEDED) { /* either may have taken the permit */
        wq_job *swap = job;
        job = runs;
        runs = swap;
    }
    assert_int_equal(wq_job_by_id(r->queue, wq_job_id(job), &found), WQ_OK);
    wq_job_unref(found);
    found = NULL;
    EVENTUALLY(wq_job_by_id(r->queue, wq_job_id(job), &found) == WQ_ERROR_NOT_FOUND ||
               (wq_job_unref(found), 0));
    wq_snapshot s = see(job);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    assert_true(now.tv_sec * 1000 + now.tv_nsec / 1000000 - s.ended_at_ms >= 950);
    wq_snapshot_clear(&s);
    assert_int_equal(wq_job_by_id(r->queue, wq_job_id(runs), &found), WQ_OK);
    wq_job_unref(found);
    wq_job_unref(job);
    wq_job_unref(runs);
}

static void test_no_ended_job_need_be_known(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.max_ended = 0;
    open_queue(r);
    wq_job *job = ask_nr(r, 1), *found;
    let_end(&r->gate);
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    assert_int_equal(wq_job_by_id(r->queue, wq_job_id(job), &found), WQ_ERROR_NOT_FOUND);
    assert_int_equal(stats_of(r).ended, 0);
    wq_job_unref(job);
    job = ask_nr(r, 2);
    wq_job *second = ask_nr(r, 3);
    assert_int_equal(wq_job_cancel(second), WQ_OK);
    wq_job_unref(second);
    wq_job_unref(job);
    let_end(&r->gate);
    EVENTUALLY(stats_of(r).succeeded == 2);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void *wait_for_ever(void *job)
{
    return wq_job_wait(job, -1) == WQ_OK ? job : NULL;
}

static void test_waiting(void **state)
{
    enum { N = 20 };
    rig *r = *state;
    pthread_t threads[N];
    use_gate(r);
    open_queue(r);
    wq_job *job = ask_nr(r, 1);
    assert_int_equal(wq_job_wait(job, 0), WQ_ERROR_TIMEOUT);
    int64_t begin = now_ms();
    assert_int_equal(wq_job_wait(job, 1100), WQ_ERROR_TIMEOUT);
    assert_in_range(now_ms() - begin, 1099, 10000);
    start_threads(threads, N, wait_for_ever, job);
    let_end(&r->gate);
    for (int i = 0; i < N; i++) {
        void *woken = NULL;
        pthread_join(threads[i], &woken);
        assert_ptr_equal(woken, job);
    }
    assert_int_equal(wq_job_wait(job, 0), WQ_OK);
    assert_int_equal(wq_job_wait(job, -1), WQ_OK);
    assert_int_equal(wq_job_wait(job, INT64_MAX), WQ_OK);
    wq_job_unref(job);
}

/* ---- watching -------------------------------------------------------------------------------- */

/* What a watcher saw, by a snapshot from within the callback. */
typedef struct witness {
    wq_job *job; /* NULL: only counts */
    atomic_int told;
    atomic_int state;
    atomic_int permille;
    atomic_int backwards; /* a version that was not newer */
    _Atomic uint64_t version;
} witness;

static void on_news(void *user)
{
    witness *w = user;
    if (w->job != NULL) {
        wq_snapshot s = see(w->job);
        char json[512];
        wq_snapshot_json(&s, json, sizeof json);
        if (s.version < atomic_exchange(&w->version, s.version))
            atomic_store(&w->backwards, 1);
        atomic_store(&w->state, s.state);
        atomic_store(&w->permille, (int)(s.fraction * 1000));
        wq_snapshot_clear(&s);
    }
    atomic_fetch_add(&w->told, 1);
}

static void test_watchers_are_told_each_change(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 1;
    open_queue(r);
    wq_job *first = ask_nr(r, 1), *job = ask_nr(r, 2);
    witness one = {.job = job}, two = {.job = job};
    wq_watch *watches[2];
    assert_int_equal(wq_job_watch(job, on_news, &one, &watches[0]), WQ_OK);
    assert_int_equal(wq_job_watch(job, on_news, &two, &watches[1]), WQ_OK);
    assert_int_equal(one.told, 0); /* what was before is not told */
    let_end(&r->gate);
    EVENTUALLY(one.state == WQ_STATE_RUNNING && two.state == WQ_STATE_RUNNING);
    for (int i = 1; i < 10; i++) {
        int before = one.told;
        let_say(&r->gate, text(r, "0.%d\tstep %d", i, i));
        EVENTUALLY(one.told > before && one.permille == i * 100 && two.permille == i * 100);
    }
    int before = one.told;
    let_say(&r->gate, "this is no progress, and so no news");
    EVENTUALLY(logged(&r->log, "this is no progress") == 1);
    assert_int_equal(one.told, before);
    wq_watch_cancel(watches[1]);
    int last = two.told;
    let_end(&r->gate);
    EVENTUALLY(one.state == WQ_STATE_SUCCEEDED);
    assert_int_equal(one.permille, 1000);
    assert_int_equal(two.told, last);
    assert_true(!one.backwards && !two.backwards);
    wq_watch_cancel(watches[0]);
    /* a job that has ended has no news left, but may be watched */
    assert_int_equal(wq_job_watch(job, on_news, &one, &watches[0]), WQ_OK);
    wq_job_unref(job);
    wq_watch_cancel(watches[0]);
    wq_watch_cancel(NULL);
    wq_job_unref(first);
}

static void test_watchers_of_positions(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 1;
    open_queue(r);
    wq_job *jobs[5];
    for (int i = 0; i < 5; i++)
        jobs[i] = ask_nr(r, i);
    EVENTUALLY(r->gate.begun == 1);
    witness w = {.job = NULL};
    wq_watch *watch;
    assert_int_equal(wq_queue_watch(r->queue, on_news, &w, &watch), WQ_OK);
    assert_int_equal(ahead_of(jobs[4]), 4);
    assert_int_equal(wq_job_cancel(jobs[2]), WQ_OK); /* in the middle */
    EVENTUALLY(w.told > 0);
    assert_int_equal(ahead_of(jobs[4]), 3);
    int before = w.told;
    let_end(&r->gate);
    EVENTUALLY(ahead_of(jobs[4]) == 2 && w.told > before && r->gate.begun == 2);
    wq_watch_cancel(watch);
    before = w.told;
    assert_int_equal(wq_job_cancel(jobs[1]), WQ_OK); /* the one that runs */
    EVENTUALLY(ahead_of(jobs[4]) == 1);
    assert_int_equal(w.told, before);
    for (int i = 0; i < 5; i++)
        wq_job_unref(jobs[i]);
}

/* A runner that chatters until it is told to end, and one callback's target that is freed as soon
 * as its watch is cancelled: a callback after that is a use after free. */
typedef struct chatter {
    wq_runner runner;
    wq_job *job;
    wq_queue *queue;
    atomic_int late, told, rounds;
} chatter;

typedef struct target {
    chatter *c;
    atomic_int cancelled;
} target;

static void chatter_run(void *self, const wq_run *run, wq_outcome *outcome)
{
    struct pollfd cancel = {.fd = run->cancel_fd, .events = POLLIN};
    (void)self;
    for (int i = 0; poll(&cancel, 1, 0) == 0; i++) {
        char line[32];
        int n = snprintf(line, sizeof line, "0.%03d\tabc", i % 1000);
        run->report(run->user, line, (size_t)n);
    }
    *outcome = (wq_outcome){-999, 1, NULL};
}

static void on_chatter(void *user)
{
    target *t = user;
    if (atomic_load(&t->cancelled))
        atomic_fetch_add(&t->c->late, 1);
    atomic_fetch_add(&t->c->told, 1);
}

static void *watch_and_cancel(void *arg)
{
    chatter *c = arg;
    for (int i = 0; i < c->rounds; i++) {
        target *t = calloc(1, sizeof *t);
        wq_watch *watch = NULL;
        t->c = c;
        int result = i % 2 ? wq_job_watch(c->job, on_chatter, t, &watch)
                           : wq_queue_watch(c->queue, on_chatter, t, &watch);
        if (result == WQ_OK && i % 3 == 0)
            sched_yield();
        wq_watch_cancel(watch);
        atomic_store(&t->cancelled, 1);
        free(t);
    }
    return NULL;
}

static void test_no_callback_after_the_cancel(void **state)
{
    enum { N = 6 };
    rig *r = *state;
    pthread_t threads[N];
    chatter c = {.runner = {.self = &c, .run = chatter_run, .close = sprint_close}};
    r->options.runner = &c.runner;
    open_queue(r);
    c.rounds = scaled(6000);
    c.queue = r->queue;
    c.job = ask_nr(r, 1);
    wq_job *other = ask_nr(r, 2);
    start_threads(threads, N, watch_and_cancel, &c);
    for (int i = 0; i < c.rounds; i++) { /* positions change all the time */
        wq_job *job = ask_nr(r, 3 + i % 5);
        wq_job_cancel(job);
        wq_job_unref(job);
    }
    join_threads(threads, N);
    assert_int_equal(c.late, 0);
    wq_job_unref(other);
    wq_job_unref(c.job);
    r->options.runner = NULL; /* it is not the gate that will be closed */
    close_queue(r);
}

/* ---- cancel ---------------------------------------------------------------------------------- */

static void expect_cancelled(wq_job *job)
{
    wq_snapshot s = see_end(job);
    assert_int_equal(s.state, WQ_STATE_CANCELLED);
    assert_true(s.has_returncode && s.returncode == -999);
    assert_true(s.fraction == 1 && s.n_ahead_in_queue == 0);
    assert_non_null(s.error);
    assert_non_null(strstr(s.error, "cancelled"));
    wq_snapshot_clear(&s);
    assert_int_equal(wq_job_cancel(job), WQ_DONE);
}

/* One after the other on the same worker: each cancel reaches its own job, and only that. */
static void test_cancel_again_and_again(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 1;
    open_queue(r);
    for (int i = 0; i < 20; i++) {
        wq_job *job = ask_nr(r, i);
        EVENTUALLY(r->gate.begun == i + 1);
        if (i % 4 == 3) {
            let_end(&r->gate);
            EVENTUALLY(state_of(job) == WQ_STATE_SUCCEEDED);
        } else {
            assert_int_equal(wq_job_cancel(job), WQ_OK);
            expect_cancelled(job);
        }
        wq_job_unref(job);
    }
}

static void test_cancel(void **state)
{
    rig *r = *state;
    use_gate(r);
    r->options.workers = 1;
    open_queue(r);
    wq_job *running = ask_nr(r, 1), *queued = ask_nr(r, 2), *next = ask_nr(r, 3);
    EVENTUALLY(r->gate.begun == 1);
    assert_int_equal(wq_job_cancel(queued), WQ_OK);
    assert_int_equal(state_of(queued), WQ_STATE_CANCELLED); /* at once */
    expect_cancelled(queued);
    assert_int_equal(wq_job_cancel(running), WQ_OK);
    expect_cancelled(running);
    EVENTUALLY(r->gate.begun == 2);
    assert_string_equal(r->gate.order, "1 3 "); /* the cancel was for that job, not for the next */
    assert_int_equal(state_of(next), WQ_STATE_RUNNING);
    let_end(&r->gate);
    wq_snapshot s = see_end(next);
    assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
    wq_snapshot_clear(&s);
    assert_int_equal(wq_job_cancel(next), WQ_DONE);
    assert_int_equal(state_of(next), WQ_STATE_SUCCEEDED);
    assert_int_equal(entries_of(r->dir), 4); /* its output and the lock */
    wq_job_unref(running);
    wq_job_unref(queued);
    wq_job_unref(next);
}

/* A program that will not end, and its child that will not either; their numbers go to a file. */
static const char *stubborn(rig *r, const char *name)
{
    return text(r,
                "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >>%s/%s; while :; do sleep 0.05; "
                "done' & echo $$ >>%s/%s; echo 0.5; while :; do sleep 0.05; done",
                r->notes, name, r->notes, name);
}

static void read_pids(rig *r, const char *name, long pids[2])
{
    const char *path = text(r, "%s/%s", r->notes, name);
    char got[64];
    EVENTUALLY(({
        const size_t n = get_file(path, got, sizeof got);
        sscanf(got, "%ld\n%ld\n", &pids[0], &pids[1]) == 2 && got[n - 1] == '\n';
    }));
}

static void expect_gone(const long pids[2])
{
    EVENTUALLY(is_over(pids[0]));
    EVENTUALLY(is_over(pids[1]));
}

static void test_cancel_ends_the_whole_group(void **state)
{
    rig *r = *state;
    long pids[2];
    open_queue(r);
    wq_job *job = ask_shell(r, stubborn(r, "pids"));
    EVENTUALLY(fraction_of(job) > 0);
    read_pids(r, "pids", pids);
    int64_t begin = now_ms();
    assert_int_equal(wq_job_cancel(job), WQ_OK);
    assert_int_equal(wq_job_cancel(job), WQ_OK); /* it still runs, and is ending */
    assert_true(now_ms() - begin < GRACE_MS);    /* nobody waits for the grace */
    expect_cancelled(job);
    assert_true(now_ms() - begin >= GRACE_MS);
    expect_gone(pids);
    wq_job_unref(job);
    assert_int_equal(entries_of(r->dir), 3);
}

static void test_cancel_comes_too_late_for_publishing(void **state)
{
    rig *r = *state;
    use_gate(r);
    use_shelf(r);
    open_queue(r);
    for (int waits = 0; waits < 2; waits++) {
        wq_job *job = ask_nr(r, waits);
        shelf_hold(&r->shelf, 1);
        let_end(&r->gate);
        EVENTUALLY(r->shelf.publishing == waits + 1);
        assert_int_equal(state_of(job), WQ_STATE_PUBLISHING);
        assert_int_equal(stats_of(r).publishing, 1);
        assert_int_equal(stats_of(r).running, 0);
        wq_snapshot s = see(job);
        assert_false(s.has_returncode); /* publish, then tell */
        wq_snapshot_clear(&s);
        assert_int_equal(wq_job_cancel(job), WQ_DONE);
        wq_job *same = ask_nr(r, waits); /* and who asks now gets this job */
        assert_ptr_equal(same, job);
        wq_job_unref(same);
        shelf_hold(&r->shelf, 0);
        s = see_end(job);
        assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
        wq_snapshot_clear(&s);
        wq_job_unref(job);
    }
}

/* ---- close ----------------------------------------------------------------------------------- */

static void test_close_ends_everything(void **state)
{
    enum { N = 6 };
    rig *r = *state;
    long pids[2][2];
    witness w[N];
    wq_watch *watches[N];
    wq_job *jobs[N];
    open_queue(r);
    for (int i = 0; i < N; i++) {
        jobs[i] = ask_shell(r, stubborn(r, text(r, "pids%d", i)));
        w[i] = (witness){.job = jobs[i]};
        assert_int_equal(wq_job_watch(jobs[i], on_news, &w[i], &watches[i]), WQ_OK);
    }
    EVENTUALLY(fraction_of(jobs[0]) > 0 && fraction_of(jobs[1]) > 0);
    read_pids(r, "pids0", pids[0]);
    read_pids(r, "pids1", pids[1]);
    close_queue(r);
    expect_gone(pids[0]);
    expect_gone(pids[1]);
    for (int i = 0; i < N; i++) {
        assert_int_equal(w[i].state, WQ_STATE_CANCELLED);
        assert_true(w[i].told >= 1);
        wq_watch_cancel(watches[i]);
        wq_snapshot s = see_end(jobs[i]);
        assert_int_equal(s.state, WQ_STATE_CANCELLED);
        assert_non_null(strstr(s.error, "stopping"));
        assert_int_equal(s.returncode, -999);
        assert_true((s.started_at_ms != 0) == (i < 2));
        wq_snapshot_clear(&s);
        wq_job_unref(jobs[i]);
    }
    assert_int_equal(access(text(r, "%s/pids2", r->notes), F_OK), -1);
    assert_int_equal(entries_of(r->dir), 3); /* no half output */
}

static void test_close_while_others_wait(void **state)
{
    enum { N = 10 };
    rig *r = *state;
    pthread_t threads[N];
    use_gate(r);
    open_queue(r);
    wq_job *job = ask_nr(r, 1);
    EVENTUALLY(r->gate.begun == 1);
    start_threads(threads, N, wait_for_ever, job);
    r->threads += N; /* those are ours */
    close_queue(r);
    for (int i = 0; i < N; i++) {
        void *woken = NULL;
        pthread_join(threads[i], &woken);
        assert_ptr_equal(woken, job);
    }
    wq_job_unref(job);
}

static void test_jobs_can_be_read_after_the_close(void **state)
{
    rig *r = *state;
    open_queue(r);
    wq_job *good = ask_shell(r, "printf '0.5\\thalf'; echo x >\"$4\"");
    wq_job *bad = ask_shell(r, "echo oh >&2; exit 7");
    char id[WQ_ID_SIZE];
    strcpy(id, wq_job_id(good));
    assert_int_equal(wq_job_wait(good, DEADLINE_MS), WQ_OK);
    assert_int_equal(wq_job_wait(bad, DEADLINE_MS), WQ_OK);
    close_queue(r);
    assert_string_equal(wq_job_id(good), id);
    assert_int_equal(strlen(wq_job_key(bad)), 64);
    assert_string_equal(wq_job_params(bad)->api_token, TOKEN);
    assert_int_equal(wq_job_wait(bad, -1), WQ_OK);
    assert_ptr_equal(wq_job_ref(good), good);
    wq_job_unref(good);
    wq_snapshot s = see(good);
    assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
    assert_string_equal(s.message, "half");
    wq_job_unref(good);
    assert_string_equal(s.message, "half"); /* and a snapshot after its job */
    wq_snapshot_clear(&s);
    s = see(bad);
    wq_job_unref(bad);
    assert_string_equal(s.error, "Exited with code 7\nstderr:\noh\n");
    wq_snapshot_clear(&s);
}

static void test_close_of_nothing(void **state)
{
    rig *r = *state;
    wq_close(NULL);
    for (int i = 0; i < 20; i++) {
        r->options.workers = i % 2 ? 64 : 1;
        r->options.sync = i % 3;
        open_queue(r);
        close_queue(r);
    }
    wq_job_unref(NULL);
}

/* ---- after a crash --------------------------------------------------------------------------- */

/* The mode "--host": runs a program that does not end, and says so. */
static int host_for_ever(const char *dir)
{
    wq_options options;
    wq_queue *queue;
    wq_job *job;
    char command[512];
    snprintf(command, sizeof command,
             "echo half >\"$4\"; echo $$ >'%s/pid.part'; mv '%s/pid.part' '%s/pid'; "
             "exec sleep 1000",
             dir, dir, dir);
    wq_options_init(&options, sizeof options);
    options.program = SHELL;
    options.storage_dir = dir;
    wq_params params = shell(command);
    if (wq_open(&queue, &options, NULL) != WQ_OK ||
        wq_ensure_run(queue, &params, 0, &job, NULL) != WQ_OK)
        return 1;
    printf("running\n");
    fflush(stdout);
    wq_job_wait(job, -1);
    return 1;
}

static int leftovers(const char *dir)
{
    char temps[PATH_MAX];
    snprintf(temps, sizeof temps, "%s/.workqueue.tmp", dir);
    return entries_of(temps) - 2;
}

static void test_after_a_kill_nothing_is_left(void **state)
{
    rig *r = *state;
    char got[64];
    int out;
    const char *pid_file = text(r, "%s/pid", r->dir);
    pid_t host = start_self("--host", r->dir, &out);
    read_text(out, got, sizeof got, "running\n");
    close(out);
    assert_string_equal(got, "running\n");
    EVENTUALLY(access(pid_file, F_OK) == 0);
    long program = atol(text_of(r, pid_file));
    assert_true(program > 1 && !is_over(program));
    assert_int_equal(leftovers(r->dir), 1);
    kill(host, SIGKILL);
    assert_int_equal(waitpid(host, NULL, 0), host);
    EVENTUALLY(is_over(program));
    open_queue(r);
    assert_int_equal(leftovers(r->dir), 0);
    assert_int_equal(access(pid_file, F_OK), 0); /* what is not ours stays */
    assert_int_equal(logged(&r->log, "unfinished"), 1);
}

/* ---- your own runner and store --------------------------------------------------------------- */

static void test_a_store_and_a_runner_of_your_own(void **state)
{
    rig *r = *state;
    use_gate(r);
    use_shelf(r);
    r->shelf.store.waits = 1;
    open_queue(r);
    char number[16], path[64];
    wq_error error = {0};
    wq_params params = numbered(number, 1);
    int64_t made_at_ms;
    int fd = -1;
    wq_job *job = ask(r, &params);
    let_end(&r->gate);
    wq_snapshot s = see_end(job);
    assert_int_equal(s.state, WQ_STATE_SUCCEEDED);
    wq_snapshot_clear(&s);
    wq_job_unref(job);
    assert_int_equal(ask_again(r, &params), WQ_DONE);
    assert_int_equal(wq_ensure_run_aged(r->queue, &params, 0, &job, &made_at_ms, NULL), WQ_DONE);
    assert_int_equal(made_at_ms, SHELF_MADE_AT_MS);
    assert_int_equal(wq_output_find(r->queue, &params, NULL), WQ_OK);
    assert_int_equal(wq_output_open(r->queue, &params, &fd, NULL), WQ_OK);
    close(fd);
    assert_int_equal(wq_output_path(r->queue, &params, path, sizeof path, &error),
                     WQ_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "no paths"));
    params = numbered(number, 2);
    assert_int_equal(wq_output_find(r->queue, &params, &error), WQ_ERROR_NOT_FOUND);
    assert_string_equal(error.message, "not on the shelf");
    assert_int_equal(r->shelf.discarded, 0);
}

/* A store across a network: outputs without descriptors, which it reads, copies and has URLs of. */
static const char remote_output[] = "over the wire";

static int remote_open(void *self, const char *key, wq_output *out, wq_error *error)
{
    int result = shelf_find(self, key, NULL, error);
    if (result == WQ_OK)
        *out = (wq_output){.fd = -1, .size_bytes = sizeof remote_output - 1, .tag = "1"};
    return result;
}

static int64_t remote_read(void *self, const char *key, const wq_output *output, uint64_t offset,
                           void *buf, size_t size, wq_error *error)
{
    int result = shelf_find(self, key, NULL, error);
    if (result != WQ_OK || strcmp(output->tag, "1") != 0)
        return wq_fail(error, WQ_ERROR_AWAY, "out of sight");
    memcpy(buf, remote_output + offset, size);
    return (int64_t)size;
}

static int remote_url(void *self, const char *key, char *url, size_t size, wq_error *error)
{
    (void)self;
    (void)error;
    snprintf(url, size, "http://public.example/%s", key);
    return WQ_OK;
}

static int remote_path(void *self, const char *key, char *path, size_t size, wq_error *error)
{
    (void)self;
    (void)key;
    (void)error;
    snprintf(path, size, "/dev/zero");
    return WQ_OK;
}

static void remote_stop(void *self)
{
    shelf *s = self;
    atomic_fetch_add(&s->stopped, 1);
}

static void test_a_store_without_descriptors(void **state)
{
    rig *r = *state;
    use_gate(r);
    use_shelf(r);
    r->shelf.store.blocks = 1;
    r->shelf.store.open = remote_open;
    r->shelf.store.read = remote_read;
    r->shelf.store.url = remote_url;
    r->shelf.store.path = remote_path;
    r->shelf.store.stop = remote_stop;
    open_queue(r);
    assert_true(wq_outputs_block(r->queue));
    char number[16], buf[64] = "", url[128];
    wq_error error = {0};
    wq_output output;
    wq_params params = numbered(number, 1);
    wq_job *job = ask(r, &params);
    let_end(&r->gate);
    assert_int_equal(wq_job_wait(job, 10000), WQ_OK);
    assert_int_equal(wq_job_output(job, &output, &error), WQ_OK);
    assert_int_equal(output.fd, -1);
    assert_int_equal(wq_output_read(job, &output, 5, buf, sizeof buf, &error), 8);
    assert_string_equal(buf, "the wire");
    assert_int_equal(wq_output_read(job, &output, 13, buf, sizeof buf, &error), 0);
    assert_int_equal(wq_output_read(job, &output, UINT64_MAX, buf, sizeof buf, &error), 0);
    output.tag[0] = '2';
    assert_int_equal(wq_output_read(job, &output, 0, buf, 4, &error), WQ_ERROR_AWAY);
    assert_string_equal(error.message, "out of sight");
    assert_int_equal(wq_output_url(job, url, sizeof url, &error), WQ_OK);
    assert_non_null(strstr(url, wq_job_key(job)));
    int fd = -1; /* of the copy */
    assert_int_equal(wq_output_open(r->queue, &params, &fd, &error), WQ_OK);
    assert_int_equal(read(fd, buf, 1), 1);
    assert_int_equal(buf[0], '\0');
    close(fd);
    wq_job_unref(job);
    assert_int_equal(r->shelf.stopped, 0);
    wq_stop(r->queue);
    assert_int_equal(r->shelf.stopped, 1);
}

static void test_reading_an_output_with_a_descriptor(void **state)
{
    rig *r = *state;
    open_queue(r);
    char buf[8] = "", url[64];
    wq_error error = {0};
    wq_output output;
    wq_params params = shell("printf 123456789 >\"$4\"");
    wq_job *job = ask(r, &params);
    assert_int_equal(wq_job_wait(job, 10000), WQ_OK);
    assert_false(wq_outputs_block(r->queue));
    assert_int_equal(wq_job_output(job, &output, &error), WQ_OK);
    assert_int_equal(wq_output_read(job, &output, 7, buf, sizeof buf, &error), 2);
    assert_string_equal(buf, "89");
    assert_int_equal(wq_output_read(job, &output, 9, buf, sizeof buf, &error), 0);
    assert_int_equal(wq_output_url(job, url, sizeof url, &error), WQ_ERROR_NOT_FOUND);
    close(output.fd);
    wq_job_unref(job);
}

static void test_a_store_that_fails(void **state)
{
    rig *r = *state;
    use_gate(r);
    use_shelf(r);
    open_queue(r);
    char number[16];
    wq_error error = {0};
    wq_job *job = NULL;
    wq_params params = numbered(number, 1);
    r->shelf.find_result = WQ_ERROR_SYSTEM;
    assert_int_equal(wq_ensure_run(r->queue, &params, 0, &job, &error), WQ_ERROR_SYSTEM);
    assert_string_equal(error.message, "not on the shelf");
    assert_null(job);
    assert_int_equal(stats_of(r).queued + stats_of(r).running, 0);
    r->shelf.find_result = 0;

    r->shelf.begin_result = WQ_ERROR_SYSTEM;
    job = ask_nr(r, 2);
    wq_snapshot s = see_end(job);
    assert_true(s.state == WQ_STATE_FAILED && s.returncode == -999);
    assert_string_equal(s.error, "the shelf is full");
    wq_snapshot_clear(&s);
    wq_job_unref(job);
    assert_int_equal(r->gate.begun, 0);
    r->shelf.begin_result = 0;

    r->shelf.publish_result = WQ_ERROR_SYSTEM;
    job = ask_nr(r, 3);
    let_end(&r->gate);
    s = see_end(job);
    assert_true(s.state == WQ_STATE_FAILED && s.returncode == -999);
    assert_string_equal(s.error, "it fell from the shelf");
    wq_snapshot_clear(&s);
    wq_job_unref(job);
    assert_int_equal(r->shelf.discarded, 0); /* publish has cleaned up */

    r->gate.returncode = 3;
    job = ask_nr(r, 4);
    let_end(&r->gate);
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    wq_job_unref(job);
    assert_int_equal(r->shelf.discarded, 1);
}

static void try_in_vain(rig *r, int code)
{
    wq_queue *queue;
    wq_error error = {0};
    assert_int_equal(wq_open(&queue, &r->options, &error), code);
    assert_true(strlen(error.message) > 10);
    assert_int_equal(r->gate.closed, r->options.runner != NULL);
    assert_int_equal(r->shelf.closed, r->options.store != NULL);
    r->gate.closed = r->shelf.closed = 0;
    EVENTUALLY(entries_of("/proc/self/task") <= r->threads);
    assert_int_equal(entries_of("/proc/self/fd"), r->fds);
}

/* What was given is closed, exactly once, however far wq_open() came. */
static void test_a_failed_open_closes_what_it_was_given(void **state)
{
    rig *r = *state;
    const wq_options plain = r->options;
    use_gate(r);
    use_shelf(r);
    r->options.workers = 0;
    try_in_vain(r, WQ_ERROR_INVALID_ARGUMENT);

    r->options = plain; /* a runner, and no folder */
    use_gate(r);
    r->options.storage_dir = "/no/such/folder";
    try_in_vain(r, WQ_ERROR_SYSTEM);

    r->options = plain; /* a store, and no program */
    use_shelf(r);
    r->options.program = "/no/such/program";
    try_in_vain(r, WQ_ERROR_INVALID_ARGUMENT);

    r->options = plain; /* both, and not enough descriptors for the workers */
    use_gate(r);
    use_shelf(r);
    r->shelf.store.waits = 1;
    r->options.workers = 32;
    struct rlimit before, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = (rlim_t)(r->gate.permits + 10);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    wq_queue *queue = NULL;
    wq_error error = {0};
    int result = wq_open(&queue, &r->options, &error);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(result, WQ_ERROR_SYSTEM);
    assert_non_null(strstr(error.message, "Too many open files"));
    assert_true(r->gate.closed == 1 && r->shelf.closed == 1 && queue == NULL);
    EVENTUALLY(entries_of("/proc/self/task") <= r->threads);
    assert_int_equal(entries_of("/proc/self/fd"), r->fds);
}

/* ---- signals -------------------------------------------------------------------------------- */

static int is_pending(int number)
{
    sigset_t pending;
    assert_int_equal(sigpending(&pending), 0);
    return sigismember(&pending, number);
}

/* As hosts do that wait for their children by signalfd() or sigwait(). */
static void test_what_the_host_has_blocked_stays_for_it(void **state)
{
    rig *r = *state;
    const int numbers[] = {SIGCHLD, SIGTERM, SIGWINCH};
    const struct timespec at_once = {0, 0};
    sigset_t set, before;
    sigemptyset(&set);
    for (int i = 0; i < 3; i++)
        sigaddset(&set, numbers[i]);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, &set, &before), 0);
    open_queue(r);
    for (int round = 0; round < 150; round++) {
        int number = numbers[round % 3];
        assert_int_equal(kill(getpid(), number), 0);
        usleep(1000); /* in which nobody else may take it */
        assert_true(is_pending(number));
        assert_int_equal(sigtimedwait(&set, NULL, &at_once), number);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- all at once ----------------------------------------------------------------------------- */

typedef struct melee {
    rig *r;
    atomic_int next, wrong;
    int rounds;
} melee;

static void check_in_melee(melee *m, wq_job *job)
{
    wq_job *found = NULL;
    wq_snapshot s = see(job);
    char json[512];
    if (wq_snapshot_json(&s, json, sizeof json) < 80 || s.fraction < 0 || s.fraction > 1)
        atomic_fetch_add(&m->wrong, 1);
    wq_snapshot_clear(&s);
    if (wq_job_by_id(m->r->queue, wq_job_id(job), &found) == WQ_OK && found != job)
        atomic_fetch_add(&m->wrong, 1);
    wq_job_unref(found);
}

static void *fight(void *arg)
{
    melee *m = arg;
    unsigned random = (unsigned)atomic_fetch_add(&m->next, 1) * 7919 + 1;
    for (int i = 0; i < m->rounds; i++) {
        char number[16];
        witness w = {.job = NULL};
        wq_watch *watch = NULL;
        wq_job *job = NULL;
        random = random * 1103515245 + 12345;
        wq_params params = numbered(number, (int)(random >> 16 & 63) + i / 10 * 64);
        if (wq_ensure_run(m->r->queue, &params, 0, &job, NULL) < 0)
            atomic_fetch_add(&m->wrong, 1);
        if (job == NULL)
            continue;
        w.job = job;
        wq_job_watch(job, on_news, &w, &watch);
        check_in_melee(m, job);
        if (random >> 22 & 1)
            wq_job_cancel(job);
        else if (random >> 23 & 1)
            wq_job_wait(job, 1);
        wq_watch_cancel(watch);
        atomic_fetch_add(&m->wrong, w.backwards);
        wq_job_unref(job);
    }
    return NULL;
}

static void test_all_at_once(void **state)
{
    enum { N = 8 };
    rig *r = *state;
    pthread_t threads[N];
    use_gate(r);
    r->options.max_ended = 10;
    r->options.workers = 4;
    r->options.sync = 0;
    open_queue(r);
    melee m = {.r = r, .rounds = scaled(2000)};
    permit(&r->gate, 1000000000); /* nothing is held up */
    start_threads(threads, N, fight, &m);
    join_threads(threads, N);
    assert_int_equal(m.wrong, 0);
    wq_stop(r->queue);
    EVENTUALLY(stats_of(r).queued + stats_of(r).running + stats_of(r).publishing == 0);
    assert_true(stats_of(r).ended <= 10);
    assert_int_equal(leftovers(r->dir), 0);
}

static void *do_nothing(void *arg)
{
    return arg;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_result_has_a_sentence),
        TEST(test_options_begin_with_the_defaults),
        TEST(test_wrong_options_are_named),
        TEST(test_c19_options_of_an_older_header),
TEST(test_unusable_folders),
        TEST(test_a_folder_has_one_queue),
        TEST(test_relative_paths_are_resolved_once),
        TEST(test_a_program_is_started_by_its_name),
        TEST(test_keys),
        TEST(test_parameters_are_checked),
        TEST(test_nobody_gets_a_job_for_nonsense),
        TEST(test_a_life_with_sync),
        TEST(test_a_life_without_sync),
        TEST(test_times),
        TEST(test_output_whole_or_not_at_all_with_sync),
        TEST(test_output_whole_or_not_at_all),
        TEST(test_an_output_in_place_stays),
        TEST(test_lines_that_are_no_progress),
        TEST(test_messages_are_utf8),
        TEST(test_the_log_is_escaped_and_bounded),
        TEST(test_the_token_stays_secret),
        TEST(test_a_thousand_ask_and_one_runs),
        TEST(test_a_thousand_ask_while_it_ends),
        TEST(test_no_key_runs_twice),
        TEST(test_what_failed_runs_afresh),
        TEST(test_first_in_first_out),
        TEST(test_workers_run_side_by_side),
        TEST(test_positions_are_exact),
        TEST(test_a_million_wait),
        TEST(test_a_full_queue),
        TEST(test_a_queue_that_stops),
        TEST(test_ids_are_random_uuids),
        TEST(test_ids_never_issued),
        TEST(test_ended_jobs_are_known_for_a_while),
        TEST(test_ended_jobs_are_known_for_a_time),
        TEST(test_no_ended_job_need_be_known),
        TEST(test_waiting),
        TEST(test_watchers_are_told_each_change),
        TEST(test_watchers_of_positions),
        TEST(test_no_callback_after_the_cancel),
        TEST(test_cancel),
        TEST(test_cancel_again_and_again),
        TEST(test_cancel_ends_the_whole_group),
        TEST(test_cancel_comes_too_late_for_publishing),
        TEST(test_close_ends_everything),
        TEST(test_close_while_others_wait),
        TEST(test_jobs_can_be_read_after_the_close),
        TEST(test_close_of_nothing),
        TEST(test_after_a_kill_nothing_is_left),
        TEST(test_a_store_and_a_runner_of_your_own),
        TEST(test_a_store_without_descriptors),
        TEST(test_reading_an_output_with_a_descriptor),
        TEST(test_a_store_that_fails),
        TEST(test_a_failed_open_closes_what_it_was_given),
        TEST(test_what_the_host_has_blocked_stays_for_it),
        TEST(test_all_at_once),
    };
    if (argc == 3 && strcmp(argv[1], "--open") == 0)
        return open_and_say(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--host") == 0)
        return host_for_ever(argv[2]);
    /* A sanitizer may start a thread of its own with the first one of ours; later it would look as
     * if a queue had left it. */
    pthread_t first;
    start_threads(&first, 1, do_nothing, NULL);
    join_threads(&first, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
