/* log.c - errors in words, and the log. */
#include "workqueue/util/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

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
