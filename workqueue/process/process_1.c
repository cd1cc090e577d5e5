/* process_1.c - a command that is process 1 of its container leaves that place to a process that
 * knows what it is for.
 *
 *   process 1: the command ── fork ──► process 2: the command goes on
 *        │  waits for every child, as all orphans of the container become its own
 *        │  passes each signal on
 *        └─ ends as process 2 has ended, and with it the container
 *
 * In the command itself nobody could do that: it waits for its own children only, as the host of a
 * library must, and cannot tell an orphan from a child that another part of it has started.
 */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <workqueue/workqueue.h>

/* Not those that a fault of our own raises. */
static void fill_signals(sigset_t *signals)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigfillset(signals);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(signals, faults[i]);
}

/* Ends this process once `child` has ended. */
static void reap_orphans(pid_t child)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == child)
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void be_process_1(pid_t child, const sigset_t *signals)
{
    for (;;) {
        siginfo_t info;
        int number = sigwaitinfo(signals, &info);
        if (number == SIGCHLD)
            reap_orphans(child);
        else if (number > 0)
            kill(child, number);
    }
}

/* The terminal's signals are for the command alone: by both ways they would come twice. */
static void take_terminal(void)
{
    int saved = errno;
    if (setpgid(0, 0) == 0)
        (void)tcsetpgrp(STDIN_FILENO, getpgrp()); /* mostly there is none */
    errno = saved;
}

void wq_leave_process_1(void)
{
    struct sigaction before, plain = {.sa_handler = SIG_DFL};
    sigset_t signals, mask;
    if (getpid() != 1)
        return;
    fill_signals(&signals);
    sigprocmask(SIG_SETMASK, &signals, &mask);
    sigaction(SIGCHLD, &plain, &before); /* ignored, children would not be waited for */
    pid_t child = fork();
    if (child > 0)
        be_process_1(child, &signals);
    if (child == 0)
        take_terminal();
    sigaction(SIGCHLD, &before, NULL);
    sigprocmask(SIG_SETMASK, &mask, NULL);
}
