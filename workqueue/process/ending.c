/* ending.c - makes the error of a program's end, and hints at the usual mistakes. */
#include "workqueue/process/ending.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/process/environment.h"
#include "workqueue/process/fds.h"

enum {
    CAUSE_BYTES = 400,
    SHEBANG_BYTES = 256, /* of a #! line, as much as the kernel reads */
    NAMES_BYTES = 768,
    BUFFERED_MS = 2000 /* how long a program must have run that is said to buffer */
};

/* ---- not started ----------------------------------------------------------------------------- */

/* The interpreter that the #! line of a script names, "" if there is none. */
static void read_interpreter(const char *program, char line[SHEBANG_BYTES])
{
    int fd = open(program, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, line, SHEBANG_BYTES - 1) : 0;
    wq_fd_close(&fd);
    line[n > 0 ? n : 0] = '\0';
    if (strncmp(line, "#!", 2) != 0) {
        *line = '\0';
        return;
    }
    char *begin = line + 2 + strspn(line + 2, " \t");
    memmove(line, begin, strlen(begin) + 1);
    line[strcspn(line, " \t\n")] = '\0';
}

/* Why a file that is there cannot be found. */
static void hint_no_interpreter(char hint[CAUSE_BYTES], const char *program)
{
    char line[SHEBANG_BYTES];
    read_interpreter(program, line);
    size_t n = strlen(line);
    if (n == 0)
        snprintf(hint, CAUSE_BYTES, " (the loader that it names: it is built for another system)");
    else if (line[n - 1] == '\r')
        snprintf(
            hint, CAUSE_BYTES,
            " (its #! line asks for \"%.*s\\r\": the script has the line ends of Windows; save "
            "it with those of Unix)",
            (int)n - 1, line);
    else
        snprintf(hint, CAUSE_BYTES, " (its interpreter, as its #! line names it: %s)", line);
}

void wq_ending_of_no_start(wq_outcome *outcome, const char *program, const char *call, int error)
{
    char text[128], hint[CAUSE_BYTES] = "";
    if (strcmp(call, "execve") == 0) {
        if (error == ENOEXEC)
            snprintf(hint, sizeof hint,
                     " (it is no program for this machine; a script needs a #! line)");
        else if (error == ENOENT && access(program, F_OK) == 0)
            hint_no_interpreter(hint, program);
        call = "";
    }
    outcome->returncode = WQ_RETURNCODE_OWN;
    if (asprintf(&outcome->error, "Failed to start %s: %s%s%s%s", program, call,
                 *call != '\0' ? ": " : "", strerror_r(error, text, sizeof text), hint) < 0)
        outcome->error = NULL;
}

/* ---- the error ------------------------------------------------------------------------------- */

/* "Exited with code N" and the end of stderr. */
static char *describe_exit(const wq_ending *e)
{
    char head[64];
    size_t n = (size_t)snprintf(head, sizeof head, "Exited with code %d\nstderr:\n", e->code);
    char *text = malloc(n + e->tail->len + 1);
    if (text == NULL)
        return NULL;
    memcpy(text, head, n);
    wq_tail_copy(e->tail, text + n);
    return text;
}

/* Was this the end of one that used too much? A shell ends with 128 and the signal that its last
 * command died of, and others send SIGKILL, too: hence the look at what was used. It need not be
 * the whole, since the kernel keeps the limit by counting ticks, which on a busy machine is
 * inexact. */
static int is_out_of_cpu(const wq_ending *e)
{
    uint64_t limit_ms = (uint64_t)e->config->limits.cpu_s * 1000;
    if (limit_ms == 0)
        return 0;
    return e->code == -SIGXCPU || (e->code == 128 + SIGXCPU && e->cpu_ms >= limit_ms / 2) ||
           ((e->code == -SIGKILL || e->code == 128 + SIGKILL) && e->cpu_ms >= limit_ms / 10 * 9);
}

/* NULL: it has exceeded no limit, or there is no memory to say so. */
static char *describe_limit(const wq_ending *e)
{
    const wq_child_limits *limits = &e->config->limits;
    char *text = NULL;
    int n = 0;
    if (is_out_of_cpu(e))
        n = asprintf(&text, "used more than %u s of CPU", limits->cpu_s);
    else if (limits->output_bytes > 0 && e->code == -SIGXFSZ)
        n = asprintf(&text, "wrote more than %llu bytes to a file",
                     (unsigned long long)limits->output_bytes);
    return n < 0 ? NULL : text;
}

/* It has ended well; but has it written what it should have? A program that leaves the work to a
 * process in the background and does not wait for it has not. */
static void complain_of_output(const wq_ending *e, wq_outcome *outcome)
{
    static const char hint[] =
        "; a process that it has started in the background still ran when it "
        "ended, and was killed: it must wait for it";
    if (e->complaint == NULL)
        return;
    outcome->returncode = WQ_RETURNCODE_OWN;
    if (e->left_somebody && asprintf(&outcome->error, "%s%s", e->complaint, hint) >= 0)
        free(e->complaint);
    else
        outcome->error = e->complaint;
}

/* ---- what its author may want to know -------------------------------------------------------- */

static const char *id_of(const wq_ending *e)
{
    return e->run->id != NULL ? e->run->id : "-";
}

static int is_part_of_name(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
}

/* As a word of its own. */
static int has_name(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = text; (p = strstr(p, name)) != NULL; p += n)
        if ((p == text || !is_part_of_name(p[-1])) && !is_part_of_name(p[n]))
            return 1;
    return 0;
}

/* Joins the names of which `text` speaks (NULL: all) with ", "; how many there are, at most as many
 * as fit and one. */
static size_t list_names(char out[NAMES_BYTES], char *const *names, const char *text)
{
    size_t n = 0, len = 0;
    *out = '\0';
    for (; *names != NULL; names++) {
        if (text != NULL && !has_name(text, *names))
            continue;
        int fits = len + strlen(*names) + sizeof ", , ..." < NAMES_BYTES;
        len += (size_t)snprintf(out + len, NAMES_BYTES - len, "%s%s", n++ > 0 ? ", " : "",
                                fits ? *names : "...");
        if (!fits)
            break;
    }
    return n;
}

/* As shells, Python and people say it. */
static int speaks_of_variables(const char *text)
{
    static const char *const words[] = {"environment",      "Environment", "ENV",
                                        "env var",          "KeyError",    "parameter not set",
                                        "unbound variable", "is not set"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(text, words[i]) != NULL)
            return 1;
    return 0;
}

/* Names only; a value may be a secret. */
static void log_kept_back(const wq_ending *e)
{
    char names[NAMES_BYTES];
    char *text = e->config->kept_back != NULL && *e->config->kept_back != NULL
                     ? malloc(e->tail->len + 1)
                     : NULL;
    if (text == NULL)
        return;
    wq_tail_copy(e->tail, text);
    if (list_names(names, e->config->kept_back, text) > 0 ||
        (speaks_of_variables(text) && list_names(names, e->config->kept_back, NULL) > 0))
        wq_log(&e->config->logger, WQ_LOG_WARNING,
               "job %s: programs are not given these environment variables of this process, unless "
               "its options say so: %s",
               id_of(e), names);
    free(text);
}

static void log_buffering(const wq_ending *e)
{
    if (e->lines < 2 || e->ran_ms < BUFFERED_MS || e->silent_ms < e->ran_ms / 100 * 98)
        return;
    wq_log(&e->config->logger, WQ_LOG_WARNING,
           "job %s: all %zu lines of stdout came when the program ended, after %lld ms: it buffers "
           "them; it should flush after each line, or run by stdbuf -oL",
           id_of(e), e->lines, (long long)e->ran_ms);
}

void wq_ending_describe(const wq_ending *e, wq_outcome *outcome)
{
    log_buffering(e);
    if (e->left_somebody)
        wq_log(&e->config->logger, WQ_LOG_INFO,
               "job %s: a process that the program has started still ran when the program ended, "
               "and was killed",
               id_of(e));
    outcome->returncode = e->code;
    if (e->code == 0) {
        complain_of_output(e, outcome);
        return;
    }
    log_kept_back(e);
    outcome->error = describe_limit(e);
    if (outcome->error != NULL)
        outcome->returncode = WQ_RETURNCODE_OWN;
    else
        outcome->error = describe_exit(e);
}
