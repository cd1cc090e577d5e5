/* folders.c - removes a folder, however deep, with two descriptors and no recursion.
 *
 * A folder that is not empty is emptied into the topmost one, entry by entry, and removed. So the
 * depth, which a program can make as great as it likes, costs time only. It may even go on making
 * entries meanwhile (a process that has left its group): hence the bound. */
#include "workqueue/util/folders.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_STEPS = 50000000, FOLDER = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

typedef struct removal {
    int top;
    unsigned steps, names; /* names: given to what is moved up */
} removal;

/* A program may have shut itself, and us, out of a folder. By descriptor, so that nobody can put a
 * link in its place. */
static void unlock(int at, const char *name)
{
    char link[64];
    int fd = openat(at, name, O_PATH | FOLDER);
    if (fd < 0)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (chmod(link, 0700) != 0) {
        /* then what follows fails, and says why */
    }
    close(fd);
}

static DIR *open_part(int at, const char *name)
{
    unlock(at, name);
    int fd = openat(at, name, O_RDONLY | FOLDER);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL && fd >= 0)
        close(fd);
    return entries;
}

static int close_folder(DIR *entries, int result)
{
    int saved = errno;
    if (entries != NULL)
        closedir(entries);
    errno = saved;
    return result;
}

static int is_dot(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static int is_full(void)
{
    return errno == ENOTEMPTY || errno == EEXIST;
}

/* To the topmost folder, under a number that is free, or is that of a file: that goes as well. */
static int move_up(removal *r, int at, const char *name)
{
    char up[16];
    unlock(at, name);
    while (++r->steps < MAX_STEPS) {
        snprintf(up, sizeof up, "%u", r->names++);
        if (renameat(at, name, r->top, up) == 0)
            return 0;
        if (!is_full() && errno != EISDIR && errno != ENOTDIR)
            return -1;
    }
    return -1;
}

static int empty_upwards(removal *r, const char *name)
{
    int result = 0;
    DIR *entries = open_part(r->top, name);
    if (entries == NULL)
        return -1;
    for (struct dirent *e; result == 0 && (e = readdir(entries)) != NULL;)
        if (!is_dot(e->d_name) && unlinkat(dirfd(entries), e->d_name, 0) != 0)
            result = move_up(r, dirfd(entries), e->d_name);
    return close_folder(entries, result);
}

/* An entry of the topmost folder. 0 also if there is something left of it for the next round. */
static int remove_entry(removal *r, const char *name)
{
    if (++r->steps >= MAX_STEPS) {
        errno = EBUSY;
        return -1;
    }
    if (unlinkat(r->top, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (unlinkat(r->top, name, AT_REMOVEDIR) == 0)
        return 0;
    return is_full() ? empty_upwards(r, name) : -1;
}

static int remove_entries(removal *r, DIR *entries)
{
    rewinddir(entries);
    for (struct dirent *e; (e = readdir(entries)) != NULL;)
        if (!is_dot(e->d_name) && remove_entry(r, e->d_name) != 0)
            return -1;
    return 0;
}

int wq_remove_tree(const char *path)
{
    DIR *entries = NULL;
    removal r = {0};
    int result;
    if (unlink(path) == 0)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -1;
    while ((result = rmdir(path)) != 0 && is_full()) {
        if (entries == NULL && (entries = open_part(AT_FDCWD, path)) == NULL)
            break;
        r.top = dirfd(entries);
        if (++r.steps >= MAX_STEPS || remove_entries(&r, entries) != 0)
            break;
    }
    return close_folder(entries, result);
}
