/* tail.h - the end of what a program writes to stderr. */
#ifndef WQ_PROCESS_TAIL_H
#define WQ_PROCESS_TAIL_H

#include <stddef.h>

typedef struct wq_tail {
    char *bytes; /* a ring; NULL until a program writes there */
    size_t size, len, end;
} wq_tail;

/* Keeps at most `size` bytes; allocates nothing yet. */
void wq_tail_init(wq_tail *tail, size_t size);
void wq_tail_dispose(wq_tail *tail);

/* Forgets what is in it; the memory stays. */
void wq_tail_clear(wq_tail *tail);

/* Adds bytes. Without memory for them they are lost. */
void wq_tail_add(wq_tail *tail, const char *data, size_t n);

/* Copies it all, tail->len bytes, to `out` and a NUL behind; a NUL byte in it becomes "?". */
void wq_tail_copy(const wq_tail *tail, char *out);

#endif
