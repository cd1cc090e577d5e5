/* folder.h - outputs in a folder that several machines share, and leases without a store of
 * objects. */
#ifndef WQ_REMOTE_FOLDER_H
#define WQ_REMOTE_FOLDER_H

#include <workqueue/extend.h>

/* A store of outputs that are files in `path` with their key as name. Texts are below it in folders
 * of theirs; one lock of the folder (flock, which NFS has too) is held while one is looked at and
 * replaced. Any number of processes may use it at the same time. */
int wq_folder_open(wq_store **out, const char *path, wq_error *error);

#endif
