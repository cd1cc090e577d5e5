/* scan.h - steps through text that a client has sent: what the decoders of this room share.
 *
 * Positions move only through helpers that are given the end. Not <ctype.h>, which would ask the
 * process's locale. */
#ifndef WQ_HTTP_REQUEST_SCAN_H
#define WQ_HTTP_REQUEST_SCAN_H

#include <stddef.h>
#include <string.h>

static inline char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static inline int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline int is_alnum(char c)
{
    return (lower(c) >= 'a' && lower(c) <= 'z') || is_digit(c);
}

/* A character of an RFC 9110 token. By a table, as each byte of each head is asked for. */
static inline int is_token_char(char c)
{
    static const unsigned char is[256] = {
        ['0' ... '9'] = 1, ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1, ['!'] = 1, ['#'] = 1, ['$'] = 1,
        ['%'] = 1,         ['&'] = 1,         ['\''] = 1,        ['*'] = 1, ['+'] = 1, ['-'] = 1,
        ['.'] = 1,         ['^'] = 1,         ['_'] = 1,         ['`'] = 1, ['|'] = 1, ['~'] = 1,
    };
    return is[(unsigned char)c];
}

static inline int is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Whether the text is `word`, which is lower-case, in any case. */
static inline int is_word(const char *data, size_t len, const char *word, size_t word_len)
{
    if (len != word_len)
        return 0;
    for (size_t i = 0; i < len; i++)
        if (lower(data[i]) != word[i])
            return 0;
    return 1;
}

static inline void skip_blanks(const char **at, const char *end)
{
    while (*at < end && is_blank(**at))
        ++*at;
}

static inline size_t skip_token(const char **at, const char *end)
{
    const char *start = *at;

    while (*at < end && is_token_char(**at))
        ++*at;
    return (size_t)(*at - start);
}

static inline int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return lower(c) >= 'a' && lower(c) <= 'f' ? lower(c) - 'a' + 10 : -1;
}

#endif
