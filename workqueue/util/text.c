/* text.c - what is one character of valid UTF-8, and text made of it. */
#include "workqueue/util/text.h"

#include <stdlib.h>
#include <string.h>

size_t wq_utf8_length(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n == 0)
        return 0;
    if (u[0] < 0x80)
        return 1;
    size_t len = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
    if (u[0] < 0xc2 || u[0] > 0xf4 || n < len)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((u[i] & 0xc0) != 0x80)
            return 0;
    /* overlong forms, surrogates, and what lies beyond U+10FFFF */
    if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) ||
        (u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f))
        return 0;
    return len;
}

uint32_t wq_utf8_decode(const char *s, size_t len)
{
    static const unsigned char first[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t c = (unsigned char)s[0] & first[len];
    for (size_t i = 1; i < len; i++)
        c = c << 6 | ((unsigned char)s[i] & 0x3f);
    return c;
}

static int is_text(const char *s, size_t n, size_t *len)
{
    *len = wq_utf8_length(s, n);
    return *len != 0 && *s != '\0';
}

static size_t repaired_length(const char *bytes, size_t n)
{
    size_t total = 0, len;
    for (size_t i = 0; i < n; i += len) {
        if (!is_text(bytes + i, n - i, &len)) {
            len = 1;
            total += 2;
        }
        total += len;
    }
    return total;
}

wq_text *wq_text_new(const char *bytes, size_t n)
{
    wq_text *text = malloc(sizeof *text + repaired_length(bytes, n) + 1);
    if (text == NULL)
        return NULL;
    atomic_init(&text->refs, 1);
    char *out = text->bytes;
    size_t len;
    for (size_t i = 0; i < n; i += len) {
        if (is_text(bytes + i, n - i, &len)) {
            out = mempcpy(out, bytes + i, len);
        } else {
            len = 1;
            out = mempcpy(out, "\xef\xbf\xbd", 3);
        }
    }
    *out = '\0';
    return text;
}

wq_text *wq_text_ref(wq_text *text)
{
    if (text != NULL)
        atomic_fetch_add_explicit(&text->refs, 1, memory_order_relaxed);
    return text;
}

void wq_text_unref(wq_text *text)
{
    if (text != NULL && atomic_fetch_sub_explicit(&text->refs, 1, memory_order_acq_rel) == 1)
        free(text);
}
