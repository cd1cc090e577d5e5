/* guard_path.c - finds the guard's program, installed or in a build tree.
 *
 * It belongs to the library, so what is beside that comes first: somebody may have installed the
 * whole elsewhere than it was configured for, and another version may be where that would be. */
#include "workqueue/process/guard_path.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* From the folder of the library, or of a program of ours that holds it: installed, and built. */
static const char *const beside[] = {WQ_GUARD_NAME, WQ_GUARD_FROM_BIN, "../" WQ_GUARD_NAME,
                                     "../../" WQ_GUARD_NAME};

/* Owned by root or us, and nobody else's to change. */
static int is_safe(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && (st.st_uid == 0 || st.st_uid == geteuid()) &&
           (st.st_mode & S_IWOTH) == 0;
}

/* A folder like ../ of where a host is may be one where anybody can put files. */
static int may_be_run(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || access(path, X_OK) != 0)
        return 0;
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
    return is_safe(path) && is_safe(folder);
}

/* The folder of the file that this very code is in; 0, or -1. */
static int find_own_folder(char folder[PATH_MAX])
{
    Dl_info info;
    char own[PATH_MAX];
    ssize_t n;
    if (dladdr(beside, &info) != 0 && info.dli_fname != NULL &&
        strstr(info.dli_fname, ".so") != NULL)
        n = realpath(info.dli_fname, own) != NULL ? (ssize_t)strlen(own) : -1;
    else
        n = readlink("/proc/self/exe", own, sizeof own - 1);
    if (n < 0)
        return -1;
    own[n] = '\0';
    char *slash = strrchr(own, '/');
    if (slash == NULL)
        return -1;
    *slash = '\0';
    memcpy(folder, own, (size_t)(slash - own) + 1);
    return 0;
}

int wq_guard_find(char path[PATH_MAX], const char *given)
{
    char folder[PATH_MAX], tried[PATH_MAX + 256];
    if (given != NULL) {
        snprintf(path, PATH_MAX, "%s", given);
        return access(path, X_OK);
    }
    if (find_own_folder(folder) == 0)
        for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
            snprintf(tried, sizeof tried, "%s/%s", folder, beside[i]);
            if (may_be_run(tried) && realpath(tried, path) != NULL)
                return 0;
        }
    snprintf(path, PATH_MAX, "%s", WQ_GUARD_INSTALLED);
    return access(path, X_OK);
}
