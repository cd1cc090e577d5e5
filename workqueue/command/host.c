/* host.c - descriptors and signals of a process that hosts a queue. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "workqueue/command/command.h"

/* If we were started without one of the standard three, the next file or connection would be given
 * its number, and get our log lines. */
static void fill_standard_fds(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

void host_begin(void)
{
    sigset_t set;
    fill_standard_fds();
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    /* Who started us may ignore it: then no exit code would be known. */
    (void)signal(SIGCHLD, SIG_DFL);
}

void host_raise_open_files(wq_options *queue, unsigned *given)
{
    struct rlimit limit;
    if (*given == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        *given = (unsigned)limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    queue->soft_open_files = *given;
}

/* The second one of a kind ends us; the other kind does not: Ctrl-C in a terminal reaches also the
 * shell script that has started us, which may send SIGTERM then. */
int host_wait(void (*on_hangup)(void *user), void *user)
{
    sigset_t set, again;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    for (;;) {
        if (sigwait(&set, &number) != 0)
            continue;
        if (number != SIGHUP)
            break;
        if (on_hangup != NULL)
            on_hangup(user);
    }
    sigemptyset(&again);
    sigaddset(&again, number);
    pthread_sigmask(SIG_UNBLOCK, &again, NULL);
    return number;
}
