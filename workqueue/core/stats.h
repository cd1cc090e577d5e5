/* stats.h - what is counted: ends, and how long jobs waited and ran. Callers hold the core's lock.
 */
#ifndef WQ_CORE_STATS_H
#define WQ_CORE_STATS_H

#include "workqueue/core/minutes.h"

typedef struct wq_counters {
    uint64_t succeeded, failed, cancelled;
    int64_t taken_mono; /* when a job last began; 0: never */
    double mean_run_ms; /* moving, so that it follows what programs have done lately; 0: none yet */
    wq_histogram ran, waited;
    wq_minutes minutes;
} wq_counters;

void wq_counters_begin(wq_counters *counters, int64_t waited_ms);
void wq_counters_over(wq_counters *counters, int64_t ran_ms);
void wq_counters_waiting(wq_counters *counters, size_t waiting);
void wq_counters_end(wq_counters *counters, int state);

#endif
