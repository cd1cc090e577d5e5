/* temps.c - the files that programs write until they are published. */
#include "workqueue/store/temps.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/util/folders.h"

#define TEMPS ".workqueue.tmp"
#define SUFFIX ".tmp"
#define OLD_PREFIX ".workqueue-" /* of version 1.0, which had them beside the outputs */

int wq_temps_check_folder(const wq_folder *folder, wq_error *error)
{
    struct stat now;
    if (stat(folder->path, &now) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "stat the storage folder %s: %s", folder->path,
                       strerror(errno));
    if (folder->at_open.st_ino == now.st_ino && folder->at_open.st_dev == now.st_dev)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "the storage folder %s has been replaced by another; put it back, or start "
                   "again to use the new one",
                   folder->path);
}

/* mknod costs less than open and close; a sandbox or a filesystem in user space may not have it. By
 * its path, as the program will write it: a folder that has been moved away is no place for it. */
static int create_empty(const char *path)
{
    if (mknodat(AT_FDCWD, path, S_IFREG | 0600, 0) == 0)
        return 0;
    if (errno != ENOSYS && errno != EPERM)
        return -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -1 : close(fd);
}

static int make_temps(const wq_folder *folder)
{
    return mkdirat(folder->fd, TEMPS, 0700) == 0 || errno == EEXIST ? 0 : -1;
}

int wq_temp_begin(void *self, const char *key, char **temp_path, wq_error *error)
{
    wq_folder *folder = self;
    char *path;
    int there = wq_temps_check_folder(folder, error);
    if (there != WQ_OK)
        return there;
    if (asprintf(&path, "%s/" TEMPS "/%s-%llu" SUFFIX, folder->path, key,
                 atomic_fetch_add(&folder->next, 1)) < 0)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    /* what cleans /tmp removes folders that are empty */
    if (create_empty(path) != 0 &&
        (errno != ENOENT || make_temps(folder) != 0 || create_empty(path) != 0)) {
        int r = wq_fail(error, WQ_ERROR_SYSTEM, "create a file in %s: %s", folder->path,
                        strerror(errno));
        free(path);
        return r;
    }
    *temp_path = path;
    return WQ_OK;
}

const char *wq_temp_name(const char *temp_path)
{
    const char *slash = strrchr(temp_path, '/');
    return slash - strlen(TEMPS);
}

/* ---- what lies beside them ------------------------------------------------------------------- */

static DIR *open_entries(const wq_folder *folder, const char *name)
{
    int fd = openat(folder->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL && fd >= 0)
        close(fd);
    return entries;
}

/* What follows the name of the file at `temp_path` in `name`; NULL: that is not beside it. */
static const char *end_beside(const char *name, const char *temp_path)
{
    const char *own = strrchr(temp_path, '/') + 1;
    const size_t n = strlen(own);
    return strncmp(name, own, n) == 0 && name[n] != '\0' ? name + n : NULL;
}

/* A name that a tool has made of that of the file at `temp_path`: with something added, or the last
 * part replaced, or hidden while it writes. With another number it is another job's. */
static int is_made_of(const char *name, const char *temp_path)
{
    const char *own = strrchr(temp_path, '/') + 1;
    const size_t n = strlen(own) - strlen(SUFFIX);
    const int is_hidden = *name == '.';
    name += is_hidden;
    return strncmp(name, own, n) == 0 && strchr("0123456789", name[n] ? name[n] : ' ') == NULL &&
           (is_hidden || strcmp(name + n, SUFFIX) != 0);
}

static void remove_temp(wq_folder *folder, const char *name)
{
    char path[PATH_MAX];
    /* a program may have made folders */
    if (snprintf(path, sizeof path, "%s/" TEMPS "/%s", folder->path, name) < (int)sizeof path &&
        wq_remove_tree(path) != 0 && errno != ENOENT)
        wq_log(&folder->logger, WQ_LOG_WARNING, "remove %s: %s", path, strerror(errno));
}

void wq_temps_tidy(wq_folder *folder, const wq_publish *items, size_t n)
{
    DIR *entries = open_entries(folder, TEMPS);
    if (entries == NULL)
        return;
    for (struct dirent *e; (e = readdir(entries)) != NULL;)
        for (size_t i = 0; i < n; i++)
            if (is_made_of(e->d_name, items[i].temp_path)) {
                remove_temp(folder, e->d_name);
                break;
            }
    closedir(entries);
}

int wq_temp_find_beside(const wq_folder *folder, const char *temp_path, char *end, size_t size)
{
    int found = 0;
    DIR *entries = open_entries(folder, TEMPS);
    if (entries == NULL)
        return 0;
    for (struct dirent *e; !found && (e = readdir(entries)) != NULL;) {
        const char *rest = end_beside(e->d_name, temp_path);
        found = rest != NULL && strlen(rest) < size;
        if (found)
            memcpy(end, rest, strlen(rest) + 1);
    }
    closedir(entries);
    return found;
}

void wq_temp_discard(void *self, const char *temp_path)
{
    wq_folder *folder = self;
    const wq_publish item = {.temp_path = temp_path};
    /* a program may have put a folder where its output should be */
    if (wq_remove_tree(temp_path) != 0 && errno != ENOENT)
        wq_log(&folder->logger, WQ_LOG_WARNING, "remove %s: %s", temp_path, strerror(errno));
    wq_temps_tidy(folder, &item, 1);
}

/* ---- after a crash --------------------------------------------------------------------------- */

/* A temporary file, or what a program has put beside it under a longer name. */
static int is_old_leftover(const char *name)
{
    return strncmp(name, OLD_PREFIX, strlen(OLD_PREFIX)) == 0 && strstr(name, SUFFIX) != NULL;
}

static int is_any(const char *name)
{
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int sweep_entries(wq_folder *folder, const char *name, int (*is_leftover)(const char *),
                         size_t *swept, wq_error *error)
{
    char path[PATH_MAX];
    DIR *entries = open_entries(folder, name);
    if (entries == NULL)
        return wq_fail(error, WQ_ERROR_SYSTEM, "read %s/%s: %s", folder->path, name,
                       strerror(errno));
    for (struct dirent *e; (e = readdir(entries)) != NULL;)
        if (is_leftover(e->d_name) &&
            snprintf(path, sizeof path, "%s/%s/%s", folder->path, name, e->d_name) <
                (int)sizeof path &&
            wq_remove_tree(path) == 0)
            ++*swept;
    closedir(entries);
    return WQ_OK;
}

int wq_temps_sweep(wq_folder *folder, wq_error *error)
{
    size_t swept = 0;
    if (make_temps(folder) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "create %s/" TEMPS ": %s", folder->path,
                       strerror(errno));
    int result = sweep_entries(folder, TEMPS, is_any, &swept, error);
    if (result == WQ_OK)
        result = sweep_entries(folder, ".", is_old_leftover, &swept, error);
    if (swept > 0)
        wq_log(&folder->logger, WQ_LOG_INFO,
               "removed %zu files of unfinished outputs of an earlier run from %s", swept,
               folder->path);
    return result;
}
