/* cgroup.h - holds what a job has started together, by control groups (version 2).
 *
 * A process can leave its process group, and with it the reach of kill(-group); it cannot leave its
 * control group unless it may write to that file system. So each slot has one, which the program is
 * in before it executes, and at the end of a job everything in it is killed. They are all in one
 * folder, which the guard, too, can kill as a whole. */
#ifndef WQ_CGROUP_H
#define WQ_CGROUP_H

#include <stdint.h>
#include <workqueue/workqueue.h>

#include "workqueue/util/util.h"

/* Of a job with all that it has started; 0: none. Kept where the folder has the controllers. */
typedef struct wq_cgroup_limits {
    uint64_t memory_bytes;
    unsigned processes;
} wq_cgroup_limits;

/* The control group of one slot, with files of it, none below 3. */
typedef struct wq_cgroup {
    int parent; /* the folder of them all, borrowed */
    unsigned slot, made;
    wq_cgroup_limits limits;
    int dir;    /* a child can be born into it; -1: it can only enter, for good */
    int procs;  /* who writes "0" here is in it from then on */
    int events; /* tells whether there is somebody in it */
    int kill;   /* "1" kills all that are in it */
} wq_cgroup;

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

/* Nobody can be born there, as it turned out. */
void wq_cgroup_bar_births(wq_cgroup *group);

/* Kills all that are in it. Nothing for NULL. */
void wq_cgroup_kill(const wq_cgroup *group);

/* The same, and waits until it is empty: 0, or -1 if somebody is left after a second. Then it is as
 * good as new, whatever has been done to it. Costs a look if nobody was in it. */
int wq_cgroup_end(wq_cgroup *group);

#endif
