/* text.h - a growing piece of text, and text as JSON strings. */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>

/* Zeroed is empty. Once memory has run out `failed` stays set and additions do nothing, so it is
 * enough to look at the end. */
struct text {
    char *data; /* not NUL-terminated */
    size_t len, capacity;
    int failed;
};

void text_add(struct text *text, const char *data, size_t len);
void text_addf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_dispose(struct text *text);

/* Adds bytes as the inside of a JSON string; what is not UTF-8 becomes U+FFFD. Unless `last` is
 * set, a character cut off by the end is left. Returns how many bytes were taken. */
size_t text_json(struct text *text, const char *data, size_t len, int last);

/* Adds a whole JSON string, quotes included; data NULL: null. */
void text_json_string(struct text *text, const char *data, size_t len);

#endif
