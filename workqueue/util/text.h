/* text.h - what is one character of valid UTF-8, and text made of it. */
#ifndef WQ_UTIL_TEXT_H
#define WQ_UTIL_TEXT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Length in bytes of the valid UTF-8 character at `s` (`n` bytes are there), 0 if it is none. */
size_t wq_utf8_length(const char *s, size_t n);

/* The code point of the character at `s`, which is `len` bytes of valid UTF-8. */
uint32_t wq_utf8_decode(const char *s, size_t len);

/* Immutable counted text, valid UTF-8, NUL-terminated. Snapshots share it with jobs. */
typedef struct wq_text {
    atomic_uint refs;
    char bytes[];
} wq_text;

/* Makes text of any bytes: each that is not UTF-8, and each NUL, becomes U+FFFD. NULL if memory ran
 * out. */
wq_text *wq_text_new(const char *bytes, size_t n);
wq_text *wq_text_ref(wq_text *text); /* NULL is allowed */
void wq_text_unref(wq_text *text);   /* NULL is allowed */

#endif
