/* lookup.h - a few threads that ask a store which blocks, for callers that must not wait. */
#ifndef WQ_LOOKUP_H
#define WQ_LOOKUP_H

#include <sys/queue.h>
#include <workqueue/workqueue.h>

/* One question, in memory of who asks. */
typedef struct wq_lookup {
    STAILQ_ENTRY(wq_lookup) link;
    void (*ask)(struct wq_lookup *lookup, int closing); /* on a thread; closing: only say so */
} wq_lookup;

typedef struct wq_lookups wq_lookups;

/* At most `max` questions wait. */
int wq_lookups_open(wq_lookups **out, size_t max, wq_error *error);

/* WQ_OK, or WQ_ERROR_FULL. */
int wq_lookups_add(wq_lookups *lookups, wq_lookup *lookup, wq_error *error);

/* Nothing is added any more. What waits is told that the queue closes. NULL is allowed. */
void wq_lookups_close(wq_lookups *lookups);

#endif
