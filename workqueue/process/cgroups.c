/* cgroups.c - the folder of a runner's control groups: found, made, swept, removed. */
#include "workqueue/process/cgroups.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workqueue/process/cgroup_files.h"
#include "workqueue/process/fds.h"

#define PREFIX "workqueue-"

enum { MEMBERSHIP_BYTES = 4096, TRIES = 8 };

/* ---- the folder of them ---------------------------------------------------------------------- */

static void remove_slots(int dir)
{
    DIR *entries = wq_cgroup_list(dir);
    const char *name;
    while ((name = wq_cgroup_next(entries)) != NULL)
        wq_cgroup_remove(dir, name);
    if (entries != NULL)
        closedir(entries);
}

/* Ends all that are in a folder of ours, and removes it. */
static int remove_folder(int dir, const char *path)
{
    int events = wq_cgroup_file_open(dir, "cgroup.events", O_RDONLY);
    if (events >= 0) {
        if (wq_cgroup_has_somebody(events))
            wq_cgroup_file_write(dir, "cgroup.kill", "1");
        wq_cgroup_wait_until_empty(events);
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
    int dir = wq_cgroup_file_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
    if (dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) == 0 && remove_folder(dir, path) != 0 &&
        errno != ENOENT)
        wq_log(logger, WQ_LOG_WARNING, "remove %s, which was left behind: %s", path,
               strerror_r(errno, text, sizeof text));
    if (dir >= 0)
        close(dir);
    free(path);
}

static void sweep_folder(const char *where, const wq_logger *logger)
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
        groups->lock = wq_cgroup_file_open(AT_FDCWD, groups->dir, O_RDONLY | O_DIRECTORY);
        if (groups->lock >= 0 && flock(groups->lock, LOCK_EX | LOCK_NB) == 0)
            return 0;
        int saved = errno;
        wq_fd_close(&groups->lock);
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
    char line[MEMBERSHIP_BYTES], *found = NULL;
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
    char line[MEMBERSHIP_BYTES], top[MEMBERSHIP_BYTES], at[MEMBERSHIP_BYTES], *found = NULL;
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
static int try_to_enter(const wq_cgroups *groups)
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
    int fd = wq_cgroup_file_open(AT_FDCWD, path, O_PATH);
    free(path);
    return fd;
}

/* NULL, or the call that failed, with errno. */
static const char *make_groups(wq_cgroups *groups, const char *where, unsigned slots, int automatic,
                               const wq_cgroup_limits *limits)
{
    if (make_folder(groups, where) != 0)
        return "make a folder";
    groups->above = open_procs(where);
    if (limits->memory_bytes > 0)
        wq_cgroup_file_write(groups->lock, "cgroup.subtree_control", "+memory");
    if (limits->processes > 0)
        wq_cgroup_file_write(groups->lock, "cgroup.subtree_control", "+pids");
    /* A folder that was given to us may be limited as a whole. What limits our own limits us. */
    int can_limit = !automatic || faccessat(groups->lock, "memory.max", F_OK, 0) == 0;
    groups->slots = calloc(slots, sizeof *groups->slots);
    if (groups->slots == NULL)
        return "allocate memory";
    for (; groups->n < slots; groups->n++) {
        wq_cgroup *group = &groups->slots[groups->n];
        *group = (wq_cgroup){.parent = groups->lock,
                             .slot = groups->n,
                             .limits = *limits,
                             .has_memory_limit = can_limit};
        if (wq_cgroup_make(group) != 0)
            return "make a control group";
    }
    return try_to_enter(groups) == 0 ? NULL : "enter a control group";
}

/* A folder that was given to us may be told to pass its controllers on; our own is not ours to
 * change. */
static void pass_controllers_on(const char *where, const wq_cgroup_limits *limits)
{
    int dir = wq_cgroup_file_open(AT_FDCWD, where, O_RDONLY | O_DIRECTORY);
    if (dir < 0)
        return;
    if (limits->memory_bytes > 0)
        wq_cgroup_file_write(dir, "cgroup.subtree_control", "+memory");
    if (limits->processes > 0)
        wq_cgroup_file_write(dir, "cgroup.subtree_control", "+pids");
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
        sweep_folder(in, logger);
        if (!automatic)
            pass_controllers_on(in, limits);
        failed = make_groups(groups, in, slots, automatic, limits);
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
        wq_cgroup_close(&groups->slots[i]);
    if (groups->dir != NULL && groups->lock >= 0)
        remove_folder(groups->lock, groups->dir);
    wq_fd_close(&groups->lock);
    wq_fd_close(&groups->above);
    free(groups->slots);
    free(groups->dir);
    *groups = (wq_cgroups){.lock = -1, .above = -1};
}

wq_cgroup *wq_cgroup_of(const wq_cgroups *groups, unsigned slot)
{
    return slot < groups->n ? &groups->slots[slot] : NULL;
}
