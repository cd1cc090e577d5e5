/* child.c - one program on this machine: spawn, read, kill, reap.
 *
 * A run is one poll loop over four descriptors: the program's stdout and stderr, its pidfd, and the
 * cancel_fd of the run. The program has ended when the pidfd says so, whatever its pipes do; they
 * are read for a bounded time after, as a grandchild may hold them for ever. Every signal is sent
 * before the program is reaped: as long as it is a zombie, its number and its group's are not
 * given to anybody else.
 *
 *   plan.c    what it is given         spawn.c   from clone to execve
 *   ending.c  how it ended, in words   cgroup.c  what it has started besides
 */
#include "workqueue/process/child.h"

#include "workqueue/process/ending.h"
#include "workqueue/process/fds.h"
#include "workqueue/process/group.h"
#include "workqueue/process/guard.h"
#include "workqueue/process/output.h"
#include "workqueue/process/plan.h"
#include "workqueue/process/spawn.h"
#include "workqueue/util/clocks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    BUF_BYTES = 64 * 1024, /* as much as a pipe holds */
    LOOK_AGAIN_MS = 1000,
    MEASURE_EVERY_MS = 1000,
    REST_READS = 16, /* as much as a pipe can be made to hold by default: 1 MiB */
};

/* ---- the run --------------------------------------------------------------------------------- */

enum { OUT, ERR, EXIT, CANCEL, N_FDS };

typedef struct live {
    wq_child *child;
    const wq_run *run;
    wq_plan plan;
    pid_t pid;
    struct pollfd fds[N_FDS]; /* -1: not, or no longer, of interest */
    int pidfd;
    int64_t deadline;   /* of grace or drain; -1: none */
    int64_t measure_at; /* its memory; -1: never */
    int exited, cancelled;
    int blind;               /* the errno of a poll() that failed, for which it was killed */
    int left_somebody;       /* a process that it has started ran on when it ended */
    char *complaint;         /* about its output, before anybody else was killed */
    int64_t begun, first_at; /* when it was started, and when it first wrote to stdout, or 0 */
    size_t lines;            /* that it wrote there */
    struct rusage usage;     /* once reaped: of it and of all that it has waited for */
} live;

/* A pipe for the child to write to, its end at the slot's number. Only our end must not block; the
 * other one is the program's. */
static int open_pipe(int *reader, int writer)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return -1;
    /* Below 3 (the host may have closed its own) it would be in the way of the child's. */
    *reader = wq_fd_move(fds[0], 3);
    int moved = dup3(fds[1], writer, O_CLOEXEC);
    int saved = errno;
    close(fds[1]);
    errno = saved;
    return *reader < 0 || moved < 0 ? -1 : fcntl(*reader, F_SETFL, O_NONBLOCK);
}

/* Our copies, which the child may still have to take over as long as it has not ended. The numbers
 * stay the slot's. */
static void close_writers(const wq_child *child)
{
    for (int i = 0; i < 2; i++)
        while (dup3(child->config->null_fd, child->writers[i], O_CLOEXEC) < 0 && errno == EINTR)
            ;
}
/* By the bare call, which also says what was used. */
static int reap_program(live *l, siginfo_t *info, int flags)
{
    long result;
    info->si_pid = 0;
    do
        result = syscall(SYS_waitid, P_PIDFD, l->pidfd, info, WEXITED | flags, &l->usage);
    while (result != 0 && errno == EINTR);
    return (int)result;
}

static void leave_guard(const wq_child *child)
{
    if (child->guard_line != NULL)
        wq_guard_clear(child->guard_line);
}
/* A debugger may come at any time, but a look for one took 14 us here: so there is one a second. */
static int is_traced(wq_child *child)
{
    int64_t now = wq_monotonic_ms();
    if (child->looked_at == 0 || now - child->looked_at >= LOOK_AGAIN_MS) {
        child->looked_at = now;
        child->is_traced = wq_spawn_is_traced();
    }
    return child->is_traced;
}

/* With the writers' ends as its stdout and stderr. NULL, or the name of the call that failed. */
static const char *plan_program(live *l)
{
    wq_child *child = l->child;
    const wq_child_config *config = child->config;
    const char *failed = wq_plan_make(&l->plan, config, child->envp, l->run);
    wq_spawn_plan *p = &l->plan.spawn;
    p->fds[0] = config->null_fd;
    p->fds[1] = child->writers[0];
    p->fds[2] = child->writers[1];
    p->is_traced = is_traced(child);
    p->group = child->group;
    p->guard_line = child->guard_line;
    return failed;
}

/* Starts the program; NULL, or the name of the call that failed. That it could not be executed is
 * seen at its end. */
static const char *start_program(live *l)
{
    const char *failed = plan_program(l);
    if (failed != NULL)
        return failed;
    wq_cgroup_refresh(l->child->group);
    l->begun = wq_monotonic_ms();
    l->measure_at =
        l->child->group != NULL && l->run->told_memory != NULL ? l->begun + MEASURE_EVERY_MS : -1;
    l->pid = wq_spawn(&l->plan.spawn, l->child->stack, &l->pidfd);
    l->fds[EXIT].fd = l->pidfd;
    return l->pid < 0 ? "clone" : NULL;
}

/* Once more, if it was killed at its birth and this can be avoided; -1 if not. The one that is dead
 * is reaped afterwards: if there is no other, it is the one whose end is seen. */
static int start_program_again(live *l)
{
    siginfo_t info;
    int pidfd, dead = l->pidfd;
    if (l->cancelled || !wq_spawn_died_at_birth(&l->plan.spawn))
        return -1;
    pid_t pid = wq_spawn(&l->plan.spawn, l->child->stack, &pidfd);
    if (pid < 0) {
        l->plan.spawn.failed = "clone";
        l->plan.spawn.error = errno;
        return -1;
    }
    reap_program(l, &info, 0);
    close(dead);
    l->pid = pid;
    l->pidfd = l->fds[EXIT].fd = pidfd;
    return 0;
}

/* Opens the pipes and starts the program; -1 and a sentence if not. */
static int open_live(live *l, wq_outcome *outcome)
{
    const wq_child *child = l->child;
    const char *failed = "pipe";
    if (open_pipe(&l->fds[OUT].fd, child->writers[0]) == 0 &&
        open_pipe(&l->fds[ERR].fd, child->writers[1]) == 0)
        failed = start_program(l);
    if (failed == NULL)
        return 0;
    wq_ending_of_no_start(outcome, child->config->program, failed, errno);
    close_writers(child);
    return -1;
}

/* ---- while it runs --------------------------------------------------------------------------- */

static void on_line(void *user, const char *line, size_t len)
{
    live *l = user;
    l->lines++;
    l->run->report(l->run->user, line, len);
}

/* For the error, and for those who follow it. */
static void take_stderr(live *l, size_t n)
{
    wq_tail_add(&l->child->tail, l->child->buf, n);
    if (l->run->told_stderr != NULL)
        l->run->told_stderr(l->run->user, l->child->buf, n);
}

/* Reads once from a pipe that poll() has spoken of, and closes it at its end. */
static void read_pipe(live *l, int which)
{
    struct pollfd *p = &l->fds[which];
    wq_child *child = l->child;
    if (p->fd < 0 || p->revents == 0)
        return;
    ssize_t n = 0;
    if (p->revents != POLLHUP)
        n = read(p->fd, child->buf, BUF_BYTES);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0 && which == OUT && l->first_at == 0)
        l->first_at = wq_monotonic_ms();
    if (n > 0 && which == ERR)
        take_stderr(l, (size_t)n);
    else if (n > 0)
        wq_lines_feed(&child->lines, child->buf, (size_t)n, on_line, l);
    /* No writer is left, and this was all: no need to be told once more. */
    if (n <= 0 || ((p->revents & POLLHUP) != 0 && n < BUF_BYTES))
        wq_fd_close(&p->fd);
}

/* The program itself may have gone to another group, which is not ours to signal as a whole. Or it
 * has not made its own yet, which it may do between the two looks: a signal that found no group
 * goes to the program whatever the second one says. */
static void signal_group(const live *l, int number)
{
    if (kill(-l->pid, number) != 0 || getpgid(l->pid) != l->pid)
        kill(l->pid, number);
}

static void on_cancel(live *l)
{
    l->fds[CANCEL].fd = -1;
    if (l->exited) {
        l->deadline = 0; /* its own end counts; only the reading is cut short */
        return;
    }
    l->cancelled = 1;
    signal_group(l, SIGTERM);
    signal_group(l, SIGCONT); /* a stopped one cannot take the chance that the grace is */
    l->deadline = wq_monotonic_ms() + l->child->config->grace_ms;
}

static void on_exit_seen(live *l)
{
    if (start_program_again(l) == 0)
        return;
    l->exited = 1;
    l->fds[EXIT].fd = -1;
    close_writers(l->child);
    l->deadline = wq_monotonic_ms() + l->child->config->drain_ms;
}

/* Nonzero if the deadline of the draining has passed; that of the grace is acted upon. */
static int on_deadline(live *l)
{
    if (l->deadline < 0 || wq_monotonic_ms() < l->deadline)
        return 0;
    if (l->exited) {
        l->left_somebody = 1; /* who still holds a pipe */
        return 1;
    }
    signal_group(l, SIGKILL);
    l->deadline = -1;
    return 0;
}

static void measure_memory(live *l)
{
    if (l->measure_at < 0 || l->exited || wq_monotonic_ms() < l->measure_at)
        return;
    uint64_t bytes = wq_cgroup_memory(l->child->group);
    if (bytes > 0)
        l->run->told_memory(l->run->user, bytes);
    l->measure_at = bytes > 0 ? wq_monotonic_ms() + MEASURE_EVERY_MS : -1;
}

static int time_left(const live *l)
{
    int64_t until = l->deadline;
    if (l->measure_at >= 0 && !l->exited && (until < 0 || l->measure_at < until))
        until = l->measure_at;
    if (until < 0)
        return -1;
    int64_t left = until - wq_monotonic_ms();
    return left < 0 ? 0 : left < 1000000 ? (int)left : 1000000;
}

/* Until the program has ended and its pipes are at their end, or have had their time. */
static void supervise(live *l)
{
    while (!l->exited || l->fds[OUT].fd >= 0 || l->fds[ERR].fd >= 0) {
        if (poll(l->fds, N_FDS, time_left(l)) < 0) {
            if (errno == EINTR)
                continue;
            l->blind = errno; /* no memory even for a poll: the reaping waits for its end */
            signal_group(l, SIGKILL);
            close_writers(l->child);
            return;
        }
        read_pipe(l, OUT);
        read_pipe(l, ERR);
        if (l->fds[EXIT].fd >= 0 && l->fds[EXIT].revents != 0)
            on_exit_seen(l);
        if (l->fds[CANCEL].fd >= 0 && l->fds[CANCEL].revents != 0)
            on_cancel(l);
        if (on_deadline(l))
            return;
        measure_memory(l);
    }
}

/* ---- its end --------------------------------------------------------------------------------- */

/* What was in the pipes when the group died; bounded, since a process of another group may write.
 */
static void read_rest(live *l)
{
    struct pollfd *pipes = l->fds;
    for (int i = 0; i < REST_READS && (pipes[OUT].fd >= 0 || pipes[ERR].fd >= 0); i++) {
        if (poll(pipes, 2, 0) <= 0)
            return;
        read_pipe(l, OUT);
        read_pipe(l, ERR);
    }
}

/* And those who have left the group. Whoever cannot be killed now (the kernel waits for a disk) is
 * still in the control group when the next job's end comes. */
static void end_descendants(const live *l)
{
    if (wq_cgroup_end(l->child->group) != 0)
        wq_log(&l->child->config->logger, WQ_LOG_WARNING,
               "a process that a job's program has started does not end by SIGKILL");
}

/* While those whom it has left behind are still there: of one that ended well, what is wrong. */
static void look_at_output(live *l, const siginfo_t *info)
{
    if (info->si_code != CLD_EXITED || info->si_status != 0 || l->cancelled ||
        l->plan.spawn.failed != NULL || l->run->output_path == NULL)
        return;
    l->complaint = wq_output_complaint(l->run->output_path);
    if (l->complaint != NULL && !l->left_somebody)
        l->left_somebody = wq_group_runs(l->pid);
}

/* Ends what is left of the group and takes the program's status. -1 if somebody else has reaped the
 * program; then its number may be a stranger's, and nothing is signalled. */
static int end_group(live *l, siginfo_t *info)
{
    if (reap_program(l, info, WNOWAIT) != 0) {
        end_descendants(l);
        leave_guard(l->child);
        return -1;
    }
    look_at_output(l, info);
    kill(-l->pid, SIGKILL);
    end_descendants(l);
    read_rest(l);
    leave_guard(l->child);
    return reap_program(l, info, 0);
}

static uint64_t cpu_ms(const struct rusage *usage)
{
    return (uint64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000 +
           (uint64_t)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1000;
}

static char *describe_blindness(const live *l)
{
    char text[128], *sentence;
    int n = asprintf(&sentence, "Killed, as it could not be watched: poll: %s",
                     strerror_r(l->blind, text, sizeof text));
    return n < 0 ? NULL : sentence;
}

static void describe_end(live *l, const siginfo_t *info, wq_outcome *outcome)
{
    const wq_child *child = l->child;
    int64_t ran_ms = wq_monotonic_ms() - l->begun;
    wq_ending ending = {
        .config = child->config,
        .run = l->run,
        .tail = &child->tail,
        .code = info->si_code == CLD_EXITED ? info->si_status : -info->si_status,
        .ran_ms = ran_ms,
        .silent_ms = l->first_at != 0 ? l->first_at - l->begun : ran_ms,
        .lines = l->lines,
        .cpu_ms = cpu_ms(&l->usage),
        .complaint = l->complaint,
        .left_somebody = l->left_somebody,
    };
    if (l->cancelled) {
        outcome->cancelled = 1;
        outcome->error = strdup("Cancelled");
    } else if (l->blind != 0) {
        outcome->error = describe_blindness(l);
    } else if (l->plan.spawn.failed != NULL) {
        wq_ending_of_no_start(outcome, child->config->program, l->plan.spawn.failed,
                              l->plan.spawn.error);
    } else {
        l->complaint = NULL;
        wq_ending_describe(&ending, outcome);
    }
}

static int is_cancelled(const wq_run *run)
{
    struct pollfd p = {.fd = run->cancel_fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

static void dispose_live(live *l)
{
    wq_fd_close(&l->fds[OUT].fd);
    wq_fd_close(&l->fds[ERR].fd);
    wq_fd_close(&l->pidfd);
    wq_plan_dispose(&l->plan, l->child->config);
    free(l->complaint);
}

void wq_child_run(wq_child *child, const wq_run *run, wq_outcome *outcome)
{
    live l = {.child = child, .run = run, .pidfd = -1, .deadline = -1};
    siginfo_t info;
    *outcome = (wq_outcome){.returncode = WQ_RETURNCODE_OWN};
    for (int i = 0; i < N_FDS; i++)
        l.fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    l.fds[CANCEL].fd = run->cancel_fd;
    wq_tail_clear(&child->tail);
    if (is_cancelled(run)) {
        outcome->cancelled = 1;
        outcome->error = strdup("Cancelled");
        return;
    }
    if (open_live(&l, outcome) == 0) {
        supervise(&l);
        int known = end_group(&l, &info) == 0;
        wq_lines_finish(&child->lines, on_line, &l);
        if (known)
            describe_end(&l, &info, outcome);
        else
            outcome->error =
                strdup("The exit code was lost: this process ignores SIGCHLD, or waits for "
                       "children that are not its own");
    }
    dispose_live(&l);
}

/* ---- slots ----------------------------------------------------------------------------------- */

int wq_child_init(wq_child *child, const wq_child_config *config)
{
    memset(child, 0, sizeof *child);
    child->config = config;
    for (int i = 0; i < 2; i++)
        child->writers[i] = fcntl(config->null_fd, F_DUPFD_CLOEXEC, 3);
    wq_lines_init(&child->lines, config->max_line_bytes);
    wq_tail_init(&child->tail, config->stderr_tail_bytes);
    child->buf = malloc(BUF_BYTES);
    child->stack = wq_spawn_stack_new();
    if (child->writers[0] >= 0 && child->writers[1] >= 0 && child->buf != NULL &&
        child->stack != NULL && wq_plan_environment_new(&child->envp, config) == 0)
        return 0;
    int saved = errno;
    wq_child_dispose(child);
    errno = saved;
    return -1;
}

void wq_child_dispose(wq_child *child)
{
    wq_fd_close(&child->writers[0]);
    wq_fd_close(&child->writers[1]);
    wq_spawn_stack_free(child->stack);
    free(child->buf);
    free(child->envp);
    wq_tail_dispose(&child->tail);
    wq_lines_dispose(&child->lines);
    memset(child, 0, sizeof *child);
}
