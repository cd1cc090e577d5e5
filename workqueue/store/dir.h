/* dir.h - the store that keeps outputs as files in a folder. */
#ifndef WQ_STORE_DIR_H
#define WQ_STORE_DIR_H

#include <workqueue/extend.h>

#include "workqueue/util/log.h"

typedef struct wq_dir_options {
    const char *path;
    const char *program; /* for labels; NULL: not known */
    int sync;            /* outputs and names are on the disk before publish returns, and deletions
                            before remove does */
    unsigned stop_ms;    /* for so long the folder's owner is waited for, if it stops */
} wq_dir_options;

/* Opens the store: locks the folder, and sweeps what a crash left. Borrows the options. */
int wq_dir_open(wq_store **out, const wq_dir_options *options, const wq_logger *logger,
                wq_error *error);

/* From now on outputs that were not used for `age_s` are removed, and the least recently used ones
 * while all together have more than `bytes`; 0: no such limit. Once, before others use it. */
int wq_dir_retain(wq_store *store, unsigned age_s, uint64_t bytes, wq_error *error);

#endif
