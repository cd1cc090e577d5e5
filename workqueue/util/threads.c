/* threads.c - threads of ours in somebody else's process. */
#include "workqueue/util/threads.h"

#include <signal.h>

/* Our threads take no signals: those are the host's. But where it does not care for SIGCHLD, which
 * it neither handles nor has blocked to wait for it, that stays open, since the kernel drops it
 * then at once; blocked, each child's end would wake the host. */
static int wants_children(const sigset_t *blocked)
{
    struct sigaction child;
    return sigismember(blocked, SIGCHLD) == 1 || sigaction(SIGCHLD, NULL, &child) != 0 ||
           child.sa_handler != SIG_DFL;
}

int wq_thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!wants_children(&before)) {
        sigdelset(&all, SIGCHLD);
        pthread_sigmask(SIG_SETMASK, &all, NULL);
    }
    int r = pthread_create(thread, NULL, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0)
        pthread_setname_np(*thread, name);
    return r;
}
