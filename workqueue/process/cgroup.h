/* cgroup.h - holds what a job has started together, by a control group (version 2).
 *
 * A process can leave its process group, and with it the reach of kill(-group); it cannot leave its
 * control group unless it may write to that file system. So each slot has one, which the program is
 * in before it executes, and at the end of a job everything in it is killed. */
#ifndef WQ_PROCESS_CGROUP_H
#define WQ_PROCESS_CGROUP_H

#include <stdint.h>

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
    int has_memory_limit; /* of its own, or of a folder around it that does not hold us, too */
    int dir;              /* a child can be born into it; -1: it can only enter, for good */
    int procs;            /* who writes "0" here is in it from then on */
    int events;           /* tells whether there is somebody in it */
    int kill;             /* "1" kills all that are in it */
    int memory;           /* tells how much memory is charged to it; -1: that is not counted */
} wq_cgroup;

/* Makes the folder and opens the files of a group whose parent, slot, number and limits are set. 0,
 * or -1 with errno. */
int wq_cgroup_make(wq_cgroup *group);

/* Closes its files; the folder stays. */
void wq_cgroup_close(wq_cgroup *group);

/* Nobody can be born there, as it turned out. */
void wq_cgroup_bar_births(wq_cgroup *group);

/* How much memory those in it have: what is charged to it where that is counted, else what of them
 * is in RAM. 0: not known; also for NULL. */
uint64_t wq_cgroup_memory(const wq_cgroup *group);

/* Before a job: takes a new group if this one still holds memory of the jobs before, as what they
 * have left in a tmpfs does, which would be missing to the next. Nothing for NULL. */
void wq_cgroup_refresh(wq_cgroup *group);

/* Kills all that are in it. Nothing for NULL. */
void wq_cgroup_kill(const wq_cgroup *group);

/* The same, and waits until it is empty: 0, or -1 if somebody is left after a second. Then it is as
 * good as new, whatever has been done to it. Costs a look if nobody was in it. */
int wq_cgroup_end(wq_cgroup *group);

/* Is somebody in the group with this cgroup.events? Unreadable counts as empty. */
int wq_cgroup_has_somebody(int events);

/* Waits for at most a second until it is empty; 0, or -1 if it is not. */
int wq_cgroup_wait_until_empty(int events);

#endif
