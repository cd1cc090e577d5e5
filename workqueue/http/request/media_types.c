/* media_types.c - media types and their parameters: what a body is, and what a client would like.
 */
#include "workqueue/http/request/media_types.h"

#include "workqueue/http/request/scan.h"

static int quoted_value(const char **at, const char *end, wq_param *out)
{
    out->quoted = 1;
    out->value = ++*at;
    while (*at < end && **at != '"')
        *at += **at == '\\' && end - *at > 1 ? 2 : 1;
    if (*at == end)
        return -1;
    out->value_len = (size_t)(*at - out->value);
    ++*at;
    return 1;
}

/* Values without quotes may hold more than a token may: "boundary=----=_Part_1" is in use. */
static int plain_value(const char **at, const char *end, wq_param *out)
{
    out->quoted = 0;
    out->value = *at;
    while (*at < end && **at != ';' && **at != '"' && !is_blank(**at))
        ++*at;
    out->value_len = (size_t)(*at - out->value);
    return 1;
}

int wq_next_param(const char **at, const char *end, wq_param *out)
{
    do {
        skip_blanks(at, end);
        if (*at == end)
            return 0;
        if (*(*at)++ != ';')
            return -1;
        skip_blanks(at, end);
    } while (*at == end || **at == ';');
    out->name = *at;
    out->name_len = skip_token(at, end);
    if (out->name_len == 0 || *at == end || *(*at)++ != '=')
        return -1;
    return *at < end && **at == '"' ? quoted_value(at, end, out) : plain_value(at, end, out);
}

static const char *param_text(wq_arena arena, const wq_param *param)
{
    char *text = arena.alloc(arena.user, param->value_len + 1), *out = text;

    for (size_t i = 0; i < param->value_len; i++) {
        if (param->quoted && param->value[i] == '\\' && i + 1 < param->value_len)
            i++;
        *out++ = param->value[i];
    }
    *out = '\0';
    return text;
}

/* Takes "type/subtype"; its length, or 0 if malformed. *slash gets the place of the slash in it. */
static size_t take_media_type(const char **at, const char *end, size_t *slash)
{
    const char *start = *at;

    *slash = skip_token(at, end);
    if (*slash == 0 || *at == end || *(*at)++ != '/' || skip_token(at, end) == 0)
        return 0;
    return (size_t)(*at - start);
}

int wq_content_type(wq_arena arena, const char *value, size_t len, const char **type,
                    const char **boundary)
{
    const char *at = value, *end = len > 0 ? value + len : value, *start;
    wq_param param;
    size_t n, slash;
    char *text;
    int more;

    *type = *boundary = NULL;
    skip_blanks(&at, end);
    start = at;
    if ((n = take_media_type(&at, end, &slash)) == 0)
        return -1;
    text = arena.alloc(arena.user, n + 1);
    for (size_t i = 0; i < n; i++)
        text[i] = lower(start[i]);
    text[n] = '\0';
    while ((more = wq_next_param(&at, end, &param)) == 1)
        if (*boundary == NULL && is_word(param.name, param.name_len, "boundary", 8))
            *boundary = param_text(arena, &param);
    *type = text;
    return more;
}

/* ---- Accept --------------------------------------------------------------------------------- */

/* Takes one element of a comma-separated list, up to a comma that is not in quotes. */
static int next_element(const char **at, const char *end, const char **start, const char **stop)
{
    int quoted = 0;

    if (*at == end)
        return 0;
    *start = *at;
    for (; *at < end && (quoted || **at != ','); ++*at) {
        if (**at == '"')
            quoted = !quoted;
        else if (quoted && **at == '\\' && end - *at > 1)
            ++*at;
    }
    *stop = *at;
    if (*at < end)
        ++*at;
    return 1;
}

/* "0.25" in thousandths, or -1. Java's client writes ".2", so the digit in front may be missing. */
static int parse_q(const char *at, size_t len)
{
    int q = 0, unit = 100;
    size_t i = 0;

    if (len > 0 && (at[0] == '0' || at[0] == '1'))
        q = (at[i++] - '0') * 1000;
    if (len == 0 || len > i + 4 || (i < len && at[i++] != '.'))
        return -1;
    for (; i < len; i++, unit /= 10) {
        if (at[i] < '0' || at[i] > '9')
            return -1;
        q += (at[i] - '0') * unit;
    }
    return q <= 1000 ? q : -1;
}

struct range {
    const char *type;
    size_t len, slash;
    int q;
};

/* Parameters other than q are let pass: our types have none that a client could insist on. */
static int parse_range(const char *at, const char *end, struct range *out)
{
    wq_param param;
    int more;

    skip_blanks(&at, end);
    out->type = at;
    out->q = 1000;
    if ((out->len = take_media_type(&at, end, &out->slash)) == 0)
        return -1;
    while ((more = wq_next_param(&at, end, &param)) == 1)
        if (is_word(param.name, param.name_len, "q", 1) &&
            (out->q = parse_q(param.value, param.value_len)) < 0)
            return -1;
    return more;
}

/* How closely a range fits: 3 by name, 2 as "type" and a star, 1 as two stars, 0 not at all. */
static int fit(const struct range *range, const char *offer)
{
    const size_t type_len = range->slash + 1;

    if (is_word(range->type, range->len, offer, strlen(offer)))
        return 3;
    if (is_word(range->type, range->len, "*/*", 3))
        return 1;
    return range->len == type_len + 1 && range->type[type_len] == '*' && strlen(offer) > type_len &&
                   is_word(range->type, type_len, offer, type_len)
               ? 2
               : 0;
}

/* The q that the closest fitting range gives to `offer`; *any is set if any range could be read. */
static int quality(const char *at, const char *end, const char *offer, int *any)
{
    const char *start, *stop;
    struct range range;
    int best_fit = 0, q = 0;

    while (next_element(&at, end, &start, &stop)) {
        int f;

        if (parse_range(start, stop, &range) != 0)
            continue;
        *any = 1;
        f = fit(&range, offer);
        if (f > best_fit || (f > 0 && f == best_fit && range.q > q)) {
            best_fit = f;
            q = range.q;
        }
    }
    return q;
}

int wq_accept(const char *value, size_t len, const char *const *offers, size_t n)
{
    const char *end = len > 0 ? value + len : value;
    int best = -1, best_q = 0, any = 0;

    for (size_t i = 0; i < n; i++) {
        const int q = quality(value, end, offers[i], &any);

        if (q > best_q) {
            best_q = q;
            best = (int)i;
        }
    }
    return any ? best : 0;
}
