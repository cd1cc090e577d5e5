/* load_job.c - a program for tests under load: it does what its document set's name says, keeps a
 * log of its runs, and sees whether another one runs for the same name.
 *
 *   NAME.ACTION.STEPS.MS    in STEPS steps of MS milliseconds each
 *
 * "bulk" is as "ok" without what follows, for millions of names. Else it is copied into a folder,
 * where it appends "start NAME PID", "end NAME PID" and "twice NAME PID" to the file `runs`, and
 * locks the file `locks/NAME` while it or a process it has started lives. Its output is of a form
 * that can be told from a part of it.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

struct plan {
    char name[65], action[17];
    int steps, ms;
};

static char folder[4000];

/* Of a size by which none crosses a page: there, a kill could cut the write. */
static void note(const char *what, const char *name)
{
    char path[4096], line[64];
    snprintf(path, sizeof path, "%s/runs", folder);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int n = snprintf(line, sizeof line, "%s %s %d", what, name, (int)getpid());
    if (fd < 0 || n >= (int)sizeof line)
        _exit(97);
    memset(line + n, ' ', sizeof line - (size_t)n);
    line[sizeof line - 1] = '\n';
    if (write(fd, line, sizeof line) != sizeof line)
        _exit(97);
    close(fd);
}

/* Held until the last process that has it is gone. */
static void lock(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/locks/%s", folder, name);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        _exit(98);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        note("twice", name);
}

static void rest(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

static void work(const struct plan *plan)
{
    for (int i = 1; i <= plan->steps; i++) {
        printf("%d/%d\t%s\n", i, plan->steps + 1, plan->action);
        fflush(stdout);
        rest(plan->ms);
    }
}

/* N lines that all say N and whose they are, in pieces, so that there is a middle to be killed in.
 */
static int write_output(const struct plan *plan, const char *path)
{
    int is_bulk = strcmp(plan->action, "bulk") == 0;
    int lines = is_bulk ? 1 : 1 + (int)strlen(plan->name) * 37 + plan->steps * 211;
    FILE *out = fopen(path, "w");
    if (out == NULL)
        return 1;
    for (int i = 0; i < lines; i++) {
        fprintf(out, "%d %s %d\n", lines, plan->name, (int)getpid());
        if (i == lines / 2) {
            fflush(out);
            rest(plan->ms);
        }
    }
    return fclose(out) == 0 ? 0 : 1;
}

static void hang(void)
{
    for (;;)
        pause();
}

static int act(const struct plan *plan, const char *path)
{
    if (strcmp(plan->action, "deaf") == 0)
        signal(SIGTERM, SIG_IGN);
    if (strcmp(plan->action, "family") == 0 && fork() == 0)
        hang();
    work(plan);
    if (strcmp(plan->action, "hang") == 0 || strcmp(plan->action, "deaf") == 0)
        hang();
    if (strcmp(plan->action, "killer") == 0)
        kill(getppid(), SIGKILL);
    if (strcmp(plan->action, "die") == 0)
        raise(SIGKILL);
    if (strcmp(plan->action, "empty") == 0)
        return 0;
    if (strcmp(plan->action, "fail") == 0) {
        fprintf(stderr, "as it was told\n");
        return 3;
    }
    return write_output(plan, path);
}

int main(int argc, char **argv)
{
    struct plan plan;
    if (argc != 5 || sscanf(argv[2], "%64[^.].%16[^.].%d.%d", plan.name, plan.action, &plan.steps,
                            &plan.ms) != 4)
        return 96;
    snprintf(folder, sizeof folder, "%s", argv[0]);
    char *slash = strrchr(folder, '/');
    if (slash == NULL)
        return 95;
    *slash = '\0';
    if (strcmp(plan.action, "bulk") == 0)
        return act(&plan, argv[4]);
    lock(plan.name);
    note("start", plan.name);
    int code = act(&plan, argv[4]);
    note("end", plan.name);
    return code;
}
