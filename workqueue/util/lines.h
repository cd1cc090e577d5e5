/* lines.h - bytes in, bounded lines out. */
#ifndef WQ_UTIL_LINES_H
#define WQ_UTIL_LINES_H

#include <stddef.h>

/* Cuts a stream of bytes into lines, which end at "\n", "\r\n" or "\r", as a bar does that is drawn
 * again and again. A line longer than max_bytes is handed out cut to max_bytes, once, and the rest
 * of it is dropped. NUL bytes pass. */
typedef struct wq_lines {
    char *buf; /* the unfinished line */
    size_t len, capacity, max_bytes;
    int overlong;     /* the present line has been cut: drop until its end */
    int after_return; /* the last byte was "\r": a "\n" that follows belongs to it */
} wq_lines;

typedef void (*wq_line_cb)(void *user, const char *line, size_t len);

void wq_lines_init(wq_lines *lines, size_t max_bytes);
void wq_lines_dispose(wq_lines *lines);

/* Feeds `n` bytes and calls `cb` for each line that they complete; the line is not NUL-terminated.
 * A line that is whole within `data` is handed out without a copy. 0, or -1 if memory ran out (the
 * line at hand is then dropped). */
int wq_lines_feed(wq_lines *lines, const char *data, size_t n, wq_line_cb cb, void *user);

/* The end: hands out what is left as a last line, if anything is. */
void wq_lines_finish(wq_lines *lines, wq_line_cb cb, void *user);

#endif
