/* cgroup_files.h - the files and folders that control groups are made of. */
#ifndef WQ_PROCESS_CGROUP_FILES_H
#define WQ_PROCESS_CGROUP_FILES_H

#include <dirent.h>

/* openat(), close-on-exec and not below 3. */
int wq_cgroup_file_open(int dir, const char *name, int flags);

/* Writes to a file of the folder `dir`; 0, or -1 with errno. */
int wq_cgroup_file_write(int dir, const char *name, const char *text);

/* The entries of a folder; closedir(). NULL: it cannot be read. */
DIR *wq_cgroup_list(int dir);

/* The name of the next folder among them; NULL: there is none. */
const char *wq_cgroup_next(DIR *entries);

/* Removes a control group in `parent`, with those that a program has made in it, as deep as it
 * likes: so without recursion. If one cannot be removed, those around it stay, too. */
void wq_cgroup_remove(int parent, const char *name);

#endif
