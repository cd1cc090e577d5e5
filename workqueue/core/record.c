/* record.c - the progress record that clients see: five fields of JSON, in ASCII. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <workqueue/workqueue.h>

#include "workqueue/util/text.h"

static int is_number_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Counts all, stores what fits: snprintf's manner for JSON. */
typedef struct writer {
    char *buf;
    size_t size, len;
} writer;

static void put_bytes(writer *w, const char *s, size_t n)
{
    if (w->len < w->size) {
        size_t room = w->size - w->len;
        memcpy(w->buf + w->len, s, n < room ? n : room);
    }
    w->len += n;
}

static void put_text(writer *w, const char *s)
{
    put_bytes(w, s, strlen(s));
}

static void put_unit(writer *w, uint32_t unit)
{
    char escape[8];
    put_bytes(w, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", unit & 0xffff));
}

static void put_escaped(writer *w, const char *s, size_t len)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    unsigned char c = (unsigned char)*s;
    const char *found = c != '\0' ? strchr(from, c) : NULL;
    if (found != NULL) {
        put_bytes(w, (char[]){'\\', to[found - from]}, 2);
        return;
    }
    uint32_t point = wq_utf8_decode(s, len);
    if (point >= 0x10000) {
        put_unit(w, 0xd800 + ((point - 0x10000) >> 10));
        put_unit(w, 0xdc00 + ((point - 0x10000) & 0x3ff));
    } else {
        put_unit(w, point);
    }
}

/* Everything outside printable ASCII is escaped: clients in use decode chunk by chunk. */
static void put_contents(writer *w, const char *s)
{
    size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        size_t plain = 0;
        while (s[i + plain] >= 0x20 && s[i + plain] < 0x7f && s[i + plain] != '"' &&
               s[i + plain] != '\\')
            plain++;
        put_bytes(w, s + i, plain);
        i += plain;
        if (i == n)
            break;
        size_t len = wq_utf8_length(s + i, n - i);
        put_escaped(w, len ? s + i : "\xef\xbf\xbd", len ? len : 3);
        i += len ? len : 1;
    }
}

static void put_string(writer *w, const char *s)
{
    if (s == NULL) {
        put_text(w, "null");
        return;
    }
    put_bytes(w, "\"", 1);
    put_contents(w, s);
    put_bytes(w, "\"", 1);
}

/* Clients read an error in one form, whoever is to blame. */
static void put_error(writer *w, const wq_snapshot *snapshot)
{
    char head[40];
    if (snapshot->error == NULL) {
        put_text(w, "null");
        return;
    }
    int n = snprintf(head, sizeof head, "Exited with code %d\nstderr:\n", snapshot->returncode);
    put_bytes(w, "\"", 1);
    if (strncmp(snapshot->error, head, (size_t)n) != 0)
        put_contents(w, head);
    put_contents(w, snapshot->error);
    put_bytes(w, "\"", 1);
}

/* What programs mostly say has few digits, and then needs no arithmetic with long numbers. Nonzero:
 * it was of that kind, and is written. */
static int put_short_fraction(writer *w, double value)
{
    char text[] = "0.000000";
    if (value == 1) {
        put_text(w, "1.0");
        return 1;
    }
    if (!(value >= 0.0001 && value < 1) && value != 0)
        return 0;
    uint32_t millionths = (uint32_t)(value * 1e6 + 0.5);
    if ((double)millionths / 1e6 != value || millionths >= 1000000)
        return 0;
    size_t len = 0;
    for (size_t i = 7; i >= 2; i--, millionths /= 10) {
        text[i] = (char)('0' + millionths % 10);
        if (len == 0 && (text[i] != '0' || i == 2))
            len = i + 1;
    }
    put_bytes(w, text, len);
    return 1;
}

/* The shortest digits that read back as the same number; a point whatever the host's locale. Of 15
 * digits or fewer any number reads back, and %g leaves out zeros at the end. */
static void put_fraction(writer *w, double value)
{
    char digits[40];
    if (put_short_fraction(w, value))
        return;
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    int plain = 1;
    char *out = digits;
    for (const char *p = digits; *p != '\0'; p++) {
        int number = is_number_digit(*p) || *p == '-' || *p == '+' || *p == 'e';
        plain &= is_number_digit(*p);
        if (number)
            *out++ = *p;
        else if (out[-1] != '.') /* the locale's sign may be of several bytes */
            *out++ = '.';
    }
    *out = '\0';
    put_text(w, digits);
    if (plain)
        put_bytes(w, ".0", 2);
}

size_t wq_snapshot_json(const wq_snapshot *snapshot, char *buf, size_t size)
{
    writer w = {.buf = buf, .size = size ? size - 1 : 0};
    char number[64];
    snprintf(number, sizeof number, "{\"n_ahead_in_queue\": %llu, \"fraction\": ",
             (unsigned long long)snapshot->n_ahead_in_queue);
    put_text(&w, number);
    put_fraction(&w, snapshot->fraction);
    put_text(&w, ", \"message\": ");
    put_string(&w, snapshot->message);
    if (snapshot->has_returncode)
        snprintf(number, sizeof number, ", \"returncode\": %d", snapshot->returncode);
    else
        snprintf(number, sizeof number, ", \"returncode\": null");
    put_text(&w, number);
    put_text(&w, ", \"error\": ");
    put_error(&w, snapshot);
    put_bytes(&w, "}", 1);
    if (size > 0)
        buf[w.len < size ? w.len : size - 1] = '\0';
    return w.len;
}
