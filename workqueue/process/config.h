/* config.h - what all programs of a runner have in common. */
#ifndef WQ_PROCESS_CONFIG_H
#define WQ_PROCESS_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "workqueue/util/log.h"

/* What the kernel is asked to hold a program to; 0: no limit. */
typedef struct wq_child_limits {
    uint64_t output_bytes, memory_bytes;
    unsigned cpu_s, open_files, soft_open_files, processes;
} wq_child_limits;

typedef struct wq_child_config {
    char *program; /* absolute path */
    int null_fd;   /* /dev/null, not below 3 */
    unsigned grace_ms, drain_ms;
    size_t max_line_bytes, stderr_tail_bytes;
    wq_child_limits limits;
    char **environment; /* of every program; ends with NULL */
    char **kept_back;   /* names of the host's variables that programs do not get; ends with NULL */
    int token_in_environment, private_tmpdir, allow_new_privileges, ignores_realtime;
    wq_logger logger;
} wq_child_config;

#endif
