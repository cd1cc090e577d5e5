/* group.h - who is in a process group. */
#ifndef WQ_PROCESS_GROUP_H
#define WQ_PROCESS_GROUP_H

#include <sys/types.h>

/* Nonzero if a process of this group runs, whoever leads it. Reads all of /proc. */
int wq_group_runs(pid_t group);

#endif
