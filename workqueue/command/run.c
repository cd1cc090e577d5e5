/* run.c - workqueue run: a program run by its contract, without a server: the library's own queue
 * in a folder of its own, so that what is seen here is what a server would see. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "workqueue/command/command.h"
#include "workqueue/command/findings.h"
#include "workqueue/command/folder.h"
#include "workqueue/command/meter.h"

enum { RUN_HAS_FINDINGS = 3, INTERRUPTED = 130 };

static const option_row run_rows[] = {
    {"output", "FILE", OPTION_TEXT, 0, offsetof(settings, output), 0, 0,
     "The output is put there, whole or not at all; - is stdout. Without this it is only looked "
     "at."},
    {"verbose", NULL, OPTION_ON, 0, offsetof(settings, verbose), 0, 0,
     "Shows also what the library logs."},
};
static const option_group run_group = {"The run", run_rows, sizeof run_rows / sizeof *run_rows};
static const option_group *const run_groups[] = {&run_group, &limit_group, &given_group,
                                                 &about_group, NULL};

const option_set run_set = {
    .command = "workqueue run",
    .usage = "workqueue run [OPTION]... PROGRAM [SERVER [SET [TOKEN]]]",
    .about = "Runs PROGRAM SERVER SET TOKEN OUTPUT_FILENAME as a server would, shows its progress, "
             "and says what it does wrong. Without SERVER, SET and TOKEN it is given "
             "http://localhost, 1 and none.",
    .groups = run_groups,
    .after =
        "The exit status tells: 0 all is well, 3 it has succeeded but does something wrong, 1 it "
        "has failed, 2 it could not be run, 130 it was interrupted.",
    .own = settings_own,
    .call = settings_call,
    .max_operands = 4,
};

typedef struct run_state {
    settings s;
    option_set set;
    char *folder; /* of our own; holds the storage */
    wq_queue *queue;
    wq_job *job;
    findings found;
    meter meter;
    _Atomic int interrupted;
} run_state;

/* ---- the library's callbacks ----------------------------------------------------------------- */

static void on_run_log(void *user, int level, const char *message)
{
    run_state *r = user;
    findings_log(&r->found, level, message);
    if (r->s.verbose)
        fprintf(stderr, "log: %s\n", message);
}

/* Each line of progress comes here, on the thread that has read it. */
static void on_run_news(void *user)
{
    run_state *r = user;
    wq_snapshot now;
    wq_job_snapshot(r->job, &now);
    findings_progress(&r->found, &now);
    meter_show(&r->meter, &now);
    wq_snapshot_clear(&now);
}

/* The time goes on also while the program says nothing. */
static void on_run_tick(run_state *r)
{
    wq_snapshot now;
    if (!r->meter.on_terminal)
        return;
    wq_job_snapshot(r->job, &now);
    meter_show(&r->meter, &now);
    wq_snapshot_clear(&now);
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static void *wait_for_interrupt(void *arg)
{
    run_state *r = arg;
    host_wait(NULL, NULL);
    atomic_store(&r->interrupted, 1);
    wq_job_cancel(r->job);
    return NULL;
}

/* Its end is forced: nobody waits for a signal any more. */
static void stop_waiting(pthread_t thread)
{
    pthread_cancel(thread);
    pthread_join(thread, NULL);
}

/* ---- the output ------------------------------------------------------------------------------ */

static int copy_bytes(int from, int to)
{
    char buf[65536];
    ssize_t n;
    while ((n = read(from, buf, sizeof buf)) > 0)
        for (ssize_t done = 0, put; done < n; done += put)
            if ((put = write(to, buf + done, (size_t)(n - done))) < 0)
                return -1;
    return n == 0 ? 0 : -1;
}

/* Whole or not at all: a new file beside it takes its place. */
static int put_file(int from, const char *path)
{
    char *temporary = NULL;
    mode_t mask = umask(0);
    umask(mask);
    if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
        return -1;
    int fd = mkostemp(temporary, O_CLOEXEC);
    int r = fd < 0 ? -1 : copy_bytes(from, fd);
    if (fd >= 0) {
        r |= fchmod(fd, 0666 & ~mask);
        r |= close(fd);
        r = r == 0 ? rename(temporary, path) : r;
        if (r != 0)
            unlink(temporary);
    }
    free(temporary);
    return r == 0 ? 0 : -1;
}

static int take_output(run_state *r)
{
    wq_output output;
    wq_error error;
    const char *path = r->s.output;
    if (wq_job_output(r->job, &output, &error) != WQ_OK) {
        fprintf(stderr, "workqueue run: %s\n", error.message);
        return COMMAND_FAILED;
    }
    meter_say(&r->meter, "Done: %llu bytes of output%s%s.", (unsigned long long)output.size_bytes,
              path && strcmp(path, "-") != 0 ? " in " : "",
              path && strcmp(path, "-") != 0 ? path : "");
    int result = 0;
    if (path != NULL)
        result = strcmp(path, "-") == 0 ? copy_bytes(output.fd, STDOUT_FILENO)
                                        : put_file(output.fd, path);
    if (result != 0)
        fprintf(stderr, "workqueue run: write %s: %s\n", path, strerror(errno));
    close(output.fd);
    return result == 0 ? COMMAND_OK : COMMAND_FAILED;
}

/* ---- the run --------------------------------------------------------------------------------- */

static int open_run_queue(run_state *r, wq_error *error)
{
    wq_options *queue = &r->s.all.queue;
    queue->storage_dir = r->folder;
    queue->workers = 1;
    queue->sync = 0;
    queue->log = on_run_log;
    queue->log_user = r;
    if (r->s.all.environment.n > 0)
        queue->environment = r->s.all.environment.items;
    unsigned given = 0;
    host_raise_open_files(queue, &given);
    return wq_open(&r->queue, queue, error);
}

static int tell_end(run_state *r)
{
    wq_snapshot end;
    wq_job_snapshot(r->job, &end);
    int succeeded = end.state == WQ_STATE_SUCCEEDED, result = COMMAND_FAILED;
    meter_end(&r->meter);
    findings_end(&r->found, &end);
    if (succeeded)
        result = take_output(r);
    else if (atomic_load(&r->interrupted))
        meter_say(&r->meter, "Interrupted.");
    else
        findings_failure(&r->found, &end);
    wq_snapshot_clear(&end);
    int n = findings_tell(&r->found);
    if (atomic_load(&r->interrupted) && !succeeded)
        return INTERRUPTED;
    return result == COMMAND_OK && n > 0 ? RUN_HAS_FINDINGS : result;
}

static int run_job(run_state *r, const wq_params *params)
{
    pthread_t interrupts;
    wq_watch *watch = NULL;
    wq_error error;
    findings_know_children(&r->found);
    int result = wq_ensure_run(r->queue, params, WQ_ENSURE_JOB, &r->job, &error);
    if (result >= 0)
        result = wq_job_watch(r->job, on_run_news, r, &watch);
    if (result < 0) {
        fprintf(stderr, "workqueue run: %s\n", error.message);
        wq_job_unref(r->job);
        return COMMAND_WRONG;
    }
    int waits = pthread_create(&interrupts, NULL, wait_for_interrupt, r) == 0;
    while (wq_job_wait(r->job, 50) == WQ_ERROR_TIMEOUT) {
        findings_reap(&r->found);
        on_run_tick(r);
    }
    wq_watch_cancel(watch);
    if (waits)
        stop_waiting(interrupts);
    findings_look_for_processes(&r->found);
    result = tell_end(r);
    wq_job_unref(r->job);
    return result;
}

static int run_program(run_state *r, const wq_params *params)
{
    wq_error error;
    r->folder = folder_make("workqueue-run");
    if (r->folder == NULL) {
        fprintf(stderr, "workqueue run: make a temporary folder: %s\n", strerror(errno));
        return COMMAND_WRONG;
    }
    int result = COMMAND_WRONG;
    findings_begin(&r->found);
    if (open_run_queue(r, &error) != WQ_OK)
        fprintf(stderr, "workqueue run: %s\n", error.message);
    else
        result = run_job(r, params);
    wq_close(r->queue);
    findings_free(&r->found);
    folder_remove(r->folder);
    free(r->folder);
    return result;
}

int run_main(int argc, char **argv)
{
    static run_state r;
    char **operands;
    size_t n;
    settings_init(&r.s);
    r.set = run_set;
    r.set.all = &r.s;
    r.s.all.queue.cgroup_dir = NULL; /* a developer's shell has none to give */
    int result = options_parse(&r.set, argc, argv, &operands, &n);
    if (result == COMMAND_GO_ON && n == 0)
        result = options_wrong(&r.set, "the PROGRAM is missing");
    if (result == COMMAND_GO_ON) {
        wq_params params = {n > 1 ? operands[1] : "http://localhost", n > 2 ? operands[2] : "1",
                            n > 3 ? operands[3] : "none"};
        wq_error error;
        r.s.all.queue.program = operands[0];
        host_begin();
        meter_begin(&r.meter);
        result = wq_params_check(&params, &error) == WQ_OK
                     ? run_program(&r, &params)
                     : options_wrong(&r.set, "%s", error.message);
    }
    settings_free(&r.s);
    return result;
}
