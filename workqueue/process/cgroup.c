/* cgroup.c - one control group (version 2): made, emptied, renewed.
 *
 * It is made once and used by one job after the other, as a slot runs one at a time and leaves its
 * own empty. So a job costs a look (nobody is left) beside its birth there.
 */
#include "workqueue/process/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "workqueue/process/cgroup_files.h"
#include "workqueue/process/fds.h"
#include "workqueue/util/clocks.h"

enum {
    END_MS = 1000,
    EVENTS_SIZE = 128,
    LEFT_BYTES = 1 << 20, /* charged to an empty group; what the kernel itself keeps is less */
};

static void read_events(int events, char text[EVENTS_SIZE])
{
    ssize_t n = pread(events, text, EVENTS_SIZE - 1, 0);
    text[n > 0 ? n : 0] = '\0';
}

int wq_cgroup_has_somebody(int events)
{
    char text[EVENTS_SIZE];
    read_events(events, text);
    return strstr(text, "populated 1") != NULL;
}

/* A change of the file is told as POLLPRI. */
int wq_cgroup_wait_until_empty(int events)
{
    int64_t now = wq_monotonic_ms(), end = now + END_MS;
    for (; wq_cgroup_has_somebody(events); now = wq_monotonic_ms()) {
        struct pollfd p = {.fd = events, .events = POLLPRI};
        if (now >= end)
            return -1;
        poll(&p, 1, (int)(end - now));
    }
    return 0;
}

void wq_cgroup_kill(const wq_cgroup *group)
{
    if (group != NULL && write(group->kill, "1", 1) < 0)
        return; /* it is gone, and with it all that were in it */
}

void wq_cgroup_close(wq_cgroup *group)
{
    wq_fd_close(&group->dir);
    wq_fd_close(&group->procs);
    wq_fd_close(&group->events);
    wq_fd_close(&group->kill);
    wq_fd_close(&group->memory);
}

/* What the folder has no controllers for, the limits of each process must do. */
static void limit_group(int dir, const wq_cgroup_limits *limits)
{
    char text[32];
    if (limits->memory_bytes > 0) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)limits->memory_bytes);
        wq_cgroup_file_write(dir, "memory.max", text);
    }
    if (limits->processes > 0) {
        snprintf(text, sizeof text, "%u", limits->processes);
        wq_cgroup_file_write(dir, "pids.max", text);
    }
}
static void group_name(const wq_cgroup *group, char *name, size_t size)
{
    snprintf(name, size, "%u-%u", group->slot, group->made);
}

int wq_cgroup_make(wq_cgroup *group)
{
    char name[32];
    group_name(group, name, sizeof name);
    group->dir = group->procs = group->events = group->kill = group->memory = -1;
    if (mkdirat(group->parent, name, 0700) != 0)
        return -1;
    if ((group->dir = wq_cgroup_file_open(group->parent, name, O_RDONLY | O_DIRECTORY)) >= 0)
        limit_group(group->dir, &group->limits);
    if (group->dir < 0 ||
        (group->procs = wq_cgroup_file_open(group->dir, "cgroup.procs", O_WRONLY)) < 0 ||
        (group->events = wq_cgroup_file_open(group->dir, "cgroup.events", O_RDONLY)) < 0 ||
        (group->kill = wq_cgroup_file_open(group->dir, "cgroup.kill", O_WRONLY)) <
            0) { /* Linux 5.14 */
        int saved = errno;
        wq_cgroup_close(group);
        unlinkat(group->parent, name, AT_REMOVEDIR);
        errno = saved;
        return -1;
    }
    group->memory = wq_cgroup_file_open(group->dir, "memory.current", O_RDONLY);
    return 0;
}

void wq_cgroup_bar_births(wq_cgroup *group)
{
    wq_fd_close(&group->dir);
}

/* Some kernels (6.14, and those its fix of a race was put into, as Debian's 6.1) kill whoever is
 * born into a group that was killed more often, or less, than the parent's, though not who enters
 * it. So there is a new one. */
static void renew_group(wq_cgroup *group)
{
    wq_cgroup other = *group;
    char name[32];
    other.made++;
    if (wq_cgroup_make(&other) != 0) {
        wq_cgroup_bar_births(group);
        return;
    }
    group_name(group, name, sizeof name);
    wq_cgroup_close(group);
    wq_cgroup_remove(group->parent, name);
    *group = other;
}

/* A program of our user, or root's, may freeze it, whereupon the next one would not even be born,
 * or make groups in it, whereupon it may be no place for processes any more. */
static int is_as_it_was(const wq_cgroup *group)
{
    struct stat st;
    char text[EVENTS_SIZE];
    read_events(group->events, text);
    return strstr(text, "populated 0") != NULL && strstr(text, "frozen 0") != NULL &&
           (group->dir < 0 || fstat(group->dir, &st) != 0 || st.st_nlink <= 2);
}

/* Nobody is left in it. One that only can be entered stays so. */
static void replace_group(wq_cgroup *group)
{
    const int barred = group->dir < 0;
    renew_group(group);
    if (barred)
        wq_cgroup_bar_births(group);
}

static uint64_t charged_memory(const wq_cgroup *group)
{
    char text[32];
    ssize_t n = pread(group->memory, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return strtoull(text, NULL, 10);
}

/* What of a process is in RAM; 0: it is gone. */
static uint64_t resident_memory(long pid)
{
    char path[64];
    unsigned long long pages = 0;
    snprintf(path, sizeof path, "/proc/%ld/statm", pid);
    FILE *f = fopen(path, "re");
    if (f != NULL && fscanf(f, "%*u %llu", &pages) != 1)
        pages = 0;
    if (f != NULL)
        (void)fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t wq_cgroup_memory(const wq_cgroup *group)
{
    uint64_t sum = 0;
    long pid;
    if (group == NULL)
        return 0;
    if (group->memory >= 0)
        return charged_memory(group);
    int fd = group->dir < 0 ? -1 : wq_cgroup_file_open(group->dir, "cgroup.procs", O_RDONLY);
    FILE *procs = fd < 0 ? NULL : fdopen(fd, "r");
    if (procs == NULL && fd >= 0)
        close(fd);
    while (procs != NULL && fscanf(procs, "%ld", &pid) == 1)
        sum += resident_memory(pid);
    if (procs != NULL)
        (void)fclose(procs);
    return sum;
}

void wq_cgroup_refresh(wq_cgroup *group)
{
    if (group == NULL || group->memory < 0 || group->limits.memory_bytes == 0)
        return;
    uint64_t eighth = group->limits.memory_bytes / 8;
    if (charged_memory(group) > (eighth < LEFT_BYTES ? eighth : LEFT_BYTES))
        replace_group(group);
}

int wq_cgroup_end(wq_cgroup *group)
{
    if (group == NULL || is_as_it_was(group))
        return 0;
    if (wq_cgroup_has_somebody(group->events)) {
        wq_cgroup_kill(group);
        if (wq_cgroup_wait_until_empty(group->events) != 0) {
            wq_cgroup_bar_births(group);
            return -1;
        }
        if (group->dir >= 0)
            renew_group(group);
    }
    if (!is_as_it_was(group))
        replace_group(group);
    return 0;
}
