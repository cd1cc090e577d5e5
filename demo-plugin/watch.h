/* watch.h - ends searches in time.
 *
 * FTS5 works on how words begin before it returns the first row, inside one instruction of SQLite's
 * machine, where no progress handler is asked. sqlite3_interrupt() from another thread does reach
 * it, at the next page that it reads. */
#ifndef WATCH_H
#define WATCH_H

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdint.h>

/* A connection that is watched; zeroed it is not. */
struct watched {
    sqlite3 *db;
    int64_t deadline_ms;        /* CLOCK_MONOTONIC */
    atomic_int *stop;           /* nonzero: at once; becomes so if */
    int (*is_gone)(void *user); /* says, every now and then, that nobody waits any more */
    void *user;
    struct watched *next;
};

/* Starts the thread that watches; NULL: it cannot. */
struct watch *watch_open(void);
void watch_close(struct watch *watch); /* nothing is watched any more; NULL is allowed */

/* Until watch_remove(), whatever runs on the connection behind the deadline is interrupted. A
 * second call sets another deadline. */
void watch_add(struct watch *watch, struct watched *watched, int64_t deadline_ms);
void watch_remove(struct watch *watch, struct watched *watched);

/* A `stop` has been set. */
void watch_wake(struct watch *watch);

#endif
