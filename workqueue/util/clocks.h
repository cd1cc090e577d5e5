/* clocks.h - what time it is, waits until a moment, and a wall clock that may jump. */
#ifndef WQ_UTIL_CLOCKS_H
#define WQ_UTIL_CLOCKS_H

#include <pthread.h>
#include <stdint.h>

/* Milliseconds by CLOCK_MONOTONIC, for deadlines and durations. */
int64_t wq_monotonic_ms(void);

/* Milliseconds since 1970, for people. */
int64_t wq_unix_ms(void);

/* One whose timed waits are until a moment of CLOCK_MONOTONIC. */
void wq_cond_init(pthread_cond_t *cond);

/* Waits for it at most so long; the lock is held. */
void wq_cond_wait_ms(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t ms);

/* ---- a wall clock that may jump, for those who forget what is old -------------------------------
 *
 * A new time is believed only when it has been there for as long as things are kept: until then
 * that of both goes by which less is old, so that a clock that is suddenly days ahead makes nothing
 * old that was new yesterday. For one thread. */

/* By offsets to a clock that runs evenly, also while the system is suspended. */
typedef struct wq_wall {
    int64_t hold_ms; /* for so long a step is not believed */
    int64_t believed, seen, stepped_at;
    int64_t early, late; /* what time it is by both, Unix time in ms; as of the last look */
} wq_wall;

/* The present time is believed. */
void wq_wall_start(wq_wall *wall, int64_t hold_ms);

void wq_wall_look(wq_wall *wall);

#endif
