/* local.h - the runner that runs a program on this machine. */
#ifndef WQ_PROCESS_LOCAL_H
#define WQ_PROCESS_LOCAL_H

#include <workqueue/extend.h>

#include "workqueue/process/child.h"
#include "workqueue/util/log.h"

typedef struct wq_local_options {
    const char *program; /* absolute path */
    unsigned workers;    /* slots */
    unsigned grace_ms, drain_ms;
    size_t max_line_bytes, stderr_tail_bytes;
    wq_child_limits limits;
    const char *const *environment; /* as in wq_options */
    const char *cgroup_dir;         /* likewise */
    const char *guard_path;         /* likewise */
    int token_in_environment, private_tmpdir, allow_new_privileges;
    wq_logger logger;
} wq_local_options;

/* Opens the runner; options are borrowed for the call. Fails if `program` is no executable file, or
 * if this process lets nobody learn how a child ended. */
int wq_local_open(wq_runner **out, const wq_local_options *options, wq_error *error);

#endif
