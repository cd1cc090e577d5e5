/* progress.h - a program's line of progress. */
#ifndef WQ_CORE_PROGRESS_H
#define WQ_CORE_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

typedef struct wq_progress {
    double fraction;
    int has_items;
    uint64_t items_done, items_total;
    const char *message; /* points into the line; NULL: the line has none */
    size_t message_len;
} wq_progress;

/* Reads "0.25" or "3/12", with a tab and a message or without, and what can only mean such a thing:
 * blanks around it, a "+", "25%", "3 of 12", a rounding beyond 1, a progress bar with a percentage.
 * 0, or -1 if the line is none of these. Independent of the host's locale. */
int wq_progress_parse(wq_progress *out, const char *line, size_t len);

/* Nonzero if the line says nothing at all: what is left between "\r" and "\n", say. */
int wq_progress_is_blank(const char *line, size_t len);

enum { WQ_COMPLAINT_BYTES = 640 };

/* Writes what is wrong with a line that wq_progress_parse() has refused: what lines must look like,
 * the line, escaped and cut, and what was probably meant. Printable ASCII. */
void wq_progress_complain(char out[WQ_COMPLAINT_BYTES], const char *line, size_t len);

#endif
