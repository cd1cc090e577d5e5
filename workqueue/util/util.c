/* util.c - errors in words, the log, two clocks, threads. */
#include "workqueue/util/util.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

int(wq_fail)(wq_error *error, int code, const char *format, ...)
{
    if (error == NULL)
        return code;
    int saved = errno;
    va_list args;
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    error->code = code;
    errno = saved;
    return code;
}

/* What people send must not break lines or terminals, nor fill a disk. */
static void escape(char *out, size_t size, const char *in)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = 0;
    for (; *in != '\0' && n + 5 < size; in++) {
        unsigned char c = (unsigned char)*in;
        if (c >= 0x20 && c < 0x7f) {
            out[n++] = (char)c;
        } else {
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        }
    }
    out[n] = '\0';
}

void wq_log(const wq_logger *logger, int level, const char *format, ...)
{
    if (logger->cb == NULL)
        return;
    char raw[1024], line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    escape(line, sizeof line, raw);
    logger->cb(logger->user, level, line);
}

static int64_t clock_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t wq_monotonic_ms(void)
{
    return clock_ms(CLOCK_MONOTONIC);
}

int64_t wq_unix_ms(void)
{
    return clock_ms(CLOCK_REALTIME);
}

void wq_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* Our threads take no signals: those are the host's. But where it does not care for SIGCHLD, which
 * it neither handles nor has blocked to wait for it, that stays open, since the kernel drops it
 * then at once; blocked, each child's end would wake the host. */
static int wants_children(const sigset_t *blocked)
{
    struct sigaction child;
    return sigismember(blocked, SIGCHLD) == 1 || sigaction(SIGCHLD, NULL, &child) != 0 ||
           child.sa_handler != SIG_DFL;
}

int wq_thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!wants_children(&before)) {
        sigdelset(&all, SIGCHLD);
        pthread_sigmask(SIG_SETMASK, &all, NULL);
    }
    int r = pthread_create(thread, NULL, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0)
        pthread_setname_np(*thread, name);
    return r;
}
