/* lines.c - bytes in, bounded lines out. */
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
    lines->overlong = lines->after_return = 0;
}

static int reserve(wq_lines *lines, size_t needed)
{
    if (needed <= lines->capacity)
        return 0;
    size_t capacity = lines->capacity > 0 ? lines->capacity * 2 : 128;
    while (capacity < needed)
        capacity *= 2;
    if (capacity > lines->max_bytes)
        capacity = lines->max_bytes;
    char *buf = realloc(lines->buf, capacity);
    if (buf == NULL)
        return -1;
    lines->buf = buf;
    lines->capacity = capacity;
    return 0;
}

static void hand_out(const wq_lines *lines, const char *line, size_t len, wq_line_cb cb, void *user)
{
    cb(user, line != NULL ? line : "", len < lines->max_bytes ? len : lines->max_bytes);
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
    size_t room = lines->max_bytes - lines->len;
    size_t taken = n < room ? n : room;
    if (reserve(lines, lines->len + taken) != 0) {
        drop_rest(lines);
        return -1;
    }
    if (taken > 0)
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
    if (!lines->overlong)
        hand_out(lines, line, len, cb, user);
    lines->len = 0;
    lines->overlong = 0;
}

/* The next "\n" from `data` on, or `end`; `*newline` is what was found last, so that many lines
 * that end in "\r" in front of it do not look for it again and again. */
static const char *find_newline(const char **newline, const char *data, const char *end)
{
    if (*newline == NULL || *newline < data) {
        *newline = memchr(data, '\n', (size_t)(end - data));
        if (*newline == NULL)
            *newline = end;
    }
    return *newline;
}

int wq_lines_feed(wq_lines *lines, const char *data, size_t n, wq_line_cb cb, void *user)
{
    const char *end = data + n, *newline = NULL;
    int result = 0;
    while (data < end) {
        if (lines->after_return && *data == '\n')
            data++;
        lines->after_return = 0;
        if (data == end)
            break;
        const char *stop = find_newline(&newline, data, end);
        const char *ret = memchr(data, '\r', (size_t)(stop - data));
        stop = ret != NULL ? ret : stop;
        size_t part = (size_t)(stop - data);
        if (stop < end && lines->len == 0) {
            end_line(lines, data, part, cb, user);
        } else {
            if (keep(lines, data, part, cb, user) != 0)
                result = -1;
            if (stop < end)
                end_line(lines, lines->buf, lines->len, cb, user);
        }
        lines->after_return = ret != NULL;
        data = stop + (stop < end);
    }
    return result;
}

void wq_lines_finish(wq_lines *lines, wq_line_cb cb, void *user)
{
    if (!lines->overlong && lines->len > 0)
        hand_out(lines, lines->buf, lines->len, cb, user);
    lines->len = 0;
    lines->overlong = lines->after_return = 0;
}
