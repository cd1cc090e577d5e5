/* words.c - times as ages, and the wire's "Exited with code N\nstderr:\n..." as a sentence: a
 * signal by its name, the last line of stderr first. */
#include "workqueue/command/words.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { OWN_FAILURE = -999 }; /* a returncode of the library's, not of the program */

uint64_t words_age_ms(const char *time)
{
    struct timespec now;
    struct tm tm = {0};
    if (strptime(time, "%Y-%m-%dT%H:%M:%S", &tm) == NULL)
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t s = (int64_t)now.tv_sec - (int64_t)timegm(&tm);
    return s > 0 ? (uint64_t)s * 1000 : 0;
}

const char *words_age(char *buf, size_t size, const char *time)
{
    static const struct {
        unsigned s;
        const char *name;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    uint64_t s = words_age_ms(time) / 1000;
    size_t i = 0;
    while (i < 3 && s < 2 * units[i].s)
        i++;
    if (*time == '\0')
        snprintf(buf, size, "-");
    else
        snprintf(buf, size, "%llu %s", (unsigned long long)(s / units[i].s), units[i].name);
    return buf;
}

static const char *skip_head(const char *error)
{
    const char *head = "Exited with code ", *middle = strstr(error, "\nstderr:\n");
    return strncmp(error, head, strlen(head)) == 0 && middle != NULL ? middle + 9 : error;
}

/* The last line that says something, in place. */
static void find_last_line(const char *text, const char **line, int *n)
{
    const char *end = text + strlen(text);
    while (end > text && (end[-1] == '\n' || end[-1] == ' ' || end[-1] == '\r'))
        end--;
    const char *begin = end;
    while (begin > text && begin[-1] != '\n' && begin[-1] != '\r')
        begin--;
    *line = begin;
    *n = (int)(end - begin);
}

/* Without what would move a cursor or change a colour; a newline stays. */
static void print_plain(const char *text, int n)
{
    for (int i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == 27 && i + 1 < n && text[i + 1] == '[')
            for (i += 2; i < n && (text[i] < '@' || text[i] > '~'); i++)
                continue;
        else
            fputc((c < ' ' && c != '\n') || c == 127 ? ' ' : c, stderr);
    }
}

void words_print_failure(int returncode, const char *error)
{
    const char *text = error ? skip_head(error) : "", *line;
    int n;
    find_last_line(text, &line, &n);
    fputs("Failed: ", stderr);
    if (returncode == OWN_FAILURE) {
        print_plain(text, (int)strlen(text));
        fputc('\n', stderr);
        return;
    }
    if (returncode < 0)
        fprintf(stderr, "killed by signal %d (%s)", -returncode, strsignal(-returncode));
    else
        fprintf(stderr, "exit code %d", returncode);
    fputs(n > 0 ? ": " : "", stderr);
    print_plain(line, n);
    fputc('\n', stderr);
    if (line > text) {
        fputs("Before that, on stderr:\n", stderr);
        print_plain(text, (int)(line - text));
    }
}
