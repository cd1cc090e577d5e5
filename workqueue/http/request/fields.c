/* fields.c - decodes what clients send: forms, JSON, Basic credentials, media types.
 *
 * All input here is hostile. Positions move only through helpers that are given the end, nothing is
 * read twice but by memmem(), so the time is linear in the input, and values are copied once, into
 * the caller's arena. No sentence repeats any input: it may hold the token.
 */
#include "workqueue/http/request/fields.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BOUNDARY = 70 }; /* RFC 2046 */

static const struct {
    const char *name;
    size_t offset;
} NAMES[] = {
    {"server", offsetof(wq_fields, server)},
    {"documentSetId", offsetof(wq_fields, document_set_id)},
    {"document_set_id", offsetof(wq_fields, document_set_id)},
    {"apiToken", offsetof(wq_fields, api_token)},
    {"api_token", offsetof(wq_fields, api_token)},
    {"rebuild", offsetof(wq_fields, rebuild)},
};
enum { N_NAMES = sizeof(NAMES) / sizeof(NAMES[0]) };

static const char **slot(wq_fields *fields, size_t i)
{
    return (const char **)((char *)fields + NAMES[i].offset);
}

static int fail(const char **why, const char *sentence)
{
    *why = sentence;
    return -1;
}

__attribute__((format(printf, 3, 4))) static int failf(wq_arena arena, const char **why,
                                                       const char *format, ...)
{
    enum { SIZE = 128 };
    char *sentence = arena.alloc(arena.user, SIZE);
    va_list args;

    va_start(args, format);
    vsnprintf(sentence, SIZE, format, args);
    va_end(args);
    return fail(why, sentence);
}

static const char *copy(wq_arena arena, const char *data, size_t len)
{
    char *text = arena.alloc(arena.user, len + 1);

    if (len > 0) /* data may be NULL otherwise */
        memcpy(text, data, len);
    text[len] = '\0';
    return text;
}

/* ---- characters; <ctype.h> would ask the process's locale ----------------------------------- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static int is_alnum(char c)
{
    return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9');
}

/* A character of an RFC 9110 token. */
static int is_token(char c)
{
    return is_alnum(c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static int is_space(char c)
{
    return c == ' ' || c == '\t';
}

/* Whether the text is `word`, which is lower-case, in any case. */
static int is_word(const char *data, size_t len, const char *word, size_t word_len)
{
    if (len != word_len)
        return 0;
    for (size_t i = 0; i < len; i++)
        if (lower(data[i]) != word[i])
            return 0;
    return 1;
}

static void skip_spaces(const char **at, const char *end)
{
    while (*at < end && is_space(**at))
        ++*at;
}

static size_t skip_token(const char **at, const char *end)
{
    const char *start = *at;

    while (*at < end && is_token(**at))
        ++*at;
    return (size_t)(*at - start);
}

/* ---- application/x-www-form-urlencoded ------------------------------------------------------ */

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

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return lower(c) >= 'a' && lower(c) <= 'f' ? lower(c) - 'a' + 10 : -1;
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
    for (size_t i = 0; i < N_NAMES; i++)
        if (decodes_to(pair->name, pair->name_end, NAMES[i].name))
            return *slot(fields, i) == NULL ? slot(fields, i) : NULL;
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
            return fail(why, wrong);
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

/* ---- application/json ----------------------------------------------------------------------- */

/* A document set id is a number in Overview's own API, so a client may well have it as one; and
 * whether to rebuild is a question of yes or no. */
static int json_member(const char **to, wq_arena arena, size_t i, const json_t *member,
                       const char **why)
{
    const int is_id = NAMES[i].offset == offsetof(wq_fields, document_set_id);
    const int is_flag = NAMES[i].offset == offsetof(wq_fields, rebuild);

    if (json_is_string(member)) {
        *to = copy(arena, json_string_value(member), json_string_length(member));
    } else if (is_flag && json_is_boolean(member)) {
        *to = json_is_true(member) ? "true" : "false";
    } else if (is_id && json_is_integer(member)) {
        char text[24];
        const int n =
            snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(member));
        *to = copy(arena, text, (size_t)n);
    } else {
        return failf(arena, why, "%s must be a string%s", NAMES[i].name,
                     is_id     ? " or a whole number"
                     : is_flag ? ", true or false"
                               : "");
    }
    return 0;
}

static int json_members(wq_fields *fields, wq_arena arena, const json_t *object, const char **why)
{
    for (size_t i = 0; i < N_NAMES; i++) {
        const json_t *member = json_object_get(object, NAMES[i].name);
        const char **to = slot(fields, i);

        if (member == NULL || json_is_null(member) || *to != NULL)
            continue;
        if (json_member(to, arena, i, member, why) != 0)
            return -1;
    }
    return 0;
}

int wq_fields_json(wq_fields *fields, wq_arena arena, const char *data, size_t len,
                   const char **why)
{
    json_error_t error;
    int result;
    errno = 0;
    json_t *root = json_loadb(data != NULL ? data : "", len, JSON_DECODE_ANY, &error);
    /* which jansson may take for an error of syntax, or, worse, lose a character of a string to */
    if (errno == ENOMEM) {
        *why = "there is no memory to read it";
        result = WQ_FIELDS_NO_MEMORY;
    } else if (root == NULL) /* error.text would quote the input */
        result = failf(arena, why, "it is not valid JSON, at line %d, column %d", error.line,
                       error.column);
    else if (json_is_object(root))
        result = json_members(fields, arena, root, why);
    else
        result = fail(why, "it must be a JSON object");
    json_decref(root);
    return result;
}

/* ---- media types and parameters, as in Content-Type, Accept, Content-Disposition ------------ */

struct param {
    const char *name, *value;
    size_t name_len, value_len;
    int quoted; /* value is what was between the quotes, its backslashes still there */
};

static int quoted_value(const char **at, const char *end, struct param *out)
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
static int plain_value(const char **at, const char *end, struct param *out)
{
    out->quoted = 0;
    out->value = *at;
    while (*at < end && **at != ';' && **at != '"' && !is_space(**at))
        ++*at;
    out->value_len = (size_t)(*at - out->value);
    return 1;
}

/* Takes `; name=value`. 1 if there was one, 0 at the end, -1 if malformed. */
static int next_param(const char **at, const char *end, struct param *out)
{
    do {
        skip_spaces(at, end);
        if (*at == end)
            return 0;
        if (*(*at)++ != ';')
            return -1;
        skip_spaces(at, end);
    } while (*at == end || **at == ';');
    out->name = *at;
    out->name_len = skip_token(at, end);
    if (out->name_len == 0 || *at == end || *(*at)++ != '=')
        return -1;
    return *at < end && **at == '"' ? quoted_value(at, end, out) : plain_value(at, end, out);
}

static const char *param_text(wq_arena arena, const struct param *param)
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
    struct param param;
    size_t n, slash;
    char *text;
    int more;

    *type = *boundary = NULL;
    skip_spaces(&at, end);
    start = at;
    if ((n = take_media_type(&at, end, &slash)) == 0)
        return -1;
    text = arena.alloc(arena.user, n + 1);
    for (size_t i = 0; i < n; i++)
        text[i] = lower(start[i]);
    text[n] = '\0';
    while ((more = next_param(&at, end, &param)) == 1)
        if (*boundary == NULL && is_word(param.name, param.name_len, "boundary", 8))
            *boundary = param_text(arena, &param);
    *type = text;
    return more;
}

/* ---- multipart/form-data -------------------------------------------------------------------- */

struct multipart {
    const char *at, *end;
    char delimiter[4 + MAX_BOUNDARY]; /* "\r\n--" and the boundary */
    size_t delimiter_len;
};

/* What follows a delimiter: 1 a part, which begins at m->at; 0 the end of the parts; -1 it was
 * none, but text that begins like one. */
static int after_delimiter(struct multipart *m)
{
    const char *at = m->at;

    if (m->end - at >= 2 && memcmp(at, "--", 2) == 0)
        return 0;
    skip_spaces(&at, m->end);
    if (m->end - at < 2 || memcmp(at, "\r\n", 2) != 0)
        return -1;
    m->at = at + 2;
    return 1;
}

/* Moves behind the next delimiter and says what follows it, as above; -1 if there is none. *stop
 * gets where the text in front of it ends. */
static int next_delimiter(struct multipart *m, const char **stop)
{
    int follows = -1;

    while (follows < 0) {
        *stop = memmem(m->at, (size_t)(m->end - m->at), m->delimiter, m->delimiter_len);
        if (*stop == NULL)
            return -1;
        m->at = *stop + m->delimiter_len;
        follows = after_delimiter(m);
    }
    return follows;
}

/* The first delimiter may come without a newline in front. */
static int first_delimiter(struct multipart *m)
{
    const char *start = m->at, *stop;
    int follows;

    if ((size_t)(m->end - m->at) >= m->delimiter_len - 2 &&
        memcmp(m->at, m->delimiter + 2, m->delimiter_len - 2) == 0) {
        m->at += m->delimiter_len - 2;
        if ((follows = after_delimiter(m)) >= 0)
            return follows;
        m->at = start;
    }
    return next_delimiter(m, &stop);
}

/* The name in a header line, if that is Content-Disposition. */
static int disposition_name(const char *at, const char *end, struct param *out)
{
    const char *line = at;
    const size_t n = skip_token(&at, end);

    if (!is_word(line, n, "content-disposition", 19) || at == end || *at++ != ':')
        return -1;
    skip_spaces(&at, end);
    skip_token(&at, end); /* "form-data" */
    while (next_param(&at, end, out) == 1)
        if (is_word(out->name, out->name_len, "name", 4))
            return 0;
    return -1;
}

/* Reads the headers of a part. 0, and *name is the field's name and *at is behind the headers. */
static int part_headers(const char **at, const char *end, struct param *name)
{
    int found = -1;

    for (;;) {
        const char *line = *at, *stop = memmem(line, (size_t)(end - line), "\r\n", 2);

        if (stop == NULL)
            return -1;
        *at = stop + 2;
        if (stop == line)
            return found;
        if (found != 0)
            found = disposition_name(line, stop, name);
    }
}

static int take_part(wq_fields *fields, wq_arena arena, const char *at, const char *end,
                     const char **why)
{
    struct param name;

    if (part_headers(&at, end, &name) != 0)
        return fail(why, "a part has no Content-Disposition with a name, or no end of its headers");
    for (size_t i = 0; i < N_NAMES; i++) {
        const char **to = slot(fields, i);
        const size_t n = strlen(NAMES[i].name);

        if (*to != NULL || name.value_len != n || memcmp(name.value, NAMES[i].name, n) != 0)
            continue;
        if (memchr(at, '\0', (size_t)(end - at)) != NULL)
            return fail(why, "a NUL character is not allowed");
        *to = copy(arena, at, (size_t)(end - at));
    }
    return 0;
}

int wq_fields_multipart(wq_fields *fields, wq_arena arena, const char *boundary,
                        size_t boundary_len, const char *data, size_t len, const char **why)
{
    struct multipart m = {.at = data, .end = len > 0 ? data + len : data};
    const char *part, *stop;
    int follows;

    if (boundary_len < 1 || boundary_len > MAX_BOUNDARY)
        return fail(why, "its boundary must have 1 to 70 characters");
    if (len == 0)
        return fail(why, "it has no boundary line");
    memcpy(m.delimiter, "\r\n--", 4);
    memcpy(m.delimiter + 4, boundary, boundary_len);
    m.delimiter_len = 4 + boundary_len;
    if ((follows = first_delimiter(&m)) < 0)
        return fail(why, "it has no boundary line");
    while (follows == 1) {
        part = m.at;
        if ((follows = next_delimiter(&m, &stop)) < 0)
            return fail(why, "its closing boundary is missing");
        if (take_part(fields, arena, part, stop, why) != 0)
            return -1;
    }
    return 0;
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
    skip_spaces(&at, end);
    while (end > at && is_space(end[-1]))
        end--;
    scheme = at;
    if (!is_word(scheme, skip_token(&at, end), "basic", 5) || at == end || !is_space(*at))
        return NULL;
    skip_spaces(&at, end);
    text = arena.alloc(arena.user, (size_t)(end - at) + 1);
    if ((n = base64_decode(at, (size_t)(end - at), text)) <= 0)
        return NULL;
    if ((colon = memchr(text, ':', (size_t)n)) == NULL ||
        memchr(text, '\0', (size_t)(colon - text)) != NULL)
        return NULL;
    *colon = '\0';
    return text;
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
    struct param param;
    int more;

    skip_spaces(&at, end);
    out->type = at;
    out->q = 1000;
    if ((out->len = take_media_type(&at, end, &out->slash)) == 0)
        return -1;
    while ((more = next_param(&at, end, &param)) == 1)
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
