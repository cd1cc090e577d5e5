/* log.h - errors in words, and the log. */
#ifndef WQ_UTIL_LOG_H
#define WQ_UTIL_LOG_H

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

#endif
