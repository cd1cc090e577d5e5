/* fields.c - which fields a request may carry, and the token of an Authorization header.
 *
 * The bodies they come in have files of their own: forms, json, multipart. All input is hostile.
 * Nothing is read twice but by memmem(), so the time is linear in the input, and values are copied
 * once, into the caller's arena. No sentence repeats any input: it may hold the token.
 */
#include "workqueue/http/request/fields.h"

#include <stdarg.h>
#include <stdio.h>

#include "workqueue/http/request/scan.h"

const wq_field_name wq_field_names[WQ_FIELD_NAMES] = {
    {"server", offsetof(wq_fields, server)},
    {"documentSetId", offsetof(wq_fields, document_set_id)},
    {"document_set_id", offsetof(wq_fields, document_set_id)},
    {"apiToken", offsetof(wq_fields, api_token)},
    {"api_token", offsetof(wq_fields, api_token)},
    {"rebuild", offsetof(wq_fields, rebuild)},
};

const char **wq_field_slot(wq_fields *fields, size_t i)
{
    return (const char **)((char *)fields + wq_field_names[i].offset);
}

int wq_malformed(const char **why, const char *sentence)
{
    *why = sentence;
    return -1;
}

int wq_malformedf(wq_arena arena, const char **why, const char *format, ...)
{
    enum { SIZE = 128 };
    char *sentence = arena.alloc(arena.user, SIZE);
    va_list args;

    va_start(args, format);
    vsnprintf(sentence, SIZE, format, args);
    va_end(args);
    return wq_malformed(why, sentence);
}

const char *wq_copy_text(wq_arena arena, const char *data, size_t len)
{
    char *text = arena.alloc(arena.user, len + 1);

    if (len > 0) /* data may be NULL otherwise */
        memcpy(text, data, len);
    text[len] = '\0';
    return text;
}

int wq_field_yes(const char *value)
{
    static const char *const words[] = {"0", "false", "no", "off", "", "1", "true", "yes", "on"};
    enum { FIRST_YES = 5, N = sizeof words / sizeof words[0] };

    for (int i = 0; value != NULL && i < N; i++)
        if (is_word(value, strlen(value), words[i], strlen(words[i])))
            return i >= FIRST_YES;
    return value == NULL ? 0 : -1;
}

/* ---- Authorization -------------------------------------------------------------------------- */

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes to `out`, which has room for 3/4 of the input; the length, or -1. */
static ptrdiff_t base64_decode(const char *data, size_t len, char *out)
{
    const char *start = out;
    unsigned bits = 0;
    size_t padded = 0;

    while (padded < 2 && len > 0 && data[len - 1] == '=') {
        padded++;
        len--;
    }
    if (len % 4 == 1 || (padded > 0 && (len + padded) % 4 != 0))
        return -1;
    for (size_t i = 0; i < len; i++) {
        const int digit = base64_digit(data[i]);

        if (digit < 0)
            return -1;
        bits = bits << 6 | (unsigned)digit;
        if (i % 4 != 0)
            *out++ = (char)(unsigned char)(bits >> (6 - i % 4 * 2) & 0xff);
    }
    return out - start;
}

const char *wq_basic_token(wq_arena arena, const char *value, size_t len, const char **why)
{
    const char *at = value, *end = len > 0 ? value + len : value, *scheme;
    char *text, *colon;
    ptrdiff_t n;

    *why = "Authorization must be \"Basic base64(token:x-auth-token)\"";
    skip_blanks(&at, end);
    while (end > at && is_blank(end[-1]))
        end--;
    scheme = at;
    if (!is_word(scheme, skip_token(&at, end), "basic", 5) || at == end || !is_blank(*at))
        return NULL;
    skip_blanks(&at, end);
    text = arena.alloc(arena.user, (size_t)(end - at) + 1);
    if ((n = base64_decode(at, (size_t)(end - at), text)) <= 0)
        return NULL;
    if ((colon = memchr(text, ':', (size_t)n)) == NULL ||
        memchr(text, '\0', (size_t)(colon - text)) != NULL)
        return NULL;
    *colon = '\0';
    return text;
}
