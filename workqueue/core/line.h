/* line.h - the jobs of one key stand in line: only the head may wait or run. Under the core's lock.
 */
#ifndef WQ_CORE_LINE_H
#define WQ_CORE_LINE_H

#include "workqueue/core/queue.h"

wq_job *wq_line_head_locked(const wq_queue *queue, const char *key);
int wq_line_is_head_locked(const wq_queue *queue, const wq_job *job);

/* At its end. 0, or -1 without memory. */
int wq_line_join_locked(wq_queue *queue, wq_job *job);
void wq_line_leave_locked(wq_queue *queue, wq_job *job);

#endif
