/* local.c - the runner that runs a program on this machine: a child per slot and one guard. */
#include "workqueue/process/local.h"

#include "workqueue/process/cgroups.h"
#include "workqueue/process/child.h"
#include "workqueue/process/environment.h"
#include "workqueue/process/fds.h"
#include "workqueue/process/guard.h"
#include "workqueue/process/guard_path.h"
#include "workqueue/process/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct local {
    wq_runner runner;
    wq_child_config config;
    wq_guard guard;
    wq_cgroups groups;
    wq_child *children; /* one per slot */
    unsigned workers;   /* those that are initialised */
} local;

static const char *name_error(int error, char *text, size_t size)
{
    return strerror_r(error, text, size);
}

static int check_program(const char *program, wq_error *error)
{
    struct stat st;
    char text[128];
    if (program == NULL || *program == '\0')
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "No program to run was given");
    if (stat(program, &st) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "The program %.300s cannot be run: %s",
                       program, name_error(errno, text, sizeof text));
    if (!S_ISREG(st.st_mode))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "The program %.300s cannot be run: it is not a regular file", program);
    if (faccessat(AT_FDCWD, program, X_OK, AT_EACCESS) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "The program %.300s cannot be run: %s (is it executable?)", program,
                       name_error(errno, text, sizeof text));
    return WQ_OK;
}

static void local_run(void *self, const wq_run *run, wq_outcome *outcome)
{
    local *l = self;
    wq_child_run(&l->children[run->slot], run, outcome);
}

static void local_close(wq_runner *runner)
{
    local *l = runner->self;
    wq_guard_close(&l->guard);
    for (unsigned i = 0; i < l->workers; i++)
        wq_child_dispose(&l->children[i]);
    wq_cgroups_close(&l->groups);
    free(l->children);
    free(l->config.program);
    free(l->config.environment);
    free(l->config.kept_back);
    if (l->config.null_fd >= 0)
        close(l->config.null_fd);
    free(l);
}

/* These names are ours to give, or not at all. */
static int read_environment(wq_child_config *config, const wq_local_options *options)
{
    const char *without[] = {"WORKQUEUE_API_TOKEN", "TRACEPARENT",
                             options->private_tmpdir ? "TMPDIR" : NULL, NULL};
    config->environment = wq_environment_new(options->environment, without);
    config->kept_back = wq_environment_kept_back(options->environment, without);
    return config->environment != NULL && config->kept_back != NULL ? 0 : -1;
}

static local *make_local(const wq_local_options *options)
{
    local *l = calloc(1, sizeof *l);
    if (l == NULL)
        return NULL;
    l->runner = (wq_runner){.self = l, .run = local_run, .close = local_close};
    l->guard.fd = -1;
    l->groups = (wq_cgroups){.lock = -1, .above = -1};
    l->config = (wq_child_config){.program = strdup(options->program),
                                  .null_fd = -1,
                                  .grace_ms = options->grace_ms,
                                  .drain_ms = options->drain_ms,
                                  .max_line_bytes = options->max_line_bytes,
                                  .stderr_tail_bytes = options->stderr_tail_bytes,
                                  .limits = options->limits,
                                  .token_in_environment = options->token_in_environment,
                                  .private_tmpdir = options->private_tmpdir,
                                  .allow_new_privileges = options->allow_new_privileges,
                                  .ignores_realtime = wq_spawn_ignores_realtime(),
                                  .logger = options->logger};
    l->children = calloc(options->workers, sizeof *l->children);
    if (read_environment(&l->config, options) == 0 && l->config.program != NULL &&
        l->children != NULL)
        return l;
    local_close(&l->runner);
    return NULL;
}

/* A host that has its children reaped by the kernel never learns how one ended. */
static int check_children(wq_error *error)
{
    struct sigaction action;
    if (sigaction(SIGCHLD, NULL, &action) == 0 &&
        (action.sa_handler == SIG_IGN || (action.sa_flags & SA_NOCLDWAIT) != 0))
        return wq_fail(error, WQ_ERROR_SYSTEM,
                       "This process ignores SIGCHLD, so that nobody can tell how a program ended "
                       "and every job would fail: let it be SIG_DFL, or a handler without "
                       "SA_NOCLDWAIT");
    return WQ_OK;
}

static void warn_of_missing_guard(const wq_logger *logger, const char *path, const char *failed)
{
    char text[128];
    wq_log(logger, WQ_LOG_WARNING,
           "there is no guard process (%s: %s: %s): should this process be killed by SIGKILL, "
           "processes that a job's program has started may survive it",
           path, failed, name_error(errno, text, sizeof text));
}

/* Jobs run without it, too, unless somebody has said where it is; what is lost is told once. */
static int start_own_guard(local *l, const wq_local_options *options, wq_error *error)
{
    char path[PATH_MAX], text[128];
    const char *failed = "find";
    if (wq_guard_find(path, options->guard_path) == 0)
        failed = wq_guard_open(&l->guard, path, options->workers, l->groups.dir);
    else if (options->guard_path != NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "options: guard_path %.300s: %s", path,
                       name_error(errno, text, sizeof text));
    if (failed != NULL)
        warn_of_missing_guard(&options->logger, path, failed);
    for (unsigned i = 0; i < l->workers; i++)
        l->children[i].guard_line = wq_guard_line(&l->guard, i);
    if (!l->guard.child_was_stolen)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "This process waits for children that are not its own (by wait() or "
                   "waitpid(-1)), so that jobs would fail as nobody can tell how their programs "
                   "ended: let it wait for the pids that it has started");
}

static int open_groups(local *l, const wq_local_options *options, wq_error *error)
{
    const wq_cgroup_limits limits = {.memory_bytes = options->limits.memory_bytes,
                                     .processes = options->limits.processes};
    if (options->cgroup_dir == NULL)
        return WQ_OK;
    int result = wq_cgroups_open(&l->groups, options->cgroup_dir, options->workers, &limits,
                                 &options->logger, error);
    for (unsigned i = 0; i < l->workers; i++)
        l->children[i].group = wq_cgroup_of(&l->groups, i);
    return result;
}

int wq_local_open(wq_runner **out, const wq_local_options *options, wq_error *error)
{
    char text[128];
    int result = check_program(options->program, error);
    if (result == WQ_OK)
        result = check_children(error);
    if (result != WQ_OK)
        return result;
    local *l = make_local(options);
    if (l == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "Out of memory");
    l->config.null_fd = wq_fd_move(open("/dev/null", O_RDONLY | O_CLOEXEC), 3);
    if (l->config.null_fd < 0) {
        result = wq_fail(error, WQ_ERROR_SYSTEM, "Failed to open /dev/null: %s",
                         name_error(errno, text, sizeof text));
        goto fail;
    }
    for (; l->workers < options->workers; l->workers++) /* first: low numbers make cheap births */
        if (wq_child_init(&l->children[l->workers], &l->config) != 0) {
            result = wq_fail(error, errno == ENOMEM ? WQ_ERROR_NO_MEMORY : WQ_ERROR_SYSTEM,
                             "Failed to prepare worker %u of %u: %s", l->workers + 1,
                             options->workers, name_error(errno, text, sizeof text));
            goto fail;
        }
    if ((result = open_groups(l, options, error)) != WQ_OK ||
        (result = start_own_guard(l, options, error)) != WQ_OK)
        goto fail;
    *out = &l->runner;
    return WQ_OK;
fail:
    local_close(&l->runner);
    return result;
}
