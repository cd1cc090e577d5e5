/* wall.h - a wall clock that may jump, for those who forget what is old.
 *
 * A new time is believed only when it has been there for as long as things are kept: until then
 * that of both goes by which less is old, so that a clock that is suddenly days ahead makes nothing
 * old that was new yesterday. For one thread. */
#ifndef WQ_WALL_H
#define WQ_WALL_H

#include <stdint.h>

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
