/* group.c - looks for the processes of a group. */
#include "workqueue/process/group.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

/* The state and the group of a process; -1 if there is none. */
static int read_stat(const char *pid, char *state, long *group)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *f = fopen(path, "re");
    char *end = f != NULL && fgets(line, sizeof line, f) != NULL ? strrchr(line, ')') : NULL;
    if (f != NULL)
        fclose(f);
    return end != NULL && sscanf(end + 1, " %c %*d %ld", state, group) == 2 ? 0 : -1;
}

int wq_group_runs(pid_t group)
{
    DIR *entries = opendir("/proc");
    struct dirent *e;
    int found = 0;
    while (!found && entries != NULL && (e = readdir(entries)) != NULL) {
        char state;
        long of;
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && read_stat(e->d_name, &state, &of) == 0)
            found = of == (long)group && state != 'Z' && state != 'X';
    }
    if (entries != NULL)
        closedir(entries);
    return found;
}
