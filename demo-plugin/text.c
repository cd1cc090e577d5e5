/* text.c - a growing piece of text, and text as JSON strings. */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int reserve(struct text *text, size_t more)
{
    if (text->failed)
        return -1;
    if (more <= text->capacity - text->len)
        return 0;
    size_t capacity = text->capacity == 0 ? 256 : text->capacity;
    while (capacity < text->len + more)
        capacity *= 2;
    char *data = realloc(text->data, capacity);
    if (data == NULL) {
        text->failed = 1;
        return -1;
    }
    text->data = data;
    text->capacity = capacity;
    return 0;
}

void text_add(struct text *text, const char *data, size_t len)
{
    if (len == 0 || reserve(text, len) != 0)
        return;
    memcpy(text->data + text->len, data, len);
    text->len += len;
}

void text_addf(struct text *text, const char *format, ...)
{
    char line[512]; /* every use of it is short */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    text_add(text, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

void text_dispose(struct text *text)
{
    free(text->data);
    memset(text, 0, sizeof *text);
}

/* The length of the UTF-8 character that p begins with: 0 if it is none, -1 if the end comes before
 * it can be told. */
static int utf8_length(const unsigned char *p, size_t len)
{
    int n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n == 0 || p[0] > 0xf4)
        return 0;
    for (int i = 1; i < n; i++) {
        if ((size_t)i == len)
            return -1;
        int low = i > 1 ? 0x80 : p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
        int high = i > 1 ? 0xbf : p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
        if (p[i] < low || p[i] > high)
            return 0;
    }
    return n;
}

static void add_escaped(struct text *text, char c)
{
    switch (c) {
    case '\n':
        text_add(text, "\\n", 2);
        break;
    case '\t':
        text_add(text, "\\t", 2);
        break;
    case '"':
    case '\\':
        text_addf(text, "\\%c", c);
        break;
    default:
        text_addf(text, "\\u%04x", (unsigned char)c);
    }
}

static int is_plain(char c)
{
    return (unsigned char)c >= 0x20 && (unsigned char)c < 0x7f && c != '"' && c != '\\';
}

size_t text_json(struct text *text, const char *data, size_t len, int last)
{
    size_t i = 0;
    while (i < len) {
        size_t run = i;
        while (run < len && is_plain(data[run]))
            run++;
        text_add(text, data + i, run - i);
        i = run;
        if (i == len)
            break;
        int n = utf8_length((const unsigned char *)data + i, len - i);
        if (n < 0 && !last)
            break;
        if (n <= 0)
            text_add(text, "\xef\xbf\xbd", 3);
        else if (n == 1)
            add_escaped(text, data[i]);
        else
            text_add(text, data + i, (size_t)n);
        i += n <= 0 ? 1 : (size_t)n;
    }
    return i;
}

void text_json_string(struct text *text, const char *data, size_t len)
{
    if (data == NULL) {
        text_add(text, "null", 4);
        return;
    }
    text_add(text, "\"", 1);
    text_json(text, data, len, 1);
    text_add(text, "\"", 1);
}
