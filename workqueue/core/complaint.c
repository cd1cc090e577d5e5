/* complaint.c - says of a line that is no progress what it should have been. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "workqueue/core/progress.h"

enum { SHOWN_BYTES = 240, NUMBER_BYTES = 24, HINT_BYTES = 160 };

int wq_progress_is_blank(const char *line, size_t len)
{
    while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t'))
        len--;
    return len == 0;
}

/* A tab as \t and a backslash as two, so that a line with a backslash and a "t" does not look like
 * what it should have been. */
static void escape_line(char *out, const char *line, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = 0, i = 0;
    for (; i < len && n + 4 < SHOWN_BYTES - 3; i++) {
        unsigned char c = (unsigned char)line[i];
        if (c == '\\' || c == '\t') {
            out[n++] = '\\';
            out[n++] = c == '\t' ? 't' : '\\';
        } else if (c >= 0x20 && c < 0x7f) {
            out[n++] = (char)c;
        } else {
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        }
    }
    memcpy(out + n, i < len ? "..." : "", i < len ? 4 : 1);
}

/* ---- what was meant -------------------------------------------------------------------------- */

/* The number at the front of the line as it is written there; how long. Its whole part is a value.
 */
static size_t read_number(const char *s, char number[NUMBER_BYTES], unsigned *whole)
{
    size_t n = strspn(s, "0123456789.");
    *whole = 0;
    for (size_t i = 0; i < n && s[i] != '.'; i++)
        *whole = *whole < 100000 ? *whole * 10 + (unsigned)(s[i] - '0') : *whole;
    snprintf(number, NUMBER_BYTES, "%.*s", n < NUMBER_BYTES ? (int)n : NUMBER_BYTES - 1, s);
    return n;
}

/* In integers: the host's locale may print a comma. */
static void hint_percent(char *hint, const char *number, unsigned whole)
{
    if (whole > 100 || (whole == 100 && strchr(number, '.') != NULL))
        snprintf(hint, HINT_BYTES, "%s is more than 1: a fraction goes from 0 to 1", number);
    else if (strchr(number, '.') != NULL)
        snprintf(hint, HINT_BYTES, "%s is more than 1: a fraction from 0 to 1, or %s%%?", number,
                 number);
    else if (whole == 100)
        snprintf(hint, HINT_BYTES, "100 is more than 1: 1, or 100%%?");
    else if (whole % 10 == 0)
        snprintf(hint, HINT_BYTES, "%s is more than 1: 0.%u, or %s%%?", number, whole / 10, number);
    else
        snprintf(hint, HINT_BYTES, "%s is more than 1: 0.%02u, or %s%%?", number, whole, number);
}

static int is_wholly_text(const char *s)
{
    return (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z');
}

/* `rest` begins with "/" or "of ", behind the number of items done. */
static void hint_items(char *hint, const char *number, const char *rest)
{
    const char *total = rest + (*rest == '/' ? 1 : 3);
    total += strspn(total, " ");
    size_t n = strspn(total, "0123456789");
    size_t blanks = strspn(total + n, " ");
    if (n > 0 && n < NUMBER_BYTES && blanks > 0 && total[n + blanks] != '\0')
        snprintf(hint, HINT_BYTES, "a tab must stand between %s/%.*s and the message, not a blank",
                 number, (int)n, total);
    else
        snprintf(hint, HINT_BYTES, "items done, at most all, and items in all: 3/12");
}

static void hint_number(char *hint, const char *s)
{
    char number[NUMBER_BYTES];
    unsigned whole;
    size_t n = read_number(s, number, &whole);
    const char *rest = s + n, *text = rest + strspn(rest, " ");
    if (*rest == ',' && rest[1] >= '0' && rest[1] <= '9')
        snprintf(hint, HINT_BYTES, "a decimal comma? It must be a point");
    else if (*text == '%')
        snprintf(hint, HINT_BYTES,
                 whole > 100 ? "%s%% is more than 100%%"
                             : "a tab must stand between %s%% and the message",
                 number);
    else if (*text == '/' || strncmp(text, "of ", 3) == 0)
        hint_items(hint, number, text);
    else if (rest != text && *text != '\0')
        snprintf(hint, HINT_BYTES, "a tab must stand between %s and the message, not a blank",
                 number);
    else if (whole >= 1)
        hint_percent(hint, number, whole);
}

/* "" where one cannot tell. */
static void find_hint(char hint[HINT_BYTES], const char *s)
{
    const char *backslash = strstr(s, "\\t");
    char number[NUMBER_BYTES];
    unsigned whole;
    *hint = '\0';
    s += strspn(s, " +");
    if (backslash != NULL && *s >= '0' && *s <= '9')
        snprintf(hint, HINT_BYTES,
                 "it has a backslash and a t, where there should be a tab: try printf");
    else if (*s == '{' || (*s == '[' && strpbrk(s, "]\"}") != NULL))
        snprintf(hint, HINT_BYTES, "JSON? It must be a number, a tab and the message, as text");
    else if (*s == '-' && read_number(s + 1, number, &whole) > 0)
        snprintf(hint, HINT_BYTES, "-%s is less than 0", number);
    else if (strncasecmp(s, "nan", 3) == 0 || strncasecmp(s, "inf", 3) == 0)
        snprintf(hint, HINT_BYTES, "%.3s is no number from 0 to 1", s);
    else if ((*s >= '0' && *s <= '9') || *s == '.')
        hint_number(hint, s);
    else if (is_wholly_text(s))
        snprintf(hint, HINT_BYTES, "what is no progress belongs on stderr");
}

void wq_progress_complain(char out[WQ_COMPLAINT_BYTES], const char *line, size_t len)
{
    char shown[SHOWN_BYTES], copy[SHOWN_BYTES], hint[HINT_BYTES];
    size_t n = len < sizeof copy - 1 ? len : sizeof copy - 1;
    const char *tab = memchr(line, '\t', n);
    n = tab != NULL ? (size_t)(tab - line) : n; /* the message is as one likes */
    for (size_t i = 0; i < n; i++)              /* and what is not ASCII is in no hint */
        copy[i] = line[i] >= 0x20 && line[i] < 0x7f ? line[i] : ' ';
    copy[n] = '\0';
    escape_line(shown, line, len);
    find_hint(hint, copy);
    snprintf(out, WQ_COMPLAINT_BYTES, "stdout must look like '0.25<TAB>message'; got '%s'%s%s",
             shown, *hint != '\0' ? "; " : "", hint);
}
