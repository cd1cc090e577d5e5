/* plan.h - what the program of one job is given and held to: arguments, environment, TMPDIR,
 * limits. */
#ifndef WQ_PROCESS_PLAN_H
#define WQ_PROCESS_PLAN_H

#include <workqueue/extend.h>

#include "workqueue/process/config.h"
#include "workqueue/process/spawn.h"

typedef struct wq_plan {
    wq_spawn_plan spawn; /* with all that it points to, as it is until the program has ended */
    char *argv[6];
    char *token;  /* "WORKQUEUE_API_TOKEN=TOKEN", owned; NULL: it has it as an argument */
    char *tmpdir; /* "TMPDIR=PATH", owned; NULL: it has none of its own */
    char trace[80]; /* "TRACEPARENT=TRACE" */
} wq_plan;

/* The environment with room for what is of one job only. `*out` is owned, free(). 0, or -1 without
 * memory. */
int wq_plan_environment_new(char ***out, const wq_child_config *config);

/* Fills in all but the descriptors, the control group and the guard's line. Makes the TMPDIR, if
 * there is to be one. NULL, or the name of the call that failed, with errno. Whatever the result,
 * wq_plan_dispose() must follow. */
const char *wq_plan_make(wq_plan *plan, const wq_child_config *config, char **envp,
                         const wq_run *run);

/* Removes the TMPDIR and forgets the token. The program has ended. */
void wq_plan_dispose(wq_plan *plan, const wq_child_config *config);

#endif
