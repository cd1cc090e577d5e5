/* util.h - what every room needs: errors in words, the log, two clocks, threads. */
#ifndef WQ_UTIL_H
#define WQ_UTIL_H

#include <pthread.h>
#include <workqueue/workqueue.h>

/* Where a room's log lines go; copied by value. */
typedef struct wq_logger {
    wq_log_cb cb;
    void *user;
} wq_logger;

/* Writes a sentence to `error` (NULL: nowhere) and returns `code`. Keeps errno. */
int wq_fail(wq_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Tells an analyser, which looks at one file at a time, that it is `code` that is returned. */
static inline int wq_returned(int returned, int code)
{
    (void)returned;
    return code;
}
#define wq_fail(error, code, ...) wq_returned((wq_fail)(error, code, __VA_ARGS__), code)

/* Logs one line: control and non-ASCII bytes escaped as \xNN, cut at 1024 bytes. */
void wq_log(const wq_logger *logger, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Milliseconds by CLOCK_MONOTONIC, for deadlines and durations. */
int64_t wq_monotonic_ms(void);

/* Milliseconds since 1970, for people. */
int64_t wq_unix_ms(void);

/* One whose timed waits are until a moment of CLOCK_MONOTONIC. */
void wq_cond_init(pthread_cond_t *cond);

/* pthread_create() of a thread of ours, which leaves signals to the host's. */
int wq_thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg);

#endif
