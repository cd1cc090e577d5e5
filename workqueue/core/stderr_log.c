/* stderr_log.c - the end of what a job's program writes to stderr, for those who follow it.
 *
 * The bytes are in one piece, twice as many as are to be kept, so that they seldom move. */
#include "workqueue/core/stderr_log.h"

#include <stdlib.h>
#include <string.h>

#include "workqueue/core/secret.h"

static void drop_first(wq_stderr_log *log, size_t n)
{
    memmove(log->bytes, log->bytes + n, log->len - n);
    log->len -= n;
    log->begin += n;
}

/* Room for `n` more; 0, or -1 without memory. */
static int reserve_log(wq_stderr_log *log, size_t max, size_t n)
{
    if (log->len + n <= log->capacity)
        return 0;
    if (log->len + n > 2 * max && log->len > max - n)
        drop_first(log, log->len - (max - n));
    if (log->len + n <= log->capacity)
        return 0;
    size_t capacity = log->capacity ? 2 * log->capacity : 1024;
    while (capacity < log->len + n)
        capacity *= 2;
    char *grown = realloc(log->bytes, capacity);
    if (grown == NULL)
        return -1;
    log->bytes = grown;
    log->capacity = capacity;
    return 0;
}

void wq_stderr_log_add(wq_stderr_log *log, size_t max, const char *token, const char *data,
                       size_t n)
{
    const size_t secret = strlen(token);
    size_t before = log->len < secret ? log->len : secret, skipped = n > max ? n - max : 0;
    if (max == 0)
        return;
    data += skipped;
    n -= skipped;
    if (skipped > 0) { /* what was before is not the end any more */
        log->begin += log->len + skipped;
        log->len = before = 0;
    }
    if (reserve_log(log, max, n) != 0) {
        log->begin += log->len + n;
        log->len = log->held = 0;
        return;
    }
    before = before < log->len ? before : log->len;
    memcpy(log->bytes + log->len, data, n);
    log->len += n;
    wq_hide_secret(log->bytes + log->len - n - before, n + before, token);
    log->held = wq_secret_begun(log->bytes, log->len, token);
}

size_t wq_stderr_log_read(const wq_stderr_log *log, uint64_t from, char *buf, size_t size,
                          uint64_t *begin, int all)
{
    const uint64_t end = log->begin + log->len - (all ? 0 : log->held);
    *begin = from > log->begin ? from : log->begin;
    if (*begin >= end)
        return 0;
    size_t n = (size_t)(end - *begin);
    n = n < size ? n : size;
    memcpy(buf, log->bytes + (*begin - log->begin), n);
    return n;
}

void wq_stderr_log_shrink(wq_stderr_log *log, size_t max)
{
    if (log->bytes == NULL)
        return;
    if (log->len > max)
        drop_first(log, log->len - max);
    char *less = realloc(log->bytes, log->len > 0 ? log->len : 1);
    if (less != NULL) {
        log->bytes = less;
        log->capacity = log->len;
    }
}

void wq_stderr_log_dispose(wq_stderr_log *log)
{
    free(log->bytes);
}
