/* findings.c - watches a program for what people do wrong: see the table in workqueue-program(7).
 */
#include "workqueue/command/findings.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workqueue/command/words.h"

enum {
    LONG_ENOUGH_MS = 2500, /* a run, to tell whether progress comes as it is made; an interpreter may start slowly */
    AT_ONCE_MS = 200,      /* so shortly before the end it is no progress any more */
};

static void add_finding(findings *f, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add_finding(findings *f, const char *format, ...)
{
    char *sentence;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&sentence, format, args);
    va_end(args);
    if (n < 0)
        return;
    pthread_mutex_lock(&f->lock);
    if (f->n < MAX_FINDINGS)
        f->sentences[f->n++] = sentence;
    else
        free(sentence);
    pthread_mutex_unlock(&f->lock);
}

/* ---- the current folder ---------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static name_list list_folder(void)
{
    name_list list = {calloc(MAX_NAMES, sizeof(char *)), 0};
    DIR *dir = list.names ? opendir(".") : NULL;
    struct dirent *entry;
    while (dir != NULL && list.n < MAX_NAMES && (entry = readdir(dir)) != NULL)
        if ((list.names[list.n] = strdup(entry->d_name)) != NULL)
            list.n++;
    if (dir != NULL)
        closedir(dir);
    if (list.n > 0)
        qsort(list.names, list.n, sizeof *list.names, compare_names);
    return list;
}

static void free_names(name_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list->names);
    *list = (name_list){0};
}

static void look_for_new_files(findings *f)
{
    name_list now = list_folder();
    for (size_t i = 0; i < now.n && f->beside.n < MAX_NAMES; i++)
        if (bsearch(&now.names[i], f->beside.names, f->beside.n, sizeof *now.names,
                    compare_names) == NULL)
            add_finding(f,
                        "There is a new file '%s' in the current folder: what the program makes "
                        "belongs into the file that its fourth argument names, what it needs on "
                        "the way into $TMPDIR.",
                        now.names[i]);
    free_names(&now);
}

/* ---- processes ------------------------------------------------------------------------------- */

static void read_comm(pid_t pid, char *buf, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL || fgets(buf, (int)size, file) == NULL)
        snprintf(buf, size, "?");
    buf[strcspn(buf, "\n")] = '\0';
    if (file != NULL)
        fclose(file);
}

/* Calls `f` for each child of ours, of whatever thread. */
static size_t list_children(pid_t *out, size_t most)
{
    char path[64];
    size_t n = 0;
    int pid;
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *entry;
    while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
        snprintf(path, sizeof path, "/proc/self/task/%.20s/children", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
        while (file != NULL && n < most && fscanf(file, "%d", &pid) == 1)
            out[n++] = pid;
        if (file != NULL)
            fclose(file);
    }
    if (tasks != NULL)
        closedir(tasks);
    return n;
}

void findings_know_children(findings *f)
{
    f->n_known = list_children(f->known, sizeof f->known / sizeof *f->known);
}

static int is_known(const findings *f, pid_t pid)
{
    for (size_t i = 0; i < f->n_known; i++)
        if (f->known[i] == pid)
            return 1;
    return 0;
}

/* An orphan that had to be killed, or still runs, was left behind; one that ended by itself was
 * not. */
static void reap_orphan(findings *f, pid_t pid)
{
    char name[64];
    int status;
    read_comm(pid, name, sizeof name);
    if (waitpid(pid, &status, WNOHANG) != pid || !WIFSIGNALED(status))
        return;
    if (WTERMSIG(status) != SIGKILL && WTERMSIG(status) != SIGTERM)
        return;
    if (f->n_left++ == 0)
        add_finding(f,
                    "A process that it had started still ran when it ended ('%s'), and was killed: "
                    "wait for what you start in the background.",
                    name);
}

/* The program itself leads its process group, and is the library's to reap. */
void findings_reap(findings *f)
{
    siginfo_t info;
    pid_t children[64];
    size_t n = list_children(children, sizeof children / sizeof *children);
    for (size_t i = 0; i < n; i++) {
        memset(&info, 0, sizeof info);
        if (!is_known(f, children[i]) && getpgid(children[i]) != children[i] &&
            waitid(P_PID, (id_t)children[i], &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            info.si_pid == children[i])
            reap_orphan(f, children[i]);
    }
}

/* Has it ended, so that it can be reaped? One that was killed just now takes a moment to. */
static int ends_soon(pid_t pid)
{
    const struct timespec moment = {0, 10000000};
    siginfo_t info = {0};
    for (int i = 0; i < 50; i++) {
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
            return 0;
        if (info.si_pid == pid)
            return 1;
        nanosleep(&moment, NULL);
    }
    return 0;
}

void findings_look_for_processes(findings *f)
{
    char name[64];
    pid_t children[64];
    findings_reap(f);
    size_t n = list_children(children, sizeof children / sizeof *children);
    for (size_t i = 0; i < n; i++) {
        if (is_known(f, children[i]))
            continue;
        if (ends_soon(children[i])) {
            reap_orphan(f, children[i]);
            continue;
        }
        if (kill(children[i], 0) != 0)
            continue; /* somebody else has reaped it */
        read_comm(children[i], name, sizeof name);
        if (f->n_left++ == 0)
            add_finding(f,
                        "A process that it has started still runs ('%s', pid %d): it has left the "
                        "process group, so that only a control group would end it.",
                        name, (int)children[i]);
    }
}

/* ---- progress and log ------------------------------------------------------------------------ */

void findings_begin(findings *f)
{
    memset(f, 0, sizeof *f);
    pthread_mutex_init(&f->lock, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    f->beside = list_folder();
}

void findings_free(findings *f)
{
    for (size_t i = 0; i < f->n; i++)
        free(f->sentences[i]);
    free_names(&f->beside);
}

/* Without the job's name in front, of which there is only one here. */
static const char *skip_job(const char *message)
{
    const char *colon = strncmp(message, "job ", 4) == 0 ? strstr(message, ": ") : NULL;
    return colon != NULL ? colon + 2 : message;
}

void findings_log(findings *f, int level, const char *message)
{
    if (level == WQ_LOG_WARNING && strncmp(message, "job ", 4) == 0)
        add_finding(f, "%s", skip_job(message));
}

void findings_progress(findings *f, const wq_snapshot *now)
{
    double from = 0;
    int back = 0;
    if (now->state != WQ_STATE_RUNNING)
        return;
    pthread_mutex_lock(&f->lock);
    if (now->reached > 0 || now->message != NULL) {
        if (f->n_reports++ == 0)
            f->first_at_ms = now->ran_ms;
        back = now->reached < f->reached && !f->went_back;
        from = f->reached;
        f->went_back |= back;
        f->reached = now->reached;
    }
    pthread_mutex_unlock(&f->lock);
    if (back)
        add_finding(f,
                    "The fraction went backwards, from %.4g to %.4g: a bar that does is of no use.",
                    from, now->reached);
}

static int has_sentence(findings *f, const char *word)
{
    for (size_t i = 0; i < f->n; i++)
        if (strstr(f->sentences[i], word) != NULL)
            return 1;
    return 0;
}

void findings_end(findings *f, const wq_snapshot *end)
{
    if (end->state == WQ_STATE_CANCELLED)
        return;
    look_for_new_files(f);
    if (f->n_reports > 0 && end->ran_ms >= LONG_ENOUGH_MS &&
        end->ran_ms - f->first_at_ms <= AT_ONCE_MS && !has_sentence(f, "buffer"))
        add_finding(f,
                    "Nothing was heard for %.1f s, then all progress came at once: stdout is "
                    "buffered. Flush it after each line (Python: print(..., flush=True); C: "
                    "setvbuf(stdout, NULL, _IOLBF, 0); other programs: stdbuf -oL PROGRAM).",
                    (double)f->first_at_ms / 1000);
    if (f->n_reports == 0 && end->state == WQ_STATE_SUCCEEDED && !has_sentence(f, "stdout"))
        fprintf(stderr, "Note: it says nothing about its progress; a line '0.25<TAB>message' on "
                        "stdout moves the bar.\n");
}

/* ---- in words -------------------------------------------------------------------------------- */

void findings_failure(findings *f, const wq_snapshot *end)
{
    char reason[1024];
    words_print_failure(end->returncode, end->error);
    wq_snapshot_reason(end, reason, sizeof reason);
    /* The log has said the same, with what is not ASCII escaped. */
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < f->n; i++)
        if (end->error != NULL &&
            strncmp(f->sentences[i], reason, strcspn(f->sentences[i], "\\")) == 0) {
            free(f->sentences[i]);
            memmove(&f->sentences[i], &f->sentences[i + 1], (--f->n - i) * sizeof *f->sentences);
            i--;
        }
    pthread_mutex_unlock(&f->lock);
}

int findings_tell(findings *f)
{
    for (size_t i = 0; i < f->n; i++)
        fprintf(stderr, "%s %s\n", i == 0 ? "What it does wrong:\n -" : " -", f->sentences[i]);
    return (int)f->n;
}
