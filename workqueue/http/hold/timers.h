/* timers.h - timers of one event loop, each owned by whoever embeds it.
 *
 * They are in a heap on one timerfd, because h2o's own timers follow the wall clock. Setting one
 * needs no memory, so it cannot fail. All of this is for the loop's own thread. */
#ifndef WQ_HTTP_HOLD_TIMERS_H
#define WQ_HTTP_HOLD_TIMERS_H

#include <h2o.h>
#include <stdint.h>

#include "workqueue/util/clocks.h"

/* All zero but `fire` is a timer that is not set. */
typedef struct wq_timer {
    void (*fire)(struct wq_timer *timer); /* it is not set any more, and may be set again */
    int64_t at;                           /* when it fires, by wq_monotonic_ms() */
    int is_set;
    /* its place in the heap */
    int64_t place;                          /* the time it is sorted by: `at`, or earlier */
    struct wq_timer *child, *next, *before; /* before: the one beside it, or its parent */
} wq_timer;

typedef struct wq_timers {
    wq_timer *first;
    int fd;
    h2o_socket_t *sock;
    int64_t armed; /* when the timerfd fires; 0: it does not */
} wq_timers;

/* Ends the process where there are no descriptors, as libh2o does when it makes a context. */
void wq_timers_open(wq_timers *timers, h2o_loop_t *loop);
void wq_timers_close(wq_timers *timers);

/* Fires once at that time, or soon after; WQ_NEVER: not at all. Later than before costs an
 * assignment only. */
#define WQ_NEVER INT64_MAX
void wq_timer_set(wq_timers *timers, wq_timer *timer, int64_t at);
void wq_timer_clear(wq_timers *timers, wq_timer *timer);

/* Milliseconds by CLOCK_MONOTONIC. */
static inline int64_t wq_loop_now(void)
{
    return wq_monotonic_ms();
}

#endif
