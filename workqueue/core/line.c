/* line.c - the jobs of one key, in line: `by_key` has the head, `behind` leads to the next. */
#include "workqueue/core/line.h"

#include <assert.h>
wq_job *wq_line_head_locked(const wq_queue *q, const char *key)
{
    return (wq_job *)wq_table_find(&q->by_key, key); /* a job begins with its key */
}

int wq_line_join_locked(wq_queue *q, wq_job *job)
{
    wq_job *last = wq_line_head_locked(q, job->key);
    if (last == NULL)
        return wq_table_add(&q->by_key, job->key);
    while (last->behind != NULL)
        last = last->behind;
    last->behind = job;
    job->was_behind = 1;
    return 0;
}

int wq_line_is_head_locked(const wq_queue *q, const wq_job *job)
{
    return wq_line_head_locked(q, job->key) == job;
}

void wq_line_leave_locked(wq_queue *q, wq_job *job)
{
    wq_job *head = wq_line_head_locked(q, job->key), *behind = job->behind;
    job->behind = NULL;
    if (head != job) {
        while (head != NULL && head->behind != job)
            head = head->behind;
        assert(head != NULL);
        head->behind = behind;
        return;
    }
    wq_table_remove(&q->by_key, job->key);
    if (behind != NULL)
        wq_table_add(&q->by_key, behind->key); /* never fails: one has just left */
}
