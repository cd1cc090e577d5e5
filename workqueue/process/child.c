/* child.c - one program on this machine: spawn, read, kill, reap.
 *
 * A run is one poll loop over four descriptors: the program's stdout and stderr, its pidfd, and the
 * cancel_fd of the run. The program has ended when the pidfd says so, whatever its pipes do; they
 * are read for a bounded time after, as a grandchild may hold them for ever. Every signal is sent
 * before the program is reaped: as long as it is a zombie, its number and its group's are not
 * given to anybody else.
 */
#include "workqueue/process/child.h"

#include "workqueue/process/environment.h"
#include "workqueue/process/fds.h"
#include "workqueue/process/guard.h"
#include "workqueue/process/spawn.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/folders.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    BUF_BYTES = 64 * 1024, /* as much as a pipe holds */
    LOOK_AGAIN_MS = 1000,
    REST_READS = 16, /* as much as a pipe can be made to hold by default: 1 MiB */
    OUR_FAILURE = -999
};

#define TOKEN_IS "WORKQUEUE_API_TOKEN="
#define TMPDIR_IS "TMPDIR="

/* ---- the run --------------------------------------------------------------------------------- */

enum { OUT, ERR, EXIT, CANCEL, N_FDS };

typedef struct live {
    wq_child *child;
    const wq_run *run;
    wq_spawn_plan plan; /* with all that it points to, as it is until the program has ended */
    char *argv[6];
    char *token; /* "WORKQUEUE_API_TOKEN=TOKEN", owned; NULL: it has it as an argument */
    pid_t pid;
    struct pollfd fds[N_FDS]; /* -1: not, or no longer, of interest */
    int pidfd;
    int64_t deadline; /* of grace or drain; -1: none */
    int exited, cancelled;
    int blind;           /* the errno of a poll() that failed, for which it was killed */
    char *tmpdir;        /* "TMPDIR=PATH", owned; NULL: it has none of its own */
    struct rusage usage; /* once reaped: of it and of all that it has waited for */
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

static void fail_to_start(wq_outcome *outcome, const char *program, const char *call, int error)
{
    char text[128];
    const char *hint = "";
    if (strcmp(call, "execve") == 0) {
        if (error == ENOEXEC)
            hint = " (it is no program for this machine; a script needs a #! line)";
        else if (error == ENOENT && access(program, F_OK) == 0)
            hint = " (its interpreter, as its #! line names it)";
        call = "";
    }
    if (asprintf(&outcome->error, "Failed to start %s: %s%s%s%s", program, call,
                 *call != '\0' ? ": " : "", strerror_r(error, text, sizeof text), hint) < 0)
        outcome->error = NULL;
}

/* By the bare call, which also says what was used. */
static int reap(live *l, siginfo_t *info, int flags)
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

/* ---- what it is given and held to ---- */

static void add_limit(wq_spawn_plan *p, int resource, uint64_t soft, uint64_t hard)
{
    p->limits[p->n_limits].resource = resource;
    p->limits[p->n_limits++].limit = (struct rlimit64){.rlim_cur = soft, .rlim_max = hard};
}

/* A file may become longer by one byte than is allowed, so that its size tells who wanted more. */
static void plan_limits(wq_spawn_plan *p, const wq_child_config *config)
{
    const wq_child_limits *l = &config->limits;
    if (l->output_bytes > 0 && l->output_bytes < INT64_MAX) /* no file can be longer */
        add_limit(p, RLIMIT_FSIZE, l->output_bytes + 1, l->output_bytes + 1);
    if (l->memory_bytes > 0)
        add_limit(p, RLIMIT_AS, l->memory_bytes, l->memory_bytes);
    if (l->cpu_s > 0)
        add_limit(p, RLIMIT_CPU, l->cpu_s, (uint64_t)l->cpu_s + config->grace_ms / 1000 + 1);
    if (l->open_files > 0)
        add_limit(p, RLIMIT_NOFILE, l->open_files, l->open_files);
    else if (l->soft_open_files > 0)
        add_limit(p, RLIMIT_NOFILE, l->soft_open_files, RLIM64_INFINITY);
    if (l->processes > 0)
        add_limit(p, RLIMIT_NPROC, l->processes, l->processes);
    if (l->cpu_s > 0 || l->output_bytes > 0) /* their signals would leave one, token and all */
        add_limit(p, RLIMIT_CORE, 0, 0);
}

/* Beside the output, which is on a disk for such things; swept with it after a crash. */
static int make_tmpdir(live *l, wq_outcome *outcome)
{
    const wq_child_config *config = l->child->config;
    if (!config->private_tmpdir)
        return 0;
    if (asprintf(&l->tmpdir, TMPDIR_IS "%s.tmp", l->run->output_path) < 0) {
        l->tmpdir = NULL;
        return -1;
    }
    if (mkdir(l->tmpdir + strlen(TMPDIR_IS), 0700) == 0)
        return 0;
    fail_to_start(outcome, config->program, "mkdir TMPDIR", errno);
    free(l->tmpdir);
    l->tmpdir = NULL;
    return -1;
}

static void remove_tmpdir(live *l)
{
    char text[128];
    const char *path = l->tmpdir != NULL ? l->tmpdir + strlen(TMPDIR_IS) : NULL;
    if (path != NULL && wq_remove_tree(path) != 0 && errno != ENOENT)
        wq_log(&l->child->config->logger, WQ_LOG_WARNING, "remove %s: %s", path,
               strerror_r(errno, text, sizeof text));
    free(l->tmpdir);
}

/* Adds what is of this job only; -1 without memory. */
static int plan_environment(live *l)
{
    const wq_child *child = l->child;
    if (child->envp == NULL)
        return 0;
    char **end = child->envp + wq_environment_count(child->config->environment);
    if (l->tmpdir != NULL)
        *end++ = l->tmpdir;
    if (child->config->token_in_environment) {
        if (asprintf(&l->token, TOKEN_IS "%s", l->run->params->api_token) < 0) {
            l->token = NULL;
            return -1;
        }
        *end++ = l->token;
    }
    *end = NULL;
    l->plan.envp = child->envp;
    return 0;
}

static void forget_token(live *l)
{
    if (l->token != NULL)
        explicit_bzero(l->token, strlen(l->token));
    free(l->token);
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

/* With the writers' ends as its stdout and stderr; -1 without memory. */
static int plan(live *l)
{
    const wq_child_config *config = l->child->config;
    const wq_params *params = l->run->params;
    const char *third = config->token_in_environment ? "-" : params->api_token;
    const char *argv[] = {config->program, params->server,      params->document_set_id,
                          third,           l->run->output_path, NULL};
    memcpy(l->argv, argv, sizeof argv);
    l->plan = (wq_spawn_plan){.program = config->program,
                              .argv = l->argv,
                              .envp = config->environment,
                              .fds = {config->null_fd, l->child->writers[0], l->child->writers[1]},
                              .allow_new_privileges = config->allow_new_privileges,
                              .is_traced = is_traced(l->child),
                              .ignores_realtime = config->ignores_realtime,
                              .group = l->child->group,
                              .guard_line = l->child->guard_line};
    plan_limits(&l->plan, config);
    return plan_environment(l);
}

/* Starts the program; -1 and a sentence if not. That it could not be executed is seen at its end.
 */
static int start(live *l, wq_outcome *outcome)
{
    if (plan(l) != 0)
        return -1;
    wq_cgroup_refresh(l->child->group);
    l->pid = wq_spawn(&l->plan, l->child->stack, &l->pidfd);
    if (l->pid < 0)
        fail_to_start(outcome, l->child->config->program, "clone", errno);
    l->fds[EXIT].fd = l->pidfd;
    return l->pid < 0 ? -1 : 0;
}

/* Once more, if it was killed at its birth and this can be avoided; -1 if not. The one that is dead
 * is reaped afterwards: if there is no other, it is the one whose end is seen. */
static int start_again(live *l)
{
    siginfo_t info;
    int pidfd, dead = l->pidfd;
    if (l->cancelled || !wq_spawn_died_at_birth(&l->plan))
        return -1;
    pid_t pid = wq_spawn(&l->plan, l->child->stack, &pidfd);
    if (pid < 0) {
        l->plan.failed = "clone";
        l->plan.error = errno;
        return -1;
    }
    reap(l, &info, 0);
    close(dead);
    l->pid = pid;
    l->pidfd = l->fds[EXIT].fd = pidfd;
    return 0;
}

static int open_live(live *l, wq_outcome *outcome)
{
    const wq_child *child = l->child;
    int result = -1;
    if (open_pipe(&l->fds[OUT].fd, child->writers[0]) != 0 ||
        open_pipe(&l->fds[ERR].fd, child->writers[1]) != 0)
        fail_to_start(outcome, child->config->program, "pipe", errno);
    else
        result = start(l, outcome);
    if (result != 0)
        close_writers(child);
    return result;
}

/* Keeps the end of stderr. Without memory for it, the error will be a shorter one. */
static void add_to_tail(wq_child *child, const char *data, size_t n)
{
    size_t size = child->config->stderr_tail_bytes;
    if (size == 0 || (child->tail == NULL && (child->tail = malloc(size)) == NULL))
        return;
    if (n > size) {
        data += n - size;
        n = size;
    }
    size_t first = n < size - child->tail_end ? n : size - child->tail_end;
    memcpy(child->tail + child->tail_end, data, first);
    memcpy(child->tail, data + first, n - first);
    child->tail_end = (child->tail_end + n) % size;
    child->tail_len = child->tail_len + n < size ? child->tail_len + n : size;
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
    if (n > 0 && which == ERR)
        add_to_tail(child, child->buf, (size_t)n);
    else if (n > 0)
        wq_lines_feed(&child->lines, child->buf, (size_t)n, l->run->report, l->run->user);
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
    if (start_again(l) == 0)
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
    if (l->exited)
        return 1;
    signal_group(l, SIGKILL);
    l->deadline = -1;
    return 0;
}

static int time_left(const live *l)
{
    if (l->deadline < 0)
        return -1;
    int64_t left = l->deadline - wq_monotonic_ms();
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
    }
}

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

/* Ends what is left of the group and takes the program's status. -1 if somebody else has reaped the
 * program; then its number may be a stranger's, and nothing is signalled. */
static int end_group(live *l, siginfo_t *info)
{
    if (reap(l, info, WNOWAIT) != 0) {
        end_descendants(l);
        leave_guard(l->child);
        return -1;
    }
    kill(-l->pid, SIGKILL);
    end_descendants(l);
    read_rest(l);
    leave_guard(l->child);
    return reap(l, info, 0);
}

/* "Exited with code N" and the end of stderr, as a C string: a NUL byte in it becomes "?". */
static char *exit_text(const wq_child *child, int code)
{
    char head[64];
    size_t size = child->config->stderr_tail_bytes, len = child->tail_len;
    size_t n = (size_t)snprintf(head, sizeof head, "Exited with code %d\nstderr:\n", code);
    char *text = malloc(n + len + 1);
    if (text == NULL)
        return NULL;
    memcpy(text, head, n);
    for (size_t i = 0; i < len; i++) {
        char c = child->tail[(child->tail_end + size - len + i) % size];
        text[n + i] = c != '\0' ? c : '?';
    }
    text[n + len] = '\0';
    return text;
}

static uint64_t cpu_ms(const struct rusage *usage)
{
    return (uint64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000 +
           (uint64_t)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1000;
}

/* Was this the end of one that used too much? A shell ends with 128 and the signal that its last
 * command died of, and others send SIGKILL, too: hence the look at what was used. It need not be
 * the whole, since the kernel keeps the limit by counting ticks, which on a busy machine is
 * inexact. */
static int is_out_of_cpu(const live *l, int code)
{
    uint64_t limit_ms = (uint64_t)l->child->config->limits.cpu_s * 1000;
    uint64_t used_ms = cpu_ms(&l->usage);
    if (limit_ms == 0)
        return 0;
    return code == -SIGXCPU || (code == 128 + SIGXCPU && used_ms >= limit_ms / 2) ||
           ((code == -SIGKILL || code == 128 + SIGKILL) && used_ms >= limit_ms / 10 * 9);
}

/* NULL: it has exceeded no limit, or there is no memory to say so. */
static char *limit_text(const live *l, int code)
{
    const wq_child_limits *limits = &l->child->config->limits;
    char *text = NULL;
    int n = 0;
    if (is_out_of_cpu(l, code))
        n = asprintf(&text, "used more than %u s of CPU", limits->cpu_s);
    else if (limits->output_bytes > 0 && code == -SIGXFSZ)
        n = asprintf(&text, "wrote more than %llu bytes to a file",
                     (unsigned long long)limits->output_bytes);
    return n < 0 ? NULL : text;
}

static char *blind_text(const live *l)
{
    char text[128], *sentence;
    int n = asprintf(&sentence, "Killed, as it could not be watched: poll: %s",
                     strerror_r(l->blind, text, sizeof text));
    return n < 0 ? NULL : sentence;
}

static void tell(const live *l, const siginfo_t *info, wq_outcome *outcome)
{
    int code = info->si_code == CLD_EXITED ? info->si_status : -info->si_status;
    if (l->cancelled) {
        outcome->cancelled = 1;
        outcome->error = strdup("Cancelled");
        return;
    }
    if (l->blind != 0) {
        outcome->error = blind_text(l);
        return;
    }
    if (l->plan.failed != NULL) {
        fail_to_start(outcome, l->child->config->program, l->plan.failed, l->plan.error);
        return;
    }
    if (code != 0 && (outcome->error = limit_text(l, code)) != NULL)
        return;
    outcome->returncode = code;
    if (code != 0)
        outcome->error = exit_text(l->child, code);
}

static int is_cancelled(const wq_run *run)
{
    struct pollfd p = {.fd = run->cancel_fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

void wq_child_run(wq_child *child, const wq_run *run, wq_outcome *outcome)
{
    live l = {.child = child, .run = run, .pidfd = -1, .deadline = -1};
    siginfo_t info;
    *outcome = (wq_outcome){.returncode = OUR_FAILURE};
    for (int i = 0; i < N_FDS; i++)
        l.fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    l.fds[CANCEL].fd = run->cancel_fd;
    child->tail_len = child->tail_end = 0;
    if (is_cancelled(run)) {
        outcome->cancelled = 1;
        outcome->error = strdup("Cancelled");
        return;
    }
    if (make_tmpdir(&l, outcome) != 0 || open_live(&l, outcome) != 0)
        goto out;
    supervise(&l);
    int known = end_group(&l, &info) == 0;
    wq_lines_finish(&child->lines, run->report, run->user);
    if (known)
        tell(&l, &info, outcome);
    else
        outcome->error =
            strdup("The exit code was lost: this process ignores SIGCHLD, or waits for "
                   "children that are not its own");
out:
    wq_fd_close(&l.fds[OUT].fd);
    wq_fd_close(&l.fds[ERR].fd);
    wq_fd_close(&l.pidfd);
    remove_tmpdir(&l);
    forget_token(&l);
}

/* ---- slots ----------------------------------------------------------------------------------- */

/* Copies the pointers only; room for two more and the end. */
static int init_environment(wq_child *child)
{
    const wq_child_config *config = child->config;
    if (!config->token_in_environment && !config->private_tmpdir)
        return 0;
    size_t n = wq_environment_count(config->environment);
    child->envp = calloc(n + 3, sizeof *child->envp);
    if (child->envp == NULL)
        return -1;
    memcpy(child->envp, config->environment, n * sizeof *child->envp);
    return 0;
}

int wq_child_init(wq_child *child, const wq_child_config *config)
{
    memset(child, 0, sizeof *child);
    child->config = config;
    for (int i = 0; i < 2; i++)
        child->writers[i] = fcntl(config->null_fd, F_DUPFD_CLOEXEC, 3);
    wq_lines_init(&child->lines, config->max_line_bytes);
    child->buf = malloc(BUF_BYTES);
    child->stack = wq_spawn_stack_new();
    if (child->writers[0] >= 0 && child->writers[1] >= 0 && child->buf != NULL &&
        child->stack != NULL && init_environment(child) == 0)
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
    free(child->tail);
    wq_lines_dispose(&child->lines);
    memset(child, 0, sizeof *child);
}
