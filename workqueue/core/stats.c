/* stats.c - what is counted. */
#include "workqueue/core/stats.h"

#include <math.h>

#include "workqueue/util/clocks.h"

static const double bounds_s[WQ_HISTOGRAM_BUCKETS] = {
    0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, INFINITY,
};

double wq_histogram_bound_s(unsigned i)
{
    return i < WQ_HISTOGRAM_BUCKETS ? bounds_s[i] : INFINITY;
}

static void count_duration(wq_histogram *histogram, int64_t ms)
{
    double s = (double)ms / 1000;
    size_t i = 0;
    while (s > bounds_s[i])
        i++;
    histogram->counts[i]++;
    histogram->sum_s += s;
}

void wq_counters_begin(wq_counters *counters, int64_t waited_ms)
{
    counters->taken_mono = wq_monotonic_ms();
    count_duration(&counters->waited, waited_ms);
    wq_minutes_started(&counters->minutes, counters->taken_mono, waited_ms);
}

void wq_counters_over(wq_counters *counters, int64_t ran_ms)
{
    double ran = (double)ran_ms, mean = counters->mean_run_ms;
    count_duration(&counters->ran, ran_ms);
    wq_minutes_ran(&counters->minutes, wq_monotonic_ms(), ran_ms);
    counters->mean_run_ms = mean == 0 ? ran : mean * 0.8 + ran * 0.2;
}

void wq_counters_waiting(wq_counters *counters, size_t waiting)
{
    wq_minutes_waiting(&counters->minutes, wq_monotonic_ms(), waiting);
}

void wq_counters_end(wq_counters *counters, int state)
{
    counters->succeeded += state == WQ_STATE_SUCCEEDED;
    counters->failed += state == WQ_STATE_FAILED;
    counters->cancelled += state == WQ_STATE_CANCELLED;
    wq_minutes_ended(&counters->minutes, wq_monotonic_ms(), state);
}
