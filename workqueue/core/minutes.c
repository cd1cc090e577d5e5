/* minutes.c - what happened in each of the last 60 minutes.
 *
 * Durations are counted in spans, each a fifth longer than the one before, which is as exact as a
 * chart can show; so a minute costs the same whatever happens in it. */
#include "workqueue/core/minutes.h"

#include <math.h>
#include <string.h>

enum { MINUTE_MS = 60000, SPANS_PER_DOUBLING = 4 };

/* The present minute. Those that have passed meanwhile were empty, but for who waited. */
static wq_minute_count *present_of(wq_minutes *m, int64_t now)
{
    if (m->opened_ms == 0)
        m->opened_ms = now;
    uint64_t present = (uint64_t)(now - m->opened_ms) / MINUTE_MS;
    if (present > m->present + WQ_MINUTES)
        m->present = present - WQ_MINUTES;
    while (m->present < present) {
        wq_minute_count *next = &m->minutes[++m->present % WQ_MINUTES];
        memset(next, 0, sizeof *next);
        next->waiting = m->waiting;
    }
    return &m->minutes[m->present % WQ_MINUTES];
}

static void count_span(wq_spans *spans, int64_t ms)
{
    double span = ms > 1 ? ceil(log2((double)ms) * SPANS_PER_DOUBLING) : 0;
    spans->counts[span < WQ_SPANS - 1 ? (size_t)span : WQ_SPANS - 1]++;
    spans->n++;
}

/* In the middle of the span in which it is. */
static uint64_t percentile_of(const wq_spans *spans, unsigned percent)
{
    uint64_t rank = ((uint64_t)spans->n * percent + 99) / 100, seen = 0;
    for (size_t i = 0; i < WQ_SPANS && spans->n > 0; i++)
        if ((seen += spans->counts[i]) >= rank)
            return i == 0 ? 1 : (uint64_t)exp2(((double)i - 0.5) / SPANS_PER_DOUBLING);
    return 0;
}

void wq_minutes_waiting(wq_minutes *m, int64_t now, size_t waiting)
{
    wq_minute_count *minute = present_of(m, now);
    m->waiting = waiting;
    if (waiting > minute->waiting)
        minute->waiting = waiting;
}

void wq_minutes_started(wq_minutes *m, int64_t now, int64_t after_ms)
{
    count_span(&present_of(m, now)->start, after_ms);
}

void wq_minutes_ran(wq_minutes *m, int64_t now, int64_t ms)
{
    count_span(&present_of(m, now)->run, ms);
}

void wq_minutes_ended(wq_minutes *m, int64_t now, int state)
{
    wq_minute_count *minute = present_of(m, now);
    minute->succeeded += state == WQ_STATE_SUCCEEDED;
    minute->failed += state == WQ_STATE_FAILED;
    minute->cancelled += state == WQ_STATE_CANCELLED;
}

void wq_minutes_read(wq_minutes *m, int64_t now, int64_t unix_ms, wq_minute out[WQ_MINUTES])
{
    present_of(m, now);
    for (uint64_t i = 0; i < WQ_MINUTES; i++) {
        /* before the queue was open: by then the ring has nothing in these places */
        int64_t nth = (int64_t)(m->present + i) - (WQ_MINUTES - 1);
        const wq_minute_count *minute = &m->minutes[(m->present + i + 1) % WQ_MINUTES];
        out[i] = (wq_minute){
            .begin_ms = unix_ms - (now - m->opened_ms) + nth * MINUTE_MS,
            .succeeded = minute->succeeded,
            .failed = minute->failed,
            .cancelled = minute->cancelled,
            .waiting = minute->waiting,
            .started = minute->start.n,
            .start_p50_ms = percentile_of(&minute->start, 50),
            .start_p95_ms = percentile_of(&minute->start, 95),
            .ran = minute->run.n,
            .run_p50_ms = percentile_of(&minute->run, 50),
            .run_p95_ms = percentile_of(&minute->run, 95),
        };
    }
}
