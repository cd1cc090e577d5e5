/* guard_path.h - where the guard's program is. */
#ifndef WQ_PROCESS_GUARD_PATH_H
#define WQ_PROCESS_GUARD_PATH_H

#include <limits.h>

/* Writes its path to `path`: `given`, or, if that is NULL, where it is beside the library, or
 * beside the program that the library is a part of, or where it was to be installed. 0, or -1 with
 * errno if there is none that may be run, and then the path is where one was looked for. */
int wq_guard_find(char path[PATH_MAX], const char *given);

#endif
