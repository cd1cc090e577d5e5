/* spawn.h - starts a program: in its own process group, in its control group, with three
 * descriptors and nothing else of ours. */
#ifndef WQ_PROCESS_SPAWN_H
#define WQ_PROCESS_SPAWN_H

#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "workqueue/process/cgroup.h"

enum { WQ_SPAWN_LIMITS = 6 };

typedef struct wq_spawn_plan {
    const char *program; /* absolute path */
    char *const *argv, *const *envp;
    int fds[3]; /* its stdin, stdout, stderr; none below 3 */
    int allow_new_privileges;
    int is_traced, ignores_realtime; /* as below */
    wq_cgroup *group;                /* NULL: none */
    char *guard_line;                /* entered by the child; NULL: there is no guard */
    unsigned n_limits;
    struct {
        int resource;
        struct rlimit64 limit;
    } limits[WQ_SPAWN_LIMITS];
    /* out, once it has ended */
    const char *failed; /* the call that failed in the child, or NULL: the program ran */
    int error;          /* its errno */
    /* of wq_spawn() only */
    int enter;        /* cgroup.procs, to be written to; -1: there is no need */
    int shares_files; /* our table of descriptors, until it has a copy of the lowest */
    int waits;        /* the calling thread, for the execve */
    int handles_none;
    pid_t host;
    atomic_int has_begun; /* the child has executed something */
} wq_spawn_plan;

/* Does the host ignore signals from SIGRTMIN on? Half of all that are to be reset for each program,
 * and hardly anybody does: so it is asked once, when the runner is opened. */
int wq_spawn_ignores_realtime(void);

/* Has this thread a debugger? One takes a child that runs beside us for one with memory of its own,
 * and its breakpoints out of that: then the child is waited for, which debuggers know. */
int wq_spawn_is_traced(void);

/* What the child stands on until it executes the program; NULL without memory. */
char *wq_spawn_stack_new(void);
void wq_spawn_stack_free(char *stack);

/* The child's pid and `*pidfd`, close-on-exec; -1, both, with errno if there is none. It may still
 * be about to execute the program: until it has ended and been reaped, the plan, all that it points
 * to, its descriptors and the stack stay as they are. The calling thread must outlive it, as the
 * kernel kills it when the thread ends. */
pid_t wq_spawn(wq_spawn_plan *plan, char *stack, int *pidfd);

/* Of one that has ended. Some kernels kill a child at its birth into a control group, if the one
 * that we are in ourselves was ever killed as a whole (see renew() in cgroup.c). Nonzero: so it
 * was; nobody is born there any more, and wq_spawn() with the same plan will have it enter. */
int wq_spawn_died_at_birth(wq_spawn_plan *plan);

#endif
