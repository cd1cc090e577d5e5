/* messages.c - the bodies of the messages between servers and packagers, written and read. */
#include "workqueue/remote/messages.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "workqueue/util/log.h"

/* ---- lines ----------------------------------------------------------------------------------- */

typedef struct span {
    const char *at;
    size_t len;
} span;

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static span trim(span s)
{
    while (s.len > 0 && is_space(s.at[0]))
        s = (span){s.at + 1, s.len - 1};
    while (s.len > 0 && is_space(s.at[s.len - 1]))
        s.len--;
    return s;
}

/* Takes the first line off `rest`, without its end. */
static span next_line(span *rest)
{
    const char *newline = memchr(rest->at, '\n', rest->len);
    span line = {rest->at, newline ? (size_t)(newline - rest->at) : rest->len};
    size_t taken = line.len + (newline != NULL);
    *rest = (span){rest->at + taken, rest->len - taken};
    if (line.len > 0 && line.at[line.len - 1] == '\r')
        line.len--;
    return line;
}

static int starts(span s, const char *word)
{
    size_t n = strlen(word);
    return s.len >= n && strncasecmp(s.at, word, n) == 0;
}

/* The value of the first line "Name: value"; at is NULL if there is none. Only the blank behind the
 * colon is not part of it. */
static span value_of(span body, const char *name)
{
    size_t n = strlen(name);
    while (body.len > 0) {
        span line = next_line(&body);
        if (!starts(line, name) || line.len == n || line.at[n] != ':')
            continue;
        span value = {line.at + n + 1, line.len - n - 1};
        if (value.len > 0 && value.at[0] == ' ')
            value = (span){value.at + 1, value.len - 1};
        return value;
    }
    return (span){NULL, 0};
}

/* 0, or -1 if it is absent, empty, too long or holds control characters. */
static int copy_value(char *buf, size_t size, span value)
{
    if (value.at == NULL || value.len == 0 || value.len >= size)
        return -1;
    for (size_t i = 0; i < value.len; i++)
        if ((unsigned char)value.at[i] < 0x20 || value.at[i] == 0x7f)
            return -1;
    memcpy(buf, value.at, value.len);
    buf[value.len] = '\0';
    return 0;
}

static int number_of(span s, uint64_t *out)
{
    *out = 0;
    s = trim(s);
    if (s.at == NULL || s.len == 0 || s.len > 18)
        return -1;
    for (size_t i = 0; i < s.len; i++) {
        if (s.at[i] < '0' || s.at[i] > '9')
            return -1;
        *out = *out * 10 + (uint64_t)(s.at[i] - '0');
    }
    return 0;
}

static int read_flag(span body, const char *name)
{
    uint64_t number;
    return number_of(value_of(body, name), &number) == 0 && number != 0;
}

/* ---- jobs ------------------------------------------------------------------------------------ */

char *wq_job_message_text(const char *id, const wq_params *params, int rebuild)
{
    char *text = NULL;
    if (asprintf(&text, "Package: %s\nServer: %s\nDocument-Set: %s\nToken: %s\n%s", id,
                 params->server, params->document_set_id, params->api_token,
                 rebuild ? "Rebuild: 1\n" : "") < 0)
        return NULL;
    return text;
}

char *wq_plain_message_text(const char *pattern, const wq_params *params)
{
    char *text = NULL;
    size_t n = 0;
    FILE *stream = open_memstream(&text, &n);
    if (stream == NULL)
        return NULL;
    for (const char *at = pattern; *at != '\0';) {
        int is_server = strncmp(at, "{server}", 8) == 0, is_id = strncmp(at, "{id}", 4) == 0;
        if (is_server || is_id)
            fputs(is_server ? params->server : params->document_set_id, stream);
        else
            fputc(*at, stream);
        at += is_server ? 8 : is_id ? 4 : 1;
    }
    fputc('\n', stream);
    if (fclose(stream) == 0)
        return text;
    free(text);
    return NULL;
}

/* Copies into `*at`, which has room, and moves it on. */
static const char *keep_field(char **at, span s)
{
    char *kept = *at;
    memcpy(kept, s.at, s.len);
    kept[s.len] = '\0';
    *at += s.len + 1;
    return kept;
}

static int has_nul(span s)
{
    return memchr(s.at, '\0', s.len) != NULL;
}

/* The last segment of the path, without query and fragment; a slash at the end does not count. */
static span last_segment(span url)
{
    const char *authority = memmem(url.at, url.len, "://", 3);
    span path = {authority + 3, url.len - (size_t)(authority + 3 - url.at)};
    for (size_t i = 0; i < path.len; i++)
        if (path.at[i] == '?' || path.at[i] == '#')
            path.len = i;
    while (path.len > 0 && path.at[path.len - 1] == '/')
        path.len--;
    const char *slash = memrchr(path.at, '/', path.len);
    if (slash == NULL)
        return (span){NULL, 0};
    return (span){slash + 1, path.len - (size_t)(slash + 1 - path.at)};
}

static int is_plain_url(span body)
{
    if (!starts(body, "http://") && !starts(body, "https://"))
        return 0;
    for (size_t i = 0; i < body.len; i++)
        if (is_space(body.at[i]))
            return 0;
    return 1;
}

static int read_spans(wq_job_message *out, span id, span server, span set, span token,
                      wq_error *error)
{
    if (copy_value(out->id, sizeof out->id, id) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the message has no usable package id");
    if (server.at == NULL || set.at == NULL || token.at == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "the message lacks one of Server, Document-Set and Token");
    if (has_nul(server) || has_nul(set) || has_nul(token))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the message holds a NUL");
    char *at = out->held = malloc(server.len + set.len + token.len + 3);
    if (at == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    out->params.server = keep_field(&at, server);
    out->params.document_set_id = keep_field(&at, set);
    out->params.api_token = keep_field(&at, token);
    int result = wq_params_check(&out->params, error);
    if (result != WQ_OK) {
        free(out->held);
        out->held = NULL;
    }
    return result;
}

int wq_job_message_read(wq_job_message *out, const char *bytes, size_t len, wq_error *error)
{
    span body = {bytes, len}, plain = trim(body);
    memset(out, 0, sizeof *out);
    if (len > WQ_MESSAGE_BYTES)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the message is longer than %d bytes",
                       WQ_MESSAGE_BYTES);
    out->plain = is_plain_url(plain);
    if (out->plain)
        return read_spans(out, last_segment(plain), plain, last_segment(plain), (span){"-", 1},
                          error);
    out->rebuild = read_flag(body, "Rebuild");
    return read_spans(out, value_of(body, "Package"), value_of(body, "Server"),
                      value_of(body, "Document-Set"), value_of(body, "Token"), error);
}

void wq_job_message_clear(wq_job_message *message)
{
    free(message->held);
    memset(message, 0, sizeof *message);
}

/* ---- answers --------------------------------------------------------------------------------- */

/* Takes a decimal number off the front: not strtod, which obeys the host's locale. */
static int read_decimal(span *s, double *out)
{
    double value = 0, scale = 1;
    int digits = 0, point = 0;
    for (; s->len > 0 && digits < 12; *s = (span){s->at + 1, s->len - 1}) {
        if (s->at[0] == '.' && !point) {
            point = 1;
            continue;
        }
        if (s->at[0] < '0' || s->at[0] > '9')
            break;
        value = value * 10 + (s->at[0] - '0');
        scale *= point ? 10 : 1;
        digits++;
    }
    *out = value / scale;
    return digits > 0;
}

/* "45 seconds", "2 minutes", "1.5 hours": the first number and the unit behind it. */
static uint64_t read_estimate_ms(span s)
{
    double value;
    while (s.len > 0 && (s.at[0] < '0' || s.at[0] > '9'))
        s = (span){s.at + 1, s.len - 1};
    if (!read_decimal(&s, &value))
        return 0;
    span unit = trim(s);
    double unit_ms = starts(unit, "min") ? 60e3 : starts(unit, "hour") ? 3600e3 : 1e3;
    if (starts(unit, "ms") || starts(unit, "milli"))
        unit_ms = 1;
    return (uint64_t)(value * unit_ms);
}

static int set_line(wq_reply *out, const char *head, span message)
{
    size_t n = strlen(head);
    if (n + 1 + message.len > sizeof out->line)
        message.len = sizeof out->line - n - 1;
    memcpy(out->line, head, n);
    out->line_len = n;
    if (message.len > 0) {
        out->line[n] = '\t';
        memcpy(out->line + n + 1, message.at, message.len);
        out->line_len += 1 + message.len;
    }
    out->kind = WQ_REPLY_PROGRESS;
    return 1;
}

static int set_fraction(wq_reply *out, double fraction, span message)
{
    char head[40];
    if (!(fraction >= 0 && fraction <= 1))
        return 0;
    /* in thousand-millionths and by hand: printf obeys the host's locale */
    unsigned long n = (unsigned long)(fraction * 1e9 + 0.5);
    snprintf(head, sizeof head, "%lu.%09lu", n / 1000000000, n % 1000000000);
    return set_line(out, head, message);
}

/* Whether the number is a good one is for whoever takes in progress to say. */
static int read_program_line(wq_reply *out, span line)
{
    const char *tab = memchr(line.at, '\t', line.len);
    size_t head = tab ? (size_t)(tab - line.at) : line.len;
    if (head == 0 || line.len > sizeof out->line || !strchr("0123456789.", line.at[0]))
        return 0;
    for (size_t i = 0; i < head; i++)
        if (line.at[i] == '\0' || strchr("0123456789.eE+-/", line.at[i]) == NULL)
            return 0;
    memcpy(out->line, line.at, line.len);
    out->line_len = line.len;
    out->kind = WQ_REPLY_PROGRESS;
    return 1;
}

/* "25%", "25 % complete", "12.5%: indexing" */
static int read_percent(wq_reply *out, span line)
{
    double value;
    const char *sign = memchr(line.at, '%', line.len);
    if (sign == NULL || !read_decimal(&line, &value) || trim(line).at != sign)
        return 0;
    span message = {sign + 1, line.len - (size_t)(sign + 1 - line.at)};
    while (message.len > 0 && (is_space(message.at[0]) || message.at[0] == ':'))
        message = (span){message.at + 1, message.len - 1};
    return set_fraction(out, value / 100, message);
}

static int read_record(wq_reply *out, span body)
{
    int read = 0;
    if (body.len == 0 || body.at[0] != '{')
        return 0;
    json_t *record = json_loadb(body.at, body.len, 0, NULL);
    json_t *fraction = json_object_get(record, "fraction");
    json_t *message = json_object_get(record, "message");
    if (json_is_number(fraction))
        read = set_fraction(out, json_number_value(fraction),
                            (span){json_string_value(message), json_string_length(message)});
    json_decref(record);
    return read;
}

static void read_complete(wq_reply *out, span body)
{
    span url = trim(value_of(body, "Complete"));
    out->kind = WQ_REPLY_COMPLETE;
    out->url = url.at;
    out->url_len = url.len;
    out->has_size = number_of(value_of(body, "Size"), &out->size_bytes) == 0;
}

/* To its end as it is: it may be that of a program's stderr. */
static void read_failed(wq_reply *out, const char *at, const char *end)
{
    span reason = {at + strlen("failed"), (size_t)(end - at) - strlen("failed")};
    while (reason.len > 0 && (reason.at[0] == ':' || reason.at[0] == '.' || reason.at[0] == ' '))
        reason = (span){reason.at + 1, reason.len - 1};
    out->kind = WQ_REPLY_FAILED;
    out->reason = reason.at;
    out->reason_len = reason.len;
}

void wq_reply_read(wq_reply *out, const char *bytes, size_t len)
{
    len = len < WQ_MESSAGE_BYTES ? len : WQ_MESSAGE_BYTES;
    span body = trim((span){bytes, len});
    memset(out, 0, offsetof(wq_reply, line));
    out->line_len = out->url_len = out->reason_len = 0;
    out->url = out->reason = NULL;
    out->has_size = 0;
    out->size_bytes = 0;
    if (starts(body, "accepted")) {
        out->kind = WQ_REPLY_ACCEPTED;
        out->estimate_ms = read_estimate_ms(body);
    } else if (starts(body, "complete:")) {
        read_complete(out, body);
    } else if (starts(body, "failed")) {
        read_failed(out, body.at, bytes + len);
    } else if (starts(body, "cancelled")) {
        out->kind = WQ_REPLY_CANCELLED;
    } else if (!read_record(out, body)) {
        span rest = body, line = next_line(&rest);
        if (starts(line, "progress:"))
            line = trim((span){line.at + 9, line.len - 9});
        if (!read_program_line(out, line))
            read_percent(out, line);
    }
}

size_t wq_reply_accepted(char *buf, size_t size, uint64_t estimate_ms)
{
    return (size_t)snprintf(buf, size, "Accepted. %" PRIu64 " seconds\n",
                            (estimate_ms + 999) / 1000);
}

size_t wq_reply_complete(char *buf, size_t size, const char *url, uint64_t size_bytes)
{
    return (size_t)snprintf(buf, size, "Complete: %s\nSize: %" PRIu64 "\n", url, size_bytes);
}

size_t wq_reply_failed(char *buf, size_t size, const char *reason)
{
    return (size_t)snprintf(buf, size, "Failed: %s", reason);
}

/* ---- hints ----------------------------------------------------------------------------------- */

static int is_key(const char *s)
{
    return strlen(s) == WQ_KEY_SIZE - 1 && strspn(s, "0123456789abcdef") == WQ_KEY_SIZE - 1;
}

void wq_hint_read(wq_hint *out, const char *bytes, size_t len)
{
    span body = {bytes, len < WQ_MESSAGE_BYTES ? len : WQ_MESSAGE_BYTES};
    memset(out, 0, sizeof *out);
    if (copy_value(out->id, sizeof out->id, value_of(body, "Cancel")) == 0) {
        out->kind = WQ_HINT_CANCEL;
        return;
    }
    if (copy_value(out->key, sizeof out->key, value_of(body, "Join")) == 0 && is_key(out->key) &&
        copy_value(out->id, sizeof out->id, value_of(body, "Package")) == 0 &&
        copy_value(out->reply_to, sizeof out->reply_to, value_of(body, "Reply-To")) == 0)
        out->kind = WQ_HINT_JOIN;
    else
        memset(out, 0, sizeof *out);
}

size_t wq_hint_text(char *buf, size_t size, const wq_hint *hint)
{
    if (hint->kind == WQ_HINT_CANCEL)
        return (size_t)snprintf(buf, size, "Cancel: %s\n", hint->id);
    return (size_t)snprintf(buf, size, "Join: %s\nPackage: %s\nReply-To: %s\n", hint->key, hint->id,
                            hint->reply_to);
}

/* ---- destinations ---------------------------------------------------------------------------- */

static int is_unreserved(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != '\0' && strchr("-._~", c) != NULL);
}

int wq_destination(char *buf, size_t size, const char *pattern, const char *id)
{
    const char *hole = strstr(pattern, "{id}");
    size_t before = hole ? (size_t)(hole - pattern) : strlen(pattern), n = before;
    const char *after = hole ? hole + 4 : "";
    if (before >= size)
        return WQ_ERROR_INVALID_ARGUMENT;
    memcpy(buf, pattern, before); /* NOLINT(bugprone-not-null-terminated-result): it goes on */
    for (; *id != '\0'; id++) {
        size_t width = is_unreserved(*id) ? 1 : 3;
        if (n + width >= size)
            return WQ_ERROR_INVALID_ARGUMENT;
        if (width == 1)
            buf[n] = *id;
        else
            snprintf(buf + n, size - n, "%%%02X", (unsigned char)*id);
        n += width;
    }
    if (n + strlen(after) >= size)
        return WQ_ERROR_INVALID_ARGUMENT;
    memcpy(buf + n, after, strlen(after) + 1);
    return WQ_OK;
}

int wq_destination_for_others(char *buf, size_t size, const char *plain, int is_rabbitmq)
{
    int declares = is_rabbitmq && strncmp(plain, "/queue/", 7) == 0;
    return snprintf(buf, size, "%s%s", declares ? "/amq" : "", plain) < (int)size ? 0 : -1;
}

int wq_inbox(char *buf, size_t size, const char *queue_reply, const char *name)
{
    char id[WQ_NAME_SIZE + 8];
    snprintf(id, sizeof id, "inbox-%s", name);
    return wq_destination(buf, size, queue_reply, id) == WQ_OK ? 0 : -1;
}
