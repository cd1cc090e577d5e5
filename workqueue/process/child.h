/* child.h - one program on this machine, from its start until it is reaped. */
#ifndef WQ_PROCESS_CHILD_H
#define WQ_PROCESS_CHILD_H

#include <workqueue/extend.h>

#include "workqueue/process/cgroup.h"
#include "workqueue/util/lines.h"
#include "workqueue/util/log.h"

/* What the kernel is asked to hold a program to; 0: no limit. */
typedef struct wq_child_limits {
    uint64_t output_bytes, memory_bytes;
    unsigned cpu_s, open_files, soft_open_files, processes;
} wq_child_limits;

/* What all children of a runner have in common. */
typedef struct wq_child_config {
    char *program; /* absolute path */
    int null_fd;   /* /dev/null, not below 3 */
    unsigned grace_ms, drain_ms;
    size_t max_line_bytes, stderr_tail_bytes;
    wq_child_limits limits;
    char **environment; /* of every program; ends with NULL */
    int token_in_environment, private_tmpdir, allow_new_privileges, ignores_realtime;
    wq_logger logger;
} wq_child_config;

/* What a slot keeps from run to run, so that a run that goes well allocates nothing. */
typedef struct wq_child {
    const wq_child_config *config;
    char *guard_line; /* in the guard's table; NULL without a guard; set before the first run */
    wq_cgroup *group; /* NULL: without a control group; set before the first run, too */
    int writers[2];   /* where the pipes' ends go; /dev/null between runs */
    char *stack;      /* of the child until it executes the program */
    char *buf;        /* what was read last */
    wq_lines lines;   /* of stdout */
    char *tail;       /* the end of stderr, a ring; NULL until a program writes there */
    size_t tail_len, tail_end;
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
