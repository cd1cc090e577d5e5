/* plan.c - puts together what the program of one job is given and held to. */
#include "workqueue/process/plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "workqueue/process/environment.h"
#include "workqueue/util/folders.h"

#define TOKEN_IS "WORKQUEUE_API_TOKEN="
#define TMPDIR_IS "TMPDIR="
#define TRACE_IS "TRACEPARENT="

static void add_limit(wq_spawn_plan *p, int resource, uint64_t soft, uint64_t hard)
{
    p->limits[p->n_limits].resource = resource;
    p->limits[p->n_limits++].limit = (struct rlimit64){.rlim_cur = soft, .rlim_max = hard};
}

/* A file may become longer by one byte than is allowed, so that its size tells who wanted more. */
static void add_limits(wq_spawn_plan *p, const wq_child_config *config)
{
    const wq_child_limits *l = &config->limits;
    if (l->output_bytes > 0 && l->output_bytes < INT64_MAX) /* no file can be longer */
        add_limit(p, RLIMIT_FSIZE, l->output_bytes + 1, l->output_bytes + 1);
    if (l->memory_bytes > 0)
        add_limit(p, RLIMIT_AS, l->memory_bytes, l->memory_bytes);
    if (l->cpu_s > 0)
        add_limit(p, RLIMIT_CPU, l->cpu_s, (uint64_t)l->cpu_s + config->grace_ms / 1000 + 1);
    if (l->open_files > 0)
        add_limit(p, RLIMIT_NOFILE, l->open_files, l->open_files);
    else if (l->soft_open_files > 0)
        add_limit(p, RLIMIT_NOFILE, l->soft_open_files, RLIM64_INFINITY);
    if (l->processes > 0)
        add_limit(p, RLIMIT_NPROC, l->processes, l->processes);
    if (l->cpu_s > 0 || l->output_bytes > 0) /* their signals would leave one, token and all */
        add_limit(p, RLIMIT_CORE, 0, 0);
}

/* Beside the output, which is on a disk for such things; swept with it after a crash. */
static const char *make_tmpdir(wq_plan *plan, const wq_run *run)
{
    if (asprintf(&plan->tmpdir, TMPDIR_IS "%s.tmp", run->output_path) < 0) {
        plan->tmpdir = NULL;
        return "malloc";
    }
    if (mkdir(plan->tmpdir + strlen(TMPDIR_IS), 0700) == 0)
        return NULL;
    int saved = errno;
    free(plan->tmpdir);
    plan->tmpdir = NULL;
    errno = saved;
    return "mkdir TMPDIR";
}

int wq_plan_environment_new(char ***out, const wq_child_config *config)
{
    size_t n = wq_environment_count(config->environment);
    *out = calloc(n + 4, sizeof **out);
    if (*out == NULL)
        return -1;
    memcpy(*out, config->environment, n * sizeof **out);
    return 0;
}

/* Adds what is of this job only; -1 without memory. */
static int add_variables(wq_plan *plan, const wq_child_config *config, char **envp,
                         const wq_run *run)
{
    char **end = envp + wq_environment_count(config->environment);
    if (plan->tmpdir != NULL)
        *end++ = plan->tmpdir;
    if (run->traceparent != NULL) {
        snprintf(plan->trace, sizeof plan->trace, TRACE_IS "%s", run->traceparent);
        *end++ = plan->trace;
    }
    if (config->token_in_environment) {
        if (asprintf(&plan->token, TOKEN_IS "%s", run->params->api_token) < 0) {
            plan->token = NULL;
            return -1;
        }
        *end++ = plan->token;
    }
    *end = NULL;
    return 0;
}

const char *wq_plan_make(wq_plan *plan, const wq_child_config *config, char **envp,
                         const wq_run *run)
{
    const wq_params *params = run->params;
    const char *third = config->token_in_environment ? "-" : params->api_token;
    const char *argv[] = {config->program, params->server,   params->document_set_id,
                          third,           run->output_path, NULL};
    *plan = (wq_plan){.spawn = {.program = config->program,
                                .argv = plan->argv,
                                .envp = envp != NULL ? envp : config->environment,
                                .allow_new_privileges = config->allow_new_privileges,
                                .ignores_realtime = config->ignores_realtime}};
    memcpy(plan->argv, argv, sizeof argv);
    add_limits(&plan->spawn, config);
    const char *failed = config->private_tmpdir ? make_tmpdir(plan, run) : NULL;
    if (failed == NULL && envp != NULL && add_variables(plan, config, envp, run) != 0)
        failed = "malloc";
    return failed;
}

void wq_plan_dispose(wq_plan *plan, const wq_child_config *config)
{
    char text[128];
    const char *path = plan->tmpdir != NULL ? plan->tmpdir + strlen(TMPDIR_IS) : NULL;
    if (path != NULL && wq_remove_tree(path) != 0 && errno != ENOENT)
        wq_log(&config->logger, WQ_LOG_WARNING, "remove %s: %s", path,
               strerror_r(errno, text, sizeof text));
    free(plan->tmpdir);
    if (plan->token != NULL)
        explicit_bzero(plan->token, strlen(plan->token));
    free(plan->token);
}
