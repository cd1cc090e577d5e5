/* minutes.h - what happened in each of the last 60 minutes. Under the core's lock. */
#ifndef WQ_CORE_MINUTES_H
#define WQ_CORE_MINUTES_H

#include <workqueue/workqueue.h>

enum { WQ_SPANS = 104 }; /* of durations: each ends at 2^(1/4) times the one before */

/* Durations of one minute, for percentiles. */
typedef struct wq_spans {
    uint32_t n, counts[WQ_SPANS];
} wq_spans;

typedef struct wq_minute_count {
    uint64_t succeeded, failed, cancelled;
    size_t waiting; /* the most at one time */
    wq_spans start, run;
} wq_minute_count;

/* All zeros before. */
typedef struct wq_minutes {
    int64_t opened_ms;                   /* monotonic; 0: not yet */
    uint64_t present;                    /* how many minutes there were before this one */
    size_t waiting;                      /* now */
    wq_minute_count minutes[WQ_MINUTES]; /* a ring: present % WQ_MINUTES is the present one */
} wq_minutes;

/* `now` is monotonic, in ms. */
void wq_minutes_waiting(wq_minutes *m, int64_t now, size_t waiting);
void wq_minutes_started(wq_minutes *m, int64_t now, int64_t after_ms);
void wq_minutes_ran(wq_minutes *m, int64_t now, int64_t ms);
void wq_minutes_ended(wq_minutes *m, int64_t now, int state);

/* As wq_queue_minutes(). */
void wq_minutes_read(wq_minutes *m, int64_t now, int64_t unix_ms, wq_minute out[WQ_MINUTES]);

#endif
