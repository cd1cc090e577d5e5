/* cgroups.h - the control groups of a runner, one a slot, in one folder, which the guard, too, can
 * kill as a whole. */
#ifndef WQ_PROCESS_CGROUPS_H
#define WQ_PROCESS_CGROUPS_H

#include <workqueue/workqueue.h>

#include "workqueue/process/cgroup.h"
#include "workqueue/util/log.h"

typedef struct wq_cgroups {
    char *dir; /* NULL: there are none */
    int lock;  /* the folder; while we have it open, nobody takes it for left behind */
    int above; /* cgroup.procs of the folder it is in */
    wq_cgroup *slots;
    unsigned n;
} wq_cgroups;

/* Makes a folder with a control group per slot in `where`, or, if that is "auto", below our own,
 * and ends and removes what killed processes have left there. With "auto" it is no failure that we
 * may not: `groups->dir` is NULL then, and the log says why. */
int wq_cgroups_open(wq_cgroups *groups, const char *where, unsigned slots,
                    const wq_cgroup_limits *limits, const wq_logger *logger, wq_error *error);

/* Ends what there is, and removes it all. */
void wq_cgroups_close(wq_cgroups *groups);

/* The one of a slot; NULL if there are none. */
wq_cgroup *wq_cgroup_of(const wq_cgroups *groups, unsigned slot);

#endif
