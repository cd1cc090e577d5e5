/* cgroup_files.c - opens, writes, lists and removes what control groups are made of. */
#include "workqueue/process/cgroup_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/process/fds.h"

enum { MAX_GROUP_STEPS = 100000 }; /* to remove what a program has made; it may go on making */

int wq_cgroup_file_open(int dir, const char *name, int flags)
{
    return wq_fd_move(openat(dir, name, flags | O_CLOEXEC), 3);
}

/* 0, or -1 with errno. */
int wq_cgroup_file_write(int dir, const char *name, const char *text)
{
    int fd = wq_cgroup_file_open(dir, name, O_WRONLY);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    int saved = errno;
    close(fd);
    errno = saved;
    return n < 0 ? -1 : 0;
}
DIR *wq_cgroup_list(int dir)
{
    int copy = wq_cgroup_file_open(dir, ".", O_RDONLY | O_DIRECTORY);
    DIR *entries = copy >= 0 ? fdopendir(copy) : NULL;
    if (entries == NULL && copy >= 0)
        close(copy);
    return entries;
}

/* The name of the next folder in it; NULL: there is none. */
const char *wq_cgroup_next(DIR *entries)
{
    struct dirent *e;
    while (entries != NULL && (e = readdir(entries)) != NULL)
        if (e->d_type == DT_DIR && strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            return e->d_name;
    return NULL;
}

/* Removes a folder in `*at`, or enters it if that cannot be done; where there is none, back to the
 * one above. -1: that was the topmost, or it failed. */
static void remove_or_enter(int *at, unsigned *depth)
{
    DIR *entries = wq_cgroup_list(*at);
    const char *name = wq_cgroup_next(entries);
    if (name == NULL || unlinkat(*at, name, AT_REMOVEDIR) != 0) {
        int next = name != NULL || *depth > 0 ? wq_cgroup_file_open(*at, name != NULL ? name : "..",
                                                                    O_RDONLY | O_DIRECTORY)
                                              : -1;
        *depth += name != NULL ? 1 : -1U;
        wq_fd_close(at);
        *at = next;
    }
    if (entries != NULL)
        closedir(entries);
}

/* With the groups that a program has made in it, as deep as it likes: so without recursion. If one
 * cannot be removed, those around it stay, too. */
void wq_cgroup_remove(int parent, const char *name)
{
    unsigned depth = 0;
    if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return;
    int at = wq_cgroup_file_open(parent, name, O_RDONLY | O_DIRECTORY);
    for (int i = 0; at >= 0 && i < MAX_GROUP_STEPS; i++)
        remove_or_enter(&at, &depth);
    wq_fd_close(&at);
    unlinkat(parent, name, AT_REMOVEDIR);
}
