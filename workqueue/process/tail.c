/* tail.c - a ring of bytes that is allocated when it is needed. */
#include "workqueue/process/tail.h"

#include <stdlib.h>
#include <string.h>

void wq_tail_init(wq_tail *tail, size_t size)
{
    *tail = (wq_tail){.size = size};
}

void wq_tail_dispose(wq_tail *tail)
{
    free(tail->bytes);
    *tail = (wq_tail){.size = 0};
}

void wq_tail_clear(wq_tail *tail)
{
    tail->len = tail->end = 0;
}

void wq_tail_add(wq_tail *tail, const char *data, size_t n)
{
    size_t size = tail->size;
    if (size == 0 || (tail->bytes == NULL && (tail->bytes = malloc(size)) == NULL))
        return;
    if (n > size) {
        data += n - size;
        n = size;
    }
    size_t first = n < size - tail->end ? n : size - tail->end;
    memcpy(tail->bytes + tail->end, data, first);
    memcpy(tail->bytes, data + first, n - first);
    tail->end = (tail->end + n) % size;
    tail->len = tail->len + n < size ? tail->len + n : size;
}

void wq_tail_copy(const wq_tail *tail, char *out)
{
    for (size_t i = 0; i < tail->len; i++) {
        char c = tail->bytes[(tail->end + tail->size - tail->len + i) % tail->size];
        out[i] = c != '\0' ? c : '?';
    }
    out[tail->len] = '\0';
}
