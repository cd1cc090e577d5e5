/* items.c - the incremental reader of Overview's answer.
 *
 * A small scanner finds where each value ends, by strings and brackets alone; what is inside a
 * value that we want is left to jansson, which is strict. So a value is looked at twice, but never
 * more than one document is held. */
#include "items.h"

#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum { KEPT_BYTES = 1 << 20 };

/* What is expected next. */
enum place {
    AT_START,
    AT_KEY_OR_END, /* after { */
    AT_KEY,        /* after , */
    IN_KEY,
    AT_COLON,
    AT_VALUE,
    IN_VALUE,
    AT_COMMA_OR_END,
    AT_ITEM_OR_END, /* after [ */
    AT_ITEM,
    AT_ITEM_COMMA_OR_END,
    AT_MEMBER_OR_END, /* after the { of a document */
    AT_MEMBER,
    IN_MEMBER_KEY,
    AT_MEMBER_COLON,
    AT_MEMBER_VALUE,
    IN_MEMBER_VALUE,
    AT_MEMBER_COMMA_OR_END,
    IN_REST, /* of a document that is broken, up to its closing bracket */
    AT_FINISH
};

enum key { KEY_OTHER = -1, KEY_ITEMS, KEY_PAGINATION };

static const char *const field_names[ITEMS_N_FIELDS] = {"id", "title", "url", "pageNumber", "text"};

void items_document_clear(struct items_document *document)
{
    for (int i = 0; i < ITEMS_N_FIELDS; i++)
        json_decref(document->fields[i]);
    memset(document, 0, sizeof *document);
}

void items_init(items *reader, int (*on_document)(void *user, struct items_document *document),
                void *user)
{
    memset(reader, 0, sizeof *reader);
    reader->on_document = on_document;
    reader->user = user;
}

void items_dispose(items *reader)
{
    items_document_clear(&reader->document);
    free(reader->buf);
    reader->buf = NULL;
}

int items_complete(const items *reader)
{
    return reader->place == AT_FINISH;
}

static int fail(items *reader, const char *problem)
{
    reader->problem = problem;
    return -1;
}

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* ---- a value, whatever it is ---- */

static void begin_value(items *reader, int place, size_t limit)
{
    reader->place = place;
    reader->limit = limit;
    reader->len = 0;
    reader->depth = 0;
    reader->in_string = reader->escaped = reader->scalar = 0;
}

/* The document at hand is not to be had; the first reason counts. */
static void spoil(items *reader, const char *wrong)
{
    if (reader->document.wrong == NULL)
        reader->document.wrong = wrong;
}

static int keep(items *reader, const char *data, size_t n)
{
    if (reader->limit == 0 || n == 0)
        return 0;
    if (n > reader->limit - reader->len && reader->place != IN_MEMBER_VALUE)
        return fail(reader, "a value is larger than 64 KiB");
    if (n > reader->limit - reader->len) {
        spoil(reader, reader->key == ITEMS_TEXT ? "it is larger than 64 MiB"
                                                : "its title or address is larger than 64 KiB");
        reader->limit = reader->len = 0;
        return 0;
    }
    if (reader->len + n > reader->capacity) {
        size_t capacity = reader->capacity == 0 ? 16384 : reader->capacity;
        while (capacity < reader->len + n)
            capacity *= 2;
        char *grown = realloc(reader->buf, capacity);
        if (grown == NULL)
            return fail(reader, "there is no memory for a document");
        reader->buf = grown;
        reader->capacity = capacity;
    }
    memcpy(reader->buf + reader->len, data, n);
    reader->len += n;
    return 0;
}

/* Where in a string the next quote or backslash is, or n. */
static size_t plain_run(const char *data, size_t n)
{
    size_t i = 0;
    while (i < n && data[i] != '"' && data[i] != '\\')
        i++;
    return i;
}

/* Inside a string: returns how many bytes were taken; the closing quote clears in_string. */
static size_t scan_string(items *reader, const char *data, size_t n)
{
    if (reader->escaped) {
        reader->escaped = 0;
        return 1;
    }
    size_t i = plain_run(data, n);
    if (i == n)
        return n;
    if (data[i] == '\\')
        reader->escaped = 1;
    else
        reader->in_string = 0;
    return i + 1;
}

/* Outside a string: one byte. 1 if it is the value's, 0 if the value ended before it. */
static int scan_byte(items *reader, char c)
{
    if (c == '"') {
        reader->in_string = 1;
    } else if (c == '{' || c == '[') {
        reader->depth++;
    } else if (reader->depth > 0) {
        if (c == '}' || c == ']')
            reader->depth--;
    } else if (is_space(c) || c == ',' || c == ':' || c == '}' || c == ']') {
        return 0;
    } else {
        reader->scalar = 1; /* a number or a word: it ends where something else begins */
    }
    return 1;
}

/* Takes bytes of the value at hand and keeps them if it is to be kept. Returns how many; *done is
 * set if the value has ended. */
static size_t take_value(items *reader, const char *data, size_t n, int *done)
{
    size_t i = 0;
    *done = 0;
    while (i < n && !*done) {
        if (reader->in_string) {
            i += scan_string(reader, data + i, n - i);
        } else if (scan_byte(reader, data[i])) {
            i++;
        } else {
            *done = 1;
            break;
        }
        *done = reader->depth == 0 && !reader->in_string && !reader->scalar;
    }
    return i;
}

/* ---- what is done with a value that has ended ---- */

static int is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The code unit of \uXXXX at p; -1 if there is none. */
static int code_unit(const char *p, const char *end)
{
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    int unit = 0;
    for (int i = 2; i < 6; i++) {
        if (!is_hex(p[i]))
            return -1;
        unit = unit * 16 + (p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
    }
    return unit;
}

/* The length of the UTF-8 character at p, or 0 if it is none. */
static size_t utf8_length(const unsigned char *p, const unsigned char *end)
{
    size_t n = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;
    if (n == 0 || (size_t)(end - p) < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
        (*p == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

/* Half a surrogate pair, or a byte that is not UTF-8: one spoilt character must not cost a user
 * the whole set. Replaced in place, by what has the same length. */
static void repair(char *p, size_t n)
{
    char *end = p + n;
    while (p < end) {
        if (*p == '\\') {
            int unit = code_unit(p, end);
            if (unit < 0) {
                p += 2;
                continue;
            }
            int low = unit >= 0xd800 && unit < 0xdc00 ? code_unit(p + 6, end) : -1;
            int is_pair = low >= 0xdc00 && low < 0xe000;
            if (unit >= 0xd800 && unit < 0xe000 && !is_pair)
                memcpy(p, "\\ufffd", 6); /* NOLINT(bugprone-not-null-terminated-result): in place */
            p += is_pair ? 12 : 6;
            continue;
        }
        size_t length = utf8_length((unsigned char *)p, (unsigned char *)end);
        if (length == 0)
            *p = '?';
        p += length == 0 ? 1 : length;
    }
}

static json_t *parse(items *reader)
{
    const size_t flags = JSON_DECODE_ANY | JSON_ALLOW_NUL;
    json_t *value = json_loadb(reader->buf, reader->len, flags, NULL);
    if (value != NULL)
        return value;
    repair(reader->buf, reader->len);
    return json_loadb(reader->buf, reader->len, flags, NULL);
}

static int end_key(items *reader)
{
    json_t *key = parse(reader);
    if (!json_is_string(key)) {
        json_decref(key);
        return fail(reader, "a key is malformed");
    }
    const char *name = json_string_value(key);
    reader->key = strcmp(name, "items") == 0        ? KEY_ITEMS
                  : strcmp(name, "pagination") == 0 ? KEY_PAGINATION
                                                    : KEY_OTHER;
    json_decref(key);
    reader->place = AT_COLON;
    return 0;
}

static int end_value(items *reader)
{
    reader->place = AT_COMMA_OR_END;
    if (reader->key != KEY_PAGINATION)
        return 0;
    json_t *pagination = parse(reader);
    if (pagination == NULL)
        return fail(reader, "its pagination is malformed");
    json_t *total = json_object_get(pagination, "total");
    if (json_is_integer(total) && json_integer_value(total) >= 0) {
        reader->total = (uint64_t)json_integer_value(total);
        reader->has_total = 1;
    }
    json_decref(pagination);
    return 0;
}

/* ---- a document ---- */

static int end_document(items *reader)
{
    reader->place = AT_ITEM_COMMA_OR_END;
    int stop = reader->on_document(reader->user, &reader->document);
    items_document_clear(&reader->document);
    return stop != 0 ? -1 : 0;
}

static int end_member_key(items *reader)
{
    json_t *key = parse(reader);
    const char *name = json_string_value(key);
    reader->place = AT_MEMBER_COLON;
    reader->key = KEY_OTHER;
    for (int i = 0; name != NULL && i < ITEMS_N_FIELDS; i++)
        if (strcmp(name, field_names[i]) == 0)
            reader->key = i;
    if (name == NULL)
        spoil(reader, "it is malformed");
    json_decref(key);
    return 0;
}

static int end_member_value(items *reader)
{
    reader->place = AT_MEMBER_COMMA_OR_END;
    if (reader->limit == 0)
        return 0;
    json_t *value = parse(reader), **field = &reader->document.fields[reader->key];
    if (value == NULL)
        spoil(reader, "it is malformed");
    json_decref(*field);
    *field = value;
    if (json_is_null(value))
        *field = NULL;
    if (reader->capacity > KEPT_BYTES) { /* a large one is rare, and its memory not to be kept */
        free(reader->buf);
        reader->buf = NULL;
        reader->capacity = 0;
    }
    return 0;
}

/* Something between the members of a document is wrong: what is left of it is skipped. */
static int skip_rest(items *reader)
{
    spoil(reader, "it is malformed");
    begin_value(reader, IN_REST, 0);
    reader->depth = 1;
    return 0;
}

/* ---- the answer around the values ---- */

/* The value of a key begins, with the byte c. */
static int begin_member(items *reader, char c)
{
    if (reader->key == KEY_ITEMS) {
        if (c != '[')
            return fail(reader, "its items are not a list");
        reader->place = AT_ITEM_OR_END;
        reader->has_items = 1;
        return 1;
    }
    begin_value(reader, IN_VALUE, reader->key == KEY_PAGINATION ? ITEMS_MAX_SMALL : 0);
    return 0;
}

/* One byte between the members of a document; returns as between() does. */
static int between_members(items *reader, char c)
{
    switch (reader->place) {
    case AT_MEMBER_OR_END:
    case AT_MEMBER:
        if (c == '}' && reader->place == AT_MEMBER_OR_END)
            return end_document(reader) == 0 ? 1 : -1;
        if (c != '"')
            return skip_rest(reader);
        begin_value(reader, IN_MEMBER_KEY, ITEMS_MAX_SMALL);
        return 0;
    case AT_MEMBER_COLON:
        reader->place = AT_MEMBER_VALUE;
        return c == ':' ? 1 : skip_rest(reader);
    case AT_MEMBER_VALUE:
        begin_value(reader, IN_MEMBER_VALUE,
                    reader->key == KEY_OTHER    ? 0
                    : reader->key == ITEMS_TEXT ? ITEMS_MAX_BYTES
                                                : ITEMS_MAX_SMALL);
        return 0;
    default:
        if (c == '}')
            return end_document(reader) == 0 ? 1 : -1;
        reader->place = AT_MEMBER;
        return c == ',' ? 1 : skip_rest(reader);
    }
}

static int is_among_members(int place)
{
    return place >= AT_MEMBER_OR_END && place <= AT_MEMBER_COMMA_OR_END;
}

/* One byte between values. Returns 1 if it is taken, 0 if it begins a value, -1 for a problem. */
static int between(items *reader, char c)
{
    switch (reader->place) {
    case AT_START:
        reader->place = AT_KEY_OR_END;
        return c == '{' ? 1 : fail(reader, "it does not begin with a brace");
    case AT_KEY_OR_END:
    case AT_KEY:
        if (c == '"') {
            begin_value(reader, IN_KEY, ITEMS_MAX_SMALL);
            return 0;
        }
        if (c == '}' && reader->place == AT_KEY_OR_END)
            return fail(reader, "it has no items");
        return fail(reader, "a key is missing");
    case AT_COLON:
        reader->place = AT_VALUE;
        return c == ':' ? 1 : fail(reader, "a colon is missing");
    case AT_VALUE:
        return begin_member(reader, c);
    case AT_COMMA_OR_END:
        if (c == '}' && !reader->has_items)
            return fail(reader, "it has no items");
        reader->place = c == '}' ? AT_FINISH : AT_KEY;
        return c == ',' || c == '}' ? 1 : fail(reader, "a comma is missing");
    case AT_ITEM_OR_END:
    case AT_ITEM:
        if (c == ']' && reader->place == AT_ITEM_OR_END) {
            reader->place = AT_COMMA_OR_END;
            return 1;
        }
        if (c != '{')
            return fail(reader, "a document is not an object");
        reader->place = AT_MEMBER_OR_END;
        return 1;
    case AT_ITEM_COMMA_OR_END:
        reader->place = c == ']' ? AT_COMMA_OR_END : AT_ITEM;
        return c == ',' || c == ']' ? 1 : fail(reader, "a comma between documents is missing");
    default:
        return fail(reader, "something follows its end");
    }
}

static int is_inside(int place)
{
    return place == IN_KEY || place == IN_VALUE || place == IN_MEMBER_KEY ||
           place == IN_MEMBER_VALUE || place == IN_REST;
}

static int end_of(items *reader)
{
    switch (reader->place) {
    case IN_KEY:
        return end_key(reader);
    case IN_MEMBER_KEY:
        return end_member_key(reader);
    case IN_MEMBER_VALUE:
        return end_member_value(reader);
    case IN_REST:
        return end_document(reader);
    default:
        return end_value(reader);
    }
}

/* Feeds the value at hand; returns how many bytes it took, or -1. */
static ssize_t feed_value(items *reader, const char *data, size_t n)
{
    int done;
    size_t taken = take_value(reader, data, n, &done);
    if (taken == 0 && done && !reader->scalar) {
        if (reader->place == IN_MEMBER_VALUE)
            return skip_rest(reader);
        return fail(reader, "a value is missing");
    }
    if (keep(reader, data, taken) != 0)
        return -1;
    if (done && end_of(reader) != 0)
        return -1;
    return (ssize_t)taken;
}

int items_feed(items *reader, const char *data, size_t n)
{
    size_t i = 0;
    while (i < n) {
        ssize_t taken = is_inside(reader->place)          ? feed_value(reader, data + i, n - i)
                        : is_space(data[i])               ? 1
                        : is_among_members(reader->place) ? between_members(reader, data[i])
                                                          : between(reader, data[i]);
        if (taken < 0)
            return -1;
        i += (size_t)taken;
        reader->offset += (uint64_t)taken;
    }
    return 0;
}
