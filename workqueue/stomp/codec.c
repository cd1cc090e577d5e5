/* stomp.c - STOMP 1.2 frames from bytes and to bytes.
 *
 * Where the specification leaves room, the strict reading: a byte that is in no place of a frame
 * ends the connection, since two readers of one stream that disagree on where a frame ends are how
 * messages are smuggled. One thing is lenient: a colon in a value, which many write unescaped and
 * which can only mean one thing.
 */
#include "workqueue/stomp/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    COMMAND_BYTES = 16,
    KEPT_BYTES = 65536
}; /* a bigger buffer is not kept for the next frame */

enum { BETWEEN, BETWEEN_CR, LINE, LINE_CR, BODY, BODY_END };

/* Whether escapes are undone in the headers of a command, and whether it may have a body. */
typedef struct command {
    const char *name;
    int escapes, body;
} command;

static const command *find_command(const char *name)
{
    static const command commands[] = {
        {"MESSAGE", 1, 1}, {"RECEIPT", 1, 0},     {"ERROR", 1, 1},  {"CONNECTED", 0, 0},
        {"SEND", 1, 1},    {"SUBSCRIBE", 1, 0},   {"ACK", 1, 0},    {"NACK", 1, 0},
        {"BEGIN", 1, 0},   {"UNSUBSCRIBE", 1, 0}, {"COMMIT", 1, 0}, {"ABORT", 1, 0},
        {"CONNECT", 0, 0}, {"DISCONNECT", 1, 0},  {"STOMP", 0, 0},
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

const char *wq_stomp_get(const wq_stomp_frame *frame, const char *name)
{
    for (size_t i = 0; i < frame->n_headers; i++)
        if (strcmp(frame->headers[i].name, name) == 0)
            return frame->headers[i].value;
    return NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

void wq_stomp_init(wq_stomp_parser *parser, const wq_stomp_limits *limits)
{
    *parser = (wq_stomp_parser){.limits = *limits};
}

void wq_stomp_dispose(wq_stomp_parser *parser)
{
    free(parser->text);
    free(parser->starts);
    free(parser->headers);
    free(parser->body);
}

static int refuse(wq_stomp_parser *parser, const char *why)
{
    parser->why = why;
    return -1;
}

/* Room for `more` bytes; `*size` grows by half, so that a frame costs its length. */
static int reserve(wq_stomp_parser *parser, char **buffer, size_t *size, size_t len, size_t more)
{
    if (len + more <= *size)
        return 0;
    size_t wanted = len + more + len / 2 + 64;
    char *grown = realloc(*buffer, wanted);
    if (grown == NULL)
        return refuse(parser, "there is no memory for it");
    *buffer = grown;
    *size = wanted;
    return 0;
}

static void drop_if_large(char **buffer, size_t *size)
{
    if (*size <= KEPT_BYTES)
        return;
    free(*buffer);
    *buffer = NULL;
    *size = 0;
}

static void begin(wq_stomp_parser *parser)
{
    drop_if_large(&parser->text, &parser->text_size);
    drop_if_large(&parser->body, &parser->body_size);
    parser->text_len = parser->line = parser->n_headers = parser->body_len = 0;
    parser->counted = 0;
    parser->left = parser->dropped_bytes = 0;
    parser->state = LINE;
}

/* Undoes the escapes of `text` in place; -1: one that there is not. */
static int unescape(char *text)
{
    char *out = text;
    for (; *text != '\0'; text++, out++) {
        *out = *text;
        if (*text != '\\')
            continue;
        text++;
        if (*text == 'n')
            *out = '\n';
        else if (*text == 'r')
            *out = '\r';
        else if (*text == 'c')
            *out = ':';
        else if (*text != '\\')
            return -1;
    }
    *out = '\0';
    return 0;
}

static int grow_headers(wq_stomp_parser *parser)
{
    if (parser->n_headers < parser->headers_size)
        return 0;
    const size_t n = parser->headers_size * 2 + 16;
    size_t *starts = realloc(parser->starts, n * 2 * sizeof *starts);
    if (starts != NULL)
        parser->starts = starts;
    wq_stomp_header *headers = realloc(parser->headers, n * sizeof *headers);
    if (headers != NULL)
        parser->headers = headers;
    if (starts == NULL || headers == NULL)
        return refuse(parser, "there is no memory for it");
    parser->headers_size = n;
    return 0;
}

/* The first content-length is the one that counts. */
static int count_body(wq_stomp_parser *parser, const char *value)
{
    if (parser->counted)
        return 0;
    const size_t n = strspn(value, "0123456789");
    if (n == 0 || n > 18 || value[n] != '\0')
        return refuse(parser, "its content-length is no number");
    parser->counted = 1;
    parser->left = strtoull(value, NULL, 10);
    return 0;
}

static int take_header(wq_stomp_parser *parser)
{
    char *name = parser->text + parser->line, *value = strchr(name, ':');
    if (value == NULL)
        return refuse(parser, "a header has no colon");
    if (value == name)
        return refuse(parser, "a header has no name");
    if (parser->n_headers >= parser->limits.headers)
        return refuse(parser, "it has too many headers");
    if (grow_headers(parser) != 0)
        return -1;
    *value++ = '\0';
    if (find_command(parser->text)->escapes && (unescape(name) != 0 || unescape(value) != 0))
        return refuse(parser, "a header has an escape that there is not");
    parser->starts[parser->n_headers * 2] = parser->line;
    parser->starts[parser->n_headers * 2 + 1] = (size_t)(value - parser->text);
    parser->n_headers++;
    parser->line = parser->text_len;
    return strcmp(name, "content-length") == 0 ? count_body(parser, value) : 0;
}

/* A line is whole; the empty one ends the headers. */
static int take_header_line(wq_stomp_parser *parser)
{
    const size_t len = parser->text_len - parser->line;
    if (reserve(parser, &parser->text, &parser->text_size, parser->text_len, 1) != 0)
        return -1;
    parser->text[parser->text_len++] = '\0';
    parser->state = LINE;
    if (parser->line > 0 && len > 0)
        return take_header(parser);
    if (parser->line > 0) {
        parser->state = parser->counted && parser->left == 0 ? BODY_END : BODY;
        return 0;
    }
    parser->line = parser->text_len;
    return find_command(parser->text) != NULL ? 0 : refuse(parser, "it has no command of STOMP");
}

/* Takes the part of a line that is in `data`. */
static int read_line(wq_stomp_parser *parser, const char **data, size_t *n)
{
    size_t len = 0;
    while (len < *n && (*data)[len] != '\n' && (*data)[len] != '\r' && (*data)[len] != '\0')
        len++;
    const size_t most = parser->line == 0 ? COMMAND_BYTES : parser->limits.line_bytes;
    if (len > most || parser->text_len - parser->line > most - len)
        return refuse(parser,
                      parser->line == 0 ? "it has no command of STOMP" : "a header is too long");
    if (reserve(parser, &parser->text, &parser->text_size, parser->text_len, len) != 0)
        return -1;
    if (len > 0)
        memcpy(parser->text + parser->text_len, *data, len);
    parser->text_len += len;
    *data += len;
    *n -= len;
    if (*n == 0)
        return 0;
    const char end = **data;
    ++*data, --*n;
    if (end == '\0')
        return refuse(parser, "there is a NUL before its body");
    parser->state = LINE_CR;
    return end == '\n' ? take_header_line(parser) : 0;
}

/* Up to the limit a body is kept, what follows is only counted. */
static int keep(wq_stomp_parser *parser, const char *data, size_t n)
{
    const size_t room = parser->limits.body_bytes - parser->body_len, kept = n < room ? n : room;
    if (reserve(parser, &parser->body, &parser->body_size, parser->body_len, kept) != 0)
        return -1;
    if (kept > 0)
        memcpy(parser->body + parser->body_len, data, kept);
    parser->body_len += kept;
    parser->dropped_bytes += n - kept;
    return 0;
}

static int read_body(wq_stomp_parser *parser, const char **data, size_t *n)
{
    size_t len = *n;
    const char *nul = parser->counted ? NULL : memchr(*data, '\0', *n);
    if (nul != NULL)
        len = (size_t)(nul - *data);
    else if (parser->counted && parser->left < len)
        len = (size_t)parser->left;
    if (keep(parser, *data, len) != 0)
        return -1;
    *data += len;
    *n -= len;
    if (parser->counted)
        parser->left -= len;
    if (nul != NULL || (parser->counted && parser->left == 0))
        parser->state = BODY_END;
    return 0;
}

/* Without a content-length the NUL has been seen already, and is taken here. */
static int finish(wq_stomp_parser *parser, const char **data, size_t *n, wq_stomp_frame *out)
{
    if (**data != '\0')
        return refuse(parser, "its body is longer than its content-length");
    ++*data, --*n;
    for (size_t i = 0; i < parser->n_headers; i++)
        parser->headers[i] = (wq_stomp_header){parser->text + parser->starts[i * 2],
                                               parser->text + parser->starts[i * 2 + 1]};
    *out = (wq_stomp_frame){parser->text,      parser->headers,
                            parser->n_headers, parser->body_len > 0 ? parser->body : "",
                            parser->body_len,  parser->dropped_bytes};
    parser->state = BETWEEN;
    return 1;
}

/* Between frames there may be ends of lines: heart-beats. */
static int read_between(wq_stomp_parser *parser, const char **data, size_t *n)
{
    const char c = **data;
    if (c == '\n' || (c == '\r' && parser->state == BETWEEN)) {
        parser->state = c == '\n' ? BETWEEN : BETWEEN_CR;
        ++*data, --*n;
    } else if (parser->state == BETWEEN_CR) {
        return refuse(parser, "there is a CR without LF before it");
    } else {
        begin(parser);
    }
    return 0;
}

int wq_stomp_next(wq_stomp_parser *parser, const char **data, size_t *n, wq_stomp_frame *out)
{
    int result = parser->why != NULL ? -1 : 0;
    while (result == 0 && *n > 0) {
        if (parser->state == BETWEEN || parser->state == BETWEEN_CR) {
            result = read_between(parser, data, n);
        } else if (parser->state == LINE) {
            result = read_line(parser, data, n);
        } else if (parser->state == LINE_CR) {
            if (**data != '\n')
                return refuse(parser, "a line has a CR without LF");
            ++*data, --*n;
            result = take_header_line(parser);
        } else if (parser->state == BODY) {
            result = read_body(parser, data, n);
        } else {
            result = finish(parser, data, n, out);
        }
    }
    return result;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Appends to `out`, or only counts where that is NULL. */
typedef struct sink {
    char *out;
    size_t len;
} sink;

static void put(sink *to, const char *bytes, size_t n)
{
    if (to->out != NULL && n > 0)
        memcpy(to->out + to->len, bytes, n);
    to->len += n;
}

/* The letter that stands for `c` after a backslash; 0: it stands for itself. */
static char escape_of(char c)
{
    return (char)(c == '\n' ? 'n' : c == '\r' ? 'r' : c == ':' ? 'c' : c == '\\' ? '\\' : 0);
}

static void put_escaped(sink *to, const char *text, int escapes)
{
    for (; *text != '\0'; text++) {
        const char pair[2] = {'\\', escapes ? escape_of(*text) : (char)0};
        put(to, pair[1] != 0 ? pair : text, pair[1] != 0 ? 2 : 1);
    }
}

static const char *check_header(const wq_stomp_header *header, const command *of)
{
    if (header->name == NULL || header->value == NULL || header->name[0] == '\0')
        return "a header has no name or no value";
    if (strcmp(header->name, "content-length") == 0)
        return "content-length is not for the caller to say";
    if (!of->escapes && (strpbrk(header->name, "\r\n:") || strpbrk(header->value, "\r\n")))
        return "a header of such a frame cannot have an end of line, nor its name a colon";
    return NULL;
}

static void put_frame(sink *to, const wq_stomp_frame *frame, const command *of)
{
    char length[48];
    put(to, frame->command, strlen(frame->command));
    put(to, "\n", 1);
    for (size_t i = 0; i < frame->n_headers; i++) {
        put_escaped(to, frame->headers[i].name, of->escapes);
        put(to, ":", 1);
        put_escaped(to, frame->headers[i].value, of->escapes);
        put(to, "\n", 1);
    }
    if (of->body) {
        snprintf(length, sizeof length, "content-length:%zu\n", frame->body_len);
        put(to, length, strlen(length));
    }
    put(to, "\n", 1);
    put(to, frame->body, frame->body_len);
    put(to, "", 1);
}

int wq_stomp_write(char **out, size_t *len, const wq_stomp_frame *frame, const char **why)
{
    sink measure = {0}, real = {0};
    const command *of = find_command(frame->command);
    *why = of == NULL                         ? "there is no such command"
           : !of->body && frame->body_len > 0 ? "such a frame has no body"
                                              : NULL;
    for (size_t i = 0; i < frame->n_headers && *why == NULL; i++)
        *why = check_header(&frame->headers[i], of);
    if (*why != NULL)
        return -1;
    put_frame(&measure, frame, of);
    real.out = malloc(measure.len);
    if (real.out == NULL) {
        *why = "there is no memory for it";
        return -1;
    }
    put_frame(&real, frame, of);
    *out = real.out;
    *len = real.len;
    return 0;
}
