/* forms.c - reads the fields of application/x-www-form-urlencoded: of bodies, and of query strings.
 */
#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/scan.h"

struct pair {
    const char *name, *name_end, *value, *value_end;
};

static int next_pair(const char **at, const char *end, struct pair *out)
{
    const char *stop, *equals;

    while (*at < end && **at == '&')
        ++*at;
    if (*at == end)
        return 0;
    stop = memchr(*at, '&', (size_t)(end - *at));
    if (stop == NULL)
        stop = end;
    equals = memchr(*at, '=', (size_t)(stop - *at));
    out->name = *at;
    out->name_end = equals != NULL ? equals : stop;
    out->value = equals != NULL ? equals + 1 : stop;
    out->value_end = stop;
    *at = stop;
    return 1;
}

/* Takes one character, or -1 for an escape that is none. */
static int take_decoded(const char **at, const char *end)
{
    const char c = *(*at)++;
    int high, low;

    if (c != '%')
        return c == '+' ? ' ' : (unsigned char)c;
    if (end - *at < 2)
        return -1;
    high = hex_digit((*at)[0]);
    low = hex_digit((*at)[1]);
    if (high < 0 || low < 0)
        return -1;
    *at += 2;
    return high * 16 + low;
}

/* Decodes to `out`, which has room for as much and a NUL; or only checks, if `out` is NULL. Returns
 * what is malformed, or NULL. */
static const char *decode(const char *at, const char *end, char *out)
{
    while (at < end) {
        const int c = take_decoded(&at, end);

        if (c < 0)
            return "a \"%\" is not followed by two hexadecimal digits";
        if (c == 0)
            return "a NUL character is not allowed";
        if (out != NULL)
            *out++ = (char)c;
    }
    if (out != NULL)
        *out = '\0';
    return NULL;
}

static int decodes_to(const char *at, const char *end, const char *name)
{
    for (; at < end; name++)
        if (*name == '\0' || take_decoded(&at, end) != (unsigned char)*name)
            return 0;
    return *name == '\0';
}

const char *wq_percent_decoded(wq_arena arena, const char *data, size_t len)
{
    const char *at = data, *end = data + len;
    char *text = arena.alloc(arena.user, len + 1), *out = text;

    while (at < end) {
        const int is_plus = *at == '+';
        const int c = take_decoded(&at, end);

        if (c <= 0)
            return NULL;
        *out++ = is_plus ? '+' : (char)c;
    }
    *out = '\0';
    return text;
}

/* The slot that this pair is to fill, or NULL if it is another's or full. */
static const char **slot_of_pair(wq_fields *fields, const struct pair *pair)
{
    for (size_t i = 0; i < WQ_FIELD_NAMES; i++)
        if (decodes_to(pair->name, pair->name_end, wq_field_names[i].name))
            return *wq_field_slot(fields, i) == NULL ? wq_field_slot(fields, i) : NULL;
    return NULL;
}

int wq_fields_urlencoded(wq_fields *fields, wq_arena arena, const char *data, size_t len,
                         const char **why)
{
    const char *at = data, *end = len > 0 ? data + len : data, *wrong;
    struct pair pair;

    while (next_pair(&at, end, &pair)) {
        const char **to = slot_of_pair(fields, &pair);
        char *text = NULL;

        if (to != NULL)
            text = arena.alloc(arena.user, (size_t)(pair.value_end - pair.value) + 1);
        if ((wrong = decode(pair.name, pair.name_end, NULL)) != NULL ||
            (wrong = decode(pair.value, pair.value_end, text)) != NULL)
            return wq_malformed(why, wrong);
        if (to != NULL)
            *to = text;
    }
    return 0;
}

const char *wq_query_field(wq_arena arena, const char *query, size_t len, const char *name)
{
    const char *at = query, *end = len > 0 ? query + len : query;
    struct pair pair;
    char *text;

    while (next_pair(&at, end, &pair)) {
        if (!decodes_to(pair.name, pair.name_end, name))
            continue;
        text = arena.alloc(arena.user, (size_t)(pair.value_end - pair.value) + 1);
        return decode(pair.value, pair.value_end, text) == NULL ? text : NULL;
    }
    return NULL;
}
