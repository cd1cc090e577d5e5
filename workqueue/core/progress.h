/* progress.h - a program's line of progress, and the record that clients see. */
#ifndef WQ_PROGRESS_H
#define WQ_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

typedef struct wq_progress {
    double fraction;
    int has_items;
    uint64_t items_done, items_total;
    const char *message; /* points into the line; NULL: the line has none */
    size_t message_len;
} wq_progress;

/* Reads "0.25", "0.25\tmessage", "3/12" or "3/12\tmessage". 0, or -1 if the line is none of these.
 * Independent of the host's locale. */
int wq_progress_parse(wq_progress *out, const char *line, size_t len);

#endif
