/* watchdog.h - a thread that ends what exceeds its time. */
#ifndef WQ_CORE_WATCHDOG_H
#define WQ_CORE_WATCHDOG_H

#include "workqueue/core/life.h"

typedef struct wq_watchdog wq_watchdog;

/* Starts the thread, after the runs at which it looks; `*out` is NULL if there is no limit. */
int wq_watchdog_open(wq_watchdog **out, wq_queue *queue, wq_error *error);

/* Before the runs are gone. NULL is allowed. */
void wq_watchdog_close(wq_watchdog *watchdog);

#endif
