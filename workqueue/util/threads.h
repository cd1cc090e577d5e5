/* threads.h - threads of ours in somebody else's process. */
#ifndef WQ_UTIL_THREADS_H
#define WQ_UTIL_THREADS_H

#include <pthread.h>

/* pthread_create() of a thread of ours, which leaves signals to the host's. */
int wq_thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg);

#endif
