/* clocks.c - what time it is, and a wall clock that may jump. */
#include "workqueue/util/clocks.h"

#include <time.h>

enum { STEP_MS = 1000 }; /* a clock that is set; less between two looks is one that is adjusted */

static int64_t clock_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t wq_monotonic_ms(void)
{
    return clock_ms(CLOCK_MONOTONIC);
}

int64_t wq_unix_ms(void)
{
    return clock_ms(CLOCK_REALTIME);
}

void wq_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void wq_cond_wait_ms(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(cond, lock, &until);
}

/* ---- a wall clock that may jump -------------------------------------------------------------- */

static int64_t even_ms(void)
{
    return clock_ms(CLOCK_BOOTTIME);
}

void wq_wall_start(wq_wall *wall, int64_t hold_ms)
{
    *wall = (wq_wall){.hold_ms = hold_ms, .stepped_at = even_ms()};
    wall->seen = wall->believed = wq_unix_ms() - wall->stepped_at;
    wall->early = wall->late = wall->stepped_at + wall->seen;
}

void wq_wall_look(wq_wall *wall)
{
    int64_t even = even_ms(), offset = wq_unix_ms() - even, moved = offset - wall->seen;
    wall->seen = offset;
    if (moved > -STEP_MS && moved < STEP_MS)
        wall->believed += moved;
    else
        wall->stepped_at = even;
    if (even - wall->stepped_at >= wall->hold_ms)
        wall->believed = offset;
    wall->early = even + (offset < wall->believed ? offset : wall->believed);
    wall->late = even + (offset > wall->believed ? offset : wall->believed);
}
