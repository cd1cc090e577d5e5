/* stderr_log.h - the end of what a job's program writes to stderr, for those who follow it. Under
 * the job's lock. */
#ifndef WQ_CORE_STDERR_LOG_H
#define WQ_CORE_STDERR_LOG_H

#include <stddef.h>
#include <stdint.h>

/* All zeros: nothing was written. */
typedef struct wq_stderr_log {
    char *bytes;
    size_t len, capacity;
    size_t held;    /* at the end, which may be the beginning of a token: not shown yet */
    uint64_t begin; /* how many were written before the first of these */
} wq_stderr_log;

/* Adds bytes, of which the last `max` are kept at least; tokens in them become asterisks. Without
 * memory they are lost. */
void wq_stderr_log_add(wq_stderr_log *log, size_t max, const char *token, const char *data,
                       size_t n);

/* Copies at most `size` bytes from position `from` on, or from the first that is kept; `*begin` is
 * that position. How many. `all`: also what may be the beginning of a token, as nothing follows. */
size_t wq_stderr_log_read(const wq_stderr_log *log, uint64_t from, char *buf, size_t size,
                          uint64_t *begin, int all);

/* Keeps the last `max` bytes. */
void wq_stderr_log_shrink(wq_stderr_log *log, size_t max);

void wq_stderr_log_dispose(wq_stderr_log *log);

#endif
