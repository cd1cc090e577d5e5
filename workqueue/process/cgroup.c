/* cgroup.c - control groups (version 2): found, made, emptied, removed.
 *
 * They are made once and used by one job after the other, as a slot runs one at a time and leaves
 * its own empty. So a job costs a look (nobody is left) beside its birth there.
 */
#include "workqueue/process/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workqueue/process/child.h"

#define PREFIX "workqueue-"

enum {
    END_MS = 1000,
    LINE_BYTES = 4096,
    TRIES = 8,
    MAX_STEPS = 100000, /* to remove what a program has made; it may go on making */
};

/* ---- files ----------------------------------------------------------------------------------- */

static int open_at(int dir, const char *name, int flags)
{
    return wq_fd_move(openat(dir, name, flags | O_CLOEXEC), 3);
}

/* 0, or -1 with errno. */
static int write_at(int dir, const char *name, const char *text)
{
    int fd = open_at(dir, name, O_WRONLY);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    int saved = errno;
    close(fd);
    errno = saved;
    return n < 0 ? -1 : 0;
}

/* ---- one group ------------------------------------------------------------------------------- */

enum { EVENTS_SIZE = 128 };

static void read_events(int events, char text[EVENTS_SIZE])
{
    ssize_t n = pread(events, text, EVENTS_SIZE - 1, 0);
    text[n > 0 ? n : 0] = '\0';
}

/* Unreadable counts as empty: the folder is gone. */
static int has_somebody(int events)
{
    char text[EVENTS_SIZE];
    read_events(events, text);
    return strstr(text, "populated 1") != NULL;
}

/* A change of the file is told as POLLPRI. */
static int wait_until_empty(int events)
{
    int64_t now = wq_monotonic_ms(), end = now + END_MS;
    for (; has_somebody(events); now = wq_monotonic_ms()) {
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

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_group(wq_cgroup *group)
{
    close_fd(&group->dir);
    close_fd(&group->procs);
    close_fd(&group->events);
    close_fd(&group->kill);
}

/* What the folder has no controllers for, the limits of each process must do. */
static void limit_group(int dir, const wq_cgroup_limits *limits)
{
    char text[32];
    if (limits->memory_bytes > 0) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)limits->memory_bytes);
        write_at(dir, "memory.max", text);
    }
    if (limits->processes > 0) {
        snprintf(text, sizeof text, "%u", limits->processes);
        write_at(dir, "pids.max", text);
    }
}

static DIR *list_folder(int dir)
{
    int copy = open_at(dir, ".", O_RDONLY | O_DIRECTORY);
    DIR *entries = copy >= 0 ? fdopendir(copy) : NULL;
    if (entries == NULL && copy >= 0)
        close(copy);
    return entries;
}

/* The name of the next folder in it; NULL: there is none. */
static const char *next_folder(DIR *entries)
{
    struct dirent *e;
    while (entries != NULL && (e = readdir(entries)) != NULL)
        if (e->d_type == DT_DIR && strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            return e->d_name;
    return NULL;
}

/* Removes a folder in `*at`, or enters it if that cannot be done; where there is none, back to the
 * one above. -1: that was the topmost, or it failed. */
static void step(int *at, unsigned *depth)
{
    DIR *entries = list_folder(*at);
    const char *name = next_folder(entries);
    if (name == NULL || unlinkat(*at, name, AT_REMOVEDIR) != 0) {
        int next = name != NULL || *depth > 0
                       ? open_at(*at, name != NULL ? name : "..", O_RDONLY | O_DIRECTORY)
                       : -1;
        *depth += name != NULL ? 1 : -1U;
        close_fd(at);
        *at = next;
    }
    if (entries != NULL)
        closedir(entries);
}

/* With the groups that a program has made in it, as deep as it likes: so without recursion. If one
 * cannot be removed, those around it stay, too. */
static void remove_group(int parent, const char *name)
{
    unsigned depth = 0;
    if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return;
    int at = open_at(parent, name, O_RDONLY | O_DIRECTORY);
    for (int i = 0; at >= 0 && i < MAX_STEPS; i++)
        step(&at, &depth);
    close_fd(&at);
    unlinkat(parent, name, AT_REMOVEDIR);
}

static void group_name(const wq_cgroup *group, char *name, size_t size)
{
    snprintf(name, size, "%u-%u", group->slot, group->made);
}

/* 0, or -1 with errno. */
static int open_group(wq_cgroup *group)
{
    char name[32];
    group_name(group, name, sizeof name);
    group->dir = group->procs = group->events = group->kill = -1;
    if (mkdirat(group->parent, name, 0700) != 0)
        return -1;
    if ((group->dir = open_at(group->parent, name, O_RDONLY | O_DIRECTORY)) >= 0)
        limit_group(group->dir, &group->limits);
    if (group->dir < 0 || (group->procs = open_at(group->dir, "cgroup.procs", O_WRONLY)) < 0 ||
        (group->events = open_at(group->dir, "cgroup.events", O_RDONLY)) < 0 ||
        (group->kill = open_at(group->dir, "cgroup.kill", O_WRONLY)) < 0) { /* Linux 5.14 */
        int saved = errno;
        close_group(group);
        unlinkat(group->parent, name, AT_REMOVEDIR);
        errno = saved;
        return -1;
    }
    return 0;
}

void wq_cgroup_bar_births(wq_cgroup *group)
{
    close_fd(&group->dir);
}

/* Some kernels (6.14, and those its fix of a race was put into, as Debian's 6.1) kill whoever is
 * born into a group that was killed more often, or less, than the parent's, though not who enters
 * it. So there is a new one. */
static void renew(wq_cgroup *group)
{
    wq_cgroup other = *group;
    char name[32];
    other.made++;
    if (open_group(&other) != 0) {
        wq_cgroup_bar_births(group);
        return;
    }
    group_name(group, name, sizeof name);
    close_group(group);
    remove_group(group->parent, name);
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
static void replace(wq_cgroup *group)
{
    const int barred = group->dir < 0;
    renew(group);
    if (barred)
        wq_cgroup_bar_births(group);
}

int wq_cgroup_end(wq_cgroup *group)
{
    if (group == NULL || is_as_it_was(group))
        return 0;
    if (has_somebody(group->events)) {
        wq_cgroup_kill(group);
        if (wait_until_empty(group->events) != 0) {
            wq_cgroup_bar_births(group);
            return -1;
        }
        if (group->dir >= 0)
            renew(group);
    }
    if (!is_as_it_was(group))
        replace(group);
    return 0;
}

/* ---- the folder of them ---------------------------------------------------------------------- */

static void remove_slots(int dir)
{
    DIR *entries = list_folder(dir);
    const char *name;
    while ((name = next_folder(entries)) != NULL)
        remove_group(dir, name);
    if (entries != NULL)
        closedir(entries);
}

/* Ends all that are in a folder of ours, and removes it. */
static int remove_folder(int dir, const char *path)
{
    int events = open_at(dir, "cgroup.events", O_RDONLY);
    if (events >= 0) {
        if (has_somebody(events))
            write_at(dir, "cgroup.kill", "1");
        wait_until_empty(events);
        close(events);
    }
    remove_slots(dir);
    return rmdir(path);
}

/* Who made it and lives has it locked. */
static void remove_left_behind(const char *where, const char *name, const wq_logger *logger)
{
    char *path, text[128];
    if (asprintf(&path, "%s/%s", where, name) < 0)
        return;
    int dir = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
    if (dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) == 0 && remove_folder(dir, path) != 0 &&
        errno != ENOENT)
        wq_log(logger, WQ_LOG_WARNING, "remove %s, which was left behind: %s", path,
               strerror_r(errno, text, sizeof text));
    if (dir >= 0)
        close(dir);
    free(path);
}

static void sweep(const char *where, const wq_logger *logger)
{
    DIR *entries = opendir(where);
    struct dirent *e;
    if (entries == NULL)
        return;
    while ((e = readdir(entries)) != NULL)
        if (strncmp(e->d_name, PREFIX, sizeof PREFIX - 1) == 0)
            remove_left_behind(where, e->d_name, logger);
    closedir(entries);
}

/* Who sweeps at this very moment may take it, as it is not locked yet, for left behind: then
 * another one is made. */
static int make_folder(wq_cgroups *groups, const char *where)
{
    for (int i = 0; i < TRIES; i++) {
        if (asprintf(&groups->dir, "%s/" PREFIX "XXXXXX", where) < 0)
            groups->dir = NULL;
        if (groups->dir == NULL || mkdtemp(groups->dir) == NULL)
            break;
        groups->lock = open_at(AT_FDCWD, groups->dir, O_RDONLY | O_DIRECTORY);
        if (groups->lock >= 0 && flock(groups->lock, LOCK_EX | LOCK_NB) == 0)
            return 0;
        int saved = errno;
        if (groups->lock >= 0)
            close(groups->lock);
        groups->lock = -1;
        rmdir(groups->dir);
        free(groups->dir);
        groups->dir = NULL;
        errno = saved;
    }
    free(groups->dir);
    groups->dir = NULL;
    return -1;
}

/* ---- our own --------------------------------------------------------------------------------- */

/* The rest of the first line of `file` that begins with `start`; NULL: none. Owned. */
static char *line_after(const char *file, const char *start)
{
    char line[LINE_BYTES], *found = NULL;
    FILE *f = fopen(file, "re");
    while (f != NULL && found == NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, start, strlen(start)) == 0) {
            line[strcspn(line, "\n")] = '\0';
            found = strdup(line + strlen(start));
        }
    if (f != NULL)
        fclose(f);
    return found;
}

/* Where the file system is mounted, and which part of it; NULL if it is not. Owned, both. */
static char *mounted_at(char **root)
{
    char line[LINE_BYTES], top[LINE_BYTES], at[LINE_BYTES], *found = NULL;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    *root = NULL;
    while (f != NULL && found == NULL && *root == NULL && fgets(line, sizeof line, f) != NULL)
        if (strstr(line, " - cgroup2 ") != NULL &&
            sscanf(line, "%*s %*s %*s %4095s %4095s", top, at) == 2) {
            *root = strdup(top);
            found = strdup(at);
        }
    if (f != NULL)
        fclose(f);
    return found;
}

/* The folder of the control group that we are in; NULL: there is none in sight. Owned. */
static char *own_folder(void)
{
    char *root, *at = mounted_at(&root), *own = line_after("/proc/self/cgroup", "0::"),
                *path = NULL;
    if (at != NULL && own != NULL && root != NULL) {
        size_t n = strcmp(root, "/") == 0 ? 0 : strlen(root);
        if (strncmp(own, root, n) != 0 || (n > 0 && own[n] != '/' && own[n] != '\0'))
            n = strlen(own); /* not below what is mounted: perhaps the top of it may be used */
        if (asprintf(&path, "%s%s", at, own + n) < 0)
            path = NULL;
    }
    free(root);
    free(at);
    free(own);
    return path;
}

/* ---- open and close -------------------------------------------------------------------------- */

/* Whether the kernel would let a child of ours in cannot be told but by trying. */
static int try_out(const wq_cgroups *groups)
{
    char *procs, *envp[] = {NULL};
    if (asprintf(&procs, "%s/0-0/cgroup.procs", groups->dir) < 0)
        return -1;
    char *argv[] = {
        (char *)"sh", (char *)"-c", (char *)"echo 0 >\"$1\"", (char *)"workqueue-cgroup",
        procs,        NULL};
    posix_spawn_file_actions_t files;
    pid_t pid;
    int status = 0, e = posix_spawn_file_actions_init(&files);
    if (e == 0) {
        e = posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
        if (e == 0)
            e = posix_spawn(&pid, "/bin/sh", &files, NULL, argv, envp);
        posix_spawn_file_actions_destroy(&files);
    }
    free(procs);
    while (e == 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    errno = e != 0 ? e : EACCES;
    return e == 0 && status == 0 ? 0 : -1;
}

/* At each birth the kernel looks whether we may write to this file, if the folder is our own: as
 * long as it is open, its inode need not be made and destroyed for that. Nothing is lost without.
 */
static int open_procs(const char *where)
{
    char *path;
    if (asprintf(&path, "%s/cgroup.procs", where) < 0)
        return -1;
    int fd = open_at(AT_FDCWD, path, O_PATH);
    free(path);
    return fd;
}

/* NULL, or the call that failed, with errno. */
static const char *make(wq_cgroups *groups, const char *where, unsigned slots,
                        const wq_cgroup_limits *limits)
{
    if (make_folder(groups, where) != 0)
        return "make a folder";
    groups->above = open_procs(where);
    if (limits->memory_bytes > 0)
        write_at(groups->lock, "cgroup.subtree_control", "+memory");
    if (limits->processes > 0)
        write_at(groups->lock, "cgroup.subtree_control", "+pids");
    groups->slots = calloc(slots, sizeof *groups->slots);
    if (groups->slots == NULL)
        return "allocate memory";
    for (; groups->n < slots; groups->n++) {
        wq_cgroup *group = &groups->slots[groups->n];
        *group = (wq_cgroup){.parent = groups->lock, .slot = groups->n, .limits = *limits};
        if (open_group(group) != 0)
            return "make a control group";
    }
    return try_out(groups) == 0 ? NULL : "enter a control group";
}

/* A folder that was given to us may be told to pass its controllers on; our own is not ours to
 * change. */
static void pass_controllers_on(const char *where, const wq_cgroup_limits *limits)
{
    int dir = open_at(AT_FDCWD, where, O_RDONLY | O_DIRECTORY);
    if (dir < 0)
        return;
    if (limits->memory_bytes > 0)
        write_at(dir, "cgroup.subtree_control", "+memory");
    if (limits->processes > 0)
        write_at(dir, "cgroup.subtree_control", "+pids");
    close(dir);
}

/* In any other folder nothing is made, nor looked for to be removed. */
static int has_groups(const char *folder)
{
    struct statfs fs;
    if (statfs(folder, &fs) != 0)
        return 0;
    errno = ENOENT;
    return fs.f_type == CGROUP2_SUPER_MAGIC;
}

int wq_cgroups_open(wq_cgroups *groups, const char *where, unsigned slots,
                    const wq_cgroup_limits *limits, const wq_logger *logger, wq_error *error)
{
    const int automatic = strcmp(where, "auto") == 0;
    char text[128], *in;
    const char *failed = "find them, version 2";
    int result = WQ_OK;
    *groups = (wq_cgroups){.lock = -1, .above = -1};
    errno = ENOENT;
    in = automatic ? own_folder() : realpath(where, NULL); /* the guard is elsewhere */
    if (in != NULL && has_groups(in)) {
        sweep(in, logger);
        if (!automatic)
            pass_controllers_on(in, limits);
        failed = make(groups, in, slots, limits);
    }
    if (failed != NULL) {
        const char *why = strerror_r(errno, text, sizeof text);
        wq_cgroups_close(groups);
        if (automatic)
            wq_log(logger, WQ_LOG_INFO,
                   "jobs run without control groups (%s: %s): what leaves the process group of a "
                   "program may outlive it",
                   failed, why);
        else
            result = wq_fail(error, WQ_ERROR_SYSTEM,
                             "Failed to use control groups in %.300s (%s: %s)", where, failed, why);
    }
    free(in);
    return result;
}

void wq_cgroups_close(wq_cgroups *groups)
{
    for (unsigned i = 0; i < groups->n; i++)
        close_group(&groups->slots[i]);
    if (groups->dir != NULL && groups->lock >= 0)
        remove_folder(groups->lock, groups->dir);
    if (groups->lock >= 0)
        close(groups->lock);
    if (groups->above >= 0)
        close(groups->above);
    free(groups->slots);
    free(groups->dir);
    *groups = (wq_cgroups){.lock = -1, .above = -1};
}

wq_cgroup *wq_cgroup_of(const wq_cgroups *groups, unsigned slot)
{
    return slot < groups->n ? &groups->slots[slot] : NULL;
}
