/* lines.c - bytes in, bounded lines out.
 *
 * The buffer may hold one byte more than a line: it could be the "\r" of a line of exactly
 * max_bytes, which is known only when the next byte comes.
 */
#include "workqueue/util/lines.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void wq_lines_init(wq_lines *lines, size_t max_bytes)
{
    memset(lines, 0, sizeof *lines);
    lines->max_bytes = max_bytes < SIZE_MAX / 4 ? max_bytes : SIZE_MAX / 4;
}

void wq_lines_dispose(wq_lines *lines)
{
    free(lines->buf);
    lines->buf = NULL;
    lines->len = lines->capacity = 0;
    lines->overlong = 0;
}

static int reserve(wq_lines *lines, size_t needed)
{
    if (needed <= lines->capacity)
        return 0;
    size_t capacity = lines->capacity > 0 ? lines->capacity * 2 : 128;
    while (capacity < needed)
        capacity *= 2;
    if (capacity > lines->max_bytes + 1)
        capacity = lines->max_bytes + 1;
    char *buf = realloc(lines->buf, capacity);
    if (buf == NULL)
        return -1;
    lines->buf = buf;
    lines->capacity = capacity;
    return 0;
}

static void hand_out(const wq_lines *lines, const char *line, size_t len, wq_line_cb cb, void *user)
{
    cb(user, line, len < lines->max_bytes ? len : lines->max_bytes);
}

/* From here on the present line is of no more interest. */
static void drop_rest(wq_lines *lines)
{
    lines->len = 0;
    lines->overlong = 1;
}

/* Adds to the unfinished line. One that has become too long is handed out at once, not when its
 * newline comes: that may be never. */
static int keep(wq_lines *lines, const char *data, size_t n, wq_line_cb cb, void *user)
{
    if (lines->overlong || n == 0)
        return 0;
    size_t room = lines->max_bytes + 1 - lines->len;
    size_t taken = n < room ? n : room;
    if (reserve(lines, lines->len + taken) != 0) {
        drop_rest(lines);
        return -1;
    }
    memcpy(lines->buf + lines->len, data, taken);
    lines->len += taken;
    if (taken < n) {
        hand_out(lines, lines->buf, lines->len, cb, user);
        drop_rest(lines);
    }
    return 0;
}

static void end_line(wq_lines *lines, const char *line, size_t len, wq_line_cb cb, void *user)
{
    if (!lines->overlong) {
        if (len > 0 && line[len - 1] == '\r')
            len--;
        hand_out(lines, line, len, cb, user);
    }
    lines->len = 0;
    lines->overlong = 0;
}

int wq_lines_feed(wq_lines *lines, const char *data, size_t n, wq_line_cb cb, void *user)
{
    int result = 0;
    while (n > 0) {
        const char *newline = memchr(data, '\n', n);
        size_t part = newline != NULL ? (size_t)(newline - data) : n;
        if (newline != NULL && lines->len == 0) {
            end_line(lines, data, part, cb, user);
        } else {
            if (keep(lines, data, part, cb, user) != 0)
                result = -1;
            if (newline != NULL)
                end_line(lines, lines->buf, lines->len, cb, user);
        }
        if (newline != NULL)
            part++;
        data += part;
        n -= part;
    }
    return result;
}

void wq_lines_finish(wq_lines *lines, wq_line_cb cb, void *user)
{
    if (!lines->overlong && lines->len > 0)
        hand_out(lines, lines->buf, lines->len, cb, user);
    lines->len = 0;
    lines->overlong = 0;
}
