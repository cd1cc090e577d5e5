/* fetch.h - files from http and https URLs: outputs of packagers that keep them elsewhere. */
#ifndef WQ_FETCH_H
#define WQ_FETCH_H

#include <stdatomic.h>
#include <sys/queue.h>
#include <workqueue/workqueue.h>

typedef struct wq_fetcher wq_fetcher;

/* One file to fetch, borrowed until `done`. */
typedef struct wq_fetch {
    const char *url;
    uint64_t size_bytes; /* what it must have; UINT64_MAX: that is not known */
    atomic_int stop;     /* may become nonzero at any time: it is not wanted any more */
    /* Both are called from a thread of the fetcher's. */
    int (*path)(void *user, const char **path, wq_error *error); /* an existing file for it */
    void (*done)(void *user, int result, const wq_error *error);
    void *user;
    STAILQ_ENTRY(wq_fetch) link; /* the fetcher's */
} wq_fetch;

/* At most `max_threads` files at a time, and `max_bytes` of each (0: any). */
int wq_fetcher_open(wq_fetcher **out, size_t max_threads, uint64_t max_bytes, wq_error *error);

/* Ends what is under way. What has not begun is not, and nobody is told of it. */
void wq_fetcher_close(wq_fetcher *fetcher);

/* Returns at once. A failure: no thread can be started, and `done` is not called. */
int wq_fetcher_add(wq_fetcher *fetcher, wq_fetch *fetch, wq_error *error);

#endif
