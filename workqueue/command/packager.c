/* packager.c - workqueue packager: the program workqueue-packager, which is beside this one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/command/command.h"

/* From malloc: `name` in the folder that this binary is in, or the one above. NULL: no memory. */
static char *beside_us(const char *above, const char *name)
{
    char *self = realpath("/proc/self/exe", NULL), *path = NULL;
    char *slash = self != NULL ? strrchr(self, '/') : NULL;
    if (slash == NULL || asprintf(&path, "%.*s/%s%s", (int)(slash - self), self, above, name) < 0)
        path = NULL;
    free(self);
    return path;
}

/* It is a program of its own, as a machine that only packages needs no server: as installed, beside
 * us; in a build folder, one up. */
int packager_main(int argc, char **argv)
{
    static const char name[] = "workqueue-packager";
    char *path = beside_us("", name);
    (void)argc;
    argv[0] = (char *)name;
    if (path == NULL || access(path, X_OK) != 0) {
        free(path);
        path = beside_us("../", name);
    }
    if (path != NULL && access(path, X_OK) == 0)
        execv(path, argv);
    execvp(name, argv);
    fprintf(stderr, "workqueue: run %s: %s; is it installed?\n", name, strerror(errno));
    free(path);
    return COMMAND_WRONG;
}
