/* folders.h - removes what a program has left, whatever its shape. */
#ifndef WQ_UTIL_FOLDERS_H
#define WQ_UTIL_FOLDERS_H

/* Removes the file or the folder with all that is in it; follows no link and leaves this filesystem
 * nowhere. 0, or -1 with errno, and then some of it may be left. */
int wq_remove_tree(const char *path);

#endif
