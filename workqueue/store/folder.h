/* folder.h - an open storage folder, as the files of this room share it.
 *
 *   KEY                      an output
 *   .workqueue.tmp/          what programs write now: temps.h
 *   .workqueue.labels/KEY    labels, where the filesystem has no extended attributes: label.h
 *   .workqueue.lock, .workqueue.process   whose folder it is: lock.h
 */
#ifndef WQ_STORE_FOLDER_H
#define WQ_STORE_FOLDER_H

#include <stdatomic.h>
#include <sys/stat.h>
#include <workqueue/extend.h>

#include "workqueue/store/label.h"
#include "workqueue/store/lock.h"
#include "workqueue/store/retain.h"
#include "workqueue/util/log.h"

typedef struct wq_folder {
    wq_store store;
    char *path; /* absolute */
    int fd;
    int sync;            /* outputs and names are to be on the disk before they are told */
    int syncs_names;     /* and the folder itself can be synced */
    int sync_together;   /* syncfs() is good for a batch */
    struct stat at_open; /* of the folder, which cannot end while we have it open */
    atomic_ullong next;
    wq_logger logger;
    wq_folder_lock lock;
    wq_labels labels;
    wq_retain *retain; /* NULL: all is kept */
} wq_folder;

#endif
