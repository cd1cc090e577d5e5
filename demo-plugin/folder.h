/* folder.h - the text files below a folder. */
#ifndef FOLDER_H
#define FOLDER_H

#include <stddef.h>

struct folder {
    char **names; /* of the files, from the folder on, in order */
    size_t n, capacity, n_skipped;
};

/* Lists them into a zeroed `folder`: regular files, no links, neither binary nor compressed nor
 * above 16 MiB. 0, or -1 and errno; either way folder_dispose(). */
int folder_list(struct folder *folder, const char *path);

void folder_dispose(struct folder *folder);

#endif
