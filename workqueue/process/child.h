/* child.h - one program on this machine, from its start until it is reaped. */
#ifndef WQ_PROCESS_CHILD_H
#define WQ_PROCESS_CHILD_H

#include <workqueue/extend.h>

#include "workqueue/process/cgroup.h"
#include "workqueue/process/config.h"
#include "workqueue/process/tail.h"
#include "workqueue/util/lines.h"

/* What a slot keeps from run to run, so that a run that goes well allocates nothing. */
typedef struct wq_child {
    const wq_child_config *config;
    char *guard_line;  /* in the guard's table; NULL without a guard; set before the first run */
    wq_cgroup *group;  /* NULL: without a control group; set before the first run, too */
    int writers[2];    /* where the pipes' ends go; /dev/null between runs */
    char *stack;       /* of the child until it executes the program */
    char *buf;         /* what was read last */
    wq_lines lines;    /* of stdout */
    wq_tail tail;      /* of stderr */
    int64_t looked_at; /* for a debugger, which is there */
    int is_traced;
    char **envp; /* the environment with room for two more; NULL: it is the same for every job */
} wq_child;

/* 0, or -1 with errno and nothing is held. All is borrowed until the dispose. */
int wq_child_init(wq_child *child, const wq_child_config *config);
void wq_child_dispose(wq_child *child);

/* Runs the program and returns when it is reaped. One run at a time per child. The thread must
 * outlive the run: the kernel kills the program when it ends. */
void wq_child_run(wq_child *child, const wq_run *run, wq_outcome *outcome);

#endif
