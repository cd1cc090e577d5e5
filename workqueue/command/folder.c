/* folder.c - made for one run, and removed after it. */
#include "workqueue/command/folder.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPEN_AT_ONCE = 16 };

char *folder_make(const char *name)
{
    const char *parent = getenv("TMPDIR");
    char *path;
    if (asprintf(&path, "%s/%s-XXXXXX", parent && *parent == '/' ? parent : "/tmp", name) < 0)
        return NULL;
    if (mkdtemp(path) != NULL)
        return path;
    free(path);
    return NULL;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st;
    (void)kind;
    (void)where;
    remove(path);
    return 0;
}

void folder_remove(const char *path)
{
    nftw(path, remove_entry, OPEN_AT_ONCE, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
