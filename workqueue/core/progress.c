/* progress.c - understands a program's line of progress. */
#include "workqueue/core/progress.h"

#include <string.h>

enum {
    HEAD_BYTES = 64,   /* no number is longer; what is in front of a message, too */
    BAR_BYTES = 1024,  /* a bar as wide as the widest terminal, in UTF-8 */
    COUNT_DIGITS = 18, /* fit into 64 bits */
};

/* As much as a sum of rounded numbers may go beyond 1, or below 0. */
static const double rounding = 1e-3;

/* ---- reading --------------------------------------------------------------------------------- */

/* What is left of a line; what is read is taken off its front. */
typedef struct rest {
    const char *s;
    size_t len;
} rest;

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void skip(rest *r, size_t n)
{
    r->s += n;
    r->len -= n;
}

static void skip_blanks(rest *r)
{
    while (r->len > 0 && *r->s == ' ')
        skip(r, 1);
}

static void trim(rest *r)
{
    skip_blanks(r);
    while (r->len > 0 && r->s[r->len - 1] == ' ')
        r->len--;
}

/* Nonzero: it was there, and is taken. */
static int take(rest *r, char c)
{
    if (r->len == 0 || *r->s != c)
        return 0;
    skip(r, 1);
    return 1;
}

/* A whole number; how many digits it has, 0: there is none. */
static size_t take_count(rest *r, uint64_t *out)
{
    size_t n = 0;
    *out = 0;
    for (; r->len > 0 && n < COUNT_DIGITS && is_digit(*r->s); n++, skip(r, 1))
        *out = *out * 10 + (uint64_t)(*r->s - '0');
    return n;
}

static size_t take_digits(rest *r, double *value, double *scale)
{
    size_t n = 0;
    for (; r->len > 0 && is_digit(*r->s); n++, skip(r, 1)) {
        if (scale != NULL && *scale >= 1e16)
            continue; /* beyond that no digit changes a double below 1 */
        *value = *value * 10 + (*r->s - '0');
        if (scale != NULL)
            *scale *= 10;
    }
    return n;
}

/* -1: there is an "e", and no exponent behind it. */
static int take_exponent(rest *r, double *value, double *scale)
{
    uint64_t exponent;
    if (!take(r, 'e') && !take(r, 'E'))
        return 0;
    int negative = take(r, '-');
    if (!negative)
        take(r, '+');
    if (take_count(r, &exponent) == 0)
        return -1;
    for (uint64_t e = 0; e < exponent && e < 400; e++)
        *(negative ? scale : value) *= 10;
    return 0;
}

/* Plain decimals with an optional exponent, as every language prints them. Not strtod: that obeys
 * the host's locale, and knows "inf", "nan" and hexadecimals. 0, or -1 if there is none. */
static int take_number(rest *r, double *out)
{
    double value = 0, scale = 1;
    int negative = take(r, '-');
    if (!negative)
        take(r, '+');
    size_t digits = take_digits(r, &value, NULL);
    if (take(r, '.'))
        digits += take_digits(r, &value, &scale);
    if (digits == 0 || take_exponent(r, &value, &scale) != 0)
        return -1;
    *out = negative ? -value / scale : value / scale;
    return 0;
}

/* ---- forms ----------------------------------------------------------------------------------- */

static int set_fraction(wq_progress *out, double fraction)
{
    if (!(fraction > -rounding && fraction < 1 + rounding))
        return -1;
    out->fraction = fraction > 1 ? 1 : fraction > 0 ? fraction : 0;
    return 0;
}

/* "3/12", "3 / 12", "3 of 12" */
static int read_items(wq_progress *out, rest r)
{
    take(&r, '+');
    if (take_count(&r, &out->items_done) == 0)
        return -1;
    size_t before = r.len;
    skip_blanks(&r);
    if (!take(&r, '/')) {
        if (r.len == before || r.len < 3 || strncmp(r.s, "of ", 3) != 0)
            return -1;
        skip(&r, 2);
    }
    skip_blanks(&r);
    if (take_count(&r, &out->items_total) == 0 || r.len != 0 || out->items_done > out->items_total)
        return -1;
    out->has_items = 1;
    out->fraction = out->items_total ? (double)out->items_done / (double)out->items_total : 0;
    return 0;
}

/* "0.25", "25%", "25 %" */
static int read_fraction(wq_progress *out, rest r)
{
    double number;
    if (take_number(&r, &number) != 0)
        return -1;
    if (r.len == 0)
        return set_fraction(out, number);
    skip_blanks(&r);
    return take(&r, '%') && r.len == 0 ? set_fraction(out, number / 100) : -1;
}

/* "indexing:  25%|###   | 3/12 [00:01<00:03]", as progress bars of Python's tqdm are drawn. */
static int read_bar(wq_progress *out, rest r)
{
    double number;
    const char *sign = memmem(r.s, r.len, "%|", 2), *begin = sign;
    while (begin != NULL && begin > r.s && (is_digit(begin[-1]) || begin[-1] == '.'))
        begin--;
    if (begin == NULL || (begin > r.s && begin[-1] != ' '))
        return -1;
    rest text = {r.s, (size_t)(begin - r.s)}, digits = {begin, (size_t)(sign - begin)};
    if (take_number(&digits, &number) != 0 || digits.len != 0)
        return -1;
    trim(&text);
    if (text.len > 0 && text.s[text.len - 1] == ':')
        text.len--;
    if (text.len > 0) {
        out->message = text.s;
        out->message_len = text.len;
    }
    return set_fraction(out, number / 100);
}

/* "####      25.0%", "[=====>     ] 25%": nothing but the bar and the number. */
static int read_plain_bar(wq_progress *out, rest r)
{
    size_t drawn = 0;
    for (; r.len > 0 && strchr("#=>[]- ", *r.s) != NULL && *r.s != '\0'; skip(&r, 1))
        drawn += *r.s == '#' || *r.s == '=';
    return drawn > 0 && memchr(r.s, '%', r.len) != NULL ? read_fraction(out, r) : -1;
}

int wq_progress_parse(wq_progress *out, const char *line, size_t len)
{
    static int (*const forms[])(wq_progress *, rest) = {read_items, read_fraction, read_bar,
                                                        read_plain_bar};
    const char *tab = memchr(line, '\t', len);
    rest head = {line, tab != NULL ? (size_t)(tab - line) : len};
    trim(&head);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        memset(out, 0, sizeof *out);
        if (head.len > (i < 2 ? HEAD_BYTES : BAR_BYTES) || forms[i](out, head) != 0)
            continue;
        if (tab != NULL) {
            out->message = tab + 1;
            out->message_len = len - (size_t)(tab + 1 - line);
        }
        return 0;
    }
    return -1;
}
