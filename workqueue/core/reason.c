/* reason.c - says in a sentence for people why a job ended badly. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <workqueue/workqueue.h>

enum { LINE_BYTES = 200, HOW_BYTES = 192, HEAD_LINE_BYTES = 40 };

/* ---- the line that says why ------------------------------------------------------------------ */

/* The length of a terminal's control sequence, as for colours; 0: there is none. */
static size_t control_length(const char *s, size_t n)
{
    size_t i = 2;
    if (n < 2 || s[0] != '\x1b')
        return 0;
    if (s[1] != '[')
        return 2;
    while (i < n && (unsigned char)s[i] >= 0x20 && (unsigned char)s[i] < 0x40)
        i++;
    return i < n ? i + 1 : n;
}

/* A line as a terminal would show it, without colours; how long it is. What is in front of a "\r"
 * is overwritten by what follows, if anything does. */
static size_t clean_line(char out[LINE_BYTES], const char *s, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n && len + 3 < LINE_BYTES;) {
        size_t control = control_length(s + i, n - i);
        if (control > 0) {
            i += control;
        } else if (s[i] == '\r' && i > 0 && s[i - 1] != ' ' && i + 1 < n && s[i + 1] == '\'') {
            memcpy(out + len, "\\r", 2); /* env names the "\r" of a #! line */
            len += 2;
            i++;
        } else if (s[i] == '\r') {
            len = i + 1 < n ? 0 : len;
            i++;
        } else {
            out[len++] = s[i++];
        }
    }
    while (len > 0 && (out[len - 1] == ' ' || out[len - 1] == '\t'))
        len--;
    out[len] = '\0';
    return len;
}

/* "20%|##   | 2/10 ...", or what curl draws. */
static int is_bar(const char *line)
{
    const char *percent = strchr(line, '%');
    return percent != NULL && percent > line && percent[-1] >= '0' && percent[-1] <= '9' &&
           (percent[1] == '|' || line[strspn(line, " #=>[]-.0123456789%")] == '\0');
}

/* The last line of stderr that says something; 0: none does. */
static size_t find_last_line(char out[LINE_BYTES], const char *text)
{
    size_t end = strlen(text);
    while (end > 0) {
        size_t begin = end;
        while (begin > 0 && text[begin - 1] != '\n')
            begin--;
        size_t n = clean_line(out, text + begin, end - begin);
        if (n > 0 && !is_bar(out))
            return n;
        end = begin > 0 ? begin - 1 : 0;
    }
    *out = '\0';
    return 0;
}

/* ---- how it ended ---------------------------------------------------------------------------- */

/* "signal 11 (SIGSEGV, Segmentation fault" */
static void name_signal(char out[HOW_BYTES], int number)
{
    const char *name = sigabbrev_np(number), *text = sigdescr_np(number);
    if (name == NULL)
        snprintf(out, HOW_BYTES, "signal %d (unknown", number);
    else
        snprintf(out, HOW_BYTES, "signal %d (SIG%s, %s", number, name, text);
}

static void describe_code(char out[HOW_BYTES], int code, int at_front)
{
    char signal[HOW_BYTES];
    if (code > 128 && code <= 128 + 64 && sigabbrev_np(code - 128) != NULL) {
        name_signal(signal, code - 128);
        snprintf(out, HOW_BYTES,
                 "%s program ended with exit code %d, as one that %.120s) has killed",
                 at_front ? "The" : "the", code, signal);
        return;
    }
    snprintf(out, HOW_BYTES, "%s program ended with exit code %d", at_front ? "The" : "the", code);
}

static int print_killed(char *buf, size_t size, int number, const char *line)
{
    char signal[HOW_BYTES];
    name_signal(signal, number);
    return snprintf(buf, size, "The program was killed by %s%s)%s%s", signal,
                    number == SIGKILL ? "; perhaps for its memory" : "",
                    *line != '\0' ? "; it last wrote: " : "", line);
}

static int print_exit(char *buf, size_t size, int code, const char *line)
{
    char how[HOW_BYTES];
    int is_windows = code == 127 && strstr(line, "\\r'") != NULL;
    describe_code(how, code, *line == '\0');
    if (*line == '\0')
        return snprintf(buf, size, "%s", how);
    return snprintf(
        buf, size, "%s (%s%s)", line, how,
        is_windows ? "; the script has the line ends of Windows, save it with those of Unix" : "");
}

size_t wq_snapshot_reason(const wq_snapshot *snapshot, char *buf, size_t size)
{
    char head[HEAD_LINE_BYTES], line[LINE_BYTES];
    const char *error = snapshot->error;
    if (error == NULL)
        return (size_t)snprintf(buf, size, "%s", "");
    size_t n =
        (size_t)snprintf(head, sizeof head, "Exited with code %d\nstderr:\n", snapshot->returncode);
    int is_usual = strncmp(error, head, n) == 0;
    if (is_usual)
        error += n;
    if (!is_usual || snapshot->returncode == WQ_RETURNCODE_OWN)
        return (size_t)snprintf(buf, size, "%s", error);
    find_last_line(line, error);
    if (snapshot->returncode < 0)
        return (size_t)print_killed(buf, size, -snapshot->returncode, line);
    return (size_t)print_exit(buf, size, snapshot->returncode, line);
}
